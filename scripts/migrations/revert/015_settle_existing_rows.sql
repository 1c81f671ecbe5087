-- Copied rows go with our tables; should those be made again, copying starts anew.
UPDATE pgvigil.leftovers SET rows_found = NULL, rows_adopted = 0, next_block = 0, finished_at = NULL;
-- last_activity_at is nullable again, unless it was NOT NULL before pgvigil. Its values stay.
DO $$
BEGIN
    IF NOT EXISTS (SELECT FROM pgvigil.found_before
                   WHERE revision = '011' AND object = 'column sessions.last_activity_at' AND restore_sql LIKE '%SET NOT NULL;%') THEN
        ALTER TABLE "{app}".sessions ALTER COLUMN last_activity_at DROP NOT NULL;
    END IF;
END $$;
