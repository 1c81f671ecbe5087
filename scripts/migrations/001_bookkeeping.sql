-- Helpers and bookkeeping that the later files stand on. Everything is in schema pgvigil.
-- SQL functions have a RETURN body: parsed once, here, so no caller's search_path can bend it, and still inlined.

-- Time-ordered ids: UUIDv7 of RFC 9562, 48 bits of milliseconds and 12 bits of their fraction, then 62 random bits.
-- The fraction is time too, so ids made one after the other in a transaction sort in that order.
DO $do$
BEGIN
    IF current_setting('server_version_num')::integer >= 180000 THEN
        CREATE FUNCTION pgvigil.uuid_v7() RETURNS uuid
        LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN uuidv7();
    ELSE
        -- 1/4,096 ms fits a double exactly until 2039 and to 1/2,048 ms after; to_hex gives the 15 digits around the version,
        -- then the 16 of the variant and the random rest. gen_random_uuid() as text would cost five times as much in all.
        CREATE FUNCTION pgvigil.uuid_v7() RETURNS uuid
        LANGUAGE sql VOLATILE PARALLEL SAFE
        RETURN (overlay(lpad(to_hex((date_part('epoch', clock_timestamp()) * 4096000)::bigint), 15, '0') PLACING '7' FROM 13 FOR 0)
                || to_hex(-9223372036854775808 | (random() * 4611686018427387904)::bigint))::uuid;
    END IF;
END $do$;
COMMENT ON FUNCTION pgvigil.uuid_v7() IS 'A new time-ordered id (UUIDv7, RFC 9562); the server''s own uuidv7() from PostgreSQL 18 on';

CREATE FUNCTION pgvigil.uuid_v7_floor(moment timestamptz) RETURNS uuid
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN moment < timestamptz '1970-01-01 00:00:00+00' THEN '00000000-0000-7000-8000-000000000000'
            WHEN moment >= timestamptz '10000-01-01 00:00:00+00' THEN 'e677d21f-dc00-7000-8000-000000000000'
            ELSE (lpad(to_hex(floor(extract(epoch FROM moment - timestamptz '1970-01-01 00:00:00+00') * 1000)::bigint), 12, '0')
                  || '70008000000000000000')::uuid END;
COMMENT ON FUNCTION pgvigil.uuid_v7_floor(timestamptz) IS
    'The smallest time-ordered id of that millisecond (of 1970 for what is earlier, of the year 10000 for what is later): turns a time predicate into an id predicate, which prunes partitions';

CREATE FUNCTION pgvigil.uuid_v7_time(id uuid) RETURNS timestamptz
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN to_timestamp(('x' || translate(left(id::text, 13), '-', ''))::bit(48)::bigint / 1000.0::double precision);
COMMENT ON FUNCTION pgvigil.uuid_v7_time(uuid) IS 'When a time-ordered id was made, to the millisecond';

CREATE FUNCTION pgvigil.actor() RETURNS text
LANGUAGE sql STABLE PARALLEL SAFE
RETURN coalesce(nullif(current_setting('pgvigil.actor', true), ''), session_user::text);
COMMENT ON FUNCTION pgvigil.actor() IS 'Who acts: the setting pgvigil.actor where an application sets it, else the login role';

-- A procedure that commits can have no SET clause: it pins its search_path itself, in each of its transactions.
CREATE FUNCTION pgvigil.pin_search_path() RETURNS void
LANGUAGE sql VOLATILE
BEGIN ATOMIC
    SELECT set_config('search_path', quote_ident(schema_name) || ', pg_temp', true) FROM pgvigil.migrations WHERE revision = '000';
END;
COMMENT ON FUNCTION pgvigil.pin_search_path() IS 'search_path of this transaction := the application''s schema';

-- What a migration found in its place, and the SQL that puts it back when the migration is reverted.
CREATE TABLE pgvigil.found_before (
    id          bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT found_before_pkey PRIMARY KEY,
    revision    text NOT NULL,
    object      text NOT NULL,
    restore_sql text NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT clock_timestamp()
);
COMMENT ON TABLE pgvigil.found_before IS 'Objects a migration found in its way: how each one was, so that a revert puts it back';
COMMENT ON COLUMN pgvigil.found_before.id IS 'Order in which they were found; put back in reverse';
COMMENT ON COLUMN pgvigil.found_before.revision IS 'The migration that found it';
COMMENT ON COLUMN pgvigil.found_before.object IS 'Kind and name';
COMMENT ON COLUMN pgvigil.found_before.restore_sql IS 'Run by the revert of that migration';
COMMENT ON COLUMN pgvigil.found_before.found_at IS 'When it was found';
COMMENT ON CONSTRAINT found_before_pkey ON pgvigil.found_before IS 'One row per object found';

