"""`pgvigil`, and `python -m pgvigil`: what the scripts call, so that a checkout works before anything is installed."""

from __future__ import annotations

import gc
import os
import re
import sys
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from typing import NoReturn

# Nothing else is imported up here: where a password is to be hidden, all of it would be loaded twice.


def main() -> NoReturn:
    _prepare_streams()
    _hide_password()
    if sys.argv[1:2] == ["validate"]:
        gc.disable()  # its process ends before there is garbage; to look for it was a fifth of the time with 1,000 tables
    from pgvigil.cli import main

    _leave(main())


def _prepare_streams() -> None:
    """So that words cost no verdict, neither where nobody wants them nor where a terminal has not all of their letters."""
    # `>&-`: neither a file nor a connection takes their place.
    for name in ("stdout", "stderr"):
        if getattr(sys, name) is None:
            setattr(sys, name, open(os.devnull, "w", encoding="utf-8"))  # noqa: PTH123, SIM115 - it lasts as long as we do
    sys.stdout.reconfigure(errors="backslashreplace")  # type: ignore[union-attr]


def _hide_password() -> None:
    """A password in --database-url stands in the process list: start over with the address in the environment."""
    words = sys.argv[1:]
    for at, word in enumerate(words):
        option, equals, value = word.partition("=")
        if option == "--database-url" and (equals or at + 1 < len(words)):
            url = value if equals else words[at + 1]
            # What else there is of it may be seen: it tells one run from another.
            shown = "hidden" if "password" in url else re.sub(r"//([^:@/]*):.*@", r"//\1@", url)
            if shown != url:
                words[at : at + (1 if equals else 2)] = [option, shown]
                os.execve(  # noqa: S606 - ourselves
                    sys.executable,
                    [sys.executable, "-P", "-m", "pgvigil", *words],
                    {**os.environ, "PGVIGIL_HIDDEN_URL": url},
                )


def _leave(status: int) -> NoReturn:
    """Ends the process without taking the interpreter apart, which would be a tenth of a verdict's time."""
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
