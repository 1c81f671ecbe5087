"""Faults of earlier systems of this kind, by their numbers in the product's list. Tests in tests/pgtap show those that
need only SQL: 5 (020), 6 (040), 7, 8 and 9 (010), 10 (050), 11 (030). The tests here show them as an application meets
them.
"""

from __future__ import annotations

from pathlib import Path

import psycopg
import pytest

from conftest import Database, Run
from helpers.catalog import catalog

EVENTS = "SELECT event_type FROM session_lifecycle l JOIN sessions s ON s.id = l.session_id WHERE session_key = %s ORDER BY l.id"


def events(database: Database, key: str) -> list[str]:
    return [row[0] for row in database.execute(EVENTS, (key,))]


@pytest.mark.client_side
def test_1_a_dollar_quoting_slip_fails_the_run_and_changes_nothing(
    run: Run, project_copy: Path, existing: Database
) -> None:
    slipped = project_copy / "scripts/migrations/004_session_triggers.sql"
    slipped.write_text(slipped.read_text().replace("AS $$\nBEGIN", "AS $\nBEGIN", 1))
    before = catalog(existing)
    done = run(project_copy / "scripts/run-migration.sh", "--database-url", existing.url)
    assert done.returncode != 0
    assert "success" not in done.stdout + done.stderr
    assert catalog(existing) == before


def test_2_the_validator_asks_the_database_not_the_files(call: Run, migrated: Database) -> None:
    migrated.execute("DROP TRIGGER log_session_lifecycle ON sessions")
    done = call("scripts/validate-schema.py", "--database-url", migrated.url)
    assert done.returncode == 1
    assert "trigger sessions.log_session_lifecycle" in done.stdout


def test_3_a_second_run_repeats_no_marker(call: Run, migrated: Database) -> None:
    count = "SELECT count(*) FROM system_metrics"
    before = migrated.execute(count)
    assert call("scripts/run-migration.sh", "--database-url", migrated.url).returncode == 0
    assert migrated.execute(count) == before


@pytest.mark.client_side
def test_4_the_backup_is_full_and_not_in_the_working_directory(run: Run, existing: Database, tmp_path: Path) -> None:
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    assert run("scripts/run-migration.sh", "--database-url", existing.url, cwd=elsewhere).returncode == 0
    assert list(elsewhere.iterdir()) == []
    (archive,) = (tmp_path / "user home/.local/state/pgvigil/backups").glob("*.dump")
    assert archive.stat().st_size > 1_000_000


@pytest.mark.client_side
def test_4_a_database_is_not_taken_for_another_whose_name_begins_alike(run: Run, existing: Database) -> None:
    """Setting up `app` beside `app-prod` makes a new database and does not change the other one."""
    before = catalog(existing)
    shorter = existing.name[:-1]
    url = existing.url.replace(existing.name, shorter)
    try:
        done = run("scripts/setup-enhanced-db.sh", "--database-url", url)
        assert done.returncode == 0, done.stderr
        assert f'creating database "{shorter}"' in done.stderr
        assert catalog(existing) == before
    finally:
        existing.execute(f'DROP DATABASE IF EXISTS "{shorter}"')


def test_5_marking_dormant_is_not_activity(migrated: Database) -> None:
    idle = "SELECT round(hours_since_activity) FROM session_monitoring_view WHERE session_key = 'session-7'"
    before = migrated.execute(idle)
    migrated.execute("UPDATE sessions SET is_dormant = true WHERE session_key = 'session-7'")
    assert migrated.execute(idle) == before


def test_6_deleting_a_session_with_log_rows_works_and_keeps_its_trail(fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'x')")
    fresh.execute(
        "INSERT INTO performance_logs (operation, duration_ms, success, session_id) SELECT 'o', 1, true, id FROM sessions"
    )
    fresh.execute("DELETE FROM sessions")
    assert fresh.execute("SELECT session_key, jsonb_array_length(events) FROM pgvigil.deleted_sessions") == [("k", 2)]


def test_7_changes_from_and_to_null_are_seen(fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'x')")
    fresh.execute("UPDATE sessions SET expires_at = now()")
    fresh.execute("UPDATE sessions SET expires_at = NULL")
    assert events(fresh, "k") == ["created", "expiration_scheduled", "expiration_scheduled"]


def test_8_events_of_one_transaction_are_in_their_order(fresh: Database) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'x')")
        conn.execute("UPDATE sessions SET status = 'completed'")
        conn.execute("UPDATE sessions SET archived_at = now()")
    assert events(fresh, "k") == ["created", "status_changed", "archived"]
    assert fresh.execute("SELECT last_lifecycle_event FROM session_monitoring_view") == [("archived",)]


def test_9_expired_and_archived_are_written_once_each(fresh: Database) -> None:
    fresh.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('k', 'x')")
    fresh.execute("UPDATE sessions SET status = 'expired'")
    fresh.execute("UPDATE sessions SET archived_at = now()")
    assert events(fresh, "k") == ["created", "expired", "archived"]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO sessions (session_key, agent_from, status) VALUES ('k', 'x', 'nonsense')",
        "INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('m', 1, 'banana')",
        "INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('m', 'NaN', 'gauge')",
        "INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('o', -5, true)",
    ],
)
def test_10_nonsense_is_refused_on_a_migrated_install_too(migrated: Database, statement: str) -> None:
    migrated.execute("UPDATE sessions SET status = lower(replace(status, 'in-progress', 'active'))")
    migrated.execute("CALL pgvigil.validate_value_checks()")
    with pytest.raises(psycopg.errors.CheckViolation):
        migrated.execute(statement)


def test_11_an_archived_session_is_read_only(migrated: Database) -> None:
    migrated.execute("UPDATE sessions SET archived_at = now() WHERE session_key = 'session-7'")
    with pytest.raises(psycopg.errors.ObjectNotInPrerequisiteState, match="archived and read-only") as caught:
        migrated.execute("UPDATE sessions SET metadata = '{}' WHERE session_key = 'session-7'")
    assert caught.value.diag.message_hint is not None
    assert "pgvigil.reactivate_session" in caught.value.diag.message_hint


def test_copy_and_merge_leave_the_events_of_inserts_and_updates(fresh: Database) -> None:
    with fresh.connect() as conn:
        with conn.cursor().copy("COPY sessions (session_key, agent_from) FROM STDIN") as copy:
            for key in ("a", "b"):
                copy.write_row((key, "x"))
        if conn.info.server_version >= 150000:
            conn.execute(
                """MERGE INTO sessions s USING (VALUES ('b'), ('c')) v (key) ON s.session_key = v.key
                   WHEN MATCHED THEN UPDATE SET status = 'completed'
                   WHEN NOT MATCHED THEN INSERT (session_key, agent_from) VALUES (v.key, 'x')"""
            )
            assert events(fresh, "b") == ["created", "status_changed"]
            assert events(fresh, "c") == ["created"]
    assert events(fresh, "a") == ["created"]
