"""The recorder: what an application hands over is in the database exactly once, or counted; and nothing ever stops its caller."""

from __future__ import annotations

import asyncio
import contextlib
import dataclasses
import functools
import inspect
import json
import os
import re
import signal
import socket
import stat
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime, timedelta
from decimal import Decimal
from pathlib import Path
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from conftest import PROJECT, Database, Make, Mortal, Proxy, adds_up, application, give, nobody, wait_until
from pgvigil import cli
from pgvigil.live import ExecutionTracker, Recorder, Stats, records
from pgvigil.live.copy_encoding import Encoder
from pgvigil.live.own_transaction import application_schema, find_tables
from pgvigil.live.writer import Unavailable, Writer

pytestmark = pytest.mark.client_side


def operations(database: Database | str) -> list[str]:
    """Those in the database, in the order in which they were written."""
    url = database if isinstance(database, str) else database.url
    with psycopg.connect(url, autocommit=True) as connection:
        return [row[0] for row in connection.execute("SELECT operation FROM performance_logs ORDER BY id")]


def names(count: int, prefix: str = "op") -> list[str]:
    return [f"{prefix} {n}" for n in range(count)]


def record_all(recorder: Recorder, operations: list[str]) -> None:
    for operation in operations:
        recorder.record_performance(operation, 1)


# --- a server to maltreat --------------------------------------------------------------------------------------------


@pytest.fixture(params=[True, False], ids=["done", "not done"])
def proxy(fresh: Database, request: pytest.FixtureRequest) -> Iterator[Proxy]:
    proxy = Proxy(fresh.server.port, commit_reaches_server=request.param)
    yield proxy
    proxy.close()


def through(proxy: Proxy, database: Database) -> str:
    return re.sub(r"@127\.0\.0\.1:\d+/", f"@127.0.0.1:{proxy.port}/", database.tcp_url) + "?sslmode=disable"


def bar_the_way(monkeypatch: pytest.MonkeyPatch, since: threading.Event) -> threading.Event:
    """Refuse all recorders a connection once `since` is set, until the returned event is set."""
    again, connect = threading.Event(), Writer.connect

    def connect_unless_barred(self: Writer) -> None:
        if since.is_set() and not again.is_set():
            raise Unavailable("barred")
        connect(self)

    monkeypatch.setattr(Writer, "connect", connect_unless_barred)
    return again


# --- what it writes --------------------------------------------------------------------------------------------------


def test_metric_arrives_as_it_was_recorded(fresh: Database, make: Make) -> None:
    at = datetime(2001, 2, 3, 4, 5, 6, 789, tzinfo=UTC)
    name, labels = 'näme\t"\\\n\\N', {"ключ": ["\t\\u", None, 1.5], "quote": "\"'"}
    recorder = make(fresh.url)
    recorder.record_metric(name, Decimal("1.10"), "histogram", labels=labels, at=at)
    assert recorder.flush() == "written"
    query = "SELECT metric_value, metric_type, labels, recorded_at FROM system_metrics WHERE metric_name = %s"
    assert fresh.execute(query, (name,)) == [(Decimal("1.10"), "histogram", labels, at)]


def test_performance_arrives_as_it_was_recorded(fresh: Database, make: Make) -> None:
    session, before = uuid4(), datetime.now(UTC)
    recorder = make(fresh.url)
    recorder.record_performance("slow", 12.6, False, session_id=session, metadata={"path": "C:\\new"})
    recorder.record_performance("fast", 0, session_id=str(session))
    assert recorder.flush() == "written"
    columns = "operation, duration_ms, success, session_id, metadata"
    assert fresh.execute(f"SELECT {columns} FROM performance_logs ORDER BY id") == [
        ("slow", 13, False, session, {"path": "C:\\new"}),
        ("fast", 0, True, session, {}),
    ]
    [(earliest, latest)] = fresh.execute("SELECT min(created_at), max(created_at) FROM performance_logs")
    assert before - timedelta(seconds=1) < earliest <= latest <= datetime.now(UTC)


def test_rows_are_in_the_partition_of_the_day_in_which_they_are_written(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)
    recorder.record_performance("late", 1, at=datetime(2020, 1, 1, tzinfo=UTC))
    recorder.flush()
    query = "SELECT abs(extract(epoch FROM now() - pgvigil.uuid_v7_time(id))) < 60, tableoid::regclass::text FROM performance_logs"
    assert fresh.execute(query) == [(True, f"performance_logs_p{datetime.now(UTC):%Y%m%d}")]


def test_ids_rise_in_the_order_of_the_calls(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url, batch_size=100)
    record_all(recorder, names(1000))
    assert recorder.flush() == "written"
    assert operations(fresh) == names(1000)


