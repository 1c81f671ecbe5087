"""The expected state: the declarations of the spec and, for the rest, the result of our own DDL."""

from __future__ import annotations

from typing import Any

from pgvigil import default_expiry
from pgvigil.validate.catalog.object_ref import APPLICATION_SCHEMA, ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot
from pgvigil.validate.spec.declaration import Declaration, Mark

POLICIES = "pgvigil.retention_policies"
DEFAULT_EXPIRY = ObjectRef("function", "pgvigil.set_default_expiry()")  # written again by every edit of the policies
Rows = dict[str, list[dict[str, Any]]]  # of some tables
Joined = tuple[dict[ObjectRef, Attributes], dict[ObjectRef, str], dict[ObjectRef, Mark]]


def join(declaration: Declaration, reference: Snapshot | None, found: Snapshot, rows: Rows) -> Joined:
    """Return the expected objects, the relations they belong to, and their marks.

    An object without a mark has all attributes compared.
    """
    expected, roots, marks = declaration.objects, declaration.roots, declaration.marks
    if not declaration.complete:
        expected, marks = {}, {}
        for ref, attributes in declaration.objects.items():
            mark = declaration.marks[ref]
            made = reference.objects.get(ref) if reference and mark.ours else None
            expected[ref], marks[ref] = _joined(mark, attributes, made, found.objects.get(ref, {}))
        roots = dict(declaration.roots)
        if reference:
            _add_undeclared(declaration, reference, found, expected, roots)
    if found.server and found.server.major < 15:
        expected = {ref: _without_invoker(of) if ref.kind == "view" else of for ref, of in expected.items()}
    there = found.objects.get(DEFAULT_EXPIRY, {})
    if DEFAULT_EXPIRY in expected and (body := _default_expiry(rows.get(POLICIES, [])) or there.get("body")):
        expected = expected | {DEFAULT_EXPIRY: expected[DEFAULT_EXPIRY] | {"body": body}}
        if said := marks.get(DEFAULT_EXPIRY):
            marks = marks | {DEFAULT_EXPIRY: said._replace(spoken_of=said.spoken_of | {"body"})}
    return expected, roots, marks


def _default_expiry(policies: list[dict[str, Any]]) -> str:
    """The body, or "" where the rows do not give it, which is reported by itself."""
    hours: dict[str, int] = {row.get("policy", ""): row.get("active_hours", 0) for row in policies}
    return default_expiry.body(hours) if hours.get("standard") else ""


def _joined(mark: Mark, declared: Attributes, made: Attributes | None, found: Attributes) -> tuple[Attributes, Mark]:
    if made is None:
        return declared, mark
    both = {key: value for key, value in made.items() if key not in mark.spoken_of} | declared
    if "with" in declared and "with" in made:
        both["with"] = made["with"] | declared["with"]
    if both == found:
        return both, mark  # which of its attributes are compared makes no difference
    return both, Mark(frozenset({*mark.spoken_of, *made, *found}), True, mark.optional, mark.unless_baselined)


def _add_undeclared(
    declaration: Declaration,
    reference: Snapshot,
    found: Snapshot,
    expected: dict[ObjectRef, Attributes],
    roots: dict[ObjectRef, str],
) -> None:
    roles = {"PUBLIC", *(found.server.roles if found.server else [])}
    for ref, attributes in reference.objects.items():
        if ref in expected or not _is_ours(declaration, reference, ref):
            continue
        if reference.grantees.get(ref, "PUBLIC") in roles:  # a missing role is reported by itself
            expected[ref], roots[ref] = attributes, reference.roots[ref]


def _is_ours(declaration: Declaration, reference: Snapshot, ref: ObjectRef) -> bool:
    """Return true if an object of the reference, which the spec does not declare, has to be there."""
    root = reference.roots[ref]
    if reference.details.get(table(root), {}).get("cut") or ref == APPLICATION_SCHEMA or ref.kind == "extension":
        return False
    if root in declaration.application or (ref.kind == "grant" and ref.of == APPLICATION_SCHEMA):
        return reference.grantees.get(ref) in declaration.roles
    of = ref.of or ref
    return bool(root) or (of.label if of.kind == "schema" else of.schema) in declaration.schemas


def _without_invoker(view: Attributes) -> Attributes:
    """Remove security_invoker from the options of a view: PostgreSQL 14 does not know it."""
    options = {name: value for name, value in view.get("with", {}).items() if name != "security_invoker"}
    rest = {key: value for key, value in view.items() if key != "with"}
    return rest | ({"with": options} if options else {})
