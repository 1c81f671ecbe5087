DELETE FROM pgvigil.jobs WHERE job = ANY ('{rollup,aggregation}'::text[]);
DROP FUNCTION pgvigil.job_aggregation(integer), pgvigil.aggregate_analytics(text, timestamptz, timestamptz),
    pgvigil.performance_trends(interval, timestamptz, timestamptz),
    pgvigil.handoff_stats(interval, timestamptz, timestamptz),
    pgvigil.session_stats(interval, timestamptz, timestamptz), pgvigil.performance_window(interval),
    pgvigil.job_rollup(integer), pgvigil.complete_until(regclass),
    pgvigil.histogram_performance_logs(uuid, uuid, timestamptz);
DROP TABLE pgvigil.operation_totals, pgvigil.rollup_progress, pgvigil.performance_rollups;
DROP FUNCTION pgvigil.histogram_quantile(numeric, bigint, double precision), pgvigil.histogram_rank(numeric, bigint),
    pgvigil.histogram_unit(integer), pgvigil.histogram_value(integer), pgvigil.histogram_bin(integer);
