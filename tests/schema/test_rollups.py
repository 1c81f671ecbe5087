"""Test the rollups: they count each row once under concurrent writes, and their views return what the rows contain."""

from __future__ import annotations

import contextlib
import random
import threading
from typing import Any

import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from conftest import Database, wait_until

pytestmark = pytest.mark.oldest_and_newest

# What the view says, and what the rows say: the same columns, p95 aside, from one snapshot.
WINDOW = """SELECT operation, total_calls, min_duration_ms, max_duration_ms, successful_calls, failed_calls, avg_duration_ms
            FROM pgvigil.performance_window('24 hours')"""
RECOUNT = """SELECT operation, count(*), min(duration_ms), max(duration_ms), count(*) FILTER (WHERE success), count(*) FILTER (WHERE NOT success),
                    round(avg(duration_ms), 3)
             FROM performance_logs WHERE created_at >= date_trunc('minute', now() - interval '24 hours') GROUP BY 1"""
DIFFERENCE = f"({WINDOW} EXCEPT {RECOUNT}) UNION ALL ({RECOUNT} EXCEPT {WINDOW})"
# The content of the rollups, and the same counted again from their rows.
ROLLED = """SELECT time_bucket, operation, calls, successful, total_ms, min_ms, max_ms, histogram FROM pgvigil.performance_rollups WHERE bucket_width = 'hour'"""
ROLLED_RECOUNT = """SELECT date_trunc('hour', created_at, 'UTC'), operation, count(*), count(*) FILTER (WHERE success), sum(duration_ms), min(duration_ms),
                           max(duration_ms), sum(pgvigil.histogram_unit(pgvigil.histogram_bin(duration_ms)))
                    FROM performance_logs WHERE id < (SELECT next_id FROM pgvigil.rollup_progress) GROUP BY 1, 2"""
ROLLED_DIFFERENCE = f"({ROLLED} EXCEPT ({ROLLED_RECOUNT})) UNION ALL (({ROLLED_RECOUNT}) EXCEPT {ROLLED})"


