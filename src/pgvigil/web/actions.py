"""Serve the actions of admins: end a connection, archive or reactivate a session, run a job."""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
import asyncio
import logging
from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Annotated, Any, Final, Literal
from uuid import UUID

from fastapi import APIRouter, Depends, FastAPI, Path, Request
from psycopg import errors
from pydantic import BaseModel, ConfigDict, Field, ValidationError
from starlette.responses import Response

from pgvigil.database import Target
from pgvigil.errors import ConnectError, PgvigilError, UsageError
from pgvigil.text import one_line
from pgvigil.web import problems
from pgvigil.web.access import Principal
from pgvigil.web.answers import as_json, bounded_body
from pgvigil.web.problems import Problem
from pgvigil.web.store import Connection, Store

_log = logging.getLogger("pgvigil.web")
_ANSWER_WITHIN: Final = 2.0  # seconds to wait for the end of a job; a longer one goes on without the client
_JOBS_AT_ONCE: Final = 2
Id = Annotated[UUID, Path()]
Job = Annotated[str, Path(pattern="^[a-z_]{1,40}$")]


class KillRequest(BaseModel):
    """The way to end a connection."""

    model_config = ConfigDict(extra="forbid", strict=True)

    mode: Literal["cancel", "terminate", "escalate"] = "terminate"
    grace: Annotated[float, Field(ge=0, le=10, allow_inf_nan=False, description="Seconds to wait for its end")] = 5.0


class Done(BaseModel):
    """The outcome. False: there was nothing to do."""

    ok: bool
    reason: str


def no_session() -> Problem:
    return Problem(404, "not-found", "There is no such session")


MISSING: Final = problems.missing("session")
_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    200: {"model": Done}, 409: {**problems.DOCUMENTED[401], "description": "Refused, with the reason"},
    **MISSING, 413: {**problems.DOCUMENTED[401], "description": "The body is too large"},
    415: {**problems.DOCUMENTED[401], "description": "The body is not application/json"},
}  # fmt: skip


def router(app: FastAPI) -> APIRouter:
    """Return the routes that change something."""
    store: Store = app.state.store
    admin = Annotated[Principal, Depends(app.state.access.admin)]
    router = APIRouter(prefix="/api/v1", responses=problems.DOCUMENTED, tags=["actions"])

    def action(path: str, summary: str, body: dict[str, Any]) -> Any:
        return router.post(path, response_model=None, responses=_REFUSED, summary=summary, openapi_extra=_body(body))

    @action("/connections/{id}/kill", "End a connection, or its statement", KillRequest.model_json_schema())  # type: ignore[untyped-decorator]
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
        store.forget()
        if not ok:
            raise Problem(409, "refused", "The connection was not ended", reason)
        return as_json({"ok": True, "reason": reason})

    def change(path: str, function: str, done: str, nothing: str, summary: str) -> None:
        @action(f"/sessions/{{id}}/{path}", summary, _EMPTY)  # type: ignore[untyped-decorator]
        async def act(principal: admin, id: Id) -> Response:
            def question(connection: Connection) -> bool:
                _act_for(connection, principal)
                try:
                    row = connection.execute(f"SELECT pgvigil.{function}(%s)".encode(), (id,)).fetchone()
                except errors.NoDataFound:
                    raise no_session() from None
                return bool(row and row[0])

            changed = await store.ask(question, writing=True)
            store.forget()
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

    jobs = ThreadPoolExecutor(_JOBS_AT_ONCE, thread_name_prefix="pgvigil job")
    running: set[Future[str]] = set()

    @action("/jobs/{job}/run", "Run a job now; 202: it goes on after two seconds", _EMPTY)  # type: ignore[untyped-decorator]
    async def run_job(principal: admin, job: Job) -> Response:
        if len(running) >= _JOBS_AT_ONCE:
            raise Problem(409, "refused", "The job was not run", f"{_JOBS_AT_ONCE} jobs of this service are running.")
        await store.ask(lambda connection: _require_job(connection, job))
        loop, begun = asyncio.get_running_loop(), asyncio.Event()

        def begin(connection: Connection) -> None:
            _act_for(connection, principal, of_transaction=False)
            loop.call_soon_threadsafe(begun.set)

        future = jobs.submit(_run_job, store.target, job, begin)
        running.add(future)
        future.add_done_callback(running.discard)
        waiting = asyncio.wrap_future(future)
        waiting.add_done_callback(lambda done: done.cancelled() or done.exception())  # nobody may be waiting any more
        waiting.add_done_callback(lambda _: store.forget())
        waiting.add_done_callback(lambda _: begun.set())
        await begun.wait()  # a pooler may refuse it, and takes its time
        try:
            said = await asyncio.wait_for(asyncio.shield(waiting), _ANSWER_WITHIN)
        except TimeoutError:
            return as_json({"ok": True, "reason": "it is running; its outcome will be in the list of jobs"}, 202)
        return as_json({"ok": True, "reason": said})

    return router


_EMPTY: Final = {"type": "object", "description": "Empty: no page of another site can send JSON"}


def _body(schema: dict[str, Any]) -> dict[str, Any]:
    return {"requestBody": {"required": True, "content": {"application/json": {"schema": schema}}}}


# Whether the login may take the rights of pgvigil_admin. A superuser keeps its own.
_MAY_TAKE: Final = """
    EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) 'pgvigil_admin'
            AND pg_catalog.pg_has_role(SESSION_USER, r.oid, 'MEMBER')
            AND NOT (SELECT u.rolsuper FROM pg_catalog.pg_roles u WHERE u.rolname OPERATOR(pg_catalog.=) SESSION_USER))"""


def _act_for(connection: Connection, principal: Principal, *, of_transaction: bool = True) -> None:
    """Take the rights of pgvigil_admin, if the login may, and put the principal's name into the trail: for this transaction, or session."""
    connection.execute(
        f"""SELECT pg_catalog.set_config('pgvigil.actor', %s, %s),
                   CASE WHEN {_MAY_TAKE} THEN pg_catalog.set_config('role', 'pgvigil_admin', %s) END""".encode(),
        (f"web:{principal.name}", of_transaction, of_transaction),
    )


def _require_job(connection: Connection, job: str) -> None:
    """Raise Problem for a job that is not there, or that cannot be run here."""
    from pgvigil.maintenance import job_runner

    known = next((one for one in job_runner.jobs_of(connection) if one.job == job), None)
    if known is None:
        raise Problem(404, "not-found", "There is no such job")
    if known.needs_client:
        raise Problem(
            409, "refused", "The job was not run", f"It needs a client: run pgvigil maintain run {job} in a shell."
        )


def _run_job(target: Target, job: str, begin: Callable[[Connection], None]) -> str:
    """Run a job as `pgvigil maintain run` does: it obeys consent. Raise Problem with the refusal in words."""
    from pgvigil.maintenance import client_jobs, job_runner
    from pgvigil.progress import Reporter

    try:
        return job_runner.run(target, job, client_jobs.Options(), Reporter(), begin)
    except ConnectError as error:
        _log.warning("job %s was not run: %s", job, one_line(error.message))
        raise Problem(
            503, "database-away", "The job was not run: it needs a connection of its own, and got none",
            "The log of this service has the reason. Nothing was changed.", headers={"Retry-After": "10"},
        ) from error  # fmt: skip
    except UsageError as error:
        raise Problem(404, "not-found", "There is no such job") from error
    except PgvigilError as error:
        _log.warning("job %s was not run, or failed: %s", job, one_line(error.message))
        raise Problem(409, "refused", "The job was not run, or failed", f"{error.message}. {error.hint}") from error
