"""The comparison of NOT NULL … NO INHERIT, which PostgreSQL 18 has.

One constraint that differs is one finding, and is not made twice.
"""

from __future__ import annotations

import re
from collections.abc import Mapping

from pgvigil.validate.catalog.identifiers import last_name, quoted, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.repair import ddl_relations

_DEFINITION = re.compile(r"NOT NULL (.+?)(?: NO INHERIT)?", re.DOTALL)


def inheriting(ref: ObjectRef, expected: Mapping[ObjectRef, Attributes], found: Mapping[ObjectRef, Attributes]) -> str:
    """Return the name that a NOT NULL has which is to be NO INHERIT or NOT VALID and is not. "" for any other constraint."""
    match = _DEFINITION.fullmatch(expected[ref].get("definition", ""))
    column = found.get(ObjectRef.on("column", ref.relation, match[1]), {}) if match else {}
    if match is None or column.get("nullable") is not False or ref in found:
        return ""
    return column.get("not_null") or quoted(f"{unquoted(last_name(ref.relation))}_{unquoted(match[1])}_not_null")


def is_of_one(
    column: ObjectRef, expected: Mapping[ObjectRef, Attributes], found: Mapping[ObjectRef, Attributes]
) -> bool:
    """Return whether the NOT NULL of a column is reported as a constraint that should be NO INHERIT or NOT VALID."""
    definitions = (f"NOT NULL {column.name}", f"NOT NULL {column.name} NO INHERIT")
    return any(
        of.get("definition") in definitions
        and ref.kind == "constraint"
        and ref.relation == column.relation
        and ref not in found
        for ref, of in expected.items()
    )


def repair(ref: ObjectRef, there: str, attributes: Attributes) -> str:
    alter = f"ALTER TABLE {ref.relation}"
    if "validated" in attributes:  # no command takes back that it was validated
        return f"{alter} DROP CONSTRAINT {there};\n{ddl_relations.add_constraint(ref.relation, ref.name, attributes)}"
    lines = [f"{alter} RENAME CONSTRAINT {there} TO {ref.name};"] if there != ref.name else []
    return "\n".join([*lines, f"{alter} ALTER CONSTRAINT {ref.name} NO INHERIT;"])
