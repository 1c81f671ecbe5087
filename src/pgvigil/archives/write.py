"""Write archives: the work of job archive_files.

An archive is a row of pgvigil.archives that begins without an end, files under names of its own, a manifest, and the
end of the row. An interrupted run leaves rows without an end, by which the next run finds and removes their files. So no
file counts that is not listed, and there are never two for the same rows. Rows are written with the owner's rights: a
role that may only run jobs cannot invent one.
"""

from __future__ import annotations

import hashlib
import secrets
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import psycopg
from psycopg import sql

from pgvigil import __version__, database
from pgvigil.archives import binary, duck, identifier, parquet, units
from pgvigil.archives.manifest import Manifest
from pgvigil.archives.source import SOURCES, Column, columns, copy_query, fingerprint_query
from pgvigil.archives.store import Store, open_store, remove_made
from pgvigil.archives.units import Unit
from pgvigil.backup.create import origin
from pgvigil.errors import ArchiveError, JobError, PgvigilError, PreconditionError
from pgvigil.migration import ledger
from pgvigil.owner import Owner, confine, confined, owner_of_table, rows
from pgvigil.text import counted, quoted

TABLE = "pgvigil.archives"

Did = Callable[[int, str | None], None]


def owner_of_archives(conn: psycopg.Connection) -> Owner:
    """Return whose rights archives are written with. Raise PreconditionError for who does not have them."""
    owner = owner_of_table(conn, TABLE)
    if owner is None:
        raise PreconditionError("this database knows no archives: it is not migrated", "Run: pgvigil migrate")
    may = conn.execute("SELECT pg_has_role(current_user, %s, 'MEMBER')", (owner.name,)).fetchone()
    if may != (True,):
        role = sql.Identifier(conn.info.user).as_string(conn)
        raise PreconditionError(
            f"role {role} may not write archives: only the owner of the tables or a superuser may, because what is archived is dropped",
            f"Run this as {owner.name}, or as a member of that role.",
        )
    return owner


def archive_all(conn: psycopg.Connection, location: str | None, did: Did, progress: Callable[[str], None]) -> None:
    """Archive what waits for it.

    `did` is called with the rows of each archive. Raise JobError, after all of them, if some failed.
    """
    if rows(conn, "keeps boolean", "SELECT pgvigil.keeps_archive()") != [(True,)]:
        did(0, "no retention policy that is in use has keep_archive")
        return
    owner = owner_of_archives(conn)
    if not location:
        raise JobError(
            "no place for archives is given",
            "Give a directory or URL: --archive-to, or the environment variable PGVIGIL_ARCHIVE.",
        )
    duck().close()
    store = open_store(location)
    database.require_more_sessions(conn, 1, "job archive_files")
    clean(conn, owner, store.location, lambda note: did(0, note))
    owner.execute(conn, "SELECT pgvigil.find_dropped_partitions()")
    with ExitStack() as stack:
        writer = _Writer(conn, owner, store, stack)
        waiting = [*units.partitions(conn), *units.executions(writer.reader), *units.deleted_sessions(conn)]
        failures = writer.write(waiting, did, progress)
    clean(conn, owner, store.location, lambda note: did(0, note))
    if failures:
        raise JobError(
            f"{len(failures)} of {len(waiting)} could not be archived: {failures[0]}", "The next run tries them again."
        )


@dataclass(frozen=True)
class _Begun:
    """An archive that is being written. `wait` returns how many rows the server counts, their fingerprint, and the files."""

    unit: Unit
    id: int
    place: parquet.Place
    wait: Callable[[], tuple[int, Any, parquet.Written]]
    reading: ExitStack
    whole: ExitStack


