"""The recorder's own connection: rows go in by COPY, a batch in one transaction, and it is always known whether they did.

Ids are made here, after COPY has begun: then the transaction holds its lock on the table, and the rollups, which wait for
those that hold it, never pass a row by. They are times of the server's clock, so an application whose clock is off does no harm.

When the connection breaks during COMMIT nobody tells us what became of it. But all rows of a batch are in or none is, so one
id answers for all: an INSERT of that id, always rolled back, conflicts exactly if the batch was committed. Should the server
still be busy with that COMMIT, the INSERT waits for it. This needs no right but INSERT.

Query executions bring an id of their own, from their source: those that are there already are passed over; and a session can be
registered twice. A batch of nothing else is simply sent again.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from typing import Any
from uuid import UUID

import psycopg
from psycopg import pq

from pgvigil import database
from pgvigil.errors import PgvigilError, PreconditionError
from pgvigil.live.rows import COLUMNS, EXECUTION, METRIC, PERFORMANCE, REGISTRY, STATEMENT, TABLES, Row

# A table and an id that its batch was sent with.
Probe = tuple[int, UUID]

# A lock that does not come free is like a server that does not answer. And should the client vanish before its COMMIT, the
# server must not keep the rows pending until TCP gives up: no probe could tell meanwhile what becomes of them.
_GUARD = b"SET LOCAL pgvigil.instrumentation = 'write'"  # what the guards of schema instrumentation want to see
_BEGIN = (
    b"BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL idle_in_transaction_session_timeout = '10s';" + _GUARD + b";"
    b"SELECT (extract(epoch FROM clock_timestamp()) * 1000000)::bigint"
)
_PROBES = {
    METRIC: "INSERT INTO {} (id, metric_name, metric_value, metric_type) VALUES (%s, 'probe', 0, 'gauge') ON CONFLICT DO NOTHING",
    PERFORMANCE: "INSERT INTO {} (id, operation, duration_ms, success) VALUES (%s, 'probe', 0, true) ON CONFLICT DO NOTHING",
    # Of no session: where there is no conflict, the foreign key refuses it.
    STATEMENT: "INSERT INTO {} (statement_id, session_id) VALUES (%s, '00000000-0000-0000-0000-000000000000') ON CONFLICT DO NOTHING",
}
# Each may be called again with the same arguments, and then changes nothing.
CALLS = {
    "register_instance": "SELECT instrumentation.register_instance(%(hostname)s, %(toolkit_version)s, '{}', %(instance)s)",
    "register_session": (
        "SELECT instrumentation.register_session(%(instance)s, %(session)s, %(pid)s, %(backend_start)s, %(username)s,"
        " NULL, %(application_name)s)"
    ),
    "close_session": "SELECT instrumentation.close_session(%(session)s, %(reason)s)",
    "stop_instance": "SELECT instrumentation.stop_instance(%(instance)s, %(reason)s)",
}
_EXECUTION_TYPES = (
    "execution_id text, user_id text, conversation_id text, query text, database_type text, query_complexity text, status text,"
    " execution_time double precision, total_rows bigint, returned_rows bigint, page integer, page_size integer, error_message text,"
    " error_type text, started_at timestamptz, completed_at timestamptz, connection_params jsonb, request_metadata jsonb,"
    " response_metadata jsonb"
)
_EXECUTION_COLUMNS = ", ".join(column.split()[0] for column in _EXECUTION_TYPES.split(","))
# No conflict target: that would need the right to read.
ADD_EXECUTIONS = (
    f"INSERT INTO {{}} ({_EXECUTION_COLUMNS}) SELECT {_EXECUTION_COLUMNS} FROM json_to_recordset(%s::json) AS r ({_EXECUTION_TYPES})"
    " ON CONFLICT DO NOTHING"
)
_LONGEST_STATEMENT = 16 << 20  # a message to the server is at most a gigabyte, and it holds all of it at once
# Which schema is watched, every role may know: the server's own functions look there first.
_TABLES = """
    SELECT c.relname, format('%%I.%%I', n.nspname, c.relname)
    FROM pg_proc p JOIN pg_namespace f ON f.oid = p.pronamespace CROSS JOIN unnest(p.proconfig) setting
    JOIN pg_namespace n ON n.nspname = (parse_ident(split_part(substring(setting FROM '^search_path=(.*)'), ', ', 1)))[1]
    JOIN pg_class c ON c.relnamespace = n.oid
    WHERE f.nspname = 'pgvigil' AND p.proname = 'record_metric' AND c.relname = ANY (%s)
    UNION ALL
    SELECT 'instrumentation.' || c.relname, 'instrumentation.' || c.relname
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE n.nspname = 'instrumentation'"""
_ROW_FAULTS = (
    "22",
    "23",
    "54",
)  # data exception, integrity constraint, program limit: the row's fault, not the server's


class Unavailable(Exception):
    """The server cannot take rows now; none of this batch were written."""


class Uncertain(Unavailable):
    """The connection broke during COMMIT: `probe` tells later whether it was done."""

    def __init__(self, message: str, probe: Probe) -> None:
        super().__init__(message)
        self.probe = probe


class BadRow(Exception):
    """The server refuses a row of the batch; none of it were written. `details` may show values of the row."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def find_tables(connection: psycopg.Connection[Any]) -> dict[int, str]:
    """The tables that are recorded into, by their numbers, with their schema. Raises PreconditionError if they are not there."""
    found = dict(connection.execute(_TABLES, (list(TABLES),)).fetchall())
    if missing := [table for table in TABLES if table not in found]:
        raise PreconditionError(
            f"the database has no table {missing[0]} of pgvigil to record into",
            "Run pgvigil migrate on it, or pgvigil setup.",
        )
    return {kind: found[table] for kind, table in enumerate(TABLES)}


