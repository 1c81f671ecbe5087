"""The JUnit XML: a test case for each statement."""

from __future__ import annotations

from xml.etree import ElementTree as ET

from pgvigil.lint.run import Report
from pgvigil.text import one_line
from pgvigil.validate.report.formats.junit import held
from pgvigil.visible_sql import visible_sql


def render(report: Report) -> str:
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
        fault = ET.SubElement(case, tag, type=finding.rule, message=held(one_line(finding.message)))
        fault.text = held(
            "\n".join(filter(None, (f"{finding.path}:{finding.line}", finding.statement, visible_sql(finding.instead))))
        )
    notes = [one_line(f"note: {note.path}:{note.line}: {note.message}") for note in report.notes]
    ET.SubElement(suite, "system-out").text = held("\n".join([*notes, report.verdict]))
    ET.indent(whole)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(whole, encoding="unicode")


def _case(suite: ET.Element, path: str, name: str) -> ET.Element:
    return ET.SubElement(
        suite,
        "testcase",
        classname=f"pgvigil.lint.{held(one_line(path))}",
        name=held(one_line(name)),
        time="0",
    )
