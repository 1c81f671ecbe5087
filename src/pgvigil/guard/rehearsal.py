"""The command on a scratch copy of the backup, confined to it: what it locks and rewrites there, and whether it succeeds."""

from __future__ import annotations

import socket
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, LiteralString

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import MigrationError, PreconditionError
from pgvigil.guard import confine
from pgvigil.guard.command import Command, in_words
from pgvigil.guard.proxy import Proxy, Upstream, without_tls
from pgvigil.guard.sessions import Route
from pgvigil.migration.rehearsal import Lock
from pgvigil.observer import Observer
from pgvigil.progress import Reporter

_LOOK_EVERY = 0.005  # seconds: the resolution of what is reported
_TABLES: LiteralString = """
    SELECT c.oid::bigint, c.oid::regclass::text, pg_relation_filenode(c.oid)::bigint FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE c.relkind IN ('r', 'p', 'm') AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')"""
_HELD: LiteralString = """
    SELECT l.relation::bigint, l.mode, left(regexp_replace(max(a.query), '\\s+', ' ', 'g'), 120)
    FROM pg_locks l JOIN pg_stat_activity a USING (pid)
    WHERE l.granted AND l.mode IN ('ShareLock', 'ShareRowExclusiveLock', 'ExclusiveLock', 'AccessExclusiveLock')
      AND l.database = (SELECT oid FROM pg_database WHERE datname = current_database()) AND l.relation = ANY (%s::oid[])
      AND l.pid <> pg_backend_pid() AND a.backend_type = 'client backend' GROUP BY 1, 2"""
