"""The differences that have an explanation.

pg_dump leaves them out, they are an owner's rights, or they come with an undeclared object. They are noted, or reported
with their cause, and are not compared.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from pgvigil.lazily import later
from pgvigil.validate.catalog.identifiers import quoted, schema_of
from pgvigil.validate.catalog.object_ref import ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.diff import pg_dump_gaps
from pgvigil.validate.diff.diff_builder import ABSENT, DiffBuilder
from pgvigil.validate.report.model import Kind

if TYPE_CHECKING:
    from pgvigil.validate.report import describe
else:
    describe = later("pgvigil.validate.report.describe")

_OF_SERVERS = ("foreign_data_wrapper", "server", "user_mapping")


class Explained:
    def __init__(
        self,
        builder: DiffBuilder,
        expected: dict[ObjectRef, Attributes],
        changed: list[ObjectRef],
        undeclared: list[ObjectRef],
    ) -> None:
        self.builder = builder
        self.declaration = builder.declaration
        self.found = builder.found
        self.expected = expected
        self.changed = changed
        self.undeclared = undeclared

    def objects(self) -> set[ObjectRef]:
        noted = self._left_out_of_dumps()
        return noted | self._noted_with_another(noted) | self._of_another_owner()

    def _left_out_of_dumps(self) -> set[ObjectRef]:
        """Note what pg_dump does not carry, and return the objects."""
        noted: set[ObjectRef] = set()
        objects = self.found.objects
        server = self.found.server
        copy = bool(server and self.declaration.database and server.database != self.declaration.database)
        for ref in [*self.changed, *self.undeclared]:
            reason = pg_dump_gaps.left_out(ref, self.expected, objects, copy=copy)
            reason = reason or pg_dump_gaps.of_every_database(ref, self.expected, self.found)
            expected, there = self.expected.get(ref), objects.get(ref)
            of = ref.of or ref
            if (
                not reason
                or expected == there
                or (of.kind == "function" and not (of in objects and of in self.expected))
            ):
                continue
            noted.add(ref)
            kind: Kind = "missing" if there is None else "unexpected" if expected is None else "different"
            shown = describe.in_one_line(ref, expected) if expected else ABSENT
            found = describe.in_one_line(ref, there) if there else ABSENT
            self.builder.add(kind, ref, f"{shown} ({reason})", found, "note")
        return noted

    def _of_another_owner(self) -> set[ObjectRef]:
        """Return the rights that come and go with an owner: ALTER … OWNER gives them to the expected one."""
        rights: set[ObjectRef] = set()
        for ref in self.changed:
            expected, there = self.expected[ref], self.found.objects.get(ref)
            if there is None or expected.get("owned_by") == there.get("owned_by"):
                continue
            right, wrong = (quoted(of.get("owned_by", self.found.owner)) for of in (expected, there))
            mine, others = (ObjectRef.right("revocation", ref, one) for one in (right, wrong))
            rights |= {one for one in (ObjectRef.right("grant", ref, wrong), mine) if one not in self.expected}
            if self.expected.get(mine) == self.found.objects.get(others):
                rights |= {mine, others}
        return rights

    def _noted_with_another(self, taken: set[ObjectRef]) -> set[ObjectRef]:
        """Return what is in an undeclared schema, and the parts that partitions have of an undeclared index."""
        objects, roots = self.found.objects, self.found.roots
        undeclared = [ref for ref in self.undeclared if ref not in taken]
        schemas = [ref for ref in undeclared if ref.kind == "schema"]
        noted = {
            ref
            for ref in undeclared
            for schema in schemas
            if ref.within(schema) or schema_of(roots[ref]) == schema.label
        }
        if not self.declaration.complete:  # it says nothing of servers
            noted |= {ref for ref in undeclared if (ref.of or ref).rare_kind in _OF_SERVERS}
        for ref in undeclared:
            if attached := objects[ref].get("attached"):
                of = objects.get(table(roots[ref]), {}).get("partition_of")
                noted |= {ref} if ObjectRef.on(ref.kind, str(of), attached) in undeclared else set()
        return noted
