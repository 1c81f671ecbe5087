"""What is asked of pg_catalog: one statement for each kind of object. PostgreSQL 14 to 18 answer all of them alike."""

from __future__ import annotations

# Relations of our schemas, the declared ones of the application's schema, and whatever is or is named like a partition.
# A sequence that belongs to a column, and a member of an extension, is its owner's business.
_TARGET = """
WITH named AS (
    SELECT c.oid, c.relkind, c.relispartition
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (n.nspname = ANY (%(own)s)
           OR n.nspname = %(schema)s
              AND (c.relname = ANY (%(names)s) OR c.relkind IN ('r', 'p') AND c.relname ~ ANY (%(slices)s)))
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND NOT EXISTS (SELECT FROM pg_depend d
                      WHERE d.classid = 'pg_class'::regclass AND d.objid = c.oid
                        AND (d.deptype = 'e'
                             OR c.relkind = 'S' AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')))
), target AS (
    SELECT oid, relispartition FROM named
    UNION
    SELECT i.inhrelid, true FROM pg_inherits i JOIN named n ON n.oid = i.inhparent WHERE n.relkind = 'p'
)"""

_SERVER = """
SELECT current_setting('server_version') AS version, current_setting('server_version_num')::integer AS version_num,
       current_database() AS database, current_user AS role,
       extract(epoch FROM clock_timestamp())::double precision AS now,
       (SELECT json_object_agg(nspname, obj_description(oid, 'pg_namespace') IS NOT NULL) FROM pg_namespace
        WHERE nspname = ANY (%(own)s) OR nspname = %(schema)s) AS schemas,
       ARRAY(SELECT rolname FROM pg_roles WHERE rolname = ANY (%(roles)s)) AS roles"""

_RELATIONS = """
SELECT c.oid::bigint AS oid, n.nspname AS schema, c.relname AS name, c.relkind AS kind,
       c.relpersistence AS persistence, c.relrowsecurity AS row_security, coalesce(c.reloptions, '{}') AS options,
       pg_get_partkeydef(c.oid) AS partition_key, pg_get_expr(c.relpartbound, c.oid) AS bound,
       i.inhparent::bigint AS parent, i.inhdetachpending AS detaching,
       obj_description(c.oid, 'pg_class') IS NOT NULL AS commented,
       has_schema_privilege(n.oid, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AS readable,
       ARRAY(SELECT rulename FROM pg_rewrite r WHERE r.ev_class = c.oid AND r.rulename <> '_RETURN') AS rules,
       ARRAY(SELECT polname FROM pg_policy p WHERE p.polrelid = c.oid) AS policies,
       ARRAY(SELECT DISTINCT s.nspname || '.' || r.relname
             FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
             JOIN pg_class r ON d.refclassid = 'pg_class'::regclass AND r.oid = d.refobjid AND r.oid <> c.oid
             JOIN pg_namespace s ON s.oid = r.relnamespace
             WHERE c.relkind = 'v' AND w.ev_class = c.oid AND w.rulename = '_RETURN') AS reads
FROM target t JOIN pg_class c ON c.oid = t.oid JOIN pg_namespace n ON n.oid = c.relnamespace
LEFT JOIN pg_inherits i ON i.inhrelid = c.oid AND c.relispartition"""

_COLUMNS = """
SELECT a.attrelid::bigint AS relation, a.attname AS name, format_type(a.atttypid, a.atttypmod) AS type,
       a.attnotnull AS not_null, pg_get_expr(d.adbin, d.adrelid) AS default, a.attidentity AS identity,
       a.attgenerated AS generated, col_description(a.attrelid, a.attnum) IS NOT NULL AS commented,
       CASE WHEN a.attcollation <> y.typcollation THEN a.attcollation::regcollation::text END AS collation
FROM target t JOIN pg_attribute a ON a.attrelid = t.oid JOIN pg_type y ON y.oid = a.atttypid
LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
WHERE a.attnum > 0 AND NOT a.attisdropped AND NOT t.relispartition
ORDER BY a.attrelid, a.attnum"""

