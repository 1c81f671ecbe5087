"""Who is connected and what they run, told by the application itself: through SQLAlchemy's events or psycopg's cursors.

Where a statement runs, nothing is done but to take the time and append a tuple to the recorder's queue. Sessions are registered
through the same queue, so each is in the database before its statements are; an instance shows that it lives by a thread of its own.
"""

from __future__ import annotations

import json
import os
import socket
import threading
import time
import weakref
from collections.abc import Callable
from contextlib import suppress
from typing import TYPE_CHECKING, Any, Final

import psycopg
from psycopg import pq, sql

from pgvigil import __version__, database
from pgvigil.live import rows
from pgvigil.live.executions import classify
from pgvigil.live.recorder import Recorder

if TYPE_CHECKING:
    from sqlalchemy import Engine
    from sqlalchemy.ext.asyncio import AsyncEngine

HEARTBEAT: Final = 20.0  # seconds; an instance counts as dead after a minute
_SESSION: Final = "pgvigil session"
_ME = b"SELECT pid, backend_start FROM pg_catalog.pg_stat_activity WHERE pid = pg_catalog.pg_backend_pid()"
_PER_TRANSACTION: Final = "SELECT set_config('pgvigil.session_id', %s, true)"
_ENDED_BY_OTHERS: Final = frozenset({"57P01", "57P02", "57P03"})


def instrument(
    target: Engine | AsyncEngine | psycopg.Connection[Any] | psycopg.AsyncConnection[Any],
    recorder: Recorder,
    *,
    pooled: bool = False,
) -> Callable[[], None]:
    """Record the sessions and statements of `target`, which are on the recorder's server, until the callable returned is called.

    pooled  a transaction pooler stands in between: sessions have no server process, and each transaction begins by naming its
            session, one round trip more, so that instrumentation.current_session() and the tags work there

    Raises TypeError for what is neither an engine of SQLAlchemy nor a connection of psycopg 3, ValueError for an engine on another
    driver. After that it never raises and never waits; a session that cannot be registered is not recorded.
    """
    engine: Any = getattr(target, "sync_engine", target)
    if isinstance(target, psycopg.Connection | psycopg.AsyncConnection):
        return _instrument_connection(target, _instance_of(recorder), pooled)
    if type(engine).__module__.partition(".")[0] == "sqlalchemy" and hasattr(engine, "dialect"):
        if (engine.dialect.name, engine.dialect.driver.removesuffix("_async")) != ("postgresql", "psycopg"):
            raise ValueError(
                f"the engine talks to {engine.dialect.name} by {engine.dialect.driver}: instrument() needs postgresql+psycopg://."
                " For other engines there is ExecutionTracker."
            )
        return _instrument_engine(engine, _instance_of(recorder), pooled)
    raise TypeError(
        f"cannot instrument a {type(target).__name__}: give an Engine of SQLAlchemy, or a connection of psycopg 3"
    )


# --- the process, and its sessions -----------------------------------------------------------------------------------


