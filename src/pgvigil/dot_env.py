"""Read a `.env` file: only if no other user can have written it, and completely or not at all."""

from __future__ import annotations

import grp
import io
import os
import pwd
import stat
from contextlib import suppress
from pathlib import Path

from pgvigil.errors import UsageError
from pgvigil.posix_acl import has_acl

INSTEAD = "Or leave it unused and name the database by --database-url, DATABASE_URL or PGHOST, PGDATABASE …"
_LIMIT = 1_000_000  # bytes
_LINKS = 40  # as the kernel


def read(path: Path) -> dict[str, tuple[str | None, int]] | None:
    """Return each value with its line number, or None if the file does not exist.

    Raise UsageError, which names file and line, if it cannot be read, or another user can have written it.
    """
    try:
        if not os.path.lexists(path):
            return None
        data = _bytes(path)
    except OSError as error:
        raise UsageError(
            f"{path} cannot be read: {error.strerror}", f"Make it a readable file, or remove it. {INSTEAD}"
        ) from error
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise _broken(path, data.count(b"\n", 0, error.start) + 1, "is not UTF-8 text") from error
    from dotenv.parser import parse_stream  # imported here, because most calls have no .env

    values: dict[str, tuple[str | None, int]] = {}
    for binding in parse_stream(io.StringIO(text)):
        whole = binding.original.string
        line = binding.original.line + whole[: len(whole) - len(whole.lstrip())].count("\n")
        if binding.error or "\0" in whole:
            raise _broken(path, line, "cannot be read as NAME=value; is a quote open?")
        if binding.key is not None:
            values[binding.key] = binding.value, line
    return values


def _broken(path: Path, line: int, what: str) -> UsageError:
    return UsageError(f"{path}:{line} {what}", f"Fix this line. {INSTEAD}")


def _bytes(path: Path) -> bytes:
    """Read the file that was checked: through one descriptor, and never from a pipe, which could block."""
    with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC), "rb") as file:  # noqa: PTH123 - a descriptor
        found = os.fstat(file.fileno())
        if not stat.S_ISREG(found.st_mode):
            raise UsageError(f"{path} is not a file", f"Remove it. {INSTEAD}")
        require_own(path, found)
        _require_own_way(path.absolute())
        if found.st_size > _LIMIT:
            raise UsageError(f"{path} has more than {_LIMIT:,} bytes", f"Keep only lines NAME=value in it. {INSTEAD}")
        return file.read(_LIMIT)


def _require_own_way(path: Path) -> None:
    """Check each link to the file, and each directory in which the file or a link to it could be replaced."""
    at, names, links = Path(path.anchor), list(path.parts[:0:-1]), 0
    holders = {path.parent}
    while names:
        here = at / (name := names.pop())
        if name == "..":
            at = at.parent
        elif here.is_symlink() and links < _LINKS:
            links += 1
            require_own(here, here.lstat())
            holders.add(at)
            target = here.readlink()
            at = Path(target.anchor) if target.anchor else at
            names += [part for part in reversed(target.parts) if part != target.anchor]
        else:
            at = here
    for directory in holders | {at.parent}:
        require_own(directory, directory.stat())


def require_own(path: Path, found: os.stat_result) -> None:
    reason = None
    if found.st_uid not in (os.geteuid(), 0):
        reason = f"belongs to another user ({_name(found.st_uid)})"
    elif stat.S_ISLNK(found.st_mode):
        return  # every link has all bits of the mode
    elif found.st_mode & stat.S_IWOTH and not (stat.S_ISDIR(found.st_mode) and found.st_mode & stat.S_ISVTX):
        reason = "can be written to by every user"
    elif found.st_mode & stat.S_IWGRP and not is_private(found):
        reason = "can be written to by its group"
    elif found.st_mode & stat.S_IWGRP and has_acl(path):
        reason = "has an access control list by which others may write to it"
    if reason:
        what = "pgvigil does not read its .env" if stat.S_ISDIR(found.st_mode) else "pgvigil does not read it"
        raise UsageError(
            f"{path} {reason}: {what}, because its writer could decide where passwords are sent",
            f"Make this user its only writer (chown, chmod go-w, setfacl -b). {INSTEAD}",
        )


def is_private(found: os.stat_result) -> bool:
    """Return true if the group is the owner's own and has no other members, as on systems that give each user a group."""
    with suppress(KeyError):
        owner, group = pwd.getpwuid(found.st_uid), grp.getgrgid(found.st_gid)
        return group.gr_gid == owner.pw_gid and group.gr_name == owner.pw_name and set(group.gr_mem) <= {owner.pw_name}
    return False


def _name(uid: int) -> str:
    try:
        return pwd.getpwuid(uid).pw_name
    except KeyError:
        return f"uid {uid}"
