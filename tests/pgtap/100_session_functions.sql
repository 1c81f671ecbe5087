-- Policies, and the functions an application calls for one session. What the jobs do is in tests/maintenance/test_lifecycle.py.
BEGIN;
SELECT plan(63);
INSERT INTO sessions (id, session_key, agent_from) VALUES ('00000000-0000-4000-8000-000000000001', 's', 'x');
CREATE FUNCTION pg_temp.s() RETURNS uuid LANGUAGE sql IMMUTABLE AS $$SELECT '00000000-0000-4000-8000-000000000001'::uuid$$;
CREATE FUNCTION pg_temp.last_event() RETURNS text LANGUAGE sql AS $$
    SELECT event_type FROM session_lifecycle WHERE session_id = pg_temp.s() ORDER BY id DESC LIMIT 1
$$;

SELECT results_eq('SELECT policy::text, active_hours, dormant_after_hours, archived_days, logs_days, metrics_days, legal_hold FROM pgvigil.retention_policies ORDER BY policy',
    $$VALUES ('extended', 72, 6, 90, 30, 90, false), ('short', 4, 1, 7, 3, 7, false), ('standard', 24, 2, 30, 7, 30, false)$$, 'three policies to begin with');
SELECT is((SELECT expires_at - created_at FROM sessions), interval '24 hours', 'a new session expires by its policy');
INSERT INTO sessions (session_key, agent_from, retention_policy) VALUES ('extended', 'x', 'extended'), ('short', 'x', 'short'), ('none', 'x', NULL), ('other', 'x', 'misspelt');
SELECT is((SELECT jsonb_object_agg(session_key, extract(epoch FROM expires_at - created_at) / 3600) FROM sessions WHERE session_key <> 's'),
    '{"extended": 72, "short": 4, "none": 24, "other": 24}'::jsonb, 'each row of a statement by its own, and by standard without one or with an unknown one');
SELECT is((SELECT string_agg(event_type, ' ' ORDER BY l.id) FROM session_lifecycle l WHERE session_id = pg_temp.s()), 'created', 'which leaves no event of its own');
INSERT INTO sessions (session_key, agent_from, expires_at) VALUES ('given', 'x', '2030-01-01+00'), ('never', 'x', 'infinity');
SELECT is((SELECT expires_at FROM sessions WHERE session_key = 'given'), '2030-01-01+00', 'a time that is given stands');
SELECT is((SELECT expires_at FROM sessions WHERE session_key = 'never'), 'infinity', 'also that of a session that is to stay');
UPDATE pgvigil.retention_policies SET active_hours = 10 WHERE policy = 'standard';
INSERT INTO sessions (session_key, agent_from) VALUES ('edited', 'x');
SELECT is((SELECT expires_at - created_at FROM sessions WHERE session_key = 'edited'), interval '10 hours', 'an edited policy holds from the next insert on');
SAVEPOINT edit;
UPDATE pgvigil.retention_policies SET active_hours = 11;
ROLLBACK TO edit;
INSERT INTO sessions (session_key, agent_from) VALUES ('not edited', 'x');
SELECT is((SELECT expires_at - created_at FROM sessions WHERE session_key = 'not edited'), interval '10 hours', 'unless the edit is undone');
INSERT INTO pgvigil.retention_policies SELECT $$d'or\n %s$$, 5, 1, 1, 1, 1 UNION ALL SELECT repeat('"', 50), 6, 1, 1, 1, 1;
INSERT INTO sessions (session_key, agent_from, retention_policy) SELECT 'new ' || active_hours, 'x', policy FROM pgvigil.retention_policies WHERE active_hours IN (5, 6);
SELECT is((SELECT jsonb_object_agg(session_key, extract(epoch FROM expires_at - created_at) / 3600) FROM sessions WHERE session_key LIKE 'new %'),
    '{"new 5": 5, "new 6": 6}'::jsonb, 'new policies hold too, whatever they are called');
SELECT throws_ok($$DELETE FROM pgvigil.retention_policies WHERE policy = 'standard'$$, '55000', NULL, 'standard cannot be deleted');
SELECT throws_ok($$UPDATE pgvigil.retention_policies SET policy = 'usual' WHERE policy = 'standard'$$, '55000', NULL, 'nor renamed');
SELECT throws_ok('TRUNCATE pgvigil.retention_policies', '55000', NULL, 'nor truncated away');
SELECT lives_ok($$UPDATE pgvigil.retention_policies SET policy = 'long' WHERE policy = 'extended'; DELETE FROM pgvigil.retention_policies WHERE policy = 'short'$$, 'others can');
INSERT INTO sessions (session_key, agent_from, retention_policy) SELECT 'was ' || policy, 'x', policy FROM unnest('{long,extended,short}'::text[]) policy;
SELECT is((SELECT jsonb_object_agg(session_key, extract(epoch FROM expires_at - created_at) / 3600) FROM sessions WHERE session_key LIKE 'was %'),
    '{"was long": 72, "was extended": 10, "was short": 10}'::jsonb, 'what new sessions follow');
SELECT throws_ok($$UPDATE pgvigil.retention_policies SET active_hours = 0$$, '23514', NULL, 'no policy lets a session expire before it lives');

SELECT ok(pgvigil.schedule_expiration(pg_temp.s(), '2031-01-01+00'), 'expiration is scheduled');
SELECT is((SELECT expires_at FROM sessions WHERE id = pg_temp.s()), '2031-01-01+00', 'at the time given');
SELECT is(pg_temp.last_event(), 'expiration_scheduled', 'and logged');
SELECT ok(NOT pgvigil.schedule_expiration(pg_temp.s(), '2031-01-01+00'), 'again it changes nothing');
SELECT ok(pgvigil.schedule_expiration(pg_temp.s(), NULL), 'it can be taken back');

