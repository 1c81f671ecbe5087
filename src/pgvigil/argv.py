"""Secrets among the arguments of a call, kept out of the process list. scripts/bootstrap.sh does the same in the shell."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_VARIABLE = (
    "PGVIGIL_ARGUMENT_"  # and the number of the argument, from the end: what is shown, a line feed, what was given
)
_OPTION = re.compile(r"(--[a-z-]+=)?(.*)", re.DOTALL)
_PASSWORD = re.compile(
    r"([a-z0-9+.-]*://[^\]/?#:@\x00-\x1f\x7f]*):.*@([^\]@?=&\x00-\x1f\x7f]*)", re.IGNORECASE | re.DOTALL
)
_SECRET = re.compile(
    r"://[^/?#:@]*:.*@|[?&][^=&]*%[^=&]*=|(?:passw|passphrase|secret|token|scram_)[a-z_]*\s*=",
    re.IGNORECASE | re.DOTALL,
)


def shown(word: str) -> str:
    """What may be seen of an argument: of a URL all but its password, which tells one run from another."""
    found = _OPTION.fullmatch(word)
    prefix, value = (found[1] or "", found[2]) if found else ("", word)
    if url := _PASSWORD.fullmatch(value):
        return f"{prefix}{url[1]}@{url[2]}"
    return prefix + "hidden" if _SECRET.search(value) else word


def hide(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """What to call this program with instead, and what its environment has to hold then."""
    kept = [shown(word) for word in words]
    given = {
        f"{_VARIABLE}{len(words) - at}": f"{seen}\n{word}"
        for at, (seen, word) in enumerate(zip(kept, words, strict=True))
        if seen != word
    }
    return kept, given


def restore(words: Sequence[str]) -> list[str]:
    """The arguments as they were given. What the environment holds of them is taken out of it, for children not to inherit."""
    given = list(words)
    for name in [name for name in os.environ if name.startswith(_VARIABLE)]:
        seen, _, word = os.environ.pop(name).partition("\n")
        number = name.removeprefix(_VARIABLE)
        if number.isdecimal() and 0 < int(number) <= len(given) and given[-int(number)] == seen != word:
            given[-int(number)] = word
    return given
