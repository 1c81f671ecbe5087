"""Recognise a database whose objects of pgvigil another state of pgvigil made, or a user changed.

The objects that a command then needs are missing there, or have another shape. That is not a defect of pgvigil: the
command names them.
"""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import fields
from typing import Any, TypeVar

import psycopg
from psycopg.rows import tuple_row

from pgvigil import project
from pgvigil.errors import PreconditionError
from pgvigil.owner import confined
from pgvigil.text import raised_in

T = TypeVar("T")

_HINT = (
    "See pgvigil status, which compares the migrations here with those of the database, and pgvigil validate, which "
    "names what was changed."
)
# In any language of the server: a name in quotes, one that is called, or one that is qualified.
_NAME = re.compile(r"[\"«»„“”'](\w[\w.]*)[\"«»“”']|([\w.]+)\(|(\w+\.\w+)")


def explain(error: psycopg.Error) -> PreconditionError | None:
    """Return the error to raise for a failed statement, if the cause is in the database: an object that a migration makes is missing
    or has another shape, or a function of the database raised the error.

    A name that no migration mentions is a mistake of pgvigil's own; then the result is None.
    """
    words = error.diag.message_primary or ""
    failure = None
    if _is_ours(words, error.sqlstate or ""):
        failure = PreconditionError(
            f"an object of pgvigil is missing in this database, or is another one: {words}", _HINT
        )
    elif place := _function(error.diag.context or ""):
        failure = PreconditionError(
            f"a function of this database failed: {words} ({place})",
            "See pgvigil validate, which names what was changed. If nothing was, this is a defect of pgvigil: please report it.",
        )
    if failure:
        failure.__cause__ = error
    return failure


def _function(context: str) -> str:
    """Return the function that raised an error, as the server names it in English; or ""."""
    if raised := raised_in(context):
        return f"PL/pgSQL function {raised}"
    found = re.search(r"^SQL function .+?(?= statement \d+|$)", context, re.MULTILINE)
    return found[0] if found else ""


def _is_ours(words: str, sqlstate: str) -> bool:
    """Return true if these words, of one of the classes for missing or unfit objects, name something that a migration makes."""
    if not sqlstate.startswith(("42", "3F")):
        return False
    names = {next(filter(None, found)) for found in _NAME.findall(words)}
    names = {name for name in names if not name.startswith(("pg_catalog.", "information_schema."))}
    ours = set(re.findall(r"\w+", project.INIT_SQL.read_text().lower()))
    return any(name.rsplit(".", 1)[-1].lower() in ours for name in names)


def rows(
    conn: psycopg.Connection[Any], kind: type[T], query: str, types: str, values: Mapping[str, object] | None = None
) -> list[T]:
    """Return the rows of a view or a function of ours as records, whose fields have these types of the server's. Raise
    PreconditionError if its columns are not their fields.
    """
    names = [field.name for field in fields(kind)]  # type: ignore[arg-type]
    if owner := confined(conn):
        typed = ", ".join(f"{name} {type_}" for name, type_ in zip(names, types.split(", "), strict=True))
        listed = ", ".join(f'q."{name}"' for name in names)
        return [kind(*row) for row in owner.rows(conn, typed, f"SELECT {listed} FROM ({query}) q", values or ())]
    with conn.cursor(row_factory=tuple_row) as cursor:
        found = cursor.execute(query.encode(), values).fetchall()
        columns = [column.name for column in cursor.description or ()]
    if sorted(columns) != sorted(names):
        differing = sorted(set(columns) ^ set(names)) or columns
        raise PreconditionError(
            f"this database was migrated by another state of pgvigil: the answer to {query!r} differs in the columns "
            f"{', '.join(differing)}",
            _HINT,
        )
    return [kind(**dict(zip(columns, row, strict=True))) for row in found]
