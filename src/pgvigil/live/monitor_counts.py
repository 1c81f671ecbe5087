"""What is counted of an application's sessions: appended to a queue where it happens, added up elsewhere.

The caller takes no lock. It appends a name, or a name with nanoseconds, to a deque, which is atomic even inside the callback of a
weak reference, where a lock could be taken twice by the same thread.
"""

from __future__ import annotations

import threading
import weakref
from bisect import bisect_left
from collections import deque
from collections.abc import Callable
from contextvars import ContextVar
from itertools import count
from typing import Any, Final

Event = str | tuple[str, int]

QUEUE_LIMIT: Final = 200_000
# Upper bounds in seconds, the same for all histograms and versions: workers are added up place by place, also in the database.
BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BOUNDS)
_NAMES_KEPT: Final = 50  # of operations, types of errors: what an application names without end becomes "other"
# Observations of these are counted too: one event does for both.
_COUNTED_AS: Final = {
    "creation": "creations",
    "cleanup": "closures",
    "recovery": "recoveries",
    "wait": "checkouts",
    "use": "checkins",
    "create": "connects",
}
_TIMED_BY_THRESHOLD: Final = frozenset({"creation", "cleanup", "recovery", "operation"})

current_request: ContextVar[deque[Event] | None] = ContextVar("pgvigil_request", default=None)


class Counts:
    """The counts of one monitor in this process."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self.queue: deque[Event] = deque()
        self.open: set[weakref.ref[Any]] = set()  # sessions that are open
        self.waiting: dict[str, list[None]] = {}  # callers that wait for a connection, by pool
        self.peak = 0
        self.slow_after = 1.0  # seconds
        self.emit: Callable[[Event], None] = self._emitter(limit)
        self._reset()

    def _reset(self) -> None:
        self.counters: dict[str, int] = {}
        self.histograms: dict[str, list[int]] = {}
        self.slow: deque[tuple[str, float]] = deque(maxlen=100)  # the latest, with seconds
        self._lock = threading.Lock()  # among those who add up; callers never take it
        self._looks = 0

    def _emitter(self, limit: int) -> Callable[[Event], None]:
        self._drops = count()
        queue, request, drop = self.queue, current_request.get, self._drop
        append, length = queue.append, queue.__len__

        def emit(event: Event) -> None:
            append(event)
            if length() > limit:
                drop()
            operations = request()
            if operations is not None:
                operations.append(event)

        return emit

    def _drop(self) -> None:
        try:
            self.queue.pop()
        except IndexError:  # it was added up in between
            return
        next(self._drops)  # atomic, unlike += 1

    def after_fork(self) -> None:
        """In the child: what the parent has counted, and its open sessions, are the parent's."""
        self.queue.clear()
        self.open.clear()
        for pending in self.waiting.values():
            pending.clear()
        self.peak = 0
        self._drops = count()
        self._reset()

    def fold(self) -> None:
        """Add up what is in the queue."""
        with self._lock:
            take = self.queue.popleft
            for _ in range(len(self.queue)):
                try:
                    event = take()
                except IndexError:  # a caller has dropped its own
                    break
                if event.__class__ is str:
                    self._count(event)
                else:
                    self._observe(*event)
            dropped = next(self._drops) - self._looks
            self._looks += 1
            if dropped:
                self.counters["dropped"] = dropped

    def _count(self, name: str) -> None:
        counters = self.counters
        if name not in counters:
            name = self._capped(name, counters)
        counters[name] = counters.get(name, 0) + 1

    def _observe(self, name: str, nanoseconds: int) -> None:
        histogram = self.histograms.get(name)
        if histogram is None:
            name = self._capped(name, self.histograms)
            histogram = self.histograms.setdefault(name, [0] * (len(BOUNDS) + 2))
        histogram[bisect_left(_BOUNDS_NS, nanoseconds)] += 1
        histogram[-1] += nanoseconds
        kind, slash, of = name.partition("/")
        if counted := _COUNTED_AS.get(kind):
            counted += slash + of
            self.counters[counted] = self.counters.get(counted, 0) + 1
        if nanoseconds > self.slow_after * 1e9 and kind in _TIMED_BY_THRESHOLD:
            self.slow.append((of or kind, nanoseconds / 1e9))
            self.counters["slow_operations"] = self.counters.get("slow_operations", 0) + 1

    @staticmethod
    def _capped(name: str, of: dict[str, Any]) -> str:
        kind, slash, _ = name.partition("/")
        if slash and sum(known.startswith(f"{kind}/") for known in of) >= _NAMES_KEPT:
            return f"{kind}/other"
        return name

    def snapshot(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """Copies, with all that was appended before."""
        self.fold()
        with self._lock:
            return dict(self.counters), {name: list(histogram) for name, histogram in self.histograms.items()}


def observations(histogram: list[int]) -> int:
    return sum(histogram[:-1])


def mean(histogram: list[int] | None) -> float | None:
    """Seconds; None where nothing was observed."""
    if not histogram or not (number := observations(histogram)):
        return None
    return histogram[-1] / number / 1e9


def quantile(histogram: list[int] | None, share: float) -> float | None:
    """Seconds, interpolated between two bounds; None where nothing was observed."""
    if not histogram or not (number := observations(histogram)):
        return None
    rank, below, lower = share * number, 0, 0.0
    for upper, here in zip(BOUNDS, histogram, strict=False):
        if here and below + here >= rank:
            return lower + (upper - lower) * (rank - below) / here
        below, lower = below + here, upper
    return BOUNDS[-1]
