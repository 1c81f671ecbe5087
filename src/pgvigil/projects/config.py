"""Find and read the configuration of a project: `pgvigil.toml`, or `[tool.pgvigil]` in pyproject.toml."""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal, NoReturn

from pgvigil import input_files
from pgvigil.errors import UsageError

FILE = "pgvigil.toml"
LAYOUTS = ("plain", "dbmate", "golang-migrate")
LEDGER_SCHEMA = "pgvigil_project"
_DEEP_KEY = re.compile(r"(?<![\w\"'-])(?:[\w\"'-]++[ \t]*+\.[ \t]*+){30}")
_OF_OTHERS = ("guard", "lint")  # tables that the commands of these names read


@dataclass(frozen=True)
class Config:
    """A project. Paths are absolute. `spec` None: nothing is declared. `tables` are those of the commands that read their own."""

    file: Path
    name: str = "main"  # of its ledger: a database may have several projects
    layout: Literal["plain", "dbmate", "golang-migrate"] = "plain"
    migrations: Path = Path("migrations")
    spec: Path | None = None
    schema: str = "public"
    search_path: tuple[str, ...] = ()
    transaction: Literal["file", "together"] = "file"
    ledger_table: str = "schema_migrations"
    out_of_order: bool = False
    ignore: tuple[str, ...] = ()  # patterns of objects that are not the project's
    drift: Literal["refuse", "tell", "off"] = "refuse"
    backup_kind: str = "full"
    backup_verify: Literal["read", "restore"] = "read"
    backup_directory: Path | None = None
    tables: Mapping[str, Any] = field(default_factory=dict)

    @property
    def directory(self) -> Path:
        return self.file.parent

    @property
    def path(self) -> tuple[str, ...]:
        """The search_path of its files."""
        return self.search_path or (self.schema,)


def find(directory: Path | None) -> Config:
    """Return the project of a directory, or of the first one above it that has one. Raise UsageError."""
    start = (directory or Path.cwd()).absolute()
    if start.is_file() and (start.name == FILE or _is_project(start)):
        _require_trusted(start, start.parent)
        return read(start)
    if not start.is_dir():
        raise UsageError(f"there is no directory {start}", "Name the directory that pgvigil.toml is in.")
    for place in (start, *start.parents):
        for path in (place / FILE, place / "pyproject.toml", start / "db" / FILE):
            if os.path.lexists(path) if path.name == FILE else _is_project(path):
                _require_trusted(path, start)
                return read(path)
    raise UsageError(
        f"{start} is not a project of pgvigil: neither it nor a directory above it has {FILE}, or [tool.pgvigil] in pyproject.toml",
        "Begin one: pgvigil init DIRECTORY",
    )


def _is_project(path: Path) -> bool:
    if not path.is_file():
        return False
    try:
        tool = _parsed(input_files.read_text(path, input_files.SMALL)).get("tool", {})
    except (OSError, ValueError):
        return False
    return isinstance(tool, dict) and "pgvigil" in tool


def _parsed(text: str) -> dict[str, Any]:
    """Parse TOML.

    Raise ValueError, also for a depth that would exhaust the parser: it recurses, and a key of many parts takes
    quadratic time.
    """
    if _DEEP_KEY.search(text):
        raise ValueError("a key of more than 30 parts")
    try:
        return tomllib.loads(text)
    except RecursionError as error:
        raise ValueError("nested too deeply") from error


def _require_trusted(path: Path, start: Path) -> None:
    """Check who can have written a project's file: it names the SQL that runs. Raise UsageError."""
    try:
        found = path.stat()
    except OSError as error:
        raise _unreadable(path, error) from error
    reason = ""
    if found.st_mode & stat.S_IWOTH:
        reason = "can be written to by every user"
    elif path.parent not in (start, start / "db") and found.st_uid not in (os.geteuid(), 0, start.stat().st_uid):
        reason = f"is in a directory above, and belongs to another user (uid {found.st_uid})"
    if reason:
        raise UsageError(
            f"{path} {reason}: pgvigil does not read it, because its writer decides which SQL runs",
            "Make this user its only writer (chown, chmod go-w), or name the directory of the project.",
        )


