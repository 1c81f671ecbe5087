DELETE FROM pgvigil.jobs WHERE job = ANY ('{archive_files,holds}'::text[]);
DROP VIEW pgvigil.archives_to_read;
DROP FUNCTION pgvigil.complete_erasure(uuid, text, bigint, jsonb), pgvigil.require_no_hold(uuid),
    pgvigil.complete_archive(bigint, text, bigint, bigint, numeric, text, text, timestamptz, timestamptz, bigint,
                             bigint),
    pgvigil.partitions_to_archive(), pgvigil.keeps_archive(), pgvigil.find_dropped_partitions(),
    pgvigil.record_drop(text, oid), pgvigil.is_archived(text, regclass), pgvigil.rows_fingerprint(regclass, name);
DROP TABLE pgvigil.executions_to_archive, pgvigil.archive_erasures, pgvigil.archives;
