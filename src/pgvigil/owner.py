"""Run statements with the rights of the owner of the tables.

The owner's objects may hold code of that role, in triggers, CHECKs and functions, and no role with more rights may run
that code with them.

SET ROLE is not a boundary: a trigger may RESET ROLE, and a deferred one runs at COMMIT. A SECURITY DEFINER function is
one: no SET ROLE is possible inside. Its end is that of pgvigil.finish_owner_code, which may not be there yet: deferred
triggers run, cursors that are held (they are computed at the COMMIT) are closed, and a path that the code has left is
taken back.

An object that was as shipped a moment ago may differ now: its owner may delay a command by a lock and replace what it
calls next, or have a trigger replace it meanwhile. Therefore all that a command calls or reads after its first answer
goes through such a function.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import sql
from psycopg.rows import tuple_row

OWN_ROLE = "pgvigil_owner"  # without login; owns what a superuser makes where nobody else does

# The owner of what is ours, if who is connected is a superuser and the owner is another role that somebody can act as. The path may be
# the owner's.
UNDER_SUPERUSER = """
    SELECT o.rolname::pg_catalog.text
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) n.nspowner
    JOIN pg_catalog.pg_roles u ON u.rolname OPERATOR(pg_catalog.=) current_user
    WHERE n.nspname OPERATOR(pg_catalog.=) 'pgvigil' AND u.rolsuper AND NOT o.rolsuper
      AND (o.rolname OPERATOR(pg_catalog.<>) 'pgvigil_owner'
           OR EXISTS (SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) m.member
                      WHERE m.roleid OPERATOR(pg_catalog.=) o.oid AND NOT r.rolsuper))"""

# A trigger that SET CONSTRAINTS fires may defer others again, which would run at the COMMIT with the rights of whoever commits (from
# PostgreSQL 18 on, with those that they were queued with). A trigger that fires reads its row: once no page of a user's table was read, none did.
_END = """
        LOOP
            SET CONSTRAINTS ALL IMMEDIATE;
            EXIT WHEN pg_catalog.current_setting('server_version_num')::pg_catalog.int4 OPERATOR(pg_catalog.>=) 180000
                   OR NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgdeferrable AND NOT t.tgisinternal);
            seen := pg_catalog.concat((
                SELECT pg_catalog.string_agg(pg_catalog.concat(c.oid, ' ', pg_catalog.pg_stat_get_xact_blocks_fetched(c.oid)), ',' ORDER BY c.oid)
                FROM pg_catalog.pg_class c
                WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND pg_catalog.pg_stat_get_xact_blocks_fetched(c.oid) OPERATOR(pg_catalog.>) 0
                  AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid));
            EXIT WHEN seen OPERATOR(pg_catalog.=) before;
            IF rounds OPERATOR(pg_catalog.=) 100 OR pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'off' THEN
                RAISE EXCEPTION 'deferred triggers may be left for the COMMIT, which would run them with the rights of %', session_user
                    USING HINT = 'Connect as the owner of the tables.';
            END IF;
            before := seen;
            rounds := rounds OPERATOR(pg_catalog.+) 1;
        END LOOP;
        FOR held IN SELECT c.name FROM pg_catalog.pg_cursors c WHERE c.is_holdable AND c.creation_time OPERATOR(pg_catalog.>=) pg_catalog.statement_timestamp() LOOP
            EXECUTE pg_catalog.format('CLOSE %I', held);
        END LOOP;
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);"""

# Made again before each call: what ran in the last one, in this very session, may have put something else in its place.
_RUN = (
    """
    CREATE OR REPLACE FUNCTION pg_temp.pgvigil_run_as_owner(statement text, wants_row boolean) RETURNS text
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $run$
    DECLARE
        result text;
        held   text;
        seen   text;
        before text;
        rounds integer := 0;
    BEGIN
        IF wants_row THEN
            EXECUTE statement INTO result;
        ELSE
            EXECUTE statement;
        END IF;"""
    + _END
    + """
        RETURN result;
    END $run$;
    ALTER FUNCTION pg_temp.pgvigil_run_as_owner(text, boolean) OWNER TO {owner}"""
)
_READ = (
    """
    CREATE OR REPLACE FUNCTION pg_temp.pgvigil_read_as_owner(statement text) RETURNS SETOF record
    LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, pg_temp AS $run$
    DECLARE
        held   text;
        seen   text;
        before text;
        rounds integer := 0;
    BEGIN
        RETURN QUERY EXECUTE statement;"""
    + _END
    + """
    END $run$;
    ALTER FUNCTION pg_temp.pgvigil_read_as_owner(text) OWNER TO {owner}"""
)


class Owner(NamedTuple):
    """The role that everything of ours belongs to in a database, and whether who is connected is another one who may do what it may."""

    name: str
    is_other: bool

    def execute(self, conn: psycopg.Connection, statement: str) -> None:
        """Run one statement with the owner's rights."""
        if self.is_other:
            self._call(conn, statement, wants_row=False)
        else:
            conn.execute(statement.encode())

    def scalar(self, conn: psycopg.Connection, statement: str) -> str | None:
        """The first column of the first row of a query, as text."""
        if self.is_other:
            return self._call(conn, statement, wants_row=True)
        row = conn.execute(statement.encode()).fetchone()
        return None if row is None or row[0] is None else str(row[0])

    def _call(self, conn: psycopg.Connection, statement: str, *, wants_row: bool) -> str | None:
        conn.execute(sql.SQL(_RUN).format(owner=sql.Identifier(self.name)))
        row = conn.execute(
            "SELECT pg_temp.pgvigil_run_as_owner(%s::text, %s::boolean)", (statement, wants_row)
        ).fetchone()
        return row[0] if row else None

    def rows(self, conn: psycopg.Connection[Any], columns: str, query: str, values: Sequence[object] = ()) -> list[Any]:
        """Return the rows of a query, whose columns have these names and types."""
        statement = psycopg.ClientCursor(conn).mogrify(query, values) if values else query
        conn.execute(sql.SQL(_READ).format(owner=sql.Identifier(self.name)))
        with conn.cursor(row_factory=tuple_row) as cursor:
            cursor.execute(
                f"SELECT * FROM pg_temp.pgvigil_read_as_owner(%s::pg_catalog.text) AS r ({columns})".encode(),
                (statement,),
            )
            return cursor.fetchall()


