"""The declared spec: what must be there, as scripts/schema-spec.yaml says it."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Literal

from pgvigil.errors import UsageError
from pgvigil.validate import nodes

ANY = "any"  # not compared

_ALIASES = {
    "varchar": "character varying",
    "timestamptz": "timestamp with time zone",
    "int": "integer",
    "bool": "boolean",
    "decimal": "numeric",
}
_ALIAS = re.compile(rf"\b({'|'.join(_ALIASES)})\b")
_REFERENCES = re.compile(r"([^()\s]+)\s*\(([^()]+)\)")
_SIGNATURE = re.compile(r"([^()\s]+)\((.*)\)")
_WORD = re.compile(r"[^\W\d]\w*")
ARRAY_END = "}'::text[]"

Action = Literal["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]


def spelt(text: str) -> str:
    """Short names of types as PostgreSQL prints them."""
    return _ALIAS.sub(lambda match: _ALIASES[match[1]], text)


def words(*texts: str) -> set[str]:
    """The identifiers in some expressions, near enough to tell which columns they can mean."""
    return {word for text in texts for word in _WORD.findall(text)}


@dataclass(frozen=True, kw_only=True)
class Column:
    type: str
    nullable: bool | Literal["any"] = True
    default: str | None = None
    identity: Literal["ALWAYS", "BY DEFAULT"] | None = None
    added: bool = False
    line: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", spelt(self.type))


@dataclass(frozen=True, kw_only=True)
class Constraint:
    primary_key: tuple[str, ...] = ()
    unique: tuple[str, ...] = ()
    foreign_key: tuple[str, ...] = ()
    references: str = ""
    on_delete: Action = "NO ACTION"
    on_update: Action = "NO ACTION"
    check: str = ""
    tolerated_values: str = ""
    validated: bool | Literal["any"] = True
    added: bool = False
    line: int

    def __post_init__(self) -> None:
        kinds = [bool(self.primary_key), bool(self.unique), bool(self.foreign_key), bool(self.check)]
        if sum(kinds) != 1:
            raise ValueError("give one of primary_key, unique, foreign_key and check")
        if bool(self.foreign_key) != bool(self.references):
            raise ValueError("foreign_key and references go together")
        if self.references and not _REFERENCES.fullmatch(self.references):
            raise ValueError(f"references must read `table (column, …)`, not {self.references!r}")
        if not self.foreign_key and (self.on_delete, self.on_update) != ("NO ACTION", "NO ACTION"):
            raise ValueError("on_delete and on_update belong to a foreign_key")
        if self.tolerated_values and self.check.count(ARRAY_END) != 1:
            raise ValueError(f"tolerated_values needs a check with one array that ends in {ARRAY_END}")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.primary_key or self.unique or self.foreign_key

    @property
    def target(self) -> tuple[str, tuple[str, ...]]:
        """Table and columns that a foreign key references."""
        match = _REFERENCES.fullmatch(self.references)
        return (match[1], tuple(column.strip() for column in match[2].split(","))) if match else ("", ())

    def names(self, columns: dict[str, Column]) -> set[str]:
        """The columns of its table that it stands on."""
        return set(self.columns) or words(re.sub("'[^']*'", "", self.check)) & columns.keys()


@dataclass(frozen=True, kw_only=True)
class Index:
    keys: tuple[str, ...]
    method: str = "btree"
    include: tuple[str, ...] = ()
    where: str = ""
    unique: bool = False
    with_: dict[str, str] = field(default_factory=dict)
    optional: bool = False
    line: int

    def __post_init__(self) -> None:
        if not self.keys:
            raise ValueError("an index needs keys")

    def names(self, columns: dict[str, Column]) -> set[str]:
        return words(*self.keys, *self.include, re.sub("'[^']*'", "", self.where)) & columns.keys()


@dataclass(frozen=True, kw_only=True)
class Trigger:
    timing: Literal["BEFORE", "AFTER", "INSTEAD OF"]
    events: tuple[Literal["INSERT", "DELETE", "UPDATE", "TRUNCATE"], ...]
    update_of: tuple[str, ...] = ()
    level: Literal["ROW", "STATEMENT"]
    old_table: str = ""
    new_table: str = ""
    when: str = ""
    function: str
    enabled: Literal["ORIGIN", "ALWAYS", "REPLICA", "DISABLED"] = "ORIGIN"
    line: int

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("a trigger needs events")
        if self.update_of and "UPDATE" not in self.events:
            raise ValueError("update_of needs UPDATE among the events")
        if not _SIGNATURE.fullmatch(self.function):
            raise ValueError(f"function must read `schema.name()`, not {self.function!r}")


@dataclass(frozen=True, kw_only=True)
class Partitions:
    """A pattern, because partitions come and go: a name is its table's and a suffix with YYYY, MM, DD for its start."""

    names: tuple[str, ...]
    default: str = ""
    present: bool = False
    line: int

    def __post_init__(self) -> None:
        if wrong := [name for name in self.names if "YYYY" not in name]:
            raise ValueError(f"{wrong[0]!r} does not say when the partition starts (YYYY, MM, DD)")


