-- The contents of each session: exact, and never a reason for a writer to wait. Counters that every writer updates
-- would make the writers of a session queue until commit, and deadlock where two transactions write the same sessions
-- in another order. So writers only append their changes; pgvigil.fold_session_counters adds them up now and then. At
-- any moment the contents of a session = its row in session_counters + its rows in session_counter_changes, and one
-- snapshot sees context rows and their changes together, so comparing the two needs no lock either.

CREATE TABLE pgvigil.session_counters (
    session_id          uuid NOT NULL CONSTRAINT session_counters_pkey PRIMARY KEY,
    context_count       bigint NOT NULL,
    total_tokens        bigint NOT NULL,
    total_content_bytes bigint NOT NULL  -- 011 adds the foreign key
) WITH (fillfactor = 70);
COMMENT ON TABLE pgvigil.session_counters IS
    'The contents of a session, without the changes in session_counter_changes. '
    'A session without a row: 0 from migration 015 on, not yet counted before';
COMMENT ON COLUMN pgvigil.session_counters.context_count IS 'Rows in context_history';
COMMENT ON COLUMN pgvigil.session_counters.total_tokens IS 'Sum of their tokens_used, where given';
COMMENT ON COLUMN pgvigil.session_counters.total_content_bytes IS
    'Sum of their sizes in bytes: content_size_bytes where given, else octet_length(content)';

CREATE TABLE pgvigil.session_counter_changes (
    session_id          uuid NOT NULL,
    context_count       bigint NOT NULL,
    total_tokens        bigint NOT NULL,
    total_content_bytes bigint NOT NULL,
    change_id           uuid NOT NULL DEFAULT gen_random_uuid(),
    -- The key makes replication possible; behind the session, it is the index on that as well. No sequence: a
    -- subscription does not bring its number, so after a switch to the subscriber the application's inserts would fail.
    CONSTRAINT session_counter_changes_pkey PRIMARY KEY (session_id, change_id)
-- A table without a page is planned to be read whole, again for each session: a prepared plan does that when it fills.
) WITH (vacuum_truncate = false);
COMMENT ON TABLE pgvigil.session_counter_changes IS
    'Changes by statements on context_history, one row a statement '
    'and session, until they are folded into session_counters';
COMMENT ON COLUMN pgvigil.session_counter_changes.session_id IS
    'The session: no foreign key, which would cost a third more; the '
    'rows of a deleted one cancel out, and go when they are folded';
COMMENT ON COLUMN pgvigil.session_counter_changes.context_count IS 'Rows more, or fewer if below zero';
COMMENT ON COLUMN pgvigil.session_counter_changes.total_tokens IS 'Tokens more or fewer';
COMMENT ON COLUMN pgvigil.session_counter_changes.total_content_bytes IS 'Bytes of content more or fewer';
COMMENT ON COLUMN pgvigil.session_counter_changes.change_id IS 'Tells changes of a session apart; no order';
COMMENT ON CONSTRAINT session_counter_changes_pkey ON pgvigil.session_counter_changes IS
    'The changes of a session; the replica identity';

CREATE FUNCTION pgvigil.content_bytes(content_size_bytes integer, content text) RETURNS integer
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN coalesce(content_size_bytes, octet_length(content));
COMMENT ON FUNCTION pgvigil.content_bytes(integer, text) IS
    'How the bytes of a context row are counted: as given, else as they are';

-- plpgsql, so that the application may still alter the columns it reads.
CREATE FUNCTION pgvigil.count_context(VARIADIC sessions uuid[])
RETURNS TABLE (session_id uuid, context_count bigint, total_tokens bigint, total_content_bytes bigint)
LANGUAGE plpgsql
STABLE
PARALLEL SAFE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
BEGIN
    RETURN QUERY
    SELECT s.id, h.* FROM unnest(sessions) s (id) CROSS JOIN LATERAL (
        SELECT count(*), coalesce(sum(c.tokens_used), 0)::bigint,
               coalesce(sum(pgvigil.content_bytes(c.content_size_bytes, c.content)), 0)::bigint
        FROM "{app}".context_history c WHERE c.session_id = s.id) h;
END $$;
COMMENT ON FUNCTION pgvigil.count_context(uuid[]) IS
    'The contents of each of these sessions, counted from context_history itself';

CREATE FUNCTION pgvigil.current_counters(session uuid)
RETURNS TABLE (context_count bigint, total_tokens bigint, total_content_bytes bigint)
LANGUAGE sql
STABLE
PARALLEL SAFE
BEGIN ATOMIC
    SELECT coalesce(sum(k.context_count), 0)::bigint, coalesce(sum(k.total_tokens), 0)::bigint,
           coalesce(sum(k.total_content_bytes), 0)::bigint
    FROM (SELECT c.context_count, c.total_tokens, c.total_content_bytes
          FROM pgvigil.session_counters c
          WHERE c.session_id = session
          UNION ALL
          SELECT d.context_count, d.total_tokens, d.total_content_bytes
          FROM pgvigil.session_counter_changes d
          WHERE d.session_id = session) k;
