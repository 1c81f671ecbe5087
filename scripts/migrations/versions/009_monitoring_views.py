"""session_monitoring_view and performance_monitoring_view"""

from pgvigil.build.apply import sql_file

revision = "009"
down_revision = "008"
upgrade, downgrade = sql_file(__file__)
