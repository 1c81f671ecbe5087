-- Each change in a session's state leaves exactly one event of the right type with the right payload.
BEGIN;
SELECT plan(53);
SET LOCAL pgvigil.actor = 'tester';

CREATE FUNCTION pg_temp.events(key text) RETURNS text LANGUAGE sql AS $$
    SELECT string_agg(event_type, ' ' ORDER BY l.id) FROM session_lifecycle l JOIN sessions s ON s.id = l.session_id WHERE s.session_key = key
$$;
CREATE FUNCTION pg_temp.last_event(key text) RETURNS jsonb LANGUAGE sql AS $$
    SELECT event_data FROM session_lifecycle l JOIN sessions s ON s.id = l.session_id WHERE s.session_key = key ORDER BY l.id DESC LIMIT 1
$$;

INSERT INTO sessions (session_key, agent_from, agent_to, expires_at) VALUES ('a', 'x', 'y', now() + interval '1 day');
SELECT is(pg_temp.events('a'), 'created', 'an insert leaves one event, created');
SELECT is(pg_temp.last_event('a'), '{"agent_from": "x", "agent_to": "y", "retention_policy": "standard", "actor": "tester"}'::jsonb || jsonb_build_object('session_user', session_user),
          'created carries agents, policy and actor');
INSERT INTO sessions (session_key, agent_from) VALUES ('b', 'x'), ('c', 'x'), ('d', 'x');
SELECT is(pg_temp.events('c'), 'created', 'a multi-row insert leaves one created event a row');
SELECT is(pg_temp.last_event('c') -> 'agent_to', 'null'::jsonb, 'a missing agent_to is null');

SET LOCAL pgvigil.actor = 'a person whose name and department take more than the sixty-three bytes of a type name';
INSERT INTO sessions (session_key, agent_from, agent_to) VALUES ('long', repeat('x', 100), repeat('y', 100));
SELECT is(pg_temp.last_event('long') - '{retention_policy,session_user}'::text[],
          jsonb_build_object('agent_from', repeat('x', 100), 'agent_to', repeat('y', 100), 'actor', pgvigil.actor()),
          'created carries long names whole');
UPDATE sessions SET status = 'pending' WHERE session_key = 'long';
SELECT is(pg_temp.last_event('long') ->> 'actor', pgvigil.actor(), 'so does a change of status');
SET LOCAL pgvigil.actor = 'tester';

UPDATE sessions SET metadata = '{"k": 1}' WHERE session_key = 'b';
SELECT is(pg_temp.events('b'), 'created', 'a touch leaves no event');
UPDATE sessions SET status = 'active' WHERE session_key = 'b';
SELECT is(pg_temp.events('b'), 'created', 'a status set to what it was leaves no event');

UPDATE sessions SET status = 'pending' WHERE session_key = 'b';
SELECT is(pg_temp.events('b'), 'created status_changed', 'a status change leaves one event');
SELECT is(pg_temp.last_event('b'), '{"old_status": "active", "new_status": "pending", "actor": "tester"}'::jsonb || jsonb_build_object('session_user', session_user), 'it carries both states');

UPDATE sessions SET is_dormant = true WHERE session_key = 'b';
SELECT is(pg_temp.events('b'), 'created status_changed dormant', 'marking dormant leaves one event');
SELECT is(pg_temp.last_event('b'), '{"previous_state": false, "actor": "tester"}'::jsonb || jsonb_build_object('session_user', session_user), 'dormant carries the previous state');
UPDATE sessions SET is_dormant = false WHERE session_key = 'b';
SELECT is(pg_temp.events('b'), 'created status_changed dormant reactivated', 'unmarking leaves one event');
SELECT is(pg_temp.last_event('b'), '{"previous_state": true, "actor": "tester"}'::jsonb || jsonb_build_object('session_user', session_user), 'reactivated carries the previous state');

UPDATE sessions SET status = 'expired' WHERE session_key = 'c';
SELECT is(pg_temp.events('c'), 'created expired', 'expiring leaves one event, expired, and no status_changed');
SELECT is(pg_temp.last_event('c') - 'expired_at', '{"previous_status": "active", "retention_policy": "standard", "actor": "tester"}'::jsonb || jsonb_build_object('session_user', session_user),
          'expired carries the previous status and the policy');
SELECT is((pg_temp.last_event('c') ->> 'expired_at')::timestamptz, now(), 'expired carries when');

