-- The session application itself. A new install gets these tables. An existing install has them and skips this file:
-- the columns that the later files need are checked, and the revision is recorded as baselined.
CREATE TABLE "{app}".sessions (
    id          uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT sessions_pkey PRIMARY KEY,
    session_key varchar(255) NOT NULL CONSTRAINT sessions_session_key_key UNIQUE,
    agent_from  varchar(100) NOT NULL,
    agent_to    varchar(100),
    status      varchar(50) NOT NULL DEFAULT 'active',
    created_at  timestamptz DEFAULT now(),
    updated_at  timestamptz DEFAULT now(),
    expires_at  timestamptz,
    metadata    jsonb DEFAULT '{}'
);
COMMENT ON TABLE "{app}".sessions IS 'Sessions of the application';

CREATE TABLE "{app}".context_history (
    id              uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT context_history_pkey PRIMARY KEY,
    session_id      uuid NOT NULL
                    CONSTRAINT context_history_session_id_fkey REFERENCES "{app}".sessions (id) ON DELETE CASCADE,
    sequence_number integer NOT NULL,
    context_type    varchar(50) NOT NULL,
    content         text NOT NULL,
    metadata        jsonb DEFAULT '{}',
    created_at      timestamptz DEFAULT now(),
    CONSTRAINT context_history_session_id_sequence_number_key UNIQUE (session_id, sequence_number)
);
COMMENT ON TABLE "{app}".context_history IS 'Messages, files and tool calls of a session, in order';

CREATE TABLE "{app}".codebase_snapshots (
    id              uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT codebase_snapshots_pkey PRIMARY KEY,
    session_id      uuid NOT NULL
                    CONSTRAINT codebase_snapshots_session_id_fkey REFERENCES "{app}".sessions (id) ON DELETE CASCADE,
    file_path       varchar(500) NOT NULL,
    content_hash    varchar(64) NOT NULL,
    content         text,
    analysis_result jsonb DEFAULT '{}',
    created_at      timestamptz DEFAULT now()
);
COMMENT ON TABLE "{app}".codebase_snapshots IS 'Contents of files when a session read them';
CREATE INDEX idx_codebase_snapshots_session_id ON "{app}".codebase_snapshots (session_id);
COMMENT ON INDEX "{app}".idx_codebase_snapshots_session_id IS 'Snapshots of a session, and its deletion';

CREATE TABLE "{app}".handoff_requests (
    id               uuid NOT NULL DEFAULT gen_random_uuid() CONSTRAINT handoff_requests_pkey PRIMARY KEY,
    session_id       uuid NOT NULL
                     CONSTRAINT handoff_requests_session_id_fkey REFERENCES "{app}".sessions (id) ON DELETE CASCADE,
    requesting_agent varchar(100) NOT NULL,
    target_agent     varchar(100),
    request_type     varchar(50) NOT NULL DEFAULT 'context_transfer',
    request_data     jsonb DEFAULT '{}',
    status           varchar(50) NOT NULL DEFAULT 'pending',
    created_at       timestamptz DEFAULT now(),
    completed_at     timestamptz
);
COMMENT ON TABLE "{app}".handoff_requests IS 'Requests of one agent to hand a session to another';
CREATE INDEX idx_handoff_requests_session_id ON "{app}".handoff_requests (session_id);
COMMENT ON INDEX "{app}".idx_handoff_requests_session_id IS 'Requests of a session, and its deletion';
CREATE INDEX idx_handoff_requests_status ON "{app}".handoff_requests (status);
COMMENT ON INDEX "{app}".idx_handoff_requests_status IS 'Pending requests';
