"""The rows of one session out of all archives: the files that hold them are written again without them, and an audit row says so."""

from __future__ import annotations

import hashlib
import json
import uuid
from contextlib import ExitStack, closing, suppress
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors

from pgvigil.archives import catalogue, duck, explained, literal, scan, summary, write
from pgvigil.archives.catalogue import Archive
from pgvigil.archives.manifest import Manifest, Part
from pgvigil.archives.parquet import WRITTEN, Extent, extent_of
from pgvigil.archives.source import SOURCES
from pgvigil.archives.store import Store
from pgvigil.archives.units import Unit
from pgvigil.database import Target
from pgvigil.errors import ArchiveError, LockedError, PreconditionError, UsageError
from pgvigil.owner import Owner, execute, rows
from pgvigil.progress import Reporter
from pgvigil.text import counted

JOB = "archive_files"  # whose lock is taken: it writes the same files


def erase(target: Target, session: str, reason: str, log: Reporter, *, moved_to: str | None = None) -> str:
    """Erase a session from the archives; return what was done, in words.

    Raise PreconditionError for a session under legal hold, and where its rows are still in the database: they would be
    archived again.
    """
    try:
        session = str(uuid.UUID(session))
    except ValueError as error:
        raise UsageError(f"{session!r} is not the id of a session", "Give a UUID, as in pgvigil.archives.") from error
    if not reason.strip():
        raise UsageError("the reason is empty", "Say why it is erased, for the audit: --reason 'GDPR request 4711'.")
    with catalogue.connect(target, "erase") as conn:
        owner = write.owner_of_archives(conn)
        try:
            owner.execute(conn, f"SELECT pgvigil.require_no_hold({literal(session)})")
        except errors.ObjectNotInPrerequisiteState as error:
            raise PreconditionError(error.diag.message_primary or str(error), error.diag.message_hint or "") from error
        [(run_id,)] = rows(conn, "run_id bigint", "SELECT pgvigil.begin_job(%s, false)", (JOB,))
        if run_id is None:
            raise LockedError(f"job {JOB} is running in another session", "Wait for it: pgvigil maintain status.")
        said = None
        try:
            with explained():
                return _erase(conn, owner, session, reason, log, moved_to)
        except BaseException as error:
            said = f"erasure of a session: {error}"
            raise
        finally:
            with suppress(psycopg.Error):
                report = "SELECT pgvigil.report_job(%s, 0, %s, %s, true, NULL)"
                execute(conn, report, (run_id, "erased a session from the archives", said))
                execute(conn, "SELECT pgvigil.release_job(%s)", (run_id,))


def _erase(
    conn: psycopg.Connection, owner: Owner, session: str, reason: str, log: Reporter, moved_to: str | None
) -> str:
    write.clean(conn, owner, moved_to, log)
    owner.execute(conn, "SELECT pgvigil.find_dropped_partitions()")
    if _has_rows(conn, "pgvigil.executions_to_archive", "query_executions", session):
        raise PreconditionError(
            "query executions of the session wait for their archive in pgvigil.executions_to_archive",
            f"Run pgvigil maintain run {JOB}, then this again.",
        )
    held = []
    for archive in catalogue.read(conn):
        store = catalogue.store_of(archive, moved_to)
        log.progress(f"looking into {archive.path}")
        made = catalogue.manifest_of(store, archive)
        if found := _count(store, archive, made, session):
            if archive.state == "copy" and _is_still_there(conn, archive, session):
                raise PreconditionError(
                    f"{archive.source} has {counted(found, 'row')} of the session in {archive.partition or 'the database'} that are archived but not dropped yet",
                    _remedy(archive, session),
                )
            held.append((store, archive, made, found))
    if not held:
        return "the archives hold no row of the session"
    erased = 0
    rewritten: list[dict[str, Any]] = []
    with ExitStack() as begun:
        for store, archive, made, found in held:
            log.progress(f"rewriting {archive.path}")
            unit = Unit(archive.source, "", "", archive.from_time, archive.to_time, archive.partition)
            archive_id, directory, stem = begun.enter_context(write.begun(conn, owner, store, unit))
            new = _without(store, archive, made, session, directory, stem)
            if new.rows != made.rows - found:
                raise ArchiveError(f"{archive.path}, written again, has {new.rows:,} rows", "Nothing was erased.")
            write.publish(store, f"{directory}/{stem}.json", new)
            erased += found
            rewritten.append({
                "id": archive_id, "sha256": hashlib.sha256(new.dump()).hexdigest(), "rows": new.rows, "bytes": new.size,
                "fingerprint": 0, "min_id": new.min_id, "max_id": new.max_id, "min_time": new.min_time, "max_time": new.max_time,
                "instead_of": archive.id,
            })  # fmt: skip
        values = ", ".join([literal(session), _sql(reason), str(erased), _sql(json.dumps(rewritten)) + "::jsonb"])
        owner.execute(conn, f"SELECT pgvigil.complete_erasure({values})")
    write.clean(conn, owner, moved_to, log)
    return f"erased {counted(erased, 'row')} from {counted(len(held), 'archive')}"


