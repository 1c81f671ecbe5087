"""`pgvigil serve`: the web application on a port of its own."""

from __future__ import annotations

import argparse
import ipaddress
import socket
import sys
from contextlib import suppress
from pathlib import Path
from typing import TYPE_CHECKING

import psycopg

from pgvigil import database, project
from pgvigil.commands.common import options
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.database import Target
from pgvigil.errors import ConnectError, PreconditionError, UsageError
from pgvigil.owner import UNDER_SUPERUSER
from pgvigil.owner import confined as confined_to
from pgvigil.shipped import require_shipped
from pgvigil.text import quoted

if TYPE_CHECKING:
    from fastapi import FastAPI

    from pgvigil.web.access import Authorize

GROUP = Group.WEB
SUMMARY = "serve the dashboard, the HTTP API, health endpoints and /metrics; closed without a login"
_GIVE_ONE = "Give one of --auth-token-file, --authorize, --trust-proxy; or --no-auth, on a loopback address only."


def add_arguments(command: argparse.ArgumentParser) -> None:
    options.add_database(command)
    listen = command.add_argument_group("listening")
    listen.add_argument(
        "--listen", default="127.0.0.1:8520", metavar="HOST:PORT", help="where to listen (default %(default)s)"
    )
    listen.add_argument(
        "--host", action="append", default=[], metavar="NAME",
        help="a name by which clients may call this service (repeatable; default: any, on a loopback address its own names)",
    )  # fmt: skip
    listen.add_argument("--read-only", action="store_true", help="refuse every change")
    access = command.add_argument_group("access")
    access.add_argument("--auth-token-file", type=Path, metavar="FILE", help="tokens, made by pgvigil token create")
    access.add_argument(
        "--authorize", metavar="MODULE:FUNCTION", help="a function of the request that returns a Principal or None"
    )
    access.add_argument(
        "--trust-proxy",
        action="append",
        default=[],
        metavar="CIDR",
        help="the network of a proxy that names users (repeatable)",
    )
    access.add_argument(
        "--user-header", default="", metavar="NAME", help="with --trust-proxy: the header that has the user's name"
    )
    access.add_argument(
        "--admin",
        action="append",
        default=[],
        metavar="NAME",
        help="with --trust-proxy: this user is an admin (repeatable)",
    )
    access.add_argument(
        "--no-auth", action="store_true", help="everybody on this machine is an admin; on a loopback address only"
    )


def run(arguments: argparse.Namespace) -> int:
    host, port = address(arguments.listen)
    try:
        import uvicorn  # noqa: F401 - to refuse before anything is opened

        from pgvigil import web
        from pgvigil.live import Recorder

        application = web.application
    except ModuleNotFoundError as error:
        raise UsageError(
            f"pgvigil serve needs the package {error.name}, which is not installed", f"Run: {project.install('web')}"
        ) from error
    loopback = is_loopback(host)
    authorize = _authorize(arguments, loopback=loopback)
    target = required_target(arguments)
    _require_no_superuser(target)
    hosts = [*arguments.host, *({"localhost", "127.0.0.1", "[::1]", host} if loopback else ())]
    recorder = None if arguments.read_only else Recorder(target)
    app = application(
        target, authorize=authorize, recorder=recorder, read_only=arguments.read_only, hosts=hosts or None
    )
    try:
        _answer(app, listen(host, port), host)
    finally:
        if recorder is not None:
            recorder.close()
    return 0


def _require_no_superuser(target: Target) -> None:
    """Raise PreconditionError for a superuser who would run code of the owner of the tables, or what a former member of
    pgvigil_owner has left, and ConnectError if that replaced an object of ours. Without a database nothing is known yet.
    """
    try:
        conn = database.connect(Target({"connect_timeout": "2", **target.parameters}, target.source), "serve")
    except (ConnectError, psycopg.Error):
        return
    with conn:
        row = conn.execute(
            f"SELECT u.rolsuper, ({UNDER_SUPERUSER}) FROM pg_catalog.pg_roles u WHERE u.rolname = current_user"
        ).fetchone()
        is_superuser, owner = row or (False, None)
        if is_superuser and owner is None:
            require_shipped(conn)
            confined = confined_to(conn)
            owner = confined.name if confined else None
    if owner is not None:
        raise PreconditionError(
            f"this service would run code of {quoted(owner)}, the owner of the tables, with the rights of a superuser",
            f"Connect as a member of pgvigil_admin, or as {quoted(owner)}.",
        )


