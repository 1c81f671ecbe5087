DROP VIEW user_recent_executions, execution_analytics;
DELETE FROM pgvigil.jobs WHERE job = 'executions';
DROP FUNCTION pgvigil.job_executions(integer);
DROP TABLE query_executions;
SELECT pgvigil.put_back('013');
