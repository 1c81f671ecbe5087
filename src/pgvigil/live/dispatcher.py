"""Move records from the queue into the database, or into the spill and from there into the database.

Taken records stay in memory (in hand) until they are committed or on disk. Spilled records go into the database before
newer ones. Every failure on this way is handled here: the batch is retried, spilled, quarantined, or dropped and
counted.

More than 400 lines: each failure changes the same few states of a batch, and is understood beside the others.
"""

from __future__ import annotations

import hashlib
import json
import os
import random
import re
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Final

from psycopg import pq

from pgvigil import database
from pgvigil.live.copy_encoding import Encoder, Row
from pgvigil.live.counters import Counters
from pgvigil.live.records import REGISTRY, TABLES, Item
from pgvigil.live.spill import Record, Segment, Spill, SpillFull, open_private
from pgvigil.live.writer import BadRow, Batch, Ended, Probe, Unavailable, Uncertain, UnknownSession, Writer

LOOK: Final = 60.0  # seconds between two searches for files that dead processes left
LONGEST_PAUSE: Final = 5.0  # seconds between two attempts to reach the database
_PIECE: Final = 500  # lines encoded in one go
QUARANTINE_BYTES: Final = 16 << 20
_LONGEST_QUARANTINED: Final = 1 << 20  # characters of a row; a longer row is cut to this, and its length is noted
_LONGEST_DETAILS: Final = 10_000
_RECONNECTIONS: Final = 3  # immediate attempts in a row before the server counts as lost
_STARTING: Final = re.compile(r"the database system is (?:starting up|in recovery|not yet accepting)")


class _Unencodable(Exception):
    """An error that the checks in the caller's thread should have prevented."""


class _Batch:
    """A list of rows to be committed together. Rows from a segment carry their positions in it."""

    def __init__(
        self,
        rows: list[Row],
        probe: Probe | None = None,
        segment: Segment | None = None,
        places: list[int] | None = None,
    ) -> None:
        self._rows = rows
        self.probe = probe  # set: it is unknown whether they are committed
        self.segment = segment
        self.places = places or []  # the start of each row, then the end of the last one

    @classmethod
    def of_records(cls, records: list[Record], segment: Segment) -> _Batch:
        places = [record.start for record in records] + [records[-1].end]
        return cls([(record.row[0], record.row[1].decode()) for record in records], records[0].probe, segment, places)

    def __len__(self) -> int:
        return len(self._rows)

    @property
    def rows(self) -> list[Row]:
        """Return all rows. Raise _Unencodable."""
        return self._rows

    def batch(self) -> Batch:
        """Return the rows as the writer takes them. Raise _Unencodable, also while the result is read."""
        lines: dict[int, list[list[str]]] = {}
        for kind, line in self._rows:
            lines.setdefault(kind, [[]])[0].append(line)
        return lines

    def halves(self) -> tuple[_Batch, _Batch]:
        middle = len(self) // 2
        return (
            _Batch(self.rows[:middle], None, self.segment, self.places[: middle + 1]),
            _Batch(self.rows[middle:], None, self.segment, self.places[middle:]),
        )

    def without(self, left_out: Sequence[int]) -> _Batch:
        """Return the other rows. The part still begins where this one does, so its mark covers the rows left out."""
        out = set(left_out)
        kept = [at for at in range(len(self)) if at not in out]
        places = [*self.places[:1], *(self.places[at] for at in kept[1:]), *self.places[-1:]] if self.places else []
        return _Batch([self.rows[at] for at in kept], None, self.segment, places)

    def mark(self, probe: Probe | None) -> None:
        if self.segment:
            if probe:
                self.segment.mark(self.places[0], self.places[-1], probe)
            else:
                self.segment.mark(self.places[-1], self.places[-1], None)


