"""The queries of pg_catalog: one statement for each kind of object. PostgreSQL 14 to 18 answer all of them alike.

Each answers with rows `[relation it belongs to, path, attributes]`. Attributes carry the names that a spec uses, and what is
as it is by default is left out, so that an answer can be written down as a spec and compared with one as it is. Names are
spelt as in SQL; one in the application's schema is without its schema.
"""

from __future__ import annotations

from pgvigil.validate.catalog.queries_rare_kinds import OTHERS
from pgvigil.validate.catalog.queries_rights import GRANTS
from pgvigil.validate.catalog.queries_server import SERVER
from pgvigil.validate.catalog.sql_fragments import (
    FUNCTION_PATH,
    collation,
    comment_of,
    named,
    names_of,
    no_member,
    only_with,
    operator,
    options_of,
    relation_label,
    routine,
    routine_label,
    spelt,
    type_label,
)

# Relations of the schemas that are covered whole, the named ones of the application's schema, whatever is named like a
# partition of ours, all that inherits from these, and the sequences of their identities. `cut`: partition of a table whose
# partitions a pattern describes.
_TARGET = f"""
WITH RECURSIVE named AS (
    SELECT c.oid, false AS cut
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE (n.nspname = ANY (%(own)s)
           OR n.nspname = %(schema)s
              AND (c.relname = ANY (%(names)s) OR c.relkind IN ('r', 'p') AND c.relname ~ ANY (%(slices)s)))
      AND c.relkind IN ('r', 'p', 'v', 'm', 'f', 'S')
      AND {no_member("pg_class", "c.oid")}
), family AS (
    SELECT oid, cut FROM named
    UNION
    SELECT i.inhrelid, f.cut OR (c.relkind = 'p' AND ARRAY[c.relname::text, c.relnamespace::regnamespace::text || '.' || c.relname] && %(cut)s)
    FROM family f JOIN pg_inherits i ON i.inhparent = f.oid JOIN pg_class c ON c.oid = f.oid
), counted AS (
    SELECT oid, cut FROM family
    UNION ALL
    SELECT d.objid, false
    FROM family f JOIN pg_depend d ON d.refclassid = 'pg_class'::regclass AND d.refobjid = f.oid AND d.refobjsubid > 0
    JOIN pg_class c ON d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.deptype = 'i' AND c.relkind = 'S'
), target AS (
    SELECT c.oid, c.relkind, c.reltype, {relation_label("n.nspname", "c")} AS label, f.cut,
           CASE WHEN c.relkind IN ('v', 'm') THEN 'view ' WHEN c.relkind = 'S' THEN 'sequence ' ELSE 'table ' END AS kind
    FROM (SELECT oid, bool_or(cut) AS cut FROM counted GROUP BY oid) f
    JOIN pg_class c ON c.oid = f.oid JOIN pg_namespace n ON n.oid = c.relnamespace
)"""

