"""The history for people, machines and spreadsheets: text, json, csv, or a picture (svg)."""

from __future__ import annotations

import csv
import io
import json
from collections import defaultdict
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import Any

from pgvigil.history import plot
from pgvigil.history.executions import Executions
from pgvigil.history.performance import Trend
from pgvigil.history.session import Entry
from pgvigil.history.statistics import Bucket
from pgvigil.text import one_line, page

FORMATS = ("text", "json", "csv", "svg")
Row = dict[str, Any]
_WIDEST = 60


def performance_rows(trends: Sequence[Trend]) -> list[Row]:
    return [
        {
            "time": one.time, "operation": one.operation, "calls": one.calls, "successful": one.successful,
            "success_rate_percent": one.success_rate, "avg_ms": round(one.total_ms / one.calls, 2),
            "min_ms": one.min_ms, "max_ms": one.max_ms, "p50_ms": round(one.quantile(0.5), 2),
            "p95_ms": round(one.quantile(0.95), 2), "p99_ms": round(one.quantile(0.99), 2),
        }
        for one in trends
    ]  # fmt: skip


def executions_rows(found: Sequence[Executions]) -> list[Row]:
    return [
        {
            "time": one.time, "database_type": one.database_type, "executions": one.executions, "success": one.success,
            "failed": one.failed, "error": one.error, "timeout": one.timeout,
            "avg_seconds": None if one.avg_seconds is None else round(one.avg_seconds, 4), "max_seconds": one.max_seconds,
        }
        for one in found
    ]  # fmt: skip


def statistics_rows(buckets: Sequence[Bucket]) -> list[Row]:
    keys = list(dict.fromkeys(key for bucket in buckets for key in bucket.data))
    return [{"time": bucket.time} | {key: bucket.data.get(key) for key in keys} for bucket in buckets]


def session_rows(entries: Sequence[Entry]) -> list[Row]:
    return [
        {"time": one.time, "kind": one.kind, "what": one.what, "detail": one.detail, "where": one.where, "id": one.id}
        for one in entries
    ]


def picture(title: str, unit: str, rows: Sequence[Row], name: str | None, value: str) -> str:
    """The lines of a value over time, those with the most calls first."""
    lines: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    weight: dict[str, float] = defaultdict(float)
    for row in rows:
        if row["time"] is None or row[value] is None:
            continue
        of = str(row[name]) if name else value
        lines[of].append((row["time"], float(row[value])))
        weight[of] += float(row.get("calls") or row.get("executions") or 1)
    heaviest = sorted(lines, key=lambda of: (-weight[of], of))[: plot.SERIES]
    return plot.svg(title, unit, {of: lines[of] for of in heaviest})


def timeline_picture(title: str, rows: Sequence[Row]) -> str:
    """Return the number of entries of each kind, over time."""
    lines: dict[str, list[tuple[datetime, float]]] = defaultdict(list)
    for row in rows:
        line = lines[row["kind"]]
        line.append((row["time"], float(len(line) + 1)))
    return plot.svg(title, "entries so far", lines)


def written(rows: Sequence[Row], form: str) -> str:
    """The rows as text, json or csv."""
    if form == "json":
        return json.dumps([{key: _plain(value) for key, value in row.items()} for row in rows], indent=2, default=str)
    if form == "csv":
        out = io.StringIO()
        if rows:
            writer = csv.DictWriter(out, list(rows[0]), lineterminator="\n")
            writer.writeheader()
            writer.writerows({key: _cell(value) for key, value in row.items()} for row in rows)
        return out.getvalue().rstrip("\n")
    if not rows:
        return "nothing in this time"
    keys = [key for key in rows[0] if any(row[key] is not None for row in rows)]
    cells = [[_short(row[key]) for key in keys] for row in rows]
    widths = [max(len(key), *(len(line[place]) for line in cells)) for place, key in enumerate(keys)]
    right = [all(isinstance(row[key], int | float | None) for row in rows) for key in keys]

    def line(words: Sequence[str]) -> str:
        return "  ".join(
            f"{word:>{w}}" if r else f"{word:<{w}}" for word, w, r in zip(words, widths, right, strict=True)
        ).rstrip()

    return page([line(keys), *(line(words) for words in cells)])


def _plain(value: Any) -> Any:
    return value.astimezone(UTC).isoformat() if isinstance(value, datetime) else value


def _cell(value: Any) -> Any:
    """A value for a spreadsheet, which takes what begins like a formula for one."""
    if isinstance(value, datetime):
        return _plain(value)
    text = json.dumps(value, default=str) if isinstance(value, dict | list) else value
    return f"'{text}" if isinstance(text, str) and text.startswith(("=", "+", "-", "@", "\t", "\r")) else text


def _short(value: Any) -> str:
    if isinstance(value, datetime):
        return f"{value.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
    if isinstance(value, int) and not isinstance(value, bool):
        return f"{value:,}"
    text = json.dumps(value, default=str) if isinstance(value, dict | list) else "" if value is None else str(value)
    text = one_line(text)
    return text if len(text) <= _WIDEST else text[: _WIDEST - 1] + "…"
