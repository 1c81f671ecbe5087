"""A JSON document that programs can read."""

from __future__ import annotations

import json
from dataclasses import asdict

from pgvigil.validate.report.model import KINDS, Finding, Report

SUMMARY = "your own programs"
FINDING = "an object in `findings`; `notes` and `unchecked` are beside it"


def render(report: Report, spec: str) -> str:
    document = {
        "valid": report.ok,
        "exit_code": report.exit_code,
        "counts": {kind: report.counts.get(kind, 0) for kind in KINDS},
        "findings": [_plain(finding) for finding in report.findings],
        "notes": [_plain(note) for note in report.notes],
        "unchecked": [item._asdict() for item in report.unchecked],
        "seen": report.seen,
        "compared": report.compared,
        "database": report.database,
        "schema": report.schema,
        "server_version": report.server_version,
        "spec": spec,
    }
    return json.dumps(document, indent=2)


def _plain(finding: Finding) -> dict[str, object]:
    plain = asdict(finding)
    del plain["steps"], plain["uses"]  # the same as the fix, and what it is sorted by
    return plain
