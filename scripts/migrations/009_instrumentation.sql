-- Connections, and their statements. Applications and DBAs write here through functions, and recorders append
-- statements by COPY; nobody else writes at all. Everything is in a schema of its own, because `sessions` is the
-- application's name. Functions that run with their owner's rights pin a search_path of nothing but pg_catalog, and
-- qualify the rest. The schema itself is made by prepare.sql.
GRANT USAGE ON SCHEMA instrumentation TO PUBLIC;

CREATE TYPE instrumentation.instance_status AS ENUM ('running', 'stopped');
CREATE TYPE instrumentation.session_status AS ENUM ('active', 'closed', 'killed', 'timeout', 'error');
CREATE TYPE instrumentation.statement_status AS ENUM ('executing', 'success', 'error', 'timeout', 'cancelled');
COMMENT ON TYPE instrumentation.instance_status IS 'Whether an application runs';
COMMENT ON TYPE instrumentation.session_status IS
    'active, or how a session ended: closed by its application, killed by a DBA, timeout (no heartbeat), error (its '
    'server process vanished)';
COMMENT ON TYPE instrumentation.statement_status IS 'executing, or how a statement ended';

CREATE TABLE instrumentation.instances (
    instance_id           uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT instances_pkey PRIMARY KEY,
    toolkit_version       text,
    server_version        text NOT NULL,
    hostname              text NOT NULL,
    port                  integer,
    database_name         text NOT NULL,
    start_time            timestamptz NOT NULL DEFAULT clock_timestamp(),
    stop_time             timestamptz,
    status                instrumentation.instance_status NOT NULL DEFAULT 'running',
    stop_reason           text,
    heartbeat_at          timestamptz NOT NULL DEFAULT clock_timestamp(),
    system_identifier     bigint NOT NULL,
    postmaster_start_time timestamptz NOT NULL,
    instance_tag          jsonb NOT NULL DEFAULT '{}',
    registered_by         text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE instrumentation.instances IS 'One row per application process that is instrumented, or sampler';
COMMENT ON COLUMN instrumentation.instances.toolkit_version IS
    'Version of pgvigil in the application; NULL: it uses the SQL functions alone';
COMMENT ON COLUMN instrumentation.instances.server_version IS 'Version of the server when it registered';
COMMENT ON COLUMN instrumentation.instances.hostname IS 'Host on which the application runs, as it says';
COMMENT ON COLUMN instrumentation.instances.port IS 'Port of the server';
COMMENT ON COLUMN instrumentation.instances.stop_time IS 'When it stopped, or was found to have';
COMMENT ON COLUMN instrumentation.instances.stop_reason IS
    'Why it stopped; "heartbeat missed": it was found dead, and a late heartbeat revives it';
COMMENT ON COLUMN instrumentation.instances.heartbeat_at IS 'Its last sign of life, by the server''s clock';
COMMENT ON COLUMN instrumentation.instances.system_identifier IS
    'The server''s own identity: another one after a failover to a copy that was initialised separately';
COMMENT ON COLUMN instrumentation.instances.postmaster_start_time IS
    'When the server had been started, at the last heartbeat';
COMMENT ON COLUMN instrumentation.instances.instance_tag IS 'Set by the application';
COMMENT ON COLUMN instrumentation.instances.registered_by IS
    'The login role that registered it: only that one speaks for it, and admins';

CREATE TABLE instrumentation.sessions (
    session_id       uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT sessions_pkey PRIMARY KEY,
    instance_id      uuid NOT NULL
        CONSTRAINT sessions_instance_id_fkey
        REFERENCES instrumentation.instances (instance_id),
    username         text NOT NULL,
    role             text,
    peer             text,
    start_time       timestamptz NOT NULL DEFAULT clock_timestamp(),
    stop_time        timestamptz,
    status           instrumentation.session_status NOT NULL DEFAULT 'active',
    stop_reason      text,
    backend_pid      integer,
    backend_start    timestamptz,
    application_name text,
    auth_method      text,
    session_tag      jsonb NOT NULL DEFAULT '{}',
    last_activity_at timestamptz NOT NULL DEFAULT clock_timestamp()
) WITH (fillfactor = 80);
COMMENT ON TABLE instrumentation.sessions IS 'One row per connection of an application';
COMMENT ON COLUMN instrumentation.sessions.role IS 'The role in effect when it was registered, if known';
COMMENT ON COLUMN instrumentation.sessions.peer IS 'Address and port of the client; local: over a socket';
COMMENT ON COLUMN instrumentation.sessions.stop_time IS 'When it ended, or was found to have';
COMMENT ON COLUMN instrumentation.sessions.status IS 'active, or how it ended';
COMMENT ON COLUMN instrumentation.sessions.stop_reason IS 'Why it ended, and who ended it';
COMMENT ON COLUMN instrumentation.sessions.backend_pid IS
    'Its server process; NULL: behind a transaction pooler, where that changes';
COMMENT ON COLUMN instrumentation.sessions.backend_start IS 'When that process was started: with the pid, its identity';
COMMENT ON COLUMN instrumentation.sessions.application_name IS 'application_name of the connection';
COMMENT ON COLUMN instrumentation.sessions.auth_method IS
    'How it authenticated; known from PostgreSQL 16 on to a connection that registers itself';
COMMENT ON COLUMN instrumentation.sessions.session_tag IS 'Set by the application';
COMMENT ON COLUMN instrumentation.sessions.last_activity_at IS
    'When its server process last began or ended something, to a heartbeat';
CREATE INDEX idx_instrumentation_sessions_active ON instrumentation.sessions (backend_pid) WHERE status = 'active';
CREATE INDEX idx_instrumentation_sessions_instance_id ON instrumentation.sessions (instance_id);
COMMENT ON INDEX instrumentation.idx_instrumentation_sessions_active IS
    'The session of a server process, and all that are active';

CREATE TABLE instrumentation.sql_statements (
    statement_id         uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT sql_statements_pkey PRIMARY KEY,
    session_id           uuid NOT NULL
        CONSTRAINT sql_statements_session_id_fkey
        REFERENCES instrumentation.sessions (session_id),
    sql_text             text,
    statement_handle     text,
    execution_start_time timestamptz NOT NULL DEFAULT clock_timestamp(),
    execution_end_time   timestamptz,
    rows_fetched         bigint,
    status               instrumentation.statement_status NOT NULL DEFAULT 'executing',
    error_message        text,
    duration_ms          bigint CONSTRAINT sql_statements_duration_ms_check CHECK (duration_ms >= 0),
    sqlstate             text,
    query_id             bigint,
    query_tag            jsonb,
    source               text NOT NULL DEFAULT 'application'
) PARTITION BY RANGE (statement_id);
COMMENT ON TABLE instrumentation.sql_statements IS 'One row per statement: its text, duration and outcome';
COMMENT ON COLUMN instrumentation.sql_statements.statement_id IS
    'Time-ordered (UUIDv7), made by whoever records the statement';
COMMENT ON COLUMN instrumentation.sql_statements.sql_text IS
    'The statement, without its parameters; for others than admins, see session_activity';
COMMENT ON COLUMN instrumentation.sql_statements.statement_handle IS 'The application''s own name for it';
COMMENT ON COLUMN instrumentation.sql_statements.rows_fetched IS 'Rows returned or changed';
COMMENT ON COLUMN instrumentation.sql_statements.status IS
    'executing, or how it ended; the sampler cannot distinguish success from error, and says success';
COMMENT ON COLUMN instrumentation.sql_statements.sqlstate IS 'Code of the error';
COMMENT ON COLUMN instrumentation.sql_statements.query_id IS 'As pg_stat_statements has it, if known';
COMMENT ON COLUMN instrumentation.sql_statements.query_tag IS 'Set by the application';
COMMENT ON COLUMN instrumentation.sql_statements.source IS
    'Recorder: sampler saw it in pg_stat_activity, any other ran it';
COMMENT ON CONSTRAINT sql_statements_pkey ON instrumentation.sql_statements IS
    'True primary key, because the table is partitioned by it';
COMMENT ON CONSTRAINT sql_statements_duration_ms_check ON instrumentation.sql_statements IS
    'Time does not run backwards';
CREATE INDEX idx_sql_statements_session_id ON instrumentation.sql_statements (session_id);
CREATE INDEX idx_sql_statements_executing ON instrumentation.sql_statements (session_id) WHERE status = 'executing';
COMMENT ON INDEX instrumentation.idx_sql_statements_executing IS 'Statements that are running';
CREATE TABLE instrumentation.sql_statements_default PARTITION OF instrumentation.sql_statements DEFAULT;
COMMENT ON TABLE instrumentation.sql_statements_default IS 'Rows no other partition takes; should be empty';

INSERT INTO pgvigil.partition_policies (parent_table, step, make_ahead)
VALUES ('instrumentation.sql_statements', 'day', 14);
SELECT pgvigil.ensure_partitions('instrumentation.sql_statements')
WHERE current_setting('pgvigil.only_to_read', true) IS DISTINCT FROM 'on';  -- see 003

CREATE TABLE instrumentation.kill_attempts (
    attempt_id   uuid NOT NULL DEFAULT pgvigil.uuid_v7() CONSTRAINT kill_attempts_pkey PRIMARY KEY,
    session_id   uuid,
    mode         text,
    ok           boolean NOT NULL,
    reason       text NOT NULL,
    actor        text NOT NULL,
    "session_user" text NOT NULL DEFAULT session_user,
    peer         inet DEFAULT inet_client_addr(),
    on_behalf_of text,
    attempted_at timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE instrumentation.kill_attempts IS
    'Every call of kill_session, refused ones too; those of the last 90 days are kept';
COMMENT ON COLUMN instrumentation.kill_attempts.session_id IS 'The session named, which need not be one';
COMMENT ON COLUMN instrumentation.kill_attempts.reason IS 'The action, or the reason for the refusal';
COMMENT ON COLUMN instrumentation.kill_attempts.actor IS 'The login role, and the role it had taken';
COMMENT ON COLUMN instrumentation.kill_attempts.peer IS 'From where; NULL: over a local socket';
COMMENT ON COLUMN instrumentation.kill_attempts.on_behalf_of IS
    'For whom, as the caller claims (setting pgvigil.actor): the person behind a web application';
CREATE INDEX idx_kill_attempts_session_id ON instrumentation.kill_attempts (session_id);
COMMENT ON INDEX instrumentation.idx_kill_attempts_session_id IS 'Whether somebody had ended a session';

-- Guards --------------------------------------------------------------------------------------------------------------

-- Rights keep others out. This guard is for roles that rights do not stop, above all an application that owns its
-- schema: a write by anything but the functions below, a job or a recorder is a mistake. Those set a setting for their
-- transaction.
CREATE FUNCTION instrumentation.guard() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Rows that come by logical replication were let through where they were written. Its workers are known by the
    -- server's own list of them, which any role may read and no client can get into; pg_stat_activity hides them from
    -- most roles.
    IF current_setting('pgvigil.instrumentation', true) IS DISTINCT FROM 'write'
       AND NOT EXISTS (SELECT FROM pg_stat_get_subscription(NULL) w WHERE w.pid = pg_backend_pid()) THEN
        RAISE EXCEPTION 'Cannot modify the instrumentation tables. They are read-only for client sessions.'
              USING ERRCODE = 'insufficient_privilege', HINT = 'Use the functions of schema instrumentation.';
    END IF;
    RETURN CASE TG_OP WHEN 'DELETE' THEN OLD ELSE NEW END;
END $$;
COMMENT ON FUNCTION instrumentation.guard() IS
    'Refuses whatever does not come through the functions of this schema, a job or a recorder';

CREATE TRIGGER guard_instances BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON instrumentation.instances
    FOR EACH STATEMENT EXECUTE FUNCTION instrumentation.guard();
CREATE TRIGGER guard_sessions BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON instrumentation.sessions
    FOR EACH STATEMENT EXECUTE FUNCTION instrumentation.guard();
CREATE TRIGGER guard_sql_statements BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON instrumentation.sql_statements
    FOR EACH STATEMENT EXECUTE FUNCTION instrumentation.guard();
-- That of a statement is not met by who names a partition. Inserts go without this one: it would halve the speed of
-- COPY.
CREATE TRIGGER guard_sql_statements_rows BEFORE UPDATE OR DELETE ON instrumentation.sql_statements
    FOR EACH ROW EXECUTE FUNCTION instrumentation.guard();
CREATE TRIGGER guard_kill_attempts BEFORE INSERT OR UPDATE OR DELETE OR TRUNCATE ON instrumentation.kill_attempts
    FOR EACH STATEMENT EXECUTE FUNCTION instrumentation.guard();
-- Also where session_replication_role keeps ordinary triggers from firing.
ALTER TABLE instrumentation.instances ENABLE ALWAYS TRIGGER guard_instances;
ALTER TABLE instrumentation.sessions ENABLE ALWAYS TRIGGER guard_sessions;
ALTER TABLE instrumentation.sql_statements ENABLE ALWAYS TRIGGER guard_sql_statements;
ALTER TABLE instrumentation.sql_statements ENABLE ALWAYS TRIGGER guard_sql_statements_rows;
ALTER TABLE instrumentation.kill_attempts ENABLE ALWAYS TRIGGER guard_kill_attempts;
-- A recorder appends by COPY, which no function of ours is asked about: once a statement, what it appended is looked
-- at.
CREATE FUNCTION instrumentation.guard_appended() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF pg_has_role(session_user, (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'instrumentation'),
                   CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'USAGE, SET'
                        ELSE 'MEMBER' END) THEN
        RETURN NULL;
    END IF;
    -- Each of them: a login that speaks for one of the others need not speak for the next.
    PERFORM instrumentation.require_speaker(f.instance_id)
    FROM (SELECT DISTINCT i.instance_id
          FROM (SELECT DISTINCT n.session_id FROM appended n) a
          JOIN instrumentation.sessions s ON s.session_id = a.session_id
          JOIN instrumentation.instances i ON i.instance_id = s.instance_id
          WHERE i.registered_by <> session_user) f;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION instrumentation.guard_appended() IS
    'Refuses statements of sessions whose instance another role registered';
CREATE TRIGGER guard_appended AFTER INSERT ON instrumentation.sql_statements
    REFERENCING NEW TABLE AS appended FOR EACH STATEMENT EXECUTE FUNCTION instrumentation.guard_appended();
COMMENT ON TRIGGER guard_appended ON instrumentation.sql_statements IS 'Nobody writes into another''s sessions';

COMMENT ON TRIGGER guard_sql_statements_rows ON instrumentation.sql_statements IS
    'Read-only for client sessions, also by way of a partition';

-- The caller ----------------------------------------------------------------------------------------------------------

-- SECURITY DEFINER hides from a function who called it. The setting `role` does not: only SET ROLE changes it, to a
-- role one may take.
CREATE FUNCTION instrumentation.caller() RETURNS name
LANGUAGE sql
STABLE
RETURN CASE current_setting('role') WHEN 'none' THEN session_user ELSE current_setting('role')::name END;
COMMENT ON FUNCTION instrumentation.caller() IS 'The role in effect outside of SECURITY DEFINER functions';

-- The role that registered an instance acts for it, and so do admins, the owner of the tables and superusers. A member
-- of a role may do everything that the role may do, and so may act for its connections.
CREATE FUNCTION instrumentation.speaks_for(registered_by text) RETURNS boolean
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- From PostgreSQL 16 on, a member that neither inherits nor may SET ROLE may only administer the role.
    RETURN coalesce(registered_by = session_user, false)
           OR (SELECT bool_or(pg_has_role(session_user, r.oid,
                                          CASE WHEN current_setting('server_version_num')::integer >= 160000
                                               THEN 'USAGE, SET'
                                               ELSE 'MEMBER' END))
               FROM pg_roles r
               WHERE r.rolname IN (registered_by, 'pgvigil_admin')
                 OR r.oid = (SELECT n.nspowner FROM pg_namespace n WHERE n.nspname = 'instrumentation'));
END $$;
COMMENT ON FUNCTION instrumentation.speaks_for(text) IS
    'Whether this login may write for an instance that this role registered';

-- A forbidden call is an error, not a silence: silence would look like a row that was written.
CREATE FUNCTION instrumentation.require_speaker(instance uuid) RETURNS void
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    registrar text := (SELECT i.registered_by FROM instrumentation.instances i WHERE i.instance_id = instance);
BEGIN
    IF registrar IS NOT NULL AND NOT instrumentation.speaks_for(registrar) THEN
        RAISE EXCEPTION 'instance % was registered by %, and % does not speak for it', instance, registrar, session_user
              USING ERRCODE = 'insufficient_privilege',
                    HINT = 'Register an instance of your own, or connect as that role.';
    END IF;
END $$;
COMMENT ON FUNCTION instrumentation.require_speaker(uuid) IS
    'Raises insufficient_privilege where another role registered the instance; an unknown one is nobody''s';

-- pgvigil.session_id is anybody's to set, so it counts only if it names a session of the same login.
-- The start of a process shows only to its own role and to pg_read_all_stats; where it does not, the pid has to do.
CREATE FUNCTION instrumentation.current_session() RETURNS uuid
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    named  text := current_setting('pgvigil.session_id', true);
    its_id uuid;
BEGIN
    IF named ~ '^[0-9a-f]{8}-([0-9a-f]{4}-){3}[0-9a-f]{12}$' THEN
        SELECT s.session_id INTO its_id FROM instrumentation.sessions s
        WHERE s.session_id = named::uuid AND s.status = 'active' AND s.username = session_user;
        IF FOUND THEN
            RETURN its_id;
        END IF;
    END IF;
    RETURN (SELECT s.session_id FROM instrumentation.sessions s LEFT JOIN pg_stat_activity a ON a.pid = pg_backend_pid()
            WHERE s.backend_pid = pg_backend_pid()
              AND s.status = 'active'
              AND s.username = session_user -- a pid that another login has named before it was in use is not this one
              AND coalesce(s.backend_start = a.backend_start, true)
            ORDER BY s.session_id DESC LIMIT 1);
END $$;
COMMENT ON FUNCTION instrumentation.current_session() IS
    'The session of this connection: the one that the setting pgvigil.session_id '
    'names, else that of this server process; NULL: none is registered';

CREATE FUNCTION instrumentation.current_instance() RETURNS uuid
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT s.instance_id
            FROM instrumentation.sessions s
            WHERE s.session_id = instrumentation.current_session());
END $$;
COMMENT ON FUNCTION instrumentation.current_instance() IS
    'The application instance of this connection; NULL: none is registered';

-- For applications ----------------------------------------------------------------------------------------------------

CREATE FUNCTION instrumentation.register_instance(hostname text, toolkit_version text DEFAULT NULL,
                                                  tag jsonb DEFAULT '{}', instance uuid DEFAULT NULL)
RETURNS uuid
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    instance := coalesce(instance, pgvigil.uuid_v7());
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    INSERT INTO instrumentation.instances (instance_id, toolkit_version, server_version, hostname, port, database_name,
                                           system_identifier, postmaster_start_time, instance_tag)
    SELECT instance, register_instance.toolkit_version, current_setting('server_version'), register_instance.hostname,
           current_setting('port')::integer, current_database(), c.system_identifier, pg_postmaster_start_time(), tag
    FROM pg_control_system() c
    ON CONFLICT (instance_id) DO NOTHING;
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN instance;
END $$;
COMMENT ON FUNCTION instrumentation.register_instance(text, text, jsonb, uuid) IS
    'An application process begins: its host, its version of pgvigil, what else '
    'it says, its id if it has made one. Again with the same id changes nothing';

CREATE FUNCTION instrumentation.register_session(instance uuid, session uuid DEFAULT NULL,
                                                 pid integer DEFAULT pg_backend_pid(),
                                                 backend_start timestamptz DEFAULT NULL, username text DEFAULT NULL,
                                                 peer text DEFAULT NULL, application_name text DEFAULT NULL,
                                                 tag jsonb DEFAULT '{}')
RETURNS uuid
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    backend record;
    method  text;
BEGIN
    PERFORM pg_stat_clear_snapshot(), instrumentation.require_speaker(instance);
    SELECT a.backend_start, a.usename::text AS username, a.application_name, a.datname,
           CASE WHEN a.client_port = -1 THEN 'local' ELSE host(a.client_addr) || ':' || a.client_port END AS peer
               INTO backend
    FROM pg_stat_activity a
    WHERE a.pid = register_session.pid AND coalesce(a.backend_start = register_session.backend_start, true);
    IF FOUND
       AND (backend.datname IS DISTINCT FROM current_database()
            OR NOT instrumentation.speaks_for(backend.username)) THEN
        RAISE EXCEPTION 'process % is a connection of % to database %: % registers only its own, to this database', pid,
            backend.username, backend.datname, session_user
              USING ERRCODE = 'insufficient_privilege', HINT = coalesce(
                  'A recorder that logs in as another role than the application has to be a member of it: GRANT '
                      || quote_ident(backend.username) || ' TO ' || quote_ident(session_user) || '.',
                  'It is a process of the server itself.');
    END IF;
    IF session IS NULL AND pid IS NOT NULL THEN
        SELECT s.session_id INTO session FROM instrumentation.sessions s
        WHERE s.backend_pid = pid
          AND s.status = 'active'
          AND s.username = coalesce(backend.username, register_session.username, session_user)
          AND coalesce(s.backend_start = coalesce(backend.backend_start, register_session.backend_start), true)
        ORDER BY s.session_id DESC LIMIT 1;
        IF FOUND THEN
            RETURN session;
        END IF;
    END IF;
    session := coalesce(session, pgvigil.uuid_v7());
    IF pid = pg_backend_pid() AND current_setting('server_version_num')::integer >= 160000 THEN
        EXECUTE 'SELECT split_part(system_user, '':'', 1)' INTO method;
    END IF;
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    INSERT INTO instrumentation.sessions (session_id, instance_id, username, role, peer, backend_pid, backend_start,
                                          application_name, auth_method, session_tag)
    SELECT session, instance,
           coalesce(backend.username,
                    CASE WHEN instrumentation.speaks_for(register_session.username) THEN register_session.username END,
                    session_user),
           CASE WHEN pid = pg_backend_pid() THEN instrumentation.caller() END,
           coalesce(backend.peer, register_session.peer), pid,
           coalesce(backend.backend_start, register_session.backend_start),
           coalesce(backend.application_name, register_session.application_name), method, tag
    ON CONFLICT (session_id) DO NOTHING;
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN session;
END $$;
COMMENT ON FUNCTION instrumentation.register_session(uuid, uuid, integer, timestamptz, text, text, text, jsonb) IS
    'A connection begins: this one, or that of another server process (pid); pid NULL: one behind a transaction '
    'pooler. Values known to the server are used before those given. Without an id, a connection is registered once';

CREATE FUNCTION instrumentation.close_session(session uuid DEFAULT NULL, reason text DEFAULT NULL,
                                              outcome instrumentation.session_status DEFAULT 'closed')
RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    was_active boolean;
BEGIN
    IF outcome <> ALL ('{closed,timeout,error}'::instrumentation.session_status[]) THEN
        RAISE EXCEPTION 'close_session cannot make a session %', outcome USING ERRCODE = 'invalid_parameter_value',
              HINT = 'closed, timeout or error; for killed, see kill_session.';
    END IF;
    session := coalesce(session, instrumentation.current_session());
    PERFORM instrumentation.require_speaker((SELECT s.instance_id
                                             FROM instrumentation.sessions s
                                             WHERE s.session_id = session)),
            set_config('pgvigil.instrumentation', 'write', true);
    UPDATE instrumentation.sessions s SET status = outcome, stop_time = clock_timestamp(), stop_reason = reason
    WHERE s.session_id = session AND s.status = 'active';
    was_active := FOUND;
    UPDATE instrumentation.sql_statements t
    SET status = 'cancelled', execution_end_time = clock_timestamp(),
        error_message = coalesce(reason, 'the session was closed')
    WHERE was_active AND t.session_id = session AND t.status = 'executing';
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN was_active;
END $$;
COMMENT ON FUNCTION instrumentation.close_session(uuid, text, instrumentation.session_status) IS
    'A session has ended: this one, or the one named; false if it had ended already or is not registered';

CREATE FUNCTION instrumentation.stop_instance(instance uuid DEFAULT NULL, reason text DEFAULT 'ended') RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    was_running boolean;
BEGIN
    instance := coalesce(instance, instrumentation.current_instance());
    PERFORM instrumentation.require_speaker(instance);
    PERFORM instrumentation.close_session(s.session_id, 'its application has ended: ' || reason)
    FROM instrumentation.sessions s WHERE s.instance_id = instance AND s.status = 'active';
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    UPDATE instrumentation.instances i SET status = 'stopped', stop_time = clock_timestamp(), stop_reason = reason
    WHERE i.instance_id = instance AND i.status = 'running';
    was_running := FOUND;
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN was_running;
END $$;
COMMENT ON FUNCTION instrumentation.stop_instance(uuid, text) IS
    'An application process ends, and its sessions with it; false if it had ended already or is not registered';

CREATE FUNCTION instrumentation.set_session_tag(tag jsonb) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    done boolean;
BEGIN
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    UPDATE instrumentation.sessions s
    SET session_tag = coalesce(tag, '{}')
    WHERE s.session_id = instrumentation.current_session();
    done := FOUND;
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN done;
END $$;
COMMENT ON FUNCTION instrumentation.set_session_tag(jsonb) IS
    'Tags the session of this connection; false if none is registered';

CREATE FUNCTION instrumentation.set_query_tag(tag jsonb) RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- Behind a transaction pooler, where the session is set per transaction, the tag must not stay for the next client.
    PERFORM set_config('pgvigil.query_tag', coalesce(tag::text, ''),
                       coalesce(current_setting('pgvigil.session_id', true), '') <> '');
END $$;
COMMENT ON FUNCTION instrumentation.set_query_tag(jsonb) IS
    'Tags what record_statement records from now on in this connection; '
    'where pgvigil.session_id is set, in this transaction. NULL: no tag';

CREATE FUNCTION instrumentation.record_statement(sql_text text,
                                                 status instrumentation.statement_status DEFAULT 'success',
                                                 duration_ms bigint DEFAULT NULL, rows_fetched bigint DEFAULT NULL,
                                                 error_message text DEFAULT NULL, sqlstate text DEFAULT NULL,
                                                 statement uuid DEFAULT NULL, session uuid DEFAULT NULL,
                                                 statement_handle text DEFAULT NULL, tag jsonb DEFAULT NULL)
RETURNS uuid
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    over   boolean := record_statement.status <> 'executing';
    moment timestamptz := clock_timestamp();
BEGIN
    session := coalesce(session, instrumentation.current_session());
    IF session IS NULL THEN
        RAISE EXCEPTION 'this connection has no session to record a statement of'
            USING ERRCODE = 'object_not_in_prerequisite_state',
              HINT = 'SELECT instrumentation.register_session(instrumentation.register_instance(''host''));';
    END IF;
    statement := coalesce(statement, pgvigil.uuid_v7());
    PERFORM instrumentation.require_speaker((SELECT s.instance_id
                                             FROM instrumentation.sessions s
                                             WHERE s.session_id = session));
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    INSERT INTO instrumentation.sql_statements AS t
        (statement_id, session_id, sql_text, statement_handle, execution_start_time, execution_end_time, rows_fetched,
         status, error_message, duration_ms, sqlstate, query_tag)
    VALUES (statement, session, record_statement.sql_text, record_statement.statement_handle,
            CASE WHEN over THEN moment - coalesce(record_statement.duration_ms, 0) * interval '1 millisecond'
                 ELSE moment END,
                CASE WHEN over THEN moment END, record_statement.rows_fetched, record_statement.status,
                record_statement.error_message, record_statement.duration_ms, record_statement.sqlstate,
                coalesce(tag, nullif(current_setting('pgvigil.query_tag', true), '')::jsonb))
    ON CONFLICT (statement_id) DO UPDATE
    SET status = EXCLUDED.status, execution_end_time = EXCLUDED.execution_end_time,
        rows_fetched = EXCLUDED.rows_fetched, error_message = EXCLUDED.error_message, sqlstate = EXCLUDED.sqlstate,
        duration_ms = coalesce(
            EXCLUDED.duration_ms,
            (extract(epoch FROM EXCLUDED.execution_end_time - t.execution_start_time) * 1000)::bigint)
    WHERE t.status = 'executing' AND t.session_id = EXCLUDED.session_id AND EXCLUDED.status <> 'executing';
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN statement;
END $$;
COMMENT ON FUNCTION instrumentation.record_statement(text, instrumentation.statement_status, bigint, bigint, text, text,
                                                     uuid, uuid, text, jsonb) IS
    'Records a statement of this session, or of the one named: first as '
    'executing, and again with the id it returned when it has ended; or only then';

-- A recorder may append statements, but not read sessions.
CREATE FUNCTION instrumentation.unknown_sessions(sessions uuid[]) RETURNS uuid[]
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT DISTINCT u.id
                 FROM unnest(sessions) u (id)
                 WHERE NOT EXISTS (SELECT FROM instrumentation.sessions s WHERE s.session_id = u.id));
