"""NOT NULL … NO INHERIT, which PostgreSQL 18 has: one constraint that differs is one finding, and is not made twice."""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgvigil.validate.catalog.identifiers import quoted, unquoted
from pgvigil.validate.catalog.object_paths import last_name
from pgvigil.validate.catalog.snapshot import Attributes

_DEFINITION = re.compile(r"NOT NULL (.+) NO INHERIT", re.DOTALL)


def inheriting(path: str, root: str, expected: Mapping[str, Attributes], found: Mapping[str, Attributes]) -> str:
    """Return the name that a constraint has which is to be NO INHERIT and is not. "" for any other constraint."""
    match = _DEFINITION.fullmatch(expected[path].get("definition", ""))
    column = found.get(f"column {root}.{match[1]}", {}) if match else {}
    if match is None or column.get("nullable") is not False or path in found:
        return ""
    return column.get("not_null") or quoted(f"{unquoted(last_name(root))}_{unquoted(match[1])}_not_null")


def is_of_one(path: str, root: str, expected: Mapping[str, Attributes], found: Mapping[str, Attributes]) -> bool:
    """Return whether the NOT NULL of a column is reported as a constraint that should be NO INHERIT."""
    name = path.removeprefix(f"column {root}.")
    return any(
        one.startswith(f"constraint {root}.")
        and of.get("definition") == f"NOT NULL {name} NO INHERIT"
        and one not in found
        for one, of in expected.items()
    )


def repair(path: str, root: str, there: str) -> str:
    name = last_name(path)
    lines = [f"ALTER TABLE {root} RENAME CONSTRAINT {there} TO {name};"] if there != name else []
    return "\n".join([*lines, f"ALTER TABLE {root} ALTER CONSTRAINT {name} NO INHERIT;"])
