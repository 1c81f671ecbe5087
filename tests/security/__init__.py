"""Attacks by legitimate users of a database, and the walk over the catalog that shows which objects are open to whom."""