def log(database: Database, operation: str, ago: str, durations: str = "1", late: str = "0") -> None:
    """Add one row per duration, from that long ago; `late`: it arrived so much later than it happened."""
    database.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
           SELECT overlay(pgvigil.uuid_v7_floor(now() - %s::interval + %s::interval)::text PLACING substr(gen_random_uuid()::text, 25) FROM 25)::uuid,
                  %s, d::integer, d::integer %% 3 > 0, now() - %s::interval FROM regexp_split_to_table(%s, ' ') d""",
        (ago, late, operation, ago, durations),
    )


def run_job(database: Database, job: str) -> int:
    return int(database.execute("CALL pgvigil.run_job(%s)", (job,))[0][0])


def roll_up_everything(database: Database) -> None:
    """Roll up until the watermark, which is a second behind the clock, is past the last row."""
    left = "SELECT count(*) FROM performance_logs WHERE id >= (SELECT next_id FROM pgvigil.rollup_progress)"

    def nothing_left() -> bool:
        run_job(database, "rollup")
        return database.execute(left) == [(0,)]

    wait_until(nothing_left)


# --- histograms ------------------------------------------------------------------------------------------------------

durations = st.one_of(
    st.integers(0, 2**31 - 1),
    st.integers(0, 60),
    st.builds(lambda power, step: min(2**power + step, 2**31 - 1), st.integers(0, 31), st.integers(0, 2)),
    st.builds(lambda power: int(1.02020202**power), st.integers(0, 1060)),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    values=st.lists(st.tuples(durations, st.integers(1, 40)), min_size=1, max_size=30),
    fraction=st.sampled_from([0.0, 0.25, 0.5, 0.9, 0.95, 0.99, 1.0]),
)
def test_a_quantile_is_within_1_percent_of_the_exact_one(
    fresh: Database, values: list[tuple[int, int]], fraction: float
) -> None:
    rows = [value for value, times in values for _ in range(times)]
    told, exact = fresh.execute(
        """SELECT pgvigil.histogram_quantile(sum(pgvigil.histogram_unit(pgvigil.histogram_bin(d))), count(*), %(fraction)s),
                  percentile_cont(%(fraction)s) WITHIN GROUP (ORDER BY d)
           FROM unnest(%(rows)s::integer[]) d""",
        {"fraction": fraction, "rows": rows},
    )[0]
    assert abs(told - exact) <= exact * 0.0100001


def test_merged_histograms_are_the_histogram_of_all(fresh: Database) -> None:
    query = """SELECT sum(part), sum(whole) FROM (
                   SELECT sum(pgvigil.histogram_unit(pgvigil.histogram_bin(d))) AS part, 0 AS whole FROM generate_series(0, 100000, 7) d GROUP BY d % 13
                   UNION ALL SELECT 0, sum(pgvigil.histogram_unit(pgvigil.histogram_bin(d))) FROM generate_series(0, 100000, 7) d) h"""
    part, whole = fresh.execute(query)[0]
    assert part == whole


def test_a_bin_holds_more_calls_than_anyone_makes(fresh: Database) -> None:
    query = """SELECT pgvigil.histogram_quantile(999999999 * pgvigil.histogram_unit(pgvigil.histogram_bin(20)) + 3 * pgvigil.histogram_unit(pgvigil.histogram_bin(40)),
                                                 1000000002, 0.95),
                      (SELECT bin FROM pgvigil.histogram_rank(999999999 * pgvigil.histogram_unit(5) + pgvigil.histogram_unit(6), 999999999))"""
    assert fresh.execute(query) == [(20, 6)]


# --- the watermark ---------------------------------------------------------------------------------------------------


def test_rolling_up_changes_nothing_that_people_read(fresh: Database) -> None:
    for hours in (0, 1, 2, 23, 30):
        log(fresh, "read", f"{hours} hours 10 minutes", "1 20 300 7000")
        log(fresh, "write", f"{hours} hours 25 minutes", "5 0")
    before = fresh.execute(f"{WINDOW} ORDER BY 1")
    assert [row[:2] for row in before] == [("read", 16), ("write", 8)]
    assert run_job(fresh, "rollup") == 30
    assert fresh.execute(f"{WINDOW} ORDER BY 1") == before
    assert fresh.execute(DIFFERENCE) == []
    assert fresh.execute(ROLLED_DIFFERENCE) == []


def test_the_first_minute_of_the_window_is_whole_before_the_rollup_and_after_it(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
           SELECT pgvigil.uuid_v7_floor(t), 'o', 1, true, t FROM (SELECT date_trunc('minute', now() - interval '24 hours') AS t) first"""
    )
    assert fresh.execute(DIFFERENCE) == []
    run_job(fresh, "rollup")
    assert fresh.execute(DIFFERENCE) == []


def test_rolling_up_twice_counts_once(fresh: Database) -> None:
    log(fresh, "o", "10 minutes", "1 2 3")
    assert [run_job(fresh, "rollup") for _ in range(3)] == [3, 0, 0]
    assert fresh.execute(ROLLED_DIFFERENCE) == []


def test_names_without_end_are_counted_together_after_a_thousand(fresh: Database) -> None:
    many = """INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
              SELECT overlay(pgvigil.uuid_v7_floor(now() - %s::interval)::text PLACING substr(gen_random_uuid()::text, 25) FROM 25)::uuid,
                     %s || n, 1, true, now() - %s::interval FROM generate_series(1, %s) n"""
    fresh.execute(many, ("5 hours", "first ", "5 hours", 600))
    fresh.execute(many, ("3 hours", "second ", "3 hours", 900))
    log(fresh, "often", "3 hours", "1 1 1")
    log(fresh, "first 7", "1 hour")
    log(fresh, "new", "1 hour")
    roll_up_everything(fresh)
    for table in ("performance_rollups WHERE bucket_width = 'hour'", "operation_totals"):
        kept, calls = fresh.execute(f"SELECT count(DISTINCT operation), sum(calls) FROM pgvigil.{table}")[0]
        assert (kept, calls) == (1001, 600 + 3 + 900 + 2)
    totals = dict(fresh.execute("SELECT operation, calls FROM pgvigil.operation_totals"))
    assert (totals["(others)"], totals["often"], totals["first 7"]) == (900 - 399 + 1, 3, 2)


def test_rows_that_come_late_are_counted_where_they_belong(fresh: Database) -> None:
    log(fresh, "o", "3 hours", "1 2")
    run_job(fresh, "rollup")
    log(fresh, "o", "3 hours", "900", late="2 hours 30 minutes")
    fresh.execute("UPDATE pgvigil.rollup_progress SET next_id = pgvigil.uuid_v7_floor(now() - interval '1 hour')")
    run_job(fresh, "rollup")
    hour = "SELECT calls, max_ms FROM pgvigil.performance_rollups WHERE bucket_width = 'hour'"
    assert fresh.execute(hour) == [(3, 900)]
    assert fresh.execute(DIFFERENCE) == []


