"""The pending migrations run first on a scratch copy: which tables would be locked against writers, for how long, by what."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import psycopg

from pgvigil import database
from pgvigil.database import Target
from pgvigil.observer import Observer

_LOOK_EVERY = 0.005  # seconds: the resolution of what is reported

# These make a writer wait; weaker ones do not.
_STOPS_WRITERS = ("ShareLock", "ShareRowExclusiveLock", "ExclusiveLock", "AccessExclusiveLock")

_TABLES = """
    SELECT c.oid, c.oid::regclass::text, pg_relation_filenode(c.oid) FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'f') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast', 'pgvigil')
"""


@dataclass(frozen=True)
class Lock:
    """The longest time a table of the application was locked in a mode that stops writers, in milliseconds, and the statement that
    brought the lock, with its file and line where it is one of a migration.
    """

    table: str
    mode: str
    held_ms: float
    statement: str


@dataclass(frozen=True)
class Rehearsal:
    """The expected effects of the real run. `rewritten` are tables that got new files."""

    locks: list[Lock]
    rewritten: list[str]
    seconds: float

    @property
    def longest_lock_ms(self) -> float:
        return max((lock.held_ms for lock in self.locks), default=0.0)


def rehearse(there: Target, work: Callable[[psycopg.Connection], list[dict[str, Any]]]) -> Rehearsal:
    """Run `work` on the scratch database and watch its locks on the tables that existed before.

    `work` returns its statements in the form of `trace.Trace`. They say which statement brought a lock: a look from
    outside comes too late for that, because the connection may run another statement by then.
    """
    clock = time.monotonic()
    with database.connect(there, "rehearsal") as conn:
        before = {oid: (name, file) for oid, name, file in conn.execute(_TABLES).fetchall()}
        with _LockTrace(database.connect(there, "rehearsal (watch)"), conn.info.backend_pid, list(before)) as watch:
            statements = work(conn)
        after = {oid: (name, file) for oid, name, file in conn.execute(_TABLES).fetchall()}
    if watch.error:
        raise watch.error
    rewritten = [name for oid, (name, file) in before.items() if oid in after and after[oid][1] != file]
    # As the statements call them: the search_path is that of the migrations now.
    names = {oid: name for oid, (name, _) in {**before, **after}.items() if oid in before}
    return Rehearsal(
        sorted(_locks(watch.longest, names, statements), key=lambda lock: -lock.held_ms),
        sorted(rewritten),
        round(time.monotonic() - clock, 2),
    )


def _locks(
    seen: dict[tuple[int, str], tuple[float, str]], names: dict[int, str], statements: list[dict[str, Any]]
) -> list[Lock]:
    """Return the locks that were seen from outside, and those that were too short for that."""
    brought: dict[tuple[str, str], tuple[float, str]] = {}
    for statement in statements:
        for lock in statement.get("locks", ()):
            key = lock["table"], lock["mode"]
            if lock["mode"] in _STOPS_WRITERS and lock["held_ms"] >= brought.get(key, (0.0, ""))[0]:
                brought[key] = lock["held_ms"], f"{statement['file']}:{statement['line']}: {statement['statement']}"
    # A step of a CALL commits before its locks can be asked for: it is known by its own words.
    places = {" ".join(s["statement"].split()): f"{s['file']}:{s['line']}: {s['statement']}" for s in statements}
    held = {
        (names[oid], mode): (seconds * 1000, places.get(query.strip(), query))
        for (oid, mode), (seconds, query) in seen.items()
    }
    found = {key: value for key, value in brought.items() if key[0] in names.values()} | held
    return [Lock(*key, round(ms, 1), brought.get(key, (ms, said))[1]) for key, (ms, said) in found.items()]


class _LockTrace(Observer):
    """An observer that looks at the locks of a backend, and keeps the longest unbroken time of each."""

    def __init__(self, conn: psycopg.Connection, pid: int, tables: list[int]) -> None:
        super().__init__(conn, "pgvigil lock trace")
        self.longest: dict[tuple[int, str], tuple[float, str]] = {}
        self.error: psycopg.Error | None = None
        self._pid = pid
        self._tables = tables

    def _look(self, conn: psycopg.Connection) -> None:
        try:
            self._look_until_stopped(conn)
        except psycopg.Error as error:  # what was not seen must not pass for what was not there
            self.error = error

    def _look_until_stopped(self, conn: psycopg.Connection) -> None:
        began: dict[tuple[int, str], tuple[float, str]] = {}
        while not self._stop.wait(_LOOK_EVERY):
            rows = conn.execute(
                """SELECT l.relation, l.mode, left(regexp_replace(a.query, '\\s+', ' ', 'g'), 80)
                   FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                   WHERE l.pid = %s AND l.granted AND l.mode = ANY (%s) AND l.relation = ANY (%s::oid[])
                     AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())""",
                (self._pid, list(_STOPS_WRITERS), self._tables),
            ).fetchall()
            now = time.monotonic()
            began = {(oid, mode): began.get((oid, mode), (now - _LOOK_EVERY, query)) for oid, mode, query in rows}
            for key, (since, statement) in began.items():
                held = now - since
                if held > self.longest.get(key, (0.0, ""))[0]:
                    self.longest[key] = (held, statement)
