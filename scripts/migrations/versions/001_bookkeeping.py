"""Helper functions and bookkeeping in schema pgvigil"""

from pgvigil.build.apply import sql_file

revision = "001"
down_revision = "000"
upgrade, downgrade = sql_file(__file__)
