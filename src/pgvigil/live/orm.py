"""The hooks on the sessions, engine and exceptions of SQLAlchemy, each with its undo.

Only the given objects are changed: the class that a sessionmaker has made for itself, one engine's dialect and pool.
There are no events around statements: with any such listener, each statement takes the long way through SQLAlchemy. The
two exception classes are the process's; they are restored when the last monitor is undone.
"""

from __future__ import annotations

import sys
import weakref
from collections.abc import Callable
from contextlib import suppress
from contextvars import ContextVar
from time import perf_counter_ns as clock
from typing import TYPE_CHECKING, Any, Final

from sqlalchemy import event
from sqlalchemy import exc as core_exc
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.orm import exc as orm_exc
from sqlalchemy.pool import PoolProxiedConnection

from pgvigil.live.monitor_counts import BEGUN, CLOSED, Counts, Event
from pgvigil.live.patching import Undo, replace

if TYPE_CHECKING:
    from sqlalchemy.ext.asyncio import AsyncSession, async_sessionmaker

# In the __dict__ of a session: since when it is open, with its entry among the open ones; whether its unit of work has begun; and
# how that ended.
_OPEN: Final = "_pgvigil_open"
_BEGUN: Final = "_pgvigil_begun"
_OUTCOME: Final = "_pgvigil_settled"
_MONITORED: Final = "_pgvigil_monitored"  # of a class
_UNDOS: Final = "_pgvigil_undos"  # of a pool, by monitor

# When the newest connection of this task or thread had been made, and how long that took: a wait for the pool does not include it.
_created: ContextVar[tuple[int, int]] = ContextVar("pgvigil_created", default=(0, 0))


def session_class(factory: Any) -> tuple[type[Session], Undo]:
    """The class of the sessions that a factory makes, and how to undo what had to be set for that.

    Raise TypeError for others.

    Taken are a sessionmaker, an async_sessionmaker, a scoped_session of either, whatever has one as `session_factory`
    or `session` (flask-sqlalchemy's `db`), and a subclass of Session.
    """
    seen = 0
    # An application that has such a factory has imported the module. Without greenlet, which is not everywhere, it cannot be imported.
    asynchronous = getattr(sys.modules.get("sqlalchemy.ext.asyncio"), "async_sessionmaker", ())
    while not isinstance(factory, (sessionmaker, type)) and not isinstance(factory, asynchronous) and seen < 3:
        inner = getattr(factory, "session_factory", None)
        factory = getattr(factory, "session", None) if inner is None else inner
        seen += 1
    if isinstance(factory, sessionmaker):
        return factory.class_, lambda: None
    if isinstance(factory, asynchronous):
        return _class_for_async(factory)
    if isinstance(factory, type) and issubclass(factory, Session) and factory is not Session:
        return factory, lambda: None
    raise TypeError(
        "the sessions to monitor are given by a sessionmaker, an async_sessionmaker, a scoped_session or a subclass of Session:"
        " sessions of the class sqlalchemy.orm.Session itself are those of every library in this process"
    )


def _class_for_async(factory: async_sessionmaker[Any]) -> tuple[type[Session], Undo]:
    asynchronous: type[AsyncSession] = factory.class_
    before = factory.kw.get("sync_session_class")
    base: type[Session] = before or asynchronous.sync_session_class
    made = type(base.__name__, (base,), {"__module__": base.__module__})
    factory.configure(sync_session_class=made)

    def undo() -> None:
        if factory.kw.get("sync_session_class") is made:
            if before is None:
                del factory.kw["sync_session_class"]
            else:
                factory.configure(sync_session_class=before)

    return made, undo


