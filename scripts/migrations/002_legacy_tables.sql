-- An earlier attempt may have left tables or views under our names in another shape. Each is moved aside whole, in one
-- instant, to pgvigil.legacy_<name>; 015 copies its rows into ours. Values outside the lists are looked up here too,
-- before any file takes a strong lock.
DO $$
DECLARE
    leftover record;
BEGIN
    FOR leftover IN
        SELECT c.relname AS name, c.relkind IN ('v', 'm') AS is_view FROM pg_class c
        WHERE c.relnamespace = (SELECT oid FROM pg_namespace WHERE nspname = pgvigil.application_schema())
          AND c.relname = ANY ('{session_lifecycle,system_metrics,performance_logs,analytics_aggregations,'
                               'session_monitoring_view,session_content_view,performance_monitoring_view}'::name[])
        -- views first: none of ours is made while its tables are on the way
        ORDER BY c.relkind IN ('v', 'm') DESC, c.relname
    LOOP
        EXECUTE format('ALTER TABLE %I.%I SET SCHEMA pgvigil', pgvigil.application_schema(), leftover.name);
        EXECUTE format('ALTER TABLE pgvigil.%I RENAME TO %I', leftover.name, 'legacy_' || leftover.name);
        INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql)
        VALUES ('002', 'relation ' || leftover.name,
                format('ALTER TABLE IF EXISTS pgvigil.%2$I RENAME TO %1$I;
                        ALTER TABLE IF EXISTS pgvigil.%1$I SET SCHEMA %3$I', leftover.name, 'legacy_' || leftover.name,
                            pgvigil.application_schema()));
        -- Rows of a table that had the name of a view of ours have nowhere to go.
        IF NOT leftover.is_view AND leftover.name NOT LIKE '%view' THEN
            INSERT INTO pgvigil.displaced_tables (table_name) VALUES (leftover.name);
        END IF;
    END LOOP;
END $$;

SELECT pgvigil.find_legacy_values(l.table_name, l.column_name, l.allowed) FROM pgvigil.value_lists() l ORDER BY l.place;

-- Ids become time-ordered: the time of the row, and 72 bits of a hash of the old id. The same row always gets the same
-- new id, so copying again after an interruption copies nothing twice.
CREATE FUNCTION pgvigil.copy_legacy_rows(target text, from_block bigint, to_block bigint) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    row_time text := CASE target
                          WHEN 'system_metrics' THEN 'recorded_at'
                          WHEN 'query_executions' THEN 'started_at'
                          ELSE 'created_at' END;
    insert_sql text;
    adopted bigint;
    one tid;
    done bigint := 0;
BEGIN
    -- Columns by name, through JSON, so that other types and missing columns of an old table do no harm; cast without
    -- their length, because a cast to varchar(50) would cut a longer value off where an assignment refuses it. An id
    -- from a sequence is replaced by a new one.
    SELECT format('INSERT INTO %s (%s) SELECT %s
                   FROM (SELECT doc,
                                overlay(encode(sha256(convert_to(coalesce(doc ->> ''id'', old_ctid::text), ''UTF8'')),
                                               ''hex'')
                                             PLACING ''-'' FROM 7 FOR 0) AS hash
                         FROM (SELECT to_jsonb(o) AS doc, o.ctid AS old_ctid FROM pgvigil.%I o
                               WHERE o.ctid >= $1 AND o.ctid < $2 OFFSET 0) d) r
                   ON CONFLICT DO NOTHING',
                  pgvigil.application_table(target), string_agg(quote_ident(attname), ', '),
                  string_agg(CASE WHEN attname = 'id'
                                  THEN format('overlay(overlay(
                                          pgvigil.uuid_v7_floor(coalesce((r.doc ->> %L)::timestamptz, now()))::text
                                          PLACING substr(r.hash, 1, 3) FROM 16 FOR 3)
                                          PLACING substr(r.hash, 4, 16) FROM 21 FOR 16)::uuid', row_time)
                                  WHEN default_value IS NULL THEN format('(r.doc ->> %L)::%s', attname, type)
                                  ELSE format('coalesce((r.doc ->> %L)::%s, %s)', attname, type, default_value) END,
                             ', '),
                  'legacy_' || target)
    INTO insert_sql
    FROM (SELECT a.attname, format_type(a.atttypid, NULL) AS type, pg_get_expr(d.adbin, d.adrelid) AS default_value
          FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
          WHERE a.attrelid = pgvigil.application_table(target) AND a.attnum > 0 AND NOT a.attisdropped
            AND NOT (a.attname = 'id' AND a.attidentity <> '') ORDER BY a.attnum) columns;
    BEGIN
        EXECUTE insert_sql USING format('(%s,0)', from_block)::tid, format('(%s,0)', to_block)::tid;
        GET DIAGNOSTICS done = ROW_COUNT;
    EXCEPTION WHEN integrity_constraint_violation OR data_exception THEN
        -- Some row here breaks a constraint: one by one, so that only that row stays behind.
        FOR one IN EXECUTE format('SELECT ctid FROM pgvigil.%I WHERE ctid >= $1 AND ctid < $2', 'legacy_' || target)
                   USING format('(%s,0)', from_block)::tid, format('(%s,0)', to_block)::tid LOOP
            BEGIN
                EXECUTE replace(insert_sql, 'o.ctid >= $1 AND o.ctid < $2', 'o.ctid = $1') USING one;
                GET DIAGNOSTICS adopted = ROW_COUNT;
                done := done + adopted;
            EXCEPTION WHEN integrity_constraint_violation OR data_exception THEN NULL;
            END;
        END LOOP;
    END;
    RETURN done;
