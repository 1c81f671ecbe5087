"""Wait for locks without blocking others: one runner at a time, and DDL that leaves the lock queue after a short wait."""

from __future__ import annotations

import random
import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from typing import TypeVar

import psycopg
from psycopg.rows import class_row

from pgvigil.errors import LockedError
from pgvigil.observer import Observer
from pgvigil.progress import Reporter

T = TypeVar("T")

# The advisory lock that all runners of a database use: "pgvigil" in ASCII.
_RUN_LOCK = int.from_bytes(b"pgvigil", "big")
_RUN_LOCK_HELD = f"""
    l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
    AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
    AND (l.classid::bigint << 32 | l.objid::bigint) = {_RUN_LOCK}
"""

# "while inserting index tuple (0,1) in relation "sessions"", "beim Einfügen von Indextupel (0,1) in Relation »sessions«"
_ROW = re.compile(r"\(\d+,\d+\).*?[\"»«„“]\s?(.+?)\s?[\"«»“”]")

# A DDL statement that waits for its lock makes all later ones wait too: so it waits this long at a time …
LOCK_TIMEOUT_MS = 200
# … and holds nothing between attempts.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0

_LOOK_EVERY = 0.03  # seconds between checks for blockers: several within one lock timeout
_REPORT_AFTER, _REPORT_AGAIN = 1.0, 10.0  # seconds of waiting for a session before the first report, and the next
_SHOW_EVERY = 0.5  # seconds between checks of the progress of an index build


@contextmanager
def run_lock(conn: psycopg.Connection, wait: float) -> Iterator[None]:
    """Hold the right to change this database's schema.

    The lock is polled: a blocked waiter could be chosen as a deadlock victim while the holder builds an index
    concurrently.

    Raise LockedError, naming the holder, after `wait` seconds.
    """
    deadline = time.monotonic() + wait
    while not _true(conn, f"SELECT pg_try_advisory_lock({_RUN_LOCK})"):
        if time.monotonic() >= deadline:
            raise LockedError(
                f"another run is in progress: {_holder(conn)}",
                "Run this again when it has finished, or add --lock-wait SECONDS to wait for it. Nothing was changed.",
            )
        time.sleep(random.uniform(0.1, 0.3))  # noqa: S311 - so that several waiters do not poll at the same time
    try:
        yield
    finally:
        if not conn.closed:
            with suppress(psycopg.OperationalError):  # a lost connection has released the lock
                conn.execute(f"SELECT pg_advisory_unlock({_RUN_LOCK})")


def require_run_lock(conn: psycopg.Connection) -> None:
    """Check before each commit that the run lock is held: a file may have released it (DISCARD ALL, pg_advisory_unlock_all)."""
    if not _true(conn, f"SELECT EXISTS (SELECT FROM pg_locks l WHERE {_RUN_LOCK_HELD} AND l.pid = pg_backend_pid())"):
        raise LockedError(
            "the run lock was lost before the commit", "Remove DISCARD and advisory unlocks from the migration."
        )


def _holder(conn: psycopg.Connection) -> str:
    row = conn.execute(
        f"""SELECT CASE WHEN a.backend_start IS NULL THEN format('pid %s, user %s', a.pid, a.usename)
                        ELSE format('pid %s, %s, user %s from %s, connected since %s', a.pid, a.application_name, a.usename,
                                    coalesce(host(a.client_addr), 'this host'), to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ')) END
            FROM pg_locks l JOIN pg_stat_activity a USING (pid) WHERE {_RUN_LOCK_HELD}"""
    ).fetchone()
    return row[0] if row else "it ended just now"


@dataclass(frozen=True)
class Blocker:
    """A session that blocks the run. `age` is that of its transaction, in seconds, None if this role may not see it; pid 0 is
    a prepared transaction.
    """

    pid: int
    user: str
    application: str
    state: str
    age: float | None
    query: str

    def __str__(self) -> str:
        if not self.pid:
            return "a prepared transaction (SELECT * FROM pg_prepared_xacts)"
        who = ", ".join(filter(None, (self.user, self.application, self.state)))
        if self.age is None:
            return f"pid {self.pid} ({who}), whose transaction only a role with pg_read_all_stats can see"
        return f"pid {self.pid} ({who}), in a transaction for {self.age:.0f} s: {self.query}"


