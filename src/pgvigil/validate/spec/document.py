"""The declared spec: what must be there, as scripts/schema-spec.yaml or `pgvigil spec dump` says it.

The fields of these classes are the keys of a spec, and but for those that only steer the comparison they are the attributes
that a snapshot of a database has: nothing said means as it is by default.

More than 400 lines: one class for each kind of object, and nothing else.
"""

from __future__ import annotations

import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

from pgvigil.validate.spec.declaration import Partitions
from pgvigil.validate.spec.path_patterns import covers

ANY = "any"  # not compared

_ALIASES = {
    "varchar": "character varying",
    "timestamptz": "timestamp with time zone",
    "int": "integer",
    "bool": "boolean",
    "decimal": "numeric",
}
_ALIAS = re.compile(rf"(?<![\w.])({'|'.join(_ALIASES)})(?![\w.])")  # a schema before it: one of somebody's
_LITERAL = re.compile("""('(?:[^']|'')*'|"(?:[^"]|"")*")""")
_REFERENCES = re.compile(r"([^()\s]+)\s*\(([^()]+)\)")
SIGNATURE = re.compile(r'((?:"(?:[^"]|"")*"|[^"()\s])+)\((.*)\)', re.DOTALL)
WORD = re.compile(r"[^\W\d]\w*")

Enabled = Literal["ORIGIN", "ALWAYS", "REPLICA", "DISABLED"]
Action = Literal["NO ACTION", "RESTRICT", "CASCADE", "SET NULL", "SET DEFAULT"]


def spelt(text: str) -> str:
    """Replace short names of types by the names that PostgreSQL prints."""
    parts = _LITERAL.split(text)
    return "".join(
        part if at % 2 else _ALIAS.sub(lambda match: _ALIASES[match[1]], part) for at, part in enumerate(parts)
    )


def words(*texts: str) -> set[str]:
    """The identifiers in some expressions, near enough to find which columns they can mean."""
    return {word for text in texts for word in WORD.findall(text)}


@dataclass(frozen=True, kw_only=True)
class Column:
    type: str  # as format_type prints it; varchar, timestamptz, int, bool and decimal are short for their long names
    nullable: bool | Literal["any"] = True  # `any`: not compared
    default: str | None = None  # expression as the server prints it; `any`: not compared
    identity: Literal["ALWAYS", "BY DEFAULT"] | None = None  # its sequence is `of table.column`
    generated: str = ""  # expression of a generated column
    virtual: bool = False  # generated when it is read, not kept (PostgreSQL 18)
    collation: str = ""
    storage: Literal["PLAIN", "MAIN", "EXTERNAL", "EXTENDED"] | None = None  # where it is not that of the type
    compression: Literal["pglz", "lz4"] | None = None  # where it is not the server's usual one
    options: dict[str, str] = field(default_factory=dict)
    inherited: bool = False  # not declared by the table itself
    not_null: str = ""  # name of the NOT NULL constraint, where it is not the usual one (PostgreSQL 18)
    not_null_comment: str = ""  # on the NOT NULL constraint (PostgreSQL 18)
    comment: str = ""
    added: bool = False  # to a table of the application by the migrations
    line: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", spelt(self.type))


