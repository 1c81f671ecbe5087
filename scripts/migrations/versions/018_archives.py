"""Archives"""

from pgvigil.migration.apply import sql_file

revision = "018"
down_revision = "017"
upgrade, downgrade = sql_file(__file__)
