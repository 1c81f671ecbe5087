"""`pgvigil demo`: one command, and the dashboard is there; after it nothing is."""

from __future__ import annotations

import json
import os
import re
import signal
import subprocess
import sys
from pathlib import Path
from urllib.request import urlopen

import pytest

from conftest import PROJECT, Run

pytestmark = pytest.mark.client_side
BASE = "/admin/session-monitoring/dashboard/"


def test_the_demo_shows_made_up_data_and_leaves_nothing(tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-m", "pgvigil", "demo", "--listen", "127.0.0.1:0", "--sessions", "60"]
    environment = {"PATH": os.environ["PATH"], "HOME": str(tmp_path), "PYTHONPATH": str(PROJECT / "src")}
    process = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE, text=True)
    assert process.stderr
    said = ""
    while "serving on" not in said:
        line = process.stderr.readline()
        assert line, said
        said += line
    [url] = re.findall(r"serving on (http://\S+)", said)
    [directory] = re.findall(r"host=(/tmp/[^/]+)", said)
    with urlopen(url, timeout=30) as answer:  # noqa: S310 - ours
        assert answer.url == f"{url}{BASE}"
        assert b"<title>Overview" in answer.read()
    with urlopen(f"{url}{BASE}state?page=overview", timeout=30) as answer:  # noqa: S310 - ours
        sections = json.load(answer)["sections"]
    assert sum(sections["sessions_now"]["data"][0]["by_status"].values()) > 30
    assert len(sections["sessions_created"]["data"]) > 20
    assert len(sections["executions_hours"]["data"]) > 20
    assert Path(directory).exists()
    process.send_signal(signal.SIGINT)
    process.communicate(timeout=60)
    assert process.returncode == 0
    assert not Path(directory).exists()


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--listen", "0.0.0.0:0"], "open to other machines"),
        (["--listen", "127.0.0.1"], "not an address"),
        (["--no-load", "--sessions", "0"], "1 to 100000"),
    ],
)
def test_a_demo_that_could_not_be_is_refused(call: Run, words: list[str], said: str) -> None:
    done = call("pgvigil", "demo", *words)
    assert done.returncode == 2
    assert said in done.stderr