def test_rows_that_waited_in_the_spill_are_counted_by_the_rollup(
    fresh: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rollup has passed the time at which they happened long before they come."""
    outage = threading.Event()
    outage.set()
    again = bar_the_way(monkeypatch, outage)
    recorder = make(fresh.url)
    record_all(recorder, ["late"] * 10)
    assert recorder.flush() == "spilled"
    fresh.execute("UPDATE pgvigil.rollup_progress SET next_id = pgvigil.uuid_v7_floor(clock_timestamp())")
    again.set()
    wait_until(lambda: recorder.stats().replayed == 10)
    query = "SELECT total_calls FROM performance_monitoring_view WHERE operation = 'late'"
    assert fresh.execute(query) == [(10,)]


@pytest.mark.slow
def test_tables_are_found_in_whatever_schema_they_are(database: Database, make: Make) -> None:
    database.execute('CREATE SCHEMA "my app"')
    assert cli.main(["setup", "--schema", "my app", "--database-url", database.url]) == 0
    recorder = make(database.url)
    record_all(recorder, names(3))
    assert recorder.flush() == "written"
    assert database.execute('SELECT count(*) FROM "my app".performance_logs') == [(3,)]
    recorder.close()

    # A role that may not read the ledger finds them too, and no table of its own that looks like them.
    with database.connect() as connection:
        connection.execute("CREATE ROLE t_stranger; CREATE SCHEMA aaa AUTHORIZATION t_stranger")
        connection.execute(
            "GRANT USAGE ON SCHEMA pgvigil TO t_stranger; GRANT EXECUTE ON FUNCTION pgvigil.uuid_v7() TO t_stranger"
        )
        try:
            connection.execute("SET ROLE t_stranger")
            connection.execute(
                "CREATE TABLE aaa.performance_logs (id uuid DEFAULT pgvigil.uuid_v7()) PARTITION BY RANGE (id)"
            )
            assert application_schema(connection) is None
            assert '"my app".performance_logs' in find_tables(connection).values()
        finally:
            connection.execute("RESET ROLE; DROP OWNED BY t_stranger; DROP ROLE t_stranger")


def test_role_that_may_only_append_is_enough(fresh: Database, make: Make, proxy: Proxy) -> None:
    fresh.execute("DROP ROLE IF EXISTS t_appender")
    fresh.execute("CREATE ROLE t_appender LOGIN PASSWORD 'x' IN ROLE pgvigil_writer")
    try:
        url = re.sub(r"//postgres:\w+@", "//t_appender:x@", through(proxy, fresh))
        recorder = make(url)
        record_all(recorder, names(10))
        wait_until(lambda: recorder.stats().written == 10)
        assert operations(fresh) == names(10)
        recorder.close()
    finally:
        fresh.execute("DROP ROLE t_appender")


def test_connection_is_named_and_prepares_nothing(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)
    for n in range(10):
        recorder.record_metric("m", n)
        recorder.flush()
    query = (
        "SELECT application_name FROM pg_stat_activity WHERE datname = current_database() AND pid <> pg_backend_pid()"
    )
    assert fresh.execute(query) == [("pgvigil recorder",)]


# --- what it refuses -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "error"),
    [
        (("m", float("nan")), ValueError),
        (("m", float("inf")), ValueError),
        (("m", Decimal("NaN")), ValueError),
        (("m", Decimal("-Infinity")), ValueError),
        (("m", Decimal("1e131072")), ValueError),
        (("m", Decimal("1e-16384")), ValueError),
        (("m", 1 << 5000), ValueError),
        (("m", True), TypeError),
        (("m", "1"), TypeError),
        (("m", 1, "banana"), ValueError),
        (("", 1), ValueError),
        (("m" * 101, 1), ValueError),
        (("m\0", 1), ValueError),
        (("\ud800", 1), ValueError),
        ((None, 1), TypeError),
    ],
    ids=str,
)
def test_bad_metric_is_refused_in_the_caller(
    make: Make, tmp_path: Path, arguments: Any, error: type[Exception]
) -> None:
    recorder = make(nobody(tmp_path))
    with pytest.raises(error):
        recorder.record_metric(*arguments)
    assert recorder.stats().accepted == 0


@pytest.mark.parametrize(
    ("options", "error"),
    [
        ({"labels": ["not", "an", "object"]}, TypeError),
        ({"labels": []}, TypeError),
        ({"labels": {"a": float("nan")}}, ValueError),
        ({"labels": {"a": object()}}, TypeError),
        ({"labels": {"a": "\0"}}, ValueError),
        ({"labels": {"a\0": 1}}, ValueError),
        ({"labels": {"a": ["deep", {"b": "\0"}]}}, ValueError),
        ({"labels": {"a": "\\\0"}}, ValueError),
        ({"labels": {"a": "\ud800"}}, ValueError),
        ({"labels": {"\udfff": 1}}, ValueError),
        ({"labels": {"a": [1, "\udc00\ud800"]}}, ValueError),
        ({"labels": {"a": float("inf")}}, ValueError),
        ({"labels": {"a": functools.reduce(lambda inner, _: [inner], range(900), [])}}, ValueError),
        ({"at": "yesterday"}, TypeError),
        ({"at": datetime(2020, 1, 1)}, ValueError),
    ],
    ids=lambda value: re.sub(r" at 0x\w+", "", str(value)),  # the same in each worker of pytest-xdist
)
def test_bad_details_are_refused_in_the_caller(
    make: Make, tmp_path: Path, options: Any, error: type[Exception]
) -> None:
    recorder = make(nobody(tmp_path))
    with pytest.raises(error):
        recorder.record_metric("m", 1, **options)
    assert recorder.stats().accepted == 0


@pytest.mark.parametrize(
    ("duration", "success", "session", "error"),
    [
        (-1, True, None, ValueError),
        (float("nan"), True, None, ValueError),
        (2**31, True, None, ValueError),
        ("1", True, None, TypeError),
        (True, True, None, TypeError),
        (1, 1, None, TypeError),
        (1, True, "no uuid", ValueError),
    ],
)
def test_bad_operation_is_refused_in_the_caller(
    make: Make, tmp_path: Path, duration: Any, success: Any, session: Any, error: type[Exception]
) -> None:
    recorder = make(nobody(tmp_path))
    with pytest.raises(error):
        recorder.record_performance("op", duration, success, session_id=session)
    assert recorder.stats().accepted == 0


def test_what_merely_looks_unstorable_is_stored(fresh: Database, make: Make) -> None:
    labels = {"a": "\\u0000 \\ud800 \\\\u0000", "b": ["\U0001f600", "\U0010ffff", {"ключ": "\u00ff"}]}
    recorder = make(fresh.url)
    recorder.record_metric("m", Decimal("-9.9e131071"), labels=labels)
    recorder.record_metric("m", Decimal("1e-16383"), labels={"wide": [[n] for n in range(500)]})
    recorder.record_metric("m", 10**1000, labels={"a": 10**1000})
    assert recorder.flush() == "written"
    assert recorder.stats().quarantined == 0
    assert fresh.execute("SELECT labels FROM system_metrics WHERE metric_name = 'm' ORDER BY id LIMIT 1") == [(labels,)]


def test_labels_are_those_of_the_moment_of_the_call(fresh: Database, make: Make) -> None:
    recorder, labels = make(fresh.url), {"node": "a"}
    recorder.record_metric("m", 1, labels=labels)
    labels["node"] = "b"
    recorder.flush()
    assert fresh.execute("SELECT labels FROM system_metrics WHERE metric_name = 'm'") == [({"node": "a"},)]


def refuse(database: Database, name: str) -> None:
    """The database takes no metric of that name."""
    database.execute(f"ALTER TABLE system_metrics ADD CONSTRAINT not_that CHECK (metric_name <> '{name}')")


def test_bad_row_is_set_aside_and_the_others_are_written(fresh: Database, make: Make, spill: Path) -> None:
    refuse(fresh, "bad")
    recorder = make(fresh.url, linger=5)
    record_all(recorder, names(300))
    recorder.record_metric("bad", 1, labels={"secret": "first"})
    record_all(recorder, names(300, "later"))
    recorder.record_metric("bad", 2, labels={"secret": "second"})
    assert recorder.flush() == "written"
    assert operations(fresh) == names(300) + names(300, "later")
    stats = recorder.stats()
    assert (stats.quarantined, stats.written) == (2, 600)
    [file] = spill.glob("*-quarantine.jsonl")
    assert "first" in file.read_text()
    assert "second" in file.read_text()
    assert "secret" not in stats.last_error
    assert stat.S_IMODE(file.stat().st_mode) == 0o600


@pytest.mark.slow
def test_huge_bad_row_does_not_break_the_bound_of_the_quarantine(fresh: Database, make: Make, spill: Path) -> None:
    refuse(fresh, "bad")
    recorder = make(fresh.url)
    for n in range(3):
        recorder.record_metric("bad", n, labels={"text": "x" * (20 << 20)})
    assert recorder.flush(60) == "written"
    assert recorder.stats().quarantined == 3
    [file] = spill.glob("*-quarantine.jsonl")
    entries = [json.loads(line) for line in file.read_text().splitlines()]
    assert [entry["row"][:5] for entry in entries] == ["bad\t0", "bad\t1", "bad\t2"]
    assert [entry["characters"] > 20 << 20 for entry in entries] == [True] * 3
    assert file.stat().st_size < 4 << 20


def test_full_quarantine_takes_nothing_more(
    fresh: Database, make: Make, spill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgvigil.live.dispatcher.QUARANTINE_BYTES", 1000)
    refuse(fresh, "bad")
    recorder = make(fresh.url)
    for n in range(20):
        recorder.record_metric("bad", n)
    assert recorder.flush(60) == "written"
    [file] = spill.glob("*-quarantine.jsonl")
    assert 0 < file.stat().st_size <= 1000
    assert recorder.stats().quarantined == 20


def without_todays_partition(database: Database) -> list[str]:
    """Drop it and the default partition; return the statements that make them again."""
    [(partition, since, until)] = database.execute(
        "SELECT partition, pgvigil.uuid_v7_floor(from_time), pgvigil.uuid_v7_floor(to_time) FROM pgvigil.partitions"
        " WHERE parent_table = 'performance_logs' AND from_time <= now() AND to_time > now()"
    )
    database.execute(f"DROP TABLE {partition}")
    [(default,)] = database.execute(
        "SELECT partdefid::regclass::text FROM pg_partitioned_table WHERE partrelid = 'performance_logs'::regclass"
    )
    return [default, f"CREATE TABLE {partition} (LIKE performance_logs INCLUDING ALL)",
            f"ALTER TABLE performance_logs ATTACH PARTITION {partition} FOR VALUES FROM ('{since}') TO ('{until}')"]  # fmt: skip


def test_record_for_which_there_is_no_partition_waits_for_one(fresh: Database, make: Make) -> None:
    default, create, attach = without_todays_partition(fresh)
    fresh.execute(f"DROP TABLE {default}")
    recorder = make(fresh.url)
    record_all(recorder, names(10, "secret"))
    wait_until(lambda: recorder.stats().errors)
    assert "no partition of relation" in recorder.stats().last_error
    assert "secret" not in recorder.stats().last_error
    fresh.execute(create)
    fresh.execute(attach)
    wait_until(lambda: recorder.stats().written == 10)
    assert operations(fresh) == names(10, "secret")
    assert recorder.stats().quarantined == 0


def test_record_whose_partition_is_attached_while_it_waits_is_written(fresh: Database, make: Make) -> None:
    """The server looked for its partition before the attaching was committed: it "violates partition constraint" then."""
    _, create, attach = without_todays_partition(fresh)
    recorder = make(fresh.url)
    recorder.record_metric("m", 1)
    recorder.flush()
    with fresh.connect(autocommit=False) as other:
        other.execute(create)
        other.execute(attach)
        recorder.record_performance("secret", 1)
        waiting = "SELECT 1 FROM pg_stat_activity WHERE datname = current_database() AND wait_event_type = 'Lock'"
        wait_until(lambda: fresh.execute(waiting))
    wait_until(lambda: recorder.stats().written == 2)
    assert "violates partition constraint" in recorder.stats().last_error
    assert "secret" not in recorder.stats().last_error
    assert (operations(fresh), recorder.stats().quarantined) == (["secret"], 0)


def test_statement_that_a_function_of_the_server_refuses_does_not_hold_up_the_others(
    fresh: Database, make: Make
) -> None:
    """A statement of another role's instance is such a statement."""
    fresh.execute("""
        CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$
        BEGIN RAISE EXCEPTION 'not an instance of yours' USING ERRCODE = 'insufficient_privilege'; END $$""")
    fresh.execute(
        "CREATE TRIGGER refuse BEFORE INSERT ON instrumentation.sql_statements FOR EACH ROW EXECUTE FUNCTION refuse()"
    )
    [(session,)] = fresh.execute("SELECT instrumentation.register_session(instrumentation.register_instance('h'))")
    recorder = make(fresh.url)
    recorder.append(records.statement(str(session), "SELECT 1", 1000, 1))
    record_all(recorder, names(3))
    assert recorder.flush() == "written"
    assert (recorder.stats().quarantined, recorder.stats().written) == (1, 3)


def test_missing_right_of_the_table_is_no_fault_of_a_row(fresh: Database, make: Make) -> None:
    fresh.execute("DROP ROLE IF EXISTS t_appender")
    fresh.execute("CREATE ROLE t_appender LOGIN PASSWORD 'x' IN ROLE pgvigil_writer")
    fresh.execute("REVOKE INSERT ON performance_logs FROM pgvigil_writer")
    try:
        recorder = make(re.sub(r"//postgres:\w+@", "//t_appender:x@", fresh.tcp_url))
        record_all(recorder, names(3))
        assert recorder.flush() == "spilled"
        fresh.execute("GRANT INSERT ON performance_logs TO pgvigil_writer")
        wait_until(lambda: recorder.stats().written == 3)
        recorder.close()
    finally:
        fresh.execute("DROP ROLE t_appender")


# --- a database that is not there ------------------------------------------------------------------------------------


def test_nothing_is_lost_while_the_server_is_restarted(mortal: Mortal, make: Make) -> None:
    recorder = make(mortal.url, queue_size=2000, batch_size=500, spill_after=0.2)
    expected = names(20_000)
    record_all(recorder, expected[:100])
    assert recorder.flush() == "written"
    mortal.end(signal.SIGINT)
    for n in range(100, 19_000, 900):
        record_all(recorder, expected[n : n + 900])
        wait_until(lambda: recorder.stats().queue_depth < 1000)
    mortal.start()
    record_all(recorder, expected[19_000:])
    wait_until(lambda: recorder.stats().written == 20_000)
    assert operations(mortal.url) == expected
    assert recorder.stats().spilled > 0


def test_nothing_is_lost_when_the_server_is_killed_amid_batches(mortal: Mortal, make: Make) -> None:
    recorder = make(mortal.url, batch_size=50, linger=0)
    expected = names(10_000)

    def record() -> None:
        for n in range(0, 10_000, 500):
            record_all(recorder, expected[n : n + 500])
            wait_until(lambda: recorder.stats().queue_depth < 5000)

    caller = threading.Thread(target=record)
    caller.start()
    wait_until(lambda: recorder.stats().written > 500)
    mortal.end(signal.SIGKILL)
    mortal.start()
    caller.join()
    wait_until(lambda: recorder.stats().written == 10_000)
    assert operations(mortal.url) == expected


def test_short_outage_touches_no_disk(mortal: Mortal, make: Make, spill: Path) -> None:
    recorder = make(mortal.url, spill_after=60)
    recorder.record_performance("op 0", 1)
    recorder.flush()
    mortal.end(signal.SIGINT)
    recorder.record_performance("op 1", 1)
    wait_until(lambda: recorder.stats().errors > 1)
    mortal.start()
    wait_until(lambda: recorder.stats().written == 2)
    assert not spill.exists()


def test_batch_whose_commit_nobody_acknowledged_is_written_once(fresh: Database, make: Make, proxy: Proxy) -> None:
    recorder = make(through(proxy, fresh), spill_after=60)
    record_all(recorder, names(100))
    wait_until(lambda: recorder.stats().written == 100)
    assert proxy.cut.is_set()
    assert operations(fresh) == names(100)


@pytest.mark.parametrize("kind", ["performance", "execution"])
def test_flush_after_a_commit_that_nobody_acknowledged_does_not_say_spilled(
    fresh: Database, make: Make, proxy: Proxy, kind: str
) -> None:
    recorder = make(through(proxy, fresh))
    if kind == "performance":
        recorder.record_performance("op 0", 1)
    else:
        ExecutionTracker(recorder).log_execution_background("op 0", "postgresql")
    assert recorder.flush() == "written"
    assert proxy.cut.is_set()
    written = "SELECT operation FROM performance_logs UNION ALL SELECT query FROM query_executions"
    assert fresh.execute(written) == [("op 0",)]


def test_statements_whose_commit_nobody_acknowledged_are_written_once(
    fresh: Database, make: Make, proxy: Proxy
) -> None:
    instance, session = str(uuid4()), str(uuid4())
    fresh.execute("SELECT instrumentation.register_instance('host', instance => %s)", (instance,))
    fresh.execute("SELECT instrumentation.register_session(%s, %s)", (instance, session))
    recorder = make(through(proxy, fresh), spill_after=60)
    for text in names(100):
        recorder.append(records.statement(session, text, 1, 1))
    wait_until(lambda: recorder.stats().written == 100)
    assert proxy.cut.is_set()
    texts = fresh.execute("SELECT sql_text FROM instrumentation.sql_statements ORDER BY statement_id")
    assert texts == [(name,) for name in names(100)]


def test_executions_whose_commit_nobody_acknowledged_are_written_once(
    fresh: Database, make: Make, proxy: Proxy
) -> None:
    recorder = make(through(proxy, fresh), spill_after=60)
    for query in names(100):
        ExecutionTracker(recorder).log_execution_background(query, "postgresql")
    wait_until(lambda: recorder.stats().written == 100)
    assert proxy.cut.is_set()
    assert fresh.execute("SELECT query FROM query_executions ORDER BY id") == [(name,) for name in names(100)]


def test_spilled_statements_of_unknown_sessions_are_set_aside_and_the_others_written(
    fresh: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    instance, session = str(uuid4()), str(uuid4())
    fresh.execute("SELECT instrumentation.register_instance('host', instance => %s)", (instance,))
    fresh.execute("SELECT instrumentation.register_session(%s, %s)", (instance, session))
    outage = threading.Event()
    outage.set()
    again = bar_the_way(monkeypatch, outage)
    recorder = make(fresh.url, batch_size=40)
    for n, text in enumerate(names(100)):
        recorder.append(records.statement(str(uuid4()) if n % 3 == 0 else session, text, 1, 1))
    assert recorder.flush() == "spilled"
    again.set()
    wait_until(lambda: not recorder.stats().spill_pending)
    stats = recorder.stats()
    assert (stats.written, stats.replayed, stats.quarantined) == (66, 66, 34)
    texts = fresh.execute("SELECT sql_text FROM instrumentation.sql_statements ORDER BY statement_id")
    assert texts == [(text,) for n, text in enumerate(names(100)) if n % 3]


@pytest.mark.parametrize("proxy", [False], ids=["not done"], indirect=True)
def test_batch_whose_end_the_server_has_not_noticed_does_not_hold_up_the_others_for_ever(
    fresh: Database, make: Make, proxy: Proxy
) -> None:
    proxy.lingering = True
    recorder = make(through(proxy, fresh), spill_after=60)
    record_all(recorder, names(100))
    wait_until(lambda: recorder.stats().written == 100, 60)
    assert operations(fresh) == names(100)


def test_spilled_batch_whose_commit_nobody_acknowledged_is_written_once(
    fresh: Database, make: Make, proxy: Proxy, monkeypatch: pytest.MonkeyPatch
) -> None:
    again = bar_the_way(monkeypatch, proxy.cut)
    recorder = make(through(proxy, fresh), spill_after=0)
    record_all(recorder, names(100))
    assert proxy.cut.wait(30)
    wait_until(lambda: recorder.stats().spill_pending == 100)
    again.set()
    wait_until(lambda: recorder.stats().written == 100)
    assert operations(fresh) == names(100)


def test_replay_whose_commit_nobody_acknowledged_is_done_once_by_the_next_process(
    fresh: Database, make: Make, proxy: Proxy, spill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The one before ends right after the COMMIT: what it knew is in the file only."""
    outage = threading.Event()
    outage.set()
    bar_the_way(monkeypatch, outage)
    first = make(through(proxy, fresh), batch_size=40)
    record_all(first, names(100))
    assert first.close() == "spilled"

    monkeypatch.undo()
    again = bar_the_way(monkeypatch, proxy.cut)
    second = make(through(proxy, fresh), batch_size=40, spill_after=60)
    second.record_performance("own", 1)
    assert proxy.cut.wait(30)
    second._abandoned = True  # as a kill -9 would
    wait_until(lambda: second._thread is not None and not second._thread.is_alive())
    second._delivery._spill.close()

    again.set()
    give(spill, fresh.url)
    third = make(fresh.url, batch_size=40)
    third.record_performance("last", 1)
    wait_until(lambda: third.stats().written == 101)
    assert third.stats().recovered == 100
    assert operations(fresh) == [*names(100), "last"]
    assert not list(spill.glob("*.spill"))


def test_database_without_our_tables_is_named_as_such_and_loses_nothing(database: Database, make: Make) -> None:
    recorder = make(database.url)
    record_all(recorder, names(10))
    assert recorder.flush() == "spilled"
    assert "the database has no table system_metrics of pgvigil to record into" in recorder.stats().last_error
    assert cli.main(["setup", "--database-url", database.url]) == 0
    wait_until(lambda: recorder.stats().written == 10)
    assert operations(database) == names(10)


def test_password_is_in_no_error(make: Make, fresh: Database) -> None:
    recorder = make(fresh.tcp_url.replace(fresh.server.password, "not-the-password"))
    recorder.record_metric("m", 1)
    assert recorder.flush() == "spilled"
    assert "password authentication failed" in recorder.stats().last_error
    assert "not-the-password" not in recorder.stats().last_error


def test_worker_survives_any_exception(fresh: Database, make: Make, monkeypatch: pytest.MonkeyPatch) -> None:
    write, failures = Writer.write, iter([RuntimeError("boom"), MemoryError(), AssertionError()])

    def fail_first(self: Writer, *arguments: Any) -> None:
        for error in failures:
            raise error
        write(self, *arguments)

    monkeypatch.setattr(Writer, "write", fail_first)
    recorder = make(fresh.url)
    record_all(recorder, names(10))
    wait_until(lambda: recorder.stats().written == 10)
    assert recorder.stats().errors == 3
    assert operations(fresh) == names(10)


# --- bounds ----------------------------------------------------------------------------------------------------------


def test_newest_is_dropped_and_counted_when_neither_database_nor_disk_take_it(
    make: Make, tmp_path: Path, spill: Path
) -> None:
    spill.write_text("a file where the directory should be")
    recorder = make(nobody(tmp_path), queue_size=100, batch_size=10)
    record_all(recorder, names(1000))
    stats = recorder.stats()
    assert stats.dropped >= 890
    assert stats.queue_depth <= 110
    assert adds_up(stats)
    assert recorder.close(1) == "dropped"
    assert recorder.stats().dropped == 1000


def test_spill_keeps_to_its_limit(make: Make, tmp_path: Path, spill: Path) -> None:
    recorder = make(nobody(tmp_path), queue_size=100, batch_size=10, spill_limit=5_000, spill_after=0)
    record_all(recorder, names(1000))
    recorder.close(1)
    assert sum(path.stat().st_size for path in spill.iterdir()) <= 5_000
    stats = recorder.stats()
    assert 0 < stats.spill_pending < 100
    assert stats.dropped == 1000 - stats.spill_pending
    assert "SpillFull" in stats.last_error


def test_full_disk_under_the_spill_loses_only_what_is_counted(fresh: Database, spill: Path, make: Make) -> None:
    code = """
import resource
resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 20_000))
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2], queue_size=100, batch_size=10, spill_after=0)
for n in range(1000):
    recorder.record_performance(f"op {n}", 1)
