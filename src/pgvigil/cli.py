"""The command line: reads the call, makes one call of its own, turns the outcome into an exit code.

Reports go to stdout, what happens meanwhile and what went wrong to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
import time
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from pgvigil import database, project
from pgvigil.arguments import parser
from pgvigil.database import Target
from pgvigil.errors import ConnectError, PgvigilError, PreconditionError, UsageError

if TYPE_CHECKING:
    from pgvigil.build.journal import Journal
    from pgvigil.build.runner import Options

# The wings are imported where they are called: a verdict of `validate` must not wait for Alembic to load.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        if argv is None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` cleans up as Ctrl-C does
            _hide_password()
        arguments = parser(_COMMANDS).parse_args(argv)
        return int(arguments.run(arguments))
    except SystemExit as stop:  # argparse: 0 after --help, 2 for a call it cannot read
        return stop.code if isinstance(stop.code, int) else 2
    except PgvigilError as error:
        return _fail(error)
    except psycopg.errors.InsufficientPrivilege as error:
        return _fail(
            PreconditionError(f"a right is missing: {' '.join(str(error).split())}", "Use a role that has it.")
        )
    except psycopg.OperationalError as error:
        return _fail(
            ConnectError(
                f"the connection was lost: {' '.join(str(error).split())}",
                "Look at the server's log; then run this again.",
            )
        )
    except BrokenPipeError:  # `… | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except KeyboardInterrupt:
        print(
            "\ninterrupted: what ran in a transaction is rolled back; running this again goes on from there",
            file=sys.stderr,
        )
        return 130


def _fail(error: PgvigilError) -> int:
    print(f"error: {error.message}", file=sys.stderr)
    if error.hint:
        print(f"hint: {error.hint}", file=sys.stderr)
    return error.exit_code


def _hide_password() -> None:
    """A password in --database-url stands in the process list: start over with it in the environment."""
    words = sys.argv[1:]
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--database-url" and (equals or at + 1 < len(words)):
            target = database.parse_url(value if equals else words[at + 1], option)
            if password := target.parameters.get("password"):
                words[at : at + (1 if equals else 2)] = [option, target.public_conninfo]
                os.execve(  # noqa: S606 - ourselves
                    sys.executable,
                    [sys.executable, "-P", "-m", "pgvigil", *words],
                    {**os.environ, "PGPASSWORD": password},
                )


# ── Commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _setup(arguments: argparse.Namespace) -> int:
    from pgvigil.build import runner, setup
    from pgvigil.embedded import KeptServer

    target = _named(arguments)
    tell = _journal()
    embedded = None
    if target is None:
        embedded = KeptServer()
        tell("starting the embedded server")
        embedded.start()
        target = database.parse_url(embedded.url(), "embedded server")
    outcome = setup.setup(target, _options(arguments), arguments.wait, tell)
    done = f"built, at revision {outcome.end}" if outcome.moved else f"already set up, at revision {outcome.end}"
    print(f"{done}; the schema meets {project.SPEC.name} and every trigger and view works ({outcome.seconds:.1f} s)")
    if embedded:
        program = runner.program()
        print(f'\nNext:\n  export DATABASE_URL="$({program} server url)"     where your application connects')
        print(
            f"  {program} validate                            the verdict, any time\n  {program} server stop                         (start, status)"
        )
    else:
        print(
            f"\nNext: point your application at this database; {runner.program()} validate{target.option} gives the verdict, any time."
        )
    return 0


def _migrate(arguments: argparse.Namespace) -> int:
    from pgvigil.build import runner

    target, options, tell = _required(arguments), _options(arguments), _journal()
    if arguments.dry_run:
        pending = runner.pending(target, options, tell)
        if arguments.json:
            print(json.dumps(tell.document | {"exit_code": 0}, indent=2))
            return 0
        for migration in pending:
            print(
                f"-- {migration.name} ({'in a transaction' if migration.transactional else 'step by step, outside a transaction'})"
            )
            print(migration.script)
        print(f"-- {len(pending)} pending; nothing was changed" if pending else "-- up to date; nothing was changed")
        return 0
    try:
        outcome = runner.migrate(target, options, tell)
    except PgvigilError as error:
        if arguments.json:
            told = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
            print(json.dumps(tell.document | told, indent=2))
        raise
    if arguments.json:
        told = {
            "exit_code": 0,
            "from": outcome.start,
            "to": outcome.end,
            "moved": outcome.moved,
            "remarks": outcome.remarks,
        }
        told |= {"seconds": round(outcome.seconds, 2)}
        told |= {"undo": runner.undo_command(outcome, target)} if outcome.moved else {}
        print(json.dumps(tell.document | told, indent=2))
        return 0
    if not outcome.moved:
        print(f"up to date at revision {outcome.end}; the schema meets {project.SPEC.name}")
    else:
        print(
            f"migrated from {outcome.start or 'base'} to {outcome.end} in {outcome.seconds:.1f} s; the schema meets {project.SPEC.name}"
        )
        if outcome.archive:
            print(f"  backup  {outcome.archive.archive or outcome.archive.manifest}")
        print(f"  undo    {runner.undo_command(outcome, target)}")
    for remark in outcome.remarks:
        print(f"  note    {remark}")
    return 0


def _revert(arguments: argparse.Namespace) -> int:
    from pgvigil.build import runner

    outcome = runner.revert(_required(arguments), arguments.to, _options(arguments), _journal())
    if not outcome.moved:
        print(f"nothing to revert: the database stands at {outcome.start or 'base'}")
        return 0
    print(f"reverted from {outcome.start} to {outcome.end or 'base'} in {outcome.seconds:.1f} s")
    if outcome.archive:
        print(f"  backup  {outcome.archive.archive or outcome.archive.manifest}")
    return 0


def _restore(arguments: argparse.Namespace) -> int:
    from pgvigil.build import restore

    target = _required(arguments)
    done = restore.restore(target, arguments.archive, overwrite_newer=arguments.overwrite_newer, tell=_journal())
    print(
        f'restored "{done.database}" to revision {done.revision or "base"} in {done.seconds:.1f} s: {done.tables} tables, {done.rows} rows'
    )
    print(f'  swapped in {done.swap_seconds:.2f} s; what was there is kept as database "{done.kept}"')
    return 0


def _status(arguments: argparse.Namespace) -> int:
    from pgvigil.build import ledger, plan

    with database.connect(_required(arguments), "status") as conn:
        state = ledger.read(conn)
    migrations = plan.load(project.MIGRATIONS)
    ledger.compare(state, migrations)
    recorded = {e.revision: e for e in state.entries}
    for migration in migrations:
        entry = recorded.get(migration.revision)
        print(f"{migration.name:<32}{'pending' if entry is None else 'baselined' if entry.baselined else 'in'}")
    return 0


def _validate(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import load_spec, render, self_test, validate

    if arguments.offline:
        return _validate_offline(arguments)
    from pgvigil.build import ledger

    spec = load_spec(project.SPEC)
    with database.connect(_required(arguments), "validate") as conn:
        schema = arguments.schema or ledger.read(conn).schema or "public"
        report = validate(conn, spec, schema)
        if arguments.self_test:
            report = replace(report, findings=(*report.findings, *self_test(conn, schema)))
    print(render(report, arguments.format))
    return report.exit_code


def _validate_offline(arguments: argparse.Namespace) -> int:
    from pgvigil.build import offline

    faults = offline.check()
    if arguments.format == "json":
        print(json.dumps({"ok": not faults, "faults": faults}, indent=2))
    else:
        print(
            "\n".join(faults)
            if faults
            else "ok: spec, migrations, reverts, revisions, checksums and init script agree (no server was asked)"
        )
    return 1 if faults else 0


def _init_sql(arguments: argparse.Namespace) -> int:
    from pgvigil.build import init_sql, plan

    script = init_sql.generate(plan.load(project.MIGRATIONS))
    if arguments.write:
        project.INIT_SQL.write_text(script)
        print(f"wrote {project.INIT_SQL}", file=sys.stderr)
    else:
        print(script, end="")
    return 0


def _server(arguments: argparse.Namespace) -> int:
    from pgvigil.embedded import KeptServer

    server = KeptServer()
    if arguments.action == "start":
        server.start()
        print(server.url())
    elif arguments.action == "stop":
        print("stopped" if server.stop() else "it was not running")
    elif not server.exists():
        raise PreconditionError("there is no embedded server yet", "Make one with scripts/setup-enhanced-db.sh.")
    elif arguments.action == "url":
        print(server.url())
    else:
        print("running" if server.is_running() else "stopped")
    return 0


# ── Reading the call ──────────────────────────────────────────────────────────────────────────────────────────────────


def _options(arguments: argparse.Namespace) -> Options:
    from pgvigil.build.runner import Options

    if (getattr(arguments, "backup", "full") == "command") != bool(getattr(arguments, "backup_command", None)):
        raise UsageError("--backup command and --backup-command CMD go together", "Give both or neither.")
    if getattr(arguments, "max_lock_ms", None) is not None and not arguments.rehearse:
        raise UsageError("--max-lock-ms is what a rehearsal is held against", "Add --rehearse.")
    return Options(
        schema=arguments.schema,
        backup_directory=getattr(arguments, "backup_dir", None),
        lock_wait=arguments.lock_wait,
        lock_budget=arguments.lock_budget,
        blocker_wait=getattr(arguments, "wait_for_blockers", 0),
        accepted=tuple(getattr(arguments, "accept_checksum", ())),
        backup_kind=getattr(arguments, "backup", "none"),
        backup_proof=getattr(arguments, "verify_backup", "read"),
        backup_command=getattr(arguments, "backup_command", None),
        rehearse=getattr(arguments, "rehearse", False),
        max_lock_ms=getattr(arguments, "max_lock_ms", None),
    )


def _named(arguments: argparse.Namespace) -> Target | None:
    return database.resolve(arguments.database_url, [Path.cwd(), project.ROOT])


def _required(arguments: argparse.Namespace) -> Target:
    target = _named(arguments)
    if target is not None:
        return target
    from pgvigil.embedded import KeptServer

    server = KeptServer()
    if server.exists():
        if not server.is_running():
            raise ConnectError(
                "the embedded server is stopped, and no other database is named", "Start it: pgvigil server start"
            )
        return database.parse_url(server.url(), "embedded server")
    raise UsageError(
        "no database is named",
        "Pass --database-url postgresql://user@host/database, or set DATABASE_URL or PGHOST, PGDATABASE …, or write them into .env.",
    )


def _journal() -> Journal:
    from pgvigil.build.journal import Journal

    begin = time.monotonic()

    def speak(text: str) -> None:
        print(f"{time.monotonic() - begin:6.1f} s  {text}", file=sys.stderr, flush=True)

    return Journal(speak)


_COMMANDS = {
    "setup": _setup,
    "migrate": _migrate,
    "revert": _revert,
    "restore": _restore,
    "status": _status,
    "validate": _validate,
    "init-sql": _init_sql,
    "server": _server,
}
