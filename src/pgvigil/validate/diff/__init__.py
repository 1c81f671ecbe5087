"""The difference between a spec and a database."""