END;
COMMENT ON FUNCTION pgvigil.current_counters(uuid) IS 'The contents of a session by its counters';

-- No SET search_path here, a sixth of what counting a single row costs: names are qualified instead.
-- Most statements add one row, and to set up sums takes longer than to append that row as it is.
-- It also asks whether a session is archived, once for each session of the statement. A trigger for each row took a
-- third of the time of a bulk INSERT. A join could be planned over all sessions; this subquery looks each one up by its
-- key.
CREATE FUNCTION pgvigil.count_added_context() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET enable_seqscan = off
AS $$
#variable_conflict use_variable
DECLARE
    archived pg_catalog.uuid;
BEGIN
    PERFORM FROM new_context OFFSET 1 LIMIT 1;
    IF FOUND THEN
        INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
        SELECT n.session_id, pg_catalog.count(*), coalesce(pg_catalog.sum(n.tokens_used), 0),
               pg_catalog.sum(pgvigil.content_bytes(n.content_size_bytes, n.content))
        FROM new_context n GROUP BY n.session_id;
        PERFORM FROM new_context n
        GROUP BY n.session_id
        HAVING (SELECT s.archived_at IS NULL
                FROM "{app}".sessions s
                WHERE s.id OPERATOR(pg_catalog.=) n.session_id) IS NOT TRUE
        LIMIT 1;
    ELSE
        INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
        SELECT n.session_id, 1, coalesce(n.tokens_used, 0), pgvigil.content_bytes(n.content_size_bytes, n.content)
        FROM new_context n;
        PERFORM FROM new_context n
        WHERE (SELECT s.archived_at IS NULL
               FROM "{app}".sessions s
               WHERE s.id OPERATOR(pg_catalog.=) n.session_id) IS NOT TRUE;
    END IF;
    IF FOUND THEN
        SELECT n.session_id
        INTO archived
        FROM new_context n
        WHERE (SELECT s.archived_at IS NOT NULL
               FROM "{app}".sessions s
               WHERE s.id OPERATOR(pg_catalog.=) n.session_id)
        LIMIT 1;
        IF FOUND THEN
            PERFORM pgvigil.refuse_archived_session(archived);
        END IF;
        -- A child has its session: one that is not found is hidden, or a deferred foreign key will look for it.
        PERFORM pgvigil.require_all_rows();
    END IF;
    RETURN NEW;
END $$;
COMMENT ON FUNCTION pgvigil.count_added_context() IS
    'Counts the rows that a statement added to context_history; refuses them where the session is archived';

CREATE FUNCTION pgvigil.count_changed_context() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
    SELECT session_id, sum(one), sum(tokens), sum(bytes)
    FROM (SELECT n.session_id, 1 AS one, coalesce(n.tokens_used, 0) AS tokens,
                 pgvigil.content_bytes(n.content_size_bytes, n.content) AS bytes
          FROM new_context n
          UNION ALL
          SELECT o.session_id, -1, -coalesce(o.tokens_used, 0), -pgvigil.content_bytes(o.content_size_bytes, o.content)
          FROM old_context o) change
    GROUP BY session_id HAVING sum(one) <> 0 OR sum(tokens) <> 0 OR sum(bytes) <> 0;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.count_changed_context() IS
    'Counts what a statement changed in rows of context_history, and rows it moved between sessions';

CREATE FUNCTION pgvigil.count_removed_context() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
    SELECT o.session_id, -count(*), -coalesce(sum(o.tokens_used), 0),
           -sum(pgvigil.content_bytes(o.content_size_bytes, o.content))
    FROM old_context o GROUP BY o.session_id;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.count_removed_context() IS 'Counts the rows that a statement deleted from context_history';

-- Only one session at a time may backfill, fold or recount: two at once would each correct the same difference.
CREATE FUNCTION pgvigil.lock_session_counters() RETURNS void
LANGUAGE sql
VOLATILE
BEGIN ATOMIC
    SELECT pg_advisory_xact_lock('pgvigil.session_counters'::regclass::oid::integer, 0);
END;
COMMENT ON FUNCTION pgvigil.lock_session_counters() IS
    'One at a time, to the end of the transaction; writers of context_history do not ask';

