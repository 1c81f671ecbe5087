"""Recording without being slowed: callers append to a bounded queue, one thread takes it from there.

The worker takes batches from the queue and delivers them (delivery.py). Here is when: who wakes it, how long it may wait for
more, when the spill has to take what the database does not, and how all of it ends.
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
from pgvigil.live import rows
from pgvigil.live.counters import RISING, Counters, Stats
from pgvigil.live.delivery import LOOK, Delivery
from pgvigil.live.spill import check_private
from pgvigil.live.writer import Ended

_log = logging.getLogger("pgvigil")

# Where a flush or a close leaves what was accepted before it.
Outcome = Literal["written", "spilled", "dropped", "timeout"]
OnFull = Literal["drop", "wait"]

_STUCK: Final = 30.0  # seconds after which a batch that does not end is given up, once the queue fills
_POLL: Final = 0.002  # seconds between two looks for room of a caller that waits for it
_GRACE: Final = 2.0  # seconds that close() grants beyond its timeout for what is left to go to the spill


class Recorder:
    """Appends metrics and performance logs to the database of `url`, from any thread and from async code alike.

    queue_size       records in memory at most; half of it is where records go to the spill, the rest is for while they do
    batch_size       records in one transaction at most
    linger           seconds that a record may wait for others to share its transaction
    on_full          what record_metric and record_performance do when queue_size records are in memory: "drop" the record and
                     count that, or "wait" for room. What instrument and ExecutionTracker record never waits
    max_wait         seconds that such a call waits at most; then its record is dropped and counted
    spill_directory  default ~/.local/state/pgvigil/spill; made with mode 0700, files with 0600
    spill_limit      bytes in it
    spill_after      seconds without the database after which records go to the spill as they come
    metrics_interval seconds between two reports of its own counters into system_metrics; 0: never
    instance         name of this process in those reports; default the host's name

    Raises UsageError when the URL cannot be read. Nothing connects before the first record.
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
        instance: str | None = None,
    ) -> None:
        if not 1 <= batch_size <= queue_size // 2:
            raise ValueError(f"batch_size={batch_size}: 1 to half of queue_size ({queue_size}) is possible")
        if on_full not in ("drop", "wait"):
            raise ValueError(f"on_full={on_full!r}: it has to be drop or wait")
        for name, seconds in (
            ("linger", linger), ("max_wait", max_wait), ("spill_after", spill_after), ("metrics_interval", metrics_interval),
        ):  # fmt: skip
            if not (0 <= seconds < math.inf):
                raise ValueError(f"{name}={seconds}: it has to be a finite number of seconds, 0 or more")
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
        self._instance = instance or socket.gethostname()
        self.before_close: list[Callable[[], None]] = []  # those who have a last word to record
        with suppress(FileNotFoundError):
            try:
                check_private(self._directory, self._directory.stat())
            except PermissionError as error:  # said now: in an outage it would be too late
                _log.warning("nothing can be spilled: %s", error)
        self._reset()
        _recorders.add(self)
        atexit.register(self.close)

    def _reset(self) -> None:
        """What a forked child makes anew: its queue is empty, its worker starts with its first record."""
        self._queue: deque[rows.Item] = deque()
        self._alert = -1  # a caller that leaves more than this in the queue calls _alarm
        self._wake = threading.Lock()  # held while the worker need not look; Event is not safe in a signal handler
        self._wake.acquire()
        self._counters = Counters()
        self._delivery = Delivery(self._target, self._directory, self._spill_limit, self._batch_size, self._counters)
        self._thread: threading.Thread | None = None
        self._closing = self._closed = self._abandoned = False
        self._told_dropped = 0  # how many a flush has spoken of
        self._failures_before_close = 0
        self._hurry = 0  # up to this position in the stream of records somebody waits in flush()
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
        """Append one row to system_metrics. Never blocks, unless on_full says so; raises ValueError or TypeError only, for arguments it cannot hold."""
        self._queue.append(rows.metric(name, value, type, labels, at))  # not by append: this is what a call costs
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
        """Append one row to performance_logs. Never blocks, unless on_full says so; raises ValueError or TypeError only, for arguments it cannot hold."""
        self._queue.append(rows.performance(operation, duration_ms, success, session_id, metadata, at))
        if len(self._queue) > self._alert:
            self._alarm(self._max_wait)

    def append(self, item: rows.Item) -> None:
        """Append what a function of pgvigil.live.rows has made. Never raises or blocks, whatever on_full says: this is what watches
        an application's statements.
        """
        self._queue.append(item)
        if len(self._queue) > self._alert:
            self._alarm()

    @property
    def target(self) -> database.Target:
        """The database it records into."""
        return self._target

    def _alarm(self, max_wait: float = 0.0) -> None:
        """The caller's part of what is not ordinary: dropping, waking the worker, starting it."""
        began = self._delivery.began
        if began is not None and time.monotonic() - began > _STUCK:
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
        """Whether there is room in the queue again within the time that this caller may wait."""
        deadline = time.monotonic() + max_wait
        # Not by the condition of the counters: to wait on it would release a lock that a signal handler's thread may hold.
        while len(self._queue) > self._limit:
            if self._closed or time.monotonic() >= deadline:
                return False
            self._wake_up()
            time.sleep(_POLL)
        return True

    def _wake_up(self) -> None:
        if self._wake.locked():
            with suppress(RuntimeError):  # somebody else was quicker
                self._wake.release()

    def _start(self) -> None:
        with self._counters.lock:
            if self._thread is None and not self._closed:
                # Daemon: the interpreter ends without waiting for it, and then close(), by atexit, waits for it as long as it may.
                self._thread = threading.Thread(target=self._run, name="pgvigil recorder", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # no more threads, or the interpreter is ending: close() will spill
                    self._thread = None
                    self._counters.error(error)

    def flush(self, timeout: float = 10.0) -> Outcome:
        """Wait until all that was accepted before this call is settled: in the database, in the spill, or counted as lost.

        "written": nothing of this process is in the spill. "spilled": something is, and goes to the database later. "dropped":
        since the flush before, records were lost (stats().dropped). "timeout": some of it is still in memory. Blocks: in async code call it by asyncio.to_thread.
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
            return self._outcome(since=self._told_dropped)

    def _outcome(self, *, since: int) -> Outcome:
        """Called with the lock of the counters held, when nothing is left in memory."""
        count = self._counters.count
        self._told_dropped = count["dropped"]
        if count["dropped"] > since:
            return "dropped"
        return "spilled" if count["spill_pending"] else "written"

    def close(self, timeout: float = 10.0) -> Outcome:
        """Settle everything and end the worker; later records are counted as dropped. Calling it again does nothing.

        A database that was lost is tried once more, and for as long as it answers that it is starting. When `timeout` seconds have
        passed, or the database does not answer, what is left goes to the spill; if that fails within two more seconds, it is
        dropped and counted. The outcome is "dropped" if any record of this process ever was, else "spilled" or "written".
        """
        atexit.unregister(self.close)
        while self.before_close:
            self.before_close.pop()()
        _recorders.discard(self)
        deadline = time.monotonic() + timeout
        with self._counters.lock:
            self._failures_before_close = self._delivery.failures
            self._delivery.next_try = 0.0  # it may be back: whatever the pause after the last failure is
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
        # The worker may hang in connect(), which nobody can end for it: then this thread does the rest.
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
            return self._outcome(since=0)

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stats(self) -> Stats:
        """A snapshot of the counters."""
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
            except Exception as error:  # noqa: BLE001 - a worker that ends would lose all that comes after
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
        """Until a caller leaves more than `alert` records in the queue, somebody waits, or the time is over."""
        self._alert = alert
        if len(self._queue) <= alert and seconds > 0:  # looked at after the alert is set: no caller can slip through
            self._wake.acquire(timeout=seconds)
        self._alert = self._high

    def _waited_for(self) -> bool:
        return self._closing or self._counters.taken - self._counters.in_hand < self._hurry

    def _may_go_on(self) -> bool:
        """Whether close() has something to wait for: records in memory, or what the database can take from our own spill."""
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
        """One transaction, or one move to the spill."""
        delivery = self._delivery
        if delivery.connected and time.monotonic() >= delivery.next_try:
            # Who is about to end does not wait for what dead processes have left.
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
        if self._waited_for() and (delivery.lost_at is not None or (delivery.spilled and not self._closing)):
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
            return  # an application that records nothing leaves no trace of that
        self._reported = counts
        labels = {"instance": self._instance, "pid": os.getpid()}
        self._delivery.write(
            [
                rows.metric(
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


def _after_fork_in_child() -> None:
    for recorder in list(_recorders):
        recorder._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "pgvigil/spill"
