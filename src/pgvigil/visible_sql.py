r"""Print SQL so that every character can be seen, and the script still means the same: a name becomes U&"a\200bb", a string E'a\u200bb'."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Final, TextIO

from pgvigil.text import COMMAND_AHEAD, KNOWN_COMMAND, UNSEEN, Guarded, spelt_out, trusted, unicode_escape

# As the server's lexer: every character beyond ASCII belongs to a word, and none is a space.
_WORD: Final = r"[A-Za-z_\x80-\U0010ffff][\w$\x80-\U0010ffff]*+"
_AND_ON: Final = (
    r"''|'[ \t\r\f\v]*+\n\s*+'"  # within a string: a quote, and the end of one part where another one follows
)
# (?>…) and not )*+ around alternatives: these match wrongly in Python 3.11 before 3.11.5, which Debian 12 has.
_TOKEN: Final = re.compile(
    rf"""
      (?P<comment>--[^\n\r]*+)
    | (?P<block>/\*)
    | (?P<dollar>\$(?:[A-Za-z_\x80-\U0010ffff][A-Za-z0-9_\x80-\U0010ffff]*+)?\$)
    | (?P<unicode>[uU]&(?:'(?>(?:[^']|'')*)'|"(?>(?:[^"]|"")*)"))
    | (?P<escape>[eE]'(?>(?:[^'\\]|\\.|{_AND_ON})*)')
    | (?P<string>[nN]?'(?>(?:[^']|{_AND_ON})*)')
    | (?P<quoted>"(?>(?:[^"]|"")*)")
    | (?P<word>{_WORD})
    | (?P<space>[ \t\n\r\f\v]++)
    | (?P<other>\.?[0-9][\w.]*+|.)
    """,
    re.VERBOSE | re.DOTALL,
)
_PAIR: Final = re.compile(r"\\(.)", re.DOTALL)
_PARTS: Final = re.compile(r"''|'([ \t\r\f\v]*+\n\s*+)'")
_EDGE: Final = re.compile(r"/\*|\*/")
_UESCAPE: Final = re.compile(r"\s*+uescape\s*+'([^'])'", re.IGNORECASE)
# What a script would lose otherwise: a character, or a line that a CI system obeys.
_LOST: Final = re.compile(rf"{UNSEEN.pattern}|\n{COMMAND_AHEAD}", re.IGNORECASE)


def print_sql(script: str, stream: TextIO, *, end: str = "\n") -> None:
    """Print SQL unchanged to a file, elsewhere with every character visible, and without a line that commands a CI system."""
    print(visible_sql(script) if isinstance(stream, Guarded) else script, end=end, file=trusted(stream))


def visible_sql(script: str) -> str:
    """Return a script with the same meaning in visible characters. In other text, too, every character is visible."""
    if not UNSEEN.search(script) and not KNOWN_COMMAND.search(script):
        return script
    return KNOWN_COMMAND.sub("/**/", "".join(_visible_tokens(script.removeprefix("\ufeff"))))


def _visible_tokens(script: str) -> Iterator[str]:
    at = 0
    while found := _TOKEN.match(script, at):
        begin, at, kind = found.start(), found.end(), found.lastgroup
        if kind == "block":
            at = _end_of_comment(script, at)
        elif kind == "dollar":
            close = script.find(found[0], at)
            body = script[at : max(close, at)]
            at = len(script) if close < 0 else close + len(found[0])
            if _LOST.search(body):
                yield "E'" + _LOST.sub(_in_string, body.replace("\\", "\\\\").replace("'", "''")) + "'"
                continue
        piece = script[begin:at]
        if kind == "space":
            piece = re.sub(r"\r\n?", "\n", piece).replace("\f", " ").replace("\v", " ")
        elif _LOST.search(piece):
            piece = spelt_out(_rewritten(kind, piece, script, at))
        yield piece


def _rewritten(kind: str | None, piece: str, script: str, at: int) -> str:
    if kind == "string":
        prefix, quote, rest = piece.partition("'")
        rest = _PARTS.sub(lambda found: "'\n'" if found[1] else found[0], rest).replace("\\", "\\\\")
        return ("nchar " if prefix else "") + f"E{quote}{_LOST.sub(_in_string, rest)}"
    if kind == "escape":
        return _LOST.sub(
            _in_string, _PAIR.sub(lambda pair: pair[1] if pair[1] == "\n" or UNSEEN.match(pair[1]) else pair[0], piece)
        )
    if kind == "quoted":
        return f"U&{unicode_escape(piece)}"
    if kind == "word":  # the server folds letters of ASCII alone
        return 'U&"' + unicode_escape(re.sub("[A-Z]+", lambda letters: letters[0].lower(), piece)) + '"'
    if kind == "unicode":
        escape = _UESCAPE.match(script, at)
        return unicode_escape(piece, escape[1] if escape else "\\", is_escaped=True)
    return piece


def _in_string(found: re.Match[str]) -> str:
    if found[0] == "\n":
        return r"\n"
    code = ord(found[0])
    return f"\\x{code:02x}" if code < 0x80 else f"\\u{code:04x}" if code < 0x10000 else f"\\U{code:08x}"


def _end_of_comment(script: str, at: int) -> int:
    depth = 1
    while depth:
        edge = _EDGE.search(script, at)
        if edge is None:
            return len(script)
        depth += 1 if edge[0] == "/*" else -1
        at = edge.end()
    return at
