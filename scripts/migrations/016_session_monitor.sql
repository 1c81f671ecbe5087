-- The session monitor of SQLAlchemy applications. Each worker process keeps one row and overwrites it every few seconds
-- with what it has counted since it began, so a report that is lost is made good by the next one. The counts of workers
-- that have ended are added to the totals of their application in the same transaction that deletes their rows: a sum
-- over both never falls. A row belongs to the login that made it, and so do totals: who may report cannot change what
-- another login has reported.

-- A key is a name, or name/pool. The 16 numbers of a histogram: observations up to 14 bounds, those beyond, and the sum
-- in nanoseconds.
CREATE TABLE pgvigil.session_monitors (
    instance_id     uuid NOT NULL CONSTRAINT session_monitors_pkey PRIMARY KEY,
    application     text NOT NULL,
    reported_by     text NOT NULL DEFAULT session_user,
    hostname        text NOT NULL,
    pid             integer NOT NULL,
    started_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    seen_at         timestamptz NOT NULL DEFAULT clock_timestamp(),
    report_interval interval NOT NULL,
    report_number   bigint NOT NULL DEFAULT 0,
    counters        jsonb NOT NULL DEFAULT '{}',
    histograms      jsonb NOT NULL DEFAULT '{}',
    gauges          jsonb NOT NULL DEFAULT '{}',
    CONSTRAINT session_monitors_application_check
        CHECK (application <> '' AND length(application) <= 100 AND length(hostname) <= 255),
    CONSTRAINT session_monitors_report_interval_check
        CHECK (report_interval > interval '0' AND report_interval <= interval '1 hour'),
    CONSTRAINT session_monitors_counters_check CHECK (
        jsonb_typeof(counters) = 'object' AND length(counters::text) <= 100000
        AND NOT counters @? 'strict $.* ? (@.type() != "number" || @ < 0 '
                            '|| @ > 1000000000000000000 || @ != @.floor())'),
    CONSTRAINT session_monitors_histograms_check CHECK (
        jsonb_typeof(histograms) = 'object' AND length(histograms::text) <= 100000
        AND NOT histograms @? 'strict $.* ? (@.type() != "array" || @.size() != 16)'
        AND NOT histograms @? 'strict $.*[*] ? (@.type() != "number" || @ < 0 '
                              '|| @ > 1000000000000000000 || @ != @.floor())'),
    CONSTRAINT session_monitors_gauges_check CHECK (
        jsonb_typeof(gauges) = 'object' AND length(gauges::text) <= 100000
        AND NOT gauges @? 'strict $.* ? (@.type() != "number" && @.type() '
                          '!= "null" || @ < 0 || @ > 1000000000000000000)')
) WITH (fillfactor = 50);
COMMENT ON TABLE pgvigil.session_monitors IS
    'One row per worker process whose SQLAlchemy sessions are monitored: its counts since it began';
COMMENT ON COLUMN pgvigil.session_monitors.instance_id IS 'Made by the worker; a forked child makes its own';
COMMENT ON COLUMN pgvigil.session_monitors.application IS 'Name of the application, as the worker gives it';
COMMENT ON COLUMN pgvigil.session_monitors.reported_by IS
    'The login role that registered the worker: only that one reports for it';
COMMENT ON COLUMN pgvigil.session_monitors.hostname IS 'Host of the worker, as it says';
COMMENT ON COLUMN pgvigil.session_monitors.pid IS 'Process id on that host';
COMMENT ON COLUMN pgvigil.session_monitors.seen_at IS 'Its last report, by the server''s clock';
COMMENT ON COLUMN pgvigil.session_monitors.report_interval IS
    'Time between two reports; after three without one its gauges no longer count';
COMMENT ON COLUMN pgvigil.session_monitors.report_number IS
    'Number of its last report: one that arrives late is ignored';
COMMENT ON COLUMN pgvigil.session_monitors.counters IS
    'Counts that only rise, by name or name/pool; durations are sums in nanoseconds';
COMMENT ON COLUMN pgvigil.session_monitors.histograms IS
    'By name or name/pool: observations per bound (0.5 ms to 30 s), those beyond, sum in nanoseconds';
COMMENT ON COLUMN pgvigil.session_monitors.gauges IS
    'Values of the moment, by name or name/pool; null: this kind of pool has none';
COMMENT ON CONSTRAINT session_monitors_application_check ON pgvigil.session_monitors IS
    'Names fit into labels and lines';
COMMENT ON CONSTRAINT session_monitors_report_interval_check ON pgvigil.session_monitors IS
    'A worker cannot claim to be alive for longer than it is';
COMMENT ON CONSTRAINT session_monitors_counters_check ON pgvigil.session_monitors IS
    'Whole numbers from 0: no report can make the sum fail or fall';
