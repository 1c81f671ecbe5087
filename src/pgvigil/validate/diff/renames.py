"""Find objects that are missing only by their name: another of the same definition, which nobody declared, is there.

What a rename changes elsewhere (the text of a view, a foreign key's target) is read as it was before, so that one rename is
one finding. What holds data is renamed back; nothing empty is made beside it.

More than 400 lines: one search, whose kinds are taken in turn because each rename changes what the next ones read.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator
from typing import Any

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import beside, last_name, quoted, schema_of, unquoted
from pgvigil.validate.catalog.object_ref import ON_RELATIONS, ROUTINES, ObjectRef, table, view
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot, usual_sequence
from pgvigil.validate.catalog.spelling import canonical
from pgvigil.validate.diff import inherited
from pgvigil.validate.diff.renamed import RENAMED, Rename, Renames
from pgvigil.validate.repair import ddl_routines
from pgvigil.validate.spec.declaration import Mark

_RELATIONS = ("table", "view")
_ALONE = (*ROUTINES, "operator", "sequence", "statistics", "collation", "event trigger", "other")
# Of the rare kinds, those that ALTER … RENAME knows; the first ones are named by the others.
_OTHERS = (
    "foreign_data_wrapper",
    "language",
    "ts_template",
    "ts_parser",
    "ts_dict",
    "opfamily",
    "server",
    "ts_config",
    "opclass",
    "conversion",
)
# Not part of what an object is: they follow a rename by themselves, or are compared after it.
_APART = {"comment", "owned_by", "not_null", "not_null_comment", "index_comment", "depends_on", "name"}
# A rule prints its own name.
_RULE = re.compile(r'CREATE RULE ("(?:[^"]|"")*"|[^\s"]+) AS')
# An operator that lost its schema, and with it the need for these words.
_OPERATOR = re.compile(r'OPERATOR\(([^().\w"]+)\)')
# The differences between relations of the same columns.
_SHAPE = ("kind", "partition_by", "partition_of", "bound", "of_type", "server", "definition")


Objects = dict[ObjectRef, Attributes]
Columns = dict[str, dict[str, ObjectRef]]  # by relation and name


def _columns(objects: Objects, roots: dict[ObjectRef, str]) -> Columns:
    columns: Columns = {}
    for ref in objects:
        if ref.kind == "column":
            columns.setdefault(roots[ref], {})[ref.name] = ref
    return columns


class Search:
    def __init__(
        self,
        expected: Objects,
        roots: dict[ObjectRef, str],
        marks: dict[ObjectRef, Mark],
        found: Snapshot,
        comes_later: Callable[[ObjectRef], bool],
    ) -> None:
        self.expected, self.roots, self.marks, self.comes_later = expected, roots, marks, comes_later
        self.columns_expected = _columns(expected, roots)
        self.columns_there: Columns = {}
        self.found = Snapshot(
            found.schema,
            dict(found.objects),
            dict(found.roots),
            dict(found.grantees),
            dict(found.details),
            found.server,
            found.owners,
        )
        self.renames = Renames(self.found)
        self.words: list[tuple[re.Pattern[str], str, re.Pattern[str] | None, str]] = []
        self.types: list[
            tuple[re.Pattern[str], str]
        ] = []  # renamed types and relations: what takes them is called by them

    def run(self) -> Renames:
        self._labels()
        self._schemas()
        for kinds in (("type",), _RELATIONS, ("column",), ON_RELATIONS[1:], _ALONE):
            for ref in sorted(self._missing(kinds), key=self._turn):
                if (other := self._twin(ref)) is not None:
                    self._take(ref, other)
        self._owned_otherwise()
        self._beside_identities()
        if not self.marks:
            self._sequences()
            self._extensions()
        return self.renames

    def _missing(self, kinds: Iterable[str]) -> list[ObjectRef]:
        return [
            ref
            for ref in self.expected
            if ref not in self.found.objects
            and ref.kind in kinds
            and (ref.kind != "other" or ref.rare_kind in _OTHERS)
            and not ref.of_column
            and not inherited.is_change_of_type(self.roots[ref], self.expected, self.found.objects)
            and not ((mark := self.marks.get(ref)) and (mark.optional or (not mark.ours and ref.kind != "column")))
            and not self.comes_later(ref)
        ]

    def _turn(self, ref: ObjectRef) -> int:
        """Sort an object before those that name it, and a column before those that inherit it."""
        if ref.kind == "column":
            return max((self._turn(parent) + 1 for parent in inherited.from_parent(ref, self.expected)), default=0)
        return _OTHERS.index(ref.rare_kind) + 1 if ref.kind == "other" else 0

    def _extra(self, kind: str, root: str | None) -> Iterator[ObjectRef]:
        for ref in list(self.found.objects):
            undeclared = ref.kind == kind and ref not in self.expected and not ref.of_column
            if undeclared and (root is None or self.found.roots[ref] == root):
                yield ref

    def _twin(self, ref: ObjectRef) -> ObjectRef | None:
        kind = ref.kind
        root = self.roots[ref] if kind in ON_RELATIONS else None
        if root is not None and not {table(root), view(root)} & self.found.objects.keys():
            return None
        alike = [other for other in self._extra(kind, root) if self._same(ref, other)]
        if kind in _RELATIONS:
            exactly = [other for other in alike if self._same_columns(ref, other)]
            alike = exactly or [other for other in alike if self._similar_columns(ref, other)]
            return max(alike, key=lambda other: self._in_common(ref, other), default=None)
        if kind == "column" and alike and (len(alike) > 1 or self._several(ref)):
            position = self._position(ref, self.expected)
            return next((other for other in alike if self._position(other, self.found.objects) == position), None)
        return alike[0] if alike else None

    def _several(self, ref: ObjectRef) -> bool:
        """Return true if another missing column of the table is the same."""
        return any(
            other != ref
            and self.roots[other] == self.roots[ref]
            and self.expected[other].get("type") == self.expected[ref].get("type")
            for other in self._missing(("column",))
        )

    def _position(self, column: ObjectRef, objects: Objects) -> int:
        root = (self.roots if objects is self.expected else self.found.roots)[column]
        relation = next((of for kind in _RELATIONS if (of := objects.get(ObjectRef(kind, root)))), {})
        order: list[str] = relation.get("order", [])
        return order.index(column.name) if column.name in order else -1

    def _labels(self) -> None:
        """Read expressions with the old names of renamed labels.

        The server prints the names that the labels have now.
        """
        for ref, expected in self.expected.items():
            there = self.found.objects.get(ref)
            if ref.kind == "type" and there and expected.get("labels") != there.get("labels"):
                label = re.escape(ref.label)
                for old, new in ddl_routines.renamed_labels(
                    expected.get("labels", []), there.get("labels", [])
                ).items():
                    word = re.compile(rf"{re.escape(sql_text.literal(old))}(?=::{label}(?![\w\"]))")
                    self.words.append((word, sql_text.literal(new), None, ""))
        self._reread()

    def _schemas(self) -> None:
        for ref in [ref for ref in self.expected if ref.kind == "schema" and ref not in self.found.objects]:
            name = ref.label
            own = name == "{schema}"
            inside = {one for one in self.expected if own or one.within(ref)}
            for other in list(self._extra("schema", None)):
                there = other.label
                # An object of the application's own schema is spelt without it.
                word = re.compile(
                    rf'(?<![\w".$]){re.escape(there)}{r"[.]" if own else ""}(?={"" if own else "[.]"}[^ .])'
                )
                new = "" if own else name
                named = {
                    _in_schema(one, other, name, word)
                    for one in self.found.objects
                    if one.within(other) and one.of != other
                }
                both = named if own else inside | named
                if not inside or len(inside & named) * 2 <= len(both):
                    continue
                to = quoted(self.found.schema) if own else name
                said = f"{RENAMED}{other} has the same objects"
                self.renames.list.append(Rename(ref, other, "", said, f"ALTER SCHEMA {there} RENAME TO {to};"))
                self.words.append((word, new, None, ""))
                for one, of in list(self.found.objects.items()):
                    root = word.sub(lambda _, new=new: new, self.found.roots[one])  # type: ignore[misc]
                    if one.kind == "extension" and of.get("schema") == there:
                        self.found.objects[one] = of | {"schema": name}
                    self._move(one, _in_schema(one, other, name, word), root)
                self._reread()
                break

    def _sequences(self) -> None:
        """A default prints the sequence that it reads: it is read by the expected name."""
        for ref, expected in self.expected.items():
            there = self.found.objects.get(ref, expected)
            if ref.of_column and expected.get("name") != there.get("name"):
                self._learn("sequence", self._sequence(ref, expected), self._sequence(ref, there))
        self._reread()

    def _extensions(self) -> None:
        """Read what names a member of an extension in another schema as if the extension had not been moved."""
        for ref, expected in self.expected.items():
            there = self.found.objects.get(ref, expected) if ref.kind == "extension" else expected
            schemas = [of.get("schema") for of in (expected, there)]
            if schemas[0] == schemas[1]:
                continue
            words = "|".join(re.escape(str(schema)) for schema in schemas if schema != "{schema}")
            prefix = re.compile(rf'(?<![\w".$])(?:{words})[.]')
            for one, of in list(self.found.objects.items()):
                wish = self.expected.get(one, of)
                same = {
                    key: wish[key]
                    for key, text in of.items()
                    if isinstance(text, str)
                    and text != (other := wish.get(key))
                    and isinstance(other, str)
                    and prefix.sub("", text) == prefix.sub("", other)
                }
                if same and one.kind != "extension":
                    self.found.objects[one] = of | same

    # --- the same? ---------------------------------------------------------------------------------------------------

    def _same(self, ref: ObjectRef, other: ObjectRef) -> bool:
        kind, expected, there = ref.kind, self.expected[ref], self.found.objects[other]
        if kind in _RELATIONS:
            return all(self._alike(key, expected.get(key), there.get(key)) for key in _SHAPE if self._counts(ref, key))
        if (ref.rare_kind, ref.access_method) != (other.rare_kind, other.access_method):
            return False
        if kind == "operator" and ref.name != other.name:
            return False  # an operator can be moved, and keeps its name
        if ref.signature and ref.signature != self._read(other.signature):
            return False
        if kind == "rule":
            there = _as_rule(there, expected)
        if kind == "operator":
            there = _as_operator(there, other, ref)
        keys = {key for key in {**expected, **there} if key not in _APART and self._counts(ref, key)}
        if expected.get("attached") and self._alike("attached", expected["attached"], there.get("attached")):
            keys -= {"with", "tablespace", "valid"}  # no partition has two parts of one index
        if kind == "type":
            of = [
                {k: v for k, v in side.get("range", {}).items() if k != "MULTIRANGE_TYPE_NAME"}
                for side in (expected, there)
            ]
            if of[0] != of[1]:
                return False
            keys.discard("range")
        return all(self._alike(key, expected.get(key), there.get(key)) for key in keys)

    def _counts(self, ref: ObjectRef, key: str) -> bool:
        mark = self.marks.get(ref)
        return mark is None or key in mark.spoken_of

    def _alike(self, key: str, expected: Any, there: Any) -> bool:
        if expected == there or canonical(key, expected) == canonical(key, there):
            return True
        return bool(canonical(key, expected) == canonical(key, self._read(there)))

    def _same_columns(self, ref: ObjectRef, other: ObjectRef) -> bool:
        columns, there = self.columns_expected.get(ref.label, {}), self._columns_of(other)
        if columns.keys() != there.keys() and (ref not in self.marks or not columns.keys() <= there.keys()):
            return False
        return bool(columns) and all(self._same(columns[name], there[name]) for name in columns)

    def _similar_columns(self, ref: ObjectRef, other: ObjectRef) -> bool:
        """The same but for some names, in the same order."""
        names, others = (of[one].get("order", []) for of, one in ((self.expected, ref), (self.found.objects, other)))
        columns, there = self.columns_expected.get(ref.label, {}), self._columns_of(other)
        shared = len(set(names) & set(others))
        return (
            bool(shared)
            and len(names) == len(others)
            and shared * 2 >= len(names)
            and all(self._same(columns[a], there[b]) for a, b in zip(names, others, strict=True))
        )

    def _columns_of(self, relation: ObjectRef) -> dict[str, ObjectRef]:
        """Return the columns of a relation that exists. They are sorted once, and again after an object was renamed."""
        if not self.columns_there:
            self.columns_there = _columns(self.found.objects, self.found.roots)
        return self.columns_there.get(relation.label, {})

    def _in_common(self, ref: ObjectRef, other: ObjectRef) -> int:
        parts = self.found.parts.get(other.label, ())
        return sum(_relabelled(part, other.label, ref.label) in self.expected for part in parts)

    # --- under the expected name -------------------------------------------------------------------------------------

    def _take(self, ref: ObjectRef, other: ObjectRef) -> None:
        kind, root = ref.kind, self.roots[ref]
        fix = _statement(ref, other, root, self.found)
        if kind in _RELATIONS:
            self.renames.relations[ref.label] = other.label
        said = f"{RENAMED}{other} has the same definition"
        self.renames.list.append(Rename(ref, other, "", said, fix))
        if kind == "other":
            self._learn(kind, *(one.rare_name.partition(" USING ")[0] for one in (ref, other)))
        elif kind in ("column", "type", "collation", "sequence", *_RELATIONS, *ROUTINES):
            self._learn(kind, *(one.bare_label if kind in ROUTINES else one.label for one in (ref, other)))
        elif kind in ("constraint", "index"):
            self._move_attached(kind, root, other.name, ref.name)
            identity = self.found.objects.get(table(root), {}).get("replica_identity")
            if identity == f"USING INDEX {other.name}":
                self.found.objects[table(root)] = self.found.objects[table(root)] | {
                    "replica_identity": f"USING INDEX {ref.name}"
                }
        if kind in _RELATIONS:
            for part in [p for p, of in self.found.roots.items() if of == other.label]:
                self._move(part, _relabelled(part, other.label, ref.label), ref.label)
        else:
            self._move(other, ref, root)
            for right in [one for one in self.found.objects if one.of == other]:
                self._move(right, ObjectRef.right(right.kind, ref, right.grantee), self.found.roots[right])
            if kind == "rule":
                self.found.objects[ref] = _as_rule(self.found.objects[ref], self.expected[ref])
            if kind == "operator":
                self.found.objects[ref] = _as_operator(self.found.objects[ref], other, ref)
                word = re.compile(rf"(?<![-+*/<>=~!@#%^&|`?.]){re.escape(_operator(other))}(?![-+*/<>=~!@#%^&|`?])")
                self.words.append((word, _operator(ref), None, ""))
            if kind == "column":
                self._reorder(root, other.name, ref.name)
                self._move_below(root, other.name, ref.name)
                if other.owned_sequence in self.found.objects:
                    self._move_sequence(other.owned_sequence, ref.owned_sequence, root)
        self._reread()
        self._usual_names(ref)

    def _reorder(self, root: str, old: str, new: str) -> None:
        for ref in (table(root), view(root)):
            if order := self.found.objects.get(ref, {}).get("order"):
                self.found.objects[ref] = self.found.objects[ref] | {
                    "order": [new if one == old else one for one in order]
                }

    def _move_below(self, parent: str, old: str, new: str) -> None:
        """The column of a partition or of a table that inherits has the name of the parent's."""
        for ref, of in list(self.found.objects.items()):
            if ref.kind == "table" and (of.get("partition_of") == parent or parent in of.get("inherits", ())):
                child = ref.label
                column = ObjectRef.on("column", child, old)
                if column in self.found.objects and column not in self.expected:
                    self._move(column, ObjectRef.on("column", child, new), child)
                    self._reorder(child, old, new)
                    self._move_below(child, old, new)

    def _move_attached(self, kind: str, parent: str, old: str, new: str) -> None:
        """The indexes and keys of partitions name the one that they are part of."""
        for ref, of in list(self.found.objects.items()):
            if ref.kind == kind and of.get("attached") == old:
                partition = self.found.objects.get(table(self.found.roots[ref]), {})
                if partition.get("partition_of") == parent:
                    self.found.objects[ref] = of | {"attached": new}

    def _move(self, ref: ObjectRef, to: ObjectRef, root: str) -> None:
        if ref == to and self.found.roots[ref] == root:
            return
        self.found.objects[to], self.found.roots[to] = self.found.objects.pop(ref), root
        if ref != to:
            del self.found.roots[ref]
        for of in (self.found.grantees, self.found.details):
            if ref in of:
                of[to] = of.pop(ref)  # type: ignore[assignment]
        self.found.__dict__.pop("parts", None)
        self.columns_there = {}

    def _move_sequence(self, ref: ObjectRef, to: ObjectRef, root: str) -> None:
        """Rename a sequence together with the rights on it."""
        self._move(ref, to, root)
        on = f"on {ref} "
        for right in [one for one in self.found.objects if one.label.startswith(on) and one.of == ref]:
            self._move(right, ObjectRef.right(right.kind, to, right.grantee), to.relation or to.label)

    def _learn(self, kind: str, label: str, there: str) -> None:
        old, new = (last_name(there), last_name(label)) if kind == "column" else (there, label)
        before = r'(?<![\w"$])' if kind == "column" else r'(?<![\w"$.])'
        again = rf'((?:[\w"]+\.)?{re.escape(new)}) AS {re.escape(new)}(?![\w"])'
        if kind != "column":
            again = rf'(?<![\w".])({re.escape(new)}) {re.escape(last_name(new))}(?![\w"])'
        word = re.compile(rf'{before}{re.escape(old)}(?![\w"$])')
        self.words.append((word, new, re.compile(again), r"\1"))
        if kind in ("type", *_RELATIONS):
            self.types.append((word, new))

    def _read(self, value: Any) -> Any:
        """Return a value with the expected names in the place of the found ones."""
        if isinstance(value, str):
            for word, new, again, once in self.words:
                value = word.sub(lambda _, new=new: new, value)  # type: ignore[misc]
                value = again.sub(once, value) if again else value
            return _OPERATOR.sub(r"\1", value)
        if isinstance(value, list):
            return [self._read(one) for one in value]
        if isinstance(value, dict):
            return {self._read(key): self._read(one) for key, one in value.items()}
        return value

    def _reread(self) -> None:
        """Return the objects that differ only by the name of the renamed object."""
        if not self.words:
            return
        for ref, there in list(self.found.objects.items()):
            expected = self.expected.get(ref)
            if expected is None:
                to = ref.renamed(self._read)
                if to != ref and to in self.expected and to not in self.found.objects:
                    self._move(ref, to, self.roots[to])
                    expected, ref = self.expected[to], to
                elif (to := self._called_now(ref)) not in self.found.objects:  # as a removal has to call it
                    self._move(ref, to, self.found.roots[ref])
            if expected is None or expected == there:
                continue
            changed = {
                key: self._read(value)
                for key, value in there.items()
                if key in expected
                and expected[key] != value
                and not (key == "name" and ref.of_column)  # that of its sequence
                and canonical(key, self._read(value)) == canonical(key, expected[key])
            }
            if changed:
                self.found.objects[ref] = there | changed
        for ref, details in list(self.found.details.items()):
            if reads := details.get("reads"):
                names = {self._raw(there): self._raw(label) for label, there in self.renames.relations.items()}
                self.found.details[ref] = details | {"reads": [names.get(one, one) for one in reads]}

    def _called_now(self, ref: ObjectRef) -> ObjectRef:
        """Return an undeclared object with the names that renamed types among its arguments get."""
        of = ref if ref.of is None else ref.of
        if not (of.signature or of.rare_kind in ("cast", "transform")):
            return ref
        start = of.bare_label if of.signature else ""
        rest = of.label[len(start) :]
        for word, new in self.types:
            rest = word.sub(lambda _, new=new: new, rest)  # type: ignore[misc]
        return ref.renamed(lambda _: start + rest)

    def _raw(self, label: str) -> str:
        return f"{unquoted(schema_of(label)) or self.found.schema}.{unquoted(last_name(label))}"

    def _usual_names(self, ref: ObjectRef) -> None:
        """Remove names that the server derived from the old name.

        It would derive those of the expected name in the same way.
        """
        for other, of in list(self.found.objects.items()):
            if other.of_column and "name" in of:
                if of["name"] == quoted(usual_sequence(other.of_column)):
                    self.found.objects[other] = {key: value for key, value in of.items() if key != "name"}
            elif other.kind == "column" and "not_null" in of:
                usual = f"{unquoted(last_name(other.relation))}_{unquoted(other.name)}_not_null"
                if of["not_null"] == quoted(usual):
                    self.found.objects[other] = {key: value for key, value in of.items() if key != "not_null"}
        if ref.kind == "type" and self.found.objects[ref].get("not_null") == quoted(f"{unquoted(ref.name)}_not_null"):
            of = self.found.objects[ref]
            self.found.objects[ref] = {key: value for key, value in of.items() if key != "not_null"}
        if "range" in self.expected[ref]:
            there = self.found.objects[ref]
            name = there.get("range", {}).get("MULTIRANGE_TYPE_NAME")
            if name == ddl_routines.usual_multirange(ref.label):
                kept = {key: value for key, value in there["range"].items() if key != "MULTIRANGE_TYPE_NAME"}
                self.found.objects[ref] = there | {"range": kept}

    # --- sequences ---------------------------------------------------------------------------------------------------

    def _owned_otherwise(self) -> None:
        """A sequence that has its name, and belongs to another column than it should, or to none."""
        there = {
            self._sequence(ref, self.found.objects[ref]): ref for ref in self.found.objects if ref.kind == "sequence"
        }
        for ref in [ref for ref in self.expected if ref.kind == "sequence" and ref not in self.found.objects]:
            name = self._sequence(ref, self.expected[ref])
            other = there.get(name)
            if other is None or other in self.expected or not self._column_is_there(ref):
                continue
            to = ref.of_column or self.expected[ref].get("of", "NONE")
            owner = other.of_column or self.found.objects[other].get("of")
            expected, found = (
                f"owned by column {one}" if one and one != "NONE" else "owned by no column" for one in (to, owner)
            )
            fix = f"ALTER SEQUENCE {name} OWNED BY {to};"
            self.renames.list.append(Rename(ref, other, expected, found, fix, different=True))
            self._move_sequence(other, ref, self.roots[ref])
            of = self.found.objects[ref]
            self.found.objects[ref] = {key: value for key, value in of.items() if key not in ("of", "name")} | {
                key: value for key, value in self.expected[ref].items() if key in ("of", "name")
            }
            self.found.details[ref] = self.found.details.get(ref, {}) | {"name": name}

    def _beside_identities(self) -> None:
        """The sequence that a default read stays the column's where an identity with its own was put beside it."""
        for ref, expected in self.expected.items():
            there = self.found.objects.get(ref)
            if not ref.of_column or there is None or "identity" in self.expected.get(ref.column, {}):
                continue
            old = ObjectRef("sequence", self._sequence(ref, expected))
            if (
                "identity" in self.found.objects.get(ref.column, {})
                and old not in self.expected
                and self.found.objects.get(old, {}).get("of") == ref.of_column
            ):
                self._move_sequence(old, ref, self.roots[ref])
                of = {key: value for key, value in self.found.objects[ref].items() if key != "of"}
                self.found.objects[ref] = of | {key: expected[key] for key in ("name",) if key in expected}
                self.found.details[ref] = self.found.details.get(ref, {}) | {"name": old.label, "kept": True}

    def _sequence(self, ref: ObjectRef, attributes: Attributes) -> str:
        """The name of a sequence, with its schema."""
        if not ref.of_column:
            return ref.label
        return beside(ref.relation, str(attributes.get("name") or quoted(usual_sequence(ref.of_column))))

    def _column_is_there(self, sequence: ObjectRef) -> bool:
        if not sequence.of_column:
            return True
        column = sequence.column
        return column in self.found.objects and "identity" not in self.expected.get(column, {})


