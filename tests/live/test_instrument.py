"""Instrumentation: what an application runs is seen, by whom and how it ended; and nothing of it is seen by the application."""

from __future__ import annotations

import asyncio
import re
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest
import sqlalchemy as sa
from psycopg_pool import AsyncConnectionPool, ConnectionPool
from sqlalchemy.ext.asyncio import create_async_engine

from conftest import PROJECT, Database, Make, Mortal, application, nobody, wait_until
from pgvigil.live import Recorder, instance, instrument, records

pytestmark = pytest.mark.client_side

Engines = Callable[..., sa.Engine]


@pytest.fixture
def engines() -> Iterator[Engines]:
    made: list[sa.Engine] = []

    def make(database: Database, **options: Any) -> sa.Engine:
        url = database.url.replace("postgresql://", "postgresql+psycopg://")
        made.append(sa.create_engine(url, **options))
        return made[-1]

    yield make
    for engine in made:
        engine.dispose()


SESSIONS = """SELECT backend_pid IS NOT NULL AND backend_start IS NOT NULL, status::text, stop_reason
              FROM instrumentation.sessions ORDER BY session_id"""
LEFT = """SELECT i.status::text, i.stop_reason, s.status::text, s.stop_reason, t.status::text, t.error_message
          FROM instrumentation.instances i JOIN instrumentation.sessions s USING (instance_id)
          JOIN instrumentation.sql_statements t USING (session_id) WHERE t.sql_text = 'SELECT for ever'"""


def seen(database: Database, recorder: Recorder, columns: str = "sql_text") -> list[tuple[Any, ...]]:
    assert recorder.flush() == "written"
    return database.execute(f"SELECT {columns} FROM instrumentation.sql_statements ORDER BY statement_id")


def run(engine: sa.Engine, query: str, **parameters: Any) -> Any:
    with engine.begin() as connection:
        return connection.execute(sa.text(query), parameters).scalar()


def test_statement_is_recorded_without_its_parameters(fresh: Database, make: Make, engines: Engines) -> None:
    engine, recorder = engines(fresh), make(fresh.url)
    undo = instrument(engine, recorder)
    tagged = {"pgvigil_tag": {"job": "\t\\"}}
    with engine.begin() as connection:
        connection.execute(
            sa.text("SELECT n, :x FROM\ngenerate_series(1, 3) n"), {"x": "s3cret"}, execution_options=tagged
        )
    columns = "sql_text, status::text, rows_fetched, query_tag, source, error_message, sqlstate"
    text = "SELECT n, %(x)s FROM\ngenerate_series(1, 3) n"
    assert seen(fresh, recorder, columns) == [(text, "success", 3, {"job": "\t\\"}, "application", None, None)]
    took = "duration_ms BETWEEN 0 AND 60000 AND execution_end_time >= execution_start_time"
    assert seen(fresh, recorder, took) == [(True,)]
    undo()


def test_session_is_found_by_its_server_process(fresh: Database, make: Make, engines: Engines) -> None:
    engine, recorder = engines(fresh), make(fresh.url)
    instrument(engine, recorder)
    pid = run(engine, "SELECT pg_backend_pid()")
    [(session,)] = seen(fresh, recorder, "session_id")
    same = """SELECT s.session_id, s.username = a.usename, s.backend_start = a.backend_start, s.status::text, s.instance_id = i.instance_id
              FROM instrumentation.sessions s JOIN pg_stat_activity a ON a.pid = s.backend_pid, instrumentation.instances i WHERE a.pid = %s"""
    assert fresh.execute(same, (pid,)) == [(session, True, True, "active", True)]
    assert run(engine, "SELECT instrumentation.current_session()") == session
    engine.dispose()
    assert recorder.flush() == "written"
    assert fresh.execute("SELECT status::text, stop_reason FROM instrumentation.sessions") == [("closed", None)]


