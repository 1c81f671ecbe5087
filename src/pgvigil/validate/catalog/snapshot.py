"""The live schema: the part of pg_catalog that a spec is about, read in one pipeline and one snapshot.

A snapshot is objects, each with its attributes as the server prints them and as a spec spells them. The server
prints with the application's schema alone on its search_path: its objects are printed without a schema, whatever the
schema is called, and everything else with one.

More than 400 lines: the reading and the understanding of the answers change together, with the queries.
"""

from __future__ import annotations

import json
import re
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple, TypeVar

import psycopg
from psycopg import errors, sql
from psycopg.pq import TransactionStatus

from pgvigil.database import beside
from pgvigil.errors import ConnectError, LockedError, PreconditionError
from pgvigil.owner import other_owner
from pgvigil.validate.catalog.identifiers import OF_GRAMMAR, RESERVED, last_name, quoted, schema_of, unquoted
from pgvigil.validate.catalog.object_ref import ObjectRef, table, view
from pgvigil.validate.catalog.presence import PRESENT, kinds_to_ask_for
from pgvigil.validate.catalog.queries import QUERIES
from pgvigil.validate.catalog.sql_fragments import for_kinds

Connection = psycopg.Connection[Any]
Attributes = dict[str, Any]
Answers = dict[str, Any]
T = TypeVar("T")

# Types of pg_catalog as the server prints them. One of the application's schema has the same name only in quotes or with
# its schema, because pg_catalog goes first.
PLAIN_TYPE = (
    r"(text|character varying|integer|bigint|smallint|boolean|uuid|numeric|interval|jsonb?|date|double precision"
    r"|timestamp with(out)? time zone|name)(\(\d+(,\d+)?\))?(\[\])?"
)

# Half of the work. Indexes, constraints and triggers open every table: what one process opens, the other does not have to open.
_ASIDE = ("indexes", "constraints", "triggers", "functions", "others")

# Queries that are not sent where there is no object of the kind.
_KIND_OF = {"triggers": "trigger", "functions": "function", "types": "type"}

# What an object dropped between the snapshot and its printing looks like: the server prints from a newer catalog.
_CHANGED = (errors.InternalError_, errors.UndefinedObject, errors.UndefinedTable, errors.UndefinedFunction)

_SCHEMAS = """
SELECT nspname FROM pg_namespace n WHERE nspname NOT LIKE 'pg\\_%' AND nspname <> 'information_schema'
  AND NOT EXISTS (SELECT FROM pg_depend d WHERE d.classid = 'pg_namespace'::regclass AND d.objid = n.oid AND d.deptype = 'e')
ORDER BY nspname <> 'public', nspname"""

_PINNED = {
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "extra_float_digits": "1",
    "bytea_output": "hex",
    "jit": "off",
    # Tables are joined in nearly the order written: to try all orders of eight takes longer than the worst of them.
    "join_collapse_limit": "4",
    "lock_timeout": "10s",  # printing takes ACCESS SHARE; a session that holds ACCESS EXCLUSIVE that long is reported instead
    "statement_timeout": "60s",
}


class Scope(NamedTuple):
    """The scope of a comparison: schemas covered whole; relations of the application's schema; how partitions of ours are called."""

    own: tuple[str, ...]
    names: tuple[str, ...] = ()
    slices: tuple[str, ...] = ()
    cut: tuple[str, ...] = ()
    extensions: tuple[str, ...] = ()
    roles: tuple[str, ...] = ()
    everywhere: bool = False  # other schemas too, and what belongs to none
    declared: frozenset[ObjectRef] = frozenset()  # whose owner is the usual one, whoever owns the rest


class Server(NamedTuple):
    version: str
    version_num: int
    database: str
    role: str
    now: float
    schema_there: bool
    public_of_initdb: bool  # schema public is the one that every database is made with
    roles: list[str]
    powers: dict[str, list[str]]  # of the roles that were asked for
    # Of new sessions, that bear on our work: name, value, whether of this database only, role or None, whether that role
    # may write to the tables.
    settings: list[list[Any]]
    own_settings: dict[str, str]  # those of ours that hold in the session that asks
    without_usage: list[str]  # owner of sessions, or role of the spec, that may not use the application's schema
    shadows: list[str]  # other schemas with relations of the same names
    members: list[list[str]]  # in our schemas, of extensions that live elsewhere: path, extension
    configured: bool  # session_replication_role is replica in the server's configuration
    # Schema or None, kind, whose objects, grantee, privilege, whether WITH GRANT OPTION, whether given or taken away,
    # whether they are a superuser's.
    default_grants: list[list[Any]]

    @property
    def major(self) -> int:
        return self.version_num // 10000