def read(path: Path) -> Config:
    """Return what a file says. Raise UsageError with file and line for a key or a value that it cannot have."""
    try:
        text = input_files.read_text(path, input_files.SMALL)
        said = _parsed(text)
    except OSError as error:
        raise _unreadable(path, error) from error
    except ValueError as error:
        raise UsageError(f"{path}: {error}", "Fix the file; no database was asked.") from error
    reader = _Reader(path, text)
    if path.name != FILE:
        said = said["tool"]["pgvigil"]
        if not isinstance(said, dict):
            reader.fail("pgvigil", "tool.pgvigil is a table: [tool.pgvigil]")
    return reader.config(said)


def _unreadable(path: Path, error: OSError) -> UsageError:
    return UsageError(f"{path} cannot be read: {input_files.reason(error)}", "Make it a readable file, or remove it.")


def _string(value: object) -> str:
    if not isinstance(value, str) or not value or "\0" in value:
        raise ValueError("a string")
    return value


def _strings(value: object) -> tuple[str, ...]:
    if not isinstance(value, list) or not value:
        raise ValueError("a list of strings")
    return tuple(_string(one) for one in value)


def _boolean(value: object) -> bool:
    if not isinstance(value, bool):
        raise ValueError("true or false")  # noqa: TRY004 - the reader turns it into a UsageError
    return value


def _one_of(*values: str) -> Callable[[object], str]:
    def check(value: object) -> str:
        if value not in values:
            raise ValueError(" or ".join(f'"{one}"' for one in values))
        return str(value)

    return check


@dataclass(frozen=True)
class _Reader:
    path: Path
    text: str

    def config(self, said: dict[str, Any]) -> Config:
        keys: dict[str, Callable[[object], Any]] = {
            "name": _string,
            "layout": _one_of(*LAYOUTS),
            "migrations": self._place,
            "spec": self._place,
            "schema": _string,
            "search_path": _strings,
            "transaction": _one_of("file", "together"),
            "ledger_table": _string,
            "out_of_order": _boolean,
            "ignore": _strings,
            "drift": _one_of("refuse", "tell", "off"),
        }
        backup: dict[str, Callable[[object], Any]] = {
            "kind": _one_of("full", "schema", "none"),
            "verify": _one_of("read", "restore"),
            "directory": self._place,
        }
        said = dict(said)
        tables = {name: said.pop(name) for name in _OF_OTHERS if name in said}
        for name, table in tables.items():
            if not isinstance(table, dict):
                self.fail(name, f"{name} is a table: [{name}]")
        of_backup = said.pop("backup", {})
        if not isinstance(of_backup, dict):
            self.fail("backup", "backup is a table: [backup]")
        values = self._checked(said, keys)
        values |= {f"backup_{key}": value for key, value in self._checked(of_backup, backup, "backup").items()}
        values.setdefault("migrations", self.path.parent / "migrations")
        return Config(self.path, tables=tables, **values)

    def _place(self, value: object) -> Path:
        return self.path.parent / _string(value)

    def _checked(
        self, said: dict[str, Any], keys: dict[str, Callable[[object], Any]], table: str = ""
    ) -> dict[str, Any]:
        found = {}
        for key, value in said.items():
            if key not in keys:
                known = ", ".join([*keys, *([] if table else ["backup", *_OF_OTHERS])])
                self.fail(key, f"there is no key {key}{f' in [{table}]' if table else ''}; known are {known}", table)
            try:
                found[key] = keys[key](value)
            except ValueError as error:
                self.fail(key, f"{key} is {error}, not {value!r}", table)
        return found

    def fail(self, key: str, message: str, table: str = "") -> NoReturn:
        start = 0
        if table and (head := re.search(rf"^\s*\[(?:tool\.pgvigil\.)?{table}\]", self.text, re.M)):
            start = head.end()
        elif self.path.name != FILE and (head := re.search(r"^\s*\[tool\.pgvigil", self.text, re.M)):
            start = head.start()
        at = re.compile(rf"""^\s*(?:\[(?:tool\.pgvigil\.)?)?["']?{re.escape(key)}["']?\s*[=.\]]""", re.M).search(
            self.text, start
        )
        line = self.text.count("\n", 0, at.start() + len(at[0]) - len(at[0].lstrip())) + 1 if at else 1
        raise UsageError(f"{self.path}:{line}: {message}", "Fix the file; no database was asked.")
