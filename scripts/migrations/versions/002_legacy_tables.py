"""Tables and views of an earlier attempt that have our names are moved aside"""

from pgvigil.migration.apply import sql_file

revision = "002"
down_revision = "001"
upgrade, downgrade = sql_file(__file__)
