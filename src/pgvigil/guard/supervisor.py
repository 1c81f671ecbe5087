"""The process between guard and the command: it starts the command, and ends it when guard is gone, so that it never
runs unguarded.

It speaks with guard in lines of JSON over one socket: an order to begin with, {"end": true} to end the command,
{"done": true} at last; {"exit": status} when the command has ended. When the socket closes without "done", guard was
killed: the command's processes are ended, and then its sessions, because a server process that waits for a lock does
not notice that its client is gone.
"""

from __future__ import annotations

import ctypes
import json
import os
import select
import signal
import socket
import sys
import time
from contextlib import suppress
from typing import Any

from pgvigil.guard import confine, processes

_SET_PDEATHSIG, _SET_CHILD_SUBREAPER = 1, 36
_TICK = 0.1
GRACE = 5.0  # seconds between SIGTERM and SIGKILL


def main() -> None:
    """Run as a process of its own. Its arguments name the descriptor of the socket."""
    ctypes.CDLL(None).prctl(
        _SET_CHILD_SUBREAPER, 1, 0, 0, 0
    )  # what the command leaves behind becomes our child, not init's
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # guard says when it is over
        signal.signal(number, signal.SIG_IGN)
    with socket.socket(fileno=int(sys.argv[1])) as control:
        control.set_inheritable(False)  # while the command had it too, nobody would see guard's end
        _Supervisor(control).run()


class _Supervisor:
    def __init__(self, control: socket.socket) -> None:
        self._control = control
        self._lines = b""
        self._order: dict[str, Any] = {}
        self._done = False
        self._gone = False
        self._child = 0
        self._listener: int | None = None
        self._rules: confine.Rules | None = None

    def run(self) -> None:
        while not self._order and not self._gone:
            self._hear(None)
        if self._gone:
            return
        if rules := self._order.get("confine"):
            self._rules = confine.Rules(
                frozenset((host, port) for host, port in rules["tcp"]),
                frozenset(rules["unix"]),
                rules["port"],
                rules["path"],
            )
        self._start()
        while not (self._done or self._gone):
            self._hear(_TICK)
        if self._gone:
            self._end_unguarded()

    # ── Listening ────────────────────────────────────────────────────────────────────────────────────────────────────

    def _hear(self, seconds: float | None) -> None:
        """Wait for guard, for the command's end and for its connections, and do what they ask for."""
        watched: list[Any] = [self._control, *([self._listener] if self._listener is not None else [])]
        ready, _, _ = select.select(watched, [], [], seconds)
        if self._listener in ready and self._listener is not None and self._rules is not None:
            before = len(self._rules.refused)
            confine.answer(self._listener, self._rules)
            for address in self._rules.refused[before:]:
                self._say({"refused": address})
        if self._control in ready:
            data = b""
            with suppress(ConnectionError):
                data = self._control.recv(1 << 16)
            self._gone = not data
            self._lines += data
            while b"\n" in self._lines:
                line, self._lines = self._lines.split(b"\n", 1)
                self._obey(json.loads(line))
        self._reap()

    def _obey(self, order: dict[str, Any]) -> None:
        if "command" in order:
            self._order = order
        elif "end" in order:
            self._end_processes(GRACE)
        elif "done" in order:
            self._done = True

    def _say(self, message: dict[str, Any]) -> None:
        with suppress(OSError):
            self._control.sendall(json.dumps(message).encode() + b"\n")

    def _reap(self) -> None:
        while self._child:
            try:
                pid, status = os.waitpid(-1, os.WNOHANG)
            except ChildProcessError:
                return
            if not pid:
                return
            if pid == self._child:
                self._say({"exit": os.waitstatus_to_exitcode(status)})

    # ── The command ──────────────────────────────────────────────────────────────────────────────────────────────────

    def _start(self) -> None:
        ours, theirs = socket.socketpair()
        parent = os.getpid()
        self._child = os.fork()
        if not self._child:
            try:
                self._become_command(theirs, parent)
            except BaseException as error:  # noqa: BLE001 - this process must not go on as a second supervisor
                self._say({"failed": f"{type(error).__name__}: {error}"})
            os._exit(127)
        theirs.close()
        if self._rules is not None:
            _, descriptors, _, _ = socket.recv_fds(ours, 1, 1)
            self._listener = descriptors[0] if descriptors else None
        ours.close()
        self._say({"started": self._child})

    def _become_command(self, theirs: socket.socket, parent: int) -> None:
        os.setsid()  # Ctrl-C in the terminal is guard's, which ends the command in order
        ctypes.CDLL(None).prctl(_SET_PDEATHSIG, signal.SIGTERM)
        if os.getppid() != parent:
            return
        for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
            signal.signal(number, signal.SIG_DFL)
        if self._rules is not None:
            listener = confine.install()
            socket.send_fds(theirs, [b"x"], [listener])
            os.close(listener)
        command = self._order["command"]
        os.execvpe(command[0], command, self._order["environment"])  # noqa: S606 - the user's own words, without a shell

    def _end_processes(self, grace: float) -> None:
        for number, seconds in ((signal.SIGTERM, grace), (signal.SIGKILL, 5.0)):
            deadline = time.monotonic() + seconds
            asked: set[int] = set()
            while (there := processes.descendants(os.getpid())) and time.monotonic() < deadline:
                for pid in there:
                    if pid not in asked:
                        asked.add(pid)
                        with suppress(ProcessLookupError):
                            os.kill(pid, number)
                if (
                    self._listener is not None
                    and self._rules is not None
                    and select.select([self._listener], [], [], 0)[0]
                ):
                    confine.answer(self._listener, self._rules)
                self._reap()
                time.sleep(0.02)

    def _end_unguarded(self) -> None:
        sessions = []
        own = conn = None
        with suppress(Exception):  # whatever the server says, the processes are ended
            from pgvigil import database
            from pgvigil.guard import sessions as known
            from pgvigil.guard import watch

            target = database.Target(self._order["target"], "the guard")
            conn = database.connect(target, "guard (clean up)")
            own = known.Own(
                known.Route.of(conn), lambda: processes.sockets(processes.descendants(os.getpid())),
                self._order["token"], self._order["declared"],
            )  # fmt: skip
            sessions = watch.find(conn, own, self._order["since"])
        self._end_processes(GRACE)
        if conn is not None and own is not None:
            with suppress(Exception):
                watch.terminate(conn, own, sessions)
            conn.close()