def _as_rule(there: Attributes, expected: Attributes) -> Attributes:
    """A rule under the name that another has."""
    if head := _RULE.match(expected["definition"]):
        return there | {"definition": _RULE.sub(lambda _: head[0], there["definition"], count=1)}
    return there


def _operator(ref: ObjectRef) -> str:
    """Return an operator as another operator names it."""
    return f"OPERATOR({ref.schema}.{ref.name})" if ref.schema else ref.name


def _as_operator(there: Attributes, other: ObjectRef, ref: ObjectRef) -> Attributes:
    """An operator under the name that another has, where it is its own commutator."""
    renamed = {_operator(other): _operator(ref)}
    return there | {"definition": {key: renamed.get(value, value) for key, value in there["definition"].items()}}


def _in_schema(ref: ObjectRef, old: ObjectRef, name: str, word: re.Pattern[str]) -> ObjectRef:
    """An object of a schema, the schema itself, or a right on it, where the schema has another name; `word` finds the old one."""
    new = ObjectRef("schema", name)
    if ref == old:
        return new
    if ref.of == old:
        return ObjectRef.right(ref.kind, new, ref.grantee)
    start = f"in {old} "
    if ref.kind.startswith("default ") and ref.label.startswith(start):
        return ObjectRef(ref.kind, f"in {new} {ref.label[len(start) :]}")
    return ref.renamed(lambda label: word.sub(lambda _: "" if name == "{schema}" else name, label))


