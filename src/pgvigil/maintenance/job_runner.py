"""Run the jobs of pgvigil.jobs, by the schedule in that table.

The server does most of the work, its lock and its record: pgvigil.run_job. A job that needs a client is in
client_jobs.py, under the same lock and in the same record.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import errors, sql

from pgvigil import database, other_state
from pgvigil.database import Target
from pgvigil.errors import ConnectError, JobError, LockedError, PgvigilError, PreconditionError, UsageError
from pgvigil.maintenance import client_jobs, consent, wording
from pgvigil.maintenance.client_jobs import Options
from pgvigil.migration import ledger, preflight
from pgvigil.owner import confined, execute, rows
from pgvigil.progress import Reporter
from pgvigil.shipped import require_shipped


@dataclass(frozen=True)
class Job:
    """A row of pgvigil.job_status. `next_due` is in the past when it is due, and is None when it is off or waits for consent."""

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
    at: timedelta
    needs_client: bool
    last_notes: list[str] | None
    next_due: datetime | None
    waits_for_consent: bool


_JOB = (
    "text, interval, boolean, text, text, timestamptz, timestamptz, bigint, text, timestamptz, boolean, boolean, interval, boolean, text[],"
    " timestamptz, boolean"
)


def status(target: Target) -> list[Job]:
    """Return all jobs, in the order in which they run."""
    with connect(target) as conn:
        return jobs_of(conn)


def preview(target: Target) -> list[consent.Preview]:
    """Return the effects of the jobs that end, mark, archive or delete."""
    with connect(target) as conn:
        see_rows(conn)
        jobs_of(conn)
        return consent.preview(conn)


def accept(target: Target, job: str) -> list[str]:
    """Accept, for the owner of the tables, the effects of a job (or "all"). Return a line for each accepted job.

    Raise PreconditionError for any other role.
    """
    with connect(target) as conn:
        see_rows(conn)
        jobs = jobs_of(conn)
        if job != consent.ALL:
            _named(jobs, job)
        would = {one.job: one for one in consent.preview(conn)}
        accepted = consent.accept(conn, job)
    if accepted:
        return [
            f"accepted {name}: it would {would[name].would} now" for name in sorted(accepted, key=list(would).index)
        ]
    if job == consent.ALL:
        return ["no job waits for consent"]
    one = would.get(job)
    if one and one.accepted_at:
        return [f"{job} was accepted by {one.accepted_by} at {_moment(one.accepted_at)} UTC"]
    return [f"{job} needs no consent"]


def dry_run(target: Target, job: str) -> tuple[Job, list[consent.Preview]]:
    """Return a job and its effects now, of which there are none unless it may end sessions; nothing is changed."""
    with connect(target) as conn:
        see_rows(conn)
        return _named(jobs_of(conn), job), [one for one in consent.preview(conn) if one.job == job]


def run(
    target: Target,
    job: str,
    options: Options,
    log: Reporter,
    begin: Callable[[psycopg.Connection], None] = lambda _: None,
) -> str:
    """Run a job now, due or not. Return what it did, in words. `begin` gets its connection first.

    Raise LockedError where it is running elsewhere, PreconditionError where it waits for consent, JobError where it
    failed (its work until then is kept).
    """
    with connect(target) as conn:
        begin(conn)
        _require_work(conn)
        known = _named(jobs_of(conn), job)
        if known.waits_for_consent:
            raise consent.refusal(job)
        count = _run(conn, target, known, options, log, only_if_due=False)
        if count is None:
            raise LockedError(
                f"job {job} is running in another session", "See pgvigil maintain status; or wait for it."
            )
        return _done(conn, job, count)


def keeps_archive(target: Target) -> bool:
    """Return true if a retention policy in use wants rows archived before they are dropped."""
    with connect(target) as conn:
        return rows(conn, "keeps boolean", "SELECT pgvigil.keeps_archive()") == [(True,)]


def _named(jobs: list[Job], name: str) -> Job:
    for job in jobs:
        if job.job == name:
            return job
    raise UsageError(f"there is no job {name}", f"The jobs are: {', '.join(job.job for job in jobs)}.")


def _done(conn: psycopg.Connection, job: str, count: int) -> str:
    query = "SELECT notes FROM pgvigil.job_runs WHERE job = %s AND finished_at IS NOT NULL ORDER BY id DESC LIMIT 1"
    found = rows(conn, "notes text[]", query, (job,))
    return wording.done(job, count, _all_shown(found[0][0]) or () if found else ())


def run_due(
    target: Target, options: Options, log: Reporter, report: Callable[[str, str, bool], None] = lambda *_: None
) -> int:
    """Run each job that is due and is not running elsewhere; a failure does not keep the others from running.

    The log says which jobs wait for consent. `report` gets the name of each job that ran, its result or its error, and
    whether it succeeded.

    Return the number of jobs that ran. Raise JobError, after all of them, where some failed.
    """
    ran = 0
    failures: list[PgvigilError] = []
    with connect(target) as conn:
        _require_work(conn)
        jobs = jobs_of(conn)
        if waiting := [job.job for job in jobs if job.waits_for_consent and job.enabled]:
            for line in consent.waiting(waiting, target.option):
                log(line)
        for job in [job for job in jobs if job.due]:
            try:
                count = _run(conn, target, job, options, log, only_if_due=True)
            except (JobError, ConnectError) as error:
                failures.append(error)
                log(error.message)
                report(job.job, error.message, False)
                if conn.closed:
                    raise
                continue
            if count is not None:
                ran += 1
                said = _done(conn, job.job, count)
                log(f"{job.job}: {said}")
                report(job.job, said, True)
    if failures and all(isinstance(failure, ConnectError) for failure in failures):
        raise failures[0]
    if failures:
        raise JobError("; ".join(e.message for e in failures), failures[0].hint)
    return ran


def _run(
    conn: psycopg.Connection, target: Target, job: Job, options: Options, log: Reporter, *, only_if_due: bool
) -> int | None:
    if job.needs_client:
        if not database.has_more_sessions(conn):  # a pool of one session
            try:
                return _run_here(conn, target, job.job, options, log, only_if_due=only_if_due)
            finally:
                if not conn.closed:
                    conn.execute("SET lock_timeout = 0")
        with connect(target) as own:  # a lock timeout it sets, or a connection it loses, does not concern another job
            see_rows(own)
            return _run_here(own, target, job.job, options, log, only_if_due=only_if_due)
    try:
        if confined(conn):
            return _run_confined(conn, job.job, only_if_due=only_if_due)
        row = conn.execute("CALL pgvigil.run_job(%s, %s)", (job.job, only_if_due)).fetchone()
    except psycopg.DatabaseError as error:
        if conn.closed:
            raise database.lost(error, f" during job {job.job}; its commits are kept") from error
        if isinstance(error, errors.ObjectNotInPrerequisiteState):
            words_of_server = error.diag.message_primary or str(error)
            if "waits for the consent" in words_of_server:  # it lapsed since we looked
                raise consent.refusal(job.job) from error
            raise PreconditionError(words_of_server, error.diag.message_hint or "") from error
        raise JobError(
            _shown(error.diag.message_primary or str(error)) or "",
            error.diag.message_hint or "See pgvigil maintain status.",
        ) from error
    return row[0] if row else None


def _run_confined(conn: psycopg.Connection, job: str, *, only_if_due: bool) -> int | None:
    """Do what pgvigil.run_job does, each batch in a function of the owner's: the procedure itself would run with the rights of its caller,
    and call by name what triggers of the owner's may have replaced since it began.
    """
    query = "SELECT pgvigil.begin_job(%s, %s)"
    [(run_id,)] = rows(conn, "run_id bigint", query, (job, only_if_due))
    if run_id is None:
        return None
    count, more, failure, refused = 0, True, None, 0
    step = "SELECT s.total, s.more, s.failure, s.refused_now FROM pgvigil.job_step(%s, %s) s"
    while more:
        [(count, more, failure, refused)] = rows(
            conn, "total bigint, more boolean, failure text, refused integer", step, (run_id, refused)
        )
    execute(conn, "SELECT pgvigil.release_job(%s)", (run_id,))
    if failure is not None:
        raise JobError(
            f"job {job} failed: {_shown(failure)}", "It goes on from there when it is run again. See pgvigil.job_runs."
        )
    return count


def _run_here(
    conn: psycopg.Connection, target: Target, job: str, options: Options, log: Reporter, *, only_if_due: bool
) -> int | None:
    work = client_jobs.JOBS.get(job)
    if work is None:
        raise JobError(
            f"this pgvigil does not know how to do job {job}", "Use the version that migrated this database."
        )
    [(run_id,)] = rows(conn, "run_id bigint", "SELECT pgvigil.begin_job(%s, %s)", (job, only_if_due))
    if run_id is None:
        return None
    log(f"job {job}")
    run = client_jobs.Run(conn, target, job, run_id, options, log)
    try:
        work(run)
    except (PgvigilError, psycopg.Error) as error:
        said = error.message if isinstance(error, PgvigilError) else _shown(" ".join(str(error).split())) or ""
        hint = error.hint if isinstance(error, PgvigilError) else ""
        with suppress(psycopg.Error, LockedError):  # then the next run reports that this one died
            run.end(said)
        if isinstance(error, ConnectError):
            raise
        if database.is_lost(error):
            raise database.lost(error, f" during job {job}; its commits are kept") from error
        raise JobError(f"job {job} failed: {said}", hint or "It goes on from there when it is run again.") from error
    except BaseException as error:
        with suppress(psycopg.Error, LockedError):
            run.end(f"interrupted ({type(error).__name__})")
        raise
    return run.end(None)


def jobs_of(conn: psycopg.Connection) -> list[Job]:
    try:
        query = "SELECT s.* FROM pgvigil.job_status s JOIN pgvigil.jobs j USING (job) ORDER BY j.since, job"
        found = other_state.rows(conn, Job, query, _JOB)
        return [replace(job, last_error=_shown(job.last_error), last_notes=_all_shown(job.last_notes)) for job in found]
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise PreconditionError(
            "this database has no jobs: it is not migrated", "See pgvigil status; then pgvigil migrate."
        ) from error


def connect(target: Target) -> psycopg.Connection:
    conn = database.connect(target, "maintain")
    conn.execute(
        "SET client_connection_check_interval = '1s'"
    )  # a runner that was killed must not leave its job running
    try:
        require_shipped(conn)
    except BaseException:
        conn.close()
        raise
    return conn


def see_rows(conn: psycopg.Connection) -> list[database.Hidden]:
    """See all rows, as `database.see_all_rows` does, of the schemas that jobs and checks are about."""
    try:
        schema = ledger.read(conn).schema
    except errors.InsufficientPrivilege:
        schema = None
    return database.see_all_rows(conn, [schema, "pgvigil", "instrumentation"] if schema else None)


def _require_work(conn: psycopg.Connection) -> None:
    """Raise PreconditionError where a job could not do its work, or could not see the rows for it."""
    preflight.require_primary(conn)
    preflight.require_triggers(conn)  # else a deleted session leaves its rows behind, and no event
    # pgvigil_admin has the one; who has the other was given what a run needs by hand.
    may = conn.execute(
        "SELECT has_any_column_privilege(to_regclass('pgvigil.jobs'), 'UPDATE') OR has_any_column_privilege(to_regclass('pgvigil.job_runs'), 'INSERT')"
    ).fetchone()
    if may == (False,):  # the same would be missing for each of them
        role = sql.Identifier(conn.info.user).as_string(conn)
        raise PreconditionError(
            f"role {role} may not run jobs", f"Run them as the owner of the tables, or GRANT pgvigil_admin TO {role};"
        )
    if schema := ledger.read(conn).schema:
        preflight.require_all_rows(conn, schema)


def _shown(text: str | None) -> str | None:
    """Return words of a failure without secrets: a trigger may have connected elsewhere."""
    from pgvigil.live.redact import hide_secrets  # here, because most calls have no need of it

    return hide_secrets(text) if text else text


def _all_shown(notes: list[str] | None) -> list[str] | None:
    return None if notes is None else [_shown(note) or "" for note in notes]


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else ""
