-- Instances, sessions and statements are written through functions, read through views, and by nobody changed.
BEGIN;
SELECT plan(47);
CREATE ROLE t_admin IN ROLE pgvigil_admin;
CREATE ROLE t_writer IN ROLE pgvigil_writer;
CREATE ROLE t_reader IN ROLE pgvigil_reader;
CREATE ROLE t_other;
GRANT USAGE ON SCHEMA tap TO t_admin, t_writer, t_reader, t_other;

SELECT is(instrumentation.current_session(), NULL, 'a connection that nobody registered has no session');
SELECT is(instrumentation.set_session_tag('{}'), false, 'and none to tag');
SELECT throws_ok($$SELECT instrumentation.record_statement('SELECT 1')$$, '55000', 'this connection has no session to record a statement of', 'nor one to record for');
SELECT is(instrumentation.register_instance('host', '1.0', '{"a": 1}', '00000000-0000-7000-8000-000000000001'), '00000000-0000-7000-8000-000000000001', 'an instance may make its id itself');
SELECT is(instrumentation.register_instance('other', instance => '00000000-0000-7000-8000-000000000001'), '00000000-0000-7000-8000-000000000001', 'registering it again changes nothing');
SELECT is((SELECT string_agg(concat_ws(' ', hostname, toolkit_version, status, database_name = current_database()), ',') FROM instrumentation.instances), 'host 1.0 running t', 'it is there once');
SELECT isnt(instrumentation.register_session('00000000-0000-7000-8000-000000000001'), NULL, 'a connection registers itself');
SELECT is(instrumentation.register_session('00000000-0000-7000-8000-000000000001'), instrumentation.current_session(), 'once');
SELECT is(instrumentation.current_instance(), '00000000-0000-7000-8000-000000000001', 'and is one of its instance');
SELECT is((SELECT concat_ws(' ', username = session_user, backend_pid, backend_start, status, peer) FROM instrumentation.sessions),
          (SELECT concat_ws(' ', 't', pid, backend_start, 'active', 'local') FROM pg_stat_activity WHERE pid = pg_backend_pid()), 'the server says who it is');
SELECT ok(instrumentation.set_session_tag('{"page": "start"}'), 'it can be tagged');
SELECT is((SELECT session_tag FROM instrumentation.sessions), '{"page": "start"}', 'and is');

-- Statements
SELECT lives_ok($$SELECT instrumentation.set_query_tag('{"job": 7}')$$, 'what follows gets a tag');
SELECT isnt(instrumentation.record_statement('SELECT begun', 'executing', statement => pgvigil.uuid_v7_floor(now())), NULL, 'a statement begins');
SELECT is(instrumentation.record_statement(NULL, 'error', duration_ms => 40, sqlstate => '22012', error_message => 'division by zero', statement => pgvigil.uuid_v7_floor(now())), pgvigil.uuid_v7_floor(now()), 'and ends, by its id');
SELECT is((SELECT concat_ws(', ', sql_text, status, duration_ms, sqlstate, query_tag) FROM instrumentation.sql_statements), 'SELECT begun, error, 40, 22012, {"job": 7}', 'it is one row');
SELECT lives_ok($$SELECT instrumentation.record_statement('SELECT late', statement => pgvigil.uuid_v7_floor(now()))$$, 'a second end is no error');
SELECT is((SELECT status::text FROM instrumentation.sql_statements), 'error', 'and changes nothing');
SELECT lives_ok($$SELECT instrumentation.set_query_tag(NULL), instrumentation.record_statement('SELECT 1', 'success', 20, 3), instrumentation.record_statement('SELECT 2', 'timeout', 30)$$, 'or only when it has ended');
SELECT is((SELECT query_tag FROM instrumentation.sql_statements WHERE sql_text = 'SELECT 1'), NULL, 'without a tag now');
SELECT is((SELECT concat_ws(' ', total_statements, successful_statements, failed_statements, timed_out_statements, cancelled_statements, total_rows_fetched,
                            round(avg_duration_ms), max_duration_ms) FROM instrumentation.session_stats), '3 1 1 1 0 3 30 40', 'session_stats adds up');
