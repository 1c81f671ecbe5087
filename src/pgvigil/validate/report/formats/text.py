"""The report for people, in a terminal or in the log of a CI job."""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Iterator

from pgvigil.text import BAR, one_line, painted
from pgvigil.validate.report.model import KINDS, Finding, Report

SUMMARY = "people; in color on a terminal, unless `NO_COLOR` is set"
FINDING = "a paragraph, with the SQL that repairs it"

_INDENT, _LABEL = " " * 6, 8
_OF_KIND = {"missing": "red", "different": "yellow", "invalid": "red", "disabled": "red", "unexpected": "yellow"}


def render(report: Report, *, colour: bool = False) -> str:
    return "\n".join(_Page(report, colour).lines())


class _Page:
    def __init__(self, report: Report, colour: bool) -> None:
        self.report = report
        self.colour = colour

    def lines(self) -> Iterator[str]:
        report = self.report
        server = report.server_version.split()[0]
        yield one_line(
            f"Database {report.database}, schema {report.schema}, PostgreSQL {server}, against {report.spec}"
        )
        for kind in KINDS:
            yield from self._findings(kind.upper(), [f for f in report.findings if f.kind == kind], _OF_KIND[kind])
        if report.unchecked:
            yield from self._heading("NOT COMPARED", len(report.unchecked), "red")
            for item in report.unchecked:
                yield f"  {self._paint(one_line(item.objects), 'bold')}"
                yield from _labelled("why", item.reason)
        yield from self._findings("NOTES", report.notes, "cyan", ", not failures")
        yield ""
        yield report.coverage
        yield self._paint(report.verdict, "green" if report.ok else "red")

    def _findings(self, title: str, findings: Iterable[Finding], colour: str, aside: str = "") -> Iterator[str]:
        if not (findings := list(findings)):
            return
        yield from self._heading(title, len(findings), colour, aside)
        for finding in findings:
            kind = f": {finding.kind}" if finding.severity == "note" else ""
            yield f"  {self._paint(one_line(finding.object), 'bold')}{kind}"
            yield from self._facts(finding)
            if finding.line and finding.kind != "unexpected":
                yield from _labelled("declared", f"{self.report.spec}:{finding.line}")

    def _heading(self, title: str, count: int, colour: str, aside: str = "") -> Iterator[str]:
        yield ""
        yield self._paint(f"{title} ({count})", colour) + aside

    def _facts(self, finding: Finding) -> Iterator[str]:
        facts = dict(finding.facts)
        if "\n" in finding.expected and "\n" in finding.found:
            del facts["expected"], facts["found"]
            yield from self._difference(finding.expected, finding.found)
        for label, text in facts.items():
            for line in _labelled(label, text):
                yield self._paint(line, "cyan") if label == "fix" else line

    def _difference(self, expected: str, found: str) -> Iterator[str]:
        """Yield the lines in which two long texts differ, such as bodies of functions, with their neighbours."""
        for line in difflib.unified_diff(
            expected.splitlines(), found.splitlines(), "expected", "found", lineterm="", n=2
        ):
            yield self._paint(f"{_INDENT}{BAR}{one_line(line)}", {"-": "green", "+": "red"}.get(line[0], "dim"))

    def _paint(self, text: str, colour: str) -> str:
        return painted(text, colour) if self.colour else text


def _labelled(label: str, text: str) -> Iterator[str]:
    """A text beside its label. Further lines begin with a bar: none can pass for a command to the CI system."""
    first, *rest = text.split("\n")
    yield f"{_INDENT}{label:<{_LABEL}}  {one_line(first)}"
    for line in rest:
        yield f"{_INDENT}{'':<{_LABEL}}{BAR}{one_line(line)}"
