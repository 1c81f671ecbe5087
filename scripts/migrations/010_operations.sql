-- Health between migrations: the checks, their thresholds, and their repairs. Each check is done by one of the
-- functions check_*(deep), which return their findings; integrity_report compares them with alert_thresholds. Without
-- deep no check reads a large table as a whole: it estimates from a sample.

CREATE TABLE pgvigil.alert_thresholds (
    check_name text NOT NULL CONSTRAINT alert_thresholds_pkey PRIMARY KEY,
    warning    numeric,
    critical   numeric,
    meaning    text NOT NULL,
    CONSTRAINT alert_thresholds_warning_check CHECK (warning > 0 AND warning < 'NaN'),
    CONSTRAINT alert_thresholds_critical_check CHECK (critical > 0 AND critical < 'NaN'),
    CONSTRAINT alert_thresholds_order_check CHECK (critical >= warning)
);
COMMENT ON TABLE pgvigil.alert_thresholds IS
    'From which value on each check of integrity_report() is a warning, and critical; to be edited';
COMMENT ON COLUMN pgvigil.alert_thresholds.warning IS 'A warning from this value on; NULL: never';
COMMENT ON COLUMN pgvigil.alert_thresholds.critical IS 'Critical from this value on; NULL: never';
COMMENT ON COLUMN pgvigil.alert_thresholds.meaning IS 'The counted or measured value, and the meaning of a high one';
COMMENT ON CONSTRAINT alert_thresholds_warning_check ON pgvigil.alert_thresholds IS '0 is well, for every check';
COMMENT ON CONSTRAINT alert_thresholds_critical_check ON pgvigil.alert_thresholds IS '0 is well, for every check';
COMMENT ON CONSTRAINT alert_thresholds_order_check ON pgvigil.alert_thresholds IS 'A critical value is also a warning';
INSERT INTO pgvigil.alert_thresholds (check_name, warning, critical, meaning) VALUES
    ('foreign_keys_enabled', 1, 1,
     'foreign keys that are not enforced, and sessions, roles and databases with session_replication_role = replica'),
    ('orphaned_messages', 1, 10,
     'rows of a session that does not exist: context, snapshots, hand-offs, trail, counters, holds'),
    ('count_mismatches', 5, 100, 'sessions whose context_count differs from the number of their rows'),
    ('token_mismatches', 5, 100, 'sessions whose total_tokens differs from the sum of their rows'),
    ('size_mismatches', 5, 100, 'sessions whose total_content_bytes differs from the sum of their rows'),
    ('database_integrity', 1, 1,
     'reads of a page that failed its checksum; with --deep also faults that amcheck finds'),
    ('invalid_indexes', 1, 10,
     'indexes that an interrupted build left; indexes that are being built now are not counted'),
    ('executable_by_everybody', 1, 1,
     'functions with their owner''s rights, and trigger functions, that PUBLIC may execute'),
    ('definers_of_superusers', 1, 1, 'functions with their owner''s rights that belong to a superuser'),
    ('collation_mismatches', 1, NULL, 'collations whose library has changed since their indexes were built'),
    ('publications_by_partition', 1, NULL,
     'publications that send all partitions of a table of pgvigil, '
     'but not by the root: subscribers stop at the next new partition'),
    ('disabled_triggers', 1, 1, 'triggers of pgvigil that do not fire'),
    ('replaced_objects', 1, NULL,
     'triggers of pgvigil that are missing or call another '
     'function, and monitoring views that read nothing of pgvigil'),
    ('duplicate_events', 1, NULL,
     'events of the last day that were recorded twice within one second, at least once by something '
     'other than the trigger of pgvigil; looks at 10,000 events at most, with --deep at all'),
    ('views_past_row_security', 1, 1,
     'monitoring views without security_invoker while a table '
     'that they read has row security on (from PostgreSQL 15 on)'),
    ('overdue_jobs', 1, 3,
     'jobs that had no success for two of their times; of those '
     'that never succeeded the detail says what is not done yet'),
    ('failed_jobs', 1, 3, 'jobs whose last run failed or died, also because no verified backup exists'),
    ('jobs_without_consent', 1, NULL,
     'jobs of a migrated install that wait until the owner has accepted what they would do'),
    ('waiting_rows', 1000, 100000, 'rows in default partitions, counted up to 100,000 each'),
    ('dead_rows_percent', 30, 60, 'share of dead rows in the worst table that has 10,000 of them'),
    ('transaction_id_age', 1000000000, 1500000000, 'transactions (or multixacts) since the oldest that is not frozen'),
    ('connection_pool_exhaustion', 0.8, 0.95,
     'share of the connections of the server that are in use, or of the limit of this database'),
    ('database_size_mb', 1000, 5000, 'size of the database, in MB of 1,048,576 bytes'),
    ('avg_query_time_ms', 100, 1000,
     'average duration of the operations in performance_logs over '
     'the last hour, in milliseconds, as far as they are rolled up');

CREATE FUNCTION pgvigil.watched_schemas() RETURNS oid[]
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN ARRAY(SELECT n.oid
                 FROM pg_namespace n
                 WHERE n.nspname = ANY (ARRAY[pgvigil.application_schema(), 'pgvigil', 'instrumentation']));
END $$;
COMMENT ON FUNCTION pgvigil.watched_schemas() IS 'The application''s schema and those of pgvigil';

CREATE FUNCTION pgvigil.stored_settings() RETURNS TABLE (setting text, holder text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT c.setting,
           concat_ws(' IN ',
                     CASE WHEN s.setrole <> 0 THEN 'ROLE ' || quote_ident(r.rolname)
                          WHEN s.setdatabase = 0 THEN 'ROLE ALL' END,
                                CASE WHEN s.setdatabase <> 0 THEN 'DATABASE ' || quote_ident(current_database()) END)
    FROM pg_db_role_setting s
    CROSS JOIN LATERAL unnest(s.setconfig) c (setting)
    LEFT JOIN pg_roles r ON r.oid = s.setrole
    WHERE s.setdatabase IN (0, (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()));
END $$;
COMMENT ON FUNCTION pgvigil.stored_settings() IS
    'Settings that the roles and this database bring along, and whose they are';

CREATE FUNCTION pgvigil.fits_full_scan(VARIADIC tables regclass[]) RETURNS boolean
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT sum(pg_relation_size(t.id)) <= 16777216
            AND pg_relation_size(pgvigil.application_table('sessions')) <= 8388608
            FROM unnest(tables) t (id));