SELECT ok(pgvigil.mark_session_dormant(pg_temp.s()), 'a session is marked dormant');
SELECT is(pg_temp.last_event(), 'dormant', 'and that logged');
SELECT ok(NOT pgvigil.mark_session_dormant(pg_temp.s()), 'it can be so only once');
SELECT ok(pgvigil.reactivate_session(pg_temp.s()), 'until it is reactivated');
SELECT ok(pgvigil.expire_session(pg_temp.s()), 'a session is expired');
SELECT is(pg_temp.last_event(), 'expired', 'and that logged');
SELECT ok(NOT pgvigil.expire_session(pg_temp.s()), 'it expires only once');
UPDATE sessions SET expires_at = now() - interval '1 hour' WHERE id = pg_temp.s();
SELECT ok(pgvigil.reactivate_session(pg_temp.s()), 'an expired session is reactivated');
SELECT is((SELECT status FROM sessions WHERE id = pg_temp.s()), 'active', 'it is active again');
SELECT is((SELECT expires_at FROM sessions WHERE id = pg_temp.s()), NULL, 'and does not expire by the time that has passed');
UPDATE sessions SET status = 'completed' WHERE id = pg_temp.s();
SELECT ok(NOT pgvigil.expire_session(pg_temp.s()), 'what is completed does not expire');
SELECT ok(pgvigil.archive_session(pg_temp.s()), 'a session is archived');
SELECT is(pg_temp.last_event(), 'archived', 'and that logged');
SELECT is((SELECT status FROM sessions WHERE id = pg_temp.s()), 'completed', 'its status stays');
SELECT ok(NOT pgvigil.archive_session(pg_temp.s()), 'it is archived only once');
SELECT throws_ok('SELECT pgvigil.mark_session_dormant(pg_temp.s())', '55000', NULL, 'archived it is read-only');
SELECT throws_ok(format('SELECT pgvigil.%s', call), 'P0002', 'there is no session 00000000-0000-4000-8000-00000000000f', call || ' of an unknown session is an error')
FROM unnest(ARRAY['schedule_expiration(''00000000-0000-4000-8000-00000000000f'', now())', 'expire_session(''00000000-0000-4000-8000-00000000000f'')',
                  'mark_session_dormant(''00000000-0000-4000-8000-00000000000f'')', 'archive_session(''00000000-0000-4000-8000-00000000000f'')']) AS call;

INSERT INTO pgvigil.legal_holds (session_id, reason) VALUES (pg_temp.s(), 'A v. B'), (pg_temp.s(), 'C v. D');
SELECT throws_ok('DELETE FROM sessions WHERE id = pg_temp.s()', '55000', 'session 00000000-0000-4000-8000-000000000001 is under legal hold: A v. B, C v. D',
    'a session under hold cannot be deleted, by nobody');
SELECT throws_ok('TRUNCATE sessions CASCADE', '55000', 'there are sessions under legal hold', 'nor truncated away');
DELETE FROM pgvigil.legal_holds WHERE reason = 'A v. B';
SELECT throws_ok('DELETE FROM sessions WHERE id = pg_temp.s()', '55000', NULL, 'one hold lifted leaves the other');
DELETE FROM pgvigil.legal_holds;
UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'standard';
SELECT throws_ok($$DELETE FROM sessions WHERE session_key = 'none'$$, '55000', NULL, 'nor one whose policy is under hold');
UPDATE pgvigil.retention_policies SET legal_hold = false;
SELECT lives_ok('DELETE FROM sessions WHERE id = pg_temp.s()', 'without a hold it can');

CREATE ROLE t_writer IN ROLE pgvigil_writer;
GRANT USAGE ON SCHEMA tap TO t_writer;
GRANT INSERT ON sessions TO t_writer;
SET LOCAL ROLE t_writer;
SELECT lives_ok($$SELECT pgvigil.record_metric('m', 1.5, 'counter', '{"node": "a"}')$$, 'a writer records metrics');
SELECT lives_ok($$SELECT pgvigil.record_metric('float', 0.1::double precision), pgvigil.record_metric('float', 9007199254740991)$$, 'a float and a whole number too');
SELECT lives_ok($$SELECT pgvigil.record_performance('o', 12, false, NULL, '{"k": 1}')$$, 'and operations');
SELECT throws_ok($$SELECT pgvigil.record_metric('m', 'NaN')$$, '23514', NULL, 'but no nonsense');
SELECT lives_ok($$INSERT INTO sessions (session_key, agent_from) VALUES ('by a writer', 'x')$$, 'who may make a session need not be able to read policies');
RESET ROLE;
SELECT is((SELECT (metric_value, metric_type, labels)::text FROM system_metrics WHERE metric_name = 'm'), '(1.5,counter,"{""node"": ""a""}")', 'the metric is there');
SELECT is((SELECT array_agg(metric_value ORDER BY metric_value) FROM system_metrics WHERE metric_name = 'float'), '{0.1,9007199254740991}'::numeric[], 'a float as it is written, a whole number to the last digit');
SELECT is((SELECT (duration_ms, success, metadata)::text FROM performance_logs WHERE operation = 'o'), '(12,f,"{""k"": 1}")', 'and the operation');

SELECT throws_ok(format('UPDATE pgvigil.retention_policies SET %I = %L', name, value), '23514', NULL, format('%s are not %s', name, value))
FROM unnest('{active_hours,dormant_after_hours,archived_days,logs_days,metrics_days}'::text[]) name, unnest('{-1,1000000}'::integer[]) value;
ROLLBACK;
