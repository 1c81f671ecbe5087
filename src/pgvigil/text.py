"""Words of others (of a database, a manifest, an argument) on their way to a terminal or the log of a CI job.

A control character steers a terminal, a character without width or one that turns the direction of writing hides what is
there, and a line that begins with `::`, or `##[` anywhere in one, is a command to the CI system that keeps the log.
"""

from __future__ import annotations

import os
import re
import shlex
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Any, Final, TextIO

BAR: Final = "| "  # before further lines: behind it none passes for a line of ours, or for a command

# All of C0 but tab and line feed, C1, what has no width, what turns the direction, separators of lines and paragraphs,
# halves of surrogate pairs, and the tags, which spell invisible ASCII.
_UNSEEN: Final = re.compile(
    "[\x00-\x08\x0b-\x1f\x7f-\x9f\xad\u034f\u061c\u115f\u1160\u17b4\u17b5\u180b-\u180f\u200b-\u200f\u2028-\u202e"
    "\u2060-\u206f\u3164\ufeff\uffa0\ufff0-\ufffb\U000e0000-\U000e0fff\ud800-\udfff]"
    r"|(?<=#)#(?=\[|vso\[)"
)
_PLAIN_BYTES: Final = frozenset(range(0x20, 0x7F)) - frozenset(b"'\\")
_PLURALS: Final = {"index": "indexes"}
_COMMAND: Final = re.compile(r"^(?=[^\S\n]*::)", re.MULTILINE)


def visible(text: str) -> str:
    r"""With nothing in it that a terminal or a CI system obeys: such characters are spelt out, as in \x1b. Lines stay lines."""
    if text.isascii() and text.isprintable() and "##" not in text:
        return text
    return _UNSEEN.sub(_spelt, text)


def one_line(text: str) -> str:
    r"""`visible`, and on one line: line feeds and tabs are spelt out too."""
    return visible(text).replace("\n", r"\n").replace("\t", r"\t")


def block(text: str) -> str:
    """`visible`, with a bar before each line but the first: what others wrote cannot pass for a line of its own."""
    first, *rest = visible(text).rstrip("\n").split("\n")
    return "\n".join([first, *(BAR + line for line in rest)])


def counted(number: int, thing: str) -> str:
    """A number of things: "1 session", "1,178 sessions"."""
    return f"{number:,} {thing if number == 1 else _PLURALS.get(thing, thing + 's')}"


def quoted(word: str) -> str:
    r"""A word for the shell, to be pasted; what is not visible as bash spells it: $'\x1b'."""
    if one_line(word) == word:
        return shlex.quote(word)
    spelt = (chr(byte) if byte in _PLAIN_BYTES else rf"\x{byte:02x}" for byte in os.fsencode(word))
    return f"$'{''.join(spelt)}'"


def page(lines: Iterable[str]) -> str:
    """A report of these lines, each of which stays one: see `block`."""
    return "\n".join(map(block, lines))


def indented(text: str) -> str:
    """`visible`, with each line but the first indented."""
    return re.sub(r"\n(?!  )", "\n  ", visible(text).rstrip("\n"))


def _spelt(found: re.Match[str]) -> str:
    if found[0] == "#":
        return r"\x23"
    return found[0].encode("unicode_escape", "surrogatepass").decode()


class Guarded:
    """A stream through which nothing goes but what is visible, and no line that is a command to a CI system.

    Whoever writes such things on purpose (colours, a live line, workflow commands) writes to `trusted(stream)`.
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
    """The stream itself, for what has been made visible already."""
    return stream.stream if isinstance(stream, Guarded) else stream


def print_script(script: str, stream: TextIO, *, end: str = "\n") -> None:
    """SQL or another text for programs: to a file as it is; elsewhere visible, but without bars, for `::` is a cast, too."""
    print(visible(script) if isinstance(stream, Guarded) else script, end=end, file=trusted(stream))


@contextmanager
def guarded() -> Iterator[None]:
    """Until the block ends, all that is printed goes through `Guarded`."""
    before = sys.stdout, sys.stderr
    streams: list[Any] = [stream if isinstance(stream, Guarded) else Guarded(stream) for stream in before]
    sys.stdout, sys.stderr = streams
    try:
        yield
    finally:
        sys.stdout, sys.stderr = before
