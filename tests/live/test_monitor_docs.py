"""The examples of docs/monitor.md run, and detached instances are recovered as the page says."""

from __future__ import annotations

import asyncio
import os
import re
import subprocess
import sys
from collections.abc import Iterator
from typing import Any

import pytest
from sqlalchemy import ForeignKey, create_engine, event, text
from sqlalchemy.exc import InvalidRequestError
from sqlalchemy.ext.asyncio import AsyncSession, create_async_engine
from sqlalchemy.orm import DeclarativeBase, Mapped, Session, mapped_column, relationship
from sqlalchemy.orm.exc import DetachedInstanceError, UnmappedInstanceError

from conftest import PROJECT, Database
from pgvigil.live import SessionPerformanceMonitor, recovery
from pgvigil.live import monitor as monitor_module

PAGE = (PROJECT / "docs/monitor.md").read_text()
EXAMPLES = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)

pytestmark = pytest.mark.client_side


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_of_the_page_runs(shared: Database, number: int) -> None:
    # Nothing is reported before the interval is over, so the shared database stays as it is but for the first example.
    url = shared.url if "DATABASE_URL" in EXAMPLES[number] else ""
    example = EXAMPLES[number].replace('application="shop")', 'application="shop", report=False)')
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src"), "DATABASE_URL": url}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", example], env=environment, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_the_page_names_every_command_and_alert() -> None:
    from pgvigil.live import monitor_metrics

    source = (PROJECT / "src/pgvigil/live/monitor_metrics.py").read_text()
    alerts = set(re.findall(r'Alert\(\s*"(\w+)"', source))
    assert len(alerts) == 5
    for name in (*alerts, "status", "summary", "metrics", "alerts", "enable-periodic-logging"):
        assert f"`{name}`" in PAGE or f"session-monitoring {name}" in PAGE, name
    assert f"{monitor_metrics.MAX_ACTIVE_SESSIONS} sessions open in one process" in PAGE


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    orders: Mapped[list[Order]] = relationship()


class Order(Base):
    __tablename__ = "orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("customers.id"))


@pytest.fixture
def monitor(monkeypatch: pytest.MonkeyPatch) -> Iterator[SessionPerformanceMonitor]:
    made = SessionPerformanceMonitor()
    monkeypatch.setattr(monitor_module, "of_this_process", made)
    yield made
    made.close()


@pytest.fixture
def engine() -> Iterator[Any]:
    made = create_engine("sqlite://")
    Base.metadata.create_all(made)
    with Session(made) as session:
        session.add(Customer(id=1, name="Ada", orders=[Order(id=1), Order(id=2)]))
        session.commit()
    yield made
    made.dispose()


def detached(engine: Any, *, loaded: bool = True) -> Customer:
    with Session(engine) as session:
        customer = session.get_one(Customer, 1)
        if not loaded:
            session.expire(customer)
    return customer


def recoveries(monitor: SessionPerformanceMonitor) -> tuple[int, int, int]:
    """Tried, failed, attached."""
    found = monitor.get_current_metrics()["recovery_metrics"]
    return found["detached_instance_recoveries"], found["failed_recoveries"], found["session_reattachments"]


def test_a_relationship_of_a_detached_object_is_loaded_by_a_session(
    monitor: SessionPerformanceMonitor, engine: Any
) -> None:
    customer = detached(engine)
    with pytest.raises(DetachedInstanceError):
        _ = customer.orders
    with Session(engine) as session:
        assert [o.id for o in recovery.safe_relationship_access(customer, "orders", session=session)] == [1, 2]
    assert recoveries(monitor) == (1, 0, 1)


