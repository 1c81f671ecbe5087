"""The command line: reads the call, makes one call of its own, turns the outcome into an exit code.

Reports go to stdout, what happens meanwhile and what went wrong to stderr.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from pgvigil import database, project
from pgvigil.arguments import parser
from pgvigil.database import Target
from pgvigil.errors import ConnectError, PgvigilError, PreconditionError, UsageError

if TYPE_CHECKING:
    from pgvigil.build.runner import Options, Outcome, Run

# The wings are imported where they are called: a verdict of `validate` must not wait for Alembic to load.


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code."""
    try:
        if argv is None:
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` cleans up as Ctrl-C does
        arguments = parser(_COMMANDS).parse_args(argv)
        if hidden := os.environ.pop("PGVIGIL_HIDDEN_URL", None):  # by __main__, from the process list
            arguments.database_url = hidden
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


# ── Commands ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def _setup(arguments: argparse.Namespace) -> int:
    from pgvigil.build import runner, setup
    from pgvigil.display import journal
    from pgvigil.embedded import KeptServer

    target = _named(arguments)
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
    from pgvigil.display import journal

    target, options = _required(arguments), _options(arguments)
    if arguments.dry_run:
        with journal() as tell:
            run = runner.plan_only(target, options, tell)
        print(json.dumps(tell.document | {"exit_code": 0}, indent=2) if arguments.json else _plan_as_sql(run))
        return 0
    try:
        with journal() as tell:
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


def _revert(arguments: argparse.Namespace) -> int:
    from pgvigil.build import runner
    from pgvigil.display import journal

    target = _required(arguments)
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
            print(f"  backup  {outcome.archive.archive or outcome.archive.manifest}")
        print(f"  undo    {runner.undo_command(outcome, target)}")
    for remark in outcome.remarks:
        print(f"  note    {remark}")


def _restore(arguments: argparse.Namespace) -> int:
    from pgvigil.build import restore
    from pgvigil.display import journal

    target = _required(arguments)
    with journal() as tell:
        done = restore.restore(target, arguments.archive, overwrite_newer=arguments.overwrite_newer, tell=tell)
    print(
        f'restored "{done.database}" to revision {done.revision or "base"} in {done.seconds:.1f} s: {done.tables} tables, {done.rows} rows'
    )
    print(f'  swapped in {done.swap_seconds:.2f} s; what was there is kept as database "{done.kept}"')
    for finding in done.findings:
        print(f"  note    as in the backup: {finding}")
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
    from pgvigil.validate import Reference, load_declaration, validate
    from pgvigil.validate.formats import output, render, wants_colour

    if arguments.offline:
        return _validate_offline(arguments)
    if arguments.fix_sql and arguments.format != "text":
        raise UsageError("--fix-sql prints a script, not a report", "Leave out --fix-sql or --format.")
    path = arguments.spec or project.SPEC
    with output.stream(arguments.output) as out:  # first of all: after a long look it is too late to be refused
        target = _required(arguments)
        spec = load_declaration(path)
        with database.connect(target, "validate") as conn:
            reference = None
            if not arguments.spec:
                reference = Reference(target, spec, project.INIT_SQL, conn.info.server_version)
            schema = arguments.schema or spec.schema or _ledger_schema(conn) or "public"
            report = validate(conn, spec, schema, reference=reference, strict=arguments.strict)
            if arguments.self_test:
                from pgvigil.validate import located, self_test

                report = replace(report, findings=(*report.findings, *located(spec, self_test(conn, schema))))
        if arguments.fix_sql:
            from pgvigil.validate import fix_sql

            print(fix_sql(report), file=out)
        else:
            print(render(report, arguments.format, spec=path, colour=wants_colour(out)), file=out)
    if arguments.output:
        print(f"{report.verdict}; written to {arguments.output}", file=sys.stderr)
    return report.exit_code


def _ledger_schema(conn: psycopg.Connection) -> str | None:
    from pgvigil.build import ledger

    return ledger.read(conn).schema


def _validate_offline(arguments: argparse.Namespace) -> int:
    from pgvigil.build import offline

    if arguments.format not in ("text", "json") or arguments.output:
        raise UsageError(
            "--offline compares no objects: it has no such report", "Leave out --output; --format is text or json."
        )
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


def _backup(arguments: argparse.Namespace) -> int:
    from pgvigil.build import archives, backup
    from pgvigil.display import journal
    from pgvigil.operate import backups

    directory = arguments.backup_dir or backup.default_directory()
    if arguments.action == "list":
        entries = archives.listing(directory)
        print(_json(backups.document(entries)) if arguments.json else backups.text(entries, directory))
    elif arguments.action == "prune":
        pruned = archives.prune(directory, arguments.keep_days)
        print(_json(backups.pruned_document(pruned)) if arguments.json else backups.pruned_text(pruned))
    else:
        target = _required(arguments)
        with journal() as tell:
            if arguments.action == "create":
                made = backups.create(target, directory, arguments.verify_backup, tell)
            else:
                made = backups.verify(target, arguments.archive or backups.newest(target, directory), tell)
        print(_json(asdict(made)) if arguments.json else f"{made.archive}\n  {made.verified}")
    return 0


def _maintain(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.operate import maintain
    from pgvigil.operate.upkeep import Options

    target = _required(arguments)
    if arguments.action == "status":
        jobs = maintain.status(target)
        print(_json(maintain.document(jobs)) if arguments.json else maintain.text(jobs))
        return 1 if any(job.overdue for job in jobs) else 0
    if arguments.action == "install":
        registered, others = maintain.install_pg_cron(target)
        print(f"pg_cron looks every five minutes for: {', '.join(registered)}")
        print(f"not within its power, leave them to `pgvigil maintain run-due`: {', '.join(others)}")
        return 0
    options = Options(
        arguments.backup_dir, arguments.verify_backup, arguments.keep_days, arguments.lock_budget, arguments.build_wait
    )
    with journal() as tell:
        if arguments.action == "run":
            done = maintain.run(target, arguments.job, options, tell)
            said = f"{arguments.job}: {done} {maintain.unit(arguments.job)}"
        else:
            ran = maintain.run_due(target, options, tell)
            said = f"{ran} jobs ran" if ran else "no job is due"
    print(said)
    return 0


def _json(document: object) -> str:
    return json.dumps(document, indent=2, default=str)


def _sessions(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import sessions

    if (arguments.action == "kill" and not arguments.session) or (arguments.action == "list" and arguments.session):
        raise UsageError("`sessions kill` takes the id of a session; list takes none", "See sessions --help.")
    target = _required(arguments)
    if arguments.action == "kill":
        done = sessions.kill(target, arguments.session, arguments.mode, arguments.grace)
        print(json.dumps({"ok": True, "reason": done}) if arguments.json else done)
    elif arguments.action == "list":
        found = sessions.active(target)
        if arguments.json:
            print(json.dumps([asdict(session) for session in found], indent=2, default=str))
        for session in [] if arguments.json else found:
            who = f"{session.username} ({session.application_name})" if session.application_name else session.username
            since = f"{session.start_time:%Y-%m-%d %H:%M:%S%z}"
            where = f"{session.peer or session.hostname} pid {session.backend_pid or '-'}"
            print(_one_line(f"{session.session_id}  {since}  {who:<30}  {where:<34}  {session.sql_text or ''}"))
    else:
        with suppress(KeyboardInterrupt):  # the way to end it
            for one in sessions.follow(target, arguments.session):
                if arguments.json:
                    print(json.dumps(asdict(one), default=str), flush=True)
                    continue
                took = f"{one.duration_ms} ms" if one.duration_ms is not None else ""
                told = f"{one.execution_start_time:%H:%M:%S}  {one.username:<16}  {one.status:<9}  {took:>9}  {one.sql_text or ''}"
                print(_one_line(f"{told}  {one.error_message or ''}"), flush=True)
    return 0


def _one_line(text: str) -> str:
    """What others have written is not to steer the terminal."""
    return "".join(letter if letter.isprintable() else " " for letter in text).rstrip()


def _health(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.operate import health

    target = _required(arguments)
    with journal() as tell:
        found = health.examine(target, tell, deep=arguments.deep, repair=arguments.repair)
    print(json.dumps(health.document(found), indent=2, default=str) if arguments.json else health.text(found))
    return 0 if found.healthy else 1


def _sizes(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import sizes

    found = sizes.measure(_required(arguments))
    bars = sys.stdout.isatty()
    print(json.dumps(sizes.document(found), indent=2) if arguments.json else sizes.text(found, bars=bars))
    return 0


def _init_sql(arguments: argparse.Namespace) -> int:
    from pgvigil.build import init_sql, plan

    script = init_sql.generate(plan.load(project.MIGRATIONS))
    return _generated(script, project.INIT_SQL if arguments.write else None)


def _spec(arguments: argparse.Namespace) -> int:
    return _SPEC_ACTIONS[arguments.action](arguments)


def _spec_dump(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import dump_spec

    with database.connect(_required(arguments), "spec dump") as conn:
        text = dump_spec(conn, arguments.schema, json=arguments.format == "json")
    print(text, end="")
    return 0


def _spec_schema(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import json_schema

    return _generated(json_schema.generate(), project.SPEC_SCHEMA if arguments.write else None)


def _spec_docs(arguments: argparse.Namespace) -> int:
    from pgvigil.build import docs, plan
    from pgvigil.validate import catalog, load_declaration, markdown

    of_project = arguments.spec == project.SPEC
    if arguments.write and (arguments.database_url or not of_project):
        raise UsageError(
            "--write makes the page of this project, from its files alone",
            "Leave out --spec and --database-url, or --write.",
        )
    if of_project and not arguments.database_url:
        page = docs.page(plan.load(project.MIGRATIONS))
        return _generated(page, project.REFERENCE if arguments.write else None)
    declared, comments = load_declaration(arguments.spec), {}
    if arguments.database_url:
        schema = arguments.schema or declared.schema or "public"
        with database.connect(_required(arguments), "docs") as conn:
            found = catalog.snapshot(conn, declared.scope(schema), schema)
        comments = {
            path: attributes["comment"] for path, attributes in found.objects.items() if "comment" in attributes
        }
    return _generated(markdown.page(declared, comments), None)


def _spec_tests(arguments: argparse.Namespace) -> int:
    from pgvigil.validate import load_declaration, pgtap

    declared = load_declaration(arguments.spec)
    return _generated(pgtap.script(declared, arguments.schema or declared.schema or "public"), None)


def _generated(text: str, path: Path | None) -> int:
    if path:
        path.write_text(text, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    else:
        print(text, end="")
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
        to=getattr(arguments, "to", None),
        build_wait=arguments.build_wait,
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


_COMMANDS = {
    "setup": _setup,
    "migrate": _migrate,
    "revert": _revert,
    "backup": _backup,
    "restore": _restore,
    "status": _status,
    "validate": _validate,
    "spec": _spec,
    "maintain": _maintain,
    "sessions": _sessions,
    "health": _health,
    "sizes": _sizes,
    "init-sql": _init_sql,
    "server": _server,
}
_SPEC_ACTIONS = {"dump": _spec_dump, "docs": _spec_docs, "schema": _spec_schema, "tests": _spec_tests}
