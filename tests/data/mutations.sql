-- Single defects. Each begins with a line "--- its name", says what must be found as "---   kind object", one line each, and
-- then is SQL. "---   perhaps kind pattern" may be found beside it, because it follows. "---   from 15": what older servers do
-- not know. "---   by hand": the repair that comes with the finding does not fix it. Each is applied alone to a clean install,
-- in a transaction that is rolled back. MONTH, DAY and TODAY are replaced by this month's partition of session_lifecycle, today's of
-- performance_logs, and the date; a_stranger is a role; mutate.function and mutate.view, in tests/validate/test_mutations.py, change a
-- definition that is there.

-- ── Tables ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- table dropped
---   missing table analytics_aggregations
DROP TABLE analytics_aggregations;

--- partitioned table dropped, and a view with it
---   missing table performance_logs
DROP TABLE performance_logs CASCADE;

--- application's table dropped
---   missing table codebase_snapshots
DROP TABLE codebase_snapshots;

--- bookkeeping table dropped
---   missing table pgvigil.displaced_tables
DROP TABLE pgvigil.displaced_tables CASCADE;

--- table renamed
---   by hand
---   missing table analytics_aggregations
ALTER TABLE analytics_aggregations RENAME TO analytics;

--- table moved to another schema
---   missing table analytics_aggregations
CREATE SCHEMA elsewhere;
ALTER TABLE analytics_aggregations SET SCHEMA elsewhere;

--- table of ours moved into our schema
---   missing table analytics_aggregations
ALTER TABLE analytics_aggregations SET SCHEMA pgvigil;

--- table unlogged
---   different table analytics_aggregations
ALTER TABLE analytics_aggregations SET UNLOGGED;

--- table of the application unlogged
---   different table codebase_snapshots
ALTER TABLE codebase_snapshots SET UNLOGGED;

--- fillfactor taken away
---   different table sessions
ALTER TABLE sessions RESET (fillfactor);

--- fillfactor changed
---   different table sessions
ALTER TABLE sessions SET (fillfactor = 91);

--- autovacuum off
---   different table pgvigil.deleted_sessions
ALTER TABLE pgvigil.deleted_sessions SET (autovacuum_enabled = off);

--- fillfactor set where there is none
---   different table analytics_aggregations
ALTER TABLE analytics_aggregations SET (fillfactor = 50);

--- another partition key
---   by hand
---   different table performance_logs
---   perhaps * *performance_*
CREATE TABLE other (LIKE performance_logs INCLUDING ALL) PARTITION BY HASH (id);
DROP TABLE performance_logs CASCADE;
ALTER TABLE other RENAME TO performance_logs;

--- no longer partitioned
---   by hand
---   different table performance_logs
---   perhaps * *performance_*
CREATE TABLE other (LIKE performance_logs INCLUDING ALL);
DROP TABLE performance_logs CASCADE;
ALTER TABLE other RENAME TO performance_logs;

--- table replaced by a view
---   by hand
---   different table analytics_aggregations
---   perhaps * *analytics_aggregations*
ALTER TABLE analytics_aggregations RENAME TO analytics;
CREATE VIEW analytics_aggregations AS SELECT * FROM analytics;

--- table replaced by a materialized view
---   by hand
---   different table analytics_aggregations
---   perhaps * *analytics_aggregations*
ALTER TABLE analytics_aggregations RENAME TO analytics;
CREATE MATERIALIZED VIEW analytics_aggregations AS SELECT * FROM analytics;

--- row security switched on
---   unexpected row security of system_metrics
ALTER TABLE system_metrics ENABLE ROW LEVEL SECURITY;

--- row security forced
---   unexpected row security of system_metrics
ALTER TABLE system_metrics FORCE ROW LEVEL SECURITY;

--- row security on one partition
---   different partition MONTH
ALTER TABLE MONTH ENABLE ROW LEVEL SECURITY;

--- policy
---   unexpected policy performance_logs.p
CREATE POLICY p ON performance_logs USING (true);

--- policy on bookkeeping
---   unexpected policy pgvigil.migrations.p
CREATE POLICY p ON pgvigil.migrations FOR SELECT TO pgvigil_reader USING (false);

--- rule
---   unexpected rule analytics_aggregations.r
CREATE RULE r AS ON DELETE TO analytics_aggregations DO INSTEAD NOTHING;

--- rule on a partition
---   unexpected rule MONTH.r
CREATE RULE r AS ON UPDATE TO MONTH DO INSTEAD NOTHING;

--- rule instead of what the application does
---   unexpected rule sessions.r
CREATE RULE r AS ON DELETE TO sessions DO INSTEAD NOTHING;

--- rule on a view
---   unexpected rule session_monitoring_view.r
CREATE RULE r AS ON INSERT TO session_monitoring_view DO INSTEAD NOTHING;

--- replica identity of a table of ours
---   different table analytics_aggregations
ALTER TABLE analytics_aggregations REPLICA IDENTITY NOTHING;

--- child by inheritance
---   unexpected table more
CREATE TABLE more () INHERITS (analytics_aggregations);

--- parent by inheritance
---   by hand
---   different table analytics_aggregations
CREATE TABLE above (aggregation_data jsonb NOT NULL);
ALTER TABLE analytics_aggregations INHERIT above;

--- typed table
---   by hand
---   different table pgvigil.alembic_version
CREATE TYPE public.version AS (version_num varchar(32));
ALTER TABLE pgvigil.alembic_version OF public.version;

--- owner of bookkeeping
---   different table pgvigil.migrations
ALTER TABLE pgvigil.migrations OWNER TO a_stranger;

--- owner of a table of ours in the application's schema
---   different table analytics_aggregations
ALTER TABLE analytics_aggregations OWNER TO a_stranger;

--- owner of a partition
---   different partition MONTH
ALTER TABLE MONTH OWNER TO a_stranger;

--- where rows are kept
---   from 15
---   different table analytics_aggregations
CREATE ACCESS METHOD another_heap TYPE TABLE HANDLER heap_tableam_handler;
ALTER TABLE analytics_aggregations SET ACCESS METHOD another_heap;

--- where rows of partitions to come are kept
---   from 17
---   different table performance_logs
CREATE ACCESS METHOD another_heap TYPE TABLE HANDLER heap_tableam_handler;
ALTER TABLE performance_logs SET ACCESS METHOD another_heap;

--- table nobody asked for
---   unexpected table pgvigil.extra
CREATE TABLE pgvigil.extra (id integer);

--- unlogged copy of ours
---   unexpected table pgvigil.migrations_copy
CREATE UNLOGGED TABLE pgvigil.migrations_copy (LIKE pgvigil.migrations INCLUDING ALL);

--- comment on a table removed
---   missing comment on table system_metrics
COMMENT ON TABLE system_metrics IS NULL;

--- comment on a table changed
---   different comment on table system_metrics
COMMENT ON TABLE system_metrics IS 'Something else';

--- comment on bookkeeping changed
---   different comment on table pgvigil.displaced_objects
COMMENT ON TABLE pgvigil.displaced_objects IS 'Objects a migration found in its way';

-- ── Columns ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- column dropped
---   missing column performance_logs.metadata
ALTER TABLE performance_logs DROP COLUMN metadata;

--- added column dropped
---   missing column context_history.tokens_used
ALTER TABLE context_history DROP COLUMN tokens_used;

--- column dropped, and its index with it
---   missing column context_history.processing_time_ms
ALTER TABLE context_history DROP COLUMN processing_time_ms;

--- column dropped, and much with it
---   missing column sessions.is_dormant
ALTER TABLE sessions DROP COLUMN is_dormant CASCADE;

--- column of the application dropped
---   missing column handoff_requests.target_agent
ALTER TABLE handoff_requests DROP COLUMN target_agent;

--- column renamed
---   missing column system_metrics.metric_value
ALTER TABLE system_metrics RENAME metric_value TO value;

--- column of bookkeeping renamed
---   missing column pgvigil.migrations.tool_version
ALTER TABLE pgvigil.migrations RENAME tool_version TO version;

--- two columns swapped names
---   by hand
---   different column system_metrics.metric_value
---   different column system_metrics.labels
---   perhaps * *system_metrics*
ALTER TABLE system_metrics RENAME metric_value TO swap;
ALTER TABLE system_metrics RENAME labels TO metric_value;
ALTER TABLE system_metrics RENAME swap TO labels;

--- wider type
---   different column context_history.processing_time_ms
ALTER TABLE context_history ALTER processing_time_ms TYPE bigint;

--- longer varchar
---   different column analytics_aggregations.aggregation_type
ALTER TABLE analytics_aggregations ALTER aggregation_type TYPE varchar(60);

--- varchar without a limit
---   different column system_metrics.metric_name
ALTER TABLE system_metrics ALTER metric_name TYPE varchar;

--- varchar to text
---   different column system_metrics.metric_name
ALTER TABLE system_metrics ALTER metric_name TYPE text;

--- text to varchar
---   different column context_history.content
ALTER TABLE context_history ALTER content TYPE varchar(1000);

--- numeric with a scale
---   different column system_metrics.metric_value
ALTER TABLE system_metrics ALTER metric_value TYPE numeric(12,2);

--- time without a zone
---   different column system_metrics.recorded_at
ALTER TABLE system_metrics ALTER recorded_at TYPE timestamp;

--- time to the second
---   different column analytics_aggregations.created_at
ALTER TABLE analytics_aggregations ALTER created_at TYPE timestamptz(0);

--- jsonb to json
---   different column analytics_aggregations.aggregation_data
ALTER TABLE analytics_aggregations ALTER aggregation_data TYPE json;

--- domain instead of its base type
---   different column context_history.tokens_used
CREATE DOMAIN count AS integer CHECK (VALUE >= 0);
ALTER TABLE context_history ALTER tokens_used TYPE count;

--- array instead of an element
---   different column pgvigil.deleted_sessions.reason
ALTER TABLE pgvigil.deleted_sessions ALTER reason TYPE text[] USING ARRAY[reason];

--- NOT NULL taken away from an added column
---   different column sessions.is_dormant
ALTER TABLE sessions ALTER is_dormant DROP NOT NULL;

--- NOT NULL taken away
---   different column performance_logs.success
ALTER TABLE performance_logs ALTER success DROP NOT NULL;

--- NOT NULL taken away from bookkeeping
---   different column pgvigil.tolerated_values.rows_found
ALTER TABLE pgvigil.tolerated_values ALTER rows_found DROP NOT NULL;

--- NOT NULL added
---   different column sessions.agent_to
ALTER TABLE sessions ALTER agent_to SET NOT NULL;

--- NOT NULL added to one partition
---   different column DAY.session_id
ALTER TABLE DAY ALTER session_id SET NOT NULL;

--- NOT NULL not valid
---   from 18
---   invalid column analytics_aggregations.created_at
ALTER TABLE analytics_aggregations ALTER created_at DROP NOT NULL;
ALTER TABLE analytics_aggregations ADD CONSTRAINT analytics_aggregations_created_at_not_null NOT NULL created_at NOT VALID;

--- NOT NULL not inherited
---   from 18
---   different column analytics_aggregations.created_at
ALTER TABLE analytics_aggregations ALTER CONSTRAINT analytics_aggregations_created_at_not_null NO INHERIT;

--- default changed
---   different column sessions.is_dormant
ALTER TABLE sessions ALTER is_dormant SET DEFAULT true;

--- default dropped
---   different column sessions.last_activity_at
ALTER TABLE sessions ALTER last_activity_at DROP DEFAULT;

--- default added
---   different column sessions.archived_at
ALTER TABLE sessions ALTER archived_at SET DEFAULT now();

--- default of the application dropped
---   different column sessions.status
ALTER TABLE sessions ALTER status DROP DEFAULT;

--- default that is nearly the same
---   different column session_lifecycle.created_at
ALTER TABLE session_lifecycle ALTER created_at SET DEFAULT now();

--- default by another function
---   different column system_metrics.id
ALTER TABLE system_metrics ALTER id SET DEFAULT gen_random_uuid();

--- default by a function of the same name elsewhere
---   different column analytics_aggregations.id
CREATE FUNCTION public.uuid_v7() RETURNS uuid LANGUAGE sql RETURN gen_random_uuid();
ALTER TABLE analytics_aggregations ALTER id SET DEFAULT public.uuid_v7();

--- default of another type
---   different column system_metrics.labels
ALTER TABLE system_metrics ALTER labels SET DEFAULT '[]'::jsonb;

--- default of bookkeeping changed
---   different column pgvigil.migrations.applied_by
ALTER TABLE pgvigil.migrations ALTER applied_by SET DEFAULT current_user;

--- identity dropped
---   different column pgvigil.displaced_objects.id
---   perhaps missing sequence of pgvigil.displaced_objects.id
ALTER TABLE pgvigil.displaced_objects ALTER id DROP IDENTITY;

--- identity by default
---   different column pgvigil.displaced_objects.id
ALTER TABLE pgvigil.displaced_objects ALTER id SET GENERATED BY DEFAULT;

--- identity added
---   by hand
---   different column pgvigil.displaced_tables.next_block
---   perhaps unexpected sequence of pgvigil.displaced_tables.next_block
ALTER TABLE pgvigil.displaced_tables ALTER next_block DROP DEFAULT, ALTER next_block ADD GENERATED ALWAYS AS IDENTITY;

--- identity in other steps
---   different sequence of pgvigil.displaced_objects.id
ALTER TABLE pgvigil.displaced_objects ALTER id SET INCREMENT BY 2;

--- identity in the application's schema in other steps
---   different sequence of query_executions.id
ALTER TABLE query_executions ALTER id SET INCREMENT BY 2;

--- identity that a crash sets back
---   from 15
---   different sequence of pgvigil.displaced_objects.id
ALTER SEQUENCE pgvigil.displaced_objects_id_seq SET UNLOGGED;

--- identity with fewer bits
---   different sequence of query_executions.id
ALTER SEQUENCE query_executions_id_seq AS integer;

--- comment on the sequence of an identity
---   unexpected comment on sequence of query_executions.id
COMMENT ON SEQUENCE query_executions_id_seq IS 'mine';

