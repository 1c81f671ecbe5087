-- The views answer what people ask them.
BEGIN;
SELECT plan(21);
INSERT INTO sessions (session_key, agent_from, last_activity_at, is_dormant) VALUES
    ('idle', 'x', now() - interval '30 hours', false), ('dormant', 'x', now() - interval '30 hours', true), ('busy', 'x', now(), false);
INSERT INTO context_history (session_id, sequence_number, context_type, content)
SELECT id, n, 'message', 'x' FROM sessions, generate_series(1, 3) n WHERE session_key = 'idle';
INSERT INTO handoff_requests (session_id, requesting_agent) SELECT id, 'x' FROM sessions WHERE session_key = 'idle';
SELECT is((SELECT string_agg(session_key, ' ') FROM session_monitoring_view WHERE hours_since_activity > 24 AND is_dormant = false), 'idle', 'idle and not dormant');
SELECT is((SELECT (context_entries, handoff_requests, last_lifecycle_event)::text FROM session_monitoring_view WHERE session_key = 'idle'), '(3,1,created)', 'what a session holds');
SELECT is((SELECT (context_entries, handoff_requests)::text FROM session_monitoring_view WHERE session_key = 'busy'), '(0,0)', 'nothing is 0, not NULL');

INSERT INTO performance_logs (operation, duration_ms, success) SELECT 'read', n, n % 10 > 0 FROM generate_series(1, 100) n;
INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('write', 7, true);
INSERT INTO performance_logs (id, operation, duration_ms, success, created_at)
VALUES (pgvigil.uuid_v7_floor(now() - interval '25 hours'), 'old', 1, false, now() - interval '25 hours');
SELECT is((SELECT string_agg(operation, ' ') FROM performance_monitoring_view WHERE success_rate_percent < 95), 'read', 'operations that fail');
SELECT is((SELECT (total_calls, avg_duration_ms::numeric(9, 2), min_duration_ms, max_duration_ms, successful_calls, failed_calls)::text
           FROM performance_monitoring_view WHERE operation = 'read'), '(100,50.50,1,100,90,10)', 'calls and durations');
SELECT ok((SELECT p95_duration_ms BETWEEN 95.05 * 0.99 AND 95.05 * 1.01 FROM performance_monitoring_view WHERE operation = 'read'), 'p95 within 1 % of percentile_cont');
SELECT is((SELECT success_rate_percent FROM performance_monitoring_view WHERE operation = 'write'), 100::numeric, 'all calls succeeded');
SELECT is((SELECT count(*) FROM performance_monitoring_view WHERE operation = 'old'), 0::bigint, 'what is older than 24 hours is not in it');

CREATE FUNCTION pg_temp.plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN ' || query; END $$;
SET LOCAL enable_seqscan = off;  -- these tables are small: a plan that has no index to use reads them whole all the same
SELECT ok((SELECT string_agg(line, ' ') FROM pg_temp.plan_of('SELECT * FROM session_monitoring_view WHERE session_key = ''idle''') line) ~ index,
          'one session by ' || index)
FROM unnest('{sessions_session_key_key,session_counters_pkey,session_counter_changes_pkey}'::text[]) index;
RESET enable_seqscan;
DO $$ BEGIN PERFORM pgvigil.ensure_partitions('performance_logs', now() - interval '9 days'); END $$;
CREATE TEMP TABLE read_before AS SELECT relid, seq_scan + coalesce(idx_scan, 0) AS times FROM pg_stat_xact_user_tables;
DO $$ BEGIN PERFORM FROM performance_monitoring_view; END $$;
SELECT is((SELECT min(relname) FROM pg_stat_xact_user_tables JOIN read_before USING (relid)
           WHERE relname LIKE 'performance\_logs\_p%' AND seq_scan + coalesce(idx_scan, 0) > times),
          'performance_logs_p' || to_char((now() - interval '24 hours') AT TIME ZONE 'UTC', 'YYYYMMDD'), 'it reads no partition from before those 24 hours');

INSERT INTO sessions (session_key, agent_from, last_activity_at) VALUES ('never ends', 'x', 'infinity'), ('never began', 'x', '-infinity');
SELECT is((SELECT count(*) FROM session_monitoring_view WHERE hours_since_activity IS NULL), 2::bigint, 'an infinite time is no number of hours, and fails no query');
SELECT lives_ok($$SELECT pgvigil.aggregate_analytics('session_stats', '-infinity', 'infinity')$$, 'nor a document');
INSERT INTO handoff_requests (session_id, requesting_agent, completed_at) SELECT id, 'y', v FROM sessions, (VALUES (timestamptz 'infinity'), ('-infinity')) t (v) WHERE session_key = 'busy';
SELECT lives_ok($$SELECT pgvigil.aggregate_analytics('handoff_stats', '-infinity', 'infinity')$$, 'of hand-offs neither');
INSERT INTO performance_logs (operation, duration_ms, success, created_at) VALUES ('ahead', 1, true, now() + interval '1 hour'), ('far', 1, true, now() + interval '1 day'), ('never', 1, true, 'infinity');
SELECT is((SELECT string_agg(operation, ' ') FROM performance_monitoring_view WHERE operation IN ('ahead', 'far', 'never')), 'ahead', 'a clock that is far ahead is not in the last 24 hours');
SELECT throws_ok(format('SELECT * FROM pgvigil.performance_window(%L)', stretch), '22023', NULL, 'nobody looks back ' || coalesce(stretch, 'NULL'))
FROM unnest(ARRAY['-1 hour', '0', '27 hours', NULL]) stretch;
SELECT throws_ok('SELECT pgvigil.aggregate_analytics(NULL, now(), now())', '22023', 'there is no aggregation type NULL', 'no type is no type');
ROLLBACK;
