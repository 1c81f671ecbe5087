DROP VIEW "{app}".user_recent_executions, "{app}".execution_analytics;
DELETE FROM pgvigil.jobs WHERE job = 'executions';
DROP FUNCTION pgvigil.job_executions(integer);
DROP TABLE "{app}".query_executions;
SELECT pgvigil.put_back('008');
DELETE FROM pgvigil.leftovers WHERE table_name = 'query_executions';
