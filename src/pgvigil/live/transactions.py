"""Transactions that an application of sessions needs, on connections of its own: psycopg's or SQLAlchemy's.

They are committed by themselves, unless the connection is in a transaction already: then they are a part of that one.
"""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from datetime import datetime
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, Final, Literal, NamedTuple, TypedDict
from uuid import UUID

import psycopg
from psycopg.rows import tuple_row

from pgvigil.errors import PreconditionError
from pgvigil.live.executions import classify

if TYPE_CHECKING:
    import sqlalchemy

    Target = psycopg.Connection[Any] | sqlalchemy.Connection | sqlalchemy.Engine

_POOLS: Final = MappingProxyType({"cli": (1, 0, 3600), "web": (5, 10, 3600), "high": (20, 50, 1800)})
_SESSION: Final = """
INSERT INTO sessions (session_key, agent_from, agent_to, expires_at, retention_policy, metadata)
VALUES (%(session_key)s, %(agent_from)s, %(agent_to)s, CAST(%(expires_at)s AS timestamptz), %(retention_policy)s, CAST(%(metadata)s AS jsonb))
RETURNING id"""
_CONTEXT: Final = """
INSERT INTO context_history (session_id, sequence_number, context_type, content, metadata, tokens_used, processing_time_ms)
VALUES (CAST(%(session_id)s AS uuid), 1, %(context_type)s, %(content)s, CAST(%(metadata)s AS jsonb), %(tokens_used)s, %(processing_time_ms)s)
RETURNING id"""
_SERIALIZATION_FAILURE: Final = "40001"


class CreatedSession(NamedTuple):
    """The ids of a new session and of its first row of context."""

    session_id: UUID
    context_id: UUID


class OperationResult(TypedDict):
    """How an operation of a batch ended; `error` is what the database, or the operation, said."""

    operation: str
    status: Literal["success", "failed"]
    error: str | None


def pool_options(profile: str) -> dict[str, int]:
    """What a pool of SQLAlchemy is made with: `create_engine(url, **pool_options("web"))`.

    cli   a program of one thread: 1 connection, none beyond it, renewed after an hour
    web   a worker process of a web application: 5 and 10 more, renewed after an hour
    high  one that serves many at a time: 20 and 50 more, renewed after half an hour

    Raises ValueError for any other name.
    """
    if profile not in _POOLS:
        raise ValueError(f"there is no pool profile {profile!r}: it has to be one of {', '.join(_POOLS)}")
    size, overflow, recycle = _POOLS[profile]
    return {"pool_size": size, "max_overflow": overflow, "pool_recycle": recycle}


def create_session(
    target: Target,
    session_key: str,
    agent_from: str,
    *,
    context_type: str,
    content: str,
    agent_to: str | None = None,
    expires_at: datetime | None = None,
    retention_policy: str = "standard",
    metadata: dict[str, Any] | None = None,
    context_metadata: dict[str, Any] | None = None,
    tokens_used: int | None = None,
    processing_time_ms: int | None = None,
) -> CreatedSession:
    """A session with its first row of context (sequence_number 1): both or neither.

    Raises the driver's own errors, such as a unique violation for a key that is taken; ValueError for an expires_at without a
    time zone; TypeError for a target that is no connection of psycopg, nor connection or engine of SQLAlchemy; PreconditionError
    where a trigger of the application let nothing in.
    """
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError("expires_at has no time zone: datetime.now(UTC) has one, and a naive time may be off by hours")
    with _transaction(target) as connection:
        session_id = _insert(
            connection,
            _SESSION,
            session_key=session_key,
            agent_from=agent_from,
            agent_to=agent_to,
            expires_at=None if expires_at is None else expires_at.isoformat(),
            retention_policy=retention_policy,
            metadata=json.dumps(metadata or {}),
        )
        context_id = _insert(
            connection,
            _CONTEXT,
            session_id=str(session_id),
            context_type=context_type,
            content=content,
            metadata=json.dumps(context_metadata or {}),
            tokens_used=tokens_used,
            processing_time_ms=processing_time_ms,
        )
    return CreatedSession(session_id, context_id)


def batch(target: Target, operations: Iterable[tuple[str, Callable[[Any], object]]]) -> list[OperationResult]:
    """Runs operations in one transaction, each in a savepoint: what a failed one wrote is undone, the others stand.

    operations  pairs of a name and a function, which is called with the connection and neither commits nor rolls back

    Returns one result each, in their order. Raises what ended the transaction itself, of which nothing stands then: a lost
    connection, a serialization failure (SQLSTATE 40001: do the whole batch again), an error of the commit; TypeError as
    create_session.
    """
    results: list[OperationResult] = []
    with _transaction(target) as connection:
        for operation, function in operations:
            _command(connection, "SAVEPOINT pgvigil_operation")
            try:
                function(connection)
            except Exception as error:
                _, kind, message, sqlstate = classify(error)
                if sqlstate == _SERIALIZATION_FAILURE:
                    raise
                try:
                    _command(connection, "ROLLBACK TO SAVEPOINT pgvigil_operation")
                except Exception as lost:
                    raise error from lost
                results.append({"operation": operation, "status": "failed", "error": message or kind})
            else:
                results.append({"operation": operation, "status": "success", "error": None})
            _command(connection, "RELEASE SAVEPOINT pgvigil_operation")
    return results


@contextmanager
def _transaction(target: Any) -> Iterator[Any]:
    if isinstance(target, psycopg.Connection):
        with target.transaction():
            yield target
        return
    from sqlalchemy import Connection, Engine

    if isinstance(target, Engine):
        with target.begin() as connection:
            yield connection
    elif isinstance(target, Connection):
        with target.begin_nested() if target.in_transaction() else target.begin():
            yield target
    else:
        raise TypeError(
            f"{type(target).__name__} is no connection of psycopg, nor connection or engine of SQLAlchemy"
            " (of its Session, give session.connection())"
        )


def _command(connection: Any, command: str) -> None:
    if isinstance(connection, psycopg.Connection):
        connection.execute(command.encode())
    else:
        connection.exec_driver_sql(command)


def _insert(connection: Any, statement: str, **values: Any) -> UUID:
    if isinstance(connection, psycopg.Connection):
        row = connection.cursor(row_factory=tuple_row).execute(statement.encode(), values).fetchone()
    else:
        from sqlalchemy import text

        row = connection.execute(text(re.sub(r"%\((\w+)\)s", r":\1", statement)), values).first()
    if not row:
        raise PreconditionError(
            "the row was neither stored nor refused: a trigger or rule of the application passes over it",
            r"See what sessions and context_history have: \d sessions in psql.",
        )
    return UUID(str(row[0]))
