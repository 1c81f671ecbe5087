"""Apply migrations to the database.

The runner and plain `alembic upgrade` both come through here, revision by revision.

Alembic keeps order and ledger; the SQL runs through psycopg without parameters, statement by statement, so that `%` and
`:` are plain text and an error is reported by file and line.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any

import psycopg
import sqlalchemy
from alembic import command, context, op
from alembic.config import Config
from psycopg import sql
from sqlalchemy.pool import StaticPool

from pgvigil import database, locks, project
from pgvigil.errors import PreconditionError, UsageError
from pgvigil.migration import files, ledger, preflight, statements, unfit
from pgvigil.migration.change import Change
from pgvigil.migration.concurrent_indexes import Build
from pgvigil.migration.files import Migration
from pgvigil.migration.preflight import application_tables, require_application
from pgvigil.migration.sql_lexer import Statement
from pgvigil.migration.trace import Trace, current_trace
from pgvigil.owner import Owner, owner_of
from pgvigil.placeholders import bound
from pgvigil.shipped import require_shipped

_VERSION_TABLE: dict[str, Any] = {"version_table": "alembic_version", "version_table_schema": "pgvigil"}
_LOCKS_SESSIONS = "011"  # from its first LOCK on the tables are locked: what can be done before is done before


# Of each session that runs files, whatever the role or the database sets.
SETTINGS = (
    f"lock_timeout = '{locks.LOCK_TIMEOUT_MS}ms'",
    "statement_timeout = 0",
    "idle_in_transaction_session_timeout = 0",
    "default_transaction_isolation = 'read committed'",
    "default_transaction_read_only = off",
    "client_min_messages = warning",
    "client_connection_check_interval = '1s'",  # a runner that was killed must not leave an index build behind
    "check_function_bodies = on",
)


def pin(conn: psycopg.Connection, schema: str) -> None:
    """Set the session settings that every migration may count on, whatever the role or the database sets.

    The application's schema is not on the path: a name or an operator in it could be taken for the server's own. Files
    name the schema.
    """
    settings = ("search_path = pg_catalog, pg_temp", f"pgvigil.schema = {sql.quote(schema)}", *SETTINGS)
    conn.execute("; ".join(f"SET {setting}" for setting in settings).encode())  # at once: tables may be locked already


# ── Alembic's side ────────────────────────────────────────────────────────────────────────────────────────────────────


def sql_file(revision_module: str) -> tuple[Callable[[], None], Callable[[], None]]:
    """Return upgrade and downgrade of the revision whose SQL file has the module's name."""
    path = Path(revision_module).parents[1] / f"{Path(revision_module).stem}.sql"

    def migration() -> Migration:
        return Migration(path, path.read_bytes())

    return lambda: _upgrade(migration()), lambda: _downgrade(migration())


def run_environment() -> None:
    """Do the work of env.py, on the runner's connection if it gave one, else on a new one, which is locked here.

    `-x schema=NAME` and `-x database-url=URL` replace the options of the runner.
    """
    options = context.get_x_argument(as_dictionary=True)
    if context.is_offline_mode():
        raise UsageError(
            "alembic --sql cannot know what the database holds, and these migrations look",
            "`pgvigil migrate --dry-run` prints the SQL for a database, `pgvigil init-sql` that for an empty one.",
        )
    connection: sqlalchemy.Connection | None = context.config.attributes.get("connection")
    if connection is not None:
        _migrate(connection)
        return
    target = database.resolve(options.get("database-url"), project.dotenv_directories())
    if target is None:
        raise UsageError("no database is named", "Set DATABASE_URL or PG*, or pass -x database-url=URL.")

    with database.connect(target, "alembic") as conn:
        preflight.require_usable_server(conn)
        require_shipped(conn)
        state = ledger.read(conn)
        schema = state.schema or options.get("schema") or "public"
        preflight.require_all_rows(conn, schema)
        if not state.entries and application_tables(conn, schema):
            unfit.require_fit(conn, schema)
        pin(conn, schema)
        with locks.run_lock(conn, wait=0), sqlalchemy_connection(conn) as connection:
            _migrate(connection)


def _migrate(connection: sqlalchemy.Connection) -> None:
    context.configure(connection=connection, **_VERSION_TABLE)
    changes = not context.get_context().opts.get("dont_mutate")  # `alembic current` must leave no ledger behind
    with context.begin_transaction():
        conn = _raw(connection)
        _names.set(Names(schema := _schema(conn), owner_of(conn, schema)))
        if changes:
            _run_script(conn, project.MIGRATIONS / "prepare.sql", as_owner=False)
            if not _has_ledger(conn):
                _run_script(conn, project.MIGRATIONS / "ledger.sql")
            _require_plain_ledger(conn)
        context.run_migrations()
        if changes and not context.get_context().get_current_heads():
            _run_script(conn, project.MIGRATIONS / "revert" / "ledger.sql")
            _run_script(conn, project.MIGRATIONS / "revert" / "prepare.sql", as_owner=False)
        elif changes:
            _run_script(conn, project.MIGRATIONS / "closing.sql")


