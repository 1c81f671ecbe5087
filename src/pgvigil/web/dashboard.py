"""Serve the dashboard: pages, their static files, the login, and the state that a page asks for every few seconds.

The pages hold no data: a page is one static document, and a script fills it from the API. All links are relative, so any prefix
works. `dashboard/api/…` is the API again, because a Flask application may mount the dashboard without it.
"""

# Annotations are not postponed: FastAPI reads those of functions that are made within a function.
import gzip
import hashlib
import html
import re
from dataclasses import dataclass
from functools import cache
from importlib.resources import files
from typing import Annotated, Any, Final, Literal
from urllib.parse import quote

from fastapi import APIRouter, Depends, FastAPI, Request
from starlette.datastructures import State
from starlette.exceptions import HTTPException
from starlette.responses import RedirectResponse, Response
from starlette.types import ASGIApp, Receive, Scope, Send

from pgvigil import __version__
from pgvigil.web import problems, state
from pgvigil.web.access import COOKIE_SECONDS, COOKIES, Access, Principal
from pgvigil.web.answers import bounded_body, parsed
from pgvigil.web.problems import of_status

BASE: Final = "/admin/session-monitoring/dashboard"
_TITLES: Final = {
    "overview": "Overview", "sessions": "Sessions", "session": "Session", "executions": "Executions", "live": "Live",
    "application": "Application", "jobs": "Jobs & health", "alerts": "Alerts", "operation": "Operation", "login": "Log in",
}  # fmt: skip
_KINDS: Final = {".js": "text/javascript; charset=utf-8", ".css": "text/css; charset=utf-8", ".svg": "image/svg+xml"}
_POLICY: Final = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; base-uri 'none';"
    " form-action 'self'; frame-ancestors 'none'"
)
_IMPORT: Final = re.compile(r'^import .* from "\./([^"]+)";$', re.MULTILINE)
_PAGE_HEADERS: Final = {
    "Content-Security-Policy": _POLICY, "Cache-Control": "private, no-cache", "Cross-Origin-Opener-Policy": "same-origin",
    "X-Frame-Options": "DENY",
}  # fmt: skip
Page = Literal["overview", "sessions", "session", "executions", "live", "application", "jobs", "alerts", "operation"]


@dataclass(frozen=True)
class _File:
    content: bytes
    packed: bytes
    kind: str


@cache
def _static() -> tuple[str, dict[str, _File]]:
    """Return the static files, and a hash of them all: it is part of their addresses, so that caches may keep them for ever."""
    found = {}
    for entry in sorted(files("pgvigil.web").joinpath("static").iterdir(), key=lambda one: one.name):
        kind = _KINDS.get(f".{entry.name.rpartition('.')[2]}")
        if kind and entry.is_file():
            content = entry.read_bytes()
            found[entry.name] = _File(content, gzip.compress(content, 6, mtime=0), kind)
    digest = hashlib.sha256()
    for name, file in found.items():
        digest.update(name.encode() + b"\0" + file.content)
    return digest.hexdigest()[:16], found


def _modules(name: str) -> list[str]:
    """Return what the module imports, so that a browser asks for all at once and not for one after another."""
    found: list[str] = []
    waiting = [name]
    while waiting:
        text = _static()[1][waiting.pop()].content.decode()
        new = [one for one in _IMPORT.findall(text) if one not in found]
        found += new
        waiting += new
    return found


@cache
def document(page: str, *, tokens: bool = False) -> bytes:
    """Return the HTML of a page."""
    text = files("pgvigil.web").joinpath("static", "page.html").read_text(encoding="utf-8")
    values = {
        "page": page, "title": html.escape(_TITLES[page]), "static": f"static/{_static()[0]}", "version": __version__,
        "tokens": "yes" if tokens else "no",
        "preload": "\n".join(f'<link rel="modulepreload" href="static/{_static()[0]}/{name}">' for name in _modules(f"{page}.js")),
    }  # fmt: skip
    for name, value in values.items():
        text = text.replace(f"{{{{{name}}}}}", value)
    return text.encode()


def _html(page: str, status: int = 200, **options: Any) -> Response:
    return Response(document(page, **options), status, _PAGE_HEADERS, "text/html; charset=utf-8")


