"""migrate and revert: each step in its order, and nothing begun before everything before it has succeeded."""

from __future__ import annotations

import json
import os
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import cast

import psycopg

from pgvigil import database, project
from pgvigil.build import apply, backup, ledger, locks, plan, preflight, rehearse, restore
from pgvigil.build.journal import Journal
from pgvigil.build.plan import Migration
from pgvigil.database import Target
from pgvigil.errors import InvalidSchemaError, LockedError, MigrationError, PreconditionError, UsageError
from pgvigil.validate import Report, load_spec, render, validate


@dataclass(frozen=True)
class Options:
    """How a run behaves. Times in seconds; `accepted` are revisions whose file may differ from what went in."""

    schema: str | None
    backup_directory: Path | None
    lock_wait: float
    lock_budget: float
    blocker_wait: float = 0
    accepted: tuple[str, ...] = ()
    backup_kind: str = "full"
    backup_proof: backup.Proof = "read"
    backup_command: str | None = None
    rehearse: bool = False
    max_lock_ms: float | None = None


@dataclass(frozen=True)
class Outcome:
    """What a run did, for the report. `moved` holds the names of the files that went in or out; `remarks` what the DBA
    should know of the rows that were there before.
    """

    start: str | None
    end: str | None
    moved: list[str]
    archive: backup.Backup | None
    remarks: list[str]
    seconds: float


@dataclass
class Run:
    """A connection with a schema, its place in the ledger, and what is pending."""

    conn: psycopg.Connection
    schema: str
    migrations: list[Migration]
    state: ledger.State

    @property
    def pending(self) -> list[Migration]:
        return self.migrations[len(self.state.entries) :]


def program() -> str:
    """How the user calls us, for commands we print: the scripts say so, else it is the installed command."""
    return os.environ.get("PGVIGIL_PROGRAM", "pgvigil")


