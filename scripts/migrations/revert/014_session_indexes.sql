DROP INDEX "{app}".idx_sessions_last_activity_at, "{app}".idx_sessions_is_dormant, "{app}".idx_sessions_archived_at, "{app}".idx_sessions_retention_policy,
    "{app}".idx_sessions_status_last_activity, "{app}".idx_sessions_dormant_last_activity, "{app}".idx_context_history_processing_time,
    "{app}".idx_context_history_content_size;
SELECT pgvigil.put_back('014');
