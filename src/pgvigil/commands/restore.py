"""`pgvigil restore`: a backup in the place of its database."""

from __future__ import annotations

import argparse
from pathlib import Path

from pgvigil.commands.common import options
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import block, counted, one_line

GROUP = Group.BACKUPS
SUMMARY = "replace a database by a backup of it; the replaced one is kept under another name"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    command.add_argument(
        "archive", type=Path, metavar="ARCHIVE",
        help="a .dump that pgvigil took, its .json beside it; or its name in the list of backups",
    )  # fmt: skip
    command.add_argument("--overwrite-newer", action="store_true", help="also when rows were written after the backup")
    command.add_argument(
        "--accept-left-out", action="store_true",
        help="also when the archive lacks rows that pg_dump leaves out: those of tables that extensions own",
    )  # fmt: skip
    group = command.add_argument_group("backup")
    options.add_backup_directory(group)
    options.add_owner_code(group)


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.backup import create, restore
    from pgvigil.display import reporter
    from pgvigil.maintenance import backups

    target = required_target(arguments)
    archive = backups.named(arguments.archive, arguments.backup_dir or create.default_directory())
    with reporter() as log:
        done = restore.restore(
            target, archive, overwrite_newer=arguments.overwrite_newer, log=log,
            run_owner_code=arguments.run_owner_code, accept_left_out=arguments.accept_left_out,
        )  # fmt: skip
    print(
        f'restored "{one_line(done.database)}" to revision {done.revision or "base"} in {done.seconds:.1f} s: '
        f"{counted(done.tables, 'table')}, {counted(done.rows, 'row')}"
    )
    print(f'  swapped in {done.swap_seconds:.2f} s; the old content is kept as database "{one_line(done.kept)}"')
    kept = '"' + done.kept.replace('"', '""') + '"'
    print(f"  to delete it, when it is needed no longer, in psql: DROP DATABASE {one_line(kept)};")
    for finding in done.findings:
        print(block(f"  note    as in the backup: {finding}"))
    return 0
