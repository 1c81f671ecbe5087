"""Replace a database by another one of its name, in one transaction."""

from __future__ import annotations

import re
import secrets
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeAlias

import psycopg
from psycopg import sql

from pgvigil import database
from pgvigil.backup import fingerprint
from pgvigil.database import Target
from pgvigil.errors import RestoreError

Rename: TypeAlias = "Callable[[psycopg.Connection, psycopg.Connection, str, str, psycopg.Connection | None], None]"

LOCK_WAIT = 10.0  # seconds for another run to finish, and for writers to release their tables


def carry_over(admin: psycopg.Connection, old: str, new: str, log: Callable[[str], object]) -> None:
    """Copy the settings and connection limit of the database, which no dump contains. `_open` does the rest.

    A setting that only a superuser or another role may make is left out, with a warning; its value may be a secret.
    """
    target = sql.Identifier(new)
    settings = admin.execute(
        """SELECT r.rolname, split_part(c, '=', 1), substr(c, strpos(c, '=') + 1)
           FROM pg_db_role_setting s JOIN pg_database d ON d.oid = s.setdatabase LEFT JOIN pg_roles r ON r.oid = s.setrole,
                unnest(s.setconfig) c WHERE d.datname = %s""",
        (old,),
    ).fetchall()
    for role, parameter, value in settings:
        whose = sql.SQL("ROLE {} IN DATABASE {}").format(sql.Identifier(role), target) if role else _database(target)
        try:
            admin.execute(
                sql.SQL("ALTER {} SET {} = {}").format(
                    whose, sql.Identifier(*parameter.split(".")), _value(parameter, value)
                )
            )
        except psycopg.errors.InsufficientPrivilege:
            log(
                f"warning: setting {parameter} of {f'role {role} in ' if role else ''}the database is not carried over, because role "
                f'"{admin.info.user}" may not set it: as a superuser, set it again; pg_db_role_setting has it of the kept database'
            )
    row = admin.execute("SELECT datconnlimit FROM pg_database WHERE datname = %s", (old,)).fetchone()
    if row and row[0] != -1:
        admin.execute(sql.SQL("ALTER DATABASE {} CONNECTION LIMIT {}").format(target, sql.Literal(row[0])))


def _open(admin: psycopg.Connection, old: str, new: str) -> None:
    """Copy owner, comment and rights. They open the new database to others, so this is last, in the transaction of the swap.

    The comment was pgvigil's mark of a database that it may drop, and is replaced here.
    """
    target = sql.Identifier(new)
    row = admin.execute(
        """SELECT shobj_description(d.oid, 'pg_database'), pg_get_userbyid(d.datdba)::text, pg_get_userbyid(n.datdba)::text,
                  ARRAY(SELECT DISTINCT pg_get_userbyid(a.grantee)::text
                        FROM aclexplode(coalesce(n.datacl, acldefault('d', n.datdba))) a WHERE a.grantee <> 0)
           FROM pg_database d, pg_database n WHERE d.datname = %s AND n.datname = %s""",
        (old, new),
    ).fetchone()
    assert row is not None  # noqa: S101 - both exist
    comment, owner, maker, grantees = row
    if owner != maker:
        admin.execute(sql.SQL("ALTER DATABASE {} OWNER TO {}").format(target, sql.Identifier(owner)))
        grantees = [owner if name == maker else name for name in grantees]
    admin.execute(sql.SQL("COMMENT ON DATABASE {} IS {}").format(target, sql.Literal(comment)))
    for name in {*grantees, owner}:
        admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM {}").format(target, sql.Identifier(name)))
    admin.execute(sql.SQL("REVOKE ALL ON DATABASE {} FROM PUBLIC").format(target))
    grants = admin.execute(
        """SELECT a.privilege_type, CASE WHEN a.grantee <> 0 THEN pg_get_userbyid(a.grantee) END, a.is_grantable
           FROM pg_database d, aclexplode(coalesce(d.datacl, acldefault('d', d.datdba))) a WHERE d.datname = %s""",
        (old,),
    ).fetchall()
    for privilege, grantee, grantable in grants:
        admin.execute(
            sql.SQL("GRANT {} ON DATABASE {} TO {}{}").format(
                sql.SQL(privilege), target, sql.Identifier(grantee) if grantee else sql.SQL("PUBLIC"),
                sql.SQL(" WITH GRANT OPTION" if grantable else ""),
            )
        )  # fmt: skip


