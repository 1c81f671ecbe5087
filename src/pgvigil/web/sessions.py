"""Serve sessions: pages of them, one with its contents in numbers, its timeline, and lists of what it holds."""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
import base64
import json
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Query
from psycopg.rows import dict_row
from pydantic import BaseModel
from starlette.responses import Response

from pgvigil.live.execution_queries import as_the_server_reads_it
from pgvigil.web import problems, session_contents, shortening
from pgvigil.web.access import Principal
from pgvigil.web.actions import MISSING, no_session
from pgvigil.web.answers import NO_NUL, as_json, written
from pgvigil.web.moments import Since, Until, moment
from pgvigil.web.problems import Problem
from pgvigil.web.shortening import IN_LISTS, IN_STATE, TextLimit
from pgvigil.web.store import Connection, Store

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
    shortened: list[str]


class Sessions(BaseModel):
    """A page, the last active or the longest idle first. `next_cursor` is null on the last one."""

    count: int
    limit: int
    next_cursor: str | None
    sessions: list[Session]


class OneSession(Session):
    """A session with its contents in numbers. A viewer sees null for metadata, and so does an admin if it is longer than text_limit."""

    total_tokens: int
    total_content_bytes: int
    metadata: Any


class Event(BaseModel):
    """An event of a session; event_data names the actor.

    In a list, event_data longer than text_limit holds only what pgvigil writes, and is named in `shortened`.
    """

    id: UUID
    event_type: str
    event_data: Any
    created_at: str
    shortened: list[str]


class Timeline(BaseModel):
    """The events, the latest first. `next_before` is null on the last page."""

    session_id: UUID
    next_before: UUID | None
    events: list[Event]


_PAGE: Final = """
    SELECT pg_catalog.row_to_json(v)::pg_catalog.text, i.last_activity_at::pg_catalog.text, i.id
    FROM (SELECT s.id, s.last_activity_at FROM {sessions} s WHERE {conditions}
          ORDER BY s.last_activity_at {way}, s.id {way} LIMIT %s) i
    CROSS JOIN LATERAL (SELECT {columns} FROM {view} m WHERE m.id OPERATOR(pg_catalog.=) i.id) v
    ORDER BY i.last_activity_at {way}, i.id {way}"""
# Names are short, unless an application of one's own has made their columns wider.
_NAMES: Final = ("session_key", "agent_from", "agent_to", "status", "retention_policy")
_OTHERS: Final = tuple(name for name in Session.model_fields if name not in (*_NAMES, "shortened"))
_OPEN: Final = "s.status OPERATOR(pg_catalog.=) ANY (pgvigil.open_statuses())"


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
        idle_hours: Annotated[
            float | None, Query(gt=0, le=1_000_000, allow_inf_nan=False, description="Idle for longer")
        ] = None,
        expires_hours: Annotated[
            float | None, Query(gt=0, le=1_000_000, allow_inf_nan=False, description="Open, and expire within")
        ] = None,
        since: Since = None,
        until: Until = None,
        order: Annotated[
            Literal["newest", "idle"], Query(description="Last active first, or longest idle first")
        ] = "newest",
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
            "s.last_activity_at OPERATOR(pg_catalog.<) (pg_catalog.now() OPERATOR(pg_catalog.-) pg_catalog.make_interval(secs => 3600.0 OPERATOR(pg_catalog.*) %s))": idle_hours,
            "s.expires_at OPERATOR(pg_catalog.>) pg_catalog.now() AND s.expires_at OPERATOR(pg_catalog.<=)"
            f" (pg_catalog.now() OPERATOR(pg_catalog.+) pg_catalog.make_interval(secs => 3600.0 OPERATOR(pg_catalog.*) %s)) AND {_OPEN}": expires_hours,
            "s.created_at OPERATOR(pg_catalog.>=) %s": moment("from", since),
            "s.created_at OPERATOR(pg_catalog.<) %s": moment("to", until),
        }
        known = {condition: value for condition, value in given.items() if value is not None}
        self.limit = limit
        self.conditions = list(known)
        self.values: list[Any] = list(known.values())
        self.way = "DESC" if order == "newest" else "ASC"
        if cursor is not None:
            self.conditions.append(
                f"(s.last_activity_at, s.id) OPERATOR(pg_catalog.{'<' if order == 'newest' else '>'}) (%s::pg_catalog.timestamptz, %s::pg_catalog.uuid)"
            )
            self.values += _place(cursor)