UPDATE sessions SET expires_at = '2030-01-01+00' WHERE session_key = 'd';
SELECT is(pg_temp.events('d'), 'created expiration_scheduled', 'expires_at from NULL leaves one event');
SELECT is((pg_temp.last_event('d') ->> 'expires_at')::timestamptz, '2030-01-01+00', 'it carries when');
UPDATE sessions SET expires_at = NULL WHERE session_key = 'd';
SELECT is(pg_temp.events('d'), 'created expiration_scheduled expiration_scheduled', 'expires_at to NULL leaves one event');
SELECT is(pg_temp.last_event('d') -> 'expires_at', 'null'::jsonb, 'which says that there is none any more');

UPDATE sessions SET archived_at = '2026-01-01+00', status = 'completed' WHERE session_key = 'd';
SELECT is(pg_temp.events('d'), 'created expiration_scheduled expiration_scheduled status_changed archived',
          'several changes in one update leave one event each');
SELECT is(pg_temp.last_event('d') ->> 'final_status', 'completed', 'archived carries the final status');
SELECT is((pg_temp.last_event('d') ->> 'archived_at')::timestamptz, '2026-01-01+00', 'archived carries when');
SELECT ok(pgvigil.reactivate_session((SELECT id FROM sessions WHERE session_key = 'd')), 'an archived session is reactivated');
SELECT is(pg_temp.events('d'), 'created expiration_scheduled expiration_scheduled status_changed archived reactivated',
          'reactivating leaves one event');

UPDATE sessions SET status = 'cancelled', is_dormant = true, archived_at = now(), expires_at = now() WHERE session_key = 'a';
SELECT is(pg_temp.events('a'), 'created status_changed expiration_scheduled dormant archived', 'four changes, four events');

INSERT INTO sessions (session_key, agent_from) VALUES ('b', 'x'), ('e', 'x')
ON CONFLICT (session_key) DO UPDATE SET status = 'completed';
SELECT is(pg_temp.events('e'), 'created', 'ON CONFLICT: the row inserted is created');
SELECT is(pg_temp.events('b'), 'created status_changed dormant reactivated status_changed', 'ON CONFLICT: the row updated is changed, not created');
INSERT INTO sessions (session_key, agent_from) VALUES ('e', 'x') ON CONFLICT DO NOTHING;
SELECT is(pg_temp.events('e'), 'created', 'ON CONFLICT DO NOTHING leaves no event');

UPDATE sessions SET status = 'cancelled' WHERE session_key IN ('b', 'e');
SELECT is((SELECT count(*) FROM session_lifecycle WHERE event_data @> '{"new_status": "cancelled"}'), 3::bigint, 'an update of several rows leaves one event a row');

-- created, complete, archive in one transaction: the order is that of the changes, not of ties in now()
SELECT is((SELECT array_agg(id ORDER BY id) FROM session_lifecycle), (SELECT array_agg(id ORDER BY created_at, id) FROM session_lifecycle),
          'ids order events as they happened, within a transaction too');
SELECT is((SELECT last_lifecycle_event FROM session_monitoring_view WHERE session_key = 'a'), 'archived', 'the last event is the last');
SELECT is((SELECT count(*) FROM session_lifecycle_default), 0::bigint, 'no event strays into the default partition');

-- every transition, from and to NULL where there is NULL
INSERT INTO sessions (session_key, agent_from, retention_policy) VALUES ('t', 'x', NULL);
SELECT is(pg_temp.last_event('t') -> 'retention_policy', 'null'::jsonb, 'a session without a policy is created');
UPDATE sessions SET expires_at = '2030-01-01+00' WHERE session_key = 't';
SELECT is(pg_temp.last_event('t') -> 'retention_policy', 'null'::jsonb, 'and scheduled');
UPDATE sessions SET expires_at = '2031-01-01+00' WHERE session_key = 't';
SELECT is((pg_temp.last_event('t') ->> 'expires_at')::timestamptz, '2031-01-01+00', 'expires_at from one time to another');
UPDATE sessions SET expires_at = expires_at, status = status, is_dormant = is_dormant, archived_at = archived_at WHERE session_key = 't';
SELECT is(pg_temp.events('t'), 'created expiration_scheduled expiration_scheduled', 'all columns set to what they were leave no event');
UPDATE sessions SET status = 'expired', is_dormant = true WHERE session_key = 't';
SELECT is(pg_temp.events('t'), 'created expiration_scheduled expiration_scheduled expired dormant', 'expired and dormant at once');
UPDATE sessions SET status = 'active', is_dormant = false, expires_at = NULL WHERE session_key = 't';
SELECT is(pg_temp.events('t'), 'created expiration_scheduled expiration_scheduled expired dormant status_changed expiration_scheduled reactivated',
          'and back, with expires_at to NULL');
