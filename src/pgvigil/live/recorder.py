"""Record without slowing the callers: they append to a bounded queue, and one thread takes records from it.

The worker takes batches from the queue and delivers them (dispatcher.py). This module decides when: what wakes the
worker, how long it waits for more records, when it spills what the database does not accept, and how recording ends.

More than 400 lines: one class, which is the public interface, with the state that its thread and its callers share.
"""

from __future__ import annotations

import atexit
import logging
import math
import os
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import fields
from datetime import datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from pgvigil import database
from pgvigil.live import records
from pgvigil.live.counters import RISING, Counters, Stats
from pgvigil.live.dispatcher import LOOK, Delivery
from pgvigil.live.spill import check_private
from pgvigil.live.writer import Ended

_log = logging.getLogger("pgvigil")

# How a flush or a close left the records accepted before it.
Outcome = Literal["written", "spilled", "dropped", "timeout"]
OnFull = Literal["drop", "wait"]

_POLL: Final = 0.002  # seconds between two checks for room by a caller that waits for it
_GRACE: Final = 2.0  # seconds beyond its timeout that close() allows for spilling the rest


class Recorder:
    """A recorder that appends metrics and performance logs to the database of `url`, from any thread and from async code alike.

    queue_size       records in memory at most; from half of it on, records go to the spill, and the rest is room meanwhile
    batch_size       records in one transaction at most
    linger           seconds that a record may wait for others, to share their transaction
    on_full          what record_metric and record_performance do when queue_size records are in memory: "drop" the record and
                     count it, or "wait" for room. Records of instrument and ExecutionTracker never wait
    max_wait         longest time in seconds that such a call waits; then its record is dropped and counted
    spill_directory  default ~/.local/state/pgvigil/spill; created with mode 0700, files with 0600
    spill_limit      most bytes in it
    spill_after      seconds without the database after which new records go to the spill
    metrics_interval seconds between two reports of the recorder's own counters into system_metrics; 0: never
    stuck_after      seconds after which a batch that the server does not finish is aborted, once the queue fills
    instance         name of this process in those reports; default: the host's name

    Raise UsageError if the URL cannot be read. No connection is opened before the first record.
    """

    def __init__(
        self,
        url: str | database.Target,
        *,
        queue_size: int = 100_000,
        batch_size: int = 5_000,
        linger: float = 0.2,
        on_full: OnFull = "drop",
        max_wait: float = 5.0,
        spill_directory: Path | str | None = None,
        spill_limit: int = 1 << 30,
        spill_after: float = 2.0,
        metrics_interval: float = 60.0,
        stuck_after: float = 30.0,
        instance: str | None = None,
    ) -> None:
        if not 1 <= batch_size <= queue_size // 2:
            raise ValueError(f"batch_size={batch_size}: use 1 to half of queue_size ({queue_size})")
        if on_full not in ("drop", "wait"):
            raise ValueError(f"on_full={on_full!r}: use drop or wait")
        for name, seconds in (
            ("linger", linger), ("max_wait", max_wait), ("spill_after", spill_after), ("metrics_interval", metrics_interval),
            ("stuck_after", stuck_after),
        ):  # fmt: skip
            if not (0 <= seconds < math.inf):
                raise ValueError(f"{name}={seconds}: use a finite number of seconds, 0 or more")
        self._target = url if isinstance(url, database.Target) else database.parse_url(url, "the recorder's URL")
        self._limit = queue_size
        self._high = queue_size // 2
        self._batch_size = batch_size
        self._linger = linger
        self._max_wait = max_wait if on_full == "wait" else 0.0
        self._directory = Path(spill_directory) if spill_directory else _default_directory()
        self._spill_limit = spill_limit
        self._spill_after = spill_after
        self._interval = metrics_interval
        self._stuck_after = stuck_after
        self._instance = instance or socket.gethostname()
        self.before_close: list[Callable[[], None]] = []  # callbacks that record something last
        with suppress(FileNotFoundError):
            try:
                check_private(self._directory, self._directory.stat())
            except PermissionError as error:  # reported now: in an outage it would be too late
                _log.warning("the spill directory cannot be used, so nothing can be spilled: %s", error)
        self._reset()
        _recorders.add(self)
        _counted.add(self)
        atexit.register(self.close)

    def _reset(self) -> None:
        """Set the state that a forked child starts with: its queue is empty, and its first record starts its worker."""
        self._queue: deque[records.Item] = deque()
        self._alert = -1  # a caller that leaves more than this in the queue calls _alarm
        self._wake = threading.Lock()  # held while the worker need not look; Event is not safe in a signal handler
        self._wake.acquire()
        self._counters = Counters()
        self._delivery = Delivery(self._target, self._directory, self._spill_limit, self._batch_size, self._counters)
        self._thread: threading.Thread | None = None
        self._closing = self._closed = self._abandoned = False
        self._reported_dropped = 0  # number of dropped records that a flush has reported
        self._failures_before_close = 0
        self._hurry = 0  # up to this position in the stream of records, flush() waits
        self._next_report = time.monotonic() + (self._interval or math.inf)
        self._reported: list[int] = []

    # --- callers -----------------------------------------------------------------------------------------------------

    def record_metric(
        self,
        name: str,
        value: float | Decimal,
        type: str = "gauge",
        *,
        labels: dict[str, Any] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Append one row to system_metrics.

        Blocks only if on_full is "wait". Raise only ValueError or TypeError, for bad values.
        """
        self._queue.append(records.metric(name, value, type, labels, at))  # not self.append: this is what a call costs
        if len(self._queue) > self._alert:
            self._alarm(self._max_wait)

    def record_performance(
        self,
        operation: str,
        duration_ms: float,
        success: bool = True,
        *,
        session_id: UUID | str | None = None,
        metadata: dict[str, Any] | None = None,
        at: datetime | None = None,
    ) -> None:
        """Append one row to performance_logs.

        Blocks only if on_full is "wait". Raise only ValueError or TypeError, for bad values.
        """
        self._queue.append(records.performance(operation, duration_ms, success, session_id, metadata, at))
        if len(self._queue) > self._alert:
            self._alarm(self._max_wait)

    def append(self, item: records.Item) -> None:
        """Append an item that a function of pgvigil.live.records has made. Never raises or blocks, whatever on_full is.

        Code that watches an application's statements uses it.
        """
        self._queue.append(item)
        if len(self._queue) > self._alert:
            self._alarm()

    @property
    def target(self) -> database.Target:
        """Return the database it records into."""
        return self._target

    def _alarm(self, max_wait: float = 0.0) -> None:
        """Handle the rare cases in the caller's thread: drop the record, wake the worker, start it."""
        began = self._delivery.began
        if began is not None and time.monotonic() - began > self._stuck_after:
            self._delivery.abort()
        if self._thread is None:
            self._start()
        if self._closed or (len(self._queue) > self._limit and not self._room_comes(max_wait)):
            with self._counters.lock, suppress(IndexError):
                self._queue.pop()
                self._counters.refused += 1
                self._counters.count["dropped"] += 1
        else:
            self._wake_up()

    def _room_comes(self, max_wait: float) -> bool:
        """Wait for room in the queue as long as this caller may. Return true if there is room."""
        deadline = time.monotonic() + max_wait
        # Without the condition of the counters: a wait on it would release a lock that a signal handler's thread may hold.
        while len(self._queue) > self._limit:
            if self._closed or time.monotonic() >= deadline:
                return False
            self._wake_up()
            time.sleep(_POLL)
        return True

    def _wake_up(self) -> None:
        if self._wake.locked():
            with suppress(RuntimeError):  # another thread was quicker
                self._wake.release()

    def _start(self) -> None:
        with self._counters.lock:
            if self._thread is None and not self._closed:
                # Daemon, so that the interpreter does not wait for it; close(), called by atexit, waits as long as it may.
                self._thread = threading.Thread(target=self._run, name="pgvigil recorder", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # no more threads, or the interpreter is ending: close() will spill
                    self._thread = None
                    self._counters.error(error)

    def flush(self, timeout: float = 10.0) -> Outcome:
        """Wait until every record accepted before this call is in the database, in the spill, or counted as lost.

        "written": no record of this process is in the spill. "spilled": some are, and go to the database later. "dropped":
        since the previous flush, records were lost (stats().dropped). "timeout": some are still in memory. Blocks: in async code
        call it by asyncio.to_thread.
        """
        counters = self._counters
        deadline = time.monotonic() + timeout
        with counters.lock:
            target = counters.taken + len(self._queue)
            self._hurry = max(self._hurry, target)
        if target and self._thread is None:
            self._start()
        self._wake_up()
        with counters.lock:
            while counters.taken - counters.in_hand < target:
                if self._closed or not counters.lock.wait(deadline - time.monotonic()):
                    return "timeout"
            return self._outcome(since=self._reported_dropped)

    def _outcome(self, *, since: int) -> Outcome:
        """Return the outcome. Called with the lock of the counters held, when memory is empty."""
        count = self._counters.count
        self._reported_dropped = count["dropped"]
        if count["dropped"] > since:
            return "dropped"
        return "spilled" if count["spill_pending"] else "written"

    def close(self, timeout: float = 10.0) -> Outcome:
        """Settle everything and end the worker; later records are counted as dropped. A second call does nothing.

        A lost database is tried once more, and for as long as it answers that it is starting. When `timeout` seconds have
        passed, or the database does not answer, the remaining records go to the spill; if that fails within two more seconds, they are
        dropped and counted. The outcome is "dropped" if any record of this process ever was, else "spilled" or "written".
        """
        atexit.unregister(self.close)
        while self.before_close:
            self.before_close.pop()()
        _recorders.discard(self)
        deadline = time.monotonic() + timeout
        with self._counters.lock:
            self._failures_before_close = self._delivery.failures
            self._delivery.next_try = 0.0  # the database may be back: try it despite the pause after the last failure
            self._closing = True
        self._wake_up()
        thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._abandoned = True
                self._delivery.abort()
                self._wake_up()
                thread.join(_GRACE)
        # The worker may hang in connect(), which cannot be interrupted: then this thread does the rest.
        if self._delivery.lock.acquire(timeout=_GRACE):
            try:
                self._delivery.end(self._move_to_spill)
            finally:
                self._delivery.lock.release()
        counters = self._counters
        with counters.lock:
            self._closed = True
            self._alert = -1
            lost = counters.in_hand + len(self._queue)
            counters.count["dropped"] += lost
            counters.taken += len(self._queue)
            counters.in_hand = 0
            self._queue.clear()
            counters.lock.notify_all()
            outcome = self._outcome(since=0)
        _stop_counting(self)
        return outcome

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stats(self) -> Stats:
        """Return a snapshot of the counters."""
        with self._counters.lock:
            return self._counters.stats(len(self._queue))

    # --- the worker --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        delivery = self._delivery
        while not self._abandoned:
            try:
                self._rest()
                if self._may_connect():
                    delivery.connect()
                with delivery.lock:
                    if self._abandoned:
                        delivery.disconnect()
                        return
                    if self._closing and not self._may_go_on():
                        return
                    self._work()
            except Exception as error:  # noqa: BLE001 - if the worker ended, all later records would be lost
                with delivery.lock:
                    delivery.fail(error)

    def _rest(self) -> None:
        """Sleep while there is nothing to do, or nothing that would succeed."""
        delivery = self._delivery
        now = time.monotonic()
        stalled = now < delivery.spill_again
        if self._waited_for():
            if stalled:
                self._sleep(self._limit, 0.1)
            elif self._closing and not (self._queue or delivery.holding):
                self._sleep(self._limit, min(delivery.next_try - now, 0.1))
            elif delivery.lost_at is not None and not self._must_spill():
                self._sleep(self._limit, delivery.next_try - now)
            return
        if not (self._queue or delivery.holding or (delivery.spilled and delivery.lost_at is None)):
            wanted = min(delivery.next_look, self._next_report) if delivery.connected else now + LOOK
            self._sleep(0, min(wanted, delivery.next_try if delivery.spilled else wanted) - now)
        now = time.monotonic()
        paused = delivery.next_try - now
        if delivery.lost_at is None:
            if self._queue and not (delivery.holding or delivery.spilled):
                self._sleep(self._batch_size - 1, self._linger)
        elif stalled:
            self._sleep(self._limit, min(paused, delivery.spill_again - now))
        elif now - delivery.lost_at < self._spill_after:
            self._sleep(self._high, min(paused, delivery.lost_at + self._spill_after - now))
        elif self._queue:
            self._sleep(self._batch_size - 1, min(paused, self._linger))

    def _sleep(self, alert: int, seconds: float) -> None:
        """Sleep until a caller leaves more than `alert` records in the queue, a call waits for the worker, or the time is over."""
        self._alert = alert
        if len(self._queue) <= alert and seconds > 0:  # checked after the alert is set: no caller can slip through
            self._wake.acquire(timeout=seconds)
        self._alert = self._high

    def _waited_for(self) -> bool:
        return self._closing or self._counters.taken - self._counters.in_hand < self._hurry

    def _may_go_on(self) -> bool:
        """Return true if close() must wait: for records in memory, or for those of this process's spill that the database can take."""
        delivery = self._delivery
        may_take = (
            delivery.lost_at is None or delivery.failures == self._failures_before_close or delivery.server_starts
        )
        return bool(self._queue or delivery.holding or (may_take and self._counters.count["spill_pending"]))

    def _may_connect(self) -> bool:
        delivery = self._delivery
        if delivery.connected or time.monotonic() < delivery.next_try:
            return False
        return bool(self._queue or delivery.holding or delivery.spilled)

    def _work(self) -> None:
        """Do one transaction, or one move to the spill."""
        delivery = self._delivery
        if delivery.connected and time.monotonic() >= delivery.next_try:
            # A recorder that is closing does not wait for the files of dead processes.
            delivery.deliver(self._take_queued, ours=self._closing)
            now = time.monotonic()
            if delivery.connected and now >= max(delivery.next_try, self._next_report):
                self._next_report = now + self._interval
                try:
                    self._report()
                except Ended as error:
                    self._next_report, self._reported = now, []
                    delivery.reconnect(error)
        if self._must_spill():
            self._move_to_spill()

    def _take_queued(self) -> None:
        with self._counters.lock:
            items = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_size))]
            self._counters.taken += len(items)
            self._counters.in_hand += len(items)
        self._delivery.take(items)

    def _must_spill(self) -> bool:
        delivery = self._delivery
        now = time.monotonic()
        if now < delivery.spill_again or not (self._queue or delivery.holding):
            return False
        if self._waited_for() and delivery.spilled and not self._closing:
            return True
        # A flush does not say "spilled" for one broken connection: the next one may do.
        if self._waited_for() and delivery.lost_at is not None and (self._closing or delivery.failures_in_row > 1):
            return True
        if delivery.lost_at is not None and now - delivery.lost_at >= self._spill_after:
            return True
        return len(self._queue) > self._high

    def _move_to_spill(self) -> None:
        left = len(self._queue)
        while self._delivery.holding or left > 0:
            if not self._delivery.holding:
                left -= self._batch_size
                self._take_queued()
            elif not self._delivery.spill():
                return

    def _report(self) -> None:
        stats = self.stats()
        counts = [getattr(stats, name) for name in RISING if name != "batches"]
        if counts == self._reported:
            return  # an application that records nothing gets no rows about that
        self._reported = counts
        labels = {"instance": self._instance, "pid": os.getpid()}
        self._delivery.write(
            [
                records.metric(
                    f"pgvigil.recorder.{name}",
                    getattr(stats, name),
                    "counter" if name in RISING else "gauge",
                    labels,
                    None,
                )
                for name in (field.name for field in fields(Stats))
                if name != "last_error"
            ]
        )

    def _after_fork(self) -> None:
        self._delivery.disown()
        self._reset()


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()

_COUNTED: Final = ("written", "dropped", "quarantined", "spilled")
_counted: weakref.WeakSet[Recorder] = weakref.WeakSet()
_ended: dict[str, int] = dict.fromkeys(_COUNTED, 0)  # by recorders that are closed
_counting = threading.Lock()


def counts_of_process() -> tuple[dict[str, int], int]:
    """Return what all recorders of this process have written, dropped, quarantined and spilled since it began, closed
    ones included, and how many records are in memory now."""
    with _counting:
        found, depth = dict(_ended), 0
        for recorder in list(_counted):
            stats = recorder.stats()
            depth += stats.queue_depth
            for name in _COUNTED:
                found[name] += getattr(stats, name)
    return found, depth


def _stop_counting(recorder: Recorder) -> None:
    with _counting:
        if recorder in _counted:
            _counted.discard(recorder)
            stats = recorder.stats()
            for name in _COUNTED:
                _ended[name] += getattr(stats, name)


def _after_fork_in_child() -> None:
    global _counting
    _counting = threading.Lock()  # a thread of the parent may have held it
    _ended.update(dict.fromkeys(_COUNTED, 0))
    for recorder in list(_recorders):
        recorder._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "pgvigil/spill"
