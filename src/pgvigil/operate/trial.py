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
from pgvigil.build import ledger
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


def path_of(conn: psycopg.Connection) -> str:
    """The search_path for statements of the application: its schema, then what role, database and server say."""
    try:
        schema = ledger.read(conn).schema
    except psycopg.errors.InsufficientPrivilege:
        schema = None
    row = conn.execute(
        "SELECT pg_catalog.concat_ws(', ', pg_catalog.quote_ident(%s), NULLIF(reset_val, '')) FROM pg_catalog.pg_settings"
        " WHERE name = 'search_path'",
        (schema,),
    ).fetchone()
    return str(row[0]) if row else ""


# A tenant's statement acts under its policies, and is compiled or not as it is for the application.
_AS_FOR_THE_APPLICATION = """
    SELECT pg_catalog.set_config('search_path', %s, true), pg_catalog.set_config('row_security', 'on', true),
           (SELECT pg_catalog.count(pg_catalog.set_config(name, reset_val, true)) FROM pg_catalog.pg_settings
            WHERE name = 'jit' OR name = ANY (%s))"""
_LIMITS = ("statement_timeout", "lock_timeout")


def attempt(
    conn: psycopg.Connection, statement: str, parameters: Sequence[str], prefix: str = ""
) -> tuple[PGresult, float]:
    """Runs one statement, its `$1`, `$2`, … from `parameters`, and rolls it back.

    Returns the whole result and the seconds until it was here. Raises UsageError when the server refuses it or it fails,
    LockedError when it waited too long for a lock, PreconditionError when a right is missing or the server takes no writes.
    """
    _require_undoable(statement)
    path = path_of(conn)
    conn.execute("BEGIN")
    limits = [name for name in _LIMITS if name in conn.info.options]  # the caller's own, by PGOPTIONS
    conn.execute(_AS_FOR_THE_APPLICATION, (path, limits))
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
    if code == "25006":
        return PreconditionError(
            f"this server can only be read: {words}", "Connect to the primary, if this is a standby."
        )
    if code == "55P03":
        return LockedError(f"the statement did not get a lock: {words}", "See who holds it: pgvigil sessions list.")
    hint = field(DiagnosticField.MESSAGE_HINT)
    if code == "57014":
        hint = (
            hint
            or "Give it more time in PGOPTIONS, if that has a statement_timeout; else another session cancelled it."
        )
    elif code in ("25001", "2D000"):  # VACUUM and the like; a COMMIT within a procedure
        hint = hint or "It cannot be run in a transaction that is rolled back: profile what it is made of."
    elif code in ("42601", "42P02", "08P01"):
        hint = hint or "Give one statement; its parameters are $1, $2, … and as many --param in that order."
    place = field(DiagnosticField.STATEMENT_POSITION)
    if place and (before := int(place) - 1 - skipped) >= 0:
        line, column = statement.count("\n", 0, before) + 1, before - statement.rfind("\n", 0, before)
        words += f" (line {line}, column {column})"
    return UsageError(f"the statement fails: {words or result.error_message.decode(errors='replace').strip()}", hint)
