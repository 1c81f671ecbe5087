"""`pgvigil server`: the embedded server, and the process that runs its jobs."""

from __future__ import annotations

import argparse
from contextlib import suppress
from typing import TYPE_CHECKING

from pgvigil import database, project
from pgvigil.commands.common.groups import Group
from pgvigil.errors import ConnectError, PreconditionError
from pgvigil.text import one_line

if TYPE_CHECKING:
    from pgvigil.embedded import JobsProcess, PersistentServer

GROUP = Group.PROGRAM
SUMMARY = "the embedded server and the process that runs its jobs: start, stop, status, url"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "action",
        choices=("start", "stop", "status", "url", "jobs"),
        help="jobs: run the due jobs in the foreground while the server is up; start does that in the background",
    )
    command.add_argument(
        "--database", default="pgvigil", metavar="NAME", help="with url: a database of the server (default %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.embedded import JobsProcess, PersistentServer

    server = PersistentServer()
    jobs = JobsProcess(server)
    if arguments.action == "start":
        server.start()
        jobs.start()
        print(server.url(arguments.database))
    elif arguments.action == "stop":
        jobs.stop()
        print("stopped" if server.stop() else "it was not running")
    elif not server.exists():
        raise PreconditionError("there is no embedded server yet", "Make one with pgvigil setup.")
    elif arguments.action == "url":
        print(server.url(arguments.database))
    elif arguments.action == "jobs":
        if not server.is_running():
            raise ConnectError("the embedded server is stopped, so no job can run", "Start it: pgvigil server start")
        return _run_jobs(server, jobs)
    else:
        print("running" if server.is_running() else "stopped")
        print(_jobs_line(jobs))
    return 0


def _jobs_line(jobs: JobsProcess) -> str:
    if (pid := jobs.pid()) is None:
        return f"jobs: not running; `{project.command('server', 'start')}` starts them"
    return f"jobs: run by process {pid or '(starting)'}, log {one_line(str(jobs.log))}"


def _run_jobs(server: PersistentServer, jobs: JobsProcess) -> int:
    from pgvigil.maintenance import watch
    from pgvigil.maintenance.client_jobs import Options

    last = ""

    def say(line: watch.Line) -> None:
        """A look that fails like the one before, minute after minute, is reported once."""
        nonlocal last
        if line.job is None and line.said == last:
            return
        last = line.said if line.job is None else ""
        print(line.text(), flush=True)

    with jobs.running() as mine:
        if not mine:
            print(_jobs_line(jobs))
            return 0
        target = database.parse_url(server.url(), "embedded server")
        with suppress(KeyboardInterrupt):  # SIGTERM as well
            watch.watch(target, Options(), say, wanted=server.has_process)
    return 0
