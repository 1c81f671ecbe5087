"""Require consent to run the code that is in an archive, and the roles that the archive needs.

A CHECK, an index expression, a generated column or a trigger of the archive runs as the role that restores; SET ROLE
does not protect, because code may RESET ROLE. So a superuser restores objects of another role only on request
(--run-owner-code).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from contextlib import contextmanager

import psycopg
from psycopg import sql

from pgvigil.backup import fingerprint
from pgvigil.errors import PreconditionError, RestoreError
from pgvigil.owner import OWN_ROLE
from pgvigil.planned_code import planned_code

OPTION = "--run-owner-code"


def require_consent_for(conn: psycopg.Connection, agreed: bool, *, otherwise: str = "") -> None:
    """Require consent for a copy of the database of `conn`. `otherwise` names an alternative that runs no code."""
    _require(conn, fingerprint.owners(conn), agreed, otherwise)


def require_consent(
    conn: psycopg.Connection, owners: Iterable[str] | None, agreed: bool, *, system_identifier: str, otherwise: str = ""
) -> None:
    """Require consent for an archive whose objects belong to these roles, on the server of `conn`.

    Raise PreconditionError (exit 4).
    """
    row = conn.execute("SELECT system_identifier::text FROM pg_catalog.pg_control_system()").fetchone()
    elsewhere = "" if row == (system_identifier,) else "the backup was taken on another server"
    if owners is None:
        elsewhere = elsewhere or "the manifest does not name the owners of its objects"
    _require(conn, owners or (), agreed, otherwise, elsewhere)


def require_plain_reading(conn: psycopg.Connection, agreed: bool) -> None:
    """Require consent to read the tables of `conn` where a table's indexes or CHECKs call functions of others, which
    planning a query runs. pg_dump copies tables without such a plan; the fingerprints are queries.

    Raise PreconditionError (exit 4).
    """
    if agreed or not _is_superuser(conn):
        return
    schemas = [
        name
        for (name,) in conn.execute(
            "SELECT nspname::text FROM pg_catalog.pg_namespace WHERE nspname !~ '^pg_' AND nspname <> 'information_schema'"
        )
    ]
    if found := list(planned_code(conn, schemas)):
        raise _runs_code(conn, found)


def plain_reading(conn: psycopg.Connection, agreed: bool) -> fingerprint.Guard | None:
    """Return what keeps the owner of a table from a view in its place, or such an index, between the look at the table and its reading;
    None where nothing has to. A standby has no such lock. `conn` looks: a snapshot that is read in is older than what is planned with.
    """
    if agreed or not _is_superuser(conn) or conn.execute("SELECT pg_is_in_recovery()").fetchone() == (True,):
        return None

    @contextmanager
    def guard(reader: psycopg.Connection, name: str) -> Iterator[None]:
        with reader.transaction(force_rollback=True):  # which releases the lock at once
            reader.execute(sql.SQL("LOCK TABLE {} IN SHARE UPDATE EXCLUSIVE MODE").format(sql.SQL(name)))
            row = conn.execute(
                """SELECT n.nspname::text, c.relname::text, c.relkind::text FROM pg_catalog.pg_class c
                   JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = pg_catalog.to_regclass(%s)""",
                (name,),
            ).fetchone()
            if row is None or row[2] not in ("r", "p"):
                raise PreconditionError(f"{name} is no longer a table", "Run this again. Nothing was changed.")
            if found := list(planned_code(conn, (), row[0], (row[1],))):
                raise _runs_code(conn, found)
            yield

    return guard


def _is_superuser(conn: psycopg.Connection) -> bool:
    return conn.execute("SELECT pg_catalog.current_setting('is_superuser')").fetchone() == ("on",)


def _runs_code(conn: psycopg.Connection, found: list[str]) -> PreconditionError:
    more = f" and {len(found) - 3} more" if len(found) > 3 else ""
    return PreconditionError(
        f'role "{conn.info.user}" is a superuser, and reading the tables would run functions of others with its rights: '
        f"{'; '.join(found[:3])}{more}",
        f"Choose one of 2 ways: connect as the owner of the tables; or add {OPTION}. Nothing was changed.",
    )


def _require(
    conn: psycopg.Connection, owners: Iterable[str], agreed: bool, otherwise: str, elsewhere: str = ""
) -> None:
    row = conn.execute(
        """SELECT pg_catalog.current_setting('is_superuser')::boolean
                  OR (SELECT rolsuper FROM pg_catalog.pg_roles WHERE rolname = session_user),
                  ARRAY(SELECT r.rolname::text FROM pg_catalog.pg_roles r
                        WHERE r.rolname = ANY (%s) AND NOT r.rolsuper AND NOT (
                            r.rolname = %s AND NOT r.rolcanlogin AND NOT EXISTS (
                                SELECT FROM pg_catalog.pg_roles m
                                WHERE NOT m.rolsuper AND m.oid <> r.oid AND pg_catalog.pg_has_role(m.oid, r.oid, 'MEMBER')))
                        ORDER BY 1)""",
        (list(owners), OWN_ROLE),
    ).fetchone()
    assert row is not None  # noqa: S101 - the query has no table
    superuser, others = row
    if not superuser or agreed or not (others or elsewhere):
        return
    names = ", ".join(f'"{name}"' for name in others[:5]) + (" and others" if len(others) > 5 else "")
    whose = f"objects in it belong to {names}, not to a superuser" if others else elsewhere
    ways = [
        f"connect as {names}" if len(others) == 1 else "connect as a role that is not a superuser and owns the objects"
    ]
    ways += [f"add {OPTION}, which runs that code with a superuser's rights", *([otherwise] if otherwise else [])]
    raise PreconditionError(
        f'role "{conn.info.user}" is a superuser, and restoring the archive runs code in it (CHECK constraints, '
        f"index expressions, triggers): {whose}",
        f"Choose one of {len(ways)} ways: {'; or '.join(ways)}. Nothing was changed.",
    )


def require_roles(conn: psycopg.Connection, roles: Iterable[str]) -> None:
    """Raise RestoreError for the roles of an archive that this server does not have, before anything is done.

    Without them owners cannot be set, and a list of rights that names a missing role is not executed at all, including its
    REVOKE … FROM PUBLIC: functions would be open to all roles.
    """
    rows = conn.execute(
        """SELECT pg_catalog.format('CREATE ROLE %%I;', name) FROM pg_catalog.unnest(%s::text[]) name
           WHERE NOT EXISTS (SELECT FROM pg_catalog.pg_roles r WHERE r.rolname = name) ORDER BY 1""",
        (list(roles),),
    ).fetchall()
    if rows:
        raise RestoreError(
            f"this server does not have {len(rows)} of the roles that the archive names, so owners and rights would be lost",
            "Copy them first (pg_dumpall --roles-only on the server of the backup), or create them: "
            f"{' '.join(statement for (statement,) in rows)} Nothing was changed.",
        )
