"""Make foreign text (of a database, a manifest, an argument) safe for a terminal or the log of a CI job.

A control character controls a terminal; a character without width, or one that changes the direction of writing, hides
other text; and a line that begins with `::`, or contains `##[`, is a command to the CI system that stores the log.
"""

from __future__ import annotations

import io
import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any, Final, TextIO

BAR: Final = "| "  # prefix of further lines, so that none passes for a line of pgvigil, or for a command

# All of C0 but tab and line feed, C1, characters without width, those that change the direction, separators of lines and
# paragraphs, halves of surrogate pairs, and the tags, which encode invisible ASCII.
_INVISIBLE: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]"
)
UNSEEN: Final = re.compile(rf"{_INVISIBLE.pattern}|(?<=#)#(?=\[|vso\[)")
# A name that somebody may paste; the server's have at most 63 bytes.
_NAME: Final = re.compile(r'(?<![\w&$])"(?:[^"\n]|""){1,63}"(?!")')
_NAME_OVER_LINES: Final = re.compile(r'(?<![\w&$])"(?:[^"]|""){1,63}"(?!")')
_PLAIN_BYTES: Final = frozenset(range(0x20, 0x7F)) - frozenset(b"'\\")
# "PL/pgSQL function f(integer) line 3 at RAISE", "PL/pgSQL-Funktion f(integer) Zeile 3 …", "fonction PL/pgSQL f(integer), ligne 3 …"
_PLPGSQL: Final = re.compile(r"PL/pgSQL(?:-\w+|[^\x00-\x7f]+)?(?: function)? ?([^(\n]+\([^)\n]*\))")
_PLURALS: Final = {"index": "indexes", "table or view": "tables or views"}
_COMMAND: Final = re.compile(r"^(?=[^\S\n]*::)", re.MULTILINE)
COMMAND_AHEAD: Final = (
    r"(?=[^\S\n]*+::(?:add-mask|add-matcher|add-path|debug|echo|endgroup|error|group|notice|remove-matcher|save-state|set-env"
    r"|set-output|stop-commands|warning)\b)"
)
KNOWN_COMMAND: Final = re.compile(f"^{COMMAND_AHEAD}", re.MULTILINE | re.IGNORECASE)


def visible(text: str) -> str:
    r"""Escape characters that a terminal or a CI system obeys, as in \x1b; in a quoted name as SQL does: U&"\001b". Line feeds are kept."""
    if text.isascii() and text.isprintable() and "##" not in text:
        return text
    if '"' in text and UNSEEN.search(text):
        text = _NAME.sub(_named, text)
    return spelt_out(text)


def spelt_out(text: str) -> str:
    """Return text with each character that `visible` escapes in the way of Python, in names as well."""
    return UNSEEN.sub(_spelt, text)


def one_line(text: str) -> str:
    r"""Return `visible` text on one line: line feeds and tabs are escaped too."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def block(text: str) -> str:
    """Return `visible` text with a bar before each line but the first, so that foreign text cannot pass for a separate line."""
    first, *rest = visible(text).rstrip("\n").split("\n")
    return "\n".join([first, *(BAR + line for line in rest)])


def counted(number: int, thing: str) -> str:
    """Return a number of things in words: "1 session", "1,178 sessions"."""
    return f"{number:,} {thing if number == 1 else _PLURALS.get(thing, thing + 's')}"


def raised_in(context: str | None) -> str:
    """Return the innermost PL/pgSQL function of an error's context, with its arguments, in whatever language the server speaks; or ""."""
    found = _PLPGSQL.search(context or "")
    return found[1] if found else ""


