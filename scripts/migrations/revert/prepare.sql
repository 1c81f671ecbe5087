-- After the last migration is reverted, by whoever runs it: rights on what is the application's. The roles stay,
-- because other databases of this server may use them, and a DBA may have granted them.
DO $$
DECLARE
    role_name text;
    one       regclass;
BEGIN
    FOR role_name IN
        SELECT r.rolname
        FROM pg_roles r
        WHERE r.rolname = ANY ('{pgvigil_admin,pgvigil_writer,pgvigil_reader,pgvigil_owner}'::name[]) LOOP
        IF EXISTS (SELECT FROM pg_namespace n CROSS JOIN LATERAL aclexplode(n.nspacl) a
                   WHERE n.nspname = current_setting('pgvigil.schema') AND a.grantee = role_name::regrole) THEN
            EXECUTE format('REVOKE ALL ON SCHEMA %I FROM %I', current_setting('pgvigil.schema'), role_name);
        END IF;
        FOR one IN SELECT c.oid FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
                   WHERE n.nspname = current_setting('pgvigil.schema')
                     AND c.relname = ANY ('{sessions,context_history,codebase_snapshots,handoff_requests}'::name[])
                     AND EXISTS (SELECT FROM aclexplode(c.relacl) a
                                 WHERE a.grantee = role_name::regrole AND c.relowner <> role_name::regrole) LOOP
            EXECUTE format('REVOKE ALL ON %s FROM %I', one, role_name);
        END LOOP;
    END LOOP;
END $$;
