-- BEFORE/AFTER triggers on sessions, one guard on each child. None has a WHEN clause on the hot path: a WHEN is parsed
-- and compiled again in every statement, an UPDATE OF column list is not. plpgsql compiles each expression that it
-- reaches again in every transaction, so a rare case has an IF of its own, further down.

-- Fires before touch_session, and only where a statement names one of its columns: an ordinary update compares none of
-- them. No SET search_path here, which would cost every update: operators and functions are qualified instead, and
-- nothing is used that looks up an operator by itself (NULLIF, IN, IS DISTINCT FROM). No helper functions either: who
-- may write sessions need not have USAGE on schema pgvigil.
CREATE FUNCTION pgvigil.limit_activity_updates() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    -- The common case in one expression: the branches below would give the same result.
    IF NEW.status OPERATOR(pg_catalog.<>) OLD.status
       AND NEW.status OPERATOR(pg_catalog.<>) 'expired'
       AND NEW.archived_at IS NULL
       AND NOT NEW.is_dormant AND NEW.last_activity_at OPERATOR(pg_catalog.=) OLD.last_activity_at
       AND coalesce(pg_catalog.current_setting('pgvigil.skip_activity', true), '') OPERATOR(pg_catalog.=) '' THEN
        NEW.last_activity_at := CURRENT_TIMESTAMP;
        RETURN NEW;
    END IF;
    IF (NEW.last_activity_at OPERATOR(pg_catalog.=) OLD.last_activity_at) IS NOT TRUE THEN
        IF NEW.last_activity_at OPERATOR(pg_catalog.>) OLD.last_activity_at
           AND NEW.last_activity_at OPERATOR(pg_catalog.<) (OLD.last_activity_at OPERATOR(pg_catalog.+)
               coalesce(
                   CASE WHEN pg_catalog.current_setting('pgvigil.activity_granularity', true) OPERATOR(pg_catalog.<>) ''
                        THEN pg_catalog.current_setting('pgvigil.activity_granularity', true)::interval END,
                   interval '1 minute')) THEN
            NEW.last_activity_at := OLD.last_activity_at;
        ELSIF NEW.last_activity_at IS NOT NULL OR OLD.last_activity_at IS NOT NULL THEN
            RETURN NEW;  -- a value that the statement chose is kept
        END IF;
    END IF;
    -- Expiring, marking dormant, archiving, and what a job does under pgvigil.skip_activity, is not activity; any other
    -- change of what is indexed is, and as such an update is not HOT anyway, it is recorded exactly.
    IF NEW.archived_at IS NOT NULL
       OR pg_catalog.current_setting('pgvigil.skip_activity', true) OPERATOR(pg_catalog.<>) '' THEN
        RETURN NEW;
    END IF;
    IF NEW.status OPERATOR(pg_catalog.<>) OLD.status THEN
        IF NEW.status OPERATOR(pg_catalog.<>) 'expired'
           AND (NEW.is_dormant AND OLD.is_dormant IS NOT TRUE) IS NOT TRUE THEN
            NEW.last_activity_at := CURRENT_TIMESTAMP;
        END IF;
        RETURN NEW;
    END IF;
    IF NEW.is_dormant AND OLD.is_dormant IS NOT TRUE THEN
        RETURN NEW;
    END IF;
    IF NEW.is_dormant OPERATOR(pg_catalog.<>) OLD.is_dormant
       OR OLD.archived_at IS NOT NULL
       OR NOT coalesce(NEW.expires_at OPERATOR(pg_catalog.=) OLD.expires_at,
                       NEW.expires_at IS NULL AND OLD.expires_at IS NULL)
       OR NOT coalesce(NEW.retention_policy OPERATOR(pg_catalog.=) OLD.retention_policy,
                       NEW.retention_policy IS NULL AND OLD.retention_policy IS NULL) THEN
        NEW.last_activity_at := CURRENT_TIMESTAMP;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgvigil.limit_activity_updates() IS
    'Moves last_activity_at exactly where an indexed column changes; leaves steps '
    'of less than pgvigil.activity_granularity, so that heartbeats stay HOT';