@dataclass(frozen=True)
class Snapshot:
    """The objects of a database at one moment.

    `roots` has the relation of each object, `details` facts of a relation that are not attributes.
    """

    schema: str
    objects: dict[ObjectRef, Attributes]
    roots: dict[ObjectRef, str]
    grantees: dict[ObjectRef, str]
    details: dict[ObjectRef, Attributes] = field(default_factory=dict)
    server: Server | None = None
    owners: list[str] = field(default_factory=list)  # the usual one

    @cached_property
    def parts(self) -> dict[str, list[ObjectRef]]:
        """The objects of each relation, itself included."""
        parts: dict[str, list[ObjectRef]] = {}
        for ref, root in self.roots.items():
            parts.setdefault(root, []).append(ref)
        return parts

    @property
    def owner(self) -> str:
        return self.owners[0] if self.owners else ""

    def to_json(self) -> str:
        parts = (self.objects, self.roots, self.grantees, self.details)
        return json.dumps([by_path(part) for part in parts], separators=(",", ":"))

    @classmethod
    def from_json(cls, text: str, schema: str) -> Snapshot:
        """Return the snapshot that a text holds. Raise ValueError for anything but a snapshot."""
        parts = json.loads(text)
        if not (isinstance(parts, list) and [type(part) for part in parts] == [dict] * 4 and parts[0]):
            raise ValueError("this is not a snapshot of a catalog")
        objects, roots, grantees, details = map(by_ref, parts)
        return cls(schema, objects, roots, grantees, details)


def by_path(objects: Mapping[ObjectRef, T]) -> dict[str, T]:
    return {ref.path: of for ref, of in objects.items()}


def by_ref(objects: Mapping[str, T]) -> dict[ObjectRef, T]:
    return dict(zip(ObjectRef.parse_all(objects), objects.values(), strict=True))


@contextmanager
def pinned(
    conn: Connection, schema: str, *, read_only: bool, snapshot: str = "", opened: bool = False
) -> Iterator[None]:
    """A transaction, or a savepoint in one that is open already, with printing pinned; rolled back in any case.

    `opened` leaves the path at pg_catalog: see `_answers`.

    In a transaction of its own it sees what the one sees that has exported `snapshot`.
    """
    idle = conn.info.transaction_status == TransactionStatus.IDLE
    try:
        with conn.transaction(force_rollback=True), conn.pipeline() as pipeline:
            try:
                if idle and not read_only and _is_read_only_by_default(conn):
                    conn.execute("SET TRANSACTION READ WRITE")
                if idle and read_only:
                    conn.execute("SET TRANSACTION ISOLATION LEVEL REPEATABLE READ READ ONLY")
                if snapshot:
                    conn.execute(sql.SQL("SET TRANSACTION SNAPSHOT {}").format(snapshot))
                conn.execute(
                    "SELECT pg_catalog.set_config(n, v, true) FROM ROWS FROM (pg_catalog.unnest(%s::text[]), pg_catalog.unnest(%s::text[])) AS s (n, v)",
                    (list(_PINNED), list(_PINNED.values())),
                )
                if opened:
                    _only_catalog(conn)
                else:
                    print_for(conn, schema)
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
    except (errors.CharacterNotInRepertoire, errors.UntranslatableCharacter) as error:
        raise ConnectError(
            f"A name or a comment in this database is not valid text in its encoding: {error.diag.message_primary}",
            "Find it with psql, as \\d and \\dd show it, and write it again; nothing can be compared until then.",
        ) from error


def _is_read_only_by_default(conn: Connection) -> bool:
    """Return True where the database or the role makes sessions read-only.

    A replica is not meant: it cannot write in any case.
    """
    status = conn.info.parameter_status
    return status("default_transaction_read_only") == "on" and status("in_hot_standby") != "on"


def print_for(conn: Connection, schema: str) -> None:
    """Set the path that the server prints for: the application's schema.

    A query that is parsed after this may find an operator planted there.
    """
    conn.execute(
        "SELECT pg_catalog.set_config('search_path', pg_catalog.quote_ident(%s) || ', pg_temp', true)", (schema,)
    )


