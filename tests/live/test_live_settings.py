"""Settings of a role, a database or a server do not change what pgvigil.live writes and reads."""

from __future__ import annotations

import asyncio
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from conftest import Database, Make, wait_until
from pgvigil import cli
from pgvigil.live import ExecutionTracker, Sampler, instrument, transactions

AT = datetime(2001, 2, 3, 4, 5, 6, 789012, tzinfo=UTC)
# Those of the application's own connections are its own: they end what it asks, and not what is recorded of it.
TIMEOUTS = {
    "statement_timeout": "'1ms'",
    "lock_timeout": "'1ms'",
    "idle_in_transaction_session_timeout": "'1ms'",
    "idle_session_timeout": "'20ms'",
    "transaction_timeout": "'10ms'",
}
OTHERS = {
    "DateStyle": "'German, DMY'",
    "IntervalStyle": "sql_standard",
    "TimeZone": "'Asia/Kathmandu'",
    "search_path": "hostile, pg_catalog",
    "bytea_output": "escape",
    "extra_float_digits": "-15",
    "default_transaction_isolation": "serializable",
    "default_transaction_deferrable": "on",
    "client_min_messages": "debug5",
    "standard_conforming_strings": "off",
    "row_security": "off",
}
READ_ONLY = {"default_transaction_read_only": "on"}
# Each is found before that of pg_catalog, and raises.
HOSTILE = """
CREATE SCHEMA hostile;
CREATE FUNCTION hostile.now() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.clock_timestamp() RETURNS timestamptz LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.pg_backend_pid() RETURNS integer LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.make_interval(hours integer) RETURNS interval LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.refuse(text, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.refuse(name, name) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.refuse(name, text) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.refuse(oid, oid) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.refuse(integer, integer) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.refuse(varchar, varchar) RETURNS boolean LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.wrong(numeric, numeric) RETURNS numeric LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE FUNCTION hostile.wrong(integer, integer) RETURNS integer LANGUAGE plpgsql AS $$BEGIN RAISE 'hostile'; END$$;
CREATE OPERATOR hostile.= (LEFTARG = text, RIGHTARG = text, FUNCTION = hostile.refuse);
CREATE OPERATOR hostile.= (LEFTARG = name, RIGHTARG = name, FUNCTION = hostile.refuse);
CREATE OPERATOR hostile.= (LEFTARG = name, RIGHTARG = text, FUNCTION = hostile.refuse);
CREATE OPERATOR hostile.= (LEFTARG = oid, RIGHTARG = oid, FUNCTION = hostile.refuse);
CREATE OPERATOR hostile.= (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.refuse);
CREATE OPERATOR hostile.= (LEFTARG = varchar, RIGHTARG = varchar, FUNCTION = hostile.refuse);
CREATE OPERATOR hostile.* (LEFTARG = numeric, RIGHTARG = numeric, FUNCTION = hostile.wrong);
CREATE OPERATOR hostile.* (LEFTARG = integer, RIGHTARG = integer, FUNCTION = hostile.wrong);
CREATE DOMAIN hostile.jsonb AS text CHECK (false);
CREATE DOMAIN hostile.uuid AS text CHECK (false);
CREATE DOMAIN hostile.timestamptz AS text CHECK (false);
CREATE DOMAIN hostile.text AS pg_catalog.text CHECK (false);
CREATE TABLE hostile.system_metrics (LIKE public.system_metrics);
CREATE TABLE hostile.performance_logs (LIKE public.performance_logs);
CREATE TABLE hostile.query_executions (LIKE public.query_executions);
CREATE TABLE hostile.sessions (LIKE public.sessions);
CREATE TABLE hostile.context_history (LIKE public.context_history);
"""


def known(database: Database, setting: str) -> bool:
    return bool(database.execute("SELECT 1 FROM pg_settings WHERE lower(name) = lower(%s)", (setting,)))


@pytest.fixture(params=[*TIMEOUTS, *OTHERS, *READ_ONLY])
def hostile(fresh: Database, request: pytest.FixtureRequest) -> Iterator[Database]:
    """A database with one hostile setting, and hostile objects in a schema of that name."""
    setting = request.param
    fresh.execute(HOSTILE)
    if known(
        fresh, setting
    ):  # transaction_timeout came with PostgreSQL 17: before that, there is nothing to be hostile with
        value = (TIMEOUTS | OTHERS | READ_ONLY)[setting]
        fresh.execute(f'ALTER DATABASE "{fresh.name}" SET {setting} = {value}')
    yield fresh
    with unaffected(fresh) as connection:
        connection.execute(f'ALTER DATABASE "{fresh.name}" RESET ALL')


