"""Definitions spelt one way, from the spec and from the catalog, so that they can be held side by side."""

from __future__ import annotations

import re

from pgvigil.validate.catalog import ConstraintFound, FunctionFound, IndexFound, TriggerFound, qualified
from pgvigil.validate.spec import ARRAY_END, Constraint, Function, Index, Trigger

_ARRAY = re.compile(r"'\{(.*)\}'::text\[\]", re.DOTALL)
_ELEMENT = re.compile(r'"(?:[^"\\]|\\.)*"|[^,]+', re.DOTALL)
_WHEN = re.compile(r" WHEN \((.*)\) EXECUTE FUNCTION ", re.DOTALL)
_PLAIN = re.compile(r"[^\s\"\\{},']+")

ENABLED = {"O": "ORIGIN", "A": "ALWAYS", "R": "REPLICA", "D": "DISABLED"}
_VOLATILITY = {"v": "VOLATILE", "s": "STABLE", "i": "IMMUTABLE"}
_PARALLEL = {"u": "UNSAFE", "r": "RESTRICTED", "s": "SAFE"}
_FUNCTION_KIND = {"f": "function", "p": "procedure", "a": "aggregate", "w": "window function"}


def unquoted(text: str) -> str:
    """Without the quotes that PostgreSQL puts around some identifiers."""
    return text.replace('"', "")


def bare(expression: str) -> str:
    """An expression without the parentheses that stand around the whole of it; now() for its other name."""
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


# --- constraints -----------------------------------------------------------------------------------------------------


def constraint(declared: Constraint, schema: str) -> str:
    """As pg_get_constraintdef prints it, but for a CHECK, which is its bare expression."""
    if declared.check:
        return f"CHECK ({bare(declared.check)})"
    if declared.primary_key:
        return f"PRIMARY KEY ({', '.join(declared.primary_key)})"
    if declared.unique:
        return f"UNIQUE ({', '.join(declared.unique)})"
    table, columns = declared.target
    update = "" if declared.on_update == "NO ACTION" else f" ON UPDATE {declared.on_update}"
    delete = "" if declared.on_delete == "NO ACTION" else f" ON DELETE {declared.on_delete}"
    target = f"{'.'.join(qualified(table, schema))}({', '.join(columns)})"
    return f"FOREIGN KEY ({', '.join(declared.foreign_key)}) REFERENCES {target}{update}{delete}"


def constraint_found(found: ConstraintFound) -> str:
    if found.kind == "c" and found.expression is not None:
        unenforced = " NOT ENFORCED" if found.definition.endswith(" NOT ENFORCED") else ""
        return f"CHECK ({bare(found.expression)}){' NO INHERIT' * found.no_inherit}{unenforced}"
    return unquoted(found.definition.removesuffix(" NOT VALID"))


def with_tolerated(check: str, values: list[str]) -> str:
    return check.replace(ARRAY_END, "".join(f",{_element(value)}" for value in values) + ARRAY_END)


def _element(value: str) -> str:
    """A text as an element of an array literal within a string literal."""
    if not _PLAIN.fullmatch(value) or value.upper() == "NULL":
        value = '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'
    return value.replace("'", "''")


def arrays_sorted(text: str) -> str:
    """The order of tolerated values is that of a collation, and a restored database may have another one."""
    return _ARRAY.sub(lambda match: ",".join(sorted(_ELEMENT.findall(match[1]))), text)


# --- indexes ---------------------------------------------------------------------------------------------------------


def index(declared: Index) -> str:
    include = f" INCLUDE ({', '.join(declared.include)})" if declared.include else ""
    where = f" WHERE {bare(declared.where)}" if declared.where else ""
    return f"{'UNIQUE ' * declared.unique}{declared.method} ({', '.join(declared.keys)}){include}{where}"


def index_found(found: IndexFound) -> str:
    head, where, predicate = index_body(found).partition(" WHERE ")
    return f"{unquoted(head)}{where}{bare(predicate)}"


def index_body(found: IndexFound) -> str:
    """What pg_get_indexdef prints, without names and storage parameters."""
    text = found.definition.partition(" USING ")[2]
    if found.options:
        printed = ", ".join(_option(option) for option in found.options)
        text = text.replace(f" WITH ({printed})", "", 1)
    return "UNIQUE " * found.unique + text


