-- Monitoring tables. The three append-only ones are partitioned by their time-ordered id: id stays a true primary key,
-- each partition is a slice of time, and an insert touches only the small indexes of the newest one.
--
-- The list of event types is the domain's, and the CHECK asks the domain: every statement reads the text of a CHECK
-- again, and a list in it costs an INSERT 8 us more (of 15). The column itself has a plain type, because a view that an
-- application makes itself shows it. The domain is of that same type: a cast in between is read again as well.
CREATE DOMAIN pgvigil.event_type AS varchar(50) CONSTRAINT event_type_check
    CHECK (VALUE::text = ANY ('{created,expired,archived,dormant,reactivated,status_changed,'
                        'expiration_scheduled,deleted}'::text[]));
-- The page on the schema is made of these lines: type, change, and what event_data holds besides actor.
COMMENT ON DOMAIN pgvigil.event_type IS 'Events in the life of a session
created: INSERT; agent_from, agent_to, retention_policy
expired: status becomes expired; previous_status, expired_at, retention_policy
archived: archived_at from NULL; archived_at, final_status
dormant: is_dormant becomes true; previous_state
reactivated: is_dormant becomes false, archived_at becomes NULL; previous_state, unarchived_from
status_changed: status, any other value; old_status, new_status
expiration_scheduled: expires_at, also from and to NULL; expires_at, retention_policy
deleted: DELETE, in pgvigil.deleted_sessions; final_status, retention_policy, reason';

CREATE TABLE "{app}".session_lifecycle (
    id         uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT session_lifecycle_pkey PRIMARY KEY,
    session_id uuid NOT NULL,  -- 004 adds the foreign key, together with everything else that locks sessions
    event_type varchar(50) NOT NULL
        CONSTRAINT session_lifecycle_event_type_check CHECK (event_type::pgvigil.event_type IS NOT NULL),
    event_data jsonb NOT NULL DEFAULT '{}',
    created_at timestamptz NOT NULL DEFAULT clock_timestamp()
) PARTITION BY RANGE (id);
COMMENT ON TABLE "{app}".session_lifecycle IS 'Every change in the life of a session, written by triggers';
COMMENT ON COLUMN "{app}".session_lifecycle.id IS
    'Time-ordered (UUIDv7): the order of events, also within a transaction';
COMMENT ON COLUMN "{app}".session_lifecycle.event_data IS 'Its details, and the actor';
COMMENT ON COLUMN "{app}".session_lifecycle.created_at IS 'When it happened (wall clock, not start of the transaction)';
COMMENT ON CONSTRAINT session_lifecycle_pkey ON "{app}".session_lifecycle IS
    'True primary key, because the table is partitioned by it';

CREATE INDEX idx_session_lifecycle_session_id ON "{app}".session_lifecycle (session_id, id DESC) INCLUDE (event_type);
CREATE INDEX idx_session_lifecycle_event_type ON "{app}".session_lifecycle (event_type, id)
    WHERE event_type <> ALL ('{created,status_changed}'::text[]);
CREATE INDEX idx_session_lifecycle_created_at
    ON "{app}".session_lifecycle USING brin (created_at) WITH (pages_per_range = 32);
COMMENT ON INDEX "{app}".idx_session_lifecycle_session_id IS
    'The trail of a session and its last event, from the index alone';
COMMENT ON INDEX "{app}".idx_session_lifecycle_event_type IS
    'The rare events by kind; the common ones are most of the table, where an index would only cost';
COMMENT ON INDEX "{app}".idx_session_lifecycle_created_at IS 'Events of a stretch of time within a partition';

