"""Redact queries: literals beside a name such as password, also in strings and comments, and passwords in URLs.

As in redact_text, a text is cut into tokens once, from left to right, in time in proportion to it.

More than 400 lines, because one loop over the tokens holds all that is known at each of them.
"""

from __future__ import annotations

import re
from typing import Final

from pgvigil.live.literals import BACKSLASH, COMMENT, PLAIN, TAG
from pgvigil.live.query_words import (
    AFTER_BY,
    AFTER_PASSWORD,
    CIPHERS,
    COMPARED,
    ELSEWHERE,
    OF_CASE,
    OF_VALUES,
    PAIRING,
    ROLES,
    SHELLS,
    SIGNERS,
)
from pgvigil.live.redact_text import (
    HIDDEN,
    NUMBER_ONLY,
    WORD,
    Span,
    bearers,
    in_prose,
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
        rf'|(?P<parameter>\$\d++)|(?P<dollar>{TAG})|(?P<quoted>"{double}|`[^`]*+`?)|(?P<number>(?:\d|\.\d)[\w.]*+)|(?P<word>\w[\w$]*+)'
        r"|(?P<bracket>[(){}\[\],;])|(?P<operator>[^\w\s'\"`$(){}\[\],;/\u2018“„«-]++|.)",
        re.DOTALL,
    )


