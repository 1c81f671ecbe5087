-- Deletion is logged and forgets nothing (fault 6).
BEGIN;
SELECT plan(16);
SET LOCAL pgvigil.actor = 'retention';
SET LOCAL pgvigil.reason = 'policy standard, 30 days';
INSERT INTO sessions (id, session_key, agent_from, metadata) VALUES ('00000000-0000-4000-8000-000000000001', 'gone', 'x', '{"k": 1}'),
                                                                   ('00000000-0000-4000-8000-000000000002', 'kept', 'x', '{}');
UPDATE sessions SET status = 'completed' WHERE session_key = 'gone';
INSERT INTO performance_logs (operation, duration_ms, success, session_id) VALUES ('op', 1, true, '00000000-0000-4000-8000-000000000001');
DELETE FROM sessions WHERE session_key = 'gone';

SELECT is((SELECT count(*) FROM pgvigil.deleted_sessions), 1::bigint, 'one deletion, one row');
SELECT is((SELECT (session_key, actor, reason, retention_policy)::text FROM pgvigil.deleted_sessions),
          '(gone,retention,"policy standard, 30 days",standard)', 'who, what and why');
SELECT is((SELECT last_row -> 'metadata' FROM pgvigil.deleted_sessions), '{"k": 1}'::jsonb, 'with the last row');
SELECT is((SELECT jsonb_path_query_array(events, '$[*].event_type') FROM pgvigil.deleted_sessions), '["created", "status_changed", "deleted"]'::jsonb,
          'with the whole trail, and the deletion at its end');
SELECT is((SELECT events -> -1 -> 'event_data' FROM pgvigil.deleted_sessions),
          '{"final_status": "completed", "retention_policy": "standard", "reason": "policy standard, 30 days", "actor": "retention"}'::jsonb || jsonb_build_object('session_user', session_user),
          'deleted carries final status, policy, reason and actor');
SELECT is((SELECT count(*) FROM session_lifecycle WHERE session_id = '00000000-0000-4000-8000-000000000001'), 0::bigint, 'no event dangles');
SELECT is((SELECT count(*) FROM session_lifecycle), 1::bigint, 'other trails stay');
SELECT is((SELECT count(*) FROM performance_logs), 1::bigint, 'its log rows stay, and did not stop the deletion');

CREATE FUNCTION pg_temp.soft_delete() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER soft_delete BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION pg_temp.soft_delete();
DELETE FROM sessions;
SELECT is((SELECT count(*) FROM pgvigil.deleted_sessions), 1::bigint, 'what a trigger of the application calls off is no deletion');
SELECT is((SELECT count(*) FROM session_lifecycle), 1::bigint, 'and the trail stays with its session');
DROP TRIGGER soft_delete ON sessions;

INSERT INTO sessions (id, session_key, agent_from) VALUES ('00000000-0000-4000-8000-000000000001', 'gone', 'y');
SELECT is((SELECT last_lifecycle_event FROM session_monitoring_view WHERE session_key = 'gone'), 'created', 'a session of the same id begins anew');
DELETE FROM sessions;
SELECT is((SELECT count(*) FROM pgvigil.deleted_sessions), 3::bigint, 'and can be deleted again in the same transaction');
SELECT is((SELECT count(*) FROM session_lifecycle), 0::bigint, 'nothing is left');

INSERT INTO sessions (id, session_key, agent_from, retention_policy) VALUES ('00000000-0000-4000-8000-000000000003', 'a', 'x', NULL),
                                                                           ('00000000-0000-4000-8000-000000000004', 'b', 'x', 'extended');
UPDATE sessions SET status = 'pending' WHERE session_key = 'a';
UPDATE pgvigil.retention_policies SET legal_hold = policy = 'extended';
CREATE FUNCTION pg_temp.empty() RETURNS void LANGUAGE plpgsql SET client_min_messages = warning AS $$ BEGIN TRUNCATE sessions CASCADE; END $$;
SELECT throws_ok('SELECT pg_temp.empty()', '55000', 'there are sessions under legal hold: their retention policy is', 'TRUNCATE does not get past a policy under hold');
UPDATE pgvigil.retention_policies SET legal_hold = policy = 'short';
SELECT lives_ok('SELECT pg_temp.empty()', 'a hold on a policy that no session has is in nobody''s way');
SELECT results_eq($$SELECT session_key::text, reason, last_row ->> 'agent_from', jsonb_path_query_array(events, '$[*].event_type')
                    FROM pgvigil.deleted_sessions WHERE session_key IN ('a', 'b') ORDER BY 1$$,
                  $$VALUES ('a', 'policy standard, 30 days', 'x', '["created", "status_changed", "deleted"]'::jsonb),
                           ('b', 'policy standard, 30 days', 'x', '["created", "deleted"]')$$, 'and TRUNCATE forgets nothing either');
ROLLBACK;
