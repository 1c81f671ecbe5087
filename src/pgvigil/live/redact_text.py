"""Redact texts: secrets in parameters and messages, and values in error messages. See redact_query for queries.

If the meaning of a text is uncertain, too much is hidden rather than too little. Every function takes time in
proportion to the text, whatever it contains: a text is cut into tokens from left to right, each pattern matches at a
given position without backtracking, and text that was searched for the end of a value is never searched again.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from typing import Any, Final
from urllib.parse import unquote

from pgvigil.live.secret_names import is_secret, name_kind

HIDDEN: Final = "***"
_DEEPEST = 12
_LARGEST_BITS = 4096  # of an integer: Python refuses to print much more
Span = tuple[int, int, str]  # start, end, and the replacement

# A text without any of these holds nothing to redact: this check takes a twentieth of the time of the functions below.
_SIGN = re.compile(
    r"pass|pwd|secret|token|credential|signature|authorization|cookie|bearer|basic|identified|://"
    r"|(?:api|access|private|account|enc|encryption|client|server|signing|master|shared|aes)[^a-z0-9]?key|jwt|(?:otp|pw|pin|auth|sig)[^a-z]"
    r"|crypt|hmac|program|xp_cmdshell|(?:sign|verify)\s*\(|mysql|-u\s|--user|--proxy-user|eyj|scram-sha|gh[opsru]_|github_pat_|glpat-|xox[abeprs]-|[sr]k_live_",
)

_ESCAPED = re.compile(r"(?<!\\)\\++(?:(?:u00|x|\+0000|00)([4-7][0-9a-fA-F])|(1[0-7]{2}))")
_ESCAPED_IN_URL = re.compile(r"[?&][\w.%-]++=")


def storable(text: str) -> str:
    """Return the text without what PostgreSQL cannot store: NUL, and halves of surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def unescaped(text: str) -> str:
    r"""Return the text with letters in the place of their escapes, as in E'p\x61ssword', U&'p\0061ssword' and ?p%61ssword=, if they
    spell a name of a secret.
    """
    if "\\" not in text and "%" not in text:
        return text
    plain = _ESCAPED.sub(_letter, _ESCAPED_IN_URL.sub(lambda found: unquote(found[0]), text))
    return text if plain == text or is_harmless(plain) else plain


def _letter(found: re.Match[str]) -> str:
    code = int(found[1], 16) if found[1] else int(found[2], 8)
    return chr(code) if chr(code).isalpha() or code == ord("_") else found[0]


def is_harmless(text: str) -> bool:
    # All need more than a word; and re.IGNORECASE takes more letters than a to z for an s or a k.
    return text.isalnum() or (text.isascii() and not _SIGN.search(text.lower()))


# --- messages and connection strings ---------------------------------------------------------------------------------

