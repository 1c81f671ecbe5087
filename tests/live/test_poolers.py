"""Through a connection pooler, and on a server that takes no writes: the live wing works on, or says why it does not."""

from __future__ import annotations

import asyncio
import signal
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest
import sqlalchemy

from conftest import Database, Make, Mortal, Pooler, Proxy, wait_until
from pgvigil.errors import PreconditionError
from pgvigil.live import ExecutionTracker, Sampler, instrument, transactions

pytestmark = pytest.mark.client_side
# pgbouncer carries these from client to client by itself.
LEFT_IN_THE_POOL = """
    SELECT name, setting FROM pg_settings WHERE source = 'session'
    AND name NOT IN ('application_name', 'client_encoding', 'DateStyle', 'TimeZone', 'standard_conforming_strings')
    UNION ALL SELECT 'lock', locktype FROM pg_locks WHERE pid = pg_backend_pid() AND locktype = 'advisory'
    UNION ALL SELECT 'prepared', name FROM pg_prepared_statements"""


def operations(database: Database) -> list[str]:
    return [row[0] for row in database.execute("SELECT operation FROM performance_logs ORDER BY id")]


def test_recorder_writes_each_record_once(fresh: Database, make: Make, pooler: Pooler) -> None:
    recorder = make(pooler.url(fresh), batch_size=100)
    expected = [f"op {n}" for n in range(2000)]
    for operation in expected:
        recorder.record_performance(operation, 1)
    assert recorder.flush(60) == "written"
    assert operations(fresh) == expected
    assert recorder.stats().errors == 0


@pytest.mark.parametrize("done", [True, False], ids=["done", "not done"])
def test_commit_that_is_cut_off_is_neither_lost_nor_doubled(
    fresh: Database, make: Make, pooler: Pooler, done: bool
) -> None:
    proxy = Proxy(pooler.port, commit_reaches_server=done)
    try:
        recorder = make(f"postgresql://somebody@127.0.0.1:{proxy.port}/{fresh.name}?sslmode=disable")
        for n in range(10):
            recorder.record_performance(f"op {n}", 1)
        wait_until(lambda: recorder.stats().written == 10)
        assert proxy.cut.is_set()
    finally:
        proxy.close()
    assert operations(fresh) == [f"op {n}" for n in range(10)]


def test_connection_that_the_pooler_has_closed_is_no_loss(fresh: Database, make: Make, pooler: Pooler) -> None:
    recorder = make(pooler.url(fresh))
    for n in range(5):
        recorder.record_performance(f"op {n}", 1)
        assert recorder.flush() == "written"
        fresh.execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
        )
    assert operations(fresh) == [f"op {n}" for n in range(5)]


def test_tracker_writes_once_and_reads(fresh: Database, make: Make, pooler: Pooler) -> None:
    with ExecutionTracker(make(pooler.url(fresh))) as tracker:
        first = asyncio.run(tracker.log_execution("SELECT 1", "sqlite", execution_id="one", user_id="ada"))
        assert asyncio.run(tracker.log_execution("SELECT 1", "sqlite", execution_id="one", user_id="ada")) == first
        assert [row["id"] for row in tracker.get_user_executions("ada").executions] == [first]
        assert tracker.get_execution_stats()["total_executions"] == 1


def test_nothing_is_left_in_the_pool(fresh: Database, make: Make, pooler: Pooler) -> None:
    recorder = make(pooler.url(fresh))
    recorder.record_metric("m", 1)
    assert recorder.flush() == "written"
    with ExecutionTracker(recorder) as tracker:
        asyncio.run(tracker.log_execution("SELECT 1", "sqlite"))
        tracker.get_execution_stats()
    with Sampler(pooler.url(fresh), every=0.05) as sampler:
        wait_until(lambda: sampler.stats().samples)
        assert sampler.stats().errors == 0
    recorder.close()
    with psycopg.connect(pooler.url(fresh), prepare_threshold=None) as connection:
        instrument(connection, make(fresh.url), pooled=True)
        transactions.create_session(connection, "key", "agent", context_type="message", content="hello")
    with psycopg.connect(pooler.url(fresh), autocommit=True, prepare_threshold=None) as client:
        assert client.execute(LEFT_IN_THE_POOL).fetchall() == []


@pytest.mark.parametrize("pooled", [True, False], ids=["pooled", "not told"])
def test_instrumented_connection_claims_no_server_process(
    fresh: Database, make: Make, pooler: Pooler, pooled: bool
) -> None:
    """The process serves another client in the next transaction, and killing the session would kill that one."""
    recorder = make(pooler.url(fresh))
    with psycopg.connect(pooler.url(fresh), prepare_threshold=None) as connection:
        instrument(connection, recorder, pooled=pooled)
        connection.execute("SELECT 1")
        connection.commit()
        assert recorder.flush() == "written"
        recorded = "SELECT s.backend_pid, s.status::text, t.sql_text FROM instrumentation.sessions s JOIN instrumentation.sql_statements t USING (session_id)"
        assert fresh.execute(recorded) == [(None, "active", "SELECT 1")]


def test_engine_that_is_instrumented_names_its_session_in_each_transaction(
    fresh: Database, make: Make, pooler: Pooler
) -> None:
    recorder = make(pooler.url(fresh))
    engine = sqlalchemy.create_engine(
        pooler.url(fresh).replace("postgresql://", "postgresql+psycopg://"), connect_args={"prepare_threshold": None}
    )
    undo = instrument(engine, recorder, pooled=True)
    with engine.begin() as connection:
        named = connection.execute(sqlalchemy.text("SELECT current_setting('pgvigil.session_id')::uuid")).scalar()
    undo()
    engine.dispose()
    assert recorder.flush() == "written"
    assert fresh.execute("SELECT session_id FROM instrumentation.sessions") == [(named,)]


