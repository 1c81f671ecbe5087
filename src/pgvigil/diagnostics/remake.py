"""Make triggers and views of ours again, as the migrations made them, where an application has replaced them by its
own.
"""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
from psycopg import errors

from pgvigil import project
from pgvigil.errors import LockedError, PreconditionError
from pgvigil.migration import sql_lexer
from pgvigil.owner import owner_of, rows
from pgvigil.placeholders import bound
from pgvigil.progress import Reporter

_TRIGGER = re.compile(r'CREATE TRIGGER "?(?P<name>\w+)"?\s.*?\sON "\{app\}"\.(?P<table>\w+)\s', re.DOTALL)
_VIEW = re.compile(r'CREATE VIEW "\{app\}"\.(?P<name>\w+) AS\s', re.DOTALL)
_COMMENT = re.compile(
    r'COMMENT ON (?:TRIGGER "?(?P<trigger>\w+)"? ON|VIEW) "\{app\}"\.(?P<relation>\w+) IS\s', re.DOTALL
)
_LOCK_TIMEOUT = "2s"  # all writers of sessions queue behind a lock that is waited for

Object = tuple[str, str, str]  # kind, name, and the table of a trigger


def remake(conn: psycopg.Connection[Any], log: Reporter) -> tuple[str, ...]:
    """Make all objects again that pgvigil.replaced_objects() names, and return them.

    One transaction does it, and changes nothing else.

    Raise PreconditionError where a right is missing or an object is in the way, and LockedError.
    """
    found = rows(
        conn,
        "kind text, name text, of_table text, found text",
        "SELECT kind, name, coalesce(of_table, ''), found FROM pgvigil.replaced_objects()",
    )
    if not found:
        return ()
    lines = [f"{kind} {name}{f' on {table}' if table else ''}, which {_was(was)}" for kind, name, table, was in found]
    for one in lines:
        log(f"making again: {one}")
    [(schema,)] = rows(conn, "name text", "SELECT pgvigil.application_schema()")
    owner = owner_of(conn, schema)
    made = definitions(project.MIGRATIONS, has_invoker=conn.info.server_version >= 150000)
    try:
        with conn.transaction():
            conn.execute(f"SET LOCAL lock_timeout = '{_LOCK_TIMEOUT}'".encode())
            conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")
            for kind, name, table, _ in found:
                for statement in made[kind, name, table]:
                    owner.execute(conn, bound(statement, schema))
    except errors.LockNotAvailable as error:
        raise LockedError(
            f"a lock did not come free within {_LOCK_TIMEOUT}: {' '.join(str(error).split())}",
            "Nothing was changed. Try again.",
        ) from error
    except errors.InsufficientPrivilege as error:
        raise PreconditionError(
            f'role "{conn.info.user}" may not make these again: {error.diag.message_primary}',
            f"Run this as {owner.name}'s member or as a superuser. Nothing was changed.",
        ) from error
    except (errors.InvalidTableDefinition, errors.WrongObjectType, errors.DuplicateObject) as error:
        raise PreconditionError(
            f"something else is in the place of an object of pgvigil: {error.diag.message_primary}",
            "Rename or drop it, then run this again. Nothing was changed.",
        ) from error
    return tuple(lines)


def _was(found: str) -> str:
    return "was missing" if found == "nothing" else found.replace("calls", "called", 1).replace("reads", "read", 1)


def definitions(directory: Path, *, has_invoker: bool) -> dict[Object, list[str]]:
    """Return the statements that create each trigger and view of the application's tables, with comments; names are left open."""
    made: dict[Object, list[str]] = {}
    for statement in _statements(directory):
        if match := _TRIGGER.match(statement):
            made["trigger", match["name"], match["table"]] = [statement.replace("CREATE", "CREATE OR REPLACE", 1)]
        elif match := _VIEW.match(statement):
            head = match[0].rstrip().removesuffix("AS").replace("CREATE", "CREATE OR REPLACE", 1)
            invoker = "WITH (security_invoker = true) " if has_invoker else ""
            made["view", match["name"], ""] = [f"{head}{invoker}AS\n{statement[match.end() :]}"]
        elif match := _COMMENT.match(statement):
            of = (
                ("trigger", match["trigger"], match["relation"])
                if match["trigger"]
                else ("view", match["relation"], "")
            )
            if of in made:
                made[of].append(statement)
    return made


def _statements(directory: Path) -> Iterator[str]:
    for path in sorted(directory.glob("[0-9]*.sql")):
        for statement in sql_lexer.statements(path.read_text(encoding="utf-8").replace("\r\n", "\n")):
            yield statement.text
