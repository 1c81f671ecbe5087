"""Triggers: touch, lifecycle log, kept trail of deletions, archive guard"""

from pgvigil.migration.apply import sql_file

revision = "004"
down_revision = "003"
upgrade, downgrade = sql_file(__file__)
