"""The renamed objects, and whether anything can have been renamed."""

from __future__ import annotations

from typing import NamedTuple

from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot
from pgvigil.validate.spec.declaration import Mark

RENAMED = "renamed? "


class Rename(NamedTuple):
    ref: ObjectRef  # as it is expected
    there: ObjectRef  # as it is
    expected: str
    found: str
    fix: str
    different: bool = False  # it has its name, and another owner


class Renames:
    def __init__(self, found: Snapshot, *, nothing_differs: bool = False) -> None:
        self.found = found  # under the expected names
        self.list: list[Rename] = []
        self.relations: dict[str, str] = {}  # expected label → label that it has
        self.nothing_differs = nothing_differs

    def real(self, root: str) -> str:
        return self.relations.get(root, root)


def unless_any(expected: dict[ObjectRef, Attributes], marks: dict[ObjectRef, Mark], found: Snapshot) -> Renames | None:
    """Return an empty set of renames where a quick look shows that there are none, or None where a search is needed."""
    if expected == found.objects:
        return Renames(found, nothing_differs=True)
    missing = expected.keys() - found.objects.keys()
    relabelled = any(
        ref.kind == "type" and of.get("labels") != found.objects.get(ref, of).get("labels")
        for ref, of in expected.items()
    )
    others = not marks and any(
        ref.of_column and of.get("name") != found.objects.get(ref, of).get("name") for ref, of in expected.items()
    )
    moved = not marks and any(
        ref.kind == "extension" and of.get("schema") != found.objects.get(ref, of).get("schema")
        for ref, of in expected.items()
    )
    if not (relabelled or others or moved) and (not missing or found.objects.keys() <= expected.keys()):
        return Renames(found)
    return None