WORD = re.compile(r"[\w-]++")
_SPACES = re.compile(r"\s++")
_IS_GIVEN = re.compile(
    r"""(?:\\*+["'`\u2019”“»])?[\])]?\s*+(?:=>|->|:=|==?|:|\\=|%3[dDaA])\s*+|["'],\s*+(?=[A-Za-z]?["'])"""
)  # between a name and its value
_IN_PAIR = re.compile(  # key="password" value="…", <property name="password">…
    r"""(?:["']\s*+,?|,)?\s*+(?<=["'\s,])["']?value["']?\s*+[=:]\s*+|["']\s*+>""", re.IGNORECASE
)
_IN_JSONPATH = re.compile(r"""["']?\s*+\?\s*+\(\s*+@[\w.]*+\s*+(?:==|like_regex|starts\s++with)\s*+""")
_TO_TAG = re.compile(r"[^<]*+")
_IS_QUOTED = re.compile(
    r"""\s++(?=(?:[A-Za-z]&?)?\\*+["'`\u2018“„«])"""
)  # PASSWORD 's3cret', in a message that repeats a statement
# "the password is 's3cret'"; and "password s3cret", where the word has letters and digits, as no word of English.
_IN_PROSE = re.compile(
    r"""\s++(?:is|was)\s++(?=['"`])|(?:\s|\\[tnrfv])++(?:(?:is|was)\s++)?(?=[^\s\d'",;]*+\d)(?=[^\sA-Za-z'",;]*+[A-Za-z])(?=[^\s'",;]{6})"""
)
_PLAIN_WORD = re.compile(r"""[^\s;,()'"$]*+""")
_OF_KEY = re.compile(r"(?:api|access|private|secret|signing|encryption|account|client|master|shared)\s$", re.IGNORECASE)
_OPENING = re.compile(r"""(?:[A-Za-z]&?)?(?P<quote>\\++["']|'++|"|`|[\u2018“„«])""")
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*+)?\$")
# A semicolon ends a value if a space, the end or the next name follows it: libpq has none, but a password may contain one.
_INSIDE = r";(?!\s|$|[A-Za-z]\w{0,30}(?: (?i:id|source|catalog|name|timeout|size|security|mode|info))?\s?=)"
_BARE = re.compile(rf"(?>(?:{_INSIDE})?)[^\s;\\]*+(?:(?:\\.?|{_INSIDE})[^\s;\\]*+)*", re.DOTALL)
_BARE_IN_URL = re.compile(r"[^&#\s]*+")
_TO_SEMICOLON = re.compile(rf"[^;\n]{{1,500}}+(?=;)(?:{_INSIDE}[^\s;]*+)*")
_REST_OF_LINE = re.compile(r"[^\n]*+")
_FIRST_WORD = re.compile(r"\S*+")
NUMBER_ONLY = re.compile(r"[-+]?[\d.]++(?![\w.])")
_USER_OF_WEB = re.compile(r"[^\s:/@?#'\"]++@")  # a token: https://ghp_s3cret@github.com
_USER = re.compile(r"://[^\s:/@]*+:")
_LOGIN = re.compile(r"""(?<=\s)(?:-u|--user|--proxy-user)[\s=]++[^\s:'"]++:([^\s'"]++)""")  # curl -u ada:s3cret
_MYSQL = re.compile(r"""(?<=\s)-p(?=([^\s'"]++))""")  # mysql -ps3cret
_SSHPASS = re.compile(r"""\bsshpass\s++-p\s*+(?=([^\s'"]++))""")
_BEARER = re.compile(r"\b(?:bearer|basic):?\s++(?=([\w.~+/=-]++))", re.IGNORECASE)
# Secrets that are known by their form, wherever they are. A key is hidden to its last line, or to the end.
_KNOWN_FORM = re.compile(
    r"-----BEGIN (?:(?:RSA|EC|DSA|OPENSSH|ENCRYPTED|PGP) )?PRIVATE KEY(?: BLOCK)?-----(?:[^-'\"]++|-(?!----))*(?:-----END [A-Z ]{0,40}-----)?"
    r"|SCRAM-SHA-\d{3}\$\d{1,9}:[\w+/=:$-]++|(?<![\w-])eyJ[\w-]{8,}+\.[\w-]++\.[\w-]*+"
    r"|(?<![\w-])(?:gh[opsru]_|github_pat_|glpat-|xox[abeprs]-|[sr]k_live_)[\w-]{10,}+"
)
_BRACKET = re.compile(r"""[\[\](){}]|"[^"\\]*+(?:\\.?[^"\\]*+)*"?|'[^'\\]*+(?:\\.?[^'\\]*+)*'?""", re.DOTALL)
_REST_OF = {
    # Inside a string with escapes of its own there are two backslashes before a quote that ends nothing.
    mark: re.compile(rf"[^{mark}\\]*+(?:(?:\\++.?|{mark}{mark})[^{mark}\\]*+)*{mark}?", re.DOTALL)
    for mark in "\"'`"
} | {
    # A word processor's: the server takes none for a quote, and the text of a refused statement is recorded, too.
    mark: re.compile(rf"[^{end}]*+[{end}]?")
    for mark, end in (("\u2018", "\u2019"), ("“", "”“"), ("„", "”“"), ("«", "»"))
}


def hide_secrets(text: str) -> str:
    """Redact a message or a connection string: passwords in URLs, `password=…`, `token: …`, bearer tokens become ***."""
    if is_harmless(text := unescaped(text)):
        return text
    return replaced(text, [*in_urls(text), *bearers(text), *in_text(text, 0, len(text))])


def replaced(text: str, spans: list[Span]) -> str:
    pieces, at = [], 0
    for begin, end, instead in sorted(spans):
        if begin >= at:
            pieces += [text[at:begin], instead]
        at = max(at, end)
    return "".join([*pieces, text[at:]]) if pieces else text


