"""What a validation found, for people and for machines."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from typing import Literal

Kind = Literal["missing", "different", "invalid", "disabled", "unexpected"]
Severity = Literal["finding", "note"]
KINDS: tuple[Kind, ...] = ("missing", "different", "invalid", "disabled", "unexpected")


@dataclass(frozen=True)
class Finding:
    """One thing that is not as declared. `also` names what follows from it and is not listed by itself."""

    kind: Kind
    object: str
    expected: str = ""
    found: str = ""
    severity: Severity = "finding"
    also: tuple[str, ...] = ()


@dataclass(frozen=True)
class Report:
    spec: str
    database: str
    schema: str
    server_version: str
    findings: tuple[Finding, ...]
    notes: tuple[Finding, ...]
    seen: dict[str, int]  # objects in the catalog, by kind
    compared: dict[str, int]  # objects of the spec, by kind

    @property
    def ok(self) -> bool:
        return not self.findings

    @property
    def exit_code(self) -> int:
        return 0 if self.ok else 1

    @property
    def counts(self) -> dict[str, int]:
        counted = Counter(finding.kind for finding in self.findings)
        return {kind: counted[kind] for kind in KINDS if counted[kind]}


def render(report: Report, format: Literal["text", "json"]) -> str:
    return json.dumps(_document(report), indent=2) if format == "json" else "\n".join(_lines(report))


def _document(report: Report) -> dict[str, object]:
    return {
        "valid": report.ok,
        "counts": {kind: report.counts.get(kind, 0) for kind in KINDS},
        "findings": [asdict(finding) for finding in report.findings],
        "notes": [asdict(note) for note in report.notes],
        "seen": report.seen,
        "compared": report.compared,
        "database": report.database,
        "schema": report.schema,
        "server_version": report.server_version,
        "spec": report.spec,
    }


def _lines(report: Report) -> Iterator[str]:
    yield (
        f"Database {report.database}, schema {report.schema}, PostgreSQL {report.server_version.split()[0]}, "
        f"against {report.spec}"
    )
    for kind in KINDS:
        of_kind = [finding for finding in report.findings if finding.kind == kind]
        if of_kind:
            yield ""
            yield f"{kind.upper()} ({len(of_kind)})"
            for finding in of_kind:
                yield f"  {finding.object}"
                yield from _details(finding)
    if report.notes:
        yield ""
        yield f"NOTES ({len(report.notes)}), told but not failed"
        for note in report.notes:
            yield f"  {note.object}: {note.kind}"
            yield from _details(note)
    yield ""
    yield (
        f"Coverage: {sum(report.seen.values())} objects seen / {sum(report.compared.values())} compared / "
        f"{len(report.notes)} notes"
    )
    if report.ok:
        yield "VALID: no findings"
    else:
        total = len(report.findings)
        counts = ", ".join(f"{count} {kind}" for kind, count in report.counts.items())
        yield f"INVALID: {total} finding{'s' * (total != 1)} ({counts})"


def _details(finding: Finding) -> Iterator[str]:
    for label, text in (("expected", finding.expected), ("found", finding.found), ("and so", ", ".join(finding.also))):
        if text:
            yield f"      {label:<8}  {text}"