class _Fresh(_Batch):
    """A part from the queue. Each line is encoded once, as the server takes it; order is kept within a table."""

    def __init__(self, items: Sequence[Item], encoder: Encoder) -> None:
        super().__init__([])
        self._size = len(items)
        self._encoder = encoder
        self._items: dict[int, list[Item]] = {}
        for item in items:
            self._items.setdefault(item[0], []).append(item)
        self._lines: dict[int, list[str]] = {kind: [] for kind in self._items}

    def __len__(self) -> int:
        return self._size

    @property
    def rows(self) -> list[Row]:
        if not self._rows:
            # Registrations of sessions come before the statements of those sessions.
            kinds = sorted(self._items, key=lambda kind: kind != REGISTRY)
            self._rows = [(kind, line) for kind in kinds for piece in self._pieces(kind) for line in piece]
        return self._rows

    def batch(self) -> Batch:
        return {kind: self._pieces(kind) for kind in self._items}

    def _pieces(self, kind: int) -> Iterator[list[str]]:
        lines, items = self._lines[kind], self._items[kind]
        if lines:
            yield list(lines)
        while len(lines) < len(items):
            try:
                piece = self._encoder.lines(kind, items[len(lines) : len(lines) + _PIECE])
            except Exception as error:
                raise _Unencodable(f"{type(error).__name__}: {error}") from error
            lines += piece
            yield piece


