"""Serve /metrics for Prometheus, read from the database on request and kept for five seconds.

Each collector is a question of its own, with a second to answer, and all together with two: where one fails, the others are shown, and `pgvigil_up` or
`pgvigil_collector_success` says so. Counters come from stored totals, which retention does not lower. No label holds users,
sessions or queries; of names that applications choose, 50 are shown and the rest is `other`.

More than 400 lines: one function for each collector.
"""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
import asyncio
import time
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Annotated, Any, Final

from fastapi import APIRouter, Depends, FastAPI, Request
from prometheus_client import exposition
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily, Metric
from starlette.responses import Response

from pgvigil import __version__
from pgvigil.live.monitor_counts import BOUNDS as MONITOR_BOUNDS
from pgvigil.web import problems
from pgvigil.web.access import Principal
from pgvigil.web.problems import Problem
from pgvigil.web.sections import Sections
from pgvigil.web.store import Connection, Store

_KEPT: Final = 5.0  # seconds
BUDGET: Final = 1.0
TOTAL: Final = 2.0  # seconds; a collector has half of what is left of them, so that many that fail take no longer
_COUNTED_EVERY: Final = 60.0  # seconds
_NAMES: Final = 50
_OTHER: Final = "other"
_OPERATION_BOUNDS: Final = (5, 10, 25, 50, 100, 250, 500, 1000, 2500, 5000, 10_000, 30_000, 60_000)  # milliseconds
_LEVELS: Final = {"ok": 0, "advice": 0, "warning": 1, "critical": 2}

Rows = list[tuple[Any, ...]]
Families = Iterable[Metric]


def _gauge(name: str, help: str, labels: Sequence[str], rows: Iterable[Sequence[Any]]) -> Metric:
    family = GaugeMetricFamily(f"pgvigil_{name}", help, labels=labels)
    for *values, value in rows:
        if value is not None:
            family.add_metric([_label(one) for one in values], float(value))
    return family


def _counter(name: str, help: str, labels: Sequence[str], rows: Iterable[Sequence[Any]]) -> Metric:
    family = CounterMetricFamily(f"pgvigil_{name}", help, labels=labels)
    for *values, value in rows:
        family.add_metric([_label(one) for one in values], float(value or 0))
    return family


def _histogram(
    name: str, help: str, labels: Sequence[str], bounds: Sequence[float], rows: Iterable[tuple[Any, ...]]
) -> Metric:
    """Make a histogram of rows of labels, counts per bound and beyond (not cumulative), and the sum."""
    family = HistogramMetricFamily(f"pgvigil_{name}", help, labels=labels)
    for *values, counts, total in rows:
        buckets, below = [], 0
        for bound, count in zip([*map(str, map(float, bounds)), "+Inf"], counts, strict=True):
            below += int(count)
            buckets.append((bound, below))
        family.add_metric([_label(one) for one in values], buckets, float(total))
    return family


def _label(value: Any) -> str:
    """Return a label without characters that steer a terminal or begin a tag: a label has no escapes for them."""
    text = str(value).replace("<", "\N{SINGLE LEFT-POINTING ANGLE QUOTATION MARK}")
    return text if text.isprintable() else "".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text)


def _capped(rows: Rows, at: int, add: Callable[[list[Any], Sequence[Any]], None]) -> Rows:
    """Keep the first 50 names of that column, so that no counter falls, and add up the others under `other`."""
    names = dict.fromkeys(row[at] for row in rows)
    kept = set(list(names)[:_NAMES]) if len(names) > _NAMES else set(names)
    found: dict[tuple[Any, ...], list[Any]] = {}
    for row in rows:
        named = list(row)
        if row[at] not in kept:
            named[at] = _OTHER
        key = tuple(one for one in named if isinstance(one, str))
        if key in found:
            add(found[key], row)
        else:
            found[key] = named
    return [tuple(row) for row in found.values()]


def _add_up(to: list[Any], row: Sequence[Any]) -> None:
    for place, value in enumerate(row):
        if isinstance(value, list):
            to[place] = [a + b for a, b in zip(to[place], value, strict=True)]
        elif not isinstance(value, str) and value is not None:
            to[place] = (to[place] or 0) + value


