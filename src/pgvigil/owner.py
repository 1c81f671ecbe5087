"""Run statements with the rights of the owner of the tables.

The owner's objects may hold code of that role, in triggers, CHECKs and functions, and no role with more rights may run
that code with them.

SET ROLE is not a boundary: a trigger may RESET ROLE, and a deferred one runs at COMMIT. A SECURITY DEFINER function is
one: no SET ROLE is possible inside. Its end is that of pgvigil.finish_owner_code, which may not be there yet: deferred
triggers run, cursors that are held (they are computed at the COMMIT) are closed, and the settings by which the session
reads its next statements are taken back.

An object that was as shipped a moment ago may differ now: its owner may delay a command by a lock and replace what it
calls next, or have a trigger replace it meanwhile. Therefore all that a command calls or reads after its first answer
goes through such a function.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any, LiteralString, NamedTuple
from weakref import WeakKeyDictionary

import psycopg
from psycopg import errors, sql
from psycopg.rows import tuple_row

from pgvigil.errors import PreconditionError

OWN_ROLE = "pgvigil_owner"  # without login; owns what a superuser makes where nobody else does

# The condition on owner o and connected role u: u is a superuser, and o another role that somebody can act as. The path may be the owner's.
_UNDER = """
    u.rolname OPERATOR(pg_catalog.=) current_user AND u.rolsuper AND NOT o.rolsuper
    AND (o.rolname OPERATOR(pg_catalog.<>) 'pgvigil_owner' OR o.rolcanlogin
         OR EXISTS (SELECT FROM pg_catalog.pg_auth_members m JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) m.member
                    WHERE m.roleid OPERATOR(pg_catalog.=) o.oid AND NOT r.rolsuper))"""
# The owner of what is ours, if that is so.
UNDER_SUPERUSER = f"""
    SELECT o.rolname::pg_catalog.text
    FROM pg_catalog.pg_namespace n JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) n.nspowner
    CROSS JOIN pg_catalog.pg_roles u
    WHERE n.nspname OPERATOR(pg_catalog.=) 'pgvigil' AND {_UNDER}"""

# The session settings by which the next statements are read: under another client_encoding, the end of a quoted name is elsewhere.
_UNDERSTOOD_BY = {
    "search_path": "pg_catalog, pg_temp",
    "client_encoding": "UTF8",
    "standard_conforming_strings": "on",
    "backslash_quote": "safe_encoding",
    "quote_all_identifiers": "off",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "exit_on_error": "off",
    "xmloption": "content",
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "bytea_output": "hex",
    "extra_float_digits": "1",
}

# A trigger that SET CONSTRAINTS fires may defer others again, which would run at the COMMIT with the rights of whoever commits. From
# PostgreSQL 18 on, it has those that it was queued with, but one that defers itself for ever keeps the COMMIT from its end. A trigger that
# fires reads its row: once no page of a user's table was read, none did.
_END = (
    """
        LOOP
            SET CONSTRAINTS ALL IMMEDIATE;
            EXIT WHEN NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgdeferrable AND NOT t.tgisinternal);
            seen := pg_catalog.concat((
                SELECT pg_catalog.string_agg(pg_catalog.concat(c.oid, ' ', pg_catalog.pg_stat_get_xact_blocks_fetched(c.oid)), ',' ORDER BY c.oid)
                FROM pg_catalog.pg_class c
                WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND pg_catalog.pg_stat_get_xact_blocks_fetched(c.oid) OPERATOR(pg_catalog.>) 0
                  AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid));
            EXIT WHEN seen OPERATOR(pg_catalog.=) before;
            IF rounds OPERATOR(pg_catalog.=) 100 OR pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'off' THEN
                RAISE EXCEPTION 'deferred triggers may be left for the COMMIT of %, with its rights or without an end', session_user
                    USING HINT = 'Connect as the owner of the tables.';
            END IF;
            before := seen;
            rounds := rounds OPERATOR(pg_catalog.+) 1;
        END LOOP;
        FOR held IN SELECT c.name FROM pg_catalog.pg_cursors c WHERE c.is_holdable AND c.creation_time OPERATOR(pg_catalog.>=) pg_catalog.statement_timestamp() LOOP
            EXECUTE pg_catalog.format('CLOSE %I', held);
        END LOOP;
        PERFORM pg_catalog.set_config(s.name, s.value, false)
        FROM (VALUES """
    + ", ".join(f"('{name}', '{value}')" for name, value in _UNDERSTOOD_BY.items())
    + """) AS s (name, value)
        WHERE pg_catalog.current_setting(s.name) OPERATOR(pg_catalog.<>) s.value;"""
)

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


Row = tuple[str | None, ...]
Values = Sequence[object] | Mapping[str, object]


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
        self._define(conn, _RUN)
        row = conn.execute(
            "SELECT pg_temp.pgvigil_run_as_owner(%s::text, %s::boolean)", (statement, wants_row)
        ).fetchone()
        return row[0] if row else None

    def rows(self, conn: psycopg.Connection[Any], columns: str, query: str, values: Values = ()) -> list[Any]:
        """Return the rows of a query, whose columns have these names and types."""
        with conn.cursor(row_factory=tuple_row) as cursor:
            return cursor.execute(self.reading(conn, columns, query, values).encode()).fetchall()

    def reading(self, conn: psycopg.Connection[Any], columns: str, query: str, values: Values = ()) -> str:
        """Return a query that answers the same with the owner's rights: once, because the owner's code may replace what it calls."""
        statement = psycopg.ClientCursor(conn).mogrify(query, values) if values else query
        each = [column.split(" ", 1) for column in columns.split(", ")]
        cast = ", ".join(f'r."{name}"::{kind}' for name, kind in each)
        names = ", ".join(f'"{name}"' for name, _ in each)
        statement = f"SELECT {cast} FROM (\n{statement}\n) AS r ({names})"
        typed = ", ".join(f'"{name}" {kind}' for name, kind in each)
        self._define(conn, _READ)
        return f"SELECT * FROM pg_temp.pgvigil_read_as_owner({sql.quote(statement, conn)}) AS r ({typed})"

    def _define(self, conn: psycopg.Connection[Any], function: LiteralString) -> None:
        try:
            conn.execute(sql.SQL(function).format(owner=sql.Identifier(self.name)))
        except errors.ReadOnlySqlTransaction as error:
            raise PreconditionError(
                f"{conn.info.user} is a superuser, and objects of pgvigil belong to {self.name}: they are read in a function with that role's "
                "rights, which cannot be made on a standby or in a read-only session",
                f"Connect as {self.name} or as a member of pgvigil_reader.",
            ) from error


# Whose code the objects of pgvigil may hold, for connections with more rights than theirs.
_CONFINED: WeakKeyDictionary[psycopg.Connection[Any], Owner] = WeakKeyDictionary()


def confine(conn: psycopg.Connection[Any], owner: str) -> None:
    """Make `rows` and `execute` work with the rights of this role on the connection from now on."""
    _CONFINED[conn] = Owner(owner, is_other=True)


def confined(conn: psycopg.Connection[Any]) -> Owner | None:
    """Return the role whose rights `rows` and `execute` take; None for those of the connection."""
    return _CONFINED.get(conn)


def rows(conn: psycopg.Connection[Any], columns: str, query: str, values: Values = ()) -> list[Any]:
    """Return the rows of a query on objects of pgvigil. `columns` are their names and types: "job text, total bigint"."""
    if owner := _CONFINED.get(conn):
        return owner.rows(conn, columns, query, values)
    with conn.cursor(row_factory=tuple_row) as cursor:
        return cursor.execute(query.encode(), values or None).fetchall()


def execute(conn: psycopg.Connection[Any], statement: str, values: Values = ()) -> None:
    """Run one statement on objects of pgvigil."""
    if owner := _CONFINED.get(conn):
        owner.execute(conn, psycopg.ClientCursor(conn).mogrify(statement, values) if values else statement)
    else:
        conn.execute(statement.encode(), values or None)


def copied(
    conn: psycopg.Connection[Any], table: str, columns: str, only: Callable[[Row], bool] = lambda _: True
) -> list[Row]:
    """Return the rows of a table as text, those that `only` accepts. This runs no code of the table's owner: a COPY of a table makes no plan, and refuses a view.

    Raises WrongObjectType for what is not a table.
    """
    with conn.cursor() as cursor, cursor.copy(f"COPY {table} ({columns}) TO STDOUT".encode()) as copy:
        return [row for row in copy.rows() if only(row)]


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


def other_owner(conn: psycopg.Connection[Any], table: str) -> Owner | None:
    """Return the owner of a relation, given as its quoted name, if who is connected is a superuser and another role can act as the owner."""
    query = f"""
        SELECT o.rolname::pg_catalog.text
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles o ON o.oid OPERATOR(pg_catalog.=) c.relowner
        CROSS JOIN pg_catalog.pg_roles u
        WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s)::pg_catalog.oid AND {_UNDER}"""
    row = conn.execute(query.encode(), (table,)).fetchone()
    return None if row is None else Owner(row[0], is_other=True)


def owner_of_table(conn: psycopg.Connection[Any], table: str) -> Owner | None:
    """Return the owner of a table of ours, or None if it does not exist."""
    row = conn.execute(
        """SELECT r.rolname::text, r.rolname OPERATOR(pg_catalog.<>) current_user AND pg_catalog.pg_has_role(current_user, r.oid, 'MEMBER')
           FROM pg_catalog.pg_class c JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) c.relowner
           WHERE c.oid OPERATOR(pg_catalog.=) pg_catalog.to_regclass(%s) AND c.relkind OPERATOR(pg_catalog.=) 'r'""",
        (table,),
    ).fetchone()
    return None if row is None else Owner(row[0], is_other=row[1])


def require_closed_owner(conn: psycopg.Connection[Any], schema: str) -> None:
    """Raise PreconditionError where a superuser would give all objects to a role that somebody else can act as.

    What such a role puts in their place while the migrations run would run with a superuser's rights.
    """
    rows = conn.execute(
        """SELECT CASE WHEN o.rolcanlogin THEN format('ALTER ROLE %%I NOLOGIN;', o.rolname) END,
                  ARRAY(SELECT format('REVOKE %%I FROM %%I;', o.rolname, r.rolname)
                        FROM pg_auth_members m JOIN pg_roles r ON r.oid = m.member WHERE m.roleid = o.oid AND NOT r.rolsuper ORDER BY 1)
           FROM pg_roles u JOIN pg_roles o ON o.rolname = %(owner)s
           WHERE u.rolname = current_user AND u.rolsuper
             AND NOT EXISTS (SELECT FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace JOIN pg_roles r ON r.oid = c.relowner
                             WHERE n.nspname = %(schema)s AND c.relname = 'sessions' AND NOT r.rolsuper)""",
        {"owner": OWN_ROLE, "schema": schema},
    ).fetchall()
    statements = [statement for login, members in rows for statement in [login, *members] if statement]
    if statements:
        raise PreconditionError(
            f"everything of pgvigil would belong to {OWN_ROLE}, and another role can act as that one: functions that the other role "
            f"replaces during the run would run with the rights of {conn.info.user}",
            "Nothing was changed. Close the role, then run this again; afterwards it may be granted again:\n  "
            + "\n  ".join(statements),
        )
