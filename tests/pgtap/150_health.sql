-- The integrity report follows its thresholds, says what it could not look at, and is for readers.
BEGIN;
SELECT plan(21);
CREATE ROLE t_reader IN ROLE pgvigil_reader;
CREATE ROLE t_admin IN ROLE pgvigil_admin;
CREATE ROLE t_writer IN ROLE pgvigil_writer;
CREATE ROLE t_half;
GRANT USAGE ON SCHEMA pgvigil TO t_half;
GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA pgvigil TO t_half;
GRANT SELECT ON pgvigil.alert_thresholds, pgvigil.migrations TO t_half;
GRANT USAGE ON SCHEMA tap TO t_reader, t_admin, t_writer, t_half;
UPDATE pgvigil.jobs SET since = now();

SELECT bag_eq($$SELECT check_name, warning, critical FROM pgvigil.alert_thresholds
                WHERE check_name IN ('orphaned_messages', 'count_mismatches', 'database_size_mb', 'avg_query_time_ms', 'connection_pool_exhaustion')$$,
              $$VALUES ('orphaned_messages', 1::numeric, 10::numeric), ('count_mismatches', 5, 100), ('database_size_mb', 1000, 5000),
                       ('avg_query_time_ms', 100, 1000), ('connection_pool_exhaustion', 0.8, 0.95)$$, 'the thresholds a new install has');
SELECT bag_eq('SELECT check_name FROM pgvigil.integrity_report()', 'SELECT check_name FROM pgvigil.alert_thresholds', 'every check with a threshold is made');
SELECT is((SELECT string_agg(check_name, ', ') FROM pgvigil.integrity_report() WHERE level <> 'ok'), NULL, 'a new install has no finding');

INSERT INTO pgvigil.performance_rollups VALUES ('minute', now(), 'o', 2, 2, 300, 100, 200, 0);
PREPARE level AS SELECT value, level, fix IS NOT NULL FROM pgvigil.integrity_report() WHERE check_name = 'avg_query_time_ms';
SELECT results_eq('level', $$VALUES (150.0, 'warning', true)$$, 'beyond the first threshold it is a warning');
SELECT is((SELECT check_name FROM pgvigil.integrity_report() LIMIT 1), 'avg_query_time_ms', 'and stands before what is well');
UPDATE pgvigil.alert_thresholds SET critical = 150 WHERE check_name = 'avg_query_time_ms';
SELECT results_eq('level', $$VALUES (150.0, 'critical', true)$$, 'at the second it is critical');
UPDATE pgvigil.alert_thresholds SET warning = NULL, critical = NULL WHERE check_name = 'avg_query_time_ms';
SELECT results_eq('level', $$VALUES (150.0, 'ok', false)$$, 'without thresholds it is only told');
UPDATE pgvigil.performance_rollups SET time_bucket = now() - interval '2 hours' WHERE operation = 'o';
SELECT results_eq('level', $$VALUES (0::numeric, 'ok', false)$$, 'what took long two hours ago is over');

SELECT throws_ok($$UPDATE pgvigil.alert_thresholds SET warning = 11 WHERE check_name = 'orphaned_messages'$$, '23514', NULL, 'critical is not below the warning');
SELECT throws_ok($$UPDATE pgvigil.alert_thresholds SET warning = 0 WHERE check_name = 'orphaned_messages'$$, '23514', NULL, '0 is well');
SELECT throws_ok($$UPDATE pgvigil.alert_thresholds SET critical = 'NaN' WHERE check_name = 'orphaned_messages'$$, '23514', NULL, 'NaN is no threshold');

-- A new install that nothing runs the jobs of.
SELECT is((SELECT level || ': ' || detail FROM pgvigil.integrity_report() WHERE check_name = 'overdue_jobs'),
          'ok: no job has ever run: no scheduler is set up', 'a new install is told that no job has run');
UPDATE pgvigil.jobs SET since = now() - interval '1 hour' WHERE job = 'counters';
SELECT is((SELECT level || ': ' || detail || ': ' || fix FROM pgvigil.integrity_report() WHERE check_name = 'overdue_jobs'),
          'warning: never succeeded, so not done yet: counters (adds up session_counter_changes into session_counters);'
          ' no job has ever run: no scheduler is set up: pgvigil maintain watch', 'and what that means, once it is overdue');
INSERT INTO pgvigil.job_runs (job, started_at, finished_at) VALUES ('expiry', now(), now());
SELECT is((SELECT detail || ': ' || fix FROM pgvigil.integrity_report() WHERE check_name = 'overdue_jobs'),
          'never succeeded, so not done yet: counters (adds up session_counter_changes into session_counters): pgvigil maintain run-due',
          'one that never ran beside others that did');
INSERT INTO pgvigil.job_runs (job, started_at, finished_at) VALUES ('counters', now() - interval '1 hour', now());
SELECT is((SELECT regexp_replace(detail, '\(last success: .*\)', '(last success: …)') FROM pgvigil.integrity_report() WHERE check_name = 'overdue_jobs'),
          'counters (last success: …)', 'one whose last success is long ago');
UPDATE pgvigil.jobs SET since = now();
INSERT INTO pgvigil.job_runs (job, started_at, finished_at) VALUES ('counters', now(), now());
SET LOCAL ROLE t_reader;
SELECT is((SELECT string_agg(check_name, ', ') FROM pgvigil.integrity_report(true) WHERE level <> 'ok'), NULL, 'a reader may ask for all of it');
SELECT lives_ok('SELECT * FROM pgvigil.settings_report()', 'and for the settings');
SET LOCAL ROLE t_admin;
SELECT lives_ok($$UPDATE pgvigil.alert_thresholds SET warning = 2 WHERE check_name = 'orphaned_messages'$$, 'an admin moves a threshold');
SET LOCAL ROLE t_writer;
SELECT throws_ok('SELECT * FROM pgvigil.integrity_report()', '42501', NULL, 'a writer reads no report');
SET LOCAL ROLE t_half;
SELECT is((SELECT level || ': ' || detail FROM pgvigil.integrity_report() WHERE check_name = 'overdue_jobs'),
          'warning: could not be looked at: permission denied for view job_status', 'what could not be looked at is told');
SELECT is((SELECT level FROM pgvigil.integrity_report() WHERE check_name = 'invalid_indexes'), 'ok', 'and hides nothing else');
RESET ROLE;
ROLLBACK;
