"""pgvigil: brings a live session database, new or existing, to a schema that watches it."""

__version__ = "0.1.0"