@pytest.fixture(params=["psycopg", "SQLAlchemy"])
def connection(request: pytest.FixtureRequest, fresh: Database, pooler: Pooler) -> Iterator[Any]:
    if request.param == "psycopg":
        with psycopg.connect(pooler.url(fresh), prepare_threshold=None) as made:
            yield made
    else:
        url = pooler.url(fresh).replace("postgresql://", "postgresql+psycopg://")
        engine = sqlalchemy.create_engine(url, connect_args={"prepare_threshold": None})
        yield engine
        engine.dispose()


def test_transactions_of_an_application_are_whole(fresh: Database, connection: Any) -> None:
    made = transactions.create_session(connection, "key", "agent", context_type="message", content="hello")
    results = transactions.batch(connection, [("fails", lambda _: 1 // 0), ("passes", lambda _: None)])
    assert [result["status"] for result in results] == ["failed", "success"]
    found = "SELECT s.id, c.id FROM sessions s JOIN context_history c ON c.session_id = s.id"
    assert fresh.execute(found) == [tuple(made)]


# --- a pooler that lets no transaction through ------------------------------------------------------------------------

IN_STATEMENT_MODE = "a connection pooler in statement mode is between this process and PostgreSQL"


def test_recorder_behind_a_statement_pooler_says_so_and_spills(
    fresh: Database, make: Make, statement_pooler: Pooler
) -> None:
    recorder = make(statement_pooler.url(fresh))
    recorder.record_metric("m", 1)
    assert recorder.flush() == "spilled"
    assert IN_STATEMENT_MODE in recorder.stats().last_error
    assert "pool_mode = transaction or session" in recorder.stats().last_error


def test_tracker_and_transactions_behind_a_statement_pooler_say_so(
    fresh: Database, make: Make, statement_pooler: Pooler
) -> None:
    with ExecutionTracker(make(statement_pooler.url(fresh))) as tracker:
        with pytest.raises(PreconditionError, match=IN_STATEMENT_MODE):
            tracker.get_execution_stats()
        with pytest.raises(PreconditionError, match=IN_STATEMENT_MODE):
            asyncio.run(tracker.log_execution("SELECT 1", "sqlite"))
    with (
        psycopg.connect(statement_pooler.url(fresh), prepare_threshold=None) as connection,
        pytest.raises(PreconditionError, match=IN_STATEMENT_MODE),
    ):
        transactions.create_session(connection, "key", "agent", context_type="message", content="hello")
    engine = sqlalchemy.create_engine(
        statement_pooler.url(fresh).replace("postgresql://", "postgresql+psycopg://"),
        connect_args={"prepare_threshold": None},
    )
    with pytest.raises(PreconditionError, match=IN_STATEMENT_MODE):
        transactions.batch(engine, [("one", lambda c: c.exec_driver_sql("SELECT 1"))])
    engine.dispose()


def test_sampler_behind_a_statement_pooler_says_so(fresh: Database, statement_pooler: Pooler) -> None:
    with Sampler(statement_pooler.url(fresh), every=0.05) as sampler:
        wait_until(lambda: sampler.stats().errors)
    assert IN_STATEMENT_MODE in sampler.stats().last_error


# --- a standby ---------------------------------------------------------------------------------------------------------


def become_standby(mortal: Mortal) -> None:
    """Restart as a standby without a primary: it stays in recovery until it is promoted."""
    mortal.end(signal.SIGINT)
    (mortal.server.data / "standby.signal").touch()
    mortal.start()


def promote(mortal: Mortal) -> None:
    with psycopg.connect(mortal.url, autocommit=True) as connection:
        assert connection.execute("SELECT pg_promote()").fetchone() == (True,)


def test_recorder_on_a_standby_says_so_and_writes_when_that_is_promoted(mortal: Mortal, make: Make) -> None:
    become_standby(mortal)
    recorder = make(mortal.url)
    recorder.record_metric("m", 1)
    assert recorder.flush() == "spilled"
    assert "the server is a standby, which accepts no writes" in recorder.stats().last_error
    promote(mortal)
    wait_until(lambda: recorder.stats().written == 1)


def test_tracker_reads_from_a_standby_and_says_why_it_cannot_write(mortal: Mortal, make: Make) -> None:
    become_standby(mortal)
    with ExecutionTracker(make(mortal.url)) as tracker:
        assert tracker.get_execution_stats()["total_executions"] == 0
        with pytest.raises(PreconditionError, match="the server is a standby, which accepts no writes"):
            asyncio.run(tracker.log_execution("SELECT 1", "sqlite"))


def test_sampler_on_a_standby_says_so(mortal: Mortal) -> None:
    become_standby(mortal)
    with Sampler(mortal.url, every=0.05) as sampler:
        wait_until(lambda: sampler.stats().errors)
    assert "the server is a standby, which accepts no writes" in sampler.stats().last_error


def test_instrumented_application_works_on_a_standby(mortal: Mortal, make: Make) -> None:
    become_standby(mortal)
    recorder = make(mortal.url)
    with psycopg.connect(mortal.url) as connection:
        undo = instrument(connection, recorder)
        assert connection.execute("SELECT 1").fetchone() == (1,)
        undo()
    assert recorder.flush() == "spilled"
    assert "the server is a standby" in recorder.stats().last_error
