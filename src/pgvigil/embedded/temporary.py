"""A temporary server for tests and scratch work."""

from __future__ import annotations

import os
import secrets
import shutil
import signal
import socket
import subprocess
import tempfile
import time
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import NoReturn, Self
from urllib.parse import quote

from pgvigil.embedded.process import (
    PORT,
    SHORT,
    START_TIMEOUT,
    die_with_parent,
    find_account,
    give,
    home_mode,
    initdb,
    not_elsewhere,
    process_options,
    runnable,
    server_command,
    socket_url,
    state,
    tail,
)
from pgvigil.errors import ConnectError, UsageError

_MEMORY = Path("/dev/shm")  # noqa: S108 - as /tmp
_ROOM = 4 * 2**30  # bytes; by default a container has 64 MB of it


class Server:
    """A private server in its own directory under /tmp, with fsync off; it ends with the thread that started it.

    `in_memory`: its data too, if there is room. Creating and dropping a database, which has a thousand files, takes a tenth of the time.
    """

    def __init__(
        self, bindir: Path, *, tcp: bool = False, settings: Mapping[str, str] | None = None, in_memory: bool = False
    ) -> None:
        self.tcp = tcp
        self.settings = dict(settings or {})
        self.password = secrets.token_hex(16)
        self.port = PORT
        self._account = find_account()
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = self._volatile = Path(tempfile.mkdtemp(prefix="pgvigil-", dir=SHORT))
        if in_memory and os.access(_MEMORY, os.W_OK) and shutil.disk_usage(_MEMORY).free >= _ROOM:
            self._volatile = Path(tempfile.mkdtemp(prefix="pgvigil-", dir=_MEMORY))
        self.data = self._volatile / "data"
        self.log = self.directory / "server.log"
        self._sockets = self.directory / "run"
        try:
            for place in {self.directory, self._volatile}:
                place.chmod(home_mode())
            for place in (self.data, self._sockets):
                place.mkdir(mode=0o700)
                give(place, self._account)
            self.bindir, self.major = runnable(bindir, self._account, self.directory / "pg")
        except BaseException:
            self.stop()
            raise

    def start(self) -> Self:
        try:
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            attempts = 5  # another process may take the free port between the check and the server's bind
            while not self._launch():
                attempts -= 1
                if not attempts:
                    self._fail("did not start")
        except BaseException:
            self.stop()
            raise
        return self

    def _fail(self, what: str) -> NoReturn:
        raise ConnectError(f"The scratch PostgreSQL server {what}:\n{tail(self.log)}")

    def _initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.touch(0o600)
        password_file.write_text(self.password)
        give(password_file, self._account)
        auth = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password_file}"]
        initdb(self.bindir, self.major, self.data, self._account, ["--no-sync", *auth])
        password_file.unlink()

    def _launch(self) -> bool:
        if self.tcp:
            with socket.socket() as probe:
                probe.bind(("127.0.0.1", 0))
                self.port = probe.getsockname()[1]
        settings = {
            "listen_addresses": "127.0.0.1" if self.tcp else "",
            "unix_socket_directories": str(self._sockets),
            "fsync": "off",
            "synchronous_commit": "off",
            "full_page_writes": "off",
            "shared_buffers": "64MB",
        }
        with self.log.open("ab") as log:
            self._process = subprocess.Popen(
                server_command(self.bindir, self.data, self.port, settings | self.settings),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal must reach only this process, which stops the server in order
                preexec_fn=die_with_parent(),
                **process_options(self._account),
            )
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            if state(self.data) == "ready":
                return True
            time.sleep(0.01)
        if self._process.poll() is None:
            self._fail(f"was not ready after {START_TIMEOUT:.0f} s")
        return False

    def dsn(self, dbname: str = "postgres") -> str:
        return socket_url(self._sockets, self.port, dbname)

    def tcp_dsn(self, dbname: str = "postgres") -> str:
        if not self.tcp:
            raise UsageError("This scratch server has no TCP port.", "Create it with `Server(bindir, tcp=True)`.")
        return (
            f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{quote(dbname, safe='')}{not_elsewhere('?')}"
        )

    def stop(self) -> None:
        """End the server and remove its directory."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        for place in {self.directory, self._volatile}:
            shutil.rmtree(place, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()
