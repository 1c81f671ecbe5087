"""The undeclared objects: drift in our schema, or the application's own objects."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING

from pgvigil.lazily import later
from pgvigil.validate.catalog.identifiers import quoted, schema_of
from pgvigil.validate.catalog.object_ref import APPLICATION_SCHEMA, ROUTINES, ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.diff.default_rights import explained, owner_of
from pgvigil.validate.diff.diff_builder import DiffBuilder, texts_of

if TYPE_CHECKING:
    from pgvigil.validate.diff import inherited, made_anew
    from pgvigil.validate.repair import ddl_relations
    from pgvigil.validate.repair.repair import Repairs
    from pgvigil.validate.report import describe
else:
    inherited = later("pgvigil.validate.diff.inherited")
    made_anew = later("pgvigil.validate.diff.made_anew")
    ddl_relations = later("pgvigil.validate.repair.ddl_relations")
    describe = later("pgvigil.validate.report.describe")

_OF_APPLICATION = ("session_lifecycle", "analytics_aggregations")  # what the session application writes itself
_SILENT = {"grant", "revocation", "extension"}  # of the application: not even reported


class Unexpected:
    def __init__(
        self,
        builder: DiffBuilder,
        expected: dict[ObjectRef, Attributes],
        repairs: Callable[[], Repairs],
        *,
        of_reference: bool,
    ) -> None:
        self.builder = builder
        self.declaration = builder.declaration
        self.found = builder.found
        self.expected = expected
        self.repairs = repairs
        self.of_reference = of_reference

    def log(self, taken: set[ObjectRef], cared_for: set[str]) -> None:
        objects, roots = self.found.objects, self.found.roots
        if objects.keys() <= self.expected.keys():
            strange: list[ObjectRef] = []
        else:
            strange = [
                ref for ref in objects if ref not in self.expected and ref not in taken and roots[ref] not in cared_for
            ]
        not_ours = {ref.label for ref in strange if ref.kind in ("table", "view")}
        unexpected = set(strange)
        of_types = {name for ref in strange if ref.kind == "type" for name in objects[ref].get("base", {}).values()}
        for ref in strange:
            kind, root, attributes = ref.kind, roots[ref], objects[ref]
            if (root in not_ours and kind not in ("table", "view")) or (
                not self.declaration.complete and self._is_silent(ref, root)
            ):
                continue
            if ref.of_column and self._is_identity(ref):
                continue
            if kind == "sequence" and "of" in attributes and schema_of(attributes["of"]) in not_ours:
                continue  # it goes with its table
            if ref.bare_label in of_types and self._reads_undeclared_type(ref, attributes, unexpected):
                continue
            if kind == "column" and (
                inherited.is_of_parent(ref, objects, self.expected)
                or inherited.is_change_of_type(root, self.expected, objects)
            ):
                continue
            if "constructor" in attributes:  # it comes and goes with its range type
                continue
            if inherited.is_left_by_parent(ref, self.expected, objects) or ref.of in unexpected:
                continue
            if inherited.is_of_wrong_parent(ref, self.expected, objects) or self._completes_invalid(ref):
                continue
            if (
                kind == "constraint"
                and attributes["definition"].startswith("NOT NULL")
                and "validated" not in attributes
            ):
                column = attributes["definition"].removeprefix("NOT NULL ").removesuffix(" NO INHERIT")
                fix = f"ALTER TABLE {root} ALTER CONSTRAINT {ref.name} INHERIT;"
                self.builder.add(
                    "different", ObjectRef.on("column", root, column), "NOT NULL", attributes["definition"], fix=fix
                )
                continue
            if kind == "constraint" and attributes["definition"].startswith("NOT NULL"):
                self.builder.add(
                    "invalid",
                    ObjectRef.on("column", root, attributes["definition"].split()[-1]),
                    "NOT NULL",
                    f"{attributes['definition']} NOT VALID, existing rows not checked",
                    fix=f"ALTER TABLE {root} VALIDATE CONSTRAINT {ref.name};",
                )
                continue
            if kind == "constraint" and "enforced" in attributes and "inherited" in attributes:
                enable = "\n".join(self.found.details[ref]["enable"])
                said = describe.attribute(ref, "enforced", attributes)
                self.builder.add("disabled", ref, describe.attribute(ref, "enforced", {}), said, fix=enable)
                continue
            said = self.builder.said(describe.in_one_line(ref, attributes)) + self._consequence(ref, attributes)
            family = [p for p in (*attributes.get("inherits", ()), attributes.get("partition_of")) if p]
            fix = self.repairs().drop(ref)
            if family and kind == "table" and not self.declaration.complete:
                fix = "\n".join(f"ALTER TABLE {root} NO INHERIT {parent};" for parent in attributes.get("inherits", ()))
            uses = self._uses(ref, attributes) if self.declaration.complete else ""
            blamed = self._blamed(ref, root, attributes)
            self.builder.unexpected(ref, said, blamed, fix, in_force=bool(family), uses=uses)
        if not self.declaration.complete:
            self._row_security()

    def _reads_undeclared_type(self, ref: ObjectRef, attributes: Attributes, undeclared: set[ObjectRef]) -> bool:
        """Return true of a function by which an undeclared base type is read or written: neither can go without the other."""
        text = f"{ref.signature} {attributes.get('returns')}"
        return any(
            ref.bare_label in self.found.objects[one].get("base", {}).values() and one.label in text
            for one in undeclared
            if one.kind == "type"
        )

    def _uses(self, ref: ObjectRef, attributes: Attributes) -> str:
        """Return the definitions of an object and its parts."""
        parts = self.found.parts.get(ref.label, ()) if ref.kind in ("table", "view") else ()
        body = [attributes["body"]] if attributes.get("atomic") else []
        named = [ref.label] if ref.signature or ref.kind == "other" else []
        texts = [text for one in (ref, *parts) for text in texts_of(self.found.objects[one])]
        return " ".join([*named, *texts, *body])

    def _completes_invalid(self, ref: ObjectRef) -> bool:
        """Return true of what a partition has of an index that the spec records as INVALID: with all of them it is valid."""
        whole = made_anew.whole_of(ref, self.found.objects[ref], self.found.objects)
        while whole is not None and self.expected.get(whole, {}).get("valid") is not False:
            whole = made_anew.whole_of(whole, self.found.objects.get(whole, {}), self.found.objects)
        return whole is not None

    def _is_identity(self, sequence: ObjectRef) -> bool:
        """A sequence that is there for an identity or a column that should not be: reported with it."""
        column = sequence.column
        return "identity" in self.found.objects.get(column, {}) or column not in self.expected

    def _is_silent(self, ref: ObjectRef, root: str) -> bool:
        """Return True for an object that deserves no note.

        Applications commonly have such objects beside their own tables.
        """
        if ref.of_column and (root in self.declaration.application or self._is_identity(ref)):
            return True
        if self.of_reference and self.found.grantees.get(ref) in self.declaration.roles:
            return False
        if ref.kind == "extension" and self.found.objects[ref]["schema"] not in self.declaration.schemas:
            return True
        if not self.of_reference and (ref.kind in ("grant", "revocation") or ref.of_column):
            return True  # a spec written by hand need not list these
        if ref == ObjectRef.right("grant", APPLICATION_SCHEMA, quoted(self.found.owner)):
            return True  # whose objects are there
        loose = self._is_loose(ref, root)
        return loose and ref.kind in _SILENT and not self.builder.strict

    def _is_loose(self, ref: ObjectRef, root: str) -> bool:
        return root in self.declaration.application or ref.is_of_application_schema

    def _blamed(self, ref: ObjectRef, root: str, attributes: Attributes) -> bool:
        """Return true if it is drift in our schema: a finding, not a note."""
        kind, schemas = ref.kind, self.declaration.schemas
        if self.declaration.complete:
            return not (ref.of == APPLICATION_SCHEMA and self.builder.another_major)
        if kind == "statistics":
            return False
        if kind == "rule" and " DO INSTEAD " in attributes["definition"]:
            return True  # what it does away with no trigger sees
        if kind == "trigger" and any(attributes["function"].startswith(f"{schema}.") for schema in schemas):
            return True
        if kind in ("grant", "revocation") and explained(self.found, ref, attributes):
            return False
        if self._is_of_the_application(ref, attributes):
            return self.builder.strict
        if kind == "revocation" and (of := ref.of) and of.kind in ROUTINES and ref.grantee == "PUBLIC":
            return of in self.declaration.for_all  # fewer may call it than might
        if kind == "table" and (parents := attributes.get("inherits")) and ref.schema not in schemas:
            return any(parent not in self.declaration.application or self._is_logged(parent) for parent in parents)
        return not self._is_loose(ref, root)

    def _is_of_the_application(self, ref: ObjectRef, attributes: Attributes) -> bool:
        """Return true if it is the right that an application needs which writes events and aggregations by hand. That is an application, and no
        stranger, which may write the sessions themselves.
        """
        role = self.found.grantees.get(ref, "")
        if role in self.declaration.roles or ref not in {
            ObjectRef.right("grant", table(name), quoted(role)) for name in _OF_APPLICATION
        }:
            return False
        of_sessions = ObjectRef.right("grant", table("sessions"), quoted(role))
        sessions = set(self.found.objects.get(of_sessions, {}).get("privileges", ()))
        privileges = set(attributes["privileges"])
        return (
            {"INSERT", "UPDATE"} <= sessions
            and "INSERT" in privileges
            and privileges <= {"INSERT", "SELECT"} & sessions
        )

    def _is_logged(self, label: str) -> bool:
        """Return true if triggers of ours keep a log or a count of its rows, which they do not of a child's."""
        return any(
            ref.kind == "trigger" and ref.relation == label and of.get("timing") == "AFTER"
            for ref, of in self.declaration.objects.items()
        )

    def _consequence(self, ref: ObjectRef, attributes: Attributes) -> str:
        """Return words on the effect of an object on ours."""
        kind = ref.kind
        if kind in ("grant", "revocation") and (default := explained(self.found, ref, attributes)):
            return f", by {default}"
        if self.declaration.complete:
            return ""
        if self._is_of_the_application(ref, attributes):
            role = quoted(self.found.grantees[ref])
            return (
                f": {role} may write sessions, and writes these rows by hand; any trail can be made up with this right"
            )
        if kind == "table" and (parents := attributes.get("inherits")):
            return f": its rows are read as rows of {', '.join(parents)}, and no trigger of ours fires for them"
        if kind == "trigger" and (attributes["timing"], attributes["level"]) == ("BEFORE", "ROW"):
            return ": it can change a row or prevent its storage; its own changes leave no event"
        return ""

    def _row_security(self) -> None:
        """Report row security as something that was added, not as a difference."""
        for ref, attributes in self.found.objects.items():
            if (
                "row_security" in attributes
                and ref.kind == "table"
                and "row_security" not in self.expected.get(ref, {})
                and ref in self.expected
            ):
                root = ref.label
                closed = attributes["row_security"] == "forced" and not self._lets_owner_in(ref)
                self.builder.unexpected(
                    ObjectRef("row", f"security of {root}"),
                    "FORCE ROW LEVEL SECURITY, and no policy for its owner: our own functions see no row"
                    if closed
                    else "enabled",
                    closed or root not in self.declaration.application,
                    f"ALTER TABLE {root} NO FORCE ROW LEVEL SECURITY;"
                    if closed and root in self.declaration.application
                    else ddl_relations.relation(root, "row_security", {}),
                    in_force=closed,
                )

    def _lets_owner_in(self, of_table: ObjectRef) -> bool:
        owner = owner_of(self.found, of_table)
        policies = [
            of for ref, of in self.found.objects.items() if ref.kind == "policy" and ref.relation == of_table.label
        ]
        return any(
            not of.get("restrictive") and {"PUBLIC", owner, quoted(owner)} & set(of.get("roles", ["PUBLIC"]))
            for of in policies
        )
