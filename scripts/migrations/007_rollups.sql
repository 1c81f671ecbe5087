-- Durations by minute and by hour, so that a day of them is a few hundred rows whatever was logged. Each row holds a
-- histogram of logarithmic bins that sum() merges (Masson, Rim, Lee: DDSketch, VLDB 2019), in one numeric: bin i is its
-- decimal digits 12 i to 12 i + 11, which no count of calls overflows. With gamma = 1.01 / 0.99 the middle of a bin is
-- within 1 % of everything in it.

CREATE FUNCTION pgvigil.histogram_bin(duration_ms integer) RETURNS integer
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN CASE WHEN duration_ms < 1 THEN 0
            ELSE 1 + ceil(ln(duration_ms::double precision) / 0.020000666706669435 - 1e-9)::integer END;
COMMENT ON FUNCTION pgvigil.histogram_bin(integer) IS 'The bin of a duration: 0 for 0, else 1 + ceil(log of gamma)';

-- Whole milliseconds below 50 have a bin each, so they are exact.
CREATE FUNCTION pgvigil.histogram_value(bin integer) RETURNS double precision
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN CASE WHEN bin < 1 THEN 0 WHEN bin <= 196 THEN round(0.99 * exp((bin - 1) * 0.020000666706669435))
            ELSE 0.99 * exp((bin - 1) * 0.020000666706669435) END;
COMMENT ON FUNCTION pgvigil.histogram_value(integer) IS 'Duration of a bin, in milliseconds';

CREATE FUNCTION pgvigil.histogram_unit(bin integer) RETURNS numeric
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN ('1e' || 12 * bin)::numeric;
COMMENT ON FUNCTION pgvigil.histogram_unit(integer) IS 'A histogram with one call in that bin';

-- By halving: the sum of a number's digits in base 10^12 is its remainder by 10^12 - 1, so the calls in the lower half
-- are one division by a short number, and each step works on half of what the step before did.
CREATE FUNCTION pgvigil.histogram_rank(histogram numeric, rank bigint) RETURNS TABLE (bin integer, longer bigint)
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    rest   numeric := histogram;
    bins   integer := 1088;  -- the longest integer of milliseconds is in bin 1075
    half   integer;
    unit   numeric;
    upper_ numeric;
    lower_ numeric;
    calls  bigint;
BEGIN
    bin := 0;
    WHILE bins > 1 LOOP
        half := bins / 2;
        unit := pgvigil.histogram_unit(half);
        upper_ := div(rest, unit);
        lower_ := rest - upper_ * unit;
        calls := mod(lower_, 999999999999);
        IF rank < calls THEN
            rest := lower_;
            bins := half;
        ELSE
            rest := upper_;
            rank := rank - calls;
            bin := bin + half;
            bins := bins - half;
        END IF;
    END LOOP;
    longer := rest - rank - 1;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.histogram_rank(numeric, bigint) IS
    'The bin of the call with that many shorter ones, and how many calls of the same bin come after it';

-- As percentile_cont: linear between the two neighbouring ranks, each of which is within 1 %.
CREATE FUNCTION pgvigil.histogram_quantile(histogram numeric, calls bigint, fraction double precision)
RETURNS double precision
LANGUAGE plpgsql
IMMUTABLE
PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    place double precision := fraction * (calls - 1);
    low   double precision;
    high  double precision;
    after bigint;
BEGIN
    SELECT pgvigil.histogram_value(r.bin), r.longer
    INTO low, after
    FROM pgvigil.histogram_rank(histogram, floor(place)::bigint) r;
    IF place = floor(place) OR after > 0 THEN
        RETURN low;
    END IF;
    SELECT pgvigil.histogram_value(r.bin) INTO high FROM pgvigil.histogram_rank(histogram, ceil(place)::bigint) r;
    RETURN low + (place - floor(place)) * (high - low);
END $$;
COMMENT ON FUNCTION pgvigil.histogram_quantile(numeric, bigint, double precision) IS
    'A quantile of a histogram of so many calls in milliseconds, within 1 % of percentile_cont';

