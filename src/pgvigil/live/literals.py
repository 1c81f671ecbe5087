"""Replace the literals of queries, and hold the patterns of strings and comments that are read alike everywhere."""

from __future__ import annotations

import re
from typing import Final

# A string is read up to its end, or to the end of the text. The pattern never backtracks, because the end may be missing.
PLAIN = r"[^{q}]*+(?:{q}{q}[^{q}]*+)*{q}?"
BACKSLASH = r"[^{q}\\]*+(?:(?:\\.?|{q}{q})[^{q}\\]*+)*{q}?"
COMMENT = r"--[^\n]*+|/\*[^*]*+(?:\*(?!/)[^*]*+)*(?:\*/)?"
TAG = r"\$(?:[^\W\d]\w*+)?\$"

# Engines where double quotes enclose a name, and a backslash is an escape only in a string prefixed with E.
_STANDARD: Final = frozenset(
    [
        "postgresql",
        "postgres",
        "postgis",
        "redshift",
        "cockroachdb",
        "greenplum",
        "timescaledb",
        "yugabytedb",
        "oracle",
        "mssql",
        "sqlserver",
        "sqlite",
        "duckdb",
        "trino",
        "presto",
    ]
)
_NUMBER = r"(?<![\w$.])(?:0[xX][0-9a-fA-F]++|(?:\d++(?:\.\d*+)?|\.\d++)(?:[eE][+-]?\d++)?)(?![\w$])"
_NO_LITERAL = r"\w[\w$]*+"  # a word is matched whole, so that no part of it is searched again
_STANDARD_LITERALS = re.compile(
    rf"(?P<kept>{COMMENT}|\"{PLAIN.format(q=chr(34))})"
    rf"|[eE]'{BACKSLASH.format(q=chr(39))}|(?:[bBxXnN]|[uU]&)?'{PLAIN.format(q=chr(39))}"
    rf"|(?P<dollar>{TAG})|{_NUMBER}|(?P<plain>{_NO_LITERAL})",
    re.DOTALL,
)
_OTHER_LITERALS = re.compile(
    rf"(?P<kept>{COMMENT}|`[^`]*+`?)|'{BACKSLASH.format(q=chr(39))}|\"{BACKSLASH.format(q=chr(34))}"
    rf"|(?P<dollar>(?!))|{_NUMBER}|(?P<plain>{_NO_LITERAL})",
    re.DOTALL,
)


def normalize_literals(query: str, database_type: str) -> str:
    """Replace each string and number by ?, and remove comments. A quote that is never closed hides all the rest."""
    pattern = _STANDARD_LITERALS if database_type.lower() in _STANDARD else _OTHER_LITERALS
    pieces, at = [], 0
    while found := pattern.search(query, at):
        pieces.append(query[at : found.start()])
        at = found.end()
        if found["plain"] is not None:
            pieces.append(found[0])
        elif found["kept"] is not None:
            pieces.append(" " if found[0].startswith(("--", "/*")) else found[0])
        else:
            if found["dollar"] is not None:
                close = query.find(found[0], at)
                at = len(query) if close < 0 else close + len(found[0])
            pieces.append("?")
    return "".join([*pieces, query[at:]])