--- identity that goes round
---   different sequence of pgvigil.displaced_objects.id
ALTER TABLE pgvigil.displaced_objects ALTER id SET CYCLE SET MAXVALUE 1000;

--- generated instead of stored
---   different column context_history.tokens_used
ALTER TABLE context_history DROP COLUMN tokens_used;
ALTER TABLE context_history ADD COLUMN tokens_used integer GENERATED ALWAYS AS (length(content)) STORED;

--- generated when read
---   by hand
---   from 18
---   different column context_history.tokens_used
ALTER TABLE context_history DROP COLUMN tokens_used;
ALTER TABLE context_history ADD COLUMN tokens_used integer GENERATED ALWAYS AS (length(content)) VIRTUAL;

--- collation
---   different column system_metrics.metric_name
ALTER TABLE system_metrics ALTER metric_name TYPE varchar(100) COLLATE "C";

--- collation of a column of the application
---   different column context_history.content
ALTER TABLE context_history ALTER content TYPE text COLLATE "POSIX";

--- storage of a column of ours
---   different column session_lifecycle.event_data
ALTER TABLE session_lifecycle ALTER event_data SET STORAGE EXTERNAL;

--- compression of a column of ours
---   different column pgvigil.deleted_sessions.events
ALTER TABLE pgvigil.deleted_sessions ALTER events SET COMPRESSION pglz;

--- column nobody asked for
---   unexpected column system_metrics.extra
ALTER TABLE system_metrics ADD COLUMN extra text;

--- column nobody asked for in bookkeeping
---   unexpected column pgvigil.migrations.extra
ALTER TABLE pgvigil.migrations ADD COLUMN extra text;

--- comment on an added column removed
---   missing comment on column sessions.is_dormant
COMMENT ON COLUMN sessions.is_dormant IS NULL;

--- comment on a column changed
---   different comment on column system_metrics.labels
COMMENT ON COLUMN system_metrics.labels IS 'Labels';

-- ── Constraints ─────────────────────────────────────────────────────────────────────────────────────────────────────────

--- CHECK dropped
---   missing constraint performance_logs.performance_logs_duration_ms_check
ALTER TABLE performance_logs DROP CONSTRAINT performance_logs_duration_ms_check;

--- CHECK on the application's table dropped
---   missing constraint sessions.sessions_status_check
ALTER TABLE sessions DROP CONSTRAINT sessions_status_check;

--- CHECK narrower
---   different constraint performance_logs.performance_logs_duration_ms_check
ALTER TABLE performance_logs DROP CONSTRAINT performance_logs_duration_ms_check,
    ADD CONSTRAINT performance_logs_duration_ms_check CHECK (duration_ms > 0);

--- CHECK wider
---   different constraint sessions.sessions_status_check
ALTER TABLE sessions DROP CONSTRAINT sessions_status_check, ADD CONSTRAINT sessions_status_check
    CHECK (status::text = ANY ('{active,pending,completed,expired,cancelled,archived,odd}'::text[]));

--- CHECK that lacks a value
---   different constraint handoff_requests.handoff_requests_status_check
ALTER TABLE handoff_requests DROP CONSTRAINT handoff_requests_status_check, ADD CONSTRAINT handoff_requests_status_check
    CHECK (status::text = ANY ('{pending,accepted,rejected}'::text[]));

--- CHECK of a value in another case
---   different constraint analytics_aggregations.analytics_aggregations_bucket_width_check
ALTER TABLE analytics_aggregations DROP CONSTRAINT analytics_aggregations_bucket_width_check,
    ADD CONSTRAINT analytics_aggregations_bucket_width_check CHECK (bucket_width = ANY ('{Hour,day}'::text[]));

--- CHECK on another column
---   different constraint pgvigil.partition_policies.partition_policies_make_ahead_check
ALTER TABLE pgvigil.partition_policies DROP CONSTRAINT partition_policies_make_ahead_check,
    ADD CONSTRAINT partition_policies_make_ahead_check CHECK (length(step) >= 1);

--- CHECK that lets NULL pass as another thing
---   different constraint system_metrics.system_metrics_metric_value_check
ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_metric_value_check,
    ADD CONSTRAINT system_metrics_metric_value_check CHECK (metric_value <> 'NaN'::numeric OR recorded_at IS NULL);

--- CHECK not valid
---   invalid constraint system_metrics.system_metrics_labels_check
ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_labels_check,
    ADD CONSTRAINT system_metrics_labels_check CHECK (jsonb_typeof(labels) = 'object') NOT VALID;

--- CHECK on the application's table not valid
---   invalid constraint context_history.context_history_context_type_check
SELECT pgvigil.drop_value_check('context_history', 'context_type');
SELECT pgvigil.put_value_check('context_history', 'context_type', '{message,file,tool_call,system}', false);

--- CHECK not inherited
---   different constraint analytics_aggregations.analytics_aggregations_bucket_width_check
ALTER TABLE analytics_aggregations DROP CONSTRAINT analytics_aggregations_bucket_width_check,
    ADD CONSTRAINT analytics_aggregations_bucket_width_check CHECK (bucket_width = ANY ('{hour,day}'::text[])) NO INHERIT;

--- CHECK not enforced
---   from 18
---   different constraint system_metrics.system_metrics_labels_check
ALTER TABLE system_metrics DROP CONSTRAINT system_metrics_labels_check,
    ADD CONSTRAINT system_metrics_labels_check CHECK (jsonb_typeof(labels) = 'object') NOT ENFORCED;

--- CHECK renamed
---   missing constraint performance_logs.performance_logs_duration_ms_check
ALTER TABLE performance_logs RENAME CONSTRAINT performance_logs_duration_ms_check TO positive;

--- unique key dropped
---   missing constraint sessions.sessions_session_key_key
ALTER TABLE sessions DROP CONSTRAINT sessions_session_key_key;

--- unique index on fewer columns
---   different index analytics_aggregations.idx_analytics_aggregations_type_time_bucket
DROP INDEX idx_analytics_aggregations_type_time_bucket;
CREATE UNIQUE INDEX idx_analytics_aggregations_type_time_bucket ON analytics_aggregations
    (aggregation_type) WHERE origin = 'pgvigil';

--- unique index with its columns in another order
---   different index analytics_aggregations.idx_analytics_aggregations_type_time_bucket
DROP INDEX idx_analytics_aggregations_type_time_bucket;
CREATE UNIQUE INDEX idx_analytics_aggregations_type_time_bucket ON analytics_aggregations
    (time_bucket, aggregation_type, bucket_width) WHERE origin = 'pgvigil';

--- unique index with another column inside
---   different index analytics_aggregations.idx_analytics_aggregations_type_time_bucket
DROP INDEX idx_analytics_aggregations_type_time_bucket;
CREATE UNIQUE INDEX idx_analytics_aggregations_type_time_bucket ON analytics_aggregations
    (aggregation_type, time_bucket, bucket_width) INCLUDE (created_at) WHERE origin = 'pgvigil';

--- unique index that takes NULLs for equal
---   from 15
---   different index analytics_aggregations.idx_analytics_aggregations_type_time_bucket
DROP INDEX idx_analytics_aggregations_type_time_bucket;
CREATE UNIQUE INDEX idx_analytics_aggregations_type_time_bucket ON analytics_aggregations
    (aggregation_type, time_bucket, bucket_width) NULLS NOT DISTINCT WHERE origin = 'pgvigil';

--- unique index of other rows
---   different index analytics_aggregations.idx_analytics_aggregations_type_time_bucket
DROP INDEX idx_analytics_aggregations_type_time_bucket;
CREATE UNIQUE INDEX idx_analytics_aggregations_type_time_bucket ON analytics_aggregations
    (aggregation_type, time_bucket, bucket_width) WHERE origin <> 'pgvigil';

--- unique key that can be deferred
---   different constraint sessions.sessions_session_key_key
ALTER TABLE sessions DROP CONSTRAINT sessions_session_key_key,
    ADD CONSTRAINT sessions_session_key_key UNIQUE (session_key) DEFERRABLE;

--- primary key dropped, and foreign keys with it
---   missing constraint sessions.sessions_pkey
ALTER TABLE sessions DROP CONSTRAINT sessions_pkey CASCADE;

--- primary key dropped
---   missing constraint analytics_aggregations.analytics_aggregations_pkey
ALTER TABLE analytics_aggregations DROP CONSTRAINT analytics_aggregations_pkey;

--- primary key of bookkeeping dropped
---   missing constraint pgvigil.alembic_version.alembic_version_pkc
ALTER TABLE pgvigil.alembic_version DROP CONSTRAINT alembic_version_pkc;

--- primary key on more columns
---   different constraint session_lifecycle.session_lifecycle_pkey
ALTER TABLE session_lifecycle DROP CONSTRAINT session_lifecycle_pkey,
    ADD CONSTRAINT session_lifecycle_pkey PRIMARY KEY (id, session_id);

--- primary key that became a unique key
---   different constraint pgvigil.migrations.migrations_pkey
ALTER TABLE pgvigil.migrations DROP CONSTRAINT migrations_pkey, ADD CONSTRAINT migrations_pkey UNIQUE (revision);

--- primary key that can be deferred
---   different constraint pgvigil.displaced_tables.displaced_tables_pkey
ALTER TABLE pgvigil.displaced_tables DROP CONSTRAINT displaced_tables_pkey,
    ADD CONSTRAINT displaced_tables_pkey PRIMARY KEY (table_name) DEFERRABLE INITIALLY DEFERRED;

--- index of a unique key invalid
---   invalid constraint sessions.sessions_session_key_key
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'sessions_session_key_key'::regclass;

--- foreign key dropped
---   missing constraint session_lifecycle.session_lifecycle_session_id_fkey
ALTER TABLE session_lifecycle DROP CONSTRAINT session_lifecycle_session_id_fkey;

--- foreign key without its action
---   different constraint context_history.context_history_session_id_fkey
ALTER TABLE context_history DROP CONSTRAINT context_history_session_id_fkey,
    ADD CONSTRAINT context_history_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions (id);

--- foreign key with another action
---   different constraint session_lifecycle.session_lifecycle_session_id_fkey
ALTER TABLE session_lifecycle DROP CONSTRAINT session_lifecycle_session_id_fkey,
    ADD CONSTRAINT session_lifecycle_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE RESTRICT;

--- foreign key with an action on update
---   different constraint handoff_requests.handoff_requests_session_id_fkey
ALTER TABLE handoff_requests DROP CONSTRAINT handoff_requests_session_id_fkey, ADD CONSTRAINT handoff_requests_session_id_fkey
    FOREIGN KEY (session_id) REFERENCES sessions (id) ON UPDATE CASCADE ON DELETE CASCADE;

--- foreign key to be matched in full
---   different constraint handoff_requests.handoff_requests_session_id_fkey
ALTER TABLE handoff_requests DROP CONSTRAINT handoff_requests_session_id_fkey, ADD CONSTRAINT handoff_requests_session_id_fkey
    FOREIGN KEY (session_id) REFERENCES sessions (id) MATCH FULL ON DELETE CASCADE;

--- foreign key to another table
---   different constraint codebase_snapshots.codebase_snapshots_session_id_fkey
ALTER TABLE codebase_snapshots DROP CONSTRAINT codebase_snapshots_session_id_fkey,
    ADD CONSTRAINT codebase_snapshots_session_id_fkey FOREIGN KEY (session_id) REFERENCES context_history (id) ON DELETE CASCADE;

--- foreign key deferred
---   different constraint context_history.context_history_session_id_fkey
ALTER TABLE context_history ALTER CONSTRAINT context_history_session_id_fkey DEFERRABLE INITIALLY DEFERRED;

--- foreign key that can be deferred
---   different constraint session_lifecycle.session_lifecycle_session_id_fkey
ALTER TABLE session_lifecycle ALTER CONSTRAINT session_lifecycle_session_id_fkey DEFERRABLE;

--- foreign key not valid
---   invalid constraint codebase_snapshots.codebase_snapshots_session_id_fkey
ALTER TABLE codebase_snapshots DROP CONSTRAINT codebase_snapshots_session_id_fkey, ADD CONSTRAINT
    codebase_snapshots_session_id_fkey FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE NOT VALID;

--- foreign key not enforced
---   from 18
---   different constraint context_history.context_history_session_id_fkey
ALTER TABLE context_history ALTER CONSTRAINT context_history_session_id_fkey NOT ENFORCED;

--- foreign key that is not checked
---   disabled constraint handoff_requests.handoff_requests_session_id_fkey
ALTER TABLE handoff_requests DISABLE TRIGGER ALL;
ALTER TABLE handoff_requests ENABLE TRIGGER guard_archived_session;
ALTER TABLE handoff_requests ENABLE TRIGGER guard_archived_children;

--- foreign key that does not cascade
---   disabled constraint context_history.context_history_session_id_fkey
UPDATE pg_trigger SET tgenabled = 'D' WHERE tgrelid = 'sessions'::regclass
    AND tgconstraint = (SELECT oid FROM pg_constraint WHERE conname = 'context_history_session_id_fkey');

--- foreign key that is not checked in one partition
---   disabled foreign key of MONTH
ALTER TABLE MONTH DISABLE TRIGGER ALL;

--- CHECK nobody asked for
---   unexpected constraint performance_logs.extra
ALTER TABLE performance_logs ADD CONSTRAINT extra CHECK (operation <> '');

--- foreign key nobody asked for
---   unexpected constraint performance_logs.extra
ALTER TABLE performance_logs ADD CONSTRAINT extra FOREIGN KEY (session_id) REFERENCES sessions (id);

--- unique key nobody asked for
---   unexpected constraint pgvigil.migrations.extra
ALTER TABLE pgvigil.migrations ADD CONSTRAINT extra UNIQUE (name);

--- exclusion constraint nobody asked for
---   unexpected constraint analytics_aggregations.extra
ALTER TABLE analytics_aggregations ADD CONSTRAINT extra EXCLUDE USING btree (aggregation_type WITH =, time_bucket WITH =);

