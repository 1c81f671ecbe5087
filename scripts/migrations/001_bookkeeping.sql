-- Helpers and bookkeeping that the later files use. Everything is in schema pgvigil. SQL functions have a RETURN body:
-- it is parsed once, here, so no caller's search_path can bend it, and it is still inlined.

-- Time-ordered ids: UUIDv7 of RFC 9562, 48 bits of milliseconds and 12 bits of their fraction, then 62 random bits.
-- The fraction is time too, so ids made one after the other in a transaction sort in that order.
DO $do$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        CREATE FUNCTION pgvigil.uuid_v7() RETURNS uuid
        LANGUAGE sql
        VOLATILE
        PARALLEL SAFE
        RETURN uuidv7();
    ELSE
        -- 1/4,096 ms fits a double exactly until 2039 and to 1/2,048 ms after; to_hex gives the 15 digits around the
        -- version, then the 16 of the variant and the random rest. gen_random_uuid() as text would cost five times as
        -- much in all.
        CREATE FUNCTION pgvigil.uuid_v7() RETURNS uuid
        LANGUAGE sql
        VOLATILE
        PARALLEL SAFE
        RETURN (overlay(lpad(to_hex((date_part('epoch', clock_timestamp()) * 4096000)::bigint), 15,
                             '0') PLACING '7' FROM 13 FOR 0)
                || to_hex(-9223372036854775808 | (random() * 4611686018427387904)::bigint))::uuid;
    END IF;
END $do$;
COMMENT ON FUNCTION pgvigil.uuid_v7() IS
    'A new time-ordered id (UUIDv7, RFC 9562); the server''s own uuidv7() from PostgreSQL 18 on';

CREATE FUNCTION pgvigil.uuid_v7_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN CASE WHEN moment < timestamptz '1970-01-01 00:00:00+00' THEN '00000000-0000-7000-8000-000000000000'
            WHEN moment >= timestamptz '10000-01-01 00:00:00+00' THEN 'e677d21f-dc00-7000-8000-000000000000'
            ELSE (lpad(to_hex(floor(extract(epoch FROM moment - timestamptz '1970-01-01 00:00:00+00') * 1000)::bigint),
                       12, '0')
                  || '70008000000000000000')::uuid END;
COMMENT ON FUNCTION pgvigil.uuid_v7_floor(timestamptz) IS
    'The smallest time-ordered id of that millisecond (of 1970 for what is earlier, of the year '
    '10000 for what is later): turns a time predicate into an id predicate, which prunes partitions';

CREATE FUNCTION pgvigil.uuid_v7_time(id uuid) RETURNS timestamptz
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
RETURN to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision);
COMMENT ON FUNCTION pgvigil.uuid_v7_time(uuid) IS 'When a time-ordered id was made, to the millisecond';

CREATE FUNCTION pgvigil.actor() RETURNS text
LANGUAGE sql
STABLE
PARALLEL SAFE
RETURN coalesce(nullif(current_setting('pgvigil.actor', true), ''), session_user::text);
COMMENT ON FUNCTION pgvigil.actor() IS
    'The actor: the setting pgvigil.actor where an application sets it, else the login role';

-- Rows that a policy hides are never taken for rows that are not there. For the current role, which in a function with
-- its owner's rights is the owner, and for the owners: a role sees all rows if, for every command, a permissive policy
-- for it is true and no restrictive one is anything else.
CREATE FUNCTION pgvigil.require_all_rows() RETURNS void
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    hidden record;
BEGIN
    SELECT format('%I.%I', n.nspname, c.relname) AS table_name, r.rolname, r.oid = c.relowner AS is_owner
    INTO hidden
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace
    JOIN pg_roles r ON r.rolname = current_user OR r.oid = c.relowner
    CROSS JOIN unnest('{r,a,w,d}'::"char"[]) command
    LEFT JOIN LATERAL (
        SELECT p.polpermissive, coalesce(pg_get_expr(p.polqual, c.oid), 'true') = 'true'
                                AND coalesce(pg_get_expr(p.polwithcheck, c.oid), 'true') = 'true' AS is_true
        FROM pg_policy p
        WHERE p.polrelid = c.oid AND p.polcmd IN ('*', command)
          AND (0 = ANY (p.polroles)
               OR EXISTS (SELECT FROM unnest(p.polroles) o WHERE pg_has_role(r.oid, o, 'USAGE')))) q ON true
    WHERE c.relrowsecurity
      AND c.relkind IN ('r', 'p')
      AND n.nspname IN ('pgvigil', 'instrumentation', pgvigil.application_schema())
      AND NOT r.rolsuper
      AND NOT r.rolbypassrls
      AND (c.relforcerowsecurity OR NOT pg_has_role(r.oid, c.relowner, 'USAGE'))
    GROUP BY n.nspname, c.relname, c.relowner, r.oid, r.rolname, command
    HAVING NOT (coalesce(bool_or(q.is_true) FILTER (WHERE q.polpermissive), false)
                AND coalesce(bool_and(q.is_true) FILTER (WHERE NOT q.polpermissive), true))
    ORDER BY 1, 2
    LIMIT 1;
    IF FOUND THEN
        RAISE EXCEPTION 'a row-level security policy may hide rows of % from role "%": they would be taken for rows '
                        'that are not there', hidden.table_name, hidden.rolname
              USING ERRCODE = 'insufficient_privilege',
                    HINT = CASE WHEN hidden.is_owner
                                THEN format('ALTER TABLE %s NO FORCE ROW LEVEL SECURITY; or: ', hidden.table_name)
                                ELSE '' END
                           || format('CREATE POLICY pgvigil_%s ON %s TO %I USING (true);',
                                     CASE WHEN hidden.is_owner THEN 'owner' ELSE 'jobs' END, hidden.table_name,
                                     hidden.rolname);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.require_all_rows() IS
    'Raises an error if row security may hide rows of the application '
    'or of pgvigil from the current role or their owner';

