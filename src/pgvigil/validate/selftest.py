"""The self-test of triggers and views: sessions are lived through, and rolled back.

Every check has a session of its own in a savepoint of its own, so that one failure hides no other. Nothing but these
rows is locked. Triggers of the application find its tables by the path of the session; our own statements name no operator
that a schema of that path could have for other types.

More than 400 lines: one check after another, and their order is that of a session's life.
"""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime, timedelta
from typing import Any
from uuid import UUID, uuid4

import psycopg
from psycopg import errors, sql
from psycopg.types.json import Jsonb

from pgvigil import project
from pgvigil.database import see_all_rows
from pgvigil.errors import ConnectError, PreconditionError
from pgvigil.text import raised_in
from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Connection
from pgvigil.validate.report.model import REPLACED, Finding
from pgvigil.validate.spec.cache import load_declaration

ACTOR = "pgvigil self-test"
_SETTINGS = {
    "pgvigil.actor": ACTOR,
    "pgvigil.reason": ACTOR,
    "pgvigil.skip_activity": "",
    "pgvigil.activity_granularity": "1 minute",
    "lock_timeout": "5s",
    "statement_timeout": "30s",
    "TimeZone": "UTC",
}
_CHILDREN: dict[str, dict[str, object]] = {
    "context_history": {"sequence_number": 1, "context_type": "message", "content": ACTOR},
    "codebase_snapshots": {"file_path": ACTOR, "content_hash": ACTOR},
    "handoff_requests": {"requesting_agent": ACTOR},
}
_SESSION: dict[str, object] = {
    "agent_from": "from",
    "agent_to": "to",
    "status": "active",
    "retention_policy": "standard",
}
IDLE = timedelta(hours=5)


class _Failed(Exception):
    """An observation of a check that differs from its expectation."""


class _Untried(Exception):
    """A check has no result: what the application has put in the place of ours does something else, and is known to."""


class SessionFixture:
    """A session of the self-test.

    `replaced` has our objects that the application is known to replace, and has replaced.
    """

    def __init__(self, conn: Connection, replaced: frozenset[str] = frozenset()) -> None:
        self.conn = conn
        self.replaced = replaced
        self.id = uuid4()
        self._read: set[UUID] = set()
        now = self.one("SELECT now()")
        columns = _SESSION | {
            "id": self.id,
            "session_key": f"pgvigil-self-test-{self.id}",
            "updated_at": now - IDLE,
            "last_activity_at": now - IDLE,
            "metadata": Jsonb({}),
        }
        self.now: datetime = now
        self.insert("sessions", columns)

    def insert(self, table: str, values: dict[str, object]) -> None:
        names = sql.SQL(", ").join(map(sql.Identifier, values))
        places = sql.SQL(", ").join(map(sql.Placeholder, values))
        query = sql.SQL("INSERT INTO {} ({}) VALUES ({})").format(sql.Identifier(table), names, places)
        self.conn.execute(query, values)

    def child(self, table: str) -> None:
        self.insert(table, _CHILDREN[table] | {"id": uuid4(), "session_id": self.id})

    def one(self, query: str, *parameters: object) -> Any:
        row = self.conn.execute(query, parameters).fetchone()
        return row[0] if row else None

    def update(self, **values: object) -> None:
        changes = sql.SQL(", ").join(
            sql.SQL("{} = {}").format(sql.Identifier(name), sql.Placeholder(name)) for name in values
        )
        query = sql.SQL("UPDATE sessions SET {} WHERE id = %(of)s").format(changes)
        self.conn.execute(query, values | {"of": self.id})

    def value(self, column: str) -> Any:
        query = sql.SQL("SELECT {} FROM sessions WHERE id = %s").format(sql.Identifier(column))
        row = self.conn.execute(query, (self.id,)).fetchone()
        return row[0] if row else None

    def events(self) -> list[tuple[str, dict[str, Any]]]:
        """Return the events since the last call."""
        query = "SELECT id, event_type, event_data FROM session_lifecycle WHERE session_id = %s ORDER BY id"
        rows = [row for row in self.conn.execute(query, (self.id,)) if row[0] not in self._read]
        self._read.update(row[0] for row in rows)
        return [(row[1], row[2]) for row in rows]

    # --- what a check may ask for ------------------------------------------------------------------------------------

    def unmet(self, what: str, *triggers: str) -> Exception:
        """Return the error to raise: a replaced trigger is not a fault of the others."""
        return _Untried(what) if self.replaced.intersection(triggers) else _Failed(what)

    def expect_events(self, *expected: str) -> list[dict[str, Any]]:
        events = self.events()
        if sorted(name for name, _ in events) != sorted(expected):
            raise self.unmet(f"events: {', '.join(name for name, _ in events) or 'none'}", LOG)
        if strange := [name for name, data in events if data.get("actor") != ACTOR]:
            raise self.unmet(f"event {strange[0]} does not name its actor", LOG)
        return [data for _, data in events]

    def expect_data(self, event: str, **expected: object) -> None:
        (data,) = self.expect_events(event)
        got = {key: data.get(key) for key in expected}
        if got != expected:
            raise self.unmet(f"event_data {got}", LOG)

    def expect_idle(self) -> None:
        if (moved := self.value("last_activity_at") - (self.now - IDLE)) != timedelta():
            raise self.unmet(f"last_activity_at moved by {moved}", STEPS, STAMP)

    def expect_active(self) -> None:
        if (last := self.value("last_activity_at")) != self.now:
            raise self.unmet(f"last_activity_at is {last}", STEPS, STAMP)

    def expect_refused(self, query: str, *parameters: object) -> None:
        try:
            with self.conn.transaction():
                changed = self.conn.execute(query, parameters).rowcount
        except errors.ObjectNotInPrerequisiteState as error:
            if "reactivate_session" not in (error.diag.message_hint or ""):
                raise _Failed("the refusal does not name reactivate_session, the way back") from error
            return
        raise _Failed(f"{query.split()[0]} went through, {changed} row")


