"""The counters of the monitor against a plain model, whatever sessions do and in whichever order."""

from __future__ import annotations

import gc
from typing import Any

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from sqlalchemy import create_engine, event, text
from sqlalchemy.exc import OperationalError
from sqlalchemy.orm import sessionmaker
from sqlalchemy.pool import NullPool

from pgvigil.live import SessionPerformanceMonitor

pytestmark = pytest.mark.client_side
COUNTS = (
    "creations", "reopened", "closures", "leaked", "begins", "commits", "rollbacks", "discarded",
    "savepoint_releases", "savepoint_rollbacks", "errors", "active_sessions", "peak_active_sessions",
)  # fmt: skip


class Modelled:
    """A session, and the state that it should be in."""

    def __init__(self, session: Any) -> None:
        self.session = session
        self.is_open = True
        self.has_transaction = False  # begun in SQLAlchemy
        self.has_begun = False  # and on the database
        self.savepoints: list[Any] = []


class Sessions(RuleBasedStateMachine):
    """A state machine of the sessions of one factory. Its rules are the promises of the documentation."""

    @initialize()
    def start(self) -> None:
        # Each connection has a database of its own: locks are not what this is about.
        self.engine = create_engine("sqlite://", poolclass=NullPool, connect_args={"check_same_thread": False})
        event.listen(self.engine, "connect", lambda connection, _: setattr(connection, "isolation_level", None))
        event.listen(self.engine, "begin", lambda connection: connection.exec_driver_sql("BEGIN"))
        gc.collect()
        gc.freeze()  # what there was before: drop() need not look through it
        factory = sessionmaker(self.engine)
        self.factory = factory
        self.monitor = SessionPerformanceMonitor()
        self.monitor.attach(factory, self.engine)
        self.model = dict.fromkeys(COUNTS, 0)
        self.sessions: list[Modelled] = []

    def teardown(self) -> None:
        for one in self.sessions:
            one.session.close()
        self.monitor.close()
        self.engine.dispose()
        gc.unfreeze()

    # --- what can be done ------------------------------------------------------------------------------------------------

    @rule()
    def create(self) -> None:
        self.sessions.append(Modelled(self.factory()))
        self._count("creations")
        self._opened()

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def begin(self, data: st.DataObject) -> None:
        one = self._one(data)
        if not one.has_transaction:
            one.session.begin()
            one.has_transaction = True

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), fails=st.booleans())
    def execute(self, data: st.DataObject, fails: bool) -> None:
        one = self._one(data)
        self._used(one)
        if fails:
            with pytest.raises(OperationalError):
                one.session.execute(text("SELECT nothing"))
            self._count("errors")
        else:
            one.session.execute(text("SELECT 1"))

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def savepoint(self, data: st.DataObject) -> None:
        one = self._one(data)
        if len(one.savepoints) < 3:
            one.session.connection()  # SQLAlchemy begins on the database when a savepoint is made, or at the first statement
            self._used(one)
            one.savepoints.append(one.session.begin_nested())

    @precondition(lambda self: any(one.savepoints for one in self.sessions))
    @rule(data=st.data(), releases=st.booleans())
    def end_savepoint(self, data: st.DataObject, releases: bool) -> None:
        one = data.draw(st.sampled_from([one for one in self.sessions if one.savepoints]))
        transaction = one.savepoints.pop()
        (transaction.commit if releases else transaction.rollback)()
        self._count("savepoint_releases" if releases else "savepoint_rollbacks")

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def commit(self, data: st.DataObject) -> None:
        one = self._one(data)
        one.session.commit()
        self._count("savepoint_releases", len(one.savepoints))
        self._ended(one, "commits", always=True)

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def roll_back(self, data: st.DataObject) -> None:
        one = self._one(data)
        one.session.rollback()
        self._count("savepoint_rollbacks", len(one.savepoints))
        self._ended(one, "rollbacks")

    @precondition(lambda self: self.sessions)
    @rule(data=st.data(), way=st.sampled_from(["close", "reset", "invalidate"]), twice=st.booleans())
    def close(self, data: st.DataObject, way: str, twice: bool) -> None:
        one = self._one(data)
        for _ in range(1 + twice):
            getattr(one.session, way)()
        if one.is_open:
            one.is_open = False
            self._count("closures")
            self._count("active_sessions", -1)
        self._ended(one, "discarded")

    @precondition(lambda self: self.sessions)
    @rule(data=st.data())
    def drop(self, data: st.DataObject) -> None:
        """The application forgets the session."""
        one = self._one(data)
        self.sessions.remove(one)
        if one.is_open:
            self._count("leaked")
            self._count("active_sessions", -1)
        one.savepoints.clear()
        one.session = None
        del one
        gc.collect()

    # --- the model -------------------------------------------------------------------------------------------------------

    def _one(self, data: st.DataObject) -> Modelled:
        return data.draw(st.sampled_from(self.sessions))

    def _count(self, name: str, number: int = 1) -> None:
        self.model[name] += number

    def _opened(self) -> None:
        self._count("active_sessions")
        self.model["peak_active_sessions"] = max(self.model["peak_active_sessions"], self.model["active_sessions"])

    def _used(self, one: Modelled) -> None:
        if not one.is_open:
            one.is_open = True
            self._count("reopened")
            self._opened()
        one.has_transaction = one.has_begun = True

    def _ended(self, one: Modelled, outcome: str, *, always: bool = False) -> None:
        if one.has_transaction or always:
            self._count(outcome)
        if one.has_begun:  # one event reports both, at the end
            self._count("begins")
        one.has_transaction = one.has_begun = False
        one.savepoints.clear()

    @invariant()
    def the_monitor_says_the_same(self) -> None:
        if hasattr(self, "monitor"):
            found = self.monitor.get_current_metrics()["session_metrics"]
            assert {name: found[name] for name in COUNTS} == self.model


TestSessions = Sessions.TestCase
TestSessions.settings = settings(
    max_examples=12, stateful_step_count=25, deadline=None, derandomize=True, database=None,
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
