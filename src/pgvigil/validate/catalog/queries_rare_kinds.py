"""The kinds of objects that databases rarely hold: schemas with their default rights, policies, rules, extensions, casts, operators and their kin.

One query, in the form of those in queries.py, which asks it.
"""

from __future__ import annotations

from pgvigil.validate.catalog.sql_fragments import (
    FUNCTION_PATH,
    NOT_BUILT_IN,
    label,
    named,
    no_member,
    only_with,
    operator,
    options_of,
    public,
    relation_label,
    routine,
    routine_label,
    spelt,
)

# Rights that an object has when nobody has said anything.
_USUALLY = (
    """aclexplode(acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's'::"char" ELSE d.defaclobjtype END, d.defaclrole))"""
)
# Foreign servers that the foreign tables of the covered schemas need.
SERVERS = "SELECT f.ftserver FROM pg_foreign_table f JOIN target t ON t.oid = f.ftrelid"
# As the view pg_user_mappings has it: to others it shows no options.
_MAY_READ_MAPPING = """CASE WHEN m.umuser = 0 THEN pg_has_role(s.srvowner, 'USAGE')
    ELSE m.usename = current_user AND (pg_has_role(s.srvowner, 'USAGE') OR has_server_privilege(s.oid, 'USAGE')) END
    OR (SELECT rolsuper FROM pg_roles WHERE rolname = current_user)"""


def _paired(prefix: str) -> str:
    """The commutator or negator of an operator. Where only the other one names this one, a restore makes both name each other."""
    return f"""coalesce(nullif(o.opr{prefix}, 0), (SELECT min(xp.oid::bigint)::oid FROM pg_operator xp WHERE xp.opr{prefix} = o.oid))"""


