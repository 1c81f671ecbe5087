"""The ledgers in the database: Alembic's revision, and one row per file in pgvigil.migrations."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass, field
from functools import cached_property
from typing import TYPE_CHECKING, NamedTuple

import psycopg
from psycopg import errors, sql

from pgvigil import __version__
from pgvigil.errors import PreconditionError
from pgvigil.owner import copied

if TYPE_CHECKING:
    from pgvigil.migration.files import Migration
    from pgvigil.owner import Owner


class Entry(NamedTuple):
    """A row of pgvigil.migrations, as far as the runner needs it."""

    revision: str
    name: str
    schema_name: str
    baselined: bool
    sha256_bytes: str
    sha256_tokens: str


@dataclass(frozen=True)
class State:
    """The state of a database. `revision` is None before the first migration."""

    revision: str | None = None
    entries: list[Entry] = field(default_factory=list)

    @property
    def schema(self) -> str | None:
        return self.entries[0].schema_name if self.entries else None

    @cached_property
    def by_revision(self) -> dict[str, Entry]:
        return {entry.revision: entry for entry in self.entries}

    @property
    def revisions(self) -> Collection[str]:
        return self.by_revision.keys()


def read(conn: psycopg.Connection) -> State:
    """The ledger, or an empty state where there is none. Raise PreconditionError where something else is in its place."""
    if _scalar(
        conn, "SELECT to_regclass('pgvigil.migrations') IS NULL OR to_regclass('pgvigil.alembic_version') IS NULL"
    ):
        return State()
    try:
        entries = [
            Entry(revision or "", name or "", schema or "", baselined == "t", raw or "", tokens or "")
            for revision, name, schema, baselined, raw, tokens in copied(
                conn, "pgvigil.migrations", "revision, name, schema_name, baselined, sha256_bytes, sha256_tokens"
            )
        ]
        versions = copied(conn, "pgvigil.alembic_version", "version_num")
    except errors.WrongObjectType as error:  # a view is somebody's code
        raise PreconditionError(
            "pgvigil.migrations or pgvigil.alembic_version is not a table: another object has its name",
            "Look at it with \\d+ pgvigil.migrations in psql, as the owner of the tables; nothing was read.",
        ) from error
    return State(versions[0][0] if versions else None, sorted(entries))


def compare(state: State, migrations: list[Migration], accepted: Collection[str] = ()) -> list[str]:
    """Compare the ledger with the files and return warnings.

    Raise PreconditionError where they contradict each other.
    """
    by_revision = {m.revision: m for m in migrations}
    recorded = [e.revision for e in state.entries]
    if recorded != [m.revision for m in migrations[: len(recorded)]] or state.revision != (
        recorded[-1] if recorded else None
    ):
        raise PreconditionError(
            f"the ledger does not fit the migrations here: it is at {state.revision}, its rows are "
            f"{', '.join(recorded) or 'none'}, the files are {', '.join(by_revision)}",
            "Use the version of pgvigil that migrated this database, or a newer one: SELECT * FROM pgvigil.migrations names it.",
        )
    warnings = []
    for entry in state.entries:
        migration = by_revision[entry.revision]
        if entry.name != migration.name:
            raise PreconditionError(
                f"{migration.path} is below the head of this database, where {entry.name} went in: it would never be run",
                "Give a new migration a number above the last one; restore the files as they were. Nothing was changed.",
            )
        if entry.sha256_tokens != migration.sha256_tokens:
            if entry.revision in accepted:
                warnings.append(f"{migration.path} was edited after it went in; accepted, its new checksum is recorded")
                continue
            raise PreconditionError(
                f"{migration.path} was edited after it went into this database: SHA-256 of its SQL was "
                f"{entry.sha256_tokens[:12]}…, is {migration.sha256_tokens[:12]}…",
                "Restore the file as it was and put the change into a new migration; or, if this database holds the change already, "
                f"say so with --accept-checksum {entry.revision}. Nothing was changed.",
            )
        if entry.sha256_bytes != migration.sha256_bytes:
            warnings.append(
                f"{migration.path} has other comments or white space than when it went in; its SQL is the same"
            )
    return warnings


def accept(conn: psycopg.Connection, owner: Owner, migrations: list[Migration], accepted: Collection[str]) -> None:
    """Record the current content of files as the applied one, with the name of the user who accepted it."""
    for migration in migrations:
        if migration.revision in accepted:
            raw, tokens, revision = map(
                sql.quote, (migration.sha256_bytes, migration.sha256_tokens, migration.revision)
            )
            owner.execute(
                conn,
                f"UPDATE pgvigil.migrations SET sha256_bytes = {raw}, sha256_tokens = {tokens}, accepted_at = now(), accepted_by = session_user"
                f" WHERE revision = {revision} AND sha256_tokens <> {tokens}",
            )


def record(
    conn: psycopg.Connection, owner: Owner, migration: Migration, schema: str, *, baselined: bool, duration_ms: int
) -> None:
    """Write the row of a migration, in the transaction of the migration."""
    owner.execute(
        conn,
        _call(
            "record_migration",
            migration.revision,
            migration.name,
            schema,
            baselined,
            migration.sha256_bytes,
            migration.sha256_tokens,
            duration_ms,
            __version__,
        ),
    )


def mark_initialized(conn: psycopg.Connection, owner: Owner, revision: str) -> None:
    """Write the marker of a new installation."""
    owner.execute(conn, _call("mark_initialized", revision))


def forget(conn: psycopg.Connection, owner: Owner, migration: Migration) -> None:
    """Delete the row of a migration that was reverted."""
    owner.execute(conn, f"DELETE FROM pgvigil.migrations WHERE revision = {sql.quote(migration.revision)}")


def _call(function: str, *values: object) -> str:
    return f"SELECT pgvigil.{function}({', '.join(sql.quote(value) for value in values)})"


def is_baselined(conn: psycopg.Connection, revision: str) -> bool:
    """Return true if what a migration makes was there before it."""
    return ("t", revision) in copied(conn, "pgvigil.migrations", "baselined, revision")


def _scalar(conn: psycopg.Connection, query: str, *parameters: object) -> object:
    row = conn.execute(query, parameters).fetchone()
    return row[0] if row else None
