"""A shop in Flask and SQLAlchemy, with three faults for the session monitor to find. See README.md beside this file."""

from __future__ import annotations

import gc
import os
import tempfile
from pathlib import Path

from flask import Flask
from sqlalchemy import ForeignKey, create_engine, select
from sqlalchemy.exc import TimeoutError as PoolTimeout
from sqlalchemy.orm import DeclarativeBase, Mapped, mapped_column, relationship, sessionmaker
from sqlalchemy.orm.exc import DetachedInstanceError
from sqlalchemy.pool import QueuePool

from pgvigil import initialize_performance_monitoring
from pgvigil.live.recovery import safe_relationship_access


class Base(DeclarativeBase):
    pass


class Customer(Base):
    __tablename__ = "shop_customers"
    id: Mapped[int] = mapped_column(primary_key=True)
    name: Mapped[str]
    orders: Mapped[list[Order]] = relationship()


class Order(Base):
    __tablename__ = "shop_orders"
    id: Mapped[int] = mapped_column(primary_key=True)
    customer_id: Mapped[int] = mapped_column(ForeignKey("shop_customers.id"))


app = Flask("shop")
FILE = Path(tempfile.mkdtemp()) / "shop.db"
# The shop's own tables are in SQLite, so that this example leaves no tables behind. An application on PostgreSQL needs no
# database_url: its workers report to the database of their engine.
engine = create_engine(f"sqlite:///{FILE}", poolclass=QueuePool, pool_size=2, max_overflow=1, pool_timeout=0.1)
Session = sessionmaker(engine)
monitor = initialize_performance_monitoring(app, Session, engine, database_url=os.environ.get("DATABASE_URL"))
Base.metadata.create_all(engine)
with Session.begin() as first:
    first.add(Customer(name="Ada", orders=[Order(), Order()]))


@app.get("/orders")
def orders() -> dict[str, int]:
    """The session is open while it is used, and closed afterwards."""
    with Session.begin() as session:
        return {"orders": len(session.scalars(select(Order)).all())}


@app.get("/detached")
def detached() -> dict[str, int]:
    """The orders are loaded after the session is closed. The error is caught here, and the monitor sees it all the same."""
    with Session() as session:
        customer = session.scalars(select(Customer)).one()
    try:
        return {"orders": len(customer.orders)}
    except DetachedInstanceError:
        with Session() as session:
            return {"recovered": len(safe_relationship_access(customer, "orders", session=session))}


@app.get("/leak")
def leak() -> dict[str, int]:
    """Leave a session open."""
    return {"orders": len(Session().scalars(select(Order)).all())}


@app.get("/pool")
def pool() -> tuple[dict[str, str], int]:
    """Four connections at once, of a pool that has three."""
    taken = []
    try:
        for _ in range(4):
            taken.append(engine.connect())
    except PoolTimeout:
        return {"error": "the pool is empty"}, 503
    finally:
        for connection in taken:
            connection.close()
    return {"error": "none"}, 200


if __name__ == "__main__":
    client = app.test_client()
    for route in ("/orders", "/detached", "/leak", "/pool"):
        response = client.get(route)
        print(f"{route:<10} {response.status_code} {response.get_json()}")
    gc.collect()
    print(monitor.get_performance_summary())
    monitor.close()
    engine.dispose()
