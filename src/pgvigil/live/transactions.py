"""Run the transactions that an application of sessions needs, on its own connections: psycopg's or SQLAlchemy's.

They commit on their own, unless the connection is in a transaction already: then they are part of that one.
"""

from __future__ import annotations

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
from pgvigil.live.own_transaction import unfit_pooler
from pgvigil.live.records import checked_json

if TYPE_CHECKING:
    import sqlalchemy

    Target = psycopg.Connection[Any] | sqlalchemy.Connection | sqlalchemy.Engine

_POOLS: Final = MappingProxyType({"cli": (1, 0, 3600), "web": (5, 10, 3600), "high": (20, 50, 1800)})
_SESSION: Final = """
INSERT INTO {}sessions (session_key, agent_from, agent_to, expires_at, retention_policy, metadata)
VALUES (%(session_key)s, %(agent_from)s, %(agent_to)s, CAST(%(expires_at)s AS timestamp with time zone), %(retention_policy)s, CAST(%(metadata)s AS pg_catalog.jsonb))
RETURNING id"""
_CONTEXT: Final = """
INSERT INTO {}context_history (session_id, sequence_number, context_type, content, metadata, tokens_used, processing_time_ms)
VALUES (CAST(%(session_id)s AS pg_catalog.uuid), 1, %(context_type)s, %(content)s, CAST(%(metadata)s AS pg_catalog.jsonb), %(tokens_used)s, %(processing_time_ms)s)
RETURNING id"""
_MAY_READ_LEDGER: Final = """
SELECT EXISTS (SELECT 1 FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
               WHERE n.nspname OPERATOR(pg_catalog.=) 'pgvigil' AND c.relname OPERATOR(pg_catalog.=) 'migrations'
                 AND pg_catalog.has_schema_privilege(n.oid, 'USAGE')
                 AND pg_catalog.has_column_privilege(c.oid, 'schema_name', 'SELECT')
                 AND pg_catalog.has_column_privilege(c.oid, 'revision', 'SELECT'))"""
_LEDGER: Final = """
SELECT COALESCE(pg_catalog.max(pg_catalog.concat(pg_catalog.quote_ident(m.schema_name), '.')), '')
FROM pgvigil.migrations m WHERE m.revision OPERATOR(pg_catalog.=) '000'"""
_SERIALIZATION_FAILURE: Final = "40001"


class CreatedSession(NamedTuple):
    """A pair of ids: of a new session and of its first context row."""

    session_id: UUID
    context_id: UUID


class OperationResult(TypedDict):
    """A dict that says how an operation of a batch ended; `error` is the message of the database or of the operation."""

    operation: str
    status: Literal["success", "failed"]
    error: str | None


def pool_options(profile: str) -> dict[str, int]:
    """Return the options of a SQLAlchemy pool: `create_engine(url, **pool_options("web"))`.

    cli   a single-threaded program: 1 connection, none beyond it, renewed after an hour
    web   a worker process of a web application: 5 and 10 more, renewed after an hour
    high  a process that serves many requests at a time: 20 and 50 more, renewed after half an hour

    Raise ValueError for any other name.
    """
    if profile not in _POOLS:
        raise ValueError(f"there is no pool profile {profile!r}: use one of {', '.join(_POOLS)}")
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
    """Create a session with its first context row (sequence_number 1): both or neither.

    Raise the driver's own errors, such as a unique violation for a duplicate key; ValueError for an expires_at without
    a time zone, and for metadata that jsonb cannot hold; TypeError for a target that is neither a psycopg connection
    nor a SQLAlchemy connection or engine; PreconditionError if a trigger of the application skips the row, or a pooler
    refuses transactions.
    """
    if expires_at is not None and expires_at.tzinfo is None:
        raise ValueError(
            "expires_at has no time zone, and a naive time may be off by hours: use a value such as datetime.now(UTC)"
        )
    documents = [checked_json("metadata", metadata or {}), checked_json("context_metadata", context_metadata or {})]
    with _transaction(target) as connection:
        schema = _schema(connection)
        session_id = _insert(
            connection,
            schema,
            _SESSION,
            session_key=session_key,
            agent_from=agent_from,
            agent_to=agent_to,
            expires_at=None if expires_at is None else expires_at.isoformat(),
            retention_policy=retention_policy,
            metadata=documents[0],
        )
        context_id = _insert(
            connection,
            schema,
            _CONTEXT,
            session_id=str(session_id),
            context_type=context_type,
            content=content,
            metadata=documents[1],
            tokens_used=tokens_used,
            processing_time_ms=processing_time_ms,
        )
    return CreatedSession(session_id, context_id)


def batch(target: Target, operations: Iterable[tuple[str, Callable[[Any], object]]]) -> list[OperationResult]:
    """Run operations in one transaction, each in a savepoint: the writes of a failed one are undone, the others are
    kept.

    operations  pairs of a name and a function, which is called with the connection and neither commits nor rolls back

    Return one result each, in their order. Raise any error that ended the whole transaction, which then keeps nothing:
    a lost connection, a serialization failure (SQLSTATE 40001: run the whole batch again), an error of the commit;
    TypeError as create_session.
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
    try:
        with _begun(target) as connection:
            yield connection
    except Exception as error:
        if (reason := unfit_pooler(getattr(error, "orig", None) or error)) is not None:
            raise reason from error
        raise


@contextmanager
def _begun(target: Any) -> Iterator[Any]:
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
            f"{type(target).__name__} is neither a psycopg connection nor a SQLAlchemy connection or engine"
            " (for a SQLAlchemy Session, pass session.connection())"
        )


def _command(connection: Any, command: str) -> None:
    if isinstance(connection, psycopg.Connection):
        connection.execute(command.encode())
    else:
        connection.exec_driver_sql(command)


def _schema(connection: Any) -> str:
    """Return the schema of the application's tables, quoted and with its dot.

    It is empty if the role may not read it: then the search_path finds the tables. The right is checked first, because an error
    would end the transaction.
    """
    [readable] = _row(connection, _MAY_READ_LEDGER)
    return str(_row(connection, _LEDGER)[0]) if readable else ""


def _row(connection: Any, query: str) -> Any:
    if isinstance(connection, psycopg.Connection):
        return connection.cursor(row_factory=tuple_row).execute(query.encode()).fetchone()
    return connection.exec_driver_sql(query).first()


def _insert(connection: Any, schema: str, statement: str, **values: Any) -> UUID:
    if isinstance(connection, psycopg.Connection):
        query: Any = statement.format(schema.replace("%", "%%")).encode()
        row = connection.cursor(row_factory=tuple_row).execute(query, values).fetchone()
    else:
        from sqlalchemy import text

        query = re.sub(r"%\((\w+)\)s", r":\1", statement).format(schema.replace(":", r"\:"))
        row = connection.execute(text(query), values).first()
    if not row:
        raise PreconditionError(
            "the row was neither stored nor refused: a trigger or rule of the application skips it",
            r"List the triggers and rules of sessions and context_history: \d sessions in psql.",
        )
    return UUID(str(row[0]))
