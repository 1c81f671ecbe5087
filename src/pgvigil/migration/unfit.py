"""Refuse tables of the application that cannot be watched as they are, before anything is begun."""

from __future__ import annotations

import psycopg
from psycopg import sql as compose

from pgvigil import project
from pgvigil.errors import PreconditionError
from pgvigil.migration.preflight import APPLICATION_TABLES
from pgvigil.validate import check_application_definitions, load_spec

# Each is a question about a table of the application, and why a table like that cannot be watched. `%s` is its name.
_UNFIT = """
    WITH others AS (SELECT c.*, n.nspname, format('%%I.%%I', n.nspname, c.relname) AS name
                    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace),
         t AS (SELECT * FROM others WHERE nspname = %(schema)s AND relname = ANY (%(tables)s))
    SELECT format('table %%s is partitioned: pgvigil needs a plain table for its triggers and foreign keys', name) FROM t WHERE relkind = 'p'
    UNION ALL
    SELECT format('table %%s is UNLOGGED: its rows are gone after a crash, and what is kept about them would not be; ALTER TABLE %%s SET LOGGED', name, name)
    FROM t WHERE relpersistence = 'u'
    UNION ALL
    SELECT format('table %%s inherits from %%s: rows of one table would be counted in another', t.name, o.name)
    FROM t JOIN pg_inherits i ON i.inhrelid = t.oid JOIN others o ON o.oid = i.inhparent
    UNION ALL
    SELECT format('table %%s has the child table %%s: its rows would show in %%s, and no trigger would see them', t.name, o.name, t.name)
    FROM t JOIN pg_inherits i ON i.inhparent = t.oid JOIN others o ON o.oid = i.inhrelid WHERE t.relkind = 'r'
    UNION ALL
    SELECT format('table %%s has the rule %%I, which changes what a statement does before any trigger sees it; DROP RULE %%I ON %%s, or make a trigger of it',
                  name, r.rulename, r.rulename, name)
    FROM t JOIN pg_rewrite r ON r.ev_class = t.oid WHERE t.relkind IN ('r', 'p')
    UNION ALL
    SELECT format('table %%s is of the type %%s: columns can only be added to the type', name, t.reloftype::regtype) FROM t WHERE t.reloftype <> 0
    UNION ALL
    SELECT format('table %%s has no primary key on (id) alone that a foreign key can refer to; ALTER TABLE %%s %%sADD PRIMARY KEY (id)', name, name,
                  (SELECT format('DROP CONSTRAINT %%I, ', k.conname) FROM pg_constraint k WHERE k.conrelid = t.oid AND k.contype = 'p'))
    FROM t WHERE relname = 'sessions' AND relkind = 'r' AND NOT EXISTS (
        SELECT FROM pg_index i JOIN pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = i.indkey[0]
        WHERE i.indrelid = t.oid AND i.indisprimary AND i.indimmediate AND i.indisvalid AND i.indnkeyatts = 1 AND a.attname = 'id')
    UNION ALL
    SELECT format('column %%I of table %%s is %%s: pgvigil writes it', a.attname, name,
                  CASE WHEN a.attgenerated <> '' THEN 'generated' ELSE 'an identity' END)
    FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped
    WHERE (a.attgenerated <> '' OR a.attidentity = 'a') AND a.attname = ANY (%(written)s)
    UNION ALL
    SELECT format('column %%I of table %%s is there already and NOT NULL: pgvigil leaves it NULL; ALTER TABLE %%s ALTER COLUMN %%I DROP NOT NULL',
                  a.attname, name, name, a.attname)
    FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attnotnull
    WHERE a.attname = ANY (%(left_null)s)
    UNION ALL
    SELECT format('column %%I of table %%s is there already and has the default %%s, which would count for every new row; ALTER TABLE %%s ALTER COLUMN %%I DROP DEFAULT',
                  a.attname, name, pg_get_expr(d.adbin, d.adrelid), name, a.attname)
    FROM t JOIN pg_attribute a ON a.attrelid = t.oid AND NOT a.attisdropped AND a.attgenerated = '' AND a.attname = ANY (%(left_null)s)
    JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE relname <> 'sessions'
    UNION ALL
    SELECT format('column %%I of %%s holds whole rows of %%s: PostgreSQL then lets no column with a default be added', a.attname, o.name, t.name)
    FROM t JOIN LATERAL (
        WITH RECURSIVE row_types (type) AS (
            SELECT t.reltype
            UNION
            SELECT m.type FROM row_types r JOIN LATERAL (
                SELECT y.oid FROM pg_type y WHERE r.type IN (y.typelem, y.typbasetype)
                UNION ALL
                SELECT c.reltype FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid AND c.relkind = 'c'
                WHERE a.atttypid = r.type) m (type) ON true)
        SELECT type FROM row_types) w ON true
    JOIN pg_attribute a ON a.atttypid = w.type AND a.attnum > 0 AND NOT a.attisdropped
    JOIN others o ON o.oid = a.attrelid AND o.relkind IN ('r', 'p', 'm')
    WHERE t.relname = 'sessions' AND NOT EXISTS (SELECT FROM pg_attribute d WHERE d.attrelid = t.oid AND d.attname = 'is_dormant')
    UNION ALL
    SELECT format('the tables of the application belong to different roles (%%s): functions that run as the owner of sessions could not reach them all; '
                  'give them one owner (ALTER TABLE … OWNER TO …)', string_agg(format('%%s to %%I', name, pg_get_userbyid(relowner)), ', ' ORDER BY name))
    FROM t HAVING count(DISTINCT relowner) > 1
    ORDER BY 1"""
