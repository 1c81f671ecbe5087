"""The meaning of counts: the documented metrics, alerts and health of one process or of all workers, and their summary in words."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Final, Literal

from pgvigil.live.monitor_counts import mean, observations, quantile
from pgvigil.text import counted

Counters = Mapping[str, int]
Histograms = Mapping[str, list[int]]
Gauges = Mapping[str, float | None]
Status = Literal["healthy", "degraded", "unhealthy"]
AlertType = Literal[
    "slow_operation", "high_error_rate", "high_recovery_rate", "high_pool_utilization", "excessive_active_sessions"
]

SLOW_SECONDS: Final = 1.0
HIGH_ERROR_RATE: Final = 0.05
UNHEALTHY_ERROR_RATE: Final = 0.10
HIGH_RECOVERY_RATE: Final = 0.10
HIGH_POOL_UTILIZATION: Final = 0.80
UNHEALTHY_POOL_UTILIZATION: Final = 0.95
MAX_ACTIVE_SESSIONS: Final = 50
_TIMED: Final = ("creation", "cleanup", "recovery")
_POOL_GAUGES: Final = ("pool_size", "checked_out", "checked_in", "overflow", "max_overflow", "capacity", "pending")


@dataclass(frozen=True)
class Alert:
    """A measure that is beyond its threshold."""

    type: AlertType
    severity: Literal["warning", "critical"]
    message: str
    threshold: float
    value: float
    details: dict[str, Any] = field(default_factory=dict)

    def document(self) -> dict[str, Any]:
        return asdict(self)


def metrics(counters: Counters, histograms: Histograms, gauges: Gauges) -> dict[str, dict[str, Any]]:
    """The documented metrics. Seconds and shares; None: nothing was observed, or a pool has no such number."""

    def count(name: str) -> int:
        return counters.get(name, 0)

    # One formula for all rates: errors and recoveries per session or unit of work, whichever are more.
    uses = max(count("creations") + count("reopened"), count("commits") + count("rollbacks") + count("discarded"))

    def rate(number: int) -> float:
        return min(1.0, number / uses) if uses else float(number > 0)

    recoveries, failed = count("recoveries"), count("recoveries_failed")
    return {
        "session_metrics": {
            "creations": count("creations"),
            "reopened": count("reopened"),
            "closures": count("closures"),
            "leaked": count("leaked"),
            "begins": count("begins"),
            "commits": count("commits"),
            "rollbacks": count("rollbacks"),
            "discarded": count("discarded"),
            "savepoint_releases": count("savepoint_releases"),
            "savepoint_rollbacks": count("savepoint_rollbacks"),
            "active_sessions": gauges.get("active_sessions") or 0,
            "peak_active_sessions": gauges.get("peak_active_sessions") or 0,
            "busiest_process": gauges.get("busiest_process") or 0,
            "errors": count("errors"),
            "error_rate": rate(count("errors")),
            "error_types": _by_name("error_type", counters),
            "average_duration": mean(histograms.get("session")),
        },
        "recovery_metrics": {
            "detached_instance_errors": count("detached"),
            "missing_greenlet_errors": count("greenlet"),
            "detached_instance_recoveries": recoveries,
            "successful_recoveries": recoveries - failed,
            "failed_recoveries": failed,
            "session_reattachments": count("reattachments"),
            "recovery_rate": rate(recoveries),
            "success_rate": (recoveries - failed) / recoveries if recoveries else None,
        },
        "performance_metrics": {
            "avg_creation_time": mean(histograms.get("creation")),
            "avg_cleanup_time": mean(histograms.get("cleanup")),
            "avg_recovery_time": mean(histograms.get("recovery")),
            "p95": quantile(histograms.get("session"), 0.95),
            **{f"p95_{name}_time": quantile(histograms.get(name), 0.95) for name in _TIMED},
            "slow_operations": count("slow_operations"),
            "operations": {
                name: {"count": observations(timed), "average": mean(timed), "p95": quantile(timed, 0.95)}
                for name, timed in _by_name("operation", histograms).items()
            },
            "requests": observations(histograms["request"]) if "request" in histograms else 0,
            "avg_request_time": mean(histograms.get("request")),
        },
        "pool_metrics": _pools(counters, histograms, gauges),
    }


def _by_name(kind: str, of: Mapping[str, Any]) -> dict[str, Any]:
    return {key.partition("/")[2]: value for key, value in sorted(of.items()) if key.startswith(f"{kind}/")}


def _pools(counters: Counters, histograms: Histograms, gauges: Gauges) -> dict[str, Any]:
    """Return the numbers of all pools together, and of each."""
    kinds = (*_POOL_GAUGES, "utilization")
    named = {key.partition("/")[2] for key in gauges if key.partition("/")[0] in kinds}
    named |= {key.partition("/")[2] for key in counters if key.startswith(("checkouts/", "timeouts/"))}
    pools = {name: _pool(name, counters, histograms, gauges) for name in sorted(named)}
    together: dict[str, Any] = {gauge: _total(pool[gauge] for pool in pools.values()) for gauge in _POOL_GAUGES}
    fullest = [pool["utilization"] for pool in pools.values() if pool["utilization"] is not None]
    together["utilization"] = max(fullest, default=None)
    for name in ("checkouts_total", "checkins_total", "timeouts"):
        together[name] = sum(pool[name] for pool in pools.values())
    return {**together, "pools": pools}


def _pool(name: str, counters: Counters, histograms: Histograms, gauges: Gauges) -> dict[str, Any]:
    return {
        **{gauge: gauges.get(f"{gauge}/{name}") for gauge in (*_POOL_GAUGES, "utilization")},
        "checkouts_total": counters.get(f"checkouts/{name}", 0),
        "checkins_total": counters.get(f"checkins/{name}", 0),
        "timeouts": counters.get(f"timeouts/{name}", 0),
        "connects_total": counters.get(f"connects/{name}", 0),
        **{
            f"{statistic}_{kind}_time": of(histograms.get(f"{kind}/{name}"))
            for kind in ("wait", "use", "create")
            for statistic, of in (("avg", mean), ("p95", lambda timed: quantile(timed, 0.95)))
        },
    }


def _total(values: Iterable[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) if known else None


def alerts(
    of: Mapping[str, Mapping[str, Any]],
    *,
    slow_seconds: float = SLOW_SECONDS,
    recovery_rate: float = HIGH_RECOVERY_RATE,
    active_sessions: int = MAX_ACTIVE_SESSIONS,
) -> list[Alert]:
    """Return the alerts of these metrics: of one process, or of several."""
    found = []
    performance = of["performance_metrics"]
    timed = [(name, performance[f"avg_{name}_time"], performance[f"p95_{name}_time"]) for name in _TIMED]
    timed += [(name, operation["average"], operation["p95"]) for name, operation in performance["operations"].items()]
    for name, average, p95 in timed:
        value = average if average is not None and average > slow_seconds else p95
        if value is not None and value > slow_seconds:
            which = "average" if value is average else "95th percentile"
            message = f"{name} takes {value:.3f} s ({which}), more than {slow_seconds:g} s"
            found.append(Alert("slow_operation", "warning", message, slow_seconds, value, {"operation": name}))
    rate = of["session_metrics"]["error_rate"]
    if rate > HIGH_ERROR_RATE:
        found.append(
            Alert(
                "high_error_rate", "critical" if rate > UNHEALTHY_ERROR_RATE else "warning",
                f"errors in {rate:.1%} of the units of work, more than {HIGH_ERROR_RATE:.0%}", HIGH_ERROR_RATE, rate,
                {"errors": of["session_metrics"]["errors"], "types": of["session_metrics"]["error_types"]},
            )
        )  # fmt: skip
    rate = of["recovery_metrics"]["recovery_rate"]
    if rate > recovery_rate:
        message = f"detached instances recovered in {rate:.1%} of the units of work, more than {recovery_rate:.0%}"
        found.append(Alert("high_recovery_rate", "warning", message, recovery_rate, rate))
    for name, pool in of["pool_metrics"]["pools"].items():
        used = pool["utilization"]
        if used is not None and used > HIGH_POOL_UTILIZATION:
            found.append(
                Alert(
                    "high_pool_utilization", "critical" if used > UNHEALTHY_POOL_UTILIZATION else "warning",
                    f"pool {name} is used to {used:.0%} of its capacity, more than {HIGH_POOL_UTILIZATION:.0%}",
                    HIGH_POOL_UTILIZATION, used, {"pool": name},
                )
            )  # fmt: skip
    opened = of["session_metrics"]["busiest_process"]
    if opened > active_sessions:
        message = f"{opened:g} sessions are open in one process, more than {active_sessions}"
        found.append(Alert("excessive_active_sessions", "warning", message, active_sessions, opened))
    return found


def health(of: Mapping[str, Mapping[str, Any]]) -> tuple[Status, list[str]]:
    """The status, and what speaks against a better one."""
    errors, recoveries = of["session_metrics"]["error_rate"], of["recovery_metrics"]["recovery_rate"]
    used = of["pool_metrics"]["utilization"] or 0.0
    status: Status = "healthy"
    if errors > UNHEALTHY_ERROR_RATE or used > UNHEALTHY_POOL_UTILIZATION:
        status = "unhealthy"
    elif errors > HIGH_ERROR_RATE or recoveries > HIGH_RECOVERY_RATE or used > HIGH_POOL_UTILIZATION:
        status = "degraded"
    issues = []
    if errors > HIGH_ERROR_RATE:
        issues.append(f"error rate {errors:.1%}")
    if recoveries > HIGH_RECOVERY_RATE:
        issues.append(f"recovery rate {recoveries:.1%}")
    if used > HIGH_POOL_UTILIZATION:
        issues.append(f"pool utilization {used:.0%}")
    return status, issues


def summary(of: Mapping[str, Mapping[str, Any]]) -> str:
    """The metrics in words, for a log or a terminal."""
    sessions, recovery = of["session_metrics"], of["recovery_metrics"]
    performance, pool = of["performance_metrics"], of["pool_metrics"]
    return "\n".join(
        (
            f"sessions    {sessions['creations']} created, {sessions['reopened']} reopened, {sessions['closures']} closed,"
            f" {sessions['leaked']} leaked; {sessions['active_sessions']:g} active, peak {sessions['peak_active_sessions']:g}",
            f"work        {sessions['commits']} committed, {sessions['rollbacks']} rolled back, {sessions['discarded']} ended by neither",
            f"errors      {sessions['errors']} ({sessions['error_rate']:.1%} of the units of work)",
            f"detached    {counted(recovery['detached_instance_errors'], 'error')}, {recovery['missing_greenlet_errors']} of a missing greenlet;"
            f" {recovery['detached_instance_recoveries']} recoveries, {recovery['failed_recoveries']} failed",
            f"durations   session {_ms(sessions['average_duration'])}, creation {_ms(performance['avg_creation_time'])},"
            f" cleanup {_ms(performance['avg_cleanup_time'])}; 95 % of the sessions within {_ms(performance['p95'])}",
            f"pool        {_number(pool['checked_out'])} of {_number(pool['capacity'])} connections in use"
            f" ({_share(pool['utilization'])}), {_number(pool['overflow'])} overflow, {_number(pool['pending'])} waiting,"
            f" {counted(pool['timeouts'], 'timeout')}",
        )
    )


def _ms(seconds: float | None) -> str:
    return "-" if seconds is None else f"{seconds * 1000:.1f} ms"


def _number(value: float | None) -> str:
    return "-" if value is None else f"{value:g}"


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.0%}"