CREATE TABLE "{app}".system_metrics (
    id           uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT system_metrics_pkey PRIMARY KEY,
    metric_name  varchar(100) NOT NULL,
    metric_value numeric NOT NULL CONSTRAINT system_metrics_metric_value_check CHECK (metric_value <> 'NaN'::numeric),
    metric_type  varchar(50) NOT NULL
                 CONSTRAINT system_metrics_metric_type_check
                     CHECK (metric_type::text = ANY ('{counter,gauge,histogram}'::text[])),
    labels       jsonb NOT NULL DEFAULT '{}'
        CONSTRAINT system_metrics_labels_check CHECK (jsonb_typeof(labels) = 'object'),
    recorded_at  timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (id);
COMMENT ON TABLE "{app}".system_metrics IS 'Measurements of the system, and the markers of installs and migrations';
COMMENT ON COLUMN "{app}".system_metrics.labels IS 'Dimensions of the measurement';
COMMENT ON CONSTRAINT system_metrics_pkey ON "{app}".system_metrics IS
    'True primary key, because the table is partitioned by it';
COMMENT ON CONSTRAINT system_metrics_metric_value_check ON "{app}".system_metrics IS
    'NaN would poison every sum and average';

CREATE INDEX idx_system_metrics_name_recorded_at ON "{app}".system_metrics (metric_name, recorded_at);
CREATE INDEX idx_system_metrics_recorded_at
    ON "{app}".system_metrics USING brin (recorded_at) WITH (pages_per_range = 32);
CREATE INDEX idx_system_metrics_labels ON "{app}".system_metrics USING gin (labels jsonb_path_ops);
COMMENT ON INDEX "{app}".idx_system_metrics_name_recorded_at IS 'One metric over time';
COMMENT ON INDEX "{app}".idx_system_metrics_recorded_at IS 'All metrics of a stretch of time within a partition';
COMMENT ON INDEX "{app}".idx_system_metrics_labels IS 'Finds metrics by label: labels @> ''{...}''';

CREATE TABLE "{app}".performance_logs (
    id          uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT performance_logs_pkey PRIMARY KEY,
    operation   varchar(100) NOT NULL,
    duration_ms integer NOT NULL CONSTRAINT performance_logs_duration_ms_check CHECK (duration_ms >= 0),
    success     boolean NOT NULL,
    session_id  uuid,
    metadata    jsonb NOT NULL DEFAULT '{}',
    created_at  timestamptz NOT NULL DEFAULT now()
) PARTITION BY RANGE (id);
COMMENT ON TABLE "{app}".performance_logs IS 'One row per operation: how long it took and whether it succeeded';
COMMENT ON COLUMN "{app}".performance_logs.session_id IS
    'The session, if there was one: a soft reference, because a foreign key would halve the speed of inserts';
COMMENT ON CONSTRAINT performance_logs_pkey ON "{app}".performance_logs IS
    'True primary key, because the table is partitioned by it';
COMMENT ON CONSTRAINT performance_logs_duration_ms_check ON "{app}".performance_logs IS 'Time does not run backwards';

CREATE INDEX idx_performance_logs_operation ON "{app}".performance_logs (operation) WHERE NOT success;
CREATE INDEX idx_performance_logs_operation_created_at
    ON "{app}".performance_logs USING brin (operation, created_at) WITH (pages_per_range = 32);
CREATE INDEX idx_performance_logs_session_id ON "{app}".performance_logs (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX idx_performance_logs_created_at
    ON "{app}".performance_logs USING brin (created_at) WITH (pages_per_range = 32);
COMMENT ON INDEX "{app}".idx_performance_logs_operation IS
    'Failures of an operation; a full index on operation costs inserts a third of their speed';
COMMENT ON INDEX "{app}".idx_performance_logs_operation_created_at IS 'An operation over time within a partition';
COMMENT ON INDEX "{app}".idx_performance_logs_created_at IS 'Operations of a stretch of time within a partition';

CREATE TABLE "{app}".analytics_aggregations (
    id               uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT analytics_aggregations_pkey PRIMARY KEY,
    aggregation_type varchar(50) NOT NULL,
    time_bucket      timestamptz NOT NULL,
    aggregation_data jsonb NOT NULL,
    created_at       timestamptz NOT NULL DEFAULT now(),
    bucket_width     text NOT NULL DEFAULT 'hour'
        CONSTRAINT analytics_aggregations_bucket_width_check CHECK (bucket_width = ANY ('{hour,day}'::text[])),
    origin           text NOT NULL DEFAULT 'application'
);
-- An application may have aggregations of its own types, and more than one a bucket: only ours are unique.
CREATE UNIQUE INDEX idx_analytics_aggregations_type_time_bucket
    ON "{app}".analytics_aggregations (aggregation_type, time_bucket, bucket_width)
    WHERE origin = 'pgvigil';
COMMENT ON TABLE "{app}".analytics_aggregations IS 'Rolled-up statistics, one row per kind and stretch of time';
COMMENT ON COLUMN "{app}".analytics_aggregations.origin IS 'pgvigil, or application: who wrote it';
COMMENT ON COLUMN "{app}".analytics_aggregations.bucket_width IS 'How long it is: an hour or a day, in UTC';
COMMENT ON INDEX "{app}".idx_analytics_aggregations_type_time_bucket IS 'A kind of statistics over time';

-- A row whose clock is off, or that comes when nobody made a partition in time, still finds a place.
CREATE TABLE "{app}".session_lifecycle_default PARTITION OF "{app}".session_lifecycle DEFAULT;
CREATE TABLE "{app}".system_metrics_default PARTITION OF "{app}".system_metrics DEFAULT;
CREATE TABLE "{app}".performance_logs_default PARTITION OF "{app}".performance_logs DEFAULT;
COMMENT ON TABLE "{app}".session_lifecycle_default IS 'Rows no other partition takes; should be empty';
COMMENT ON TABLE "{app}".system_metrics_default IS 'Rows no other partition takes; should be empty';
COMMENT ON TABLE "{app}".performance_logs_default IS 'Rows no other partition takes; should be empty';

-- Half of all the work: left out by the validator, which loads this only to read it back.
SELECT pgvigil.ensure_partitions(parent_table) FROM pgvigil.partition_policies
WHERE current_setting('pgvigil.only_to_read', true) IS DISTINCT FROM 'on';
