"""The regular jobs of a migrated database."""