--- constraint trigger nobody asked for
---   unexpected trigger analytics_aggregations.extra
---   perhaps unexpected constraint analytics_aggregations.extra
CREATE CONSTRAINT TRIGGER extra AFTER INSERT ON analytics_aggregations DEFERRABLE INITIALLY DEFERRED
    FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();

--- CHECK on one partition
---   unexpected constraint MONTH.extra
ALTER TABLE MONTH ADD CONSTRAINT extra CHECK (event_type <> 'created') NOT VALID;

--- comment on a constraint removed
---   missing comment on constraint system_metrics.system_metrics_metric_value_check
COMMENT ON CONSTRAINT system_metrics_metric_value_check ON system_metrics IS NULL;

--- comment on a constraint changed
---   different comment on constraint system_metrics.system_metrics_metric_value_check
COMMENT ON CONSTRAINT system_metrics_metric_value_check ON system_metrics IS 'A value is a value';

-- ── Indexes ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- index dropped
---   missing index sessions.idx_sessions_last_activity_at
DROP INDEX idx_sessions_last_activity_at;

--- index of a partitioned table dropped
---   missing index performance_logs.idx_performance_logs_operation
DROP INDEX idx_performance_logs_operation;

--- index renamed
---   missing index context_history.idx_context_history_content_size
ALTER INDEX idx_context_history_content_size RENAME TO content_size;

--- index of a table of ours renamed
---   missing index system_metrics.idx_system_metrics_labels
ALTER INDEX idx_system_metrics_labels RENAME TO by_label;

--- index invalid
---   invalid index sessions.idx_sessions_is_dormant
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sessions_is_dormant'::regclass;

--- index not ready
---   invalid index context_history.idx_context_history_content_size
UPDATE pg_index SET indisready = false WHERE indexrelid = 'idx_context_history_content_size'::regclass;

--- index not live
---   invalid index sessions.idx_sessions_archived_at
UPDATE pg_index SET indislive = false WHERE indexrelid = 'idx_sessions_archived_at'::regclass;

--- index of a partitioned table on no partition
---   invalid index performance_logs.idx_performance_logs_session_id
DROP INDEX idx_performance_logs_session_id;
CREATE INDEX idx_performance_logs_session_id ON ONLY performance_logs (session_id) WHERE session_id IS NOT NULL;

