"""`pgvigil maintain`: the regular jobs."""

from __future__ import annotations

import argparse
import json
from collections.abc import Iterable, Sequence
from contextlib import suppress
from dataclasses import asdict
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any

from pgvigil import project
from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted, one_line, page, print_report

if TYPE_CHECKING:
    from pgvigil.database import Target
    from pgvigil.maintenance.client_jobs import Options
    from pgvigil.maintenance.consent import Effect, Preview
    from pgvigil.maintenance.job_runner import Job

GROUP = Group.JOBS
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
    from pgvigil.display import reporter
    from pgvigil.maintenance import job_runner, pg_cron
    from pgvigil.maintenance.client_jobs import Options

    target = required_target(arguments)
    if arguments.action == "status":
        jobs = job_runner.status(target)
        if arguments.json:
            print(output.json_text(_jobs_document(jobs)))
        else:
            print_report(_jobs_text(jobs, target.option), _STYLES)
        return 1 if any(job.overdue for job in jobs) else 0
    if arguments.action == "preview":
        shown = job_runner.preview(target)
        print(
            output.json_text(_previews_document(shown))
            if arguments.format == "json"
            else _previews_text(shown, target.option)
        )
        return 0
    if arguments.action == "accept":
        print(page(job_runner.accept(target, arguments.job)))
        return 0
    if arguments.action == "run" and arguments.dry_run:
        known, effects = job_runner.dry_run(target, arguments.job)
        if effects:
            print(_previews_text(effects, target.option) + "\n\nNothing was changed.")
        else:
            print(f"{known.job}: {known.purpose}\nIt ends, archives and deletes no session. Nothing was changed.")
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
    with reporter() as log:
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


_SHOWN = 160  # characters of an error in a table for people


_WEEK = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")


def _jobs_document(jobs: list[Job]) -> list[dict[str, Any]]:
    """Return the jobs for machines: the rows of job_status, with intervals in seconds."""
    return [asdict(job) | {"every": job.every.total_seconds(), "at": job.at.total_seconds()} for job in jobs]


def _jobs_text(jobs: list[Job], option: str) -> str:
    """Return the jobs for people."""
    from pgvigil.maintenance import consent, wording

    lines = [f"{'job':<15}{'every':<24}{'state':<11}{'last run (UTC)':<21}{'took':>9}  {'next due (UTC)':<30}did"]
    for job in jobs:
        took = (
            f"{(job.last_finished - job.last_started).total_seconds():.1f} s"
            if job.last_finished and job.last_started
            else ""
        )
        next_due = (
            "waits for consent" if job.waits_for_consent else "off" if job.next_due is None else _moment(job.next_due)
        )
        mark = " OVERDUE" if job.overdue else " now" if job.due else ""
        did = wording.done(job.job, job.last_rows, job.last_notes or ()) if job.last_rows is not None else ""
        lines.append(
            f"{job.job:<15}{_schedule(job):<24}{job.state:<11}{_moment(job.last_started):<21}{took:>9}  {next_due + mark:<30}{did}".rstrip()
        )
        if job.last_error:
            lines.append(f"{'':<15}{job.last_error[:_SHOWN]}{'…' if len(job.last_error) > _SHOWN else ''}")
    if waiting := [job.job for job in jobs if job.waits_for_consent]:
        lines += ["", *consent.waiting(waiting, option)]
    return page(lines)


def _moment(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d %H:%M:%S}" if moment else ""


def _schedule(job: Job) -> str:
    """Return a schedule in words, as pgvigil.time_slot counts it. The database returns a month as 30 days."""
    days, clock = job.at.days, f"{timedelta(seconds=job.at.seconds)!s:0>8}"[:5]
    if job.every == timedelta(days=30):
        return f"day {days + 1} of a month {clock}"
    if job.every == timedelta(days=7):
        return f"{_WEEK[days]} {clock}"
    if job.every == timedelta(days=1):
        return f"daily {clock}"
    return f"every {_length(job.every)}" + (f" + {_length(job.at)}" if job.at else "")


def _length(length: timedelta) -> str:
    for name, seconds in (("day", 86_400), ("h", 3600), ("min", 60)):
        number, rest = divmod(length.total_seconds(), seconds)
        if number and not rest:
            return counted(int(number), name) if name == "day" else f"{number:.0f} {name}"
    return str(length)


def _previews_document(previews: Iterable[Preview]) -> list[dict[str, Any]]:
    """Return the previews for machines: the effects by job, with intervals in seconds."""
    return [
        asdict(one)
        | {
            "would": one.would,
            "lacks_backup": one.lacks_backup,
            "backup_within": one.backup_within.total_seconds() if one.backup_within else None,
        }
        for one in previews
    ]


def _previews_text(previews: Sequence[Preview], option: str) -> str:
    """Return the previews for people: a line for each job, then its sessions by status and policy."""
    from psycopg import sql

    from pgvigil.maintenance.consent import ALL, counted_hours

    lines = []
    for one in previews:
        lines.append(f"{one.job}{' waits for consent:' if one.waits_for_consent else ':'} would {one.would}")
        lines += map(_line, one.effects)
        if one.backup_within is not None:
            latest = f"of {one.latest_backup.astimezone(UTC):%Y-%m-%d %H:%M} UTC" if one.latest_backup else "none"
            hours = one.backup_within.total_seconds() / 3600
            lines.append(
                f"  deletes sessions only with a proved backup younger than {counted_hours(hours)}; the last one is {latest}"
            )
    if unknown := sorted(
        {e.status.lower() for one in previews for e in one.effects if e.status and e.is_known is False}
    ):
        lines += ["", "An unknown status counts as open. If it ends a session, say so before you accept:"]
        lines += [f"  INSERT INTO pgvigil.final_statuses VALUES ({sql.quote(status)});" for status in unknown]
    if waits := [one.job for one in previews if one.waits_for_consent]:
        names = [ALL] if len(waits) > 1 else waits
        lines += [
            "",
            "Next, as the owner of the tables:",
            f"  {project.command('maintain', 'accept', *names, option=option)}",
        ]
    return page(lines)


def _line(effect: Effect) -> str:
    times = f"{_day(effect.oldest)} to {_day(effect.newest)}"
    if effect.object == "sessions":
        mark = "" if effect.is_known else "   UNKNOWN STATUS"
        return f"  {effect.rows:>12,}  {effect.status:<14} policy {effect.policy:<12} last active {times}{mark}"
    if effect.action == "drop":
        return f"  {effect.rows:>12,}  {effect.object}, {times}"
    return f"  {effect.rows:>12,}  query executions, started {times}"


def _day(moment: datetime | None) -> str:
    return f"{moment.astimezone(UTC):%Y-%m-%d}" if moment else "?"