def watch_sessions(cls: type[Session], counts: Counts) -> Undo:
    """Count the sessions of this class, and their units of work; again does nothing.

    Raise ValueError if another monitor does so.
    """
    if vars(cls).get(_MONITORED) is counts:
        return lambda: None
    if _MONITORED in vars(cls):
        raise ValueError(f"the sessions of {cls.__name__} are monitored by another monitor: call close() of that first")
    emit, opened = counts.emit_unchecked, counts.open
    add, discard, append, ref, check = opened.add, opened.discard, counts.queue.append, weakref.ref, counts.check
    over = False

    def leaked(entry: weakref.ref[Any]) -> None:
        # In the garbage collector, at any point of any statement: no lock, no arithmetic.
        if entry in opened:
            discard(entry)
            append("leaked")

    def open_(session: Session, since: int) -> None:
        entry = ref(session, leaked)
        session.__dict__[_OPEN] = entry, since
        add(entry)
        check()
        now = len(opened)
        if now > counts.peak:
            counts.peak = now

    init: Any = cls.__init__

    def __init__(self: Session, *args: Any, **options: Any) -> None:
        began = clock()
        init(self, *args, **options)
        if not over:
            now = clock()
            emit(("creation", now - began))
            open_(self, now)

    def closing(plain: Callable[..., Any]) -> Callable[..., Any]:
        def close(self: Session, *args: Any, **options: Any) -> Any:
            state = self.__dict__.pop(_OPEN, None)
            # Closed before, made before there was a monitor, or by the process that this one was forked from.
            if state is None or state[0] not in opened:
                return plain(self, *args, **options)
            discard(state[0])
            began = clock()
            try:
                return plain(self, *args, **options)
            except Exception as error:
                _failed(error, emit)
                raise
            finally:
                if not over:
                    now = clock()
                    emit((CLOSED, now - began, now - state[1]))

        return close

    def after_begin(session: Session, _transaction: Any, _connection: Any) -> None:
        state = session.__dict__
        if _BEGUN not in state:  # once, however many connections and savepoints follow
            state[_BEGUN] = True
            entry = state.get(_OPEN)
            if entry is None or entry[0] not in opened:
                emit("reopened")
                open_(session, clock())

    def after_commit(session: Session) -> None:
        if not session.in_nested_transaction():
            session.__dict__[_OUTCOME] = "commits"
        else:
            emit("savepoint_releases")

    def after_rollback(session: Session) -> None:
        # Within a failed flush: to wrap flush(), which is called before each query, would cost more than all else here.
        if session._flushing and (error := sys.exception()) is not None:
            _failed(error, emit)
        if not session.in_nested_transaction():
            session.__dict__[_OUTCOME] = "rollbacks"
        else:
            emit("savepoint_rollbacks")

    def after_transaction_end(session: Session, transaction: Any) -> None:
        if transaction.parent is None:
            state = session.__dict__
            outcome = state.pop(_OUTCOME, "discarded")
            emit(BEGUN[outcome] if state.pop(_BEGUN, False) else outcome)

    undos = [
        replace(cls, "__init__", __init__),
        *(replace(cls, name, closing(getattr(cls, name))) for name in ("close", "reset", "invalidate")),
    ]
    setattr(cls, _MONITORED, counts)
    listeners: list[tuple[str, Callable[..., None]]] = [
        ("after_begin", after_begin),
        ("after_commit", after_commit),
        ("after_rollback", after_rollback),
        ("after_transaction_end", after_transaction_end),
    ]
    for name, listener in listeners:
        event.listen(cls, name, listener)

    def undo() -> None:
        nonlocal over
        if not over:
            over = True
            for name, listener in listeners:
                event.remove(cls, name, listener)
            for restore in undos:
                restore()
            delattr(cls, _MONITORED)
            opened.clear()

    return undo


def _failed(error: BaseException, emit: Callable[[Event], None]) -> None:
    """Count an error once, although several layers see it."""
    cause: Any = getattr(error, "orig", None) or error
    if not getattr(cause, "_pgvigil_counted", False):
        with suppress(AttributeError):  # of an exception with slots: rather counted twice than not
            cause._pgvigil_counted = True
        emit("errors")
        emit(f"error_type/{type(cause).__name__[:60]}")


# --- engine and pool -------------------------------------------------------------------------------------------------