@dataclass(frozen=True, kw_only=True)
class Constraint:
    primary_key: tuple[str, ...] = ()  # columns
    unique: tuple[str, ...] = ()  # columns
    foreign_key: tuple[str, ...] = ()  # columns; goes with references
    references: str = ""  # `table (column, …)`
    on_delete: Action = "NO ACTION"
    on_update: Action = "NO ACTION"
    check: str = ""  # expression, without CHECK and the parentheses around it
    definition: str = ""  # whole, as pg_get_constraintdef prints it: the long form of all others
    unless_baselined: bool = False  # a list of values: it need not be closed where the tables were there before
    validated: bool | Literal["any"] = True  # false: declared NOT VALID; `any`: not compared
    valid: bool = True  # false: the index under it is not
    enforced: bool = True  # false: the triggers of a foreign key are disabled
    inherited: bool = False  # the foreign key of a partition that it has from its table
    with_: dict[str, str] = field(default_factory=dict)
    tablespace: str = ""
    attached: str = ""  # of a partition's key: the key of the partitioned table that it is part of
    index_comment: str = ""  # on the index under it
    comment: str = ""
    added: bool = False  # to a table of the application by the migrations
    line: int

    def __post_init__(self) -> None:
        kinds = [
            bool(self.primary_key),
            bool(self.unique),
            bool(self.foreign_key),
            bool(self.check),
            bool(self.definition),
        ]
        if sum(kinds) != 1:
            raise ValueError("give one of primary_key, unique, foreign_key, check and definition")
        if bool(self.foreign_key) != bool(self.references):
            raise ValueError("foreign_key and references go together")
        if self.references and not _REFERENCES.fullmatch(self.references):
            raise ValueError(f"references must read `table (column, …)`, not {self.references!r}")
        if not self.foreign_key and (self.on_delete, self.on_update) != ("NO ACTION", "NO ACTION"):
            raise ValueError("on_delete and on_update belong to a foreign_key")
        if self.unless_baselined and not self.check:
            raise ValueError("unless_baselined belongs to a check")

    @property
    def columns(self) -> tuple[str, ...]:
        return self.primary_key or self.unique or self.foreign_key

    @property
    def target(self) -> tuple[str, tuple[str, ...]]:
        """The table and the columns that a foreign key references."""
        match = _REFERENCES.fullmatch(self.references)
        return (match[1], tuple(column.strip() for column in match[2].split(","))) if match else ("", ())

    def names(self, columns: dict[str, Column]) -> set[str]:
        """The columns of its table that it depends on."""
        return set(self.columns) or words(re.sub("'[^']*'", "", self.check)) & columns.keys()


@dataclass(frozen=True, kw_only=True)
class Index:
    keys: tuple[str, ...] = ()  # columns and expressions, with operator class and order: `a DESC`, `b text_pattern_ops`
    definition: str = ""  # whole, as pg_get_indexdef prints it from the method on: the long form of the keys around it
    method: str = "btree"  # access method
    include: tuple[str, ...] = ()  # columns of INCLUDE
    where: str = ""  # predicate of a partial index
    unique: bool = False
    with_: dict[str, str] = field(default_factory=dict)
    valid: bool = True  # false: neither valid nor ready
    tablespace: str = ""
    depends_on: tuple[str, ...] = ()  # extensions: DEPENDS ON EXTENSION
    attached: str = ""  # of a partition's index: the index of the partitioned table that it is part of
    comment: str = ""
    optional: bool = False  # of the application: compared where it is there
    line: int

    def __post_init__(self) -> None:
        if bool(self.keys) == bool(self.definition):
            raise ValueError("an index needs keys, or a definition")

    def names(self, columns: dict[str, Column]) -> set[str]:
        return words(*self.keys, *self.include, re.sub("'[^']*'", "", self.where)) & columns.keys()


@dataclass(frozen=True, kw_only=True)
class Trigger:
    timing: Literal["BEFORE", "AFTER", "INSTEAD OF"]  # when it fires
    events: tuple[Literal["INSERT", "DELETE", "UPDATE", "TRUNCATE"], ...]  # in any order
    update_of: tuple[str, ...] = ()  # columns of UPDATE OF
    level: Literal["ROW", "STATEMENT"]  # FOR EACH …
    old_table: str = ""  # name of the transition table OLD TABLE
    new_table: str = ""  # name of the transition table NEW TABLE
    when: str = ""  # condition, without the parentheses around it
    function: str  # `schema.name()`, with arguments if it has some
    constraint: bool = False  # CREATE CONSTRAINT TRIGGER
    deferrable: Literal["INITIALLY DEFERRED", "INITIALLY IMMEDIATE"] | None = None
    from_: str = ""  # the other table of a constraint trigger
    enabled: Enabled = "ORIGIN"
    clone: bool = False  # of the partitioned table's, in another state
    depends_on: tuple[str, ...] = ()  # extensions: DEPENDS ON EXTENSION
    comment: str = ""
    line: int

    def __post_init__(self) -> None:
        if not self.events:
            raise ValueError("a trigger needs events")
        if self.update_of and "UPDATE" not in self.events:
            raise ValueError("update_of needs UPDATE among the events")
        if not SIGNATURE.fullmatch(self.function):
            raise ValueError(f"function must read `schema.name()`, not {self.function!r}")


