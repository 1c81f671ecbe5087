"""The places of the SQL, the spec and the pages: those of the checkout, or the copies that a wheel has beside the code."""

from __future__ import annotations

import os
import shutil
import sys
from pathlib import Path

from pgvigil.errors import UsageError
from pgvigil.text import quoted

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE.parents[1]
IS_CHECKOUT = not (_PACKAGE / "scripts").is_dir()
SCRIPTS = ROOT / "scripts" if IS_CHECKOUT else _PACKAGE / "scripts"
DOCS = ROOT / "docs" if IS_CHECKOUT else _PACKAGE / "docs"

MIGRATIONS = SCRIPTS / "migrations"
SPEC = SCRIPTS / "schema-spec.yaml"
SPEC_SCHEMA = SCRIPTS / "schema-spec.schema.json"
INIT_SQL = SCRIPTS / "init-enhanced-db.sql"
REFERENCE_DIGESTS = SCRIPTS / "reference-digests.txt"
REFERENCE = DOCS / "reference.md"


def dotenv_directories() -> list[Path]:
    """The directories whose `.env` may name a database: the current one, and the checkout."""
    return [Path.cwd(), ROOT] if IS_CHECKOUT else [Path.cwd()]


def require_checkout(action: str) -> None:
    """Raise UsageError in an installed package, whose files pip replaces and compares with its record."""
    if not IS_CHECKOUT:
        raise UsageError(
            f"an installed pgvigil cannot {action}: its files belong to the package", "Run this in a checkout."
        )


def install(extra: str) -> str:
    """The command that adds an extra of the package, from where this code came."""
    return "pip install " + quoted(f"{ROOT if IS_CHECKOUT else 'pgvigil'}[{extra}]")


def program() -> str:
    """The word that calls this installation, quoted for the shell.

    scripts/pgvigil names itself. An installed command is called by its name alone if PATH leads to this one.
    """
    if named := os.environ.get("PGVIGIL_PROGRAM"):
        return quoted(named)
    own = _installed()
    if own is None:
        return "pgvigil"
    found = shutil.which("pgvigil")
    return "pgvigil" if found and Path(found).resolve() == own.resolve() else quoted(str(own))


def _installed() -> Path | None:
    """The command that pip installed with this package, if there is one."""
    called = Path(sys.argv[0] if sys.argv else "")
    places = [called.absolute()] if called.name == "pgvigil" else []
    return next((place for place in [*places, Path(sys.executable).with_name("pgvigil")] if place.is_file()), None)


def command(*words: str, schema: str | None = None, option: str = "") -> str:
    """A command that can be pasted: its words are quoted for the shell; `option` is a target's, which is quoted already."""
    if schema is not None and schema != "public":
        words = (
            *words,
            f"--schema={schema}" if schema.startswith("-") else "--schema",
            *[schema] * (schema[:1] != "-"),
        )
    return " ".join([program(), *map(quoted, words)]) + option
