"""Measures how long a statement takes: runs it several times and rolls each run back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pgvigil.database import Target
from pgvigil.diagnostics.plans import rolled_back
from pgvigil.text import counted, page

_BAR = 40  # characters of the fullest bucket
_BUCKETS = 8


@dataclass(frozen=True)
class Profile:
    """A result of profile: milliseconds until the whole result arrived. `row_count`: rows that the last run returned, else changed."""

    iterations: int
    row_count: int
    min_ms: float
    max_ms: float
    avg_ms: float
    p95_ms: float
    times_ms: tuple[float, ...]


def profile(target: Target, statement: str, parameters: Sequence[str], iterations: int) -> Profile:
    """Run the statement `iterations` (at least 1) times on one connection. Raises ConnectError, and the errors of `rolled_back.attempt`.

    Nothing is displayed meanwhile: drawing on a terminal would distort the measurement.
    """
    times = []
    with rolled_back.connect(target, "profile") as conn:
        for _ in range(iterations):
            result, seconds = rolled_back.attempt(conn, statement, parameters)
            times.append(round(seconds * 1000, 3))
    return Profile(
        iterations=iterations,
        row_count=result.command_tuples or 0,
        min_ms=min(times),
        max_ms=max(times),
        avg_ms=round(sum(times) / iterations, 3),
        p95_ms=sorted(times)[math.ceil(0.95 * iterations) - 1],
        times_ms=tuple(times),
    )


def document(profile: Profile) -> dict[str, Any]:
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