@dataclass(frozen=True, kw_only=True)
class Table:
    columns: dict[str, Column]
    owner: Literal["application", "ours"] = "ours"
    partition_by: str = ""
    partitions: Partitions | None = None
    with_: dict[str, str] = field(default_factory=dict)
    constraints: dict[str, Constraint] = field(default_factory=dict)
    indexes: dict[str, Index] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    rows: tuple[dict[str, str], ...] = ()
    line: int

    def __post_init__(self) -> None:
        if self.partitions and not self.partition_by:
            raise ValueError("partitions need partition_by")

    @property
    def ours(self) -> bool:
        return self.owner == "ours"


@dataclass(frozen=True, kw_only=True)
class View:
    columns: dict[str, str]
    reads: tuple[str, ...]
    security_invoker: bool = False
    line: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", {name: spelt(type_) for name, type_ in self.columns.items()})


@dataclass(frozen=True, kw_only=True)
class Function:
    language: str
    kind: Literal["function", "procedure"] = "function"
    arguments: tuple[str, ...] = ()
    returns: str = ""
    volatility: Literal["VOLATILE", "STABLE", "IMMUTABLE"] = "VOLATILE"
    parallel: Literal["UNSAFE", "RESTRICTED", "SAFE"] = "UNSAFE"
    strict: bool = False
    security: Literal["INVOKER", "DEFINER"] = "INVOKER"
    set_: dict[str, str] = field(default_factory=dict)
    line: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", tuple(spelt(argument) for argument in self.arguments))
        object.__setattr__(self, "returns", spelt(self.returns))
        if bool(self.returns) == (self.kind == "procedure"):
            raise ValueError("a function returns something, a procedure nothing")


@dataclass(frozen=True, kw_only=True)
class Ignore:
    objects: str
    reason: str
    line: int

    def covers(self, path: str) -> bool:
        return fnmatchcase(path, self.objects)


@dataclass(frozen=True, kw_only=True)
class Later:
    """Objects that only a migration outside a transaction brings or settles."""

    revision: str
    objects: tuple[str, ...]
    line: int

    def covers(self, path: str) -> bool:
        return any(fnmatchcase(path, pattern) for pattern in self.objects)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The file as it lies on disk."""

    spec: Literal["1"]
    schemas: tuple[str, ...]
    roles: tuple[str, ...] = ()
    ignore: tuple[Ignore, ...] = ()
    later: tuple[Later, ...] = ()
    tables: dict[str, Table]
    views: dict[str, View] = field(default_factory=dict)
    functions: dict[str, Function] = field(default_factory=dict)
    line: int


@dataclass(frozen=True)
class Spec:
    """A spec whose parts fit together. Functions are keyed by name and types of arguments in PostgreSQL's spelling."""

    path: Path
    schemas: tuple[str, ...]
    roles: tuple[str, ...]
    ignore: tuple[Ignore, ...]
    later: tuple[Later, ...]
    tables: dict[str, Table]
    views: dict[str, View]
    functions: dict[str, Function]


