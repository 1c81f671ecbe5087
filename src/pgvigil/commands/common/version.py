"""`pgvigil --version`: this program, its schema, and the database that the call would use. It never fails, and waits at most 3 s."""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from queue import Empty, Queue
from threading import Thread
from typing import Any

import psycopg

from pgvigil import __version__, database, project
from pgvigil.commands.common.target import required_target
from pgvigil.database import Target
from pgvigil.errors import PgvigilError

WITHIN = 3.0  # seconds for the answer of a server


class Version(argparse.Action):
    """An action that prints the version and ends the call. It reads `--database-url` from all words of the call."""

    def __init__(self, *arguments: Any, words: Sequence[str], **options: Any) -> None:
        super().__init__(*arguments, **options)
        self.words = words

    def __call__(self, parser: argparse.ArgumentParser, *_: object) -> None:
        print("\n".join(lines(self.words)))
        parser.exit()


def lines(words: Sequence[str] = ()) -> list[str]:
    newest = max(path.name[:3] for path in project.MIGRATIONS.glob("[0-9]*.sql"))
    return [f"pgvigil {__version__}", f"schema revision {newest}", _database(words)]


def _database(words: Sequence[str]) -> str:
    reader = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    reader.add_argument("--database-url")
    try:
        target = required_target(reader.parse_known_args(words)[0])
    except argparse.ArgumentError:
        return "database: --database-url has no value"
    except PgvigilError as error:
        return f"database: {error.message}"
    answer: Queue[str] = Queue()
    # A thread that the end of the process does not wait for: a host that swallows packets answers after minutes.
    Thread(target=lambda: answer.put(ask(target)), daemon=True).start()
    try:
        return answer.get(timeout=WITHIN)
    except Empty:
        return f"{target}: no answer in {WITHIN:.0f} s"


def ask(target: Target) -> str:
    from pgvigil.migration import ledger

    try:
        with database.connect(target, "version") as conn:
            server = conn.info.parameter_status("server_version") or "of an unknown version"
            where = f"{target}: PostgreSQL {server.split()[0]}"
            try:
                revision = ledger.read(conn).revision
            except psycopg.errors.InsufficientPrivilege:
                return f"{where}, and this role may not read the schema's revision"
            return f"{where}, schema revision {revision}" if revision else f"{where}, without pgvigil's schema"
    except PgvigilError as error:
        return f"database: {error.message}"
    except (psycopg.Error, OSError) as error:
        return f"{target}: {' '.join(str(error).split())}"
