"""History over tables and archives: no seam, no double row, and the same answer whoever reads the files."""

from __future__ import annotations

import csv
import io
import json
import os
import random
from collections.abc import Sequence
from datetime import UTC, datetime, timedelta
from pathlib import Path
from xml.etree import ElementTree

import pytest

from conftest import Database
from helpers.archived import SESSION, archive, faults, keep, listed, old_logs, pgvigil, retention, target
from pgvigil.archives import duck, literal, scan, summary
from pgvigil.errors import ArchiveError, PreconditionError, UsageError
from pgvigil.history import engines, executions, performance, plot, session, snapshot, statistics
from pgvigil.history.snapshot import Span

pytestmark = pytest.mark.client_side
pytest.importorskip("duckdb")

EXACT = """SELECT operation, count(*), count(*) FILTER (WHERE success), min(duration_ms), max(duration_ms), sum(duration_ms)::bigint,
                  percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms) FROM performance_logs GROUP BY operation ORDER BY operation"""


def trends(database: Database, by: str = "all", **options: object) -> list[performance.Trend]:
    with engines.opened() as ask:
        return performance.trends(target(database), Span(by=by), ask, **options)  # type: ignore[arg-type]


def numbers(found: list[performance.Trend]) -> list[tuple[object, ...]]:
    return [(one.operation, one.calls, one.successful, one.min_ms, one.max_ms, one.total_ms) for one in found]


def test_performance_is_the_same_before_and_after_retention(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh, ago=20)
    old_logs(fresh, ago=3, rows=300)
    exact = fresh.execute(EXACT)
    keep(fresh)
    before = trends(fresh)
    archive(fresh, tmp_path)
    assert numbers(trends(fresh)) == numbers(before), "archived and still in the database: counted once"
    retention(fresh)
    assert {one.state for one in listed(fresh)} == {"file", "copy"}
    after = trends(fresh)
    assert numbers(after) == numbers(before) == [row[:-1] for row in exact]
    for trend, row in zip(after, exact, strict=True):
        assert trend.quantile(0.95) == pytest.approx(row[-1], rel=0.0101)
        assert trend.bins == next(one.bins for one in before if one.operation == trend.operation)


