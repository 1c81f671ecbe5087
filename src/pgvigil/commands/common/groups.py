"""The headings of `pgvigil --help`, in this order."""

from enum import StrEnum


class Group(StrEnum):
    SCHEMA = "the schema of a database"
    BACKUPS = "backups"
    JOBS = "regular jobs and archives"
    LOOK = "looking at a database"
    WEB = "dashboard and metrics"
    OWN = "migrations and specs of your own"
    PROGRAM = "this program and its server"
