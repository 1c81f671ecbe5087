DROP INDEX idx_sessions_last_activity_at, idx_sessions_is_dormant, idx_sessions_archived_at, idx_sessions_retention_policy,
    idx_sessions_status_last_activity, idx_sessions_dormant_last_activity, idx_context_history_processing_time,
    idx_context_history_content_size;
SELECT pgvigil.put_back('011');
