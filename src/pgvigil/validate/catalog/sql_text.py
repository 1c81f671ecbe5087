"""The words that all statements of a repair are made of: literals, remarks, names of objects as DDL takes them."""

from __future__ import annotations

import re

from pgvigil.validate.catalog.identifiers import beside, quoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes

_SUBOBJECTS = ("trigger", "rule", "policy")
ENABLE = {"ORIGIN": "ENABLE", "DISABLED": "DISABLE", "REPLICA": "ENABLE REPLICA", "ALWAYS": "ENABLE ALWAYS"}
RARE = {
    "opclass": "OPERATOR CLASS",
    "opfamily": "OPERATOR FAMILY",
    "conversion": "CONVERSION",
    "ts_config": "TEXT SEARCH CONFIGURATION",
    "ts_dict": "TEXT SEARCH DICTIONARY",
    "ts_parser": "TEXT SEARCH PARSER",
    "ts_template": "TEXT SEARCH TEMPLATE",
    "cast": "CAST",
    "foreign_data_wrapper": "FOREIGN DATA WRAPPER",
    "server": "SERVER",
    "user_mapping": "USER MAPPING",
    "language": "LANGUAGE",
    "transform": "TRANSFORM",
    "access_method": "ACCESS METHOD",
}
# Settings whose value is a list of names: as one text in quotes it would be one name.
LISTS = {
    "local_preload_libraries",
    "search_path",
    "session_preload_libraries",
    "shared_preload_libraries",
    "temp_tablespaces",
    "unix_socket_directories",
}
UNTOLD = "(secret)"  # in place of a value that the spec does not hold


def literal(text: str) -> str:
    return ("E" if "\\" in text else "") + "'" + text.replace("\\", "\\\\").replace("'", "''") + "'"


def remark(text: str) -> str:
    """A comment, all of it: a name may go over several lines."""
    return "-- " + re.sub(r"\r\n?|\n", "\n-- ", text)


def storage_options(options: dict[str, str]) -> str:
    return ", ".join(f"{name} = {literal(value)}" for name, value in options.items())


def fdw_options(options: dict[str, str]) -> str:
    return ", ".join(f"{quoted(name)} {literal(value)}" for name, value in options.items())


def target(ref: ObjectRef, root: str, of_relation: str = "") -> str:
    """The object as COMMENT ON and DROP name it; `of_relation` is the kind of a relation, where it has one."""
    kind = ref.kind
    if of_relation in ("foreign table", "materialized view"):
        return f"{of_relation.upper()} {ref.label}"
    if kind == "window function":
        return f"FUNCTION {ref.label}"
    if kind == "other":
        return f"{RARE[ref.rare_kind]} {ref.rare_name}"
    if kind in ("constraint", *_SUBOBJECTS):
        return f"{kind.upper()} {ref.name} ON {root}"
    if kind == "index":
        return f"INDEX {beside(root, ref.name)}"
    return f"{kind.upper()} {ref.label}"


def comment(ref: ObjectRef, root: str, text: str | None, kind: str = "") -> str:
    return f"COMMENT ON {target(ref, root, kind)} IS {literal(text) if text else 'NULL'};"


def enable(word: str, root: str, name: str, state: str) -> str:
    return f"ALTER TABLE {root} {ENABLE[state]} {word} {name};"


def enabled(word: str, root: str, name: str, attributes: Attributes) -> str:
    return "\n" + enable(word, root, name, attributes["enabled"]) if "enabled" in attributes else ""


def comment_within(label: str, kind: str, name: str, text: str | None) -> str:
    """Return COMMENT for a check of a domain or for a column of a composite type."""
    what = f"CONSTRAINT {name} ON DOMAIN {label}" if kind == "domain" else f"COLUMN {label}.{name}"
    return f"COMMENT ON {what} IS {literal(text) if text else 'NULL'};"