END $$;
COMMENT ON FUNCTION pgvigil.fits_full_scan(regclass[]) IS
    'Whether these tables (16 MB) can be compared with sessions (8 MB) as a whole in an instant';

-- The checks
-- -----------------------------------------------------------------------------------------------------------

-- A row of a sample is looked up one by one, so that its cost does not grow with sessions; of a whole table, the
-- planner chooses. 250 rows of those on 40 pages: each may mean a page of sessions or of its index that has to come
-- from disk.
CREATE FUNCTION pgvigil.check_orphans(deep boolean)
RETURNS TABLE (check_name text, value numeric, detail text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    child   record;
    share   numeric;  -- percent of its pages
    found   bigint;
    shown   text[] := '{}';
    fixes   text[] := '{}';
    sampled boolean := false;
    of_sessions regclass := pgvigil.application_table('sessions');
BEGIN
    PERFORM pgvigil.require_all_rows();
    value := 0;
    FOR child IN
        SELECT c.oid, format('%I.%I', n.nspname, c.relname) AS name,
               ARRAY(SELECT i.inhrelid::regclass FROM pg_inherits i WHERE i.inhparent = c.oid)
                   || c.oid::regclass AS parts
        FROM unnest(ARRAY(SELECT pgvigil.application_table(a)
                          FROM unnest('{context_history,codebase_snapshots,handoff_requests,'
                                      'session_lifecycle}'::text[]) a)
                    || '{pgvigil.session_counters,pgvigil.legal_holds}'::regclass[]) WITH ORDINALITY t (id, place)
        JOIN pg_class c ON c.oid = t.id JOIN pg_namespace n ON n.oid = c.relnamespace ORDER BY t.place
    LOOP
        IF deep OR pgvigil.fits_full_scan(VARIADIC child.parts) THEN
            IF deep THEN
                RAISE NOTICE 'looking for orphans in %', child.name;
            END IF;
            share := 100;
            EXECUTE format('SELECT count(*)
                            FROM %s c
                            WHERE NOT EXISTS (SELECT 1 FROM %s s WHERE s.id = c.session_id)', child.name, of_sessions)
                INTO found;
        ELSE
            share := least(100, 100 * 40.0 * current_setting('block_size')::numeric
                               / greatest((SELECT sum(pg_relation_size(p.id)) FROM unnest(child.parts) p (id)), 1));
            EXECUTE format('SELECT coalesce(ceil(
                                count(*) FILTER (WHERE (SELECT s.id FROM %3$s s WHERE s.id = c.session_id) IS NULL)
                                * max(c.there)::numeric / count(*)), 0)
                            FROM (SELECT t.session_id, count(*) OVER () AS there
                                  FROM %1$s t TABLESAMPLE SYSTEM (%2$s)
                                  ORDER BY random()
                                  LIMIT 250) c',
                           child.name, share, of_sessions) INTO found;
            sampled := sampled OR share < 100;
        END IF;
        IF found > 0 THEN
            value := value + ceil(found * 100 / share);
            shown := shown
                || format('%s%s in %s', CASE WHEN share < 100 THEN 'about ' END, ceil(found * 100 / share), child.name);
            fixes := fixes
                || format('DELETE FROM %s c
                           WHERE NOT EXISTS (SELECT 1 FROM %s s WHERE s.id = c.session_id);', child.name, of_sessions);
        END IF;
    END LOOP;
    check_name := 'orphaned_messages';
    detail := concat_ws('; ', nullif(array_to_string(shown, ', '), ''),
                        CASE WHEN sampled THEN 'looked at 250 rows of each large table' END);
    fix := nullif(array_to_string(fixes, ' '), '');
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.check_orphans(boolean) IS
    'Rows without their session, in each table that belongs to sessions; of a large one an estimate unless deep';

-- One snapshot (STABLE) shows rows and counters as they belong together. The sample: 100 sessions that hold 3,000 rows
-- at most, each of which may be a page from disk. All of them are counted in one pass over context_history: session by
-- session, as count_context does, takes ten times as long.
CREATE FUNCTION pgvigil.check_counters(deep boolean)
RETURNS TABLE (check_name text, value numeric, detail text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    ids   uuid[];
    total numeric;  -- sessions
    pages bigint := pg_relation_size(pgvigil.application_table('sessions')) / current_setting('block_size')::bigint;
    part  record;
BEGIN
    PERFORM pgvigil.require_all_rows();
    IF deep OR pgvigil.fits_full_scan(pgvigil.application_table('context_history')) THEN
        IF deep THEN
            RAISE NOTICE 'recounting the context of all sessions';
        END IF;
        SELECT (SELECT count(*) FROM "{app}".sessions) AS looked, count(*) FILTER (WHERE d.contexts <> 0) AS counts,
               count(*) FILTER (WHERE d.tokens <> 0) AS tokens, count(*) FILTER (WHERE d.bytes <> 0) AS bytes INTO part
        FROM (SELECT u.session_id, sum(u.contexts) AS contexts, sum(u.tokens) AS tokens, sum(u.bytes) AS bytes
              FROM (SELECT c.session_id, 1 AS contexts, c.tokens_used::bigint AS tokens,
                           pgvigil.content_bytes(c.content_size_bytes, c.content)::bigint AS bytes
                    FROM "{app}".context_history c
                    UNION ALL
                    SELECT k.session_id, -k.context_count, -k.total_tokens, -k.total_content_bytes
                    FROM pgvigil.session_counters k
                    UNION ALL
                    SELECT k.session_id, -k.context_count, -k.total_tokens, -k.total_content_bytes
                    FROM pgvigil.session_counter_changes k) u
              GROUP BY u.session_id HAVING sum(u.contexts) <> 0 OR sum(u.tokens) <> 0 OR sum(u.bytes) <> 0) d
        WHERE EXISTS (SELECT FROM "{app}".sessions s WHERE s.id = d.session_id);
        total := part.looked;
    ELSE
        EXECUTE format('SELECT coalesce(array_agg(id), ''{}'') FROM (
                     SELECT p.id, p.place, sum(k.context_count) OVER (ORDER BY p.place) AS so_far
                     FROM (SELECT r.id, row_number() OVER () AS place
                           FROM (SELECT s.id FROM %s s TABLESAMPLE SYSTEM ($1) ORDER BY random() LIMIT 100) r) p
                     CROSS JOIN LATERAL pgvigil.current_counters(p.id) k) picked
                 WHERE so_far <= 3000 OR place = 1', pgvigil.application_table('sessions'))
        INTO ids USING least(100, 100 * 40.0 / greatest(pages, 1));
        SELECT count(*) AS looked, count(*) FILTER (WHERE h.context_count <> k.context_count) AS counts,
               count(*) FILTER (WHERE h.total_tokens <> k.total_tokens) AS tokens,
               count(*) FILTER (WHERE h.total_content_bytes <> k.total_content_bytes) AS bytes INTO part
        FROM pgvigil.count_context(VARIADIC ids) h CROSS JOIN LATERAL pgvigil.current_counters(h.session_id) k;
        SELECT greatest(c.reltuples, part.looked)
        INTO total
        FROM pg_class c
        WHERE c.oid = pgvigil.application_table('sessions');
    END IF;
    detail := CASE WHEN total > part.looked THEN format('looked at %s of about %s sessions', part.looked, total) END;
    FOR check_name, value IN
        VALUES ('count_mismatches', part.counts), ('token_mismatches', part.tokens),
               ('size_mismatches', part.bytes) LOOP
        value := ceil(value * total / greatest(part.looked, 1));
        fix := 'SELECT * FROM pgvigil.recount_session_counters();';
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgvigil.check_counters(boolean) IS
    'Counters of sessions against a recount: of all if deep or few, else an estimate from 100';

CREATE FUNCTION pgvigil.check_storage(deep boolean)
RETURNS TABLE (check_name text, value numeric, detail text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    failures bigint;
    last_    timestamptz;
    place    text;
    part     record;
    broken   text;
    shown   text[] := '{}';
    fixes    text[] := '{}';
BEGIN
    SELECT sum(d.checksum_failures), max(d.checksum_last_failure) INTO failures, last_ FROM pg_stat_database d
    WHERE d.datname = current_database() OR d.datid = 0;
    value := coalesce(failures, 0);
    IF value > 0 THEN
        shown := shown || format('%s reads met a page that fails its checksum, the last at %s', failures, last_);
        fixes := fixes
            || 'Restore a backup from before (pgvigil restore), on '
               'other storage; see the server''s log for the file.'::text;
    ELSIF current_setting('data_checksums') = 'off' THEN
        shown := shown || 'data checksums are off: a damaged page is not noticed'::text;
    END IF;
    IF deep THEN
        SELECT n.nspname
        INTO place
        FROM pg_extension e
        JOIN pg_namespace n ON n.oid = e.extnamespace
        WHERE e.extname = 'amcheck';
        IF place IS NULL THEN
            shown := shown
                || 'amcheck is not there (CREATE EXTENSION amcheck): indexes and tables were not looked at'::text;
        END IF;
        FOR part IN
            SELECT c.oid, c.relkind, format('%I.%I', n.nspname, c.relname) AS name, count(*) OVER () AS parts,
                   row_number() OVER () AS number
            FROM pg_class c
            JOIN pg_namespace n ON n.oid = c.relnamespace
            LEFT JOIN pg_index i ON i.indexrelid = c.oid
            JOIN pg_am a ON a.oid = c.relam
            WHERE place IS NOT NULL AND n.oid = ANY (pgvigil.watched_schemas()) AND c.relpersistence <> 't'
              AND (c.relkind = 'i' AND i.indisvalid AND i.indisready AND a.amname = 'btree'
                   OR c.relkind IN ('r', 'm') AND a.amname = 'heap')
        LOOP
            RAISE NOTICE 'amcheck % (% of %)', part.name, part.number, part.parts;
            broken := NULL;
            BEGIN
                IF part.relkind = 'i' THEN
                    EXECUTE format('SELECT %I.bt_index_check($1, true)', place) USING part.oid::regclass;
                ELSE
                    EXECUTE format('SELECT format(''block %%s: %%s'', v.blkno, v.msg)
                                    FROM %I.verify_heapam($1, on_error_stop => true) v
                                    LIMIT 1', place)
                    INTO broken USING part.oid::regclass;
                END IF;
            EXCEPTION
                WHEN undefined_table OR undefined_object THEN NULL;  -- dropped meanwhile
                WHEN insufficient_privilege THEN
                    shown := shown
                        || format('amcheck was not allowed: GRANT EXECUTE ON ALL FUNCTIONS IN SCHEMA %I TO %I', place,
                                  current_user);
                    EXIT;
                WHEN OTHERS THEN
                    broken := SQLERRM;
            END;
            IF broken IS NOT NULL THEN
                value := value + 1;
                shown := shown || format('%s: %s', part.name, broken);
                fixes := fixes || CASE part.relkind WHEN 'i' THEN format('REINDEX INDEX CONCURRENTLY %s;', part.name)
                                                    ELSE format('Restore %s from a backup.', part.name) END;
            END IF;
        END LOOP;
    END IF;
    check_name := 'database_integrity';
    detail := array_to_string(shown, '; ');
    fix := nullif(array_to_string(fixes, ' '), '');
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.check_storage(boolean) IS
    'Failed checksums, and if deep what amcheck finds in indexes and tables';

-- An index that is being built CONCURRENTLY at this moment does not count.
CREATE FUNCTION pgvigil.check_objects(deep boolean)
RETURNS TABLE (check_name text, value numeric, detail text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    check_name := 'foreign_keys_enabled';
    SELECT count(*), string_agg(f.shown, ', '), string_agg(DISTINCT f.fix, ' ') INTO value, detail, fix
    FROM (SELECT 'this session has session_replication_role = ' || current_setting('session_replication_role') AS shown,
                 'RESET session_replication_role;' AS fix
          WHERE current_setting('session_replication_role') = 'replica'
          UNION ALL
          SELECT format('%s for %s', s.setting, s.holder), format('ALTER %s RESET session_replication_role;', s.holder)
          FROM pgvigil.stored_settings() s WHERE s.setting = 'session_replication_role=replica'
          UNION ALL
          SELECT format('%s of %s.%s has its triggers disabled', c.conname, n.nspname, t.relname),
                 string_agg(DISTINCT format('ALTER TABLE %I.%I ENABLE TRIGGER ALL;', gn.nspname, gt.relname), ' ')
          FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
          JOIN pg_trigger g ON g.tgconstraint = c.oid AND g.tgenabled IN ('D', 'R')
          JOIN pg_class gt ON gt.oid = g.tgrelid JOIN pg_namespace gn ON gn.oid = gt.relnamespace
          WHERE c.contype = 'f' AND n.oid = ANY (pgvigil.watched_schemas())
          GROUP BY c.oid, c.conname, n.nspname, t.relname
          UNION ALL
          SELECT format('%s of %s.%s is NOT ENFORCED', c.conname, n.nspname, t.relname),
                 format('ALTER TABLE %I.%I ALTER CONSTRAINT %I ENFORCED;', n.nspname, t.relname, c.conname)
          FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
          -- a column since 18
          WHERE c.contype = 'f'
            AND n.oid = ANY (pgvigil.watched_schemas())
            AND to_jsonb(c) ->> 'conenforced' = 'false') f;
    RETURN NEXT;

    check_name := 'invalid_indexes';
    SELECT count(*), string_agg(f.name, ', '), string_agg(f.fix, ' ') INTO value, detail, fix
    FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name,
                 CASE WHEN c.relkind = 'I'
                      THEN format('Build its index on each partition that has none, and attach it to %I.%I',
                                  n.nspname, c.relname)
                      WHEN c.relname ~ '_cc(new|old)[0-9]*$'
                          THEN format('DROP INDEX CONCURRENTLY %I.%I;', n.nspname, c.relname)
                      ELSE format('REINDEX INDEX CONCURRENTLY %I.%I;', n.nspname, c.relname) END AS fix
          FROM pg_index i JOIN pg_class c ON c.oid = i.indexrelid JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE n.oid = ANY (pgvigil.watched_schemas()) AND NOT (i.indisvalid AND i.indisready AND i.indislive)
            AND NOT EXISTS (SELECT FROM pg_stat_progress_create_index p
                            WHERE p.relid = i.indrelid
                              AND p.datid = (SELECT d.oid FROM pg_database d WHERE d.datname = current_database()))
          ORDER BY 1) f;
    RETURN NEXT;

    -- Above all, grants that a restore without our roles has lost: an archive of a database without these roles has no
    -- REVOKE.
    check_name := 'executable_by_everybody';
    SELECT count(*), string_agg(f.name, ', '),
           string_agg(format('REVOKE EXECUTE ON ROUTINE %s FROM PUBLIC;', f.name), ' ')
    INTO value, detail, fix
    FROM (SELECT p.oid::regprocedure::text AS name FROM pg_proc p JOIN pg_namespace n ON n.oid = p.pronamespace
          WHERE n.nspname = ANY ('{pgvigil,instrumentation}'::name[])
            AND (p.prosecdef OR p.prorettype = 'trigger'::regtype)
            AND p.proname <> ALL ('{current_session,current_instance,set_session_tag,judge_kill}'::name[])
            AND EXISTS (SELECT FROM aclexplode(coalesce(p.proacl, acldefault('f', p.proowner))) a WHERE a.grantee = 0)
          ORDER BY 1) f;
    RETURN NEXT;

    check_name := 'definers_of_superusers';
    SELECT count(*), string_agg(DISTINCT format('%s: %s', f.owner, f.name), ', '),
           string_agg(format('ALTER ROUTINE %s OWNER TO pgvigil_owner;', f.name), ' ')
    INTO value, detail, fix
    FROM (SELECT p.oid::regprocedure::text AS name, r.rolname AS owner
          FROM pg_proc p
          JOIN pg_namespace n ON n.oid = p.pronamespace
          JOIN pg_roles r ON r.oid = p.proowner
          WHERE n.nspname = ANY ('{pgvigil,instrumentation}'::name[]) AND p.prosecdef AND r.rolsuper ORDER BY 1) f;
    RETURN NEXT;

    -- Collations whose sort order may have changed with a library: an index in the old order no longer finds rows, and
    -- accepts duplicates.
    check_name := 'collation_mismatches';
    SELECT count(*), string_agg(f.shown, ', '), string_agg(f.fix, ' ') INTO value, detail, fix
    FROM (SELECT format('collation %I.%I: %s, now %s', n.nspname, c.collname, c.collversion,
                        pg_collation_actual_version(c.oid)) AS shown,
                 format('REINDEX DATABASE %I; ALTER COLLATION %I.%I REFRESH VERSION;', current_database(), n.nspname,
                        c.collname) AS fix
          FROM pg_collation c JOIN pg_namespace n ON n.oid = c.collnamespace
          WHERE c.collversion <> pg_collation_actual_version(c.oid)
            AND EXISTS (SELECT FROM pg_attribute a JOIN pg_class t ON t.oid = a.attrelid
                        WHERE a.attcollation = c.oid AND t.relnamespace = ANY (pgvigil.watched_schemas()))
          ORDER BY 1) f;
    IF current_setting('server_version_num')::integer >= 150000 THEN
        EXECUTE 'SELECT $1 + count(*),
                     concat_ws('', '', $2,
                               string_agg(format(''the database: %s, now %s'', d.datcollversion, v.now), '', '')),
                     concat_ws('' '', $3,
                               string_agg(format(''REINDEX DATABASE %1$I; ''
                                                 ''ALTER DATABASE %1$I REFRESH COLLATION VERSION;'', d.datname), '' ''))
                 FROM pg_database d CROSS JOIN LATERAL (SELECT pg_database_collation_actual_version(d.oid) AS now) v
                 WHERE d.datname = current_database() AND d.datcollversion <> v.now'
        INTO value, detail, fix USING value, detail, fix;
    END IF;
    RETURN NEXT;

    -- Some partitions by name may be meant; all of them are the table, and each day and month brings one more.
    check_name := 'publications_by_partition';
    SELECT count(*), string_agg(f.shown, ', '), string_agg(f.fix, ' ') INTO value, detail, fix
    FROM (SELECT format('%I: %s', p.pubname,
                        string_agg(format('%I.%I', n.nspname, c.relname), ', ' ORDER BY n.nspname, c.relname)) AS shown,
                 format('ALTER PUBLICATION %I SET (publish_via_partition_root = true);', p.pubname) AS fix
          FROM pg_publication p CROSS JOIN pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE NOT p.pubviaroot AND c.relkind = 'p' AND n.oid = ANY (pgvigil.watched_schemas())
            AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhparent = c.oid)
            AND NOT EXISTS (SELECT FROM pg_inherits i JOIN pg_class o ON o.oid = i.inhrelid
                            WHERE i.inhparent = c.oid AND o.relkind = 'r'
                              AND i.inhrelid NOT IN (SELECT g.relid FROM pg_get_publication_tables(p.pubname) g))
          GROUP BY p.oid, p.pubname ORDER BY 1) f;
    RETURN NEXT;

    check_name := 'disabled_triggers';
    SELECT count(*), string_agg(f.shown, ', '), string_agg(f.fix, ' ') INTO value, detail, fix
    FROM (SELECT format('%s on %I.%I%s', g.tgname, n.nspname, t.relname,
                        CASE g.tgenabled WHEN 'R' THEN ' (fires on replicas only)' END) AS shown,
                 format('ALTER TABLE %I.%I ENABLE TRIGGER %I;', n.nspname, t.relname, g.tgname) AS fix
          FROM pg_trigger g
          JOIN pg_class t ON t.oid = g.tgrelid
          JOIN pg_namespace n ON n.oid = t.relnamespace
          JOIN pg_proc p ON p.oid = g.tgfoid
          WHERE n.oid = ANY (pgvigil.watched_schemas()) AND NOT g.tgisinternal AND g.tgenabled IN ('D', 'R')
            AND p.pronamespace IN (SELECT o.oid FROM pg_namespace o WHERE o.nspname IN ('pgvigil', 'instrumentation'))
          ORDER BY 1) f;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.check_objects(boolean) IS
    'Foreign keys that are not enforced, invalid indexes, open functions, collations, '
    'publications, and triggers of pgvigil that are disabled; deep changes nothing';

-- Applications recreate objects of these names in their own way; health --repair makes ours again, from the files. A
-- trigger of ours calls a function of ours, and both views read something in schema pgvigil.
CREATE FUNCTION pgvigil.replaced_objects() RETURNS TABLE (kind text, name text, of_table text, found text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
BEGIN
    RETURN QUERY
    SELECT 'trigger', t.name, t.of_table,
           CASE WHEN g.oid IS NULL THEN 'nothing' ELSE 'calls ' || g.tgfoid::regprocedure::text END
    FROM (SELECT 'sessions', name
          FROM unnest('{update_sessions_last_activity,update_sessions_updated_at,log_session_lifecycle,'
                      'log_session_lifecycle_created,00_archive_deleted_session,watch_session,'
                      'set_default_expiry,guard_legal_hold,guard_policy_hold,'
                      'archive_truncated_sessions}'::text[]) name
          UNION ALL
          SELECT 'context_history', name
          FROM unnest('{count_added_context,count_changed_context,count_removed_context,'
                      'clear_session_counters}'::text[]) name
          UNION ALL
          SELECT child, name FROM unnest('{context_history,codebase_snapshots,handoff_requests}'::text[]) child,
                                  unnest('{guard_archived_session,guard_archived_children}'::text[]) name)
         t (of_table, name)
    LEFT JOIN pg_trigger g ON g.tgrelid = pgvigil.application_table(t.of_table) AND g.tgname = t.name
    LEFT JOIN pg_proc p ON p.oid = g.tgfoid
    WHERE EXISTS (SELECT FROM pgvigil.migrations m WHERE m.revision = '011')  -- which makes them
      AND p.pronamespace IS DISTINCT FROM (SELECT n.oid FROM pg_namespace n WHERE n.nspname = 'pgvigil')
    UNION ALL
    SELECT 'view', c.relname::text, NULL, 'reads nothing of pgvigil'
    FROM pg_class c
    WHERE c.oid IN (pgvigil.application_table('session_monitoring_view'),
                    pgvigil.application_table('performance_monitoring_view'))
      AND NOT EXISTS (
          SELECT FROM pg_rewrite r JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass AND d.objid = r.oid
          LEFT JOIN pg_class t ON d.refclassid = 'pg_class'::regclass AND t.oid = d.refobjid
          LEFT JOIN pg_proc f ON d.refclassid = 'pg_proc'::regclass AND f.oid = d.refobjid
          WHERE r.ev_class = c.oid
            AND coalesce(t.relnamespace, f.pronamespace)
                = (SELECT n.oid FROM pg_namespace n WHERE n.nspname = 'pgvigil'))
    ORDER BY 1, 3, 2;
END $$;
COMMENT ON FUNCTION pgvigil.replaced_objects() IS
    'Triggers of ours on tables of the application, and the monitoring views, that are missing or somebody else''s';

CREATE FUNCTION pgvigil.check_replaced(deep boolean)
RETURNS TABLE (check_name text, value numeric, detail text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    check_name := 'replaced_objects';
    SELECT count(*), string_agg(format('%s %s%s %s', r.kind, r.name, ' on ' || r.of_table, r.found), ', ')
    INTO value, detail
    FROM pgvigil.replaced_objects() r;
    fix :=
        'pgvigil health --repair makes them again; that the application '
        'leaves them alone: pgvigil help from-the-enhanced-original';
    RETURN NEXT;

    -- Ours carry session_user. Two that both do are two changes, and so are two that say different statuses.
    check_name := 'duplicate_events';
    SELECT count(*), string_agg(DISTINCT e.event_type::text, ', ') INTO value, detail
    FROM (SELECT l.event_type, l.created_at, l.event_data, lag(l.created_at) OVER one AS before,
                 lag(l.event_data) OVER one AS data_before
          FROM (SELECT *
                FROM "{app}".session_lifecycle n
                WHERE n.created_at > now() - interval '1 day'
                LIMIT CASE WHEN NOT deep THEN 10000 END) l
          WINDOW one AS (PARTITION BY l.session_id, l.event_type ORDER BY l.created_at, l.id)) e
    WHERE e.created_at <= e.before + interval '1 second'
      AND NOT (e.event_data ? 'session_user' AND e.data_before ? 'session_user')
      AND (e.event_data ->> 'new_status' = e.data_before ->> 'new_status') IS NOT FALSE;
    detail :=
        nullif(concat_ws('; ', detail, CASE WHEN NOT deep AND value > 0 THEN 'looked at 10,000 events at most' END),
                     '');
    fix := 'Let one of the two write them: pgvigil help from-the-enhanced-original';
    RETURN NEXT;

    check_name := 'views_past_row_security';
    SELECT count(*), string_agg(c.oid::regclass::text, ', '),
           string_agg(format('ALTER VIEW %s SET (security_invoker = true);', c.oid::regclass), ' ')
    INTO value, detail, fix
    FROM pg_class c
    WHERE c.oid IN (pgvigil.application_table('session_monitoring_view'),
                    pgvigil.application_table('session_content_view'),
                    pgvigil.application_table('performance_monitoring_view'))
      -- before, no view reads otherwise
      AND c.relkind = 'v' AND current_setting('server_version_num')::integer >= 150000
      AND NOT EXISTS (SELECT FROM pg_options_to_table(c.reloptions) o
                      WHERE o.option_name = 'security_invoker' AND o.option_value::boolean)
      AND EXISTS (SELECT FROM pg_rewrite r
                  JOIN pg_depend d ON d.classid = 'pg_rewrite'::regclass
                      AND d.objid = r.oid
                      AND d.refclassid = 'pg_class'::regclass
                  JOIN pg_class t ON t.oid = d.refobjid WHERE r.ev_class = c.oid AND t.relrowsecurity);
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.check_replaced(boolean) IS
    'Objects with which applications have replaced our triggers and views, and '
    'events that are stored twice since; deep looks at all events of the last day';

-- SECURITY DEFINER: a reader has rights on the partitioned table, not on its partitions. It learns a number. Which
-- tables are looked at comes from constants and the catalog, so that nobody chooses what runs with the owner's rights.
CREATE FUNCTION pgvigil.waiting_rows() RETURNS TABLE (partition text, waiting bigint)
LANGUAGE plpgsql
STABLE
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    parent text;
    waits  regclass;
BEGIN
    FOREACH parent IN ARRAY '{instrumentation.sql_statements,performance_logs,session_lifecycle,'
                            'system_metrics}'::text[] LOOP
        waits := pgvigil.default_partition(pgvigil.partitioned_table(parent));
        CONTINUE WHEN waits IS NULL;
        EXECUTE format('SELECT count(*) FROM (SELECT 1 FROM %s LIMIT 100000) w', waits) INTO waiting;
        partition := parent || '_default';
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgvigil.waiting_rows() IS 'How many rows each default partition has, counted up to 100,000';

CREATE FUNCTION pgvigil.check_jobs(deep boolean) RETURNS TABLE (check_name text, value numeric, detail text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    check_name := 'overdue_jobs';
    SELECT count(*) FILTER (WHERE s.overdue),
           concat_ws('; ', string_agg(format('%s (last success: %s)', s.job, s.last_success), ', ' ORDER BY s.job)
                               FILTER (WHERE s.overdue AND s.last_success IS NOT NULL),
                     'never succeeded, so not done yet: '
                         || string_agg(format('%s (%s)', s.job, s.purpose), ', '
                                       ORDER BY s.job) FILTER (WHERE s.overdue AND s.last_success IS NULL),
                     CASE WHEN bool_and(s.last_success IS NULL AND s.state = 'never ran')
                          THEN 'no job has ever run: no scheduler is set up' END),
           CASE WHEN bool_and(s.last_success IS NULL AND s.state = 'never ran') THEN 'pgvigil maintain watch'
                ELSE 'pgvigil maintain run-due' END
    INTO value, detail, fix
    FROM pgvigil.job_status s WHERE s.enabled;
    detail := nullif(detail, '');
    RETURN NEXT;

    check_name := 'failed_jobs';
    SELECT count(*), string_agg(format('%s (%s)', s.job, coalesce(s.last_error, s.state)), ', ' ORDER BY s.job),
           string_agg(CASE WHEN s.needs_client THEN format('pgvigil maintain run %s', s.job)
                           ELSE format('CALL pgvigil.run_job(%L);', s.job) END,
                      ' ' ORDER BY s.job)
    INTO value, detail, fix
    FROM pgvigil.job_status s WHERE s.enabled AND s.state IN ('failed', 'died');
    RETURN NEXT;

    check_name := 'jobs_without_consent';
    SELECT count(*), string_agg(s.job, ', ' ORDER BY s.job),
           'See what they would do: pgvigil maintain preview; then, '
           'as the owner of the tables: pgvigil maintain accept all'
    INTO value, detail, fix
    FROM pgvigil.job_status s WHERE s.waits_for_consent;
    RETURN NEXT;

    check_name := 'waiting_rows';
    SELECT coalesce(sum(w.waiting), 0), string_agg(format('%s in %s', w.waiting, w.partition), ', ') INTO value, detail
    FROM pgvigil.waiting_rows() w WHERE w.waiting > 0;
    fix := 'CALL pgvigil.run_job(''partitions'');';
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.check_jobs(boolean) IS
    'Jobs that are overdue or failed, and rows that wait for their '
    'partition, 100,000 a table at most; deep changes nothing';

CREATE FUNCTION pgvigil.check_load(deep boolean) RETURNS TABLE (check_name text, value numeric, detail text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    room numeric := current_setting('max_connections')::numeric
        - current_setting('superuser_reserved_connections')::numeric
                    - coalesce(current_setting('reserved_connections', true)::numeric, 0);  -- a setting since 16
BEGIN
    check_name := 'dead_rows_percent';
    -- Statistics are lost in a crash, in a restore, in a copy: how many rows live, the catalog still knows then.
    SELECT round(100.0 * t.n_dead_tup / (l.live + t.n_dead_tup), 1),
           format('%I.%I: %s dead, %s live rows', t.schemaname, t.relname, t.n_dead_tup, l.live),
           format('VACUUM (ANALYZE) %I.%I;', t.schemaname, t.relname) INTO value, detail, fix
    FROM pg_stat_all_tables t JOIN pg_class c ON c.oid = t.relid
    CROSS JOIN LATERAL (SELECT greatest(t.n_live_tup, c.reltuples::bigint, 0) AS live) l
    WHERE c.relnamespace = ANY (pgvigil.watched_schemas()) AND t.n_dead_tup >= 10000
    ORDER BY 1 DESC LIMIT 1;
    value := coalesce(value, 0);
    RETURN NEXT;

    check_name := 'transaction_id_age';
    SELECT greatest(age(d.datfrozenxid), mxid_age(d.datminmxid))
    INTO value
    FROM pg_database d
    WHERE d.datname = current_database();
    detail := NULL;
    fix := 'VACUUM (FREEZE); and end what holds it back: old transactions, prepared ones, replication slots.';
    RETURN NEXT;

    -- By user and database: whether others are clients shows only to pg_read_all_stats.
    check_name := 'connection_pool_exhaustion';
    SELECT round(greatest(count(*) / greatest(room, 1),
                          count(*) FILTER (WHERE a.datname = current_database())
                              / nullif((SELECT greatest(d.datconnlimit, 0) FROM pg_database d
                                        WHERE d.datname = current_database()), 0)::numeric), 3),
           format('%s of %s connections', count(*), room)
    INTO value, detail
    FROM pg_stat_activity a
    WHERE a.datid IS NOT NULL AND a.usesysid IS NOT NULL AND a.backend_type IS DISTINCT FROM 'parallel worker';
    fix :=
        'See who holds them: SELECT usename, application_name, state, count(*) FROM '
        'pg_stat_activity GROUP BY 1, 2, 3; then pool, or raise max_connections.';
    RETURN NEXT;

    check_name := 'database_size_mb';
    value := round(pg_database_size(current_database()) / 1048576.0, 1);
    detail := NULL;
    fix := 'See where it is: pgvigil sizes. Shorten pgvigil.retention_policies, or raise this threshold.';
    RETURN NEXT;

    check_name := 'avg_query_time_ms';
    SELECT round(sum(r.total_ms) / nullif(sum(r.calls), 0), 1), 'of ' || coalesce(sum(r.calls), 0) || ' calls'
    INTO value, detail
    FROM pgvigil.performance_rollups r WHERE r.bucket_width = 'minute' AND r.time_bucket >= now() - interval '1 hour';
    value := coalesce(value, 0);
    fix := 'See which: SELECT * FROM performance_monitoring_view ORDER BY total_calls * avg_duration_ms DESC;';
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.check_load(boolean) IS
    'Dead rows, age of transaction ids, connections, size, and how long operations take; deep changes nothing';

-- A check that fails hides none of the others; a damaged page or a missing right is itself a finding.
CREATE FUNCTION pgvigil.integrity_report(deep boolean DEFAULT false)
RETURNS TABLE (check_name text, value numeric, warning numeric, critical numeric, level text, meaning text, detail text,
               fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
SET jit = off
AS $$
#variable_conflict use_column
DECLARE
    checks text;
    one    jsonb;
    found  jsonb := '[]';
    failed jsonb := '{}';
BEGIN
    FOREACH checks IN ARRAY '{check_objects,check_replaced,check_jobs,check_load,check_orphans,'
                            'check_counters,check_storage}'::text[] LOOP
        BEGIN
            EXECUTE format('SELECT jsonb_agg(to_jsonb(c)) FROM pgvigil.%I($1) c', checks) INTO STRICT one USING deep;
            found := found || one;
        EXCEPTION WHEN OTHERS THEN
            failed := failed || jsonb_build_object(checks, SQLERRM);
        END;
    END LOOP;
    RETURN QUERY
    SELECT t.check_name, f.value, t.warning, t.critical, l.level, t.meaning,
           CASE WHEN f.check_name IS NULL THEN concat_ws(': ', 'could not be looked at', failed ->> w.function)
                ELSE nullif(f.detail, '') END,
           CASE WHEN l.level <> 'ok' THEN f.fix END
    FROM pgvigil.alert_thresholds t
    LEFT JOIN jsonb_to_recordset(found) f (check_name text, value numeric, detail text, fix text) USING (check_name)
    LEFT JOIN (VALUES ('check_objects',
                       '{foreign_keys_enabled,invalid_indexes,executable_by_everybody,'
                       'definers_of_superusers,collation_mismatches,publications_by_partition,'
                       'disabled_triggers}'::text[]),
                      ('check_replaced', '{replaced_objects,duplicate_events,views_past_row_security}'),
                      ('check_jobs', '{overdue_jobs,failed_jobs,jobs_without_consent,waiting_rows}'),
                      ('check_load',
                       '{dead_rows_percent,transaction_id_age,connection_pool_exhaustion,database_size_mb,'
                       'avg_query_time_ms}'),
                      ('check_orphans', '{orphaned_messages}'),
                      ('check_counters', '{count_mismatches,token_mismatches,size_mismatches}'),
                      ('check_storage', '{database_integrity}')) w (function, names) ON t.check_name = ANY (w.names)
    CROSS JOIN LATERAL (SELECT CASE WHEN f.value >= t.critical THEN 'critical'
                                    WHEN f.check_name IS NULL OR f.value >= t.warning THEN 'warning'
                                    ELSE 'ok' END) l (level)
    ORDER BY array_position('{critical,warning,ok}'::text[], l.level), t.check_name;
END $$;
COMMENT ON FUNCTION pgvigil.integrity_report(boolean) IS
    'Every check of alert_thresholds: its value, level and repair. Deep: '
    'all counters recounted, all orphans, amcheck; reads every table';

-- advice: PostgreSQL's default, safe, but not what a server in production wants.
CREATE FUNCTION pgvigil.settings_report()
RETURNS TABLE (setting text, value text, recommended text, level text, reason text, fix text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    here    text := quote_ident(current_database());
    size    bigint := pg_database_size(current_database());
    buffers bigint := (SELECT s.setting::bigint * 8192 FROM pg_settings s WHERE s.name = 'shared_buffers');
    work    bigint := (SELECT s.reset_val::bigint * 1024 FROM pg_settings s WHERE s.name = 'work_mem');
    clients bigint := current_setting('max_connections')::bigint;
BEGIN
    -- reset_val: the value at the start of a session, whatever this session has set since.
    RETURN QUERY
    SELECT s.name, v.shown, CASE WHEN r.wrong THEN r.wanted END, CASE WHEN r.wrong THEN r.severity ELSE 'ok' END,
           CASE WHEN r.wrong THEN r.why END,
           CASE WHEN NOT r.wrong THEN NULL
                WHEN s.context = 'internal' THEN 'Stop the server, run pg_checksums --enable, start it.'
                WHEN r.of_database THEN format('ALTER DATABASE %s SET %s = %L;', here, s.name, r.wanted)
                ELSE format('ALTER SYSTEM SET %s = %L; ', s.name, r.wanted)
                     || CASE s.context
                             WHEN 'postmaster' THEN 'then restart the server'
                             ELSE 'SELECT pg_reload_conf();' END END
    FROM (VALUES
        (1, 'fsync'), (2, 'full_page_writes'), (3, 'wal_level'), (4, 'synchronous_commit'), (5, 'data_checksums'),
        (6, 'autovacuum'),
        (7, 'shared_buffers'), (8, 'work_mem'), (9, 'lock_timeout'), (10, 'statement_timeout'),
        (11, 'idle_in_transaction_session_timeout'),
        (12, 'session_replication_role')) n (place, name)
    JOIN pg_settings s USING (name)
    CROSS JOIN LATERAL (SELECT CASE s.unit
                                    WHEN '8kB' THEN pg_size_pretty(s.reset_val::bigint * 8192)
                                    WHEN 'kB' THEN pg_size_pretty(s.reset_val::bigint * 1024)
                                           WHEN 'ms' THEN s.reset_val || ' ms' ELSE s.reset_val END) v (shown)
    CROSS JOIN LATERAL (
        SELECT * FROM (VALUES
            ('fsync', s.reset_val = 'off', 'on', 'critical', false,
             'a power failure or a crash of the machine can destroy the whole database'),
            ('full_page_writes', s.reset_val = 'off', 'on', 'critical', false,
             'a page half written in a crash stays broken, and nothing repairs it'),
            ('wal_level', s.reset_val = 'minimal', 'replica', 'warning', false,
             'neither a replica nor a base backup nor recovery to a point in time is possible'),
            ('synchronous_commit', s.reset_val = 'off', 'on', 'warning', false,
             'a crash loses transactions of its last moments that the application has committed'),
            ('data_checksums', s.reset_val = 'off', 'on', 'advice', false,
             'a page that the storage has damaged is read as if it were well'),
            ('autovacuum', s.reset_val = 'off', 'on', 'warning', false,
             'dead rows stay, tables grow, and transaction ids run out'),
            ('shared_buffers', buffers < 134217728 OR buffers <= 134217728 AND size > 1073741824,
             CASE WHEN size > 1073741824 THEN '1GB' ELSE '128MB' END, 'warning', false,
             format('the database has %s: give it a quarter of the machine''s memory; this is the least',
                    pg_size_pretty(size))),
            ('work_mem', work < 4194304, '4MB', 'warning', false, 'sorts and hashes of a few thousand rows go to disk'),
            ('work_mem', work > 4194304 AND work * clients > 64 * buffers,
             pg_size_pretty(greatest(64 * buffers / clients / 1048576, 4) * 1048576), 'warning', false,
             format('%s connections that sort at once take %s: more than 64 '
                    'times shared_buffers, and the machine runs out of memory',
                    clients, pg_size_pretty(work * clients))),
            ('lock_timeout', s.reset_val = '0', '30s', 'advice', true,
             'a statement that waits for a table lock lets all that come after it wait too, without end'),
            ('statement_timeout', s.reset_val = '0', '10min', 'advice', true,
             'a query that went wrong runs until somebody notices'),
            ('idle_in_transaction_session_timeout', s.reset_val = '0', '10min', 'advice', true,
             'a transaction that its application forgot keeps its locks, and keeps VACUUM from removing anything'),
            ('session_replication_role', s.reset_val = 'replica', 'origin', 'critical', true,
             'neither foreign keys nor triggers act in such a session')
        ) r (name, wrong, wanted, severity, of_database, why) WHERE r.name = s.name ORDER BY r.wrong DESC LIMIT 1) r
    ORDER BY n.place;

    RETURN QUERY
    SELECT split_part(s.setting, '=', 1), format('%s for %s', split_part(s.setting, '=', 2), s.holder),
           CASE s.setting WHEN 'synchronous_commit=off' THEN 'on' ELSE 'origin' END, 'warning',
           CASE s.setting
                WHEN 'synchronous_commit=off' THEN 'what is committed there can be lost in a crash'
                ELSE 'neither foreign keys nor triggers act there' END,
               format('ALTER %s RESET %s;', s.holder, split_part(s.setting, '=', 1))
    FROM pgvigil.stored_settings() s
    WHERE s.setting = ANY ('{session_replication_role=replica,synchronous_commit=off}'::text[])
    ORDER BY 1, 2;

    RETURN QUERY
    SELECT 'unvalidated constraint', format('%I of %I.%I', c.conname, n.nspname, t.relname), 'VALIDATED', 'warning',
           'existing rows were never held against it: they may break it, and the planner cannot trust it',
           format('ALTER TABLE %I.%I VALIDATE CONSTRAINT %I;', n.nspname, t.relname, c.conname)
    FROM pg_constraint c JOIN pg_class t ON t.oid = c.conrelid JOIN pg_namespace n ON n.oid = t.relnamespace
    WHERE NOT c.convalidated
      AND n.oid = ANY (pgvigil.watched_schemas())
      AND coalesce(to_jsonb(c) ->> 'conenforced', 'true') = 'true'
    ORDER BY 2;
END $$;
COMMENT ON FUNCTION pgvigil.settings_report() IS
    'Settings of the server, and constraints that were never validated: the value, the '
    'recommended one and the reason. ok, advice (a safe default), warning, critical';

-- The jobs between migrations. Jobs for the night have a time of their own, so that they do not begin when they are
-- installed.

CREATE FUNCTION pgvigil.job_health(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    SELECT count(*), string_agg(format('%s %s %s', r.level, r.check_name, coalesce(r.value::text, r.detail)), ', '),
           false
    INTO done, note, more
    FROM pgvigil.integrity_report() r WHERE r.level <> 'ok';
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.job_health(integer) IS
    'Job health: the findings of integrity_report() are kept in the notes of the run';

-- A table a step: ANALYZE holds its lock to the end of the transaction. Autovacuum never analyzes a partitioned table
-- as a whole.
CREATE FUNCTION pgvigil.job_analyze(batch integer) RETURNS TABLE (done bigint, more boolean, note text)
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    next_ record;
BEGIN
    SELECT t.name, t.owner INTO next_
    FROM (SELECT format('%I.%I', n.nspname, c.relname) AS name, c.relowner AS owner
          FROM pg_class c
          JOIN pg_namespace n ON n.oid = c.relnamespace
          WHERE c.relkind IN ('r', 'p', 'm') AND NOT c.relispartition AND n.oid = ANY (pgvigil.watched_schemas())) t
    WHERE t.name <> ALL (pgvigil.completed_items('analyze')) ORDER BY t.name LIMIT 1;
    done := 0;
    more := FOUND;
    IF more THEN
        BEGIN
            IF pg_has_role(next_.owner, 'USAGE') THEN
                EXECUTE 'ANALYZE ' || next_.name;
                done := 1;
            ELSE  -- to ANALYZE that is a warning, which nobody would read
                note := format('passed over %s, which belongs to %s', next_.name, next_.owner::regrole);
            END IF;
        EXCEPTION
            WHEN lock_not_available
                THEN note := format('passed over %s, which is being vacuumed, indexed or altered', next_.name);
            WHEN undefined_table THEN NULL;  -- dropped meanwhile
        END;
        UPDATE pgvigil.job_runs SET objects = objects || next_.name WHERE job = 'analyze' AND finished_at IS NULL;
    END IF;
    RETURN NEXT;
END $$;
COMMENT ON FUNCTION pgvigil.job_analyze(integer) IS 'One step of job analyze: a table, with its partitions';

INSERT INTO pgvigil.jobs (job, every, at, needs_client, purpose) VALUES
    ('health', '1 hour', '0', false,
     'runs the checks of pgvigil health without options, and keeps the findings in the notes of the run'),
    ('backup', '1 day', '1 hour', true,
     'takes a full backup, verifies it by a restore, then deletes '
     'backups of this database that are older than 30 days'),
    ('analyze', '1 day', '2 hours', false,
     'ANALYZE of each table, also of partitioned tables as a whole, which autovacuum never does'),
    ('reindex', '7 days', '3 hours', true, 'REINDEX CONCURRENTLY of each index of 1 MB and more'),
    ('vacuum', '1 month', '4 hours', true, 'VACUUM of each table');
