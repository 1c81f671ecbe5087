"""Build indexes while the application writes, and clean up after builds that did not finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from weakref import WeakKeyDictionary

import psycopg

from pgvigil import locks
from pgvigil.errors import LockedError
from pgvigil.migration.files import Migration
from pgvigil.migration.sql_lexer import Statement
from pgvigil.placeholders import bound

_POLL = 0.2  # seconds between looks at a build that somebody else is at
_DISCARD_TRIES = 5


@dataclass(frozen=True)
class WaitPolicy:
    """The seconds to wait for a build of another session, and the log for it."""

    seconds: float = float("inf")
    log: Callable[[str], None] = lambda _: None


def quoted(name: str) -> str:
    """A name as the server prints it in `schema.index`, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


@dataclass(frozen=True)
class Build:
    """A CREATE INDEX CONCURRENTLY, taken apart. `name` is None where the server is to choose one; `table` is written as the statement
    names it; `table_at` and `concurrently` say where its tokens are.
    """

    statement: Statement
    name: str | None
    table: str
    table_at: slice
    concurrently: int
    if_not_exists: bool

    @classmethod
    def of(cls, statement: Statement) -> Build | None:
        words = [t.text.upper() for t in statement.tokens]
        if words[:1] != ["CREATE"] or words[1:2] not in (["INDEX"], ["UNIQUE"]) or "CONCURRENTLY" not in words[2:4]:
            return None
        concurrently = words.index("CONCURRENTLY")
        at = concurrently + 1
        if_not_exists = words[at : at + 3] == ["IF", "NOT", "EXISTS"]
        at += 3 * if_not_exists
        name = None if words[at] == "ON" else statement.tokens[at].text
        first = at + (1 if name is None else 2)
        first += words[first] == "ONLY"
        last = first
        while words[last + 1 : last + 2] == ["."]:
            last += 2
        table = "".join(t.text for t in statement.tokens[first : last + 1])
        return cls(statement, name, table, slice(first, last + 1), concurrently, if_not_exists)

    def script(self, table: str) -> str:
        """Return the statement on another table, without CONCURRENTLY."""
        text, tokens = self.statement.text, self.statement.tokens
        first, last = tokens[self.table_at][0], tokens[self.table_at][-1]
        origin = tokens[0].start
        text = text[: first.start - origin] + table + text[last.start - origin + len(last.text) :]
        word = tokens[self.concurrently]
        return text[: word.start - origin] + text[word.start - origin + len(word.text) :]


def index_names(conn: psycopg.Connection, statement: Statement, schema: str) -> list[str]:
    """Return the index that a statement builds concurrently, with the schema of its table, which is where the server puts it.

    Where the statement leaves the name to the server, these are the indexes of the table that are defined like it.
    `schema` replaces the placeholder.
    """
    build = Build.of(statement)
    if build is None:
        return []
    table = bound(build.table, schema)
    row = conn.execute(
        "SELECT n.nspname FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = to_regclass(%s)",
        (table,),
    ).fetchone()
    if row is None:
        return []  # the server says that there is no such table
    if build.name is not None:
        return [f"{quoted(row[0])}.{build.name}"]
    expected = _expected_shape(conn, build, table)
    rows = conn.execute(
        """SELECT format('%%I.%%I', n.nspname, c.relname), pg_get_indexdef(i.indexrelid)
           FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
           WHERE i.indrelid = to_regclass(%s) ORDER BY 1""",
        (table,),
    ).fetchall()
    return [name for name, definition in rows if _shape(definition) == expected]


def prepare(
    conn: psycopg.Connection,
    schema: str,
    statement: Statement,
    policy: WaitPolicy,
    displace: Callable[[Build, str, str], bool],
) -> bool:
    """Return true if the index has to be built: False when a valid one with this very definition is there already.

    `displace` is called with the name and the definition of another one under its name; it says whether to build.
    """
    build = Build.of(statement)
    names = index_names(conn, statement, schema)
    for name in names:
        drop_if_invalid(conn, name, policy)
    if build is None:
        return True
    for name in names:
        found = conn.execute(
            "SELECT pg_get_indexdef(indexrelid), indrelid::regclass::text FROM pg_index WHERE indexrelid = to_regclass(%s)",
            (name,),
        ).fetchone()
        if found is None:
            continue
        definition, table = found
        expected = _expected_shape(conn, build, table)
        return expected is None or (_shape(definition) != expected and displace(build, name, definition))
    return True


