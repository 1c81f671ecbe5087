"""The commands, one module a verb: `init_sql` is `pgvigil init-sql`. A new module here is a new command, listed nowhere else.

A module has `GROUP` and `SUMMARY` (its heading and line in --help), `add_arguments(command)` and `run(arguments)`, which
returns the exit code. It imports a wing inside `run`, so that a verdict of `validate` does not wait for Alembic to load.
`common` has what verbs share.
"""

from __future__ import annotations

import argparse
from importlib import import_module
from typing import Protocol, cast

from pgvigil import registry
from pgvigil.commands.common.groups import Group


class Verb(Protocol):
    GROUP: Group
    SUMMARY: str

    def add_arguments(self, command: argparse.ArgumentParser, /) -> None: ...

    def run(self, arguments: argparse.Namespace, /) -> int: ...


def names() -> list[str]:
    """The verbs as they are typed, in alphabetical order."""
    return sorted(module.replace("_", "-") for module in registry.modules("commands"))


def load(name: str) -> Verb:
    return cast("Verb", import_module(f"{__name__}.{name.replace('-', '_')}"))
