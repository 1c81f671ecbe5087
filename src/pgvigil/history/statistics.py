"""The statistics of sessions and hand-offs.

pgvigil.analytics_aggregations keeps them without an end, so no file is read. Rows that are newer than the last run of
job aggregation are counted now.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgvigil.database import Target
from pgvigil.errors import UsageError
from pgvigil.history.snapshot import WIDTHS, Span, snapshot


@dataclass(frozen=True)
class Bucket:
    """A bucket of time, and what pgvigil.session_stats or handoff_stats says of it."""

    time: datetime
    data: dict[str, Any]


def statistics(target: Target, kind: str, span: Span, *, now: datetime | None = None) -> list[Bucket]:
    """Read "session_stats" or "handoff_stats" of the buckets that begin in the time."""
    if span.by not in WIDTHS:
        raise UsageError("these statistics are by hour or by day", "Give --by hour or --by day.")
    width = timedelta(seconds=WIDTHS[span.by])
    with snapshot(target, "analytics_aggregations") as moment:
        kept = moment.rows(
            "time timestamptz, data jsonb, made timestamptz",
            """SELECT time_bucket, aggregation_data, created_at FROM {app}.analytics_aggregations
               WHERE origin = 'pgvigil' AND aggregation_type = %s AND bucket_width = %s AND time_bucket >= %s AND time_bucket < %s""",
            kind, span.by, span.since, span.until,
        )  # fmt: skip
        found = {time: data for time, data, _ in kept}
        # What may have changed since it was aggregated.
        newest = max((made for *_, made in kept), default=(now or datetime.now(UTC)) - timedelta(days=2))
        since = max(span.since, newest - width)
        until = min(span.until, (now or datetime.now(UTC)) + width)
        if since < until:
            query = f"SELECT * FROM pgvigil.{kind}(%s, %s, %s)"
            found |= dict(moment.rows("time timestamptz, data jsonb", query, width, since, until))
    return [Bucket(time, found[time]) for time in sorted(found) if span.since <= time < span.until]
