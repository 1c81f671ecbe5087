"""`pgvigil profile`: how long a statement takes."""

from __future__ import annotations

import argparse
import math
import sys
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from pgvigil.commands.common import options, output
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.text import counted, page

if TYPE_CHECKING:
    from pgvigil.diagnostics.plans.profile import Profile

GROUP = Group.LOOK
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
    print(output.json_text(_document(done)) if arguments.json else text(done, bars=bars))
    return 0


_BAR = 40  # characters of the fullest bucket


_BUCKETS = 8


def _document(profile: Profile) -> dict[str, Any]:
    """Return the result for machines."""
    return asdict(profile)


def text(profile: Profile, *, bars: bool) -> str:
    """Return the result for people; `bars` draws the distribution of the times."""
    lines = [
        f"{counted(profile.iterations, 'run')}, each rolled back; {counted(profile.row_count, 'row')}",
        f"min {profile.min_ms:,.3f} ms   avg {profile.avg_ms:,.3f} ms   p95 {profile.p95_ms:,.3f} ms   max {profile.max_ms:,.3f} ms",
    ]
    if bars and profile.min_ms < profile.max_ms:
        lines += ["", *_histogram(profile)]
    return page(lines)


def _histogram(profile: Profile) -> list[str]:
    width = (profile.max_ms - profile.min_ms) / _BUCKETS
    counts = [0] * _BUCKETS
    for time in profile.times_ms:
        counts[min(int((time - profile.min_ms) / width), _BUCKETS - 1)] += 1
    lines = []
    for place, count in enumerate(counts):
        begin = profile.min_ms + place * width
        bar = "█" * math.ceil(_BAR * count / max(counts))
        lines.append(f"{begin:>12,.3f} to {begin + width:>12,.3f} ms  {bar} {count or ''}".rstrip())
    return lines
