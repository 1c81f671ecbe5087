"""Create temporary databases and drop them: closed to other roles, marked by pgvigil, and only dropped with that mark.

require_right(conn, purpose)                             refuses before the work that ends in one
locale_of(conn, database) -> options                      encoding and locale, for make
make(conn, name, owner=…, options=…) -> Scratch          closed from the start
opened(target, scratch, purpose, pattern, log)           a connection to it; drops it in the end
drop(target, scratch, log)                               if it is still the one that was created
drop_leftovers(conn, pattern, log)                       databases that killed runs have left

A database is dropped only if its name matches the pattern exactly, its comment is pgvigil's mark for that name, and it
belongs to the role that asks or to one that this role is a member of. Only connections of pgvigil's own programs are
ended for it.
"""

from __future__ import annotations

import re
import secrets
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import NamedTuple

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.database import Target
from pgvigil.errors import ConnectError, PgvigilError, PreconditionError

Log = Callable[[str], object]

_MARK = "pgvigil scratch database"
# A leftover must belong to the role that asks. A superuser is a member of every role: its leftover must belong to a superuser.
_OURS = "CASE WHEN me.rolsuper THEN o.rolsuper ELSE pg_catalog.pg_has_role(d.datdba, 'USAGE') END"
# The empty name is that of a session which a pooler keeps for its next client.
_OWN_PROGRAMS = "^($|pgvigil |pg_restore$|pg_dump$)"


class Scratch(NamedTuple):
    """A database that `make` created. `mark` is its comment, which no other database has."""

    name: str
    mark: str


def require_right(conn: psycopg.Connection, purpose: str, otherwise: str = "") -> None:
    """Raise PreconditionError if the role may not create databases, before the work that ends in one. `otherwise` avoids that."""
    row = conn.execute(
        "SELECT rolsuper OR rolcreatedb, pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles WHERE rolname = current_user"
    ).fetchone()
    if row is not None and not row[0]:
        raise PreconditionError(
            f"{purpose} needs a scratch database, and role {row[1]} may not create databases",
            f"As a superuser: ALTER ROLE {row[1]} CREATEDB;{f' Or {otherwise}.' if otherwise else ''} Nothing was changed.",
        )


def locale_of(conn: psycopg.Connection, name: str) -> list[tuple[str, sql.Composable]]:
    """Return the options of CREATE DATABASE by which text is compared as in the database of this name.

    Each is given: what is left out is that of template0, whose provider may be another one.
    """
    row = conn.execute(
        """SELECT pg_catalog.pg_encoding_to_char(d.encoding), pg_catalog.to_jsonb(d) FROM pg_catalog.pg_database d
           WHERE d.datname OPERATOR(pg_catalog.=) %s""",
        (name,),
    ).fetchone()
    assert row is not None  # noqa: S101 - a connection to it is or was open
    encoding, facts = row
    locale = facts.get("datlocale") or facts.get("daticulocale")  # 17 renamed it
    given = [("ENCODING", encoding), ("LC_COLLATE", facts["datcollate"]), ("LC_CTYPE", facts["datctype"])]
    match facts.get("datlocprovider"):  # 14 has none
        case "i":
            given += [("LOCALE_PROVIDER", "icu"), ("ICU_LOCALE", locale), ("ICU_RULES", facts.get("daticurules"))]
        case "b":
            given += [("LOCALE_PROVIDER", "builtin"), ("BUILTIN_LOCALE", locale)]
        case "c":
            given += [("LOCALE_PROVIDER", "libc")]
    return [(key, sql.Literal(value)) for key, value in given if value is not None]


def clause(options: Sequence[tuple[str, sql.Composable]]) -> sql.Composed:
    """Return options of CREATE DATABASE as it takes them."""
    return sql.SQL(" ").join(sql.SQL("{} {}").format(sql.SQL(key), value) for key, value in options)


def make(
    conn: psycopg.Connection,
    name: str,
    *,
    owner: str | None = None,
    options: Sequence[tuple[str, sql.Composable]] = (),
) -> Scratch:
    """Create an empty database that only the connected role (and superusers) can connect to, from the start.

    It is created without connections allowed; the transaction that allows them also revokes the rights of PUBLIC and of
    `owner`, and sets the mark. The owner keeps CREATE, which is needed to give it schemas. A superuser's scratch
    database is its own. Raise psycopg.Error.
    """
    row = conn.execute(
        """SELECT r.rolsuper, pg_catalog.pg_backend_pid(), r.rolname::text,
                  (SELECT (EXTRACT(epoch FROM a.backend_start) * 1000000)::bigint FROM pg_catalog.pg_stat_activity a
                   WHERE a.pid = pg_catalog.pg_backend_pid()), session_user::text
           FROM pg_catalog.pg_roles r WHERE r.rolname = current_user"""
    ).fetchone()
    assert row is not None  # noqa: S101 - this connection uses it
    superuser, pid, me, since, login = row
    other = owner if owner and owner != me and not superuser else None
    # The mark names the database, so a renamed one no longer has a valid mark; and the connection that created it.
    mark = f"{_MARK} {name}: {secrets.token_hex(8)}, made by process {pid} of {since}"
    database_name = sql.Identifier(name)
    words = [*([("OWNER", sql.Identifier(other))] if other else []), *options]
    created = False
    try:
        conn.execute(
            sql.SQL("CREATE DATABASE {} TEMPLATE template0 ALLOW_CONNECTIONS false {}").format(
                database_name, clause(words)
            )
        )
        created = True
        close_to_others(conn, database_name, mark, other, me, login)
    except BaseException as error:
        # Without its mark it would never be dropped. A statement that Ctrl-C interrupts may have ended before that reached the server.
        if created or (not isinstance(error, psycopg.Error) and _is_unmarked(conn, name)):
            with suppress(psycopg.Error):
                conn.execute(sql.SQL("DROP DATABASE {}").format(database_name))
        raise
    return Scratch(name, mark)


