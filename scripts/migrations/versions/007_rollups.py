"""Rollups and their watermark"""

from pgvigil.migration.apply import sql_file

revision = "007"
down_revision = "006"
upgrade, downgrade = sql_file(__file__)
