"""Instrumentation: who is connected, and what they run"""

from pgvigil.build.apply import sql_file

revision = "014"
down_revision = "013"
upgrade, downgrade = sql_file(__file__)
