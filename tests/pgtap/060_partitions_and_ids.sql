-- Time-ordered ids, and partitions that are slices of time.
BEGIN;
SELECT plan(37);
SELECT is(pgvigil.uuid_v7_time(pgvigil.uuid_v7_floor('2026-11-21 00:00:00.123456+00')), '2026-11-21 00:00:00.123+00'::timestamptz, 'floor and time agree to the millisecond');
SELECT is(pgvigil.uuid_v7_floor('1970-01-01+00'), '00000000-0000-7000-8000-000000000000'::uuid, 'the floor of the epoch');
SELECT ok(pgvigil.uuid_v7_floor('9999-12-31+00') > pgvigil.uuid_v7_floor('2026-01-01+00'), 'far times are ordered too');
SELECT is((SELECT count(DISTINCT pgvigil.uuid_v7()) FROM generate_series(1, 10000)), 10000::bigint, 'ids are distinct');
SELECT matches(pgvigil.uuid_v7()::text, '^[0-9a-f]{8}-[0-9a-f]{4}-7[0-9a-f]{3}-[89ab][0-9a-f]{3}-[0-9a-f]{12}$', 'version 7, variant 10');
-- Each CTE reads the one before, so the clock is read before the id is made, and again after it: however long that takes.
WITH before AS MATERIALIZED (SELECT clock_timestamp() AS moment),
     made AS MATERIALIZED (SELECT b.moment, pgvigil.uuid_v7() AS id FROM before b),
     ended AS MATERIALIZED (SELECT m.moment, m.id, clock_timestamp() AS after FROM made m)
SELECT ok(test.holds, test.says)
FROM ended e CROSS JOIN LATERAL (VALUES
    (pgvigil.uuid_v7_time(e.id) BETWEEN date_trunc('milliseconds', e.moment) AND e.after, 'an id tells when it was made'),
    (e.id >= pgvigil.uuid_v7_floor(e.moment), 'an id is never below the floor of its time')) test (holds, says);
DO $$
DECLARE previous uuid := pgvigil.uuid_v7(); next uuid;
BEGIN
    FOR n IN 1 .. 5000 LOOP
        PERFORM count(*) FROM generate_series(1, 20);  -- an event costs more than the microsecond that ids resolve
        next := pgvigil.uuid_v7();
        IF next <= previous THEN RAISE EXCEPTION 'id % is not after %', next, previous; END IF;
        previous := next;
    END LOOP;
END $$;
SELECT pass('ids made one after the other are in order');
SELECT is((SELECT provolatile FROM pg_proc WHERE oid = 'pgvigil.uuid_v7_floor(timestamptz)'::regprocedure), 'i', 'the floor is immutable');

SELECT is((SELECT count(*) FROM pg_partition_tree(t) WHERE isleaf), n, t || ' has the present, those ahead, and a default')
FROM (VALUES ('session_lifecycle', 5::bigint), ('system_metrics', 5), ('performance_logs', 16)) v (t, n);
SELECT is(pgvigil.ensure_partitions('performance_logs'), 0, 'making them again makes none');
SELECT is(pgvigil.ensure_partitions('performance_logs', '2031-02-27+00', '2031-03-02+00'), 4, 'any stretch of time can be made');
INSERT INTO performance_logs (id, operation, duration_ms, success) VALUES (pgvigil.uuid_v7_floor('2031-02-28 23:59:59.999+00'), 'o', 1, true);
SELECT is((SELECT tableoid::regclass::text FROM performance_logs), 'performance_logs_p20310228', 'a row goes where its id says');
SET LOCAL TimeZone = 'Pacific/Auckland';
SELECT is(pgvigil.ensure_partitions('session_lifecycle', '2031-01-31 12:00+00', '2031-03-01+00'), 3, 'months are UTC months in any time zone');
INSERT INTO system_metrics (id, metric_name, metric_value, metric_type) VALUES (pgvigil.uuid_v7_floor('2099-01-01+00'), 'm', 1, 'gauge');
SELECT is((SELECT tableoid::regclass::text FROM system_metrics WHERE metric_name = 'm'), 'system_metrics_default', 'a row nobody made room for still finds a place');
INSERT INTO sessions (session_key, agent_from) VALUES ('s', 'x');
INSERT INTO session_lifecycle (id, session_id, event_type)
SELECT pgvigil.uuid_v7_floor('2040-05-06+00'), id, 'created' FROM sessions UNION ALL SELECT pgvigil.uuid_v7_floor('2040-06-06+00'), id, 'dormant' FROM sessions;
SELECT is(pgvigil.ensure_partitions('session_lifecycle', '2040-05-01+00', '2040-05-01+00'), 1, 'a partition can be made although rows of its time have come already');
SELECT is((SELECT tableoid::regclass::text FROM session_lifecycle WHERE id = pgvigil.uuid_v7_floor('2040-05-06+00')), 'session_lifecycle_p204005', 'they move into it');
SELECT is((SELECT tableoid::regclass::text FROM session_lifecycle WHERE id = pgvigil.uuid_v7_floor('2040-06-06+00')), 'session_lifecycle_default', 'the others stay');

SELECT is(pgvigil.uuid_v7_floor(moment), floor_::uuid, 'the floor of ' || coalesce(moment::text, 'NULL'))
FROM (VALUES (timestamptz '-infinity', '00000000-0000-7000-8000-000000000000'), ('4000-01-01 00:00:00+00 BC', '00000000-0000-7000-8000-000000000000'),
             ('1969-12-31 23:59:59.999+00', '00000000-0000-7000-8000-000000000000'), ('294276-12-31 23:59:59+00', 'e677d21f-dc00-7000-8000-000000000000'),
             ('infinity', 'e677d21f-dc00-7000-8000-000000000000'), (NULL, NULL)) v (moment, floor_);
SELECT throws_ok(format('SELECT pgvigil.ensure_partitions(''performance_logs'', %L, %L)', since, until), '22023', NULL, 'no partition lies between such times')
FROM (VALUES ('-infinity', 'now'), ('now', 'infinity'), ('1969-12-31', '1970-01-02'), ('10001-01-01', '10001-01-01'), (NULL, NULL)) v (since, until);
SELECT throws_ok($$SELECT pgvigil.ensure_partitions('sessions')$$, 'P0002', 'table sessions is not one that is cut into partitions here', 'nor of any other table');
SELECT throws_ok($$UPDATE pgvigil.partition_policies SET make_ahead = 100000$$, '23514', NULL, 'partitions for a thousand steps ahead are enough');
SET LOCAL DateStyle = 'German';
SELECT is(pgvigil.ensure_partitions('performance_logs', '2031-04-01 00:00+00', '2031-04-01 00:00+00'), 1, 'whatever the style of dates');
SELECT is(obj_description('performance_logs_p20310401'::regclass), 'performance_logs from 2031-04-01 to 2031-04-02, UTC', 'comments are the same');
CREATE ROLE t_owner_of_logs;
GRANT CREATE ON SCHEMA public TO t_owner_of_logs;
ALTER TABLE system_metrics OWNER TO t_owner_of_logs;
SELECT is(pgvigil.ensure_partitions('system_metrics', '2031-04-01+00', '2031-04-01+00'), 1, 'whoever makes a partition');
SELECT is((SELECT relowner::regrole::text FROM pg_class WHERE relname = 'system_metrics_p203104'), 't_owner_of_logs', 'it belongs to the owner of the table');
ROLLBACK;
