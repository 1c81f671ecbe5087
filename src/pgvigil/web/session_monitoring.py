"""Serve the session monitor, all workers together: /admin/session-monitoring."""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
from collections import Counter
from dataclasses import dataclass
from datetime import datetime
from typing import Annotated, Any, Final, Literal

from fastapi import APIRouter, Depends, FastAPI, Query, Request
from pydantic import BaseModel, Field
from starlette.responses import RedirectResponse, Response

from pgvigil.live import monitor_metrics
from pgvigil.web import problems
from pgvigil.web.access import Principal
from pgvigil.web.answers import NO_NUL, as_json, fresh
from pgvigil.web.problems import Problem
from pgvigil.web.store import Connection, Store

_READ: Final = b"""
    SELECT application, reported_by, workers, last_seen_at, counters, histograms, gauges, pg_catalog.clock_timestamp()
    FROM pgvigil.session_monitor ORDER BY application, reported_by"""
_KEPT: Final = 1.0  # seconds; workers report every ten
Health = monitor_metrics.Status
Name = Annotated[str | None, Query(min_length=1, max_length=100, pattern=NO_NUL, description="Default: all together")]


class _Numbers(BaseModel):
    session_metrics: dict[str, Any]
    recovery_metrics: dict[str, Any]
    performance_metrics: dict[str, Any]
    pool_metrics: dict[str, Any]


class Application(BaseModel):
    """An application, as one login reports it."""

    application: str
    reported_by: str
    workers: int = Field(description="Seen within three of their intervals")
    last_seen_at: str
    status: Health
    issues: list[str]


class Status(BaseModel):
    """The status of all together, and of each application."""

    status: Health
    issues: list[str]
    workers: int
    timestamp: str
    applications: list[Application]


class Metrics(_Numbers):
    """The numbers of all workers."""

    workers: int
    timestamp: str


class Summary(_Numbers):
    """The numbers of all workers, and the summary in words."""

    summary: str
    workers: int
    timestamp: str


class Alert(BaseModel):
    """A threshold that is exceeded."""

    type: monitor_metrics.AlertType
    severity: Literal["warning", "critical"]
    message: str
    threshold: float
    value: float
    details: dict[str, Any]
    application: str


class Alerts(BaseModel):
    """The alerts of each application."""

    count: int
    timestamp: str
    alerts: list[Alert]


class HealthAnswer(BaseModel):
    """The health. A client that is not logged in gets the status only."""

    status: Health
    issues: list[str] | None = None
    workers: int | None = None
    timestamp: str


@dataclass(frozen=True)
class _Read:
    """The requested applications that have a live worker."""

    applications: list[tuple[dict[str, Any], dict[str, dict[str, Any]]]]
    together: dict[str, dict[str, Any]]
    workers: int
    at: datetime

    @property
    def head(self) -> dict[str, Any]:
        return {"workers": self.workers, "timestamp": self.at.isoformat()}


