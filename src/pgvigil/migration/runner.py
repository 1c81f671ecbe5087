"""Run migrate and revert: each step in its order, and none before all steps before it have succeeded.

More than 400 lines: the steps of a run are read in the order in which they happen.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg

from pgvigil import database, locks
from pgvigil.backup import create, owner_code, proofs, scratch_restore
from pgvigil.backup.manifest import Backup, Kind
from pgvigil.database import Target
from pgvigil.errors import ConnectError, InvalidSchemaError, LockedError, MigrationError, PreconditionError, UsageError
from pgvigil.migration import concurrent_indexes, lock_retry, plan_report, preflight
from pgvigil.migration import rehearsal as rehearse
from pgvigil.migration.chain import Chain, Run
from pgvigil.migration.change import Change
from pgvigil.migration.files import Migration
from pgvigil.migration.lock_retry import Attempts
from pgvigil.migration.own_chain import OwnChain
from pgvigil.migration.plan_report import Plan
from pgvigil.migration.trace import Trace
from pgvigil.progress import Reporter
from pgvigil.validate import Report, event_triggers, read_early, render, validate


@dataclass(frozen=True)
class Options:
    """The options of a run. Times in seconds; `accepted` are revisions whose file may differ from what went in."""

    schema: str | None
    backup_directory: Path | None
    lock_wait: float
    lock_budget: float
    blocker_wait: float = 0
    accepted: tuple[str, ...] = ()
    backup_kind: str = "full"
    backup_proof: create.Proof = "read"
    backup_command: str | None = None
    rehearse: bool = False
    max_lock_ms: float | None = None
    run_owner_code: bool = False
    to: str | None = None  # a revision, or "base"; None is the newest
    build_wait: float = 3600
    chain: Chain = field(default_factory=OwnChain)


@dataclass(frozen=True)
class Outcome:
    """The result of a run, for the report. `applied` holds the names of the files that went in, or out if it `reverted`; `left`
    is how many are not in at the end; `warnings` what the DBA should know of the rows that were there before; `waiting` the jobs that
    wait for the owner's consent.
    """

    start: str | None
    end: str | None
    applied: list[str]
    archive: Backup | None
    warnings: list[str]
    seconds: float
    left: int
    reverted: bool = False
    schema: str = "public"
    waiting: tuple[str, ...] = ()
    chain: Chain = field(default_factory=OwnChain)


# ── migrate ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_only(target: Target, options: Options, log: Reporter) -> tuple[Run, Plan]:
    """Connect, check the preconditions and return what migrate would do.

    This changes nothing; the connection is closed.
    """
    with database.connect(target, "migrate (plan)") as conn:
        log(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        run = _prepare(conn, options, log)
        for _, text in preflight.blockers(conn, run.schema) if run.pending else []:
            log(f"warning: in the way of a migration: {text}")
        plan = plan_report.read(run, kind=options.backup_kind, directory=options.backup_directory)
        return run, plan


def migrate(target: Target, options: Options, log: Reporter) -> Outcome:
    """Migrate a database: connect, preconditions, plan, lock, backup, apply, repair indexes, validate.

    A database beyond `options.to` is reverted.

    Raise a PgvigilError of its documented exit code. Up to and including a failed transaction nothing is changed.
    """
    clock = time.monotonic()
    chain = options.chain
    with database.connect(target, "migrate") as conn:
        log(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        run = _prepare(conn, options, log)
        if run.to_revert:
            return revert(target, cast("str", options.to), options, log)
        archive = None
        applied: list[Migration] = []
        start = run.state.revision
        if run.pending or _index_repairs(run):
            if run.pending:
                _require_sessions(conn, options)
            with locks.run_lock(conn, options.lock_wait):
                run = run.read_again()  # whoever held the lock may have done it
                start = run.state.revision
                if run.pending:
                    chain.begin(run, target, log)
                    preflight.require_nobody_in_the_way(conn, run.schema, options.blocker_wait, log)
                    archive = _backup(run, target, options, log)
                    with proofs.recorded(conn, archive, log):
                        if options.rehearse:
                            _rehearse(run, target, archive, options, log)
                        applied = apply_pending(run, target, options, log)
                _repair_indexes(run.read_again(), target, options, log)
        chain.accept(run, options.accepted)
        end = run.migrations[run.end - 1].revision if run.end else None
        names = [m.name for m in applied]
        took, left = time.monotonic() - clock, len(run.beyond_target)
        waiting = chain.waiting_jobs(conn)
        outcome = Outcome(
            start, end, names, archive, chain.warnings(conn), took, left, schema=run.schema, waiting=waiting, chain=chain
        )  # fmt: skip
        if run.beyond_target and (not chain.staged or run.beyond_target[0].transactional):
            return outcome  # what is not all in cannot meet the spec; that it leads there was seen before the commit
        declared = chain.declaration()
        if declared is None:
            return outcome
        log("validating")
        report = (
            validate(conn, declared, run.schema, before=[m.revision for m in run.beyond_target])
            if run.beyond_target
            else chain.verdict(conn, target, run.schema)
        )
        log.document["validation"] = json.loads(render(report, "json"))
    if applied:
        require_valid(report, chain, f"To undo this run: {undo_command(outcome, target)}")
    else:
        require_valid(
            report,
            chain,
            "Every migration is in; the schema was changed since. To see this again: "
            + chain.command("validate", schema=run.schema, option=target.option),
        )
    return outcome


def require_valid(report: Report, chain: Chain, hint: str) -> None:
    """Raise InvalidSchemaError for a report with findings, and ConnectError for one that only lacks something to compare."""
    if report.unchecked and not report.findings:
        raise ConnectError(f"not everything could be compared with {chain.spec_name}:\n{render(report, 'text')}", hint)
    if not report.ok:
        raise InvalidSchemaError(f"the schema does not meet {chain.spec_name}:\n{render(report, 'text')}", hint)


def undo_command(outcome: Outcome, target: Target) -> str:
    """Return the command that restores the schema that the run found."""
    verb, start = "migrate" if outcome.reverted else "revert", outcome.start or "base"
    return outcome.chain.command(verb, "--to", start, schema=outcome.schema, option=target.option)


def _prepare(conn: psycopg.Connection, options: Options, log: Reporter) -> Run:
    run = open_run(conn, options, log)
    run.chain.require_ready(run, log)
    plan_of = [("in", m) for m in run.pending] + [("out", m) for m in run.to_revert]
    log.document["plan"] = [
        {
            "name": m.name,
            "transactional": m.transactional,
            "goes": way,
            "baselined": way == "in"
            and m is run.migrations[0]
            and not run.state.entries
            and bool(run.chain.application_tables),
        }
        for way, m in plan_of
    ]
    return run


def open_run(conn: psycopg.Connection, options: Options, log: Reporter) -> Run:
    """Check the preconditions of every run: a server we know, a primary, a ledger that fits the files."""
    preflight.require_usable_server(conn)
    chain = options.chain
    migrations = chain.load()
    for migration in migrations:
        _ = migration.statements  # a file that is not SQL is found before anything is begun
    schema, state, warnings = chain.open(conn, options.schema, migrations, options.accepted)
    for warning in warnings:
        log(f"warning: {warning}")
    return Run(conn, chain, schema, migrations, state, _position(migrations, options.to))


def _position(migrations: list[Migration], to: str | None) -> int:
    """Return the number of migrations that are applied at a revision."""
    known = ["base", *(m.revision for m in migrations)]
    if to is not None and to not in known:
        raise UsageError(f"there is no revision {to}", f"Known are: {', '.join(known)}.")
    return len(migrations) if to is None else known.index(to)


def _backup(run: Run, target: Target, options: Options, log: Reporter) -> Backup | None:
    if options.rehearse:
        run.chain.require_rehearsal(run.pending)
        scratch_restore.require_right_to_rehearse(run.conn)
        owner_code.require_consent_for(run.conn, options.run_owner_code, otherwise="leave --rehearse out")
    if options.backup_kind == "none":
        log("warning: skipping the backup (--backup none)")
        return None
    return create.create(
        run.conn, target, options.backup_directory, run.state.revision, log,
        kind=cast("Kind", options.backup_kind), proof=options.backup_proof, command=options.backup_command,
        run_owner_code=options.run_owner_code,
    )  # fmt: skip


def _rehearse(run: Run, target: Target, archive: Backup | None, options: Options, log: Reporter) -> None:
    """Rehearse on a copy made from the backup just verified.

    Raise PreconditionError where a lock would be held for too long.
    """
    if archive is None or archive.kind != "full" or archive.archive is None:
        raise UsageError(
            "a rehearsal needs a full backup to make its copy from", "Use --backup full. Nothing was changed."
        )
    silent = Reporter()

    def work(conn: psycopg.Connection) -> list[dict[str, Any]]:
        with locks.run_lock(conn, options.lock_wait):
            apply_pending(open_run(conn, options, silent), there, options, silent, rehearsing=True)
        return cast("list[dict[str, Any]]", silent.document.get("statements", []))

    log("rehearsing on a scratch copy")
    with scratch_restore.rehearsal_copy(run.conn, target, Path(archive.archive), log.indented()) as there:
        rehearsal = rehearse.rehearse(there, work)
    log.document["rehearsal"] = asdict(rehearsal) | {"statements": silent.document.get("statements", [])}
    for lock in rehearsal.locks:
        log(f"  {lock.table}: {lock.mode} for {lock.held_ms:.0f} ms, from: {lock.statement}")
    log(f"  rewritten tables: {', '.join(rehearsal.rewritten) or 'none'}; took {rehearsal.seconds:.1f} s")
    if options.max_lock_ms is not None and rehearsal.longest_lock_ms > options.max_lock_ms:
        raise PreconditionError(
            f"in the rehearsal {rehearsal.locks[0].table} was locked against writers for {rehearsal.longest_lock_ms:.0f} ms, "
            f"more than --max-lock-ms {options.max_lock_ms:.0f}",
            "Run it at a quieter time, or allow more. The database itself was not changed; the backup is kept.",
        )


def apply_pending(
    run: Run, target: Target, options: Options, log: Reporter, *, rehearsing: bool = False
) -> list[Migration]:
    """Apply the pending files, group by group. A transaction is rolled back where its result differs from the spec."""
    chain = run.chain
    declared = chain.declaration()  # before any lock is held
    done: list[Migration] = []
    with _attempts(run, target, options, log) as attempt:
        for group in chain.groups(run.pending):
            names = f"{group[0].name} … {group[-1].name} in one transaction" if len(group) > 1 else group[0].name
            log(f"running {names}")
            clock = time.monotonic()
            follow = chain.groups([*run.pending[len(done) + len(group) :], *run.beyond_target])
            previewed = chain.staged and follow and group[0].transactional and follow[0][0].transactional
            preview = follow.pop(0) if previewed else []
            unmet = [m.revision for later in follow for m in later]

            early: dict[str, Any] = {}

            def before_lock(early: dict[str, Any] = early) -> None:
                early.clear()  # another attempt at it may have come this far
                if declared:
                    early.update(read_early(run.conn, declared.scope(run.schema), run.schema))

            def before_commit(unmet: list[str] = unmet, early: dict[str, Any] = early) -> None:
                locks.require_run_lock(run.conn)
                if declared is None or (unmet and not chain.staged):
                    return
                report = validate(run.conn, declared, run.schema, before=unmet or None, early=early)
                if not report.ok:
                    raise MigrationError(
                        f"the result would not meet {chain.spec_name}:\n{render(report, 'text')}",
                        "Something in this database or a change of the files made it so. Undo that, then run this again.",
                    )

            with _rolled_back_when_lost(run.conn, names):
                try:
                    change = Change(before_commit, group, before_lock, preview)
                    attempt(partial(chain.apply_group, run.conn, change))
                except (MigrationError, LockedError) as error:
                    if isinstance(error, MigrationError):
                        _name_event_triggers(error, run.conn)
                    error.hint = f"{error.hint} {_REHEARSED if rehearsing else _what_stays(group, done)}"
                    raise
            log(f"  done in {time.monotonic() - clock:.2f} s")
            done += group
    return done


def _name_event_triggers(error: MigrationError, conn: psycopg.Connection) -> None:
    if not conn.closed:
        error.hint = f"{error.hint} {event_triggers(conn)}".strip()


@contextmanager
def _rolled_back_when_lost(conn: psycopg.Connection, names: str) -> Iterator[None]:
    """Raise MigrationError instead of any error that a lost connection causes in psycopg or SQLAlchemy."""
    try:
        yield
    except Exception as error:
        if not conn.closed:
            raise
        reason = database.lost(error, f" during {names}")
        raise MigrationError(
            reason.message,
            "The server rolls back the open transaction. Run this again: it continues from the revision in the ledger.",
        ) from error


_REHEARSED = "This was the rehearsal on a scratch copy: the database itself was not changed."


def _what_stays(group: list[Migration], done: list[Migration]) -> str:
    if not group[0].transactional:
        return "This file runs outside a transaction; its finished statements stay and are found done next time."
    rolled_back = "The transaction was rolled back."
    return f"{rolled_back} The files up to {done[-1].name} are in the ledger and stay." if done else rolled_back


def _attempts(run: Run, target: Target, options: Options, log: Reporter) -> Attempts:
    return Attempts(
        run.conn, target, log, budget=options.lock_budget, build_wait=options.build_wait,
        watched=lock_retry.can_be_watched(run.conn, log),
    )  # fmt: skip


def _require_sessions(conn: psycopg.Connection, options: Options) -> None:
    if options.backup_kind != "none":
        create.require_sessions(conn, cast("Kind", options.backup_kind))


@contextmanager
def _revert_lock(conn: psycopg.Connection, options: Options) -> Iterator[None]:
    _require_sessions(conn, options)
    with locks.run_lock(conn, options.lock_wait):
        yield


# ── What builds left behind that did not finish ───────────────────────────────────────────────────────────────────────


def _index_repairs(run: Run) -> Sequence[tuple[str, Callable[[Trace], None]]]:
    """Return the action for each INVALID index: ours is built again, what a REINDEX left beside ours is dropped."""
    names, tables = run.chain.index_names(run.schema)
    return [
        (
            f"building {index.rpartition('.')[2]} again, which was INVALID",
            partial(lock_retry.build_again, run.conn, index),
        )
        for index in concurrent_indexes.unfinished(run.conn, run.applied, run.schema)
    ] + [
        (
            f"dropping {index}, which a REINDEX that did not finish left",
            partial(lock_retry.drop_leftover, run.conn, index),
        )
        for index in concurrent_indexes.leftover_indexes(run.conn, names, tables)
    ]


def _repair_indexes(run: Run, target: Target, options: Options, log: Reporter) -> None:
    if repairs := _index_repairs(run):
        with _attempts(run, target, options, log) as attempt:
            for words, step in repairs:
                log(words)
                attempt(step)


# ── revert ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def revert(target: Target, to: str, options: Options, log: Reporter) -> Outcome:
    """Revert files down to `to` (a revision, or "base" for all), in one transaction, after a verified backup."""
    clock, chain = time.monotonic(), options.chain
    with database.connect(target, "revert") as conn, _revert_lock(conn, options):
        log(f"connected to {target}")
        run = open_run(conn, replace(options, to=to), log)
        to_revert = run.to_revert
        archive = None
        if to_revert:
            chain.require_reversible(to_revert)
            archive = _backup(run, target, options, log)
            how = " in one transaction" * chain.reverts_at_once(to_revert)
            log(f"reverting {to_revert[0].name} … {to_revert[-1].name}{how}")
            names_of = f"the revert of {to_revert[0].name} … {to_revert[-1].name}"
            with (
                proofs.recorded(conn, archive, log),
                _attempts(run, target, options, log) as attempt,
                _rolled_back_when_lost(conn, names_of),
            ):
                try:
                    change = Change(lambda: locks.require_run_lock(conn), to_revert=to_revert, down_to=to)
                    attempt(partial(chain.apply_group, conn, change))
                except MigrationError as error:
                    _name_event_triggers(error, conn)
                    raise
        start, end = run.state.revision, chain.read(conn).revision
        warnings = chain.left_by_revert(conn, run.schema) if to_revert and end is None else []
    names = [m.name for m in to_revert]
    left = len(run.migrations) - run.end
    return Outcome(
        start,
        end,
        names,
        archive,
        warnings,
        time.monotonic() - clock,
        left,
        reverted=True,
        schema=run.schema,
        chain=chain,
    )
