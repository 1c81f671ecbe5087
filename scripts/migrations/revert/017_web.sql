DELETE FROM pgvigil.jobs WHERE job = 'totals';
DROP FUNCTION pgvigil.execution_window(interval), pgvigil.job_totals(integer), pgvigil.executions_until(), pgvigil.execution_bounds();
DROP TABLE pgvigil.totals_progress, pgvigil.event_totals, pgvigil.execution_totals, pgvigil.execution_rollups;
