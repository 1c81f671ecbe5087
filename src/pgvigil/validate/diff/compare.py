"""The spec, and what the project's own DDL makes on this very server, compared with the catalog.

Both are objects with their attributes. What is expected is compared raw first; where an expression is spelt in another
way, the server is asked to read both.

More than 400 lines: every rule here reads both sides, the renames that were followed and the marks of the spec.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from functools import cached_property
from operator import attrgetter
from typing import TYPE_CHECKING, Any, Literal, cast

from pgvigil.lazily import later
from pgvigil.validate.catalog.identifiers import quoted, unquoted
from pgvigil.validate.catalog.object_ref import APPLICATION_SCHEMA, ROUTINES, ObjectRef, table, view
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot
from pgvigil.validate.catalog.spelling import canonical, table_storage, without_tuning
from pgvigil.validate.diff import renamed, roles
from pgvigil.validate.diff.diff_builder import ABSENT, AttributeDiff, DiffBuilder
from pgvigil.validate.diff.expected_state import Rows, join
from pgvigil.validate.report.model import Kind, Unchecked
from pgvigil.validate.spec.declaration import Mark

if TYPE_CHECKING:
    from pgvigil.validate.catalog import sql_text
    from pgvigil.validate.diff import (
        default_rights,
        equivalence,
        explained,
        extension_members,
        hidden_names,
        inherited,
        made_anew,
        not_inherited,
        partitions,
        pg_dump_gaps,
        renames,
        unexpected,
    )
    from pgvigil.validate.repair import ddl, ddl_routines, repair
    from pgvigil.validate.report import describe
else:
    sql_text = later("pgvigil.validate.catalog.sql_text")
    default_rights = later("pgvigil.validate.diff.default_rights")
    equivalence = later("pgvigil.validate.diff.equivalence")
    explained = later("pgvigil.validate.diff.explained")
    extension_members = later("pgvigil.validate.diff.extension_members")
    hidden_names = later("pgvigil.validate.diff.hidden_names")
    inherited = later("pgvigil.validate.diff.inherited")
    made_anew = later("pgvigil.validate.diff.made_anew")
    not_inherited = later("pgvigil.validate.diff.not_inherited")
    partitions = later("pgvigil.validate.diff.partitions")
    pg_dump_gaps = later("pgvigil.validate.diff.pg_dump_gaps")
    renames = later("pgvigil.validate.diff.renames")
    unexpected = later("pgvigil.validate.diff.unexpected")
    ddl = later("pgvigil.validate.repair.ddl")
    ddl_routines = later("pgvigil.validate.repair.ddl_routines")
    repair = later("pgvigil.validate.repair.repair")
    describe = later("pgvigil.validate.report.describe")

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
_INVALID = "INVALID, and declared so: the server does not use it"
_UNENFORCED = "its internal triggers are disabled, and declared so: it is not enforced"
_SAID_ANYHOW = frozenset({"hidden", "valid", "enforced"})  # though both sides have it
_COMMENTED = {"schema", "table", "view", "column", "constraint", "index", "trigger", "function", "procedure"}


class Comparison:
    def __init__(self, builder: DiffBuilder, reference: Snapshot | None, rows: Rows) -> None:
        self.builder = builder
        self.declaration = builder.declaration
        self.found = builder.found
        self.reference = reference
        self.rows = rows
        self.expected, self.roots, self.marks = join(self.declaration, reference, self.found, rows)
        server = self.found.server
        if server and 0 < self.declaration.major < server.major and self.found.schema == "public":
            self.expected = pg_dump_gaps.carried(self.expected, self.declaration.major, server.major)
        another = server is not None and self.declaration.major not in (0, server.major)
        if self.declaration.complete and (another or self.declaration.schema != self.found.schema):
            self.expected, self.roots = hidden_names.as_called_here(
                self.expected, self.roots, self.found, self.declaration.schema
            )
        self.renames = (
            renamed.unless_any(self.expected, self.marks, self.found)
            or renames.Search(self.expected, self.roots, self.marks, self.found, builder.comes_later).run()
        )
        self.found = builder.found = self.renames.found
        there = self.found.objects
        same = self.renames.nothing_differs
        self.replacing: set[ObjectRef] = set()  # routines of another kind, with their rights
        self.changed = [] if same else [ref for ref, of in self.expected.items() if there.get(ref) != of]
        self.undeclared = [ref for ref in there if ref not in self.expected] if there.keys() - self.expected else []

    @cached_property
    def repairs(self) -> repair.Repairs:
        return repair.Repairs(self.expected, self.roots, self.found, self.declaration.patterns)

    def _leave_open(self, ref: ObjectRef, expected: Attributes, there: Attributes | None) -> bool:
        """Return True for a list of values that need not be closed, and for a CHECK of the application's own.

        Lists of tables that are older than pgvigil stay open.
        """
        ledger = self.rows.get(LEDGER)
        if ledger is None and table(LEDGER) in self.found.objects and there is None:
            self.builder.unreadable.add(LEDGER)
        elif not any(row.get("revision") == "000" and row.get("baselined") for row in ledger or ()):
            return False
        if there and (there.get("comment") or "").startswith(VALUES_OF):  # ours is known by its comment
            return False
        said = canonical("definition", expected["definition"])
        if there and canonical("definition", there["definition"]) != said:
            self.builder.add("different", ref, said, f"{there['definition']}, the application's own", "note")
        return True

    # --- the comparison ----------------------------------------------------------------------------------------------

    def run(self) -> None:
        objects, compared = self.found.objects, self.builder.compared
        roles.compare(self.builder)
        taken: set[ObjectRef] = set()
        if self.changed or self.undeclared:
            taken = explained.Explained(self.builder, self.expected, self.changed, self.undeclared).objects()
        for rename in self.renames.list:
            shown = rename.expected or describe.in_one_line(rename.ref, self.expected[rename.ref])
            kind: Kind = "different" if rename.different else "missing"
            self.builder.add(kind, rename.ref, shown, rename.found, fix=rename.fix)
        members: dict[ObjectRef, str] = {}
        if server := self.found.server:
            members = extension_members.hidden(self.builder) if server.members else {}
        compared.update(map(attrgetter("kind"), self.expected))
        changed = set(self.changed)
        for ref, expected in self.expected.items():
            marked = ref in self.marks and ref.kind == "view"  # of which the spec may say what it reads
            if ref not in changed and not marked and _SAID_ANYHOW.isdisjoint(expected):
                continue
            there = objects.get(ref)
            if there is not None and (hidden := [one for one in (expected, there) if "hidden" in one]):
                who = "this role" if there in hidden else "the role that dumped the spec"
                self.builder.unchecked.append(Unchecked(f"options of {ref}", f"{who} may not read them"))
                continue
            if expected.get("valid") is False and (there is None or "valid" in there):  # pg_dump leaves it out
                there = there and {**there, "valid": False}
                if there:
                    self.builder.add("invalid", ref, _INVALID, _INVALID, "note", fix=self.repairs.rebuilt(ref))
            if expected.get("enforced") is False and there and "enforced" in there:  # pg_dump leaves that out, too
                self.builder.add("disabled", ref, _UNENFORCED, _UNENFORCED, "note")
            unwanted = "valid" in expected or ("enforced" in expected and "inherited" in expected)
            if (there == expected and ref not in self.marks) or ref in taken or (there is None and unwanted):
                continue
            mark = self.marks.get(ref)
            if mark and mark.unless_baselined and self._leave_open(ref, expected, there):
                continue
            if there is None and mark and (other := self._under_another_name(ref, expected, mark, taken)) is not None:
                if other:
                    taken.add(other)
                    self._compare(ref, expected, objects[other], mark)
            elif there is None:
                if extension := members.pop(ref, ""):
                    extension_members.add(self.builder, ref, extension, "different")
                elif not self._part_of_missing(ref):
                    self._missing(ref, expected, mark)
            elif (
                mark
                and mark.optional
                and canonical("definition", there["definition"]) != canonical("definition", expected["definition"])
            ):
                continue  # the application's own
            else:
                self._compare(ref, expected, there, mark)
        self._attached()
        if self.declaration.complete:
            self._being_detached()
        cared_for: set[str] = set()
        for name, pattern in self.declaration.patterns.items():
            if objects.get(table(name), {}).get("kind") == "partitioned table":
                cared_for |= partitions.compare(self.builder, name, pattern, self._owner(table(name)))
        self._rows()
        for ref, extension in members.items():
            extension_members.add(self.builder, ref, extension, "unexpected")
        if self.undeclared or not self.declaration.complete:
            unexpected.Unexpected(
                self.builder, self.expected, lambda: self.repairs, of_reference=self.reference is not None
            ).log(taken | self.replacing, cared_for)

    def _being_detached(self) -> None:
        """A partition that DETACH … CONCURRENTLY left half-way: no query on the whole table reads it."""
        for ref, details in self.found.details.items():
            parent = self.expected.get(ref, {}).get("partition_of") if details.get("detaching") else None
            if parent and self.found.objects[ref].get("partition_of") == parent:
                bound = self.expected[ref]["bound"]
                finalize = f"ALTER TABLE {parent} DETACH PARTITION {ref.label} FINALIZE;"
                fix = f"{finalize}\nALTER TABLE {parent} ATTACH PARTITION {ref.label} {bound};"
                self.builder.add("different", ref, f"attached to {parent}", "being detached", fix=fix)

    def _attached(self) -> None:
        renamed = [rename.ref for rename in self.renames.list]
        for objects, refs in ((self.expected, [*self.changed, *renamed]), (self.found.objects, self.undeclared)):
            for ref in refs:
                if "attached" in objects.get(ref, ()) and (whole := made_anew.whole_of(ref, objects[ref], objects)):
                    self.builder.whole_of[ref] = whole

    def _owner(self, ref: ObjectRef) -> str:
        return str(self.expected.get(ref, {}).get("owned_by", self.found.owner))

    def _under_another_name(
        self, ref: ObjectRef, expected: Attributes, mark: Mark, taken: set[ObjectRef]
    ) -> ObjectRef | Literal[""] | None:
        """An application names its constraints as it likes, and may make its unique key as an index. "": such an index."""
        root = self.roots[ref]
        if mark.ours or ref.kind != "constraint":
            return None
        text = canonical("definition", expected["definition"])
        for other in self.found.parts.get(root, ()):
            there = self.found.objects[other]
            if other in self.expected or other in taken:
                continue
            if other.kind == "constraint" and canonical("definition", there["definition"]) == text:
                return other
            if (
                other.kind == "index"
                and "valid" not in there
                and there["definition"] == text.replace("UNIQUE ", "UNIQUE btree ", 1)
            ):
                return ""
        return None

    def _part_of_missing(self, ref: ObjectRef) -> bool:
        """Report with a missing object its parts and rights, and the inherited parts of its children."""
        root, objects = self.roots[ref], self.found.objects
        if ref.kind == "column" and (
            inherited.is_of_parent(ref, self.expected, objects)
            or inherited.is_change_of_type(root, self.expected, objects)
        ):
            return True
        relations = {ObjectRef(kind, root) for kind in ("table", "view", "sequence")}
        of_column = ref.of is not None and ref.of.of_column  # the sequence of a column is not called by its name
        if root and ref not in relations and not relations & objects.keys() and not of_column:
            return True
        if expected_type := self._constructs(ref):  # it comes with its type, which is reported
            return self.expected[expected_type].get("range") != objects.get(expected_type, {}).get("range")
        if ref.kind == "constraint" and inherited.is_of_wrong_parent(ref, self.expected, objects):
            return True
        if (parent := made_anew.whole_of(ref, self.expected[ref], self.expected)) in self.expected:
            return parent not in objects
        if ref.of_column:  # of an identity that is not there either
            column = ref.column
            return "identity" in self.expected.get(column, {}) and "identity" not in objects.get(column, {})
        if (of := ref.of) is None:
            return False
        if of.of_column and self._is_identity_of_one(of.column):
            return True
        if ref.kind == "grant" and (there := objects.get(of)):
            return ref.grantee == quoted(there.get("owned_by", ""))  # whoever owns it has every right
        return of in self.expected and of not in objects

    def _constructs(self, ref: ObjectRef) -> ObjectRef | None:
        """The range type that is there, whatever it is now, of which a function should be a constructor."""
        if not self.expected[ref].get("constructor"):
            return None
        for type_, of in self.expected.items():
            if (
                "range" in of
                and type_ in self.found.objects
                and ref.bare_label in ddl_routines.constructors(type_.label, of)
            ):
                return type_
        return None

    def _missing(self, ref: ObjectRef, expected: Attributes, mark: Mark | None) -> None:
        if mark and mark.optional:
            return
        kind, root = ref.kind, self.roots[ref]
        if kind == "constraint" and (name := not_inherited.inheriting(ref, self.expected, self.found.objects)):
            said = expected["definition"] + " NOT VALID" * ("validated" in expected)
            fix = not_inherited.repair(ref, name, expected)
            there = said.removesuffix(" NOT VALID").removesuffix(" NO INHERIT")
            self.builder.add("different", ref, said, there, fix=fix)
            return
        if kind == "grant" and self.found.server and not self._is_role(ref):
            return  # reported by itself
        if kind == "revocation" and (of := ref.of) and of.kind in ROUTINES and ref.grantee == "PUBLIC":
            self._open_to_all(ref, of, expected)
            return
        other = {"table": view, "view": table}.get(kind)
        if other and (instead := other(ref.label)) in self.found.objects:
            found = describe.in_one_line(instead, self.found.objects[instead])
            self.builder.differ(ref, [AttributeDiff(describe.in_one_line(ref, expected), found)])
            return
        if kind in ROUTINES and (routine := self._of_another_kind(ref)):
            found = describe.in_one_line(routine, self.found.objects[routine])
            parts = [AttributeDiff(f"{kind}: {describe.in_one_line(ref, expected)}", f"{routine.kind}: {found}")]
            self.builder.differ(ref, parts, fix=lambda _: f"{self.repairs.drop(routine)}\n{self.repairs.make(ref)}")
            self.replacing |= {routine, *(one for one in self.found.objects if one.of == routine)}
            return
        if root in self.declaration.reads and kind == "view":
            expected = expected | {"reads": list(self.declaration.reads[root])}
        said = {"schema": "a schema", "table": "table"}.get(kind) if "partition_by" not in expected else None
        self.builder.miss(
            ref, said or describe.in_one_line(ref, expected), expected, root, fix=lambda: self.repairs.make(ref)
        )

    def _of_another_kind(self, ref: ObjectRef) -> ObjectRef | None:
        """Return the undeclared routine of the same name and arguments that is in the place of a missing one."""
        others = (ObjectRef(kind, ref.label) for kind in ROUTINES if kind != ref.kind)
        return next((one for one in others if one in self.found.objects and one not in self.expected), None)

    def _is_role(self, right: ObjectRef) -> bool:
        roles = self.found.server.roles if self.found.server else []
        return right.grantee in ("", "PUBLIC") or unquoted(right.grantee) in roles

    def _open_to_all(self, right: ObjectRef, of: ObjectRef, expected: Attributes) -> None:
        definer = self.found.objects.get(of, {}).get("security") == "DEFINER"
        rights = (
            f"with the rights of {default_rights.owner_of(self.found, of)} (SECURITY DEFINER)"
            if definer
            else "as they are"
        )
        said = f"open EXECUTE: every role that can connect may call it, {rights}"
        fix = ddl.create(right, "", expected)
        self.builder.add("missing", right, "EXECUTE for those alone to whom it is granted", said, fix=fix)

    def _compare(self, ref: ObjectRef, expected: Attributes, there: Attributes, mark: Mark | None) -> None:
        def fix(keys: list[str]) -> str:
            return self.repairs.change(ref, keys)

        kind, root = ref.kind, self.roots[ref]
        tuning = _TUNING if root in self.declaration.application or kind == "extension" else _MACHINE
        declared = self.declaration.marks[ref].spoken_of if mark and ref in self.declaration.marks else ()
        plain: list[AttributeDiff] = []
        tuned: list[AttributeDiff] = []
        for key, a, b in self._differing(ref, expected, there, mark):
            if kind == "grant" and key == "privileges" and self._by_default(ref, a, b):
                continue
            part = self._part(ref, root, key, {**expected, key: a}, {**there, key: b})
            state = _STATES.get((kind, key))
            if kind == "index" and key == "valid" and pg_dump_gaps.has_foreign_partition(root, self.found.objects):
                said = f"{part.expected} ({pg_dump_gaps.FOREIGN_PARTITION})"
                self.builder.differ(ref, [part._replace(expected=said)], "note", kind="invalid")
                continue
            if state and (key != "enabled" or b in ("DISABLED", "REPLICA")):
                self.builder.differ(ref, [part], kind=state, fix=fix)
            else:
                (tuned if key in tuning and key not in declared else plain).append(part)
        if kind == "view" and root in self.declaration.reads:
            plain += self._reads(root, ref)
        keys = [part.key for part in plain]
        if kind == "trigger" and keys != ["depends_on"] and not all(part.probe for part in plain):
            plain = [
                AttributeDiff(describe.in_one_line(ref, expected), describe.in_one_line(ref, there), None, "function")
            ]
        if kind == "view" and keys == ["with"] and self._restored_from_14(ref):
            plain, tuned = [], plain
        if ref == APPLICATION_SCHEMA and self.builder.another_major:
            plain, tuned = [], [*tuned, *plain]
        if [part.key for part in plain] == ["order"] and pg_dump_gaps.reorders(ref, self.expected, self.found.objects):
            plain, tuned = [], [*tuned, plain[0]._replace(expected=f"{plain[0].expected}: {pg_dump_gaps.ORDER}")]
        if ref.of_column and pg_dump_gaps.retypes(ref, [part.key for part in plain], self.expected):
            plain, tuned = (
                [],
                [*tuned, *(part._replace(expected=f"{part.expected}: {pg_dump_gaps.IDENTITY}") for part in plain)],
            )
        if [part.key for part in plain] == ["nullable"] and pg_dump_gaps.refuses_null(ref, self.expected, there):
            plain, tuned = [], [*tuned, plain[0]._replace(expected=f"{plain[0].expected}: {pg_dump_gaps.NULLABLE}")]
        self.builder.differ(ref, plain, fix=fix)
        self.builder.differ(ref, tuned, "finding" if self.builder.strict else "note", fix=fix)
        self._comment(ref, expected, there, mark)

    def _by_default(self, ref: ObjectRef, expected: list[str], there: list[str]) -> bool:
        """Return true if a grant has all it should have, and the rest is the doing of the owner's own default privileges, which a dumped
        spec knows itself.
        """
        if self.declaration.complete:
            return False
        more = [privilege for privilege in there if privilege not in expected]
        default = (
            default_rights.explained(self.found, ref, {"privileges": more})
            if more and set(expected) <= set(there)
            else ""
        )
        if default:
            self.builder.add("different", ref, ", ".join(expected), f"{', '.join(there)}, by {default}", "note")
        return bool(default)

    def _differing(
        self, ref: ObjectRef, expected: Attributes, there: Attributes, mark: Mark | None
    ) -> Iterator[tuple[str, Any, Any]]:
        """Yield the differences that are not only in spelling: key, expected, found."""
        if expected == there:
            return
        kind = ref.kind
        if ref.of_column and self._is_identity_of_one(ref.column):
            return  # the repair of the column makes it again
        free = {"comment"}  # it has a finding of its own
        if not self.declaration.complete:
            free |= {"row_security", "not_null", "not_null_comment"}
            if kind == "sequence":
                free.add("name")  # the server may have had to choose another
        if kind == "table" and mark:
            free.add("order")
        if kind == "sequence" and (ref.of_column or ("of" in expected and "of" in there)):
            free.add("owned_by")  # the server keeps it the owner of the table
        if kind in ("column", "type") and self._without_named_not_null:
            free |= {"not_null", "not_null_comment"}
        elif "not_null" in there and kind == "column":
            free |= {"not_null"} if not_inherited.is_of_one(ref, self.expected, self.found.objects) else set()
        if kind in ("index", "constraint", "column") and self._detached(ref):
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
                and pg_dump_gaps.is_identity_of_parent(ref, self.found.objects, self.declaration.major)
            ):
                continue
            if kind == "column" and key == "default" and b is None and self._reads_missing_sequence(ref, a):
                continue  # the repair of the sequence sets it
            if kind == "operator" and key == "definition" and self._lacks_partner(a, b):
                continue  # the repair of the other one brings it back
            if kind == "column" and key in ("type", "collation") and self._is_change_of_view(self.roots[ref]):
                continue
            if (
                kind == "column"
                and key == "nullable"
                and a is False
                and not_inherited.is_of_one(ref, self.expected, self.found.objects)
            ):
                continue  # the repair of the constraint sets it
            if kind == "table" and key == "replica_identity" and self._lacks_index(ref, a):
                continue  # the repair of the index sets it
            if inherited.is_parents_change(ref, key, (a, b), self.expected, self.found.objects):
                continue
            if canonical(key, a) == canonical(key, b):
                continue
            if key in ("inherited", "not_null", "not_null_comment") and inherited.has_other_parents(
                self.roots[ref], self.expected, self.found.objects
            ):
                continue
            if kind in ("column", "table") and inherited.is_change_of_type(
                self.roots[ref], self.expected, self.found.objects, key
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

    def _is_identity_of_one(self, column: ObjectRef) -> bool:
        """Return true if the column is an identity on one side, and a serial or no number at all on the other."""
        sides = [of.get(column, {}) for of in (self.expected, self.found.objects)]
        return self.declaration.complete and ("identity" in sides[0]) != ("identity" in sides[1])

    def _reads_missing_sequence(self, ref: ObjectRef, default: Any) -> bool:
        sequence = ref.owned_sequence
        return (
            self.declaration.complete
            and sequence in self.expected
            and sequence not in self.found.objects
            and str(default).startswith("nextval(")
        )

    def _is_change_of_view(self, root: str) -> bool:
        """Return true if a view reads otherwise than declared: its columns follow."""
        expected, there = (of.get(view(root), {}).get("definition") for of in (self.expected, self.found.objects))
        return self.declaration.complete and bool(expected and there) and expected != there

    def _lacks_partner(self, expected: Any, there: Any) -> bool:
        """Return true if an operator lacks only its negator or commutator, which is missing itself."""
        apart = {key for key in {**expected, **there} if expected.get(key) != there.get(key)}
        gone = {ref.name for ref in self.expected if ref.kind == "operator" and ref not in self.found.objects}
        names = {expected.get(key, "").removesuffix(")").rpartition(".")[2] for key in apart}
        return apart <= {"NEGATOR", "COMMUTATOR"} and apart.isdisjoint(there) and names <= gone

    def _lacks_index(self, ref: ObjectRef, identity: Any) -> bool:
        index = ObjectRef.on("index", ref.label, str(identity).removeprefix("USING INDEX "))
        return index in self.expected and index not in self.found.objects

    @cached_property
    def _without_named_not_null(self) -> bool:
        """Return True before PostgreSQL 18, where NOT NULL has no name and no comment."""
        server = self.found.server
        return 0 < self.declaration.major < 18 or (server is not None and server.major < 18)

    def _detached(self, ref: ObjectRef) -> bool:
        of_table = table(self.roots[ref])
        expected, there = (of.get(of_table, {}).get("partition_of") for of in (self.expected, self.found.objects))
        return bool(expected != there)

    def _restored_from_14(self, ref: ObjectRef) -> bool:
        """Return True where no view has security_invoker.

        PostgreSQL 14 does not know it, so a dump from it has none.
        """

        def invokes(attributes: Attributes) -> bool:
            return "security_invoker" in (attributes.get("with") or {})

        invokers = [other for other, of in self.expected.items() if other.kind == "view" and invokes(of)]
        have = [other for other in invokers if invokes(self.found.objects.get(other, {}))]
        expected, there = (dict(of.get("with") or {}) for of in (self.expected[ref], self.found.objects[ref]))
        expected.pop("security_invoker", None)
        return ref in invokers and len(invokers) > 1 and not have and expected == there

    def _storage(self, kind: str, expected: Any, there: Any, *, subset: bool) -> tuple[Attributes, Attributes]:
        a, b = (table_storage(of) if kind == "table" else canonical("with", of) for of in (expected, there))
        if kind == "view" and self.declaration.major == 14:
            b.pop("security_invoker", None)
        if subset or (self.reference is None and not self.declaration.complete):
            b = {name: value for name, value in b.items() if name in a}
        elif not self.declaration.complete:
            b = without_tuning(b) | {name: value for name, value in b.items() if name in a}
        return a, b

    def _part(self, ref: ObjectRef, root: str, key: str, expected: Attributes, there: Attributes) -> AttributeDiff:
        a, b = expected.get(key), there.get(key)
        shown, found = (self.builder.said(describe.attribute(ref, key, attributes)) for attributes in (expected, there))
        if (
            key in describe.LONG
            and a
            and b
            and isinstance(a, str)
            and isinstance(b, str)
            and ref.kind not in ("constraint", "index")
        ):
            shown, found = describe.difference(a, b)
        question = None
        if ref.kind == "collation" and key == "locale" and expected.get("provider") == there.get("provider") == "i":
            question = equivalence.Probe(ref, self.renames.real(root), key, a or "", b or "", json.dumps(there))
        elif (
            a
            and b
            and equivalence.possible(ref, key)
            and (key != "body" or (expected.get("atomic") and there.get("atomic")))
        ):
            a = self.declaration.bodies.get(ref, a) if key == "body" else a
            texts = [json.dumps(text) if isinstance(text, dict) else str(text) for text in (a, b)]
            if not (
                key == "definition"
                and ref.kind == "constraint"
                and not all("CHECK" in t or "EXCLUDE" in t for t in texts)
            ):
                question = equivalence.Probe(ref, self.renames.real(root), key, texts[0], texts[1], json.dumps(there))
        return AttributeDiff(shown, found, question, key)

    def _reads(self, name: str, ref: ObjectRef) -> list[AttributeDiff]:
        schema = self.found.schema
        reads = sorted(source if "." in source else f"{schema}.{source}" for source in self.declaration.reads[name])
        there = sorted(self.found.details[ref].get("reads") or [])
        if reads == there:
            return []
        return [
            AttributeDiff(
                f"reads {', '.join(reads) or 'no table'}", f"reads {', '.join(there) or 'no table'}", None, "definition"
            )
        ]

    def _comment(self, ref: ObjectRef, expected: Attributes, there: Attributes, mark: Mark | None) -> None:
        text, found = expected.get("comment"), there.get("comment")
        known = mark is None or "comment" in mark.spoken_of
        ours = mark is not None and mark.ours and ref.kind in _COMMENTED
        if text == found or not (known or ours):
            return
        fix = self.repairs.comment(ref)
        if text is None:
            if known and mark is None and ref.kind == "extension":
                self.builder.add("unexpected", ref.comment, f"no comment ({pg_dump_gaps.COMMENT})", str(found), "note")
            elif known and mark is None:
                self.builder.add("unexpected", ref.comment, "", str(found), fix=fix)
        elif found is None:
            self.builder.add("missing", ref.comment, text, ABSENT, fix=fix)
        else:
            self.builder.add("different", ref.comment, *describe.difference(text, found), fix=fix)

    def _rows(self) -> None:
        for name, rows in self.declaration.rows.items():
            details = self.found.details.get(table(name))
            if details is None:
                continue
            if not details.get("readable"):
                self.builder.unreadable.add(name)
                continue
            for expected in rows:
                self.builder.compared["row"] += 1
                said = ", ".join(f"{key} = {value}" for key, value in expected.items())
                if not any(
                    all(str(there.get(key)) == value for key, value in expected.items())
                    for there in self.rows.get(name, [])
                ):
                    names, values = ", ".join(expected), ", ".join(map(sql_text.literal, expected.values()))
                    insert = sql_text.remark(f"INSERT INTO {name} ({names}, …) VALUES ({values}, …);")
                    row = ObjectRef("row", f"{name} ({said})")
                    self.builder.miss(row, "a row", {}, name, fix=lambda insert=insert: insert)  # type: ignore[misc]


def _shared(these: Any, those: Any) -> list[str]:
    return [name for name in cast("list[str]", these or []) if name in (those or [])]
