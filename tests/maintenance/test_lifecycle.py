"""Test the jobs: each does what is due, nothing else, once, in small transactions, and job_runs records it correctly."""

from __future__ import annotations

import itertools
import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any

import psycopg
import pytest
from psycopg import errors, sql

from conftest import PROJECT, Database, Run, wait_until

pytestmark = pytest.mark.oldest_and_newest

JOBS = [
    "partitions",
    "expiry",
    "archive",
    "dormancy",
    "counters",
    "orphans",
    "retention",
    "rollup",
    "aggregation",
    "executions",
    "reap",
    "totals",
    "anomalies",
    "health",
]
# Anomalies have a time of their own, and so are not due at once; the archive is a client's.
DUE = sorted({*JOBS, "archive_files"} - {"anomalies"})


def put_session(database: Database, key: str, idle: str = "0", **columns: Any) -> None:
    """Add a session last active `idle` ago; `since` in a value is replaced by now() - that interval."""
    values = {"session_key": key, "agent_from": "x", "expires_at": "infinity"} | columns
    names = sql.SQL(", ").join(map(sql.Identifier, values))
    places = sql.SQL(", ").join(map(sql.Placeholder, values))
    query = sql.SQL(
        "INSERT INTO sessions ({}, created_at, updated_at, last_activity_at)"
        " SELECT {}, now() - %(idle)s::interval, now() - %(idle)s::interval, now() - %(idle)s::interval"
    ).format(names, places)
    database.execute(query, values | {"idle": idle})


def ago(database: Database, interval: str) -> Any:
    return database.execute("SELECT now() - %s::interval", (interval,))[0][0]


# As pg_cron, and any other caller of run_job, may find them set for the role or the database. In this spelling of times,
# IST is read as the time of Israel.
HOSTILE = {
    "DateStyle": "SQL, DMY",
    "TimeZone": "Asia/Kolkata",
    "IntervalStyle": "sql_standard",
    "extra_float_digits": "-15",
    "bytea_output": "escape",
    "quote_all_identifiers": "on",
    "standard_conforming_strings": "off",
    "array_nulls": "off",
    "default_transaction_isolation": "serializable",
}


@contextmanager
def hostile(database: Database) -> Iterator[psycopg.Connection[Any]]:
    words = (f"-c {name}={value.replace(' ', chr(92) + ' ')}" for name, value in HOSTILE.items())
    with database.connect(options=" ".join(words)) as conn:
        yield conn


def keys(database: Database, condition: str = "true") -> str:
    return str(
        database.execute(
            f"SELECT coalesce(string_agg(session_key, ' ' ORDER BY session_key), '') FROM sessions WHERE {condition}"
        )[0][0]
    )


def events(database: Database, key: str) -> str:
    return str(
        database.execute(
            "SELECT string_agg(event_type, ' ' ORDER BY l.id) FROM session_lifecycle l JOIN sessions s ON s.id = l.session_id WHERE session_key = %s",
            (key,),
        )[0][0]
    )


def run_job(database: Database, job: str) -> int | None:
    rows = database.execute("CALL pgvigil.run_job(%s)", (job,))[0][0]
    return None if rows is None else int(rows)


def last_run(database: Database, job: str) -> tuple[Any, ...]:
    """Return rows, notes and error of the last run, and True if it finished."""
    query = "SELECT rows, notes, error, finished_at IS NOT NULL FROM pgvigil.job_runs WHERE job = %s ORDER BY id DESC LIMIT 1"
    return database.execute(query, (job,))[0]


def state(database: Database, job: str) -> str:
    return str(database.execute("SELECT state FROM pgvigil.job_status WHERE job = %s", (job,))[0][0])


def settle(database: Database) -> None:
    """Make the intervals so long that none ends, and no night comes, while a test runs."""
    database.execute("UPDATE pgvigil.jobs SET every = '28 days', since = now()")


@contextmanager
def held_up(database: Database) -> Iterator[threading.Event]:
    """Make updates and deletions of a session inside a job wait until the event is set or the block is left."""
    database.execute(
        "CREATE FUNCTION hold_up() RETURNS trigger LANGUAGE plpgsql SET lock_timeout = 0 AS"
        " 'BEGIN PERFORM pg_advisory_xact_lock_shared(42); RETURN coalesce(NEW, OLD); END';"
        "CREATE TRIGGER a_hold_up BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION hold_up()"
    )
    go = threading.Event()
    with database.connect() as gate:
        gate.execute("SELECT pg_advisory_lock(42)")
        opener = threading.Thread(target=lambda: (go.wait(60), gate.execute("SELECT pg_advisory_unlock(42)")))
        opener.start()
        try:
            yield go
        finally:
            go.set()
            opener.join()


@contextmanager
def in_background(database: Database, job: str, go: threading.Event | None = None) -> Iterator[threading.Thread]:
    def work() -> None:
        with database.connect() as conn:
            try:
                conn.execute("CALL pgvigil.run_job(%s)", (job,))
            except psycopg.OperationalError:
                assert conn.closed  # the test has ended its backend

    thread = threading.Thread(target=work)
    thread.start()
    try:
        # Its lock shows the state before its row is visible to others.
        begun = "SELECT 1 FROM pgvigil.job_runs WHERE job = %s AND finished_at IS NULL"
        wait_until(lambda: state(database, job) == "running" and database.execute(begun, (job,)))
        yield thread
    finally:
        if go is not None:
            go.set()
        thread.join(60)


# --- what each job does ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["expiry", "archive", "retention"])
def test_what_is_due_does_not_depend_on_the_settings_of_who_calls(fresh: Database, job: str) -> None:
    put_session(fresh, "soon", expires_at=ago(fresh, "-3 hours"))
    put_session(fresh, "over", expires_at=ago(fresh, "3 minutes"))
    put_session(fresh, "ended soon", idle="1 hour", status="completed")
    put_session(fresh, "ended", idle="3 hours", status="completed")
    put_session(fresh, "kept", archived_at=ago(fresh, "29 days 22 hours"))
    put_session(fresh, "gone", archived_at=ago(fresh, "30 days 2 hours"))
    with hostile(fresh) as conn:
        conn.execute(f"CALL pgvigil.run_job('{job}')")
    done = {"expiry": "status = 'expired'", "archive": "archived_at > now() - interval '1 day'", "retention": "true"}[
        job
    ]
    left = {"expiry": "over", "archive": "ended", "retention": "ended ended soon kept over soon"}[job]
    assert keys(fresh, done) == left


def test_a_job_does_not_depend_on_the_isolation_of_who_calls(fresh: Database) -> None:
    fresh.execute("INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('x', 5, true)")
    with hostile(fresh) as conn:
        for job in ("rollup", "totals", "analyze"):
            conn.execute(f"CALL pgvigil.run_job('{job}')")
    assert fresh.execute("SELECT DISTINCT error, array_to_string(objects, '') LIKE '%\"%' FROM pgvigil.job_runs") == [
        (None, False)
    ]


