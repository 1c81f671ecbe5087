"""Measure, record and read the executions of queries on any engine."""

from __future__ import annotations

import asyncio
import inspect
import logging
import os
import time
import weakref
from collections import deque
from collections.abc import Callable, Sequence
from contextlib import suppress
from datetime import UTC, datetime
from functools import wraps
from typing import Any, Final, NamedTuple, TypedDict, TypeVar, Unpack

import psycopg
from psycopg.rows import dict_row

from pgvigil import database
from pgvigil.live import execution_queries as queries
from pgvigil.live import literals, records
from pgvigil.live.copy_encoding import Encoder
from pgvigil.live.own_transaction import find_tables, in_query, own_transaction, refuse_standby
from pgvigil.live.recorder import Recorder
from pgvigil.live.writer import adding_executions

_log = logging.getLogger("pgvigil")
_IDLE: Final = 4  # connections kept for the next call
_CANNOT_WRITE: Final = (psycopg.errors.FeatureNotSupported, psycopg.errors.ReadOnlySqlTransaction)
_LOST: Final = ("08", "57")  # SQLSTATE classes of a connection that the server or a pooler ended
_ENGINE_ERRORS: Final = frozenset(
    {"DatabaseError", "InterfaceError"}
)  # PEP 249: each driver defines its own classes with these names
F = TypeVar("F", bound=Callable[..., Any])


class Details(TypedDict, total=False):
    """A dict of the details of an execution besides query, engine and status.

    execution_id defaults to a new one; an id that is in the database already is not written again. execution_time is in
    seconds. completed_at defaults to now, started_at to execution_time before it. Times need a time zone. Secrets are removed
    from the three dicts, from error_message and from the query.
    """

    execution_id: str | None
    user_id: str | None
    conversation_id: str | None
    execution_time: float | None
    total_rows: int | None
    returned_rows: int | None
    page: int | None
    page_size: int | None
    error_message: str | None
    error_type: str | None
    started_at: datetime | None
    completed_at: datetime | None
    connection_params: dict[str, Any] | None
    request_metadata: dict[str, Any] | None
    response_metadata: dict[str, Any] | None


class ExecutionPage(NamedTuple):
    """A page of executions, newest first, each with the columns of query_executions. `next_cursor` is None on the last page."""

    executions: list[dict[str, Any]]
    next_cursor: str | None


