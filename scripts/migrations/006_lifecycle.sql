-- How long things are kept, and the jobs that keep to it. Each job is a function pgvigil.job_<name>(batch) that does
-- one batch of what is due and says how much that was and whether there is more; run_job calls it, a transaction each,
-- until there is not. So a job is set-based, can be interrupted anywhere, and holds no lock for longer than a batch
-- takes.

CREATE TABLE pgvigil.retention_policies (
    policy              varchar(50) NOT NULL CONSTRAINT retention_policies_pkey PRIMARY KEY,
    active_hours        integer NOT NULL
        CONSTRAINT retention_policies_active_hours_check CHECK (active_hours > 0 AND active_hours <= 876000),
    dormant_after_hours integer NOT NULL
        CONSTRAINT retention_policies_dormant_after_hours_check
            CHECK (dormant_after_hours > 0 AND dormant_after_hours <= 876000),
    archived_days       integer NOT NULL
        CONSTRAINT retention_policies_archived_days_check CHECK (archived_days >= 0 AND archived_days <= 36500),
    logs_days           integer NOT NULL
        CONSTRAINT retention_policies_logs_days_check CHECK (logs_days > 0 AND logs_days <= 36500),
    metrics_days        integer NOT NULL
        CONSTRAINT retention_policies_metrics_days_check CHECK (metrics_days > 0 AND metrics_days <= 36500),
    legal_hold          boolean NOT NULL DEFAULT false,
    keep_archive        boolean NOT NULL DEFAULT false
);
COMMENT ON TABLE pgvigil.retention_policies IS
    'How long sessions, logs and metrics live; to be edited: new '
    'sessions follow at once, the jobs from their next run on';
COMMENT ON COLUMN pgvigil.retention_policies.policy IS
    'Its name, as sessions.retention_policy has it; a session without one, or with an unknown one, follows standard';
COMMENT ON COLUMN pgvigil.retention_policies.active_hours IS
    'A new session expires this long after its creation, unless it is given a time';
COMMENT ON COLUMN pgvigil.retention_policies.dormant_after_hours IS
    'Without activity for this long, an open session becomes dormant and a finished one is archived';
COMMENT ON COLUMN pgvigil.retention_policies.archived_days IS 'An archived session is deleted after this';
COMMENT ON COLUMN pgvigil.retention_policies.logs_days IS
    'Rows of performance_logs are kept at least this long while any session has the policy';
COMMENT ON COLUMN pgvigil.retention_policies.metrics_days IS
    'Rows of system_metrics are kept at least this long while any session has the policy';
COMMENT ON COLUMN pgvigil.retention_policies.legal_hold IS
    'Nothing is deleted: no session of this policy, and while there is one, no log and no metric';
COMMENT ON COLUMN pgvigil.retention_policies.keep_archive IS
    'Nothing is dropped or deleted for its age before it is archived: '
    'while any session has the policy, no log, metric or query execution';
COMMENT ON CONSTRAINT retention_policies_active_hours_check ON pgvigil.retention_policies IS
    'A new session is not expired; a century at most';
COMMENT ON CONSTRAINT retention_policies_dormant_after_hours_check ON pgvigil.retention_policies IS
    'An active session is not dormant; a century at most';
COMMENT ON CONSTRAINT retention_policies_archived_days_check ON pgvigil.retention_policies IS
    '0: deleted as soon as archived; a century at most';
COMMENT ON CONSTRAINT retention_policies_logs_days_check ON pgvigil.retention_policies IS
    'The views look back a day; a century at most';
COMMENT ON CONSTRAINT retention_policies_metrics_days_check ON pgvigil.retention_policies IS
    'The views look back a day; a century at most';
INSERT INTO pgvigil.retention_policies (policy, active_hours, dormant_after_hours, archived_days, logs_days,
                                        metrics_days)
VALUES ('standard', 24, 2, 30, 7, 30), ('extended', 72, 6, 90, 30, 90), ('short', 4, 1, 7, 3, 7);

CREATE FUNCTION pgvigil.protect_standard_policy() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RAISE EXCEPTION 'the retention policy standard is what sessions without a policy follow'
          USING ERRCODE = 'object_not_in_prerequisite_state',
                HINT = 'Change its values; it cannot be removed or renamed.';
END $$;
COMMENT ON FUNCTION pgvigil.protect_standard_policy() IS 'Refuses to let the policy standard go';
CREATE TRIGGER protect_standard_policy_row BEFORE DELETE ON pgvigil.retention_policies
    FOR EACH ROW WHEN (OLD.policy = 'standard') EXECUTE FUNCTION pgvigil.protect_standard_policy();
CREATE TRIGGER protect_standard_policy_name BEFORE UPDATE OF policy ON pgvigil.retention_policies
    FOR EACH ROW WHEN (OLD.policy = 'standard' AND NEW.policy <> 'standard')
        EXECUTE FUNCTION pgvigil.protect_standard_policy();
CREATE TRIGGER protect_standard_policy_rows BEFORE TRUNCATE ON pgvigil.retention_policies
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.protect_standard_policy();

-- A query for the policy of each new session would be a twelfth of what it costs to make one. So the times are
-- constants in the trigger's body; when that is replaced, PostgreSQL informs every session.
-- With the rights of who makes a session, who need not have USAGE on schema pgvigil: it names nothing there. No SET
-- search_path, which would cost every insert: operators are qualified instead, and no type is named.
CREATE FUNCTION pgvigil.compile_default_expiry() RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    times    text;
    standard integer;
BEGIN
    SELECT format('{%s}', string_agg(format('%s: "%s hours"', to_json(policy), active_hours),
                                     ', ' ORDER BY policy COLLATE "C")),
           max(active_hours) FILTER (WHERE policy = 'standard')
    INTO times, standard FROM pgvigil.retention_policies;
    EXECUTE format('CREATE OR REPLACE FUNCTION pgvigil.set_default_expiry() RETURNS trigger LANGUAGE plpgsql AS %L',
                   format($body$
BEGIN
    NEW.expires_at := coalesce(NEW.expires_at, coalesce(NEW.created_at, CURRENT_TIMESTAMP) OPERATOR(pg_catalog.+)
        coalesce((%1$L::pg_catalog.jsonb OPERATOR(pg_catalog.->>) NEW.retention_policy)::interval,
                 interval '%2$s hours'));
    IF NEW.last_activity_at IS NULL OR NEW.is_dormant IS NULL THEN  -- written as NULL: the columns have defaults
        NEW.last_activity_at := coalesce(NEW.last_activity_at, NEW.created_at, CURRENT_TIMESTAMP);
        NEW.is_dormant := coalesce(NEW.is_dormant, false);
    END IF;
    RETURN NEW;
END $body$, times, standard));
END $$;
COMMENT ON FUNCTION pgvigil.compile_default_expiry() IS
    'Writes pgvigil.set_default_expiry() from pgvigil.retention_policies';
SELECT pgvigil.compile_default_expiry();
COMMENT ON FUNCTION pgvigil.set_default_expiry() IS
    'A new session without expires_at gets one by active_hours of its retention policy, of standard for NULL and '
    'unknown ones; one without last_activity_at was last active when it was created; '
    'every edit of pgvigil.retention_policies rewrites this function';

-- SECURITY DEFINER: who may edit policies need not own the function.
CREATE FUNCTION pgvigil.refresh_default_expiry() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF current_setting('transaction_isolation') NOT IN ('read committed', 'read uncommitted') THEN
        -- It does not see what others have committed since it began, and would write a function without that.
        RAISE EXCEPTION 'times of retention policies cannot be edited in a transaction that is %',
            upper(current_setting('transaction_isolation'))
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'BEGIN ISOLATION LEVEL READ COMMITTED, and edit them again.';
    END IF;
    LOCK TABLE pgvigil.retention_policies IN SHARE UPDATE EXCLUSIVE MODE;  -- another edit first commits
    PERFORM pgvigil.compile_default_expiry();
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.refresh_default_expiry() IS 'Lets the next new session follow an edited policy';
-- By row and always, so that edits which come by replication are followed too.
CREATE TRIGGER refresh_default_expiry AFTER INSERT
    OR UPDATE OF policy, active_hours
    OR DELETE ON pgvigil.retention_policies
    FOR EACH ROW EXECUTE FUNCTION pgvigil.refresh_default_expiry();
ALTER TABLE pgvigil.retention_policies ENABLE ALWAYS TRIGGER refresh_default_expiry;
COMMENT ON TRIGGER refresh_default_expiry ON pgvigil.retention_policies IS 'New sessions follow an edited policy';

-- The foreign key is the hold: it also stops a plain DELETE, and one that runs while the hold is being placed.
CREATE TABLE pgvigil.legal_holds (
    session_id uuid NOT NULL,  -- 011 adds the foreign key
    reason     text NOT NULL,
    placed_by  text NOT NULL DEFAULT pgvigil.actor(),
    placed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT legal_holds_pkey PRIMARY KEY (session_id, reason)
);
COMMENT ON TABLE pgvigil.legal_holds IS 'Sessions that nobody may delete: INSERT places a hold, DELETE lifts it';
COMMENT ON COLUMN pgvigil.legal_holds.reason IS 'The matter it is held for';
COMMENT ON COLUMN pgvigil.legal_holds.placed_by IS
    'The role or person that placed it: the setting pgvigil.actor if set, else the login role';
COMMENT ON CONSTRAINT legal_holds_pkey ON pgvigil.legal_holds IS
    'A session may be held for several matters; lifting one leaves the others';

