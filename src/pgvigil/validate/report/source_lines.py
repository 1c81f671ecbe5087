"""The line of the spec's file that declares the object of a finding."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterable, Iterator

from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.report.model import Finding
from pgvigil.validate.spec.declaration import Declaration


def with_source_line(declared: Declaration, findings: Iterable[Finding]) -> Iterator[Finding]:
    """The findings with the line of their entry; an undeclared part of a table or view has the line of that."""
    relations = {ref.label: line for ref, line in declared.lines.items() if ref.kind in ("table", "view")}
    for finding in findings:
        line = finding.line or _line(declared.lines, relations, ObjectRef.parse(finding.object))
        yield dataclasses.replace(finding, line=line)


def _line(lines: dict[ObjectRef, int], relations: dict[str, int], ref: ObjectRef) -> int | None:
    ref = ref.commented or ref
    if line := lines.get(ref):
        return line
    # `row security of NAME`, `grant on table NAME to ROLE`, `partition NAME_p20260101`, `rule NAME.rule`
    words = ref.of.label if ref.of else ref.label.removeprefix("security of ")
    fitting = [name for name in relations if words == name or words.startswith((f"{name}.", f"{name}_", f"{name} "))]
    return relations[max(fitting, key=len)] if fitting else None
