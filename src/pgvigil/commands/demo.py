"""`pgvigil demo`: the dashboard over made-up data, with nothing else needed."""

from __future__ import annotations

import argparse
import sys

from pgvigil import database
from pgvigil.commands import serve
from pgvigil.commands.common.groups import Group
from pgvigil.errors import ConnectError, UsageError

GROUP = Group.WEB
SUMMARY = "show the dashboard over made-up data, on a server that ends with the command"
_DATABASE = "shop"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--listen", default="127.0.0.1:8520", metavar="HOST:PORT",
        help="where the dashboard listens; a loopback address, because nobody logs in (default %(default)s)",
    )  # fmt: skip
    command.add_argument(
        "--sessions",
        type=int,
        default=3000,
        metavar="N",
        help="made-up sessions, about that many (default %(default)s)",
    )
    command.add_argument("--no-load", action="store_true", help="let no made-up application work meanwhile")
    command.add_argument("--read-only", action="store_true", help="show the dashboard without its actions")


def run(arguments: argparse.Namespace) -> int:
    host, port = serve.address(arguments.listen)
    if not serve.is_loopback(host):
        raise UsageError("the demo would be open to other machines", "Choose a loopback address with --listen.")
    if not 1 <= arguments.sessions <= 100_000:
        raise UsageError("--sessions has to be 1 to 100000", "3000 fill the pages.")
    try:
        import uvicorn  # noqa: F401 - to refuse before a server is started

        from pgvigil import embedded
        from pgvigil.commands.common import demo_rows
    except ModuleNotFoundError as error:
        raise UsageError(
            f"pgvigil demo needs the package {error.name}, which is not installed",
            "Run: pip install 'pgvigil[embedded,web]'",
        ) from error
    binaries = embedded.binaries()
    if binaries is None:
        raise ConnectError(
            "There is no embedded PostgreSQL in this Python environment.", "Run: pip install 'pgvigil[embedded,web]'"
        )
    listener = serve.listen(host, port)
    from pgvigil.display import reporter
    from pgvigil.migration import setup
    from pgvigil.migration.runner import Options

    with embedded.Server(binaries, settings={"max_connections": "60"}) as server:
        with reporter() as log:
            log("starting a temporary server")
            url = server.dsn(_DATABASE)
            target = database.parse_url(url, "demo")
            log("building the schema")
            setup.setup(target, Options(None, None, 10, 60), 0, log.indented())
            log("inserting made-up rows")
            demo_rows.insert(url, arguments.sessions)
        print(f"PostgreSQL of the demo: {url}\nEverything in it is made up, and is gone after Ctrl-C.", file=sys.stderr)
        load = None
        if not arguments.no_load:
            from pgvigil.commands.common.demo_load import Load

            load = Load(target, url)
        try:
            serve.serve_alone(target, listener, host, read_only=arguments.read_only)
        finally:
            if load is not None:
                load.stop()
    return 0