class _Writer:
    """A writer of archives, two at a time: while one is flushed to the disk and recorded, the rows of the next are read.

    The statements on the job's connection all come from the thread of the caller. The threads that write files are the same for both
    archives: their number bounds the memory.
    """

    def __init__(self, conn: psycopg.Connection, owner: Owner, store: Store, stack: ExitStack) -> None:
        self._conn, self._owner, self._store, self._stack = conn, owner, store, stack
        self._readers: list[psycopg.Connection] = []
        self.reader = self._add_reader()
        self._free = [self.reader]
        self._connections = stack.enter_context(closing(binary.Connections(conn, parquet.WRITERS)))
        self._pool = stack.enter_context(ThreadPoolExecutor(parquet.WRITERS))

    def write(self, waiting: list[Unit], did: Did, progress: Callable[[str], None]) -> list[str]:
        """Archive them. `did` is called with the rows of each. Returns which failed, and why."""
        failures: list[str] = []
        begun_: deque[_Begun] = deque()

        @contextmanager
        def noted(unit: Unit) -> Iterator[None]:
            try:
                yield
            except (PgvigilError, psycopg.Error, OSError) as error:
                if any(one.closed for one in (self._conn, *self._readers)) or database.is_lost(error):
                    raise
                said = error.message if isinstance(error, PgvigilError) else " ".join(str(error).split())
                failures.append(f"{unit}: {said}")
                did(0, f"not archived: {failures[-1]}")

        def end() -> None:
            one = begun_.popleft()
            with noted(one.unit):
                count = self._end(one)
                did(count, f"archived {one.unit} ({counted(count, 'row')})")

        with ExitStack() as unfinished:
            for number, unit in enumerate(waiting, 1):
                while begun_ and not self._has_reader():
                    end()
                progress(f"archiving {unit} ({number} of {len(waiting)})")
                with noted(unit):
                    begun_.append(self._begin(unit))
                    unfinished.push(begun_[-1].whole)
            while begun_:
                end()
        return failures

    def _begin(self, unit: Unit) -> _Begun:
        self._require_new(unit)
        with ExitStack() as whole:
            archive_id, directory, stem = whole.enter_context(begun(self._conn, self._owner, self._store, unit))
            reading = whole.enter_context(ExitStack())
            reader = self._free.pop()
            reading.callback(self._free.append, reader)
            reading.enter_context(reader.transaction())
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            if not confined(reader):  # which makes a function of its own
                reader.execute("SET TRANSACTION READ ONLY")
            of = columns(reader, unit.table, leave=("place",) if unit.source == "query_executions" else ())
            place = parquet.Place(SOURCES[unit.source], of, self._store, directory, stem)
            wait = self._begin_rows(reader, reading, unit, place)
            return _Begun(unit, archive_id, place, wait, reading, whole.pop_all())

    def _require_new(self, unit: Unit) -> None:
        """Raise ArchiveError where rows of an earlier archive have been inserted again: they would be archived and counted twice."""
        kind = "bigint" if unit.source == "query_executions" else "uuid"
        query = f"""SELECT a.path FROM pgvigil.archives_to_read a
                    WHERE a.source = %s AND EXISTS (SELECT 1 FROM {unit.table.replace("%", "%%")} t
                                                    WHERE t.{unit.key} IN (a.min_id::{kind}, a.max_id::{kind})) LIMIT 1"""
        for (path,) in rows(self._conn, "path text", query, (unit.source,)):
            raise ArchiveError(
                f"it has rows of {path} again, which would be archived twice", "Delete these rows from the table."
            )

    def _begin_rows(
        self, reader: psycopg.Connection, reading: ExitStack, unit: Unit, place: parquet.Place
    ) -> Callable[[], tuple[int, Any, parquet.Written]]:
        def count() -> tuple[int, Any, bool]:
            query = fingerprint_query(unit.table, unit.key, unit.condition, binary.fits(place.columns))
            [found] = rows(reader, "rows bigint, fingerprint numeric, fits boolean", query.as_string(reader))
            return tuple(found)

        def as_text() -> parquet.Written:
            query = copy_query(place.columns, f"ONLY {unit.table}", unit.condition)
            return parquet.write(self._pool, reader, query, place)

        if owner := confined(reader):
            number, fingerprint, _ = count()  # first: it locks what the owner may read against a change
            made = parquet.write(self._pool, reader, _confined_copy(reader, owner, unit, place.columns), place)
            return lambda: (number, fingerprint, made)
        queries = binary.queries(reader, place.columns, unit.table, unit.condition, parquet.WRITERS)
        snapshot = self._connections.snapshot(reader) if queries else None
        if snapshot is None:
            number, fingerprint, _ = count()
            made = as_text()
            return lambda: (number, fingerprint, made)
        writing = reading.enter_context(ExitStack())
        wait = writing.enter_context(parquet.ranges(self._pool, self._connections, queries, snapshot, place))
        number, fingerprint, fits = count()

        def waited() -> tuple[int, Any, parquet.Written]:
            with suppress(*binary.refusals()), writing:
                if fits:
                    return number, fingerprint, wait()
            place.store.remove(place.directory, place.stem)
            return number, fingerprint, as_text()

        return waited

    def _end(self, one: _Begun) -> int:
        with one.whole:
            with one.reading:
                number, fingerprint, written = one.wait()
            if written.rows != number:
                raise ArchiveError(
                    f"{one.unit} has {number:,} rows, and {written.rows:,} were read back", "Nothing is dropped."
                )
            path = f"{one.place.directory}/{one.place.stem}.json"
            complete(
                self._conn, self._owner, self._store, one.unit, one.id, path, written, one.place.columns, fingerprint
            )
        return int(number)

    def _add_reader(self) -> psycopg.Connection:
        reader = self._stack.enter_context(database.beside(self._conn))
        if confined(self._conn):
            confine(reader, self._owner.name)
        reader.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET client_encoding = 'UTF8'")
        self._readers.append(reader)
        return reader

    def _has_reader(self) -> bool:
        """Return whether another archive can be begun. It is not where the driver has no connections: then one is read at a time."""
        if not self._free and len(self._readers) == 1 and self._connections.are_open:
            with suppress(psycopg.Error, PgvigilError):
                self._free.append(self._add_reader())
        return bool(self._free)