class Delivery:
    """A delivery that one thread at a time uses, holding `lock`; only `connect` and `abort` are called without it."""

    def __init__(
        self, target: database.Target, directory: Path, spill_limit: int, batch_size: int, counters: Counters
    ) -> None:
        self.lock = threading.RLock()
        self._counters = counters
        self._directory = directory
        self._tag = tag_of(target)
        self._batch_size = batch_size
        self._encoder = Encoder()
        self._writer = Writer(target)
        self._spill = Spill(directory, self._tag, spill_limit)
        self._hand: list[_Batch] = []  # the next one is the last
        self._pause = 0.0
        self._next_look = 0.0
        self._reconnections = 0
        self.failures = 0  # attempts to connect or to write that failed, since the start
        self.failures_in_row = 0
        self.server_starts = (
            False  # true: the last failure was the answer of a server that is about to accept connections
        )
        self.began: float | None = None  # start of the present transaction
        self.lost_at: float | None = None  # when the database was lost; None: it is reachable, as far as known
        self.next_try = 0.0
        self.spill_again = 0.0  # after a failure to spill: no new attempt before this time

    @property
    def connected(self) -> bool:
        return self._writer.connected

    @property
    def holding(self) -> bool:
        """Return true if records are in hand."""
        return bool(self._hand)

    @property
    def spilled(self) -> bool:
        """Return true if the spill has records, of this process or of a dead one."""
        return bool(self._spill)

    @property
    def next_look(self) -> float:
        """Return when to search next for files of dead processes. The search needs a connection."""
        return self._next_look

    def connect(self) -> None:
        """Connect. The lock is not held: libpq may take long, and close() must not wait for that."""
        try:
            self._writer.connect()
        except Unavailable as error:
            with self.lock:
                self.fail(error)

    def abort(self) -> None:
        """Make a wait for the server fail at once. Called from another thread."""
        self._writer.abort()

    def take(self, items: Sequence[Item]) -> None:
        """Add items to the records in hand."""
        if items:
            self._hand.append(_Fresh(items, self._encoder))

    def deliver(self, take: Callable[[], None], *, ours: bool) -> None:
        """Do one step: deliver the records in hand, else those in the spill, else those that `take` gets from the queue.

        With `ours`, the spill is used only while it has records of this process.
        """
        self.began = time.monotonic()
        try:
            self._look_around()
            if not self._hand:
                if self._spill and (self._counters.count["spill_pending"] or not ours):
                    self._take_spilled()
                else:
                    take()
            self._empty_hand()
        except Ended as error:
            self.reconnect(error)
        except Uncertain as error:
            # To find out what became of the batch, before a waiting flush says "spilled" of rows that are there.
            self.reconnect(error)
        except Unavailable as error:
            self.fail(error)
        finally:
            self.began = None

    def write(self, items: Sequence[Item]) -> None:
        """Write items without the queue and the counters. Raise Unavailable."""
        self.began = time.monotonic()
        try:
            with suppress(BadRow):
                self._writer.write(_Fresh(items, self._encoder).batch)
        finally:
            self.began = None

    def spill(self) -> bool:
        """Spill one part of the records in hand. Return False if that failed."""
        part = self._hand[-1]
        try:
            self._spill.append([(kind, line.encode()) for kind, line in part.rows], part.probe)
        except (OSError, SpillFull) as error:
            self._counters.error(error)
            self.spill_again = time.monotonic() + 1
            return False
        except _Unencodable as error:
            self._drop(self._hand.pop(), error)
            return True
        self._hand.pop()
        with self._counters.lock:
            self._counters.in_hand -= len(part)
            self._counters.count["spilled"] += len(part)
            self._counters.count["spill_pending"] += len(part)
            self._counters.count["spill_bytes"] = self._spill.bytes
            self._counters.lock.notify_all()
        return True

    def reconnect(self, error: Ended | Uncertain) -> None:
        """Reconnect at the next step, at once: a server or pooler may end connections, so this is not a failure yet."""
        self._reconnections += 1
        if self._reconnections > _RECONNECTIONS:
            self.fail(error)
            return
        if isinstance(error, Uncertain):
            self._counters.error(error)
        self._return_to_spill()

    def fail(self, error: Exception) -> None:
        """Schedule a retry after the database failed to take the records in hand, and start the clock for spilling."""
        self._counters.error(error)
        self.failures += 1
        self.failures_in_row += 1
        self.server_starts = bool(_STARTING.search(str(error)))
        now = time.monotonic()
        self.lost_at = now if self.lost_at is None else self.lost_at
        self._pause = min(max(2 * self._pause, 0.1), LONGEST_PAUSE)
        self.next_try = now + self._pause * random.uniform(0.5, 1)  # noqa: S311 - so that clients do not reconnect together
        self._return_to_spill()

    def end(self, move: Callable[[], None]) -> None:
        """Spill the remaining records by `move`, whatever failed before. Records that `move` leaves are lost."""
        self.spill_again = 0.0
        self._return_to_spill()
        move()
        self._hand.clear()
        self._writer.close()
        self._spill.remove_empty()
        self._spill.close()

    def disown(self) -> None:
        """Abandon connection and files in a forked child: they belong to the parent."""
        self._writer.disown()
        self._spill.close()

    def disconnect(self) -> None:
        self._writer.close()

    def _return_to_spill(self) -> None:
        if self._hand and self._hand[-1].segment:
            self._hand.clear()  # its rows and its mark are on disk

    def _look_around(self) -> None:
        now = time.monotonic()
        if now >= self._next_look:
            self._next_look = now + LOOK
            self._spill.adopt()
            with self._counters.lock:
                self._counters.count["spill_bytes"] = self._spill.bytes

    def _take_spilled(self) -> None:
        segment = self._spill.oldest()
        if segment is None:
            return
        records = segment.read()
        if segment.uncertain:
            end, probe = segment.uncertain
            done = [record for record in records if record.end <= end]
            if done and self._writer.committed(probe):
                self._count_written(_Batch.of_records(done, segment))
                return
            segment.uncertain = None
        if records:
            first = records[0].probe
            chunk = records[: self._batch_size]
            same = next((n for n, record in enumerate(chunk) if record.probe != first), len(chunk))
            self._hand.append(_Batch.of_records(chunk[:same], segment))
        else:
            self._finish(segment)

    def _finish_if_done(self, segment: Segment) -> None:
        """Finish the segment at once, so that a process that ends now leaves no file whose records are all written."""
        if not segment.read():
            self._finish(segment)

    def _finish(self, segment: Segment) -> None:
        lost = segment.records_appended - segment.records_read if segment.ours else len(segment.damages)
        self._spill.finish(segment)
        with self._counters.lock:
            count = self._counters.count
            count["damaged"] += lost
            count["spill_pending" if segment.ours else "recovered"] += -lost if segment.ours else lost
            count["spill_bytes"] = self._spill.bytes

    def _empty_hand(self) -> None:
        """Write the records in hand. Set statements of unknown sessions aside; halve a batch with another bad row."""
        while self._hand:
            part = self._hand[-1]
            self.began = time.monotonic()
            try:
                if part.probe and self._writer.committed(part.probe):
                    self._hand.pop()
                    self._count_written(part)
                    continue
                part.probe = None
                self._writer.write(part.batch, part.mark if part.segment else None)
            except BadRow as error:
                unknown = self._unknown(part, error)
                self._hand.pop()
                if unknown:
                    self._set_aside(part, unknown, error)
                elif len(part) == 1:
                    self._set_aside(part, [0], error)
                else:
                    self._hand += reversed(part.halves())
            except Uncertain as error:
                part.probe = error.probe
                raise
            except _Unencodable as error:
                self._drop(self._hand.pop(), error)
            else:
                self._hand.pop()
                self._count_written(part, time.monotonic() - self.began)

    def _unknown(self, part: _Batch, error: BadRow) -> list[int]:
        with suppress(BadRow):
            if isinstance(error, UnknownSession):
                return self._writer.unknown(part.rows)
        return []

    def _count_written(self, part: _Batch, seconds: float | None = None) -> None:
        """Count the part as written."""
        self._database_is_there()
        if part.segment:
            part.segment.done, part.segment.uncertain = part.places[-1], None
            self._finish_if_done(part.segment)
        if seconds is not None:
            self._counters.batch(seconds)
        self._count(part, len(part), "written")

    def _set_aside(self, part: _Batch, places: Sequence[int], error: BadRow) -> None:
        """Move some rows into the quarantine and keep the rest of the part in hand."""
        self._quarantine([part.rows[at] for at in places], error)
        self._database_is_there()
        rest = part.without(places)
        if len(rest):
            self._hand.append(rest)
        else:
            part.mark(None)
            if part.segment:
                self._finish_if_done(part.segment)
        self._count(part, len(places), "quarantined")

    def _drop(self, part: _Batch, error: Exception) -> None:
        """Drop a part that cannot be encoded: it must not block the rest for ever."""
        self._counters.error(error)
        self._count(part, len(part), "dropped")

    def _database_is_there(self) -> None:
        self._pause, self.lost_at, self._reconnections, self.failures_in_row = 0.0, None, 0, 0

    def _count(self, part: _Batch, records: int, outcome: str) -> None:
        with self._counters.lock:
            count = self._counters.count
            count[outcome] += records
            if part.segment is None:
                self._counters.in_hand -= records
            else:
                count["spill_pending"] -= records if part.segment.ours else 0
                count["recovered"] += 0 if part.segment.ours else records
                count["replayed"] += records if outcome == "written" else 0
            self._counters.lock.notify_all()

    def _quarantine(self, rows: Sequence[Row], error: BadRow) -> None:
        at = datetime.now(UTC).isoformat()
        try:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            path = self._directory / f"{self._tag}-quarantine.jsonl"
            handle = open_private(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            with os.fdopen(handle, "a", encoding="utf-8") as file:
                room = QUARANTINE_BYTES - os.fstat(handle).st_size
                for kind, line in rows:
                    entry: dict[str, str | int] = {
                        "at": at,
                        "table": TABLES[kind],
                        "error": error.details[:_LONGEST_DETAILS],
                    }
                    entry["row"] = line[:_LONGEST_QUARANTINED]
                    if len(line) > _LONGEST_QUARANTINED:
                        entry["characters"] = len(line)
                    text = json.dumps(entry) + "\n"  # ASCII, so it has as many bytes as characters
                    room -= len(text)
                    if room < 0:
                        break
                    file.write(text)
        except OSError as failure:
            self._counters.error(failure)
        self._counters.error(error)


def tag_of(target: database.Target) -> str:
    """Return a tag that names the database in file names, so that records for one database never go into another."""
    defaults = {o.keyword.decode(): o.val.decode() for o in pq.Conninfo.get_defaults() if o.val is not None}
    known = {**defaults, **target.parameters}
    place = [known.get(key, "") for key in ("service", "host", "hostaddr", "port", "dbname")]
    place[-1] = place[-1] or known.get("user", "")
    return hashlib.sha256("\0".join(place).encode()).hexdigest()[:12]