--- index of a partitioned table on one partition only
---   invalid index performance_logs.idx_performance_logs_session_id
DROP INDEX idx_performance_logs_session_id;
CREATE INDEX idx_performance_logs_session_id ON ONLY performance_logs (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX of_day ON DAY (session_id) WHERE session_id IS NOT NULL;
ALTER INDEX idx_performance_logs_session_id ATTACH PARTITION of_day;

--- index invalid on one partition
---   invalid index DAY.of_day
DROP INDEX idx_performance_logs_session_id;
CREATE INDEX of_day ON DAY (session_id) WHERE session_id IS NOT NULL;
CREATE INDEX idx_performance_logs_session_id ON performance_logs (session_id) WHERE session_id IS NOT NULL;
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'of_day'::regclass;

--- index that goes with an extension
---   different index sessions.idx_sessions_is_dormant
ALTER INDEX idx_sessions_is_dormant DEPENDS ON EXTENSION plpgsql;

--- index without its predicate
---   different index sessions.idx_sessions_is_dormant
DROP INDEX idx_sessions_is_dormant;
CREATE INDEX idx_sessions_is_dormant ON sessions (is_dormant);

--- index with another predicate
---   different index sessions.idx_sessions_retention_policy
DROP INDEX idx_sessions_retention_policy;
CREATE INDEX idx_sessions_retention_policy ON sessions (retention_policy) WHERE retention_policy <> 'Standard';

--- index with a predicate turned round
---   different index performance_logs.idx_performance_logs_operation
DROP INDEX idx_performance_logs_operation;
CREATE INDEX idx_performance_logs_operation ON performance_logs (operation) WHERE success;

--- index with a predicate it should not have
---   different index sessions.idx_sessions_status_last_activity
DROP INDEX idx_sessions_status_last_activity;
CREATE INDEX idx_sessions_status_last_activity ON sessions (status, last_activity_at) WHERE archived_at IS NULL;

--- index of another operator class
---   different index system_metrics.idx_system_metrics_labels
DROP INDEX idx_system_metrics_labels;
CREATE INDEX idx_system_metrics_labels ON system_metrics USING gin (labels);

--- index for patterns
---   different index system_metrics.idx_system_metrics_name_recorded_at
DROP INDEX idx_system_metrics_name_recorded_at;
CREATE INDEX idx_system_metrics_name_recorded_at ON system_metrics (metric_name varchar_pattern_ops, recorded_at);

--- index of another collation
---   different index system_metrics.idx_system_metrics_name_recorded_at
DROP INDEX idx_system_metrics_name_recorded_at;
CREATE INDEX idx_system_metrics_name_recorded_at ON system_metrics (metric_name COLLATE "C", recorded_at);

--- index in another direction
---   different index session_lifecycle.idx_session_lifecycle_session_id
DROP INDEX idx_session_lifecycle_session_id;
CREATE INDEX idx_session_lifecycle_session_id ON session_lifecycle (session_id, id) INCLUDE (event_type);

--- index with NULLs at the other end
---   different index sessions.idx_sessions_last_activity_at
DROP INDEX idx_sessions_last_activity_at;
CREATE INDEX idx_sessions_last_activity_at ON sessions (last_activity_at NULLS FIRST);

--- index without what it includes
---   different index session_lifecycle.idx_session_lifecycle_session_id
DROP INDEX idx_session_lifecycle_session_id;
CREATE INDEX idx_session_lifecycle_session_id ON session_lifecycle (session_id, id DESC);

--- index that includes more
---   different index sessions.idx_sessions_last_activity_at
DROP INDEX idx_sessions_last_activity_at;
CREATE INDEX idx_sessions_last_activity_at ON sessions (last_activity_at) INCLUDE (status);

--- index with its columns in another order
---   different index sessions.idx_sessions_status_last_activity
DROP INDEX idx_sessions_status_last_activity;
CREATE INDEX idx_sessions_status_last_activity ON sessions (last_activity_at, status);

--- index on another column
---   different index sessions.idx_sessions_last_activity_at
DROP INDEX idx_sessions_last_activity_at;
CREATE INDEX idx_sessions_last_activity_at ON sessions (updated_at);

--- index on an expression
---   different index performance_logs.idx_performance_logs_operation
DROP INDEX idx_performance_logs_operation;
CREATE INDEX idx_performance_logs_operation ON performance_logs (lower(operation)) WHERE NOT success;

--- index of another method
---   different index performance_logs.idx_performance_logs_created_at
DROP INDEX idx_performance_logs_created_at;
CREATE INDEX idx_performance_logs_created_at ON performance_logs (created_at);

--- index by hash
---   different index sessions.idx_sessions_retention_policy
DROP INDEX idx_sessions_retention_policy;
CREATE INDEX idx_sessions_retention_policy ON sessions USING hash (retention_policy) WHERE retention_policy <> 'standard';

--- index over other stretches
---   by hand
---   different index system_metrics.idx_system_metrics_recorded_at
DROP INDEX idx_system_metrics_recorded_at;
CREATE INDEX idx_system_metrics_recorded_at ON system_metrics USING brin (recorded_at) WITH (pages_per_range = 64);

--- index unique
---   different index sessions.idx_sessions_status_last_activity
DROP INDEX idx_sessions_status_last_activity;
CREATE UNIQUE INDEX idx_sessions_status_last_activity ON sessions (status, last_activity_at);

--- index on another table
---   by hand
---   missing index context_history.idx_context_history_content_size
DROP INDEX idx_context_history_content_size;
CREATE INDEX idx_context_history_content_size ON codebase_snapshots (content_hash);

--- index nobody asked for
---   unexpected index system_metrics.extra
CREATE INDEX extra ON system_metrics (metric_value);

--- unique index nobody asked for
---   unexpected index pgvigil.deleted_sessions.extra
CREATE UNIQUE INDEX extra ON pgvigil.deleted_sessions (session_key);

--- index on one partition
---   unexpected index MONTH.extra
CREATE INDEX extra ON MONTH (created_at);

--- comment on an index removed
---   missing comment on index sessions.idx_sessions_archived_at
COMMENT ON INDEX idx_sessions_archived_at IS NULL;

--- comment on an index changed
---   different comment on index sessions.idx_sessions_archived_at
COMMENT ON INDEX idx_sessions_archived_at IS 'Archived sessions';

-- ── Triggers ────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- trigger dropped
---   missing trigger sessions.log_session_lifecycle
DROP TRIGGER log_session_lifecycle ON sessions;

--- trigger renamed
---   missing trigger sessions."00_archive_deleted_session"
ALTER TRIGGER "00_archive_deleted_session" ON sessions RENAME TO zz_keep_deleted_session;

--- trigger disabled
---   disabled trigger sessions.log_session_lifecycle
ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle;

--- all triggers of a table disabled
---   disabled trigger sessions.update_sessions_last_activity
---   disabled trigger sessions.update_sessions_updated_at
---   disabled trigger sessions.log_session_lifecycle
---   disabled trigger sessions.log_session_lifecycle_created
---   disabled trigger sessions."00_archive_deleted_session"
---   disabled trigger sessions.set_default_expiry
---   disabled trigger sessions.guard_legal_hold
---   disabled trigger sessions.archive_truncated_sessions
---   disabled trigger sessions.guard_policy_hold
---   disabled trigger sessions.watch_session
ALTER TABLE sessions DISABLE TRIGGER USER;

--- trigger on replicas only
---   disabled trigger sessions.update_sessions_updated_at
ALTER TABLE sessions ENABLE REPLICA TRIGGER update_sessions_updated_at;

--- trigger also on replicas
---   different trigger codebase_snapshots.guard_archived_session
ALTER TABLE codebase_snapshots ENABLE ALWAYS TRIGGER guard_archived_session;

--- trigger of fewer columns
---   different trigger sessions.log_session_lifecycle
CREATE OR REPLACE TRIGGER log_session_lifecycle AFTER UPDATE OF status ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.log_session_change();

--- trigger of every column
---   different trigger sessions.update_sessions_last_activity
CREATE OR REPLACE TRIGGER update_sessions_last_activity BEFORE UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.limit_activity_updates();

--- trigger with a condition
---   different trigger sessions.update_sessions_updated_at
CREATE OR REPLACE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions
    FOR EACH ROW WHEN (OLD.status <> 'x') EXECUTE FUNCTION pgvigil.touch_session();

--- trigger of another function
---   different trigger sessions.update_sessions_updated_at
CREATE OR REPLACE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.limit_activity_updates();

--- trigger of a function of the same name elsewhere
---   different trigger sessions.update_sessions_updated_at
CREATE FUNCTION touch_session() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';
CREATE OR REPLACE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION touch_session();

--- trigger with an argument
---   different trigger sessions."00_archive_deleted_session"
CREATE OR REPLACE TRIGGER "00_archive_deleted_session" AFTER DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.archive_deleted_session('x');

--- trigger of fewer events
---   different trigger handoff_requests.guard_archived_session
CREATE OR REPLACE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE ON handoff_requests
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();

--- trigger after instead of before
---   different trigger context_history.guard_archived_session
CREATE OR REPLACE TRIGGER guard_archived_session AFTER UPDATE OR DELETE ON context_history
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();

--- trigger per statement
---   different trigger context_history.guard_archived_session
CREATE OR REPLACE TRIGGER guard_archived_session BEFORE UPDATE OR DELETE ON context_history
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.guard_archived_session();

--- transition table by another name
---   different trigger sessions.log_session_lifecycle_created
CREATE OR REPLACE TRIGGER log_session_lifecycle_created AFTER INSERT ON sessions
    REFERENCING NEW TABLE AS rows FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.log_session_created();

--- transition table gone
---   different trigger sessions.log_session_lifecycle_created
CREATE OR REPLACE TRIGGER log_session_lifecycle_created AFTER INSERT ON sessions
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.log_session_created();

--- trigger deferred
---   different trigger sessions.log_session_lifecycle
---   perhaps unexpected constraint sessions.log_session_lifecycle
DROP TRIGGER log_session_lifecycle ON sessions;
CREATE CONSTRAINT TRIGGER log_session_lifecycle AFTER UPDATE OF status, is_dormant, archived_at, expires_at ON sessions
    DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION pgvigil.log_session_change();

--- trigger that goes with an extension
---   different trigger sessions."00_archive_deleted_session"
ALTER TRIGGER "00_archive_deleted_session" ON sessions DEPENDS ON EXTENSION plpgsql;

--- trigger nobody asked for
---   unexpected trigger analytics_aggregations.extra
CREATE TRIGGER extra BEFORE INSERT ON analytics_aggregations
    FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();

--- trigger nobody asked for, disabled
---   unexpected trigger system_metrics.extra
CREATE TRIGGER extra BEFORE INSERT ON system_metrics FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();
ALTER TABLE system_metrics DISABLE TRIGGER extra;

--- second trigger of one of our functions
---   unexpected trigger sessions.extra
CREATE TRIGGER extra BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION pgvigil.limit_activity_updates();

--- trigger of ours on a table of the application's own
---   unexpected trigger app_notes.extra
CREATE TABLE app_notes (id integer, session_id uuid);
CREATE TRIGGER extra BEFORE INSERT ON app_notes FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();

--- trigger on one partition
---   unexpected trigger DAY.extra
CREATE TRIGGER extra BEFORE UPDATE ON DAY FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();

--- trigger on a view
---   unexpected trigger session_monitoring_view.extra
CREATE TRIGGER extra INSTEAD OF INSERT ON session_monitoring_view
    FOR EACH ROW EXECUTE FUNCTION suppress_redundant_updates_trigger();

--- trigger on TRUNCATE of bookkeeping
---   unexpected trigger pgvigil.deleted_sessions.extra
CREATE TRIGGER extra BEFORE TRUNCATE ON pgvigil.deleted_sessions
    FOR EACH STATEMENT EXECUTE FUNCTION suppress_redundant_updates_trigger();

--- comment on a trigger removed
---   missing comment on trigger sessions."00_archive_deleted_session"
COMMENT ON TRIGGER "00_archive_deleted_session" ON sessions IS NULL;

--- comment on a trigger changed
---   different comment on trigger sessions."00_archive_deleted_session"
COMMENT ON TRIGGER "00_archive_deleted_session" ON sessions IS 'Deletion forgets all';

-- ── Functions ───────────────────────────────────────────────────────────────────────────────────────────────────────────

--- function dropped
---   missing function pgvigil.reactivate_session(uuid)
DROP FUNCTION pgvigil.reactivate_session(uuid);

--- function dropped, and its trigger with it
---   missing function pgvigil.log_session_change()
DROP FUNCTION pgvigil.log_session_change() CASCADE;

--- procedure dropped
---   missing procedure pgvigil.validate_value_checks()
DROP PROCEDURE pgvigil.validate_value_checks();

--- function renamed
---   missing function pgvigil.restore_displaced(text)
ALTER FUNCTION pgvigil.restore_displaced(text) RENAME TO put_it_back;

--- function moved
---   missing function pgvigil.restore_displaced(text)
ALTER FUNCTION pgvigil.restore_displaced(text) SET SCHEMA public;

--- body changed by one character
---   different function pgvigil.touch_session()
SELECT mutate.function('pgvigil.touch_session()', '1 minute', '2 minute');

--- body that does nothing
---   different function pgvigil.limit_activity_updates()
CREATE OR REPLACE FUNCTION pgvigil.limit_activity_updates() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NEW; END';

--- body of a SECURITY DEFINER function changed
---   different function pgvigil.guard_archived_session()
SELECT mutate.function('pgvigil.guard_archived_session()', 'archived IS NULL', 'archived IS NOT NULL');

--- body of a procedure changed
---   different procedure pgvigil.backfill_dormancy(integer)
SELECT mutate.function('pgvigil.backfill_dormancy(integer)', 'COMMIT', 'ROLLBACK');

--- body of an SQL function changed
---   different function pgvigil.actor()
SELECT mutate.function('pgvigil.actor()', 'SESSION_USER', 'CURRENT_USER');

--- policy edited past the function that follows it
---   different function pgvigil.set_default_expiry()
ALTER TABLE pgvigil.retention_policies DISABLE TRIGGER refresh_default_expiry;
UPDATE pgvigil.retention_policies SET active_hours = 30 WHERE policy = 'short';
ALTER TABLE pgvigil.retention_policies ENABLE ALWAYS TRIGGER refresh_default_expiry;

--- body of an SQL function in BEGIN ATOMIC changed
---   different function pgvigil.value_lists()
SELECT mutate.function('pgvigil.value_lists()', 'rejected', 'refused');

--- body of an SQL function as a string
---   different function pgvigil.uuid_v7()
CREATE OR REPLACE FUNCTION pgvigil.uuid_v7() RETURNS uuid LANGUAGE sql VOLATILE PARALLEL SAFE AS 'SELECT gen_random_uuid()';

--- body calls a function of the same name elsewhere
---   different function pgvigil.log_session_created()
SELECT mutate.function('pgvigil.log_session_created()', 'pgvigil.actor()', 'public.actor()');

--- function SECURITY INVOKER
---   different function pgvigil.log_session_change()
ALTER FUNCTION pgvigil.log_session_change() SECURITY INVOKER;

--- function SECURITY DEFINER
---   different function pgvigil.reactivate_session(uuid)
ALTER FUNCTION pgvigil.reactivate_session(uuid) SECURITY DEFINER;

--- search_path of a function gone
---   different function pgvigil.guard_legal_hold()
ALTER FUNCTION pgvigil.guard_legal_hold() RESET search_path;

--- search_path of a function changed
---   different function pgvigil.archive_deleted_session()
ALTER FUNCTION pgvigil.archive_deleted_session() SET search_path = tap, pg_temp;

--- search_path of a function in another order
---   different function pgvigil.archive_deleted_session()
ALTER FUNCTION pgvigil.archive_deleted_session() SET search_path = pg_temp, public;

--- search_path of a function without pg_temp
---   different function pgvigil.log_session_created()
ALTER FUNCTION pgvigil.log_session_created() SET search_path = public;

--- another setting of a function
---   different function pgvigil.touch_session()
ALTER FUNCTION pgvigil.touch_session() SET work_mem = '1GB';

--- another setting of a function that has one
---   different function pgvigil.ensure_partitions(text, timestamp with time zone, timestamp with time zone, integer)
ALTER FUNCTION pgvigil.ensure_partitions(text, timestamptz, timestamptz, integer) SET lock_timeout = 0;

--- volatility
---   different function pgvigil.actor()
ALTER FUNCTION pgvigil.actor() VOLATILE;

--- volatility that breaks ids
---   different function pgvigil.uuid_v7()
ALTER FUNCTION pgvigil.uuid_v7() STABLE;

--- parallel
---   different function pgvigil.uuid_v7()
ALTER FUNCTION pgvigil.uuid_v7() PARALLEL UNSAFE;

--- strict
---   different function pgvigil.uuid_v7_floor(timestamp with time zone)
ALTER FUNCTION pgvigil.uuid_v7_floor(timestamptz) STRICT;

--- leakproof
---   different function pgvigil.uuid_v7_time(uuid)
ALTER FUNCTION pgvigil.uuid_v7_time(uuid) LEAKPROOF;

--- cost
---   different function pgvigil.uuid_v7_floor(timestamp with time zone)
ALTER FUNCTION pgvigil.uuid_v7_floor(timestamptz) COST 100000;

--- function that goes with an extension
---   different function pgvigil.actor()
ALTER FUNCTION pgvigil.actor() DEPENDS ON EXTENSION plpgsql;

--- language
---   different function pgvigil.actor()
CREATE OR REPLACE FUNCTION pgvigil.actor() RETURNS text LANGUAGE plpgsql STABLE PARALLEL SAFE AS
    $$ BEGIN RETURN coalesce(nullif(current_setting('pgvigil.actor', true), ''), session_user::text); END $$;

--- default of an argument changed
---   different procedure pgvigil.copy_legacy_tables(integer)
SELECT mutate.function('pgvigil.copy_legacy_tables(integer)', 'DEFAULT 128', 'DEFAULT 129');

--- default of an argument gone
---   different procedure pgvigil.copy_legacy_tables(integer)
SELECT mutate.function('pgvigil.copy_legacy_tables(integer)', ' DEFAULT 128', '', true);

--- name of an argument
---   different function pgvigil.reactivate_session(uuid)
SELECT mutate.function('pgvigil.reactivate_session(uuid)', '(session uuid)', '(sessions_id uuid)', true);

--- type of an argument
---   missing function pgvigil.mark_initialized(text)
---   unexpected function pgvigil.mark_initialized(character varying)
SELECT mutate.function('pgvigil.mark_initialized(text)', '(schema_version text)', '(schema_version varchar)', true);

--- argument more
---   missing function pgvigil.restore_displaced(text)
---   unexpected function pgvigil.restore_displaced(text, text)
SELECT mutate.function('pgvigil.restore_displaced(text)', '(of_revision text)', '(of_revision text, more text DEFAULT NULL)', true);

--- result
---   different function pgvigil.copy_legacy_rows(text, bigint, bigint)
SELECT mutate.function('pgvigil.copy_legacy_rows(text,bigint,bigint)', 'RETURNS bigint', 'RETURNS integer', true);

--- set of results
---   different function pgvigil.restore_displaced(text)
CREATE OR REPLACE FUNCTION pgvigil.nothing() RETURNS void LANGUAGE sql RETURN NULL;
DROP FUNCTION pgvigil.nothing(), pgvigil.restore_displaced(text);
CREATE FUNCTION pgvigil.restore_displaced(of_revision text) RETURNS SETOF void LANGUAGE plpgsql AS 'BEGIN RETURN; END';
REVOKE EXECUTE ON FUNCTION pgvigil.restore_displaced(text) FROM PUBLIC;
ALTER FUNCTION pgvigil.restore_displaced(text) OWNER TO pgvigil_owner;

--- procedure instead of a function
---   different function pgvigil.mark_initialized(text)
DROP FUNCTION pgvigil.mark_initialized(text);
CREATE PROCEDURE pgvigil.mark_initialized(schema_version text) LANGUAGE sql AS 'SELECT 1';

--- owner of a SECURITY DEFINER function
---   different function pgvigil.log_session_change()
ALTER FUNCTION pgvigil.log_session_change() OWNER TO a_stranger;

--- overload
---   unexpected function pgvigil.reactivate_session(text)
CREATE FUNCTION pgvigil.reactivate_session(text) RETURNS boolean LANGUAGE sql RETURN false;

--- function nobody asked for
---   unexpected function pgvigil.extra()
CREATE FUNCTION pgvigil.extra() RETURNS integer LANGUAGE sql RETURN 1;

--- procedure nobody asked for
---   unexpected procedure pgvigil.extra()
CREATE PROCEDURE pgvigil.extra() LANGUAGE sql AS 'SELECT 1';

--- aggregate nobody asked for
---   unexpected aggregate pgvigil.extra(integer)
CREATE AGGREGATE pgvigil.extra(integer) (SFUNC = int4pl, STYPE = integer);

--- comment on a function removed
---   missing comment on function pgvigil.actor()
COMMENT ON FUNCTION pgvigil.actor() IS NULL;

--- comment on a function changed
---   different comment on function pgvigil.actor()
COMMENT ON FUNCTION pgvigil.actor() IS 'Who acts';

-- ── Views ───────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- view dropped
---   missing view performance_monitoring_view
DROP VIEW performance_monitoring_view;

--- view renamed
---   missing view performance_monitoring_view
ALTER VIEW performance_monitoring_view RENAME TO performance;

--- view with another WHERE
---   different view performance_monitoring_view
SELECT mutate.view('performance_monitoring_view', '24:00:00', '25:00:00');

--- view with another constant
---   different view performance_monitoring_view
SELECT mutate.view('performance_monitoring_view', '24:00:00', '12:00:00');

--- view with another order inside
---   different view session_monitoring_view
SELECT mutate.view('session_monitoring_view', 'DESC', '');

--- view that leaves rows out
---   different view session_monitoring_view
SELECT mutate.view('session_monitoring_view', ';', ' WHERE s.archived_at IS NULL;');

--- view of constants
---   different view performance_monitoring_view
CREATE OR REPLACE VIEW performance_monitoring_view AS SELECT ''::varchar(100) AS operation, 0::bigint AS total_calls,
    0.0 AS avg_duration_ms, 0 AS min_duration_ms, 0 AS max_duration_ms, 0::float8 AS p95_duration_ms,
    0::bigint AS successful_calls, 0::bigint AS failed_calls, 0.0 AS success_rate_percent;

--- view over another table of the same name
---   different view session_monitoring_view
CREATE SCHEMA elsewhere;
CREATE TABLE elsewhere.handoff_requests (LIKE handoff_requests);
SELECT mutate.view('session_monitoring_view', 'FROM handoff_requests', 'FROM elsewhere.handoff_requests');

--- column of a view renamed
---   missing column session_monitoring_view.hours_since_activity
ALTER VIEW session_monitoring_view RENAME COLUMN hours_since_activity TO hours_idle;

--- column of a view added
---   unexpected column performance_monitoring_view.extra
---   perhaps different view performance_monitoring_view
SELECT mutate.view('performance_monitoring_view', ' FROM', ', 1 AS extra FROM');

--- column of a view dropped
---   missing column pgvigil.job_status.purpose
---   perhaps different view pgvigil.job_status
SELECT mutate.view('pgvigil.job_status', 'j.purpose,', '', true);

--- column of a view of another type
---   different column pgvigil.job_status.purpose
---   perhaps different view pgvigil.job_status
SELECT mutate.view('pgvigil.job_status', 'j.purpose,', 'j.purpose::varchar AS purpose,', true);

--- column of a view cut
---   different column session_monitoring_view.status
---   perhaps different view session_monitoring_view
SELECT mutate.view('session_monitoring_view', 'status,', 'status::varchar(10) AS status,', true);

--- column of a view with a default
---   different column session_monitoring_view.status
ALTER VIEW session_monitoring_view ALTER COLUMN status SET DEFAULT 'active';

--- view that reads with its owner's rights
---   from 15
---   different view session_monitoring_view
ALTER VIEW session_monitoring_view RESET (security_invoker);

--- view that says it reads with its owner's rights
---   from 15
---   different view performance_monitoring_view
ALTER VIEW performance_monitoring_view SET (security_invoker = false);

--- view behind a barrier
---   different view session_monitoring_view
ALTER VIEW session_monitoring_view SET (security_barrier = true);

--- owner of a view
---   different view session_monitoring_view
ALTER VIEW session_monitoring_view OWNER TO a_stranger;

--- view replaced by a table
---   by hand
---   different view performance_monitoring_view
---   perhaps * *performance_monitoring_view*
CREATE TABLE copy AS SELECT * FROM performance_monitoring_view;
DROP VIEW performance_monitoring_view;
ALTER TABLE copy RENAME TO performance_monitoring_view;

--- view replaced by a materialized view
---   different view performance_monitoring_view
---   perhaps * *performance_monitoring_view*
CREATE TABLE copy AS SELECT * FROM performance_monitoring_view;
DROP VIEW performance_monitoring_view;
CREATE MATERIALIZED VIEW performance_monitoring_view AS SELECT * FROM copy;
ALTER MATERIALIZED VIEW performance_monitoring_view OWNER TO pgvigil_owner;

--- view nobody asked for
---   unexpected view pgvigil.extra
CREATE VIEW pgvigil.extra AS SELECT 1 AS one;

--- materialized view nobody asked for
---   unexpected view pgvigil.extra
CREATE MATERIALIZED VIEW pgvigil.extra AS SELECT 1 AS one;

--- comment on a view removed
---   missing comment on view session_monitoring_view
COMMENT ON VIEW session_monitoring_view IS NULL;

--- comment on a view changed
---   different comment on view session_monitoring_view
COMMENT ON VIEW session_monitoring_view IS 'One row a session';

-- ── Partitions and rows ─────────────────────────────────────────────────────────────────────────────────────────────────

--- partition detached
---   different partition MONTH
ALTER TABLE session_lifecycle DETACH PARTITION MONTH;

--- partition being detached
---   by hand
---   different partition MONTH
UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'MONTH'::regclass;

--- no partition for now
---   missing partition of performance_logs for TODAY
DROP TABLE DAY;

--- default partition dropped
---   missing partition system_metrics_default
DROP TABLE system_metrics_default;

--- default partition detached
---   different partition session_lifecycle_default
ALTER TABLE session_lifecycle DETACH PARTITION session_lifecycle_default;

--- default partition renamed
---   different partition spare
ALTER TABLE performance_logs_default RENAME TO spare;

--- partition renamed
---   different partition my_month
ALTER TABLE MONTH RENAME TO my_month;

--- partition named after another month
---   by hand
---   different partition session_lifecycle_p209901
ALTER TABLE MONTH RENAME TO session_lifecycle_p209901;

--- partition in another schema
---   by hand
---   different partition elsewhere.MONTH
CREATE SCHEMA elsewhere;
ALTER TABLE MONTH SET SCHEMA elsewhere;

--- partition unlogged
---   different partition MONTH
ALTER TABLE MONTH SET UNLOGGED;

--- partition without autovacuum
---   different partition MONTH
ALTER TABLE MONTH SET (autovacuum_enabled = off);

--- partition with half-empty pages
---   different partition MONTH
ALTER TABLE MONTH SET (fillfactor = 50, autovacuum_vacuum_threshold = 100);

--- partition with another replica identity
---   different partition MONTH
ALTER TABLE MONTH REPLICA IDENTITY FULL;

--- partition whose primary key is invalid
---   invalid constraint MONTH.MONTH_pkey
UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'MONTH_pkey'::regclass;

--- partition over half of its month
---   different partition system_metrics_p209901
CREATE TABLE system_metrics_p209901 PARTITION OF system_metrics FOR VALUES FROM
    (pgvigil.uuid_v7_floor('2099-01-01 00:00+00')) TO (pgvigil.uuid_v7_floor('2099-01-15 00:00+00'));
ALTER TABLE system_metrics_p209901 OWNER TO pgvigil_owner;

--- partition cut in local time
---   different partition performance_logs_p20990101
CREATE TABLE performance_logs_p20990101 PARTITION OF performance_logs FOR VALUES FROM
    (pgvigil.uuid_v7_floor('2099-01-01 00:00+01')) TO (pgvigil.uuid_v7_floor('2099-01-02 00:00+01'));
ALTER TABLE performance_logs_p20990101 OWNER TO pgvigil_owner;

--- partition that is partitioned
---   by hand
---   different partition system_metrics_p209901
CREATE TABLE system_metrics_p209901 PARTITION OF system_metrics FOR VALUES FROM
    (pgvigil.uuid_v7_floor('2099-01-01 00:00+00')) TO (pgvigil.uuid_v7_floor('2099-02-01 00:00+00')) PARTITION BY HASH (id);

--- row that must be there
---   by hand
---   missing row pgvigil.partition_policies (parent_table = performance_logs)
DELETE FROM pgvigil.partition_policies WHERE parent_table = 'performance_logs';

--- ledger set back
---   by hand
---   missing row pgvigil.alembic_version (version_num = 018)
UPDATE pgvigil.alembic_version SET version_num = '003';

--- file that the ledger does not know of
---   by hand
---   missing row pgvigil.migrations (revision = 007)
DELETE FROM pgvigil.migrations WHERE revision = '007';

-- ── Sequences, types and what else a schema may hold ────────────────────────────────────────────────────────────────────

--- sequence nobody asked for
---   unexpected sequence pgvigil.extra
CREATE SEQUENCE pgvigil.extra;

--- cast of a type of ours
---   unexpected other cast (instrumentation.instance_status AS integer)
CREATE FUNCTION app_number(instrumentation.instance_status) RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE CAST (instrumentation.instance_status AS integer) WITH FUNCTION app_number AS ASSIGNMENT;

--- type nobody defined
---   unexpected type pgvigil.shell
CREATE TYPE pgvigil.shell;

--- text search template nobody asked for
---   unexpected other ts_template pgvigil.odd
CREATE TEXT SEARCH TEMPLATE pgvigil.odd (LEXIZE = dsimple_lexize);

--- operator class nobody asked for
---   by hand
---   unexpected other opclass pgvigil.odd USING btree
---   unexpected other opfamily pgvigil.odd USING btree
CREATE OPERATOR CLASS pgvigil.odd FOR TYPE integer USING btree AS OPERATOR 3 =, FUNCTION 1 btint4cmp(integer, integer);

--- sequence nobody asked for, owned by a column
---   unexpected sequence of pgvigil.jobs.job
CREATE SEQUENCE pgvigil.extra;
ALTER SEQUENCE pgvigil.extra OWNER TO pgvigil_owner;
ALTER SEQUENCE pgvigil.extra OWNED BY pgvigil.jobs.job;

--- enum nobody asked for
---   unexpected type pgvigil.mood
CREATE TYPE pgvigil.mood AS ENUM ('good', 'bad');

--- domain nobody asked for
---   unexpected type pgvigil.positive
CREATE DOMAIN pgvigil.positive AS integer CHECK (VALUE > 0);

--- composite type nobody asked for
---   unexpected type pgvigil.pair
CREATE TYPE pgvigil.pair AS (a integer, b integer);

--- range type nobody asked for
---   by hand
---   unexpected type pgvigil.span
---   perhaps unexpected * pgvigil.*
CREATE TYPE pgvigil.span AS RANGE (subtype = float8);

--- operator nobody asked for
---   unexpected operator pgvigil.@@@(integer, integer)
CREATE OPERATOR pgvigil.@@@ (LEFTARG = integer, RIGHTARG = integer, FUNCTION = int4pl);

--- collation nobody asked for
---   unexpected collation pgvigil.odd
CREATE COLLATION pgvigil.odd FROM "C";

--- text search configuration nobody asked for
---   unexpected other ts_config pgvigil.odd
CREATE TEXT SEARCH CONFIGURATION pgvigil.odd (COPY = pg_catalog.simple);

--- extension in our schema
---   unexpected extension fuzzystrmatch
CREATE EXTENSION fuzzystrmatch SCHEMA pgvigil;

--- foreign table in our schema
---   unexpected table pgvigil.extra
CREATE FOREIGN DATA WRAPPER nowhere;
CREATE SERVER nowhere FOREIGN DATA WRAPPER nowhere;
CREATE FOREIGN TABLE pgvigil.extra (id integer) SERVER nowhere;

-- ── Schemas ─────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- schema dropped
---   by hand
---   missing schema pgvigil
---   perhaps * *
DROP SCHEMA pgvigil CASCADE;

--- schema renamed
---   by hand
---   missing schema pgvigil
---   perhaps * *
ALTER SCHEMA pgvigil RENAME TO vigil;

--- owner of the schema
---   different schema pgvigil
ALTER SCHEMA pgvigil OWNER TO a_stranger;

--- comment on the schema removed
---   missing comment on schema pgvigil
COMMENT ON SCHEMA pgvigil IS NULL;

--- comment on the schema changed
---   different comment on schema pgvigil
COMMENT ON SCHEMA pgvigil IS 'pgvigil';

-- ── Rights ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- right revoked on a table
---   missing grant on table session_lifecycle to pgvigil_reader
REVOKE SELECT ON session_lifecycle FROM pgvigil_reader;

--- right revoked on the application's table
---   missing grant on table sessions to pgvigil_reader
REVOKE SELECT ON sessions FROM pgvigil_reader;

--- right revoked on a view
---   missing grant on view session_monitoring_view to pgvigil_reader
REVOKE SELECT ON session_monitoring_view FROM pgvigil_reader;

--- one right of several revoked
---   different grant on table performance_logs to pgvigil_admin
REVOKE DELETE ON performance_logs FROM pgvigil_admin;

--- right of the writer revoked
---   missing grant on table performance_logs to pgvigil_writer
REVOKE INSERT ON performance_logs FROM pgvigil_writer;

--- right to everybody
---   unexpected grant on table session_lifecycle to PUBLIC
GRANT SELECT ON session_lifecycle TO PUBLIC;

--- right to everybody on bookkeeping
---   unexpected grant on table pgvigil.deleted_sessions to PUBLIC
GRANT INSERT ON pgvigil.deleted_sessions TO PUBLIC;

--- right to a stranger
---   unexpected grant on table system_metrics to a_stranger
GRANT TRUNCATE ON system_metrics TO a_stranger;

--- right to a stranger on one partition
---   unexpected grant on table DAY to a_stranger
GRANT SELECT ON DAY TO a_stranger;

--- right more to the reader
---   different grant on table pgvigil.migrations to pgvigil_reader
GRANT DELETE ON pgvigil.migrations TO pgvigil_reader;

--- right to pass on
---   different grant on table system_metrics to pgvigil_writer
GRANT INSERT ON system_metrics TO pgvigil_writer WITH GRANT OPTION;

--- right of the owner revoked
---   unexpected revocation on table pgvigil.deleted_sessions from pgvigil_owner
REVOKE INSERT ON pgvigil.deleted_sessions FROM pgvigil_owner;

--- right on a column
---   unexpected grant on column pgvigil.deleted_sessions.last_row to PUBLIC
GRANT SELECT (last_row) ON pgvigil.deleted_sessions TO PUBLIC;

--- right on a column to a role of ours
---   unexpected grant on column session_lifecycle.event_data to pgvigil_writer
GRANT UPDATE (event_data) ON session_lifecycle TO pgvigil_writer;

--- right on the schema revoked
---   missing grant on schema pgvigil to pgvigil_reader
REVOKE USAGE ON SCHEMA pgvigil FROM pgvigil_reader;

--- the application's schema closed to everybody
---   missing grant on schema public to pgvigil_admin
---   missing grant on schema public to pgvigil_reader
---   missing grant on schema public to pgvigil_writer
REVOKE USAGE ON SCHEMA public FROM PUBLIC;

--- right to create in the schema
---   unexpected grant on schema pgvigil to PUBLIC
GRANT CREATE ON SCHEMA pgvigil TO PUBLIC;

--- right on the schema more
---   different grant on schema pgvigil to pgvigil_writer
GRANT CREATE ON SCHEMA pgvigil TO pgvigil_writer;

--- right to call to a stranger
---   unexpected grant on function pgvigil.actor() to a_stranger
GRANT EXECUTE ON FUNCTION pgvigil.actor() TO a_stranger;

--- right on one column taken away
---   missing grant on column query_executions.id to pgvigil_writer
REVOKE SELECT (id) ON query_executions FROM pgvigil_writer;

--- right on a sequence
---   unexpected grant on sequence of pgvigil.displaced_objects.id to PUBLIC
GRANT UPDATE ON SEQUENCE pgvigil.displaced_objects_id_seq TO PUBLIC;

--- default privileges in our schema
---   unexpected default grant in schema pgvigil on tables of postgres to PUBLIC
ALTER DEFAULT PRIVILEGES IN SCHEMA pgvigil GRANT ALL ON TABLES TO PUBLIC;

--- default privileges for functions in our schema
---   unexpected default grant in schema pgvigil on functions of postgres to a_stranger
ALTER DEFAULT PRIVILEGES IN SCHEMA pgvigil GRANT EXECUTE ON FUNCTIONS TO a_stranger;

--- reader that can log in
---   different role pgvigil_reader
ALTER ROLE pgvigil_reader LOGIN;

--- reader that may do anything
---   different role pgvigil_reader
ALTER ROLE pgvigil_reader SUPERUSER;

--- writer that passes row security
---   different role pgvigil_writer
ALTER ROLE pgvigil_writer BYPASSRLS;

--- admin that makes roles
---   different role pgvigil_admin
ALTER ROLE pgvigil_admin CREATEROLE;

--- reader that is an admin
---   different role pgvigil_reader
GRANT pgvigil_admin TO pgvigil_reader;

--- writer that reads all data
---   different role pgvigil_writer
GRANT pg_read_all_data TO pgvigil_writer;

-- ── Instrumentation ─────────────────────────────────────────────────────────────────────────────────────────────────────

--- guard that replication passes by
---   different trigger instrumentation.sessions.guard_sessions
ALTER TABLE instrumentation.sessions ENABLE TRIGGER guard_sessions;

--- guard of one partition that replication passes by
---   disabled trigger instrumentation.sql_statements_default.guard_sql_statements_rows
ALTER TABLE instrumentation.sql_statements_default ENABLE TRIGGER guard_sql_statements_rows;

--- right to read what others ran
---   unexpected grant on column instrumentation.sql_statements.sql_text to pgvigil_reader
GRANT SELECT (sql_text) ON instrumentation.sql_statements TO pgvigil_reader;

--- right to make up sessions
---   unexpected grant on table instrumentation.sessions to pgvigil_writer
GRANT INSERT ON instrumentation.sessions TO pgvigil_writer;

--- function with its owner's rights and its caller's path
---   different function instrumentation.kill_session(uuid, text, interval)
ALTER FUNCTION instrumentation.kill_session(uuid, text, interval) RESET search_path;

-- ── Settings that turn triggers off ─────────────────────────────────────────────────────────────────────────────────────

--- triggers off for everybody
---   disabled setting session_replication_role
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = replica', current_database()); END $$;

--- triggers off on the whole server
---   disabled setting session_replication_role
ALTER ROLE ALL SET session_replication_role = replica;

--- upkeep by everybody
---   different setting pgvigil.skip_activity
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET pgvigil.skip_activity = off', current_database()); END $$;

--- role that may write sessions, and whose triggers do not fire
---   disabled setting session_replication_role of role a_stranger
GRANT INSERT ON sessions TO a_stranger;
ALTER ROLE a_stranger SET session_replication_role = replica;

--- guards of the instrumentation taken off for everybody
---   different setting pgvigil.instrumentation
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET pgvigil.instrumentation = write', current_database()); END $$;

--- guards of the instrumentation taken off for a role
---   different setting pgvigil.instrumentation of role a_stranger
ALTER ROLE a_stranger SET pgvigil.instrumentation = write;

--- upkeep for a role
---   different setting pgvigil.skip_activity of role a_stranger
ALTER ROLE a_stranger SET pgvigil.skip_activity = x;

--- granularity that is not an interval
---   different setting pgvigil.activity_granularity
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET pgvigil.activity_granularity = ''often''', current_database()); END $$;

--- granularity below 0
---   different setting pgvigil.activity_granularity
ALTER ROLE ALL SET pgvigil.activity_granularity = '-1 day';

--- granularity beyond the time of a policy
---   different setting pgvigil.activity_granularity of role a_stranger
ALTER ROLE a_stranger SET pgvigil.activity_granularity = '40 years';

--- path to other tables of the same names
---   different setting search_path
CREATE SCHEMA other;
CREATE TABLE other.sessions (LIKE sessions);
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = other, public', current_database()); END $$;

-- ── Hidden, shut and swallowed ──────────────────────────────────────────────────────────────────────────────────────────

--- function of ours made a member of an extension
---   different function pgvigil.reactivate_session(uuid)
ALTER EXTENSION plpgsql ADD FUNCTION pgvigil.reactivate_session(uuid);

--- function nobody asked for made a member of an extension
---   unexpected function pgvigil.extra(integer, text)
CREATE FUNCTION pgvigil.extra(integer, text) RETURNS integer LANGUAGE sql RETURN 1;
ALTER EXTENSION plpgsql ADD FUNCTION pgvigil.extra(integer, text);

--- table of ours made a member of an extension
---   different table pgvigil.displaced_tables
ALTER EXTENSION plpgsql ADD TABLE pgvigil.displaced_tables;

--- view made a member of an extension
---   different view performance_monitoring_view
ALTER EXTENSION plpgsql ADD VIEW performance_monitoring_view;

--- forced row security without a policy
---   unexpected row security of sessions
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

--- forced row security with policies for others alone
---   unexpected row security of context_history
CREATE POLICY tenants ON context_history TO a_stranger USING (true);
ALTER TABLE context_history ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

--- child of sessions that takes inserts
---   unexpected table app_sessions
CREATE TABLE app_sessions () INHERITS (sessions);

--- child of sessions under the name of a leftover
---   unexpected table pgvigil.legacy_sessions
CREATE TABLE pgvigil.legacy_sessions () INHERITS (sessions);

--- trigger called like something that a rule covers
---   unexpected trigger session_lifecycle."table pgvigil.legacy_x"
CREATE FUNCTION swallow() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RETURN NULL; END';
CREATE TRIGGER "table pgvigil.legacy_x" BEFORE INSERT ON session_lifecycle FOR EACH ROW EXECUTE FUNCTION swallow();

--- policy called like something that a rule covers
---   unexpected policy system_metrics."a table pgvigil.legacy_x"
CREATE POLICY "a table pgvigil.legacy_x" ON system_metrics USING (false);

--- function whose argument is called like something that a rule covers
---   unexpected function pgvigil.extra("table pgvigil.legacy_x")
CREATE TYPE public."table pgvigil.legacy_x" AS ENUM ();
CREATE FUNCTION pgvigil.extra("table pgvigil.legacy_x") RETURNS integer LANGUAGE sql RETURN 1;

--- right given to a role called like something that a rule covers
---   unexpected grant on table system_metrics to "table pgvigil.legacy_x"
CREATE ROLE "table pgvigil.legacy_x";
GRANT SELECT ON system_metrics TO "table pgvigil.legacy_x";

--- rule that swallows rows
---   unexpected rule session_lifecycle.quiet
CREATE RULE quiet AS ON INSERT TO session_lifecycle DO INSTEAD NOTHING;

--- right that the default privileges of somebody else would give
---   unexpected grant on table system_metrics to a_stranger
CREATE ROLE another;
ALTER DEFAULT PRIVILEGES FOR ROLE another GRANT SELECT ON TABLES TO a_stranger;
GRANT SELECT ON system_metrics TO a_stranger;

--- right to give on, which the default privileges do not give
---   unexpected grant on table system_metrics to a_stranger
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO a_stranger;
GRANT SELECT ON system_metrics TO a_stranger WITH GRANT OPTION;

--- table of another owner under the name of a partition
---   by hand
---   different partition performance_logs_p203101
CREATE TABLE performance_logs_p203101 (LIKE performance_logs);
ALTER TABLE performance_logs_p203101 OWNER TO a_stranger;

-- ── Any schema ──────────────────────────────────────────────────────────────────────────────────────────────────────────
-- "---   on any schema": applied to tests/data/any_schema.sql, against a spec dumped from that.

--- schema nobody declared
---   on any schema
---   unexpected schema fresh
CREATE SCHEMA fresh;
CREATE TABLE fresh.made (a integer);

--- default privileges without a schema
---   on any schema
---   unexpected default grant on tables of postgres to PUBLIC
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO PUBLIC;

--- default privileges without a schema given back
---   on any schema
---   missing default revocation on functions of postgres from PUBLIC
ALTER DEFAULT PRIVILEGES GRANT EXECUTE ON FUNCTIONS TO PUBLIC;

--- option of a foreign data wrapper
---   on any schema
---   different other foreign_data_wrapper wrapped
ALTER FOREIGN DATA WRAPPER wrapped OPTIONS (SET level '2', ADD more 'x');

--- owner of a foreign data wrapper
---   on any schema
---   different other foreign_data_wrapper wrapped
ALTER ROLE a_stranger SUPERUSER;
ALTER FOREIGN DATA WRAPPER wrapped OWNER TO a_stranger;

--- validator of a foreign data wrapper
---   on any schema
---   different other foreign_data_wrapper wrapped
ALTER FOREIGN DATA WRAPPER wrapped VALIDATOR postgresql_fdw_validator OPTIONS (DROP level);

--- foreign data wrapper nobody declared
---   on any schema
---   unexpected other foreign_data_wrapper another
CREATE FOREIGN DATA WRAPPER another;

--- option of a server
---   on any schema
---   different other server away
ALTER SERVER away OPTIONS (SET host 'elsewhere', DROP port);

--- version of a server
---   on any schema
---   different other server away
ALTER SERVER away VERSION '2';

--- owner of a server
---   on any schema
---   different other server away
GRANT USAGE ON FOREIGN DATA WRAPPER wrapped TO a_stranger;
REVOKE USAGE ON FOREIGN DATA WRAPPER wrapped FROM a_stranger;
ALTER SERVER away OWNER TO a_stranger;

--- server dropped with its dependent objects
---   on any schema
---   by hand
---   missing other server away
DROP SERVER away CASCADE;

--- right on a server
---   on any schema
---   unexpected grant on other server away to PUBLIC
GRANT USAGE ON FOREIGN SERVER away TO PUBLIC;

--- right on a server taken away
---   on any schema
---   missing grant on other server away to pg_monitor
REVOKE USAGE ON FOREIGN SERVER away FROM pg_monitor;

--- right on a foreign data wrapper
---   on any schema
---   unexpected grant on other foreign_data_wrapper wrapped to PUBLIC
GRANT USAGE ON FOREIGN DATA WRAPPER wrapped TO PUBLIC;

--- option of a user mapping
---   on any schema
---   different other user_mapping FOR PUBLIC SERVER away
ALTER USER MAPPING FOR PUBLIC SERVER away OPTIONS (SET user_name 'host');

--- user mapping nobody declared
---   on any schema
---   unexpected other user_mapping FOR a_stranger SERVER away
CREATE USER MAPPING FOR a_stranger SERVER away;

--- secret of a user mapping dropped
---   on any schema
---   by hand
---   different other user_mapping FOR PUBLIC SERVER away
ALTER USER MAPPING FOR PUBLIC SERVER away OPTIONS (DROP password);

--- option of a foreign table
---   on any schema
---   different table remote
ALTER FOREIGN TABLE remote OPTIONS (SET table_name 'y');

--- storage parameter of a partition's index
---   on any schema
---   different index events_2020.events_2020_kind_idx
ALTER INDEX events_2020_kind_idx SET (fillfactor = 60);

--- partition's index renamed
---   on any schema
---   missing index events_2020.events_2020_kind_idx
ALTER INDEX events_2020_kind_idx RENAME TO by_kind;

--- comment on a partition's index
---   on any schema
---   unexpected comment on index events_2020.events_2020_kind_idx
COMMENT ON INDEX events_2020_kind_idx IS 'x';

--- index of a partitioned table dropped, of any schema
---   on any schema
---   missing index events.events_kind
DROP INDEX events_kind;

--- index of a partitioned table nobody declared
---   on any schema
---   unexpected index events.unlooked_for
CREATE INDEX unlooked_for ON events (kind, day);

--- storage parameter of a partition's key
---   on any schema
---   different constraint events_2020.events_2020_pkey
ALTER INDEX events_2020_pkey SET (fillfactor = 60);

--- partition's key renamed
---   on any schema
---   missing constraint events_2020.events_2020_pkey
ALTER TABLE events_2020 RENAME CONSTRAINT events_2020_pkey TO key_2020;

--- comment on a partition's key
---   on any schema
---   unexpected comment on constraint events_2020.events_2020_pkey
COMMENT ON CONSTRAINT events_2020_pkey ON events_2020 IS 'x';

--- key of a partitioned table dropped
---   on any schema
---   missing constraint events.events_pkey
ALTER TABLE events DROP CONSTRAINT events_pkey;

--- partition detached, of any schema
---   on any schema
---   different table events_2020
ALTER TABLE events DETACH PARTITION events_2020;

--- comment on the index of a key
---   on any schema
---   different constraint people.people_pkey
COMMENT ON INDEX people_pkey IS 'x';

--- collation with another lc_ctype
---   on any schema
---   different collation plain
DROP COLLATION plain;
CREATE COLLATION plain (PROVIDER = libc, LC_COLLATE = 'C', LC_CTYPE = 'POSIX');

--- send function of a base type
---   on any schema
---   different type bulk
ALTER TYPE bulk SET (SEND = NONE);

--- receive function of a base type
---   on any schema
---   different type bulk
ALTER TYPE bulk SET (RECEIVE = NONE);

--- storage of a base type
---   on any schema
---   different type bulk
ALTER TYPE bulk SET (STORAGE = extended);

--- owner of an event trigger
---   on any schema
---   different event trigger watched
ALTER ROLE a_stranger SUPERUSER;
ALTER EVENT TRIGGER watched OWNER TO a_stranger;

--- name of a NOT NULL constraint
---   from 18
---   on any schema
---   different column people.name
ALTER TABLE people RENAME CONSTRAINT people_name_not_null TO must_have_a_name;

--- comment on a NOT NULL constraint
---   from 18
---   on any schema
---   different column people.name
COMMENT ON CONSTRAINT people_name_not_null ON people IS 'x';

--- old sequence of a column beside its identity
---   on any schema
---   different column people.id
ALTER TABLE people ALTER id DROP DEFAULT, ALTER id ADD GENERATED BY DEFAULT AS IDENTITY;

--- cast between types of the system
---   on any schema
---   unexpected other cast (integer AS inet)
CREATE CAST (integer AS inet) WITH INOUT;

--- cast between types of the system dropped
---   on any schema
---   missing other cast (bigint AS inet)
DROP CAST (bigint AS inet);

--- USAGE on a language taken away
---   on any schema
---   unexpected revocation on other language plpgsql from PUBLIC
REVOKE USAGE ON LANGUAGE plpgsql FROM PUBLIC;

--- language dropped, and a transform with it
---   on any schema
---   missing other language talk
DROP LANGUAGE talk CASCADE;

--- comment on a language
---   on any schema
---   unexpected comment on other language talk
COMMENT ON LANGUAGE talk IS 'x';

--- transform dropped
---   on any schema
---   missing other transform FOR integer LANGUAGE talk
DROP TRANSFORM FOR integer LANGUAGE talk;

--- access method dropped
---   on any schema
---   missing other access_method heaped
DROP ACCESS METHOD heaped;

--- setting of the database
---   on any schema
---   different setting work_mem
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET work_mem = ''9MB''', current_database()); END $$;