def load_spec(path: Path) -> Spec:
    document = nodes.load(path, Document)
    for line, message in _misfits(document):
        raise UsageError(f"{path}:{line}: {message}", "Names must agree within the spec.")
    functions: dict[str, Function] = {}
    for key, function in document.functions.items():
        name, types = signature(key)
        identity = f"{name}({', '.join(types)})"
        if identity in functions:
            raise UsageError(f"{path}:{function.line}: function {identity} is declared twice", "Remove one.")
        functions[identity] = function
    return Spec(
        path,
        document.schemas,
        document.roles,
        document.ignore,
        document.later,
        document.tables,
        document.views,
        functions,
    )


def signature(text: str) -> tuple[str, tuple[str, ...]]:
    match = _SIGNATURE.fullmatch(text)
    if match is None:
        raise ValueError(text)
    return match[1], tuple(spelt(part.strip()) for part in match[2].split(",") if part.strip())


def _misfits(document: Document) -> Iterator[tuple[int, str]]:
    lines = {name: item.line for name, item in document.tables.items()}
    lines |= {name: item.line for name, item in document.views.items()}
    for name, line in lines.items():
        schema, dot, _ = name.partition(".")
        if dot and schema not in document.schemas:
            yield line, f"{name}: schema {schema} is not among the schemas {', '.join(document.schemas)}"
    for name, view in document.views.items():
        if name in document.tables:
            yield view.line, f"{name} is declared as a table (line {document.tables[name].line}) and as a view"
        for source in view.reads:
            if source not in document.tables and source not in document.views:
                yield view.line, f"view {name} reads {source}, which is not declared"
    for key, function in document.functions.items():
        if not (match := _SIGNATURE.fullmatch(key)):
            yield function.line, f"function {key!r} must read `schema.name(type, …)`"
        elif len(signature(key)[1]) != len(function.arguments):
            yield function.line, f"function {key} has {len(function.arguments)} arguments, and others in its name"
        elif match[1].partition(".")[0] not in document.schemas:
            yield function.line, f"function {key} must lie in one of the schemas {', '.join(document.schemas)}"
    functions = {signature(key)[0] for key in document.functions if _SIGNATURE.fullmatch(key)}
    for name, table in document.tables.items():
        for line, message in _table_misfits(table, document, functions):
            yield line, f"{name}: {message}"


def _table_misfits(table: Table, document: Document, functions: set[str]) -> Iterator[tuple[int, str]]:
    def unknown(columns: tuple[str, ...], of: Table = table) -> str:
        return next((column for column in columns if column not in of.columns), "")

    for key, constraint in table.constraints.items():
        if column := unknown(constraint.columns):
            yield constraint.line, f"constraint {key} names column {column}, which is not declared"
        if constraint.tolerated_values and unknown((constraint.tolerated_values,)):
            yield constraint.line, f"constraint {key} tolerates values of {constraint.tolerated_values}, no such column"
        target, columns = constraint.target
        if target and target not in document.tables:
            yield constraint.line, f"constraint {key} references table {target}, which is not declared"
        elif target and (column := unknown(columns, document.tables[target])):
            yield constraint.line, f"constraint {key} references {target}.{column}, which is not declared"
    for key, index in table.indexes.items():
        plain = tuple(part.split()[0] for part in index.keys if _WORD.fullmatch(part.split()[0]))
        if column := unknown(plain + index.include):
            yield index.line, f"index {key} names column {column}, which is not declared"
        if index.optional and table.ours:
            yield index.line, f"index {key} is optional, but the table is ours"
    for key, trigger in table.triggers.items():
        if column := unknown(trigger.update_of):
            yield trigger.line, f"trigger {key} names column {column}, which is not declared"
        function = trigger.function.partition("(")[0]
        if function.partition(".")[0] in document.schemas and function not in functions:
            yield trigger.line, f"trigger {key} calls function {function}, which is not declared"
    for row in table.rows:
        if column := unknown(tuple(row)):
            yield table.line, f"a row names column {column}, which is not declared"
    if table.ours:
        added = {key: column.line for key, column in table.columns.items() if column.added}
        added |= {key: constraint.line for key, constraint in table.constraints.items() if constraint.added}
        for key, line in added.items():
            yield line, f"{key} is marked as added, but the whole table is ours"
