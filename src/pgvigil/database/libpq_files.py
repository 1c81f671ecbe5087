"""Refuse pipes and devices where libpq reads a file: it opens each when it connects, and would wait there for ever."""

from __future__ import annotations

import os
import stat
from collections.abc import Mapping
from typing import Final

from pgvigil.errors import UsageError

_VARIABLES: Final = {
    "passfile": "PGPASSFILE",
    "servicefile": "PGSERVICEFILE",
    "sslcert": "PGSSLCERT",
    "sslkey": "PGSSLKEY",
    "sslrootcert": "PGSSLROOTCERT",
    "sslcrl": "PGSSLCRL",
}
# In the home directory: what libpq reads where neither a parameter nor a variable names a file.
_DEFAULTS: Final = {
    "passfile": ".pgpass",
    "servicefile": ".pg_service.conf",
    "sslcert": ".postgresql/postgresql.crt",
    "sslkey": ".postgresql/postgresql.key",
    "sslrootcert": ".postgresql/root.crt",
    "sslcrl": ".postgresql/root.crl",
}


def require_files(parameters: Mapping[str, str], source: str) -> None:
    """Raise UsageError for a file of the connection that is a pipe or a device. libpq itself complains about all others."""
    has_service = "service" in parameters or "PGSERVICE" in os.environ
    for keyword, variable in _VARIABLES.items():
        if keyword == "servicefile" and not has_service:
            continue
        given = parameters.get(keyword) or os.environ.get(variable)
        path = given or os.path.join(os.environ.get("HOME", "/"), _DEFAULTS[keyword])  # noqa: PTH118 - on every connection
        try:
            mode = os.stat(path).st_mode  # noqa: PTH116 - the same
        except (OSError, ValueError):
            continue
        if (stat.S_ISFIFO(mode) or stat.S_ISCHR(mode) or stat.S_ISBLK(mode)) and path != os.devnull:
            where = f"{keyword} of {source}" if parameters.get(keyword) else variable if given else "a default of libpq"
            raise UsageError(
                f"{path} ({where}) is not a file but a {'pipe' if stat.S_ISFIFO(mode) else 'device'}: connecting would wait there",
                "Name a regular file, or remove it. No server was contacted.",
            )