def again_if_changed(conn: Connection, read: Callable[[], T]) -> T:
    """Return the result of `read`, repeated if the catalog changed meanwhile.

    Raise ConnectError if it will not hold still.
    """
    for last in (False, False, True):
        try:
            return read()
        except _CHANGED as error:
            if last or conn.info.transaction_status != TransactionStatus.IDLE:
                raise ConnectError(
                    f"the schema changed while it was read: {error.diag.message_primary or error}",
                    "Somebody is changing it right now: run this again when they are done.",
                ) from error
    raise AssertionError


def all_schemas(conn: Connection) -> list[str]:
    """Return the schemas of the database itself, without those of the system, of sessions and of extensions."""

    def read() -> list[str]:
        with pinned(conn, "pg_catalog", read_only=True):
            return [row[0] for row in conn.execute(_SCHEMAS).fetchall()]

    return again_if_changed(conn, read)


# What no statement makes or changes from the one on that locks the application's tables, unless an event trigger does: it
# can be read before.
_EARLY = ("server", "types", "others", "functions")


def read_early(conn: Connection, scope: Scope, schema: str) -> Answers:
    """The part of a snapshot that a migration can have read before it locks tables; nothing where an event trigger may change it."""
    with pinned(conn, schema, read_only=True, opened=True):
        row = conn.execute(
            f"SELECT EXISTS (SELECT FROM pg_event_trigger WHERE evtenabled <> 'D'), {PRESENT}"
        ).fetchone()
        parameters = _parameters(conn, scope, schema)
        return {} if row is None or row[0] else _answers(conn, _EARLY, parameters, _kinds(parameters, row[1]))


def snapshot(conn: Connection, scope: Scope, schema: str, early: Answers | None = None) -> Snapshot:
    """Read the live schema over two connections at once, if the server has another one. `early` is not read again."""
    parameters, known = _parameters(conn, scope, schema), early or {}

    def alone() -> Answers:
        with pinned(conn, schema, read_only=True, opened=True):
            present = conn.execute(f"SELECT {PRESENT}").fetchone()[0]  # type: ignore[index]
            left = [name for name in QUERIES if name not in known]
            return known | _answers(conn, left, parameters, _kinds(parameters, present))

    def together() -> Answers:
        with ThreadPoolExecutor(1) as pool:
            second = pool.submit(beside, conn)
            with pinned(conn, schema, read_only=True, opened=True):
                exported, present = conn.execute(f"SELECT pg_export_snapshot(), {PRESENT}").fetchone()  # type: ignore[misc]
                kinds = _kinds(parameters, present)
                aside = pool.submit(_aside, second, schema, exported, parameters, kinds)
                answers = _answers(conn, [name for name in QUERIES if name not in _ASIDE], parameters, kinds)
                return answers | (aside.result() or _answers(conn, _ASIDE, parameters, kinds))

    idle = conn.info.transaction_status == TransactionStatus.IDLE
    return _understood(again_if_changed(conn, together if idle else alone), schema, scope.declared)


def _parameters(conn: Connection, scope: Scope, schema: str) -> dict[str, Any]:
    return {
        "own": list(dict.fromkeys([*scope.own, *(all_schemas(conn) if scope.everywhere else ())])),
        "schema": schema,
        "names": list(scope.names),
        "slices": list(scope.slices),
        "cut": list(scope.cut),
        "extensions": list(scope.extensions),
        "roles": list(scope.roles),
        "reserved": list(RESERVED),
        "of_grammar": list(OF_GRAMMAR),
        "everywhere": scope.everywhere,
    }


def _kinds(parameters: dict[str, Any], present: list[str | None]) -> frozenset[str]:
    named = bool(parameters["names"])
    return kinds_to_ask_for(present, parameters["own"], everywhere=parameters["everywhere"], named=named)


def _aside(
    second: Future[Connection], schema: str, exported: str, parameters: dict[str, Any], kinds: frozenset[str]
) -> Answers | None:
    """Return the answers read on a second connection. None without one, and where it has led to another server."""
    try:
        conn = second.result()
    except psycopg.OperationalError:
        return None
    with conn:
        try:
            with pinned(conn, schema, read_only=True, snapshot=exported, opened=True):
                return _answers(conn, _ASIDE, parameters, kinds)
        except (errors.UndefinedObject, errors.InvalidParameterValue, errors.FeatureNotSupported):
            return None


