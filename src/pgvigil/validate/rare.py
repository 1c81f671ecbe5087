"""What databases seldom hold: schemas with their default rights, policies, rules, extensions, casts, operators and their kin.

One query, in the form of those in queries.py, which asks it.
"""

from __future__ import annotations

from pgvigil.validate.fragments import FUNCTION_PATH, label, no_member, spelt

OTHERS = f"""
SELECT '', 'schema ' || CASE WHEN n.nspname = %(schema)s THEN '{{schema}}' ELSE {spelt("n.nspname")} END,
    json_build_object('owned_by', pg_get_userbyid(n.nspowner), 'comment', obj_description(n.oid, 'pg_namespace'))
FROM pg_namespace n WHERE n.nspname = ANY (%(own)s)
UNION ALL
SELECT t.label, 'policy ' || t.label || '.' || {spelt("p.polname")}, json_build_object(
    'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' END,
    'restrictive', CASE WHEN NOT p.polpermissive THEN true END,
    'roles', CASE WHEN p.polroles <> '{{0}}' THEN (SELECT json_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE {spelt("pg_get_userbyid(r)")} END ORDER BY 1) FROM unnest(p.polroles) r) END,
    'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid),
    'comment', obj_description(p.oid, 'pg_policy'))
FROM target t JOIN pg_policy p ON p.polrelid = t.oid
UNION ALL
SELECT t.label, 'rule ' || t.label || '.' || {spelt("r.rulename")}, json_build_object(
    'definition', pg_get_ruledef(r.oid, true),
    'enabled', CASE r.ev_enabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' END,
    'comment', obj_description(r.oid, 'pg_rewrite'))
FROM target t JOIN pg_rewrite r ON r.ev_class = t.oid WHERE r.rulename <> '_RETURN'
UNION ALL
SELECT t.label, 'statistics ' || {label("n.nspname", "s.stxname")}, json_build_object(
    'definition', pg_get_statisticsobjdef_columns(s.oid) || ' FROM ' || t.label,
    'kinds', (SELECT json_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END ORDER BY k)
              FROM unnest(s.stxkind) k WHERE k <> 'e'),
    'owned_by', pg_get_userbyid(s.stxowner), 'comment', obj_description(s.oid, 'pg_statistic_ext'))
FROM target t JOIN pg_statistic_ext s ON s.stxrelid = t.oid JOIN pg_namespace n ON n.oid = s.stxnamespace
UNION ALL
SELECT '', 'extension ' || {spelt("e.extname")}, json_build_object(
    'schema', CASE WHEN n.nspname = %(schema)s THEN '{{schema}}' ELSE n.nspname END, 'version', e.extversion)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = ANY (%(extensions)s) OR n.nspname = ANY (%(own)s)
UNION ALL
SELECT '', 'event trigger ' || {spelt("e.evtname")}, json_build_object(
    'event', e.evtevent, 'tags', (SELECT json_agg(g ORDER BY g) FROM unnest(e.evttags) g),
    'function', {label("n.nspname", "p.proname")} || '()',
    'enabled', CASE e.evtenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' END,
    'comment', obj_description(e.oid, 'pg_event_trigger'))
FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE n.nspname = ANY (%(own)s) AND {no_member("pg_event_trigger", "e.oid")}
UNION ALL
SELECT '', 'collation ' || {label("n.nspname", "c.collname")}, json_build_object(
    'provider', c.collprovider, 'locale', coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate),
    'deterministic', nullif(c.collisdeterministic, true), 'owned_by', pg_get_userbyid(c.collowner), 'comment', obj_description(c.oid, 'pg_collation'))
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE n.nspname = ANY (%(own)s) AND {no_member("pg_collation", "c.oid")}
UNION ALL
SELECT '', 'operator ' || {label("n.nspname", "o.oprname").replace(spelt("o.oprname"), "o.oprname")} || '(' || CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END || ', ' || format_type(o.oprright, NULL) || ')',
  json_build_object('definition', json_build_object('FUNCTION', o.oprcode::regproc::text, 'COMMUTATOR', (SELECT oprname FROM pg_operator WHERE oid = o.oprcom), 'NEGATOR', (SELECT oprname FROM pg_operator WHERE oid = o.oprnegate),
    'RESTRICT', nullif(o.oprrest::regproc::text, '-'), 'JOIN', nullif(o.oprjoin::regproc::text, '-'), 'HASHES', nullif(o.oprcanhash, false), 'MERGES', nullif(o.oprcanmerge, false)),
    'owned_by', pg_get_userbyid(o.oprowner), 'comment', obj_description(o.oid, 'pg_operator'))
FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE n.nspname = ANY (%(own)s) AND {no_member("pg_operator", "o.oid")}"""


def _using(prefix: str) -> str:
    return (
        f" || ' USING ' || (SELECT amname FROM pg_am WHERE oid = o.{prefix}method)" if prefix.startswith("op") else ""
    )