SELECT is(pg_temp.last_event('t') -> 'previous_state', 'true'::jsonb, 'from dormant');
UPDATE sessions SET is_dormant = true, archived_at = now() WHERE session_key = 't';
UPDATE sessions SET is_dormant = false, archived_at = NULL WHERE session_key = 't';
SELECT ok(pg_temp.events('t') LIKE '% dormant archived reactivated', 'brought back from both, it is reactivated once');
UPDATE sessions SET archived_at = now(), is_dormant = true WHERE session_key = 't';
UPDATE sessions SET archived_at = NULL WHERE session_key = 't';
SELECT ok(pg_temp.last_event('t') ? 'unarchived_from', 'unarchived while it stays dormant');
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN  -- EXECUTE, because 14 cannot even read MERGE
        EXECUTE $merge$
        MERGE INTO sessions s USING (VALUES ('t', 'pending'), ('m', 'active')) v (key, status) ON s.session_key = v.key
        WHEN MATCHED THEN UPDATE SET status = v.status
        WHEN NOT MATCHED THEN INSERT (session_key, agent_from, status) VALUES (v.key, 'x', v.status)
        $merge$;
    ELSE
        UPDATE sessions SET status = 'pending' WHERE session_key = 't';
        INSERT INTO sessions (session_key, agent_from) VALUES ('m', 'x');
    END IF;
END $$;
SELECT is(pg_temp.last_event('t') ->> 'new_status', 'pending', 'MERGE: the row updated is changed');
SELECT is(pg_temp.events('m'), 'created', 'MERGE: the row inserted is created');
SELECT is((SELECT array_agg(id ORDER BY id) FROM session_lifecycle), (SELECT array_agg(id ORDER BY created_at, id) FROM session_lifecycle),
          'and all that in order');

SET LOCAL session_replication_role = replica;
UPDATE sessions SET status = 'active' WHERE session_key = 'm';
SET LOCAL session_replication_role = origin;
SELECT is(pg_temp.events('m'), 'created', 'what a replica applies is not logged: the origin has logged it');

-- row security of the application: who may change some rows leaves the trail of those
CREATE ROLE t_tenant;
GRANT SELECT, INSERT, UPDATE ON sessions TO t_tenant;
CREATE POLICY t_own ON sessions TO t_tenant USING (agent_from = 'tenant') WITH CHECK (agent_from = 'tenant');
ALTER TABLE sessions ENABLE ROW LEVEL SECURITY;
SET LOCAL ROLE t_tenant;
INSERT INTO sessions (session_key, agent_from) VALUES ('own', 'tenant');
UPDATE sessions SET status = 'completed';
RESET ROLE;
SELECT is(pg_temp.events('own'), 'created status_changed', 'row security: a row of one''s own leaves its events');
SELECT is(pg_temp.events('m'), 'created', 'and no other row does');

-- tables and functions of the same name that the session sees first
CREATE TEMP TABLE session_lifecycle (session_id uuid, event_type text, event_data jsonb);
CREATE SCHEMA evil;
CREATE TABLE evil.session_lifecycle (session_id uuid, event_type text, event_data jsonb);
CREATE FUNCTION evil.lie(varchar, varchar) RETURNS boolean LANGUAGE sql AS 'SELECT false';
CREATE OPERATOR evil.<> (FUNCTION = evil.lie, LEFTARG = varchar, RIGHTARG = varchar);
CREATE FUNCTION evil.clock_timestamp() RETURNS timestamptz LANGUAGE sql AS 'SELECT timestamptz ''2001-01-01''';
SET LOCAL search_path = evil, pg_catalog, public, tap;
UPDATE public.sessions SET status = 'completed' WHERE session_key = 'm';
SET LOCAL search_path = public, tap;
SELECT is((SELECT count(*) FROM pg_temp.session_lifecycle), 0::bigint, 'a temporary table of its name does not get the events');
SELECT is((SELECT count(*) FROM evil.session_lifecycle), 0::bigint, 'nor does one in an earlier schema');
DROP TABLE pg_temp.session_lifecycle;
SELECT is(pg_temp.events('m'), 'created status_changed', 'the log itself does');
RESET pgvigil.actor;
UPDATE sessions SET status = 'active' WHERE session_key = 'b';
SELECT is(pg_temp.last_event('b') ->> 'actor', session_user::text, 'without pgvigil.actor the actor is the login role');
ROLLBACK;