-- The end of each function with its owner's rights that somebody with more rights may call. Three things of the owner's
-- would outlive the call: deferred triggers and held cursors run at the COMMIT, with the rights of whoever commits; and
-- a plain SET outlives the SET clause of the function that it runs in. The path may be anything here, so every name is
-- qualified.
CREATE FUNCTION pgvigil.finish_owner_code() RETURNS void
LANGUAGE plpgsql
VOLATILE
AS $$
DECLARE
    held   pg_catalog.text;
    seen   pg_catalog.text;
    before pg_catalog.text;
    rounds pg_catalog.int4 := 0;
BEGIN
    -- A trigger that fires here may defer others again: those would run at the COMMIT with the rights of who commits.
    -- From PostgreSQL 18 on, they have those that they were queued with, but one that defers itself for ever keeps the
    -- COMMIT from its end. A trigger that fires reads its row: once no page of a user's table was read, none did.
    LOOP
        SET CONSTRAINTS ALL IMMEDIATE;
        EXIT WHEN session_user OPERATOR(pg_catalog.=) current_user
               OR NOT EXISTS (SELECT FROM pg_catalog.pg_trigger t WHERE t.tgdeferrable AND NOT t.tgisinternal);
        seen := pg_catalog.concat((
            SELECT pg_catalog.string_agg(
                       pg_catalog.concat(c.oid, ' ', pg_catalog.pg_stat_get_xact_blocks_fetched(c.oid)), ','
                       ORDER BY c.oid)
            FROM pg_catalog.pg_class c
            WHERE c.relkind OPERATOR(pg_catalog.=) 'r' AND c.oid OPERATOR(pg_catalog.>=) 16384::pg_catalog.oid
              AND pg_catalog.pg_stat_get_xact_blocks_fetched(c.oid) OPERATOR(pg_catalog.>) 0));
        EXIT WHEN seen OPERATOR(pg_catalog.=) before;
        IF rounds OPERATOR(pg_catalog.=) 100
            OR pg_catalog.current_setting('track_counts') OPERATOR(pg_catalog.=) 'off' THEN
            RAISE EXCEPTION 'deferred triggers may be left for the COMMIT of %, with its rights or without an end',
                session_user
                  USING HINT = 'Connect as the owner of the tables.';
        END IF;
        before := seen;
        rounds := rounds OPERATOR(pg_catalog.+) 1;
    END LOOP;
    FOR held IN
        SELECT c.name
        FROM pg_catalog.pg_cursors c
        WHERE c.is_holdable AND c.creation_time OPERATOR(pg_catalog.>=) pg_catalog.statement_timestamp() LOOP
        EXECUTE pg_catalog.format('CLOSE %I', held);
    END LOOP;
    IF pg_catalog.current_setting('search_path') OPERATOR(pg_catalog.<>) 'pg_catalog, pg_temp' THEN
        PERFORM pg_catalog.set_config('search_path', 'pg_catalog, pg_temp', false);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.finish_owner_code() IS
    'Runs deferred triggers, closes held cursors and restores the path, so that '
    'the caller''s COMMIT and next statements meet nothing of the owner''s';

