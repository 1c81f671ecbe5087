"""What is there: the part of pg_catalog that a spec is about, read in one pipeline and one snapshot.

Everything a server prints is printed with search_path pinned, so that a name is spelt the same for everybody.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

from pgvigil.errors import LockedError
from pgvigil.validate.queries import QUERIES
from pgvigil.validate.spec import Spec

Connection = psycopg.Connection[Any]
T = TypeVar("T")

ATTEMPTS = 3  # an object dropped between the snapshot and its printing is an internal error of the server

_PINNED = {
    "search_path": "pg_catalog, pg_temp",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "lock_timeout": "10s",  # printing takes ACCESS SHARE; whoever holds ACCESS EXCLUSIVE that long is told of instead
    "statement_timeout": "60s",
}


@dataclass(frozen=True)
class Server:
    version: str
    version_num: int
    database: str
    role: str
    now: float
    schemas: dict[str, bool] | None
    roles: list[str]

    @property
    def major(self) -> int:
        return self.version_num // 10000


@dataclass(frozen=True)
class ColumnFound:
    relation: int
    name: str
    type: str
    not_null: bool
    default: str | None
    identity: str
    generated: str
    commented: bool
    collation: str | None


@dataclass(frozen=True)
class ConstraintFound:
    relation: int
    name: str
    kind: str
    definition: str
    expression: str | None
    validated: bool
    no_inherit: bool
    valid: bool
    commented: bool
    disabled: bool


@dataclass(frozen=True)
class IndexFound:
    relation: int
    name: str
    definition: str
    unique: bool
    valid: bool
    options: list[str]
    attached: bool
    commented: bool
    of_constraint: bool


@dataclass(frozen=True)
class TriggerFound:
    relation: int
    name: str
    type: int
    enabled: str
    columns: list[str]
    old_table: str
    new_table: str
    function_schema: str
    definition: str
    of_constraint: bool
    internal: bool
    commented: bool


@dataclass(frozen=True)
class FunctionFound:
    schema: str
    name: str
    kind: str
    language: str
    volatility: str
    parallel: str
    strict: bool
    definer: bool
    settings: list[str]
    types: list[str]
    arguments: str
    returns: str
    commented: bool


@dataclass(frozen=True)
class Relation:
    oid: int
    schema: str
    name: str
    kind: str
    persistence: str
    row_security: bool
    options: list[str]
    partition_key: str | None
    bound: str | None
    parent: int | None
    detaching: bool | None
    commented: bool
    readable: bool
    rules: list[str]
    policies: list[str]
    reads: list[str]
    columns: dict[str, ColumnFound] = field(default_factory=dict)
    constraints: dict[str, ConstraintFound] = field(default_factory=dict)
    indexes: dict[str, IndexFound] = field(default_factory=dict)
    triggers: list[TriggerFound] = field(default_factory=list)


@dataclass(frozen=True)
class Catalog:
    schema: str
    server: Server
    relations: dict[tuple[str, str], Relation]
    functions: dict[str, FunctionFound]
    rows: dict[str, list[dict[str, Any]]]  # of the declared tables that hold rows the spec needs, if they can be read

    def relation(self, name: str) -> Relation | None:
        return self.relations.get(qualified(name, self.schema))


def qualified(name: str, schema: str) -> tuple[str, str]:
    """Schema and name of a relation as a spec names it."""
    given, dot, rest = name.partition(".")
    return (given, rest) if dot else (schema, name)


@contextmanager
def pinned(conn: Connection, *, read_only: bool) -> Iterator[None]:
    """A transaction, or a savepoint in one that is open already, with printing pinned; rolled back in any case."""
    idle = conn.info.transaction_status == TransactionStatus.IDLE
    try:
        with conn.transaction(force_rollback=True), conn.pipeline() as pipeline:
            try:
                if idle and read_only:
                    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                conn.execute(
                    "SELECT set_config(n, v, true) FROM unnest(%s::text[], %s::text[]) AS s (n, v)",
                    (list(_PINNED), list(_PINNED.values())),
                )
                yield
            except psycopg.Error:
                with suppress(psycopg.Error):
                    pipeline.sync()  # a pipeline left aborted is logged by psycopg
                raise
    except errors.LockNotAvailable as error:
        raise LockedError(
            f"A table that is to be looked at stayed locked for {_PINNED['lock_timeout']}.",
            "See who holds it in pg_locks, or try again later.",
        ) from error


def snapshot(conn: Connection, spec: Spec, schema: str) -> Catalog:
    for _ in range(ATTEMPTS - 1):
        with (
            suppress(errors.InternalError_, errors.UndefinedObject, errors.UndefinedTable),
            pinned(conn, read_only=True),
        ):
            return _read(conn, spec, schema)
    with pinned(conn, read_only=True):
        return _read(conn, spec, schema)


def _read(conn: Connection, spec: Spec, schema: str) -> Catalog:
    declared = [qualified(name, schema) for name in [*spec.tables, *spec.views]]
    slices = [
        f"^{re.escape(name)}{re.sub('[YMD]', '[0-9]', suffix)}$"
        for name, table in spec.tables.items()
        if table.partitions
        for suffix in [*table.partitions.names, table.partitions.default]
    ]
    parameters = {
        "own": list(spec.schemas),
        "schema": schema,
        "names": [name for where, name in declared if where == schema],
        "slices": slices,
        "roles": list(spec.roles),
    }
    cursors = {name: conn.execute(query, parameters) for name, query in QUERIES.items()}
    answers = {name: json.loads(cursor.fetchone()[0]) for name, cursor in cursors.items()}  # type: ignore[index]

    relations = [Relation(**row) for row in answers["relations"]]
    by_oid = {relation.oid: relation for relation in relations}
    # An open transaction that is not REPEATABLE READ may see a relation in one answer that it did not see in another.
    for column in _rows(answers, "columns", ColumnFound):
        if relation := by_oid.get(column.relation):
            relation.columns[column.name] = column
    for constraint in _rows(answers, "constraints", ConstraintFound):
        if relation := by_oid.get(constraint.relation):
            relation.constraints[constraint.name] = constraint
    for index in _rows(answers, "indexes", IndexFound):
        if relation := by_oid.get(index.relation):
            relation.indexes[index.name] = index
    for trigger in _rows(answers, "triggers", TriggerFound):
        if relation := by_oid.get(trigger.relation):
            relation.triggers.append(trigger)
    functions = _rows(answers, "functions", FunctionFound)
    catalog = Catalog(
        schema,
        Server(**answers["server"][0]),
        {(relation.schema, relation.name): relation for relation in relations},
        {f"{function.schema}.{function.name}({', '.join(function.types)})": function for function in functions},
        {},
    )
    cursors = {
        name: conn.execute(sql.SQL("SELECT coalesce(json_agg(t), '[]')::text FROM {} t").format(sql.Identifier(*key)))
        for name, table in spec.tables.items()
        if (table.rows or name == TOLERATED)
        and (relation := catalog.relations.get(key := qualified(name, schema)))
        and relation.readable
        and relation.kind == "r"
    }
    catalog.rows.update({name: json.loads(cursor.fetchone()[0]) for name, cursor in cursors.items()})  # type: ignore[index]
    return catalog


TOLERATED = "pgvigil.tolerated_values"


def _rows(answers: Mapping[str, list[dict[str, Any]]], name: str, cls: type[T]) -> list[T]:
    return [cls(**row) for row in answers[name]]
