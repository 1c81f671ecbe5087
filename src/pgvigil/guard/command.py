"""The command, as guard sees it: started by a supervisor, its output passed on without secrets, ended when guard is interrupted."""

from __future__ import annotations

import json
import os
import re
import signal
import socket
import subprocess
import sys
import threading
from collections.abc import Callable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path
from types import TracebackType
from typing import Any, Self
from urllib.parse import quote, quote_plus

from pgvigil.errors import MigrationError, PreconditionError
from pgvigil.guard import processes
from pgvigil.guard.processes import Sockets

_PACKAGE = Path(__file__).resolve().parents[2]
_MAIN = "import sys; sys.path.insert(0, sys.argv.pop(1)); from pgvigil.guard.supervisor import main; main()"
_URL_PASSWORD = re.compile(r"(://[^\s/:@'\"]*):[^\s@'\"]+@")


class Command:
    """A command that runs below a supervisor: `with Command(order, say, secrets) as command: status = command.wait()`.

    `order` is the supervisor's. An exception in the block ends the command's processes, in order: SIGTERM first.
    """

    def __init__(self, order: Mapping[str, Any], say: Callable[[str], None], secrets: Sequence[str]) -> None:
        self.refused: list[str] = []
        self._order = dict(order)
        self._say = say
        self._secrets = sorted({form for one in secrets for form in _forms(one)}, key=len, reverse=True)
        self._child = 0
        self._status: int | None = None
        self._failed = ""
        self._ended = threading.Event()
        self._lost = threading.Event()

    def __enter__(self) -> Self:
        self._control, theirs = socket.socketpair()
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-c", _MAIN, str(_PACKAGE), str(theirs.fileno())],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, pass_fds=[theirs.fileno()],
            start_new_session=True,
        )  # fmt: skip
        theirs.close()
        self._threads = [
            threading.Thread(target=work, name="pgvigil guard", daemon=True) for work in (self._hear, self._print)
        ]
        for thread in self._threads:
            thread.start()
        self._control.sendall(json.dumps(self._order).encode() + b"\n")
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        for message in [*(['{"end": true}'] if kind else []), '{"done": true}']:
            try:
                self._control.sendall(message.encode() + b"\n")
            except OSError:  # the supervisor was killed, and the kernel has ended the command
                break
        self._process.wait()
        for thread in self._threads:
            thread.join(1)  # what the command has left running may hold its output open for ever
        if not self._threads[1].is_alive() and self._process.stdout is not None:
            self._process.stdout.close()
        self._control.close()

    def wait(self, busy: Callable[[], bool]) -> int:
        """The command's exit status, as subprocess has it, when it has ended and none of its sessions is at work any more."""
        while not self._ended.wait(0.05):
            if self._lost.is_set():
                if self._child:
                    with suppress(OSError):
                        os.killpg(
                            self._child, signal.SIGKILL
                        )  # the kernel has ended the first process of the group only
                raise MigrationError(
                    "the process that supervises the command was killed, and the command with it",
                    "See what it left: its transactions are rolled back.",
                )
        if self._failed:
            raise PreconditionError(f"the command could not be started: {self._failed}", "Nothing was changed.")
        while busy() and not self._lost.is_set():  # it went into the background
            self._lost.wait(0.05)
        self._threads[1].join(0.5)
        return int(self._status or 0)

    def sockets(self) -> Sockets:
        """The connections of the command and all that it has started."""
        return processes.sockets(processes.tree(self._process.pid))

    def _hear(self) -> None:
        lines = b""
        while True:
            try:
                data = self._control.recv(1 << 16)
            except OSError:
                data = b""
            if not data:
                self._lost.set()
                return
            lines += data
            while b"\n" in lines:
                line, lines = lines.split(b"\n", 1)
                message = json.loads(line)
                if "started" in message:
                    self._child = int(message["started"])
                elif "refused" in message:
                    self.refused.append(message["refused"])
                elif "failed" in message:
                    self._failed = message["failed"]
                elif "exit" in message:
                    self._status = message["exit"]
                    self._ended.set()

    def _print(self) -> None:
        assert self._process.stdout is not None  # noqa: S101 - it is a pipe
        for line in self._process.stdout:
            self._say(self.without_secrets(line.decode(errors="replace").rstrip("\r\n")))

    def without_secrets(self, text: str) -> str:
        """The text with *** for each password that guard knows of, and for those of addresses."""
        for secret in self._secrets:
            text = text.replace(secret, "***")
        return _URL_PASSWORD.sub(r"\1:***@", text)


def _forms(secret: str) -> list[str]:
    """A password as it is, and as addresses spell it."""
    return [form for form in (secret, quote(secret, safe=""), quote_plus(secret)) if len(form) > 1]


def in_words(status: int) -> str:
    """The end of a process."""
    if status >= 0:
        return f"ended with exit code {status}"
    try:
        name = signal.Signals(-status).name
    except ValueError:
        name = "signal"
    return f"was killed by {name} ({-status})"


def environment_of(
    given: Mapping[str, str], url: str | None, parameters: Mapping[str, str], keywords: Mapping[str, str], token: str
) -> dict[str, str]:
    """The command's environment: the user's own, naming the guarded database by DATABASE_URL and libpq's variables."""
    made = dict(given)
    if url is not None:
        made["DATABASE_URL"] = url
    made |= {keywords[key]: value for key, value in parameters.items() if key in keywords}
    made["PGAPPNAME"] = token
    return made
