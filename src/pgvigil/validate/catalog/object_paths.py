"""Paths of objects, such as `column sessions.status`: their kinds and names."""

from __future__ import annotations

import re

# The schema that is looked at, in a path of its own; any other object may be called "{schema}" too.
PLACEHOLDER = re.compile(r"^((?:(?:default )?(?:grant|revocation) (?:in|on) |comment on )?schema) [{]schema[}](?![^ ])")
# "on" kind, what, and whom, of a grant or a revocation.
GRANT = re.compile(r'on (\w+) (.*) (?:to|from) ("(?:[^"]|"")*"|\S+)', re.DOTALL)


def of_grant(path: str) -> str:
    """The path of the object that a grant or a revocation is about; "" of anything else."""
    kind, _, rest = path.partition(" on ")
    return rest.rpartition(" to " if kind == "grant" else " from ")[0] if kind in ("grant", "revocation") else ""


def kind_of(path: str) -> str:
    """The first word of a path, or the first two of `event trigger`, `window function` and `default grant`."""
    first, _, rest = path.partition(" ")
    return f"{first} {rest.partition(' ')[0]}" if first in ("event", "window", "default") else first


def last_name(label: str) -> str:
    match = re.search(r'("(?:[^"]|"")*"|[^.]*)$', label)
    return match[1] if match else label
