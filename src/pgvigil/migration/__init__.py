"""Versioned SQL migrations: from the files to a database, and back."""