def test_a_deleted_session_is_kept_as_it_was_whoever_deletes_it(fresh: Database) -> None:
    fresh.execute(
        "ALTER TABLE sessions ADD weight float8 DEFAULT 0.1::float8 + 0.2::float8, ADD span interval DEFAULT '-1 day +02:03',"
        " ADD raw bytea DEFAULT '\\x005c', ADD period daterange DEFAULT '[2026-02-03,2026-04-05)'"
    )
    for key in ("plain", "hostile", "truncated"):
        put_session(fresh, key)
    fresh.execute("DELETE FROM sessions WHERE session_key = 'plain'")
    with hostile(fresh) as conn:
        conn.execute("DELETE FROM sessions WHERE session_key = 'hostile'")
        conn.execute("TRUNCATE sessions CASCADE")
    assert len(fresh.execute(
        "SELECT DISTINCT last_row -> 'weight', last_row -> 'span', last_row -> 'raw', last_row -> 'period' FROM pgvigil.deleted_sessions"
    )) == 1  # fmt: skip


def test_a_float_is_recorded_with_all_its_digits_whoever_records_it(fresh: Database) -> None:
    with hostile(fresh) as conn:
        conn.execute("SELECT pgvigil.record_metric('m', 0.1::float8 + 0.2::float8)")
    assert (
        str(fresh.execute("SELECT metric_value FROM system_metrics WHERE metric_name = 'm'")[0][0])
        == "0.30000000000000004"
    )


def test_sessions_expire_when_their_time_has_come(fresh: Database) -> None:
    past = ago(fresh, "1 minute")
    put_session(fresh, "due", expires_at=past)
    put_session(fresh, "pending", expires_at=past, status="pending")
    put_session(fresh, "later", expires_at=ago(fresh, "-1 minute"))
    put_session(fresh, "completed", expires_at=past, status="completed")
    put_session(fresh, "archived", expires_at=past, archived_at=past)
    assert run_job(fresh, "expiry") == 2
    assert keys(fresh, "status = 'expired'") == "due pending"
    assert events(fresh, "due") == "created expired"


def test_a_status_tolerated_from_before_the_watch_is_an_open_one_unless_it_spells_an_end(migrated: Database) -> None:
    tolerated = (
        "SELECT status, count(*) FROM sessions WHERE status IN ('in-progress', 'Archived') GROUP BY 1 ORDER BY 2"
    )
    assert migrated.execute(tolerated) == [("in-progress", 6), ("Archived", 12)]
    migrated.execute(
        "UPDATE sessions SET expires_at = now() - interval '1 hour' WHERE status IN ('in-progress', 'Archived')"
    )
    migrated.execute("SELECT pgvigil.accept_job('expiry')")
    run_job(migrated, "expiry")
    assert migrated.execute(tolerated) == [("Archived", 12)]


def test_idle_sessions_become_dormant_by_their_policy(fresh: Database) -> None:
    for policy in ("standard", "extended", "short", "misspelt", None):
        for hours in (0, 1, 2, 6):
            put_session(fresh, f"{policy}-{hours}", f"{hours} hours 1 minute", retention_policy=policy)
    put_session(fresh, "done", "9 hours", status="completed")
    assert run_job(fresh, "dormancy") == 10
    assert keys(fresh, "is_dormant") == (
        "None-2 None-6 extended-6 misspelt-2 misspelt-6 short-1 short-2 short-6 standard-2 standard-6"
    )


def test_becoming_dormant_leaves_idle_time_as_it_was(fresh: Database) -> None:
    """Fault 5: it went from 5 hours to 0."""
    put_session(fresh, "idle", "5 hours")
    run_job(fresh, "dormancy")
    idle = "SELECT is_dormant, round(hours_since_activity) FROM session_monitoring_view"
    assert fresh.execute(idle) == [(True, 5)]


def test_sessions_of_before_the_watch_become_dormant_by_their_last_update(migrated: Database) -> None:
    idle = """SELECT count(*) FROM sessions WHERE lower(status) NOT IN ('completed', 'cancelled', 'expired', 'archived')
              AND coalesce(updated_at, created_at) < now() - interval '2 hours'"""
    wanted = migrated.execute(idle)[0][0]
    assert wanted > 1000
    assert run_job(migrated, "dormancy") == wanted


def test_finished_sessions_are_archived_when_they_are_idle(fresh: Database) -> None:
    for status in ("active", "pending", "completed", "expired", "cancelled", "archived"):
        put_session(fresh, f"{status}-idle", "3 hours", status=status)
        put_session(fresh, f"{status}-busy", "1 hour", status=status)
    assert run_job(fresh, "archive") == 4
    assert keys(fresh, "archived_at IS NOT NULL") == "archived-idle cancelled-idle completed-idle expired-idle"


def test_a_session_s_end_is_logged_once_by_each_job(fresh: Database) -> None:
    """Fault 9: 'expired' was never written, 'archived' twice."""
    put_session(fresh, "s", "3 hours", expires_at=ago(fresh, "1 hour"))
    for _ in range(2):
        for job in ("expiry", "archive"):
            run_job(fresh, job)
    assert events(fresh, "s") == "created expired archived"


def test_orphans_are_deleted_and_nothing_that_holds_anything(fresh: Database) -> None:
    for key in ("empty", "context", "snapshot", "handoff", "held"):
        put_session(fresh, key, "8 days")
    put_session(fresh, "young", "6 days")
    put_session(fresh, "completed", "8 days", status="completed")
    put_session(fresh, "expired", "8 days", status="expired")
    put_session(fresh, "misspelt", "8 days", retention_policy="legal_holdd")
    fresh.execute(
        """INSERT INTO context_history (session_id, sequence_number, context_type, content)
               SELECT id, 1, 'message', 'x' FROM sessions WHERE session_key = 'context';
           INSERT INTO codebase_snapshots (session_id, file_path, content_hash) SELECT id, 'f', 'h' FROM sessions WHERE session_key = 'snapshot';
           INSERT INTO handoff_requests (session_id, requesting_agent) SELECT id, 'x' FROM sessions WHERE session_key = 'handoff';
           INSERT INTO pgvigil.legal_holds (session_id, reason) SELECT id, 'matter' FROM sessions WHERE session_key = 'held'"""
    )
    assert run_job(fresh, "orphans") == 2
    assert keys(fresh) == "completed context handoff held misspelt snapshot young"
    kept = "SELECT session_key, reason LIKE 'orphaned%', actor FROM pgvigil.deleted_sessions ORDER BY 1"
    assert [row[:2] for row in fresh.execute(kept)] == [("empty", True), ("expired", True)]


