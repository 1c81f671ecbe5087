"""Serve what a session holds: its entries of context, hand-offs and operations."""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Path, Query
from psycopg.rows import dict_row
from pydantic import BaseModel
from starlette.responses import Response

from pgvigil.web import problems, shortening
from pgvigil.web.access import Principal
from pgvigil.web.answers import as_json
from pgvigil.web.problems import Problem
from pgvigil.web.shortening import IN_LISTS, TextLimit
from pgvigil.web.store import Connection, Store

Id = Annotated[UUID, Path()]
Limit = Annotated[int, Query(ge=1, le=200)]


class Entry(BaseModel):
    """An entry of context. A viewer sees null for content."""

    sequence_number: int
    context_type: str
    content_size_bytes: int | None
    processing_time_ms: float | None
    tokens_used: int | None
    created_at: str | None
    content: str | None
    shortened: list[str]


class Rows(BaseModel):
    """The rows with their columns. `shortened` of a row names the texts that were cut."""

    count: int
    rows: list[dict[str, Any]]


# What a session holds, the latest first: enough to see what it was about. An admin sees text, a viewer sizes.
_ENTRY: Final = """
    SELECT c.sequence_number, c.context_type, c.content_size_bytes, c.processing_time_ms, c.tokens_used, c.created_at, {content}
    FROM {context_history} c WHERE c.session_id OPERATOR(pg_catalog.=) %s"""
_CONTEXT: Final = f"""{_ENTRY} AND (%s::pg_catalog.int4 IS NULL OR c.sequence_number OPERATOR(pg_catalog.<) %s)
    ORDER BY c.sequence_number DESC LIMIT 50"""
_ONE_ENTRY: Final = f"{_ENTRY} AND c.sequence_number OPERATOR(pg_catalog.=) %s"
_HANDOFFS: Final = """
    SELECT h.id, h.requesting_agent, h.target_agent, h.request_type, h.status, h.created_at, h.completed_at
    FROM {handoff_requests} h WHERE h.session_id OPERATOR(pg_catalog.=) %s ORDER BY h.created_at DESC NULLS LAST, h.id LIMIT %s"""
_CALLS: Final = """
    SELECT l.id, l.operation, l.duration_ms, l.success, l.created_at
    FROM {performance_logs} l WHERE l.session_id OPERATOR(pg_catalog.=) %s ORDER BY l.id DESC LIMIT %s"""


def add_routes(router: APIRouter, store: Store, viewer: Any) -> None:
    """Add the routes below /sessions/{id}."""

    def read(path: str, summary: str) -> Any:
        return router.get(
            f"/sessions/{{id}}/{path}", response_model=None, responses={200: {"model": Rows}}, tags=["sessions"], summary=summary
        )  # fmt: skip

    async def ask(query: str, values: Any, content: str = "") -> list[dict[str, Any]]:
        def question(connection: Connection) -> list[dict[str, Any]]:
            names = ("context_history", "handoff_requests", "performance_logs")
            tables = {name: store.table(name) for name in names}
            cursor = connection.cursor(row_factory=dict_row)
            return cursor.execute(query.format(content=content, **tables).encode(), values).fetchall()

        return await store.ask(question)

    def listed(found: list[dict[str, Any]]) -> Response:
        return as_json({"count": len(found), "rows": [shortening.shortened(row, IN_LISTS) for row in found]})

    def content(principal: Principal, limit: int | None = None) -> str:
        if principal.role != "admin":
            return f"NULL::pg_catalog.text AS content, {shortening.NONE}"
        return shortening.columns(("c.content",), (), limit) if limit else f"c.content, {shortening.NONE}"

    @read("context", "Its last 50 entries of context, or those before one")  # type: ignore[untyped-decorator]
    async def context(
        principal: viewer, id: Id, before: Annotated[int | None, Query(ge=-(2**31), le=2**31 - 1)] = None, text_limit: TextLimit = IN_LISTS,
    ) -> Response:  # fmt: skip
        return listed(await ask(_CONTEXT, (id, before, before), content(principal, text_limit)))

    @router.get("/sessions/{id}/context/{sequence_number}", response_model=None, tags=["sessions"], summary="One entry of context, whole",
                responses={200: {"model": Entry}, **problems.missing("entry")})  # fmt: skip
    async def entry(
        principal: viewer, id: Id, sequence_number: Annotated[int, Path(ge=-(2**31), le=2**31 - 1)]
    ) -> Response:
        found = await ask(_ONE_ENTRY, (id, sequence_number), content(principal))
        if not found:
            raise Problem(404, "not-found", "There is no such entry")
        return as_json(found[0])

    @read("handoffs", "Its last hand-off requests")  # type: ignore[untyped-decorator]
    async def handoffs(_: viewer, id: Id, limit: Limit = 200) -> Response:
        return listed(await ask(_HANDOFFS, (id, limit)))

    @read("operations", "Its last operations")  # type: ignore[untyped-decorator]
    async def operations(_: viewer, id: Id, limit: Limit = 200) -> Response:
        return listed(await ask(_CALLS, (id, limit)))