CREATE TABLE pgvigil.performance_rollups (
    bucket_width text NOT NULL
        CONSTRAINT performance_rollups_bucket_width_check CHECK (bucket_width = ANY ('{minute,hour}'::text[])),
    time_bucket  timestamptz NOT NULL,
    operation    varchar(100) NOT NULL,
    calls        bigint NOT NULL,
    successful   bigint NOT NULL,
    total_ms     bigint NOT NULL,
    min_ms       integer NOT NULL,
    max_ms       integer NOT NULL,
    histogram    numeric NOT NULL,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT performance_rollups_pkey PRIMARY KEY (bucket_width, time_bucket, operation)
) WITH (fillfactor = 70);
COMMENT ON TABLE pgvigil.performance_rollups IS
    'performance_logs by operation and minute (for 26 hours) or hour (for 100 days), up to rollup_progress';
COMMENT ON COLUMN pgvigil.performance_rollups.time_bucket IS 'Where it begins: created_at of the rows counted';
COMMENT ON COLUMN pgvigil.performance_rollups.total_ms IS 'Sum of their durations, in milliseconds';
COMMENT ON COLUMN pgvigil.performance_rollups.histogram IS
    'Their durations, for pgvigil.histogram_quantile(); sum() merges histograms';
COMMENT ON COLUMN pgvigil.performance_rollups.changed_at IS 'When rows were last counted into it, late ones too';
COMMENT ON CONSTRAINT performance_rollups_bucket_width_check ON pgvigil.performance_rollups IS
    'Days are merged from hours';

CREATE TABLE pgvigil.operation_totals (
    operation  varchar(100) NOT NULL CONSTRAINT operation_totals_pkey PRIMARY KEY,
    calls      bigint NOT NULL,
    successful bigint NOT NULL,
    total_ms   bigint NOT NULL,
    histogram  numeric NOT NULL,
    since      timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 70);
COMMENT ON TABLE pgvigil.operation_totals IS
    'performance_logs by operation since the beginning, up to rollup_progress; '
    'never falls. After 1,000 operations new ones are counted as (others)';
COMMENT ON COLUMN pgvigil.operation_totals.total_ms IS 'Sum of their durations, in milliseconds';
COMMENT ON COLUMN pgvigil.operation_totals.histogram IS 'Their durations, as in performance_rollups';
COMMENT ON COLUMN pgvigil.operation_totals.since IS
    'When it was first counted: of many operations, /metrics names the first';

CREATE TABLE pgvigil.rollup_progress (
    source       text NOT NULL CONSTRAINT rollup_progress_pkey PRIMARY KEY,
    next_id      uuid NOT NULL,
    rolled_up_at timestamptz NOT NULL DEFAULT clock_timestamp(),
    published_at timestamptz NOT NULL DEFAULT '-infinity'
);
COMMENT ON TABLE pgvigil.rollup_progress IS 'How far the rollups have come';
COMMENT ON COLUMN pgvigil.rollup_progress.source IS 'The table that is rolled up: performance_logs';
COMMENT ON COLUMN pgvigil.rollup_progress.next_id IS
    'Rows of performance_logs with a smaller id are counted, the others are not';
COMMENT ON COLUMN pgvigil.rollup_progress.published_at IS
    'Rollups changed since then are not yet in analytics_aggregations';
INSERT INTO pgvigil.rollup_progress (source, next_id)
VALUES ('performance_logs', '00000000-0000-0000-0000-000000000000');

-- Planned for the very ids it is given: then it reads the partitions of those, by their keys.
CREATE FUNCTION pgvigil.histogram_performance_logs(from_id uuid, to_id uuid, from_time timestamptz DEFAULT '-infinity')
RETURNS TABLE (time_bucket timestamptz, operation varchar, calls bigint, successful bigint, total_ms bigint,
               min_ms integer, max_ms integer, histogram numeric)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
