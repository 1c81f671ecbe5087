"""No row comes into an archived session, by whichever statement; what an open one takes in is looked up by its key."""

from __future__ import annotations

import psycopg
import pytest
from psycopg import errors

from conftest import Database

pytestmark = pytest.mark.oldest_and_newest

SESSIONS = """
    INSERT INTO sessions (session_key, agent_from) VALUES ('open', 'x'), ('other', 'x');
    INSERT INTO sessions (session_key, agent_from, archived_at) VALUES ('shut', 'x', now())
"""
COLUMNS = "context_history (session_id, sequence_number, context_type, content)"
ADD = f"INSERT INTO {COLUMNS} SELECT id, n, 'message', 'x' FROM sessions, generate_series(1, {{0}}) n WHERE {{1}}"
STATEMENTS = {
    "a row": ADD.format(1, "session_key = 'shut'"),
    "many rows": ADD.format(50, "session_key = 'shut'"),
    "one session among many": ADD.format(50, "true"),
    "one row among many": ADD.format(50, "session_key <> 'shut' OR n = 50"),
    "a part of a statement": f"WITH added AS ({ADD.format(3, 'true')} RETURNING 1) SELECT count(*) FROM added",
    "a row or else a change": ADD.format(1, "true")
    + " ON CONFLICT (session_id, sequence_number) DO UPDATE SET content = 'y'",
    "a row beside the archiving": f"WITH gone AS (UPDATE sessions SET archived_at = now() WHERE session_key = 'open') {ADD.format(1, 'true')}",
    "a block": f"DO $$ BEGIN {ADD.format(2, 'true')}; END $$",
    "merge": """MERGE INTO context_history c USING sessions s ON c.session_id = s.id WHEN NOT MATCHED THEN
                 INSERT (session_id, sequence_number, context_type, content) VALUES (s.id, 1, 'message', 'x')""",
}
CONTENTS = "SELECT count(*), (SELECT count(*) FROM pgvigil.session_counter_changes) FROM context_history"


@pytest.fixture
def archived(fresh: Database) -> Database:
    fresh.execute(SESSIONS)
    return fresh


@pytest.mark.parametrize("way", STATEMENTS)
def test_a_statement_that_adds_to_an_archived_session_adds_nothing(archived: Database, way: str) -> None:
    with archived.connect(autocommit=True) as conn:
        if way == "merge" and conn.info.server_version < 150000:
            pytest.skip("MERGE is of PostgreSQL 15")
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="is archived and read-only") as caught:
            conn.execute(STATEMENTS[way].encode())
        assert "pgvigil.reactivate_session" in str(caught.value.diag.message_hint)
    assert archived.execute(CONTENTS) == [(0, 0)]


def test_copy_into_an_archived_session_adds_nothing(archived: Database) -> None:
    rows = archived.execute("SELECT id, 1, 'message', 'x' FROM sessions ORDER BY session_key")

    def copy(conn: psycopg.Connection) -> None:
        with conn.cursor().copy(f"COPY {COLUMNS} FROM STDIN".encode()) as into:
            for row in rows:
                into.write_row(row)

    with (
        archived.connect(autocommit=True) as conn,
        pytest.raises(errors.ObjectNotInPrerequisiteState, match="is archived and read-only"),
    ):
        copy(conn)
    assert archived.execute(CONTENTS) == [(0, 0)]


def test_open_sessions_beside_an_archived_one_take_rows_in(archived: Database) -> None:
    archived.execute(ADD.format(50, "session_key <> 'shut'"))
    assert archived.execute(CONTENTS) == [(100, 2)]


@pytest.mark.parametrize("rows", [1, 50])
def test_a_row_may_come_before_its_session_where_the_foreign_key_waits(archived: Database, rows: int) -> None:
    archived.execute(
        f"""ALTER TABLE context_history ALTER CONSTRAINT context_history_session_id_fkey DEFERRABLE INITIALLY DEFERRED;
            INSERT INTO {COLUMNS} SELECT '00000000-0000-7000-8000-000000000001', n, 'message', 'x' FROM generate_series(1, {rows}) n;
            INSERT INTO sessions (id, session_key, agent_from) VALUES ('00000000-0000-7000-8000-000000000001', 'late', 'x')"""
    )
    assert archived.execute(CONTENTS) == [(rows, 1)]


@pytest.mark.parametrize("rows", [1, 50])
def test_a_session_that_row_security_hides_is_not_taken_for_an_open_one(archived: Database, rows: int) -> None:
    archived.execute("ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY")
    with pytest.raises(errors.InsufficientPrivilege, match=r"may hide rows of public\.sessions"):
        archived.execute(ADD.format(rows, "session_key = 'open'"))
    assert archived.execute(CONTENTS) == [(0, 0)]


def test_sessions_are_looked_up_by_their_key_also_by_plans_of_a_small_table(archived: Database) -> None:
    def whole_reads(conn: psycopg.Connection) -> int:
        row = conn.execute("SELECT pg_stat_get_xact_numscans('sessions'::regclass)").fetchone()
        assert row is not None
        return int(row[0])

    archived.execute("ALTER TABLE context_history DROP CONSTRAINT context_history_session_id_fkey")  # reads it whole
    with archived.connect(autocommit=True) as conn:
        conn.execute("VACUUM ANALYZE sessions")
        key = conn.execute("SELECT id FROM sessions WHERE session_key = 'open'").fetchone()
        for rows in (50, 1):
            with conn.transaction():
                before = whole_reads(conn)
                conn.execute(
                    f"INSERT INTO {COLUMNS} SELECT %s, n + {rows}, 'message', 'x' FROM generate_series(1, {rows}) n".encode(),
                    key,
                )
                assert whole_reads(conn) == before
