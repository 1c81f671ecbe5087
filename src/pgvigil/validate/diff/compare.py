"""The spec, and what the project's own DDL makes on this very server, held against the catalog.

Both are objects by path, with their attributes. What is wanted is compared raw first; where an expression is spelt in another
way, the server is asked to read both.

More than 400 lines, because every rule here reads both sides, the renames that were followed and the marks of the spec.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import replace
from functools import cached_property
from typing import Any, cast

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import quoted, unquoted
from pgvigil.validate.catalog.object_paths import GRANT, kind_of, of_grant
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot
from pgvigil.validate.catalog.spelling import canonical, table_storage, without_upkeep
from pgvigil.validate.diff import equivalence, inherited, not_inherited, partitions, pg_dump_gaps, renames
from pgvigil.validate.diff.default_rights import explained, owner_of
from pgvigil.validate.diff.diff_builder import ABSENT, AttributeDiff, DiffBuilder
from pgvigil.validate.diff.equivalence import Probe
from pgvigil.validate.diff.expected_state import Rows, join
from pgvigil.validate.diff.unexpected import Strangers
from pgvigil.validate.repair import ddl
from pgvigil.validate.repair.repair import Repairs
from pgvigil.validate.report import describe
from pgvigil.validate.report.model import Kind, Unchecked
from pgvigil.validate.spec.declaration import Mark

LEDGER = "pgvigil.migrations"
VALUES_OF = "The values of "  # pgvigil.value_check knows it by the same words

# How an object is kept and tuned. On a table of the application this is its owner's business.
_TUNING = {"with", "storage", "compression", "tablespace", "replica_identity", "access_method", "owned_by", "version"}
# On our tables too: what the machine decides.
_MACHINE = {"tablespace"}
# State, rather than definition.
_STATES: dict[tuple[str, str], Kind] = {
    ("index", "valid"): "invalid",
    ("constraint", "valid"): "invalid",
    ("constraint", "validated"): "invalid",
    ("constraint", "enforced"): "disabled",
    ("trigger", "enabled"): "disabled",
    ("rule", "enabled"): "disabled",
    ("event trigger", "enabled"): "disabled",
}
_OF_SERVERS = re.compile("(^|grant on |revocation on )other (foreign_data_wrapper|server|user_mapping) ")
_INVALID = "INVALID, and declared so: the server does not use it"
_UNENFORCED = "its internal triggers are disabled, and declared so: it is not enforced"
_SAID_ANYHOW = frozenset({"hidden", "valid", "enforced"})  # though both sides have it
_CALLS = ("revocation on function ", "revocation on procedure ", "revocation on aggregate ")
_COMMENTED = {"schema", "table", "view", "column", "constraint", "index", "trigger", "function", "procedure"}


class Comparison:
    def __init__(self, collector: DiffBuilder, reference: Snapshot | None, rows: Rows) -> None:
        self.collector = collector
        self.declaration = collector.declaration
        self.found = collector.found
        self.reference = reference
        self.rows = rows
        self.expected, self.roots, self.marks = join(self.declaration, reference, self.found, rows)
        if self.found.server and self.found.schema == "public":
            self.expected = pg_dump_gaps.carried(self.expected, self.declaration.major, self.found.server.major)
        self.renames = renames.follow(self.expected, self.roots, self.marks, self.found)
        self.found = collector.found = self.renames.found
        self.repairs = Repairs(self.expected, self.roots, self.found, self.declaration.patterns)
        there = self.found.objects
        self.changed = [path for path, of in self.expected.items() if there.get(path) != of]
        self.undeclared = [path for path in there if path not in self.expected] if there.keys() - self.expected else []

    def _leave_open(self, path: str, expected: Attributes, there: Attributes | None) -> bool:
        """If tables existed before, their lists need not be closed, and a CHECK of the application's own is its own affair."""
        ledger = self.rows.get(LEDGER)
        if ledger is None and f"table {LEDGER}" in self.found.objects and there is None:
            self.collector.unreadable.add(LEDGER)
        elif not any(row.get("revision") == "000" and row.get("baselined") for row in ledger or ()):
            return False
        if there and (there.get("comment") or "").startswith(VALUES_OF):  # ours is known by its comment
            return False
        said = canonical("definition", expected["definition"])
        if there and canonical("definition", there["definition"]) != said:
            self.collector.add("different", path, said, f"{there['definition']}, the application's own", "note")
        return True

    # --- the comparison ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        objects, compared = self.found.objects, self.collector.compared
        taken: set[str] = set()
        self._schema_and_roles()
        taken |= self._left_out_of_dumps()
        taken |= self._noted_with_another(taken)
        taken |= self._of_another_owner()
        for rename in self.renames.list:
            shown = rename.expected or describe.whole(rename.path, self.expected[rename.path])
            kind: Kind = "different" if rename.different else "missing"
            self.collector.add(kind, rename.path, shown, rename.found, fix=rename.fix)
        members = self._members()
        compared.update(map(kind_of, self.expected))
        changed = set(self.changed)
        for path, expected in self.expected.items():
            if path not in changed and path not in self.marks and _SAID_ANYHOW.isdisjoint(expected):
                continue
            there = objects.get(path)
            if there is not None and (hidden := [one for one in (expected, there) if "hidden" in one]):
                who = "this role" if there in hidden else "the role that dumped the spec"
                self.collector.unchecked.append(Unchecked(f"options of {path}", f"{who} may not read them"))
                continue
            if expected.get("valid") is False and (there is None or "valid" in there):  # pg_dump leaves it out
                there = there and {**there, "valid": False}
                if there:
                    self.collector.add("invalid", path, _INVALID, _INVALID, "note", fix=self.repairs.rebuilt(path))
            if expected.get("enforced") is False and there and "enforced" in there:  # pg_dump leaves that out, too
                self.collector.add("disabled", path, _UNENFORCED, _UNENFORCED, "note")
            unwanted = "valid" in expected or ("enforced" in expected and "inherited" in expected)
            if (there == expected and path not in self.marks) or path in taken or (there is None and unwanted):
                continue
            mark = self.marks.get(path)
            if mark and mark.unless_baselined and self._leave_open(path, expected, there):
                continue
            if there is None and mark and (other := self._under_another_name(path, expected, mark, taken)) is not None:
                if other:
                    taken.add(other)
                    self._compare(path, expected, objects[other], mark)
            elif there is None:
                if extension := members.pop(path, ""):
                    self._member(path, extension, "different")
                elif not self._part_of_missing(path):
                    self._missing(path, expected, mark)
            elif (
                mark
                and mark.optional
                and canonical("definition", there["definition"]) != canonical("definition", expected["definition"])
            ):
                continue  # the application's own
            else:
                self._compare(path, expected, there, mark)
        cared_for: set[str] = set()
        for name, pattern in self.declaration.patterns.items():
            if objects.get(f"table {name}", {}).get("kind") == "partitioned table":
                cared_for |= partitions.compare(self.collector, name, pattern, self._owner(f"table {name}"))
        self._rows()
        for path, extension in members.items():
            self._member(path, extension, "unexpected")
        Strangers(self.collector, self.expected, self.repairs, of_reference=self.reference is not None).log(
            taken, cared_for
        )

    def _owner(self, path: str) -> str:
        return str(self.expected.get(path, {}).get("owned_by", self.found.owner))

    def _members(self) -> dict[str, str]:
        """Return the objects that were made members of an extension elsewhere, which hides them, with that extension."""
        if self.declaration.complete or self.found.server is None:
            return {}
        here = f" {quoted(self.found.schema)}."
        return {
            path.removeprefix("materialized ").removeprefix("composite ").replace(here, " ", 1): extension
            for path, extension in self.found.server.members
        }

    def _member(self, path: str, extension: str, kind: Kind) -> None:
        what = f"{kind_of(path).upper()} {path.removeprefix(kind_of(path)).strip()}"
        fix = f"ALTER EXTENSION {quoted(extension)} DROP {what};"
        if kind == "unexpected":
            fix += f"\nDROP {what};" if kind_of(path) in ("function", "procedure", "view") else ""
        said = f"a member of extension {extension}: what it does is hidden, and DROP EXTENSION takes it away"
        self.collector.add(kind, path, "a member of no extension" if kind == "different" else "", said, fix=fix)

    def _schema_and_roles(self) -> None:
        server = self.found.server
        if server is None:
            return
        if not server.schema_there and "{schema}" not in self.declaration.schemas:
            self.collector.miss(f"schema {self.found.schema}", "a schema")
        for role in self.declaration.roles:
            self.collector.compared["role"] += 1
            if role not in server.roles:
                self.collector.add(
                    "missing",
                    f"role {role}",
                    "a role to grant to people and programs",
                    ABSENT,
                    "note",
                    fix=f"CREATE ROLE {role} NOLOGIN;",
                )

        for role, powers in server.powers.items():
            if powers:
                taken = [
                    f"REVOKE {p.removeprefix('member of ')} FROM {role};"
                    if " of " in p
                    else f"ALTER ROLE {role} NO{p};"
                    for p in powers
                ]
                self.collector.add(
                    "different",
                    f"role {role}",
                    "only what is granted to it here",
                    ", ".join(powers),
                    fix="\n".join(taken),
                )

    def _under_another_name(self, path: str, expected: Attributes, mark: Mark, taken: set[str]) -> str | None:
        """An application names its constraints as it likes, and may make its unique key as an index. "": such an index."""
        root = self.roots[path]
        if mark.ours or kind_of(path) != "constraint":
            return None
        text = canonical("definition", expected["definition"])
        for other in self.found.parts.get(root, ()):
            there = self.found.objects[other]
            if other in self.expected or other in taken:
                continue
            if kind_of(other) == "constraint" and canonical("definition", there["definition"]) == text:
                return other
            if (
                kind_of(other) == "index"
                and "valid" not in there
                and there["definition"] == text.replace("UNIQUE ", "UNIQUE btree ", 1)
            ):
                return ""
        return None

    def _part_of_missing(self, path: str) -> bool:
        """Report with a missing object its parts and rights, and the inherited parts of its children."""
        root = self.roots[path]
        if kind_of(path) == "column" and (
            inherited.is_of_parent(path, root, self.expected, self.found.objects)
            or inherited.is_change_of_type(root, self.expected, self.found.objects)
        ):
            return True
        relations = {f"{kind} {root}" for kind in ("table", "view", "sequence")}
        if root and path not in relations and not relations & self.found.objects.keys():
            return True
        kind = kind_of(path)
        if (attached := self.expected[path].get("attached")) and (parent := self._parent(path)) in self.expected:
            return parent not in self.found.objects and bool(attached)
        if path.startswith("sequence of "):  # of an identity that is not there either
            column = path.replace("sequence of ", "column ", 1)
            return "identity" in self.expected.get(column, {}) and "identity" not in self.found.objects.get(column, {})
        of = path.removeprefix(f"{kind} on ").rpartition(" to " if kind == "grant" else " from ")[0]
        if kind == "grant" and (there := self.found.objects.get(of)):
            return path == f"grant on {of} to {quoted(there.get('owned_by', ''))}"  # whoever owns it has every right
        return kind in ("grant", "revocation") and of in self.expected and of not in self.found.objects

    def _parent(self, path: str) -> str:
        """The index or key of the partitioned table that the one of a partition is part of."""
        of = self.expected.get(f"table {self.roots[path]}", {}).get("partition_of")
        return f"{kind_of(path)} {of}.{self.expected[path]['attached']}"

    def _left_out_of_dumps(self) -> set[str]:
        """Note what pg_dump does not carry, and return the paths."""
        noted: set[str] = set()
        objects = self.found.objects
        server = self.found.server
        copy = bool(server and self.declaration.database and server.database != self.declaration.database)
        for path in [*self.changed, *self.undeclared]:
            reason = pg_dump_gaps.left_out(path, self.expected, objects, copy=copy)
            expected, there = self.expected.get(path), objects.get(path)
            of = of_grant(path) or path
            if (
                not reason
                or expected == there
                or (kind_of(of) == "function" and not (of in objects and of in self.expected))
            ):
                continue
            noted.add(path)
            kind: Kind = "missing" if there is None else "unexpected" if expected is None else "different"
            shown = describe.whole(path, expected) if expected else ABSENT
            found = describe.whole(path, there) if there else ABSENT
            self.collector.add(kind, path, f"{shown} ({reason})", found, "note")
        return noted

    def _of_another_owner(self) -> set[str]:
        """Return the rights that come and go with an owner: ALTER … OWNER gives them to the one that is wanted."""
        told: set[str] = set()
        for path in self.changed:
            expected, there = self.expected[path], self.found.objects.get(path)
            if there is None or expected.get("owned_by") == there.get("owned_by"):
                continue
            right, wrong = (quoted(of.get("owned_by", self.found.owner)) for of in (expected, there))
            mine, others = (f"revocation on {path} from {one}" for one in (right, wrong))
            told |= {one for one in (f"grant on {path} to {wrong}", mine) if one not in self.expected}
            if self.expected.get(mine) == self.found.objects.get(others):
                told |= {mine, others}
        return told

    def _noted_with_another(self, taken: set[str]) -> set[str]:
        """Return what is in an undeclared schema, and the parts that partitions have of an undeclared index."""
        objects, roots = self.found.objects, self.found.roots
        undeclared = [path for path in self.undeclared if path not in taken]
        names = [path.partition(" ")[2] for path in undeclared if path.startswith("schema ")]
        inside = re.compile(f" ({'|'.join(map(re.escape, names))})[. ]") if names else None
        noted = {path for path in undeclared if inside and (inside.search(path) or inside.search(f" {roots[path]}."))}
        if not self.declaration.complete:  # it says nothing of servers
            noted |= {path for path in undeclared if _OF_SERVERS.search(path)}
        for path in undeclared:
            if attached := objects[path].get("attached"):
                of = objects.get(f"table {roots[path]}", {}).get("partition_of")
                noted |= {path} if f"{kind_of(path)} {of}.{attached}" in undeclared else set()
        return noted

    def _missing(self, path: str, expected: Attributes, mark: Mark | None) -> None:
        if mark and mark.optional:
            return
        kind, label, root = kind_of(path), path.partition(" ")[2], self.roots[path]
        if kind == "constraint" and (name := not_inherited.inheriting(path, root, self.expected, self.found.objects)):
            said = expected["definition"]
            fix = not_inherited.repair(path, root, name)
            self.collector.add("different", path, said, said.removesuffix(" NO INHERIT"), fix=fix)
            return
        if kind == "grant" and self.found.server and not self._is_role(path):
            return  # told by itself
        if kind == "revocation" and path.startswith(_CALLS) and path.endswith(" from PUBLIC"):
            self._open_to_all(path, expected)
            return
        for other in ("view", "table"):
            if kind in ("table", "view") and other != kind and f"{other} {label}" in self.found.objects:
                found = self.found.objects[f"{other} {label}"]
                self.collector.differ(
                    path, [AttributeDiff(describe.whole(path, expected), describe.whole(f"{other} {label}", found))]
                )
                return
        if root in self.declaration.reads and kind == "view":
            expected = expected | {"reads": list(self.declaration.reads[root])}
        said = {"schema": "a schema", "table": "table"}.get(kind) if "partition_by" not in expected else None
        self.collector.miss(
            path, said or describe.whole(path, expected), expected, root, fix=lambda: self.repairs.make(path)
        )

    def _is_role(self, path: str) -> bool:
        match = GRANT.fullmatch(path.removeprefix("grant "))
        roles = self.found.server.roles if self.found.server else []
        return match is None or match[3] == "PUBLIC" or unquoted(match[3]) in roles

    def _open_to_all(self, path: str, expected: Attributes) -> None:
        function = self.found.objects.get(of_grant(path), {})
        definer = function.get("security") == "DEFINER"
        rights = (
            f"with the rights of {owner_of(self.found, of_grant(path))} (SECURITY DEFINER)"
            if definer
            else "as they are"
        )
        said = f"open EXECUTE: whoever can connect may call it, {rights}"
        fix = ddl.create(path, "", expected)
        self.collector.add("missing", path, "EXECUTE for those alone to whom it is granted", said, fix=fix)

    def _compare(self, path: str, expected: Attributes, there: Attributes, mark: Mark | None) -> None:
        def fix(keys: list[str]) -> str:
            return self.repairs.change(path, keys)

        kind, root = kind_of(path), self.roots[path]
        tuning = _TUNING if root in self.declaration.application or kind == "extension" else _MACHINE
        declared = self.declaration.marks[path].spoken_of if mark and path in self.declaration.marks else ()
        plain: list[AttributeDiff] = []
        tuned: list[AttributeDiff] = []
        for key, a, b in self._differing(path, expected, there, mark):
            if kind == "grant" and key == "privileges" and self._by_default(path, a, b):
                continue
            part = self._part(path, root, key, {**expected, key: a}, {**there, key: b})
            state = _STATES.get((kind, key))
            if kind == "index" and key == "valid" and pg_dump_gaps.has_foreign_partition(root, self.found.objects):
                said = f"{part.expected} ({pg_dump_gaps.FOREIGN_PARTITION})"
                self.collector.differ(path, [replace(part, expected=said)], "note", kind="invalid")
                continue
            if state and (key != "enabled" or b in ("DISABLED", "REPLICA")):
                self.collector.differ(path, [part], kind=state, fix=fix)
            else:
                (tuned if key in tuning and key not in declared else plain).append(part)
        if kind == "view" and root in self.declaration.reads:
            plain += self._reads(root, path)
        keys = [part.key for part in plain]
        if kind == "trigger" and keys != ["depends_on"] and not all(part.probe for part in plain):
            plain = [AttributeDiff(describe.whole(path, expected), describe.whole(path, there), None, "function")]
        if kind == "view" and keys == ["with"] and self._restored_from_14(path):
            plain, tuned = [], plain
        if path == "schema {schema}" and self.collector.another_major:
            plain, tuned = [], [*tuned, *plain]
        if [part.key for part in plain] == ["order"] and pg_dump_gaps.reorders(path, self.expected, self.found.objects):
            plain, tuned = [], [*tuned, replace(plain[0], expected=f"{plain[0].expected}: {pg_dump_gaps.ORDER}")]
        if path.startswith("sequence of ") and pg_dump_gaps.retypes(path, [part.key for part in plain], self.expected):
            plain, tuned = (
                [],
                [*tuned, *(replace(part, expected=f"{part.expected}: {pg_dump_gaps.IDENTITY}") for part in plain)],
            )
        self.collector.differ(path, plain, fix=fix)
        self.collector.differ(path, tuned, "finding" if self.collector.strict else "note", fix=fix)
        self._comment(path, expected, there, mark)

    def _by_default(self, path: str, expected: list[str], there: list[str]) -> bool:
        """Return true if a grant has all it should have, and the rest is the doing of the owner's own default privileges, which a dumped
        spec knows itself.
        """
        if self.declaration.complete:
            return False
        more = [privilege for privilege in there if privilege not in expected]
        default = explained(self.found, path, {"privileges": more}) if more and set(expected) <= set(there) else ""
        if default:
            self.collector.add("different", path, ", ".join(expected), f"{', '.join(there)}, by {default}", "note")
        return bool(default)

    def _differing(
        self, path: str, expected: Attributes, there: Attributes, mark: Mark | None
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield the differences that are not only in spelling: key, expected, found."""
        if expected == there:
            return
        kind = kind_of(path)
        free = {"comment"}  # it has a finding of its own
        if not self.declaration.complete:
            free |= {"row_security", "not_null", "not_null_comment"}
            if kind == "sequence":
                free.add("name")  # the server may have had to choose another
        if kind == "table" and mark:
            free.add("order")
        if kind == "sequence" and (path.startswith("sequence of ") or ("of" in expected and "of" in there)):
            free.add("owned_by")  # the server keeps it the owner of the table
        if kind in ("column", "type") and self._without_named_not_null:
            free |= {"not_null", "not_null_comment"}
        elif "not_null" in there and kind == "column":
            free |= (
                {"not_null"}
                if not_inherited.is_of_one(path, self.roots[path], self.expected, self.found.objects)
                else set()
            )
        if kind in ("index", "constraint", "column") and self._detached(path):
            free |= {"attached", "inherited", "not_null", "not_null_comment"}  # they are with its partition
        for key in {**expected, **there}:
            a, b = expected.get(key), there.get(key)
            if key == "privileges" and pg_dump_gaps.all_of_them(a or [], b or [], self.declaration.major):
                continue
            if (
                a == b
                or key in free
                or (key in ("valid", "enforced") and a is False)
                or (mark and key not in mark.spoken_of)
            ):
                continue
            if (
                key == "identity"
                and a is None
                and pg_dump_gaps.is_identity_of_parent(
                    path, self.roots[path], self.found.objects, self.declaration.major
                )
            ):
                continue
            if kind == "column" and key == "default" and b is None and self._reads_missing_sequence(path, a):
                continue  # the repair of the sequence sets it
            if kind == "column" and inherited.is_parents_change(
                path, self.roots[path], key, (a, b), self.expected, self.found.objects
            ):
                continue
            if canonical(key, a) == canonical(key, b):
                continue
            if key in ("inherited", "not_null", "not_null_comment") and inherited.has_other_parents(
                self.roots[path], self.expected, self.found.objects
            ):
                continue
            if kind in ("column", "table") and inherited.is_change_of_type(
                self.roots[path], self.expected, self.found.objects, key
            ):
                continue
            if key == "validated" and any("NOT ENFORCED" in of.get("definition", "") for of in (expected, there)):
                continue  # such a constraint is never validated
            if key == "order":
                a, b = _shared(a, b), _shared(b, a)
            elif key == "with":
                a, b = self._storage(kind, a, b, subset=bool(mark and not mark.ours))
            if a != b:
                yield key, a, b

    def _reads_missing_sequence(self, path: str, default: Any) -> bool:
        sequence = path.replace("column ", "sequence of ", 1)
        return (
            self.declaration.complete
            and sequence in self.expected
            and sequence not in self.found.objects
            and str(default).startswith("nextval(")
        )

    @cached_property
    def _without_named_not_null(self) -> bool:
        """Before PostgreSQL 18 it had no name and no comment."""
        server = self.found.server
        return 0 < self.declaration.major < 18 or (server is not None and server.major < 18)

    def _detached(self, path: str) -> bool:
        table = f"table {self.roots[path]}"
        expected, there = (of.get(table, {}).get("partition_of") for of in (self.expected, self.found.objects))
        return bool(expected != there)

    def _restored_from_14(self, path: str) -> bool:
        """14 knows no security_invoker: in a database restored from it no view has it."""

        def invokes(attributes: Attributes) -> bool:
            return "security_invoker" in (attributes.get("with") or {})

        invokers = [other for other, of in self.expected.items() if other.startswith("view ") and invokes(of)]
        have = [other for other in invokers if invokes(self.found.objects.get(other, {}))]
        expected, there = (dict(of.get("with") or {}) for of in (self.expected[path], self.found.objects[path]))
        expected.pop("security_invoker", None)
        return path in invokers and len(invokers) > 1 and not have and expected == there

    def _storage(self, kind: str, expected: Any, there: Any, *, subset: bool) -> tuple[Attributes, Attributes]:
        a, b = (table_storage(of) if kind == "table" else canonical("with", of) for of in (expected, there))
        if kind == "view" and self.declaration.major == 14:
            b.pop("security_invoker", None)
        if subset or (self.reference is None and not self.declaration.complete):
            b = {name: value for name, value in b.items() if name in a}
        elif not self.declaration.complete:
            b = without_upkeep(b) | {name: value for name, value in b.items() if name in a}
        return a, b

    def _part(self, path: str, root: str, key: str, expected: Attributes, there: Attributes) -> AttributeDiff:
        a, b = expected.get(key), there.get(key)
        shown, found = (self.collector.said(describe.phrase(path, key, attributes)) for attributes in (expected, there))
        if (
            key in describe.LONG
            and a
            and b
            and isinstance(a, str)
            and isinstance(b, str)
            and kind_of(path) not in ("constraint", "index")
        ):
            shown, found = describe.difference(a, b)
        question = None
        if (
            kind_of(path) == "collation"
            and key == "locale"
            and expected.get("provider") == there.get("provider") == "i"
        ):
            question = Probe(path, self.renames.real(root), key, a or "", b or "", json.dumps(there))
        elif (
            a
            and b
            and equivalence.possible(path, key)
            and (key != "body" or (expected.get("atomic") and there.get("atomic")))
        ):
            a = self.declaration.bodies.get(path, a) if key == "body" else a
            texts = [json.dumps(text) if isinstance(text, dict) else str(text) for text in (a, b)]
            if not (
                key == "definition"
                and kind_of(path) == "constraint"
                and not all("CHECK" in t or "EXCLUDE" in t for t in texts)
            ):
                question = Probe(path, self.renames.real(root), key, texts[0], texts[1], json.dumps(there))
        return AttributeDiff(shown, found, question, key)

    def _reads(self, name: str, path: str) -> list[AttributeDiff]:
        schema = self.found.schema
        reads = sorted(source if "." in source else f"{schema}.{source}" for source in self.declaration.reads[name])
        there = sorted(self.found.details[path].get("reads") or [])
        if reads == there:
            return []
        return [
            AttributeDiff(
                f"reads {', '.join(reads) or 'no table'}", f"reads {', '.join(there) or 'no table'}", None, "definition"
            )
        ]

    def _comment(self, path: str, expected: Attributes, there: Attributes, mark: Mark | None) -> None:
        text, found = expected.get("comment"), there.get("comment")
        known = mark is None or "comment" in mark.spoken_of
        ours = mark is not None and mark.ours and kind_of(path) in _COMMENTED
        if text == found or not (known or ours):
            return
        fix = self.repairs.comment(path)
        if found is None:
            self.collector.add("missing", f"comment on {path}", str(text), ABSENT, fix=fix)
        elif text is not None:
            self.collector.add("different", f"comment on {path}", *describe.difference(text, found), fix=fix)
        elif known and mark is None:
            self.collector.add("unexpected", f"comment on {path}", "", found, fix=fix)

    def _rows(self) -> None:
        for name, rows in self.declaration.rows.items():
            details = self.found.details.get(f"table {name}")
            if details is None:
                continue
            if not details.get("readable"):
                self.collector.unreadable.add(name)
                continue
            for expected in rows:
                self.collector.compared["row"] += 1
                path = f"row {name} ({', '.join(f'{key} = {value}' for key, value in expected.items())})"
                if not any(
                    all(str(row.get(key)) == value for key, value in expected.items())
                    for row in self.rows.get(name, [])
                ):
                    names, values = ", ".join(expected), ", ".join(map(sql_text.literal, expected.values()))
                    insert = sql_text.remark(f"INSERT INTO {name} ({names}, …) VALUES ({values}, …);")
                    self.collector.miss(path, "a row", {}, name, fix=lambda insert=insert: insert)  # type: ignore[misc]


def _shared(these: Any, those: Any) -> list[str]:
    return [name for name in cast("list[str]", these or []) if name in (those or [])]
