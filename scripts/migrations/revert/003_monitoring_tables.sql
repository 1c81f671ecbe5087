DROP TABLE analytics_aggregations, performance_logs, system_metrics, session_lifecycle;
