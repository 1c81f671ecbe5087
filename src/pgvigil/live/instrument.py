"""Record sessions and statements inside the application, around the calls of its driver, psycopg.

Where a statement runs, the only work is to take the time and append a tuple to the recorder's queue. Changes are made
on the one engine, pool or connection that was given, and its undo removes them.

More than 400 lines: for each hook of a driver there is one for callers that wait and one for async ones.
"""

from __future__ import annotations

import inspect
import sys
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq, sql

from pgvigil.live import records, redact
from pgvigil.live.executions import classify
from pgvigil.live.instance import POOLED, Backend, Instance, async_backend_of, backend_of, instance_of
from pgvigil.live.patching import Undo, replace
from pgvigil.live.recorder import Recorder

if TYPE_CHECKING:
    from psycopg_pool import AsyncConnectionPool, ConnectionPool
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

_PER_TRANSACTION: Final = "SELECT pg_catalog.set_config('pgvigil.session_id', %s, true)"
_ENDED_BY_OTHERS: Final = frozenset({"57P01", "57P02", "57P03"})
_BETWEEN_STATEMENTS: Final = frozenset({pq.TransactionStatus.IDLE, pq.TransactionStatus.INTRANS})


def instrument(
    target: Engine
    | AsyncEngine
    | ConnectionPool[Any]
    | AsyncConnectionPool[Any]
    | psycopg.Connection[Any]
    | psycopg.AsyncConnection[Any],
    recorder: Recorder,
    *,
    pooled: bool = False,
) -> Undo:
    """Record the sessions and statements of `target`, which are on the recorder's server, until the returned callable is called.

    target  a SQLAlchemy engine or a psycopg_pool pool, with all its connections, open now or later; or one psycopg 3
            connection
    pooled  a transaction pooler is in between: sessions have no server process, and each transaction begins by naming its
            session, which costs one more round trip, so that instrumentation.current_session() and the tags work there

    Raise TypeError for any other target, ValueError for an engine on another driver. After that it never raises, and waits only
    once per connection, to ask for its server process. A session that cannot be registered is not recorded.
    """
    engine: Any = getattr(target, "sync_engine", target)
    pools = sys.modules.get("psycopg_pool")  # an application that has a pool has imported it
    if isinstance(target, psycopg.Connection | psycopg.AsyncConnection):
        return _instrument_connection(target, instance_of(recorder), pooled)
    if pools and isinstance(target, pools.ConnectionPool | pools.AsyncConnectionPool):
        return _instrument_pool(target, instance_of(recorder), pooled)
    if type(engine).__module__.partition(".")[0] == "sqlalchemy" and hasattr(engine, "dialect"):
        if (engine.dialect.name, engine.dialect.driver.removesuffix("_async")) != ("postgresql", "psycopg"):
            raise ValueError(
                f"the engine uses {engine.dialect.name} with {engine.dialect.driver}: instrument() needs postgresql+psycopg://."
                " For other engines use ExecutionTracker."
            )
        return _instrument_engine(engine, instance_of(recorder), pooled)
    raise TypeError(
        f"cannot instrument a {type(target).__name__}: pass a SQLAlchemy Engine, a psycopg_pool pool, or a connection of"
        " psycopg 3"
    )


def _failed(session: str, text: str, began: int, error: BaseException, tag: str | None) -> records.Item:
    """Return the record of a statement that ended with this exception."""
    nanoseconds = time.perf_counter_ns() - began
    how, _, message, sqlstate = classify(error)
    if sqlstate in _ENDED_BY_OTHERS or "user request" in message or not isinstance(error, Exception):
        status = "cancelled"
    else:
        status = "timeout" if how == "timeout" else "error"
    return records.statement(
        session, text, nanoseconds, -1, status, redact.hide_values(message, sqlstate), sqlstate, tag
    )


# --- SQLAlchemy ------------------------------------------------------------------------------------------------------


