"""Complete the commands within a text, such as a hint, so that they can be pasted."""

from __future__ import annotations

import re

from pgvigil import commands, project

_NAMED = re.compile(
    r"(?<![\w/.-])pgvigil ((?:(?:backup|maintain|session-monitoring|sessions|server|spec|token) )?[a-z][a-z-]*)(?![\w:]|\.\w)(\.$)?"
)
_WITHOUT_DATABASE = (
    "check",
    "init",
    "new",
    "lint",
    "help",
    "setup",
    "init-sql",
    "metrics-files",
    "token",
    "server",
    "backup list",
    "backup prune",
    "spec schema",
    "spec tests",
)


def as_called(text: str, option: str) -> str:
    """Return the text with each command in it spelt with this program, and with `option`, which names the database."""
    names = commands.names()

    def spelt(found: re.Match[str]) -> str:
        words = found[1].split()
        if words[0] not in names:
            return found[0]
        rest = text[found.end() :].partition("\n")[0].partition("pgvigil ")[0]
        is_whole = " --database-url" in rest  # it names its database already
        return project.command(*words, option="" if is_whole or found[1].startswith(_WITHOUT_DATABASE) else option)

    return _NAMED.sub(spelt, text)
