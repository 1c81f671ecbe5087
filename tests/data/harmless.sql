-- What may happen to a healthy database without a finding. Each begins with a line "--- its name"; "---   committed": its
-- statements run one by one on a clone of a clean install, because they cannot run in a transaction or count only after it.
-- "---   from 15": what older servers do not know. MONTH, DAY: this month's partition of session_lifecycle, today's of
-- performance_logs. a_stranger is a role.

-- ── Upkeep ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- reindex
REINDEX TABLE sessions;
REINDEX INDEX idx_sessions_is_dormant;

--- reindex concurrently
---   committed
REINDEX TABLE CONCURRENTLY context_history;
REINDEX TABLE CONCURRENTLY performance_logs;
REINDEX INDEX CONCURRENTLY idx_system_metrics_labels;

--- reindex of everything
---   committed
REINDEX SCHEMA pgvigil;
REINDEX SCHEMA public;

--- vacuum full
---   committed
VACUUM FULL sessions;
VACUUM FULL pgvigil.deleted_sessions;
VACUUM FULL session_lifecycle;

--- vacuum and analyze
---   committed
VACUUM ANALYZE;

--- cluster
---   committed
CLUSTER sessions USING sessions_pkey;
CLUSTER;

--- mark for cluster
ALTER TABLE context_history CLUSTER ON context_history_pkey;

--- analyze
ANALYZE;

--- rows
INSERT INTO sessions (session_key, agent_from) SELECT 'harmless-' || n, 'a' FROM generate_series(1, 100) n;
UPDATE sessions SET status = 'completed';
DELETE FROM sessions;
INSERT INTO session_lifecycle (id, session_id, event_type) SELECT gen_random_uuid(), id, 'created' FROM sessions;

--- table emptied
TRUNCATE sessions CASCADE;

--- sequence moved on
ALTER SEQUENCE pgvigil.displaced_objects_id_seq RESTART WITH 1000;

--- procedures of upkeep run again
---   committed
CALL pgvigil.backfill_dormancy();
CALL pgvigil.copy_legacy_tables();
CALL pgvigil.validate_value_checks();

-- ── Tuning ──────────────────────────────────────────────────────────────────────────────────────────────────────────────

--- statistics target
ALTER TABLE sessions ALTER status SET STATISTICS 500;
ALTER TABLE session_lifecycle ALTER event_type SET STATISTICS 500;

--- number of distinct values
ALTER TABLE sessions ALTER agent_from SET (n_distinct = 50);
ALTER TABLE system_metrics ALTER metric_name SET (n_distinct = 50);

--- extended statistics
CREATE STATISTICS s ON status, is_dormant FROM sessions;
CREATE STATISTICS t ON metric_name, metric_type FROM system_metrics;

--- storage of a column
ALTER TABLE sessions ALTER metadata SET STORAGE EXTERNAL;

--- compression of a column
ALTER TABLE context_history ALTER content SET COMPRESSION pglz;

--- autovacuum settings
ALTER TABLE sessions SET (autovacuum_vacuum_scale_factor = 0.01, toast.autovacuum_enabled = false);
ALTER TABLE pgvigil.deleted_sessions SET (autovacuum_analyze_threshold = 1000, parallel_workers = 2);
ALTER TABLE DAY SET (autovacuum_vacuum_insert_threshold = 100000);

--- storage parameters as they are by default, or spelt in another way
---   from 15
ALTER VIEW session_monitoring_view SET (security_invoker = yes, security_barrier = 'F');
ALTER VIEW execution_analytics SET (security_invoker = 'TRUE');
ALTER TABLE pgvigil.deleted_sessions SET (autovacuum_enabled = true, toast.autovacuum_enabled = on, fillfactor = 100);
ALTER INDEX idx_query_executions_started_at SET (deduplicate_items = on);
ALTER TABLE MONTH SET (autovacuum_enabled = 1, fillfactor = 100, toast.autovacuum_vacuum_threshold = 100, parallel_workers = 2);

--- fillfactor of an index
ALTER INDEX idx_sessions_last_activity_at SET (fillfactor = 80, deduplicate_items = off);

--- replica identity of the application's table
ALTER TABLE sessions REPLICA IDENTITY FULL;

--- tablespace, of our tables too
---   committed
---   from 15
SET allow_in_place_tablespaces = on;
DROP TABLESPACE IF EXISTS elsewhere;
CREATE TABLESPACE elsewhere LOCATION '';
ALTER TABLE codebase_snapshots SET TABLESPACE elsewhere;
ALTER INDEX idx_sessions_last_activity_at SET TABLESPACE elsewhere;
ALTER TABLE DAY SET TABLESPACE elsewhere;
ALTER TABLE pgvigil.deleted_sessions SET TABLESPACE elsewhere;

