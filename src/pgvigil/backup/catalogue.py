"""The backups in a directory: which exist, the state of each, and which may be deleted.

listing(directory) -> list[Entry]                        newest first
prune(directory, keep_days, of=None) -> Pruned           also while other processes make, read or prune
"""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Literal

from pgvigil.backup import manifest, pg_tools
from pgvigil.backup.manifest import Backup
from pgvigil.errors import BackupError, RestoreError

State = Literal[
    "verified", "read", "unverified", "failed", "damaged", "missing", "being made", "abandoned", "no manifest", "foreign"
]  # fmt: skip


@dataclass(frozen=True)
class Entry:
    """A backup, complete or not. `size` is in bytes, on disk; `backup` is None if there is no manifest.

    verified: restored and compared; read: decoded to its end; unverified: made by another tool; failed: a verification found a
    difference; damaged: its size has changed; missing: its archive does not exist; abandoned: the process that made it was killed;
    foreign: it belongs to another user, or others may write to it, so its contents are not trusted and it is not deleted.
    """

    archive: Path
    state: State
    size: int
    backup: Backup | None

    @property
    def taken(self) -> datetime:
        return datetime.fromisoformat(self.backup.began_at) if self.backup else datetime.max.replace(tzinfo=UTC)


@dataclass(frozen=True)
class Pruned:
    """A result of a prune. `spared` were old enough, but are the last ones of their database, or are being read."""

    removed: list[Entry]
    spared: list[Entry]


def listing(directory: Path) -> list[Entry]:
    """List the backups in a directory without opening any. A missing directory has none. Raise BackupError."""
    try:
        names = [path.name for path in directory.iterdir()] if directory.exists() else []
    except OSError as error:
        raise pg_tools.unusable(directory, error, "no backup can be read from") from error
    stems = {
        name.rpartition(".")[0] for name in names if name.endswith((".dump", ".json", ".part")) and name[0] != "."
    } - {name.removesuffix(".part") for name in names if name.endswith(".schema.part")}
    entries = [entry for stem in stems if (entry := _entry(directory / f"{stem}.dump"))]
    return sorted(entries, key=lambda entry: (entry.taken, entry.archive.name), reverse=True)


def _entry(archive: Path) -> Entry | None:
    part = archive.with_suffix(".part")
    for path in (part, archive):
        if not manifest.is_ours(path):
            with suppress(OSError):
                return Entry(archive, "foreign", path.lstat().st_size, None)
    try:
        backup = manifest.read(archive.with_suffix(".json"))
    except RestoreError:
        backup = None
    # A part may become an archive in the meantime: it has one name or the other.
    with suppress(FileNotFoundError):
        return Entry(archive, "being made" if _is_held(part) else "abandoned", part.stat().st_size, backup)
    try:
        size = archive.stat().st_size
    except FileNotFoundError:
        if backup is None:
            return None  # a .json of another program
        return Entry(archive, "missing" if backup.archive else "unverified", 0, backup)
    if backup is None:
        ours = manifest.is_ours(archive.with_suffix(".json"))
        return Entry(archive, "no manifest" if ours else "foreign", size, None)
    if size != backup.size:
        return Entry(archive, "damaged", size, backup)
    states: dict[str, State] = {"restore": "verified", "read": "read"}
    return Entry(archive, states.get(backup.proof, "failed"), size, backup)


def _is_held(part: Path) -> bool:
    try:
        with manifest.alone(part) as free:
            return not free
    except PermissionError:  # another user's directory: it can be read, but not locked
        return True


def prune(directory: Path, keep_days: float, *, of: tuple[str, str] | None = None) -> Pruned:
    """Delete older backups, of one origin only if given, and the files of killed processes.

    The newest full backup of each database, and the newest that a restore has verified, are kept whatever their age; so
    is a backup that is being made or read. Raise BackupError.
    """
    entries = [
        entry
        for entry in listing(directory)
        if of is None or entry.state == "abandoned" or (entry.backup and entry.backup.origin == of)
    ]
    before = datetime.now(UTC) - timedelta(days=keep_days)
    last = _last(entries)
    removed: list[Entry] = []
    spared: list[Entry] = []
    try:
        for entry in entries:
            if entry.state == "abandoned" or (entry.backup and entry.state != "being made" and entry.taken < before):
                (removed if entry not in last and _remove(entry) else spared).append(entry)
    except OSError as error:
        raise BackupError(
            f"{error.filename or directory} cannot be removed: {error.strerror}", "Fix this, then run again."
        ) from error
    return Pruned(removed, spared)


def _last(entries: Iterable[Entry]) -> list[Entry]:
    """Return the entries that must be kept. Entries come newest first."""
    kept: dict[tuple[tuple[str, str], str], Entry] = {}
    for entry in entries:
        if entry.backup and entry.backup.kind == "full" and entry.state in ("verified", "read"):
            kept.setdefault((entry.backup.origin, "newest"), entry)
            if entry.state == "verified":
                kept.setdefault((entry.backup.origin, "verified"), entry)
    return list(kept.values())


def _remove(entry: Entry) -> bool:
    """Delete an entry, its manifest last, so that the rest of a killed prune can still be identified."""
    part, archive = entry.archive.with_suffix(".part"), entry.archive
    path = part if entry.state == "abandoned" else archive
    try:
        with manifest.alone(path) as free:
            if not free:
                return False
            path.unlink()
            part.with_suffix(".schema.part").unlink(missing_ok=True)
    except FileNotFoundError:  # another prune was quicker, or there was none
        if part.exists() or archive.exists():
            return False
    archive.with_suffix(".json").unlink(missing_ok=True)
    return True