COMMENT ON CONSTRAINT session_monitors_histograms_check ON pgvigil.session_monitors IS
    'Arrays of 16 whole numbers from 0';
COMMENT ON CONSTRAINT session_monitors_gauges_check ON pgvigil.session_monitors IS 'Numbers from 0, or null';

CREATE TABLE pgvigil.session_monitor_totals (
    application  text NOT NULL,
    reported_by  text NOT NULL,
    workers      bigint NOT NULL,
    last_seen_at timestamptz NOT NULL,
    counters     jsonb NOT NULL,
    histograms   jsonb NOT NULL,
    CONSTRAINT session_monitor_totals_pkey PRIMARY KEY (application, reported_by)
);
COMMENT ON TABLE pgvigil.session_monitor_totals IS
    'Counts of the workers that have ended, added up per application and login';
COMMENT ON COLUMN pgvigil.session_monitor_totals.reported_by IS 'The login role of its workers';
COMMENT ON COLUMN pgvigil.session_monitor_totals.workers IS 'How many workers have ended';
COMMENT ON COLUMN pgvigil.session_monitor_totals.last_seen_at IS 'Last report of any of them';

CREATE TABLE pgvigil.monitor_settings (
    application  text NOT NULL,
    reported_by  text NOT NULL,
    log_interval interval NOT NULL,
    changed_at   timestamptz NOT NULL DEFAULT clock_timestamp(),
    changed_by   text NOT NULL DEFAULT session_user,
    CONSTRAINT monitor_settings_pkey PRIMARY KEY (application, reported_by),
    CONSTRAINT monitor_settings_log_interval_check
        CHECK (log_interval >= interval '1 second' AND log_interval <= interval '1 day')
);
COMMENT ON TABLE pgvigil.monitor_settings IS
    'Applications whose workers write a summary to their log at an interval; set by set_monitor_logging()';
COMMENT ON COLUMN pgvigil.monitor_settings.reported_by IS 'The login role of its workers';
COMMENT ON COLUMN pgvigil.monitor_settings.log_interval IS 'Time between two summaries of a worker';
COMMENT ON COLUMN pgvigil.monitor_settings.changed_by IS 'The login role that set it';
COMMENT ON CONSTRAINT monitor_settings_log_interval_check ON pgvigil.monitor_settings IS
    'Logs are not flooded, and something is logged every day';

-- Adding up -----------------------------------------------------------------------------------------------------------

