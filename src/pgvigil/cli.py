"""The command line: reads the call, makes one call of its own, turns the outcome into an exit code.

Reports go to stdout, what happens meanwhile and what went wrong to stderr.
"""

from __future__ import annotations

import argparse
import errno
import os
import re
import signal
import sys
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from importlib import import_module

import psycopg

from pgvigil import database, project, text
from pgvigil.arguments import parser
from pgvigil.argv import restore
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
            signal.signal(signal.SIGTERM, signal.default_int_handler)  # `kill` cleans up as Ctrl-C does
            argv = restore(sys.argv[1:])
        arguments = parser(_COMMANDS, argv).parse_args(argv)
        return _written(int(arguments.run(arguments)))
    except SystemExit as stop:  # argparse: 0 after --help, 2 for a call it cannot read
        return stop.code if isinstance(stop.code, int) else 2
    except PgvigilError as error:
        return _fail(error, arguments)
    except psycopg.errors.InsufficientPrivilege as error:
        return _fail(
            PreconditionError(f"a right is missing: {' '.join(str(error).split())}", "Use a role that has it."),
            arguments,
        )
    except psycopg.OperationalError as error:
        return _fail(
            ConnectError(
                f"the connection was lost: {' '.join(str(error).split())}",
                "Look at the server's log; then run this again.",
            ),
            arguments,
        )
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
        from pgvigil.live.scrub import hide_secrets  # here, because hardly any call needs it

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


_NAMED = re.compile(r"(?<![\w/.-])pgvigil ((?:(?:backup|maintain|sessions|server|spec) )?[a-z][a-z-]*)(?![\w.:])")
_SCRIPT = re.compile(r"(?<![\w/.-])scripts/((?:run-migration|setup-enhanced-db)\.sh)")
_WITHOUT_DATABASE = ("init-sql", "server", "backup list", "backup prune", "spec schema", "spec tests")


def _as_called(hint: str, arguments: argparse.Namespace | None) -> str:
    """With each command in it as it can be pasted: this program, and the database that this call named."""
    option = ""
    if url := getattr(arguments, "database_url", None):
        with suppress(PgvigilError):
            option = database.parse_url(url, "--database-url").option

    def spelt(found: re.Match[str]) -> str:
        words = found[1].split()
        if words[0] not in _COMMANDS:
            return found[0]
        is_whole = hint.startswith(" --", found.end())  # it has its options already
        return project.command(*words, option="" if is_whole or found[1].startswith(_WITHOUT_DATABASE) else option)

    return _NAMED.sub(spelt, _SCRIPT.sub(lambda found: project.script(found[1]), hint))


def _command(name: str, module: str) -> Callable[[argparse.Namespace], int]:
    def run(arguments: argparse.Namespace) -> int:
        function: Callable[[argparse.Namespace], int] = getattr(
            import_module(f"pgvigil.commands.{module}"), name.replace("-", "_")
        )
        return function(arguments)

    return run


_MODULES = {
    "migration": ("setup", "migrate", "revert", "restore", "status", "init-sql", "server"),
    "verdict": ("validate", "spec"),
    "operation": ("backup", "maintain", "sessions", "health", "profile", "explain", "sizes"),
}
_COMMANDS = {name: _command(name, module) for module, names in _MODULES.items() for name in names}