LOG = "trigger sessions.log_session_lifecycle"
STEPS = "trigger sessions.update_sessions_last_activity"
STAMP = "trigger sessions.update_sessions_updated_at"
TOUCH = "trigger sessions.watch_session"

Check = Callable[[SessionFixture], None]
_CHECKS: list[tuple[str, str, Check]] = []


def _check(of: str, expected: str) -> Callable[[Check], Check]:
    def keep(check: Check) -> Check:
        _CHECKS.append((of, expected, check))
        return check

    return keep


@_check("trigger sessions.log_session_lifecycle_created", "a new session leaves one event: created")
def _created(life: SessionFixture) -> None:
    life.expect_data("created", agent_from="from", agent_to="to", retention_policy="standard")


@_check("trigger sessions.set_default_expiry", "a new session has a time of expiry")
def _expiring(life: SessionFixture) -> None:
    if life.value("expires_at") is None:
        raise _Failed("expires_at is NULL")


@_check("table session_lifecycle", "an event of now has a partition of its own, not the default one")
def _partition(life: SessionFixture) -> None:
    where = life.one("SELECT tableoid::regclass::text FROM session_lifecycle WHERE session_id = %s LIMIT 1", life.id)
    if where is not None and where.endswith("_default"):
        raise _Failed(f"it went to {where}")


@_check(LOG, "a change of status leaves one event: status_changed")
def _status_changed(life: SessionFixture) -> None:
    life.events()
    life.update(status="completed")
    life.expect_data("status_changed", old_status="active", new_status="completed")


@_check(LOG, "an update that changes no state leaves no event")
def _nothing_changed(life: SessionFixture) -> None:
    life.events()
    life.update(status="active", is_dormant=False, expires_at=life.value("expires_at"))
    life.expect_events()


@_check(LOG, "becoming dormant leaves one event: dormant")
def _dormant(life: SessionFixture) -> None:
    life.events()
    life.update(is_dormant=True)
    life.expect_data("dormant", previous_state=False)


