-- The roles stay: other databases of this server may use them, and a DBA may have granted them.
DO $$
DECLARE
    role_name text;
BEGIN
    FOR role_name IN SELECT rolname FROM pg_roles WHERE rolname = ANY ('{pgvigil_admin,pgvigil_writer,pgvigil_reader}'::name[]) LOOP
        EXECUTE format('REVOKE ALL ON ALL TABLES IN SCHEMA %I, pgvigil FROM %I', current_schema(), role_name);
        EXECUTE format('REVOKE ALL ON SCHEMA %I, pgvigil FROM %I', current_schema(), role_name);
    END LOOP;
END $$;