class _Instance:
    """This process, as it shows in instrumentation.instances: one per recorder, until that is closed or all is undone."""

    def __init__(self, recorder: Recorder) -> None:
        self.recorder = recorder
        self.append = recorder.append
        self.lock = threading.Lock()
        self.process = object()  # another one in a forked child; compared where asking for the pid would be felt
        self._users = 0
        self._registered: object = None
        self._closed = False
        recorder.before_close.append(self._close)

    def enter(self) -> None:
        with self.lock:
            self._users += 1
        self.require()

    def require(self) -> None:
        """Registers this process, if it has not been: a forked child is another one than its parent."""
        if self._registered is self.process:
            return
        with self.lock:
            if self._registered is not self.process and not self._closed:
                self._registered = self.process
                self.id = rows.new_id()
                self._ended = threading.Event()
                self._register()
                heart = threading.Thread(target=self._beat, args=(self._ended,), name="pgvigil heartbeat", daemon=True)
                heart.start()

    def _register(self) -> None:
        self.append(
            rows.call("register_instance", instance=self.id, hostname=socket.gethostname(), toolkit_version=__version__)
        )

    def _beat(self, ended: threading.Event) -> None:
        connection: psycopg.Connection[Any] | None = None
        while not ended.wait(HEARTBEAT):
            try:
                connection = connection or database.connect(self.recorder.target, "heartbeat")
                row = connection.execute("SELECT instrumentation.heartbeat(%s)", (self.id,)).fetchone()
                if row and not row[0]:
                    self._register()
            except Exception:  # noqa: BLE001 - the next one may succeed; without, others see that this one is missed
                if connection:
                    connection.close()
                connection = None
        if connection:
            connection.close()

    def leave(self, *, undone: bool) -> None:
        """A process that has merely no connection at the moment goes on."""
        with self.lock:
            self._users -= 1
            last = self._users == 0
        if last and undone:
            self._stop("no longer instrumented")

    def _stop(self, reason: str) -> None:
        if self._registered is self.process:
            self._registered = None
            self._ended.set()
            self.append(rows.call("stop_instance", instance=self.id, reason=reason))

    def _close(self) -> None:
        """The recorder is about to end, at the latest with the process."""
        self._closed = True
        self._stop("its recorder was closed")

    def register(self, connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], pooled: bool) -> str | None:
        """A session of this process; its id, or None if it cannot be told which server process it has."""
        self.require()
        if self._closed:
            return None
        pgconn = connection.pgconn
        pid = backend_start = None
        if not pooled:
            # Beneath psycopg, which would begin a transaction. It costs a new connection one round trip.
            answer = pgconn.exec_(_ME)
            if answer.status != pq.ExecStatus.TUPLES_OK or answer.ntuples != 1:
                return None
            first, second = answer.get_value(0, 0), answer.get_value(0, 1)
            pid, backend_start = int(first or 0), (second or b"").decode() or None
        session = rows.new_id()
        self.append(
            rows.call(
                "register_session", instance=self.id, session=session, pid=pid, backend_start=backend_start,
                username=pgconn.user.decode(), application_name=(pgconn.parameter_status(b"application_name") or b"").decode(),
            )
        )  # fmt: skip
        return session

    def close(self, session: str | None, reason: str | None) -> None:
        if session is not None:
            self.append(rows.call("close_session", session=session, reason=reason))


_instances: weakref.WeakKeyDictionary[Recorder, _Instance] = weakref.WeakKeyDictionary()
_making = threading.Lock()


def _after_fork_in_child() -> None:
    global _making  # noqa: PLW0603, RUF100 - some thread of the parent may hold the old one for ever
    _making = threading.Lock()
    for instance in list(_instances.values()):
        instance.lock, instance.process = threading.Lock(), object()


os.register_at_fork(after_in_child=_after_fork_in_child)


def _instance_of(recorder: Recorder) -> _Instance:
    with _making:
        instance = _instances.get(recorder)
        if instance is None:
            instance = _instances[recorder] = _Instance(recorder)
    instance.enter()
    return instance


def _failed(session: str, text: str, began: int, error: BaseException, tag: str | None) -> rows.Item:
    """A statement that has ended by this exception."""
    nanoseconds = time.perf_counter_ns() - began
    how, _, message, sqlstate = classify(error)
    if sqlstate in _ENDED_BY_OTHERS or "user request" in message or not isinstance(error, Exception):
        status = "cancelled"
    else:
        status = "timeout" if how == "timeout" else "error"
    return rows.statement(session, text, nanoseconds, -1, status, message, sqlstate, tag)


def _tag(options: Any) -> str | None:
    tag = options.get("pgvigil_tag")
    with suppress(TypeError, ValueError):
        return None if tag is None else json.dumps(tag, allow_nan=False)
    return None


# --- SQLAlchemy ------------------------------------------------------------------------------------------------------


