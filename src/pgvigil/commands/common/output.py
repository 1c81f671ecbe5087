"""The destination of a report: standard output, or a file that is written whole or not at all. And its JSON."""

from __future__ import annotations

import errno
import json
import os
import re
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from pgvigil import project, text
from pgvigil.errors import UsageError


@contextmanager
def stream(path: Path | None) -> Iterator[TextIO]:
    """A stream whose text takes the place of `path` at the end, if all went well; until then what is there stays.

    Raise UsageError at the beginning where the file could not be written.
    """
    if path is None:
        yield sys.stdout
        return
    in_place = path.exists() and not path.is_file()  # a pipe, a terminal: there is nothing to put in its place
    target = path if in_place else path.resolve()  # a link stays a link
    try:
        if target.exists() and not os.access(target, os.W_OK):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
        if in_place:
            number = os.open(target, os.O_WRONLY)
        else:
            number, name = tempfile.mkstemp(prefix=f".{target.name}.", dir=target.parent)
    except OSError as error:
        hint = "Give --output a file in a directory that is there and yours."
        raise UsageError(f"{path} cannot be written: {error.strerror}", hint) from error
    made = None if in_place else Path(name)
    try:
        with open(number, "w", encoding="utf-8", errors="backslashreplace") as beside:  # noqa: PTH123 - a descriptor
            yield beside
        if made:
            made.chmod(target.stat().st_mode & 0o777 if target.exists() else 0o666 & ~_umask())
            made.replace(target)
    finally:
        if made:
            made.unlink(missing_ok=True)


def _umask() -> int:
    mask = os.umask(0o077)
    os.umask(mask)
    return mask


def generated(written: str, path: Path | None, printed: Callable[..., None] = text.print_script) -> int:
    """Write a file of this project, or print the text: SQL by `print_sql`."""
    if path:
        project.require_checkout(f"write {path.name}")
        path.write_text(written, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    else:
        printed(written, sys.stdout, end="")
    return 0


def statement_line(words: str) -> str:
    """Return a text of others, such as a statement, on one line."""
    return text.visible(re.sub(r"\s", " ", words)).rstrip()


def json_text(document: object) -> str:
    return json.dumps(document, indent=2, default=str)
