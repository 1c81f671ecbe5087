"""`pgvigil baseline`: the files that a database is at already are recorded, after a comparison."""

from __future__ import annotations

import argparse

from pgvigil.commands.common import options, runs
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted

GROUP = Group.OWN
SUMMARY = "record a project's files as being in a database that has what they make"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_project(command, always=True)
    command.add_argument("--at", required=True, metavar="VERSION", help="the newest file that the database is at")
    command.add_argument(
        "--force",
        action="store_true",
        help="record them even where the schema is not what they make, or cannot be compared",
    )
    command.add_argument(
        "--lock-wait", type=options.seconds, default=10, metavar="SECONDS",
        help="wait this long for another run to finish (default %(default)s)",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import reporter
    from pgvigil.projects.baseline import baseline
    from pgvigil.projects.chain import ProjectChain

    config = runs.config_of(arguments)
    assert config is not None  # noqa: S101 - --project has a default
    target, chain = required_target(arguments), ProjectChain(config)
    with reporter() as log:
        done = baseline(target, chain, arguments.at, log, force=arguments.force, lock_wait=arguments.lock_wait)
    if not done.recorded:
        print(f"nothing to record: the ledger has all files up to {arguments.at}")
        return 0
    how = "the schema is what they make" if done.compared else "not compared, or not equal: --force"
    print(f"recorded {counted(len(done.recorded), 'file')} up to {arguments.at} ({how})")
    print(f"\nNext:\n  {chain.command('migrate', option=target.option)}")
    return 0
