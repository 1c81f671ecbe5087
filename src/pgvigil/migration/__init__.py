"""Apply versioned SQL migrations from files to a database, and revert them."""
