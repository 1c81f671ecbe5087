"""The words of queries that redact_query reads: what begins another part, what compares, and what takes a secret."""

from __future__ import annotations

COMPARED = frozenset(
    ["like", "ilike", "in", "not", "any", "all", "some", "similar", "to", "is", "between", "rlike", "regexp", "glob"]
)
# These words begin another part of a statement, and what follows no longer belongs to the name.
ELSEWHERE = frozenset(
    ["and", "or", "from", "where", "select", "insert", "update", "delete", "order", "group", "having", "limit", "offset", "join",
     "on", "returning", "then", "when", "else", "end", "set", "values", "as", "valid", "using", "union", "into", "window",
     "fetch", "for"]
)  # fmt: skip
OF_CASE = frozenset(["when", "then", "else", "end", "and", "or"])
ROLES = frozenset(["role", "user", "group", "login"])
AFTER_PASSWORD = frozenset(  # words after PASSWORD in the statements that make roles
    ["null", "expire", "history", "reuse", "require", "valid", "lock", "unlock", "default", "never", "for", "in", "to"]
)
AFTER_BY = frozenset(["values", "password", "random"])
# Calls with a name in one argument, or in a template, and its value in another one.
PAIRING = frozenset(
    ["set_config", "jsonb_set", "jsonb_set_lax", "jsonb_insert", "jsonb_object", "json_object", "hstore", "jsonb_path_exists",
     "jsonb_path_query", "jsonb_path_match", "xmlelement", "nullif", "coalesce", "ifnull", "isnull", "nvl", "greatest", "least",
     "starts_with", "strpos", "instr", "locate", "charindex", "similarity", "word_similarity", "levenshtein", "regexp_like",
     "regexp_match", "regexp_matches", "regexp_count", "regexp_instr", "regexp_substr"]
)  # fmt: skip
CIPHERS = frozenset(
    ["crypt", "hmac", "encrypt", "decrypt", "encrypt_iv", "decrypt_iv", "pgp_pub_decrypt", "pgp_pub_decrypt_bytea"]
    + [f"pgp_sym_{way}{of}" for way in ("encrypt", "decrypt") for of in ("", "_bytea")]
)  # fmt: skip
SIGNERS = frozenset(["sign", "verify"])  # of pgjwt; sign(-1) is of the server's own, and has no string
SHELLS = frozenset(["program", "xp_cmdshell"])  # COPY … PROGRAM: a string after it is a command line
OF_VALUES = frozenset(["value", "val", "setting", "content"])  # columns beside a column of names
