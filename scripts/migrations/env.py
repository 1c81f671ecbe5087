"""The entry of Alembic: `alembic upgrade head` and the runner go the same way from here."""

from pgvigil.migration.apply import run_environment

run_environment()
