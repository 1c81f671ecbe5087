"""The SARIF 2.1.0, for code scanning."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pgvigil import __version__
from pgvigil.lint.rules import RULES
from pgvigil.lint.run import Report
from pgvigil.text import visible
from pgvigil.validate.report.formats import address
from pgvigil.validate.report.formats.sarif import SCHEMA, fingerprint
from pgvigil.visible_sql import visible_sql

_RULES = {**RULES, "unmeasured": "The statement could not be run: nothing is known of its locks",
          "unused-allow": "A comment allows what is not found"}  # fmt: skip


def render(report: Report) -> str:
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
                "statement/v1": fingerprint(finding.rule, Path(finding.path).name, finding.statement)
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
    return json.dumps({"$schema": SCHEMA, "version": "2.1.0", "runs": [run]}, indent=2)