# Columns of the application's tables that its rows get from us, or that our triggers set.
_WRITTEN = [
    "last_activity_at", "is_dormant", "archived_at", "retention_policy", "updated_at", "expires_at", "status", "processing_time_ms",
    "content_size_bytes", "tokens_used",
]  # fmt: skip
# Those of them that a new row may have no value of.
_LEFT_NULL = ["archived_at", "retention_policy", "processing_time_ms", "content_size_bytes", "tokens_used"]


def require_fit(conn: psycopg.Connection, schema: str) -> None:
    """Raise PreconditionError, before anything is begun, for application tables of a kind that cannot be watched."""
    values = {
        "schema": schema, "tables": list(APPLICATION_TABLES), "written": _WRITTEN, "left_null": _LEFT_NULL
    }  # fmt: skip
    lines = [row[0] for row in conn.execute(_UNFIT, values).fetchall()]
    if not lines and (refusal := _refused_update(conn, schema)):
        lines = [refusal]
    if lines:
        raise PreconditionError(
            f'schema "{schema}" cannot be migrated as it is: '
            + "\n  ".join(lines if len(lines) == 1 else ["", *lines]),
            "Change that, then run this again. Nothing was changed.",
        )
    # The migrations change nothing of what the application made, so the verdict before the commit would refuse it.
    findings = check_application_definitions(conn, load_spec(project.SPEC), schema)
    if findings:
        differences = "".join(f"\n  {f.kind} {f.object}: expected {f.expected}, found {f.found}" for f in findings)
        path = [] if schema == "public" else [f"SET search_path = {compose.Identifier(schema).as_string(conn)};"]
        fixes = "".join(f"\n  {line}" for line in [*path, *(line for f in findings for line in f.fix.splitlines())])
        raise PreconditionError(
            f'tables of the application in schema "{schema}" differ from what pgvigil was made for:{differences}',
            f"Change that, then run this again. Nothing was changed.{fixes}",
        )


def _refused_update(conn: psycopg.Connection, schema: str) -> str | None:
    """Return why the server refuses every UPDATE of sessions, as it does where a publication sends a table whose rows have no replica
    identity. It says so before it looks for rows. Missing rights and locks of others are reported by what comes next.
    """
    table = compose.Identifier(schema, "sessions").as_string(conn)
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(f"EXPLAIN UPDATE {table} SET status = status WHERE false".encode())
    except psycopg.errors.ObjectNotInPrerequisiteState as error:
        more = "; ".join(filter(None, (error.diag.message_detail, error.diag.message_hint)))
        return (
            f"the server refuses to update rows of table {table}: {error.diag.message_primary}{more and f' ({more})'}"
        )
    except psycopg.errors.InvalidColumnReference as error:  # a filter or a list of columns of a publication
        return f"the server refuses to update rows of table {table}: {error.diag.message_primary} ({error.diag.message_detail})"
    except (psycopg.errors.InsufficientPrivilege, psycopg.errors.LockNotAvailable):
        return None
    return None
