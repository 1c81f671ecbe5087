"""Test COPY: the triggers of a statement see all its rows."""

from __future__ import annotations

import psycopg
import pytest

from conftest import Database


def copy_sessions(database: Database, keys: list[str]) -> None:
    statement = "COPY sessions (session_key, agent_from) FROM STDIN"
    with database.connect() as connection, connection.cursor().copy(statement) as copy:
        for key in keys:
            copy.write_row((key, "x"))


def test_copy_leaves_one_created_event_a_session(fresh: Database) -> None:
    copy_sessions(fresh, [f"copied-{n}" for n in range(500)])
    assert fresh.execute(
        "SELECT event_type, count(*), count(DISTINCT session_id) FROM session_lifecycle GROUP BY 1"
    ) == [("created", 500, 500)]


def test_a_copy_that_fails_leaves_none(fresh: Database) -> None:
    with pytest.raises(psycopg.errors.UniqueViolation):
        copy_sessions(fresh, ["one", "two", "one"])
    assert fresh.execute("SELECT count(*) FROM session_lifecycle") == [(0,)]


def test_copied_context_is_counted(fresh: Database) -> None:
    copy_sessions(fresh, ["a", "b"])
    ids = [row[0] for row in fresh.execute("SELECT id FROM sessions ORDER BY session_key")]
    statement = "COPY context_history (session_id, sequence_number, context_type, content, tokens_used) FROM STDIN"
    with fresh.connect() as connection, connection.cursor().copy(statement) as copy:
        for n in range(300):
            copy.write_row((ids[n % 3 // 2], n, "message", "words", 2))
    assert fresh.execute(
        "SELECT session_key, context_count, total_tokens, total_content_bytes FROM session_content_view v JOIN sessions s ON s.id = v.session_id ORDER BY 1"
    ) == [("a", 200, 400, 1000), ("b", 100, 200, 500)]
