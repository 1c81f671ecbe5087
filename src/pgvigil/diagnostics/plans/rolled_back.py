"""Run a statement without effect: in a transaction that is always rolled back."""

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

from pgvigil import database, input_files
from pgvigil.database import Target
from pgvigil.errors import AFTER_CONFLICT, LockedError, PgvigilError, PreconditionError, UsageError
from pgvigil.migration import ledger

_LONGEST = 64_000_000  # of a statement
_NULL = r"\N"  # a NULL parameter, written as in COPY
_AS_GIVEN = "surrogateescape"  # bytes of an argument that are not UTF-8: the server reports them
# Commands that end or split a transaction. In functions, procedures and DO blocks the server itself refuses these.
_CONTROL = frozenset(("abort", "begin", "commit", "end", "prepare", "release", "rollback", "savepoint", "start"))
_OUTSIDE = re.compile(r"/\*|--[^\r\n]*|[\s;]+")
_IN_COMMENT = re.compile(r"/\*|\*/|.", re.DOTALL)


def given(argument: str | None, file: Path | None, stdin: TextIO) -> str:
    """Return the statement from the argument, the file or stdin. Raise UsageError."""
    if argument is not None and file is not None:
        raise UsageError("both a statement and --file were given", "Use only one.")
    if argument is None and file is None and stdin.isatty():
        raise UsageError("no statement was given", "Pass it in quotes, or --file FILE, or send it to stdin.")
    try:
        text = argument if argument is not None else _read(file, stdin)
    except (OSError, UnicodeDecodeError) as error:
        words = input_files.reason(error)
        raise UsageError(
            f"{file or 'stdin'} cannot be read: {words}", "Use a file with one statement as UTF-8 text."
        ) from error
    text = text.strip(" \t\r\n\f\v;")
    if not text or "\0" in text:
        raise UsageError(
            "the statement is empty or contains a NUL character",
            "Pass it in quotes, or --file FILE, or send it to stdin.",
        )
    return text


def _read(file: Path | None, stdin: TextIO) -> str:
    if file is None:
        return input_files.read_stream(stdin, _LONGEST)
    return input_files.read_text(file, _LONGEST)


def _require_undoable(statement: str) -> None:
    """Refuse what the server would allow. It refuses the rest itself, because it gets a single statement within a transaction."""
    word = first_word(statement)
    if word in _CONTROL:
        raise UsageError(
            f"{word.upper()} is not allowed: pgvigil runs the statement in its own transaction and rolls it back",
            f"Remove {word.upper()} and pass only the statement.",
        )
    if word == "copy":
        raise UsageError(
            "COPY is not allowed: it reads and writes files, which cannot be rolled back",
            "Use its SELECT, or an INSERT.",
        )


def first_word(text: str) -> str:
    """Return the first word in lower case. Like the server, skip spaces, semicolons and comments, which may be nested, before it."""
    place = depth = 0
    while match := (_IN_COMMENT if depth else _OUTSIDE).match(text, place):
        depth += {"/*": 1, "*/": -1}.get(match[0], 0)
        place = match.end()
    word = re.match(r"\w*", text[place:])
    return word[0].lower() if word and not depth else ""


def connect(target: Target, purpose: str) -> psycopg.Connection:
    """Open a connection whose statements end when the client is gone. Raise ConnectError."""
    conn = database.connect(target, purpose)
    conn.execute("SET client_connection_check_interval = '1s'")
    return conn


def path_of(conn: psycopg.Connection) -> str:
    """Return the search_path for the application's statements: its schema, then the path of role, database and server."""
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


# A tenant's statement runs under its policies, and uses JIT as the application does.
_AS_FOR_THE_APPLICATION = """
    SELECT pg_catalog.set_config('search_path', %s, true), pg_catalog.set_config('row_security', 'on', true),
           (SELECT pg_catalog.count(pg_catalog.set_config(name, reset_val, true)) FROM pg_catalog.pg_settings
            WHERE name = 'jit' OR name = ANY (%s))"""
_LIMITS = ("statement_timeout", "lock_timeout")


def attempt(
    conn: psycopg.Connection, statement: str, parameters: Sequence[str], prefix: str = ""
) -> tuple[PGresult, float]:
    """Run one statement, with its `$1`, `$2`, … from `parameters`, and roll it back.

    Return the whole result and the seconds until it arrived. Raise UsageError if the server refuses it or it fails,
    LockedError if it waited too long for a lock, PreconditionError if a right is missing or the server is read-only.
    """
    _require_undoable(statement)
    path = path_of(conn)
    conn.execute("BEGIN")
    limits = [name for name in _LIMITS if name in conn.info.options]  # set by the caller in PGOPTIONS
    conn.execute(_AS_FOR_THE_APPLICATION, (path, limits))
    # Not by a cursor: without parameters that could send several statements. This way the server accepts only one.
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
        return PreconditionError(f"a right is missing: {words}", "Use a role that has this right.")
    if code == "25006":
        return PreconditionError(f"this server is read-only: {words}", "Connect to the primary, if this is a standby.")
    if code == "55P03":
        return LockedError(
            f"the statement did not get a lock: {words}", "Find the session that holds it: pgvigil sessions list."
        )
    hint = field(DiagnosticField.MESSAGE_HINT)
    if code == "57014":
        hint = (
            hint
            or "Raise statement_timeout in PGOPTIONS, if it is set there; otherwise another session cancelled the statement."
        )
    elif code == "40001":
        hint = hint or AFTER_CONFLICT
    elif code in ("25001", "2D000"):  # VACUUM and the like; a COMMIT within a procedure
        hint = hint or "It cannot run in a transaction that is rolled back: profile its parts instead."
    elif code in ("42601", "42P02", "08P01"):
        hint = hint or "Pass one statement; its parameters are $1, $2, … with one --param for each, in that order."
    place = field(DiagnosticField.STATEMENT_POSITION)
    if place and (before := int(place) - 1 - skipped) >= 0:
        line, column = statement.count("\n", 0, before) + 1, before - statement.rfind("\n", 0, before)
        words += f" (line {line}, column {column})"
    return UsageError(f"the statement failed: {words or result.error_message.decode(errors='replace').strip()}", hint)