def _answers(conn: Connection, names: Iterable[str], parameters: dict[str, Any], kinds: frozenset[str]) -> Answers:
    """Run some queries of the catalog and return their answers.

    Each query is parsed while pg_catalog alone is on the path, where nobody can plant a function or an operator that
    fits better than the server's. It runs when the path is the one to print for.
    """
    none: Answers = {name: [] for name in names if name in _KIND_OF and _KIND_OF[name] not in kinds}
    names = [name for name in names if name not in none]
    for name in names:
        conn.execute(f"DECLARE pgvigil_{name} NO SCROLL CURSOR FOR {for_kinds(QUERIES[name], kinds)}", parameters)
    print_for(conn, parameters["schema"])
    cursors = {name: conn.execute(f"FETCH ALL FROM pgvigil_{name}") for name in names}
    _only_catalog(conn)
    return none | {name: json.loads(cursor.fetchone()[0]) for name, cursor in cursors.items()}  # type: ignore[index]


def fetch(conn: Connection, schema: str, query: str, parameters: Sequence[Any] = ()) -> Any:
    """The first row of a query, which is understood and printed as those of `_answers` are."""
    _only_catalog(conn)
    conn.execute(f"DECLARE pgvigil_one NO SCROLL CURSOR FOR {query}".encode(), parameters)
    print_for(conn, schema)
    row = conn.execute("FETCH pgvigil_one").fetchone()
    conn.execute("CLOSE pgvigil_one")
    _only_catalog(conn)
    return row


def _only_catalog(conn: Connection) -> None:
    conn.execute("SET LOCAL search_path = pg_catalog, pg_temp")


def read_rows(
    conn: Connection, tables: dict[str, list[str]], schema: str
) -> tuple[dict[str, list[dict[str, Any]]], dict[str, str]]:
    """Return all rows of some small tables, spelt as in a spec, with these columns of each; and why others cannot be read. A superuser
    reads those of others with their rights.

    A column of a type that a user made is left out: turning it into JSON may call a function of that user.
    """

    queries = {
        name: sql.SQL(
            "SELECT coalesce(pg_catalog.json_agg(pg_catalog.json_build_object({})), '[]')::text FROM ONLY {} t"
        ).format(
            sql.SQL(", ").join(
                sql.SQL("{}, t.{}").format(sql.Literal(unquoted(column)), sql.SQL(column)) for column in columns
            ),
            sql.SQL(name if "." in name else f"{sql.Identifier(schema).as_string(conn)}.{name}"),
        )
        for name, columns in tables.items()
    }

    def read(names: Iterable[str]) -> dict[str, list[dict[str, Any]]]:
        with pinned(conn, schema, read_only=True):
            cursors = {name: conn.execute(queries[name]) for name in names}
            return {name: json.loads(cursor.fetchone()[0]) for name, cursor in cursors.items()}  # type: ignore[index]

    found: dict[str, list[dict[str, Any]]] = {}
    failed: dict[str, str] = {}
    for name, query in queries.items():
        if owner := other_owner(conn, name if "." in name else f"{sql.Identifier(schema).as_string(conn)}.{name}"):
            try:
                with conn.transaction():
                    [(rows,)] = owner.rows(conn, "rows text", query.as_string(conn))
                found[name] = json.loads(rows)
            except (PreconditionError, errors.InsufficientPrivilege) as error:
                failed[name] = (
                    error.message if isinstance(error, PreconditionError) else str(error.diag.message_primary)
                )
    if own := [name for name in tables if name not in found and name not in failed]:
        found |= again_if_changed(conn, lambda: read(own))
    return found, failed


