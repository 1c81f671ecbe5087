"""A plan of a migration for people: what is there, what runs, what it adds to the application's tables, what prevents it.

Only reads. Counts of values outside a column's list read the whole table, as the migration itself does.
"""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg
from psycopg import sql as compose

from pgvigil import project
from pgvigil.backup import create as backup
from pgvigil.migration import preflight
from pgvigil.migration.chain import Run
from pgvigil.migration.files import Migration
from pgvigil.owner import rows
from pgvigil.validate import load_spec

_LIST = re.compile(r"\(\d+, '(\w+)', '(\w+)', '\{([^}]*)\}'")
_GIVEN = re.compile(r"\b(?:CONSTRAINT|INDEX) (\w+)")
_KINDS = ("column", "constraint", "index", "trigger")

# Names of columns, constraints, indexes and triggers of a table, as the spec names them.
_NAMES = """
    SELECT 'column ' || attname FROM pg_attribute WHERE attrelid = %(table)s AND attnum > 0 AND NOT attisdropped
    UNION ALL SELECT 'constraint ' || conname FROM pg_constraint WHERE conrelid = %(table)s
    UNION ALL SELECT 'index ' || c.relname FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid WHERE i.indrelid = %(table)s
    UNION ALL SELECT 'trigger ' || tgname FROM pg_trigger WHERE tgrelid = %(table)s AND NOT tgisinternal"""


@dataclass(frozen=True)
class Table:
    """A table of the application: `rows` is the planner's estimate, -1 where it has none; `adds` names by kind."""

    name: str
    rows: int
    bytes: int
    adds: dict[str, tuple[str, ...]]


@dataclass(frozen=True)
class Plan:
    """A report of what migrate would do.

    `steps` are the runs in their order: files in one transaction, or one file outside a transaction.
    """

    database: str
    schema: str
    revision: str | None
    baselined: bool  # 000 is recorded, not run: the application's tables are there
    steps: tuple[tuple[str, bool], ...]
    reverts: tuple[str, ...]
    tables: tuple[Table, ...]
    open_values: tuple[tuple[str, str, str, int], ...]  # table, column, value, rows
    earlier: tuple[tuple[str, str], ...]  # kind and name of what is moved aside to pgvigil.legacy_<name>
    blockers: tuple[str, ...]
    backup: str
    backup_directory: Path
    bytes: int


def value_lists(migrations: Sequence[Migration]) -> list[tuple[str, str, tuple[str, ...]]]:
    """Return table, column and values of pgvigil.value_lists(), which does not exist before the migration."""
    text = next(m.script for m in migrations if m.name.endswith("_bookkeeping"))
    return [(table, column, tuple(values.split(","))) for table, column, values in _LIST.findall(text)]


def read(run: Run, *, kind: str, directory: Path | None) -> Plan:
    """Return the plan for this database. Raise psycopg.Error."""
    conn, schema, pending, reverts = run.conn, run.schema, run.pending, run.to_revert
    given = set(_GIVEN.findall(run.migrations[0].script)) if run.migrations else set()
    if run.chain.application_tables:  # their lists of values stay open
        given |= {f"{table}_{column}_check" for table, column, _ in value_lists(run.migrations)}
    tables = [_table(conn, schema, name, given) for name in run.chain.application_tables] if pending else []
    names = {migration.name[4:] for migration in pending} if run.chain.application_tables else set()
    steps = [
        (group[0].name if len(group) == 1 else f"{group[0].name} … {group[-1].name}", group[0].transactional)
        for group in run.chain.groups(pending)
    ]
    return Plan(
        conn.info.dbname,
        schema,
        run.state.revision,
        bool(run.chain.application_tables) and not run.state.revision,
        tuple(steps),
        tuple(migration.name for migration in reverts),
        tuple(table for table in tables if table),
        tuple(_open_values(conn, schema, run.migrations)) if "bookkeeping" in names else (),
        tuple(_earlier(conn, schema)) if "monitoring_tables" in names else (),
        tuple(text for _, text in preflight.blockers(conn, schema)) if pending else (),
        kind if pending or reverts else "none",
        directory or backup.default_directory(),
        int(str(preflight.one(conn, "SELECT pg_database_size(current_database())"))),
    )


def _table(conn: psycopg.Connection, schema: str, name: str, given: set[str]) -> Table | None:
    """Return the facts of a table.

    `given` are names of the spec that the migrations do not make here, whatever objects the application has.
    """
    found = conn.execute(
        "SELECT c.oid, c.reltuples::bigint, pg_table_size(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = %s",
        (schema, name),
    ).fetchone()
    if found is None:
        return None
    there = {label for (label,) in conn.execute(_NAMES, {"table": found[0]})}
    declared = load_spec(project.SPEC).tables[name]
    parts = [*declared.columns], [*declared.constraints], [*declared.indexes], [*declared.triggers]
    adds = {
        kind: tuple(one for one in of if f"{kind} {one.strip(chr(34))}" not in there and one not in given)
        for kind, of in zip(_KINDS, parts, strict=True)
    }
    return Table(name, found[1], found[2], adds)


def _open_values(
    conn: psycopg.Connection, schema: str, migrations: Sequence[Migration]
) -> list[tuple[str, str, str, int]]:
    found = []
    for table, column, values in value_lists(migrations):
        name, of = (
            one.as_string(conn).replace("%", "%%")
            for one in (compose.Identifier(column), compose.Identifier(schema, table))
        )
        query = (
            f"SELECT {name}::text, count(*) FROM ONLY {of} WHERE {name}::text <> ALL (%s) GROUP BY 1 ORDER BY 2 DESC, 1"
        )
        found += [(table, column, *row) for row in rows(conn, "value text, rows bigint", query, (list(values),))]
    return found


def _earlier(conn: psycopg.Connection, schema: str) -> list[tuple[str, str]]:
    spec = load_spec(project.SPEC)
    names = [name for name, table in spec.tables.items() if table.ours] + list(spec.views)
    return conn.execute(
        "SELECT CASE c.relkind WHEN 'v' THEN 'view' WHEN 'm' THEN 'materialized view' ELSE 'table' END, c.relname"
        " FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace"
        " WHERE n.nspname = %s AND c.relname = ANY (%s) AND c.relkind IN ('r', 'v', 'm') ORDER BY 2",
        (schema, [name for name in names if "." not in name]),
    ).fetchall()
