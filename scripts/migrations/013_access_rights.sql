-- Rights of the roles. The roles are made by prepare.sql where the migrating role may make them; a grant to a missing
-- role is left out. closing.sql has the rights of PUBLIC: almost none.
DO $$
DECLARE
    role_name text;
    app       text := quote_ident(pgvigil.application_schema());
    -- Functions that show the state: reading, for readers and admins alike.
    looks     CONSTANT text :=
        'pgvigil.is_running(text), pgvigil.is_alive(bigint, integer), pgvigil.due_at(text), '
        'pgvigil.partitioned_table(text), pgvigil.default_partition(regclass), pgvigil.partition_key(regclass), '
        'pgvigil.waiting_rows(), pgvigil.performance_window(interval), pgvigil.histogram_performance_logs(uuid, '
        'uuid, timestamptz), pgvigil.count_context(uuid[]), pgvigil.current_counters(uuid), '
        'pgvigil.integrity_report(boolean), pgvigil.settings_report(), pgvigil.stored_settings(), '
        'pgvigil.watched_schemas(), pgvigil.fits_full_scan(regclass[]), pgvigil.check_objects(boolean), '
        'pgvigil.check_replaced(boolean), pgvigil.replaced_objects(), pgvigil.check_jobs(boolean), '
        'pgvigil.check_load(boolean), pgvigil.check_orphans(boolean), pgvigil.check_counters(boolean), '
        'pgvigil.check_storage(boolean), pgvigil.session_stats(interval, timestamptz, timestamptz), '
        'pgvigil.handoff_stats(interval, timestamptz, timestamptz), pgvigil.performance_trends(interval, '
        'timestamptz, timestamptz), pgvigil.ended_statuses(), pgvigil.open_statuses(), pgvigil.stored_statuses(), '
        'pgvigil.due_sessions(text), pgvigil.preview_jobs(), pgvigil.days_kept(), pgvigil.due_partitions(), '
        'pgvigil.unheard_sources(), pgvigil.require_all_rows()';
    readable  CONSTANT text :=
        'pgvigil.migrations, pgvigil.alembic_version, pgvigil.partition_policies, pgvigil.deleted_sessions, '
        'pgvigil.tolerated_values, pgvigil.displaced_tables, pgvigil.displaced_objects, '
        'pgvigil.reference_snapshots, pgvigil.session_counters, pgvigil.session_counter_changes, '
        'pgvigil.retention_policies, pgvigil.legal_holds, pgvigil.hold_sources, pgvigil.remote_holds, pgvigil.jobs, '
        'pgvigil.job_runs, pgvigil.job_status, pgvigil.partitions, pgvigil.performance_rollups, '
        'pgvigil.operation_totals, pgvigil.rollup_progress, pgvigil.alert_thresholds, pgvigil.final_statuses, '
        'pgvigil.backup_proofs, instrumentation.instances, instrumentation.sessions, '
        'instrumentation.active_sessions, instrumentation.session_stats, instrumentation.session_activity';
    appends   CONSTANT text := 'instrumentation.register_instance(text, text, jsonb, uuid),
        instrumentation.register_session(uuid, uuid, integer, timestamptz, text, text, text, jsonb),
        instrumentation.close_session(uuid, text, instrumentation.session_status),
        instrumentation.stop_instance(uuid, text),
        instrumentation.record_statement(text, instrumentation.statement_status, bigint, bigint, text, text, uuid, uuid,
                                         text, jsonb),
        instrumentation.unknown_sessions(uuid[]), instrumentation.heartbeat(uuid)';
