"""The manifest of an archive: which files it has, and what is in them. pgvigil.archives holds its SHA-256, and it holds theirs."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass, fields
from typing import Any

from pgvigil.archives.store import require_name
from pgvigil.errors import ArchiveError

FORMAT = 1


@dataclass(frozen=True)
class Part:
    """A Parquet file, in the directory of its manifest."""

    file: str
    rows: int
    bytes: int
    sha256: str


@dataclass(frozen=True)
class Manifest:
    """A description of an archive. Times are ISO 8601 in UTC; `columns` are the types in PostgreSQL."""

    source: str
    partition: str | None
    from_time: str
    to_time: str
    rows: int
    min_id: str | None
    max_id: str | None
    min_time: str | None
    max_time: str | None
    parts: list[Part]
    columns: dict[str, str]
    schema_revision: str
    system_identifier: str
    database: str
    server_version: str
    pgvigil_version: str
    written_at: str
    summary: Part | None = None  # see summary.py
    format: int = FORMAT

    @property
    def size(self) -> int:
        """Return the bytes of all files."""
        return sum(part.bytes for part in self.files)

    @property
    def files(self) -> list[Part]:
        """Return all files: those with rows, and the summary."""
        return [*self.parts, *([self.summary] if self.summary else [])]

    def dump(self) -> bytes:
        """Return the file's contents."""
        return json.dumps(asdict(self), indent=2).encode() + b"\n"


def load(name: str, contents: bytes) -> Manifest:
    """Read a manifest. Raise ArchiveError for anything else."""
    try:
        values: dict[str, Any] = json.loads(contents)
        parts = [Part(**part) for part in values.pop("parts")]
        summary = Part(**found) if (found := values.pop("summary", None)) is not None else None
        own = {f.name: values[f.name] for f in fields(Manifest) if f.name not in ("parts", "summary")}
        made = Manifest(parts=parts, summary=summary, **own)
        in_place = all("/" not in require_name(part.file) for part in made.files)
        is_valid = in_place and made.format == FORMAT and sum(part.rows for part in parts) == made.rows
    except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
        raise ArchiveError(f"{name} is not a manifest", "Restore it from a copy.") from error
    if not is_valid:
        raise ArchiveError(f"{name} is not a manifest of this version of pgvigil", "Use the version that wrote it.")
    return made