recorder.close(1)
print(recorder.stats().spill_pending, recorder.stats().dropped)
"""
    with application(code, fresh.url.replace(fresh.name, "t_not_yet"), spill) as process:
        output, _ = process.communicate(timeout=60)
    pending, dropped = map(int, output.split())
    assert pending > 0
    assert pending + dropped == 1000
    give(spill, fresh.url)
    recorder = make(fresh.url)
    recorder.record_metric("m", 1)
    wait_until(lambda: recorder.stats().written == pending + 1)
    assert len(operations(fresh)) == pending


def test_killed_application_loses_at_most_what_was_in_memory(fresh: Database, spill: Path, make: Make) -> None:
    code = """
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2], spill_after=0)
for n in range(3000):
    recorder.record_performance(f"op {n}", 1)
recorder.flush()
print(recorder.stats().spill_pending, flush=True)
sys.stdin.read()
"""
    with application(code, fresh.url.replace(fresh.name, "t_not_yet"), spill) as process:
        assert process.stdout
        assert process.stdout.readline() == "3000\n"
        process.kill()
    [file] = spill.glob("*.spill")
    assert stat.S_IMODE(file.stat().st_mode) == 0o600
    assert stat.S_IMODE(spill.stat().st_mode) == 0o700
    give(spill, fresh.url)
    recorder = make(fresh.url)
    recorder.record_metric("m", 1)
    wait_until(lambda: recorder.stats().recovered == 3000)
    assert operations(fresh) == names(3000)


def test_killed_application_loses_at_most_its_queue_depth(fresh: Database, spill: Path) -> None:
    code = """
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2], batch_size=500)
for n in range(20_000):
    recorder.record_performance(f"op {n}", 1)
    while n % 1000 == 0 and recorder.stats().queue_depth > 5000:
        time.sleep(0.001)
