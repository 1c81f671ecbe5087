"""The application's schema, and the roles that a spec grants to: neither is part of a snapshot's objects."""

from __future__ import annotations

from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.diff.diff_builder import ABSENT, DiffBuilder


def compare(builder: DiffBuilder) -> None:
    found, declaration = builder.found, builder.declaration
    server = found.server
    if server is None:
        return
    if not server.schema_there and "{schema}" not in declaration.schemas:
        builder.miss(ObjectRef("schema", found.schema), "a schema")
    for role in declaration.roles:
        builder.compared["role"] += 1
        if role not in server.roles:
            builder.add(
                "missing",
                ObjectRef("role", role),
                "a role to grant to people and programs",
                ABSENT,
                "note",
                fix=f"CREATE ROLE {role} NOLOGIN;",
            )

    for role, powers in server.powers.items():
        if powers:
            taken = [
                f"REVOKE {p.removeprefix('member of ')} FROM {role};" if " of " in p else f"ALTER ROLE {role} NO{p};"
                for p in powers
            ]
            builder.add(
                "different",
                ObjectRef("role", role),
                "only what is granted to it here",
                ", ".join(powers),
                fix="\n".join(taken),
            )