-- Moves updated_at always and last_activity_at so rarely that ordinary updates touch no index and stay HOT.
CREATE FUNCTION pgvigil.touch_session() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := CURRENT_TIMESTAMP;
    IF NEW.last_activity_at OPERATOR(pg_catalog.>) (CURRENT_TIMESTAMP OPERATOR(pg_catalog.-)
           coalesce(
               CASE WHEN pg_catalog.current_setting('pgvigil.activity_granularity', true) OPERATOR(pg_catalog.<>) ''
                    THEN pg_catalog.current_setting('pgvigil.activity_granularity', true)::interval END,
               interval '1 minute'))
       AND NEW.archived_at IS NULL AND NEW.is_dormant IS NOT NULL THEN
        RETURN NEW;
    END IF;

    IF NEW.is_dormant IS NULL THEN
        -- The column is NOT NULL, and an application may not know. While a migration fixes rows that an earlier attempt
        -- left as NULL, any update of such a row comes here.
        NEW.is_dormant := coalesce(OLD.is_dormant, false);
    END IF;
    IF OLD.is_dormant IS NULL
       AND pg_catalog.current_setting('pgvigil.skip_activity', true) OPERATOR(pg_catalog.=) 'migration' THEN
        NEW.updated_at := OLD.updated_at;  -- a migration fixes this column: nothing of the application's may move
        RETURN NEW;
    END IF;
    IF OLD.archived_at IS NOT NULL AND NEW.archived_at IS NOT NULL THEN
        RAISE EXCEPTION 'session % is archived and read-only', OLD.id
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = pg_catalog.format('To write to it again, first: SELECT pgvigil.reactivate_session(%L);',
                                             OLD.id);
    END IF;
    -- The same updates as above are not activity, for a session that was not active lately.
    IF (NEW.status OPERATOR(pg_catalog.=) 'expired' AND OLD.status OPERATOR(pg_catalog.<>) 'expired')
       OR (NEW.is_dormant AND OLD.is_dormant IS NOT TRUE)
       OR NEW.archived_at IS NOT NULL
       OR pg_catalog.current_setting('pgvigil.skip_activity', true) OPERATOR(pg_catalog.<>) '' THEN
        -- A session not active since the watch began is as old as its last update: that must not pass for this one.
        NEW.last_activity_at :=
            coalesce(NEW.last_activity_at, OLD.last_activity_at, OLD.updated_at, OLD.created_at, CURRENT_TIMESTAMP);
    ELSIF coalesce(NEW.last_activity_at OPERATOR(pg_catalog.=) OLD.last_activity_at,
                   NEW.last_activity_at IS NULL AND OLD.last_activity_at IS NULL) THEN
        NEW.last_activity_at := CURRENT_TIMESTAMP;
    ELSIF NEW.last_activity_at IS NULL THEN
        NEW.last_activity_at := OLD.last_activity_at;  -- the column is NOT NULL, and an application may not know
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgvigil.touch_session() IS
    'Moves updated_at, and last_activity_at to pgvigil.activity_granularity; refuses writes to an archived session';

-- For a statement that names updated_at itself; touch_session has done it for every other.
CREATE FUNCTION pgvigil.stamp_updated_at() RETURNS trigger
LANGUAGE plpgsql
AS $$
BEGIN
    NEW.updated_at := CURRENT_TIMESTAMP;
    RETURN NEW;
END $$;