def _relabelled(ref: ObjectRef, old: str, new: str) -> ObjectRef:
    """A relation or an object that belongs to it, for another name of the relation."""
    if ref.kind == "statistics":  # on a relation, and not called by its name
        return ref
    return ref.renamed(lambda label: new + label[len(old) :] if label == old or label.startswith(f"{old}.") else label)


def _statement(ref: ObjectRef, other: ObjectRef, root: str, found: Snapshot) -> str:
    kind, attributes = ref.kind, found.objects[other]
    if kind in ON_RELATIONS:
        name, old = ref.name, other.name
        relation = next((k for k in _RELATIONS if ObjectRef(k, root) in found.objects), "table")
        word = found.objects.get(ObjectRef(relation, root), {}).get("kind", relation).upper()
        word = word.removeprefix("PARTITIONED ")
        if kind == "column":
            return f"ALTER {word} {root} RENAME COLUMN {old} TO {name};"
        if kind == "constraint":
            return f"ALTER TABLE {root} RENAME CONSTRAINT {old} TO {name};"
        if kind == "index":
            return f"ALTER INDEX {beside(root, old)} RENAME TO {name};"
        return f"ALTER {kind.upper()} {old} ON {root} RENAME TO {name};"
    word = {"window function": "FUNCTION"}.get(
        kind, attributes.get("kind", kind) if kind in _RELATIONS else kind
    ).upper()
    word = word.removeprefix("PARTITIONED ")
    if kind == "type" and attributes["kind"] == "domain":
        word = "DOMAIN"
    # The arguments of a routine are part of its name, and stay; so does the access method of an operator class.
    arguments = ref.signature
    name, old = (one.label.removesuffix(one.signature) for one in (ref, other))
    if kind == "other":
        word = sql_text.RARE[ref.rare_kind]
        name, using, method = ref.rare_name.partition(" USING ")
        old, arguments = other.rare_name.partition(" USING ")[0], using + method
    schemas = [schema_of(one) for one in (name, old)]
    lines = []
    if schemas[0] != schemas[1]:
        lines.append(f"ALTER {word} {old}{arguments} SET SCHEMA {schemas[0] or quoted(found.schema)};")
    if last_name(name) != last_name(old):
        lines.append(f"ALTER {word} {beside(name, last_name(old))}{arguments} RENAME TO {last_name(name)};")
    return "\n".join(lines)
