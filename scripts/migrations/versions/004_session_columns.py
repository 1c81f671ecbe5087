"""Columns, checks and the foreign key on the application's tables"""

from pgvigil.build.apply import sql_file

revision = "004"
down_revision = "003"
upgrade, downgrade = sql_file(__file__)
