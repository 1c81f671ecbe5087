"""The commands of the days between migrations."""

from __future__ import annotations

import argparse
import json
import sys
from contextlib import suppress
from dataclasses import asdict

from pgvigil.commands import call
from pgvigil.errors import UsageError


def maintain(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.operate import maintain

    if (arguments.action == "run") != bool(arguments.job):
        raise UsageError("`maintain run` takes the name of a job; run-due and status take none", "See maintain --help.")
    target = call.required(arguments)
    if arguments.action == "run":
        print(f"{arguments.job}: {maintain.run(target, arguments.job)} rows")
        return 0
    if arguments.action == "run-due":
        with journal() as tell:
            ran = maintain.run_due(target, tell)
        print(f"{ran} jobs ran" if ran else "no job is due")
        return 0
    jobs = maintain.status(target)
    if arguments.json:
        print(json.dumps([asdict(job) for job in jobs], indent=2, default=str))
    else:
        for job in jobs:
            mark = "overdue" if job.overdue else "due" if job.due else ""
            last = f"{job.last_started:%Y-%m-%d %H:%M:%S%z}" if job.last_started else ""
            told = job.last_error or (f"{job.last_rows} rows" if job.last_rows is not None else "")
            print(f"{job.job:<12}every {job.every!s:<16}{job.state:<11}{mark:<9}{last:<26}{told}".rstrip())
    return 1 if any(job.overdue for job in jobs) else 0


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
            print(json.dumps([asdict(session) for session in found], indent=2, default=str))
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
    print(json.dumps(health.document(found), indent=2, default=str) if arguments.json else health.text(found))
    return 0 if found.healthy else 1


def profile(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import profile, trial

    statement = trial.given(arguments.query, arguments.file, sys.stdin)
    done = profile.profile(call.required(arguments), statement, arguments.param, arguments.iterations)
    bars = sys.stdout.isatty()
    print(json.dumps(profile.document(done), indent=2) if arguments.json else profile.text(done, bars=bars))
    return 0


def explain(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import explain, trial

    statement = trial.given(arguments.query, arguments.file, sys.stdin)
    done = explain.explain(call.required(arguments), statement, arguments.param)
    if arguments.json:
        print(json.dumps(explain.document(done), indent=2))
    else:
        print("\n".join(map(call.one_line, explain.text(done, bars=sys.stdout.isatty()).split("\n"))))
    return 0 if done.sound else 1


def sizes(arguments: argparse.Namespace) -> int:
    from pgvigil.operate import sizes

    found = sizes.measure(call.required(arguments))
    bars = sys.stdout.isatty()
    print(json.dumps(sizes.document(found), indent=2) if arguments.json else sizes.text(found, bars=bars))
    return 0
