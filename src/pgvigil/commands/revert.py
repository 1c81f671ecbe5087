"""`pgvigil revert`: migrations taken out again, after a backup."""

from __future__ import annotations

import argparse

from pgvigil.commands.common import options, runs
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target

GROUP = Group.SCHEMA
SUMMARY = "revert migrations, after a backup"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_schema(options.add_database(command))
    options.add_project(command)
    command.add_argument("--to", required=True, metavar="REVISION", help='the revision to stay at, or "base" for none')
    options.add_locks(command, run_lock=True)
    options.add_migration_backup(command)


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import reporter
    from pgvigil.migration import runner

    target = required_target(arguments)
    with reporter() as log:
        outcome = runner.revert(target, arguments.to, runs.options_of(arguments), log)
    runs.print_outcome(outcome, target)
    return 0
