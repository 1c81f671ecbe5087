"""The lines for people."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from pgvigil.lint.run import Report
from pgvigil.text import BAR, counted, one_line
from pgvigil.visible_sql import visible_sql


def render(report: Report, *, locks: bool, colour: bool) -> str:
    return "\n".join(_text(report, locks, colour))


def _text(report: Report, locks: bool, colour: bool) -> Iterator[str]:
    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    zone = report.zone if report.zone_known else f"{report.zone} (assumed)"
    yield one_line(f"Measured on PostgreSQL {report.server_version.split()[0]}, TimeZone {zone}")
    if report.other_version:
        yield one_line(f"note: {report.other_version}")
    if report.base:
        yield paint(f"BASE SCHEMA: {counted(len(report.base), 'statement')} could not be run", "1;33")
        yield from (f"  {one_line(line)}" for line in report.base[:5])
    if locks:
        for measured in report.statements:
            yield one_line(f"{measured.source.path}:{measured.statement.line}: {_measured(measured)}")
    for finding in (*report.findings, *report.unmeasured, *report.notes, *report.allowed):
        yield ""
        kind = "allowed: " if finding.allowed else "note: " if finding.severity == "note" else ""
        code = "36" if kind else "1;31"
        yield paint(one_line(f"{finding.path}:{finding.line}: {kind}{finding.message}"), code) + one_line(
            f"  [{finding.rule}]"
        )
        yield f"  {one_line(_short(finding.statement))}"
        if finding.allowed:
            yield f"  reason: {one_line(finding.allowed)}"
        elif finding.instead:
            first, *rest = visible_sql(finding.instead).split("\n")
            yield paint(f"  instead: {one_line(first)}", "36")
            yield from (f"  {BAR}{one_line(line)}" for line in rest)
    yield ""
    yield paint(one_line(report.verdict), "1;31" if report.exit_code else "1;32")


def _measured(measured: Any) -> str:
    if measured.outside:
        return (
            "runs outside a transaction: its locks let everybody read and write"
            if not measured.locks
            else "runs outside a transaction"
        )
    if measured.error:
        return f"not measured: {measured.error}"
    parts = [f"{mode.removesuffix('Lock')} on {name}" for name, mode in sorted(measured.locks.items())]
    parts += [f"rewrites {name}" for name in measured.rewrites] + [f"reads {name} in full" for name in measured.reads]
    return ", ".join(parts) or "locks no table that was there before"


def _short(statement: str) -> str:
    return statement if len(statement) <= 160 else statement[:159] + "…"
