"""Write the rows of a COPY into Parquet files, a part at a time, and read them again to compare them with what
PostgreSQL sent.
"""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Callable, Generator, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor, wait
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

from pgvigil.archives import binary, duck, explained, identifier, literal, scan, summary
from pgvigil.archives.binary import Connections
from pgvigil.archives.manifest import Part
from pgvigil.archives.source import Column, Source
from pgvigil.archives.store import Store
from pgvigil.errors import ArchiveError

# Of COPY's text: a part is read and written in memory, while the next one comes from the server.
PART_BYTES = 64 << 20
# Parts that are written side by side. DuckDB in one thread each: two threads for one part take 15 % more time of the processors.
WRITERS = 2
_GATHERED = 1 << 20  # bytes of rows, before they are written
# Ids fill any dictionary: a small one is given up sooner.
WRITTEN = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION V2, DICTIONARY_SIZE_LIMIT 1000"


@dataclass(frozen=True)
class Extent:
    """The contents of the files: the least and greatest id, as text, and the earliest and latest time, ISO 8601."""

    min_id: str | None = None
    max_id: str | None = None
    min_time: str | None = None
    max_time: str | None = None

    def __or__(self, other: Extent) -> Extent:
        def ends(low: str | None, high: str | None, of: Any) -> Any:
            return of([end for end in (low, high) if end is not None], default=None)

        def number(text: str | None) -> Any:
            return (len(text), text) if text is not None and text.isdigit() else (0, text)

        return Extent(
            ends(self.min_id, other.min_id, lambda both, default: min(both, key=number, default=default)),
            ends(self.max_id, other.max_id, lambda both, default: max(both, key=number, default=default)),
            ends(self.min_time, other.min_time, min),
            ends(self.max_time, other.max_time, max),
        )


@dataclass(frozen=True)
class Written:
    """The files of an archive."""

    parts: list[Part]
    extent: Extent
    summary: Part | None = None

    @property
    def rows(self) -> int:
        return sum(part.rows for part in self.parts)


@dataclass(frozen=True)
class Place:
    """The files of an archive that is being written, and what they are of."""

    source: Source
    columns: list[Column]
    store: Store
    directory: str
    stem: str

    def name(self, number: int) -> str:
        """Return the name of a file."""
        return f"{self.stem}-{number:05}.parquet"


@dataclass(frozen=True)
class _Made:
    part: Part
    extent: Extent
    summary: Path | None


def write(
    pool: ThreadPoolExecutor, reader: psycopg.Connection, query: str, place: Place, *, part_bytes: int = PART_BYTES
) -> Written:
    """Write the rows of a COPY query as the files of an archive.

    Raise ArchiveError where a file, read back, is not what the server sent, and where DuckDB cannot write it.
    """
    made: list[_Made] = []
    waiting: deque[Future[_Made]] = deque()
    with explained(), place.store.workshop(place.stem) as work, _ended(waiting):
        files = [work / f"{number}.csv" for number in range(WRITERS + 1)]
        with _copy_ended(reader), closing(_parts(reader, query, files, part_bytes)) as sent:
            for number, (csv, rows, longest) in enumerate(sent, 1):
                waiting.append(pool.submit(_part_of_text, csv, rows, longest, place, work / place.name(number)))
                if len(waiting) > WRITERS:  # the next part takes the place of the first of them
                    made.append(waiting.popleft().result())
        made += [one.result() for one in waiting]
        return _whole(made, place, work)


@contextmanager
def _copy_ended(reader: psycopg.Connection) -> Iterator[None]:
    """End a COPY that is under way where its rows could not be written, so that the connection can be used again."""
    try:
        yield
    finally:
        if reader.info.transaction_status == pq.TransactionStatus.ACTIVE:
            with suppress(psycopg.Error):
                reader.cancel_safe()
                while reader.pgconn.get_copy_data(0)[0] >= 0:
                    pass
            with suppress(psycopg.Error):
                while reader.pgconn.get_result():
                    pass


