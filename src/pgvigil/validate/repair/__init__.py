"""The SQL that makes a database meet its spec."""
