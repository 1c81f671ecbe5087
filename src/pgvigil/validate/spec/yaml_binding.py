"""Bind YAML nodes to dataclasses, so that every complaint about a file can name its place: `<path>:<line>`.

The types of the fields are the grammar. A field `line` gets the line of its object's key; a trailing underscore in a
field's name, there to avoid a Python keyword, is not part of the key. A ValueError out of `__post_init__` is a
complaint about the object.
"""

from __future__ import annotations

import dataclasses
import functools
import json
import re
import types
import typing
from pathlib import Path
from typing import Any, NoReturn, TypeVar

import yaml

from pgvigil.errors import UsageError

try:
    from yaml import CSafeLoader as Loader
except ImportError:  # PyYAML built without libyaml
    from yaml import SafeLoader as Loader  # type: ignore[assignment]

T = TypeVar("T")
_BOOLEANS = {"true": True, "false": False}
_DEEPEST = 100
_BRACKET = re.compile(r"[\[\]{}]")
_DEEP_LINE = re.compile(rf"^(?:[ \t]*+[-?][ \t]++){{{_DEEPEST}}}|^ {{{2 * _DEEPEST}}}", re.MULTILINE)


def load(path: Path, cls: type[T], raw: bytes) -> T:
    try:
        text = raw.decode().replace("\r\n", "\n").replace("\r", "\n")
    except UnicodeDecodeError as error:
        line = error.object[: error.start].count(b"\n") + 1
        raise UsageError(f"{path}:{line}: not UTF-8 ({error.reason})", "Save the file as UTF-8.") from error
    binder = Binder(path)
    try:
        root = _json(text) if path.suffix == ".json" else _yaml(text)
    except RecursionError:
        binder.refuse(1, "nested too deeply", "A spec has few levels.")
    except json.JSONDecodeError as error:
        binder.refuse(error.lineno, f"not valid JSON: {error.msg}", "Fix the JSON.")
    except yaml.MarkedYAMLError as error:
        mark = error.problem_mark or error.context_mark
        binder.refuse(
            mark.line + 1 if mark else 1, f"not valid YAML: {error.problem or error.context}", "Fix the YAML."
        )
    except yaml.reader.ReaderError as error:
        binder.refuse(text[: error.position].count("\n") + 1, f"not valid YAML: {error.reason}", "Fix the YAML.")
    if root is None:
        binder.refuse(1, "the file is empty", "")
    bound: T = binder.dataclass(root, cls, root.start_mark.line + 1, path.name)
    return bound


def _yaml(text: str) -> yaml.Node | None:
    """The nodes of a YAML document.

    Raise RecursionError for a depth at which libyaml's own recursion would end the process.
    """
    depth = deepest = 0
    for bracket in _BRACKET.findall(text):
        depth += 1 if bracket in "[{" else -1
        deepest = max(deepest, depth)
    if deepest > _DEEPEST or _DEEP_LINE.search(text):  # perhaps only in strings: the events say so, and take a while
        depth = 0
        for event in yaml.parse(text, Loader=Loader):
            if isinstance(event, yaml.CollectionStartEvent):
                depth += 1
            elif isinstance(event, yaml.CollectionEndEvent):
                depth -= 1
            if depth > _DEEPEST:
                raise RecursionError
    return yaml.compose(text, Loader=Loader)


def _json(text: str) -> yaml.Node:
    """The nodes of a JSON document: the same as YAML's reader makes of it, in a third of the time and without line numbers."""
    mark = yaml.Mark("", 0, 0, 0, None, 0)
    tag = "tag:yaml.org,2002:"

    def node(value: Any) -> yaml.Node:
        if isinstance(value, _Pairs):
            return yaml.MappingNode(f"{tag}map", [(node(key), node(one)) for key, one in value], mark, mark)
        if isinstance(value, list):
            return yaml.SequenceNode(f"{tag}seq", [node(one) for one in value], mark, mark)
        if isinstance(value, bool):
            return yaml.ScalarNode(f"{tag}bool", str(value).lower(), mark, mark)
        if value is None:
            return yaml.ScalarNode(f"{tag}null", "", mark, mark)
        return yaml.ScalarNode(f"{tag}{'str' if isinstance(value, str) else 'int'}", str(value), mark, mark)

    return node(json.loads(text, object_pairs_hook=_Pairs))


class _Pairs(list[tuple[str, Any]]):
    """An object with its keys as they are written, twice if they are."""


