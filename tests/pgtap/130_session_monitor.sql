-- Workers report what they have counted; ended ones are added to the totals; the sum never falls.
BEGIN;
SELECT plan(38);
CREATE ROLE t_admin IN ROLE pgvigil_admin;
CREATE ROLE t_writer IN ROLE pgvigil_writer;
CREATE ROLE t_reader IN ROLE pgvigil_reader;
GRANT USAGE ON SCHEMA tap TO t_admin, t_writer, t_reader;
CREATE FUNCTION pg_temp.worker(n integer) RETURNS uuid LANGUAGE sql AS $$SELECT ('00000000-0000-7000-8000-' || lpad(n::text, 12, '0'))::uuid$$;
CREATE FUNCTION pg_temp.bins(n bigint) RETURNS jsonb LANGUAGE sql AS $$SELECT jsonb_build_object('use/default', jsonb_agg(n)) FROM generate_series(1, 16)$$;
CREATE FUNCTION pg_temp.report(worker integer, number bigint, commits bigint, active integer DEFAULT 1, ended boolean DEFAULT false) RETURNS text
LANGUAGE sql AS $$
    SELECT concat_ws(' ', r.known, r.log_interval)
    FROM pgvigil.report_monitor(pg_temp.worker(worker), number, jsonb_build_object('commits', commits), pg_temp.bins(commits),
                                jsonb_build_object('active_sessions', active, 'peak_active_sessions', active + 1, 'overflow/default', NULL), ended) r$$;