END $$;
COMMENT ON FUNCTION pgvigil.copy_legacy_rows(text, bigint, bigint) IS
    'Used by copy_legacy_tables: copies the rows of some blocks '
    'of a leftover table into ours; returns how many went in';

-- One step of the procedure below: counting, a partition, or some blocks; NULL when nothing is left to do.
-- pgvigil.displaced_tables holds the progress.
CREATE FUNCTION pgvigil.copy_legacy_tables_step(state jsonb, blocks integer DEFAULT 128) RETURNS jsonb
LANGUAGE plpgsql
SECURITY DEFINER
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    leftover   pgvigil.displaced_tables;
    old_table  regclass;
    oldest     timestamptz;
    last_block bigint;
    found_rows bigint;
    slice      timestamptz;
BEGIN
    SELECT * INTO leftover FROM pgvigil.displaced_tables l
    WHERE l.finished_at IS NULL
      AND (SELECT c.relkind FROM pg_class c WHERE c.oid = to_regclass('pgvigil.legacy_' || l.table_name)) = 'r'
    ORDER BY l.table_name LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    old_table := to_regclass('pgvigil.legacy_' || leftover.table_name);
    IF leftover.rows_found IS NULL THEN
        IF state ->> 'table' IS DISTINCT FROM leftover.table_name THEN  -- once a table: it reads all rows
            BEGIN
                EXECUTE format('SELECT min((to_jsonb(o) ->> %L)::timestamptz) FROM %s o',
                               CASE leftover.table_name
                                    WHEN 'system_metrics' THEN 'recorded_at'
                                    WHEN 'query_executions' THEN 'started_at'
                                    ELSE 'created_at' END,
                               old_table)
                    INTO oldest;
            EXCEPTION WHEN data_exception THEN
                oldest := '-infinity';  -- some row holds no time at all; that row will stay behind
            END;
            state := jsonb_build_object('table', leftover.table_name, 'from', oldest);
        END IF;
        oldest := (state ->> 'from')::timestamptz;
        -- Partitions for three years of months or three months of days; older rows go into the default one. One a
        -- transaction: a partition of session_lifecycle locks sessions against writers until the transaction ends.
        FOR slice IN SELECT start AT TIME ZONE 'UTC'
                     FROM pgvigil.partition_policies, generate_series(
                         date_trunc(step,
                                    greatest(oldest, now() - CASE step WHEN 'month' THEN interval '3 years'
                                                                       WHEN 'day' THEN interval '3 months'
                                                                       ELSE interval '3 days' END) AT TIME ZONE 'UTC'),
                         now() AT TIME ZONE 'UTC', ('1 ' || step)::interval) start
                     WHERE parent_table = leftover.table_name AND oldest IS NOT NULL LOOP
            IF pgvigil.ensure_partitions(leftover.table_name, slice, slice) > 0 THEN
                PERFORM pgvigil.finish_owner_code();
                RETURN jsonb_set(state, '{from}', to_jsonb(slice));  -- the next step goes on from there
            END IF;
        END LOOP;
        EXECUTE format('SELECT count(*) FROM %s', old_table) INTO found_rows;
        UPDATE pgvigil.displaced_tables SET rows_found = found_rows WHERE table_name = leftover.table_name;
    ELSE
        last_block := pg_relation_size(old_table) / current_setting('block_size')::bigint;
        IF leftover.next_block <= last_block THEN
            UPDATE pgvigil.displaced_tables
            SET rows_adopted = rows_adopted + pgvigil.copy_legacy_rows(table_name, next_block, next_block + blocks),
                next_block = next_block + blocks
            WHERE table_name = leftover.table_name;
        ELSE
            UPDATE pgvigil.displaced_tables SET finished_at = clock_timestamp() WHERE table_name = leftover.table_name;
        END IF;
    END IF;
    PERFORM pgvigil.finish_owner_code();
    RETURN state;
END $$;
COMMENT ON FUNCTION pgvigil.copy_legacy_tables_step(jsonb, integer) IS
    'One step of copy_legacy_tables; NULL: all is done';

CREATE PROCEDURE pgvigil.copy_legacy_tables(blocks integer DEFAULT 128)
LANGUAGE plpgsql
AS $$
DECLARE
    state jsonb := '{}';
BEGIN
    WHILE state IS NOT NULL LOOP
        state := pgvigil.copy_legacy_tables_step(state, blocks);
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgvigil.copy_legacy_tables(integer) IS
    'Copies the rows of the tables that had the names of ours '
    'into ours, in batches that commit; goes on where it stopped';