def test_errors_tell_how_a_statement_ended(fresh: Database, make: Make, engines: Engines) -> None:
    engine, recorder = engines(fresh), make(fresh.url)
    instrument(engine, recorder)
    with pytest.raises(sa.exc.DataError):
        run(engine, "SELECT 1 / 0")
    with engine.connect() as connection:
        connection.exec_driver_sql("SET statement_timeout = 1")
        with pytest.raises(sa.exc.OperationalError):
            connection.exec_driver_sql("SELECT pg_sleep(60)")
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.exec_driver_sql("SELECT pg_cancel_backend(pg_backend_pid())")
    with engine.connect() as connection, pytest.raises(sa.exc.OperationalError):
        connection.exec_driver_sql("SELECT pg_terminate_backend(pg_backend_pid())")
    ends = [row for row in seen(fresh, recorder, "status::text, sqlstate, rows_fetched") if row[0] != "success"]
    expected = [("error", "22012"), ("timeout", "57014"), ("cancelled", "57014"), ("cancelled", "57P01")]
    assert ends == [(*end, None) for end in expected]
    lost = "SELECT status::text, stop_reason FROM instrumentation.sessions"
    assert fresh.execute(lost) == [("closed", "connection lost: AdminShutdown")]


def test_undo_leaves_no_trace_in_the_engine_and_ends_what_it_began(
    fresh: Database, make: Make, engines: Engines
) -> None:
    engine, recorder = engines(fresh), make(fresh.url)
    undo = instrument(engine, recorder)
    run(engine, "SELECT 1")
    undo()
    undo()
    run(engine, "SELECT 2")
    assert seen(fresh, recorder) == [("SELECT 1",)]
    assert fresh.execute("SELECT status::text, stop_reason FROM instrumentation.sessions") == [
        ("closed", "no longer instrumented")
    ]
    assert fresh.execute("SELECT status::text FROM instrumentation.instances") == [("stopped",)]
    again = instrument(engine, recorder)
    run(engine, "SELECT 3")
    again()
    assert seen(fresh, recorder) == [("SELECT 1",), ("SELECT 3",)]


def test_connections_that_were_open_before_are_seen_too(fresh: Database, make: Make, engines: Engines) -> None:
    engine, recorder = engines(fresh), make(fresh.url)
    with engine.begin() as connection:
        undo = instrument(engine, recorder)
        connection.exec_driver_sql("SELECT 'begun before'")
    run(engine, "SELECT 1")
    assert seen(fresh, recorder) == [("SELECT 'begun before'",), ("SELECT 1",)]
    undo()


def test_connections_of_an_engine_that_has_been_disposed_of_are_seen_until_undo(
    fresh: Database, make: Make, engines: Engines
) -> None:
    engine, recorder = engines(fresh), make(fresh.url)
    undo = instrument(engine, recorder)
    run(engine, "SELECT 1")
    engine.dispose()
    run(engine, "SELECT 2")
    undo()
    run(engine, "SELECT 3")
    assert seen(fresh, recorder) == [("SELECT 1",), ("SELECT 2",)]
    ends = fresh.execute("SELECT status::text, stop_reason FROM instrumentation.sessions ORDER BY session_id")
    assert ends == [("closed", None), ("closed", "no longer instrumented")]


def test_async_engine_is_seen_until_undo(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)

    async def main() -> None:
        engine = create_async_engine(fresh.url.replace("postgresql://", "postgresql+psycopg://"))
        undo = instrument(engine, recorder)
        for query in ("SELECT 1", "SELECT 1 / 0"):
            with suppress(sa.exc.DataError):
                async with engine.begin() as connection:
                    await connection.execute(sa.text(query))
        undo()
        async with engine.begin() as connection:
            await connection.execute(sa.text("SELECT 2"))
        await engine.dispose()

    asyncio.run(main())
    assert seen(fresh, recorder, "sql_text, status::text") == [("SELECT 1", "success"), ("SELECT 1 / 0", "error")]
    assert fresh.execute(SESSIONS) == [(True, "closed", "no longer instrumented")]


def test_connection_of_psycopg_is_seen_until_it_is_closed(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)
    with fresh.connect(autocommit=False) as connection:
        undo = instrument(connection, recorder)
        connection.execute("SELECT %s", ["s3cret"])
        with connection.cursor() as cursor:
            cursor.executemany("SELECT %s, 1", [("a",), ("b",)])
            cursor.execute(psycopg.sql.SQL("SELECT {} FROM pg_class LIMIT 2").format(psycopg.sql.Identifier("oid")))
    assert seen(fresh, recorder, "sql_text, rows_fetched, status::text") == [
        ("SELECT %s", 1, "success"),
        ("SELECT %s, 1", 2, "success"),
        ('SELECT "oid" FROM pg_class LIMIT 2', 2, "success"),
    ]
    undo()


