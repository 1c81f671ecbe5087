"""Test jobs that run by themselves: maintain watch, and the files for schedulers."""

from __future__ import annotations

import itertools
import json
import os
import shlex
import signal
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import PROJECT, Database, Run, wait_until
from pgvigil.database import parse_url
from pgvigil.embedded import JobsProcess, PersistentServer
from pgvigil.maintenance import watch
from pgvigil.maintenance.client_jobs import Options

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
    ) as watching:
        assert watching.stdout is not None
        line = json.loads(watching.stdout.readline())
        watching.send_signal(signal.SIGTERM)
        _, said = watching.communicate(timeout=20)
    assert (line["job"], line["ok"], watching.returncode, said) == ("counters", True, 0, "")


def test_watches_side_by_side_run_a_due_job_once(fresh: Database) -> None:
    fresh.execute("UPDATE pgvigil.jobs SET enabled = job = 'counters'")
    # Each look ends with an event, whether or not it found a job that is due.
    looks: list[list[watch.Line]] = [[], []]
    asked = [0, 0]

    def look(number: int) -> None:
        def wanted() -> bool:
            asked[number] += 1
            return asked[number] <= 2

        watch.watch(parse_url(fresh.url, "test"), Options(), looks[number].append, every=0, wanted=wanted)

    together = [threading.Thread(target=look, args=[number]) for number in range(2)]
    for thread in together:
        thread.start()
    for thread in together:
        thread.join()
    assert min(asked) > 2, "each has looked for jobs"
    assert [line.job for lines in looks for line in lines if line.ok] == ["counters"]
    assert fresh.execute("SELECT count(*) FROM pgvigil.job_runs") == [(1,)]


def test_a_watch_whose_server_goes_away_ends_without_a_word_when_it_is_not_wanted() -> None:
    lines: list[watch.Line] = []
    answers = itertools.chain([True], itertools.repeat(False))
    gone = parse_url("postgresql://nobody@127.0.0.1:1/gone", "test")
    watch.watch(gone, Options(), lines.append, wanted=lambda: next(answers))
    assert lines == []


def test_a_watch_whose_server_is_away_says_so_and_looks_again() -> None:
    lines: list[watch.Line] = []
    answers = iter([True, True, True, True, True, False, False])
    gone = parse_url("postgresql://nobody@127.0.0.1:1/gone", "test")
    watch.watch(gone, Options(), lines.append, every=0, wanted=lambda: next(answers))
    assert [(line.job, line.ok) for line in lines] == [(None, False)] * 2


# ── the embedded server ───────────────────────────────────────────────────────────────────────────────────────────────


def test_the_jobs_of_the_embedded_server_run_while_it_is_up(run: Run, home: Path) -> None:
    """The steps share one server, which takes seconds to make: each step starts where the one before ended."""
    made = run("scripts/setup-enhanced-db.sh")
    assert (made.returncode, "The regular jobs run while this server is up" in made.stdout) == (0, True), made.stderr
    server = PersistentServer(home)
    jobs = JobsProcess(server)
    first = jobs.pid()
    assert run("pgvigil", "server", "status").stdout == f"running\njobs: run by process {first}, log {jobs.log}\n"
    wait_until(lambda: " counters ok: " in jobs.log.read_text())

    assert run("pgvigil", "server", "start").returncode == 0
    assert jobs.pid() == first, "one process for a server"
    second = run("pgvigil", "server", "jobs")
    assert (second.returncode, second.stdout) == (0, f"jobs: run by process {first}, log {jobs.log}\n")

    stopped = run("pgvigil", "server", "stop")
    assert (stopped.stdout, jobs.pid(), "FAILED" in jobs.log.read_text()) == ("stopped\n", None, False)
    assert "jobs: not running" in run("pgvigil", "server", "status").stdout
    refused = run("pgvigil", "server", "jobs")
    assert (refused.returncode, "pgvigil server start" in refused.stderr) == (3, True), refused.stderr

    assert run("pgvigil", "server", "start").returncode == 0
    assert jobs.pid() not in (None, first)
    os.kill(server_pid(home), signal.SIGKILL)
    wait_until(lambda: jobs.pid() is None)  # nobody stopped the process: it saw that its server had gone


def server_pid(home: Path) -> int:
    return int((home / "data" / "postmaster.pid").read_text().split("\n", 1)[0])


# ── schedulers ────────────────────────────────────────────────────────────────────────────────────────────────────────


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


STRANGE = shlex.quote("host=x dbname=a\"b$c%d 'q' \\z")


@pytest.mark.parametrize(
    ("written", "expected"),
    [
        (watch.systemd_unit, 'maintain watch --database-url "host=x dbname=a\\"b$$c%%d \'q\' \\\\z"\n'),
        (watch.cron_line, f"maintain run-due --database-url {STRANGE.replace('%', chr(92) + '%')}"),
    ],
    ids=["systemd", "cron"],
)
def test_a_scheduler_s_file_holds_a_strange_database_as_its_scheduler_reads_it(
    written: Callable[[str], str], expected: str
) -> None:
    assert expected in written(f" --database-url {STRANGE}")


def test_a_scheduler_s_file_names_the_program_by_its_whole_path(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    program = tmp_path / "a program"
    program.write_text("#!/bin/sh\n")
    program.chmod(0o755)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PGVIGIL_PROGRAM", "./a program")
    assert f'ExecStart="{program}" maintain watch' in watch.systemd_unit("")
    assert f"'{program}' maintain run-due" in watch.cron_line("")
