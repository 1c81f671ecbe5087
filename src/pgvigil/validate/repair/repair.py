"""Repair single objects: make a missing one, change one that differs, and remove one that is not declared.

More than 400 lines: all three need the same two sides, and making an object again is how many are changed.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Iterable, Iterator

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import beside, quoted, unquoted
from pgvigil.validate.catalog.object_ref import ROUTINES, ObjectRef, table, view
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot, usual_sequence
from pgvigil.validate.repair import alter, ddl, ddl_relations
from pgvigil.validate.spec.declaration import Partitions

# What a DROP of these takes with it cannot be made again.
_HOLDS_DATA = ("table", "column", "schema", "sequence", "type", "extension")
_COLUMNS = re.compile(r"(?:PRIMARY KEY|UNIQUE(?: NULLS NOT DISTINCT)?) \((.*?)\)(?: |$)")
_KEYS = ("PRIMARY KEY", "UNIQUE", "EXCLUDE")
_NOT_NULL = re.compile(r'NOT NULL ("(?:[^"]|"")*"|\S+)(?: NO INHERIT)?$')
_OWNED = ("function", "procedure", "type")  # and tables and views: what its owner has to be given
_PARTS = ("column", "sequence", "constraint", "index", "trigger", "policy", "rule", "statistics", "grant", "revocation")

# Kind → its letter in pg_default_acl, its word in GRANT, what PUBLIC may do where nothing is said.
_BY_DEFAULT = {
    "table": ("r", "TABLE", ""),
    "view": ("r", "TABLE", ""),
    "sequence": ("S", "SEQUENCE", ""),
    "function": ("f", "FUNCTION", "EXECUTE"),
    "procedure": ("f", "PROCEDURE", "EXECUTE"),
    "aggregate": ("f", "FUNCTION", "EXECUTE"),
    "type": ("T", "TYPE", "USAGE"),
    "schema": ("n", "SCHEMA", ""),
}


class Repairs:
    """The repairs that lead from what was found to all that is expected."""

    def __init__(
        self,
        expected: dict[ObjectRef, Attributes],
        roots: dict[ObjectRef, str],
        found: Snapshot,
        patterns: dict[str, Partitions],
    ) -> None:
        self.patterns = patterns
        self.expected = expected
        self.roots = roots
        self.found = found

    def make(self, ref: ObjectRef, *, anew: bool = False) -> str:
        """A missing object; of a relation, all that belongs to it. `anew`: of what was just dropped."""
        root = self.roots.get(ref, "")
        attributes = self.expected[ref]
        kind = ref.kind
        if kind == "grant" and self._is_anothers(ref.of):
            return ""
        if kind == "column" and (of_view := view(root)) in self.found.objects:
            return self.change(of_view, ["definition"]) if of_view in self.expected else ""
        if kind not in ("table", "view"):
            made = self._created(ref, root, self._with_identity(ref))
            if kind in ("index", "constraint") and (parts := self._attached(ref, root, anew=anew)):
                made = made.replace(f" ON {root} ", f" ON ONLY {root} ", 1)
                made = made.replace(f"ALTER TABLE {root} ADD ", f"ALTER TABLE ONLY {root} ADD ", 1)
                made = "\n".join([made, *parts])
            if ref.of_column and ref.column not in self.found.objects:
                return ""  # it is made with its column
            if ref.of_column:
                made = self._sequence_of(ref.column, attributes)
            if kind == "operator":  # those that named it still name what it was
                partners = self._partners(ref)
                made = "\n".join([*map(self.drop, partners), made, *map(self.make, partners)])
            if kind == "column" and (own := self._serial(ref)) is not None:
                made = "\n".join([own[0], made, own[1]])
            if attributes.get("kind") == "base":
                made = "\n".join([*self._base_type(ref.label, attributes), made])
            if kind == "index" and not self._partitioned(root):
                made = made.replace("INDEX ", "INDEX CONCURRENTLY ", 1)
            made = "\n".join(filter(None, (made, self._identified_by(ref, root))))
            if not made:
                return self._spelt("\n".join(self._of(ref)))
            server = self.found.server
            if server is not None and server.major < 18 and made.strip() == f"CREATE TYPE {ref.label};":
                return self._spelt(made.strip())  # before PostgreSQL 18 nothing can be done to a shell
            owner = self._owner(ref, root, attributes) if kind in _OWNED else ""  # whoever runs this may be another
            rights = self._of(ref) + (self._of(ref.owned_sequence) if kind == "column" else [])
            made = "\n".join(part for part in (made, *self._by_default(ref), owner, *rights) if part)
            return self._spelt(made.strip())
        label = ref.label
        columns = {
            other.name: self._with_identity(other)
            for other in self.expected
            if self.roots.get(other) == label and other.kind == "column"
        }
        for of in [self.expected[other] for other in self.expected if self.roots.get(other) == label]:
            # A NOT NULL that is a constraint of its own is added as that.
            if (of_column := _NOT_NULL.match(of.get("definition", ""))) and of_column[1] in columns:
                columns[of_column[1]] = {
                    key: columns[of_column[1]][key] for key in columns[of_column[1]] if key != "nullable"
                }
        made = ddl.create(ref, root, attributes, columns)
        if not made:
            return ""
        serial = [one for name in columns if (one := self._serial(ObjectRef.on("column", label, name))) is not None]
        made = "\n".join([*(one for one, _ in serial), made, *(one for _, one in serial)])
        others = [other for other in self.expected if self.roots.get(other) == label and other.kind in _PARTS[2:]]
        others.sort(
            key=lambda other: (_PARTS.index(other.kind), "FOREIGN KEY" in self.expected[other].get("definition", ""))
        )
        parts = [self._owner(ref, root, attributes)]
        for name in (name for name, of in columns.items() if "identity" in of and "partition_of" not in attributes):
            column = ObjectRef.on("column", label, name)
            if text := (of := self.expected.get(column.owned_sequence, {})).get("comment"):
                parts.append(sql_text.comment(ObjectRef("sequence", self._beside(column, of)), "", text))
        before = others
        if "partition_of" in attributes:
            before = [other for other in others if other.kind in ("constraint", "index")]
            parts += self._inherited_checks(label, attributes)
        parts += [self._created(other, label, self.expected[other]) for other in before]
        if "partition_of" in attributes:
            parts.append(ddl_relations.attach(label, attributes))
            parts += [self._created(other, label, self.expected[other]) for other in others if other not in before]
        if ddl_relations.identified_by_index(attributes):
            parts.append(ddl_relations.relation(label, "replica_identity", attributes))
        if kind == "view":
            parts += [
                f"ALTER VIEW {label} ALTER {name} SET DEFAULT {of['default']};"
                for name, of in columns.items()
                if "default" in of
            ]
            parts += [
                sql_text.comment(ObjectRef.on("column", label, name), label, of["comment"])
                for name, of in columns.items()
                if "comment" in of
            ]
            parts += [line for name, of in columns.items() for line in ddl_relations.matview_column(label, name, of)]
        if pattern := self.patterns.get(label):
            if pattern.default:
                default = f"{label}{pattern.default}"
                parts.append(f"CREATE TABLE {default} PARTITION OF {label} DEFAULT;")
                parts.append(self._owner(table(default), default, attributes))
            parts.append(pattern.repair.replace("{table}", label))
        return self._spelt("\n".join([made, *self._by_default(ref), *(part for part in parts if part)]))

    def _identified_by(self, ref: ObjectRef, root: str) -> str:
        """The replica identity of a table that is there, if this index is it."""
        of = self.expected.get(table(root), {})
        uses = ref.kind == "index" and of.get("replica_identity") == f"USING INDEX {ref.name}"
        return (
            ddl_relations.relation(root, "replica_identity", of) if uses and table(root) in self.found.objects else ""
        )

    def _with_identity(self, ref: ObjectRef) -> Attributes:
        """A column with the options of the sequence that its identity has."""
        attributes = self.expected[ref]
        sequence = self.expected.get(ref.owned_sequence) if ref.kind == "column" else None
        if "identity" not in attributes or sequence is None:
            return attributes
        name = f"SEQUENCE NAME {self._beside(ref, sequence)} " if "name" in sequence else ""
        return attributes | {"identity_options": f"{name}{ddl.sequence_options(sequence)}"}

    @staticmethod
    def _beside(column: ObjectRef, sequence: Attributes) -> str:
        """The name of the sequence of a column, in the schema of its table."""
        return beside(column.relation, str(sequence.get("name") or quoted(usual_sequence(column.label))))

    def _serial(self, column: ObjectRef) -> tuple[str, str] | None:
        """Return the statements that create the sequence that a column owns and its OWNED BY."""
        sequence = self.expected.get(column.owned_sequence)
        if sequence is None or "identity" in self.expected.get(column, {}):
            return None
        made = ObjectRef("sequence", self._beside(column, sequence))
        return (
            ddl.create(made, "", sequence),
            f"{self._owner(made, '', sequence)}\nALTER SEQUENCE {made.label} OWNED BY {column.label};",
        )

    def _sequence_of(self, column: ObjectRef, attributes: Attributes) -> str:
        """The sequence that a column's default reads, with the default; it goes on after the rows there are."""
        serial = self._serial(column)
        if serial is None:
            return ""
        name, root = column.name, column.relation
        if not str(self.expected[column].get("default")).startswith("nextval("):
            return "\n".join(serial)
        default = f"ALTER TABLE {root} ALTER COLUMN {name} SET DEFAULT {self.expected[column]['default']};"
        return "\n".join([*serial, default, self._continued(column, attributes)])

    def _continued(self, column: ObjectRef, sequence: Attributes) -> str:
        name = column.name
        return (
            f"SELECT setval({sql_text.literal(self._beside(column, sequence))}, coalesce(max({name}), {sequence['start']}), "
            f"max({name}) IS NOT NULL) FROM {column.relation};"
        )

    def _attached(self, ref: ObjectRef, root: str, *, anew: bool = False) -> list[str]:
        """The indexes or keys of partitions under their own names, each attached to that of the partitioned table.

        `anew`: that of the table was dropped, and what was attached to it went with it.
        """
        lines = []
        for other, of in self.expected.items():
            if other.kind != ref.kind or of.get("attached") != ref.name:
                continue
            part = self.roots.get(other, "")
            if self.expected.get(table(part), {}).get("partition_of") != root:
                continue
            there = self.found.objects.get(other)
            if there is None or (anew and there.get("attached") == ref.name):
                lines.append(self.make(other, anew=anew).replace(" CONCURRENTLY", "", 1))
            elif "valid" in there and self._partitioned(part):
                lines += self._attached(other, part)
            lines.append(f"ALTER INDEX {beside(root, ref.name)} ATTACH PARTITION {beside(part, other.name)};")
        return lines

    def _inherited_checks(self, label: str, attributes: Attributes) -> Iterator[str]:
        """Return the statements that a table needs before it can be a partition."""
        while parent := attributes.get("partition_of"):
            attributes = self.expected.get(table(parent), {})
            for ref, of in self.expected.items():
                if (
                    self.roots.get(ref) == parent
                    and of.get("definition", "").startswith("CHECK ")
                    and not of["definition"].endswith(" NO INHERIT")
                ):
                    yield ddl_relations.add_constraint(label, ref.name, of)

    def _base_type(self, label: str, attributes: Attributes) -> Iterator[str]:
        """A type and the functions that it reads and writes by need each other: the type comes as a shell first."""
        functions = [
            ref
            for ref, of in self.expected.items()
            if ref.kind == "function"
            and ref.bare_label in attributes["base"].values()
            and re.search(rf'(?<![\w".]){re.escape(label)}(?![\w"])', f"{ref.signature} {of.get('returns')}")
        ]
        yield f"CREATE TYPE {label};"
        yield from (ddl.create(ref, "", self.expected[ref]) for ref in functions)

    def _partners(self, operator: ObjectRef) -> list[ObjectRef]:
        """The operators whose negator or commutator a missing one is to be again."""
        name = re.compile(rf"(?:.*[.])?{re.escape(operator.name)}[)]?")
        return [
            ref
            for ref, of in self.expected.items()
            if ref.kind == "operator" and ref in self.found.objects
            for key in ("NEGATOR", "COMMUTATOR")
            if name.fullmatch(of["definition"].get(key, "")) and key not in self.found.objects[ref]["definition"]
        ]

    def _by_default(self, ref: ObjectRef) -> list[str]:
        """Take back what ALTER DEFAULT PRIVILEGES does to a new object of the role that runs the repairs."""
        label, schema, server = ref.label, ref.schema, self.found.server
        code, word, usual = _BY_DEFAULT.get(ref.kind, ("", "", ""))
        if server is None or not code or ref.of_column:
            return []
        given = [
            (within, grantee)
            for within, what, role, grantee, _, _, gives, _ in server.default_grants
            if gives
            and (what, role) == (code, server.role)
            and within in (None, unquoted(schema) if schema else self.found.schema)
        ]
        others = dict.fromkeys(grantee for _, grantee in given if grantee not in ("PUBLIC", server.role))
        lines = [f"REVOKE ALL ON {word} {label} FROM {quoted(grantee)};" for grantee in others]
        public = any(grantee == "PUBLIC" for _, grantee in given)
        if usual and not public and any(within is None for within, _ in given):
            lines.append(f"GRANT {usual} ON {word} {label} TO PUBLIC;")
        if not usual and public:
            lines.append(f"REVOKE ALL ON {word} {label} FROM PUBLIC;")
        return lines

    def _of(self, ref: ObjectRef) -> list[str]:
        """Return the statements for rights on an object that belongs to no relation."""
        rights = [other for other in self.expected if other.kind in ("grant", "revocation") and other.of == ref]
        return [self._created(other, "", self.expected[other]) for other in rights]

    def _created(self, ref: ObjectRef, root: str, attributes: Attributes) -> str:
        return ddl.create(self._by_its_name(ref) if ref.of else ref, root, attributes)

    @staticmethod
    def _is_key(ref: ObjectRef, attributes: Attributes) -> bool:
        """Return true of what is an index, or has one."""
        return ref.kind == "index" or (ref.kind == "constraint" and attributes["definition"].startswith(_KEYS))

    def _completed(self, ref: ObjectRef, root: str, found: Attributes, keys: list[str]) -> str:
        """An index or key of a partitioned table, as it is expected, with those of the partitions."""
        expected_names = {
            self.roots[one]
            for one, of in self.expected.items()
            if one.kind == ref.kind and of.get("attached") == ref.name
        }
        occupied = any(
            one.kind == ref.kind and of.get("attached") == ref.name and one not in self.expected
            for one, of in self.found.objects.items()
            if self.found.roots[one] in expected_names
        )
        if keys == ["valid"] and not occupied and (parts := self._attached(ref, root)):
            return "\n".join(parts)
        return self._without_references(ref, found, f"{ddl.drop(ref, root, found)}\n{self.make(ref, anew=True)}")

    def _without_references(self, key: ObjectRef, found: Attributes, change: str) -> str:
        """A change of a key that the server refuses while foreign keys need it: they go before it, and come again after it."""
        columns = _COLUMNS.match(found["definition"])
        if key.kind != "constraint" or columns is None:
            return change
        named = re.compile(rf" REFERENCES {re.escape(key.relation)}\((.*?)\)(?: |$)")
        first, then = [], []
        for ref, of in self.found.objects.items():
            match = named.search(of.get("definition", "")) if ref.kind == "constraint" else None
            if match and ref != key and set(match[1].split(", ")) == set(columns[1].split(", ")):
                first.append(ddl.drop(ref, ref.relation, of))
                then += [ddl.create(ref, ref.relation, self.expected[ref])] if ref in self.expected else []
        return "\n".join([*first, change, *then])

    def _partitioned(self, root: str) -> bool:
        return self.found.objects.get(table(root), {}).get("kind") == "partitioned table"

    def rebuilt(self, ref: ObjectRef) -> str:
        """An index that is INVALID, or the one under a constraint."""
        root = self.roots.get(ref, "")
        return f"REINDEX INDEX {beside(root, ref.name)};" if not self._partitioned(root) else ""

    def drop(self, ref: ObjectRef) -> str:
        """Return the statement that removes an unexpected object. It is commented out where data go with the object."""
        attributes = self.found.objects[ref]
        if ref.kind == "revocation" and (
            self._is_anothers(ref.of) or (ref.grantee == "PUBLIC" and "EXECUTE" in attributes["privileges"])
        ):
            return ""  # what would be given is another's, or would be everybody's
        root = self.found.roots.get(ref, "")
        if ref.kind == "column" and (of_view := view(root)) in self.found.objects:
            return self.change(of_view, ["definition"]) if of_view in self.expected else ""
        text = ddl.drop(self._by_its_name(ref), root, attributes)
        if attributes.get("kind") == "base":  # with the functions by which it is read and written
            text = text.replace(";", " CASCADE;")
        if ref.kind == "schema" and not any(one.within(ref) for one in self.found.objects):
            text = text.replace(" CASCADE", "")  # it is empty, or its tables are to be moved back first
        data = ref.kind in _HOLDS_DATA or attributes.get("kind") == "materialized view"
        return self._spelt(sql_text.remark(text) if data else text)

    def _by_its_name(self, ref: ObjectRef) -> ObjectRef:
        """The sequence of a column by the name that it has; of a right on it, by the name that it is to have."""
        if (of := ref.of) and of.of_column:
            if of in self.expected:
                name = self._beside(of.column, self.expected[of])
            else:
                name = self.found.details.get(of, {}).get("name", of.label)
            return ObjectRef.right(ref.kind, ObjectRef("sequence", name), ref.grantee)
        return ObjectRef("sequence", self.found.details[ref]["name"]) if ref.of_column else ref

    def comment(self, ref: ObjectRef) -> str:
        """The expected comment, or none."""
        expected = self.expected[ref]
        named = self._by_its_name(ref)
        return self._spelt(
            sql_text.comment(named, self.roots.get(named, ""), expected.get("comment"), expected.get("kind", ""))
        )

    def change(self, ref: ObjectRef, keys: Iterable[str]) -> str:
        """The statements that bring the attributes `keys` to what is expected.

        "" where no SQL is known that does it.
        """
        root = self.roots.get(ref, "")
        expected, found = self.expected[ref], self.found.objects[ref]
        keys = list(dict.fromkeys(keys))
        if self._is_anothers(ref) and (set(keys) - {"owned_by", "order"} or not self._is_all_ours(ref, root)):
            return ""  # whoever owns it may have made it: it is not made ours unless all else is as ours
        lines = [line for key in keys if (line := self._owner(ref, root, expected)) and key == "owned_by"]
        if lines:  # a right of whoever owned it meanwhile went into the ownership
            given = ObjectRef.right("grant", ref, quoted(found.get("owned_by", self.found.owner)))
            lines += [ddl.create(given, root, self.expected[given])] if given in self.expected else []
            lines += self._rights_on_columns(ref, given.grantee)
        if "depends_on" in keys:
            lines += alter.alter_dependencies(self._target(ref, root), expected, found)
        keys = [key for key in keys if key not in ("owned_by", "order", "depends_on")]
        if keys:
            lines.append(self._changed(ref, root, expected, found, keys))
        return self._spelt("\n".join(line for line in lines if line))

    def _owner(self, ref: ObjectRef, root: str, expected: Attributes) -> str:
        name = expected.get("owned_by", self.found.owner)
        return f"ALTER {sql_text.target(ref, root, expected.get('kind', ''))} OWNER TO {quoted(name)};" if name else ""

    def _is_anothers(self, ref: ObjectRef | None) -> bool:
        """Return true if it is there, and its owner is not the one it should have."""
        if ref is None or (there := self.found.objects.get(ref)) is None:
            return False
        usual = self.found.owner
        return bool(there.get("owned_by", usual) != self.expected.get(ref, {}).get("owned_by", usual))

    def _is_all_ours(self, ref: ObjectRef, root: str) -> bool:
        """Return true if the parts of a relation are as expected."""
        if ref.kind not in ("table", "view"):
            return True
        there = {other for other in self.found.parts.get(root, ()) if other.kind in _PARTS[:-3]}
        expected = {other for other, of in self.roots.items() if of == root and other.kind in _PARTS[:-3]}
        return there == expected and all(
            self.found.objects[other].get(key) == self.expected[other].get(key)
            for other in there
            for key in ("type", "function", "timing", "identity")
        )

    def _rights_on_columns(self, relation: ObjectRef, role: str) -> Iterator[str]:
        """Give back the rights that a role had before it became the owner; the expected owner gets none of them."""
        owner = quoted(self.expected[relation].get("owned_by", self.found.owner))
        for ref, of in self.expected.items():
            if (
                ref.kind == "grant"
                and ref.grantee == role
                and self.roots.get(ref) == relation.label
                and ref.of != relation
            ):
                yield ddl.create(ref, relation.label, of)
                if (owners := ObjectRef.right("grant", ref.of or ref, owner)) not in self.expected:
                    yield ddl.drop(owners, relation.label, of)

    def _target(self, ref: ObjectRef, root: str) -> str:
        return sql_text.target(ref, root, self.found.objects.get(ref, {}).get("kind", ""))

    def _changed(self, ref: ObjectRef, root: str, expected: Attributes, found: Attributes, keys: list[str]) -> str:
        kind, label, name = ref.kind, ref.label, ref.name
        again = f"{ddl.drop(ref, root, found)}\n{ddl.create(ref, root, expected)}"
        if kind == "column":
            return self._column(ref, root, expected, found, keys)
        if ref.rare_kind == "conversion":  # nothing can depend on one
            return f"{ddl.drop(ref, root, found)}\n{self.make(ref)}"
        if kind == "table" and "server" in keys:  # nothing changes it, and no data are here
            dropped = ddl.drop(ref, root, found)
            return self._without(self._readers(ref), f"{dropped}\n{self.make(ref)}")
        if kind in ("table", "view") and (kind == "table" or keys == ["with"]):
            word = found.get("kind", kind).upper().removeprefix("PARTITIONED ")
            lines = [alter.alter_relation(word, label, key, expected, found) for key in keys]
            if "partition_of" in keys and "partition_of" in found and "partition_of" not in expected:
                lines += self._left_by_detach(label, found["partition_of"])
            return "\n".join(filter(None, lines))
        if kind == "view" and self._replaceable(label, expected, found):
            return ddl_relations.view(label, expected)
        if kind == "view":
            dropped = ddl.drop(ref, root, found)
            made = self.make(ref)
            return self._without(self._readers(ref), f"{dropped}\n{made}") if made else ""
        if self._is_key(ref, expected) and self._partitioned(root) and {"valid", "definition"} & set(keys):
            return self._completed(ref, root, found, keys)
        if kind == "constraint":
            if keys == ["validated"] and "validated" not in expected:
                return f"ALTER TABLE {root} VALIDATE CONSTRAINT {name};"
            if keys == ["enforced"]:
                return "\n".join(self.found.details[ref]["enable"])
            if keys == ["valid"]:
                return f"REINDEX INDEX {beside(root, name)};"
            if keys == ["with"]:
                return alter.alter_storage("INDEX", beside(root, name), expected, found)
            if keys == ["index_comment"]:
                return sql_text.comment(ObjectRef("index", label), root, expected.get("index_comment"))
            if keys == ["tablespace"]:
                return f"ALTER INDEX {beside(root, name)} SET TABLESPACE {expected.get('tablespace', 'pg_default')};"
            if "attached" not in keys:  # both or neither
                again = again.replace(f";\nALTER TABLE {root} ADD CONSTRAINT ", ", ADD CONSTRAINT ", 1)
                return self._without_references(ref, found, again)
        if kind in ("constraint", "index") and keys == ["attached"]:
            parent = self.found.objects.get(table(root), {}).get("partition_of")
            if "attached" not in expected or not parent:
                return ""
            return f"ALTER INDEX {beside(parent, expected['attached'])} ATTACH PARTITION {beside(root, name)};"
        if kind == "index":
            if keys == ["valid"] and "valid" not in expected and not self._partitioned(root):
                return f"REINDEX INDEX CONCURRENTLY {beside(root, name)};"
            if keys == ["with"]:
                return alter.alter_storage("INDEX", beside(root, name), expected, found)
            concurrently = not self._partitioned(root)
            dropped = ddl.drop(ref, root, found)
            comment = sql_text.comment(ref, root, expected["comment"]) if "comment" in expected else ""
            if not concurrently:
                return "\n".join([dropped, self.make(ref, anew=True)]).strip()
            new = quoted(f"{unquoted(name)[:50]}_{secrets.token_hex(3)}")  # beside the old one until it is ready
            made = ddl_relations.index(root, new, expected, concurrently=True)
            renamed = f"ALTER INDEX {beside(root, new)} RENAME TO {name};"
            dropped = dropped.replace("DROP INDEX", "DROP INDEX CONCURRENTLY")
            lines = [made, dropped, renamed, comment, self._identified_by(ref, root)]
            if "attached" in keys:
                lines.append(self._changed(ref, root, expected, found, ["attached"]))
            return "\n".join(line for line in lines if line)
        if kind in ("trigger", "rule") and keys == ["enabled"]:
            return sql_text.enable(kind.upper(), root, name, expected.get("enabled", "ORIGIN"))
        if kind == "event trigger" and keys == ["enabled"]:
            return f"ALTER EVENT TRIGGER {label} {sql_text.ENABLE[expected.get('enabled', 'ORIGIN')]};"
        if kind in ROUTINES:
            return self._function(ref, expected, found, keys)
        if kind in ("default grant", "default revocation"):
            return again
        if kind == "setting":
            return ddl.create(ref, root, expected)
        if kind == "extension":
            lines = [f"ALTER EXTENSION {label} SET SCHEMA {expected['schema']};"] if "schema" in keys else []
            return "\n".join(
                lines
                + [f"ALTER EXTENSION {label} UPDATE TO {sql_text.literal(expected['version'])};"] * ("version" in keys)
            )
        if kind == "collation":
            named = re.compile(rf"COLLATE {re.escape(label)}(?![\w\"])")
            used = any(
                label in (of.get("collation"), of.get("range", {}).get("COLLATION")) or named.search(str(of))
                for of in self.found.objects.values()
            )
            return "" if used else again
        if kind in ("grant", "revocation"):
            right = self._by_its_name(ref)
            return alter.alter_privileges(right, expected, found, only_take=self._is_anothers(ref.of))
        if kind == "sequence":
            return self._sequence(ref, self.found.details[ref].get("name", label), expected, keys)
        if kind == "type":
            return alter.alter_type(label, expected, found, keys)
        if kind == "other":
            return alter.alter_other(ref, expected, found, keys) or (
                again if ref.rare_kind in ("cast", "access_method") else ""
            )
        return again if kind in ("trigger", "rule", "policy", "statistics", "event trigger", "operator") else ""

    def _left_by_detach(self, label: str, parent: str) -> Iterator[str]:
        """The indexes, keys and foreign keys that a table got of a partitioned one, and keeps."""
        for ref in self.found.parts.get(label, ()):
            if ref not in self.expected and "attached" in self.found.objects[ref]:
                yield ddl.drop(ref, label, self.found.objects[ref])
        for ref in self.found.parts.get(parent, ()):
            own = ObjectRef.on("constraint", label, ref.name)
            if "FOREIGN KEY" in self.found.objects[ref].get("definition", "") and own not in self.expected:
                yield ddl.drop(own, label, {}).replace("CONSTRAINT", "CONSTRAINT IF EXISTS", 1)

    def _generated(self, ref: ObjectRef, root: str, expected: Attributes, found: Attributes) -> str:
        """Set another expression. Computed values are lost and computed again; objects that need the column are dropped and made again."""
        server = self.found.server
        if server and server.major >= 17 and expected.get("virtual") == found.get("virtual"):
            parts = (self.found.objects[part].get("definition", "") for part in self.found.parts.get(root, ()))
            if not (expected.get("virtual") and any(text.startswith("CHECK ") for text in parts)):
                return f"ALTER TABLE {root} ALTER COLUMN {ref.name} SET EXPRESSION AS ({expected['generated']});"
        word = re.compile(rf'(?<![\w"]){re.escape(ref.name)}(?![\w"])')
        if word.search(self.found.objects.get(table(root), {}).get("partition_by", "")):
            return ""  # a column of the partition key can not go
        again = []
        for part in self.found.parts.get(root, ()):
            of = self.found.objects[part]
            if part in self.expected and part.kind in ("index", "constraint") and word.search(of.get("definition", "")):
                again.append(
                    ddl.drop(part, root, of).replace(f" {part.kind.upper()} ", f" {part.kind.upper()} IF EXISTS ", 1)
                )
                again.append(self.make(part).replace(" CONCURRENTLY", "", 1))
        change = f"ALTER TABLE {root} DROP COLUMN {ref.name}, ADD COLUMN {ref.name} {ddl_relations.column(expected)};"
        return "\n".join([change, *again])

    def _column(self, ref: ObjectRef, root: str, expected: Attributes, found: Attributes, keys: list[str]) -> str:
        if (of_view := view(root)) in self.found.objects and {"type", "collation"} & set(keys):
            return self.change(of_view, ["definition"]) if of_view in self.expected else ""
        foreign = self.found.objects.get(table(root), {}).get("kind") == "foreign table"
        lines: list[str] = []
        increments = ""
        all_keys = keys
        if "identity" in keys and "identity" not in expected:  # no default can be beside it
            keys = ["identity", *(key for key in keys if key != "identity")]
            sequence = ref.owned_sequence
            if sequence in self.expected and "kept" not in self.found.details.get(sequence, {}):
                lines.append(f"ALTER TABLE {root} ALTER COLUMN {ref.name} DROP IDENTITY;")  # and its sequence with it
                lines.append(self._sequence_of(ref, self.expected[sequence]))
                keys = [key for key in keys if key not in ("identity", "default")]
            elif sequence in self.expected:
                increments = self._continued(ref, self.expected[sequence])
        elif "identity" in keys and "identity" not in found and "default" in found:
            owned = self.found.details.get(ref.owned_sequence, {}).get("name")
            drop = sql_text.remark(f"DROP SEQUENCE {owned};") if owned else ""
            lines += [f"ALTER TABLE {root} ALTER COLUMN {ref.name} DROP DEFAULT;", drop]
            keys = [key for key in keys if key != "default"]
        computed = "generated" in expected and "generated" in found and {"generated", "virtual"} & set(keys)
        if computed:
            lines.append(self._generated(ref, root, expected, found))
            keys = [key for key in keys if key not in ("generated", "virtual", "type", "collation", "nullable")]
        for key in keys:
            lines += alter.alter_column(root, ref.name, self._with_identity(ref), found, key, foreign=foreign)
        if "identity" in all_keys:  # its sequence is another
            lines += [increments, *self._of(ref.owned_sequence)]
        made = "\n".join(dict.fromkeys(line for line in lines if line))  # two attributes may have one repair
        if not {"type", "collation"} & set(keys) and " DROP COLUMN " not in made:
            return made
        word = re.compile(rf'(?<![\w"]){re.escape(ref.name)}(?![\w"])')
        readers = self._readers(table(root))
        named = {one for one in readers if word.search(self.found.objects[one].get("definition", ""))}
        named |= {of for one in named for of in self._readers(one)}
        return self._without([one for one in readers if one in named], made)

    def _without(self, views: list[ObjectRef], change: str) -> str:
        """A change that the server refuses while these views exist: they go before it, and are made again after it."""
        if not all(one in self.expected for one in views):
            return ""
        first = [ddl.drop(one, one.label, self.found.objects[one]) for one in reversed(views)]
        return "\n".join([*first, change, *map(self.make, views)])

    def _readers(self, of: ObjectRef) -> list[ObjectRef]:
        """The views that depend on a relation, each after those that it reads."""
        readers: list[ObjectRef] = []
        raw = f"{unquoted(of.schema) if of.schema else self.found.schema}.{unquoted(of.name)}"
        for ref, details in self.found.details.items():
            if ref.kind == "view" and raw in (details.get("reads") or ()):
                for one in (ref, *self._readers(ref)):
                    if one in readers:
                        readers.remove(one)
                    readers.append(one)
        return readers

    def _sequence(self, ref: ObjectRef, name: str, expected: Attributes, keys: list[str]) -> str:
        alter = f"ALTER SEQUENCE {name}"
        lines = [f"{alter} SET {expected.get('persistence', 'LOGGED')};"] if "persistence" in keys else []
        lines += [f"{alter} OWNED BY {expected.get('of', 'NONE')};"] if "of" in keys else []
        if set(keys) - {"persistence", "name", "of"}:
            type_ = f" AS {expected['type']}" if "type" in keys else ""
            lines.append(f"{alter}{type_} {ddl.sequence_options(expected)};")
        if "name" in keys:
            usual = quoted(usual_sequence(ref.of_column))
            lines.append(f"{alter} RENAME TO {expected.get('name', usual)};")
        return "\n".join(lines)

    def _replaceable(self, label: str, expected: Attributes, found: Attributes) -> bool:
        """Return true if a view has the columns it should have, so that nothing that depends on it has to go."""
        columns = [ObjectRef.on("column", label, name) for name in expected.get("order", ())]
        same = all(
            self.expected[one].get(key) == self.found.objects.get(one, {}).get(key)
            for one in columns
            for key in ("type", "collation")
        )
        return same and expected.get("order") == found.get("order") and "kind" not in {**expected, **found}

    def _function(self, ref: ObjectRef, expected: Attributes, found: Attributes, keys: list[str]) -> str:
        made = ddl.create(ref, "", expected)
        if made:
            if not {"returns", "arguments"} & set(keys):
                return made
            lines = [
                ddl.drop(ref, "", found),
                made,
                *self._by_default(ref),
                self._owner(ref, "", expected),
                *self._of(ref),
            ]
            return "\n".join(line for line in lines if line)
        word, label = ref.kind.split()[-1].upper(), ref.label
        options = {
            "volatility": expected.get("volatility", "VOLATILE"),
            "parallel": f"PARALLEL {expected.get('parallel', 'UNSAFE')}",
            "strict": "STRICT" if expected.get("strict") else "CALLED ON NULL INPUT",
            "security": f"SECURITY {expected.get('security', 'INVOKER')}",
        }
        lines = [f"ALTER {word} {label} {options[key]};" for key in keys if key in options]
        if "set" in keys:
            settings = expected.get("set", {})
            lines.append(f"ALTER {word} {label} RESET ALL;")
            lines += [f"ALTER {word} {label} SET {name} = {value};" for name, value in settings.items()]
        return "\n".join(lines)

    def _spelt(self, text: str) -> str:
        name = quoted(self.found.schema)
        database = quoted(self.found.server.database) if self.found.server else ""
        text = re.sub(r"(SET search_path = [^;\n]*?|SCHEMA )\{schema\}", lambda match: match[1] + name, text)
        return re.sub(r"\bDATABASE \{database\}", lambda _: f"DATABASE {database}", text)
