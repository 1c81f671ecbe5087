DROP TABLE pgvigil.reference_snapshots, pgvigil.displaced_tables, pgvigil.deleted_sessions, pgvigil.partition_policies,
    pgvigil.tolerated_values;
DROP FUNCTION pgvigil.ensure_partitions(text, timestamptz, timestamptz, integer),
    pgvigil.fill_partition(regclass, regclass, name, uuid, uuid, integer), pgvigil.partition_key(regclass),
    pgvigil.default_partition(regclass), pgvigil.partitioned_table(text);
DROP PROCEDURE pgvigil.validate_value_checks();
DROP FUNCTION pgvigil.validate_value_checks_step(jsonb);
DROP FUNCTION pgvigil.add_value_check(text, text, text[]);
DROP FUNCTION pgvigil.drop_value_check(text, text);
DROP FUNCTION pgvigil.put_value_check(text, text, text[], boolean);
DROP FUNCTION pgvigil.value_check(text, text);
DROP FUNCTION pgvigil.find_legacy_values(text, text, text[]);
DROP FUNCTION pgvigil.value_lists();
DROP FUNCTION pgvigil.displace_trigger(text, text, text);
DROP FUNCTION pgvigil.drop_added_column(text, text, text);
DROP FUNCTION pgvigil.add_column(text, text, text, text);
DROP FUNCTION pgvigil.restore_displaced(text);
DROP TABLE pgvigil.displaced_objects;
DROP FUNCTION pgvigil.finish_owner_code();
DROP FUNCTION pgvigil.require_all_rows();
DROP FUNCTION pgvigil.actor();
DROP FUNCTION pgvigil.uuid_v7_time(uuid);
DROP FUNCTION pgvigil.uuid_v7_floor(timestamptz);
DROP FUNCTION pgvigil.uuid_v7();
