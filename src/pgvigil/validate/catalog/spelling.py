"""The one spelling for attributes that plainly mean the same."""

from __future__ import annotations

import re
from typing import Any

_LITERALS = re.compile("('(?:[^']|'')*')")
DICTIONARY_OPTION = re.compile(r"""("(?:[^"]|"")*"|\w+) = (E?'(?:[^']|'')*'|[^,]+)""")
_FIELD = re.compile(r'\bEXTRACT\("?(\w+)"? FROM')
_EXPRESSIONS = {"arguments", "check", "default", "definition", "generated", "partition_by", "using", "when"}

# Storage parameters that are true or false, each with what it is where nobody says anything.
_SWITCHES = {
    "autovacuum_enabled": "true",
    "toast.autovacuum_enabled": "true",
    "autosummarize": "false",
    "deduplicate_items": "true",
    "fastupdate": "true",
    "security_barrier": "false",
    "security_invoker": "false",
    "user_catalog_table": "false",
}
_TRUE, _FALSE = re.compile("t|tr|tru|true|y|ye|yes|on|1"), re.compile("f|fa|fal|fals|false|n|no|of|off|0")
_TUNING = re.compile("(toast[.])?(autovacuum|vacuum|log_autovacuum)_(?!enabled).*|parallel_workers|toast_tuple_target")


def canonical(key: str, value: Any) -> Any:
    """A value in the one spelling of those that plainly mean the same. The server is asked about the others."""
    if key == "update_of":
        return sorted(value or [])
    if key == "with":
        said = {name: _switch(text) if name in _SWITCHES else text for name, text in (value or {}).items()}
        return {name: text for name, text in said.items() if _SWITCHES.get(name) != text}
    if not isinstance(value, str):
        return value
    if key in _EXPRESSIONS:
        value = plain_fields(value)
    if key == "arguments":
        return re.sub(r"(^|, )IN ", r"\1", value)
    if key in ("default", "when", "using", "check"):
        return bare(value)
    if key == "definition" and value.startswith("TEMPLATE "):  # a dictionary: ALTER moves an option to the end
        template, _, options = value.partition(", ")
        return ", ".join([template, *sorted(match[0] for match in DICTIONARY_OPTION.finditer(options))])
    if key == "definition":
        head, check, expression = value.partition("CHECK (")
        if check and not head:
            value = f"CHECK ({bare('(' + expression)})"
        else:
            head, where, predicate = value.partition(" WHERE ")
            value = f"{head}{where}{bare(predicate)}"
    return value


def plain_fields(text: str) -> str:
    """Remove case and quotes from the field of EXTRACT.

    They mean nothing, and each server version prints them in its own way.
    """
    if "EXTRACT(" not in text:
        return text
    parts = _LITERALS.split(text)
    parts[::2] = (_FIELD.sub(lambda match: f"EXTRACT({match[1].lower()} FROM", part) for part in parts[::2])
    return "".join(parts)


def _switch(text: str) -> str:
    """Return `true` or `false` for a text that the server reads as a boolean, and any other text unchanged."""
    word = text.lower()
    return "true" if _TRUE.fullmatch(word) else "false" if _FALSE.fullmatch(word) else text


def table_storage(options: dict[str, str] | None) -> dict[str, str]:
    """The storage parameters of a table; other kinds have another fillfactor where nobody says anything."""
    said: dict[str, str] = canonical("with", options)
    return {name: text for name, text in said.items() if (name, text) != ("fillfactor", "100")}


def without_tuning(options: dict[str, str] | None) -> dict[str, str]:
    """The storage parameters of a table of ours without those by which its DBA tunes it."""
    return {name: text for name, text in table_storage(options).items() if not _TUNING.fullmatch(name)}


def bare(expression: str) -> str:
    """An expression without parentheses around the whole of it; now() for its other name."""
    text = expression.strip()
    while text.startswith("(") and _closes_at_end(text):
        text = text[1:-1].strip()
    return "now()" if text == "CURRENT_TIMESTAMP" else text


def _closes_at_end(text: str) -> bool:
    depth, quoted = 0, False
    for position, character in enumerate(text):
        quoted ^= character == "'"
        if not quoted:
            depth += (character == "(") - (character == ")")
            if depth == 0:
                return position == len(text) - 1
    return False
