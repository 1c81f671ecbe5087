"""Items as lines of COPY's text format, and lines as fields again.

Of METRIC, PERFORMANCE and STATEMENT a line is a row without its id: ids are given when the row is written (writer.py says why).
Of EXECUTION it is the whole row; of REGISTRY a JSON object, the call of a function of schema instrumentation that may be repeated.

This is most of what the recorder does with the interpreter in its hands, while the application waits for it. So the lines are
made in one go, texts are joined and not copied, and what many items share is printed once.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterable
from datetime import UTC, datetime, timedelta
from itertools import chain
from typing import Final

from pgvigil.live import scrub
from pgvigil.live.rows import (
    EXECUTION,
    LONGEST_MESSAGE,
    LONGEST_QUERY,
    METRIC,
    PERFORMANCE,
    REGISTRY,
    STATEMENT,
    Item,
)

# A table by its number, and a line with its line feed.
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
_REMEMBERED: Final = 1_000  # names and texts of statements each
_NULL: Final = "\\N"
_EPOCH: Final = datetime(1970, 1, 1, tzinfo=UTC)
_ESCAPES: Final = str.maketrans({"\\": r"\\", "\t": r"\t", "\n": r"\n", "\r": r"\r"})
_ESCAPED: Final = re.compile(r"\\(.)")
_CHARACTERS: Final = {"t": "\t", "n": "\n", "r": "\r"}


class Encoder:
    """It remembers what many items share: the last second in print, names, and texts of statements."""

    def __init__(self) -> None:
        self._second = -1
        self._printed = ""
        self._names: dict[str, str] = {}
        self._texts: dict[str, str] = {}
        self._of: dict[int, Callable[[Item], str]] = {
            METRIC: self._metric,
            PERFORMANCE: self._performance,
            EXECUTION: self._execution,
            STATEMENT: self._statement,
            REGISTRY: lambda item: f"{item[2]}\n",
        }

    def rows(self, items: Iterable[Item]) -> list[Row]:
        """In their order."""
        of = self._of
        return [(item[0], of[item[0]](item)) for item in items]

    def _metric(self, item: Item) -> str:
        _, at, name, value, kind, labels = item
        return f"{self._names.get(name) or self._name(name)}\t{value}\t{kind}\t{_document(labels)}\t{self._time(at)}\n"

    def _performance(self, item: Item) -> str:
        _, at, name, duration, success, session, metadata = item
        return (
            f"{self._names.get(name) or self._name(name)}\t{round(duration)}\t{success}"
            f"\t{_NULL if session is None else f'{session.int:032x}'}\t{_document(metadata)}\t{self._time(at)}\n"
        )

    def _execution(self, item: Item) -> str:
        *fields, began, ended, connection, request, response = item[2:]
        texts = [_NULL if field is None else str(field).translate(_ESCAPES) for field in fields]
        times_and_documents = [
            self._time(began), self._time(ended), _document(connection), _document(request), _document(response)
        ]  # fmt: skip
        return "\t".join(texts + times_and_documents) + "\n"

    def _statement(self, item: Item) -> str:
        _, ended, session, text, nanoseconds, rows, status, message, sqlstate, tag = item
        return (
            f"{session}\t{self._texts.get(text) or self._text(text)}\t{self._time(ended - nanoseconds)}\t{self._time(ended)}"
            f"\t{rows if rows >= 0 else _NULL}\t{status}\t{_NULL if message is None else _message(message)}"
            f"\t{(nanoseconds + 500_000) // 1_000_000}\t{_NULL if sqlstate is None else sqlstate}"
            f"\t{_NULL if tag is None else _document(tag)}\n"
        )

    def _time(self, nanoseconds: int) -> str:
        second, rest = divmod(nanoseconds, 1_000_000_000)
        if second != self._second:
            self._printed = (_EPOCH + timedelta(seconds=second)).isoformat()[:19]
            self._second = second
        return f"{self._printed}.{rest // 1000:06d}+00"

    def _name(self, name: str) -> str:
        if len(self._names) >= _REMEMBERED:
            self._names.clear()
        self._names[name] = escaped = name.translate(_ESCAPES)
        return escaped

    def _text(self, text: str) -> str:
        if len(self._texts) >= _REMEMBERED:
            self._texts.clear()
        shown = scrub.hide_secrets_of_query(scrub.storable(text[:LONGEST_QUERY])).translate(_ESCAPES)
        self._texts[text] = shown
        return shown


def _message(message: str) -> str:
    return scrub.hide_secrets(scrub.storable(message[:LONGEST_MESSAGE])).translate(_ESCAPES)


def _document(document: str) -> str:
    # A backslash is the only character that both JSON and COPY mean something by.
    return document.replace("\\", "\\\\") if "\\" in document else document


def fields(line: str) -> list[str | None]:
    """What PostgreSQL would read in it."""
    return [
        None if field == _NULL else _ESCAPED.sub(lambda found: _CHARACTERS.get(found[1], found[1]), field)
        for field in line[:-1].split("\t")
    ]


class Ids:
    """UUIDv7 that only rise: 60 bits of time, of which each is given once, and 60 random ones from the kernel."""

    def __init__(self) -> None:
        self._last = 0

    def add(self, lines: list[str], microseconds: int) -> tuple[str, bytes]:
        """Gives each line an id, from that time on; returns the first id and all of the lines. A step back of the clock is
        bridged by counting on.
        """
        first = max(self._last + 1, (microseconds // 1000 << 12) + (microseconds % 1000 * 4096 // 1000))
        self._last = first + len(lines) - 1
        noise = os.urandom(8 * len(lines)).hex()
        ids = [
            f"{(tick >> 12) << 16 | 0x7000 | tick & 0xFFF:016x}8{noise[n : n + 15]}\t"
            for tick, n in zip(range(first, first + len(lines)), range(0, 16 * len(lines), 16), strict=True)
        ]
        return ids[0][:-1], "".join(chain.from_iterable(zip(ids, lines, strict=True))).encode()
