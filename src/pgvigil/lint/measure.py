"""Run statements on a scratch database and measure each: the locks it takes, the tables it rewrites, those it reads in
full.

No rows are needed: a table that is rewritten gets a new file, and a scan that is begun is counted, also when the table
is empty.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import LiteralString

import psycopg
from psycopg import sql

from pgvigil.lint.sources import Source
from pgvigil.migration import sql_lexer
from pgvigil.migration.sql_lexer import Statement

BLOCKS_WRITERS = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")  # the weakest first
_ALL_MODES = ("AccessShareLock", "RowShareLock", "RowExclusiveLock", "ShareUpdateExclusiveLock", *BLOCKS_WRITERS)

_RELATIONS: LiteralString = """
    SELECT c.oid::bigint, c.oid::regclass::text, pg_relation_filenode(c.oid)::bigint, c.relkind::text, coalesce(i.indrelid, 0)::bigint
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace LEFT JOIN pg_index i ON i.indexrelid = c.oid
    WHERE c.relkind IN ('r', 'p', 'm', 'i', 'I') AND n.nspname NOT IN ('pg_catalog', 'information_schema') AND n.nspname !~ '^pg_(toast|temp)'"""
_COUNTERS: LiteralString = """
    SELECT relid::bigint, coalesce(seq_scan, 0)::bigint, coalesce(idx_scan, 0)::bigint
    FROM pg_stat_xact_all_tables WHERE relid = ANY (%s::oid[])"""
_LOCKS: LiteralString = """
    SELECT l.relation::bigint, l.mode FROM pg_locks l
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.granted AND l.relation = ANY (%s::oid[])"""
_CHANGES = ("UPDATE", "DELETE", "MERGE", "INSERT", "WITH")
_TIME_ZONE_TYPES = re.compile(r"\btimestamp|\btimetz|\bwith(?:out)?\s+time\s+zone", re.I)


@dataclass
class Measured:
    """A statement with its measures. All tables are ones that existed before its file.

    `locks` are those that came with it; `held` those that stop writers while it runs, each with the line that took it;
    `reads` the tables it scans, `changes` those whose rows it may change; `elsewhere` the tables it rewrites under
    another time zone only.
    """

    source: Source
    number: int
    locks: dict[str, str] = field(default_factory=dict)
    held: dict[str, tuple[str, int]] = field(default_factory=dict)
    rewrites: list[str] = field(default_factory=list)
    reads: list[str] = field(default_factory=list)
    changes: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    error: str = ""
    outside: bool = False  # it refuses to run in a transaction

    @property
    def statement(self) -> Statement:
        return self.source.statements[self.number]

    @property
    def changes_rows(self) -> bool:
        return self.statement.tokens[0].text.upper() in _CHANGES


@dataclass(frozen=True)
class _Relation:
    name: str
    file: int | None
    kind: str
    table: int  # an index's


class Bench:
    """A connection to the scratch database on which files are run one after the other."""

    def __init__(self, conn: psycopg.Connection, zone: str, search_path: Sequence[str] = ()) -> None:
        self._conn = conn
        self._zone = zone
        self._path = sql.SQL(", ").join(map(sql.Identifier, search_path)) if search_path else None
        for schema in search_path:
            conn.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        self._known: dict[int, _Relation] = {}
        self._held: dict[int, tuple[str, int]] = {}
        self._in_transaction = False

    def build(self, source: Source) -> list[str]:
        """Run an earlier file without measuring it. Return the statements that could not be run."""
        return [f"{source.path}:{m.statement.line}: {m.error}" for m in self.run(source) if m.error and not m.outside]

    def run(self, source: Source) -> Iterator[Measured]:
        """Run a file and yield each of its statements, measured."""
        self._begin_file()
        if source.transactional:
            self._begin()
        for number in range(len(source.statements)):
            measured = Measured(source, number)
            self._one(measured)
            yield measured
        self._end()

    def _begin_file(self) -> None:
        """Begin a session for a file, as its tool would open it, and note the relations that exist before it."""
        self._conn.execute("DISCARD ALL")
        self._conn.execute(sql.SQL("SET TimeZone = {}").format(self._zone))
        if self._path is not None:
            self._conn.execute(sql.SQL("SET search_path = {}").format(self._path))
        self._known = self._relations()

    def _begin(self) -> None:
        self._conn.execute("BEGIN")
        self._in_transaction = True
        self._held = {}

    def _end(self) -> None:
        if self._in_transaction:
            try:
                self._conn.execute("COMMIT")
            except psycopg.Error:  # a deferred constraint: the rows are ours alone
                self._conn.execute("ROLLBACK")
        self._in_transaction = False
        self._held = {}

    def _one(self, measured: Measured) -> None:
        first = measured.statement.tokens[0].text.upper()
        if measured.source.own_control and first in ("BEGIN", "START"):
            self._end()
            self._begin()
        elif measured.source.own_control and first in ("COMMIT", "END", "ROLLBACK", "ABORT"):
            self._end()
        elif _is_outside(measured.statement):
            self._outside(measured)
        elif self._in_transaction:
            self._in(measured)
        else:
            self._begin()
            self._in(measured)
            self._end()

    def _outside(self, measured: Measured) -> None:
        """Run a statement that PostgreSQL refuses in a transaction.

        In one, its plain form runs in its place, for the statements that follow.
        """
        measured.outside = True
        statement = measured.statement
        if self._in_transaction:
            measured.error = f"{_name(statement)} cannot run in a transaction, and this file runs in one"
            stand_in = Measured(measured.source, measured.number)
            self._in(stand_in, sql_lexer.without_concurrently(statement.text))
            return
        before = self._relations()
        try:
            self._with_roles(statement.text)
        except psycopg.Error as error:
            measured.error, measured.outside = _words(error), False
            return
        self._add_rewrites(measured, before)
        for name in measured.rewrites:
            if "CONCURRENTLY" not in _upper(statement):
                measured.locks[name] = "AccessExclusiveLock"
                measured.held[name] = "AccessExclusiveLock", statement.line
        if "CONCURRENTLY" in _upper(statement):
            measured.rewrites = []  # built beside the old one, under a lock that lets everybody read and write

    def _in(self, measured: Measured, text: str | None = None) -> None:
        statement = measured.statement
        # Of an empty table the planner would read all of it even where an index fits.
        self._conn.execute(f"SET LOCAL enable_seqscan = {'off' if measured.changes_rows else 'on'}")
        before, counted, had = self._relations(), self._counters(), set(self._locks())
        self._conn.execute("SAVEPOINT pgvigil")
        try:
            self._with_roles(text or statement.text)
        except psycopg.Error as error:
            self._conn.execute("ROLLBACK TO pgvigil")
            measured.error = _words(error)
            return
        for oid, mode in self._locks():
            name = self._known[oid].name
            if mode == "RowExclusiveLock" and measured.changes_rows:
                measured.changes.append(name)
            if (oid, mode) not in had and _stronger(mode, measured.locks.get(name)):
                measured.locks[name] = mode
            if mode in BLOCKS_WRITERS and _stronger(mode, self._held.get(oid, ("", 0))[0] or None):
                self._held[oid] = mode, statement.line
        measured.held = {self._known[oid].name: lock for oid, lock in self._held.items()}
        self._add_rewrites(measured, before)
        for oid, (sequential, by_index) in self._counters().items():
            then = counted.get(oid, (0, 0))
            scanned = sequential > then[0] or (by_index > then[1] and not measured.changes_rows)
            if scanned and self._known[oid].kind != "p" and not statement.starts_with("TRUNCATE"):
                measured.reads.append(self._known[oid].name)
        if text is None and _TIME_ZONE_TYPES.search(statement.text) and not measured.rewrites:
            self._try_elsewhere(measured, before)

    def _try_elsewhere(self, measured: Measured, before: dict[int, _Relation]) -> None:
        """A cast between the types with and without a time zone keeps the rows in UTC, and rewrites them anywhere else."""
        other = "Asia/Kathmandu" if self._zone.upper() in ("UTC", "GMT", "ETC/UTC", "ZULU") else "UTC"
        again = Measured(measured.source, measured.number)
        self._conn.execute("ROLLBACK TO pgvigil")
        self._conn.execute(sql.SQL("SET LOCAL TimeZone = {}").format(other))
        self._conn.execute("SAVEPOINT pgvigil_elsewhere")
        try:
            self._conn.execute(measured.statement.text.encode())
            self._add_rewrites(again, before)
        except psycopg.Error:
            pass  # measured.error has said it, or will
        self._conn.execute("ROLLBACK TO pgvigil")
        self._conn.execute(measured.statement.text.encode())
        measured.elsewhere = again.rewrites

    def _with_roles(self, text: str) -> None:
        """Run a statement, and create the roles that it grants rights to where they are missing.

        No other server has these roles.
        """
        for _ in range(20):
            try:
                if self._in_transaction:
                    self._conn.execute("SAVEPOINT pgvigil_roles")
                self._conn.execute(text.encode())
            except psycopg.errors.UndefinedObject as error:
                role = re.fullmatch(r'role "(.*)" does not exist', error.diag.message_primary or "")
                if not role:
                    raise
                if self._in_transaction:
                    self._conn.execute("ROLLBACK TO pgvigil_roles")
                self._conn.execute(sql.SQL("CREATE ROLE {}").format(sql.Identifier(role[1])))
            else:
                return

    def _add_rewrites(self, measured: Measured, before: dict[int, _Relation]) -> None:
        if measured.statement.starts_with("TRUNCATE"):
            return  # its new file is empty
        for oid, now in self._relations().items():
            then = before.get(oid)
            if oid not in self._known or not then or then.file is None or now.file == then.file:
                continue
            table = self._known.get(now.table) if now.table else now
            if table and table.name not in measured.rewrites:
                measured.rewrites.append(table.name)

    def _locks(self) -> list[tuple[int, str]]:
        """The locks that this session has on tables that were there before the file."""
        tables = [oid for oid, relation in self._known.items() if relation.kind not in ("i", "I")]
        return [(oid, mode) for oid, mode in self._conn.execute(_LOCKS, (tables,)).fetchall()]

    def _relations(self) -> dict[int, _Relation]:
        return {oid: _Relation(*rest) for oid, *rest in self._conn.execute(_RELATIONS).fetchall()}

    def _counters(self) -> dict[int, tuple[int, int]]:
        tables = [oid for oid, relation in self._known.items() if relation.kind not in ("i", "I")]
        return {oid: (a, b) for oid, a, b in self._conn.execute(_COUNTERS, (tables,)).fetchall()}


def _is_outside(statement: Statement) -> bool:
    words = _upper(statement)
    if words[0] in ("CREATE", "DROP", "REINDEX", "ALTER") and "CONCURRENTLY" in words:
        return words[0] != "ALTER" or words[1] == "TABLE"
    if words[:2] in (
        ["ALTER", "SYSTEM"],
        ["CREATE", "DATABASE"],
        ["DROP", "DATABASE"],
        ["CREATE", "TABLESPACE"],
        ["DROP", "TABLESPACE"],
    ):
        return True
    return words[0] == "VACUUM" or words == ["CLUSTER"] or words[:2] in (["REINDEX", "DATABASE"], ["REINDEX", "SYSTEM"])


def _upper(statement: Statement) -> list[str]:
    return [t.text.upper() for t in statement.tokens]


def _name(statement: Statement) -> str:
    words = _upper(statement)
    until = words.index("CONCURRENTLY") + 1 if "CONCURRENTLY" in words else 2
    return " ".join(words[:until])


def _stronger(mode: str, than: str | None) -> bool:
    return mode in _ALL_MODES and (than is None or _ALL_MODES.index(mode) > _ALL_MODES.index(than))


def _words(error: psycopg.Error) -> str:
    return error.diag.message_primary or " ".join(str(error).split())
