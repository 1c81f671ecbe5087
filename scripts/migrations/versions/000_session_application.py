"""The session application itself"""

from pgvigil.migration.apply import sql_file

revision = "000"
down_revision = None
upgrade, downgrade = sql_file(__file__)
