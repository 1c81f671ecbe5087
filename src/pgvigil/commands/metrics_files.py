"""`pgvigil metrics-files`: alert rules for Prometheus and a dashboard for Grafana."""

from __future__ import annotations

import argparse
from importlib import resources
from pathlib import Path

from pgvigil import input_files
from pgvigil.commands.common.groups import Group
from pgvigil.errors import UsageError

GROUP = Group.WEB
SUMMARY = "write alert rules, their tests and a Grafana dashboard into a directory"
_FILES = ("prometheus/rules.yml", "prometheus/rules_test.yml", "grafana/pgvigil.json")


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("directory", type=Path, metavar="DIR", help="the directory; made if it is not there")
    command.add_argument("--overwrite", action="store_true", help="also files that are there and differ")


def run(arguments: argparse.Namespace) -> int:
    source = resources.files("pgvigil.observability")
    texts = {name: source.joinpath(name).read_text(encoding="utf-8") for name in _FILES}
    for name, text in texts.items():
        path = arguments.directory / name
        if not arguments.overwrite and path.exists() and _existing(path) != text:
            raise UsageError(
                f"{path} is there, and differs: nothing was written", "Choose another directory, or add --overwrite."
            )
    for name, text in texts.items():
        path = arguments.directory / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        print(path)
    return 0


def _existing(path: Path) -> str | None:
    try:
        return input_files.read_text(path, input_files.SMALL)
    except (OSError, UnicodeDecodeError):
        return None
