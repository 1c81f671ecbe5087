"""Names that our SQL files leave open, and how they are filled in: the schema of the application's tables, and the owner of what is ours."""

from __future__ import annotations

import re

APPLICATION_SCHEMA = '"{app}"'
OWNER = '"{owner}"'


def identifier(name: str) -> str:
    """A name quoted so that it may stand anywhere in a file: also in a dollar quote, a string constant, or a format of format().

    The init script writes names in the same way (init_sql.py), so that what both make is the same to the letter.
    """
    if re.fullmatch(r"[A-Za-z0-9_]+", name):
        return f'"{name}"'
    return 'U&"' + "".join(c if re.fullmatch(r"[A-Za-z0-9_]", c) else f"\\+{ord(c):06x}" for c in name) + '"'


def bound(sql: str, schema: str, owner: str = "") -> str:
    """The text with the names of this database in the places of those that our files leave open."""
    return sql.replace(APPLICATION_SCHEMA, identifier(schema)).replace(OWNER, identifier(owner))
