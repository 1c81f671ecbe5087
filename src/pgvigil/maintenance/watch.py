"""Running due jobs for as long as the process lives, and the schedulers that can do the same."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime

from pgvigil import project
from pgvigil.database import Target
from pgvigil.errors import PgvigilError
from pgvigil.maintenance import job_runner
from pgvigil.maintenance.client_jobs import Options
from pgvigil.progress import Reporter

INTERVAL = 60.0  # seconds between two looks for due jobs


@dataclass(frozen=True)
class Line:
    """One run of a job, or a look for due jobs that failed (then `job` is None)."""

    at: datetime
    job: str | None
    ok: bool
    said: str


def watch(target: Target, options: Options, say: Callable[[Line], None], *, every: float = INTERVAL) -> None:
    """Runs due jobs until it is interrupted. A failed job or a lost connection is reported, and tried again at the next look.

    Any number of watches may run side by side: a job is run by the first that finds it due.
    """
    while True:
        began = time.monotonic()
        failed: set[str] = set()

        def report(job: str, said: str, ok: bool, failed: set[str] = failed) -> None:
            if not ok:
                failed.add(said)
            say(Line(datetime.now(UTC), job, ok, said))

        try:
            job_runner.run_due(target, options, Reporter(), report=report)
        except PgvigilError as error:
            if not failed:  # else each failure has its line
                say(Line(datetime.now(UTC), None, False, error.message))
        time.sleep(max(0.0, every - (time.monotonic() - began)))


def cron_line(option: str) -> str:
    """For `crontab -e`: cron takes a percent sign as the end of the line."""
    command = project.command("maintain", "run-due", option=option, absolute=True).replace("%", "\\%")
    return f"*/5 * * * * {command}"


def systemd_unit(option: str) -> str:
    """A service that keeps watch; systemd reads specifiers and variables in a command."""
    command = project.command("maintain", "watch", option=option, absolute=True).replace("%", "%%").replace("$", "$$")
    return f"""[Unit]
Description=Jobs of pgvigil
After=network-online.target postgresql.service

[Service]
ExecStart={command}
Restart=on-failure
RestartSec=10
TimeoutStopSec=30

[Install]
WantedBy=default.target"""
