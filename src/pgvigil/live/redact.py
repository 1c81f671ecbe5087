"""Redacts what must not be stored: secrets in parameters, messages and queries, values in error messages and, on request,
the literals of queries.

If the meaning of a text is uncertain, too much is hidden rather than too little. Every function takes time in proportion
to the text, whatever it contains: a text is cut into tokens from left to right, each pattern matches at a given position without
backtracking, and text that was searched for the end of a value is never searched again.

More than 400 lines: one scanner of SQL and JSON text, whose rules refer to each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator
from functools import lru_cache
from typing import Any, Final

HIDDEN: Final = "***"
_DEEPEST = 12
_LARGEST_BITS = 4096  # of an integer: Python refuses to print much more
_LONGEST_KEY = 200  # characters; longer words are not names

# For a name without its punctuation and capitals. A number under a key of tokens is a count of tokens.
_NAMES = (
    r"passw|passphrase|passcode|pwd|secret|credential|apikey|accesskey|privatekey|accountkey|encryptionkey|clientkey|serverkey"
    r"|signature|authorization|cookie"
)
_SECRET_KEY = re.compile(rf"{_NAMES}|^(?:pass|pw|auth|sig|jwt|bearer)$|(token)")
_SECRET_WORD = re.compile(rf"{_NAMES}|(token)")

Span = tuple[int, int, str]  # start, end, and the replacement

# A text without any of these holds nothing to redact: this check takes a twentieth of the time of the functions below.
_SIGN = re.compile(
    r"pass|pwd|secret|token|credential|signature|authorization|cookie|bearer|basic|identified|://"
    r"|(?:api|access|private|account|encryption|client|server)[^a-z0-9]?key",
)


def storable(text: str) -> str:
    """Return the text without what PostgreSQL cannot store: NUL, and halves of surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _is_harmless(text: str) -> bool:
    # All need more than a word; and re.IGNORECASE takes more letters than a to z for an s or a k.
    return text.isalnum() or (text.isascii() and not _SIGN.search(text.lower()))


# --- messages and connection strings ---------------------------------------------------------------------------------

_WORD = re.compile(r"[\w-]++")
_SPACES = re.compile(r"\s++")
_IS_GIVEN = re.compile(r"""(?:\\*+["'`])?[\])]?\s*+(?:=>|:=|==?|:)\s*+""")  # between a name and its value
_IS_QUOTED = re.compile(
    r"""\s++(?=(?:[A-Za-z]&?)?\\*+["'`])"""
)  # PASSWORD 's3cret', in a message that repeats a statement
_OPENING = re.compile(r"""(?:[A-Za-z]&?)?(?P<quote>\\++["']|'++|"|`)""")
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*+)?\$")
_BARE = re.compile(r"[^\s;\\]*+(?:\\.?[^\s;\\]*+)*", re.DOTALL)
_BARE_IN_URL = re.compile(r"[^&#\s]*+")
_TO_SEMICOLON = re.compile(r"[^;\n]{0,500}+(?=;)")
_REST_OF_LINE = re.compile(r"[^\n]*+")
_FIRST_WORD = re.compile(r"\S*+")
_NUMBER_ONLY = re.compile(r"[-+]?[\d.]++(?![\w.])")
_USER = re.compile(r"://[^\s:/@]*+:")
_BEARER = re.compile(r"\b(?:bearer|basic)\s++(?=([\w.~+/=-]++))", re.IGNORECASE)
_BRACKET = re.compile(r"""[\[\](){}]|"[^"\\]*+(?:\\.?[^"\\]*+)*"?|'[^'\\]*+(?:\\.?[^'\\]*+)*'?""", re.DOTALL)
_REST_OF = {
    mark: re.compile(rf"[^{mark}\\]*+(?:(?:\\.?|{mark}{mark})[^{mark}\\]*+)*{mark}?", re.DOTALL) for mark in "\"'`"
}


def hide_secrets(text: str) -> str:
    """Redact a message or a connection string: passwords in URLs, `password=…`, `token: …`, bearer tokens become ***."""
    if _is_harmless(text):
        return text
    return _replaced(text, [*_in_urls(text), *_bearers(text), *_in_text(text, 0, len(text))])


