-- What moves last_activity_at and updated_at, and what does not.
BEGIN;
SELECT plan(31);
INSERT INTO sessions (session_key, agent_from, last_activity_at, updated_at, created_at)
VALUES ('idle', 'x', now() - interval '5 hours', now() - interval '5 hours', now() - interval '5 hours'),
       ('busy', 'x', now() - interval '30 seconds', now() - interval '30 seconds', now() - interval '30 seconds'),
       ('unseen', 'x', NULL, now(), now() - interval '9 hours');
CREATE FUNCTION pg_temp.idle(key text) RETURNS interval LANGUAGE sql AS $$
    SELECT now() - last_activity_at FROM sessions WHERE session_key = key
$$;

UPDATE sessions SET metadata = '{}' WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '30 seconds', 'a touch within the granularity leaves last_activity_at, so that it stays HOT');
SELECT is((SELECT updated_at FROM sessions WHERE session_key = 'busy'), now(), 'updated_at moves all the same');
SET LOCAL pgvigil.activity_granularity = '0';
UPDATE sessions SET metadata = '{}' WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '0', 'a granularity of 0 records each touch');
RESET pgvigil.activity_granularity;

UPDATE sessions SET is_dormant = true WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '5 hours', 'marking dormant is not activity (fault 5)');
UPDATE sessions SET is_dormant = false WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '0', 'reactivating is');

UPDATE sessions SET last_activity_at = now() - interval '5 hours' WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '5 hours', 'a value that the statement chooses stands');
UPDATE sessions SET last_activity_at = last_activity_at + interval '20 seconds', metadata = '{"k": 1}' WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '0', 'a small explicit step stays where it was');
UPDATE sessions SET status = 'expired' WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '5 hours', 'expiring is not activity');
UPDATE sessions SET status = 'active' WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '0', 'any other change of status is');

UPDATE sessions SET last_activity_at = now() - interval '5 hours' WHERE session_key = 'idle';
SET LOCAL pgvigil.skip_activity = 'on';
UPDATE sessions SET status = 'completed' WHERE session_key = 'idle';
UPDATE sessions SET metadata = '{}' WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '5 hours', 'what a job does under pgvigil.skip_activity is not activity');
RESET pgvigil.skip_activity;
UPDATE sessions SET retention_policy = NULL WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '0', 'a policy set to NULL is a change, and activity');
UPDATE sessions SET last_activity_at = now() - interval '5 hours' WHERE session_key = 'idle';
UPDATE sessions SET archived_at = now() WHERE session_key = 'idle';
SELECT is(pg_temp.idle('idle'), interval '5 hours', 'archiving is not activity');

SELECT is((SELECT round(hours_since_activity) FROM session_monitoring_view WHERE session_key = 'unseen'), 9::numeric,
          'a NULL that an INSERT writes becomes created_at');
UPDATE sessions SET is_dormant = true WHERE session_key = 'unseen';
SELECT is((SELECT round(hours_since_activity) FROM session_monitoring_view WHERE session_key = 'unseen'), 9::numeric,
          'marking the session dormant does not change that, though updated_at moves');
UPDATE sessions SET last_activity_at = NULL WHERE session_key = 'unseen';
UPDATE sessions SET updated_at = now() WHERE session_key = 'unseen';
SELECT is(pg_temp.idle('unseen'), interval '0', 'a session without a time gets one by any activity');
UPDATE sessions SET last_activity_at = NULL WHERE session_key = 'unseen';
UPDATE sessions SET metadata = '{}' WHERE session_key = 'unseen';
SELECT is(pg_temp.idle('unseen'), interval '0', 'the first touch records activity');

-- An object mapper sends every column, and the application's own table allowed NULL here.
INSERT INTO sessions (session_key, agent_from, is_dormant) VALUES ('mapped', 'x', NULL);
SELECT is((SELECT is_dormant FROM sessions WHERE session_key = 'mapped'), false, 'a NULL that an INSERT writes is not dormant');
UPDATE sessions SET is_dormant = true WHERE session_key = 'mapped';
UPDATE sessions SET is_dormant = NULL, last_activity_at = NULL, retention_policy = NULL, metadata = NULL, created_at = NULL, updated_at = NULL
WHERE session_key = 'mapped';
SELECT is((SELECT is_dormant FROM sessions WHERE session_key = 'mapped'), true, 'a NULL that an UPDATE writes changes nothing');
INSERT INTO sessions (session_key, agent_from, is_dormant) VALUES ('mapped', 'y', NULL)
ON CONFLICT (session_key) DO UPDATE SET is_dormant = excluded.is_dormant, agent_from = excluded.agent_from;
SELECT is((SELECT (agent_from, is_dormant) FROM sessions WHERE session_key = 'mapped'), ('y'::varchar, false),
          'nor is one that an upsert writes refused');
