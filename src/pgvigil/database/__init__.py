"""The database of a call: what names it (sources, target), how to connect to it (settings, connection, poolers), and errors of
connections (lost_connections) and of row security. No other part opens connections.
"""

from pgvigil.database.connection import beside as beside
from pgvigil.database.connection import connect as connect
from pgvigil.database.connection import connecting as connecting
from pgvigil.database.connection import is_missing_database as is_missing_database
from pgvigil.database.connection import open_connection as open_connection
from pgvigil.database.connection import pin_session as pin_session
from pgvigil.database.lost_connections import is_lost as is_lost
from pgvigil.database.lost_connections import lost as lost
from pgvigil.database.poolers import again as again
from pgvigil.database.poolers import has_more_sessions as has_more_sessions
from pgvigil.database.poolers import require_more_sessions as require_more_sessions
from pgvigil.database.row_security import Hidden as Hidden
from pgvigil.database.row_security import hides_rows as hides_rows
from pgvigil.database.row_security import see_all_rows as see_all_rows
from pgvigil.database.settings import SESSION as SESSION
from pgvigil.database.sources import resolve as resolve
from pgvigil.database.target import SECRETS as SECRETS
from pgvigil.database.target import Target as Target
from pgvigil.database.target import parse_other_url as parse_other_url
from pgvigil.database.target import parse_url as parse_url
