"""Counters kept beside sessions"""

from pgvigil.migration.apply import sql_file

revision = "005"
down_revision = "004"
upgrade, downgrade = sql_file(__file__)
