"""Report the activity of the last days: sessions, executions, operations, jobs, checks and anomalies."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from typing import Any, Final

from psycopg import errors

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import PreconditionError
from pgvigil.migration import ledger
from pgvigil.owner import rows
from pgvigil.shipped import require_shipped


@dataclass(frozen=True)
class Section:
    """A table of the report: its columns have the names of the query's."""

    name: str
    title: str
    rows: tuple[dict[str, Any], ...]
    empty: str


@dataclass(frozen=True)
class Report:
    """A report of `days` times 24 hours up to `at`."""

    database: str
    days: int
    at: datetime
    sections: tuple[Section, ...]


# Name, title, what an empty one says, columns, query. Rollups hold what retention has deleted already. {app} is the application's schema.
_QUERIES: Final = (
    ("sessions", "Sessions created, by their status now", "No session was created.",
     "status text, sessions bigint, dormant bigint",
     """SELECT s.status, count(*) AS sessions, count(*) FILTER (WHERE s.is_dormant) AS dormant FROM {app}.sessions s
        WHERE s.created_at >= now() - make_interval(hours => 24 * %(days)s) GROUP BY s.status ORDER BY 2 DESC, 1 LIMIT 50"""),
    ("executions", "Query executions", "No query execution was recorded.",
     "engine text, status text, executions bigint, mean_seconds numeric, longest_seconds numeric",
     """SELECT w.database_type AS engine, w.status, w.executions, round((w.seconds / nullif(w.timed, 0))::numeric, 4) AS mean_seconds, round(w.longest::numeric, 3) AS longest_seconds
        FROM pgvigil.execution_window(make_interval(hours => 24 * %(days)s)) w ORDER BY w.executions DESC, 1, 2 LIMIT 50"""),
    ("operations", "Operations", "No operation was logged.",
     "operation text, calls bigint, failed bigint, failed_percent numeric, mean_ms numeric, p95_ms numeric",
     """SELECT r.operation, sum(r.calls)::bigint AS calls, sum(r.calls - r.successful)::bigint AS failed,
               round(sum(r.calls - r.successful) * 100.0 / nullif(sum(r.calls), 0), 2) AS failed_percent, round(sum(r.total_ms) / nullif(sum(r.calls), 0), 1) AS mean_ms,
               round(pgvigil.histogram_quantile(sum(r.histogram), sum(r.calls)::bigint, 0.95)::numeric, 1) AS p95_ms
        FROM (SELECT h.operation, h.calls, h.successful, h.total_ms, h.histogram FROM pgvigil.performance_rollups h
              WHERE h.bucket_width = 'hour' AND h.time_bucket >= now() - make_interval(hours => 24 * %(days)s)
              UNION ALL
              SELECT l.operation, l.calls, l.successful, l.total_ms, l.histogram
              FROM pgvigil.histogram_performance_logs((SELECT p.next_id FROM pgvigil.rollup_progress p), 'ffffffff-ffff-ffff-ffff-ffffffffffff',
                                                      now() - make_interval(hours => 24 * %(days)s)) l) r
        GROUP BY r.operation ORDER BY 2 DESC, 1 LIMIT 20"""),
    ("anomalies", "Unusual hours of query executions", "None.",
     "engine text, status text, since timestamptz, ended timestamptz, executions numeric, expected numeric",
     """SELECT a.database_type AS engine, a.status, a.since, a.ended, a.value AS executions, a.expected FROM pgvigil.anomalies a
        WHERE coalesce(a.ended, now()) >= now() - make_interval(hours => 24 * %(days)s) ORDER BY a.since DESC, a.id LIMIT 50"""),
    ("jobs", "Jobs that failed, or are overdue", "None.",
     "job text, state text, last_success timestamptz, failures bigint",
     """SELECT s.job, s.state, s.last_success, f.failures FROM pgvigil.job_status s
        CROSS JOIN LATERAL (SELECT count(*) AS failures FROM pgvigil.job_runs r WHERE r.job = s.job AND r.error IS NOT NULL
                            AND r.started_at >= now() - make_interval(hours => 24 * %(days)s)) f
        WHERE s.overdue OR f.failures > 0 ORDER BY f.failures DESC, s.job"""),
    ("checks", "Checks that need attention now", "All checks pass.",
     "check text, level text, value numeric, meaning text",
     """SELECT c.check_name AS check, c.level, c.value, c.meaning FROM pgvigil.integrity_report(false) c WHERE c.level <> 'ok'"""),
)  # fmt: skip


def collect(target: Target, days: int) -> Report:
    """Query the sections. Raise ConnectError, and PreconditionError for a database that is not migrated."""
    with database.connect(target, "report") as conn:
        schema = ledger.read(conn).schema
        if schema is None:
            raise PreconditionError("this database is not migrated", "See pgvigil status; then pgvigil migrate.")
        require_shipped(conn)
        row = conn.execute("SELECT current_database(), now()").fetchone()
        assert row is not None  # noqa: S101 - a query without FROM
        sections = []
        app = '"' + schema.replace('"', '""').replace("%", "%%") + '"'
        for name, title, empty, columns, query in _QUERIES:
            names = [column.split(" ")[0] for column in columns.split(", ")]
            try:
                found = rows(conn, columns, query.replace("{app}", app), {"days": days})
            except (errors.UndefinedTable, errors.UndefinedFunction) as error:
                raise PreconditionError(
                    "this database is not migrated as far as this pgvigil", "See pgvigil status; then pgvigil migrate."
                ) from error
            sections.append(Section(name, title, tuple(dict(zip(names, row, strict=True)) for row in found), empty))
    return Report(row[0], days, row[1], tuple(sections))