END $$;
COMMENT ON FUNCTION instrumentation.unknown_sessions(uuid[]) IS
    'Those of the ids that are not registered sessions, or not any more: their statements cannot be recorded';

-- Upkeep --------------------------------------------------------------------------------------------------------------

-- Rows that somebody has locked are passed over: an application may sit in a transaction in which it has tagged its
-- session.
CREATE FUNCTION instrumentation.reap_stale(missed interval DEFAULT '1 minute')
RETURNS TABLE (reaped_instances bigint, reaped_sessions bigint, reaped_statements bigint)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A heartbeat is due every 30 seconds: who waits for less than two of them closes the living.
    missed := greatest(coalesce(missed, '1 minute'), '1 minute');
    PERFORM pg_stat_clear_snapshot(), set_config('pgvigil.instrumentation', 'write', true);
    UPDATE instrumentation.instances i
    SET status = 'stopped', stop_time = clock_timestamp(), stop_reason = 'heartbeat missed'
    WHERE i.instance_id = ANY (ARRAY(SELECT d.instance_id FROM instrumentation.instances d
                                     WHERE d.status = 'running' AND d.heartbeat_at < clock_timestamp() - missed
                                     FOR NO KEY UPDATE SKIP LOCKED));
    GET DIAGNOSTICS reaped_instances = ROW_COUNT;
    UPDATE instrumentation.sessions s
    SET status = dead.status, stop_time = clock_timestamp(), stop_reason = dead.reason
    FROM (SELECT d.session_id, verdict.*
          FROM instrumentation.sessions d
          JOIN instrumentation.instances i ON i.instance_id = d.instance_id
          LEFT JOIN pg_stat_activity a ON a.pid = d.backend_pid AND coalesce(a.backend_start = d.backend_start, true)
          CROSS JOIN LATERAL (
              SELECT 'killed'::instrumentation.session_status, k.reason FROM instrumentation.kill_attempts k
              WHERE d.backend_pid IS NOT NULL
                AND a.pid IS NULL
                AND k.session_id = d.session_id
                AND k.ok
                AND k.mode <> 'cancel'
              UNION ALL SELECT 'error',
                  CASE WHEN d.backend_start < pg_postmaster_start_time() THEN 'postmaster restarted'
                       ELSE 'backend gone' END
              WHERE d.backend_pid IS NOT NULL AND a.pid IS NULL
              UNION ALL SELECT 'timeout', 'heartbeat missed' WHERE i.status = 'stopped'
              LIMIT 1) verdict (status, reason)
          WHERE d.status = 'active' FOR NO KEY UPDATE OF d SKIP LOCKED) dead
    WHERE s.session_id = dead.session_id;
    GET DIAGNOSTICS reaped_sessions = ROW_COUNT;
    UPDATE instrumentation.sql_statements t
    SET status = CASE s.status WHEN 'killed' THEN 'cancelled' ELSE 'error' END::instrumentation.statement_status,
        execution_end_time = s.stop_time, error_message = s.stop_reason
    FROM instrumentation.sessions s
    WHERE t.status = 'executing' AND s.session_id = t.session_id AND s.status <> 'active';
    GET DIAGNOSTICS reaped_statements = ROW_COUNT;
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION instrumentation.reap_stale(interval) IS
    'Closes what dead applications have left: instances without a heartbeat for that long, their sessions, '
    'sessions whose server process is gone, statements of ended sessions; returns how many of each';