# What a partition only inherits is left out. PostgreSQL 18 keeps NOT NULL here too: of those, only the ones that
# existing rows may break.
_CONSTRAINTS = """
SELECT c.conrelid::bigint AS relation, c.conname AS name, c.contype AS kind, pg_get_constraintdef(c.oid) AS definition,
       pg_get_expr(c.conbin, c.conrelid) AS expression, c.convalidated AS validated, c.connoinherit AS no_inherit,
       coalesce(i.indisvalid AND i.indisready, true) AS valid,
       obj_description(c.oid, 'pg_constraint') IS NOT NULL AS commented,
       EXISTS (SELECT FROM pg_trigger g
               WHERE g.tgconstraint = c.oid AND g.tgisinternal AND g.tgenabled IN ('D', 'R')) AS disabled
FROM target t JOIN pg_constraint c ON c.conrelid = t.oid
LEFT JOIN pg_index i ON i.indexrelid = c.conindid AND c.contype IN ('p', 'u', 'x')
WHERE c.conparentid = 0 AND NOT (t.relispartition AND c.coninhcount > 0)
  AND (c.contype IN ('p', 'u', 'f', 'c', 'x') OR c.contype = 'n' AND NOT c.convalidated)"""

_INDEXES = """
SELECT i.indrelid::bigint AS relation, x.relname AS name, pg_get_indexdef(i.indexrelid) AS definition,
       i.indisunique AS unique, i.indisvalid AND i.indisready AS valid, coalesce(x.reloptions, '{}') AS options,
       x.relispartition AS attached, obj_description(i.indexrelid, 'pg_class') IS NOT NULL AS commented,
       EXISTS (SELECT FROM pg_constraint c
               WHERE c.conrelid = i.indrelid AND c.conindid = i.indexrelid AND c.contype IN ('p', 'u', 'x'))
       AS of_constraint
FROM target t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid"""

# A clone on a partition, and the inner workings of a foreign key, count only where somebody switched them off.
_TRIGGERS = """
SELECT g.tgrelid::bigint AS relation, g.tgname AS name, g.tgtype AS type, g.tgenabled AS enabled,
       ARRAY(SELECT a.attname FROM pg_attribute a
             WHERE a.attrelid = g.tgrelid AND a.attnum = ANY (g.tgattr)) AS columns,
       coalesce(g.tgoldtable, '') AS old_table, coalesce(g.tgnewtable, '') AS new_table,
       n.nspname AS function_schema, pg_get_triggerdef(g.oid) AS definition, g.tgconstraint <> 0 AS of_constraint,
       g.tgisinternal OR g.tgparentid <> 0 AS internal, obj_description(g.oid, 'pg_trigger') IS NOT NULL AS commented
FROM target t JOIN pg_trigger g ON g.tgrelid = t.oid
JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE NOT (g.tgisinternal OR g.tgparentid <> 0) OR t.relispartition AND g.tgenabled IN ('D', 'R')"""

_FUNCTIONS = """
SELECT n.nspname AS schema, p.proname AS name, p.prokind AS kind, l.lanname AS language, p.provolatile AS volatility,
       p.proparallel AS parallel, p.proisstrict AS strict, p.prosecdef AS definer,
       coalesce(p.proconfig, '{}') AS settings,
       ARRAY(SELECT format_type(a.type, NULL) FROM unnest(p.proargtypes) WITH ORDINALITY a (type, n)
             ORDER BY a.n) AS types,
       pg_get_function_arguments(p.oid) AS arguments, coalesce(pg_get_function_result(p.oid), '') AS returns,
       obj_description(p.oid, 'pg_proc') IS NOT NULL AS commented
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE n.nspname = ANY (%(own)s)
  AND NOT EXISTS (SELECT FROM pg_depend d
                  WHERE d.classid = 'pg_proc'::regclass AND d.objid = p.oid AND d.deptype = 'e')"""


def _as_json(query: str, target: str = _TARGET) -> str:
    return f"{target} SELECT coalesce(json_agg(j), '[]')::text FROM ({query}) j"


QUERIES = {
    "server": _as_json(_SERVER, ""),
    "relations": _as_json(_RELATIONS),
    "columns": _as_json(_COLUMNS),
    "constraints": _as_json(_CONSTRAINTS),
    "indexes": _as_json(_INDEXES),
    "triggers": _as_json(_TRIGGERS),
    "functions": _as_json(_FUNCTIONS, ""),
}
