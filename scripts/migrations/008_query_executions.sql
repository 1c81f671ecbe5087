-- Queries that an application sends to query engines of any kind: one row an execution. A plain table, not a
-- partitioned one: execution_id is unique over all time, so that a row that is sent again, from a spill or by a client
-- that got no answer, is stored once; and a unique constraint of a partitioned table must contain the partition key.
-- Ids made by pgvigil are time-ordered, as are id and started_at: inserts meet the right edge of each index, and job
-- executions deletes from the left, a batch at a time.

-- As in 002: a table that has a name of ours is moved aside whole.
DO $$
DECLARE
    found record;
BEGIN
    FOR found IN
        SELECT c.relname AS name, c.relkind IN ('v', 'm') AS is_view FROM pg_class c
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = pgvigil.application_schema())
          AND c.relname = ANY ('{query_executions,execution_analytics,user_recent_executions}'::name[])
        ORDER BY c.relkind IN ('v', 'm') DESC, c.relname
    LOOP
        EXECUTE format('ALTER TABLE %I.%I SET SCHEMA pgvigil', pgvigil.application_schema(), found.name);
        EXECUTE format('ALTER TABLE pgvigil.%I RENAME TO %I', found.name, 'legacy_' || found.name);
        INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql)
        VALUES ('008', 'relation ' || found.name,
                format('ALTER TABLE IF EXISTS pgvigil.%2$I RENAME TO %1$I;
                        ALTER TABLE IF EXISTS pgvigil.%1$I SET SCHEMA %3$I', found.name, 'legacy_' || found.name,
                            pgvigil.application_schema()));
        IF NOT found.is_view AND found.name = 'query_executions' THEN
            INSERT INTO pgvigil.displaced_tables (table_name) VALUES (found.name);
        END IF;
    END LOOP;
END $$;