_RELATIONS = f"""
SELECT t.label, t.kind || t.label, json_build_object(
    'kind', CASE c.relkind WHEN 'p' THEN 'partitioned table' WHEN 'f' THEN 'foreign table'
                           WHEN 'm' THEN 'materialized view' END,
    'partition_by', pg_get_partkeydef(c.oid),
    'partition_of', CASE WHEN c.relispartition THEN p.parents ->> 0 END,
    'bound', pg_get_expr(c.relpartbound, c.oid),
    'inherits', CASE WHEN NOT c.relispartition THEN p.parents END,
    'of_type', CASE WHEN c.reloftype <> 0 THEN format_type(c.reloftype, NULL) END,
    'persistence', CASE c.relpersistence WHEN 'u' THEN 'UNLOGGED' WHEN 't' THEN 'TEMPORARY' END,
    'row_security', CASE WHEN c.relforcerowsecurity THEN 'forced' || CASE WHEN c.relrowsecurity THEN '' ELSE ', disabled' END
                         WHEN c.relrowsecurity THEN 'enabled' END,
    'with', CASE WHEN c.reloptions IS NOT NULL OR s.reloptions IS NOT NULL
                 THEN (coalesce({options_of("c.reloptions")}::jsonb, '{{}}') || coalesce({options_of("s.reloptions", "toast.")}::jsonb, '{{}}'))::json END,
    'access_method', CASE WHEN c.relkind IN ('r', 'm', 'p') THEN (SELECT nullif({spelt("amname")}, 'heap') FROM pg_am WHERE oid = c.relam) END,
    'tablespace', CASE WHEN c.reltablespace <> 0 THEN (SELECT {spelt("spcname")} FROM pg_tablespace WHERE oid = c.reltablespace) END,
    'replica_identity', CASE WHEN c.relkind IN ('r', 'p') THEN CASE c.relreplident WHEN 'f' THEN 'FULL' WHEN 'n' THEN 'NOTHING'
        WHEN 'i' THEN (SELECT 'USING INDEX ' || {spelt("x.relname")} FROM pg_index i JOIN pg_class x ON x.oid = i.indexrelid
                       WHERE i.indrelid = c.oid AND i.indisreplident) END END,
    'server', {only_with("server", f"(SELECT {spelt('srvname')} FROM pg_foreign_table f JOIN pg_foreign_server v ON v.oid = f.ftserver WHERE f.ftrelid = c.oid)", "NULL")},
    'options', {only_with("server", f"(SELECT {options_of('f.ftoptions')} FROM pg_foreign_table f WHERE f.ftrelid = c.oid)", "NULL")},
    'definition', CASE WHEN c.relkind IN ('v', 'm') THEN pg_get_viewdef(c.oid) END,
    'type', format_type(q.seqtypid, NULL), 'increment', nullif(q.seqincrement, 1), 'start', q.seqstart, 'minimum', q.seqmin,
    'maximum', q.seqmax, 'cache', nullif(q.seqcache, 1), 'cycle', nullif(q.seqcycle, false),
    'owned_by', pg_get_userbyid(c.relowner), 'comment', z.description
  ), json_build_object(
    'cut', t.cut, 'oid', c.oid::bigint, 'relkind', c.relkind,
    'reads', CASE WHEN c.relkind IN ('v', 'm') THEN (
        SELECT json_agg(DISTINCT n.nspname || '.' || r.relname)
        FROM pg_rewrite w JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = w.oid
        JOIN pg_class r ON d.refclassid = 'pg_class'::regclass AND r.oid = d.refobjid AND r.oid <> c.oid
        JOIN pg_namespace n ON n.oid = r.relnamespace
        WHERE w.ev_class = c.oid AND w.rulename = '_RETURN') END, 'detaching', p.detaching, 'of_column', o.label, 'fills', nullif(o.fills, false),
    'readable', has_schema_privilege(c.relnamespace, 'USAGE') AND has_table_privilege(c.oid, 'SELECT') AND NOT row_security_active(c.oid))
FROM target t JOIN pg_class c ON c.oid = t.oid
{comment_of("pg_class", "c.oid")}
LEFT JOIN pg_class s ON s.oid = c.reltoastrelid LEFT JOIN pg_sequence q ON q.seqrelid = c.oid
LEFT JOIN LATERAL (SELECT json_agg({relation_label("n.nspname", "r")} ORDER BY i.inhseqno) AS parents, bool_or(i.inhdetachpending) AS detaching
                   FROM pg_inherits i JOIN pg_class r ON r.oid = i.inhparent JOIN pg_namespace n ON n.oid = r.relnamespace
                   WHERE i.inhrelid = c.oid) p ON true
LEFT JOIN LATERAL (SELECT {relation_label("n.nspname", "r")} || '.' || {spelt("a.attname")} AS label,
                          d.deptype = 'i' OR EXISTS (SELECT FROM pg_attrdef f JOIN pg_depend u ON u.classid = 'pg_attrdef'::regclass AND u.objid = f.oid
                                                     WHERE f.adrelid = r.oid AND f.adnum = a.attnum
                                                       AND u.refclassid = 'pg_class'::regclass AND u.refobjid = c.oid) AS fills
                   FROM pg_depend d JOIN pg_class r ON r.oid = d.refobjid JOIN pg_namespace n ON n.oid = r.relnamespace
                   JOIN pg_attribute a ON a.attrelid = r.oid AND a.attnum = d.refobjsubid
                   WHERE c.relkind = 'S' AND d.classid = 'pg_class'::regclass AND d.objid = c.oid AND d.objsubid = 0
                     AND d.refclassid = 'pg_class'::regclass AND d.deptype IN ('a', 'i')) o ON true"""

