"""Serve reads for dashboards (sessions and timelines, connections, operations, jobs, checks) and the actions of admins."""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
import base64
import json
from datetime import datetime
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from psycopg import errors
from psycopg.rows import dict_row
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from pgvigil.web import problems
from pgvigil.web.access import Principal
from pgvigil.web.answers import NO_NUL, as_json, bounded_body, fresh, written
from pgvigil.web.problems import Problem
from pgvigil.web.store import Connection, Store

_STATE: Final = 2.0  # seconds that state of all is kept
Text = Annotated[str | None, Query(min_length=1, max_length=255, pattern=NO_NUL)]
Id = Annotated[UUID, Path()]


class Session(BaseModel):
    """A row of session_monitoring_view."""

    id: UUID
    session_key: str
    agent_from: str
    agent_to: str | None
    status: str
    created_at: str | None
    updated_at: str | None
    last_activity_at: str | None
    is_dormant: bool | None
    archived_at: str | None
    retention_policy: str | None
    expires_at: str | None
    hours_since_activity: float | None
    context_entries: int
    handoff_requests: int
    last_lifecycle_event: str | None


class Sessions(BaseModel):
    """A page, the last active first. `next_cursor` is null on the last one."""

    count: int
    limit: int
    next_cursor: str | None
    sessions: list[Session]


class OneSession(Session):
    """A session with its contents in numbers. A viewer sees null for metadata."""

    total_tokens: int
    total_content_bytes: int
    metadata: Any


class Event(BaseModel):
    """An event of a session; event_data names the actor."""

    id: UUID
    event_type: str
    event_data: dict[str, Any]
    created_at: str


class Timeline(BaseModel):
    """Events, the latest first. `next_before` is null on the last page."""

    session_id: UUID
    next_before: UUID | None
    events: list[Event]


class Rows(BaseModel):
    """Rows of a view, with its columns."""

    count: int
    rows: list[dict[str, Any]]


