"""Bound the lock waits of the command's sessions, from outside: whatever its language and its driver.

A statement that waits for a lock makes every later one wait behind it. One that has waited for too long is cancelled,
by its server process and the moment that began, while it still is in that very wait.
"""

from __future__ import annotations

import threading
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from types import TracebackType
from typing import LiteralString, Self

import psycopg

from pgvigil.errors import PgvigilError
from pgvigil.guard.sessions import Own, Row, Session
from pgvigil.locks import Blocker, names
from pgvigil.progress import Reporter

_LOOK_EVERY = 0.02  # seconds
_AGAIN = 0.5  # seconds after which a statement that was cancelled and still waits is cancelled once more
_REPORT_AFTER, _REPORT_AGAIN = 1.0, 10.0
# In these a waiting statement stops readers or writers who come after it.
_QUEUES = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")

_SINCE: LiteralString = "(extract(epoch FROM a.backend_start) * 1000000)::bigint"
_SESSIONS: LiteralString = (
    "SELECT a.pid, "
    + _SINCE
    + """, pg_catalog.host(a.client_addr), a.client_port, a.application_name,
           coalesce(a.state, '') <> 'idle' AND a.state IS NOT NULL, left(regexp_replace(a.query, '\\s+', ' ', 'g'), 120),
           w.locktype, w.mode, coalesce(w.relation::regclass::text, ''), w.waitstart::text,
           extract(epoch FROM clock_timestamp() - w.waitstart)::float * 1000
    FROM pg_catalog.pg_stat_activity a
    LEFT JOIN LATERAL (SELECT * FROM pg_catalog.pg_locks l WHERE l.pid = a.pid AND NOT l.granted LIMIT 1) w ON true
    WHERE a.datname = current_database() AND a.backend_type = 'client backend' AND a.pid <> pg_backend_pid()
      AND a.application_name !~ '^pgvigil ' AND (a.backend_start >= to_timestamp(%s) OR a.application_name = %s)"""
)
_BLOCKERS: LiteralString = """
    SELECT b.pid, coalesce(a.usename, '') AS user, coalesce(a.application_name, '') AS application, coalesce(a.state, '') AS state,
           extract(epoch FROM clock_timestamp() - a.xact_start)::float AS age,
           left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 80) AS query
    FROM unnest(pg_blocking_pids(%s)) b (pid) LEFT JOIN pg_catalog.pg_stat_activity a USING (pid)"""
_BLOCKED: LiteralString = """
    SELECT count(DISTINCT l.pid) FROM pg_catalog.pg_locks l
    WHERE NOT l.granted AND l.pid <> %(pid)s AND %(pid)s = ANY (pg_blocking_pids(l.pid))"""
# The session is named by its process and its beginning, and has to be in the same wait still.
_CANCEL: LiteralString = (
    """SELECT pg_catalog.pg_cancel_backend(a.pid) FROM pg_catalog.pg_stat_activity a
    JOIN pg_catalog.pg_locks l ON l.pid = a.pid AND NOT l.granted
    WHERE a.pid = %s AND """
    + _SINCE
    + """ = %s AND l.waitstart::text = %s AND (%s::text IS NULL OR a.application_name = %s)"""
)
_TERMINATE: LiteralString = (
    "SELECT pg_catalog.pg_terminate_backend(a.pid) FROM pg_catalog.pg_stat_activity a WHERE a.pid = %s AND "
    + _SINCE
    + " = %s AND (%s::text IS NULL OR a.application_name = %s)"
)


@dataclass(frozen=True)
class Cancelled:
    """A statement of the command's that waited for too long. `blocked` is how many sessions waited behind it."""

    statement: str
    lock: str
    waited_ms: float
    blocked: int
    blockers: list[Blocker]


@dataclass(frozen=True)
class _Wait:
    kind: str
    mode: str
    relation: str
    began: str | None
    ms: float | None


