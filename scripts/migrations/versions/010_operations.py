"""Thresholds, integrity report, audit of settings"""

from pgvigil.migration.apply import sql_file

revision = "010"
down_revision = "009"
upgrade, downgrade = sql_file(__file__)