class KillRequest(BaseModel):
    """The way to end a connection."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Literal["cancel", "terminate", "escalate"] = "terminate"
    grace: Annotated[
        float, Field(ge=0, le=10, allow_inf_nan=False, strict=False, description="Seconds to wait for its end")
    ] = 5.0


class Done(BaseModel):
    """The outcome. False: there was nothing to do."""

    ok: bool
    reason: str


_PAGE: Final = """
    SELECT pg_catalog.row_to_json(v)::pg_catalog.text, i.last_activity_at::pg_catalog.text, i.id
    FROM (SELECT s.id, s.last_activity_at FROM {sessions} s WHERE {conditions}
          ORDER BY s.last_activity_at DESC, s.id DESC LIMIT %s) i
    CROSS JOIN LATERAL (SELECT m.* FROM {view} m WHERE m.id OPERATOR(pg_catalog.=) i.id) v
    ORDER BY i.last_activity_at DESC, i.id DESC"""


class _Filter:
    """The parameters that select sessions."""

    def __init__(
        self,
        limit: Annotated[int, Query(ge=1, le=200)] = 50,
        status: Annotated[str | None, Query(min_length=1, max_length=50, pattern=NO_NUL)] = None,
        retention_policy: Annotated[str | None, Query(min_length=1, max_length=50, pattern=NO_NUL)] = None,
        dormant: Annotated[bool | None, Query()] = None,
        agent: Annotated[str | None, Query(min_length=1, max_length=100, pattern=NO_NUL)] = None,
        key_prefix: Text = None,
        cursor: Annotated[
            str | None,
            Query(
                max_length=200,
                description="next_cursor of the page before",
                json_schema_extra={"format": "pgvigil-session-cursor"},
            ),
        ] = None,
    ) -> None:
        given = {
            "s.status OPERATOR(pg_catalog.=) %s": status,
            "s.retention_policy OPERATOR(pg_catalog.=) %s": retention_policy,
            "s.is_dormant OPERATOR(pg_catalog.=) %s": dormant,
            "s.agent_from OPERATOR(pg_catalog.=) %s": agent,
            "pg_catalog.starts_with(s.session_key, %s)": key_prefix,
        }
        known = {condition: value for condition, value in given.items() if value is not None}
        self.limit = limit
        self.conditions = list(known)
        self.values: list[Any] = list(known.values())
        if cursor is not None:
            self.conditions.append(
                "(s.last_activity_at, s.id) OPERATOR(pg_catalog.<) (%s::pg_catalog.timestamptz, %s::pg_catalog.uuid)"
            )
            self.values += _place(cursor)


def _place(cursor: str) -> tuple[str, UUID]:
    try:
        at, _, id = base64.b64decode(cursor.encode(), b"-_", validate=True).decode().rpartition(" ")
        if at not in ("infinity", "-infinity") and datetime.fromisoformat(at).tzinfo is None:
            at = "no time"
        return {"no time": ""}.get(at) or at, UUID(id)
    except ValueError:
        raise problems.bad_parameter("query", "cursor", "has to be the next_cursor of a page before") from None


def _dicts(connection: Connection, query: str, values: Any = ()) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query.encode(), values or None).fetchall()


def _page(connection: Connection, store: Store, wanted: _Filter) -> tuple[list[str], str | None]:
    query = _PAGE.format(
        sessions=store.table("sessions"),
        view=store.table("session_monitoring_view"),
        conditions=" AND ".join(wanted.conditions) or "true",
    )
    rows = connection.execute(query.encode(), [*wanted.values, wanted.limit + 1]).fetchall()
    shown = rows[: wanted.limit]
    more = len(rows) > wanted.limit
    return [text for text, _, _ in shown], base64.urlsafe_b64encode(
        f"{shown[-1][1]} {shown[-1][2]}".encode()
    ).decode() if more else None


def _one(connection: Connection, store: Store, session: UUID, *, private: bool) -> str:
    row = connection.execute(
        f"""SELECT pg_catalog.row_to_json(o)::pg_catalog.text
            FROM (SELECT v.*, c.total_tokens, c.total_content_bytes, {"NULL::pg_catalog.jsonb" if private else "s.metadata"} AS metadata
                  FROM {store.table("session_monitoring_view")} v JOIN {store.table("sessions")} s ON s.id OPERATOR(pg_catalog.=) v.id
                  JOIN {store.table("session_content_view")} c ON c.session_id OPERATOR(pg_catalog.=) v.id
                  WHERE v.id OPERATOR(pg_catalog.=) %s) o""".encode(),
        (session,),
    ).fetchone()
    if row is None:
        raise _no_session()
    return str(row[0])


def _no_session() -> Problem:
    return Problem(404, "not-found", "There is no such session")


def _timeline(
    connection: Connection, store: Store, session: UUID, limit: int, before: UUID | None
) -> list[dict[str, Any]]:
    found = _dicts(
        connection,
        f"""SELECT l.id, l.event_type, l.event_data, l.created_at FROM {store.table("session_lifecycle")} l
            WHERE l.session_id OPERATOR(pg_catalog.=) %s AND (%s::pg_catalog.uuid IS NULL OR l.id OPERATOR(pg_catalog.<) %s)
            ORDER BY l.id DESC LIMIT %s""",
        (session, before, before, limit + 1),
    )
    if not found and before is None:
        exists = connection.execute(
            f"SELECT FROM {store.table('sessions')} WHERE id OPERATOR(pg_catalog.=) %s".encode(), (session,)
        )
        if exists.fetchone() is None:
            raise _no_session()
    return found


_CONNECTIONS: Final = """
    SELECT s.session_id, s.username, s.application_name, s.peer, i.hostname, s.backend_pid, s.start_time, s.last_activity_at,
           r.execution_start_time, r.sql_text
    FROM instrumentation.sessions s JOIN instrumentation.instances i ON i.instance_id = s.instance_id
    LEFT JOIN LATERAL (SELECT a.sql_text, a.execution_start_time FROM instrumentation.session_activity a
                       WHERE a.session_id = s.session_id AND a.statement_status = 'executing' ORDER BY a.statement_id DESC LIMIT 1) r ON true
    WHERE s.status = 'active' ORDER BY s.session_id LIMIT 1000"""
_JOBS: Final = """
    SELECT job, purpose, every::text AS every, enabled, state, last_started, last_finished, last_rows, last_error, last_success, due, overdue,
           next_due, waits_for_consent
    FROM pgvigil.job_status ORDER BY job"""
_CHECKS: Final = (
    "SELECT check_name, level, value, warning, critical, meaning, detail, fix FROM pgvigil.integrity_report(false)"
)


def _masked(rows: list[dict[str, Any]], principal: Principal, *private: str) -> dict[str, Any]:
    """Make a document of rows; a viewer sees null in columns that may repeat text of others."""
    shown = [{**row, **dict.fromkeys(private)} for row in rows] if principal.role != "admin" else rows
    return {"count": len(shown), "rows": shown}


def router(app: FastAPI) -> APIRouter:
    """Return the routes below /api/v1 but those of executions."""
    store: Store = app.state.store
    Viewer = Annotated[Principal, Depends(app.state.access.viewer)]
    Admin = Annotated[Principal, Depends(app.state.access.admin)]
    router = APIRouter(prefix="/api/v1", responses=problems.DOCUMENTED)
    missing: dict[int | str, dict[str, Any]] = {
        404: {**problems.DOCUMENTED[401], "description": "There is no such session"}
    }

    @router.get(
        "/sessions",
        response_model=None,
        responses={200: {"model": Sessions}},
        tags=["sessions"],
        summary="Sessions, the last active first",
    )
    async def sessions(_: Viewer, wanted: Annotated[_Filter, Depends()]) -> Response:
        texts, cursor = await store.ask(lambda connection: _page(connection, store, wanted))
        head = json.dumps({"count": len(texts), "limit": wanted.limit, "next_cursor": cursor})
        return written(f'{head[:-1]}, "sessions": [{",".join(texts)}]}}')

    @router.get(
        "/sessions/{id}",
        response_model=None,
        responses={200: {"model": OneSession}, **missing},
        tags=["sessions"],
        summary="One session",
    )
    async def session(principal: Viewer, id: Id) -> Response:
        text = await store.ask(lambda connection: _one(connection, store, id, private=principal.role != "admin"))
        return written(text)

    @router.get("/sessions/{id}/timeline", response_model=None, responses={200: {"model": Timeline}, **missing}, tags=["sessions"],
                summary="What happened to a session")  # fmt: skip
    async def timeline(
        _: Viewer, id: Id, limit: Annotated[int, Query(ge=1, le=200)] = 100,
        before: Annotated[UUID | None, Query(description="next_before of the page before")] = None,
    ) -> Response:  # fmt: skip
        found = await store.ask(lambda connection: _timeline(connection, store, id, limit, before))
        shown = found[:limit]
        return as_json(
            {"session_id": id, "next_before": shown[-1]["id"] if len(found) > limit else None, "events": shown}
        )

    def rows(path: str, summary: str) -> Any:
        return router.get(path, response_model=None, responses={200: {"model": Rows}}, tags=["state"], summary=summary)

    @rows("/connections", "Connections that are active, and what they run")  # type: ignore[untyped-decorator]
    async def connections(request: Request, principal: Viewer) -> Response:
        found = await store.shared("connections", _STATE, lambda connection: _dicts(connection, _CONNECTIONS))
        return fresh(request, _masked(found, principal, "sql_text"))

    @rows("/operations", "Operations of the last 24 hours")  # type: ignore[untyped-decorator]
    async def operations(request: Request, _: Viewer) -> Response:
        query = "SELECT * FROM {} ORDER BY total_calls DESC, operation LIMIT 1000"
        found = await store.shared(
            "operations",
            _STATE,
            lambda connection: _dicts(connection, query.format(store.table("performance_monitoring_view"))),
        )
        return fresh(request, {"count": len(found), "rows": found})

    @rows("/jobs", "Jobs, their last run and when they are due")  # type: ignore[untyped-decorator]
    async def jobs(request: Request, principal: Viewer) -> Response:
        found = await store.shared("jobs", _STATE, lambda connection: _dicts(connection, _JOBS))
        return fresh(request, _masked(found, principal, "last_error"))

    @rows("/health", "Checks of the database, the worst first")  # type: ignore[untyped-decorator]
    async def health(request: Request, principal: Viewer) -> Response:
        found = await store.shared("health", 5.0, lambda connection: _dicts(connection, _CHECKS))
        return fresh(request, _masked(found, principal, "detail", "fix"))

    _actions(router, store, Admin, missing)
    return router


def _actions(router: APIRouter, store: Store, admin: Any, missing: dict[int | str, dict[str, Any]]) -> None:
    refused: dict[int | str, dict[str, Any]] = {
        200: {"model": Done}, 409: {**problems.DOCUMENTED[401], "description": "Refused, with the reason"},
        **missing, 413: {**problems.DOCUMENTED[401], "description": "The body is too large"},
        415: {**problems.DOCUMENTED[401], "description": "The body is not application/json"},
    }  # fmt: skip

    @router.post(
        "/connections/{id}/kill", response_model=None, responses=refused, tags=["actions"], summary="End a connection, or its statement",
        openapi_extra=_body(KillRequest.model_json_schema()),
    )  # fmt: skip
    async def kill(request: Request, principal: admin, id: Id) -> Response:
        body = await bounded_body(request, 10_000)
        try:
            wanted = KillRequest.model_validate_json(body or b"{}")
        except ValidationError as error:
            found = [
                {**one, "loc": ("body", *one["loc"])} for one in error.errors(include_input=False, include_url=False)
            ]
            raise problems.bad_parameters(problems.validation_errors(found)) from None

        def question(connection: Connection) -> tuple[bool, str]:
            _act_for(connection, principal)
            row = connection.execute(
                b"SELECT ok, reason FROM instrumentation.kill_session(%s, %s, pg_catalog.make_interval(secs => %s))",
                (id, wanted.mode, wanted.grace),
            ).fetchone()
            return row or (False, "no answer")

        ok, reason = await store.ask(question, writing=True, budget=2 * wanted.grace + 3)
        if not ok:
            raise Problem(409, "refused", "The connection was not ended", reason)
        return as_json({"ok": True, "reason": reason})

    def change(path: str, function: str, done: str, nothing: str, summary: str) -> None:
        @router.post(
            f"/sessions/{{id}}/{path}", response_model=None, responses=refused, tags=["actions"], summary=summary,
            openapi_extra=_body({"type": "object", "description": "Empty: no page of another site can send JSON"}),
        )  # fmt: skip
        async def act(principal: admin, id: Id) -> Response:
            def question(connection: Connection) -> bool:
                _act_for(connection, principal)
                try:
                    row = connection.execute(f"SELECT pgvigil.{function}(%s)".encode(), (id,)).fetchone()
                except errors.NoDataFound:
                    raise _no_session() from None
                return bool(row and row[0])

            changed = await store.ask(question, writing=True)
            return as_json({"ok": changed, "reason": done if changed else nothing})

    change(
        "archive", "archive_session", "archived", "it was archived already", "Archive a session: it becomes read-only"
    )
    change(
        "reactivate",
        "reactivate_session",
        "reactivated",
        "it was active already",
        "Reactivate an archived or dormant session",
    )


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


def _act_for(connection: Connection, principal: Principal) -> None:
    """Take the rights of pgvigil_admin for this transaction, if the login may, and put the principal's name into the trail."""
    connection.execute(
        b"""SELECT pg_catalog.set_config('pgvigil.actor', %s, true),
                   CASE WHEN EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) 'pgvigil_admin'
                                     AND pg_catalog.pg_has_role(SESSION_USER, r.oid, 'MEMBER')
                                     AND NOT (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname OPERATOR(pg_catalog.=) SESSION_USER))
                        THEN pg_catalog.set_config('role', 'pgvigil_admin', true) END""",
        (f"web:{principal.name}",),
    )
