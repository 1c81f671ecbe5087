-- Four BEFORE/AFTER triggers on sessions, one guard on each child. None has a WHEN clause on the hot path: a WHEN is parsed
-- and compiled anew in every statement, an UPDATE OF column list is not.

-- Moves updated_at always and last_activity_at seldom enough that ordinary updates touch no index and stay HOT.
-- No SET search_path, which would cost every update: operators are qualified instead.
CREATE FUNCTION pgvigil.touch_session() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    NEW.updated_at := CURRENT_TIMESTAMP;
    IF OLD.archived_at IS NULL AND NEW.archived_at IS NULL
       AND NEW.status OPERATOR(pg_catalog.=) OLD.status
       AND NEW.is_dormant OPERATOR(pg_catalog.=) OLD.is_dormant
       AND coalesce(NEW.expires_at OPERATOR(pg_catalog.=) OLD.expires_at, NEW.expires_at IS NULL AND OLD.expires_at IS NULL)
       AND coalesce(NEW.retention_policy OPERATOR(pg_catalog.=) OLD.retention_policy,
                    NEW.retention_policy IS NULL AND OLD.retention_policy IS NULL) THEN
        -- Nothing indexed changed: activity is recorded to the granularity only, and a value the statement chose stands.
        IF OLD.last_activity_at OPERATOR(pg_catalog.>) (CURRENT_TIMESTAMP OPERATOR(pg_catalog.-)
               coalesce(nullif(current_setting('pgvigil.activity_granularity', true), '')::interval, interval '1 minute')) THEN
            RETURN NEW;
        END IF;
        IF coalesce(current_setting('pgvigil.upkeep', true), '') OPERATOR(pg_catalog.<>) '' THEN
            NEW.last_activity_at := coalesce(NEW.last_activity_at, OLD.updated_at, OLD.created_at);
        ELSIF coalesce(NEW.last_activity_at OPERATOR(pg_catalog.=) OLD.last_activity_at,
                       NEW.last_activity_at IS NULL AND OLD.last_activity_at IS NULL) THEN
            NEW.last_activity_at := CURRENT_TIMESTAMP;
        END IF;
        RETURN NEW;
    END IF;

    IF current_setting('pgvigil.upkeep', true) OPERATOR(pg_catalog.=) 'migration' THEN
        NEW.updated_at := OLD.updated_at;  -- a migration mends a column of ours: nothing of the application's may move
        RETURN NEW;
    END IF;
    IF OLD.archived_at IS NOT NULL AND NEW.archived_at IS NOT NULL THEN
        RAISE EXCEPTION 'session % is archived and read-only', OLD.id
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = format('To write to it again, first: SELECT pgvigil.reactivate_session(%L);', OLD.id);
    END IF;
    -- Marking dormant, archiving, expiring, and whatever a job does under pgvigil.upkeep, is not activity.
    IF (NEW.is_dormant AND OLD.is_dormant IS NOT TRUE)
       OR NEW.archived_at IS NOT NULL
       OR (NEW.status OPERATOR(pg_catalog.=) 'expired' AND OLD.status OPERATOR(pg_catalog.<>) 'expired')
       OR coalesce(current_setting('pgvigil.upkeep', true), '') OPERATOR(pg_catalog.<>) '' THEN
        -- A session not active since the watch began is as old as its last update: that must not pass for this one.
        NEW.last_activity_at := coalesce(NEW.last_activity_at, OLD.updated_at, OLD.created_at);
        RETURN NEW;
    END IF;
    IF coalesce(NEW.last_activity_at OPERATOR(pg_catalog.=) OLD.last_activity_at,
                NEW.last_activity_at IS NULL AND OLD.last_activity_at IS NULL) THEN
        NEW.last_activity_at := CURRENT_TIMESTAMP;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgvigil.touch_session() IS
    'Moves updated_at, and last_activity_at to pgvigil.activity_granularity; refuses writes to an archived session';

CREATE FUNCTION pgvigil.keep_activity_step() RETURNS trigger
LANGUAGE plpgsql AS $$
BEGIN
    IF NEW.last_activity_at OPERATOR(pg_catalog.>) OLD.last_activity_at
       AND NEW.last_activity_at OPERATOR(pg_catalog.<) (OLD.last_activity_at OPERATOR(pg_catalog.+)
               coalesce(nullif(current_setting('pgvigil.activity_granularity', true), '')::interval, interval '1 minute')) THEN
        NEW.last_activity_at := OLD.last_activity_at;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgvigil.keep_activity_step() IS
    'A statement that moves last_activity_at by less than pgvigil.activity_granularity leaves it, so that heartbeats stay HOT';

