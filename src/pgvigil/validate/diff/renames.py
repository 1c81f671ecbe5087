"""Find objects that are missing only by their name: another of the same definition, which nobody declared, is there.

What a rename changes elsewhere (the text of a view, a foreign key's target) is read as it was before, so that one rename is
one finding. What holds data is renamed back; nothing empty is made beside it.

More than 400 lines: one search, whose kinds are taken in turn because each rename changes what the next ones read.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from typing import Any

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import quoted, unquoted
from pgvigil.validate.catalog.object_paths import kind_of, last_name
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot, usual_sequence
from pgvigil.validate.catalog.spelling import canonical
from pgvigil.validate.diff import inherited
from pgvigil.validate.repair import ddl_routines
from pgvigil.validate.spec.declaration import Mark

RENAMED = "renamed? "
_RELATIONS = ("table", "view")
_ON_RELATIONS = ("column", "constraint", "index", "trigger", "policy", "rule")
_ROUTINES = ("function", "procedure", "aggregate", "window function")
_ALONE = (*_ROUTINES, "operator", "sequence", "statistics", "collation", "event trigger", "other")
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
# What tells one relation from another of the same columns.
_SHAPE = ("kind", "partition_by", "partition_of", "bound", "of_type", "server", "definition")


@dataclass(frozen=True)
class Rename:
    path: str  # as it is wanted
    there: str  # as it is
    expected: str
    found: str
    fix: str
    different: bool = False  # it has its name, and another owner


@dataclass
class Renames:
    found: Snapshot  # under the names that are wanted
    list: list[Rename] = field(default_factory=list)
    relations: dict[str, str] = field(default_factory=dict)  # label that is wanted → label that it has

    def real(self, root: str) -> str:
        return self.relations.get(root, root)


def follow(expected: dict[str, Attributes], roots: dict[str, str], marks: dict[str, Mark], found: Snapshot) -> Renames:
    if expected == found.objects:
        return Renames(found)
    missing = expected.keys() - found.objects.keys()
    relabelled = any(
        path.startswith("type ") and of.get("labels") != found.objects.get(path, of).get("labels")
        for path, of in expected.items()
    )
    others = not marks and any(
        path.startswith("sequence of ") and of.get("name") != found.objects.get(path, of).get("name")
        for path, of in expected.items()
    )
    if not (relabelled or others) and (not missing or found.objects.keys() <= expected.keys()):
        return Renames(found)
    return _Search(expected, roots, marks, found).run()


class _Search:
    def __init__(
        self, expected: dict[str, Attributes], roots: dict[str, str], marks: dict[str, Mark], found: Snapshot
    ) -> None:
        self.expected, self.roots, self.marks = expected, roots, marks
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

    def run(self) -> Renames:
        self._labels()
        self._schemas()
        for kinds in (("type",), _RELATIONS, ("column",), _ON_RELATIONS[1:], _ALONE):
            for path in sorted(self._missing(kinds), key=_turn):
                if (other := self._twin(path)) is not None:
                    self._take(path, other)
        self._owned_otherwise()
        if not self.marks:
            self._sequences()
        return self.renames

    def _missing(self, kinds: Iterable[str]) -> list[str]:
        return [
            path
            for path in self.expected
            if path not in self.found.objects
            and kind_of(path) in kinds
            and (not path.startswith("other ") or path.split(" ")[1] in _OTHERS)
            and not path.startswith("sequence of ")
            and not inherited.is_change_of_type(self.roots[path], self.expected, self.found.objects)
            and not (
                (mark := self.marks.get(path)) and (mark.optional or (not mark.ours and kind_of(path) != "column"))
            )
        ]

    def _extra(self, kind: str, root: str | None) -> Iterator[str]:
        for path in list(self.found.objects):
            undeclared = path not in self.expected and not path.startswith("sequence of ")
            if undeclared and kind_of(path) == kind and (root is None or self.found.roots[path] == root):
                yield path

    def _twin(self, path: str) -> str | None:
        kind = kind_of(path)
        root = self.roots[path] if kind in _ON_RELATIONS else None
        if root is not None and not {f"table {root}", f"view {root}"} & self.found.objects.keys():
            return None
        alike = [other for other in self._extra(kind, root) if self._same(path, other)]
        if kind in _RELATIONS:
            exactly = [other for other in alike if self._same_columns(path, other)]
            alike = exactly or [other for other in alike if self._similar_columns(path, other)]
            return max(alike, key=lambda other: self._in_common(path, other), default=None)
        if kind == "column" and alike and (len(alike) > 1 or self._several(path)):
            position = self._position(path, self.expected)
            return next((other for other in alike if self._position(other, self.found.objects) == position), None)
        return alike[0] if alike else None

    def _several(self, path: str) -> bool:
        """Return true if another missing column of the table is the same."""
        return any(
            other != path
            and self.roots[other] == self.roots[path]
            and self.expected[other].get("type") == self.expected[path].get("type")
            for other in self._missing(("column",))
        )

    def _position(self, path: str, objects: dict[str, Attributes]) -> int:
        root = (self.roots if objects is self.expected else self.found.roots)[path]
        relation = next((of for kind in _RELATIONS if (of := objects.get(f"{kind} {root}"))), {})
        order: list[str] = relation.get("order", [])
        name = last_name(path.partition(" ")[2])
        return order.index(name) if name in order else -1

    def _labels(self) -> None:
        """Expressions print a label as it is called now: one that was renamed is read as it was."""
        for path, expected in self.expected.items():
            there = self.found.objects.get(path)
            if path.startswith("type ") and there and expected.get("labels") != there.get("labels"):
                label = re.escape(path.partition(" ")[2])
                for old, new in ddl_routines.renamed_labels(
                    expected.get("labels", []), there.get("labels", [])
                ).items():
                    word = re.compile(rf"{re.escape(sql_text.literal(old))}(?=::{label}(?![\w\"]))")
                    self.words.append((word, sql_text.literal(new), None, ""))
        self._reread()

    def _schemas(self) -> None:
        for path in [path for path in self.expected if path.startswith("schema ") and path not in self.found.objects]:
            name = path.partition(" ")[2]
            own = name == "{schema}"
            inside = {one for one in self.expected if own or f" {name}." in one}
            for other in list(self._extra("schema", None)):
                there = other.partition(" ")[2]
                # What lies in the application's own schema is spelt without it.
                word = re.compile(
                    rf'(?<![\w".$]){re.escape(there)}{r"[.]" if own else ""}(?={"" if own else "[.]"}[^ .])'
                )
                new = "" if own else name
                named = {word.sub(lambda _, new=new: new, one) for one in self.found.objects if f" {there}." in one}  # type: ignore[misc]
                both = named if own else inside | named
                if not inside or len(inside & named) * 2 <= len(both):
                    continue
                to = quoted(self.found.schema) if own else name
                said = f"{RENAMED}{other} has the same objects"
                self.renames.list.append(Rename(path, other, "", said, f"ALTER SCHEMA {there} RENAME TO {to};"))
                self.words.append((word, new, None, ""))
                of_it = re.compile(rf"(?<=schema ){re.escape(there)}(?=$| )")
                for one in list(self.found.objects):
                    root = word.sub(lambda _, new=new: new, self.found.roots[one])  # type: ignore[misc]
                    moved = of_it.sub(lambda _, name=name: name, word.sub(lambda _, new=new: new, one))  # type: ignore[misc]
                    self._move(one, moved, root)
                self._reread()
                break

    def _sequences(self) -> None:
        """A default prints the sequence that it reads: it is read by the name that is wanted."""
        for path, expected in self.expected.items():
            there = self.found.objects.get(path, expected)
            if path.startswith("sequence of ") and expected.get("name") != there.get("name"):
                self._learn("sequence", self._sequence(path, expected), self._sequence(path, there))
        self._reread()

    # --- the same? ---------------------------------------------------------------------------------------------------

    def _same(self, path: str, other: str) -> bool:
        kind, expected, there = kind_of(path), self.expected[path], self.found.objects[other]
        if kind in _RELATIONS:
            return all(self._alike(key, expected.get(key), there.get(key)) for key in _SHAPE if self._counts(path, key))
        if kind == "other" and _of_rare(path) != _of_rare(other):
            return False
        if kind == "operator" and last_name(_split(path[9:])[0]) != last_name(_split(other[9:])[0]):
            return False  # an operator can be moved, and keeps its name
        if (
            "(" in path
            and kind in (*_ROUTINES, "operator")
            and path.partition("(")[2] != self._read(other.partition("(")[2])
        ):
            return False
        keys = {key for key in {**expected, **there} if key not in _APART and self._counts(path, key)}
        if kind == "type":
            of = [
                {k: v for k, v in side.get("range", {}).items() if k != "MULTIRANGE_TYPE_NAME"}
                for side in (expected, there)
            ]
            if of[0] != of[1]:
                return False
            keys.discard("range")
        return all(self._alike(key, expected.get(key), there.get(key)) for key in keys)

    def _counts(self, path: str, key: str) -> bool:
        mark = self.marks.get(path)
        return mark is None or key in mark.spoken_of

    def _alike(self, key: str, expected: Any, there: Any) -> bool:
        if expected == there or canonical(key, expected) == canonical(key, there):
            return True
        return bool(canonical(key, expected) == canonical(key, self._read(there)))

    def _same_columns(self, path: str, other: str) -> bool:
        columns = self._columns(self.expected, self.roots, path)
        there = self._columns(self.found.objects, self.found.roots, other)
        if columns.keys() != there.keys() and (path not in self.marks or not columns.keys() <= there.keys()):
            return False
        return bool(columns) and all(self._same(columns[name], there[name]) for name in columns)

    def _similar_columns(self, path: str, other: str) -> bool:
        """The same but for some names, in the same order."""
        names, others = (of[one].get("order", []) for of, one in ((self.expected, path), (self.found.objects, other)))
        columns = self._columns(self.expected, self.roots, path)
        there = self._columns(self.found.objects, self.found.roots, other)
        shared = len(set(names) & set(others))
        return (
            bool(shared)
            and len(names) == len(others)
            and shared * 2 >= len(names)
            and all(self._same(columns[a], there[b]) for a, b in zip(names, others, strict=True))
        )

    @staticmethod
    def _columns(objects: dict[str, Attributes], roots: dict[str, str], path: str) -> dict[str, str]:
        label = path.partition(" ")[2]
        start = f"column {label}."
        return {one[len(start) :]: one for one in objects if one.startswith(start) and roots[one] == label}

    def _in_common(self, path: str, other: str) -> int:
        label, there = path.partition(" ")[2], other.partition(" ")[2]
        return sum(_relabelled(part, there, label) in self.expected for part in self.found.parts.get(there, ()))

    # --- under the wanted name ---------------------------------------------------------------------------------------

    def _take(self, path: str, other: str) -> None:
        kind = kind_of(path)
        label, there = path[len(kind) + 1 :], other[len(kind) + 1 :]
        fix = _statement(path, other, self.roots[path], self.found)
        if kind in _RELATIONS:
            self.renames.relations[label] = there
        said = f"{RENAMED}{other} has the same definition"
        self.renames.list.append(Rename(path, other, "", said, fix))
        if kind == "other":
            self._learn(kind, *(one.partition(" ")[2].partition(" USING ")[0] for one in (label, there)))
        elif kind in ("column", "type", "collation", *_RELATIONS, *_ROUTINES):
            self._learn(kind, _split(label)[0], _split(there)[0])
        elif kind in ("constraint", "index"):
            self._move_attached(kind, self.roots[path], last_name(there), last_name(label))
        if kind in _RELATIONS:
            for part in [p for p, root in self.found.roots.items() if root == there]:
                self._move(part, _relabelled(part, there, label), label)
        else:
            self._move(other, path, self.roots[path])
            for part in [
                p for p in self.found.objects if p.startswith((f"grant on {other} to ", f"revocation on {other} from "))
            ]:
                self._move(part, part.replace(f" on {other} ", f" on {path} ", 1), self.found.roots[part])
            if kind == "column":
                self._reorder(self.roots[path], last_name(there), last_name(label))
                self._move_below(self.roots[path], last_name(there), last_name(label))
            if kind == "column" and (sequence := f"sequence of {there}") in self.found.objects:
                self._move(sequence, f"sequence of {label}", self.roots[path])
        self._reread()
        self._usual_names(path)

    def _reorder(self, root: str, old: str, new: str) -> None:
        for path in (f"table {root}", f"view {root}"):
            if order := self.found.objects.get(path, {}).get("order"):
                self.found.objects[path] = self.found.objects[path] | {
                    "order": [new if one == old else one for one in order]
                }

    def _move_below(self, parent: str, old: str, new: str) -> None:
        """The column of a partition or of a table that inherits has the name of the parent's."""
        for path, of in list(self.found.objects.items()):
            if path.startswith("table ") and (of.get("partition_of") == parent or parent in of.get("inherits", ())):
                child = path.partition(" ")[2]
                if (column := f"column {child}.{old}") in self.found.objects and column not in self.expected:
                    self._move(column, f"column {child}.{new}", child)
                    self._reorder(child, old, new)
                    self._move_below(child, old, new)

    def _move_attached(self, kind: str, parent: str, old: str, new: str) -> None:
        """The indexes and keys of partitions name the one that they are part of."""
        for path, of in list(self.found.objects.items()):
            table = self.found.objects.get(f"table {self.found.roots[path]}", {})
            if kind_of(path) == kind and of.get("attached") == old and table.get("partition_of") == parent:
                self.found.objects[path] = of | {"attached": new}

    def _move(self, path: str, to: str, root: str) -> None:
        if path == to and self.found.roots[path] == root:
            return
        self.found.objects[to], self.found.roots[to] = self.found.objects.pop(path), root
        if path != to:
            del self.found.roots[path]
        for of in (self.found.grantees, self.found.details):
            if path in of:
                of[to] = of.pop(path)  # type: ignore[assignment]
        self.found.__dict__.pop("parts", None)

    def _learn(self, kind: str, label: str, there: str) -> None:
        old, new = (last_name(there), last_name(label)) if kind == "column" else (there, label)
        before = r'(?<![\w"$])' if kind == "column" else r'(?<![\w"$.])'
        again = rf'((?:[\w"]+\.)?{re.escape(new)}) AS {re.escape(new)}(?![\w"])'
        if kind != "column":
            again = rf'(?<![\w".])({re.escape(new)}) {re.escape(last_name(new))}(?![\w"])'
        self.words.append((re.compile(rf'{before}{re.escape(old)}(?![\w"$])'), new, re.compile(again), r"\1"))

    def _read(self, value: Any) -> Any:
        """With the names that are wanted."""
        if isinstance(value, str):
            for word, new, again, once in self.words:
                value = word.sub(lambda _, new=new: new, value)  # type: ignore[misc]
                value = again.sub(once, value) if again else value
            return value
        if isinstance(value, list):
            return [self._read(one) for one in value]
        if isinstance(value, dict):
            return {self._read(key): self._read(one) for key, one in value.items()}
        return value

    def _reread(self) -> None:
        """Return the objects that differ only by the name of the renamed object."""
        if not self.words:
            return
        for path, there in list(self.found.objects.items()):
            expected = self.expected.get(path)
            if expected is None:
                to = self._read(path)
                if to != path and to in self.expected and to not in self.found.objects:
                    self._move(path, to, self.roots[to])
                    expected, path = self.expected[to], to
            if expected is None or expected == there:
                continue
            changed = {
                key: self._read(value)
                for key, value in there.items()
                if key in expected
                and expected[key] != value
                and canonical(key, self._read(value)) == canonical(key, expected[key])
            }
            if changed:
                self.found.objects[path] = there | changed
        for path, details in list(self.found.details.items()):
            if reads := details.get("reads"):
                names = {self._raw(there): self._raw(label) for label, there in self.renames.relations.items()}
                self.found.details[path] = details | {"reads": [names.get(one, one) for one in reads]}

    def _raw(self, label: str) -> str:
        name = last_name(label)
        schema = unquoted(label[: -len(name) - 1]) if name != label else self.found.schema
        return f"{schema}.{unquoted(name)}"

    def _usual_names(self, path: str) -> None:
        """Names that the server had given by the old name, and that would be given by the wanted one too."""
        label = path.partition(" ")[2]
        for other, of in list(self.found.objects.items()):
            if other.startswith("sequence of ") and "name" in of:
                if of["name"] == quoted(usual_sequence(other.removeprefix("sequence of "))):
                    self.found.objects[other] = {key: value for key, value in of.items() if key != "name"}
            elif other.startswith("column ") and "not_null" in of:
                column = other.removeprefix("column ")
                name = last_name(column)
                usual = f"{unquoted(last_name(column[: -len(name) - 1]))}_{unquoted(name)}_not_null"
                if of["not_null"] == quoted(usual):
                    self.found.objects[other] = {key: value for key, value in of.items() if key != "not_null"}
        if "range" in self.expected[path]:
            there = self.found.objects[path]
            name = there.get("range", {}).get("MULTIRANGE_TYPE_NAME")
            if name == ddl_routines.usual_multirange(label):
                kept = {key: value for key, value in there["range"].items() if key != "MULTIRANGE_TYPE_NAME"}
                self.found.objects[path] = there | {"range": kept}

    # --- sequences ---------------------------------------------------------------------------------------------------

    def _owned_otherwise(self) -> None:
        """A sequence that has its name, and belongs to another column than it should, or to none."""
        there = {
            self._sequence(path, self.found.objects[path]): path
            for path in self.found.objects
            if path.startswith("sequence ")
        }
        for path in [path for path in self.expected if path.startswith("sequence ") and path not in self.found.objects]:
            name = self._sequence(path, self.expected[path])
            other = there.get(name)
            if other is None or other in self.expected or not self._column_is_there(path):
                continue
            to = (
                path.removeprefix("sequence of ")
                if path.startswith("sequence of ")
                else self.expected[path].get("of", "NONE")
            )
            owner = (
                other.removeprefix("sequence of ")
                if other.startswith("sequence of ")
                else self.found.objects[other].get("of")
            )
            expected, found = (
                f"owned by column {one}" if one and one != "NONE" else "owned by no column" for one in (to, owner)
            )
            fix = f"ALTER SEQUENCE {name} OWNED BY {to};"
            self.renames.list.append(Rename(path, other, expected, found, fix, different=True))
            self._move(other, path, self.roots[path])
            of = self.found.objects[path]
            self.found.objects[path] = {key: value for key, value in of.items() if key not in ("of", "name")} | {
                key: value for key, value in self.expected[path].items() if key in ("of", "name")
            }
            self.found.details[path] = self.found.details.get(path, {}) | {"name": name}

    def _sequence(self, path: str, attributes: Attributes) -> str:
        if not path.startswith("sequence of "):
            return path.partition(" ")[2]
        column = path.removeprefix("sequence of ")
        table = column[: -len(last_name(column)) - 1]
        return table[: -len(last_name(table))] + str(attributes.get("name") or quoted(usual_sequence(column)))

    def _column_is_there(self, path: str) -> bool:
        if not path.startswith("sequence of "):
            return True
        column = path.replace("sequence of ", "column ", 1)
        return column in self.found.objects and "identity" not in self.expected.get(column, {})


