"""The background process that runs the due jobs of the persistent server."""

from __future__ import annotations

import fcntl
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from pgvigil.embedded.persistent import PersistentServer
from pgvigil.errors import ConnectError

START_TIMEOUT = 20.0
STOP_TIMEOUT = 30.0  # seconds; a job ends at its next batch
LOG_LIMIT = 1_000_000  # bytes; a longer log is set aside when the process starts


class JobsProcess:
    """The process that runs the due jobs of a persistent server for as long as the server is up.

    It locks `<home>/jobs.lock` and writes its process id into it, so a free lock proves that no such process is left. There is
    at most one per server.
    """

    def __init__(self, server: PersistentServer) -> None:
        self.server = server
        self.log = server.home / "jobs.log"
        self._lock_file = server.home / "jobs.lock"

    def start(self) -> None:
        """Start the process in the background unless it runs. It ends when the server stops."""
        if self.pid() is not None:
            return
        if self.log.exists() and self.log.stat().st_size > LOG_LIMIT:
            self.log.replace(self.log.with_suffix(".log.1"))
        given = os.environ.get("PYTHONPATH")
        # The process works in another directory.
        paths = {"PYTHONPATH": os.pathsep.join(map(os.path.abspath, given.split(os.pathsep)))} if given else {}
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            # The shell puts it in the background and ends, so the process has no parent here and outlives this one.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", sys.executable, "-P", "-m", "pgvigil", "server", "jobs"],
                check=True,
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.server.home,
                env=os.environ | paths | {"PGVIGIL_HOME": str(self.server.home)},
                start_new_session=True,
            )
        finally:
            os.close(log)
        deadline = time.monotonic() + START_TIMEOUT
        while not self.pid():
            if time.monotonic() > deadline:
                raise ConnectError(
                    f"The server runs, but the process for its jobs has not started after {START_TIMEOUT:.0f} s.",
                    f"Read {self.log}; in the foreground: pgvigil server jobs",
                )
            time.sleep(0.02)

    def stop(self) -> bool:
        """Stop the process, after the batch it works on. Return false if it was not running."""
        deadline = time.monotonic() + STOP_TIMEOUT
        if (pid := self.pid()) is None:
            return False
        if pid and self._is_ours(pid):
            os.kill(pid, signal.SIGTERM)
        while self.pid() is not None:
            if time.monotonic() > deadline:
                raise ConnectError(
                    f"The process that runs the jobs (pid {pid}) has not stopped after {STOP_TIMEOUT:.0f} s.",
                    f"Read {self.log}; to end it at once: kill -9 {pid}",
                )
            time.sleep(0.02)
        return True

    def pid(self) -> int | None:
        """Return the process id, 0 before the process has written it, or None if no process runs."""
        try:
            lock = os.open(self._lock_file, os.O_RDONLY | os.O_NOFOLLOW)
        except FileNotFoundError:
            return None
        try:
            fcntl.flock(lock, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            written = os.read(lock, 20).strip()
            return int(written) if written.isdigit() else 0
        else:
            return None
        finally:
            os.close(lock)

    @contextmanager
    def running(self) -> Iterator[bool]:
        """Make this process the one that runs the jobs; yield false if another one is."""
        lock = os.open(self._lock_file, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            # A look at the lock holds it for an instant.
            for _ in range(50):
                try:
                    fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
                except BlockingIOError:
                    time.sleep(0.01)
                else:
                    os.ftruncate(lock, 0)
                    os.write(lock, b"%d\n" % os.getpid())
                    yield True
                    return
            yield False
        finally:
            os.close(lock)

    @staticmethod
    def _is_ours(pid: int) -> bool:
        """Return true unless another program has the number: another container may have written it."""
        try:
            return Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0server\0jobs\0")
        except OSError:
            return False