def _pieces(lines: Sequence[bytes]) -> Iterator[str]:
    """JSON arrays of all these objects, none much longer than a statement should be."""
    piece: list[bytes] = []
    size = 0
    for line in lines:
        if piece and size + len(line) > _LONGEST_STATEMENT:
            yield f"[{b','.join(piece).decode()}]"
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield f"[{b','.join(piece).decode()}]"


class Ids:
    """UUIDv7 that only rise: 60 bits of time, of which each is given once, and 62 random ones from the kernel."""

    def __init__(self) -> None:
        self._last = 0

    def make(self, count: int, microseconds: int) -> list[int]:
        """As 128-bit numbers, from that time on. A steps back of the clock is bridged by counting on."""
        first = max(self._last + 1, (microseconds // 1000 << 12) + (microseconds % 1000 * 4096 // 1000))
        self._last = first + count - 1
        noise = os.urandom(8 * count)
        return [
            (tick >> 12) << 80 | (0x7000 | tick & 0xFFF) << 64 | 1 << 63 | int.from_bytes(noise[n : n + 8], "big") >> 2
            for tick, n in zip(range(first, first + count), range(0, 8 * count, 8), strict=True)
        ]


class Writer:
    """One connection, used by one thread; only `abort` may be called by others."""

    def __init__(self, target: database.Target) -> None:
        self._target = target
        self._ids = Ids()
        self._connection: psycopg.Connection[Any] | None = None
        self._tables: dict[int, str] = {}
        self._closing = threading.Lock()  # abort must not meet a descriptor that is somebody else's by now

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def connect(self) -> None:
        """Raises Unavailable with the words of libpq or the server."""
        try:
            connection = database.connect(self._target, "recorder")
            try:
                self._tables = find_tables(connection)
            except BaseException:
                connection.close()
                raise
        except PgvigilError as error:
            raise Unavailable(f"{error.message}. {error.hint}") from error
        except psycopg.Error as error:
            raise Unavailable(_one_line(error)) from error
        self._connection = connection

    def write(self, rows: Sequence[Row], before_commit: Callable[[Probe], None] | None = None) -> None:
        """All rows or none. Raises BadRow, Unavailable or Uncertain; `before_commit` is told the probe while all can be undone."""
        connection = self._get()
        probe: Probe | None = None
        committing = False
        try:
            cursor = connection.execute(_BEGIN)
            while cursor.nextset():
                pass
            answer = cursor.fetchone()
            ahead = answer[0] * 1000 - time.monotonic_ns() if answer else 0
            calls = [json.loads(line) for kind, line in rows if kind == REGISTRY]
            for arguments in calls:  # before the statements of those sessions
                connection.execute(CALLS[arguments["function"]].encode(), arguments)
            if calls:
                connection.execute(_GUARD)  # which those functions have unset
            for kind, table in self._tables.items():
                lines = [line for of_kind, line in rows if of_kind == kind]
                if not lines or kind == REGISTRY:
                    continue
                if kind == EXECUTION:
                    for piece in _pieces(lines):
                        connection.execute(ADD_EXECUTIONS.format(table).encode(), (piece,))
                    continue
                with cursor.copy(f"COPY {table} ({COLUMNS[kind]}) FROM STDIN".encode()) as copy:
                    ids = self._ids.make(len(lines), (time.monotonic_ns() + ahead) // 1000)
                    copy.write(b"".join([b"%032x\t%b" % pair for pair in zip(ids, lines, strict=True)]))
                probe = probe or (kind, UUID(int=ids[0]))
            if before_commit and probe:
                before_commit(probe)
            committing = True
            connection.execute("COMMIT")
        except psycopg.Error as error:
            words = _one_line(error)
            broken = self._undo(connection)
            if committing and broken and probe:
                raise Uncertain(words, probe) from error
            if not broken and (error.sqlstate or "")[:2] in _ROW_FAULTS:
                raise BadRow(error.diag.message_primary or words, words) from error
            raise Unavailable(words) from error
        except BaseException:
            self._undo(connection)
            raise

    def committed(self, probe: Probe) -> bool:
        """Whether the batch that was sent with this id is in the database. Raises Unavailable."""
        connection = self._get()
        kind, id = probe
        try:
            connection.execute("BEGIN; SET LOCAL lock_timeout = '5s'; SET LOCAL pgvigil.instrumentation = 'write'")
            found = connection.execute(_PROBES[kind].format(self._tables[kind]).encode(), (id,)).rowcount == 0
        except psycopg.errors.ForeignKeyViolation:
            found = False
        except psycopg.Error as error:
            self._undo(connection)
            raise Unavailable(_one_line(error)) from error
        self._undo(connection)
        return found

    def _get(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            raise Unavailable("not connected")
        return self._connection

    def _undo(self, connection: psycopg.Connection[Any]) -> bool:
        """Back to no transaction; True when the connection is of no use any more."""
        with suppress(psycopg.Error):
            if connection.info.transaction_status != pq.TransactionStatus.IDLE:
                connection.execute("ROLLBACK")
        if connection.info.transaction_status == pq.TransactionStatus.IDLE:
            return False
        self.close()
        return True

    def close(self) -> None:
        with self._closing:
            connection, self._connection = self._connection, None
            if connection is not None:
                connection.close()

    def abort(self) -> None:
        """Called from another thread: what waits for the server now fails at once."""
        with self._closing, suppress(psycopg.Error, OSError):
            if self._connection is not None:
                with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as handle:
                    handle.shutdown(socket.SHUT_RDWR)

    def disown(self) -> None:
        """In a forked child: lets go of the socket that is the parent's, without a word to the server."""
        if self._connection is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self._connection.pgconn.socket, inheritable=False)
            os.close(nothing)
            _inherited.append(self._connection)


_inherited: list[psycopg.Connection[Any]] = []  # never to be closed: that would end the parent's session
