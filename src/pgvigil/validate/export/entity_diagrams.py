"""The diagrams of tables and their foreign keys, in the language of Mermaid."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator

from pgvigil.text import one_line
from pgvigil.validate.catalog.snapshot import Attributes

_FOREIGN_KEY = re.compile(r"FOREIGN KEY \((.*?)\) REFERENCES (.*?)\((.*?)\)")
_SIGNS = {"PRIMARY KEY": "PK", "UNIQUE": "UK"}
_KEYS = re.compile(r"(PRIMARY KEY|UNIQUE)(?: NULLS NOT DISTINCT)? \((.*?)\)")
_SHORT = {"timestamp with time zone": "timestamptz", "character varying": "varchar"}
_LOOKALIKES = str.maketrans({'"': "'", "\\": "\N{SET MINUS}", "%": "\N{FULLWIDTH PERCENT SIGN}"})
# What a diagram holds: of more tables nobody sees anything, and Mermaid refuses a text of 50,000 characters.
_TABLES, _CHARACTERS = 40, 45_000
_NAME = r'"(?:[^"]|"")*"|[^",\s]+'


class Entities:
    """The names of tables in all diagrams of a page."""

    def __init__(self) -> None:
        self._names: dict[str, str] = {}

    def named(self, label: str) -> str:
        """A name that the diagram's grammar takes, and that no other table has."""
        if label not in self._names:
            name = _plain(label)
            while name in self._names.values():
                name += "'"
            self._names[label] = name
        return f'"{self._names[label]}"'


class Drawing:
    """A table with the columns of its keys, and its foreign keys with what they allow: none, one or many."""

    def __init__(
        self, entities: Entities, label: str, columns: dict[str, Attributes], definitions: Iterable[str]
    ) -> None:
        self.label = label
        definitions = list(definitions)
        keys = [(match[1], _names(match[2])) for text in definitions if (match := _KEYS.match(text))]
        foreign = [(_names(match[1]), match[2]) for text in definitions if (match := _FOREIGN_KEY.match(text))]
        signs: dict[str, list[str]] = {}
        for sign, names in [*keys, *(("FK", names) for names, _ in foreign)]:
            for name in names:
                signs.setdefault(name, []).append(_SIGNS.get(sign, sign))
        rows = [
            f"        {_mermaid(short_type(columns[name]['type']))} {_mermaid(name)} {', '.join(dict.fromkeys(signs[name]))}"
            for name in columns
            if name in signs
        ]
        self.lines = [f"    {entities.named(label)} {{", *_within(rows), "    }"]
        self.relations: list[tuple[str, str]] = []  # label of the other table, line
        for names, target in foreign[: _TABLES - 1]:
            one = "||" if not any(columns[name].get("nullable", True) for name in names if name in columns) else "|o"
            many = "o|" if names in [columns for _, columns in keys] else "o{"
            line = f'    {entities.named(target)} {one}--{many} {entities.named(label)} : "{_plain(", ".join(names))}"'
            self.relations.append((target, line))
        del self.relations[len(_within([line for _, line in self.relations])) :]

    @property
    def labels(self) -> set[str]:
        return {self.label, *(target for target, _ in self.relations)}

    @property
    def length(self) -> int:
        return sum(len(line) + 1 for line in (*self.lines, *(line for _, line in self.relations)))


def _within(rows: list[str]) -> list[str]:
    """The rows of one table that a diagram has room for."""
    length, kept = 0, []
    for row in rows:
        length += len(row) + 1
        if length > _CHARACTERS // 2:
            break
        kept.append(row)
    return kept


def fits(parts: Iterable[Drawing]) -> bool:
    labels = set().union(*(part.labels for part in parts))
    return len(labels) <= _TABLES and sum(part.length for part in parts) <= _CHARACTERS


def grouped(parts: list[Drawing]) -> Iterator[list[Drawing]]:
    """Yield groups of as many parts as a diagram holds, neighbours together."""
    group: list[Drawing] = []
    for part in _neighbours(parts):
        if group and not fits([*group, part]):
            yield group
            group = []
        group.append(part)
    if group:
        yield group


def _neighbours(parts: list[Drawing]) -> Iterator[Drawing]:
    """Sort tables so that those which reference one another are together, and single tables come last."""
    by_label = {part.label: part for part in parts}
    beside: dict[str, list[str]] = {part.label: [] for part in parts}
    for part in parts:
        for target, _ in part.relations:
            if target in by_label and target != part.label:
                beside[part.label].append(target)
                beside[target].append(part.label)
    seen: set[str] = set()
    for start in sorted(by_label, key=lambda label: not beside[label]):
        waiting = [start]
        while waiting:
            label = waiting.pop(0)
            if label not in seen:
                seen.add(label)
                yield by_label[label]
                waiting += beside[label]


def drawn(parts: list[Drawing]) -> Iterator[str]:
    yield "```mermaid\nerDiagram"
    for part in parts:
        yield from part.lines
    for part in parts:
        yield from (line for _, line in part.relations)
    yield "```\n"


def short_type(text: str) -> str:
    for long, short in _SHORT.items():
        text = text.replace(long, short)
    return text


def _names(columns: str) -> list[str]:
    return re.findall(_NAME, columns)


def _plain(text: str) -> str:
    """Replace the characters that end a name in a diagram."""
    return one_line(text).translate(_LOOKALIKES)


def _mermaid(text: str) -> str:
    """A word that the diagram's grammar takes as a type or a column."""
    word = re.sub(r"[^\w()\[\],-]|[\x80-\xbf]", "_", text).replace(",", "_")
    if re.match(r"(pk|fk|uk)\b", word, re.IGNORECASE):  # a word of the grammar
        return f"c_{word}"
    return word if re.match("[A-Za-z]", word) else f"_{word}" if word.startswith("_") else f"c_{word}"
