"""The monitoring views: the plans of the pages that dashboards show, and last_activity_at, whose index gives their order."""

from __future__ import annotations

import json
from typing import Any

import pytest

from conftest import Database, Run

pytestmark = pytest.mark.oldest_and_newest

PAGES = (
    "ORDER BY last_activity_at DESC LIMIT 50",
    "ORDER BY last_activity_at LIMIT 50",
    "WHERE status = 'active' ORDER BY last_activity_at DESC LIMIT 50",
    "WHERE status = 'active' AND last_activity_at < now() - interval '24 hours' ORDER BY last_activity_at LIMIT 50",
    "WHERE retention_policy = 'short' ORDER BY last_activity_at DESC LIMIT 50",
    "WHERE last_activity_at < now() - interval '199 hours'",
)
STATE = "SELECT count(*), count(last_activity_at), count(*) FILTER (WHERE last_activity_at = updated_at) FROM sessions"
TRIGGERS = (
    "SELECT tgname, tgenabled FROM pg_trigger WHERE tgrelid = 'sessions'::regclass AND NOT tgisinternal ORDER BY 1"
)


def nodes(plan: dict[str, Any]) -> list[dict[str, Any]]:
    return [plan, *(node for child in plan.get("Plans", []) for node in nodes(child))]


def begin_settling(call: Run, existing: Database) -> None:
    done = call("pgvigil", "migrate", "--to", "013", "--backup", "none", "--database-url", existing.url)
    assert done.returncode == 0, done.stderr
    for _ in range(2):  # the CHECK, then one batch
        existing.execute("SELECT pgvigil.backfill_last_activity_step('{}', 100)")