class ExecutionTracker:
    """A tracker that records executions through `recorder` and reads them from its database, in threads and async code alike.

    normalize_literals  store queries and error messages with ? instead of their strings and numbers

    The reading functions and log_execution raise ConnectError, PreconditionError or psycopg.Error for database errors, and
    ValueError for bad arguments. Times are in UTC. The reading functions block: in async code, use
    `await asyncio.to_thread(tracker.get_execution_stats, "ada")`.
    """

    def __init__(self, recorder: Recorder, *, normalize_literals: bool = False) -> None:
        self._recorder = recorder
        self._normalize = normalize_literals
        self._idle: _Idle = deque()
        self._table = ""
        weakref.finalize(self, _close, self._idle)

    # --- writing -----------------------------------------------------------------------------------------------------

    def _item(self, query: str, database_type: str, status: str, details: Details) -> records.Item:
        if self._normalize and details.get("error_message"):
            message = str(details["error_message"]).splitlines()[0]
            details = {**details, "error_message": literals.normalize_literals(message, "")}
        return records.execution(query, database_type, status, normalize_literals=self._normalize, **details)

    async def log_execution(
        self, query: str, database_type: str, status: str = "success", **details: Unpack[Details]
    ) -> int:
        """Write one execution now and return its id in the database.

        A known execution_id returns the id of its existing row.

        Raise ValueError or TypeError for values that cannot be stored, and psycopg.Error and ConnectError unchanged.
        """
        [line] = Encoder().lines(records.EXECUTION, [self._item(query, database_type, status, details)])
        return await asyncio.to_thread(self._add, line)

    def _add(self, line: str) -> int:
        statement, columns = adding_executions([line])
        found = self._ask(f"{statement} RETURNING id", columns, writing=True)
        if not found:  # not in one statement: neither half would see a row that another session has just committed
            found = self._ask("SELECT id FROM {} WHERE execution_id OPERATOR(pg_catalog.=) %s", columns[0])
        return int(found[0]["id"])

    def log_execution_background(
        self, query: str, database_type: str, status: str = "success", **details: Unpack[Details]
    ) -> str | None:
        """Queue one execution and return its execution_id at once. Never raises and never waits.

        Return None if the execution cannot be stored; the logger "pgvigil" warns and names the reason.
        """
        try:
            execution_id = details.setdefault("execution_id", None) or records.new_id()
            details["execution_id"] = execution_id
            self._recorder.append(self._item(query, database_type, status, details))
        except Exception as error:  # noqa: BLE001 - recording must never make a query fail
            with suppress(Exception):
                _log.warning("execution not recorded: %s: %s", type(error).__name__, error)
            return None
        return execution_id

    def track_execution(self, query: str | Callable[..., str], database_type: str, **details: Any) -> TrackedExecution:
        """Measure a `with` block, or each call of the decorated function, and record it.

        In a `with` block it yields the TrackedExecution, whose attributes can be set. As a decorator, for functions and
        coroutine functions, the query and each detail may be a function of the call's arguments:

            @tracker.track_execution(lambda sql, _: sql, "postgresql", user_id=lambda _, user: user)

        The exception decides the status and is always passed on: timeout (an exception of that kind, SQLSTATE 57014),
        failed (the engine's error), error (any other, also CancelledError). Raise ValueError or TypeError at once for
        values that cannot be stored, and nothing later.
        """
        fixed = {name: value for name, value in details.items() if not callable(value)}
        records.execution("" if callable(query) else query, database_type, **fixed)
        if unknown := details.keys() - Details.__annotations__.keys():
            raise TypeError(f"track_execution() has no argument {', '.join(sorted(unknown))}")
        return TrackedExecution(self, query, database_type, details)

    # --- reading -----------------------------------------------------------------------------------------------------

    def get_user_executions(
        self,
        user_id: str,
        *,
        limit: int = 100,
        offset: int = 0,
        status: str | None = None,
        database_type: str | None = None,
        cursor: str | None = None,
    ) -> ExecutionPage:
        """Return `limit` (1 to 1000) executions of a user, newest first, after `offset` or after a page's next_cursor.

        A cursor is as fast on the thousandth page as on the first, and rows written meanwhile do not shift the pages.
        """
        _between("limit", limit, 1, 1000)
        _between("offset", offset, 0, 2**31 - 1)
        if status is not None and status not in queries.STATUSES:
            raise ValueError(f"status is {status!r}: use one of {', '.join(queries.STATUSES)}")
        if cursor is not None and offset:
            raise ValueError("both offset and cursor were given: use only one")
        found = self._ask(
            *queries.page(
                "*",
                user_id=user_id,
                status=status,
                database_type=database_type,
                cursor=cursor,
                limit=limit,
                offset=offset,
            )
        )
        page = found[:limit]
        return ExecutionPage(
            page, queries.encoded(page[-1]["started_at"], page[-1]["id"]) if len(found) > limit else None
        )

    def get_execution_stats(self, user_id: str | None = None, days: int = 7) -> dict[str, Any]:
        """Return the figures of the last `days` (1 to 365) times 24 hours, of one user or of all.

        Keys: period_days, total_executions, success_count, failed_count, error_count, timeout_count, success_rate (%),
        avg_execution_time and max_execution_time (seconds), total_rows_processed. Without executions, rate and times are None.
        """
        _between("days", days, 1, 365)
        [stats] = self._ask(*queries.stats(user_id, days))
        return stats

    def get_database_type_stats(self, user_id: str | None = None) -> list[dict[str, Any]]:
        """Return figures per engine, the most used first, over all stored executions of one user or of all.

        Keys: database_type, execution_count, success_count, failed_count (refused by the engine), avg_execution_time (seconds).
        """
        return self._ask(*queries.database_stats(user_id))

    # --- its connections ---------------------------------------------------------------------------------------------

    def _ask(self, query: str, parameters: Sequence[Any], *, writing: bool = False) -> list[dict[str, Any]]:
        """Run a query that can be repeated: if the server or a pooler ended the connection, it runs again on a new one."""
        connection = _take(self._idle)
        kept = connection is not None
        try:
            if connection is None:
                connection = database.open_connection(self._recorder.target, "executions")
            self._table = self._table or find_tables(connection, writing=writing)[records.EXECUTION]
            statement = query.replace("{}", in_query(self._table)).encode()
            try:
                with own_transaction(connection, read_only=not writing):
                    found = connection.cursor(row_factory=dict_row).execute(statement, parameters).fetchall()
            except _CANNOT_WRITE:
                refuse_standby(connection)
                raise
        except BaseException as error:
            if connection is not None:
                connection.close()
            if kept and isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08")[:2] in _LOST:
                return self._ask(query, parameters, writing=writing)
            raise
        if len(self._idle) < _IDLE:
            self._idle.append((os.getpid(), connection))
        else:
            connection.close()
        return found

    def close(self) -> None:
        """Close the idle connections. The recorder continues."""
        _close(self._idle)

    def __enter__(self) -> ExecutionTracker:
        return self

    def __exit__(self, *exc: object) -> None:
        self.close()


_Idle = deque[tuple[int, psycopg.Connection[Any]]]  # each with the process it belongs to
_inherited: list[psycopg.Connection[Any]] = []  # a forked child leaves its parent's connections open and unused


