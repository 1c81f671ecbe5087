"""The files of a project into the database, and out of it.

A file runs in one transaction with its row in the ledger. In a file without a transaction each statement that can run in one does so
together with its step in the ledger: exactly once, also when the process is killed. A statement that commits by itself is completed from what the catalog shows.
"""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import psycopg

from pgvigil import locks
from pgvigil.errors import MigrationError, PreconditionError
from pgvigil.migration import concurrent_indexes, statements
from pgvigil.migration.apply import SETTINGS
from pgvigil.migration.concurrent_indexes import Build
from pgvigil.migration.sql_lexer import Statement
from pgvigil.migration.trace import Trace, current_trace
from pgvigil.projects.config import Config
from pgvigil.projects.layouts import ProjectFile, runs_alone
from pgvigil.projects.ledger import Ledger, Progress, ProjectState, digest_of

_NOT_IN_A_TRANSACTION = ("25001", "2D000")  # the statement, or a COMMIT in a procedure that it calls
_GONE = ("42704", "42P01")  # the object of a DROP that was interrupted after it had been done
_PENDING_DETACH = "55000"
_DETACH = re.compile(r"\bCONCURRENTLY\s*$", re.IGNORECASE)


def pin(conn: psycopg.Connection, config: Config) -> None:
    """Set the session settings that each file may count on, whatever the role, the database or the file before it has
    set.
    """
    settings = (f"search_path = {', '.join(map(concurrent_indexes.quoted, config.path))}", *SETTINGS)
    conn.execute(
        "; ".join(["RESET SESSION AUTHORIZATION", "RESET ROLE", *(f"SET {setting}" for setting in settings)]).encode()
    )


