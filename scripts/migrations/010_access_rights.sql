-- Three roles without login, for the DBA to grant. Roles belong to the whole server: one that is there is used as it is,
-- and a role that may not create them can still migrate.
DO $$
DECLARE
    role_name text;
BEGIN
    FOREACH role_name IN ARRAY '{pgvigil_admin,pgvigil_writer,pgvigil_reader}'::text[] LOOP
        BEGIN
            IF NOT EXISTS (SELECT FROM pg_roles WHERE rolname = role_name) THEN
                EXECUTE format('CREATE ROLE %I NOLOGIN', role_name);
                EXECUTE format('COMMENT ON ROLE %I IS %L', role_name, 'Made by pgvigil; shared by all databases of this server');
            END IF;
        EXCEPTION
            WHEN insufficient_privilege THEN
                RAISE NOTICE 'role % is not there and % may not create it: its grants are left out', role_name, current_user
                      USING HINT = format('As a superuser: CREATE ROLE %I NOLOGIN; then revert and migrate 010 for its grants.', role_name);
            WHEN duplicate_object OR unique_violation THEN NULL;  -- a migration of another database was quicker
        END;
    END LOOP;

    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgvigil_reader') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I, pgvigil TO pgvigil_reader', current_schema());
        GRANT SELECT ON sessions, context_history, codebase_snapshots, handoff_requests, session_lifecycle, system_metrics,
            performance_logs, analytics_aggregations, session_monitoring_view, performance_monitoring_view TO pgvigil_reader;
        GRANT SELECT ON pgvigil.migrations, pgvigil.alembic_version, pgvigil.partition_policies, pgvigil.deleted_sessions,
            pgvigil.tolerated_values, pgvigil.leftovers, pgvigil.found_before, pgvigil.reference_snapshots,
            pgvigil.session_counters, pgvigil.session_counter_changes, pgvigil.retention_policies, pgvigil.legal_holds,
            pgvigil.jobs, pgvigil.job_runs, pgvigil.job_status, pgvigil.partitions, pgvigil.performance_rollups,
            pgvigil.rollup_progress TO pgvigil_reader;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgvigil_writer') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I, pgvigil TO pgvigil_writer', current_schema());
        GRANT INSERT ON system_metrics, performance_logs TO pgvigil_writer;
    END IF;
    IF EXISTS (SELECT FROM pg_roles WHERE rolname = 'pgvigil_admin') THEN
        EXECUTE format('GRANT USAGE ON SCHEMA %I, pgvigil TO pgvigil_admin', current_schema());
        GRANT SELECT, INSERT, UPDATE, DELETE ON sessions, context_history, codebase_snapshots, handoff_requests, session_lifecycle,
            system_metrics, performance_logs, analytics_aggregations TO pgvigil_admin;
        GRANT SELECT ON session_monitoring_view, performance_monitoring_view TO pgvigil_admin;
        GRANT SELECT ON pgvigil.migrations, pgvigil.alembic_version, pgvigil.partition_policies, pgvigil.deleted_sessions,
            pgvigil.tolerated_values, pgvigil.leftovers, pgvigil.found_before, pgvigil.reference_snapshots, pgvigil.job_runs,
            pgvigil.job_status, pgvigil.partitions, pgvigil.performance_rollups, pgvigil.rollup_progress TO pgvigil_admin;
        GRANT SELECT, UPDATE ON pgvigil.partition_policies, pgvigil.jobs TO pgvigil_admin;
        GRANT SELECT, INSERT, UPDATE, DELETE ON pgvigil.retention_policies, pgvigil.session_counters,
            pgvigil.session_counter_changes TO pgvigil_admin;
        GRANT SELECT, INSERT, DELETE ON pgvigil.legal_holds TO pgvigil_admin;
    END IF;
END $$;
