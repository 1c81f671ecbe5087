"""Keeping a migrated database in order."""
