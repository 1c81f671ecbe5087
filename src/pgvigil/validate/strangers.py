"""What is there and nobody declared: done to us, or an application's own business."""

from __future__ import annotations

from pgvigil.validate import ddl, printing
from pgvigil.validate.catalog import Attributes
from pgvigil.validate.collect import Collector
from pgvigil.validate.expected import PLACEHOLDER, kind_of, last_name
from pgvigil.validate.repair import Repairs

_SILENT = {"grant", "revocation", "extension"}  # of the application: not even told
_ONLY_BY_REFERENCE = ("grant ", "revocation ", "sequence of ")  # a spec written by hand need not list these


class Strangers:
    def __init__(
        self, collector: Collector, wanted: dict[str, Attributes], repairs: Repairs, *, of_reference: bool
    ) -> None:
        self.collector = collector
        self.declaration = collector.declaration
        self.found = collector.found
        self.wanted = wanted
        self.repairs = repairs
        self.of_reference = of_reference

    def tell(self, taken: set[str], cared_for: set[str]) -> None:
        objects, roots = self.found.objects, self.found.roots
        if objects.keys() <= self.wanted.keys():
            strange: list[str] = []
        else:
            strange = [
                path
                for path in objects
                if path not in self.wanted and path not in taken and roots[path] not in cared_for
            ]
        not_ours = {path.partition(" ")[2] for path in strange if path.startswith(("table ", "view "))}
        unexpected = set(strange)
        for path in strange:
            kind, root, attributes = kind_of(path), roots[path], objects[path]
            if (root in not_ours and kind not in ("table", "view")) or (
                not self.declaration.complete and self._is_silent(path, root)
            ):
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
            self.collector.unexpected(
                path,
                self.collector.said(printing.whole(path, attributes)),
                self._blamed(path, kind, root, attributes),
                self.repairs.drop(path),
            )
        if not self.declaration.complete:
            self._row_security()

    def _is_identity(self, path: str) -> bool:
        """A sequence that is there for an identity or a column that should not be: told with it."""
        column = path.replace("sequence of ", "column ", 1)
        return "identity" in self.found.objects.get(column, {}) or column not in self.wanted

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
        loose = self._is_loose(path, root)
        return loose and kind in _SILENT and not self.collector.strict

    def _is_loose(self, path: str, root: str) -> bool:
        return root in self.declaration.application or PLACEHOLDER.match(path) is not None

    def _blamed(self, path: str, kind: str, root: str, attributes: Attributes) -> bool:
        """Whether somebody did this to us: a finding, not a note."""
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
        if kind == "grant" and self._by_default_privileges(path, attributes):
            return False
        if (
            kind == "table"
            and (parents := attributes.get("inherits"))
            and not any(root.startswith(f"{s}.") for s in self.declaration.schemas)
        ):
            return any(parent not in self.declaration.application for parent in parents)
        return not self._is_loose(path, root)

    def _by_default_privileges(self, path: str, attributes: Attributes) -> bool:
        """An ALTER DEFAULT PRIVILEGES of the DBA's gives rights on whatever is made, ours as well."""
        role = self.found.grantees[path]
        kinds = {
            "table": "r",
            "view": "r",
            "sequence": "S",
            "function": "f",
            "procedure": "f",
            "type": "T",
            "schema": "n",
        }
        of = kinds.get(kind_of(path.removeprefix("grant on ")))
        given = {
            privilege
            for _, kind, _, grantee, privilege in (self.found.server.default_grants if self.found.server else [])
            if (kind, grantee) == (of, role)
        }
        return bool(given) and {name.removesuffix(" WITH GRANT OPTION") for name in attributes["privileges"]} <= given

    def _row_security(self) -> None:
        """Told as something that was added, not as a difference."""
        for path, attributes in self.found.objects.items():
            root = self.found.roots[path]
            if (
                path == f"table {root}"
                and "row_security" in attributes
                and "row_security" not in self.wanted.get(path, {})
                and path in self.wanted
            ):
                self.collector.unexpected(
                    f"row security of {root}",
                    "enabled",
                    root not in self.declaration.application,
                    ddl.relation(root, "row_security", {}),
                )