def test_archived_sessions_are_deleted_when_their_policy_lets_them_go(fresh: Database) -> None:
    for policy in ("standard", "extended", "short", "misspelt", None):
        for days in (8, 31, 91):
            put_session(fresh, f"{policy}-{days}", retention_policy=policy, archived_at=ago(fresh, f"{days} days"))
    put_session(fresh, "held", archived_at=ago(fresh, "99 days"))
    fresh.execute(
        "INSERT INTO pgvigil.legal_holds (session_id, reason) SELECT id, 'matter' FROM sessions WHERE session_key = 'held'"
    )
    assert run_job(fresh, "retention") == 8
    assert keys(fresh) == "None-8 extended-31 extended-8 held misspelt-31 misspelt-8 misspelt-91 standard-8"


KEEPERS = {
    "another table": "CREATE TABLE notes (session uuid REFERENCES sessions ON DELETE RESTRICT);"
    " INSERT INTO notes SELECT id FROM sessions WHERE session_key = '7'",
    "a trigger that raises": "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'kept'; END$$;"
    " CREATE TRIGGER keep BEFORE DELETE ON sessions FOR EACH ROW WHEN (OLD.session_key = '7') EXECUTE FUNCTION keep()",
    "a trigger that returns null": "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"
    " CREATE TRIGGER keep BEFORE DELETE ON sessions FOR EACH ROW WHEN (OLD.session_key = '7') EXECUTE FUNCTION keep()",
}


@pytest.mark.parametrize("keeper", KEEPERS)
def test_a_session_that_the_application_keeps_from_deletion_stops_no_other(fresh: Database, keeper: str) -> None:
    for number in range(9):
        put_session(fresh, str(number), retention_policy="short", archived_at=ago(fresh, "99 days"))
    fresh.execute(KEEPERS[keeper])
    with (
        fresh.connect(options="-c statement_timeout=30s") as conn,  # the job went on for ever
        pytest.raises(psycopg.Error, match="sessions past their time could not be deleted"),
    ):
        conn.execute("CALL pgvigil.run_job('retention')")
    assert keys(fresh) == "7"
    assert last_run(fresh, "retention")[0] == 8


# What makes a session due to a job; and what the application may have against it.
DUE_TO = {
    "expiry": {"expires_at": "2 hours"},
    "dormancy": {"last_activity_at": "3 hours"},
    "archive": {"last_activity_at": "3 hours", "status": "completed"},
    "orphans": {"last_activity_at": "8 days"},
    "retention": {"archived_at": "99 days", "retention_policy": "short"},
}
AGAINST = {
    "a trigger that raises": "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'kept'; END$$;"
    " CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW WHEN (OLD.agent_to = 'kept') EXECUTE FUNCTION keep()",
    "a trigger that asserts": "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN ASSERT false, 'kept'; END$$;"
    " CREATE TRIGGER keep BEFORE UPDATE OR DELETE ON sessions FOR EACH ROW WHEN (OLD.agent_to = 'kept') EXECUTE FUNCTION keep()",
    "a deferred trigger": "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RAISE 'kept'; END$$;"
    " CREATE CONSTRAINT TRIGGER keep AFTER UPDATE OR DELETE ON sessions DEFERRABLE INITIALLY DEFERRED"
    " FOR EACH ROW WHEN (OLD.agent_to = 'kept') EXECUTE FUNCTION keep()",
}


def put_due(database: Database, job: str, kept: int, free: int) -> None:
    """Add sessions that are due to a job: first those that the application keeps, then others."""
    given = {
        name: f"now() - interval '{value}'" if name.endswith("_at") else f"'{value}'"
        for name, value in DUE_TO[job].items()
    }
    values = {"expires_at": "'infinity'", "last_activity_at": "now()"} | given
    idle = values["last_activity_at"]
    database.execute(
        f"""INSERT INTO sessions (session_key, agent_from, agent_to, created_at, updated_at, {", ".join(values)})
            SELECT n::text, 'a', CASE WHEN n <= {kept} THEN 'kept' END, {idle}, {idle}, {", ".join(values.values())}
            FROM generate_series(1, {kept + free}) n"""
    )


@pytest.mark.parametrize("against", AGAINST)
@pytest.mark.parametrize("job", DUE_TO)
def test_a_session_that_the_application_keeps_as_it_is_stops_no_other(fresh: Database, job: str, against: str) -> None:
    put_due(fresh, job, kept=1, free=8)
    fresh.execute(AGAINST[against])
    with pytest.raises(
        errors.RaiseException, match=r"sessions .* could not be .*: kept \(1 in all, the first is session "
    ):
        run_job(fresh, job)
    assert last_run(fresh, job)[0] == 8


@pytest.mark.parametrize("job", ["orphans", "retention"])
def test_a_row_that_refers_to_a_session_until_the_commit_keeps_that_session_only(fresh: Database, job: str) -> None:
    put_due(fresh, job, kept=1, free=8)
    fresh.execute(
        "CREATE TABLE notes (session uuid REFERENCES sessions DEFERRABLE INITIALLY DEFERRED);"
        " INSERT INTO notes SELECT id FROM sessions WHERE agent_to = 'kept'"
    )
    with pytest.raises(
        errors.RaiseException, match='violates foreign key constraint "notes_session_fkey" on table "notes"'
    ):
        run_job(fresh, job)
    assert (keys(fresh), last_run(fresh, job)[0]) == ("1", 8)


@pytest.mark.client_side
@pytest.mark.parametrize("job", DUE_TO)
def test_sessions_that_are_kept_in_front_of_the_others_hold_none_of_them_up(fresh: Database, job: str) -> None:
    put_due(fresh, job, kept=1100, free=8)
    fresh.execute(AGAINST["a trigger that raises"])
    with pytest.raises(errors.RaiseException, match=r"kept \(1100 in all"):
        run_job(fresh, job)
    assert last_run(fresh, job)[0] == 8


@pytest.mark.client_side
def test_a_session_that_was_kept_is_tried_again_by_the_next_run_of_the_same_connection(fresh: Database) -> None:
    put_due(fresh, "expiry", kept=1, free=1)
    fresh.execute(AGAINST["a trigger that raises"])
    with fresh.connect() as conn:
        with pytest.raises(errors.RaiseException):
            conn.execute("CALL pgvigil.run_job('expiry')")
        conn.execute("DROP TRIGGER keep ON sessions")
        assert conn.execute("CALL pgvigil.run_job('expiry')").fetchall() == [(1,)]


@pytest.mark.client_side
def test_rows_that_a_trigger_of_the_application_keeps_are_not_counted_as_done(fresh: Database) -> None:
    put_session(fresh, "kept", idle="3 hours")
    fresh.execute(
        "CREATE FUNCTION keep() RETURNS trigger LANGUAGE plpgsql AS $$BEGIN RETURN NULL; END$$;"
        " CREATE TRIGGER keep BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION keep()"
    )
    assert run_job(fresh, "dormancy") == 0
    [note] = last_run(fresh, "dormancy")[1]
    assert note.startswith("a trigger of the application keeps sessions as they are (1, the first is session ")