def test_async_connection_of_psycopg_is_seen_and_a_cancelled_statement_too(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)

    async def main() -> None:
        async with await psycopg.AsyncConnection.connect(fresh.url, autocommit=True) as connection:
            instrument(connection, recorder)
            await connection.execute("SELECT 1")
            task = asyncio.create_task(connection.execute("SELECT pg_sleep(60)"))
            while not fresh.execute("SELECT 1 FROM pg_stat_activity WHERE query = 'SELECT pg_sleep(60)'"):
                await asyncio.sleep(0.01)
            task.cancel()
            with pytest.raises(asyncio.CancelledError):
                await task

    asyncio.run(main())
    assert seen(fresh, recorder, "sql_text, status::text") == [
        ("SELECT 1", "success"),
        ("SELECT pg_sleep(60)", "cancelled"),
    ]
    assert fresh.execute("SELECT status::text FROM instrumentation.sessions") == [("closed",)]


def test_pool_is_seen_with_the_connections_it_has_and_those_it_opens_later_until_undo(
    fresh: Database, make: Make
) -> None:
    recorder = make(fresh.url)
    with ConnectionPool(fresh.url, min_size=1, max_size=2, open=True) as pool:
        pool.wait()
        undo = instrument(pool, recorder)
        with pool.connection() as first, pool.connection() as second:
            cursor = second.cursor()
            first.execute("SELECT 'there'")
            cursor.execute("SELECT 'new'")
            undo()
            undo()
            cursor.execute("SELECT 'unseen'")
            assert first.cursor_factory is psycopg.Cursor
        with pool.connection() as connection:
            connection.execute("SELECT 'unseen'")
        assert vars(pool).keys().isdisjoint({"getconn", "putconn"})
    assert seen(fresh, recorder) == [("SELECT 'there'",), ("SELECT 'new'",)]
    assert fresh.execute(SESSIONS) == [(True, "closed", "no longer instrumented")] * 2
    assert fresh.execute("SELECT status::text FROM instrumentation.instances") == [("stopped",)]


def test_async_pool_is_seen_with_the_connections_it_has_and_those_it_opens_later_until_undo(
    fresh: Database, make: Make
) -> None:
    recorder = make(fresh.url)

    async def main() -> None:
        async with AsyncConnectionPool(fresh.url, min_size=1, max_size=2, open=False) as pool:
            await pool.wait()
            undo = instrument(pool, recorder)
            async with pool.connection() as first, pool.connection() as second:
                await first.execute("SELECT 'there'")
                await second.execute("SELECT 'new'")
            undo()
            async with pool.connection() as connection:
                await connection.execute("SELECT 'unseen'")

    asyncio.run(main())
    assert seen(fresh, recorder) == [("SELECT 'there'",), ("SELECT 'new'",)]
    assert fresh.execute(SESSIONS) == [(True, "closed", "no longer instrumented")] * 2


def test_session_of_a_pool_ends_with_its_connection_and_not_when_that_goes_back(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)
    with ConnectionPool(fresh.url, min_size=1, max_size=1, open=True, close_returns=True) as pool:
        instrument(pool, recorder)
        for _ in range(2):
            connection = pool.getconn()
            connection.execute("SELECT 1")
            connection.close()
        with suppress(psycopg.OperationalError), pool.connection() as connection:
            connection.execute("SELECT pg_terminate_backend(pg_backend_pid())")
        with pool.connection() as connection:
            connection.execute("SELECT 2")
    assert len(seen(fresh, recorder)) == 4
    assert fresh.execute(SESSIONS) == [(True, "closed", "connection lost"), (True, "closed", None)]


@pytest.mark.parametrize("kind", ["sqlalchemy", "psycopg"])
def test_behind_a_pooler_each_transaction_names_its_session(
    kind: str, fresh: Database, make: Make, engines: Engines
) -> None:
    recorder = make(fresh.url)
    who = "SELECT instrumentation.current_session()"
    if kind == "sqlalchemy":
        engine = engines(fresh)
        instrument(engine, recorder, pooled=True)
        run(engine, "SELECT 1")
        [(session,)] = seen(fresh, recorder, "session_id")
        assert run(engine, who) == session
        with engine.connect() as connection:
            connection.execution_options(isolation_level="AUTOCOMMIT")
            assert connection.exec_driver_sql(who).scalar() is None
    else:
        with fresh.connect(autocommit=False) as connection:
            instrument(connection, recorder, pooled=True)
            connection.execute("SELECT 1")
            connection.commit()
            [(session,)] = seen(fresh, recorder, "session_id")
            for _ in range(2):
                assert connection.execute(who).fetchall() == [(session,)]
                connection.rollback()
            connection.autocommit = True
            assert connection.execute(who).fetchall() == [(None,)]
    known = "SELECT backend_pid, backend_start, username FROM instrumentation.sessions"
    assert fresh.execute(known) == [(None, None, "postgres")]
    assert recorder.stats().quarantined == 0