def test_a_long_table_is_rolled_up_in_many_transactions(fresh: Database) -> None:
    for hours in range(1, 6):
        log(fresh, "o", f"{90 * hours} minutes")
    assert run_job(fresh, "rollup") == 5
    assert fresh.execute(
        "SELECT count(DISTINCT xmin::text) FROM pgvigil.performance_rollups WHERE bucket_width = 'hour'"
    ) == [(5,)]


def test_the_watermark_does_not_pass_a_row_that_is_not_committed(fresh: Database) -> None:
    with fresh.connect(autocommit=False) as writer:
        writer.execute("INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('slow', 1, true)")
        made = writer.execute("SELECT id FROM performance_logs").fetchall()[0][0]
        log(fresh, "quick", "0")
        # The row's id is now as old as the watermark would like it to be.
        wait_until(
            lambda: fresh.execute(
                "SELECT pgvigil.uuid_v7_time(%s) < clock_timestamp() - interval '1.2 seconds'", (made,)
            )[0][0]
        )
        run_job(fresh, "rollup")
        assert fresh.execute("SELECT next_id <= %s FROM pgvigil.rollup_progress", (made,)) == [(True,)]
        assert fresh.execute(DIFFERENCE) == []
        writer.commit()
    assert fresh.execute(DIFFERENCE) == []
    roll_up_everything(fresh)
    assert fresh.execute("SELECT sum(calls) FROM pgvigil.performance_rollups WHERE bucket_width = 'hour'") == [(2,)]


def test_who_may_not_see_when_a_writer_began_waits_for_its_end(fresh: Database) -> None:
    role = f"t_{fresh.name}"
    fresh.execute(
        f"CREATE ROLE {role} LOGIN; GRANT USAGE ON SCHEMA pgvigil TO {role};"
        f"GRANT EXECUTE ON FUNCTION pgvigil.complete_until(regclass) TO {role}"
    )
    try:
        with fresh.connect(autocommit=False) as writer, fresh.connect() as other:
            writer.execute("INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('o', 1, true)")
            other.execute(f"SET ROLE {role}")
            settled = "SELECT pgvigil.complete_until('public.performance_logs')::text"
            assert other.execute(settled).fetchall() == [("-infinity",)]
            writer.commit()
            assert other.execute(settled).fetchall() != [("-infinity",)]
    finally:
        fresh.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow(first=1)
def test_concurrent_writers_lose_no_row_to_the_rollup(fresh: Database, seed: int) -> None:
    """Writers commit, roll back and pause at random while the rollup runs; the view is right at every moment."""
    fresh.execute("UPDATE pgvigil.rollup_progress SET next_id = pgvigil.uuid_v7_floor(now())")
    failures: list[str] = []
    stop = threading.Event()

    def write(number: int) -> None:
        chance = random.Random(f"{seed} {number}")  # noqa: S311 - the same chance in each run
        with fresh.connect(autocommit=False) as conn:
            for _ in range(30):
                for _ in range(chance.randint(1, 4)):
                    age = chance.choice(["0", "0", "30 seconds", "2 minutes", "70 minutes", "25 hours"])
                    conn.execute(
                        "INSERT INTO performance_logs (operation, duration_ms, success, created_at)"
                        " SELECT %s, n, n %% 2 = 0, now() - %s::interval FROM generate_series(1, %s) n",
                        (chance.choice("abc"), age, chance.randint(1, 5)),
                    )
                    stop.wait(chance.choice([0, 0.01, 0.05, 0.4]))
                conn.rollback() if chance.random() < 0.3 else conn.commit()

    def watch() -> None:
        with fresh.connect() as conn:
            while not stop.is_set():
                if different := conn.execute(DIFFERENCE).fetchall():
                    failures.append(f"the view differs: {different}")
                    return

    def roll_up() -> None:
        while not stop.is_set():
            run_job(fresh, "rollup")

    writers = [threading.Thread(target=write, args=(number,)) for number in range(3)]
    others = [threading.Thread(target=watch), threading.Thread(target=roll_up)]
    for thread in writers + others:
        thread.start()
    for thread in writers:
        thread.join()
    stop.set()
    for thread in others:
        thread.join()
    assert failures == []
    roll_up_everything(fresh)
    assert fresh.execute(ROLLED_DIFFERENCE) == []
    assert fresh.execute(DIFFERENCE) == []