--- setting of the database nobody declared
---   on any schema
---   unexpected setting search_path
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = public, pg_temp', current_database()); END $$;

--- setting of a role in the database
---   on any schema
---   unexpected setting work_mem of role a_stranger
DO $$ BEGIN EXECUTE format('ALTER ROLE a_stranger IN DATABASE %I SET work_mem = ''9MB''', current_database()); END $$;

--- setting of the database taken back
---   on any schema
---   missing setting work_mem
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I RESET ALL', current_database()); END $$;

--- right to make schemas in the database
---   on any schema
---   unexpected grant on database {database} to a_stranger
DO $$ BEGIN EXECUTE format('GRANT CREATE, CONNECT ON DATABASE %I TO a_stranger', current_database()); END $$;

--- enum label renamed
---   on any schema
---   different type mood
ALTER TYPE mood RENAME VALUE 'ok' TO 'fine';

--- all enum labels renamed
---   on any schema
---   different type mood
ALTER TYPE mood RENAME VALUE 'sad' TO 'Sad';
ALTER TYPE mood RENAME VALUE 'ok' TO 'OK';
ALTER TYPE mood RENAME VALUE 'happy' TO 'it''s';

--- sequence of a column that nothing owns
---   on any schema
---   different sequence of people.id
ALTER SEQUENCE people_id_seq OWNED BY NONE;

