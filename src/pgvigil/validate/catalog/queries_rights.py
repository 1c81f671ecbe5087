"""The queries of rights: those beyond the ones that come with an object, and those of them that were revoked.

A right that only a newer server knows is not missed where an upgrade did not bring it.
"""

from __future__ import annotations

from pgvigil.validate.catalog.queries_rare_kinds import SERVERS
from pgvigil.validate.catalog.sql_fragments import (
    FUNCTION_PATH,
    no_built_in_member,
    no_member,
    only_with,
    relation_label,
    spelt,
    type_label,
)

# The rights that initdb gives schema public; one that somebody made again is compared with them too, as pg_dump does.
RIGHTS_ON_PUBLIC = """(SELECT ARRAY[makeaclitem(w.oid, w.oid, 'USAGE', false), makeaclitem(w.oid, w.oid, 'CREATE', false),
                              makeaclitem(0, w.oid, 'USAGE', false)]
                       || CASE WHEN w.oid = 10 THEN ARRAY[makeaclitem(0, w.oid, 'CREATE', false)] END
                FROM (SELECT CASE WHEN current_setting('server_version_num')::integer >= 150000 THEN 'pg_database_owner'::regrole::oid
                                  ELSE 10::oid END AS oid) w)"""

_OF_SCHEMAS = f"""
    SELECT '' AS label, 'schema ' || CASE WHEN n.nspname = %(schema)s THEN '{{schema}}' ELSE {spelt("n.nspname")} END AS path,
           coalesce(n.nspacl, acldefault('n', n.nspowner)) AS acl,
           CASE WHEN n.nspname = 'public' THEN {RIGHTS_ON_PUBLIC} ELSE
               coalesce((SELECT initprivs FROM pg_init_privs i WHERE i.classoid = 'pg_namespace'::regclass AND i.objoid = n.oid AND i.objsubid = 0),
                        acldefault('n', n.nspowner)) END AS usual, n.nspowner AS owner
    FROM pg_namespace n WHERE (n.nspname = ANY (%(own)s) OR n.nspname = %(schema)s) AND (n.nspacl IS NOT NULL OR n.nspname = 'public')"""

