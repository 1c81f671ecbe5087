"""Columns, checks and the foreign key on the application's tables"""

from pgvigil.build.apply import sql_file

revision = "008"
down_revision = "007"
upgrade, downgrade = sql_file(__file__)
