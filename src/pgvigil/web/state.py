"""Read the state of everything at once: what the API shows as lists, and what the pages of the dashboard ask for every few seconds.

A section is one question. Its answer is shared by all clients and is kept for at least two seconds, and for five thousand times
what it cost (up to five minutes; what is live, up to five seconds): however many pages are open, a section takes little.
"""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, Final

from psycopg.rows import dict_row

from pgvigil.live import monitor_metrics
from pgvigil.web import session_monitoring
from pgvigil.web.access import Principal
from pgvigil.web.problems import Problem
from pgvigil.web.store import Connection, Store

_SHARE: Final = 5000.0
_SHOW_AGE: Final = 15.0  # an answer that is kept for longer says of when it is


@dataclass(frozen=True)
class Section:
    """A question about the state, how long its answer is kept at least and at most, and the columns that only an admin sees."""

    read: Callable[[Connection, Store], Any]
    seconds: float = 2.0
    longest: float = 300.0
    private: tuple[str, ...] = ()


def _rows(query: str, *tables: str) -> Callable[[Connection, Store], Any]:
    def read(connection: Connection, store: Store) -> list[dict[str, Any]]:
        text = query.format(**{table: store.table(table) for table in tables}) if tables else query
        return connection.cursor(row_factory=dict_row).execute(text.encode()).fetchall()

    return read


_CONNECTIONS: Final = """
    SELECT s.session_id, s.username, s.application_name, s.peer, i.hostname, s.backend_pid, s.start_time, s.last_activity_at,
           r.execution_start_time, r.sql_text
    FROM instrumentation.sessions s JOIN instrumentation.instances i ON i.instance_id = s.instance_id
    LEFT JOIN LATERAL (SELECT a.sql_text, a.execution_start_time FROM instrumentation.session_activity a
                       WHERE a.session_id = s.session_id AND a.statement_status = 'executing' ORDER BY a.statement_id DESC LIMIT 1) r ON true
    WHERE s.status = 'active' ORDER BY s.session_id LIMIT 1000"""
_LIVE_STATEMENTS: Final = """
    SELECT a.statement_id, a.session_id, a.username, a.application_name, a.peer, a.execution_start_time, a.sql_text, a.query_id, a.source
    FROM instrumentation.session_activity a
    WHERE a.statement_status = 'executing' AND a.session_status = 'active' ORDER BY a.execution_start_time, a.statement_id LIMIT 1000"""
_JOBS: Final = """
    SELECT s.job, s.purpose, s.every::text AS every, s.enabled, s.state, s.last_started, s.last_finished, s.last_rows, s.last_error, s.last_success,
           s.due, s.overdue, s.next_due, s.waits_for_consent, s.needs_client
    FROM pgvigil.job_status s ORDER BY s.job"""
_CHECKS: Final = (
    "SELECT check_name, level, value, warning, critical, meaning, detail, fix FROM pgvigil.integrity_report(false)"
)
_OPERATIONS: Final = "SELECT * FROM {performance_monitoring_view} ORDER BY total_calls DESC, operation LIMIT 1000"
_SESSIONS_NOW: Final = """
    SELECT (SELECT coalesce(json_object_agg(c.status, c.n), '{{}}') FROM (SELECT s.status, count(*) AS n FROM {sessions} s GROUP BY s.status ORDER BY 2 DESC LIMIT 50) c) AS by_status,
           (SELECT count(*) FROM {sessions} WHERE is_dormant) AS dormant,
           (SELECT count(*) FROM {sessions} WHERE expires_at > now() AND expires_at <= now() + interval '1 hour'
            AND status = ANY (pgvigil.open_statuses())) AS expiring"""
_SESSIONS_CREATED: Final = """
    SELECT a.time_bucket AS bucket, a.aggregation_data -> 'sessions_by_status' AS by_status FROM {analytics_aggregations} a
    WHERE a.aggregation_type = 'session_stats' AND a.origin = 'pgvigil' AND a.bucket_width = 'hour' AND a.time_bucket >= now() - interval '7 days'
    ORDER BY a.time_bucket"""
