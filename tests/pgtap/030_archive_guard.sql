-- Archived sessions and their children are read-only (fault 11); reactivate_session is the way back.
BEGIN;
SELECT plan(25);
INSERT INTO sessions (id, session_key, agent_from) VALUES
    ('00000000-0000-4000-8000-000000000001', 'open', 'x'), ('00000000-0000-4000-8000-000000000002', 'shut', 'x');
INSERT INTO context_history (session_id, sequence_number, context_type, content)
SELECT id, 1, 'message', 'hello' FROM sessions;
INSERT INTO handoff_requests (session_id, requesting_agent) SELECT id, 'x' FROM sessions;
INSERT INTO codebase_snapshots (session_id, file_path, content_hash) SELECT id, 'f', 'h' FROM sessions;
UPDATE sessions SET archived_at = now(), status = 'archived' WHERE session_key = 'shut';

PREPARE touch AS UPDATE sessions SET metadata = '{}' WHERE session_key = 'shut';
SELECT throws_ok('touch', '55000', 'session 00000000-0000-4000-8000-000000000002 is archived and read-only', 'an archived session cannot be touched');
SELECT throws_ok($$UPDATE sessions SET status = 'active' WHERE session_key = 'shut'$$, '55000', NULL, 'nor its status changed');
SELECT throws_ok($$UPDATE sessions SET archived_at = now() - interval '1 day' WHERE session_key = 'shut'$$, '55000', NULL, 'nor its date');
SELECT throws_ok($$INSERT INTO context_history (session_id, sequence_number, context_type, content)
                   VALUES ('00000000-0000-4000-8000-000000000002', 2, 'message', 'late')$$, '55000', NULL, 'no context comes in');
SELECT throws_ok($$INSERT INTO context_history (session_id, sequence_number, context_type, content)
                   SELECT id, n, 'message', 'late' FROM sessions, generate_series(2, 9) n$$, '55000', NULL, 'nor by a statement for many sessions');
SELECT throws_ok($$UPDATE context_history SET content = 'bent' WHERE session_id = '00000000-0000-4000-8000-000000000002'$$, '55000', NULL, 'none is changed');
SELECT throws_ok($$UPDATE context_history SET session_id = '00000000-0000-4000-8000-000000000002', sequence_number = 9
                   WHERE session_id = '00000000-0000-4000-8000-000000000001'$$, '55000', NULL, 'none is moved in');
SELECT throws_ok($$UPDATE context_history SET session_id = '00000000-0000-4000-8000-000000000001', sequence_number = 9
                   WHERE session_id = '00000000-0000-4000-8000-000000000002'$$, '55000', NULL, 'none is moved out');
SELECT throws_ok($$DELETE FROM context_history WHERE session_id = '00000000-0000-4000-8000-000000000002'$$, '55000', NULL, 'none is deleted');
SELECT throws_ok($$UPDATE handoff_requests SET status = 'accepted' WHERE session_id = '00000000-0000-4000-8000-000000000002'$$, '55000', NULL, 'requests neither');
SELECT throws_ok($$DELETE FROM codebase_snapshots WHERE session_id = '00000000-0000-4000-8000-000000000002'$$, '55000', NULL, 'nor snapshots');
SELECT lives_ok($$UPDATE context_history SET content = 'still open' WHERE session_id = '00000000-0000-4000-8000-000000000001'$$, 'other sessions are free');
SELECT is((SELECT count(*) FROM context_history), 2::bigint, 'everything is still readable');

SELECT ok(pgvigil.reactivate_session('00000000-0000-4000-8000-000000000002'), 'reactivate_session brings it back');
SELECT is((SELECT (status, archived_at IS NULL, is_dormant)::text FROM sessions WHERE session_key = 'shut'), '(active,t,f)', 'active, not archived, not dormant');
SELECT lives_ok('touch', 'and it can be written again');
SELECT ok(NOT pgvigil.reactivate_session('00000000-0000-4000-8000-000000000002'), 'a second time there is nothing to do');
SELECT throws_ok($$SELECT pgvigil.reactivate_session('00000000-0000-4000-8000-00000000000f')$$, 'P0002', 'there is no session 00000000-0000-4000-8000-00000000000f', 'an unknown session is an error');
UPDATE sessions SET status = 'archived' WHERE session_key = 'shut';
SELECT ok(pgvigil.reactivate_session('00000000-0000-4000-8000-000000000002'), 'one that only its status says is archived is brought back too');
UPDATE sessions SET archived_at = now() WHERE session_key = 'shut';
SELECT lives_ok($$DELETE FROM sessions WHERE session_key = 'shut'$$, 'retention may delete it, with its children');

INSERT INTO sessions (id, session_key, agent_from, archived_at) VALUES ('00000000-0000-4000-8000-000000000003', 'locked', 'x', now());
SET LOCAL pgvigil.skip_activity = 'migration';
SELECT throws_ok($$UPDATE sessions SET metadata = '{"k": 1}' WHERE session_key = 'locked'$$, '55000', NULL, 'upkeep is no way past the guard');
RESET pgvigil.skip_activity;
SELECT throws_ok(format('TRUNCATE %I', name), '55000', 'there are archived sessions, and what they hold is read-only', 'nor is TRUNCATE of ' || name)
FROM unnest('{context_history,codebase_snapshots,handoff_requests}'::text[]) name;
CREATE FUNCTION pg_temp.quietly(statement text) RETURNS void LANGUAGE plpgsql SET client_min_messages = warning AS $$ BEGIN EXECUTE statement; END $$;
SELECT lives_ok($$SELECT pg_temp.quietly('TRUNCATE context_history, sessions CASCADE')$$, 'together with all sessions they may go');
ROLLBACK;
