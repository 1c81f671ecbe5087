"""Find access control lists, which give a file or directory to users that its owner, group and mode do not name."""

from __future__ import annotations

import os
from pathlib import Path

_LIST = "system.posix_acl_access"


def has_acl(path: Path) -> bool:
    """Return true if a path has a list. The mode then has its greatest rights as those of the group."""
    try:
        return bool(os.getxattr(path, _LIST))
    except (OSError, AttributeError):  # there is none; the file system, or a system other than Linux, has no such lists
        return False
