"""The counts of an application's sessions: appended to a queue where it happens, added up elsewhere.

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

# A name; a duration in nanoseconds; or a session that was closed, with the durations of closing it and of its life.
Event = str | tuple[str, int] | tuple[str, int, int]

QUEUE_LIMIT: Final = 200_000
# Upper bounds in seconds, the same for all histograms and versions: workers are added up place by place, also in the database.
BOUNDS: Final = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 10.0, 30.0)
_BOUNDS_NS: Final = tuple(round(bound * 1e9) for bound in BOUNDS)
_NAMES_KEPT: Final = 50  # of operations, types of errors: what an application names without end becomes "other"
# Observations of these are counts too: one event does for both.
_COUNTED_AS: Final = {
    "creation": "creations",
    "cleanup": "closures",
    "recovery": "recoveries",
    "wait": "checkouts",
    "use": "checkins",
    "create": "connects",
}
# The end of a unit of work that had begun on the database is one event, and two counts.
BEGUN: Final = {outcome: f"begun {outcome}" for outcome in ("commits", "rollbacks", "discarded")}
CLOSED: Final = "closed"
_TIMED_BY_THRESHOLD: Final = frozenset({"creation", "cleanup", "recovery", "operation"})

current_request: ContextVar[deque[Event] | None] = ContextVar("pgvigil_request", default=None)


class Counts:
    """The counts of one monitor in this process."""

    def __init__(self, limit: int = QUEUE_LIMIT) -> None:
        self.queue: deque[Event] = deque()
        self.open: set[weakref.ref[Any]] = set()  # sessions that are open
        self.waiting: dict[str, list[None]] = {}  # callers that wait for a connection, by pool
        self.requests: dict[str, Any] = {}  # that are being monitored, by id
        self.peak = 0
        self.slow_after = 1.0  # seconds
        # The hooks of a session and of a pool look at the bound of the queue once for all that they emit.
        self.emit, self.emit_unchecked, self.check = self._emitters(limit)
        self._reset()

    def _reset(self) -> None:
        self.counters: dict[str, int] = {}
        self.histograms: dict[str, list[int]] = {}
        self.slow: deque[tuple[str, float]] = deque(maxlen=100)  # the latest, with seconds
        self._lock = threading.Lock()  # among those who add up; callers never take it
        self._looks = 0

    def _emitters(self, limit: int) -> tuple[Callable[[Event], None], Callable[[Event], None], Callable[[], None]]:
        """Return the functions that append events, as closures, which cost the caller least."""
        self._drops = count()
        queue, request, requests, drop = self.queue, current_request.get, self.requests, self._drop
        append, length = queue.append, queue.__len__

        def check() -> None:
            while length() > limit:
                drop()

        def emit_unchecked(event: Event) -> None:
            append(event)
            if requests and (operations := request()) is not None:
                operations.append(event)

        def emit(event: Event) -> None:
            emit_unchecked(event)
            check()

        return emit, emit_unchecked, check

    def _drop(self) -> None:
        try:
            self.queue.pop()
        except IndexError:  # it was added up in between
            return
        next(self._drops)  # atomic, unlike += 1

    def after_fork(self) -> None:
        """Reset the child of a fork: the counts and the open sessions belong to the parent."""
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
            take: Callable[[], Any] = self.queue.popleft
            counters, histograms, slow = self.counters, self.histograms, self.slow_after * 1e9
            for _ in range(len(self.queue)):
                try:
                    event = take()
                except IndexError:  # a caller has dropped its own
                    break
                if event.__class__ is str:
                    if event in counters:
                        counters[event] += 1
                    else:
                        name = self._capped(event, counters)
                        counters[name] = counters.get(name, 0) + 1
                    continue
                name, nanoseconds = event[:2]
                if name is CLOSED:
                    lived, life = histograms.get("session") or self._new_histogram("session"), event[2]
                    lived[bisect_left(_BOUNDS_NS, life)] += 1
                    lived[-1] += life
                    name = "cleanup"
                histogram = histograms.get(name) or self._new_histogram(name)
                histogram[bisect_left(_BOUNDS_NS, nanoseconds)] += 1
                histogram[-1] += nanoseconds
                if nanoseconds > slow:
                    self._slow(name, nanoseconds)
            dropped = next(self._drops) - self._looks
            self._looks += 1
            if dropped:
                counters["dropped"] = dropped

    def _new_histogram(self, name: str) -> list[int]:
        return self.histograms.setdefault(self._capped(name, self.histograms), [0] * (len(BOUNDS) + 2))

    def _slow(self, name: str, nanoseconds: int) -> None:
        kind, _, of = name.partition("/")
        if kind in _TIMED_BY_THRESHOLD:
            self.slow.append((of or kind, nanoseconds / 1e9))
            self.counters["slow_operations"] = self.counters.get("slow_operations", 0) + 1

    @staticmethod
    def _capped(name: str, of: dict[str, Any]) -> str:
        kind, slash, _ = name.partition("/")
        if slash and sum(known.startswith(f"{kind}/") for known in of) >= _NAMES_KEPT:
            return f"{kind}/other"
        return name

    def snapshot(self) -> tuple[dict[str, int], dict[str, list[int]]]:
        """Return copies of counters and histograms, with all that was appended before."""
        self.fold()
        with self._lock:
            counters = dict(self.counters)
            histograms = {name: list(histogram) for name, histogram in self.histograms.items()}
        for name, histogram in histograms.items():
            kind, slash, of = name.partition("/")
            if counted := _COUNTED_AS.get(kind):
                counters[counted + slash + of] = counters.get(counted + slash + of, 0) + observations(histogram)
        return split(counters), histograms


def split(counters: dict[str, int]) -> dict[str, int]:
    """Split the ends of units of work into the counts that they represent."""
    for outcome, begun in BEGUN.items():
        if number := counters.pop(begun, 0):
            counters["begins"] = counters.get("begins", 0) + number
            counters[outcome] = counters.get(outcome, 0) + number
    return counters


def observations(histogram: list[int]) -> int:
    return sum(histogram[:-1])


def mean(histogram: list[int] | None) -> float | None:
    """Return the mean in seconds. None where nothing was observed."""
    if not histogram or not (number := observations(histogram)):
        return None
    return histogram[-1] / number / 1e9


def quantile(histogram: list[int] | None, share: float) -> float | None:
    """Return a quantile in seconds, interpolated between two bounds. None where nothing was observed."""
    if not histogram or not (number := observations(histogram)):
        return None
    rank, below, lower = share * number, 0, 0.0
    for upper, here in zip(BOUNDS, histogram, strict=False):
        if here and below + here >= rank:
            return lower + (upper - lower) * (rank - below) / here
        below, lower = below + here, upper
    return BOUNDS[-1]