@_check(TOUCH, "becoming dormant is not activity")
def _dormant_is_idle(life: SessionFixture) -> None:
    life.update(is_dormant=True)
    life.expect_idle()


@_check(LOG, "waking up leaves one event: reactivated")
def _reactivated(life: SessionFixture) -> None:
    life.update(is_dormant=True)
    life.events()
    life.update(is_dormant=False)
    life.expect_data("reactivated", previous_state=True)


@_check(LOG, "being archived leaves one event: archived")
def _archived(life: SessionFixture) -> None:
    life.events()
    life.update(archived_at=life.now)
    (data,) = life.expect_events("archived")
    if data.get("final_status") != "active" or not data.get("archived_at"):
        raise life.unmet(f"event_data {data}", LOG)


@_check(TOUCH, "being archived is not activity")
def _archived_is_idle(life: SessionFixture) -> None:
    life.update(archived_at=life.now)
    life.expect_idle()


@_check(TOUCH, "an archived session is read-only")
def _archived_is_read_only(life: SessionFixture) -> None:
    life.update(archived_at=life.now)
    life.expect_refused("UPDATE sessions SET agent_to = 'other' WHERE id = %s", life.id)


def _nothing_comes_in(table: str) -> Check:
    def check(life: SessionFixture) -> None:
        life.update(archived_at=life.now)
        values = _CHILDREN[table]
        life.expect_refused(
            f"INSERT INTO {table} (id, session_id, {', '.join(values)}) VALUES (%s, %s{', %s' * len(values)})",
            uuid4(),
            life.id,
            *values.values(),
        )

    return check


def _children_are_read_only(table: str) -> Check:
    def check(life: SessionFixture) -> None:
        life.child(table)
        life.update(archived_at=life.now)
        life.expect_refused(f"UPDATE {table} SET created_at = now() WHERE session_id = %s", life.id)
        life.expect_refused(f"DELETE FROM {table} WHERE session_id = %s", life.id)

    return check


for _table in _CHILDREN:
    _guard = f"trigger {_table}.guard_archived_session"
    _check(_guard, "children of an archived session are read-only")(_children_are_read_only(_table))
    _enters = "trigger context_history.count_added_context" if _table == "context_history" else _guard
    _check(_enters, f"an archived session takes in no row of {_table}")(_nothing_comes_in(_table))


@_check("function pgvigil.reactivate_session(uuid)", "an archived session comes back and can be written to")
def _reactivate_session(life: SessionFixture) -> None:
    life.update(archived_at=life.now)
    life.events()
    if life.one("SELECT pgvigil.reactivate_session(%s)", life.id) is not True:
        raise _Failed("it did not return true")
    life.update(agent_to="other")
    life.expect_events("reactivated")


@_check(LOG, "expiry leaves one event: expired")
def _expired(life: SessionFixture) -> None:
    life.events()
    life.update(status="expired")
    life.expect_data("expired", previous_status="active", retention_policy="standard")


@_check(TOUCH, "expiry is not activity")
def _expired_is_idle(life: SessionFixture) -> None:
    life.update(status="expired")
    life.expect_idle()


@_check(LOG, "a new or withdrawn time of expiry leaves one event: expiration_scheduled")
def _expiration_scheduled(life: SessionFixture) -> None:
    life.events()
    life.update(expires_at=life.now)
    life.expect_data("expiration_scheduled", retention_policy="standard")
    life.update(expires_at=None)
    life.expect_data("expiration_scheduled", expires_at=None)


@_check(LOG, "several changes in one update leave one event each")
def _several(life: SessionFixture) -> None:
    life.events()
    life.update(status="completed", expires_at=life.now, is_dormant=True, archived_at=life.now)
    life.expect_events("status_changed", "expiration_scheduled", "dormant", "archived")


@_check(TOUCH, "any update moves updated_at, and last_activity_at of a session that was idle")
def _touched(life: SessionFixture) -> None:
    life.update(metadata=Jsonb({"touched": True}))
    if (updated := life.value("updated_at")) != life.now:
        raise life.unmet(f"updated_at is {updated}", STAMP)
    life.expect_active()


