"""What an application hands over, checked in its own thread, and the lines of COPY that a worker makes of it.

A line is a row in COPY's text format without its id: ids are given when the row is written (writer.py says why).
"""

from __future__ import annotations

import json
import math
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

METRIC: Final = 0
PERFORMANCE: Final = 1
TABLES = ("system_metrics", "performance_logs")
COLUMNS = (
    "id, metric_name, metric_value, metric_type, labels, recorded_at",
    "id, operation, duration_ms, success, session_id, metadata, created_at",
)

# Its kind, when it happened (nanoseconds since 1970) and its values, none of which anybody can change any more.
Item = tuple[Any, ...]
Row = tuple[int, bytes]

_TYPES = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
_LONGEST_NAME = 100
_LONGEST_DURATION = 2**31 - 1
_LARGEST_BITS = 4096  # of an integer: Python refuses to print much more
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_LATEST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)

_encode = json.JSONEncoder(allow_nan=False).encode
_ESCAPES = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})


def metric(name: str, value: float | Decimal, type: str, labels: dict[str, Any] | None, at: datetime | None) -> Item:
    """Raises ValueError or TypeError for what system_metrics would not take."""
    name = _checked_name("the name of a metric", name)
    if isinstance(value, float):
        value = float(value)  # of numpy's, for one, the plain number
        if not math.isfinite(value):
            raise ValueError(f"metric {name!r} has the value {value}: it has to be a finite number")
    elif isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"metric {name!r} has the value {value}: it has to be a finite number")
        value = Decimal(value)
    elif value.__class__ is not int:
        raise TypeError(
            f"metric {name!r} has a value of type {value.__class__.__name__}: give an int, float or Decimal"
        )
    elif value.bit_length() > _LARGEST_BITS:
        raise ValueError(f"metric {name!r} has a value of more than {_LARGEST_BITS} bits")
    known = _TYPES.get(type)
    if known is None:
        raise ValueError(f"metric {name!r} is of type {type!r}: it has to be counter, gauge or histogram")
    return METRIC, _nanoseconds(at), name, value, known, _document("labels", labels)


def performance(
    operation: str,
    duration_ms: float,
    success: bool,
    session_id: UUID | str | None,
    metadata: dict[str, Any] | None,
    at: datetime | None,
) -> Item:
    """Raises ValueError or TypeError for what performance_logs would not take. Durations are rounded to milliseconds."""
    operation = _checked_name("the name of an operation", operation)
    if isinstance(duration_ms, bool) or not isinstance(duration_ms, int | float):
        raise TypeError(
            f"operation {operation!r} has a duration of type {type(duration_ms).__name__}: give milliseconds"
        )
    if not 0 <= duration_ms <= _LONGEST_DURATION:
        raise ValueError(f"operation {operation!r} has a duration of {duration_ms} ms: 0 to {_LONGEST_DURATION} fit")
    if success is not True and success is not False:
        raise TypeError(f"operation {operation!r} has success={success!r}: it has to be True or False")
    if session_id is not None and session_id.__class__ is not UUID:
        try:
            session_id = UUID(str(session_id))
        except ValueError:
            raise ValueError(f"operation {operation!r} has the session id {session_id!r}, which is no UUID") from None
    return PERFORMANCE, _nanoseconds(at), operation, duration_ms, success, session_id, _document("metadata", metadata)


def _checked_name(what: str, name: str) -> str:
    if name.__class__ is not str:
        if not isinstance(name, str):
            raise TypeError(f"{what} has to be a string, not {type(name).__name__}")
        name = str.__str__(name)  # of a member of an enumeration, what it stands for
    if not 0 < len(name) <= _LONGEST_NAME:
        raise ValueError(f"{what} has {len(name)} characters: 1 to {_LONGEST_NAME} fit")
    if not name.isascii():
        name.encode()  # half a surrogate pair is no text to PostgreSQL, and this says so with a ValueError
    if "\0" in name:
        raise ValueError(f"{what} must not contain a NUL character, which PostgreSQL cannot store")
    return name


def _document(what: str, document: dict[str, Any] | None) -> str:
    if not document and (document is None or isinstance(document, dict)):
        return "{}"
    if not isinstance(document, dict):
        raise TypeError(f"{what} has to be a dict, not {type(document).__name__}")
    try:
        return _encode(document)
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None


def _nanoseconds(at: datetime | None) -> int:
    if at is None:
        return time.time_ns()
    if not isinstance(at, datetime):
        raise TypeError(f"at has to be a datetime, not {type(at).__name__}")
    if at.tzinfo is None:
        raise ValueError("at has no time zone: datetime.now(UTC) has one, and a naive time may be off by hours")
    if not _EARLIEST <= at <= _LATEST:
        raise ValueError(f"at={at} is not within the years 1 to 9999 in UTC")
    return (at - _EPOCH) // _MICROSECOND * 1000


class Encoder:
    """Items into lines. It remembers the last second in print: most items of a batch share it."""

    def __init__(self) -> None:
        self._second = -1
        self._printed = ""

    def line(self, item: Item) -> Row:
        second, rest = divmod(item[1], 1_000_000_000)
        if second != self._second:
            self._printed = (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
            self._second = second
        name: str = item[2]
        if not name.isalnum():
            name = name.translate(_ESCAPES)
        document: str = item[-1]
        if "\\" in document:  # the only character that both JSON and COPY mean something by
            document = document.replace("\\", "\\\\")
        if item[0] == METRIC:
            text = f"{name}\t{item[3]}\t{item[4]}\t{document}\t{self._printed}.{rest // 1000:06d}+00\n"
        else:
            session = item[5]
            text = (
                f"{name}\t{round(item[3])}\t{item[4]}\t{session if session is not None else chr(92) + 'N'}"
                f"\t{document}\t{self._printed}.{rest // 1000:06d}+00\n"
            )
        return item[0], text.encode()
