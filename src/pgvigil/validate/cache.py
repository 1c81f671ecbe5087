"""Files in the user's cache directory, found again by what they were made from. Losing them costs time, nothing else."""

from __future__ import annotations

import os
import tempfile
from contextlib import suppress
from pathlib import Path

KEPT = 32  # files; the oldest go first


def directory() -> Path:
    """`$XDG_CACHE_HOME/pgvigil`, by default in `~/.cache`."""
    base = os.environ.get("XDG_CACHE_HOME")
    return (Path(base) if base else Path("~/.cache").expanduser()) / "pgvigil"


def read(name: str) -> str | None:
    try:
        path = directory() / name
        owner = path.stat().st_uid
        return path.read_text(encoding="utf-8") if owner in (os.getuid(), 0) else None
    except (OSError, RuntimeError, UnicodeDecodeError):  # RuntimeError: a user without a home
        return None


def write(name: str, text: str) -> None:
    """Whole or not at all, and only for its owner; a directory that cannot be written to is no error."""
    with suppress(OSError, RuntimeError):
        folder = directory()
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        handle, path = tempfile.mkstemp(dir=folder)
        with os.fdopen(handle, "w", encoding="utf-8") as file:
            file.write(text)
        Path(path).replace(folder / name)
        for old in sorted(folder.iterdir(), key=lambda file: file.stat().st_mtime)[:-KEPT]:
            old.unlink()