# By the kinds that presence.py asks for; schemas and extensions are in every database.
_PARTS = {
    "schema": f"""
SELECT '', 'schema ' || CASE WHEN n.nspname = %(schema)s THEN '{{schema}}' ELSE {spelt("n.nspname")} END,
    json_build_object('owned_by', pg_get_userbyid(n.nspowner), 'comment', obj_description(n.oid, 'pg_namespace'))
FROM pg_namespace n WHERE n.nspname = ANY (%(own)s)""",
    "policy": f"""
SELECT t.label, 'policy ' || t.label || '.' || {spelt("p.polname")}, json_build_object(
    'command', CASE p.polcmd WHEN 'r' THEN 'SELECT' WHEN 'a' THEN 'INSERT' WHEN 'w' THEN 'UPDATE' WHEN 'd' THEN 'DELETE' END,
    'restrictive', CASE WHEN NOT p.polpermissive THEN true END,
    'roles', CASE WHEN p.polroles <> '{{0}}' THEN (SELECT json_agg(CASE WHEN r = 0 THEN 'PUBLIC' ELSE {spelt("pg_get_userbyid(r)")} END ORDER BY pg_get_userbyid(r) COLLATE "C") FROM unnest(p.polroles) r) END,
    'using', pg_get_expr(p.polqual, p.polrelid), 'check', pg_get_expr(p.polwithcheck, p.polrelid),
    'comment', obj_description(p.oid, 'pg_policy'))
FROM target t JOIN pg_policy p ON p.polrelid = t.oid""",
    "rule": f"""
SELECT t.label, 'rule ' || t.label || '.' || {spelt("r.rulename")}, json_build_object(
    'definition', pg_get_ruledef(r.oid, true),
    'enabled', CASE r.ev_enabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' END,
    'comment', obj_description(r.oid, 'pg_rewrite'))
FROM target t JOIN pg_rewrite r ON r.ev_class = t.oid WHERE r.rulename <> '_RETURN'""",
    "statistics": f"""
SELECT t.label, 'statistics ' || {label("n.nspname", spelt("s.stxname"), "true")}, json_build_object(
    'definition', pg_get_statisticsobjdef_columns(s.oid) || ' FROM ' || t.label,
    'kinds', (SELECT json_agg(CASE k WHEN 'd' THEN 'ndistinct' WHEN 'f' THEN 'dependencies' WHEN 'm' THEN 'mcv' END ORDER BY k)
              FROM unnest(s.stxkind) k WHERE k <> 'e'),
    'owned_by', pg_get_userbyid(s.stxowner), 'comment', obj_description(s.oid, 'pg_statistic_ext'))
FROM target t JOIN pg_statistic_ext s ON s.stxrelid = t.oid JOIN pg_namespace n ON n.oid = s.stxnamespace""",
    "extension": f"""
SELECT '', 'extension ' || {spelt("e.extname")}, json_build_object(
    'schema', CASE WHEN n.nspname = %(schema)s THEN '{{schema}}' ELSE {spelt("n.nspname")} END, 'version', e.extversion,
    'comment', CASE WHEN e.oid >= {NOT_BUILT_IN} THEN obj_description(e.oid, 'pg_extension') END)
FROM pg_extension e JOIN pg_namespace n ON n.oid = e.extnamespace
WHERE e.extname = ANY (%(extensions)s) OR n.nspname = ANY (%(own)s) OR %(everywhere)s""",
    "event_trigger": f"""
SELECT '', 'event trigger ' || {spelt("e.evtname")}, json_build_object(
    'event', e.evtevent, 'tags', (SELECT json_agg(g ORDER BY g) FROM unnest(e.evttags) g),
    'function', {routine_label("n.nspname", "p")} || '()',
    'enabled', CASE e.evtenabled WHEN 'D' THEN 'DISABLED' WHEN 'R' THEN 'REPLICA' WHEN 'A' THEN 'ALWAYS' END,
    'owned_by', pg_get_userbyid(e.evtowner), 'comment', obj_description(e.oid, 'pg_event_trigger'))
FROM pg_event_trigger e JOIN pg_proc p ON p.oid = e.evtfoid JOIN pg_namespace n ON n.oid = p.pronamespace
WHERE (n.nspname = ANY (%(own)s) OR %(everywhere)s) AND {no_member("pg_event_trigger", "e.oid")}""",
    "collation": f"""
SELECT '', 'collation ' || {label("n.nspname", spelt("c.collname"), "pg_collation_is_visible(c.oid) IS NOT FALSE")}, json_build_object(
    'provider', c.collprovider, 'locale', nullif(coalesce(to_jsonb(c) ->> 'colllocale', to_jsonb(c) ->> 'colliculocale', c.collcollate), ''),
    'ctype', CASE WHEN c.collprovider = 'c' AND c.collctype <> c.collcollate THEN c.collctype END, 'rules', nullif(to_jsonb(c) ->> 'collicurules', ''),
    'deterministic', nullif(c.collisdeterministic, true), 'owned_by', pg_get_userbyid(c.collowner), 'comment', obj_description(c.oid, 'pg_collation'))
FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace WHERE n.nspname = ANY (%(own)s) AND {no_member("pg_collation", "c.oid")}""",
    "operator": f"""
SELECT '', 'operator ' || {label("n.nspname", "o.oprname", "pg_operator_is_visible(o.oid) IS NOT FALSE")} || '(' || CASE WHEN o.oprleft = 0 THEN 'NONE' ELSE format_type(o.oprleft, NULL) END || ', ' || format_type(o.oprright, NULL) || ')',
  json_build_object('definition', json_build_object('FUNCTION', {routine("o.oprcode")}, 'COMMUTATOR', {operator(_paired("com"))}, 'NEGATOR', {operator(_paired("negate"))},
    'RESTRICT', {routine("o.oprrest")}, 'JOIN', {routine("o.oprjoin")}, 'HASHES', nullif(o.oprcanhash, false), 'MERGES', nullif(o.oprcanmerge, false)),
    'owned_by', pg_get_userbyid(o.oprowner), 'comment', obj_description(o.oid, 'pg_operator'))
FROM pg_operator o JOIN pg_namespace n ON n.oid = o.oprnamespace WHERE n.nspname = ANY (%(own)s) AND {no_member("pg_operator", "o.oid")}""",
}


def _using(prefix: str) -> str:
    return (
        f" || ' USING ' || (SELECT {spelt('amname')} FROM pg_am WHERE oid = o.{prefix}method)"
        if prefix.startswith("op")
        else ""
    )