def watch_engine(engine: Any, name: str, counts: Counts) -> Undo:
    """Count failed statements of this engine, and what its pool does, under this name."""
    emit, check = counts.emit_unchecked, counts.check
    stamp = object()  # under this key a connection knows since when it is in use
    waiting = counts.waiting.setdefault(name, [])
    made = [0]  # rises with each connection that is made; to see that there was one, a race does not matter
    pools: weakref.WeakSet[Any] = weakref.WeakSet()
    wait, use, create = f"wait/{name}", f"use/{name}", f"create/{name}"
    timeouts, checkins = f"timeouts/{name}", f"checkins/{name}"
    over = False

    is_disconnect = engine.dialect.is_disconnect

    def asked_about_error(error: Any, connection: Any, cursor: Any) -> Any:
        # SQLAlchemy asks this about each error of the driver, and never without one: nothing is in the way of what succeeds.
        # About a ping of the pool, which no application sees fail, it asks with the driver's own connection.
        if not over and (connection is None or isinstance(connection, PoolProxiedConnection)):
            _failed(error, emit)
        return is_disconnect(error, connection, cursor)

    def watch_pool(pool: Any) -> None:
        connect, recreate, creator = pool.connect, pool.recreate, getattr(pool, "_invoke_creator", None)

        def monitored_connect() -> Any:
            if over:
                return connect()
            before = made[0]
            waiting.append(None)
            began = clock()
            try:
                taken = connect()
            except core_exc.TimeoutError as error:
                emit(timeouts)
                _failed(error, emit)
                raise
            except Exception as error:
                _failed(error, emit)
                raise
            finally:
                waiting.pop()
            now = clock()
            took = now - began
            if made[0] != before and (created := _created.get())[0] >= began:
                took = max(0, took - created[1])
            emit((wait, took))
            check()
            info = taken.record_info
            if info is not None:
                info[stamp] = now
            return taken

        def monitored_creator(*args: Any) -> Any:
            began = clock()
            try:
                return creator(*args)  # type: ignore[misc]
            finally:
                now = clock()
                took = now - began
                _created.set((now, took))
                made[0] += 1
                if not over:
                    emit((create, took))

        def monitored_recreate() -> Any:
            new = recreate()  # after dispose(): its events come along, what is set on the instance does not
            if not over:
                watch_pool(new)
            return new

        undos = [replace(pool, "connect", monitored_connect), replace(pool, "recreate", monitored_recreate)]
        if creator is not None:
            undos.append(replace(pool, "_invoke_creator", monitored_creator))
        vars(pool).setdefault(_UNDOS, {})[stamp] = (
            undos  # with the pool itself: one that is disposed of is not to be kept
        )
        pools.add(pool)

    def checkin(_connection: Any, record: Any) -> None:
        began = record.record_info.pop(stamp, None)
        emit(checkins if began is None else (use, clock() - began))

    undos = [replace(engine.dialect, "is_disconnect", asked_about_error)]
    watch_pool(engine.pool)
    event.listen(engine, "checkin", checkin)

    def undo() -> None:
        nonlocal over
        if not over:
            over = True
            event.remove(engine, "checkin", checkin)
            for restore in undos:
                restore()
            for pool in list(pools):
                of_all = vars(pool)[_UNDOS]
                for restore in of_all.pop(stamp):
                    restore()
                if not of_all:
                    del vars(pool)[_UNDOS]

    return undo


def pool_gauges(pool: Any, name: str, pending: int = 0) -> dict[str, float | None]:
    """The state of a pool; None for what its kind does not have, so that no number is older than this moment."""

    def asked(method: str) -> int | None:
        try:
            value = getattr(pool, method)()
        except Exception:  # noqa: BLE001 - pools of other libraries: a gauge that fails is one that is not there
            return None
        return value if type(value) is int else None

    size, used, idle, overflow = (asked(method) for method in ("size", "checkedout", "checkedin", "overflow"))
    most = getattr(pool, "_max_overflow", None)
    most = most if type(most) is int else None
    capacity = size + most if size and most is not None and most >= 0 else None  # size 0 and overflow -1: no limit
    return {
        f"pool_size/{name}": size,
        f"checked_out/{name}": used,
        f"checked_in/{name}": idle,
        f"overflow/{name}": None if overflow is None else max(0, overflow),  # an idle pool answers minus its size
        f"max_overflow/{name}": most if most is None or most >= 0 else None,
        f"capacity/{name}": capacity,
        f"utilization/{name}": None if capacity is None or used is None else used / capacity,
        f"pending/{name}": pending,
    }


# --- exceptions ------------------------------------------------------------------------------------------------------

_EXCEPTIONS: Final = ((orm_exc.DetachedInstanceError, "detached"), (core_exc.MissingGreenlet, "greenlet"))
_sinks: list[Callable[[Event], None]] = []
_exception_undos: list[Undo] = []


def watch_exceptions(emit: Callable[[Event], None]) -> Undo:
    """Count both kinds where they are made: also those that the application catches."""

    def counting(plain: Any, kind: str) -> Any:
        def __init__(self: BaseException, *args: Any, **options: Any) -> None:
            plain(self, *args, **options)
            for sink in tuple(_sinks):
                sink(kind)

        return __init__

    if not _sinks:
        for cls, kind in _EXCEPTIONS:
            _exception_undos.append(replace(cls, "__init__", counting(cls.__init__, kind)))
    _sinks.append(emit)

    def undo() -> None:
        if emit in _sinks:
            _sinks.remove(emit)
            if not _sinks:
                while _exception_undos:
                    _exception_undos.pop()()

    return undo
