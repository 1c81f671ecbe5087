"""Encode items as lines of COPY's text format, and split lines into fields again.

A line of METRIC, PERFORMANCE or STATEMENT is a row without its id: ids are given when the row is written (writer.py
says why). A line of EXECUTION is the whole row; a line of REGISTRY is a JSON object, a repeatable call of a function of
instrumentation.

This is most of the work that the recorder does while it holds the interpreter and the application waits for it. So
lines are made in batches, texts are joined and not copied, and values that many items share are printed once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable, Sequence
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Any, Final

from pgvigil.live import redact
from pgvigil.live.records import (
    EXECUTION,
    LONGEST_MESSAGE,
    LONGEST_QUERY,
    METRIC,
    PERFORMANCE,
    REGISTRY,
    STATEMENT,
    Document,
    Item,
    to_json,
)

# The number of a table, and a line with its line feed.
Row = tuple[int, str]

COLUMNS: Final = {
    METRIC: "id, metric_name, metric_value, metric_type, labels, recorded_at",
    PERFORMANCE: "id, operation, duration_ms, success, session_id, metadata, created_at",
    EXECUTION: (
        "execution_id, user_id, conversation_id, query, database_type, query_complexity, status, execution_time, total_rows,"
        " returned_rows, page, page_size, error_message, error_type, started_at, completed_at, connection_params,"
        " request_metadata, response_metadata"
    ),
    STATEMENT: (
        "statement_id, session_id, sql_text, execution_start_time, execution_end_time, rows_fetched, status, error_message,"
        " duration_ms, sqlstate, query_tag"
    ),
}
_REMEMBERED: Final = 1_000  # entries each for names, documents, and texts of statements
_LONGEST_REMEMBERED: Final = 5_000  # characters of a text
_NULL: Final = "\\N"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_ESCAPED: Final = re.compile(r"\\(.)")
_PARTS: Final = [f"{part:03x}" for part in range(4096)]  # of a millisecond
_CHARACTERS: Final = {"t": "\t", "n": "\n", "r": "\r"}


class Encoder:
    """An encoder that remembers what many items share: the last second as text, names, documents, and texts of statements."""

    def __init__(self) -> None:
        self._second = -1
        self._printed = ""
        self._names: dict[str, str] = {}
        self._documents: dict[Document, str] = {}
        self._texts: dict[str, str] = {}
        self._of: dict[int, Callable[[Item], str]] = {
            METRIC: self._metric,
            PERFORMANCE: self._performance,
            EXECUTION: self._execution,
            STATEMENT: self._statement,
            REGISTRY: lambda item: f"{item[2]}\n",
        }

    def lines(self, kind: int, items: Iterable[Item]) -> list[str]:
        """Return the lines of items of that kind, in their order."""
        return list(map(self._of[kind], items))

    def _metric(self, item: Item) -> str:
        _, at, name, value, kind, labels = item
        return f"{self._names.get(name) or self._name(name)}\t{value}\t{kind}\t{self._document(labels)}\t{self._time(at)}\n"

    def _performance(self, item: Item) -> str:
        _, at, name, duration, success, session, metadata = item
        return (
            f"{self._names.get(name) or self._name(name)}\t{round(duration)}\t{success}"
            f"\t{_NULL if session is None else f'{session.int:032x}'}\t{self._document(metadata)}\t{self._time(at)}\n"
        )

    def _execution(self, item: Item) -> str:
        *values, began, ended, connection, request, response = item[2:]
        # No text contains a NUL, so NUL may represent NULL until it is known whether anything has to be escaped.
        fields = ["\0" if value is None else str(value) for value in values]
        fields += [self._time(began), self._time(ended), connection, request, response]
        line = "\t".join(fields)
        if "\\" in line or "\n" in line or "\r" in line or line.count("\t") >= len(fields):
            line = "\t".join([_escaped(field) for field in fields])
        return line.replace("\0", _NULL) + "\n"

    def _statement(self, item: Item) -> str:
        _, ended, session, text, nanoseconds, rows, status, message, sqlstate, tag = item
        return (
            f"{session}\t{self._texts.get(text) or self._text(text)}\t{self._time(ended - nanoseconds)}\t{self._time(ended)}"
            f"\t{rows if rows >= 0 else _NULL}\t{status}\t{_NULL if message is None else _message(message)}"
            f"\t{(nanoseconds + 500_000) // 1_000_000}\t{_NULL if sqlstate is None else sqlstate}"
            f"\t{_NULL if tag is None else _escaped(tag)}\n"
        )

    def _time(self, nanoseconds: int) -> str:
        second, rest = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            self._printed = (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
            self._second = second
        return (
            f"{self._printed}.{str(1_000_000 + rest // 1000)[1:]}+00"  # a format with a width takes five times as long
        )

    def _name(self, name: str) -> str:
        return _remember(self._names, name, _escaped(name))

    def _document(self, document: Document) -> str:
        if isinstance(document, str):
            return _escaped(document)
        return self._documents.get(document) or _remember(self._documents, document, _escaped(to_json(dict(document))))

    def _text(self, text: str) -> str:
        shown = _escaped(shown_query(text))
        return _remember(self._texts, text, shown) if len(text) <= _LONGEST_REMEMBERED else shown


def shown_query(text: str) -> str:
    """Return a statement as it is stored."""
    return redact.hide_secrets_of_query(redact.storable(text[:LONGEST_QUERY]))


def _remember(known: dict[Any, str], key: Any, value: str) -> str:
    if len(known) >= _REMEMBERED:
        known.clear()
    known[key] = value
    return value


def _message(message: str) -> str:
    return _escaped(redact.hide_secrets(redact.storable(message[:LONGEST_MESSAGE])))


def _escaped(text: str) -> str:
    if "\\" in text or "\n" in text or "\t" in text or "\r" in text:
        return text.translate(_ESCAPES)
    return text


def fields(line: str) -> list[str | None]:
    """Return the fields that PostgreSQL would read in the line."""
    return [
        None if field == _NULL else _ESCAPED.sub(lambda found: _CHARACTERS.get(found[1], found[1]), field)
        for field in line[:-1].split("\t")
    ]


class Ids:
    """A source of rising UUIDv7: 60 bits of time, each value given once, and 60 random bits, the same for one call."""

    def __init__(self) -> None:
        self._last = 0

    def add(self, lines: Sequence[str], microseconds: int) -> tuple[str, bytes]:
        """Give each line an id, from that time on, and return the first id and all of the lines.

        If the clock steps back, the count continues from the last id.
        """
        first = max(self._last + 1, (microseconds // 1000 << 12) + (microseconds % 1000 * 4096 // 1000))
        self._last = last = first + len(lines) - 1
        noise = os.urandom(8).hex()[:15]
        ids: list[str] = []
        for millisecond in range(first >> 12, (last >> 12) + 1):
            begin, end = max(first, millisecond << 12), min(last, (millisecond << 12) + 0xFFF)
            head, tail = f"{millisecond:012x}7", f"8{noise}\t"
            ids += [f"{head}{part}{tail}" for part in _PARTS[begin & 0xFFF : (end & 0xFFF) + 1]]
        return ids[0][:-1], "".join(chain.from_iterable(zip(ids, lines, strict=True))).encode()
