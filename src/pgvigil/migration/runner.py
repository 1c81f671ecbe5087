"""migrate and revert: each step in its order, and nothing begun before everything before it has succeeded."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any, cast

import psycopg

from pgvigil import database, locks, project
from pgvigil.backup import create, owner_code, proofs, scratch_restore
from pgvigil.backup.manifest import Backup, Kind
from pgvigil.database import Target
from pgvigil.errors import InvalidSchemaError, LockedError, MigrationError, PreconditionError, UsageError
from pgvigil.migration import apply, concurrent_indexes, ledger, lock_retry, plan_report, preflight
from pgvigil.migration import files as plan
from pgvigil.migration import rehearsal as rehearse
from pgvigil.migration.files import Migration
from pgvigil.migration.lock_retry import Attempts
from pgvigil.migration.plan_report import Plan
from pgvigil.migration.trace import Trace
from pgvigil.owner import OWN_ROLE, owner_of
from pgvigil.planned_code import planned_code
from pgvigil.progress import Reporter
from pgvigil.shipped import require_shipped
from pgvigil.validate import (
    Reference,
    Report,
    Spec,
    event_triggers,
    keep_reference,
    load_declaration,
    load_spec,
    read_early,
    render,
    validate,
)


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
    backup_proof: create.Proof = "read"
    backup_command: str | None = None
    rehearse: bool = False
    max_lock_ms: float | None = None
    run_owner_code: bool = False
    to: str | None = None  # a revision, or "base"; None is the newest
    build_wait: float = 3600


@dataclass(frozen=True)
class Outcome:
    """What a run did, for the report. `applied` holds the names of the files that went in, or out if it `reverted`; `left`
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


@dataclass
class Run:
    """A connection with a schema, its place in the ledger, and what is pending."""

    conn: psycopg.Connection
    schema: str
    migrations: list[Migration]
    state: ledger.State
    end: int  # how many of the migrations are to be in afterwards

    @property
    def pending(self) -> list[Migration]:
        """What is to go in, up to where the run is to end."""
        return self.migrations[len(self.state.entries) : self.end]

    @property
    def applied(self) -> list[Migration]:
        return self.migrations[: len(self.state.entries)]

    @property
    def to_revert(self) -> list[Migration]:
        """What is to be taken out, the newest first."""
        return self.applied[self.end :][::-1]

    @property
    def beyond(self) -> list[Migration]:
        """What is on disk beyond the end of the run."""
        return self.migrations[self.end :]


