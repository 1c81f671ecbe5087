"""Read the state of everything at once: what the API shows as lists, and what the pages of the dashboard ask for every few seconds.

How the answers are kept: pgvigil.web.sections.
"""

from __future__ import annotations

import asyncio
import json
from collections import Counter
from collections.abc import Callable
from typing import Any, Final

from psycopg.rows import dict_row

from pgvigil.live import monitor_metrics
from pgvigil.web import session_monitoring
from pgvigil.web.access import Principal
from pgvigil.web.answers import Encoded
from pgvigil.web.problems import Problem
from pgvigil.web.sections import Answer, Section, Sections, masked
from pgvigil.web.shortening import IN_LISTS, IN_STATE, most, of_a_page, shortened
from pgvigil.web.store import Connection, Store

Row = dict[str, Any]


def _rows(
    query: str, *tables: str, before: bytes = b"", then: Callable[[list[Row]], list[Row]] | None = None
) -> Callable[[Connection, Store], Any]:
    def read(connection: Connection, store: Store) -> list[dict[str, Any]]:
        text = query.format(text=IN_STATE + 1, **{table: store.table(table) for table in tables})
        if before:
            connection.execute(before)
        found = connection.cursor(row_factory=dict_row).execute(text.encode()).fetchall()
        return then(found) if then else [shortened(row) for row in found]

    return read


def _with_whole_fixes(checks: list[Row]) -> list[Row]:
    """Shorten the rows, but give no part of a command that fixes something: somebody may run it."""
    long = [len(one["fix"] or "") > IN_LISTS for one in checks]
    found = [shortened(one, IN_LISTS) for one in checks]
    return [one | {"fix": None} if is_long else one for one, is_long in zip(found, long, strict=True)]


def _with_few_statuses(rows: list[Row]) -> list[Row]:
    """Count the sessions of all but the most frequent statuses together."""
    [row] = rows
    counted = sorted(row["by_status"].items(), key=lambda one: -one[1])
    return [row | {"by_status": dict(counted[:_STATUSES]), "others": sum(n for _, n in counted[_STATUSES:])}]


def _largest(column: str, names: int, size: Callable[[Any], float]) -> Callable[[list[Row]], list[Row]]:
    """Return a function that keeps in each row of a time series the names that are the largest over all rows."""

    def keep(rows: list[Row]) -> list[Row]:
        sums: Counter[str] = Counter()
        for row in rows:
            sums.update({name: size(value) for name, value in (row[column] or {}).items()})
        kept = {name for name, _ in sums.most_common(names)}
        return [
            row | {column: {name: value for name, value in (row[column] or {}).items() if name in kept}} for row in rows
        ]

    return keep


_CONNECTIONS: Final = """
    SELECT s.session_id, s.username, s.application_name, s.peer, i.hostname, s.backend_pid, s.start_time, s.last_activity_at,
           r.statement_id, r.execution_start_time, r.sql_text
    FROM instrumentation.sessions s JOIN instrumentation.instances i ON i.instance_id = s.instance_id
    LEFT JOIN LATERAL (SELECT a.statement_id, pg_catalog."left"(a.sql_text, {text}) AS sql_text, a.execution_start_time FROM instrumentation.session_activity a
                       WHERE a.session_id = s.session_id AND a.statement_status = 'executing' ORDER BY a.statement_id DESC LIMIT 1) r ON true
    WHERE s.status = 'active' ORDER BY r.execution_start_time NULLS LAST, s.session_id LIMIT 1000"""
_LIVE_STATEMENTS: Final = """
    SELECT a.statement_id, a.session_id, a.username, a.application_name, a.peer, a.execution_start_time,
           pg_catalog."left"(a.sql_text, {text}) AS sql_text, a.query_id, a.source
    FROM instrumentation.session_activity a
    WHERE a.statement_status = 'executing' AND a.session_status = 'active' ORDER BY a.execution_start_time, a.statement_id LIMIT 1000"""
_JOBS: Final = """
    SELECT s.job, s.purpose, s.every::text AS every, s.enabled, s.state, s.last_started, s.last_finished, s.last_rows, s.last_error, s.last_success,
           s.due, s.overdue, s.next_due, s.waits_for_consent, s.needs_client
    FROM pgvigil.job_status s ORDER BY s.job"""
