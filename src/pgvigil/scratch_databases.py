"""Databases that we make ourselves and drop again: closed to everybody else, marked as ours, and only then ever dropped.

make(conn, name, owner=…, options=…) -> Scratch          closed from its first moment on
drop(target, scratch, log)                               if it is still the one that was made
drop_leftovers(conn, pattern, log)                       what killed runs have left

A database is dropped only if its name has the exact pattern, its comment is our mark for that name, and it belongs to the
role that asks or to one that this role is a member of. Nobody's connection is ended for it but our own programs'.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import PgvigilError

Log = Callable[[str], object]

_MARK = "pgvigil scratch database"
# A leftover belongs to the role that asks. To a superuser every role's database belongs: there it has to be a superuser's.
_OURS = "CASE WHEN me.rolsuper THEN o.rolsuper ELSE pg_catalog.pg_has_role(d.datdba, 'USAGE') END"
_OWN_PROGRAMS = "^(pgvigil |pg_restore$|pg_dump$)"


@dataclass(frozen=True)
class Scratch:
    """A database that we made. `mark` is its comment, which no other database has."""

    name: str
    mark: str


def make(
    conn: psycopg.Connection,
    name: str,
    *,
    owner: str | None = None,
    options: Sequence[tuple[str, sql.Composable]] = (),
) -> Scratch:
    """An empty database that only the connected role (and superusers) can connect to, from its first moment on.

    It is made without connections allowed; the rights of PUBLIC and of `owner` go, and the mark comes, in the transaction
    that allows them. The owner keeps CREATE, which it takes to give it schemas. A superuser's scratch database is its own.
    Raises psycopg.Error.
    """
    row = conn.execute(
        """SELECT r.rolsuper, pg_catalog.pg_backend_pid(), r.rolname::text,
                  (SELECT (EXTRACT(epoch FROM a.backend_start) * 1000000)::bigint FROM pg_catalog.pg_stat_activity a
                   WHERE a.pid = pg_catalog.pg_backend_pid()), session_user::text
           FROM pg_catalog.pg_roles r WHERE r.rolname = current_user"""
    ).fetchone()
    assert row is not None  # noqa: S101 - we are connected as it
    superuser, pid, me, since, login = row
    other = owner if owner and owner != me and not superuser else None
    # The mark names the database, so one that was renamed to be kept is not ours any more; and whose connection made it.
    mark = f"{_MARK} {name}: {secrets.token_hex(8)}, made by process {pid} of {since}"
    database_name = sql.Identifier(name)
    words = [*([("OWNER", sql.Identifier(other))] if other else []), *options]
    conn.execute(
        sql.SQL("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false {}").format(
            database_name, sql.SQL(" ").join(sql.SQL("{} {}").format(sql.SQL(key), value) for key, value in words)
        )
    )
    try:
        _close(conn, database_name, mark, other, me, login)
    except BaseException:
        with suppress(psycopg.Error):  # without its mark it would be left alone for ever
            conn.execute(sql.SQL("DROP DATABASE {}").format(database_name))
        raise
    return Scratch(name, mark)


def _close(
    conn: psycopg.Connection, database_name: sql.Identifier, mark: str, other: str | None, me: str, login: str
) -> None:
    with conn.transaction():
        conn.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(database_name, sql.Literal(mark)))
        conn.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(database_name))
        if other:
            for statement in (
                "REVOKE ALL ON DATABASE {database} FROM {owner}",
                "GRANT CREATE ON DATABASE {database} TO {owner}",
                "GRANT ALL ON DATABASE {database} TO {me}",
            ):
                conn.execute(
                    sql.SQL(statement).format(
                        database=database_name, owner=sql.Identifier(other), me=sql.Identifier(me)
                    )
                )
        if login != me:  # the right to connect is asked of who logs in, before any SET ROLE
            conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database_name, sql.Identifier(login)))
        conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(database_name))


def close_public_schema(there: psycopg.Connection) -> bool:
    """The first thing inside: on 14 PUBLIC may create in schema public. Returns whether it was taken away.

    A role that is no superuser does not own that schema on 14, and itself creates there by the right of PUBLIC.
    """
    row = there.execute(
        """SELECT r.rolsuper AND EXISTS (SELECT FROM pg_catalog.pg_namespace n, pg_catalog.aclexplode(n.nspacl) a
                  WHERE n.nspname = 'public' AND a.grantee = 0 AND a.privilege_type = 'CREATE')
           FROM pg_catalog.pg_roles r WHERE r.rolname = current_user"""
    ).fetchone()
    if row != (True,):
        return False
    there.execute("REVOKE CREATE ON SCHEMA public FROM PUBLIC")
    return True


def drop(target: Target, scratch: Scratch, log: Log) -> None:
    """Drops a database that `make` made, on a connection of its own: Ctrl-C may have come in the middle of a query of the other.

    One that has another name or another comment meanwhile is not it any more. What cannot be dropped is left, and said.
    """
    with database.connect(target, "scratch database (clean up)") as conn:
        row = conn.execute(
            """SELECT pg_catalog.count(pg_catalog.pg_terminate_backend(a.pid)) FROM pg_catalog.pg_database d
               LEFT JOIN pg_catalog.pg_stat_activity a ON a.datid = d.oid AND a.application_name ~ %s
                     AND a.usesysid = (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = session_user)
               WHERE d.datname = %s AND pg_catalog.shobj_description(d.oid, 'pg_database') = %s GROUP BY d.oid""",
            (_OWN_PROGRAMS, scratch.name, scratch.mark),
        ).fetchone()
        if row is None:
            return
        try:
            conn.execute(sql.SQL("DROP DATABASE IF EXISTS {}").format(sql.Identifier(scratch.name)))
        except psycopg.Error as error:
            log(
                f'warning: scratch database "{scratch.name}" is left: {" ".join(str(error).split())}. '
                "The next run of this kind drops it when nobody is connected to it."
            )


def drop_leftovers(conn: psycopg.Connection, pattern: str, log: Log) -> None:
    """Drops the scratch databases of killed runs: exact name, our mark, our own, nobody is making it, nobody is in it."""
    rows = conn.execute(
        f"""SELECT d.datname::text, pg_catalog.shobj_description(d.oid, 'pg_database'), d.datallowconn
            FROM pg_catalog.pg_database d JOIN pg_catalog.pg_roles o ON o.oid = d.datdba
                 JOIN pg_catalog.pg_roles me ON me.rolname = current_user
            WHERE d.datname ~ %s AND {_OURS}
              AND NOT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a
                              WHERE a.datid = d.oid AND a.backend_type <> 'autovacuum worker')""".encode(),
        (pattern,),
    ).fetchall()
    for name, mark, connections in rows:
        made = re.fullmatch(rf"{_MARK} {re.escape(name)}: [0-9a-f]{{16}}, made by process (\d+) of (\d+)", mark or "")
        if not made:
            if not connections and not mark:
                log(
                    f'note: database "{name}" may be what a killed run left, but has no mark of pgvigil and is left alone; '
                    f"if it is: {sql.SQL('DROP DATABASE {}').format(sql.Identifier(name)).as_string(conn)};"
                )
            continue
        if _lives(conn, int(made[1]), int(made[2])):
            continue
        with suppress(
            psycopg.errors.ObjectInUse, psycopg.errors.InvalidCatalogName, psycopg.errors.InsufficientPrivilege
        ):
            conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
            log(f'dropped database "{name}", which a run that was killed had left')


def _lives(conn: psycopg.Connection, pid: int, since: int) -> bool:
    """Whether the connection that made a database is still there. When it began, only its own role and members may see."""
    row = conn.execute(
        """SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = %s
                          AND coalesce((EXTRACT(epoch FROM a.backend_start) * 1000000)::bigint = %s, true))""",
        (pid, since),
    ).fetchone()
    return row == (True,)


def drop_quietly(target: Target, scratch: Scratch, log: Log) -> None:
    """As `drop`, where even a server that is gone is no reason to fail."""
    with suppress(psycopg.Error, PgvigilError):
        drop(target, scratch, log)
