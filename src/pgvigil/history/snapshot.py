"""A snapshot of one moment of the database.

A dropped partition is in the database or listed as dropped at that moment, never both and never neither: partitions are
locked against DROP first, then rows and list are read in one snapshot.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors, sql

from pgvigil import database, owner
from pgvigil.archives import catalogue
from pgvigil.archives.catalogue import Archive
from pgvigil.archives.source import SOURCES
from pgvigil.archives.summary import floored
from pgvigil.database import Target
from pgvigil.errors import PreconditionError, UsageError

BEGINNING = datetime(1970, 1, 1, tzinfo=UTC)
END = datetime(9999, 1, 1, tzinfo=UTC)
JOB = "archive_files"
WIDTHS = {"hour": 3600, "day": 86400}


@dataclass(frozen=True)
class Span:
    """A stretch of time, [since, until); `by` is "hour", "day" or "all"."""

    since: datetime = BEGINNING
    until: datetime = END
    by: str = "day"

    def __post_init__(self) -> None:
        if self.since >= self.until:
            raise UsageError(f"--since {self.since} is not before --until {self.until}", "Give an earlier --since.")

    def holds(self, first: datetime | None, last: datetime | None) -> bool:
        """Return True where all of that time, both ends included, is in this span. False where an end is unknown."""
        return first is not None and last is not None and self.since <= first and last < self.until

    def meets(self, first: datetime | None, last: datetime | None) -> bool:
        """Return False where none of that time, both ends included, is in this span. True where an end is unknown."""
        return (first is None or first < self.until) and (last is None or last >= self.since)

    def duck(self, column: str) -> str:
        """The condition in the engines' SQL."""
        return f"{column} >= {{time}} '{_utc(self.since)}' AND {column} < {{time}} '{_utc(self.until)}'"

    def bucket(self, column: str) -> str:
        """The beginning of a bucket in the engines' SQL, in seconds since 1970; one bucket for "all"."""
        if self.by == "all":
            return "CAST(0 AS BIGINT)"
        return f"CAST({floored('{micros}', column, WIDTHS[self.by])} {{div}} 1000000 AS BIGINT)"

    def postgres_bucket(self, column: str) -> str:
        """The same in PostgreSQL."""
        if self.by == "all":
            return "0::bigint"
        width = WIDTHS[self.by]
        return f"floor(extract(epoch FROM {column}) / {width})::bigint * {width}"

    def moment(self, bucket: int) -> datetime | None:
        """The beginning of a bucket; None for "all"."""
        return None if self.by == "all" else BEGINNING + timedelta(seconds=bucket)


def _utc(moment: datetime) -> str:
    return moment.astimezone(UTC).isoformat(" ", "microseconds")


@dataclass(frozen=True)
class Snapshot:
    """The connection, in its transaction, and the archives as they are in it."""

    conn: psycopg.Connection
    schema: sql.Identifier
    archives: list[Archive]

    def rows(self, columns: str, query: str, *parameters: Any) -> list[tuple[Any, ...]]:
        """Ask the database; {app} is the application's schema. `columns` are the names and types of the answer, as for `owner.rows`."""
        app = self.schema.as_string(self.conn)
        return owner.rows(
            self.conn, columns, query.replace("{app}", app.replace("%", "%%") if parameters else app), parameters
        )

    def files_of(self, source: str, span: Span | None, *, copies: bool = False) -> list[Archive]:
        """The archives that may hold rows of that time, or of any, and are not in the database; with `copies` also those that are."""
        states = ("file", "copy") if copies else ("file",)
        found = [
            one for one in self.archives
            if one.source == source and one.state in states and (one.rows or 0) > 0
            and (span is None or span.meets(one.min_time, one.max_time))
        ]  # fmt: skip
        self._require_gone(source, [one for one in found if one.state == "file"])
        return found

    def _require_gone(self, source: str, archives: list[Archive]) -> None:
        """Raise PreconditionError where the first or the last row of an archive is in the database again: it would count twice."""
        ends = {id_: one for one in archives for id_ in (one.min_id, one.max_id) if id_ is not None}
        if not ends:
            return
        key, kind, tables = SOURCES[source].id, "uuid", [source if "." in source else f"{{app}}.{source}"]
        if source == "query_executions":
            kind, tables = "bigint", [*tables, "pgvigil.executions_to_archive"]
        there = " OR ".join(f"EXISTS (SELECT 1 FROM {table} t WHERE t.{key} = i)" for table in tables)
        query = f"SELECT i::text FROM unnest(%s::{kind}[]) i WHERE {there} LIMIT 1"
        for (id_,) in self.rows("id text", query, list(ends)):
            one = ends[id_]
            raise PreconditionError(
                f"rows of archive {one.path} are in {source} again: history would count them twice",
                f"Delete them there: restored rows belong in a table of their own. If all rows of a partition are there, run pgvigil maintain run {JOB}.",
            )


@contextmanager
def snapshot(target: Target, *tables: str) -> Iterator[Snapshot]:
    """Take one, of these tables of the application's schema. Others may read and write meanwhile; none of the tables loses a partition."""
    with catalogue.connect(target, "history") as conn:
        row = conn.execute("SELECT to_regclass('pgvigil.archives') IS NOT NULL").fetchone()
        if row != (True,):
            raise PreconditionError("this database has no history: it is not migrated", "Run: pgvigil migrate")
        try:
            [(name,)] = owner.rows(conn, "name text", "SELECT pgvigil.application_schema()")
            schema = sql.Identifier(name or "public")
            with conn.transaction():
                conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
                if not owner.confined(conn):  # which makes a function of its own
                    conn.execute("SET TRANSACTION READ ONLY")
                for table in tables:  # LOCK takes no snapshot: the next statement does
                    conn.execute(sql.SQL("LOCK TABLE {}.{} IN ACCESS SHARE MODE").format(schema, sql.Identifier(table)))
                yield Snapshot(conn, schema, catalogue.read(conn))
        except errors.InsufficientPrivilege as error:
            said = error.diag.message_primary or str(error)
            if database.hides_rows(error):  # no right is missing
                raise
            raise PreconditionError(
                f"this role may not read history: {said}", "GRANT pgvigil_reader TO the role."
            ) from error


@contextmanager
def paths(archives: list[Archive], moved_to: str | None) -> Iterator[list[Path]]:
    """The files of archives. Raise ArchiveError, before any is read, where one is not as it was written."""
    with ExitStack() as stack:
        found: list[Path] = []
        for archive in archives:
            store = catalogue.store_of(archive, moved_to)
            made = catalogue.manifest_of(store, archive)
            found += stack.enter_context(catalogue.opened(store, archive, made))
        yield found


@contextmanager
def paths_and_summaries(
    archives: list[Archive], span: Span, moved_to: str | None
) -> Iterator[tuple[list[Path], list[Path]]]:
    """Yield the files of archives as `paths` does, and summaries in their place where possible.

    An archive may have a summary by day that answers for that time. Its files must still be as they were written, so
    that there is never an answer from a damaged archive.
    """
    with ExitStack() as stack:
        found: list[Path] = []
        summaries: list[Path] = []
        for archive in archives:
            store = catalogue.store_of(archive, moved_to)
            made = catalogue.manifest_of(store, archive)
            if made.summary and span.by != "hour" and span.holds(archive.min_time, archive.max_time):
                with catalogue.opened(store, archive, made):
                    pass
                summaries.append(stack.enter_context(catalogue.opened_summary(store, archive, made.summary)))
            else:
                found += stack.enter_context(catalogue.opened(store, archive, made))
        yield found, summaries
