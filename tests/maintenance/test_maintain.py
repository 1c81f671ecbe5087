"""Test the regular jobs that need a client: each runs once, in its interval, within a budget of locks, and is recorded
correctly.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT, Connection, Database, Run, wait_until

pytestmark = pytest.mark.client_side

HEAVY = ("backup", "analyze", "reindex", "vacuum")
BIG_INDEX = "CREATE TABLE a_big (n integer PRIMARY KEY); INSERT INTO a_big SELECT generate_series(1, 60000)"
LEFT = r"SELECT relname FROM pg_class WHERE relname ~ '_cc(new|old)\d*$'"


def runs(database: Database, job: str) -> list[tuple[Any, ...]]:
    """Return rows, error and notes of each run."""
    return database.execute("SELECT rows, error, notes FROM pgvigil.job_runs WHERE job = %s ORDER BY id", (job,))


def state(database: Database, job: str) -> str:
    return str(database.execute("SELECT state FROM pgvigil.job_status WHERE job = %s", (job,))[0][0])


def make_due(database: Database, *jobs: str) -> None:
    """Make the jobs due now; their next run is long after the test."""
    database.execute(
        "UPDATE pgvigil.jobs SET every = '28 days', since = now() - interval '29 days', enabled = job = ANY (%s)",
        (list(jobs),),
    )


@contextmanager
def writing(database: Database, table: str) -> Iterator[Connection]:
    """A transaction that has written to a table and does not end before the block does."""
    with database.connect(autocommit=False) as conn:
        conn.execute(f"UPDATE {table} SET n = n WHERE n = 1")  # type: ignore[call-overload]
        yield conn
        conn.rollback()


def started(database: Database, *words: str, **environment: str) -> subprocess.Popen[bytes]:
    """Start `pgvigil …` in a process of its own."""
    return subprocess.Popen(
        [sys.executable, "-P", "-m", "pgvigil", *words, "--database-url", database.url],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src"), **environment},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )


def kill(process: subprocess.Popen[bytes]) -> None:
    process.send_signal(signal.SIGKILL)
    process.wait()


# --- once, and in its time -------------------------------------------------------------------------------------------


def test_two_machines_at_once_run_each_job_once(run: Run, fresh: Database, tmp_path: Path) -> None:
    make_due(fresh, *(job for (job,) in fresh.execute("SELECT job FROM pgvigil.jobs WHERE enabled")))
    words = ("maintain", "run-due", "--backup-dir", str(tmp_path / "shared"), "--database-url", fresh.url)
    done: list[subprocess.CompletedProcess[str]] = []
    machines = [threading.Thread(target=lambda: done.append(run("pgvigil", *words))) for _ in range(2)]
    for machine in machines:
        machine.start()
    for machine in machines:
        machine.join()
    assert [one.returncode for one in done] == [0, 0], [one.stderr for one in done]
    told = "SELECT count(*), count(DISTINCT job), (SELECT count(*) FROM pgvigil.jobs WHERE enabled) FROM pgvigil.job_runs WHERE error IS NULL"
    [(ran, jobs, there)] = fresh.execute(told)
    assert ran == jobs == there
    assert len(list((tmp_path / "shared").glob("*.dump"))) == 1


def test_what_has_its_own_time_waits_for_it_after_an_install(call: Run, fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.jobs SET since = now()")
    assert call("pgvigil", "maintain", "run-due", "--database-url", fresh.url).returncode == 0
    assert fresh.execute("SELECT count(*) FROM pgvigil.job_runs WHERE job = ANY (%s)", (list(HEAVY),)) == [(0,)]


def test_a_time_that_was_missed_is_made_up_for(call: Run, fresh: Database) -> None:
    make_due(fresh, "vacuum")
    done = call("pgvigil", "maintain", "run-due", "--database-url", fresh.url)
    assert (done.returncode, done.stdout) == (0, "1 job ran\n"), done.stderr
    assert call("pgvigil", "maintain", "run-due", "--database-url", fresh.url).stdout == "no job is due\n"


def test_status_tells_last_run_outcome_and_next_time(call: Run, fresh: Database) -> None:
    fresh.execute("INSERT INTO pgvigil.job_runs (job, finished_at, error) VALUES ('backup', now(), 'the disk is full')")
    fresh.execute("UPDATE pgvigil.jobs SET enabled = false WHERE job = 'vacuum'")
    fresh.execute("UPDATE pgvigil.jobs SET since = now() - interval '15 days' WHERE job = 'reindex'")
    told = call("pgvigil", "maintain", "status", "--database-url", fresh.url)
    lines = {line.split()[0]: line for line in told.stdout.splitlines()}
    tomorrow = datetime.now(UTC) - timedelta(hours=1) + timedelta(days=1)
    assert "daily 01:00" in lines["backup"]
    assert f"failed     {datetime.now(UTC):%Y-%m-%d}" in lines["backup"]
    assert f"{tomorrow:%Y-%m-%d} 01:00:00" in lines["backup"]
    assert "             the disk is full" in told.stdout
    assert lines["reindex"].endswith("OVERDUE")
    assert lines["vacuum"].endswith("off")
    assert told.returncode == 1
    [vacuum] = [
        job
        for job in json.loads(call("pgvigil", "maintain", "status", "--json", "--database-url", fresh.url).stdout)
        if job["job"] == "vacuum"
    ]
    assert (vacuum["next_due"], vacuum["every"], vacuum["at"]) == (None, 30 * 86400, 4 * 3600)


# --- what a kill leaves ----------------------------------------------------------------------------------------------


def test_a_reindex_killed_with_kill_9_is_told_retried_and_leaves_nothing(call: Run, fresh: Database) -> None:
    make_due(fresh, "reindex")
    fresh.execute(BIG_INDEX)
    with writing(fresh, "a_big"):
        process = started(fresh, "maintain", "run-due")
        wait_until(lambda: fresh.execute(LEFT) and state(fresh, "reindex") == "running")
        kill(process)
        wait_until(lambda: state(fresh, "reindex") == "died")
    assert fresh.execute(LEFT) == [("a_big_pkey_ccnew",)]
    done = call("pgvigil", "maintain", "run-due", "--database-url", fresh.url)
    assert done.returncode == 0, done.stderr
    [(_, died, _), (rows, error, notes)] = runs(fresh, "reindex")
    assert died.startswith("died: its server process")
    assert (rows, error) == (1, None)
    assert notes == ["dropped public.a_big_pkey_ccnew, which a REINDEX that did not finish had left"]
    assert fresh.execute(LEFT) == []


def test_a_backup_killed_with_kill_9_is_retried_and_its_part_cleared_away(
    call: Run, fresh: Database, tmp_path: Path, slow_dump: dict[str, str]
) -> None:
    make_due(fresh, "backup")
    directory = tmp_path / "backups"
    process = started(fresh, "maintain", "run-due", "--backup-dir", str(directory), **slow_dump)
    wait_until(lambda: list(tmp_path.glob("dumping")))
    kill(process)
    wait_until(lambda: state(fresh, "backup") == "died")
    words = ("maintain", "run-due", "--backup-dir", directory, "--verify-backup", "read", "--database-url", fresh.url)
    done = call("pgvigil", *words)
    assert done.returncode == 0, done.stderr
    [(_, died, _), (_, error, notes)] = runs(fresh, "backup")
    assert died.startswith("died: ")
    assert error is None
    assert notes[1:] == ["pruned 1 of more than 30 days or without an end"]
    assert sorted(path.suffix for path in directory.iterdir()) == [".dump", ".json"]


@pytest.fixture
def slow_dump(tmp_path: Path) -> dict[str, str]:
    """An environment whose pg_dump writes a little, says so in a file, and goes no further."""
    tools = tmp_path / "tools"
    tools.mkdir()
    script = f"""#!/bin/sh
        [ "$1" = --version ] && echo 'pg_dump (PostgreSQL) 99.1' && exit
        touch {tmp_path}/dumping
        exec sleep 120
        """
    for name in ("pg_dump", "pg_restore"):
        (tools / name).write_text(script)
        (tools / name).chmod(0o755)
    return {"PGVIGIL_PG_BIN": str(tools)}


def test_a_run_goes_on_behind_the_one_that_was_cut_short(call: Run, fresh: Database) -> None:
    fresh.execute(
        """INSERT INTO pgvigil.job_runs (job, error, finished_at, objects)
           SELECT 'vacuum', 'died', now(), array_agg(format('%I.%I', n.nspname, c.relname))
           FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.relkind = 'r' AND c.relname <> 'sessions'"""
    )
    assert (
        call("pgvigil", "maintain", "run", "vacuum", "--database-url", fresh.url).stdout
        == "vacuum: vacuumed 2 tables\n"
    )


# --- locks -----------------------------------------------------------------------------------------------------------


def test_an_index_that_old_transactions_hold_up_is_passed_over_and_nothing_is_left(call: Run, fresh: Database) -> None:
    fresh.execute(BIG_INDEX)
    with fresh.connect(autocommit=False) as reader:
        reader.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ; SELECT 1")
        pid = reader.info.backend_pid
        done = call("pgvigil", "maintain", "run", "reindex", "--build-wait", "0.2", "--database-url", fresh.url)
        reader.rollback()
    assert done.returncode == 10
    assert f"1 of 1 were passed over: public.a_big_pkey has waited 0 s for pid {pid}" in done.stderr
    [(_, error, notes)] = runs(fresh, "reindex")
    assert error.startswith("1 of 1 were passed over: public.a_big_pkey")
    assert notes[0] == "dropped public.a_big_pkey_ccnew, unfinished"
    assert fresh.execute(LEFT) == []


def test_a_table_that_is_locked_is_passed_over_and_the_others_are_vacuumed(call: Run, fresh: Database) -> None:
    with fresh.connect(autocommit=False) as other:
        other.execute("LOCK TABLE query_executions")
        done = call("pgvigil", "maintain", "run", "vacuum", "--lock-budget", "0.1", "--database-url", fresh.url)
        other.rollback()
    assert done.returncode == 10
    [(rows, error, notes)] = runs(fresh, "vacuum")
    assert rows > 20
    assert error.startswith(f"1 of {rows + 1} were passed over: public.query_executions: a table lock was not granted")
    assert len(notes) == 1
    fresh.execute("UPDATE pgvigil.job_runs SET started_at = clock_timestamp()")
    assert (
        call("pgvigil", "maintain", "run", "vacuum", "--database-url", fresh.url).stdout == "vacuum: vacuumed 1 table\n"
    )


def test_a_table_of_another_owner_is_not_told_as_vacuumed(call: Run, fresh: Database) -> None:
    fresh.execute(
        """DO $$ BEGIN CREATE ROLE mt_upkeep LOGIN IN ROLE pgvigil_admin; EXCEPTION WHEN duplicate_object THEN NULL; END $$;
           CREATE TABLE mine (n int); ALTER TABLE mine OWNER TO mt_upkeep"""
    )
    url = fresh.url.replace("postgres@", "mt_upkeep@")
    assert call("pgvigil", "maintain", "run", "vacuum", "--database-url", url).returncode == 10
    [(rows, error, _)] = runs(fresh, "vacuum")
    assert rows == 1
    assert " were passed over: instrumentation.instances: " in error
    # What the server does itself it does with the rights of the owner of what is ours, whoever asks.
    assert call("pgvigil", "maintain", "run", "analyze", "--database-url", url).returncode == 0
    assert runs(fresh, "analyze")[0][2] == ["passed over public.mine, which belongs to mt_upkeep"]


def test_analyze_passes_over_what_is_locked_and_says_so(call: Run, fresh: Database) -> None:
    with fresh.connect(autocommit=False) as other:
        other.execute("LOCK TABLE query_executions IN SHARE UPDATE EXCLUSIVE MODE")
        assert call("pgvigil", "maintain", "run", "analyze", "--database-url", fresh.url).returncode == 0
        other.rollback()
    [(_, error, notes)] = runs(fresh, "analyze")
    assert error is None
    assert notes == ["passed over public.query_executions, which is being vacuumed, indexed or altered"]
    assert fresh.execute("SELECT reltuples >= 0 FROM pg_class WHERE oid = 'session_lifecycle'::regclass") == [(True,)]


# --- backup ----------------------------------------------------------------------------------------------------------


def test_the_backup_job_takes_a_proved_one_and_tells_of_what_is_not_sound(
    call: Run, fresh: Database, tmp_path: Path
) -> None:
    fresh.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle")
    done = call("pgvigil", "maintain", "run", "backup", "--backup-dir", tmp_path / "b", "--database-url", fresh.url)
    assert done.returncode == 0, done.stderr
    [archive] = (tmp_path / "b").glob("*.dump")
    [(rows, error, notes)] = runs(fresh, "backup")
    assert error is None
    assert rows > 0
    assert notes[0].startswith(f"{archive}, ")
    assert notes[0].endswith(f"tables with {rows:,} rows equal")
    assert (
        notes[1] == "the database is not sound: critical disabled_triggers 1: log_session_lifecycle on public.sessions"
    )


def test_a_backup_job_that_fails_says_why(call: Run, fresh: Database, tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    done = call("pgvigil", "maintain", "run", "backup", "--backup-dir", tmp_path / "file", "--database-url", fresh.url)
    assert (done.returncode, "job backup failed: no backup can be written to" in done.stderr) == (10, True)
    assert state(fresh, "backup") == "failed"


# --- pg_cron ---------------------------------------------------------------------------------------------------------


def test_without_pg_cron_its_installation_is_refused_with_the_other_ways(call: Run, fresh: Database) -> None:
    done = call("pgvigil", "maintain", "install", "--pg-cron", "--database-url", fresh.url)
    assert done.returncode == 4
    assert f'error: pg_cron is neither in database "{fresh.name}" nor in "postgres"' in done.stderr
    assert "pgvigil maintain run-due" in done.stderr
