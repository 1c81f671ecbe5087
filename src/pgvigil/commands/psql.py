"""`pgvigil psql`: psql on the database that the other commands use."""

from __future__ import annotations

import argparse
import signal
import subprocess

from pgvigil import argv, project
from pgvigil.commands.common import options
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.errors import BackupError, PreconditionError, UsageError

GROUP = Group.LOOK
SUMMARY = "open psql on the database; ends with psql's own exit code"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    command.add_argument(
        "words", nargs="*", metavar="PSQL-OPTION", help='psql\'s own options, after --: pgvigil psql -- -c "SELECT 1"'
    )


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.backup import pg_tools

    if address := argv.stray_address([word for word in arguments.words if word != "--"]):
        raise UsageError(
            f"an argument of psql is the address of a database: {address}",
            "Give it by --database-url, or by DATABASE_URL: psql's own arguments are in the process list.",
        )
    target = required_target(arguments)
    try:
        program, _ = pg_tools.find_tool("psql", 0)  # of any version: unlike pg_dump, psql serves all
    except BackupError as error:
        raise PreconditionError(
            error.message,
            f"Install it (Debian: apt-get install postgresql-client; or {project.install('embedded')}, which has one), "
            "or set PGVIGIL_PG_BIN to its directory.",
        ) from error
    # No secret in its arguments: these are in the process list.
    call = [program, "--dbname", target.public_conninfo, *arguments.words]
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for psql, which cancels a query
    try:
        done = subprocess.run(call, env=target.client_environment, check=False, restore_signals=True,
                              preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL))  # fmt: skip
    finally:
        signal.signal(signal.SIGINT, before)
    return done.returncode if done.returncode >= 0 else 128 - done.returncode
