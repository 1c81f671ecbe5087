"""Jobs that run without anybody asking: the watch, and what schedulers are given."""

from __future__ import annotations

import json
import signal
import subprocess
import sys

import pytest

from conftest import PROJECT, Database, Run, wait_until

pytestmark = pytest.mark.client_side


def test_a_watch_runs_due_jobs_a_line_each_and_ends_cleanly_on_sigterm(fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.jobs SET enabled = job = 'counters'")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pgvigil",
        "maintain",
        "watch",
        "--json",
        "--every",
        "0.05",
        "--database-url",
        fresh.url,
    ]
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env={"PYTHONPATH": str(PROJECT / "src")}
    ) as watch:
        assert watch.stdout is not None
        line = json.loads(watch.stdout.readline())
        watch.send_signal(signal.SIGTERM)
        _, said = watch.communicate(timeout=20)
    assert (line["job"], line["ok"], watch.returncode, said) == ("counters", True, 0, "")


def test_watches_side_by_side_run_a_due_job_once(fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.jobs SET enabled = job = 'counters'")
    command = [
        sys.executable,
        "-P",
        "-m",
        "pgvigil",
        "maintain",
        "watch",
        "--every",
        "0.05",
        "--database-url",
        fresh.url,
    ]
    both = [
        subprocess.Popen(
            command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={"PYTHONPATH": str(PROJECT / "src")}
        )
        for _ in range(2)
    ]
    try:
        wait_until(
            lambda: fresh.execute("SELECT count(*) FROM pgvigil.job_runs WHERE finished_at IS NOT NULL") != [(0,)]
        )
        # Each has looked for jobs at least once.
        wait_until(
            lambda: fresh.execute("SELECT count(*) FROM pg_stat_activity WHERE datname = current_database()") != [(0,)]
        )
    finally:
        for watch in both:
            watch.terminate()
            watch.wait(20)
    assert fresh.execute("SELECT count(*) FROM pgvigil.job_runs") == [(1,)]


@pytest.mark.parametrize(
    ("scheduler", "expected"), [("--systemd", "maintain watch --database-url"), ("--cron", "*/5 * * * * ")]
)
def test_a_scheduler_s_file_names_the_command_and_the_database(
    call: Run, fresh: Database, scheduler: str, expected: str
) -> None:
    done = call("pgvigil", "maintain", "install", scheduler, "--database-url", fresh.url)
    assert done.returncode == 0, done.stderr
    assert expected in done.stdout
    assert "--database-url" in done.stdout
