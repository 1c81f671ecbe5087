"""Read SQL as the server's lexer does: just enough to split statements, number lines and hash tokens.

Source of the rules: PostgreSQL documentation, chapter "Lexical Structure" (strings, dollar quotes, nested comments). A
carriage return ends a comment, and every character beyond ASCII belongs to a word: none is a space.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator
from typing import NamedTuple

_TOKEN = re.compile(
    r"""
      (?P<space>[ \t\n\r\f\v]+|--[^\n\r]*)
    | (?P<comment>/\*)
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*)?\$)
    | (?P<escape>[eE]'(?:[^'\\]|\\.|'')*')
    | (?P<string>(?:[bBxXnN]|[uU]&)?'(?:[^']|'')*')
    | (?P<quoted>(?:[uU]&)?"(?:[^"]|"")*")
    | (?P<word>[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*)
    | (?P<number>\.?[0-9][\w.]*)
    | (?P<open>['"])
    | (?P<other>.)
    """,
    re.VERBOSE | re.DOTALL,
)
_COMMENT_EDGE = re.compile(r"/\*|\*/")


class SqlError(ValueError):
    """An error for text that is not SQL: an unfinished quote or comment, a psql command. `line` is where it begins."""

    def __init__(self, line: int, message: str) -> None:
        super().__init__(message)
        self.line = line


class Token(NamedTuple):
    """A token and where it starts in the text."""

    kind: str
    text: str
    start: int


class Statement(NamedTuple):
    """A statement without its semicolon, its tokens, and the line on which it starts."""

    text: str
    tokens: tuple[Token, ...]
    line: int

    def starts_with(self, *words: str) -> bool:
        return tuple(t.text.upper() for t in self.tokens[: len(words)]) == words


def tokens(sql: str) -> Iterator[Token]:
    """Yield all tokens but white space and comments. Raise SqlError for an unfinished quote or comment."""
    at = 0
    while at < len(sql):
        match = _TOKEN.match(sql, at)
        assert match is not None  # noqa: S101 - `other` takes any character
        kind, end = str(match.lastgroup), match.end()
        if kind == "comment":
            end = _end_of_comment(sql, at)
        elif kind == "dollar":
            close = sql.find(match.group(), end)
            if close < 0:
                raise SqlError(_line(sql, at), f"the dollar quote {match.group()} that opens here is never closed")
            end = close + len(match.group())
        elif kind == "open":
            raise SqlError(_line(sql, at), f"the quote {match.group()} that opens here is never closed")
        elif match.group() == "\\":
            raise SqlError(_line(sql, at), "a psql command (\\): a migration holds SQL only")
        if kind not in ("space", "comment"):
            yield Token(kind, sql[at:end], at)
        at = end


def statements(sql: str) -> list[Statement]:
    """The statements of a script in order."""
    found: list[Statement] = []
    current: list[Token] = []
    depth = 0  # of BEGIN ATOMIC … CASE … END, whose inner semicolons end nothing
    for token in tokens(sql):
        if token.text == ";" and depth == 0:
            if current:
                found.append(_statement(sql, current))
            current = []
            continue
        word = token.text.upper() if token.kind == "word" else ""
        if word == "ATOMIC" and current and current[-1].text.upper() == "BEGIN" and current[0].text.upper() == "CREATE":
            depth = 1
        elif depth and word == "CASE":
            depth += 1
        elif depth and word == "END":
            depth -= 1
        current.append(token)
    if current:
        found.append(_statement(sql, current))
    return found


def digest(sql: str) -> str:
    """Return SHA-256 over the tokens. It is the same while only comments and white space change."""
    return hashlib.sha256("\0".join(t.text for t in tokens(sql)).encode()).hexdigest()


def without_concurrently(sql: str) -> str:
    """The script with every CONCURRENTLY of an index command taken out, so that it can run in a transaction."""
    cuts = [
        t.start
        for s in statements(sql)
        if s.starts_with("CREATE") or s.starts_with("DROP")
        for t in s.tokens[:4]
        if t.text.upper() == "CONCURRENTLY"
    ]
    for start in reversed(cuts):
        sql = sql[:start] + sql[start + len("CONCURRENTLY ") :]
    return sql


def _statement(sql: str, parts: list[Token]) -> Statement:
    start, last = parts[0].start, parts[-1]
    return Statement(sql[start : last.start + len(last.text)], tuple(parts), _line(sql, start))


def _end_of_comment(sql: str, start: int) -> int:
    depth, at = 1, start + 2
    while depth:
        edge = _COMMENT_EDGE.search(sql, at)
        if edge is None:
            raise SqlError(_line(sql, start), "the comment that opens here is never closed")
        depth += 1 if edge.group() == "/*" else -1
        at = edge.end()
    return at


def _line(sql: str, at: int) -> int:
    return sql.count("\n", 0, at) + 1
