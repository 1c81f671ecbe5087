"""The workflow commands of GitHub Actions: each finding is shown at its line of the spec in the pull request."""

from __future__ import annotations

from collections.abc import Iterator

from pgvigil.text import one_line, visible
from pgvigil.validate.report.model import Report

SUMMARY = "the log of a GitHub Actions job"
FINDING = "an annotation on that line, in the pull request"


def render(report: Report, spec: str) -> str:
    return "\n".join(_lines(report, spec))


def _lines(report: Report, spec: str) -> Iterator[str]:
    for finding in (*report.findings, *report.notes):
        kind = "error" if finding.severity == "finding" else "notice"
        message = "\n".join(f"{label}: {text}" for label, text in finding.facts) or finding.kind
        yield command(kind, spec, finding.line, f"{finding.object}: {finding.kind}", message)
    for item in report.unchecked:
        yield command("error", spec, None, f"{item.objects}: not compared", item.reason)
    yield one_line(report.verdict)


def command(name: str, file: str, line: int | None, title: str, message: str) -> str:
    """Return one annotation."""
    at = f"file={_property(file)}" + (f",line={line}" if line else "")
    return f"::{name} {at},title={_property(title)}::{_data(message)}"


def _data(text: str) -> str:
    return visible(text).replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _property(text: str) -> str:
    return _data(one_line(text)).replace(":", "%3A").replace(",", "%2C")