def _database(name: sql.Identifier) -> sql.Composed:
    return sql.SQL("DATABASE {}").format(name)


# These are stored as a list of quoted names, and must be set one by one.
_LISTS = {"search_path", "temp_tablespaces", "session_preload_libraries", "local_preload_libraries"}


def _value(parameter: str, value: str) -> sql.Composable:
    if parameter.lower() not in _LISTS:
        return sql.Literal(value)
    names = [quoted.replace('""', '"') if quoted or not bare else bare
             for quoted, bare in re.findall(r'"((?:[^"]|"")*)"|([^",\s]+)', value)]  # fmt: skip
    return sql.SQL(", ").join(sql.Literal(name) for name in names) if names else sql.Literal("")


def swap(
    admin: psycopg.Connection,
    maintenance: Target,
    live: psycopg.Connection,
    name: str,
    new: str,
    kept: str,
    refuse_newer: Callable[[], None] | None,
    rename: Rename,
) -> tuple[str, float]:
    """Rename the live database to `kept` and the new one to its name, in one transaction, each by `rename` (see
    rename_in_use).

    Return the seconds it took, after the name that the replaced database has now: `kept`, unless that was taken
    meanwhile.

    With `refuse_newer`, the tables are locked against writing while they are compared with the backup a last time, and
    stay locked until all other sessions have ended: no row can be written in between.
    """
    with database.connect(maintenance, "restore (swap)") as helper:
        if refuse_newer:
            live.execute("BEGIN")
            live.execute(sql.SQL("SET LOCAL lock_timeout = {}").format(sql.Literal(int(LOCK_WAIT * 1000))))
            try:
                if there := fingerprint.tables(live):
                    live.execute(sql.SQL("LOCK TABLE {} IN SHARE MODE").format(sql.SQL(", ").join(map(sql.SQL, there))))
                refuse_newer()
            except psycopg.errors.LockNotAvailable as error:
                live.rollback()
                raise RestoreError(
                    f"the tables could not be locked against writing within {LOCK_WAIT:.0f} s",
                    "Stop the application, or end its long transactions (pg_stat_activity), then run this again.",
                ) from error
            except BaseException:
                live.rollback()
                raise
        clock = time.monotonic()
        aside = f"pgvigil_replaced_{secrets.token_hex(12)}"  # unpredictable, so it cannot be taken; the name `kept` can
        with admin.transaction():
            rename(admin, helper, name, aside, live)
            _open(admin, aside, new)
            rename(admin, helper, new, name, None)
            kept = _keep(admin, aside, kept)
        return kept, time.monotonic() - clock


def _keep(admin: psycopg.Connection, aside: str, kept: str) -> str:
    name = kept
    while True:
        statement = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(aside), sql.Identifier(name))
        try:
            with admin.transaction():  # a savepoint
                admin.execute(statement)
        except (psycopg.errors.DuplicateDatabase, psycopg.errors.UniqueViolation):
            name = kept.encode()[:54].decode(errors="ignore") + f"_{secrets.token_hex(4)}"
        else:
            return name


def rename_in_use(
    admin: psycopg.Connection, helper: psycopg.Connection, old: str, new: str, last: psycopg.Connection | None
) -> None:
    """Rename a database while it has sessions: they are ended, `last` at the end.

    ALTER DATABASE RENAME holds the database's lock while it waits (up to 5 s) for sessions to end, and new connections
    wait for that lock: so no new session starts, without ALLOW_CONNECTIONS false, which a crash would leave behind.
    """
    statement = sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(old), sql.Identifier(new))
    with ThreadPoolExecutor(1) as pool:
        renaming = pool.submit(admin.execute, statement)
        while not renaming.done():
            row = helper.execute(
                """SELECT EXISTS (SELECT FROM pg_locks l JOIN pg_database d ON d.oid = l.objid
                                  WHERE l.locktype = 'object' AND l.classid = 'pg_database'::regclass AND d.datname = %(name)s
                                    AND l.pid = %(admin)s AND l.mode = 'AccessExclusiveLock' AND l.granted),
                          (SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity
                           WHERE datname = %(name)s AND backend_type <> 'autovacuum worker' AND pid <> %(last)s)""",
                {
                    "name": old,
                    "admin": admin.info.backend_pid,
                    "last": last.info.backend_pid if last and not last.closed else 0,
                },
            ).fetchone()
            if row == (True, 0) and last:
                last.close()
            time.sleep(0.005)
        renaming.result()
