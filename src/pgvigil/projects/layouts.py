"""The files of a project as its tool lays them out: plain, dbmate, golang-migrate. Read-only: what a team has stays as it is."""

from __future__ import annotations

import hashlib
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path

from pgvigil import input_files
from pgvigil.errors import UsageError
from pgvigil.migration import files, sql_lexer
from pgvigil.migration.files import Migration
from pgvigil.migration.sql_lexer import Statement
from pgvigil.projects.config import Config

_PLAIN = re.compile(r"([0-9]+)[_-]?(.*)")
_DBMATE = re.compile(r"([0-9]+)(.*)")
_GOLANG = re.compile(r"([0-9]+)_(.*)\.(up|down)")
_SECTION = re.compile(r"^--[^\S\n]*migrate:(up|down)(?:[^\S\n]+([^\n]*))?$", re.M)
_LARGEST = 9_223_372_036_854_775_807  # of a bigint, which golang-migrate's table has
_WHOLE_SERVER = re.compile(
    r"\b(?:CREATE|ALTER|DROP)\s+(?:ROLE|USER(?!\s+MAPPING)|GROUP|DATABASE|TABLESPACE|SUBSCRIPTION)\b|\bALTER\s+SYSTEM\b",
    re.IGNORECASE,
)
_OTHER_SUFFIXES = (".py", ".go", ".js", ".ts", ".rb")


@dataclass(frozen=True)
class ProjectFile(Migration):
    """A file of a project.

    `up` and `down` are its text with everything else blanked, so that lines keep their numbers. `down` is None without
    a way back.
    """

    version: str
    up: str
    down: str | None
    down_path: Path
    in_transaction: bool
    down_in_transaction: bool = True

    @property
    def revision(self) -> str:
        return self.version

    @property
    def script(self) -> str:
        return self.up

    @property
    def revert_path(self) -> Path:
        return self.down_path

    @property
    def transactional(self) -> bool:
        return self.in_transaction

    @cached_property
    def sha256_bytes(self) -> str:
        return hashlib.sha256(self.raw).hexdigest()

    @cached_property
    def statements(self) -> list[Statement]:
        return self._of(self.path, self.up, self.in_transaction)

    @cached_property
    def down_statements(self) -> list[Statement]:
        return self._of(self.down_path, self.down or "", self.down_in_transaction)

    def _of(self, path: Path, text: str, in_transaction: bool) -> list[Statement]:
        found = _statements(path, text)
        for statement in found if in_transaction else ():
            if runs_alone(statement):
                way = "-- migrate:… transaction:false" if self.path == self.down_path else files.NO_TRANSACTION
                raise UsageError(
                    f"{path}:{statement.line}: {' '.join(token.text for token in statement.tokens[:3])} … in a file that is one transaction",
                    f'Have it run in steps: "{way}"'
                    + (" on the line of that section." if "…" in way else " on its first line."),
                )
        return found

    @property
    def revert_script(self) -> str:
        return self.down or ""

    @property
    def is_reversible(self) -> bool:
        return bool(self.down_statements) or not self.statements


def load(config: Config) -> list[ProjectFile]:
    """Return the files in their order. Raise UsageError with file, and line, for what cannot be one."""
    if not config.migrations.is_dir():
        raise UsageError(
            f"there are no migrations at {config.migrations}",
            f"Make that directory, or correct `migrations` in {config.file}.",
        )
    found = sorted(_LAYOUTS[config.layout](config), key=_order(config.layout))
    by_version: dict[str, ProjectFile] = {}
    for one in found:
        other = by_version.setdefault(_same(one.version, config.layout), one)
        if other is not one:
            raise UsageError(f"{one.path} has the version of {other.path}", "Give each file a version of its own.")
    return found


def _order(layout: str) -> Callable[[ProjectFile], tuple[object, ...]]:
    # dbmate compares file names as text, the others numbers.
    return (lambda one: (one.path.name,)) if layout == "dbmate" else (lambda one: (int(one.version),))


def _same(version: str, layout: str) -> str:
    return version if layout == "dbmate" else str(int(version))


