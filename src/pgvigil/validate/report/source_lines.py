"""The line of the spec's file that declares the object of a finding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from pgvigil.validate.report.model import Finding
from pgvigil.validate.spec.declaration import Declaration


def with_source_line(declared: Declaration, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings with the line of their entry; what stands undeclared on a table or view, with the line of that."""
    relations = {name: line for path, line in declared.lines.items() if (name := _relation(path))}
    for finding in findings:
        yield dataclasses.replace(finding, line=finding.line or _line(declared.lines, relations, finding.object))


def _relation(path: str) -> str:
    kind, _, name = path.partition(" ")
    return name if kind in ("table", "view") else ""


def _line(lines: dict[str, int], relations: dict[str, int], path: str) -> int | None:
    path = path.removeprefix("comment on ")
    if line := lines.get(path):
        return line
    # `row security of NAME`, `grant on table NAME to ROLE`, `partition NAME_p20260101`, `rule NAME.rule`
    words = path.partition(" ")[2]
    words = (
        words.removeprefix("on ").partition(" ")[2] if words.startswith("on ") else words.removeprefix("security of ")
    )
    fitting = [name for name in relations if words == name or words.startswith((f"{name}.", f"{name}_", f"{name} "))]
    return relations[max(fitting, key=len)] if fitting else None
