"""The declared state in the form of a snapshot: objects, with the attributes of a database that meets the spec.

Kept apart from the reading of specs, which a verdict on a spec that was read before does without.
"""

from __future__ import annotations

import dataclasses
import json
import re
from dataclasses import dataclass, field
from typing import NamedTuple

from pgvigil.validate.catalog.identifiers import unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes, Scope, by_path, by_ref


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """A pattern, because partitions come and go: a name is its table's and a suffix with YYYY, MM, DD for its start."""

    names: tuple[str, ...]  # suffixes of a partition's name, with YYYY, MM, DD and HH for its start: `_pYYYYMM`
    default: str = ""  # suffix of the default partition's name
    present: bool = False  # there must be one for the present time
    repair: str = ""  # SQL that makes what is missing; {table} is replaced by the table
    line: int = 0

    def __post_init__(self) -> None:
        if wrong := [name for name in self.names if "YYYY" not in name]:
            raise ValueError(f"{wrong[0]!r} does not say when the partition starts (YYYY, MM, DD)")


class Mark(NamedTuple):
    """The parts of a hand-written spec besides an object's attributes."""

    spoken_of: frozenset[str]  # attributes that are compared
    ours: bool = True  # so that it must be as in the reference, comment included
    optional: bool = False
    unless_baselined: bool = False  # not required where the tables were there before


_BY_REF = ("objects", "marks", "bodies")


@dataclass(frozen=True)
class Declaration:
    """The objects that a spec declares.

    `roots` has the relation of each object. An object without a mark has all attributes compared.
    """

    name: str
    schemas: tuple[str, ...]
    schema: str
    complete: bool
    major: int
    roles: tuple[str, ...]
    ignore: tuple[tuple[str, str, bool], ...]  # path pattern, reason, whether it mostly covers nothing
    later: tuple[tuple[str, tuple[str, ...]], ...]
    objects: dict[ObjectRef, Attributes]
    roots: dict[ObjectRef, str]
    marks: dict[ObjectRef, Mark] = field(default_factory=dict)
    application: frozenset[str] = frozenset()  # tables that are the application's
    patterns: dict[str, Partitions] = field(default_factory=dict)
    rows: dict[str, tuple[dict[str, str], ...]] = field(default_factory=dict)
    reads: dict[str, tuple[str, ...]] = field(default_factory=dict)
    bodies: dict[ObjectRef, str] = field(default_factory=dict)  # that a function may have instead
    lines: dict[ObjectRef, int] = field(default_factory=dict)  # of the spec's file
    everything: bool = False  # there are no other schemas
    database: str = ""  # that it was dumped from
    for_all: frozenset[ObjectRef] = frozenset()  # functions that PUBLIC may call

    def to_json(self) -> str:
        plain = {item.name: getattr(self, item.name) for item in dataclasses.fields(self)}
        plain |= {key: by_path(plain[key]) for key in _BY_REF}
        # In the order of the objects: their paths are half of the text, and are read once.
        plain["roots"] = [self.roots[ref] for ref in self.objects]
        plain["lines"] = [self.lines.get(ref, 0) for ref in self.objects]
        plain["application"], plain["for_all"] = sorted(self.application), sorted(ref.path for ref in self.for_all)
        plain["marks"] = {
            path: [sorted(mark.spoken_of), mark.ours, mark.optional, mark.unless_baselined]
            for path, mark in plain["marks"].items()
        }
        plain["patterns"] = {name: dataclasses.asdict(pattern) for name, pattern in self.patterns.items()}
        return json.dumps(plain, separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str) -> Declaration:
        plain = json.loads(text)
        plain |= {key: by_ref(plain[key]) for key in _BY_REF}
        refs = plain["objects"]
        plain["roots"] = dict(zip(refs, plain["roots"], strict=True))
        plain["lines"] = {ref: line for ref, line in zip(refs, plain["lines"], strict=True) if line}
        plain["application"] = frozenset(plain["application"])
        plain["for_all"] = frozenset(map(ObjectRef.parse, plain["for_all"]))
        plain["marks"] = {ref: Mark(frozenset(spoken), *rest) for ref, (spoken, *rest) in plain["marks"].items()}
        plain["patterns"] = {name: Partitions(**pattern) for name, pattern in plain["patterns"].items()}
        return cls(**plain)

    def scope(self, schema: str) -> Scope:
        """Return the scope of a comparison for that application's schema."""
        relations = [ref for ref in self.objects if ref.kind in ("table", "view", "sequence") and not ref.of_column]
        slices = [
            f"^{re.escape(name)}{re.sub('[YMD]', '[0-9]', suffix)}$"
            for name, pattern in self.patterns.items()
            for suffix in [*pattern.names, pattern.default]
        ]
        return Scope(
            tuple(schema if name == "{schema}" else unquoted(name) for name in self.schemas),
            ()
            if "{schema}" in self.schemas
            else tuple(sorted({unquoted(ref.label) for ref in relations if not ref.schema})),
            tuple(slices),
            tuple(self.patterns),
            tuple(unquoted(ref.label) for ref in self.objects if ref.kind == "extension"),
            self.roles,
            self.everything,
            frozenset() if self.complete else frozenset(self.objects),
        )
