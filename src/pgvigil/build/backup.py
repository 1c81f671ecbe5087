"""A backup that is proved: dumped in full, read back in full, hashed and described, before anything is changed."""

from __future__ import annotations

import hashlib
import json
import os
import re
import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

import psycopg

from pgvigil import __version__, embedded
from pgvigil.database import Target
from pgvigil.errors import BackupError


@dataclass(frozen=True)
class Backup:
    """The manifest of a backup, as it is written beside the archive. Sizes in bytes, times in seconds."""

    archive: str
    sha256: str
    size: int
    database: str
    server_version: str
    pg_dump_version: str
    pgvigil_version: str
    revision: str | None
    began_at: str
    seconds: float
    verified: str


def default_directory() -> Path:
    """Where backups go unless told: PGVIGIL_BACKUP_DIR, else the user's state directory. Never the current directory."""
    given = os.environ.get("PGVIGIL_BACKUP_DIR")
    state = os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state"
    return Path(given) if given else Path(state) / "pgvigil" / "backups"


def take(
    conn: psycopg.Connection, target: Target, directory: Path, revision: str | None, told: Callable[[str], None]
) -> Backup:
    """Dumps the whole database (custom format, mode 0600), decodes the whole archive again, writes a manifest.

    Raises BackupError; then no archive is left behind.
    """
    pg_dump, version = find_tool("pg_dump", conn.info.server_version // 10000)
    pg_restore = pg_dump.with_name("pg_restore")
    if not pg_restore.is_file():
        raise BackupError(f"there is no pg_restore beside {pg_dump}: the backup could not be read back", _INSTALL)
    began = datetime.now(UTC)
    clock = time.monotonic()
    name = re.sub(r"[^\w.-]", "_", conn.info.dbname)
    stem = f"{name}-{began:%Y%m%dT%H%M%S.%fZ}-at-{revision or 'base'}"
    archive = directory.absolute() / f"{stem}.dump"
    part = archive.with_suffix(".part")
    try:
        directory.mkdir(parents=True, exist_ok=True, mode=0o700)
        part.touch(mode=0o600, exist_ok=False)
    except OSError as error:
        raise BackupError(f"no backup can be written to {directory}: {error.strerror}", _ELSEWHERE) from error
    try:
        arguments = ["--format=custom", "--no-password", f"--file={part}", f"--dbname={target.public_conninfo}"]
        _run([str(pg_dump), *arguments], target, f"pg_dump could not back the database up to {directory}")
        told(f"{part.stat().st_size / 1e6:.1f} MB written, reading it back")
        # A listing would accept an archive that is cut off; only decoding every block proves it.
        _run([str(pg_restore), f"--file={os.devnull}", str(part)], target, "the backup cannot be read back")
        with part.open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
            os.fsync(file.fileno())
        backup = Backup(
            archive=str(archive),
            sha256=sha256,
            size=part.stat().st_size,
            database=conn.info.dbname,
            server_version=conn.info.parameter_status("server_version") or "",
            pg_dump_version=version,
            pgvigil_version=__version__,
            revision=revision,
            began_at=began.isoformat(timespec="seconds"),
            seconds=round(time.monotonic() - clock, 2),
            verified="read: every block decoded",
        )
        _write_private(archive.with_suffix(".json"), json.dumps(asdict(backup), indent=2) + "\n")
        part.rename(archive)
    except OSError as error:
        raise BackupError(f"the backup in {directory} failed: {error.strerror}", _ELSEWHERE) from error
    finally:
        part.unlink(missing_ok=True)
    return backup


def find_tool(name: str, server_major: int) -> tuple[Path, str]:
    """The client program that can serve this server, and its version.

    PGVIGIL_PG_BIN names the only directory looked in; else the one on PATH, the newest installed by Debian's packages,
    the embedded server's. The first that is not older than the server is taken.
    Raises BackupError when there is none, or when the one that PATH or PGVIGIL_PG_BIN names does not run.
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
        raise BackupError(f"{name} was not found{f' in {chosen}' if chosen else ''}", _INSTALL)
    raise BackupError(
        f"{name} is older than the server ({server_major}) and cannot dump it: {'; '.join(seen)}", _INSTALL
    )


_INSTALL = (
    "Install the PostgreSQL client programs of the server's version or newer (Debian: apt-get install postgresql-client), "
    "or point PGVIGIL_PG_BIN at their directory. Nothing was changed."
)
_ELSEWHERE = "Make room or choose another place with --backup-dir. Nothing was changed."


def _version(tool: Path) -> str:
    try:
        answer = subprocess.run([tool, "--version"], capture_output=True, text=True, timeout=30, check=True).stdout
        return re.search(r"\d+(\.\d+)?", answer.partition(")")[2])[0]  # type: ignore[index]
    except (OSError, subprocess.SubprocessError, TypeError) as error:
        raise BackupError(f"{tool} does not run or does not tell its version", _INSTALL) from error


def _run(arguments: list[str], target: Target, what: str) -> None:
    """Runs a client program; its own words become the error."""
    try:
        with subprocess.Popen(
            arguments,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            env=target.client_environment,
        ) as process:
            try:
                words = process.communicate()[1]
            except BaseException:
                process.terminate()  # Ctrl-C: the dump must not go on without us
                raise
    except OSError as error:
        raise BackupError(f"{what}: {error}", _INSTALL) from error
    if process.returncode:
        told = words.strip() or f"it ended with status {process.returncode}"
        raise BackupError(
            f"{what}:\n  " + told.replace("\n", "\n  "), _ELSEWHERE if "space" in told else "Nothing was changed."
        )


def _write_private(path: Path, text: str) -> None:
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)