@_check(TOUCH, "a change of state that is activity moves last_activity_at")
def _changed_is_active(life: SessionFixture) -> None:
    life.update(status="pending")
    life.expect_active()


@_check(STEPS, "last_activity_at takes large steps and no small ones")
def _steps(life: SessionFixture) -> None:
    small = life.now - IDLE + timedelta(minutes=10)
    life.update(last_activity_at=small, status="pending")
    if life.value("last_activity_at") != small:
        raise life.unmet("a step of ten minutes was not taken", STEPS)
    life.update(last_activity_at=small + timedelta(seconds=1), status="active", is_dormant=True)
    if life.value("last_activity_at") != small:
        raise life.unmet("a step of a second was taken", STEPS)


@_check('trigger sessions."00_archive_deleted_session"', "a deleted session's last row and trail are kept")
def _deleted(life: SessionFixture) -> None:
    life.update(status="completed")
    life.conn.execute("DELETE FROM sessions WHERE id = %s", (life.id,))
    query = "SELECT actor, reason, last_row, events FROM pgvigil.deleted_sessions WHERE session_id = %s"
    row = life.conn.execute(query, (life.id,)).fetchone()
    if row is None:
        raise _Failed("nothing in pgvigil.deleted_sessions")
    kept = [event.get("event_type") for event in row[3]]
    if LOG in life.replaced:
        kept = list(dict.fromkeys(kept))  # both write that it was created
    status = row[2].get("status")
    if (row[0], row[1], status, kept) != (ACTOR, ACTOR, "completed", ["created", "status_changed", "deleted"]):
        raise _Failed(f"actor {row[0]}, reason {row[1]}, status {status}, events {', '.join(map(str, kept))}")
    if left := life.one("SELECT count(*) FROM session_lifecycle WHERE session_id = %s", life.id):
        raise _Failed(f"{left} events left in session_lifecycle")


@_check("view session_monitoring_view", "it shows idle time, children and last event of a session")
def _monitored(life: SessionFixture) -> None:
    for table in ("context_history", "handoff_requests"):
        life.child(table)
    row = life.conn.execute(
        "SELECT round(hours_since_activity, 3), context_entries, handoff_requests, last_lifecycle_event"
        " FROM session_monitoring_view WHERE id = %s AND hours_since_activity > 4::numeric AND NOT is_dormant",
        (life.id,),
    ).fetchone()
    if row is None or tuple(row) != (5, 1, 1, "created"):
        raise _Failed(f"{'no row' if row is None else tuple(row)} instead of (5, 1, 1, 'created')")


@_check("view performance_monitoring_view", "it shows calls, durations and success of an operation")
def _measured(life: SessionFixture) -> None:
    operation = f"pgvigil-self-test-{life.id}"
    for duration, success in ((10, True), (20, True), (30, True), (40, False)):
        life.insert("performance_logs", {"operation": operation, "duration_ms": duration, "success": success})
    row = life.conn.execute(
        "SELECT total_calls, avg_duration_ms::float, min_duration_ms, max_duration_ms, successful_calls, failed_calls,"
        " success_rate_percent::float, p95_duration_ms BETWEEN 36::float AND 41::float"
        " FROM performance_monitoring_view WHERE operation::text = %s::text AND success_rate_percent < 95::numeric",
        (operation,),
    ).fetchone()
    if row is None or tuple(row) != (expected := (4, 25, 10, 40, 3, 1, 75, True)):
        raise _Failed("no row" if row is None else f"{tuple(row)} instead of {expected}")


