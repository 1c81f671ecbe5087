"""The rows that wait for their archive: partitions, and days of the rows that other jobs delete."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

import psycopg

from pgvigil.owner import rows

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)


@dataclass(frozen=True)
class Unit:
    """The rows that become one archive: a partition, or some rows of `table`."""

    source: str
    table: str  # quoted
    key: str
    from_time: datetime
    to_time: datetime
    partition: str | None = None
    oid: int | None = None
    condition: str = ""
    upto: int | None = None

    def __str__(self) -> str:
        return self.partition or f"{self.source} of {self.from_time:%Y-%m-%d}"


def partitions(conn: psycopg.Connection) -> list[Unit]:
    """Return partitions that ended a day ago and are not archived as they are now."""
    found = rows(
        conn,
        "source text, name text, key text, since timestamptz, until timestamptz, partition text, id bigint",
        """SELECT p.source, format('%I.%I', n.nspname, c.relname), p.key::text, p.from_time, p.to_time, p.partition, p.partition_oid::bigint
           FROM pgvigil.partitions_to_archive() p JOIN pg_class c ON c.oid = p.partition_oid JOIN pg_namespace n ON n.oid = c.relnamespace""",
    )
    return [Unit(*row) for row in found]


def executions(reader: psycopg.Connection) -> list[Unit]:
    """Return the days of query executions that wait. The lock waits for whoever puts some there: what has an earlier place is there."""
    with reader.transaction():
        reader.execute("LOCK TABLE pgvigil.executions_to_archive IN SHARE MODE")
        [(upto,)] = rows(reader, "place bigint", "SELECT max(place) FROM pgvigil.executions_to_archive")
    if upto is None:
        return []
    days = rows(
        reader,
        "day text",
        """SELECT DISTINCT (greatest(started_at, '1970-01-01Z') AT TIME ZONE 'UTC')::date::text FROM pgvigil.executions_to_archive
           WHERE place <= %s ORDER BY 1""",
        (upto,),
    )
    units = []
    for (day,) in days:
        begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
        units.append(_day("query_executions", "pgvigil.executions_to_archive", "id", "started_at", begin, upto=upto))
    return units


def deleted_sessions(conn: psycopg.Connection) -> list[Unit]:
    """Return days of deletions that are over and not archived, or to which rows have come; those long ago are not looked at again."""
    days = rows(
        conn,
        "day text",
        """SELECT d.day::text FROM (
               SELECT (s.deleted_at AT TIME ZONE 'UTC')::date AS day, count(*) AS rows FROM pgvigil.deleted_sessions s
               WHERE s.deleted_at < date_trunc('day', now(), 'UTC') - interval '1 day' AND s.deleted_at >= '1970-01-01Z'
                 AND s.deleted_at >= coalesce((SELECT max(a.from_time) - interval '31 days' FROM pgvigil.archives a
                                               WHERE a.source = 'deleted_sessions' AND a.completed_at IS NOT NULL), '-infinity')
               GROUP BY 1) d
           WHERE d.rows > coalesce((SELECT max(a.rows) FROM pgvigil.archives a
                                    WHERE a.source = 'deleted_sessions' AND a.completed_at IS NOT NULL AND a.replaced_at IS NULL
                                      AND (a.from_time AT TIME ZONE 'UTC')::date = d.day), 0)
           ORDER BY d.day""",
    )
    begins = (datetime.fromisoformat(day).replace(tzinfo=UTC) for (day,) in days)
    return [_day("deleted_sessions", "pgvigil.deleted_sessions", "session_id", "deleted_at", begin) for begin in begins]


def _day(source: str, table: str, key: str, time: str, begin: datetime, *, upto: int | None = None) -> Unit:
    """A day of rows; the first one there is begins with time itself."""
    since = "-infinity" if begin == _EPOCH else begin.isoformat()
    end = begin + timedelta(days=1)
    condition = f" WHERE {time} >= '{since}' AND {time} < '{end.isoformat()}'"
    if upto is not None:
        condition += f" AND place <= {upto}"
    return Unit(source, table, key, begin, end, condition=condition, upto=upto)