-- SECURITY DEFINER: a role that may change a session need not be able to write its trail. By the index, however few the
-- rows are: a sequential scan of sessions, the foreign key's own too, takes a predicate lock on all of them, and at
-- SERIALIZABLE every second writer failed. The contents of an event are put together in variables, which plpgsql
-- compiles once a transaction; in the INSERT it would compile them for every row, a twelfth of the cost of a bulk
-- update. No SET search_path, another twentieth: as above, all is qualified.
-- session_user is cast by itself: beside varchar, an array would become one of type name, which cuts texts at 63 bytes.
CREATE FUNCTION pgvigil.log_session_change() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_seqscan = off
AS $$
#variable_conflict use_variable
DECLARE
    event_id pg_catalog.uuid;
    details  pg_catalog.jsonb;
BEGIN
    -- The common case by fewer expressions: nothing but the status changed, and not to 'expired'. RETURN NEW is none,
    -- RETURN NULL is one. AND and NOT are cheaper than an operator: whether the owner may execute that is looked up.
    IF NEW.status OPERATOR(pg_catalog.<>) OLD.status AND NEW.status OPERATOR(pg_catalog.<>) 'expired'
       AND NOT NEW.is_dormant AND NOT OLD.is_dormant
       AND coalesce(NEW.expires_at OPERATOR(pg_catalog.=) OLD.expires_at,
                    NEW.expires_at IS NULL AND OLD.expires_at IS NULL)
       AND NEW.archived_at IS NULL AND OLD.archived_at IS NULL THEN
        event_id := pgvigil.uuid_v7();
        details := pg_catalog.jsonb_object(ARRAY['old_status', OLD.status, 'new_status', NEW.status,
                                                 'actor', pgvigil.actor(),
                                                 'session_user', session_user::pg_catalog.text]);
        INSERT INTO "{app}".session_lifecycle (id, session_id, event_type, event_data)
        VALUES (event_id, NEW.id, 'status_changed', details);
        RETURN NEW;
    END IF;
    IF NEW.status OPERATOR(pg_catalog.<>) OLD.status THEN
        event_id := pgvigil.uuid_v7();
        IF NEW.status OPERATOR(pg_catalog.=) 'expired' THEN
            details := pg_catalog.jsonb_build_object('previous_status', OLD.status, 'expired_at', CURRENT_TIMESTAMP,
                           'retention_policy', NEW.retention_policy, 'actor', pgvigil.actor(),
                           'session_user', session_user);
            INSERT INTO "{app}".session_lifecycle (id, session_id, event_type, event_data)
            VALUES (event_id, NEW.id, 'expired', details);
        ELSE
            details := pg_catalog.jsonb_object(ARRAY['old_status', OLD.status, 'new_status', NEW.status,
                                                     'actor', pgvigil.actor(),
                                                     'session_user', session_user::pg_catalog.text]);
            INSERT INTO "{app}".session_lifecycle (id, session_id, event_type, event_data)
            VALUES (event_id, NEW.id, 'status_changed', details);
        END IF;
    END IF;
    IF coalesce(NEW.expires_at OPERATOR(pg_catalog.=) OLD.expires_at, NEW.expires_at IS NULL AND OLD.expires_at IS NULL)
       AND NEW.is_dormant OPERATOR(pg_catalog.=) OLD.is_dormant
       AND coalesce(NEW.archived_at OPERATOR(pg_catalog.=) OLD.archived_at,
                    NEW.archived_at IS NULL AND OLD.archived_at IS NULL) THEN
        RETURN NULL;
    END IF;
    IF NOT coalesce(NEW.expires_at OPERATOR(pg_catalog.=) OLD.expires_at,
                    NEW.expires_at IS NULL AND OLD.expires_at IS NULL) THEN
        event_id := pgvigil.uuid_v7();
        details := pg_catalog.jsonb_build_object('expires_at', NEW.expires_at, 'retention_policy', NEW.retention_policy,
                                                 'actor', pgvigil.actor(), 'session_user', session_user);
        INSERT INTO "{app}".session_lifecycle (id, session_id, event_type, event_data)
        VALUES (event_id, NEW.id, 'expiration_scheduled', details);
    END IF;
    IF (NEW.is_dormant IS TRUE) OPERATOR(pg_catalog.<>) (OLD.is_dormant IS TRUE) THEN
        event_id := pgvigil.uuid_v7();
        details := pg_catalog.jsonb_build_object('previous_state', OLD.is_dormant, 'actor', pgvigil.actor(),
                                                 'session_user', session_user);
        INSERT INTO "{app}".session_lifecycle (id, session_id, event_type, event_data)
        VALUES (event_id, NEW.id, CASE WHEN NEW.is_dormant THEN 'dormant' ELSE 'reactivated' END, details);
    END IF;
    IF NEW.archived_at IS NOT NULL AND OLD.archived_at IS NULL THEN
        event_id := pgvigil.uuid_v7();
        details := pg_catalog.jsonb_build_object('archived_at', NEW.archived_at, 'final_status', NEW.status,
                                                 'actor', pgvigil.actor(), 'session_user', session_user);
        INSERT INTO "{app}".session_lifecycle (id, session_id, event_type, event_data)
        VALUES (event_id, NEW.id, 'archived', details);
    ELSIF NEW.archived_at IS NULL AND OLD.archived_at IS NOT NULL
          -- else the event above has said so
          AND (NEW.is_dormant IS TRUE) OPERATOR(pg_catalog.=) (OLD.is_dormant IS TRUE) THEN
        event_id := pgvigil.uuid_v7();
        details := pg_catalog.jsonb_build_object('previous_state', OLD.is_dormant, 'unarchived_from', OLD.archived_at,
                                                 'actor', pgvigil.actor(), 'session_user', session_user);
        INSERT INTO "{app}".session_lifecycle (id, session_id, event_type, event_data)
        VALUES (event_id, NEW.id, 'reactivated', details);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.log_session_change() IS
    'Writes one session_lifecycle event for each change in a session''s state';

