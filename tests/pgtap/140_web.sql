-- Rollups and totals of query executions: each row is counted once, in hours and days, and never taken back.
BEGIN;
SELECT plan(13);
CREATE ROLE t_reader IN ROLE pgvigil_reader;
CREATE ROLE t_nobody;
GRANT USAGE ON SCHEMA tap TO t_reader, t_nobody;
CREATE FUNCTION pg_temp.run(id text, at timestamptz, seconds double precision, rows bigint DEFAULT 1, status text DEFAULT 'success') RETURNS void LANGUAGE sql AS $$
    INSERT INTO query_executions (execution_id, query, database_type, status, execution_time, total_rows, started_at)
    VALUES (id, '', 'mysql', status, seconds, rows, at)$$;
CREATE FUNCTION pg_temp.picture(width text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(concat_ws(' ', to_char(bucket AT TIME ZONE 'UTC', 'DD HH24'), status, executions, timed, seconds, longest, total_rows), '; ' ORDER BY bucket, status)
    FROM pgvigil.execution_rollups WHERE bucket_width = width$$;
CREATE FUNCTION pg_temp.today(hours double precision) RETURNS timestamptz LANGUAGE sql AS $$
    SELECT date_trunc('day', now(), 'UTC') - interval '10 days' + hours * interval '1 hour'$$;

SELECT pg_temp.run('a', pg_temp.today(1.2), 0.005), pg_temp.run('b', pg_temp.today(1.9), 0.006, 4), pg_temp.run('c', pg_temp.today(2.0), NULL, NULL),
       pg_temp.run('d', pg_temp.today(2.1), 90, 2, 'timeout');
SELECT is((SELECT done FROM pgvigil.job_totals(1000)), 4::bigint, 'a step counts what is there');
SELECT is((SELECT done FROM pgvigil.job_totals(1000)), 0::bigint, 'and nothing twice');
SELECT matches(pg_temp.picture('hour'), '^\d\d 01 success 2 2 0.011 0.006 5; \d\d 02 success 1 0 0 0; \d\d 02 timeout 1 1 90 90 2$', 'hours');
SELECT matches(pg_temp.picture('day'), '^\d\d 00 success 3 2 0.011 0.006 5; \d\d 00 timeout 1 1 90 90 2$', 'days');
SELECT is((SELECT bins FROM pgvigil.execution_totals WHERE status = 'success'), '{1,1,0,0,0,0,0,0,0,0,0,0,0,0}', 'a bound belongs to its own bin');
SELECT is((SELECT bins[14] FROM pgvigil.execution_totals WHERE status = 'timeout'), 1::bigint, 'what is longer than all bounds is in the last one');
DELETE FROM query_executions WHERE execution_id = 'a';
SELECT pg_temp.run('late', pg_temp.today(1.5), 1);
SELECT is((SELECT sum(executions) FROM pgvigil.execution_window('20 days')), 5::numeric, 'what is not counted yet is read from the table');
SELECT is((SELECT done FROM pgvigil.job_totals(1000)), 1::bigint, 'a row that comes late is counted into its hour');
SELECT is((SELECT executions FROM pgvigil.execution_rollups WHERE bucket_width = 'hour' AND bucket = pg_temp.today(1) AND status = 'success'), 3::bigint, 'and what was deleted stays counted');
SELECT is((SELECT sum(executions) FROM pgvigil.execution_window(now() - pg_temp.today(1.8))), 3::numeric, 'of the first and broken hour only what lies in the window');
SELECT throws_ok($$SELECT pgvigil.execution_window('367 days')$$, '22023', NULL, 'it looks back a year');
SET ROLE t_reader;
SELECT is((SELECT sum(executions) FROM pgvigil.execution_window(NULL)), 5::numeric, 'readers read it');
SET ROLE t_nobody;
SELECT throws_ok($$SELECT pgvigil.execution_window(NULL)$$, '42501', NULL, 'others do not');
RESET ROLE;
SELECT * FROM finish();
ROLLBACK;
