-- Archives: rows that retention deletes are first kept in Parquet files. `pgvigil maintain run archive_files` writes
-- them; this is the database's record of them. A role that may write here can make retention drop rows that were not
-- kept: so only the owner may.

CREATE TABLE pgvigil.archives (
    id            bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT archives_pkey PRIMARY KEY,
    source        text NOT NULL CONSTRAINT archives_source_check CHECK (source = ANY
                  ('{session_lifecycle,system_metrics,performance_logs,instrumentation.sql_statements,'
                   'query_executions,deleted_sessions}'::text[])),
    partition     text,
    partition_oid oid,
    from_time     timestamptz NOT NULL,
    to_time       timestamptz NOT NULL,
    location      text NOT NULL,
    path          text NOT NULL,
    origin        text NOT NULL,
    sha256        text,
    rows          bigint,
    bytes         bigint,
    fingerprint   numeric,
    min_id        text,
    max_id        text,
    min_time      timestamptz,
    max_time      timestamptz,
    started_at    timestamptz NOT NULL DEFAULT clock_timestamp(),
    completed_at  timestamptz,
    dropped_at    timestamptz,
    replaced_at   timestamptz,
    written_by    text NOT NULL DEFAULT session_user,
    CONSTRAINT archives_path_key UNIQUE (path),
    CONSTRAINT archives_completed_check
        CHECK (completed_at IS NULL
               OR sha256 IS NOT NULL AND rows IS NOT NULL AND bytes IS NOT NULL AND fingerprint IS NOT NULL)
);
COMMENT ON TABLE pgvigil.archives IS
    'Archives in Parquet files: a partition, or a day of rows. Written by job archive_files with the owner''s rights';
COMMENT ON COLUMN pgvigil.archives.partition IS 'The partition; NULL: a day of rows';
COMMENT ON COLUMN pgvigil.archives.partition_oid IS
    'Its oid when it was read: a later partition of that name is another one';
COMMENT ON COLUMN pgvigil.archives.from_time IS 'Where its stretch of time begins';
COMMENT ON COLUMN pgvigil.archives.to_time IS 'Where it ends; not included';
COMMENT ON COLUMN pgvigil.archives.location IS 'The directory or URL of the archives';
COMMENT ON COLUMN pgvigil.archives.path IS 'Its manifest, from there';
COMMENT ON COLUMN pgvigil.archives.origin IS
    'Server and database that wrote it: a copy of the database removes no files of the original';
COMMENT ON COLUMN pgvigil.archives.sha256 IS 'Of the manifest, which holds those of the files';
COMMENT ON COLUMN pgvigil.archives.fingerprint IS
    'As pgvigil.rows_fingerprint(), of the rows in the database that were read';
COMMENT ON COLUMN pgvigil.archives.completed_at IS
    'When the files had been read back and were equal; NULL: they count for nothing, and the next run removes them';
COMMENT ON COLUMN pgvigil.archives.dropped_at IS
    'When the rows left the database: from then on they are read from the files';
COMMENT ON COLUMN pgvigil.archives.replaced_at IS
    'When a newer archive of the same rows took its place: the files are to be removed';
COMMENT ON CONSTRAINT archives_path_key ON pgvigil.archives IS 'Each archive has files of its own';
COMMENT ON CONSTRAINT archives_completed_check ON pgvigil.archives IS 'A completed archive has been checked';
CREATE INDEX idx_archives_source_from_time ON pgvigil.archives (source, from_time);
COMMENT ON INDEX pgvigil.idx_archives_source_from_time IS 'The archives of a table over time';

CREATE TABLE pgvigil.archive_erasures (
    id         bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT archive_erasures_pkey PRIMARY KEY,
    session_id uuid NOT NULL,
    reason     text NOT NULL CONSTRAINT archive_erasures_reason_check CHECK (btrim(reason) <> ''),
    rows       bigint NOT NULL,
    files      text[] NOT NULL,
    erased_at  timestamptz NOT NULL DEFAULT clock_timestamp(),
    actor      text NOT NULL DEFAULT pgvigil.actor(),
    erased_by  text NOT NULL DEFAULT session_user
);
COMMENT ON TABLE pgvigil.archive_erasures IS
    'Sessions whose rows were erased from the archives, by `pgvigil archive erase`';
