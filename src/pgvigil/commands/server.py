"""`pgvigil server`: the embedded server."""

from __future__ import annotations

import argparse

from pgvigil.errors import PreconditionError

SUMMARY = "the embedded server: start, stop, status, url"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("action", choices=("start", "stop", "status", "url"))


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.embedded import PersistentServer

    server = PersistentServer()
    if arguments.action == "start":
        server.start()
        print(server.url())
    elif arguments.action == "stop":
        print("stopped" if server.stop() else "it was not running")
    elif not server.exists():
        raise PreconditionError("there is no embedded server yet", "Make one with scripts/setup-enhanced-db.sh.")
    elif arguments.action == "url":
        print(server.url())
    else:
        print("running" if server.is_running() else "stopped")
    return 0