class WaitMonitor:
    """A monitor that looks until the block ends: `with WaitMonitor(…) as monitor: …`.

    `connect` opens a connection of its own, and another when that is lost.
    """

    def __init__(
        self, connect: Callable[[], psycopg.Connection], own: Own, since: float, max_wait_ms: float, log: Reporter
    ) -> None:
        self.cancelled: list[Cancelled] = []
        self.busy = False  # a session of the command's is at work or in a transaction
        self.gap = False  # for a time nobody looked
        self.refused = ""  # why a statement could not be cancelled
        self._connect = connect
        self._own = own
        self._since = since
        self._max_wait_ms = max_wait_ms
        self._log = log
        self._conn: psycopg.Connection | None = None
        self._due: dict[tuple[Session, str | None], float] = {}
        self._asked: dict[tuple[Session, str | None], float] = {}
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._run, name="pgvigil guard", daemon=True)

    def __enter__(self) -> Self:
        self._conn = self._connect()
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._stop.set()
        self._thread.join()
        if self._conn is not None:
            self._conn.close()

    def _run(self) -> None:
        while not self._stop.wait(_LOOK_EVERY):
            try:
                if self._conn is None:
                    self._conn = self._connect()
                self._look(self._conn)
            except (
                psycopg.Error,
                PgvigilError,
            ):  # the server restarts, perhaps; the command's sessions are gone as well
                self.gap = True
                if self._conn is not None:
                    self._conn.close()
                self._conn = None
                self._stop.wait(0.2)

    def _look(self, conn: psycopg.Connection) -> None:
        busy = False
        for pid, since, address, port, application, at_work, query, *waits in conn.execute(
            _SESSIONS, (self._since, self._own.declared)
        ):
            row = Row(Session(pid, since), address, port, application or "")
            if row not in self._own:
                continue
            busy = busy or at_work
            if waits[0] is not None:
                self._waits(conn, row.session, query, _Wait(*waits))
        self.busy = busy

    def _waits(self, conn: psycopg.Connection, session: Session, query: str, wait: _Wait) -> None:
        if wait.ms is None or wait.ms + _LOOK_EVERY * 500 < self._max_wait_ms:
            return
        # A build that waits for old snapshots stops nobody, and is a cripple when it is cancelled.
        if wait.kind == "virtualxid":
            self._report(conn, session, query, wait)
            return
        if time.monotonic() < self._asked.get((session, wait.began), 0.0):
            return  # it was cancelled a moment ago, and has not come to it yet
        blocked = self._count(conn, session)
        if not blocked and not (wait.kind == "relation" and wait.mode in _QUEUES):
            self._report(conn, session, query, wait)
            return
        blockers = self._blockers(conn, session)
        try:
            row = conn.execute(
                _CANCEL, (session.pid, session.since, wait.began, self._own.declared, self._own.declared)
            ).fetchone()
        except psycopg.errors.InsufficientPrivilege as error:
            if not self.refused:
                self.refused = error.diag.message_primary or "permission denied"
                self._log(f"warning: a statement that waits for a lock could not be cancelled: {self.refused}")
            return
        if row and row[0]:
            self._asked[session, wait.began] = time.monotonic() + _AGAIN
            lock = f"{wait.mode} on {wait.relation}" if wait.relation else f"{wait.mode} on a {wait.kind}"
            self.cancelled.append(Cancelled(query, lock, round(wait.ms), blocked, blockers))
            self._log(
                f"cancelled after {wait.ms:.0f} ms of waiting for {lock}, held by {names(blockers)}; {blocked} waited behind it: {query}"
            )
            self._log.add("cancelled", asdict(self.cancelled[-1]))

    def _report(self, conn: psycopg.Connection, session: Session, query: str, wait: _Wait) -> None:
        key, clock = (session, wait.began), time.monotonic()
        due = self._due.setdefault(key, clock + _REPORT_AFTER - self._max_wait_ms / 1000)
        if clock >= due:
            self._due[key] = clock + _REPORT_AGAIN
            self._log(f"  the command waits for {names(self._blockers(conn, session))}, and stops nobody: {query}")

    def _count(self, conn: psycopg.Connection, session: Session) -> int:
        row = conn.execute(_BLOCKED, {"pid": session.pid}).fetchone()
        return int(row[0]) if row else 0

    def _blockers(self, conn: psycopg.Connection, session: Session) -> list[Blocker]:
        return [Blocker(*row) for row in conn.execute(_BLOCKERS, (session.pid,)).fetchall()]


def terminate(conn: psycopg.Connection, own: Own, sessions: list[Session]) -> None:
    """End sessions of the command, each named by its process and its beginning, and by the declared name if there is
    one.
    """
    for one in sessions:
        conn.execute(_TERMINATE, (one.pid, one.since, own.declared, own.declared))


def find(conn: psycopg.Connection, own: Own, since: float) -> list[Session]:
    """The command's sessions that are there now."""
    found = []
    for pid, begun, address, port, application, *_ in conn.execute(_SESSIONS, (since, own.declared)).fetchall():
        row = Row(Session(pid, begun), address, port, application or "")
        if row in own:
            found.append(row.session)
    return found


def moment(conn: psycopg.Connection) -> float:
    """The server's clock."""
    row = conn.execute("SELECT extract(epoch FROM clock_timestamp())::float").fetchone()
    return float(row[0]) if row else 0.0