--- sequence that a column owns
---   on any schema
---   different sequence spare
ALTER SEQUENCE spare OWNED BY visits.person;

--- second sequence that a column owns
---   on any schema
---   different sequence spare
ALTER SEQUENCE spare OWNED BY people.id;

--- sequence of a column that another owns
---   on any schema
---   different sequence of people.id
ALTER SEQUENCE people_id_seq OWNED BY people.name;

--- column renamed, of any schema
---   on any schema
---   missing column people.name
ALTER TABLE people RENAME name TO called;

--- column of a foreign key renamed
---   on any schema
---   missing column visits.person
ALTER TABLE visits RENAME person TO who;

--- column of a partitioned table renamed
---   on any schema
---   missing column events.kind
ALTER TABLE events RENAME kind TO sort;

--- column of a table that others inherit from renamed
---   on any schema
---   missing column base.x
ALTER TABLE base RENAME x TO y;

--- table that others inherit from renamed
---   on any schema
---   missing table base
ALTER TABLE base RENAME TO bottom;

--- schema renamed, of any schema
---   on any schema
---   missing schema "Side"
ALTER SCHEMA "Side" RENAME TO aside;

--- table renamed, of any schema
---   on any schema
---   missing table people
ALTER TABLE people RENAME TO persons;

--- table moved, of any schema
---   on any schema
---   missing table visits
---   unexpected schema attic
CREATE SCHEMA attic;
ALTER TABLE visits SET SCHEMA attic;