def _replaced(text: str, spans: list[Span]) -> str:
    pieces, at = [], 0
    for begin, end, instead in sorted(spans):
        if begin >= at:
            pieces += [text[at:begin], instead]
        at = max(at, end)
    return "".join([*pieces, text[at:]]) if pieces else text


def _in_urls(text: str) -> Iterator[Span]:
    at = 0
    while (at := text.find("://", at)) >= 0:
        user = _USER.match(text, at) if at and (text[at - 1].isalnum() or text[at - 1] in "+.-") else None
        at += 3
        if user is None:
            continue
        run = _FIRST_WORD.match(text, user.end())
        end = run.end() if run else user.end()
        last = text.rfind("@", user.end(), end)
        if last > user.end():
            yield user.end(), last, HIDDEN
        at = max(end if last < 0 else last, at)  # no @ follows in this run, so none of its addresses has a password


def _bearers(text: str) -> Iterator[Span]:
    for found in _BEARER.finditer(text):
        if len(found[1]) >= 8:
            yield found.start(1), found.end(1), HIDDEN


def _in_text(text: str, begin: int, end: int) -> Iterator[Span]:
    """Yield values beside names such as `password`, between these positions."""
    at = begin
    while word := _WORD.search(text, at, end):
        at = word.end()
        kind = _name_kind(word[0])
        if kind is None:
            continue
        given = _IS_GIVEN.match(text, at, end) or _IS_QUOTED.match(text, at, end)
        if given is None and word[0].startswith("-"):  # an option of a command, and its value as the next argument
            given = _SPACES.match(text, at, end)
        if given is None or given.end() >= end:
            continue
        at = given.end()
        in_url = word.start() > begin and text[word.start() - 1] in "?&"
        for span in _value(text, at, end, kind, word[0].casefold(), in_url=in_url):
            yield span
            at = max(at, span[1])


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
    elif kind == "token" and _NUMBER_ONLY.match(text, at, end):
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
        place = text.find(quote, at, end)
        return end if place < 0 else place + len(quote)
    return _end(_REST_OF[quote[0]], text, at, end)


def _balanced(text: str, at: int, end: int) -> int:
    depth = 0
    for found in _BRACKET.finditer(text, at, end):
        depth += {"[": 1, "(": 1, "{": 1, "]": -1, ")": -1, "}": -1}.get(found[0], 0)
        if depth == 0:
            return found.end()
    return end


# --- queries ---------------------------------------------------------------------------------------------------------

# A string is read up to its end, or to the end of the text. The pattern never backtracks, because the end may be missing.
_PLAIN = r"[^{q}]*+(?:{q}{q}[^{q}]*+)*{q}?"
_BACKSLASH = r"[^{q}\\]*+(?:(?:\\.?|{q}{q})[^{q}\\]*+)*{q}?"
_COMMENT = r"--[^\n]*+|/\*[^*]*+(?:\*(?!/)[^*]*+)*(?:\*/)?"
_TAG = r"\$(?:[^\W\d]\w*+)?\$"


def _tokens(string: str) -> re.Pattern[str]:
    escaped, double, string = _BACKSLASH.format(q="'"), _BACKSLASH.format(q='"'), string.format(q="'")
    return re.compile(
        rf"(?P<space>\s++)|(?P<comment>{_COMMENT})|(?P<string>[eE]'{escaped}|(?:[bBxXnN]|[uU]&)?'{string})"
        rf'|(?P<dollar>{_TAG})|(?P<quoted>"{double}|`[^`]*+`?)|(?P<number>(?:\d|\.\d)[\w.]*+)|(?P<word>\w[\w$]*+)'
        r"|(?P<bracket>[(){}\[\],;])|(?P<operator>[^\w\s'\"`$(){}\[\],;/-]++|.)",
        re.DOTALL,
    )


