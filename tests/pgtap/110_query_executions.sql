-- Query executions: each once, in what the views say of them, for as long as logs are kept, and for whom.
BEGIN;
SELECT plan(25);
CREATE ROLE t_reader IN ROLE pgvigil_reader;
CREATE ROLE t_writer IN ROLE pgvigil_writer;
CREATE ROLE t_admin IN ROLE pgvigil_admin;
CREATE ROLE t_nobody;
GRANT USAGE ON SCHEMA tap TO t_reader, t_writer, t_admin, t_nobody;

INSERT INTO query_executions (execution_id, query, database_type, status) VALUES ('once', 'SELECT 1', 'postgresql', 'success');
SELECT results_eq($$SELECT page, page_size, connection_params, request_metadata, response_metadata, started_at = now() FROM query_executions$$,
                  $$VALUES (0, 100, '{}'::jsonb, '{}'::jsonb, '{}'::jsonb, true)$$, 'what is not said has its default');
SELECT throws_ok($$INSERT INTO query_executions (execution_id, query, database_type, status) VALUES ('once', '', 'x', 'success')$$, '23505', NULL, 'no execution twice');
SELECT lives_ok($$INSERT INTO query_executions (execution_id, query, database_type, status) VALUES ('once', '', 'x', 'success') ON CONFLICT DO NOTHING$$,
                'sent again, it is passed over');
SELECT is((SELECT count(*) FROM query_executions), 1::bigint, 'and is there once');
SELECT throws_ok($$INSERT INTO query_executions (execution_id, query, database_type, status) VALUES ('n', '', 'x', 'perhaps')$$, '23514', NULL, 'status perhaps');
SELECT throws_ok($$INSERT INTO query_executions (execution_id, query, database_type, status, query_complexity) VALUES ('n', '', 'x', 'error', 'HARD')$$, '23514', NULL, 'complexity HARD');
SELECT throws_ok($$INSERT INTO query_executions (execution_id, query, database_type, status, execution_time) VALUES ('n', '', 'x', 'error', 'NaN')$$, '23514', NULL, 'a time of NaN');
SELECT throws_ok($$INSERT INTO query_executions (execution_id, query, database_type, status, execution_time) VALUES ('n', '', 'x', 'error', -1)$$, '23514', NULL, 'a time below zero');
SELECT lives_ok($$INSERT INTO query_executions (execution_id, query, database_type, status, user_id, execution_time, total_rows, started_at, query_complexity)
                  VALUES ('a', 'q', 'mysql', 'success', 'ada', 1, 10, '2001-02-03 23:30:00+00', 'SINGLE_LINE'), ('b', 'q', 'mysql', 'success', 'ada', 3, 5, '2001-02-03 22:00:00+00', 'MULTI_LINE'),
                         ('c', 'q', 'mysql', 'timeout', 'ada', NULL, NULL, '2001-02-04 00:00:00+00', NULL), ('d', 'q', 'mysql', 'failed', 'bob', 1, 1, '2001-02-03 22:00:00+00', NULL),
                         ('e', 'q', 'oracle', 'error', 'bob', 1, 1, '2001-02-03 22:00:00+00', NULL)$$, 'the statuses and complexities');

SET LOCAL timezone = 'Asia/Tokyo';
SELECT results_eq($$SELECT database_type::text, status::text, execution_date, execution_count, avg_execution_time, max_execution_time, min_execution_time,
                           total_rows_processed, success_count, failed_count, error_count, timeout_count
                    FROM execution_analytics WHERE user_id = 'ada' ORDER BY execution_date$$,
                  $$VALUES ('mysql', 'success', date '2001-02-03', 2::bigint, 2::float8, 3::float8, 1::float8, 15::bigint, 2::bigint, 0::bigint, 0::bigint, 0::bigint),
                           ('mysql', 'timeout', date '2001-02-04', 1, NULL, NULL, NULL, 0, 0, 0, 0, 1)$$,
                  'a day of execution_analytics is one of UTC, wherever the reader is');
SELECT results_eq($$SELECT failed_count, error_count FROM execution_analytics WHERE user_id = 'bob' ORDER BY status DESC$$,
                  $$VALUES (1::bigint, 0::bigint), (0, 1)$$, 'failed and error are counted apart');
SELECT results_eq($$SELECT execution_id::text, execution_rank FROM user_recent_executions WHERE user_id = 'ada' AND execution_rank <= 2 ORDER BY execution_rank$$,
                  $$VALUES ('c', 1::bigint), ('a', 2)$$, 'user_recent_executions numbers from the newest');

SELECT results_eq('SELECT done, more FROM pgvigil.job_executions(2)', 'VALUES (2::bigint, true)', 'a batch of the job');
SELECT results_eq('SELECT done, more FROM pgvigil.job_executions(10)', 'VALUES (3::bigint, false)', 'and the rest of what is past its time');
SELECT results_eq('SELECT execution_id::text FROM query_executions', $$VALUES ('once')$$, 'nothing else');
INSERT INTO query_executions (execution_id, query, database_type, status, started_at) VALUES ('old', '', 'x', 'success', now() - interval '8 days');
UPDATE pgvigil.retention_policies SET legal_hold = true WHERE policy = 'standard';
SELECT results_eq('SELECT done, note FROM pgvigil.job_executions(10)',
                  $$VALUES (0::bigint, 'kept: a retention policy that sessions have is under legal hold')$$, 'under legal hold nothing goes');

SET LOCAL ROLE t_reader;
SELECT lives_ok('SELECT * FROM query_executions, execution_analytics, user_recent_executions', 'a reader reads table and views');
SELECT throws_ok('DELETE FROM query_executions', '42501', NULL, 'and changes nothing');
SET LOCAL ROLE t_writer;
SELECT results_eq($$INSERT INTO query_executions (execution_id, query, database_type, status) VALUES ('w', '', 'x', 'success') RETURNING execution_id::text$$,
                  $$VALUES ('w')$$, 'a writer appends, and is told the id');
SELECT throws_ok('SELECT query FROM query_executions', '42501', NULL, 'but reads no query');
SELECT throws_ok('SELECT * FROM user_recent_executions', '42501', NULL, 'nor the views');
SET LOCAL ROLE t_admin;
SELECT lives_ok($$DELETE FROM query_executions WHERE execution_id = 'w'$$, 'an admin deletes');
SELECT lives_ok('SELECT * FROM execution_analytics, user_recent_executions', 'and reads the views');
SET LOCAL ROLE t_nobody;
SELECT throws_ok('SELECT * FROM query_executions', '42501', NULL, 'others do not read');
SELECT throws_ok($$INSERT INTO query_executions (execution_id, query, database_type, status) VALUES ('x', '', 'x', 'success')$$, '42501', NULL, 'nor write');
ROLLBACK;
