"""The owners of code that runs when rows of the session application are written.

A trigger has the rights of the role that writes. SET ROLE is not a boundary, because such code may RESET ROLE. So a
superuser does not run code that another role could have written unless asked to.
"""

from __future__ import annotations

from pgvigil.errors import PreconditionError
from pgvigil.owner import OWN_ROLE
from pgvigil.validate.catalog.snapshot import Connection

OPTION = "--run-owner-code"
_TABLES = [
    "sessions",
    "context_history",
    "codebase_snapshots",
    "handoff_requests",
    "session_lifecycle",
    "performance_logs",
]
_TABLES += ["session_monitoring_view", "performance_monitoring_view"]

# Owners of the relations, of what their triggers, defaults, CHECKs, indexes, rules and columns call, and of our functions.
# A superuser's code is a superuser's. So is that of pgvigil_owner, which pgvigil makes for installs of superusers, while
# nobody else can act as it. Any other role that nobody can act as now may have been one that its users left code in.
_OTHERS = """
WITH RECURSIVE ours AS (
    SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname OPERATOR(pg_catalog.=) ANY ('{pgvigil,instrumentation}'::name[])
       OR n.nspname OPERATOR(pg_catalog.=) %(schema)s::name AND c.relname OPERATOR(pg_catalog.=) ANY (%(tables)s::name[])
    UNION
    SELECT i.inhrelid FROM ours JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) ours.oid
), called AS (
    SELECT g.tgfoid AS oid FROM ours JOIN pg_catalog.pg_trigger g ON g.tgrelid OPERATOR(pg_catalog.=) ours.oid
    UNION
    SELECT p.oid FROM pg_catalog.pg_proc p JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) p.pronamespace
    WHERE n.nspname OPERATOR(pg_catalog.=) ANY ('{pgvigil,instrumentation}'::name[])
    UNION
    SELECT d.refobjid FROM ours
    CROSS JOIN LATERAL (
        SELECT 'pg_catalog.pg_attrdef'::regclass AS class, a.oid FROM pg_catalog.pg_attrdef a WHERE a.adrelid OPERATOR(pg_catalog.=) ours.oid
        UNION ALL
        SELECT 'pg_catalog.pg_constraint'::regclass, c.oid FROM pg_catalog.pg_constraint c WHERE c.conrelid OPERATOR(pg_catalog.=) ours.oid
        UNION ALL
        SELECT 'pg_catalog.pg_rewrite'::regclass, r.oid FROM pg_catalog.pg_rewrite r WHERE r.ev_class OPERATOR(pg_catalog.=) ours.oid
        UNION ALL
        SELECT 'pg_catalog.pg_class'::regclass, i.indexrelid FROM pg_catalog.pg_index i WHERE i.indrelid OPERATOR(pg_catalog.=) ours.oid
    ) part
    JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) part.class AND d.objid OPERATOR(pg_catalog.=) part.oid
    WHERE d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass
), owners AS (
    SELECT c.relowner AS oid FROM ours JOIN pg_catalog.pg_class c ON c.oid OPERATOR(pg_catalog.=) ours.oid
    UNION
    SELECT p.proowner FROM called JOIN pg_catalog.pg_proc p ON p.oid OPERATOR(pg_catalog.=) called.oid
    UNION
    SELECT y.typowner FROM ours JOIN pg_catalog.pg_attribute a ON a.attrelid OPERATOR(pg_catalog.=) ours.oid
    JOIN pg_catalog.pg_type y ON y.oid OPERATOR(pg_catalog.=) a.atttypid
)
SELECT pg_catalog.array_agg(r.rolname::text ORDER BY r.rolname) FROM owners JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) owners.oid
WHERE NOT r.rolsuper AND (r.rolname OPERATOR(pg_catalog.<>) %(own_role)s::name OR r.rolcanlogin OR EXISTS (
    SELECT FROM pg_catalog.pg_roles m
    WHERE NOT m.rolsuper AND m.oid OPERATOR(pg_catalog.<>) r.oid AND pg_catalog.pg_has_role(m.oid, r.oid, 'MEMBER')))"""

_SUPERUSER = """
SELECT pg_catalog.bool_or(rolsuper) FROM pg_catalog.pg_roles
WHERE rolname OPERATOR(pg_catalog.=) ANY (ARRAY[session_user, current_user])"""


def require_owner_or_consent(
    conn: Connection, schema: str, run_owner_code: bool, *, consent: str = f"add {OPTION}"
) -> None:
    """Refuse to write rows into the application's tables, or to read its views, with code of another role.

    `consent` is what to type to agree. Raise PreconditionError (exit 4) for a superuser where another role owns some of the
    code.
    """
    superuser = conn.execute(_SUPERUSER).fetchone()
    if run_owner_code or not (superuser and superuser[0]):
        return
    row = conn.execute(_OTHERS, {"schema": schema, "tables": _TABLES, "own_role": OWN_ROLE}).fetchone()
    if not row or not row[0]:
        return
    names = ", ".join(f'"{name}"' for name in row[0][:5]) + (" and others" if len(row[0]) > 5 else "")
    raise PreconditionError(
        f'role "{conn.info.user}" is a superuser, and the self-test runs triggers, defaults and functions of {names}, who '
        f"{'is' if len(row[0]) == 1 else 'are'} none: with a superuser's rights, which SET ROLE does not take from them",
        f"There are two ways: connect as the owner of the tables; or {consent}, if you trust that code. Nothing was changed.",
    )
