"""A project in a directory of its own, and pgvigil's verbs about it and a database."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from conftest import Database, Run


@dataclass
class Project:
    directory: Path
    database: Database
    call: Run
    layout: str = "plain"

    def configure(self, **settings: object) -> None:
        """Write pgvigil.toml: strings, booleans, and lists of strings."""
        said = {"layout": self.layout, "migrations": "migrations"} | settings
        lines = [
            f"{key} = {str(value).lower() if isinstance(value, bool) else repr(value)}" for key, value in said.items()
        ]
        self.directory.mkdir(exist_ok=True)
        (self.directory / "migrations").mkdir(exist_ok=True)
        (self.directory / "pgvigil.toml").write_text("\n".join(lines).replace("'", '"') + "\n")

    def write(self, version: str, up: str, down: str = "", *, name: str = "x", transaction: bool = True) -> Path:
        """Write a migration as this layout has it; return the file that goes in."""
        folder = self.directory / "migrations"
        if self.layout == "dbmate":
            option = "" if transaction else " transaction:false"
            path = folder / f"{version}_{name}.sql"
            path.write_text(f"-- migrate:up{option}\n{up}\n-- migrate:down{option}\n{down}\n")
            return path
        if self.layout == "golang-migrate":
            (folder / f"{version}_{name}.down.sql").write_text(down)
            path = folder / f"{version}_{name}.up.sql"
            path.write_text(up)
            return path
        head = "" if transaction else "-- pgvigil: no-transaction\n"
        (folder / "revert").mkdir(exist_ok=True)
        (folder / "revert" / f"{version}_{name}.sql").write_text(head + down)
        path = folder / f"{version}_{name}.sql"
        path.write_text(head + up)
        return path

    def run(self, verb: str, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.call("pgvigil", verb, "--project", self.directory, *arguments, "--database-url", self.database.url)

    def migrate(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        return self.run("migrate", "--backup", "none", *arguments)

    def migrated(self, *arguments: str) -> str:
        """Migrate; fail where that does. Return what was said meanwhile."""
        done = self.migrate(*arguments)
        assert done.returncode == 0, done.stderr
        return done.stderr

    def dump_spec(self) -> None:
        """Declare the schema as it is now."""
        done = self.call("pgvigil", "spec", "dump", "--schema", "public", "--database-url", self.database.url)
        (self.directory / "schema-spec.yaml").write_text(done.stdout)

    def states(self) -> list[str]:
        """Return the place of each file, as `status` shows it."""
        return [line.split(None, 1)[1] for line in self.run("status").stdout.splitlines()]
