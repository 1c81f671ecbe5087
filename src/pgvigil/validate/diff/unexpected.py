"""The undeclared objects: drift in our schema, or the application's own objects."""

from __future__ import annotations

from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_paths import PLACEHOLDER, kind_of, last_name, of_grant
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.diff import inherited
from pgvigil.validate.diff.default_rights import explained, owner_of
from pgvigil.validate.diff.diff_builder import DiffBuilder
from pgvigil.validate.repair import ddl_relations
from pgvigil.validate.repair.repair import Repairs
from pgvigil.validate.report import describe

_BY_HAND = ("session_lifecycle", "analytics_aggregations")  # what the session application writes itself
_SILENT = {"grant", "revocation", "extension"}  # of the application: not even told
_CALLS = ("revocation on function ", "revocation on procedure ", "revocation on aggregate ")
_ONLY_BY_REFERENCE = ("grant ", "revocation ", "sequence of ")  # a spec written by hand need not list these


class Strangers:
    def __init__(
        self, collector: DiffBuilder, expected: dict[str, Attributes], repairs: Repairs, *, of_reference: bool
    ) -> None:
        self.collector = collector
        self.declaration = collector.declaration
        self.found = collector.found
        self.expected = expected
        self.repairs = repairs
        self.of_reference = of_reference

    def log(self, taken: set[str], cared_for: set[str]) -> None:
        objects, roots = self.found.objects, self.found.roots
        if objects.keys() <= self.expected.keys():
            strange: list[str] = []
        else:
            strange = [
                path
                for path in objects
                if path not in self.expected and path not in taken and roots[path] not in cared_for
            ]
        not_ours = {path.partition(" ")[2] for path in strange if path.startswith(("table ", "view "))}
        unexpected = set(strange)
        for path in strange:
            kind, root, attributes = kind_of(path), roots[path], objects[path]
            if (root in not_ours and kind not in ("table", "view")) or (
                not self.declaration.complete and self._is_silent(path, root)
            ):
                continue
            if path.startswith("sequence of ") and self._is_identity(path):
                continue
            if kind == "column" and (
                inherited.is_of_parent(path, root, objects, self.expected)
                or inherited.is_change_of_type(root, self.expected, objects)
            ):
                continue
            if "constructor" in attributes:  # it comes and goes with its range type
                continue
            if inherited.is_left_by_parent(path, root, self.expected, objects):
                continue
            if (
                kind in ("grant", "revocation")
                and path.removeprefix(f"{kind} on ").rpartition(" to " if kind == "grant" else " from ")[0]
                in unexpected
            ):
                continue
            if (
                kind == "constraint"
                and attributes["definition"].startswith("NOT NULL")
                and "validated" not in attributes
            ):
                column = attributes["definition"].removeprefix("NOT NULL ").removesuffix(" NO INHERIT")
                fix = f"ALTER TABLE {root} ALTER CONSTRAINT {last_name(path)} INHERIT;"
                self.collector.add(
                    "different", f"column {root}.{column}", "NOT NULL", attributes["definition"], fix=fix
                )
                continue
            if kind == "constraint" and attributes["definition"].startswith("NOT NULL"):
                self.collector.add(
                    "invalid",
                    f"column {root}.{attributes['definition'].split()[-1]}",
                    "NOT NULL",
                    f"{attributes['definition']} NOT VALID, existing rows not checked",
                    fix=f"ALTER TABLE {root} VALIDATE CONSTRAINT {last_name(path)};",
                )
                continue
            if kind == "constraint" and "enforced" in attributes and "inherited" in attributes:
                enable = "\n".join(self.found.details[path]["enable"])
                said = describe.phrase(path, "enforced", attributes)
                self.collector.add("disabled", path, describe.phrase(path, "enforced", {}), said, fix=enable)
                continue
            said = self.collector.said(describe.whole(path, attributes)) + self._consequence(path, attributes)
            family = [p for p in (*attributes.get("inherits", ()), attributes.get("partition_of")) if p]
            fix = self.repairs.drop(path)
            if family and kind == "table" and not self.declaration.complete:
                fix = "\n".join(f"ALTER TABLE {root} NO INHERIT {parent};" for parent in attributes.get("inherits", ()))
            self.collector.unexpected(
                path, said, self._blamed(path, kind, root, attributes), fix, in_force=bool(family)
            )
        if not self.declaration.complete:
            self._row_security()

    def _is_identity(self, path: str) -> bool:
        """A sequence that is there for an identity or a column that should not be: told with it."""
        column = path.replace("sequence of ", "column ", 1)
        return "identity" in self.found.objects.get(column, {}) or column not in self.expected

    def _is_silent(self, path: str, root: str) -> bool:
        """Not even a note: what everybody does with tables of his own."""
        kind = kind_of(path)
        if path.startswith("sequence of ") and (root in self.declaration.application or self._is_identity(path)):
            return True
        if self.of_reference and self.found.grantees.get(path) in self.declaration.roles:
            return False
        if kind == "extension" and self.found.objects[path]["schema"] not in self.declaration.schemas:
            return True
        if not self.of_reference and path.startswith(_ONLY_BY_REFERENCE):
            return True
        if path == f"grant on schema {{schema}} to {quoted(self.found.owner)}":
            return True  # whose objects lie there
        loose = self._is_loose(path, root)
        return loose and kind in _SILENT and not self.collector.strict

    def _is_loose(self, path: str, root: str) -> bool:
        return root in self.declaration.application or PLACEHOLDER.match(path) is not None

    def _blamed(self, path: str, kind: str, root: str, attributes: Attributes) -> bool:
        """Return true if it is drift in our schema: a finding, not a note."""
        if self.declaration.complete:
            of_schema = path.startswith(("grant on schema {schema} ", "revocation on schema {schema} "))
            return not (of_schema and self.collector.another_major)
        if kind == "statistics":
            return False
        if kind == "rule" and " DO INSTEAD " in attributes["definition"]:
            return True  # what it does away with no trigger sees
        if kind == "trigger" and any(
            attributes["function"].startswith(f"{schema}.") for schema in self.declaration.schemas
        ):
            return True
        if kind in ("grant", "revocation") and explained(self.found, path, attributes):
            return False
        if self._is_of_the_application(path, attributes):
            return self.collector.strict
        if path.startswith(_CALLS) and path.endswith(" from PUBLIC"):
            return of_grant(path) in self.declaration.for_all  # fewer may call it than might
        if (
            kind == "table"
            and (parents := attributes.get("inherits"))
            and not any(root.startswith(f"{s}.") for s in self.declaration.schemas)
        ):
            return any(parent not in self.declaration.application or self._is_logged(parent) for parent in parents)
        return not self._is_loose(path, root)

    def _is_of_the_application(self, path: str, attributes: Attributes) -> bool:
        """Return true if it is the right that an application needs which writes events and aggregations by hand. That is an application, and no
        stranger, which may write the sessions themselves.
        """
        role = self.found.grantees.get(path, "")
        if role in self.declaration.roles or path not in {
            f"grant on table {name} to {quoted(role)}" for name in _BY_HAND
        }:
            return False
        sessions = set(self.found.objects.get(f"grant on table sessions to {quoted(role)}", {}).get("privileges", ()))
        privileges = set(attributes["privileges"])
        return (
            {"INSERT", "UPDATE"} <= sessions
            and "INSERT" in privileges
            and privileges <= {"INSERT", "SELECT"} & sessions
        )

    def _is_logged(self, table: str) -> bool:
        """Return true if triggers of ours keep a log or a count of its rows, which they do not of a child's."""
        return any(
            path.startswith(f"trigger {table}.") and of.get("timing") == "AFTER"
            for path, of in self.declaration.objects.items()
        )

    def _consequence(self, path: str, attributes: Attributes) -> str:
        """Words on what an object does to ours."""
        kind = kind_of(path)
        if kind in ("grant", "revocation") and (default := explained(self.found, path, attributes)):
            return f", by {default}"
        if self.declaration.complete:
            return ""
        if self._is_of_the_application(path, attributes):
            role = quoted(self.found.grantees[path])
            return (
                f": {role} may write sessions, and writes these rows by hand; any trail can be made up with this right"
            )
        if kind == "table" and (parents := attributes.get("inherits")):
            return f": its rows are read as rows of {', '.join(parents)}, and no trigger of ours fires for them"
        if kind == "trigger" and (attributes["timing"], attributes["level"]) == ("BEFORE", "ROW"):
            return ": it can change a row or keep it from being stored; what it changes by itself leaves no event"
        return ""

    def _row_security(self) -> None:
        """Told as something that was added, not as a difference."""
        for path, attributes in self.found.objects.items():
            root = self.found.roots[path]
            if (
                path == f"table {root}"
                and "row_security" in attributes
                and "row_security" not in self.expected.get(path, {})
                and path in self.expected
            ):
                closed = attributes["row_security"] == "forced" and not self._lets_owner_in(path, root)
                self.collector.unexpected(
                    f"row security of {root}",
                    "FORCE ROW LEVEL SECURITY, and no policy for its owner: our own functions see no row"
                    if closed
                    else "enabled",
                    closed or root not in self.declaration.application,
                    f"ALTER TABLE {root} NO FORCE ROW LEVEL SECURITY;"
                    if closed and root in self.declaration.application
                    else ddl_relations.relation(root, "row_security", {}),
                    in_force=closed,
                )

    def _lets_owner_in(self, path: str, root: str) -> bool:
        owner = owner_of(self.found, path)
        policies = [of for other, of in self.found.objects.items() if other.startswith(f"policy {root}.")]
        return any(
            not of.get("restrictive") and {"PUBLIC", owner, quoted(owner)} & set(of.get("roles", ["PUBLIC"]))
            for of in policies
        )
