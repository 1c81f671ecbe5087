"""Keep secrets among the arguments of a call out of the process list. scripts/bootstrap.sh does the same in the shell."""

from __future__ import annotations

import os
import re
from collections.abc import Sequence

_VARIABLE = "PGVIGIL_ARGUMENT_"  # followed by the argument's number from the end. The value: the shown text, a line feed, the argument
_OPTION = re.compile(r"(--[a-z-]+=)?(.*)", re.DOTALL)
_PASSWORD = re.compile(
    r"([a-z0-9+.-]*://[^\]/?#:@\x00-\x1f\x7f]*):.*@([^\]@?=&\x00-\x1f\x7f]*)", re.IGNORECASE | re.DOTALL
)
_SECRET = re.compile(
    r"://[^/?#:@]*:.*@|[?&][^=&]*%[^=&]*=|(?:passw|passphrase|secret|token|scram_)[a-z_]*\s*=",
    re.IGNORECASE | re.DOTALL,
)


def shown(word: str) -> str:
    """Return the part of an argument that may be seen: of a URL all but its password, which distinguishes one run from another."""
    found = _OPTION.fullmatch(word)
    prefix, value = (found[1] or "", found[2]) if found else ("", word)
    if url := _PASSWORD.fullmatch(value):
        return f"{prefix}{url[1]}@{url[2]}"
    return prefix + "hidden" if _SECRET.search(value) else word


# Options that take the address of a database. Any other place is a mistake, in which it would be repeated, stored or passed on.
_TAKE_ADDRESSES = ("--database-url", "--telemetry-url", "--archive", "--archive-to", "--master")
_ADDRESS = re.compile(
    r"[\s'\"]*(?:[a-z][a-z0-9+.-]*:/|(?:--database-url=)?(?:host|hostaddr|port|dbname|user|password|service|sslmode)\s*=).*",
    re.IGNORECASE | re.DOTALL,
)


def stray_address(words: Sequence[str]) -> str | None:
    """Return the part that may be seen of a database address with a secret that no option takes; what follows a `--` is not looked at."""
    before = ""
    for word in words:
        if word == "--":
            break
        found = _OPTION.fullmatch(word)
        option, value = (found[1] or before, found[2]) if found else (before, word)
        if option.rstrip("=") not in _TAKE_ADDRESSES and _ADDRESS.fullmatch(value) and shown(word) != word:
            return shown(word)
        before = word
    return None


def masked(message: str, words: Sequence[str]) -> str:
    """Return a message without the secrets of the arguments, whatever part of them it repeats."""
    for word in sorted(words, key=len, reverse=True):
        if shown(word) == word:
            continue
        value = word.partition("=")[2] if word.startswith("--") else word
        for spelt in (word, repr(word)[1:-1], value, repr(value)[1:-1]):
            message = message.replace(spelt, shown(spelt))
        value = value.strip("'\" \t\r\n")
        if url := _PASSWORD.fullmatch(value):  # a path that was made of it has other slashes
            password = value[len(url[1]) + 1 : len(value) - len(url[2]) - 1]
            message = message.replace(f":{password}@", ":***@")
        else:
            from pgvigil.live.redact import hide_secrets  # here, because hardly any call needs it

            message = hide_secrets(message)
    return message


def hide(words: Sequence[str]) -> tuple[list[str], dict[str, str]]:
    """Return the arguments to call this program with instead, and the environment that it then needs."""
    kept = [shown(word) for word in words]
    given = {
        f"{_VARIABLE}{len(words) - at}": f"{seen}\n{word}"
        for at, (seen, word) in enumerate(zip(kept, words, strict=True))
        if seen != word
    }
    return kept, given


def restore(words: Sequence[str]) -> list[str]:
    """Return the original arguments. They are removed from the environment, so that children do not inherit them."""
    given = list(words)
    for name in [name for name in os.environ if name.startswith(_VARIABLE)]:
        seen, _, word = os.environ.pop(name).partition("\n")
        number = name.removeprefix(_VARIABLE)
        if number.isdecimal() and 0 < int(number) <= len(given) and given[-int(number)] == seen != word:
            given[-int(number)] = word
    return given
