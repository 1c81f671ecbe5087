"""Redact queries: literals beside a name such as password, also in strings and comments, and passwords in URLs.

As in redact, a text is cut into tokens once, from left to right, in time in proportion to it.
"""

from __future__ import annotations

import re
from typing import Final

from pgvigil.live.literals import BACKSLASH, COMMENT, PLAIN, TAG
from pgvigil.live.redact import (
    HIDDEN,
    NUMBER_ONLY,
    WORD,
    Span,
    bearers,
    in_text,
    in_urls,
    is_harmless,
    replaced,
    unescaped,
)
from pgvigil.live.secret_names import LONGEST_KEY, name_kind


def _tokens(string: str) -> re.Pattern[str]:
    escaped, double, string = BACKSLASH.format(q="'"), BACKSLASH.format(q='"'), string.format(q="'")
    return re.compile(
        rf"(?P<space>\s++)|(?P<comment>{COMMENT})|(?P<string>[eE]'{escaped}|(?:[bBxXnN]|[uU]&)?'{string}"
        rf"|\u2018[^\u2019]*+\u2019?|[“„][^”“]*+[”“]?|«[^»]*+»?)"
        rf'|(?P<dollar>{TAG})|(?P<quoted>"{double}|`[^`]*+`?)|(?P<number>(?:\d|\.\d)[\w.]*+)|(?P<word>\w[\w$]*+)'
        r"|(?P<bracket>[(){}\[\],;])|(?P<operator>[^\w\s'\"`$(){}\[\],;/\u2018“„«-]++|.)",
        re.DOTALL,
    )


_STANDARD_TOKENS, _BACKSLASH_TOKENS = _tokens(PLAIN), _tokens(BACKSLASH)
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
_OF_CASE = frozenset(["when", "then", "else", "end", "and", "or"])
_BARE_IN_QUERY = re.compile(r"""[^\s;'"$%:?@&().,]++""")
_NAME_ALONE = re.compile(r"""(?:[A-Za-z]&?)?["'`$][\w$.:{},%-]*+["'`$]?""")
_QUALIFIED = re.compile(
    r"\s*+\((?>(?:[\w$\s]++\.|\"[^\"]*+\"\s*+\.|[\w$]++)*)\s*+([^\w\s()\"]++)\s*+\)"
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
    if is_harmless(query := unescaped(query)):
        return query
    spans = [*in_urls(query), *bearers(query), *_in_query(query, _STANDARD_TOKENS, 0, len(query))]
    if "\\'" in query:  # the end of a string depends on the engine: hide what is a secret under either reading
        spans += _in_query(query, _BACKSLASH_TOKENS, 0, len(query))
    return replaced(query, spans)


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
    cases = 0  # the CASE … END of a value: password = CASE WHEN x THEN 's3cret' END

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
            spans += in_text(query, begin, at)
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
            if at - begin <= LONGEST_KEY and _NAME_ALONE.fullmatch(query, begin, at):
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
                spans += in_text(query, begin, at)
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
            named = "secret" if word == "identified" else name_kind(word)
            is_type = previous == "::"
            keeps = is_type or (
                previous in (")", "as") and word not in _ELSEWHERE and bool(_OPENS.match(query, at, end))
            )
            if keyed and not named and word in _OF_VALUES:
                named = "secret"
            if named:
                if (
                    is_compared
                    or compared
                    or is_type
                    or previous in ("as", ")")
                    or (not previous and word != "identified")
                ):
                    hide_from(compared[-1] if compared else first)
                beside, beside_depth, by_string, between, listed = named, depth, False, False, depth
                if calls:
                    beside, beside_depth, in_row = "secret", calls[-1][0], True
                has_secret_column = has_secret_column or is_insert
                if query[at : at + 1] == "=" and (bare := _BARE_IN_QUERY.match(query, at + 1, end)):
                    if not (named != "secret" and NUMBER_ONLY.fullmatch(bare[0])):
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
                if word == "case" and (cases or (beside and _compares(previous))):
                    cases += 1
                if beside and word in _ELSEWHERE and depth <= beside_depth:
                    is_part = (
                        (cases > 0 and word in _OF_CASE)
                        or (word == "as" and previous == "always")  # GENERATED ALWAYS AS ('s3cret')
                        or (word == "and" and between)
                        or (word == "from" and previous == "distinct")
                        or (word == "for" and previous in ("password", "identified"))  # SET PASSWORD FOR ada = 's3cret'
                        or (word == "set" and verb == "alter" and bool(_IS_DEFAULT.match(query, at, end)))
                        or (word == "using" and verb == "alter")
                        or (word == "values" and in_row)
                    )
                    beside, between = (beside if is_part else None), False
                    in_row = in_row and is_part
                cases -= cases > 0 and word == "end"
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
                verb, sets, keyed, began, cases = "", False, False, len(literals), 0
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
        return name_kind(piece)
    parts = [name_kind(part) for part in re.split(r"[{},]", piece) if part.strip("'$")]
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
    for word in WORD.finditer(text):
        if name_kind(word[0]) in ("secret", "token"):
            if text[0] == "{" and text[word.end() : word.end() + 1] == ",":
                return "value"  # {password,s3cret}
            if _LEFT_OPEN.match(text, word.end()) or (is_joined and _RUNS_TO_END.match(text, word.end())):
                return "open"
            found = "name"
    return found


def _compares(word: str) -> bool:
    return word in _COMPARED or (bool(word) and not word.strip("=<>!~*"))
