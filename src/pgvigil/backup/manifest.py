"""The manifest of a backup: what its archive holds, as of which moment, and how it was verified. It is stored beside the archive.

read(path) -> Backup                    the manifest alone
opened(archive) -> Backup               … after the archive was checked against its SHA-256
write(backup)                           mode 0600, complete or not at all
making(part), opened(archive), alone(path)      lock an archive against deletion while it is made or read
"""

from __future__ import annotations

import fcntl
import hashlib
import json
import os
import re
import secrets
import shlex
import stat
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import asdict, dataclass, field, fields
from datetime import datetime
from io import BufferedReader
from pathlib import Path
from typing import IO, Any, Literal, get_args

from pgvigil.backup.fingerprint import Extension, TableFingerprint
from pgvigil.errors import RestoreError, UnequalError
from pgvigil.posix_acl import has_acl

Kind = Literal["full", "schema", "command"]

_LARGEST = 64_000_000  # bytes of a manifest: a million tables and extension members
_KEEP = "Keep archive and manifest together, under the names they were given."


@dataclass(frozen=True)
class Backup:
    """A manifest as it is written. Sizes in bytes, times in seconds.

    `proof` is "read", "restore", "exit status" (of a command), or "failed" after a later verification found a difference;
    `verified` describes it. `findings` are those of the integrity report of the restored copy.
    `archive`, `sha256` and `size` are None, "" and 0 for kind "command". `tables` is filled for kind "full".
    `wal_lsn`, `snapshot` and `snapshot_at` (the server's clock) identify the moment that the archive shows. `schema_digest` is of the
    definitions as pg_dump wrote them in a separate archive. `roles` are those that the archive names, `owners` those that own
    objects in it that can hold code (None: not known). `extensions` describes their contents; `left_out` describes what of them
    is not in the archive.
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
    tables: dict[str, TableFingerprint] = field(default_factory=dict)
    schema_digest: str = ""
    roles: list[str] = field(default_factory=list)
    owners: list[str] | None = None
    extensions: dict[str, Extension] = field(default_factory=dict)
    left_out: list[str] = field(default_factory=list)

    @property
    def rows(self) -> int:
        """Return the number of rows of all tables."""
        return sum(table.rows for table in self.tables.values())

    @property
    def origin(self) -> tuple[str, str]:
        """Return the server's identifier and the database's name."""
        return self.system_identifier, self.database


def read(path: Path) -> Backup:
    """Read a manifest and adapt its paths to where it is now. Raise RestoreError for any invalid contents."""
    path = path.absolute()
    damaged = f"{path} is not a manifest of this version of pgvigil"
    try:
        with _open(path) as file:
            text = file.read(_LARGEST + 1)
        values = dict(json.loads(text if len(text) <= _LARGEST else b""))
        values["tables"] = _tables(values["tables"])
        values["extensions"] = {
            name: Extension(**{**its, "tables": _tables(its["tables"])})
            for name, its in values.get("extensions", {}).items()
        }
        values["manifest"] = str(path)
        values["archive"] = values["archive"] and str(path.with_suffix(".dump"))
        made = Backup(**{f.name: values[f.name] for f in fields(Backup) if f.name in values})
        _check(made)
    except OSError as error:
        raise RestoreError(f"{path} cannot be read: {error.strerror}", _KEEP) from error
    except (ValueError, TypeError, KeyError, AttributeError, OverflowError, RecursionError) as error:
        raise RestoreError(damaged, _KEEP) from error
    return made


def _tables(values: dict[str, Any]) -> dict[str, TableFingerprint]:
    return {name: TableFingerprint(**table) for name, table in values.items()}


_LISTS_OF_TEXT = ("findings", "roles", "owners", "left_out")
_NUMBERS = ("size", "database_size", "large_objects", "seconds")
_MAY_BE_NONE = ("archive", "revision", "pg_dump_version", "owners")


def _check(made: Backup) -> None:
    """Raise ValueError or TypeError unless every field has its type, so that code that reads one later cannot fail."""
    for each in fields(Backup):
        value = getattr(made, each.name)
        if value is None:
            fits = each.name in _MAY_BE_NONE
        elif each.name in _LISTS_OF_TEXT:
            fits = isinstance(value, list) and all(isinstance(text, str) for text in value)
        elif each.name in _NUMBERS:
            fits = isinstance(value, int | float) and not isinstance(value, bool) and 0 <= value < 2**63
        elif each.name == "public_schema":
            fits = isinstance(value, bool)
        elif each.name in ("tables", "extensions"):
            continue
        else:
            fits = isinstance(value, str)
        if not fits:
            raise TypeError(each.name)
    held = [*made.tables.values(), *(table for its in made.extensions.values() for table in its.tables.values())]
    lists = [*(table.columns for table in held), *(its.members for its in made.extensions.values())]
    if made.kind not in get_args(Kind) or (made.kind == "command") != (made.archive is None):
        raise ValueError("kind")
    if not all(type(table.rows) is int and isinstance(table.digest, str) for table in held):
        raise TypeError("tables")
    if not all(isinstance(each, list) and all(isinstance(text, str) for text in each) for each in lists):
        raise TypeError("tables")
    if made.pg_dump_version is not None and major(made.pg_dump_version) is None:
        raise ValueError("pg_dump_version")
    for moment in (made.began_at, made.verified_at):
        if datetime.fromisoformat(moment).tzinfo is None:
            raise ValueError(moment)


def major(version: str | None) -> int | None:
    """Return the major version of "15.20 (Debian …)" or "18beta1"; None for no version."""
    found = re.match(r"\d{1,4}(?!\d)", version or "", re.ASCII)
    return int(found[0]) if found else None


def _open(path: Path) -> BufferedReader:
    """Open a regular file, not a link, that only its owner and root can have written. Raise OSError, RestoreError.

    A file of another user is refused too: the manifest is trusted, and the archive's contents are run.
    """
    file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC), "rb")
    try:
        require_ours(path, os.fstat(file.fileno()))
    except BaseException:
        file.close()
        raise
    return file


def require_ours(path: Path, found: os.stat_result) -> None:
    """Raise RestoreError for a file that another user owns or may write to."""
    reason = ""
    if not stat.S_ISREG(found.st_mode):
        reason = "is not a regular file"
    elif found.st_uid not in (os.geteuid(), 0):
        reason = f"belongs to another user (uid {found.st_uid})"
    elif found.st_mode & stat.S_IWOTH or (
        found.st_mode & stat.S_IWGRP and (found.st_gid != os.getegid() or has_acl(path))
    ):
        reason = "may be written by others"
    if reason:
        quoted = shlex.quote(str(path))
        raise RestoreError(
            f"{path} {reason}: its contents cannot be trusted",
            f"Run this as its owner, or, if its contents are trusted, make this user its only owner: chown $(id -u) {quoted} && chmod 600 {quoted}",
        )


def is_ours(path: Path) -> bool:
    """Return true if `read` and `opened` accept the file, or if there is none."""
    try:
        require_ours(path, path.lstat())
    except FileNotFoundError:
        return True
    except (OSError, RestoreError):
        return False
    return True


def require_our_directory(directory: Path) -> None:
    """Raise RestoreError for a directory in which another user could exchange a file between two reads of it, and OSError."""
    found = directory.stat()
    reason = ""
    if found.st_uid not in (os.geteuid(), 0):
        reason = f"belongs to another user (uid {found.st_uid})"
    elif not found.st_mode & stat.S_ISVTX and (
        found.st_mode & stat.S_IWOTH
        or (found.st_mode & stat.S_IWGRP and (found.st_gid not in (os.getegid(), 0) or has_acl(directory)))
    ):
        reason = "may be written by others"
    if reason:
        raise RestoreError(
            f"{directory} {reason}: other users could replace a backup in it",
            "Run this as its owner, or use a directory of this user.",
        )


@contextmanager
def opened(archive: Path) -> Iterator[Backup]:
    """Yield the manifest of an archive that matches it; prune skips the archive while the block lasts.

    Raise RestoreError, and UnequalError for an archive that does not match.
    """
    try:
        require_our_directory(archive.absolute().parent)
        backup = read(archive.with_suffix(".json"))
        file = _open(archive)
    except OSError as error:
        raise RestoreError(f"{archive} cannot be read: {error.strerror}", _KEEP) from error
    with file:
        with suppress(OSError):  # a file system without locks
            fcntl.flock(file, fcntl.LOCK_SH)
        sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if sha256 != backup.sha256:
            raise UnequalError(
                f"{archive} does not match its manifest: SHA-256 is {sha256[:16]}…, was {backup.sha256[:16]}…",
                "It was damaged or replaced after it was taken: use another backup. Nothing was changed.",
            )
        yield backup


def write(backup: Backup) -> None:
    """Write the manifest to its place."""
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


# ── Locks on files. The lock of a killed process ends with it ───────────────────────────────────────────────────────


@contextmanager
def making(part: Path) -> Iterator[IO[bytes]]:
    """Create a new file, mode 0600; alone() returns false while the block lasts."""
    while True:
        with os.fdopen(os.open(part, os.O_RDWR | os.O_CREAT | os.O_EXCL, 0o600), "r+b") as file:
            with suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
            if os.fstat(file.fileno()).st_nlink:  # else a prune took it for abandoned in the instant before the lock
                yield file
                return


@contextmanager
def alone(path: Path) -> Iterator[bool]:
    """Return true if no process makes or reads a file; none can begin to while the block lasts. Raise OSError."""
    with path.open("r+b") as file:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            yield False
            return
        yield True