-- SECURITY DEFINER: who may change a session need not be able to write its trail.
CREATE FUNCTION pgvigil.log_session_change() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    IF NEW.status <> OLD.status THEN
        IF NEW.status = 'expired' THEN
            INSERT INTO session_lifecycle (session_id, event_type, event_data)
            VALUES (NEW.id, 'expired', jsonb_build_object('previous_status', OLD.status, 'expired_at', now(),
                    'retention_policy', NEW.retention_policy, 'actor', pgvigil.actor()));
        ELSE
            INSERT INTO session_lifecycle (session_id, event_type, event_data)
            VALUES (NEW.id, 'status_changed', jsonb_build_object('old_status', OLD.status, 'new_status', NEW.status,
                    'actor', pgvigil.actor()));
        END IF;
    END IF;
    IF NEW.expires_at IS DISTINCT FROM OLD.expires_at THEN
        INSERT INTO session_lifecycle (session_id, event_type, event_data)
        VALUES (NEW.id, 'expiration_scheduled', jsonb_build_object('expires_at', NEW.expires_at,
                'retention_policy', NEW.retention_policy, 'actor', pgvigil.actor()));
    END IF;
    IF (NEW.is_dormant IS TRUE) <> (OLD.is_dormant IS TRUE) THEN
        INSERT INTO session_lifecycle (session_id, event_type, event_data)
        VALUES (NEW.id, CASE WHEN NEW.is_dormant THEN 'dormant' ELSE 'reactivated' END,
                jsonb_build_object('previous_state', OLD.is_dormant, 'actor', pgvigil.actor()));
    END IF;
    IF NEW.archived_at IS NOT NULL AND OLD.archived_at IS NULL THEN
        INSERT INTO session_lifecycle (session_id, event_type, event_data)
        VALUES (NEW.id, 'archived', jsonb_build_object('archived_at', NEW.archived_at, 'final_status', NEW.status,
                'actor', pgvigil.actor()));
    ELSIF NEW.archived_at IS NULL AND OLD.archived_at IS NOT NULL
          AND (NEW.is_dormant IS TRUE) = (OLD.is_dormant IS TRUE) THEN  -- else the event above has said so
        INSERT INTO session_lifecycle (session_id, event_type, event_data)
        VALUES (NEW.id, 'reactivated', jsonb_build_object('previous_state', OLD.is_dormant,
                'unarchived_from', OLD.archived_at, 'actor', pgvigil.actor()));
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.log_session_change() IS 'Writes one session_lifecycle event for each change in a session''s state';

CREATE FUNCTION pgvigil.log_session_created() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO session_lifecycle (session_id, event_type, event_data)
    SELECT s.id, 'created', jsonb_build_object('agent_from', s.agent_from, 'agent_to', s.agent_to,
           'retention_policy', s.retention_policy, 'actor', pgvigil.actor())
    FROM new_sessions s;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.log_session_created() IS 'Writes the created events of all sessions of a statement at once';

CREATE FUNCTION pgvigil.keep_deleted_session() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    why text := nullif(current_setting('pgvigil.reason', true), '');
    gone_at timestamptz := clock_timestamp();
BEGIN
    INSERT INTO pgvigil.deleted_sessions (session_id, session_key, deleted_at, actor, reason, retention_policy, last_row, events)
    SELECT OLD.id, OLD.session_key, gone_at, pgvigil.actor(), why, OLD.retention_policy, to_jsonb(OLD),
           coalesce(jsonb_agg(jsonb_build_object('id', l.id, 'event_type', l.event_type, 'event_data', l.event_data,
                                                 'created_at', l.created_at) ORDER BY l.id), '[]')
           || jsonb_build_object('id', pgvigil.uuid_v7(), 'event_type', 'deleted', 'created_at', gone_at,
                  'event_data', jsonb_build_object('final_status', OLD.status, 'retention_policy', OLD.retention_policy,
                                                   'reason', why, 'actor', pgvigil.actor()))
    FROM session_lifecycle l WHERE l.session_id = OLD.id;
    RETURN OLD;
END $$;
COMMENT ON FUNCTION pgvigil.keep_deleted_session() IS
    'Keeps the last row and the whole trail of a session in pgvigil.deleted_sessions before the trail goes with it';

