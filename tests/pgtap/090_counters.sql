-- What a session holds, after any kind of statement.
BEGIN;
SELECT plan(38);
INSERT INTO sessions (id, session_key, agent_from) VALUES
    ('00000000-0000-4000-8000-000000000001', 'a', 'x'), ('00000000-0000-4000-8000-000000000002', 'b', 'x'), ('00000000-0000-4000-8000-000000000003', 'c', 'x');
CREATE FUNCTION pg_temp.held(key text) RETURNS text LANGUAGE sql AS $$
    SELECT format('%s/%s/%s', context_count, total_tokens, total_content_bytes) FROM session_content_view v JOIN sessions s ON s.id = v.session_id WHERE session_key = key
$$;
CREATE FUNCTION pg_temp.id(key text) RETURNS uuid LANGUAGE sql AS $$ SELECT id FROM sessions WHERE session_key = key $$;
CREATE FUNCTION pg_temp.drift() RETURNS bigint LANGUAGE sql AS $$
    SELECT count(*) FROM sessions s, pgvigil.count_context(s.id) h, pgvigil.current_counters(s.id) k
    WHERE (h.context_count, h.total_tokens, h.total_content_bytes) <> (k.context_count, k.total_tokens, k.total_content_bytes)
$$;

SELECT is(pg_temp.held('a'), '0/0/0', 'a new session holds nothing');
INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used) VALUES (pg_temp.id('a'), 1, 'message', 'four', 7);
SELECT is(pg_temp.held('a'), '1/7/4', 'one row: its tokens, and the length of its content');
INSERT INTO context_history (session_id, sequence_number, context_type, content) VALUES (pg_temp.id('a'), 2, 'message', 'ä');
SELECT is(pg_temp.held('a'), '2/7/6', 'no tokens are none, and bytes are not characters');
INSERT INTO context_history (session_id, sequence_number, context_type, content, content_size_bytes) VALUES (pg_temp.id('a'), 3, 'file', 'cut', 1000);
SELECT is(pg_temp.held('a'), '3/7/1006', 'a size that is given counts');
SELECT is((SELECT last_activity_at FROM sessions WHERE session_key = 'a'), (SELECT last_activity_at FROM sessions WHERE session_key = 'b'), 'counting is not activity');
SELECT is((SELECT context_entries FROM session_monitoring_view WHERE session_key = 'a'), 3::bigint, 'context_entries says the same');

INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used)
SELECT s.id, n, 'message', 'xx', n FROM sessions s, generate_series(11, 13) n;
SELECT is(pg_temp.held('a') || ' ' || pg_temp.held('c'), '6/43/1012 3/36/6', 'several rows of several sessions in one statement');
SELECT is((SELECT count(*) FROM pgvigil.session_counter_changes WHERE session_id = pg_temp.id('c')), 1::bigint, 'leave one change a session');
UPDATE context_history SET tokens_used = NULL, content = 'xxxx' WHERE sequence_number = 11;
SELECT is(pg_temp.held('a') || ' ' || pg_temp.held('c'), '6/32/1014 3/25/8', 'an update counts the difference');
SELECT lives_ok($$UPDATE context_history SET metadata = '{"k": 1}'$$, 'an update of something else');
SELECT is((SELECT count(*) FROM pgvigil.session_counter_changes WHERE session_id = pg_temp.id('c')), 2::bigint, 'leaves no change');
UPDATE context_history SET content_size_bytes = 0 WHERE session_id = pg_temp.id('c') AND sequence_number = 11;
SELECT is(pg_temp.held('c'), '3/25/4', 'a size given later counts instead of the length');
UPDATE context_history SET session_id = pg_temp.id('b'), sequence_number = sequence_number + 100 WHERE session_id = pg_temp.id('c');
SELECT is(pg_temp.held('b') || ' ' || pg_temp.held('c'), '6/50/12 0/0/0', 'rows that move take their counts along');
DELETE FROM context_history WHERE sequence_number = 12;
SELECT is(pg_temp.held('a') || ' ' || pg_temp.held('b'), '5/20/1012 5/38/10', 'a delete counts back');
DELETE FROM context_history WHERE sequence_number = 12;
UPDATE context_history SET tokens_used = 1 WHERE sequence_number = 12;
SELECT is(pg_temp.drift(), 0::bigint, 'statements that find no row count nothing');

