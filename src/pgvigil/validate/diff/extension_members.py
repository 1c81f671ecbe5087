"""The objects of ours that were made members of an extension. No snapshot shows them."""

from __future__ import annotations

from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.diff.diff_builder import DiffBuilder
from pgvigil.validate.report.model import Kind


def hidden(builder: DiffBuilder) -> dict[ObjectRef, str]:
    """Return the objects that were made members of an extension elsewhere, which hides them, with that extension."""
    if builder.declaration.complete or builder.found.server is None:
        return {}
    here = f"{quoted(builder.found.schema)}."
    plain = (
        (ObjectRef.parse(path.removeprefix("materialized ").removeprefix("composite ")), extension)
        for path, extension in builder.found.server.members
    )
    return {ref.renamed(lambda label: label.removeprefix(here)): extension for ref, extension in plain}


def add(builder: DiffBuilder, ref: ObjectRef, extension: str, kind: Kind) -> None:
    what = f"{ref.kind.upper()} {ref.label}"
    fix = f"ALTER EXTENSION {quoted(extension)} DROP {what};"
    if kind == "unexpected":
        fix += f"\nDROP {what};" if ref.kind in ("function", "procedure", "view") else ""
    said = f"a member of extension {extension}: pg_dump leaves it out, and DROP EXTENSION drops it"
    builder.add(kind, ref, "a member of no extension" if kind == "different" else "", said, fix=fix)
