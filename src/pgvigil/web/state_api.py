"""Serve the state as lists: connections, statements, operations, jobs, checks, alerts, applications."""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
from datetime import timedelta
from typing import Annotated, Any, Final
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Query, Request
from psycopg.rows import dict_row
from pydantic import BaseModel
from starlette.responses import Response

from pgvigil.web import problems, state
from pgvigil.web.access import Principal
from pgvigil.web.answers import NO_NUL, as_json, fresh
from pgvigil.web.moments import Since, Until, moment
from pgvigil.web.problems import Problem
from pgvigil.web.sections import Sections
from pgvigil.web.session_contents import Rows
from pgvigil.web.store import Connection, Store

# The latest calls of an operation: those of a day, because the table has no index by operation but that of failures.
_CALLS: Final = """
    SELECT l.id, l.operation, l.duration_ms, l.success, l.session_id, l.created_at FROM {} l
    WHERE l.id OPERATOR(pg_catalog.>=) pgvigil.uuid_v7_floor(coalesce(%s, pg_catalog.now() OPERATOR(pg_catalog.-) '24 hours'::pg_catalog.interval))
      AND l.id OPERATOR(pg_catalog.<) pgvigil.uuid_v7_floor(coalesce(%s, pg_catalog.now() OPERATOR(pg_catalog.+) '1 hour'::pg_catalog.interval))
      AND l.operation OPERATOR(pg_catalog.=) %s AND (NOT l.success OR NOT %s)
    ORDER BY l.id DESC LIMIT 100"""
_OPERATIONS: Final = 1000
_LONGEST: Final = timedelta(hours=24)


class Statement(BaseModel):
    """A statement. A viewer sees null for its text."""

    statement_id: UUID
    session_id: UUID
    statement_status: str
    execution_start_time: str
    sql_text: str | None


def router(app: FastAPI) -> APIRouter:
    """Return the routes below /api/v1 that show the state."""
    store: Store = app.state.store
    sections: Sections = app.state.sections
    Viewer = Annotated[Principal, Depends(app.state.access.viewer)]
    router = APIRouter(prefix="/api/v1", responses=problems.DOCUMENTED, tags=["state"])

    def rows(path: str, summary: str) -> Any:
        return router.get(path, response_model=None, responses={200: {"model": Rows}}, summary=summary)

    def section(path: str, name: str, summary: str) -> None:
        @rows(path, summary)  # type: ignore[untyped-decorator]
        async def answer(request: Request, principal: Viewer) -> Response:
            found = await state.rows(sections, name, principal)
            return fresh(request, {"count": len(found), "rows": found})

    section("/connections", "connections", "Connections that are active, and what they run")
    section("/statements", "live_statements", "Statements that are executing, the longest first")
    section("/jobs", "jobs", "Jobs, their last run and when they are due")
    section("/health", "health", "Checks of the database, the worst first")

    @router.get("/statements/{id}", response_model=None, responses={200: {"model": Statement}, **problems.missing("statement")},
                summary="One statement, whole")  # fmt: skip
    async def statement(principal: Viewer, id: Annotated[UUID, Path()]) -> Response:
        text = "a.sql_text" if principal.role == "admin" else "NULL::pg_catalog.text AS sql_text"
        query = f"""SELECT a.statement_id, a.session_id, a.statement_status::pg_catalog.text, a.execution_start_time, {text}
                    FROM instrumentation.session_activity a WHERE a.statement_id OPERATOR(pg_catalog.=) %s"""
        found = await store.ask(
            lambda connection: connection.cursor(row_factory=dict_row).execute(query.encode(), (id,)).fetchone()
        )
        if found is None:
            raise Problem(404, "not-found", "There is no such statement")
        return as_json(found)

    @rows("/operations", "Operations of the last 24 hours, the 1000 called most often, or one")  # type: ignore[untyped-decorator]
    async def operations(
        request: Request,
        principal: Viewer,
        operation: Annotated[str | None, Query(min_length=1, max_length=100, pattern=NO_NUL)] = None,
    ) -> Response:
        found = await state.rows(sections, "operations", principal)
        found = [one for one in found if operation in (None, one["operation"])][:_OPERATIONS]
        return fresh(request, {"count": len(found), "rows": found})

    @rows("/operations/calls", "The last 100 calls of an operation within 24 hours, the last or those from a moment")  # type: ignore[untyped-decorator]
    async def calls(
        _: Viewer,
        operation: Annotated[str, Query(min_length=1, max_length=100, pattern=NO_NUL)],
        failed: Annotated[bool, Query(description="Only those that failed")] = False,
        since: Since = None,
        until: Until = None,
    ) -> Response:
        first, last = moment("from", since), moment("to", until)
        if first is not None:
            try:
                last = min(last or first + _LONGEST, first + _LONGEST)
            except OverflowError:
                raise problems.bad_parameter("query", "from", "is beyond the calendar") from None

        def question(connection: Connection) -> list[dict[str, Any]]:
            query = _CALLS.replace("{}", store.table("performance_logs"))
            return (
                connection.cursor(row_factory=dict_row)
                .execute(query.encode(), (first, last, operation, failed))
                .fetchall()
            )

        found = await store.ask(question)
        return as_json({"count": len(found), "rows": found})

    @rows("/alerts", "Checks and monitored applications that need attention, the worst first")  # type: ignore[untyped-decorator]
    async def alerts(request: Request, principal: Viewer) -> Response:
        found = await state.alerts(sections, principal)
        return fresh(request, {"count": len(found), "rows": found})

    @rows("/application", "Monitored applications with a live worker: their numbers and alerts")  # type: ignore[untyped-decorator]
    async def application(request: Request, _: Viewer) -> Response:
        found = [state.shown(one) for one in state.applications((await sections.rows("monitor")).data)]
        return fresh(request, {"count": len(found), "rows": found})

    @rows("/application/workers", "Worker processes of monitored applications")  # type: ignore[untyped-decorator]
    async def workers(request: Request, principal: Viewer) -> Response:
        found = await state.rows(sections, "workers", principal)
        return fresh(request, {"count": len(found), "rows": found})

    return router
