"""Redact what must not be stored: secrets in queries, parameters and messages, and values in error messages."""

from pgvigil.live.redact_query import hide_secrets_of_query
from pgvigil.live.redact_text import document, hide_secrets, hide_values, is_harmless, storable

__all__ = ["document", "hide_secrets", "hide_secrets_of_query", "hide_values", "is_harmless", "storable"]
