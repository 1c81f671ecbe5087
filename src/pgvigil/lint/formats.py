"""The report of a lint in each form that a report of the validator has. All contain the same findings, notes and gaps."""

from __future__ import annotations

import json as json_module
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any
from urllib.parse import quote
from xml.etree import ElementTree as ET

from pgvigil import __version__
from pgvigil.lint.measure import BLOCKS_WRITERS
from pgvigil.lint.rules import RULES, Finding
from pgvigil.lint.run import Report
from pgvigil.text import BAR, one_line, visible
from pgvigil.validate.report.formats import address, github, junit, sarif
from pgvigil.visible_sql import visible_sql

_RULES = {**RULES, "unmeasured": "The statement could not be run: nothing is known of its locks",
          "unused-allow": "A comment allows what is not found"}  # fmt: skip


def render(report: Report, form: str, *, locks: bool = False, colour: bool = False) -> str:
    """The report without a newline at its end. `locks`: in text, also what each statement was measured to do."""
    if form == "text":
        return "\n".join(_text(report, locks, colour))
    return RENDERERS[form](report)


def _text(report: Report, locks: bool, colour: bool) -> Iterator[str]:
    def paint(text: str, code: str) -> str:
        return f"\x1b[{code}m{text}\x1b[0m" if colour else text

    zone = report.zone if report.zone_known else f"{report.zone} (assumed)"
    yield one_line(f"Measured on PostgreSQL {report.server_version.split()[0]}, TimeZone {zone}")
    if report.other_version:
        yield one_line(f"note: {report.other_version}")
    if report.base:
        yield paint(f"BASE SCHEMA: {len(report.base)} statements could not be run", "1;33")
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


def _json(report: Report) -> str:
    def plain(finding: Finding) -> dict[str, object]:
        return {
            "rule": finding.rule, "file": finding.path, "line": finding.line, "table": finding.table, "message": finding.message,
            "statement": finding.statement, "instead": finding.instead, "allowed": finding.allowed or None,
        }  # fmt: skip

    document = {
        "ok": report.exit_code == 0,
        "exit_code": report.exit_code,
        "verdict": report.verdict,
        "server_version": report.server_version,
        "other_version": report.other_version or None,
        "time_zone": report.zone,
        "time_zone_assumed": not report.zone_known,
        "files": report.files,
        "findings": [plain(one) for one in report.findings],
        "notes": [plain(one) for one in report.notes],
        "allowed": [plain(one) for one in report.allowed],
        "unmeasured": [plain(one) for one in report.unmeasured],
        "base_errors": report.base,
        "statements": [
            {
                "file": str(one.source.path), "line": one.statement.line, "statement": " ".join(one.statement.text.split()),
                "locks": one.locks, "blocks_writers": sorted(name for name, mode in one.locks.items() if mode in BLOCKS_WRITERS),
                "rewrites": one.rewrites, "reads": one.reads, "error": one.error or None,
            }
            for one in report.statements
        ],
    }  # fmt: skip
    return json_module.dumps(document, indent=2)


def _github(report: Report) -> str:
    lines = []
    for finding in (*report.findings, *report.unmeasured, *report.notes):
        command = "notice" if finding.severity == "note" else "error"
        body = "\n".join(
            filter(
                None,
                (finding.message, finding.statement, finding.instead and f"instead: {visible_sql(finding.instead)}"),
            )
        )
        lines.append(github.command(command, address(Path(finding.path)), finding.line, finding.rule, body))
    return "\n".join([*lines, one_line(report.verdict)])


def _junit(report: Report) -> str:
    bad = {(finding.path, finding.line) for finding in (*report.findings, *report.unmeasured)}
    sound = [one for one in report.statements if (str(one.source.path), one.statement.line) not in bad]
    counts = {
        "tests": str(len(sound) + len(report.findings) + len(report.unmeasured)),
        "failures": str(len(report.findings)),
        "errors": str(len(report.unmeasured)),
    }
    whole = ET.Element("testsuites", {"name": "pgvigil lint", **counts})
    suite = ET.SubElement(whole, "testsuite", {"name": "lint", **counts, "skipped": "0", "time": "0"})
    for one in sound:
        _case(suite, str(one.source.path), f"line {one.statement.line}")
    for finding, tag in [*((f, "failure") for f in report.findings), *((f, "error") for f in report.unmeasured)]:
        case = _case(suite, finding.path, f"line {finding.line} {finding.rule} {finding.table}".rstrip())
        fault = ET.SubElement(case, tag, type=finding.rule, message=junit.held(one_line(finding.message)))
        fault.text = junit.held(
            "\n".join(filter(None, (f"{finding.path}:{finding.line}", finding.statement, visible_sql(finding.instead))))
        )
    notes = [one_line(f"note: {note.path}:{note.line}: {note.message}") for note in report.notes]
    ET.SubElement(suite, "system-out").text = junit.held("\n".join([*notes, report.verdict]))
    ET.indent(whole)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(whole, encoding="unicode")


def _case(suite: ET.Element, path: str, name: str) -> ET.Element:
    return ET.SubElement(
        suite,
        "testcase",
        classname=f"pgvigil.lint.{junit.held(one_line(path))}",
        name=junit.held(one_line(name)),
        time="0",
    )


def _sarif(report: Report) -> str:
    results = []
    for finding in (*report.findings, *report.unmeasured, *report.notes, *report.allowed):
        place = {
            "artifactLocation": {"uri": quote(address(Path(finding.path)))},
            "region": {"startLine": finding.line},
        }
        result: dict[str, Any] = {
            "ruleId": finding.rule,
            "ruleIndex": list(_RULES).index(finding.rule),
            "level": "note" if finding.severity == "note" else "error",
            "message": {"text": visible("\n".join(filter(None, (finding.message, visible_sql(finding.instead)))))},
            "locations": [{"physicalLocation": place}],
            # By which the next run knows it again, also on another line.
            "partialFingerprints": {
                "statement/v1": sarif.fingerprint(finding.rule, Path(finding.path).name, finding.statement)
            },
        }
        if finding.allowed:
            result["suppressions"] = [{"kind": "inSource", "justification": visible(finding.allowed)}]
        results.append(result)
    rules = [{"id": rule, "shortDescription": {"text": text}} for rule, text in _RULES.items()]
    run = {
        "tool": {"driver": {"name": "pgvigil lint", "version": __version__, "rules": rules}},
        "invocations": [{"executionSuccessful": not report.unmeasured, "exitCode": report.exit_code}],
        "results": results,
        "properties": {"verdict": report.verdict, "serverVersion": report.server_version, "timeZone": report.zone},
    }
    return json_module.dumps({"$schema": sarif.SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


RENDERERS: dict[str, Callable[[Report], str]] = {"json": _json, "github": _github, "junit": _junit, "sarif": _sarif}