-- ── Around our objects ──────────────────────────────────────────────────────────────────────────────────────────────────

--- table of the application
CREATE TABLE app_notes (id serial PRIMARY KEY, session_id uuid REFERENCES sessions ON DELETE SET NULL, "we""ird" text);
CREATE INDEX ON app_notes (session_id);

--- table of the application named much like ours
CREATE TABLE session_lifecycle_p2 (id integer);
CREATE TABLE session_lifecycle_archive (LIKE session_lifecycle INCLUDING ALL);

--- view of the application
CREATE VIEW app_view AS SELECT id FROM sessions;
CREATE MATERIALIZED VIEW app_figures AS SELECT count(*) FROM session_lifecycle;

--- function of the application
CREATE FUNCTION touch_session() RETURNS integer LANGUAGE sql AS 'SELECT 1';
CREATE FUNCTION uuid_v7() RETURNS uuid LANGUAGE sql AS 'SELECT gen_random_uuid()';

--- types of the application
CREATE TYPE mood AS ENUM ('good', 'bad');
CREATE DOMAIN positive AS integer CHECK (VALUE > 0);
CREATE SEQUENCE app_numbers;
CREATE COLLATION odd FROM "C";

--- same names in another schema
CREATE SCHEMA other;
CREATE TABLE other.sessions (id integer);
CREATE TABLE other.session_lifecycle (id integer) PARTITION BY RANGE (id);
CREATE VIEW other.session_monitoring_view AS SELECT 1 AS one;

--- schema named after a role of ours
CREATE SCHEMA pgvigil_reader;
CREATE TABLE pgvigil_reader.sessions (id integer);

--- extension
CREATE EXTENSION IF NOT EXISTS pg_trgm;
CREATE EXTENSION IF NOT EXISTS pg_stat_statements;

--- publication
CREATE PUBLICATION everything FOR ALL TABLES;

--- publication of some rows and columns
---   from 15
CREATE PUBLICATION some_rows FOR TABLE sessions WHERE (is_dormant), TABLE context_history (id, session_id, sequence_number);

--- rule that adds to what the application does
CREATE TABLE app_log (at timestamptz);
CREATE RULE app_log AS ON INSERT TO sessions DO ALSO INSERT INTO app_log VALUES (now());

--- casts of the application
CREATE TYPE app_mood AS ENUM ('good');
CREATE CAST (app_mood AS text) WITH INOUT AS ASSIGNMENT;

--- foreign and typed tables of the application
CREATE FOREIGN DATA WRAPPER app_fdw;
CREATE SERVER app_server FOREIGN DATA WRAPPER app_fdw;
CREATE FOREIGN TABLE app_foreign (id integer) SERVER app_server;
CREATE TYPE app_row AS (id integer);
CREATE TABLE app_typed OF app_row;

--- objects of a session by the names of ours
CREATE TEMP TABLE sessions (id integer);
CREATE TEMP VIEW execution_analytics AS SELECT 1 AS one;
CREATE FUNCTION pg_temp.actor() RETURNS integer LANGUAGE sql AS 'SELECT 1';

--- function of the application that goes with an extension
CREATE FUNCTION app_one() RETURNS integer LANGUAGE sql AS 'SELECT 1';
ALTER FUNCTION app_one() DEPENDS ON EXTENSION plpgsql;

--- event trigger of the application
CREATE FUNCTION app_watch() RETURNS event_trigger LANGUAGE plpgsql AS 'BEGIN END';
CREATE EVENT TRIGGER app_watch ON ddl_command_end EXECUTE FUNCTION app_watch();

--- comments of the application
COMMENT ON TABLE sessions IS 'Our sessions';
COMMENT ON COLUMN sessions.status IS 'Where it stands';
COMMENT ON SCHEMA public IS 'Ours';
COMMENT ON COLUMN session_monitoring_view.id IS 'The session';

--- owner of the application's tables
ALTER TABLE sessions OWNER TO a_stranger;
ALTER TABLE context_history OWNER TO a_stranger;

--- owner of the application's schema
ALTER SCHEMA public OWNER TO a_stranger;

--- rights on the application's tables
GRANT SELECT ON sessions TO PUBLIC;
GRANT ALL ON context_history TO a_stranger WITH GRANT OPTION;
GRANT UPDATE (content) ON context_history TO pgvigil_writer;
GRANT CREATE ON SCHEMA public TO a_stranger;

