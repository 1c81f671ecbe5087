"""Existing rows: dormancy and counters filled in, rows of legacy tables copied"""

from pgvigil.migration.apply import sql_file

revision = "015"
down_revision = "014"
upgrade, downgrade = sql_file(__file__)
