"""`pgvigil sizes`: which tables use how much space."""

from __future__ import annotations

import argparse
import sys

from pgvigil.commands.common import options, output
from pgvigil.commands.common.target import required_target
from pgvigil.text import print_report

SUMMARY = "print the size of each table with its partitions, indexes and dead rows"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_json(command, "print one JSON document, in bytes, instead of the table")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics import sizes

    found = sizes.measure(required_target(arguments))
    bars = sys.stdout.isatty()
    if arguments.json:
        print(output.json_text(sizes.document(found)))
    else:
        print_report(sizes.text(found, bars=bars), {"^table .*": "bold", "█+": "cyan"})
    return 0
