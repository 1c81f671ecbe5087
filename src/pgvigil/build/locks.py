"""Waiting without being in the way: one runner at a time, and DDL that gives up its place in the lock queue."""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TypeVar

import psycopg

from pgvigil.errors import LockedError

T = TypeVar("T")

# The advisory lock all runners of a database meet at: "pgvigil" in ASCII.
_RUN_LOCK = int.from_bytes(b"pgvigil", "big")

# A DDL statement that waits for its lock makes everyone behind it wait too: so it waits this long at a time …
LOCK_TIMEOUT_MS = 200
# … and between tries nothing is held.
_FIRST_PAUSE, _LONGEST_PAUSE = 0.1, 3.0


@contextmanager
def run_lock(conn: psycopg.Connection, wait: float) -> Iterator[None]:
    """Holds the right to change this database's schema. Polled: a blocking waiter could be chosen as a deadlock victim
    while the holder builds an index concurrently.

    Raises LockedError, naming the holder, when `wait` seconds were not enough.
    """
    deadline = time.monotonic() + wait
    while not _try_lock(conn):
        if time.monotonic() >= deadline:
            raise LockedError(
                f"another run is in progress: {_holder(conn)}",
                "Wait for it to finish and run this again, or wait in line with --lock-wait SECONDS. Nothing was changed.",
            )
        time.sleep(random.uniform(0.1, 0.3))  # noqa: S311 - so that several waiters do not poll in step
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute("SELECT pg_advisory_unlock(%s)", (_RUN_LOCK,))


def _try_lock(conn: psycopg.Connection) -> bool:
    row = conn.execute("SELECT pg_try_advisory_lock(%s)", (_RUN_LOCK,)).fetchone()
    return bool(row and row[0])


def _holder(conn: psycopg.Connection) -> str:
    row = conn.execute(
        """SELECT format('pid %%s, %%s, user %%s from %%s, connected since %%s', a.pid, a.application_name, a.usename,
                         coalesce(host(a.client_addr), 'this host'), to_char(a.backend_start, 'YYYY-MM-DD HH24:MI:SS TZ'))
           FROM pg_locks l JOIN pg_stat_activity a USING (pid)
           WHERE l.locktype = 'advisory' AND l.granted AND l.objsubid = 1
             AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
             AND (l.classid::bigint << 32 | l.objid::bigint) = %s""",
        (_RUN_LOCK,),
    ).fetchone()
    return row[0] if row else "it ended just now"


def retried(attempt: Callable[[], T], *, budget: float, blockers: Callable[[], str], told: Callable[[str], None]) -> T:
    """Runs `attempt` until it gets its locks, pausing longer and longer (jittered, exponential) for `budget` seconds in all.

    `attempt` must hold nothing when it fails. Raises LockedError naming the blockers when the budget is used up.
    """
    deadline = time.monotonic() + budget
    tries = 0
    while True:
        tries += 1
        try:
            return attempt()
        except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected) as error:
            pause = min(_LONGEST_PAUSE, _FIRST_PAUSE * 2 ** (tries - 1)) * random.uniform(0.5, 1.0)  # noqa: S311
            who = blockers() or "nobody holds it any more"
            if time.monotonic() + pause > deadline:
                raise LockedError(
                    f"a table lock did not come free in {tries} tries over {budget:.0f} s: {who}",
                    "End that transaction (SELECT pg_terminate_backend(pid)) or wait for it, then run this again. "
                    "What was begun was rolled back.",
                ) from error
            told(f"waiting for a table lock (try {tries}): {who}")
            time.sleep(pause)


def lock_holders(conn: psycopg.Connection, schema: str) -> str:
    """Who else holds locks on the application's tables in transactions that have been open for a while."""
    rows = conn.execute(
        """SELECT DISTINCT format('pid %%s (%%s%%s) holds %%s for %%s s: %%s', a.pid, a.usename,
                   coalesce(', ' || nullif(a.application_name, ''), ''), c.relname,
                   round(extract(epoch FROM clock_timestamp() - a.xact_start)), left(regexp_replace(a.query, '\\s+', ' ', 'g'), 80))
           FROM pg_locks l JOIN pg_class c ON c.oid = l.relation JOIN pg_stat_activity a ON a.pid = l.pid
           WHERE l.granted AND c.relkind IN ('r', 'p') AND c.relnamespace = to_regnamespace(%s)
             AND a.pid <> pg_backend_pid() AND a.datname = current_database()
             AND clock_timestamp() - a.xact_start > interval '100 milliseconds' LIMIT 5""",
        ('"' + schema.replace('"', '""') + '"',),
    ).fetchall()
    return "; ".join(row[0] for row in rows)