def _instrument_engine(engine: Engine, instance: _Instance, pooled: bool) -> Callable[[], None]:
    from sqlalchemy import event

    append, statement, clock = instance.append, rows.statement, time.perf_counter_ns
    sessions: weakref.WeakKeyDictionary[Any, tuple[str | None, object]] = weakref.WeakKeyDictionary()

    def checkout(_connection: Any, record: Any, _proxy: Any) -> None:
        known = record.info.get(_SESSION)
        if known is None or known[1] is not instance.process:
            with suppress(Exception):
                record.info[_SESSION] = (instance.register(record.driver_connection, pooled), instance.process)
                sessions[record] = record.info[_SESSION]

    def closed(_connection: Any, record: Any) -> None:
        known = record.info.pop(_SESSION, None)
        if known and known[1] is instance.process:
            instance.close(known[0], None)

    def invalidated(_connection: Any, record: Any, error: BaseException | None) -> None:
        known = record.info.pop(_SESSION, None)
        if known and known[1] is instance.process:
            instance.close(known[0], None if error is None else f"connection lost: {type(error).__name__}")

    def begin(connection: Any) -> None:
        session = connection.info.get(_SESSION)
        if session and session[0]:
            cursor = connection.connection.cursor()
            try:
                cursor.execute(_PER_TRANSACTION, (session[0],))
            finally:
                cursor.close()

    def before(_connection: Any, _cursor: Any, _text: str, _parameters: Any, context: Any, _many: bool) -> None:
        context.pgvigil_began = clock()

    def after(connection: Any, cursor: Any, text: str, _parameters: Any, context: Any, _many: bool) -> None:
        ended = clock()
        session = connection.info.get(_SESSION)
        began = getattr(context, "pgvigil_began", None)  # None: it had begun before anybody listened
        if began is not None and session and session[0]:
            options = context.execution_options
            tag = _tag(options) if "pgvigil_tag" in options else None
            append(statement(session[0], text, ended - began, cursor.rowcount, "success", None, None, tag))

    def failed(found: Any) -> None:
        with suppress(Exception):
            context = found.execution_context
            session = found.connection.info.get(_SESSION)
            if context is not None and found.statement is not None and session and session[0]:
                began = context.pgvigil_began
                append(
                    _failed(
                        session[0], found.statement, began, found.original_exception, _tag(context.execution_options)
                    )
                )

    listeners: list[tuple[Any, str, Callable[..., None]]] = [
        (engine, "before_cursor_execute", before),
        (engine, "after_cursor_execute", after),
        (engine, "handle_error", failed),
        (engine, "checkout", checkout),
        (engine, "close", closed),
        (engine, "invalidate", invalidated),
    ]
    if pooled:
        listeners.append((engine, "begin", begin))
    for listener in listeners:
        event.listen(*listener)

    def undo() -> None:
        if listeners:
            for listener in listeners:
                event.remove(*listener)
            listeners.clear()
            for record, known in list(sessions.items()):
                if record.info.pop(_SESSION, None) == known and known[1] is instance.process:
                    instance.close(known[0], "no longer instrumented")
            instance.leave(undone=True)

    return undo


# --- psycopg ---------------------------------------------------------------------------------------------------------


def _instrument_connection(
    connection: psycopg.Connection[Any] | psycopg.AsyncConnection[Any], instance: _Instance, pooled: bool
) -> Callable[[], None]:
    session: str | None = None
    with suppress(Exception):
        session = instance.register(connection, pooled)
    factory, close = connection.cursor_factory, connection.close
    changed: Any = connection
    over = False

    def end(reason: str | None) -> None:
        nonlocal over
        if not over:
            over = True
            changed.cursor_factory = factory
            del changed.close
            instance.close(session, reason)
            instance.leave(undone=reason is not None)

    def close_it() -> Any:
        end(None)
        return close()

    if session is None:
        instance.leave(undone=False)
        return lambda: None
    watched = _async_cursor if isinstance(connection, psycopg.AsyncConnection) else _cursor
    changed.cursor_factory = watched(factory, instance.append, session, pooled)
    changed.close = close_it
    return lambda: end("no longer instrumented")


def _text(query: Any, cursor: Any) -> str:
    if isinstance(query, bytes):
        return query.decode("utf-8", "replace")
    return query.as_string(cursor) if isinstance(query, sql.Composable) else str(query)


def _begins(cursor: Any, pooled: bool) -> bool:
    connection = cursor.connection
    return pooled and not connection.autocommit and connection.pgconn.transaction_status == pq.TransactionStatus.IDLE


def _cursor(base: Any, append: Callable[[rows.Item], None], session: str, pooled: bool) -> Any:
    def watched(name: str) -> Any:
        plain = getattr(base, name)

        def method(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
            if _begins(self, pooled):
                base.execute(self, _PER_TRANSACTION, (session,))
            began = time.perf_counter_ns()
            try:
                result = plain(self, query, params, **options)
            except BaseException as error:
                append(_failed(session, _text(query, self), began, error, None))
                raise
            append(rows.statement(session, _text(query, self), time.perf_counter_ns() - began, self.rowcount))
            return result

        return method

    return type(base.__name__, (base,), {"execute": watched("execute"), "executemany": watched("executemany")})


def _async_cursor(base: Any, append: Callable[[rows.Item], None], session: str, pooled: bool) -> Any:
    def watched(name: str) -> Any:
        plain = getattr(base, name)

        async def method(self: Any, query: Any, params: Any = None, **options: Any) -> Any:
            if _begins(self, pooled):
                await base.execute(self, _PER_TRANSACTION, (session,))
            began = time.perf_counter_ns()
            try:
                result = await plain(self, query, params, **options)
            except BaseException as error:
                append(_failed(session, _text(query, self), began, error, None))
                raise
            append(rows.statement(session, _text(query, self), time.perf_counter_ns() - began, self.rowcount))
            return result

        return method

    return type(base.__name__, (base,), {"execute": watched("execute"), "executemany": watched("executemany")})