--- partition renamed, of any schema
---   on any schema
---   missing table events_2021
ALTER TABLE events_2021 RENAME TO events_next;

--- partitioned table renamed
---   on any schema
---   missing table events
ALTER TABLE events RENAME TO happenings;

--- foreign table renamed
---   on any schema
---   missing table remote
ALTER FOREIGN TABLE remote RENAME TO "far";

--- index renamed, of any schema
---   on any schema
---   missing index people.people_born
ALTER INDEX people_born RENAME TO by_birth;

--- constraint renamed
---   on any schema
---   missing constraint people.named
ALTER TABLE people RENAME CONSTRAINT named TO "has a name";

--- key renamed
---   on any schema
---   missing constraint people.people_pkey
ALTER TABLE people RENAME CONSTRAINT people_pkey TO persons_pkey;

--- trigger renamed, of any schema
---   on any schema
---   missing trigger people.touched
ALTER TRIGGER touched ON people RENAME TO touches;

--- policy renamed
---   on any schema
---   missing policy visits.own
ALTER POLICY own ON visits RENAME TO theirs;

--- enum renamed
---   on any schema
---   missing type mood
ALTER TYPE mood RENAME TO temper;

--- range renamed
---   on any schema
---   missing type span
ALTER TYPE span RENAME TO stretch;

--- multirange renamed
---   on any schema
---   different type span
ALTER TYPE spans RENAME TO many_spans;

--- domain renamed
---   on any schema
---   missing type percent
ALTER DOMAIN percent RENAME TO per_cent;

--- view renamed, of any schema
---   on any schema
---   missing view guests
ALTER VIEW guests RENAME TO visitors;

--- materialized view renamed
---   on any schema
---   missing view counted
ALTER MATERIALIZED VIEW counted RENAME TO counts;

--- column of a view renamed, of any schema
---   on any schema
---   missing column latest.born
ALTER VIEW latest RENAME born TO birthday;

--- sequence renamed
---   on any schema
---   missing sequence spare
ALTER SEQUENCE spare RENAME TO "s p";

--- function renamed, of any schema
---   on any schema
---   missing function twice(integer)
ALTER FUNCTION twice(integer) RENAME TO doubled;

--- function of a trigger renamed
---   on any schema
---   missing function touch()
---   perhaps different trigger people.touched
ALTER FUNCTION touch() RENAME TO touching;

--- table and one of its columns renamed
---   on any schema
---   missing table visits
---   missing column visits.place
ALTER TABLE visits RENAME place TO location;
ALTER TABLE visits RENAME TO calls;

--- function of an aggregate overloaded
---   on any schema
---   unexpected function larger(text, text)
CREATE FUNCTION larger(text, text) RETURNS text LANGUAGE sql AS 'SELECT greatest($1, $2)';

--- view with one more column
---   on any schema
---   different view latest
---   perhaps unexpected column latest.note
CREATE OR REPLACE VIEW latest AS SELECT name, born, note FROM people;

--- body where there was none
---   on any schema
---   different function nothing()
CREATE OR REPLACE FUNCTION nothing() RETURNS void LANGUAGE sql AS 'SELECT';

--- storage of a materialized view's column
---   on any schema
---   different column counted.label
ALTER MATERIALIZED VIEW counted ALTER label SET STORAGE external;

--- compression of a materialized view's column
---   on any schema
---   different column counted.label
ALTER MATERIALIZED VIEW counted ALTER label SET COMPRESSION pglz;

--- option of a dictionary
---   on any schema
---   different other ts_dict words
ALTER TEXT SEARCH DICTIONARY words (ACCEPT = true);

--- mapping of a text search configuration
---   on any schema
---   different other ts_config words
ALTER TEXT SEARCH CONFIGURATION words ALTER MAPPING FOR email WITH simple;

--- text search configuration dropped
---   on any schema
---   missing other ts_config words
DROP TEXT SEARCH CONFIGURATION words;

--- conversion dropped
---   on any schema
---   missing other conversion converted
DROP CONVERSION converted;

--- operator dropped
---   on any schema
---   missing operator ===(integer, integer)
DROP OPERATOR === (integer, integer);

--- function of any schema dropped, where default privileges take EXECUTE away
---   on any schema
---   missing function nothing()
DROP FUNCTION nothing();

--- identity where there is none, of any schema
---   on any schema
---   different column base.x
ALTER TABLE base ALTER x ADD GENERATED ALWAYS AS IDENTITY;

--- column with a sequence nobody declared
---   on any schema
---   unexpected column base.more
ALTER TABLE base ADD more serial;

--- column of a partitioned table nobody declared
---   on any schema
---   unexpected column events.more
ALTER TABLE events ADD more integer;

--- column of a partitioned table dropped
---   on any schema
---   missing column events.kind
ALTER TABLE events DROP kind;

--- column of a partitioned table NOT NULL
---   on any schema
---   different column events.kind
ALTER TABLE events ALTER kind SET NOT NULL;

--- column of a partitioned table of another type
---   on any schema
---   different column events.kind
ALTER TABLE events ALTER kind TYPE varchar(20);

--- default of a column of a partitioned table
---   on any schema
---   different column events.kind
ALTER TABLE events ALTER kind SET DEFAULT 'none';

--- storage of a column that others inherit
---   on any schema
---   different column base.memo
ALTER TABLE base ALTER memo SET STORAGE EXTERNAL;

--- default of a partition alone
---   on any schema
---   different column events_2020.kind
ALTER TABLE events_2020 ALTER kind SET DEFAULT 'none';

--- partition dropped, of any schema
---   on any schema
---   missing table events_2020
DROP TABLE events_2020;

--- index of a partitioned table renamed
---   on any schema
---   missing index events.events_kind
ALTER INDEX events_kind RENAME TO another;

--- key of a partitioned table renamed
---   on any schema
---   missing constraint events.events_pkey
ALTER TABLE events RENAME CONSTRAINT events_pkey TO another;

--- schema of the application renamed
---   on any schema
---   missing schema public
ALTER SCHEMA public RENAME TO another;

--- owner of a table whose column has a sequence
---   on any schema
---   different table people
ALTER TABLE people OWNER TO a_stranger;

--- owner of a schema
---   on any schema
---   different schema "Side"
ALTER SCHEMA "Side" OWNER TO a_stranger;

--- sequence of a column renamed
---   on any schema
---   different sequence of people.id
ALTER SEQUENCE people_id_seq RENAME TO another;

--- base type dropped, and its functions with it
---   on any schema
---   missing type bulk
DROP TYPE bulk CASCADE;

--- dictionary dropped, and what uses it
---   on any schema
---   missing other ts_dict words
DROP TEXT SEARCH DICTIONARY words CASCADE;

--- dictionary renamed
---   on any schema
---   missing other ts_dict words
ALTER TEXT SEARCH DICTIONARY words RENAME TO another;

--- dictionary moved
---   on any schema
---   missing other ts_dict words
ALTER TEXT SEARCH DICTIONARY words SET SCHEMA "Side";

--- text search configuration renamed
---   on any schema
---   missing other ts_config words
ALTER TEXT SEARCH CONFIGURATION words RENAME TO another;

--- conversion renamed
---   on any schema
---   missing other conversion converted
ALTER CONVERSION converted RENAME TO another;

--- collation renamed
---   on any schema
---   missing collation plain
ALTER COLLATION plain RENAME TO another;

--- language renamed
---   on any schema
---   missing other language talk
ALTER LANGUAGE talk RENAME TO another;

--- event trigger renamed
---   on any schema
---   missing event trigger watched
ALTER EVENT TRIGGER watched RENAME TO another;

--- foreign data wrapper renamed
---   on any schema
---   missing other foreign_data_wrapper wrapped
ALTER FOREIGN DATA WRAPPER wrapped RENAME TO another;

--- server renamed
---   on any schema
---   missing other server away
ALTER SERVER away RENAME TO another;

--- operator class renamed
---   on any schema
---   missing other opclass "some ops" USING btree
ALTER OPERATOR CLASS "some ops" USING btree RENAME TO another;

--- operator family renamed
---   on any schema
---   missing other opfamily "some ops" USING btree
ALTER OPERATOR FAMILY "some ops" USING btree RENAME TO another;

--- function of an aggregate moved
---   on any schema
---   missing function larger(integer, integer)
ALTER FUNCTION larger(integer, integer) SET SCHEMA "Side";

--- foreign table of a server with a hostile name dropped
---   on any schema
---   missing table other_remote
DROP FOREIGN TABLE other_remote;

--- sequence of a column dropped
---   on any schema
---   missing sequence of people.id
DROP SEQUENCE people_id_seq CASCADE;

--- partitioned table dropped, and its partitions
---   on any schema
---   missing table events
DROP TABLE events;

--- parent by inheritance dropped, and its child
---   on any schema
---   missing table base
DROP TABLE base CASCADE;

--- range dropped, and its constructors
---   on any schema
---   missing type span
DROP TYPE span CASCADE;

--- operator moved
---   on any schema
---   missing operator ===(integer, integer)
ALTER OPERATOR === (integer, integer) SET SCHEMA "Side";

--- right on a function of the server taken away
---   on any schema
---   unexpected revocation on function pg_catalog.pg_sleep(double precision) from PUBLIC
---   by hand
REVOKE EXECUTE ON FUNCTION pg_sleep(double precision) FROM PUBLIC;

--- right on a function of the server
---   on any schema
---   unexpected grant on function pg_catalog.pg_read_file(text) to a_stranger
GRANT EXECUTE ON FUNCTION pg_read_file(text) TO a_stranger;

--- right on a catalog
---   on any schema
---   unexpected grant on table pg_catalog.pg_authid to a_stranger
GRANT SELECT ON pg_authid TO a_stranger;

--- right on a schema of the server
---   on any schema
---   unexpected grant on schema information_schema to a_stranger
GRANT CREATE ON SCHEMA information_schema TO a_stranger;

--- partition detached, which keeps the parent's CHECK
---   on any schema
---   different table events_2021
ALTER TABLE events DETACH PARTITION events_2021;

--- table with a serial dropped, with its dependent objects
---   on any schema
---   missing table people
DROP TABLE people CASCADE;

--- table with an identity of its own options dropped
---   on any schema
---   missing table numbered
DROP TABLE numbered;

--- index of a partitioned table dropped, whose parts have names of their own
---   on any schema
---   missing index events.events_both
DROP INDEX events_both;

--- rules of an ICU collation
---   from 16
---   on any schema
---   different collation ruled
DROP COLLATION ruled;
CREATE COLLATION ruled (PROVIDER = icu, LOCALE = 'und', RULES = '&V << w');

--- comment on an extension
---   on any schema
---   different comment on extension pg_trgm
COMMENT ON EXTENSION pg_trgm IS 'x';

--- name of a domain's NOT NULL
---   from 18
---   on any schema
---   different type filled
ALTER DOMAIN filled RENAME CONSTRAINT "filled in" TO must;

--- named NOT NULL of a domain dropped
---   on any schema
---   different type filled
ALTER DOMAIN filled DROP NOT NULL;

--- attribute of a composite type renamed
---   on any schema
---   different type pair
ALTER TYPE pair RENAME ATTRIBUTE b TO "B 2" CASCADE;

--- attribute of a composite type of another type
---   on any schema
---   different type pair
ALTER TYPE pair ALTER ATTRIBUTE b TYPE varchar(9) COLLATE "C" CASCADE;

--- attribute of a composite type nobody declared
---   on any schema
---   different type pair
ALTER TYPE pair ADD ATTRIBUTE c integer CASCADE;

--- last attribute of a composite type dropped
---   on any schema
---   different type pair
ALTER TYPE pair DROP ATTRIBUTE b CASCADE;

--- first attribute of a composite type dropped
---   by hand
---   on any schema
---   different type pair
ALTER TYPE pair DROP ATTRIBUTE a CASCADE;

--- NOT NULL that is inherited
---   from 18
---   on any schema
---   different constraint loose.loosely
ALTER TABLE loose ALTER CONSTRAINT loosely INHERIT;

--- bounds of a partition
---   on any schema
---   different table events_2020
ALTER TABLE events DETACH PARTITION events_2020;
ALTER TABLE events ATTACH PARTITION events_2020 FOR VALUES FROM ('2019-01-01') TO ('2021-01-01');

--- range nobody declared
---   on any schema
---   unexpected type more
CREATE TYPE more AS RANGE (SUBTYPE = text);

--- conversion that became the usual one
---   on any schema
---   different other conversion converted
DROP CONVERSION converted;
CREATE DEFAULT CONVERSION converted FOR 'LATIN1' TO 'UTF8' FROM iso8859_1_to_utf8;

--- child that left its parent
---   by hand
---   on any schema
---   different table heir
ALTER TABLE heir NO INHERIT base;

--- function of a text search template
---   by hand
---   on any schema
---   different other ts_template plainly
DROP TEXT SEARCH TEMPLATE plainly;
CREATE TEXT SEARCH TEMPLATE plainly (INIT = dsimple_init, LEXIZE = dsimple_lexize);

--- function of a text search parser
---   by hand
---   on any schema
---   different other ts_parser halves
DROP TEXT SEARCH PARSER halves;
CREATE TEXT SEARCH PARSER halves (START = prsd_start, GETTOKEN = prsd_nexttoken, END = prsd_end, HEADLINE = prsd_headline, LEXTYPES = prsd_lextype);