# Only PostgreSQL 18 has a constraint for it.
_USUAL_NOT_NULL = "k.relname || '_' || a.attname || '_not_null'"
# The server adds a number where the name is taken: a table that was made LIKE another one has the names of that, and may be restored first.
_NUMBERED_NOT_NULL = f"""starts_with(nn.conname::text, {_USUAL_NOT_NULL}) AND substr(nn.conname, length({_USUAL_NOT_NULL}) + 1) ~ '^\\d+$'
                          AND EXISTS (SELECT FROM pg_constraint o WHERE o.conname = ({_USUAL_NOT_NULL})::name AND o.connamespace = nn.connamespace)"""
_NOT_NULL = f"""'not_null', CASE WHEN nn.conname <> {_USUAL_NOT_NULL} AND (octet_length(k.relname::text || a.attname) < 53 OR nn.conname !~ '_not_null\\d*$')
                          AND NOT ({_NUMBERED_NOT_NULL})
                     THEN {spelt("nn.conname")} END,
    'not_null_comment', nz.description,
    """
_NOT_NULL_FROM = """JOIN pg_class k ON k.oid = a.attrelid
LEFT JOIN pg_constraint nn ON nn.conrelid = a.attrelid AND nn.contype = 'n' AND nn.conkey[1] = a.attnum AND nn.conislocal AND NOT nn.connoinherit
                              AND nn.convalidated AND a.attnotnull
                              AND NOT (k.relispartition AND nn.coninhcount > 0)  -- ATTACH, and so pg_dump, makes it the parent's
LEFT JOIN pg_description nz ON nz.objoid = nn.oid AND nz.classoid = 'pg_constraint'::regclass AND nz.objsubid = 0
"""

_COLUMNS = f"""
SELECT t.label, 'column ' || t.label || '.' || {spelt("a.attname")}, json_build_object(
    'type', format_type(a.atttypid, a.atttypmod),
    'nullable', CASE WHEN a.attnotnull THEN false END,
    'default', CASE WHEN a.attgenerated = '' THEN pg_get_expr(d.adbin, d.adrelid) END,
    'identity', CASE a.attidentity WHEN 'a' THEN 'ALWAYS' WHEN 'd' THEN 'BY DEFAULT' END,
    'generated', CASE WHEN a.attgenerated <> '' THEN pg_get_expr(d.adbin, d.adrelid) END,
    'virtual', CASE WHEN a.attgenerated = 'v' THEN true END,
    'collation', CASE WHEN a.attcollation <> y.typcollation THEN {collation("a.attcollation")} END,
    'storage', CASE WHEN a.attstorage <> y.typstorage AND t.relkind NOT IN ('v', 'S')
                    THEN CASE a.attstorage WHEN 'p' THEN 'PLAIN' WHEN 'm' THEN 'MAIN' WHEN 'e' THEN 'EXTERNAL' ELSE 'EXTENDED' END END,
    'compression', CASE a.attcompression WHEN 'p' THEN 'pglz' WHEN 'l' THEN 'lz4' END,
    'options', {options_of("a.attfdwoptions")},
    'inherited', CASE WHEN NOT a.attislocal THEN true END,
{only_with("named_not_null", _NOT_NULL)}    'comment', z.description)
FROM target t JOIN pg_attribute a ON a.attrelid = t.oid JOIN pg_type y ON y.oid = a.atttypid
{only_with("named_not_null", _NOT_NULL_FROM)}LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
{comment_of("pg_class", "a.attrelid", "a.attnum")}
WHERE a.attnum > 0 AND NOT a.attisdropped AND t.relkind <> 'S'
ORDER BY a.attrelid, a.attnum"""