def in_urls(text: str) -> Iterator[Span]:
    at = 0
    while (at := text.find("://", at)) >= 0:
        user = _USER.match(text, at) if at and (text[at - 1].isalnum() or text[at - 1] in "+.-") else None
        is_web = text[max(at - 5, 0) : at].lower().endswith(("http", "https"))
        at += 3
        if user is None:
            token = _USER_OF_WEB.match(text, at) if is_web else None
            if token:
                yield at, token.end() - 1, HIDDEN
                at = token.end()
            continue
        run = _FIRST_WORD.match(text, user.end())
        end = run.end() if run else user.end()
        last = text.rfind("@", user.end(), end)
        if last > user.end():
            yield user.end(), last, HIDDEN
        at = max(end if last < 0 else last, at)  # no @ follows in this run, so none of its addresses has a password


def bearers(text: str) -> Iterator[Span]:
    for found in _BEARER.finditer(text):
        if len(found[1]) >= 8:
            yield found.start(1), found.end(1), HIDDEN
    for found in _LOGIN.finditer(text):
        yield found.start(1), found.end(1), HIDDEN
    for found in _KNOWN_FORM.finditer(text):
        yield found.start(), found.end(), HIDDEN
    for found in (*(_MYSQL.finditer(text) if "mysql" in text else ()), *_SSHPASS.finditer(text)):
        yield found.start(1), found.end(1), HIDDEN


def in_text(text: str, begin: int, end: int) -> Iterator[Span]:
    """Yield values beside names such as `password`, between these positions."""
    at = begin
    while word := WORD.search(text, at, end):
        at = word.end()
        kind = name_kind(word[0])
        if kind is None and text[at : at + 1] == "=" and word.start() > begin and text[word.start() - 1] in "?&":
            kind = "secret" if word[0].casefold() in ("sig", "auth") else None
        if (
            kind is None
            and word[0].casefold() == "key"
            and _OF_KEY.search(text, max(begin, word.start() - 11), word.start())
        ):
            kind = "secret"  # API key: …
        if kind is None:
            continue
        in_url = word.start() > begin and text[word.start() - 1] in "?&"
        if text[at : at + 1] == ">" and word.start() > begin and text[word.start() - 1] in "<:":  # an element of XML
            close = _end(_TO_TAG, text, at + 1, end)
            yield at + 1, close, HIDDEN
            at = close
            continue
        given = (
            _IN_PAIR.match(text, at, end)
            or _IS_GIVEN.match(text, at, end)
            or _IS_QUOTED.match(text, at, end)
            or _IN_JSONPATH.match(text, at, end)
        )
        is_clear = kind != "weak"
        if not is_clear:
            if given and not _is_field(word[0], given[0], text[given.end() : given.end() + 1]):
                continue
            kind = (
                "secret" if word[0].casefold().endswith(("pin", "otp")) else "token"
            )  # the numbers of others are counts
        if given is None and word[0].startswith("-"):  # an option of a command, and its value as the next argument
            given = _SPACES.match(text, at, end)
        if given is None and is_clear:
            given = _IN_PROSE.match(text, at, end)
        if given is None or given.end() >= end:
            continue
        at = given.end()
        for span in _value(text, at, end, kind, word[0].casefold(), in_url=in_url):
            yield span
            at = max(at, span[1])


def in_prose(text: str, begin: int, end: int) -> Iterator[Span]:
    """Yield values that follow a name as in a sentence, "password s3cret", where the rest is code."""
    for word in WORD.finditer(text, begin, end):
        if name_kind(word[0]) in ("secret", "token") and (given := _IN_PROSE.match(text, word.end(), end)):
            yield given.end(), _end(_PLAIN_WORD, text, given.end(), end), HIDDEN


def _is_field(word: str, given: str, then: str) -> bool:
    """Return true if a word of English, such as `pass` or `auth`, is the name of a value here: `first pass: 3 rows` has none."""
    return (
        word.lower() in ("pw", "pin", "otp")
        or "=" in given
        or given[0] in "\"'`\\"
        or then in ("'", '"')
        or bool(re.search(r"[_-]|[a-z][A-Z]", word))
    )


def _value(text: str, at: int, end: int, kind: str, name: str, *, in_url: bool) -> Iterator[Span]:
    if in_url:
        yield at, _end(_BARE_IN_URL, text, at, end), HIDDEN
    elif opening := _OPENING.match(text, at, end):
        yield at, _closed(text, opening, end), HIDDEN
    elif dollar := _DOLLAR.match(text, at, end):
        close = text.find(dollar[0], dollar.end(), end)
        yield at, end if close < 0 else close + len(dollar[0]), HIDDEN
    elif text[at] in "[{(":
        yield at, _balanced(text, at, end), HIDDEN
    elif kind == "token" and NUMBER_ONLY.match(text, at, end):
        return  # a count of tokens
    elif "authorization" in name:
        scheme, line = _end(_FIRST_WORD, text, at, end), _end(_REST_OF_LINE, text, at, end)
        yield at, scheme, HIDDEN
        if text[scheme:line].strip():
            yield scheme + 1, line, HIDDEN
    elif "cookie" in name:
        yield at, _end(_REST_OF_LINE, text, at, end), HIDDEN
    elif semicolon := _TO_SEMICOLON.match(text, at, end):
        yield at, semicolon.end(), HIDDEN
    else:
        yield at, _end(_BARE, text, at, end), HIDDEN


