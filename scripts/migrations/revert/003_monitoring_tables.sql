DROP TABLE analytics_aggregations, performance_logs, system_metrics, session_lifecycle;
DROP DOMAIN pgvigil.event_type;