def test_an_archive_within_the_time_is_answered_by_its_summary(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh, rows=2000)
    fresh.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
           SELECT overlay(min(id::text) PLACING 'eee' FROM 25)::uuid, 'never', 5, true, 'infinity' FROM performance_logs"""
    )
    keep(fresh)
    archive(fresh, tmp_path)
    retention(fresh)
    archives = listed(fresh)
    [one] = archives
    assert one.min_time is not None
    assert one.max_time is not None
    tick = timedelta(microseconds=1)
    read: list[str] = []
    with engines.opened() as ask:

        def listening(query: str, files: Sequence[Path]) -> list[tuple[object, ...]]:
            read.extend(path.suffix for path in files)
            return ask(query, files)

        for since, until, by, suffix in (
            (snapshot.BEGINNING, snapshot.END, "all", ".summary"),
            (one.min_time, one.max_time + tick, "day", ".summary"),
            (one.min_time + tick, one.max_time + tick, "day", ".parquet"),
            (one.min_time, one.max_time, "all", ".parquet"),
            (snapshot.BEGINNING, snapshot.END, "hour", ".parquet"),
        ):
            span = Span(since, until, by)
            read.clear()
            told = performance.merge(span, performance.archived(span, archives, listening))
            assert read == [suffix]
            assert told == performance.merge(
                span, ask(performance.files_query(span), list(tmp_path.rglob("*.parquet")))
            )


@pytest.mark.parametrize("damage", ["flipped", "missing", "another"])
def test_a_damaged_summary_is_found_and_not_read(fresh: Database, tmp_path: Path, damage: str) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    retention(fresh)
    [file] = tmp_path.rglob("*.summary")
    contents = bytearray(file.read_bytes())
    contents[len(contents) // 2] ^= 1
    file.unlink()
    if damage == "another":
        [rows] = tmp_path.rglob("*.parquet")
        duck().execute(f"COPY ({summary.rows_query(scan([rows]))} LIMIT 3) TO {literal(str(file))} (FORMAT parquet)")
    elif damage == "flipped":
        file.write_bytes(contents)
    assert len(faults(fresh)) == 1
    with pytest.raises(ArchiveError):
        trends(fresh)


def test_a_summary_that_says_other_numbers_than_the_rows_is_found(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_logs(fresh)
    keep(fresh)
    honest = summary.rows_query
    monkeypatch.setattr(
        summary, "rows_query", lambda table: honest(table).replace("max(duration_ms)", "1 + max(duration_ms)")
    )
    archive(fresh, tmp_path)
    monkeypatch.undo()
    assert ["other numbers" in fault for fault in faults(fresh)] == [True]


def test_archives_without_a_summary_are_read_as_they_are(
    fresh: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old_logs(fresh)
    keep(fresh)
    exact = [row[:-1] for row in fresh.execute(EXACT)]
    monkeypatch.setattr(summary, "SOURCES", frozenset())
    archive(fresh, tmp_path)
    retention(fresh)
    assert list(tmp_path.rglob("*.summary")) == []
    assert numbers(trends(fresh)) == exact
    assert faults(fresh) == []


def test_the_engine_draws_no_progress_into_the_answer() -> None:
    """The engine would draw it after two seconds, on standard output, where json and csv are written."""
    assert duck().execute("SELECT current_setting('enable_progress_bar')").fetchone() == (False,)


def test_the_histogram_is_that_of_the_database(shared: Database) -> None:
    durations = [*range(1, 400), 999, 1000, 12_345, 600_000, 2**31 - 1, 0]
    with shared.connect() as conn:
        there = conn.execute("SELECT d, pgvigil.histogram_bin(d) FROM unnest(%s::integer[]) d", (durations,)).fetchall()
        values = conn.execute("SELECT b, pgvigil.histogram_value(b) FROM generate_series(0, 1080, 7) b").fetchall()
    query = f"SELECT duration_ms, {performance.BIN} FROM unnest({durations}) t (duration_ms)"
    assert sorted(duck().execute(query).fetchall()) == sorted(there)
    for bin_, value in values:
        assert performance._value(bin_) == pytest.approx(value, rel=1e-12)


def test_by_hour_within_a_time(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh, rows=5000)
    keep(fresh)
    archive(fresh, tmp_path)
    retention(fresh)
    [one] = listed(fresh)
    assert one.min_time is not None
    day = one.from_time
    with engines.opened() as ask:
        found = performance.trends(
            target(fresh), Span(day + timedelta(minutes=30), day + timedelta(hours=3), "hour"), ask
        )
    assert {trend.time for trend in found} == {day, day + timedelta(hours=1)}
    assert sum(trend.calls for trend in found) == 5000 - 1799


def test_a_partition_dropped_meanwhile_is_read_once(fresh: Database, tmp_path: Path) -> None:
    """Retention waits while a snapshot is taken, and afterwards the list says where the rows are."""
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    with snapshot.snapshot(target(fresh), "performance_logs") as moment:
        with fresh.connect() as conn:
            conn.execute("SET lock_timeout = '20ms'")
            with pytest.raises(Exception, match="lock timeout"):
                conn.execute("SELECT * FROM pgvigil.job_retention(1000)")
        assert moment.files_of("performance_logs", Span()) == []
        assert moment.rows("rows bigint", "SELECT count(*) FROM {app}.performance_logs") == [(500,)]
    retention(fresh)
    with snapshot.snapshot(target(fresh), "performance_logs") as moment:
        assert len(moment.files_of("performance_logs", Span())) == 1
        assert moment.rows("rows bigint", "SELECT count(*) FROM {app}.performance_logs") == [(0,)]


def test_a_partition_that_somebody_dropped_is_read_from_its_archive(fresh: Database, tmp_path: Path) -> None:
    partition = old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    fresh.execute(f"DROP TABLE {partition}")
    assert sum(one.calls for one in trends(fresh)) == 500
    old_logs(fresh, rows=7, first=501)
    archive(fresh, tmp_path)
    assert sum(one.calls for one in trends(fresh)) == 507


def test_a_damaged_file_is_an_error_and_no_number(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    archive(fresh, tmp_path)
    retention(fresh)
    [file] = tmp_path.rglob("*.parquet")
    contents = bytearray(file.read_bytes())
    contents[-20] ^= 1
    file.write_bytes(contents)
    with pytest.raises(ArchiveError):
        trends(fresh)
    assert pgvigil(fresh, "history", "performance") == 11


def test_executions_are_counted_once_wherever_they_are(fresh: Database, tmp_path: Path) -> None:
    fresh.execute(
        """INSERT INTO query_executions (execution_id, user_id, query, database_type, status, execution_time, started_at)
           SELECT 'e' || n, 'u' || n % 2, 'SELECT 1', 'postgresql', CASE WHEN n % 4 = 0 THEN 'failed' ELSE 'success' END, n,
                  date_trunc('day', now(), 'UTC') - (n % 20) * interval '1 day' FROM generate_series(1, 40) n"""
    )

    def counted(user: str | None = None) -> list[tuple[object, ...]]:
        with engines.opened() as ask:
            found = executions.executions(target(fresh), Span(by="all"), ask, user=user)
        return [(one.executions, one.success, one.failed, one.seconds, one.max_seconds) for one in found]

    keep(fresh)
    was = counted()
    assert was == [(40, 30, 10, 820, 40)]
    fresh.execute("CALL pgvigil.run_job('executions')")
    assert counted() == was
    archive(fresh, tmp_path)
    assert fresh.execute("SELECT count(*) < 40 FROM query_executions") == [(True,)]
    assert counted() == was
    assert counted("u1") == [(20, 20, 0, 400, 39)]


def test_the_timeline_of_a_session_that_is_gone(fresh: Database, tmp_path: Path) -> None:
    fresh.execute("INSERT INTO sessions (id, session_key, agent_from) VALUES (%s, 'k', 'a')", (SESSION,))
    fresh.execute("UPDATE sessions SET status = 'completed' WHERE id = %s", (SESSION,))
    fresh.execute(
        "INSERT INTO query_executions (execution_id, conversation_id, query, database_type, status) VALUES ('e', %s, 'SELECT 2', 'mysql', 'success')",
        (SESSION,),
    )
    old_logs(fresh, rows=10)
    with engines.opened() as ask:
        living = session.timeline(target(fresh), SESSION, ask)
        assert [one.what for one in living][:2] == ["operation-2", "operation-1"]
        assert {one.what for one in living} == {
            "operation-2",
            "operation-1",
            "created",
            "expiration_scheduled",
            "status_changed",
            "SELECT 2",
        } - ({"expiration_scheduled"} if all(one.what != "expiration_scheduled" for one in living) else set())
        fresh.execute("DELETE FROM sessions WHERE id = %s", (SESSION,))
        fresh.execute("UPDATE pgvigil.deleted_sessions SET deleted_at = now() - interval '3 days'")
        keep(fresh)
        archive(fresh, tmp_path)
        retention(fresh)
        gone = session.timeline(target(fresh), SESSION, ask)
        assert [one.id for one in gone if one.what != "deleted"] == [one.id for one in living]
        assert [one.what for one in gone].count("deleted") == 1
        assert {one.where for one in gone if one.kind == "operation"} == {"archive"}
        fresh.execute("DELETE FROM pgvigil.deleted_sessions")
        assert [one.id for one in session.timeline(target(fresh), SESSION, ask)] == [one.id for one in gone]


def test_the_timeline_has_times_of_all_eras(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh, rows=30)
    for number, time in ((5, "infinity"), (10, "-infinity"), (15, "0044-03-15 BC"), (20, "20000-01-01")):
        fresh.execute(
            "UPDATE performance_logs SET created_at = %s WHERE (metadata ->> 'n')::integer = %s", (time, number)
        )
    keep(fresh)
    orders = []
    for step in (lambda: archive(fresh, tmp_path), lambda: retention(fresh)):
        step()
        with engines.opened() as ask:
            orders.append([one.detail["metadata"]["n"] for one in session.timeline(target(fresh), SESSION, ask)])
    assert orders == [[10, 15, 25, 30, 5, 20]] * 2


def test_statistics_of_sessions_come_from_the_aggregates_and_the_present(fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'a'), ('l', 'a')")
    fresh.execute(
        """INSERT INTO analytics_aggregations (aggregation_type, origin, bucket_width, time_bucket, aggregation_data)
           VALUES ('session_stats', 'pgvigil', 'day', '2020-02-02Z', '{"total_sessions": 7}')"""
    )
    found = statistics.statistics(target(fresh), "session_stats", Span(by="day"))
    assert found[0].time == datetime(2020, 2, 2, tzinfo=UTC)
    assert [one.data["total_sessions"] for one in found] == [7, 2]


def test_formats(fresh: Database, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old_logs(fresh)
    fresh.execute("UPDATE performance_logs SET operation = '=1+2 <b>&' WHERE operation = 'operation-1'")
    words = ("history", "performance", "--by", "hour")
    pgvigil(fresh, *words, "--format", "json")
    rows = json.loads(capsys.readouterr().out)
    assert sum(row["calls"] for row in rows) == 500
    pgvigil(fresh, *words, "--format", "csv")
    table = list(csv.DictReader(io.StringIO(capsys.readouterr().out)))
    assert [row["p95_ms"] for row in table] == [str(row["p95_ms"]) for row in rows]
    assert "'=1+2 <b>&" in [row["operation"] for row in table], "no formula for a spreadsheet"
    pgvigil(fresh, *words, "--format", "svg", "-o", str(tmp_path / "x.svg"))
    picture = ElementTree.parse(tmp_path / "x.svg")  # noqa: S314 - our own
    assert len(picture.findall(".//{*}polyline")) == 3
    assert "=1+2 <b>&" in [element.text for element in picture.iter("{http://www.w3.org/2000/svg}text")]
    pgvigil(fresh, *words)
    assert capsys.readouterr().out.count("\n") == len(rows) + 1


@pytest.mark.parametrize(
    ("verb", "first"), [("executions", "nothing"), ("sessions", "nothing"), ("handoffs", "nothing")]
)
def test_nothing_is_said_in_words(shared: Database, capsys: pytest.CaptureFixture[str], verb: str, first: str) -> None:
    assert pgvigil(shared, "history", verb, "--until", "2001-01-01") == 0
    assert capsys.readouterr().out.startswith(first)
    assert pgvigil(shared, "history", verb, "--until", "2001-01-01", "--format", "svg") == 0
    assert "nothing in this time" in capsys.readouterr().out


def test_a_picture_of_one_point_and_of_large_numbers() -> None:
    at = datetime(2026, 1, 1, tzinfo=UTC)
    for value in (0.0, 0.3, 7, 123_456_789.0):
        ElementTree.fromstring(plot.svg("t", "u", {"a": [(at, value)]}))  # noqa: S314 - our own


def test_a_reader_may_read_history(fresh: Database) -> None:
    old_logs(fresh)
    with fresh.connect(autocommit=False) as conn:
        conn.execute("SET ROLE pgvigil_reader")
        conn.execute("LOCK TABLE performance_logs IN ACCESS SHARE MODE")
        conn.execute("SELECT count(*) FROM pgvigil.archives_to_read")


def test_a_database_that_is_not_migrated_is_said_to_be(database: Database) -> None:
    with pytest.raises(PreconditionError, match="not migrated"):
        trends(database)


def test_a_time_that_ends_before_it_begins_is_refused() -> None:
    with pytest.raises(UsageError):
        Span(datetime(2026, 1, 2, tzinfo=UTC), datetime(2026, 1, 1, tzinfo=UTC))


def test_a_missing_engine_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    import sys

    monkeypatch.setitem(sys.modules, "pyspark.errors", None)
    with pytest.raises(UsageError) as refused, engines.opened("spark"):
        pass
    assert "pip install 'pgvigil[spark]'" in refused.value.hint


def random_archive(place: Path, chance: random.Random) -> Path:
    """A file as the archive job writes it, with what there may be in it."""
    at = chance.randrange(0, 2_000_000_000)
    rows = [
        (
            f"{chance.getrandbits(128):032x}", chance.choice(["a", "é", "", "x'y", "a\\b", "Ω" * 50]),
            int(chance.choice([0, 1, 49, 50, 51, 2**31 - 1, chance.expovariate(0.01), chance.uniform(0, 1e6)])),
            chance.random() < 0.9, chance.choice([None, SESSION]), json.dumps({"n": chance.random()}),
            f"{datetime.fromtimestamp(at + chance.uniform(0, 200_000), UTC):%Y-%m-%d %H:%M:%S.%f}+00",
        )
        for _ in range(chance.randrange(1, 400))
    ]  # fmt: skip
    conn = duck()
    conn.execute(
        "CREATE TABLE t (id VARCHAR, operation VARCHAR, duration_ms INTEGER, success BOOLEAN, session_id VARCHAR, metadata VARCHAR, created_at TIMESTAMPTZ)"
    )
    conn.executemany("INSERT INTO t VALUES (?, ?, ?, ?, ?, ?, ?)", rows)
    path = place / f"{chance.getrandbits(64):x}.parquet"
    conn.execute(f"COPY t TO {literal(str(path))} (FORMAT parquet, COMPRESSION zstd, PARQUET_VERSION V2)")
    return path


def compare_engines(place: Path, first: engines.Ask, second: engines.Ask, seed: int) -> None:
    """Ask both engines the same questions about the same random files."""
    chance = random.Random(seed)  # noqa: S311 - no secret
    files = [random_archive(place, chance) for _ in range(chance.randrange(1, 4))]
    whole = files[0].with_suffix(".summary")
    begun = [summary.begin(duck(), "performance_logs", file, file.with_suffix(".begun")) for file in files]
    summary.finish(duck(), [one for one in begun if one], whole)
    for by in ("hour", "day", "all"):
        span = Span(datetime.fromtimestamp(chance.randrange(0, 10**9), UTC), datetime(2090, 1, 1, tzinfo=UTC), by)
        both = [sorted(ask(performance.files_query(span), files)) for ask in (first, second)]
        assert both[0] == both[1], f"seed {seed}, by {by}"
        merged = [performance.merge(span, rows) for rows in both]
        if by != "hour":
            both = [sorted(ask(performance.summaries_query(span), [whole])) for ask in (first, second)]
            assert both[0] == both[1], f"seed {seed}, by {by}, from summaries"
            everything = Span(by=by)
            rows = first(performance.files_query(everything), files)
            assert performance.merge(everything, both[0]) == performance.merge(everything, rows)
        assert [trend.quantile(0.95) for trend in merged[0]] == [trend.quantile(0.95) for trend in merged[1]]


def test_spark_answers_as_duckdb_does(tmp_path: Path) -> None:
    if not os.environ.get("REQUIRE_SPARK"):
        pytest.skip(
            "REQUIRE_SPARK=1 asks for it: 430 MB that are no wheel, Java, and a minute; benchmarks/archive.py does 50"
        )
    with engines.opened() as duckdb, engines.opened("spark", "local[2]") as spark:
        for seed in range(3):
            compare_engines(tmp_path, duckdb, spark, seed)