-- Objects that a migration found in its place, and the SQL that restores them when the migration is reverted.
CREATE TABLE pgvigil.displaced_objects (
    id          bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT displaced_objects_pkey PRIMARY KEY,
    revision    text NOT NULL,
    object      text NOT NULL,
    restore_sql text NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pgvigil.displaced_objects IS
    'Objects that a migration found in its way, as they were, so that a revert restores them';
COMMENT ON COLUMN pgvigil.displaced_objects.id IS 'Order in which they were found; a revert restores them in reverse';
COMMENT ON COLUMN pgvigil.displaced_objects.revision IS 'The migration that found it';
COMMENT ON COLUMN pgvigil.displaced_objects.object IS 'Kind and name';
COMMENT ON COLUMN pgvigil.displaced_objects.restore_sql IS 'Run by the revert of that migration';

CREATE FUNCTION pgvigil.restore_displaced(of_revision text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found pgvigil.displaced_objects;
BEGIN
    FOR found IN SELECT * FROM pgvigil.displaced_objects WHERE revision = of_revision ORDER BY id DESC LOOP
        EXECUTE found.restore_sql;
    END LOOP;
    DELETE FROM pgvigil.displaced_objects WHERE revision = of_revision;
END $$;
COMMENT ON FUNCTION pgvigil.restore_displaced(text) IS
    'Used by reverts: makes the objects that the migration had found in its place as they were';

CREATE FUNCTION pgvigil.add_column(of_revision text, of_table text, of_column text, definition text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    was record;
BEGIN
    SELECT a.attnotnull, pg_get_expr(d.adbin, d.adrelid) AS default_value,
           col_description(a.attrelid, a.attnum) AS comment
    INTO was
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = pgvigil.application_table(of_table) AND a.attname = of_column AND NOT a.attisdropped;
    IF FOUND THEN
        INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql)
        VALUES (of_revision, format('column %s.%s', of_table, of_column),
                format('ALTER TABLE %1$s ALTER COLUMN %2$I %3$s, ALTER COLUMN %2$I %4$s;
                        COMMENT ON COLUMN %1$s.%2$I IS %5$L', pgvigil.application_table(of_table), of_column,
                            coalesce('SET DEFAULT ' || was.default_value, 'DROP DEFAULT'),
                       CASE WHEN was.attnotnull THEN 'SET NOT NULL' ELSE 'DROP NOT NULL' END, was.comment));
    ELSE
        EXECUTE format('ALTER TABLE %s ADD COLUMN %I %s', pgvigil.application_table(of_table), of_column, definition);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.add_column(text, text, text, text) IS
    'Used by migrations: adds a column, or remembers how the one already there is declared';

CREATE FUNCTION pgvigil.drop_added_column(of_revision text, of_table text, of_column text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgvigil.displaced_objects
                   WHERE revision = of_revision AND object = format('column %s.%s', of_table, of_column)) THEN
        EXECUTE format('ALTER TABLE %s DROP COLUMN %I', pgvigil.application_table(of_table), of_column);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.drop_added_column(text, text, text) IS
    'Used by reverts: drops a column that add_column added; one that it found stays';

CREATE FUNCTION pgvigil.displace_trigger(of_revision text, of_table text, of_trigger text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    target regclass := pgvigil.application_table(of_table);
    was record;
BEGIN
    SELECT pg_get_triggerdef(oid) AS definition, tgenabled, obj_description(oid, 'pg_trigger') AS comment INTO was
    FROM pg_trigger WHERE tgrelid = target AND tgname = of_trigger;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO pgvigil.displaced_objects (revision, object, restore_sql)
    VALUES (of_revision, format('trigger %s on %s', of_trigger, of_table),
            was.definition
            || CASE was.tgenabled
                   WHEN 'D' THEN format('; ALTER TABLE %s DISABLE TRIGGER %I', target, of_trigger)
                   WHEN 'R' THEN format('; ALTER TABLE %s ENABLE REPLICA TRIGGER %I', target, of_trigger)
                   WHEN 'A' THEN format('; ALTER TABLE %s ENABLE ALWAYS TRIGGER %I', target, of_trigger)
                   ELSE '' END
            || CASE WHEN was.comment IS NULL THEN ''
                    ELSE format('; COMMENT ON TRIGGER %I ON %s IS %L', of_trigger, target, was.comment) END);
    EXECUTE format('DROP TRIGGER %I ON %s', of_trigger, target);
END $$;
COMMENT ON FUNCTION pgvigil.displace_trigger(text, text, text) IS
    'Used by migrations: records and drops a trigger that has a name of ours';

-- Lists of values for columns of the application. pgvigil does not decide which values the application stores tomorrow:
-- on an existing install no list is closed until its owner asks for it. A new install has them closed.
CREATE FUNCTION pgvigil.value_lists() RETURNS TABLE (place integer, table_name text, column_name text, allowed text[])
LANGUAGE sql
IMMUTABLE
PARALLEL SAFE
BEGIN ATOMIC
    SELECT l.place, l.table_name, l.column_name, l.allowed
    FROM (VALUES (1, 'sessions', 'status', '{active,pending,completed,expired,cancelled,archived}'::text[]),
                 (2, 'context_history', 'context_type', '{message,file,tool_call,system}'),
                 (3, 'handoff_requests', 'status', '{pending,accepted,rejected,completed}')) l (place, table_name,
                 column_name, allowed);
END;
COMMENT ON FUNCTION pgvigil.value_lists() IS 'The values that columns of the application are meant to hold';

CREATE TABLE pgvigil.tolerated_values (
    table_name  text NOT NULL,
    column_name text NOT NULL,
    value       text NOT NULL,
    rows_found  bigint NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT tolerated_values_pkey PRIMARY KEY (table_name, column_name, value)
);
COMMENT ON TABLE pgvigil.tolerated_values IS
    'Values outside a column''s list that were stored when it was '
    'last read: by the migration, or by validate_value_checks()';
COMMENT ON COLUMN pgvigil.tolerated_values.table_name IS 'Table of the application';
COMMENT ON COLUMN pgvigil.tolerated_values.column_name IS 'Its column with a list of values';
COMMENT ON COLUMN pgvigil.tolerated_values.value IS 'The value outside the list';

CREATE FUNCTION pgvigil.find_legacy_values(of_table text, of_column text, allowed text[]) RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    found_values bigint;
BEGIN
    DELETE FROM pgvigil.tolerated_values WHERE table_name = of_table AND column_name = of_column;
    EXECUTE format('INSERT INTO pgvigil.tolerated_values (table_name, column_name, value, rows_found)
                    SELECT $1, $2, %1$I, count(*)
                    FROM %2$s
                    WHERE %1$I <> ALL ($3)
                    GROUP BY %1$I', of_column, pgvigil.application_table(of_table))
    USING of_table, of_column, allowed;
    GET DIAGNOSTICS found_values = ROW_COUNT;
    RETURN found_values;
END $$;
COMMENT ON FUNCTION pgvigil.find_legacy_values(text, text, text[]) IS
    'Reads a table for values outside a list (no strong lock), '
    'keeps them in tolerated_values, and returns how many there are';

-- One constant array: `IN (...)` over a varchar casts every member in each statement and made an update 1.6 times as
-- dear.
CREATE FUNCTION pgvigil.put_value_check(of_table text, of_column text, allowed text[], validated boolean) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    check_name text := format('%s_%s_check', of_table, of_column);
BEGIN
    EXECUTE format('ALTER TABLE %s ADD CONSTRAINT %I CHECK (%I::text = ANY (%L::text[]))%s',
                   pgvigil.application_table(of_table), check_name, of_column, allowed,
                   CASE WHEN NOT validated THEN ' NOT VALID' END);
    EXECUTE format('COMMENT ON CONSTRAINT %I ON %s IS %L', check_name, pgvigil.application_table(of_table),
                   'The values of ' || of_column);
END $$;
COMMENT ON FUNCTION pgvigil.put_value_check(text, text, text[], boolean) IS
    'Makes <table>_<column>_check for these values';

-- A CHECK of that name which the application has made itself stays as it is. Ours is known by its comment.
CREATE FUNCTION pgvigil.value_check(of_table text, of_column text)
RETURNS TABLE (name name, ours boolean, validated boolean, definition text)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN QUERY
    SELECT c.conname, coalesce(obj_description(c.oid, 'pg_constraint') = 'The values of ' || of_column, false),
           c.convalidated, pg_get_constraintdef(c.oid)
    FROM pg_constraint c
    WHERE c.conrelid = pgvigil.application_table(of_table) AND c.conname = format('%s_%s_check', of_table, of_column);
END $$;
COMMENT ON FUNCTION pgvigil.value_check(text, text) IS
    'The constraint <table>_<column>_check, if there is one, and whether put_value_check made it';

CREATE FUNCTION pgvigil.add_value_check(of_table text, of_column text, allowed text[]) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT m.baselined FROM pgvigil.migrations m WHERE m.revision = '000') THEN
        RETURN;
    ELSIF EXISTS (SELECT FROM pgvigil.tolerated_values t
                  WHERE t.table_name = of_table AND t.column_name = of_column) THEN
        RAISE EXCEPTION '%.% holds values outside its list: %', of_table, of_column,
              (SELECT string_agg(format('%L (%s %s)', t.value, t.rows_found,
                                        CASE t.rows_found WHEN 1 THEN 'row' ELSE 'rows' END),
                                 ', ' ORDER BY t.rows_found DESC, t.value)
               FROM pgvigil.tolerated_values t WHERE t.table_name = of_table AND t.column_name = of_column)
              USING ERRCODE = 'check_violation',
                    HINT = 'They were stored while this install of pgvigil was reverted: change these rows first.';
    END IF;
    PERFORM pgvigil.put_value_check(of_table, of_column, allowed, validated => true);
END $$;
COMMENT ON FUNCTION pgvigil.add_value_check(text, text, text[]) IS
    'Used by migrations: closes the list of values of a column of a new install; leaves one that was there before open';

CREATE FUNCTION pgvigil.drop_value_check(of_table text, of_column text) RETURNS void
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    IF (SELECT v.ours FROM pgvigil.value_check(of_table, of_column) v) THEN
        EXECUTE format('ALTER TABLE %s DROP CONSTRAINT %I', pgvigil.application_table(of_table),
                       format('%s_%s_check', of_table, of_column));
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.drop_value_check(text, text) IS
    'Drops a CHECK that put_value_check made; one of the application''s own stays';

-- A list is closed in two steps, a transaction each: NOT VALID, so that nothing else gets in; then what is stored is
-- read, which blocks no writer. No rights but the caller's, who has to own the table: that alters it.
CREATE FUNCTION pgvigil.validate_value_checks_step(state jsonb) RETURNS jsonb
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    list record;
    made record;
BEGIN
    SELECT *
    INTO list
    FROM pgvigil.value_lists() l
    WHERE l.place > coalesce((state ->> 'done')::integer, 0)
    ORDER BY l.place
    LIMIT 1;
    IF NOT FOUND THEN
        RETURN NULL;
    END IF;
    SELECT * INTO made FROM pgvigil.value_check(list.table_name, list.column_name);
    IF NOT FOUND THEN
        IF pgvigil.find_legacy_values(list.table_name, list.column_name, list.allowed) = 0 THEN
            PERFORM pgvigil.put_value_check(list.table_name, list.column_name, list.allowed, validated => false);
            RETURN state;  -- the next step validates it
        END IF;
    ELSIF NOT made.ours THEN
        RAISE NOTICE '%.% has a constraint % of the application''s own, which stays as it is: %', list.table_name,
            list.column_name, made.name, made.definition;
    ELSIF NOT made.validated THEN
        BEGIN
            EXECUTE format('ALTER TABLE %s VALIDATE CONSTRAINT %I', pgvigil.application_table(list.table_name),
                           made.name);
        -- stored between the reading and the CHECK, under which such a row could not be updated
        EXCEPTION WHEN check_violation THEN
            PERFORM pgvigil.drop_value_check(list.table_name, list.column_name);
            PERFORM pgvigil.find_legacy_values(list.table_name, list.column_name, list.allowed);
        END;
    END IF;
    IF NOT EXISTS (SELECT FROM pgvigil.value_check(list.table_name, list.column_name)) THEN
        RAISE NOTICE 'the list of %.% stays open, it holds %', list.table_name, list.column_name,
              (SELECT string_agg(format('%L (%s %s)', t.value, t.rows_found,
                                        CASE t.rows_found WHEN 1 THEN 'row' ELSE 'rows' END),
                                 ', ' ORDER BY t.rows_found DESC, t.value)
               FROM pgvigil.tolerated_values t
               WHERE t.table_name = list.table_name AND t.column_name = list.column_name)
              USING HINT = 'Change these rows, then call it again; pgvigil.tolerated_values has the counts.';
    END IF;
    RETURN state || jsonb_build_object('done', list.place);
END $$;
COMMENT ON FUNCTION pgvigil.validate_value_checks_step(jsonb) IS
    'One step of validate_value_checks, from one state to the next; NULL: all is done';

CREATE PROCEDURE pgvigil.validate_value_checks()
LANGUAGE plpgsql
AS $$
DECLARE
    state jsonb := '{}';
BEGIN
    WHILE state IS NOT NULL LOOP
        state := pgvigil.validate_value_checks_step(state);
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgvigil.validate_value_checks() IS
    'Closes the lists of values of an install that was there before pgvigil; '
    'a list outside of which values are stored stays open, with a notice';

CREATE TABLE pgvigil.partition_policies (
    parent_table text NOT NULL
        CONSTRAINT partition_policies_pkey PRIMARY KEY
        CONSTRAINT partition_policies_parent_table_check
                 CHECK (parent_table = ANY ('{session_lifecycle,system_metrics,performance_logs,'
                                            'instrumentation.sql_statements}'::text[])),
    step         text NOT NULL CONSTRAINT partition_policies_step_check CHECK (step = ANY ('{hour,day,month}'::text[])),
    make_ahead   integer NOT NULL
        CONSTRAINT partition_policies_make_ahead_check CHECK (make_ahead >= 1 AND make_ahead <= 1000)
);
COMMENT ON TABLE pgvigil.partition_policies IS 'How each partitioned table is cut';
COMMENT ON COLUMN pgvigil.partition_policies.step IS 'Width of a partition: hour, day or month, in UTC';
COMMENT ON COLUMN pgvigil.partition_policies.make_ahead IS 'How many partitions are kept ready beyond the present one';
COMMENT ON CONSTRAINT partition_policies_parent_table_check ON pgvigil.partition_policies IS
    'The tables of ours that are cut: no job works on another';
COMMENT ON CONSTRAINT partition_policies_step_check ON pgvigil.partition_policies IS
    'Widths that ensure_partitions knows';
COMMENT ON CONSTRAINT partition_policies_make_ahead_check ON pgvigil.partition_policies IS
    'There is always a next partition, and no run makes them for ever';
INSERT INTO pgvigil.partition_policies (parent_table, step, make_ahead)
VALUES ('session_lifecycle', 'month', 3), ('system_metrics', 'month', 3), ('performance_logs', 'day', 14);

-- A name that somebody may edit never becomes the name of a table: who is asked for one of these is given that one.
CREATE FUNCTION pgvigil.partitioned_table(parent text) RETURNS regclass
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN CASE parent WHEN 'session_lifecycle' THEN pgvigil.application_table('session_lifecycle')
                       WHEN 'system_metrics' THEN pgvigil.application_table('system_metrics')
                       WHEN 'performance_logs' THEN pgvigil.application_table('performance_logs')
                       WHEN 'instrumentation.sql_statements' THEN to_regclass('instrumentation.sql_statements') END;
END $$;
COMMENT ON FUNCTION pgvigil.partitioned_table(text) IS 'The table that partition_policies calls so';

CREATE FUNCTION pgvigil.default_partition(of_table regclass) RETURNS regclass
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT p.partdefid::regclass FROM pg_partitioned_table p WHERE p.partrelid = of_table AND p.partdefid <> 0);
END $$;
COMMENT ON FUNCTION pgvigil.default_partition(regclass) IS
    'Its default partition, by the catalog and never by a name; NULL if it has none';

CREATE FUNCTION pgvigil.partition_key(of_table regclass) RETURNS name
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT a.attname
            FROM pg_partitioned_table p
            JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
            WHERE p.partrelid = of_table);
END $$;
COMMENT ON FUNCTION pgvigil.partition_key(regclass) IS 'The column of time-ordered ids by which a table is partitioned';

-- A step that copies rows which wait in the default partition into one that is not attached yet. Readers see the rows
-- in their old place all the time. Changes in between are copied under the lock, before the new partition is attached.
CREATE FUNCTION pgvigil.fill_partition(waits regclass, slice regclass, key name, first_id uuid, end_id uuid,
                                       batch integer)
RETURNS bigint
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    from_id uuid;
    copied  bigint;
BEGIN
    EXECUTE format('SELECT %2$I FROM %1$s ORDER BY %2$I DESC LIMIT 1', slice, key) INTO from_id;
    EXECUTE format('INSERT INTO %2$s
                    SELECT *
                    FROM %1$s
                    WHERE %3$I >= $1 AND %3$I < $2 AND ($3 IS NULL OR %3$I > $3)
                    ORDER BY %3$I
                    LIMIT $4', waits, slice, key)
    USING first_id, end_id, from_id, batch;
    GET DIAGNOSTICS copied = ROW_COUNT;
    RETURN copied;
END $$;
COMMENT ON FUNCTION pgvigil.fill_partition(regclass, regclass, name, uuid, uuid, integer) IS
    'Used by ensure_partitions: copies a batch of the rows that wait into their partition to be; returns how many';

-- CREATE and ATTACH, because PARTITION OF would take ACCESS EXCLUSIVE on the parent and stop its writers. Where rows
-- wait in the default partition, that lock is what keeps a writer from having chosen the default one just before:
-- without it, an INSERT that waited would fail. Locks are taken in the order in which writers take them, so nobody
-- waits for us and we for him.
CREATE FUNCTION pgvigil.ensure_partitions(parent text, since timestamptz DEFAULT now(), until timestamptz DEFAULT NULL,
                                          batch integer DEFAULT NULL)
RETURNS integer
LANGUAGE plpgsql
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    policy   pgvigil.partition_policies;
    table_   regclass := pgvigil.partitioned_table(parent);
    waits    regclass := pgvigil.default_partition(table_);
    key      name := pgvigil.partition_key(table_);
    schema_  name;
    stem     name;
    owner_   name;
    width    interval;
    step_    text;       -- of this slice: finer where finer partitions have a part of it
    taken    record;
    -- bounds are UTC wall-clock times: a step of a month must not bend with the session's time zone
    lower_   timestamp;
    upper_   timestamp;
    last_    timestamp;
    name_    text;
    slice    regclass;
    first_id uuid;
    end_id   uuid;
    waiting  boolean;
    made     integer := 0;
    being_filled CONSTANT text :=
        'pgvigil: rows of the default partition are being copied here; job partitions attaches it';
BEGIN
    SELECT * INTO policy FROM pgvigil.partition_policies WHERE parent_table = parent;
    IF NOT FOUND OR table_ IS NULL THEN
        RAISE EXCEPTION 'table % is not one that is cut into partitions here', parent
              USING ERRCODE = 'no_data_found', HINT = 'SELECT * FROM pgvigil.partition_policies;';
    END IF;
    IF (since >= timestamptz '1970-01-01 00:00:00+00'
        AND coalesce(until, since) < timestamptz '10000-01-01 00:00:00+00') IS NOT TRUE THEN
        RAISE EXCEPTION 'there are no partitions from % to %', since, coalesce(until, since)
              USING ERRCODE = 'invalid_parameter_value', HINT = 'Time-ordered ids tell times from 1970 to 9999.';
    END IF;
    SELECT n.nspname, c.relname, pg_get_userbyid(c.relowner) INTO schema_, stem, owner_
    FROM pg_class c JOIN pg_namespace n ON n.oid = c.relnamespace WHERE c.oid = table_;
    width := ('1 ' || policy.step)::interval;
    lower_ := date_trunc(policy.step, since AT TIME ZONE 'UTC');
    last_ := coalesce(until AT TIME ZONE 'UTC',
                      date_trunc(policy.step, now() AT TIME ZONE 'UTC') + policy.make_ahead * width);
    last_ := date_trunc(policy.step, last_) + width;
    WHILE lower_ < last_ LOOP
        -- The step may have been another one before. A slice that is taken in part is cut finer; so every partition is
        -- a whole hour, day or month.
        step_ := CASE WHEN lower_ <> date_trunc('day', lower_) THEN 'hour'
                      WHEN policy.step = 'month' AND lower_ <> date_trunc('month', lower_) THEN 'day'
                      ELSE policy.step END;
        upper_ := lower_ + ('1 ' || step_)::interval;
        SELECT b.from_, b.to_ INTO taken
        FROM pg_inherits i JOIN pg_class c ON c.oid = i.inhrelid
        CROSS JOIN LATERAL (
            SELECT pgvigil.uuid_v7_time(substring(pg_get_expr(c.relpartbound, c.oid)
                                            FROM 'FROM [(]''([0-9a-f-]{36})''[)]')::uuid) AT TIME ZONE 'UTC' AS from_,
                   pgvigil.uuid_v7_time(substring(pg_get_expr(c.relpartbound, c.oid)
                                            FROM 'TO [(]''([0-9a-f-]{36})''[)]')::uuid) AT TIME ZONE 'UTC' AS to_) b
        WHERE i.inhparent = table_ AND b.from_ < upper_ AND b.to_ > lower_ ORDER BY b.from_ LIMIT 1;
        IF FOUND AND taken.from_ <= lower_ THEN
            lower_ := taken.to_;
            CONTINUE;
        ELSIF FOUND THEN
            step_ := CASE WHEN taken.to_ - taken.from_ < interval '1 day' THEN 'hour' ELSE 'day' END;
            upper_ := lower_ + ('1 ' || step_)::interval;
        END IF;
        name_ := format('%I.%I', schema_,
                        stem || '_p'
                            || to_char(lower_,
                                       CASE step_
                                            WHEN 'hour' THEN 'YYYYMMDDHH24'
                                            WHEN 'day' THEN 'YYYYMMDD'
                                            ELSE 'YYYYMM' END));
        slice := to_regclass(name_);
        -- another one may be making it; no advisory lock, after which one does not see that it has
        IF slice IS NULL THEN
            LOCK TABLE pgvigil.partition_policies IN SHARE UPDATE EXCLUSIVE MODE;
            slice := to_regclass(name_);
        END IF;
        IF slice IS NOT NULL
           AND EXISTS (SELECT FROM pg_inherits i WHERE i.inhrelid = slice AND i.inhparent = table_) THEN
            lower_ := upper_;
            CONTINUE;
        END IF;
        IF slice IS NOT NULL AND obj_description(slice, 'pg_class') IS DISTINCT FROM being_filled THEN
            RAISE EXCEPTION 'the name % is taken by something that is no partition of %', name_, table_
                  USING ERRCODE = 'duplicate_table',
                        HINT = format(
                      'Rename it, or attach it: ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L);',
                      table_, name_,
                      pgvigil.uuid_v7_floor(lower_ AT TIME ZONE 'UTC'),
                      pgvigil.uuid_v7_floor(upper_ AT TIME ZONE 'UTC'));
        END IF;
        first_id := pgvigil.uuid_v7_floor(lower_ AT TIME ZONE 'UTC');
        end_id := pgvigil.uuid_v7_floor(upper_ AT TIME ZONE 'UTC');
        EXECUTE format('SELECT EXISTS (SELECT 1 FROM %s WHERE %I >= $1 AND %2$I < $2)', waits, key)
            INTO waiting
            USING first_id, end_id;
        IF slice IS NULL THEN
            -- Indexes before rows, for the copying; without rows they come with the ATTACH.
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE%s)',
                           name_, table_,
                           CASE WHEN waiting THEN ' INCLUDING INDEXES' ELSE '' END);
            slice := to_regclass(name_);
            IF owner_ <> current_user THEN  -- else its owner could not drop it
                EXECUTE format('ALTER TABLE %s OWNER TO %I', slice, owner_);
            END IF;
            EXECUTE format('COMMENT ON TABLE %s IS %L', slice, being_filled);
        END IF;
        IF waiting
           AND batch IS NOT NULL
           AND pgvigil.fill_partition(waits, slice, key, first_id, end_id, batch) = batch THEN
            RETURN -1;  -- there is more to copy: in the next transaction
        END IF;
        -- A foreign key of the new partition asks for this lock on the way.
        IF EXISTS (SELECT FROM pg_constraint c
                   WHERE c.conrelid = table_
                     AND c.contype = 'f'
                     AND c.confrelid = pgvigil.application_table('sessions')) THEN
            EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', pgvigil.application_table('sessions'));
        END IF;
        IF waiting THEN
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', table_);
            EXECUTE format('LOCK TABLE %s IN ACCESS EXCLUSIVE MODE', waits);
            -- First the copied rows that have changed or gone since, then the rows that have come since.
            EXECUTE format('DELETE FROM %2$s s
                            WHERE NOT EXISTS (SELECT 1
                                              FROM %1$s w
                                              WHERE w.%3$I = s.%3$I AND ROW(w.*) IS NOT DISTINCT FROM ROW(s.*))',
                           waits, slice, key);
            EXECUTE format('INSERT INTO %2$s
                            SELECT *
                            FROM %1$s w
                            WHERE w.%3$I >= $1
                              AND w.%3$I < $2
                              AND NOT EXISTS (SELECT 1 FROM %2$s s WHERE s.%3$I = w.%3$I)',
                           waits, slice, key)
            USING first_id, end_id;
            PERFORM set_config('pgvigil.instrumentation', 'write', true);
            EXECUTE format('DELETE FROM %1$s WHERE %2$I >= $1 AND %2$I < $2', waits, key) USING first_id, end_id;
            PERFORM set_config('pgvigil.instrumentation', '', true);
        END IF;
        EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', table_, slice, first_id,
                       end_id);
        EXECUTE format('COMMENT ON TABLE %s IS %L', slice,
                       format('%s from %s to %s, UTC', parent,
                              to_char(lower_, CASE step_ WHEN 'hour' THEN 'YYYY-MM-DD HH24:MI' ELSE 'YYYY-MM-DD' END),
                              to_char(upper_, CASE step_ WHEN 'hour' THEN 'YYYY-MM-DD HH24:MI' ELSE 'YYYY-MM-DD' END)));
        made := made + 1;
        lower_ := upper_;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION pgvigil.ensure_partitions(text, timestamptz, timestamptz, integer) IS
    'Makes the missing partitions of a table from one time to another (to the end of its make_ahead if not given); '
    'returns how many. With a batch, copies at most that many waiting rows and returns -1 while there are more';