def unaffected(database: Database) -> psycopg.Connection[Any]:
    """A connection to look at the outcome."""
    settings = {name: "0" for name in TIMEOUTS if name != "transaction_timeout"} | {
        "search_path": "public",
        "DateStyle": "ISO",
        "TimeZone": "UTC",
        "extra_float_digits": "1",
        "default_transaction_read_only": "off",
        "row_security": "on",
    }
    options = " ".join(f"-c {name}={value}" for name, value in settings.items())
    if database.server.major >= 17:
        options += " -c transaction_timeout=0"
    return psycopg.connect(make_conninfo(database.url, options=options), autocommit=True)


def seen(database: Database, query: str, *parameters: Any) -> list[Any]:
    with unaffected(database) as connection:
        return connection.execute(query, parameters or None).fetchall()


def test_what_is_recorded_is_the_same(hostile: Database, make: Make) -> None:
    recorder = make(hostile.url)
    recorder.record_metric("m", 0.1 + 0.2, labels={"a": "\\x"}, at=AT)
    recorder.record_performance("op", 12, at=AT)
    assert recorder.flush() == "written"
    assert seen(
        hostile, "SELECT metric_value::text, labels, recorded_at FROM system_metrics WHERE metric_name = 'm'"
    ) == [("0.30000000000000004", {"a": "\\x"}, AT)]
    written = "SELECT operation, created_at, abs(extract(epoch FROM now() - pgvigil.uuid_v7_time(id))) < 600 FROM performance_logs"
    assert seen(hostile, written) == [("op", AT, True)]
    assert recorder.stats().quarantined == 0


def test_what_is_tracked_and_read_is_the_same(hostile: Database, make: Make) -> None:
    details: Any = {"user_id": "ada", "execution_time": 0.1 + 0.2, "started_at": AT, "completed_at": AT}
    with ExecutionTracker(make(hostile.url)) as tracker:
        asyncio.run(tracker.log_execution("SELECT 1", "sqlite", **details))
        asyncio.run(tracker.log_execution("SELECT 2", "sqlite", user_id="ada", execution_time=0.1 + 0.2))
        new, old = tracker.get_user_executions("ada").executions
        assert (old["execution_time"], old["started_at"].isoformat()) == (0.1 + 0.2, AT.isoformat())
        assert new["started_at"].tzinfo is not None
        assert tracker.get_user_executions("ada", cursor=tracker.get_user_executions("ada", limit=1).next_cursor) == (
            [old],
            None,
        )
        stats = tracker.get_execution_stats("ada", days=1)
        assert (stats["total_executions"], stats["avg_execution_time"]) == (1, 0.1 + 0.2)
        assert tracker.get_database_type_stats("ada")[0]["execution_count"] == 2


def test_what_is_instrumented_is_found_by_its_server_process(hostile: Database, make: Make) -> None:
    recorder = make(hostile.url)
    of_its_own = " ".join(f"-c {name}=0" for name in TIMEOUTS if known_timeout(hostile, name))
    with psycopg.connect(make_conninfo(hostile.url, options=of_its_own)) as connection:
        instrument(connection, recorder)
        connection.execute("SELECT 1")
        assert recorder.flush() == "written"
        matching = """SELECT t.sql_text FROM instrumentation.sql_statements t JOIN instrumentation.sessions s USING (session_id)
                      JOIN pg_stat_activity a ON a.pid = s.backend_pid AND a.backend_start = s.backend_start"""
        assert seen(hostile, matching) == [("SELECT 1",)]


def known_timeout(database: Database, name: str) -> bool:
    return name != "transaction_timeout" or database.server.major >= 17


