-- What must not get in (fault 10), and what must.
BEGIN;
SELECT plan(19);
INSERT INTO sessions (id, session_key, agent_from) VALUES ('00000000-0000-4000-8000-000000000001', 's', 'x');

SELECT throws_ok($$INSERT INTO sessions (session_key, agent_from, status) VALUES ('n', 'x', 'nonsense')$$, '23514', NULL, 'status nonsense');
SELECT throws_ok($$UPDATE sessions SET session_key = NULL$$, '23502', NULL, 'session_key NULL');
SELECT throws_ok($$INSERT INTO context_history (session_id, sequence_number, context_type, content)
                   VALUES ('00000000-0000-4000-8000-000000000001', 1, 'gossip', '')$$, '23514', NULL, 'context type gossip');
SELECT throws_ok($$INSERT INTO handoff_requests (session_id, requesting_agent, status)
                   VALUES ('00000000-0000-4000-8000-000000000001', 'x', 'perhaps')$$, '23514', NULL, 'request status perhaps');
SELECT throws_ok($$INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('m', 1, 'banana')$$, '23514', NULL, 'metric type banana');
SELECT throws_ok($$INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('m', 'NaN', 'gauge')$$, '23514', NULL, 'NaN');
SELECT throws_ok($$INSERT INTO system_metrics (metric_name, metric_value, metric_type, labels) VALUES ('m', 1, 'gauge', '[1]')$$, '23514', NULL, 'labels that are no object');
SELECT throws_ok($$INSERT INTO performance_logs (operation, duration_ms, success) VALUES ('o', -5, true)$$, '23514', NULL, 'a duration below zero');
SELECT throws_ok($$INSERT INTO session_lifecycle (session_id, event_type) VALUES ('00000000-0000-4000-8000-000000000001', 'abducted')$$, '23514', NULL, 'event type abducted');
SELECT throws_ok($$INSERT INTO session_lifecycle (session_id, event_type) VALUES ('00000000-0000-4000-8000-00000000000f', 'created')$$, '23503', NULL, 'an event of no session');
SELECT lives_ok($$INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data)
                  SELECT 'horoscope', now(), '{}' FROM generate_series(1, 2)$$, 'an application aggregates what it likes');
SELECT throws_ok($$INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data, origin)
                   SELECT 'session_stats', now(), '{}', 'pgvigil' FROM generate_series(1, 2)$$, '23505', NULL, 'a bucket of ours twice');

SELECT lives_ok(format($$UPDATE sessions SET status = %L$$, s), 'status ' || s)
FROM unnest('{pending,completed,cancelled,archived}'::text[]) s;
SELECT lives_ok($$INSERT INTO system_metrics (metric_name, metric_value, metric_type) VALUES ('m', 0, 'counter'), ('m', -1, 'gauge'), ('m', 1e9, 'histogram')$$, 'the metric types');
SELECT lives_ok($$INSERT INTO performance_logs (operation, duration_ms, success, session_id)
                  VALUES ('o', 0, true, '00000000-0000-4000-8000-00000000000f')$$, 'a log row may outlive its session');
SELECT lives_ok($$INSERT INTO analytics_aggregations (aggregation_type, time_bucket, aggregation_data)
                  SELECT t, now(), '{}' FROM unnest('{session_stats,handoff_stats,performance_trends}'::text[]) t$$, 'the aggregation types');
ROLLBACK;
