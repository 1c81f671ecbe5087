"""What comes together while a spec is compared: differences, what follows from what, and what the server settles."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace

from pgvigil.validate.catalog import Catalog, Connection
from pgvigil.validate.probe import Probe, settle
from pgvigil.validate.report import KINDS, Finding, Kind, Severity
from pgvigil.validate.spec import Spec

ABSENT = "nothing"


@dataclass(frozen=True)
class Part:
    """One attribute of an object that is not as declared, unless a probe shows that both texts mean the same."""

    expected: str
    found: str
    probe: Probe | None = None


class Collector:
    def __init__(self, spec: Spec, catalog: Catalog) -> None:
        self.spec = spec
        self.catalog = catalog
        self.schema = catalog.schema
        self.compared: Counter[str] = Counter()
        self._found: list[tuple[Finding, tuple[Part, ...]]] = []
        self._missing: dict[str, list[str]] = {}  # missing object → what is missing because of it

    def add(self, kind: Kind, path: str, expected: str, found: str, severity: Severity = "finding") -> None:
        self._found.append((Finding(kind, path, expected, found, severity), ()))

    def miss(self, path: str, expected: str, causes: Iterable[str] = ()) -> None:
        """Missing; told under the first of `causes` that is missing itself."""
        for cause in causes:
            if cause in self._missing:
                self._missing[cause].append(path)
                return
        self._missing[path] = []
        self.add("missing", path, expected, ABSENT)

    def unexpected(self, path: str, found: str, ours: bool) -> None:
        if rule := next((rule for rule in self.spec.ignore if rule.covers(path)), None):
            self.add("unexpected", path, f"left alone: {rule.reason}", found, "note")
        else:
            self.add("unexpected", path, "", found, "finding" if ours else "note")

    def differ(self, path: str, parts: Iterable[Part]) -> None:
        if parts := tuple(parts):
            self._found.append((Finding("different", path), parts))

    def need_comment(self, path: str, commented: bool) -> None:
        if not commented:
            self.add("missing", f"comment on {path}", "a comment", ABSENT)

    def settled(self, conn: Connection) -> list[Finding]:
        answers = settle(conn, [part.probe for _, parts in self._found for part in parts if part.probe])
        findings = []
        for finding, parts in self._found:
            left = [part for part in parts if part.probe is None or answers[part.probe] is not True]
            if parts and not left:
                continue
            reasons = {
                f" (their meaning could not be compared: {answer})"
                for part in left
                if part.probe and isinstance(answer := answers[part.probe], str)
            }
            findings.append(
                replace(
                    finding,
                    expected=finding.expected or "; ".join(part.expected for part in left),
                    found=finding.found or "; ".join(part.found for part in left) + "".join(sorted(reasons)),
                    also=tuple(self._missing.get(finding.object, ())) if finding.kind == "missing" else (),
                )
            )
        return sorted(_without_echoes(findings), key=lambda finding: KINDS.index(finding.kind))


def _without_echoes(findings: list[Finding]) -> Iterator[Finding]:
    """An object that was made anew lost its comment with it: one defect, not two."""
    at_fault = {finding.object for finding in findings if finding.severity == "finding"}
    for finding in findings:
        comment = f"comment on {finding.object}"
        if finding.severity == "finding" and comment in at_fault:
            yield replace(finding, also=(*finding.also, comment))
        elif finding.object.removeprefix("comment on ") not in at_fault - {finding.object}:
            yield finding