def self_test(conn: Connection, schema: str, replaced: frozenset[str] = frozenset()) -> list[Finding]:
    """Return the failures of the triggers and views of `schema`. Leaves nothing behind.

    What cannot be tried because of objects that the application is known to replace is one note: Report.replaced names them.
    """
    path = sql.SQL("SET LOCAL search_path = {}, pg_temp").format(sql.Identifier(schema))
    with conn.transaction(force_rollback=True):
        see_all_rows(conn, [schema, "pgvigil", "instrumentation"])
        conn.execute(path)
        for name, value in _SETTINGS.items():
            conn.execute("SELECT set_config(%s, %s, true)", (name, value))
        try:
            with conn.transaction(force_rollback=True):
                SessionFixture(conn)
        except (errors.ReadOnlySqlTransaction, errors.InsufficientPrivilege) as error:
            raise PreconditionError(
                f"The self-test writes rows of its own and rolls them back; it may not: {error.diag.message_primary}.",
                "Run it on the primary server, as a role that may write sessions and read their trail.",
            ) from error
        except psycopg.Error as error:
            _require_connection(conn, error)
            return [_failed("table sessions", "a session can be made from the columns of the spec", error)]
        except Exception as error:  # noqa: BLE001 - see _try
            return [_unread("table sessions", "a session can be made from the columns of the spec", error)]
        return _try_all(conn, replaced)


def _try_all(conn: Connection, replaced: frozenset[str]) -> list[Finding]:
    findings: list[Finding] = []
    untried: list[str] = []
    for of, expected, check in _CHECKS:
        try:
            if finding := _try(conn, of, expected, check, replaced):
                findings.append(finding)
        except _Untried as reason:
            untried.append(f"{expected} ({reason})")
    if untried:
        text = f"not tested while its triggers replace ours: {'; '.join(untried)}"
        findings.append(Finding("different", REPLACED, "what the triggers of pgvigil do", text, "note"))
    return findings


def _try(conn: Connection, of: str, expected: str, check: Check, replaced: frozenset[str]) -> Finding | None:
    try:
        with conn.transaction(force_rollback=True):
            check(SessionFixture(conn, replaced))
    except _Untried:
        raise
    except _Failed as unmet:
        return Finding("different", of, expected, str(unmet))
    except psycopg.Error as error:
        _require_connection(conn, error)
        return _failed(of, expected, error)
    except Exception as error:  # noqa: BLE001 - whatever a trigger made of a value: NULL, another type, no object
        return _unread(of, expected, error)
    return None


def _require_connection(conn: Connection, error: psycopg.Error) -> None:
    """A trigger may end the session it runs in: then nothing more can be tried, and there is no verdict."""
    if conn.closed:
        raise ConnectError(
            f"the connection was lost during the self-test: {' '.join(str(error).split())}",
            "Look at the server's log and at the triggers on the application's tables; the self-test is rolled back.",
        ) from error


def _unread(of: str, expected: str, error: Exception) -> Finding:
    return Finding("different", of, expected, f"a value that cannot be worked with: {' '.join(str(error).split())}")


def _failed(of: str, expected: str, error: psycopg.Error) -> Finding:
    message = error.diag.message_primary or str(error)
    if _is_of_application(error):
        message = (
            f"could not be tried: {message}. A column, a constraint or a trigger of the application refuses the self-test's row; "
            "where a column has to be filled, a default lets the self-test write it"
        )
        return Finding("different", of, expected, message, "note")
    return Finding("different", of, expected, message)


def _is_of_application(error: psycopg.Error) -> bool:
    """Return true if what refused a row is the application's own: nothing of ours is wrong then, but nothing was tried either."""
    diag = error.diag
    if isinstance(error, errors.IntegrityError) and diag.datatype_name:  # a domain: no column of ours has one
        return True
    declared = load_declaration(project.SPEC).objects
    if isinstance(error, errors.IntegrityError):
        kind, name = ("column", diag.column_name) if diag.column_name else ("constraint", diag.constraint_name or "")
        relation = diag.table_name or ""
        return relation in ("sessions", *_CHILDREN) and ObjectRef.on(kind, relation, quoted(name)) not in declared
    if isinstance(error, errors.RaiseException):
        place = raised_in(diag.context)
        names = {ObjectRef("function", name) for name in (place, f"pgvigil.{place}")}
        return bool(place) and not names & declared.keys()
    return False