CREATE FUNCTION pgvigil.sum_monitors(documents jsonb[]) RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((
        SELECT jsonb_object_agg(k.key, k.value)
        FROM (SELECT e.key,
                     CASE WHEN e.key ~ '^(peak|utilization|busiest)' THEN max((e.value #>> '{}')::numeric)
                          ELSE sum((e.value #>> '{}')::numeric) END AS value
              FROM unnest(documents) d (document) CROSS JOIN LATERAL jsonb_each(d.document) e GROUP BY e.key) k), '{}');
END $$;
COMMENT ON FUNCTION pgvigil.sum_monitors(jsonb[]) IS
    'Counters or gauges of workers, added up by key; of peaks, utilizations '
    'and the busiest process the highest. A null counts as nothing';

CREATE FUNCTION pgvigil.sum_histograms(documents jsonb[]) RETURNS jsonb
LANGUAGE plpgsql
IMMUTABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN coalesce((
        SELECT jsonb_object_agg(h.key, h.bins)
        FROM (SELECT b.key, jsonb_agg(b.value ORDER BY b.place) AS bins
              FROM (SELECT e.key, n.place, sum(n.value::numeric) AS value
                    FROM unnest(documents) d (document) CROSS JOIN LATERAL jsonb_each(d.document) e
                    CROSS JOIN LATERAL jsonb_array_elements_text(e.value) WITH ORDINALITY n (value, place)
                    GROUP BY e.key, n.place) b
              GROUP BY b.key) h), '{}');
END $$;
COMMENT ON FUNCTION pgvigil.sum_histograms(jsonb[]) IS 'Histograms of workers, added up place by place';

-- Deleting and adding is one statement: a reader sees a worker in its row or in the totals, never in both or neither.
-- Totals are locked in order, so that two sessions that fold at once cannot wait for each other.
CREATE FUNCTION pgvigil.fold_monitors(ended uuid[]) RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    WITH gone AS (DELETE FROM pgvigil.session_monitors m WHERE m.instance_id = ANY (ended) RETURNING m.*)
    INSERT INTO pgvigil.session_monitor_totals AS t (application, reported_by, workers, last_seen_at, counters,
                                                     histograms)
    SELECT g.application, g.reported_by, count(*), max(g.seen_at), pgvigil.sum_monitors(array_agg(g.counters)),
           pgvigil.sum_histograms(array_agg(g.histograms))
    FROM gone g GROUP BY g.application, g.reported_by ORDER BY g.application, g.reported_by
    ON CONFLICT (application, reported_by) DO UPDATE
    SET workers = t.workers + excluded.workers, last_seen_at = greatest(t.last_seen_at, excluded.last_seen_at),
        counters = pgvigil.sum_monitors(ARRAY[t.counters, excluded.counters]),
        histograms = pgvigil.sum_histograms(ARRAY[t.histograms, excluded.histograms]);
END $$;
COMMENT ON FUNCTION pgvigil.fold_monitors(uuid[]) IS
    'Adds the counts of these workers to the totals of their applications and deletes their rows';

-- For workers ---------------------------------------------------------------------------------------------------------

-- The row begins without counts: to register again, after an answer that was lost, counts nothing twice, even if the
-- row was folded meanwhile.
CREATE FUNCTION pgvigil.register_monitor(instance uuid, application text, hostname text, pid integer,
                                         report_interval interval)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    -- All readers add up all rows: one login must not make that slow.
    IF (SELECT count(*) FROM pgvigil.session_monitors m WHERE m.reported_by = session_user) >= 10000 THEN
        RAISE EXCEPTION 'role % has 10000 workers registered, which is the limit', session_user
            USING ERRCODE = 'program_limit_exceeded',
              HINT = 'Workers that end by close() leave no row; the rows of others are folded after an hour.';
    END IF;
    IF (SELECT count(*) FROM (SELECT m.application FROM pgvigil.session_monitors m WHERE m.reported_by = session_user
                              UNION SELECT t.application
                              FROM pgvigil.session_monitor_totals t
                              WHERE t.reported_by = session_user
                              UNION SELECT register_monitor.application) a) > 50 THEN
        RAISE EXCEPTION 'role % has reported 50 applications, which is the limit', session_user
            USING ERRCODE = 'program_limit_exceeded',
              HINT =
                  'An application keeps its name from run to run. Rows that are of no use: DELETE '
                  'FROM pgvigil.session_monitor_totals WHERE application = ...; as pgvigil_admin.';
    END IF;
    INSERT INTO pgvigil.session_monitors (instance_id, application, hostname, pid, report_interval)
    VALUES (instance, register_monitor.application, register_monitor.hostname, register_monitor.pid,
            register_monitor.report_interval)
    ON CONFLICT (instance_id) DO NOTHING;
END $$;
COMMENT ON FUNCTION pgvigil.register_monitor(uuid, text, text, integer, interval) IS
    'A worker begins to report: its id, application, host, '
    'process and interval. Again with the same id changes nothing';

CREATE FUNCTION pgvigil.report_monitor(instance uuid, report_number bigint, counters jsonb, histograms jsonb,
                                       gauges jsonb, ended boolean DEFAULT false)
RETURNS TABLE (known boolean, log_interval interval)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    worker record;
BEGIN
    UPDATE pgvigil.session_monitors m
    SET seen_at = clock_timestamp(), report_number = report_monitor.report_number, counters = report_monitor.counters,
        histograms = report_monitor.histograms, gauges = report_monitor.gauges
    WHERE m.instance_id = instance AND m.reported_by = session_user AND m.report_number < report_monitor.report_number;
    known := FOUND;
    SELECT m.application, m.reported_by INTO worker FROM pgvigil.session_monitors m WHERE m.instance_id = instance;
    IF NOT known AND FOUND THEN
        IF worker.reported_by <> session_user THEN
            RAISE EXCEPTION 'worker % was registered by %, and % cannot report for it', instance, worker.reported_by,
                session_user
                  USING ERRCODE = 'insufficient_privilege', HINT = 'Register a worker of your own.';
        END IF;
        known := true;  -- a late report: its numbers are known already
    END IF;
    log_interval := (SELECT s.log_interval
                     FROM pgvigil.monitor_settings s
                     WHERE s.application = worker.application AND s.reported_by = session_user);
    PERFORM pgvigil.fold_monitors(f.ids)
    FROM (SELECT array_agg(o.instance_id) AS ids
          FROM (SELECT m.instance_id FROM pgvigil.session_monitors m
                WHERE m.seen_at < clock_timestamp() - interval '1 hour' - 3 * m.report_interval
                  OR known AND ended AND m.instance_id = instance
                ORDER BY m.instance_id = instance DESC LIMIT 100 FOR UPDATE SKIP LOCKED) o) f
    WHERE f.ids IS NOT NULL;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.report_monitor(uuid, bigint, jsonb, jsonb, jsonb, boolean) IS
    'A worker''s counts since it began, and its gauges. Not known: its row was folded, '
    'because it was not seen for an hour, and it has to register again under another id '
    'with what it counted since. Answers the interval at which it is to log its summary';

-- The login of an application sets this for its workers; an admin for those of all logins.
CREATE FUNCTION pgvigil.set_monitor_logging(application text, log_interval interval) RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    logins text[] := ARRAY(
        SELECT m.reported_by FROM pgvigil.session_monitors m
        WHERE m.application = set_monitor_logging.application AND instrumentation.speaks_for(m.reported_by)
        UNION
        SELECT t.reported_by FROM pgvigil.session_monitor_totals t
        WHERE t.application = set_monitor_logging.application AND instrumentation.speaks_for(t.reported_by)
        ORDER BY 1);
BEGIN
    IF set_monitor_logging.log_interval IS NULL THEN
        DELETE FROM pgvigil.monitor_settings s
        WHERE s.application = set_monitor_logging.application AND s.reported_by = ANY (logins);
    ELSE
        INSERT INTO pgvigil.monitor_settings (application, reported_by, log_interval)
        SELECT set_monitor_logging.application, l.login, set_monitor_logging.log_interval FROM unnest(logins) l (login)
        ON CONFLICT (application, reported_by) DO UPDATE
        SET log_interval = excluded.log_interval, changed_at = clock_timestamp(), changed_by = session_user;
    END IF;
    RETURN cardinality(logins);
END $$;
COMMENT ON FUNCTION pgvigil.set_monitor_logging(text, interval) IS
    'Workers of this application log their summary at this interval (NULL: no '
    'longer); returns for how many logins it was set, 0: no worker of it has reported';

-- For readers ---------------------------------------------------------------------------------------------------------

CREATE VIEW pgvigil.session_monitor AS
SELECT r.application, r.reported_by, count(*) FILTER (WHERE r.alive) AS workers, max(r.seen_at) AS last_seen_at,
       pgvigil.sum_monitors(array_agg(r.counters)) AS counters,
       pgvigil.sum_histograms(array_agg(r.histograms)) AS histograms,
       pgvigil.sum_monitors(array_agg(r.gauges) FILTER (WHERE r.alive)) AS gauges
FROM (SELECT m.application, m.reported_by, m.seen_at, m.counters, m.histograms, m.gauges,
             m.seen_at > clock_timestamp() - 3 * m.report_interval AS alive
      FROM pgvigil.session_monitors m
      UNION ALL
      SELECT t.application, t.reported_by, t.last_seen_at, t.counters, t.histograms, '{}'::jsonb, false AS alive
      FROM pgvigil.session_monitor_totals t) r
GROUP BY r.application, r.reported_by;
COMMENT ON VIEW pgvigil.session_monitor IS
    'Counts of the workers of each application and login, ended ones included; '
    'workers and gauges are of those seen within three of their intervals';

-- An application that may report may see what came of it, so that its own command line needs no other login.
CREATE FUNCTION pgvigil.own_session_monitor() RETURNS SETOF pgvigil.session_monitor
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY SELECT v.* FROM pgvigil.session_monitor v WHERE v.reported_by = session_user;
END $$;
COMMENT ON FUNCTION pgvigil.own_session_monitor() IS
    'The rows of session_monitor that workers of this login have reported';

-- Rights of the roles. A role that is missing is left out, as in 013.
DO $$
DECLARE
    role_name text;
BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN
        ALTER VIEW pgvigil.session_monitor SET (security_invoker = true);
    END IF;
    FOR role_name IN
        SELECT r.rolname
        FROM pg_roles r
        WHERE r.rolname = ANY ('{pgvigil_reader,pgvigil_admin}'::name[]) LOOP
        EXECUTE format('GRANT SELECT ON pgvigil.session_monitors, pgvigil.session_monitor_totals,
                       pgvigil.monitor_settings, pgvigil.session_monitor TO %I', role_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION pgvigil.sum_monitors(jsonb[]), pgvigil.sum_histograms(jsonb[]) TO %I',
                       role_name);
    END LOOP;
    FOR role_name IN
        SELECT r.rolname
        FROM pg_roles r
        WHERE r.rolname = ANY ('{pgvigil_writer,pgvigil_admin}'::name[]) LOOP
        EXECUTE format('GRANT EXECUTE ON FUNCTION pgvigil.register_monitor(uuid, text, text, integer, interval),
            pgvigil.report_monitor(uuid, bigint, jsonb, jsonb, jsonb, boolean),
            pgvigil.set_monitor_logging(text, interval), pgvigil.own_session_monitor() TO %I', role_name);
    END LOOP;
    IF EXISTS (SELECT FROM pg_roles r WHERE r.rolname = 'pgvigil_admin') THEN
        GRANT DELETE ON pgvigil.session_monitor_totals TO pgvigil_admin;
    END IF;
END $$;