_STANDARD_TOKENS, _BACKSLASH_TOKENS = _tokens(_PLAIN), _tokens(_BACKSLASH)
_NESTED: Final = 3  # levels of nested bodies that are searched as queries; deeper ones are searched as text
_COMPARED = frozenset(
    ["like", "ilike", "in", "not", "any", "all", "some", "similar", "to", "is", "between", "rlike", "regexp", "glob"]
)
# These words begin another part of a statement, and what follows no longer belongs to the name.
_ELSEWHERE = frozenset(
    [
        "and",
        "or",
        "from",
        "where",
        "select",
        "insert",
        "update",
        "delete",
        "order",
        "group",
        "having",
        "limit",
        "offset",
        "join",
        "on",
        "returning",
        "then",
        "when",
        "else",
        "end",
        "set",
        "values",
        "as",
        "valid",
        "using",
        "union",
        "into",
        "window",
        "fetch",
        "for",
    ]
)
_BARE_IN_QUERY = re.compile(r"""[^\s;'"$%:?@&().,]++""")
_NAME_ALONE = re.compile(r"""(?:[A-Za-z]&?)?["'`$][\w$.:-]*+["'`$]?""")


def hide_secrets_of_query(query: str) -> str:
    """Redact a query: literals beside a name such as password, also in strings and comments, and passwords in URLs."""
    if _is_harmless(query):
        return query
    spans = [*_in_urls(query), *_bearers(query), *_in_query(query, _STANDARD_TOKENS, 0, len(query))]
    if "\\'" in query:  # the end of a string depends on the engine: hide what is a secret under either reading
        spans += _in_query(query, _BACKSLASH_TOKENS, 0, len(query))
    return _replaced(query, spans)


def _in_query(query: str, tokens: re.Pattern[str], at: int, end: int, nested: int = 0) -> list[Span]:
    spans: list[Span] = []
    depth = 0
    beside: str | None = None  # the kind of name that literals are beside now, …
    beside_depth = 0  # … within so many brackets, …
    by_string = False  # … and true if that name was a string, before a comma: set_config('app.password', 's3cret')
    between = False
    before: Span | None = None  # a literal, followed by at most …
    is_compared = False  # … an operator, and the qualifier of a name: 's3cret' = t.password
    listed = 0  # the depth of brackets that list a name: (name, password)
    is_row = in_row = False  # after those brackets, or inside those of the values: = ('ada', 's3cret')
    previous = ""  # the previous word or operator
    is_insert = has_secret_column = hides_all = False
    while at < end and (found := tokens.match(query, at, end)):
        begin, at, kind, piece = at, found.end(), found.lastgroup, found[0]
        if kind == "space":
            continue
        if kind == "comment":
            spans += _in_text(query, begin, at)
        elif kind in ("string", "dollar", "quoted"):
            inner = at, at
            if kind == "dollar":
                close = query.find(piece, at, end)
                inner, at = (at, end if close < 0 else close), end if close < 0 else close + len(piece)
            is_name = kind == "quoted" and (
                piece[0] == "`" or not (hides_all or (beside and previous and previous not in (".", "as")))
            )
            quote = '"' if piece[0] == '"' else "'"
            span = begin, at, f"{quote}{HIDDEN}{quote}"
            named = None
            if at - begin <= _LONGEST_KEY and _NAME_ALONE.fullmatch(query, begin, at):
                named = _name_kind(query[begin:at])
            if (beside or hides_all or is_row) and not is_name:
                spans.append(span)
                by_string = False
            elif named:
                if before and (is_compared or previous == "as"):
                    spans.append(before)
                listed = depth if kind == "quoted" else listed
                beside, beside_depth, by_string, between = named, depth, kind != "quoted", False
                has_secret_column = has_secret_column or (is_insert and kind == "quoted")
            elif kind == "dollar" and nested < _NESTED:
                spans += _in_query(query, tokens, *inner, nested + 1)
            else:
                spans += _in_text(query, begin, at)
            before, previous, is_compared, is_row = (None if piece[0] == "`" else span), "", False, False
        elif kind == "number":
            span = begin, at, HIDDEN
            if hides_all or beside == "secret":
                spans.append(span)
            before, previous, is_compared, is_row = span, "", False, False
        elif kind == "word":
            word = piece.casefold()
            named = "secret" if word == "identified" else _name_kind(word)
            if named:
                if before and (is_compared or previous == "as"):
                    spans.append(before)
                beside, beside_depth, by_string, between, listed = named, depth, False, False, depth
                has_secret_column = has_secret_column or is_insert
                if query[at : at + 1] == "=" and (bare := _BARE_IN_QUERY.match(query, at + 1, end)):
                    if not (named == "token" and _NUMBER_ONLY.fullmatch(bare[0])):
                        spans.append((bare.start(), bare.end(), HIDDEN))
                    at = bare.end()
            elif word in ("insert", "merge", "replace") and depth == 0:
                is_insert, has_secret_column, hides_all, beside = True, False, False, None
            else:
                if word in ("values", "select", "returning"):
                    hides_all = is_insert and has_secret_column and word != "returning"
                if beside and word in _ELSEWHERE and depth <= beside_depth:
                    is_part = (
                        (word == "and" and between)
                        or (word == "from" and previous == "distinct")
                        or (word == "for" and previous in ("password", "identified"))  # SET PASSWORD FOR ada = 's3cret'
                    )
                    beside, between = (beside if is_part else None), False
                between = between or word == "between"
            if _compares(word):
                is_compared = True
            elif word != "as" and query[at : at + 1] != ".":
                before, is_compared = None, False
            is_row = is_row and _compares(word)
            previous = word
        elif kind == "bracket":
            if piece in "([{":
                depth += 1
                if is_row:
                    beside, beside_depth, in_row = "secret", depth, True
            elif piece in ")]}":
                depth -= 1
                if depth < beside_depth:
                    beside, in_row = None, False
            elif piece == ";":
                depth, beside, is_insert, hides_all, in_row = 0, None, False, False, False
            elif depth <= beside_depth and not in_row:  # a comma
                beside, by_string = (beside if by_string else None), False
            is_row = piece in ")]}" and 0 <= depth < listed
            listed = 0 if is_row else listed
            before, previous = (None if piece in ",;" else before), piece
        else:
            if piece[0] == "." and previous:  # the piece taken for a name was the qualifier of one
                beside, listed = None, 0
            elif _compares(piece):
                is_compared = True
            else:
                is_row = False
            previous = piece
    return spans


