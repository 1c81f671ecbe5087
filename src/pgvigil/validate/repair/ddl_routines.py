"""The CREATE statements of functions, procedures, aggregates and types."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from pgvigil.validate.catalog.identifiers import beside, first_parenthesis, last_name, quoted, unquoted
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.catalog.sql_text import LISTS, comment_within, literal


def function(kind: str, label: str, attributes: Attributes) -> str:
    """Return CREATE OR REPLACE, or "" where the body is not known."""
    name = label[: first_parenthesis(label)]
    if kind == "aggregate":
        return (
            f"CREATE OR REPLACE AGGREGATE {name}({attributes.get('arguments') or '*'}) ({definition_list(_aggregate(attributes))});"
            if "aggregate" in attributes
            else ""
        )
    if "body" not in attributes or "constructor" in attributes:
        return ""
    words = [f"CREATE OR REPLACE {kind.split()[-1].upper()} {name}({attributes.get('arguments', '')})"]
    if "returns" in attributes and kind != "procedure":
        words.append(f"RETURNS {attributes['returns']}")
    words += [f"LANGUAGE {attributes['language']}", *_function_options(kind, attributes)]
    text = " ".join(words)
    if attributes.get("atomic"):
        return f"{text}\n{attributes['body']};"
    if "library" in attributes:
        return f"{text} AS {literal(attributes['library'])}, {literal(attributes['body'])};"
    marks = itertools.chain([""], ("body" + "_" * more for more in itertools.count()))
    tag = next(f"${mark}$" for mark in marks if f"${mark}" not in attributes["body"])
    return f"{text} AS {tag}{attributes['body']}{tag};"


def _aggregate(attributes: Attributes) -> dict[str, str]:
    parallel = {"PARALLEL": attributes["parallel"]} if "parallel" in attributes else {}
    return {**attributes["aggregate"], **parallel}


def _function_options(kind: str, attributes: Attributes) -> Iterator[str]:
    yield from (f"TRANSFORM FOR TYPE {name}" for name in attributes.get("transforms", []))
    if kind != "procedure":
        yield "WINDOW" * (kind == "window function")
        yield attributes.get("volatility", "VOLATILE")
        yield f"PARALLEL {attributes.get('parallel', 'UNSAFE')}"
        yield "STRICT" if attributes.get("strict") else "CALLED ON NULL INPUT"
        yield "LEAKPROOF" * bool(attributes.get("leakproof"))
        yield f"COST {attributes['cost']}" if "cost" in attributes else ""
        yield f"ROWS {attributes['rows']}" if "rows" in attributes else ""
        yield f"SUPPORT {attributes['support']}" if "support" in attributes else ""
    yield f"SECURITY {attributes.get('security', 'INVOKER')}"
    for name, value in attributes.get("set", {}).items():
        yield f"SET {name} = {value if name in LISTS else literal(value)}"


def definition_list(parts: dict[str, str]) -> str:
    words = []
    for name, value in parts.items():
        if value in ("True", "true"):
            words.append(name)
        else:
            words.append(f"{name} = {literal(value) if name in ('INITCOND', 'MINITCOND') else value}")
    return ", ".join(words)


def base_list(parts: dict[str, str]) -> str:
    """Return the same as definition_list(), with quotes around the values that are texts."""
    said = {
        name: literal(text) if name in ("DELIMITER", "DEFAULT", "CATEGORY") else text for name, text in parts.items()
    }
    return definition_list(said)


def usual_multirange(label: str) -> str:
    """The name that the server gives the multirange of a range."""
    name = unquoted(last_name(label))
    usual = name.replace("range", "multirange", 1) if "range" in name else f"{name}_multirange"
    return beside(label, quoted(usual))


def constructors(label: str, attributes: Attributes) -> tuple[str, str]:
    """Return the names of the functions that come with a range type."""
    return label, attributes.get("range", {}).get("MULTIRANGE_TYPE_NAME", usual_multirange(label))


def create_type(label: str, attributes: Attributes) -> str:
    kind = attributes["kind"]
    if kind == "enum":
        return f"CREATE TYPE {label} AS ENUM ({', '.join(literal(one) for one in attributes.get('labels', []))});"
    if kind == "shell":
        return f"CREATE TYPE {label};"
    if kind == "composite":
        made = [f"CREATE TYPE {label} AS ({', '.join(attributes.get('columns', []))});"]
        return "\n".join(made + [comment_within(label, kind, *of) for of in attributes.get("comments", {}).items()])
    if kind == "base":
        return f"CREATE TYPE {label} ({base_list(attributes['base'])});"
    if kind == "range":
        return f"CREATE TYPE {label} AS RANGE ({definition_list(attributes['range'])});"
    if kind == "domain":
        text = f"CREATE DOMAIN {label} AS {attributes['type']}"
        text += f" COLLATE {attributes['collation']}" if "collation" in attributes else ""
        text += f" DEFAULT {attributes['default']}" if "default" in attributes else ""
        named = f" CONSTRAINT {attributes['not_null']}" if "not_null" in attributes else ""
        text += f"{named} NOT NULL" * (attributes.get("nullable") is False)
        checks = attributes.get("checks", {})
        old = {name: check for name, check in checks.items() if check.endswith(" NOT VALID")}
        text += "".join(f" CONSTRAINT {name} {check}" for name, check in checks.items() if name not in old)
        made = [f"{text};", *(f"ALTER DOMAIN {label} ADD CONSTRAINT {name} {check};" for name, check in old.items())]
        return "\n".join(made + [comment_within(label, kind, *of) for of in attributes.get("comments", {}).items()])
    return ""


def renamed_labels(expected: list[str], found: list[str]) -> dict[str, str]:
    """Return the labels of an enum that have others in their places, from the found label to the expected one."""
    added = [one for one in expected if one not in found]
    gone = [one for one in found if one not in expected]
    there = [one for one in expected if one in found]
    if len(expected) == len(found):
        return {old: new for old, new in zip(found, expected, strict=True) if old in gone and new in added}
    pairs: dict[str, str] = {}
    for after in [None, *there]:  # between two labels that both have
        old, new = (_run(labels, after, one) for labels, one in ((found, gone), (expected, added)))
        pairs |= dict(zip(old, new, strict=False))
    return pairs


def _run(labels: list[str], after: str | None, some: list[str]) -> list[str]:
    start = labels.index(after) + 1 if after is not None else 0
    return list(itertools.takewhile(lambda one: one in some, labels[start:]))
