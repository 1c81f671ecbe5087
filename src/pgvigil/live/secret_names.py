"""Recognise the names of secrets: password, api_key, db.token."""

from __future__ import annotations

import re
from functools import lru_cache
from typing import Any

LONGEST_KEY = 200  # characters; longer words are not names

# For a name without its punctuation and capitals. A number under a key of tokens is a count of tokens.
_NAMES = (
    r"passw|passphrase|passcode|pwd|secret|credential|(?:api|access|private|account|client|server|signing|master|shared|hmac|aes)key"
    r"|enc(?:ryption)?key"
    r"|signature|authorization|cookie|jwt"
)
_SECRET_KEY = re.compile(rf"{_NAMES}|^(?:pass|pw|pin|otp|auth|sig|bearer)$|(token)")
_SECRET_WORD = re.compile(rf"{_NAMES}|(token)")
_LAST_PART = re.compile(  # db_pass, app.pw, dbPass
    r"(?:(?:^|[^A-Za-z0-9])(?i:pass|pw|pin|otp|auth|sig|bearer)|(?<=[a-z])(?:Pass|Pw|Pin|Otp|Auth|Sig|Bearer))[^A-Za-z0-9]*+$"
)


def is_secret(key: str, value: Any) -> bool:
    found = _secret_kind(key) if len(key) <= LONGEST_KEY else _kind(_SECRET_KEY, key)
    return found == "secret" or (found is not None and not isinstance(value, int | float))


@lru_cache(maxsize=1_000)
def _secret_kind(key: str) -> str | None:
    return _kind(_SECRET_KEY, key)


def name_kind(word: str) -> str | None:
    return _word_kind(word) if len(word) <= LONGEST_KEY else _kind(_SECRET_WORD, word)


@lru_cache(maxsize=2_000)
def _word_kind(word: str) -> str | None:
    return _kind(_SECRET_WORD, word)


def _kind(pattern: re.Pattern[str], name: str) -> str | None:
    """Return "secret"; "token", beside which a number is a count; "weak" for what is a word of English, too; or None."""
    found = pattern.search(re.sub(r"[^a-z0-9]+", "", name.casefold()))
    if found is None:
        return "weak" if _LAST_PART.search(name) else None
    return "token" if found[1] else "secret"
