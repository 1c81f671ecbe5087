"""Lifecycle and retention: policies, jobs and their functions"""

from pgvigil.migration.apply import sql_file

revision = "006"
down_revision = "005"
upgrade, downgrade = sql_file(__file__)
