"""The queries on the server and on the database as a whole."""

from __future__ import annotations

from pgvigil.validate.catalog.sql_fragments import FUNCTION_PATH, NOT_BUILT_IN, only_with

# In our schemas, of extensions that live elsewhere.
_MEMBERS = f"""(SELECT coalesce(json_agg(json_build_array(coalesce(f.path, i.type || ' ' || i.identity), e.extname) ORDER BY 1), '[]')
                FROM pg_extension e JOIN pg_namespace x ON x.oid = e.extnamespace
                JOIN pg_depend d ON d.refclassid = 'pg_extension'::regclass AND d.refobjid = e.oid AND d.deptype = 'e'
                JOIN (SELECT 'pg_proc'::regclass AS class, p.oid FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace WHERE n.nspname = ANY (%(own)s)
                      UNION ALL
                      SELECT 'pg_type'::regclass, y.oid FROM pg_type y JOIN pg_namespace n ON n.oid = y.typnamespace
                      WHERE n.nspname = ANY (%(own)s) AND y.typcategory <> 'A'
                        AND (y.typrelid = 0 OR EXISTS (SELECT FROM pg_class c WHERE c.oid = y.typrelid AND c.relkind = 'c'))
                      UNION ALL
                      SELECT 'pg_class'::regclass, t.oid FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
                      WHERE n.nspname = ANY (%(own)s) OR n.nspname = %(schema)s AND t.relname = ANY (%(names)s)) o ON o.class = d.classid AND o.oid = d.objid
                CROSS JOIN LATERAL pg_identify_object(d.classid, d.objid, 0) i
                LEFT JOIN LATERAL (SELECT {FUNCTION_PATH} AS path FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
                                   WHERE d.classid = 'pg_proc'::regclass AND p.oid = d.objid) f ON true
                WHERE x.nspname <> ALL (%(own)s))"""

_DEFAULT_RIGHTS = """(SELECT coalesce(json_agg(json_build_array(n.nspname, d.defaclobjtype, r.rolname,
                                                                coalesce(g.rolname, 'PUBLIC'), e.privilege_type, e.is_grantable, e.given, r.rolsuper)), '[]')
                       FROM pg_default_acl d JOIN pg_roles r ON r.oid = d.defaclrole
                       CROSS JOIN LATERAL (
                           SELECT grantee, privilege_type, is_grantable, true AS given FROM aclexplode(d.defaclacl)
                           UNION ALL
                           (SELECT grantee, privilege_type, is_grantable, false
                            FROM aclexplode(acldefault(CASE d.defaclobjtype WHEN 'S' THEN 's' ELSE d.defaclobjtype END, d.defaclrole)) WHERE d.defaclnamespace = 0
                            EXCEPT SELECT grantee, privilege_type, is_grantable, false FROM aclexplode(d.defaclacl))) e
                       LEFT JOIN pg_namespace n ON n.oid = d.defaclnamespace LEFT JOIN pg_roles g ON g.oid = e.grantee)"""

# What our own spec asks for besides: powers of its roles, and what holds in new sessions.
_FOR_OURS = """,
    'powers', (SELECT coalesce(json_object_agg(r.rolname, array_remove(ARRAY[
                   CASE WHEN r.rolsuper THEN 'SUPERUSER' END, CASE WHEN r.rolcanlogin THEN 'LOGIN' END,
                   CASE WHEN r.rolcreaterole THEN 'CREATEROLE' END,
                   CASE WHEN r.rolcreatedb THEN 'CREATEDB' END, CASE WHEN r.rolreplication THEN 'REPLICATION' END,
                   CASE WHEN r.rolbypassrls THEN 'BYPASSRLS' END], NULL)
                   || ARRAY(SELECT 'member of ' || m.roleid::regrole FROM pg_auth_members m WHERE m.member = r.oid ORDER BY 1)), '{}')
               FROM pg_roles r WHERE r.rolname = ANY (%(roles)s)),
    'settings', (SELECT coalesce(json_agg(json_build_array(split_part(c, '=', 1), substr(c, strpos(c, '=') + 1), s.setdatabase <> 0,
                                                           r.rolname,
                                                           NOT r.rolsuper AND EXISTS (
                                                               SELECT FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
                                                               WHERE n.nspname = %(schema)s AND t.relname = ANY (%(names)s) AND t.relkind IN ('r', 'p')
                                                                 AND has_table_privilege(r.oid, t.oid, 'INSERT, UPDATE, DELETE')))), '[]')
                 FROM pg_db_role_setting s LEFT JOIN pg_roles r ON r.oid = s.setrole, unnest(s.setconfig) c
                 WHERE s.setdatabase IN (0, (SELECT oid FROM pg_database WHERE datname = current_database()))
                   AND (split_part(c, '=', 1) IN ('session_replication_role', 'search_path') OR starts_with(c, 'pgvigil.'))),
    'own_settings', (SELECT coalesce(json_object_agg(name, value), '{}') FROM (
                        SELECT name, current_setting(name, true) FROM unnest('{pgvigil.skip_activity,pgvigil.instrumentation,pgvigil.only_to_read,pgvigil.activity_granularity}'::text[]) name
                     ) s (name, value) WHERE value <> ''),
    'without_usage', ARRAY(SELECT r.rolname FROM pg_roles r, pg_namespace n
                           WHERE n.nspname = %(schema)s AND NOT has_schema_privilege(r.oid, n.oid, 'USAGE')
                             AND (r.rolname = ANY (%(roles)s)
                                  OR r.oid = (SELECT t.relowner FROM pg_class t WHERE t.relnamespace = n.oid AND t.relname = 'sessions'))
                           ORDER BY 1),
    'shadows', ARRAY(SELECT DISTINCT n.nspname FROM pg_class t JOIN pg_namespace n ON n.oid = t.relnamespace
                     WHERE t.relname = ANY (%(names)s) AND n.nspname <> %(schema)s AND t.relkind IN ('r', 'p', 'v', 'm', 'f')),
    'configured', CASE WHEN current_setting('session_replication_role') = 'replica'
                       THEN EXISTS (SELECT FROM pg_settings WHERE name = 'session_replication_role' AND source = 'configuration file')
                       ELSE false END"""
_NOT_OURS = """, 'powers', '{}'::json, 'settings', '[]'::json, 'own_settings', '{}'::json, 'without_usage', '[]'::json, 'shadows', '[]'::json, 'configured', false"""

SERVER = f"""
SELECT json_build_object(
    'version', current_setting('server_version'), 'version_num', current_setting('server_version_num')::integer,
    'database', current_database(), 'role', current_user, 'now', extract(epoch FROM clock_timestamp())::double precision,
    'schema_there', EXISTS (SELECT FROM pg_namespace WHERE nspname = %(schema)s),
    'public_of_initdb', EXISTS (SELECT FROM pg_namespace WHERE nspname = 'public' AND oid < {NOT_BUILT_IN}),
    'roles', ARRAY(SELECT rolname FROM pg_roles),
    'members', {only_with("named", only_with("member", _MEMBERS, "'[]'::json"), "'[]'::json")},
    'default_grants', {only_with("default_rights", _DEFAULT_RIGHTS, "'[]'::json")}{only_with("named", _FOR_OURS, _NOT_OURS)})"""
