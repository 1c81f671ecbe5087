"""Indexes built while the application writes, and what builds leave behind that did not finish."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgvigil import locks
from pgvigil.errors import LockedError
from pgvigil.migration.files import Migration
from pgvigil.migration.sql_lexer import Statement
from pgvigil.owner import owner_of

_POLL = 0.2  # seconds between looks at a build that somebody else is at
_DISCARD_TRIES = 5


@dataclass(frozen=True)
class WaitPolicy:
    """How long, in seconds, to wait for a build that is another's; and who is told of it."""

    seconds: float = float("inf")
    log: Callable[[str], None] = lambda _: None


def quoted(name: str) -> str:
    """A name as the server prints it in `schema.index`, always in quotes."""
    return '"' + name.replace('"', '""') + '"'


def index_name(statement: Statement, schema: str) -> str | None:
    """The name of the index that a statement builds concurrently on a table of the application's, with its schema."""
    words = [t.text.upper() for t in statement.tokens]
    if words[:1] == ["CREATE"] and words[1:3] != ["OR", "REPLACE"] and "CONCURRENTLY" in words[2:4]:
        return f"{quoted(schema)}.{statement.tokens[words.index('CONCURRENTLY') + 1].text}"
    return None


def prepare_name(
    conn: psycopg.Connection, revision: str, schema: str, statement: Statement, name: str, patience: WaitPolicy
) -> bool:
    """Whether the index has to be built: False when a valid one with this very definition is there already.

    One with another definition is remembered in pgvigil.displaced_objects and dropped.
    """
    drop_if_invalid(conn, name, patience)
    found = conn.execute(
        "SELECT pg_get_indexdef(indexrelid), indrelid::regclass::text FROM pg_index WHERE indexrelid = to_regclass(%s)",
        (name,),
    ).fetchone()
    if found is None:
        return True
    definition, table = found
    if _shape(definition) == _shape(_wanted_definition(conn, statement, table)):
        return False
    values = ", ".join(sql.quote(value) for value in (revision, f"index {name}", definition))
    owner_of(conn, schema).execute(
        conn, f"INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql) VALUES ({values})"
    )
    conn.execute(f"DROP INDEX CONCURRENTLY {name}".encode())
    return True


def drop_if_invalid(conn: psycopg.Connection, name: str, patience: WaitPolicy) -> None:
    """Drops what an interrupted build left. Raises LockedError as stays_invalid() does."""
    if stays_invalid(conn, name, patience):
        conn.execute(f"DROP INDEX CONCURRENTLY {name}".encode())


def stays_invalid(conn: psycopg.Connection, name: str, patience: WaitPolicy) -> bool:
    """Whether an index is there, INVALID, and nobody is building it. A build that still runs, in the backend of a client
    that is gone perhaps, is waited for, because it may yet come out valid.

    Raises LockedError, naming the builder, when that takes too long.
    """
    deadline = time.monotonic() + patience.seconds
    told = 0
    while (state := _state(conn, name)) and not state.valid and state.builder:
        builder = f"pid {state.builder} ({state.application})"
        if told != state.builder:
            patience.log(f"  index {name} is still being built by {builder}: waiting for it")
            told = state.builder
        if time.monotonic() >= deadline:
            raise LockedError(
                f"index {name} is still being built by {builder} after {patience.seconds:.0f} s",
                f"Wait for it, or end it (SELECT pg_terminate_backend({state.builder})), then run this again.",
            )
        time.sleep(_POLL)
    return state is not None and not state.valid


def discard(conn: psycopg.Connection, name: str) -> bool:
    """Drops an INVALID index in an instant or not at all: for when its build was given up, and waiting is over."""
    for _ in range(_DISCARD_TRIES):
        state = _state(conn, name)
        if state is None or state.valid:
            return True
        try:
            conn.execute(f"DROP INDEX {name}".encode())
        except psycopg.errors.LockNotAvailable:
            time.sleep(_POLL)
    return False


@contextmanager
def patient(conn: psycopg.Connection) -> Iterator[None]:
    """Building concurrently and validating stop no writer, but wait for other transactions to end: a lock_timeout would
    count that waiting and leave an INVALID index. Everything else keeps the short one.
    """
    conn.execute("SET lock_timeout = 0")
    try:
        yield
    finally:
        if not conn.closed:
            conn.execute(f"SET lock_timeout = '{locks.LOCK_TIMEOUT_MS}ms'")


def rebuild(conn: psycopg.Connection, name: str, log: Callable[[str], None]) -> None:
    """Builds an index anew beside itself, then swaps the two; what stands by its name, such as a comment, stays.

    When that fails, what it has built is dropped, and told.
    """
    try:
        with patient(conn):
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
    statements = [s for migration in migrations if not migration.transactional for s in migration.statements]
    names = [name for statement in statements if (name := index_name(statement, schema))]
    return [name for name in names if (state := _state(conn, name)) and not state.valid]


def leftover_indexes(conn: psycopg.Connection, names: Collection[str], tables: Collection[str]) -> list[str]:
    """What a REINDEX CONCURRENTLY that did not finish left INVALID beside the named indexes, or on the tables and their
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
    """`builder` is the pid of another session that builds it, 0 for none."""

    valid: bool
    builder: int
    application: str


def _state(conn: psycopg.Connection, name: str) -> _State | None:
    # Only a role that may see all activity is told which index a build is at. The lock of a build is seen by everybody.
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


def _wanted_definition(conn: psycopg.Connection, statement: Statement, table: str) -> str:
    """The definition as this server prints it, from building the index on an empty copy of the table."""
    with conn.transaction(force_rollback=True):
        conn.execute(
            f"CREATE TEMP TABLE pgvigil_copy (LIKE {table})".encode()
        )  # no defaults, no CHECKs: nothing of theirs runs
        script = statement.text
        origin = statement.tokens[0].start
        words = [t.text.upper() for t in statement.tokens]
        for at, text in (
            (slice(words.index("ON") + 1, words.index("ON") + 4), "pg_temp.pgvigil_copy"),
            (slice(words.index("CONCURRENTLY"), words.index("CONCURRENTLY") + 1), ""),
        ):  # from the end
            first, last = statement.tokens[at][0], statement.tokens[at][-1]
            script = script[: first.start - origin] + text + script[last.start - origin + len(last.text) :]
        conn.execute(script.encode())
        row = conn.execute(
            "SELECT pg_get_indexdef(indexrelid) FROM pg_index WHERE indrelid = 'pg_temp.pgvigil_copy'::regclass"
        ).fetchone()
    return str(row[0]) if row else ""


def _shape(definition: str) -> tuple[bool, str]:
    """What an index definition says besides its own name and its table's."""
    return definition.startswith("CREATE UNIQUE"), definition.partition(" USING ")[2]
