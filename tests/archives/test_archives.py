"""Test archives: rows are archived before they are dropped, none is lost, and a damaged archive is not read."""

from __future__ import annotations

import importlib.util
import json
import os
import random
import signal
import subprocess
import sys
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path

import psycopg
import pytest
from psycopg import errors

from conftest import PROJECT, Database, wait_until
from helpers.archived import SESSION, archive, faults, is_there, keep, listed, old_logs, pgvigil, retention, target
from pgvigil.archives import binary, erase, parquet, restore, store, write
from pgvigil.errors import ArchiveError, JobError, PreconditionError, UsageError
from pgvigil.history import engines, performance
from pgvigil.history.snapshot import Span
from pgvigil.progress import Reporter

pytestmark = pytest.mark.client_side
duckdb = pytest.importorskip("duckdb")


def files(place: Path, suffix: str = ".parquet") -> list[Path]:
    return sorted(place.rglob(f"*{suffix}"))


# --- what is dropped was kept -----------------------------------------------------------------------------------------


def test_retention_keeps_a_partition_until_it_is_archived(fresh: Database, tmp_path: Path) -> None:
    partition = old_logs(fresh)
    keep(fresh)
    assert f"not archived as they are now (pgvigil maintain run archive): {partition}" in retention(fresh)
    assert is_there(fresh, partition)
    assert archive(fresh, tmp_path / "a") == "archived 500 rows"
    assert f"dropped {partition}" in retention(fresh)
    assert not is_there(fresh, partition)
    [one] = listed(fresh)
    assert (one.state, one.rows) == ("file", 500)
    assert one.dropped_at is not None
    assert faults(fresh) == []


def test_a_call_in_sql_obeys_too(fresh: Database) -> None:
    partition = old_logs(fresh)
    keep(fresh)
    fresh.execute("CALL pgvigil.enforce_retention()")
    assert is_there(fresh, partition)


def test_without_the_policy_nothing_waits(fresh: Database, tmp_path: Path) -> None:
    partition = old_logs(fresh)
    assert archive(fresh, tmp_path / "a") == "archived 0 rows"
    assert f"dropped {partition}" in retention(fresh)


@pytest.mark.parametrize(
    "change",
    [
        "INSERT INTO performance_logs (id, operation, duration_ms, success) SELECT overlay(min(id::text) PLACING 'fff' FROM 25)::uuid, 'late', 1, true FROM performance_logs",
        "UPDATE performance_logs SET metadata = '{}' WHERE id = (SELECT min(id::text)::uuid FROM performance_logs)",
        "DELETE FROM performance_logs WHERE id = (SELECT min(id::text)::uuid FROM performance_logs)",
        "ALTER TABLE performance_logs ADD COLUMN more text DEFAULT 'of each row'",
    ],
    ids=["insert", "update", "delete", "column"],
)
def test_a_partition_that_changed_after_its_archive_stays_and_is_archived_again(
    fresh: Database, tmp_path: Path, change: str
) -> None:
    partition = old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    fresh.execute(change)
    assert partition in retention(fresh)
    assert is_there(fresh, partition)
    [(rows,)] = fresh.execute("SELECT count(*) FROM performance_logs")
    assert archive(fresh, tmp_path) == f"archived {rows} rows"
    assert f"dropped {partition}" in retention(fresh)
    [one] = listed(fresh)
    assert one.rows == rows
    assert len(files(tmp_path)) == 1, "the files of the earlier archive are removed"


