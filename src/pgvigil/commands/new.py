"""`pgvigil new`: the files of a new migration, numbered and linked."""

from __future__ import annotations

import argparse
import re
from typing import TYPE_CHECKING

from pgvigil import project
from pgvigil.commands.common import options, runs
from pgvigil.commands.common.groups import Group
from pgvigil.errors import UsageError

if TYPE_CHECKING:
    from pgvigil.projects.config import Config

GROUP = Group.OWN
SUMMARY = "write the files of a new migration: of pgvigil's own, or of a project"

_VERSION = '''"""{title}"""

from pgvigil.migration.apply import sql_file

revision = "{number}"
down_revision = "{before}"
upgrade, downgrade = sql_file(__file__)
'''


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_project(command)
    command.add_argument("name", metavar="NAME", help="its name, such as session_tags: lower case, digits, underscores")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.migration import files

    if config := runs.config_of(arguments):
        return _in_project(config, arguments.name)
    name: str = arguments.name
    if not re.fullmatch("[a-z][a-z0-9_]{0,59}", name):
        raise UsageError(
            f"{name!r} is not a name for a migration", "Use lower-case letters, digits and underscores: session_tags."
        )
    project.require_checkout("add a migration to its own")
    migrations = files.load(project.MIGRATIONS)
    if taken := [migration.path.name for migration in migrations if migration.name[4:] == name]:
        raise UsageError(f"{taken[0]} has this name already", "Choose another name.")
    before = migrations[-1].revision
    number = f"{int(before) + 1:03}"
    title = name.replace("_", " ").capitalize()
    folder = project.MIGRATIONS
    written = {
        folder / f"{number}_{name}.sql": f"-- {title}: why this is needed.\n",
        folder
        / "revert"
        / f"{number}_{name}.sql": f"-- Removes what {number}_{name}.sql makes, and keeps the data of others.\n",
        folder / "versions" / f"{number}_{name}.py": _VERSION.format(title=title, number=number, before=before),
    }
    for path, text in written.items():
        with path.open("x", encoding="ascii") as file:
            file.write(text)
        print(path)
    print(
        f"\nNext: write the SQL; declare its objects in {project.SPEC.name}. Then:\n"
        f"  {project.command('init-sql', '--write')}\n  {project.command('spec', 'docs', '--write')}\n"
        f"  {project.command('validate', '--offline')}"
    )
    return 0


def _in_project(config: Config, name: str) -> int:
    from pgvigil.projects import start
    from pgvigil.projects.chain import ProjectChain

    for path in start.new(config, name):
        print(path)
    print(f"\nNext: write the SQL and the way back, then\n  {ProjectChain(config).command('check', '--write-spec')}")
    return 0