def _compares(word: str) -> bool:
    return word in _COMPARED or (bool(word) and not word.strip("=<>!~*"))


# --- values in error messages ----------------------------------------------------------------------------------------

_QUOTES = {'"': '"', "'": "'", "»": "«", "„": "“", "«": "»", "“": "”", "`": "'", "「": "」", "『": "』"}
_ANY_QUOTE = re.compile("[\"'»„«“`「『]")
_BYTES = re.compile(r"\b0x[0-9a-fA-F]{2}(?:\s0x[0-9a-fA-F]{2})*+")
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


# --- literals --------------------------------------------------------------------------------------------------------

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
    rf"(?P<kept>{_COMMENT}|\"{_PLAIN.format(q=chr(34))})"
    rf"|[eE]'{_BACKSLASH.format(q=chr(39))}|(?:[bBxXnN]|[uU]&)?'{_PLAIN.format(q=chr(39))}"
    rf"|(?P<dollar>{_TAG})|{_NUMBER}|(?P<plain>{_NO_LITERAL})",
    re.DOTALL,
)
_OTHER_LITERALS = re.compile(
    rf"(?P<kept>{_COMMENT}|`[^`]*+`?)|'{_BACKSLASH.format(q=chr(39))}|\"{_BACKSLASH.format(q=chr(34))}"
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
        return {
            storable(str(key)): HIDDEN if item is not None and _is_secret(str(key), item) else document(item, depth + 1)
            for key, item in value.items()
        }
    if isinstance(value, list | tuple | set | frozenset):
        return [document(item, depth + 1) for item in value]
    return storable(hide_secrets(str(value)))


def _is_secret(key: str, value: Any) -> bool:
    found = _secret_kind(key) if len(key) <= _LONGEST_KEY else _kind(_SECRET_KEY, key)
    return found == "secret" or (found == "token" and not isinstance(value, int | float))


@lru_cache(maxsize=1_000)
def _secret_kind(key: str) -> str | None:
    return _kind(_SECRET_KEY, key)


def _name_kind(word: str) -> str | None:
    return _word_kind(word) if len(word) <= _LONGEST_KEY else _kind(_SECRET_WORD, word)


@lru_cache(maxsize=2_000)
def _word_kind(word: str) -> str | None:
    return _kind(_SECRET_WORD, word)


def _kind(pattern: re.Pattern[str], name: str) -> str | None:
    found = pattern.search(re.sub(r"[^a-z0-9]+", "", name.casefold()))
    return None if found is None else "token" if found[1] else "secret"