CREATE TABLE pgvigil.deleted_sessions (
    session_id       uuid NOT NULL,
    session_key      varchar(255) NOT NULL,
    deleted_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor            text NOT NULL,
    "session_user"   text NOT NULL DEFAULT session_user,
    reason           text,
    retention_policy varchar(50),
    last_row         jsonb NOT NULL,
    events           jsonb NOT NULL,
    CONSTRAINT deleted_sessions_pkey PRIMARY KEY (session_id, deleted_at)
);
COMMENT ON TABLE pgvigil.deleted_sessions IS
    'Deletion is logged and forgets nothing: the last row and the whole trail of each deleted session';
COMMENT ON COLUMN pgvigil.deleted_sessions.actor IS
    'The role or person that deleted it: the setting pgvigil.actor if set, else the login role';
COMMENT ON COLUMN pgvigil.deleted_sessions."session_user" IS 'The login role, whatever the actor is said to be';
COMMENT ON COLUMN pgvigil.deleted_sessions.reason IS 'Why: the setting pgvigil.reason, if set';
COMMENT ON COLUMN pgvigil.deleted_sessions.events IS
    'Its events of session_lifecycle in order, and the deletion itself';
COMMENT ON CONSTRAINT deleted_sessions_pkey ON pgvigil.deleted_sessions IS 'The same id may come and go more than once';

