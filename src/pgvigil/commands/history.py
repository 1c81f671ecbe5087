"""`pgvigil history`: what was, over any time, from the database and its archives."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import Any

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target

GROUP = Group.LOOK
SUMMARY = "history over any time, from tables and archives: performance, executions, sessions, hand-offs, one session"
FORMATS = ("text", "json", "csv", "svg")


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    performance = options.add_action(actions, "performance", "operations: calls, success, durations and percentiles")
    performance.add_argument("--operation", metavar="NAME", help="this operation only")
    executions = options.add_action(actions, "executions", "query executions by engine: counts and times")
    executions.add_argument("--user", metavar="ID", help="executions of this user only")
    sessions = options.add_action(actions, "sessions", "statistics of sessions")
    handoffs = options.add_action(actions, "handoffs", "statistics of hand-offs")
    session = options.add_action(actions, "session", "the timeline of one session: events, operations, executions")
    session.add_argument("session", metavar="SESSION", help="the id of the session")
    for action in (performance, executions, sessions, handoffs, session):
        options.add_database(action)
        action.add_argument(
            "--format",
            choices=FORMATS,
            default="text",
            help="format of the report (default %(default)s; svg: a picture)",
        )
        action.add_argument("-o", "--output", type=Path, metavar="FILE", help="write into this file (default: stdout)")
    for action in (performance, executions, sessions, handoffs):
        action.add_argument("--since", type=options.moment, metavar="TIME", help="from this time on (ISO 8601, UTC)")
        action.add_argument("--until", type=options.moment, metavar="TIME", help="before this time")
        widths = ("hour", "day") if action in (sessions, handoffs) else ("hour", "day", "all")
        action.add_argument("--by", choices=widths, default="day", help="width of a line (default %(default)s)")
    for action in (performance, executions, session):
        group = action.add_argument_group("archives")
        group.add_argument(
            "--archive", metavar="DIR|URL",
            help="where the files are now, if they were moved (environment: PGVIGIL_ARCHIVE_AT)",
        )  # fmt: skip
        group.add_argument(
            "--engine", choices=("duckdb", "spark"), default="duckdb", help="what reads the files (default %(default)s)"
        )
        group.add_argument(
            "--master",
            default="local[*]",
            metavar="URL",
            help="Spark's master, such as spark://host:7077 (default %(default)s)",
        )


def run(arguments: argparse.Namespace) -> int:
    written = _written(arguments)
    with output.stream(arguments.output) as out:
        out.write(written if written.endswith("\n") else written + "\n")
    return 0


def _written(arguments: argparse.Namespace) -> str:
    from pgvigil.history import engines, executions, performance, report, session, snapshot, statistics

    target = required_target(arguments)
    action, form = arguments.action, arguments.format
    since, until = (getattr(arguments, name, None) for name in ("since", "until"))
    span = snapshot.Span(since or snapshot.BEGINNING, until or snapshot.END, getattr(arguments, "by", "day"))
    if action in ("sessions", "handoffs"):
        rows: list[dict[str, Any]] = report.statistics_rows(statistics.statistics(target, f"{action[:-1]}_stats", span))
        value = "total_sessions" if action == "sessions" else "total"
        return (
            report.picture(f"{action} by {span.by}", value, rows, None, value)
            if form == "svg"
            else report.written(rows, form)
        )
    moved_to = arguments.archive or os.environ.get("PGVIGIL_ARCHIVE_AT")
    with engines.opened(arguments.engine, arguments.master) as ask:
        if action == "session":
            rows = report.session_rows(session.timeline(target, arguments.session, ask, moved_to=moved_to))
            return (
                report.timeline_picture(f"session {arguments.session}", rows)
                if form == "svg"
                else report.written(rows, form)
            )
        if action == "performance":
            found = performance.trends(target, span, ask, operation=arguments.operation, moved_to=moved_to)
            rows = report.performance_rows(found)
            if form == "svg":
                return report.picture(f"p95 by {span.by}", "milliseconds", rows, "operation", "p95_ms")
            return report.written(rows, form)
        rows = report.executions_rows(executions.executions(target, span, ask, user=arguments.user, moved_to=moved_to))
        if form == "svg":
            return report.picture(f"executions by {span.by}", "executions", rows, "database_type", "executions")
        return report.written(rows, form)