def _is_still_there(conn: psycopg.Connection, archive: Archive, session: str) -> bool:
    """Return whether the database has rows of the session that the job would archive again."""
    if archive.partition is None:
        return _has_rows(conn, "pgvigil.deleted_sessions", archive.source, session)
    query = "SELECT partition_oid::regclass::text FROM pgvigil.partitions WHERE parent_table = %s AND partition = %s"
    found = rows(conn, "name text", query, (archive.source, archive.partition))
    return any(_has_rows(conn, name, archive.source, session) for (name,) in found)


def _has_rows(conn: psycopg.Connection, table: str, source: str, session: str) -> bool:
    return rows(conn, "n integer", f"SELECT 1 FROM {table} WHERE {_is_of(source, session)} LIMIT 1") != []


def _sql(text: str) -> str:
    from psycopg import sql

    return sql.quote(text)


def _remedy(archive: Archive, session: str) -> str:
    if archive.partition is None:
        return f"DELETE FROM pgvigil.deleted_sessions WHERE session_id = '{session}'; then this again."
    return f"DELETE FROM {archive.source} WHERE {_is_of(archive.source, session)}; then this again."


# In the SQL of PostgreSQL and of DuckDB. Only these two are text, which an application may spell in capitals.
_OF_SESSION = {"query_executions": "lower(conversation_id)", "system_metrics": "lower(labels ->> 'session_id')"}


def _is_of(source: str, session: str) -> str:
    """The condition on rows of a session."""
    return f"{_OF_SESSION.get(source, 'session_id')} = {literal(session)}"


def _count(store: Store, archive: Archive, made: Manifest, session: str) -> int:
    with catalogue.opened(store, archive, made) as files, closing(duck()) as conn:
        if not files:
            return 0
        row = conn.execute(
            f"SELECT count(*) FROM {scan(files)} WHERE coalesce({_is_of(made.source, session)}, false)"
        ).fetchone()
        return int(row[0]) if row else 0


def _without(store: Store, archive: Archive, made: Manifest, session: str, directory: str, stem: str) -> Manifest:
    """The files of an archive without a session, under a new name."""
    source = SOURCES[made.source]
    parts: list[Part] = []
    extent = Extent()
    begun: list[Path] = []
    with catalogue.opened(store, archive, made) as files, store.workshop(stem) as work, closing(duck()) as conn:
        for number, path in enumerate(files, 1):
            name = f"{stem}-{number:05}.parquet"
            new = work / name
            kept = f"SELECT * FROM {scan([path])} WHERE NOT coalesce({_is_of(made.source, session)}, false)"
            conn.execute(f"COPY ({kept}) TO {literal(str(new))} ({WRITTEN})")
            row = conn.execute(f"SELECT count(*) FROM {scan([new])}").fetchone()
            with new.open("rb") as file:
                part = Part(
                    name, int(row[0]) if row else 0, new.stat().st_size, hashlib.file_digest(file, "sha256").hexdigest()
                )
            extent |= extent_of(conn, scan([new]), (source.id, source.time))
            if summed := summary.begin(conn, made.source, new, work / f"{name}.summary"):
                begun.append(summed)
            store.publish(new, f"{directory}/{name}")
            parts.append(part)
        whole = summary.finish(conn, begun, work / f"{stem}.summary")
        if whole:
            store.publish(work / whole.file, f"{directory}/{whole.file}")
    values = {**made.__dict__, "parts": parts, "summary": whole, "rows": sum(part.rows for part in parts)}
    return Manifest(**{**values, **extent.__dict__})