def test_the_view_reads_no_row_that_is_rolled_up(fresh: Database) -> None:
    fresh.execute("SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '5 days', now())")
    for hours in range(0, 100, 5):
        log(fresh, "o", f"{hours} hours 30 minutes", "1 2 3")
    run_job(fresh, "rollup")
    with fresh.connect(autocommit=False) as conn:
        conn.execute("SELECT * FROM performance_monitoring_view")
        read = """SELECT relname, seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables
                  WHERE relname LIKE 'performance_logs_p%' AND (seq_scan > 0 OR idx_scan > 0) ORDER BY 1 LIMIT 1"""
        today = conn.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD')").fetchall()[0][0]
        assert conn.execute(read).fetchall() == [(f"performance_logs_p{today}", 0)]


def test_isolation_that_cannot_see_others_is_refused(fresh: Database) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(psycopg.errors.InvalidTransactionState):
            conn.execute("SELECT * FROM pgvigil.job_rollup(1)")


# --- analytics_aggregations ------------------------------------------------------------------------------------------


def document(database: Database, kind: str, width: str = "hour", bucket: str = "2026-03-05 10:00+00") -> Any:
    rows = database.execute(
        "SELECT aggregation_data FROM analytics_aggregations WHERE (aggregation_type, bucket_width, time_bucket) = (%s, %s, %s::timestamptz)",
        (kind, width, bucket),
    )
    return rows[0][0] if rows else None


def aggregate(
    database: Database, kind: str, since: str = "2026-03-05 10:00+00", until: str = "2026-03-05 11:00+00"
) -> int:
    return int(database.execute("SELECT pgvigil.aggregate_analytics(%s, %s, %s)", (kind, since, until))[0][0])


def test_session_stats_have_their_shape(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from, agent_to, status, created_at, last_activity_at) VALUES
               ('a', 'x', 'y', 'active', '2026-03-05 10:05+00', '2026-03-05 10:06+00'),
               ('b', 'x', NULL, 'completed', '2026-03-05 10:59:59+00', '2026-03-05 11:02:59+00'),
               ('c', 'z', NULL, 'active', '2026-03-05 11:00+00', '2026-03-05 11:00+00');
           INSERT INTO context_history (session_id, sequence_number, context_type, content)
               SELECT id, n, 'message', 'x' FROM sessions, generate_series(1, 3) n WHERE session_key = 'a';
           INSERT INTO handoff_requests (session_id, requesting_agent, target_agent) SELECT id, 'y', 'w' FROM sessions WHERE session_key = 'a'"""
    )
    assert aggregate(fresh, "session_stats") == 2
    hour = {
        "total_sessions": 2,
        "sessions_by_status": {"active": 1, "completed": 1},
        "sessions_by_agent": {"x": 2},
        "avg_duration": 120,
        "avg_context_volume": 1.5,
        "avg_participants": 2,
    }
    assert document(fresh, "session_stats") == hour
    day = document(fresh, "session_stats", "day", "2026-03-05 00:00+00")
    assert (day["total_sessions"], day["sessions_by_agent"]) == (3, {"x": 2, "z": 1})


def test_handoff_stats_have_their_shape(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from) VALUES ('a', 'x');
           INSERT INTO handoff_requests (session_id, requesting_agent, target_agent, status, created_at, completed_at)
           SELECT id, v.asks, v.asked, v.status, '2026-03-05 10:30+00', v.done::timestamptz FROM sessions,
               (VALUES ('A', 'B', 'completed', '2026-03-05 10:31+00'), ('A', 'B', 'rejected', '2026-03-05 10:33+00'),
                       ('A', 'C', 'accepted', NULL), ('B', NULL, 'pending', NULL)) v (asks, asked, status, done)"""
    )
    assert aggregate(fresh, "handoff_stats") == 2
    assert document(fresh, "handoff_stats") == {
        "total": 4,
        "successful": 2,
        "failed": 1,
        "success_rate": 50,
        "avg_duration": 120,
        "routes": {
            "A->B": {"count": 2, "successful": 1},
            "A->C": {"count": 1, "successful": 1},
            "B->": {"count": 1, "successful": 0},
        },
    }


