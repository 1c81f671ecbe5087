"""`pgvigil status`: the migrations, and which of them are in the database."""

from __future__ import annotations

import argparse
import sys
from typing import TYPE_CHECKING

from pgvigil import database, project
from pgvigil.commands.common import options, runs
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target

if TYPE_CHECKING:
    from pgvigil.projects.config import Config

GROUP = Group.SCHEMA
SUMMARY = "list the migrations and which are in the database"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_project(command)


def run(arguments: argparse.Namespace) -> int:
    if config := runs.config_of(arguments):
        return _of_project(arguments, config)
    from pgvigil.migration import files, ledger

    with database.connect(required_target(arguments), "status") as conn:
        state = ledger.read(conn)
    migrations = files.load(project.MIGRATIONS)
    ledger.compare(state, migrations)
    recorded = {e.revision: e for e in state.entries}
    for migration in migrations:
        entry = recorded.get(migration.revision)
        print(f"{migration.name:<32}{'pending' if entry is None else 'baselined' if entry.baselined else 'in'}")
    return 0


def _of_project(arguments: argparse.Namespace, config: Config) -> int:
    from pgvigil.projects.chain import ProjectChain

    chain = ProjectChain(config)
    with database.connect(required_target(arguments), "status") as conn:
        state = chain.read(conn)
    width = max((len(one.name) for one in chain.files), default=0) + 2
    for one in chain.files:
        print(f"{one.name:<{width}}{chain.place_of(one, state)}")
    for warning in chain.compare(state):  # raises, when all is shown, what would stop a migration
        print(f"note: {warning}", file=sys.stderr)
    return 0
