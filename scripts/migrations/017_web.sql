-- Numbers that the web application reads at once: query executions by hour and day, engine and status, and counts that
-- never fall, for Prometheus. Job totals keeps both and counts each row once, after it has come; rows that retention
-- deletes later stay counted.

CREATE TABLE pgvigil.execution_rollups (
    bucket_width  text NOT NULL
        CONSTRAINT execution_rollups_bucket_width_check CHECK (bucket_width = ANY ('{hour,day}'::text[])),
    bucket        timestamptz NOT NULL,
    database_type varchar(50) NOT NULL,
    status        varchar(20) NOT NULL,
    executions    bigint NOT NULL,
    timed         bigint NOT NULL,
    seconds       double precision NOT NULL,
    longest       double precision,
    total_rows    numeric NOT NULL,
    CONSTRAINT execution_rollups_pkey PRIMARY KEY (bucket_width, bucket, database_type, status)
) WITH (fillfactor = 70);
COMMENT ON TABLE pgvigil.execution_rollups IS
    'query_executions by hour and by day (UTC), engine and status, for 400 days, up to totals_progress';
COMMENT ON COLUMN pgvigil.execution_rollups.bucket IS 'Where the hour or day begins: started_at of the rows counted';
COMMENT ON COLUMN pgvigil.execution_rollups.timed IS 'Those with an execution_time';
COMMENT ON COLUMN pgvigil.execution_rollups.seconds IS 'Sum of their execution_time';
COMMENT ON COLUMN pgvigil.execution_rollups.longest IS 'The longest of them; NULL: none is known';
COMMENT ON CONSTRAINT execution_rollups_bucket_width_check ON pgvigil.execution_rollups IS
    'A year is read as days, what is left of one as hours';

-- By user it would be as long as the table itself. Bounds are those of pgvigil.execution_bounds().
CREATE TABLE pgvigil.execution_totals (
    database_type varchar(50) NOT NULL,
    status        varchar(20) NOT NULL,
    executions    bigint NOT NULL,
    seconds       double precision NOT NULL,
    bins          bigint[] NOT NULL,
    since         timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT execution_totals_pkey PRIMARY KEY (database_type, status)
) WITH (fillfactor = 70);
COMMENT ON TABLE pgvigil.execution_totals IS
    'query_executions counted since the beginning, by engine and status; never falls';
COMMENT ON COLUMN pgvigil.execution_totals.bins IS
    'How many took up to each of execution_bounds(), then how many took longer; not cumulative';
COMMENT ON COLUMN pgvigil.execution_totals.since IS
    'When it was first counted: of many engines, /metrics names the first';