def _is_unmarked(conn: psycopg.Connection, name: str) -> bool:
    """Return true if there is a database of this name that nobody can connect to and that has no comment."""
    with suppress(psycopg.Error):
        row = conn.execute(
            """SELECT NOT d.datallowconn AND pg_catalog.shobj_description(d.oid, 'pg_database') IS NULL
               FROM pg_catalog.pg_database d WHERE d.datname = %s""",
            (name,),
        ).fetchone()
        return row == (True,)
    return False


def close_to_others(
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
        if login != me:  # the right to connect is checked for the login role, before any SET ROLE
            conn.execute(sql.SQL("GRANT CONNECT ON DATABASE {} TO {}").format(database_name, sql.Identifier(login)))
        conn.execute(sql.SQL("ALTER DATABASE {} ALLOW_CONNECTIONS true").format(database_name))


def close_public_schema(there: psycopg.Connection) -> bool:
    """Revoke CREATE on schema public from PUBLIC, which has it on 14, first of all. Return true if it was revoked.

    A role that is not a superuser does not own that schema on 14, and itself creates there by the right of PUBLIC.
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


def connection_to_clean_up(target: Target) -> psycopg.Connection:
    """Open a connection beside that of the command. A pooler may have no second session of the same database to give."""
    purpose = "scratch database (clean up)"
    try:
        return database.connect(target, purpose, within=2.0)
    except ConnectError:
        return database.connect(target.at("postgres"), purpose)


def drop(target: Target, scratch: Scratch, log: Log) -> None:
    """Drop a database that `make` created, on a new connection: Ctrl-C may have interrupted a query of the other one.

    A database whose name or comment has changed is kept. If it cannot be dropped, a warning says so.
    """
    with connection_to_clean_up(target) as conn:
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
                f'warning: scratch database "{scratch.name}" could not be dropped: {" ".join(str(error).split())}. '
                "The next run of this kind drops it when no session is connected to it."
            )


def drop_leftovers(conn: psycopg.Connection, pattern: str, log: Log) -> None:
    """Drop the scratch databases of killed runs: exact name, valid mark, right owner, no maker alive, no session connected."""
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
                    f'note: database "{name}" may be left by a killed run, but has no mark of pgvigil and is kept; '
                    f"if it is, run: {sql.SQL('DROP DATABASE {}').format(sql.Identifier(name)).as_string(conn)};"
                )
            continue
        if _lives(conn, int(made[1]), int(made[2])):
            continue
        with suppress(
            psycopg.errors.ObjectInUse, psycopg.errors.InvalidCatalogName, psycopg.errors.InsufficientPrivilege
        ):
            conn.execute(sql.SQL("DROP DATABASE {}").format(sql.Identifier(name)))
            log(f'dropped database "{name}", which a killed run had left')


def _lives(conn: psycopg.Connection, pid: int, since: int) -> bool:
    """Return true if the connection that created a database still exists. Its start is visible only to its own role and members."""
    row = conn.execute(
        """SELECT EXISTS (SELECT FROM pg_catalog.pg_stat_activity a WHERE a.pid = %s
                          AND coalesce((EXTRACT(epoch FROM a.backend_start) * 1000000)::bigint = %s, true))""",
        (pid, since),
    ).fetchone()
    return row == (True,)


def drop_quietly(target: Target, scratch: Scratch, log: Log) -> None:
    """Drop a database as `drop` does, but ignore errors, even a lost server."""
    with suppress(psycopg.Error, PgvigilError):
        drop(target, scratch, log)


@contextmanager
def opened(target: Target, scratch: Scratch, purpose: str, pattern: str, log: Log) -> Iterator[psycopg.Connection]:
    """Connect to a new database; in the end drop it, and all of this pattern that killed runs have left."""
    try:
        with database.connect(target.at(scratch.name), purpose) as there:
            close_public_schema(there)
            yield there
    finally:
        drop_quietly(target, scratch, log)
        with suppress(psycopg.Error, PgvigilError), connection_to_clean_up(target) as conn:
            drop_leftovers(conn, pattern, log)
