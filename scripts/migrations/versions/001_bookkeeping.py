"""Helper functions and bookkeeping in schema pgvigil"""

from pgvigil.migration.apply import sql_file

revision = "001"
down_revision = "000"
upgrade, downgrade = sql_file(__file__)