# ── migrate ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def plan_only(target: Target, options: Options, log: Reporter) -> tuple[Run, Plan]:
    """Connects, checks the preconditions and returns what migrate would do. Changes nothing; the connection is closed."""
    with database.connect(target, "migrate (plan)") as conn:
        log(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        run = _prepare(conn, options, log)
        for _, text in preflight.blockers(conn, run.schema) if run.pending else []:
            log(f"warning: in the way of a migration: {text}")
        plan = plan_report.read(
            conn, run.schema, run.state.revision, run.migrations, run.pending, run.to_revert,
            kind=options.backup_kind, directory=options.backup_directory,
        )  # fmt: skip
        return run, plan


def migrate(target: Target, options: Options, log: Reporter) -> Outcome:
    """connect → preconditions → plan → lock → backup → apply → heal → validate. A database beyond `options.to` is reverted.

    Raises a PgvigilError of its documented exit code; up to and including a failed transaction nothing is changed.
    """
    clock = time.monotonic()
    spec = load_spec(project.SPEC)
    with database.connect(target, "migrate") as conn:
        log(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        run = _prepare(conn, options, log)
        if run.to_revert:
            return revert(target, cast("str", options.to), options, log)
        archive = None
        applied: list[Migration] = []
        start = run.state.revision
        if run.pending or _index_repairs(run, spec):
            with locks.run_lock(conn, options.lock_wait):
                run = replace(run, state=ledger.read(conn))  # whoever held the lock may have done it
                start = run.state.revision
                if run.pending:
                    preflight.require_nobody_in_the_way(conn, run.schema, options.blocker_wait, log)
                    archive = _backup(run, target, options, log)
                    with proofs.recorded(conn, archive, log):
                        if options.rehearse:
                            _rehearse(run, target, archive, options, log)
                        applied = apply_pending(run, target, options, log)
                _repair_indexes(replace(run, state=ledger.read(conn)), spec, target, options, log)
        ledger.accept(conn, owner_of(conn, run.schema), run.migrations, options.accepted)
        end = run.migrations[run.end - 1].revision if run.end else None
        names = [m.name for m in applied]
        took, left = time.monotonic() - clock, len(run.beyond)
        waiting = waiting_jobs(conn)
        outcome = Outcome(start, end, names, archive, _remarks(conn), took, left, schema=run.schema, waiting=waiting)
        if run.beyond and run.beyond[0].transactional:
            return outcome  # what is not all in cannot meet the spec; that it leads there was seen before the commit
        log("validating")
        if run.beyond:
            report = validate(conn, load_declaration(project.SPEC), run.schema, before=run.beyond[0].revision)
        else:
            report = against_reference(conn, target, run.schema)
        log.document["validation"] = json.loads(render(report, "json"))
    if applied:
        require_valid(report, f"To undo this run: {undo_command(outcome, target)}")
    else:
        require_valid(
            report,
            "Every migration is in; the schema was changed since. To see this again: "
            + project.command("validate", schema=run.schema, option=target.option),
        )
    return outcome


def against_reference(conn: psycopg.Connection, target: Target, schema: str) -> Report:
    """The verdict, also of what the spec does not spell out; the reference is kept for those who may only read."""
    declared = load_declaration(project.SPEC)
    reference, _ = Reference(target, lambda: conn, lambda: declared, project.INIT_SQL, lambda _: schema).outcome()
    if reference:
        keep_reference(conn, reference, project.INIT_SQL)
    return validate(conn, declared, schema, reference=reference)


def require_valid(report: Report, hint: str) -> None:
    if not report.ok:
        raise InvalidSchemaError(f"the schema does not meet {project.SPEC.name}:\n{render(report, 'text')}", hint)


def waiting_jobs(conn: psycopg.Connection) -> tuple[str, ...]:
    """The jobs that do nothing before the owner of the tables has accepted what they would do."""
    if not preflight.one(conn, "SELECT to_regclass('pgvigil.jobs') IS NOT NULL"):
        return ()
    query = "SELECT job FROM pgvigil.jobs WHERE enabled AND needs_consent AND accepted_at IS NULL ORDER BY since, job"
    return tuple(job for (job,) in conn.execute(query))


def _remarks(conn: psycopg.Connection) -> list[str]:
    rows = conn.execute(
        """SELECT format('%s.%s holds %L, which is not in its list (%s rows): the list stays open until the rows are changed and CALL pgvigil.validate_value_checks() is run',
                         table_name, column_name, value, rows_found) FROM pgvigil.tolerated_values
           UNION ALL
           SELECT format('%s was there in another shape: it is kept whole as pgvigil.legacy_%s, and %s of its %s rows are now in %s%s',
                         table_name, table_name, rows_adopted, coalesce(rows_found::text, '?'), table_name,
                         CASE WHEN rows_adopted < rows_found THEN '; the others break its constraints' ELSE '' END)
           FROM pgvigil.displaced_tables"""
    ).fetchall()
    return [row[0] for row in rows]


def undo_command(outcome: Outcome, target: Target) -> str:
    """What brings the schema back to where the run found it."""
    verb, start = "migrate" if outcome.reverted else "revert", outcome.start or "base"
    return project.command(verb, "--to", start, schema=outcome.schema, option=target.option)


def _prepare(conn: psycopg.Connection, options: Options, log: Reporter) -> Run:
    run = open_run(conn, options, log)
    if not run.state.entries:
        if not preflight.application_tables(conn, run.schema):
            raise PreconditionError(
                f'schema "{run.schema}" of database "{conn.info.dbname}" has none of the session application\'s tables '
                f"({', '.join(preflight.APPLICATION_TABLES)})",
                "Is this the right database and --schema? A new, empty database is built by scripts/setup-enhanced-db.sh.",
            )
        preflight.require_application(conn, run.schema)
        preflight.require_fit(conn, run.schema)
    if run.pending:
        preflight.require_rights(conn, run.schema)
        preflight.require_room(conn, run.schema, {m.name[4:] for m in run.applied})
        for warning in preflight.warnings(conn, run.schema):
            log(f"warning: {warning}")
    plan_of = [("in", m) for m in run.pending] + [("out", m) for m in run.to_revert]
    log.document["plan"] = [
        {
            "name": m.name,
            "transactional": m.transactional,
            "goes": way,
            "baselined": way == "in" and m is run.migrations[0] and not run.state.entries,
        }
        for way, m in plan_of
    ]
    return run


def open_run(conn: psycopg.Connection, options: Options, log: Reporter) -> Run:
    """What holds for every run: a server we know, a primary, a ledger that fits the files."""
    preflight.require_usable_server(conn)
    migrations = plan.load(project.MIGRATIONS)
    for migration in migrations:
        _ = migration.statements  # a file that is no SQL is found before anything is begun
    require_shipped(conn)
    state = ledger.read(conn)
    schema = state.schema or options.schema or "public"
    if told := list(planned_code(conn, (), schema, preflight.APPLICATION_TABLES)):
        raise PreconditionError(
            f"reading the application's tables would run functions of others with the rights of {conn.info.user}: {'; '.join(told)}",
            "Migrate as the owner of the tables, or drop these indexes or constraints first. Nothing was changed.",
        )
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
        log(f"warning: {warning}")
    preflight.require_all_rows(conn, schema)
    apply.pin(conn, schema)
    return Run(conn, schema, migrations, state, _position(migrations, options.to))


def _position(migrations: list[Migration], to: str | None) -> int:
    """How many migrations are in at a revision."""
    known = ["base", *(m.revision for m in migrations)]
    if to is not None and to not in known:
        raise UsageError(f"there is no revision {to}", f"Known are: {', '.join(known)}.")
    return len(migrations) if to is None else known.index(to)


def _backup(run: Run, target: Target, options: Options, log: Reporter) -> Backup | None:
    if options.rehearse:
        owner_code.require_consent_for(run.conn, options.run_owner_code, otherwise="leave --rehearse out")
    if options.backup_kind == "none":
        log("warning: no backup is taken, as you said")
        return None
    return create.create(
        run.conn, target, options.backup_directory, run.state.revision, log,
        kind=cast("Kind", options.backup_kind), proof=options.backup_proof, command=options.backup_command,
        run_owner_code=options.run_owner_code,
    )  # fmt: skip


def _rehearse(run: Run, target: Target, archive: Backup | None, options: Options, log: Reporter) -> None:
    """On a copy made from the backup just proved. Raises PreconditionError when a lock would be held for too long."""
    if archive is None or archive.kind != "full" or archive.archive is None:
        raise UsageError(
            "a rehearsal needs a full backup to make its copy from", "Use --backup full. Nothing was changed."
        )
    silent = Reporter()

    def work(conn: psycopg.Connection) -> list[dict[str, Any]]:
        with locks.run_lock(conn, options.lock_wait):
            apply_pending(open_run(conn, options, silent), there, options, silent)
        return cast("list[dict[str, Any]]", silent.document.get("statements", []))

    log("rehearsing on a scratch copy")
    with scratch_restore.scratch(run.conn, target, Path(archive.archive), "pgvigil_rehearsal", log.indented()) as there:
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


def apply_pending(run: Run, target: Target, options: Options, log: Reporter) -> list[Migration]:
    """Brings in what is pending, group by group. A transaction that does not lead to what the spec declares is rolled back."""
    declared = load_declaration(project.SPEC)  # before any lock is held
    done: list[Migration] = []
    with _attempts(run, target, options, log) as attempt:
        for group in plan.groups(run.pending):
            names = f"{group[0].name} … {group[-1].name} in one transaction" if len(group) > 1 else group[0].name
            log(f"running {names}")
            clock = time.monotonic()
            follow = plan.groups([*run.pending[len(done) + len(group) :], *run.beyond])
            preview_group = follow.pop(0) if follow and group[0].transactional and follow[0][0].transactional else None
            unmet = follow[0][0].revision if follow else None

            early: dict[str, Any] = {}

            def before_lock(early: dict[str, Any] = early) -> None:
                early.clear()  # another attempt at it may have come this far
                early.update(read_early(run.conn, declared.scope(run.schema), run.schema))

            def before_commit(unmet: str | None = unmet, early: dict[str, Any] = early) -> None:
                locks.require_run_lock(run.conn)
                report = validate(run.conn, declared, run.schema, before=unmet, early=early)
                if not report.ok:
                    raise MigrationError(
                        f"the result would not meet {project.SPEC.name}:\n{render(report, 'text')}",
                        "Something in this database or a change of the files made it so. Undo that, then run this again.",
                    )

            with _rolled_back_when_lost(run.conn, names):
                try:
                    attempt(
                        partial(
                            apply.move,
                            run.conn,
                            group,
                            before_lock=before_lock,
                            before_commit=before_commit,
                            preview_group=preview_group,
                        )
                    )
                except (MigrationError, LockedError) as error:
                    if isinstance(error, MigrationError) and not run.conn.closed:
                        error.hint = f"{error.hint} {event_triggers(run.conn)}".strip()
                    error.hint = f"{error.hint} {_what_stays(group, done)}"
                    raise
            log(f"  done in {time.monotonic() - clock:.2f} s")
            done += group
    return done


@contextmanager
def _rolled_back_when_lost(conn: psycopg.Connection, names: str) -> Iterator[None]:
    """Whatever a lost connection has led to, in psycopg or SQLAlchemy: raises MigrationError instead."""
    try:
        yield
    except Exception as error:
        if not conn.closed:
            raise
        reason = database.lost(error, f" during {names}")
        raise MigrationError(
            reason.message,
            "What ran in a transaction is rolled back by the server. Run this again: it goes on from where the ledger stands.",
        ) from error


def _what_stays(group: list[Migration], done: list[Migration]) -> str:
    if not group[0].transactional:
        return "This file runs outside a transaction; its finished statements stay and are found done next time."
    rolled_back = "The transaction was rolled back."
    return f"{rolled_back} The files up to {done[-1].name} are in the ledger and stay." if done else rolled_back


def _attempts(run: Run, target: Target, options: Options, log: Reporter) -> Attempts:
    return Attempts(run.conn, target, log, budget=options.lock_budget, build_wait=options.build_wait)


# ── What builds left behind that did not finish ───────────────────────────────────────────────────────────────────────


def _index_repairs(run: Run, spec: Spec) -> Sequence[tuple[str, Callable[[Trace], None]]]:
    """What to do about each index that is INVALID: ours is built again, what a REINDEX left beside ours is dropped."""
    names = [index for table in spec.tables.values() for index in (*table.indexes, *table.constraints)]
    ours = [
        name if "." in name else f"{concurrent_indexes.quoted(run.schema)}.{name}"
        for name, table in spec.tables.items()
        if table.ours
    ]
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
        for index in concurrent_indexes.leftover_indexes(run.conn, names, ours)
    ]


def _repair_indexes(run: Run, spec: Spec, target: Target, options: Options, log: Reporter) -> None:
    if remains := _index_repairs(run, spec):
        with _attempts(run, target, options, log) as attempt:
            for words, step in remains:
                log(words)
                attempt(step)


# ── revert ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def revert(target: Target, to: str, options: Options, log: Reporter) -> Outcome:
    """Takes files back out, down to `to` (a revision, or "base" for all), in one transaction, after a proved backup."""
    clock = time.monotonic()
    with database.connect(target, "revert") as conn, locks.run_lock(conn, options.lock_wait):
        log(f"connected to {target}")
        run = open_run(conn, replace(options, to=to), log)
        to_revert = run.to_revert
        archive = None
        if to_revert:
            archive = _backup(run, target, options, log)
            log(f"reverting {to_revert[0].name} … {to_revert[-1].name} in one transaction")
            names_of = f"the revert of {to_revert[0].name} … {to_revert[-1].name}"
            with (
                proofs.recorded(conn, archive, log),
                _attempts(run, target, options, log) as attempt,
                _rolled_back_when_lost(conn, names_of),
            ):
                attempt(partial(apply.move, conn, [], down_to=to, before_commit=lambda: locks.require_run_lock(conn)))
        start, end = run.state.revision, ledger.read(conn).revision
        warnings = _given_to_our_role(conn, run.schema) if to_revert and end is None else []
    names = [m.name for m in to_revert]
    left = len(run.migrations) - run.end
    return Outcome(
        start, end, names, archive, warnings, time.monotonic() - clock, left, reverted=True, schema=run.schema
    )


def _given_to_our_role(conn: psycopg.Connection, schema: str) -> list[str]:
    """What a superuser had under names of ours, and pgvigil_owner has now. It is not given back by us: whoever had the rights of that role
    may have hung code on it, in an index or a rule, which would run as the superuser from then on.
    """
    rows = conn.execute(
        """SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname), (SELECT pg_catalog.quote_ident(r.rolname) FROM pg_catalog.pg_roles r WHERE r.oid = 10)
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname = %s AND c.relkind IN ('r', 'p', 'v', 'm') AND NOT c.relispartition AND c.relowner = pg_catalog.to_regrole(%s)
           ORDER BY 1""",
        (schema, OWN_ROLE),
    ).fetchall()
    return [
        f"{name} belongs to {OWN_ROLE}: where a superuser had it, look at what hangs on it (\\d+ {name}), then as one:"
        f" ALTER TABLE {name} OWNER TO {superuser};"
        for name, superuser in rows
    ]