-- For a deleted session, so that its contents and the rows deleted with it cancel out: in any order, and also where the
-- same statement inserts the session again.
CREATE FUNCTION pgvigil.record_removed_counters() RETURNS trigger
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
    VALUES (OLD.session_id, OLD.context_count, OLD.total_tokens, OLD.total_content_bytes);
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.record_removed_counters() IS 'Counters that are deleted are kept as a change';
CREATE TRIGGER record_removed_counters AFTER DELETE ON pgvigil.session_counters
    FOR EACH ROW EXECUTE FUNCTION pgvigil.record_removed_counters();
COMMENT ON TRIGGER record_removed_counters ON pgvigil.session_counters IS
    'Counters that go with their session leave no difference';

CREATE FUNCTION pgvigil.clear_session_counters() RETURNS trigger
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    -- A session that is folding would restore the deleted counters. No TRUNCATE: that of sessions truncates the
    -- counters too, and has them locked when this trigger fires.
    PERFORM pgvigil.lock_session_counters();
    UPDATE pgvigil.session_counters SET context_count = 0, total_tokens = 0, total_content_bytes = 0;
    DELETE FROM pgvigil.session_counter_changes;
    RETURN NULL;
END $$;
COMMENT ON FUNCTION pgvigil.clear_session_counters() IS 'When context_history is truncated, no session holds anything';

-- The contents of a session before its first counted change are the same at any moment, and each snapshot shows them:
-- its contents now, less its changes. So no writer is waited for, and none is counted twice.
--
-- A procedure that commits has a function of its name for each of its transactions. Where a function runs with rights
-- that its caller does not share, the runner calls that one instead: from an empty state to the next, until there is
-- none.
CREATE FUNCTION pgvigil.backfill_session_counters_step(state jsonb, batch integer DEFAULT 1000) RETURNS jsonb
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    from_id  uuid := CASE WHEN state ? 'from' THEN state ->> 'from' ELSE '00000000-0000-0000-0000-000000000000' END;
    left_out uuid[] := ARRAY(SELECT e::uuid FROM jsonb_array_elements_text(coalesce(state -> 'left_out', '[]')) e);
    ids      uuid[];
BEGIN
    PERFORM pgvigil.lock_session_counters();
    ids := ARRAY(SELECT id FROM "{app}".sessions WHERE id >= from_id ORDER BY id LIMIT batch + 1);
    from_id := ids[batch + 1];  -- no more: NULL, and the next look finds none
    IF ids = '{}' THEN
        IF left_out = '{}' THEN
            RETURN NULL;
        END IF;
        ids := left_out;
        left_out := '{}';
        PERFORM pg_sleep(0.05);
    END IF;
    -- From an array, so that no plan reads whole tables. A session that is just being deleted is looked at again in the
    -- end.
    WITH uncounted AS MATERIALIZED (
        SELECT s.id FROM unnest(ids) i (id) JOIN "{app}".sessions s USING (id)
        WHERE NOT EXISTS (SELECT FROM pgvigil.session_counters c WHERE c.session_id = i.id)),
    mine AS MATERIALIZED (
        SELECT s.id
        FROM unnest(ARRAY(SELECT id FROM uncounted)) i (id)
        JOIN "{app}".sessions s USING (id)
        FOR KEY SHARE OF s SKIP LOCKED),
    counted AS (
        INSERT INTO pgvigil.session_counters (session_id, context_count, total_tokens, total_content_bytes)
        SELECT h.session_id, h.context_count - k.context_count, h.total_tokens - k.total_tokens,
               h.total_content_bytes - k.total_content_bytes
        FROM pgvigil.count_context(VARIADIC ARRAY(SELECT id FROM mine)) h
        CROSS JOIN LATERAL pgvigil.current_counters(h.session_id) k
        WHERE (h.context_count, h.total_tokens, h.total_content_bytes)
            <> (k.context_count, k.total_tokens, k.total_content_bytes))
    SELECT left_out || ARRAY(SELECT id FROM uncounted EXCEPT SELECT id FROM mine) INTO left_out;
    PERFORM pgvigil.finish_owner_code();
    RETURN jsonb_build_object('from', from_id, 'left_out', to_jsonb(left_out));
END $$;
COMMENT ON FUNCTION pgvigil.backfill_session_counters_step(jsonb, integer) IS
    'One batch of backfill_session_counters, from one state to the next; NULL: all is done';

CREATE PROCEDURE pgvigil.backfill_session_counters(batch integer DEFAULT 1000)
LANGUAGE plpgsql
AS $$
DECLARE
    state jsonb := '{}';
BEGIN
    WHILE state IS NOT NULL LOOP
        state := pgvigil.backfill_session_counters_step(state, batch);
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgvigil.backfill_session_counters(integer) IS
    'Used by migrations: counts what each session held before its changes '
    'were counted, in batches that commit; goes on where it stopped';

