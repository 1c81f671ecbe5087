"""The counts of all workers of an application, from the database; for `pgvigil` and `flask session-monitoring` alike."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, Final

import psycopg
from psycopg import errors

from pgvigil.errors import NoWorkerError, PreconditionError, UsageError
from pgvigil.live import monitor_metrics
from pgvigil.live.own_transaction import own_transaction
from pgvigil.owner import confined, rows
from pgvigil.text import counted, one_line, page

_MAY_READ: Final = "SELECT pg_catalog.has_table_privilege('pgvigil.session_monitor', 'SELECT')"
# A login that may only report sees what its own workers have reported.
_READ: Final = """
    SELECT m.application, m.reported_by, m.workers, m.last_seen_at, m.counters, m.histograms, m.gauges, pg_catalog.clock_timestamp()
    FROM {} m WHERE %(application)s::pg_catalog.text IS NULL OR m.application OPERATOR(pg_catalog.=) %(application)s
    ORDER BY m.application, m.reported_by"""
_COLUMNS: Final = "application text, login text, workers bigint, seen timestamptz, counters jsonb, histograms jsonb, gauges jsonb, now timestamptz"
_SET_LOGGING: Final = "SELECT pgvigil.set_monitor_logging(%s, %s)"
_LIMITS: Final = "10s"


@dataclass(frozen=True)
class Application:
    """The workers of one application and login together."""

    application: str
    reported_by: str
    workers: int  # seen within three of their intervals
    last_seen_at: datetime
    metrics: dict[str, dict[str, Any]]
    read_at: datetime

    def document(self) -> dict[str, Any]:
        status, issues = monitor_metrics.health(self.metrics)
        return {
            "application": self.application,
            "reported_by": self.reported_by,
            "workers": self.workers,
            "last_seen_at": self.last_seen_at.astimezone(UTC).isoformat(),
            "timestamp": self.read_at.astimezone(UTC).isoformat(),
            "status": status,
            "issues": issues,
            **self.metrics,
        }

    def head(self) -> str:
        """The application on one line."""
        status, issues = monitor_metrics.health(self.metrics)
        ago = max(timedelta(0), self.read_at - self.last_seen_at).total_seconds()
        workers = counted(self.workers, "worker")
        why = f" ({', '.join(issues)})" if issues else ""
        return one_line(
            f"{self.application} (login {self.reported_by}): {status}{why}; {workers}, last seen {ago:.0f} s ago"
        )


@contextmanager
def _transaction(connection: psycopg.Connection[Any], *, read_only: bool) -> Iterator[None]:
    try:
        with own_transaction(connection, read_only=read_only, statement_timeout=_LIMITS, lock_timeout=_LIMITS):
            yield
    except (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName) as error:
        raise PreconditionError(
            "this database has no session monitor: it is not migrated, or not far enough",
            "See pgvigil status; then pgvigil migrate.",
        ) from error


def read(connection: psycopg.Connection[Any], application: str | None = None) -> list[Application]:
    """Return the applications with a live worker.

    Raise NoWorkerError if there is none, PreconditionError if there is no session monitor.
    """
    with _transaction(connection, read_only=not confined(connection)):  # it makes a function of its own
        may_read = connection.execute(_MAY_READ.encode()).fetchone()
        source = "pgvigil.session_monitor" if may_read and may_read[0] else "pgvigil.own_session_monitor()"
        said = rows(connection, _COLUMNS, _READ.format(source), {"application": application})
    found = [
        Application(name, login, workers, seen, monitor_metrics.metrics(counters, histograms, gauges), now)
        for name, login, workers, seen, counters, histograms, gauges, now in said
    ]
    if alive := [one for one in found if one.workers]:
        return alive
    which = "no worker of any application" if application is None else f'no worker of application "{application}"'
    if not found:
        raise NoWorkerError(
            f"{which} has ever reported to this database",
            "In the application, initialize_performance_monitoring(app, session_factory, engine) has them report.",
        )
    last = max(found, key=lambda one: one.last_seen_at)
    raise NoWorkerError(
        f"{which} has been seen within three of its intervals: the last at {last.last_seen_at:%Y-%m-%d %H:%M:%S%z}",
        "Is the application running, and does it reach this database? Its log says when it cannot report.",
    )


def set_logging(connection: psycopg.Connection[Any], application: str, seconds: float) -> str:
    """Have the workers log their summary at this interval; 0: no longer.

    What was done. Raise NoWorkerError, UsageError.
    """
    if seconds and not 1 <= seconds <= 86_400:
        raise UsageError(
            f"--interval {seconds:g}: 1 to 86400 seconds are possible, or 0 to end it", "Give another one."
        )
    every = timedelta(seconds=seconds) if seconds else None
    with _transaction(connection, read_only=False):
        [(logins,)] = rows(connection, "logins bigint", _SET_LOGGING, (application, every))
    if not logins:
        raise NoWorkerError(
            f'no worker of application "{application}" has ever reported to this database as a login that this one speaks for',
            "pgvigil session-monitoring status shows which do.",
        )
    if not seconds:
        return one_line(f"{application}: no summary is logged any more, from the next report of each worker on")
    return one_line(f"{application}: each worker logs its summary every {seconds:g} s, from its next report on")


# --- in words and in JSON --------------------------------------------------------------------------------------------


def status_text(found: Sequence[Application]) -> str:
    lines = []
    for one in found:
        sessions, pool = one.metrics["session_metrics"], one.metrics["pool_metrics"]
        used = "-" if pool["utilization"] is None else f"{pool['utilization']:.0%}"
        lines += [
            one.head(),
            f"  {counted(round(sessions['active_sessions']), 'session')} active, {sessions['leaked']} leaked, {counted(sessions['errors'], 'error')};"
            f" the fullest pool is used to {used}, {counted(pool['timeouts'], 'timeout')}",
        ]
    return page(lines)


def summary_text(found: Sequence[Application]) -> str:
    lines = []
    for one in found:
        lines += [one.head(), *(f"  {line}" for line in monitor_metrics.summary(one.metrics).splitlines())]
    return page(lines)


def metrics_text(found: Sequence[Application]) -> str:
    """Return each number on a line, for people and for grep."""
    lines = []
    for one in found:
        lines += [one.head(), *_flat(one.metrics, "  ")]
    return page(lines)


def _flat(of: dict[str, Any], before: str) -> list[str]:
    lines: list[str] = []
    for name, value in of.items():
        if isinstance(value, dict):
            lines += _flat(value, f"{before}{one_line(name)}.")
        else:
            shown = "-" if value is None else f"{value:.6g}" if isinstance(value, float) else str(value)
            lines.append(f"{before}{one_line(name)} {shown}")
    return lines


def alerts_of(found: Sequence[Application], slow_seconds: float) -> list[tuple[Application, monitor_metrics.Alert]]:
    return [(one, alert) for one in found for alert in monitor_metrics.alerts(one.metrics, slow_seconds=slow_seconds)]


def alerts_text(alerts: Sequence[tuple[Application, monitor_metrics.Alert]]) -> str:
    if not alerts:
        return "no alerts"
    return page(one_line(f"{one.application}: {alert.severity} {alert.type}: {alert.message}") for one, alert in alerts)


def alerts_document(alerts: Sequence[tuple[Application, monitor_metrics.Alert]]) -> list[dict[str, Any]]:
    return [{"application": one.application, **alert.document()} for one, alert in alerts]


def as_json(document: object) -> str:
    return json.dumps(document, indent=2)