def waits_for_transactions(statement: Statement) -> bool:
    """Return true if a statement stops no writer, but waits for the transactions of others to end: see patient()."""
    words = [t.text.upper() for t in statement.tokens]
    concurrently = "CONCURRENTLY" in words and words[0] in ("CREATE", "DROP", "REINDEX")
    return concurrently or "VALIDATE" in words or (words[0] == "ALTER" and words[-1] == "CONCURRENTLY")


def drop_if_invalid(conn: psycopg.Connection, name: str, policy: WaitPolicy) -> None:
    """Drop the index that an interrupted build left. Raise LockedError as stays_invalid() does."""
    if stays_invalid(conn, name, policy):
        conn.execute(f"DROP INDEX CONCURRENTLY {name}".encode())


def stays_invalid(conn: psycopg.Connection, name: str, policy: WaitPolicy) -> bool:
    """Return true if an index is there, INVALID, and nobody is building it.

    A build that still runs, in the backend of a client that is gone perhaps, is waited for, because it may yet come out
    valid.

    Raise LockedError, naming the builder, when that takes too long.
    """
    deadline = time.monotonic() + policy.seconds
    reported = 0
    while (state := _state(conn, name)) and not state.valid and state.builder:
        builder = f"pid {state.builder} ({state.application})"
        if reported != state.builder:
            policy.log(f"  index {name} is still being built by {builder}: waiting for it")
            reported = state.builder
        if time.monotonic() >= deadline:
            raise LockedError(
                f"index {name} is still being built by {builder} after {policy.seconds:.0f} s",
                f"Wait for it, or end it (SELECT pg_terminate_backend({state.builder})), then run this again.",
            )
        time.sleep(_POLL)
    return state is not None and not state.valid


def discard(conn: psycopg.Connection, name: str) -> bool:
    """Drop an INVALID index at once or not at all.

    This is for the end of an interrupted build, which may not wait any longer.
    """
    for _ in range(_DISCARD_TRIES):
        state = _state(conn, name)
        if state is None or state.valid:
            return True
        try:
            conn.execute(f"DROP INDEX {name}".encode())
        except psycopg.errors.LockNotAvailable:
            time.sleep(_POLL)
    return False


# The seconds that connections wait in `patient`, where nobody watches them.
_BOUNDS: WeakKeyDictionary[psycopg.Connection, float] = WeakKeyDictionary()


def bound_waits(conn: psycopg.Connection, seconds: float | None) -> None:
    """Limit each wait for a lock in `patient`; None if a watch does that, over all waits of a statement."""
    if seconds is None:
        _BOUNDS.pop(conn, None)
    else:
        _BOUNDS[conn] = max(seconds, 1.0)  # 0 would be no limit


@contextmanager
def without_lock_timeout(conn: psycopg.Connection) -> Iterator[None]:
    """Run the block without a lock_timeout.

    Concurrent builds and validation stop no writer, but wait for other transactions to end. A lock_timeout would count
    that wait and leave an INVALID index. Everything else keeps the short one.
    """
    conn.execute(f"SET lock_timeout = '{_BOUNDS.get(conn, 0):.0f}s'".encode())
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(f"SET lock_timeout = '{locks.LOCK_TIMEOUT_MS}ms'")


def rebuild(conn: psycopg.Connection, name: str, log: Callable[[str], None]) -> None:
    """Build an index again beside itself, then swap the two. Its comment, for example, is kept.

    Where that fails, the new index is dropped, and this is logged.
    """
    try:
        with without_lock_timeout(conn):
            conn.execute(f"REINDEX INDEX CONCURRENTLY {name}".encode())
    except (psycopg.Error, KeyboardInterrupt):
        if not conn.closed:
            table = conn.execute(
                "SELECT indrelid::regclass::text FROM pg_index WHERE indexrelid = to_regclass(%s)", (name,)
            )
            for left in leftover_indexes(conn, [], [row[0] for row in table]):
                log(
                    f"dropped {left}, unfinished"
                    if discard(conn, left)
                    else f"{left}, unfinished, could not be dropped"
                )
        raise