def test_performance_trends_have_their_shape_and_count_what_is_not_yet_rolled_up(fresh: Database) -> None:
    hour = fresh.execute("SELECT date_trunc('hour', now() - interval '1 hour', 'UTC')::text")[0][0]
    fresh.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
           SELECT pgvigil.uuid_v7(), 'read', n, n > 5, %s::timestamptz + interval '1 minute' FROM generate_series(1, 20) n""",
        (hour,),
    )
    wanted = {
        "count": 20,
        "avg": 10.5,
        "min": 1,
        "max": 20,
        "p95": 19.05,
        "successful": 15,
        "failed": 5,
        "success_rate": 75,
    }
    assert fresh.execute("SELECT pgvigil.aggregate_analytics('performance_trends', %s, now())", (hour,)) == [(2,)]
    assert document(fresh, "performance_trends", "hour", hour) == {"operations": {"read": wanted}}
    roll_up_everything(fresh)
    assert fresh.execute("SELECT pgvigil.aggregate_analytics('performance_trends', %s, now())", (hour,)) == [(0,)]


def test_an_unknown_type_is_an_error(fresh: Database) -> None:
    with pytest.raises(psycopg.errors.InvalidParameterValue, match="there is no aggregation type tea"):
        aggregate(fresh, "tea")


def test_the_hour_that_is_running_is_done_again(fresh: Database) -> None:
    """Fault 13: the rollup ran once in the current hour and lost the rest of it."""
    count = "SELECT sum((aggregation_data #>> '{operations,o,count}')::integer) FROM analytics_aggregations WHERE bucket_width = 'day'"
    log(fresh, "o", "0", "1 2")
    run_job(fresh, "aggregation")
    assert fresh.execute(count) == [(2,)]
    log(fresh, "o", "0", "3")
    assert run_job(fresh, "aggregation") > 0
    assert fresh.execute(count) == [(3,)]
    assert run_job(fresh, "aggregation") == 0


def test_a_late_row_changes_the_document_of_its_hour(fresh: Database) -> None:
    log(fresh, "o", "3 days", "1 2")
    run_job(fresh, "rollup")
    run_job(fresh, "aggregation")
    count = "SELECT (aggregation_data #>> '{operations,o,count}')::integer FROM analytics_aggregations WHERE bucket_width = 'hour'"
    assert fresh.execute(count) == [(2,)]
    fresh.execute(
        "INSERT INTO performance_logs (operation, duration_ms, success, created_at) SELECT 'o', 9, true, now() - interval '3 days'"
    )
    roll_up_everything(fresh)
    assert run_job(fresh, "aggregation") == 2
    assert fresh.execute(count) == [(3,)]


def test_the_rollup_of_another_runner_is_not_overlooked_by_the_aggregation(fresh: Database) -> None:
    log(fresh, "o", "3 hours", "1 2")
    with fresh.connect(autocommit=False) as other:
        other.execute("SELECT * FROM pgvigil.job_rollup(1)")  # changed at this time, visible later
        waiting = threading.Thread(target=lambda: contextlib.suppress(psycopg.Error) and run_job(fresh, "aggregation"))
        waiting.start()
        wait_until(
            lambda: fresh.execute("SELECT state FROM pgvigil.job_status WHERE job = 'aggregation'") == [("running",)]
        )
        other.commit()
        waiting.join()
    assert (
        document(
            fresh,
            "performance_trends",
            "hour",
            fresh.execute("SELECT date_trunc('hour', now() - interval '3 hours', 'UTC')::text")[0][0],
        )
        is not None
    )


def test_old_minutes_and_hours_are_let_go(fresh: Database) -> None:
    fresh.execute("SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '2 days', now())")
    log(fresh, "o", "25 hours")
    run_job(fresh, "rollup")
    fresh.execute(
        """UPDATE pgvigil.performance_rollups SET time_bucket = time_bucket - interval '2 hours' WHERE bucket_width = 'minute';
           UPDATE pgvigil.performance_rollups SET time_bucket = time_bucket - interval '100 days' WHERE bucket_width = 'hour'"""
    )
    run_job(fresh, "rollup")
    assert fresh.execute("SELECT count(*) FROM pgvigil.performance_rollups") == [(0,)]