SET plan_cache_mode = force_custom_plan
AS $$
BEGIN
    RETURN QUERY
    SELECT b.time_bucket, b.operation, sum(b.calls)::bigint, sum(b.successful)::bigint, sum(b.total_ms)::bigint,
           min(b.min_ms), max(b.max_ms), sum(b.calls * pgvigil.histogram_unit(b.bin))
    FROM (SELECT date_bin('1 minute', l.created_at, timestamptz '2001-01-01 00:00:00+00') AS time_bucket, l.operation,
                 pgvigil.histogram_bin(l.duration_ms) AS bin, count(*) AS calls,
                 count(*) FILTER (WHERE l.success) AS successful, sum(l.duration_ms) AS total_ms,
                 min(l.duration_ms) AS min_ms, max(l.duration_ms) AS max_ms
          FROM "{app}".performance_logs l
          WHERE l.id >= from_id AND l.id < to_id AND l.created_at >= from_time
          GROUP BY 1, 2, 3) b
    GROUP BY b.time_bucket, b.operation;
END $$;
COMMENT ON FUNCTION pgvigil.histogram_performance_logs(uuid, uuid, timestamptz) IS
    'Rows of performance_logs between two ids, as rollups of a minute';

-- Ids are made after their transaction has the lock for writing. So whoever may yet commit an id from before this
-- moment is among those who hold that lock now: when the last of them is gone, all ids up to this moment are visible or
-- void.
CREATE FUNCTION pgvigil.complete_until(of_table regclass) RETURNS timestamptz
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    -- A second for a clock that is set back; rows since then are counted from the table meanwhile.
    moment  timestamptz := clock_timestamp() - interval '1 second';
    writers text[];
    oldest  timestamptz;
BEGIN
    FOR attempt IN 1 .. 100 LOOP
        SELECT array_agg(l.virtualtransaction), min(coalesce(a.xact_start, '-infinity')) INTO writers, oldest
        FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
        WHERE l.locktype = 'relation' AND l.granted AND l.pid IS DISTINCT FROM pg_backend_pid()
          AND l.mode = ANY ('{RowExclusiveLock,ShareRowExclusiveLock,ExclusiveLock,AccessExclusiveLock}'::text[])
          AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database())
          AND l.relation IN (SELECT relid FROM pg_partition_tree(of_table))
          AND (writers IS NULL OR l.virtualtransaction = ANY (writers));
        EXIT WHEN writers IS NULL OR attempt = 100;
        PERFORM pg_sleep(0.01);
    END LOOP;
    -- Transactions that still write began at some time; to see that of other roles' sessions takes the right to read
    -- pg_stat_activity.
    RETURN least(moment, oldest);
END $$;
COMMENT ON FUNCTION pgvigil.complete_until(regclass) IS
    'All rows of a table with ids made before this time are visible to '
    'the next statement, or will never be; waits a second for writers';