print(recorder.stats().queue_depth, flush=True)
os.kill(os.getpid(), signal.SIGKILL)
"""
    with application(code, fresh.url, spill) as process:
        output, _ = process.communicate(timeout=60)
    found = operations(fresh)
    assert 0 < len(found) < 20_000
    assert found == names(20_000)[: len(found)]
    assert len(found) >= 20_000 - int(output)


def test_without_a_database_memory_holds_no_more_than_the_time_to_spill_allows(make: Make, tmp_path: Path) -> None:
    recorder = make(nobody(tmp_path), spill_after=0.1)
    record_all(recorder, names(50))
    wait_until(lambda: recorder.stats().spill_pending == 50)
    record_all(recorder, names(50))
    wait_until(lambda: recorder.stats().spill_pending == 100)


# --- threads, forks, ends --------------------------------------------------------------------------------------------


def test_threads_and_tasks_record_at_once(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url, batch_size=200)

    async def tasks() -> None:
        async def task(n: int) -> None:
            for operation in names(100, f"task {n}"):
                recorder.record_performance(operation, 1)
                await asyncio.sleep(0)

        await asyncio.gather(*(task(n) for n in range(10)))
        assert await asyncio.to_thread(recorder.flush) == "written"

    with ThreadPoolExecutor(16) as pool:
        done = [pool.submit(record_all, recorder, names(500, f"thread {n}")) for n in range(16)]
        asyncio.run(tasks())
    assert [future.result() for future in done]
    assert recorder.flush() == "written"
    found = operations(fresh)
    assert len(found) == len(set(found)) == 9000


def test_forked_child_records_on_a_connection_of_its_own(fresh: Database, spill: Path) -> None:
    code = """
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2], linger=5)
recorder.record_performance("before", 1)
recorder.flush()
recorder.record_performance("parent", 1)
warnings.simplefilter('ignore', DeprecationWarning)  # of fork() beside threads
if os.fork() == 0:
    assert recorder.stats().accepted == 0
    recorder.record_performance("child", 1)
    assert recorder.flush() == "written"
    sys.exit()
