-- The roles stay: other databases of this server may use them, and a DBA may have granted them. USAGE on the
-- application's schema stays as well: who reverts need not own that.
DO $$
DECLARE
    role_name text;
BEGIN
    FOR role_name IN
        SELECT rolname
        FROM pg_roles
        WHERE rolname = ANY ('{pgvigil_admin,pgvigil_writer,pgvigil_reader}'::name[]) LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I, pgvigil, instrumentation FROM %I',
                       pgvigil.application_schema(), role_name);
        EXECUTE format('REVOKE ALL ON ALL ROUTINES IN SCHEMA pgvigil, instrumentation FROM %I', role_name);
        EXECUTE format('REVOKE ALL ON SCHEMA pgvigil FROM %I', role_name);
    END LOOP;
END $$;