class Binder:
    """A converter of the nodes of one file into values; it knows the file's path for its complaints."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def refuse(self, line: int, message: str, hint: str) -> NoReturn:
        raise UsageError(f"{self.path}:{line}: {message}", hint)

    def wrong(self, node: yaml.Node, expected: str, what: str) -> NoReturn:
        got = "a list" if isinstance(node, yaml.SequenceNode) else "a mapping"
        if isinstance(node, yaml.ScalarNode):
            got = "nothing" if node.tag.endswith(":null") else repr(node.value)
        self.refuse(node.start_mark.line + 1, f"{what} must be {expected}, not {got}", "")

    def value(self, node: yaml.Node, kind: Any, line: int, what: str) -> Any:
        origin, arguments = typing.get_origin(kind), typing.get_args(kind)
        if isinstance(kind, type) and dataclasses.is_dataclass(kind):
            return self.dataclass(node, kind, line, what)
        if origin is dict:
            return {
                key: self.value(value, arguments[1], at, f"{what}.{key}") for key, value, at in self.pairs(node, what)
            }
        if origin is tuple:
            if not isinstance(node, yaml.SequenceNode):
                self.wrong(node, "a list", what)
            return tuple(
                self.value(item, arguments[0], item.start_mark.line + 1, f"{what}[{number}]")
                for number, item in enumerate(node.value)
            )
        return self.scalar(node, kind, what)

    def scalar(self, node: yaml.Node, kind: Any, what: str) -> Any:
        allowed = choices(kind)
        if isinstance(node, yaml.ScalarNode) and "\0" in node.value:
            self.wrong(node, "without a NUL character, which PostgreSQL has not", what)
        if isinstance(node, yaml.ScalarNode) and not node.tag.endswith(":null"):
            if node.value in allowed:
                return str(node.value)
            if bool in allowed and node.tag.endswith(":bool") and node.value.lower() in _BOOLEANS:
                return _BOOLEANS[node.value.lower()]
            if int in allowed and node.tag.endswith(":int") and node.value.lstrip("-").isdigit():
                return int(node.value)
            if str in allowed:
                return str(node.value)
        names = {bool: "true or false", int: "a number", str: "a text"}
        return self.wrong(node, " or ".join(names.get(choice, choice) for choice in allowed), what)

    def pairs(self, node: yaml.Node, what: str) -> list[tuple[str, yaml.Node, int]]:
        if not isinstance(node, yaml.MappingNode):
            self.wrong(node, "a mapping", what)
        seen: dict[str, int] = {}
        found = []
        for key, value in node.value:
            line = key.start_mark.line + 1
            if not isinstance(key, yaml.ScalarNode):
                self.refuse(line, f"a key in {what} is not a name", "")
            if key.value in seen:
                self.refuse(line, f"{key.value!r} is in {what} twice, first in line {seen[key.value]}", "Remove one.")
            seen[key.value] = line
            found.append((key.value, value, line))
        return found

    def dataclass(self, node: yaml.Node, cls: type[T], line: int, what: str) -> T:
        fields, required = grammar(typing.cast("Any", cls))
        values: dict[str, Any] = {}
        for key, value, at in self.pairs(node, what):
            if key not in fields:
                self.refuse(at, f"unknown key {key!r} in {what}", f"Keys known here: {', '.join(fields)}.")
            name, kind = fields[key]
            values[name] = self.value(value, kind, at, key if what == self.path.name else f"{what}.{key}")
        if missing := [key for key in required if fields[key][0] not in values]:
            self.refuse(line, f"{what} lacks {' and '.join(missing)}", f"Keys known here: {', '.join(fields)}.")
        if "line" in cls.__dataclass_fields__:  # type: ignore[attr-defined]
            values["line"] = line
        try:
            return cls(**values)
        except ValueError as error:
            self.refuse(line, f"{what}: {error}", "")


def choices(kind: Any) -> list[Any]:
    if typing.get_origin(kind) is typing.Literal:
        return list(typing.get_args(kind))
    if parts := _alternatives(kind):
        return [choice for part in parts for choice in choices(part)]
    return [kind]


def _alternatives(kind: Any) -> list[Any]:
    """The parts of `X | Y | None` but None."""
    if typing.get_origin(kind) not in (types.UnionType, typing.Union):
        return []
    return [part for part in typing.get_args(kind) if part is not type(None)]


@functools.cache
def grammar(cls: Any) -> tuple[dict[str, tuple[str, Any]], list[str]]:
    """Return the fields of a class by key, each with its type, and the required keys.

    The optional part of `X | None` is left out.
    """
    hints = typing.get_type_hints(cls)
    fields: dict[str, tuple[str, Any]] = {}
    required = []
    for field in dataclasses.fields(cls):
        if field.name == "line" or not field.init:
            continue
        kind = hints[field.name]
        parts = _alternatives(kind)
        fields[field.name.rstrip("_")] = (field.name, parts[0] if len(parts) == 1 else kind)
        if field.default is dataclasses.MISSING and field.default_factory is dataclasses.MISSING:
            required.append(field.name.rstrip("_"))
    return fields, required
