"""A little load for `pgvigil demo`: an application that works, an operator's long statement, and the jobs that are due."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable
from contextlib import ExitStack, suppress
from typing import Any

import sqlalchemy
from sqlalchemy.orm import Session, sessionmaker
from sqlalchemy.pool import NullPool

from pgvigil import ExecutionTracker, Recorder, initialize_performance_monitoring, instrument
from pgvigil.database import Target
from pgvigil.errors import PgvigilError
from pgvigil.maintenance import client_jobs, job_runner
from pgvigil.progress import Reporter

_INSERT = sqlalchemy.text("""
    INSERT INTO sessions (session_key, agent_from, status) VALUES ('live-' || pg_catalog.gen_random_uuid(), 'planner', 'pending') RETURNING id""")
_APPEND = sqlalchemy.text("""
    INSERT INTO context_history (session_id, sequence_number, context_type, content) VALUES (:id, 1, 'message', 'A sentence that an agent wrote.')""")
_END = sqlalchemy.text("UPDATE sessions SET status = :status WHERE id = :id")
_LONG = sqlalchemy.text("/* monthly report */ SELECT sum(e.total_rows), pg_sleep(45) FROM query_executions e")
_EXECUTING = sqlalchemy.text("SELECT instrumentation.record_statement(:text, 'executing')")
_USERS = ("ada", "bob", "chen", "dana", "eli")


class Load:
    """The threads of a demo. They end with `stop`."""

    def __init__(self, target: Target, url: str) -> None:
        self._target = target
        self._ended = threading.Event()
        self._resources = ExitStack()
        self._recorder = self._resources.enter_context(Recorder(url, linger=0.5))
        self._tracker = ExecutionTracker(self._recorder)
        address = url.replace("postgresql://", "postgresql+psycopg://")
        self._engine = sqlalchemy.create_engine(
            address, pool_size=4, max_overflow=2, connect_args={"application_name": "shop"}
        )
        self._sessions: sessionmaker[Session] = sessionmaker(self._engine)
        self._reports = sqlalchemy.create_engine(
            address, poolclass=NullPool, connect_args={"application_name": "reports"}
        )
        monitor = initialize_performance_monitoring(
            None, self._sessions, self._engine, recorder=self._recorder, application="shop", interval=5
        )
        self._resources.callback(monitor.close)
        self._resources.callback(self._engine.dispose)
        self._resources.callback(instrument(self._engine, self._recorder))
        self._resources.callback(instrument(self._reports, self._recorder))
        steps: list[tuple[Callable[[random.Random], Any], float]] = [
            (self._work, 0.4),
            (self._work, 0.7),
            (self._report, 5),
            (self._jobs, 20),
        ]
        self._threads = [
            threading.Thread(target=self._repeat, args=(step, pause, random.Random(number)), name=f"demo {number}", daemon=True)  # noqa: S311 - made-up load
            for number, (step, pause) in enumerate(steps)
        ]  # fmt: skip
        for thread in self._threads:
            thread.start()

    def stop(self) -> None:
        self._ended.set()
        self._reports.dispose()
        for thread in self._threads[:2]:
            thread.join(5)
        with suppress(Exception):  # the server may be gone already
            self._resources.close()

    def _repeat(self, step: Callable[[random.Random], Any], pause: float, dice: random.Random) -> None:
        while not self._ended.wait(pause * (0.5 + dice.random())):
            with suppress(sqlalchemy.exc.SQLAlchemyError, PgvigilError):  # somebody may end any of our connections
                step(dice)

    def _work(self, dice: random.Random) -> None:
        took = 5 + int(dice.expovariate(1 / 30))
        with self._sessions() as session:
            made = session.execute(_INSERT).scalar_one()
            session.execute(_APPEND, {"id": made})
            if dice.random() < 0.5:
                session.execute(_END, {"id": made, "status": dice.choice(("active", "completed"))})
            session.execute(sqlalchemy.text("SELECT pg_sleep(:seconds)"), {"seconds": took / 1000})
            if dice.random() < 0.04:
                session.rollback()
            else:
                session.commit()
        status = dice.choices(("success", "failed", "timeout"), (95, 4, 1))[0]
        self._recorder.record_performance("session.load", took, status == "success")
        self._tracker.log_execution_background(
            "SELECT o.id FROM orders o WHERE o.customer_id = $1", "postgresql", status=status, user_id=dice.choice(_USERS),
            execution_time=took / 1000, total_rows=dice.randrange(200),
        )  # fmt: skip

    def _report(self, _: random.Random) -> None:
        with self._reports.connect().execution_options(isolation_level="AUTOCOMMIT") as connection:
            connection.execute(sqlalchemy.text("SELECT 1"))
            self._ended.wait(2)  # until the recorder has registered this connection
            # instrument() writes a statement when it has ended. This one is to be seen while it runs.
            connection.execute(_EXECUTING, {"text": str(_LONG)})
            connection.execute(_LONG)

    def _jobs(self, _: random.Random) -> None:
        with suppress(PgvigilError):
            job_runner.run_due(self._target, client_jobs.Options(), Reporter())
