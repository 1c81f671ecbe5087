"""Run steps on a watched connection: try each until it gets its locks, and log the sessions that it waited for."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import asdict
from types import TracebackType
from typing import Any, Self

import psycopg

from pgvigil import database, locks
from pgvigil.database import Target
from pgvigil.errors import LockedError, MigrationError
from pgvigil.migration import concurrent_indexes
from pgvigil.migration.concurrent_indexes import WaitPolicy
from pgvigil.migration.trace import Trace
from pgvigil.progress import Reporter


class Attempts:
    """A context that retries steps: `with Attempts(…) as attempt: attempt(step)`. Times are in seconds.

    `budget` is for steps that run under a short lock_timeout and are tried again. `build_wait` is for steps that run
    without one and are cancelled. `watched` says that there is a second session to watch.
    """

    def __init__(
        self,
        conn: psycopg.Connection,
        target: Target,
        log: Reporter,
        *,
        budget: float,
        build_wait: float,
        watched: bool = True,
    ) -> None:
        concurrent_indexes.bound_waits(conn, None if watched else build_wait)
        other = database.connect(target, "watch") if watched else None
        self._monitor = locks.BlockerMonitor(other, conn.info.backend_pid, log, build_wait)
        self._log = log
        self._budget = budget
        self._policy = WaitPolicy(build_wait, log)

    def __enter__(self) -> Self:
        self._monitor.__enter__()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self._monitor.__exit__(kind, error, tb)

    def __call__(self, step: Callable[[Trace], None]) -> None:
        """Run a step, which must hold no lock when it fails.

        Raise LockedError with the name of a session that blocks for too long.

        The report gets its statements, each with its tries and the sessions that it waited for.
        """
        trace = Trace(self._policy, self._monitor.take)
        waits: list[dict[str, Any]] = []

        def waited(number: int, blockers: list[locks.Blocker], what: str) -> None:
            file, line = trace.at
            waits.append(
                {"try": number, "file": file, "line": line, "blockers": [asdict(blocker) for blocker in blockers]}
            )
            self._log.add("waits", waits[-1])
            self._log(f"  waiting for {what} at {trace.place} (try {number}), held by {locks.names(blockers)}")

        try:
            locks.retry_on_lock(lambda: step(trace), budget=self._budget, monitor=self._monitor, waited=waited)
        except psycopg.errors.QueryCanceled as error:
            where = trace.place
            if not self._monitor.gave_up:
                raise MigrationError(f"{where} was cancelled by somebody", "Run this again when it may run.") from error
            blockers = self._monitor.take()
            waited(1, blockers, "older transactions")
            raise LockedError(
                f"{where} has waited {self._policy.seconds:.0f} s for {locks.names(blockers)}",
                "End that transaction (SELECT pg_terminate_backend(pid)) or wait for it, then run this again; "
                "--build-wait gives it longer.",
            ) from error
        for entry in trace.statements:
            own = [wait for wait in waits if (wait["file"], wait["line"]) == (entry["file"], entry["line"])]
            met = {blocker["pid"]: blocker for wait in (*own, entry) for blocker in wait["blockers"]}
            self._log.add("statements", {**entry, "tries": 1 + len(own), "blockers": list(met.values())})


def can_be_watched(conn: psycopg.Connection, log: Reporter) -> bool:
    """Return false, after a warning, if a pooler gives this run no second session."""
    if database.has_more_sessions(conn):
        return True
    log("warning: the pooler gives no second session, so a run that waits for a lock cannot report who holds it")
    return False


# ── Steps ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def drop_leftover(conn: psycopg.Connection, index: str, trace: Trace) -> None:
    """Drop an INVALID index that no session is building."""
    trace.at = (index, 0)
    with concurrent_indexes.without_lock_timeout(conn):
        concurrent_indexes.drop_if_invalid(conn, index, trace.policy)


def build_again(conn: psycopg.Connection, index: str, trace: Trace) -> None:
    """Rebuild an index that is INVALID and that no session is building."""
    trace.at = (index, 0)
    if concurrent_indexes.stays_invalid(conn, index, trace.policy):
        concurrent_indexes.rebuild(conn, index, trace.policy.log)
