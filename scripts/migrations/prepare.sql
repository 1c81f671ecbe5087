-- Before every run, by the role that runs it: the steps that need rights which the owner of the tables need not have.
-- Running it again changes nothing. "{app}" is the application's schema, "{owner}" the role that owns everything of
-- ours. Three roles without login, for the DBA to grant. Roles belong to the whole server: an existing one is used as
-- it is, and a role that may not create them can still migrate.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY '{pgvigil_admin,pgvigil_writer,pgvigil_reader}'::text[]
            || CASE '"{owner}"' WHEN '"pgvigil_owner"' THEN '{pgvigil_owner}'::text[] ELSE '{}' END LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
                EXECUTE format('COMMENT ON ROLE %I IS %L', role_name,
                               'Made by pgvigil; shared by all databases of this server');
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role % is not there and % may not create it: its grants are left out', role_name,
                    current_user
                      USING HINT =
                          format('As a superuser: CREATE ROLE %I NOLOGIN; then revert and migrate 013 for its grants.',
                                          role_name);
            WHEN duplicate_object OR unique_violation THEN NULL;  -- a migration of another database was quicker
        END;
    END LOOP;
END $$;

DO $$
BEGIN
    IF to_regnamespace('pgvigil') IS NULL THEN
        CREATE SCHEMA pgvigil AUTHORIZATION "{owner}";
        COMMENT ON SCHEMA pgvigil IS
            'pgvigil''s bookkeeping: ledger, helper functions, partition settings, kept trails';
    END IF;
    -- Tables and functions have rights of their own; every role may ask for its own session, and be refused with a
    -- reason when it may not kill another's.
    IF to_regnamespace('instrumentation') IS NULL THEN
        CREATE SCHEMA instrumentation AUTHORIZATION "{owner}";
        COMMENT ON SCHEMA instrumentation IS
            'Who is connected, and what they run: application instances, sessions, SQL statements';
    END IF;
END $$;

-- The application's schema need not be the owner's of its tables.
-- PUBLIC's right is enough in public, where it comes with every database; elsewhere it can go any day.
DO $$
DECLARE
    app       CONSTANT text := current_setting('pgvigil.schema');
    role_name text;
BEGIN
    FOR role_name IN
        SELECT r.rolname FROM pg_roles r, pg_namespace n
        WHERE n.nspname = app AND r.rolname = ANY ('{pgvigil_admin,pgvigil_writer,pgvigil_reader}'::name[])
          AND NOT EXISTS (SELECT FROM aclexplode(n.nspacl) a WHERE a.grantee = r.oid AND a.privilege_type = 'USAGE')
          AND (app <> 'public' OR NOT has_schema_privilege(r.oid, n.oid, 'USAGE'))
    LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA %I TO %I', app, role_name);
    END LOOP;
END $$;
