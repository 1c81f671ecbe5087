"""Make the pictures of the dashboard in docs/images, from `pgvigil demo`, with Debian's Chromium.

    scripts/bootstrap.sh test scripts/screenshots.py [--url http://127.0.0.1:8520] [--to DIRECTORY]

Without --url it starts a demo of its own. The pictures have 256 colours, so that they stay small.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.error import URLError
from urllib.request import urlopen

from playwright.sync_api import sync_playwright

ROOT = Path(__file__).resolve().parent.parent
BASE = "/admin/session-monitoring/dashboard/"
FLAGS = ["--no-sandbox", "--disable-gpu", "--disable-background-networking", "--disable-sync"]
# name, page, scheme, width, height
PICTURES = [
    ("overview", "", "light", 1200, 880), ("overview-dark", "", "dark", 1200, 880), ("overview-phone", "", "light", 390, 760),
    ("sessions", "sessions", "light", 1200, 620), ("live", "live", "dark", 1200, 520), ("jobs", "jobs", "light", 1200, 620),
    ("application", "application", "light", 1200, 620),
]  # fmt: skip


@contextmanager
def demo() -> Iterator[str]:
    command = [sys.executable, "-m", "pgvigil", "demo", "--listen", "127.0.0.1:8529"]
    process = subprocess.Popen(command, cwd=ROOT, env={"PYTHONPATH": str(ROOT / "src"), "PATH": "/usr/bin:/bin"})
    url = "http://127.0.0.1:8529"
    try:
        for _ in range(1200):
            if process.poll() is not None:
                raise SystemExit("the demo did not start")
            try:
                urlopen(f"{url}/readyz", timeout=30)  # noqa: S310 - ours
                break
            except (URLError, TimeoutError):
                time.sleep(0.1)
        time.sleep(45)  # until the made-up application has reported, and its jobs have run
        yield url
    finally:
        process.send_signal(signal.SIGINT)
        process.wait(30)


def take(url: str, to: Path) -> None:
    to.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=FLAGS)
        for name, page, scheme, width, height in PICTURES:
            tab = browser.new_page(color_scheme=scheme, viewport={"width": width, "height": height})  # type: ignore[arg-type]
            tab.goto(f"{url}{BASE}{page}")
            tab.wait_for_selector("body[data-complete]")
            if tab.query_selector(".list"):
                tab.wait_for_selector(".list[data-loaded]")
            tab.wait_for_timeout(600)  # charts are drawn in the next frame
            tab.screenshot(path=to / f"{name}.png")
            tab.close()
            _shrink(to / f"{name}.png")
            print(f"{name}.png {(to / f'{name}.png').stat().st_size / 1000:.0f} kB")
        browser.close()


def _shrink(path: Path) -> None:
    if pngquant := shutil.which("pngquant"):
        subprocess.run([pngquant, "--force", "--ext", ".png", "256", str(path)], check=False)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--url", help="a dashboard that runs already, of `pgvigil demo`")
    parser.add_argument("--to", type=Path, default=ROOT / "docs" / "images")
    arguments = parser.parse_args()
    if arguments.url:
        take(arguments.url, arguments.to)
    else:
        with demo() as url:
            take(url, arguments.to)


if __name__ == "__main__":
    main()
