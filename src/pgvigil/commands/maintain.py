"""`pgvigil maintain`: the regular jobs."""

from __future__ import annotations

import argparse

from pgvigil import project
from pgvigil.commands.common import options, output
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted, one_line, page

SUMMARY = "the regular jobs: preview and accept them, run one now, run what is due, their status"


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    one = options.add_action(actions, "run", "run a job now, due or not")
    one.add_argument("job", metavar="JOB", help="the job's name, see status")
    one.add_argument("--dry-run", action="store_true", help="print what it would do, change nothing")
    due = options.add_action(actions, "run-due", "run the jobs that are due: for cron or a systemd timer")
    for action in (one, due):
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
    install = options.add_action(actions, "install", "let the server run the jobs that need no client")
    options.add_database(install)
    install.add_argument("--pg-cron", action="store_true", required=True, help="by pg_cron, which must be installed")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.display import journal
    from pgvigil.operate import consent, maintain, pg_cron
    from pgvigil.operate.upkeep import Options

    target = required_target(arguments)
    if arguments.action == "status":
        jobs = maintain.status(target)
        print(output.json_text(maintain.document(jobs)) if arguments.json else maintain.text(jobs, target.option))
        return 1 if any(job.overdue for job in jobs) else 0
    if arguments.action == "preview":
        shown = maintain.preview(target)
        print(
            output.json_text(consent.document(shown))
            if arguments.format == "json"
            else consent.text(shown, target.option)
        )
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