def test_pages_of_sessions_are_read_from_an_index_without_a_sort(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO sessions (session_key, agent_from, status, retention_policy, last_activity_at)
           SELECT n, 'a', CASE WHEN n % 3 = 0 THEN 'completed' ELSE 'active' END, CASE WHEN n % 5 = 0 THEN 'short' ELSE 'standard' END,
                  now() - n % 200 * interval '1 hour' FROM generate_series(1, 20000) n"""
    )
    fresh.execute("ANALYZE sessions")
    for page in PAGES:
        ((found,),) = fresh.execute(f"EXPLAIN (FORMAT JSON) SELECT * FROM session_monitoring_view {page}")
        plan = nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])
        assert not [n for n in plan if n["Node Type"] == "Seq Scan" and n["Relation Name"] == "sessions"], page
        assert not [n for n in plan if "Sort" in n["Node Type"] and "last_activity_at" in str(n["Sort Key"])], page


def scans_of_changes(db: Database) -> list[str]:
    """Return the scans by which a page of sessions finds the changes of each of them."""
    ((found,),) = db.execute("EXPLAIN (FORMAT JSON) SELECT context_entries FROM session_monitoring_view LIMIT 50")
    plan = nodes((json.loads(found) if isinstance(found, str) else found)[0]["Plan"])
    return [n["Node Type"] for n in plan if n.get("Relation Name") == "session_counter_changes"]


def test_pending_changes_are_found_by_index_where_the_table_has_no_statistics_or_was_emptied(fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) SELECT n, 'a' FROM generate_series(1, 3000) n")
    fresh.execute("ANALYZE")
    fresh.execute(
        "INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, 1, 'message', 'x' FROM sessions"
    )
    assert scans_of_changes(fresh) == ["Index Scan"]
    fresh.execute("CALL pgvigil.run_job('counters', false)")
    fresh.execute("VACUUM ANALYZE pgvigil.session_counter_changes")  # a plan prepared now is kept when it fills again
    assert fresh.execute("SELECT count(*) FROM pgvigil.session_counter_changes") == [(0,)]
    assert scans_of_changes(fresh) == ["Index Scan"]


def test_a_session_that_no_job_has_counted_is_counted_from_its_rows_alone(fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('1', 'a')")
    add = "INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT id, {}, 'message', 'x' FROM sessions"
    see = "SELECT session_key, context_entries FROM session_monitoring_view ORDER BY 1"
    fresh.execute(add.format(1))
    fresh.execute("CALL pgvigil.run_job('counters', false)")
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('2', 'a')")
    fresh.execute(add.format(2))
    assert fresh.execute(see) == [("1", 2), ("2", 1)]
    # Only the one that has been counted is read from counters and changes.
    fresh.execute("DELETE FROM pgvigil.session_counter_changes")
    assert fresh.execute(see) == [("1", 1), ("2", 1)]


def test_a_null_last_activity_at_of_a_new_session_becomes_created_at(fresh: Database) -> None:
    fresh.execute(
        "INSERT INTO sessions (session_key, agent_from, created_at, last_activity_at) VALUES ('a', 'a', '2020-01-01', NULL)"
    )
    assert fresh.execute("SELECT last_activity_at = created_at FROM sessions") == [(True,)]


@pytest.mark.parametrize(
    "also", ["", ", metadata = '{}'", ", status = 'expired'", ", status = 'pending'", ", is_dormant = true"]
)
def test_a_null_last_activity_at_of_an_update_leaves_it_where_it_was(fresh: Database, also: str) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from, last_activity_at) VALUES ('a', 'a', '2020-01-01')")
    fresh.execute(f"UPDATE sessions SET last_activity_at = NULL{also}")
    assert fresh.execute("SELECT last_activity_at = '2020-01-01' FROM sessions") == [(True,)]


def test_existing_sessions_were_last_active_when_they_were_last_updated(call: Run, existing: Database) -> None:
    before = existing.execute("SELECT id, updated_at FROM sessions ORDER BY id")
    begin_settling(call, existing)
    assert existing.execute("SELECT count(last_activity_at) FROM sessions") == [(100,)]
    existing.execute("CALL pgvigil.backfill_last_activity(1000)")  # a run that was killed is gone on with
    ((rows, settled, as_updated),) = existing.execute(STATE)
    assert (settled, as_updated) == (rows, rows)
    assert existing.execute("SELECT id, updated_at FROM sessions ORDER BY id") == before
    assert existing.execute(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'sessions'::regclass AND attname = 'last_activity_at'"
    ) == [(True,)]


def test_settling_leaves_each_trigger_as_it_was_enabled(call: Run, existing: Database) -> None:
    begin_settling(call, existing)
    existing.execute(
        "ALTER TABLE sessions DISABLE TRIGGER update_sessions_updated_at, ENABLE ALWAYS TRIGGER guard_legal_hold, ENABLE ALWAYS TRIGGER watch_session"
    )
    before = existing.execute(TRIGGERS)
    existing.execute("CALL pgvigil.backfill_last_activity()")
    assert existing.execute(TRIGGERS) == before


def test_settling_waits_for_a_row_that_somebody_holds_and_lets_others_write(call: Run, existing: Database) -> None:
    begin_settling(call, existing)
    with existing.connect() as conn, conn.transaction():
        conn.execute("SELECT FROM sessions WHERE last_activity_at IS NULL LIMIT 1 FOR UPDATE")
        state = '{"page": 0}'
        while state != "{}":
            ((state,),) = existing.execute("SELECT pgvigil.backfill_last_activity_step(%s::jsonb)::text", (state,))
    ((rows, settled, _),) = existing.execute(STATE)
    assert settled == rows - 1
    existing.execute("CALL pgvigil.backfill_last_activity()")
    ((rows, settled, _),) = existing.execute(STATE)
    assert settled == rows


def test_a_revert_makes_last_activity_at_nullable_again_and_keeps_its_values(call: Run, migrated: Database) -> None:
    before = migrated.execute("SELECT id, last_activity_at FROM sessions ORDER BY id")
    done = call("pgvigil", "revert", "--to", "013", "--backup", "none", "--database-url", migrated.url)
    assert done.returncode == 0, done.stderr
    assert migrated.execute(
        "SELECT attnotnull FROM pg_attribute WHERE attrelid = 'sessions'::regclass AND attname = 'last_activity_at'"
    ) == [(False,)]
    assert migrated.execute("SELECT id, last_activity_at FROM sessions ORDER BY id") == before


def test_without_rollups_the_performance_view_is_percentile_cont_itself(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO performance_logs (operation, duration_ms, success)
           SELECT 'operation-' || n % 7, n * n % 99991, n % 3 > 0 FROM generate_series(1, 5000) n UNION ALL SELECT 'once', 12345, true"""
    )
    assert fresh.execute(
        """SELECT operation, total_calls, avg_duration_ms, p95_duration_ms, success_rate_percent FROM performance_monitoring_view ORDER BY 1"""
    ) == fresh.execute(
        """SELECT operation, count(*), round(avg(duration_ms), 3), round(percentile_cont(0.95) WITHIN GROUP (ORDER BY duration_ms)::numeric, 3)::float8,
                  round(count(*) FILTER (WHERE success) * 100.0 / count(*), 2) FROM performance_logs GROUP BY 1 ORDER BY 1"""
    )
