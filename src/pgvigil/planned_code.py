"""Find functions of other roles that the mere reading of a table runs: to plan a query, the server computes constants
in the table's indexes, CHECKs, extended statistics and partition keys, with the rights of the role that reads.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from typing import Any

import psycopg

# A function of a superuser's is a superuser's code, and one's own is one's own.
_CODE = """
    WITH RECURSIVE tables AS (
        SELECT c.oid FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid OPERATOR(pg_catalog.=) c.relnamespace
        WHERE c.relkind OPERATOR(pg_catalog.=) ANY ('{r,p}'::"char"[])
          AND (n.nspname OPERATOR(pg_catalog.=) ANY (%(schemas)s::name[])
               OR n.nspname OPERATOR(pg_catalog.=) %(schema)s::name AND c.relname OPERATOR(pg_catalog.=) ANY (%(names)s::name[]))
        UNION SELECT i.inhrelid FROM tables t JOIN pg_catalog.pg_inherits i ON i.inhparent OPERATOR(pg_catalog.=) t.oid),
    parts AS (
        SELECT 'pg_catalog.pg_class'::regclass::oid AS class, i.indexrelid AS oid, pg_catalog.concat(i.indexprs::text, i.indpred::text) AS tree
        FROM tables t JOIN pg_catalog.pg_index i ON i.indrelid OPERATOR(pg_catalog.=) t.oid WHERE i.indexprs IS NOT NULL OR i.indpred IS NOT NULL
        UNION ALL SELECT 'pg_catalog.pg_constraint'::regclass::oid, c.oid, c.conbin::text
        FROM tables t JOIN pg_catalog.pg_constraint c ON c.conrelid OPERATOR(pg_catalog.=) t.oid WHERE c.conbin IS NOT NULL
        UNION ALL SELECT 'pg_catalog.pg_statistic_ext'::regclass::oid, s.oid, s.stxexprs::text
        FROM tables t JOIN pg_catalog.pg_statistic_ext s ON s.stxrelid OPERATOR(pg_catalog.=) t.oid WHERE s.stxexprs IS NOT NULL
        UNION ALL SELECT 'pg_catalog.pg_class'::regclass::oid, p.partrelid, p.partexprs::text
        FROM tables t JOIN pg_catalog.pg_partitioned_table p ON p.partrelid OPERATOR(pg_catalog.=) t.oid WHERE p.partexprs IS NOT NULL)
    SELECT pg_catalog.pg_describe_object(p.class, p.oid, 0), p.tree, f.oid::bigint, f.oid::regprocedure::text, l.lanname::text
    FROM parts p
    JOIN pg_catalog.pg_depend d ON d.classid OPERATOR(pg_catalog.=) p.class AND d.objid OPERATOR(pg_catalog.=) p.oid
    LEFT JOIN pg_catalog.pg_operator o ON d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_operator'::regclass::oid AND o.oid OPERATOR(pg_catalog.=) d.refobjid
    JOIN pg_catalog.pg_proc f ON f.oid OPERATOR(pg_catalog.=) CASE WHEN d.refclassid OPERATOR(pg_catalog.=) 'pg_catalog.pg_proc'::regclass::oid THEN d.refobjid ELSE o.oprcode::oid END
    JOIN pg_catalog.pg_language l ON l.oid OPERATOR(pg_catalog.=) f.prolang
    JOIN pg_catalog.pg_roles r ON r.oid OPERATOR(pg_catalog.=) f.proowner
    WHERE NOT r.rolsuper AND r.rolname OPERATOR(pg_catalog.<>) current_user
    ORDER BY 1, 4"""
# Mostly there is none, and that is seen at once.
_ANY = """
    SELECT EXISTS (SELECT FROM pg_catalog.pg_depend d
                   WHERE d.refobjid OPERATOR(pg_catalog.>=) 16384::oid
                     AND d.refclassid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_proc'::regclass::oid, 'pg_catalog.pg_operator'::regclass::oid])
                     AND d.classid OPERATOR(pg_catalog.=) ANY (ARRAY['pg_catalog.pg_class'::regclass::oid, 'pg_catalog.pg_constraint'::regclass::oid,
                                                                    'pg_catalog.pg_statistic_ext'::regclass::oid]))"""
# Of a call with a column among its arguments, if nothing in them can turn out constant, nothing is computed before a row is there.
_CALL = re.compile(r"\{(?:FUNCEXPR :funcid|OPEXPR :opno \d+ :opfuncid) (\d+) ")
_NODE = re.compile(r"(?<!\\)\{([A-Z_]+)")
_LASTING = {"FUNCEXPR", "OPEXPR", "VAR", "CONST", "RELABELTYPE"}


def is_possible(conn: psycopg.Connection[Any]) -> bool:
    """Return false if no object of this database calls such a function."""
    return conn.execute(_ANY).fetchone() != (False,)


def planned_code(
    conn: psycopg.Connection[Any], schemas: Sequence[str], schema: str = "", names: Sequence[str] = ()
) -> Iterator[str]:
    """Name each object on a table of `schemas`, or of `names` in `schema`, that calls such a function before it has a row."""
    if not is_possible(conn):
        return
    query = {"schemas": list(schemas), "schema": schema, "names": list(names)}
    for name, tree, oid, function, language in conn.execute(_CODE, query):
        if language == "sql" or not _waits_for_row(tree, oid):  # the body of an SQL function may take its place
            yield f"{name} calls {function}"


def _waits_for_row(tree: str, function: int) -> bool:
    """Return true if each call of a function has a column among its arguments, and nothing that can turn out constant."""
    calls = [call for call in _CALL.finditer(tree) if int(call[1]) == function]
    for call in calls:
        arguments = tree[call.end() : _end(tree, call.start())]
        nodes = set(_NODE.findall(arguments))
        others = {int(other[1]) for other in _CALL.finditer(arguments)}
        if "VAR" not in nodes or not nodes <= _LASTING or any(other >= 16384 for other in others):
            return False
        if ":constisnull true" in arguments:
            return False
    return bool(calls)


def _end(tree: str, start: int) -> int:
    """The end of the node that begins at `start`."""
    depth = 0
    for brace in re.compile(r"(?<!\\)[{}]").finditer(tree, start):
        depth += 1 if brace[0] == "{" else -1
        if not depth:
            return brace.end()
    return len(tree)