@dataclass(frozen=True)
class Names:
    """The values of placeholders, looked up once for all statements of a run."""

    schema: str
    owner: Owner


_names: ContextVar[Names] = ContextVar("names")
_before_lock: ContextVar[Callable[[], None]] = ContextVar("before_lock", default=lambda: None)


def _require_plain_ledger(conn: psycopg.Connection) -> None:
    """Raise PreconditionError where a trigger, rule, default or policy is attached to Alembic's table.

    Alembic writes this table with the rights of the connected role.
    """
    if not _names.get().owner.is_other:
        return
    conn.execute("LOCK TABLE pgvigil.alembic_version IN SHARE ROW EXCLUSIVE MODE")
    row = conn.execute(
        """SELECT EXISTS (SELECT FROM pg_trigger WHERE tgrelid = t.oid) OR EXISTS (SELECT FROM pg_rewrite WHERE ev_class = t.oid)
                  OR EXISTS (SELECT FROM pg_attrdef WHERE adrelid = t.oid) OR EXISTS (SELECT FROM pg_policy WHERE polrelid = t.oid)
                  OR EXISTS (SELECT FROM pg_inherits WHERE t.oid IN (inhrelid, inhparent)) OR t.relkind <> 'r'
                  OR EXISTS (SELECT FROM pg_constraint WHERE conrelid = t.oid AND contype NOT IN ('p', 'n'))
                  OR (SELECT count(*) FROM pg_index WHERE indrelid = t.oid) > 1
                  OR (SELECT array_agg(atttypid) FROM pg_attribute WHERE attrelid = t.oid AND attnum > 0 AND NOT attisdropped) <> ARRAY['varchar'::regtype]::oid[]
           FROM pg_class t WHERE t.oid = 'pgvigil.alembic_version'::regclass"""
    ).fetchone()
    if row is None or row[0]:
        raise PreconditionError(
            "pgvigil.alembic_version has triggers, rules or constraints that pgvigil did not make",
            "They would run with the rights of whoever migrates. Drop them, or migrate as the owner of the tables. Nothing was changed.",
        )


def _upgrade(migration: Migration) -> None:
    conn = _raw(op.get_bind())
    schema, owner = _names.get().schema, _names.get().owner
    started = time.monotonic()
    baselined = migration.revision == "000" and bool(application_tables(conn, schema))
    if baselined:
        require_application(conn, schema)
    elif migration.transactional:
        parts = migration.statements
        if files.is_shipped(migration.path):  # an error in a comment of another file is reported with its own line
            parts = list(_comments_at_once(parts))
        waits = migration.revision == _LOCKS_SESSIONS
        for statement in parts:
            if waits and statement.starts_with("LOCK"):
                waits = False
                _run_script(conn, project.MIGRATIONS / "closing.sql")
                _before_lock.get()()
            _execute(conn, migration.path, statement)
    else:
        with op.get_context().autocommit_block():
            for statement in migration.statements:
                _execute_after_cleanup(conn, migration, statement)
    pin(conn, schema)  # whatever the file has set
    took = round((time.monotonic() - started) * 1000)
    ledger.record(conn, owner, migration, schema, baselined=baselined, duration_ms=took)
    if migration.revision == op.get_context().script.get_current_head() and not ledger.is_baselined(conn, "000"):  # type: ignore[union-attr]
        ledger.mark_initialized(conn, owner, migration.revision)
    if migration.revision < _LOCKS_SESSIONS:
        _run_script(conn, project.MIGRATIONS / "closing.sql")


def _downgrade(migration: Migration) -> None:
    conn = _raw(op.get_bind())
    if not ledger.is_baselined(conn, migration.revision):
        _run_script(conn, migration.revert_path)
    ledger.forget(conn, _names.get().owner, migration)


# ── The runner's side ─────────────────────────────────────────────────────────────────────────────────────────────────


@contextmanager
def sqlalchemy_connection(conn: psycopg.Connection) -> Iterator[sqlalchemy.Connection]:
    """The psycopg connection as SQLAlchemy and Alembic want it; autocommit again afterwards."""
    conn.autocommit = False
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: conn, poolclass=StaticPool)
    connection = engine.connect()
    try:
        yield connection
    finally:
        if conn.closed:
            connection.invalidate()  # SQLAlchemy may not know yet, and would roll back
        else:
            connection.rollback()
            conn.rollback()
            conn.autocommit = True
            connection.detach()  # the psycopg connection is the caller's


