-- After the last migration is reverted. Fails, and with it the revert, where the schema holds anything that is not ours.
DROP FUNCTION pgvigil.mark_initialized(text);
DROP FUNCTION pgvigil.record_migration(text, text, boolean, text, text, integer, text);
DROP TABLE pgvigil.migrations, pgvigil.alembic_version;
DROP SCHEMA pgvigil;
