"""Find row security: rows that a policy hides from a role would be missing without an error."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import psycopg
from psycopg import sql

# For the connected role, and for each table's owner, whose rights pgvigil's functions have, or for the role that acts for an owner
# who is a superuser; it may not be there yet. A role sees all rows if, for every command, a permissive policy for it is `true` and no
# restrictive one is anything else.
_ROW_SECURITY = """
    WITH roles AS (
        SELECT oid, rolname, rolsuper, rolbypassrls FROM pg_catalog.pg_roles
        UNION ALL
        SELECT 0, %(instead)s, false, false WHERE %(instead)s::name NOT IN (SELECT rolname FROM pg_catalog.pg_roles)
    )
    SELECT pg_catalog.format('%%I.%%I', n.nspname, c.relname) AS name, r.rolname, pg_catalog.pg_has_role(r.oid, c.relowner, 'USAGE') AS owns,
           pg_catalog.bool_and(p.shows_all) AS sees_all
    FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    JOIN roles o ON o.oid = c.relowner
    JOIN roles r ON r.rolname = current_user OR r.oid = c.relowner OR (r.rolname = %(instead)s AND o.rolsuper)
    CROSS JOIN LATERAL (
        SELECT coalesce(bool_or(q.is_true) FILTER (WHERE q.polpermissive), false)
               AND coalesce(bool_and(q.is_true) FILTER (WHERE NOT q.polpermissive), true) AS shows_all
        FROM unnest('{r,a,w,d}'::"char"[]) command
        LEFT JOIN LATERAL (
            SELECT p.polpermissive, coalesce(pg_get_expr(p.polqual, c.oid), 'true') = 'true'
                                    AND coalesce(pg_get_expr(p.polwithcheck, c.oid), 'true') = 'true' AS is_true
            FROM pg_policy p
            WHERE p.polrelid = c.oid AND p.polcmd IN ('*', command)
              AND (0 = ANY (p.polroles) OR EXISTS (SELECT FROM unnest(p.polroles) o WHERE pg_has_role(r.oid, o, 'USAGE')))
        ) q ON true
        GROUP BY command
    ) p
    WHERE c.relrowsecurity AND c.relkind IN ('r', 'p') AND (%(schemas)s::text[] IS NULL OR n.nspname = ANY (%(schemas)s))
      AND NOT r.rolsuper AND NOT r.rolbypassrls AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
    GROUP BY c.oid, n.nspname, c.relname, c.relowner, r.oid, r.rolname
    ORDER BY 1, 2"""


def hides_rows(error: psycopg.Error) -> bool:
    """Return true if the server, in whatever language, or a function of ours refused a query because a policy would hide rows."""
    return error.diag.source_file == "rls.c" or "row-level security" in (error.diag.message_primary or "")


@dataclass(frozen=True)
class Hidden:
    """A table, by its qualified name, whose policies may hide rows from a role: true if it owns the table, or if it acts
    for an owner who is a superuser.
    """

    table: str
    role: str
    is_owner: bool
    acts_for_owner: bool = False

    @property
    def remedies(self) -> list[str]:
        """Return the statements of which one is enough."""
        role = sql.Identifier(self.role).as_string()
        if self.is_owner:
            return [
                f"ALTER TABLE {self.table} NO FORCE ROW LEVEL SECURITY;",
                f"CREATE POLICY pgvigil_owner ON {self.table} TO {role} USING (true);  -- or this",
            ]
        other = "let a role own the tables that is not a superuser" if self.acts_for_owner else "connect as the owner"
        return [f"CREATE POLICY pgvigil_jobs ON {self.table} TO {role} USING (true);  -- or {other}"]


def see_all_rows(
    conn: psycopg.Connection, schemas: Sequence[str] | None = None, *, instead: str | None = None
) -> list[Hidden]:
    """Turn row security on in this session if in these schemas it shows all rows; otherwise reading such a table raises
    an error.

    Return the tables and roles for which rows may be hidden. `instead` names the role that reads tables whose owner is a
    superuser.
    """
    names = {"schemas": None if schemas is None else list(schemas), "instead": instead}
    rows = conn.execute(_ROW_SECURITY, names).fetchall()
    hidden = [Hidden(table, role, owns, role == instead) for table, role, owns, sees_all in rows if not sees_all]
    conn.execute(f"SET row_security = {'on' if rows and not hidden else 'off'}")
    return hidden