CREATE FUNCTION instrumentation.heartbeat(instance uuid) RETURNS boolean
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM pg_stat_clear_snapshot(), instrumentation.require_speaker(instance),
            set_config('pgvigil.instrumentation', 'write', true);
    UPDATE instrumentation.instances i
    SET heartbeat_at = clock_timestamp(), postmaster_start_time = pg_postmaster_start_time(), status = 'running',
        stop_time = NULL, stop_reason = NULL
    WHERE i.instance_id = instance AND (i.status = 'running' OR i.stop_reason = 'heartbeat missed');
    IF NOT FOUND THEN
        PERFORM set_config('pgvigil.instrumentation', '', true);
        RETURN false;
    END IF;
    UPDATE instrumentation.sessions s
    SET last_activity_at = greatest(s.last_activity_at, alive.state_change), status = 'active', stop_time = NULL,
        stop_reason = NULL
    FROM (SELECT l.session_id, a.state_change
          FROM instrumentation.sessions l
          LEFT JOIN pg_stat_activity a ON a.pid = l.backend_pid AND coalesce(a.backend_start = l.backend_start, true)
          WHERE l.instance_id = instance AND (l.status = 'active' AND a.state_change > l.last_activity_at
                                              OR l.status = 'timeout'
                                                  AND l.stop_reason = 'heartbeat missed'
                                                  AND (l.backend_pid IS NULL OR a.pid IS NOT NULL))
          FOR NO KEY UPDATE OF l SKIP LOCKED) alive
    WHERE s.session_id = alive.session_id;
    PERFORM instrumentation.reap_stale();
    RETURN true;