_CHECKS: Final = (
    "SELECT check_name, level, value, warning, critical, meaning, detail, fix FROM pgvigil.integrity_report(false)"
)
_OPERATIONS: Final = "SELECT * FROM {performance_monitoring_view} ORDER BY total_calls DESC, operation LIMIT 10000"
_SESSIONS_NOW: Final = """
    SELECT (SELECT coalesce(json_object_agg(c.status, c.n), '{{}}') FROM (SELECT s.status, count(*) AS n FROM {sessions} s GROUP BY s.status ORDER BY 2 DESC) c) AS by_status,
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
    SELECT r.bucket, coalesce(sum(r.executions) FILTER (WHERE r.status = 'success'), 0) AS success,
           coalesce(sum(r.executions) FILTER (WHERE r.status = 'failed'), 0) AS failed,
           coalesce(sum(r.executions) FILTER (WHERE r.status = 'error'), 0) AS error,
           coalesce(sum(r.executions) FILTER (WHERE r.status = 'timeout'), 0) AS timeout
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

_STATUSES: Final = 30
_ONE_PROCESS: Final = b"SET LOCAL max_parallel_workers_per_gather = 0"  # sooner is not worth the work of three

SECTIONS: Final[dict[str, Section]] = {
    "connections": Section(_rows(_CONNECTIONS), longest=4.0, private=("sql_text",), mark="live"),
    "live_statements": Section(_rows(_LIVE_STATEMENTS), longest=4.0, private=("sql_text",), mark="live"),
    "jobs": Section(_rows(_JOBS), 4.0, 10.0, private=("last_error",)),
    "health": Section(_rows(_CHECKS, then=_with_whole_fixes), 5.0, private=("detail", "fix"), share=10_000.0, follows=True),
    "operations": Section(_rows(_OPERATIONS, "performance_monitoring_view"), 10.0),
    "sessions_now": Section(_rows(_SESSIONS_NOW, "sessions", before=_ONE_PROCESS, then=_with_few_statuses), longest=900.0, share=3000.0, mark="sessions", unchanged=900.0, follows=True, is_long=True),
    "sessions_created": Section(_rows(_SESSIONS_CREATED, "analytics_aggregations", then=_largest("by_status", 6, float)), 60.0),
    "trends": Section(_rows(_TRENDS, "analytics_aggregations", then=_largest("operations", 5, lambda one: one["count"])), 60.0),
    "executions_hours": Section(_rows(_EXECUTIONS), 30.0),
    "executions_durations": Section(_rows(_DURATIONS), 30.0),
    "anomalies": Section(_rows(_ANOMALIES), 30.0),
    "engines": Section(_rows(_ENGINES), 60.0),
    "workers": Section(_rows(_WORKERS), longest=10.0, mark="monitor"),
    "server": Section(_rows(_SERVER), 60.0),
    "monitor": Section(lambda connection, _: session_monitoring.read_rows(connection), 4.0, 10.0, mark="monitor"),
}  # fmt: skip


async def rows(sections: Sections, name: str, principal: Principal) -> list[dict[str, Any]]:
    """Return the rows of a section; a viewer sees null in columns that may repeat text of others. Raise Problem."""
    found: list[dict[str, Any]] = masked(
        SECTIONS[name], (await sections.rows(name)).data, private=principal.role == "admin"
    )
    return found


# --- what several sections say together ------------------------------------------------------------------------------

_ALERTS_OF_ONE: Final = 20
_ALERTS_OF: Final = ("health", "monitor", "anomalies")


async def alerts(sections: Sections, principal: Principal) -> list[dict[str, Any]]:
    """Return all alerts, the worst first: of checks, of monitored applications, and anomalies that last.

    Raise Problem.
    """
    checks, monitor, anomalies = await asyncio.gather(*(sections.rows(name) for name in _ALERTS_OF))
    return _alerts(checks.data, monitor.data, anomalies.data, private=principal.role == "admin")


def _alerts(checks: Any, monitor: Any, anomalies: Any, *, private: bool) -> list[dict[str, Any]]:
    found = [
        {
            "type": one["check_name"], "source": "check", "severity": one["level"], "application": None, "since": None,
            "message": one["meaning"], "value": one["value"], "detail": one["detail"], "fix": one["fix"],
            "threshold": one["critical"] if one["level"] == "critical" else one["warning"],
        }
        for one in masked(SECTIONS["health"], checks, private=private) if one["level"] != "ok"
    ]  # fmt: skip
    for application in applications(monitor):
        for alert in application["alerts"]:
            document = {"detail": None, "fix": None, "since": None, "source": "session monitor", **alert}
            document.pop("details", None)
            found.append(document | {"application": application["application"]})
    found += [_anomaly(one) for one in anomalies]
    found = [shortened(one, IN_LISTS) for one in found]
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
    """Return each application that has a live worker, with its numbers, status and alerts; none is not an error here."""
    try:
        read = session_monitoring.select(monitor, None)
    except Problem:
        return []
    return [
        {**head, "metrics": numbers, "alerts": [one.document() for one in monitor_metrics.alerts(numbers)]}
        for head, numbers in read.applications
    ]


def shown(application: Row) -> Row:
    """Return the application with the largest entries of what it counts by names, and few of its alerts."""
    metrics = application["metrics"]
    sessions, timed, pools = (metrics[f"{kind}_metrics"] for kind in ("session", "performance", "pool"))
    found = {
        **application,
        "metrics": {
            **metrics,
            "session_metrics": {**sessions, "error_types": most(sessions["error_types"], float)},
            "performance_metrics": {
                **timed, "operations": most(timed["operations"], lambda one: one["count"])
            },
            "pool_metrics": {**pools, "pools": most(pools["pools"], lambda one: one["checkouts_total"])},
        },
        "alerts": [shortened(alert) for alert in application["alerts"][:_ALERTS_OF_ONE]],
    }  # fmt: skip
    return {**found, "shortened": [name for name in ("metrics", "alerts") if found[name] != application[name]]}


# --- the pages -------------------------------------------------------------------------------------------------------

PAGES: Final[dict[str, tuple[str, ...]]] = {
    "overview": ("sessions_now", "sessions_created", "operations", "trends", "executions_hours", "applications"),
    "sessions": ("sessions_now",),
    "session": (),
    "executions": ("executions_hours", "executions_durations", "engines"),
    "operation": (),
    "live": ("connections", "live_statements"),
    "application": ("applications", "workers"),
    "jobs": ("jobs", "health"),
    "alerts": (),
}


_COMPUTED: Final = {"alerts": _ALERTS_OF, "applications": ("monitor",)}
_PENDING: Final = '{"pending": true}'
_KEPT_PAGES: Final = 500


class Pages:
    """The content of each page, as it is sent: made again only where a section of it has changed."""

    def __init__(self, sections: Sections) -> None:
        self._sections = sections
        self._computed: dict[tuple[str, bool], tuple[tuple[Any, ...], str]] = {}
        self._pages: dict[tuple[str, str], tuple[list[str], Encoded]] = {}

    async def state(self, name: str, principal: Principal, head: dict[str, Any]) -> Encoded:
        """Return the state of a page. A section that cannot be read is replaced by the problem: the others are there all the same."""
        private = principal.role == "admin"
        names = ("server", "alerts", *PAGES[name])
        found = await self._sections.page(dict.fromkeys(part for one in names for part in _COMPUTED.get(one, (one,))))
        top = json.dumps(head)
        texts = [top, *(self._text(one, found, private=private) for one in names)]
        known = self._pages.get((name, top))
        if known is not None and known[0] == texts:
            return known[1]
        sections = ", ".join(f'"{one}": {text}' for one, text in zip(names, texts[1:], strict=True))
        made = Encoded.of(f'{top[:-1]}, "sections": {{{sections}}}}}')
        if len(self._pages) >= _KEPT_PAGES:
            self._pages.clear()
        self._pages[name, top] = texts, made
        return made

    async def prepare(self) -> None:
        """Read and encode what the first visitors of any page would have to wait for."""
        names = dict.fromkeys(("server", "alerts", *(one for page in PAGES.values() for one in page)))
        found = await self._sections.page(dict.fromkeys(part for one in names for part in _COMPUTED.get(one, (one,))))
        for name in names:
            for private in (False, True):
                self._text(name, found, private=private)

    def _text(self, name: str, found: dict[str, Answer | Problem | None], *, private: bool) -> str:
        parts = tuple(found[one] for one in _COMPUTED.get(name, (name,)))
        problem = next((part for part in parts if isinstance(part, Problem)), None)
        if problem is not None:
            return json.dumps({"problem": problem.document()})
        answers = [part for part in parts if isinstance(part, Answer)]
        if len(answers) < len(parts):
            return _PENDING
        if name not in _COMPUTED:
            return answers[0].shown(SECTIONS[name], private=private)
        known = self._computed.get((name, private))
        if known is None or any(one is not other for one, other in zip(known[0], parts, strict=True)):
            data = [answer.data for answer in answers]
            rows = (
                _alerts(*data, private=private) if name == "alerts" else [shown(one) for one in applications(data[0])]
            )
            known = self._computed[name, private] = parts, of_a_page(rows)
        return known[1]