CREATE TABLE "{app}".query_executions (
    id                bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT query_executions_pkey PRIMARY KEY,
    execution_id      varchar(100) NOT NULL CONSTRAINT query_executions_execution_id_key UNIQUE,
    user_id           varchar(100),
    conversation_id   varchar(100),
    query             text NOT NULL,
    database_type     varchar(50) NOT NULL,
    query_complexity  varchar(20) CONSTRAINT query_executions_query_complexity_check
                      CHECK (query_complexity::text = ANY ('{SINGLE_LINE,MULTI_LINE}'::text[])),
    status            varchar(20) NOT NULL CONSTRAINT query_executions_status_check
                      CHECK (status::text = ANY ('{success,failed,timeout,error}'::text[])),
    execution_time    double precision CONSTRAINT query_executions_execution_time_check
                      CHECK (execution_time >= 0 AND execution_time < 'Infinity'::double precision),
    total_rows        bigint,
    returned_rows     bigint,
    page              integer DEFAULT 0,
    page_size         integer DEFAULT 100,
    error_message     text,
    error_type        varchar(100),
    started_at        timestamptz NOT NULL DEFAULT now(),
    completed_at      timestamptz,
    connection_params jsonb NOT NULL DEFAULT '{}',
    request_metadata  jsonb NOT NULL DEFAULT '{}',
    response_metadata jsonb NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE "{app}".query_executions IS 'One row per query that an application ran, on any query engine';
COMMENT ON COLUMN "{app}".query_executions.execution_id IS
    'Made by the client that ran the query; a row that is sent twice is stored once';
COMMENT ON COLUMN "{app}".query_executions.user_id IS 'For whom it ran; NULL: for nobody in particular';
COMMENT ON COLUMN "{app}".query_executions.conversation_id IS 'The conversation of the application';
COMMENT ON COLUMN "{app}".query_executions.query IS
    'Its text; literals are ? where the tracker is set to leave them out';
COMMENT ON COLUMN "{app}".query_executions.database_type IS 'The engine: postgresql, mysql, mongodb, ...';
COMMENT ON COLUMN "{app}".query_executions.query_complexity IS 'SINGLE_LINE or MULTI_LINE';
COMMENT ON COLUMN "{app}".query_executions.status IS
    'success; failed: the engine refused it; timeout; error: it '
    'came to no answer for another reason, also by being cancelled';
COMMENT ON COLUMN "{app}".query_executions.execution_time IS 'Seconds';
COMMENT ON COLUMN "{app}".query_executions.total_rows IS 'Rows of the whole result';
COMMENT ON COLUMN "{app}".query_executions.returned_rows IS 'Rows handed over';
COMMENT ON COLUMN "{app}".query_executions.page IS 'Page of the result that was asked for, from 0';
COMMENT ON COLUMN "{app}".query_executions.page_size IS 'Rows of a page';
COMMENT ON COLUMN "{app}".query_executions.error_message IS 'The error, without passwords';
COMMENT ON COLUMN "{app}".query_executions.error_type IS 'Class of the exception';
COMMENT ON COLUMN "{app}".query_executions.connection_params IS 'How it was reached, without secrets';
COMMENT ON COLUMN "{app}".query_executions.request_metadata IS 'Details of the request, without secrets';
COMMENT ON COLUMN "{app}".query_executions.response_metadata IS 'Details of the response, without secrets';
COMMENT ON CONSTRAINT query_executions_execution_id_key ON "{app}".query_executions IS
    'An execution is stored once, however often it is sent';
COMMENT ON CONSTRAINT query_executions_query_complexity_check ON "{app}".query_executions IS 'The kinds there are';
COMMENT ON CONSTRAINT query_executions_status_check ON "{app}".query_executions IS 'How an execution can end';
COMMENT ON CONSTRAINT query_executions_execution_time_check ON "{app}".query_executions IS
    'Time does not run backwards, and one NaN would poison every average';

CREATE INDEX idx_query_executions_user_started_at ON "{app}".query_executions (user_id, started_at DESC, id DESC);
CREATE INDEX idx_query_executions_started_at ON "{app}".query_executions (started_at DESC, id DESC);
COMMENT ON INDEX "{app}".idx_query_executions_user_started_at IS 'The executions of a user, newest first, page by page';
COMMENT ON INDEX "{app}".idx_query_executions_started_at IS
    'All users, newest first, page by page; and what is past its time';

CREATE VIEW "{app}".execution_analytics AS
SELECT e.user_id, e.database_type, e.status, (e.started_at AT TIME ZONE 'UTC')::date AS execution_date,
       count(*) AS execution_count, avg(e.execution_time) AS avg_execution_time,
       max(e.execution_time) AS max_execution_time, min(e.execution_time) AS min_execution_time,
       coalesce(sum(e.total_rows), 0)::bigint AS total_rows_processed,
       count(*) FILTER (WHERE e.status = 'success') AS success_count,
       count(*) FILTER (WHERE e.status = 'failed') AS failed_count,
       count(*) FILTER (WHERE e.status = 'error') AS error_count,
       count(*) FILTER (WHERE e.status = 'timeout') AS timeout_count
FROM "{app}".query_executions e
GROUP BY e.user_id, e.database_type, e.status, (e.started_at AT TIME ZONE 'UTC')::date;
COMMENT ON VIEW "{app}".execution_analytics IS 'Executions by user, engine, status and day (UTC); times in seconds';

CREATE VIEW "{app}".user_recent_executions AS
SELECT e.user_id, e.execution_id, e.query, e.database_type, e.status, e.execution_time, e.started_at,
       row_number() OVER (PARTITION BY e.user_id ORDER BY e.started_at DESC, e.id DESC) AS execution_rank
FROM "{app}".query_executions e;
COMMENT ON VIEW "{app}".user_recent_executions IS
    'Executions numbered per user, the newest is 1: ask for a user_id, and execution_rank up to what you need';

DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN
        ALTER VIEW "{app}".execution_analytics SET (security_invoker = true);
        ALTER VIEW "{app}".user_recent_executions SET (security_invoker = true);
    END IF;
END $$;

-- They are logs, and kept as long as those; the rule of job retention.
CREATE FUNCTION pgvigil.job_executions(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept       record;
    executions regclass := pgvigil.application_table('query_executions');
    names      text;
    lacking    text;
BEGIN
    PERFORM pgvigil.require_consent('executions');
    SELECT now() - make_interval(days => k.logs) AS since, k.hold, k.archive INTO kept FROM pgvigil.days_kept() k;
    done := 0;
    IF kept.hold THEN
        note := 'kept: a retention policy that sessions have is under legal hold';
    ELSIF kept.archive THEN
        EXECUTE format('LOCK TABLE %s IN ROW EXCLUSIVE MODE', executions);  -- it gets no further column
        SELECT string_agg(quote_ident(a.attname), ', ' ORDER BY a.attnum),
               string_agg(format('ADD COLUMN %I %s', a.attname, format_type(a.atttypid, a.atttypmod)), ', '
                          ORDER BY a.attnum) FILTER (WHERE w.attname IS NULL)
        INTO names, lacking
        FROM pg_attribute a
        LEFT JOIN pg_attribute w ON w.attrelid = 'pgvigil.executions_to_archive'::regclass
                                AND w.attname = a.attname AND NOT w.attisdropped
        WHERE a.attrelid = executions AND a.attnum > 0 AND NOT a.attisdropped;
        IF lacking IS NOT NULL THEN
            RAISE EXCEPTION
                  'query_executions has columns that pgvigil.executions_to_archive lacks: no row is taken out'
                  USING ERRCODE = 'object_not_in_prerequisite_state',
                        HINT = format('Run: ALTER TABLE pgvigil.executions_to_archive %s;', lacking);
        END IF;
        EXECUTE format('WITH gone AS (
                            DELETE FROM %2$s
                            WHERE id = ANY (ARRAY(SELECT id
                                                  FROM %2$s
                                                  WHERE started_at < $1
                                                  ORDER BY started_at
                                                  LIMIT $2
                                                  FOR UPDATE SKIP LOCKED))
                            RETURNING *
                        )
                        INSERT INTO pgvigil.executions_to_archive (%1$s) SELECT %1$s FROM gone', names, executions)
            USING kept.since, batch;
        GET DIAGNOSTICS done = ROW_COUNT;
    ELSE
        DELETE FROM "{app}".query_executions
        WHERE id = ANY (ARRAY(SELECT id
                              FROM "{app}".query_executions
                              WHERE started_at < kept.since
                              ORDER BY started_at
                              LIMIT batch
                              FOR UPDATE SKIP LOCKED));
        GET DIAGNOSTICS done = ROW_COUNT;
    END IF;
    more := done = batch;
    RETURN NEXT;
END $$;

INSERT INTO pgvigil.jobs (job, every, purpose, needs_consent)
SELECT 'executions', '1 day', 'deletes rows of query_executions that are older than the days of logs', m.baselined
FROM pgvigil.migrations m
WHERE m.revision = '000';
