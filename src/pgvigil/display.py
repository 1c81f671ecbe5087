"""Display a run: on a terminal with a status line for the current step, elsewhere as plain lines."""

from __future__ import annotations

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager

from pgvigil import text
from pgvigil.progress import Reporter


@contextmanager
def reporter(every: float = 5.0) -> Iterator[Reporter]:
    """Yield a reporter that prints to stderr until the block ends; without a terminal, a line about one step every so many seconds."""
    with _live() if sys.stderr.isatty() else _plain(every) as log:
        yield log


@contextmanager
def _plain(every: float) -> Iterator[Reporter]:
    begin = spoken = time.monotonic()

    def write(line: str) -> None:
        nonlocal spoken
        spoken = time.monotonic()
        print(text.block(f"{spoken - begin:6.1f} s  {line}"), file=sys.stderr, flush=True)

    def show(step: str, fraction: float | None) -> None:
        if time.monotonic() - spoken >= every:
            write(step if fraction is None else f"{step} ({fraction:.0%})")

    yield Reporter(write, show)


@contextmanager
def _live() -> Iterator[Reporter]:
    from rich.console import Console
    from rich.progress import BarColumn, Progress, SpinnerColumn, TextColumn, TimeElapsedColumn
    from rich.table import Column

    begin = time.monotonic()
    # rich itself respects NO_COLOR and TERM=dumb.
    console = Console(file=text.trusted(sys.stderr), highlight=False, markup=False, soft_wrap=True)
    columns = (
        SpinnerColumn(),
        TextColumn("{task.description}", markup=False, table_column=Column(no_wrap=True, overflow="ellipsis")),
        BarColumn(bar_width=20),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True, redirect_stdout=False, redirect_stderr=False) as shown:
        task = shown.add_task("", total=None)

        def write(line: str) -> None:
            console.print(text.block(f"{time.monotonic() - begin:6.1f} s  {line}"))
            shown.reset(task, total=None, description=text.one_line(line.strip()))

        def show(step: str, fraction: float | None) -> None:
            shown.update(
                task,
                description=text.one_line(step.strip()),
                total=None if fraction is None else 1.0,
                completed=fraction or 0,
            )

        yield Reporter(write, show)
