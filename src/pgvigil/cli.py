"""The command line: reads the call, makes one call of its own, turns the outcome into an exit code.

Reports go to stdout, what happens meanwhile and what went wrong to stderr.
"""

from __future__ import annotations

import argparse
import errno
import logging
import os
import re
import signal
import sys
import traceback
from collections.abc import Sequence
from contextlib import suppress

import psycopg

from pgvigil import database, other_state, parser, project, text
from pgvigil.argv import masked, restore, stray_address
from pgvigil.commands.common.called import as_called
from pgvigil.errors import AFTER_CONFLICT, ConnectError, PgvigilError, PreconditionError, UsageError

DEFECT = 70  # EX_SOFTWARE of sysexits.h


def main(argv: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code. Its output goes through `text.Guarded`."""
    with text.guarded():
        return _main(argv)


def _main(argv: Sequence[str] | None) -> int:
    arguments = None
    try:
        if argv is None:
            _take_signals()
            argv = restore(sys.argv[1:])
        for library in ("psycopg", "sqlalchemy", "alembic"):  # what matters of a failure, we say
            logging.getLogger(library).addHandler(logging.NullHandler())
        _require_no_stray_address(argv)
        arguments = parser.build(argv).parse_args(argv)
        return _written(int(arguments.run(arguments)))
    except SystemExit as stop:  # argparse: 0 after --help, 2 for a call it cannot read
        return stop.code if isinstance(stop.code, int) else 2
    except PgvigilError as error:
        return _fail(error, arguments, argv or ())
    except psycopg.Error as error:
        if arguments is not None and (failure := _of_server(error, arguments)):
            return _fail(failure, arguments, argv or ())
        return _defect(arguments, argv or ())
    except UnicodeEncodeError:  # bytes of the call that are not text
        return _fail(UsageError("the call holds characters that are not UTF-8", "Type names in UTF-8."), arguments, ())
    except BrokenPipeError:  # `… | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        hint = "Make room, then run this again." if error.errno == errno.ENOSPC else ""
        return _fail(UsageError(f"{error.filename or 'the output'}: {error.strerror}", hint), arguments, argv or ())
    except KeyboardInterrupt:
        print(
            "\ninterrupted: the open transaction is rolled back; the next run continues from there",
            file=sys.stderr,
        )
        return 130
    except Exception as error:  # noqa: BLE001 - whatever it is, it must not pass for findings
        if database.is_lost(error):  # of a library between the server and us
            return _fail(database.lost(error), arguments, argv or ())
        return _defect(arguments, argv or ())


def _require_no_stray_address(words: Sequence[str]) -> None:
    """Raise UsageError for an address with a password where none belongs: it would be repeated, stored, or passed to a child."""
    if address := stray_address(words):
        raise UsageError(
            f"an argument is the address of a database: {address}",
            "Give it by --database-url, or by DATABASE_URL.",
        )


def _take_signals() -> None:
    """Clean up after `kill` and after a closed terminal as after Ctrl-C.

    A signal that is ignored from the start has no effect: SIGHUP under nohup, SIGINT in the background of a script.
    """
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN or number == signal.SIGTERM:
            signal.signal(number, signal.default_int_handler)


def _of_server(error: psycopg.Error, arguments: argparse.Namespace) -> PgvigilError | None:
    """The server's or the network's failure in our own terms; None for what should not have been asked."""
    from pgvigil.live.redact import hide_secrets  # here, because hardly any call needs it

    words = hide_secrets(error.diag.message_primary or " ".join(str(error).split()))
    if database.is_lost(error):
        return database.lost(error)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        if database.hides_rows(error):
            return ConnectError(
                f"row security hides rows from this role, so nothing was concluded from the others: {words}",
                "Use a role that sees every row: one with BYPASSRLS, or with a policy of its own USING (true).",
            )
        return PreconditionError(f"a right is missing: {words}", _grant(words, arguments))
    # On a standby a transaction cannot even be set to write: the server's checks of settings refuse that, in its own language.
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction) or (
        isinstance(error, psycopg.errors.FeatureNotSupported) and error.diag.source_file in ("guc.c", "variable.c")
    ):
        return PreconditionError(
            f"this server can only be read: {words}",
            "Connect to the primary, if this is a standby. Nothing was changed.",
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        return ConnectError(f"the server cancelled a query of this command: {words}", "Run this again when it may run.")
    if isinstance(error, psycopg.errors.SerializationFailure):
        return ConnectError(
            f"the server cancelled a query of this command for a change made meanwhile: {words}",
            AFTER_CONFLICT,
        )
    # Only SQL_ASCII lets such text in.
    if isinstance(error, psycopg.errors.CharacterNotInRepertoire | psycopg.errors.UntranslatableCharacter):
        return ConnectError(
            f"a row holds text that is not valid in the encoding of this database: {words}",
            "Find it with psql, and write it again as UTF-8: this command shows nothing until then.",
        )
    if isinstance(error, psycopg.OperationalError):  # memory, disk, locks
        return ConnectError(f"the server could not answer: {words}", "Look at the server's log; then run this again.")
    return other_state.explain(error)


# Which of our roles have a right that the connected role lacks on something that the message names, in whatever language, and whether
# the connected role is a member of it already.
_HOLDERS = """
    SELECT r.rolname::text, pg_catalog.pg_has_role(current_user, r.oid, 'USAGE')
    FROM pg_catalog.pg_roles r
    WHERE r.rolname = ANY ('{pgvigil_reader,pgvigil_admin}') AND EXISTS (
        SELECT FROM pg_catalog.pg_namespace n
        WHERE n.nspname = ANY (%(names)s)
          AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE') AND NOT pg_catalog.has_schema_privilege(n.oid, 'USAGE')
        UNION ALL
        SELECT FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
        WHERE n.nspname IN ('pgvigil', 'instrumentation') AND p.proname = ANY (%(names)s)
          AND pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE')
          AND NOT pg_catalog.has_function_privilege(p.oid, 'EXECUTE')
        UNION ALL
        SELECT FROM pg_catalog.pg_class c CROSS JOIN pg_catalog.unnest('{SELECT,INSERT,UPDATE,DELETE}'::text[]) privilege
        WHERE c.relkind IN ('r', 'p', 'v') AND c.relname = ANY (%(names)s)
          AND pg_catalog.has_table_privilege(r.oid, c.oid, privilege) AND NOT pg_catalog.has_table_privilege(c.oid, privilege))
    ORDER BY r.rolname DESC"""
_FOR = {"pgvigil_reader": "lets it read", "pgvigil_admin": "lets it run jobs too"}


def _grant(words: str, arguments: argparse.Namespace) -> str:
    """Return the statement that gives the missing right, if a role of pgvigil's has it and the connected role is not a member yet."""
    from pgvigil.commands.common.target import named_target

    target = named_target(arguments)
    if target is None or words.startswith("must be "):  # the owner, or a superuser
        return "Use a role that has it."
    try:
        with database.connect(target, "rights") as conn:
            rows = conn.execute(_HOLDERS, {"names": re.findall(r"\w+", words)}).fetchall()
            user = conn.execute("SELECT pg_catalog.quote_ident(current_user)").fetchone()
    except (psycopg.Error, PgvigilError):
        return "Use a role that has it."
    grants = [f"GRANT {role} TO {user[0]}; {_FOR[role]}" for role, is_member in rows if user and not is_member]
    if not grants:
        return "Use a role that has it: the owner of the tables, or a superuser."
    return f"As the owner of pgvigil's schema: {', '.join(grants)}."


def _defect(arguments: argparse.Namespace | None, words: Sequence[str]) -> int:
    if arguments is not None and (failure := _of_other_migrations(arguments)):
        return _fail(failure, arguments, words)
    from pgvigil.live.redact import hide_secrets  # here, because hardly any call needs it

    print(masked(hide_secrets(traceback.format_exc()), words), end="", file=sys.stderr)
    print(
        "error: this is a defect of pgvigil itself; no verdict was reached, and what ran in a transaction is rolled back\n"
        "hint: Please report it with the lines above.",
        file=sys.stderr,
    )
    return DEFECT


def _of_other_migrations(arguments: argparse.Namespace) -> PgvigilError | None:
    """Return the error to report if the database has other migrations than those here: then no command can rely on what it reads."""
    from pgvigil.commands.common.target import named_target
    from pgvigil.migration import files, ledger

    try:
        target = named_target(arguments) if hasattr(arguments, "database_url") else None
        if target is None:
            return None
        with database.connect(target, "status") as conn:
            state = ledger.read(conn)
        migrations = files.load(project.MIGRATIONS)
        ledger.compare(state, migrations)
    except PreconditionError as failure:
        return failure
    except (psycopg.Error, PgvigilError, OSError):
        return None
    if state.entries and len(state.entries) < len(migrations):
        return PreconditionError(
            f"this database is at revision {state.revision}, and this command reads what later migrations make",
            "Apply them: pgvigil migrate.",
        )
    return None


def _written(status: int) -> int:
    sys.stdout.flush()  # where a full disk can still be reported
    return status


def _fail(error: PgvigilError, arguments: argparse.Namespace | None, words: Sequence[str]) -> int:
    print(f"error: {text.indented(masked(error.message, words))}", file=sys.stderr)
    if error.hint:
        print(f"hint: {text.indented(masked(_as_called(error.hint, arguments), words))}", file=sys.stderr)
    return error.exit_code


def _as_called(hint: str, arguments: argparse.Namespace | None) -> str:
    """Return a hint whose commands can be pasted: with this program, and with the database of this call."""
    option = ""
    if url := getattr(arguments, "database_url", None):
        with suppress(PgvigilError):
            option = database.parse_url(url, "--database-url").option
    return as_called(hint, option)