def test_a_deleted_session_takes_no_log_with_it_and_leaves_its_trail(fresh: Database) -> None:
    """Fault 6: either the log's foreign key made retention fail, or its cascade erased the audit trail."""
    put_session(fresh, "s", archived_at=ago(fresh, "40 days"))
    fresh.execute(
        "INSERT INTO performance_logs (operation, duration_ms, success, session_id) SELECT 'o', 1, true, id FROM sessions"
    )
    assert run_job(fresh, "retention") == 1
    assert fresh.execute("SELECT count(session_id) FROM performance_logs") == [(1,)]
    trail = fresh.execute(
        "SELECT reason, jsonb_path_query_array(events, '$[*].event_type') FROM pgvigil.deleted_sessions"
    )
    assert trail == [("retention: archived for longer than its policy keeps it", ["created", "deleted"])]


def test_a_policy_under_legal_hold_lets_nothing_go(fresh: Database) -> None:
    make_old_partitions(fresh, 9, 70)
    put_session(fresh, "s", retention_policy="extended", archived_at=ago(fresh, "200 days"))
    fresh.execute("UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'extended'")
    assert run_job(fresh, "retention") == 0
    assert keys(fresh) == "s"


def hours(database: Database, key: str) -> int:
    query = "SELECT extract(epoch FROM expires_at - created_at) / 3600 FROM sessions WHERE session_key = %s"
    return int(database.execute(query, (key,))[0][0])


@pytest.fixture
def held(fresh: Database) -> Database:
    """A database with two policies under legal hold, a session of each, and a session of an unknown policy, which
    follows standard.
    """
    fresh.execute(
        """INSERT INTO pgvigil.retention_policies VALUES ('own', 1, 1, 1, 1, 1);
           INSERT INTO sessions (session_key, agent_from, retention_policy) VALUES ('own', 'a', 'own'), ('none', 'a', NULL), ('unknown', 'a', 'misspelt');
           UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy IN ('standard', 'own')"""
    )
    return fresh


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM sessions WHERE session_key = 'unknown'",
        "UPDATE sessions SET retention_policy = 'short' WHERE session_key = 'unknown'",
        "TRUNCATE sessions CASCADE",
    ],
)
def test_a_hold_on_standard_holds_sessions_whose_policy_is_unknown(held: Database, statement: str) -> None:
    held.execute("UPDATE pgvigil.retention_policies SET legal_hold = false")
    held.execute("DELETE FROM sessions WHERE session_key <> 'unknown'")
    held.execute("UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'standard'")
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="under legal hold"):
        held.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM pgvigil.retention_policies WHERE policy = 'own'",
        "UPDATE pgvigil.retention_policies SET policy = 'other' WHERE policy = 'own'",
        "INSERT INTO pgvigil.retention_policies VALUES ('misspelt', 1, 1, 1, 1, 1)",
        "UPDATE pgvigil.retention_policies SET policy = 'misspelt' WHERE policy = 'short'",
    ],
)
def test_a_hold_on_a_policy_is_not_lifted_by_giving_its_sessions_another(held: Database, statement: str) -> None:
    with pytest.raises(errors.ObjectNotInPrerequisiteState, match="under legal hold, and this would lift it"):
        held.execute(statement)


@pytest.mark.parametrize(
    "statement",
    [
        "DELETE FROM pgvigil.retention_policies WHERE policy = 'short'",
        "UPDATE pgvigil.retention_policies SET policy = 'brief' WHERE policy = 'short'",
        "INSERT INTO pgvigil.retention_policies VALUES ('misspelt', 1, 1, 1, 1, 1, true)",
        "INSERT INTO pgvigil.retention_policies VALUES ('own', 2, 1, 1, 1, 1) ON CONFLICT (policy) DO UPDATE SET active_hours = 2",
        "UPDATE pgvigil.retention_policies SET legal_hold = false; DELETE FROM pgvigil.retention_policies WHERE policy = 'own'",
    ],
)
def test_what_lifts_no_hold_or_says_so_is_allowed(held: Database, statement: str) -> None:
    held.execute(statement)


def test_a_policy_edited_elsewhere_holds_in_sessions_that_have_used_it_before(fresh: Database) -> None:
    insert = "INSERT INTO sessions (session_key, agent_from) VALUES (%s, 'x')"
    with fresh.connect() as application:
        application.execute(insert, ("before",))
        fresh.execute("UPDATE pgvigil.retention_policies SET active_hours = 30 WHERE policy = 'standard'")
        application.execute(insert, ("after",))
    assert (hours(fresh, "before"), hours(fresh, "after")) == (24, 30)


def test_policies_edited_at_the_same_time_all_hold(fresh: Database) -> None:
    edit = "UPDATE pgvigil.retention_policies SET active_hours = 30 WHERE policy = %s"
    with ThreadPoolExecutor(1) as pool, fresh.connect(autocommit=False) as one:
        one.execute(edit, ("short",))
        other = pool.submit(fresh.execute, edit, ("extended",))
        wait_until(lambda: fresh.execute("SELECT pid FROM pg_locks WHERE NOT granted"))
        one.commit()
        other.result(60)
    for policy in ("short", "extended"):
        put_session(fresh, policy, retention_policy=policy, expires_at=None)
    assert (hours(fresh, "short"), hours(fresh, "extended")) == (30, 30)


def test_a_transaction_that_may_not_see_another_edit_cannot_make_one(fresh: Database) -> None:
    with fresh.connect(autocommit=False) as one:
        one.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ")
        one.execute("SELECT")
        fresh.execute("UPDATE pgvigil.retention_policies SET active_hours = 30 WHERE policy = 'standard'")
        with pytest.raises(errors.ObjectNotInPrerequisiteState, match="in a transaction that is REPEATABLE READ"):
            one.execute("UPDATE pgvigil.retention_policies SET active_hours = 5 WHERE policy = 'short'")
    put_session(fresh, "s", expires_at=None)
    assert hours(fresh, "s") == 30


def test_an_edit_that_came_by_replication_holds(fresh: Database) -> None:
    with fresh.connect() as applier:
        applier.execute("SET session_replication_role = replica")
        applier.execute("UPDATE pgvigil.retention_policies SET active_hours = 30 WHERE policy = 'standard'")
    put_session(fresh, "s", expires_at=None)
    assert hours(fresh, "s") == 30


# --- partitions ------------------------------------------------------------------------------------------------------


def make_old_partitions(database: Database, log_days: int, metric_days: int) -> None:
    """Add one row of that many days ago to each table, in a partition of that time."""
    database.execute(
        f"""SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '{log_days} days', now());
            SELECT pgvigil.ensure_partitions('system_metrics', now() - interval '{metric_days} days', now());
            INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
            SELECT pgvigil.uuid_v7_floor(t), 'old', 1, true, t FROM (SELECT now() - interval '{log_days} days' AS t) at;
            INSERT INTO system_metrics (id, metric_name, metric_value, metric_type, recorded_at)
            SELECT pgvigil.uuid_v7_floor(t), 'old', 1, 'gauge', t FROM (SELECT now() - interval '{metric_days} days' AS t) at"""
    )


