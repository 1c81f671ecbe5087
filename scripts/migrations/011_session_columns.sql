-- Gives rows of sessions a value of a column that is to be NOT NULL, with the rights of the caller, who has to own the
-- table. No other session sees the triggers disabled: the change of their state commits together with the change back.
-- The lock admits readers and lets a writer wait for one batch. A row from before a CHECK of the application that is
-- NOT VALID may break it, and would be refused for that: then the CHECK is away for as long as the batch, which nobody
-- sees either.
CREATE FUNCTION pgvigil.backfill_sessions(places tid[], change text) RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    target regclass := pgvigil.application_table('sessions');
    off_   text;
    on_    text;
    away   record;
    back   text[] := '{}';
    one    text;
    moved  bigint;
BEGIN
    SELECT string_agg(format('DISABLE TRIGGER %I', t.tgname), ', '),
           string_agg(format(CASE t.tgenabled WHEN 'A' THEN 'ENABLE ALWAYS TRIGGER %I' ELSE 'ENABLE TRIGGER %I' END,
                             t.tgname),
                      ', ')
    INTO off_, on_
    FROM pg_trigger t
    WHERE t.tgrelid = target AND NOT t.tgisinternal AND t.tgenabled IN ('O', 'A') AND t.tgtype & 16 > 0;
    LOCK TABLE "{app}".sessions IN SHARE ROW EXCLUSIVE MODE;
    PERFORM pgvigil.use_application_path();
    IF off_ IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s %s', target, off_);
    END IF;
    change := format('UPDATE %1$s u SET %2$s WHERE u.ctid = ANY (ARRAY(
                          SELECT s.ctid FROM %1$s s WHERE s.ctid = ANY ($1) FOR NO KEY UPDATE SKIP LOCKED))',
                     target, change);
    BEGIN
        EXECUTE change USING places;
        GET DIAGNOSTICS moved = ROW_COUNT;
    EXCEPTION WHEN check_violation THEN
        FOR away IN SELECT c.conname, pg_get_constraintdef(c.oid) AS definition,
                           obj_description(c.oid, 'pg_constraint') AS said
                    FROM pg_constraint c
                    WHERE c.conrelid = target AND c.contype = 'c' AND NOT c.convalidated
                      AND c.conname <> ALL ('{sessions_is_dormant_set,sessions_last_activity_at_set}'::name[]) LOOP
            EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', target, away.conname);
            back := back || format('ALTER TABLE %s ADD CONSTRAINT %I %s', target, away.conname, away.definition);
            IF away.said IS NOT NULL THEN
                back := back || format('COMMENT ON CONSTRAINT %I ON %s IS %L', away.conname, target, away.said);
            END IF;
        END LOOP;
        IF back = '{}' THEN
            RAISE;
        END IF;
        EXECUTE change USING places;
        GET DIAGNOSTICS moved = ROW_COUNT;
        FOREACH one IN ARRAY back LOOP
            EXECUTE one;
        END LOOP;
    END;
    IF on_ IS NOT NULL THEN
        EXECUTE format('ALTER TABLE %s %s', target, on_);
    END IF;
    RETURN moved;
END $$;
COMMENT ON FUNCTION pgvigil.backfill_sessions(tid[], text) IS
    'Used by migrations: changes rows of sessions past the triggers of '
    'the application and its CHECKs that are NOT VALID; returns how many';

-- One transaction of the procedure below. No rights but the caller's, who has to own the table: it alters that.
CREATE FUNCTION pgvigil.backfill_dormancy_step(state jsonb, batch integer DEFAULT 1000) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    places    tid[];
    validated boolean;
BEGIN
    IF (SELECT attnotnull
        FROM pg_attribute
        WHERE attrelid = pgvigil.application_table('sessions') AND attname = 'is_dormant') THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '200ms', true);
    SELECT c.convalidated INTO validated FROM pg_constraint c
    WHERE c.conrelid = pgvigil.application_table('sessions') AND c.conname = 'sessions_is_dormant_set';
    IF validated IS NULL THEN
        -- New rows can hold no NULL from here on; SET NOT NULL then trusts the validated CHECK and reads nothing under
        -- its lock.
        ALTER TABLE "{app}".sessions ADD CONSTRAINT sessions_is_dormant_set CHECK (is_dormant IS NOT NULL) NOT VALID;
    ELSIF validated THEN
        ALTER TABLE "{app}".sessions ALTER COLUMN is_dormant SET NOT NULL, DROP CONSTRAINT sessions_is_dormant_set;
        RETURN NULL;
    ELSE
        places := ARRAY(SELECT s.ctid FROM "{app}".sessions s WHERE s.is_dormant IS NULL LIMIT batch);
        IF places = '{}' THEN
            ALTER TABLE "{app}".sessions VALIDATE CONSTRAINT sessions_is_dormant_set;
        ELSIF pgvigil.backfill_sessions(places, 'is_dormant = coalesce(u.is_dormant, false)') = 0 THEN
            PERFORM pg_sleep(0.05);  -- the rest is locked by writers: let them finish
        END IF;
    END IF;
    RETURN state;
