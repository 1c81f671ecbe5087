"""What each command does: it reads its call, has a wing do the work, and prints.

A function here takes the arguments of its command and returns the exit code; it imports a wing where it calls it, so that
a verdict of `validate` does not wait for Alembic to load.
"""
