"""A module that knows what pg_dump does not carry: a restored copy differs there, and nobody has changed anything."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING

from pgvigil.lazily import later
from pgvigil.validate.catalog.object_ref import APPLICATION_SCHEMA, ObjectRef, table
from pgvigil.validate.catalog.snapshot import Attributes, Snapshot

if TYPE_CHECKING:
    from pgvigil.validate.diff import inherited
    from pgvigil.validate.repair import ddl_routines
else:
    inherited = later("pgvigil.validate.diff.inherited")
    ddl_routines = later("pgvigil.validate.repair.ddl_routines")

FOREIGN_PARTITION = (
    "pg_dump makes it ON ONLY the partitioned table, where it stays INVALID: a partition is a foreign table"
)
IDENTITY = "pg_dump does not carry the type of an identity's sequence, where it is not that of the column"
ORDER = "pg_dump writes inherited columns first, and no command moves a column"
NULLABLE = "pg_dump does not carry that a child's column takes NULL where its parent's does not"
COMMENT = "pg_dump does not carry that an extension has no comment: CREATE EXTENSION gives it one"
_SHELL = "pg_dump leaves out an operator that only another one names, and that has no function yet"
_CONSTRUCTOR = "pg_dump does not carry rights, owner or attributes of a range type's constructors"
_MULTIRANGE = "pg_dump does not carry rights of a multirange; since PostgreSQL 17 it has those of its range"
_LANGUAGES = "a database by another name: pg_dump does not carry rights on the languages of the server itself"
_INFORMATION = "a database by another name: pg_dump does not carry rights in information_schema"
_PUBLIC = "every database is made with it, and pg_dump does not drop it"
_DATABASE = "a database by another name: pg_dump carries settings and rights of a database only with --create"

_THE_DATABASE = ObjectRef("database", "{database}")
_CLOSED = ObjectRef.right("revocation", APPLICATION_SCHEMA, "PUBLIC")


def left_out(
    ref: ObjectRef, expected: dict[ObjectRef, Attributes], found: dict[ObjectRef, Attributes], *, copy: bool
) -> str:
    """The reason why an object may differ after a restore, or "" where it may not.

    `copy`: the database has another name than the one that the spec was dumped from.
    """
    of = ref.of or ref
    if ref.of and of.kind == "type" and is_multirange(of, expected):
        return _MULTIRANGE
    if expected.get(of, {}).get("constructor") or found.get(of, {}).get("constructor"):
        return _CONSTRUCTOR
    if ref.kind == "operator" and expected.get(ref, {}).get("definition") == {} and ref not in found:
        return _SHELL
    if copy and (ref.kind == "setting" or of == _THE_DATABASE):
        return _DATABASE
    if copy and re.match(r"information_schema\b", of.label):
        return _INFORMATION
    return _LANGUAGES if copy and of.rare_kind == "language" and of.rare_name in ("c", "internal", "sql") else ""


def is_multirange(ref: ObjectRef, objects: dict[ObjectRef, Attributes]) -> bool:
    """Return true if a type comes with a range type."""
    return ref not in objects and any(
        ref.label == (of["range"].get("MULTIRANGE_TYPE_NAME") or ddl_routines.usual_multirange(one.label))
        for one, of in objects.items()
        if "range" in of
    )


def carried(expected: dict[ObjectRef, Attributes], major: int, server: int) -> dict[ObjectRef, Attributes]:
    """Return the expected state as a server of another major version has it.

    Since PostgreSQL 15 PUBLIC may not CREATE in schema public, and another role comes as its owner.
    """
    if not 0 < major < 15 <= server:
        return expected
    taken = {ref for ref in expected if ref.kind == "revocation" and ref.of == APPLICATION_SCHEMA}
    if not taken:
        return expected
    left = [one for one in expected.get(_CLOSED, {}).get("privileges", ()) if one != "CREATE"]
    others = {one: of for one, of in expected.items() if one not in taken}
    return others | ({_CLOSED: {"privileges": left}} if left else {})


def all_of_them(expected: list[str], found: list[str], major: int) -> bool:
    """Return true if GRANT ALL of a server before PostgreSQL 17 was read by a later one, where ALL is MAINTAIN too."""
    more = {one.removesuffix(" WITH GRANT OPTION") for one in set(found or ()) - set(expected or ())}
    return 0 < major < 17 and more == {"MAINTAIN"} and len(expected or ()) == 7 and set(expected) < set(found)


def of_every_database(ref: ObjectRef, expected: dict[ObjectRef, Attributes], found: Snapshot) -> str:
    """The reason why schema public may be there though the spec has none, with nothing in it; else ""."""
    public = ObjectRef("schema", "public")
    if public not in (ref, ref.of) or public in expected or not (found.server and found.server.public_of_initdb):
        return ""
    return "" if any(one.within(public) and one.of != public for one in found.objects) else _PUBLIC


def has_foreign_partition(label: str, objects: dict[ObjectRef, Attributes]) -> bool:
    partitions = [ref for ref, of in objects.items() if of.get("partition_of") == label and ref.kind == "table"]
    return any(
        objects[ref].get("kind") == "foreign table" or has_foreign_partition(ref.label, objects) for ref in partitions
    )


def is_identity_of_parent(column: ObjectRef, found: dict[ObjectRef, Attributes], major: int) -> bool:
    """Return true if the column of a partition has an identity only because servers from 17 on give it that of its parent."""
    parent = found.get(table(column.relation), {}).get("partition_of")
    return (
        0 < major < 17
        and bool(parent)
        and "identity" in found.get(ObjectRef.on("column", str(parent), column.name), {})
    )


def retypes(sequence: ObjectRef, keys: list[str], expected: dict[ObjectRef, Attributes]) -> bool:
    """Return whether the sequence of an identity has another type than its column, and differs in that and its limits alone."""
    column = expected.get(sequence.column, {})
    other = expected[sequence].get("type") != column.get("type")
    return other and "identity" in column and set(keys) <= {"type", "maximum", "minimum"}


def refuses_null(column: ObjectRef, expected: dict[ObjectRef, Attributes], there: Attributes) -> bool:
    """Return whether a column refuses NULL that took it in a child, though its parent's did not. Servers before 18 allow that."""
    parents = inherited.from_parent(column, expected)
    return there.get("nullable") is False and any(expected.get(one, {}).get("nullable") is False for one in parents)


def reorders(ref: ObjectRef, expected: dict[ObjectRef, Attributes], found: dict[ObjectRef, Attributes]) -> bool:
    """Return whether a table's columns are the expected ones, in the order that pg_dump gives them, or the other way
    round.
    """
    orders = [of[ref].get("order", []) for of in (expected, found)]
    return sorted(orders[0]) == sorted(orders[1]) and (
        orders[1] == _restored(ref.label, expected) or orders[0] == _restored(ref.label, found)
    )


def _restored(label: str, objects: dict[ObjectRef, Attributes]) -> list[str]:
    of = objects.get(table(label), {})
    columns: dict[str, None] = {}
    for parent in of.get("inherits", []):
        if table(parent) in objects:
            columns |= dict.fromkeys(_restored(parent, objects))
        else:
            columns |= {
                name: None
                for name in of.get("order", [])
                if objects.get(ObjectRef.on("column", label, name), {}).get("inherited")
            }
    columns |= dict.fromkeys(of.get("order", []))
    return list(columns)