COMMENT ON COLUMN pgvigil.archive_erasures.files IS
    'Manifests of the archives that were rewritten, as they were called before';
COMMENT ON COLUMN pgvigil.archive_erasures.actor IS 'The setting pgvigil.actor if set, else the login role';

-- Partitions wait for their archive whole. Rows that are deleted one by one wait here, so that none comes between
-- reading and deleting.
CREATE TABLE pgvigil.executions_to_archive (
    place bigint GENERATED ALWAYS AS IDENTITY CONSTRAINT executions_to_archive_pkey PRIMARY KEY,
    LIKE "{app}".query_executions INCLUDING COMMENTS
);
COMMENT ON TABLE pgvigil.executions_to_archive IS
    'Query executions that job executions has taken out and job archive_files has not archived yet';

-- Ids and transactions: any insert, update or delete changes it, at a third of what the contents would cost to read.
-- So does a column that comes or goes, which need not change a row. After a restore from a dump it is another one, and
-- the partition is archived again.
CREATE FUNCTION pgvigil.rows_fingerprint(of_table regclass, key name) RETURNS TABLE (rows bigint, fingerprint numeric)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    of_columns numeric;
BEGIN
    SELECT hashtextextended(string_agg(concat_ws(' ', a.attnum, a.attname, a.atttypid), ',' ORDER BY a.attnum), 0)
    INTO of_columns
    FROM pg_attribute a
    WHERE a.attrelid = of_table AND a.attnum > 0 AND NOT a.attisdropped;
    RETURN QUERY EXECUTE format('SELECT count(*), coalesce(sum(hash_record_extended(ROW(t.%I, t.xmin), 0)), 0) + $1
                                 FROM %s t', key, of_table)
        USING of_columns;
END $$;
COMMENT ON FUNCTION pgvigil.rows_fingerprint(regclass, name) IS
    'How many rows a partition has, and a number that any change of them or of its columns changes';

-- Called under a lock that keeps writers out, before the partition is dropped.
CREATE FUNCTION pgvigil.is_archived(parent text, slice regclass) RETURNS boolean
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    now_ record;
BEGIN
    SELECT * INTO now_ FROM pgvigil.rows_fingerprint(slice, pgvigil.partition_key(pgvigil.partitioned_table(parent)));
    IF now_.rows = 0 THEN
        -- Rows that somebody has deleted must not be read from their archive once the partition is gone. Trails are:
        -- they were deleted with their sessions.
        RETURN parent = 'session_lifecycle'
               OR NOT EXISTS (SELECT 1 FROM pgvigil.archives a
                              WHERE a.source = parent
                                AND a.partition_oid = slice
                                AND a.completed_at IS NOT NULL
                                AND a.replaced_at IS NULL
                                AND a.dropped_at IS NULL
                                AND a.rows > 0);
    END IF;
    RETURN EXISTS (SELECT 1 FROM pgvigil.archives a
                   WHERE a.source = parent
                     AND a.partition_oid = slice
                     AND a.completed_at IS NOT NULL
                     AND a.replaced_at IS NULL
                     AND a.dropped_at IS NULL
                     AND a.rows = now_.rows AND a.fingerprint = now_.fingerprint);
END $$;
COMMENT ON FUNCTION pgvigil.is_archived(text, regclass) IS
    'Whether the archive of a partition holds exactly what the partition holds now';

CREATE FUNCTION pgvigil.record_drop(parent text, slice oid) RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    UPDATE pgvigil.archives a SET dropped_at = clock_timestamp()
    WHERE a.source = parent
      AND a.partition_oid = slice
      AND a.completed_at IS NOT NULL
      AND a.replaced_at IS NULL
      AND a.dropped_at IS NULL;
END $$;
COMMENT ON FUNCTION pgvigil.record_drop(text, oid) IS
    'Job retention drops a partition: from now on its rows are read from its archive';

-- A partition that somebody else dropped has gone as well; one that came back under another oid is the same if it holds
-- the first row and the last. One that was noted as dropped is back if it was detached and attached again, or if all
-- its rows were inserted again.
CREATE FUNCTION pgvigil.find_dropped_partitions() RETURNS bigint
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one  record;
    same boolean;
    found_ bigint := 0;
BEGIN
    FOR one IN SELECT a.id, a.source, a.min_id, a.max_id, a.rows, a.dropped_at, a.partition_oid,
                      p.partition_oid AS oid_now
               FROM pgvigil.archives a
               LEFT JOIN pgvigil.partitions p ON p.parent_table = a.source AND p.partition = a.partition
               WHERE a.partition IS NOT NULL
                 AND a.completed_at IS NOT NULL
                 AND a.replaced_at IS NULL
                 AND CASE WHEN a.dropped_at IS NULL THEN p.partition_oid IS DISTINCT FROM a.partition_oid
                          ELSE p.partition_oid IS NOT NULL END
    LOOP
        same := one.oid_now IS NOT DISTINCT FROM one.partition_oid;
        IF NOT same AND one.oid_now IS NOT NULL AND one.min_id IS NOT NULL THEN
            EXECUTE format('SELECT count(*) = cardinality(ARRAY(SELECT DISTINCT unnest($1)))
                            FROM %s
                            WHERE %I = ANY ($1)', one.oid_now::regclass,
                                pgvigil.partition_key(pgvigil.partitioned_table(one.source)))
                INTO same
                USING ARRAY[one.min_id, one.max_id]::uuid[];
            IF same AND one.dropped_at IS NOT NULL THEN
                EXECUTE format('SELECT count(*) >= $1 FROM %s', one.oid_now::regclass) INTO same USING one.rows;
            END IF;
        END IF;
        IF same THEN
            UPDATE pgvigil.archives a SET partition_oid = one.oid_now, dropped_at = NULL WHERE a.id = one.id;
        ELSIF one.dropped_at IS NULL THEN
            UPDATE pgvigil.archives a SET dropped_at = clock_timestamp() WHERE a.id = one.id;
            found_ := found_ + 1;
        END IF;
    END LOOP;
    RETURN found_;
END $$;
COMMENT ON FUNCTION pgvigil.find_dropped_partitions() IS
    'Notes which archived partitions are no longer in the database; returns how many';

CREATE FUNCTION pgvigil.keeps_archive() RETURNS boolean
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
BEGIN
    RETURN (SELECT k.archive FROM pgvigil.days_kept() k);
END $$;
COMMENT ON FUNCTION pgvigil.keeps_archive() IS
    'Whether a retention policy that sessions have wants archives (keep_archive)';

-- A day after its end, late rows have come. From then on each change is seen when it is due to be dropped.
CREATE FUNCTION pgvigil.partitions_to_archive()
RETURNS TABLE (source text, partition text, partition_oid oid, key name, from_time timestamptz, to_time timestamptz)
LANGUAGE plpgsql
STABLE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_column
DECLARE
    one     record;
    current pgvigil.archives;
    now_    record;
BEGIN
    IF NOT pgvigil.keeps_archive() THEN
        RETURN;
    END IF;
    FOR one IN
        SELECT p.*, EXISTS (SELECT 1 FROM pgvigil.due_partitions() d WHERE d.partition_oid = p.partition_oid) AS is_due
               FROM pgvigil.partitions p
               WHERE p.to_time < now() - interval '1 day'
               ORDER BY p.to_time, p.parent_table LOOP
        key := pgvigil.partition_key(pgvigil.partitioned_table(one.parent_table));
        SELECT * INTO current FROM pgvigil.archives a
        WHERE a.source = one.parent_table
          AND a.partition_oid = one.partition_oid
          AND a.completed_at IS NOT NULL
          AND a.replaced_at IS NULL
          AND a.dropped_at IS NULL;
        CONTINUE WHEN FOUND AND NOT one.is_due;
        IF FOUND THEN
            SELECT * INTO now_ FROM pgvigil.rows_fingerprint(one.partition_oid, key);
            -- Trails go with their sessions, into pgvigil.deleted_sessions: fewer rows alone do not make an archive
            -- outdated.
            CONTINUE WHEN now_.rows = current.rows AND (now_.rows = 0 OR now_.fingerprint = current.fingerprint)
                          OR one.parent_table = 'session_lifecycle' AND now_.rows <= current.rows;
        ELSE
            EXECUTE format('SELECT count(*) AS rows FROM (SELECT 1 FROM %s LIMIT 1) t', one.partition_oid::regclass)
                INTO now_;
            CONTINUE WHEN now_.rows = 0;
        END IF;
        source := one.parent_table;
        partition := one.partition;
        partition_oid := one.partition_oid;
        from_time := one.from_time;
        to_time := one.to_time;
        RETURN NEXT;
    END LOOP;
END $$;
COMMENT ON FUNCTION pgvigil.partitions_to_archive() IS
    'Partitions that ended a day ago and are not archived as they are now, the oldest first';

CREATE FUNCTION pgvigil.complete_archive(archive_id bigint, sha256 text, row_count bigint, byte_count bigint,
                                         fingerprint numeric, min_id text, max_id text, min_time timestamptz,
                                         max_time timestamptz, upto bigint DEFAULT NULL, instead_of bigint DEFAULT NULL)
RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    one     pgvigil.archives;
    gone    timestamptz;
    slice   oid;
    deleted bigint;
BEGIN
    SELECT * INTO STRICT one FROM pgvigil.archives a WHERE a.id = archive_id AND a.completed_at IS NULL FOR UPDATE;
    IF instead_of IS NOT NULL THEN
        UPDATE pgvigil.archives a SET replaced_at = clock_timestamp()
        WHERE a.id = instead_of AND a.source = one.source AND a.completed_at IS NOT NULL AND a.replaced_at IS NULL
        RETURNING a.dropped_at, a.partition_oid
        INTO gone, slice;
        IF NOT FOUND THEN
            RAISE EXCEPTION 'archive % is no longer there', instead_of
                USING ERRCODE = 'object_not_in_prerequisite_state';
        END IF;
    ELSIF one.source = 'query_executions' THEN
        -- Nobody else deletes here, and new rows have a later place: exactly the rows that were read are deleted.
        DELETE FROM pgvigil.executions_to_archive e
        WHERE e.place <= upto AND coalesce(e.started_at >= one.from_time AND e.started_at < one.to_time, false);
        GET DIAGNOSTICS deleted = ROW_COUNT;
        IF deleted <> row_count THEN
            RAISE EXCEPTION '% rows of query_executions were archived, and % were there to go', row_count, deleted
                USING ERRCODE = 'data_exception';
        END IF;
        gone := clock_timestamp();
    ELSE
        UPDATE pgvigil.archives a SET replaced_at = clock_timestamp()
        WHERE a.source = one.source AND a.id <> archive_id AND a.completed_at IS NOT NULL AND a.replaced_at IS NULL
          AND CASE WHEN one.partition_oid IS NULL THEN a.from_time = one.from_time
                   ELSE a.partition_oid = one.partition_oid AND a.partition = one.partition END;
    END IF;
    UPDATE pgvigil.archives a
    SET sha256 = complete_archive.sha256, rows = row_count, bytes = byte_count,
        fingerprint = complete_archive.fingerprint, min_id = complete_archive.min_id, max_id = complete_archive.max_id,
        min_time = complete_archive.min_time, max_time = complete_archive.max_time, completed_at = clock_timestamp(),
        dropped_at = gone, partition_oid = coalesce(slice, a.partition_oid)
    WHERE a.id = archive_id;
END $$;
COMMENT ON FUNCTION pgvigil.complete_archive(bigint, text, bigint, bigint, numeric, text, text, timestamptz,
                                             timestamptz, bigint, bigint) IS
    'The files of an archive have been read back and are equal: it counts '
    'from now on, and an earlier archive of the same rows no longer does';

-- A hold that is being placed waits for the erasure that has looked, and the erasure for the hold.
CREATE FUNCTION pgvigil.require_no_hold(session uuid) RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
#variable_conflict use_variable
DECLARE
    why text;
BEGIN
    LOCK TABLE pgvigil.legal_holds, pgvigil.remote_holds, pgvigil.retention_policies IN SHARE MODE;
    SELECT string_agg(h.reason, ', ' ORDER BY h.placed_at)
    INTO why
    FROM pgvigil.legal_holds h
    WHERE h.session_id = session;
    IF why IS NULL THEN
        SELECT 'in ' || h.source INTO why FROM pgvigil.remote_holds h WHERE h.session_id = session LIMIT 1;
    END IF;
    IF why IS NULL THEN
        SELECT 'its retention policy, ' || p.policy || ', is' INTO why FROM pgvigil.retention_policies p
        WHERE p.legal_hold
          AND p.policy IN (SELECT coalesce(s.retention_policy, 'standard') FROM "{app}".sessions s WHERE s.id = session
                                            UNION ALL SELECT coalesce(d.retention_policy, 'standard')
                                            FROM pgvigil.deleted_sessions d
                                            WHERE d.session_id = session)
        LIMIT 1;
    END IF;
    IF why IS NULL AND (SELECT k.hold FROM pgvigil.days_kept() k) THEN
        why := 'a retention policy that sessions have is, and keeps all logs';
    END IF;
    IF why IS NOT NULL THEN
        RAISE EXCEPTION 'session % is under legal hold: %', session, why
              USING ERRCODE = 'object_not_in_prerequisite_state',
                    HINT = 'See pgvigil.legal_holds, and legal_hold in pgvigil.retention_policies.';
    END IF;
END $$;
COMMENT ON FUNCTION pgvigil.require_no_hold(uuid) IS 'Raises where a legal hold keeps a session, or all logs';

-- All files of the session or none, and the audit row with them.
CREATE FUNCTION pgvigil.complete_erasure(session uuid, why text, erased bigint, rewritten jsonb) RETURNS void
LANGUAGE plpgsql
VOLATILE
SET search_path = pg_catalog, pg_temp
AS $$
DECLARE
    one record;
BEGIN
    PERFORM pgvigil.require_no_hold(session);
    INSERT INTO pgvigil.archive_erasures (session_id, reason, rows, files)
    SELECT session, why, erased, coalesce(array_agg(a.path ORDER BY a.id), '{}')
    FROM jsonb_to_recordset(rewritten) r (instead_of bigint) JOIN pgvigil.archives a ON a.id = r.instead_of;
    FOR one IN
        SELECT *
        FROM jsonb_to_recordset(rewritten) r (id bigint, sha256 text, rows bigint, bytes bigint, fingerprint numeric,
                                              min_id text, max_id text, min_time timestamptz, max_time timestamptz,
                                              instead_of bigint) LOOP
        PERFORM pgvigil.complete_archive(one.id, one.sha256, one.rows, one.bytes, one.fingerprint, one.min_id,
                                         one.max_id, one.min_time, one.max_time, NULL, one.instead_of);
    END LOOP;
END $$;
COMMENT ON FUNCTION pgvigil.complete_erasure(uuid, text, bigint, jsonb) IS
    'The rewritten archives of an erased session take the place of the old ones, together with the audit row';

-- Archives to read: their rows are no longer in the database. Everything else is read from its table.
CREATE VIEW pgvigil.archives_to_read AS
SELECT a.* FROM pgvigil.archives a
WHERE a.completed_at IS NOT NULL AND a.replaced_at IS NULL
  AND (a.dropped_at IS NOT NULL OR a.partition IS NOT NULL)
  AND NOT EXISTS (SELECT 1
                  FROM pgvigil.partitions p
                  WHERE p.parent_table = a.source
                    AND p.partition = a.partition
                    AND (a.dropped_at IS NULL OR p.partition_oid = a.partition_oid));
COMMENT ON VIEW pgvigil.archives_to_read IS 'Archives whose rows are no longer in the database';

INSERT INTO pgvigil.jobs (job, every, purpose, needs_client)
VALUES ('archive_files', '1 hour', 'writes to Parquet files what retention will take, where a policy has keep_archive',
        true);
INSERT INTO pgvigil.jobs (job, every, purpose, needs_client, enabled)
VALUES ('holds', '10 minutes', 'sends the legal holds on sessions to the telemetry server; off until there is one',
        true, false);

-- Rights of the roles: reading. A role that is missing is left out, as in 013.
DO $$
DECLARE
    role_name text;
BEGIN
    FOR role_name IN
        SELECT r.rolname
        FROM pg_roles r
        WHERE r.rolname = ANY ('{pgvigil_reader,pgvigil_admin}'::name[]) LOOP
        EXECUTE format('GRANT SELECT ON pgvigil.archives, pgvigil.archives_to_read, pgvigil.archive_erasures,
                       pgvigil.executions_to_archive TO %I', role_name);
        EXECUTE format('GRANT EXECUTE ON FUNCTION pgvigil.keeps_archive() TO %I', role_name);
    END LOOP;
END $$;
