DELETE FROM pgvigil.jobs WHERE job = ANY ('{totals,anomalies}'::text[]);
DROP FUNCTION pgvigil.job_anomalies(integer), pgvigil.hour_distances(timestamptz), pgvigil.execution_window(interval),
    pgvigil.job_totals(integer), pgvigil.executions_until(), pgvigil.execution_bounds();
DROP TABLE pgvigil.anomalies, pgvigil.totals_progress, pgvigil.event_totals, pgvigil.kill_totals,
    pgvigil.execution_totals, pgvigil.execution_rollups;