CREATE FUNCTION pgvigil.fold_session_counters(batch integer DEFAULT 10000) RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    ids      uuid[];
    orphaned bigint;
    folded   bigint;
BEGIN
    PERFORM pgvigil.lock_session_counters();
    -- Before 015 a session without a row is one not yet counted, and must stay one.
    IF NOT EXISTS (SELECT FROM pgvigil.migrations WHERE revision = '015') THEN
        RETURN 0;
    END IF;
    -- Nothing here reads more than a batch: who has never folded may have ten million changes.
    ids := ARRAY(SELECT d.session_id FROM pgvigil.session_counter_changes d LIMIT batch);
    DELETE FROM pgvigil.session_counter_changes d
    WHERE d.session_id = ANY (ids) AND NOT EXISTS (SELECT FROM "{app}".sessions s WHERE s.id = d.session_id);
    GET DIAGNOSTICS orphaned = ROW_COUNT;
    WITH mine AS MATERIALIZED (
        SELECT s.id FROM "{app}".sessions s WHERE s.id = ANY (ids) FOR KEY SHARE SKIP LOCKED),
    gone AS (
        DELETE FROM pgvigil.session_counter_changes d USING mine m WHERE d.session_id = m.id
        RETURNING d.session_id, d.context_count, d.total_tokens, d.total_content_bytes),
    kept AS (
        INSERT INTO pgvigil.session_counters AS c (session_id, context_count, total_tokens, total_content_bytes)
        SELECT session_id, sum(context_count), sum(total_tokens), sum(total_content_bytes) FROM gone GROUP BY session_id
        ON CONFLICT (session_id) DO UPDATE
        SET context_count = c.context_count + EXCLUDED.context_count,
            total_tokens = c.total_tokens + EXCLUDED.total_tokens,
            total_content_bytes = c.total_content_bytes + EXCLUDED.total_content_bytes)
    SELECT count(*) INTO folded FROM gone;
    RETURN folded + orphaned;
END $$;
COMMENT ON FUNCTION pgvigil.fold_session_counters(integer) IS
    'Adds at least a batch of session_counter_changes up into session_counters, if '
    'there are as many; returns how many. Waits for no writer and lets none wait';

CREATE FUNCTION pgvigil.recount_session_counters(session uuid DEFAULT NULL)
RETURNS TABLE (session_id uuid, context_count_was bigint, context_count bigint, total_tokens_was bigint,
               total_tokens bigint, total_content_bytes_was bigint, total_content_bytes bigint)
LANGUAGE plpgsql
VOLATILE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    IF current_setting('transaction_isolation') <> 'read committed' THEN
        RAISE EXCEPTION 'counters are put right under READ COMMITTED only, this transaction is %',
            upper(current_setting('transaction_isolation'))
              USING ERRCODE = 'active_sql_transaction',
                    HINT = 'Its snapshot may be older than the last repair. Call it in a transaction of its own.';
    END IF;
    PERFORM pgvigil.require_all_rows(), pgvigil.lock_session_counters();
    RETURN QUERY
    WITH wrong AS MATERIALIZED (
        SELECT h.session_id AS id, k.context_count AS contexts_was, h.context_count AS contexts,
               k.total_tokens AS tokens_was, h.total_tokens AS tokens, k.total_content_bytes AS bytes_was,
               h.total_content_bytes AS bytes
        FROM pgvigil.count_context(VARIADIC ARRAY(SELECT s.id
                                                  FROM "{app}".sessions s
                                                  WHERE recount_session_counters.session IS NULL
                                                 OR s.id = recount_session_counters.session)) h
        CROSS JOIN LATERAL pgvigil.current_counters(h.session_id) k
        WHERE (h.context_count, h.total_tokens, h.total_content_bytes)
            <> (k.context_count, k.total_tokens, k.total_content_bytes)
          AND (EXISTS (SELECT FROM pgvigil.session_counters c WHERE c.session_id = h.session_id)
               OR EXISTS (SELECT FROM pgvigil.migrations m WHERE m.revision = '015'))),
    put_right AS (
        INSERT INTO pgvigil.session_counter_changes (session_id, context_count, total_tokens, total_content_bytes)
        SELECT id, contexts - contexts_was, tokens - tokens_was, bytes - bytes_was FROM wrong)
    SELECT id, contexts_was, contexts, tokens_was, tokens, bytes_was, bytes FROM wrong ORDER BY id;
    PERFORM pgvigil.finish_owner_code();
END $$;
COMMENT ON FUNCTION pgvigil.recount_session_counters(uuid) IS
    'Counts a session (all of them if not given) again and corrects its '
    'counters; returns those that were wrong, as they were and are';
