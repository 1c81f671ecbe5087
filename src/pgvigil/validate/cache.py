"""Files in the user's cache directory, found again by what they were made from. Losing them costs time, nothing else.

A file that somebody else owns, or could have written or renamed into place, is not read.
"""

from __future__ import annotations

import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

KEPT = 32  # files; the oldest go first
_OWN = re.compile(r"(reference|spec)-[0-9a-f]{64}\.json|pgvigil-[^.]*\.tmp")


def directory() -> Path:
    """`$XDG_CACHE_HOME/pgvigil`, by default in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "pgvigil"


def read(name: str) -> str | None:
    try:
        folder = directory()
        if not _is_ours(folder.stat()):
            return None
        with os.fdopen(os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK), encoding="utf-8") as file:
            of_file = os.fstat(file.fileno())
            return file.read() if stat.S_ISREG(of_file.st_mode) and _is_ours(of_file) else None
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: a user without a home
        return None


def write(name: str, text: str) -> None:
    """Whole or not at all, and only for its owner; a directory that cannot be written to is no error."""
    with suppress(OSError, RuntimeError):
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_ours(folder.stat()):
            return  # it would not be read again
        handle, path = tempfile.mkstemp(prefix="pgvigil-", suffix=".tmp", dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(path).replace(folder / name)
        _prune(folder)


def _prune(folder: Path) -> None:
    """What is called and owned as ours is; others may keep files in the same place."""
    ours = []
    for path in folder.iterdir():
        of_file = path.lstat()
        if _OWN.fullmatch(path.name) and stat.S_ISREG(of_file.st_mode) and of_file.st_uid == os.getuid():
            ours.append((of_file.st_mtime, path))
    for _, old in sorted(ours)[:-KEPT]:
        old.unlink(missing_ok=True)


def _is_ours(of_file: os.stat_result) -> bool:
    """Nobody but its owner, who is the one who asks, can write to it."""
    return of_file.st_uid == os.getuid() and not of_file.st_mode & (stat.S_IWGRP | stat.S_IWOTH)
