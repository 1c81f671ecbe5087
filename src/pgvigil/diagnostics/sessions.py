"""The connected sessions and their statements, from schema instrumentation; and the end of a session."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any
from uuid import UUID

import psycopg
from psycopg import errors

from pgvigil import database, other_state
from pgvigil.database import Target
from pgvigil.errors import PreconditionError, UsageError
from pgvigil.migration import preflight
from pgvigil.owner import confined, execute, rows
from pgvigil.shipped import require_shipped

_ACTIVE = """
    SELECT s.session_id, s.username, s.application_name, s.peer, i.hostname, s.backend_pid, s.start_time, s.last_activity_at, s.session_tag,
           r.sql_text, r.execution_start_time
    FROM instrumentation.sessions s JOIN instrumentation.instances i ON i.instance_id = s.instance_id
    LEFT JOIN LATERAL (SELECT a.sql_text, a.execution_start_time FROM instrumentation.session_activity a
                       WHERE a.session_id = s.session_id AND a.statement_status = 'executing' ORDER BY a.statement_id DESC LIMIT 1) r ON true
    WHERE s.status = 'active' ORDER BY s.session_id"""
# Ids are made before rows are written: what came late is still met within this time.
_LATE = "1 minute"
_STATEMENTS = f"""
    SELECT a.statement_id, a.session_id, a.username, a.application_name, a.execution_start_time, a.execution_end_time, a.statement_status::text AS status,
           a.duration_ms, a.rows_fetched, a.sqlstate, a.error_message, a.sql_text, a.query_tag, a.source
    FROM instrumentation.session_activity a
    WHERE a.statement_id >= pgvigil.uuid_v7_floor(greatest(%(since)s::timestamptz, now() - interval '{_LATE}'))
      AND (%(session)s::uuid IS NULL OR a.session_id = %(session)s) OR a.statement_id = ANY (%(open)s)
    ORDER BY a.statement_id"""

_SESSION = "uuid, text, text, text, text, integer, timestamptz, timestamptz, jsonb, text, timestamptz"
_STATEMENT = "uuid, uuid, text, text, timestamptz, timestamptz, text, bigint, bigint, text, text, text, jsonb, text"


@dataclass(frozen=True)
class Session:
    """An active session, and the statement it runs, if one is known to run."""

    session_id: UUID
    username: str
    application_name: str | None
    peer: str | None
    hostname: str
    backend_pid: int | None
    start_time: datetime
    last_activity_at: datetime
    session_tag: dict[str, Any]
    sql_text: str | None
    execution_start_time: datetime | None


@dataclass(frozen=True)
class Statement:
    """A statement as it began, or as it ended. `sql_text` and `error_message` are masked for those who may not see them."""

    statement_id: UUID
    session_id: UUID
    username: str
    application_name: str | None
    execution_start_time: datetime
    execution_end_time: datetime | None
    status: str
    duration_ms: int | None
    rows_fetched: int | None
    sqlstate: str | None
    error_message: str | None
    sql_text: str | None
    query_tag: Any
    source: str


def active(target: Target) -> list[Session]:
    """The active sessions, oldest first."""
    with _connect(target) as conn:
        return other_state.rows(conn, Session, _ACTIVE, _SESSION)


def kill(target: Target, session: str, mode: str, grace: float) -> str:
    """End a session (mode terminate), its statement (cancel), or first the statement and then the session (escalate,
    `grace` seconds apart).

    Return a sentence on what was done. Raise PreconditionError with the server's reason where it refused; the server
    records the refusal.
    """
    identity = _identity(session)
    with _connect(target) as conn:
        preflight.require_primary(conn)  # each attempt is written down
        if confined(conn):
            ok, reason = _kill_confined(conn, identity, mode, grace)
        else:
            row = conn.execute(
                "SELECT ok, reason FROM instrumentation.kill_session(%s, %s, make_interval(secs => %s))",
                (identity, mode, grace),
            ).fetchone()
            ok, reason = row or (False, "no answer")
    if not ok:
        raise PreconditionError(f"not killed: {reason}", "See pgvigil sessions list; each attempt is recorded.")
    return str(reason)


def _kill_confined(conn: psycopg.Connection, session: UUID, mode: str, grace: float) -> tuple[bool, str]:
    """Do what instrumentation.kill_session does: judge and record in functions of the owner's, and signal with the caller's rights."""
    judge = "SELECT j.refusal, j.target_pid, j.target_start, j.was_killed FROM instrumentation.judge_kill(%s, %s) j"
    columns = "refusal text, pid integer, start timestamptz, was_killed boolean"
    [(refusal, pid, start, was_killed)] = rows(conn, columns, judge, (session, mode))
    if refusal is not None or was_killed:
        return refusal is None, refusal or "already killed"
    ok, reason = True, "cancelled its statement"
    if mode == "cancel":
        gone = not _signal(conn, "pg_cancel_backend", pid, start)
    else:
        gone = mode == "escalate" and (
            not _signal(conn, "pg_cancel_backend", pid, start) or _ends(conn, pid, start, grace)
        )
        if not gone:
            _signal(conn, "pg_terminate_backend", pid, start)
            gone = _ends(conn, pid, start, grace)
            reason = "terminated" if gone else "signalled to terminate, but not ended yet"
    finish = "SELECT instrumentation.finish_kill(%s, %s, %s, %s, %s)"
    execute(conn, finish, (session, mode, ok, reason, gone))
    return ok, reason


def _signal(conn: psycopg.Connection, function: str, pid: int, start: datetime) -> bool:
    query = f"SELECT {function}(a.pid) FROM pg_stat_activity a WHERE a.pid = %s AND a.backend_start = %s AND a.backend_type = 'client backend'"
    return conn.execute(query.encode(), (pid, start)).fetchone() is not None


def _ends(conn: psycopg.Connection, pid: int, start: datetime, grace: float) -> bool:
    """Return true if a server process ends within so many seconds."""
    deadline = time.monotonic() + grace
    query = "SELECT 1 FROM pg_stat_activity a WHERE a.pid = %s AND a.backend_start = %s"
    while conn.execute(query, (pid, start)).fetchone():
        if time.monotonic() > deadline:
            return False
        time.sleep(0.01)
    return True


def follow(target: Target, session: str | None = None, *, every: float = 1.0) -> Iterator[Statement]:
    """Yield statements as they begin and as they end, of one session or all, from now on without an end.

    A statement that begins and ends between two looks, `every` so many seconds, comes once.
    """
    identity = _identity(session) if session else None
    with _connect(target) as conn:
        begin = conn.execute("SELECT now()").fetchone()
        since = begin[0] if begin else None
        seen: dict[UUID, str] = {}
        while True:
            still = [statement for statement, status in seen.items() if status == "executing"]
            values = {"since": since, "session": identity, "open": still}
            found = other_state.rows(conn, Statement, _STATEMENTS, _STATEMENT, values)
            new = [statement for statement in found if seen.get(statement.statement_id) != statement.status]
            seen = {statement.statement_id: statement.status for statement in found}
            yield from new
            time.sleep(every)


def _identity(text: str) -> UUID:
    try:
        return UUID(text)
    except ValueError as error:
        raise UsageError(f"{text} is not the id of a session", "See pgvigil sessions list.") from error


@contextmanager
def _connect(target: Target) -> Iterator[psycopg.Connection]:
    with database.connect(target, "sessions") as conn:
        require_shipped(conn)
        try:
            yield conn
        except (errors.UndefinedTable, errors.UndefinedFunction, errors.InvalidSchemaName) as error:
            raise PreconditionError(
                "this database has no instrumentation: it is not migrated, or not far enough",
                "See pgvigil status; then pgvigil migrate.",
            ) from error
