"""`pgvigil check`: a project's files without its database, as CI runs them."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING

from pgvigil import project
from pgvigil.commands.common import options, runs
from pgvigil.commands.common.groups import Group
from pgvigil.errors import PgvigilError
from pgvigil.text import counted

if TYPE_CHECKING:
    from pgvigil.projects.chain import ProjectChain

GROUP = Group.OWN
SUMMARY = "build and revert a project's files on a throw-away server, and compare them with its spec"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_project(command, always=True)
    command.add_argument("--write-spec", action="store_true", help="write the spec from what the files make")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import reporter
    from pgvigil.projects.chain import ProjectChain
    from pgvigil.projects.check import check

    config = runs.config_of(arguments)
    assert config is not None  # noqa: S101 - --project has a default
    chain = ProjectChain(config)
    with reporter() as log:
        done = check(chain, log, write_spec=arguments.write_spec)
    for name in done.without_way_back:
        print(f"note: {name} has no way back: the files below it were not reverted")
    if done.findings:
        print("\n\n".join(done.findings))
        return 1
    _lint(chain)
    spec = "" if chain.spec_name == "" else f"; {chain.spec_name} is current"
    if done.written is not None:
        spec = f"; {chain.spec_name} written ({counted(done.written, 'line')})"
    print(f"{counted(done.files, 'file')} build and revert cleanly on PostgreSQL {done.server}{spec}")
    return 0


def _lint(chain: ProjectChain) -> None:
    """Say what the linter has to say. It does not fail the check: files that are in long since cannot be changed."""
    from pgvigil.lint.run import lint

    folder = chain.config.migrations
    if not any(one.statements for one in chain.files):
        return
    try:
        report = lint([folder])
    except PgvigilError as error:
        print(f"note: the files were not linted: {error.message}")
        return
    if report.findings or report.unmeasured:
        shown = folder.relative_to(Path.cwd()) if folder.is_relative_to(Path.cwd()) else folder
        print(f"note: lint: {report.verdict}; see them: {project.command('lint', str(shown))}")