-- While a migration fixes the rows that an earlier attempt left as NULL.
ALTER TABLE sessions ALTER COLUMN is_dormant DROP NOT NULL, DISABLE TRIGGER USER;
UPDATE sessions SET is_dormant = NULL WHERE session_key = 'mapped';
ALTER TABLE sessions ENABLE TRIGGER USER, ADD CONSTRAINT fixed_soon CHECK (is_dormant IS NOT NULL) NOT VALID;
UPDATE sessions SET metadata = '{}' WHERE session_key = 'mapped';
SELECT is((SELECT is_dormant FROM sessions WHERE session_key = 'mapped'), false, 'an update of a row that a migration has yet to fix works');
ALTER TABLE sessions DROP CONSTRAINT fixed_soon, ALTER COLUMN is_dormant SET NOT NULL;

UPDATE sessions SET last_activity_at = now() - interval '30 seconds' WHERE session_key = 'busy';
UPDATE sessions SET status = 'pending' WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '0', 'a change of status is recorded exactly, however recent the last activity');
UPDATE sessions SET last_activity_at = now() - interval '90 seconds' WHERE session_key = 'busy';
UPDATE sessions SET is_dormant = true WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '90 seconds', 'marking one that was busy a moment ago dormant is no activity either');
UPDATE sessions SET is_dormant = false, last_activity_at = now() - interval '30 seconds', expires_at = NULL WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '30 seconds', 'a value chosen together with a change stands');
UPDATE sessions SET expires_at = '2030-01-01+00', status = 'expired' WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '30 seconds', 'expiring a busy one is no activity');
SET LOCAL pgvigil.skip_activity = 'on';
UPDATE sessions SET status = 'active' WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '30 seconds', 'nor is what a job does to it');
RESET pgvigil.skip_activity;
UPDATE sessions SET last_activity_at = last_activity_at + interval '10 seconds', status = 'pending' WHERE session_key = 'busy';
SELECT is(pg_temp.idle('busy'), interval '0', 'a small step together with a change gives way to the change');

CREATE SCHEMA evil;
CREATE FUNCTION evil.lie(timestamptz, timestamptz) RETURNS boolean LANGUAGE sql AS 'SELECT true';
CREATE OPERATOR evil.> (FUNCTION = evil.lie, LEFTARG = timestamptz, RIGHTARG = timestamptz);
CREATE OPERATOR evil.= (FUNCTION = evil.lie, LEFTARG = timestamptz, RIGHTARG = timestamptz);
INSERT INTO sessions (session_key, agent_from, last_activity_at) VALUES ('hostile', 'x', now() - interval '5 hours');
SET LOCAL search_path = evil, pg_catalog, public, tap;
UPDATE public.sessions SET metadata = '{}' WHERE session_key = 'hostile';
SELECT is(pg_temp.idle('hostile'), interval '0', 'a hostile search_path does not bend the trigger');
UPDATE public.sessions SET expires_at = '2030-01-01+00' WHERE session_key = 'hostile';
UPDATE public.sessions SET expires_at = '2031-01-01+00' WHERE session_key = 'hostile';
SELECT is((SELECT count(*) FROM public.session_lifecycle l JOIN public.sessions s ON s.id = l.session_id
           WHERE session_key = 'hostile' AND event_type = 'expiration_scheduled'), 2::bigint, 'nor the log');
SET LOCAL search_path = '';
UPDATE public.sessions SET status = 'pending' WHERE session_key = 'hostile';
SET LOCAL search_path = public, tap;
SELECT is((SELECT last_lifecycle_event FROM session_monitoring_view WHERE session_key = 'hostile'), 'status_changed', 'an empty search_path does not break it');

-- What only has to name the function that the triggers ask for their settings.
CREATE FUNCTION evil.current_setting(text, boolean) RETURNS text LANGUAGE sql AS $$ SELECT 'migration' $$;
INSERT INTO sessions (session_key, agent_from, last_activity_at) VALUES ('asked', 'x', now() - interval '5 hours');
SET LOCAL search_path = evil, pg_catalog, public, tap;
UPDATE public.sessions SET status = 'pending' WHERE session_key = 'asked';
SELECT is(pg_temp.idle('asked'), interval '0', 'a function of the name current_setting does not bend the first trigger');
UPDATE public.sessions SET metadata = '{}' WHERE session_key = 'hostile';
SELECT is((SELECT updated_at FROM public.sessions WHERE session_key = 'hostile'), CURRENT_TIMESTAMP, 'nor the second');
SET LOCAL search_path = public, tap;
ROLLBACK;
