"""Check the application's arguments in its own thread and make items of them. copy_encoding.py encodes those for the
database.
"""

from __future__ import annotations

import json
import math
import os
import re
import time
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from pgvigil.live import literals, redact

METRIC: Final = 0
PERFORMANCE: Final = 1
EXECUTION: Final = 2
STATEMENT: Final = 3
REGISTRY: Final = 4
# Numbers as stored in the spill.
TABLES = (
    "system_metrics",
    "performance_logs",
    "query_executions",
    "instrumentation.sql_statements",
    "instrumentation.sessions",
)

# The kind, the time (nanoseconds since 1970) and the values, all of which can no longer be changed.
Item = tuple[Any, ...]
Document = str | tuple[tuple[str, str | int], ...]

_TYPES = {"counter": "counter", "gauge": "gauge", "histogram": "histogram"}
_LONGEST_NAME = 100
_LONGEST_DURATION = 2**31 - 1
_LARGEST_BITS = 4096  # of an integer: Python refuses to print much more
# PostgreSQL's numeric: digits before and after the decimal point.
_LARGEST_EXPONENT = 131_071
_SMALLEST_EXPONENT = -16_383
_DEEPEST = 200  # levels of a document: PostgreSQL's parser needs stack for each
_UNSTORABLE = re.compile(
    r"(?<!\\)(?:\\\\)*\\u(?:0000|d[89a-f])"
)  # in JSON: NUL, or half a surrogate pair, or a whole one
_BIG = 2**63
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_EARLIEST = datetime.min.replace(tzinfo=UTC)
_FIRST = (_EARLIEST - _EPOCH) // timedelta(microseconds=1) * 1000
_LATEST = datetime.max.replace(tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
_STATUSES = ("success", "failed", "timeout", "error")
LONGEST_QUERY = 100_000
_LONGEST_EXECUTION = 10**9
LONGEST_MESSAGE = 10_000

to_json = json.JSONEncoder(allow_nan=False).encode


def metric(name: str, value: float | Decimal, type: str, labels: dict[str, Any] | None, at: datetime | None) -> Item:
    """Return an item for system_metrics. Raise ValueError or TypeError for values that the table would refuse."""
    name = _checked_name("the name of the metric", name)
    if isinstance(value, float):
        value = float(value)  # a plain number, for instance of one of numpy's
        if not math.isfinite(value):
            raise ValueError(f"metric {name!r} has the value {value}: use a finite number")
    elif isinstance(value, Decimal):
        if not value.is_finite():
            raise ValueError(f"metric {name!r} has the value {value}: use a finite number")
        value = Decimal(value)
        if value.adjusted() > _LARGEST_EXPONENT or int(value.as_tuple().exponent) < _SMALLEST_EXPONENT:
            raise ValueError(
                f"metric {name!r} has a value of 10 to the power of {value.adjusted()}: PostgreSQL's numeric holds"
                f" {_LARGEST_EXPONENT + 1} digits before the decimal point and {-_SMALLEST_EXPONENT} after it"
            )
    elif value.__class__ is not int:
        raise TypeError(f"metric {name!r} has a value of type {value.__class__.__name__}: use an int, float or Decimal")
    elif value.bit_length() > _LARGEST_BITS:
        raise ValueError(f"metric {name!r} has a value of more than {_LARGEST_BITS} bits")
    known = _TYPES.get(type)
    if known is None:
        raise ValueError(f"metric {name!r} is of type {type!r}: use counter, gauge or histogram")
    return METRIC, _nanoseconds(at), name, value, known, _document("labels", labels)


def performance(
    operation: str,
    duration_ms: float,
    success: bool,
    session_id: UUID | str | None,
    metadata: dict[str, Any] | None,
    at: datetime | None,
) -> Item:
    """Return an item for performance_logs.

    Raise ValueError or TypeError for bad values. Durations are rounded to milliseconds.
    """
    operation = _checked_name("the name of the operation", operation)
    if isinstance(duration_ms, bool) or not isinstance(duration_ms, int | float):
        raise TypeError(
            f"operation {operation!r} has a duration of type {type(duration_ms).__name__}: use a number of milliseconds"
        )
    if not 0 <= duration_ms <= _LONGEST_DURATION:
        raise ValueError(f"operation {operation!r} has a duration of {duration_ms} ms: use 0 to {_LONGEST_DURATION}")
    if success is not True and success is not False:
        raise TypeError(f"operation {operation!r} has success={success!r}: use True or False")
    if session_id is not None and session_id.__class__ is not UUID:
        try:
            session_id = UUID(str(session_id))
        except ValueError:
            raise ValueError(
                f"operation {operation!r} has the session id {session_id!r}, which is not a UUID"
            ) from None
    return PERFORMANCE, _nanoseconds(at), operation, duration_ms, success, session_id, _document("metadata", metadata)


def execution(
    query: str,
    database_type: str,
    status: str = "success",
    *,
    normalize_literals: bool = False,
    execution_id: str | None = None,
    user_id: str | None = None,
    conversation_id: str | None = None,
    execution_time: float | None = None,
    total_rows: int | None = None,
    returned_rows: int | None = None,
    page: int | None = 0,
    page_size: int | None = 100,
    error_message: str | None = None,
    error_type: str | None = None,
    started_at: datetime | None = None,
    completed_at: datetime | None = None,
    connection_params: dict[str, Any] | None = None,
    request_metadata: dict[str, Any] | None = None,
    response_metadata: dict[str, Any] | None = None,
) -> Item:
    """Return an item for query_executions, with secrets removed.

    Raise ValueError or TypeError for values that it would refuse.
    """
    if not isinstance(query, str):
        raise TypeError(f"query must be a string, not {type(query).__name__}")
    database_type = _checked_name("database_type", database_type, 50)
    if status not in _STATUSES:
        raise ValueError(f"status is {status!r}: use one of {', '.join(_STATUSES)}")
    if execution_time is not None:
        if isinstance(execution_time, bool) or not isinstance(execution_time, int | float):
            raise TypeError(f"execution_time is of type {type(execution_time).__name__}: use a number of seconds")
        if not 0 <= execution_time <= _LONGEST_EXECUTION:
            raise ValueError(f"execution_time is {execution_time}: use 0 to {_LONGEST_EXECUTION} seconds")
    ended = _nanoseconds(completed_at)
    began = _nanoseconds(started_at) if started_at else max(ended - round((execution_time or 0) * 1e9), _FIRST)
    text = redact.hide_secrets_of_query(redact.storable(query[:LONGEST_QUERY]))
    if normalize_literals:
        text = literals.normalize_literals(text, database_type)
    if len(query) > LONGEST_QUERY:
        request_metadata = {**(request_metadata or {}), "query_characters": len(query)}
    if error_message is not None:
        error_message = redact.hide_secrets(redact.storable(str(error_message)[:LONGEST_MESSAGE]))
    documents = []
    for what, details in (
        ("connection_params", connection_params),
        ("request_metadata", request_metadata),
        ("response_metadata", response_metadata),
    ):
        if details is not None and not isinstance(details, dict):
            raise TypeError(f"{what} must be a dict, not {type(details).__name__}")
        documents.append(to_json(redact.document(details)) if details else "{}")
    # In the order of query_executions.
    return (
        EXECUTION,
        ended,
        new_id() if execution_id is None else _checked_name("execution_id", execution_id),
        None if user_id is None else _checked_name("user_id", user_id),
        None if conversation_id is None else _checked_name("conversation_id", conversation_id),
        text,
        database_type,
        "SINGLE_LINE" if query.isprintable() or len(query.strip().splitlines()) < 2 else "MULTI_LINE",
        str.__str__(status),
        None if execution_time is None else float(execution_time),
        _checked_count("total_rows", total_rows, 2**63 - 1),
        _checked_count("returned_rows", returned_rows, 2**63 - 1),
        _checked_count("page", page, 2**31 - 1),
        _checked_count("page_size", page_size, 2**31 - 1),
        error_message,
        None if error_type is None else redact.storable(str(error_type)[:_LONGEST_NAME]),
        began,
        ended,
        *documents,
    )


def statement(
    session_id: str,
    sql_text: str,
    nanoseconds: int,
    rows_fetched: int,
    status: str = "success",
    error_message: str | None = None,
    sqlstate: str | None = None,
    tag: str | None = None,
) -> Item:
    """Return a statement that has just ended and took that long. Nothing is checked, so the caller pays nearly nothing."""
    return (
        STATEMENT,
        time.time_ns(),
        session_id,
        sql_text,
        nanoseconds,
        rows_fetched,
        status,
        error_message,
        sqlstate,
        tag,
    )


def call(function: str, **arguments: Any) -> Item:
    """Return a call of a function of schema instrumentation, by its name in pgvigil.live.writer.CALLS."""
    return REGISTRY, time.time_ns(), to_json({"function": function, **arguments})


def new_id() -> str:
    """Return a UUIDv7: rows written one after the other are neighbours in the index."""
    time_ = f"{time.time_ns() // 1_000_000:012x}"
    noise = os.urandom(10).hex()
    return f"{time_[:8]}-{time_[8:]}-7{noise[:3]}-8{noise[3:6]}-{noise[6:18]}"


def _checked_count(what: str, count: int | None, largest: int) -> int | None:
    if count is None:
        return None
    if isinstance(count, bool) or not isinstance(count, int):
        raise TypeError(f"{what} must be an int, not {type(count).__name__}")
    if not 0 <= count <= largest:
        raise ValueError(f"{what} is {count}: use 0 to {largest}")
    return int(count)


def _checked_name(what: str, name: str, longest: int = _LONGEST_NAME) -> str:
    if name.__class__ is not str:
        if not isinstance(name, str):
            raise TypeError(f"{what} must be a string, not {type(name).__name__}")
        name = str.__str__(name)  # the value of a member of an enumeration
    if not 0 < len(name) <= longest:
        raise ValueError(f"{what} has {len(name)} characters: use 1 to {longest}")
    if not name.isascii():
        name.encode()  # half a surrogate pair is not valid text in PostgreSQL: encode() raises a ValueError
    if "\0" in name:
        raise ValueError(f"{what} must not contain a NUL character, which PostgreSQL cannot store")
    return name


def _document(what: str, document: dict[str, Any] | None) -> Document:
    """Return an immutable document: JSON, or, for the plainest kind, its pairs, which the worker encodes."""
    if document.__class__ is dict and document:
        for key, value in document.items():
            kind = value.__class__
            # NUL and half a surrogate pair are not printable; for other texts the JSON is checked.
            if key.__class__ is not str or not (key.isprintable() or (key.isascii() and "\0" not in key)):
                break
            if kind is str:
                if not (value.isprintable() or (value.isascii() and "\0" not in value)):
                    break
            elif not (kind is int and -_BIG < value < _BIG):
                break
        else:
            return tuple(document.items())
    if not document and (document is None or isinstance(document, dict)):
        return "{}"
    if not isinstance(document, dict):
        raise TypeError(f"{what} must be a dict, not {type(document).__name__}")
    return checked_json(what, document)


def checked_json(what: str, document: Any) -> str:
    """Return the document as JSON for jsonb. Raise ValueError or TypeError for values that jsonb would refuse."""
    try:
        text = to_json(document)
    except RecursionError:
        raise ValueError(f"{what} is nested too deeply") from None
    if text.count("[") + text.count("{") > _DEEPEST and _depth(json.loads(text)) > _DEEPEST:
        raise ValueError(f"{what} is nested too deeply: at most {_DEEPEST} levels are possible")
    if "\\u" in text and _UNSTORABLE.search(text):
        if any(found.endswith("0000") for found in _UNSTORABLE.findall(text)):
            raise ValueError(f"{what} contains a NUL character, which PostgreSQL cannot store")
        try:
            json.dumps(document, ensure_ascii=False).encode()
        except UnicodeEncodeError:
            raise ValueError(f"{what} contains half of a surrogate pair, which PostgreSQL cannot store") from None
    return text


def _depth(document: Any) -> int:
    """Return the number of levels of lists and dicts, counted level by level."""
    level, depth = [document], 0
    while level := [value for value in level if isinstance(value, list | dict)]:
        depth += 1
        level = [value for held in level for value in (held.values() if isinstance(held, dict) else held)]
    return depth


def _nanoseconds(at: datetime | None) -> int:
    if at is None:
        return time.time_ns()
    if not isinstance(at, datetime):
        raise TypeError(f"at must be a datetime, not {type(at).__name__}")
    if at.tzinfo is None:
        raise ValueError(
            "at has no time zone, and a naive time may be off by hours: use a value such as datetime.now(UTC)"
        )
    if not _EARLIEST <= at <= _LATEST:
        raise ValueError(f"at={at} is outside the years 1 to 9999 in UTC")
    return (at - _EPOCH) // _MICROSECOND * 1000