# ── One archive ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _confined_copy(reader: psycopg.Connection, owner: Owner, unit: Unit, of: list[Column]) -> str:
    """Return the COPY of a unit that a superuser may run.

    The COPY of a table runs no code. That of a query may run the owner's: the server first puts aside what it reads.
    """
    plain = """SELECT c.relkind = 'r' AND NOT EXISTS (SELECT FROM pg_attribute a WHERE a.attrelid = c.oid AND a.attgenerated <> '')
               FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner WHERE c.oid = %s::regclass AND r.rolname = %s"""
    names = [identifier(column.name) for column in of]
    if not unit.condition and reader.execute(plain, (unit.table, owner.name)).fetchone() == (True,):
        return f"COPY {unit.table} ({', '.join(names)}) TO STDOUT (FORMAT csv)"
    shown = ", ".join(f"CASE WHEN {name} IS NOT NULL THEN concat({name}) END" for name in names)
    typed = ", ".join(f"c{number} text" for number in range(len(names)))
    query = owner.reading(reader, typed, f"SELECT {shown} FROM ONLY {unit.table}{unit.condition}")
    return f"COPY ({query}) TO STDOUT (FORMAT csv)"


@contextmanager
def begun(conn: psycopg.Connection, owner: Owner, store: Store, unit: Unit) -> Iterator[tuple[int, str, str]]:
    """A new row without an end; yields its number, and the directory and the stem of its files. Removed if it comes to no end."""
    begin = unit.from_time.astimezone(UTC)
    directory = f"table={SOURCES[unit.source].directory}/year={begin:%Y}/month={begin:%m}/day={begin:%d}"
    stem = f"{begin:%Y%m%dT%H%M}-{unit.to_time.astimezone(UTC):%Y%m%dT%H%M}-{secrets.token_hex(6)}"
    values = [
        unit.source, unit.partition, unit.oid, unit.from_time, unit.to_time, store.location, f"{directory}/{stem}.json",
        "/".join(origin(conn)),
    ]  # fmt: skip
    archive_id = owner.scalar(
        conn,
        f"INSERT INTO {TABLE} (source, partition, partition_oid, from_time, to_time, location, path, origin)"
        f" VALUES ({_literals(values)}) RETURNING id",
    )
    try:
        yield int(archive_id or 0), directory, stem
    except BaseException:
        # Where the connection was lost, its end may have been committed all the same: then the next run finds out.
        with suppress(OSError, psycopg.Error, PgvigilError):
            if rows(conn, "n integer", f"SELECT 1 FROM {TABLE} WHERE id = %s AND completed_at IS NULL", (archive_id,)):
                store.remove(directory, stem)
                owner.execute(conn, f"DELETE FROM {TABLE} WHERE id = {int(archive_id or 0)} AND completed_at IS NULL")
        raise