assert os.wait()[1] == 0
recorder.record_performance("after", 1)
assert recorder.close() == "written"
assert recorder.stats().errors == 0
"""
    with application(code, fresh.url, spill) as process:
        output, _ = process.communicate(timeout=60)
    assert (process.returncode, output) == (0, "")
    assert sorted(operations(fresh)) == ["after", "before", "child", "parent"]


def test_forked_child_leaves_the_spill_to_its_parent(fresh: Database, spill: Path) -> None:
    code = """
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2])
recorder.record_performance("parent", 1)
assert recorder.flush() == "spilled"
warnings.simplefilter('ignore', DeprecationWarning)  # of fork() beside threads
if os.fork() == 0:
    recorder.record_performance("child", 1)
    assert recorder.close() == "spilled"
    sys.exit()
assert os.wait()[1] == 0
print(len(os.listdir(sys.argv[2])), recorder.stats().spill_pending)
"""
    with application(code, fresh.url.replace(fresh.name, "t_not_yet"), spill) as process:
        output, _ = process.communicate(timeout=60)
    assert output == "2 1\n"


def test_spill_of_a_killed_parent_is_taken_over_though_its_child_lives(
    fresh: Database, spill: Path, make: Make
) -> None:
    code = """
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2])
recorder.record_performance("parent", 1)
assert recorder.flush() == "spilled"
warnings.simplefilter('ignore', DeprecationWarning)  # of fork() beside threads
if os.fork() == 0:
    print("forked", flush=True)
