"""The examples of docs/your-own-migrations.md do what the page says, typed as they are there, one after the other."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PROJECT, Database

pytestmark = pytest.mark.client_side

PAGE = (PROJECT / "docs" / "your-own-migrations.md").read_text()
EXAMPLES = re.findall(r"^```console\n(.*?)^```", PAGE, re.M | re.S)


def typed(example: str) -> list[tuple[str, list[str]]]:
    """Return each command of an example, including here documents, with the lines that the page shows of its output."""
    found: list[tuple[str, list[str]]] = []
    ends = ""
    for line in example.splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
            ends = (re.findall(r"<<'(\w+)'", line) or [""])[0]
        elif ends:
            found[-1] = (f"{found[-1][0]}\n{line}", [])
            ends = "" if line == ends else ends
        else:
            found[-1][1].append(line)
    return found


def test_the_examples_of_the_page_do_what_it_says(tmp_path: Path, database: Database, another: Database) -> None:
    (tmp_path / "bin").mkdir()
    program = tmp_path / "bin" / "pgvigil"
    program.write_text(f'#!/bin/sh\nexec {sys.executable} -P -m pgvigil "$@"\n')
    program.chmod(0o755)
    for number, example in enumerate(EXAMPLES):
        place = tmp_path / ("dbmate" if "dbmate" in example else "plain")
        place.mkdir(exist_ok=True)
        environment = {
            "PATH": f"{program.parent}:{os.environ['PATH']}", "HOME": str(tmp_path), "LANG": "C.UTF-8",
            "PYTHONPATH": str(PROJECT / "src"), "DATABASE_URL": (another if "dbmate" in example else database).url,
        }  # fmt: skip
        commands = typed(example)
        assert commands, f"example {number} types nothing"
        for command, shown in commands:
            done = subprocess.run(
                ["/bin/sh", "-c", command], cwd=place, env=environment, capture_output=True, text=True, check=False
            )
            assert done.returncode == 0, f"{command}\n{done.stderr}"
            for line in shown:
                assert line in done.stdout, f"{command} printed\n{done.stdout}{done.stderr}"
