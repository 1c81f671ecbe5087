"""${message}"""

from pgvigil.migration.apply import sql_file

revision = ${repr(up_revision)}
down_revision = ${repr(down_revision)}
upgrade, downgrade = sql_file(__file__)