SAVEPOINT before;
DELETE FROM context_history WHERE session_id = pg_temp.id('a');
SELECT is(pg_temp.held('a'), '0/0/0', 'all rows of a session deleted');
ROLLBACK TO before;
SELECT is(pg_temp.held('a'), '5/20/1012', 'and rolled back');
INSERT INTO context_history (session_id, sequence_number, context_type, content, tokens_used)
VALUES (pg_temp.id('a'), 1, 'message', 'replaced', 9), (pg_temp.id('a'), 99, 'message', 'new', 1)
ON CONFLICT (session_id, sequence_number) DO UPDATE SET content = EXCLUDED.content, tokens_used = EXCLUDED.tokens_used;
SELECT is(pg_temp.held('a'), '6/23/1019', 'ON CONFLICT: the row inserted and the row updated');
INSERT INTO context_history (session_id, sequence_number, context_type, content) VALUES (pg_temp.id('a'), 1, 'message', 'again') ON CONFLICT DO NOTHING;
SELECT is(pg_temp.held('a'), '6/23/1019', 'ON CONFLICT DO NOTHING counts nothing');
DO $$
BEGIN
    IF current_setting('server_version_num')::integer >= 150000 THEN  -- EXECUTE, because 14 cannot even read MERGE
        EXECUTE $merge$
        MERGE INTO context_history c USING (VALUES (1, 'merged'), (11, NULL), (98, 'inserted')) v (n, content)
        ON c.session_id = '00000000-0000-4000-8000-000000000001' AND c.sequence_number = v.n
        WHEN MATCHED AND v.content IS NULL THEN DELETE
        WHEN MATCHED THEN UPDATE SET content = v.content, tokens_used = 0
        WHEN NOT MATCHED THEN INSERT (session_id, sequence_number, context_type, content, tokens_used)
            VALUES ('00000000-0000-4000-8000-000000000001', v.n, 'message', v.content, 5)
        $merge$;
    END IF;
END $$;
SELECT is(pg_temp.drift(), 0::bigint, 'MERGE that inserts, updates and deletes');

SELECT is((SELECT count(*) FROM pgvigil.recount_session_counters()), 0::bigint, 'a recount finds nothing to put right');
SET LOCAL session_replication_role = replica;
DELETE FROM context_history WHERE session_id = pg_temp.id('b') AND sequence_number > 100;
SET LOCAL session_replication_role = origin;
SELECT is(pg_temp.held('b'), '5/38/10', 'what is written past the triggers is not counted');
SELECT is((SELECT (session_id, context_count_was, context_count, total_tokens_was, total_tokens, total_content_bytes_was, total_content_bytes)::text
           FROM pgvigil.recount_session_counters(pg_temp.id('a'))), NULL, 'a recount of another session leaves it');
SELECT is((SELECT (session_id = pg_temp.id('b'), context_count_was, context_count, total_tokens_was, total_tokens, total_content_bytes_was, total_content_bytes)::text
           FROM pgvigil.recount_session_counters(pg_temp.id('b'))), '(t,5,2,38,13,10,6)', 'its own says what was wrong');
SELECT is(pg_temp.held('b'), '2/13/6', 'and puts it right');
SELECT is(pg_temp.drift(), 0::bigint, 'for all of them');

DELETE FROM sessions WHERE session_key = 'b';
SELECT is((SELECT (sum(context_count), sum(total_tokens), sum(total_content_bytes))::text FROM pgvigil.session_counter_changes
           WHERE session_id = '00000000-0000-4000-8000-000000000002'), '(0,0,0)', 'the counters of a deleted session come to nothing');
