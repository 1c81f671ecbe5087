"""What must not be stored: secrets in parameters, messages and queries, and, where that is wanted, the literals of queries.

Where it cannot be told what a text means, too much is hidden rather than too little. Each pattern takes time in proportion to
the text: its parts begin where words begin, or are bounded.
"""

from __future__ import annotations

import math
import re
from functools import lru_cache
from typing import Any, Final

HIDDEN: Final = "***"
_DEEPEST = 12
_LARGEST_BITS = 4096  # of an integer: Python refuses to print much more

# Of a key without its punctuation and capitals. A number under a key of tokens is how many there were.
_SECRET_KEY = re.compile(
    r"passw|passphrase|passcode|pwd|secret|credential|apikey|accesskey|privatekey|accountkey|encryptionkey|signature"
    r"|authorization|cookie|^(?:pass|pw|auth|sig|jwt|bearer)$|(token)"
)
_NAMED = (
    r"(?<![\w-])[\w-]*?(?:password|passwd|passphrase|passcode|pwd|secret|token|credentials?|signature|authorization|cookie"
    r"|(?:api|access|private|account|encryption)[_-]?key)"
)
_PATTERNS = [
    (
        re.compile(r"(?<![\w+.-])([a-z][a-z0-9+.-]{0,30}://[^\s:/@]{0,200}:)\S{1,500}@", re.IGNORECASE),
        r"\1" + HIDDEN + "@",
    ),
    (re.compile(rf"([?&]{_NAMED}=)[^&#\s]*", re.IGNORECASE), r"\1" + HIDDEN),
    (re.compile(r"\b(bearer|basic)\s+[\w.~+/=-]{8,}", re.IGNORECASE), r"\1 " + HIDDEN),
]
_QUOTED = r"""'(?:[^'\\]|\\.|'')*'"""
_IN_TEXT = re.compile(
    rf"""(?<![?&])({_NAMED}["']?\s*[=:]\s*)(?:"[^"]*"|{_QUOTED}|[^;\n]{{0,500}}(?=;)|[^\s;]+)""", re.IGNORECASE
)
# A query may compare or set such a column; only what looks like a value is one.
_IN_QUERY = re.compile(
    rf"""({_NAMED}["'`]?\s*(?:=|:=|=>|:)?\s*|\bidentified\s+by\s+)(?:{_QUOTED})|({_NAMED}=)[^\s;'"$%:?@&().,]+""",
    re.IGNORECASE,
)
# Whatever one of these patterns finds has one of these in it: looking for them takes a twentieth of the time.
_SIGNS = (
    "pass", "pwd", "secret", "token", "credential", "signature", "authorization", "cookie", "key", "bearer", "basic",
    "identified", "://",
)  # fmt: skip

_BACKSLASH = r"(?:[^{q}\\]|\\.|{q}{q})*(?:{q}|\Z)"
_PLAIN = r"(?:[^{q}]|{q}{q})*(?:{q}|\Z)"
_COMMENT = r"--[^\n]*|/\*.*?(?:\*/|\Z)"
_NUMBER = r"(?<![\w$.])(?:0[xX][0-9a-fA-F]+|\d+(?:\.\d*)?(?:[eE][+-]?\d+)?|\.\d+)(?![\w$])"
# Where double quotes are about a name, and a backslash is no escape unless an E stands before the string.
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
_STANDARD_LITERALS = re.compile(
    rf"(?P<kept>{_COMMENT}|\"{_PLAIN.format(q=chr(34))})"
    rf"|(?<!\w)[eE]'{_BACKSLASH.format(q=chr(39))}|(?:(?<!\w)(?:[bBxXnN]|[uU]&))?'{_PLAIN.format(q=chr(39))}"
    rf"|(?<![\w$])\$(?P<tag>(?:[A-Za-z_]\w*)?)\$.*?(?:\$(?P=tag)\$|\Z)|{_NUMBER}",
    re.DOTALL,
)
_OTHER_LITERALS = re.compile(
    rf"(?P<kept>{_COMMENT}|`[^`]*(?:`|\Z))|'{_BACKSLASH.format(q=chr(39))}|\"{_BACKSLASH.format(q=chr(34))}|{_NUMBER}",
    re.DOTALL,
)


def storable(text: str) -> str:
    """Without what PostgreSQL cannot store: NUL, and halves of surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _is_harmless(text: str) -> bool:
    if text.isalnum():  # each pattern needs more than a word
        return True
    if not text.isascii():  # there are more letters that a pattern takes for an s or a k
        return False
    text = text.lower()
    for sign in _SIGNS:  # noqa: SIM110 - any() of a generator takes twice as long
        if sign in text:
            return False
    return True


def hide_secrets(text: str) -> str:
    """A message or a connection string: passwords in URLs, `password=…`, `token: …`, bearer tokens become ***."""
    if _is_harmless(text):
        return text
    for pattern, replacement in _PATTERNS:
        text = pattern.sub(replacement, text)
    return _IN_TEXT.sub(r"\1" + HIDDEN, text)


def hide_secrets_of_query(query: str) -> str:
    """Literals that stand by a name such as password, and passwords in URLs."""
    if _is_harmless(query):
        return query
    for pattern, replacement in _PATTERNS:
        query = pattern.sub(replacement, query)
    return _IN_QUERY.sub(
        lambda found: f"{found[1]}'{HIDDEN}'" if found[1] is not None else f"{found[2]}{HIDDEN}", query
    )


def normalize_literals(query: str, database_type: str) -> str:
    """Each string and number becomes ?, and comments go. A quote that is never closed hides all the rest."""
    pattern = _STANDARD_LITERALS if database_type.lower() in _STANDARD else _OTHER_LITERALS

    def replaced(found: re.Match[str]) -> str:
        kept: str | None = found["kept"]
        return "?" if kept is None else " " if kept.startswith(("--", "/*")) else kept

    return pattern.sub(replaced, query)


def document(value: Any, depth: int = 0) -> Any:
    """A copy that JSON and PostgreSQL can hold, without secrets. What is neither is printed."""
    if isinstance(value, str):
        return storable(hide_secrets(value))
    if value is None or isinstance(value, bool):
        return value
    if isinstance(value, int):
        return int(value) if value.bit_length() <= _LARGEST_BITS else f"an integer of {value.bit_length()} bits"
    if isinstance(value, float):
        return float(value) if math.isfinite(value) else str(value)
    if isinstance(value, bytes | bytearray | memoryview):
        return f"{len(value)} bytes"
    if isinstance(value, dict | list | tuple | set | frozenset) and depth >= _DEEPEST:
        return "…"
    if isinstance(value, dict):
        return {
            storable(str(key)): HIDDEN if item is not None and _is_secret(str(key), item) else document(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [document(item, depth + 1) for item in value]
    return storable(hide_secrets(str(value)))


def _is_secret(key: str, value: Any) -> bool:
    found = _secret_kind(key)
    return found == "secret" or (found == "token" and not isinstance(value, int | float))


@lru_cache(maxsize=1_000)
def _secret_kind(key: str) -> str | None:
    found = _SECRET_KEY.search(re.sub(r"[^a-z0-9]", "", key.lower()))
    return None if found is None else "token" if found[1] else "secret"