sys.stdin.read()
"""
    process = application(code, fresh.url.replace(fresh.name, "t_not_yet"), spill)
    assert process.stdin
    assert process.stdout
    try:
        assert process.stdout.readline() == "forked\n"
        process.kill()
        process.wait()
        give(spill, fresh.url)
        recorder = make(fresh.url)
        recorder.record_metric("m", 1)
        wait_until(lambda: recorder.stats().recovered == 1)
    finally:
        process.stdin.close()  # the child's end
        process.stdout.close()
    assert operations(fresh) == ["parent"]


def test_application_that_ends_without_close_loses_nothing(fresh: Database, spill: Path) -> None:
    code = """
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2], linger=60)
for n in range(100):
    recorder.record_performance(f"op {n}", 1)
"""
    with application(code, fresh.url, spill) as process:
        process.communicate(timeout=60)
    assert operations(fresh) == names(100)


def test_item_that_cannot_be_encoded_holds_up_nothing(
    fresh: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    recorder = make(fresh.url)
    with monkeypatch.context() as patch:
        patch.setattr(Encoder, "lines", lambda *_: 1 // 0)
        record_all(recorder, names(10))
        wait_until(lambda: recorder.stats().dropped == 10)
    record_all(recorder, names(10))
    wait_until(lambda: recorder.stats().written == 10)
    assert operations(fresh) == names(10)


def test_sigterm_with_the_documented_handler_loses_nothing(fresh: Database, spill: Path) -> None:
    code = """
signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
recorder = Recorder(sys.argv[1], spill_directory=sys.argv[2], linger=60)
for n in range(100):
    recorder.record_performance(f"op {n}", 1)
print("recorded", flush=True)
signal.pause()
"""
    with application(code, fresh.url, spill) as process:
        assert process.stdout
        process.stdout.readline()
        process.terminate()
        process.communicate(timeout=60)
    assert process.returncode == 143
    assert operations(fresh) == names(100)


def test_signal_handler_may_record(make: Make, tmp_path: Path) -> None:
    """The handler runs in the middle of calls of the same thread, so it must not wait for a lock that they take."""
    recorder, handled = make(nobody(tmp_path), queue_size=50, batch_size=10), 0

    def handle(*_: object) -> None:
        nonlocal handled
        handled += 1
        recorder.record_metric("from the handler", handled)
        recorder.stats()

    before = signal.signal(signal.SIGALRM, handle)
    signal.setitimer(signal.ITIMER_REAL, 0.0001, 0.0001)
    try:
        calls = 0
        while handled < 300:
            recorder.record_metric("m", 1)
            recorder.stats()
            calls += 1
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)
    assert recorder.stats().accepted == calls + handled


def test_close_brings_the_spill_into_the_database(mortal: Mortal, make: Make) -> None:
    recorder = make(mortal.url, spill_after=0)
    mortal.end(signal.SIGINT)
    record_all(recorder, names(100))
    assert recorder.flush() == "spilled"
    mortal.start()
    recorder.record_performance("last", 1)
    wait_until(lambda: recorder.stats().replayed)
    assert recorder.close() == "written"
    assert operations(mortal.url) == [*names(100), "last"]


def test_close_tries_a_server_that_is_back_whatever_the_pause_was(
    mortal: Mortal, make: Make, spill: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("pgvigil.live.dispatcher.LONGEST_PAUSE", 3600)
    recorder = make(mortal.url, spill_after=0)
    mortal.end(signal.SIGINT)
    record_all(recorder, names(100))
    assert recorder.flush() == "spilled"
    recorder._delivery._pause = 3600
    recorder.record_performance("last", 1)
    wait_until(lambda: recorder._delivery.next_try > time.monotonic() + 100)
    mortal.start()
    assert recorder.close() == "written"
    assert operations(mortal.url) == [*names(100), "last"]
    assert list(spill.iterdir()) == []


def test_close_waits_for_a_server_that_is_starting(
    fresh: Database, make: Make, monkeypatch: pytest.MonkeyPatch
) -> None:
    outage = threading.Event()
    outage.set()
    again, connect = bar_the_way(monkeypatch, outage), Writer.connect
    tries = 0

    def answer(self: Writer) -> None:
        nonlocal tries
        tries += 1
        if tries > 5:
            again.set()
        try:
            connect(self)
        except Unavailable:
            raise Unavailable("FATAL:  the database system is starting up") from None

    monkeypatch.setattr(Writer, "connect", answer)
    recorder = make(fresh.url)
    record_all(recorder, names(10))
    assert recorder.flush() == "spilled"
    assert recorder.close(30) == "written"
    assert operations(fresh) == names(10)


def test_close_leaves_no_spill_of_which_all_is_written(fresh: Database, make: Make, spill: Path) -> None:
    recorder = make(fresh.url, queue_size=1000, batch_size=100, on_full="wait")
    record_all(recorder, names(20_000))
    assert recorder.close(60) == "written"
    assert recorder.stats().spilled > 0
    assert list(spill.iterdir()) == []


def test_close_leaves_no_empty_spill(make: Make, tmp_path: Path, spill: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise OSError("no space")

    monkeypatch.setattr("pgvigil.live.spill.Segment.append", fail)
    recorder = make(nobody(tmp_path))
    record_all(recorder, names(10))
    assert recorder.close(1) == "dropped"
    assert list(spill.iterdir()) == []


# --- more than the worker can take -----------------------------------------------------------------------------------


def hold(delivery: Any) -> contextlib.AbstractContextManager[Any]:
    """The worker does nothing meanwhile."""
    return delivery.lock


def test_what_a_burst_has_dropped_is_said_by_the_next_flush_and_by_close(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url, queue_size=100, batch_size=50)
    with hold(recorder._delivery):
        record_all(recorder, names(1000))
    assert recorder.flush() == "dropped"
    assert recorder.flush() == "written"
    assert recorder.close() == "dropped"
    stats = recorder.stats()
    assert stats.written + stats.dropped == 1000
    assert stats.dropped > 0


def test_caller_that_chose_to_wait_loses_nothing_in_a_burst(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url, queue_size=100, batch_size=50, on_full="wait", max_wait=60)
    record_all(recorder, names(5000))
    assert recorder.close(60) == "written"
    assert operations(fresh) == names(5000)


def test_caller_that_waits_for_room_waits_no_longer_than_it_chose(make: Make, tmp_path: Path, spill: Path) -> None:
    spill.write_text("a file where the directory should be")
    recorder = make(nobody(tmp_path), queue_size=100, batch_size=10, on_full="wait", max_wait=0.05)
    began = time.monotonic()
    record_all(recorder, names(120))
    assert time.monotonic() - began < 10
    assert recorder.stats().dropped > 0
    assert recorder.close(1) == "dropped"


def test_what_watches_an_application_never_waits(make: Make, tmp_path: Path, spill: Path) -> None:
    spill.write_text("a file where the directory should be")
    recorder = make(nobody(tmp_path), queue_size=100, batch_size=10, on_full="wait", max_wait=3600)
    for _ in range(200):
        recorder.append(records.statement("session", "SELECT 1", 1, 1))
    assert recorder.stats().dropped > 0


def test_caller_waits_for_no_room_in_a_recorder_that_is_closed(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url, on_full="wait", max_wait=3600)
    recorder.close()
    recorder.record_metric("m", 1)
    assert recorder.stats().dropped == 1


@pytest.mark.parametrize(
    "options",
    [
        {"on_full": "block"},
        {"max_wait": float("inf")},
        {"linger": float("nan")},
        {"spill_after": -1},
        {"stuck_after": float("inf")},
    ],
    ids=str,
)
def test_option_that_would_never_end_is_refused(tmp_path: Path, options: Any) -> None:
    with pytest.raises(ValueError, match=r"use (drop or wait|a finite number of seconds)"):
        Recorder(nobody(tmp_path), **options)


def test_server_that_hangs_amid_a_batch_is_given_up_when_the_queue_fills(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url, queue_size=100, batch_size=10, stuck_after=0.2)
    record_all(recorder, names(1))
    recorder.flush()
    [(backend,)] = fresh.execute("SELECT pid FROM pg_stat_activity WHERE application_name = 'pgvigil recorder'")
    os.kill(backend, signal.SIGSTOP)
    try:
        record_all(recorder, names(90)[1:])
        wait_until(lambda: (began := recorder._delivery.began) and time.monotonic() - began > 0.2)
        recorder.record_performance("op 90", 1)
        wait_until(lambda: recorder.stats().written == 91)
    finally:
        os.kill(backend, signal.SIGCONT)
    assert operations(fresh) == names(91)


def test_close_gives_up_a_table_that_is_locked_and_spills(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)
    recorder.record_metric("m", 1)
    recorder.flush()
    with fresh.connect(autocommit=False) as other:
        other.execute("LOCK TABLE performance_logs IN ACCESS EXCLUSIVE MODE")
        record_all(recorder, names(10))
        began = time.monotonic()
        assert recorder.close(0.2) == "spilled"
        assert time.monotonic() - began < 3
    assert operations(fresh) == []


def test_close_does_not_wait_for_a_server_that_never_answers(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        recorder = make(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d")
        record_all(recorder, names(10))
        began = time.monotonic()
        assert recorder.close(0.2) == "spilled"
        assert time.monotonic() - began < 5
    assert recorder.stats().spill_pending == 10


def test_flush_tells_when_its_time_was_too_short(make: Make) -> None:
    with socket.create_server(("127.0.0.1", 0)) as silent:
        recorder = make(f"postgresql://u@127.0.0.1:{silent.getsockname()[1]}/d", spill_after=60)
        record_all(recorder, names(10))
        assert recorder.flush(0.05) == "timeout"
        assert recorder.stats().queue_depth == 10
        recorder.close(0)


def test_records_after_close_are_counted_as_dropped(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url)
    recorder.record_metric("m", 1)
    assert recorder.close() == "written"
    recorder.record_metric("m", 2)
    assert recorder.close() == "dropped"
    assert (recorder.stats().written, recorder.stats().dropped) == (1, 1)


# --- its own statistics ----------------------------------------------------------------------------------------------


def test_its_counters_go_into_system_metrics(fresh: Database, make: Make) -> None:
    recorder = make(fresh.url, metrics_interval=0.05, instance="unit 7")
    record_all(recorder, names(10))
    recorder.flush()
    query = """SELECT metric_value, metric_type, labels FROM system_metrics
               WHERE metric_name = 'pgvigil.recorder.written' ORDER BY id DESC LIMIT 1"""
    wait_until(lambda: fresh.execute(query) == [(10, "counter", {"instance": "unit 7", "pid": os.getpid()})])


def test_its_counters_do_not_pile_up_without_a_database(make: Make, tmp_path: Path) -> None:
    recorder = make(nobody(tmp_path), metrics_interval=0.001)
    record_all(recorder, names(10))
    recorder.flush()
    record_all(recorder, names(10))
    recorder.flush()
    assert recorder.stats().accepted == recorder.stats().spill_pending == 20


# --- the page about it -----------------------------------------------------------------------------------------------


def test_example_of_the_page_works(fresh: Database, spill: Path) -> None:
    page = (PROJECT / "docs/recorder.md").read_text()
    example, handler = re.findall(r"```python\n(.*?)```", page, re.DOTALL)
    with application(
        handler + example, environment={"DATABASE_URL": fresh.url, "XDG_STATE_HOME": str(spill)}
    ) as process:
        output, _ = process.communicate(timeout=60)
    assert output == "written\n"
    assert operations(fresh) == ["render"]
    assert fresh.execute("SELECT metric_value FROM system_metrics WHERE metric_name = 'queue.length'") == [(17,)]


def test_page_names_every_counter_and_option() -> None:
    page = (PROJECT / "docs/recorder.md").read_text()
    options = inspect.signature(Recorder).parameters
    counters = [field.name for field in dataclasses.fields(Stats) if not field.name.startswith("batch_seconds")]
    assert [name for name in [*options, *counters] if f"`{name}`" not in page] == []
