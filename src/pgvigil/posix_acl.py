"""Finds access control lists, which give a file or directory to users that its owner, group and mode do not name."""

from __future__ import annotations

import os
from pathlib import Path

_LIST = "system.posix_acl_access"


def has_acl(place: Path | int) -> bool:
    """Return true if a path, or an open file, has a list. Its greatest rights then stand in the mode in the place of the group's."""
    try:
        return bool(os.getxattr(place, _LIST))
    except (OSError, AttributeError):  # there is none; the file system, or a system other than Linux, has no such lists
        return False
