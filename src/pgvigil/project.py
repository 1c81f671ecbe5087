"""Where the SQL and the spec lie: `scripts/` of the checkout, or the copy a wheel carries beside the code."""

from __future__ import annotations

import os
from pathlib import Path

from pgvigil.text import quoted

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE.parents[1]
SCRIPTS = _PACKAGE / "scripts" if (_PACKAGE / "scripts").is_dir() else ROOT / "scripts"

MIGRATIONS = SCRIPTS / "migrations"
SPEC = SCRIPTS / "schema-spec.yaml"
SPEC_SCHEMA = SCRIPTS / "schema-spec.schema.json"
INIT_SQL = SCRIPTS / "init-enhanced-db.sql"
REFERENCE_DIGESTS = SCRIPTS / "reference-digests.txt"
REFERENCE = ROOT / "docs" / "reference.md"  # only a checkout has it


def program() -> str:
    """How the user calls us, quoted for the shell: the scripts say so, else it is the installed command."""
    return quoted(os.environ.get("PGVIGIL_PROGRAM") or "pgvigil")


def command(*words: str, schema: str | None = None, option: str = "") -> str:
    """A command that can be pasted: its words are quoted for the shell; `option` is a target's, which is quoted already."""
    if schema is not None and schema != "public":
        words = (
            *words,
            f"--schema={schema}" if schema.startswith("-") else "--schema",
            *[schema] * (schema[:1] != "-"),
        )
    return " ".join([program(), *map(quoted, words)]) + option


def script(name: str) -> str:
    """Another of the scripts beside the program, quoted for the shell."""
    program = os.environ.get("PGVIGIL_PROGRAM")
    return quoted(str(Path(program).with_name(name))) if program else f"scripts/{name}"
