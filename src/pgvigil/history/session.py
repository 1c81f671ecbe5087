"""The timeline of a session: its events, operations and executions, whether it still exists or not."""

from __future__ import annotations

import json
import uuid
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any

from pgvigil.archives import literal
from pgvigil.database import Target
from pgvigil.errors import UsageError
from pgvigil.history.engines import Ask
from pgvigil.history.snapshot import BEGINNING, Snapshot, paths, snapshot

_EARLIEST, _LATEST = datetime(1, 1, 1, tzinfo=UTC), datetime(9999, 12, 31, tzinfo=UTC)


@dataclass(frozen=True)
class Entry:
    """An event of a session. `kind` is event, operation or execution; `where` is "database" or "archive"."""

    time: datetime
    kind: str
    id: str
    what: str
    detail: dict[str, Any]
    where: str


def timeline(target: Target, session: str, ask: Ask, *, moved_to: str | None = None) -> list[Entry]:
    """Read all that is known of a session, in order."""
    try:
        session = str(uuid.UUID(session))
    except ValueError as error:
        raise UsageError(f"{session!r} is not the id of a session", "Give a UUID, as in sessions.id.") from error
    with snapshot(target, "session_lifecycle", "performance_logs", "query_executions") as moment:
        entries = _in_database(moment, session)
        files = {
            source: moment.files_of(source, None, copies=source == "deleted_sessions")
            for source in ("session_lifecycle", "deleted_sessions", "performance_logs", "query_executions")
        }
    is_of = {"query_executions": f"conversation_id = {literal(session)}"}
    columns = {
        "session_lifecycle": f"{{micros}}({_shown('created_at', '{time}')}), id, event_type, event_data",
        "deleted_sessions": "events",
        "performance_logs": f"{{micros}}({_shown('created_at', '{time}')}), id, operation, duration_ms, success, metadata",
        "query_executions": f"{{micros}}({_shown('started_at', '{time}')}), CAST(id AS VARCHAR(40)), query, status, execution_time, database_type",
    }
    for source, archives in files.items():
        with paths(archives, moved_to) as found:
            condition = is_of.get(source, f"session_id = {literal(session)}")
            for row in ask(f"SELECT {columns[source]} FROM {{files}} WHERE {condition}", found):
                entries += _of_file(source, row)
    # The same event is in a trail that was kept and in the archive of its partition.
    return sorted({(one.kind, one.id): one for one in reversed(entries)}.values(), key=lambda one: (one.time, one.id))


def _shown(column: str, type_: str = "timestamptz") -> str:
    """A time as far as Python has any, in the SQL of all engines: one that is infinite or of another era is at the end of that."""
    return f"least(greatest({column}, {type_} '{_EARLIEST.isoformat(' ')}'), {type_} '{_LATEST.isoformat(' ')}')"


def _in_database(moment: Snapshot, session: str) -> list[Entry]:
    entries = [
        Entry(time, "event", str(id_), type_, data, "database")
        for time, id_, type_, data in moment.rows(
            "at timestamptz, id text, type text, data jsonb",
            f"SELECT {_shown('created_at')}, id, event_type, event_data FROM {{app}}.session_lifecycle WHERE session_id = %s",
            session,
        )
    ]
    for (events,) in moment.rows(
        "events jsonb", "SELECT events FROM pgvigil.deleted_sessions WHERE session_id = %s", session
    ):
        entries += _of_trail(events, "database")
    entries += [
        Entry(time, "operation", str(id_), what, {"duration_ms": ms, "success": ok, "metadata": data}, "database")
        for time, id_, what, ms, ok, data in moment.rows(
            "at timestamptz, id text, what text, ms integer, ok boolean, data jsonb",
            f"SELECT {_shown('created_at')}, id, operation, duration_ms, success, metadata FROM {{app}}.performance_logs WHERE session_id = %s",
            session,
        )
    ]
    for table in ("{app}.query_executions", "pgvigil.executions_to_archive"):
        entries += [
            Entry(
                time, "execution", str(id_), what, {"status": status, "seconds": seconds, "engine": engine}, "database"
            )
            for time, id_, what, status, seconds, engine in moment.rows(
                "at timestamptz, id text, what text, status text, seconds double precision, engine text",
                f"SELECT {_shown('started_at')}, id, query, status, execution_time, database_type FROM {table} WHERE conversation_id = %s",
                session,
            )
        ]
    return entries


def _of_trail(events: list[dict[str, Any]], where: str) -> list[Entry]:
    return [
        Entry(
            datetime.fromisoformat(event["created_at"]),
            "event",
            event["id"],
            event["event_type"],
            event["event_data"],
            where,
        )
        for event in events
    ]


def _of_file(source: str, row: tuple[Any, ...]) -> list[Entry]:
    if source == "deleted_sessions":
        return _of_trail(json.loads(row[0]), "archive")
    at = BEGINNING + timedelta(microseconds=row[0])
    if source == "session_lifecycle":
        return [Entry(at, "event", row[1], row[2], json.loads(row[3]), "archive")]
    if source == "performance_logs":
        detail = {"duration_ms": row[3], "success": row[4], "metadata": json.loads(row[5])}
        return [Entry(at, "operation", row[1], row[2], detail, "archive")]
    return [Entry(at, "execution", row[1], row[2], {"status": row[3], "seconds": row[4], "engine": row[5]}, "archive")]
