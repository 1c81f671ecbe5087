"""`pgvigil migrate`: backup, migrations, validation."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING

import psycopg

from pgvigil import database
from pgvigil.commands.common import options, runs
from pgvigil.commands.common.target import required_target
from pgvigil.errors import PgvigilError, UsageError
from pgvigil.text import print_script

if TYPE_CHECKING:
    from pgvigil.migration.chain import Run

SUMMARY = "bring an existing database to the schema: backup, migrations, validation"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_schema(options.add_database(command))
    options.add_project(command)
    command.add_argument("--dry-run", action="store_true", help="print the plan, change nothing")
    command.add_argument("--sql", action="store_true", help="with --dry-run: print the SQL instead of the plan")
    options.add_json(command, "print one JSON document on stdout instead of the report")
    command.add_argument(
        "--to", metavar="REVISION",
        help='the revision to end at (default: the newest; "base": none); files beyond it are reverted',
    )  # fmt: skip
    command.add_argument(
        "--accept-checksum", action="append", default=[], metavar="NNN",
        help="record the new checksum of this file: its edit is in the database already (repeatable)",
    )  # fmt: skip
    command.add_argument(
        "--rehearse", action="store_true",
        help="first run the migrations on a scratch copy of the backup, and report their locks",
    )  # fmt: skip
    command.add_argument(
        "--max-lock-ms", type=options.seconds, metavar="MS",
        help="with --rehearse: stop when a table was locked against writers for longer",
    )  # fmt: skip
    command.add_argument(
        "--wait-for-blockers", type=options.seconds, default=0, metavar="SECONDS",
        help="wait this long for long transactions to end (default %(default)s)",
    )  # fmt: skip
    options.add_locks(command, run_lock=True)
    options.add_migration_backup(command)


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.migration import plan_report, runner

    target, options = required_target(arguments), runs.options_of(arguments)
    if arguments.sql and (arguments.json or not arguments.dry_run):
        raise UsageError("--sql prints the SQL of --dry-run", "Add --dry-run, and leave out --json.")
    if arguments.dry_run:
        with journal() as log:
            run, plan = runner.plan_only(target, options, log)
        if arguments.json:
            print(json.dumps(log.document | {"details": asdict(plan), "exit_code": 0}, indent=2, default=str))
        elif arguments.sql:
            print_script(_plan_as_sql(run), sys.stdout)
        else:
            command = run.chain.command("migrate", schema=run.schema, option=target.option)
            print(plan_report.text(plan, migrate=command))
        return 0
    try:
        with journal() as log:
            outcome = runner.migrate(target, options, log)
    except (PgvigilError, psycopg.Error) as failure:
        is_lost = isinstance(failure, psycopg.Error) and database.is_lost(failure)
        error = database.lost(failure) if is_lost else failure
        if arguments.json and isinstance(error, PgvigilError):
            told = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
            print(json.dumps(log.document | told, indent=2))
        if error is failure:
            raise
        raise error from failure
    if arguments.json:
        told = {
            "exit_code": 0,
            "from": outcome.start,
            "to": outcome.end,
            "applied": outcome.applied,
            "warnings": outcome.warnings,
            "waiting_for_consent": outcome.waiting,
        }
        told |= {"seconds": round(outcome.seconds, 2)}
        told |= {"undo": runner.undo_command(outcome, target)} if outcome.applied else {}
        print(json.dumps(log.document | told, indent=2))
        return 0
    runs.print_outcome(outcome, target)
    return 0


def _plan_as_sql(run: Run) -> str:
    lines = []
    for migration in run.pending:
        how = "in a transaction" if migration.transactional else "step by step, outside a transaction"
        lines += [f"-- {migration.name} ({how})", migration.script]
    for migration in run.to_revert:
        lines += [f"-- {migration.name} (taken out)", migration.revert_script]
    count = f"{len(run.pending)} pending" if run.pending else f"{len(run.to_revert)} to be taken out"
    return "\n".join([*lines, f"-- {count if lines else 'up to date'}; nothing was changed"])