def _instrument_engine(engine: Engine, instance: Instance, pooled: bool) -> Undo:
    """Wrap the three methods by which an engine's dialect calls its driver.

    Events around statements are avoided: with any listener on an engine, SQLAlchemy runs each statement through its slow path,
    which costs several times as much as all the work here. Events of the pool are rare.
    """
    from sqlalchemy import event

    dialect: Any = engine.dialect
    append, statement, clock = instance.append, records.statement, time.perf_counter_ns
    mine = object()  # key in a connection's `info`, for its session and the process that it belongs to
    sessions: weakref.WeakKeyDictionary[Any, dict[Any, Any]] = weakref.WeakKeyDictionary()
    changing = threading.RLock()  # guards `sessions` against other threads
    over = False

    def session_of(connection: Any) -> str | None:
        try:
            known = connection.info.get(mine)
        except Exception:  # noqa: BLE001 - a connection with which SQLAlchemy inspects a new server has none
            return None
        if known is not None and known[1] is instance.process:
            found: str | None = known[0]
            return found
        return None if over else begin_session(connection)

    def begin_session(connection: Any) -> str | None:
        with suppress(Exception):
            proxy = connection.connection
            driver: Any = proxy.driver_connection
            if driver.pgconn.transaction_status not in _BETWEEN_STATEMENTS:
                return None
            info = connection.info
            info[mine] = None, instance.process  # if it fails, it is not tried again with each statement
            backend = POOLED
            if not pooled:
                is_async = isinstance(driver, psycopg.AsyncConnection)
                backend = proxy.dbapi_connection.run_async(async_backend_of) if is_async else backend_of(driver)
            with changing:
                if not over:
                    session = instance.register(driver, backend)
                    info[mine] = session, instance.process
                    sessions[driver] = info
                    return session
        return None

    def end_session(info: dict[Any, Any], reason: str | None) -> None:
        known = info.pop(mine, None)
        if known and known[0] and known[1] is instance.process:
            instance.close(known[0], reason)

    def closed(_connection: Any, record: Any) -> None:
        end_session(record.info, None)

    def invalidated(_connection: Any, record: Any, error: BaseException | None) -> None:
        end_session(record.info, None if error is None else f"connection lost: {type(error).__name__}")

    def begin(connection: Any) -> None:
        session = session_of(connection)
        if session:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(_PER_TRANSACTION, (session,))
            finally:
                cursor.close()

    def watched(plain: Callable[..., None]) -> Callable[..., None]:
        def method(cursor: Any, text: str, *more: Any) -> None:
            context = more[-1]
            session = None if context is None else session_of(context.root_connection)
            if session is None:
                plain(cursor, text, *more)
                return
            began = clock()
            try:
                plain(cursor, text, *more)
            except BaseException as error:
                with suppress(Exception):
                    append(_failed(session, text, began, error, _tag(context.execution_options)))
                raise
            nanoseconds, options = clock() - began, context.execution_options
            if "pgvigil_tag" in options:
                append(statement(session, text, nanoseconds, cursor.rowcount, "success", None, None, _tag(options)))
            else:
                append(statement(session, text, nanoseconds, cursor.rowcount))

        return method

    undos = [
        replace(dialect, name, watched(getattr(dialect, name)))
        for name in ("do_execute", "do_execute_no_params", "do_executemany")
    ]
    listeners: list[tuple[Any, str, Callable[..., None]]] = [
        (engine, "close", closed),
        (engine, "invalidate", invalidated),
    ]
    if pooled:
        listeners.append((engine, "begin", begin))
    for listener in listeners:
        event.listen(*listener)

    def undo() -> None:
        nonlocal over
        if not over:
            with changing:
                over = True
            for listener in listeners:
                event.remove(*listener)
            for restore_displaced in undos:
                restore_displaced()
            for info in list(sessions.values()):
                end_session(info, "no longer instrumented")
            instance.leave(undone=True)

    return undo


def _tag(options: Any) -> str | None:
    with suppress(TypeError, ValueError):
        tag = options.get("pgvigil_tag")
        return None if tag is None else records.checked_json("the tag", tag)
    return None


# --- psycopg ---------------------------------------------------------------------------------------------------------


class _Watch:
    """A session of a psycopg connection, until the connection is closed or the watch is undone."""

    def __init__(
        self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], instance: Instance, backend: Backend
    ) -> None:
        self.connection = connection
        self.session: str | None = instance.register(connection, backend)  # None: ended
        self._instance = instance
        self._pooled = backend is POOLED
        instance.enter()
        is_async = isinstance(connection, psycopg.AsyncConnection)
        cursor = (_async_cursor if is_async else _cursor)(connection.cursor_factory, self)
        close: Any = connection.close

        def closes() -> None:
            close()
            self._look()

        async def closes_async() -> None:
            await close()
            self._look()

        self._undos = [
            replace(connection, "cursor_factory", cursor),
            replace(connection, "close", closes_async if is_async else closes),
        ]

    def _look(self) -> None:
        """Handle a close. A pool's connection may return to its pool instead of closing."""
        if self.connection.closed:
            self.end(None)

    def end(self, reason: str | None, *, undone: bool = False) -> None:
        """End the session. Cursors that live on are no longer recorded. A second call does nothing."""
        if self.session is not None:
            self._instance.close(self.session, reason)
            self.session = None
            for restore_displaced in reversed(self._undos):
                restore_displaced()
            self._instance.leave(undone=undone)

    def names_itself(self) -> bool:
        """Return true if the next statement begins a transaction that must be given its session."""
        connection = self.connection
        return (
            self._pooled
            and not connection.autocommit
            and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE
        )

    def succeeded(self, session: str, query: Any, cursor: Any, began: int) -> None:
        text = query if query.__class__ is str else _text(query, cursor)
        self._instance.append(records.statement(session, text, time.perf_counter_ns() - began, cursor.rowcount))

    def failed(self, session: str, query: Any, cursor: Any, began: int, error: BaseException) -> None:
        with suppress(Exception):
            self._instance.append(_failed(session, _text(query, cursor), began, error, None))