# Of what a partition only inherits, its keys count: their indexes are its own. PostgreSQL 18 keeps NOT NULL here too: of those, only the ones that
# existing rows or children may break.
_CONSTRAINTS = f"""
SELECT t.label, 'constraint ' || t.label || '.' || {spelt("c.conname")}, json_build_object(
    'definition', replace(pg_get_constraintdef(c.oid), ' NOT VALID', ''),
    'validated', nullif(c.convalidated, true),
    'valid', nullif(i.indisvalid AND i.indisready AND i.indislive, true),
    'enforced', CASE WHEN off.enable IS NOT NULL THEN false END,
    'inherited', CASE WHEN c.conparentid <> 0 AND c.contype = 'f' THEN true END,
    'with', {options_of("x.reloptions")},
    'tablespace', CASE WHEN x.reltablespace <> 0 THEN (SELECT {spelt("spcname")} FROM pg_tablespace WHERE oid = x.reltablespace) END,
    'attached', CASE WHEN c.contype IN ('p', 'u', 'x') THEN (SELECT {spelt("up.conname")} FROM pg_constraint up WHERE up.oid = nullif(c.conparentid, 0)) END,
    'index_comment', xz.description, 'comment', z.description), off.enable
FROM target t JOIN pg_constraint c ON c.conrelid = t.oid
{comment_of("pg_constraint", "c.oid")}
LEFT JOIN (SELECT g.tgconstraint, json_agg('ALTER TABLE ' || g.tgrelid::regclass || ' ENABLE TRIGGER ' || quote_ident(g.tgname) || ';' ORDER BY g.tgname) AS enable
           FROM pg_trigger g WHERE g.tgisinternal AND g.tgenabled IN ('D', 'R') GROUP BY 1) off ON off.tgconstraint = c.oid
LEFT JOIN pg_index i ON i.indexrelid = c.conindid AND c.contype IN ('p', 'u', 'x')
LEFT JOIN pg_class x ON x.oid = i.indexrelid
LEFT JOIN pg_description xz ON xz.objoid = x.oid AND xz.classoid = 'pg_class'::regclass AND xz.objsubid = 0
WHERE c.conparentid = 0 AND c.conislocal AND NOT (t.cut AND c.coninhcount > 0)
      AND (c.contype IN ('p', 'u', 'f', 'c', 'x') OR c.contype = 'n' AND (NOT c.convalidated OR c.connoinherit))
   OR c.conparentid <> 0 AND (off.enable IS NOT NULL OR NOT (i.indisvalid AND i.indisready AND i.indislive)
                              OR NOT t.cut AND c.contype IN ('p', 'u', 'x'))"""

_INDEXES = f"""
SELECT t.label, 'index ' || t.label || '.' || {spelt("x.relname")}, json_build_object(
    'definition', CASE WHEN i.indisunique THEN 'UNIQUE ' ELSE '' END
                  || substr(d.rest, strpos(d.rest, ' USING ' || quote_ident(m.amname) || ' (') + 7),
    'valid', nullif(i.indisvalid AND i.indisready AND i.indislive, true),
    'with', {options_of("x.reloptions")},
    'tablespace', CASE WHEN x.reltablespace <> 0 THEN (SELECT {spelt("spcname")} FROM pg_tablespace WHERE oid = x.reltablespace) END,
    'attached', {spelt("up.relname")}, 'comment', z.description),
  x.reloptions
FROM target t JOIN pg_index i ON i.indrelid = t.oid JOIN pg_class x ON x.oid = i.indexrelid JOIN pg_class k ON k.oid = t.oid JOIN pg_am m ON m.oid = x.relam
{comment_of("pg_class", "i.indexrelid")}
LEFT JOIN pg_inherits ui ON x.relispartition AND ui.inhrelid = x.oid LEFT JOIN pg_class up ON up.oid = ui.inhparent
-- Printed once. The two names at its start may hold anything.
CROSS JOIN LATERAL (SELECT substr(pg_get_indexdef(i.indexrelid), 17 + length(quote_ident(x.relname)) + length(quote_ident(k.relname))) AS rest OFFSET 0) d
WHERE NOT (x.relispartition AND t.cut AND i.indisvalid AND i.indisready AND i.indislive)
  AND NOT EXISTS (SELECT FROM pg_constraint c WHERE c.conindid = i.indexrelid AND c.conrelid = i.indrelid AND c.contype IN ('p', 'u', 'x'))"""

