-- Readers read, writers append, and whoever may change a session leaves a trail without being able to write one.
BEGIN;
SELECT plan(10);
CREATE ROLE t_reader IN ROLE pgvigil_reader;
CREATE ROLE t_writer IN ROLE pgvigil_writer;
CREATE ROLE t_application;
GRANT SELECT, INSERT, UPDATE, DELETE ON sessions, context_history TO t_application;
GRANT USAGE ON SCHEMA tap TO t_reader, t_writer, t_application;
INSERT INTO sessions (session_key, agent_from) VALUES ('s', 'x');

SET LOCAL ROLE t_reader;
SELECT lives_ok('SELECT * FROM session_monitoring_view', 'a reader reads the session view');
SELECT lives_ok('SELECT * FROM performance_monitoring_view', 'and the performance view');
SELECT lives_ok('SELECT * FROM pgvigil.migrations', 'and the ledger');
SELECT throws_ok($$UPDATE sessions SET status = 'pending'$$, '42501', NULL, 'but changes nothing');
SET LOCAL ROLE t_writer;
SELECT lives_ok($$INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('m', 1, 'gauge')$$, 'a writer appends metrics');
SELECT lives_ok($$INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('o', 1, true)$$, 'and log rows');
SELECT throws_ok('SELECT * FROM performance_logs', '42501', NULL, 'but does not read them');
SET LOCAL ROLE t_application;
SELECT lives_ok($$UPDATE sessions SET status = 'pending'$$, 'an application changes its sessions');
SELECT throws_ok($$DELETE FROM session_lifecycle$$, '42501', NULL, 'and cannot touch the trail');
RESET ROLE;
SELECT is((SELECT last_lifecycle_event FROM session_monitoring_view WHERE session_key = 's'), 'status_changed', 'which was written for it');
ROLLBACK;