def _plain(config: Config) -> Iterator[ProjectFile]:
    for path in _sql_files(config.migrations):
        parts = _named(_PLAIN, path, "NNN_name.sql")
        raw, text = _read(path)
        back = path.parent / "revert" / path.name
        down = _read(back)[1] if back.is_file() else None
        ways = [not (one or "").startswith(files.NO_TRANSACTION) for one in (text, down)]
        yield ProjectFile(path, raw, parts[1], text, down, back, *ways)


def _dbmate(config: Config) -> Iterator[ProjectFile]:
    for path in _sql_files(config.migrations):
        parts = _named(_DBMATE, path, "VERSION_name.sql")
        raw, text = _read(path)
        sections = list(_SECTION.finditer(text))
        kinds = [section[1] for section in sections]
        if kinds not in (["up"], ["up", "down"]):
            line = text.count("\n", 0, sections[-1].start()) + 1 if sections else 1
            raise UsageError(
                f"{path}:{line}: a file of dbmate has one -- migrate:up, and after it at most one -- migrate:down",
                "Put the rest into a file of its own; no database was asked.",
            )
        up = sections[0]
        if any(True for _ in _tokens(path, text[: up.start()])):
            raise UsageError(f"{path}:1: SQL before -- migrate:up, which no tool would run", "Move it below that line.")
        ends = sections[1].start() if len(sections) > 1 else len(text)
        down = _blank(text, sections[1].end(), len(text)) if len(sections) > 1 else None
        ways = ["transaction:false" not in (section[2] or "").split() for section in sections]
        yield ProjectFile(path, raw, parts[1], _blank(text, up.end(), ends), down, path, *ways)


def _golang_migrate(config: Config) -> Iterator[ProjectFile]:
    ups: dict[tuple[str, str], Path] = {}
    downs: dict[tuple[str, str], Path] = {}
    for path in _sql_files(config.migrations):
        parts = _named(_GOLANG, path, "VERSION_name.up.sql and VERSION_name.down.sql")
        if int(parts[1]) > _LARGEST:
            raise UsageError(f"{path}: version {parts[1]} is too large for a bigint", "Rename it.")
        (ups if parts[3] == "up" else downs)[parts[1], parts[2]] = path
    for key, path in downs.items():
        if key not in ups:
            raise UsageError(f"{path} has no {key[0]}_{key[1]}.up.sql", "A way back needs a way there.")
    for key, path in ups.items():
        raw, text = _read(path)
        back = downs.get(key)
        down = _without_its_transaction(back, _read(back)[1]) if back else None
        text = _without_its_transaction(path, text)
        back = back or path.with_name(f"{key[0]}_{key[1]}.down.sql")
        yield ProjectFile(path, raw, key[0], text, down, back, _is_whole(path, text), _is_whole(back, down or ""))


_LAYOUTS: dict[str, Callable[[Config], Iterator[ProjectFile]]] = {
    "plain": _plain,
    "dbmate": _dbmate,
    "golang-migrate": _golang_migrate,
}


# ── Parts ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


def runs_alone(statement: Statement) -> bool:
    """Return true if the server refuses a statement inside a transaction."""
    words = [token.text.upper() for token in statement.tokens]
    return (
        (words[0] in ("CREATE", "DROP", "REINDEX") and "CONCURRENTLY" in words[1:6])
        or (words[0] == "ALTER" and words[-1] == "CONCURRENTLY")
        or words[0] == "VACUUM"
        or words[:2] in (["ALTER", "SYSTEM"], ["CREATE", "DATABASE"], ["DROP", "DATABASE"])
        or (words[:1] == ["REINDEX"] and any(word in ("DATABASE", "SYSTEM", "SCHEMA") for word in words[1:6]))
    )


def _is_whole(path: Path, text: str) -> bool:
    """Return True where golang-migrate sends the file as one query, which is one transaction.

    A statement that refuses one is in a file of its own.
    """
    alone = any(runs_alone(statement) for statement in _statements(path, text))
    return not text.startswith(files.NO_TRANSACTION) and not alone


def acts_on_whole_server(statement: Statement) -> bool:
    """Return true if a statement, or code that is in it, changes more than its database."""
    return bool(_WHOLE_SERVER.search(statement.text))


def adds_enum_value(statement: Statement) -> bool:
    """Return true if a statement adds a value that can only be used after its transaction."""
    return statement.starts_with("ALTER", "TYPE") and "ADD" in {token.text.upper() for token in statement.tokens[3:6]}