_TRENDS: Final = """
    SELECT a.time_bucket AS bucket, a.aggregation_data -> 'operations' AS operations FROM {analytics_aggregations} a
    WHERE a.aggregation_type = 'performance_trends' AND a.origin = 'pgvigil' AND a.bucket_width = 'hour' AND a.time_bucket >= now() - interval '24 hours'
    ORDER BY a.time_bucket"""
_EXECUTIONS: Final = """
    SELECT r.bucket, coalesce(sum(r.executions) FILTER (WHERE r.status = 'success'), 0) AS ok,
           coalesce(sum(r.executions) FILTER (WHERE r.status <> 'success'), 0) AS failed
    FROM pgvigil.execution_rollups r WHERE r.bucket_width = 'hour' AND r.bucket >= now() - interval '72 hours'
    GROUP BY r.bucket ORDER BY r.bucket"""
_DURATIONS: Final = """
    SELECT b.bound, b.place, sum(t.bins[b.place]) AS executions
    FROM (SELECT u.bound, u.place FROM unnest(pgvigil.execution_bounds() || NULL) WITH ORDINALITY u (bound, place)) b
    CROSS JOIN pgvigil.execution_totals t GROUP BY b.bound, b.place ORDER BY b.place"""
_ENGINES: Final = "SELECT DISTINCT t.database_type FROM pgvigil.execution_totals t ORDER BY 1 LIMIT 200"
_ANOMALIES: Final = """
    SELECT a.database_type, a.status, a.since, a.hour, a.value, a.expected, a.spread FROM pgvigil.anomalies a
    WHERE a.ended IS NULL ORDER BY a.since, a.id LIMIT 200"""
_WORKERS: Final = """
    SELECT m.instance_id, m.application, m.reported_by, m.hostname, m.pid, m.started_at, m.seen_at, m.report_interval::text AS report_interval,
           m.seen_at > clock_timestamp() - 3 * m.report_interval AS alive
    FROM pgvigil.session_monitors m ORDER BY m.application, m.hostname, m.pid LIMIT 1000"""
_SERVER: Final = """
    SELECT current_database() AS database, current_setting('server_version') AS server_version,
           (SELECT max(m.revision) FROM pgvigil.migrations m) AS revision"""

SECTIONS: Final[dict[str, Section]] = {
    "connections": Section(_rows(_CONNECTIONS), longest=5.0, private=("sql_text",)),
    "live_statements": Section(_rows(_LIVE_STATEMENTS), longest=5.0, private=("sql_text",)),
    "jobs": Section(_rows(_JOBS), longest=10.0, private=("last_error",)),
    "health": Section(_rows(_CHECKS), 5.0, private=("detail", "fix")),
    "operations": Section(_rows(_OPERATIONS, "performance_monitoring_view")),
    "sessions_now": Section(_rows(_SESSIONS_NOW, "sessions")),
    "sessions_created": Section(_rows(_SESSIONS_CREATED, "analytics_aggregations"), 30.0),
    "trends": Section(_rows(_TRENDS, "analytics_aggregations"), 30.0),
    "executions_hours": Section(_rows(_EXECUTIONS), 5.0),
    "executions_durations": Section(_rows(_DURATIONS), 30.0),
    "anomalies": Section(_rows(_ANOMALIES), 5.0),
    "engines": Section(_rows(_ENGINES), 60.0),
    "workers": Section(_rows(_WORKERS), longest=10.0),
    "server": Section(_rows(_SERVER), 60.0),
    "monitor": Section(lambda connection, _: session_monitoring.read_rows(connection), 1.0, 10.0),
}
_Answer = tuple[Any, str, float]


async def ask(store: Store, name: str) -> _Answer:
    """Return the answer of a section, of when it is, and for how many seconds it is kept. Raises Problem."""
    section = SECTIONS[name]

    def question(connection: Connection) -> _Answer:
        began = time.monotonic()
        found = section.read(connection, store)
        cost = time.monotonic() - began
        return (
            found,
            datetime.now(UTC).isoformat(timespec="seconds"),
            max(section.seconds, min(_SHARE * cost, section.longest)),
        )

    return await store.shared(f"state {name}", section.seconds, question, keep=_SHARE, longest=section.longest)


