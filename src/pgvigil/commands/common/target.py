"""The database that a call names."""

from __future__ import annotations

import argparse
from pathlib import Path

from pgvigil import database, project
from pgvigil.database import Target
from pgvigil.errors import ConnectError, UsageError


def named_target(arguments: argparse.Namespace) -> Target | None:
    return database.resolve(arguments.database_url, _dotenv_directories(arguments))


def _dotenv_directories(arguments: argparse.Namespace) -> list[Path]:
    """The directories whose .env counts: for a project its own, and never that of pgvigil, which names another database."""
    if getattr(arguments, "project", None) is None:
        return project.dotenv_directories()
    from pgvigil.projects import config

    return [Path.cwd(), config.find(arguments.project).directory]


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
