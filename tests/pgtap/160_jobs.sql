-- The schedule of jobs, and those of the days between migrations.
BEGIN;
SELECT plan(25);

SELECT bag_eq($$SELECT job, every::text, at, needs_client FROM pgvigil.jobs WHERE job IN ('health', 'backup', 'analyze', 'reindex', 'vacuum')$$,
              $$VALUES ('health', '01:00:00', interval '0', false), ('backup', '1 day', '1 hour', true), ('analyze', '1 day', '2 hours', false),
                       ('reindex', '7 days', '3 hours', true), ('vacuum', '1 mon', '4 hours', true)$$, 'the schedule a new install has');

PREPARE slot AS SELECT pgvigil.time_slot($1, $2, $3);
SELECT results_eq($$EXECUTE slot ('1 day', '2 hours', '2026-11-21 01:59:59.9+00')$$, $$VALUES (timestamptz '2026-11-20 02:00:00+00')$$, 'before two it is still yesterday''s day');
SELECT results_eq($$EXECUTE slot ('1 day', '2 hours', '2026-11-21 02:00:00+00')$$, $$VALUES (timestamptz '2026-11-21 02:00:00+00')$$, 'at two the day begins');
SELECT results_eq($$EXECUTE slot ('7 days', '3 hours', '2026-11-21 12:00:00+00')$$, $$VALUES (timestamptz '2026-11-16 03:00:00+00')$$, 'a week begins on Monday');
SELECT results_eq($$EXECUTE slot ('1 month', '4 hours', '2026-03-01 03:00:00+00')$$, $$VALUES (timestamptz '2026-02-01 04:00:00+00')$$, 'a month on the 1st');
SET LOCAL timezone = 'America/New_York';
SELECT results_eq($$EXECUTE slot ('1 month', '4 hours', '2026-03-31 12:00:00+00')$$, $$VALUES (timestamptz '2026-03-01 04:00:00+00')$$, 'whatever the clocks of a time zone do');
SELECT results_eq($$EXECUTE slot ('1 day', '1 hour', '2026-11-02 12:00:00+00')$$, $$VALUES (timestamptz '2026-11-02 01:00:00+00')$$, 'a day has 24 hours');

SELECT throws_ok($$UPDATE pgvigil.jobs SET every = '30 days' WHERE job = 'vacuum'$$, '23514', NULL, 'thirty days are not a month');
SELECT throws_ok($$UPDATE pgvigil.jobs SET every = '2 months' WHERE job = 'vacuum'$$, '23514', NULL, 'two months have no fixed length');
SELECT throws_ok($$UPDATE pgvigil.jobs SET at = '24 hours' WHERE job = 'backup'$$, '23514', NULL, 'a time lies within the stretch');

SELECT cmp_ok(pgvigil.due_at('expiry'), '<=', now(), 'what never ran is due at once');
SELECT cmp_ok(pgvigil.due_at('vacuum'), '>', now(), 'but not before its own time, if it has one');
INSERT INTO pgvigil.job_runs (job, started_at, finished_at, error) VALUES
    ('expiry', now() - interval '2 minutes', now() - interval '1 minute', 'no room'), ('archive', now() - interval '2 minutes', now() - interval '1 minute', 'died: gone'),
    ('orphans', now() - interval '3 hours', now() - interval '2 hours', 'no room');
SELECT is(pgvigil.due_at('expiry'), now() + interval '4 minutes', 'what failed is tried again after a twelfth of its time');
SELECT cmp_ok(pgvigil.due_at('archive'), '<=', now(), 'what was killed at once');
SELECT cmp_ok(pgvigil.due_at('orphans'), '<=', now(), 'and anything after an hour');
DELETE FROM pgvigil.job_runs;
SELECT is((SELECT count(*) FROM pgvigil.job_status WHERE next_due <= now() AND NOT due OR next_due > now() AND due), 0::bigint,
          'next_due lies in the past for what is due');

SELECT throws_ok($$CALL pgvigil.run_job('backup')$$, '0A000', 'job backup is nothing that a procedure can do', 'what needs a client is refused by name');

-- A run that is cut short, and the one that goes on behind it.
INSERT INTO pgvigil.job_runs (job) VALUES ('analyze');
SELECT ok((SELECT more AND done = 1 FROM pgvigil.job_analyze(1)), 'a step analyzes a table');
SELECT is(pgvigil.completed_items('analyze'), ARRAY['instrumentation.instances'], 'and remembers it');
UPDATE pgvigil.job_runs SET finished_at = clock_timestamp(), error = 'died' WHERE job = 'analyze';
INSERT INTO pgvigil.job_runs (job) VALUES ('analyze');
SELECT FROM pgvigil.job_analyze(1);
SELECT is(pgvigil.completed_items('analyze'), '{instrumentation.instances,instrumentation.kill_attempts}', 'the next run goes on behind it');
UPDATE pgvigil.job_runs SET finished_at = clock_timestamp(), error = NULL WHERE job = 'analyze';
SELECT is(pgvigil.completed_items('analyze'), '{}'::text[], 'after a success it begins anew');

UPDATE pgvigil.jobs SET since = now();
SELECT results_eq('SELECT done, more, note FROM pgvigil.job_health(1)', $$VALUES (0::bigint, false, NULL::text)$$, 'health finds nothing in a new install');
ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle;
SELECT results_eq('SELECT done, more, note FROM pgvigil.job_health(1)', $$VALUES (1::bigint, false, 'critical disabled_triggers 1')$$, 'and tells what it finds');

SELECT throws_ok($$CALL pgvigil.run_job('expiry')$$, '2D000', 'job expiry commits after each of its batches: it cannot run inside a transaction block or a function', 'what commits is refused in a transaction');
SELECT ok(NOT pgvigil.is_running('expiry'), 'before it holds anything');
ROLLBACK;
