"""Running the jobs of pgvigil.jobs. The work, its lock and its record are the server's: pgvigil.run_job."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import psycopg
from psycopg import errors
from psycopg.rows import class_row

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import JobError, LockedError, PreconditionError, UsageError


@dataclass(frozen=True)
class Job:
    """A row of pgvigil.job_status."""

    job: str
    every: timedelta
    enabled: bool
    purpose: str
    state: str
    last_started: datetime | None
    last_finished: datetime | None
    last_rows: int | None
    last_error: str | None
    last_success: datetime | None
    due: bool
    overdue: bool


def status(target: Target) -> list[Job]:
    """All jobs, in the order in which they are run."""
    with _connect(target) as conn:
        return _jobs(conn)


def run(target: Target, job: str) -> int:
    """Runs a job now, due or not; returns the rows it changed.

    Raises LockedError when it is running elsewhere, JobError when it failed (what it did before that stays done).
    """
    with _connect(target) as conn:
        if job not in (known := [j.job for j in _jobs(conn)]):
            raise UsageError(f"there is no job {job}", f"The jobs are: {', '.join(known)}.")
        rows = _run(conn, job, only_if_due=False)
    if rows is None:
        raise LockedError(f"job {job} is running in another session", "See pgvigil maintain status; or wait for it.")
    return rows


def run_due(target: Target, tell: Callable[[str], None]) -> int:
    """Runs each job that is due and is not running elsewhere; a failure does not keep the others from running.

    Returns how many ran. Raises JobError, after all of them, when some failed.
    """
    ran, failures = 0, []
    with _connect(target) as conn:
        for job in [job.job for job in _jobs(conn) if job.due]:
            try:
                rows = _run(conn, job, only_if_due=True)
            except JobError as error:
                failures.append(error)
                tell(error.message)
                continue
            if rows is not None:
                ran += 1
                tell(f"{job}: {rows} rows")
    if failures:
        raise JobError("; ".join(e.message for e in failures), failures[0].hint)
    return ran


def _run(conn: psycopg.Connection, job: str, *, only_if_due: bool) -> int | None:
    try:
        row = conn.execute("CALL pgvigil.run_job(%s, %s)", (job, only_if_due)).fetchone()
    except psycopg.DatabaseError as error:
        if conn.closed:
            raise
        raise JobError(
            error.diag.message_primary or str(error),
            error.diag.message_hint or "See pgvigil maintain status.",
        ) from error
    return row[0] if row else None


def _jobs(conn: psycopg.Connection) -> list[Job]:
    try:
        with conn.cursor(row_factory=class_row(Job)) as cursor:
            return cursor.execute(
                "SELECT s.* FROM pgvigil.job_status s JOIN pgvigil.jobs j USING (job) ORDER BY j.since, job"
            ).fetchall()
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise PreconditionError(
            "this database has no jobs: it is not migrated", "See pgvigil status; then pgvigil migrate."
        ) from error


def _connect(target: Target) -> psycopg.Connection:
    conn = database.connect(target, "maintain")
    for setting in (
        "statement_timeout = 0",  # a job is one statement, of many transactions that are each short
        "default_transaction_isolation = 'read committed'",
        "default_transaction_read_only = off",
        "client_connection_check_interval = '1s'",  # a runner that was killed must not leave its job running
        "client_min_messages = warning",
    ):
        conn.execute(f"SET {setting}")
    return conn
