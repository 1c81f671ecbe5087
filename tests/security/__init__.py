"""Test attacks by legitimate users of a database, and walk over the catalog to show which objects are open to whom."""
