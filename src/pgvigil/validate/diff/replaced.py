"""Report the objects that the session application replaces at each of its starts in one note.

Triggers are known by their shape: three names that call the application's functions of three names. Two views are known
by their query, as the server prints it. Anything else in those places stays a finding.
"""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgvigil.validate.catalog.object_ref import ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot
from pgvigil.validate.report.model import REPLACED, Finding

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
_SUCCESSES = "count( CASE WHEN success THEN 1 ELSE NULL::integer END)"
_VIEWS = {
    "session_monitoring_view": (
        "SELECT id, session_key, agent_from, agent_to, status, created_at, updated_at, last_activity_at, is_dormant, archived_at, retention_policy,"
        " expires_at, (EXTRACT(epoch FROM (now() - last_activity_at)) / (3600)::numeric) AS hours_since_activity,"
        " ( SELECT count(*) AS count FROM context_history ch WHERE (ch.session_id = id)) AS context_entries,"
        " ( SELECT count(*) AS count FROM handoff_requests hr WHERE (hr.session_id = id)) AS handoff_requests,"
        " ( SELECT sl.event_type FROM session_lifecycle sl WHERE (sl.session_id = id) ORDER BY sl.created_at DESC LIMIT 1) AS last_lifecycle_event"
        " FROM sessions s;",
        "it counts the rows of each session in each reading",
    ),
    "performance_monitoring_view": (
        "SELECT operation, count(*) AS total_calls, avg(duration_ms) AS avg_duration_ms, min(duration_ms) AS min_duration_ms,"
        " max(duration_ms) AS max_duration_ms, percentile_cont((0.95)::double precision) WITHIN GROUP (ORDER BY ((duration_ms)::double precision))"
        f" AS p95_duration_ms, {_SUCCESSES} AS successful_calls,"
        " count( CASE WHEN (NOT success) THEN 1 ELSE NULL::integer END) AS failed_calls,"
        f" round(((({_SUCCESSES})::numeric * 100.0) / (count(*))::numeric), 2) AS success_rate_percent"
        " FROM performance_logs WHERE (created_at >= (now() - '24:00:00'::interval)) GROUP BY operation;",
        "it reads the logs of a day in each reading",
    ),
}
_USUAL = {
    "timing",
    "events",
    "level",
    "function",
    "enabled",
    "comment",
}  # of a trigger without WHEN, columns, arguments and transition tables


def as_one_note(found: Snapshot, findings: Iterable[Finding]) -> tuple[list[Finding], frozenset[str]]:
    """The findings without those of known replacements, and one note that names these and what follows from them; and what was replaced."""
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
        return rest, frozenset()
    consequences = "; ".join(f"{path}: {consequence}" for path, consequence in sorted(replaced.items()))
    note = Finding(
        "different",
        REPLACED,
        f"what pgvigil made ({', '.join(sorted(replaced))}): `pgvigil health --repair` makes it again",
        f"what the application makes of these at each of its starts: {consequences}. See pgvigil help from-the-enhanced-original",
        "note",
    )
    return [*rest, note], frozenset(replaced)


def _consequence(found: Snapshot, finding: Finding) -> str:
    """Return the consequences of a known replacement; "" for any other finding."""
    ref = ObjectRef.parse(finding.object)
    name, there = ref.name, found.objects.get(ref)
    if there is None or finding.kind != "different":
        return ""
    if ref.kind == "trigger" and ref.relation == "sessions" and name in _TRIGGERS:
        timing, events, function, consequence = _TRIGGERS[name]
        shape = (there.get("timing"), set(there.get("events", ())), there.get("level"), there.get("function"))
        expected = (timing, events, "ROW", function)
        return consequence if shape == expected and set(there) <= _USUAL and _is_enabled(there) else ""
    if ref.kind == "view" and ref.label in _VIEWS:
        query, consequence = _VIEWS[ref.label]
        if _query(there) != query or (
            "security_invoker" not in (there.get("with") or {}) and _reads_past_policies(found)
        ):
            return ""
        return consequence
    return ""


def _is_enabled(trigger: Attributes) -> bool:
    return trigger.get("enabled") in (None, "ORIGIN")


def _query(view: Attributes) -> str:
    """Return the query of a view on one line, without the table's name before its columns.

    Since PostgreSQL 16 the server prints that only where it is needed.
    """
    return re.sub(r"\b(?:s|performance_logs)\.", "", " ".join(str(view.get("definition", "")).split()))


def _reads_past_policies(found: Snapshot) -> bool:
    """A view of its owner's rights does, where there is row security; before PostgreSQL 15 there is no other kind of view."""
    secured = any("row_security" in found.objects.get(table(name), {}) for name in ("sessions", "performance_logs"))
    return secured and found.server is not None and found.server.major >= 15