# A clone on a partition counts only where its state differs; the inner workings of a foreign key are the constraint's.
# Where relations are named, a trigger on any other that calls a function of a schema covered whole counts too.
_TRIGGERS = f"""
SELECT t.label, 'trigger ' || t.label || '.' || {spelt("g.tgname")}, json_build_object(
    'timing', CASE WHEN g.tgtype & 2 <> 0 THEN 'BEFORE' WHEN g.tgtype & 64 <> 0 THEN 'INSTEAD OF' ELSE 'AFTER' END,
    'events', array_remove(ARRAY[CASE WHEN g.tgtype & 4 <> 0 THEN 'INSERT' END, CASE WHEN g.tgtype & 8 <> 0 THEN 'DELETE' END,
                                 CASE WHEN g.tgtype & 16 <> 0 THEN 'UPDATE' END, CASE WHEN g.tgtype & 32 <> 0 THEN 'TRUNCATE' END], NULL),
    'update_of', CASE WHEN g.tgattr <> '' THEN {names_of("g.tgattr", "g.tgrelid")} END,
    'level', CASE WHEN g.tgtype & 1 <> 0 THEN 'ROW' ELSE 'STATEMENT' END,
    'old_table', {spelt("g.tgoldtable")}, 'new_table', {spelt("g.tgnewtable")},
    'when', CASE WHEN g.tgqual IS NOT NULL
                 THEN substring(pg_get_triggerdef(g.oid) FROM ' FOR EACH (?:ROW|STATEMENT) WHEN \\((.*)\\) EXECUTE FUNCTION [^'']*\\((?:E?''(?:[^'']|'''')*''(?:, )?)*\\)$') END,
    'function', {routine_label("n.nspname", "p")} || CASE WHEN g.tgnargs = 0 THEN '()'
                 ELSE substring(pg_get_triggerdef(g.oid) FROM ' EXECUTE FUNCTION (?:"(?:[^"]|"")*"|[^(.])+(?:\\.(?:"(?:[^"]|"")*"|[^(])+)?(\\(.*)$') END,
    'constraint', CASE WHEN g.tgconstraint <> 0 THEN true END,
    'deferrable', CASE WHEN g.tginitdeferred THEN 'INITIALLY DEFERRED' WHEN g.tgdeferrable THEN 'INITIALLY IMMEDIATE' END,
    'from', CASE WHEN g.tgconstrrelid <> 0 THEN g.tgconstrrelid::regclass::text END,
    'enabled', CASE g.tgenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' END,
    'clone', CASE WHEN g.tgparentid <> 0 THEN true END,
    'comment', obj_description(g.oid, 'pg_trigger'))
FROM (SELECT oid, label FROM target
      UNION ALL
      SELECT c.oid, {relation_label("n.nspname", "c")}
      FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
      WHERE cardinality(%(names)s::text[]) > 0 AND c.oid NOT IN (SELECT oid FROM target)
        AND c.oid IN (SELECT g.tgrelid FROM pg_trigger g JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace o ON o.oid = p.pronamespace
                      WHERE g.tgparentid = 0 AND o.nspname = ANY (%(own)s))) t
JOIN pg_trigger g ON g.tgrelid = t.oid AND (EXISTS (SELECT FROM target x WHERE x.oid = t.oid)
    OR g.tgfoid IN (SELECT p.oid FROM pg_proc p JOIN pg_namespace o ON o.oid = p.pronamespace WHERE o.nspname = ANY (%(own)s)))
JOIN pg_proc p ON p.oid = g.tgfoid JOIN pg_namespace n ON n.oid = p.pronamespace
LEFT JOIN pg_trigger parent ON parent.oid = g.tgparentid LEFT JOIN pg_constraint c ON c.oid = g.tgconstraint
WHERE (NOT g.tgisinternal OR g.tgparentid <> 0 AND (c.contype IS NULL OR c.contype = 't'))  -- a clone is internal in 14
  AND (g.tgparentid = 0 OR g.tgenabled <> parent.tgenabled)"""

