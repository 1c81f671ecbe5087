"""Telemetry in a database of its own: what is held where the sessions are is held there, and in doubt nothing is dropped."""

from __future__ import annotations

from pathlib import Path

import pytest

from conftest import Database
from helpers.archived import SESSION, is_there, old_logs, retention, target
from pgvigil import Recorder
from pgvigil.errors import JobError
from pgvigil.maintenance import job_runner
from pgvigil.maintenance.client_jobs import Options
from pgvigil.progress import Reporter

pytestmark = pytest.mark.client_side


@pytest.fixture
def telemetry(migrated: Database) -> Database:
    migrated.execute("SELECT pgvigil.accept_job('all')")
    return migrated


def push(sessions: Database, telemetry: Database) -> str:
    return job_runner.run(target(sessions), "holds", Options(telemetry_url=telemetry.url), Reporter())


def hold(sessions: Database) -> None:
    sessions.execute("INSERT INTO sessions (id, session_key, agent_from) VALUES (%s, 'k', 'a')", (SESSION,))
    sessions.execute("INSERT INTO pgvigil.legal_holds (session_id, reason) VALUES (%s, 'a v. b')", (SESSION,))


def test_a_recorder_writes_there_of_sessions_that_are_elsewhere(telemetry: Database, spill: Path) -> None:
    with Recorder(telemetry.url, spill_directory=spill) as recorder:
        recorder.record_performance("o", 5, True, session_id=SESSION)
        recorder.flush()
    assert telemetry.execute("SELECT operation, session_id::text FROM performance_logs") == [("o", SESSION)]


def test_a_hold_is_held_there(fresh: Database, telemetry: Database) -> None:
    partition = old_logs(telemetry)
    hold(fresh)
    assert push(fresh, telemetry) == "pushed 1 hold"
    assert f"kept, for rows of sessions under legal hold: {partition}" in retention(telemetry)
    fresh.execute("DELETE FROM pgvigil.legal_holds")
    assert push(fresh, telemetry) == "pushed 0 holds"
    assert f"dropped {partition}" in retention(telemetry)


def test_a_policy_under_hold_keeps_everything_there(fresh: Database, telemetry: Database) -> None:
    partition = old_logs(telemetry)
    fresh.execute("UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'standard'")
    push(fresh, telemetry)
    retention(telemetry)
    assert is_there(telemetry, partition)


@pytest.mark.parametrize("last", ["now() - interval '61 minutes'", "now() + interval '1 year'"])
def test_nothing_is_dropped_while_no_push_comes(fresh: Database, telemetry: Database, last: str) -> None:
    partition = old_logs(telemetry)
    push(fresh, telemetry)
    telemetry.execute(f"UPDATE pgvigil.hold_sources SET pushed_at = {last}")
    assert "have not said for too long what is under legal hold" in retention(telemetry)
    assert is_there(telemetry, partition)
    push(fresh, telemetry)
    assert f"dropped {partition}" in retention(telemetry)


def test_a_push_that_cannot_be_made_is_a_failure(fresh: Database, another: Database) -> None:
    with pytest.raises(JobError, match="the telemetry server is not migrated"):
        push(fresh, another)
    with pytest.raises(JobError, match="the telemetry server is this database"):
        push(fresh, fresh)
    with pytest.raises(JobError, match="no telemetry server is given"):
        job_runner.run(target(fresh), "holds", Options(), Reporter())


def test_the_job_is_off_until_somebody_turns_it_on(fresh: Database) -> None:
    assert fresh.execute("SELECT enabled, due FROM pgvigil.job_status WHERE job = 'holds'") == [(False, False)]
