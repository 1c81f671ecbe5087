"""The patterns of paths: kind, names, the rest, and the role of a right are each matched by themselves.

A text within a quoted name is part of that name: a trigger called `"table pgvigil.legacy_x"` is not a table, and a rule
for tables does not cover it. Only `*` and `?` match other characters: brackets are those of `integer[]`, so that each path
covers its own object.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import lru_cache

from pgvigil.validate.catalog.identifiers import unquoted

# Words that may be between the first one of a path and the name of its object.
_WORDS = frozenset(
    """
    on in of schema table view sequence column constraint index trigger function procedure aggregate window event type
    policy rule statistics extension collation operator security grant revocation key cast opclass opfamily conversion
    ts_config ts_dict ts_parser ts_template partition default
    """.split()  # noqa: SIM905 - else twenty lines
)
_QUOTED = re.compile(r'"(?:[^"]|"")*"')
_TOKEN = re.compile(r'(?:"(?:[^"]|"")*"|[^\s"])+')
_NAME = re.compile(r'"(?:[^"]|"")*"|[^\s."(]+')
_RIGHT = re.compile(r'\s(?:to|from) ("(?:[^"]|"")*"|\S+)\Z')


@dataclass(frozen=True)
class Path:
    """A path in its parts.

    `index sessions.idx` is ("index", ["sessions", "idx"]). The text after the name is the rest, and of a right its
    role.
    """

    kind: str
    names: tuple[str, ...]
    rest: str
    role: str | None


@lru_cache(maxsize=4096)
def parsed(path: str) -> Path:
    role = None
    if re.match(r"\S*(grant|revocation|\*)\S* ", path) and (right := _RIGHT.search(path)):
        path, role = path[: right.start()], unquoted(right[1])
    words: list[str] = []
    at = 0
    while token := _TOKEN.match(path, at):
        follows = _TOKEN.match(path, token.end() + 1)
        if follows is None or (words and token[0] not in _WORDS):
            break
        words.append(token[0])
        at = follows.start()
    names = []
    while name := _NAME.match(path, at):
        names.append(unquoted(name[0]))
        at = name.end()
        if path[at : at + 1] != ".":
            break
        at += 1
    return Path(" ".join(words), tuple(names), path[at:], role)


def covers(pattern: str, path: str) -> bool:
    """Return true if a rule is about the object. A last name that ends in `*` covers what belongs to the object as well."""
    expected, there = parsed(pattern), parsed(path)
    if not expected.kind:  # without a kind: any object that has such a name, belongs to one, or is of one
        plain = _QUOTED.sub('""', there.rest)
        texts = (*there.names, plain)
        return pattern == "*" or any(_matches(text, one) for text in texts for one in (pattern, unquoted(pattern)))
    if not _matches(there.kind, expected.kind) or not (expected.names or expected.rest):
        return False
    open_end = bool(expected.names) and expected.names[-1].endswith("*") and not expected.rest
    if len(there.names) != len(expected.names) and not (open_end and len(there.names) > len(expected.names)):
        return False
    return (
        all(_matches(name, part) for name, part in zip(there.names, expected.names, strict=False))
        and (open_end or _matches(there.rest, expected.rest))
        and ((open_end and expected.role is None) or _same(expected.role, there.role))
    )


@lru_cache(maxsize=4096)
def _pattern(text: str) -> re.Pattern[str]:
    return re.compile(re.escape(text).replace(r"\*", ".*").replace(r"\?", "."), re.DOTALL)


def _matches(text: str, pattern: str) -> bool:
    return text == pattern or _pattern(pattern).fullmatch(text) is not None


def _same(expected: str | None, there: str | None) -> bool:
    return expected == there if expected is None or there is None else _matches(there, expected)
