"""What commands have in common: which database is meant, and text for a terminal or a file."""

from __future__ import annotations

import argparse
import re
import sys
from pathlib import Path

from pgvigil import database, project, text
from pgvigil.database import Target
from pgvigil.errors import ConnectError, UsageError


def named(arguments: argparse.Namespace) -> Target | None:
    return database.resolve(arguments.database_url, [Path.cwd(), project.ROOT])


def required(arguments: argparse.Namespace) -> Target:
    target = named(arguments)
    if target is not None:
        return target
    from pgvigil.embedded import KeptServer

    server = KeptServer()
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


def one_line(words: str) -> str:
    """What others have written, such as a statement, on one line."""
    return text.visible(re.sub(r"\s", " ", words)).rstrip()


def generated(written: str, path: Path | None) -> int:
    if path:
        path.write_text(written, encoding="utf-8")
        print(f"wrote {path}", file=sys.stderr)
    else:
        text.print_script(written, sys.stdout, end="")
    return 0
