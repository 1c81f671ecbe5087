"""`pgvigil token`: tokens for `pgvigil serve`."""

from __future__ import annotations

import argparse
from pathlib import Path

from pgvigil import project
from pgvigil.commands.common import options
from pgvigil.commands.common.groups import Group
from pgvigil.errors import UsageError

GROUP = Group.WEB
SUMMARY = "tokens for clients of pgvigil serve: create"


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    create = options.add_action(
        actions, "create", "add a token to the file, and print it: it cannot be read again later"
    )
    create.add_argument("name", metavar="NAME", help="whose it is; written into what they change")
    create.add_argument(
        "--role", choices=("viewer", "admin"), default="viewer", help="what they may do (default %(default)s)"
    )
    create.add_argument(
        "--auth-token-file",
        type=Path,
        required=True,
        metavar="FILE",
        help="the file; made if it is not there, mode 0600",
    )


def run(arguments: argparse.Namespace) -> int:
    try:
        from pgvigil.web.access import new_token
    except ModuleNotFoundError as error:
        raise UsageError(
            f"pgvigil token needs the package {error.name}, which is not installed", f"Run: {project.install('web')}"
        ) from error
    print(new_token(arguments.auth_token_file, arguments.name, arguments.role))
    return 0
