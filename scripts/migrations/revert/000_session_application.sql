-- On an install that was baselined this file is not run: the tables are the application's. Where they were made here,
-- they go only while they are empty: no undo may take an application's rows with it.
DO $$
BEGIN
    IF EXISTS (SELECT FROM "{app}".sessions) THEN
        RAISE EXCEPTION 'the table sessions holds rows, and reverting 000 would drop it'
              USING ERRCODE = 'dependent_objects_still_exist',
                    HINT = 'Stop at 001 (revert --to 000), or empty the table first if the sessions may go.';
    END IF;
END $$;
DROP TABLE "{app}".handoff_requests, "{app}".codebase_snapshots, "{app}".context_history, "{app}".sessions;