def complete(
    conn: psycopg.Connection, owner: Owner, store: Store, unit: Unit, archive_id: int, path: str,
    written: parquet.Written, of: list[Column], fingerprint: Any,
) -> None:  # fmt: skip
    """Write the manifest, then the end of the row: from then on the archive counts."""
    made = _manifest(conn, unit, written, of)
    publish(store, path, made)
    values = [
        archive_id, hashlib.sha256(made.dump()).hexdigest(), made.rows, made.size, fingerprint,
        made.min_id, made.max_id, made.min_time, made.max_time, unit.upto,
    ]  # fmt: skip
    owner.execute(conn, f"SELECT pgvigil.complete_archive({_literals(values)})")


def publish(store: Store, path: str, made: Manifest) -> None:
    """Write a manifest to its place."""
    stem = path.rpartition("/")[2].removesuffix(".json")
    with store.workshop(stem) as work:
        file = work / "manifest.json"
        file.touch(mode=0o600)
        file.write_bytes(made.dump())
        store.publish(file, path)


def _manifest(conn: psycopg.Connection, unit: Unit, written: parquet.Written, of: list[Column]) -> Manifest:
    identifier, name = origin(conn)
    row = conn.execute("SELECT current_setting('server_version')").fetchone()
    return Manifest(
        source=unit.source, partition=unit.partition,
        from_time=unit.from_time.astimezone(UTC).isoformat(), to_time=unit.to_time.astimezone(UTC).isoformat(),
        rows=written.rows, parts=written.parts, summary=written.summary, columns={column.name: column.type for column in of},
        min_id=written.extent.min_id, max_id=written.extent.max_id,
        min_time=written.extent.min_time, max_time=written.extent.max_time,
        schema_revision=ledger.read(conn).revision or "base", system_identifier=identifier, database=name,
        server_version=row[0] if row else "", pgvigil_version=__version__, written_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )  # fmt: skip


def clean(conn: psycopg.Connection, owner: Owner, chosen: str | None, note: Callable[[str], None]) -> None:
    """Remove the files of archives that came to no end, or were replaced; then their rows. Only one run does this at a time.

    In a copy of a database, files that the original wrote stay: it reads them. `chosen`: the place that this call names.
    """
    ours = "/".join(origin(conn))
    query = f"SELECT id, location, path, origin FROM {TABLE} WHERE completed_at IS NULL OR replaced_at IS NOT NULL ORDER BY id"
    for archive_id, location, path, of in rows(conn, "id bigint, location text, path text, origin text", query):
        try:
            if of == ours:
                remove_made(location, path, chosen)
        except (PgvigilError, OSError) as error:
            said = error.message if isinstance(error, PgvigilError) else str(error)
            note(f"files of an earlier archive stay at {quoted(location)}: {said}")
            continue
        owner.execute(conn, f"DELETE FROM {TABLE} WHERE id = {archive_id}")


def _literals(values: list[Any]) -> str:
    return ", ".join(sql.quote(value.isoformat() if isinstance(value, datetime) else value) for value in values)
