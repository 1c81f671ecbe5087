"""Create backups, verify them by a scratch restore, list and restore them.

This package does not depend on pgvigil.validate.
"""