@dataclass(frozen=True)
class Mover:
    config: Config
    ledger: Ledger
    files: Sequence[ProjectFile]

    # ── In ────────────────────────────────────────────────────────────────────────────────────────────────────────────

    def apply(
        self, conn: psycopg.Connection, group: Sequence[ProjectFile], trace: Trace, before_commit: Callable[[], None]
    ) -> None:
        """Apply a group: transactional files in one transaction, or one file in steps."""
        current_trace.set(trace)
        trace.begin(conn)
        if not group[0].transactional:
            self._in_steps(conn, group[0], before_commit)
            return
        at = group[-1].path
        try:
            with conn.transaction():
                self._prepare(conn)
                for one in group:
                    began = time.monotonic()
                    for statement in one.statements:
                        _Way(one).run(conn, statement)
                    pin(conn, self.config)
                    self.ledger.record(conn, one, duration_ms=round((time.monotonic() - began) * 1000))
                before_commit()
                _check_constraints(conn, at)
        except psycopg.errors.IntegrityError as error:
            raise _at_the_commit(at, error) from error
        finally:
            if not conn.closed:
                pin(conn, self.config)
        trace.end()

    def _prepare(self, conn: psycopg.Connection) -> None:
        self.ledger.make(conn)
        self.ledger.reconcile(conn, self.ledger.read(conn, self.files), self.files)

    def _in_steps(self, conn: psycopg.Connection, one: ProjectFile, before_commit: Callable[[], None]) -> None:
        with conn.transaction():
            self._prepare(conn)
        progress = self.ledger.read(conn, self.files).progress.get(one.version, Progress())
        self._steps(conn, _Way(one), progress)
        with conn.transaction():
            self.ledger.record(conn, one)
            before_commit()

    def _steps(self, conn: psycopg.Connection, way: _Way, progress: Progress) -> None:
        """Run what is not in yet of a file, statement by statement."""
        require_unedited(way.path, way.statements, progress)
        for statement in way.statements[: progress.steps]:
            if statement.starts_with("SET") or statement.starts_with("RESET") or "set_config" in statement.text.lower():
                way.run(conn, statement)  # what is set for the session went with the process
        for number, statement in enumerate(way.statements[progress.steps :], progress.steps):
            locks.require_run_lock(conn)
            if not runs_alone(statement) and self._as_a_step(conn, way, number, statement):
                continue
            with conn.transaction():
                self._write_step(conn, way, number, begun=True)
            try:
                self._alone(conn, way, statement, progress.begun and number == progress.steps)
            except MigrationError:
                if (
                    not conn.closed
                ):  # it has failed, and was not interrupted: what it needs is not gone because it is done
                    with conn.transaction():
                        self._write_step(conn, way, number)
                raise
            with conn.transaction():
                self._write_step(conn, way, number + 1)
        pin(conn, self.config)

    def _write_step(self, conn: psycopg.Connection, way: _Way, steps: int, *, begun: bool = False) -> None:
        conn.execute("SET LOCAL ROLE TO DEFAULT")  # the file may have set another one, for its own statements
        self.ledger.step(conn, way.one, steps, begun=begun, down=way.down)

    def _as_a_step(self, conn: psycopg.Connection, way: _Way, number: int, statement: Statement) -> bool:
        """Run a statement with its step in one transaction. False where the server has refused to run it in one."""
        try:
            with conn.transaction():
                way.run(conn, statement)
                _check_constraints(conn, f"{way.path}:{statement.line}")
                self._write_step(conn, way, number + 1)
        except MigrationError as error:
            if isinstance(error.__cause__, psycopg.Error) and error.__cause__.sqlstate in _NOT_IN_A_TRANSACTION:
                return False
            raise
        return True

    def _alone(self, conn: psycopg.Connection, way: _Way, statement: Statement, was_begun: bool) -> None:
        words = [token.text.upper() for token in statement.tokens]
        if was_begun and words[0] == "REINDEX":
            self._drop_leftovers(conn, statement)

        def displace(build: Build, name: str, definition: str) -> bool:
            if build.if_not_exists:
                return False  # as the server would have it; the spec, if there is one, will not
            raise MigrationError(
                f"{way.path}:{statement.line}: there is an index {name} already, with another definition:\n  {definition}",
                "Rename or drop it, or give the new one another name; then run this again.",
            )

        try:
            statements.run_after_cleanup(
                conn, self.config.schema, statement, lambda: way.run(conn, statement), displace
            )
        except MigrationError as error:
            state = error.__cause__.sqlstate if isinstance(error.__cause__, psycopg.Error) else None
            detaches = words[:2] == ["ALTER", "TABLE"] and "DETACH" in words
            if detaches and state == _PENDING_DETACH:
                finalize = _DETACH.sub("FINALIZE", statement.text)
                with concurrent_indexes.without_lock_timeout(conn):
                    statements.run(conn, way.path, statement, finalize, lambda text: conn.execute(text.encode()))
                return
            if was_begun and state in _GONE and (words[0] == "DROP" or detaches):
                return
            raise

    def _drop_leftovers(self, conn: psycopg.Connection, statement: Statement) -> None:
        name = "".join(
            token.text
            for token in statement.tokens[[t.text.upper() for t in statement.tokens].index("CONCURRENTLY") + 1 :]
        )
        tables = [
            row[0]
            for row in conn.execute(
                """SELECT coalesce(i.indrelid, c.oid)::regclass::text FROM pg_class c LEFT JOIN pg_index i ON i.indexrelid = c.oid
                   WHERE c.oid = to_regclass(%s)""",
                (name,),
            )
        ]
        for left in concurrent_indexes.leftover_indexes(conn, [], tables):
            conn.execute(f"DROP INDEX CONCURRENTLY {left}".encode())

    # ── Out ───────────────────────────────────────────────────────────────────────────────────────────────────────────

    def revert(
        self,
        conn: psycopg.Connection,
        to_revert: Sequence[ProjectFile],
        trace: Trace,
        before_commit: Callable[[], None],
    ) -> None:
        """Take files out, the newest first: in one transaction, or each by itself where one of them cannot be in one."""
        current_trace.set(trace)
        trace.begin(conn)
        for group in revert_groups(to_revert):
            if not group[0].down_in_transaction:
                with conn.transaction():
                    self._prepare(conn)
                progress = self.ledger.read(conn, self.files).down_progress.get(group[0].version, Progress())
                self._steps(conn, _Way(group[0], down=True), progress)
            try:
                with conn.transaction():
                    self.ledger.make(conn)
                    state = self.ledger.read(conn, self.files)
                    for one in group:
                        if one.version not in state.revisions:
                            continue  # an attempt before this one has taken it out
                        for statement in one.down_statements if one.down_in_transaction else ():
                            _Way(one, down=True).run(conn, statement)
                        pin(conn, self.config)
                        self.ledger.forget(conn, one, self._before(one, state))
                    before_commit()
                    _check_constraints(conn, group[-1].revert_path)
            except psycopg.errors.IntegrityError as error:
                raise _at_the_commit(group[-1].revert_path, error) from error
            finally:
                if not conn.closed:
                    pin(conn, self.config)
        trace.end()

    def _before(self, one: ProjectFile, state: ProjectState) -> ProjectFile | None:
        earlier = [f for f in self.files[: self.files.index(one)] if f.version in state.revisions]
        return earlier[-1] if earlier else None


