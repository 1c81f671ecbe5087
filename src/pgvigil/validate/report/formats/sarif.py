"""The SARIF 2.1.0 (OASIS) that code-scanning pages read. A rule is a kind of finding, a result is a finding."""

from __future__ import annotations

import hashlib
import json
import re
from typing import Any
from urllib.parse import quote

from pgvigil import __version__
from pgvigil.text import visible
from pgvigil.validate.report.model import MEANINGS, Finding, Report, Unchecked, subject

SUMMARY = "code scanning (SARIF 2.1.0)"
FINDING = "a result on the line of the spec that declares the object; the next run gives it the same identity"

SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"
_GAP = "not compared"
_RULES: dict[str, str] = dict(MEANINGS) | {_GAP: "Nobody can say whether it is as declared"}
_LAST = re.compile(r"[^.]*(?:\([^)]*\))?$")


def render(report: Report, spec: str) -> str:
    run = {
        "tool": {
            "driver": {
                "name": "pgvigil",
                "version": __version__,
                "rules": [{"id": rule, "shortDescription": {"text": text}} for rule, text in _RULES.items()],
            }
        },
        "invocations": [{"executionSuccessful": not report.unchecked, "exitCode": report.exit_code}],
        "results": [
            *(_finding(finding, spec) for finding in (*report.findings, *report.notes)),
            *(_unchecked(item, spec) for item in report.unchecked),
        ],
        "properties": {
            "verdict": report.verdict,
            "database": report.database,
            "schema": report.schema,
            "serverVersion": report.server_version,
        },
    }
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)


def _finding(finding: Finding, spec: str) -> dict[str, Any]:
    said = "".join(f"\n{label}: {text}" for label, text in finding.facts)
    level = "error" if finding.severity == "finding" else "note"
    return _result(finding.kind, level, finding.object, f"{finding.object}: {finding.kind}{said}", spec, finding.line)


def _unchecked(item: Unchecked, spec: str) -> dict[str, Any]:
    return _result(_GAP, "error", item.objects, f"{item.objects}: {_GAP}, because {item.reason}", spec, None)


def _result(rule: str, level: str, path: str, message: str, spec: str, line: int | None) -> dict[str, Any]:
    name = path.partition(" ")[2] or path
    match = _LAST.search(name)
    place: dict[str, Any] = {"artifactLocation": {"uri": quote(spec)}}
    if line:
        place["region"] = {"startLine": line}
    return {
        "ruleId": rule,
        "ruleIndex": list(_RULES).index(rule),
        "level": level,
        "message": {"text": visible(message)},
        "locations": [
            {
                "physicalLocation": place,
                "logicalLocations": [
                    {"name": match[0] if match else name, "fullyQualifiedName": name, "kind": subject(path)}
                ],
            }
        ],
        # By which the next run knows it again: neither its line in the spec nor what was found does.
        "partialFingerprints": {"object/v1": fingerprint(rule, path)},
    }


def fingerprint(*parts: str) -> str:
    """Return the fingerprint of a result, equal from run to run."""
    return hashlib.sha256("\0".join(parts).encode(errors="replace")).hexdigest()