# ── migrate ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def pending(target: Target, options: Options, tell: Journal) -> list[Migration]:
    """Connects, checks the preconditions and says what migrate would do. Changes nothing."""
    with database.connect(target, "migrate (plan)") as conn:
        tell(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        run = _prepare(conn, options, tell)
        for _, text in preflight.blockers(conn, run.schema) if run.pending else []:
            tell(f"warning: in the way of a migration: {text}")
        return run.pending


def migrate(target: Target, options: Options, tell: Journal) -> Outcome:
    """connect → preconditions → plan → lock → backup → apply → validate.

    Raises a PgvigilError of its documented exit code; up to and including a failed transaction nothing is changed.
    """
    clock = time.monotonic()
    with database.connect(target, "migrate") as conn:
        tell(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        run = _prepare(conn, options, tell)
        archive = None
        moved: list[Migration] = []
        start = run.state.revision
        if run.pending:
            with locks.run_lock(conn, options.lock_wait):
                run = replace(run, state=ledger.read(conn))  # whoever held the lock may have done it
                start = run.state.revision
                if run.pending:
                    preflight.require_nobody_in_the_way(conn, run.schema, options.blocker_wait, tell)
                    archive = _backup(run, target, options, tell)
                    if options.rehearse:
                        _rehearse(run, target, archive, options, tell)
                    moved = apply_pending(run, target, options, tell)
        ledger.accept(conn, run.migrations, options.accepted)
        tell("validating")
        report = validate(conn, load_spec(project.SPEC), run.schema)
        tell.document["validation"] = json.loads(render(report, "json"))
        names = [m.name for m in moved]
        outcome = Outcome(start, run.migrations[-1].revision, names, archive, _remarks(conn), time.monotonic() - clock)
    if moved:
        require_valid(report, f"To undo this run: {undo_command(outcome, target)}")
    else:
        require_valid(
            report,
            f"Every migration is in; the schema was changed since. To see this again: {program()} validate{target.option}",
        )
    return outcome


def require_valid(report: Report, hint: str) -> None:
    if not report.ok:
        raise InvalidSchemaError(f"the schema does not meet {project.SPEC.name}:\n{render(report, 'text')}", hint)


def _remarks(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute(
        """SELECT format('%s.%s holds %L, which is not in its list (%s rows): tolerated until it is cleaned and CALL pgvigil.tighten_value_checks() is run',
                         table_name, column_name, value, rows_found) FROM pgvigil.tolerated_values
           UNION ALL
           SELECT format('%s was there in another shape: it is kept whole as pgvigil.legacy_%s, and %s of its %s rows are now in %s%s',
                         table_name, table_name, rows_adopted, coalesce(rows_found::text, '?'), table_name,
                         CASE WHEN rows_adopted < rows_found THEN '; the others break its constraints' ELSE '' END)
           FROM pgvigil.leftovers"""
    ).fetchall()
    return [row[0] for row in rows]


def undo_command(outcome: Outcome, target: Target) -> str:
    """What brings the schema back to where the run found it."""
    return f"{program()} revert --to {outcome.start or 'base'}{target.option}"


def _prepare(conn: psycopg.Connection, options: Options, tell: Journal) -> Run:
    run = open_run(conn, options, tell)
    if not run.state.entries:
        if not apply.application_tables(conn, run.schema):
            raise PreconditionError(
                f'schema "{run.schema}" of database "{conn.info.dbname}" has none of the session application\'s tables '
                f"({', '.join(apply.APPLICATION_TABLES)})",
                "Is this the right database and --schema? A new, empty database is built by scripts/setup-enhanced-db.sh.",
            )
        apply.require_application(conn, run.schema)
    if run.pending:
        preflight.require_rights(conn, run.schema)
        for warning in preflight.warnings(conn, run.schema):
            tell(f"warning: {warning}")
    tell.document["plan"] = [{"name": m.name, "transactional": m.transactional} for m in run.pending]
    return run


def open_run(conn: psycopg.Connection, options: Options, tell: Journal) -> Run:
    """What holds for every run: a server we know, a primary, a ledger that fits the files."""
    preflight.require_usable_server(conn)
    migrations = plan.load(project.MIGRATIONS)
    for migration in migrations:
        _ = migration.statements  # a file that is no SQL is found before anything is begun
    state = ledger.read(conn)
    schema = state.schema or options.schema or "public"
    if options.schema and options.schema != schema:
        raise PreconditionError(
            f'pgvigil watches schema "{schema}" in this database, not "{options.schema}"', "Leave --schema out."
        )
    if not preflight.one(conn, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", schema):
        raise PreconditionError(f'there is no schema "{schema}" in database "{conn.info.dbname}"', "Check --schema.")
    if not state.entries and preflight.one(conn, "SELECT to_regnamespace('pgvigil') IS NOT NULL"):
        raise PreconditionError(
            "there is a schema pgvigil, but no ledger in it: something else, or a restore that was cut short, made it",
            "Look at what it holds (\\dn+ pgvigil, \\dt pgvigil.*) and drop or rename it.",
        )
    for warning in ledger.compare(state, migrations, options.accepted):
        tell(f"warning: {warning}")
    apply.pin(conn, schema)
    return Run(conn, schema, migrations, state)


def _backup(run: Run, target: Target, options: Options, tell: Journal) -> backup.Backup | None:
    if options.backup_kind == "none":
        tell("warning: no backup is taken, as you said")
        return None
    directory = options.backup_directory or backup.default_directory()
    tell(f"backing up to {directory}")
    archive = backup.take(
        run.conn, target, directory, run.state.revision, lambda text: tell(f"  {text}"),
        kind=cast("backup.Kind", options.backup_kind), proof=options.backup_proof, command=options.backup_command,
    )  # fmt: skip
    what = (
        f"{archive.archive} ({archive.size / 1e6:.1f} MB, sha256 {archive.sha256[:16]}…)"
        if archive.archive
        else archive.manifest
    )
    tell(f"  proved: {what}; {archive.verified}")
    tell.document["backup"] = asdict(archive)
    return archive


def _rehearse(run: Run, target: Target, archive: backup.Backup | None, options: Options, tell: Journal) -> None:
    """On a copy made from the backup just proved. Raises PreconditionError when a lock would be held for too long."""
    if archive is None or archive.kind != "full" or archive.archive is None:
        raise UsageError(
            "a rehearsal needs a full backup to make its copy from", "Use --backup full. Nothing was changed."
        )
    silent = Journal(lambda _: None)

    def work(conn: psycopg.Connection) -> None:
        with locks.run_lock(conn, options.lock_wait):
            apply_pending(open_run(conn, options, silent), there, options, silent)

    tell("rehearsing on a scratch copy")
    with restore.scratch(
        run.conn, target, Path(archive.archive), "pgvigil_rehearsal", lambda text: tell(f"  {text}")
    ) as there:
        rehearsal = rehearse.rehearse(there, work)
    tell.document["rehearsal"] = asdict(rehearsal)
    for lock in rehearsal.locks:
        tell(f"  {lock.table}: {lock.mode} for {lock.held_ms:.0f} ms, from: {lock.statement}")
    tell(f"  rewritten tables: {', '.join(rehearsal.rewritten) or 'none'}; took {rehearsal.seconds:.1f} s")
    if options.max_lock_ms is not None and rehearsal.longest_lock_ms > options.max_lock_ms:
        raise PreconditionError(
            f"in the rehearsal {rehearsal.locks[0].table} was locked against writers for {rehearsal.longest_lock_ms:.0f} ms, "
            f"more than --max-lock-ms {options.max_lock_ms:.0f}",
            "Run it at a quieter time, or allow more. The database itself was not changed; the backup is kept.",
        )


def apply_pending(run: Run, target: Target, options: Options, tell: Journal) -> list[Migration]:
    """Brings in what is pending, group by group. A transaction that does not lead to what the spec declares is rolled back."""
    spec = load_spec(project.SPEC)
    done: list[Migration] = []
    with _watch(run, target, tell) as watch:
        for group in plan.groups(run.pending):
            names = f"{group[0].name} … {group[-1].name} in one transaction" if len(group) > 1 else group[0].name
            tell(f"running {names}")
            clock = time.monotonic()
            later = [m.revision for m in run.pending[len(done) + len(group) :]]

            def before_commit(later: list[str] = later) -> None:
                locks.require_run_lock(run.conn)
                report = validate(run.conn, spec, run.schema, before=later[0] if later else None)
                if not report.ok:
                    raise MigrationError(
                        f"the result would not meet {project.SPEC.name}:\n{render(report, 'text')}",
                        "Mend the migration or the spec, then run this again.",
                    )

            def attempt(group: list[Migration] = group, check: Callable[[], None] = before_commit) -> None:
                for timing in apply.move(run.conn, group, before_commit=check):
                    tell.add("statements", timing)

            try:
                locks.retried(attempt, budget=options.lock_budget, watch=watch, waited=_waited(tell))
            except psycopg.OperationalError as error:
                raise MigrationError(
                    f"the connection was lost during {names}: {' '.join(str(error).split())}",
                    "What ran in a transaction is rolled back by the server. Run this again: it goes on from where the ledger stands.",
                ) from error
            except (MigrationError, LockedError) as error:
                error.hint = f"{error.hint} {_what_stays(group, done)}"
                raise
            tell(f"  done in {time.monotonic() - clock:.2f} s")
            done += group
    return done


def _waited(tell: Journal) -> Callable[[int, list[locks.Blocker]], None]:
    def waited(number: int, blockers: list[locks.Blocker]) -> None:
        tell(f"  waiting for a table lock (try {number}), held by {locks.names(blockers)}")
        tell.add("waits", {"try": number, "blockers": [asdict(blocker) for blocker in blockers]})

    return waited


def _what_stays(group: list[Migration], done: list[Migration]) -> str:
    if not group[0].transactional:
        return "This file runs outside a transaction; its finished statements stay and are found done next time."
    rolled_back = "The transaction was rolled back."
    return f"{rolled_back} The files up to {done[-1].name} are in the ledger and stay." if done else rolled_back


def _watch(run: Run, target: Target, tell: Journal) -> locks.Watch:
    return locks.Watch(database.connect(target, "watch"), run.conn.info.backend_pid, tell)


# ── revert ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def revert(target: Target, to: str, options: Options, tell: Journal) -> Outcome:
    """Takes files back out, down to `to` (a revision, or "base" for all), in one transaction, after a proved backup."""
    clock = time.monotonic()
    with database.connect(target, "revert") as conn, locks.run_lock(conn, options.lock_wait):
        tell(f"connected to {target}")
        run = open_run(conn, options, tell)
        known = ["base", *(m.revision for m in run.migrations)]
        if to not in known:
            raise UsageError(f"there is no revision {to}", f"Known are: {', '.join(known)}.")
        leaving = [m for m in run.migrations[: len(run.state.entries)] if to == "base" or m.revision > to]
        archive = None
        if leaving:
            archive = _backup(run, target, options, tell)
            tell(f"reverting {leaving[-1].name} … {leaving[0].name} in one transaction")
            with _watch(run, target, tell) as watch:
                locks.retried(
                    lambda: apply.move(conn, [], down_to=to, before_commit=lambda: locks.require_run_lock(conn)),
                    budget=options.lock_budget, watch=watch, waited=_waited(tell),
                )  # fmt: skip
        start, end = run.state.revision, ledger.read(conn).revision
    names = [m.name for m in reversed(leaving)]
    return Outcome(start, end, names, archive, [], time.monotonic() - clock)
