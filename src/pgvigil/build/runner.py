"""migrate, revert and setup: each step in its order, and nothing begun before everything before it has succeeded."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path

import psycopg
from psycopg import sql as compose

from pgvigil import database, project
from pgvigil.build import apply, backup, ledger, locks, plan
from pgvigil.build.plan import Migration
from pgvigil.database import Target
from pgvigil.errors import ConnectError, InvalidSchemaError, LockedError, MigrationError, PreconditionError, UsageError
from pgvigil.validate import Report, load_spec, render, self_test, validate

Tell = Callable[[str], None]
MINIMUM_SERVER = 14


@dataclass(frozen=True)
class Options:
    """How a run behaves. Times in seconds."""

    schema: str | None
    backup_directory: Path | None
    lock_wait: float
    lock_budget: float


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
class _Run:
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


def pending(target: Target, options: Options, tell: Tell) -> list[Migration]:
    """Connects, checks the preconditions and says what migrate would do. Changes nothing."""
    with database.connect(target, "migrate (plan)") as conn:
        return _prepare(conn, target, options, tell).pending


def migrate(target: Target, options: Options, tell: Tell) -> Outcome:
    """connect → preconditions → plan → lock → backup → apply → validate.

    Raises a PgvigilError of its documented exit code; up to and including a failed transaction nothing is changed.
    """
    clock = time.monotonic()
    with database.connect(target, "migrate") as conn:
        run = _prepare(conn, target, options, tell)
        archive = None
        moved: list[Migration] = []
        if run.pending:
            with locks.run_lock(conn, options.lock_wait):
                start = run.state.revision
                run = _prepare(conn, target, options, tell)  # whoever held the lock may have done it
                if run.pending:
                    archive = _backup(run, target, options, tell)
                    moved = _apply(run, options, tell)
        else:
            start = run.state.revision
        tell("validating")
        report = validate(conn, load_spec(project.SPEC), run.schema)
        names = [m.name for m in moved]
        outcome = Outcome(start, run.migrations[-1].revision, names, archive, _remarks(conn), time.monotonic() - clock)
    if moved:
        _require_valid(report, f"To undo this run: {undo_command(outcome, target)}")
    else:
        _require_valid(
            report,
            f"Every migration is in; the schema was changed since. To see this again: {program()} validate{target.option}",
        )
    return outcome


def _require_valid(report: Report, hint: str) -> None:
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


def _prepare(conn: psycopg.Connection, target: Target, options: Options, tell: Tell) -> _Run:
    tell(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
    run = _open(conn, options, tell)
    if not run.state.entries:
        if not apply.application_tables(conn, run.schema):
            raise PreconditionError(
                f'schema "{run.schema}" of database "{conn.info.dbname}" has none of the session application\'s tables '
                f"({', '.join(apply.APPLICATION_TABLES)})",
                "Is this the right database and --schema? A new, empty database is built by scripts/setup-enhanced-db.sh.",
            )
        apply.require_application(conn, run.schema)
    if run.pending:
        _require_rights(conn, run.schema)
    return run


def _open(conn: psycopg.Connection, options: Options, tell: Tell) -> _Run:
    """What holds for every run: a server we know, a primary, a ledger that fits the files."""
    major = conn.info.server_version // 10000
    if major < MINIMUM_SERVER:
        raise PreconditionError(
            f"the server is PostgreSQL {major}; pgvigil needs {MINIMUM_SERVER} or newer", "Upgrade the server first."
        )
    if _one(conn, "SELECT pg_is_in_recovery()"):
        raise PreconditionError("this server is a standby: it can only be read", "Connect to the primary.")
    migrations = plan.load(project.MIGRATIONS)
    for migration in migrations:
        _ = migration.statements  # a file that is no SQL is found before anything is begun
    state = ledger.read(conn)
    schema = state.schema or options.schema or "public"
    if options.schema and options.schema != schema:
        raise PreconditionError(
            f'pgvigil watches schema "{schema}" in this database, not "{options.schema}"', "Leave --schema out."
        )
    if not _one(conn, "SELECT count(*) FROM pg_namespace WHERE nspname = %s", schema):
        raise PreconditionError(f'there is no schema "{schema}" in database "{conn.info.dbname}"', "Check --schema.")
    if not state.entries and _one(conn, "SELECT to_regnamespace('pgvigil') IS NOT NULL"):
        raise PreconditionError(
            "there is a schema pgvigil, but no ledger in it: something else, or a restore that was cut short, made it",
            "Look at what it holds (\\dn+ pgvigil, \\dt pgvigil.*) and drop or rename it.",
        )
    for warning in ledger.compare(state, migrations):
        tell(f"warning: {warning}")
    apply.pin(conn, schema)
    return _Run(conn, schema, migrations, state)


def _require_rights(conn: psycopg.Connection, schema: str) -> None:
    rows = conn.execute(
        """SELECT format('to own table %%I, which belongs to %%I', c.relname, pg_get_userbyid(c.relowner)) AS lacking
           FROM pg_class c WHERE c.relnamespace = %(schema)s::regnamespace AND c.relname = ANY (%(tables)s)
             AND NOT pg_has_role(c.relowner, 'USAGE')
           UNION ALL SELECT format('CREATE on schema %%s', %(schema)s) WHERE NOT has_schema_privilege(%(schema)s::regnamespace, 'CREATE')
           UNION ALL SELECT format('CREATE on database %%I', current_database())
           WHERE to_regnamespace('pgvigil') IS NULL AND NOT has_database_privilege(current_database(), 'CREATE')""",
        {"schema": compose.Identifier(schema).as_string(conn), "tables": list(apply.APPLICATION_TABLES)},
    ).fetchall()
    if rows:
        raise PreconditionError(
            f'role "{conn.info.user}" may not migrate this database; it needs ' + "; ".join(row[0] for row in rows),
            "Run it as the tables' owner or as a superuser, or grant what is missing. Nothing was changed.",
        )


def _backup(run: _Run, target: Target, options: Options, tell: Tell) -> backup.Backup:
    directory = options.backup_directory or backup.default_directory()
    tell(f"backing up to {directory}")
    archive = backup.take(run.conn, target, directory, run.state.revision, lambda text: tell(f"  {text}"))
    tell(
        f"  proved: {archive.archive} ({archive.size / 1e6:.1f} MB, {archive.verified}, sha256 {archive.sha256[:16]}…)"
    )
    return archive


def _apply(run: _Run, options: Options, tell: Tell) -> list[Migration]:
    done: list[Migration] = []
    for group in plan.groups(run.pending):
        names = f"{group[0].name} … {group[-1].name} in one transaction" if len(group) > 1 else group[0].name
        tell(f"running {names}")
        clock = time.monotonic()
        try:
            _with_locks(run, options, tell, lambda group=group: apply.move(run.conn, group))  # type: ignore[misc]
        except psycopg.OperationalError as error:
            raise MigrationError(
                f"the connection was lost during {names}: {' '.join(str(error).split())}",
                "What ran in a transaction is rolled back by the server. Run this again: it goes on from where the ledger stands.",
            ) from error
        except (MigrationError, LockedError) as error:
            kept = (
                f" The files up to {done[-1].name} are in the ledger and stay; running this again goes on after them."
                if done
                else ""
            )
            error.hint = f"{error.hint} {_rolled_back(group)}{kept}"
            raise
        tell(f"  done in {time.monotonic() - clock:.2f} s")
        done += group
    return done


def _rolled_back(group: list[Migration]) -> str:
    if group[0].transactional:
        return "The transaction was rolled back."
    return "This file runs outside a transaction; its finished statements stay and are found done next time."


def _with_locks(run: _Run, options: Options, tell: Tell, attempt: Callable[[], None]) -> None:
    def blockers() -> str:
        return locks.lock_holders(run.conn, run.schema)

    locks.retried(attempt, budget=options.lock_budget, blockers=blockers, told=lambda text: tell(f"  {text}"))


# ── revert ────────────────────────────────────────────────────────────────────────────────────────────────────────────


def revert(target: Target, to: str, options: Options, tell: Tell) -> Outcome:
    """Takes files back out, down to `to` (a revision, or "base" for all), in one transaction, after a proved backup."""
    clock = time.monotonic()
    with database.connect(target, "revert") as conn, locks.run_lock(conn, options.lock_wait):
        tell(f"connected to {target}")
        run = _open(conn, options, tell)
        known = ["base", *(m.revision for m in run.migrations)]
        if to not in known:
            raise UsageError(f"there is no revision {to}", f"Known are: {', '.join(known)}.")
        leaving = [m for m in run.migrations[: len(run.state.entries)] if to == "base" or m.revision > to]
        archive = None
        if leaving:
            archive = _backup(run, target, options, tell)
            tell(f"reverting {leaving[-1].name} … {leaving[0].name} in one transaction")
            _with_locks(run, options, tell, lambda: apply.move(conn, [], down_to=to))
        start, end = run.state.revision, ledger.read(conn).revision
    names = [m.name for m in reversed(leaving)]
    return Outcome(start, end, names, archive, [], time.monotonic() - clock)


# ── setup ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def setup(target: Target, options: Options, wait: float, tell: Tell) -> Outcome:
    """Builds the schema in an empty database (created if missing), or validates the one that is there; then the self-test."""
    clock = time.monotonic()
    with _connect_or_create(target, wait, tell) as conn:
        tell(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        run = _open(conn, options, tell)
        start = run.state.revision
        moved: list[Migration] = []
        if not run.state.entries:
            _require_empty(conn, run.schema)
            _require_rights(conn, run.schema)
            with locks.run_lock(conn, options.lock_wait):
                run = _open(conn, options, tell)
                moved = _apply(run, options, tell) if not run.state.entries else []
        elif run.pending:
            raise PreconditionError(
                f"this database is set up, but {len(run.pending)} migrations behind: {run.pending[0].name} is the next",
                "Bring it up to date with scripts/run-migration.sh, which takes a backup first.",
            )
        tell("validating")
        report = validate(conn, load_spec(project.SPEC), run.schema)
        tell("testing every trigger and view in a transaction that is rolled back")
        report = replace(report, findings=(*report.findings, *self_test(conn, run.schema)))
    _require_valid(report, f"To see it again: {program()} validate --self-test{target.option}")
    return Outcome(start, run.migrations[-1].revision, [m.name for m in moved], None, [], time.monotonic() - clock)


def _connect_or_create(target: Target, wait: float, tell: Tell) -> psycopg.Connection:
    try:
        return database.connect(target, "setup", wait=wait)
    except ConnectError as error:
        if not database.is_missing_database(error):
            raise
    name = (
        target.parameters.get("dbname")
        or os.environ.get("PGDATABASE")
        or target.parameters.get("user")
        or os.environ.get("PGUSER", "")
    )
    with database.connect(target.at("postgres"), "setup") as conn:
        tell(f'creating database "{name}"')
        try:
            conn.execute(compose.SQL("CREATE DATABASE {}").format(compose.Identifier(name)))
        except psycopg.errors.DuplicateDatabase:
            pass  # another setup was quicker
        except psycopg.errors.InsufficientPrivilege as error:
            raise PreconditionError(
                f'database "{name}" does not exist and role "{conn.info.user}" may not create it',
                f'As a superuser: CREATE DATABASE "{name}" OWNER "{conn.info.user}";',
            ) from error
    return database.connect(target, "setup")


def _require_empty(conn: psycopg.Connection, schema: str) -> None:
    there = apply.application_tables(conn, schema)
    if there:
        raise PreconditionError(
            f"this database already holds the session application ({', '.join(sorted(there))})",
            "Bring it to the schema with scripts/run-migration.sh, which takes a backup first.",
        )
    rows = conn.execute(
        """SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
           ORDER BY 1"""
    ).fetchall()
    if rows:
        names = ", ".join(row[0] for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        raise PreconditionError(
            f'database "{conn.info.dbname}" is not empty: it holds {len(rows)} tables and views of something else ({names})',
            "Name a database of its own, for instance by another database in the URL: it is created if it does not exist.",
        )


def _one(conn: psycopg.Connection, query: str, *parameters: object) -> object:
    row = conn.execute(query, parameters).fetchone()
    return row[0] if row else None
