-- Triggers of the application's own name its tables without their schema: they do their work also where it is ours that writes.
BEGIN;
SELECT plan(7);
CREATE TABLE app_audit (session_id uuid, what text);
CREATE FUNCTION app_note() RETURNS trigger LANGUAGE plpgsql AS $$
BEGIN
    INSERT INTO app_audit VALUES (OLD.id, TG_OP);
    RETURN NULL;
END $$;
CREATE TRIGGER app_note AFTER UPDATE OR DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION app_note();
INSERT INTO sessions (id, session_key, agent_from) VALUES ('00000000-0000-4000-8000-000000000001', 'a', 'x');
UPDATE pgvigil.jobs SET needs_consent = false, backup_within = NULL;

SELECT lives_ok($$SELECT pgvigil.mark_session_dormant('00000000-0000-4000-8000-000000000001')$$, 'marked dormant');
SELECT lives_ok($$SELECT pgvigil.schedule_expiration('00000000-0000-4000-8000-000000000001', now() - interval '1 hour')$$, 'scheduled');
SELECT lives_ok($$SELECT pgvigil.job_expiry(10)$$, 'expired by the job');
SELECT lives_ok($$SELECT pgvigil.archive_session('00000000-0000-4000-8000-000000000001')$$, 'archived');
SELECT lives_ok($$SELECT pgvigil.reactivate_session('00000000-0000-4000-8000-000000000001')$$, 'reactivated');
INSERT INTO sessions (session_key, agent_from, created_at, last_activity_at) VALUES ('b', 'x', now() - interval '30 days', now() - interval '30 days');
SELECT lives_ok($$SELECT pgvigil.job_orphans(10)$$, 'deleted by the job');
SELECT is((SELECT count(*) FROM app_audit WHERE what = 'DELETE'), 1::bigint, 'and each was noted');
ROLLBACK;
