DROP FUNCTION pgvigil.stamp_updated_at();
DROP FUNCTION pgvigil.reactivate_session(uuid);
DROP FUNCTION pgvigil.guard_archived_session();
DROP FUNCTION pgvigil.archive_deleted_session();
DROP FUNCTION pgvigil.log_session_created();
DROP FUNCTION pgvigil.log_session_change();
DROP FUNCTION pgvigil.touch_session();
DROP FUNCTION pgvigil.limit_activity_updates();
