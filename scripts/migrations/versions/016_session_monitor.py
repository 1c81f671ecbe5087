"""Session monitor of SQLAlchemy applications"""

from pgvigil.migration.apply import sql_file

revision = "016"
down_revision = "015"
upgrade, downgrade = sql_file(__file__)
