"""Recording without being slowed: callers append to a bounded queue, one thread takes it from there.

The worker takes batches from the queue and has the database commit each in one transaction. A batch it holds (the hand) stays
there until it is committed, or on disk in the spill. What has been spilled goes into the database before anything newer.
"""

from __future__ import annotations

import atexit
import hashlib
import json
import math
import os
import random
import socket
import threading
import time
import weakref
from collections import deque
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, fields
from datetime import UTC, datetime
from decimal import Decimal
from pathlib import Path
from typing import Any, Final, Literal
from uuid import UUID

from psycopg import pq

from pgvigil import database
from pgvigil.live import rows
from pgvigil.live.spill import Record, Segment, Spill, SpillFull
from pgvigil.live.writer import BadRow, Probe, Unavailable, Uncertain, Writer

# Where a flush or a close leaves what was accepted before it.
Outcome = Literal["written", "spilled", "timeout"]

_LONGEST_PAUSE: Final = 5.0  # seconds between two attempts to reach the database
_STUCK: Final = 30.0  # seconds after which a batch that does not end is given up, once the queue fills
_GRACE: Final = 2.0  # seconds that close() grants beyond its timeout for what is left to go to the spill
_QUARANTINE_BYTES: Final = 16 << 20
_LOOK: Final = 60.0  # seconds between two looks for what dead processes have left


@dataclass(frozen=True)
class Stats:
    """Counters since the recorder was made (in a forked child: since the fork), all taken at one moment.

    accepted + recovered == written + spill_pending + dropped + quarantined + damaged + queue_depth.
    """

    accepted: int  # calls of record_*() whose arguments were good
    recovered: int  # records read from the spill of processes that are no more
    written: int  # in the database
    spilled: int  # ever written to the spill
    spill_pending: int  # of those, still there
    spill_bytes: int  # size of the spill, with what dead processes left
    replayed: int  # from the spill into the database
    dropped: int  # given up: no room in queue or spill
    quarantined: int  # refused by the database, kept in the quarantine file
    damaged: int  # unreadable in the spill: torn ends, and parts kept in .damaged files
    queue_depth: int  # in memory
    batches: int  # transactions committed
    batch_seconds_mean: float
    batch_seconds_max: float
    batch_seconds_last: float
    errors: int
    last_error: str  # empty while there was none


_COUNTERS = (
    "accepted",
    "recovered",
    "written",
    "spilled",
    "replayed",
    "dropped",
    "quarantined",
    "damaged",
    "batches",
    "errors",
)


class _Part:
    """Rows to be committed together. Those of a segment know their places in it."""

    def __init__(
        self,
        rows: list[rows.Row],
        probe: Probe | None = None,
        segment: Segment | None = None,
        places: list[int] | None = None,
    ) -> None:
        self.rows = rows
        self.probe = probe  # set: nobody knows yet whether they are committed
        self.segment = segment
        self.places = places or []  # where each row begins, and where the last one ends

    @classmethod
    def of_records(cls, records: list[Record], segment: Segment) -> _Part:
        places = [record.start for record in records] + [records[-1].end]
        return cls([record.row for record in records], records[0].probe, segment, places)

    def halves(self) -> tuple[_Part, _Part]:
        middle = len(self.rows) // 2
        return (
            _Part(self.rows[:middle], None, self.segment, self.places[: middle + 1]),
            _Part(self.rows[middle:], None, self.segment, self.places[middle:]),
        )

    def mark(self, probe: Probe | None) -> None:
        if self.segment:
            if probe:
                self.segment.mark(self.places[0], self.places[-1], probe)
            else:
                self.segment.mark(self.places[-1], self.places[-1], None)