def test_a_session_of_the_application_is_the_same(hostile: Database) -> None:
    """A transaction that the application made read-only stays so, and is left out here."""
    own = {name: "0" for name in TIMEOUTS if known_timeout(hostile, name)} | {"default_transaction_read_only": "off"}
    options = " ".join(f"-c {name}={value}" for name, value in own.items())
    with psycopg.connect(make_conninfo(hostile.url, options=options)) as connection:
        made = transactions.create_session(
            connection, "key", "agent", context_type="message", content="hello", expires_at=AT, metadata={"a": "\\"}
        )
    found = "SELECT s.expires_at, s.metadata, c.content FROM public.sessions s JOIN public.context_history c ON c.session_id = s.id WHERE s.id = %s"
    assert seen(hostile, found, made.session_id) == [(AT, {"a": "\\"}, "hello")]


def test_what_is_sampled_is_the_same(hostile: Database) -> None:
    with Sampler(hostile.url, every=0.05) as sampler:
        wait_until(lambda: sampler.stats().samples)
        assert sampler.stats().last_error == ""


@pytest.mark.client_side
def test_connection_that_was_ended_while_idle_is_no_error(fresh: Database, make: Make) -> None:
    fresh.execute(f"ALTER DATABASE \"{fresh.name}\" SET idle_session_timeout = '20ms'")
    recorder = make(fresh.url, spill_after=0)
    mine = "SELECT 1 FROM pg_stat_activity WHERE application_name = 'pgvigil recorder' AND datname = current_database()"
    for n in range(3):
        recorder.record_metric("m", n)
        assert recorder.flush() == "written"
        wait_until(lambda: not seen(fresh, mine))
    assert (recorder.stats().errors, recorder.stats().spilled) == (0, 0)


@pytest.mark.client_side
def test_it_leaves_no_setting_on_its_connection(fresh: Database, make: Make) -> None:
    """Behind a pooler, the connection is another client's in the next transaction."""
    with ExecutionTracker(make(fresh.url)) as tracker:
        tracker.get_database_type_stats()
        [(_, connection)] = tracker._idle
        sources = "SELECT name, setting FROM pg_settings WHERE source = 'session' AND name <> 'application_name'"
        assert connection.execute(sources).fetchall() == []


@pytest.mark.client_side
@pytest.mark.parametrize("schema", ['a"b%s', "a:b", "sessions", "{0}", "%(x)s", "Übung 1"])
@pytest.mark.slow(first=2)
def test_any_name_of_the_schema_will_do(database: Database, make: Make, schema: str) -> None:
    with database.connect() as connection:
        connection.execute("CREATE SCHEMA " + psycopg.sql.Identifier(schema).as_string(connection))
    assert cli.main(["setup", "--schema", schema, "--database-url", database.url]) == 0
    recorder = make(database.url)
    recorder.record_performance("op", 1)
    with ExecutionTracker(recorder) as tracker:
        asyncio.run(tracker.log_execution("SELECT 1", "sqlite"))
        assert tracker.get_execution_stats()["total_executions"] == 1
    assert recorder.flush() == "written"
    import sqlalchemy

    engine = sqlalchemy.create_engine(database.url.replace("postgresql://", "postgresql+psycopg://"))
    transactions.create_session(engine, "one", "agent", context_type="message", content="hello")
    engine.dispose()
    with database.connect() as connection:
        transactions.create_session(connection, "two", "agent", context_type="message", content="hello")
        query = psycopg.sql.SQL("SELECT count(*) FROM {}").format(psycopg.sql.Identifier(schema, "sessions"))
        assert connection.execute(query).fetchone() == (2,)


@pytest.mark.client_side
def test_sampler_without_its_role_says_what_to_grant(fresh: Database) -> None:
    fresh.execute('DROP ROLE IF EXISTS "t a writer"')
    fresh.execute("CREATE ROLE \"t a writer\" LOGIN PASSWORD 'x' IN ROLE pgvigil_writer")
    try:
        with Sampler(re.sub(r"//postgres:\w+@", "//t%20a%20writer:x@", fresh.tcp_url), every=0.05) as sampler:
            wait_until(lambda: sampler.stats().errors)
        assert sampler.stats().samples == 0
        assert sampler.stats().last_error == (
            'the sampler connects as "t a writer", which is not a member of pgvigil_admin: it may not read the statements of other roles.'
            ' GRANT pgvigil_admin TO "t a writer";'
        )
    finally:
        fresh.execute('DROP ROLE "t a writer"')