END $$;
COMMENT ON FUNCTION pgvigil.backfill_dormancy_step(jsonb, integer) IS
    'One step of backfill_dormancy; NULL: all is done';

CREATE PROCEDURE pgvigil.backfill_dormancy(batch integer DEFAULT 1000)
LANGUAGE plpgsql
AS $$
DECLARE
    state jsonb := '{}';
BEGIN
    WHILE state IS NOT NULL LOOP
        state := pgvigil.backfill_dormancy_step(state, batch);
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgvigil.backfill_dormancy(integer) IS
    'Used by migrations: an is_dormant that an earlier attempt left nullable becomes NOT NULL, in batches';

-- One transaction of the procedure below, with the rights of its caller, who has to own the table. Rows are found
-- before the lock is taken, in the order of the file: each page is read and written once.
CREATE FUNCTION pgvigil.backfill_last_activity_step(state jsonb, batch integer DEFAULT 2000) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
SET enable_seqscan = off
SET enable_indexscan = off
SET enable_bitmapscan = off
AS $$
#variable_conflict use_variable
DECLARE
    target     regclass := pgvigil.application_table('sessions');
    first_page bigint := coalesce((state ->> 'page')::bigint, 0);
    from_row   tid := format('(%s,0)', first_page)::tid;
    places     tid[];
    validated  boolean;
BEGIN
    IF (SELECT attnotnull FROM pg_attribute WHERE attrelid = target AND attname = 'last_activity_at') THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('lock_timeout', '200ms', true);
    SELECT c.convalidated
    INTO validated
    FROM pg_constraint c
    WHERE c.conrelid = target AND c.conname = 'sessions_last_activity_at_set';
    IF validated IS NULL THEN
        -- New rows can hold no NULL from here on; SET NOT NULL then trusts the validated CHECK and reads nothing under
        -- its lock.
        ALTER TABLE "{app}".sessions ADD CONSTRAINT sessions_last_activity_at_set
            CHECK (last_activity_at IS NOT NULL) NOT VALID;
        RETURN state;
    ELSIF validated THEN
        ALTER TABLE "{app}".sessions ALTER COLUMN last_activity_at SET NOT NULL,
            DROP CONSTRAINT sessions_last_activity_at_set;
        RETURN NULL;
    END IF;
    places := ARRAY(SELECT s.ctid
                    FROM "{app}".sessions s
                    WHERE s.ctid >= from_row AND s.last_activity_at IS NULL
                    LIMIT batch);
    IF places = '{}' AND first_page > 0 THEN
        PERFORM pg_sleep(0.01);
        RETURN state - 'page';  -- rows that somebody had locked are still to do
    ELSIF places = '{}' THEN
        ALTER TABLE "{app}".sessions VALIDATE CONSTRAINT sessions_last_activity_at_set;
        RETURN state;
    END IF;
    PERFORM pgvigil.backfill_sessions(
        places, 'last_activity_at = coalesce(u.last_activity_at, u.updated_at, u.created_at, CURRENT_TIMESTAMP)');
    RETURN jsonb_build_object('page', split_part(trim('()' FROM places[cardinality(places)]::text), ',', 1)::bigint);
END $$;
COMMENT ON FUNCTION pgvigil.backfill_last_activity_step(jsonb, integer) IS
    'One step of backfill_last_activity; NULL: all is done';

CREATE PROCEDURE pgvigil.backfill_last_activity(batch integer DEFAULT 2000)
LANGUAGE plpgsql
AS $$
DECLARE
    state jsonb := '{}';
BEGIN
    WHILE state IS NOT NULL LOOP
        state := pgvigil.backfill_last_activity_step(state, batch);
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgvigil.backfill_last_activity(integer) IS
    'Used by migrations: sessions from before get updated_at as '
    'their last_activity_at, in batches; then the column is NOT NULL';

-- From here on sessions is locked, until the end of the transaction: only steps that take an instant. No default is
-- written into existing rows: 014 gives them their updated_at, in batches. A default of now() would have declared every
-- idle session active at the time of the migration. Children first: who writes a child holds its lock when the foreign
-- key asks for that of sessions, and in the other order each of us would wait for the other.
LOCK TABLE "{app}".codebase_snapshots IN SHARE ROW EXCLUSIVE MODE;
LOCK TABLE "{app}".context_history, "{app}".handoff_requests, "{app}".sessions IN ACCESS EXCLUSIVE MODE;

