"""The effects of jobs that end, archive or delete, shown in advance. The owner of the tables accepts; the SQL that does the work
asks for it (pgvigil.require_consent), so that pg_cron and a plain CALL obey, too.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg
from psycopg import errors, sql

from pgvigil import other_state, project
from pgvigil.errors import PreconditionError
from pgvigil.owner import owner_of_table, rows
from pgvigil.text import counted, quoted

ALL = "all"
_WOULD = {
    "expire": "expire {}",
    "mark dormant": "mark {} dormant",
    "archive": "archive {}",
    "delete": "delete {}",
    "drop": "drop {}",
}


@dataclass(frozen=True)
class Effect:
    """A row of pgvigil.preview_jobs(): what a job would do to some of the rows it is about."""

    job: str
    action: str
    object: str
    rows: int
    status: str | None
    is_known: bool | None
    policy: str | None
    oldest: datetime | None
    newest: datetime | None
    waits_for_consent: bool


_EFFECT = "text, text, text, bigint, text, boolean, text, timestamptz, timestamptz, boolean"


@dataclass(frozen=True)
class Preview:
    """The effects of a job now; `backup_within` and `latest_backup` where it wants a proved backup."""

    job: str
    waits_for_consent: bool
    needs_consent: bool
    accepted_at: datetime | None
    accepted_by: str | None
    backup_within: timedelta | None
    latest_backup: datetime | None
    effects: tuple[Effect, ...]

    @property
    def would(self) -> str:
        """The effects in words: "delete 1,178 sessions and drop 2 partitions (about 10,000 rows)"."""
        sessions = [effect for effect in self.effects if effect.object == "sessions"]
        partitions = [effect for effect in self.effects if effect.action == "drop"]
        others = [effect for effect in self.effects if effect.object == "query_executions"]
        parts = []
        if sessions:
            parts.append(_WOULD[sessions[0].action].format(counted(sum(e.rows for e in sessions), "session")))
        if partitions:
            about = counted(sum(e.rows for e in partitions), "row")
            parts.append(f"drop {counted(len(partitions), 'partition')} (about {about})")
        if others:
            parts.append(f"delete {counted(sum(e.rows for e in others), 'query execution')}")
        return " and ".join(parts) or "do nothing"

    @property
    def lacks_backup(self) -> bool:
        """Return true if it would be refused because it needs a younger backup."""
        if self.backup_within is None:
            return False
        return self.latest_backup is None or datetime.now(UTC) - self.latest_backup > self.backup_within


def preview(conn: psycopg.Connection) -> list[Preview]:
    """Return the effects of each job that ends, marks, archives or deletes, in the order in which the jobs run."""
    effects = other_state.rows(conn, Effect, "SELECT * FROM pgvigil.preview_jobs()", _EFFECT)
    jobs = rows(
        conn,
        "job text, waits boolean, needs boolean, at timestamptz, by text, within interval, latest timestamptz",
        """SELECT j.job, j.needs_consent AND j.accepted_at IS NULL, j.needs_consent, j.accepted_at, j.accepted_by, j.backup_within,
                  (SELECT max(p.taken_at) FROM pgvigil.backup_proofs p WHERE p.taken_at <= clock_timestamp())
           FROM pgvigil.jobs j WHERE j.job = ANY ('{expiry,dormancy,archive,orphans,retention,executions}'::text[]) ORDER BY j.since, j.job""",
    )
    return [
        Preview(
            job, waits, needs, at, by, within, latest if within else None, tuple(e for e in effects if e.job == job)
        )
        for job, waits, needs, at, by, within, latest in jobs
    ]


def accept(conn: psycopg.Connection, job: str) -> list[str]:
    """Accept the effects of a job, or of all, and return the jobs that had waited for it.

    Raise PreconditionError unless the connected role has the rights of the owner of the tables.
    """
    owner = owner_of_table(conn, "pgvigil.jobs")
    if owner is None:
        raise PreconditionError(
            "this database has no jobs: it is not migrated", "See pgvigil status; then pgvigil migrate."
        )
    try:
        accepted = owner.scalar(
            conn, f"SELECT pg_catalog.string_agg(j, ' ') FROM pgvigil.accept_job({sql.quote(job)}) AS a (j)"
        )
    except errors.InsufficientPrivilege as error:
        raise PreconditionError(
            f"role {quoted(conn.info.user)} may not accept what jobs do: only {quoted(owner.name)}, the owner of the tables, or a superuser may",
            "Connect as one of these, and run this again.",
        ) from error
    return (accepted or "").split()


def refusal(job: str) -> PreconditionError:
    """The error for a job that may do nothing yet. Its commands are completed where errors are printed."""
    return PreconditionError(
        f"job {job} waits for consent: it would end, archive or delete what was there before pgvigil, and nothing was done",
        f"See what it would do:\n  pgvigil maintain preview\nThen, as the owner of the tables:\n  pgvigil maintain accept {job}",
    )


def waiting(jobs: Sequence[str], option: str) -> list[str]:
    """Return lines on the jobs that wait, with the commands that show their effects and accept them."""
    verb = "waits" if len(jobs) == 1 else "wait"
    return [
        f"{', '.join(jobs)} {verb} for consent: see what would be done, then accept it",
        *(f"  {project.command('maintain', *words, option=option)}" for words in (("preview",), ("accept", ALL))),
    ]


def counted_hours(hours: float) -> str:
    """Return hours in words: "1 hour", "26 hours", "0.5 hours"."""
    return f"{hours:g} hour" + "s" * (hours != 1)
