"""The files in the user's cache directory, found again by what they were made from. Their loss costs time only.

Content of these files is trusted. So only a file is read that nobody else can have written: a regular file of ours, in
a directory of ours, neither of them open to others.
"""

from __future__ import annotations

import dataclasses
import hashlib
import os
import re
import stat
import tempfile
from contextlib import suppress
from pathlib import Path

from pgvigil import input_files
from pgvigil.validate.spec import cache
from pgvigil.validate.spec.declaration import Declaration

KEPT = 32  # files; the oldest go first
_NAME = re.compile(r"(reference|spec)-[^/]*\.json|pgvigil-[a-z0-9_]*\.new")  # what we write there, and nothing else


def directory() -> Path:
    """Return `$XDG_CACHE_HOME/pgvigil`, by default in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "pgvigil"


def read(name: str) -> str | None:
    try:
        folder = directory()
        if not _is_closed(folder.stat()):
            return None
        handle = os.open(folder / name, os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC)
        with os.fdopen(handle, encoding="utf-8") as file:
            found = os.fstat(handle)
            return file.read() if stat.S_ISREG(found.st_mode) and _is_closed(found) else None
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: a user without a home
        return None


def write(name: str, text: str) -> None:
    """Write a file whole or not at all, readable for its owner only.

    A directory that is not ours or not writable is not an error.
    """
    with suppress(OSError, RuntimeError):
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if not _is_closed(folder.stat()):
            return
        handle, path = tempfile.mkstemp(dir=folder, prefix="pgvigil-", suffix=".new")
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(path).replace(folder / name)
        _prune(folder)


def _prune(folder: Path) -> None:
    """Remove the oldest files that we wrote; other files there are not ours to remove."""
    ours = []
    for path in folder.iterdir():
        with suppress(FileNotFoundError):  # another process was quicker
            found = path.lstat()
            if _NAME.fullmatch(path.name) and stat.S_ISREG(found.st_mode) and found.st_uid == os.geteuid():
                ours.append((found.st_mtime, path))
    for _, path in sorted(ours)[:-KEPT]:
        path.unlink(missing_ok=True)


def _is_closed(found: os.stat_result) -> bool:
    return found.st_uid in (os.geteuid(), 0) and not found.st_mode & (stat.S_IWGRP | stat.S_IWOTH)


def load_declaration(path: Path) -> Declaration:
    """Return the declaration of a spec file.

    It is cached, because a spec of ten thousand objects takes seconds to read and check.
    """
    code = [
        Path(__file__).with_name(name).read_bytes()
        for name in ("document.py", "loader.py", "expand.py", "declaration.py")
    ]
    raw = input_files.read_spec(path)
    name = f"spec-{hashlib.sha256(b''.join([raw, *code])).hexdigest()}.json"
    if text := cache.read(name):
        with suppress(ValueError, TypeError, KeyError):
            return dataclasses.replace(Declaration.from_json(text), name=path.name)
    from pgvigil.validate.spec.expand import declare
    from pgvigil.validate.spec.loader import load_spec

    made = declare(load_spec(path, raw))
    cache.write(name, made.to_json())
    return made
