"""The tables that are archived: their columns as COPY sends them and as Parquet keeps them."""

from __future__ import annotations

from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgvigil.archives import identifier
from pgvigil.errors import JobError


@dataclass(frozen=True)
class Source:
    """A table: `name` as pgvigil.archives has it, `directory` after `table=`."""

    name: str
    directory: str
    id: str
    time: str


SOURCES = {
    source.name: source
    for source in (
        Source("session_lifecycle", "session_lifecycle", "id", "created_at"),
        Source("system_metrics", "system_metrics", "id", "recorded_at"),
        Source("performance_logs", "performance_logs", "id", "created_at"),
        Source("instrumentation.sql_statements", "sql_statements", "statement_id", "execution_start_time"),
        Source("query_executions", "query_executions", "id", "started_at"),
        Source("deleted_sessions", "deleted_sessions", "session_id", "deleted_at"),
    )
}

# What is not listed is text in the file, as PostgreSQL prints it: exact for numeric, whose values no type of Parquet holds all of;
# and for uuid, whose type in Parquet Spark 4 refuses.
_TYPES = {
    "smallint": "INTEGER",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "double precision": "DOUBLE",
    "timestamp with time zone": "TIMESTAMPTZ",
}


@dataclass(frozen=True)
class Column:
    """A column: its type in PostgreSQL and in the file."""

    name: str
    type: str
    parquet: str

    @property
    def _read(self) -> str:
        """The value in COPY's text, with the years before Christ as DuckDB spells them."""
        name = identifier(self.name)
        if self.parquet != "TIMESTAMPTZ":
            return name
        return f"CASE WHEN {name} LIKE '% BC' THEN concat_ws(' ', split_part({name}, ' ', 1), '(BC)', split_part({name}, ' ', 2)) ELSE {name} END"

    @property
    def typed(self) -> str:
        """The value of the file, from COPY's text."""
        name = identifier(self.name)
        return name if self.parquet == "VARCHAR" else f"({self._read})::{self.parquet} AS {name}"

    @property
    def sent(self) -> str:
        """Return the values to compare, from COPY's text; numbers of floating point have more than one spelling."""
        name = identifier(self.name)
        if self.parquet == "BOOLEAN":
            return f"CASE {name} WHEN 't' THEN 'true' WHEN 'f' THEN 'false' END"
        return f"{name}::DOUBLE" if self.parquet == "DOUBLE" else self._read

    @property
    def kept(self) -> str:
        """Return the values to compare, from the file."""
        name = identifier(self.name)
        return name if self.parquet in ("VARCHAR", "DOUBLE") else f"{name}::VARCHAR"


def columns(conn: psycopg.Connection, table: str, *, leave: tuple[str, ...] = ()) -> list[Column]:
    """The columns of a table, given as its quoted name."""
    rows = conn.execute(
        """SELECT a.attname::text, format_type(a.atttypid, NULL) FROM pg_attribute a
           WHERE a.attrelid = %s::regclass AND a.attnum > 0 AND NOT a.attisdropped ORDER BY a.attnum""",
        (table,),
    ).fetchall()
    found = [Column(name, type_, _TYPES.get(type_, "VARCHAR")) for name, type_ in rows if name not in leave]
    if not found:
        raise JobError(f"{table} has no columns", "See pgvigil validate.")
    return found


def copy_query(columns: list[Column], table: str, condition: str) -> str:
    """The COPY of some rows; both names and condition are SQL already."""
    names = ", ".join(identifier(column.name) for column in columns)
    return f"COPY (SELECT {names} FROM {table}{condition}) TO STDOUT (FORMAT csv)"


def fingerprint_query(table: str, key: str, condition: str, also: str) -> sql.Composed:
    """Return a query of the fingerprint of some rows, as pgvigil.rows_fingerprint reckons it, and of an aggregate over
    them.
    """
    return sql.SQL(
        """SELECT count(*), coalesce(sum(hash_record_extended(ROW(t.{}, t.xmin), 0)), 0)
                  + (SELECT hashtextextended(string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid), ',' ORDER BY a.attnum), 0)
                     FROM pg_attribute a WHERE a.attrelid = {}::regclass AND a.attnum > 0 AND NOT a.attisdropped), {} FROM {} t {}"""
    ).format(sql.Identifier(key), sql.Literal(table), sql.SQL(also), sql.SQL(table), sql.SQL(condition))
