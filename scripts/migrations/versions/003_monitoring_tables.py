"""session_lifecycle, system_metrics, performance_logs, analytics_aggregations"""

from pgvigil.migration.apply import sql_file

revision = "003"
down_revision = "002"
upgrade, downgrade = sql_file(__file__)
