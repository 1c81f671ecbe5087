"""The manifest of a backup: what its archive holds, of which moment, and what proved it. It lies beside the archive.

read(path) -> Backup                    the manifest alone
opened(archive) -> Backup               … after the archive was held against its SHA-256
write(backup)                           mode 0600, whole or not at all
making(part), opened(archive), alone(path)      an archive that is being made or read is not taken away
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import secrets
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import IO, Literal

from pgvigil.build.contents import Table
from pgvigil.errors import RestoreError, UnequalError

Kind = Literal["full", "schema", "command"]

_KEEP = "Keep archive and manifest together, under the names they were given."


@dataclass(frozen=True)
class Backup:
    """The manifest as it is written. Sizes in bytes, times in seconds.

    `proof` is "read", "restore", "exit status" (of a command), or "failed" where a later verification found it wanting;
    `verified` says so in words. `findings` are what the integrity report of the restored copy told.
    `archive`, `sha256` and `size` are None, "" and 0 for kind "command". `tables` is filled for kind "full".
    `wal_lsn`, `snapshot` and `snapshot_at` (the server's clock) say which moment the archive shows.
    """

    kind: Kind
    proof: str
    archive: str | None
    manifest: str
    sha256: str
    size: int
    database: str
    database_size: int
    system_identifier: str
    server_version: str
    pg_dump_version: str | None
    pgvigil_version: str
    revision: str | None
    began_at: str
    seconds: float
    verified: str
    verified_at: str
    wal_lsn: str
    snapshot: str
    snapshot_at: str
    public_schema: bool
    large_objects: int
    findings: list[str] = field(default_factory=list)
    tables: dict[str, Table] = field(default_factory=dict)

    @property
    def rows(self) -> int:
        """Of all tables."""
        return sum(table.rows for table in self.tables.values())

    @property
    def origin(self) -> tuple[str, str]:
        """Which database of which server it is of."""
        return self.system_identifier, self.database


def read(path: Path) -> Backup:
    """A manifest, its paths as they are now. Raises RestoreError."""
    path = path.absolute()
    try:
        values = json.loads(path.read_text())
        values["tables"] = {name: Table(**table) for name, table in values["tables"].items()}
        values["manifest"] = str(path)
        values["archive"] = values["archive"] and str(path.with_suffix(".dump"))
        return Backup(**{f.name: values[f.name] for f in fields(Backup)})
    except OSError as error:
        raise RestoreError(f"{path} cannot be read: {error.strerror}", _KEEP) from error
    except (ValueError, TypeError, KeyError, AttributeError) as error:
        raise RestoreError(f"{path} is no manifest of this version of pgvigil", _KEEP) from error


@contextmanager
def opened(archive: Path) -> Iterator[Backup]:
    """The manifest of an archive that is what the manifest says; prune passes it over while the block lasts.

    Raises RestoreError, and UnequalError for an archive that is not the one described.
    """
    backup = read(archive.with_suffix(".json"))
    try:
        file = archive.open("rb")
    except OSError as error:
        raise RestoreError(f"{archive} cannot be read: {error.strerror}", _KEEP) from error
    with file:
        with suppress(OSError):  # a file system that has no locks
            fcntl.flock(file, fcntl.LOCK_SH)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != backup.sha256:
            raise UnequalError(
                f"{archive} is not what its manifest describes: SHA-256 is {sha256[:16]}…, was {backup.sha256[:16]}…",
                "It was damaged or exchanged after it was taken: use another backup. Nothing was changed.",
            )
        yield backup


def write(backup: Backup) -> None:
    """Puts the manifest in its place."""
    path = Path(backup.manifest)
    new = path.with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        with os.fdopen(os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(json.dumps(asdict(backup), indent=2) + "\n")
            file.flush()
            os.fsync(file.fileno())
        new.rename(path)
    finally:
        new.unlink(missing_ok=True)


# ── Who is at a file. The lock of a process that was killed is gone with it ───────────────────────────────────────────


@contextmanager
def making(part: Path) -> Iterator[IO[bytes]]:
    """Makes a file that was not there, mode 0600; alone() says no while the block lasts."""
    while True:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else it was taken for abandoned in the instant before the lock
                yield file
                return


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Whether nobody makes or reads a file; nobody begins to while the block lasts. Raises OSError."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
