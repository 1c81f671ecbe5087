"""Backups: created, verified by a scratch restore, listed, restored. Independent of pgvigil.validate."""