def rows_left(database: Database) -> tuple[int, int]:
    query = """SELECT (SELECT count(*) FROM performance_logs WHERE operation = 'old'),
                      (SELECT count(*) FROM system_metrics WHERE metric_name = 'old')"""
    return database.execute(query)[0]


@pytest.mark.parametrize(
    ("log_days", "metric_days", "left"),
    [(6, 29, (1, 1)), (9, 29, (0, 1)), (6, 62, (1, 0))],
    ids=["young", "logs", "metrics"],
)
def test_logs_and_metrics_go_when_the_policy_says(
    fresh: Database, log_days: int, metric_days: int, left: tuple[int, int]
) -> None:
    """Fault 12: their retention was configured and never applied."""
    make_old_partitions(fresh, log_days, metric_days)
    run_job(fresh, "retention")
    assert rows_left(fresh) == left


def test_logs_stay_while_a_session_has_a_longer_policy(fresh: Database) -> None:
    make_old_partitions(fresh, 9, 62)
    put_session(fresh, "s", retention_policy="extended")
    run_job(fresh, "retention")
    assert rows_left(fresh) == (1, 1)


def test_logs_of_a_session_under_hold_stay_with_their_partition(fresh: Database) -> None:
    make_old_partitions(fresh, 12, 1)
    put_session(fresh, "s")
    fresh.execute(
        """INSERT INTO pgvigil.legal_holds (session_id, reason) SELECT id, 'matter' FROM sessions;
           INSERT INTO performance_logs (id, operation, duration_ms, success, session_id)
           SELECT pgvigil.uuid_v7_floor(now() - interval '10 days'), 'held', 1, true, id FROM sessions"""
    )
    run_job(fresh, "retention")
    assert fresh.execute("SELECT operation FROM performance_logs") == [("held",)]
    assert "kept, for rows of sessions under legal hold: performance_logs_p" in last_run(fresh, "retention")[1][-1]


