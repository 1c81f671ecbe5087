"""Indexes on the application's tables, built concurrently"""

from pgvigil.migration.apply import sql_file

revision = "014"
down_revision = "013"
upgrade, downgrade = sql_file(__file__)
