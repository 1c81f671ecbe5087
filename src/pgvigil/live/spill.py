"""Store rows in files until the database takes them, in the order they came.

A file (segment) is written by one process and read once it is complete. The process that has it open holds a lock on it (flock),
so a free lock shows that the process has ended, and the next process adopts the file.

    header   "pgvigil spill 1\\n", then two marks
    mark     number, done, end, table and id of a probe, checksum: all before `done` is in the database; the records from
             there to `end` were about to be committed with that id. The valid mark with the higher number counts,
             and the other one is overwritten next, so a torn write of a mark loses nothing.
    record   ff fe 'p' 'v', length, checksum, then: table, table and id of a probe (ff and zeros: none), the line of COPY

Numbers are big-endian; a checksum is the first 8 bytes of the SHA-256 of what it covers (of a record: length and content).
UTF-8 never contains a byte ff, so after damage the next record is found by its first four bytes.
"""

from __future__ import annotations

import fcntl
import hashlib
import os
import secrets
import shlex
import stat
import struct
import time
from collections import deque
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from uuid import UUID

from pgvigil.live.records import TABLES
from pgvigil.live.writer import Probe

Row = tuple[int, bytes]  # the number of a table, and the line

SEGMENT_BYTES = 4 << 20  # a segment is complete at this length: it is read whole, and removed whole
_TITLE = b"pgvigil spill 1\n"
_MARK = struct.Struct(">QQQB16s")
_HEAD = struct.Struct(">4sI8s")
_CONTENT = struct.Struct(">BB16s")
_MAGIC = b"\xff\xfepv"
_SUM = 8
_SLOT = _MARK.size + _SUM
START = len(_TITLE) + 2 * _SLOT
_NO_TABLE = 255
_NONE = b"\0" * 16


@dataclass(frozen=True)
class Record:
    """A row as it was spilled; `start` and `end` are its position in the file."""

    row: Row
    probe: Probe | None
    start: int
    end: int


@dataclass(frozen=True)
class Damage:
    """A range of bytes that hold no valid record; `torn` if no valid record follows."""

    start: int
    end: int
    torn: bool


class SpillFull(Exception):
    """An error that says that the spill has reached its limit."""


def _checksum(*parts: bytes) -> bytes:
    return hashlib.sha256(b"".join(parts)).digest()[:_SUM]


def _pack_probe(probe: Probe | None) -> tuple[int, bytes]:
    return (probe[0], probe[1].bytes) if probe else (_NO_TABLE, _NONE)


def _unpack_probe(table: int, id: bytes) -> Probe | None:
    return (table, UUID(bytes=id)) if table < len(TABLES) else None


def encode(row: Row, probe: Probe | None = None) -> bytes:
    """Return the bytes of one record."""
    content = _CONTENT.pack(row[0], *_pack_probe(probe)) + row[1]
    length = len(content).to_bytes(4, "big")
    return _HEAD.pack(_MAGIC, len(content), _checksum(length, content)) + content


def decode(data: bytes, start: int) -> tuple[list[Record], list[Damage]]:
    """Return all valid records from `start` on, and the damage between and after them."""
    records: list[Record] = []
    damages: list[Damage] = []
    place = start
    while place < len(data):
        record = _record_at(data, place)
        if record:
            records.append(record)
            place = record.end
            continue
        after = place
        while not record and (after := data.find(_MAGIC, after + 1)) >= 0:
            record = _record_at(data, after)
        damages.append(Damage(place, after if record else len(data), torn=not record))
        place = damages[-1].end
    return records, damages


def _record_at(data: bytes, place: int) -> Record | None:
    if len(data) - place < _HEAD.size + _CONTENT.size:
        return None
    magic, length, checksum = _HEAD.unpack_from(data, place)
    begin = place + _HEAD.size
    if magic != _MAGIC or length < _CONTENT.size or begin + length > len(data):
        return None
    content = data[begin : begin + length]
    if _checksum(data[place + 4 : place + 8], content) != checksum:
        return None
    table, of_probe, id = _CONTENT.unpack_from(content)
    if table >= len(TABLES):
        return None
    return Record((table, content[_CONTENT.size :]), _unpack_probe(of_probe, id), place, begin + length)


