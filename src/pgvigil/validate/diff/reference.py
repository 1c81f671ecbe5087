"""The reference: the schema that the project's own DDL makes on the same server, for everything that the spec does not declare.

Loaded into a scratch database, read, and rolled back; the reading is kept for the next time, on disk and, for roles that may
not create databases and for replicas, in the database itself. Nothing that one server printed is compared with the print of another.
"""

from __future__ import annotations

import hashlib
import json
import secrets
import sys
import threading
from collections.abc import Callable
from concurrent.futures import Future
from contextlib import suppress
from pathlib import Path

import psycopg
from psycopg import sql

from pgvigil import database, project, scratch_databases
from pgvigil.database import Target
from pgvigil.errors import PgvigilError
from pgvigil.owner import copied, owner_of_table
from pgvigil.scratch_databases import Log
from pgvigil.validate.catalog.identifiers import quoted
from pgvigil.validate.catalog.object_ref import APPLICATION_SCHEMA
from pgvigil.validate.catalog.queries import QUERIES
from pgvigil.validate.catalog.snapshot import Connection, Scope, Snapshot, by_path, snapshot
from pgvigil.validate.report.model import Unchecked
from pgvigil.validate.spec import cache
from pgvigil.validate.spec.declaration import Declaration

_NAMES = "^pgvigil_reference_[0-9a-f]{8}_[0-9a-f]{8}$"

WHAT = "bodies, definitions, comments, rights and storage of our objects"


def key_of(ddl: Path, schema: str) -> str:
    """Return a key that changes with the DDL, with its schema, and with the queries that read a catalog."""
    return hashlib.sha256(ddl.read_bytes() + repr((schema, QUERIES)).encode()).hexdigest()