CREATE FUNCTION pgvigil.log_session_created() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_seqscan = off
AS $$
BEGIN
    INSERT INTO "{app}".session_lifecycle (session_id, event_type, event_data)
    SELECT s.id, 'created', pg_catalog.jsonb_object(ARRAY['agent_from', s.agent_from, 'agent_to', s.agent_to,
           'retention_policy', s.retention_policy, 'actor', pgvigil.actor(),
           'session_user', session_user::pg_catalog.text])
    FROM new_sessions s;
    RETURN NEW;  -- it is ignored, and costs no expression
END $$;
COMMENT ON FUNCTION pgvigil.log_session_created() IS 'Writes the created events of all sessions of a statement at once';

-- Pinned: last_row must not depend on how the session that deletes spells floats, intervals, ranges and the like.
CREATE FUNCTION pgvigil.archive_deleted_session() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = postgres
SET bytea_output = hex
SET extra_float_digits = 1
SET lc_monetary = 'C'
AS $$
#variable_conflict use_variable
DECLARE
    why text := nullif(current_setting('pgvigil.reason', true), '');
    gone_at timestamptz := clock_timestamp();
BEGIN
    INSERT INTO pgvigil.deleted_sessions (session_id, session_key, deleted_at, actor, reason, retention_policy,
                                          last_row, events)
    SELECT OLD.id, OLD.session_key, gone_at, pgvigil.actor(), why, OLD.retention_policy, to_jsonb(OLD),
           coalesce(jsonb_agg(jsonb_build_object('id', l.id, 'event_type', l.event_type, 'event_data', l.event_data,
                                                 'created_at', l.created_at) ORDER BY l.id), '[]')
           || jsonb_build_object('id', pgvigil.uuid_v7(), 'event_type', 'deleted', 'created_at', gone_at,
                  'event_data', jsonb_build_object('final_status', OLD.status, 'retention_policy', OLD.retention_policy,
                                                   'reason', why, 'actor', pgvigil.actor(),
                                                   'session_user', session_user))
    FROM "{app}".session_lifecycle l WHERE l.session_id = OLD.id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.archive_deleted_session() IS
    'Keeps the last row and the whole trail of a session in pgvigil.deleted_sessions before the trail goes with it';