def unfinished(conn: psycopg.Connection, migrations: Collection[Migration], schema: str) -> list[str]:
    """The indexes of migrations that are in and that are INVALID."""
    if not conn.execute("SELECT FROM pg_index WHERE NOT indisvalid LIMIT 1").rowcount:
        return []
    statements = [s for migration in migrations if not migration.transactional for s in migration.statements]
    names = [name for statement in statements for name in index_names(conn, statement, schema)]
    return [name for name in names if (state := _state(conn, name)) and not state.valid]


def leftover_indexes(conn: psycopg.Connection, names: Collection[str], tables: Collection[str]) -> list[str]:
    """Return the INVALID indexes that an unfinished REINDEX CONCURRENTLY left beside the named indexes, or on the tables and their
    partitions. On the application's tables everything else is the application's business.
    """
    rows = conn.execute(
        r"""SELECT format('%%I.%%I', n.nspname, c.relname)
            FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_inherits h ON h.inhrelid = i.indrelid
            WHERE NOT i.indisvalid AND c.relname ~ '_cc(new|old)\d*$'
              AND (i.indrelid IN (SELECT indrelid FROM pg_index WHERE indexrelid = to_regclass(format('%%I.%%I', n.nspname, regexp_replace(c.relname, '_cc(new|old)\d*$', ''))))
                   AND regexp_replace(c.relname, '_cc(new|old)\d*$', '') = ANY (%(names)s)
                   OR ARRAY[h.inhparent, i.indrelid] && ARRAY(SELECT to_regclass(t)::oid FROM unnest(%(tables)s::text[]) t))
            ORDER BY 1""",
        {"names": list(names), "tables": list(tables)},
    ).fetchall()
    return [row[0] for row in rows]


@dataclass(frozen=True)
class _State:
    """The state of an index. `builder` is the pid of another session that builds it, 0 for none."""

    valid: bool
    builder: int
    application: str


def _state(conn: psycopg.Connection, name: str) -> _State | None:
    # Only a role that may see all activity sees which index a build is at. The lock of a build is seen by everybody.
    row = conn.execute(
        """SELECT i.indisvalid, coalesce(b.pid, 0), coalesce(nullif(b.application_name, ''), 'no application name')
           FROM pg_index i LEFT JOIN LATERAL
                (SELECT l.pid, a.application_name FROM pg_locks l JOIN pg_stat_activity a USING (pid)
                 LEFT JOIN pg_stat_progress_create_index p ON p.pid = l.pid
                 WHERE l.relation = i.indrelid AND l.mode = 'ShareUpdateExclusiveLock' AND l.granted AND l.pid <> pg_backend_pid()
                   AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database())
                   AND coalesce(a.backend_type, 'client backend') = 'client backend'
                   AND coalesce(p.index_relid, i.indexrelid) = i.indexrelid LIMIT 1) b ON true
           WHERE i.indexrelid = to_regclass(%s)""",
        (name,),
    ).fetchone()
    return _State(*row) if row else None


def _expected_shape(conn: psycopg.Connection, build: Build, table: str) -> tuple[bool, str] | None:
    """The definition as this server prints it, from building the index on an empty copy of the table; None where that cannot be built."""
    try:
        with conn.transaction(force_rollback=True):
            conn.execute(
                f"CREATE TEMP TABLE pgvigil_copy (LIKE {table})".encode()
            )  # no defaults, no CHECKs: nothing of theirs runs
            conn.execute(build.script("pg_temp.pgvigil_copy").encode())
            row = conn.execute(
                "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'pg_temp.pgvigil_copy'::regclass"
            ).fetchone()
    except psycopg.errors.ProgrammingError:  # the statement itself will say what is wrong, with its line
        return None
    return _shape(str(row[0])) if row else None


def _shape(definition: str) -> tuple[bool, str]:
    """Return an index definition without its name and its table."""
    return definition.startswith("CREATE UNIQUE"), definition.partition(" USING ")[2]
