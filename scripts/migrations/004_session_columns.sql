-- From here on sessions is locked, until the end of the transaction: only steps that take an instant.
-- No default is written into existing rows: last_activity_at stays NULL until a session is next active, and readers fall
-- back to updated_at. A default of now() would have declared every idle session active at the time of the migration.
-- Children first: who writes a child holds its lock when the foreign key asks for that of sessions, and in the other order
-- each of us would wait for the other.
LOCK TABLE codebase_snapshots IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE context_history, handoff_requests, sessions IN ACCESS EXCLUSIVE MODE;

SELECT pgvigil.add_column('004', 'sessions', 'last_activity_at', 'timestamptz');
SELECT pgvigil.add_column('004', 'sessions', 'is_dormant', 'boolean NOT NULL DEFAULT false');
SELECT pgvigil.add_column('004', 'sessions', 'archived_at', 'timestamptz');
SELECT pgvigil.add_column('004', 'sessions', 'retention_policy', 'varchar(50) DEFAULT ''standard''');
SELECT pgvigil.add_column('004', 'context_history', 'processing_time_ms', 'integer');
SELECT pgvigil.add_column('004', 'context_history', 'content_size_bytes', 'integer');
SELECT pgvigil.add_column('004', 'context_history', 'tokens_used', 'integer');

ALTER TABLE sessions
    ALTER COLUMN last_activity_at SET DEFAULT now(),
    ALTER COLUMN is_dormant SET DEFAULT false,
    ALTER COLUMN archived_at DROP DEFAULT,
    ALTER COLUMN retention_policy SET DEFAULT 'standard';
COMMENT ON COLUMN sessions.last_activity_at IS
    'Last activity, to pgvigil.activity_granularity; NULL: none since the watch began, see updated_at';
COMMENT ON COLUMN sessions.is_dormant IS 'Marked as dormant; marking is not activity';
COMMENT ON COLUMN sessions.archived_at IS 'When it was archived: from then on the session and its children are read-only';
COMMENT ON COLUMN sessions.retention_policy IS 'Name of its retention policy';
COMMENT ON COLUMN context_history.processing_time_ms IS 'How long it took to process, in milliseconds';
COMMENT ON COLUMN context_history.content_size_bytes IS 'Size of the content in bytes';
COMMENT ON COLUMN context_history.tokens_used IS 'Tokens it used';

-- Room on each page keeps ordinary updates HOT.
INSERT INTO pgvigil.found_before (revision, object, restore_sql)
SELECT '004', 'fillfactor of sessions',
       coalesce((SELECT format('ALTER TABLE sessions SET (%s)', option) FROM unnest(reloptions) AS option WHERE option LIKE 'fillfactor=%'),
                'ALTER TABLE sessions RESET (fillfactor)')
FROM pg_class WHERE oid = 'sessions'::regclass;
ALTER TABLE sessions SET (fillfactor = 90);

SELECT pgvigil.add_value_check('004', 'sessions', 'status', '{active,pending,completed,expired,cancelled,archived}');
SELECT pgvigil.add_value_check('004', 'context_history', 'context_type', '{message,file,tool_call,system}');
SELECT pgvigil.add_value_check('004', 'handoff_requests', 'status', '{pending,accepted,rejected,completed}');

ALTER TABLE session_lifecycle ADD CONSTRAINT session_lifecycle_session_id_fkey
    FOREIGN KEY (session_id) REFERENCES sessions (id) ON DELETE CASCADE;
COMMENT ON CONSTRAINT session_lifecycle_session_id_fkey ON session_lifecycle IS
    'A trail belongs to a session; when that is deleted, pgvigil.deleted_sessions keeps the trail';

CREATE PROCEDURE pgvigil.settle_dormancy(batch integer DEFAULT 1000)
LANGUAGE plpgsql AS $$
DECLARE
    moved bigint;
BEGIN
    PERFORM pgvigil.pin_search_path();
    IF (SELECT attnotnull FROM pg_attribute WHERE attrelid = 'sessions'::regclass AND attname = 'is_dormant') THEN
        RETURN;
    END IF;
    -- New rows can hold no NULL from here on; SET NOT NULL then trusts the validated CHECK and reads nothing under its lock.
    IF NOT EXISTS (SELECT FROM pg_constraint WHERE conrelid = 'sessions'::regclass AND conname = 'sessions_is_dormant_set') THEN
        ALTER TABLE sessions ADD CONSTRAINT sessions_is_dormant_set CHECK (is_dormant IS NOT NULL) NOT VALID;
        COMMIT;
    END IF;
    LOOP
        PERFORM pgvigil.pin_search_path(), set_config('pgvigil.upkeep', 'migration', true);
        UPDATE sessions SET is_dormant = false
        WHERE id IN (SELECT id FROM sessions WHERE is_dormant IS NULL LIMIT batch FOR UPDATE SKIP LOCKED);
        GET DIAGNOSTICS moved = ROW_COUNT;
        EXIT WHEN moved = 0 AND NOT EXISTS (SELECT FROM sessions WHERE is_dormant IS NULL);
        COMMIT;
        IF moved = 0 THEN
            PERFORM pg_sleep(0.05);  -- the rest is locked by writers: let them finish
        END IF;
    END LOOP;
    COMMIT;
    PERFORM pgvigil.pin_search_path();
    ALTER TABLE sessions VALIDATE CONSTRAINT sessions_is_dormant_set;
    COMMIT;
    PERFORM pgvigil.pin_search_path();
    ALTER TABLE sessions ALTER COLUMN is_dormant SET NOT NULL, DROP CONSTRAINT sessions_is_dormant_set;
END $$;
COMMENT ON PROCEDURE pgvigil.settle_dormancy(integer) IS
    'Used by migrations: an is_dormant that an earlier attempt left nullable becomes NOT NULL, in batches';