def test_instance_shows_that_it_lives(
    fresh: Database, make: Make, engines: Engines, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(instance, "HEARTBEAT", 0.01)
    undo = instrument(engines(fresh), make(fresh.url))
    beats = "SELECT 1 FROM instrumentation.instances WHERE heartbeat_at > start_time"
    wait_until(lambda: fresh.execute(beats))
    undo()


def test_forked_child_is_an_instance_of_its_own(fresh: Database, spill: Path) -> None:
    code = """
import psycopg
from pgvigil.live import instrument
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2])
def work():
    with psycopg.connect(sys.argv[1]) as connection:
        instrument(connection, recorder)
        connection.execute("SELECT 1")
work()
if not os.fork():
    work()
    print(recorder.close(), flush=True)
    os._exit(0)
os.wait()
"""
    with application(code, fresh.url, spill) as process:
        output, _ = process.communicate(timeout=60)
    assert output == "written\n"
    ended = "SELECT status::text, stop_reason FROM instrumentation.instances ORDER BY instance_id"
    assert fresh.execute(ended) == [("stopped", "its recorder was closed")] * 2
    assert fresh.execute("SELECT count(DISTINCT instance_id) FROM instrumentation.sessions") == [(2,)]


def test_application_works_on_where_nothing_can_be_recorded(
    database: Database, make: Make, engines: Engines, tmp_path: Path
) -> None:
    engine = engines(database)
    for recorder in (make(nobody(tmp_path)), make(database.url)):
        undo = instrument(engine, recorder)
        assert run(engine, "SELECT 1") == 1
        undo()
        recorder.close(1)


def test_statements_of_unknown_sessions_are_set_aside_at_once(fresh: Database, make: Make, spill: Path) -> None:
    recorder = make(fresh.url, linger=60)
    with fresh.connect() as connection:
        instrument(connection, recorder)
        for n in range(100):
            recorder.append(records.statement(str(uuid4()), f"SELECT 'lost {n}'", 1, 1))
            connection.execute(f"SELECT {n}")  # type: ignore[call-overload]
    assert seen(fresh, recorder) == [(f"SELECT {n}",) for n in range(100)]
    assert recorder.stats().quarantined == 100
    assert recorder.stats().batches <= 3
    [file] = spill.glob("*-quarantine.jsonl")
    assert len(file.read_text().splitlines()) == 100


def test_what_a_killed_application_leaves_is_closed_within_two_heartbeats(fresh: Database, spill: Path) -> None:
    code = """
import psycopg, pgvigil
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2])
connection = psycopg.connect(sys.argv[1], autocommit=True)
pgvigil.instrument(connection, recorder)
recorder.flush()
connection.execute("SELECT instrumentation.record_statement('SELECT for ever', 'executing')")
print(connection.info.backend_pid, flush=True)
sys.stdin.read()
"""
    with application(code, fresh.url, spill) as process:
        assert process.stdout
        pid = int(process.stdout.readline())
        process.kill()
    wait_until(lambda: not fresh.execute("SELECT 1 FROM pg_stat_activity WHERE pid = %s", (pid,)))
    fresh.execute(
        "SET pgvigil.instrumentation = 'write';"
        "UPDATE instrumentation.instances SET heartbeat_at = heartbeat_at - 2 * interval '30 seconds'"
    )
    assert fresh.execute("SELECT * FROM instrumentation.reap_stale()") == [(1, 1, 1)]
    assert fresh.execute(LEFT) == [("stopped", "heartbeat missed", "error", "backend gone", "error", "backend gone")]


def test_sessions_from_before_a_restart_of_the_server_are_closed_and_the_application_has_new_ones(
    mortal: Mortal, make: Make
) -> None:
    recorder = make(mortal.url)
    engine = sa.create_engine(mortal.url.replace("postgresql://", "postgresql+psycopg://"), pool_pre_ping=True)
    undo = instrument(engine, recorder)
    run(engine, "SELECT 1")
    assert recorder.flush() == "written"
    run(engine, "SELECT instrumentation.record_statement('SELECT for ever', 'executing')")
    mortal.end(signal.SIGINT)
    mortal.start()
    with psycopg.connect(mortal.url, autocommit=True) as connection:
        assert connection.execute("SELECT * FROM instrumentation.reap_stale()").fetchone() == (0, 1, 1)
        restarted = ("error", "postmaster restarted")
        left = "SELECT DISTINCT s.status::text, s.stop_reason, t.status::text, t.error_message"
        left += " FROM instrumentation.sessions s JOIN instrumentation.sql_statements t USING (session_id)"
        assert (*restarted, *restarted) in connection.execute(left).fetchall()  # type: ignore[arg-type]
        run(engine, "SELECT 2")
        wait_until(lambda: recorder.stats().queue_depth == recorder.stats().spill_pending == 0)
        sessions = connection.execute(SESSIONS.encode()).fetchall()
    assert sessions == [(True, *restarted), (True, "active", None)]
    undo()
    engine.dispose()


def test_a_recorder_of_another_login_that_is_a_member_of_the_application_s_role_needs_nothing_but_to_write(
    fresh: Database, make: Make
) -> None:
    writer, user = f"t_{uuid4().hex[:8]}", f"t_{uuid4().hex[:8]}"
    fresh.execute(f"CREATE ROLE {user} LOGIN; CREATE ROLE {writer} LOGIN IN ROLE pgvigil_writer, {user}")
    try:
        recorder = make(fresh.url.replace("//postgres@", f"//{writer}@"))
        with psycopg.connect(fresh.url.replace("//postgres@", f"//{user}@")) as connection:
            instrument(connection, recorder)
            connection.execute("SELECT 1")
        assert seen(fresh, recorder) == [("SELECT 1",)]
        assert fresh.execute("SELECT username, backend_pid IS NOT NULL FROM instrumentation.sessions") == [(user, True)]
        recorder.close()
    finally:
        fresh.execute(f"DROP ROLE {writer}, {user}")


def test_what_cannot_be_instrumented_is_refused(make: Make, tmp_path: Path) -> None:
    recorder = make(nobody(tmp_path))
    needs = "the engine uses sqlite with pysqlite: instrument() needs postgresql+psycopg://. For other engines use ExecutionTracker."
    with pytest.raises(ValueError, match="^" + re.escape(needs) + "$"):
        instrument(sa.create_engine("sqlite://"), recorder)
    with pytest.raises(
        TypeError,
        match="cannot instrument a str: pass a SQLAlchemy Engine, a psycopg_pool pool, or a connection of psycopg 3",
    ):
        instrument("postgresql://", recorder)  # type: ignore[arg-type]
    assert recorder.stats().accepted == 0


def test_package_imports_it_when_it_is_asked_for_and_not_before() -> None:
    code = """
import sys, pgvigil
print({"psycopg", "sqlalchemy", "pgvigil.live"} & set(sys.modules), callable(pgvigil.instrument), "sqlalchemy" in sys.modules)
"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(PROJECT / "src")},
        capture_output=True,
        text=True,
        check=True,
    )
    assert done.stdout == "set() True False\n"


PAGE = (PROJECT / "docs/instrument.md").read_text()
EXAMPLES = re.findall(r"## ([^\n]+)\n(?:(?!\n## ).)*?```(python|sql)\n(.*?)```", PAGE, re.DOTALL)


@pytest.mark.parametrize(
    ("language", "example"), [found[1:] for found in EXAMPLES], ids=[found[0] for found in EXAMPLES]
)
def test_example_of_the_page_works(language: str, example: str, fresh: Database, spill: Path) -> None:
    if language == "sql":
        with fresh.connect() as connection:
            connection.execute(example)  # type: ignore[arg-type]
    else:
        with application(example, environment={"DATABASE_URL": fresh.url, "XDG_STATE_HOME": str(spill)}) as process:
            output, _ = process.communicate(timeout=60)
        assert output == ""
    expected = "SELECT count(*), min(t.status::text), min(s.status::text) FROM instrumentation.sql_statements t JOIN instrumentation.sessions s USING (session_id)"
    assert fresh.execute(expected) == [(1, "success", "closed")]
    assert fresh.execute("SELECT status::text FROM instrumentation.instances") == [("stopped",)]


def test_page_has_an_example_for_each_way() -> None:
    assert [found[0] for found in EXAMPLES] == [
        "SQLAlchemy",
        "psycopg",
        "psycopg, async",
        "Pools of psycopg",
        "Plain SQL",
    ]