async def rows(store: Store, name: str, principal: Principal) -> list[dict[str, Any]]:
    """Return the rows of a section; a viewer sees null in columns that may repeat text of others. Raises Problem."""
    found, _, _ = await ask(store, name)
    return _masked(name, found, principal)


def _masked(name: str, found: list[dict[str, Any]], principal: Principal) -> list[dict[str, Any]]:
    private = SECTIONS[name].private
    return [{**row, **dict.fromkeys(private)} for row in found] if private and principal.role != "admin" else found


# --- what several sections say together ------------------------------------------------------------------------------


async def alerts(store: Store, principal: Principal) -> list[dict[str, Any]]:
    """Return all alerts, the worst first: of checks, of monitored applications, and anomalies that last. Raises Problem."""
    checks, monitor, anomalies = await asyncio.gather(
        rows(store, "health", principal), ask(store, "monitor"), rows(store, "anomalies", principal)
    )
    found = [
        {
            "type": one["check_name"], "source": "check", "severity": one["level"], "application": None, "since": None,
            "message": one["meaning"], "value": one["value"], "detail": one["detail"], "fix": one["fix"],
            "threshold": one["critical"] if one["level"] == "critical" else one["warning"],
        }
        for one in checks if one["level"] != "ok"
    ]  # fmt: skip
    for application in applications(monitor[0]):
        for alert in application["alerts"]:
            document = {"detail": None, "fix": None, "since": None, "source": "session monitor", **alert}
            document.pop("details", None)
            found.append(document | {"application": application["application"]})
    found += [_anomaly(one) for one in anomalies]
    return sorted(found, key=lambda one: (one["severity"] != "critical", one["type"], one["application"] or ""))


def _anomaly(one: dict[str, Any]) -> dict[str, Any]:
    more = one["value"] > one["expected"]
    return {
        "type": "unusual_executions", "source": "anomaly", "severity": "warning", "application": None, "since": one["since"], "fix": None,
        "message": f"{one['value']} executions on {one['database_type']} with status {one['status']} in the hour from {one['hour']:%H:%M} UTC:"
                   f" {'more' if more else 'fewer'} than the usual {one['expected']:g}",
        "value": one["value"], "threshold": one["expected"] + (4 if more else -4) * one["spread"],
        "detail": f"The median of this hour over the days before is {one['expected']:g}, the spread {one['spread']:.1f}. Two hours in a row were more than four spreads away.",
    }  # fmt: skip


def applications(monitor: list[tuple[Any, ...]]) -> list[dict[str, Any]]:
    """Return each application that has a live worker, with its numbers, status and alerts; none is no error here."""
    try:
        read = session_monitoring.select(monitor, None)
    except Problem:
        return []
    return [
        {**head, "metrics": numbers, "alerts": [one.document() for one in monitor_metrics.alerts(numbers)]}
        for head, numbers in read.applications
    ]


# --- the pages -------------------------------------------------------------------------------------------------------

PAGES: Final[dict[str, tuple[str, ...]]] = {
    "overview": ("sessions_now", "sessions_created", "operations", "trends", "executions_hours", "applications"),
    "sessions": ("sessions_now",),
    "session": (),
    "executions": ("executions_hours", "executions_durations", "engines"),
    "operation": ("operations",),
    "live": ("connections", "live_statements"),
    "application": ("applications", "workers"),
    "jobs": ("jobs", "health"),
    "alerts": (),
}


async def page(store: Store, name: str, principal: Principal) -> dict[str, Any]:
    """Return what a page shows. A section that cannot be read is replaced by the problem: the others are there all the same."""
    names = ("server", "alerts", *PAGES[name])
    sections = await asyncio.gather(*(_section(store, one, principal) for one in names))
    return dict(zip(names, sections, strict=True))


async def _section(store: Store, name: str, principal: Principal) -> dict[str, Any]:
    try:
        if name == "alerts":
            return {"data": await alerts(store, principal)}
        if name == "applications":
            found, _, _ = await ask(store, "monitor")
            return {"data": applications(found)}
        found, at, kept = await ask(store, name)
        section = {"data": _masked(name, found, principal)}
        return section | {"at": at} if kept > _SHOW_AGE else section
    except Problem as problem:
        return {"problem": problem.document()}