def _turn(path: str) -> int:
    """Sort an object before those that name it."""
    return _OTHERS.index(path.split(" ")[1]) + 1 if path.startswith("other ") else 0


def _of_rare(path: str) -> tuple[str, str]:
    """Of which rare kind, and for which access method."""
    return path.split(" ")[1], path.partition(" USING ")[2]


def _relabelled(path: str, old: str, new: str) -> str:
    return re.sub(rf"(?<= ){re.escape(old)}(?=$|[. ])", lambda _: new, path, count=1)


def _statement(path: str, other: str, root: str, found: Snapshot) -> str:
    kind = kind_of(path)
    label, there = path[len(kind) + 1 :], other[len(kind) + 1 :]
    attributes = found.objects[other]
    if kind in _ON_RELATIONS:
        name, old = last_name(label), last_name(there)
        relation = next((k for k in _RELATIONS if f"{k} {root}" in found.objects), "table")
        word = found.objects.get(f"{relation} {root}", {}).get("kind", relation).upper().removeprefix("PARTITIONED ")
        if kind == "column":
            return f"ALTER {word} {root} RENAME COLUMN {old} TO {name};"
        if kind == "constraint":
            return f"ALTER TABLE {root} RENAME CONSTRAINT {old} TO {name};"
        if kind == "index":
            return f"ALTER INDEX {root[: -len(last_name(root))]}{old} RENAME TO {name};"
        return f"ALTER {kind.upper()} {old} ON {root} RENAME TO {name};"
    word = {"window function": "FUNCTION"}.get(
        kind, attributes.get("kind", kind) if kind in _RELATIONS else kind
    ).upper()
    word = word.removeprefix("PARTITIONED ")
    if kind == "type" and attributes["kind"] == "domain":
        word = "DOMAIN"
    # The arguments of a routine are part of its name, and stay; so does the access method of an operator class.
    (name, arguments), (old, _) = _split(label), _split(there)
    if kind == "other":
        word = sql_text.RARE[label.partition(" ")[0]]
        name, using, method = label.partition(" ")[2].partition(" USING ")
        old, arguments = there.partition(" ")[2].partition(" USING ")[0], using + method
    schemas = [one[: -len(last_name(one))] for one in (name, old)]
    lines = []
    if schemas[0] != schemas[1]:
        to = schemas[0].removesuffix(".") or quoted(found.schema)
        lines.append(f"ALTER {word} {old}{arguments} SET SCHEMA {to};")
    if last_name(name) != last_name(old):
        lines.append(f"ALTER {word} {schemas[0]}{last_name(old)}{arguments} RENAME TO {last_name(name)};")
    return "\n".join(lines)


def _split(label: str) -> tuple[str, str]:
    """A name, and the types in parentheses behind it."""
    at = sql_text.opening(label)
    return label[:at], label[at:]