CREATE FUNCTION pgvigil.put_back(of_revision text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    found pgvigil.found_before;
BEGIN
    FOR found IN SELECT * FROM pgvigil.found_before WHERE revision = of_revision ORDER BY id DESC LOOP
        EXECUTE found.restore_sql;
    END LOOP;
    DELETE FROM pgvigil.found_before WHERE revision = of_revision;
END $$;
COMMENT ON FUNCTION pgvigil.put_back(text) IS 'Used by reverts: what the migration had found in its place is made as it was';

CREATE FUNCTION pgvigil.add_column(of_revision text, of_table text, of_column text, definition text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    was record;
BEGIN
    SELECT a.attnotnull, pg_get_expr(d.adbin, d.adrelid) AS default_value, col_description(a.attrelid, a.attnum) AS comment INTO was
    FROM pg_attribute a LEFT JOIN pg_attrdef d ON d.adrelid = a.attrelid AND d.adnum = a.attnum
    WHERE a.attrelid = to_regclass(of_table) AND a.attname = of_column AND NOT a.attisdropped;
    IF FOUND THEN
        INSERT INTO pgvigil.found_before (revision, object, restore_sql)
        VALUES (of_revision, format('column %s.%s', of_table, of_column),
                format('ALTER TABLE %1$I ALTER COLUMN %2$I %3$s, ALTER COLUMN %2$I %4$s; COMMENT ON COLUMN %1$I.%2$I IS %5$L',
                       of_table, of_column, coalesce('SET DEFAULT ' || was.default_value, 'DROP DEFAULT'),
                       CASE WHEN was.attnotnull THEN 'SET NOT NULL' ELSE 'DROP NOT NULL' END, was.comment));
    ELSE
        EXECUTE format('ALTER TABLE %I ADD COLUMN %I %s', of_table, of_column, definition);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.add_column(text, text, text, text) IS
    'Used by migrations: adds a column, or remembers how the one already there is declared';

CREATE FUNCTION pgvigil.drop_added_column(of_revision text, of_table text, of_column text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgvigil.found_before
                   WHERE revision = of_revision AND object = format('column %s.%s', of_table, of_column)) THEN
        EXECUTE format('ALTER TABLE %I DROP COLUMN %I', of_table, of_column);
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.drop_added_column(text, text, text) IS
    'Used by reverts: drops a column that add_column added; one that it found stays';

CREATE FUNCTION pgvigil.clear_trigger(of_revision text, of_table text, of_trigger text) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    was record;
BEGIN
    SELECT pg_get_triggerdef(oid) AS definition, tgenabled, obj_description(oid, 'pg_trigger') AS comment INTO was
    FROM pg_trigger WHERE tgrelid = to_regclass(of_table) AND tgname = of_trigger;
    IF NOT FOUND THEN
        RETURN;
    END IF;
    INSERT INTO pgvigil.found_before (revision, object, restore_sql)
    VALUES (of_revision, format('trigger %s on %s', of_trigger, of_table),
            was.definition
            || CASE was.tgenabled
                   WHEN 'D' THEN format('; ALTER TABLE %I DISABLE TRIGGER %I', of_table, of_trigger)
                   WHEN 'R' THEN format('; ALTER TABLE %I ENABLE REPLICA TRIGGER %I', of_table, of_trigger)
                   WHEN 'A' THEN format('; ALTER TABLE %I ENABLE ALWAYS TRIGGER %I', of_table, of_trigger)
                   ELSE '' END
            || CASE WHEN was.comment IS NULL THEN '' ELSE format('; COMMENT ON TRIGGER %I ON %I IS %L', of_trigger, of_table, was.comment) END);
    EXECUTE format('DROP TRIGGER %I ON %I', of_trigger, of_table);
END $$;
COMMENT ON FUNCTION pgvigil.clear_trigger(text, text, text) IS
    'Used by migrations: a trigger that stands under a name of ours is remembered, then dropped';

-- Values an application had stored outside a column's list before the watch began. They stay allowed: a CHECK that knew
-- only the list would make every later update of such a row fail, even one that leaves the column alone.
CREATE TABLE pgvigil.tolerated_values (
    table_name  text NOT NULL,
    column_name text NOT NULL,
    value       text NOT NULL,
    rows_found  bigint NOT NULL,
    found_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT tolerated_values_pkey PRIMARY KEY (table_name, column_name, value)
);
COMMENT ON TABLE pgvigil.tolerated_values IS
    'Stored values outside a column''s list that were there before its CHECK: allowed until tighten_value_checks() finds them gone';
COMMENT ON COLUMN pgvigil.tolerated_values.table_name IS 'Table of the application';
COMMENT ON COLUMN pgvigil.tolerated_values.column_name IS 'Its column with a list of values';
COMMENT ON COLUMN pgvigil.tolerated_values.value IS 'The value outside the list';
COMMENT ON COLUMN pgvigil.tolerated_values.rows_found IS 'How many rows held it when it was found';
COMMENT ON COLUMN pgvigil.tolerated_values.found_at IS 'When it was found';
COMMENT ON CONSTRAINT tolerated_values_pkey ON pgvigil.tolerated_values IS 'A value is tolerated once per column';

CREATE FUNCTION pgvigil.find_tolerated_values(of_table text, of_column text, allowed text[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    DELETE FROM pgvigil.tolerated_values WHERE table_name = of_table AND column_name = of_column;
    EXECUTE format('INSERT INTO pgvigil.tolerated_values (table_name, column_name, value, rows_found)
                    SELECT $1, $2, %1$I, count(*) FROM %2$I WHERE %1$I <> ALL ($3) GROUP BY %1$I', of_column, of_table)
    USING of_table, of_column, allowed;
END $$;
COMMENT ON FUNCTION pgvigil.find_tolerated_values(text, text, text[]) IS
    'Reads a table for values outside a list (no strong lock) and keeps them in tolerated_values';

-- One constant array: `IN (...)` over a varchar casts every member anew in each statement and made an update 1.6 times as dear.
CREATE FUNCTION pgvigil.put_value_check(of_table text, of_column text, allowed text[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    check_name text := format('%s_%s_check', of_table, of_column);
BEGIN
    EXECUTE format('ALTER TABLE %I DROP CONSTRAINT IF EXISTS %I, ADD CONSTRAINT %2$I CHECK (%I::text = ANY (%L::text[])) NOT VALID',
                   of_table, check_name, of_column, allowed);
    EXECUTE format('COMMENT ON CONSTRAINT %I ON %I IS %L', check_name, of_table,
                   'The values of ' || of_column || ', and those in pgvigil.tolerated_values');
END $$;
COMMENT ON FUNCTION pgvigil.put_value_check(text, text, text[]) IS
    'Makes or replaces <table>_<column>_check, NOT VALID, for these values';

CREATE FUNCTION pgvigil.add_value_check(of_revision text, of_table text, of_column text, allowed text[]) RETURNS void
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
BEGIN
    INSERT INTO pgvigil.found_before (revision, object, restore_sql)
    SELECT of_revision, format('constraint %s on %s', conname, of_table),
           format('ALTER TABLE %I ADD CONSTRAINT %I %s', of_table, conname, pg_get_constraintdef(oid))
    FROM pg_constraint WHERE conrelid = to_regclass(of_table) AND conname = format('%s_%s_check', of_table, of_column);
    PERFORM pgvigil.put_value_check(of_table, of_column, allowed || ARRAY(
        SELECT value FROM pgvigil.tolerated_values WHERE table_name = of_table AND column_name = of_column ORDER BY value));
END $$;
COMMENT ON FUNCTION pgvigil.add_value_check(text, text, text, text[]) IS
    'Used by migrations: a CHECK for a list of values and the tolerated ones; one that is there is remembered and replaced';

CREATE PROCEDURE pgvigil.tighten_value_checks()
LANGUAGE plpgsql AS $$
DECLARE
    tolerated pgvigil.tolerated_values;
    check_name text;
    listed text;
    allowed text[];
    still bigint;
BEGIN
    FOR tolerated IN SELECT * FROM pgvigil.tolerated_values LOOP
        PERFORM pgvigil.pin_search_path();
        EXECUTE format('SELECT count(*) FROM %I WHERE %I = $1', tolerated.table_name, tolerated.column_name) INTO still USING tolerated.value;
        IF still > 0 THEN
            UPDATE pgvigil.tolerated_values SET rows_found = still
            WHERE (table_name, column_name, value) = (tolerated.table_name, tolerated.column_name, tolerated.value);
            COMMIT;
            CONTINUE;
        END IF;
        check_name := format('%s_%s_check', tolerated.table_name, tolerated.column_name);
        SELECT substring(pg_get_constraintdef(oid) FROM 'ANY \((.*::text\[\])\)') INTO STRICT listed
        FROM pg_constraint WHERE conrelid = to_regclass(tolerated.table_name) AND conname = check_name;
        EXECUTE 'SELECT array_remove(' || listed || ', $1)' INTO allowed USING tolerated.value;
        PERFORM pgvigil.put_value_check(tolerated.table_name, tolerated.column_name, allowed);
        DELETE FROM pgvigil.tolerated_values
        WHERE (table_name, column_name, value) = (tolerated.table_name, tolerated.column_name, tolerated.value);
        COMMIT;
        PERFORM pgvigil.pin_search_path();
        EXECUTE format('ALTER TABLE %I VALIDATE CONSTRAINT %I', tolerated.table_name, check_name);
        COMMIT;
    END LOOP;
END $$;
COMMENT ON PROCEDURE pgvigil.tighten_value_checks() IS
    'After a clean-up: values no longer stored are no longer tolerated, and the CHECKs say so';

CREATE TABLE pgvigil.partition_policies (
    parent_table text NOT NULL CONSTRAINT partition_policies_pkey PRIMARY KEY,
    step         text NOT NULL CONSTRAINT partition_policies_step_check CHECK (step = ANY ('{day,month}'::text[])),
    make_ahead   integer NOT NULL CONSTRAINT partition_policies_make_ahead_check CHECK (make_ahead >= 1 AND make_ahead <= 1000)
);
COMMENT ON TABLE pgvigil.partition_policies IS 'How each partitioned table is cut';
COMMENT ON COLUMN pgvigil.partition_policies.parent_table IS 'The partitioned table';
COMMENT ON COLUMN pgvigil.partition_policies.step IS 'Width of a partition: day or month, in UTC';
COMMENT ON COLUMN pgvigil.partition_policies.make_ahead IS 'How many partitions are kept ready beyond the present one';
COMMENT ON CONSTRAINT partition_policies_pkey ON pgvigil.partition_policies IS 'One policy a table';
COMMENT ON CONSTRAINT partition_policies_step_check ON pgvigil.partition_policies IS 'Widths that ensure_partitions knows';
COMMENT ON CONSTRAINT partition_policies_make_ahead_check ON pgvigil.partition_policies IS 'There is always a next partition, and no run makes them for ever';
INSERT INTO pgvigil.partition_policies (parent_table, step, make_ahead)
VALUES ('session_lifecycle', 'month', 3), ('system_metrics', 'month', 3), ('performance_logs', 'day', 14);

-- In the application's schema, but for those of schema instrumentation.
CREATE FUNCTION pgvigil.quoted_name(of_table text) RETURNS text
LANGUAGE sql IMMUTABLE PARALLEL SAFE
RETURN CASE WHEN starts_with(of_table, 'instrumentation.') THEN 'instrumentation.' || quote_ident(substr(of_table, 17)) ELSE quote_ident(of_table) END;
COMMENT ON FUNCTION pgvigil.quoted_name(text) IS 'A table''s name, as partition_policies has it, fit for SQL';

CREATE FUNCTION pgvigil.partition_key(of_table text) RETURNS name
LANGUAGE plpgsql STABLE SET search_path FROM CURRENT AS $$
BEGIN
    RETURN (SELECT a.attname FROM pg_partitioned_table p JOIN pg_attribute a ON a.attrelid = p.partrelid AND a.attnum = p.partattrs[0]
            WHERE p.partrelid = to_regclass(pgvigil.quoted_name(of_table)));
END $$;
COMMENT ON FUNCTION pgvigil.partition_key(text) IS 'The column of time-ordered ids by which a table is partitioned';

-- CREATE and ATTACH, because PARTITION OF would take ACCESS EXCLUSIVE on the parent and stop its writers.
CREATE FUNCTION pgvigil.ensure_partitions(parent text, since timestamptz DEFAULT now(), until timestamptz DEFAULT NULL) RETURNS integer
LANGUAGE plpgsql SET search_path FROM CURRENT AS $$
DECLARE
    policy  pgvigil.partition_policies;
    key     name := pgvigil.partition_key(parent);
    width   interval;
    lower_  timestamp;  -- bounds are UTC wall-clock times: a step of a month must not bend with the session's time zone
    upper_  timestamp;
    last_   timestamp;
    table_  text := pgvigil.quoted_name(parent);
    slice   text;
    waits   text := pgvigil.quoted_name(parent || '_default');
    first_id uuid;
    end_id  uuid;
    waiting boolean;
    owner_  name := (SELECT pg_get_userbyid(relowner) FROM pg_class WHERE oid = to_regclass(table_));
    made    integer := 0;
BEGIN
    SELECT * INTO policy FROM pgvigil.partition_policies WHERE parent_table = parent;
    IF NOT FOUND THEN
        RAISE EXCEPTION 'table % is not one that is cut into partitions here', parent
              USING ERRCODE = 'no_data_found', HINT = 'SELECT * FROM pgvigil.partition_policies;';
    END IF;
    IF (since >= timestamptz '1970-01-01 00:00:00+00' AND coalesce(until, since) < timestamptz '10000-01-01 00:00:00+00') IS NOT TRUE THEN
        RAISE EXCEPTION 'there are no partitions from % to %', since, coalesce(until, since)
              USING ERRCODE = 'invalid_parameter_value', HINT = 'Time-ordered ids tell times from 1970 to 9999.';
    END IF;
    width := ('1 ' || policy.step)::interval;
    lower_ := date_trunc(policy.step, since AT TIME ZONE 'UTC');
    last_ := coalesce(until AT TIME ZONE 'UTC', date_trunc(policy.step, now() AT TIME ZONE 'UTC') + policy.make_ahead * width);
    WHILE lower_ <= last_ LOOP
        upper_ := lower_ + width;
        slice := pgvigil.quoted_name(parent || '_p' || to_char(lower_, CASE policy.step WHEN 'day' THEN 'YYYYMMDD' ELSE 'YYYYMM' END));
        IF to_regclass(slice) IS NULL THEN  -- another one may be making it; no advisory lock, after which one does not see that it has
            LOCK TABLE pgvigil.partition_policies IN SHARE UPDATE EXCLUSIVE MODE;
        END IF;
        IF to_regclass(slice) IS NULL THEN
            first_id := pgvigil.uuid_v7_floor(lower_ AT TIME ZONE 'UTC');
            end_id := pgvigil.uuid_v7_floor(upper_ AT TIME ZONE 'UTC');
            EXECUTE format('CREATE TABLE %s (LIKE %s INCLUDING DEFAULTS INCLUDING CONSTRAINTS INCLUDING STORAGE)', slice, table_);
            IF owner_ <> current_user THEN  -- else its owner could not drop it
                EXECUTE format('ALTER TABLE %s OWNER TO %I', slice, owner_);
            END IF;
            -- Rows that came before their partition wait in the default one: they move in, its other writers held off meanwhile.
            EXECUTE format('SELECT EXISTS (SELECT FROM %s WHERE %I >= $1 AND %2$I < $2)', waits, key) INTO waiting USING first_id, end_id;
            IF waiting THEN
                EXECUTE format('LOCK TABLE %s IN SHARE ROW EXCLUSIVE MODE', waits);
                PERFORM set_config('pgvigil.instrumentation', 'write', true);
                EXECUTE format('WITH moved AS (DELETE FROM %s WHERE %I >= $1 AND %2$I < $2 RETURNING *) INSERT INTO %s SELECT * FROM moved',
                               waits, key, slice) USING first_id, end_id;
                PERFORM set_config('pgvigil.instrumentation', '', true);
            END IF;
            EXECUTE format('ALTER TABLE %s ATTACH PARTITION %s FOR VALUES FROM (%L) TO (%L)', table_, slice, first_id, end_id);
            EXECUTE format('COMMENT ON TABLE %s IS %L', slice, format('%s from %s to %s, UTC', parent, to_char(lower_, 'YYYY-MM-DD'), to_char(upper_, 'YYYY-MM-DD')));
            made := made + 1;
        END IF;
        lower_ := upper_;
    END LOOP;
    RETURN made;
END $$;
COMMENT ON FUNCTION pgvigil.ensure_partitions(text, timestamptz, timestamptz) IS
    'Makes the missing partitions of a table from one time to another (to the end of its make_ahead if not given); returns how many';

CREATE TABLE pgvigil.deleted_sessions (
    session_id       uuid NOT NULL,
    session_key      varchar(255) NOT NULL,
    deleted_at       timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor            text NOT NULL,
    reason           text,
    retention_policy varchar(50),
    last_row         jsonb NOT NULL,
    events           jsonb NOT NULL,
    CONSTRAINT deleted_sessions_pkey PRIMARY KEY (session_id, deleted_at)
);
COMMENT ON TABLE pgvigil.deleted_sessions IS 'Deletion is logged and forgets nothing: the last row and the whole trail of each deleted session';
COMMENT ON COLUMN pgvigil.deleted_sessions.session_id IS 'Its id';
COMMENT ON COLUMN pgvigil.deleted_sessions.session_key IS 'Its key';
COMMENT ON COLUMN pgvigil.deleted_sessions.deleted_at IS 'When it was deleted';
COMMENT ON COLUMN pgvigil.deleted_sessions.actor IS 'Who deleted it: the setting pgvigil.actor if set, else the login role';
COMMENT ON COLUMN pgvigil.deleted_sessions.reason IS 'Why: the setting pgvigil.reason, if set';
COMMENT ON COLUMN pgvigil.deleted_sessions.retention_policy IS 'Its retention policy at the end';
COMMENT ON COLUMN pgvigil.deleted_sessions.last_row IS 'The row as it was deleted';
COMMENT ON COLUMN pgvigil.deleted_sessions.events IS 'Its events of session_lifecycle in order, and the deletion itself';
COMMENT ON CONSTRAINT deleted_sessions_pkey ON pgvigil.deleted_sessions IS 'The same id may come and go more than once';

-- Tables of an earlier attempt that stood under our names, and how far their rows have come into ours.
CREATE TABLE pgvigil.leftovers (
    table_name   text NOT NULL CONSTRAINT leftovers_pkey PRIMARY KEY,
    rows_found   bigint,
    rows_adopted bigint NOT NULL DEFAULT 0,
    next_block   bigint NOT NULL DEFAULT 0,
    finished_at  timestamptz
);
COMMENT ON TABLE pgvigil.leftovers IS
    'Tables that stood under our names: each is kept whole as pgvigil.legacy_<name>, and its rows are copied into ours by adopt_leftovers()';
COMMENT ON COLUMN pgvigil.leftovers.table_name IS 'The name, ours and theirs';
COMMENT ON COLUMN pgvigil.leftovers.rows_found IS 'Rows the old table holds';
COMMENT ON COLUMN pgvigil.leftovers.rows_adopted IS 'Rows of it that are in our table; the rest break its constraints and stay in the old one only';
COMMENT ON COLUMN pgvigil.leftovers.next_block IS 'Where copying goes on after an interruption (a block of the old table)';
COMMENT ON COLUMN pgvigil.leftovers.finished_at IS 'When the last row had been looked at';
COMMENT ON CONSTRAINT leftovers_pkey ON pgvigil.leftovers IS 'One row a table';

-- What the DDL makes on this server, as the validator read it from a scratch database: for roles that may not create one.
CREATE TABLE pgvigil.reference_snapshots (
    key          text NOT NULL,
    server_major integer NOT NULL,
    snapshot     text NOT NULL,
    made_at      timestamptz NOT NULL DEFAULT clock_timestamp(),
    CONSTRAINT reference_snapshots_pkey PRIMARY KEY (key, server_major)
);
COMMENT ON TABLE pgvigil.reference_snapshots IS
    'How a database is that our DDL has just built: what pgvigil validate holds this one against where it may not build one itself';
COMMENT ON COLUMN pgvigil.reference_snapshots.key IS 'SHA-256 of the DDL and of what is read of a catalog';
COMMENT ON COLUMN pgvigil.reference_snapshots.server_major IS 'Major version of the server that printed it';
COMMENT ON COLUMN pgvigil.reference_snapshots.snapshot IS 'The objects and their attributes, as JSON';
COMMENT ON COLUMN pgvigil.reference_snapshots.made_at IS 'When it was read';
COMMENT ON CONSTRAINT reference_snapshots_pkey ON pgvigil.reference_snapshots IS 'One snapshot for each DDL and major version';