def check_private(path: Path, found: os.stat_result) -> None:
    """Raise PermissionError if another user owns or may write to the path: it could hold rows that this application never recorded."""
    if found.st_uid != os.geteuid():
        raise PermissionError(
            f"{path} belongs to uid {found.st_uid} and this process runs as uid {os.geteuid()}, so pgvigil does not use it:"
            " set spill_directory to a directory of this user"
        )
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(
            f"{path} is writable for other users, so pgvigil does not use it: run chmod go-w {shlex.quote(str(path))}"
        )


def _check_file(path: Path, found: os.stat_result) -> None:
    check_private(path, found)
    if not stat.S_ISREG(found.st_mode) or found.st_nlink > 1:
        raise PermissionError(f"{path} is not a regular file with one name, so pgvigil does not use it: remove it")


def open_private(path: Path, flags: int) -> int:
    """Open a regular file of this user in a directory of this user. Raise OSError."""
    check_private(path.parent, path.parent.stat())
    # Without waiting: the name may belong to a pipe.
    handle = os.open(path, flags | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC, 0o600)
    try:
        _check_file(path, os.fstat(handle))
    except BaseException:
        os.close(handle)
        raise
    return handle


class Segment:
    """A file locked by this process. Its own grow by `append`; complete ones are read, marked as their records go, and finished."""

    def __init__(self, path: Path, handle: int, *, ours: bool) -> None:
        self.path = path
        self.ours = ours
        self.records_appended = 0
        self._handle = handle
        self._number = 0
        self.done = START
        self.uncertain: tuple[int, Probe] | None = None
        self.size = os.fstat(handle).st_size
        self._content: tuple[list[Record], list[Damage]] | None = None

    @classmethod
    def create(cls, path: Path) -> Segment:
        handle = open_private(path, os.O_RDWR | os.O_CREAT | os.O_EXCL)
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            segment = cls(path, handle, ours=True)
            segment._write_all(_TITLE, 0)
            segment.mark(START, START, None)
            segment._write_all(b"\0" * _SLOT, len(_TITLE))  # the slot of even numbers; `mark` wrote the other one
            os.fsync(handle)
            _sync_directory(path.parent)
        except BaseException:
            path.unlink(missing_ok=True)
            os.close(handle)
            raise
        segment.size = START
        return segment

    @classmethod
    def adopt(cls, path: Path) -> Segment | None:
        """Open the file of an ended process. Return None if it lives, another one was quicker, or the file is another user's."""
        try:
            handle = open_private(path, os.O_RDWR)
        except OSError:
            return None
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
            gone = os.fstat(handle).st_nlink == 0
        except BlockingIOError:
            gone = True
        if gone:
            os.close(handle)
            return None
        segment = cls(path, handle, ours=False)
        segment._read_marks()
        return segment

    def append(self, rows: Sequence[Row], probe: Probe | None) -> None:
        """Write all rows, on disk when this returns (fdatasync), or none and raise OSError."""
        data = b"".join([encode(row, probe) for row in rows])
        try:
            self._write_all(data, self.size)
            os.fdatasync(self._handle)
        except OSError:
            with suppress(OSError):
                os.ftruncate(self._handle, self.size)
            raise
        self.size += len(data)
        self.records_appended += len(rows)

    def _write_all(self, data: bytes, place: int) -> None:
        view = memoryview(data)
        while view:
            written = os.pwrite(self._handle, view, place)
            place += written
            view = view[written:]

    def read(self) -> list[Record]:
        """Return the records that are not known to be in the database yet."""
        if self._content is None:
            data = os.pread(self._handle, self.size, 0)
            self._content = decode(data, max(START, min(self.done, len(data))))
        return [record for record in self._content[0] if record.start >= self.done]

    @property
    def damages(self) -> list[Damage]:
        self.read()
        return self._content[1] if self._content else []

    @property
    def records_read(self) -> int:
        self.read()
        return len(self._content[0]) if self._content else 0

    def mark(self, done: int, end: int, probe: Probe | None) -> None:
        """Write a mark, on disk when this returns: all before `done` is in the database, and all up to `end` may soon be."""
        self._number += 1
        mark = _MARK.pack(self._number, done, end, *_pack_probe(probe))
        self._write_all(mark + _checksum(mark), len(_TITLE) + self._number % 2 * _SLOT)
        os.fdatasync(self._handle)
        self.done = done
        self.uncertain = (end, probe) if probe else None

    def _read_marks(self) -> None:
        for slot in range(2):
            data = os.pread(self._handle, _SLOT, len(_TITLE) + slot * _SLOT)
            if len(data) == _SLOT and _checksum(data[: _MARK.size]) == data[_MARK.size :]:
                number, done, end, table, id = _MARK.unpack_from(data)
                if number > self._number:
                    self._number, self.done = number, done
                    probe = _unpack_probe(table, id)
                    self.uncertain = (end, probe) if probe else None

    def finish(self) -> None:
        """Remove the file, whose records are in the database. If it has damage other than a torn end, it is kept as .damaged."""
        if any(not damage.torn for damage in self.damages):
            self.path.rename(self.path.with_suffix(".damaged"))
        else:
            self.path.unlink(missing_ok=True)
        self.close()

    def close(self) -> None:
        if self._handle >= 0:
            os.close(self._handle)
            self._handle = -1