def _cached_as(conn: Connection, key: str) -> str:
    """The name in the cache. A server answers for itself alone: not for another one that says that it is the same."""
    try:
        with conn.transaction():
            row = conn.execute(
                "SELECT system_identifier::text, pg_catalog.version() FROM pg_catalog.pg_control_system()"
            ).fetchone()
    except psycopg.errors.InsufficientPrivilege:
        return ""
    info = conn.info
    what = [key, *(row or ()), info.host, info.hostaddr, info.port]
    return f"reference-{hashlib.sha256(repr(what).encode()).hexdigest()}.json"


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
        """The getters are called late: their values need not exist yet. The connection is lent until `begun` is set. `log` is given a line
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
        return (made, ()) if made else (None, (Unchecked(WHAT, reason),))

    def _answer(self, made: Snapshot | None, reason: str = "") -> None:
        if not self._made.done():  # a failure after the answer does not change it
            self._made.set_result((made, reason))

    def _obtain(self) -> None:
        try:
            self._make(self.connected())
        except (PgvigilError, psycopg.Error, OSError) as error:
            self._answer(None, " ".join(str(error).split()))
        except Exception as error:  # noqa: BLE001 - a defect: whoever asks is to see it
            if not self._made.done():
                self._made.set_exception(error)
        finally:
            self.begun.set()

    def _make(self, conn: Connection) -> None:
        schema = self.schema(conn)
        key = key_of(self.ddl, schema)
        name = _cached_as(conn, key)
        if name and (text := cache.read(name)):
            with suppress(ValueError):
                self._answer(Snapshot.from_json(text, schema))
                return
        if reason := hindrance(conn):
            self._answer_stored(conn, key, schema, reason)
            return
        try:
            scratch = scratch_databases.make(conn, f"pgvigil_reference_{secrets.token_hex(4)}_{secrets.token_hex(4)}")
            self.begun.set()
            with scratch_databases.opened(self.target, scratch, "reference", _NAMES, self.log) as there:
                declaration = self.declaration()
                made = load_ddl(there, declaration, self.ddl, schema)
                self._answer(made)
            _keep_file(name, made, declaration)
        except (psycopg.Error, PgvigilError) as error:
            with database.connect(self.target, "reference") as other:
                self._answer_stored(
                    other, key, schema, f"a scratch database could not be used: {' '.join(str(error).split())}"
                )

    def _answer_stored(self, conn: Connection, key: str, schema: str, reason: str) -> None:
        text, doubt = _stored(conn, key, schema)
        try:
            if text and not doubt:
                self._answer(Snapshot.from_json(text, schema))
        except ValueError:
            doubt = "and the copy in pgvigil.reference_snapshots cannot be read"
        self._answer(
            None, f"{reason}, {doubt or 'and pgvigil.reference_snapshots holds no copy of this version'}. {_WAYS}"
        )


def reference_of_empty(conn: Connection, declaration: Declaration, ddl: Path, schema: str) -> Snapshot | None:
    """Return the reference, made in a database that is empty by a role that may not have a scratch database, or None.

    The DDL is rolled back. None where a scratch database does for it, and where the DDL fails, which a caller sees when it
    runs the migrations.
    """
    if not hindrance(conn):
        return None
    try:
        made = load_ddl(conn, declaration, ddl, schema)
    except psycopg.Error:
        return None
    _keep_file(_cached_as(conn, key_of(ddl, schema)), made, declaration)
    return made


def _keep_file(name: str, made: Snapshot, declaration: Declaration) -> None:
    if name and set(declaration.roles) <= set(made.grantees.values()):
        cache.write(name, made.to_json())  # else some role was missing and could not be made


def hindrance(conn: Connection) -> str:
    """Return the reason why there can be no scratch database. Empty if there can be one."""
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


def load_ddl(there: Connection, declaration: Declaration, ddl: Path, schema: str) -> Snapshot:
    """Load the DDL and return its snapshot.

    All is rolled back, because the roles that the DDL makes belong to the whole server.
    """
    with there.transaction(force_rollback=True):
        there.execute(
            "SET LOCAL synchronous_commit = off; SET LOCAL check_function_bodies = off; SET LOCAL pgvigil.only_to_read = 'on'"
        )
        there.execute("SELECT set_config('pgvigil.schema', %s, true)", (schema,))
        there.execute(sql.SQL("CREATE SCHEMA IF NOT EXISTS {}").format(sql.Identifier(schema)))
        there.execute(without_psql(ddl.read_text()))
        own = tuple(name for name in declaration.schemas if name != "{schema}")
        made = snapshot(there, Scope((schema, *own), cut=tuple(declaration.patterns)), schema)
    # The owner of the application's schema, and what he gives others, are the database's own and not made by the DDL.
    ours = {*declaration.roles, "PUBLIC"}
    of_others = [
        ref
        for ref in made.objects
        if ref == APPLICATION_SCHEMA or (ref.of == APPLICATION_SCHEMA and made.grantees.get(ref) not in ours)
    ]
    for part in (made.objects, made.roots, made.grantees, made.details):
        for ref in of_others:
            part.pop(ref, None)
    return made


def without_psql(script: str) -> bytes:
    """The init script without its own transaction and what is meant for psql."""
    kept = (line for line in script.splitlines() if not line.startswith("\\") and line not in ("BEGIN;", "COMMIT;"))
    return "\n".join(kept).encode()


# --- kept in the database --------------------------------------------------------------------------------------------


# Whoever may write the copy says what the objects should be like, and what a repair makes of them. A role that nobody can
# be but a superuser is as good as one.
_WRITERS = """
WITH holder AS (
    SELECT pg_catalog.unnest(ARRAY[c.relowner, n.nspowner, 'pg_write_all_data'::regrole::oid]) AS oid
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
    WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('pgvigil.reference_snapshots')::oid
    UNION
    SELECT a.grantee FROM pg_catalog.pg_class c, pg_catalog.aclexplode(c.relacl) a
    WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass('pgvigil.reference_snapshots')::oid
      AND a.privilege_type OPERATOR(pg_catalog.=) ANY ('{INSERT,UPDATE,DELETE,TRUNCATE,TRIGGER}'::text[])
)
SELECT r.rolname::text FROM pg_catalog.pg_roles r
WHERE r.rolcanlogin AND NOT r.rolsuper AND EXISTS (
    SELECT FROM holder h WHERE CASE WHEN h.oid OPERATOR(pg_catalog.=) 0::oid THEN true ELSE pg_catalog.pg_has_role(r.oid, h.oid, 'MEMBER') END)
