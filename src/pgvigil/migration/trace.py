"""The effects of a run's statements, for its report: how long each took, and which locks it brought."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import asdict, dataclass, field
from typing import Any, LiteralString

import psycopg
from psycopg.pq import TransactionStatus

from pgvigil.locks import Blocker
from pgvigil.migration.concurrent_indexes import WaitPolicy
from pgvigil.migration.sql_lexer import Statement

_TABLES: LiteralString = """
    SELECT c.oid::bigint, c.oid::regclass::text FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"""
_SHOWN = 80  # characters of a statement
_OWN_LOCKS: LiteralString = """
    SELECT l.relation::bigint, l.mode FROM pg_locks l
    WHERE l.pid = pg_backend_pid() AND l.locktype = 'relation' AND l.relation = ANY (%s::oid[])
      AND l.mode IN ('ShareUpdateExclusiveLock', 'ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')"""

# Looking costs a round trip while locks are held, so it is left out after what can lock no table that was there before, and no new one.
_LOCKS_NOTHING = re.compile(r"COMMENT|GRANT|REVOKE|INSERT|CREATE (OR REPLACE )?(FUNCTION|PROCEDURE|VIEW|SCHEMA|ROLE)\b")
_WORD = re.compile(r"\w+")
_OF_ALL = ("AccessExclusiveLock",)
_OF_TRIGGERS = ("ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")  # CREATE TRIGGER asks for the first


@dataclass
class Trace:
    """The reports to a caller of apply_group(), and how long to wait for other builds of an index.

    `statements` are those that ran: {file, line, statement, ms, locks: [{table, mode, held_ms}], blockers} each; blockers are what `met`
    returns after it, whom it waited for. `at` is the one at work.
    Locks are those that make others wait, on tables that were there before; outside a transaction none are reported, because
    they are gone when the statement is done.
    """

    policy: WaitPolicy = field(default_factory=WaitPolicy)
    met: Callable[[], list[Blocker]] = list
    statements: list[dict[str, Any]] = field(default_factory=list)
    at: tuple[str, int] = ("", 0)
    tables: dict[int, str] = field(default_factory=dict)
    _named: dict[str, list[int]] = field(default_factory=dict)
    _held: dict[tuple[int, str], tuple[dict[str, Any], float]] = field(default_factory=dict)

    @property
    def place(self) -> str:
        """The place `at`, for people."""
        file, line = self.at
        return f"{file}:{line}" if line else file

    def begin(self, conn: psycopg.Connection) -> None:
        """Record the tables that exist."""
        self.statements.clear()
        self._held.clear()
        self.tables = dict(conn.execute(_TABLES).fetchall())
        self._named = {}
        for oid, name in self.tables.items():
            self._named.setdefault(name.rpartition(".")[2].strip('"'), []).append(oid)

    @contextmanager
    def statement(self, conn: psycopg.Connection, file: str, statement: Statement) -> Iterator[None]:
        """Measure a statement, and look at the locks that came with it where it may have taken any."""
        self.at = (file, statement.line)
        began = time.monotonic()
        yield
        entry: dict[str, Any] = {
            "file": file,
            "line": statement.line,
            "statement": " ".join(statement.text.split())[:_SHOWN],
            "ms": round((time.monotonic() - began) * 1000, 1),
        }
        entry["blockers"] = [asdict(blocker) for blocker in self.met()]
        self.statements.append(entry)
        if (
            self.tables
            and conn.info.transaction_status == TransactionStatus.INTRANS
            and not _LOCKS_NOTHING.match(statement.text)
            and not self._has_all(statement)
        ):
            for oid, mode in conn.execute(_OWN_LOCKS, (list(self.tables),)).fetchall():
                if (oid, mode) not in self._held:
                    lock = {"table": self.tables[oid], "mode": mode, "held_ms": 0.0}
                    entry.setdefault("locks", []).append(lock)
                    self._held[oid, mode] = lock, began

    def _has_all(self, statement: Statement) -> bool:
        """Return true if all the tables that a statement names are locked already, against everybody or as much as it can ask for. One that
        names none may lock any.
        """
        names = set(_WORD.findall(statement.text)) & self._named.keys()
        enough = _OF_TRIGGERS if statement.starts_with("CREATE", "TRIGGER") else _OF_ALL
        return (
            bool(names)
            and not statement.starts_with("DO")
            and all(any((oid, mode) in self._held for mode in enough) for name in names for oid in self._named[name])
        )

    def end(self) -> None:
        """The transaction is over: says how long each lock was held, at the longest."""
        for lock, since in self._held.values():
            lock["held_ms"] = round((time.monotonic() - since) * 1000, 1)


# Alembic is between apply_group() and the statements, and passes nothing on.
current_trace: ContextVar[Trace] = ContextVar("trace")