@contextmanager
def ranges(
    pool: ThreadPoolExecutor, connections: Connections, queries: list[str], snapshot: str, place: Place
) -> Iterator[Callable[[], Written]]:
    """Begin to write the rows of queries as the files of an archive; yields the function that waits for them.

    Raise ArchiveError as `write` does, and what `binary.refusals` names where the rows have to come as text.
    """
    waiting: deque[Future[_Made | None]] = deque()
    with place.store.workshop(place.stem) as work, _ended(waiting):
        for number, query in enumerate(queries, 1):
            made = work / place.name(number)
            waiting.append(pool.submit(_part_of_range, connections, query, snapshot, place, made))
        yield lambda: _whole([made for one in waiting if (made := one.result())], place, work)


@contextmanager
def _ended(waiting: Iterable[Future[Any]]) -> Iterator[None]:
    """Wait at the end until nobody writes these files any more."""
    try:
        yield
    finally:
        for one in waiting:
            one.cancel()
        wait(waiting)


def _whole(made: list[_Made], place: Place, work: Path) -> Written:
    extent = Extent()
    for one in made:
        extent |= one.extent
    summed = _summary([one.summary for one in made if one.summary], work / f"{place.stem}.summary", place)
    return Written([one.part for one in made], extent, summed)


def _summary(begun: list[Path], made: Path, place: Place) -> Part | None:
    with closing(duck(threads=1)) as conn:
        part = summary.finish(conn, begun, made)
    if part:
        name = f"{place.directory}/{part.file}"
        place.store.publish(made, name)
        with place.store.opened(name, part.sha256, part.bytes):
            pass  # it is there, as it was written
    return part


def _parts(
    reader: psycopg.Connection, query: str, places: list[Path], part_bytes: int
) -> Generator[tuple[Path, int, int], None, None]:
    """Yield files with the rows of a COPY, with their number of rows and the bytes of the longest row.

    Each place is overwritten in its turn.

    This uses libpq itself: a Copy of psycopg waits for the socket at each row, and takes three times as long. Rows are
    collected before they are written, and files are kept: a third of the time went to calls of write, and to pages for
    new files.
    """
    wire = reader.pgconn
    result = wire.exec_(query.encode())
    if result.status != pq.ExecStatus.COPY_OUT:
        raise psycopg.DatabaseError(result.error_message.decode(errors="replace"))
    get = wire.get_copy_data
    gathered = bytearray()
    ended = False
    for path in cycle(places):
        rows = size = longest = 0
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT, 0o600), "wb", buffering=0) as file:
            while size + len(gathered) < part_bytes:
                length, data = get(0)
                if length < 0:
                    ended = True
                    break
                gathered += data
                rows += 1
                if length > longest:
                    longest = length
                if len(gathered) >= _GATHERED:
                    size += put(file, gathered)
            size += put(file, gathered)
            file.truncate(size)
        if rows:
            yield path, rows, longest
        if ended:
            break
    result = wire.get_result()  # type: ignore[assignment]
    if result is not None and result.status != pq.ExecStatus.COMMAND_OK:
        raise psycopg.DatabaseError(result.error_message.decode(errors="replace"))
    while wire.get_result():
        pass


def put(file: io.FileIO, gathered: bytearray) -> int:
    """Write all of it, and empty it. Return how many bytes they were."""
    size = len(gathered)
    with memoryview(gathered) as rest:
        written = 0
        while written < size:
            written += file.write(rest[written:])
    gathered.clear()
    return size


