"""The counters of a session against a recount from its rows, while many write at once."""

from __future__ import annotations

import random
import threading
import uuid
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import psycopg
import pytest

from conftest import Database, Run, wait_until

pytestmark = pytest.mark.oldest_and_newest

Writer = Callable[[psycopg.Connection[Any], random.Random], None]

WRONG = """
    SELECT s.id, h, v.context_entries, c.context_count, c.total_tokens, c.total_content_bytes
    FROM sessions s JOIN session_monitoring_view v USING (id) JOIN session_content_view c ON c.session_id = s.id CROSS JOIN LATERAL (
        SELECT count(*) AS rows, coalesce(sum(tokens_used), 0) AS tokens,
               coalesce(sum(coalesce(content_size_bytes, octet_length(content))), 0) AS bytes
        FROM context_history r WHERE r.session_id = s.id) h
    WHERE (v.context_entries, c.context_count, c.total_tokens, c.total_content_bytes) IS DISTINCT FROM (rows, rows, tokens, bytes)
"""
ANY_ROW = "id = (SELECT id FROM context_history WHERE session_id = %(a)s ORDER BY random() LIMIT 1)"
OPERATIONS = (
    "INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used, content_size_bytes)"
    " VALUES (%(a)s, nextval('numbers'), 'message', repeat('x', %(n)s), %(maybe)s, %(maybe)s)",
    "INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used)"
    " SELECT s, nextval('numbers'), 'file', repeat('é', %(n)s), n FROM unnest(ARRAY[%(a)s, %(b)s]) s, generate_series(1, 5) n",
    f"UPDATE context_history SET tokens_used = %(maybe)s, content = repeat('y', %(n)s) WHERE {ANY_ROW}",
    f"UPDATE context_history SET session_id = %(b)s, sequence_number = nextval('numbers') WHERE {ANY_ROW}",
    f"UPDATE context_history SET metadata = '{{}}' WHERE {ANY_ROW}",
    f"DELETE FROM context_history WHERE {ANY_ROW}",
)


def operate(sessions: list[uuid.UUID]) -> Writer:
    """A writer whose transactions do one to four operations on sessions in any order, and are rolled back one in four."""

    def write(connection: psycopg.Connection[Any], dice: random.Random) -> None:
        with connection.transaction(force_rollback=dice.random() < 0.25):
            for _ in range(dice.randint(1, 4)):
                a, b = dice.choice(sessions), dice.choice(sessions)
                values = {"a": a, "b": b, "n": dice.randint(0, 50), "maybe": dice.choice([None, 0, 3, 700])}
                connection.execute(dice.choice(OPERATIONS), values)  # type: ignore[arg-type]

    return write


class Writers:
    """A group of eight connections that write until `enough` is set or each has written enough."""

    def __init__(self, database: Database, write: Writer, seed: int) -> None:
        self.database, self.write, self.seed = database, write, seed
        self.enough = threading.Event()
        self.pool = ThreadPoolExecutor(8)
        self.waits: list[str] = []
        self.runs = [self.pool.submit(self._run, number) for number in range(8)]

    def _run(self, number: int) -> int:
        dice = random.Random(f"{self.seed} {number}")  # noqa: S311
        done = 0
        with self.database.connect() as connection:
            connection.execute("SET deadlock_timeout = '100ms'")
            while done < 60 or not self.enough.is_set():
                try:
                    self.write(connection, dice)
                except (psycopg.errors.DeadlockDetected, psycopg.errors.LockNotAvailable) as error:
                    self.waits.append(str(error))
                done += 1
        return done

    def finish(self) -> None:
        self.enough.set()
        self.pool.shutdown()
        for run in self.runs:
            run.result()


@pytest.fixture
def few(fresh: Database) -> list[uuid.UUID]:
    """Five sessions, so that eight writers meet in them all the time."""
    fresh.execute("CREATE SEQUENCE numbers START 1000000")
    return [
        row[0]
        for row in fresh.execute(
            "INSERT INTO sessions (session_key, agent_from) SELECT n, 'x' FROM generate_series(1, 5) n RETURNING id"
        )
    ]


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_counters_equal_a_recount_after_eight_writers(fresh: Database, few: list[uuid.UUID], seed: int) -> None:
    writers = Writers(fresh, operate(few), seed)
    writers.finish()
    assert fresh.execute(WRONG) == []
    assert fresh.execute("SELECT * FROM pgvigil.recount_session_counters()") == []
    # rows of context_history that two want at once are the writers' own doing; no wait is for a counter
    assert [wait for wait in writers.waits if "session_counter" in wait] == []


def test_folding_while_eight_write_loses_nothing(fresh: Database, few: list[uuid.UUID]) -> None:
    writers = Writers(fresh, operate(few), 4)
    for _ in range(20):
        fresh.execute("SELECT pgvigil.fold_session_counters(2)")
        assert fresh.execute(WRONG) == []  # one snapshot is right at any moment
    writers.finish()
    assert fresh.execute(WRONG) == []
    fresh.execute("CALL pgvigil.run_job('counters')")
    assert fresh.execute("SELECT count(*) FROM pgvigil.session_counter_changes") == [(0,)]
    assert fresh.execute(WRONG) == []


