"""Run the statements of files: report errors by file and line, and clean up after an interrupted run first."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path

import psycopg

from pgvigil.errors import MigrationError
from pgvigil.migration import concurrent_indexes, files
from pgvigil.migration.concurrent_indexes import Build
from pgvigil.migration.sql_lexer import Statement
from pgvigil.migration.trace import Trace, current_trace


def run(
    conn: psycopg.Connection, path: Path, statement: Statement, text: str, execute: Callable[[str], object]
) -> None:
    """Execute `text`, which a statement of a file has become.

    Raise MigrationError by file and line; a lock that was not granted in time, a deadlock and a cancelled statement
    stay errors of psycopg: the caller may try again.
    """
    try:
        with current_trace.get(Trace()).statement(conn, path.name, statement):
            execute(text)
    except (psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected, psycopg.errors.QueryCanceled):
        raise
    except psycopg.Error as error:
        diagnosis = error.diag
        line = statement.line
        position = diagnosis.internal_position if diagnosis.internal_query == text else diagnosis.statement_position
        if position:
            line += text.count("\n", 0, int(position) - 1)
        words = [diagnosis.message_primary or str(error), diagnosis.message_detail, diagnosis.context]
        raise MigrationError(
            f"{path}:{line}: " + "\n  ".join(word for word in words if word),
            diagnosis.message_hint or _what_next(path, diagnosis.sqlstate or "", error),
        ) from error


def run_after_cleanup(
    conn: psycopg.Connection,
    schema: str,
    statement: Statement,
    execute: Callable[[], None],
    displace: Callable[[Build, str, str], bool],
) -> None:
    """Run a statement that commits by itself, after dropping what an interrupted run of it has left."""
    if Build.of(statement) is None:
        with (
            concurrent_indexes.without_lock_timeout(conn)
            if concurrent_indexes.waits_for_transactions(statement)
            else nullcontext()
        ):
            execute()
        return
    policy = current_trace.get(Trace()).policy
    try:
        with concurrent_indexes.without_lock_timeout(conn):
            if concurrent_indexes.prepare(conn, schema, statement, policy, displace):
                execute()
    except (MigrationError, psycopg.errors.QueryCanceled):
        if not conn.closed:
            for name in concurrent_indexes.index_names(conn, statement, schema):
                concurrent_indexes.discard(conn, name)
        raise


def _what_next(path: Path, sqlstate: str, error: psycopg.Error) -> str:
    if sqlstate == "58P01" or "could not load library" in str(error):
        return "The server runs other files than are installed, as after an upgrade: restart the server, then run this again."
    if sqlstate == "42501":
        return "Use a role that has this right, then run this again."
    if sqlstate[:2] == "53":
        return "Make room on the server, then run this again."
    if sqlstate[:2] in ("22", "23"):
        return "Rows that are there break it: fix them, then run this again."
    if sqlstate == "25001":
        return f'Make the first line of the file "{files.NO_TRANSACTION}".'
    if not files.is_shipped(path):
        return "Fix the file, then run this again."
    return "Something in this database or its server makes it fail: change that, then run this again."
