"""Attacks by legitimate users of a database, and the walk over the catalog that shows what is open to whom."""