def test_recounting_while_eight_write_changes_nothing(fresh: Database, few: list[uuid.UUID]) -> None:
    writers = Writers(fresh, operate(few), 5)
    for _ in range(20):
        assert fresh.execute("SELECT * FROM pgvigil.recount_session_counters()") == []
    writers.finish()


def test_two_recounts_at_once_put_a_difference_right_once(fresh: Database, few: list[uuid.UUID]) -> None:
    with fresh.connect() as past_the_triggers:
        past_the_triggers.execute("SET session_replication_role = replica")
        past_the_triggers.execute(OPERATIONS[1], {"a": few[0], "b": few[1], "n": 3})
    with ThreadPoolExecutor(4) as pool:
        found = list(pool.map(fresh.execute, ["SELECT session_id FROM pgvigil.recount_session_counters()"] * 4))
    assert sorted(len(rows) for rows in found) == [0, 0, 0, 2]
    assert fresh.execute(WRONG) == []


def test_a_recount_on_an_old_snapshot_is_refused(fresh: Database) -> None:
    with fresh.connect() as connection:
        connection.execute("BEGIN ISOLATION LEVEL REPEATABLE READ")
        with pytest.raises(psycopg.errors.ActiveSqlTransaction, match="READ COMMITTED"):
            connection.execute("SELECT * FROM pgvigil.recount_session_counters()")


def test_writers_of_one_session_do_not_wait_for_each_other(fresh: Database, few: list[uuid.UUID]) -> None:
    values = {"a": few[0], "b": few[1], "n": 1, "maybe": 1}
    with fresh.connect(autocommit=False) as slow, fresh.connect() as quick:
        slow.execute(OPERATIONS[0], values)
        quick.execute("SET lock_timeout = '100ms'")
        quick.execute(OPERATIONS[0], values)
        fresh.execute("CALL pgvigil.run_job('counters')")
        quick.execute(OPERATIONS[1], values)
    assert fresh.execute(WRONG) == []


@pytest.mark.parametrize("level", ["REPEATABLE READ", "SERIALIZABLE"])
def test_counting_fails_no_transaction_of_a_stricter_level(fresh: Database, few: list[uuid.UUID], level: str) -> None:
    values = {"a": few[0], "b": few[0], "n": 1, "maybe": 1}
    with fresh.connect() as one, fresh.connect() as other:
        for connection in (one, other):
            connection.execute(f"BEGIN ISOLATION LEVEL {level}")  # type: ignore[arg-type]
            connection.execute("SELECT 1 FROM sessions LIMIT 0")
        for connection in (one, other):
            connection.execute(OPERATIONS[0], values)
        one.execute("COMMIT")
        other.execute("COMMIT")
    assert fresh.execute(WRONG) == []


def test_a_deleted_session_leaves_no_counter_whoever_was_writing(fresh: Database, few: list[uuid.UUID]) -> None:
    fresh.execute(OPERATIONS[1], {"a": few[0], "b": few[1], "n": 1})
    with fresh.connect(autocommit=False) as writer, ThreadPoolExecutor(1) as pool:
        writer.execute(OPERATIONS[5], {"a": few[0]})
        deleting = pool.submit(fresh.execute, "DELETE FROM sessions WHERE id = %s", (few[0],))
        writer.commit()
        deleting.result()
    fresh.execute("CALL pgvigil.run_job('counters')")
    for table in ("session_counters", "session_counter_changes"):
        assert fresh.execute(f"SELECT count(*) FROM pgvigil.{table} WHERE session_id = %s", (few[0],)) == [(0,)]


def test_a_batch_reads_no_more_changes_than_it_folds(fresh: Database) -> None:
    """Else the first run over ten million, on a server where no job has ever run, would take days."""
    fresh.execute("INSERT INTO sessions (session_key, agent_from) SELECT 'k' || n, 'a' FROM generate_series(1, 3000) n")
    fresh.execute(
        """INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
           SELECT id, 1, 1, 1 FROM sessions, generate_series(1, 20)"""
    )
    fresh.execute("VACUUM ANALYZE pgvigil.session_counter_changes, sessions")
    with fresh.connect(autocommit=False) as folding:
        assert folding.execute("SELECT pgvigil.fold_session_counters(10)").fetchone() == (200,)
        read = folding.execute(
            "SELECT seq_tup_read + idx_tup_fetch FROM pg_stat_xact_user_tables WHERE relid = 'pgvigil.session_counter_changes'::regclass"
        ).fetchone()
    assert read is not None
    assert 200 <= read[0] < 2000


