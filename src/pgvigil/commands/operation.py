"""The commands of the days between migrations."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from dataclasses import asdict

from pgvigil import project
from pgvigil.commands import call
from pgvigil.errors import UsageError
from pgvigil.text import one_line, page, quoted


def backup(arguments: argparse.Namespace) -> int:
    from pgvigil.build import archives, backup
    from pgvigil.display import journal
    from pgvigil.operate import backups

    directory = getattr(arguments, "backup_dir", None) or backup.default_directory()
    if arguments.action == "list":
        entries = archives.listing(directory)
        print(_json(backups.document(entries)) if arguments.json else backups.text(entries, directory))
    elif arguments.action == "prune":
        pruned = archives.prune(directory, arguments.keep_days)
        print(_json(backups.pruned_document(pruned)) if arguments.json else backups.pruned_text(pruned))
    elif arguments.action == "record":
        print(backups.record(call.required(arguments), arguments.external))
    else:
        target = call.required(arguments)
        with journal() as tell:
            if arguments.action == "create":
                made = backups.create(
                    target, directory, arguments.verify_backup, tell, run_owner_code=arguments.run_owner_code
                )
            else:
                archive = (
                    backups.named(arguments.archive, directory)
                    if arguments.archive
                    else backups.newest(target, directory)
                )
                made = backups.verify(target, archive, tell, run_owner_code=arguments.run_owner_code)
        print(_json(asdict(made)) if arguments.json else page([quoted(str(made.archive)), f"  {made.verified}"]))
    return 0


def maintain(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.operate import consent, maintain, pg_cron
    from pgvigil.operate.upkeep import Options
    from pgvigil.operate.words import counted

    target = call.required(arguments)
    if arguments.action == "status":
        jobs = maintain.status(target)
        print(_json(maintain.document(jobs)) if arguments.json else maintain.text(jobs, target.option))
        return 1 if any(job.overdue for job in jobs) else 0
    if arguments.action == "preview":
        shown = maintain.preview(target)
        print(_json(consent.document(shown)) if arguments.format == "json" else consent.text(shown, target.option))
        return 0
    if arguments.action == "accept":
        print(page(maintain.accept(target, arguments.job)))
        return 0
    if arguments.action == "run" and arguments.dry_run:
        print(maintain.dry_run(target, arguments.job))
        return 0
    if arguments.action == "install":
        registered, others, of_superusers = pg_cron.install(target)
        print(f"pg_cron looks every five minutes for: {one_line(', '.join(registered))}")
        run_due = project.command("maintain", "run-due", option=target.option)
        print(f"not within its power, leave them to `{run_due}`: {one_line(', '.join(others))}")
        if of_superusers:
            print(
                f"registered earlier, and run as a superuser, which cron.unschedule ends: {one_line(', '.join(of_superusers))}"
            )
        return 0
    options = Options(
        arguments.backup_dir, arguments.verify_backup, arguments.keep_days, arguments.lock_budget, arguments.build_wait,
        arguments.run_owner_code,
    )  # fmt: skip
    with journal() as tell:
        if arguments.action == "run":
            said = f"{arguments.job}: {maintain.run(target, arguments.job, options, tell)}"
        else:
            ran = maintain.run_due(target, options, tell)
            said = f"{counted(ran, 'job')} ran" if ran else "no job is due"
    print(said)
    return 0


def _json(document: object) -> str:
    return json.dumps(document, indent=2, default=str)


def sessions(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import sessions

    if (arguments.action == "kill" and not arguments.session) or (arguments.action == "list" and arguments.session):
        raise UsageError("`sessions kill` takes the id of a session; list takes none", "See sessions --help.")
    target = call.required(arguments)
    if arguments.action == "kill":
        done = sessions.kill(target, arguments.session, arguments.mode, arguments.grace)
        print(json.dumps({"ok": True, "reason": done}) if arguments.json else done)
    elif arguments.action == "list":
        found = sessions.active(target)
        if arguments.json:
            print(_json([asdict(session) for session in found]))
        for session in [] if arguments.json else found:
            who = f"{session.username} ({session.application_name})" if session.application_name else session.username
            since = f"{session.start_time:%Y-%m-%d %H:%M:%S%z}"
            where = f"{session.peer or session.hostname} pid {session.backend_pid or '-'}"
            print(call.one_line(f"{session.session_id}  {since}  {who:<30}  {where:<34}  {session.sql_text or ''}"))
    else:
        with suppress(KeyboardInterrupt):  # the way to end it
            for one in sessions.follow(target, arguments.session):
                if arguments.json:
                    print(json.dumps(asdict(one), default=str), flush=True)
                    continue
                took = f"{one.duration_ms} ms" if one.duration_ms is not None else ""
                told = f"{one.execution_start_time:%H:%M:%S}  {one.username:<16}  {one.status:<9}  {took:>9}  {one.sql_text or ''}"
                print(call.one_line(f"{told}  {one.error_message or ''}"), flush=True)
    return 0


def health(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.operate import health

    target = call.required(arguments)
    with journal() as tell:
        found = health.examine(target, tell, deep=arguments.deep, repair=arguments.repair)
    print(_json(health.document(found)) if arguments.json else health.text(found))
    return found.exit_code


def profile(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import profile, trial

    statement = trial.given(arguments.query, arguments.file, sys.stdin)
    done = profile.profile(call.required(arguments), statement, arguments.param, arguments.iterations)
    bars = sys.stdout.isatty()
    print(_json(profile.document(done)) if arguments.json else profile.text(done, bars=bars))
    return 0


def explain(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import explain, trial

    statement = trial.given(arguments.query, arguments.file, sys.stdin)
    done = explain.explain(call.required(arguments), statement, arguments.param)
    if arguments.json:
        print(_json(explain.document(done)))
    else:
        print(explain.text(done, bars=sys.stdout.isatty()))
    return 0 if done.sound else 1


def sizes(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import sizes

    found = sizes.measure(call.required(arguments))
    bars = sys.stdout.isatty()
    print(_json(sizes.document(found)) if arguments.json else sizes.text(found, bars=bars))
    return 0
