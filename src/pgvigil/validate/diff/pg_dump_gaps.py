"""A module that knows what pg_dump does not carry: a restored copy differs there, and nobody has changed anything."""

from __future__ import annotations

import re

from pgvigil.validate.catalog.object_paths import kind_of, of_grant
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.repair.ddl_routines import usual_multirange

FOREIGN_PARTITION = (
    "pg_dump makes it ON ONLY the partitioned table, where it stays INVALID: a partition is a foreign table"
)
IDENTITY = "pg_dump does not carry the type of an identity's sequence, where it is not that of the column"
ORDER = "pg_dump writes inherited columns first, and no command moves a column"
_SHELL = "pg_dump leaves out an operator that only another one names, and that has no function yet"
_CONSTRUCTOR = "pg_dump does not carry rights, owner or attributes of a range type's constructors"
_MULTIRANGE = "pg_dump does not carry rights of a multirange; since PostgreSQL 17 it has those of its range"
_LANGUAGES = "a database by another name: pg_dump does not carry rights on the languages of the server itself"
_INFORMATION = "a database by another name: pg_dump does not carry rights in information_schema"
_DATABASE = "a database by another name: pg_dump carries settings and rights of a database only with --create"


def left_out(path: str, expected: dict[str, Attributes], found: dict[str, Attributes], *, copy: bool) -> str:
    """The reason why an object may differ after a restore, or "" where it may not.

    `copy`: the database has another name than the one that the spec was dumped from.
    """
    of = of_grant(path) or path
    if of != path and of.startswith("type ") and _is_multirange(of, expected):
        return _MULTIRANGE
    if expected.get(of, {}).get("constructor") or found.get(of, {}).get("constructor"):
        return _CONSTRUCTOR
    if kind_of(path) == "operator" and expected.get(path, {}).get("definition") == {} and path not in found:
        return _SHELL
    if copy and (kind_of(path) == "setting" or of == "database {database}"):
        return _DATABASE
    if copy and re.match(r"\w+ information_schema\b", of):
        return _INFORMATION
    return _LANGUAGES if copy and of in ("other language c", "other language internal", "other language sql") else ""


def _is_multirange(path: str, objects: dict[str, Attributes]) -> bool:
    return path not in objects and any(
        path == f"type {of['range'].get('MULTIRANGE_TYPE_NAME') or usual_multirange(one.partition(' ')[2])}"
        for one, of in objects.items()
        if "range" in of
    )


def carried(expected: dict[str, Attributes], major: int, server: int) -> dict[str, Attributes]:
    """Return the expected state as a server of another major version has it: since PostgreSQL 15 PUBLIC may not CREATE in public."""
    path = "revocation on schema {schema} from PUBLIC"
    if path not in expected or not 0 < major < 15 <= server:
        return expected
    left = [one for one in expected[path]["privileges"] if one != "CREATE"]
    others = {one: of for one, of in expected.items() if one != path}
    return others | ({path: {"privileges": left}} if left else {})


def all_of_them(expected: list[str], found: list[str], major: int) -> bool:
    """Return true if GRANT ALL of a server before PostgreSQL 17 was read by a later one, where ALL is MAINTAIN too."""
    more = {one.removesuffix(" WITH GRANT OPTION") for one in set(found or ()) - set(expected or ())}
    return 0 < major < 17 and more == {"MAINTAIN"} and len(expected or ()) == 7 and set(expected) < set(found)


def has_foreign_partition(label: str, objects: dict[str, Attributes]) -> bool:
    partitions = [path for path, of in objects.items() if path.startswith("table ") and of.get("partition_of") == label]
    return any(
        objects[path].get("kind") == "foreign table" or has_foreign_partition(path.partition(" ")[2], objects)
        for path in partitions
    )


def is_identity_of_parent(path: str, root: str, found: dict[str, Attributes], major: int) -> bool:
    """Return true if the column of a partition has an identity only because servers from 17 on give it that of its parent."""
    parent = found.get(f"table {root}", {}).get("partition_of")
    column = path.removeprefix(f"column {root}.")
    return 0 < major < 17 and bool(parent) and "identity" in found.get(f"column {parent}.{column}", {})


def retypes(path: str, keys: list[str], expected: dict[str, Attributes]) -> bool:
    """Return whether the sequence of an identity has another type than its column, and differs in that and its limits alone."""
    column = expected.get(path.replace("sequence of ", "column ", 1), {})
    other = expected[path].get("type") != column.get("type")
    return other and "identity" in column and set(keys) <= {"type", "maximum", "minimum"}


def reorders(path: str, expected: dict[str, Attributes], found: dict[str, Attributes]) -> bool:
    """Return whether a table's columns are those that are wanted, in the order that pg_dump gives them, or the other way round."""
    label = path.partition(" ")[2]
    orders = [of[path].get("order", []) for of in (expected, found)]
    return sorted(orders[0]) == sorted(orders[1]) and (
        orders[1] == _restored(label, expected) or orders[0] == _restored(label, found)
    )


def _restored(label: str, objects: dict[str, Attributes]) -> list[str]:
    table = objects.get(f"table {label}", {})
    columns: dict[str, None] = {}
    for parent in table.get("inherits", []):
        if f"table {parent}" in objects:
            columns |= dict.fromkeys(_restored(parent, objects))
        else:
            columns |= {
                name: None
                for name in table.get("order", [])
                if objects.get(f"column {label}.{name}", {}).get("inherited")
            }
    columns |= dict.fromkeys(table.get("order", []))
    return list(columns)
