"""Test that times which Python does not have, as an application may keep them, stop no command and no job."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from conftest import Database, Run
from pgvigil import database
from pgvigil.database.times import EARLIEST, LATEST

pytestmark = pytest.mark.client_side
TIMES = ("infinity", "-infinity", "0044-03-15 12:00:00+00 BC", "0001-01-01 00:00:00+00", "9999-12-31 23:59:59+00",
         "294276-12-01 23:59:59+00")  # fmt: skip
COMMANDS = (
    ("maintain", "preview"), ("maintain", "accept", "all"), ("maintain", "run-due"), ("maintain", "preview", "--format", "json"), ("report",),
    ("history", "sessions"), ("validate", "--self-test"),
)  # fmt: skip


@pytest.mark.parametrize("at", TIMES)
def test_times_that_python_has_not_are_read_as_the_nearest(fresh: Database, at: str) -> None:
    with database.connect(database.parse_url(fresh.url, "a test"), "test") as conn:
        (found,) = conn.execute("SELECT %s::timestamptz", (at,)).fetchone()  # type: ignore[misc]
        assert found in (EARLIEST, LATEST, datetime(9999, 12, 31, 23, 59, 59, tzinfo=UTC))
        assert conn.execute("SELECT '2026-03-01 12:00:00+02'::timestamptz").fetchone() == (
            datetime(2026, 3, 1, 10, tzinfo=UTC),
        )
        assert conn.execute("SELECT NULL::timestamptz").fetchone() == (None,)


@pytest.mark.parametrize("column", ["last_activity_at", "created_at", "expires_at", "updated_at"])
def test_such_times_of_sessions_stop_no_command(call: Run, fresh: Database, column: str) -> None:
    for number, at in enumerate(TIMES):
        fresh.execute(
            f"INSERT INTO sessions (session_key, agent_from, {column}) VALUES (%s, 'a', %s)", (f"key {number}", at)
        )
    fresh.execute("UPDATE sessions SET status = 'completed'")
    fresh.execute("UPDATE sessions SET status = 'active'")
    for words in COMMANDS:
        done = call("pgvigil", *words, "--database-url", fresh.url)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO performance_logs (operation, duration_ms, success, created_at) VALUES ('o', 1, true, %s)",
        "INSERT INTO system_metrics (metric_name, metric_value, metric_type, recorded_at) VALUES ('m', 1, 'gauge', %s)",
        "INSERT INTO session_lifecycle (session_id, event_type, created_at) SELECT id, 'created', %s FROM sessions LIMIT 1",
        "INSERT INTO context_history (session_id, sequence_number, context_type, content, created_at) SELECT id, (SELECT count(*) FROM context_history), 'message', 'x', %s FROM sessions LIMIT 1",
        "INSERT INTO query_executions (execution_id, query, database_type, status, started_at) VALUES (%s, '', 'x', 'success', %s)",
        "INSERT INTO analytics_aggregations (aggregation_type, time_bucket, created_at, aggregation_data) VALUES ('own', %s, %s, '{}')",
    ],
)
def test_such_times_of_other_rows_stop_no_command(call: Run, fresh: Database, statement: str) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'a')")
    for at in TIMES:
        fresh.execute(statement, (at,) * statement.count("%s"))
    for words in COMMANDS:
        done = call("pgvigil", *words, "--database-url", fresh.url)
        assert done.returncode == 0, (words, done.stdout, done.stderr)


def test_sessions_with_such_times_are_migrated(call: Run, existing: Database) -> None:
    columns = ("created_at", "updated_at", "expires_at")
    for number, at in enumerate(TIMES):
        existing.execute(
            f"""INSERT INTO sessions (session_key, agent_from, {", ".join(columns)})
                SELECT 'key ' || %s || ' ' || c, 'a', {", ".join(f"CASE c WHEN '{name}' THEN %s::timestamptz ELSE now() END" for name in columns)}
                FROM unnest(%s::text[]) c""",
            (number, *[at] * len(columns), list(columns)),
        )
    for words in (("migrate", "--backup", "none"), *COMMANDS):
        if words != ("maintain", "run-due"):  # jobs that delete wait for a backup
            done = call("pgvigil", *words, "--database-url", existing.url)
            assert done.returncode == 0, (words, done.stdout, done.stderr)
