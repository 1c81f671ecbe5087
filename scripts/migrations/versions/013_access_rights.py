"""Roles and grants"""

from pgvigil.migration.apply import sql_file

revision = "013"
down_revision = "012"
upgrade, downgrade = sql_file(__file__)
