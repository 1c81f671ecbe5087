"""The jobs that need a client: what PostgreSQL does in no transaction, and backups. begin_job has taken the job's lock.

Each is a function of a Run, to which it reports all it does; it raises a PgvigilError when it failed. What it did stays.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import psycopg

from pgvigil import locks
from pgvigil.archives import write as archives
from pgvigil.backup import catalogue, create, proofs
from pgvigil.backup.create import Proof
from pgvigil.database import Target
from pgvigil.errors import BackupError, JobError, LockedError
from pgvigil.maintenance import remote_holds
from pgvigil.migration import concurrent_indexes, ledger, lock_retry
from pgvigil.migration.lock_retry import Attempts
from pgvigil.migration.trace import Trace
from pgvigil.owner import execute, rows
from pgvigil.progress import Reporter


@dataclass(frozen=True)
class Options:
    """The options of the jobs. `lock_budget` is the seconds that one table may take to get its lock; `build_wait` those that the
    indexes of a run may wait for old transactions, in vain and all together.
    """

    backup_directory: Path | None = None
    backup_proof: Proof = "restore"
    keep_days: float = 30
    lock_budget: float = 60
    build_wait: float = 3600
    run_owner_code: bool = False
    archive_to: str | None = None
    telemetry_url: str | None = None


@dataclass(frozen=True)
class Run:
    """A row of pgvigil.job_runs that is being written, and the connection that holds the lock."""

    conn: psycopg.Connection
    target: Target
    job: str
    run_id: int
    options: Options
    log: Reporter

    def did(self, count: int = 0, note: str | None = None, *, through_with: str | None = None) -> None:
        """Add to the row of the run. Raise LockedError where another session has taken this run for dead."""
        self._report(count, note, None, False, through_with)

    def end(self, failure: str | None) -> int:
        """Close the row and release the lock. Return the total count."""
        total = self._report(0, None, failure, True, None)
        execute(self.conn, "SELECT pgvigil.release_job(%s)", (self.run_id,))
        return total

    def _report(self, *values: object) -> int:
        [(total,)] = rows(
            self.conn, "total bigint", "SELECT pgvigil.report_job(%s, %s, %s, %s, %s, %s)", (self.run_id, *values)
        )
        if total is None:
            raise LockedError(
                f"job {self.job} has lost its lock, and is run by another", "See pgvigil maintain status."
            )
        return int(total)


# ── backup ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def _backup(run: Run) -> None:
    options, directory = run.options, run.options.backup_directory or create.default_directory()
    revision = ledger.read(run.conn).revision
    made = create.create(
        run.conn, run.target, directory, revision, run.log.indented(),
        proof=options.backup_proof, run_owner_code=options.run_owner_code,
    )  # fmt: skip
    run.did(made.rows, f"{made.archive}, {made.size / 1e6:.1f} MB, {made.verified}")
    for finding in made.findings:
        run.did(note=f"the database is not sound: {finding}")
    for left in made.left_out:
        run.did(note=f"not in the backup: {left}")
    if warning := proofs.record_made(run.conn, made):
        run.did(note=warning)
    try:
        gone = catalogue.prune(directory, options.keep_days, of=made.origin).removed
    except BackupError as error:  # there is a backup all the same, and to take another would not help
        run.did(note=f"nothing was pruned: {error.message}")
        return
    if gone:
        run.did(note=f"pruned {len(gone)} of more than {options.keep_days:g} days or without an end")


# ── reindex and vacuum: object by object, in an order that a run which was cut short goes on with ─────────────────────

# Smaller ones are read as a whole in an instant, however their pages look. An exclusion constraint's index cannot be built so.
_INDEXES = """
SELECT format('%I.%I', n.nspname, c.relname)
FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.oid = ANY (pgvigil.watched_schemas()) AND c.relkind = 'i' AND i.indisvalid AND NOT i.indisexclusion
  AND c.relpersistence <> 't' AND pg_relation_size(c.oid) >= 1048576