def _take(idle: _Idle) -> psycopg.Connection[Any] | None:
    with suppress(IndexError):
        while True:
            pid, connection = idle.pop()
            if pid == os.getpid():
                return connection
            _inherited.append(connection)
    return None


def _close(idle: _Idle) -> None:
    while connection := _take(idle):
        connection.close()


class TrackedExecution:
    """An execution in progress, made by ExecutionTracker.track_execution. Set its attributes as they become known.

    Without an exception its status is success, unless `status` is set.
    """

    def __init__(
        self, tracker: ExecutionTracker, query: str | Callable[..., str], database_type: str, details: dict[str, Any]
    ) -> None:
        self._tracker = tracker
        self._query = query
        self._database_type = database_type
        self._details = details
        self._began = 0.0
        self._started_at: datetime | None = None
        self.status = "success"
        self.total_rows: int | None = None
        self.returned_rows: int | None = None
        self.error_message: str | None = None
        self.error_type: str | None = None
        self.response_metadata: dict[str, Any] = {}
        self.execution_id: str | None = None  # known once the execution is recorded

    def __enter__(self) -> TrackedExecution:
        self._started_at = datetime.now(UTC)
        self._began = time.perf_counter()
        return self

    def __exit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        seconds = time.perf_counter() - self._began
        with suppress(Exception):
            given = {name: value for name in _SETTABLE if (value := getattr(self, name))}
            details = {**self._details, **given, "execution_time": seconds, "started_at": self._started_at}
            status = self.status
            if error is not None:
                status, details["error_type"], details["error_message"], sqlstate = classify(error)
                if sqlstate:
                    details["response_metadata"] = {**(details.get("response_metadata") or {}), "sqlstate": sqlstate}
            query: Any = self._query
            self.execution_id = self._tracker.log_execution_background(query, self._database_type, status, **details)

    async def __aenter__(self) -> TrackedExecution:
        return self.__enter__()

    async def __aexit__(self, kind: object, error: BaseException | None, traceback: object) -> None:
        self.__exit__(kind, error, traceback)

    def __call__(self, function: F) -> F:
        if inspect.isgeneratorfunction(function) or inspect.isasyncgenfunction(function):
            raise TypeError(f"{function.__name__} is a generator: use track_execution in a `with` block inside it")
        tracked: Any
        if inspect.iscoroutinefunction(function):

            @wraps(function)
            async def tracked(*args: Any, **kwargs: Any) -> Any:
                with self._of_call(args, kwargs):
                    return await function(*args, **kwargs)
        else:

            @wraps(function)
            def tracked(*args: Any, **kwargs: Any) -> Any:
                with self._of_call(args, kwargs):
                    return function(*args, **kwargs)

        result: F = tracked
        return result

    def _of_call(self, args: tuple[Any, ...], kwargs: dict[str, Any]) -> TrackedExecution:
        def of_call(value: Any) -> Any:
            if not callable(value):
                return value
            try:
                return value(*args, **kwargs)
            except Exception as error:  # noqa: BLE001 - recording must never make a query fail
                _log.warning("a detail of an execution could not be computed: %s: %s", type(error).__name__, error)
                return None

        query = of_call(self._query)
        details = {name: of_call(value) for name, value in self._details.items()}
        return TrackedExecution(self._tracker, "" if query is None else query, self._database_type, details)


_SETTABLE: Final = ("total_rows", "returned_rows", "error_message", "error_type", "response_metadata")


def classify(error: BaseException) -> tuple[str, str, str, str | None]:
    """Return status, type, message and SQLSTATE for the exception that ended an execution. Wrappers such as SQLAlchemy's are unwrapped."""
    chain: list[BaseException] = []
    current: Any = error
    while isinstance(current, BaseException) and len(chain) < 8:
        chain.append(current)
        current = getattr(current, "orig", None) or current.__cause__
    sqlstates = [s for e in chain for name in ("sqlstate", "pgcode") if isinstance(s := getattr(e, name, None), str)]
    names = {kind.__name__ for e in chain for kind in type(e).__mro__}
    if not isinstance(error, Exception):
        status = "error"
    elif "57014" in sqlstates or any("Timeout" in name for name in names):
        status = "timeout"
    else:
        status = "failed" if sqlstates or names & _ENGINE_ERRORS else "error"
    innermost = getattr(error, "orig", None)
    message = ""
    with suppress(Exception):
        message = str(innermost if isinstance(innermost, BaseException) else error)
    return status, type(error).__name__, message, sqlstates[0] if sqlstates else None


def _between(what: str, value: int, smallest: int, largest: int) -> None:
    if isinstance(value, bool) or not isinstance(value, int) or not smallest <= value <= largest:
        raise ValueError(f"{what} is {value!r}: use a whole number from {smallest} to {largest}")
