"""Where the SQL and the spec lie: `scripts/` of the checkout, or the copy a wheel carries beside the code."""

from __future__ import annotations

from pathlib import Path

_PACKAGE = Path(__file__).resolve().parent
ROOT = _PACKAGE.parents[1]
SCRIPTS = _PACKAGE / "scripts" if (_PACKAGE / "scripts").is_dir() else ROOT / "scripts"

MIGRATIONS = SCRIPTS / "migrations"
SPEC = SCRIPTS / "schema-spec.yaml"
SPEC_SCHEMA = SCRIPTS / "schema-spec.schema.json"
INIT_SQL = SCRIPTS / "init-enhanced-db.sql"
REFERENCE = ROOT / "docs" / "reference.md"  # only a checkout has it
