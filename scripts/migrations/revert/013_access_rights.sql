-- The roles stay: other databases of this server may use them, and a DBA may have granted them. USAGE on the
-- application's schema stays as well: who reverts need not own that. ON ALL TABLES would fail at the first table of
-- another role, where anybody who may create one in the application's schema could keep this from being reverted.
DO $$
DECLARE
    role_name text;
    one       record;
BEGIN
    FOR role_name IN
        SELECT rolname
        FROM pg_roles
        WHERE rolname = ANY ('{pgvigil_admin,pgvigil_writer,pgvigil_reader}'::name[]) LOOP
        FOR one IN
            SELECT 'TABLE' AS kind, c.oid::regclass::text AS name
            FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            WHERE n.nspname IN (pgvigil.application_schema(), 'pgvigil', 'instrumentation')
              AND c.relkind = ANY ('{r,p,v,m,f}'::"char"[])
              AND pg_has_role(c.relowner, 'USAGE')
              AND role_name::regrole::oid IN (
                  SELECT a.grantee
                  FROM aclexplode(c.relacl) a
                  UNION ALL SELECT b.grantee
                  FROM pg_attribute t, aclexplode(t.attacl) b
                  WHERE t.attrelid = c.oid)
            UNION ALL SELECT 'ROUTINE', p.oid::regprocedure::text
            FROM pg_proc p
            JOIN pg_namespace n ON n.oid = p.pronamespace
            WHERE n.nspname IN ('pgvigil', 'instrumentation')
              AND pg_has_role(p.proowner, 'USAGE')
              AND role_name::regrole::oid IN (SELECT a.grantee FROM aclexplode(p.proacl) a) LOOP
            EXECUTE format('REVOKE ALL ON %s %s FROM %I', one.kind, one.name, role_name);
        END LOOP;
        EXECUTE format('REVOKE ALL ON SCHEMA pgvigil FROM %I', role_name);
    END LOOP;
END $$;
