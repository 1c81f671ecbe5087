"""Rollups and totals that the web application reads"""

from pgvigil.migration.apply import sql_file

revision = "017"
down_revision = "016"
upgrade, downgrade = sql_file(__file__)
