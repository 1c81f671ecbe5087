"""Writes archives: job archive_files.

An archive is a row of pgvigil.archives that begins without an end, files under names of its own, a manifest, and the end of the row.
Whatever is interrupted leaves a row without an end, by which the next run finds and removes its files: there is never a file that
counts and is not listed, nor two for the same rows. Rows are written with the owner's rights: who may only run jobs cannot make one up.
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

import psycopg
from psycopg import sql

from pgvigil import __version__, database
from pgvigil.archives import binary, duck, identifier, parquet
from pgvigil.archives.manifest import Manifest
from pgvigil.archives.source import SOURCES, Column, columns, copy_query, fingerprint_query
from pgvigil.archives.store import Store, open_store, remove_made
from pgvigil.backup.create import origin
from pgvigil.errors import ArchiveError, JobError, PgvigilError, PreconditionError
from pgvigil.migration import ledger
from pgvigil.owner import Owner, confine, confined, owner_of_table, rows
from pgvigil.text import counted, quoted

TABLE = "pgvigil.archives"
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)

Did = Callable[[int, str | None], None]


@dataclass(frozen=True)
class Unit:
    """The rows that become one archive: a partition, or some rows of `table`."""

    source: str
    table: str  # quoted
    key: str
    from_time: datetime
    to_time: datetime
    partition: str | None = None
    oid: int | None = None
    condition: str = ""
    upto: int | None = None

    def __str__(self) -> str:
        return self.partition or f"{self.source} of {self.from_time:%Y-%m-%d}"


def owner_of_archives(conn: psycopg.Connection) -> Owner:
    """Return whose rights archives are written with. Raises PreconditionError for who does not have them."""
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
    """Archive what waits for it. `did` is called with the rows of each archive. Raises JobError, after all of them, if some failed."""
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
    failures: list[str] = []
    with database.beside(conn) as reader, closing(binary.Connections(conn, parquet.WRITERS)) as connections:
        if confined(conn):
            confine(reader, owner.name)
        reader.execute("SET TimeZone = 'UTC'; SET DateStyle = 'ISO'; SET client_encoding = 'UTF8'")
        units = [*_partitions(conn), *_executions(reader), *_deleted_sessions(conn)]
        for number, unit in enumerate(units, 1):
            progress(f"archiving {unit} ({number} of {len(units)})")
            try:
                count = _archive(conn, reader, connections, owner, store, unit)
            except (PgvigilError, psycopg.Error, OSError) as error:
                with suppress(psycopg.Error):
                    reader.rollback()
                if conn.closed or reader.closed or database.is_lost(error):
                    raise
                said = error.message if isinstance(error, PgvigilError) else " ".join(str(error).split())
                failures.append(f"{unit}: {said}")
                did(0, f"not archived: {failures[-1]}")
                continue
            did(count, f"archived {unit} ({counted(count, 'row')})")
    clean(conn, owner, store.location, lambda note: did(0, note))
    if failures:
        raise JobError(
            f"{len(failures)} of {len(units)} could not be archived: {failures[0]}", "The next run tries them again."
        )


# ── What waits ────────────────────────────────────────────────────────────────────────────────────────────────────────


def _partitions(conn: psycopg.Connection) -> list[Unit]:
    found = rows(
        conn,
        "source text, name text, key text, since timestamptz, until timestamptz, partition text, id bigint",
        """SELECT p.source, format('%I.%I', n.nspname, c.relname), p.key::text, p.from_time, p.to_time, p.partition, p.partition_oid::bigint
           FROM pgvigil.partitions_to_archive() p JOIN pg_class c ON c.oid = p.partition_oid JOIN pg_namespace n ON n.oid = c.relnamespace""",
    )
    return [Unit(*row) for row in found]


def _executions(reader: psycopg.Connection) -> list[Unit]:
    """The days of query executions that wait. The lock waits for whoever puts some there: what has an earlier place is there."""
    with reader.transaction():
        reader.execute("LOCK TABLE pgvigil.executions_to_archive IN SHARE MODE")
        [(upto,)] = rows(reader, "place bigint", "SELECT max(place) FROM pgvigil.executions_to_archive")
    if upto is None:
        return []
    days = rows(
        reader,
        "day text",
        """SELECT DISTINCT (greatest(started_at, '1970-01-01Z') AT TIME ZONE 'UTC')::date::text FROM pgvigil.executions_to_archive
           WHERE place <= %s ORDER BY 1""",
        (upto,),
    )
    units = []
    for (day,) in days:
        begin = datetime.fromisoformat(day).replace(tzinfo=UTC)
        units.append(_day("query_executions", "pgvigil.executions_to_archive", "id", "started_at", begin, upto=upto))
    return units


def _deleted_sessions(conn: psycopg.Connection) -> list[Unit]:
    """Days of deletions that are over and not archived, or to which rows have come; those long ago are not looked at again."""
    days = rows(
        conn,
        "day text",
        """SELECT d.day::text FROM (
               SELECT (s.deleted_at AT TIME ZONE 'UTC')::date AS day, count(*) AS rows FROM pgvigil.deleted_sessions s
               WHERE s.deleted_at < date_trunc('day', now(), 'UTC') - interval '1 day' AND s.deleted_at >= '1970-01-01Z'
                 AND s.deleted_at >= coalesce((SELECT max(a.from_time) - interval '31 days' FROM pgvigil.archives a
                                               WHERE a.source = 'deleted_sessions' AND a.completed_at IS NOT NULL), '-infinity')
               GROUP BY 1) d
           WHERE d.rows > coalesce((SELECT max(a.rows) FROM pgvigil.archives a
                                    WHERE a.source = 'deleted_sessions' AND a.completed_at IS NOT NULL AND a.replaced_at IS NULL
                                      AND (a.from_time AT TIME ZONE 'UTC')::date = d.day), 0)
           ORDER BY d.day""",
    )
    begins = (datetime.fromisoformat(day).replace(tzinfo=UTC) for (day,) in days)
    return [_day("deleted_sessions", "pgvigil.deleted_sessions", "session_id", "deleted_at", begin) for begin in begins]


def _day(source: str, table: str, key: str, time: str, begin: datetime, *, upto: int | None = None) -> Unit:
    """A day of rows; the first one there is begins with time itself."""
    since = "-infinity" if begin == _EPOCH else begin.isoformat()
    end = begin + timedelta(days=1)
    condition = f" WHERE {time} >= '{since}' AND {time} < '{end.isoformat()}'"
    if upto is not None:
        condition += f" AND place <= {upto}"
    return Unit(source, table, key, begin, end, condition=condition, upto=upto)


# ── One archive ───────────────────────────────────────────────────────────────────────────────────────────────────────


def _archive(
    conn: psycopg.Connection, reader: psycopg.Connection, connections: binary.Connections, owner: Owner, store: Store, unit: Unit
) -> int:  # fmt: skip
    with begun(conn, owner, store, unit) as (archive_id, directory, stem):
        with reader.transaction():
            reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
            if not confined(reader):  # which makes a function of its own
                reader.execute("SET TRANSACTION READ ONLY")
            of = columns(reader, unit.table, leave=("place",) if unit.source == "query_executions" else ())
            place = parquet.Place(SOURCES[unit.source], of, store, directory, stem)
            rows, fingerprint, written = _written(reader, connections, unit, place)
        if written.rows != rows:
            raise ArchiveError(f"{unit} has {rows:,} rows, and {written.rows:,} were read back", "Nothing is dropped.")
        complete(conn, owner, store, unit, archive_id, f"{directory}/{stem}.json", written, of, fingerprint)
    return int(rows)


def _written(
    reader: psycopg.Connection, connections: binary.Connections, unit: Unit, place: parquet.Place
) -> tuple[int, Any, parquet.Written]:
    """Write the rows of a unit; return how many the server counts, and their fingerprint."""
    found: list[Any] = []

    def count() -> None:
        query = fingerprint_query(unit.table, unit.key, unit.condition, binary.fits(place.columns))
        columns = "rows bigint, fingerprint numeric, fits boolean"
        [found[:]] = rows(reader, columns, query.as_string(reader))

    if owner := confined(reader):
        count()  # first: it locks what the owner may read against a change
        query = _confined_copy(reader, owner, unit, place.columns)
        return found[0], found[1], parquet.write(reader, query, place)
    if ranges := binary.queries(reader, place.columns, unit.table, unit.condition, parquet.WRITERS):
        with connections.reading(reader) as ready:
            if ready:
                try:
                    written = parquet.write_ranges(connections, ranges, place, count)
                    if found[2]:
                        return found[0], found[1], written
                except binary.refusals():
                    pass
                place.store.remove(place.directory, place.stem)
    count()
    query = copy_query(place.columns, f"ONLY {unit.table}", unit.condition)
    return found[0], found[1], parquet.write(reader, query, place)


def _confined_copy(reader: psycopg.Connection, owner: Owner, unit: Unit, of: list[Column]) -> str:
    """Return the COPY of a unit that a superuser may run. The COPY of a table runs no code, and that of a query may run the owner's: what
    it reads, the server first puts aside.
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
