"""`pgvigil guard`: another tool's migration command, with backup, bounded lock waits and comparison."""

from __future__ import annotations

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import psycopg

from pgvigil import database
from pgvigil.commands.common import options
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.errors import PgvigilError, UsageError
from pgvigil.text import block, quoted

if TYPE_CHECKING:
    from pgvigil.projects.config import Config

GROUP = Group.OWN
SUMMARY = "run any migration command under a run lock, after a verified backup, with its lock waits bounded"

_KEYS: dict[str, Any] = {"command": list, "retry": bool, "max_wait_ms": (int, float), "application_name": str}


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.usage = "pgvigil guard [options] -- COMMAND [ARGUMENT …]"
    options.add_database(
        command, "the database that the command works on (environment: DATABASE_URL); it is given this address"
    )
    options.add_json(command, "print one JSON document on stdout instead of the report")
    command.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="COMMAND", help="the command and its arguments, after --"
    )
    command.add_argument(
        "--rehearse", action="store_true",
        help="first run the command on a scratch copy of the backup; it can reach nothing else then",
    )  # fmt: skip
    command.add_argument(
        "--max-lock-ms", type=options.seconds, metavar="MS",
        help="with --rehearse: stop when a table was locked against writers for longer",
    )  # fmt: skip
    command.add_argument("--spec", type=Path, metavar="FILE", help="compare the result with this spec (see: spec dump)")
    command.add_argument(
        "--wait-for-blockers", type=options.seconds, default=0, metavar="SECONDS",
        help="wait this long for long transactions to end (default %(default)s)",
    )  # fmt: skip
    group = command.add_argument_group("locks")
    group.add_argument(
        "--max-wait-ms", type=options.seconds, metavar="MS",
        help="cancel a statement of the command that waits this long for a lock and stops others (default 200)",
    )  # fmt: skip
    group.add_argument(
        "--retry", action="store_true",
        help="run the command again when it failed because of that; only for commands that can be run again after a failure",
    )  # fmt: skip
    group.add_argument(
        "--lock-budget", type=options.seconds, default=60, metavar="SECONDS",
        help="with --retry: try for this long (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--lock-wait", type=options.seconds, default=10, metavar="SECONDS",
        help="wait this long for another run to finish (default %(default)s)",
    )  # fmt: skip
    group.add_argument(
        "--application-name", metavar="NAME",
        help="the command's sessions have this name, and no others: for commands behind a pooler or in a container",
    )  # fmt: skip
    options.add_migration_backup(command)
    options.add_project(command)


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import reporter
    from pgvigil.guard import run as guarded

    config = _project(arguments)
    said = _table(config)
    words = arguments.command[1:] if arguments.command[:1] == ["--"] else arguments.command
    words = words or said.get("command", [])
    if not words:
        raise UsageError("no command is named", "Write it after --: pgvigil guard -- alembic upgrade head")
    if words[0].startswith("-"):
        raise UsageError(f"{words[0]} is not an option of guard", "Its options come before --, the command after it.")
    if arguments.max_lock_ms is not None and not arguments.rehearse:
        raise UsageError("--max-lock-ms is what a rehearsal is compared with", "Add --rehearse.")
    if (arguments.backup == "command") != bool(arguments.backup_command):
        raise UsageError("--backup command and --backup-command CMD go together", "Give both or neither.")
    environment = guarded.environment()
    target = required_target(arguments)
    wait = arguments.max_wait_ms if arguments.max_wait_ms is not None else said.get("max_wait_ms", 200)
    spec = arguments.spec or (config.spec if config else None)
    wishes = guarded.Options(
        words=words, environment=environment, url=arguments.database_url, spec=spec, rehearse=arguments.rehearse,
        retry=arguments.retry or said.get("retry", False), max_wait_ms=wait, max_lock_ms=arguments.max_lock_ms,
        application_name=arguments.application_name or said.get("application_name"),
        lock_wait=arguments.lock_wait, lock_budget=arguments.lock_budget, blocker_wait=arguments.wait_for_blockers,
        backup_directory=arguments.backup_dir or (config.backup_directory if config else None),
        backup_kind=arguments.backup or (config.backup_kind if config else "full"),
        backup_proof=arguments.verify_backup or (config.backup_verify if config else "read"),
        backup_command=arguments.backup_command, run_owner_code=arguments.run_owner_code,
    )  # fmt: skip
    outcome = guarded.Outcome()
    try:
        with reporter() as log:
            guarded.guard(target, wishes, log, outcome)
    except (PgvigilError, psycopg.Error) as failure:
        is_lost = isinstance(failure, psycopg.Error) and database.is_lost(failure)
        error = database.lost(failure) if is_lost else failure
        if arguments.json and isinstance(error, PgvigilError):
            ending = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
            print(json.dumps(log.document | _document(outcome) | ending, indent=2, default=str))
        if error is failure:
            raise
        raise error from failure
    if arguments.json:
        print(json.dumps(log.document | _document(outcome) | {"exit_code": 0}, indent=2, default=str))
    else:
        _print(outcome, spec)
    return 0


def _project(arguments: argparse.Namespace) -> Config | None:
    from pgvigil.projects import config

    return config.find(arguments.project) if arguments.project is not None else None


def _table(config: Config | None) -> dict[str, Any]:
    """Return the settings of [guard] in the project."""
    said = dict(config.tables.get("guard", {})) if config else {}
    for key, value in said.items():
        if key not in _KEYS:
            raise UsageError(
                f"{config and config.file}: there is no key {key} in [guard]; known are {', '.join(_KEYS)}",
                "Fix the file.",
            )
        if isinstance(value, bool) != (_KEYS[key] is bool) or not isinstance(value, _KEYS[key]):
            raise UsageError(f"{config and config.file}: {key} in [guard] cannot be {value!r}", "Fix the file.")
    if not all(isinstance(word, str) for word in said.get("command", [])):
        raise UsageError(f"{config and config.file}: command in [guard] is a list of strings", "Fix the file.")
    return said


def _document(outcome: object) -> dict[str, object]:
    document = asdict(outcome)  # type: ignore[call-overload]
    status = document.pop("status")
    del document["archive"], document["cancelled"]  # in the report of the run, with more
    return {**document, "command_exit_code": status}


def _print(outcome: object, spec: Path | None) -> None:
    from pgvigil.guard.run import Outcome

    assert isinstance(outcome, Outcome)  # noqa: S101 - imported late
    tries = f" at try {outcome.tries}" if outcome.tries > 1 else ""
    meets = f"; the schema meets {spec}" if spec else ""
    print(f"the command succeeded{tries} in {outcome.seconds:.1f} s{meets}")
    if outcome.changes is None:
        print("  schema  could not be compared: this role may not read all of it")
    elif not outcome.changes:
        print("  schema  unchanged")
    for change in (outcome.changes or [])[:40]:
        print(block(f"  schema  {change}"))
    for index in outcome.invalid:
        print(block(f"  note    index {index} is INVALID: DROP INDEX CONCURRENTLY {index}; and build it again"))
    for warning in outcome.warnings:
        print(block(f"  note    {warning}"))
    if outcome.archive:
        print(f"  backup  {quoted(str(outcome.archive.archive or outcome.archive.manifest))}")
    if outcome.restore:
        print(f"  undo    {outcome.restore}")