# Each with what it is made of, in one text that is good for comparing.
_RARE = {
    "opclass": ("pg_opclass", "opc", f"""
        concat_ws(' ', format_type(o.opcintype, NULL), CASE WHEN o.opcdefault THEN 'DEFAULT' END,
                  'FAMILY ' || {named("pg_opfamily", "opf", "o.opcfamily")}, 'STORAGE ' || nullif(format_type(o.opckeytype, NULL), '-'))"""),
    "opfamily": ("pg_opfamily", "opf", f"""
        concat_ws(', ', (SELECT string_agg(concat_ws(' ', 'OPERATOR', a.amopstrategy, a.amopopr::regoperator, 'FOR ORDER BY ' || {named("pg_opfamily", "opf", "a.amopsortfamily")}), ', '
                                           ORDER BY a.amopstrategy, a.amopopr::regoperator::text COLLATE "C") FROM pg_amop a WHERE a.amopfamily = o.oid),
                        (SELECT string_agg(concat_ws(' ', 'FUNCTION', a.amprocnum, '(' || format_type(a.amproclefttype, NULL) || ', ' || format_type(a.amprocrighttype, NULL) || ')', a.amproc::regprocedure), ', '
                                           ORDER BY a.amprocnum, format_type(a.amproclefttype, NULL) COLLATE "C", format_type(a.amprocrighttype, NULL) COLLATE "C") FROM pg_amproc a WHERE a.amprocfamily = o.oid))"""),
    "conversion": ("pg_conversion", "con", f"""
        concat_ws(' ', CASE WHEN o.condefault THEN 'DEFAULT' END, pg_encoding_to_char(o.conforencoding), 'TO', pg_encoding_to_char(o.contoencoding), 'FROM', {routine('o.conproc')})"""),
    "ts_config": ("pg_ts_config", "cfg", f"""
        concat_ws(', ', 'PARSER ' || {named("pg_ts_parser", "prs", "o.cfgparser")},
                  (SELECT string_agg(t.alias || ' ' || m.mapdict::regdictionary, ', ' ORDER BY t.alias COLLATE "C", m.mapseqno)
                   FROM pg_ts_config_map m JOIN ts_token_type(o.cfgparser) t ON t.tokid = m.maptokentype WHERE m.mapcfg = o.oid))"""),
    "ts_dict": ("pg_ts_dict", "dict", f"""
        concat_ws(', ', 'TEMPLATE ' || {named("pg_ts_template", "tmpl", "o.dicttemplate")}, o.dictinitoption)"""),
    "ts_parser": ("pg_ts_parser", "prs", f"""
        concat_ws(', ', 'START = ' || {routine("o.prsstart")}, 'GETTOKEN = ' || {routine("o.prstoken")}, 'END = ' || {routine("o.prsend")},
                  'HEADLINE = ' || {routine("o.prsheadline")}, 'LEXTYPES = ' || {routine("o.prslextype")})"""),
    "ts_template": ("pg_ts_template", "tmpl", f"""
        concat_ws(', ', 'INIT = ' || {routine("o.tmplinit")}, 'LEXIZE = ' || {routine("o.tmpllexize")})"""),
}  # fmt: skip
_PARTS |= {
    kind: f"""
SELECT '', 'other {kind} ' || {label("n.nspname", spelt(f"o.{prefix}name"), f"{catalog}_is_visible(o.oid) IS NOT FALSE")}{_using(prefix)}, json_build_object(
    'definition', nullif({definition}, ''),
    'owned_by', {"NULL" if prefix in ("prs", "tmpl") else f"pg_get_userbyid(o.{prefix}owner)"}, 'comment', obj_description(o.oid, '{catalog}'))
FROM {catalog} o JOIN pg_namespace n ON n.oid = o.{prefix}namespace WHERE n.nspname = ANY (%(own)s) AND {no_member(catalog, "o.oid")}"""
    for kind, (catalog, prefix, definition) in _RARE.items()
}
_PARTS |= {
    "cast": f"""
SELECT '', 'other cast (' || format_type(o.castsource, NULL) || ' AS ' || format_type(o.casttarget, NULL) || ')', json_build_object(
    'definition', CASE o.castmethod WHEN 'f' THEN 'WITH FUNCTION ' || o.castfunc::regprocedure WHEN 'i' THEN 'WITH INOUT' ELSE 'WITHOUT FUNCTION' END
                  || CASE o.castcontext WHEN 'a' THEN ' AS ASSIGNMENT' WHEN 'i' THEN ' AS IMPLICIT' ELSE '' END,
    'comment', obj_description(o.oid, 'pg_cast'))
FROM pg_cast o JOIN pg_type s ON s.oid = o.castsource JOIN pg_type t ON t.oid = o.casttarget
WHERE (EXISTS (SELECT FROM pg_namespace n WHERE n.oid IN (s.typnamespace, t.typnamespace) AND n.nspname = ANY (%(own)s))
       OR %(everywhere)s AND o.oid >= {NOT_BUILT_IN})
  AND NOT EXISTS (SELECT FROM pg_depend x WHERE x.classid = 'pg_cast'::regclass AND x.objid = o.oid AND x.deptype IN ('e', 'i'))  -- of a range""",
    "dependent": f"""
SELECT '', 'dependent ' || coalesce({FUNCTION_PATH}, 'trigger ' || {relation_label("cn.nspname", "c")} || '.' || {spelt("g.tgname")},
           'index ' || {relation_label("cn.nspname", "c")} || '.' || {spelt("x.relname")}, 'view ' || {relation_label("n.nspname", "x")}),
       json_build_object('depends_on', json_agg({spelt("e.extname")} ORDER BY e.extname))
FROM pg_extension e JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'x'
LEFT JOIN pg_proc p ON d.classid = 'pg_proc'::regclass AND p.oid = d.objid
LEFT JOIN pg_trigger g ON d.classid = 'pg_trigger'::regclass AND g.oid = d.objid
LEFT JOIN pg_class x ON d.classid = 'pg_class'::regclass AND x.oid = d.objid
LEFT JOIN pg_index i ON i.indexrelid = x.oid
LEFT JOIN pg_class c ON c.oid = coalesce(g.tgrelid, i.indrelid) LEFT JOIN pg_namespace cn ON cn.oid = c.relnamespace
LEFT JOIN pg_namespace n ON n.oid = coalesce(p.pronamespace, x.relnamespace)
GROUP BY 2""",
    "default_rights": f"""
SELECT '', 'default ' || CASE WHEN e.given THEN 'grant ' ELSE 'revocation ' END
           || CASE WHEN d.defaclnamespace = 0 THEN '' WHEN n.nspname = %(schema)s THEN 'in schema {{schema}} ' ELSE 'in schema ' || {spelt("n.nspname")} || ' ' END
           || 'on ' || CASE d.defaclobjtype WHEN 'r' THEN 'tables' WHEN 'S' THEN 'sequences' WHEN 'f' THEN 'functions' WHEN 'T' THEN 'types'
                                            WHEN 'n' THEN 'schemas' ELSE 'large objects' END
           || ' of ' || {spelt("r.rolname")} || CASE WHEN e.given THEN ' to ' ELSE ' from ' END || coalesce({spelt("g.rolname")}, 'PUBLIC'),
       json_build_object('privileges', json_agg(e.privilege_type || CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END
                                                ORDER BY e.privilege_type))
FROM pg_default_acl d LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace JOIN pg_roles r ON r.oid = d.defaclrole
CROSS JOIN LATERAL (  -- without a schema they take the place of what a new object comes with, in a schema they come on top
    (SELECT true AS given, grantee, privilege_type, is_grantable FROM aclexplode(d.defaclacl)
     EXCEPT SELECT true, grantee, privilege_type, is_grantable FROM {_USUALLY} WHERE d.defaclnamespace = 0)
    UNION ALL
    (SELECT false, grantee, privilege_type, is_grantable FROM {_USUALLY} WHERE d.defaclnamespace = 0
     EXCEPT SELECT false, grantee, privilege_type, is_grantable FROM aclexplode(d.defaclacl))) e
LEFT JOIN pg_roles g ON g.oid = e.grantee
WHERE (n.nspname = ANY (%(own)s) OR d.defaclnamespace = 0 AND %(everywhere)s) AND NOT (e.grantee = d.defaclrole AND e.privilege_type = 'MAINTAIN')
GROUP BY d.defaclnamespace, n.nspname, d.defaclobjtype, r.rolname, g.rolname, e.given""",
    "setting": f"""
SELECT '', 'setting ' || split_part(c, '=', 1) || coalesce(' of role ' || (SELECT {spelt("r.rolname")} FROM pg_roles r WHERE r.oid = s.setrole), ''),
       json_build_object('value', {public("split_part(c, '=', 1)", "substr(c, strpos(c, '=') + 1)")})
FROM pg_db_role_setting s CROSS JOIN unnest(s.setconfig) c
WHERE %(everywhere)s AND s.setdatabase = (SELECT oid FROM pg_database WHERE datname = current_database())""",
    "foreign_data_wrapper": f"""
SELECT '', 'other foreign_data_wrapper ' || {spelt("w.fdwname")}, json_build_object(
    'definition', nullif(concat_ws(' ', 'HANDLER ' || {routine("w.fdwhandler")}, 'VALIDATOR ' || {routine("w.fdwvalidator")}), ''),
    'options', {options_of("w.fdwoptions", secrets=False)}, 'owned_by', pg_get_userbyid(w.fdwowner), 'comment', obj_description(w.oid, 'pg_foreign_data_wrapper'))
FROM pg_foreign_data_wrapper w WHERE (%(everywhere)s OR EXISTS (SELECT FROM pg_foreign_server s WHERE s.srvfdw = w.oid AND s.oid IN ({SERVERS})))
  AND {no_member("pg_foreign_data_wrapper", "w.oid")}""",
    "server": f"""
SELECT '', 'other server ' || {spelt("s.srvname")}, json_build_object(
    'definition', concat_ws(' ', 'TYPE ' || quote_literal(s.srvtype), 'VERSION ' || quote_literal(s.srvversion), 'FOREIGN DATA WRAPPER ' || {spelt("w.fdwname")}),
    'options', {options_of("s.srvoptions", secrets=False)}, 'owned_by', pg_get_userbyid(s.srvowner), 'comment', obj_description(s.oid, 'pg_foreign_server'))
FROM pg_foreign_server s JOIN pg_foreign_data_wrapper w ON w.oid = s.srvfdw
WHERE (%(everywhere)s OR s.oid IN ({SERVERS})) AND {no_member("pg_foreign_server", "s.oid")}""",
    "user_mapping": f"""
SELECT '', 'other user_mapping FOR ' || CASE WHEN m.umuser = 0 THEN 'PUBLIC' ELSE {spelt("m.usename")} END || ' SERVER ' || {spelt("m.srvname")},
    CASE WHEN m.umoptions IS NULL AND NOT ({_MAY_READ_MAPPING}) THEN json_build_object('hidden', true)
         ELSE json_build_object('options', {options_of("m.umoptions", secrets=False)}) END
FROM pg_user_mappings m JOIN pg_foreign_server s ON s.oid = m.srvid
WHERE (%(everywhere)s OR s.oid IN ({SERVERS})) AND {no_member("pg_foreign_server", "s.oid")}""",
    "language": f"""
SELECT '', 'other language ' || {spelt("l.lanname")}, json_build_object(
    'definition', nullif(concat_ws(' ', CASE WHEN l.lanpltrusted THEN 'TRUSTED' END, 'HANDLER ' || {routine("l.lanplcallfoid")},
                                   'INLINE ' || {routine("l.laninline")}, 'VALIDATOR ' || {routine("l.lanvalidator")}), ''),
    'owned_by', pg_get_userbyid(l.lanowner), 'comment', obj_description(l.oid, 'pg_language'))
FROM pg_language l WHERE %(everywhere)s AND l.oid >= {NOT_BUILT_IN} AND {no_member("pg_language", "l.oid")}""",
    "transform": f"""
SELECT '', 'other transform FOR ' || format_type(t.trftype, NULL) || ' LANGUAGE ' || {spelt("l.lanname")}, json_build_object(
    'definition', concat_ws(', ', 'FROM SQL WITH FUNCTION ' || CASE WHEN t.trffromsql <> 0 THEN t.trffromsql::regprocedure END,
                            'TO SQL WITH FUNCTION ' || CASE WHEN t.trftosql <> 0 THEN t.trftosql::regprocedure END),
    'comment', obj_description(t.oid, 'pg_transform'))
FROM pg_transform t JOIN pg_language l ON l.oid = t.trflang JOIN pg_type y ON y.oid = t.trftype JOIN pg_namespace n ON n.oid = y.typnamespace
WHERE (%(everywhere)s OR n.nspname = ANY (%(own)s)) AND {no_member("pg_transform", "t.oid")}""",
    "access_method": f"""
SELECT '', 'other access_method ' || {spelt("a.amname")}, json_build_object(
    'definition', 'TYPE ' || CASE a.amtype WHEN 'i' THEN 'INDEX' ELSE 'TABLE' END || ' HANDLER ' || {routine("a.amhandler")},
    'comment', obj_description(a.oid, 'pg_am'))
FROM pg_am a WHERE %(everywhere)s AND a.oid >= {NOT_BUILT_IN} AND {no_member("pg_am", "a.oid")}""",
}
_EVERYWHERE = ("schema", "extension")
OTHERS = "\nUNION ALL".join(_PARTS[kind] for kind in _EVERYWHERE) + "".join(
    only_with(kind, f"\nUNION ALL{part}") for kind, part in _PARTS.items() if kind not in _EVERYWHERE
)
