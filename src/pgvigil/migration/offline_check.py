"""The checks without a server: the spec reads, every file is complete, the init script is the files' own."""

from __future__ import annotations

import re
from pathlib import Path

from pgvigil import project
from pgvigil.migration import doc_blocks, files, init_script, schema_reference, spec_blocks
from pgvigil.validate import load_spec
from pgvigil.validate.spec import json_schema

_RECORDED = re.compile(
    r"record_migration\('(\d{3})', '(\w+)', current_setting\('pgvigil.schema'\), false, '(\w{64})', '(\w{64})'"
)


def check() -> list[str]:
    """Return the faults of the files of this checkout, one sentence each.

    Raise UsageError for a broken spec or migration.
    """
    load_spec(project.SPEC)
    migrations = files.load(project.MIGRATIONS)
    faults = []
    for migration in migrations:
        _ = migration.statements
        files.read_statements(migration.revert_path, migration.revert_path.read_text(), transactional=True)
        for path in (migration.path, migration.revert_path):
            if not path.read_bytes().isascii():
                faults.append(f"{path} is not all ASCII: a database in another encoding than UTF-8 would not take it")
    for module in sorted((project.MIGRATIONS / "versions").glob("*.py")):
        if module.stem not in {m.name for m in migrations}:
            faults.append(f"{module} is an Alembic revision without a migration: remove it, or write {module.stem}.sql")
    faults += _init_script(migrations)
    spec = spec_blocks.written(project.SPEC.read_text(encoding="utf-8"), migrations)
    faults += _generated(project.SPEC, spec, "the migrations", "spec docs")
    faults += _generated(project.SPEC_SCHEMA, json_schema.generate(), "the spec's keys", "spec schema")
    if project.REFERENCE.parent.is_dir():  # a wheel carries no documentation
        faults += _generated(project.REFERENCE, schema_reference.page(migrations), "spec and comments", "spec docs")
        for page, text in doc_blocks.pages(project.REFERENCE.parent, migrations).items():
            faults += _generated(page, text, "code and migrations", "spec docs")
    return faults


def _generated(path: Path, text: str, source: str, command: str) -> list[str]:
    again = f"write it again with `pgvigil {command} --write`"
    if not path.is_file():
        return [f"{path} is missing: {again}"]
    if path.read_text(encoding="utf-8") != text:
        return [f"{path} is not what {source} make: {again}"]
    return []


def _init_script(migrations: list[files.Migration]) -> list[str]:
    again = "write it again with `pgvigil init-sql --write`"
    if not project.INIT_SQL.is_file():
        return [f"{project.INIT_SQL} is missing: {again}"]
    if init_script.is_current(project.INIT_SQL, migrations):
        return []
    recorded = {name: (raw, tokens) for _, name, raw, tokens in _RECORDED.findall(project.INIT_SQL.read_text())}
    changed = [m.path.name for m in migrations if recorded.get(m.name) != (m.sha256_bytes, m.sha256_tokens)]
    why = f"checksums differ for {', '.join(changed)}" if changed else "its text was edited"
    return [f"{project.INIT_SQL} is not what the migrations make: {why}; {again}"]
