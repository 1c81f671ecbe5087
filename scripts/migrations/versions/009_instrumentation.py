"""Instrumentation: who is connected, and what they run"""

from pgvigil.migration.apply import sql_file

revision = "009"
down_revision = "008"
upgrade, downgrade = sql_file(__file__)
