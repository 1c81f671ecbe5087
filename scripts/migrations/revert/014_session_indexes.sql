DROP INDEX "{app}".idx_sessions_last_activity_at, "{app}".idx_sessions_is_dormant, "{app}".idx_sessions_archived_at,
    "{app}".idx_sessions_retention_policy, "{app}".idx_sessions_status_last_activity,
    "{app}".idx_sessions_dormant_last_activity, "{app}".idx_context_history_processing_time,
    "{app}".idx_context_history_content_size;
SELECT pgvigil.restore_displaced('014');
-- last_activity_at is nullable again, unless it was NOT NULL before pgvigil. Its values stay.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgvigil.displaced_objects
                   WHERE revision = '011'
                     AND object = 'column sessions.last_activity_at'
                     AND restore_sql LIKE '%SET NOT NULL;%') THEN
        ALTER TABLE "{app}".sessions ALTER COLUMN last_activity_at DROP NOT NULL;
    END IF;
END $$;
