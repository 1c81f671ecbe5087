"""The first files of a project, and the next ones."""

from __future__ import annotations

import re
from datetime import UTC, datetime
from pathlib import Path

from pgvigil.errors import UsageError
from pgvigil.projects import config as settings
from pgvigil.projects.chain import ProjectChain
from pgvigil.projects.config import Config

_TOML = """\
# What pgvigil knows of this project. Paths are relative to this file; it holds no URL and no password.
layout = "{layout}"            # plain, dbmate or golang-migrate
migrations = "{migrations}"
spec = "schema-spec.yaml"     # what the schema must meet in the end; written by: pgvigil check --write-spec
schema = "public"
{more}
"""
_MORE = {
    "plain": '# transaction = "file"        # or "together": consecutive files in one transaction',
    "dbmate": 'ledger_table = "schema_migrations"   # dbmate\'s own, which stays the truth',
    "golang-migrate": 'ledger_table = "schema_migrations"   # golang-migrate\'s own, which stays the truth',
}


def init(directory: Path, layout: str, migrations: str) -> list[Path]:
    """Write a project's file, and its first migration where there is none. Return what was written."""
    file = directory / settings.FILE
    if file.exists():
        raise UsageError(f"{file} is there already", "See the revision of its database: pgvigil status --project")
    folder = directory / migrations
    try:
        folder.mkdir(parents=True, exist_ok=True)
        text = _TOML.format(
            layout=layout, migrations=migrations.replace("\\", "\\\\").replace('"', '\\"'), more=_MORE[layout]
        )
        with file.open("x", encoding="utf-8") as stream:
            stream.write(text)
    except OSError as error:
        raise UsageError(f"{error.filename}: {error.strerror}", "Name a directory that can be written to.") from error
    written = [file]
    if not any(folder.glob("*.sql")):
        written += new(settings.read(file), "first")
    return written


def new(config: Config, name: str) -> list[Path]:
    """Write the files of the next migration, empty but for a comment. Return them."""
    if not re.fullmatch("[a-z][a-z0-9_]{0,59}", name):
        raise UsageError(
            f"{name!r} is not a name for a migration", "Use lower-case letters, digits and underscores: add_orders."
        )
    files = ProjectChain(config).files
    if taken := [one.path.name for one in files if _bare(one.path.stem) == name]:
        raise UsageError(f"{taken[0]} has this name already", "Choose another name.")
    version = _next([one.version for one in files], config.layout)
    folder = config.migrations
    there, back = "-- Why this is needed.\n", f"-- Takes out what {version}_{name} has brought.\n"
    made = {
        "plain": {folder / f"{version}_{name}.sql": there, folder / "revert" / f"{version}_{name}.sql": back},
        "dbmate": {folder / f"{version}_{name}.sql": f"-- migrate:up\n{there}\n-- migrate:down\n{back}"},
        "golang-migrate": {folder / f"{version}_{name}.up.sql": there, folder / f"{version}_{name}.down.sql": back},
    }[config.layout]
    for path, text in made.items():
        path.parent.mkdir(exist_ok=True)
        with path.open("x", encoding="utf-8") as stream:
            stream.write(text)
    return list(made)


def _bare(stem: str) -> str:
    return re.sub(r"^\d+[_-]?|\.up$", "", stem)


def _next(versions: list[str], layout: str) -> str:
    """Return the version after the last one, in the manner of those that are there: counted, or the time."""
    last = max(versions, key=lambda version: (int(version), version), default="")
    by_time = len(last) >= 14 if last else layout == "dbmate"
    if by_time:
        now = f"{datetime.now(UTC):%Y%m%d%H%M%S}"
        return max(now, str(int(last) + 1)) if last else now
    width = len(last) or (6 if layout == "golang-migrate" else 3)
    return f"{int(last or 0) + 1:0{width}}"
