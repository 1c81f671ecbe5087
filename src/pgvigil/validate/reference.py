"""What the project's own DDL makes on this very server: the measure for everything that the spec does not spell out.

Loaded into a scratch database, read, and rolled back; the reading is kept for the next time, on disk and, for roles that may
not create databases and for replicas, in the database itself. Nothing that one server printed is held against another.
"""

from __future__ import annotations

import hashlib
import secrets
import sys
import threading
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager, suppress
from pathlib import Path

import psycopg
from psycopg import sql

from pgvigil import database, scratch_databases
from pgvigil.database import Target
from pgvigil.errors import PgvigilError
from pgvigil.scratch_databases import Log, Scratch
from pgvigil.validate import cache
from pgvigil.validate.catalog import Connection, Scope, Snapshot, snapshot
from pgvigil.validate.expected import Declaration
from pgvigil.validate.queries import QUERIES
from pgvigil.validate.report import Unchecked

_NAMES = "^pgvigil_reference_[0-9a-f]{8}_[0-9a-f]{8}$"

WHAT = "bodies, definitions, comments, rights and storage of our objects"


def key_of(ddl: Path, schema: str) -> str:
    """Changes with the DDL, the schema it is for, and with what is read of a catalog."""
    return hashlib.sha256(ddl.read_bytes() + repr((schema, QUERIES)).encode()).hexdigest()


class Reference:
    """The making of it, which goes on while the caller reads what is there: begin one, read, then ask for `outcome`."""

    def __init__(
        self,
        target: Target,
        connected: Callable[[], Connection],
        declaration: Callable[[], Declaration],
        ddl: Path,
        schema: Callable[[Connection], str],
        log: Log = lambda line: print(line, file=sys.stderr),
    ) -> None:
        """What is asked for by calling need not be there yet. The connection is lent until `begun` is set. `log` is given a line
        about each database that a killed run left and that was dropped.

        `schema` is that of the application's tables: function bodies hold its name, so the reference is made with the same.
        """
        self.log = log
        self.target, self.connected, self.declaration, self.ddl, self.schema = (
            target,
            connected,
            declaration,
            ddl,
            schema,
        )
        self.begun = threading.Event()
        self._made: Future[tuple[Snapshot | None, str]] = Future()
        # No daemon: it ends with its scratch database dropped, for which `outcome` does not wait.
        self.thread = threading.Thread(target=self._obtain)
        self.thread.start()

    def outcome(self) -> tuple[Snapshot | None, tuple[Unchecked, ...]]:
        """The reference, or why there is none."""
        made, reason = self._made.result()
        if made:
            return made, ()
        hint = "Migrate with a role that may create databases: it then lies in pgvigil.reference_snapshots"
        return None, (Unchecked(WHAT, f"{reason}. {hint}"),)

    def _tell(self, made: Snapshot | None, reason: str = "") -> None:
        if not self._made.done():  # what goes wrong after it is told takes nothing back
            self._made.set_result((made, reason))

    def _obtain(self) -> None:
        try:
            self._make(self.connected())
        except (PgvigilError, psycopg.Error, OSError) as error:
            self._tell(None, " ".join(str(error).split()))
        except Exception as error:  # noqa: BLE001 - a defect: whoever asks is to see it
            if not self._made.done():
                self._made.set_exception(error)
        finally:
            self.begun.set()

    def _make(self, conn: Connection) -> None:
        schema = self.schema(conn)
        key = key_of(self.ddl, schema)
        name = f"reference-{key}-{conn.info.server_version}.json"
        if text := cache.read(name):
            with suppress(ValueError):
                self._tell(Snapshot.from_json(text, schema))
                return
        if reason := _hindrance(conn):
            self._tell_kept(conn, key, schema, reason)
            return
        try:
            scratch = scratch_databases.make(conn, f"pgvigil_reference_{secrets.token_hex(4)}_{secrets.token_hex(4)}")
            self.begun.set()
            with _opened(self.target, scratch, self.log) as there:
                declaration = self.declaration()
                made = _load(there, declaration, self.ddl, schema)
                self._tell(made)
            if set(declaration.roles) <= set(made.grantees.values()):
                cache.write(name, made.to_json())  # else some role was missing and could not be made
        except (psycopg.Error, PgvigilError) as error:
            with database.connect(self.target, "reference") as other:
                self._tell_kept(
                    other, key, schema, f"a scratch database could not be used: {' '.join(str(error).split())}"
                )

    def _tell_kept(self, conn: Connection, key: str, schema: str, reason: str) -> None:
        text = _kept(conn, key)
        try:
            self._tell(Snapshot.from_json(text, schema) if text else None, reason)
        except ValueError:
            self._tell(None, f"{reason}, and what lies in pgvigil.reference_snapshots cannot be read")