def serve_alone(target: Target, listener: socket.socket, host: str, *, read_only: bool) -> None:
    """Serve everybody on this machine as an admin, until Ctrl-C: for `pgvigil demo`, whose data are made up."""
    from pgvigil.web import access
    from pgvigil.web.app import application

    hosts = {"localhost", "127.0.0.1", "[::1]", host}
    _answer(application(target, authorize=access.everybody(), read_only=read_only, hosts=hosts), listener, host)


def _answer(app: FastAPI, listener: socket.socket, host: str) -> None:
    import uvicorn

    from pgvigil.web.quiet import Server

    # Forwarded headers are not read: the peer is the one that connects. Only --trust-proxy trusts a proxy.
    configuration = uvicorn.Config(
        app, proxy_headers=False, server_header=False, lifespan="off", timeout_graceful_shutdown=2, log_level="info",
        timeout_keep_alive=75,  # longer than an open page waits between its polls
    )  # fmt: skip
    name = f"[{host}]" if ":" in host else host
    print(f"serving on http://{name}:{listener.getsockname()[1]} until Ctrl-C", file=sys.stderr)
    try:
        with suppress(KeyboardInterrupt):  # the way to end it
            Server(configuration, app.state.prepare).run(sockets=[listener])
    finally:
        app.state.store.close()


def address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    host = host.removeprefix("[").removesuffix("]")
    if not colon or not host or not port.isascii() or not port.isdigit() or int(port) > 65535:
        raise UsageError(f"--listen {text}: not an address", "Write it as 127.0.0.1:8520 or [::1]:8520.")
    return host, int(port)


def is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def listen(host: str, port: int) -> socket.socket:
    try:
        family = socket.AF_INET6 if ":" in host else socket.AF_INET
        return socket.create_server((host, port), family=family)
    except OSError as error:
        raise UsageError(
            f"cannot listen on {host}:{port}: {error.strerror}", "Choose another address with --listen."
        ) from error


def _authorize(arguments: argparse.Namespace, *, loopback: bool) -> Authorize:
    from pgvigil.web import access

    given = [
        name
        for name, value in (
            ("--auth-token-file", arguments.auth_token_file), ("--authorize", arguments.authorize),
            ("--trust-proxy", arguments.trust_proxy), ("--no-auth", arguments.no_auth),
        )
        if value
    ]  # fmt: skip
    if len(given) != 1:
        said = f"{' and '.join(given)} were given together" if given else "nothing says who may use this service"
        raise UsageError(f"{said}: the service does not start unprotected", _GIVE_ONE)
    if arguments.no_auth:
        if not loopback:
            raise UsageError("--no-auth would open this service to other machines", _GIVE_ONE)
        return access.everybody()
    if arguments.auth_token_file:
        return access.tokens(arguments.auth_token_file)
    if arguments.trust_proxy:
        return access.trusted_proxy(arguments.trust_proxy, arguments.user_header, arguments.admin)
    return _imported(arguments.authorize)


def _imported(name: str) -> Authorize:
    from importlib import import_module

    module, colon, function = name.partition(":")
    if not colon:
        raise UsageError(f"--authorize {name}: not MODULE:FUNCTION", "Write it as my_application.access:authorize.")
    sys.path.insert(0, str(Path.cwd()))
    try:
        found: Authorize = getattr(import_module(module), function)
    except (ImportError, AttributeError) as error:
        raise UsageError(f"--authorize {name}: {error}", "It is looked for from the current directory on.") from error
    if not callable(found):
        raise UsageError(f"--authorize {name}: not a function", "Name a function of the request.")
    return found
