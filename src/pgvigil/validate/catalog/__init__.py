"""The part of pg_catalog that a spec is about, read in one snapshot."""
