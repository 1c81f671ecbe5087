"""The commands that change a schema, and what belongs to them: the init script, the embedded server."""

from __future__ import annotations

import argparse
import json
import sys
from typing import TYPE_CHECKING

import psycopg

from pgvigil import database, project
from pgvigil.commands import call
from pgvigil.database import Target
from pgvigil.errors import PgvigilError, PreconditionError, UsageError
from pgvigil.text import block, one_line, print_script, quoted

if TYPE_CHECKING:
    from pgvigil.build.runner import Options, Outcome, Run


def setup(arguments: argparse.Namespace) -> int:
    from pgvigil.build import setup
    from pgvigil.display import journal
    from pgvigil.embedded import KeptServer

    target = call.named(arguments)
    embedded = None
    with journal() as tell:
        if target is None:
            embedded = KeptServer()
            tell("starting the embedded server")
            embedded.start()
            target = database.parse_url(embedded.url(), "embedded server")
        outcome = setup.setup(target, _options(arguments), arguments.wait, tell)
    done = f"built, at revision {outcome.end}" if outcome.moved else f"already set up, at revision {outcome.end}"
    print(f"{done}; the schema meets {project.SPEC.name} and every trigger and view works ({outcome.seconds:.1f} s)")
    if embedded:
        program = project.program()
        print(f'\nNext:\n  export DATABASE_URL="$({program} server url)"     where your application connects')
        print(
            f"  {program} validate                            the verdict, any time\n  {program} server stop                         (start, status)"
        )
    else:
        print(
            "\nNext: point your application at this database. The verdict, any time:\n  "
            + project.command("validate", schema=outcome.schema, option=target.option)
        )
    _tell_waiting(outcome, target)
    return 0


def migrate(arguments: argparse.Namespace) -> int:
    from pgvigil.build import runner
    from pgvigil.display import journal

    target, options = call.required(arguments), _options(arguments)
    if arguments.dry_run:
        with journal() as tell:
            run = runner.plan_only(target, options, tell)
        if arguments.json:
            print(json.dumps(tell.document | {"exit_code": 0}, indent=2))
        else:
            print_script(_plan_as_sql(run), sys.stdout)
        return 0
    try:
        with journal() as tell:
            outcome = runner.migrate(target, options, tell)
    except (PgvigilError, psycopg.Error) as failure:
        is_lost = isinstance(failure, psycopg.Error) and database.is_lost(failure)
        error = database.lost(failure) if is_lost else failure
        if arguments.json and isinstance(error, PgvigilError):
            told = {"exit_code": error.exit_code, "error": error.message, "hint": error.hint}
            print(json.dumps(tell.document | told, indent=2))
        if error is failure:
            raise
        raise error from failure
    if arguments.json:
        told = {
            "exit_code": 0,
            "from": outcome.start,
            "to": outcome.end,
            "moved": outcome.moved,
            "remarks": outcome.remarks,
            "waiting_for_consent": outcome.waiting,
        }
        told |= {"seconds": round(outcome.seconds, 2)}
        told |= {"undo": runner.undo_command(outcome, target)} if outcome.moved else {}
        print(json.dumps(tell.document | told, indent=2))
        return 0
    _tell_outcome(outcome, target)
    return 0


def _plan_as_sql(run: Run) -> str:
    lines = []
    for migration in run.pending:
        how = "in a transaction" if migration.transactional else "step by step, outside a transaction"
        lines += [f"-- {migration.name} ({how})", migration.script]
    for migration in run.leaving:
        lines += [f"-- {migration.name} (taken out)", migration.revert_path.read_text()]
    count = f"{len(run.pending)} pending" if run.pending else f"{len(run.leaving)} to be taken out"
    return "\n".join([*lines, f"-- {count if lines else 'up to date'}; nothing was changed"])


def revert(arguments: argparse.Namespace) -> int:
    from pgvigil.build import runner
    from pgvigil.display import journal

    target = call.required(arguments)
    with journal() as tell:
        outcome = runner.revert(target, arguments.to, _options(arguments), tell)
    _tell_outcome(outcome, target)
    return 0


def _tell_outcome(outcome: Outcome, target: Target) -> None:
    from pgvigil.build import runner

    start, end = outcome.start or "base", outcome.end or "base"
    if outcome.reverted:
        verdict = ""
    elif outcome.left:
        verdict = f"; {outcome.left} files are left" + f", and lead to {project.SPEC.name}" * bool(outcome.moved)
    else:
        verdict = f"; the schema meets {project.SPEC.name}"
    if not outcome.moved:
        print(
            f"nothing to revert: the database stands at {start}"
            if outcome.reverted
            else f"up to date at revision {end}{verdict}"
        )
    else:
        done = "reverted" if outcome.reverted else "migrated"
        print(f"{done} from {start} to {end} in {outcome.seconds:.1f} s{verdict}")
        if outcome.archive:
            print(f"  backup  {quoted(str(outcome.archive.archive or outcome.archive.manifest))}")
        print(f"  undo    {runner.undo_command(outcome, target)}")
    for remark in outcome.remarks:
        print(block(f"  note    {remark}"))
    _tell_waiting(outcome, target)


def _tell_waiting(outcome: Outcome, target: Target) -> None:
    """The database was there before pgvigil: its jobs wait until their owner has seen what they would do."""
    if outcome.waiting:
        show, accept = (
            project.command("maintain", *words, option=target.option) for words in (("preview",), ("accept", "all"))
        )
        print(
            f"\nNext: {len(outcome.waiting)} jobs wait until you have seen what they would do, and accepted it:\n  {show}\n  {accept}"
        )


def restore(arguments: argparse.Namespace) -> int:
    from pgvigil.build import backup, restore
    from pgvigil.display import journal
    from pgvigil.operate import backups

    target = call.required(arguments)
    archive = backups.named(arguments.archive, arguments.backup_dir or backup.default_directory())
    with journal() as tell:
        done = restore.restore(
            target, archive, overwrite_newer=arguments.overwrite_newer, tell=tell,
            run_owner_code=arguments.run_owner_code, accept_left_out=arguments.accept_left_out,
        )  # fmt: skip
    print(
        f'restored "{one_line(done.database)}" to revision {done.revision or "base"} in {done.seconds:.1f} s: {done.tables} tables, {done.rows} rows'
    )
    print(f'  swapped in {done.swap_seconds:.2f} s; what was there is kept as database "{one_line(done.kept)}"')
    for finding in done.findings:
        print(block(f"  note    as in the backup: {finding}"))
    return 0


def status(arguments: argparse.Namespace) -> int:
    from pgvigil.build import ledger, plan

    with database.connect(call.required(arguments), "status") as conn:
        state = ledger.read(conn)
    migrations = plan.load(project.MIGRATIONS)
    ledger.compare(state, migrations)
    recorded = {e.revision: e for e in state.entries}
    for migration in migrations:
        entry = recorded.get(migration.revision)
        print(f"{migration.name:<32}{'pending' if entry is None else 'baselined' if entry.baselined else 'in'}")
    return 0


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
        run_owner_code=getattr(arguments, "run_owner_code", False),
        to=getattr(arguments, "to", None),
        build_wait=arguments.build_wait,
    )


def init_sql(arguments: argparse.Namespace) -> int:
    from pgvigil.build import init_sql, plan

    script = init_sql.generate(plan.load(project.MIGRATIONS))
    return call.generated(script, project.INIT_SQL if arguments.write else None)


def server(arguments: argparse.Namespace) -> int:
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
