"""The errors of a lost connection, which do not come from the server."""

from __future__ import annotations

from collections.abc import Iterator

import psycopg

from pgvigil.errors import ConnectError, PgvigilError

# Reasons for which the server ends a session: shutdown, crash, an administrator, a timeout, a database that is dropped.
_ENDED = ("57P", "25P03", "25P04", "08")


def is_lost(error: BaseException | None) -> bool:
    """Return true if an error, or its cause, is a lost connection and not an answer of the server."""
    while error is not None:
        if isinstance(error, psycopg.OperationalError) and (error.sqlstate or "08").startswith(_ENDED):
            return True
        if isinstance(error, psycopg.InterfaceError):  # psycopg's error for the use of a closed connection
            return True
        error = error.__cause__ or (None if error.__suppress_context__ else error.__context__)
    return False


def lost(error: BaseException, meanwhile: str = "") -> ConnectError:
    """Return the error to raise for one of which `is_lost` is true."""
    # SQLAlchemy, between the server and pgvigil, adds an address to the words; its own errors say only what it can no longer do.
    causes = [one for one in _causes(error) if isinstance(one, psycopg.Error)]
    said = next((one for one in causes if one.sqlstate), None) or next(iter(causes), None)
    ours = error if isinstance(error, PgvigilError) else "the server or the network ended it"
    words = " ".join(str(said or ours).split())
    return ConnectError(f"the connection was lost{meanwhile}: {words}", "Read the server's log, then run this again.")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    while error is not None:
        yield error
        error = error.__cause__ or error.__context__