INSERT INTO sessions (id, session_key, agent_from) VALUES ('00000000-0000-4000-8000-000000000002', 'b', 'x');
SELECT is(pg_temp.held('b'), '0/0/0', 'and one of the same id begins at nothing');
CREATE ROLE t_writer_of_context;
GRANT INSERT, SELECT ON context_history TO t_writer_of_context;
SET LOCAL ROLE t_writer_of_context;
INSERT INTO context_history (session_id, sequence_number, context_type, content) VALUES ('00000000-0000-4000-8000-000000000002', 1, 'message', 'z');
RESET ROLE;
SELECT is(pg_temp.held('b'), '1/0/1', 'a writer needs no right to the counters');

CREATE SCHEMA evil;
CREATE FUNCTION evil.sum(bigint) RETURNS bigint LANGUAGE sql AS 'SELECT 666';
CREATE FUNCTION evil.octet_length(text) RETURNS integer LANGUAGE sql AS 'SELECT 666';
CREATE TABLE evil.new_context (session_id uuid, tokens_used integer, content_size_bytes integer, content text);
SET LOCAL search_path = evil, pg_catalog, public, tap;
INSERT INTO public.context_history (session_id, sequence_number, context_type, content, tokens_used)
VALUES ('00000000-0000-4000-8000-000000000002', 2, 'message', 'zz', 3);
SET LOCAL search_path = public, tap;
SELECT is(pg_temp.held('b'), '2/3/3', 'a hostile search_path does not bend them');

SELECT throws_ok($$UPDATE context_history SET content_size_bytes = 2147483647; INSERT INTO context_history (session_id, sequence_number, context_type, content) VALUES (NULL, 1, 'message', '')$$, '23502', NULL, 'a statement that fails');
SELECT is(pg_temp.drift(), 0::bigint, 'counts nothing');
UPDATE context_history SET content_size_bytes = 2147483647, tokens_used = 2147483647;
SELECT is(pg_temp.drift(), 0::bigint, 'sums go beyond the range of their parts');
CREATE FUNCTION pg_temp.plan_of(query text) RETURNS SETOF text LANGUAGE plpgsql AS $$ BEGIN RETURN QUERY EXECUTE 'EXPLAIN ' || query; END $$;
SELECT is((SELECT count(*) FROM pg_temp.plan_of('SELECT count(*) FROM session_monitoring_view WHERE hours_since_activity > 24 AND is_dormant = false') line
           WHERE line ~ 'context_history|session_counter|handoff|lifecycle'), 0::bigint, 'a query of the view that asks for no counter reads none');
TRUNCATE context_history;
SELECT is(pg_temp.held('a'), '0/0/0', 'TRUNCATE counts back too');

-- A session that is deleted and inserted again by one statement: its rows go only after that.
INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT pg_temp.id('c'), n, 'message', 'xy' FROM generate_series(51, 53) n;
DO $$ BEGIN PERFORM pgvigil.fold_session_counters(); END $$;
INSERT INTO context_history (session_id, sequence_number, context_type, content) SELECT pg_temp.id('c'), n, 'message', 'xy' FROM generate_series(54, 55) n;
WITH gone AS (DELETE FROM sessions WHERE session_key = 'c' RETURNING *) INSERT INTO sessions SELECT * FROM gone;
SELECT is(pg_temp.held('c'), '0/0/0', 'deleted and put back by one statement, it holds nothing');
DO $$ BEGIN PERFORM pgvigil.fold_session_counters(); END $$;
SELECT is(pg_temp.held('c') || ' ' || pg_temp.drift(), '0/0/0 0', 'folded too');
CREATE FUNCTION pg_temp.spare() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RETURN NULL; END $$;
CREATE TRIGGER spare BEFORE DELETE ON sessions FOR EACH ROW EXECUTE FUNCTION pg_temp.spare();
DELETE FROM sessions;
SELECT is(pg_temp.drift(), 0::bigint, 'a deletion that another trigger calls off changes no counter');
ROLLBACK;
