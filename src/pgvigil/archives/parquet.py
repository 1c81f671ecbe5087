"""Rows of a COPY into Parquet files, a part at a time, and back: what is in the file is compared with what PostgreSQL sent."""

from __future__ import annotations

import hashlib
import io
import os
from collections import deque
from collections.abc import Generator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from itertools import cycle
from pathlib import Path
from typing import Any

import psycopg
from psycopg import pq

from pgvigil.archives import duck, literal, scan, summary
from pgvigil.archives.manifest import Part
from pgvigil.archives.source import Column, Source
from pgvigil.archives.store import Store
from pgvigil.errors import ArchiveError

# Of COPY's text: a part is read and written in memory, while the next one comes from the server.
PART_BYTES = 64 << 20
# Parts that are written side by side. DuckDB in one thread each: two threads for one part take 15 % more time of the processors.
WRITERS = 2
_GATHERED = 1 << 20  # bytes of rows, before they are written
WRITTEN = "FORMAT parquet, COMPRESSION zstd, COMPRESSION_LEVEL 1, PARQUET_VERSION V2"


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


def write(
    reader: psycopg.Connection, query: str, columns: list[Column], source: Source, store: Store,
    directory: str, stem: str, *, part_bytes: int = PART_BYTES,
) -> Written:  # fmt: skip
    """Write the rows of a COPY query as the files of an archive.

    Raises ArchiveError where a file, read back, is not what the server sent.
    """
    parts: list[Part] = []
    extent = Extent()
    waiting: deque[Future[tuple[Part, Extent, Path | None]]] = deque()
    begun: list[Path] = []

    def take() -> None:
        nonlocal extent
        part, found, summed = waiting.popleft().result()
        parts.append(part)
        extent |= found
        if summed:
            begun.append(summed)

    with store.workshop(stem) as work, ThreadPoolExecutor(WRITERS) as pool:
        places = [work / f"{number}.csv" for number in range(WRITERS + 1)]
        with closing(_parts(reader, query, places, part_bytes)) as sent:
            for number, (csv, rows, longest) in enumerate(sent, 1):
                name = f"{stem}-{number:05}.parquet"
                waiting.append(pool.submit(_part, csv, rows, longest, columns, source, store, directory, name))
                if len(waiting) > WRITERS:  # the next part takes the place of the first of them
                    take()
        while waiting:
            take()
        summed = _summary(begun, work / f"{stem}.summary", store, directory)
    return Written(parts, extent, summed)


def _summary(begun: list[Path], made: Path, store: Store, directory: str) -> Part | None:
    with closing(duck(threads=1)) as conn:
        part = summary.finish(conn, begun, made)
    if part:
        store.publish(made, f"{directory}/{part.file}")
        with store.opened(f"{directory}/{part.file}", part.sha256, part.bytes):
            pass  # it is there, as it was written
    return part


def _parts(
    reader: psycopg.Connection, query: str, places: list[Path], part_bytes: int
) -> Generator[tuple[Path, int, int], None, None]:
    """Files with the rows of a COPY, how many, and the bytes of the longest one. Each place is written over in its turn.

    By libpq itself: a Copy of psycopg waits for the socket at each row, and takes three times as long. Rows are gathered before they
    are written, and files are kept: a third of the time went to calls of write, and to pages for new files.
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
                    size += _put(file, gathered)
            size += _put(file, gathered)
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


def _put(file: io.FileIO, gathered: bytearray) -> int:
    """Write all of it, and empty it. Returns how many bytes they were."""
    size = len(gathered)
    with memoryview(gathered) as rest:
        written = 0
        while written < size:
            written += file.write(rest[written:])
    gathered.clear()
    return size


def _part(
    csv: Path, rows: int, longest: int, columns: list[Column], source: Source, store: Store, directory: str, name: str
) -> tuple[Part, Extent, Path | None]:  # fmt: skip
    made = csv.with_name(name)
    kinds = ", ".join(f"{literal(column.name)}: 'VARCHAR'" for column in columns)
    longest = max(2 << 20, 2 * longest)
    with closing(duck(threads=1)) as conn:
        conn.execute(
            f"""CREATE TABLE sent AS SELECT * FROM read_csv({literal(str(csv))}, columns = {{{kinds}}}, header = false,
                auto_detect = false, delim = ',', quote = '"', escape = '"', nullstr = '', allow_quoted_nulls = false, new_line = '\\n',
                max_line_size = {longest}, buffer_size = {max(32 << 20, 2 * longest)})"""
        )
        was = _sum(conn, "sent", [column.sent for column in columns])
        if was[0] != rows:
            raise ArchiveError(f"{rows:,} rows were sent, and {was[0]:,} were read", "Nothing is dropped.")
        typed = ", ".join(column.typed for column in columns)
        conn.execute(f"COPY (SELECT {typed} FROM sent) TO {literal(str(made))} ({WRITTEN})")
        conn.execute("DROP TABLE sent")
        with made.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        part = Part(name, rows, made.stat().st_size, sha256)
        store.publish(made, f"{directory}/{name}")
        with store.opened(f"{directory}/{name}", sha256, part.bytes) as path:
            kept = scan([path])
            if _sum(conn, kept, [column.kept for column in columns]) != was:
                raise ArchiveError(f"{name}, read back, is not what the server sent", "Nothing is dropped.")
            summed = summary.begin(conn, source.name, path, csv.with_name(f"{name}.summary"))
            return part, extent_of(conn, kept, (source.id, source.time)), summed


def _sum(conn: Any, table: str, values: list[str]) -> tuple[int, int]:
    """The number of rows, and the sum of their hashes: the same in any order."""
    row = conn.execute(f"SELECT count(*), coalesce(sum(hash({', '.join(values)})), 0) FROM {table}").fetchone()
    return int(row[0]), int(row[1])


def extent_of(conn: Any, table: str, key: tuple[str, str]) -> Extent:
    """Return what ids and times a table of DuckDB holds."""
    id_, time = key
    row = conn.execute(
        f"""SELECT min({id_})::VARCHAR, max({id_})::VARCHAR, strftime(min({time}), '%Y-%m-%dT%H:%M:%S.%f+00:00'),
                   strftime(max({time}), '%Y-%m-%dT%H:%M:%S.%f+00:00') FROM {table} WHERE isfinite({time})"""
    ).fetchone()
    return Extent(*row)