def quoted(word: str) -> str:
    r"""Quote a word for the shell, to be pasted; invisible characters are written in bash's way: $'\x1b'."""
    if one_line(word) == word:
        return shlex.quote(word)
    spelt = (chr(byte) if byte in _PLAIN_BYTES else rf"\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(spelt)}'"


def page(lines: Iterable[str]) -> str:
    """Join the lines of a report; each stays one line, see `block`."""
    return "\n".join(map(block, lines))


def indented(text: str) -> str:
    """Return `visible` text with each line but the first indented; a name in it stays on its line."""
    text = _NAME_OVER_LINES.sub(lambda name: _named(name) if "\n" in name[0] else name[0], text)
    return re.sub(r"\n(?!  )", "\n  ", visible(text).rstrip("\n"))


def unicode_escape(text: str, escape: str = "\\", *, is_escaped: bool = False) -> str:
    r"""Return text as U&'' and U&"" take it, with visible characters only, and no line feed."""

    def spelt(found: re.Match[str]) -> str:
        code = ord(found[0])
        return f"{escape}{code:04x}" if code < 0x10000 else f"{escape}+{code:06x}"

    return re.sub(rf"\n|{UNSEEN.pattern}", spelt, text if is_escaped else text.replace(escape, escape * 2))


def _named(name: re.Match[str]) -> str:
    # "##[" stays as `_spelt` makes it: it may be a string of JSON.
    return f"U&{unicode_escape(name[0])}" if "\n" in name[0] or _INVISIBLE.search(name[0]) else name[0]


def _spelt(found: re.Match[str]) -> str:
    if found[0] == "#":
        return r"\u0023"  # as JSON has it, too
    return found[0].encode("unicode_escape", "surrogatepass").decode()


class Guarded:
    """A stream that passes only visible text, and no line that is a command to a CI system.

    Code that writes such text on purpose (colours, a status line, workflow commands) writes to `trusted(stream)`.
    """

    def __init__(self, stream: TextIO) -> None:
        self.stream = stream
        self._at_start = True  # of a line

    def write(self, text: str) -> int:
        if text:
            shown = visible(text)
            if "::" in shown:
                shown = _COMMAND.sub(BAR, shown) if self._at_start else _COMMAND.sub(BAR, f"x{shown}")[1:]
            self._at_start = shown.endswith("\n") or (self._at_start and not shown.strip())
            self.stream.write(shown)
        return len(text)

    def writelines(self, lines: Any) -> None:
        for line in lines:
            self.write(line)

    def __getattr__(self, name: str) -> Any:
        return getattr(self.stream, name)


def trusted(stream: TextIO) -> TextIO:
    """Return the stream itself, for text that has been made visible already."""
    return stream.stream if isinstance(stream, Guarded) else stream


def print_script(script: str, stream: TextIO, *, end: str = "\n") -> None:
    """Print text for programs: unchanged to a file; elsewhere visible, and with bars only before the commands that a CI system knows."""
    shown = KNOWN_COMMAND.sub(BAR, visible(script)) if isinstance(stream, Guarded) else script
    print(shown, end=end, file=trusted(stream))


_OF_STYLE: Final = {"red": "1;31", "yellow": "1;33", "green": "1;32", "cyan": "36", "bold": "1", "dim": "2"}


def wants_colour(stream: TextIO) -> bool:
    """Return true for a terminal. NO_COLOR (no-color.org), then FORCE_COLOR, then TERM=dumb decide otherwise."""
    if os.environ.get("NO_COLOR"):
        return False
    if forced := os.environ.get("FORCE_COLOR"):
        return forced not in ("0", "false")
    return stream.isatty() and os.environ.get("TERM") != "dumb"


def painted(text: str, style: str) -> str:
    return f"\x1b[{_OF_STYLE[style]}m{text}\x1b[0m" if text else text


def print_report(report: str, styles: Mapping[str, str]) -> None:
    """Print a report to stdout; if it has colours, each match of a pattern of `styles` in a line is painted in its style.

    The text is made visible first, so colours of others do not get through.
    """
    if not wants_colour(sys.stdout):
        print(report)
        return
    safe = io.StringIO()
    Guarded(safe).write(report)
    shown = safe.getvalue()
    for pattern, style in styles.items():
        shown = re.sub(pattern, lambda found, style=style: painted(found[0], style), shown, flags=re.MULTILINE)  # type: ignore[misc]
    print(shown, file=trusted(sys.stdout))


@contextmanager
def guarded() -> Iterator[None]:
    """Send all output through `Guarded` until the block ends."""
    before = sys.stdout, sys.stderr
    streams: list[Any] = [stream if isinstance(stream, Guarded) else Guarded(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