def read_rows(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(_READ).fetchall()


def select(rows: list[tuple[Any, ...]], application: str | None, missing: int = 404) -> _Read:
    """Select the live applications. Raise Problem if there is none: no numbers, rather than zeros."""
    alive = [row for row in rows if row[2] and application in (None, row[0])]
    if not alive:
        which = "No worker of this application" if application else "No worker"
        raise Problem(
            missing, "no-worker", f"{which} was seen within three of its intervals",
            "Is the application running, and does it reach the database? Its log says when it cannot report.",
            headers={"Retry-After": "10"},
        )  # fmt: skip
    counters: Counter[str] = Counter()
    gauges: dict[str, float | None] = {}
    histograms: dict[str, list[int]] = {}
    applications = []
    for name, login, workers, seen, counts, timed, values, _ in alive:
        numbers = monitor_metrics.metrics(counts, timed, values or {})
        status, issues = monitor_metrics.health(numbers)
        head = {"application": name, "reported_by": login, "workers": workers, "last_seen_at": seen.isoformat(),
                "status": status, "issues": issues}  # fmt: skip
        applications.append((head, numbers))
        counters.update(counts)
        for kind, bins in timed.items():
            histograms[kind] = [a + b for a, b in zip(histograms.get(kind, [0] * len(bins)), bins, strict=True)]
        for kind, value in (values or {}).items():
            gauges[kind] = _together(kind, gauges.get(kind), value)
    together = monitor_metrics.metrics(counters, histograms, gauges)
    return _Read(applications, together, sum(row[2] for row in alive), alive[0][7])


def _together(kind: str, one: float | None, other: float | None) -> float | None:
    """Combine two gauges as pgvigil.sum_monitors does."""
    if one is None or other is None:
        return other if one is None else one
    return max(one, other) if kind.startswith(("peak", "utilization", "busiest")) else one + other


def _worst(read: _Read) -> tuple[Health, list[str]]:
    """Return the worst status of the applications, not that of their sum, which may hide an unhealthy one."""
    order: tuple[Health, ...] = ("healthy", "degraded", "unhealthy")
    worst = max((head["status"] for head, _ in read.applications), key=order.index)
    issues = [issue for head, _ in read.applications for issue in head["issues"]]
    return worst, list(dict.fromkeys(issues))


def router(app: FastAPI) -> APIRouter:
    """Return the routes below /admin/session-monitoring, and the redirects of an older address."""
    store: Store = app.state.store
    Viewer = Annotated[Principal, Depends(app.state.access.viewer)]
    Anybody = Annotated[Principal | None, Depends(app.state.access.anybody)]
    router = APIRouter(tags=["session monitor"])

    async def read(application: str | None, missing: int = 404) -> _Read:
        return select(await store.shared("session monitor", _KEPT, read_rows), application, missing)

    def route(path: str, model: type[BaseModel], summary: str) -> Any:
        return router.get(
            f"/admin/session-monitoring{path}", response_model=None, summary=summary,
            responses={200: {"model": model}, 404: {**problems.DOCUMENTED[401], "description": "No worker is alive"}, **problems.DOCUMENTED},
        )  # fmt: skip

    @route("/status", Status, "Is all well, and with which application")  # type: ignore[untyped-decorator]
    async def status(request: Request, _: Viewer, application: Name = None) -> Response:
        found = await read(application)
        worst, issues = _worst(found)
        heads = [head for head, _ in found.applications]
        return fresh(request, {"status": worst, "issues": issues, **found.head, "applications": heads})

    @route("/metrics", Metrics, "All numbers")  # type: ignore[untyped-decorator]
    async def metrics(request: Request, _: Viewer, application: Name = None) -> Response:
        found = await read(application)
        return fresh(request, {**found.head, **found.together})

    @route("/summary", Summary, "The numbers in words")  # type: ignore[untyped-decorator]
    async def summary(request: Request, _: Viewer, application: Name = None) -> Response:
        found = await read(application)
        words = monitor_metrics.summary(found.together)
        return fresh(request, {"summary": words, **found.head, **found.together})

    @route("/alerts", Alerts, "Exceeded thresholds")  # type: ignore[untyped-decorator]
    async def alerts(
        request: Request,
        _: Viewer,
        application: Name = None,
        threshold: Annotated[
            float, Query(gt=0, le=86_400, allow_inf_nan=False, description="Seconds: slower is slow")
        ] = 1.0,
        recovery_rate: Annotated[float, Query(gt=0, le=1, allow_inf_nan=False)] = monitor_metrics.HIGH_RECOVERY_RATE,
        active_sessions: Annotated[int, Query(gt=0, le=1_000_000)] = monitor_metrics.MAX_ACTIVE_SESSIONS,
    ) -> Response:
        found = await read(application)
        found_alerts = [
            {**alert.document(), "application": head["application"]}
            for head, numbers in found.applications
            for alert in monitor_metrics.alerts(
                numbers, slow_seconds=threshold, recovery_rate=recovery_rate, active_sessions=active_sessions
            )
        ]
        return fresh(request, {"count": len(found_alerts), "timestamp": found.at.isoformat(), "alerts": found_alerts})

    @router.get(
        "/admin/session-monitoring/health", response_model=None, summary="For load balancers: 503 where it is unhealthy",
        responses={200: {"model": HealthAnswer}, 404: {**problems.DOCUMENTED[401], "description": "No worker of that application is alive"}, 429: problems.DOCUMENTED[429], 422: problems.DOCUMENTED[422],
                   503: {"description": "Unhealthy, or not known", "content": {
                       "application/json": {"schema": {"$ref": "#/components/schemas/HealthAnswer"}},
                       **problems.DOCUMENTED[503]["content"]}}},
    )  # fmt: skip
    async def health(principal: Anybody, application: Name = None) -> Response:
        wanted = application if principal else None
        found = await read(wanted, 404 if wanted else 503)
        worst, issues = _worst(found)
        body: dict[str, Any] = {"status": worst, "timestamp": found.at.isoformat()}
        if principal:
            body |= {"issues": issues, "workers": found.workers}
        unhealthy = worst == "unhealthy"
        return as_json(body, 503 if unhealthy else 200, {"Retry-After": "10"} if unhealthy else None)

    @router.get("/performance/{what}", include_in_schema=False)
    async def older(what: Literal["status", "metrics", "summary", "alerts", "health"]) -> Response:
        # Relative: whatever we are mounted under.
        return RedirectResponse(f"../admin/session-monitoring/{what}", 308)

    return router
