"""The session performance monitor of an application that uses SQLAlchemy: counted by itself, in this process and in all workers.

More than 400 lines: one class, which is the public interface, with a method for each thing that is measured.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import threading
import weakref
from collections import deque
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from itertools import count
from time import monotonic, perf_counter_ns
from typing import Any, Final

from pgvigil import database
from pgvigil.errors import PgvigilError
from pgvigil.live import monitor_metrics, monitor_requests
from pgvigil.live.monitor_counts import Counts, Event
from pgvigil.live.monitor_report import NOTHING, Reporter, difference
from pgvigil.live.monitor_workers import Application
from pgvigil.live.patching import Undo
from pgvigil.live.recorder import Recorder, counts_of_process
from pgvigil.text import counted

REPORT_EVERY: Final = 10.0  # seconds
HISTORY_EVERY: Final = 60.0
_FOLD_EVERY: Final = 1.0


class SessionPerformanceMonitor:
    """A monitor that counts the work of SQLAlchemy's sessions.

    `attach` has it count by itself; other work is recorded by hand.

    logger_name  where summaries and slow requests are logged

    Recording never waits and never raises. Thresholds are attributes, and can be set.
    """

    def __init__(self, logger_name: str = "pgvigil.session_monitor") -> None:
        self.logger = logging.getLogger(logger_name)
        self.slow_session_threshold = monitor_metrics.SLOW_SECONDS
        self.high_recovery_rate_threshold = monitor_metrics.HIGH_RECOVERY_RATE
        self.max_active_sessions_threshold = monitor_metrics.MAX_ACTIVE_SESSIONS
        self.application = "application"
        self.reporter: Reporter | None = None
        self._counts = Counts()
        self._recorded: list[None] = []  # sessions whose creation was recorded, and not their closure
        self._engines: dict[str, Any] = {}
        self._seen_pools: dict[str, float | None] = {}  # gauges of engines that are not attached
        self._undos: list[Undo] = []
        self._recorder: Recorder | None = None
        self._log_interval: float | None = None  # set in this process
        self._database_interval: float | None = None  # set for the application, in the database
        self._reset()
        _monitors.add(self)

    def _reset(self) -> None:
        self._changing = threading.Lock()
        self._ended = threading.Event()
        self._thread: threading.Thread | None = None
        self._to_log: deque[str] = deque(maxlen=100)
        self._historic = NOTHING
        self._next_history = monotonic() + HISTORY_EVERY
        self._logged_at = monotonic()

    # --- by itself ---------------------------------------------------------------------------------------------------

    def attach(self, session_factory: Any = None, engine: Any = None, *, pool: str = "default") -> Undo:
        """Count the sessions of a factory, and the pool of an engine under the name `pool`, until the callable returned
        is called.

        Raise TypeError for anything but a factory, ValueError for one that another monitor counts. Again does nothing.
        """
        from pgvigil.live import orm

        undos: list[Undo] = []
        try:
            if session_factory is not None:
                cls, restore_factory = orm.session_class(session_factory)
                undos.append(restore_factory)
                undos.append(orm.watch_sessions(cls, self._counts))
            if engine is not None:
                undos.append(self._attach_engine(getattr(engine, "sync_engine", engine), pool))
            undos.append(orm.watch_exceptions(self._counts.emit))
        except BaseException:
            for restore in reversed(undos):
                restore()
            raise

        def undo() -> None:
            while undos:
                undos.pop()()

        self._undos.append(undo)
        self._start()
        return undo

    def _attach_engine(self, engine: Any, pool: str) -> Undo:
        from pgvigil.live import orm

        if engine in self._engines.values():
            return lambda: None
        pool = pool[:40] or "default"
        name = next(tried for n in count(1) if (tried := pool if n == 1 else f"{pool}-{n}") not in self._engines)
        restore = orm.watch_engine(engine, name, self._counts)
        self._engines[name] = engine

        def undo() -> None:
            restore()
            self._engines.pop(name, None)

        return undo

    def report_to(
        self,
        target: database.Target,
        *,
        application: str,
        interval: float = REPORT_EVERY,
        recorder: Recorder | None = None,
    ) -> None:
        """Report to the database at an interval, and what was counted in each minute by the recorder to system_metrics."""
        if not 0 < interval <= 3600:
            raise ValueError(f"interval={interval}: it has to be more than 0 and at most 3600 seconds")
        if self.reporter is not None:
            self.reporter.close(2.0)
        self.application = application
        self._recorder = recorder
        self.reporter = Reporter(
            target,
            application,
            interval,
            self._snapshot_with_recorders,
            self._gauges_with_recorders,
            self._set_database_interval,
        )
        self.reporter.start()
        self._start()

    def close(self, timeout: float = 2.0) -> None:
        """Undo everything: nothing of SQLAlchemy or the application is changed any more. What was counted is reported a last time."""
        atexit.unregister(self.close)
        while self._undos:
            self._undos.pop()()
        self._ended.set()
        reporter, self.reporter = self.reporter, None
        if reporter is not None:
            reporter.close(timeout)
        thread = self._thread
        if thread is not None and thread is not threading.current_thread():
            thread.join(timeout)
        self._reset()

    # --- by hand -----------------------------------------------------------------------------------------------------

    def record_session_creation(self, duration: float | None = None) -> None:
        """A session was created, which took so many seconds."""
        self._timed("creation", "creations", duration)
        self._recorded.append(None)
        now = len(self._recorded) + len(self._counts.open)
        if now > self._counts.peak:
            self._counts.peak = now

    def record_session_closure(self, duration: float | None = None) -> None:
        """A session was closed, which took so many seconds."""
        self._timed("cleanup", "closures", duration)
        with suppress(IndexError):
            self._recorded.pop()

    def record_session_commit(self) -> None:
        """A unit of work was committed."""
        self._emit("commits")

    def record_session_rollback(self) -> None:
        """A unit of work was rolled back."""
        self._emit("rollbacks")

    def record_session_error(self, error_type: str = "", error_message: str = "") -> None:  # noqa: ARG002 - may hold secrets: never kept
        """A session met an error. Its message is not kept."""
        self._emit("errors")
        if error_type:
            self._emit(f"error_type/{str(error_type)[:60]}")

    def record_detached_instance_recovery(
        self, object_type: str = "", duration: float | None = None, success: bool = True
    ) -> None:
        """A detached object was attached again, or not, in so many seconds."""
        self._timed("recovery", "recoveries", duration)
        if not success:
            self._emit("recoveries_failed")
        if object_type:
            self._emit(f"recovered/{str(object_type)[:60]}")

    def record_session_reattachment(self, object_type: str = "") -> None:  # noqa: ARG002 - the recovery passes it
        """An object was put into another session."""
        self._emit("reattachments")

    def update_pool_metrics(self, engine: Any) -> None:
        """Take the state of the pool of an engine that is not attached; of those attached it is always that of the moment."""
        from pgvigil.live.orm import pool_gauges

        engine = getattr(engine, "sync_engine", engine)
        pool = getattr(engine, "pool", None)
        if pool is not None and engine not in self._engines.values():
            self._seen_pools = pool_gauges(pool, "default" if "default" not in self._engines else "other")

    @contextmanager
    def time_operation(self, operation_name: str) -> Iterator[None]:
        """Measure the block that follows."""
        began = perf_counter_ns()
        try:
            yield
        finally:
            self._emit((f"operation/{str(operation_name)[:60]}", perf_counter_ns() - began))

    def _timed(self, timed: str, counted: str, duration: float | None) -> None:
        if duration is None or not (0 <= duration < math.inf):
            self._emit(counted)
        else:
            self._emit((timed, round(duration * 1e9)))

    def _emit(self, event: Event) -> None:
        if self._thread is None:
            self._start()
        self._counts.emit(event)

    # --- requests ----------------------------------------------------------------------------------------------------

    def start_request_monitoring(self, endpoint: str = "") -> str:
        """Begin a request of this thread or task; return its id."""
        return monitor_requests.begin(self._counts, endpoint)

    def end_request_monitoring(self, request_id: str | None) -> dict[str, Any] | None:
        """Return the work of that request; None if it is not known. A slow one, or one with errors, is logged."""
        done = monitor_requests.end(self._counts, request_id)
        if done and (done["errors"] or done["detached"] or done["duration"] > self.slow_session_threshold):
            self._to_log.append(
                f"request {done['endpoint'] or request_id} took {done['duration']:.3f} s: {counted(done['errors'], 'error')},"
                f" {counted(done['detached'], 'detached instance')}, {counted(done['operations'].get('creation', 0), 'session')}"
            )
        return done

    # --- what was counted --------------------------------------------------------------------------------------------

    def gauges(self) -> dict[str, float | None]:
        """The values of this moment."""
        from pgvigil.live.orm import pool_gauges

        found: dict[str, float | None] = {
            "active_sessions": (opened := len(self._counts.open) + len(self._recorded)),
            "busiest_process": opened,  # of all workers the highest, where the others are added up
            "peak_active_sessions": self._counts.peak,
            **self._seen_pools,
        }
        for name, engine in list(self._engines.items()):
            found |= pool_gauges(engine.pool, name, len(self._counts.waiting.get(name, ())))
        return found

    def _snapshot_with_recorders(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """Return the reported counts with those of the recorders, whose own history goes to system_metrics by themselves."""
        counters, histograms = self._counts.snapshot()
        return counters | {f"recorder/{name}": count for name, count in counts_of_process()[0].items()}, histograms

    def _gauges_with_recorders(self) -> dict[str, float | None]:
        return self.gauges() | {"recorder/queue_depth": counts_of_process()[1]}

    def get_current_metrics(self) -> dict[str, Any]:
        """The metrics of this process."""
        return monitor_metrics.metrics(*self._counts.snapshot(), self.gauges())

    def as_application(self) -> Application:
        """Return this process in the form of an application that has no other worker."""
        now = datetime.now(UTC)
        return Application(self.application, "-", 1, now, self.get_current_metrics(), now)

    def get_alerts(self) -> list[monitor_metrics.Alert]:
        """Return the alerts of this process, by the thresholds of this monitor."""
        return monitor_metrics.alerts(
            self.get_current_metrics(), slow_seconds=self.slow_session_threshold,
            recovery_rate=self.high_recovery_rate_threshold, active_sessions=self.max_active_sessions_threshold,
        )  # fmt: skip

    def get_performance_summary(self) -> str:
        """The metrics of this process in words."""
        return monitor_metrics.summary(self.get_current_metrics())

    def log_periodic_summary(self, interval_seconds: float = 300) -> None:
        """Log the summary at this interval from now on; 0: no longer. Return at once."""
        if not 0 <= interval_seconds < math.inf:
            raise ValueError(f"interval_seconds={interval_seconds}: it has to be a finite number of seconds, 0 or more")
        self._log_interval = interval_seconds or None
        self._logged_at = monotonic()
        self._start()

    def _set_database_interval(self, seconds: float | None) -> None:
        if seconds != self._database_interval:
            self._database_interval, self._logged_at = seconds, monotonic()

    # --- the thread that adds up -------------------------------------------------------------------------------------

    def _start(self) -> None:
        with self._changing:
            if self._thread is None:
                self._thread = threading.Thread(
                    target=self._run, args=(self._ended,), name="pgvigil session counts", daemon=True
                )
                try:
                    self._thread.start()
                except RuntimeError:  # no more threads, or the interpreter is ending
                    self._thread = None

    def _run(self, ended: threading.Event) -> None:
        while not ended.wait(_FOLD_EVERY):
            with suppress(Exception):  # the next round may succeed
                self.tick()

    def tick(self) -> None:
        """Do the work of every second: adding up, logging, history."""
        self._counts.slow_after = self.slow_session_threshold
        self._counts.fold()
        while self._to_log:
            self.logger.warning("%s", self._to_log.popleft())
        now = monotonic()
        interval = self._database_interval or self._log_interval
        if interval and now - self._logged_at >= interval:
            self._logged_at = now
            self.logger.info("session summary of process %d\n%s", os.getpid(), self.get_performance_summary())
        if self._recorder is not None and now >= self._next_history:
            self._next_history = now + HISTORY_EVERY
            self.record_history()

    def record_history(self) -> None:
        """Write the counts since the last time and the gauges to system_metrics."""
        recorder, state = self._recorder, self._counts.snapshot()
        if recorder is None:
            return
        counted, _ = difference(state, self._historic)
        self._historic = state
        instance = self.reporter.id if self.reporter is not None else str(os.getpid())
        values: list[tuple[str, float, str]] = [(name, value, "counter") for name, value in counted.items() if value]
        values += [(name, value, "gauge") for name, value in self.gauges().items() if value is not None]
        for key, value, kind in values:
            name, _, of = key.partition("/")
            labels = {"application": self.application, "instance": instance} | ({"of": of} if of else {})
            recorder.record_metric(f"session_monitor.{name}", value, kind, labels=labels)

    def _after_fork(self) -> None:
        """Reset the child of a fork: it is another process, with counts of its own."""
        was_running, reporter = self._thread is not None, self.reporter
        self._counts.after_fork()
        self._recorded.clear()
        self._counts.requests.clear()
        self._reset()
        if reporter is not None:
            reporter.begin_anew()
            reporter.start()
        if was_running:
            self._start()


_monitors: weakref.WeakSet[SessionPerformanceMonitor] = weakref.WeakSet()
of_this_process: SessionPerformanceMonitor | None = None
_making = threading.Lock()


def get_performance_monitor() -> SessionPerformanceMonitor:
    """Return the monitor of this process. It is made at the first call."""
    global of_this_process  # noqa: PLW0603, RUF100 - one a process is what the name says
    if of_this_process is None:
        with _making:
            if of_this_process is None:
                of_this_process = SessionPerformanceMonitor()
    return of_this_process


def initialize_performance_monitoring(
    app: Any = None,
    session_factory: Any = None,
    engine: Any = None,
    *,
    recorder: Recorder | None = None,
    database_url: str | None = None,
    application: str | None = None,
    interval: float = REPORT_EVERY,
    report: bool = True,
) -> SessionPerformanceMonitor:
    """Monitor an application: its sessions, the pool of its engine, and in Flask its requests; `close()` of the result undoes it.

    app              a Flask application: its requests are monitored, and it gets the commands `flask session-monitoring`. Others
                     give the application's name only
    session_factory  sessionmaker, async_sessionmaker, scoped_session, flask-sqlalchemy's db, or a subclass of Session
    engine           Engine or AsyncEngine
    recorder         has the database to report to, and writes a history into system_metrics
    database_url     the database to report to; without it the recorder's, else the engine's if that is PostgreSQL
    application      name under which all workers are added up; default that of `app`
    report           False: this process counts for itself only

    Raise TypeError and ValueError for what cannot be monitored. A database that cannot be reached is logged and tried again.
    """
    monitor = get_performance_monitor()
    monitor.attach(session_factory, engine)
    atexit.register(monitor.close)
    if hasattr(app, "before_request_funcs") and hasattr(app, "cli"):
        from pgvigil.live import flask_cli

        monitor._undos.append(flask_cli.connect(app, monitor))
    name = application or next(
        (name for name in (getattr(app, "name", None), getattr(app, "title", None)) if isinstance(name, str) and name),
        "application",
    )
    monitor.application = name
    target = _target(recorder, database_url, engine) if report else None
    if target is not None:
        monitor.report_to(target, application=name, interval=interval, recorder=recorder)
    return monitor


def _target(recorder: Recorder | None, url: str | None, engine: Any) -> database.Target | None:
    if url is not None:
        return database.parse_url(url, "database_url")
    if recorder is not None:
        return recorder.target
    address = getattr(getattr(engine, "sync_engine", engine), "url", None)
    if address is None or getattr(address, "get_backend_name", lambda: "")() != "postgresql":
        return None
    with suppress(PgvigilError):  # options of another driver's: then it has to be said where to report to
        return database.parse_url(
            address.set(drivername="postgresql").render_as_string(hide_password=False), "the engine's URL"
        )
    return None


def _after_fork_in_child() -> None:
    global _making  # noqa: PLW0603, RUF100 - some thread of the parent may hold the old one for ever
    _making = threading.Lock()
    for monitor in list(_monitors):
        monitor._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)
