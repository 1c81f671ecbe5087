"""`pgvigil report`, and the anomalies that it lists: hours whose executions are far from the same hour of the days before."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import psycopg
import pytest

from conftest import Database, Run, Templates, _new_database

pytestmark = pytest.mark.client_side
Connection = psycopg.Connection[Any]
TAG = "<b>engine</b>"


@pytest.fixture(scope="module")
def own(templates: Templates) -> Iterator[Database]:
    with _new_database(templates.server, templates.get("fresh")) as new:
        yield new


@pytest.fixture
def hours(own: Database) -> Iterator[Connection]:
    """A transaction in which job totals has counted the last hour; rolled back in the end."""
    with own.connect(autocommit=False) as connection:
        connection.execute(
            "INSERT INTO pgvigil.job_runs (job, started_at, finished_at) VALUES ('totals', now(), now())"
        )
        yield connection
        connection.rollback()


def put(
    connection: Connection, executions: int, *, hours_ago: int, days: range = range(1), engine: str = "mysql"
) -> None:
    """Add this number of executions in an hour, on each of these earlier days."""
    connection.execute(
        """INSERT INTO pgvigil.execution_rollups (bucket_width, bucket, database_type, status, executions, timed, seconds, total_rows)
           SELECT w.width, date_trunc(w.width, date_trunc('hour', now(), 'UTC') - %s * interval '1 hour' - d * interval '24 hours', 'UTC'), %s, 'failed', %s, 0, 0, 0
           FROM unnest(%s::int[]) d CROSS JOIN unnest('{hour,day}'::text[]) w (width) ON CONFLICT DO NOTHING""",
        (hours_ago, engine, executions, list(days)),
    )


def judge(connection: Connection) -> tuple[int, str | None]:
    row = connection.execute("SELECT done, note FROM pgvigil.job_anomalies(1000)").fetchone()
    assert row is not None
    return row


def found(connection: Connection) -> list[tuple[Any, ...]]:
    return connection.execute(
        "SELECT database_type, value, expected, spread, ended IS NULL FROM pgvigil.anomalies ORDER BY id"
    ).fetchall()


def usual(connection: Connection, executions: int = 100, days: range = range(1, 9), **options: Any) -> None:
    for hour in (1, 2):
        put(connection, executions, hours_ago=hour, days=days, **options)


def test_two_unusual_hours_in_a_row_are_an_anomaly(hours: Connection) -> None:
    usual(hours)
    put(hours, 150, hours_ago=2)
    put(hours, 160, hours_ago=1)
    assert judge(hours) == (1, None)
    assert found(hours) == [("mysql", 160, 100, 10, True)]
    since = hours.execute(
        "SELECT since = date_trunc('hour', now(), 'UTC') - interval '2 hours' FROM pgvigil.anomalies"
    ).fetchall()
    assert since == [(True,)]


@pytest.mark.parametrize(
    ("before", "last"), [(100, 160), (160, 100), (139, 139), (50, 160), (61, 61)],
    ids=["only the last", "only the one before", "within four spreads", "in both directions", "a little less"],
)  # fmt: skip
def test_these_hours_are_none(hours: Connection, before: int, last: int) -> None:
    usual(hours)
    put(hours, before, hours_ago=2)
    put(hours, last, hours_ago=1)
    assert judge(hours) == (0, None)
    assert found(hours) == []


def test_a_load_that_stops_is_an_anomaly(hours: Connection) -> None:
    usual(hours)
    assert judge(hours) == (1, None)
    assert found(hours) == [("mysql", 0, 100, 10, True)]


def test_fewer_than_five_days_are_not_enough(hours: Connection) -> None:
    usual(hours, days=range(1, 5))
    assert judge(hours) == (0, None)


def test_a_wide_spread_of_the_days_before_allows_more(hours: Connection) -> None:
    for day in range(1, 9):
        usual(hours, 100 + 30 * (day % 3), days=range(day, day + 1))
    put(hours, 200, hours_ago=2)
    put(hours, 200, hours_ago=1)
    assert judge(hours) == (0, None)


def test_an_anomaly_that_goes_on_stays_one_and_ends_with_a_usual_hour(hours: Connection) -> None:
    usual(hours)
    put(hours, 160, hours_ago=1)
    hours.execute(
        """INSERT INTO pgvigil.anomalies (database_type, status, since, hour, value, expected, spread)
           SELECT e, 'failed', now() - interval '5 hours', date_trunc('hour', now(), 'UTC') - interval '2 hours', 1, 100, 10 FROM unnest('{mysql,redis}'::text[]) e"""
    )
    assert judge(hours) == (2, None)
    assert found(hours) == [("mysql", 160, 100, 10, True), ("redis", 1, 100, 10, False)]
    assert judge(hours) == (0, None), "the same hour is judged once"


def test_an_hour_that_is_not_counted_yet_is_not_judged(hours: Connection) -> None:
    usual(hours)
    hours.execute("DELETE FROM pgvigil.job_runs")
    assert judge(hours) == (0, "waits for job totals, which has not counted the last hour")
    assert found(hours) == []


# --- the report ----------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def busy(own: Database) -> Database:
    own.execute(
        "INSERT INTO sessions (session_key, agent_from) SELECT 's' || g, 'planner' FROM generate_series(1, 3) g"
    )
    own.execute(
        """INSERT INTO query_executions (execution_id, user_id, query, database_type, status, execution_time, started_at)
           SELECT 'e' || g, 'ada', 'SELECT secret', %s, (ARRAY['success', 'failed'])[1 + g %% 2], 0.5, now() - g * interval '20 hours' FROM generate_series(1, 6) g""",
        (TAG,),
    )
    own.execute(
        "INSERT INTO performance_logs (operation, duration_ms, success) SELECT 'search', g, g > 2 FROM generate_series(1, 10) g"
    )
    own.execute("CALL pgvigil.run_job('rollup')")
    return own


def report(call: Run, database: Database, *words: str) -> str:
    done = call("pgvigil", "report", "--database-url", database.url, *words)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout


def test_the_report_counts_the_days_that_it_is_of(call: Run, busy: Database) -> None:
    week, day = (json.loads(report(call, busy, "--format", "json", "--days", days)) for days in ("7", "1"))
    assert sum(one["executions"] for one in week["executions"]) == 6
    assert sum(one["executions"] for one in day["executions"]) == 1
    assert week["sessions"] == [{"status": "active", "sessions": 3, "dormant": 0}]
    assert [(one["operation"], one["calls"], one["failed"], one["failed_percent"]) for one in week["operations"]] == [
        ("search", 10, 2, 20)
    ]
    assert week["anomalies"] == []
    assert {"days", "at", "jobs", "checks"} < set(week)


def test_the_report_for_people_has_the_same_numbers(call: Run, busy: Database) -> None:
    text = report(call, busy)
    assert "7 days up to" in text.splitlines()[0]
    assert "search" in text
    assert "Unusual hours of query executions\n  None." in text


def test_the_page_of_the_report_has_no_scripts_and_shows_names_as_text(call: Run, busy: Database) -> None:
    page = report(call, busy, "--format", "html")
    assert TAG not in page
    assert "&lt;b&gt;engine&lt;/b&gt;" in page
    assert "<script" not in page
    assert page.rstrip().endswith("</html>")


@pytest.mark.parametrize("days", ["0", "366", "x", "-1", "1.5"])
def test_other_days_are_refused(call: Run, days: str) -> None:
    done = call("pgvigil", "report", "--days", days)
    assert done.returncode == 2


def test_a_database_without_pgvigil_is_said_so(call: Run, templates: Templates) -> None:
    done = call("pgvigil", "report", "--database-url", Database(templates.server, "postgres").url)
    assert done.returncode == 4
    assert "not migrated" in done.stderr