# Each with what it is made of, in one text that is good for comparing.
_RARE = {
    "opclass": ("pg_opclass", "opc", """
        concat_ws(' ', format_type(o.opcintype, NULL), CASE WHEN o.opcdefault THEN 'DEFAULT' END,
                  'FAMILY ' || (SELECT opfname FROM pg_opfamily WHERE oid = o.opcfamily), 'STORAGE ' || nullif(format_type(o.opckeytype, NULL), '-'))"""),
    "opfamily": ("pg_opfamily", "opf", """
        concat_ws(', ', (SELECT string_agg(concat_ws(' ', 'OPERATOR', a.amopstrategy, a.amopopr::regoperator, CASE a.amoppurpose WHEN 'o' THEN 'FOR ORDER BY' END), ', '
                                           ORDER BY a.amopstrategy, a.amopopr::regoperator::text COLLATE "C") FROM pg_amop a WHERE a.amopfamily = o.oid),
                        (SELECT string_agg(concat_ws(' ', 'FUNCTION', a.amprocnum, a.amproc::regprocedure), ', '
                                           ORDER BY a.amprocnum, a.amproc::regprocedure::text COLLATE "C") FROM pg_amproc a WHERE a.amprocfamily = o.oid))"""),
    "conversion": ("pg_conversion", "con", """
        concat_ws(' ', CASE WHEN o.condefault THEN 'DEFAULT' END, pg_encoding_to_char(o.conforencoding), 'TO', pg_encoding_to_char(o.contoencoding), 'FROM', o.conproc)"""),
    "ts_config": ("pg_ts_config", "cfg", """
        concat_ws(', ', 'PARSER ' || (SELECT prsname FROM pg_ts_parser WHERE oid = o.cfgparser),
                  (SELECT string_agg(t.alias || ' ' || m.mapdict::regdictionary, ', ' ORDER BY t.alias COLLATE "C", m.mapseqno)
                   FROM pg_ts_config_map m JOIN ts_token_type(o.cfgparser) t ON t.tokid = m.maptokentype WHERE m.mapcfg = o.oid))"""),
    "ts_dict": ("pg_ts_dict", "dict", """
        concat_ws(', ', 'TEMPLATE ' || (SELECT tmplname FROM pg_ts_template WHERE oid = o.dicttemplate), o.dictinitoption)"""),
    "ts_parser": ("pg_ts_parser", "prs", "concat_ws(' ', o.prsstart, o.prstoken, o.prsend, o.prsheadline, o.prslextype)"),
    "ts_template": ("pg_ts_template", "tmpl", "concat_ws(' ', o.tmplinit, o.tmpllexize)"),
}  # fmt: skip
OTHERS += "".join(
    f"""
UNION ALL
SELECT '', 'other {kind} ' || {label("n.nspname", f"o.{prefix}name")}{_using(prefix)}, json_build_object(
    'definition', nullif({definition}, ''),
    'owned_by', {"NULL" if prefix in ("prs", "tmpl") else f"pg_get_userbyid(o.{prefix}owner)"}, 'comment', obj_description(o.oid, '{catalog}'))
FROM {catalog} o JOIN pg_namespace n ON n.oid = o.{prefix}namespace WHERE n.nspname = ANY (%(own)s) AND {no_member(catalog, "o.oid")}"""
    for kind, (catalog, prefix, definition) in _RARE.items()
)
OTHERS += f"""
UNION ALL
SELECT '', 'other cast (' || format_type(o.castsource, NULL) || ' AS ' || format_type(o.casttarget, NULL) || ')', json_build_object(
    'definition', CASE o.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || o.castfunc::regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END
                  || CASE o.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END,
    'comment', obj_description(o.oid, 'pg_cast'))
FROM pg_cast o JOIN pg_type s ON s.oid = o.castsource JOIN pg_type t ON t.oid = o.casttarget
WHERE EXISTS (SELECT FROM pg_namespace n WHERE n.oid IN (s.typnamespace, t.typnamespace) AND n.nspname = ANY (%(own)s))
  AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_cast'::regclass AND x.objid = o.oid AND x.deptype IN ('e', 'i'))  -- of a range
UNION ALL
SELECT '', 'dependent ' || coalesce({FUNCTION_PATH}, 'trigger ' || {label("cn.nspname", "c.relname")} || '.' || {spelt("g.tgname")},
           'index ' || {label("cn.nspname", "c.relname")} || '.' || {spelt("x.relname")}, 'view ' || {label("n.nspname", "x.relname")}),
       json_build_object('depends_on', json_agg({spelt("e.extname")} ORDER BY e.extname))
FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'x'
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
LEFT JOIN pg_class x ON d.classid = 'pg_class'::regclass AND x.oid = d.objid
LEFT JOIN pg_index i ON i.indexrelid = x.oid
LEFT JOIN pg_class c ON c.oid = coalesce(g.tgrelid, i.indrelid) LEFT JOIN pg_namespace cn ON cn.oid = c.relnamespace
LEFT JOIN pg_namespace n ON n.oid = coalesce(p.pronamespace, x.relnamespace)
GROUP BY 2
UNION ALL
SELECT '', 'default grant in schema ' || CASE WHEN n.nspname = %(schema)s THEN '{{schema}}' ELSE {spelt("n.nspname")} END || ' on '
           || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' ELSE 'types' END
           || ' of ' || {spelt("r.rolname")} || ' to ' || coalesce({spelt("g.rolname")}, 'PUBLIC'),
       json_build_object('privileges', json_agg(e.privilege_type || CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
                                                ORDER BY e.privilege_type))
FROM pg_default_acl d JOIN pg_namespace n ON n.oid = d.defaclnamespace JOIN pg_roles r ON r.oid = d.defaclrole
CROSS JOIN LATERAL aclexplode(d.defaclacl) e LEFT JOIN pg_roles g ON g.oid = e.grantee
WHERE n.nspname = ANY (%(own)s) GROUP BY n.nspname, d.defaclobjtype, r.rolname, g.rolname"""
