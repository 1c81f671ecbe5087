"""The state of a migrated database: health, sizes, connected sessions, plans of statements."""
