"""`pgvigil profile`: how long a statement takes."""

from __future__ import annotations

import argparse
import sys

from pgvigil.commands.common import options, output
from pgvigil.commands.common.target import required_target

SUMMARY = "run a statement several times, each rolled back, and report its times"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_statement(command)
    command.add_argument(
        "-n", "--iterations", type=options.count, default=10, metavar="N", help="number of runs (default %(default)s)"
    )
    options.add_json(command, "print one JSON document, in milliseconds, instead of the summary")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics.plans import profile, rolled_back

    statement = rolled_back.given(arguments.query, arguments.file, sys.stdin)
    done = profile.profile(required_target(arguments), statement, arguments.param, arguments.iterations)
    bars = sys.stdout.isatty()
    print(output.json_text(profile.document(done)) if arguments.json else profile.text(done, bars=bars))
    return 0