CREATE INDEX idx_deleted_sessions_deleted_at
    ON pgvigil.deleted_sessions USING brin (deleted_at) WITH (pages_per_range = 32);
COMMENT ON INDEX pgvigil.idx_deleted_sessions_deleted_at IS 'Deletions of a day, for the archives';

-- Tables of an earlier attempt that had the names of ours, and how far their rows are copied into ours.
CREATE TABLE pgvigil.displaced_tables (
    table_name   text NOT NULL CONSTRAINT displaced_tables_pkey PRIMARY KEY,
    rows_found   bigint,
    rows_adopted bigint NOT NULL DEFAULT 0,
    next_block   bigint NOT NULL DEFAULT 0,
    finished_at  timestamptz
);
COMMENT ON TABLE pgvigil.displaced_tables IS
    'Tables that had the names of ours: each is kept whole as pgvigil.legacy_<name>, '
    'and its rows are copied into ours by copy_legacy_tables()';
COMMENT ON COLUMN pgvigil.displaced_tables.table_name IS 'The name, ours and theirs';
COMMENT ON COLUMN pgvigil.displaced_tables.rows_found IS 'Rows the old table holds';
COMMENT ON COLUMN pgvigil.displaced_tables.rows_adopted IS
    'Rows of it that are in our table; the rest break its constraints and stay in the old one only';