ORDER BY NOT EXISTS (SELECT FROM holder h WHERE h.oid OPERATOR(pg_catalog.=) r.oid), 1"""

_WAYS = (
    "Run this as a role that may create databases (ALTER ROLE … CREATEDB), on the primary server. A copy in the database is"
    " compared with if only superusers could have written it, or if this version of pgvigil has its digest"
)


def digest(made: Snapshot) -> str:
    """Return what identifies a snapshot on every server of one major version: only the numbers of its objects differ there."""
    details = {ref: {key: of[key] for key in of if key != "oid"} for ref, of in made.details.items()}
    text = json.dumps([by_path(part) for part in (made.objects, made.roots, made.grantees, details)], sort_keys=True)
    return hashlib.sha256(text.encode()).hexdigest()


def shipped_digests(major: int) -> set[str]:
    """Return the digests of the snapshots that pgvigil's own DDL gives on this major version, in schema public."""
    lines = (line.split() for line in project.REFERENCE_DIGESTS.read_text().splitlines() if not line.startswith("#"))
    return {words[1] for words in lines if words[:1] == [str(major)]}


def _is_shipped(text: str, schema: str, major: int) -> bool:
    try:
        return digest(Snapshot.from_json(text, schema)) in shipped_digests(major)
    except (ValueError, AttributeError, TypeError):
        return False


def _stored(conn: Connection, key: str, schema: str) -> tuple[str | None, str]:
    """The copy that is in the database, and why it is not to be taken."""
    with suppress(
        psycopg.errors.UndefinedTable, psycopg.errors.InvalidSchemaName, psycopg.errors.InsufficientPrivilege,
        psycopg.errors.WrongObjectType,
    ):  # fmt: skip
        major = conn.info.server_version // 10000
        sought = (key, str(major))
        columns = "key, server_major, snapshot, made_at"
        found = copied(conn, "pgvigil.reference_snapshots", columns, lambda row: row[:2] == sought)
        if not found:
            return None, ""
        _, _, snapshot, made_at = (value or "" for value in found[0])
        writers = [quoted(writer) for (writer,) in conn.execute(_WRITERS)]
        names = ", ".join(writers[:3]) + (" and others" if len(writers) > 3 else "")
        doubt = (
            f"and the copy in pgvigil.reference_snapshots, of {made_at[:16]} UTC, could have been written by {names}"
        )
        is_sure = not writers or _is_shipped(snapshot, schema, major)
        return snapshot, "" if is_sure else doubt
    return None, ""


def keep_reference(conn: Connection, made: Snapshot, ddl: Path) -> None:
    """Store the reference for those who can only read: a replica, a role that may not create databases. Older ones are deleted.

    The table may have triggers of its owner's, so its owner writes it. A role that may not write it leaves it as it is.
    """
    owner = owner_of_table(conn, "pgvigil.reference_snapshots")
    if owner is None:
        return
    values = (key_of(ddl, made.schema), conn.info.server_version // 10000, made.to_json())
    key, major, snapshot = map(sql.quote, values)
    with suppress(psycopg.errors.InsufficientPrivilege), conn.transaction():
        owner.execute(conn, f"DELETE FROM pgvigil.reference_snapshots WHERE (key, server_major) <> ({key}, {major})")
        owner.execute(
            conn,
            f"INSERT INTO pgvigil.reference_snapshots (key, server_major, snapshot) VALUES ({key}, {major}, {snapshot})"
            " ON CONFLICT (key, server_major) DO UPDATE SET snapshot = excluded.snapshot, made_at = clock_timestamp()",
        )
