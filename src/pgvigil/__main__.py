"""`pgvigil`, and `python -m pgvigil`: what the scripts call, so that a checkout works before anything is installed."""

from __future__ import annotations

import gc
import os
import signal
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

# Nothing else is imported up here: where a password is to be hidden, all of it would be loaded twice.


def main() -> NoReturn:
    _let_signals_end_with(130)  # until the command handles them: nothing has begun
    _prepare_streams()
    _hide_secrets()
    if sys.argv[1:2] == ["validate"]:
        gc.disable()  # its process ends before there is garbage; to look for it was a fifth of the time with 1,000 tables
    from pgvigil.cli import main

    try:
        status = main()
    except KeyboardInterrupt:  # a second signal, while the first one's cleanup ran
        status = 130
    _let_signals_end_with(status)
    _leave(status)


def _let_signals_end_with(status: int) -> None:
    """End the process with this status, and without a traceback, at a signal that is not ignored."""
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):
        if signal.getsignal(number) != signal.SIG_IGN:
            signal.signal(number, lambda *_: os._exit(status))


def _prepare_streams() -> None:
    """Prepare stdout and stderr so that no output fails: they may be closed, and a terminal may lack some characters."""
    # `>&-`: neither a file nor a connection takes their place.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - it lasts as long as we do
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _hide_secrets() -> None:
    """Start again with secrets in the environment where the arguments contain any, because the process list shows
    arguments.
    """
    from pgvigil import argv

    words, given = argv.hide(sys.argv[1:])
    if given:
        os.execve(  # noqa: S606 - ourselves
            sys.executable, [sys.executable, "-P", "-m", "pgvigil", *words], {**os.environ, **given}
        )


def _leave(status: int) -> NoReturn:
    """End the process without the interpreter's cleanup, which would be a tenth of a verdict's time."""
    import threading
    from contextlib import suppress

    for thread in threading.enumerate():
        if thread is not threading.current_thread() and not thread.daemon:
            thread.join()
    with suppress(OSError):  # `… | head`: the reader has seen enough
        sys.stdout.flush()
    os._exit(status)


if __name__ == "__main__":
    main()