# --- the collectors ----------------------------------------------------------------------------------------------------


def _build(connection: Connection, _: Store) -> Families:
    revision = connection.execute(b"SELECT version_num FROM pgvigil.alembic_version").fetchone()
    version = connection.info.parameter_status("server_version") or ""
    row = (__version__, revision[0] if revision else "", version.partition(" ")[0], 1)
    yield _gauge("build_info", "Versions, as labels", ["version", "revision", "server_version"], [row])


def _sessions(now: dict[str, Any]) -> Families:
    rows = sorted(now["by_status"].items(), key=lambda one: -one[1])
    yield _gauge("sessions", "Sessions by status", ["status"], _capped(rows, 0, _add_up))
    yield _gauge("sessions_dormant", "Sessions that are dormant", [], [(now["dormant"],)])
    yield _gauge("sessions_expiring_soon", "Open sessions that expire within an hour", [], [(now["expiring"],)])


def _events(connection: Connection, _: Store) -> Families:
    rows = connection.execute(b"SELECT event_type, events FROM pgvigil.event_totals ORDER BY 1").fetchall()
    yield _counter(
        "session_events", "Lifecycle events of sessions, as job totals has counted them", ["event_type"], rows
    )


# Digits of a number in base 10^12 add up to its remainder by 10^12 - 1: the calls of the lower bins, in one division.
_OPERATIONS: Final = """
    SELECT t.operation, t.successful, t.calls - t.successful,
           ARRAY(SELECT mod(mod(t.histogram, pgvigil.histogram_unit(pgvigil.histogram_bin(b.ms) + 1)), 999999999999)::bigint
                 FROM unnest(%s::integer[]) WITH ORDINALITY b (ms, place) ORDER BY b.place) || t.calls, t.total_ms / 1000.0
    FROM pgvigil.operation_totals t ORDER BY t.since, t.operation LIMIT 1000"""


def _operations(connection: Connection, _: Store) -> Families:
    rows = connection.execute(_OPERATIONS.encode(), (list(_OPERATION_BOUNDS),)).fetchall()
    apart = [(name, good, bad, _differences(below), total) for name, good, bad, below, total in rows]
    rows = _capped(apart, 0, _add_up)
    calls = [(row[0], outcome, row[place]) for row in rows for place, outcome in ((1, "success"), (2, "failure"))]
    yield _counter(
        "operation_calls",
        "Operations in performance_logs, as job rollup has counted them",
        ["operation", "outcome"],
        calls,
    )
    yield _histogram(
        "operation_duration_seconds", "Duration of operations, within one percent", ["operation"],
        [ms / 1000 for ms in _OPERATION_BOUNDS], [(name, counts, total) for name, _, _, counts, total in rows],
    )  # fmt: skip


def _differences(below: Sequence[int]) -> list[int]:
    return [now - before for before, now in zip([0, *below], below, strict=False)]


def _executions(connection: Connection, _: Store) -> Families:
    statement = b"""SELECT database_type, status, executions, bins, seconds, pgvigil.execution_bounds()
                    FROM pgvigil.execution_totals ORDER BY min(since) OVER (PARTITION BY database_type), database_type, status"""
    found = connection.execute(statement).fetchall()
    bounds = found[0][5] if found else []
    rows = _capped([row[:5] for row in found], 0, _add_up)
    yield _counter(
        "executions",
        "Query executions, as job totals has counted them",
        ["database_type", "status"],
        [row[:3] for row in rows],
    )
    engines = [(engine, counts, seconds) for engine, _, _, counts, seconds in rows]
    yield _histogram(
        "execution_duration_seconds", "Duration of query executions", ["database_type"], bounds, _merged(engines)
    )


def _anomalies(connection: Connection, _: Store) -> Families:
    rows = connection.execute(
        b"""SELECT t.database_type, (SELECT count(*) FROM pgvigil.anomalies a WHERE a.database_type = t.database_type AND a.ended IS NULL)
            FROM (SELECT e.database_type, min(e.since) AS since FROM pgvigil.execution_totals e GROUP BY 1) t ORDER BY t.since, 1"""
    ).fetchall()
    yield _gauge(
        "anomalies", "Statuses whose executions are unusually many or few, hour by hour, as job anomalies has found",
        ["database_type"], _capped(rows, 0, _add_up),
    )  # fmt: skip