def _end(pattern: re.Pattern[str], text: str, at: int, end: int) -> int:
    found = pattern.match(text, at, end)
    return found.end() if found else at


def _closed(text: str, opening: re.Match[str], end: int) -> int:
    """Return the position where a quoted value ends. If it does not end, all the rest is hidden."""
    quote, at = opening["quote"], opening.end()
    if quote[0] == "\\":  # inside another string: it ends with the same escape
        close = re.compile(rf"(?<!\\){re.escape(quote)}").search(text, at, end)
        return close.end() if close else end
    if len(quote) % 2 == 0:  # inside another string, where it is doubled; or it is empty
        if at >= end or text[at] in " \t\r\n,;)]}":
            return at
        found = re.compile(rf"(?<!\\){quote}").search(text, at, end)
        return end if found is None else found.end()
    return _end(_REST_OF[quote[0]], text, at, end)


def _balanced(text: str, at: int, end: int) -> int:
    depth = 0
    for found in _BRACKET.finditer(text, at, end):
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return end


# --- values in error messages ----------------------------------------------------------------------------------------

_QUOTES = {
    '"': '"',
    "'": "'",
    "»": "«",
    "„": "“",
    "«": "»",
    "“": "”",
    "`": "'",
    "\u2018": "\u2019",
    "\u2039": "\u203a",
    "「": "」",
    "『": "』",
}
_ANY_QUOTE = re.compile("[\"'»„«“`\u2018\u2039「『]")
_BYTES = re.compile(r"\b0x[0-9a-fA-F]{2}(?>(?:\s0x[0-9a-fA-F]{2})*)")
# Conditions whose messages only name objects. All other messages may quote a value of a parameter or row.
_OF_OBJECTS = re.compile(r"0[89B-Z]|2[3-8D-F]|3[4-7BDF]|4[024]|5[3-8]|F0|HV")
_SYNTAX_ERROR = "42601"
_OF_SYNTAX = re.compile(r"[A-Za-z_]\w*|[^\w'$]{1,3}")


def hide_values(message: str, sqlstate: str | None) -> str:
    """Return the first line of an error message, without the values that it repeats.

    The server's additions (DETAIL, CONTEXT, the line of the query) are left out: most of them are values. Names in quotes are kept
    if the condition is about objects; otherwise the text between the first quote and the last becomes ***.
    """
    first = message.partition("\n")[0]
    if sqlstate and sqlstate != _SYNTAX_ERROR and _OF_OBJECTS.match(sqlstate):
        return first
    if opening := _ANY_QUOTE.search(first):
        close = max(first.rfind(_QUOTES[opening[0]]), first.rfind(opening[0]))
        end = close if close > opening.start() else len(first)
        if not (sqlstate == _SYNTAX_ERROR and _OF_SYNTAX.fullmatch(first, opening.end(), end)):
            first = f"{first[: opening.end()]}{HIDDEN}{first[end:] or opening[0]}"
    return _BYTES.sub(HIDDEN, first)


# --- documents -------------------------------------------------------------------------------------------------------


def document(value: Any, depth: int = 0) -> Any:
    """Return a copy that JSON and PostgreSQL can hold, without secrets. A value of any other type is replaced by its text."""
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
        named = next((value[key] for key in ("name", "key") if key in value), None)
        hides_value = "value" in value and _is_pair([named, value["value"]])
        return {
            storable(str(key)): HIDDEN
            if (item is not None and is_secret(str(key), item)) or (hides_value and key == "value")
            else document(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        if isinstance(value, list | tuple) and _is_pair(value):  # of a list of headers
            return [storable(value[0]), HIDDEN]
        return [document(item, depth + 1) for item in value]
    return storable(hide_secrets(str(value)))


def _is_pair(items: Sequence[Any]) -> bool:
    """Return true for the name of a secret and its value."""
    return len(items) == 2 and isinstance(items[0], str) and isinstance(items[1], str) and is_secret(*items)
