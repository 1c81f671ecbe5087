"""The workflow commands of GitHub Actions: each finding is shown at its line of the file in the pull request."""

from __future__ import annotations

from pathlib import Path

from pgvigil.lint.run import Report
from pgvigil.text import one_line
from pgvigil.validate.report.formats import address
from pgvigil.validate.report.formats.github import command as annotation
from pgvigil.visible_sql import visible_sql


def render(report: Report) -> str:
    lines = []
    for finding in (*report.findings, *report.unmeasured, *report.notes):
        command = "notice" if finding.severity == "note" else "error"
        body = "\n".join(
            filter(
                None,
                (finding.message, finding.statement, finding.instead and f"instead: {visible_sql(finding.instead)}"),
            )
        )
        lines.append(annotation(command, address(Path(finding.path)), finding.line, finding.rule, body))
    return "\n".join([*lines, one_line(report.verdict)])