def _merged(rows: Iterable[tuple[Any, ...]]) -> Iterator[tuple[Any, ...]]:
    """Add up the rows of each name."""
    found: dict[str, list[Any]] = {}
    for row in rows:
        if row[0] in found:
            _add_up(found[row[0]], row)
        else:
            found[row[0]] = list(row)
    for one in found.values():
        yield tuple(one)


def _connections(connection: Connection, _: Store) -> Families:
    [(active, running)] = connection.execute(
        b"""SELECT (SELECT count(*) FROM instrumentation.sessions WHERE status = 'active'),
                   (SELECT count(*) FROM instrumentation.sql_statements WHERE status = 'executing')"""
    ).fetchall()
    yield _gauge("connections", "Instrumented sessions", ["status"], [("active", active)])
    done = dict(connection.execute(b"SELECT ok, attempts FROM pgvigil.kill_totals").fetchall())
    yield _counter(
        "kill_attempts", "Calls of kill_session, as job totals has counted them", ["ok"],
        [(str(ok).lower(), done.get(ok, 0)) for ok in (True, False)],
    )  # fmt: skip
    yield _gauge("statements_running", "Instrumented statements that are executing", [], [(running,)])


def _jobs(connection: Connection, _: Store) -> Families:
    rows = connection.execute(
        b"SELECT job, extract(epoch FROM last_success), overdue::integer FROM pgvigil.job_status ORDER BY job"
    ).fetchall()
    yield _gauge(
        "job_last_success_timestamp_seconds", "When the last successful run of a job began", ["job"],
        [(job, at) for job, at, _ in rows],
    )  # fmt: skip
    yield _gauge(
        "job_overdue", "1: two of its times have gone by without success", ["job"], [(job, due) for job, _, due in rows]
    )


def _checks(connection: Connection, _: Store) -> Families:
    rows = connection.execute(b"SELECT check_name, value, level FROM pgvigil.integrity_report(false)").fetchall()
    yield _gauge(
        "check_level", "0: ok, 1: warning, 2: critical", ["check"], [(name, _LEVELS[level]) for name, _, level in rows]
    )
    yield _gauge("check_value", "Value that the check found", ["check"], [(name, value) for name, value, _ in rows])


_TABLES: Final = ("sessions", "context_history", "session_lifecycle", "system_metrics", "performance_logs",
                  "analytics_aggregations", "query_executions")  # fmt: skip
_SIZES: Final = """
    SELECT t.name, sum(pg_relation_size(p.relid)), sum(pg_indexes_size(p.relid)),
           sum(pg_table_size(p.relid) - pg_relation_size(p.relid))
    FROM (SELECT * FROM unnest(%s::text[], %s::regclass[]) u (name, relation) UNION ALL
          SELECT 'sql_statements', 'instrumentation.sql_statements'::regclass) t CROSS JOIN LATERAL
         (SELECT t.relation AS relid UNION SELECT relid FROM pg_partition_tree(t.relation) WHERE isleaf) p
    GROUP BY t.name ORDER BY t.name"""


def _sizes(connection: Connection, store: Store) -> Families:
    [(size,)] = connection.execute(b"SELECT pg_database_size(current_database())").fetchall()
    yield _gauge("database_size_bytes", "Size of the database", [], [(size,)])
    rows = connection.execute(_SIZES, (list(_TABLES), [store.table(name) for name in _TABLES])).fetchall()
    parts = [
        (name, part, row) for name, *sizes in rows for part, row in zip(("heap", "index", "toast"), sizes, strict=True)
    ]
    yield _gauge("table_bytes", "Size of tables with their partitions", ["table", "part"], parts)


_COUNTED: Final = {
    "creations": "Sessions created", "closures": "Sessions closed", "leaked": "Sessions that were dropped without being closed",
    "commits": "Transactions committed", "rollbacks": "Transactions rolled back",
    "discarded": "Transactions that ended by neither commit nor rollback", "errors": "Errors of sessions",
}  # fmt: skip
_RECORDED: Final = {
    "written": "Records that recorders wrote to the database", "dropped": "Records that recorders dropped",
    "quarantined": "Records that the database refused", "spilled": "Records that recorders wrote to their spill",
}  # fmt: skip
_MONITOR: Final = b"""
    SELECT application, workers, extract(epoch FROM clock_timestamp() - last_seen_at), counters, histograms, gauges
    FROM pgvigil.session_monitor ORDER BY application"""


