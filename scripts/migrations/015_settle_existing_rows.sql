-- pgvigil: no-transaction
-- What has to read or write many rows of an existing install, in steps that block nobody and go on where they stopped.
CALL pgvigil.settle_dormancy();
CALL pgvigil.settle_session_counters();
CALL pgvigil.adopt_leftovers();