def test_an_expired_attribute_is_loaded_by_a_session(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    with Session(engine) as session:
        assert recovery.safe_access(detached(engine, loaded=False), "name", session=session) == "Ada"
    assert recoveries(monitor) == (1, 0, 1)


@pytest.mark.usefixtures("monitor")
def test_old_values_of_a_detached_object_overwrite_nothing(engine: Any) -> None:
    customer = detached(engine)
    with Session(engine) as session:
        session.execute(text("UPDATE customers SET name = 'Grace'"))
        session.commit()
    with Session(engine) as session:
        recovery.ensure_attached(customer, session)
        session.commit()
        assert session.scalar(text("SELECT name FROM customers")) == "Grace"


@pytest.mark.usefixtures("monitor")
def test_changes_of_a_detached_object_are_kept(engine: Any) -> None:
    customer = detached(engine)
    customer.name = "Grace"
    with Session(engine) as session:
        recovery.ensure_attached(customer, session)
        session.commit()
        assert session.scalar(text("SELECT name FROM customers")) == "Grace"


@pytest.mark.usefixtures("monitor")
def test_an_object_that_cannot_be_merged_is_loaded_by_its_identity(
    engine: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: Any, **__: Any) -> None:
        raise InvalidRequestError("no")

    customer = detached(engine)
    with Session(engine) as session:
        monkeypatch.setattr(session, "merge", refuse)
        attached = recovery.ensure_attached(customer, session)
        assert (attached in session, attached is customer, attached.name) == (True, False, "Ada")


def test_an_object_that_is_in_the_session_is_returned_as_it_is(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    with Session(engine) as session:
        customer = session.get_one(Customer, 1)
        assert recovery.ensure_attached(customer, session) is customer
    assert recoveries(monitor) == (0, 0, 0)


def test_a_recovery_that_fails_is_counted_as_failed(monitor: SessionPerformanceMonitor, engine: Any) -> None:
    customer = detached(engine, loaded=False)
    with Session(engine) as session:
        session.execute(text("DELETE FROM customers"))
        session.commit()
    with Session(engine) as session:
        assert recovery.safe_access(customer, "name", "gone", session=session) == "gone"
    assert recovery.safe_access(customer, "name", "gone") == "gone"
    assert recoveries(monitor)[1] >= 1


@pytest.mark.usefixtures("monitor")
def test_what_cannot_be_attached_is_refused_with_a_reason(engine: Any) -> None:
    with Session(engine) as session, Session(engine) as other:
        with pytest.raises(UnmappedInstanceError):
            recovery.ensure_attached(object(), session)
        with pytest.raises(ValueError, match="never in the database"):
            recovery.ensure_attached(Customer(name="new"), session)
        with pytest.raises(ValueError, match="another session"):
            recovery.ensure_attached(other.get_one(Customer, 1), session)


@pytest.mark.usefixtures("monitor")
def test_without_a_session_many_are_an_empty_list_and_one_is_nothing(engine: Any) -> None:
    customer = detached(engine)
    assert recovery.safe_relationship_access(customer, "orders") == []
    assert recovery.safe_relationship_access(customer, "orders", default="none") == "none"


def test_an_object_is_recovered_by_an_asynchronous_session(
    monitor: SessionPerformanceMonitor, shared: Database
) -> None:
    engine = create_async_engine(shared.url.replace("postgresql://", "postgresql+psycopg://"))

    async def run() -> None:
        async with engine.connect() as connection:
            await connection.execute(text("CREATE TEMP TABLE customers (id integer PRIMARY KEY, name text)"))
            await connection.execute(text("CREATE TEMP TABLE orders (id integer PRIMARY KEY, customer_id integer)"))
            await connection.execute(text("INSERT INTO customers VALUES (1, 'Ada')"))
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                customer = await session.get_one(Customer, 1)
            async with AsyncSession(connection, join_transaction_mode="create_savepoint") as session:
                assert await recovery.async_safe_access(customer, "orders", session=session) == []
                assert await recovery.async_ensure_attached(customer, session) in session
        await engine.dispose()

    asyncio.run(run())
    assert recoveries(monitor)[0] >= 1


def test_a_merge_without_changes_asks_the_database_nothing(engine: Any, monitor: SessionPerformanceMonitor) -> None:
    customer, asked = detached(engine), []
    event.listen(engine, "before_cursor_execute", lambda *arguments: asked.append(arguments[2]))
    with Session(engine) as session:
        recovery.ensure_attached(customer, session)
    assert (asked, recoveries(monitor)) == ([], (1, 0, 1))


def test_the_example_application_shows_its_three_faults() -> None:
    pytest.importorskip("flask")
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    environment.pop("DATABASE_URL", None)
    done = subprocess.run(
        [sys.executable, "-W", "error", "examples/session_monitor/shop.py"],
        env=environment, capture_output=True, text=True, check=False, cwd=PROJECT,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    for shown in (
        "/orders    200",
        "{'recovered': 2}",
        "/pool      503",
        "1 leaked",
        "1 recoveries, 0 failed",
        "1 timeout",
    ):
        assert shown in done.stdout
