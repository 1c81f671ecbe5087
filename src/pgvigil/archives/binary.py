"""Read the rows of a large partition by COPY in binary, which the Arrow driver for PostgreSQL (ADBC) gives to DuckDB in
batches.

This takes two thirds of the CPU time of COPY's text. Connections that share the reader's snapshot read ranges of pages
side by side. Where the driver is not installed, cannot connect, or would change a value, the rows come as text.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager, suppress
from queue import SimpleQueue
from typing import TYPE_CHECKING, Any

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.archives import identifier
from pgvigil.archives.source import Column

if TYPE_CHECKING:
    from adbc_driver_manager import AdbcConnection

# A smaller table takes less time as text than connecting takes.
FROM_BYTES = 16 << 20
# Of the table, in pages. A range is held in memory.
RANGE_BYTES = 64 << 20
# Of a batch, which stays in the processor's cache; the driver's own 16 MiB take a tenth more.
_BATCH_BYTES = 4 << 20
# The types that come in binary, and what DuckDB must see them as. Any other type is text before it leaves the server.
SEEN = {
    "smallint": "SMALLINT",
    "integer": "INTEGER",
    "bigint": "BIGINT",
    "boolean": "BOOLEAN",
    "double precision": "DOUBLE",
    "timestamp with time zone": "TIMESTAMP WITH TIME ZONE",
    "uuid": "UUID",
    "jsonb": "JSON",
    "text": "VARCHAR",
    "character varying": "VARCHAR",
}
_PIN = (
    "SELECT pg_catalog.set_config(s.name, s.value, false) FROM (VALUES "
    + ", ".join(f"('{name}', '{value}')" for name, value in database.SESSION.items())
    + ") AS s (name, value) WHERE pg_catalog.current_setting(s.name, true) IS NOT NULL"
)


class NotExactError(Exception):
    """The driver or DuckDB would change a value of these rows."""


def refusals() -> tuple[type[Exception], ...]:
    """Return the errors after which the rows are read as text instead."""
    import duckdb

    return (NotExactError, duckdb.Error, *_errors())


def _errors() -> tuple[type[Exception], ...]:
    try:
        from adbc_driver_manager import Error
    except ImportError:
        return (ImportError,)
    return (Error, ImportError)


class Connections:
    """A set of driver connections like another connection, each opened at its first use."""

    def __init__(self, conn: psycopg.Connection, count: int) -> None:
        self._conn = conn
        self._count = count
        self._stack = ExitStack()
        self._opened: list[AdbcConnection] | None = None
        self._free: SimpleQueue[AdbcConnection] = SimpleQueue()

    def close(self) -> None:
        """Close all connections."""
        self._stack.close()

    def snapshot(self, reader: psycopg.Connection) -> str | None:
        """Return the name of the snapshot of the reader's transaction, for `rows`. None where there are no connections."""
        if not self._open_once():
            return None
        row = reader.execute("SELECT pg_export_snapshot()").fetchone()
        return row[0] if row else None

    @contextmanager
    def rows(self, query: str, snapshot: str) -> Iterator[Any]:
        """Yield the rows of a query in a snapshot as a stream of Arrow, by a connection that is free."""
        from adbc_driver_manager import AdbcStatement

        taken = self._free.get()
        try:
            _run(taken, "BEGIN ISOLATION LEVEL REPEATABLE READ READ ONLY")
            _run(taken, f"SET TRANSACTION SNAPSHOT {sql.quote(snapshot)}")
            with AdbcStatement(taken) as statement:
                statement.set_options(**{"adbc.postgresql.batch_size_hint_bytes": str(_BATCH_BYTES)})
                statement.set_sql_query(query)
                stream, _ = statement.execute_query()
                try:
                    yield stream
                finally:
                    stream.release()
        finally:
            with suppress(*_errors()):
                _run(taken, "ROLLBACK")
            self._free.put(taken)

    @property
    def are_open(self) -> bool:
        """Return whether they are there, after the first call of `snapshot`."""
        return len(self._opened or ()) == self._count

    def _open_once(self) -> bool:
        if self._opened is None:
            self._opened = []
            if database.has_more_sessions(self._conn, self._count + 1):
                with suppress(*_errors()):
                    self._open(self._opened)
        return self.are_open

    def _open(self, opened: list[AdbcConnection]) -> None:
        import adbc_driver_postgresql
        from adbc_driver_manager import AdbcConnection

        home = adbc_driver_postgresql.connect(database.again(self._conn))
        self._stack.enter_context(closing(home))
        for _ in range(self._count):
            one = self._stack.enter_context(closing(AdbcConnection(home)))
            _run(one, _PIN)
            opened.append(one)
            self._free.put(one)


def _run(conn: AdbcConnection, statement: str) -> None:
    from adbc_driver_manager import AdbcStatement

    with AdbcStatement(conn) as one:
        one.set_sql_query(statement)
        one.execute_update()


def queries(
    reader: psycopg.Connection, columns: list[Column], table: str, condition: str, side_by_side: int
) -> list[str]:
    """Return queries that read equal ranges of a table's pages; none where it is small. Both names and condition are SQL already."""
    row = reader.execute(
        """SELECT pg_relation_size(%(table)s::regclass) / current_setting('block_size')::bigint, pg_table_size(%(table)s::regclass)""",
        {"table": table},
    ).fetchone()
    pages, size = row or (0, 0)
    if size < FROM_BYTES:
        return []
    count = side_by_side * -(-size // (side_by_side * RANGE_BYTES))
    shown = ", ".join(_shown(column) for column in columns)
    ends = [pages * number // count for number in range(count)]
    ranges = [
        f"ctid >= '({begin},0)'" + (f" AND ctid < '({end},0)'" if end is not None else "")
        for begin, end in zip(ends, [*ends[1:], None], strict=True)
        if begin != end
    ]
    where = f"{condition} AND" if condition else " WHERE"
    return [f"SELECT {shown} FROM ONLY {table}{where} {one}" for one in ranges]


def _shown(column: Column) -> str:
    """Return a column as the driver gets it. As PostgreSQL prints it where it is text: a cast to text would pad or cut some types."""
    name = identifier(column.name)
    return name if column.type in SEEN else f"CASE WHEN {name} IS NOT NULL THEN concat({name}) END AS {name}"


def fits(columns: list[Column]) -> str:
    """Return the condition on all rows without which the driver changes times: it adds 30 years to infinity and to the last years too."""
    names = [identifier(column.name) for column in columns if column.type == "timestamp with time zone"]
    each = [f"coalesce(bool_and({name} > '-infinity' AND {name} < '290000-01-01Z'), true)" for name in names]
    return " AND ".join(each) or "true"


def take(conn: Any, connections: Connections, query: str, snapshot: str, columns: list[Column]) -> int:
    """Make table `sent` of the rows of a query; return how many. Raise NotExactError where DuckDB sees other types."""
    with connections.rows(query, snapshot) as stream:
        conn.register("stream", stream)
        try:
            conn.execute("CREATE TABLE sent AS SELECT * FROM stream")
        finally:
            conn.unregister("stream")
    seen = [(name, type_) for name, type_, *_ in conn.execute("DESCRIBE sent").fetchall()]
    if seen != [(column.name, SEEN.get(column.type, "VARCHAR")) for column in columns]:
        raise NotExactError(f"DuckDB sees {seen}")
    row = conn.execute("SELECT count(*) FROM sent").fetchone()
    return int(row[0])
