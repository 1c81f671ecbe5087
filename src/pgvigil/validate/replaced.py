"""Folds what the session application puts in the place of ours at each of its starts into one note.

Known by their shape, not by their bodies: triggers of three names that call the application's functions of three names, and two
views with the documented columns that read the documented tables. Anything else in those places stays a finding.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator

from pgvigil.validate.catalog import Attributes, Snapshot
from pgvigil.validate.expected import last_name
from pgvigil.validate.report import Finding

_TRIGGERS = {
    "update_sessions_updated_at": (
        "BEFORE", {"UPDATE"}, "update_updated_at_column()", "updated_at moves, last_activity_at only where the other trigger moves it",
    ),
    "update_sessions_last_activity": (
        "BEFORE", {"UPDATE"}, "update_last_activity_at()", "each update moves last_activity_at and its indexes: marking dormant counts as activity",
    ),
    "log_session_lifecycle": (
        "AFTER", {"INSERT", "UPDATE"}, "log_session_lifecycle_event()",
        "events carry no actor, expirations are not logged, and each created event is there twice",
    ),
}  # fmt: skip
_TIME, _TEXT = "timestamp with time zone", "character varying"
_VIEWS = {
    "session_monitoring_view": (
        {
            "id": "uuid", "session_key": f"{_TEXT}(255)", "agent_from": f"{_TEXT}(100)", "agent_to": f"{_TEXT}(100)", "status": f"{_TEXT}(50)",
            "created_at": _TIME, "updated_at": _TIME, "last_activity_at": _TIME, "is_dormant": "boolean", "archived_at": _TIME,
            "retention_policy": f"{_TEXT}(50)", "expires_at": _TIME, "hours_since_activity": "numeric", "context_entries": "bigint",
            "handoff_requests": "bigint", "last_lifecycle_event": f"{_TEXT}(50)",
        },
        {"sessions", "context_history", "handoff_requests", "session_lifecycle"},
        "it counts the rows of each session in each reading",
    ),
    "performance_monitoring_view": (
        {
            "operation": f"{_TEXT}(100)", "total_calls": "bigint", "avg_duration_ms": "numeric", "min_duration_ms": "integer",
            "max_duration_ms": "integer", "p95_duration_ms": "double precision", "successful_calls": "bigint", "failed_calls": "bigint",
            "success_rate_percent": "numeric",
        },
        {"performance_logs"},
        "it reads the logs of a day in each reading",
    ),
}  # fmt: skip
_USUAL = {
    "timing",
    "events",
    "level",
    "function",
    "enabled",
    "comment",
}  # of a trigger without WHEN, columns, arguments and transition tables


def as_one_note(found: Snapshot, findings: Iterable[Finding]) -> list[Finding]:
    """The findings without those of known replacements, and one note that names these and what follows from them."""
    rest: list[Finding] = []
    replaced: dict[str, str] = {}
    findings = list(findings)
    for finding in findings:
        consequence = _consequence(found, finding) if finding.severity == "finding" else ""
        if consequence:
            replaced[finding.object] = consequence
        else:
            rest.append(finding)
    if not replaced:
        return rest
    told = "; ".join(f"{path}: {consequence}" for path, consequence in sorted(replaced.items()))
    note = Finding(
        "different",
        "start-up of the application",
        f"what pgvigil made ({', '.join(sorted(replaced))}): `pgvigil health --repair` makes it again",
        f"what the application makes of these at each of its starts: {told}. See docs/from-the-enhanced-original.md",
        "note",
    )
    return [*rest, note]


def _consequence(found: Snapshot, finding: Finding) -> str:
    """What follows from a replacement that is known; "" for any other finding."""
    kind, _, label = finding.object.partition(" ")
    there = found.objects.get(finding.object)
    if there is None or finding.kind != "different":
        return ""
    name = last_name(label)
    if kind == "trigger" and label == f"sessions.{name}" and name in _TRIGGERS:
        timing, events, function, consequence = _TRIGGERS[name]
        shape = (there.get("timing"), set(there.get("events", ())), there.get("level"), there.get("function"))
        wanted = (timing, events, "ROW", function)
        return consequence if shape == wanted and set(there) <= _USUAL and _is_enabled(there) else ""
    if kind == "view" and label in _VIEWS:
        columns, sources, consequence = _VIEWS[label]
        options = there.get("with") or {}
        reads = set(found.details[finding.object].get("reads") or ())  # ours reads what is in schema pgvigil
        known = (
            dict(_columns(found, label, there)) == columns
            and reads == {f"{found.schema}.{source}" for source in sources}
            and options.keys() <= {"security_invoker"}
            and ("security_invoker" in options or not _reads_past_policies(found))
        )
        return consequence if known else ""
    return ""


def _is_enabled(trigger: Attributes) -> bool:
    return trigger.get("enabled") in (None, "ORIGIN")


def _columns(found: Snapshot, view: str, attributes: Attributes) -> Iterator[tuple[str, str]]:
    for name in attributes.get("order", ()):
        yield name, found.objects.get(f"column {view}.{name}", {}).get("type", "")


def _reads_past_policies(found: Snapshot) -> bool:
    """A view of its owner's rights does, where there is row security; before PostgreSQL 15 there is no other kind of view."""
    secured = any("row_security" in found.objects.get(f"table {name}", {}) for name in ("sessions", "performance_logs"))
    return secured and found.server is not None and found.server.major >= 15
