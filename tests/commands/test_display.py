"""Test the display of a run: a live line on a terminal, plain lines elsewhere."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from conftest import PROJECT, Database
from pgvigil import display

pytestmark = pytest.mark.client_side


def on_a_terminal(database: Database, tmp_path: Path, **environment: str) -> str:
    """Return the output of a migration on its terminal."""
    controller, terminal = pty.openpty()
    call = [sys.executable, "-P", "-m", "pgvigil", "migrate", "--database-url", database.url, "--backup-dir", tmp_path]
    inherited = {key: value for key, value in os.environ.items() if key != "NO_COLOR"}
    inherited |= {"PYTHONPATH": str(PROJECT / "src"), "TERM": "xterm-256color"} | environment
    with subprocess.Popen(call, env=inherited, stdin=terminal, stdout=terminal, stderr=terminal):
        os.close(terminal)
        seen = b""
        try:
            while chunk := os.read(controller, 65536):
                seen += chunk
        except OSError:  # Linux: nobody is at the other end any more
            pass
    os.close(controller)
    return seen.decode()


def test_a_terminal_shows_what_the_run_is_at_and_ends_clean(existing: Database, tmp_path: Path) -> None:
    seen = on_a_terminal(existing, tmp_path)
    assert "\x1b[?25l" in seen  # the cursor is hidden while the line lives …
    assert seen.rindex("\x1b[?25h") < seen.rindex("migrated from base to")  # … and back before the report
    assert "\x1b[3" in seen


def test_no_color_is_honoured(existing: Database, tmp_path: Path) -> None:
    seen = on_a_terminal(existing, tmp_path, NO_COLOR="1")
    assert "migrated from base to" in seen
    assert "\x1b[3" not in seen


def test_elsewhere_there_are_plain_lines(capfd: pytest.CaptureFixture[str]) -> None:
    with display.reporter() as log:
        log("backing up")
    assert capfd.readouterr().err == "   0.0 s  backing up\n"


@pytest.mark.parametrize(("every", "lines"), [(5.0, []), (0.0, ["   0.0 s  scanning (25%)"])])
def test_plain_progress_is_reported_only_now_and_then(
    capfd: pytest.CaptureFixture[str], every: float, lines: list[str]
) -> None:
    with display.reporter(every) as log:
        log("building")
        log.progress("scanning", 0.25)
    assert capfd.readouterr().err.splitlines() == ["   0.0 s  building", *lines]
