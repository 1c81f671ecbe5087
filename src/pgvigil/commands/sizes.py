"""`pgvigil sizes`: which tables use how much space."""

from __future__ import annotations

import argparse
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import page, print_report

if TYPE_CHECKING:
    from pgvigil.diagnostics.sizes import Sizes

GROUP = Group.LOOK
SUMMARY = "print the size of each table with its partitions, indexes and dead rows"


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    options.add_json(command, "print one JSON document, in bytes, instead of the table")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.diagnostics import sizes

    found = sizes.measure(required_target(arguments))
    bars = sys.stdout.isatty()
    if arguments.json:
        print(output.json_text(_document(found)))
    else:
        print_report(text(found, bars=bars), {"^table .*": "bold", "█+": "cyan"})
    return 0


_BAR = 24  # characters for the largest table


def _document(sizes: Sizes) -> dict[str, Any]:
    """Return the result for machines."""
    return asdict(sizes)


def text(sizes: Sizes, *, bars: bool) -> str:
    """Return the result for people; `bars` draws the size of each table relative to the largest."""
    largest = max((table.total for table in sizes.tables), default=0) or 1
    width = max((len(table.table) for table in sizes.tables), default=0) + 2
    lines = [f"{sizes.total_size_mb} MB in total", ""]
    lines.append(f"{'table':<{width}}{'heap MB':>10}{'index MB':>10}{'toast MB':>10}{'rows':>14}{'dead rows':>12}")
    for table in sizes.tables:
        mib = [f"{part / 2**20:>10.1f}" for part in (table.heap_bytes, table.index_bytes, table.toast_bytes)]
        bar = "  " + "█" * max(round(_BAR * table.total / largest), 1) if bars else ""
        lines.append(f"{table.table:<{width}}{''.join(mib)}{table.rows:>14,}{table.dead_rows:>12,}{bar}")
    return page(lines)