# Each with the kind that there must be, see presence.py.
# fmt: off
_OF_KINDS = (
    ("relation_rights", """
    SELECT t.label, t.kind || t.label, c.relacl, acldefault(CASE c.relkind WHEN 'S' THEN 's'::"char" ELSE 'r' END, c.relowner), c.relowner
    FROM target t JOIN pg_class c ON c.oid = t.oid WHERE c.relacl IS NOT NULL"""),
    ("column_rights", f"""
    SELECT t.label, 'column ' || t.label || '.' || {spelt("a.attname")}, a.attacl, acldefault('c', c.relowner), c.relowner
    FROM target t JOIN pg_class c ON c.oid = t.oid JOIN pg_attribute a ON a.attrelid = t.oid WHERE a.attacl IS NOT NULL AND NOT a.attisdropped"""),
    ("function", f"""
    SELECT '', {FUNCTION_PATH},
           p.proacl, acldefault('f', p.proowner), p.proowner
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    WHERE n.nspname = ANY (%(own)s) AND p.proacl IS NOT NULL AND {no_member("pg_proc", "p.oid")}"""),
    ("type_rights", f"""
    SELECT '', 'type ' || {type_label("n.nspname", "y")}, y.typacl, acldefault('T', y.typowner), y.typowner
    FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace
    WHERE n.nspname = ANY (%(own)s) AND y.typacl IS NOT NULL AND {no_member("pg_type", "y.oid")}"""),
    ("everywhere", f"""
    SELECT '', {FUNCTION_PATH}, p.proacl, coalesce(i.initprivs, acldefault('f', p.proowner)), p.proowner
    FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
    LEFT JOIN pg_init_privs i ON i.classoid = 'pg_proc'::regclass AND i.objoid = p.oid AND i.objsubid = 0
    WHERE n.nspname IN ('pg_catalog', 'information_schema') AND p.proacl IS DISTINCT FROM i.initprivs AND p.proacl IS NOT NULL
      AND {no_built_in_member("pg_proc", "p.oid")}"""),
    ("everywhere", f"""
    SELECT '', CASE c.relkind WHEN 'v' THEN 'view ' ELSE 'table ' END || {relation_label("n.nspname", "c")}, c.relacl,
           coalesce(i.initprivs, acldefault('r', c.relowner)), c.relowner
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_init_privs i ON i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = 0
    WHERE n.nspname IN ('pg_catalog', 'information_schema') AND c.relkind IN ('r', 'v')
      AND c.relacl IS DISTINCT FROM i.initprivs AND c.relacl IS NOT NULL AND {no_built_in_member("pg_class", "c.oid")}"""),
    ("everywhere", f"""
    SELECT '', 'column ' || {relation_label("n.nspname", "c")} || '.' || {spelt("a.attname")}, a.attacl, coalesce(i.initprivs, acldefault('c', c.relowner)), c.relowner
    FROM pg_attribute a JOIN pg_class c ON c.oid = a.attrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    LEFT JOIN pg_init_privs i ON i.classoid = 'pg_class'::regclass AND i.objoid = c.oid AND i.objsubid = a.attnum
    WHERE n.nspname IN ('pg_catalog', 'information_schema') AND a.attacl IS DISTINCT FROM i.initprivs AND a.attacl IS NOT NULL
      AND {no_built_in_member("pg_class", "c.oid")}"""),
    ("everywhere", """
    SELECT '', 'schema ' || n.nspname, n.nspacl, coalesce(i.initprivs, acldefault('n', n.nspowner)), n.nspowner
    FROM pg_namespace n LEFT JOIN pg_init_privs i ON i.classoid = 'pg_namespace'::regclass AND i.objoid = n.oid AND i.objsubid = 0
    WHERE n.nspname IN ('pg_catalog', 'information_schema') AND n.nspacl IS DISTINCT FROM i.initprivs AND n.nspacl IS NOT NULL"""),
    ("foreign_data_wrapper", f"""
    SELECT '', 'other foreign_data_wrapper ' || {spelt("w.fdwname")}, w.fdwacl, acldefault('F', w.fdwowner), w.fdwowner
    FROM pg_foreign_data_wrapper w WHERE w.fdwacl IS NOT NULL AND {no_member("pg_foreign_data_wrapper", "w.oid")}
      AND (%(everywhere)s OR EXISTS (SELECT FROM pg_foreign_server s WHERE s.srvfdw = w.oid AND s.oid IN ({SERVERS})))"""),
    ("foreign_data_wrapper", f"""
    SELECT '', 'other server ' || {spelt("s.srvname")}, s.srvacl, acldefault('S', s.srvowner), s.srvowner
    FROM pg_foreign_server s WHERE s.srvacl IS NOT NULL AND {no_member("pg_foreign_server", "s.oid")}
      AND (%(everywhere)s OR s.oid IN ({SERVERS}))"""),
    ("everywhere", f"""
    SELECT '', 'other language ' || {spelt("l.lanname")}, l.lanacl,
           coalesce((SELECT initprivs FROM pg_init_privs i WHERE i.classoid = 'pg_language'::regclass AND i.objoid = l.oid AND i.objsubid = 0),
                    acldefault('l', l.lanowner)), l.lanowner
    FROM pg_language l WHERE l.lanacl IS NOT NULL"""),
    ("everywhere", """
    SELECT '', 'database {database}', b.datacl, acldefault('d', b.datdba), b.datdba
    FROM pg_database b WHERE b.datname = current_database() AND b.datacl IS NOT NULL"""),
)
# fmt: on

_OBJECTS = _OF_SCHEMAS + "".join(only_with(kind, f"\n    UNION ALL{objects}") for kind, objects in _OF_KINDS)

GRANTS = f"""
SELECT o.label, CASE WHEN e.given THEN 'grant on ' ELSE 'revocation on ' END || o.path || CASE WHEN e.given THEN ' to ' ELSE ' from ' END
       || coalesce({spelt("r.rolname")}, 'PUBLIC'),
  json_build_object('privileges', json_agg(e.privilege_type || CASE WHEN e.is_grantable THEN ' WITH GRANT OPTION' ELSE '' END ORDER BY e.privilege_type)),
  coalesce(r.rolname, 'PUBLIC'), o.owner = e.grantee
FROM ({_OBJECTS}
) o CROSS JOIN LATERAL (
    (SELECT true AS given, grantee, privilege_type, is_grantable FROM aclexplode(o.acl)
     EXCEPT SELECT true, grantee, privilege_type, is_grantable FROM aclexplode(o.usual))
    UNION ALL
    (SELECT false, grantee, privilege_type, is_grantable FROM aclexplode(o.usual) u
     WHERE NOT (u.grantee = o.owner AND u.privilege_type = 'MAINTAIN')
     EXCEPT SELECT false, grantee, privilege_type, is_grantable FROM aclexplode(o.acl))
) e LEFT JOIN pg_roles r ON r.oid = e.grantee
WHERE NOT (e.grantee = o.owner AND e.privilege_type = 'MAINTAIN') AND e.privilege_type <> 'CONNECT'  -- who may come in is the server's business
GROUP BY o.label, o.path, o.owner, e.given, e.grantee, r.rolname"""