def _text(query: Any, cursor: Any) -> str:
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    return query.as_string(cursor) if isinstance(query, sql.Composable) else str(query)


def _cursor(base: Any, watch: _Watch) -> Any:
    def watched(name: str) -> Any:
        plain = getattr(base, name)

        def method(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
            session = watch.session
            if session is None:
                return plain(self, query, params, **options)
            if watch.names_itself():
                base.execute(self, _PER_TRANSACTION, (session,))
            began = time.perf_counter_ns()
            try:
                result = plain(self, query, params, **options)
            except BaseException as error:
                watch.failed(session, query, self, began, error)
                raise
            watch.succeeded(session, query, self, began)
            return result

        return method

    return type(base.__name__, (base,), {"execute": watched("execute"), "executemany": watched("executemany")})


def _async_cursor(base: Any, watch: _Watch) -> Any:
    def watched(name: str) -> Any:
        plain = getattr(base, name)

        async def method(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
            session = watch.session
            if session is None:
                return await plain(self, query, params, **options)
            if watch.names_itself():
                await base.execute(self, _PER_TRANSACTION, (session,))
            began = time.perf_counter_ns()
            try:
                result = await plain(self, query, params, **options)
            except BaseException as error:
                watch.failed(session, query, self, began, error)
                raise
            watch.succeeded(session, query, self, began)
            return result

        return method

    return type(base.__name__, (base,), {"execute": watched("execute"), "executemany": watched("executemany")})


def _instrument_connection(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], instance: Instance, pooled: bool
) -> Undo:
    watch: _Watch | None = None
    with suppress(Exception):
        watch = _Watch(connection, instance, POOLED if pooled else backend_of(connection))
    instance.leave(undone=False)  # from now on the watch keeps it
    return lambda: None if watch is None else watch.end("no longer instrumented", undone=True)


def _instrument_pool(pool: Any, instance: Instance, pooled: bool) -> Undo:
    """Wrap getconn, so that connections opened before are recorded as well as those the pool opens later."""
    seen: weakref.WeakSet[Any] = weakref.WeakSet()
    watches: weakref.WeakSet[_Watch] = weakref.WeakSet()  # each kept alive by its connection
    take, give = pool.getconn, pool.putconn
    changing = threading.RLock()  # guards `watches` against other threads
    over = False

    def watch(connection: Any, backend: Backend) -> None:
        with changing:
            if not over:
                watches.add(_Watch(connection, instance, backend))

    def getconn(*args: Any, **options: Any) -> Any:
        connection = take(*args, **options)
        if not over and connection not in seen:
            seen.add(connection)
            with suppress(Exception):
                watch(connection, POOLED if pooled else backend_of(connection))
        return connection

    async def async_getconn(*args: Any, **options: Any) -> Any:
        connection = await take(*args, **options)
        if not over and connection not in seen:
            try:
                with suppress(Exception):
                    watch(connection, POOLED if pooled else await async_backend_of(connection))
                seen.add(connection)
            except BaseException:  # cancelled: the caller cannot return the connection
                await give(connection)
                raise
        return connection

    def putconn(connection: Any) -> Any:
        if connection.closed:  # the pool does not close broken connections
            with changing:
                lost = [watched for watched in watches if watched.connection is connection]
            for watched in lost:
                watched.end("connection lost")
        return give(connection)

    is_async = inspect.iscoroutinefunction(take)
    undos = [
        replace(pool, "getconn", async_getconn if is_async else getconn),
        replace(pool, "putconn", putconn),
    ]

    def undo() -> None:
        nonlocal over
        if not over:
            with changing:
                over = True
            for restore_displaced in undos:
                restore_displaced()
            for watched in list(watches):
                watched.end("no longer instrumented")
            instance.leave(undone=True)

    return undo
