DROP VIEW "{app}".user_recent_executions, "{app}".execution_analytics;
DELETE FROM pgvigil.jobs WHERE job = 'executions';
DROP FUNCTION pgvigil.job_executions(integer);
DROP TABLE "{app}".query_executions;
SELECT pgvigil.restore_displaced('008');
DELETE FROM pgvigil.displaced_tables WHERE table_name = 'query_executions';