-- SECURITY DEFINER: who may write children need not be able to read sessions.
CREATE FUNCTION pgvigil.guard_archived_session() RETURNS trigger
LANGUAGE plpgsql SECURITY DEFINER SET search_path FROM CURRENT AS $$
DECLARE
    archived_id uuid;
BEGIN
    -- In a cascade the session itself is gone already, so its children may follow.
    IF TG_OP = 'INSERT' THEN
        SELECT id INTO archived_id FROM sessions WHERE id = NEW.session_id AND archived_at IS NOT NULL;
    ELSIF TG_OP = 'DELETE' THEN
        SELECT id INTO archived_id FROM sessions WHERE id = OLD.session_id AND archived_at IS NOT NULL;
    ELSE
        SELECT id INTO archived_id FROM sessions WHERE id IN (OLD.session_id, NEW.session_id) AND archived_at IS NOT NULL LIMIT 1;
    END IF;
    IF archived_id IS NOT NULL THEN
        RAISE EXCEPTION 'session % is archived and read-only', archived_id
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = format('To write to it again, first: SELECT pgvigil.reactivate_session(%L);', archived_id);
    END IF;
    IF TG_OP = 'DELETE' THEN
        RETURN OLD;
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgvigil.guard_archived_session() IS 'Refuses writes to the children of an archived session';

CREATE FUNCTION pgvigil.reactivate_session(session uuid) RETURNS boolean
LANGUAGE plpgsql VOLATILE SET search_path FROM CURRENT AS $$
BEGIN
    UPDATE sessions
    SET archived_at = NULL, is_dormant = false, status = CASE status WHEN 'archived' THEN 'active' ELSE status END
    WHERE id = session AND (archived_at IS NOT NULL OR is_dormant);
    IF FOUND THEN
        RETURN true;
    END IF;
    PERFORM FROM sessions WHERE id = session;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no session %', session USING ERRCODE = 'no_data_found';
    END IF;
    RETURN false;
END $$;
COMMENT ON FUNCTION pgvigil.reactivate_session(uuid) IS
    'Brings an archived or dormant session back to life; false if it was neither; an error if there is none';

SELECT pgvigil.clear_trigger('005', 'sessions', name)
FROM unnest('{update_sessions_last_activity,update_sessions_updated_at,log_session_lifecycle,log_session_lifecycle_created,keep_deleted_session}'::text[]) AS name;
SELECT pgvigil.clear_trigger('005', name, 'guard_archived_session')
FROM unnest('{context_history,codebase_snapshots,handoff_requests}'::text[]) AS name;

CREATE TRIGGER update_sessions_last_activity BEFORE UPDATE OF last_activity_at ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.keep_activity_step();
CREATE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.touch_session();
CREATE TRIGGER log_session_lifecycle AFTER UPDATE OF status, is_dormant, archived_at, expires_at ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.log_session_change();
CREATE TRIGGER log_session_lifecycle_created AFTER INSERT ON sessions
    REFERENCING NEW TABLE AS new_sessions FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.log_session_created();
CREATE TRIGGER keep_deleted_session BEFORE DELETE ON sessions
    FOR EACH ROW EXECUTE FUNCTION pgvigil.keep_deleted_session();
CREATE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE OR DELETE ON context_history
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();
CREATE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE OR DELETE ON codebase_snapshots
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();
CREATE TRIGGER guard_archived_session BEFORE INSERT OR UPDATE OR DELETE ON handoff_requests
    FOR EACH ROW EXECUTE FUNCTION pgvigil.guard_archived_session();
COMMENT ON TRIGGER update_sessions_last_activity ON sessions IS 'Small explicit steps of last_activity_at stay where they were';
COMMENT ON TRIGGER update_sessions_updated_at ON sessions IS 'Moves updated_at and last_activity_at; guards archived sessions';
COMMENT ON TRIGGER log_session_lifecycle ON sessions IS
    'One event per change; it sees the columns a statement names, not those that another BEFORE trigger changes';
COMMENT ON TRIGGER log_session_lifecycle_created ON sessions IS 'The created events, once per statement';
COMMENT ON TRIGGER keep_deleted_session ON sessions IS 'Deletion forgets nothing';
COMMENT ON TRIGGER guard_archived_session ON context_history IS 'Children of an archived session are read-only';
COMMENT ON TRIGGER guard_archived_session ON codebase_snapshots IS 'Children of an archived session are read-only';
COMMENT ON TRIGGER guard_archived_session ON handoff_requests IS 'Children of an archived session are read-only';