--- right granted and revoked
GRANT SELECT ON analytics_aggregations TO a_stranger;
REVOKE SELECT ON analytics_aggregations FROM a_stranger;
GRANT EXECUTE ON FUNCTION pgvigil.uuid_v7() TO a_stranger;
REVOKE EXECUTE ON FUNCTION pgvigil.uuid_v7() FROM a_stranger;
GRANT SELECT (labels) ON system_metrics TO a_stranger;
REVOKE SELECT (labels) ON system_metrics FROM a_stranger;

--- right the owner has anyway
GRANT ALL ON analytics_aggregations TO pgvigil_owner;
GRANT EXECUTE ON FUNCTION pgvigil.actor() TO pgvigil_owner;

--- rights that the owner's own default privileges gave and took
ALTER DEFAULT PRIVILEGES GRANT SELECT ON TABLES TO a_stranger;
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT INSERT, UPDATE ON TABLES TO a_stranger WITH GRANT OPTION;
ALTER DEFAULT PRIVILEGES REVOKE EXECUTE ON FUNCTIONS FROM PUBLIC;
GRANT SELECT ON session_lifecycle, pgvigil.jobs TO a_stranger;
GRANT INSERT, UPDATE ON system_metrics TO a_stranger WITH GRANT OPTION;
REVOKE EXECUTE ON FUNCTION pgvigil.uuid_v7() FROM PUBLIC;
SELECT pgvigil.ensure_partitions('performance_logs', now() + interval '20 days', now() + interval '30 days');

--- right of a role of ours that the owner's own default privileges widened
ALTER DEFAULT PRIVILEGES GRANT UPDATE ON TABLES TO pgvigil_reader;
GRANT UPDATE ON session_lifecycle TO pgvigil_reader;

--- forced row security with a policy for everybody
CREATE POLICY tenants ON sessions USING (true);
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;

--- triggers of the application on its own tables
CREATE FUNCTION app_stamp() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN NEW.metadata := ''{}''; RETURN NEW; END';
CREATE TRIGGER a_first BEFORE INSERT OR UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION app_stamp();

--- settings of a role that names itself, and a granularity in use
ALTER ROLE a_stranger SET pgvigil.actor = 'billing';
ALTER ROLE ALL SET pgvigil.activity_granularity = '5 minutes';
ALTER ROLE pgvigil_reader SET pgvigil.activity_granularity = '0';

--- role given to somebody
GRANT pgvigil_reader TO a_stranger;
GRANT pgvigil_admin TO a_stranger WITH ADMIN OPTION;
ALTER ROLE pgvigil_reader SET statement_timeout = '1min';

--- rights on the database
DO $$ BEGIN EXECUTE format('GRANT CONNECT ON DATABASE %I TO pgvigil_reader', current_database()); END $$;
REVOKE CREATE ON SCHEMA public FROM PUBLIC;

--- default privileges of the application
ALTER DEFAULT PRIVILEGES IN SCHEMA public GRANT SELECT ON TABLES TO a_stranger;

-- ── There and back ──────────────────────────────────────────────────────────────────────────────────────────────────────

--- names there and back
ALTER TABLE analytics_aggregations RENAME TO analytics;
ALTER TABLE analytics RENAME TO analytics_aggregations;
ALTER TABLE system_metrics RENAME labels TO tags;
ALTER TABLE system_metrics RENAME tags TO labels;
ALTER INDEX idx_system_metrics_labels RENAME TO i;
ALTER INDEX i RENAME TO idx_system_metrics_labels;
ALTER FUNCTION pgvigil.actor() RENAME TO who;
ALTER FUNCTION pgvigil.who() RENAME TO actor;
ALTER TRIGGER "00_archive_deleted_session" ON sessions RENAME TO t;
ALTER TRIGGER t ON sessions RENAME TO "00_archive_deleted_session";
ALTER TABLE system_metrics RENAME CONSTRAINT system_metrics_labels_check TO c;
ALTER TABLE system_metrics RENAME CONSTRAINT c TO system_metrics_labels_check;

--- schema there and back
ALTER SCHEMA pgvigil RENAME TO vigil;
ALTER SCHEMA vigil RENAME TO pgvigil;

--- triggers off and on
ALTER TABLE sessions DISABLE TRIGGER ALL;
ALTER TABLE sessions ENABLE TRIGGER ALL;