def _option(option: str) -> str:
    """As the server prints it: a value that is no identifier stands in quotes."""
    name, _, value = option.partition("=")
    return f"{name}={value}" if re.fullmatch("[a-z_][a-z0-9_]*", value) else f"{name}='{value}'"


def options(found: list[str]) -> dict[str, str]:
    return {name: value for name, _, value in (option.partition("=") for option in found)}


# --- triggers --------------------------------------------------------------------------------------------------------


def trigger(declared: Trigger, schema: str) -> str:
    function, _, arguments = declared.function.partition("(")
    name = ".".join(qualified(function, schema))
    return _trigger(
        declared.timing,
        set(declared.events),
        sorted(declared.update_of),
        declared.old_table,
        declared.new_table,
        declared.level,
        declared.when,
        f"{name}({arguments}",
    )


def trigger_found(found: TriggerFound) -> str:
    bits = found.type
    events = {name for bit, name in ((4, "INSERT"), (8, "DELETE"), (16, "UPDATE"), (32, "TRUNCATE")) if bits & bit}
    when = _WHEN.search(found.definition)
    constraint = "CONSTRAINT " if found.definition.startswith("CREATE CONSTRAINT") else ""
    return constraint + _trigger(
        "BEFORE" if bits & 2 else "INSTEAD OF" if bits & 64 else "AFTER",
        events,
        sorted(found.columns),
        found.old_table,
        found.new_table,
        "ROW" if bits & 1 else "STATEMENT",
        when[1] if when else "",
        unquoted(found.definition.rpartition(" EXECUTE FUNCTION ")[2]),
    )


def _trigger(
    timing: str, events: set[str], columns: list[str], old: str, new: str, level: str, when: str, function: str
) -> str:
    of = f" OF {', '.join(columns)}" if columns else ""
    listed = " OR ".join(
        event + (of if event == "UPDATE" else "")
        for event in ("INSERT", "DELETE", "UPDATE", "TRUNCATE")
        if event in events
    )
    tables = "".join(f" {age} TABLE AS {name}" for age, name in (("OLD", old), ("NEW", new)) if name)
    return (
        f"{timing} {listed}{' REFERENCING' + tables if tables else ''} FOR EACH {level}"
        f"{f' WHEN ({bare(when)})' if when else ''} EXECUTE FUNCTION {function}"
    )


# --- functions -------------------------------------------------------------------------------------------------------


def function(declared: Function, schema: str) -> dict[str, str]:
    settings = {name: _setting(value.replace("{schema}", schema)) for name, value in declared.set_.items()}
    return {
        "kind": declared.kind,
        "arguments": f"({', '.join(declared.arguments)})",
        "result": f"RETURNS {declared.returns}" if declared.returns else "returns nothing",
        "language": f"LANGUAGE {declared.language}",
        "volatility": declared.volatility,
        "parallel": f"PARALLEL {declared.parallel}",
        "strict": "STRICT" if declared.strict else "CALLED ON NULL INPUT",
        "security": f"SECURITY {declared.security}",
        "settings": _settings(settings),
    }


def function_found(found: FunctionFound) -> dict[str, str]:
    settings = {name: _setting(value) for name, value in options(found.settings).items()}
    arguments = ", ".join(argument.removeprefix("IN ") for argument in found.arguments.split(", "))
    return {
        "kind": _FUNCTION_KIND[found.kind],
        "arguments": f"({arguments})",
        "result": f"RETURNS {found.returns}" if found.returns else "returns nothing",
        "language": f"LANGUAGE {found.language}",
        "volatility": _VOLATILITY[found.volatility],
        "parallel": f"PARALLEL {_PARALLEL[found.parallel]}",
        "strict": "STRICT" if found.strict else "CALLED ON NULL INPUT",
        "security": f"SECURITY {'DEFINER' if found.definer else 'INVOKER'}",
        "settings": _settings(settings),
    }


def _setting(value: str) -> str:
    return re.sub(r"\s*,\s*", ", ", unquoted(value)).strip()


def _settings(settings: dict[str, str]) -> str:
    return "; ".join(f"SET {name} = {value}" for name, value in sorted(settings.items())) or "no SET"
