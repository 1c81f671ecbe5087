"""A chain: the files that lead to a schema, where they are recorded, how they go in, and what must hold before and afterwards.

The runner knows chains only by this class. `own_chain` has pgvigil's own, which Alembic keeps; `pgvigil.projects` those of other teams.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Collection
from dataclasses import dataclass, replace

import psycopg

from pgvigil.database import Target
from pgvigil.migration.change import Change
from pgvigil.migration.files import Migration
from pgvigil.migration.ledger import State
from pgvigil.migration.trace import Trace
from pgvigil.progress import Reporter
from pgvigil.validate import Declaration, Report


@dataclass
class Run:
    """A connection with a schema, its place in the ledger, and what is pending."""

    conn: psycopg.Connection
    chain: Chain
    schema: str
    migrations: list[Migration]
    state: State
    end: int  # how many of the migrations are to be in afterwards

    @property
    def pending(self) -> list[Migration]:
        """The files to go in, up to where the run is to end."""
        return [m for m in self.migrations[: self.end] if m.revision not in self.state.revisions]

    @property
    def applied(self) -> list[Migration]:
        return [m for m in self.migrations if m.revision in self.state.revisions]

    @property
    def to_revert(self) -> list[Migration]:
        """The files to be taken out, the newest first."""
        return [m for m in self.migrations[self.end :] if m.revision in self.state.revisions][::-1]

    @property
    def beyond_target(self) -> list[Migration]:
        """The files beyond the end of the run."""
        return self.migrations[self.end :]

    def read_again(self) -> Run:
        return replace(self, state=self.chain.read(self.conn))


class Chain(ABC):
    """A chain of migrations with its spec, as the runner sees it.

    `spec_name` is the name of the spec in messages, "" where there is none. With `staged` the spec says which file
    brings which object, so that it can be compared before the last file is applied. `application_tables` must exist
    before the first file.
    """

    spec_name: str = ""
    staged: bool = False
    application_tables: tuple[str, ...] = ()

    # ── The files ─────────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def load(self) -> list[Migration]:
        """Return all files in order. Raise UsageError."""

    @abstractmethod
    def groups(self, migrations: list[Migration]) -> list[list[Migration]]:
        """Return the files as they go in: those of a group in one transaction, or one file in steps."""

    @abstractmethod
    def declaration(self) -> Declaration | None:
        """Return what the schema must meet in the end, or None where nobody has declared it."""

    # ── The database ──────────────────────────────────────────────────────────────────────────────────────────────────

    @abstractmethod
    def open(
        self, conn: psycopg.Connection, asked_schema: str | None, migrations: list[Migration], accepted: Collection[str]
    ) -> tuple[str, State, list[str]]:
        """Return the schema, the ledger and warnings; set the connection up.

        Raise PreconditionError for a database this cannot work on.
        """

    @abstractmethod
    def read(self, conn: psycopg.Connection) -> State:
        """Return what the ledger says."""

    @abstractmethod
    def require_ready(self, run: Run, log: Reporter) -> None:
        """Raise PreconditionError unless the pending files can go in; log what the DBA should know."""

    @abstractmethod
    def begin(self, run: Run, target: Target, log: Reporter) -> None:
        """Do what comes first under the run lock, before the backup."""

    def begin_empty(self, conn: psycopg.Connection, schema: str) -> None:  # noqa: B027 - most chains have nothing to do
        """Do what is possible only while the database is empty."""

    @abstractmethod
    def apply_group(self, conn: psycopg.Connection, change: Change, trace: Trace) -> None:
        """Make a change.

        Raise MigrationError by file and line, or psycopg's LockNotAvailable; what ran in a transaction is rolled back.
        """

    @abstractmethod
    def require_reversible(self, to_revert: list[Migration]) -> None:
        """Raise PreconditionError where a file has no way back."""

    @abstractmethod
    def reverts_at_once(self, to_revert: list[Migration]) -> bool:
        """Return whether they are taken out in one transaction."""

    @abstractmethod
    def accept(self, run: Run, accepted: Collection[str]) -> None:
        """Record the files as they are now as those that went in."""

    @abstractmethod
    def index_names(self, schema: str) -> tuple[Collection[str], Collection[str]]:
        """Return the names of indexes, and of tables, beside which an INVALID index is the remains of a REINDEX of ours."""

    @abstractmethod
    def verdict(self, conn: psycopg.Connection, target: Target, schema: str) -> Report:
        """Compare the schema, when every file is in, with the declaration."""

    @abstractmethod
    def require_rehearsal(self, pending: list[Migration]) -> None:
        """Raise PreconditionError where a run on a scratch copy would change more than the copy."""

    @abstractmethod
    def warnings(self, conn: psycopg.Connection) -> list[str]:
        """Return what the DBA should know of the rows that were there before."""

    @abstractmethod
    def waiting_jobs(self, conn: psycopg.Connection) -> tuple[str, ...]:
        """Return the jobs that wait for the consent of the owner of the tables."""

    @abstractmethod
    def left_by_revert(self, conn: psycopg.Connection, schema: str) -> list[str]:
        """Return what the DBA should know when the last file was taken out."""

    @abstractmethod
    def command(self, *words: str, schema: str | None = None, option: str = "") -> str:
        """Return a command of pgvigil's about this chain, to be pasted."""
