"""`pgvigil maintain`: the regular jobs."""

from __future__ import annotations

import argparse
import json
from contextlib import suppress
from typing import TYPE_CHECKING

from pgvigil import project
from pgvigil.commands.common import options, output
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted, one_line, page, print_report

if TYPE_CHECKING:
    from pgvigil.database import Target
    from pgvigil.maintenance.client_jobs import Options

SUMMARY = "the regular jobs: preview and accept them, run one now, run what is due, watch, their status"

_STYLES = {
    "^job .*": "bold",
    "(?<=  )(?:failed|died)(?=  )|\\bOVERDUE\\b": "red",
    "(?<=  )waits for consent": "yellow",
    "(?<=  )done(?=  )": "green",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    one = options.add_action(actions, "run", "run a job now, due or not")
    one.add_argument("job", metavar="JOB", help="the job's name, see status")
    one.add_argument("--dry-run", action="store_true", help="print what it would do, change nothing")
    due = options.add_action(actions, "run-due", "run the jobs that are due: for cron or a systemd timer")
    watch = options.add_action(
        actions, "watch", "run due jobs until stopped (SIGTERM, Ctrl-C), one line a run: for a container or a service"
    )
    watch.add_argument(
        "--every", type=options.seconds, default=60.0, metavar="SECONDS", help="look for due jobs so often (default 60)"
    )
    options.add_json(watch, "print one JSON document per line")
    for action in (one, due, watch):
        options.add_database(action)
        options.add_locks(action)
        options.add_job_backup(action)
    preview = options.add_action(
        actions, "preview", "print what jobs would expire, archive and delete now: how many sessions, of which status"
    )
    options.add_database(preview)
    preview.add_argument(
        "--format", choices=("text", "json"), default="text", help="format of the report (default %(default)s)"
    )
    accept = options.add_action(
        actions, "accept", "accept what a job would do, as the owner of the tables; until then the job waits"
    )
    options.add_database(accept)
    accept.add_argument("job", metavar="JOB", help='the job\'s name, or "all"')
    status = options.add_action(actions, "status", "each job's last run and next time; exit 1 when one is overdue")
    options.add_database(status)
    options.add_json(status)
    install = options.add_action(actions, "install", "let a scheduler run the jobs")
    options.add_database(install)
    scheduler = install.add_mutually_exclusive_group(required=True)
    scheduler.add_argument("--systemd", action="store_true", help="print a systemd unit that runs `maintain watch`")
    scheduler.add_argument("--cron", action="store_true", help="print a crontab line that runs `maintain run-due`")
    scheduler.add_argument(
        "--pg-cron",
        action="store_true",
        help="register the jobs that need no client with pg_cron, which must be installed",
    )


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.maintenance import consent, job_runner, pg_cron
    from pgvigil.maintenance.client_jobs import Options

    target = required_target(arguments)
    if arguments.action == "status":
        jobs = job_runner.status(target)
        if arguments.json:
            print(output.json_text(job_runner.document(jobs)))
        else:
            print_report(job_runner.text(jobs, target.option), _STYLES)
        return 1 if any(job.overdue for job in jobs) else 0
    if arguments.action == "preview":
        shown = job_runner.preview(target)
        print(
            output.json_text(consent.document(shown))
            if arguments.format == "json"
            else consent.text(shown, target.option)
        )
        return 0
    if arguments.action == "accept":
        print(page(job_runner.accept(target, arguments.job)))
        return 0
    if arguments.action == "run" and arguments.dry_run:
        print(job_runner.dry_run(target, arguments.job))
        return 0
    if arguments.action == "install" and not arguments.pg_cron:
        from pgvigil.maintenance import watch

        print(watch.systemd_unit(target.option) if arguments.systemd else watch.cron_line(target.option))
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
    how = Options(
        arguments.backup_dir, arguments.verify_backup, arguments.keep_days, arguments.lock_budget, arguments.build_wait,
        arguments.run_owner_code, arguments.archive_to, arguments.telemetry_url,
    )  # fmt: skip
    if arguments.action == "watch":
        return _watch(target, how, every=arguments.every, as_json=arguments.json)
    with journal() as log:
        if arguments.action == "run":
            said = f"{arguments.job}: {job_runner.run(target, arguments.job, how, log)}"
            if arguments.job == "archive" and job_runner.keeps_archive(target):
                said += f"\narchive_files: {job_runner.run(target, 'archive_files', how, log)}"
        else:
            ran = job_runner.run_due(target, how, log)
            said = f"{counted(ran, 'job')} ran" if ran else "no job is due"
    print(said)
    return 0


def _watch(target: Target, options: Options, *, every: float, as_json: bool) -> int:
    from pgvigil.maintenance import watch

    def say(line: watch.Line) -> None:
        entry = {"at": line.at.isoformat(timespec="seconds"), "job": line.job, "ok": line.ok, "said": line.said}
        print(json.dumps(entry) if as_json else line.text(), flush=True)

    with suppress(KeyboardInterrupt):  # SIGTERM as well: to be stopped is how a watch ends
        watch.watch(target, options, say, every=every)
    return 0