SELECT pgvigil.add_column('011', 'sessions', 'last_activity_at', 'timestamptz');
SELECT pgvigil.add_column('011', 'sessions', 'is_dormant', 'boolean NOT NULL DEFAULT false');
SELECT pgvigil.add_column('011', 'sessions', 'archived_at', 'timestamptz');
SELECT pgvigil.add_column('011', 'sessions', 'retention_policy', 'varchar(50) DEFAULT ''standard''');
SELECT pgvigil.add_column('011', 'context_history', 'processing_time_ms', 'integer');
SELECT pgvigil.add_column('011', 'context_history', 'content_size_bytes', 'integer');
SELECT pgvigil.add_column('011', 'context_history', 'tokens_used', 'integer');

ALTER TABLE "{app}".sessions
    ALTER COLUMN last_activity_at SET DEFAULT now(),
    ALTER COLUMN is_dormant SET DEFAULT false,
    ALTER COLUMN archived_at DROP DEFAULT,
    ALTER COLUMN retention_policy SET DEFAULT 'standard';
-- Without rows there is nothing to backfill, and the init script, which can call no procedure that commits, ends where
-- migrations do.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM "{app}".sessions) THEN
        ALTER TABLE "{app}".sessions ALTER COLUMN last_activity_at SET NOT NULL;
    END IF;
END $$;
COMMENT ON COLUMN "{app}".sessions.last_activity_at IS
    'Last activity, to pgvigil.activity_granularity; before the first one under watch, updated_at';
COMMENT ON COLUMN "{app}".sessions.is_dormant IS 'Marked as dormant; marking is not activity';
COMMENT ON COLUMN "{app}".sessions.archived_at IS
    'When it was archived: from then on the session and its children are read-only';

-- Room on each page keeps ordinary updates HOT.
INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql)
SELECT '011', 'fillfactor of sessions',
       coalesce((SELECT format('ALTER TABLE %s SET (%s)', c.oid::regclass, option)
                 FROM unnest(c.reloptions) AS option
                 WHERE option LIKE 'fillfactor=%'),
                format('ALTER TABLE %s RESET (fillfactor)', c.oid::regclass))
FROM pg_class c WHERE c.oid = pgvigil.application_table('sessions');
ALTER TABLE "{app}".sessions SET (fillfactor = 90);

SELECT pgvigil.add_value_check(l.table_name, l.column_name, l.allowed) FROM pgvigil.value_lists() l ORDER BY l.place;

ALTER TABLE "{app}".session_lifecycle ADD CONSTRAINT session_lifecycle_session_id_fkey
    FOREIGN KEY (session_id) REFERENCES "{app}".sessions (id) ON DELETE CASCADE;
COMMENT ON CONSTRAINT session_lifecycle_session_id_fkey ON "{app}".session_lifecycle IS
    'A trail belongs to a session; when that is deleted, pgvigil.deleted_sessions keeps the trail';

ALTER TABLE pgvigil.session_counters ADD CONSTRAINT session_counters_session_id_fkey
    FOREIGN KEY (session_id) REFERENCES "{app}".sessions (id) ON DELETE CASCADE;
COMMENT ON CONSTRAINT session_counters_session_id_fkey ON pgvigil.session_counters IS 'Counters go with their session';
ALTER TABLE pgvigil.legal_holds ADD CONSTRAINT legal_holds_session_id_fkey FOREIGN KEY (session_id)
    REFERENCES "{app}".sessions (id);
COMMENT ON CONSTRAINT legal_holds_session_id_fkey ON pgvigil.legal_holds IS 'A session under hold cannot be deleted';

SELECT pgvigil.displace_trigger('011', 'sessions', name)
FROM unnest('{update_sessions_last_activity,update_sessions_updated_at,log_session_lifecycle,'
            'log_session_lifecycle_created,00_archive_deleted_session,watch_session}'::text[]) AS name;
SELECT pgvigil.displace_trigger('011', name, 'guard_archived_session')
FROM unnest('{context_history,codebase_snapshots,handoff_requests}'::text[]) AS name;

CREATE TRIGGER update_sessions_last_activity
    BEFORE UPDATE OF last_activity_at, status, is_dormant, archived_at, expires_at, retention_policy ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.limit_activity_updates();
CREATE TRIGGER update_sessions_updated_at BEFORE UPDATE OF updated_at ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.stamp_updated_at();
-- Under a name of our own, and by that name after the two above: some applications create triggers of the names that
-- they know again at each start, and the replacements of those guard nothing.
CREATE TRIGGER watch_session BEFORE UPDATE ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.touch_session();
COMMENT ON TRIGGER watch_session ON "{app}".sessions IS
    'Moves updated_at and last_activity_at; guards archived sessions';
