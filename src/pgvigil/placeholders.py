"""Fill in the names that the SQL files leave open: the schema of the application's tables, and the owner of pgvigil's
objects.
"""

from __future__ import annotations

import re

APPLICATION_SCHEMA = '"{app}"'
OWNER = '"{owner}"'


def identifier(name: str) -> str:
    """Quote a name so that it works anywhere in a file: also in a dollar quote, a string constant, or a format of format().

    The init script quotes names the same way (init_sql.py), so that both produce identical text.
    """
    if re.fullmatch(r"[A-Za-z0-9_]+", name):
        return f'"{name}"'
    return 'U&"' + "".join(c if re.fullmatch(r"[A-Za-z0-9_]", c) else f"\\+{ord(c):06x}" for c in name) + '"'


def bound(sql: str, schema: str, owner: str = "") -> str:
    """Return the text with the names of this database in place of the open ones."""
    return sql.replace(APPLICATION_SCHEMA, identifier(schema)).replace(OWNER, identifier(owner))
