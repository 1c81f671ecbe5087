"""`pgvigil help`: the pages of docs/, which an installation has with it."""

from __future__ import annotations

import argparse
import difflib
import re
import sys

from pgvigil import commands, project
from pgvigil.commands.common.groups import Group
from pgvigil.errors import UsageError
from pgvigil.text import trusted, visible

GROUP = Group.PROGRAM
SUMMARY = "print a page of the documentation, or the help of a command"
_TOO_LONG = ("reference",)  # generated, and listed last: a person looks up a table there


def add_arguments(command: argparse.ArgumentParser) -> None:
    command.add_argument("topic", nargs="?", metavar="TOPIC", help="a page or a command (default: list the pages)")


def run(arguments: argparse.Namespace) -> int:
    topic: str | None = arguments.topic
    if topic is None:
        print(_listing())
        return 0
    name = topic.removesuffix(".md").removeprefix("docs/").lower()
    path = project.DOCS / f"{name}.md"
    if re.fullmatch(r"[\w-]+", name) and path.is_file():
        _show(path.read_text(encoding="utf-8"))
        return 0
    if name in commands.names():
        arguments.build([name]).parse_args([name, "--help"])
    near = difflib.get_close_matches(name, sorted({*_topics(), *commands.names()}), 3, 0.6)
    raise UsageError(
        f"there is no page and no command {topic!r}",
        f"Did you mean {' or '.join(near)}?" if near else "List the pages: pgvigil help",
    )


def _topics() -> list[str]:
    names = sorted(path.stem for path in project.DOCS.glob("*.md"))
    return [name for name in names if name not in _TOO_LONG] + [name for name in names if name in _TOO_LONG]


def _listing() -> str:
    topics = _topics()
    width = max(map(len, topics), default=0) + 2
    lines = [f"  {name:<{width}}{_title(name)}" for name in topics]
    program = project.program()
    return "\n".join(["pages:", *lines, "", f"{program} help PAGE prints one; {program} --help lists the commands."])


def _title(name: str) -> str:
    with (project.DOCS / f"{name}.md").open(encoding="utf-8") as page:
        return next((line.lstrip("# ").strip() for line in page if line.startswith("# ")), name)


def _show(page: str) -> None:
    """Print Markdown: rendered on a terminal, else as it is written."""
    if not sys.stdout.isatty():
        print(visible(page), end="", file=trusted(sys.stdout))
        return
    from rich.console import Console
    from rich.markdown import Markdown

    console = Console(file=trusted(sys.stdout))
    console.print(Markdown(visible(page), hyperlinks=False), width=min(console.width, 120))
