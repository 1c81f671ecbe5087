"""The parameters that are moments: `from` and `to` of lists."""

from __future__ import annotations

from datetime import datetime
from typing import Annotated

from fastapi import Query

from pgvigil.web import problems

Since = Annotated[
    str | None,
    Query(alias="from", max_length=40, description="At or after", json_schema_extra={"format": "date-time"}),
]
Until = Annotated[
    str | None, Query(alias="to", max_length=40, description="Before", json_schema_extra={"format": "date-time"})
]


def moment(name: str, text: str | None) -> datetime | None:
    """Return the moment. Raise Problem for what is none, or has no zone."""
    if text is None:
        return None
    try:
        found = datetime.fromisoformat(text.upper())
    except ValueError:
        found = None
    if found is None or found.tzinfo is None or "T" not in text.upper():
        raise problems.bad_parameter("query", name, "has to be a time with a zone, such as 2026-01-31T10:00:00Z")
    return found
