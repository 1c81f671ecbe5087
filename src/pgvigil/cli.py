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

from pgvigil import database, parser, text
from pgvigil.argv import restore
from pgvigil.commands.common.called import as_called
from pgvigil.errors import ConnectError, PgvigilError, PreconditionError, UsageError

DEFECT = 70  # EX_SOFTWARE of sysexits.h


def main(argv: Sequence[str] | None = None) -> int:
    """Runs one command; returns its exit code. What it prints goes through `text.Guarded`."""
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
        arguments = parser.build(argv).parse_args(argv)
        return _written(int(arguments.run(arguments)))
    except SystemExit as stop:  # argparse: 0 after --help, 2 for a call it cannot read
        return stop.code if isinstance(stop.code, int) else 2
    except PgvigilError as error:
        return _fail(error, arguments)
    except psycopg.Error as error:
        if arguments is not None and (failure := _of_server(error, arguments)):
            return _fail(failure, arguments)
        return _defect()
    except UnicodeEncodeError:  # bytes of the call that are no text
        return _fail(UsageError("the call holds characters that are no UTF-8", "Type names in UTF-8."), arguments)
    except BrokenPipeError:  # `… | head`: the reader has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except OSError as error:
        hint = "Make room, then run this again." if error.errno == errno.ENOSPC else ""
        return _fail(UsageError(f"{error.filename or 'the output'}: {error.strerror}", hint), arguments)
    except KeyboardInterrupt:
        print(
            "\ninterrupted: what ran in a transaction is rolled back; running this again goes on from there",
            file=sys.stderr,
        )
        return 130
    except Exception:  # noqa: BLE001 - whatever it is, it must not pass for findings
        return _defect()


def _take_signals() -> None:
    """`kill`, and a terminal that is closed, clean up as Ctrl-C does; under nohup a closed terminal goes unnoticed."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    if signal.getsignal(signal.SIGHUP) != signal.SIG_IGN:
        signal.signal(signal.SIGHUP, signal.default_int_handler)


def _of_server(error: psycopg.Error, arguments: argparse.Namespace) -> PgvigilError | None:
    """The server's or the network's failure in our own terms; None for what should not have been asked."""
    words = error.diag.message_primary or " ".join(str(error).split())
    if database.is_lost(error):
        return database.lost(error)
    if isinstance(error, psycopg.errors.InsufficientPrivilege):
        if "row-level security" in words:
            return ConnectError(
                f"row security hides rows from this role, so nothing was concluded from the others: {words}",
                "Use a role that sees every row: one with BYPASSRLS, or with a policy of its own USING (true).",
            )
        return PreconditionError(f"a right is missing: {words}", _grant(words, arguments))
    if isinstance(error, psycopg.errors.ReadOnlySqlTransaction):
        return PreconditionError(
            f"this server can only be read: {words}",
            "Connect to the primary, if this is a standby. Nothing was changed.",
        )
    if isinstance(error, psycopg.errors.QueryCanceled):
        return ConnectError(f"the server cancelled a query of this command: {words}", "Run this again when it may run.")
    if isinstance(error, psycopg.OperationalError):  # memory, disk, locks
        return ConnectError(f"the server could not answer: {words}", "Look at the server's log; then run this again.")
    return None


def _grant(words: str, arguments: argparse.Namespace) -> str:
    """What gives the right that is missing."""
    from pgvigil.commands.common.target import named_target

    target = named_target(arguments)
    if target is None or not re.search(r"permission denied for (?:schema|table|view|function|procedure) ", words):
        return "Use a role that has it."
    role = '"' + target.user.replace('"', '""') + '"'
    return f"As the owner of pgvigil's schema: GRANT pgvigil_reader TO {role}; lets it read, GRANT pgvigil_admin TO {role}; run jobs too."


def _defect() -> int:
    from pgvigil.live.redact import hide_secrets  # here, because hardly any call needs it

    print(hide_secrets(traceback.format_exc()), end="", file=sys.stderr)
    print(
        "error: this is a defect of pgvigil itself; no verdict was reached, and what ran in a transaction is rolled back\n"
        "hint: Please report it with the lines above.",
        file=sys.stderr,
    )
    return DEFECT


def _written(status: int) -> int:
    sys.stdout.flush()  # where a full disk can still be told
    return status


def _fail(error: PgvigilError, arguments: argparse.Namespace | None) -> int:
    print(f"error: {text.indented(error.message)}", file=sys.stderr)
    if error.hint:
        print(f"hint: {text.indented(_as_called(error.hint, arguments))}", file=sys.stderr)
    return error.exit_code


def _as_called(hint: str, arguments: argparse.Namespace | None) -> str:
    """With each command in it as it can be pasted: this program, and the database that this call named."""
    option = ""
    if url := getattr(arguments, "database_url", None):
        with suppress(PgvigilError):
            option = database.parse_url(url, "--database-url").option
    return as_called(hint, option)
