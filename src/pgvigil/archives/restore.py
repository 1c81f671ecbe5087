"""Restore rows of archives into a table of their own, in this database or in a new one."""

from __future__ import annotations

from contextlib import closing, suppress
from datetime import datetime

import psycopg
from psycopg import errors, sql

from pgvigil import scratch_databases
from pgvigil.archives import catalogue, duck, identifier, literal, scan
from pgvigil.archives.catalogue import Archive
from pgvigil.archives.manifest import Manifest
from pgvigil.archives.source import SOURCES
from pgvigil.archives.store import Store
from pgvigil.database import Target
from pgvigil.errors import ArchiveError, PreconditionError, UsageError
from pgvigil.owner import rows
from pgvigil.progress import Reporter


def restore(
    target: Target, source: str, since: datetime | None, until: datetime | None, log: Reporter,
    *, table: str, database: str | None = None, moved_to: str | None = None,
) -> int:  # fmt: skip
    """Make a table with the archived rows of a source whose time is in [since, until); return how many.

    All files are compared with their SHA-256 before the first row is written. Raise ArchiveError, and then leave
    nothing behind.
    """
    if source not in SOURCES:
        raise UsageError(f"there are no archives of {source}", f"Tables: {', '.join(SOURCES)}.")
    with catalogue.connect(target, "restore") as conn:
        chosen = [
            (catalogue.store_of(one, moved_to), one) for one in catalogue.read(conn)
            if one.source == source and one.state in ("file", "copy")
            and (until is None or one.min_time is None or one.min_time < until)
            and (since is None or one.max_time is None or one.max_time >= since)
        ]  # fmt: skip
        if not chosen:
            raise ArchiveError(f"there are no archives of {source} in that time", "See: pgvigil archive list")
        made = [(store, one, catalogue.manifest_of(store, one)) for store, one in chosen]
        if database is None:
            return _into(conn, _named(conn, table), made, since, until, log)
        name = sql.Identifier(database)
        options = scratch_databases.clause(scratch_databases.locale_of(conn, conn.info.dbname))
        try:
            conn.execute(
                sql.SQL("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false {}").format(name, options)
            )
        except errors.DuplicateDatabase as error:
            raise PreconditionError(
                f"database {name.as_string(conn)} is there already", "Give another name."
            ) from error
        try:
            with conn.transaction():  # nobody else is let in for a moment
                conn.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(name))
                conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(name))
            with catalogue.connect(target.at(database), "restore") as own:
                return _into(
                    own,
                    sql.Identifier(*(table.split(".", 1) if "." in table else ("public", table))),
                    made,
                    since,
                    until,
                    log,
                )
        except BaseException:
            with suppress(psycopg.Error):
                conn.execute(sql.SQL("DROP DATABASE {}").format(name))
            raise


def _named(conn: psycopg.Connection, table: str) -> sql.Identifier:
    """The table, in the application's schema where it names none."""
    if "." in table:
        return sql.Identifier(*table.split(".", 1))
    [(schema,)] = rows(conn, "name text", "SELECT pgvigil.application_schema()")
    return sql.Identifier(schema or "public", table)


def _into(
    conn: psycopg.Connection, name: sql.Identifier, made: list[tuple[Store, Archive, Manifest]],
    since: datetime | None, until: datetime | None, log: Reporter,
) -> int:  # fmt: skip
    columns = {column: type_ for _, _, manifest in made for column, type_ in manifest.columns.items()}
    total = 0
    with conn.transaction():
        # A type that this database does not have, such as an enum of pgvigil's in a new one, becomes text. So does one of others that
        # runs code when a value comes in (a domain's CHECK), with the rights of whoever restores.
        types = [
            sql.SQL("{} {}").format(sql.Identifier(column), sql.SQL(_type(conn, type_)))
            for column, type_ in columns.items()
        ]
        try:
            conn.execute(sql.SQL("CREATE TABLE {} ({})").format(name, sql.SQL(", ").join(types)))
        except errors.DuplicateTable as error:
            raise PreconditionError(
                f"table {name.as_string(conn)} is there already", "Give another name: --into."
            ) from error
        for store, archive, manifest in made:
            log.progress(f"reading {archive.path}")
            total += _rows(conn, name, store, archive, manifest, since, until)
    return total


def _type(conn: psycopg.Connection, name: str) -> str:
    """The type of a column in this database, of any length: `character` alone would be one character, and `bit` one bit."""
    row = conn.execute(
        """SELECT coalesce((SELECT format_type(t.oid, -1) FROM pg_type t
                            WHERE t.oid = to_regtype(%s) AND (t.typtype = 'e' OR t.typnamespace = 'pg_catalog'::regnamespace)), 'text')""",
        (name,),
    ).fetchone()
    return str(row[0]) if row else "text"


def _rows(
    conn: psycopg.Connection, table: sql.Identifier, store: Store, archive: Archive, manifest: Manifest,
    since: datetime | None, until: datetime | None,
) -> int:  # fmt: skip
    time = identifier(SOURCES[manifest.source].time)
    ends = [f"{time} >= {literal(since.isoformat())}::TIMESTAMPTZ"] if since else []
    ends += [f"{time} < {literal(until.isoformat())}::TIMESTAMPTZ"] if until else []
    where = f" WHERE {' AND '.join(ends)}" if ends else ""
    shown = ", ".join(f"{identifier(column)}::VARCHAR" for column in manifest.columns)
    names = sql.SQL(", ").join(sql.Identifier(column) for column in manifest.columns)
    read = 0
    with catalogue.opened(store, archive, manifest) as files, closing(duck()) as reader:
        for path in files:
            reader.execute(f"SELECT {shown} FROM {scan([path])}{where}")
            with conn.cursor() as cursor, cursor.copy(sql.SQL("COPY {} ({}) FROM STDIN").format(table, names)) as copy:
                while batch := reader.fetchmany(10_000):
                    for row in batch:
                        copy.write_row(row)
                    read += len(batch)
    if not ends and read != manifest.rows:
        raise ArchiveError(
            f"{archive.path} has {manifest.rows:,} rows, and {read:,} were read", "Nothing was restored."
        )
    return read
