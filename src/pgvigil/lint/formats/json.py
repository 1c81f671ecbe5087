"""A JSON document that programs can read."""

from __future__ import annotations

import json

from pgvigil.lint.measure import BLOCKS_WRITERS
from pgvigil.lint.rules import Finding
from pgvigil.lint.run import Report


def render(report: Report) -> str:
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
    return json.dumps(document, indent=2)