def _part_of_text(csv: Path, rows: int, longest: int, place: Place, made: Path) -> _Made:
    kinds = ", ".join(f"{literal(column.name)}: 'VARCHAR'" for column in place.columns)
    longest = max(2 << 20, 2 * longest)
    with closing(duck(threads=1)) as conn:
        conn.execute(
            f"""CREATE TABLE sent AS SELECT * FROM read_csv({literal(str(csv))}, columns = {{{kinds}}}, header = false,
                auto_detect = false, delim = ',', quote = '"', escape = '"', nullstr = '', allow_quoted_nulls = false, new_line = '\\n',
                max_line_size = {longest}, buffer_size = {max(32 << 20, 2 * longest)})"""
        )
        was = _sum(conn, "sent", [column.sent for column in place.columns])
        if was[0] != rows:
            raise ArchiveError(f"{rows:,} rows were sent, and {was[0]:,} were read", "Nothing is dropped.")
        typed = [column.typed for column in place.columns]
        return _part(conn, typed, was, [column.kept for column in place.columns], place, made)


def _part_of_range(connections: Connections, query: str, snapshot: str, place: Place, made: Path) -> _Made | None:
    names = [identifier(column.name) for column in place.columns]
    cast = [f"{name}::{column.parquet}" for name, column in zip(names, place.columns, strict=True)]
    with closing(duck(threads=1)) as conn:
        if not binary.take(conn, connections, query, snapshot, place.columns):
            return None
        typed = [f"{value} AS {name}" for value, name in zip(cast, names, strict=True)]
        return _part(conn, typed, _sum(conn, "sent", cast), names, place, made)


def _part(conn: Any, typed: list[str], was: tuple[int, int], kept: list[str], place: Place, made: Path) -> _Made:
    """Write table `sent` as a file, and read it back. `typed` are its values in the file, `kept` those that give the sum `was`."""
    conn.execute(f"COPY (SELECT {', '.join(typed)} FROM sent) TO {literal(str(made))} ({WRITTEN})")
    conn.execute("DROP TABLE sent")
    with made.open("rb") as file:
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
    part = Part(made.name, was[0], made.stat().st_size, sha256)
    name = f"{place.directory}/{made.name}"
    place.store.publish(made, name)
    with place.store.opened(name, sha256, part.bytes) as path:
        ends = _ends(place.source.id, place.source.time)
        count, total, *extent = conn.execute(
            f"SELECT {_SUM.format(', '.join(kept))}, {ends} FROM {scan([path])}"
        ).fetchone()
        if (int(count), int(total)) != was:
            raise ArchiveError(f"{made.name}, read back, is not what the server sent", "Nothing is dropped.")
        summed = summary.begin(conn, place.source.name, path, made.with_name(f"{made.name}.summary"))
        return _Made(part, Extent(*extent), summed)


# The number of rows, and the sum of their hashes: the same in any order.
_SUM = "count(*), coalesce(sum(hash({})), 0)"


def _sum(conn: Any, table: str, values: list[str]) -> tuple[int, int]:
    row = conn.execute(f"SELECT {_SUM.format(', '.join(values))} FROM {table}").fetchone()
    return int(row[0]), int(row[1])


def _ends(id_: str, time: str) -> str:
    within = f"FILTER (WHERE isfinite({time}))"
    ids = [f"{end}({id_}) {within}::VARCHAR" for end in ("min", "max")]
    return ", ".join(ids + [_moment(f"{end}({time}) {within}") for end in ("min", "max")])


def _moment(time: str) -> str:
    """Return a time in ISO 8601, which has four digits for the year. An earlier or later time becomes the first or the last one."""
    early, late = "0001-01-01 00:00:00+00", "9999-12-31 23:59:59.999999+00"
    within = f"CASE WHEN {time} < '{early}' THEN '{early}'::TIMESTAMPTZ WHEN {time} > '{late}' THEN '{late}'::TIMESTAMPTZ ELSE {time} END"
    return f"strftime({within}, '%Y-%m-%dT%H:%M:%S.%f+00:00')"


def extent_of(conn: Any, table: str, key: tuple[str, str]) -> Extent:
    """Return what ids and times a table of DuckDB holds."""
    return Extent(*conn.execute(f"SELECT {_ends(*key)} FROM {table}").fetchone())