def test_what_is_folded_while_all_context_is_truncated_does_not_come_back(
    fresh: Database, few: list[uuid.UUID]
) -> None:
    fresh.execute(OPERATIONS[1], {"a": few[0], "b": few[1], "n": 1})
    with ThreadPoolExecutor(1) as pool, fresh.connect(autocommit=False) as folding:
        folding.execute("SELECT pgvigil.fold_session_counters()")
        truncating = pool.submit(fresh.execute, "TRUNCATE context_history")
        wait_until(lambda: fresh.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        folding.commit()
        truncating.result()
    assert fresh.execute(WRONG) == []


# --- an existing install ---------------------------------------------------------------------------------------------


@pytest.fixture
def unsettled(existing: Database, call: Run) -> Database:
    """A copy of `existing` between the migration that makes the counters and the one that counts the rows from before."""
    existing.execute("CREATE SEQUENCE numbers START 1000000")
    assert call("pgvigil", "migrate", "--backup", "none", "--database-url", existing.url).returncode == 0
    existing.execute("DELETE FROM pgvigil.migrations WHERE revision = '015'")
    existing.execute("TRUNCATE pgvigil.session_counters")
    return existing


SAMPLE = "SELECT array_agg(id) FROM (SELECT id FROM sessions WHERE archived_at IS NULL ORDER BY id LIMIT 8) few"


@pytest.mark.client_side
def test_before_a_session_is_counted_the_view_counts_its_rows(unsettled: Database) -> None:
    assert unsettled.execute("SELECT count(*) FROM pgvigil.session_counters") == [(0,)]
    [[sessions]] = unsettled.execute(SAMPLE)
    unsettled.execute(OPERATIONS[1], {"a": sessions[0], "b": sessions[1], "n": 3})
    assert unsettled.execute(WRONG) == []


def test_the_backfill_is_exact_while_eight_write(unsettled: Database) -> None:
    [[sessions]] = unsettled.execute(SAMPLE)
    writers = Writers(unsettled, operate(sessions), 6)
    unsettled.execute("CALL pgvigil.backfill_session_counters(500)")
    writers.finish()
    unsettled.execute(  # from now on the view believes the counters
        "INSERT INTO pgvigil.migrations (revision, name, schema_name, baselined, sha256_bytes, sha256_tokens, duration_ms, tool_version)"
        " VALUES ('015', '', '', false, '', '', 0, '')"
    )
    assert unsettled.execute(WRONG) == []
    assert unsettled.execute("SELECT * FROM pgvigil.recount_session_counters()") == []


@pytest.mark.client_side
def test_an_interrupted_backfill_goes_on_where_it_stopped(unsettled: Database) -> None:
    with unsettled.connect() as connection:
        connection.execute(
            "CREATE TABLE stop (); CREATE FUNCTION stop() RETURNS trigger LANGUAGE plpgsql AS"
            " 'BEGIN IF (SELECT count(*) FROM pgvigil.session_counters) > 1000 THEN RAISE ''enough''; END IF; RETURN NULL; END';"
            "CREATE TRIGGER stop AFTER INSERT ON pgvigil.session_counters EXECUTE FUNCTION stop()"
        )
        with pytest.raises(psycopg.errors.RaiseException, match="enough"):
            connection.execute("CALL pgvigil.backfill_session_counters(300)")
        [[counted]] = connection.execute("SELECT count(*) FROM pgvigil.session_counters").fetchall()
        assert 0 < counted <= 1000
        connection.execute("DROP TRIGGER stop ON pgvigil.session_counters")
        assert unsettled.execute(WRONG) == []
        connection.execute("CALL pgvigil.backfill_session_counters(300)")
    assert unsettled.execute(WRONG) == []


def test_the_backfill_passes_over_a_session_that_is_being_deleted(unsettled: Database) -> None:
    [[sessions]] = unsettled.execute(
        "SELECT array_agg(id) FROM (SELECT DISTINCT session_id AS id FROM context_history ORDER BY 1 LIMIT 2) few"
    )
    with unsettled.connect(autocommit=False) as deleter, ThreadPoolExecutor(1) as pool:
        deleter.execute("DELETE FROM sessions WHERE id = ANY (%s)", (sessions,))
        settling = pool.submit(unsettled.execute, "CALL pgvigil.backfill_session_counters()")
        deleter.rollback()
        settling.result(60)
    assert unsettled.execute(
        "SELECT count(*) FROM pgvigil.session_counters WHERE session_id = ANY (%s)", (sessions,)
    ) == [(2,)]
    assert unsettled.execute(WRONG) == []


@pytest.mark.client_side
def test_folding_waits_until_what_was_there_is_counted(unsettled: Database) -> None:
    [[sessions]] = unsettled.execute(SAMPLE)
    unsettled.execute(OPERATIONS[1], {"a": sessions[0], "b": sessions[1], "n": 3})
    unsettled.execute("CALL pgvigil.run_job('counters')")
    assert unsettled.execute("SELECT count(*) FROM pgvigil.session_counter_changes") == [(2,)]
    assert unsettled.execute(WRONG) == []
