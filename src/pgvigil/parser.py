"""The command line as argparse reads it: `pgvigil --help`, and one parser for each module in pgvigil.commands."""

from __future__ import annotations

import argparse
import textwrap
from collections.abc import Sequence
from typing import NoReturn, cast

from pgvigil import __version__, argv, commands
from pgvigil.commands.common.options import Actions, add_action
from pgvigil.errors import EXIT_CODES

_CODES = "\n".join(
    textwrap.fill(meaning.replace("`", ""), 78, initial_indent=f"  {code:<5}", subsequent_indent=" " * 7)
    for code, meaning in EXIT_CODES.items()
)
EPILOG = f"""\
exit codes:
{_CODES}

The database is named by --database-url, else DATABASE_URL, else PG* variables and service files, else a .env file
(in the current directory or the project), else it is the embedded server's, if there is one.
"""


def build(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Returns the parser for `words`; what it parses has the function to call as `run`.

    Of `words`, no secret is repeated in an error. Where they begin with the name of a command, only that one is loaded.
    """

    class Parser(argparse.ArgumentParser):
        def error(self, message: str) -> NoReturn:
            for word in sorted(words, key=len, reverse=True):
                for spelt in (word, repr(word)[1:-1]):
                    message = message.replace(spelt, argv.shown(word)) if argv.shown(word) != word else message
            super().error(message)

    whole = Parser(
        prog="pgvigil", description="Brings a session database to a schema that watches it, and keeps it there.",
        epilog=EPILOG, formatter_class=argparse.RawDescriptionHelpFormatter, allow_abbrev=False,
    )  # fmt: skip
    whole.add_argument("--version", action="version", version=f"pgvigil {__version__}")
    verbs = cast("Actions", whole.add_subparsers(required=True, metavar="COMMAND"))
    names = commands.names()
    for name in list(words[:1]) if words and words[0] in names else names:
        verb = commands.load(name)
        command = add_action(verbs, name, verb.SUMMARY)
        verb.add_arguments(command)
        command.set_defaults(run=verb.run)
    return whole
