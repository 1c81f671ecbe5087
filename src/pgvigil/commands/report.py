"""`pgvigil report`: what the last days brought, for a mail or a page."""

from __future__ import annotations

import argparse

from pgvigil.commands.common import options, output
from pgvigil.commands.common.target import required_target

SUMMARY = "report sessions, executions, operations, jobs, checks and anomalies of the last days"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    command.add_argument(
        "--days", type=_days, default=7, metavar="N", help="how many days, 1 to 365 (default %(default)s)"
    )
    command.add_argument(
        "--format", choices=("text", "html", "json"), default="text", help="format of the report (default %(default)s)"
    )


def _days(text: str) -> int:
    if not text.isascii() or not text.isdigit() or not 1 <= int(text) <= 365:
        raise argparse.ArgumentTypeError(f"{text} is not a number of days from 1 to 365")
    return int(text)


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics import report

    found = report.collect(required_target(arguments), arguments.days)
    if arguments.format == "json":
        print(output.json_text(report.document(found)))
    else:
        print(report.html(found) if arguments.format == "html" else report.text(found))
    return 0
