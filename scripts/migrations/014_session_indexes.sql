-- pgvigil: no-transaction
-- Before last_activity_at has indexes: filling it then writes no entry into them.
CALL pgvigil.backfill_last_activity();
-- Built while the application writes. An index that an interrupted build left INVALID is dropped and built again; an
-- index of the name with another definition is recorded and replaced.
CREATE INDEX CONCURRENTLY idx_sessions_last_activity_at ON "{app}".sessions (last_activity_at);
COMMENT ON INDEX "{app}".idx_sessions_last_activity_at IS 'Sessions by idle time';
CREATE INDEX CONCURRENTLY idx_sessions_is_dormant ON "{app}".sessions (is_dormant) WHERE is_dormant;
COMMENT ON INDEX "{app}".idx_sessions_is_dormant IS 'The dormant few; partial, so the active many cost nothing';
CREATE INDEX CONCURRENTLY idx_sessions_archived_at ON "{app}".sessions (archived_at) WHERE archived_at IS NOT NULL;
COMMENT ON INDEX "{app}".idx_sessions_archived_at IS 'Archived sessions by age, for retention';
CREATE INDEX CONCURRENTLY idx_sessions_retention_policy
    ON "{app}".sessions (retention_policy)
    WHERE retention_policy <> 'standard';
COMMENT ON INDEX "{app}".idx_sessions_retention_policy IS 'Sessions off the standard policy';
CREATE INDEX CONCURRENTLY idx_sessions_status_last_activity ON "{app}".sessions (status, last_activity_at);
COMMENT ON INDEX "{app}".idx_sessions_status_last_activity IS 'Idle sessions of a status';
CREATE INDEX CONCURRENTLY idx_sessions_dormant_last_activity
    ON "{app}".sessions (is_dormant, last_activity_at)
    WHERE is_dormant;
COMMENT ON INDEX "{app}".idx_sessions_dormant_last_activity IS 'Dormant sessions by idle time';
CREATE INDEX CONCURRENTLY idx_context_history_processing_time
    ON "{app}".context_history (processing_time_ms)
    WHERE processing_time_ms IS NOT NULL;
COMMENT ON INDEX "{app}".idx_context_history_processing_time IS 'Slow entries; rows from before the watch are left out';
CREATE INDEX CONCURRENTLY idx_context_history_content_size
    ON "{app}".context_history (content_size_bytes)
    WHERE content_size_bytes IS NOT NULL;
COMMENT ON INDEX "{app}".idx_context_history_content_size IS 'Large entries; rows from before the watch are left out';
