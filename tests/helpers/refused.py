"""A call that is refused: its exit code, its message and its hint."""

from __future__ import annotations

import re
import subprocess


def refused(done: subprocess.CompletedProcess[str], code: int, words: str) -> None:
    assert done.returncode == code, done.stderr
    assert re.search(words, done.stderr), done.stderr
    assert "hint: " in done.stderr
    assert "Traceback" not in done.stderr
    assert "applied" not in done.stdout + done.stderr
    assert done.stdout == ""
