-- Copied rows go with our tables; should those be made again, copying starts again.
UPDATE pgvigil.displaced_tables SET rows_found = NULL, rows_adopted = 0, next_block = 0, finished_at = NULL;
