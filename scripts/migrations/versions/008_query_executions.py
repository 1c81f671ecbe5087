"""query_executions, its views and its retention"""

from pgvigil.migration.apply import sql_file

revision = "008"
down_revision = "007"
upgrade, downgrade = sql_file(__file__)
