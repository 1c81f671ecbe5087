-- pgvigil: no-transaction
-- Steps that read or write many rows of an existing install: they block nobody and go on where they stopped.
CALL pgvigil.backfill_dormancy();
CALL pgvigil.backfill_session_counters();
CALL pgvigil.copy_legacy_tables();
