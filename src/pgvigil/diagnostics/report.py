"""Reports what the last days brought: sessions, executions, operations, jobs, checks and anomalies."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from html import escape
from typing import Any, Final

from psycopg import errors
from psycopg.rows import dict_row

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import PreconditionError
from pgvigil.migration import ledger
from pgvigil.text import one_line, page


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


# Rollups hold what retention has deleted already. {app} is the schema of the application's tables.
_QUERIES: Final = (
    ("sessions", "Sessions created, by their status now", "No session was created.",
     """SELECT s.status, count(*) AS sessions, count(*) FILTER (WHERE s.is_dormant) AS dormant FROM {app}.sessions s
        WHERE s.created_at >= now() - make_interval(hours => 24 * %(days)s) GROUP BY s.status ORDER BY 2 DESC, 1 LIMIT 50"""),
    ("executions", "Query executions", "No query execution was recorded.",
     """SELECT w.database_type AS engine, w.status, w.executions, round((w.seconds / nullif(w.timed, 0))::numeric, 4) AS mean_seconds, round(w.longest::numeric, 3) AS longest_seconds
        FROM pgvigil.execution_window(make_interval(hours => 24 * %(days)s)) w ORDER BY w.executions DESC, 1, 2 LIMIT 50"""),
    ("operations", "Operations", "No operation was logged.",
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
     """SELECT a.database_type AS engine, a.status, a.since, a.ended, a.value AS executions, a.expected FROM pgvigil.anomalies a
        WHERE coalesce(a.ended, now()) >= now() - make_interval(hours => 24 * %(days)s) ORDER BY a.since DESC, a.id LIMIT 50"""),
    ("jobs", "Jobs that failed, or are overdue", "None.",
     """SELECT s.job, s.state, s.last_success, f.failures FROM pgvigil.job_status s
        CROSS JOIN LATERAL (SELECT count(*) AS failures FROM pgvigil.job_runs r WHERE r.job = s.job AND r.error IS NOT NULL
                            AND r.started_at >= now() - make_interval(hours => 24 * %(days)s)) f
        WHERE s.overdue OR f.failures > 0 ORDER BY f.failures DESC, s.job"""),
    ("checks", "Checks that need attention now", "All checks pass.",
     """SELECT c.check_name AS check, c.level, c.value, c.meaning FROM pgvigil.integrity_report(false) c WHERE c.level <> 'ok'"""),
)  # fmt: skip


def collect(target: Target, days: int) -> Report:
    """Query the sections. Raises ConnectError, and PreconditionError for a database that is not migrated."""
    with database.connect(target, "report") as conn:
        schema = ledger.read(conn).schema
        if schema is None:
            raise PreconditionError("this database is not migrated", "See pgvigil status; then pgvigil migrate.")
        row = conn.execute("SELECT current_database(), now()").fetchone()
        assert row is not None  # noqa: S101 - a query without FROM
        sections = []
        cursor = conn.cursor(row_factory=dict_row)
        app = '"' + schema.replace('"', '""').replace("%", "%%") + '"'
        for name, title, empty, query in _QUERIES:
            try:
                found = cursor.execute(query.replace("{app}", app).encode(), {"days": days}).fetchall()
            except (errors.UndefinedTable, errors.UndefinedFunction) as error:
                raise PreconditionError(
                    "this database is not migrated as far as this pgvigil", "See pgvigil status; then pgvigil migrate."
                ) from error
            sections.append(Section(name, title, tuple(found), empty))
    return Report(row[0], days, row[1], tuple(sections))


def document(report: Report) -> dict[str, Any]:
    """Return the report for machines."""
    sections = {
        one.name: [{name: _plain(value) for name, value in row.items()} for row in one.rows] for one in report.sections
    }
    return {"database": report.database, "days": report.days, "at": report.at.isoformat(), **sections}


def _plain(value: Any) -> Any:
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    return value.isoformat() if isinstance(value, datetime) else value


def _words(value: Any) -> str:
    if value is None:
        return "-"
    if isinstance(value, datetime):
        return value.strftime("%Y-%m-%d %H:%M")
    plain = _plain(value)
    return f"{plain:,}" if isinstance(plain, (int, float)) else one_line(str(plain))


def _head(report: Report) -> str:
    return f"{one_line(report.database)}: {report.days} days up to {report.at:%Y-%m-%d %H:%M} UTC"


def text(report: Report) -> str:
    """Return the report for people."""

    def lines() -> Iterator[str]:
        yield _head(report)
        for one in report.sections:
            yield ""
            yield one.title
            if not one.rows:
                yield f"  {one.empty}"
                continue
            table = [
                [name.replace("_", " ") for name in one.rows[0]],
                *([_words(value) for value in row.values()] for row in one.rows),
            ]
            widths = [max(len(row[place]) for row in table) for place in range(len(table[0]))]
            right = [isinstance(value, (int, float, Decimal)) for value in one.rows[0].values()]
            for row in table:
                cells = [
                    cell.rjust(width) if is_right else cell.ljust(width)
                    for cell, width, is_right in zip(row, widths, right, strict=True)
                ]
                yield "  " + "  ".join(cells).rstrip()

    return page(lines())


_STYLE: Final = (
    "body{font:15px/1.45 system-ui,sans-serif;max-width:60rem;margin:2rem auto;padding:0 1rem;color:#1a2029;background:#fff}"
    "table{border-collapse:collapse;width:100%}th,td{text-align:left;padding:.3rem .8rem .3rem 0;border-bottom:1px solid #dde1e7}"
    "th{color:#58616d;font-weight:600}td.n,th.n{text-align:right}h2{font-size:1.05rem;margin-top:1.8rem}p{color:#58616d}"
)


def html(report: Report) -> str:
    """Return the report as a page of its own, without scripts."""
    parts = [
        f'<!doctype html>\n<html lang="en">\n<head><meta charset="utf-8"><title>{escape(_head(report))}</title>\n<style>{_STYLE}</style></head>',
        f"<body>\n<h1>{escape(_head(report))}</h1>",
    ]
    for one in report.sections:
        parts.append(f"<h2>{escape(one.title)}</h2>")
        if not one.rows:
            parts.append(f"<p>{escape(one.empty)}</p>")
            continue
        kinds = ["n" if isinstance(value, (int, float, Decimal)) else "" for value in one.rows[0].values()]
        cell: Callable[[str, str, str], str] = lambda tag, kind, words: f'<{tag} class="{kind}">{escape(words)}</{tag}>'  # noqa: E731
        head = "".join(cell("th", kind, name.replace("_", " ")) for name, kind in zip(one.rows[0], kinds, strict=True))
        body = "\n".join(
            "<tr>"
            + "".join(cell("td", kind, _words(value)) for value, kind in zip(row.values(), kinds, strict=True))
            + "</tr>"
            for row in one.rows
        )
        parts.append(f"<table>\n<thead><tr>{head}</tr></thead>\n<tbody>\n{body}\n</tbody></table>")
    return "\n".join([*parts, "</body>\n</html>"])
