"""What must hold before anything is begun, and who stands in the way of it."""

from __future__ import annotations

import secrets
import time
from collections.abc import Callable

import psycopg
from psycopg import sql as compose

from pgvigil.build import apply
from pgvigil.errors import PreconditionError

MINIMUM_SERVER = 14

# Younger transactions are waited for by lock timeout and retry; of older ones it is to be feared that they stay.
LONG_WITH_LOCKS = "10 seconds"
LONG_WITHOUT = "1 minute"  # holds no lock of ours, but CREATE INDEX CONCURRENTLY waits for its snapshot

_GRACE = 3.0  # seconds in which the sessions of a run that was killed a moment ago are gone


def require_usable_server(conn: psycopg.Connection) -> None:
    """A primary of a version we know, reached directly. Raises PreconditionError."""
    major = conn.info.server_version // 10000
    if major < MINIMUM_SERVER:
        raise PreconditionError(
            f"the server is PostgreSQL {major}; pgvigil needs {MINIMUM_SERVER} or newer", "Upgrade the server first."
        )
    if one(conn, "SELECT pg_is_in_recovery()"):
        raise PreconditionError("this server is a standby: it can only be read", "Connect to the primary.")
    role = one(conn, "SELECT current_setting('session_replication_role')")
    if role != "origin":
        raise PreconditionError(
            f"session_replication_role is {role}: no trigger would fire, and no foreign key would be checked",
            "Reset it for this role and database (ALTER ROLE … RESET session_replication_role), then run this again.",
        )
    # A transaction pooler hands each transaction to any backend: advisory locks and settings would be lost between them.
    token = secrets.token_hex(8)
    conn.execute("SELECT set_config('pgvigil.probe', %s, false)", (token,))
    first, second = (
        conn.execute("SELECT pg_backend_pid(), current_setting('pgvigil.probe', true)").fetchone() for _ in range(2)
    )
    if first != second or first is None or first[1] != token:
        raise PreconditionError(
            "a connection pooler stands between pgvigil and the server: session settings do not survive a transaction",
            "Connect to the server itself, or to a pool in session mode.",
        )


def require_rights(conn: psycopg.Connection, schema: str) -> None:
    """To own the application's tables and to create what is missing. Raises PreconditionError with the list."""
    rows = conn.execute(
        """SELECT format('to own table %%I, which belongs to %%I', c.relname, pg_get_userbyid(c.relowner)) AS lacking
           FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY (%(tables)s)
             AND NOT pg_has_role(c.relowner, 'USAGE')
           UNION ALL SELECT format('CREATE on schema %%s', %(schema)s) WHERE NOT has_schema_privilege(%(schema)s::regnamespace, 'CREATE')
           UNION ALL SELECT format('CREATE on database %%I', current_database())
           WHERE (to_regnamespace('pgvigil') IS NULL OR to_regnamespace('instrumentation') IS NULL)
             AND NOT has_database_privilege(current_database(), 'CREATE')""",
        {"schema": compose.Identifier(schema).as_string(conn), "tables": list(apply.APPLICATION_TABLES)},
    ).fetchall()
    if rows:
        raise PreconditionError(
            f'role "{conn.info.user}" may not migrate this database; it needs ' + "; ".join(row[0] for row in rows),
            "Run it as the tables' owner or as a superuser, or grant what is missing. Nothing was changed.",
        )


def warnings(conn: psycopg.Connection, schema: str) -> list[str]:
    """What does not stop a run, but the DBA should know."""
    if one(conn, "SELECT has_schema_privilege('public', oid, 'CREATE') FROM pg_namespace WHERE nspname = %s", schema):
        return [
            f'every role may create objects in schema "{schema}", where functions run with their owner\'s rights look names up; '
            f'REVOKE CREATE ON SCHEMA "{schema}" FROM PUBLIC closes that'
        ]
    return []


def require_nobody_in_the_way(conn: psycopg.Connection, schema: str, wait: float, told: Callable[[str], None]) -> None:
    """Waits `wait` seconds for blockers() to end. Raises PreconditionError with the list of those that did not."""
    began = time.monotonic()
    told_of: list[str] = []
    while there := blockers(conn, schema):
        names = [name for name, _ in there]
        dumps = all(text.startswith("a running pg_dump") for _, text in there)
        if time.monotonic() - began >= max(wait, _GRACE if dumps else 0):
            raise PreconditionError(
                "these stand in the way of a migration that blocks nobody:\n  "
                + "\n  ".join(text for _, text in there),
                "End them or let them end, and run this again, or wait for them with --wait-for-blockers SECONDS. "
                "Nothing was changed.",
            )
        if names != told_of:
            told("waiting for " + "; ".join(text for _, text in there))
            told_of = names
        time.sleep(0.5)


def blockers(conn: psycopg.Connection, schema: str) -> list[tuple[str, str]]:
    """Who stands in the way, each as a stable name and a description for people."""
    rows = conn.execute(
        """
        WITH ours AS (SELECT oid, relname FROM pg_class WHERE relkind IN ('r', 'p')
                        AND relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = %(schema)s)),
             others AS (SELECT a.*, (SELECT string_agg(DISTINCT o.relname, ', ') FROM pg_locks l JOIN ours o ON o.oid = l.relation
                                     WHERE l.pid = a.pid AND l.granted) AS tables
                        FROM pg_stat_activity a WHERE a.datname = current_database() AND a.pid <> pg_backend_pid())
        SELECT 'pid ' || pid, format('%%s, pid %%s (%%s%%s), open for %%s s%%s: %%s',
                 CASE WHEN application_name = 'pg_dump' THEN 'a running pg_dump'
                      WHEN query LIKE 'autovacuum:%%(to prevent wraparound)' THEN 'an autovacuum against wraparound, which does not give way'
                      ELSE 'a long transaction' END,
                 pid, usename, coalesce(', ' || nullif(application_name, ''), ''),
                 round(extract(epoch FROM clock_timestamp() - xact_start)), coalesce(', holding ' || tables, ''),
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
