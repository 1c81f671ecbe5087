"""The JUnit XML that Jenkins, GitLab and others read.

It has a case for each kind of object without a finding, and for each object with one.
"""

from __future__ import annotations

import re
from xml.etree import ElementTree as ET

from pgvigil.text import one_line, visible
from pgvigil.validate.report.model import Report, subject

SUMMARY = "Jenkins, GitLab (`artifacts: reports: junit`), Azure"
FINDING = "a failed test case. A gap is an error. Each kind of object without findings passes."

# What XML 1.0 (production Char) cannot hold, not even escaped, and `visible` leaves as it is.
_FORBIDDEN = re.compile("[\ufffe\uffff]")


def render(report: Report, spec: str) -> str:
    at_fault = {subject(finding.object) for finding in report.findings}
    sound = {kind: count for kind, count in report.compared.items() if kind not in at_fault}
    counts = {
        "tests": str(len(sound) + len(report.findings) + len(report.unchecked)),
        "failures": str(len(report.findings)),
        "errors": str(len(report.unchecked)),
    }
    whole = ET.Element("testsuites", {"name": "pgvigil validate", **counts})
    suite = ET.SubElement(whole, "testsuite", {"name": held(spec), **counts, "skipped": "0", "time": "0"})
    properties = ET.SubElement(suite, "properties")
    for name in ("database", "schema", "server_version"):
        ET.SubElement(properties, "property", name=name, value=held(getattr(report, name)))
    for kind, count in sound.items():
        _case(suite, kind, kind).set("assertions", str(count))
    for finding in report.findings:
        case = _case(suite, subject(finding.object), f"{finding.object} {finding.kind}")
        place = f"{spec}:{finding.line}\n" if finding.line else ""
        fault = ET.SubElement(
            case, "failure", type=finding.kind, message=held(one_line(f"{finding.object}: {finding.kind}"))
        )
        fault.text = held(place + "\n".join(f"{label}: {text}" for label, text in finding.facts))
    for item in report.unchecked:
        case = _case(suite, subject(item.objects), f"{item.objects} not compared")
        ET.SubElement(case, "error", type="not compared", message=held(one_line(item.objects))).text = held(item.reason)
    notes = [one_line(f"note: {note.object}: {note.kind}") for note in report.notes]
    ET.SubElement(suite, "system-out").text = held("\n".join([*notes, report.coverage, report.verdict]))
    ET.indent(whole)
    return '<?xml version="1.0" encoding="UTF-8"?>\n' + ET.tostring(whole, encoding="unicode")


def _case(suite: ET.Element, kind: str, name: str) -> ET.Element:
    return ET.SubElement(suite, "testcase", classname=f"pgvigil.validate.{kind}", name=held(one_line(name)), time="0")


def held(text: str) -> str:
    """Escape the characters that XML cannot hold, and control characters that a terminal would obey."""
    return _FORBIDDEN.sub(lambda match: match[0].encode("unicode_escape").decode(), visible(text))
