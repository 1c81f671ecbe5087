"""Write answers, and read bodies."""

from __future__ import annotations

import hashlib
import json
import math
import re
from dataclasses import dataclass
from datetime import datetime
from decimal import Decimal
from typing import Any, Final
from uuid import UUID

from starlette.requests import ClientDisconnect, Request
from starlette.responses import Response

from pgvigil.web.problems import of_status

NO_NUL: Final = r"^[^\x00]+$"  # PostgreSQL stores none


def plain(value: object) -> Any:
    """Return the form in JSON of a value that json does not know."""
    if isinstance(value, Decimal):
        return int(value) if value == value.to_integral_value() else float(value)
    if isinstance(value, datetime):
        return value.isoformat()
    if isinstance(value, UUID):
        return str(value)
    raise TypeError(f"{type(value).__name__} has no form in JSON")


# Characters that steer a terminal or hide text, as in pgvigil.text; and the one that begins a tag, in case JSON is shown as HTML.
_UNSEEN: Final = re.compile("[\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e\u2060-\u206f\u3164\ufeff"
                            "\uffa0\ufff0-\ufffb<]")  # fmt: skip


def written(json_text: str, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with this JSON, from the server or from us: the same value, with harmful characters escaped."""
    headers = {"Cache-Control": "private, no-store"} | (headers or {})
    return Response(escaped(json_text), status, headers, "application/json")


def escaped(json_text: str) -> bytes:
    """Return JSON as it is sent: the same value, with harmful characters escaped."""
    return _UNSEEN.sub(lambda found: f"\\u{ord(found[0]):04x}", json_text).encode(errors="backslashreplace")


def as_json(document: Any, status: int = 200, headers: dict[str, str] | None = None) -> Response:
    """Answer with rows, which no cache keeps."""
    return written(json.dumps(document, default=plain, ensure_ascii=False), status, headers)


@dataclass(frozen=True)
class Encoded:
    """A document as it is sent, with its tag: made once for all who ask while it is the same."""

    body: bytes
    tag: str

    @classmethod
    def of(cls, json_text: str) -> Encoded:
        body = escaped(json_text)
        return cls(body, f'"{hashlib.sha256(body).hexdigest()[:32]}"')

    def answer(self, request: Request) -> Response:
        """Answer with 304 if the client has the same already."""
        headers = {"Cache-Control": "private, no-cache", "ETag": self.tag}
        asked = request.headers.get("if-none-match", "")
        if asked.strip() == "*" or self.tag in [one.strip().removeprefix("W/") for one in asked.split(",")]:
            return Response(None, 304, headers)
        return Response(self.body, 200, headers, "application/json")


def fresh(request: Request, document: Any) -> Response:
    """Answer with state or aggregates: 304 if the client has the same already."""
    return Encoded.of(json.dumps(document, default=plain, ensure_ascii=False)).answer(request)


def _finite(text: str) -> float:
    number = float(text)
    if not math.isfinite(number):
        raise ValueError("not a finite number")
    return number


def parsed(body: bytes) -> Any:
    """Read JSON. Raise ValueError for what is none: NaN, a number beyond all floats, or too deep."""
    try:
        return json.loads(body.decode(), parse_constant=_finite, parse_float=_finite)
    except RecursionError:
        raise ValueError("too deep") from None


async def bounded_body(request: Request, most: int) -> bytes:
    """Read the body, and never more than `most` bytes. Raise Problem."""
    length = request.headers.get("content-length", "")
    if length.isdigit() and int(length) > most:
        raise of_status(413)
    body = bytearray()
    try:
        async for piece in request.stream():
            body += piece
            if len(body) > most:
                raise of_status(413)
    except ClientDisconnect:
        raise of_status(400) from None
    return bytes(body)