def revert_groups(to_revert: Sequence[ProjectFile]) -> list[list[ProjectFile]]:
    if all(one.down_in_transaction for one in to_revert):
        return [list(to_revert)] if to_revert else []
    return [[one] for one in to_revert]


@dataclass(frozen=True)
class _Way:
    """A file there, or back."""

    one: ProjectFile
    down: bool = False

    @property
    def path(self) -> Path:
        return self.one.revert_path if self.down else self.one.path

    @property
    def statements(self) -> list[Statement]:
        return self.one.down_statements if self.down else self.one.statements

    def run(self, conn: psycopg.Connection, statement: Statement) -> None:
        statements.run(conn, self.path, statement, statement.text, lambda text: conn.execute(text.encode()))
        if (
            "lock_timeout" in statement.text.lower()
        ):  # as a dump of pg_dump has it: how long others may wait is not the file's to say
            conn.execute(f"SET lock_timeout = '{locks.LOCK_TIMEOUT_MS}ms'")


def require_unedited(path: Path, parts: Sequence[Statement], progress: Progress) -> None:
    """Raise PreconditionError where the statements of a stopped file that are in are not those of the file any more."""
    if progress.steps > len(parts) or (progress.steps and digest_of(parts[: progress.steps]) != progress.sha256):
        raise PreconditionError(
            f"{path} was edited above the place where it stopped: its first {progress.steps} statements are in this database, "
            "as they were then",
            "Put these statements back as they were, and write what is to change below them or into a new file. Nothing was changed.",
        )


def _check_constraints(conn: psycopg.Connection, at: object) -> None:
    """Have deferred constraints checked while the error can still be reported with its file."""
    try:
        conn.execute("SET CONSTRAINTS ALL IMMEDIATE")
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled):
        raise
    except psycopg.Error as error:
        if conn.closed:
            raise
        raise _at_the_commit(at, error) from error


def _at_the_commit(at: object, error: psycopg.Error) -> MigrationError:
    words = [error.diag.message_primary or str(error), error.diag.message_detail]
    return MigrationError(
        f"{at}: at the commit: " + "\n  ".join(word for word in words if word),
        "Rows that are there break it: fix them, then run this again.",
    )


def run_all(
    conn: psycopg.Connection, one: ProjectFile, wanted: Callable[[Statement], bool], *, down: bool = False
) -> None:
    """Run a file, or its way back, on a database that nobody else uses and that has no ledger."""
    way = _Way(one, down)
    parts = [statement for statement in way.statements if wanted(statement)]
    if one.down_in_transaction if down else one.transactional:
        with conn.transaction():
            for statement in parts:
                way.run(conn, statement)
            _check_constraints(conn, way.path)
        return
    for statement in parts:
        way.run(conn, statement)