def _sync_directory(directory: Path) -> None:
    handle = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


class Spill:
    """A spill of one database: its segments in one directory, first the adopted ones, then those of this process.

    `limit` bounds the bytes in the directory as this process sees them: all it holds, plus the files of others at the last check.
    """

    def __init__(self, directory: Path, tag: str, limit: int) -> None:
        self._directory = directory
        self._tag = tag
        self._limit = limit
        self._segments: deque[Segment] = deque()
        self._open: Segment | None = None
        self._others = 0

    def __bool__(self) -> bool:
        return bool(self._segments)

    @property
    def bytes(self) -> int:
        return sum(segment.size for segment in self._segments)

    def append(self, rows: Sequence[Row], probe: Probe | None) -> None:
        """Append all rows. Raise SpillFull or OSError, and then holds none of them."""
        if self._open is None or self._open.size >= SEGMENT_BYTES:
            self._directory.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._others = 0
            for path in self._foreign():
                with suppress(FileNotFoundError):  # its owner has finished it
                    self._others += path.lstat().st_size
            self._check_room(rows)
            name = f"{self._tag}-{time.time_ns():020d}-{os.getpid()}-{secrets.token_hex(4)}.spill"
            self._open = Segment.create(self._directory / name)
            self._segments.append(self._open)
        self._check_room(rows)
        self._open.append(rows, probe)

    def _check_room(self, rows: Sequence[Row]) -> None:
        need = sum(len(row[1]) for row in rows) + (_HEAD.size + _CONTENT.size) * len(rows)
        if self._others + self.bytes + need > self._limit:
            raise SpillFull(f"the spill in {self._directory} has reached its limit of {self._limit} bytes")

    def oldest(self) -> Segment | None:
        """Return the segment to read next; it no longer grows."""
        if not self._segments:
            return None
        if self._segments[0] is self._open:
            self._open = None
        return self._segments[0]

    def finish(self, segment: Segment) -> None:
        """Finish a segment whose records are in the database."""
        segment.finish()
        self._segments.remove(segment)

    def remove_empty(self) -> None:
        """Remove files of this process that hold no record."""
        for segment in [segment for segment in self._segments if segment.ours and not segment.records_appended]:
            self.finish(segment)
        self._open = None

    def adopt(self) -> None:
        """Adopt the files of dead processes."""
        found = [segment for path in self._foreign() if (segment := Segment.adopt(path))]
        self._segments.extendleft(reversed(found))

    def _foreign(self) -> list[Path]:
        ours = {segment.path for segment in self._segments}
        return sorted(path for path in self._directory.glob(f"{self._tag}-*.spill") if path not in ours)

    def close(self) -> None:
        """Close the files and keep them on disk: the next process adopts them. In a forked child, the parent keeps them."""
        for segment in self._segments:
            segment.close()
        self._segments.clear()
        self._open = None
