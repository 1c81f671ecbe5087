"""The ledger of a project's files: in the table of its own tool, where it has one, and in pgvigil_project.migrations.

The tool's table is the truth for what is in. Ours, beside it, has checksums, baselines, and how far a file without a transaction has come;
for the plain layout it is the truth. It has a schema of its own, because a revert of pgvigil's own chain drops schema pgvigil.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import psycopg

from pgvigil import __version__
from pgvigil.errors import PreconditionError
from pgvigil.migration.concurrent_indexes import quoted
from pgvigil.migration.ledger import Entry, State
from pgvigil.migration.sql_lexer import Statement
from pgvigil.projects.config import LEDGER_SCHEMA, Config
from pgvigil.projects.layouts import ProjectFile

# What would run code of others when a table is read or written: what hangs on it, and what an INSERT or a plan calls.
_HUNG = """
    (EXISTS (SELECT FROM pg_trigger WHERE tgrelid = c.oid) OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = c.oid)
     OR EXISTS (SELECT FROM pg_attrdef WHERE adrelid = c.oid) OR EXISTS (SELECT FROM pg_policy WHERE polrelid = c.oid)
     OR EXISTS (SELECT FROM pg_inherits WHERE c.oid IN (inhrelid, inhparent))
     OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = c.oid AND contype NOT IN ('p', 'n'))
     OR EXISTS (SELECT FROM pg_index WHERE indrelid = c.oid AND (indexprs IS NOT NULL OR indpred IS NOT NULL))
     OR EXISTS (SELECT FROM pg_statistic_ext WHERE stxrelid = c.oid)
     OR EXISTS (SELECT FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid
                WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND t.typnamespace <> 'pg_catalog'::regnamespace))"""
_BACK = "back:"  # before a digest: the steps are those of the way back
TABLE = f"{LEDGER_SCHEMA}.migrations"

_MAKE = f"""
CREATE SCHEMA IF NOT EXISTS {LEDGER_SCHEMA};
CREATE TABLE IF NOT EXISTS {TABLE} (
    chain         text NOT NULL,
    version       text NOT NULL,
    name          text NOT NULL,
    sha256_bytes  text NOT NULL,
    sha256_tokens text NOT NULL,
    steps         integer NOT NULL,
    steps_sha256  text NOT NULL,
    begun         boolean NOT NULL,
    finished      boolean NOT NULL,
    baselined     boolean NOT NULL,
    applied_at    timestamptz NOT NULL,
    applied_by    text NOT NULL,
    duration_ms   integer NOT NULL,
    tool_version  text NOT NULL,
    note          text,
    CONSTRAINT migrations_pkey PRIMARY KEY (chain, version)
);
COMMENT ON TABLE {TABLE} IS 'Files of projects that pgvigil migrates: checksums, baselines, and the steps of files without a transaction';
COMMENT ON COLUMN {TABLE}.steps IS 'Finished statements of a file without a transaction, each written with its row in one transaction';
COMMENT ON COLUMN {TABLE}.steps_sha256 IS 'SHA-256 of these statements: an edit of one of them is noticed';
COMMENT ON COLUMN {TABLE}.begun IS 'True while the next statement, which commits by itself, runs or was interrupted';
COMMENT ON COLUMN {TABLE}.note IS 'Who has accepted an edit, or a baseline that was not compared'"""


@dataclass(frozen=True)
class Progress:
    """The progress of a file without a transaction."""

    steps: int = 0
    sha256: str = ""
    begun: bool = False

    @property
    def is_back(self) -> bool:
        return self.sha256.startswith(_BACK)

    @property
    def back(self) -> Progress:
        return Progress(self.steps, self.sha256.removeprefix(_BACK), self.begun)


class _Row(NamedTuple):
    name: str
    sha256_bytes: str
    sha256_tokens: str
    baselined: bool
    progress: Progress
    finished: bool


@dataclass(frozen=True)
class ProjectState(State):
    """The state of a project's ledger.

    `unknown` has versions that the tool recorded and no file has; `adopted` those that it ran without pgvigil.
    """

    progress: dict[str, Progress] = field(default_factory=dict)
    down_progress: dict[str, Progress] = field(default_factory=dict)  # of files that are in, and half taken out
    unknown: tuple[str, ...] = ()
    adopted: frozenset[str] = frozenset()
    stale: frozenset[str] = frozenset()  # in our table, but no more in the tool's


def digest_of(statements: Sequence[Statement]) -> str:
    """Return a digest of the tokens of statements."""
    text = "\1".join("\0".join(token.text for token in statement.tokens) for statement in statements)
    return hashlib.sha256(text.encode()).hexdigest()


@dataclass(frozen=True)
class Ledger:
    config: Config

    @property
    def tool_table(self) -> str:
        """The tool's own table, quoted; "" for the plain layout."""
        if self.config.layout == "plain":
            return ""
        schema, _, name = self.config.ledger_table.rpartition(".")
        return ".".join(quoted(part) for part in (schema or self.config.schema, name))

    @property
    def ignored(self) -> tuple[str, ...]:
        """The patterns of a spec that cover the ledger."""
        own = (f"*schema {LEDGER_SCHEMA}", f"*{LEDGER_SCHEMA}.*")
        if not self.tool_table:
            return own
        schema, _, name = self.config.ledger_table.rpartition(".")
        table = quoted(name) if not name.isidentifier() or name != name.lower() else name
        return (*own, f"*table {table if schema in ('', self.config.schema) else f'{schema}.{table}'}*")

    # ── Reading ───────────────────────────────────────────────────────────────────────────────────────────────────────

    def read(self, conn: psycopg.Connection, files: Sequence[ProjectFile]) -> ProjectState:
        """Return the place of the database among the files.

        Raise PreconditionError for a dirty golang-migrate, or a ledger that is something else.
        """
        ours = self._ours(conn)
        finished = {version for version, row in ours.items() if row.finished}
        there = finished if not self.tool_table else self._of_tool(conn, files, finished)
        entries = [
            Entry(one.version, row.name, self.config.schema, row.baselined, row.sha256_bytes, row.sha256_tokens)
            if (row := ours.get(one.version)) and row.finished
            else Entry(one.version, one.name, self.config.schema, False, "", "")
            for one in files
            if one.version in there
        ]
        known = {one.version for one in files}
        return ProjectState(
            entries[-1].revision if entries else None,
            entries,
            {version: row.progress for version, row in ours.items() if not row.finished and version not in there},
            {version: row.progress.back for version, row in ours.items() if row.finished and row.progress.is_back},
            tuple(sorted(there - known)),
            frozenset(there & known - finished),
            frozenset(finished - there),
        )

    def _ours(self, conn: psycopg.Connection) -> dict[str, _Row]:
        row = conn.execute(
            f"""SELECT c.relkind::text, pg_has_role(c.relowner, 'USAGE'), pg_get_userbyid(c.relowner), {_HUNG}
               FROM pg_class c WHERE c.oid = to_regclass(%s)""".encode(),
            (TABLE,),
        ).fetchone()
        if row is None:
            return {}
        kind, may, owner, hung = row
        if kind != "r" or hung:
            raise PreconditionError(
                f"{TABLE} is not the table that pgvigil made: another object depends on it, or has its name",
                f"Look at it with \\d+ {TABLE} in psql. Nothing was changed.",
            )
        if not may:
            raise PreconditionError(
                f"{TABLE} belongs to {owner}, who has migrated this database before",
                f"Connect as {owner}, or as a role that has it: GRANT {quoted(owner)} TO {quoted(conn.info.user)};",
            )
        rows = conn.execute(
            f"""SELECT version, name, sha256_bytes, sha256_tokens, baselined, steps, steps_sha256, begun, finished
                FROM {TABLE} WHERE chain = %s""".encode(),
            (self.config.name,),
        ).fetchall()
        return {
            version: _Row(name, raw, tokens, baselined, Progress(steps, of_steps, begun), finished)
            for version, name, raw, tokens, baselined, steps, of_steps, begun, finished in rows
        }

    def _of_tool(self, conn: psycopg.Connection, files: Sequence[ProjectFile], finished: set[str]) -> set[str]:
        columns = {
            name
            for (name,) in conn.execute(
                "SELECT attname FROM pg_attribute WHERE attrelid = to_regclass(%s) AND attnum > 0 AND NOT attisdropped",
                (self.tool_table,),
            )
        }
        if not columns:
            return set()
        self._require_plain_tool_table(conn)
        expected = {"version"} if self.config.layout == "dbmate" else {"version", "dirty"}
        if columns != expected:
            raise PreconditionError(
                f"{self.tool_table} is not the table of {self.config.layout}: its columns are {', '.join(sorted(columns))}, not {', '.join(sorted(expected))}",
                f"Correct `layout` or `ledger_table` in {self.config.file}. Nothing was changed.",
            )
        if self.config.layout == "dbmate":
            return {row[0] for row in conn.execute(f"SELECT version::text FROM {self.tool_table}".encode())}
        row = conn.execute(f"SELECT version, dirty FROM {self.tool_table} LIMIT 1".encode()).fetchone()
        if row is None:
            return set()
        version, dirty = row
        if dirty:
            raise PreconditionError(
                f"golang-migrate has left {self.tool_table} dirty at version {version}: a file of its failed half-way",
                "See what of that file is in, undo or finish it, then: migrate force VERSION (the last version that is whole). Nothing was changed.",
            )
        # The tool takes each file up to its version for run. One that came late, below a file that is recorded here, was not.
        recorded = max((int(one) for one in finished), default=-1)
        found = {
            one.version
            for one in files
            if int(one.version) <= version and (one.version in finished or int(one.version) > recorded)
        }
        if version not in {int(one.version) for one in files}:
            found.add(str(version))  # it has no file
        return found

    def _require_plain_tool_table(self, conn: psycopg.Connection) -> None:
        """Check a tool's table that belongs to another role: who connects may be a superuser, and would run what hangs on it."""
        row = conn.execute(
            f"""SELECT r.rolname::text, c.relkind = 'r' AND NOT {_HUNG}
               FROM pg_class c JOIN pg_roles r ON r.oid = c.relowner
               WHERE c.oid = to_regclass(%s) AND NOT r.rolsuper AND r.rolname <> current_user""".encode(),
            (self.tool_table,),
        ).fetchone()
        if row and not row[1]:
            raise PreconditionError(
                f'{self.tool_table} belongs to {row[0]} and is more than the plain table of {self.config.layout}: it would run code of that role with the rights of "{conn.info.user}"',
                f"Connect as {row[0]}, or remove what hangs on it: see \\d+ {self.tool_table} in psql. Nothing was changed.",
            )

    # ── Writing, in the caller's transaction ──────────────────────────────────────────────────────────────────────────

    def make(self, conn: psycopg.Connection) -> None:
        """Make what is missing of the tables."""
        if not conn.execute("SELECT FROM pg_class WHERE oid = to_regclass(%s)", (TABLE,)).rowcount:
            conn.execute(_MAKE.encode())
        if (
            not self.tool_table
            or conn.execute("SELECT FROM pg_class WHERE oid = to_regclass(%s)", (self.tool_table,)).rowcount
        ):
            return
        columns = (
            "version character varying NOT NULL PRIMARY KEY"
            if self.config.layout == "dbmate"
            else "version bigint NOT NULL PRIMARY KEY, dirty boolean NOT NULL"
        )
        conn.execute(f"CREATE TABLE {self.tool_table} ({columns})".encode())

    def record(
        self,
        conn: psycopg.Connection,
        one: ProjectFile,
        *,
        duration_ms: int = 0,
        baselined: bool = False,
        note: str | None = None,
    ) -> None:
        """Write that a file is in."""
        self.put(
            conn,
            one,
            Progress(len(one.statements)),
            finished=True,
            baselined=baselined,
            duration_ms=duration_ms,
            note=note,
        )
        if self.config.layout == "dbmate":
            conn.execute(
                f"INSERT INTO {self.tool_table} (version) VALUES (%s) ON CONFLICT DO NOTHING".encode(), (one.version,)
            )
        elif self.config.layout == "golang-migrate":
            there = conn.execute(f"SELECT max(version) FROM {self.tool_table}".encode()).fetchone()
            self._set_version(conn, max(one.version, str(there[0] or 0) if there else "0", key=int))

    def step(
        self, conn: psycopg.Connection, one: ProjectFile, steps: int, *, begun: bool = False, down: bool = False
    ) -> None:
        """Write that so many statements of a file are in; `begun`: the next one, which commits by itself, begins. `down`: of its way back."""
        if down:
            conn.execute(
                f"UPDATE {TABLE} SET steps = %s, steps_sha256 = %s, begun = %s WHERE chain = %s AND version = %s".encode(),
                (steps, _BACK + digest_of(one.down_statements[:steps]), begun, self.config.name, one.version),
            )
            return
        self.put(conn, one, Progress(steps, digest_of(one.statements[:steps]), begun), finished=False)

    def forget(self, conn: psycopg.Connection, one: ProjectFile, before: ProjectFile | None) -> None:
        """Write that a file was taken out; `before` is the one that is the newest then."""
        if conn.execute("SELECT FROM pg_class WHERE oid = to_regclass(%s)", (TABLE,)).rowcount:
            conn.execute(
                f"DELETE FROM {TABLE} WHERE chain = %s AND version = %s".encode(), (self.config.name, one.version)
            )
        if self.config.layout == "dbmate":
            conn.execute(f"DELETE FROM {self.tool_table} WHERE version = %s".encode(), (one.version,))
        elif self.config.layout == "golang-migrate":
            self._set_version(conn, before.version if before else None)

    def reconcile(self, conn: psycopg.Connection, state: ProjectState, files: Sequence[ProjectFile]) -> None:
        """Take over what the tool has done without pgvigil: the checksums of the files from now on; and forget what it took out."""
        for one in files:
            if one.version in state.adopted:
                self.put(conn, one, Progress(len(one.statements)), finished=True, note=f"run by {self.config.layout}")
        for version in state.stale:
            conn.execute(f"DELETE FROM {TABLE} WHERE chain = %s AND version = %s".encode(), (self.config.name, version))

    def accept(self, conn: psycopg.Connection, files: Sequence[ProjectFile], accepted: Collection[str]) -> None:
        """Record the files as they are now as those that went in, and who said so."""
        for one in files:
            if one.version in accepted:
                conn.execute(
                    f"""UPDATE {TABLE} SET name = %s, sha256_bytes = %s, sha256_tokens = %s,
                               note = 'edit accepted by ' || session_user || ' at ' || clock_timestamp()::timestamptz(0)
                        WHERE chain = %s AND version = %s AND sha256_tokens <> %s""".encode(),
                    (one.name, one.sha256_bytes, one.sha256_tokens, self.config.name, one.version, one.sha256_tokens),
                )

    def put(
        self, conn: psycopg.Connection, one: ProjectFile, progress: Progress, *, finished: bool, baselined: bool = False,
        duration_ms: int = 0, note: str | None = None,
    ) -> None:  # fmt: skip
        conn.execute(
            f"""INSERT INTO {TABLE} (chain, version, name, sha256_bytes, sha256_tokens, steps, steps_sha256, begun, finished, baselined,
                                     applied_at, applied_by, duration_ms, tool_version, note)
                VALUES (%s, %s, %s, %s, %s, %s, %s, %s, %s, %s, clock_timestamp(), session_user, %s, %s, %s)
                ON CONFLICT (chain, version) DO UPDATE SET name = excluded.name, sha256_bytes = excluded.sha256_bytes,
                    sha256_tokens = excluded.sha256_tokens, steps = excluded.steps, steps_sha256 = excluded.steps_sha256,
                    begun = excluded.begun, finished = excluded.finished, baselined = excluded.baselined, applied_at = excluded.applied_at,
                    applied_by = excluded.applied_by, duration_ms = migrations.duration_ms + excluded.duration_ms,
                    tool_version = excluded.tool_version, note = excluded.note""".encode(),
            (
                self.config.name, one.version, one.name, one.sha256_bytes, one.sha256_tokens, progress.steps, progress.sha256,
                progress.begun, finished, baselined, duration_ms, __version__, note,
            ),
        )  # fmt: skip

    def _set_version(self, conn: psycopg.Connection, version: str | None) -> None:
        conn.execute(f"DELETE FROM {self.tool_table}".encode())
        if version is not None:
            conn.execute(f"INSERT INTO {self.tool_table} (version, dirty) VALUES (%s, false)".encode(), (int(version),))