@dataclass(frozen=True, kw_only=True)
class Table:
    columns: dict[str, Column] = field(default_factory=dict)  # by name, in order
    owner: Literal["application", "ours"] = "ours"  # application: others may add to it, and are noted, not failed
    kind: Literal["table", "partitioned table", "foreign table"] = "table"
    partition_by: str = ""  # as pg_get_partkeydef prints it: `RANGE (id)`
    partition_of: str = ""  # the table of which it is a partition
    bound: str = ""  # of a partition: `FOR VALUES …` or `DEFAULT`
    inherits: tuple[str, ...] = ()  # the tables it inherits from
    of_type: str = ""  # the type of a typed table
    persistence: Literal["UNLOGGED", "TEMPORARY"] | None = None  # where it is not an ordinary, logged table
    row_security: Literal["enabled", "forced", "forced, disabled"] | None = None  # `forced`: for its owner as well
    with_: dict[str, str] = field(default_factory=dict)
    access_method: str = ""
    tablespace: str = ""
    replica_identity: str = ""  # where it is not the primary key
    server: str = ""  # of a foreign table
    options: dict[str, str] = field(default_factory=dict)
    owned_by: str = ""
    comment: str = ""
    partitions: Partitions | None = None  # a pattern for partitions that come and go
    constraints: dict[str, Constraint] = field(default_factory=dict)  # by name
    indexes: dict[str, Index] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    rows: tuple[dict[str, str], ...] = ()  # rows that must be there, by some of their columns
    line: int

    def __post_init__(self) -> None:
        if self.partitions and not self.partition_by:
            raise ValueError("partitions need partition_by")

    @property
    def ours(self) -> bool:
        return self.owner == "ours"


@dataclass(frozen=True, kw_only=True)
class ViewColumn:
    """The attributes of a view's column besides its type."""

    default: str = ""  # of INSERT through the view
    collation: str = ""
    storage: Literal["PLAIN", "MAIN", "EXTERNAL", "EXTENDED"] | None = None  # of a materialized view's column
    compression: Literal["pglz", "lz4"] | None = None  # of a materialized view's column
    options: dict[str, str] = field(default_factory=dict)
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class View:
    columns: dict[str, str]  # name and type, in order
    attributes: dict[str, ViewColumn] = field(default_factory=dict)  # what columns have besides a type
    kind: Literal["view", "materialized view"] = "view"
    reads: tuple[str, ...] | None = None  # the tables and views it reads, all of them
    security_invoker: bool = False  # runs with the rights of whoever reads it; compared from PostgreSQL 15 on
    definition: str = ""  # the query, as pg_get_viewdef prints it
    with_: dict[str, str] = field(default_factory=dict)
    access_method: str = ""
    tablespace: str = ""
    owned_by: str = ""
    depends_on: tuple[str, ...] = ()  # extensions: DEPENDS ON EXTENSION
    comment: str = ""
    indexes: dict[str, Index] = field(default_factory=dict)
    triggers: dict[str, Trigger] = field(default_factory=dict)
    line: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "columns", {name: spelt(type_) for name, type_ in self.columns.items()})


@dataclass(frozen=True, kw_only=True)
class Function:
    language: str = ""  # of all but aggregates
    kind: Literal["function", "procedure", "aggregate", "window function"] = "function"
    arguments: tuple[str, ...] = ()  # each as pg_get_function_arguments prints it
    returns: str = ""  # as pg_get_function_result prints it; a procedure has none
    volatility: Literal["VOLATILE", "STABLE", "IMMUTABLE"] = "VOLATILE"
    parallel: Literal["UNSAFE", "RESTRICTED", "SAFE"] = "UNSAFE"  # PARALLEL …
    strict: bool = False  # RETURNS NULL ON NULL INPUT
    security: Literal["INVOKER", "DEFINER"] = "INVOKER"  # DEFINER: runs with the rights of its owner
    leakproof: bool = False  # LEAKPROOF
    cost: str = ""  # where it is not the usual one
    rows: str = ""  # estimate of a set-returning function, where it is not the usual one
    support: str = ""  # its planner support function
    transforms: tuple[str, ...] = ()  # types of TRANSFORM FOR TYPE
    set_: dict[str, str] = field(default_factory=dict)  # settings while it runs; {schema} is the application's
    body: str = ""  # source text, or as the server prints BEGIN ATOMIC
    or_body: str = ""  # that of another major version, which a restored database has
    atomic: bool = False  # body is one of BEGIN ATOMIC or RETURN
    library: str = ""  # object file of a C function
    aggregate: dict[str, str] = field(default_factory=dict)  # parameters of CREATE AGGREGATE
    constructor: bool = False  # it comes with a range type
    execute: tuple[str, ...] | None = None  # by hand: roles besides the owner that may call it, PUBLIC for everybody
    owned_by: str = ""
    depends_on: tuple[str, ...] = ()  # extensions: DEPENDS ON EXTENSION
    comment: str = ""
    line: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "arguments", tuple(spelt(argument) for argument in self.arguments))
        object.__setattr__(self, "returns", spelt(self.returns))
        if bool(self.returns) == (self.kind == "procedure"):
            raise ValueError("a function returns something, a procedure nothing")
        if self.kind != "aggregate" and not self.language:
            raise ValueError("a function needs a language")


