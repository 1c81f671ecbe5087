-- pgvigil: no-transaction
-- What has to read or write many rows of an existing install, in steps that block nobody and go on where they stopped.
CALL pgvigil.settle_dormancy();
CALL pgvigil.settle_session_counters();
ALTER TABLE "{app}".sessions VALIDATE CONSTRAINT sessions_status_check;
ALTER TABLE "{app}".context_history VALIDATE CONSTRAINT context_history_context_type_check;
ALTER TABLE "{app}".handoff_requests VALIDATE CONSTRAINT handoff_requests_status_check;
CALL pgvigil.adopt_leftovers();