def _sql_files(directory: Path) -> list[Path]:
    """The files of a directory that are meant as migrations. Raise UsageError for those of another kind of tool."""
    found = []
    for path in sorted(directory.iterdir()):
        if path.name.startswith(".") or not path.is_file():
            continue
        if path.suffix == ".sql":
            found.append(path)
        elif path.suffix in _OTHER_SUFFIXES and path.stem[:1].isdigit():
            raise UsageError(
                f"{path} is a migration in another language: pgvigil runs SQL files",
                "Run the tool that it is written for under its guarantees: pgvigil guard -- COMMAND",
            )
    return found


def _named(pattern: re.Pattern[str], path: Path, expected: str) -> re.Match[str]:
    match = pattern.fullmatch(path.stem)
    if match is None:
        raise UsageError(f"{path}: a migration of this layout is called {expected}", "Rename it, or move it away.")
    try:
        path.name.encode()
    except UnicodeEncodeError as error:
        raise UsageError(f"{path}: its name is not UTF-8, and the ledger could not hold it", "Rename it.") from error
    return match


def _read(path: Path) -> tuple[bytes, str]:
    try:
        raw = input_files.read_bytes(path, input_files.LARGE)
        text = raw.decode()
    except (OSError, UnicodeDecodeError) as error:
        words = input_files.reason(error)
        raise UsageError(f"{path} cannot be read: {words}", "A migration is readable UTF-8 text.") from error
    return raw, text.removeprefix("\ufeff").replace("\r\n", "\n")


def _blank(text: str, start: int, end: int) -> str:
    """The text between two places, with the lines before it left empty."""
    return "\n" * text.count("\n", 0, start) + text[start:end]


def _tokens(path: Path, text: str) -> Iterator[sql_lexer.Token]:
    try:
        yield from sql_lexer.tokens(text)
    except sql_lexer.SqlError as error:
        raise UsageError(f"{path}:{error.line}: {error}", "Fix the file; no database was asked.") from error


def _statements(path: Path, text: str) -> list[Statement]:
    """The statements of a file of a project: no transactions of its own, and no rows on standard input."""
    found = files.read_statements(path, text, transactional=False)
    for statement in found:
        words = [token.text.upper() for token in statement.tokens]
        if words[0] in files.TRANSACTION_CONTROL and words[:1] != ["PREPARE"]:
            raise UsageError(
                f"{path}:{statement.line}: {words[0]} in a file whose transactions are pgvigil's",
                "Take it out; no database was asked.",
            )
        if words[0] == "COPY" and "FROM" in words and words[words.index("FROM") + 1 :][:1] == ["STDIN"]:
            raise UsageError(
                f"{path}:{statement.line}: COPY … FROM STDIN needs psql", "Write INSERTs; no database was asked."
            )
        if words[:2] in (["DISCARD", "ALL"], ["RESET", "ALL"]) or "PG_ADVISORY_UNLOCK_ALL" in words:
            raise UsageError(
                f"{path}:{statement.line}: {' '.join(words[:2])} would end the run lock, or undo the settings of the run",
                "Take it out; no database was asked.",
            )
    return found


def _without_its_transaction(path: Path, text: str) -> str:
    """A file of golang-migrate that begins with BEGIN and ends with COMMIT, without these two."""
    try:
        found = sql_lexer.statements(text)
    except sql_lexer.SqlError as error:
        raise UsageError(f"{path}:{error.line}: {error}", "Fix the file; no database was asked.") from error
    if len(found) < 2:
        return text
    first, last = found[0], found[-1]
    begins = [t.text.upper() for t in first.tokens] in (["BEGIN"], ["BEGIN", "TRANSACTION"], ["START", "TRANSACTION"])
    if not begins or [t.text.upper() for t in last.tokens] not in (["COMMIT"], ["END"], ["COMMIT", "TRANSACTION"]):
        return text
    for statement in (last, first):
        at, end = statement.tokens[0].start, statement.tokens[-1].start + len(statement.tokens[-1].text)
        after = text[end:]
        text = text[:at] + (after[1:] if after.startswith(";") else after)
    return text