def test_the_partition_of_the_present_never_goes(fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.retention_policies SET logs_days = 1, metrics_days = 1")
    fresh.execute("INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('o', 1, true)")
    run_job(fresh, "retention")
    assert fresh.execute("SELECT count(*) FROM performance_logs") == [(1,)]


def test_markers_outlive_the_partition_they_were_written_in(fresh: Database) -> None:
    markers = """SELECT metric_name, labels, recorded_at FROM system_metrics
                 WHERE metric_name IN ('schema_initialized', 'migration_completed') ORDER BY id"""
    fresh.execute(
        """SELECT pgvigil.ensure_partitions('system_metrics', now() - interval '70 days', now());
           UPDATE system_metrics SET id = overlay(pgvigil.uuid_v7_floor(now() - interval '70 days')::text PLACING right(id::text, 23) FROM 14)::uuid"""
    )
    before = fresh.execute(markers)
    assert len(before) > 5
    run_job(fresh, "retention")
    assert fresh.execute(markers) == before
    old = "SELECT count(*) FROM system_metrics WHERE id < pgvigil.uuid_v7_floor(now() - interval '1 hour')"
    assert fresh.execute(old) == [(0,)]


def test_a_trail_goes_with_its_last_session_and_not_before(fresh: Database) -> None:
    put_session(fresh, "s")
    fresh.execute(
        """SELECT pgvigil.ensure_partitions('session_lifecycle', now() - interval '100 days', now());
           INSERT INTO session_lifecycle (id, session_id, event_type) SELECT pgvigil.uuid_v7_floor(now() - interval '65 days'), id, 'dormant' FROM sessions"""
    )
    # Not `to_time < now()`: on the first day of a month that is also last month's, which retention spares for a day.
    old = "SELECT count(*) FROM pgvigil.partitions WHERE parent_table = 'session_lifecycle' AND from_time <= now() - interval '65 days'"
    run_job(fresh, "retention")
    assert fresh.execute(old) == [(1,)]
    fresh.execute("DELETE FROM sessions")
    run_job(fresh, "retention")
    assert fresh.execute(old) == [(0,)]


def test_partitions_are_made_ahead(fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.partition_policies SET make_ahead = make_ahead + 2")
    assert run_job(fresh, "partitions") == 8


BOUNDS = """SELECT partition, to_time - from_time, from_time FROM pgvigil.partitions
            WHERE parent_table = 'performance_logs' AND from_time IS NOT NULL ORDER BY from_time"""


def cut(database: Database, step: str, ahead: int) -> None:
    database.execute(
        "UPDATE pgvigil.partition_policies SET step = %s, make_ahead = %s WHERE parent_table = 'performance_logs'",
        (step, ahead),
    )
    run_job(database, "partitions")


def test_partitions_of_an_hour_follow_those_of_a_day_and_days_follow_them(run: Run, fresh: Database) -> None:
    for name, _, _ in fresh.execute(BOUNDS)[2:]:
        fresh.execute(f"DROP TABLE {name}")
    before = fresh.execute(BOUNDS)
    cut(fresh, "hour", 51)  # at least three of them begin the day after tomorrow, at any time of the day
    made = fresh.execute(BOUNDS)[2:]
    assert len(made) >= 3
    assert {str(width) for _, width, _ in made} == {"1:00:00"}
    assert all(name == f"performance_logs_p{start:%Y%m%d%H}" for name, _, start in made)
    assert made[0][2] == before[-1][2] + before[-1][1], "no gap"
    for name, _, _ in made[2:]:
        fresh.execute(f"DROP TABLE {name}")
    cut(fresh, "day", 3)
    # The day that has some of its hours gets the others, and does not become a partition of its own.
    bounds = fresh.execute(BOUNDS)
    assert [str(width) for _, width, _ in bounds] == ["1 day, 0:00:00"] * 2 + ["1:00:00"] * 24 + ["1 day, 0:00:00"]
    assert all(start + width == following for (_, width, start), (_, _, following) in itertools.pairwise(bounds))
    assert run("pgvigil", "validate", "--database-url", fresh.url).returncode == 0, "the validator knows all of them"


def test_a_partition_nobody_made_is_made_and_takes_its_rows_out_of_the_default_one(fresh: Database) -> None:
    fresh.execute(
        "DO $$ BEGIN EXECUTE 'DROP TABLE performance_logs_p' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'); END $$"
    )
    fresh.execute("INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('o', 1, true)")
    before = fresh.execute("SELECT * FROM performance_logs_default")
    assert len(before) == 1
    run_job(fresh, "partitions")
    assert fresh.execute("SELECT count(*) FROM performance_logs_default") == [(0,)]
    assert fresh.execute("SELECT * FROM performance_logs") == before


def test_a_past_partition_is_made_for_rows_that_came_late(fresh: Database) -> None:
    make_old_partitions(fresh, 3, 3)
    fresh.execute(
        "INSERT INTO performance_logs (id, operation, duration_ms, success) VALUES (pgvigil.uuid_v7_floor(now() - interval '5 days'), 'late', 1, true)"
    )
    run_job(fresh, "partitions")
    assert fresh.execute("SELECT count(*) FROM performance_logs_default") == [(0,)]
    assert fresh.execute(
        "SELECT tableoid::regclass = ('performance_logs_p' || to_char((now() - interval '5 days') AT TIME ZONE 'UTC', 'YYYYMMDD'))::regclass"
        " FROM performance_logs WHERE operation = 'late'"
    ) == [(True,)]


def test_rows_whose_ids_tell_no_time_are_taken_out_of_the_default_partition(fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
           SELECT gen_random_uuid(), 'o' || n, n, true, now() - n * interval '1 hour' FROM generate_series(1, 2500) n;
           INSERT INTO performance_logs (id, operation, duration_ms, success) VALUES (pgvigil.uuid_v7_floor('2099-01-01'), 'ahead', 1, true)"""
    )
    content = "SELECT operation, duration_ms, created_at FROM performance_logs ORDER BY duration_ms, operation"
    before = fresh.execute(content)
    # One random id in 200,000 encodes a time that has a partition.
    [(misplaced,)] = fresh.execute("SELECT count(*) FROM performance_logs_default")
    assert misplaced > 2400
    assert run_job(fresh, "partitions") == misplaced
    assert fresh.execute("SELECT count(*) FROM performance_logs_default") == [(0,)]
    assert fresh.execute(content) == before


# --- beside the application ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("job", ["expiry", "dormancy", "archive", "orphans", "retention"])
def test_a_job_passes_over_rows_that_a_writer_holds(fresh: Database, job: str) -> None:
    past = ago(fresh, "300 days")
    columns: dict[str, dict[str, Any]] = {
        "expiry": {"expires_at": past},
        "archive": {"status": "completed"},
        "retention": {"archived_at": past},
    }
    for key in ("held", "free"):
        put_session(fresh, key, "300 days", **columns.get(job, {}))
    with fresh.connect(autocommit=False) as writer:
        writer.execute("SELECT FROM sessions WHERE session_key = 'held' FOR UPDATE")
        assert run_job(fresh, job) == 1
    assert run_job(fresh, job) == 1
    assert run_job(fresh, job) == 0


def test_a_job_s_batches_are_transactions_of_their_own(fresh: Database) -> None:
    fresh.execute(
        "INSERT INTO sessions (session_key, agent_from, expires_at) SELECT n::text, 'x', now() FROM generate_series(1, 2100) n"
    )
    assert run_job(fresh, "expiry") == 2100
    assert fresh.execute("SELECT count(DISTINCT xmin::text) FROM sessions") == [(3,)]


def test_retention_gives_up_its_place_in_the_queue_and_tries_again(fresh: Database) -> None:
    make_old_partitions(fresh, 9, 1)
    with fresh.connect(autocommit=False) as reader:
        reader.execute("SELECT FROM performance_logs")
        with in_background(fresh, "retention"):
            fresh.execute(
                "SET lock_timeout = '5s'; INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('o', 1, true)"
            )
            assert rows_left(fresh) == (1, 1)
            reader.rollback()
    assert rows_left(fresh) == (0, 1)
    assert last_run(fresh, "retention")[2:] == (None, True)


def test_a_view_of_one_partition_keeps_no_other_from_going_and_is_told(fresh: Database) -> None:
    make_old_partitions(fresh, 9, 1)
    fresh.execute(
        "SELECT pgvigil.ensure_partitions('performance_logs', now() - interval '12 days', now() - interval '12 days')"
    )
    oldest = fresh.execute(
        "SELECT partition FROM pgvigil.partitions WHERE parent_table = 'performance_logs' ORDER BY from_time LIMIT 1"
    )[0][0]
    fresh.execute(f"CREATE VIEW of_one_day AS SELECT * FROM {oldest}")
    with pytest.raises(
        errors.RaiseException, match=f"could not be dropped: {oldest} .view public.of_one_day depends on"
    ):
        run_job(fresh, "retention")
    assert rows_left(fresh) == (0, 1)
    fresh.execute("DROP VIEW of_one_day")
    assert run_job(fresh, "retention") == 1


def test_two_who_make_the_same_partition_at_once_make_one(fresh: Database) -> None:
    make = "SELECT pgvigil.ensure_partitions('performance_logs', '2031-01-01+00', '2031-01-01+00')"
    with ThreadPoolExecutor(1) as pool, fresh.connect(autocommit=False) as one:
        assert one.execute(make).fetchall() == [(1,)]
        other = pool.submit(fresh.execute, make)
        wait_until(lambda: fresh.execute("SELECT 1 FROM pg_locks WHERE NOT granted"))
        one.commit()
        assert other.result() == [(0,)]


def test_a_hold_that_is_being_placed_stops_a_deletion(fresh: Database) -> None:
    put_session(fresh, "s", archived_at=ago(fresh, "40 days"))
    with fresh.connect(autocommit=False) as lawyer:
        lawyer.execute("INSERT INTO pgvigil.legal_holds (session_id, reason) SELECT id, 'matter' FROM sessions")
        assert run_job(fresh, "retention") == 0
        lawyer.commit()
    assert run_job(fresh, "retention") == 0
    assert keys(fresh) == "s"


def test_a_hostile_search_path_bends_no_job(fresh: Database) -> None:
    for key in ("a", "b"):
        put_session(fresh, key, "300 days", expires_at=ago(fresh, "1 day"))
    with fresh.connect() as conn:
        conn.execute(
            """CREATE SCHEMA evil;
               CREATE FUNCTION evil.lie(bigint, integer) RETURNS boolean LANGUAGE sql AS 'SELECT true';
               CREATE OPERATOR evil.= (FUNCTION = evil.lie, LEFTARG = bigint, RIGHTARG = integer);
               CREATE FUNCTION evil.lie(integer, integer) RETURNS boolean LANGUAGE sql AS 'SELECT true';
               CREATE OPERATOR evil.= (FUNCTION = evil.lie, LEFTARG = integer, RIGHTARG = integer);
               CREATE FUNCTION evil.format(text, text) RETURNS text LANGUAGE sql AS $$SELECT 'SELECT 0, NULL'$$;
               CREATE TABLE evil.sessions ();
               SET search_path = evil, pg_catalog, public"""
        )
        for job in JOBS:
            conn.execute("CALL pgvigil.run_job(%s)", (job,))
    assert fresh.execute(
        "SELECT job FROM pgvigil.job_runs WHERE error IS NULL AND finished_at IS NOT NULL ORDER BY id"
    ) == [(job,) for job in JOBS]
    assert events(fresh, "a") == "created expired archived"


def test_jobs_work_in_any_schema(call: Run, database: Database) -> None:
    database.execute('CREATE SCHEMA "My app"')
    assert call("pgvigil", "setup", "--schema", "My app", "--database-url", database.url).returncode == 0
    database.execute("""INSERT INTO "My app".sessions (session_key, agent_from, expires_at) VALUES ('s', 'x', now())""")
    done = call("pgvigil", "maintain", "run-due", "--database-url", database.url)
    assert done.returncode == 0, done.stderr
    assert database.execute('SELECT status FROM "My app".sessions') == [("expired",)]


# --- runs ------------------------------------------------------------------------------------------------------------


def test_a_job_has_the_name_people_look_for(fresh: Database) -> None:
    for procedure in (
        "expire_due_sessions",
        "detect_dormant_sessions",
        "archive_due_sessions",
        "cleanup_orphaned_sessions",
        "enforce_retention",
    ):
        assert fresh.execute(f"CALL pgvigil.{procedure}()") == [(0,)]
    assert fresh.execute("SELECT array_agg(job ORDER BY id) FROM pgvigil.job_runs") == [
        (["expiry", "dormancy", "archive", "orphans", "retention", "executions"],)
    ]


def test_only_one_runs_a_job_at_a_time(fresh: Database) -> None:
    put_session(fresh, "s", expires_at=ago(fresh, "1 hour"))
    with held_up(fresh) as go, in_background(fresh, "expiry", go):
        assert run_job(fresh, "expiry") is None
    assert fresh.execute("SELECT rows FROM pgvigil.job_runs") == [(1,)]


def test_other_jobs_run_meanwhile(fresh: Database) -> None:
    put_session(fresh, "s", expires_at=ago(fresh, "1 hour"))
    with held_up(fresh) as go, in_background(fresh, "expiry", go):
        assert run_job(fresh, "partitions") == 0


def test_a_job_that_fails_keeps_what_it_had_done_and_says_why(fresh: Database) -> None:
    fresh.execute(
        "INSERT INTO sessions (session_key, agent_from, expires_at) SELECT n::text, 'x', now() FROM generate_series(1, 1500) n"
    )
    fresh.execute(
        """CREATE FUNCTION fail() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN IF (SELECT count(*) FROM public.sessions WHERE status = 'expired') >= 1000 THEN RAISE 'disk on fire'; END IF; RETURN NEW; END$$;
           CREATE TRIGGER fail BEFORE UPDATE ON sessions FOR EACH STATEMENT EXECUTE FUNCTION fail()"""
    )
    with pytest.raises(errors.RaiseException, match=r"job expiry failed: .*: disk on fire"):
        run_job(fresh, "expiry")
    rows, _, error, finished = last_run(fresh, "expiry")
    assert (rows, "disk on fire (500 in all" in error, finished) == (1000, True, True)
    assert state(fresh, "expiry") == "failed"
    fresh.execute("DROP TRIGGER fail ON sessions")
    assert run_job(fresh, "expiry") == 500


def test_a_run_whose_server_process_died_is_told_by_the_next_one(fresh: Database) -> None:
    put_session(fresh, "s", expires_at=ago(fresh, "1 hour"))
    with held_up(fresh) as go, in_background(fresh, "expiry", go) as run:
        fresh.execute("SELECT pg_terminate_backend(pid) FROM pgvigil.job_runs")
        run.join(60)
        assert state(fresh, "expiry") == "died"
        assert fresh.execute("SELECT due FROM pgvigil.job_status WHERE job = 'expiry'") == [(True,)]
    assert run_job(fresh, "expiry") == 1
    told = "SELECT error LIKE 'died: its server process % is gone', rows FROM pgvigil.job_runs ORDER BY id"
    assert fresh.execute(told) == [(True, 0), (None, 1)]


def test_a_statement_timeout_is_a_failure_like_any_other(fresh: Database) -> None:
    put_session(fresh, "s", expires_at=ago(fresh, "1 hour"))
    with held_up(fresh), fresh.connect() as conn:
        conn.execute("SET statement_timeout = '200ms'")
        with pytest.raises(errors.RaiseException, match="statement timeout"):
            conn.execute("CALL pgvigil.run_job('expiry')")
        assert state(fresh, "expiry") == "failed"


@pytest.mark.parametrize(
    ("setting", "refusal"),
    [
        ("SET ROLE pgvigil_reader", errors.InsufficientPrivilege),
        ("SET default_transaction_read_only = on", errors.ReadOnlySqlTransaction),
    ],
)
def test_a_job_that_may_not_begin_is_kept_from_nobody(fresh: Database, setting: str, refusal: type[Exception]) -> None:
    with fresh.connect() as conn:
        conn.execute(setting.encode())
        with pytest.raises(refusal):
            conn.execute("CALL pgvigil.run_job('expiry')")
        assert run_job(fresh, "expiry") == 0


def test_an_unknown_job_is_an_error(fresh: Database) -> None:
    with pytest.raises(errors.NoDataFound, match="there is no job tea"):
        run_job(fresh, "tea")


def test_a_job_is_due_once_in_each_of_its_stretches_of_time(fresh: Database) -> None:
    run_job(fresh, "dormancy")
    due = "SELECT due FROM pgvigil.job_status WHERE job = 'dormancy'"
    fresh.execute("UPDATE pgvigil.job_runs SET started_at = date_bin('30 minutes', now(), '2001-01-01+00')")
    assert fresh.execute(due) == [(False,)]
    fresh.execute("UPDATE pgvigil.job_runs SET started_at = started_at - interval '1 millisecond'")
    assert fresh.execute(due) == [(True,)]


def test_a_job_without_success_for_two_of_its_times_is_overdue(call: Run, fresh: Database) -> None:
    for job in JOBS:
        run_job(fresh, job)
    assert call("pgvigil", "maintain", "status", "--database-url", fresh.url).returncode == 0
    fresh.execute("UPDATE pgvigil.job_runs SET started_at = started_at - interval '61 minutes' WHERE job = 'dormancy'")
    fresh.execute("INSERT INTO pgvigil.job_runs (job, finished_at, error) VALUES ('dormancy', now(), 'failed again')")
    told = call("pgvigil", "maintain", "status", "--json", "--database-url", fresh.url)
    assert told.returncode == 1
    assert [job["job"] for job in json.loads(told.stdout) if job["overdue"]] == ["dormancy"]


def test_an_install_of_a_clock_that_was_ahead_lets_no_job_sleep(fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.jobs SET since = now() + interval '1 year', accepted_at = now() + interval '1 year'")
    asleep = "SELECT job FROM pgvigil.job_status WHERE enabled AND NOT (due AND overdue)"
    assert fresh.execute(asleep) == []
    run_job(fresh, "analyze")
    assert fresh.execute("SELECT due, overdue FROM pgvigil.job_status WHERE job = 'analyze'") == [(False, False)]


def test_a_job_switched_off_is_neither_due_nor_overdue(fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.jobs SET enabled = false, since = now() - interval '9 days' WHERE job = 'expiry'")
    assert fresh.execute("SELECT due, overdue FROM pgvigil.job_status WHERE job = 'expiry'") == [(False, False)]


# --- pgvigil maintain ------------------------------------------------------------------------------------------------


def test_run_due_runs_what_is_due_and_then_nothing(call: Run, fresh: Database) -> None:
    settle(fresh)
    first = call("pgvigil", "maintain", "run-due", "--database-url", fresh.url)
    assert (first.returncode, first.stdout) == (0, f"{len(DUE)} jobs ran\n")
    again = call("pgvigil", "maintain", "run-due", "--database-url", fresh.url)
    assert (again.returncode, again.stdout) == (0, "no job is due\n")


def test_two_runners_at_once_run_each_job_once(run: Run, fresh: Database) -> None:
    settle(fresh)
    both = [
        threading.Thread(target=run, args=("pgvigil", "maintain", "run-due", "--database-url", fresh.url))
        for _ in range(2)
    ]
    for runner in both:
        runner.start()
    for runner in both:
        runner.join()
    assert fresh.execute("SELECT job FROM pgvigil.job_runs WHERE error IS NULL ORDER BY job") == [(job,) for job in DUE]


def test_one_failing_job_does_not_keep_the_others_from_running(call: Run, fresh: Database) -> None:
    settle(fresh)
    fresh.execute("ALTER FUNCTION pgvigil.job_expiry(integer) RENAME TO job_gone")
    done = call("pgvigil", "maintain", "run-due", "--database-url", fresh.url)
    assert done.returncode == 10
    assert "error: job expiry failed: function pgvigil.job_expiry(integer) does not exist" in done.stderr
    assert fresh.execute("SELECT count(*) FROM pgvigil.job_runs WHERE error IS NULL") == [(len(DUE) - 1,)]


def test_a_job_can_be_run_by_name(call: Run, fresh: Database) -> None:
    put_session(fresh, "s", expires_at=ago(fresh, "1 hour"))
    done = call("pgvigil", "maintain", "run", "expiry", "--database-url", fresh.url)
    assert (done.returncode, done.stdout) == (0, "expiry: expired 1 session\n")


def test_a_job_that_runs_elsewhere_is_exit_code_6(call: Run, fresh: Database) -> None:
    put_session(fresh, "s", expires_at=ago(fresh, "1 hour"))
    with held_up(fresh) as go, in_background(fresh, "expiry", go):
        done = call("pgvigil", "maintain", "run", "expiry", "--database-url", fresh.url)
    assert (done.returncode, "running in another session" in done.stderr) == (6, True)


@pytest.mark.parametrize("words", [["run"], ["run", "tea"], ["run-due", "expiry"]], ids=" ".join)
def test_a_call_that_makes_no_sense_is_a_usage_error(call: Run, fresh: Database, words: list[str]) -> None:
    assert call("pgvigil", "maintain", *words, "--database-url", fresh.url).returncode == 2


def test_a_database_without_jobs_is_refused(call: Run, existing: Database) -> None:
    done = call("pgvigil", "maintain", "status", "--database-url", existing.url)
    assert (done.returncode, "it is not migrated" in done.stderr) == (4, True)


def test_a_runner_killed_with_kill_9_leaves_no_job_running_and_the_next_one_goes_on(fresh: Database) -> None:
    put_session(fresh, "s", expires_at=ago(fresh, "1 hour"))
    with held_up(fresh):
        command = [sys.executable, "-P", "-m", "pgvigil", "maintain", "run", "expiry", "--database-url", fresh.url]
        environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
        runner = subprocess.Popen(command, cwd=PROJECT, stderr=subprocess.DEVNULL, env=environment)
        wait_until(lambda: state(fresh, "expiry") == "running")
        runner.send_signal(signal.SIGKILL)
        runner.wait()
        wait_until(lambda: state(fresh, "expiry") == "died")
    assert run_job(fresh, "expiry") == 1
    assert fresh.execute("SELECT error IS NULL FROM pgvigil.job_runs ORDER BY id") == [(False,), (True,)]


# --- a plain table becomes a partitioned one -------------------------------------------------------------------------


@pytest.mark.slow
def test_a_plain_table_is_converted_while_its_writers_write_and_no_row_is_lost(call: Run, broken: Database) -> None:
    stop = threading.Event()
    written: list[str] = []

    def write(number: int) -> None:
        with broken.connect() as conn:
            for n in range(100_000):
                if stop.is_set():
                    return
                operation = f"writer-{number}-{n}"
                conn.execute(
                    "INSERT INTO performance_logs (operation, duration_ms, success) VALUES (%s, 1, true)", (operation,)
                )
                written.append(
                    operation
                )  # it went in without an error and without waiting for the end of the migration

    before = broken.execute("SELECT count(*) FROM performance_logs WHERE duration_ms >= 0")[0][0]
    writers = [threading.Thread(target=write, args=(number,)) for number in range(2)]
    for writer in writers:
        writer.start()
    try:
        wait_until(lambda: len(written) > 100)
        done = call("pgvigil", "migrate", "--database-url", broken.url, "--backup", "none")
        after = len(written)
        wait_until(lambda: len(written) > after + 100)
    finally:
        stop.set()
        for writer in writers:
            writer.join()
    assert done.returncode == 0, done.stderr
    found = broken.execute("SELECT operation FROM performance_logs WHERE operation LIKE 'writer-%'")
    assert sorted(row[0] for row in found) == sorted(written)
    assert broken.execute("SELECT count(*) FROM performance_logs WHERE operation NOT LIKE 'writer-%'") == [(before,)]
    counted = "SELECT rows_found - rows_adopted, finished_at IS NOT NULL FROM pgvigil.displaced_tables WHERE table_name = 'performance_logs'"
    assert broken.execute(counted) == [(1, True)]  # the one row with a negative duration stays behind


def test_rows_are_moved_in_batches_and_the_move_goes_on_where_it_was_killed(broken: Database, call: Run) -> None:
    assert call("pgvigil", "migrate", "--database-url", broken.url, "--backup", "none").returncode == 0
    broken.execute(
        """TRUNCATE performance_logs; UPDATE pgvigil.displaced_tables SET next_block = 0, rows_adopted = 0, finished_at = NULL WHERE table_name = 'performance_logs';
           CREATE FUNCTION stop_there() RETURNS trigger LANGUAGE plpgsql AS
               $$BEGIN IF (SELECT count(*) FROM public.performance_logs) > 2500 THEN RAISE 'killed'; END IF; RETURN NULL; END$$;
           CREATE TRIGGER stop_there AFTER INSERT ON performance_logs FOR EACH STATEMENT EXECUTE FUNCTION stop_there()"""
    )
    with pytest.raises(errors.RaiseException):
        broken.execute("CALL pgvigil.copy_legacy_tables(4)")
    progress = "SELECT rows_adopted, (SELECT count(*) FROM performance_logs) FROM pgvigil.displaced_tables WHERE table_name = 'performance_logs'"
    adopted, there = broken.execute(progress)[0]
    assert 2000 < adopted == there <= 2500
    broken.execute("DROP TRIGGER stop_there ON performance_logs")
    broken.execute("CALL pgvigil.copy_legacy_tables(4)")
    assert broken.execute(progress) == [(5000, 5000)]