--- row security on and off
ALTER TABLE system_metrics ENABLE ROW LEVEL SECURITY, FORCE ROW LEVEL SECURITY;
ALTER TABLE system_metrics DISABLE ROW LEVEL SECURITY, NO FORCE ROW LEVEL SECURITY;

--- unlogged and back
ALTER TABLE analytics_aggregations SET UNLOGGED;
ALTER TABLE analytics_aggregations SET LOGGED;

--- columns that are gone
ALTER TABLE sessions ADD COLUMN app_extra text;
ALTER TABLE sessions DROP COLUMN app_extra;
ALTER TABLE session_lifecycle ADD COLUMN extra text;
ALTER TABLE session_lifecycle DROP COLUMN extra;
ALTER TABLE pgvigil.deleted_sessions ADD COLUMN extra text;
ALTER TABLE pgvigil.deleted_sessions DROP COLUMN extra;

--- column dropped and made again, now the last one
ALTER TABLE context_history DROP COLUMN processing_time_ms;
ALTER TABLE context_history ADD COLUMN processing_time_ms integer;
COMMENT ON COLUMN context_history.processing_time_ms IS 'How long it took to process, in milliseconds';
CREATE INDEX idx_context_history_processing_time ON context_history (processing_time_ms) WHERE processing_time_ms IS NOT NULL;
COMMENT ON INDEX idx_context_history_processing_time IS 'Slow entries; rows from before the watch are left out';

--- objects made again as the server prints them
DO $do$
DECLARE
    one record;
BEGIN
    FOR one IN SELECT oid::regclass AS name, pg_get_viewdef(oid) AS definition FROM pg_class WHERE relname LIKE '%\_monitoring\_view' LOOP
        EXECUTE format('CREATE OR REPLACE VIEW %s %s AS %s', one.name,
                       (SELECT 'WITH (' || array_to_string(reloptions, ', ') || ')' FROM pg_class WHERE oid = one.name), one.definition);
    END LOOP;
    FOR one IN SELECT pg_get_functiondef(oid) AS definition FROM pg_proc WHERE pronamespace = 'pgvigil'::regnamespace LOOP
        EXECUTE one.definition;
    END LOOP;
    FOR one IN SELECT tgname, tgrelid::regclass AS of, pg_get_triggerdef(oid) AS definition, obj_description(oid, 'pg_trigger') AS comment,
                      CASE tgenabled WHEN 'A' THEN 'ALWAYS' ELSE '' END AS enabled
               FROM pg_trigger WHERE NOT tgisinternal AND tgfoid IN (SELECT oid FROM pg_proc WHERE pronamespace = 'pgvigil'::regnamespace) LOOP
        EXECUTE format('DROP TRIGGER %I ON %s; %s; COMMENT ON TRIGGER %1$I ON %2$s IS %4$L; ALTER TABLE %2$s ENABLE %5$s TRIGGER %1$I',
                       one.tgname, one.of, one.definition, one.comment, one.enabled);
    END LOOP;
    FOR one IN SELECT i.oid::regclass::text AS name, pg_get_indexdef(i.oid) AS definition, obj_description(i.oid, 'pg_class') AS comment
               FROM pg_class i JOIN pg_index x ON x.indexrelid = i.oid JOIN pg_class t ON t.oid = x.indrelid
               WHERE i.relname LIKE 'idx\_%' AND i.relkind = 'i' AND NOT t.relispartition
                     AND NOT EXISTS (SELECT FROM pg_constraint WHERE conindid = i.oid) LOOP
        EXECUTE format('DROP INDEX %s', one.name);
        EXECUTE one.definition;
        EXECUTE format('COMMENT ON INDEX %s IS %L', one.name, one.comment);
    END LOOP;
    FOR one IN SELECT conrelid::regclass AS of, conname, pg_get_constraintdef(oid) AS definition, obj_description(oid, 'pg_constraint') AS comment
               FROM pg_constraint WHERE contype IN ('c', 'f') AND conparentid = 0 AND conislocal
                     AND NOT (SELECT relispartition FROM pg_class WHERE oid = conrelid)
                     AND connamespace IN ('public'::regnamespace, 'pgvigil'::regnamespace) LOOP
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I, ADD CONSTRAINT %2$I %s', one.of, one.conname, one.definition);
        EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', one.conname, one.of, one.comment);
    END LOOP;
    FOR one IN SELECT d.adrelid::regclass AS of, a.attname, pg_get_expr(d.adbin, d.adrelid) AS definition
               FROM pg_attrdef d JOIN pg_attribute a ON a.attrelid = d.adrelid AND a.attnum = d.adnum JOIN pg_class c ON c.oid = d.adrelid
               WHERE c.relkind IN ('r', 'p') AND a.attgenerated = '' AND c.relnamespace IN ('public'::regnamespace, 'pgvigil'::regnamespace) LOOP
        EXECUTE format('ALTER TABLE %s ALTER %I SET DEFAULT %s', one.of, one.attname, one.definition);
    END LOOP;