_AGGREGATE = f"""(SELECT json_strip_nulls(json_build_object('SFUNC', {routine("g.aggtransfn")}, 'STYPE', format_type(g.aggtranstype, NULL),
                    'SSPACE', nullif(g.aggtransspace, 0), 'FINALFUNC', {routine("g.aggfinalfn")},
                    'FINALFUNC_EXTRA', nullif(g.aggfinalextra, false),
                    -- How a final function that is not there may change the state says nothing, and pg_dump leaves it out.
                    'FINALFUNC_MODIFY', CASE WHEN g.aggfinalfn <> 0 THEN
                        CASE g.aggfinalmodify WHEN 's' THEN 'SHAREABLE' WHEN 'w' THEN 'READ_WRITE' END END,
                    'COMBINEFUNC', {routine("g.aggcombinefn")}, 'SERIALFUNC', {routine("g.aggserialfn")},
                    'DESERIALFUNC', {routine("g.aggdeserialfn")}, 'INITCOND', g.agginitval,
                    'MSFUNC', {routine("g.aggmtransfn")}, 'MINVFUNC', {routine("g.aggminvtransfn")},
                    'MSTYPE', CASE WHEN g.aggmtranstype <> 0 THEN format_type(g.aggmtranstype, NULL) END,
                    'MFINALFUNC', {routine("g.aggmfinalfn")}, 'MINITCOND', g.aggminitval,
                    'SORTOP', CASE WHEN g.aggsortop <> 0 THEN {operator("g.aggsortop")} END,
                    'MSSPACE', nullif(g.aggmtransspace, 0),
                    'MFINALFUNC_EXTRA', nullif(g.aggmfinalextra, false),
                    'MFINALFUNC_MODIFY', CASE WHEN g.aggmfinalfn <> 0 THEN
                        CASE g.aggmfinalmodify WHEN 's' THEN 'SHAREABLE' WHEN 'w' THEN 'READ_WRITE' END END,
                    'HYPOTHETICAL', CASE WHEN g.aggkind = 'h' THEN true END)) FROM pg_aggregate g WHERE g.aggfnoid = p.oid)"""

_FUNCTIONS = f"""
SELECT '', {FUNCTION_PATH},
  json_build_object(
    'arguments', pg_get_function_arguments(p.oid), 'returns', pg_get_function_result(p.oid),
    'language', CASE WHEN p.prokind <> 'a' THEN {spelt("l.lanname")} END,
    'volatility', CASE p.provolatile WHEN 's' THEN 'STABLE' WHEN 'i' THEN CASE WHEN p.prokind <> 'a' THEN 'IMMUTABLE' END END,
    'parallel', CASE p.proparallel WHEN 'r' THEN 'RESTRICTED' WHEN 's' THEN 'SAFE' END,
    'strict', nullif(p.proisstrict, false), 'security', CASE WHEN p.prosecdef THEN 'DEFINER' END,
    'leakproof', nullif(p.proleakproof, false),
    'cost', CASE WHEN p.prokind <> 'a' THEN nullif(p.procost, CASE WHEN l.lanname IN ('c', 'internal') THEN 1 ELSE 100 END)::text END,
    'rows', CASE WHEN p.proretset THEN nullif(p.prorows, 1000)::text END,
    'support', CASE WHEN p.prosupport <> 0 THEN {routine("p.prosupport")} END,
    'transforms', (SELECT json_agg(format_type(y, NULL)) FROM unnest(p.protrftypes) y),
    'set', {options_of("p.proconfig")},
    'body', CASE WHEN p.prokind <> 'a' THEN coalesce(pg_get_function_sqlbody(p.oid), p.prosrc) END,
    'atomic', CASE WHEN p.prosqlbody IS NOT NULL THEN true END,
    'library', p.probin,
    'aggregate', {only_with("aggregate", _AGGREGATE, "NULL")},
    'constructor', CASE WHEN p.prolang = 12 AND p.prosrc ~ '^(multi)?range_constructor' AND EXISTS (
        SELECT FROM pg_depend x WHERE x.classid = 'pg_proc'::regclass AND x.objid = p.oid AND x.deptype = 'i') THEN true END,
    'owned_by', pg_get_userbyid(p.proowner), 'comment', obj_description(p.oid, 'pg_proc'))
FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace JOIN pg_language l ON l.oid = p.prolang
WHERE n.nspname = ANY (%(own)s) AND {no_member("pg_proc", "p.oid")}"""