CREATE TRIGGER log_session_lifecycle AFTER UPDATE OF status, is_dormant, archived_at, expires_at ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.log_session_change();
CREATE TRIGGER log_session_lifecycle_created AFTER INSERT ON "{app}".sessions
    REFERENCING NEW TABLE AS new_sessions FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.log_session_created();
-- AFTER, because a row that a later BEFORE trigger keeps (a soft delete) is not deleted. Triggers fire in the order of
-- their names: this one, for its digits, before the foreign key's (RI_ConstraintTrigger...), which deletes the trail.
CREATE TRIGGER "00_archive_deleted_session" AFTER DELETE ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.archive_deleted_session();
CREATE TRIGGER guard_archived_session BEFORE UPDATE OR DELETE ON "{app}".context_history
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();
CREATE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE OR DELETE ON "{app}".codebase_snapshots
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();
CREATE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE OR DELETE ON "{app}".handoff_requests
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();
COMMENT ON TRIGGER update_sessions_last_activity ON "{app}".sessions IS
    'Changes of state move last_activity_at exactly; small explicit steps of it stay where they were';
COMMENT ON TRIGGER update_sessions_updated_at ON "{app}".sessions IS 'Moves updated_at where a statement names it';
COMMENT ON TRIGGER log_session_lifecycle ON "{app}".sessions IS
    'One event per change; it sees the columns a statement names, not those that another BEFORE trigger changes';
COMMENT ON TRIGGER log_session_lifecycle_created ON "{app}".sessions IS 'The created events, once per statement';
COMMENT ON TRIGGER "00_archive_deleted_session" ON "{app}".sessions IS
    'Deletion forgets nothing; by its name it comes before the foreign key that takes the trail away';
SELECT pgvigil.displace_trigger('011', 'context_history', name)
FROM unnest('{count_added_context,count_changed_context,count_removed_context,clear_session_counters}'::text[]) AS name;
CREATE TRIGGER count_added_context AFTER INSERT ON "{app}".context_history
    REFERENCING NEW TABLE AS new_context FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.count_added_context();
CREATE TRIGGER count_changed_context AFTER UPDATE ON "{app}".context_history
    REFERENCING OLD TABLE AS old_context NEW TABLE AS new_context
        FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.count_changed_context();
CREATE TRIGGER count_removed_context AFTER DELETE ON "{app}".context_history
    REFERENCING OLD TABLE AS old_context FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.count_removed_context();
CREATE TRIGGER clear_session_counters AFTER TRUNCATE ON "{app}".context_history
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.clear_session_counters();
COMMENT ON TRIGGER count_added_context ON "{app}".context_history IS
    'Counters of a session, once per statement; refuses rows of an archived one';
COMMENT ON TRIGGER count_changed_context ON "{app}".context_history IS
    'Counters of a session, once per statement; rows may move between sessions';
COMMENT ON TRIGGER count_removed_context ON "{app}".context_history IS 'Counters of a session, once per statement';
COMMENT ON TRIGGER clear_session_counters ON "{app}".context_history IS 'Counters of all sessions';
SELECT pgvigil.displace_trigger('011', 'sessions', name)
FROM unnest('{set_default_expiry,guard_legal_hold,guard_policy_hold,archive_truncated_sessions}'::text[]) AS name;
CREATE TRIGGER set_default_expiry BEFORE INSERT ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.set_default_expiry();
CREATE TRIGGER guard_legal_hold BEFORE DELETE ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_legal_hold();
CREATE TRIGGER guard_policy_hold AFTER UPDATE OF retention_policy ON "{app}".sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_policy_hold();
COMMENT ON TRIGGER guard_policy_hold ON "{app}".sessions IS
    'A policy under legal hold cannot be left for one that is not';
COMMENT ON TRIGGER set_default_expiry ON "{app}".sessions IS 'expires_at by policy';
COMMENT ON TRIGGER guard_legal_hold ON "{app}".sessions IS 'Keeps sessions that are under legal hold';
CREATE TRIGGER archive_truncated_sessions BEFORE TRUNCATE ON "{app}".sessions
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.archive_truncated_sessions();
COMMENT ON TRIGGER archive_truncated_sessions ON "{app}".sessions IS 'TRUNCATE forgets nothing either';
SELECT pgvigil.displace_trigger('011', name, 'guard_archived_children')
FROM unnest('{context_history,codebase_snapshots,handoff_requests}'::text[]) AS name;
CREATE TRIGGER guard_archived_children AFTER TRUNCATE ON "{app}".context_history
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.guard_archived_children();
CREATE TRIGGER guard_archived_children AFTER TRUNCATE ON "{app}".codebase_snapshots
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.guard_archived_children();
CREATE TRIGGER guard_archived_children AFTER TRUNCATE ON "{app}".handoff_requests
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.guard_archived_children();