-- Where this database keeps the telemetry of sessions in another database, that one reports here which of them are
-- held. A report that is too old may be wrong: then everything is held.
CREATE TABLE pgvigil.hold_sources (
    source     text NOT NULL CONSTRAINT hold_sources_pkey PRIMARY KEY,
    pushed_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    valid_for  interval NOT NULL CONSTRAINT hold_sources_valid_for_check CHECK (valid_for > interval '0'),
    holds_all  boolean NOT NULL,
    written_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE pgvigil.hold_sources IS
    'Databases with sessions whose telemetry is here: DELETE one that no longer sends any';
COMMENT ON COLUMN pgvigil.hold_sources.source IS 'Server and database';
COMMENT ON COLUMN pgvigil.hold_sources.pushed_at IS 'When it last said what is held';
COMMENT ON COLUMN pgvigil.hold_sources.valid_for IS 'How long that counts: after that, nothing is dropped';
COMMENT ON COLUMN pgvigil.hold_sources.holds_all IS 'A policy under legal hold keeps all logs and metrics';

CREATE TABLE pgvigil.remote_holds (
    source     text NOT NULL
        CONSTRAINT remote_holds_source_fkey
        REFERENCES pgvigil.hold_sources (source) ON DELETE CASCADE,
    session_id uuid NOT NULL,
    CONSTRAINT remote_holds_pkey PRIMARY KEY (session_id, source)
);
COMMENT ON TABLE pgvigil.remote_holds IS 'Sessions of other databases that are under legal hold';
COMMENT ON CONSTRAINT remote_holds_source_fkey ON pgvigil.remote_holds IS 'Holds go with their database';

CREATE FUNCTION pgvigil.push_holds(of_source text, valid interval, sessions uuid[], all_held boolean) RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO pgvigil.hold_sources AS s (source, valid_for, holds_all) VALUES (of_source, valid, all_held)
    ON CONFLICT ON CONSTRAINT hold_sources_pkey DO UPDATE
    SET pushed_at = clock_timestamp(), valid_for = excluded.valid_for, holds_all = excluded.holds_all,
        written_by = session_user;
    DELETE FROM pgvigil.remote_holds h WHERE h.source = of_source AND h.session_id <> ALL (sessions);
    INSERT INTO pgvigil.remote_holds (source, session_id)
    SELECT DISTINCT of_source, unnest(sessions)
    ON CONFLICT DO NOTHING;
    SET CONSTRAINTS ALL IMMEDIATE;
END $$;
COMMENT ON FUNCTION pgvigil.push_holds(text, interval, uuid[], boolean) IS
    'Another database says which of its sessions are held; that replaces what it said before';

CREATE FUNCTION pgvigil.unheard_sources() RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT string_agg(format('%s (last on %s UTC)', s.source,
                                     to_char(s.pushed_at AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI')),
                              ', ' ORDER BY s.source)
            FROM pgvigil.hold_sources s
            -- A time later than now comes from a clock that was ahead.
            WHERE s.pushed_at < now() - s.valid_for OR s.pushed_at > clock_timestamp());
END $$;
COMMENT ON FUNCTION pgvigil.unheard_sources() IS
    'Databases that have not said for too long what is held; NULL: there are none';

-- SECURITY DEFINER: who may delete a session need not be able to read holds and policies.
CREATE FUNCTION pgvigil.guard_legal_hold() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    why    text;
    follow pgvigil.retention_policies;
BEGIN
    SELECT string_agg(reason, ', ' ORDER BY placed_at) INTO why FROM pgvigil.legal_holds WHERE session_id = OLD.id;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'session % is under legal hold: %', OLD.id, why
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = format('When the hold is lifted: DELETE FROM pgvigil.legal_holds WHERE session_id = %L;',
                                  OLD.id);
    END IF;
    -- The lock makes who places a hold on the policy wait for this deletion, and this deletion for him; at REPEATABLE
    -- READ it fails where the policy has been edited since its snapshot, instead of not seeing that. A session with an
    -- unknown policy follows standard.
    SELECT p.*
    INTO follow
    FROM pgvigil.retention_policies p
    WHERE p.policy IN (OLD.retention_policy, 'standard')
    ORDER BY p.policy = 'standard'
    LIMIT 1
    FOR SHARE;
    IF follow.legal_hold THEN
        RAISE EXCEPTION 'session % is under legal hold: its retention policy, %, is', OLD.id, follow.policy
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'See legal_hold in pgvigil.retention_policies.';
    END IF;
    RETURN OLD;
END $$;
COMMENT ON FUNCTION pgvigil.guard_legal_hold() IS
    'Refuses to delete a session under legal hold, by itself or by its policy';

-- Or the hold of a policy could be got round: off the policy, then deleted.
CREATE FUNCTION pgvigil.guard_policy_hold() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    follow pgvigil.retention_policies;
BEGIN
    IF NEW.retention_policy IS DISTINCT FROM OLD.retention_policy THEN
        SELECT p.*
        INTO follow
        FROM pgvigil.retention_policies p
        WHERE p.policy IN (OLD.retention_policy, 'standard')
        ORDER BY p.policy = 'standard'
        LIMIT 1
        FOR SHARE;
        IF follow.legal_hold
           AND NOT EXISTS (SELECT FROM pgvigil.retention_policies p
                           WHERE p.policy = coalesce(NEW.retention_policy, 'standard') AND p.legal_hold) THEN
            RAISE EXCEPTION 'session % is under legal hold: its retention policy, %, is, and % is not', OLD.id,
                follow.policy, coalesce(NEW.retention_policy, 'standard')
                  USING ERRCODE = 'object_not_in_prerequisite_state',
                        HINT = 'See legal_hold in pgvigil.retention_policies.';
        END IF;
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.guard_policy_hold() IS
    'Refuses to move a session from a policy under legal hold to one that is not';

-- A hold is not lifted as a side effect either: sessions get another policy if theirs is removed or renamed, or if one
-- is made for a name that was unknown, whose sessions followed standard so far.
CREATE FUNCTION pgvigil.protect_held_policy() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    loses text[] := '{}';
BEGIN
    IF TG_OP <> 'INSERT' AND OLD.legal_hold THEN
        loses := loses || OLD.policy;
    END IF;
    IF TG_OP <> 'DELETE' AND NOT NEW.legal_hold
       AND EXISTS (SELECT FROM pgvigil.retention_policies p WHERE p.policy = 'standard' AND p.legal_hold)
       AND NOT EXISTS (SELECT FROM pgvigil.retention_policies p WHERE p.policy = NEW.policy) THEN
        loses := loses || NEW.policy;
    END IF;
    IF loses <> '{}' AND EXISTS (SELECT FROM "{app}".sessions s WHERE s.retention_policy = ANY (loses)) THEN
        RAISE EXCEPTION 'sessions of the retention policy % are under legal hold, and this would lift it',
            array_to_string(loses, ', ')
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'When the hold is lifted: set legal_hold to false first. A new policy may have legal_hold.';
    END IF;
    RETURN coalesce(NEW, OLD);
END $$;
COMMENT ON FUNCTION pgvigil.protect_held_policy() IS
    'Refuses to remove, rename or make a policy where that would lift a legal hold';
CREATE TRIGGER protect_held_policy BEFORE INSERT OR DELETE ON pgvigil.retention_policies
    FOR EACH ROW EXECUTE FUNCTION pgvigil.protect_held_policy();
CREATE TRIGGER protect_held_policy_name BEFORE UPDATE OF policy ON pgvigil.retention_policies
    FOR EACH ROW WHEN (OLD.policy <> NEW.policy) EXECUTE FUNCTION pgvigil.protect_held_policy();
COMMENT ON TRIGGER protect_held_policy ON pgvigil.retention_policies IS 'A legal hold is lifted by legal_hold only';
COMMENT ON TRIGGER protect_held_policy_name ON pgvigil.retention_policies IS
    'A legal hold is lifted by legal_hold only';

-- TRUNCATE fires no trigger of a row, but TRUNCATE sessions CASCADE comes by here.
CREATE FUNCTION pgvigil.guard_legal_holds() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pgvigil.legal_holds) THEN
        RAISE EXCEPTION 'there are sessions under legal hold' USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'DELETE the sessions that may go; see pgvigil.legal_holds for the others.';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.guard_legal_holds() IS
    'Refuses to truncate holds, and thereby sessions, while there are any';
CREATE TRIGGER guard_legal_holds BEFORE TRUNCATE ON pgvigil.legal_holds
    FOR EACH STATEMENT EXECUTE FUNCTION pgvigil.guard_legal_holds();
COMMENT ON TRIGGER guard_legal_holds ON pgvigil.legal_holds IS 'Keeps holds also when sessions is truncated';

-- TRUNCATE does not fire the row triggers that keep a deleted session and guard an archived one either: these replace
-- them.
CREATE FUNCTION pgvigil.archive_truncated_sessions() RETURNS trigger
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
BEGIN
    PERFORM pgvigil.require_all_rows();
    PERFORM FROM pgvigil.retention_policies FOR SHARE;  -- as in guard_legal_hold
    IF EXISTS (SELECT FROM "{app}".sessions s
               LEFT JOIN pgvigil.retention_policies p ON p.policy = s.retention_policy
               WHERE coalesce(p.legal_hold, (SELECT r.legal_hold FROM pgvigil.retention_policies r
                                             WHERE r.policy = 'standard'))) THEN
        RAISE EXCEPTION 'there are sessions under legal hold: their retention policy is'
            USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'DELETE the sessions that may go; see legal_hold in pgvigil.retention_policies for the others.';
    END IF;
    INSERT INTO pgvigil.deleted_sessions (session_id, session_key, actor, reason, retention_policy, last_row, events)
    SELECT s.id, s.session_key, pgvigil.actor(), why, s.retention_policy, to_jsonb(s),
           coalesce(l.events, '[]')
               || jsonb_build_object('id', pgvigil.uuid_v7(), 'event_type', 'deleted', 'created_at', clock_timestamp(),
               'event_data',
               jsonb_build_object('final_status', s.status, 'retention_policy', s.retention_policy, 'reason', why,
                                  'actor', pgvigil.actor(), 'session_user', session_user))
    FROM "{app}".sessions s LEFT JOIN (
        SELECT e.session_id,
               jsonb_agg(jsonb_build_object('id', e.id, 'event_type', e.event_type, 'event_data', e.event_data,
                                            'created_at', e.created_at)
                         ORDER BY e.id) AS events
        FROM "{app}".session_lifecycle e GROUP BY e.session_id) l ON l.session_id = s.id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.archive_truncated_sessions() IS
    'Keeps all sessions and their trails in pgvigil.deleted_sessions before '
    'they are truncated; refuses if the policy of one is under legal hold';

-- After the TRUNCATE, when it shows whether the sessions have gone as well.
CREATE FUNCTION pgvigil.guard_archived_children() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pgvigil.require_all_rows();
    IF EXISTS (SELECT FROM "{app}".sessions WHERE archived_at IS NOT NULL) THEN
        RAISE EXCEPTION 'there are archived sessions, and what they hold is read-only'
            USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'DELETE what the other sessions hold, or TRUNCATE sessions CASCADE.';
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.guard_archived_children() IS
    'Refuses to truncate what archived sessions hold, unless they go too';

-- One session at a time, for the application
-- ---------------------------------------------------------------------------

CREATE FUNCTION pgvigil.require_session(session uuid) RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM "{app}".sessions WHERE id = session;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no session %', session USING ERRCODE = 'no_data_found';
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.require_session(uuid) IS 'Raises no_data_found if there is no such session';

CREATE FUNCTION pgvigil.schedule_expiration(session uuid, at timestamptz) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM "{app}".sessions WHERE id = session AND expires_at IS DISTINCT FROM at FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM pgvigil.require_session(session);
        RETURN false;
    END IF;
    PERFORM pgvigil.use_application_path();
    UPDATE "{app}".sessions SET expires_at = at WHERE id = session;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgvigil.schedule_expiration(uuid, timestamptz) IS
    'When a session expires; NULL: never by itself. False if that was so already; an error if there is no such session';

CREATE FUNCTION pgvigil.expire_session(session uuid) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM "{app}".sessions
        WHERE id = session AND lower(status) <> ALL ('{completed,cancelled,expired,archived}'::text[])
        FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM pgvigil.require_session(session);
        RETURN false;
    END IF;
    PERFORM pgvigil.use_application_path();
    UPDATE "{app}".sessions SET status = 'expired' WHERE id = session;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgvigil.expire_session(uuid) IS
    'Expires an open session now; false if it had ended already; an error if there is no such session';

CREATE FUNCTION pgvigil.mark_session_dormant(session uuid) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM "{app}".sessions WHERE id = session AND NOT is_dormant FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM pgvigil.require_session(session);
        RETURN false;
    END IF;
    PERFORM pgvigil.use_application_path();
    UPDATE "{app}".sessions SET is_dormant = true WHERE id = session;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgvigil.mark_session_dormant(uuid) IS
    'Marks a session dormant, which is not activity; false if it was; an error if there is no such session';

CREATE FUNCTION pgvigil.archive_session(session uuid) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    PERFORM FROM "{app}".sessions WHERE id = session AND archived_at IS NULL FOR NO KEY UPDATE;
    IF NOT FOUND THEN
        PERFORM pgvigil.require_session(session);
        RETURN false;
    END IF;
    PERFORM pgvigil.use_application_path();
    UPDATE "{app}".sessions SET archived_at = CURRENT_TIMESTAMP WHERE id = session;
    RETURN true;
END $$;
COMMENT ON FUNCTION pgvigil.archive_session(uuid) IS
    'Archives a session: from now on it and its children are read-only; '
    'its status stays. False if it was archived; an error if there is none';

CREATE FUNCTION pgvigil.record_metric(name text, value numeric, type text DEFAULT 'gauge', labels jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO "{app}".system_metrics (metric_name, metric_value, metric_type, labels)
    VALUES (name, value, type, labels);
END $$;
COMMENT ON FUNCTION pgvigil.record_metric(text, numeric, text, jsonb) IS
    'Appends a metric: counter, gauge or histogram';

-- Drivers send a float as double precision, which has no implicit cast to numeric. By way of text, so that 0.1 is
-- stored as 0.1 and no digit is lost.
CREATE FUNCTION pgvigil.record_metric(name text, value double precision, type text DEFAULT 'gauge',
                                      labels jsonb DEFAULT '{}')
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
SET extra_float_digits = 1
AS $$
BEGIN
    PERFORM pgvigil.record_metric(name, value::text::numeric, type, labels);
END $$;

CREATE FUNCTION pgvigil.record_performance(operation text, duration_ms double precision, success boolean DEFAULT true,
                                           session uuid DEFAULT NULL, metadata jsonb DEFAULT '{}') RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO "{app}".performance_logs (operation, duration_ms, success, session_id, metadata)
    VALUES (operation, round(duration_ms)::integer, success, session, metadata);
END $$;
COMMENT ON FUNCTION pgvigil.record_performance(text, double precision, boolean, uuid, jsonb) IS
    'Appends an operation to performance_logs';

-- Jobs
-- -----------------------------------------------------------------------------------------------------------------

CREATE TABLE pgvigil.jobs (
    job          text NOT NULL
        CONSTRAINT jobs_pkey PRIMARY KEY
        CONSTRAINT jobs_job_check CHECK (job ~ '^[a-z_]{1,40}$'),
    every        interval NOT NULL CONSTRAINT jobs_every_check
                 CHECK (every >= interval '1 minute' AND every <= interval '28 days' AND date_part('month', every) = 0
                        OR every = interval '1 month' AND date_part('month', every) = 1),
    enabled      boolean NOT NULL DEFAULT true,
    purpose      text NOT NULL,
    since        timestamptz NOT NULL DEFAULT clock_timestamp(),
    at           interval NOT NULL DEFAULT '0',
    needs_client boolean NOT NULL DEFAULT false,
    needs_consent boolean NOT NULL DEFAULT false,
    accepted_at  timestamptz,
    accepted_by  text,
    backup_within interval CONSTRAINT jobs_backup_within_check CHECK (backup_within > interval '0'),
    CONSTRAINT jobs_at_check CHECK (at >= interval '0' AND at < every)
);
COMMENT ON TABLE pgvigil.jobs IS 'Regular work, done by `pgvigil maintain run-due` or by CALL pgvigil.run_job(job)';
COMMENT ON COLUMN pgvigil.jobs.job IS 'Its name; the work is pgvigil.job_<name>(batch), unless it needs a client';
COMMENT ON COLUMN pgvigil.jobs.every IS
    'It is due once in each such stretch of time: weeks begin on Monday, months on the 1st, days at midnight, UTC';
COMMENT ON COLUMN pgvigil.jobs.enabled IS 'False: never due by itself';
COMMENT ON COLUMN pgvigil.jobs.since IS 'From when on its absence counts as overdue';
COMMENT ON COLUMN pgvigil.jobs.at IS
    'How far into each stretch of time it is due: 02:00 of a day; one '
    'with a time of its own does not begin before that time has come';
COMMENT ON COLUMN pgvigil.jobs.needs_client IS 'True: a function cannot do it, and `pgvigil maintain` does';
COMMENT ON COLUMN pgvigil.jobs.needs_consent IS
    'True: it ends, archives or deletes what was there before '
    'pgvigil, and does nothing until the owner has accepted that';
COMMENT ON COLUMN pgvigil.jobs.accepted_at IS
    'When the owner accepted what it would do; NULL: not yet, or a policy has become shorter since';
COMMENT ON COLUMN pgvigil.jobs.backup_within IS
    'It deletes sessions only with a proved backup younger than this; NULL: without one too';
COMMENT ON CONSTRAINT jobs_job_check ON pgvigil.jobs IS 'A name that is the same in SQL, in a shell and in a schedule';
COMMENT ON CONSTRAINT jobs_every_check ON pgvigil.jobs IS
    'A length that is always the same, or one month of the calendar';
COMMENT ON CONSTRAINT jobs_at_check ON pgvigil.jobs IS 'A time within the stretch';
INSERT INTO pgvigil.jobs (job, every, purpose) VALUES
    ('partitions', '1 hour', 'makes partitions ahead, and moves rows out of the default partitions'),
    ('expiry', '1 hour', 'sets open sessions whose expires_at has passed to expired'),
    ('archive', '1 hour', 'sets archived_at of ended sessions that are idle: they are read-only from then on'),
    ('dormancy', '30 minutes', 'sets is_dormant of idle open sessions'),
    ('counters', '10 minutes', 'adds up session_counter_changes into session_counters'),
    ('orphans', '1 day',
     'deletes sessions that have been idle for a week, are not completed '
     'and never had a context entry, a snapshot or a hand-off request'),
    ('retention', '1 day', 'deletes archived sessions after their archive time, and drops partitions after their time');
-- Of an install that had sessions before, nothing is ended, archived or deleted that its owner has not been shown.
UPDATE pgvigil.jobs SET needs_consent = (SELECT m.baselined FROM pgvigil.migrations m WHERE m.revision = '000')
WHERE job = ANY ('{expiry,archive,orphans,retention}'::text[]);
UPDATE pgvigil.jobs
SET backup_within = interval '26 hours'
WHERE needs_consent AND job = ANY ('{orphans,retention}'::text[]);

-- Verified backups. Written by the functions that take backups, with the owner's rights; admins only read it.
CREATE TABLE pgvigil.backup_proofs (
    id         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT backup_proofs_pkey PRIMARY KEY,
    proved_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    taken_at   timestamptz NOT NULL,
    proof      text NOT NULL,
    detail     text NOT NULL,
    written_by text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE pgvigil.backup_proofs IS
    'Backups of this database that were proved, or that somebody '
    'vouches for: jobs that delete sessions may want a young one';
COMMENT ON COLUMN pgvigil.backup_proofs.taken_at IS 'When the backup was begun: how old what it holds is';
COMMENT ON COLUMN pgvigil.backup_proofs.detail IS 'The archive, or what somebody says of an external backup';

CREATE FUNCTION pgvigil.require_consent(job_name text) RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF EXISTS (SELECT FROM pgvigil.jobs j WHERE j.job = job_name AND j.needs_consent AND j.accepted_at IS NULL) THEN
        RAISE EXCEPTION 'job % waits for the consent of the owner: it would '
                        'end, archive or delete what was there before',
            job_name
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT =
                        format('See what it would do: SELECT * FROM pgvigil.preview_jobs(); '
                               'then, as the owner of the tables: SELECT pgvigil.accept_job(%L);',
                                  job_name);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.require_consent(text) IS 'Raises where a job may do nothing yet';

CREATE FUNCTION pgvigil.require_backup(job_name text) RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    within interval := (SELECT j.backup_within FROM pgvigil.jobs j WHERE j.job = job_name);
    latest timestamptz := (SELECT max(p.taken_at) FROM pgvigil.backup_proofs p WHERE p.taken_at <= clock_timestamp());
BEGIN
    IF within IS NOT NULL AND (latest >= clock_timestamp() - within) IS NOT TRUE THEN
        -- The remedy is in the message, because that is what job_runs, health and the caller of run_job get to see.
        RAISE EXCEPTION 'it deletes sessions only with a proved backup younger than %, and '
                        'the last one is %: take one (pgvigil backup create), or vouch for '
                        'one taken otherwise (pgvigil backup record --external TEXT)',
            within, coalesce('of ' || to_char(latest AT TIME ZONE 'UTC', 'YYYY-MM-DD HH24:MI') || ' UTC', 'none')
              USING ERRCODE = 'object_not_in_prerequisite_state';
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.require_backup(text) IS 'Raises where a job wants a younger backup than there is';

-- No rights but the caller's: the owner of the tables accepts, and nobody who may only edit times.
CREATE FUNCTION pgvigil.accept_job(job_name text) RETURNS SETOF text
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY UPDATE pgvigil.jobs j SET accepted_at = clock_timestamp(), accepted_by = session_user
                 WHERE j.needs_consent AND j.accepted_at IS NULL AND (j.job = job_name OR job_name = 'all')
                 RETURNING j.job;
    IF NOT FOUND AND job_name <> 'all' THEN
        PERFORM FROM pgvigil.jobs j WHERE j.job = job_name;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'there is no job %', job_name
                USING ERRCODE = 'no_data_found', HINT = 'SELECT * FROM pgvigil.job_status;';
        END IF;
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.accept_job(text) IS
    'The owner has seen what a job (or all) would do, and accepts it; returns the jobs that had waited for that';

-- A policy that has become shorter takes more than what was accepted. Sessions with the name of a new policy followed
-- standard so far, and were kept; those of a policy that is deleted follow standard from now on, and what only its days
-- had kept goes.
CREATE FUNCTION pgvigil.lapse_consent() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    lapsed text[] := CASE
        WHEN TG_OP = 'INSERT' THEN '{archive,orphans,retention}'::text[]
        WHEN TG_OP = 'DELETE' THEN '{archive,executions,expiry,retention}'::text[]
        WHEN NEW.policy <> OLD.policy THEN '{archive,executions,expiry,orphans,retention}'::text[]
        ELSE array_remove(ARRAY[
            CASE WHEN NEW.active_hours < OLD.active_hours THEN 'expiry' END,
            CASE WHEN NEW.dormant_after_hours < OLD.dormant_after_hours THEN 'archive' END,
            CASE WHEN NEW.archived_days < OLD.archived_days
                 OR NEW.logs_days < OLD.logs_days
                 OR NEW.metrics_days < OLD.metrics_days
                      OR OLD.legal_hold AND NOT NEW.legal_hold OR OLD.keep_archive AND NOT NEW.keep_archive THEN
                          'retention' END,
            CASE WHEN NEW.logs_days < OLD.logs_days
                 OR OLD.legal_hold AND NOT NEW.legal_hold
                 OR OLD.keep_archive AND NOT NEW.keep_archive THEN 'executions' END,
            CASE WHEN OLD.legal_hold AND NOT NEW.legal_hold THEN 'orphans' END], NULL) END;
BEGIN
    UPDATE pgvigil.jobs j
    SET accepted_at = NULL, accepted_by = NULL
    WHERE j.job = ANY (lapsed) AND j.accepted_at IS NOT NULL;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.lapse_consent() IS 'Consent to a job lapses when a policy lets it do more';
CREATE TRIGGER lapse_consent AFTER INSERT OR UPDATE OR DELETE ON pgvigil.retention_policies
    FOR EACH ROW EXECUTE FUNCTION pgvigil.lapse_consent();
ALTER TABLE pgvigil.retention_policies ENABLE ALWAYS TRIGGER lapse_consent;
COMMENT ON TRIGGER lapse_consent ON pgvigil.retention_policies IS
    'A change that lets a job do more than was accepted withdraws the consent';

CREATE TABLE pgvigil.job_runs (
    id          bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT job_runs_pkey PRIMARY KEY,
    job         text NOT NULL CONSTRAINT job_runs_job_fkey REFERENCES pgvigil.jobs (job) ON DELETE CASCADE,
    started_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    finished_at timestamptz,
    rows        bigint NOT NULL DEFAULT 0,
    notes       text[] NOT NULL DEFAULT '{}',
    error       text,
    actor       text NOT NULL DEFAULT pgvigil.actor(),
    client      inet DEFAULT inet_client_addr(),
    pid         integer NOT NULL DEFAULT pg_backend_pid(),
    objects     text[] NOT NULL DEFAULT '{}'
);
COMMENT ON TABLE pgvigil.job_runs IS 'One row per run of a job; those of the last 90 days are kept';
COMMENT ON COLUMN pgvigil.job_runs.finished_at IS
    'When it ended, well or not; NULL: it runs, or died and the next run will say so';
COMMENT ON COLUMN pgvigil.job_runs.rows IS
    'How much it did, as far as it came: rows it changed or backed up, tables and '
    'indexes it saw to, findings; a dropped partition by the planner''s estimate';
COMMENT ON COLUMN pgvigil.job_runs.notes IS 'Further results, such as findings';
COMMENT ON COLUMN pgvigil.job_runs.error IS 'Why it failed; NULL: it did not';
COMMENT ON COLUMN pgvigil.job_runs.actor IS
    'The role or person that ran it: the setting pgvigil.actor if set, else the login role';
COMMENT ON COLUMN pgvigil.job_runs.client IS 'From where; NULL: over a local socket';
COMMENT ON COLUMN pgvigil.job_runs.objects IS
    'Tables or indexes it is through with: where a run was cut short, the next one goes on behind them';
COMMENT ON CONSTRAINT job_runs_job_fkey ON pgvigil.job_runs IS 'The runs of a job go with it';
CREATE INDEX idx_job_runs_job_started_at ON pgvigil.job_runs (job, started_at);

-- A run is alive while the process that began it holds its advisory lock: "pgvg" in ASCII, and the number of the run. A
-- dead backend holds none, and what others lock says nothing.
CREATE FUNCTION pgvigil.is_alive(run_id bigint, pid integer) RETURNS boolean
LANGUAGE sql
STABLE
RETURN EXISTS (SELECT FROM pg_locks l
               WHERE l.locktype = 'advisory'
                 AND l.granted
                 AND l.objsubid = 2
                 AND l.classid = 1885828711
                 AND l.objid::bigint = run_id & 2147483647
                 AND l.pid = is_alive.pid
                 AND l.database = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
COMMENT ON FUNCTION pgvigil.is_alive(bigint, integer) IS 'Whether the session that began a run of a job is still at it';

CREATE FUNCTION pgvigil.is_running(job_name text) RETURNS boolean
LANGUAGE sql
STABLE
BEGIN ATOMIC
    SELECT EXISTS (SELECT FROM pgvigil.job_runs r
                   WHERE r.job = job_name AND r.finished_at IS NULL AND pgvigil.is_alive(r.id, r.pid));
END;
COMMENT ON FUNCTION pgvigil.is_running(text) IS 'Whether a job is running in some session';

-- Reckoned in UTC: with the session's time zone, a day would sometimes have 23 hours. 2001 began on a Monday.
CREATE FUNCTION pgvigil.time_slot(every interval, at interval, moment timestamptz) RETURNS timestamptz
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN CASE WHEN date_part('month', every) = 1 THEN date_trunc('month', (moment AT TIME ZONE 'UTC') - at) + at
            ELSE date_bin(every, moment AT TIME ZONE 'UTC',
                          timestamp '2001-01-01 00:00:00' + at) END AT TIME ZONE 'UTC';
COMMENT ON FUNCTION pgvigil.time_slot(interval, interval, timestamptz) IS
    'Start of the interval that contains a moment: intervals are '
    '`every` long and begin `at` after their Monday, 1st or midnight';

-- A failure is not repeated every few minutes: a backup that finds the disk full would load the server for nothing all
-- night. A run that was killed does not count as a failure of the job.
CREATE FUNCTION pgvigil.due_at(job_name text) RETURNS timestamptz
LANGUAGE sql
VOLATILE
BEGIN ATOMIC
    -- A time later than now comes from a clock that was ahead: it is ignored.
    SELECT CASE WHEN slot > coalesce(r.success, CASE WHEN j.at > interval '0' AND j.since <= clock_timestamp()
                                                     THEN j.since END, '-infinity')
                THEN greatest(slot, r.failure + least(j.every / 12, interval '1 hour'))
                ELSE (slot AT TIME ZONE 'UTC' + j.every) AT TIME ZONE 'UTC' END
    FROM pgvigil.jobs j CROSS JOIN LATERAL pgvigil.time_slot(j.every, j.at, clock_timestamp()) t (slot)
    CROSS JOIN LATERAL (SELECT max(started_at) FILTER (WHERE error IS NULL) AS success,
                               max(finished_at) FILTER (WHERE error NOT LIKE 'died: %') AS failure
                        FROM pgvigil.job_runs
                        WHERE job = j.job AND finished_at <= clock_timestamp() AND started_at <= clock_timestamp()) r
    WHERE j.job = job_name AND j.enabled AND NOT (j.needs_consent AND j.accepted_at IS NULL);
END;
COMMENT ON FUNCTION pgvigil.due_at(text) IS
    'When a job was or will be due, NULL if it is off or waits for consent: one that never ran at once, or from '
    'its own time on if it has one; after a failure an hour later, or a twelfth of `every` if that is less';

CREATE VIEW pgvigil.job_status AS
SELECT j.job, j.every, j.enabled, j.purpose,
       CASE WHEN pgvigil.is_running(j.job) THEN 'running'
            WHEN r.started_at IS NULL THEN 'never ran'
            WHEN r.finished_at IS NULL THEN 'died'
            WHEN r.error IS NOT NULL THEN 'failed'
            ELSE 'done' END AS state,
       r.started_at AS last_started, r.finished_at AS last_finished, r.rows AS last_rows, r.error AS last_error,
       s.started_at AS last_success,
       coalesce(d.next_due <= clock_timestamp(), false) AND NOT pgvigil.is_running(j.job) AS due,
       j.enabled
           AND NOT (j.needs_consent AND j.accepted_at IS NULL)
           AND coalesce(s.started_at, CASE WHEN greatest(j.since, j.accepted_at) <= clock_timestamp()
                                           THEN greatest(j.since, j.accepted_at) ELSE '-infinity' END)
               < clock_timestamp() - 2 * j.every AS overdue,
       j.at, j.needs_client, r.notes AS last_notes, d.next_due,
       j.needs_consent AND j.accepted_at IS NULL AS waits_for_consent
FROM pgvigil.jobs j
LEFT JOIN LATERAL (SELECT * FROM pgvigil.job_runs r WHERE r.job = j.job ORDER BY r.id DESC LIMIT 1) r ON true
LEFT JOIN LATERAL (SELECT max(r.started_at) AS started_at FROM pgvigil.job_runs r
                   WHERE r.job = j.job
                     AND r.finished_at IS NOT NULL
                     AND r.error IS NULL
                     AND r.started_at <= clock_timestamp()) s ON true
CROSS JOIN LATERAL pgvigil.due_at(j.job) d (next_due);
COMMENT ON VIEW pgvigil.job_status IS
    'Each job: its last run, whether and since when it is due or when it '
    'will be, and whether two of its times have gone by without success';

CREATE FUNCTION pgvigil.release_job(run_id bigint) RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_advisory_unlock(1885828711, (run_id & 2147483647)::integer);
END $$;
COMMENT ON FUNCTION pgvigil.release_job(bigint) IS
    'Lets go of the lock that begin_job took; its run has been reported and committed by then';

-- Where rows come by logical replication, their publisher does the jobs, and what those write comes with them. Done
-- here as well, jobs would meet the publisher's rows (a duplicate key stops the subscription), and the rollup, which
-- knows of local writers only, would pass rows that are still to come.
CREATE FUNCTION pgvigil.require_no_subscription() RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    came text;
BEGIN
    SELECT r.srrelid::regclass::text INTO came
    FROM pg_subscription_rel r JOIN pg_class c ON c.oid = r.srrelid JOIN pg_namespace n ON n.oid = c.relnamespace
    WHERE n.nspname = ANY ('{pgvigil,instrumentation}')
       OR c.oid IN (SELECT t.relid
                    FROM unnest('{sessions,context_history,handoff_requests,codebase_snapshots,'
                                'session_lifecycle,performance_logs,system_metrics,'
                                'analytics_aggregations,query_executions}'::text[]) w (name),
                         pg_partition_tree(pgvigil.application_table(w.name)) t)
    ORDER BY 1 LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'rows of % come by logical replication: jobs are done at the publisher', came
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'Run them there. After DROP SUBSCRIPTION they can be run here.';
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.require_no_subscription() IS
    'Raises an error where a subscription brings rows of tables that jobs work on';

-- One run of a job at a time, by the lock on its row until the caller commits; from then on by the advisory lock of the
-- run. Another one's lock on a number that comes is passed over: nobody can keep a job from being run.
CREATE FUNCTION pgvigil.begin_job(job_name text, only_if_due boolean) RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    other  record;
    run_id bigint;
BEGIN
    PERFORM FROM pgvigil.jobs j WHERE j.job = job_name FOR UPDATE;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'there is no job %', job_name
            USING ERRCODE = 'no_data_found', HINT = 'SELECT * FROM pgvigil.job_status;';
    END IF;
    PERFORM pgvigil.require_no_subscription(), pgvigil.require_all_rows();
    FOR other IN
        SELECT r.id, r.pid, r.actor
        FROM pgvigil.job_runs r
        WHERE r.job = job_name AND r.finished_at IS NULL LOOP
        IF pgvigil.is_alive(other.id, other.pid) THEN
            RAISE NOTICE 'job % is running already, in process % (%): nothing is done here', job_name, other.pid,
                other.actor;
            RETURN NULL;
        END IF;
    END LOOP;
    UPDATE pgvigil.job_runs r
    SET finished_at = clock_timestamp(), error = format('died: its server process %s is gone', r.pid)
    WHERE r.job = job_name AND r.finished_at IS NULL;
    DELETE FROM pgvigil.job_runs r WHERE r.job = job_name AND r.started_at < now() - interval '90 days';
    PERFORM pgvigil.finish_owner_code();
    IF only_if_due AND (pgvigil.due_at(job_name) <= clock_timestamp()) IS NOT TRUE THEN
        RETURN NULL;
    END IF;
    PERFORM pgvigil.require_consent(job_name),
            set_config('pgvigil.stayed', '', false), set_config('pgvigil.stayed_because', '', false);
    FOR attempt IN 1 .. 1000 LOOP
        run_id := nextval('pgvigil.job_runs_id_seq');
        EXIT WHEN pg_try_advisory_lock(1885828711, (run_id & 2147483647)::integer);
        IF attempt = 1000 THEN
            SELECT l.pid, a.usename INTO other FROM pg_locks l LEFT JOIN pg_stat_activity a ON a.pid = l.pid
            WHERE l.locktype = 'advisory'
              AND l.classid = 1885828711
              AND l.objid::bigint = run_id & 2147483647
              AND l.granted
            LIMIT 1;
            RAISE EXCEPTION 'job % cannot begin: process % of role % holds the locks that its runs need', job_name,
                other.pid, other.usename
                  USING ERRCODE = 'lock_not_available', HINT = format('SELECT pg_terminate_backend(%s);', other.pid);
        END IF;
    END LOOP;
    BEGIN
        INSERT INTO pgvigil.job_runs (id, job) OVERRIDING SYSTEM VALUE VALUES (run_id, job_name);
    EXCEPTION WHEN query_canceled OR OTHERS THEN
        PERFORM pgvigil.release_job(run_id);  -- no rollback releases it
        RAISE;
    END;
    PERFORM pgvigil.finish_owner_code();
    RETURN run_id;
END $$;
COMMENT ON FUNCTION pgvigil.begin_job(text, boolean) IS
    'Opens a row in job_runs and takes the lock of that run, for the session; '
    'reports runs that died; NULL: another session is running it, or it is not due';

CREATE FUNCTION pgvigil.report_job(run_id bigint, did bigint, note text, failure text, over boolean,
                                   object text DEFAULT NULL)
RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    total bigint;
BEGIN
    -- A repeated note is not stored again, and nobody reads more than a hundred of them.
    UPDATE pgvigil.job_runs r
    SET rows = r.rows + did,
        notes = CASE WHEN note IS NULL OR note = ANY (r.notes) THEN r.notes
                     WHEN cardinality(r.notes) < 100 THEN r.notes || note
                     WHEN cardinality(r.notes) = 100 THEN r.notes || '...'::text ELSE r.notes END,
        objects = array_remove(r.objects || object, NULL), error = failure,
        finished_at = CASE WHEN over THEN clock_timestamp() END
    WHERE r.id = run_id AND r.finished_at IS NULL RETURNING r.rows INTO total;
    PERFORM pgvigil.finish_owner_code();
    RETURN total;
END $$;
COMMENT ON FUNCTION pgvigil.report_job(bigint, bigint, text, text, boolean, text) IS
    'Records the progress of a run, and whether it is finished; returns '
    'the rows done in all, NULL if the run was recorded as dead meanwhile';

-- A run that succeeded ends the list: the next one begins from the start.
CREATE FUNCTION pgvigil.completed_items(job_name text) RETURNS text[]
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT o.name
                 FROM pgvigil.jobs j
                 JOIN pgvigil.job_runs r USING (job)
                 CROSS JOIN LATERAL unnest(r.objects) o (name)
                 WHERE j.job = job_name AND r.started_at >= pgvigil.time_slot(j.every, j.at, clock_timestamp())
                   AND r.id > coalesce((SELECT max(s.id) FROM pgvigil.job_runs s
                                        WHERE s.job = j.job AND s.finished_at IS NOT NULL AND s.error IS NULL), 0));
END $$;
COMMENT ON FUNCTION pgvigil.completed_items(text) IS
    'Items already completed by unfinished runs of this job in the current interval';

-- One transaction of a job, with the owner's rights whoever runs it, and the same with all settings of a session. In a
-- function with its owner's rights no SET ROLE is possible, and finish_owner_code leaves nothing for the COMMIT, which
-- the caller's rights would meet.
CREATE FUNCTION pgvigil.job_step(run_id bigint, refused integer)
RETURNS TABLE (total bigint, more boolean, failure text, refused_now integer)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO, YMD'
SET IntervalStyle = postgres
SET TimeZone = 'UTC'
SET quote_all_identifiers = off
AS $$
DECLARE
    run    pgvigil.job_runs;
    done   bigint;
    note   text;
    stayed text := concat(current_setting('pgvigil.stayed', true));
BEGIN
    SELECT * INTO STRICT run FROM pgvigil.job_runs r WHERE r.id = run_id;
    -- 50 ms: a session that queues behind a lock for which this one waits is not delayed longer.
    PERFORM set_config('lock_timeout', '50ms', true), set_config('pgvigil.skip_activity', 'job', true),
            set_config('pgvigil.actor', coalesce(nullif(current_setting('pgvigil.actor', true), ''), 'job ' || run.job),
                       true);
    refused_now := 0;
    BEGIN
        IF refused > 0 THEN
            PERFORM pg_sleep(least(0.05 * 1.5 ^ refused, 2));
        END IF;
        EXECUTE format('SELECT s.done, s.more, s.note FROM pgvigil.%I(1000) s', 'job_' || run.job)
            INTO STRICT done, more, note;
        PERFORM pgvigil.finish_owner_code();
        -- A step that can do nothing would be taken again for ever.
        IF more AND done = 0 AND stayed = concat(current_setting('pgvigil.stayed', true))
           AND run.objects = (SELECT r.objects FROM pgvigil.job_runs r WHERE r.id = run_id) THEN
            failure := concat_ws(': ', 'a step could do nothing of what is left', note);
            more := false;
        END IF;
    EXCEPTION
        WHEN lock_not_available OR deadlock_detected OR serialization_failure THEN
            refused_now := refused + 1;
            failure := CASE WHEN refused_now > 20 THEN SQLERRM || ' (after 20 more attempts)' END;
            done := 0;
            more := failure IS NULL;
            note := NULL;
        WHEN query_canceled OR assert_failure OR OTHERS THEN
            failure := SQLERRM;
            done := 0;
            more := false;
            note := NULL;
    END;
    total := pgvigil.report_job(run_id, done, note, failure, NOT more);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.job_step(bigint, integer) IS
    'One step of a run that begin_job began: how much it has done in all, '
    'whether there is more, why it failed, and how often a lock was refused';

-- A procedure that commits can have neither a SET clause nor its owner's rights, so operators and functions are
-- qualified here.
CREATE PROCEDURE pgvigil.run_job(job_name text, only_if_due boolean DEFAULT false, INOUT rows bigint DEFAULT NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    run_id  bigint;
    more    boolean := true;
    failure text;
    refused integer := 0;
BEGIN
    IF EXISTS (SELECT FROM pgvigil.jobs j WHERE j.job OPERATOR(pg_catalog.=) job_name AND j.needs_client) THEN
        RAISE EXCEPTION 'job % is nothing that a procedure can do', job_name
              USING ERRCODE = 'feature_not_supported',
                    HINT = pg_catalog.format('From a shell: pgvigil maintain run %s', job_name);
    END IF;
    -- Tried before anything is locked. In this block it never succeeds; the error says why.
    BEGIN
        COMMIT;
    EXCEPTION WHEN invalid_transaction_termination THEN
        IF SQLERRM OPERATOR(pg_catalog.=) 'invalid transaction termination' THEN
            RAISE EXCEPTION 'job % commits after each of its batches: it cannot '
                            'run inside a transaction block or a function',
                job_name
                  USING ERRCODE = 'invalid_transaction_termination', HINT = 'CALL it as a statement of its own.';
        END IF;
    END;
    COMMIT;
    -- The role, the database or the server may set another one. At once: reading a variable may take a snapshot.
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    rows := NULL;
    run_id := pgvigil.begin_job(job_name, only_if_due);
    COMMIT;
    SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    IF run_id IS NULL THEN
        RETURN;
    END IF;
    WHILE more LOOP
        SELECT s.total, s.more, s.failure, s.refused_now
        INTO rows, more, failure, refused
        FROM pgvigil.job_step(run_id, refused) s;
        COMMIT;
        SET TRANSACTION ISOLATION LEVEL READ COMMITTED;
    END LOOP;
    PERFORM pgvigil.release_job(run_id);
    IF failure IS NOT NULL THEN
        RAISE EXCEPTION 'job % failed: %', job_name, failure
            USING HINT = 'It goes on from there when it is run again. See pgvigil.job_runs.';
    END IF;
END $$;
COMMENT ON PROCEDURE pgvigil.run_job(text, boolean, bigint) IS
    'Runs a job to its end, a transaction per batch; returns the rows it '
    'changed, NULL if another is running it or (only_if_due) it is not due';

-- Statuses that end a session, to be edited; in another spelling ('Archived') too. Any other status counts as open.
CREATE TABLE pgvigil.final_statuses (
    status text NOT NULL
        CONSTRAINT final_statuses_pkey PRIMARY KEY
        CONSTRAINT final_statuses_status_check CHECK (status = lower(status))
);
COMMENT ON TABLE pgvigil.final_statuses IS
    'Statuses of sessions that have ended, in lower case; to be edited: every other one is open';
COMMENT ON CONSTRAINT final_statuses_status_check ON pgvigil.final_statuses IS 'Compared without regard to case';

-- One more status that ends sessions lets them be archived, one less lets them expire.
CREATE FUNCTION pgvigil.lapse_consent_by_status() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE pgvigil.jobs j SET accepted_at = NULL, accepted_by = NULL
    WHERE j.job = ANY (CASE TG_OP
                            WHEN 'INSERT' THEN '{archive}'
                            WHEN 'DELETE' THEN '{expiry}'
                            ELSE '{archive,expiry}' END::text[])
      AND j.accepted_at IS NOT NULL;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.lapse_consent_by_status() IS
    'Consent to a job lapses when another list of ended statuses lets it do more';
INSERT INTO pgvigil.final_statuses (status) VALUES ('completed'), ('cancelled'), ('expired'), ('archived');
-- After the rows above: nothing was accepted yet. By row and always, as for the policies.
CREATE TRIGGER lapse_consent AFTER INSERT OR UPDATE OR DELETE ON pgvigil.final_statuses
    FOR EACH ROW EXECUTE FUNCTION pgvigil.lapse_consent_by_status();
ALTER TABLE pgvigil.final_statuses ENABLE ALWAYS TRIGGER lapse_consent;
COMMENT ON TRIGGER lapse_consent ON pgvigil.final_statuses IS
    'A change that lets a job do more than was accepted withdraws the consent';

-- From one status to the next in the index, so that many sessions of few statuses are a few looks.
CREATE FUNCTION pgvigil.stored_statuses() RETURNS text[]
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    found  text[] := '{}';
    -- no %TYPE: PL/pgSQL reads no name in Unicode escapes
    latest text := (SELECT min(s.status) FROM "{app}".sessions s);
BEGIN
    WHILE latest IS NOT NULL LOOP
        found := found || latest;
        latest := (SELECT s.status FROM "{app}".sessions s WHERE s.status > latest ORDER BY s.status LIMIT 1);
    END LOOP;
    RETURN found;
END $$;
COMMENT ON FUNCTION pgvigil.stored_statuses() IS 'Statuses that sessions have';

CREATE FUNCTION pgvigil.ended_statuses() RETURNS text[]
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT s
                 FROM unnest(pgvigil.stored_statuses()) s
                 WHERE EXISTS (SELECT FROM pgvigil.final_statuses f WHERE f.status = lower(s)));
END $$;
COMMENT ON FUNCTION pgvigil.ended_statuses() IS 'Statuses of sessions that have ended, as they are stored';

CREATE FUNCTION pgvigil.open_statuses() RETURNS text[]
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT s
                 FROM unnest(pgvigil.stored_statuses()) s
                 WHERE NOT EXISTS (SELECT FROM pgvigil.final_statuses f WHERE f.status = lower(s)));
END $$;
COMMENT ON FUNCTION pgvigil.open_statuses() IS 'Statuses of sessions that have not ended, as they are stored';

-- Which sessions a job works on: a condition on "{app}".sessions s, with the values of this moment in it. Said once,
-- for the job and for the preview of it.
CREATE FUNCTION pgvigil.due_sessions(job_name text) RETURNS text
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET DateStyle = 'ISO, YMD'
AS $$
DECLARE
    policies text[];
    cutoffs  timestamptz[];
    latest   timestamptz;
BEGIN
    IF job_name = 'expiry' THEN
        RETURN format('s.status = ANY (%L::text[]) AND s.expires_at <= %L::timestamptz AND s.archived_at IS NULL',
                      pgvigil.open_statuses(), now());
    ELSIF job_name = ANY ('{dormancy,archive}'::text[]) THEN
        -- Cut-off of each policy, standard's first: that is the one of unknown policies.
        SELECT array_agg(p.policy ORDER BY p.policy <> 'standard'), array_agg(p.cutoff ORDER BY p.policy <> 'standard'),
               max(p.cutoff)
        INTO policies, cutoffs, latest
        FROM (SELECT r.policy, now() - make_interval(hours => r.dormant_after_hours) AS cutoff
              FROM pgvigil.retention_policies r) p;
        RETURN format('s.status = ANY (%L::text[])
                       AND s.archived_at IS NULL
                       AND (s.last_activity_at < %L::timestamptz OR s.last_activity_at IS NULL)
                       AND coalesce(s.last_activity_at, s.updated_at, s.created_at)
                           < (%L::timestamptz[])[coalesce(array_position(%L::text[], s.retention_policy::text), 1)]',
                      CASE job_name WHEN 'dormancy' THEN pgvigil.open_statuses() ELSE pgvigil.ended_statuses() END,
                          latest, cutoffs, policies)
               || CASE job_name WHEN 'dormancy' THEN ' AND NOT s.is_dormant' ELSE '' END;
    ELSIF job_name = 'orphans' THEN
        -- Policies under which sessions may be deleted; an unknown one may be a misspelt one under which they may not.
        -- A session with contents does not count as an orphan.
        RETURN format('coalesce(s.last_activity_at, s.updated_at, s.created_at) < %1$L::timestamptz
                       AND (s.last_activity_at < %1$L::timestamptz OR s.last_activity_at IS NULL)
                       AND lower(s.status) <> ALL (''{completed,archived}''::text[]) AND s.archived_at IS NULL
                       AND coalesce(s.retention_policy, ''standard'') = ANY (%2$L::text[])
                       AND NOT EXISTS (SELECT 1 FROM %3$s c WHERE c.session_id = s.id)
                           AND NOT EXISTS (SELECT 1 FROM %4$s c WHERE c.session_id = s.id)
                       AND NOT EXISTS (SELECT 1 FROM %5$s h WHERE h.session_id = s.id)
                           AND NOT EXISTS (SELECT 1 FROM pgvigil.legal_holds h WHERE h.session_id = s.id)',
                      now() - interval '7 days',
                      ARRAY(SELECT p.policy FROM pgvigil.retention_policies p WHERE NOT p.legal_hold),
                      pgvigil.application_table('context_history'), pgvigil.application_table('codebase_snapshots'),
                      pgvigil.application_table('handoff_requests'));
    ELSIF job_name = 'retention' THEN
        -- An unknown policy may be a misspelt longer one: such a session is kept.
        SELECT array_agg(p.policy), array_agg(p.cutoff), max(p.cutoff) INTO policies, cutoffs, latest
        FROM (SELECT r.policy, now() - make_interval(days => r.archived_days) AS cutoff
              FROM pgvigil.retention_policies r
              WHERE NOT r.legal_hold) p;
        RETURN format('s.archived_at <= %L::timestamptz AND s.archived_at '
                      '<= (%L::timestamptz[])[array_position(%L::text[], '
                      'coalesce(s.retention_policy, ''standard'')::text)]
                       AND NOT EXISTS (SELECT 1 FROM pgvigil.legal_holds h WHERE h.session_id = s.id)', latest, cutoffs,
                           policies);
    END IF;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.due_sessions(text) IS
    'Which sessions a job works on now, as a condition; NULL: it works on none';

-- Rows of the partitioned table are read, not of the partition, on which a reader has no rights.
CREATE FUNCTION pgvigil.preview_jobs()
RETURNS TABLE (job text, action text, object text, rows bigint, status text, is_known boolean, policy text,
               oldest timestamptz, newest timestamptz, waits_for_consent boolean)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    one    record;
    slice  record;
    within text;
    in_use boolean;
    cutoff timestamptz :=
        (SELECT CASE WHEN NOT k.hold THEN now() - make_interval(days => k.logs) END FROM pgvigil.days_kept() k);
BEGIN
    PERFORM pgvigil.require_all_rows();
    FOR one IN SELECT j.job, v.action, j.needs_consent AND j.accepted_at IS NULL AS waits
               FROM (VALUES (1, 'expiry', 'expire'), (2, 'dormancy', 'mark dormant'), (3, 'archive', 'archive'),
                     (4, 'orphans', 'delete'), (5, 'retention', 'delete'))
                    v (place, job, action) JOIN pgvigil.jobs j ON j.job = v.job ORDER BY v.place LOOP
        RETURN QUERY EXECUTE format(
            'SELECT %L, %L, %L, count(*), s.status::text, lower(s.status) = ANY (%L::text[]),
                    coalesce(s.retention_policy, ''standard'')::text,
                    min(coalesce(s.last_activity_at, s.updated_at, s.created_at)),
                    max(coalesce(s.last_activity_at, s.updated_at, s.created_at)), %L::boolean
             FROM %s s
             WHERE %s
             GROUP BY s.status, lower(s.status), 7
             ORDER BY 4 DESC, 5, 7',
            one.job, one.action, 'sessions',
            ARRAY(SELECT f.status FROM pgvigil.final_statuses f) || '{active,pending}'::text[],
            one.waits, pgvigil.application_table('sessions'), pgvigil.due_sessions(one.job));
    END LOOP;
    FOR slice IN
        SELECT p.*, j.needs_consent AND j.accepted_at IS NULL AS waits
        FROM pgvigil.due_partitions() p
        JOIN pgvigil.jobs j ON j.job = 'retention' LOOP
        within := format('%s t WHERE t.%2$I >= %3$L AND t.%2$I < %4$L', pgvigil.partitioned_table(slice.parent_table),
                         pgvigil.partition_key(pgvigil.partitioned_table(slice.parent_table)),
                         pgvigil.uuid_v7_floor(slice.from_time), pgvigil.uuid_v7_floor(slice.to_time));
        in_use := false;
        IF slice.parent_table = 'session_lifecycle' THEN
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s)', within) INTO in_use;
        ELSIF slice.parent_table = 'performance_logs' THEN
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s
                                             AND t.session_id IN (SELECT h.session_id FROM pgvigil.legal_holds h
                                                                  UNION ALL
                                                                  SELECT h.session_id FROM pgvigil.remote_holds h))',
                           within)
                INTO in_use;
        END IF;
        CONTINUE WHEN in_use;
        RETURN QUERY SELECT 'retention', 'drop', slice.partition, slice.estimated_rows, NULL::text, NULL::boolean,
            NULL::text, slice.from_time, slice.to_time, slice.waits;
    END LOOP;
    FOR one IN
        SELECT j.needs_consent AND j.accepted_at IS NULL AS waits
        FROM pgvigil.jobs j
        WHERE j.job = 'executions' AND cutoff IS NOT NULL LOOP
        RETURN QUERY EXECUTE format('SELECT ''executions'', ''delete'', ''query_executions'', count(*), NULL::text,
                                    NULL::boolean, NULL::text, min(e.started_at), max(e.started_at), $1
                                     FROM %s e
                                     WHERE e.started_at < $2
                                     HAVING count(*) > 0',
                                    pgvigil.application_table('query_executions'))
            USING one.waits, cutoff;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgvigil.preview_jobs() IS
    'The sessions that each job would change now, by status and policy (oldest and '
    'newest by their last activity; is_known: the status is an ended one, active or '
    'pending), query executions and partitions (rows by the planner''s estimate)';