def _hindrance(conn: Connection) -> str:
    """Why there can be no scratch database, if so."""
    may = conn.execute(
        "SELECT pg_is_in_recovery(), current_setting('transaction_read_only')::boolean,"
        " (SELECT rolcreatedb OR rolsuper FROM pg_roles WHERE rolname = current_user)"
    ).fetchone()
    standby, read_only, creates = may or (False, False, False)
    if standby:
        return "the server is a replica"
    if read_only:
        return "the session is read-only"
    return "" if creates else "the role may not create databases"


@contextmanager
def _opened(target: Target, made: Scratch, log: Log) -> Iterator[Connection]:
    """A connection to a new database, which is dropped in the end, and with it those that killed runs have left."""
    try:
        with database.connect(target.at(made.name), "reference") as there:
            scratch_databases.close_public_schema(there)
            yield there
    finally:
        scratch_databases.drop_quietly(target, made, log)
        with suppress(psycopg.Error, PgvigilError), database.connect(target, "reference") as conn:
            scratch_databases.drop_leftovers(conn, _NAMES, log)


def _load(there: Connection, declaration: Declaration, ddl: Path, schema: str) -> Snapshot:
    """In one transaction that is rolled back: the roles that the DDL makes belong to the whole server."""
    with there.transaction(force_rollback=True):
        there.execute(
            "SET LOCAL synchronous_commit = off; SET LOCAL check_function_bodies = off; SET LOCAL pgvigil.only_to_read = 'on'"
        )
        there.execute("SELECT set_config('pgvigil.schema', %s, true)", (schema,))
        there.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        there.execute(_without_psql(ddl.read_text()))
        own = tuple(name for name in declaration.schemas if name != "{schema}")
        return snapshot(there, Scope((schema, *own), cut=tuple(declaration.patterns)), schema)


def _without_psql(script: str) -> bytes:
    """The init script without its own transaction and what is meant for psql."""
    kept = (line for line in script.splitlines() if not line.startswith("\\") and line not in ("BEGIN;", "COMMIT;"))
    return "\n".join(kept).encode()


# --- kept in the database --------------------------------------------------------------------------------------------


def _kept(conn: Connection, key: str) -> str | None:
    with suppress(
        psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege
    ):
        row = conn.execute(
            "SELECT snapshot FROM pgvigil.reference_snapshots WHERE key = %s AND server_major = %s",
            (key, conn.info.server_version // 10000),
        ).fetchone()
        return str(row[0]) if row else None
    return None


def keep_reference(conn: Connection, made: Snapshot, ddl: Path) -> None:
    """For those who can only read: a replica, a role that may not create databases. Older ones are forgotten."""
    parameters = {
        "key": key_of(ddl, made.schema),
        "major": conn.info.server_version // 10000,
        "snapshot": made.to_json(),
    }
    with conn.transaction():
        conn.execute(
            "DELETE FROM pgvigil.reference_snapshots WHERE (key, server_major) <> (%(key)s, %(major)s)", parameters
        )
        conn.execute(
            "INSERT INTO pgvigil.reference_snapshots (key, server_major, snapshot) VALUES (%(key)s, %(major)s, %(snapshot)s)"
            " ON CONFLICT (key, server_major) DO UPDATE SET snapshot = excluded.snapshot, made_at = clock_timestamp()",
            parameters,
        )
