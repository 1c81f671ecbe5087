DROP TABLE "{app}".analytics_aggregations, "{app}".performance_logs, "{app}".system_metrics, "{app}".session_lifecycle;
DROP DOMAIN pgvigil.event_type;
