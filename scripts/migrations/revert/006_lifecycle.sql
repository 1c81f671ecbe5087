DROP PROCEDURE pgvigil.enforce_retention(bigint), pgvigil.cleanup_orphaned_sessions(bigint),
    pgvigil.archive_due_sessions(bigint), pgvigil.detect_dormant_sessions(bigint), pgvigil.expire_due_sessions(bigint),
    pgvigil.run_job(text, boolean, bigint);
DROP FUNCTION pgvigil.job_retention(integer), pgvigil.job_partitions(integer), pgvigil.job_orphans(integer),
    pgvigil.job_counters(integer), pgvigil.job_archive(integer), pgvigil.job_dormancy(integer),
    pgvigil.job_expiry(integer), pgvigil.change_due_sessions(text, integer, text), pgvigil.preview_jobs(),
    pgvigil.due_partitions(), pgvigil.days_kept(),
    pgvigil.due_sessions(text), pgvigil.open_statuses(), pgvigil.ended_statuses(), pgvigil.stored_statuses(),
    pgvigil.completed_items(text), pgvigil.report_job(bigint, bigint, text, text, boolean, text),
    pgvigil.begin_job(text, boolean), pgvigil.job_step(bigint, integer), pgvigil.require_no_subscription(),
    pgvigil.release_job(bigint);
DROP VIEW pgvigil.partitions, pgvigil.job_status;
DROP FUNCTION pgvigil.due_at(text), pgvigil.time_slot(interval, interval, timestamptz), pgvigil.is_running(text),
    pgvigil.is_alive(bigint, integer);
DROP FUNCTION pgvigil.accept_job(text), pgvigil.require_backup(text), pgvigil.require_consent(text);
DROP TABLE pgvigil.final_statuses, pgvigil.backup_proofs, pgvigil.job_runs, pgvigil.jobs;
DROP FUNCTION pgvigil.record_performance(text, double precision, boolean, uuid, jsonb),
    pgvigil.record_metric(text, double precision, text, jsonb), pgvigil.record_metric(text, numeric, text, jsonb),
    pgvigil.archive_session(uuid), pgvigil.mark_session_dormant(uuid), pgvigil.expire_session(uuid),
    pgvigil.schedule_expiration(uuid, timestamptz), pgvigil.require_session(uuid);
DROP FUNCTION pgvigil.set_default_expiry(), pgvigil.guard_legal_hold(), pgvigil.guard_policy_hold();
DROP FUNCTION pgvigil.push_holds(text, interval, uuid[], boolean), pgvigil.unheard_sources();
DROP TABLE pgvigil.remote_holds, pgvigil.hold_sources, pgvigil.legal_holds, pgvigil.retention_policies;
DROP FUNCTION pgvigil.guard_archived_children(), pgvigil.archive_truncated_sessions(), pgvigil.guard_legal_holds(),
    pgvigil.lapse_consent(), pgvigil.lapse_consent_by_status(), pgvigil.refresh_default_expiry(),
    pgvigil.compile_default_expiry(), pgvigil.protect_standard_policy(),
    pgvigil.protect_held_policy();
