"""The catalogue of archives, and the check that they are whole."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import psycopg
from psycopg import errors

from pgvigil import database
from pgvigil.archives import duck, identifier, scan, summary
from pgvigil.archives.manifest import Manifest, Part, load
from pgvigil.archives.parquet import extent_of
from pgvigil.archives.source import SOURCES
from pgvigil.archives.store import Store, open_store, stored
from pgvigil.database import Target
from pgvigil.errors import ArchiveError, PgvigilError, PreconditionError
from pgvigil.owner import rows
from pgvigil.shipped import require_shipped


@dataclass(frozen=True)
class Archive:
    """A row of pgvigil.archives. `state` is "file" (the rows are only there), "copy" (they are in the database as well), "unfinished"
    or "replaced".
    """

    id: int
    source: str
    partition: str | None
    from_time: datetime
    to_time: datetime
    location: str
    path: str
    sha256: str | None
    rows: int | None
    bytes: int | None
    min_id: str | None
    max_id: str | None
    min_time: datetime | None
    max_time: datetime | None
    completed_at: datetime | None
    dropped_at: datetime | None
    state: str

    @property
    def directory(self) -> str:
        """Return the directory of its files, from its location."""
        return self.path.rpartition("/")[0]


_LIST = """
SELECT a.id, a.source, a.partition, a.from_time, a.to_time, a.location, a.path, a.sha256, a.rows, a.bytes, a.min_id, a.max_id,
       CASE WHEN isfinite(a.min_time) THEN a.min_time END AS min_time, CASE WHEN isfinite(a.max_time) THEN a.max_time END AS max_time,
       a.completed_at, a.dropped_at,
       CASE WHEN a.completed_at IS NULL THEN 'unfinished' WHEN a.replaced_at IS NOT NULL THEN 'replaced'
            WHEN EXISTS (SELECT 1 FROM pgvigil.archives_to_read r WHERE r.id = a.id) THEN 'file' ELSE 'copy' END AS state
FROM pgvigil.archives a ORDER BY a.source, a.from_time, a.id"""
_COLUMNS = (
    "id bigint, source text, partition text, from_time timestamptz, to_time timestamptz, location text, path text, sha256 text, rows bigint,"
    " bytes bigint, min_id text, max_id text, min_time timestamptz, max_time timestamptz, completed_at timestamptz, dropped_at timestamptz,"
    " state text"
)


def connect(target: Target, purpose: str) -> psycopg.Connection:
    """Connect with times in UTC.

    Raise ConnectError where what is called and read is not what pgvigil shipped, see `shipped`.
    """
    conn = database.connect(target, f"archive ({purpose})")
    try:
        require_shipped(conn)
        conn.execute("SET TimeZone = 'UTC'")
    except BaseException:
        conn.close()
        raise
    return conn


def read(conn: psycopg.Connection) -> list[Archive]:
    """Return all archives. Raise PreconditionError where the database knows none, or who asks may not see them."""
    try:
        return [Archive(*row) for row in rows(conn, _COLUMNS, _LIST)]
    except (errors.UndefinedTable, errors.InvalidSchemaName) as error:
        raise PreconditionError(
            "this database knows no archives: it is not migrated", "Run: pgvigil migrate"
        ) from error
    except errors.InsufficientPrivilege as error:
        raise PreconditionError(
            "this role may not see the archives", "Let an administrator run: GRANT pgvigil_reader TO the role."
        ) from error


def store_of(archive: Archive, moved_to: str | None) -> Store:
    """Return where the files of an archive are."""
    return open_store(moved_to) if moved_to else stored(archive.location)


def manifest_of(store: Store, archive: Archive) -> Manifest:
    """Return the manifest that was written. Raise ArchiveError for any other one."""
    with store.opened(archive.path, archive.sha256 or ""):
        made = load(archive.path, store.text(archive.path))
    if (made.source, made.rows) != (archive.source, archive.rows):
        raise ArchiveError(f"{archive.path} is of another archive", "Restore it from a copy: it is not read.")
    return made


@contextmanager
def opened(store: Store, archive: Archive, made: Manifest) -> Iterator[list[Path]]:
    """Yield the files of an archive, each compared with its SHA-256.

    Raise ArchiveError before the first row is read.
    """
    from contextlib import ExitStack

    with ExitStack() as stack:
        yield [
            stack.enter_context(store.opened(f"{archive.directory}/{part.file}", part.sha256, part.bytes))
            for part in made.parts
        ]


@contextmanager
def opened_summary(store: Store, archive: Archive, part: Part) -> Iterator[Path]:
    """Yield the summary of an archive, compared with its SHA-256."""
    with store.opened(f"{archive.directory}/{part.file}", part.sha256, part.bytes) as path:
        yield path


@dataclass(frozen=True)
class Verified:
    """The result of the check of an archive; `fault` is "" if it is whole."""

    archive: Archive
    fault: str = ""


def verify(target: Target, moved_to: str | None = None) -> tuple[list[Verified], list[str]]:
    """Read all files of all archives. Return what was found, and the files that no archive has."""
    with connect(target, "verify") as conn:
        archives = read(conn)
    found = []
    stores: dict[str, Store] = {}
    ours: set[str] = set()
    for archive in archives:
        if archive.state not in ("file", "copy"):
            continue
        try:
            place = moved_to or archive.location
            store = stores[place] if place in stores else stores.setdefault(place, store_of(archive, moved_to))
            ours.add(archive.path)
            ours.update(_require_whole(store, archive))
        except PgvigilError as error:
            found.append(Verified(archive, error.message))
        except OSError as error:
            found.append(Verified(archive, f"{archive.path} cannot be read: {error.strerror or error}"))
        else:
            found.append(Verified(archive))
    # Whose manifest says nothing any more, and who has none yet, has all files that are called like it.
    whole = {one.archive.id for one in found if not one.fault}
    stems = tuple(archive.path.removesuffix(".json") for archive in archives if archive.id not in whole)
    return found, [
        f"{store.location}/{name}"
        for store in stores.values()
        for name in store.names()
        if name not in ours and not (stems and name.startswith(stems))
    ]


def _require_whole(store: Store, archive: Archive) -> list[str]:
    """Read all of an archive; return the names of its files. Raise ArchiveError where one is not as it was written."""
    made = manifest_of(store, archive)
    source = SOURCES[made.source]
    with opened(store, archive, made) as files, closing(duck()) as conn:
        for path, part in zip(files, made.parts, strict=True):
            kept = scan([path])
            rows = conn.execute(f"SELECT count(*) FROM {kept}").fetchone()
            if rows != (part.rows,):
                raise ArchiveError(f"{part.file} has not the {part.rows:,} rows of its manifest", "")
        if files:
            whole = scan(files)
            shown = conn.execute(f"SELECT * FROM {whole} LIMIT 0").description or []
            if [column[0] for column in shown] != list(made.columns):
                raise ArchiveError(f"{archive.path}: the files have other columns than the manifest", "")
            extent = extent_of(conn, whole, (identifier(source.id), identifier(source.time)))
            if (extent.min_time, extent.max_time) != (made.min_time, made.max_time):
                raise ArchiveError(f"{archive.path}: the files have other times than the manifest", "")
            if made.summary:
                with opened_summary(store, archive, made.summary) as path:
                    if not summary.is_of(conn, path, files):
                        raise ArchiveError(f"{made.summary.file} says other numbers than the rows", "")
    return [f"{archive.directory}/{part.file}" for part in made.files]
