"""Write rows on the recorder's own connection by COPY, one transaction per batch, and always find out if it was
committed.

Ids are made here, after COPY has begun: then the transaction holds its lock on the table, and the rollups, which wait
for lock holders, never miss a row. The ids use the server's clock, so an application whose clock is wrong does no harm.

If the connection breaks during COMMIT, the result is unknown. But all rows of a batch are in the database or none is,
so one id answers for all: an INSERT of that id, always rolled back, conflicts exactly if the batch was committed. If
the server is still busy with that COMMIT, the INSERT waits for it. This needs no right but INSERT.

Query executions bring an id of their own, from their source: only if one of a batch exists already, the new ones are
selected, which is slower; and a session can be registered twice. A batch of nothing else is simply sent again.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from itertools import chain
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors, pq

from pgvigil import database
from pgvigil.errors import PgvigilError
from pgvigil.live.copy_encoding import COLUMNS, Ids, Row, fields
from pgvigil.live.own_transaction import begin, find_tables, in_query, unfit_pooler
from pgvigil.live.records import EXECUTION, METRIC, PERFORMANCE, REGISTRY, STATEMENT

# A table and an id of the batch sent to it.
Probe = tuple[int, UUID]
# The lines of each table, in pieces: while the server takes one, the next can be made.
Batch = Mapping[int, Iterable[Sequence[str]]]

# A lock that is never granted is like a server that does not answer. And if the client vanishes before its COMMIT, the
# server must not keep the rows pending until TCP gives up: meanwhile no probe could find out what becomes of them.
_LOCK_TIMEOUT = "5s"
_GUARD = b"SET LOCAL pgvigil.instrumentation = 'write'"  # the guards of schema instrumentation require this
# Not `* 1000000`: the search_path, which is the application's, decides which operator that is.
_CLOCK = b"SELECT pg_catalog.int8(EXTRACT(epoch FROM pg_catalog.clock_timestamp()) OPERATOR(pg_catalog.*) 1000000::pg_catalog.numeric)"
_PROBES = {
    METRIC: "INSERT INTO {} (id, metric_name, metric_value, metric_type) VALUES (%s, 'probe', 0, 'gauge') ON CONFLICT DO NOTHING",
    PERFORMANCE: "INSERT INTO {} (id, operation, duration_ms, success) VALUES (%s, 'probe', 0, true) ON CONFLICT DO NOTHING",
    # Without a session: if there is no conflict, the foreign key refuses it.
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
_LONGEST_STATEMENT = (
    16 << 20
)  # characters; a message to the server has at most a gigabyte, and the server holds all of it at once
_TYPES = {
    "execution_time": "double precision",
    "total_rows": "bigint",
    "returned_rows": "bigint",
    "page": "integer",
    "page_size": "integer",
    "started_at": "timestamp with time zone",
    "completed_at": "timestamp with time zone",
    "connection_params": "pg_catalog.jsonb",
    "request_metadata": "pg_catalog.jsonb",
    "response_metadata": "pg_catalog.jsonb",
}
_ROW_FAULTS = (
    "22",
    "23",
    "54",
)  # data exception, integrity constraint, program limit: the fault is in the row, not in the server


_RAISED = "exec_stmt_raise"  # the place in the server from which an error comes that a PL/pgSQL function raises


class Unavailable(Exception):
    """An error that says that the server cannot take rows now. No row of the batch was written."""


class Ended(Unavailable):
    """An error that says that an idle connection had ended. Nothing was sent, and a new connection may work."""


class Uncertain(Unavailable):
    """An error that says that the connection broke during COMMIT. `probe` finds out later if it was committed; without one, the
    batch can be sent again.
    """

    def __init__(self, message: str, probe: Probe | None) -> None:
        super().__init__(message)
        self.probe = probe


class BadRow(Exception):
    """An error that says that the server refuses a row of the batch. No row was written. `details` may show values of the row."""

    def __init__(self, message: str, details: str) -> None:
        super().__init__(message)
        self.details = details


class UnknownSession(BadRow):
    """An error about a statement whose session was never registered, or is deleted already."""


class _Duplicate(Exception):
    """An error that says that an execution of the batch exists already."""


def _session(line: str) -> str:
    return line.partition("\t")[0]


def _one_line(error: psycopg.Error) -> str:
    return " ".join(str(error).split())


def _public(error: psycopg.Error) -> str:
    """Return the message without DETAIL and CONTEXT, which show values of rows."""
    said = [words for words in (error.diag.message_primary, error.diag.message_hint) if words]
    return " ".join(" ".join(said).split()) or _one_line(error)


def adding_executions(lines: Sequence[str]) -> tuple[str, list[list[str | None]]]:
    """Return a statement that adds the missing executions to the table {}, and its parameters."""
    names = COLUMNS[EXECUTION].split(", ")
    values = ", ".join(f"{name}::{_TYPES.get(name, 'pg_catalog.text')}" for name in names)
    # As a list of functions: unnest of several arrays works only with its unqualified name.
    arrays = ", ".join(["pg_catalog.unnest(%s::pg_catalog.text[])"] * len(names))
    # No conflict target: that would need the right to read.
    statement = (
        f"INSERT INTO {{}} ({COLUMNS[EXECUTION]}) SELECT {values} FROM ROWS FROM ({arrays}) AS n ({COLUMNS[EXECUTION]})"
        " ON CONFLICT DO NOTHING"
    )
    return statement, [list(column) for column in zip(*map(fields, lines), strict=True)]


def _pieces(pieces: Iterable[Sequence[str]]) -> Iterator[list[str]]:
    """Yield the same lines in pieces, none much longer than a statement should be."""
    piece: list[str] = []
    size = 0
    for line in chain.from_iterable(pieces):
        if piece and size + len(line) > _LONGEST_STATEMENT:
            yield piece
            piece, size = [], 0
        piece.append(line)
        size += len(line)
    if piece:
        yield piece


class Writer:
    """A writer with one connection, used by one thread; other threads may only call `abort`."""

    def __init__(self, target: database.Target) -> None:
        self._target = target
        self._ids = Ids()
        self._connection: psycopg.Connection[Any] | None = None
        self._tables: dict[int, str] = {}
        self._closing = threading.Lock()  # abort must not use a descriptor that has been closed and reused

    @property
    def connected(self) -> bool:
        return self._connection is not None

    def connect(self) -> None:
        """Connect. Raise Unavailable with the message of libpq or the server."""
        try:
            connection = database.open_connection(self._target, "recorder")
            try:
                self._tables = find_tables(connection)
            except BaseException:
                connection.close()
                raise
        except PgvigilError as error:
            raise Unavailable(f"{error.message}. {error.hint}") from error
        except psycopg.Error as error:
            raise Unavailable(_public(error)) from error
        self._connection = connection

    def write(self, make: Callable[[], Batch], before_commit: Callable[[Probe], None] | None = None) -> None:
        """Write all rows of the batch or none. The batch may have to be made twice.

        Raise BadRow, Unavailable, Uncertain, and errors of making the batch. `before_commit` gets the probe while all
        can still be undone.
        """
        try:
            self._write(make(), before_commit, add=False)
        except _Duplicate:
            self._write(make(), before_commit, add=True)

    def _write(self, batch: Batch, before_commit: Callable[[Probe], None] | None, *, add: bool) -> None:
        connection = self._get()
        probe: Probe | None = None
        place = "BEGIN"
        try:
            ahead = self._begin(connection, batch.get(REGISTRY, ()))
            for kind in sorted(batch.keys() - {REGISTRY}):
                pieces = batch[kind]
                place = table = self._tables[kind]
                if kind == EXECUTION and add:
                    for part in _pieces(pieces):
                        statement, columns = adding_executions(part)
                        connection.execute(statement.format(in_query(table)).encode(), columns)
                    continue
                with connection.cursor().copy(f"COPY {table} ({COLUMNS[kind]}) FROM STDIN".encode()) as copy:
                    for piece in pieces:
                        if kind == EXECUTION:
                            copy.write("".join(piece))
                        else:
                            first, text = self._ids.add(piece, (time.monotonic_ns() + ahead) // 1000)
                            probe = probe or (kind, UUID(first))
                            copy.write(text)
            if before_commit and probe:
                before_commit(probe)
            place = "COMMIT"
            connection.execute("COMMIT")
        except psycopg.Error as error:
            words = _one_line(error)
            broken = self._undo(connection)
            if place == "COMMIT" and broken:
                raise Uncertain(_public(error), probe) from error
            if (
                not broken
                and isinstance(error, errors.UniqueViolation)
                and place == self._tables[EXECUTION]
                and not add
            ):
                raise _Duplicate from error
            raise self._failure(error, words, broken=broken, place=place) from error
        except BaseException:
            self._undo(connection)
            raise

    def unknown(self, rows: Sequence[Row]) -> list[int]:
        """Return the positions of rows that are statements of unknown sessions. Raise BadRow or Unavailable."""
        connection = self._get()
        sessions = [_session(line) if kind == STATEMENT else None for kind, line in rows]
        asked = list({session for session in sessions if session is not None})
        try:
            self._begin(connection, [[line for kind, line in rows if kind == REGISTRY]])
            found = connection.execute("SELECT instrumentation.unknown_sessions(%s::pg_catalog.uuid[])", (asked,))
            unknown = {str(session) for row in found for session in row[0]}
        except psycopg.Error as error:
            words = _one_line(error)
            raise self._failure(error, words, broken=self._undo(connection), place="") from error
        self._undo(connection)
        return [at for at, session in enumerate(sessions) if session in unknown]

    def _begin(self, connection: psycopg.Connection[Any], calls: Iterable[Sequence[str]]) -> int:
        """Begin a transaction and make the calls in it. Return how far the server's clock is ahead of the monotonic one."""
        answer = self._send(connection, b"; ".join([begin(connection, lock_timeout=_LOCK_TIMEOUT), _GUARD, _CLOCK]))
        ahead = answer[0] * 1000 - time.monotonic_ns() if answer else 0
        guarded = False
        for line in chain.from_iterable(calls):  # before the statements of those sessions
            arguments = json.loads(line)
            connection.execute(CALLS[arguments["function"]].encode(), arguments)
            guarded = True
        if guarded:
            connection.execute(_GUARD)  # those functions have reset it
        return ahead

    def _send(self, connection: psycopg.Connection[Any], beginning: bytes) -> tuple[Any, ...] | None:
        """Send the statements that begin a transaction; return the row of the last one. Raise Ended or Unavailable."""
        try:
            cursor = connection.execute(beginning)
        except psycopg.Error as error:
            broken = self._undo(connection)
            if (reason := unfit_pooler(error)) is not None:
                raise Unavailable(f"{reason.message}. {reason.hint}") from error
            raise (Ended if broken else Unavailable)(_public(error)) from error
        while cursor.nextset():
            pass
        return cursor.fetchone() if cursor.description else None

    def _failure(self, error: psycopg.Error, words: str, *, broken: bool, place: str) -> Exception:
        message = error.diag.message_primary or words
        if broken or not self._is_fault_of_row(error, place):
            return Unavailable(_public(error))
        if isinstance(error, errors.ForeignKeyViolation) and place == self._tables[STATEMENT]:
            return UnknownSession(message, words)
        return BadRow(message, words)

    def _is_fault_of_row(self, error: psycopg.Error, place: str) -> bool:
        """Return true if the row would be refused again; otherwise it is retried."""
        if isinstance(error, errors.CheckViolation) and error.diag.table_name and not error.diag.constraint_name:
            return False  # not of a CHECK: there is no partition for the row at the moment, or not the one that was looked up
        if isinstance(error, errors.InsufficientPrivilege):
            # A missing right on the table can be granted. A session of another role's instance stays refused: a function raises that.
            return place in ("", "BEGIN", self._tables[STATEMENT]) and error.diag.source_function == _RAISED
        return (error.sqlstate or "")[:2] in _ROW_FAULTS

    def committed(self, probe: Probe) -> bool:
        """Return true if the batch that was sent with this id is in the database. Raise Unavailable."""
        connection = self._get()
        kind, id = probe
        self._send(connection, b"; ".join([begin(connection, lock_timeout=_LOCK_TIMEOUT), _GUARD]))
        try:
            found = connection.execute(_PROBES[kind].format(in_query(self._tables[kind])).encode(), (id,)).rowcount == 0
        except errors.ForeignKeyViolation:
            found = False
        except psycopg.Error as error:
            self._undo(connection)
            raise Unavailable(_public(error)) from error
        self._undo(connection)
        return found

    def _get(self) -> psycopg.Connection[Any]:
        if self._connection is None:
            raise Unavailable("not connected")
        return self._connection

    def _undo(self, connection: psycopg.Connection[Any]) -> bool:
        """Roll back to no transaction. Return true if the connection can no longer be used."""
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
        """Make a wait for the server fail at once. Called from another thread."""
        with self._closing, suppress(psycopg.Error, OSError):
            if self._connection is not None:
                with socket.socket(fileno=os.dup(self._connection.pgconn.socket)) as handle:
                    handle.shutdown(socket.SHUT_RDWR)

    def disown(self) -> None:
        """Abandon the parent's socket in a forked child, without a message to the server."""
        if self._connection is not None:
            nothing = os.open(os.devnull, os.O_RDWR)
            os.dup2(nothing, self._connection.pgconn.socket, inheritable=False)
            os.close(nothing)
            _inherited.append(self._connection)


_inherited: list[psycopg.Connection[Any]] = []  # never to be closed: that would end the parent's session
