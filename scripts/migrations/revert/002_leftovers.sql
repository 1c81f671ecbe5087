-- The old tables come back as they were found. Rows written since are in ours, which are gone: the backup of the revert
-- holds them.
SELECT pgvigil.put_back('002');
DELETE FROM pgvigil.leftovers;
DELETE FROM pgvigil.tolerated_values;
DROP PROCEDURE pgvigil.adopt_leftovers(integer);
DROP FUNCTION pgvigil.adopt_leftovers_step(jsonb, integer);
DROP FUNCTION pgvigil.adopt_rows(text, bigint, bigint);