def router(app: FastAPI) -> APIRouter:
    """Return the routes of the dashboard; those of the API below it are made by Alias."""
    pages = state.Pages(app.state.sections)
    access: Access = app.state.access
    Poller = Annotated[Principal, Depends(access.poller)]
    router = APIRouter(tags=["dashboard"])

    async def answer(request: Request, principal: Principal, name: str) -> Response:
        who = {"name": principal.name, "role": principal.role, "logs_out": access.takes_tokens}
        found = await pages.state(name, principal, {"principal": who, "read_only": access.read_only})
        return found.answer(request)

    async def poll(request: Request, name: str) -> Response:
        try:
            return await answer(request, await access.poller(request), name)
        except problems.Problem as problem:
            return problem.response()
        except HTTPException as error:  # of the application's authorize()
            return of_status(error.status_code, dict(error.headers or {})).response()

    @router.get("/", include_in_schema=False)
    async def root() -> Response:
        return RedirectResponse(f"{BASE[1:]}/", 307)

    @router.get(BASE, include_in_schema=False)
    async def without_slash() -> Response:
        return RedirectResponse("dashboard/", 307)

    async def page(request: Request, name: str) -> Response:
        if await access.principal(request) is None:
            here = "" if name == "overview" else name
            where = f"{here}?{request.url.query}" if request.url.query else here
            return RedirectResponse(f"login?to={quote(where)}", 303)
        return _html(name)

    @router.get(f"{BASE}/", include_in_schema=False)
    async def overview(request: Request) -> Response:
        return await page(request, "overview")

    @router.get(f"{BASE}/login", include_in_schema=False)
    async def login_page() -> Response:
        return _html("login", tokens=access.takes_tokens)

    @router.post(f"{BASE}/login", include_in_schema=False)
    async def login(request: Request) -> Response:
        try:
            token = parsed(await bounded_body(request, 10_000))["token"]
            token.encode()  # not of half a character
        except (ValueError, TypeError, KeyError, AttributeError):
            token = None
        if not isinstance(token, str) or not token:
            raise problems.bad_parameter("body", "token", "has to be a token")
        cookie = await access.log_in(request, token)
        answer = Response(None, 204)
        _set_cookie(request, answer, cookie, COOKIE_SECONDS)
        return answer

    @router.post(f"{BASE}/logout", include_in_schema=False)
    async def logout(request: Request) -> Response:
        await access.principal(request)
        access.require_same_origin(request)
        answer = Response(None, 204)
        _set_cookie(request, answer, "", 0)
        return answer

    @router.get(f"{BASE}/state", summary="The content of a page of the dashboard; 304 as long as it is the same", response_model=None,
                responses={200: {"content": {"application/json": {"schema": {"type": "object"}}}}, **problems.DOCUMENTED})  # fmt: skip
    async def state_of_page(request: Request, principal: Poller, page: Page = "overview") -> Response:
        return await answer(request, principal, page)

    async def prepare() -> None:
        """Have ready what the first visitors would have to wait for."""
        for name in _TITLES:
            document(name, tokens=access.takes_tokens and name == "login")
        await pages.prepare()

    app.state.poll, app.state.prepare = poll, prepare

    @router.get(f"{BASE}/static/{{version}}/{{name}}", include_in_schema=False)
    async def static(request: Request, version: str, name: str) -> Response:
        current, found = _static()
        file = found.get(name)
        if file is None:
            raise of_status(404)
        # An address of another version is answered too, while an upgrade goes on, but is not kept.
        caching = "public, max-age=31536000, immutable" if version == current else "no-cache"
        headers = {"Cache-Control": caching, "Vary": "Accept-Encoding", "Content-Type": file.kind}
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(file.packed, 200, headers | {"Content-Encoding": "gzip"})
        return Response(file.content, 200, headers)

    @router.get(f"{BASE}/{{name}}", include_in_schema=False)
    async def other(request: Request, name: str) -> Response:
        if name not in state.PAGES or name == "overview":
            raise of_status(404)
        return await page(request, name)

    return router


def _set_cookie(request: Request, answer: Response, value: str, seconds: int) -> None:
    """Set the cookie: with the strict name where the browser came by https, though a proxy in between may speak plain HTTP to us."""
    secure = request.headers.get("origin", "").startswith("https://")
    name = COOKIES[0] if secure else COOKIES[1]
    answer.set_cookie(name, value, max_age=seconds, path="/", secure=secure, httponly=True, samesite="strict")


class Polls:
    """A layer that answers the polls of open pages: all routes before theirs and their parameters cost twice what the answer does."""

    def __init__(self, app: ASGIApp, state_of: State) -> None:
        self._app = app
        self._state = state_of
        self._asked = {f"page={name}".encode(): name for name in state.PAGES}

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http" and scope["method"] == "GET":
            name = self._asked.get(scope.get("query_string", b""))
            if name is not None and scope["path"].removeprefix(scope.get("root_path", "")) == f"{BASE}/state":
                answer = await self._state.poll(Request(scope, receive), name)
                await answer(scope, receive, send)
                return
        await self._app(scope, receive, send)


class Alias:
    """A layer that answers `dashboard/api/…` as `/api/v1/…`."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] == "http":
            root = scope.get("root_path", "")
            path: str = scope["path"].removeprefix(root)
            if path.startswith(f"{BASE}/api/"):
                scope = {**scope, "path": f"{root}/api/v1/{path.removeprefix(f'{BASE}/api/')}"}
        await self._app(scope, receive, send)