-- A job changes a batch of sessions by one statement. Where it fails for a session (by a trigger, a constraint or
-- another table of the application), they are tried one by one: that session stays, and the others are done all the
-- same. Until the run ends, two settings of its session keep which have stayed and why, so that the next batch is of
-- others. Rows that a writer holds are passed over, and met again at the next run. ARRAY(...) makes the planner choose
-- once.
CREATE FUNCTION pgvigil.change_due_sessions(job_name text, batch integer, change text)
RETURNS TABLE (done bigint, more boolean, note text, refused text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    stayed  uuid[] := coalesce(nullif(current_setting('pgvigil.stayed', true), '')::uuid[], '{}');
    reason  text := nullif(current_setting('pgvigil.stayed_because', true), '');
    ids     uuid[] := '{}';
    changed uuid[];
    one     uuid;
    through uuid[];
BEGIN
    done := 0;
    more := false;
    change := format('WITH changed AS (' || change || ' WHERE id = ANY ($1) RETURNING id)
                      SELECT coalesce(array_agg(id), ''{}'') FROM changed', pgvigil.application_table('sessions'));
    IF cardinality(stayed) < 10000 THEN
        EXECUTE format('SELECT ARRAY(SELECT s.id FROM %s s WHERE %s%s LIMIT $1 FOR %s OF s SKIP LOCKED)',
                       pgvigil.application_table('sessions'), pgvigil.due_sessions(job_name),
                       CASE WHEN stayed <> '{}' THEN ' AND s.id <> ALL ($2)' ELSE '' END,
                       CASE WHEN starts_with(change, 'WITH changed AS (DELETE') THEN 'UPDATE' ELSE 'NO KEY UPDATE' END)
        INTO ids USING batch, stayed;
    END IF;
    IF ids = '{}' THEN
        refused := format('%s (%s in all, the first is session %s)', reason, cardinality(stayed), stayed[1]);
        refused := CASE WHEN reason IS NOT NULL THEN refused END;
        note := CASE WHEN reason IS NULL AND stayed <> '{}'
                     THEN format('a trigger of the application keeps sessions as they are '
                                 '(%s, the first is session %s)', cardinality(stayed), stayed[1]) END;
        RETURN NEXT;
        RETURN;
    END IF;
    IF job_name = ANY ('{orphans,retention}'::text[]) THEN
        PERFORM pgvigil.require_backup(job_name);
    END IF;
    PERFORM pgvigil.use_application_path();
    BEGIN
        EXECUTE change INTO changed USING ids;
        SET CONSTRAINTS ALL IMMEDIATE;
    EXCEPTION
        WHEN transaction_rollback OR lock_not_available OR insufficient_resources OR operator_intervention
            OR system_error OR internal_error THEN
            RAISE;
        WHEN assert_failure OR OTHERS THEN
            changed := '{}';
            FOREACH one IN ARRAY ids LOOP
                BEGIN
                    EXECUTE change INTO through USING ARRAY[one];
                    SET CONSTRAINTS ALL IMMEDIATE;
                    changed := changed || through;
                EXCEPTION
                    WHEN transaction_rollback OR lock_not_available OR insufficient_resources OR operator_intervention
                        OR system_error OR internal_error THEN
                        RAISE;
                    WHEN assert_failure OR OTHERS THEN
                        reason := coalesce(reason, SQLERRM);
                END;
            END LOOP;
    END;
    done := cardinality(changed);
    more := cardinality(ids) = batch OR done < cardinality(ids);
    IF done < cardinality(ids) THEN
        stayed := stayed || ARRAY(SELECT i FROM unnest(ids) i WHERE i <> ALL (changed));
        PERFORM set_config('pgvigil.stayed', stayed::text, false),
                set_config('pgvigil.stayed_because', coalesce(reason, ''), false);
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.change_due_sessions(text, integer, text) IS
    'One batch of a job that changes or deletes sessions; one that the application keeps stops no '
    'other, and when only such are left, refused says why';

CREATE FUNCTION pgvigil.job_expiry(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refused text;
BEGIN
    PERFORM pgvigil.require_consent('expiry');
    SELECT c.* INTO done, more, note, refused
    FROM pgvigil.change_due_sessions('expiry', batch, 'UPDATE %s SET status = ''expired''') c;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'sessions that were due could not be expired: %', refused;
    END IF;
    RETURN NEXT;
END $$;

CREATE FUNCTION pgvigil.job_dormancy(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refused text;
BEGIN
    SELECT c.* INTO done, more, note, refused
    FROM pgvigil.change_due_sessions('dormancy', batch, 'UPDATE %s SET is_dormant = true') c;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'sessions that were due could not be marked as dormant: %', refused;
    END IF;
    RETURN NEXT;
END $$;

CREATE FUNCTION pgvigil.job_archive(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refused text;
BEGIN
    PERFORM pgvigil.require_consent('archive');
    SELECT c.* INTO done, more, note, refused
    FROM pgvigil.change_due_sessions('archive', batch, 'UPDATE %s SET archived_at = CURRENT_TIMESTAMP') c;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'sessions that were due could not be archived: %', refused;
    END IF;
    RETURN NEXT;
END $$;

-- Deleted sessions are kept, with their trails, in pgvigil.deleted_sessions.
CREATE FUNCTION pgvigil.job_orphans(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    refused text;
BEGIN
    PERFORM pgvigil.require_consent('orphans'),
            set_config('pgvigil.reason', 'orphaned: never held anything and idle for a week', true);
    SELECT c.* INTO done, more, note, refused
    FROM pgvigil.change_due_sessions('orphans', batch, 'DELETE FROM %s') c;
    IF refused IS NOT NULL THEN
        RAISE EXCEPTION 'sessions that were due could not be deleted: %', refused;
    END IF;
    RETURN NEXT;
END $$;

CREATE FUNCTION pgvigil.job_counters(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    done := pgvigil.fold_session_counters(batch);
    more := done >= batch;
    RETURN NEXT;
END $$;

CREATE VIEW pgvigil.partitions AS
SELECT p.parent_table,
       CASE WHEN starts_with(p.parent_table, 'instrumentation.') THEN 'instrumentation.' || c.relname
            ELSE c.relname::text END AS partition,
       pgvigil.uuid_v7_time(substring(pg_get_expr(c.relpartbound, c.oid)
                                      FROM 'FROM [(]''([0-9a-f-]{36})''[)]')::uuid) AS from_time,
       pgvigil.uuid_v7_time(substring(pg_get_expr(c.relpartbound, c.oid)
                                      FROM 'TO [(]''([0-9a-f-]{36})''[)]')::uuid) AS to_time,
       greatest(c.reltuples, 0)::bigint AS estimated_rows, pg_total_relation_size(c.oid) AS bytes,
       c.oid AS partition_oid
FROM pgvigil.partition_policies p
JOIN pg_inherits i ON i.inhparent = pgvigil.partitioned_table(p.parent_table)
JOIN pg_class c ON c.oid = i.inhrelid;
COMMENT ON VIEW pgvigil.partitions IS
    'The partitions there are, the stretch of time and the size of each; a default one has no times';

-- Most rows of logs and metrics name no session, so the longest of the policies that sessions have counts for all of
-- them.
CREATE FUNCTION pgvigil.days_kept() RETURNS TABLE (logs integer, metrics integer, hold boolean, archive boolean)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    RETURN QUERY
    SELECT max(p.logs_days), max(p.metrics_days),
           bool_or(p.legal_hold)
               OR EXISTS (SELECT 1 FROM pgvigil.hold_sources r
                          WHERE r.holds_all OR r.pushed_at < now() - r.valid_for OR r.pushed_at > clock_timestamp()),
           bool_or(p.keep_archive)
    FROM pgvigil.retention_policies p
    WHERE p.policy = 'standard'
      OR EXISTS (SELECT FROM "{app}".sessions s
                 WHERE s.retention_policy = p.policy AND s.retention_policy <> 'standard');
END $$;
COMMENT ON FUNCTION pgvigil.days_kept() IS
    'For how many days logs and metrics are kept, whether a policy under '
    'legal hold keeps them all, and whether they are archived first';

CREATE FUNCTION pgvigil.due_partitions() RETURNS SETOF pgvigil.partitions
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT p.* FROM pgvigil.partitions p CROSS JOIN pgvigil.days_kept() k
    WHERE p.to_time < now() - CASE p.parent_table WHEN 'performance_logs' THEN make_interval(days => k.logs)
                                                  WHEN 'instrumentation.sql_statements'
                                                      THEN make_interval(days => k.logs)
                                                  WHEN 'system_metrics' THEN make_interval(days => k.metrics)
                                                  WHEN 'session_lifecycle' THEN interval '1 day' END
      AND (p.parent_table = 'session_lifecycle' OR NOT k.hold)
    ORDER BY p.to_time;
END $$;
COMMENT ON FUNCTION pgvigil.due_partitions() IS
    'Partitions past their time, the oldest first; those with rows of sessions that are kept stay all the same';

-- One step: a missing partition, or a batch of rows that wait in a default one, whichever comes first. An obstacle to
-- one partition is reported at the end, and does not prevent the others.
CREATE FUNCTION pgvigil.job_partitions(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy   pgvigil.partition_policies;
    table_   regclass;
    waits    regclass;
    slice    timestamptz;
    begins   timestamp;  -- UTC: a step of a month must not bend with the session's time zone
    width    interval;
    reach    interval;
    from_id  uuid;
    end_id   uuid;
    one      uuid;
    key      name;
    columns  text;
    problems text[] := '{}';
BEGIN
    more := true;
    FOR policy IN SELECT * FROM pgvigil.partition_policies ORDER BY parent_table LOOP
        CONTINUE WHEN pgvigil.partitioned_table(policy.parent_table) IS NULL;
        FOR begins IN SELECT date_trunc(policy.step, now() AT TIME ZONE 'UTC') + n * ('1 ' || policy.step)::interval
                      FROM generate_series(0, policy.make_ahead) n LOOP
            slice := begins AT TIME ZONE 'UTC';
            BEGIN
                done := pgvigil.ensure_partitions(policy.parent_table, slice, slice, 10 * batch);
                IF done <> 0 THEN
                    done := CASE WHEN done < 0 THEN 10 * batch ELSE done END;
                    RETURN NEXT;
                    RETURN;
                END IF;
            EXCEPTION WHEN duplicate_table THEN
                problems := problems || SQLERRM;
            END;
        END LOOP;
    END LOOP;
    FOR policy IN SELECT * FROM pgvigil.partition_policies ORDER BY parent_table LOOP
        table_ := pgvigil.partitioned_table(policy.parent_table);
        waits := pgvigil.default_partition(table_);
        CONTINUE WHEN waits IS NULL;
        key := pgvigil.partition_key(table_);
        width := ('1 ' || policy.step)::interval;
        reach := greatest(100 * width, interval '8 days');
        -- A time-ordered id of a time at most 100 partitions (or eight days) ago belongs into a partition of its own.
        from_id := pgvigil.uuid_v7_floor(now() - reach);
        end_id := pgvigil.uuid_v7_floor(now());
        LOOP
            EXECUTE format('SELECT %2$I
                            FROM %1$s
                            WHERE %2$I >= $1 AND %2$I < $2 AND substr(%2$I::text, 15, 1) = ''7''
                            ORDER BY %2$I
                            LIMIT 1', waits, key)
            INTO one USING from_id, end_id;
            EXIT WHEN one IS NULL;
            slice := pgvigil.uuid_v7_time(one);
            BEGIN
                done := pgvigil.ensure_partitions(policy.parent_table, slice, slice, 10 * batch);
                IF done <> 0 THEN
                    note := CASE WHEN done > 0
                                 THEN format('made room in %s for rows of %s that had waited in the default partition',
                                             policy.parent_table, to_char(slice AT TIME ZONE 'UTC', 'YYYY-MM-DD')) END;
                    done := CASE WHEN done < 0 THEN 10 * batch ELSE done END;
                    RETURN NEXT;
                    RETURN;
                END IF;
                EXIT;  -- there is a partition, and still a row of its time waits: PostgreSQL allows no such thing
            EXCEPTION WHEN duplicate_table THEN
                problems := problems || SQLERRM;
                from_id := pgvigil.uuid_v7_floor(
                    (date_trunc(policy.step, slice AT TIME ZONE 'UTC') + width) AT TIME ZONE 'UTC');
            END;
        END LOOP;
        -- Any other id holds no time: its row gets one of now, when it is first seen in order; its own time column
        -- stays.
        SELECT string_agg(quote_ident(attname), ', ' ORDER BY attnum) INTO columns FROM pg_attribute
        WHERE attrelid = table_ AND attnum > 0 AND NOT attisdropped AND attname <> key;
        PERFORM set_config('pgvigil.instrumentation', 'write', true);
        EXECUTE format('WITH moved AS (DELETE FROM %1$s WHERE %4$I = ANY (ARRAY(
                            SELECT %4$I
                            FROM %1$s
                            WHERE NOT (%4$I >= $2 AND %4$I < $3 AND substr(%4$I::text, 15, 1) = ''7'')
                            LIMIT $1
                            FOR UPDATE SKIP LOCKED))
                            RETURNING *)
                        INSERT INTO %2$s (%4$I, %3$s)
                        SELECT pgvigil.uuid_v7(), %3$s
                        FROM moved', waits, table_, columns, key)
        USING batch, pgvigil.uuid_v7_floor(now() - reach), end_id;
        GET DIAGNOSTICS done = ROW_COUNT;
        PERFORM set_config('pgvigil.instrumentation', '', true);
        IF done > 0 THEN
            note := format('gave rows of %s time-ordered ids', policy.parent_table);
            RETURN NEXT;
            RETURN;
        END IF;
    END LOOP;
    IF problems <> '{}' THEN
        RAISE EXCEPTION '%', array_to_string(ARRAY(SELECT DISTINCT p FROM unnest(problems) p ORDER BY 1), '; ')
            USING ERRCODE = 'duplicate_table';
    END IF;
    done := 0;
    more := false;
    RETURN NEXT;
END $$;

-- Sessions first, then one partition at a time. DROP, not DETACH CONCURRENTLY, which PostgreSQL refuses where there is
-- a default partition: it holds its lock for a millisecond, and the file goes after that.
CREATE FUNCTION pgvigil.job_retention(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept     text;
    slice    record;
    in_use   boolean;
    held     text[] := '{}';
    unkept   text[] := '{}';
    used     text[] := '{}';
    detail   text;
    archives boolean;
    refused  text;
BEGIN
    PERFORM pgvigil.require_consent('retention'),
            set_config('pgvigil.reason', 'retention: archived for longer than its policy keeps it', true);
    SELECT c.done, c.more, c.note, c.refused INTO done, more, kept, refused
    FROM pgvigil.change_due_sessions('retention', greatest(batch / 10, 1), 'DELETE FROM %s') c;
    IF more OR done > 0 THEN
        more := true;
        RETURN NEXT;
        RETURN;
    END IF;

    SELECT k.archive INTO archives FROM pgvigil.days_kept() k;
    FOR slice IN SELECT * FROM pgvigil.due_partitions() LOOP
        in_use := false;
        IF slice.parent_table = 'session_lifecycle' THEN
            -- Trails live as long as their sessions: a partition goes when the last of them is gone.
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', slice.partition_oid::regclass);
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s)', slice.partition_oid::regclass) INTO in_use;
        ELSIF slice.parent_table = 'performance_logs' THEN
            EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s p
                                           WHERE p.session_id IN (SELECT h.session_id FROM pgvigil.legal_holds h
                                                                  UNION ALL
                                                                  SELECT h.session_id FROM pgvigil.remote_holds h))',
                           slice.partition_oid::regclass)
                INTO in_use;
            IF in_use THEN
                held := held || slice.partition;
            END IF;
        END IF;
        CONTINUE WHEN in_use;
        IF archives THEN
            -- Rows that come late wait here; those that came since the archive was written show.
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', slice.partition_oid::regclass);
            IF NOT pgvigil.is_archived(slice.parent_table, slice.partition_oid) THEN
                unkept := unkept || slice.partition;
                CONTINUE;
            END IF;
        END IF;
        BEGIN
            IF slice.parent_table = 'system_metrics' THEN
                -- The markers of installs and migrations are written once: they move on.
                EXECUTE format('INSERT INTO %s (metric_name, metric_value, metric_type, labels, recorded_at)
                                SELECT metric_name, metric_value, metric_type, labels, recorded_at FROM %s
                                WHERE metric_name = ANY (''{schema_initialized,migration_completed}''::text[])
                                ORDER BY id',
                               pgvigil.application_table('system_metrics'), slice.partition_oid::regclass);
            END IF;
            EXECUTE format('DROP TABLE %s', slice.partition_oid::regclass);
            IF to_regclass('pgvigil.archives') IS NOT NULL THEN  -- made by 018
                PERFORM pgvigil.record_drop(slice.parent_table, slice.partition_oid);
            END IF;
        EXCEPTION WHEN dependent_objects_still_exist THEN  -- somebody's view: the others go all the same
            GET STACKED DIAGNOSTICS detail = PG_EXCEPTION_DETAIL;
            used := used || format('%s (%s)', slice.partition, detail);
            CONTINUE;
        END;
        done := greatest(slice.estimated_rows, 1);
        note := format('dropped %s (about %s rows, %s)', slice.partition, slice.estimated_rows,
                       pg_size_pretty(slice.bytes));
        more := true;
        RETURN NEXT;
        RETURN;
    END LOOP;
    IF used <> '{}' THEN
        RAISE EXCEPTION 'partitions past their time could not be dropped: %', array_to_string(used, '; ')
            USING ERRCODE = 'dependent_objects_still_exist';
    END IF;
    IF refused IS NOT NULL OR kept IS NOT NULL THEN
        RAISE EXCEPTION 'sessions past their time could not be deleted: %', coalesce(refused, kept);
    END IF;
    done := 0;
    more := false;
    IF held <> '{}' THEN
        note := 'kept, for rows of sessions under legal hold: ' || array_to_string(held, ', ');
    END IF;
    note := concat_ws('; ', note,
                      'kept, because these have not said for too long what is under legal hold (pgvigil maintain run '
                      'holds, there): '
                          || pgvigil.unheard_sources());
    note := nullif(note, '');
    IF unkept <> '{}' THEN
        note := concat_ws('; ', note,
                          'kept, because they are not archived as they are now (pgvigil maintain run archive): '
                              || array_to_string(unkept, ', '));
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.job_retention(integer) IS
    'One step of job retention: a batch of sessions, then a partition at a time';

-- The jobs under the names people look for.
CREATE PROCEDURE pgvigil.expire_due_sessions(INOUT rows bigint DEFAULT NULL)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL pgvigil.run_job('expiry', false, rows);
END $$;
COMMENT ON PROCEDURE pgvigil.expire_due_sessions(bigint) IS 'Runs job expiry; returns the sessions expired';

CREATE PROCEDURE pgvigil.detect_dormant_sessions(INOUT rows bigint DEFAULT NULL)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL pgvigil.run_job('dormancy', false, rows);
END $$;
COMMENT ON PROCEDURE pgvigil.detect_dormant_sessions(bigint) IS 'Runs job dormancy; returns the sessions marked';

CREATE PROCEDURE pgvigil.archive_due_sessions(INOUT rows bigint DEFAULT NULL)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL pgvigil.run_job('archive', false, rows);
END $$;
COMMENT ON PROCEDURE pgvigil.archive_due_sessions(bigint) IS 'Runs job archive; returns the sessions archived';

CREATE PROCEDURE pgvigil.cleanup_orphaned_sessions(INOUT rows bigint DEFAULT NULL)
LANGUAGE plpgsql
AS $$
BEGIN
    CALL pgvigil.run_job('orphans', false, rows);
END $$;
COMMENT ON PROCEDURE pgvigil.cleanup_orphaned_sessions(bigint) IS 'Runs job orphans; returns the sessions deleted';

CREATE PROCEDURE pgvigil.enforce_retention(INOUT rows bigint DEFAULT NULL)
LANGUAGE plpgsql
AS $$
DECLARE
    gone bigint;
BEGIN
    CALL pgvigil.run_job('retention', false, rows);
    CALL pgvigil.run_job('executions', false, gone);
    rows := coalesce(rows OPERATOR(pg_catalog.+) gone, rows, gone);
END $$;
COMMENT ON PROCEDURE pgvigil.enforce_retention(bigint) IS
    'Runs the jobs retention and executions; returns the rows that '
    'went, those of dropped partitions by the planner''s estimate';
