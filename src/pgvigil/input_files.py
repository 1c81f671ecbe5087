"""Read files that people name: regular files up to a size, so that no command waits for ever or fills the memory.

A named pipe may have no writer, and a device may have no end. Both are refused. A pipe that the shell has opened for
the command, as /dev/stdin and `<(…)` are, is read.
"""

from __future__ import annotations

import errno
import os
import re
import stat
from collections.abc import Callable
from pathlib import Path
from typing import Final, TextIO

from pgvigil.errors import UsageError

SMALL: Final = 1_000_000  # bytes of a configuration, a list of tokens or a statement
LARGE: Final = 1_000_000_000  # bytes of SQL: what a migration or a dump may have
SPEC: Final = 256_000_000  # bytes of a spec: ten thousand objects take a few million
_OPENED = re.compile(r"/dev/(?:stdin|fd/\d+)|/proc/(?:self|thread-self|\d+)/fd/\d+", re.ASCII)


def read_bytes(
    path: Path, most: int, check: Callable[[os.stat_result], None] | None = None, *, pipes: bool = True
) -> bytes:
    """Return the contents. Raise OSError, whose `strerror` is part of a sentence, for anything but a file of this size.

    `check` may refuse the file that was opened, by an error of its own. `pipes` False: not even those of the shell.
    """
    is_opened = pipes and bool(_OPENED.fullmatch(os.fspath(path)))
    _require_file(path, path.stat(), is_opened=is_opened)  # before it is opened: opening a device can act on it
    flags = os.O_RDONLY | os.O_CLOEXEC | (0 if is_opened else os.O_NONBLOCK)
    with open(os.open(path, flags), "rb") as file:  # noqa: PTH123 - a descriptor
        found = os.fstat(file.fileno())
        _require_file(path, found, is_opened=is_opened)
        if check:
            check(found)
        data = file.read(most + 1) if found.st_size <= most else b""
    if max(len(data), found.st_size) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} bytes", os.fspath(path))
    return data


def read_text(path: Path, most: int) -> str:
    """Return UTF-8 text with line ends as Python has them. Raise OSError, or UnicodeDecodeError."""
    return read_bytes(path, most).decode().replace("\r\n", "\n").replace("\r", "\n")


def read_spec(path: Path) -> bytes:
    """Return the contents of a spec. Raise UsageError."""
    try:
        return read_bytes(path, SPEC)
    except OSError as error:
        raise UsageError(f"{path} cannot be read: {reason(error)}", "Give the path of a spec file.") from error


def read_stream(stream: TextIO, most: int) -> str:
    """Return the text of a stream such as stdin. Raise OSError where it is longer."""
    text = stream.read(most + 1)
    if len(text) > most:
        raise OSError(errno.EFBIG, f"it has more than {most:,} characters", "stdin")
    return text


def reason(error: OSError | UnicodeDecodeError) -> str:
    """Return why a file cannot be read, as part of a sentence that names the file."""
    return error.strerror or "it cannot be opened" if isinstance(error, OSError) else "it is not UTF-8"


def _require_file(path: Path, found: os.stat_result, *, is_opened: bool) -> None:
    if stat.S_ISDIR(found.st_mode):
        raise IsADirectoryError(errno.EISDIR, "it is a directory", os.fspath(path))
    if not (stat.S_ISREG(found.st_mode) or is_opened):
        kind = "named pipe" if stat.S_ISFIFO(found.st_mode) else "socket" if stat.S_ISSOCK(found.st_mode) else "device"
        raise OSError(errno.EINVAL, f"it is a {kind}, not a file", os.fspath(path))
