"""`pgvigil status`: the migrations, and which of them are in the database."""

from __future__ import annotations

import argparse

from pgvigil import database, project
from pgvigil.commands.common import options
from pgvigil.commands.common.target import required_target

SUMMARY = "list the migrations and which are in the database"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)


def run(arguments: argparse.Namespace) -> int:
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