--- rule renamed
---   on any schema
---   missing rule marked.unmarked
ALTER RULE unmarked ON marked RENAME TO "un marked";

--- index that is the replica identity renamed
---   on any schema
---   missing index marked.marked_a
ALTER INDEX marked_a RENAME TO another;

--- index that is the replica identity dropped
---   on any schema
---   missing index marked.marked_a
DROP INDEX marked_a;

--- table whose replica identity is an index dropped
---   on any schema
---   missing table marked
DROP TABLE marked;

--- column renamed in a parent that sorts behind its child
---   on any schema
---   missing column z_parent.k
ALTER TABLE z_parent RENAME k TO another;

--- sequence renamed that a default reads
---   on any schema
---   missing sequence tickets
ALTER SEQUENCE tickets RENAME TO another;

--- sequence renamed that a column owns and no default reads
---   on any schema
---   different sequence of counters.b
ALTER SEQUENCE of_b RENAME TO another;

--- sequence dropped that a column owns and no default reads
---   on any schema
---   missing sequence of counters.b
DROP SEQUENCE of_b;

--- table dropped whose column owns a sequence that no default reads
---   on any schema
---   missing table counters
DROP TABLE counters;

--- identity where a serial was, whose sequence is gone
---   on any schema
---   different column people.id
ALTER TABLE people ALTER id DROP DEFAULT;
DROP SEQUENCE people_id_seq;
ALTER TABLE people ALTER id ADD GENERATED ALWAYS AS IDENTITY;

--- serial where an identity was
---   on any schema
---   different column counters.d
ALTER TABLE counters ALTER d DROP IDENTITY;
CREATE SEQUENCE counters_d_seq AS smallint OWNED BY counters.d;
ALTER TABLE counters ALTER d SET DEFAULT nextval('counters_d_seq');

--- collation dropped, and the columns that use it
---   on any schema
---   missing collation in_use
DROP COLLATION in_use CASCADE;

--- collation of a column that views read
---   on any schema
---   different column sorted.z
---   perhaps different column sorted_so.y
DROP VIEW sorted_so;
ALTER TABLE sorted ALTER z TYPE text;
CREATE VIEW sorted_so AS SELECT sorted.z COLLATE "C" AS z, sorted.z AS y FROM sorted;

--- collation of a view's column
---   on any schema
---   different view sorted_so
DROP VIEW sorted_so;
CREATE VIEW sorted_so AS SELECT sorted.z COLLATE "POSIX" AS z, sorted.z AS y FROM sorted;

--- collation that a column uses, made another
---   by hand
---   on any schema
---   different collation in_use
DROP VIEW sorted_so;
ALTER TABLE sorted ALTER z TYPE text COLLATE "C";
DROP COLLATION in_use;
CREATE COLLATION in_use (PROVIDER = libc, LOCALE = 'C');
ALTER TABLE sorted ALTER z TYPE text COLLATE in_use;
CREATE VIEW sorted_so AS SELECT sorted.z COLLATE "C" AS z, sorted.z AS y FROM sorted;

--- table dropped, and functions that return its rows
---   on any schema
---   missing table visits
DROP TABLE visits CASCADE;

--- type of a foreign table's column
---   on any schema
---   different column remote.a
ALTER FOREIGN TABLE remote ALTER a TYPE bigint;

--- options of a dictionary in another order
---   on any schema
---   different other ts_dict of_two
ALTER TEXT SEARCH DICTIONARY of_two (STOPWORDS = 'german');

--- column of a key dropped, and foreign keys that sort before it
---   on any schema
---   missing column coded.code
ALTER TABLE coded DROP code CASCADE;

--- view with one more column, which another view reads
---   on any schema
---   different view latest
---   perhaps unexpected column latest.note
CREATE OR REPLACE VIEW latest AS SELECT name, born, note FROM people;
CREATE OR REPLACE VIEW above AS SELECT latest.name AS of FROM latest;

--- index of a partitioned table made again on that alone
---   on any schema
---   invalid index events.events_kind
DROP INDEX events_kind;
CREATE INDEX events_kind ON ONLY events (kind);

--- index of a partitioned table made again on that alone, one of a partition beside it
---   on any schema
---   invalid index events.events_both
DROP INDEX events_both;
CREATE INDEX events_both ON ONLY events (note);
CREATE INDEX of_2020 ON events_2020 (note);

--- key of a partitioned table made again on that alone
---   on any schema
---   invalid constraint events.events_pkey
ALTER TABLE events DROP CONSTRAINT events_pkey;
ALTER TABLE ONLY events ADD CONSTRAINT events_pkey PRIMARY KEY (id, day);

--- index of a partitioned table of another definition
---   on any schema
---   different index events.events_both
DROP INDEX events_both;
CREATE INDEX events_both ON events (id);

--- index of a partitioned table of another definition, on that alone
---   on any schema
---   different index events.events_both
DROP INDEX events_both;
CREATE INDEX events_both ON ONLY events (id);

--- index of a partitioned table dropped, one of a partition made again
---   on any schema
---   missing index events.events_both
DROP INDEX events_both;
CREATE INDEX of_2020 ON events_2020 (note);

--- index of a partitioned table made again, its partitions' under other names and without a parameter
---   on any schema
---   different index events.events_both
DROP INDEX events_both;
CREATE INDEX events_both ON events (note);

--- key of another kind, which a foreign key needs
---   on any schema
---   different constraint coded.coded_pkey
ALTER TABLE coded DROP CONSTRAINT coded_pkey CASCADE;
ALTER TABLE coded ADD CONSTRAINT coded_pkey UNIQUE (code);
ALTER TABLE a_coding ADD CONSTRAINT a_coding_code_fkey FOREIGN KEY (code) REFERENCES coded (code);

--- right on the sequence of a serial taken away
---   on any schema
---   missing grant on sequence of people.id to pg_monitor
REVOKE USAGE ON SEQUENCE people_id_seq FROM pg_monitor;

--- right on the sequence of a serial changed
---   on any schema
---   different grant on sequence of people.id to pg_monitor
GRANT SELECT ON SEQUENCE people_id_seq TO pg_monitor;

--- right on the sequence of an identity taken away
---   on any schema
---   missing grant on sequence of numbered.id to PUBLIC
REVOKE SELECT ON SEQUENCE numbers FROM PUBLIC;

--- right on the sequence of an identity given
---   on any schema
---   unexpected grant on sequence of numbered.id to pg_monitor
GRANT UPDATE ON SEQUENCE numbers TO pg_monitor;

--- column of a serial dropped, with its sequence
---   by hand
---   on any schema
---   missing column people.id
ALTER TABLE people DROP COLUMN id CASCADE;

--- NOT NULL of a name of its own dropped, with its comment
---   from 18
---   on any schema
---   different column unsure.b
ALTER TABLE unsure ALTER b DROP NOT NULL;

--- NOT NULL that was not to be validated
---   from 18
---   on any schema
---   different constraint unsure.unsurely
ALTER TABLE unsure VALIDATE CONSTRAINT unsurely;

--- NOT NULL dropped that was not validated
---   from 18
---   on any schema
---   missing constraint unsure.unsurely
ALTER TABLE unsure ALTER a DROP NOT NULL;

--- domain renamed that refuses NULL
---   on any schema
---   missing type sure
ALTER DOMAIN sure RENAME TO unsure_domain;

--- check of a domain renamed
---   on any schema
---   different type sure
ALTER DOMAIN sure RENAME CONSTRAINT positive TO above_zero;

--- operator dropped that another one is the negator of
---   on any schema
---   missing operator <=!>(integer, bigint)
DROP OPERATOR <=!> (integer, bigint);

--- partition half detached
---   on any schema
---   different table events_2020
UPDATE pg_inherits SET inhdetachpending = true WHERE inhrelid = 'events_2020'::regclass;

--- key of a partitioned table made again, its partitions' under other names
---   on any schema
---   different constraint events.events_pkey
ALTER TABLE events_2020 RENAME CONSTRAINT events_2020_pkey TO another_2020;
ALTER TABLE events_2021 RENAME CONSTRAINT events_2021_pkey TO another_2021;

--- right that was passed on
---   on any schema
---   unexpected grant on table visits to pg_monitor
---   unexpected grant on table visits to a_stranger
GRANT SELECT ON visits TO pg_monitor WITH GRANT OPTION;
SET LOCAL ROLE pg_monitor;
GRANT SELECT ON visits TO a_stranger;
RESET ROLE;

--- expression of a generated column, which views read
---   from 17
---   on any schema
---   different column derived.b
ALTER TABLE derived ALTER b SET EXPRESSION AS (a * 3);

--- generated column of another type of expression, which views and an index need
---   on any schema
---   different column derived.b
---   perhaps * *deriv*
DROP VIEW derivations CASCADE;
ALTER TABLE derived DROP b, ADD b integer GENERATED ALWAYS AS (a * 3) STORED;
CREATE INDEX derived_b ON derived (b);
CREATE VIEW derivations AS SELECT derived.b FROM derived;
CREATE VIEW of_derivations AS SELECT derivations.b FROM derivations;

--- table attached to a partitioned one
---   on any schema
---   different table apart
ALTER TABLE events ATTACH PARTITION apart FOR VALUES FROM ('2030-01-01') TO ('2031-01-01');

--- owner of a table who had rights on its columns
---   on any schema
---   different table derived
ALTER TABLE derived OWNER TO pg_monitor;

--- operator moved that is its own commutator
---   on any schema
---   missing operator #=#(integer, integer)
ALTER OPERATOR #=# (integer, integer) SET SCHEMA "Side";

--- tables dropped that reference one another, and a view of both
---   on any schema
---   missing table one_way
---   missing table other_way
DROP TABLE one_way, other_way CASCADE;

--- foreign table of another server, which nobody declared
---   on any schema
---   different table other_remote
---   unexpected other server elsewhere
CREATE SERVER elsewhere FOREIGN DATA WRAPPER wrapped;
DROP FOREIGN TABLE other_remote;
CREATE FOREIGN TABLE other_remote (a integer) SERVER elsewhere;

--- range of another subtype
---   by hand
---   on any schema
---   different type span
DROP TYPE span;
CREATE TYPE span AS RANGE (SUBTYPE = bigint, MULTIRANGE_TYPE_NAME = spans);

--- enum replaced by a domain
---   by hand
---   on any schema
---   different type "Side"."It"
---   perhaps * *Side*
DROP TYPE "Side"."It" CASCADE;
CREATE DOMAIN "Side"."It" AS text;
ALTER TABLE "Side".t ADD a "Side"."It" DEFAULT 'a';
CREATE VIEW "Side".v AS SELECT t.a FROM "Side".t;

--- NOT NULL that is not inherited, and its table, dropped
---   from 18
---   on any schema
---   missing table loose
DROP TABLE loose;

--- undeclared tables of which one inherits and a function that a default calls
---   on any schema
---   unexpected table x_over
---   unexpected table x_under
---   unexpected function x_now()
CREATE FUNCTION x_now() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE TABLE x_over (a integer DEFAULT x_now());
CREATE TABLE x_under (b serial) INHERITS (x_over);

--- undeclared views that read one another
---   on any schema
---   unexpected view x_first
---   unexpected view x_second
CREATE VIEW x_first AS SELECT 1 AS one; CREATE VIEW x_second AS SELECT one FROM x_first;

--- base type nobody declared, with its functions
---   on any schema
---   unexpected type x_base
CREATE TYPE x_base;
CREATE FUNCTION x_in(cstring) RETURNS x_base LANGUAGE internal IMMUTABLE STRICT AS 'textin';
CREATE FUNCTION x_out(x_base) RETURNS cstring LANGUAGE internal IMMUTABLE STRICT AS 'textout';
CREATE TYPE x_base (INPUT = x_in, OUTPUT = x_out);

--- undeclared table whose column owns a second sequence
---   on any schema
---   unexpected table x_two
CREATE TABLE x_two (a serial, b integer); CREATE SEQUENCE x_seq OWNED BY x_two.b;

--- undeclared key that an undeclared table references
---   on any schema
---   unexpected table x_ref
---   unexpected constraint sorted.x_key
ALTER TABLE sorted ADD CONSTRAINT x_key UNIQUE (z); CREATE TABLE x_ref (z text REFERENCES sorted (z));

--- child with a NOT NULL of its own name dropped
---   from 18
---   on any schema
---   missing table under_it
DROP TABLE under_it;

--- table with a comment on its identity's sequence dropped
---   on any schema
---   missing table ticketed
DROP TABLE ticketed;

--- transform dropped, and the function that uses it
---   on any schema
---   missing other transform FOR transformed LANGUAGE sql
DROP TRANSFORM FOR transformed LANGUAGE sql CASCADE;

--- type renamed that an undeclared function takes
---   on any schema
---   missing type mood
---   unexpected function x_takes(mood)
CREATE FUNCTION x_takes(mood) RETURNS integer LANGUAGE sql AS 'SELECT 1'; ALTER TYPE mood RENAME TO moods;

--- extension dropped, and the columns of its types
---   on any schema
---   missing extension citext
DROP EXTENSION citext CASCADE;

--- function replaced by a procedure
---   on any schema
---   different function nothing()
DROP FUNCTION nothing(); CREATE PROCEDURE nothing() LANGUAGE sql AS '';

--- extension whose types columns have moved
---   on any schema
---   different extension citext
ALTER EXTENSION citext SET SCHEMA public;

--- function replaced by a procedure with rights of its own
---   on any schema
---   different function twice(integer)
DROP FUNCTION twice(integer); CREATE PROCEDURE twice(integer) LANGUAGE sql AS 'SELECT 1'; GRANT EXECUTE ON PROCEDURE twice(integer) TO a_stranger;

--- extension moved to a schema nobody declared
---   on any schema
---   different extension citext
---   unexpected schema far
CREATE SCHEMA far; ALTER EXTENSION citext SET SCHEMA far;

--- objects of one name dropped, that seem to need one another
---   on any schema
---   missing schema same
---   missing type "of same"
---   missing other foreign_data_wrapper same
DROP SCHEMA same CASCADE;
DROP TYPE "of same";
DROP FOREIGN DATA WRAPPER same CASCADE;
