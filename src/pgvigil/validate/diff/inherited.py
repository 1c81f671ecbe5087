"""The parts that a child table or partition inherits: one change there is one finding, and its repair reaches the children."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from pgvigil.validate.catalog.object_ref import ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes

# ALTER TABLE of the parent changes these in its children too.
_REACHES = {"type", "collation", "nullable", "default", "generated", "virtual", "storage", "identity"}


Objects = Mapping[ObjectRef, Attributes]


def from_parent(ref: ObjectRef, objects: Objects) -> Iterator[ObjectRef]:
    """The same column of each parent."""
    if ref.kind == "column":
        of = objects.get(table(ref.relation), {})
        for parent in (of.get("partition_of"), *of.get("inherits", ())):
            if parent:
                yield ObjectRef.on("column", parent, ref.name)


def is_parents_change(ref: ObjectRef, key: str, pair: tuple[Any, Any], expected: Objects, found: Objects) -> bool:
    """Return true if an attribute of a column differs just as it does in a parent; `pair` is what is expected and what
    is there.
    """
    return key in _REACHES and any(
        parent in expected and parent in found and (expected[parent].get(key), found[parent].get(key)) == pair
        for parent in from_parent(ref, found)
    )


def is_of_parent(ref: ObjectRef, here: Objects, there: Objects) -> bool:
    """Return true if an inherited column is on this side alone, as a parent's is."""
    return bool(here[ref].get("inherited")) and any(
        parent in here and parent not in there for parent in from_parent(ref, here)
    )


def has_other_parents(root: str, expected: Objects, found: Objects) -> bool:
    """Return whether a table has left a parent: its columns are its own then, and are reported with it."""
    right, there = (objects.get(table(root), {}).get("inherits") for objects in (expected, found))
    return bool(right != there)


def is_change_of_type(root: str, expected: Objects, found: Objects, key: str = "type") -> bool:
    """Return whether the columns of a typed table differ because its type does: ALTER TYPE … CASCADE reaches them."""
    tables = [objects.get(table(root), {}) for objects in (expected, found)]
    type_ = ObjectRef("type", str(tables[0].get("of_type")))
    return (
        key in ("type", "collation", "order")
        and "of_type" in tables[0]
        and tables[0]["of_type"] == tables[1].get("of_type")
        and type_ in expected
        and expected[type_].get("columns") != found.get(type_, {}).get("columns")
    )


def is_of_wrong_parent(ref: ObjectRef, expected: Objects, found: Objects) -> bool:
    """Return whether a part of a table is as it is because that was attached where it should not be: DETACH gives it back."""
    of, there = (objects.get(table(ref.relation), {}) for objects in (expected, found))
    parent = there.get("partition_of")
    if not parent or not of or of.get("partition_of") == parent:
        return False
    if ref in found:
        return "attached" in found[ref]
    same = found.get(ObjectRef.on("constraint", parent, ref.name), {})
    return ref.kind == "constraint" and same.get("definition") == expected[ref]["definition"]


def is_left_by_parent(ref: ObjectRef, expected: Objects, found: Objects) -> bool:
    """Return whether a constraint became a table's own when that left its parent: to come back, it needs it."""
    if ref.kind != "constraint":
        return False
    of, there = (objects.get(table(ref.relation), {}) for objects in (expected, found))
    definition = found[ref]["definition"]

    def of_parent(parent: str) -> bool:
        return bool(expected.get(ObjectRef.on("constraint", parent, ref.name), {}).get("definition") == definition)

    if any(of_parent(parent) for parent in of.get("inherits", ()) if parent not in there.get("inherits", ())):
        return True
    if "partition_of" in there:
        return False
    while parent := of.get("partition_of"):
        if of_parent(parent):
            return True
        of = expected.get(table(parent), {})
    return False
