"""Describe attributes in words, for the report."""

from __future__ import annotations

from typing import Any

from pgvigil.validate.catalog import trigger_clauses
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.catalog.spelling import canonical

_USUAL = {
    ("trigger", "enabled"): "ORIGIN",
    ("rule", "enabled"): "ORIGIN",
    ("event trigger", "enabled"): "ORIGIN",
    ("function", "volatility"): "VOLATILE",
    ("function", "parallel"): "UNSAFE",
    ("function", "security"): "INVOKER",
    ("procedure", "security"): "INVOKER",
    ("policy", "command"): "ALL",
    ("table", "persistence"): "LOGGED",
    ("view", "kind"): "view",
    ("table", "kind"): "table",
}
_WORDS = {
    ("column", "default"): ("DEFAULT {}", "no default"),
    ("column", "identity"): ("GENERATED {} AS IDENTITY", "no identity"),
    ("column", "generated"): ("GENERATED ALWAYS AS ({})", "not generated"),
    ("column", "collation"): ("COLLATE {}", "the collation of its type"),
    ("column", "storage"): ("STORAGE {}", "the storage of its type"),
    ("column", "compression"): ("COMPRESSION {}", "the usual compression"),
    ("table", "partition_by"): ("partitioned by {}", "not partitioned"),
    ("function", "arguments"): ("({})", "()"),
    ("function", "returns"): ("RETURNS {}", "returns nothing"),
    ("function", "language"): ("LANGUAGE {}", ""),
    ("function", "parallel"): ("PARALLEL {}", ""),
    ("function", "security"): ("SECURITY {}", ""),
    ("procedure", "arguments"): ("({})", "()"),
    ("procedure", "language"): ("LANGUAGE {}", ""),
    ("procedure", "security"): ("SECURITY {}", ""),
    ("trigger", "when"): ("WHEN ({})", "no WHEN"),
    ("column", "not_null"): ("NOT NULL called {}", "NOT NULL of the usual name"),
    ("setting", "value"): ("{}", "no value"),
    ("sequence", "of"): ("owned by column {}", "owned by no column"),
    ("index", "attached"): ("part of index {}", "part of no other index"),
    ("constraint", "attached"): ("part of {}", "part of no other key"),
}
_FLAGS = {
    ("column", "nullable"): ("NOT NULL", "nullable"),
    ("function", "strict"): ("STRICT", "CALLED ON NULL INPUT"),
    ("index", "valid"): ("INVALID: the server does not use it", "a valid index"),
    ("constraint", "valid"): ("its index is INVALID", "a valid index"),
    ("constraint", "validated"): ("NOT VALID: existing rows may break it", "validated"),
    ("constraint", "enforced"): ("its internal triggers are disabled", "enforced"),
}
LONG = ("body", "definition", "comment")


def attribute(ref: ObjectRef, key: str, attributes: Attributes) -> str:
    """Describe one attribute, or its absence, in words."""
    kind = ref.kind
    value = attributes.get(key)
    if flag := _FLAGS.get((kind, key)):
        return flag[0] if value is not None else flag[1]
    if value is None and key != "set":
        value = _USUAL.get((kind, key))
    if template := _WORDS.get((kind, key)):
        return template[0].format(_text(key, value)) if value is not None else template[1]
    if key == "set":
        return "; ".join(f"SET {name} = {text}" for name, text in sorted(dict(value or {}).items())) or "no SET"
    if key in ("type", "volatility", "definition", "kind", "persistence") and value is not None:
        return _text(key, value)
    if key == "order":
        return f"columns in the order {', '.join(value or [])}"
    if key == "enabled":
        return f"enabled: {value}"
    if value is None:
        return f"no {key.replace('_', ' ')}"
    return f"{key.replace('_', ' ')}: {_text(key, value)}"


def _text(key: str, value: Any) -> str:
    if isinstance(value, dict):
        return ", ".join(f"{name} = {text}" for name, text in sorted(value.items()))
    if isinstance(value, list):
        return ", ".join(map(str, value))
    return str(canonical(key, value))


def in_one_line(ref: ObjectRef, attributes: Attributes) -> str:
    """An object in one line."""
    kind = ref.kind
    if kind == "column":
        return str(attributes["type"]) + " NOT NULL" * (attributes.get("nullable") is False)
    if kind in ("constraint", "index"):
        return _text("definition", attributes["definition"]) + ", INVALID" * ("valid" in attributes)
    if kind == "trigger":
        return f"{trigger_clauses.trigger_head(attributes)} {trigger_clauses.trigger_tail(attributes)}"
    if "privileges" in attributes:
        return ", ".join(attributes["privileges"])
    if kind == "table" and "partition_by" in attributes:
        return f"partitioned by {attributes['partition_by']}"
    if kind == "row security":
        return "enabled"
    if kind == "setting":
        return str(attributes["value"])
    if kind == "other":
        kind = ref.rare_kind.replace("_", " ").replace("ts ", "text search ")
    word = attributes.get("kind") or kind
    return f"{'an' if word[0] in 'aeio' else 'a'} {word}"


def difference(expected: str, found: str) -> tuple[str, str]:
    """Return the first line in which two long texts differ, with its number."""
    lines, others = expected.splitlines(), found.splitlines()
    if len(lines) <= 1 and len(others) <= 1:
        return expected, found
    at = next((n for n, (a, b) in enumerate(zip(lines, others, strict=False)) if a != b), min(len(lines), len(others)))
    said = [texts[at].strip() if at < len(texts) else "(its end)" for texts in (lines, others)]
    return f"line {at + 1} of {len(lines)}: {said[0]}", f"line {at + 1} of {len(others)}: {said[1]}"