BEGIN
    FOR role_name IN
        SELECT r.rolname
        FROM pg_roles r
        WHERE r.rolname = ANY ('{pgvigil_reader,pgvigil_admin}'::name[]) LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA pgvigil TO %I', role_name);
        EXECUTE format('GRANT SELECT ON %s TO %I', readable, role_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', looks, role_name);
        EXECUTE format('GRANT SELECT ON %1$s.sessions, %1$s.context_history, %1$s.codebase_snapshots,
                       %1$s.handoff_requests, %1$s.session_lifecycle,
                        %1$s.system_metrics, %1$s.performance_logs, %1$s.analytics_aggregations, %1$s.query_executions,
                        %1$s.session_monitoring_view, %1$s.session_content_view, %1$s.performance_monitoring_view,
                        %1$s.execution_analytics, %1$s.user_recent_executions TO %2$I', app, role_name);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'pgvigil_reader') THEN
        -- Statements of others show to admins only; see instrumentation.session_activity.
        GRANT SELECT (statement_id, session_id, statement_handle, execution_start_time, execution_end_time,
                      rows_fetched, status, duration_ms, sqlstate, query_id, query_tag, source)
            ON instrumentation.sql_statements
            TO pgvigil_reader;
    END IF;
    FOR role_name IN
        SELECT r.rolname
        FROM pg_roles r
        WHERE r.rolname = ANY ('{pgvigil_writer,pgvigil_admin}'::name[]) LOOP
        EXECUTE format('GRANT USAGE ON SCHEMA pgvigil TO %I', role_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION %s TO %I', appends, role_name);
        EXECUTE format('GRANT INSERT ON %1$s.system_metrics, %1$s.performance_logs, %1$s.query_executions TO %2$I', app,
                       role_name);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'pgvigil_writer') THEN
        -- The schema of the application's tables; and the ids: a row that is sent again is answered with its existing
        -- id.
        GRANT SELECT (revision, schema_name) ON pgvigil.migrations TO pgvigil_writer;
        EXECUTE format('GRANT SELECT (id, execution_id) ON %s.query_executions TO pgvigil_writer', app);
        GRANT INSERT ON instrumentation.sql_statements TO pgvigil_writer;
    END IF;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'pgvigil_admin') THEN
        EXECUTE format('GRANT INSERT, UPDATE, DELETE ON %1$s.sessions, %1$s.context_history, %1$s.codebase_snapshots,
                       %1$s.handoff_requests,
                        %1$s.system_metrics, %1$s.performance_logs, %1$s.analytics_aggregations,
                        %1$s.query_executions TO pgvigil_admin', app);
        -- Times and switches, not what a row is about.
        GRANT UPDATE (step, make_ahead) ON pgvigil.partition_policies TO pgvigil_admin;
        GRANT UPDATE (every, enabled, at) ON pgvigil.jobs TO pgvigil_admin;
        GRANT UPDATE (warning, critical) ON pgvigil.alert_thresholds TO pgvigil_admin;
        GRANT INSERT, UPDATE, DELETE ON pgvigil.retention_policies, pgvigil.final_statuses TO pgvigil_admin;
        GRANT INSERT (session_id, reason), DELETE ON pgvigil.legal_holds TO pgvigil_admin;
        GRANT DELETE ON pgvigil.hold_sources TO pgvigil_admin;
        GRANT EXECUTE ON FUNCTION pgvigil.push_holds(text, interval, uuid[], boolean) TO pgvigil_admin;
        GRANT SELECT ON instrumentation.sql_statements, instrumentation.kill_attempts TO pgvigil_admin;
        GRANT EXECUTE
            ON FUNCTION pgvigil.begin_job(text, boolean), pgvigil.job_step(bigint, integer),
                pgvigil.release_job(bigint), pgvigil.report_job(bigint, bigint, text, text, boolean, text),
                pgvigil.completed_items(text), pgvigil.recount_session_counters(uuid),
                pgvigil.aggregate_analytics(text, timestamptz, timestamptz), instrumentation.reap_stale(interval),
                instrumentation.sample_activity(uuid, text[], text[]), instrumentation.sampled_texts(uuid),
                instrumentation.signal_session(uuid, text, interval)
            TO pgvigil_admin;
        GRANT EXECUTE
            ON PROCEDURE pgvigil.run_job(text, boolean, bigint), pgvigil.expire_due_sessions(bigint),
                pgvigil.detect_dormant_sessions(bigint), pgvigil.archive_due_sessions(bigint),
                pgvigil.cleanup_orphaned_sessions(bigint), pgvigil.enforce_retention(bigint)
            TO pgvigil_admin;
    END IF;
END $$;
