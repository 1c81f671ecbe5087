-- The ledger: made before the first migration is recorded, dropped when the last one is reverted.
-- alembic_version is Alembic's own table, in the shape Alembic gives it; migrations says how each file went in.

CREATE TABLE pgvigil.alembic_version (
    version_num varchar(32) NOT NULL,
    CONSTRAINT alembic_version_pkc PRIMARY KEY (version_num)
);
COMMENT ON TABLE pgvigil.alembic_version IS 'Alembic''s ledger: the current revision of this database';
COMMENT ON COLUMN pgvigil.alembic_version.version_num IS 'Revision of the newest migration in this database';
COMMENT ON CONSTRAINT alembic_version_pkc ON pgvigil.alembic_version IS 'As Alembic creates it';

CREATE TABLE pgvigil.migrations (
    revision      text NOT NULL CONSTRAINT migrations_pkey PRIMARY KEY,
    name          text NOT NULL,
    schema_name   text NOT NULL,
    baselined     boolean NOT NULL,
    sha256_bytes  text NOT NULL,
    sha256_tokens text NOT NULL,
    applied_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    applied_by    text NOT NULL DEFAULT session_user,
    duration_ms   integer NOT NULL,
    tool_version  text NOT NULL,
    accepted_at   timestamptz,
    accepted_by   text
);
COMMENT ON TABLE pgvigil.migrations IS
    'One row per migration file in this database, written in the file''s own transaction';
COMMENT ON COLUMN pgvigil.migrations.revision IS 'The file''s number, and its Alembic revision';
COMMENT ON COLUMN pgvigil.migrations.name IS 'File name without .sql';
COMMENT ON COLUMN pgvigil.migrations.schema_name IS 'Schema that holds the application''s tables';
COMMENT ON COLUMN pgvigil.migrations.baselined IS
    'True when what the file makes was already there and was checked instead of made';
COMMENT ON COLUMN pgvigil.migrations.sha256_bytes IS 'SHA-256 of the file on disk';
COMMENT ON COLUMN pgvigil.migrations.sha256_tokens IS
    'SHA-256 of its SQL tokens: the same while only comments or white space change';
COMMENT ON COLUMN pgvigil.migrations.applied_at IS 'When the file had run';
COMMENT ON COLUMN pgvigil.migrations.applied_by IS 'The role that ran it';
COMMENT ON COLUMN pgvigil.migrations.duration_ms IS 'How long its statements took, in milliseconds';
COMMENT ON COLUMN pgvigil.migrations.tool_version IS 'Version of pgvigil that ran it';
COMMENT ON COLUMN pgvigil.migrations.accepted_at IS
    'When an edit of the file after it had gone in was accepted; NULL: there was none';
COMMENT ON COLUMN pgvigil.migrations.accepted_by IS 'The role that accepted it';
COMMENT ON CONSTRAINT migrations_pkey ON pgvigil.migrations IS 'A file goes in once';

-- The application's schema is stored in the ledger, and nowhere else. A SQL function that is bound when it is made: no
-- search_path of a caller bends it.
CREATE FUNCTION pgvigil.application_schema() RETURNS name
LANGUAGE sql
STABLE
BEGIN ATOMIC
    SELECT m.schema_name::name FROM pgvigil.migrations m WHERE m.revision = '000';
END;
COMMENT ON FUNCTION pgvigil.application_schema() IS 'The schema that holds the application''s tables';

CREATE FUNCTION pgvigil.application_table(name text) RETURNS regclass
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN to_regclass(format('%I.%I', pgvigil.application_schema(), name));
END $$;
COMMENT ON FUNCTION pgvigil.application_table(text) IS
    'A table of the application''s schema; NULL if there is none of that name';

-- Triggers of the application on its tables may name tables without a schema. A function that writes there sets this
-- path first, after all its look-ups: the statement itself names schemas, and its operators match those of pg_catalog
-- exactly.
CREATE FUNCTION pgvigil.use_application_path() RETURNS void
LANGUAGE plpgsql
VOLATILE
AS $$
BEGIN
    PERFORM pg_catalog.set_config('search_path',
                                  pg_catalog.format('pg_catalog, %I, pg_temp', pgvigil.application_schema()),
                                  true);
END $$;
COMMENT ON FUNCTION pgvigil.use_application_path() IS
    'search_path of the rest of the calling function: pg_catalog, then the application''s schema';

-- Used by the runner and by the init script alike. The markers wait for their table: 003 makes it.
CREATE FUNCTION pgvigil.record_migration(revision text, name text, schema_name text, baselined boolean,
                                         sha256_bytes text, sha256_tokens text, duration_ms integer, tool_version text)
RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    metrics regclass;
BEGIN
    INSERT INTO pgvigil.migrations (revision, name, schema_name, baselined, sha256_bytes, sha256_tokens, duration_ms,
                                    tool_version)
    VALUES (revision, name, schema_name, baselined, sha256_bytes, sha256_tokens, duration_ms, tool_version);
    metrics := pgvigil.application_table('system_metrics');
    IF (SELECT c.relkind FROM pg_class c WHERE c.oid = metrics) = 'p' THEN
        EXECUTE format($marker$
            INSERT INTO %1$s (metric_name, metric_value, metric_type, labels)
            SELECT 'migration_completed', 1,
                   'counter', jsonb_build_object('migration_name', m.name, 'completed_at', m.applied_at)
            FROM pgvigil.migrations m
            WHERE NOT EXISTS (SELECT FROM %1$s s
                              WHERE s.metric_name = 'migration_completed' AND s.labels ->> 'migration_name' = m.name)
            ORDER BY m.revision$marker$, metrics);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.record_migration(text, text, text, boolean, text, text, integer, text) IS
    'Writes the ledger row of a migration, and the markers that are not yet in system_metrics';

CREATE FUNCTION pgvigil.mark_initialized(schema_version text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    EXECUTE format($marker$
        INSERT INTO %1$s (metric_name, metric_value, metric_type, labels)
        SELECT 'schema_initialized', 1,
               'counter', jsonb_build_object('schema_version', $1, 'initialized_at', clock_timestamp())
        WHERE NOT EXISTS (SELECT FROM %1$s s WHERE s.metric_name = 'schema_initialized')$marker$,
        pgvigil.application_table('system_metrics')) USING schema_version;
END $$;
COMMENT ON FUNCTION pgvigil.mark_initialized(text) IS 'Writes the marker of a new install, once';