_NOT_NULL_OF_DOMAIN = f"""(SELECT {spelt("c.conname")} FROM pg_constraint c
               WHERE c.contypid = y.oid AND c.contype = 'n' AND c.conname <> y.typname || '_not_null'
                 AND (octet_length(y.typname::text) < 54 OR c.conname !~ '_not_null\\d*$'))"""

_ATTRIBUTES = f"""CASE WHEN y.typtype = 'c' THEN (
        SELECT json_agg({spelt("a.attname")} || ' ' || format_type(a.atttypid, a.atttypmod)
                        || CASE WHEN a.attcollation <> t.typcollation THEN ' COLLATE ' || {collation("a.attcollation")} ELSE '' END
                        ORDER BY a.attnum)
        FROM pg_attribute a JOIN pg_type t ON t.oid = a.atttypid WHERE a.attrelid = y.typrelid AND a.attnum > 0 AND NOT a.attisdropped) END"""

_RANGE = f"""(SELECT json_strip_nulls(json_build_object('SUBTYPE', format_type(r.rngsubtype, NULL), 'SUBTYPE_OPCLASS', CASE WHEN NOT o.opcdefault THEN {named("pg_opclass", "opc", "o.oid")} END,
                        'COLLATION', CASE WHEN r.rngcollation <> s.typcollation THEN {collation("r.rngcollation")} END,
                        'CANONICAL', {routine("r.rngcanonical")}, 'SUBTYPE_DIFF', {routine("r.rngsubdiff")},
                        'MULTIRANGE_TYPE_NAME', CASE WHEN mt.typnamespace <> y.typnamespace OR mt.typname::text <> CASE WHEN strpos(y.typname, 'range') > 0
                            THEN overlay(y.typname::text PLACING 'multirange' FROM strpos(y.typname, 'range') FOR 5) ELSE y.typname || '_multirange' END
                            THEN {type_label("mn.nspname", "mt")} END))
              FROM pg_range r JOIN pg_type mt ON mt.oid = r.rngmultitypid JOIN pg_namespace mn ON mn.oid = mt.typnamespace JOIN pg_opclass o ON o.oid = r.rngsubopc JOIN pg_type s ON s.oid = r.rngsubtype WHERE r.rngtypid = y.oid)"""

_BASE = f"""CASE WHEN y.typtype = 'b' AND y.typisdefined THEN json_strip_nulls(json_build_object(
        'INPUT', {routine("y.typinput")}, 'OUTPUT', {routine("y.typoutput")}, 'RECEIVE', {routine("y.typreceive")}, 'SEND', {routine("y.typsend")},
        'TYPMOD_IN', {routine("y.typmodin")}, 'TYPMOD_OUT', {routine("y.typmodout")}, 'ANALYZE', {routine("y.typanalyze")},
        'SUBSCRIPT', {routine("y.typsubscript")}, 'INTERNALLENGTH', CASE y.typlen WHEN -1 THEN 'VARIABLE' ELSE y.typlen::text END,
        'PASSEDBYVALUE', nullif(y.typbyval, false), 'ALIGNMENT', CASE y.typalign WHEN 'c' THEN 'char' WHEN 's' THEN 'int2' WHEN 'd' THEN 'double' END,
        'STORAGE', CASE y.typstorage WHEN 'e' THEN 'external' WHEN 'm' THEN 'main' WHEN 'x' THEN 'extended' END,
        'CATEGORY', nullif(y.typcategory, 'U'), 'PREFERRED', nullif(y.typispreferred, false), 'DEFAULT', y.typdefault,
        'ELEMENT', CASE WHEN y.typelem <> 0 THEN format_type(y.typelem, NULL) END, 'DELIMITER', nullif(y.typdelim, ','),
        'COLLATABLE', nullif(y.typcollation <> 0, false))) END"""

