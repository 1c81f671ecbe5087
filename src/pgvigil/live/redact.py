"""Redact what must not be stored: secrets in parameters, messages and queries, values in error messages and, on
request, the literals of queries.

If the meaning of a text is uncertain, too much is hidden rather than too little. Every function takes time in
proportion to the text, whatever it contains: a text is cut into tokens from left to right, each pattern matches at a
given position without backtracking, and text that was searched for the end of a value is never searched again.

More than 400 lines: one scanner of SQL and JSON text, whose rules refer to each other.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterator, Sequence
from functools import lru_cache
from typing import Any, Final
from urllib.parse import unquote

HIDDEN: Final = "***"
_DEEPEST = 12
_LARGEST_BITS = 4096  # of an integer: Python refuses to print much more
_LONGEST_KEY = 200  # characters; longer words are not names

# For a name without its punctuation and capitals. A number under a key of tokens is a count of tokens.
_NAMES = (
    r"passw|passphrase|passcode|pwd|secret|credential|apikey|accesskey|privatekey|accountkey|encryptionkey|clientkey|serverkey"
    r"|signature|authorization|cookie|jwt"
)
_SECRET_KEY = re.compile(rf"{_NAMES}|^(?:pass|pw|auth|sig|bearer)$|(token)")
_SECRET_WORD = re.compile(rf"{_NAMES}|(token)")
_LAST_PART = re.compile(  # db_pass, app.pw, dbPass
    r"(?:(?:^|[^A-Za-z0-9])(?i:pass|pw|otp|auth|sig|bearer)|(?<=[a-z])(?:Pass|Pw|Otp|Auth|Sig|Bearer))[^A-Za-z0-9]*+$"
)

Span = tuple[int, int, str]  # start, end, and the replacement

# A text without any of these holds nothing to redact: this check takes a twentieth of the time of the functions below.
_SIGN = re.compile(
    r"pass|pwd|secret|token|credential|signature|authorization|cookie|bearer|basic|identified|://"
    r"|(?:api|access|private|account|encryption|client|server)[^a-z0-9]?key|jwt|(?:otp|pw|auth|sig)[^a-z]"
    r"|crypt|hmac|mysql|-u\s|--user|--proxy-user",
)

_ESCAPED = re.compile(r"(?<!\\)\\++(?:(?:u00|x|\+0000|00)([4-7][0-9a-fA-F])|(1[0-7]{2}))")
_ESCAPED_IN_URL = re.compile(r"[?&][\w.%-]++=")


def storable(text: str) -> str:
    """Return the text without what PostgreSQL cannot store: NUL, and halves of surrogate pairs."""
    if "\0" in text:
        text = text.replace("\0", "\ufffd")
    return text if text.isascii() else text.encode("utf-8", "replace").decode()


def _plain(text: str) -> str:
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

_WORD = re.compile(r"[\w-]++")
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
_OPENING = re.compile(r"""(?:[A-Za-z]&?)?(?P<quote>\\++["']|'++|"|`|[\u2018“„«])""")
_DOLLAR = re.compile(r"\$(?:[^\W\d]\w*+)?\$")
# A semicolon ends a value if a space, the end or the next name follows it: libpq has none, but a password may contain one.
_INSIDE = r";(?!\s|$|[A-Za-z]\w{0,30}(?: (?i:id|source|catalog|name|timeout|size|security|mode|info))?\s?=)"
_BARE = re.compile(rf"(?:{_INSIDE})?+[^\s;\\]*+(?:(?:\\.?|{_INSIDE})[^\s;\\]*+)*", re.DOTALL)
_BARE_IN_URL = re.compile(r"[^&#\s]*+")
_TO_SEMICOLON = re.compile(rf"[^;\n]{{1,500}}+(?=;)(?:{_INSIDE}[^\s;]*+)*")
_REST_OF_LINE = re.compile(r"[^\n]*+")
_FIRST_WORD = re.compile(r"\S*+")
_NUMBER_ONLY = re.compile(r"[-+]?[\d.]++(?![\w.])")
_USER_OF_WEB = re.compile(r"[^\s:/@?#'\"]++@")  # a token: https://ghp_s3cret@github.com
_USER = re.compile(r"://[^\s:/@]*+:")
_LOGIN = re.compile(r"""(?<=\s)(?:-u|--user|--proxy-user)[\s=]++[^\s:'"]++:([^\s'"]++)""")  # curl -u ada:s3cret
_MYSQL = re.compile(r"""(?<=\s)-p(?=([^\s'"]++))""")  # mysql -ps3cret
_SSHPASS = re.compile(r"""\bsshpass\s++-p\s*+(?=([^\s'"]++))""")
_BEARER = re.compile(r"\b(?:bearer|basic):?\s++(?=([\w.~+/=-]++))", re.IGNORECASE)
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
    if is_harmless(text := _plain(text)):
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


def _bearers(text: str) -> Iterator[Span]:
    for found in _BEARER.finditer(text):
        if len(found[1]) >= 8:
            yield found.start(1), found.end(1), HIDDEN
    for found in _LOGIN.finditer(text):
        yield found.start(1), found.end(1), HIDDEN
    for found in (*(_MYSQL.finditer(text) if "mysql" in text else ()), *_SSHPASS.finditer(text)):
        yield found.start(1), found.end(1), HIDDEN


def _in_text(text: str, begin: int, end: int) -> Iterator[Span]:
    """Yield values beside names such as `password`, between these positions."""
    at = begin
    while word := _WORD.search(text, at, end):
        at = word.end()
        kind = _name_kind(word[0])
        if kind is None and text[at : at + 1] == "=" and word.start() > begin and text[word.start() - 1] in "?&":
            kind = "secret" if word[0].casefold() in ("sig", "auth") else None
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
        if kind == "weak":
            if given and not _is_field(word[0], given[0], text[given.end() : given.end() + 1]):
                continue
            kind = "token"
        if given is None and word[0].startswith("-"):  # an option of a command, and its value as the next argument
            given = _SPACES.match(text, at, end)
        if given is None or given.end() >= end:
            continue
        at = given.end()
        for span in _value(text, at, end, kind, word[0].casefold(), in_url=in_url):
            yield span
            at = max(at, span[1])


def _is_field(word: str, given: str, then: str) -> bool:
    """Return true if a word of English, such as `pass` or `auth`, is the name of a value here: `first pass: 3 rows` has none."""
    return (
        word.lower() == "pw"
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


# --- queries ---------------------------------------------------------------------------------------------------------

# A string is read up to its end, or to the end of the text. The pattern never backtracks, because the end may be missing.
_PLAIN = r"[^{q}]*+(?:{q}{q}[^{q}]*+)*{q}?"
_BACKSLASH = r"[^{q}\\]*+(?:(?:\\.?|{q}{q})[^{q}\\]*+)*{q}?"
_COMMENT = r"--[^\n]*+|/\*[^*]*+(?:\*(?!/)[^*]*+)*(?:\*/)?"
_TAG = r"\$(?:[^\W\d]\w*+)?\$"


def _tokens(string: str) -> re.Pattern[str]:
    escaped, double, string = _BACKSLASH.format(q="'"), _BACKSLASH.format(q='"'), string.format(q="'")
    return re.compile(
        rf"(?P<space>\s++)|(?P<comment>{_COMMENT})|(?P<string>[eE]'{escaped}|(?:[bBxXnN]|[uU]&)?'{string}"
        rf"|\u2018[^\u2019]*+\u2019?|[“„][^”“]*+[”“]?|«[^»]*+»?)"
        rf'|(?P<dollar>{_TAG})|(?P<quoted>"{double}|`[^`]*+`?)|(?P<number>(?:\d|\.\d)[\w.]*+)|(?P<word>\w[\w$]*+)'
        r"|(?P<bracket>[(){}\[\],;])|(?P<operator>[^\w\s'\"`$(){}\[\],;/\u2018“„«-]++|.)",
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
_NAME_ALONE = re.compile(r"""(?:[A-Za-z]&?)?["'`$][\w$.:{},%-]*+["'`$]?""")
_QUALIFIED = re.compile(
    r"\s*+\((?:[\w$\s]++\.|\"[^\"]*+\"\s*+\.|[\w$]++)*+\s*+([^\w\s()\"]++)\s*+\)"
)  # OPERATOR(pg_catalog.=)
_OPENS = re.compile(r"\s*+\(")
_OPENS_BODY = re.compile(r"\s*+(?:(?:not\s++)?materialized\s*+)?\(", re.IGNORECASE)
_IS_DEFAULT = re.compile(r"\s++default\b", re.IGNORECASE)
_LEFT_OPEN = re.compile(r"""(?:\s*+(?:=>|:=|=|:)\s*+|\s++)["']*+(?:%|$)""")
_RUNS_TO_END = re.compile(r"\s*+=\s*+[^\s&;]*+$")  # 'password=s3' || 'cret'
_JOINS = re.compile(r"\s*+\|\|")
_USER_ALONE = re.compile(r"://[^\s:/@]*+:$")  # 'postgresql://u:' || 's3cret'
_DOUBLED = re.compile(r"''[^']++''")
# Calls with a name in one argument, or in a template, and its value in another one.
_PAIRING = frozenset(
    ["set_config", "jsonb_set", "jsonb_set_lax", "jsonb_insert", "jsonb_object", "json_object", "hstore", "jsonb_path_exists",
     "jsonb_path_query", "jsonb_path_match", "xmlelement", "nullif", "coalesce", "ifnull", "isnull", "nvl", "greatest", "least"]
)  # fmt: skip
_CIPHERS = frozenset(
    ["crypt", "hmac", "encrypt", "decrypt", "encrypt_iv", "decrypt_iv", "pgp_pub_decrypt", "pgp_pub_decrypt_bytea"]
    + [f"pgp_sym_{way}{of}" for way in ("encrypt", "decrypt") for of in ("", "_bytea")]
)  # fmt: skip
_OF_VALUES = frozenset(["value", "val", "setting", "content"])  # columns beside a column of names


def hide_secrets_of_query(query: str) -> str:
    """Redact a query: literals beside a name such as password, also in strings and comments, and passwords in URLs."""
    if is_harmless(query := _plain(query)):
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
    pending: str | None = None  # the kind of name inside the brackets before: lower(password) = 's3cret'
    literals: list[Span] = []
    first = 0  # the operand before is literals[first:]: followed by a name, after an operator, they are its values
    began = 0  # literals[began:] are those of this statement
    is_compared = False
    opened: list[tuple[int, bool]] = []  # for each bracket, `first` and `is_compared` before it
    compared: list[int] = []  # the `first` of those that were compared: ('ada', 's3cret') = (name, password)
    listed = 0  # the depth of brackets that list a name: (name, password)
    is_row = in_row = False  # after those brackets, or inside those of the values: = ('ada', 's3cret')
    previous = ""  # the previous word or operator
    verb = ""  # the first word of the statement
    sets = keyed = False  # after SET in a statement without columns; after key = 'password'
    calls: list[tuple[int, int]] = []  # calls of _PAIRING: their depth, and their first literal
    is_insert = has_secret_column = hides_all = False

    def hide_from(since: int) -> None:
        nonlocal first
        spans.extend(literals[since:])
        del literals[since:]  # none is looked at again
        first = min(first, since)

    while at < end and (found := tokens.match(query, at, end)):
        begin, at, kind, piece = at, found.end(), found.lastgroup, found[0]
        if kind == "space":
            continue
        if kind == "word" and piece.casefold() == "operator" and (qualified := _QUALIFIED.match(query, at, end)):
            at, kind, piece = qualified.end(), "operator", qualified[1]
        was_pending, pending = pending, None
        if kind == "comment":
            spans += _in_text(query, begin, at)
            pending = was_pending
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
                named = _named_string(query[begin:at])
            if (beside or hides_all or is_row) and not is_name:
                spans.append(span)
                by_string = False
            elif named:
                if is_compared or compared or previous == "as" or (kind == "quoted" and not previous):
                    hide_from(compared[-1] if compared else first)
                if kind != "quoted" and is_compared:
                    keyed = True
                    if verb == "update":
                        hide_from(began)
                listed = depth if kind == "quoted" else listed
                beside, beside_depth, by_string, between = named, depth, kind != "quoted", False
                if calls and kind != "quoted":
                    hide_from(calls[-1][1])
                    beside, beside_depth, in_row = "secret", calls[-1][0], True
                has_secret_column = has_secret_column or (is_insert and kind == "quoted")
            elif kind == "dollar" and nested < _NESTED:
                spans += _in_query(query, tokens, *inner, nested + 1)
            else:
                spans += _in_text(query, begin, at)
                if kind != "quoted" and (
                    mentioned := _mentioned(query, begin, at, is_joined=bool(_JOINS.match(query, at, end)))
                ):
                    spans += (
                        (pair.start(), pair.end(), HIDDEN) for pair in _DOUBLED.finditer(query, begin + 1, at - 1)
                    )
                    if mentioned == "value":
                        spans.append(span)
                    elif calls:
                        hide_from(calls[-1][1])
                        beside, beside_depth, in_row, by_string = "secret", calls[-1][0], True, False
                    elif mentioned == "open":
                        beside, beside_depth, in_row, by_string = "secret", depth, True, False
            if piece[0] == "`" or named:
                first = len(literals)
            else:
                literals.append(span)
            previous, is_compared, is_row = "", False, False
        elif kind == "number":
            span = begin, at, HIDDEN
            if hides_all or beside == "secret":
                spans.append(span)
            literals.append(span)
            previous, is_compared, is_row = "", False, False
        elif kind == "word":
            word = piece.casefold()
            verb = verb or word
            named = "secret" if word == "identified" else _name_kind(word)
            is_type = previous == "::"
            keeps = is_type or (
                previous in (")", "as") and word not in _ELSEWHERE and bool(_OPENS.match(query, at, end))
            )
            if keyed and not named and word in _OF_VALUES:
                named = "secret"
            if named:
                if is_compared or compared or is_type or previous == "as" or (not previous and word != "identified"):
                    hide_from(compared[-1] if compared else first)
                beside, beside_depth, by_string, between, listed = named, depth, False, False, depth
                if calls:
                    beside, beside_depth, in_row = "secret", calls[-1][0], True
                has_secret_column = has_secret_column or is_insert
                if query[at : at + 1] == "=" and (bare := _BARE_IN_QUERY.match(query, at + 1, end)):
                    if not (named != "secret" and _NUMBER_ONLY.fullmatch(bare[0])):
                        spans.append((bare.start(), bare.end(), HIDDEN))
                    at = bare.end()
            elif word in _CIPHERS and _OPENS.match(query, at, end):
                beside, beside_depth, by_string, in_row = "secret", depth + 1, False, True
            elif word in _PAIRING and _OPENS.match(query, at, end):
                calls.append((depth + 1, len(literals)))
            elif word in ("insert", "merge", "replace") and depth == 0:
                is_insert, has_secret_column, hides_all, beside = True, False, False, None
            else:
                if word in ("values", "select", "returning"):
                    hides_all = is_insert and has_secret_column and word != "returning"
                if word == "end" and verb != "do":  # CASE … THEN password END = 's3cret'
                    was_pending = pending = beside
                if beside and word in _ELSEWHERE and depth <= beside_depth:
                    is_part = (
                        (word == "and" and between)
                        or (word == "from" and previous == "distinct")
                        or (word == "for" and previous in ("password", "identified"))  # SET PASSWORD FOR ada = 's3cret'
                        or (word == "set" and verb == "alter" and bool(_IS_DEFAULT.match(query, at, end)))
                        or (word == "using" and verb == "alter")
                        or (word == "values" and in_row)
                    )
                    beside, between = (beside if is_part else None), False
                    in_row = in_row and is_part
                between = between or word == "between"
                sets = sets or (word == "set" and verb in ("set", "alter"))
                if sets and beside and not depth and previous in ("to", "=", "-") and word != "default":
                    spans.append((begin, at, HIDDEN))
                if was_pending and (_compares(word) or (word == "as" and _OPENS_BODY.match(query, at, end))):
                    beside, beside_depth = was_pending, depth
                elif is_type or previous == "collate" or word == "collate":
                    pending = was_pending
            if _compares(word):
                is_compared = True
            elif keeps and not is_type:
                is_compared = True  # … AS v (name, password): the brackets name what the operand holds
            elif (
                word != "as"
                and not is_type
                and query[at : at + 1] != "."
                and not (is_compared and _OPENS.match(query, at, end))
            ):
                first, is_compared = len(literals), False
            is_row = is_row and _compares(word)
            previous = word
        elif kind == "bracket":
            if piece in "([{":
                depth += 1
                opened.append((first, is_compared))
                if is_compared:
                    compared.append(first)
                first, is_compared = len(literals), False
                if is_row:
                    beside, beside_depth, in_row = "secret", depth, True
            elif piece in ")]}":
                depth -= 1
                if opened:
                    first, was_compared = opened.pop()
                    first = min(first, len(literals))
                    if was_compared:
                        compared.pop()
                while calls and depth < calls[-1][0]:
                    calls.pop()
                pending = was_pending
                if depth < beside_depth:
                    pending, beside, in_row = beside or was_pending, None, False
            elif piece == ";":
                depth, beside, is_insert, hides_all, in_row = 0, None, False, False, False
                verb, sets, keyed, began = "", False, False, len(literals)
                opened, compared, calls = [], [], []
            elif depth <= beside_depth and not in_row and not (verb == "set" and not depth):  # a comma
                beside, by_string = (beside if by_string else None), False
            is_row = piece in ")]}" and 0 <= depth < listed
            listed = 0 if is_row else listed
            if piece in ",;":
                first, is_compared = len(literals), False
            previous = piece
        else:
            if piece[0] == "." and previous:  # the piece taken for a name was the qualifier of one
                beside, listed = None, 0
            elif _compares(piece):
                is_compared = True
                if was_pending:
                    beside, beside_depth = was_pending, depth
            else:
                is_row = False
                pending = was_pending if piece == "::" else None
            previous = piece
    return spans


def _named_string(piece: str) -> str | None:
    """The kind of name that a string is: of a path in braces its last part counts, or any: '{db,password}'."""
    if "{" not in piece and "," not in piece:
        return _name_kind(piece)
    parts = [_name_kind(part) for part in re.split(r"[{},]", piece) if part.strip("'$")]
    if not any(parts):
        return None
    return parts[-1]  # '{password,s3cret}' holds a value, so it is not a name


def _mentioned(query: str, begin: int, end: int, *, is_joined: bool) -> str:
    """Return "open" if a string ends with a name that a value has to follow, or has a placeholder after one; "value" if it is an array with
    a name and its value; "name" for any other one with a name. `is_joined`: another string is appended to this one.
    """
    text = query[begin:end].strip("'$")
    if _USER_ALONE.search(text):
        return "open"
    found = ""
    for word in _WORD.finditer(text):
        if _name_kind(word[0]) in ("secret", "token"):
            if text[0] == "{" and text[word.end() : word.end() + 1] == ",":
                return "value"  # {password,s3cret}
            if _LEFT_OPEN.match(text, word.end()) or (is_joined and _RUNS_TO_END.match(text, word.end())):
                return "open"
            found = "name"
    return found


def _compares(word: str) -> bool:
    return word in _COMPARED or (bool(word) and not word.strip("=<>!~*"))


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
        named = next((value[key] for key in ("name", "key") if key in value), None)
        hides_value = "value" in value and _is_pair([named, value["value"]])
        return {
            storable(str(key)): HIDDEN
            if (item is not None and _is_secret(str(key), item)) or (hides_value and key == "value")
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
    return len(items) == 2 and isinstance(items[0], str) and isinstance(items[1], str) and _is_secret(*items)


def _is_secret(key: str, value: Any) -> bool:
    found = _secret_kind(key) if len(key) <= _LONGEST_KEY else _kind(_SECRET_KEY, key)
    return found == "secret" or (found is not None and not isinstance(value, int | float))


@lru_cache(maxsize=1_000)
def _secret_kind(key: str) -> str | None:
    return _kind(_SECRET_KEY, key)


def _name_kind(word: str) -> str | None:
    return _word_kind(word) if len(word) <= _LONGEST_KEY else _kind(_SECRET_WORD, word)


@lru_cache(maxsize=2_000)
def _word_kind(word: str) -> str | None:
    return _kind(_SECRET_WORD, word)


def _kind(pattern: re.Pattern[str], name: str) -> str | None:
    """Return "secret"; "token", beside which a number is a count; "weak" for what is a word of English, too; or None."""
    found = pattern.search(re.sub(r"[^a-z0-9]+", "", name.casefold()))
    if found is None:
        return "weak" if _LAST_PART.search(name) else None
    return "token" if found[1] else "secret"