def test_a_second_run_writes_nothing(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    before = files(tmp_path)
    assert archive(fresh, tmp_path) == "archived 0 rows"
    assert files(tmp_path) == before


def test_late_rows_of_a_dropped_partition_get_an_archive_of_their_own(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    retention(fresh)
    old_logs(fresh, rows=7, first=501)
    archive(fresh, tmp_path)
    retention(fresh)
    assert sorted(one.rows or 0 for one in listed(fresh)) == [7, 500]
    assert {one.state for one in listed(fresh)} == {"file"}


def test_rows_of_a_file_are_those_of_the_table(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    fresh.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success, metadata, created_at)
           SELECT overlay(min(id::text) PLACING 'eee' FROM 25)::uuid, '', 2147483647, false, '{}', 'infinity' FROM performance_logs"""
    )
    keep(fresh)
    archive(fresh, tmp_path)
    was = fresh.execute("SELECT t::text FROM performance_logs t ORDER BY id")
    retention(fresh)
    assert fresh.execute("SELECT count(*) FROM performance_logs") == [(0,)]
    restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back")
    assert fresh.execute("SELECT t::text FROM back t ORDER BY id") == was


def test_numbers_are_exact_and_every_type_comes_back(fresh: Database, tmp_path: Path) -> None:
    at = "date_trunc('month', now() - interval '100 days', 'UTC')"
    fresh.execute(f"SELECT pgvigil.ensure_partitions('system_metrics', {at}, {at})")
    fresh.execute(
        f"""INSERT INTO system_metrics (id, metric_name, metric_value, metric_type, labels, recorded_at)
            SELECT overlay(pgvigil.uuid_v7_floor({at} + interval '1 hour')::text PLACING lpad(n::text, 12, '0') FROM 25)::uuid, 'm', v, 'gauge', '{{"a": "b"}}', {at}
            FROM (VALUES (1, 1e-50), (2, 123456789012345678901234567890.123456789), (3, '-Infinity'), (4, 1.10)) s (n, v)"""
    )
    keep(fresh)
    archive(fresh, tmp_path)
    restore.restore(target(fresh), "system_metrics", None, None, Reporter(), table="back")
    both = (
        fresh.execute("SELECT metric_value::text FROM back ORDER BY id"),
        fresh.execute("SELECT t.metric_value::text FROM system_metrics t JOIN back USING (id) ORDER BY t.id"),
    )
    assert both[0] == both[1]
    assert [value for (value,) in both[0]][2:] == ["-Infinity", "1.10"]


def test_trails_and_statements_are_archived_too(fresh: Database, tmp_path: Path) -> None:
    fresh.execute(
        f"""SELECT pgvigil.ensure_partitions('session_lifecycle', t, t), pgvigil.ensure_partitions('instrumentation.sql_statements', t, t)
            FROM (SELECT now() - interval '70 days') s (t);
            INSERT INTO sessions (id, session_key, agent_from) VALUES ('{SESSION}', 'k', 'a');
            UPDATE session_lifecycle SET id = overlay(pgvigil.uuid_v7_floor(now() - interval '70 days')::text PLACING substr(id::text, 25) FROM 25)::uuid;
            BEGIN;
            SELECT set_config('pgvigil.instrumentation', 'write', true);
            INSERT INTO instrumentation.instances (instance_id, toolkit_version, server_version, hostname, port, database_name, system_identifier, postmaster_start_time) VALUES ('{SESSION}', 'v', 'v', 'h', 1, 'd', 1, now());
            INSERT INTO instrumentation.sessions (session_id, instance_id, username) VALUES ('{SESSION}', '{SESSION}', 'u');
            INSERT INTO instrumentation.sql_statements (statement_id, session_id, sql_text, status)
            SELECT pgvigil.uuid_v7_floor(now() - interval '70 days'), '{SESSION}', '\\N' || chr(9) || chr(13) || chr(10) || '"2", \\n', 'success';
            COMMIT"""
    )
    keep(fresh)
    archive(fresh, tmp_path)
    [(events,)] = fresh.execute("SELECT count(*) FROM session_lifecycle")
    assert {one.source: one.rows for one in listed(fresh)} == {
        "session_lifecycle": events,
        "instrumentation.sql_statements": 1,
    }
    assert faults(fresh) == []
    restore.restore(target(fresh), "instrumentation.sql_statements", None, None, Reporter(), table="back")
    assert fresh.execute("SELECT sql_text, status FROM back") == fresh.execute(
        "SELECT sql_text, status FROM instrumentation.sql_statements"
    )
    retention(fresh)
    assert {one.state for one in listed(fresh) if one.source == "session_lifecycle"} == {"copy"}, "its session is alive"
    fresh.execute("DELETE FROM sessions")
    retention(fresh)
    assert {one.state for one in listed(fresh)} == {"file"}


def test_any_text_comes_back_as_it_was(fresh: Database, tmp_path: Path) -> None:
    """The texts hold everything that ends a line, a field or a quotation anywhere, alone and together, at both ends."""
    chance = random.Random(7)  # noqa: S311 - no secret
    alphabet = [
        "\r",
        "\n",
        "\r\n",
        "\t",
        '"',
        '""',
        "'",
        ",",
        "\\",
        "\\N",
        "\\.",
        "#",
        " ",
        "é",
        "\U0001f600",
        "\u2028",
        "\x01",
        "a",
        "NULL",
    ]
    texts = ["", *alphabet, *("".join(chance.choices(alphabet, k=chance.randrange(1, 12))) for _ in range(400))]
    old_logs(fresh, rows=len(texts))
    fresh.execute(
        """UPDATE performance_logs p SET operation = t.text, metadata = jsonb_build_object(t.text, t.text)
           FROM unnest(%s::text[]) WITH ORDINALITY t (text, n) WHERE (p.metadata ->> 'n')::integer = t.n""",
        (texts,),
    )
    keep(fresh)
    archive(fresh, tmp_path)
    restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back")
    assert fresh.execute(
        "SELECT count(*) FROM back JOIN performance_logs p USING (id) WHERE ROW(back.*) IS NOT DISTINCT FROM ROW(p.*)"
    ) == [(len(texts),)]


def test_more_than_one_part(fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(parquet.write, "__kwdefaults__", {"part_bytes": 20_000})
    old_logs(fresh, rows=900)
    keep(fresh)
    archive(fresh, tmp_path)
    assert len(files(tmp_path)) > 3
    [one] = listed(fresh)
    assert one.rows == 900
    assert faults(fresh) == []


# --- read in binary ---------------------------------------------------------------------------------------------------


@pytest.fixture
def in_binary(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Read each table in binary, in ranges of two pages. The list gets the number of rows of each range."""
    pytest.importorskip("adbc_driver_postgresql")
    monkeypatch.setattr(binary, "FROM_BYTES", 1)
    monkeypatch.setattr(binary, "RANGE_BYTES", 16384)
    took: list[int] = []
    take = binary.take

    def counted(*words: object) -> int:
        took.append(take(*words))  # type: ignore[arg-type]
        return took[-1]

    monkeypatch.setattr(binary, "take", counted)
    return took


def _all_types(database: Database) -> None:
    """Add rows of performance_logs with further columns: each type with its extreme values, NULL, and values close to
    NULL.
    """
    old_logs(database, rows=5)
    database.execute(
        """CREATE DOMAIN public.odd AS text CHECK (VALUE <> 'x');
           ALTER TABLE performance_logs ADD COLUMN small smallint, ADD COLUMN big bigint, ADD COLUMN double double precision, ADD COLUMN whole boolean,
               ADD COLUMN exact numeric, ADD COLUMN time timestamptz, ADD COLUMN day date, ADD COLUMN padded character(5), ADD COLUMN short varchar(9),
               ADD COLUMN address inet, ADD COLUMN raw bytea, ADD COLUMN list text[], ADD COLUMN plain json, ADD COLUMN "my ""name" text, ADD COLUMN odd public.odd, ADD COLUMN wait interval"""
    )
    rows = [
        ("-32768", "-9223372036854775808", "NaN", "t", "NaN", "4714-11-24 00:00:00+00 BC", "infinity", "", "", "10.0.0.1/32", "", "{}", "{}", "", "", "0"),
        ("32767", "9223372036854775807", "Infinity", "f", "1e-50", "2026-02-28 23:59:59.999999+00", "-infinity", "a", "\\N", "::1/64", "\\x00ff", '{NULL,"",a}', ' {"a" : 1} ', "\n", "y", "1 mon -3 days 04:05:06.000007"),
        ("0", "0", "-0", None, "1.10", "1969-12-31 23:59:59.999999+00", "2026-01-01", "a b", "é\r\n", "10.0.0.1", "\\x", "{{a,b},{c,d}}", "[]", '"', "", "-1 s"),
        ("1", "1", "5e-324", None, "Infinity", "289999-12-31 23:59:59+00", "2026-01-01", "     ", ",", None, None, None, None, "\U0001f600", None, None),
        (None,) * 16,
    ]  # fmt: skip
    for number, row in enumerate(rows, 1):
        database.execute(
            """UPDATE performance_logs SET (small, big, double, whole, exact, time, day, padded, short, address, raw, list, plain, "my ""name", odd, wait)
               = (SELECT %s::smallint, %s::bigint, %s::double precision, %s::boolean, %s::numeric, %s::timestamptz, %s::date, %s::character(5), %s, %s::inet, %s::bytea,
                         %s::text[], %s::json, %s, %s, %s::interval) WHERE (metadata ->> 'n')::integer = %s""",
            (*row, number),
        )


def test_what_comes_in_binary_is_what_comes_as_text(
    fresh: Database, tmp_path: Path, in_binary: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    _all_types(fresh)
    keep(fresh)
    assert archive(fresh, tmp_path / "binary") == "archived 5 rows"
    assert sum(in_binary) == 5
    fresh.execute("DELETE FROM pgvigil.archives")
    monkeypatch.setattr(binary, "FROM_BYTES", 1 << 60)
    assert archive(fresh, tmp_path / "text") == "archived 5 rows"
    assert sum(in_binary) == 5, "the second time as text"
    made = [files(tmp_path / way)[0] for way in ("binary", "text")]
    shown = [
        duckdb.sql(f"SELECT * REPLACE (epoch_us(time) AS time, created_at::VARCHAR AS created_at) FROM '{file}' ORDER BY id").fetchall()
        for file in made
    ]  # fmt: skip
    assert str(shown[0]) == str(shown[1])
    assert duckdb.sql(f"DESCRIBE FROM '{made[0]}'").fetchall() == duckdb.sql(f"DESCRIBE FROM '{made[1]}'").fetchall()
    assert duckdb.sql(f"SELECT epoch_us(time) FROM '{made[0]}' ORDER BY id").fetchall() == fresh.execute(
        "SELECT (extract(epoch FROM time) * 1000000)::bigint FROM performance_logs ORDER BY id"
    )


def test_every_type_comes_back_as_it_was(fresh: Database, tmp_path: Path) -> None:
    _all_types(fresh)
    fresh.execute(
        "ALTER TABLE performance_logs ADD COLUMN bits bit(3) DEFAULT '101', ADD COLUMN mark \"char\" DEFAULT 'x'"
    )
    keep(fresh)
    archive(fresh, tmp_path)
    restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back")
    assert fresh.execute("SELECT t::text FROM back t ORDER BY id") == fresh.execute(
        "SELECT t::text FROM performance_logs t ORDER BY id"
    )


@pytest.mark.parametrize("in_files", ["text", "binary"])
def test_times_of_all_eras_are_archived_and_listed(
    fresh: Database, tmp_path: Path, in_files: str, request: pytest.FixtureRequest
) -> None:
    if in_files == "binary":
        request.getfixturevalue("in_binary")
    old_logs(fresh, rows=4)
    for number, time in enumerate(
        ("4714-11-24 00:00:00+00 BC", "0001-12-31 23:59:59.5+00 BC", "289999-12-31 23:59:59+00"), 1
    ):
        fresh.execute(
            "UPDATE performance_logs SET created_at = %s WHERE (metadata ->> 'n')::integer = %s", (time, number)
        )
    keep(fresh)
    was = fresh.execute("SELECT created_at::text FROM performance_logs ORDER BY id")
    assert archive(fresh, tmp_path) == "archived 4 rows"
    retention(fresh)
    [one] = listed(fresh)
    assert (one.min_time, one.max_time) == (datetime.min.replace(tzinfo=UTC), datetime.max.replace(tzinfo=UTC))
    assert faults(fresh) == []
    restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back")
    assert fresh.execute("SELECT created_at::text FROM back ORDER BY id") == was


def test_a_time_that_no_file_can_hold_is_said_and_hinders_no_other_partition(fresh: Database, tmp_path: Path) -> None:
    partition = old_logs(fresh, ago=21, rows=3)
    old_logs(fresh, ago=20, rows=5)
    fresh.execute(
        "UPDATE performance_logs SET created_at = '294276-12-31 23:59:59+00' WHERE id = (SELECT min(id::text)::uuid FROM performance_logs)"
    )
    keep(fresh)
    with pytest.raises(
        JobError, match=f"1 of 2 could not be archived: {partition}: DuckDB cannot write a file: .*294276"
    ):
        archive(fresh, tmp_path)
    assert [one.rows for one in listed(fresh)] == [5]
    retention(fresh)
    assert is_there(fresh, partition)


@pytest.mark.usefixtures("in_binary")
@pytest.mark.parametrize("time", ["infinity", "-infinity"])
def test_times_that_the_driver_would_change_come_as_text(fresh: Database, tmp_path: Path, time: str) -> None:
    old_logs(fresh)
    fresh.execute("UPDATE performance_logs SET created_at = %s WHERE (metadata ->> 'n')::integer = 77", (time,))
    keep(fresh)
    assert archive(fresh, tmp_path) == "archived 500 rows"
    assert len(files(tmp_path)) == 1, "the files of the ranges are removed"
    restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back")
    assert fresh.execute("SELECT created_at::text FROM back WHERE (metadata ->> 'n')::integer = 77") == [(time,)]


def test_ranges_are_read_in_one_snapshot(
    fresh: Database, tmp_path: Path, in_binary: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Rows that arrive while the ranges are read, into pages of each and behind the last one, belong to the next
    archive.
    """
    partition = old_logs(fresh, rows=900)
    fresh.execute("DELETE FROM performance_logs WHERE (metadata ->> 'n')::integer % 9 = 0")
    fresh.execute("VACUUM performance_logs")
    keep(fresh)
    snapshot = binary.Connections.snapshot

    def and_write(self: binary.Connections, reader: psycopg.Connection) -> str | None:
        taken = snapshot(self, reader)
        fresh.execute(
            """INSERT INTO performance_logs (id, operation, duration_ms, success)
               SELECT overlay(id::text PLACING 'ff' FROM 25)::uuid, 'late', 1, true FROM performance_logs"""
        )
        return taken

    monkeypatch.setattr(binary.Connections, "snapshot", and_write)
    assert archive(fresh, tmp_path) == "archived 800 rows"
    assert len(in_binary) > 4
    assert sum(in_binary) == 800
    assert faults(fresh) == []
    assert partition in retention(fresh)
    assert is_there(fresh, partition)


@pytest.mark.usefixtures("in_binary")
def test_the_next_partition_is_read_while_one_ends(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ago in (20, 21, 22):
        old_logs(fresh, ago=ago, rows=300)
    keep(fresh)
    at_end: list[int] = []
    complete = write.complete

    def counted(*words: object) -> None:
        at_end.append(sum(one.state == "unfinished" for one in listed(fresh)))
        complete(*words)  # type: ignore[arg-type]

    monkeypatch.setattr(write, "complete", counted)
    assert archive(fresh, tmp_path) == "archived 900 rows"
    assert at_end == [2, 2, 1]
    assert faults(fresh) == []


@pytest.mark.usefixtures("in_binary")
@pytest.mark.parametrize("which", [0, 1, 2])
def test_an_archive_that_fails_leaves_those_beside_it_whole(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, which: int
) -> None:
    partitions = [old_logs(fresh, ago=ago, rows=300) for ago in (22, 21, 20)]
    keep(fresh)
    publish = store.Store.publish

    def failing(self: store.Store, made: Path, name: str) -> None:
        if f"/day={partitions[which][-2:]}/" in name:
            raise OSError(28, "No space left on device")
        publish(self, made, name)

    monkeypatch.setattr(store.Store, "publish", failing)
    with pytest.raises(JobError, match=f"1 of 3 could not be archived: {partitions[which]}: .*No space left"):
        archive(fresh, tmp_path)
    monkeypatch.undo()
    assert [one.rows for one in listed(fresh)] == [300, 300]
    retention(fresh)
    assert [is_there(fresh, partition) for partition in partitions] == [number == which for number in range(3)]
    assert archive(fresh, tmp_path) == "archived 300 rows"
    assert faults(fresh) == []


@pytest.mark.usefixtures("in_binary")
def test_an_interruption_removes_all_that_is_under_way(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for ago in (20, 21):
        old_logs(fresh, ago=ago, rows=300)
    keep(fresh)

    def interrupt(*_words: object) -> None:
        assert len(listed(fresh)) == 2
        raise KeyboardInterrupt

    monkeypatch.setattr(write, "complete", interrupt)
    with pytest.raises(KeyboardInterrupt):
        archive(fresh, tmp_path)
    monkeypatch.undo()
    assert listed(fresh) == []
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []
    assert archive(fresh, tmp_path) == "archived 600 rows"


@pytest.mark.parametrize("hindrance", ["no driver", "no connection", "no session", "another type", "in the middle"])
def test_without_the_driver_rows_come_as_text(
    fresh: Database, tmp_path: Path, in_binary: list[int], monkeypatch: pytest.MonkeyPatch, hindrance: str
) -> None:
    old_logs(fresh)
    keep(fresh)
    if hindrance == "no driver":
        monkeypatch.setitem(sys.modules, "adbc_driver_postgresql", None)
        monkeypatch.setitem(sys.modules, "adbc_driver_manager", None)
    elif hindrance == "no connection":
        import adbc_driver_postgresql

        connect = adbc_driver_postgresql.connect
        monkeypatch.setattr(adbc_driver_postgresql, "connect", lambda _uri: connect("host=/nowhere"))
    elif hindrance == "no session":
        monkeypatch.setattr(binary.database, "has_more_sessions", lambda _conn, count=1: count < 3)
    elif hindrance == "another type":
        monkeypatch.setitem(binary.SEEN, "uuid", "BLOB")
    else:
        queries = binary.queries

        def failing(*words: object) -> list[str]:
            *first, last = queries(*words)  # type: ignore[arg-type]
            return [*first, last.replace("SELECT ", "SELECT 1 / (duration_ms - 400) AS x, ")]

        monkeypatch.setattr(binary, "queries", failing)
    assert archive(fresh, tmp_path) == "archived 500 rows"
    assert sum(in_binary) < 500
    assert len(files(tmp_path)) == 1, "the files of the ranges are removed"
    assert faults(fresh) == []


def test_query_executions_wait_for_their_archive(fresh: Database, tmp_path: Path) -> None:
    fresh.execute(
        """INSERT INTO query_executions (execution_id, query, database_type, status, execution_time, started_at)
           SELECT 'e' || n, E'SELECT\\n' || n, 'postgresql', 'success', n * 0.1, date_trunc('day', now(), 'UTC') - (20 + n / 2) * interval '1 day'
           FROM generate_series(1, 6) n"""
    )
    keep(fresh)
    fresh.execute("CALL pgvigil.run_job('executions')")
    assert fresh.execute("SELECT count(*) FROM query_executions") == [(0,)]
    assert fresh.execute("SELECT count(*) FROM pgvigil.executions_to_archive") == [(6,)]
    assert archive(fresh, tmp_path) == "archived 6 rows"
    assert fresh.execute("SELECT count(*) FROM pgvigil.executions_to_archive") == [(0,)]
    assert sorted(one.rows or 0 for one in listed(fresh)) == [1, 1, 2, 2]
    restore.restore(target(fresh), "query_executions", None, None, Reporter(), table="back")
    assert fresh.execute("SELECT sum(execution_time)::numeric, count(DISTINCT query) FROM back")[0][1] == 6


def test_no_execution_leaves_without_a_column_that_was_added(fresh: Database, tmp_path: Path) -> None:
    fresh.execute(
        """ALTER TABLE query_executions ADD COLUMN "my tenant" varchar(9);
           INSERT INTO query_executions (execution_id, query, database_type, status, "my tenant", started_at)
           VALUES ('e', 'SELECT 1', 'postgresql', 'success', 'acme', now() - interval '40 days')"""
    )
    keep(fresh)
    with pytest.raises(errors.ObjectNotInPrerequisiteState) as refused:
        fresh.execute("SELECT * FROM pgvigil.job_executions(10)")
    assert fresh.execute("SELECT count(*) FROM query_executions") == [(1,)]
    fresh.execute((refused.value.diag.message_hint or "").removeprefix("Run: "))
    fresh.execute("CALL pgvigil.run_job('executions')")
    assert archive(fresh, tmp_path) == "archived 1 row"
    restore.restore(target(fresh), "query_executions", None, None, Reporter(), table="back")
    assert fresh.execute('SELECT "my tenant" FROM back') == [("acme",)]


def test_deleted_sessions_are_copied_and_stay(fresh: Database, tmp_path: Path) -> None:
    fresh.execute(
        """INSERT INTO pgvigil.deleted_sessions (session_id, session_key, deleted_at, actor, last_row, events)
           SELECT gen_random_uuid(), 'k' || n, now() - interval '5 days', 'x', '{}', '[]' FROM generate_series(1, 3) n"""
    )
    keep(fresh)
    assert archive(fresh, tmp_path) == "archived 3 rows"
    assert archive(fresh, tmp_path) == "archived 0 rows"
    fresh.execute(
        "INSERT INTO pgvigil.deleted_sessions (session_id, session_key, deleted_at, actor, last_row, events) VALUES (gen_random_uuid(), 'late', now() - interval '5 days', 'x', '{}', '[]')"
    )
    assert archive(fresh, tmp_path) == "archived 4 rows"
    assert [one.rows for one in listed(fresh)] == [4]
    assert fresh.execute("SELECT count(*) FROM pgvigil.deleted_sessions") == [(4,)]


# --- interrupted ------------------------------------------------------------------------------------------------------


def test_an_unfinished_archive_counts_for_nothing_and_is_removed(fresh: Database, tmp_path: Path) -> None:
    partition = old_logs(fresh)
    keep(fresh)
    code = """
import os, sys
from pgvigil.archives import store
publish = store.Store.publish
def die(self, made, name):
    publish(self, made, name)
    if name.endswith(sys.argv[1]):
        os.kill(os.getpid(), 9)
store.Store.publish = die
from pgvigil.cli import main
main(["maintain", "run", "archive_files", "--archive-to", sys.argv[2], "--database-url", sys.argv[3]])
"""
    for moment in (".parquet", ".json"):
        done = subprocess.run(
            [sys.executable, "-P", "-c", code, moment, str(tmp_path), fresh.url],
            env={**os.environ, "PYTHONPATH": str(PROJECT / "src")}, check=False, capture_output=True,
        )  # fmt: skip
        assert done.returncode == -signal.SIGKILL
        wait_until(lambda: fresh.execute("SELECT pgvigil.is_running('archive_files')") == [(False,)])
        assert partition in retention(fresh)
        assert {one.state for one in listed(fresh)} == {"unfinished"}
    assert archive(fresh, tmp_path) == "archived 500 rows"
    assert len(files(tmp_path)) == len(files(tmp_path, ".json")) == 1
    assert len(listed(fresh)) == 1


def test_a_file_that_is_not_what_was_sent_drops_nothing(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    partition = old_logs(fresh)
    keep(fresh)
    honest = store.Store.publish

    def lie(self: store.Store, made: Path, name: str) -> None:
        duckdb.sql(
            f"COPY (SELECT * REPLACE (duration_ms + 1 AS duration_ms) FROM '{made}') TO '{made}.x' (FORMAT parquet)"
        )
        made.write_bytes(Path(f"{made}.x").read_bytes())
        honest(self, made, name)

    monkeypatch.setattr(store.Store, "publish", lie)
    with pytest.raises(JobError, match="1 of 1 could not be archived"):
        archive(fresh, tmp_path)
    assert listed(fresh) == []
    assert files(tmp_path) == []
    assert partition in retention(fresh)


# --- damaged ----------------------------------------------------------------------------------------------------------


def _flip(place: Path) -> None:
    [file] = files(place)
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.write_bytes(contents)


def _cut(place: Path) -> None:
    [file] = files(place)
    os.truncate(file, file.stat().st_size - 1)


def _empty(place: Path) -> None:
    os.truncate(files(place)[0], 0)


def _link(place: Path) -> None:
    [file] = files(place)
    file.rename(place / "elsewhere")
    file.symlink_to(place / "elsewhere")


def _put_another_over(place: Path) -> None:
    [file] = files(place)
    duckdb.sql(f"COPY (SELECT * REPLACE ('other' AS operation) FROM '{file}') TO '{place}/other.parquet'")
    (place / "other.parquet").replace(file)


def _lose(place: Path) -> None:
    files(place, ".json")[0].unlink()


def _lose_file(place: Path) -> None:
    files(place)[0].unlink()


def _edit(place: Path) -> None:
    [file] = files(place, ".json")
    made = json.loads(file.read_text())
    file.write_text(json.dumps(made | {"rows": 1}))


def _open_to_all(place: Path) -> None:
    files(place)[0].chmod(0o666)


@pytest.mark.parametrize(
    "damage", [_flip, _cut, _empty, _link, _put_another_over, _lose, _lose_file, _edit, _open_to_all]
)
def test_damage_is_found_and_nothing_of_it_is_read(
    fresh: Database, tmp_path: Path, damage: object, capsys: pytest.CaptureFixture[str]
) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    retention(fresh)
    damage(tmp_path)  # type: ignore[operator]
    assert pgvigil(fresh, "archive", "verify") == 11
    assert "DAMAGED  performance_logs" in capsys.readouterr().out
    with pytest.raises(ArchiveError):
        restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back")
    assert fresh.execute("SELECT to_regclass('back')") == [(None,)]


@pytest.mark.parametrize("name", ["another.parquet", "{}-00002.parquet", "{}.summary.bak"])
def test_a_file_that_no_archive_has_is_named_and_not_read(
    fresh: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    [file] = files(tmp_path)
    file.with_name(name.format(file.name.removesuffix("-00001.parquet"))).write_bytes(file.read_bytes())
    assert pgvigil(fresh, "archive", "verify") == 0
    assert "unknown  " in capsys.readouterr().out
    assert restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back") == 500


def test_files_that_were_moved_are_read_where_they_are(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    assert len(faults(fresh)) == 1
    assert faults(fresh, tmp_path / "b") == []


def test_moved_files_are_verified_restored_and_erased_by_the_commands(
    fresh: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path / "a")
    (tmp_path / "a").rename(tmp_path / "b")
    moved = ("--archive", str(tmp_path / "b"))
    assert pgvigil(fresh, "archive", "verify", *moved) == 0
    assert (
        pgvigil(
            fresh,
            "history",
            "performance",
            "--operation",
            "operation-1",
            "--engine",
            "duckdb",
            "--master",
            "local[1]",
            *moved,
        )
        == 0
    )
    assert pgvigil(fresh, "archive", "restore", "performance_logs", "--into", "back", *moved) == 0
    assert fresh.execute("SELECT count(*) FROM back") == [(500,)]
    name = f"{fresh.name}_back"
    try:
        assert pgvigil(fresh, "archive", "restore", "performance_logs", "--into-database", name, *moved) == 0
        with psycopg.connect(fresh.server.dsn(name)) as conn:
            assert conn.execute("SELECT count(*) FROM restored_performance_logs").fetchone() == (500,)
    finally:
        fresh.execute(f'DROP DATABASE IF EXISTS "{name}"')
    retention(fresh)
    capsys.readouterr()
    assert pgvigil(fresh, "archive", "erase", SESSION, "--reason", "request 4711", *moved) == 0
    assert capsys.readouterr().out.startswith("erased 100 rows")


def test_a_database_of_archived_rows_compares_text_as_the_one_they_are_from(fresh: Database, tmp_path: Path) -> None:
    """The origin has another encoding than template0, and on some servers another locale provider."""
    origin, name = Database(fresh.server, f"{fresh.name}_latin"), f"{fresh.name}_back"
    how = "ENCODING LATIN1 LC_COLLATE 'C' LC_CTYPE 'C'" + " LOCALE_PROVIDER libc" * (fresh.server.major >= 15)
    locale = """SELECT encoding, datcollate, datctype, to_jsonb(d) -> 'datlocprovider' FROM pg_database d WHERE datname = %s"""
    fresh.execute(f'CREATE DATABASE "{origin.name}" TEMPLATE template0 {how}')
    try:
        assert pgvigil(origin, "setup") == 0
        old_logs(origin)
        keep(origin)
        archive(origin, tmp_path)
        restore.restore(target(origin), "performance_logs", None, None, Reporter(), table="back", database=name)
        assert fresh.execute(locale, (name,)) == fresh.execute(locale, (origin.name,))
    finally:
        for one in (name, origin.name):
            fresh.execute(f'DROP DATABASE IF EXISTS "{one}" WITH (FORCE)')


# --- list, restore ----------------------------------------------------------------------------------------------------


def test_a_list_says_what_is_there(fresh: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert pgvigil(fresh, "archive", "list") == 0
    assert capsys.readouterr().out == "no archives\n"
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    pgvigil(fresh, "archive", "list", "--json")
    [one] = json.loads(capsys.readouterr().out)
    assert (one["state"], one["source"], one["rows"]) == ("copy", "performance_logs", 500)


def test_rows_come_back_into_a_database_of_their_own(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    name = f"{fresh.name}_back"
    try:
        restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="logs", database=name)
        with psycopg.connect(fresh.server.dsn(name)) as conn:
            assert conn.execute(
                "SELECT count(*), pg_typeof(min(metadata::text)::jsonb)::text FROM logs"
            ).fetchone() == (500, "jsonb")
    finally:
        fresh.execute(f'DROP DATABASE IF EXISTS "{name}"')


def test_nobody_else_enters_that_database_at_any_moment(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    name = f"{fresh.name}_back"
    fresh.execute(
        "DO $$ BEGIN CREATE ROLE x_stranger LOGIN; EXCEPTION WHEN duplicate_object THEN NULL; END $$; ALTER ROLE x_stranger NOSUPERUSER"
    )
    execute, said = psycopg.Connection.execute, []

    def refusal() -> str:
        with pytest.raises(psycopg.OperationalError) as refused:
            psycopg.connect(fresh.server.dsn(name).replace("postgres@", "x_stranger@")).close()
        return str(refused.value)

    def look_after(self: psycopg.Connection, query: object, *rest: object) -> object:
        done = execute(self, query, *rest)  # type: ignore[arg-type]
        if "DATABASE" in str(query):
            said.append(refusal())
        return done

    monkeypatch.setattr(psycopg.Connection, "execute", look_after)
    try:
        restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="logs", database=name)
        assert "permission denied for database" in refusal()
    finally:
        monkeypatch.undo()
        fresh.execute(f'DROP DATABASE IF EXISTS "{name}"')
    assert ["not currently accepting connections" in one for one in said] == [True] * 3


def test_part_of_a_time_comes_back(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    [one] = listed(fresh)
    assert one.min_time is not None
    since = one.min_time.replace(minute=1, second=0)
    assert restore.restore(target(fresh), "performance_logs", since, None, Reporter(), table="back") == 441


def test_a_table_that_is_there_is_not_written_over(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    with pytest.raises(PreconditionError, match="is there already"):
        restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="sessions")


# --- erase ------------------------------------------------------------------------------------------------------------


def _dropped(database: Database, place: Path) -> None:
    old_logs(database)
    keep(database)
    archive(database, place)
    retention(database)


def test_an_erased_session_is_in_no_file_and_in_the_audit(fresh: Database, tmp_path: Path) -> None:
    _dropped(fresh, tmp_path)
    said = erase.erase(target(fresh), SESSION, "request 4711", Reporter())
    assert said == "erased 100 rows from 1 archive"
    assert faults(fresh) == []
    assert restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back") == 400
    assert fresh.execute("SELECT count(*) FROM back WHERE session_id IS NOT NULL") == [(0,)]
    assert fresh.execute("SELECT session_id::text, reason, rows, cardinality(files) FROM pgvigil.archive_erasures") == [
        (SESSION, "request 4711", 100, 1)
    ]
    assert len(files(tmp_path)) == 1
    assert b"0000000000aa" not in files(tmp_path)[0].read_bytes()
    assert len(files(tmp_path, ".summary")) == 1
    with engines.opened() as ask:
        assert sum(one.calls for one in performance.trends(target(fresh), Span(by="all"), ask)) == 400
    assert erase.erase(target(fresh), SESSION, "again", Reporter()) == "the archives hold no row of the session"


def test_a_session_is_erased_from_all_files_of_all_tables(fresh: Database, tmp_path: Path) -> None:
    for ago in (20, 21):
        old_logs(fresh, ago=ago, rows=50)
    fresh.execute(
        """INSERT INTO query_executions (execution_id, query, database_type, status, conversation_id, started_at)
           VALUES ('e', 'SELECT 1', 'postgresql', 'success', %s, now() - interval '40 days')""",
        (SESSION,),
    )
    fresh.execute(
        """INSERT INTO pgvigil.deleted_sessions (session_id, session_key, deleted_at, actor, last_row, events)
           VALUES (%s, 'k', now() - interval '5 days', 'x', '{}', '[]')""",
        (SESSION,),
    )
    keep(fresh)
    fresh.execute("CALL pgvigil.run_job('executions')")
    archive(fresh, tmp_path)
    retention(fresh)
    with pytest.raises(PreconditionError, match="deleted_sessions") as refused:
        erase.erase(target(fresh), SESSION, "x", Reporter())
    assert len(files(tmp_path)) == 4
    fresh.execute(refused.value.hint.partition(";")[0])
    assert erase.erase(target(fresh), SESSION, "x", Reporter()) == "erased 22 rows from 4 archives"
    assert fresh.execute("SELECT rows, cardinality(files) FROM pgvigil.archive_erasures") == [(22, 4)]
    assert archive(fresh, tmp_path) == "archived 0 rows"
    assert all(SESSION[-12:].encode() not in file.read_bytes() for file in files(tmp_path))
    assert faults(fresh) == []


def test_metrics_are_erased_by_their_label_alone(fresh: Database, tmp_path: Path) -> None:
    at = "date_trunc('month', now() - interval '100 days', 'UTC')"
    labels = ({"session_id": SESSION}, {"session_id": SESSION.upper()}, {"within": {"session_id": SESSION}}, {"x": 1})
    fresh.execute(f"SELECT pgvigil.ensure_partitions('system_metrics', {at}, {at})")
    for number, label in enumerate(labels):
        fresh.execute(
            f"""INSERT INTO system_metrics (id, metric_name, metric_value, metric_type, labels, recorded_at)
                VALUES (overlay(pgvigil.uuid_v7_floor({at})::text PLACING lpad(%s::text, 12, '0') FROM 25)::uuid, 'm', %s, 'gauge', %s, {at})""",
            (number, number, json.dumps(label)),
        )
    keep(fresh)
    archive(fresh, tmp_path)
    with pytest.raises(PreconditionError) as refused:
        erase.erase(target(fresh), SESSION, "x", Reporter())
    fresh.execute(refused.value.hint.partition(";")[0])
    archive(fresh, tmp_path)
    assert fresh.execute("SELECT metric_value FROM system_metrics WHERE metric_name = 'm' ORDER BY id") == [
        (2,),
        (3,),
    ]
    [partition] = fresh.execute("SELECT partition FROM pgvigil.archives WHERE source = 'system_metrics'")
    fresh.execute(f"DROP TABLE {partition[0]}")
    assert erase.erase(target(fresh), SESSION, "x", Reporter()) == "the archives hold no row of the session"


def test_rows_that_are_still_in_the_database_are_deleted_there_first(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    with pytest.raises(PreconditionError) as refused:
        erase.erase(target(fresh), SESSION, "x", Reporter())
    fresh.execute(refused.value.hint.partition(";")[0])
    archive(fresh, tmp_path)
    assert erase.erase(target(fresh), SESSION, "x", Reporter()) == "the archives hold no row of the session"


@pytest.mark.parametrize(
    "hold",
    [
        "INSERT INTO pgvigil.legal_holds (session_id, reason) VALUES (%(id)s, 'a v. b')",
        "UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'standard' AND %(id)s::uuid IS NOT NULL",
    ],
)
def test_a_hold_holds_archives_too(fresh: Database, tmp_path: Path, hold: str) -> None:
    _dropped(fresh, tmp_path)
    fresh.execute("INSERT INTO sessions (id, session_key, agent_from) VALUES (%s, 'k', 'a')", (SESSION,))
    fresh.execute(hold, {"id": SESSION})
    with pytest.raises(PreconditionError, match="is under legal hold"):
        erase.erase(target(fresh), SESSION, "x", Reporter())
    assert fresh.execute("SELECT count(*) FROM pgvigil.archive_erasures") == [(0,)]


def test_an_erasure_that_fails_changes_nothing(fresh: Database, tmp_path: Path) -> None:
    _dropped(fresh, tmp_path)
    before = files(tmp_path)
    fresh.execute(
        """CREATE FUNCTION refuse() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE 'no'; END $$;
           CREATE TRIGGER refuse BEFORE INSERT ON pgvigil.archive_erasures FOR EACH ROW EXECUTE FUNCTION refuse()"""
    )
    with pytest.raises(psycopg.Error):
        erase.erase(target(fresh), SESSION, "x", Reporter())
    assert files(tmp_path) == before
    assert [one.state for one in listed(fresh)] == ["file"]
    assert faults(fresh) == []


# --- whose hands ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO pgvigil.archives (source, from_time, to_time, location, path, origin) VALUES ('performance_logs', now(), now(), '/', 'x', 'y')",
        "UPDATE pgvigil.archives SET dropped_at = now()",
        "DELETE FROM pgvigil.archives",
        "DELETE FROM pgvigil.executions_to_archive",
        "DELETE FROM pgvigil.archive_erasures",
        "SELECT pgvigil.complete_archive(1, '', 1, 1, 1, '', '', now(), now())",
        "SELECT pgvigil.complete_erasure(gen_random_uuid(), 'x', 1, '[]')",
        "SELECT pgvigil.record_drop('performance_logs', 1)",
        "SELECT pgvigil.find_dropped_partitions()",
    ],
)
def test_only_the_owner_can_say_that_something_is_archived(shared: Database, statement: str) -> None:
    with shared.connect(autocommit=False) as conn:
        conn.execute("SET ROLE pgvigil_admin")
        with pytest.raises(errors.InsufficientPrivilege):
            conn.execute(statement)  # type: ignore[call-overload]


def test_an_administrator_who_is_not_the_owner_cannot_run_it(fresh: Database) -> None:
    old_logs(fresh)
    keep(fresh)
    fresh.execute(f"CREATE ROLE \"admin of {fresh.name}\" LOGIN PASSWORD 'x' IN ROLE pgvigil_admin")
    try:
        with psycopg.connect(fresh.url, autocommit=True) as conn:
            conn.execute(f'SET ROLE "admin of {fresh.name}"')
            with pytest.raises(PreconditionError, match="only the owner of the tables or a superuser may"):
                write.owner_of_archives(conn)
    finally:
        fresh.execute(f'DROP ROLE "admin of {fresh.name}"')


def test_a_directory_that_others_may_write_to_is_refused(tmp_path: Path) -> None:
    place = tmp_path / "open"
    place.mkdir()
    place.chmod(0o777)
    with pytest.raises(ArchiveError, match="may be written by others"):
        store.open_store(str(place))


def test_files_are_for_their_owner_only(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path / "a")
    for path in (tmp_path / "a").rglob("*"):
        assert not path.stat().st_mode & 0o077, path


def test_a_url_with_credentials_is_refused_and_not_repeated() -> None:
    with pytest.raises(UsageError) as refused:
        store.open_store("s3://key:s3cr3t@bucket/archives")
    assert "s3cr3t" not in f"{refused.value.message}{refused.value.hint}"


@pytest.mark.parametrize("name", ["../x", "a/../../x", "/etc/passwd", "", ".x", "a\nb"])
def test_a_name_that_leads_elsewhere_is_refused(name: str) -> None:
    with pytest.raises(ArchiveError):
        store.require_name(name)


def test_a_missing_extra_is_named(fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    old_logs(fresh)
    keep(fresh)
    monkeypatch.setitem(sys.modules, "duckdb", None)
    with pytest.raises(JobError) as refused:
        archive(fresh, tmp_path)
    assert "pip install 'pgvigil[archive]'" in refused.value.hint


def test_no_place_is_a_sentence(fresh: Database, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGVIGIL_ARCHIVE", raising=False)
    keep(fresh)
    with pytest.raises(JobError, match="no place for archives is given"):
        archive(fresh, "")


def test_run_archive_writes_files_where_a_policy_wants_them(
    fresh: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    old_logs(fresh)
    words = ("maintain", "run", "archive", "--archive-to", str(tmp_path))
    assert pgvigil(fresh, *words) == 0
    assert capsys.readouterr().out == "archive: archived 0 sessions\n"
    keep(fresh)
    assert pgvigil(fresh, *words) == 0
    assert capsys.readouterr().out == "archive: archived 0 sessions\narchive_files: archived 500 rows\n"


def test_an_object_store_is_written_and_read_through_fsspec(fresh: Database) -> None:
    pytest.importorskip("fsspec")
    place = f"memory://{fresh.name}"
    old_logs(fresh)
    keep(fresh)
    assert archive(fresh, place) == "archived 500 rows"
    retention(fresh)
    assert faults(fresh) == []
    assert erase.erase(target(fresh), SESSION, "x", Reporter()) == "erased 100 rows from 1 archive"
    assert restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back") == 400


@pytest.fixture(scope="module")
def s3() -> Iterator[str]:
    """The URL of a bucket of a server that speaks S3, in this process."""
    if not all(importlib.util.find_spec(name) for name in ("moto", "s3fs", "flask_cors")):
        pytest.skip("needs moto, flask-cors and s3fs")
    from moto.server import ThreadedMotoServer

    with pytest.MonkeyPatch.context() as environment:
        server = ThreadedMotoServer("127.0.0.1", 0, verbose=False)
        server.start()
        host, port = server.get_host_and_port()
        environment.setenv("AWS_ENDPOINT_URL", f"http://{host}:{port}")
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
            environment.setenv(name, "test")
        environment.setenv("AWS_DEFAULT_REGION", "us-east-1")
        import s3fs

        s3fs.S3FileSystem(skip_instance_cache=True).mkdir("bucket")
        yield "s3://bucket"
        server.stop()


def test_an_s3_server_is_written_and_read(fresh: Database, s3: str, capsys: pytest.CaptureFixture[str]) -> None:
    import s3fs

    place = f"{s3}/{fresh.name}"
    partition = old_logs(fresh)
    keep(fresh)
    assert archive(fresh, place) == "archived 500 rows"
    assert f"dropped {partition}" in retention(fresh)
    assert faults(fresh) == []
    with engines.opened() as ask:
        assert sum(one.calls for one in performance.trends(target(fresh), Span(by="all"), ask)) == 500
    assert erase.erase(target(fresh), SESSION, "x", Reporter()) == "erased 100 rows from 1 archive"
    assert restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back") == 400
    outside = s3fs.S3FileSystem(skip_instance_cache=True)
    names = outside.find(f"bucket/{fresh.name}")
    assert sorted(name.rpartition(".")[2] for name in names) == ["json", "parquet", "summary"], (
        "the old files are removed"
    )
    [rows] = [name for name in names if name.endswith(".parquet")]
    contents = outside.cat_file(rows)
    for damaged in (contents[:-1], contents[:99] + bytes([contents[99] ^ 1]) + contents[100:]):
        outside.pipe_file(rows, damaged)
        assert len(faults(fresh)) == 1
        with pytest.raises(ArchiveError):
            restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="again")
    outside.pipe_file(rows, contents)
    assert faults(fresh) == []
    outside.rm_file(next(name for name in names if name.endswith(".json")))
    assert pgvigil(fresh, "archive", "verify") == 11
    assert "DAMAGED" in capsys.readouterr().out


def test_consent_lapses_when_archives_are_no_longer_wanted(migrated: Database) -> None:
    keep(migrated)
    migrated.execute("SELECT pgvigil.accept_job('all')")
    migrated.execute("UPDATE pgvigil.retention_policies SET keep_archive = false WHERE policy = 'standard'")
    waiting = migrated.execute("SELECT job FROM pgvigil.jobs WHERE needs_consent AND accepted_at IS NULL ORDER BY job")
    assert waiting == [("executions",), ("retention",)]
