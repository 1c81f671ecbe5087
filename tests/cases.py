"""Read the cases that are written as SQL: tests/data/mutations.sql and tests/data/harmless.sql. Their heads describe
the format.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

TODAY = datetime.now(UTC)
_NAMES = {
    "MONTH": f"session_lifecycle_p{TODAY:%Y%m}",
    "TODAY": f"{TODAY:%Y-%m-%d}",
    "DAY": f"performance_logs_p{TODAY:%Y%m%d}",  # last, or it would take a part of TODAY
}


@dataclass(frozen=True)
class Case:
    name: str
    warnings: tuple[tuple[str, str], ...]  # first word of each remark, and the rest
    sql: str

    def remarked(self, word: str) -> list[str]:
        return [rest for first, rest in self.warnings if first == word]

    @property
    def since(self) -> int:
        """The oldest PostgreSQL that knows what the case does."""
        return max(map(int, self.remarked("from")), default=0)

    def __str__(self) -> str:
        return self.name


def load(path: Path) -> list[Case]:
    cases = []
    for block in ("\n" + path.read_text(encoding="utf-8")).split("\n--- ")[1:]:
        # An indented "---   remark" begins a block too, as far as split is concerned.
        if block.startswith(" "):
            name, warnings, _ = cases.pop()
            remark, _, sql = block.strip().partition("\n")
            word, _, rest = remark.partition(" ")
            cases.append((name, (*warnings, (word, _named(rest))), sql))
        else:
            name, _, sql = block.partition("\n")
            cases.append((name, (), sql))
    return [Case(name, warnings, _named(sql)) for name, warnings, sql in cases]


def _named(text: str) -> str:
    for word, name in _NAMES.items():
        text = text.replace(word, name)
    return text
