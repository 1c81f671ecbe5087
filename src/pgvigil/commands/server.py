"""`pgvigil server`: the embedded server."""

from __future__ import annotations

import argparse

from pgvigil.errors import PreconditionError

SUMMARY = "the embedded server: start, stop, status, url"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", choices=("start", "stop", "status", "url"))
    command.add_argument(
        "--database", default="pgvigil", metavar="NAME", help="with url: a database of the server (default %(default)s)"
    )


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.embedded import PersistentServer

    server = PersistentServer()
    if arguments.action == "start":
        server.start()
        print(server.url(arguments.database))
    elif arguments.action == "stop":
        print("stopped" if server.stop() else "it was not running")
    elif not server.exists():
        raise PreconditionError("there is no embedded server yet", "Make one with pgvigil setup.")
    elif arguments.action == "url":
        print(server.url(arguments.database))
    else:
        print("running" if server.is_running() else "stopped")
    return 0
