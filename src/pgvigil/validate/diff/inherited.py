"""The parts that a child table or partition inherits: one change there is one finding, and its repair reaches the children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgvigil.validate.catalog.object_paths import kind_of
from pgvigil.validate.catalog.snapshot import Attributes

# ALTER TABLE of the parent changes these in its children too.
_REACHES = {"type", "collation", "nullable", "default", "generated", "virtual", "storage", "identity"}


def from_parent(path: str, root: str, objects: Mapping[str, Attributes]) -> Iterator[str]:
    """The same column of each parent."""
    table = objects.get(f"table {root}", {})
    for parent in (table.get("partition_of"), *table.get("inherits", ())):
        if parent and kind_of(path) == "column":
            yield f"column {parent}.{path.removeprefix(f'column {root}.')}"


def is_parents_change(
    path: str,
    root: str,
    key: str,
    pair: tuple[Any, Any],
    expected: Mapping[str, Attributes],
    found: Mapping[str, Attributes],
) -> bool:
    """Return true if an attribute of a column differs just as it does in a parent; `pair` is what is wanted and what is there."""
    return key in _REACHES and any(
        parent in expected and parent in found and (expected[parent].get(key), found[parent].get(key)) == pair
        for parent in from_parent(path, root, found)
    )


def is_of_parent(path: str, root: str, here: Mapping[str, Attributes], there: Mapping[str, Attributes]) -> bool:
    """Return true if an inherited column is on this side alone, as a parent's is."""
    return bool(here[path].get("inherited")) and any(
        parent in here and parent not in there for parent in from_parent(path, root, here)
    )


def has_other_parents(root: str, expected: Mapping[str, Attributes], found: Mapping[str, Attributes]) -> bool:
    """Return whether a table has left a parent: its columns are its own then, and are reported with it."""
    right, there = (objects.get(f"table {root}", {}).get("inherits") for objects in (expected, found))
    return bool(right != there)


def is_change_of_type(
    root: str, expected: Mapping[str, Attributes], found: Mapping[str, Attributes], key: str = "type"
) -> bool:
    """Return whether the columns of a typed table differ because its type does: ALTER TYPE … CASCADE reaches them."""
    tables = [objects.get(f"table {root}", {}) for objects in (expected, found)]
    type_ = f"type {tables[0].get('of_type')}"
    return (
        key in ("type", "collation", "order")
        and "of_type" in tables[0]
        and tables[0]["of_type"] == tables[1].get("of_type")
        and type_ in expected
        and expected[type_].get("columns") != found.get(type_, {}).get("columns")
    )


def is_left_by_parent(
    path: str, root: str, expected: Mapping[str, Attributes], found: Mapping[str, Attributes]
) -> bool:
    """Return whether a constraint became a table's own when that left its parent: to come back, it needs it."""
    table, there = (objects.get(f"table {root}", {}) for objects in (expected, found))
    name = path.removeprefix(f"constraint {root}.")
    left = [parent for parent in table.get("inherits", ()) if parent not in there.get("inherits", ())]
    if kind_of(path) == "constraint" and any(
        expected.get(f"constraint {parent}.{name}", {}).get("definition") == found[path]["definition"]
        for parent in left
    ):
        return True
    if kind_of(path) != "constraint" or "partition_of" not in table or "partition_of" in there:
        return False
    while parent := table.get("partition_of"):
        of = expected.get(f"constraint {parent}.{name}", {})
        if of.get("definition") == found[path]["definition"]:
            return True
        table = expected.get(f"table {parent}", {})
    return False