def _monitor(connection: Connection, _: Store) -> Families:
    applications = _Applications(connection.execute(_MONITOR).fetchall())
    for name, help in _COUNTED.items():
        yield _counter(f"session_monitor_{name}", help, ["application"], applications.counter(name))
    gauges = [(name, one["gauges"].get("active_sessions", 0)) for name, one in applications.alive()]
    yield _gauge("session_monitor_active", "Sessions that are open", ["application"], gauges)
    workers = [(name, one["workers"]) for name, one in applications.all()]
    yield _gauge("session_monitor_workers", "Workers seen within three of their intervals", ["application"], workers)
    ages = [(name, max(0.0, one["age"])) for name, one in applications.all()]
    yield _gauge(
        "session_monitor_report_age_seconds", "Time since the last report of any worker", ["application"], ages
    )
    detached = [(name, kind, count) for kind in ("detached", "greenlet") for name, count in applications.counter(kind)]
    yield _counter(
        "session_monitor_detached", "Errors of detached objects, caught ones too", ["application", "kind"], detached
    )
    recoveries = []
    for name, one in applications.all():
        failed = one["counters"]["recoveries_failed"]
        recoveries += [(name, "success", one["counters"]["recoveries"] - failed), (name, "failure", failed)]
    yield _counter(
        "session_monitor_recoveries", "Attempts to recover detached objects", ["application", "outcome"], recoveries
    )

    for name, help in _RECORDED.items():
        yield _counter(f"recorder_{name}", help, ["application"], applications.counter(f"recorder/{name}"))
    depths = [(name, one["gauges"].get("recorder/queue_depth", 0)) for name, one in applications.alive()]
    yield _gauge("recorder_queue_depth", "Records in the memory of recorders", ["application"], depths)

    pool = ["application", "pool"]
    states = (("checked_in", "idle"), ("checked_out", "used"))
    used = [(*key, state, value) for gauge, state in states for *key, value in applications.pool_gauge(gauge)]
    yield _gauge("db_client_connections", "Connections of pools", [*pool, "state"], used)
    yield _gauge(
        "db_client_connections_max", "Most connections that pools may have", pool, applications.pool_gauge("capacity")
    )
    yield _gauge(
        "db_client_connections_pending", "Callers that wait for a connection", pool, applications.pool_gauge("pending")
    )
    timeouts = applications.pool_counter("timeouts")
    yield _counter("db_client_connection_timeouts", "Callers that got no connection in time", pool, timeouts)
    for name, help in (
        ("wait", "Waiting for a connection"),
        ("use", "Using a connection"),
        ("create", "Making a connection"),
    ):
        rows = applications.pool_histogram(name)
        yield _histogram(f"db_client_connection_{name}_seconds", help, pool, MONITOR_BOUNDS, rows)