@dataclass(frozen=True, kw_only=True)
class Type:
    kind: Literal["enum", "domain", "composite", "range", "base", "shell"]
    labels: tuple[str, ...] = ()  # of an enum, in order
    type: str = ""  # that a domain is made of
    nullable: bool = True  # of a domain
    default: str = ""  # of a domain: an expression
    collation: str = ""
    not_null: str = ""  # of a domain: name of its NOT NULL, where it is not the usual one (PostgreSQL 18)
    checks: dict[str, str] = field(default_factory=dict)  # of a domain: definition by name
    columns: tuple[str, ...] = ()  # of a composite type: `name type`, in order
    range: dict[str, str] = field(default_factory=dict)  # parameters of CREATE TYPE … AS RANGE
    base: dict[str, str] = field(default_factory=dict)  # parameters of CREATE TYPE of a base type
    comments: dict[str, str] = field(default_factory=dict)  # on a domain's checks, on a composite type's columns
    owned_by: str = ""
    comment: str = ""
    line: int

    def __post_init__(self) -> None:
        object.__setattr__(self, "type", spelt(self.type))


@dataclass(frozen=True, kw_only=True)
class Sequence:
    """A sequence, keyed by its name, or as `of table.column` when a column owns it."""

    type: str  # smallint, integer or bigint
    increment: int = 1  # step
    start: int  # first value
    minimum: int  # MINVALUE
    maximum: int  # MAXVALUE
    cache: int = 1  # CACHE
    cycle: bool = False  # starts again at its end
    name: str = ""  # of one that a column owns, where it is not the usual `table_column_seq`
    persistence: Literal["UNLOGGED", "TEMPORARY"] | None = None  # where it is not an ordinary, logged sequence
    of: str = ""  # a column that owns it and is filled by another sequence
    owned_by: str = ""
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Policy:
    command: Literal["SELECT", "INSERT", "UPDATE", "DELETE"] | None = None  # where it is not for ALL
    restrictive: bool = False  # AS RESTRICTIVE
    roles: tuple[str, ...] = ("PUBLIC",)  # to whom it applies
    using: str = ""  # expression of USING
    check: str = ""  # expression of WITH CHECK
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Rule:
    definition: str  # as pg_get_ruledef prints it
    enabled: Enabled = "ORIGIN"
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Statistics:
    definition: str  # columns and expressions, and `FROM table`
    kinds: tuple[str, ...] = ()  # ndistinct, dependencies, mcv
    owned_by: str = ""
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Schema:
    owned_by: str = ""
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Extension:
    schema: str = ""  # that it is in
    version: str = ""  # installed version
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class EventTrigger:
    event: str  # ddl_command_start, …
    tags: tuple[str, ...] = ()  # commands of WHEN TAG IN
    function: str  # `schema.name()`
    enabled: Enabled = "ORIGIN"
    owned_by: str = ""
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Collation:
    provider: str  # its letter in pg_collation
    locale: str = ""  # as the provider calls it
    ctype: str = ""  # of libc: LC_CTYPE, where it is not the same
    rules: str = ""  # of ICU: RULES (PostgreSQL 16)
    deterministic: bool = True  # DETERMINISTIC
    owned_by: str = ""
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Other:
    """An object of a rare kind, keyed by kind and name."""

    definition: str = ""  # what it is made of
    options: dict[str, str] = field(default_factory=dict)
    hidden: bool = False  # the role that dumped it may not read its options
    owned_by: str = ""
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Setting:
    """A setting of new sessions: ALTER DATABASE … SET, or ALTER ROLE … IN DATABASE … SET."""

    value: str  # as pg_db_role_setting holds it
    line: int