class Recorder:
    """Appends metrics and performance logs to the database of `url`, from any thread and from async code alike.

    queue_size       records in memory at most; half of it is where records go to the spill, the rest is for while they do
    batch_size       records in one transaction at most
    linger           seconds that a record may wait for others to share its transaction
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
        spill_directory: Path | str | None = None,
        spill_limit: int = 1 << 30,
        spill_after: float = 2.0,
        metrics_interval: float = 60.0,
        instance: str | None = None,
    ) -> None:
        if not 1 <= batch_size <= queue_size // 2:
            raise ValueError(f"batch_size={batch_size}: 1 to half of queue_size ({queue_size}) is possible")
        self._target = url if isinstance(url, database.Target) else database.parse_url(url, "the recorder's URL")
        self._limit = queue_size
        self._high = queue_size // 2
        self._batch_size = batch_size
        self._linger = linger
        self._directory = Path(spill_directory) if spill_directory else _default_directory()
        self._tag = _tag(self._target)
        self._spill_limit = spill_limit
        self._spill_after = spill_after
        self._interval = metrics_interval
        self._instance = instance or socket.gethostname()
        self.before_close: list[Callable[[], None]] = []  # those who have a last word to record
        self._reset()
        _recorders.add(self)
        atexit.register(self.close)

    def _reset(self) -> None:
        """What a forked child makes anew: its queue is empty, its worker starts with its first record."""
        self._queue: deque[rows.Item] = deque()
        self._alert = -1  # a caller that leaves more than this in the queue calls _alarm
        self._wake = threading.Lock()  # held while the worker need not look; Event is not safe in a signal handler
        self._wake.acquire()
        self._state = threading.Condition()  # guards the counters; its lock is re-entrant, also for signal handlers
        self._disk = (
            threading.RLock()
        )  # guards hand and spill, of which close() takes possession when the worker is stuck
        self._thread: threading.Thread | None = None
        self._hand: list[_Part] = []  # the first one last
        self._in_hand = 0
        self._encoder = rows.Encoder()
        self._writer = Writer(self._target)
        self._spill = Spill(self._directory, self._tag, self._spill_limit)
        self._count = dict.fromkeys((field.name for field in fields(Stats)), 0)
        self._taken = 0
        self._refused = 0
        self._seconds = [0.0, 0.0, 0.0]  # sum, longest, last
        self._last_error = ""
        self._closing = self._closed = self._abandoned = False
        self._hurry = 0  # up to this position in the stream of records somebody waits in flush()
        self._began: float | None = None  # when the present transaction did
        self._lost_at: float | None = None
        self._pause = 0.0
        self._next_try = 0.0
        self._spill_again = 0.0  # after a failure to spill, not before this
        self._next_look = 0.0
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
        """Append one row to system_metrics. Never blocks; raises ValueError or TypeError only, for arguments it cannot hold."""
        self._queue.append(rows.metric(name, value, type, labels, at))  # not by append: this is what a call costs
        if len(self._queue) > self._alert:
            self._alarm()

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
        """Append one row to performance_logs. Never blocks; raises ValueError or TypeError only, for arguments it cannot hold."""
        self._queue.append(rows.performance(operation, duration_ms, success, session_id, metadata, at))
        if len(self._queue) > self._alert:
            self._alarm()

    def append(self, item: rows.Item) -> None:
        """Append what a function of pgvigil.live.rows has made. Never blocks or raises."""
        self._queue.append(item)
        if len(self._queue) > self._alert:
            self._alarm()

    @property
    def target(self) -> database.Target:
        """The database it records into."""
        return self._target

    def _alarm(self) -> None:
        """The caller's part of what is not ordinary: dropping, waking the worker, starting it."""
        began = self._began
        if began is not None and time.monotonic() - began > _STUCK:
            self._writer.abort()
        if self._thread is None:
            self._start()
        if self._closed or len(self._queue) > self._limit:
            with self._state, suppress(IndexError):
                self._queue.pop()
                self._refused += 1
                self._count["dropped"] += 1
        else:
            self._wake_up()

    def _wake_up(self) -> None:
        if self._wake.locked():
            with suppress(RuntimeError):  # somebody else was quicker
                self._wake.release()

    def _start(self) -> None:
        with self._state:
            if self._thread is None and not self._closed:
                # Daemon: the interpreter ends without waiting for it, and then close(), by atexit, waits for it as long as it may.
                self._thread = threading.Thread(target=self._run, name="pgvigil recorder", daemon=True)
                try:
                    self._thread.start()
                except RuntimeError as error:  # no more threads, or the interpreter is ending: close() will spill
                    self._thread = None
                    self._note(error)

    def flush(self, timeout: float = 10.0) -> Outcome:
        """Wait until all that was accepted before this call is settled: in the database, in the spill, or counted as lost.

        "written": nothing of this process is in the spill. "spilled": something is, and goes to the database later.
        "timeout": some of it is still in memory. Blocks: in async code call it by asyncio.to_thread.
        """
        deadline = time.monotonic() + timeout
        with self._state:
            target = self._taken + len(self._queue)
            self._hurry = max(self._hurry, target)
        if target and self._thread is None:
            self._start()
        self._wake_up()
        with self._state:
            while self._taken - self._in_hand < target:
                if self._closed or not self._state.wait(deadline - time.monotonic()):
                    return "timeout"
            return "spilled" if self._count["spill_pending"] else "written"

    def close(self, timeout: float = 10.0) -> Outcome:
        """Settle everything and end the worker; later records are counted as dropped. Calling it again does nothing.

        When `timeout` seconds have passed, or the database does not answer, what is left goes to the spill; if that fails
        within two more seconds, it is dropped and counted, and the outcome is "timeout".
        """
        atexit.unregister(self.close)
        while self.before_close:
            self.before_close.pop()()
        _recorders.discard(self)
        deadline = time.monotonic() + timeout
        with self._state:
            self._closing = True
        self._wake_up()
        thread = self._thread
        if thread and thread is not threading.current_thread():
            thread.join(max(0.0, deadline - time.monotonic()))
            if thread.is_alive():
                self._abandoned = True
                self._writer.abort()
                self._wake_up()
                thread.join(_GRACE)
        # The worker may hang in connect(), which nobody can end for it: then this thread does the rest.
        if self._disk.acquire(timeout=_GRACE):
            try:
                self._end()
            finally:
                self._disk.release()
        with self._state:
            self._closed = True
            self._alert = -1
            lost = self._in_hand + len(self._queue)
            self._count["dropped"] += lost
            self._taken += len(self._queue)
            self._in_hand = 0
            self._queue.clear()
            self._state.notify_all()
            return "timeout" if lost else "spilled" if self._count["spill_pending"] else "written"

    def __enter__(self) -> Recorder:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()

    def stats(self) -> Stats:
        """A snapshot of the counters."""
        with self._state:
            depth = len(self._queue)
            batches = self._count["batches"]
            moment: dict[str, Any] = self._count | {
                "accepted": self._taken + depth + self._refused,
                "queue_depth": depth + self._in_hand,
                "batch_seconds_mean": self._seconds[0] / batches if batches else 0.0,
                "batch_seconds_max": self._seconds[1],
                "batch_seconds_last": self._seconds[2],
                "last_error": self._last_error,
            }
            return Stats(**moment)

    # --- the worker --------------------------------------------------------------------------------------------------

    def _run(self) -> None:
        while not self._abandoned:
            try:
                self._rest()
                self._connect()
                with self._disk:
                    if self._abandoned:
                        self._writer.close()
                        return
                    if self._closing and not self._may_go_on():
                        return
                    self._work()
            except Exception as error:  # noqa: BLE001 - a worker that ends would lose all that comes after
                with self._disk:
                    self._fail(error)

    def _rest(self) -> None:
        """Sleep while there is nothing to do, or nothing that would succeed."""
        now = time.monotonic()
        stalled = now < self._spill_again
        if self._waited_for():
            if stalled:
                self._sleep(self._limit, 0.1)
            return
        if not (self._queue or self._hand or (self._spill and self._lost_at is None)):
            wanted = min(self._next_look, self._next_report) if self._writer.connected else now + _LOOK
            self._sleep(0, min(wanted, self._next_try if self._spill else wanted) - now)
        now = time.monotonic()
        paused = self._next_try - now
        if self._lost_at is None:
            if self._queue and not (self._hand or self._spill):
                self._sleep(self._batch_size - 1, self._linger)
        elif stalled:
            self._sleep(self._limit, min(paused, self._spill_again - now))
        elif now - self._lost_at < self._spill_after:
            self._sleep(self._high, min(paused, self._lost_at + self._spill_after - now))
        elif self._queue:
            self._sleep(self._batch_size - 1, min(paused, self._linger))

    def _sleep(self, alert: int, seconds: float) -> None:
        """Until a caller leaves more than `alert` records in the queue, somebody waits, or the time is over."""
        self._alert = alert
        if len(self._queue) <= alert and seconds > 0:  # looked at after the alert is set: no caller can slip through
            self._wake.acquire(timeout=seconds)
        self._alert = self._high

    def _waited_for(self) -> bool:
        return self._closing or self._taken - self._in_hand < self._hurry

    def _may_go_on(self) -> bool:
        """Whether close() has something to wait for: records in memory, or what the database can take from our own spill."""
        return bool(self._queue or self._hand or (self._lost_at is None and self._count["spill_pending"]))

    def _connect(self) -> None:
        """Not under the lock: libpq may take its time, and close() must not wait for that."""
        if (
            self._writer.connected
            or time.monotonic() < self._next_try
            or not (self._queue or self._hand or self._spill)
        ):
            return
        try:
            self._writer.connect()
        except Unavailable as error:
            with self._disk:
                self._fail(error)

    def _work(self) -> None:
        """One transaction, or one move to the spill."""
        if self._writer.connected and time.monotonic() >= self._next_try:
            self._began = time.monotonic()
            try:
                self._look_around()
                # Who is about to end does not wait for what dead processes have left.
                if not self._hand:
                    ours = self._count["spill_pending"] or not self._closing
                    self._take_spilled() if self._spill and ours else self._take_queued()
                self._deliver()
            except Unavailable as error:
                self._fail(error)
            finally:
                self._began = None
        if self._must_spill():
            self._move_to_spill()

    def _look_around(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + _LOOK
            self._spill.adopt()
            with self._state:
                self._count["spill_bytes"] = self._spill.bytes
        if now >= self._next_report:
            self._next_report = now + self._interval
            self._report()

    def _take_queued(self) -> None:
        with self._state:
            items = [self._queue.popleft() for _ in range(min(len(self._queue), self._batch_size))]
            self._taken += len(items)
            self._in_hand += len(items)
        try:
            lines = [self._encoder.line(item) for item in items]
        except Exception:  # what the checks in the caller should have caught must not hold up the rest for ever
            with self._state:
                self._in_hand -= len(items)
                self._count["dropped"] += len(items)
            raise
        if lines:
            self._hand.append(_Part(lines))

    def _take_spilled(self) -> None:
        segment = self._spill.oldest()
        if segment is None:
            return
        records = segment.read()
        if segment.uncertain:
            end, probe = segment.uncertain
            done = [record for record in records if record.end <= end]
            if done and self._writer.committed(probe):
                self._settle(_Part.of_records(done, segment), "written")
                return
            segment.uncertain = None
        if records:
            first = records[0].probe
            chunk = records[: self._batch_size]
            same = next((n for n, record in enumerate(chunk) if record.probe != first), len(chunk))
            self._hand.append(_Part.of_records(chunk[:same], segment))
        else:
            self._finish(segment)

    def _finish(self, segment: Segment) -> None:
        lost = segment.records_appended - segment.records_read if segment.ours else len(segment.damages)
        self._spill.finish(segment)
        with self._state:
            self._count["damaged"] += lost
            self._count["spill_pending" if segment.ours else "recovered"] += -lost if segment.ours else lost
            self._count["spill_bytes"] = self._spill.bytes

    def _deliver(self) -> None:
        """Empty the hand into the database. A batch with a bad row is halved until that row is alone."""
        while self._hand:
            part = self._hand[-1]
            self._began = time.monotonic()
            try:
                if part.probe and self._writer.committed(part.probe):
                    self._hand.pop()
                    self._settle(part, "written")
                    continue
                part.probe = None
                self._writer.write(part.rows, part.mark if part.segment else None)
            except BadRow as error:
                self._hand.pop()
                if len(part.rows) == 1:
                    self._quarantine(part, error)
                else:
                    self._hand += reversed(part.halves())
            except Uncertain as error:
                part.probe = error.probe
                raise
            else:
                self._hand.pop()
                self._settle(part, "written", time.monotonic() - self._began)

    def _settle(self, part: _Part, outcome: str, seconds: float | None = None) -> None:
        count = len(part.rows)
        self._pause, self._lost_at = 0.0, None
        if part.segment:
            part.segment.done, part.segment.uncertain = part.places[-1], None
        with self._state:
            self._count[outcome] += count
            if part.segment is None:
                self._in_hand -= count
            else:
                self._count["spill_pending"] -= count if part.segment.ours else 0
                self._count["recovered"] += 0 if part.segment.ours else count
                self._count["replayed"] += count if outcome == "written" else 0
            if seconds is not None:
                self._count["batches"] += 1
                self._seconds = [self._seconds[0] + seconds, max(self._seconds[1], seconds), seconds]
            self._state.notify_all()

    def _quarantine(self, part: _Part, error: BadRow) -> None:
        kind, line = part.rows[0]
        entry = {
            "at": datetime.now(UTC).isoformat(),
            "table": rows.TABLES[kind],
            "error": error.details,
            "row": line.decode(),
        }
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._directory / f"{self._tag}-quarantine.jsonl"
            handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
            try:
                if os.fstat(handle).st_size < _QUARANTINE_BYTES:
                    os.write(handle, json.dumps(entry).encode() + b"\n")
            finally:
                os.close(handle)
        except OSError as failure:
            self._note(failure)
        self._note(error)
        part.mark(None)
        self._settle(part, "quarantined")

    def _fail(self, error: Exception) -> None:
        """The database did not take the hand: try again later, and meanwhile think of the spill."""
        self._note(error)
        now = time.monotonic()
        self._lost_at = now if self._lost_at is None else self._lost_at
        self._pause = min(max(2 * self._pause, 0.1), _LONGEST_PAUSE)
        self._next_try = now + self._pause * random.uniform(0.5, 1)  # noqa: S311 - so that not all come back at once
        if self._hand and self._hand[-1].segment:
            self._hand.clear()  # its rows and its mark are on disk

    def _note(self, error: Exception) -> None:
        with self._state:
            self._count["errors"] += 1
            self._last_error = f"{type(error).__name__}: {error}"

    def _must_spill(self) -> bool:
        now = time.monotonic()
        if now < self._spill_again or not (self._queue or self._hand):
            return False
        if self._waited_for() and (self._lost_at is not None or (self._spill and not self._closing)):
            return True
        if self._lost_at is not None and now - self._lost_at >= self._spill_after:
            return True
        return len(self._queue) > self._high

    def _move_to_spill(self) -> None:
        left = len(self._queue)
        while self._hand or left > 0:
            if not self._hand:
                left -= self._batch_size
                self._take_queued()
                continue
            part = self._hand[-1]
            try:
                self._spill.append(part.rows, part.probe)
            except (OSError, SpillFull) as error:
                self._note(error)
                self._spill_again = time.monotonic() + 1
                return
            self._hand.pop()
            with self._state:
                self._in_hand -= len(part.rows)
                self._count["spilled"] += len(part.rows)
                self._count["spill_pending"] += len(part.rows)
                self._count["spill_bytes"] = self._spill.bytes
                self._state.notify_all()

    def _end(self) -> None:
        """What is left goes to the spill, whatever has failed before."""
        self._spill_again = 0.0
        if self._hand and self._hand[-1].segment:
            self._hand.clear()
        self._move_to_spill()
        self._hand.clear()
        self._writer.close()
        self._spill.close()

    def _report(self) -> None:
        stats = self.stats()
        counts = [getattr(stats, name) for name in _COUNTERS if name != "batches"]
        if counts == self._reported:
            return  # an application that records nothing leaves no trace of that
        self._reported = counts
        labels = {"instance": self._instance, "pid": os.getpid()}
        items = [
            rows.metric(
                f"pgvigil.recorder.{name}",
                getattr(stats, name),
                "counter" if name in _COUNTERS else "gauge",
                labels,
                None,
            )
            for name in (field.name for field in fields(Stats))
            if name != "last_error"
        ]
        with suppress(BadRow):
            self._writer.write([self._encoder.line(item) for item in items])

    def _after_fork(self) -> None:
        self._writer.disown()
        self._spill.close()
        self._reset()


_recorders: weakref.WeakSet[Recorder] = weakref.WeakSet()


def _after_fork_in_child() -> None:
    for recorder in list(_recorders):
        recorder._after_fork()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _default_directory() -> Path:
    state = os.environ.get("XDG_STATE_HOME")
    return (Path(state) if state else Path.home() / ".local/state") / "pgvigil/spill"


def _tag(target: database.Target) -> str:
    """Names the database in the names of files, so that what was meant for one never goes into another."""
    defaults = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val is not None}
    known = {**defaults, **target.parameters}
    place = [known.get(key, "") for key in ("service", "host", "hostaddr", "port", "dbname")]
    place[-1] = place[-1] or known.get("user", "")
    return hashlib.sha256("\0".join(place).encode()).hexdigest()[:12]
