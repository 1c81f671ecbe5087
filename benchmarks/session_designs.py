"""The designs that hot_path.py and instructions.py compare with ours: DDL for a new database, and a past for those with a trail."""

from append_only import ID_AT

TABLE = """
    CREATE TABLE sessions (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), session_key varchar(255) UNIQUE NOT NULL, agent_from varchar(100) NOT NULL,
        agent_to varchar(100), status varchar(50) NOT NULL DEFAULT 'active', created_at timestamptz DEFAULT now(),
        updated_at timestamptz DEFAULT now(), expires_at timestamptz, metadata jsonb DEFAULT '{}',
        last_activity_at timestamptz DEFAULT now(), is_dormant boolean NOT NULL DEFAULT false, archived_at timestamptz,
        retention_policy varchar(50) DEFAULT 'standard'
    );
"""
BARE = TABLE + "ALTER TABLE sessions SET (fillfactor = 90);"
# What most people would write who were asked for the same: columns, events with their actor, indexes, expiry by policy,
# archived sessions read-only.
OBVIOUS = f"""{TABLE}
    ALTER TABLE sessions ADD CHECK (status IN ('active', 'pending', 'completed', 'expired', 'cancelled', 'archived'));
    CREATE TABLE session_lifecycle (
        id uuid PRIMARY KEY DEFAULT gen_random_uuid(), session_id uuid NOT NULL REFERENCES sessions (id) ON DELETE CASCADE,
        event_type varchar(50) NOT NULL CHECK (event_type IN ('created', 'expired', 'archived', 'dormant', 'reactivated',
            'status_changed', 'expiration_scheduled', 'deleted')),
        event_data jsonb NOT NULL DEFAULT '{{}}', created_at timestamptz NOT NULL DEFAULT now());
    CREATE INDEX ON session_lifecycle (session_id);
    CREATE INDEX ON session_lifecycle (event_type);
    CREATE INDEX ON session_lifecycle (created_at);
    CREATE INDEX ON sessions (last_activity_at);
    CREATE INDEX ON sessions (is_dormant);
    CREATE INDEX ON sessions (archived_at);
    CREATE INDEX ON sessions (retention_policy);
    CREATE INDEX ON sessions (status, last_activity_at);
    CREATE INDEX ON sessions (is_dormant, last_activity_at);
    CREATE TABLE retention_policies (policy varchar(50) PRIMARY KEY, active_hours integer NOT NULL);
    INSERT INTO retention_policies VALUES ('standard', 24), ('extended', 72), ('short', 4);
    CREATE FUNCTION set_expiry() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF NEW.expires_at IS NULL THEN
            SELECT now() + active_hours * interval '1 hour' INTO NEW.expires_at
            FROM retention_policies WHERE policy = NEW.retention_policy;
        END IF;
        RETURN NEW;
    END $$;
    CREATE FUNCTION actor() RETURNS text LANGUAGE sql STABLE AS $$
        SELECT coalesce(nullif(current_setting('app.actor', true), ''), session_user)
    $$;
    CREATE FUNCTION update_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF OLD.archived_at IS NOT NULL AND NEW.archived_at IS NOT NULL THEN
            RAISE EXCEPTION 'session % is archived', OLD.id;
        END IF;
        NEW.updated_at = now();
        RETURN NEW;
    END $$;
    CREATE FUNCTION update_last_activity() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.last_activity_at = now();
        RETURN NEW;
    END $$;
    CREATE FUNCTION log_lifecycle() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        IF TG_OP = 'INSERT' THEN
            INSERT INTO session_lifecycle (session_id, event_type, event_data)
            VALUES (NEW.id, 'created', jsonb_build_object('agent_from', NEW.agent_from, 'agent_to', NEW.agent_to,
                    'retention_policy', NEW.retention_policy, 'actor', actor()));
        ELSE
            IF OLD.status IS DISTINCT FROM NEW.status THEN
                INSERT INTO session_lifecycle (session_id, event_type, event_data)
                VALUES (NEW.id, CASE NEW.status WHEN 'expired' THEN 'expired' ELSE 'status_changed' END,
                        jsonb_build_object('old_status', OLD.status, 'new_status', NEW.status, 'actor', actor()));
            END IF;
            IF OLD.is_dormant IS DISTINCT FROM NEW.is_dormant THEN
                INSERT INTO session_lifecycle (session_id, event_type, event_data)
                VALUES (NEW.id, CASE WHEN NEW.is_dormant THEN 'dormant' ELSE 'reactivated' END,
                        jsonb_build_object('previous_state', OLD.is_dormant, 'actor', actor()));
            END IF;
            IF OLD.archived_at IS NULL AND NEW.archived_at IS NOT NULL THEN
                INSERT INTO session_lifecycle (session_id, event_type, event_data)
                VALUES (NEW.id, 'archived', jsonb_build_object('archived_at', NEW.archived_at, 'final_status', NEW.status,
                        'actor', actor()));
            END IF;
            IF OLD.expires_at IS DISTINCT FROM NEW.expires_at THEN
                INSERT INTO session_lifecycle (session_id, event_type, event_data)
                VALUES (NEW.id, 'expiration_scheduled', jsonb_build_object('expires_at', NEW.expires_at, 'actor', actor()));
            END IF;
        END IF;
        RETURN NULL;
    END $$;
    CREATE TRIGGER set_sessions_expiry BEFORE INSERT ON sessions FOR EACH ROW EXECUTE FUNCTION set_expiry();
    CREATE TRIGGER update_sessions_updated_at BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION update_updated_at();
    CREATE TRIGGER update_sessions_last_activity BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION update_last_activity();
    CREATE TRIGGER log_session_lifecycle AFTER INSERT OR UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION log_lifecycle();
"""
# An audit is put on the table as ours has it, with the trigger for updated_at that an application of this kind brings along.
_AUDITED = """
    ALTER TABLE sessions SET (fillfactor = 90);
    ALTER TABLE sessions ADD CHECK (status::text = ANY ('{active,pending,completed,expired,cancelled,archived}'::text[]));
    CREATE FUNCTION update_updated_at() RETURNS trigger LANGUAGE plpgsql AS $$
    BEGIN
        NEW.updated_at = now();
        RETURN NEW;
    END $$;
    CREATE TRIGGER update_updated_at BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION update_updated_at();
    CREATE INDEX ON sessions (last_activity_at);
    CREATE INDEX ON sessions (is_dormant) WHERE is_dormant;
    CREATE INDEX ON sessions (archived_at) WHERE archived_at IS NOT NULL;
    CREATE INDEX ON sessions (retention_policy) WHERE retention_policy <> 'standard';
    CREATE INDEX ON sessions (status, last_activity_at);
    CREATE INDEX ON sessions (is_dormant, last_activity_at) WHERE is_dormant;
"""
_AUDIT_TRIGGER = (
    "CREATE TRIGGER audit AFTER INSERT OR UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION audit();"
)
# Both audits serve any table, and write the columns and keep the checks and indexes of the best known of their kind, which
# are what people install: supa_audit 0.3 (rows as jsonb, under the primary key found in the catalog) ...
JSONB_AUDIT = f"""{TABLE}{_AUDITED}
    CREATE TYPE audit_operation AS ENUM ('INSERT', 'UPDATE', 'DELETE', 'TRUNCATE');
    CREATE TABLE audit (
        id bigserial PRIMARY KEY, record_id uuid, old_record_id uuid, op audit_operation NOT NULL, ts timestamptz NOT NULL DEFAULT now(),
        table_oid oid NOT NULL, table_schema name NOT NULL, table_name name NOT NULL, record jsonb, old_record jsonb,
        CHECK (coalesce(record_id, old_record_id) IS NOT NULL OR op = 'TRUNCATE'),
        CHECK (op IN ('INSERT', 'UPDATE') = (record_id IS NOT NULL)), CHECK (op IN ('INSERT', 'UPDATE') = (record IS NOT NULL)),
        CHECK (op IN ('UPDATE', 'DELETE') = (old_record_id IS NOT NULL)), CHECK (op IN ('UPDATE', 'DELETE') = (old_record IS NOT NULL)));
    CREATE INDEX ON audit (record_id) WHERE record_id IS NOT NULL;
    CREATE INDEX ON audit (old_record_id) WHERE old_record_id IS NOT NULL;
    CREATE INDEX ON audit USING brin (ts);
    CREATE INDEX ON audit (table_oid);
    CREATE FUNCTION primary_key(of_table oid) RETURNS text[] LANGUAGE sql STABLE SECURITY DEFINER SET search_path = '' AS $$
        SELECT coalesce(array_agg(a.attname::text ORDER BY a.attnum), '{{}}')
        FROM pg_catalog.pg_index i JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = ANY (i.indkey)
        WHERE i.indrelid = of_table AND i.indisprimary
    $$;
    CREATE FUNCTION record_id(key text[], record jsonb) RETURNS uuid LANGUAGE sql STABLE AS $$
        SELECT CASE WHEN record IS NULL THEN NULL WHEN key = '{{}}' THEN gen_random_uuid() ELSE (record ->> key[1])::uuid END
    $$;
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER AS $$
    DECLARE
        key text[] = primary_key(TG_RELID);
        new_row jsonb = to_jsonb(NEW);
        new_id uuid = record_id(key, new_row);
        old_row jsonb = to_jsonb(OLD);
        old_id uuid = record_id(key, old_row);
    BEGIN
        INSERT INTO audit (record_id, old_record_id, op, table_oid, table_schema, table_name, record, old_record)
        SELECT new_id, old_id, TG_OP::audit_operation, TG_RELID, TG_TABLE_SCHEMA, TG_TABLE_NAME, new_row, old_row;
        RETURN NULL;
    END $$;
    {_AUDIT_TRIGGER}
"""
# ... and 2ndQuadrant's audit-trigger (the row before as hstore, and what differs after).
HSTORE_AUDIT = f"""{TABLE}{_AUDITED}
    CREATE EXTENSION hstore;
    CREATE TABLE audit (
        event_id bigserial PRIMARY KEY, schema_name text NOT NULL, table_name text NOT NULL, relid oid NOT NULL, session_user_name text,
        action_tstamp_tx timestamptz NOT NULL, action_tstamp_stm timestamptz NOT NULL, action_tstamp_clk timestamptz NOT NULL,
        transaction_id bigint, application_name text, client_addr inet, client_port integer, client_query text,
        action text NOT NULL CHECK (action IN ('I', 'D', 'U', 'T')), row_data hstore, changed_fields hstore, statement_only boolean NOT NULL);
    CREATE INDEX ON audit (relid);
    CREATE INDEX ON audit (action_tstamp_stm);
    CREATE INDEX ON audit (action);
    CREATE FUNCTION audit() RETURNS trigger LANGUAGE plpgsql SECURITY DEFINER SET search_path = pg_catalog, public AS $$
    DECLARE
        entry public.audit;
        ignored text[] = '{{}}';
    BEGIN
        entry = ROW(nextval('public.audit_event_id_seq'), TG_TABLE_SCHEMA::text, TG_TABLE_NAME::text, TG_RELID, session_user::text,
                    current_timestamp, statement_timestamp(), clock_timestamp(), txid_current(), current_setting('application_name'),
                    inet_client_addr(), inet_client_port(), current_query(), substring(TG_OP, 1, 1), NULL, NULL, 'f');
        IF TG_ARGV[0]::boolean IS NOT DISTINCT FROM false THEN
            entry.client_query = NULL;
        END IF;
        IF TG_ARGV[1] IS NOT NULL THEN
            ignored = TG_ARGV[1]::text[];
        END IF;
        IF TG_OP = 'UPDATE' THEN
            entry.row_data = hstore(OLD.*) - ignored;
            entry.changed_fields = (hstore(NEW.*) - entry.row_data) - ignored;
            IF entry.changed_fields = hstore('') THEN
                RETURN NULL;
            END IF;
        ELSIF TG_OP = 'DELETE' THEN
            entry.row_data = hstore(OLD.*) - ignored;
        ELSE
            entry.row_data = hstore(NEW.*) - ignored;
        END IF;
        INSERT INTO public.audit VALUES (entry.*);
        RETURN NULL;
    END $$;
    {_AUDIT_TRIGGER}
"""

SESSIONS = 100_000
FILL = "INSERT INTO sessions (session_key, agent_from, agent_to) SELECT n, 'agent-a', 'agent-b' FROM generate_series(1, {}) n"
# Events of the past year, each of one of the sessions.
_EVENTS = f"""
    FROM (SELECT n, now() - interval '1 year' * (1 - n / {{0}}.0) AS at FROM generate_series(1, {{0}}) n) event
    JOIN sessions s ON s.session_key = (1 + n * 7919::bigint % {SESSIONS})::text"""
_EVENT = """s.id, 'status_changed', '{{"actor": "postgres", "new_status": "pending", "old_status": "active"}}', at"""
PAST = {
    "obvious": f"""
    SET session_replication_role = replica;
    INSERT INTO session_lifecycle (session_id, event_type, event_data, created_at) SELECT {_EVENT}{_EVENTS}""",
    "ours": f"""
    SELECT pgvigil.ensure_partitions('session_lifecycle', now() - interval '1 year');
    SET session_replication_role = replica;
    INSERT INTO session_lifecycle (id, session_id, event_type, event_data, created_at) SELECT {ID_AT.format("at")}, {_EVENT}{_EVENTS}""",
}