_TYPES = f"""
SELECT '', 'type ' || {type_label("n.nspname", "y")}, json_build_object(
    'kind', CASE WHEN NOT y.typisdefined THEN 'shell' ELSE CASE y.typtype WHEN 'e' THEN 'enum' WHEN 'd' THEN 'domain' WHEN 'c' THEN 'composite' WHEN 'r' THEN 'range' ELSE 'base' END END,
    'labels', (SELECT json_agg(e.enumlabel ORDER BY e.enumsortorder) FROM pg_enum e WHERE e.enumtypid = y.oid),
    'type', CASE WHEN y.typtype = 'd' THEN format_type(y.typbasetype, y.typtypmod) END,
    'nullable', CASE WHEN y.typnotnull THEN false END,
    'not_null', {only_with("named_not_null", _NOT_NULL_OF_DOMAIN, "NULL")},
    'default', pg_get_expr(y.typdefaultbin, 0),
    'collation', CASE WHEN y.typtype = 'd' AND y.typcollation <> b.typcollation THEN {collation("y.typcollation")} END,
    'checks', (SELECT json_object_agg({spelt("c.conname")}, pg_get_constraintdef(c.oid) ORDER BY c.conname)
               FROM pg_constraint c WHERE c.contypid = y.oid AND c.contype = 'c'),
    'columns', {only_with("type_composite", _ATTRIBUTES, "NULL")},
    'comments', CASE y.typtype WHEN 'd' THEN (
        SELECT json_object_agg({spelt("c.conname")}, z.description ORDER BY c.conname)
        FROM pg_constraint c {comment_of("pg_constraint", "c.oid")} WHERE c.contypid = y.oid AND z.description IS NOT NULL)
        WHEN 'c' THEN (
        SELECT json_object_agg({spelt("a.attname")}, z.description ORDER BY a.attname)
        FROM pg_attribute a {comment_of("pg_class", "a.attrelid", "a.attnum")} WHERE a.attrelid = y.typrelid AND z.description IS NOT NULL) END,
    'range', {only_with("type_range", _RANGE, "NULL")},
    'base', {only_with("type_base", _BASE, "NULL")},
    'owned_by', pg_get_userbyid(y.typowner), 'comment', obj_description(y.oid, 'pg_type'))
FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace
LEFT JOIN pg_type b ON b.oid = y.typbasetype LEFT JOIN pg_class c ON c.oid = y.typrelid
WHERE n.nspname = ANY (%(own)s) AND (y.typtype IN ('e', 'd', 'r') OR y.typtype = 'c' AND c.relkind = 'c' OR y.typtype = 'p' AND NOT y.typisdefined
                                     OR y.typtype = 'b' AND NOT EXISTS (SELECT FROM pg_type e WHERE e.typarray = y.oid))
  AND {no_member("pg_type", "y.oid")}"""


def _rows(query: str, width: int, target: str = _TARGET) -> str:
    names = ", ".join(f"j.c{n}" for n in range(width))
    columns = ", ".join(f"c{n}" for n in range(width))
    return (
        f"{target} SELECT coalesce(json_strip_nulls(json_agg(json_build_array({names}))), '[]')::text"
        f" FROM ({query}\n) AS j ({columns})"
    )


# Each with pieces in it, see for_kinds().
QUERIES = {
    "server": f"SELECT ({SERVER})::text",
    "relations": _rows(_RELATIONS, 4),
    "columns": _rows(_COLUMNS, 3),
    "constraints": _rows(_CONSTRAINTS, 4),
    "indexes": _rows(_INDEXES, 4),
    "triggers": _rows(_TRIGGERS, 3),
    "functions": _rows(_FUNCTIONS, 3, ""),
    "types": _rows(_TYPES, 3, ""),
    "others": _rows(OTHERS, 3, only_with("on_relation", _TARGET)),
    "grants": _rows(GRANTS, 5, only_with("rights", _TARGET)),
}
