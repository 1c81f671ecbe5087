-- pgvigil: no-transaction
-- What has to read or write many rows of an existing install, in steps that block nobody and go on where they stopped.
CALL pgvigil.backfill_dormancy();
CALL pgvigil.backfill_session_counters();
CALL pgvigil.copy_legacy_tables();
