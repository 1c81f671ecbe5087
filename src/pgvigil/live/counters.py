"""Count the records of a recorder. Each record is counted in exactly one place at any moment."""

from __future__ import annotations

import threading
from dataclasses import dataclass, fields
from typing import Any, Final


@dataclass(frozen=True)
class Stats:
    """A snapshot of the counters since the recorder was made (in a forked child: since the fork), all taken at one moment.

    accepted + recovered == written + spill_pending + dropped + quarantined + damaged + queue_depth.
    """

    accepted: int  # calls of record_*() with valid arguments
    recovered: int  # records read from the spill of processes that have ended
    written: int  # in the database
    spilled: int  # written to the spill, ever
    spill_pending: int  # of those, still in the spill
    spill_bytes: int  # size of the spill, including files of dead processes
    replayed: int  # from the spill into the database
    dropped: int  # discarded: no room in queue or spill
    quarantined: int  # refused by the database, kept in the quarantine file
    damaged: int  # unreadable in the spill: torn ends, and parts stored in .damaged files
    queue_depth: int  # in memory
    batches: int  # transactions committed
    batch_seconds_mean: float
    batch_seconds_max: float
    batch_seconds_last: float
    errors: int
    last_error: str  # empty if there was none


# Counters that only rise.
RISING: Final = (
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


class Counters:
    """A set of counters, changed while `lock` is held so that a snapshot adds up. Code that settles records notifies the lock."""

    def __init__(self) -> None:
        self.lock = threading.Condition()  # its lock is re-entrant, also for signal handlers
        self.count = dict.fromkeys((field.name for field in fields(Stats)), 0)
        self.taken = 0  # from the queue, ever
        self.in_hand = 0  # of those, not settled yet
        self.refused = 0  # by the queue
        self._seconds = (0.0, 0.0, 0.0)  # sum, longest, last
        self._last_error = ""

    def batch(self, seconds: float) -> None:
        """Count a committed transaction."""
        with self.lock:
            self.count["batches"] += 1
            self._seconds = self._seconds[0] + seconds, max(self._seconds[1], seconds), seconds

    def error(self, error: Exception) -> None:
        """Note an error, after which the worker continues."""
        with self.lock:
            self.count["errors"] += 1
            self._last_error = f"{type(error).__name__}: {error}"

    def stats(self, depth: int) -> Stats:
        """Return a snapshot, given the number of records in the queue. Called with the lock held."""
        batches = self.count["batches"]
        moment: dict[str, Any] = self.count | {
            "accepted": self.taken + depth + self.refused,
            "queue_depth": depth + self.in_hand,
            "batch_seconds_mean": self._seconds[0] / batches if batches else 0.0,
            "batch_seconds_max": self._seconds[1],
            "batch_seconds_last": self._seconds[2],
            "last_error": self._last_error,
        }
        return Stats(**moment)