_END_SESSIONS: LiteralString = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND pid <> pg_backend_pid() AND backend_type = 'client backend'"""
_LEADS_OUT: LiteralString = """
    SELECT format('foreign server %I', srvname) FROM pg_foreign_server
    UNION ALL SELECT format('extension %I', extname) FROM pg_extension WHERE extname = 'dblink' ORDER BY 1"""
# All that a statement in one database can change for the others, but not the copies that pgvigil itself makes.
_SHARED: LiteralString = """
    SELECT jsonb_build_array(
        (SELECT jsonb_agg(to_jsonb(r) - 'rolpassword' ORDER BY r.oid) FROM pg_roles r),
        (SELECT jsonb_agg(to_jsonb(m) ORDER BY m.roleid, m.member) FROM pg_auth_members m),
        (SELECT jsonb_agg(to_jsonb(s) ORDER BY s.setdatabase, s.setrole) FROM pg_db_role_setting s
         WHERE s.setdatabase = 0 OR s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())),
        (SELECT jsonb_agg(jsonb_build_array(d.datname, d.datdba, d.datallowconn, d.datconnlimit, d.datacl::text) ORDER BY d.oid)
         FROM pg_database d WHERE d.datname !~ '^pgvigil_'),
        (SELECT jsonb_agg(jsonb_build_array(t.spcname, t.spcowner) ORDER BY t.oid) FROM pg_tablespace t))::text"""


@dataclass(frozen=True)
class Rehearsed:
    """The expected effects of the real run."""

    locks: list[Lock]
    rewritten: list[str]
    seconds: float
    sessions: int
    refused: list[str]


def require_possible(conn: psycopg.Connection) -> None:
    """Raise PreconditionError where a command could not be kept away from the real database, or from other ones."""
    if reason := confine.unavailable():
        raise PreconditionError(
            f"this machine cannot keep the command away from the real database: {reason}",
            "Leave --rehearse out, or rehearse by hand on another server. Nothing was changed.",
        )
    if found := [name for (name,) in conn.execute(_LEADS_OUT).fetchall()]:
        raise PreconditionError(
            f"statements in a copy of this database could reach others: it has {', '.join(found)}",
            "Leave --rehearse out, or rehearse by hand on another server. Nothing was changed.",
        )


def rules_for(conn: psycopg.Connection, proxy: Proxy) -> dict[str, Any]:
    """The addresses of the server of `conn`, which lead to the proxy; for the supervisor."""
    route = Route.of(conn)
    hosts = set(route.addresses)
    ports = {route.port, conn.info.port}
    for host in filter(None, [*conn.info.host.split(","), conn.info.hostaddr]):
        if not host.startswith("/"):
            with suppress(OSError):
                hosts |= {str(entry[4][0]) for entry in socket.getaddrinfo(host, None, proto=socket.IPPROTO_TCP)}
    if route.unix or any(host in ("::1",) or host.startswith("127.") for host in hosts):  # it runs here
        hosts |= {"127.0.0.1", "::1"}
    return {
        "tcp": sorted((host, port) for host in hosts for port in ports), "unix": sorted(route.unix),
        "port": proxy.port, "path": proxy.path,
    }  # fmt: skip


def rehearse(
    conn: psycopg.Connection,
    there: Target,
    order: dict[str, Any],
    start: Callable[[dict[str, Any]], Command],
    log: Reporter,
) -> Rehearsed:
    """Run the command on the copy `there`.

    Raise MigrationError if it fails, PreconditionError if it was not about the copy.
    """
    clock = time.monotonic()
    copy = str(there.parameters["dbname"])
    shared = conn.execute(_SHARED).fetchone()
    with database.connect(there, "rehearsal") as look:
        _copy_settings(conn, look, copy)
        before = {oid: (name, file) for oid, name, file in look.execute(_TABLES).fetchall()}
        admit = _Admission(conn, there, copy)
        try:
            with (
                Proxy(Upstream.of(conn), conn.info.dbname, copy, admit) as proxy,
                _LockTrace(database.connect(there, "rehearsal (watch)"), list(before)) as trace,
                start(
                    {**order, "environment": without_tls(order["environment"]), "confine": rules_for(conn, proxy)}
                ) as command,
            ):
                status = command.wait(lambda: False)
        finally:
            with suppress(
                psycopg.Error
            ):  # nobody else can be connected to it; a statement of an ended command may go on
                look.execute(_END_SESSIONS)
        after = {oid: (name, file) for oid, name, file in look.execute(_TABLES).fetchall()}
    _judge(conn, proxy, command, status, shared, log)
    if trace.error:
        raise trace.error
    rewritten = sorted(name for oid, (name, file) in before.items() if oid in after and after[oid][1] != file)
    locks = sorted(
        (Lock(before[oid][0], mode, round(ms * 1000, 1), said) for (oid, mode), (ms, said) in trace.longest.items()),
        key=lambda lock: -lock.held_ms,
    )
    return Rehearsed(
        locks, rewritten, round(time.monotonic() - clock, 2), proxy.sessions, list(dict.fromkeys(command.refused))
    )


def _judge(
    conn: psycopg.Connection, proxy: Proxy, command: Command, status: int, shared: object, log: Reporter
) -> None:
    untouched = "The rehearsal could reach the copy only: the database itself was not changed; the backup is kept."
    refused = ", ".join(dict.fromkeys(command.refused))
    log.document["rehearsal"] = {
        "command_exit_code": status, "sessions": proxy.sessions, "refused": list(dict.fromkeys(command.refused)),
        "turned_away": proxy.turned_away, "stopped": proxy.stopped,
    }  # fmt: skip
    if proxy.stopped:
        raise PreconditionError(
            f"the command wants to do what a rehearsal on a copy cannot keep to the copy: {', '.join(proxy.stopped)}",
            f"Do that beforehand, or leave --rehearse out. {untouched}",
        )
    if proxy.turned_away:
        raise PreconditionError(
            f'in the rehearsal the command asked for database "{proxy.turned_away[0]}", and this run guards "{proxy.real}"',
            f"Name the database that it works on: --database-url, or its own configuration. {untouched}",
        )
    if not proxy.sessions:
        tried = f"it tried to reach {refused}" if refused else "it opened no connection"
        tls = (
            ", and insists on TLS, which a rehearsal does not speak to it (sslmode=disable in its configuration will do)"
            if proxy.insisted_on_tls
            else ""
        )
        raise PreconditionError(
            f"in the rehearsal the command did not reach the copy of this database: {tried}{tls}",
            f"Name the database that it works on: --database-url. {untouched}",
        )
    if status:
        raise MigrationError(f"in the rehearsal the command {in_words(status)}", f"Its output is above. {untouched}")
    if conn.execute(_SHARED).fetchone() != shared:
        raise PreconditionError(
            "during the rehearsal roles, settings or rights that all databases share were changed, by the command or by somebody else",
            "Look at them (\\du, \\drds, \\l in psql), then run this again. The tables of the database itself were not changed.",
        )


class _Admission:
    """A check that admits to the copy the roles that may connect to the real database.

    The copy is closed to all but its maker.
    """

    def __init__(self, conn: psycopg.Connection, there: Target, copy: str) -> None:
        self._may = {
            name
            for (name,) in conn.execute(
                "SELECT rolname::text FROM pg_roles WHERE rolcanlogin AND has_database_privilege(oid, current_database(), 'CONNECT')"
            ).fetchall()
        }
        self._there, self._copy = there, copy
        self._done = {conn.info.user}
        self._lock = threading.Lock()

    def __call__(self, role: str) -> None:
        with self._lock:
            if role in self._done or role not in self._may:
                return
            self._done.add(role)
            with database.connect(self._there, "rehearsal (rights)") as conn:
                conn.execute(
                    sql.SQL("GRANT CONNECT, TEMPORARY ON DATABASE {} TO {}").format(
                        sql.Identifier(self._copy), sql.Identifier(role)
                    )
                )


def _copy_settings(conn: psycopg.Connection, look: psycopg.Connection, copy: str) -> None:
    """The settings that belong to the database, such as a search_path, and are in no archive."""
    rows = conn.execute(
        """SELECT r.rolname::text, split_part(s.setting, '=', 1), substr(s.setting, strpos(s.setting, '=') + 1)
           FROM pg_db_role_setting d CROSS JOIN LATERAL unnest(d.setconfig) s (setting) LEFT JOIN pg_roles r ON r.oid = d.setrole
           WHERE d.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())"""
    ).fetchall()
    for role, name, value in rows:
        whose = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), sql.Identifier(copy)) if role else None
        with suppress(psycopg.Error), look.transaction():  # a setting that only a superuser may give
            look.execute("SELECT set_config(%s, %s, true)", (name, value))
            look.execute(
                sql.SQL("ALTER {} SET {} FROM CURRENT").format(
                    whose or sql.SQL("DATABASE {}").format(sql.Identifier(copy)),
                    sql.SQL(".").join(map(sql.Identifier, name.split("."))),
                )
            )


class _LockTrace(Observer):
    """An observer that looks at the locks of all other sessions of the copy, and keeps the longest unbroken time of
    each.
    """

    def __init__(self, conn: psycopg.Connection, tables: list[int]) -> None:
        super().__init__(conn, "pgvigil lock trace")
        self.longest: dict[tuple[int, str], tuple[float, str]] = {}
        self.error: psycopg.Error | None = None
        self._tables = tables

    def _look(self, conn: psycopg.Connection) -> None:
        began: dict[tuple[int, str], float] = {}
        try:
            while not self._stop.wait(_LOOK_EVERY):
                rows = conn.execute(_HELD, (self._tables,)).fetchall()
                now = time.monotonic()
                began = {(oid, mode): began.get((oid, mode), now - _LOOK_EVERY) for oid, mode, _ in rows}
                for oid, mode, query in rows:
                    held = now - began[oid, mode]
                    if held > self.longest.get((oid, mode), (0.0, ""))[0]:
                        self.longest[oid, mode] = held, query
        except psycopg.Error as error:  # what was not seen must not pass for what was not there
            self.error = error
