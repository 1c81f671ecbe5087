"""A new install: an empty database is built, one that is set up is validated, anything else is refused with advice."""

from __future__ import annotations

import os
import time

import psycopg
from psycopg import sql as compose

from pgvigil import database, locks, project
from pgvigil.database import Target
from pgvigil.errors import ConnectError, PgvigilError, PreconditionError
from pgvigil.migration import preflight, runner
from pgvigil.migration.files import Migration
from pgvigil.migration.runner import Options, Outcome
from pgvigil.progress import Reporter
from pgvigil.text import counted
from pgvigil.validate import require_owner_or_consent, self_test


def setup(target: Target, options: Options, wait: float, log: Reporter) -> Outcome:
    """Build the schema in an empty database, or validate the existing schema; then run the self-test.

    A missing database is created.
    """
    clock = time.monotonic()
    with _connect_or_create(target, wait, log) as conn:
        log(f"connected to {target}, PostgreSQL {conn.info.parameter_status('server_version')}")
        applied: list[Migration] = []
        with locks.run_lock(
            conn, options.lock_wait
        ):  # before looking: what another setup has half built is neither new nor old
            run = runner.open_run(conn, options, log)
            start = run.state.revision
            if not run.state.entries:
                _require_empty(conn, run.schema)
                preflight.require_rights(conn, run.schema)
                preflight.require_room(conn, run.schema, [])
                run.chain.begin_empty(conn, run.schema)
                applied = runner.apply_pending(run, target, options, log)
            elif run.pending:
                raise PreconditionError(
                    f"this database is set up, but {counted(len(run.pending), 'migration')} behind: {run.pending[0].name} is the next",
                    "Bring it up to date with pgvigil migrate, which takes a backup first.",
                )
        log("validating")
        report = run.chain.verdict(conn, target, run.schema)
        if not applied:  # else all that is there was made by this run
            again = project.command(
                "validate", "--self-test", "--run-owner-code", schema=run.schema, option=target.option
            )
            require_owner_or_consent(conn, run.schema, False, consent=f"run {again} instead")
        log("testing every trigger and view in a transaction that is rolled back")
        if report.replaced:
            log(
                f"warning: the application has put its own in the place of {', '.join(sorted(report.replaced))}: their effects are"
                " not tested (pgvigil help from-the-enhanced-original)"
            )
        report = report.tested(self_test(conn, run.schema, report.replaced))
        waiting = run.chain.waiting_jobs(conn)
    runner.require_valid(
        report,
        run.chain,
        "To see it again: " + project.command("validate", "--self-test", schema=run.schema, option=target.option),
    )
    return Outcome(
        start,
        run.migrations[-1].revision,
        [m.name for m in applied],
        None,
        [],
        time.monotonic() - clock,
        0,
        schema=run.schema,
        waiting=waiting,
    )


def _connect_or_create(target: Target, wait: float, log: Reporter) -> psycopg.Connection:
    try:
        return database.connect(target, "setup", wait=wait)
    except ConnectError as error:
        name = (
            target.parameters.get("dbname")
            or os.environ.get("PGDATABASE")
            or target.parameters.get("user")
            or os.environ.get("PGUSER", "")
        )
        if not (database.is_missing_database(error) or _is_missing(target, name)):
            raise
    with database.connect(target.at("postgres"), "setup") as conn:
        log(f'creating database "{name}"')
        try:
            conn.execute(compose.SQL("CREATE DATABASE {}").format(compose.Identifier(name)))
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            pass  # another setup was quicker
        except psycopg.errors.InsufficientPrivilege as error:
            raise PreconditionError(
                f'database "{name}" does not exist and role "{conn.info.user}" may not create it',
                compose.SQL("As a superuser: CREATE DATABASE {} OWNER {};")
                .format(compose.Identifier(name), compose.Identifier(conn.info.user))
                .as_string(conn),
            ) from error
    return database.connect(target, "setup")


def _is_missing(target: Target, name: str) -> bool:
    """Ask the catalog: the server may have refused the connection in another language."""
    try:
        with database.connect(target.at("postgres"), "setup") as conn:
            row = conn.execute("SELECT NOT EXISTS (SELECT FROM pg_database WHERE datname = %s)", (name,)).fetchone()
    except (PgvigilError, psycopg.Error):
        return False
    return row == (True,)


def _require_empty(conn: psycopg.Connection, schema: str) -> None:
    there = preflight.application_tables(conn, schema)
    if there:
        raise PreconditionError(
            f"this database already holds the session application ({', '.join(sorted(there))})",
            "Bring it to the schema with pgvigil migrate, which takes a backup first.",
        )
    rows = conn.execute(
        """SELECT format('%I.%I', n.nspname, c.relname) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE n.nspname NOT LIKE 'pg\\_%' AND n.nspname <> 'information_schema' AND c.relkind IN ('r', 'p', 'v', 'm', 'f')
             AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'e')
           ORDER BY 1"""
    ).fetchall()
    if rows:
        names = ", ".join(row[0] for row in rows[:5]) + (", …" if len(rows) > 5 else "")
        held = counted(len(rows), "table or view")
        raise PreconditionError(
            f'database "{conn.info.dbname}" is not empty: it holds {held} of something else ({names})',
            "Name a database of its own, for instance by another database in the URL: it is created if it does not exist.",
        )