CREATE TABLE pgvigil.event_totals (
    event_type varchar(50) NOT NULL CONSTRAINT event_totals_pkey PRIMARY KEY,
    events     bigint NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE pgvigil.event_totals IS 'Events of session_lifecycle counted since the beginning; never falls';

CREATE TABLE pgvigil.kill_totals (
    ok       boolean NOT NULL CONSTRAINT kill_totals_pkey PRIMARY KEY,
    attempts bigint NOT NULL
) WITH (fillfactor = 70);
COMMENT ON TABLE pgvigil.kill_totals IS
    'Rows of instrumentation.kill_attempts counted since the beginning; never falls';
COMMENT ON COLUMN pgvigil.kill_totals.ok IS 'Whether it was done';
COMMENT ON COLUMN pgvigil.kill_totals.attempts IS 'Rows counted';
COMMENT ON CONSTRAINT kill_totals_pkey ON pgvigil.kill_totals IS 'One row for what was done, one for what was refused';

CREATE TABLE pgvigil.totals_progress (
    source     text NOT NULL CONSTRAINT totals_progress_pkey PRIMARY KEY,
    next_id    bigint,
    next_event uuid,
    counted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pgvigil.totals_progress IS 'How far job totals has come';
COMMENT ON COLUMN pgvigil.totals_progress.source IS
    'The table that is counted: query_executions, session_lifecycle or kill_attempts';
COMMENT ON COLUMN pgvigil.totals_progress.next_id IS
    'Rows of query_executions with a smaller id are counted, the others are not';
COMMENT ON COLUMN pgvigil.totals_progress.next_event IS
    'Rows of session_lifecycle with a smaller id are counted, the others are not';
INSERT INTO pgvigil.totals_progress (source, next_id, next_event) VALUES
    ('query_executions', 0, NULL),
    ('session_lifecycle', NULL, '00000000-0000-0000-0000-000000000000'),
    ('kill_attempts', NULL, '00000000-0000-0000-0000-000000000000');

CREATE FUNCTION pgvigil.execution_bounds() RETURNS double precision[]
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN '{0.005,0.01,0.025,0.05,0.1,0.25,0.5,1,2.5,5,10,30,60}'::double precision[];
COMMENT ON FUNCTION pgvigil.execution_bounds() IS 'Upper bounds of the bins of execution_totals, in seconds';

-- A transaction that may yet commit an id up to `last` holds the lock for writing now: ids are made after it is taken.
CREATE FUNCTION pgvigil.executions_until() RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last    bigint := (SELECT max(id) FROM "{app}".query_executions);
    writers text[];
BEGIN
    FOR attempt IN 1 .. 100 LOOP
        SELECT array_agg(l.virtualtransaction) INTO writers
        FROM pg_locks l
        WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND l.mode = ANY ('{RowExclusiveLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::text[])
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
          AND l.relation = pgvigil.application_table('query_executions')
          AND (writers IS NULL OR l.virtualtransaction = ANY (writers));
        IF writers IS NULL THEN
            RETURN coalesce(last, 0);
        END IF;
        PERFORM pg_sleep(0.01);
    END LOOP;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.executions_until() IS
    'All rows of query_executions up to this id are visible to the next '
    'statement, or will never be; waits a second for writers, then it is NULL';

-- Where somebody ends sessions in a transaction that goes on, the next run counts them.
CREATE FUNCTION pgvigil.count_kill_attempts() RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    from_id uuid;
    to_id   uuid;
    counted bigint;
BEGIN
    SELECT p.next_event INTO STRICT from_id FROM pgvigil.totals_progress p WHERE p.source = 'kill_attempts' FOR UPDATE;
    to_id := pgvigil.uuid_v7_floor(pgvigil.complete_until('instrumentation.kill_attempts'));
    IF to_id <= from_id THEN
        RETURN 0;
    END IF;
    WITH found AS (
        SELECT k.ok, count(*) AS attempts
        FROM instrumentation.kill_attempts k
        WHERE k.attempt_id >= from_id AND k.attempt_id < to_id
        GROUP BY k.ok
    ), stored AS (
        INSERT INTO pgvigil.kill_totals AS t (ok, attempts)
        SELECT f.ok, f.attempts FROM found f ORDER BY f.ok
        ON CONFLICT ON CONSTRAINT kill_totals_pkey DO UPDATE SET attempts = t.attempts + excluded.attempts
    )
    SELECT coalesce(sum(f.attempts), 0) INTO counted FROM found f;
    UPDATE pgvigil.totals_progress p
    SET next_event = to_id, counted_at = clock_timestamp()
    WHERE p.source = 'kill_attempts';
    RETURN counted;
END $$;
COMMENT ON FUNCTION pgvigil.count_kill_attempts() IS 'Used by job totals: counts new rows of kill_attempts';

CREATE FUNCTION pgvigil.job_totals(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
DECLARE
    from_id    bigint;
    to_id      bigint;
    from_event uuid;
    to_event   uuid;
    complete    timestamptz;
    first      uuid;
    events     bigint := 0;
    more_ids   boolean := false;
    waits      text[] := '{}';
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the totals have to see what others have committed meanwhile'
            USING ERRCODE = 'invalid_transaction_state',
              HINT = 'SET default_transaction_isolation = ''read committed'';';
    END IF;
    done := 0;
    more := false;
    SELECT p.next_id INTO STRICT from_id FROM pgvigil.totals_progress p WHERE p.source = 'query_executions' FOR UPDATE;
    to_id := pgvigil.executions_until();
    IF to_id IS NULL THEN
        waits := waits || 'query_executions'::text;
    ELSIF to_id >= from_id THEN
        -- The next rows by the primary key, so that a gap in the ids costs nothing.
        SELECT max(n.id)
        INTO to_id
        FROM (SELECT e.id
              FROM "{app}".query_executions e
              WHERE e.id >= from_id AND e.id <= to_id
              ORDER BY e.id
              LIMIT batch * 50) n;
        WITH found AS MATERIALIZED (
            SELECT date_trunc('hour', e.started_at, 'UTC') AS bucket, e.database_type, e.status,
                   width_bucket(e.execution_time, pgvigil.execution_bounds()) AS place,
                   e.execution_time = ANY (pgvigil.execution_bounds()) AS is_bound, e.execution_time, e.total_rows
            FROM "{app}".query_executions e WHERE e.id >= from_id AND e.id <= to_id
        ), hours AS MATERIALIZED (
            SELECT f.bucket, f.database_type, f.status, count(*) AS executions, count(f.execution_time) AS timed,
                   coalesce(sum(f.execution_time), 0) AS seconds, max(f.execution_time) AS longest,
                   coalesce(sum(f.total_rows), 0) AS total_rows
            FROM found f WHERE f.bucket >= now() - interval '400 days' GROUP BY 1, 2, 3
        ), rollups AS (
            INSERT INTO pgvigil.execution_rollups AS r (bucket_width, bucket, database_type, status, executions, timed,
                                                        seconds, longest, total_rows)
            SELECT 'day', date_trunc('day', h.bucket, 'UTC'), h.database_type, h.status, sum(h.executions),
                   sum(h.timed), sum(h.seconds), max(h.longest), sum(h.total_rows)
            FROM hours h GROUP BY 2, 3, 4
            UNION ALL
            SELECT 'hour', h.* FROM hours h ORDER BY 1, 2, 3, 4
            ON CONFLICT ON CONSTRAINT execution_rollups_pkey DO UPDATE
            SET executions = r.executions + excluded.executions, timed = r.timed + excluded.timed,
                seconds = r.seconds + excluded.seconds, longest = greatest(r.longest, excluded.longest),
                total_rows = r.total_rows + excluded.total_rows
        ), bins AS (
            -- A bound belongs to the bin below it, as in Prometheus: le.
            SELECT f.database_type, f.status, f.place + 1 - f.is_bound::integer AS bin, count(*) AS executions
            FROM found f WHERE f.execution_time IS NOT NULL GROUP BY 1, 2, 3
        ), totals AS (
            INSERT INTO pgvigil.execution_totals AS t (database_type, status, executions, seconds, bins)
            SELECT f.database_type, f.status, count(*), coalesce(sum(f.execution_time), 0),
                   ARRAY(SELECT coalesce(b.executions, 0)
                         FROM generate_series(1, cardinality(pgvigil.execution_bounds()) + 1) p
                         LEFT JOIN bins b ON b.database_type = f.database_type AND b.status = f.status AND b.bin = p
                         ORDER BY p)
            FROM found f GROUP BY f.database_type, f.status ORDER BY 1, 2
            ON CONFLICT ON CONSTRAINT execution_totals_pkey DO UPDATE
            SET executions = t.executions + excluded.executions, seconds = t.seconds + excluded.seconds,
                bins = ARRAY(SELECT a.n + b.n
                             FROM unnest(t.bins) WITH ORDINALITY a (n, place)
                             JOIN unnest(excluded.bins) WITH ORDINALITY b (n, place) USING (place)
                             ORDER BY place)
        )
        SELECT count(*) INTO done FROM found;
        IF done > 0 THEN
            more_ids := done = batch * 50;
            UPDATE pgvigil.totals_progress p
            SET next_id = to_id + 1, counted_at = clock_timestamp()
            WHERE p.source = 'query_executions';
        END IF;
    END IF;

    SELECT p.next_event
    INTO STRICT from_event
    FROM pgvigil.totals_progress p
    WHERE p.source = 'session_lifecycle'
    FOR UPDATE;
    complete := pgvigil.complete_until(pgvigil.application_table('session_lifecycle'));
    IF isfinite(complete) AND pgvigil.uuid_v7_floor(complete) > from_event THEN
        to_event := pgvigil.uuid_v7_floor(complete);
        SELECT l.id
        INTO first
        FROM "{app}".session_lifecycle l
        WHERE l.id >= from_event AND l.id < to_event
        ORDER BY l.id
        LIMIT 1;
        IF FOUND THEN
            -- A day at a time, so that a long trail is counted in many transactions.
            more := pgvigil.uuid_v7_floor(pgvigil.uuid_v7_time(first) + interval '1 day') < to_event;
            to_event := least(to_event, pgvigil.uuid_v7_floor(pgvigil.uuid_v7_time(first) + interval '1 day'));
            WITH found AS (
                INSERT INTO pgvigil.event_totals AS t (event_type, events)
                SELECT l.event_type, count(*)
                FROM "{app}".session_lifecycle l
                WHERE l.id >= from_event AND l.id < to_event
                GROUP BY 1
                ORDER BY 1
                ON CONFLICT ON CONSTRAINT event_totals_pkey DO UPDATE SET events = t.events + excluded.events
                RETURNING 1
            )
            SELECT count(*) INTO events FROM found;
        END IF;
        UPDATE pgvigil.totals_progress p
        SET next_event = to_event, counted_at = clock_timestamp()
        WHERE p.source = 'session_lifecycle';
    ELSE
        waits := waits || 'session_lifecycle'::text;
    END IF;
    done := done + events + pgvigil.count_kill_attempts();
    more := more OR more_ids;
    IF waits <> '{}' THEN
        note := format('waits for a long transaction that writes to %s', array_to_string(waits, ' and '));
    END IF;
    IF NOT more THEN
        DELETE FROM pgvigil.execution_rollups r WHERE r.bucket < now() - interval '400 days';
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.job_totals(integer) IS
    'One step of job totals: a batch of query executions, a day of session events, and attempts to kill';

INSERT INTO pgvigil.jobs (job, every, purpose)
VALUES ('totals', '5 minutes',
        'counts executions by the hour, and executions, session events and attempts to kill in totals that never fall');

-- Whole days and hours from the rollups, the first and broken hour from the table, and from the table too what is not
-- counted yet: the numbers are those of a sum over the table, as long as nothing was deleted from it.
CREATE FUNCTION pgvigil.execution_window(stretch interval)
RETURNS TABLE (database_type varchar, status varchar, executions bigint, timed bigint, seconds double precision,
               longest double precision, total_rows numeric)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    from_time  timestamptz := coalesce(now() - stretch, '-infinity');
    first_hour timestamptz := date_trunc('hour', from_time + interval '1 hour' - interval '1 microsecond', 'UTC');
    first_day  timestamptz := date_trunc('day', first_hour + interval '24 hours' - interval '1 microsecond', 'UTC');
    tail       bigint;
BEGIN
    IF stretch <= interval '0' OR stretch > interval '366 days' THEN
        RAISE EXCEPTION 'execution_window() looks back 366 days at most, not %', stretch
              USING ERRCODE = 'invalid_parameter_value', HINT = 'NULL is all that is kept.';
    END IF;
    SELECT p.next_id INTO STRICT tail FROM pgvigil.totals_progress p WHERE p.source = 'query_executions';
    RETURN QUERY
    SELECT w.database_type, w.status, sum(w.executions)::bigint, sum(w.timed)::bigint, sum(w.seconds), max(w.longest),
           sum(w.total_rows)
    FROM (SELECT r.database_type, r.status, r.executions, r.timed, r.seconds, r.longest, r.total_rows
          FROM pgvigil.execution_rollups r WHERE r.bucket_width = 'day' AND r.bucket >= first_day
          UNION ALL
          SELECT r.database_type, r.status, r.executions, r.timed, r.seconds, r.longest, r.total_rows
          FROM pgvigil.execution_rollups r
          WHERE r.bucket_width = 'hour' AND r.bucket >= first_hour AND r.bucket < first_day
          UNION ALL
          SELECT e.database_type, e.status, count(*), count(e.execution_time), coalesce(sum(e.execution_time), 0),
                 max(e.execution_time), coalesce(sum(e.total_rows), 0)
          FROM "{app}".query_executions e
          WHERE e.started_at >= from_time AND e.started_at < first_hour AND e.id < tail
          GROUP BY 1, 2
          UNION ALL
          SELECT e.database_type, e.status, count(*), count(e.execution_time), coalesce(sum(e.execution_time), 0),
                 max(e.execution_time), coalesce(sum(e.total_rows), 0)
          FROM "{app}".query_executions e WHERE e.id >= tail AND e.started_at >= from_time GROUP BY 1, 2) w
    GROUP BY w.database_type, w.status;
END $$;
COMMENT ON FUNCTION pgvigil.execution_window(interval) IS
    'Query executions of the last stretch of time, at most 366 days '
    '(NULL: of all that is kept), by engine and status; times in seconds';

-- Anomalies: of each engine and status, the executions of an hour that are far from those of the same hour of the days
-- before.
CREATE TABLE pgvigil.anomalies (
    id            bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT anomalies_pkey PRIMARY KEY,
    database_type varchar(50) NOT NULL,
    status        varchar(20) NOT NULL,
    since         timestamptz NOT NULL,
    hour          timestamptz NOT NULL,
    value         bigint NOT NULL,
    expected      double precision NOT NULL,
    spread        double precision NOT NULL,
    ended         timestamptz
);
COMMENT ON TABLE pgvigil.anomalies IS
    'Unusual numbers of query executions: open ones, and those that ended within the last 90 days';
COMMENT ON COLUMN pgvigil.anomalies.status IS 'Status of the executions that were counted';
COMMENT ON COLUMN pgvigil.anomalies.since IS 'Beginning of the first hour of it';
COMMENT ON COLUMN pgvigil.anomalies.hour IS 'Beginning of the last hour that was judged';
COMMENT ON COLUMN pgvigil.anomalies.value IS 'Executions in that hour';
COMMENT ON COLUMN pgvigil.anomalies.expected IS
    'Median of the same hour of the 28 days before, as far as anything was recorded by then';
COMMENT ON COLUMN pgvigil.anomalies.spread IS
    'Their spread: 1.4826 times the median distance from the median, and at least the square root of the median, and 1';
COMMENT ON COLUMN pgvigil.anomalies.ended IS 'End of the last hour of it; NULL: it goes on';
CREATE UNIQUE INDEX idx_anomalies_open ON pgvigil.anomalies (database_type, status) WHERE ended IS NULL;
COMMENT ON INDEX pgvigil.idx_anomalies_open IS 'At most one that goes on, of an engine and status';

-- An hour without a row is one with 0 executions, once the engine has begun to be used: a load that stops is an anomaly
-- too.
CREATE FUNCTION pgvigil.hour_distances(last_hour timestamptz)
RETURNS TABLE (database_type varchar, status varchar, hour timestamptz, value bigint, expected double precision,
               spread double precision, distance double precision)
LANGUAGE sql
STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
    WITH known AS MATERIALIZED (
        SELECT r.database_type, r.status, min(b.first) AS first
        FROM (SELECT DISTINCT e.database_type, e.status
              FROM pgvigil.execution_rollups e
              WHERE e.bucket_width = 'day' AND e.bucket >= last_hour - interval '30 days') r
        JOIN (SELECT e.database_type, min(e.bucket) AS first
              FROM pgvigil.execution_rollups e
              WHERE e.bucket_width = 'hour'
              GROUP BY e.database_type) b
             ON b.database_type = r.database_type
        GROUP BY r.database_type, r.status
    ), counted AS MATERIALIZED (
        SELECT k.database_type, k.status, h.hour, d.day, coalesce(e.executions, 0) AS executions
        FROM known k
        CROSS JOIN (VALUES (last_hour), (last_hour - interval '1 hour')) h (hour)
        CROSS JOIN generate_series(0, 28) d (day)
        LEFT JOIN pgvigil.execution_rollups e ON e.bucket_width = 'hour'
            AND e.bucket = h.hour - d.day * interval '24 hours'
                                             AND e.database_type = k.database_type AND e.status = k.status
        WHERE h.hour - d.day * interval '24 hours' >= k.first
    ), middle AS (
        SELECT c.database_type, c.status, c.hour, percentile_cont(0.5) WITHIN GROUP (ORDER BY c.executions) AS expected
        FROM counted c WHERE c.day > 0 GROUP BY c.database_type, c.status, c.hour HAVING count(*) >= 5
    ), spreads AS (
        SELECT m.database_type, m.status, m.hour, m.expected,
               greatest(1.4826 * percentile_cont(0.5) WITHIN GROUP (ORDER BY abs(c.executions - m.expected)),
                        sqrt(m.expected), 1) AS spread
        FROM middle m
        JOIN counted c ON c.database_type = m.database_type AND c.status = m.status AND c.hour = m.hour AND c.day > 0
        GROUP BY m.database_type, m.status, m.hour, m.expected
    )
    SELECT s.database_type, s.status, s.hour, c.executions, s.expected, s.spread, (c.executions - s.expected) / s.spread
    FROM spreads s
    JOIN counted c ON c.database_type = s.database_type AND c.status = s.status AND c.hour = s.hour AND c.day = 0
$$;
COMMENT ON FUNCTION pgvigil.hour_distances(timestamptz) IS
    'Used by job anomalies: how far the executions of an hour, and of the hour before, '
    'are from what is usual, in spreads; engines with fewer than five days are left out';

CREATE FUNCTION pgvigil.job_anomalies(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_hour timestamptz := date_trunc('hour', now(), 'UTC') - interval '1 hour';
BEGIN
    more := false;
    -- An hour that is not yet counted as a whole would look empty.
    IF NOT EXISTS (SELECT FROM pgvigil.job_runs r
                   WHERE r.job = 'totals' AND r.finished_at IS NOT NULL AND r.error IS NULL
                                                    AND r.started_at >= last_hour + interval '1 hour') THEN
        done := 0;
        note := 'waits for job totals, which has not counted the last hour';
        RETURN NEXT;
        RETURN;
    END IF;
    WITH distances AS MATERIALIZED (
        SELECT d.* FROM pgvigil.hour_distances(last_hour) d
    ), judged AS MATERIALIZED (
        SELECT n.*, b.hour AS hour_before, abs(n.distance) > 4 AS is_far,
               abs(b.distance) > 4 AND sign(b.distance) = sign(n.distance) AS is_second
        FROM distances n
        JOIN distances b ON b.database_type = n.database_type
            AND b.status = n.status
            AND b.hour = n.hour - interval '1 hour'
        WHERE n.hour = last_hour
    ), closed AS (
        UPDATE pgvigil.anomalies a SET ended = last_hour
        WHERE a.ended IS NULL AND a.hour < last_hour
          AND NOT EXISTS (SELECT FROM judged j
                          WHERE j.database_type = a.database_type AND j.status = a.status AND j.is_far)
        RETURNING 1
    ), opened AS (
        INSERT INTO pgvigil.anomalies AS a (database_type, status, since, hour, value, expected, spread)
        SELECT j.database_type, j.status, j.hour_before, j.hour, j.value, j.expected, j.spread FROM judged j
        WHERE j.is_far
          AND (j.is_second
               OR EXISTS (SELECT FROM pgvigil.anomalies o
                          WHERE o.ended IS NULL AND o.database_type = j.database_type AND o.status = j.status))
        ORDER BY 1, 2
        ON CONFLICT (database_type, status) WHERE ended IS NULL DO UPDATE
        SET hour = excluded.hour, value = excluded.value, expected = excluded.expected, spread = excluded.spread
            WHERE a.hour < excluded.hour
        RETURNING 1
    )
    SELECT (SELECT count(*) FROM closed) + (SELECT count(*) FROM opened) INTO done;
    DELETE FROM pgvigil.anomalies a WHERE a.ended < now() - interval '90 days';
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.job_anomalies(integer) IS
    'Job anomalies, in one step: an anomaly begins with two hours in a row more than four '
    'spreads from the median, in the same direction, and ends with an hour that is not';

INSERT INTO pgvigil.jobs (job, every, at, purpose)
VALUES ('anomalies', '1 hour', '10 minutes',
        'compares the executions of the last hour with those of the same hour of the days before');

-- Rights of the roles. A role that is missing is left out, as in 013.
DO $$
DECLARE
    role_name text;
BEGIN
    FOR role_name IN
        SELECT r.rolname
        FROM pg_roles r
        WHERE r.rolname = ANY ('{pgvigil_reader,pgvigil_admin}'::name[]) LOOP
        EXECUTE format('GRANT SELECT ON pgvigil.execution_rollups, pgvigil.execution_totals, pgvigil.event_totals,
                       pgvigil.kill_totals, pgvigil.totals_progress, pgvigil.anomalies TO %I', role_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION pgvigil.execution_bounds(), pgvigil.execution_window(interval) TO %I',
                       role_name);
    END LOOP;
END $$;