def _place(cursor: str) -> tuple[str, UUID]:
    try:
        at, _, id = base64.b64decode(cursor.encode(), b"-_", validate=True).decode().rpartition(" ")
        return as_the_server_reads_it(at), UUID(id)
    except ValueError:
        raise problems.bad_parameter("query", "cursor", "has to be the next_cursor of a page before") from None


def _dicts(connection: Connection, query: str, values: Any = ()) -> list[dict[str, Any]]:
    return connection.cursor(row_factory=dict_row).execute(query.encode(), values or None).fetchall()


def _page(connection: Connection, store: Store, wanted: _Filter) -> tuple[list[str], str | None]:
    query = _PAGE.format(
        columns=", ".join(
            [*(f"m.{name}" for name in _OTHERS), shortening.columns([f"m.{name}" for name in _NAMES], (), IN_STATE)]
        ),
        sessions=store.table("sessions"),
        view=store.table("session_monitoring_view"),
        conditions=" AND ".join(wanted.conditions) or "true",
        way=wanted.way,
    )
    rows = connection.execute(query.encode(), [*wanted.values, wanted.limit + 1]).fetchall()
    shown = rows[: wanted.limit]
    more = len(rows) > wanted.limit
    return [text for text, _, _ in shown], base64.urlsafe_b64encode(
        f"{shown[-1][1]} {shown[-1][2]}".encode()
    ).decode() if more else None


def _one(connection: Connection, store: Store, session: UUID, limit: int | None, *, private: bool) -> str:
    columns = ", ".join(f"v.{name}" for name in _OTHERS)
    if limit is None:
        names = ", ".join([*(f"v.{name}" for name in _NAMES), "s.metadata AS metadata", shortening.NONE])
    else:
        names = shortening.columns([f"v.{name}" for name in _NAMES], ["s.metadata"], limit)
    if private:
        names = names.replace("s.metadata", "NULL::pg_catalog.jsonb")
    row = connection.execute(
        f"""SELECT pg_catalog.row_to_json(o)::pg_catalog.text
            FROM (SELECT {columns}, {names}, c.total_tokens, c.total_content_bytes
                  FROM {store.table("session_monitoring_view")} v JOIN {store.table("sessions")} s ON s.id OPERATOR(pg_catalog.=) v.id
                  JOIN {store.table("session_content_view")} c ON c.session_id OPERATOR(pg_catalog.=) v.id
                  WHERE v.id OPERATOR(pg_catalog.=) %s) o""".encode(),
        (session,),
    ).fetchone()
    if row is None:
        raise no_session()
    return str(row[0])


# What the triggers write. An event that an application has written may hold anything: it is for admins.
_OF_EVENTS: Final = frozenset(
    [
        "actor",
        "session_user",
        "agent_from",
        "agent_to",
        "retention_policy",
        "old_status",
        "new_status",
        "previous_status",
        "previous_state",
        "final_status",
        "expires_at",
        "expired_at",
        "archived_at",
        "unarchived_from",
    ]
)


def _hidden(event: dict[str, Any]) -> dict[str, Any]:
    """Return the event with null for what no trigger writes."""
    data = event["event_data"]
    known = data.items() if isinstance(data, dict) else ()
    plain = (str, int, float, type(None))
    return event | {
        "event_data": {
            name: value if name in _OF_EVENTS and isinstance(value, plain) else None for name, value in known
        }
    }


_EVENT: Final = f"""
    SELECT l.id, l.event_type, l.event_data, l.created_at, {shortening.NONE} FROM {{}} l
    WHERE l.session_id OPERATOR(pg_catalog.=) %s AND l.id OPERATOR(pg_catalog.=) %s"""