# Whose code the objects of pgvigil may hold, for connections with more rights than theirs.
_CONFINED: WeakKeyDictionary[psycopg.Connection[Any], Owner] = WeakKeyDictionary()


def confine(conn: psycopg.Connection[Any], owner: str) -> None:
    """Make `rows` and `execute` work with the rights of this role on the connection from now on."""
    _CONFINED[conn] = Owner(owner, is_other=True)


def confined(conn: psycopg.Connection[Any]) -> Owner | None:
    """Return the role whose rights `rows` and `execute` take; None for those of the connection."""
    return _CONFINED.get(conn)


def rows(conn: psycopg.Connection[Any], columns: str, query: str, values: Sequence[object] = ()) -> list[Any]:
    """Return the rows of a query on objects of pgvigil. `columns` are their names and types: "job text, total bigint"."""
    if owner := _CONFINED.get(conn):
        return owner.rows(conn, columns, query, values)
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(), values or None).fetchall()


def execute(conn: psycopg.Connection[Any], statement: str, values: Sequence[object] = ()) -> None:
    """Run one statement on objects of pgvigil."""
    if owner := _CONFINED.get(conn):
        owner.execute(conn, psycopg.ClientCursor(conn).mogrify(statement, values) if values else statement)
    else:
        conn.execute(statement.encode(), values or None)


def owner_of(conn: psycopg.Connection[Any], schema: str) -> Owner:
    """Return the owner of our objects: the owner of the table sessions; where that is a superuser, or a superuser makes a new
    install, a role without login. A superuser who works for either of these two runs no code but his own.
    """
    row = conn.execute(
        """SELECT current_user::text, (SELECT r.rolsuper FROM pg_catalog.pg_roles r WHERE r.rolname OPERATOR(pg_catalog.=) current_user),
                  o.rolname::text, o.rolsuper, pg_catalog.pg_has_role(current_user, o.oid, 'MEMBER')
           FROM (SELECT) one LEFT JOIN (
               SELECT r.oid, r.rolname, r.rolsuper FROM pg_catalog.pg_class c
               JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
               JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) c.relowner
               WHERE n.nspname OPERATOR(pg_catalog.=) %s::name AND c.relname OPERATOR(pg_catalog.=) 'sessions') o ON true""",
        (schema,),
    ).fetchone()
    assert row is not None  # noqa: S101 - a SELECT without FROM has a row
    user, superuser, owner, owned_by_superuser, is_member = row
    if owner is None or owned_by_superuser:
        return Owner(OWN_ROLE if superuser else user, is_other=False)
    return Owner(owner, is_other=owner != user and is_member)


def owner_of_table(conn: psycopg.Connection[Any], table: str) -> Owner | None:
    """Return the owner of a table of ours, or None if it does not exist."""
    row = conn.execute(
        """SELECT r.rolname::text, r.rolname OPERATOR(pg_catalog.<>) current_user AND pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) c.relowner
           WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s) AND c.relkind OPERATOR(pg_catalog.=) 'r'""",
        (table,),
    ).fetchone()
    return None if row is None else Owner(row[0], is_other=row[1])