COMMENT ON COLUMN pgvigil.displaced_tables.next_block IS
    'Where copying goes on after an interruption (a block of the old table)';
COMMENT ON COLUMN pgvigil.displaced_tables.finished_at IS 'When the last row had been looked at';

-- The objects that the DDL makes on this server, as the validator read them from a scratch database: for roles that may
-- not create one.
CREATE TABLE pgvigil.reference_snapshots (
    key          text NOT NULL,
    server_major integer NOT NULL,
    snapshot     text NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    made_by      text NOT NULL DEFAULT session_user,
    CONSTRAINT reference_snapshots_pkey PRIMARY KEY (key, server_major)
);
COMMENT ON TABLE pgvigil.reference_snapshots IS
    'The objects of a database that our DDL has just built: pgvigil validate '
    'compares this database with them where it may not build one itself';
COMMENT ON COLUMN pgvigil.reference_snapshots.key IS 'SHA-256 of the DDL and of what is read of a catalog';
COMMENT ON COLUMN pgvigil.reference_snapshots.server_major IS 'Major version of the server that printed it';
COMMENT ON COLUMN pgvigil.reference_snapshots.snapshot IS 'The objects and their attributes, as JSON';
COMMENT ON COLUMN pgvigil.reference_snapshots.made_by IS 'The login role that read it';
COMMENT ON CONSTRAINT reference_snapshots_pkey ON pgvigil.reference_snapshots IS
    'One snapshot for each DDL and major version';
