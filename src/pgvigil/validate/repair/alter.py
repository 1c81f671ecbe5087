"""The ALTER statements that bring the attributes of an object to what is expected."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgvigil.validate.catalog import sql_text
from pgvigil.validate.catalog.identifiers import last_name, quoted, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.catalog.snapshot import Attributes
from pgvigil.validate.catalog.spelling import DICTIONARY_OPTION
from pgvigil.validate.repair import ddl, ddl_relations, ddl_routines

_ATTRIBUTE = re.compile(r'("(?:[^"]|"")*"|\S+) (.*)', re.DOTALL)
_BASE = ("RECEIVE", "SEND", "TYPMOD_IN", "TYPMOD_OUT", "ANALYZE", "SUBSCRIPT", "STORAGE")  # that ALTER TYPE can set


def alter_column(
    root: str, name: str, expected: Attributes, found: Attributes, key: str, *, foreign: bool = False
) -> Iterable[str]:
    """Yield the statements for one attribute of a column.

    With `foreign` the rows are elsewhere, and no statement converts them.
    """
    alter = f"ALTER TABLE {root} ALTER COLUMN {name}"
    if key == "nullable":
        yield f"{alter} {'SET' if expected.get('nullable') is False else 'DROP'} NOT NULL;"
    elif key == "default" and "generated" not in found:
        yield f"{alter} SET DEFAULT {expected['default']};" if "default" in expected else f"{alter} DROP DEFAULT;"
    elif key in ("type", "collation"):
        collation = f" COLLATE {expected['collation']}" if "collation" in expected else ""
        if key == "type" or found["type"] == expected["type"]:
            yield f"{alter} DROP DEFAULT;" if "default" in found else ""
            using = "" if foreign else f" USING {name}::{expected['type']}"
            yield f"{alter} TYPE {expected['type']}{collation}{using};"
            yield f"{alter} SET DEFAULT {expected['default']};" if "default" in expected else ""
    elif key == "identity":
        if "identity" not in expected:
            yield f"{alter} DROP IDENTITY;"
        elif "identity" in found:
            yield f"{alter} SET GENERATED {expected['identity']};"
        else:
            yield f"{alter} ADD{ddl_relations.identity(expected)};"
            sequence = f"pg_get_serial_sequence({sql_text.literal(root)}, {sql_text.literal(unquoted(name))})"
            yield f"SELECT setval({sequence}, coalesce(max({name}), 1), max({name}) IS NOT NULL) FROM {root};"
    elif key == "options":
        yield f"ALTER FOREIGN TABLE {root} ALTER COLUMN {name} OPTIONS ({alter_options(expected, found)});"
    elif key == "storage":
        yield f"{alter} SET STORAGE {expected.get('storage') or _usual_storage(expected['type'])};"
    elif key == "compression":
        yield f"{alter} SET COMPRESSION {expected.get('compression', 'default')};"
    elif key in ("not_null", "not_null_comment"):
        yield from ddl_relations.not_null(root, name, expected, found)
    elif key in ("generated", "virtual"):
        if "generated" not in expected:
            yield f"{alter} DROP EXPRESSION;"
        else:
            yield f"-- ALTER TABLE {root} DROP COLUMN {name}, ADD COLUMN {name} {ddl_relations.column(expected)};"


def _usual_storage(type_: str) -> str:
    """Return the storage of a type as pg_type has it, because SET STORAGE DEFAULT exists only since PostgreSQL 16."""
    return "MAIN" if type_.startswith(("numeric", "inet", "cidr")) and not type_.endswith("[]") else "EXTENDED"


def alter_relation(word: str, label: str, key: str, expected: Attributes, found: Attributes) -> str:
    if key == "with":
        return alter_storage(word, label, expected, found)
    if key == "options":
        return f"ALTER {word} {label} OPTIONS ({alter_options(expected, found)});"
    if key == "inherits":
        right, there = expected.get("inherits", []), found.get("inherits", [])
        first = [a for a, b in zip(right, there, strict=False) if a == b]  # a parent comes after those that are there
        same = len(first) if right[: len(first)] == first == there[: len(first)] else 0
        lines = [f"ALTER {word} {label} NO INHERIT {one};" for one in there[same:]]
        return "\n".join(lines + [f"ALTER {word} {label} INHERIT {one};" for one in right[same:]])
    if key == "of_type":
        return f"ALTER {word} {label} {f'OF {expected[key]}' if key in expected else 'NOT OF'};"
    if key == "partition_of" and key in expected and key not in found:
        return ddl_relations.attach(label, expected)
    if key == "partition_of" and key in found and key not in expected:
        return f"ALTER TABLE {found[key]} DETACH PARTITION {label};"
    if key == "bound" and expected.get("partition_of") == found.get("partition_of"):  # refused where a row does not fit
        return f"ALTER TABLE {found['partition_of']} DETACH PARTITION {label};\n{ddl_relations.attach(label, expected)}"
    return ddl_relations.relation(label, key, expected)


def alter_options(expected: Attributes, found: Attributes) -> str:
    right, there = expected.get("options", {}), found.get("options", {})
    words = [f"DROP {quoted(name)}" for name in there if name not in right]
    words += [
        f"{'SET' if name in there else 'ADD'} {quoted(name)} {sql_text.literal(text)}"
        for name, text in right.items()
        if there.get(name) != text and text != sql_text.UNTOLD
    ]
    return ", ".join(words)


def alter_dependencies(what: str, expected: Attributes, found: Attributes) -> list[str]:
    right, there = expected.get("depends_on", []), found.get("depends_on", [])
    lines = [f"ALTER {what} NO DEPENDS ON EXTENSION {one};" for one in there if one not in right]
    return lines + [f"ALTER {what} DEPENDS ON EXTENSION {one};" for one in right if one not in there]


def alter_storage(word: str, label: str, expected: Attributes, found: Attributes) -> str:
    right, there = expected.get("with", {}), found.get("with", {})
    put = {name: value for name, value in right.items() if there.get(name) != value}
    lines = [f"ALTER {word} {label} SET ({sql_text.storage_options(put)});"] if put else []
    if extra := [name for name in there if name not in right]:
        lines.append(f"ALTER {word} {label} RESET ({', '.join(extra)});")
    return "\n".join(lines)


def alter_privileges(right: ObjectRef, expected: Attributes, found: Attributes, *, only_take: bool) -> str:
    given = right.kind == "grant"
    lacking = [p for p in expected["privileges"] if p not in found["privileges"]]
    extra = [p for p in found["privileges"] if p not in expected["privileges"]]
    lines = [ddl.grant(right, {"privileges": extra}, not given)] if extra and (given or not only_take) else []
    lines += [ddl.grant(right, {"privileges": lacking}, given)] if lacking and not (given and only_take) else []
    return "\n".join(lines)


def alter_other(ref: ObjectRef, expected: Attributes, found: Attributes, keys: list[str]) -> str:
    kind, name = ref.rare_kind, ref.rare_name
    what = sql_text.target(ref, "")
    lines = []
    if kind in ("foreign_data_wrapper", "server", "user_mapping"):
        if "definition" in keys:
            lines.append(_remade(kind, what, expected.get("definition", ""), found.get("definition", "")))
        if "options" in keys:
            if changed := alter_options(expected, found):
                lines.append(f"ALTER {what} OPTIONS ({changed});")
            hidden = [
                key
                for key, text in expected.get("options", {}).items()
                if text == sql_text.UNTOLD and key not in found.get("options", {})
            ]
            lines += ddl.secrets(sql_text.RARE[kind], name, hidden)
        return "\n".join(line for line in lines if line)
    if kind in ("language", "transform"):
        return ddl.other(ref.label, expected)
    if kind == "ts_dict":
        (template, right), (same, there) = (_dictionary(of.get("definition", "")) for of in (expected, found))
        if template != same:
            return ""
        put = [f"{key} = {text}" for key, text in right.items() if there.get(key) != text]
        put += [key for key in there if key not in right]
        return f"ALTER {what} ({', '.join(put)});" if put else ""
    if kind == "ts_config":
        (parser, right_), (other, there_) = (ddl.text_search(of.get("definition", "")) for of in (expected, found))
        if parser != other:
            return ""
        for token in dict.fromkeys([*there_, *right_]):
            if right_.get(token) != there_.get(token):
                lines += [f"ALTER {what} DROP MAPPING FOR {token};"] if token in there_ else []
                lines += (
                    [f"ALTER {what} ADD MAPPING FOR {token} WITH {', '.join(right_[token])};"]
                    if token in right_
                    else []
                )
    return "\n".join(lines)


def _remade(kind: str, what: str, expected: str, found: str) -> str:
    """Return the changeable attributes of a wrapper or server: not of which kind a server is, nor its wrapper."""
    if kind == "foreign_data_wrapper":
        words = [
            f"{word} {match[1]}" if (match := re.search(rf"\b{word} (\S+)", expected)) else f"NO {word}"
            for word in ("HANDLER", "VALIDATOR")
        ]
        return f"ALTER {what} {' '.join(words)};"
    version = re.compile(r" ?VERSION ('(?:[^']|'')*')")
    if (match := version.search(expected)) and version.sub("", expected) == version.sub("", found):
        return f"ALTER {what} VERSION {match[1]};"
    return ""


def _dictionary(definition: str) -> tuple[str, dict[str, str]]:
    template, _, options = definition.partition(", ")
    return template, dict(DICTIONARY_OPTION.findall(options))


def _labels(label: str, expected: list[str], found: list[str]) -> list[str]:
    """A label in whose place another is has been renamed: rows hold it. What is only lacking is added."""
    pairs = ddl_routines.renamed_labels(expected, found)
    lines = [
        f"ALTER TYPE {label} RENAME VALUE {sql_text.literal(old)} TO {sql_text.literal(new)};"
        for old, new in pairs.items()
    ]
    there = [pairs.get(one, one) for one in found]
    for position, one in enumerate(expected):
        if one in there:
            continue
        place = f" AFTER {sql_text.literal(expected[position - 1])}" if position else ""
        place = place or (f" BEFORE {sql_text.literal(there[0])}" if there else "")
        lines.append(f"ALTER TYPE {label} ADD VALUE {sql_text.literal(one)}{place};")
        there.insert(there.index(expected[position - 1]) + 1 if position else 0, one)
    if there != expected:
        extra = [one for one in there if one not in expected]
        said = f"no command drops {', '.join(extra)}" if extra else "no command moves a label"
        lines.append(sql_text.remark(f"Labels of {label}: {said}"))
    return lines


def _attribute(text: str) -> tuple[str, str]:
    """Return the name and the type of an attribute, which is written as in CREATE TYPE."""
    match = _ATTRIBUTE.fullmatch(text)
    return (match[1], match[2]) if match else (text, "")


def _attributes(label: str, expected: list[str], found: list[str]) -> list[str]:
    """Return the statements for the attributes of a composite type.

    An attribute is renamed where another one of the same type is in its place. A new attribute can only be added at the
    end.
    """
    right, there = (dict(map(_attribute, columns)) for columns in (expected, found))
    lines = []
    if len(right) == len(there):
        for (name, type_), (old, same) in zip(right.items(), list(there.items()), strict=True):
            if name not in there and old not in right and type_ == same:
                lines.append(f"ALTER TYPE {label} RENAME ATTRIBUTE {old} TO {name} CASCADE;")
                there = {name if one == old else one: of for one, of in there.items()}
    extra = [name for name in there if name not in right]
    left = [name for name in there if name in right]
    if [*left, *(name for name in right if name not in left)] != list(right):
        return [
            *lines,
            sql_text.remark(f"Attributes of {label}: no command moves an attribute, or adds one before another"),
        ]
    lines += [f"-- ALTER TYPE {label} DROP ATTRIBUTE {name} CASCADE;" for name in extra]
    for name, type_ in right.items():
        verb = "ADD ATTRIBUTE" if name not in left else "ALTER ATTRIBUTE" if type_ != there[name] else ""
        if verb:
            lines.append(f"ALTER TYPE {label} {verb} {name}{' TYPE' * (name in left)} {type_} CASCADE;")
    return lines


def alter_type(label: str, expected: Attributes, found: Attributes, keys: list[str]) -> str:
    lines: list[str] = []
    if "kind" in keys:
        return ""
    if "labels" in keys:
        lines += _labels(label, expected.get("labels", []), found.get("labels", []))
    if "columns" in keys:
        lines += _attributes(label, expected["columns"], found["columns"])
    if "base" in keys:
        right, there = expected.get("base", {}), found.get("base", {})
        differing = [key for key in {**there, **right} if right.get(key) != there.get(key)]
        if set(differing) <= set(_BASE):
            put = ", ".join(f"{key} = {right.get(key, 'plain' if key == 'STORAGE' else 'NONE')}" for key in differing)
            lines.append(f"ALTER TYPE {label} SET ({put});")
    if "range" in keys:
        ranges = [dict(of.get("range", {})) for of in (expected, found)]
        names = [of.pop("MULTIRANGE_TYPE_NAME", ddl_routines.usual_multirange(label)) for of in ranges]
        if ranges[0] == ranges[1]:
            lines.append(f"ALTER TYPE {names[1]} RENAME TO {last_name(names[0])};")
    named = "not_null" in keys
    if named and expected.get("nullable") is False and "nullable" in keys and "not_null" in expected:
        lines.append(f"ALTER DOMAIN {label} ADD CONSTRAINT {expected['not_null']} NOT NULL;")
        keys = [key for key in keys if key != "nullable"]
    elif named and "nullable" not in keys:
        usual = quoted(f"{unquoted(last_name(label))}_not_null")
        lines.append(
            f"ALTER DOMAIN {label} RENAME CONSTRAINT {found.get('not_null', usual)} TO {expected.get('not_null', usual)};"
        )
    if "nullable" in keys:
        lines.append(f"ALTER DOMAIN {label} {'SET' if expected.get('nullable') is False else 'DROP'} NOT NULL;")
    if "default" in keys:
        lines.append(
            f"ALTER DOMAIN {label} SET DEFAULT {expected['default']};"
            if "default" in expected
            else f"ALTER DOMAIN {label} DROP DEFAULT;"
        )
    said: dict[str, str | None] = {}  # comments
    if "comments" in keys:
        said = dict.fromkeys(found.get("comments", {})) | expected.get("comments", {})
    if "checks" in keys:
        said |= expected.get("comments", {})
        right, there = expected.get("checks", {}), dict(found.get("checks", {}))
        for name in [name for name in right if name not in there]:
            old = next((one for one, text in there.items() if one not in right and text == right[name]), None)
            if old is not None:
                lines.append(f"ALTER DOMAIN {label} RENAME CONSTRAINT {old} TO {name};")
                there[name] = there.pop(old)
        lines += [
            f"ALTER DOMAIN {label} DROP CONSTRAINT {name};" for name, text in there.items() if right.get(name) != text
        ]
        lines += [
            f"ALTER DOMAIN {label} ADD CONSTRAINT {name} {text};"
            for name, text in right.items()
            if there.get(name) != text
        ]
    gone: set[str] = set(found.get("checks", {})) - set(expected.get("checks", {}))
    if "columns" in keys:  # the repair says so where it cannot bring back an attribute
        moved = any(line.startswith("-- Attributes of ") for line in lines)
        kept = {_attribute(one)[0] for one in (found if moved else expected).get("columns", ())}
        gone = {name for name in said if name not in kept}
    lines += [
        sql_text.comment_within(label, expected["kind"], name, text) for name, text in said.items() if name not in gone
    ]
    return "\n".join(lines)