CREATE FUNCTION pg_temp.picture() RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(concat_ws(' ', application, workers, counters -> 'commits', histograms #> '{use/default,15}', gauges), '; ' ORDER BY application)
    FROM pgvigil.session_monitor$$;

SELECT is((SELECT count(*) FROM pgvigil.session_monitor), 0::bigint, 'nobody has reported: no row, not a row of zeros');
SELECT is(pg_temp.report(1, 1, 5), 'f', 'a worker that nobody registered is told so');
SELECT lives_ok($$SELECT pgvigil.register_monitor(pg_temp.worker(n), 'shop', 'host', n, '10 s') FROM generate_series(1, 3) n$$, 'workers register');
SELECT is(pg_temp.picture(), 'shop 3 {}', 'they are seen before they have counted anything');
SELECT is(pg_temp.report(1, 1, 5), 't', 'the first reports');
SELECT is(pg_temp.report(2, 1, 7, 3), 't', 'and the second');
SELECT lives_ok($$SELECT pgvigil.register_monitor(pg_temp.worker(1), 'shop', 'host', 1, '10 s')$$, 'a worker whose registration was not answered registers again');
SELECT is(pg_temp.picture(), 'shop 3 12 12 {"active_sessions": 4, "overflow/default": null, "peak_active_sessions": 4}',
          'which changes nothing; counts and gauges add up, of peaks the highest counts, and what a pool has not stays null');
SELECT is(pg_temp.report(1, 3, 9), 't', 'a report overwrites the one before');
SELECT is(pg_temp.report(1, 2, 8), 't', 'one that comes late');
SELECT is((SELECT counters -> 'commits' FROM pgvigil.session_monitor), '16', 'does not');

-- Ended
SELECT is(pg_temp.report(2, 2, 8, ended => true), 't', 'a worker ends');
SELECT is((SELECT count(*) FROM pgvigil.session_monitors), 2::bigint, 'and leaves no row');
SELECT is(pg_temp.picture(), 'shop 2 17 17 {"active_sessions": 1, "overflow/default": null, "peak_active_sessions": 2}', 'its counts stay, its gauges do not');
SELECT is(pg_temp.report(2, 3, 100), 'f', 'whoever still reports for it is told to register anew');
UPDATE pgvigil.session_monitors SET seen_at = clock_timestamp() - interval '31 s' WHERE instance_id = pg_temp.worker(1);
SELECT is(pg_temp.picture(), 'shop 1 17 17 {}', 'unseen for three intervals, a worker has no gauges, but its counts');
UPDATE pgvigil.session_monitors SET seen_at = clock_timestamp() - interval '2 hours' WHERE instance_id = pg_temp.worker(1);
SELECT is(pg_temp.report(3, 1, 1), 't', 'when another one reports an hour later');
SELECT is((SELECT string_agg(pid::text, ' ') FROM pgvigil.session_monitors), '3', 'its row is gone');
SELECT is((SELECT concat_ws(' ', workers, counters) FROM pgvigil.session_monitor_totals), '2 {"commits": 17}', 'and in the totals');
SELECT is(pg_temp.report(1, 4, 10), 'f', 'should it come back, it is told');

-- What a report may hold
CREATE FUNCTION pg_temp.told(counters jsonb, histograms jsonb DEFAULT '{}', gauges jsonb DEFAULT '{}') RETURNS text LANGUAGE plpgsql AS $$
DECLARE
    broken text;
BEGIN
    PERFORM pgvigil.report_monitor(pg_temp.worker(3), 10, counters, histograms, gauges);
    RETURN 'taken';
EXCEPTION WHEN check_violation OR not_null_violation THEN
    GET STACKED DIAGNOSTICS broken = CONSTRAINT_NAME;
    RETURN broken;
END $$;
SELECT is((SELECT array_agg(DISTINCT pg_temp.told(c::jsonb)) FROM unnest(ARRAY['[]', '3', '{"a": -1}', '{"a": "1"}', '{"a": null}', '{"a": 1.5}', '{"a": 1e300}', '{"a": [1]}', '{"a": {"b": 1}}']) c),
          '{session_monitors_counters_check}', 'a counter is a whole number from 0');
SELECT is((SELECT array_agg(DISTINCT pg_temp.told('{}', h::jsonb)) FROM unnest(ARRAY['[]', '{"a": 1}', '{"a": [1, 2]}', '{"a": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, "x"]}', '{"a": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, -1]}',
                                                                             '{"a": [1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, 1, [1]]}', '{"a": {"b": [1]}}', '{"a": null}']) h),
          '{session_monitors_histograms_check}', 'a histogram has 16 of them');
SELECT is((SELECT array_agg(DISTINCT pg_temp.told('{}', '{}', g::jsonb)) FROM unnest(ARRAY['[]', '{"a": "x"}', '{"a": -5}', '{"a": [1]}', '{"a": true}', '{"a": {}}']) g),
          '{session_monitors_gauges_check}', 'a gauge is a number from 0, or null: an overflow of -5 is none');
SELECT is(pg_temp.told(jsonb_build_object(repeat('k', 100001), 1)), 'session_monitors_counters_check', 'no report is as large as it likes');
SELECT is(pg_temp.told('{}', '{}', '{"utilization/default": 0.4, "overflow/default": null}'), 'taken', 'what is fine is taken');
SELECT throws_ok($$SELECT pgvigil.register_monitor(gen_random_uuid(), 'shop', 'host', 1, '1 day')$$, '23514', NULL, 'no worker claims to be alive for a day');
SELECT throws_ok($$SELECT pgvigil.register_monitor(gen_random_uuid(), '', 'host', 1, '10 s')$$, '23514', NULL, 'an application has a name');
SELECT throws_ok($$SELECT pgvigil.register_monitor(gen_random_uuid(), 'app' || n, 'host', 1, '10 s') FROM generate_series(1, 50) n$$, '54000', NULL, 'a login has 50 applications at most');

-- Logging
SELECT is(pgvigil.set_monitor_logging('nobody', '5 min'), 0::bigint, 'there is nothing to set for an application that no worker reports');
SELECT is(pgvigil.set_monitor_logging('shop', '5 min'), 1::bigint, 'the summary is to be logged');
SELECT is(pg_temp.report(3, 20, 1), 't 00:05:00', 'and the workers are told');
SELECT is(pgvigil.set_monitor_logging('shop', NULL) || pg_temp.report(3, 21, 1), '1t', 'or no longer');

-- Rights
SET LOCAL ROLE t_reader;
SELECT lives_ok('SELECT * FROM pgvigil.session_monitor, pgvigil.session_monitors, pgvigil.session_monitor_totals, pgvigil.monitor_settings', 'a reader reads');
SELECT throws_ok($$SELECT pgvigil.register_monitor(gen_random_uuid(), 'shop', 'host', 1, '10 s')$$, '42501', NULL, 'and does not report');
SET LOCAL ROLE t_writer;
SELECT throws_ok('SELECT * FROM pgvigil.session_monitors', '42501', NULL, 'a writer does not read');
SELECT lives_ok('SELECT * FROM pgvigil.own_session_monitor()', 'but what came of its own workers');
SELECT is((SELECT count(*) FROM pgvigil.own_session_monitor() WHERE reported_by <> session_user), 0::bigint, 'and of nobody else''s');
SELECT throws_ok($$SELECT pgvigil.fold_monitors('{}')$$, '42501', NULL, 'nor folds');
RESET ROLE;
SELECT * FROM finish();
ROLLBACK;
