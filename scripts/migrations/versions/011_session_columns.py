"""Columns, checks and the foreign key on the application's tables"""

from pgvigil.migration.apply import sql_file

revision = "011"
down_revision = "010"
upgrade, downgrade = sql_file(__file__)
