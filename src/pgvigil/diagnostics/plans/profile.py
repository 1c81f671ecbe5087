"""Measure how long a statement takes: run it several times and roll each run back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from pgvigil.database import Target
from pgvigil.diagnostics.plans import rolled_back


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
    """Run the statement `iterations` (at least 1) times on one connection.

    Raise ConnectError, and the errors of `rolled_back.attempt`.

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
