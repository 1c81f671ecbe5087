"""The errors of pgvigil, each with its documented exit code.

An error says what happened and what it means (the message) and what to type next (the hint).
"""

from __future__ import annotations

from typing import ClassVar, Final

# A query is cancelled if another transaction has changed what it reads; on a standby, if the replay of changes waits for it.
AFTER_CONFLICT: Final = (
    "Run this again. On a standby, hot_standby_feedback = on, or a longer max_standby_streaming_delay, makes it rare."
)

# Printed by `pgvigil --help` and on docs/exit-codes.md.
EXIT_CODES: Final = {
    0: "ok",
    1: "findings (`validate`, `health`, `explain`, `check`, `lint`), a job is overdue (`maintain status`), or alerts (`session-monitoring alerts`)",
    2: "usage, a broken file (spec, migration, `.env`), or a statement that fails (`profile`, `explain`)",
    3: "no connection, the connection was lost, not everything could be compared (`lint`: measured), or no worker reports (`session-monitoring`)",
    4: "precondition failed: this command cannot work on this database as it is",
    5: "no verified backup; nothing was changed",
    6: "another run in progress, or a table lock that was not granted in time",
    7: "a migration failed and was rolled back (`guard`: the command failed; its own code is in the report)",
    8: "migrated, but the schema does not meet the spec",
    9: "restore failed; the database is as it was",
    10: "a maintenance job failed",
    11: "an archive is damaged or missing; nothing of it was read as data",
    70: "a defect of pgvigil itself: no verdict; please report what it printed",
    130: "interrupted",
}


class PgvigilError(Exception):
    """An expected failure; the command line prints message and hint and exits with `exit_code`."""

    exit_code: ClassVar[int] = 2

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class UsageError(PgvigilError):
    """An error in the call, or in a file that the call depends on (the spec, `.env`)."""

    exit_code = 2


class ConnectError(PgvigilError):
    """An error that says that the server is unreachable, has no such database, or refused the login."""

    exit_code = 3


class NoWorkerError(PgvigilError):
    """An error that says that no worker process reports, so there are no numbers, not even zeros."""

    exit_code = 3


class PreconditionError(PgvigilError):
    """An error that says that this command cannot work on the database as it is."""

    exit_code = 4


class PoolerError(PreconditionError):
    """An error that says that a pooler shares sessions between its clients: waiting does not help."""


class BackupError(PgvigilError):
    """An error that says that no backup could be read back; nothing after it was tried."""

    exit_code = 5


class LockedError(PgvigilError):
    """An error that says that another session holds a required lock: another run, or a table lock that was not granted in time."""

    exit_code = 6


class MigrationError(PgvigilError):
    """An error that says that a migration failed and was rolled back."""

    exit_code = 7


class InvalidSchemaError(PgvigilError):
    """An error that says that migrations were applied, but the result does not meet the spec."""

    exit_code = 8


class RestoreError(PgvigilError):
    """An error that says that the backup did not replace the database; the database is as it was."""

    exit_code = 9


class UnequalError(RestoreError):
    """An error that says that an archive, or a copy restored from it, does not match its manifest; the backup is unusable."""


class JobError(PgvigilError):
    """An error that says that a maintenance job failed; its earlier commits stay, and the next run continues from there."""

    exit_code = 10


class ArchiveError(PgvigilError):
    """An error that says that an archive is damaged, missing or not to be trusted; nothing of it is read as data."""

    exit_code = 11