def _understood(answers: Answers, schema: str, declared: frozenset[ObjectRef]) -> Snapshot:
    found = Snapshot(schema, {}, {}, {}, {}, Server(**answers["server"]))
    orders: dict[str, list[str]] = {}
    feeding = _feeding(answers["relations"])
    of_columns: dict[ObjectRef, ObjectRef] = {}
    for (label, _, attributes, details), ref in _with_refs(answers["relations"]):
        if (column := details.get("of_column")) and feeding[column] != label:
            attributes["of"] = column
        elif column:
            of_columns[ref] = ref = ObjectRef("column", column).owned_sequence
            details["name"] = label
            if (name := last_name(label)) != quoted(usual_sequence(column)):
                attributes["name"] = name
            label = schema_of(column)
        found.objects[ref], found.roots[ref], found.details[ref] = attributes, label, details
    # Dropped since the snapshot: the server prints from a newer catalog, where it has no bound.
    gone = {found.roots[ref] for ref, of in found.objects.items() if "partition_of" in of and "bound" not in of}
    for ref in [ref for ref, label in found.roots.items() if label in gone]:
        del found.objects[ref], found.roots[ref], found.details[ref]
    for name in ("columns", "constraints", "indexes", "triggers", "others", "grants") if gone else ():
        answers[name] = [row for row in answers[name] if row[0] not in gone]
    for (label, _, attributes), ref in _with_refs(answers["columns"]):
        orders.setdefault(label, []).append(ref.label[len(label) + 1 :])
        found.objects[ref], found.roots[ref] = attributes, label
    for (label, _, attributes, options), ref in _with_refs(answers["indexes"]):
        if options:
            attributes["definition"] = _without_options(attributes["definition"], options)
        found.objects[ref], found.roots[ref] = attributes, label
    for (label, _, attributes, enable), ref in _with_refs(answers["constraints"]):
        found.objects[ref], found.roots[ref] = attributes, label
        if enable:
            found.details[ref] = {"enable": enable}
    for name in ("triggers", "functions", "types", "others"):
        for (label, _, attributes), ref in _with_refs(answers[name]):
            found.objects[ref], found.roots[ref] = attributes, label
    # Few depend on an extension: one question for all kinds, instead of one more in the query of each.
    for ref in [ref for ref in found.objects if ref.kind == "dependent"]:
        if (of := ObjectRef.parse(ref.label)) in found.objects:
            found.objects[of] |= found.objects[ref]
        del found.objects[ref], found.roots[ref]
    for (label, _, attributes, role, _), ref in _with_refs(answers["grants"]):
        if ref.label.startswith("on sequence ") and (sequence := of_columns.get(ref.of or ref)):
            ref, label = ObjectRef.right(ref.kind, sequence, ref.grantee), sequence.relation
        found.objects[ref], found.roots[ref], found.grantees[ref] = attributes, label, role
    for label, order in orders.items():
        if (ref := table(label)) in found.objects or (ref := view(label)) in found.objects:
            found.objects[ref]["order"] = order
    _spell(found, declared)
    return found


def _with_refs(rows: list[Any]) -> Iterator[tuple[Any, ObjectRef]]:
    return zip(rows, ObjectRef.parse_all(row[1] for row in rows), strict=True)


def _spell(found: Snapshot, declared: frozenset[ObjectRef]) -> None:
    """Give one spelling to what the server spells in several ways.

    This concerns the usual owner, the application's schema in settings, and IN arguments.
    """
    spellings = (found.schema, '"' + found.schema.replace('"', '""') + '"')  # reserved words are in quotes too
    counted = [of for ref, of in found.objects.items() if ref in declared] or list(found.objects.values())
    # Since PostgreSQL 15 a database comes with schema public owned by this role: it says nothing of who makes objects here.
    owners = Counter(a["owned_by"] for a in counted if a.get("owned_by", "pg_database_owner") != "pg_database_owner")
    usual = min(owners, key=lambda name: (-owners[name], name), default=None)
    found.owners.extend([usual] if usual else [])
    for attributes in found.objects.values():
        if attributes.get("owned_by") == usual:
            attributes.pop("owned_by", None)
        for key in ("aggregate", "range", "base", "definition"):
            if isinstance(value := attributes.get(key), dict):
                attributes[key] = {name: str(text) for name, text in value.items()}
        if path := (attributes.get("set") or {}).get("search_path"):
            parts = re.findall(r'"(?:[^"]|"")*"|[^,\s]+', path)
            attributes["set"]["search_path"] = ", ".join("{schema}" if part in spellings else part for part in parts)


def _feeding(relations: list[Any]) -> dict[str, str]:
    """Return one sequence for each column: that of its identity or default, or else the one with the usual name."""
    owned: dict[str, list[tuple[bool, bool, str]]] = {}
    for label, _, _, details in relations:
        if column := details.get("of_column"):
            usual = last_name(label) == quoted(usual_sequence(column))
            owned.setdefault(column, []).append((not details.get("fills"), not usual, label))
    return {column: min(sequences)[2] for column, sequences in owned.items()}


def usual_sequence(column: str) -> str:
    """The name that the server gives the sequence of a column, unless that is too long."""
    return f"{unquoted(last_name(schema_of(column)))}_{unquoted(last_name(column))}_seq"


def _without_options(definition: str, options: list[str]) -> str:
    """A value is in quotes there where it is a key word or not a name."""
    pairs = (option.partition("=") for option in options)
    printed = ", ".join(f"{re.escape(name)}='?{re.escape(value)}'?" for name, _, value in pairs)
    return re.sub(rf" WITH \({printed}\)", "", definition, count=1)
