"""The SQL that reads query executions, for the tracker and for the web application. `{}` is the place of the table.

Every name and operator is qualified: the session's search_path may be anything.
"""

from __future__ import annotations

import base64
import binascii
from datetime import UTC, datetime
from typing import Any, Final

STATUSES: Final = ("success", "failed", "timeout", "error")
EQUALS: Final = "OPERATOR(pg_catalog.=)"
_INFINITE: Final = ("infinity", "-infinity")

Query = tuple[str, list[Any]]


def page(
    columns: str,
    *,
    user_id: str | None,
    status: str | None,
    database_type: str | None,
    conversation_id: str | None = None,
    since: datetime | None = None,
    until: datetime | None = None,
    longer_than: float | None = None,
    up_to: float | None = None,
    cursor: str | None,
    limit: int,
    offset: int,
) -> Query:
    """Select executions, the newest first, and one more than `limit` if there are more.

    Raise ValueError for a cursor.
    """
    conditions: list[str] = []
    values: list[Any] = []
    for condition, value in (
        (f"user_id {EQUALS} %s", user_id),
        (f"status {EQUALS} %s", status),
        (f"database_type {EQUALS} %s", database_type),
        (f"conversation_id {EQUALS} %s", conversation_id),
        ("started_at OPERATOR(pg_catalog.>=) %s", since),
        ("started_at OPERATOR(pg_catalog.<) %s", until),
        ("execution_time OPERATOR(pg_catalog.>) %s::pg_catalog.float8", longer_than),
        ("execution_time OPERATOR(pg_catalog.<=) %s::pg_catalog.float8", up_to),
    ):
        if value is not None:
            conditions.append(condition)
            values.append(value)
    if cursor is not None:
        conditions.append("(started_at, id) OPERATOR(pg_catalog.<) (%s::pg_catalog.timestamptz, %s)")
        values += decoded(cursor)
    where = " AND ".join(conditions) or "true"
    return (
        f"SELECT {columns} FROM {{}} WHERE {where} ORDER BY started_at DESC, id DESC LIMIT %s OFFSET %s",
        [*values, limit + 1, offset],
    )


_COUNTS: Final = "".join(
    f" pg_catalog.count(*) FILTER (WHERE status {EQUALS} '{status}') AS {status}_count," for status in STATUSES
)
_RATE: Final = (
    f"pg_catalog.round(100.0 OPERATOR(pg_catalog.*) pg_catalog.count(*) FILTER (WHERE status {EQUALS} 'success')::pg_catalog.numeric"
    " OPERATOR(pg_catalog./) CASE pg_catalog.count(*) WHEN 0 THEN NULL ELSE pg_catalog.count(*) END::pg_catalog.numeric, 2)::pg_catalog.float8"
)
_RECENT: Final = (
    " AND started_at OPERATOR(pg_catalog.>=) (pg_catalog.now() OPERATOR(pg_catalog.-)"
    " pg_catalog.make_interval(hours => 24 OPERATOR(pg_catalog.*) %s))"
)


def stats(user_id: str | None, days: int) -> Query:
    """Select one row: the last `days` times 24 hours of a user, or of all."""
    condition, values = _of_user(user_id)
    return (
        "SELECT %s::pg_catalog.int4 AS period_days, pg_catalog.count(*) AS total_executions,"
        + _COUNTS
        + f" {_RATE} AS success_rate,"
        " pg_catalog.avg(execution_time) AS avg_execution_time, pg_catalog.max(execution_time) AS max_execution_time,"
        f" COALESCE(pg_catalog.sum(total_rows), 0)::pg_catalog.int8 AS total_rows_processed FROM {{}} WHERE {condition}{_RECENT}",
        [days, *values, days],
    )


def database_stats(user_id: str | None, days: int | None = None) -> Query:
    """Select a row for each engine, the most used first: of all stored executions, or of the last `days` times 24 hours."""
    condition, values = _of_user(user_id)
    return (
        "SELECT database_type, pg_catalog.count(*) AS execution_count,"
        f" pg_catalog.count(*) FILTER (WHERE status {EQUALS} 'success') AS success_count,"
        f" pg_catalog.count(*) FILTER (WHERE status {EQUALS} 'failed') AS failed_count,"
        " pg_catalog.avg(execution_time) AS avg_execution_time"
        f" FROM {{}} WHERE {condition}{_RECENT if days else ''} GROUP BY database_type ORDER BY execution_count DESC, database_type",
        [*values, days] if days else values,
    )


def _of_user(user_id: str | None) -> Query:
    return ("true", []) if user_id is None else (f"user_id {EQUALS} %s", [user_id])


def encoded(started_at: datetime | str, id: int) -> str:
    """Return the cursor of the page after this row."""
    place = started_at.astimezone(UTC).isoformat() if isinstance(started_at, datetime) else started_at
    return base64.urlsafe_b64encode(f"{place} {id}".encode()).decode()


def decoded(cursor: str) -> tuple[str, int]:
    """Return the place that a cursor names. Raise ValueError."""
    try:
        started_at, _, id = base64.b64decode(cursor.encode(), b"-_", validate=True).decode().rpartition(" ")
        started_at = as_the_server_reads_it(started_at)
        if not (id.isascii() and id.isdigit() and 0 < int(id) < 2**63):
            raise ValueError  # noqa: TRY301 - as for all else that cannot be read
    except (ValueError, binascii.Error):
        raise ValueError("cursor cannot be read: use the next_cursor of an earlier page") from None
    return started_at, int(id)


def as_the_server_reads_it(moment: str) -> str:
    """Return the moment of a cursor in the one form that Python and the server both read, in UTC. Raises ValueError."""
    if moment in _INFINITE:
        return moment
    found = datetime.fromisoformat(moment)
    if found.tzinfo is None:
        raise ValueError("a moment needs a time zone")
    try:
        return found.astimezone(UTC).isoformat()
    except OverflowError:
        raise ValueError("a moment beyond the calendar") from None
