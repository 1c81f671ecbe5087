"""session_monitoring_view and performance_monitoring_view"""

from pgvigil.migration.apply import sql_file

revision = "012"
down_revision = "011"
upgrade, downgrade = sql_file(__file__)
