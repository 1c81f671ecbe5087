"""The command line as argparse reads it: `pgvigil --help`, and one parser for each module in pgvigil.commands."""

from __future__ import annotations

import argparse
import difflib
import re
import textwrap
from collections.abc import Iterable, Sequence
from typing import Any, NoReturn, cast

from pgvigil import argv, commands
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.options import Actions, add_action
from pgvigil.commands.common.version import Version
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


_CHOICE = re.compile(r"argument [\w/-]+: invalid choice: '(.*)' \(choose from (.*)\)", re.DOTALL)

_NO_COMMAND = "the following arguments are required: COMMAND"


def _near(word: str, choices: Iterable[str]) -> str:
    near = difflib.get_close_matches(word.partition("=")[0], list(choices), 1, 0.6)
    return f"; did you mean {near[0]}?" if near else ""


class _ByGroup(argparse.RawDescriptionHelpFormatter):
    """Show commands under the headings of their groups."""

    def add_arguments(self, actions: Iterable[argparse.Action]) -> None:
        for action in actions:
            groups = {
                command.dest: commands.load(command.dest).GROUP for command in self._iter_indented_subactions(action)
            }
            if not groups:
                self.add_argument(action)
            for group in Group if groups else ():
                self.start_section(group)
                for command in self._iter_indented_subactions(action):
                    if groups[command.dest] is group:
                        self.add_argument(command)
                self.end_section()


def build(words: Sequence[str] = ()) -> argparse.ArgumentParser:
    """Return the parser for `words`. Its result has the function to call as `run`, and this one as `build`.

    Errors repeat no secret of `words`. Where they begin with the name of a command, only that command is loaded.
    """

    class Parser(argparse.ArgumentParser):
        # The type of argparse's own is an overload for namespaces of other classes, which no caller here has.
        def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
            """Report surplus words here: the parser of a whole call would show the usage of all commands."""
            found, surplus = super().parse_known_args(args, namespace)
            if surplus:
                self.error(
                    f"unrecognized arguments: {' '.join(surplus)}{_near(surplus[0], self._option_string_actions)}"
                )
            return found, surplus

        def error(self, message: str) -> NoReturn:
            if found := _CHOICE.fullmatch(message):
                near = _near(found[1], re.findall(r"[\w-]+", found[2]))
                # The list of all commands would hide the one that was meant.
                message = message.partition(" (choose from ")[0] + near if near else message
            elif message == _NO_COMMAND:
                message = "no command is given; all commands: pgvigil --help"
            super().error(argv.masked(message, words))

    whole = Parser(
        prog="pgvigil", description="Adds monitoring of sessions to a PostgreSQL database, and keeps its schema, jobs and backups in order.",
        epilog=EPILOG, formatter_class=_ByGroup, allow_abbrev=False,
    )  # fmt: skip
    whole.add_argument(
        "--version",
        action=Version,
        nargs=0,
        words=words,
        help="print the version, the schema's, and those of server and database",
    )
    verbs = cast("Actions", whole.add_subparsers(required=True, metavar="COMMAND", title="commands"))
    names = commands.names()
    for name in list(words[:1]) if words and words[0] in names else names:
        verb = commands.load(name)
        command = add_action(verbs, name, verb.SUMMARY)
        verb.add_arguments(command)
        command.set_defaults(run=verb.run, build=build)
    return whole
