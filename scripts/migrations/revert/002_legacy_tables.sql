-- The old tables come back as they were found. Rows written since are in ours, which are gone: the backup of the revert
-- holds them.
SELECT pgvigil.restore_displaced('002');
DELETE FROM pgvigil.displaced_tables;
DELETE FROM pgvigil.tolerated_values;
DROP PROCEDURE pgvigil.copy_legacy_tables(integer);
DROP FUNCTION pgvigil.copy_legacy_tables_step(jsonb, integer);
DROP FUNCTION pgvigil.copy_legacy_rows(text, bigint, bigint);