CREATE FUNCTION pgvigil.job_rollup(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    from_id uuid;
    to_id   uuid;
    complete timestamptz;
    first   uuid;
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'the rollup has to see what others have committed meanwhile'
            USING ERRCODE = 'invalid_transaction_state',
              HINT = 'SET default_transaction_isolation = ''read committed'';';
    END IF;
    SELECT next_id INTO STRICT from_id FROM pgvigil.rollup_progress FOR UPDATE;
    complete := pgvigil.complete_until(pgvigil.application_table('performance_logs'));
    done := 0;
    more := false;
    IF isfinite(complete) AND pgvigil.uuid_v7_floor(complete) > from_id THEN
        to_id := pgvigil.uuid_v7_floor(complete);
        SELECT id INTO first FROM "{app}".performance_logs WHERE id >= from_id AND id < to_id ORDER BY id LIMIT 1;
        IF FOUND THEN
            -- An hour at a time, so that a long table is rolled up in many transactions.
            more := pgvigil.uuid_v7_floor(pgvigil.uuid_v7_time(first) + interval '1 hour') < to_id;
            to_id := least(to_id, pgvigil.uuid_v7_floor(pgvigil.uuid_v7_time(first) + interval '1 hour'));
            WITH counted AS MATERIALIZED (
                SELECT * FROM pgvigil.histogram_performance_logs(from_id, to_id)
            ), named AS (
                -- An application that puts ids into its operations' names makes no rows without end: 1,000 names, the
                -- rest together.
                SELECT o.operation, t.operation IS NOT NULL
                                    OR row_number() OVER (PARTITION BY t.operation IS NULL
                                                          ORDER BY o.calls DESC, o.operation)
                                       + (SELECT count(*) FROM pgvigil.operation_totals) <= 1000 AS is_kept
                FROM (SELECT c.operation, sum(c.calls) AS calls FROM counted c GROUP BY c.operation) o
                LEFT JOIN pgvigil.operation_totals t ON t.operation = o.operation
            ), minutes AS MATERIALIZED (
                SELECT c.time_bucket, CASE WHEN n.is_kept THEN c.operation ELSE '(others)' END AS operation,
                       sum(c.calls) AS calls, sum(c.successful) AS successful, sum(c.total_ms) AS total_ms,
                       min(c.min_ms) AS min_ms, max(c.max_ms) AS max_ms, sum(c.histogram) AS histogram
                FROM counted c JOIN named n ON n.operation = c.operation GROUP BY 1, 2
            ), rollups AS (
                INSERT INTO pgvigil.performance_rollups AS r (bucket_width, time_bucket, operation, calls, successful,
                                                              total_ms, min_ms, max_ms, histogram)
                SELECT 'minute', m.* FROM minutes m WHERE m.time_bucket >= now() - interval '26 hours'
                UNION ALL
                SELECT 'hour', date_bin('1 hour', m.time_bucket, timestamptz '2001-01-01 00:00:00+00'), m.operation,
                       sum(m.calls), sum(m.successful), sum(m.total_ms), min(m.min_ms), max(m.max_ms), sum(m.histogram)
                FROM minutes m GROUP BY 2, 3
                ON CONFLICT ON CONSTRAINT performance_rollups_pkey DO UPDATE
                SET calls = r.calls + excluded.calls, successful = r.successful + excluded.successful,
                    total_ms = r.total_ms + excluded.total_ms, min_ms = least(r.min_ms, excluded.min_ms),
                    max_ms = greatest(r.max_ms, excluded.max_ms), histogram = r.histogram + excluded.histogram,
                    changed_at = excluded.changed_at
            ), totals AS (
                INSERT INTO pgvigil.operation_totals AS t (operation, calls, successful, total_ms, histogram)
                SELECT m.operation, sum(m.calls), sum(m.successful), sum(m.total_ms), sum(m.histogram)
                FROM minutes m
                GROUP BY m.operation
                ORDER BY m.operation
                ON CONFLICT ON CONSTRAINT operation_totals_pkey DO UPDATE
                SET calls = t.calls + excluded.calls, successful = t.successful + excluded.successful,
                    total_ms = t.total_ms + excluded.total_ms, histogram = t.histogram + excluded.histogram
            )
            SELECT coalesce(sum(calls), 0) INTO done FROM minutes;
        END IF;
        UPDATE pgvigil.rollup_progress SET next_id = to_id, rolled_up_at = clock_timestamp();
    ELSE
        note := 'waits for a long transaction that writes to performance_logs';
    END IF;
    IF NOT more THEN
        DELETE FROM pgvigil.performance_rollups
        WHERE bucket_width = 'minute' AND time_bucket < now() - interval '26 hours';
        DELETE FROM pgvigil.performance_rollups
        WHERE bucket_width = 'hour' AND time_bucket < now() - interval '100 days';
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.job_rollup(integer) IS 'One step of job rollup: at most an hour of performance_logs';

-- Planned for the tail as it is now.
CREATE FUNCTION pgvigil.performance_window(stretch interval)
RETURNS TABLE (operation varchar, total_calls bigint, avg_duration_ms numeric, min_duration_ms integer,
               max_duration_ms integer, p95_duration_ms double precision, successful_calls bigint, failed_calls bigint,
               success_rate_percent numeric)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
SET plan_cache_mode = force_custom_plan
AS $$
DECLARE
    first_minute timestamptz := date_bin('1 minute', now() - stretch, timestamptz '2001-01-01 00:00:00+00');
    first_hour   timestamptz := date_bin('1 hour', now() - stretch, timestamptz '2001-01-01 00:00:00+00')
        + interval '1 hour';
    -- A clock that is ahead by minutes counts; one that is ahead by days would stay in sight until then.
    end_         timestamptz := date_bin('1 hour', now(), timestamptz '2001-01-01 00:00:00+00') + interval '2 hours';
    tail         uuid;
BEGIN
    IF (stretch > interval '0' AND stretch <= interval '26 hours') IS NOT TRUE THEN
        RAISE EXCEPTION 'performance_window() looks back 26 hours at most, not %', coalesce(stretch::text, 'NULL')
              USING ERRCODE = 'invalid_parameter_value',
                    HINT = 'What is older is in analytics_aggregations, by hours and days.';
    END IF;
    SELECT greatest(next_id, pgvigil.uuid_v7_floor(first_minute)) INTO STRICT tail FROM pgvigil.rollup_progress;
    RETURN QUERY
    WITH rolled AS MATERIALIZED (
        SELECT p.operation, sum(p.calls)::bigint AS calls, sum(p.successful)::bigint AS successful,
               sum(p.total_ms) AS total_ms, min(p.min_ms) AS min_ms, max(p.max_ms) AS max_ms,
               sum(p.histogram) AS histogram
        FROM (SELECT r.operation, r.calls, r.successful, r.total_ms, r.min_ms, r.max_ms, r.histogram
              FROM pgvigil.performance_rollups r
              WHERE r.bucket_width = 'hour' AND r.time_bucket >= first_hour AND r.time_bucket < end_
              UNION ALL
              SELECT r.operation, r.calls, r.successful, r.total_ms, r.min_ms, r.max_ms, r.histogram
              FROM pgvigil.performance_rollups r
              WHERE r.bucket_width = 'minute' AND r.time_bucket >= first_minute AND r.time_bucket < first_hour) p
        GROUP BY p.operation
    ), durations AS MATERIALIZED (  -- the only step that meets every row: two counts in a hash table
        SELECT l.operation, l.duration_ms, count(*) AS calls, count(*) FILTER (WHERE l.success) AS successful
        FROM "{app}".performance_logs l
        -- With both ends of the range, which holds every later id, the planner takes the index where there are no
        -- statistics.
        WHERE l.id >= tail
          AND l.id < 'ffffffff-ffff-ffff-ffff-ffffffffffff'
          AND l.created_at >= first_minute
          AND l.created_at < end_
        GROUP BY l.operation, l.duration_ms
    ), fresh AS MATERIALIZED (
        SELECT d.operation, sum(d.calls)::bigint AS calls, sum(d.successful)::bigint AS successful,
               sum(d.calls * d.duration_ms) AS total_ms, min(d.duration_ms) AS min_ms, max(d.duration_ms) AS max_ms
        FROM durations d GROUP BY d.operation
    ), exact AS (  -- of what no rollup holds: as percentile_cont
        SELECT o.operation, o.low + (o.place - floor(o.place)) * (o.high - o.low) AS p95
        FROM (SELECT c.operation, c.place, min(c.duration_ms) FILTER (WHERE c.upto > floor(c.place)) AS low,
                     min(c.duration_ms) FILTER (WHERE c.upto > ceil(c.place)) AS high
              FROM (SELECT d.operation, d.duration_ms, 0.95::double precision * (f.calls - 1) AS place,
                           sum(d.calls) OVER (PARTITION BY d.operation ORDER BY d.duration_ms) AS upto
                    FROM durations d JOIN fresh f ON f.operation = d.operation
                    WHERE NOT EXISTS (SELECT FROM rolled r WHERE r.operation = d.operation)) c
              GROUP BY c.operation, c.place) o
    ), merged AS (  -- of what a rollup holds already
        SELECT b.operation, sum(b.calls * pgvigil.histogram_unit(b.bin)) AS histogram
        FROM (SELECT d.operation, pgvigil.histogram_bin(d.duration_ms) AS bin, sum(d.calls) AS calls
              FROM durations d WHERE EXISTS (SELECT FROM rolled r WHERE r.operation = d.operation) GROUP BY 1, 2) b
        GROUP BY b.operation
    )
    SELECT w.operation, w.calls, round(w.total_ms / w.calls, 3), w.min_ms, w.max_ms,
           round(coalesce(w.p95,
                          least(w.max_ms,
                                greatest(w.min_ms, pgvigil.histogram_quantile(w.histogram, w.calls, 0.95))))::numeric,
                 3)::double precision,
           w.successful, w.calls - w.successful, round(w.successful * 100.0 / w.calls, 2)
    FROM (SELECT coalesce(r.operation, f.operation) AS operation, coalesce(r.calls, 0) + coalesce(f.calls, 0) AS calls,
                 coalesce(r.successful, 0) + coalesce(f.successful, 0) AS successful,
                 coalesce(r.total_ms, 0) + coalesce(f.total_ms, 0) AS total_ms, least(r.min_ms, f.min_ms) AS min_ms,
                 greatest(r.max_ms, f.max_ms) AS max_ms, e.p95, r.histogram + coalesce(m.histogram, 0) AS histogram
          FROM rolled r FULL JOIN fresh f ON f.operation = r.operation
          LEFT JOIN exact e ON e.operation = f.operation LEFT JOIN merged m ON m.operation = r.operation) w;
END $$;
COMMENT ON FUNCTION pgvigil.performance_window(interval) IS
    'Calls, durations (milliseconds) and success of each operation over a stretch of at most 26 hours up to now, '
    'begun minutes whole';

-- The documents of analytics_aggregations, one function a type: those of whole buckets between two times. No standard
-- SQL bodies: those would stop the application from altering columns of its own tables.
CREATE FUNCTION pgvigil.session_stats(width interval, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (time_bucket timestamptz, aggregation_data jsonb)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    RETURN QUERY
    WITH made AS MATERIALIZED (
        SELECT date_bin(width, s.created_at, timestamptz '2001-01-01 00:00:00+00') AS bucket, s.status, s.agent_from,
               CASE WHEN isfinite(coalesce(s.last_activity_at, s.updated_at, s.created_at)) AND isfinite(s.created_at)
                    THEN greatest(extract(epoch FROM coalesce(s.last_activity_at, s.updated_at, s.created_at)
                                          - s.created_at),
                                  0) END AS seconds,
               (SELECT count(*) FROM "{app}".context_history c WHERE c.session_id = s.id) AS entries,
               (SELECT count(DISTINCT a.agent)
                FROM (SELECT s.agent_from
                      UNION ALL
                      SELECT s.agent_to
                      UNION ALL
                      SELECT h.requesting_agent FROM "{app}".handoff_requests h WHERE h.session_id = s.id
                      UNION ALL
                      SELECT h.target_agent FROM "{app}".handoff_requests h WHERE h.session_id = s.id) a (agent)
               ) AS agents
        FROM "{app}".sessions s WHERE s.created_at >= from_time AND s.created_at < to_time
    )
    SELECT t.bucket,
           jsonb_build_object(
               'total_sessions', t.sessions, 'sessions_by_status', st.counts, 'sessions_by_agent', ag.counts,
               'avg_duration', round(t.seconds, 3), 'avg_context_volume', round(t.entries, 3),
               'avg_participants', round(t.agents, 3))
    FROM (SELECT m.bucket, count(*) AS sessions, avg(m.seconds) AS seconds, avg(m.entries) AS entries,
                 avg(m.agents) AS agents
          FROM made m GROUP BY m.bucket) t
    JOIN (SELECT c.bucket, jsonb_object_agg(c.status, c.n) AS counts
          FROM (SELECT m.bucket, m.status, count(*) AS n FROM made m GROUP BY m.bucket, m.status) c
          GROUP BY c.bucket) st ON st.bucket = t.bucket
    JOIN (SELECT c.bucket, jsonb_object_agg(c.agent_from, c.n) AS counts
          FROM (SELECT m.bucket, m.agent_from, count(*) AS n FROM made m GROUP BY m.bucket, m.agent_from) c
          GROUP BY c.bucket) ag ON ag.bucket = t.bucket;
END $$;
COMMENT ON FUNCTION pgvigil.session_stats(interval, timestamptz, timestamptz) IS
    'Sessions by the time of their creation, as they are now: durations '
    'in seconds, volume in context entries, participants in agents';

CREATE FUNCTION pgvigil.handoff_stats(width interval, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (time_bucket timestamptz, aggregation_data jsonb)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    RETURN QUERY
    WITH routes AS MATERIALIZED (
        SELECT date_bin(width, h.created_at, timestamptz '2001-01-01 00:00:00+00') AS bucket,
               h.requesting_agent || '->' || coalesce(h.target_agent, '') AS route, count(*) AS requests,
               count(*) FILTER (WHERE h.status = ANY ('{accepted,completed}'::text[])) AS successful,
               count(*) FILTER (WHERE h.status = 'rejected') AS failed,
               sum(greatest(extract(epoch FROM h.completed_at - h.created_at), 0))
                   FILTER (WHERE isfinite(h.completed_at) AND isfinite(h.created_at)) AS seconds,
               count(*) FILTER (WHERE isfinite(h.completed_at) AND isfinite(h.created_at)) AS ended
        FROM "{app}".handoff_requests h WHERE h.created_at >= from_time AND h.created_at < to_time GROUP BY 1, 2
    )
    SELECT r.bucket,
           jsonb_build_object('total', sum(r.requests), 'successful', sum(r.successful), 'failed', sum(r.failed),
               'success_rate', round(sum(r.successful) * 100 / sum(r.requests), 2),
               'avg_duration', round(sum(r.seconds) / nullif(sum(r.ended), 0), 3),
               'routes', jsonb_object_agg(r.route, jsonb_build_object('count', r.requests, 'successful', r.successful)))
    FROM routes r GROUP BY r.bucket;
END $$;
COMMENT ON FUNCTION pgvigil.handoff_stats(interval, timestamptz, timestamptz) IS
    'Hand-off requests by the time they were made, as they are now: accepted '
    'and completed ones succeeded, rejected ones failed; durations in seconds';

CREATE FUNCTION pgvigil.performance_trends(width interval, from_time timestamptz, to_time timestamptz)
RETURNS TABLE (time_bucket timestamptz, aggregation_data jsonb)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    tail uuid;
BEGIN
    SELECT next_id INTO STRICT tail FROM pgvigil.rollup_progress;
    RETURN QUERY
    SELECT b.bucket, jsonb_build_object('operations', jsonb_object_agg(b.operation, jsonb_build_object(
               'count', b.calls, 'avg', round(b.total_ms / b.calls, 3), 'min', b.min_ms, 'max', b.max_ms,
               'p95',
               round(least(b.max_ms,
                           greatest(b.min_ms, pgvigil.histogram_quantile(b.histogram, b.calls, 0.95)))::numeric,
                     3),
               'successful', b.successful, 'failed', b.calls - b.successful,
               'success_rate', round(b.successful * 100.0 / b.calls, 2))))
    FROM (SELECT date_bin(width, p.time_bucket, timestamptz '2001-01-01 00:00:00+00') AS bucket, p.operation,
                 sum(p.calls)::bigint AS calls, sum(p.successful)::bigint AS successful, sum(p.total_ms) AS total_ms,
                 min(p.min_ms) AS min_ms, max(p.max_ms) AS max_ms, sum(p.histogram) AS histogram
          FROM (SELECT r.time_bucket, r.operation, r.calls, r.successful, r.total_ms, r.min_ms, r.max_ms, r.histogram
                FROM pgvigil.performance_rollups r
                WHERE r.bucket_width = 'hour' AND r.time_bucket >= from_time AND r.time_bucket < to_time
                UNION ALL
                SELECT l.*
                FROM pgvigil.histogram_performance_logs(tail, 'ffffffff-ffff-ffff-ffff-ffffffffffff', from_time) l
                WHERE l.time_bucket < to_time) p
          -- Of a bucket older than the rollups nothing is left but late rows: its document stays as it is.
          WHERE p.time_bucket >= now() - interval '99 days'
          GROUP BY 1, 2) b
    GROUP BY b.bucket;
END $$;
COMMENT ON FUNCTION pgvigil.performance_trends(interval, timestamptz, timestamptz) IS
    'Operations by the time they happened, from the rollups and the rows not yet rolled up: durations in milliseconds';

-- Documents are computed again from the rows, so doing it twice, or with late rows, does no harm.
CREATE FUNCTION pgvigil.aggregate_analytics(type text, from_time timestamptz, to_time timestamptz) RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    origin  CONSTANT timestamptz := '2001-01-01 00:00:00+00';
    width   interval;
    written bigint;
    total   bigint := 0;
BEGIN
    IF (type = ANY ('{session_stats,handoff_stats,performance_trends}'::text[])) IS NOT TRUE THEN
        RAISE EXCEPTION 'there is no aggregation type %', coalesce(type, 'NULL')
            USING ERRCODE = 'invalid_parameter_value',
              HINT = 'It is session_stats, handoff_stats or performance_trends.';
    END IF;
    PERFORM pgvigil.require_all_rows();
    FOREACH width IN ARRAY '{1 hour,1 day}'::interval[] LOOP
        EXECUTE format('INSERT INTO %s AS a (aggregation_type, bucket_width, time_bucket, aggregation_data, origin)
                        SELECT $1, $2, d.time_bucket, d.aggregation_data, ''pgvigil'' FROM pgvigil.%I($3, $4, $5) d
                        ON CONFLICT (aggregation_type, time_bucket, bucket_width) WHERE origin = ''pgvigil'' DO UPDATE
                        SET aggregation_data = excluded.aggregation_data, created_at = now()
                        WHERE a.aggregation_data IS DISTINCT FROM excluded.aggregation_data',
                            pgvigil.application_table('analytics_aggregations'), type)
        USING type, CASE width WHEN interval '1 day' THEN 'day' ELSE 'hour' END, width,
              date_bin(width, from_time, origin), date_bin(width, to_time - interval '1 microsecond', origin) + width;
        GET DIAGNOSTICS written = ROW_COUNT;
        total := total + written;
    END LOOP;
    RETURN total;
END $$;
COMMENT ON FUNCTION pgvigil.aggregate_analytics(text, timestamptz, timestamptz) IS
    'Writes the hours and days between two times into analytics_aggregations; '
    'returns how many documents are new or other than before';

CREATE FUNCTION pgvigil.job_aggregation(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last_time timestamptz;
    -- Hours before the present one are computed again, with the rows that came late. Two days for sessions that go on.
    earliest  timestamptz;
BEGIN
    -- The rollup holds this row too, so every rollup changed before this moment is visible below.
    SELECT published_at INTO STRICT last_time FROM pgvigil.rollup_progress FOR UPDATE;
    UPDATE pgvigil.rollup_progress SET published_at = clock_timestamp();
    SELECT least(min(time_bucket), now() - interval '1 hour') INTO earliest
    FROM pgvigil.performance_rollups WHERE bucket_width = 'hour' AND changed_at >= last_time;
    done := pgvigil.aggregate_analytics('performance_trends', earliest, now())
          + pgvigil.aggregate_analytics('session_stats',
                                        greatest(last_time, now() - interval '30 days') - interval '2 days',
                                        now())
          + pgvigil.aggregate_analytics('handoff_stats',
                                        greatest(last_time, now() - interval '30 days') - interval '2 days',
                                        now());
    more := false;
    RETURN NEXT;
END $$;

INSERT INTO pgvigil.jobs (job, every, purpose) VALUES
    ('rollup', '5 minutes', 'counts new rows of performance_logs into minutes and hours'),
    ('aggregation', '1 hour', 'writes changes into analytics_aggregations: hours and days of the three types');