def apply_group(conn: psycopg.Connection, change: Change, trace: Trace) -> None:
    """Make a change by Alembic, all of it or nothing.

    Raise MigrationError by file and line, or psycopg's LockNotAvailable when a lock did not come free in time; in both
    cases everything that ran in a transaction is rolled back.
    """
    current_trace.set(trace)
    _before_lock.set(change.before_lock)
    trace.begin(conn)
    config = Config(toml_file=None)
    config.set_main_option("script_location", str(project.MIGRATIONS).replace("%", "%%"))
    with sqlalchemy_connection(conn) as connection:
        config.attributes["connection"] = connection
        if change.down_to is None and not change.group[0].transactional:
            command.upgrade(config, change.group[-1].revision)
            return
        with connection.begin():  # Alembic joins it, so the whole group is one transaction
            if change.down_to is not None:
                command.downgrade(config, change.down_to)
            else:
                command.upgrade(config, change.group[-1].revision)
            if change.preview:
                conn.execute("SAVEPOINT preview")
                of_group = len(trace.statements)
                command.upgrade(config, change.preview[-1].revision)
                change.before_commit()
                conn.execute("ROLLBACK TO preview")
                del trace.statements[of_group:]
            else:
                change.before_commit()
    trace.end()


def _run_script(conn: psycopg.Connection, path: Path, *, as_owner: bool = True) -> None:
    for statement in files.read_statements(path, path.read_text(), transactional=True):
        _execute(conn, path, statement, as_owner=as_owner)


def _comments_at_once(parts: list[Statement]) -> Iterator[Statement]:
    """Join consecutive comments into one statement: each by itself is a round trip more while tables are locked."""
    for are_comments, run in groupby(parts, key=lambda s: s.tokens[0].text.upper() == "COMMENT"):
        first, *rest = run
        if not are_comments:
            yield from (first, *rest)
            continue
        yield first._replace(text="; ".join(statement.text for statement in (first, *rest)))


def _execute(conn: psycopg.Connection, path: Path, statement: Statement, *, as_owner: bool = True) -> None:
    owner = _names.get().owner
    text = bound(statement.text, _names.get().schema, owner.name)

    def run(text: str) -> None:
        if as_owner and owner.is_other:
            _execute_as(conn, owner, text, statement)
        else:
            conn.execute(text.encode())

    statements.run(conn, path, statement, text, run)


def _execute_as(conn: psycopg.Connection, owner: Owner, text: str, statement: Statement) -> None:
    """Run a statement with the owner's rights.

    A procedure that commits cannot be called in this way, so its steps are called.
    """
    words = [t.text.upper() for t in statement.tokens]
    if words[0] == "CALL":
        state: str | None = "{}"
        step = "".join(t.text for t in statement.tokens[1:4])
        while state is not None:
            state = owner.scalar(conn, f"SELECT {step}_step({sql.quote(state)}::jsonb)")
    elif "CONCURRENTLY" in words:
        conn.execute(
            text.encode()
        )  # the server itself builds an index with the rights of its table's owner, and nothing else runs
    else:
        owner.execute(conn, text)


# ── Steps outside a transaction: each one can be run again after an interruption ──────────────────────────────────────


def _execute_after_cleanup(conn: psycopg.Connection, migration: Migration, statement: Statement) -> None:
    def displace(_: Build, name: str, definition: str) -> bool:
        """Record an index with another definition in pgvigil.displaced_objects and drop it."""
        values = ", ".join(sql.quote(value) for value in (migration.revision, f"index {name}", definition))
        owner = owner_of(conn, _names.get().schema)
        owner.execute(conn, f"INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql) VALUES ({values})")
        conn.execute(f"DROP INDEX CONCURRENTLY {name}".encode())
        return True

    statements.run_after_cleanup(
        conn, _names.get().schema, statement, lambda: _execute(conn, migration.path, statement), displace
    )


def _has_ledger(conn: psycopg.Connection) -> bool:
    row = conn.execute("SELECT to_regclass('pgvigil.alembic_version') IS NOT NULL").fetchone()
    return bool(row and row[0])


def _schema(conn: psycopg.Connection) -> str:
    """Return the schema that pin() has set."""
    row = conn.execute("SELECT current_setting('pgvigil.schema')").fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    return str(row[0])


def _raw(connection: Any) -> psycopg.Connection:
    conn = connection.connection.driver_connection
    assert isinstance(conn, psycopg.Connection)  # noqa: S101 - the engine is made here, over psycopg
    return conn
