"""Run due jobs for as long as the process lives, and print the entries of schedulers that can do the same."""

from __future__ import annotations

import re
import shlex
import shutil
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pgvigil import project
from pgvigil.database import Target
from pgvigil.errors import PgvigilError, PoolerError
from pgvigil.maintenance import job_runner
from pgvigil.maintenance.client_jobs import Options
from pgvigil.progress import Reporter
from pgvigil.text import one_line

INTERVAL = 60.0  # seconds between two looks for due jobs


@dataclass(frozen=True)
class Line:
    """A run of a job, or a look for due jobs that failed (then `job` is None)."""

    at: datetime
    job: str | None
    ok: bool
    said: str

    def text(self) -> str:
        return one_line(
            f"{self.at.isoformat(timespec='seconds')} {self.job or 'watch'} {'ok' if self.ok else 'FAILED'}: {self.said}"
        )


def watch(
    target: Target,
    options: Options,
    say: Callable[[Line], None],
    *,
    every: float = INTERVAL,
    wanted: Callable[[], bool] = lambda: True,
) -> None:
    """Run due jobs until an interruption, or until `wanted` returns False. `wanted` is called each second.

    A failed job or a lost connection is reported, and tried again at the next look. Any number of watches may run side
    by side: a job is run by the first that finds it due. Raise PoolerError where sessions are shared: no later look
    could work.
    """
    while wanted():
        began = time.monotonic()
        failed: set[str] = set()

        def report(job: str, said: str, ok: bool, failed: set[str] = failed) -> None:
            if not ok:
                failed.add(said)
            say(Line(datetime.now(UTC), job, ok, said))

        try:
            job_runner.run_due(target, options, Reporter(), report=report)
        except PoolerError:
            raise
        except PgvigilError as error:
            if not failed and wanted():  # else each failure has its line, or the server was stopped
                say(Line(datetime.now(UTC), None, False, error.message))
        while wanted() and (left := every - (time.monotonic() - began)) > 0:
            time.sleep(min(left, 1.0))


def _words(action: str, option: str) -> list[str]:
    """The words of the command. Its program by the whole path: schedulers have another PATH, and no directory of their own."""
    program, *rest = shlex.split(project.command("maintain", action, option=option))
    found = shutil.which(program)
    return [str(Path(found).absolute()) if found else program, *rest]


def cron_line(option: str) -> str:
    """Return a line for `crontab -e`. A percent sign is escaped, because cron takes it as the end of the line."""
    return f"*/5 * * * * {shlex.join(_words('run-due', option))}".replace("%", "\\%")


def _systemd_word(word: str) -> str:
    """Quote a word for ExecStart=, where systemd reads specifiers, variables and C escapes, also within quotes."""
    escaped = "".join(
        {"\\": "\\\\", '"': '\\"', "\n": "\\n", "%": "%%", "$": "$$"}.get(letter, letter) for letter in word
    )
    return escaped if re.fullmatch(r"[\w@%+=:,./-]+", word) else f'"{escaped}"'


def systemd_unit(option: str) -> str:
    """A service that keeps watch."""
    command = " ".join(map(_systemd_word, _words("watch", option)))
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