CREATE FUNCTION pgvigil.refuse_archived_session(session uuid) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'session % is archived and read-only', session
          USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = format('To write to it again, first: SELECT pgvigil.reactivate_session(%L);', session);
END $$;
COMMENT ON FUNCTION pgvigil.refuse_archived_session(uuid) IS 'The error of a write to an archived session';

-- SECURITY DEFINER: who may write children need not be able to read sessions. No SET search_path: all is qualified.
-- New rows of context_history are checked once a statement, by count_added_context.
CREATE FUNCTION pgvigil.guard_archived_session() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_seqscan = off
AS $$
#variable_conflict use_variable
DECLARE
    archived pg_catalog.timestamptz;
    of_session pg_catalog.uuid;
BEGIN
    -- A child always has its session: one that is not found here is hidden, if the statement does not fail anyway.
    IF TG_OP OPERATOR(pg_catalog.=) 'INSERT' THEN
        SELECT archived_at INTO archived FROM "{app}".sessions WHERE id OPERATOR(pg_catalog.=) NEW.session_id;
        IF FOUND AND archived IS NULL THEN
            RETURN NEW;
        END IF;
        IF NOT FOUND THEN
            PERFORM pgvigil.require_all_rows();
            RETURN NEW;
        END IF;
        of_session := NEW.session_id;
    ELSE
        of_session := OLD.session_id;
        SELECT archived_at INTO archived FROM "{app}".sessions WHERE id OPERATOR(pg_catalog.=) OLD.session_id;
        -- In a cascade the session itself is gone already, so its children may follow.
        IF NOT FOUND AND (TG_OP OPERATOR(pg_catalog.=) 'UPDATE'
                          OR pg_catalog.pg_trigger_depth() OPERATOR(pg_catalog.=) 1) THEN
            PERFORM pgvigil.require_all_rows();
        END IF;
        IF TG_OP OPERATOR(pg_catalog.=) 'DELETE' THEN
            IF archived IS NULL THEN
                RETURN OLD;
            END IF;
        ELSIF archived IS NULL THEN
            IF NEW.session_id OPERATOR(pg_catalog.<>) OLD.session_id THEN
                of_session := NEW.session_id;
                SELECT archived_at INTO archived FROM "{app}".sessions WHERE id OPERATOR(pg_catalog.=) NEW.session_id;
                IF NOT FOUND THEN
                    PERFORM pgvigil.require_all_rows();
                END IF;
            END IF;
            IF archived IS NULL THEN
                RETURN NEW;
            END IF;
        END IF;
    END IF;
    PERFORM pgvigil.refuse_archived_session(of_session);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.guard_archived_session() IS 'Refuses writes to the children of an archived session';

CREATE FUNCTION pgvigil.reactivate_session(session uuid) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    was        record;
    new_status text;
    expiry     timestamptz;
BEGIN
    SELECT s.status, s.expires_at,
           s.archived_at IS NOT NULL OR s.is_dormant OR s.status IN ('archived', 'expired') AS asleep
    INTO was
    FROM "{app}".sessions s WHERE s.id = session FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no session %', session USING ERRCODE = 'no_data_found';
    END IF;
    IF was.asleep IS NOT TRUE THEN
        RETURN false;
    END IF;
    new_status := CASE WHEN was.status IN ('archived', 'expired') THEN 'active' ELSE was.status END;
    expiry := CASE WHEN was.expires_at > now() THEN was.expires_at END;  -- or it would be expired again at once
    PERFORM pgvigil.use_application_path();
    UPDATE "{app}".sessions
    SET archived_at = NULL, is_dormant = false, status = new_status, expires_at = expiry
    WHERE id = session;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgvigil.reactivate_session(uuid) IS
    'Brings an archived, dormant or expired session back to life, without an expires_at '
    'that has passed; false if it was none of these; an error if there is no such session';
