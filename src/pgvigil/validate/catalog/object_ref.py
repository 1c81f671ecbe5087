"""The identity of an object: what kind it is, and how SQL spells its name, with its schema unless that is the application's.

Only a spec, a report and a rule to ignore objects write an identity as one text, its path: `column sessions.status`, `function
pgvigil.actor()`, `grant on table sessions to pgvigil_reader`.

A tuple rather than a dataclass: these are keys of every dictionary here, and a tuple is hashed and compared in C (a look-up takes
70 ns; with a dataclass's own `__hash__` it takes 260).
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable
from typing import NamedTuple

from pgvigil.validate.catalog.identifiers import first_parenthesis, last_name, schema_of

# Kinds whose parts belong to a relation, and are called by its name and their own.
ON_RELATIONS = ("column", "constraint", "index", "trigger", "policy", "rule")
ROUTINES = ("function", "procedure", "aggregate", "window function")
_WITH_SIGNATURE = (*ROUTINES, "operator")
_IN_SCHEMAS = (*ON_RELATIONS, *_WITH_SIGNATURE, "table", "view", "sequence", "type", "statistics", "collation")
_RARE_IN_SCHEMAS = ("opclass", "opfamily", "conversion", "ts_config", "ts_dict", "ts_parser", "ts_template")
_TWO_WORDS = frozenset({"event", "window", "default"})
_OF_COLUMN = "of "  # before the column that a sequence is for
_DEFAULT_IN = re.compile(r'in schema ("(?:[^"]|"")*"|\S+) on ')
_ROLE = r'("(?:[^"]|"")*"|[^\s"]+)'
_RIGHT = {
    "grant": re.compile(rf"on (.*) to {_ROLE}", re.DOTALL),
    "revocation": re.compile(rf"on (.*) from {_ROLE}", re.DOTALL),
}
_TO = {"grant": "to", "revocation": "from"}
# The application's schema, in a path of its own; any other object may be called "{schema}" too.
_IN_APPLICATION_SCHEMA = re.compile(
    r"^((?:(?:default )?(?:grant|revocation) (?:in|on) |comment on )?schema) [{]schema[}](?![^ ])"
)


class ObjectRef(NamedTuple):
    kind: str  # "table", "event trigger", "grant"
    label: str  # what follows the kind in a path

    # --- as a text ---------------------------------------------------------------------------------------------------

    @staticmethod
    def parse(path: str) -> ObjectRef:
        """Return the reference for a path.

        One path always gives the same object, so that a look-up need not compare its text.
        """
        return ObjectRef.parse_all((path,))[0]

    @staticmethod
    def parse_all(paths: Iterable[str]) -> list[ObjectRef]:
        """Return the references for many paths, as `parse` does and quicker."""
        if len(_KNOWN) > _MOST_KNOWN:
            _KNOWN.clear()
        refs, known, new = [], _KNOWN.get, tuple.__new__
        for path in paths:
            if (ref := known(path)) is None:
                kind, _, label = path.partition(" ")
                if kind in _TWO_WORDS and label:
                    word, _, label = label.partition(" ")
                    kind = f"{kind} {word}"
                ref = _KNOWN[path] = new(ObjectRef, (kind, label))
            refs.append(ref)
        return refs

    @property
    def path(self) -> str:
        return f"{self.kind} {self.label}" if self.label else self.kind

    def __str__(self) -> str:
        return self.path

    def shown_in(self, schema: str) -> str:
        """The path, with a name in it for the application's schema."""
        return _IN_APPLICATION_SCHEMA.sub(lambda match: f"{match[1]} {schema}", self.path)

    # --- made from others --------------------------------------------------------------------------------------------

    @classmethod
    def on(cls, kind: str, relation: str, name: str) -> ObjectRef:
        """A part of a relation, both spelt as SQL does."""
        return cls(kind, f"{relation}.{name}")

    @classmethod
    def right(cls, kind: str, of: ObjectRef, role: str) -> ObjectRef:
        """A grant or a revocation; the role is spelt as SQL does."""
        return cls(kind, f"on {of} {_TO[kind]} {role}")

    @property
    def comment(self) -> ObjectRef:
        return ObjectRef("comment", f"on {self}")

    @property
    def owned_sequence(self) -> ObjectRef:
        """The sequence of a column: that of its identity or default."""
        return ObjectRef("sequence", _OF_COLUMN + self.label)

    def renamed(self, change: Callable[[str], str]) -> ObjectRef:
        """The same with another name, or of another object, whose name `change` gives."""
        if self.kind in _TO and (of := self.of) is not None:
            return ObjectRef.right(self.kind, of.renamed(change), self.grantee)
        if column := self.of_column:
            return ObjectRef(self.kind, _OF_COLUMN + change(column))
        return ObjectRef(self.kind, change(self.label))

    # --- the parts of a name, spelt as SQL does ----------------------------------------------------------------------

    @property
    def bare_label(self) -> str:
        """The label without the types of arguments or operands."""
        return self.label[: first_parenthesis(self.label)]

    @property
    def signature(self) -> str:
        """The types of arguments or operands, in their parentheses. Empty for anything else."""
        return self.label[first_parenthesis(self.label) :] if self.kind in _WITH_SIGNATURE else ""

    @property
    def _dotted(self) -> str:
        """The name with its schema. "" for an object of no schema."""
        if self.kind in _WITH_SIGNATURE:
            return self.bare_label
        if self.kind == "other":
            return self.rare_name.partition(" USING ")[0] if self.rare_kind in _RARE_IN_SCHEMAS else ""
        return self.label if self.kind in _IN_SCHEMAS else ""

    @property
    def name(self) -> str:
        """The last part of the label, without schema, relation and signature."""
        return last_name(self._dotted) or self.label

    @property
    def relation(self) -> str:
        """The relation whose part it is. Empty for anything else."""
        return schema_of(self.label if self.kind in ON_RELATIONS else self.of_column)

    @property
    def schema(self) -> str:
        """The schema of the object.

        It is empty for an object of the application's schema, and for an object without a schema.
        """
        if self.kind in ("default grant", "default revocation"):
            match = _DEFAULT_IN.match(self.label)
            return match[1] if match else ""
        return schema_of(self.relation or self._dotted)

    @property
    def of_column(self) -> str:
        """The column that a sequence belongs to. It is empty for anything else."""
        return self.label[len(_OF_COLUMN) :] if self.kind == "sequence" and self.label.startswith(_OF_COLUMN) else ""

    @property
    def column(self) -> ObjectRef:
        """The column that a sequence is for."""
        return ObjectRef("column", self.of_column)

    @property
    def rare_kind(self) -> str:
        """The kind of server object in `other server s`. It is empty for kinds that have a word of their own."""
        return self.label.partition(" ")[0] if self.kind == "other" else ""

    @property
    def rare_name(self) -> str:
        return self.label.partition(" ")[2]

    @property
    def access_method(self) -> str:
        """The access method of an operator class or family."""
        return self.label.partition(" USING ")[2]

    @property
    def of(self) -> ObjectRef | None:
        """The object that a grant or a revocation is about."""
        match = _RIGHT[self.kind].fullmatch(self.label) if self.kind in _TO else None
        return ObjectRef.parse(match[1]) if match else None

    @property
    def grantee(self) -> str:
        """The role of a grant or a revocation, spelt as SQL does."""
        match = _RIGHT[self.kind].fullmatch(self.label) if self.kind in _TO else None
        return match[2] if match else ""

    @property
    def commented(self) -> ObjectRef | None:
        """The object that a comment is on."""
        return ObjectRef.parse(self.label.removeprefix("on ")) if self.kind == "comment" else None

    # --- where it is -------------------------------------------------------------------------------------------------

    def within(self, other: ObjectRef) -> bool:
        """Return true of what is in a schema, and of what is part of a relation."""
        of = self.of or self.commented or self
        if of is not self and of == other:
            return True
        if other.kind == "schema":
            return of.schema == other.label
        return other.kind in ("table", "view") and of.relation == other.label

    @property
    def is_of_application_schema(self) -> bool:
        """Return true of that schema itself, and of rights and comments on it."""
        return _IN_APPLICATION_SCHEMA.match(self.path) is not None


_KNOWN: dict[str, ObjectRef] = {}  # by path
_MOST_KNOWN = 1 << 17


APPLICATION_SCHEMA = ObjectRef("schema", "{schema}")


def table(label: str) -> ObjectRef:
    return ObjectRef("table", label)


def view(label: str) -> ObjectRef:
    return ObjectRef("view", label)
