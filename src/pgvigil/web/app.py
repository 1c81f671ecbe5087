"""The one ASGI application for all of HTTP: served by `pgvigil serve`, mounted into FastAPI, Starlette and Flask."""

from __future__ import annotations

from collections.abc import Iterable
from typing import TYPE_CHECKING, Any

from fastapi import FastAPI
from fastapi.exceptions import RequestValidationError
from starlette.datastructures import MutableHeaders
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import JSONResponse, Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgvigil import __version__, database
from pgvigil.web import (
    actions,
    dashboard,
    executions,
    metrics,
    problems,
    session_monitoring,
    sessions,
    state,
    state_api,
)
from pgvigil.web.access import Access, Authorize
from pgvigil.web.sections import Sections
from pgvigil.web.store import Store

if TYPE_CHECKING:
    from pgvigil.live.recorder import Recorder

_SAFE = {
    "X-Content-Type-Options": "nosniff",
    "Referrer-Policy": "no-referrer",
    "Content-Security-Policy": "default-src 'none'; frame-ancestors 'none'",
}


def application(
    target: database.Target | str,
    *,
    authorize: Authorize,
    recorder: Recorder | None = None,
    read_only: bool = False,
    hosts: Iterable[str] | None = None,
    reads: str = "120/minute",
    writes: str = "10/minute",
    failures: str = "5/minute",
    **store: Any,
) -> FastAPI:
    """Return the application for the database `target` (a libpq URL). It can be mounted under any path. It connects when it is first used.

    authorize   function of the request, plain or async, that returns a Principal, or None: then the answer is 401
    recorder    takes posted executions; without one POST /api/v1/executions does not exist
    read_only   nothing can be changed
    hosts       names and addresses that the Host header may have; default: any
    reads, writes, failures   limits for each principal, in each process; of failed logins for each address
    store       size, deadline, wait, max_waiting: see pgvigil.web.store.Store
    """
    if not callable(authorize):
        raise TypeError("authorize has to be a function of the request that returns a Principal or None")
    if isinstance(target, str):
        target = database.parse_url(target, "pgvigil.web.application()")
    app = FastAPI(
        title="pgvigil", version=__version__, docs_url=None, redoc_url=None, openapi_url=None,
        separate_input_output_schemas=False, redirect_slashes=False,
    )  # fmt: skip
    app.state.store = Store(target, **store)
    app.state.sections = Sections(app.state.store, state.SECTIONS)
    app.state.access = Access(authorize, read_only=read_only, reads=reads, writes=writes, failures=failures)
    app.state.recorder = recorder
    app.include_router(_health(app))
    app.include_router(executions.router(app))
    app.include_router(sessions.router(app))
    app.include_router(state_api.router(app))
    app.include_router(actions.router(app))
    app.include_router(session_monitoring.router(app))
    app.include_router(metrics.router(app))
    app.include_router(dashboard.router(app))
    app.add_exception_handler(problems.Problem, _problem)
    app.add_exception_handler(HTTPException, _http)
    app.add_exception_handler(RequestValidationError, _invalid)
    app.add_middleware(dashboard.Polls, state_of=app.state)
    app.add_middleware(dashboard.Alias)
    app.add_middleware(_Heads)
    if hosts is not None:
        app.add_middleware(_Hosts, hosts=frozenset(host.lower() for host in hosts))
    app.add_middleware(_Framing)
    app.add_middleware(problems.Guard)
    app.add_middleware(_Headers)
    return app


def _health(app: FastAPI) -> Any:
    from fastapi import APIRouter

    router = APIRouter(tags=["health"])
    answers: dict[int | str, dict[str, Any]] = {503: problems.DOCUMENTED[503]}

    @router.get("/livez", summary="This process answers; no database is asked")
    async def livez() -> dict[str, str]:
        return {"status": "alive"}

    @router.get("/readyz", summary="The database answers and is migrated", responses=answers)
    async def readyz() -> dict[str, str]:
        await app.state.sections.alive()
        return {"status": "ready"}

    @router.get("/openapi.json", include_in_schema=False)
    async def openapi() -> JSONResponse:
        return JSONResponse(document(app))

    return router


def document(app: FastAPI) -> dict[str, Any]:
    """Return the OpenAPI document, with our own model of errors in place of FastAPI's."""
    if app.openapi_schema is None:
        made = app.openapi()
        schemas = made.setdefault("components", {}).setdefault("schemas", {})
        for name in ("HTTPValidationError", "ValidationError"):
            schemas.pop(name, None)
        template = "#/components/schemas/{model}"
        schema = problems.ProblemDocument.model_json_schema(ref_template=template)
        schemas |= schema.pop("$defs", {}) | {"ProblemDocument": schema}
        batch = executions.NewExecutions.model_json_schema(ref_template=template)
        schemas |= batch.pop("$defs", {}) | {"NewExecutions": batch}
        made["components"]["securitySchemes"] = {"token": {"type": "http", "scheme": "bearer"}}
        app.openapi_schema = made
    return app.openapi_schema


async def _problem(_: Request, error: Exception) -> Response:
    assert isinstance(error, problems.Problem)  # noqa: S101 - what it is registered for
    return error.response()


async def _http(_: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)  # noqa: S101 - what it is registered for
    return problems.of_status(error.status_code, dict(error.headers or {})).response()


async def _invalid(_: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)  # noqa: S101 - what it is registered for
    return problems.bad_parameters(problems.validation_errors(list(error.errors()))).response()


class _Headers:
    """A layer that adds the headers of every answer, and those of the rate limit."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(scope=message)
                for name, value in {**_SAFE, **scope.get("state", {}).get("rate_limit", {})}.items():
                    headers.setdefault(name, value)
                headers.setdefault("Cache-Control", "private, no-store")
            await send(message)

        await self._app(scope, receive, sending if scope["type"] == "http" else send)


class _Heads:
    """A layer that answers HEAD as GET without the body: FastAPI refuses it."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        async def sending(message: Message) -> None:
            await send({**message, "body": b""} if message["type"] == "http.response.body" else message)

        if scope["type"] == "http" and scope["method"] == "HEAD":
            await self._app({**scope, "method": "GET"}, receive, sending)
        else:
            await self._app(scope, receive, send)


class _Framing:
    """A layer that refuses a body with two lengths: a proxy that reads the other one takes the rest for the next request."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and {b"content-length", b"transfer-encoding"} <= {
            name for name, _ in scope["headers"]
        }:
            answer = problems.Problem(
                400,
                "two-lengths",
                "The request has Content-Length and Transfer-Encoding",
                headers={"Connection": "close"},
            )
            await answer.response()(scope, receive, send)
            return
        await self._app(scope, receive, send)


class _Hosts:
    """A layer that refuses other host names: another site may have its name point at this machine."""

    def __init__(self, app: ASGIApp, hosts: frozenset[str]) -> None:
        self._app = app
        self._hosts = hosts

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            host = Request(scope).headers.get("host", "").lower()
            before, _, port = host.rpartition(":")
            name = before if port.isascii() and port.isdigit() else host
            if name not in self._hosts:
                answer = problems.Problem(400, "unknown-host", "The Host header names another service")
                await answer.response()(scope, receive, send)
                return
        await self._app(scope, receive, send)


def close(app: FastAPI) -> None:
    """Close the connections of the application."""
    app.state.store.close()


__all__ = ["application", "close", "document"]
