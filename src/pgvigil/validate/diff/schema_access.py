"""The check of roles that must reach the application's schema.

These are the owner of its tables, as whom functions run, and the roles that the spec grants to.
"""

from __future__ import annotations

from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.diff.diff_builder import DiffBuilder


def compare(builder: DiffBuilder, schema: str, without_usage: list[str]) -> None:
    """A right on the tables is worth nothing without USAGE on their schema, which may have been PUBLIC's."""
    for role in without_usage:
        builder.add(
            "missing",
            ObjectRef.right("grant", ObjectRef("schema", quoted(schema)), quoted(role)),
            "USAGE",
            f"{role} may not look names up in schema {schema}",
            fix=f"GRANT USAGE ON SCHEMA {quoted(schema)} TO {quoted(role)};",
        )
