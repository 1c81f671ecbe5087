"""`pgvigil health`: is the database in order?"""

from __future__ import annotations

import argparse
import re

from pgvigil.commands.common import options, output
from pgvigil.commands.common.called import as_called
from pgvigil.commands.common.target import required_target
from pgvigil.text import print_report

SUMMARY = "is the database in order: integrity, jobs, load, settings; exit 1 when it is not"

_FIX = re.compile(r"^( {10}fix: )(.*)$", re.MULTILINE)
_STYLES = {
    "^critical(?= )": "red",
    "^warning(?= )": "yellow",
    "^advice(?= )": "cyan",
    "^ok(?= )": "green",
    "^ {10}fix: .*": "cyan",
    r'^database ".*" is not healthy': "red",
    r'^database ".*" is healthy': "green",
}


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_json(command)
    command.add_argument(
        "--deep", action="store_true", help="read every table: all orphans, all counters recounted, amcheck where it is"
    )
    command.add_argument(
        "--repair", action="store_true",
        help="first restore replaced triggers and views of pgvigil, correct the counters of sessions, and list the changes",
    )  # fmt: skip


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics import health
    from pgvigil.display import journal

    target = required_target(arguments)
    with journal() as log:
        found = health.examine(target, log, deep=arguments.deep, repair=arguments.repair)
    if arguments.json:
        print(output.json_text(health.document(found)))
    else:
        report = _FIX.sub(lambda line: line[1] + as_called(line[2], target.option), health.text(found))
        print_report(report, _STYLES)
    return found.exit_code
