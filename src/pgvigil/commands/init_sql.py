"""`pgvigil init-sql`: the script that builds the schema with psql alone."""

from __future__ import annotations

import argparse

from pgvigil import project
from pgvigil.commands.common import output
from pgvigil.commands.common.groups import Group
from pgvigil.visible_sql import print_sql

GROUP = Group.SCHEMA
SUMMARY = "print the script that builds the schema with psql alone"


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("--write", action="store_true", help=f"write {project.INIT_SQL.name} instead")


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.migration import files, init_script

    script = init_script.generate(files.load(project.MIGRATIONS))
    return output.generated(script, project.INIT_SQL if arguments.write else None, print_sql)