class BlockerMonitor(Observer):
    """A monitor that looks, on a connection of its own, for the sessions that block a backend, which cannot report them itself.

    When the backend has waited `limit` seconds in one statement, the statement is cancelled and `gave_up` is set: a
    statement without a lock_timeout must not wait for ever either. Without a connection it sees nobody.
    """

    def __init__(self, conn: psycopg.Connection | None, pid: int, log: Reporter, limit: float) -> None:
        super().__init__(conn, "pgvigil watch")
        self.gave_up = False
        self._pid = pid
        self._log = log
        self._limit = limit
        self._waited = 0.0
        self._seen: dict[int, Blocker] = {}

    def take(self) -> list[Blocker]:
        """Return the sessions that the backend has waited for since the last call, and restart the wait."""
        seen, self._seen, self._waited = self._seen, {}, 0.0
        return list(seen.values())

    def _look(self, conn: psycopg.Connection) -> None:
        waiting_since: dict[int, float] = {}
        looked = shown = time.monotonic()
        while not self._stop.wait(_LOOK_EVERY):
            try:
                now_there = {blocker.pid: blocker for blocker in self._blockers(conn)}
                clock = time.monotonic()
                self._waited += clock - looked if now_there else 0
                if self._waited > self._limit and not self.gave_up:
                    self.gave_up = True
                    conn.execute("SELECT pg_cancel_backend(%s)", (self._pid,))
                if clock - shown >= _SHOW_EVERY:
                    self._show_build(conn)
                    shown = clock
            except psycopg.Error:  # the blocker stays unknown; the run continues
                return
            self._seen |= now_there
            looked = clock
            waiting_since = {pid: waiting_since.get(pid, clock) for pid in now_there}
            for pid, since in waiting_since.items():
                if clock - since >= _REPORT_AFTER:
                    self._log(f"  waiting for {now_there[pid]}")
                    waiting_since[pid] = clock + _REPORT_AGAIN - _REPORT_AFTER

    def _show_build(self, conn: psycopg.Connection) -> None:
        row = conn.execute(
            """SELECT format('building %%s: %%s', coalesce((SELECT quote_ident(relname) FROM pg_class WHERE oid = index_relid), 'an index'), phase),
                      CASE WHEN phase LIKE 'waiting%%' THEN NULL
                           ELSE coalesce(nullif(blocks_done, 0)::float / nullif(blocks_total, 0),
                                         nullif(tuples_done, 0)::float / nullif(tuples_total, 0)) END
               FROM pg_stat_progress_create_index WHERE pid = %s""",
            (self._pid,),
        ).fetchone()
        if row is not None:
            self._log.progress(row[0], row[1])

    def _blockers(self, conn: psycopg.Connection) -> list[Blocker]:
        with conn.cursor(row_factory=class_row(Blocker)) as cursor:
            return cursor.execute(
                """SELECT b.pid, coalesce(a.usename, '') AS user, coalesce(a.application_name, '') AS application,
                          coalesce(a.state, '') AS state, extract(epoch FROM clock_timestamp() - a.xact_start)::float AS age,
                          left(regexp_replace(coalesce(a.query, ''), '\\s+', ' ', 'g'), 80) AS query
                   FROM unnest(pg_blocking_pids(%s)) b (pid) LEFT JOIN pg_stat_activity a USING (pid)""",
                (self._pid,),
            ).fetchall()


def retry_on_lock(
    attempt: Callable[[], T],
    *,
    budget: float,
    monitor: BlockerMonitor,
    waited: Callable[[int, list[Blocker], str], None],
) -> T:
    """Run `attempt` until it gets its locks, with longer and longer pauses (jittered, exponential), for `budget`
    seconds in all.

    `waited` is called after each attempt that failed, with its number, its blockers and what it waited for.

    `attempt` must hold nothing when it fails. Raise LockedError naming the blockers when the budget is spent.
    """
    deadline = time.monotonic() + budget
    tries = 0
    blockers: list[Blocker] = []
    while True:
        tries += 1
        monitor.take()
        try:
            return attempt()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            blockers = monitor.take() or blockers  # on a busy machine a short wait may not be seen
            what = _lock_of(error)
            waited(tries, blockers, what)
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            if time.monotonic() + pause > deadline:
                raise LockedError(
                    f"{what} was not granted in {tries} attempts over {budget:.0f} s; it is held by {names(blockers)}",
                    "End that transaction (SELECT pg_terminate_backend(pid)) or wait for its end, then run this again.",
                ) from error
            time.sleep(pause)


def _lock_of(error: psycopg.Error) -> str:
    """Return in words what was waited for: a table, or a row that another transaction makes at the same time."""
    row = _ROW.search(error.diag.context or "")
    return f"a lock on a row that another transaction is writing too ({row[1]})" if row else "a table lock"


def names(blockers: list[Blocker]) -> str:
    """Describe the blockers for people."""
    return "; ".join(map(str, blockers)) or "a session that ended before it could be identified"


def _true(conn: psycopg.Connection, query: str) -> bool:
    row = conn.execute(query.encode()).fetchone()
    return bool(row and row[0])