# A long document is read once, and of it only what pgvigil writes.
_EVENTS: Final = f"""
    SELECT l.id, l.event_type, CASE WHEN w.is_long THEN
               (SELECT coalesce(pg_catalog.jsonb_object_agg(k.name, d.data OPERATOR(pg_catalog.->) k.name), '{{{{}}}}')
                FROM pg_catalog.unnest(%s::pg_catalog.text[]) k (name)
                WHERE pg_catalog.length((d.data OPERATOR(pg_catalog.->) k.name)::pg_catalog.text) OPERATOR(pg_catalog.<=) 200)
           ELSE d.data END AS event_data, l.created_at,
           CASE WHEN w.is_long THEN ARRAY['event_data'] ELSE ARRAY[]::pg_catalog.text[] END AS shortened
    FROM {{session_lifecycle}} l
    CROSS JOIN LATERAL (SELECT l.event_data {shortening.PLAIN} AS data OFFSET 0) d
    CROSS JOIN LATERAL (SELECT pg_catalog.pg_column_size(d.data) OPERATOR(pg_catalog.>) %s AS is_long OFFSET 0) w
    WHERE l.session_id OPERATOR(pg_catalog.=) %s AND (%s::pg_catalog.uuid IS NULL OR l.id OPERATOR(pg_catalog.<) %s)
    ORDER BY l.id DESC LIMIT %s"""


def _timeline(
    connection: Connection, store: Store, session: UUID, limit: int, before: UUID | None, text_limit: int
) -> list[dict[str, Any]]:
    query = _EVENTS.format(session_lifecycle=store.table("session_lifecycle"))
    found = _dicts(connection, query, (sorted(_OF_EVENTS), text_limit, session, before, before, limit + 1))
    if not found and before is None:
        exists = connection.execute(
            f"SELECT FROM {store.table('sessions')} WHERE id OPERATOR(pg_catalog.=) %s".encode(), (session,)
        )
        if exists.fetchone() is None:
            raise no_session()
    return found


def router(app: FastAPI) -> APIRouter:
    """Return the routes below /api/v1/sessions that read."""
    store: Store = app.state.store
    Viewer = Annotated[Principal, Depends(app.state.access.viewer)]
    router = APIRouter(prefix="/api/v1", responses=problems.DOCUMENTED)

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
        responses={200: {"model": OneSession}, **MISSING},
        tags=["sessions"],
        summary="One session",
    )
    async def session(
        principal: Viewer, id: Id, text_limit: Annotated[TextLimit | None, Query(description="Default: none")] = None
    ) -> Response:
        private = principal.role != "admin"
        return written(await store.ask(lambda connection: _one(connection, store, id, text_limit, private=private)))

    @router.get("/sessions/{id}/timeline", response_model=None, responses={200: {"model": Timeline}, **MISSING}, tags=["sessions"],
                summary="The events of a session")  # fmt: skip
    async def timeline(
        principal: Viewer, id: Id, limit: Annotated[int, Query(ge=1, le=200)] = 100,
        before: Annotated[UUID | None, Query(description="next_before of the page before")] = None,
        text_limit: TextLimit = IN_LISTS,
    ) -> Response:  # fmt: skip
        found = await store.ask(lambda connection: _timeline(connection, store, id, limit, before, text_limit))
        shown = found[:limit] if principal.role == "admin" else [_hidden(one) for one in found[:limit]]
        return as_json(
            {"session_id": id, "next_before": shown[-1]["id"] if len(found) > limit else None, "events": shown}
        )

    @router.get("/sessions/{id}/timeline/{event}", response_model=None, tags=["sessions"], summary="One event, whole",
                responses={200: {"model": Event}, **problems.missing("event")})  # fmt: skip
    async def one_event(principal: Viewer, id: Id, event: Annotated[UUID, Path()]) -> Response:
        def question(connection: Connection) -> list[dict[str, Any]]:
            return _dicts(connection, _EVENT.format(store.table("session_lifecycle")), (id, event))

        found = await store.ask(question)
        if not found:
            raise Problem(404, "not-found", "There is no such event")
        return as_json(found[0] if principal.role == "admin" else _hidden(found[0]))

    session_contents.add_routes(router, store, Viewer)
    return router