class _Applications:
    """The applications by name, with those of several logins added up; at most 50 and `other`."""

    def __init__(self, rows: Rows) -> None:
        self._found: dict[str, dict[str, Any]] = {}
        for name, workers, age, counters, histograms, gauges in rows:
            key = name if name in self._found or len(self._found) < _NAMES else _OTHER
            one = self._found.setdefault(
                key, {"workers": 0, "age": float(age), "counters": Counter(), "histograms": {}, "gauges": Counter()}
            )
            one["workers"] += workers
            one["age"] = min(one["age"], float(age))
            one["counters"].update(counters)
            one["gauges"].update({gauge: value for gauge, value in (gauges or {}).items() if value is not None})
            for kind, counts in histograms.items():
                before = one["histograms"].get(kind, [0] * len(counts))
                one["histograms"][kind] = [a + b for a, b in zip(before, counts, strict=True)]

    def all(self) -> list[tuple[str, dict[str, Any]]]:
        return sorted(self._found.items())

    def alive(self) -> list[tuple[str, dict[str, Any]]]:
        return [(name, one) for name, one in self.all() if one["workers"]]

    def counter(self, name: str) -> Rows:
        return [(application, one["counters"][name]) for application, one in self.all()]

    def pool_gauge(self, name: str) -> Rows:
        return [row for application, one in self.alive() for row in self._of_pools(application, one["gauges"], name)]

    def pool_counter(self, name: str) -> Rows:
        return [row for application, one in self.all() for row in self._of_pools(application, one["counters"], name)]

    def pool_histogram(self, name: str) -> list[tuple[Any, ...]]:
        rows = [row for application, one in self.all() for row in self._of_pools(application, one["histograms"], name)]
        return [(application, pool, counts[:-1], counts[-1] / 1e9) for application, pool, counts in rows]

    @staticmethod
    def _of_pools(application: str, values: dict[str, Any], name: str) -> Iterator[tuple[Any, ...]]:
        pools = sorted(key for key in values if key.startswith(f"{name}/"))
        for key in pools[:_NAMES]:
            yield application, key.partition("/")[2], values[key]


_COLLECTORS: Final[dict[str, Callable[[Connection, Store], Families]]] = {
    "build": _build, "events": _events, "operations": _operations, "executions": _executions,
    "anomalies": _anomalies, "connections": _connections, "jobs": _jobs, "checks": _checks, "sizes": _sizes, "monitor": _monitor,
}  # fmt: skip


_LAST: Final = "sessions"


class _Collected:
    """A collector of families that are made already, as prometheus_client expects one."""

    def __init__(self, families: Sequence[Metric]) -> None:
        self._families = families

    def collect(self) -> Sequence[Metric]:
        return self._families


async def collect(store: Store, sections: Sections) -> list[Metric]:
    """Return all families but those of collectors that fail."""
    began = time.monotonic()
    succeeded: list[tuple[str, int]] = []
    away = False

    async def ask(name: str) -> list[Metric]:
        def question(connection: Connection) -> list[Metric]:
            return list(_COLLECTORS[name](connection, store))

        nonlocal away
        budget = min(BUDGET, max(0.05, (began + TOTAL - time.monotonic()) / 2))
        try:
            if away:
                raise problems.database_away()
            if name == _LAST:  # it reads the whole table, and pages show it too
                now = (await sections.rows("sessions_now", _COUNTED_EVERY, budget)).data[0]
                found = list(_sessions(now))
            else:
                found = await store.shared(f"metrics {name}", _KEPT, question, budget=budget)
        except Problem as problem:
            away = away or problem.kind in ("database-away", "busy")  # it was waited for once
            found = []
            succeeded.append((name, 0))
        else:
            succeeded.append((name, 1))
        return found

    names = [*_COLLECTORS, _LAST]
    # One at a time: a scrape takes one connection of the pool, and a database that is away is found out once.
    families = [family for name in names for family in await ask(name)]
    up = any(success for name, success in succeeded if name != _LAST)  # these may be of a minute ago
    families.insert(0, _gauge("up", "1: the database answers", [], [(int(up),)]))
    families.append(_gauge("collector_success", "1: this part could be read", ["collector"], sorted(succeeded)))
    families.append(_gauge("scrape_duration_seconds", "Time that reading took", [], [(time.monotonic() - began,)]))
    return families


def router(app: FastAPI) -> APIRouter:
    """Return the route /metrics."""
    store: Store = app.state.store
    router = APIRouter(tags=["metrics"], responses={status: problems.DOCUMENTED[status] for status in (401, 429)})

    @router.get(
        "/metrics", response_model=None, summary="For Prometheus, in the format that it asks for",
        responses={200: {"content": {kind: {"schema": {"type": "string"}} for kind in
                                     ("text/plain", "application/openmetrics-text")}}},
    )  # fmt: skip
    async def metrics(request: Request, _: Annotated[Principal, Depends(app.state.access.viewer)]) -> Response:
        encode, kind = exposition.choose_encoder(request.headers.get("accept", ""))
        families = await collect(store, app.state.sections)
        body = await asyncio.to_thread(encode, _Collected(families))
        return Response(body, 200, {"Cache-Control": "private, no-store", "Content-Type": kind})

    return router
