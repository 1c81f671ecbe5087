"""The settings of sessions and sockets that every connection of a command or a job has."""

from __future__ import annotations

# The session settings of a command or a job, whatever the role, the database or the server sets. A setting that the server does
# not have is skipped. Commands that need another value (a lock_timeout, a search_path) set it themselves, after this.
SESSION = {
    "search_path": "pg_catalog, pg_temp",
    "row_security": "off",  # rows that a policy hides raise an error, so that they are never taken for missing
    "DateStyle": "ISO, YMD",
    "IntervalStyle": "postgres",
    "TimeZone": "UTC",
    "quote_all_identifiers": "off",
    "standard_conforming_strings": "on",
    "array_nulls": "on",
    "transform_null_equals": "off",
    "exit_on_error": "off",  # a savepoint would not survive the error that it is for
    "xmloption": "content",
    "bytea_output": "hex",
    "extra_float_digits": "1",
    "plpgsql.extra_errors": "none",
    "plpgsql.extra_warnings": "none",
    "check_function_bodies": "on",
    "restrict_nonsystem_relation_kind": "",
    "default_table_access_method": "heap",
    "default_tablespace": "",  # that of the database, for which its owner needs no right
    "temp_tablespaces": "",
    "statement_timeout": "0",
    "lock_timeout": "0",
    "idle_in_transaction_session_timeout": "0",
    "idle_session_timeout": "0",
    "transaction_timeout": "0",  # 17
    "default_transaction_isolation": "read committed",
    "default_transaction_read_only": "off",
    "default_transaction_deferrable": "off",
    "client_min_messages": "warning",
    "jit": "off",
}

# How long a dead network or server goes unnoticed. libpq acts on these, here and in children; the server does not know them.
SOCKET = {
    "connect_timeout": "10",
    "keepalives_idle": "30",
    "keepalives_interval": "10",
    "keepalives_count": "3",
    "tcp_user_timeout": "60000",
}
LIMITS = ("statement_timeout", "idle_session_timeout", "idle_in_transaction_session_timeout", "transaction_timeout")
# Settings that pg_dump and pg_restore, which set most of these themselves, do not change, or use before they do.
# With jit, a server set to compile every query takes minutes for the catalog queries of a dump.
OF_CLIENTS = (
    *LIMITS[:3], "quote_all_identifiers", "default_transaction_read_only", "jit", "default_tablespace", "temp_tablespaces",
    "array_nulls", "transform_null_equals", "exit_on_error",
)  # fmt: skip
