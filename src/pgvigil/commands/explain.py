"""`pgvigil explain`: what is wrong with the plan of a statement."""

from __future__ import annotations

import argparse
import sys

from pgvigil.commands.common import options, output
from pgvigil.commands.common.target import required_target
from pgvigil.text import print_report

SUMMARY = "run a statement once, rolled back, and report what is wrong with its plan; exit 1 if something is"

_STYLES = {"^warning(?= )": "yellow", "^note(?= )": "cyan", "^ {10}fix: .*": "cyan", "█+": "cyan"}


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_statement(command)
    options.add_json(command, "print one JSON document with findings and plan instead of the report")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics.plans import explain, rolled_back

    statement = rolled_back.given(arguments.query, arguments.file, sys.stdin)
    done = explain.explain(required_target(arguments), statement, arguments.param)
    if arguments.json:
        print(output.json_text(explain.document(done)))
    else:
        print_report(explain.text(done, bars=sys.stdout.isatty()), _STYLES)
    return 0 if done.sound else 1
