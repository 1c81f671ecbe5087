"""The operations over time: calls, success and durations.

Percentiles come from the histograms of pgvigil.performance_rollups, with the same bins, so that they are within 1 % of
percentile_cont wherever the rows are.
"""

from __future__ import annotations

import math
from collections import Counter
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from pgvigil.archives.catalogue import Archive
from pgvigil.archives.summary import BIN, GAMMA, added_query
from pgvigil.database import Target
from pgvigil.history.engines import Ask
from pgvigil.history.snapshot import Span, paths_and_summaries, snapshot


@dataclass
class Trend:
    """An operation in a bucket of time. Durations in milliseconds."""

    operation: str
    time: datetime | None
    calls: int = 0
    successful: int = 0
    total_ms: int = 0
    min_ms: int = 2**31
    max_ms: int = 0
    bins: Counter[int] = field(default_factory=Counter, repr=False)

    def add(self, bin_: int, calls: int, successful: int, total_ms: int, min_ms: int, max_ms: int) -> None:
        self.bins[bin_] += calls
        self.calls += calls
        self.successful += successful
        self.total_ms += total_ms
        self.min_ms = min(self.min_ms, min_ms)
        self.max_ms = max(self.max_ms, max_ms)

    @property
    def success_rate(self) -> float:
        return round(100 * self.successful / self.calls, 2)

    def quantile(self, fraction: float) -> float:
        """Return a quantile as pgvigil.histogram_quantile does: linear between the two neighbouring ranks."""
        place = fraction * (self.calls - 1)
        low, high = _value(self._bin_of(math.floor(place))), _value(self._bin_of(math.ceil(place)))
        return low + (place - math.floor(place)) * (high - low)

    def _bin_of(self, rank: int) -> int:
        for bin_ in sorted(self.bins):
            rank -= self.bins[bin_]
            if rank < 0:
                return bin_
        return max(self.bins)


def _value(bin_: int) -> float:
    """Return the value of a bin as pgvigil.histogram_value does."""
    if bin_ < 1:
        return 0.0
    value = 0.99 * math.exp((bin_ - 1) * float(GAMMA))
    return float(round(value)) if bin_ <= 196 else value


def files_query(span: Span) -> str:
    """Return the query on the files."""
    return f"""SELECT {span.bucket("created_at")} AS bucket, operation, {BIN} AS bin, count(*) AS calls,
                      count(*) FILTER (WHERE success) AS successful, CAST(sum(duration_ms) AS BIGINT) AS total_ms, min(duration_ms), max(duration_ms)
               FROM {{files}} WHERE {span.duck("created_at")} GROUP BY 1, 2, 3"""


def trends(
    target: Target, span: Span, ask: Ask, *, operation: str | None = None, moved_to: str | None = None
) -> list[Trend]:
    """Read all rows of the time, by bucket and operation. Raise ArchiveError where a file is damaged."""
    with snapshot(target, "performance_logs") as moment:
        rows = moment.rows(
            "bucket bigint, operation text, bin integer, calls bigint, successful bigint, total bigint, least integer, most integer",
            f"""SELECT {span.postgres_bucket("created_at")}, operation, pgvigil.histogram_bin(duration_ms), count(*),
                       count(*) FILTER (WHERE success), sum(duration_ms)::bigint, min(duration_ms), max(duration_ms)
                FROM {{app}}.performance_logs WHERE created_at >= %s AND created_at < %s GROUP BY 1, 2, 3""",
            span.since, span.until,
        )  # fmt: skip
        archives = moment.files_of("performance_logs", span)
    rows += archived(span, archives, ask, moved_to)
    return merge(span, [row for row in rows if operation is None or row[1] == operation])


def summaries_query(span: Span) -> str:
    """Return the query on summaries by day."""
    return added_query("{files}", "CAST(0 AS BIGINT)" if span.by == "all" else "day")


def archived(span: Span, archives: list[Archive], ask: Ask, moved_to: str | None = None) -> list[tuple[Any, ...]]:
    """Read archives: of those that are wholly within the time the summary, of others the rows."""
    with paths_and_summaries(archives, span, moved_to) as (files, summaries):
        return ask(files_query(span), files) + ask(summaries_query(span), summaries)


def merge(span: Span, rows: list[tuple]) -> list[Trend]:  # type: ignore[type-arg]
    """Add up what database and files say, in the order of time and operation."""
    found: dict[tuple[int, str], Trend] = {}
    for bucket, operation, *numbers in rows:
        trend = found.setdefault((bucket, operation), Trend(operation, span.moment(bucket)))
        trend.add(*(int(number) for number in numbers))
    return [found[key] for key in sorted(found)]
