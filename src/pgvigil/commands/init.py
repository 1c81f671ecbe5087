"""`pgvigil init`: a project for a team's own migrations."""

from __future__ import annotations

import argparse
from pathlib import Path

from pgvigil import project
from pgvigil.commands.common.groups import Group
from pgvigil.errors import MigrationError, UsageError

GROUP = Group.OWN
SUMMARY = "begin a project for migrations of your own: its file, and a first migration where there is none"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("directory", nargs="?", type=Path, default=Path(), metavar="DIR", help="where (default: here)")
    command.add_argument(
        "--layout", choices=("plain", "dbmate", "golang-migrate"), default="plain",
        help="how the files are laid out, and whose table records them (default %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--migrations", default="migrations", metavar="DIR",
        help="the directory of the migrations, below DIR (default %(default)s)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import reporter
    from pgvigil.projects import config, start
    from pgvigil.projects.chain import ProjectChain
    from pgvigil.projects.check import check

    for path in start.init(arguments.directory, arguments.layout, arguments.migrations):
        print(path)
    chain = ProjectChain(config.read(arguments.directory / config.FILE))
    try:
        with reporter() as log:
            check(chain, log, write_spec=True)
        print(chain.config.spec)
    except (UsageError, MigrationError) as error:
        print(f"The spec is not written yet: {error.message}")
    words = str(arguments.directory)
    print(
        f"\nNext: write SQL, then\n  {project.command('new', '--project', words, 'add_orders')}\n"
        f"  {project.command('check', '--project', words, '--write-spec')}\n  {project.command('migrate', '--project', words, '--rehearse')}"
    )
    return 0
