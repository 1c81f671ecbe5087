-- Readers read, writers append, and whoever may change a session leaves a trail without being able to write one.
BEGIN;
SELECT plan(13);
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

-- Row security of the application: the triggers see what the writer does not.
CREATE ROLE t_tenant;
GRANT USAGE ON SCHEMA tap TO t_tenant;
GRANT SELECT, INSERT, UPDATE, DELETE ON sessions, context_history TO t_tenant;
INSERT INTO sessions (id, session_key, agent_from, archived_at) VALUES ('00000000-0000-4000-8000-0000000000a1', 'hidden', 'other', now());
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
ALTER TABLE session_lifecycle ENABLE ROW LEVEL SECURITY;
CREATE POLICY own ON sessions USING (agent_from = 'tenant');
SET LOCAL ROLE t_tenant;
SELECT throws_ok($$INSERT INTO context_history (session_id, sequence_number, context_type, content)
                   VALUES ('00000000-0000-4000-8000-0000000000a1', 1, 'message', 'x')$$, '55000', NULL, 'an archived session is guarded where row security hides it');
SELECT throws_ok($$INSERT INTO sessions (session_key, agent_from) VALUES ('foreign', 'other')$$, '42501', NULL, 'row security holds');
INSERT INTO sessions (session_key, agent_from) VALUES ('own', 'tenant');
UPDATE sessions SET status = 'pending';
DELETE FROM sessions;
RESET ROLE;
SELECT is((SELECT string_agg(session_key || ' ' || jsonb_path_query_array(events, '$[*].event_type'), ' ') FROM pgvigil.deleted_sessions),
          'own ["created", "status_changed", "deleted"]', 'and the trail is whole for those rows it lets through');
ROLLBACK;
