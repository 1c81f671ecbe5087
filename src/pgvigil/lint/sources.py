"""The files to check: their statements, how each file runs, and what their comments allow.

A file is plain SQL. Of files of dbmate and goose only the part that goes in is read; files that take a migration out
(`*.down.sql`, a `revert` directory) are left out.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from pgvigil import input_files
from pgvigil.errors import UsageError
from pgvigil.migration import sql_lexer
from pgvigil.migration.sql_lexer import Statement

_WAY_BACK = re.compile(r"^[ \t]*--[ \t]*(?:migrate:down|\+goose[ \t]+Down|\+migrate[ \t]+Down)\b.*", re.M | re.I | re.S)
_NO_TRANSACTION = re.compile(
    r"^[ \t]*--[ \t]*(?:pgvigil:[ \t]*no-transaction\b|migrate:up\b.*\btransaction:[ \t]*false\b|\+goose[ \t]+NO[ \t]+TRANSACTION\b"
    r"|\+migrate[ \t]+Up[ \t]+notransaction\b|disable_ddl_transaction)",
    re.M | re.I,
)
_ALLOW = re.compile(r"--[ \t]*pgvigil:[ \t]*allow\b(?P<words>[^\n]*)", re.I)
_LEFT_OUT = re.compile(r"(?:\.(?:down|undo|rollback)\.sql|^U\d[^/]*__.*\.sql)$", re.I)
_CONTROL = {"BEGIN", "START", "COMMIT", "END", "ROLLBACK", "ABORT"}


@dataclass(frozen=True)
class Allowed:
    """A comment that allows findings of these rules at one statement, for a reason."""

    rules: tuple[str, ...]
    reason: str
    line: int


@dataclass(frozen=True)
class Source:
    """A file.

    With `own_control` it begins and ends its transactions itself. `allowed` is by the number of the statement.
    """

    path: Path
    statements: tuple[Statement, ...]
    transactional: bool
    own_control: bool
    allowed: dict[int, tuple[Allowed, ...]]


def gather(paths: Sequence[Path]) -> list[Path]:
    """The files that are named, and those of the directories that are named, each once, in the order in which they run."""
    found: list[Path] = []
    for path in paths:
        if path.is_dir():
            inside = migrations_of(path)
            if not inside:
                raise UsageError(f"{path} holds no file that ends in .sql", "Name the directory of the migrations.")
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise UsageError(f"there is no file {path}", "Name files, or the directory of the migrations.")
    return list(dict.fromkeys(found))


def migrations_of(directory: Path) -> list[Path]:
    """The migrations of a directory in the order in which they run: by number where they have one, else by name."""
    return sorted((p for p in directory.glob("*.sql") if p.is_file() and not _LEFT_OUT.search(p.name)), key=_order)


def earlier(files: Sequence[Path]) -> list[Path]:
    """The files beside these that run before the first of them in its directory."""
    found: list[Path] = []
    for directory in dict.fromkeys(file.parent for file in files):
        first = min(_order(file) for file in files if file.parent == directory)
        found += [p for p in migrations_of(directory) if _order(p) < first and p not in files]
    return found


def _order(path: Path) -> tuple[tuple[int, ...], str]:
    number = re.match(r"[Vv]?(\d+(?:[._]\d+)*)", path.name)
    return tuple(map(int, re.split(r"[._]", number[1]))) if number else (1 << 62,), path.name


def read(path: Path, rules: Collection[str]) -> Source:
    """Read a file.

    Raise UsageError with file and line for text that is not SQL, and for a comment that allows an unnamed rule.
    """
    try:
        script = input_files.read_bytes(path, input_files.LARGE).decode("utf-8-sig").replace("\r\n", "\n")
    except (OSError, UnicodeDecodeError) as error:
        words = input_files.reason(error)
        raise UsageError(f"{path} cannot be read: {words}", "A migration is readable UTF-8 text.") from error
    script = _WAY_BACK.sub("", script, count=1)
    try:
        statements = sql_lexer.statements(script)
        comments = list(_comments(script))
    except sql_lexer.SqlError as error:
        raise UsageError(f"{path}:{error.line}: {error}", "Fix the file; nothing was run.") from error
    own_control = any(s.tokens[0].text.upper() in _CONTROL for s in statements)
    alone = len(statements) == 1 and path.name.endswith(".up.sql")  # golang-migrate sends a file as one query
    return Source(
        path, tuple(statements), not (_NO_TRANSACTION.search(script) or own_control or alone), own_control,
        _allowed(path, script, statements, comments, rules),
    )  # fmt: skip


def _comments(script: str) -> Iterator[re.Match[str]]:
    """The comments that allow something: those between tokens, not what looks like one in a string."""
    end = 0
    for start, text in [*((t.start, t.text) for t in sql_lexer.tokens(script)), (len(script), "")]:
        yield from _ALLOW.finditer(script, end, start)
        end = start + len(text)


def _allowed(
    path: Path, script: str, statements: Sequence[Statement], comments: Sequence[re.Match[str]], rules: Collection[str]
) -> dict[int, tuple[Allowed, ...]]:
    ends = [s.tokens[-1].start + len(s.tokens[-1].text) for s in statements]
    found: dict[int, tuple[Allowed, ...]] = {}
    for comment in comments:
        line = script.count("\n", 0, comment.start()) + 1
        names, comma, reason = comment["words"].partition(",")
        named = tuple(names.split())
        if not named or not comma or not reason.strip():
            raise UsageError(
                f"{path}:{line}: this comment allows a finding without naming a rule and a reason",
                "Write: -- pgvigil: allow full-read, the table has 40 rows",
            )
        if unknown := [name for name in named if name not in rules]:
            raise UsageError(f"{path}:{line}: there is no rule {unknown[0]}", f"The rules are: {', '.join(rules)}.")
        # A comment is for the statement it is in or before; behind a statement on the same line, for that one.
        at = next((n for n, end in enumerate(ends) if end > comment.start()), len(ends))
        if at and "\n" not in script[ends[at - 1] : comment.start()]:
            at -= 1
        found[at] = (*found.get(at, ()), Allowed(named, reason.strip(), line))
    return found