END $do$;

--- settings that bear on triggers as they are
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET session_replication_role = origin', current_database()); END $$;
ALTER ROLE a_stranger SET session_replication_role = replica;

--- sequence of an identity renamed
ALTER SEQUENCE query_executions_id_seq RENAME TO q;

--- index, comments and order of rows of a partition
ALTER INDEX MONTH_pkey RENAME TO q;
COMMENT ON TABLE MONTH IS 'This month';
COMMENT ON COLUMN MONTH.id IS 'Its id';
ALTER TABLE MONTH CLUSTER ON q;

--- default by its other name
ALTER TABLE sessions ALTER created_at SET DEFAULT CURRENT_TIMESTAMP;

--- NOT NULL by another name
---   from 18
ALTER TABLE system_metrics RENAME CONSTRAINT system_metrics_labels_not_null TO labels_are_there;

-- ── Partitions and settings in tables ───────────────────────────────────────────────────────────────────────────────────

--- new partitions
SELECT pgvigil.ensure_partitions('session_lifecycle', now() - interval '2 years', now() - interval '1 year');
SELECT pgvigil.ensure_partitions('performance_logs', now() + interval '20 days', now() + interval '30 days');

--- old partition dropped
SELECT pgvigil.ensure_partitions('system_metrics', '2020-01-05Z', '2020-01-06Z');
ALTER TABLE system_metrics DETACH PARTITION system_metrics_p202001;
DROP TABLE system_metrics_p202001;

--- partition detached and attached again
DO $$
DECLARE
    bound text := (SELECT pg_get_expr(relpartbound, oid) FROM pg_class WHERE relname = 'DAY');
BEGIN
    ALTER TABLE performance_logs DETACH PARTITION DAY;
    EXECUTE 'ALTER TABLE performance_logs ATTACH PARTITION DAY ' || bound;
END $$;

--- partition made by hand, with its columns in another order
CREATE TABLE system_metrics_p209901 (labels jsonb NOT NULL, recorded_at timestamptz NOT NULL, metric_type varchar(50) NOT NULL,
    metric_value numeric NOT NULL, metric_name varchar(100) NOT NULL, id uuid NOT NULL,
    CONSTRAINT system_metrics_metric_value_check CHECK (metric_value <> 'NaN'::numeric),
    CONSTRAINT system_metrics_metric_type_check CHECK (metric_type::text = ANY ('{counter,gauge,histogram}'::text[])),
    CONSTRAINT system_metrics_labels_check CHECK (jsonb_typeof(labels) = 'object'));
DO $$ BEGIN
    EXECUTE format('ALTER TABLE system_metrics ATTACH PARTITION system_metrics_p209901 FOR VALUES FROM (%L) TO (%L)',
                   pgvigil.uuid_v7_floor('2099-01-01Z'), pgvigil.uuid_v7_floor('2099-02-01Z'));
END $$;
ALTER TABLE system_metrics_p209901 OWNER TO pgvigil_owner;

--- default of a partition, which an insert through its parent does not use
ALTER TABLE MONTH ALTER event_data DROP DEFAULT;

--- other step of partitions
UPDATE pgvigil.partition_policies SET step = 'day', make_ahead = 40 WHERE parent_table = 'session_lifecycle';

--- another name in the ledger
UPDATE pgvigil.migrations SET applied_by = 'somebody', accepted_by = 'somebody';

--- leftover of an earlier attempt
CREATE TABLE pgvigil.legacy_session_lifecycle (id integer);

-- ── Settings of the database ────────────────────────────────────────────────────────────────────────────────────────────

--- other settings of the database
---   committed
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET search_path = pgvigil', current_database()); END $$;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET DateStyle = ''SQL, DMY''', current_database()); END $$;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET IntervalStyle = sql_standard', current_database()); END $$;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET TimeZone = ''Asia/Tokyo''', current_database()); END $$;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET quote_all_identifiers = on', current_database()); END $$;
DO $$ BEGIN EXECUTE format('ALTER DATABASE %I SET default_transaction_read_only = on', current_database()); END $$;
