"""The database that a call names."""

from __future__ import annotations

import argparse

from pgvigil import database, project
from pgvigil.database import Target
from pgvigil.errors import ConnectError, UsageError


def named_target(arguments: argparse.Namespace) -> Target | None:
    return database.resolve(arguments.database_url, project.dotenv_directories())


def required_target(arguments: argparse.Namespace) -> Target:
    target = named_target(arguments)
    if target is not None:
        return target
    from pgvigil.embedded import PersistentServer

    server = PersistentServer()
    if server.exists():
        if not server.is_running():
            raise ConnectError(
                "the embedded server is stopped, and no other database is named", "Start it: pgvigil server start"
            )
        return database.parse_url(server.url(), "embedded server")
    raise UsageError(
        "no database is named",
        "Pass --database-url postgresql://user@host/database, or set DATABASE_URL or PGHOST, PGDATABASE …, or write them into .env.",
    )
