"""Every way pgvigil can refuse or fail, each with its documented exit code.

An error says what happened and what it means (the message) and what to type next (the hint).
"""

from __future__ import annotations

from typing import ClassVar


class PgvigilError(Exception):
    """Base of all expected failures; the command line prints message and hint and exits with `exit_code`."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PgvigilError):
    """The call, or a file the call depends on (the spec, `.env`), is not usable as it stands."""

    exit_code = 2


class ConnectError(PgvigilError):
    """No server, no such database, or the server would not let us in."""

    exit_code = 3


class NoWorkerError(PgvigilError):
    """No worker process reports, so there are no numbers, not even zeros."""

    exit_code = 3


class PreconditionError(PgvigilError):
    """The database is reachable but is not one this command may work on as it stands."""

    exit_code = 4


class BackupError(PgvigilError):
    """No backup that could be read back; nothing after it was tried."""

    exit_code = 5


class LockedError(PgvigilError):
    """Somebody else holds what we need: another run, or a lock that did not come free in time."""

    exit_code = 6


class MigrationError(PgvigilError):
    """A migration failed and was rolled back."""

    exit_code = 7


class InvalidSchemaError(PgvigilError):
    """Migrations went in, but the result does not meet the spec."""

    exit_code = 8


class RestoreError(PgvigilError):
    """The backup was not put in the database's place; the database is as it was."""

    exit_code = 9


class UnequalError(RestoreError):
    """An archive, or what was restored from it, is not what its manifest says: the backup is no backup."""


class JobError(PgvigilError):
    """A maintenance job failed; what it had committed before that stays, and the next run goes on from there."""

    exit_code = 10