END $$;
COMMENT ON FUNCTION instrumentation.heartbeat(uuid) IS
    'A sign of life, due every 30 seconds; it also closes the sessions of dead instances. '
    'False: the instance has ended or is not registered, and has to register again';

CREATE FUNCTION pgvigil.job_reap(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    kept timestamptz := now() - (SELECT max(make_interval(days => logs_days)) FROM pgvigil.retention_policies);
    gone bigint;
BEGIN
    SELECT reaped_instances + reaped_sessions + reaped_statements INTO done FROM instrumentation.reap_stale();
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    more := false;
    DELETE FROM instrumentation.kill_attempts WHERE attempt_id < pgvigil.uuid_v7_floor(now() - interval '90 days');
    -- Statements go by the partition; a session goes when the last of its own has gone, and an instance with its last
    -- session.
    DELETE FROM instrumentation.sessions
    WHERE session_id = ANY (ARRAY(SELECT s.session_id FROM instrumentation.sessions s
                                  WHERE s.status <> 'active' AND s.stop_time < kept
                                    AND NOT EXISTS (SELECT FROM instrumentation.sql_statements t
                                                    WHERE t.session_id = s.session_id)
                                  LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    done := done + gone;
    more := gone = batch;
    DELETE FROM instrumentation.instances
    WHERE instance_id = ANY (ARRAY(SELECT i.instance_id FROM instrumentation.instances i
                                   WHERE i.status = 'stopped' AND i.stop_time < kept
                                     AND NOT EXISTS (SELECT FROM instrumentation.sessions s
                                                     WHERE s.instance_id = i.instance_id)
                                   LIMIT batch FOR UPDATE SKIP LOCKED));
    GET DIAGNOSTICS gone = ROW_COUNT;
    done := done + gone;
    more := more OR gone = batch;
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN NEXT;
END $$;
INSERT INTO pgvigil.jobs (job, every, purpose)
VALUES ('reap', '10 minutes',
        'closes the sessions of dead applications, and deletes those whose statements have been deleted');

-- Ending a session ----------------------------------------------------------------------------------------------------

-- The rules of kill_session, without the kill. A refusal is recorded here, so that everybody may be refused.
CREATE FUNCTION instrumentation.judge_kill(session uuid, mode text)
RETURNS TABLE (refusal text, target_pid integer, target_start timestamptz, was_killed boolean)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller   name := instrumentation.caller();
    target   instrumentation.sessions;
    backend  record;
    is_super boolean := coalesce((SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = caller), false);
BEGIN
    PERFORM pg_stat_clear_snapshot();
    SELECT * INTO target FROM instrumentation.sessions s WHERE s.session_id = session;
    SELECT a.pid, a.backend_start, a.backend_type, a.usename, a.datname, coalesce(r.rolsuper, false) AS rolsuper
    INTO backend
    FROM pg_stat_activity a LEFT JOIN pg_roles r ON r.oid = a.usesysid WHERE a.pid = target.backend_pid;
    refusal := CASE
        WHEN NOT is_super
            AND NOT EXISTS (
                SELECT FROM pg_roles r, pg_roles a
                WHERE r.rolname = caller AND a.rolname = 'pgvigil_admin'
                  AND pg_has_role(r.oid, a.oid,
                                  CASE WHEN current_setting('server_version_num')::integer >= 160000 THEN 'USAGE, SET'
                                       ELSE 'MEMBER' END))
            THEN 'Only members of pgvigil_admin can kill sessions'
        WHEN target.session_id IS NULL THEN 'Session not found: ' || coalesce(session::text, 'NULL')
        WHEN session = instrumentation.current_session()
            OR target.backend_pid = pg_backend_pid() AND target.backend_start = backend.backend_start
            THEN 'Cannot kill your own session'
        WHEN mode IS NULL OR mode <> ALL ('{cancel,terminate,escalate}'::text[])
            THEN format('Unknown mode %s: it is cancel, terminate or escalate', coalesce(left(mode, 20), 'NULL'))
        WHEN target.status = 'killed' THEN NULL
        WHEN target.status <> 'active'
            THEN format('Session is not active: %s, %s', target.status,
                        coalesce(target.stop_reason, 'by its application'))
        WHEN target.backend_pid IS NULL
            THEN 'Session has no server process of its own: it is behind a transaction pooler'
        WHEN backend.pid IS NULL
            THEN format('Session has lost its server process %s; reap_stale will close it', target.backend_pid)
        WHEN target.backend_start IS NULL OR backend.backend_start IS NULL AND NOT is_super
            THEN format('Cannot tell whether process %s is still that of the session: %s needs pg_read_all_stats',
                        target.backend_pid, current_user)
        WHEN backend.backend_start <> target.backend_start
            THEN format('Session has lost its server process: %s is another one now; reap_stale will close the session',
                        target.backend_pid)
        WHEN backend.backend_type <> 'client backend'
            THEN format('Process %s is a %s, not a client backend', target.backend_pid, backend.backend_type)
        WHEN backend.datname IS DISTINCT FROM current_database()
            THEN format('Process %s is connected to database %s: ask there', target.backend_pid, backend.datname)
        WHEN backend.rolsuper
            AND NOT is_super THEN
                format('Session belongs to superuser %s: only a superuser can kill it', backend.usename)
    END;
    target_pid := target.backend_pid;
    target_start := target.backend_start;
    was_killed := target.status = 'killed';
    IF refusal IS NOT NULL THEN
        PERFORM instrumentation.record_kill(session, mode, false, refusal);
    END IF;
    PERFORM pgvigil.finish_owner_code();
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION instrumentation.judge_kill(uuid, text) IS
    'Used by kill_session: why the caller may not kill a session, or its server process; records a refusal';

-- Everybody may try: of the refused attempts of a login, a hundred an hour are kept.
CREATE FUNCTION instrumentation.record_kill(session uuid, mode text, ok boolean, reason text) RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    caller name := instrumentation.caller();
BEGIN
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    INSERT INTO instrumentation.kill_attempts (session_id, mode, ok, reason, on_behalf_of, actor)
    SELECT session, left(record_kill.mode, 20), record_kill.ok, left(record_kill.reason, 500),
           left(nullif(current_setting('pgvigil.actor', true), ''), 200),
           CASE caller WHEN session_user THEN caller::text ELSE format('%s as %s', session_user, caller) END
    WHERE record_kill.ok OR (SELECT count(*) FROM instrumentation.kill_attempts k
                             WHERE k.attempt_id >= pgvigil.uuid_v7_floor(now() - interval '1 hour')
                               AND k."session_user" = session_user
                               AND NOT k.ok) < 100;
    PERFORM set_config('pgvigil.instrumentation', '', true);
END $$;
COMMENT ON FUNCTION instrumentation.record_kill(uuid, text, boolean, text) IS
    'Used by judge_kill and finish_kill: keeps an attempt';

-- With the rights of whoever calls it. Nothing is locked before the signal: the target may hold its own row, tagged in
-- a transaction that it never ends.
CREATE FUNCTION instrumentation.signal_process(target_pid integer, target_start timestamptz, mode text, grace interval)
RETURNS TABLE (ok boolean, reason text, gone boolean)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    deadline timestamptz := clock_timestamp() + coalesce(grace, '5 seconds');
BEGIN
    PERFORM pg_stat_clear_snapshot();
    gone := NOT EXISTS (SELECT FROM pg_stat_activity a
                        WHERE a.pid = target_pid
                          AND a.backend_start = target_start
                          AND a.backend_type = 'client backend');
    ok := false;
    IF gone THEN
        reason := format('Process %s is no client backend of that session', target_pid);
        RETURN NEXT;
        RETURN;
    END IF;
    IF mode = 'cancel' OR mode = 'escalate' THEN
        PERFORM pg_cancel_backend(target_pid);
        reason := 'cancelled its statement';
    END IF;
    WHILE mode = 'escalate' AND NOT gone AND clock_timestamp() < deadline LOOP
        PERFORM pg_sleep(0.02), pg_stat_clear_snapshot();
        gone := NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = target_pid AND a.backend_start = target_start);
    END LOOP;
    IF mode <> 'cancel' AND NOT gone THEN
        PERFORM pg_terminate_backend(target_pid);
        deadline := clock_timestamp() + coalesce(grace, '5 seconds');
        WHILE NOT gone AND clock_timestamp() < deadline LOOP
            PERFORM pg_sleep(0.005), pg_stat_clear_snapshot();
            gone :=
                NOT EXISTS (SELECT FROM pg_stat_activity a WHERE a.pid = target_pid AND a.backend_start = target_start);
        END LOOP;
        reason := CASE WHEN gone THEN 'terminated' ELSE 'asked to terminate, and has not ended yet' END;
    END IF;
    ok := true;
    RETURN NEXT;
EXCEPTION WHEN insufficient_privilege THEN
    ok := false;
    reason :=
        format('%s may not signal the session''s process: it needs pg_signal_backend (GRANT '
               'pg_signal_backend TO %I: it may then end the sessions of everybody but superusers)',
                     current_user, current_user);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION instrumentation.signal_process(integer, timestamptz, text, interval) IS
    'Used by kill_session: cancels or terminates a client of this server, and returns whether it is gone';

CREATE FUNCTION instrumentation.finish_kill(session uuid, mode text, ok boolean, reason text, gone boolean) RETURNS void
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    IF ok THEN
        UPDATE instrumentation.sessions s
        SET status = 'killed', stop_time = clock_timestamp(),
            stop_reason = format('killed by %s', instrumentation.caller())
        WHERE gone AND s.session_id = session AND s.status = 'active';
        UPDATE instrumentation.sql_statements t
        SET status = 'cancelled', execution_end_time = clock_timestamp(),
            error_message = format('cancelled by %s', instrumentation.caller()), sqlstate = '57014'
        WHERE t.status = 'executing' AND t.session_id = session;
    END IF;
    PERFORM instrumentation.record_kill(session, mode, ok, reason), set_config('pgvigil.instrumentation', '', true);
    PERFORM pgvigil.finish_owner_code();
END $$;
COMMENT ON FUNCTION instrumentation.finish_kill(uuid, text, boolean, text, boolean) IS
    'Used by kill_session and signal_session: marks what was ended, and records the attempt';

-- For admins, who need no right to signal others themselves. The rules are checked again and the attempt is recorded
-- here: a direct call leaves the same trail, and an attempt that was not made is not recorded.
CREATE FUNCTION instrumentation.signal_session(session uuid, mode text, grace interval)
RETURNS TABLE (ok boolean, reason text)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verdict record;
    gone    boolean;
BEGIN
    SELECT * INTO verdict FROM instrumentation.judge_kill(session, mode);
    IF verdict.refusal IS NOT NULL OR verdict.was_killed THEN
        ok := false;
        reason := coalesce(verdict.refusal, 'already killed');
    ELSE
        SELECT s.ok, s.reason, s.gone
        INTO ok, reason, gone
        FROM instrumentation.signal_process(verdict.target_pid, verdict.target_start, mode, grace) s;
        PERFORM instrumentation.finish_kill(session, mode, ok, reason, gone);
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION instrumentation.signal_session(uuid, text, interval) IS
    'Used by kill_session: signals with the owner''s rights, and records it';

-- A superuser ends sessions with his own rights; the owner of this function need not be able to.
CREATE FUNCTION instrumentation.kill_session(session uuid, mode text DEFAULT 'terminate',
                                             grace interval DEFAULT '5 seconds')
RETURNS TABLE (ok boolean, reason text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    verdict record;
    gone    boolean;
BEGIN
    SELECT * INTO verdict FROM instrumentation.judge_kill(session, mode);
    ok := verdict.refusal IS NULL AND verdict.was_killed;
    reason := CASE WHEN ok THEN 'already killed' ELSE verdict.refusal END;
    IF reason IS NULL THEN
        IF (SELECT r.rolsuper FROM pg_roles r WHERE r.rolname = current_user) THEN
            SELECT s.ok, s.reason, s.gone
            INTO ok, reason, gone
            FROM instrumentation.signal_process(verdict.target_pid, verdict.target_start, mode, grace) s;
            PERFORM instrumentation.finish_kill(session, mode, ok, reason, gone);
        ELSE
            SELECT s.ok, s.reason INTO ok, reason FROM instrumentation.signal_session(session, mode, grace) s;
        END IF;
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION instrumentation.kill_session(uuid, text, interval) IS
    'For pgvigil_admin. cancel: ends the statement that runs; terminate: ends the '
    'session; escalate: cancels, and terminates if the session has not ended within '
    'grace. Never raises: returns whether it was done, and the action or the reason';

-- For applications that cannot be changed -----------------------------------------------------------------------------

-- Texts leave the server, and come back without their secrets: the caller of sample_activity() has to remove them, by
-- the same function as everywhere (pgvigil.live). A statement whose text did not come back waits for the next sample.
CREATE FUNCTION instrumentation.sampled_texts(instance uuid) RETURNS text[]
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last timestamptz := (SELECT i.heartbeat_at FROM instrumentation.instances i WHERE i.instance_id = instance);
BEGIN
    PERFORM pg_stat_clear_snapshot();
    RETURN ARRAY(SELECT DISTINCT a.query FROM pg_stat_activity a
                 WHERE a.backend_type = 'client backend'
                   AND a.datname = current_database()
                   AND a.pid <> pg_backend_pid()
                   AND a.query <> ''
                   AND a.query_start IS NOT NULL
                       AND (a.state = 'active' OR last IS NULL OR greatest(a.state_change, a.query_start) >= last));
END $$;
COMMENT ON FUNCTION instrumentation.sampled_texts(uuid) IS
    'The statements that the next sample of this instance may record, for the sampler to take secrets out';

-- A statement's id is computed from its process and start time, so each sample finds the row that the previous one
-- wrote. A client that calls itself pgvigil is sampled like every other: anybody can set an application_name.
CREATE FUNCTION instrumentation.sample_activity(instance uuid, texts text[], shown text[]) RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    last    timestamptz := (SELECT i.heartbeat_at FROM instrumentation.instances i WHERE i.instance_id = instance);
    written bigint;
BEGIN
    IF NOT instrumentation.heartbeat(instance) THEN
        RETURN NULL;
    END IF;
    PERFORM set_config('pgvigil.instrumentation', 'write', true);
    -- A session that another instance has registered is not sampled: its instance knows more than a sample shows.
    INSERT INTO instrumentation.sessions (instance_id, username, peer, backend_pid, backend_start, application_name)
    SELECT instance, a.usename,
           CASE WHEN a.client_port = -1 THEN 'local' ELSE host(a.client_addr) || ':' || a.client_port END, a.pid,
           a.backend_start, a.application_name
    FROM pg_stat_activity a
    WHERE a.backend_type = 'client backend' AND a.datname = current_database() AND a.pid <> pg_backend_pid()
      AND NOT EXISTS (SELECT FROM instrumentation.sessions s
                      WHERE s.backend_pid = a.pid AND s.status = 'active' AND s.backend_start = a.backend_start);
    INSERT INTO instrumentation.sql_statements AS t
        (statement_id, session_id, sql_text, execution_start_time, execution_end_time, duration_ms, status, query_id,
         source)
    SELECT DISTINCT ON (a.pid, a.backend_start)
           overlay(overlay(pgvigil.uuid_v7_floor(a.query_start)::text PLACING substr(h.hash, 1, 3) FROM 16 FOR 3)
                   PLACING substr(h.hash, 4, 16) FROM 21 FOR 16)::uuid,
           s.session_id, shown[array_position(texts, a.query)], a.query_start, ended.at,
           (extract(epoch FROM ended.at - a.query_start) * 1000)::bigint,
           CASE WHEN ended.at IS NULL THEN 'executing'
                WHEN a.state = 'idle in transaction (aborted)' THEN 'error'
                ELSE 'success' END::instrumentation.statement_status,
           a.query_id, 'sampler'
    FROM instrumentation.sessions s
    JOIN pg_stat_activity a ON a.pid = s.backend_pid AND a.backend_start = s.backend_start
    CROSS JOIN LATERAL (
        SELECT overlay(md5(format('%s %s %s', a.pid, extract(epoch FROM a.backend_start),
                                  extract(epoch FROM a.query_start)))
                       PLACING '-' FROM 7 FOR 0) AS hash) h
    CROSS JOIN LATERAL (SELECT CASE WHEN a.state <> 'active'
                                    THEN greatest(a.state_change, a.query_start) END AS at) ended
    WHERE s.instance_id = instance
      AND s.status = 'active'
      AND a.pid <> pg_backend_pid()
      AND a.query = ANY (texts)
      AND a.query_start IS NOT NULL
      AND (ended.at IS NULL OR ended.at >= last)
    ORDER BY a.pid, a.backend_start, s.session_id
    ON CONFLICT (statement_id) DO UPDATE
    SET status = EXCLUDED.status, execution_end_time = EXCLUDED.execution_end_time, duration_ms = EXCLUDED.duration_ms
    WHERE t.status = 'executing' AND EXCLUDED.status <> 'executing';
    GET DIAGNOSTICS written = ROW_COUNT;
    -- A statement that was executing and is no longer the last one of its process ended unseen, before the next one
    -- began.
    UPDATE instrumentation.sql_statements t
    SET status = 'success', execution_end_time = a.query_start,
        duration_ms = (extract(epoch FROM a.query_start - t.execution_start_time) * 1000)::bigint
    FROM instrumentation.sessions s
    JOIN pg_stat_activity a ON a.pid = s.backend_pid AND a.backend_start = s.backend_start
    WHERE t.status = 'executing'
      AND t.source = 'sampler'
      AND s.session_id = t.session_id
      AND s.instance_id = instance
      AND a.query_start > t.execution_start_time;
    PERFORM set_config('pgvigil.instrumentation', '', true);
    RETURN written;
END $$;
COMMENT ON FUNCTION instrumentation.sample_activity(uuid, text[], text[]) IS
    'Records what pg_stat_activity shows of sessions that no application has registered; '
    'a heartbeat too. Each text of sampled_texts() is recorded as the text given for it. '
    'Returns the statements begun or ended; NULL: register the instance again';

-- Views ---------------------------------------------------------------------------------------------------------------

CREATE VIEW instrumentation.active_sessions AS
SELECT s.session_id, s.instance_id, s.username, s.role, s.peer, s.start_time, s.status, i.hostname, i.port,
       i.database_name, extract(epoch FROM now() - s.start_time) AS session_duration_seconds
FROM instrumentation.sessions s JOIN instrumentation.instances i ON i.instance_id = s.instance_id
WHERE s.status = 'active';
COMMENT ON VIEW instrumentation.active_sessions IS 'Connected sessions';

-- Correlated on the session, so that a filter on sessions reads only their statements.
CREATE VIEW instrumentation.session_stats AS
SELECT s.session_id, s.instance_id, s.username, s.role, s.peer, s.start_time, s.stop_time, s.status AS session_status,
       t.total_statements, t.successful_statements, t.failed_statements, t.timed_out_statements, t.cancelled_statements,
       t.total_rows_fetched, t.avg_duration_ms, t.max_duration_ms
FROM instrumentation.sessions s
CROSS JOIN LATERAL (
    SELECT count(*) AS total_statements, count(*) FILTER (WHERE q.status = 'success') AS successful_statements,
           count(*) FILTER (WHERE q.status = 'error') AS failed_statements,
           count(*) FILTER (WHERE q.status = 'timeout') AS timed_out_statements,
           count(*) FILTER (WHERE q.status = 'cancelled') AS cancelled_statements,
           coalesce(sum(q.rows_fetched), 0)::bigint AS total_rows_fetched, avg(q.duration_ms) AS avg_duration_ms,
           max(q.duration_ms) AS max_duration_ms
    FROM instrumentation.sql_statements q WHERE q.session_id = s.session_id) t;
COMMENT ON VIEW instrumentation.session_stats IS 'Numbers of the statements of each session';

CREATE FUNCTION instrumentation.may_read(username text) RETURNS boolean
LANGUAGE sql
STABLE
RETURN EXISTS (SELECT FROM pg_roles r
               WHERE r.rolname = ANY ('{pgvigil_admin,pg_read_all_stats}'::name[]) AND pg_has_role(r.oid, 'USAGE'))
    OR EXISTS (SELECT FROM pg_roles r WHERE r.rolname = username AND pg_has_role(r.oid, 'USAGE'));
COMMENT ON FUNCTION instrumentation.may_read(text) IS 'Whether the present role may see what that login ran';

-- With its owner's rights: readers may not read what others ran, and this is where they see the rest.
CREATE VIEW instrumentation.session_activity AS
SELECT i.instance_id, i.hostname, i.port, i.database_name, i.status AS instance_status,
       s.session_id, s.username, s.role, s.peer, s.application_name, s.backend_pid, s.start_time, s.stop_time,
       s.status AS session_status, s.session_tag, t.statement_id,
       CASE WHEN t.sql_text IS NULL OR m.may_read THEN t.sql_text ELSE '<insufficient privilege>' END AS sql_text,
       t.statement_handle, t.execution_start_time, t.execution_end_time, t.rows_fetched, t.status AS statement_status,
       CASE WHEN t.error_message IS NULL OR m.may_read THEN t.error_message
            ELSE '<insufficient privilege>' END AS error_message,
           t.duration_ms, t.sqlstate, t.query_id, t.query_tag, t.source
FROM instrumentation.instances i
LEFT JOIN instrumentation.sessions s ON s.instance_id = i.instance_id
LEFT JOIN instrumentation.sql_statements t ON t.session_id = s.session_id
CROSS JOIN LATERAL (SELECT instrumentation.may_read(s.username) AS may_read) m;
COMMENT ON VIEW instrumentation.session_activity IS
    'Instances with their sessions, and these with their statements. Statements of '
    'others show only to pgvigil_admin and pg_read_all_stats, as in pg_stat_activity';

DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN
        ALTER VIEW instrumentation.active_sessions SET (security_invoker = true);
        ALTER VIEW instrumentation.session_stats SET (security_invoker = true);
    END IF;
END $$;