_STANDARD_TOKENS, _BACKSLASH_TOKENS = _tokens(PLAIN), _tokens(BACKSLASH)
_NESTED: Final = 3  # levels of nested bodies that are searched as queries; deeper ones are searched as text
_BARE_IN_QUERY = re.compile(r"""[^\s;'"$%:?@&().,]++""")
_NAME_ALONE = re.compile(r"""(?:[A-Za-z]&?)?["'`$][\w$.:{},%-]*+["'`$]?""")
_QUALIFIED = re.compile(
    r"\s*+\((?>(?:[\w$\s]++\.|\"[^\"]*+\"\s*+\.|[\w$]++)*)\s*+([^\w\s()\"]++)\s*+\)"
)  # OPERATOR(pg_catalog.=)
_OPENS = re.compile(r"\s*+\(")
_OPENS_COLUMNS = re.compile(
    r"\s*+\(\s*+(?!select|values|with|table|insert|update|delete|merge|execute)\w", re.IGNORECASE
)
_OPENS_BODY = re.compile(r"\s*+(?:(?:not\s++)?materialized\s*+)?\(", re.IGNORECASE)
_IS_DEFAULT = re.compile(r"\s++default\b", re.IGNORECASE)
_LEFT_OPEN = re.compile(r"""(?:\s*+(?:=>|:=|=|:)\s*+|\s++(?:is\s++)?)["']*+(?:%|\$\d|$)""", re.IGNORECASE)
_RUNS_TO_END = re.compile(r"\s*+=\s*+[^\s&;]*+$")  # 'password=s3' || 'cret'
_JOINS = re.compile(r"\s*+\|\|")
# A comment that only names the literal beside it: 's3cret' -- the password
_NAME_IN_COMMENT = re.compile(
    r"(?:--|/\*)\s*+(?:(?:the|this|is|an?|new|old|my|his|her|its|their)\s++)*([\w.]++)[\s.:*]*+/?", re.IGNORECASE
)
_KEY_OPERATOR = re.compile(r"(?:->>?|#>>?)\s*$")  # doc->>'password'
_KEY_TEST = re.compile(r"(?:\?[|&]?|#-|[^-]-)\s*$")  # doc ? 'password'
_USER_ALONE = re.compile(r"://[^\s:/@]*+:$")  # 'postgresql://u:' || 's3cret'
_PROGRAM = re.compile(r"""[^\w/]*+([\w./-]++)(?=\s)""")  # the name of a command, before its arguments
_DOUBLED = re.compile(r"''[^']++''")


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
    opened: list[tuple[int, bool, str | None]] = []  # for each bracket, `first`, `is_compared` and `held` before it
    held: str | None = None  # the kind of a name in these brackets: encode(digest(password, 'md5'), 'hex') = 's3cret'
    compared: list[int] = []  # the `first` of those that were compared: ('ada', 's3cret') = (name, password)
    listed = 0  # the depth of brackets that list a name: (name, password)
    is_row = in_row = False  # after those brackets, or inside those of the values: = ('ada', 's3cret')
    previous = ""  # the previous word or operator
    verb = second_word = ""  # the first words of the statement
    sets = keyed = False  # after SET in a statement without columns; after key = 'password'
    calls: list[tuple[int, int]] = []  # calls of PAIRING: their depth, and their first literal
    is_insert = has_secret_column = hides_all = False
    insert_depth = 0
    has_body = False  # after VALUES or SELECT: the names before were those of columns
    around: list[tuple[bool, bool, bool, int]] = []  # the same of the statements around: WITH x AS (INSERT …)
    is_table = False  # CREATE TABLE or VIEW, whose columns may be named in brackets before AS
    is_role = is_identified = False  # CREATE ROLE and the like; after IDENTIFIED
    is_prepared = False  # an earlier statement of the text is PREPARE with such a name
    names = False  # this statement has such a name
    cases = 0  # the CASE … END of a value: password = CASE WHEN x THEN 's3cret' END
    before_case: list[int] = []  # the `first` of each CASE
    first_of_case: int | None = None
    is_of_case = False  # between CASE and WHEN
    in_type = False  # after ::
    named_before = opened_before = mentioned_before = False  # the token before is a string that is, or has, such a name

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
            if (remark := _NAME_IN_COMMENT.fullmatch(query, begin, at)) and name_kind(remark[1]):
                opens = previous in ("(", ",", "[") or _compares(previous)
                if opens and (piece[0] == "/" or not query[query.rfind("\n", 0, begin) + 1 : begin].strip()):
                    beside, beside_depth, by_string = "secret", depth, False
                elif previous in ("", ")", "]"):
                    hide_from(first)
                elif previous == "," and literals:
                    hide_from(len(literals) - 1)
            continue
        was_named, was_open, has_mentioned = named_before, opened_before, mentioned_before
        named_before = opened_before = mentioned_before = False
        was_type = in_type and kind == "quoted" and previous not in ("::", ".")
        if kind not in ("word", "bracket") and piece != ".":
            in_type = piece == "::"
        if kind == "parameter":
            previous, is_compared, is_row = "", False, False
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
            if named and kind != "quoted" and _KEY_TEST.search(query, max(begin - 8, 0), begin):
                named = None  # doc ? 'password': no value follows
                is_compared = False
            if (beside or hides_all or is_row) and not is_name:
                spans.append(span)
                by_string = False
            elif previous in SHELLS and kind != "quoted":
                program = _PROGRAM.match(query, inner[0] if kind == "dollar" else begin, at)
                spans.append((begin, at, f"'{program[1]} {HIDDEN}'" if program else span[2]))
            elif named:
                names, held = True, named
                is_key = kind != "quoted" and bool(_KEY_OPERATOR.search(query, max(begin - 8, 0), begin))
                if is_compared or compared or previous == "as" or (kind == "quoted" and (not previous or was_type)):
                    hide_from(compared[-1] if compared else first)
                if kind != "quoted" and (is_compared or compared) and not is_key:
                    keyed = True
                    if verb == "update":
                        hide_from(began)
                listed = depth if kind == "quoted" else listed
                beside, beside_depth, by_string, between = named, depth, kind != "quoted" and not is_key, False
                named_before = True
                if calls and kind != "quoted":
                    hide_from(calls[-1][1])
                    beside, beside_depth, in_row = "secret", calls[-1][0], True
                has_secret_column = has_secret_column or (
                    kind == "quoted" and ((is_insert and not has_body) or (is_table and depth > 0))
                )
            elif kind == "dollar" and nested < _NESTED:
                spans += [*_in_query(query, tokens, *inner, nested + 1), *in_prose(query, *inner)]
            else:
                spans += in_text(query, begin, at)
                if kind != "quoted" and (
                    mentioned := _mentioned(query, begin, at, is_joined=bool(_JOINS.match(query, at, end)))
                ):
                    spans += (
                        (pair.start(), pair.end(), HIDDEN) for pair in _DOUBLED.finditer(query, begin + 1, at - 1)
                    )
                    mentioned_before, opened_before = True, mentioned == "open"
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
            if hides_all or beside in ("secret", "weak"):  # beside a token it is a count
                spans.append(span)
            literals.append(span)
            previous, is_compared, is_row = "", False, False
        elif kind == "word":
            word = piece.casefold()
            second, verb = bool(verb) and not second_word, verb or word
            if second:
                second_word = word
                is_role = verb in ("create", "alter") and word in ROLES
            named = "secret" if word == "identified" else name_kind(word)
            is_type = in_type and previous in ("::", ".")
            was_type, in_type = in_type and not is_type, is_type
            keeps = is_type or (
                previous in (")", "as") and word not in ELSEWHERE and bool(_OPENS.match(query, at, end))
            )
            if keyed and not named and word in OF_VALUES:
                named = "secret"
            if named:
                if (
                    is_compared
                    or compared
                    or is_type
                    or was_type
                    or previous in ("as", ")", "]", "end")
                    or (not previous and word != "identified" and not is_role)
                ):
                    hide_from(compared[-1] if compared else first)
                beside, beside_depth, by_string, between, listed = named, depth, False, False, depth
                if calls:
                    beside, beside_depth, in_row = "secret", calls[-1][0], True
                has_secret_column = has_secret_column or (is_insert and not has_body) or (is_table and depth > 0)
                cases += is_of_case
                is_of_case = False
                names, held, is_identified = True, named, is_identified or word == "identified"
                if query[at : at + 1] == "=" and (bare := _BARE_IN_QUERY.match(query, at + 1, end)):
                    if not (named != "secret" and NUMBER_ONLY.fullmatch(bare[0])):
                        spans.append((bare.start(), bare.end(), HIDDEN))
                    at = bare.end()
            elif word in CIPHERS and _OPENS.match(query, at, end):
                beside, beside_depth, by_string, in_row = "secret", depth + 1, False, True
            elif word in SIGNERS and _OPENS.match(query, at, end):
                beside, beside_depth, by_string, in_row = "token", depth + 1, False, True
            elif word in PAIRING and _OPENS.match(query, at, end):
                calls.append((depth + 1, len(literals)))
            elif (
                _begins_insert(word, verb)
                and (verb == "merge" or not _OPENS.match(query, at, end))
                and not is_identified
            ):
                if is_insert and insert_depth < depth:
                    around.append((is_insert, has_secret_column, hides_all, insert_depth))
                is_insert, has_secret_column, hides_all, insert_depth, beside = True, False, False, depth, None
                has_body = False
            else:
                if is_insert and word in ("values", "select", "returning"):
                    hides_all, has_body = has_secret_column and word != "returning", True
                elif word == "conflict" and previous == "on":
                    is_insert = hides_all = False
                elif word in ("table", "view") and verb == "create" and not depth:
                    is_table = True
                elif word == "as" and is_table and not depth:
                    is_table, hides_all = False, has_secret_column
                elif word == "execute" and is_prepared and verb == word:
                    hides_all = True
                elif word == "passing" and has_mentioned:
                    beside, beside_depth, by_string, in_row = "secret", depth, False, True
                if (is_identified and previous in ("by", "replace") and word not in AFTER_BY) or (
                    is_role and (previous == "password" or (beside and previous == "=")) and word not in AFTER_PASSWORD
                ):
                    spans.append((begin, at, HIDDEN))
                if word == "end" and verb != "do":  # CASE … THEN password END = 's3cret'
                    was_pending = pending = beside
                if word == "case":
                    before_case.append(first)
                    is_of_case = True
                    if cases or (beside and _compares(previous)):
                        cases += 1
                if beside and word in ELSEWHERE and depth <= beside_depth:
                    is_part = (
                        (cases > 0 and word in OF_CASE)
                        or (word == "as" and previous == "always")  # GENERATED ALWAYS AS ('s3cret')
                        or (word == "and" and between)
                        or (word == "from" and previous == "distinct")
                        or (word == "for" and previous in ("password", "identified"))  # SET PASSWORD FOR ada = 's3cret'
                        or (word == "set" and verb == "alter" and bool(_IS_DEFAULT.match(query, at, end)))
                        or (word == "using" and verb == "alter")
                        or (word == "values" and (in_row or previous == "by"))
                        or (word == "select" and in_row and previous == "(")
                        or (word == "using" and was_open)
                        or (word == "then" and was_named)
                    )
                    beside, between = (beside if is_part else None), False
                    in_row = in_row and is_part
                cases -= cases > 0 and word == "end"
                is_of_case = is_of_case and word != "when"
                if verb == "comment" and word == "is":
                    beside = None  # the comment is searched like any text
                if word == "end" and before_case:
                    first_of_case = before_case.pop()
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
            elif (keeps and not is_type) or (word == "as" and previous == ")" and _OPENS_COLUMNS.match(query, at, end)):
                is_compared = True  # … AS v (name, password): the brackets name what the operand holds
            elif word == "end" and first_of_case is not None:
                first, is_compared, first_of_case = min(first_of_case, len(literals)), False, None
            elif (
                word != "as"
                and not is_type
                and not (
                    is_compared and _compares(previous)
                )  # the operand that is compared with: 's3cret' = u.password
                and query[at : at + 1] != "."
                and not (is_compared and _OPENS.match(query, at, end))
            ):
                first, is_compared = len(literals), False
            is_row = is_row and _compares(word)
            previous = word
        elif kind == "bracket":
            if piece in "([{":
                depth += 1
                opened.append((first, is_compared, held))
                held = None
                if is_compared:
                    compared.append(first)
                first, is_compared = len(literals), False
                if is_row:
                    beside, beside_depth, in_row = "secret", depth, True
            elif piece in ")]}":
                depth -= 1
                inside = held
                if opened:
                    first, was_compared, held = opened.pop()
                    held = held or inside
                    first = min(first, len(literals))
                    if was_compared:
                        compared.pop()
                while calls and depth < calls[-1][0]:
                    calls.pop()
                pending = was_pending
                if depth < beside_depth:
                    pending, beside, in_row = beside or was_pending, None, False
                pending = pending or inside
                while is_insert and depth < insert_depth:
                    is_insert, has_secret_column, hides_all, insert_depth = (
                        around.pop() if around else (False, False, False, 0)
                    )
            elif piece == ";":
                depth, beside, is_insert, hides_all, in_row = 0, None, False, False, False
                is_prepared = is_prepared or (verb == "prepare" and names)
                verb, second_word, sets, keyed, began, cases = "", "", False, False, len(literals), 0
                is_table = is_role = is_identified = names = has_secret_column = False
                opened, compared, calls, before_case, around, held = [], [], [], [], [], None
            elif depth <= beside_depth and not in_row and not (verb == "set" and not depth):  # a comma
                beside, by_string = (beside if by_string else None), False
            is_row = piece in ")]}" and 0 <= depth < listed
            listed = 0 if is_row else listed
            if piece in ",;":
                first, is_compared = len(literals), False
            previous = piece
        else:
            if piece[0] == "." and previous and not in_row:  # the piece taken for a name was the qualifier of one
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


def _begins_insert(word: str, verb: str) -> bool:
    return word in ("insert", "merge") or (word == "replace" and verb not in ("create", "alter"))


def _compares(word: str) -> bool:
    return word in COMPARED or (bool(word) and not word.strip("=<>!~*"))
