"""Match objects that another server calls by another name: the server has an object of that name only in one version, or the
schema has another name.

A function uuidv7() of schema public is `uuidv7()` up to PostgreSQL 17, and `public.uuidv7()` beside the server's own.
"""

from __future__ import annotations

import re
from collections.abc import Callable
from typing import Any

from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_ref import ON_RELATIONS, ROUTINES, ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot

Objects = dict[ObjectRef, Attributes]


def as_called_here(
    expected: Objects, roots: dict[ObjectRef, str], found: Snapshot, schema: str
) -> tuple[Objects, dict[ObjectRef, str]]:
    """Return what is expected, with the names that this server has for it; `schema` is that of the spec."""
    here, there = f"{quoted(found.schema)}.", f"{quoted(schema)}."
    if here != there and (hidden := {ref.name for ref in expected if _is_of(ref, quoted(schema))}):
        words = "|".join(re.escape(name) for name in sorted(hidden, key=len, reverse=True))
        word = re.compile(rf'(?<![\w".$]){re.escape(there)}(?=(?:{words})(?![\w"$]))')

        def moved(value: Any) -> Any:
            return _each_text(value, lambda text: word.sub(lambda _: here, text))

        expected = {ref.renamed(moved): moved(of) for ref, of in expected.items()}
        roots = {ref.renamed(moved): moved(root) for ref, root in roots.items()}
    names: dict[ObjectRef, ObjectRef] = {}
    for ref in found.objects.keys() - expected.keys():
        bare = ref.renamed(lambda label: label.removeprefix(here))
        for other in (bare, bare.renamed(lambda label: here + label)):
            if other in expected and other not in found.objects:
                names[other] = ref
    if not names:
        return expected, roots
    read = _reader({one.bare_label: (one.kind, ref.bare_label) for one, ref in names.items()})
    expected = {names.get(ref, ref): _each_text(of, read) for ref, of in expected.items()}
    labels = {ref.label: names[ref].label for ref in names if ref.kind in ("table", "view", "sequence")}
    return expected, {names.get(ref, ref): labels.get(root, root) for ref, root in roots.items()}


def _is_of(ref: ObjectRef, schema: str) -> bool:
    return ref.kind not in ON_RELATIONS and not ref.of_column and ref.schema == schema


def _reader(names: dict[str, tuple[str, str]]) -> Callable[[str], str]:
    """Return a function that puts names in the place of others: calls in any text, and any name that is all of it."""
    calls = [
        (re.compile(rf'(?<![\w".$]){re.escape(old)}(?=\()'), new)
        for old, (kind, new) in names.items()
        if kind in ROUTINES
    ]
    types = [
        (re.compile(rf'(?<=::){re.escape(old)}(?![\w"$.])'), new)
        for old, (kind, new) in names.items()
        if kind == "type"
    ]

    def read(value: str) -> str:
        for word, new in (*calls, *types):
            value = word.sub(lambda _, new=new: new, value)  # type: ignore[misc]
        return names[value][1] if value in names else value

    return read


def _each_text(value: Any, change: Callable[[str], str]) -> Any:
    """Return attributes with their texts changed, but for comments and for bodies that the server does not print."""
    if isinstance(value, str):
        return change(value)
    if isinstance(value, list):
        return [_each_text(one, change) for one in value]
    if isinstance(value, dict):
        kept = ("comment",) if "atomic" in value else ("comment", "body")
        return {key: one if key in kept else _each_text(one, change) for key, one in value.items()}
    return value
