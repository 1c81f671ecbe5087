"""The session monitor in one process: what it counts of SQLAlchemy, and that it leaves no trace."""

from __future__ import annotations

import asyncio
import gc
import os
import subprocess
import sys
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import ForeignKey, create_engine, event, select, text
from sqlalchemy.exc import IntegrityError, MissingGreenlet, OperationalError, ProgrammingError, StatementError
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.ext.asyncio import async_scoped_session, async_sessionmaker, create_async_engine
from sqlalchemy.orm import (
    DeclarativeBase,
    Mapped,
    Session,
    mapped_column,
    relationship,
    scoped_session,
    sessionmaker,
)
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import NullPool, QueuePool

from conftest import PROJECT, Database
from pgvigil.live import SessionPerformanceMonitor
from pgvigil.live.monitor_counts import Counts, current_request

pytestmark = pytest.mark.client_side


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str] = mapped_column(unique=True)
    orders: Mapped[list[Order]] = relationship()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))


@pytest.fixture
def engine() -> Iterator[Any]:
    # Savepoints need SQLite's own transactions to be left alone by its driver.
    made = create_engine("sqlite://", poolclass=QueuePool, pool_size=2, max_overflow=1, pool_timeout=0.01,
                         connect_args={"check_same_thread": False})  # fmt: skip
    event.listen(made, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
    event.listen(made, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
    with made.connect() as connection:
        Base.metadata.create_all(connection)
        connection.commit()
    yield made
    made.dispose()


@pytest.fixture
def factory(engine: Any) -> sessionmaker[Session]:
    return sessionmaker(engine)


@pytest.fixture
def monitor(factory: sessionmaker[Session], engine: Any) -> Iterator[SessionPerformanceMonitor]:
    made = SessionPerformanceMonitor()
    made.attach(factory, engine)
    yield made
    made.close()


def counted(monitor: SessionPerformanceMonitor, *names: str) -> dict[str, Any]:
    """Those of the metrics that are not zero, or those named."""
    metrics = monitor.get_current_metrics()
    flat = metrics["session_metrics"] | metrics["recovery_metrics"] | metrics["pool_metrics"]
    return {name: flat[name] for name in names}


def sessions(monitor: SessionPerformanceMonitor) -> tuple[int, int, int, int]:
    """Created, reopened, closed, active."""
    found = monitor.get_current_metrics()["session_metrics"]
    return found["creations"], found["reopened"], found["closures"], found["active_sessions"]


def work(monitor: SessionPerformanceMonitor) -> tuple[int, int, int, int]:
    """Begun, committed, rolled back, ended by neither."""
    found = monitor.get_current_metrics()["session_metrics"]
    return found["begins"], found["commits"], found["rollbacks"], found["discarded"]


# --- sessions --------------------------------------------------------------------------------------------------------


def test_a_session_is_created_and_closed_once(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    session = factory()
    assert sessions(monitor) == (1, 0, 0, 1)
    session.close()
    session.close()
    assert sessions(monitor) == (1, 0, 1, 0)


@pytest.mark.parametrize("how", ["close", "reset", "invalidate"])
def test_each_way_to_close_a_session_is_counted(monitor: SessionPerformanceMonitor, factory: Any, how: str) -> None:
    session = factory()
    session.execute(select(1))
    getattr(session, how)()
    assert sessions(monitor) == (1, 0, 1, 0)


def test_a_session_that_is_used_again_after_close_is_counted_again(
    monitor: SessionPerformanceMonitor, factory: Any
) -> None:
    session = factory()
    for _ in range(3):
        session.execute(select(1))
        session.close()
    assert sessions(monitor) == (1, 2, 3, 0)


def test_a_session_that_was_there_before_the_monitor_is_counted_when_it_is_used(engine: Any, factory: Any) -> None:
    session = factory()
    monitor = SessionPerformanceMonitor()
    monitor.attach(factory, engine)
    try:
        session.execute(select(1))
        session.close()
        assert sessions(monitor) == (0, 1, 1, 0)
    finally:
        monitor.close()


def test_a_scoped_session_is_closed_by_remove(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    scoped = scoped_session(factory)
    scoped.execute(select(1))
    scoped.remove()
    assert sessions(monitor) == (1, 0, 1, 0)


def test_sessions_of_another_factory_are_not_counted(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    with sessionmaker(engine)() as session:
        session.execute(select(1))
    with Session(engine) as session:
        session.execute(select(1))
    assert sessions(monitor) == (0, 0, 0, 0)


def test_a_session_that_is_collected_open_is_leaked(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    session = factory()
    session.execute(select(1))
    del session
    gc.collect()
    assert counted(monitor, "leaked", "closures", "active_sessions") == {
        "leaked": 1,
        "closures": 0,
        "active_sessions": 0,
    }


def test_a_session_that_was_closed_is_not_leaked(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    for _ in range(3):
        factory().close()
    gc.collect()
    assert counted(monitor, "leaked") == {"leaked": 0}


def test_the_peak_is_the_most_that_were_open_at_once(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    opened = [factory() for _ in range(5)]
    for session in opened:
        session.close()
    factory().close()
    assert counted(monitor, "active_sessions", "peak_active_sessions") == {
        "active_sessions": 0, "peak_active_sessions": 5,
    }  # fmt: skip


def test_durations_are_not_zero(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    with factory() as session:
        session.execute(select(1))
    found = monitor.get_current_metrics()
    assert 0 < found["performance_metrics"]["avg_creation_time"] < found["session_metrics"]["average_duration"] < 10
    assert found["performance_metrics"]["avg_cleanup_time"] > 0
    assert found["performance_metrics"]["p95"] > 0


# --- units of work ---------------------------------------------------------------------------------------------------


def test_a_commit_with_savepoints_is_one_commit(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    with factory() as session:
        with session.begin_nested():
            session.execute(select(1))
        with session.begin_nested():
            session.execute(select(1))
        session.commit()
    assert work(monitor) == (1, 1, 0, 0)
    assert counted(monitor, "savepoint_releases") == {"savepoint_releases": 2}


def test_a_rollback_to_a_savepoint_is_no_rollback(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    with factory() as session:
        session.execute(select(1))
        session.begin_nested().rollback()
        session.commit()
    assert work(monitor) == (1, 1, 0, 0)
    assert counted(monitor, "savepoint_rollbacks") == {"savepoint_rollbacks": 1}


def test_a_rollback_within_a_savepoint_ends_both(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    with factory() as session:
        session.begin_nested()
        session.execute(select(1))
        session.get_transaction().rollback()
    assert work(monitor) == (1, 0, 1, 0)


def test_a_unit_of_work_that_is_closed_with_neither_is_discarded(
    monitor: SessionPerformanceMonitor, factory: Any
) -> None:
    with factory() as session:
        session.execute(select(1))
    with factory() as session:
        session.add(Customer(name="never written"))
    assert counted(monitor, "commits", "rollbacks", "discarded") == {"commits": 0, "rollbacks": 0, "discarded": 2}


def test_a_session_without_work_discards_nothing(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    factory().close()
    assert work(monitor) == (0, 0, 0, 0)


def test_a_unit_of_work_on_two_connections_has_begun_once(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    other = create_engine("sqlite://")
    factory = sessionmaker(binds={Customer: engine, Order: other})
    Base.metadata.create_all(other)
    undo = monitor.attach(factory)
    with factory() as session:
        session.execute(select(Customer))
        session.execute(select(Order))
        session.commit()
    undo()
    other.dispose()
    assert work(monitor) == (1, 1, 0, 0)


def test_each_unit_of_work_of_one_session_counts(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    with factory() as session:
        for _ in range(3):
            session.execute(select(1))
            session.commit()
        session.execute(select(1))
        session.rollback()
    assert work(monitor) == (4, 3, 1, 0)


# --- errors ----------------------------------------------------------------------------------------------------------


def test_a_failed_flush_is_one_error_and_one_rollback(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    with factory() as session:
        session.add_all([Customer(name="same"), Customer(name="same")])
        with pytest.raises(IntegrityError):
            session.commit()
        session.rollback()
    assert counted(monitor, "errors", "commits", "rollbacks", "error_types") == {
        "errors": 1, "commits": 0, "rollbacks": 1, "error_types": {"IntegrityError": 1},
    }  # fmt: skip


def test_a_failed_statement_is_an_error(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    with factory() as session, pytest.raises(OperationalError):
        session.execute(text("SELECT nonsense FROM nowhere"))
    assert counted(monitor, "errors", "error_rate") == {"errors": 1, "error_rate": 1.0}


def test_an_error_of_the_orm_alone_is_an_error(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    from sqlalchemy.orm.exc import StaleDataError

    with factory(expire_on_commit=False) as session, factory() as other:
        session.add(customer := Customer(name="x"))
        session.commit()
        other.execute(text("DELETE FROM customers"))
        other.commit()
        customer.name = "y"
        with pytest.raises(StaleDataError):
            session.flush()
    assert counted(monitor, "error_types") == {"error_types": {"StaleDataError": 1}}


@pytest.mark.parametrize("access", [lambda c: c.orders, lambda c: getattr(c, "name", None)])
def test_a_detached_instance_counts_also_when_caught(
    monitor: SessionPerformanceMonitor, factory: Any, access: Any
) -> None:
    with factory() as session:
        session.add(customer := Customer(name="x"))
        session.commit()
    with pytest.raises(DetachedInstanceError):
        access(customer)
    assert counted(monitor, "detached_instance_errors") == {"detached_instance_errors": 1}


# --- the pool --------------------------------------------------------------------------------------------------------


def test_an_idle_pool_has_no_negative_overflow_and_is_not_used(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    engine.connect().close()
    assert engine.pool.overflow() < 0
    assert counted(monitor, "pool_size", "checked_out", "checked_in", "overflow", "max_overflow", "utilization") == {
        "pool_size": 2, "checked_out": 0, "checked_in": 1, "overflow": 0, "max_overflow": 1, "utilization": 0.0,
    }  # fmt: skip


def test_utilization_is_over_capacity_and_a_full_pool_times_out(
    monitor: SessionPerformanceMonitor, engine: Any
) -> None:
    taken = [engine.connect() for _ in range(3)]
    with pytest.raises(PoolTimeout):
        engine.connect()
    names = ("checked_out", "overflow", "utilization", "timeouts", "checkouts_total", "pending")
    assert counted(monitor, *names) == {
        "checked_out": 3, "overflow": 1, "utilization": 1.0, "timeouts": 1, "checkouts_total": 3, "pending": 0,
    }  # fmt: skip
    for connection in taken:
        connection.close()
    assert counted(monitor, "checked_out", "checkins_total") == {"checked_out": 0, "checkins_total": 3}


def test_a_caller_that_waits_for_a_connection_is_pending(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    engine.pool._timeout = 30
    taken = [engine.connect() for _ in range(3)]
    waits = threading.Thread(target=lambda: engine.connect().close())
    waits.start()
    pending = monitor._counts.waiting["default"]
    while not pending:
        waits.join(0.001)
    assert counted(monitor, "pending") == {"pending": 1}
    taken.pop().close()
    waits.join()
    for connection in taken:
        connection.close()
    assert counted(monitor, "pending") == {"pending": 0}


def test_a_wait_does_not_include_the_making_of_the_connection(engine: Any, factory: Any) -> None:
    import time

    engine.dispose()
    plain = engine.pool._invoke_creator

    def slow(record: Any) -> Any:
        time.sleep(0.02)
        return plain(record)

    engine.pool._invoke_creator = slow
    monitor = SessionPerformanceMonitor()
    monitor.attach(factory, engine)
    engine.connect().close()
    found = monitor.get_current_metrics()["pool_metrics"]["pools"]["default"]
    monitor.close()
    assert found["avg_create_time"] >= 0.02 > 0.01 > found["avg_wait_time"] >= 0
    assert found["connects_total"] == 1


def test_the_use_of_a_connection_is_timed_until_it_is_given_back(
    monitor: SessionPerformanceMonitor, engine: Any
) -> None:
    engine.connect().close()
    assert monitor.get_current_metrics()["pool_metrics"]["pools"]["default"]["avg_use_time"] > 0


def test_a_detached_connection_is_never_given_back(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    connection = engine.connect()
    connection.detach()
    connection.close()
    assert counted(monitor, "checkouts_total", "checkins_total") == {"checkouts_total": 1, "checkins_total": 0}


def test_the_pool_is_counted_on_after_dispose(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    for _ in range(3):
        engine.connect().close()
        engine.dispose()
    engine.connect().close()
    assert counted(monitor, "checkouts_total", "checkins_total") == {"checkouts_total": 4, "checkins_total": 4}
    assert (
        monitor.get_current_metrics()["pool_metrics"]["pools"]["default"]["connects_total"] == 3
    )  # the first was there


def test_a_null_pool_has_no_numbers_rather_than_old_ones() -> None:
    engine = create_engine("sqlite://", poolclass=NullPool)
    monitor = SessionPerformanceMonitor()
    monitor.attach(None, engine)
    engine.connect().close()
    found = counted(monitor, "pool_size", "checked_out", "checked_in", "overflow", "utilization", "checkouts_total")
    monitor.close()
    assert found == {
        "pool_size": None, "checked_out": None, "checked_in": None, "overflow": None, "utilization": None, "checkouts_total": 1,
    }  # fmt: skip


def test_a_pool_without_limit_has_no_utilization() -> None:
    engine = create_engine("sqlite://", poolclass=QueuePool, max_overflow=-1)
    monitor = SessionPerformanceMonitor()
    monitor.attach(None, engine)
    engine.connect().close()
    found = counted(monitor, "max_overflow", "capacity", "utilization")
    monitor.close()
    assert found == {"max_overflow": None, "capacity": None, "utilization": None}


def test_two_engines_are_two_pools(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    other = create_engine("sqlite://")
    undo = monitor.attach(None, other, pool="reports")
    other.connect().close()
    engine.connect().close()
    pools = monitor.get_current_metrics()["pool_metrics"]["pools"]
    undo()
    assert {name: pool["checkouts_total"] for name, pool in pools.items()} == {"default": 1, "reports": 1}


def test_a_connection_that_cannot_be_made_is_an_error() -> None:
    engine = create_engine("sqlite:////nonexistent/directory/file")
    monitor = SessionPerformanceMonitor()
    monitor.attach(None, engine)
    with pytest.raises(OperationalError):
        engine.connect()
    found = counted(monitor, "errors", "checkouts_total", "timeouts")
    monitor.close()
    assert found == {"errors": 1, "checkouts_total": 0, "timeouts": 0}


# --- asyncio ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("scoped", [False, True])
def test_asynchronous_sessions_are_counted(shared: Database, scoped: bool) -> None:
    engine = create_async_engine(shared.url.replace("postgresql://", "postgresql+psycopg://"), pool_size=2)
    factory: Any = async_sessionmaker(engine)
    monitor = SessionPerformanceMonitor()
    monitor.attach(factory, engine)

    async def run() -> None:
        made = async_scoped_session(factory, asyncio.current_task) if scoped else factory

        async def unit(n: int) -> None:
            async with made() as session:
                await session.execute(text("SELECT 1"))
                async with session.begin_nested():
                    await session.execute(text("SELECT 1"))
                await (session.commit() if n % 2 else session.rollback())

        await asyncio.gather(*(unit(n) for n in range(8)))
        with pytest.raises(ProgrammingError):
            async with factory() as session:
                await session.execute(text("SELECT nonsense"))
        await engine.dispose()

    asyncio.run(run())
    found = monitor.get_current_metrics()
    monitor.close()
    assert factory.kw.get("sync_session_class") is None
    assert [found["session_metrics"][name] for name in ("creations", "closures", "commits", "rollbacks", "errors")] == [
        9,
        9,
        4,
        4,
        1,
    ]
    pool = found["pool_metrics"]["pools"]["default"]
    assert (pool["checkouts_total"], pool["checkins_total"]) == (9, 9)
    assert 0 <= pool["avg_wait_time"] < 10


def test_a_missing_greenlet_is_counted_also_when_caught(shared: Database) -> None:
    engine = create_async_engine(shared.url.replace("postgresql://", "postgresql+psycopg://"))
    monitor = SessionPerformanceMonitor()
    monitor.attach(None, engine)

    async def run() -> None:
        async with async_sessionmaker(engine)() as session:
            await session.execute(text("CREATE TEMP TABLE customers (id serial PRIMARY KEY, name text)"))
            session.add(customer := Customer(name="x"))
            await session.flush()
            session.expire(customer)
            with pytest.raises((MissingGreenlet, StatementError)):
                _ = customer.name
        await engine.dispose()

    asyncio.run(run())
    found = counted(monitor, "missing_greenlet_errors")
    monitor.close()
    assert found == {"missing_greenlet_errors": 1}


# --- no trace --------------------------------------------------------------------------------------------------------


def traces(factory: Any, engine: Any) -> list[dict[str, Any]]:
    objects = (factory.class_, factory.kw, engine.dialect, engine.pool, DetachedInstanceError, MissingGreenlet)
    return [dict(of if isinstance(of, dict) else vars(of)) for of in objects]


def listeners(factory: Any, engine: Any) -> list[int]:
    dispatch = factory().dispatch
    names = ("after_begin", "after_commit", "after_rollback", "after_transaction_end")
    return [*(len(list(getattr(dispatch, name))) for name in names), len(list(engine.pool.dispatch.checkin))]


def test_one_call_undoes_everything(factory: Any, engine: Any) -> None:
    with factory() as session:  # what SQLAlchemy itself remembers of its first use
        session.execute(select(1))
    before, heard = traces(factory, engine), listeners(factory, engine)
    monitor = SessionPerformanceMonitor()
    monitor.attach(factory, engine)
    assert traces(factory, engine) != before
    with factory() as session:
        session.execute(select(1))
    monitor.close()
    after = traces(factory, engine)
    after[0].pop("dispatch", None)  # SQLAlchemy's own, made by the first listener to the class
    before[0].pop("dispatch", None)
    assert after == before
    assert listeners(factory, engine) == heard
    assert not [thread for thread in threading.enumerate() if thread.name.startswith("pgvigil session")]


def test_nothing_is_counted_after_the_undo(monitor: SessionPerformanceMonitor, factory: Any, engine: Any) -> None:
    open_before = factory()
    monitor.close()
    open_before.execute(select(1))
    open_before.close()
    engine.dispose()
    with factory() as session:
        session.execute(select(1))
    with pytest.raises(DetachedInstanceError):
        raise DetachedInstanceError
    assert sessions(monitor) == (1, 0, 0, 0)
    assert counted(monitor, "checkouts_total", "detached_instance_errors") == {
        "checkouts_total": 0,
        "detached_instance_errors": 0,
    }


def test_monitors_are_undone_in_any_order(factory: Any, engine: Any) -> None:
    before = traces(factory, engine)
    first, second = SessionPerformanceMonitor(), SessionPerformanceMonitor()
    first.attach(factory, engine)
    second.attach(None, engine)
    first.close()
    engine.connect().close()
    assert counted(second, "checkouts_total") == {"checkouts_total": 1}
    second.close()
    after = traces(factory, engine)
    after[0].pop("dispatch", None)
    before[0].pop("dispatch", None)
    assert after == before


def test_a_factory_that_is_monitored_again_is_counted_once(
    monitor: SessionPerformanceMonitor, factory: Any, engine: Any
) -> None:
    monitor.attach(factory, engine)
    with factory() as session:
        session.execute(select(1))
    assert sessions(monitor) == (1, 0, 1, 0)
    assert counted(monitor, "checkouts_total") == {"checkouts_total": 1}


@pytest.mark.usefixtures("monitor")
def test_a_factory_of_another_monitor_is_refused_and_left_as_it_was(factory: Any, engine: Any) -> None:
    before = traces(factory, engine)
    with pytest.raises(ValueError, match="another monitor"):
        SessionPerformanceMonitor().attach(factory, engine)
    assert traces(factory, engine) == before


@pytest.mark.parametrize("nothing", [Session, object(), None.__class__, lambda: None])
def test_what_makes_no_sessions_of_its_own_is_refused(nothing: Any) -> None:
    with pytest.raises(TypeError, match="sessionmaker"):
        SessionPerformanceMonitor().attach(nothing)


def test_a_subclass_of_session_is_monitored(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    class Own(Session):
        pass

    undo = monitor.attach(Own)
    with Own(engine) as session:
        session.execute(select(1))
    undo()
    assert sessions(monitor) == (1, 0, 1, 0)
    assert "__init__" not in vars(Own)


# --- memory, threads, forks ------------------------------------------------------------------------------------------


def test_beyond_its_bound_the_queue_drops_and_counts_that() -> None:
    counts = Counts(limit=10)
    for _ in range(25):
        counts.emit("commits")
    assert len(counts.queue) == 10
    assert counts.snapshot()[0] == {"commits": 10, "dropped": 15}
    counts.emit("commits")
    assert counts.snapshot()[0] == {"commits": 11, "dropped": 15}


def test_names_without_end_become_other() -> None:
    counts = Counts()
    for n in range(200):
        counts.emit((f"operation/{n}", 1))
        counts.emit(f"error_type/{n}")
    counters, histograms = counts.snapshot()
    assert (len(histograms), sum(histograms["operation/other"][:-1])) == (51, 150)
    assert counters["error_type/other"] == 150


def test_no_count_is_lost_between_threads(monitor: SessionPerformanceMonitor) -> None:
    def record() -> None:
        for _ in range(2000):
            monitor.record_session_creation(0.001)
            monitor.record_session_closure(0.001)

    threads = [threading.Thread(target=record) for _ in range(8)]
    for thread in threads:
        thread.start()
    for _ in range(20):
        monitor.get_current_metrics()
    for thread in threads:
        thread.join()
    assert sessions(monitor) == (16_000, 0, 16_000, 0)


def test_a_summary_can_be_logged_twice_at_once(monitor: SessionPerformanceMonitor, caplog: Any) -> None:
    caplog.set_level("INFO")
    monitor.log_periodic_summary(0.001)
    monitor._logged_at -= 1
    monitor.tick()
    monitor._logged_at -= 1
    monitor.tick()
    assert sum("session summary" in message for message in caplog.messages) == 2
    monitor.record_session_creation(0.1)  # nothing hangs
    assert "1 created" in monitor.get_performance_summary()


def test_a_forked_child_counts_for_itself(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    session = factory()
    session.close()
    inherited = factory()
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:  # pragma: no cover - another process
        inherited.close()  # the parent's
        with factory() as own:
            own.execute(select(1))
        names = [thread.name for thread in threading.enumerate()]
        os.write(writer, repr((sessions(monitor), "pgvigil session counts" in names)).encode())
        os._exit(0)
    os.waitpid(pid, 0)
    told = os.read(reader, 1000).decode()
    os.close(reader)
    os.close(writer)
    assert told == "((1, 0, 1, 0), True)"
    assert sessions(monitor) == (2, 0, 1, 1)
    inherited.close()


# --- by hand, and requests -------------------------------------------------------------------------------------------


def test_what_is_recorded_by_hand_is_in_the_metrics() -> None:
    monitor = SessionPerformanceMonitor("by hand")
    for _ in range(4):
        monitor.record_session_creation(0.2)
    monitor.record_session_closure(0.1)
    monitor.record_session_commit()
    monitor.record_session_rollback()
    monitor.record_session_error("creation_failed", "password=secret")
    monitor.record_detached_instance_recovery("User", 0.05, True)
    monitor.record_detached_instance_recovery("User", 0.15, False)
    monitor.record_session_reattachment("User")
    found = monitor.get_current_metrics()
    monitor.close()
    assert sessions(monitor) == (4, 0, 1, 3)
    assert found["session_metrics"]["error_rate"] == 0.25
    assert found["recovery_metrics"]["recovery_rate"] == 0.5
    assert found["recovery_metrics"]["success_rate"] == 0.5
    assert found["performance_metrics"]["avg_creation_time"] == pytest.approx(0.2)
    assert found["performance_metrics"]["avg_recovery_time"] == pytest.approx(0.1)
    assert "secret" not in repr(found)


def test_nothing_observed_is_none_and_not_zero() -> None:
    found = SessionPerformanceMonitor().get_current_metrics()
    assert found["session_metrics"]["average_duration"] is None
    assert found["recovery_metrics"]["success_rate"] is None
    assert found["pool_metrics"]["utilization"] is None
    assert (found["session_metrics"]["error_rate"], found["recovery_metrics"]["recovery_rate"]) == (0.0, 0.0)


def test_a_request_is_told_what_was_done_in_it(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    request = monitor.start_request_monitoring("GET /orders")
    with factory() as session:
        session.execute(select(1))
        session.commit()
    told = monitor.end_request_monitoring(request)
    with factory() as session:
        session.execute(select(1))
    assert told is not None
    assert (told["endpoint"], told["errors"], told["leaves_open"]) == ("GET /orders", 0, False)
    assert {name: told["operations"][name] for name in ("creation", "commits", "cleanup", "wait/default")} == {
        "creation": 1, "commits": 1, "cleanup": 1, "wait/default": 1,
    }  # fmt: skip
    assert monitor.end_request_monitoring(request) is None
    assert current_request.get() is None


def test_requests_of_two_threads_are_not_mixed(monitor: SessionPerformanceMonitor, factory: Any) -> None:
    together = threading.Barrier(2)
    told: dict[int, Any] = {}

    def request(n: int) -> None:
        name = monitor.start_request_monitoring(str(n))
        together.wait()
        for _ in range(n):
            factory().close()
        together.wait()
        told[n] = monitor.end_request_monitoring(name)

    threads = [threading.Thread(target=request, args=(n,)) for n in (1, 3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert {n: one["operations"]["creation"] for n, one in told.items()} == {1: 1, 3: 3}


def test_requests_that_nobody_ends_are_forgotten(monitor: SessionPerformanceMonitor, monkeypatch: Any) -> None:
    monkeypatch.setattr("pgvigil.live.monitor_requests.OPEN_REQUESTS", 5)
    ids = [monitor.start_request_monitoring() for _ in range(20)]
    assert len(monitor._counts.requests) == 5
    assert monitor.end_request_monitoring(ids[0]) is None
    current_request.set(None)


def test_a_slow_operation_is_counted_and_an_alert(monitor: SessionPerformanceMonitor) -> None:
    monitor.slow_session_threshold = 0.0
    with monitor.time_operation("import"):
        pass
    monitor.tick()
    [alert] = [one for one in monitor.get_alerts() if one.type == "slow_operation"]
    assert (alert.details, alert.value > 0) == ({"operation": "import"}, True)


@pytest.mark.parametrize("value", [-1, float("nan"), float("inf")])
def test_a_duration_that_is_none_is_not_added_up(value: float) -> None:
    monitor = SessionPerformanceMonitor()
    monitor.record_session_creation(value)
    found = monitor.get_current_metrics()
    monitor.close()
    assert (found["session_metrics"]["creations"], found["performance_metrics"]["avg_creation_time"]) == (1, None)


def test_a_commit_that_fails_is_one_error(monitor: SessionPerformanceMonitor, engine: Any, factory: Any) -> None:
    with engine.connect() as connection:
        connection.exec_driver_sql(
            "CREATE TABLE late (id integer REFERENCES customers (id) DEFERRABLE INITIALLY DEFERRED)"
        )
        connection.commit()
    event.listen(engine, "checkout", lambda connection, *_: connection.execute("PRAGMA foreign_keys = on"))
    with factory() as session:
        session.execute(text("INSERT INTO late VALUES (999)"))
        with pytest.raises(IntegrityError):
            session.commit()
    assert counted(monitor, "errors", "error_types") == {"errors": 1, "error_types": {"IntegrityError": 1}}


def test_a_ping_that_fails_is_no_error_of_the_application(shared: Database) -> None:
    engine = create_engine(shared.url.replace("postgresql://", "postgresql+psycopg://"), pool_pre_ping=True)
    monitor = SessionPerformanceMonitor()
    monitor.attach(None, engine)
    with engine.connect() as connection:
        pid = connection.scalar(text("SELECT pg_backend_pid()"))
    shared.execute("SELECT pg_terminate_backend(%s, 10000)", (pid,))
    with engine.connect() as connection:
        assert connection.scalar(text("SELECT pg_backend_pid()")) != pid
    found = counted(monitor, "errors", "checkouts_total")
    monitor.close()
    engine.dispose()
    assert found == {"errors": 0, "checkouts_total": 2}


def test_an_application_without_greenlet_is_monitored() -> None:
    """The greenlet package comes only with SQLAlchemy's extra `asyncio`, which pgvigil does not require."""
    code = (
        "import sys; sys.modules['greenlet'] = None\n"
        "from sqlalchemy import create_engine, text\n"
        "from sqlalchemy.orm import sessionmaker\n"
        "from pgvigil.live import SessionPerformanceMonitor, recovery\n"
        "engine = create_engine('sqlite://'); factory = sessionmaker(engine)\n"
        "monitor = SessionPerformanceMonitor(); monitor.attach(factory, engine)\n"
        "with factory() as session: session.execute(text('SELECT 1'))\n"
        "engine.dispose(); print(recovery.__name__)\n"
    )
    environment = {"PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", code], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.stdout, done.stderr) == ("pgvigil.live.recovery\n", "")
