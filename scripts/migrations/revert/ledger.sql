-- After the last migration is reverted. Fails, and with it the revert, where the schemas hold anything that is not
-- ours.
DROP FUNCTION pgvigil.mark_initialized(text);
DROP FUNCTION pgvigil.record_migration(text, text, text, boolean, text, text, integer, text);
DROP FUNCTION pgvigil.use_application_path(), pgvigil.application_table(text), pgvigil.application_schema();
DROP TABLE pgvigil.migrations, pgvigil.alembic_version;
DROP SCHEMA pgvigil, instrumentation;
