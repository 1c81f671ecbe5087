"""The preconditions of a run, and the sessions that prevent it."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection

import psycopg
from psycopg import sql as compose

from pgvigil import database, project
from pgvigil.errors import PreconditionError
from pgvigil.migration import preflight
from pgvigil.owner import OWN_ROLE, require_closed_owner
from pgvigil.validate import check_application_tables, load_spec

MINIMUM_SERVER = 14
APPLICATION_TABLES = ("sessions", "context_history", "codebase_snapshots", "handoff_requests")

# Younger transactions are waited for by lock timeout and retry; of older ones it is to be feared that they stay.
LONG_WITH_LOCKS = "10 seconds"
LONG_WITHOUT = "1 minute"  # holds no lock of ours, but CREATE INDEX CONCURRENTLY waits for its snapshot

_GRACE = 3.0  # seconds in which the sessions of a run that was killed a moment ago are gone


def require_usable_server(conn: psycopg.Connection) -> None:
    """Raise PreconditionError unless this is a primary of a known version, where triggers fire."""
    major = conn.info.server_version // 10000
    if major < MINIMUM_SERVER:
        raise PreconditionError(
            f"the server is PostgreSQL {major}; pgvigil needs {MINIMUM_SERVER} or newer", "Upgrade the server first."
        )
    require_primary(conn)
    require_triggers(conn)


def require_triggers(conn: psycopg.Connection) -> None:
    """Raise PreconditionError where no trigger would fire in this session.

    A setting of its role, database or server can cause that.
    """
    if (
        one(conn, "SELECT current_setting('session_replication_role')") == "replica"
    ):  # with local, ordinary triggers fire
        raise PreconditionError(
            "session_replication_role is replica: no trigger would fire, and no foreign key would be checked",
            "Reset it for this role and database (ALTER ROLE … RESET session_replication_role), then run this again.",
        )


def require_primary(conn: psycopg.Connection) -> None:
    """Raise PreconditionError on a standby, which takes no writes."""
    if one(conn, "SELECT pg_is_in_recovery()"):
        raise PreconditionError("this server is a standby: it can only be read", "Connect to the primary.")


def require_all_rows(conn: psycopg.Connection, schema: str) -> None:
    """Raise PreconditionError where row security may hide rows of the application's tables or of ours.

    Both this role is meant and the owner of the tables, or pgvigil_owner instead of a superuser, as whom functions of
    pgvigil run.
    """
    hidden = database.see_all_rows(conn, [schema, "pgvigil", "instrumentation"], instead=OWN_ROLE)
    if not hidden:
        return
    tables = ", ".join(dict.fromkeys(one.table for one in hidden))
    roles = {one.role: one.is_owner for one in hidden}
    ways = [statement for one in hidden for statement in one.remedies]
    if OWN_ROLE in roles and not one(conn, "SELECT %s::name IN (SELECT rolname FROM pg_roles)", OWN_ROLE):
        ways.insert(0, f"CREATE ROLE {OWN_ROLE} NOLOGIN;")
    raise PreconditionError(
        f"row security hides rows of {tables} from {' and '.join(map(repr_role, roles))}: rows that cannot be seen would be taken "
        "for rows that are not there",
        "Policies of other roles, and what tenants see, stay as they are; a RESTRICTIVE policy must not hold for this role. "
        "Nothing was changed.\n  " + "\n  ".join(ways),
    )


def repr_role(name: str) -> str:
    """A role, in words."""
    return f'role "{name}"'


def require_rights(conn: psycopg.Connection, schema: str) -> None:
    """Raise PreconditionError where rights are missing, with their list.

    The role must own the application's tables and may create what is missing.
    """
    rows = conn.execute(
        """SELECT format('to own table %%I, which belongs to %%I', c.relname, pg_get_userbyid(c.relowner)) AS lacking
           FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY (%(tables)s)
             AND NOT pg_has_role(c.relowner, 'USAGE')
           UNION ALL SELECT format('CREATE on schema %%s', %(schema)s) WHERE NOT has_schema_privilege(%(schema)s::regnamespace, 'CREATE')
           UNION ALL SELECT format('CREATE on database %%I', current_database())
           WHERE (to_regnamespace('pgvigil') IS NULL OR to_regnamespace('instrumentation') IS NULL)
             AND NOT has_database_privilege(current_database(), 'CREATE')""",
        {"schema": compose.Identifier(schema).as_string(conn), "tables": list(preflight.APPLICATION_TABLES)},
    ).fetchall()
    if rows:
        raise PreconditionError(
            f'role "{conn.info.user}" may not migrate this database; it needs ' + "; ".join(row[0] for row in rows),
            "Run it as the tables' owner or as a superuser, or grant what is missing. Nothing was changed.",
        )
    _require_own_defaults(conn, schema)
    require_closed_owner(conn, schema)


# What default privileges take from the very roles that make, or are to own, what the migrations make.
_TAKEN_FROM_OWNER = """
    SELECT quote_ident(r.rolname), w.word, string_agg(o.privilege_type, ', ' ORDER BY o.privilege_type)
    FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
    JOIN (VALUES ('r'::"char", 'r'::"char", 'TABLES'), ('S', 's', 'SEQUENCES'), ('f', 'f', 'FUNCTIONS'), ('T', 'T', 'TYPES'),
                 ('n', 'n', 'SCHEMAS')) w (kind, of_default, word) ON w.kind = d.defaclobjtype
    CROSS JOIN LATERAL (SELECT grantee, privilege_type FROM aclexplode(acldefault(w.of_default, d.defaclrole)) WHERE grantee = d.defaclrole
                        EXCEPT SELECT grantee, privilege_type FROM aclexplode(d.defaclacl)) o
    WHERE d.defaclnamespace = 0
      AND (r.rolname = current_user OR d.defaclrole = (SELECT c.relowner FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                                                       WHERE n.nspname = %s AND c.relname = 'sessions'))
    GROUP BY 1, 2 ORDER BY 1, 2"""


def _require_own_defaults(conn: psycopg.Connection, schema: str) -> None:
    """Raise PreconditionError if default privileges keep the owner of new objects from using them."""
    rows = conn.execute(_TAKEN_FROM_OWNER, (schema,)).fetchall()
    if not rows:
        return
    taken = "; ".join(
        f"ALTER DEFAULT PRIVILEGES FOR ROLE {role} REVOKE {privileges} ON {kind} FROM {role}"
        for role, kind, privileges in rows
    )
    back = [
        f"  ALTER DEFAULT PRIVILEGES FOR ROLE {role} GRANT {rights} ON {kind} TO {role};" for role, kind, rights in rows
    ]
    raise PreconditionError(
        f"new objects would lack rights of their own owner, because of {taken}",
        "\n".join(["Nothing was changed. Give the rights back, then run this again:", *back]),
    )


# Relations and types that files which are still to go in make in the application's schema, by the name of each such file.
# What an earlier attempt has left as a table or a view is moved aside by the files themselves.
_TAKEN = """
    SELECT format('%%s %%I.%%I', CASE c.relkind WHEN 'i' THEN 'index' WHEN 'I' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type'
                                               WHEN 'f' THEN 'foreign table' WHEN 'r' THEN 'table' WHEN 'p' THEN 'table' ELSE 'view' END,
                  %(schema)s::text, c.relname)
    FROM pg_class c WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
      AND (c.relname = ANY (%(relations)s) AND NOT (c.relkind IN ('r', 'v', 'm') AND c.relname = ANY (%(applied)s))
           OR (c.relname = ANY (%(slices)s) OR c.relname ~ %(slice)s) AND NOT c.relispartition)
    UNION ALL
    SELECT format('type %%I.%%I', %(schema)s::text, t.typname)
    FROM pg_type t WHERE t.typnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s) AND t.typrelid = 0
      AND t.typname = ANY (%(relations)s || %(slices)s)
    UNION ALL
    SELECT format('%%s %%I.%%I, which belongs to %%I', CASE c.relkind WHEN 'r' THEN 'table' ELSE 'view' END, %(schema)s::text, c.relname,
                  pg_get_userbyid(c.relowner))
    FROM pg_class c WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)
      AND c.relname = ANY (%(applied)s) AND c.relkind IN ('r', 'v', 'm') AND NOT pg_has_role(c.relowner, 'USAGE')
    ORDER BY 1"""

# Names of indexes that something else has. An index of the same table is compared and replaced by the files themselves, and one of a
# table that is moved aside goes with it.
_INDEX_TAKEN = """
    SELECT format('%%s %%I.%%I%%s', CASE c.relkind WHEN 'i' THEN 'index' WHEN 'I' THEN 'index' WHEN 'S' THEN 'sequence' WHEN 'c' THEN 'type'
                                                 WHEN 'v' THEN 'view' WHEN 'm' THEN 'view' ELSE 'table' END,
                  n.nspname, c.relname, ' on table ' || quote_ident(t.relname))
    FROM unnest(%(indexes)s::text[], %(of_tables)s::text[]) AS wanted (name, of_table)
    JOIN pg_class c ON c.relname = wanted.name JOIN pg_namespace n ON n.oid = c.relnamespace AND n.nspname = %(schema)s
    LEFT JOIN (pg_index i JOIN pg_class t ON t.oid = i.indrelid) ON i.indexrelid = c.oid
    WHERE (t.relname = wanted.of_table OR t.relname = ANY (%(applied)s)) IS NOT TRUE
    ORDER BY 1"""


def require_room(conn: psycopg.Connection, schema: str, applied: Collection[str]) -> None:
    """Raise PreconditionError where a foreign object has a name that files need which are not yet `applied`."""
    taken = []
    # prepare.sql makes it before the first file, and an earlier run may have ended before the file that fills it.
    if not applied and one(conn, "SELECT to_regnamespace('instrumentation') IS NOT NULL"):
        taken.append("schema instrumentation")
    spec = load_spec(project.SPEC)
    plain = {name: table for name, table in spec.tables.items() if "." not in name}
    ours = [name for name, table in plain.items() if table.ours]
    moved = [] if "monitoring_tables" in applied else ours
    later = {
        index: name
        for name, table in plain.items()
        if (name in moved or (not table.ours and "session_indexes" not in applied))
        for index in (*table.indexes, *(table.constraints if table.ours else ()))
    }
    rows = conn.execute(
        _INDEX_TAKEN,
        {"schema": schema, "indexes": list(later), "of_tables": list(later.values()), "applied": moved},
    ).fetchall()
    taken += [row[0] for row in rows]
    if moved:
        views = [name for name in spec.views if "." not in name]
        rows = conn.execute(
            _TAKEN,
            {
                "schema": schema,
                "relations": [*ours, *views],
                "applied": [*ours, *views],
                "slices": [f"{name}_default" for name in ours],
                "slice": f"^({'|'.join(ours)})_p[0-9]+$",
            },
        ).fetchall()
        taken += [row[0] for row in rows]
    if taken:
        raise PreconditionError(
            "something else has a name that pgvigil needs: " + "; ".join(taken),
            "Rename it (ALTER … RENAME TO …) or drop it, then run this again. Nothing was changed.",
        )


def warnings(conn: psycopg.Connection, schema: str) -> list[str]:
    """Return the warnings, which do not stop a run."""
    found = []
    if one(conn, "SELECT has_schema_privilege('public', oid, 'CREATE') FROM pg_namespace WHERE nspname = %s", schema):
        found.append(
            f'every role may create objects in schema "{schema}", where functions run with their owner\'s rights look names up; '
            f"REVOKE CREATE ON SCHEMA {compose.Identifier(schema).as_string(conn)} FROM PUBLIC closes that"
        )
    owner = one(
        conn,
        "SELECT quote_ident(r.rolname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner"
        " WHERE n.nspname = %s AND c.relname = 'sessions' AND r.rolsuper",
        schema,
    )
    if owner:
        found.append(
            f"the tables belong to {owner}, a superuser: a role that may change them can do everything on this server; give them to a role "
            "without SUPERUSER (ALTER TABLE … OWNER TO …)"
        )
    if not one(conn, "SELECT pg_has_role('pg_read_all_stats', 'USAGE')"):
        role = compose.Identifier(conn.info.user).as_string(conn)
        found.append(
            f"{role} cannot see the transactions of other roles: blockers and the age of their transactions cannot be checked beforehand; "
            f"GRANT pg_read_all_stats TO {role} shows it"
        )
    for name, column in conn.execute(
        "SELECT format('%%I.%%I', n.nspname, c.relname), quote_ident(a.attname) FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid"
        " JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = %s AND c.relname = 'sessions' AND a.attgenerated = 'v'",
        (schema,),
    ):
        found.append(f"column {column} of {name} is generated and virtual: pgvigil.deleted_sessions does not keep it")
    if publications := one(
        conn,
        "SELECT string_agg(DISTINCT quote_ident(p.pubname), ', ') FROM pg_publication p JOIN pg_publication_tables t USING (pubname)"
        " WHERE t.schemaname = %s AND t.tablename = ANY (%s) AND to_regclass('pgvigil.migrations') IS NULL",
        schema,
        list(APPLICATION_TABLES),
    ):
        found.append(
            f"these publications send tables that get columns: {publications}; a subscriber without these columns and tables stops at the "
            "first row: migrate it first (docs/replication.md: migrating a publisher)"
        )
    return found


def require_nobody_in_the_way(conn: psycopg.Connection, schema: str, wait: float, log: Callable[[str], None]) -> None:
    """Wait `wait` seconds for blockers() to end. Raise PreconditionError with the list of those that did not."""
    began = time.monotonic()
    logged: list[str] = []
    while there := blockers(conn, schema):
        names = [name for name, _ in there]
        dumps = all(text.startswith("a running pg_dump") for _, text in there)
        if time.monotonic() - began >= max(wait, _GRACE if dumps else 0):
            raise PreconditionError(
                "these prevent a migration that blocks nobody:\n  " + "\n  ".join(text for _, text in there),
                "End them or let them end, and run this again, or wait for them with --wait-for-blockers SECONDS. "
                "Nothing was changed.",
            )
        if names != logged:
            log("waiting for " + "; ".join(text for _, text in there))
            logged = names
        time.sleep(0.5)


def blockers(conn: psycopg.Connection, schema: str) -> list[tuple[str, str]]:
    """Return the sessions that prevent a run, each as a stable name and a description."""
    rows = conn.execute(
        """
        WITH ours AS (SELECT oid, relname FROM pg_class WHERE relkind IN ('r', 'p')
                        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)),
             others AS (SELECT a.*, (SELECT string_agg(DISTINCT o.relname, ', ') FROM pg_locks l JOIN ours o ON o.oid = l.relation
                                     WHERE l.pid = a.pid AND l.granted) AS tables
                        FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid())
        SELECT 'pid ' || pid, format('%%s, pid %%s (%%s%%s), %%s%%s: %%s',
                 CASE WHEN application_name = 'pg_dump' THEN 'a running pg_dump'
                      WHEN query LIKE 'autovacuum:%%(to prevent wraparound)' THEN 'an autovacuum against wraparound, which does not give way'
                      ELSE 'a long transaction' END,
                 pid, usename, coalesce(', ' || nullif(application_name, ''), ''),
                 coalesce(format('open for %%s s', round(extract(epoch FROM clock_timestamp() - xact_start))), 'open since nobody knows when'),
                 coalesce(', holding ' || tables, ''),
                 left(regexp_replace(query, '\\s+', ' ', 'g'), 80))
        FROM others
        WHERE (tables IS NOT NULL AND clock_timestamp() - xact_start > %(with_locks)s::interval)
           OR (backend_type = 'client backend' AND clock_timestamp() - xact_start > %(without)s::interval)
           OR (application_name = 'pg_dump' AND xact_start IS NOT NULL)
           OR (tables IS NOT NULL AND query LIKE 'autovacuum:%%(to prevent wraparound)')
        UNION ALL
        SELECT 'prepared ' || gid, format('a prepared transaction, %%L of %%s, open for %%s s', gid, owner,
                 round(extract(epoch FROM clock_timestamp() - prepared)))
        FROM pg_prepared_xacts WHERE database = current_database()
        ORDER BY 1""",
        {"schema": schema, "with_locks": LONG_WITH_LOCKS, "without": LONG_WITHOUT},
    ).fetchall()
    return [(row[0], row[1]) for row in rows]


def one(conn: psycopg.Connection, query: str, *parameters: object) -> object:
    """The first column of the first row, or None."""
    row = conn.execute(query, parameters).fetchone()
    return row[0] if row else None


def application_tables(conn: psycopg.Connection, schema: str) -> list[str]:
    """Return the application's tables that exist."""
    rows = conn.execute(
        "SELECT relname FROM pg_class WHERE relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %s) AND relname = ANY (%s)",
        (schema, list(APPLICATION_TABLES)),
    ).fetchall()
    return [row[0] for row in rows]


def require_application(conn: psycopg.Connection, schema: str) -> None:
    """Raise PreconditionError unless the application's tables have all that the migrations need."""
    findings = check_application_tables(conn, load_spec(project.SPEC), schema)
    if findings:
        differences = "".join(f"\n  {f.kind} {f.object}: expected {f.expected}, found {f.found}" for f in findings)
        raise PreconditionError(
            f'schema "{schema}" is not the session application that pgvigil watches:{differences}',
            "Nothing was changed. Is this the right database and --schema? A new, empty database is built by pgvigil setup.",
        )