@dataclass(frozen=True, kw_only=True)
class Operator:
    definition: dict[str, str]  # parameters of CREATE OPERATOR
    owned_by: str = ""
    comment: str = ""
    line: int


@dataclass(frozen=True, kw_only=True)
class Ignore:
    objects: str  # pattern of paths: `table pgvigil.legacy_*`
    reason: str  # shown with each object it covers
    rare: bool = False  # that it covers nothing is not reported
    line: int

    def covers(self, path: str) -> bool:
        return covers(self.objects, path)


@dataclass(frozen=True, kw_only=True)
class Later:
    """A list of objects that only a migration outside a transaction makes or completes."""

    revision: str  # the migration that brings them
    objects: tuple[str, ...]  # patterns of paths: `index sessions.*`
    line: int

    def covers(self, path: str) -> bool:
        return any(covers(pattern, path) for pattern in self.objects)


@dataclass(frozen=True, kw_only=True)
class Document:
    """The file as it is on disk."""

    spec: Literal["1"]  # version of this language
    schemas: tuple[str, ...]  # covered whole; {schema} is the application's
    schema: str = ""  # the application's, where no --schema is given
    complete: bool = False  # what is not said is as it is by default, and compared
    everything: bool = False  # there are no other schemas, and what belongs to no schema is compared
    database: str = ""  # that it was dumped from: of a copy by another name, settings and rights are notes
    major: int = 0  # of the server that printed a complete spec
    roles: tuple[str, ...] = ()  # of the whole server; a missing one is noted, not failed
    ignore: tuple[Ignore, ...] = ()  # what may be there, and why
    later: tuple[Later, ...] = ()  # what only a migration outside a transaction brings
    extensions: dict[str, Extension] = field(default_factory=dict)  # by name
    types: dict[str, Type] = field(default_factory=dict)  # enums, domains, composite, range and base types
    sequences: dict[str, Sequence] = field(default_factory=dict)  # by name, or as `of table.column`
    tables: dict[str, Table] = field(default_factory=dict)  # by name, with its schema if not the application's
    views: dict[str, View] = field(default_factory=dict)  # materialized ones too
    functions: dict[str, Function] = field(default_factory=dict)  # by signature: `schema.name(integer, text)`
    policies: dict[str, Policy] = field(default_factory=dict)  # by `table.name`
    rules: dict[str, Rule] = field(default_factory=dict)  # by `table.name`
    statistics: dict[str, Statistics] = field(default_factory=dict)  # extended statistics objects
    collations: dict[str, Collation] = field(default_factory=dict)  # by name
    operators: dict[str, Operator] = field(default_factory=dict)  # by name and types of operands
    others: dict[str, Other] = field(default_factory=dict)  # of rare kinds, by kind and name
    event_triggers: dict[str, EventTrigger] = field(default_factory=dict)  # that call a function of these schemas
    details: dict[str, Schema] = field(default_factory=dict)  # of the schemas
    grants: dict[str, tuple[str, ...]] = field(default_factory=dict)  # `on table t to role`: privileges
    revocations: dict[str, tuple[str, ...]] = field(default_factory=dict)  # `on table t from role`: those taken away
    default_grants: dict[str, tuple[str, ...]] = field(default_factory=dict)  # ALTER DEFAULT PRIVILEGES … GRANT
    default_revocations: dict[str, tuple[str, ...]] = field(default_factory=dict)  # ALTER DEFAULT PRIVILEGES … REVOKE
    settings: dict[str, Setting] = field(default_factory=dict)  # of the database, by name, or as `name of role r`
    line: int


@dataclass(frozen=True)
class Spec:
    """A spec whose parts fit together. Functions are keyed by name and types of arguments in PostgreSQL's spelling."""

    path: Path
    document: Document
    functions: dict[str, Function]

    @property
    def schemas(self) -> tuple[str, ...]:
        return self.document.schemas

    @property
    def roles(self) -> tuple[str, ...]:
        return self.document.roles

    @property
    def ignore(self) -> tuple[Ignore, ...]:
        return self.document.ignore

    @property
    def later(self) -> tuple[Later, ...]:
        return self.document.later

    @property
    def tables(self) -> dict[str, Table]:
        return self.document.tables

    @property
    def views(self) -> dict[str, View]:
        return self.document.views
