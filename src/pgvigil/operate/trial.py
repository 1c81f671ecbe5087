"""A statement that is run and leaves nothing: in a transaction that is rolled back, whatever becomes of it."""

from __future__ import annotations

import re
import time
from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

import psycopg
from psycopg import generators
from psycopg.pq import DiagnosticField, ExecStatus
from psycopg.pq.abc import PGresult

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import LockedError, PgvigilError, PreconditionError, UsageError

_NULL = r"\N"  # of a parameter, as COPY writes it
_AS_GIVEN = "surrogateescape"  # bytes of an argument that are no UTF-8: the server says so
# What ends a transaction, or splits it. In functions, procedures and DO blocks the server itself refuses these.
_CONTROL = frozenset(("abort", "begin", "commit", "end", "prepare", "release", "rollback", "savepoint", "start"))
_OUTSIDE = re.compile(r"/\*|--[^\r\n]*|[\s;]+")
_IN_COMMENT = re.compile(r"/\*|\*/|.", re.DOTALL)


def given(argument: str | None, file: Path | None, stdin: TextIO) -> str:
    """The statement as it was typed, or is in the file, or comes by stdin. Raises UsageError."""
    if argument is not None and file is not None:
        raise UsageError("a statement is given, and a file", "Give one of them.")
    if argument is None and file is None and stdin.isatty():
        raise UsageError("no statement is given", "Give it in quotes, or --file FILE, or send it to stdin.")
    try:
        text = argument if argument is not None else file.read_text("utf-8") if file is not None else stdin.read()
    except (OSError, UnicodeDecodeError) as error:
        raise UsageError(f"{file or 'stdin'} cannot be read: {error}", "Give one statement as UTF-8 text.") from error
    text = text.strip(" \t\r\n\f\v;")
    if not text or "\0" in text:
        raise UsageError(
            "the statement is empty, or no text", "Give it in quotes, or --file FILE, or send it to stdin."
        )
    return text


def _require_undoable(statement: str) -> None:
    """What the server would let pass. The rest it refuses itself, because it is sent one statement, within a transaction."""
    word = _first_word(statement)
    if word in _CONTROL:
        raise UsageError(
            f"{word.upper()} belongs to the transaction, which is pgvigil's own: it rolls everything back",
            "Give the statement alone.",
        )
    if word == "copy":
        raise UsageError("COPY reads and writes files, which nobody rolls back", "Give its SELECT, or an INSERT.")


def _first_word(text: str) -> str:
    """In lower case; what stands before it is skipped as the server does: spaces, semicolons, comments, which may be nested."""
    place = depth = 0
    while match := (_IN_COMMENT if depth else _OUTSIDE).match(text, place):
        depth += {"/*": 1, "*/": -1}.get(match[0], 0)
        place = match.end()
    word = re.match(r"\w*", text[place:])
    return word[0].lower() if word and not depth else ""


def connect(target: Target, purpose: str) -> psycopg.Connection:
    """A connection whose statements end when the caller is gone. Raises ConnectError."""
    conn = database.connect(target, purpose)
    conn.execute("SET client_connection_check_interval = '1s'")
    return conn


def attempt(
    conn: psycopg.Connection, statement: str, parameters: Sequence[str], prefix: str = ""
) -> tuple[PGresult, float]:
    """Runs one statement, its `$1`, `$2`, … from `parameters`, and rolls it back.

    Returns the whole result and the seconds until it was here. Raises UsageError when the server refuses it or it fails,
    LockedError when it waited too long for a lock, PreconditionError when a right is missing.
    """
    _require_undoable(statement)
    conn.execute("BEGIN")
    # Not by a cursor: without parameters it would send what may be many statements. This way the server takes one only.
    values = [None if value == _NULL else value.encode(errors=_AS_GIVEN) for value in parameters]
    begin = time.perf_counter()
    conn.pgconn.send_query_params((prefix + statement).encode(errors=_AS_GIVEN), values)
    result, *_ = conn.wait(generators.execute(conn.pgconn))
    seconds = time.perf_counter() - begin
    if result.status == ExecStatus.FATAL_ERROR:
        refusal = _refusal(result, conn, statement, len(prefix))
        if conn.closed:
            raise psycopg.OperationalError(refusal.message)
        conn.rollback()
        raise refusal
    conn.rollback()
    return result, seconds


def _refusal(result: PGresult, conn: psycopg.Connection, statement: str, skipped: int) -> PgvigilError:
    def field(name: DiagnosticField) -> str:
        return (result.error_field(name) or b"").decode(conn.info.encoding, "replace")

    code, words = field(DiagnosticField.SQLSTATE), field(DiagnosticField.MESSAGE_PRIMARY)
    if code == "42501":
        return PreconditionError(f"a right is missing: {words}", "Use a role that has it.")
    if code == "55P03":
        return LockedError(f"the statement did not get a lock: {words}", "See who holds it: pgvigil sessions list.")
    hint = field(DiagnosticField.MESSAGE_HINT)
    if code == "57014":
        hint = hint or "Give it more time: PGOPTIONS='-c statement_timeout=0'"
    elif code in ("25001", "2D000"):  # VACUUM and the like; a COMMIT within a procedure
        hint = hint or "It cannot be run in a transaction that is rolled back: profile what it is made of."
    elif code in ("42601", "42P02", "08P01"):
        hint = hint or "Give one statement; its parameters are $1, $2, … and as many --param in that order."
    place = field(DiagnosticField.STATEMENT_POSITION)
    if place and (before := int(place) - 1 - skipped) >= 0:
        line, column = statement.count("\n", 0, before) + 1, before - statement.rfind("\n", 0, before)
        words += f" (line {line}, column {column})"
    return UsageError(f"the statement fails: {words or result.error_message.decode(errors='replace').strip()}", hint)
