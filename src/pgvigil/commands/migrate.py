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
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.errors import PgvigilError, UsageError
from pgvigil.text import counted, one_line, page
from pgvigil.visible_sql import print_sql

if TYPE_CHECKING:
    from pgvigil.migration.chain import Run
    from pgvigil.migration.plan_report import Plan, Table

GROUP = Group.SCHEMA
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
    from pgvigil.display import reporter
    from pgvigil.migration import runner

    target, options = required_target(arguments), runs.options_of(arguments)
    if arguments.sql and (arguments.json or not arguments.dry_run):
        raise UsageError("--sql prints the SQL of --dry-run", "Add --dry-run, and leave out --json.")
    if arguments.dry_run:
        with reporter() as log:
            run, plan = runner.plan_only(target, options, log)
        if arguments.json:
            print(json.dumps(log.document | {"details": asdict(plan), "exit_code": 0}, indent=2, default=str))
        elif arguments.sql:
            print_sql(_plan_as_sql(run), sys.stdout)
        else:
            command = run.chain.command("migrate", schema=run.schema, option=target.option)
            print(_plan_as_text(plan, migrate=command))
        return 0
    try:
        with reporter() as log:
            outcome = runner.migrate(target, options, log)
    except (PgvigilError, psycopg.Error) as failure:
        is_lost = isinstance(failure, psycopg.Error) and database.is_lost(failure)
        error = database.lost(failure) if is_lost else failure
        if arguments.json and isinstance(error, PgvigilError):
            document = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
            print(json.dumps(log.document | document, indent=2))
        if error is failure:
            raise
        raise error from failure
    if arguments.json:
        document = {
            "exit_code": 0,
            "from": outcome.start,
            "to": outcome.end,
            "applied": outcome.applied,
            "warnings": outcome.warnings,
            "waiting_for_consent": outcome.waiting,
        }
        document |= {"seconds": round(outcome.seconds, 2)}
        document |= {"undo": runner.undo_command(outcome, target)} if outcome.applied else {}
        print(json.dumps(log.document | document, indent=2))
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


def _plan_as_text(plan: Plan, *, migrate: str) -> str:
    """The plan in lines; `migrate` is the command that carries it out."""
    lines = [
        f'Plan for database "{one_line(plan.database)}", schema "{one_line(plan.schema)}" (nothing was changed)',
        "",
    ]

    def add(label: str, *words: str) -> None:
        lines.extend(
            f"  {label if first else '':<13}{words_}"
            for first, words_ in zip([True, *[False] * 99], words, strict=False)
        )

    if not plan.steps and not plan.reverts:
        add("state", f"up to date at revision {plan.revision or 'base'}")
        return page(lines)
    add(
        "state",
        f"at revision {plan.revision}"
        if plan.revision
        else "without pgvigil"
        if plan.baselined
        else "no migration is in",
    )
    if plan.baselined and plan.steps:
        add("baselined", "000_session_application is recorded without being run: the application's tables exist")
    ways = [
        f"{name} {'in one transaction' if whole else 'in steps, outside a transaction'}" for name, whole in plan.steps
    ]
    if ways:
        add("runs", *ways)
    if plan.reverts:
        add("reverts", *plan.reverts)
    add("your tables", *[_of_table(table) for table in plan.tables])
    add(
        "values",
        *[
            f"{table}.{column} holds {one_line(repr(value))} in {counted(rows, 'row')}: its list stays open until the rows are changed"
            for table, column, value, rows in plan.open_values
        ],
    )
    add(
        "earlier",
        *[
            f"{kind} {one_line(name)} is kept whole as pgvigil.legacy_{one_line(name)}"
            + ("; rows that fit are copied" if kind == "table" else "")
            for kind, name in plan.earlier
        ],
    )
    add("in the way", *(plan.blockers or ("nothing",)))
    add("backup", _of_backup(plan))
    if plan.steps:
        add(
            "locks",
            "each table lock is given up after 0.2 s and tried again (--lock-budget); --rehearse measures them on a copy",
            *["sessions is locked once, for an instant at the end of the transaction; indexes are built CONCURRENTLY"]
            * bool(plan.tables),
        )
        if plan.baselined:
            add(
                "writers",
                "no statement of the application fails; from then on archived sessions are read-only, and deletes are recorded",
                "COPY sessions without a column list fails where columns are added: name the columns",
            )
    lines += ["", "Next:", f"  {migrate}"]
    return page(lines)


def _of_table(table: Table) -> str:
    rows = "rows not counted yet" if table.rows < 0 else f"about {counted(table.rows, 'row')}"
    parts = [
        counted(len(names), kind) + (f" ({', '.join(names)})" if kind == "column" else "")
        for kind, names in table.adds.items()
        if names
    ]
    return f"{table.name} ({rows}, {table.bytes / 1e6:,.0f} MB) gets {', '.join(parts) or 'nothing'}"


def _of_backup(plan: Plan) -> str:
    if plan.backup == "none":
        return "none"
    if plan.backup == "command":
        return "by --backup-command"
    return f"{plan.backup}, of {plan.bytes / 1e6:,.0f} MB, into {one_line(str(plan.backup_directory))}"