SELECT is((SELECT count(*) FROM instrumentation.active_sessions WHERE session_duration_seconds IS NOT NULL AND hostname = 'host'), 1::bigint, 'it is among the active ones');
SELECT is((SELECT tableoid::regclass::text FROM instrumentation.sql_statements WHERE sql_text = 'SELECT 1'), 'instrumentation.sql_statements_p' || to_char(now() AT TIME ZONE 'UTC', 'YYYYMMDD'), 'a statement goes where its id says');

SELECT is(instrumentation.unknown_sessions(ARRAY[instrumentation.current_session(), '00000000-0000-7000-8000-000000000002', NULL]),
          '{00000000-0000-7000-8000-000000000002,NULL}', 'a recorder is told which sessions nobody has registered');

-- Who sees what
SELECT is((SELECT count(DISTINCT sql_text) FROM instrumentation.session_activity), 3::bigint, 'its owner sees what it ran');
SET LOCAL ROLE t_reader;
SELECT is((SELECT array_agg(DISTINCT sql_text) FROM instrumentation.session_activity), '{<insufficient privilege>}', 'a reader sees that something ran');
SELECT is((SELECT array_agg(DISTINCT error_message) FROM instrumentation.session_activity), '{<insufficient privilege>,NULL}', 'and failed, not with what words');
SELECT throws_ok('SELECT sql_text FROM instrumentation.sql_statements', '42501', NULL, 'nor does the table tell him');
SELECT lives_ok('SELECT status, duration_ms FROM instrumentation.sql_statements', 'what is no secret it does');
SET LOCAL ROLE t_admin;
SELECT is((SELECT count(DISTINCT sql_text) FROM instrumentation.session_activity), 3::bigint, 'an admin sees all');

-- Nobody changes anything but through the functions
SET LOCAL ROLE t_writer;
SELECT throws_ok($$INSERT INTO instrumentation.sql_statements (session_id) VALUES (gen_random_uuid())$$, '42501', 'Cannot modify the instrumentation tables. They are read-only for client sessions.', 'a writer appends by the functions or as a recorder only');
SELECT throws_ok($$UPDATE instrumentation.sessions SET username = 'x'$$, '42501', 'permission denied for table sessions', 'and changes nothing');
RESET ROLE;
SELECT throws_ok(format(command, t), '42501', 'Cannot modify the instrumentation tables. They are read-only for client sessions.', format('not even the owner: ' || command, t))
FROM unnest('{instances,sessions,sql_statements,kill_attempts}'::text[]) t CROSS JOIN (VALUES ('DELETE FROM instrumentation.%s'), ('TRUNCATE instrumentation.%s CASCADE')) c (command);
SET LOCAL session_replication_role = replica;
SELECT throws_ok(format('DELETE FROM %s', tableoid::regclass), '42501', NULL, 'nor by way of a partition, or of replication') FROM instrumentation.sql_statements LIMIT 1;
SET LOCAL session_replication_role = origin;

-- A session is named by a setting, but not somebody else's
SELECT set_config('t.pooled', instrumentation.register_session('00000000-0000-7000-8000-000000000001', pid => NULL)::text, true),
       set_config('t.others', instrumentation.register_session('00000000-0000-7000-8000-000000000001', pid => NULL, username => 't_other')::text, true);
SELECT set_config('pgvigil.session_id', current_setting('t.pooled'), true);
SELECT is(instrumentation.current_session(), current_setting('t.pooled')::uuid, 'pgvigil.session_id names the session, for a pooler''s sake');
SELECT set_config('pgvigil.session_id', current_setting('t.others'), true);
SELECT is((SELECT backend_pid FROM instrumentation.sessions WHERE session_id = instrumentation.current_session()), pg_backend_pid(), 'that of another login is not believed');
SELECT set_config('pgvigil.session_id', 'x''; DROP TABLE', true);
SELECT isnt(instrumentation.current_session(), NULL, 'nonsense neither');
SELECT ok(instrumentation.stop_instance(reason => 'shut down'), 'an instance ends');
SELECT is((SELECT string_agg(DISTINCT concat_ws(', ', status, stop_reason), ';') FROM instrumentation.sessions), 'closed, its application has ended: shut down', 'and its sessions with it');
SELECT is(instrumentation.heartbeat('00000000-0000-7000-8000-000000000001'), false, 'it has no heart any more');
ROLLBACK;
