"""The answers to failed requests: application/problem+json (RFC 9457), with a type that does not change.

None of them repeats the text of an exception or the input: both may hold secrets.
"""

from __future__ import annotations

import json
import logging
import traceback
from http import HTTPStatus
from typing import Any, Final

from pydantic import BaseModel, Field
from starlette.responses import Response
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from pgvigil.text import visible

_log = logging.getLogger("pgvigil.web")
MEDIA_TYPE: Final = "application/problem+json"
_URN: Final = "urn:pgvigil:problem:"


class FieldError(BaseModel):
    """A parameter that cannot be used."""

    location: str = Field(alias="in", description="path, query, header or body")
    name: str
    message: str


class ProblemDocument(BaseModel):
    """The body of every error."""

    type: str = Field(pattern="^urn:pgvigil:problem:[a-z-]+$")
    title: str
    status: int
    detail: str | None = None
    errors: list[FieldError] | None = None


class Problem(Exception):
    """An error that becomes the answer, wherever in a request it is raised."""

    def __init__(
        self,
        status: int,
        kind: str,
        title: str,
        detail: str | None = None,
        *,
        errors: list[dict[str, str]] | None = None,
        headers: dict[str, str] | None = None,
    ) -> None:
        super().__init__(title)
        self.status = status
        self.kind = kind
        self.title = title
        self.detail = detail
        self.errors = errors
        self.headers = headers or {}

    def document(self) -> dict[str, Any]:
        body: dict[str, Any] = {"type": _URN + self.kind, "title": self.title, "status": self.status}
        if self.detail:
            body["detail"] = self.detail
        if self.errors is not None:
            body["errors"] = self.errors
        return body

    def response(self) -> Response:
        headers = {"Cache-Control": "no-store", **self.headers}
        return Response(json.dumps(self.document()), self.status, headers, MEDIA_TYPE)


_RETRY: Final = {"Retry-After": "2"}


def database_away() -> Problem:
    return Problem(
        503, "database-away", "The database does not answer", "Nothing was read. Try again later.", headers=_RETRY
    )


def too_slow() -> Problem:
    return Problem(
        503,
        "too-slow",
        "The database did not answer in time",
        "A table may be locked, or the server may be busy. Try again later, or ask for less.",
        headers=_RETRY,
    )


def busy() -> Problem:
    return Problem(503, "busy", "All connections to the database are in use", "Try again later.", headers=_RETRY)


def not_migrated() -> Problem:
    return Problem(
        503,
        "not-migrated",
        "The database is not migrated, or not as far as this pgvigil",
        "Run: pgvigil status; then: pgvigil migrate.",
        headers={"Retry-After": "60"},
    )


def superuser() -> Problem:
    return Problem(
        503,
        "superuser",
        "This service connects as a superuser, and the tables belong to another role",
        "Code of that role would run with the superuser's rights. Connect as a member of pgvigil_admin.",
    )


def missing_right() -> Problem:
    return Problem(
        503,
        "missing-right",
        "The role of this service may not read what was asked for",
        "Run as the owner of pgvigil's schema: GRANT pgvigil_reader TO the role. The log of this service names the object.",
        headers={"Retry-After": "60"},
    )


def bad_parameter(location: str, name: str, message: str) -> Problem:
    return bad_parameters([{"in": location, "name": name, "message": message}])


def bad_parameters(errors: list[dict[str, str]]) -> Problem:
    return Problem(422, "bad-parameter", "A parameter cannot be used", errors=errors)


_KINDS: Final = {401: "login-needed", 403: "forbidden", 404: "not-found", 405: "method-not-allowed", 409: "conflict",
                 413: "too-large", 415: "wrong-media-type", 429: "too-many-requests"}  # fmt: skip


def of_status(status: int, headers: dict[str, str] | None = None) -> Problem:
    """Return the problem of a status that has no text of its own."""
    try:
        title = HTTPStatus(status).phrase
    except ValueError:
        title = "Error"
    return Problem(status, _KINDS.get(status, "error" if status >= 500 else "bad-request"), title, headers=headers)


def validation_errors(found: list[Any]) -> list[dict[str, str]]:
    """Return place and message of pydantic's errors. A message names the rule, never the value."""
    errors = []
    for one in found:
        place, *path = [str(part) for part in one["loc"]] or ["body"]
        errors.append({"in": place, "name": ".".join(path), "message": _rule(one)})
    return errors


def _rule(error: Any) -> str:
    # A message of pydantic's is made of the rule; those of validators and parsers may repeat the value.
    safe = not error["type"].startswith(("value_error", "assertion_error", "json_invalid", "date", "enum", "uuid"))
    return str(error["msg"]) if safe else "cannot be read, or is out of range"


class Guard:
    """A layer around all others: it logs uncaught exceptions without secrets, and answers without their text."""

    def __init__(self, app: ASGIApp) -> None:
        self._app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self._app(scope, receive, send)
            return
        started = False

        async def sending(message: Message) -> None:
            nonlocal started
            started = started or message["type"] == "http.response.start"
            await send(message)

        try:
            await self._app(scope, receive, sending)
        except Exception:  # whatever it is, its text goes into the log only
            from pgvigil.live.redact import hide_secrets

            _log.error("a request failed by a defect of pgvigil: %s", visible(hide_secrets(traceback.format_exc())))
            if started:
                raise
            await Problem(500, "defect", "This is a defect of pgvigil").response()(scope, receive, send)


DOCUMENTED: Final[dict[int | str, dict[str, Any]]] = {
    status: {"description": text, "content": {MEDIA_TYPE: {"schema": {"$ref": "#/components/schemas/ProblemDocument"}}}}
    for status, text in {
        401: "Nobody is logged in",
        403: "The principal may not do this",
        422: "A parameter cannot be used",
        429: "Too many requests",
        503: "The database is away, too slow, busy or not migrated",
    }.items()
}


def missing(what: str) -> dict[int | str, dict[str, Any]]:
    """Return the documentation of 404."""
    return {404: {**DOCUMENTED[401], "description": f"There is no such {what}"}}
