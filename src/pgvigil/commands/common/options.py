"""The options that several commands have, in the groups that --help shows.

Each function adds one group to a command.
"""

from __future__ import annotations

import argparse
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal, TypeAlias

from pgvigil import registry

Actions: TypeAlias = "argparse._SubParsersAction[argparse.ArgumentParser]"  # argparse has no public name for it
SEE_EXIT_CODES = "Exit codes and how the database is found: pgvigil --help"


def actions(command: argparse.ArgumentParser) -> Actions:
    """The place for the actions of a command that has several, such as `backup create`."""
    return command.add_subparsers(required=True, metavar="ACTION", dest="action")


def add_action(to: Actions, name: str, summary: str) -> argparse.ArgumentParser:
    """Add a command, or an action of a command, with the summary as its help."""
    return to.add_parser(name, help=summary, description=summary, epilog=SEE_EXIT_CODES, allow_abbrev=False)


def add_database(command: argparse.ArgumentParser, help: str = "the database (environment: DATABASE_URL)") -> Any:
    """Add --database-url, and return its group for options that belong beside it."""
    group = command.add_argument_group("database")
    group.add_argument("--database-url", metavar="URL", help=help)
    return group


def add_schema(group: Any) -> None:
    group.add_argument(
        "--schema", metavar="NAME", help="schema of the application's tables (default: the ledger's, else public)"
    )


def add_project(command: argparse.ArgumentParser, *, always: bool = False) -> None:
    """Add --project, by which the call is about a team's own migrations.

    With `always` it is never about anything else.
    """
    group = command.add_argument_group("project")
    group.add_argument(
        "--project", nargs="?", const=Path(), default=Path() if always else None, type=Path, metavar="DIR",
        help="the project in this directory, or in the first one above it (default: the current one"
        + (")" if always else "; without --project: pgvigil's own migrations)"),
    )  # fmt: skip


def add_locks(command: argparse.ArgumentParser, *, run_lock: bool = False, lock_wait: float = 10) -> None:
    """Add the time to wait for locks.

    With `run_lock` also add that for another run of pgvigil, `lock_wait` seconds by default.
    """
    group = command.add_argument_group("locks")
    group.add_argument(
        "--lock-budget", type=seconds, default=60, metavar="SECONDS",
        help="try this long to get table locks (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--build-wait", type=seconds, default=3600, metavar="SECONDS",
        help="let an index build or a validation wait this long for old transactions (default %(default)s)",
    )  # fmt: skip
    if run_lock:
        group.add_argument(
            "--lock-wait", type=seconds, default=lock_wait, metavar="SECONDS",
            help="wait this long for another run to finish (default %(default)s)",
        )  # fmt: skip


def add_backup_directory(group: Any) -> None:
    group.add_argument(
        "--backup-dir", type=Path, metavar="DIR",
        help="the directory of backups (environment: PGVIGIL_BACKUP_DIR; default: the user's state directory)",
    )  # fmt: skip


def add_proof(group: Any, default: Literal["read", "restore"], *, of_project: bool = False) -> None:
    group.add_argument(
        "--verify-backup", choices=("read", "restore"), default=None if of_project else default,
        help="verify the backup by decoding all of it, or by restoring it into a scratch database and comparing"
        f" (default {default}{', or as the project says' * of_project})",
    )  # fmt: skip


def add_owner_code(group: Any) -> None:
    group.add_argument(
        "--run-owner-code", action="store_true",
        help="as a superuser: run code of owners who are not superusers (a restored archive runs what is in it)",
    )  # fmt: skip


def add_keep_days(group: Any) -> None:
    group.add_argument(
        "--keep-days", type=days, default=30, metavar="DAYS",
        help="delete backups older than this; the latest verified backup of each database is always kept (default %(default)s)",
    )  # fmt: skip


def add_migration_backup(command: argparse.ArgumentParser) -> None:
    """Add the options of the backup that a migration takes first."""
    group = command.add_argument_group("backup")
    add_backup_directory(group)
    add_owner_code(group)
    group.add_argument(
        "--backup", choices=("full", "schema", "none", "command"),
        help="the backup to take first (default full, or as the project says); command: --backup-command takes it",
    )  # fmt: skip
    add_proof(group, "read", of_project=True)
    group.add_argument("--backup-command", metavar="CMD", help="a command for /bin/sh; exit status 0 means success")


def add_job_backup(command: argparse.ArgumentParser) -> None:
    """Add the options of the job that takes backups."""
    group = command.add_argument_group("backup")
    add_backup_directory(group)
    add_proof(group, "restore")
    add_owner_code(group)
    add_keep_days(group)
    command.add_argument_group("archives").add_argument(
        "--archive-to", metavar="DIR|URL",
        help="where job archive_files writes (environment: PGVIGIL_ARCHIVE); credentials of a URL come from the environment",
    )  # fmt: skip
    command.add_argument_group("telemetry server").add_argument(
        "--telemetry-url", metavar="URL",
        help="the database that job holds sends legal holds to (environment: PGVIGIL_TELEMETRY_URL)",
    )  # fmt: skip


def add_json(command: argparse.ArgumentParser, help: str = "print one JSON document instead of the report") -> None:
    command.add_argument("--json", action="store_true", help=help)


def add_statement(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("statement")
    group.add_argument("query", nargs="?", metavar="STATEMENT", help="one statement (default: read from stdin)")
    group.add_argument("-f", "--file", type=Path, metavar="FILE", help="read the statement from this file")
    group.add_argument(
        "-p", "--param", action="append", default=[], metavar="VALUE",
        help=r"the value of $1, then of $2, …; \N is NULL (repeatable)",
    )  # fmt: skip


def count(text: str) -> int:
    value = int(text)
    if not 0 < value <= 1_000_000:
        raise argparse.ArgumentTypeError(f"{text} is not between 1 and 1000000")
    return value


def days(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e5:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days")
    return value


def seconds(text: str) -> float:
    value = float(text)
    if not 0 <= value < 1e6:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds")
    return value


def moment(text: str) -> datetime:
    value = datetime.fromisoformat(text)
    try:
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    except OverflowError as error:  # there is no such time in UTC
        raise ValueError(str(error)) from error


def add_report_format(group: argparse._ArgumentGroup, formats: str = "validate.report.formats") -> None:
    """Add --format, with a choice for each module of the package `formats`."""
    group.add_argument(
        "--format",
        choices=registry.modules(formats),
        default="text",
        help="format of the report (default %(default)s)",
    )


def add_report_output(group: argparse._ArgumentGroup) -> None:
    group.add_argument(
        "--output",
        type=Path,
        metavar="FILE",
        help="write the report to this file, whole or not at all; the verdict to stderr",
    )