ORDER BY 1"""
_TABLES = """
SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
WHERE n.oid = ANY (pgvigil.watched_schemas()) AND c.relkind IN ('r', 'm') AND c.relpersistence <> 't'
ORDER BY 1"""


def _reindex(run: Run) -> None:
    def drop_leftover(name: str, trace: Trace) -> None:
        lock_retry.drop_leftover(run.conn, name, trace)
        run.did(note=f"dropped {name}, which a REINDEX that did not finish had left")

    def rebuild(name: str, trace: Trace) -> None:
        trace.at = (name, 0)
        concurrent_indexes.rebuild(run.conn, name, lambda words: run.did(note=words))
        run.did(1, through_with=name)

    tables = [name for (name,) in rows(run.conn, "name text", _TABLES)]
    left, ahead = concurrent_indexes.leftover_indexes(run.conn, [], tables), _ahead(run, _INDEXES)
    _require_all(_each(run, left, drop_leftover) + _each(run, ahead, rebuild), len(left) + len(ahead))


def _vacuum(run: Run) -> None:
    warned: list[str] = []
    run.conn.add_notice_handler(lambda notice: warned.append(notice.message_primary or ""))

    def vacuum(name: str, trace: Trace) -> None:
        trace.at = (name, 0)
        warned.clear()
        run.conn.execute(f"VACUUM {name}".encode())
        if warned:  # for VACUUM a table of another owner is not an error
            raise JobError(f"{name}: {'; '.join(warned)}")
        run.did(1, through_with=name)

    ahead = _ahead(run, _TABLES)
    _require_all(_each(run, ahead, vacuum), len(ahead))


def _ahead(run: Run, query: str) -> list[str]:
    """Return the objects of the query that an interrupted run has not completed."""
    seen = {name for (name,) in rows(run.conn, "name text", "SELECT unnest(pgvigil.completed_items(%s))", (run.job,))}
    return [name for (name,) in rows(run.conn, "name text", query) if name not in seen]


def _each(run: Run, names: list[str], step: Callable[[str, Trace], None]) -> list[str]:
    """Run the step for each name. Return the names that were skipped, with the reasons."""
    run.conn.execute(f"SET lock_timeout = '{locks.LOCK_TIMEOUT_MS}ms'")
    passed = []
    wait = run.options.build_wait
    watched = lock_retry.can_be_watched(run.conn, run.log.indented())
    for number, name in enumerate(names):
        run.log.progress(f"{run.job}: {name} ({number + 1} of {len(names)})", number / len(names))
        began = time.monotonic()
        try:
            # A watch for each: one that has given up stays so.
            with Attempts(
                run.conn,
                run.target,
                run.log.indented(),
                budget=run.options.lock_budget,
                build_wait=wait,
                watched=watched,
            ) as attempt:
                attempt(partial(step, name))
        except (JobError, LockedError, psycopg.Error) as error:
            if run.conn.closed:
                raise
            # Who holds up one holds up the next: one old snapshot, every REINDEX. So they wait as long together as one may.
            wait = max(wait - (time.monotonic() - began), min(wait, 1.0))
            if run.conn.execute("SELECT to_regclass(%s) IS NULL", (name,)).fetchone() == (True,):
                continue  # dropped meanwhile
            words = " ".join(str(error).split())
            passed.append(words if name in words else f"{name}: {words}")
            run.did(note=f"passed over {passed[-1]}")
    return passed


def _require_all(passed: list[str], of: int) -> None:
    if passed:
        raise JobError(f"{len(passed)} of {of} were passed over: {passed[0]}", "The next run tries them again.")


# ── archive_files ─────────────────────────────────────────────────────────────────────────────────────────────────────


def _archive_files(run: Run) -> None:
    location = run.options.archive_to or os.environ.get("PGVIGIL_ARCHIVE")
    archives.archive_all(run.conn, location, run.did, run.log.progress)


def _holds(run: Run) -> None:
    url = run.options.telemetry_url or os.environ.get("PGVIGIL_TELEMETRY_URL")
    if not url:
        raise JobError(
            "no telemetry server is given",
            "Set PGVIGIL_TELEMETRY_URL, or --telemetry-url, to its database; or disable job holds.",
        )
    run.did(remote_holds.push(run.conn, url))


JOBS: dict[str, Callable[[Run], None]] = {
    "archive_files": _archive_files,
    "holds": _holds,
    "backup": _backup,
    "reindex": _reindex,
    "vacuum": _vacuum,
}
