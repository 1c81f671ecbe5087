"""The safe rewrite of a statement, with its own names where they can be read from it."""

from __future__ import annotations

from pgvigil.migration.sql_lexer import Statement, Token

ALONE = "in a file of its own that runs without a transaction"


def target(statement: Statement) -> str:
    """The table, or other object, that a statement is about, as it writes it."""
    tokens = list(statement.tokens)
    words = [t.text.upper() for t in tokens]
    if words[:1] == ["CREATE"] and "INDEX" in words[:3] and "ON" in words:
        at = words.index("ON") + 1
    elif words[0] in ("UPDATE", "TRUNCATE", "CLUSTER"):
        at = 1
    elif words[:2] in (["DELETE", "FROM"], ["INSERT", "INTO"], ["MERGE", "INTO"]):
        at = 2
    else:
        at = 3 if words[1:3] == ["MATERIALIZED", "VIEW"] else 2
    while at < len(tokens) and words[at] in ("IF", "NOT", "EXISTS", "ONLY", "TABLE", "CONCURRENTLY", "VERBOSE"):
        at += 1
    return _name(tokens, at)


def instead(rule: str, statement: Statement, table: str) -> str:
    """Return a better way in one or more lines, or an empty text where there is none."""
    words = [t.text.upper() for t in statement.tokens]
    if rule in ("rewrite", "full-read"):
        return _measured(statement, words, table)
    if rule == "bulk-change":
        return f"change a few thousand rows at a time, each batch committed: … WHERE id IN (SELECT id FROM {table} WHERE … LIMIT 5000)"
    if rule == "no-transaction":
        return f"put it {ALONE}: first line -- pgvigil: no-transaction"
    if rule == "session-reset":
        return "take it out: the tool that runs the file sets lock_timeout and holds its lock"
    if rule in ("drop-column", "drop-table"):
        return "first deploy an application that no longer uses it; then drop it in a later file"
    if rule == "rename":
        return "add the new name beside the old one, deploy, then drop the old one in a later file"
    if rule == "if-not-exists":
        return "leave IF NOT EXISTS out, or run DROP INDEX CONCURRENTLY IF EXISTS before it"
    if rule == "time-zone":
        return "say which TimeZone the server has: --timezone NAME, or --database-url to ask it"
    return ""


def _measured(statement: Statement, words: list[str], table: str) -> str:
    if words[0] == "CREATE" and "INDEX" in words[:3]:
        at = statement.tokens[words.index("INDEX")]
        cut = at.start - statement.tokens[0].start + len(at.text)
        return f"{ALONE}:  {' '.join((statement.text[:cut] + ' CONCURRENTLY' + statement.text[cut:]).split())};"
    if words[0] == "REINDEX":
        kind = words[1] if words[1] in ("INDEX", "TABLE", "SCHEMA") else "TABLE"
        return f"{ALONE}:  REINDEX {kind} CONCURRENTLY {_name(list(statement.tokens), 2)};"
    if words[:2] == ["REFRESH", "MATERIALIZED"]:
        return f"{ALONE}:  REFRESH MATERIALIZED VIEW CONCURRENTLY {target(statement)};  (needs a unique index on it)"
    if words[0] in ("CLUSTER", "VACUUM"):
        return "pg_repack or pg_squeeze do the same while readers and writers go on"
    if words[:2] == ["ALTER", "DOMAIN"]:
        return _steps(
            f"ALTER DOMAIN {target(statement)} ADD CONSTRAINT … CHECK (…) NOT VALID",
            f"ALTER DOMAIN {target(statement)} VALIDATE CONSTRAINT …",
        )
    if words[:2] != ["ALTER", "TABLE"]:
        return "commit what holds the lock first: put this statement into a file of its own, after it"
    return _alter_table(statement, words, table)


def _alter_table(statement: Statement, words: list[str], table: str) -> str:
    name = target(statement)
    tokens = list(statement.tokens)
    if "VALIDATE" in words:
        return "put VALIDATE CONSTRAINT into the next file: in this transaction the stronger lock of the line before is still held"
    if "ATTACH" in words:
        part = _name(tokens, words.index("PARTITION") + 1) if "PARTITION" in words else "the partition"
        return _steps(
            f"ALTER TABLE {part} ADD CONSTRAINT … CHECK (the bounds of the partition) NOT VALID",
            f"ALTER TABLE {part} VALIDATE CONSTRAINT …", "this statement, which then reads nothing",
        )  # fmt: skip
    if _has(words, "SET", "NOT", "NULL"):
        column = tokens[words.index("SET") - 1].text
        return _steps(
            f"ALTER TABLE {name} ADD CONSTRAINT {_join(column, 'not_null')} CHECK ({column} IS NOT NULL) NOT VALID",
            f"ALTER TABLE {name} VALIDATE CONSTRAINT {_join(column, 'not_null')}",
            f"ALTER TABLE {name} ALTER COLUMN {column} SET NOT NULL, DROP CONSTRAINT {_join(column, 'not_null')}",
        )
    if "TYPE" in words and "ALTER" in words[2:]:
        column = tokens[words.index("TYPE") - (3 if _has(words, "SET", "DATA", "TYPE") else 1)].text
        return (
            f"add a column of the new type beside {column}, fill it by a trigger and in batches, then swap the names;\n"
            f"for a limit alone:  {column} text with CHECK (length({column}) <= n) NOT VALID, then VALIDATE CONSTRAINT"
        )
    if _has(words, "USING", "INDEX"):
        return "make the columns NOT NULL first, in the three steps of SET NOT NULL; then this reads nothing"
    if "UNIQUE" in words or _has(words, "PRIMARY", "KEY"):
        what = "UNIQUE" if "UNIQUE" in words else "PRIMARY KEY"
        constraint = tokens[words.index("CONSTRAINT") + 1].text if "CONSTRAINT" in words else f"{_last(name)}_key"
        at = words.index("UNIQUE") if what == "UNIQUE" else words.index("KEY")
        columns = _columns(tokens, at + 1) or "(…)"
        return _steps(
            f"CREATE UNIQUE INDEX CONCURRENTLY {constraint} ON {name} {columns}  ({ALONE})",
            f"ALTER TABLE {name} ADD CONSTRAINT {constraint} {what} USING INDEX {constraint}",
        )
    if "EXCLUDE" in words:
        return (
            "an exclusion constraint cannot be built beside running writers: do it at a quiet time, or in a new table"
        )
    if _adds_column(words):
        if "GENERATED" in words and "STORED" in words:
            return "add a plain column, fill it by a trigger and in batches; or compute it in a view (18: GENERATED … VIRTUAL)"
        if "IDENTITY" in words or any(word.endswith("SERIAL") for word in words):
            return "add a plain column, fill it in batches, then SET NOT NULL in three steps and ADD GENERATED … AS IDENTITY"
        if "DEFAULT" in words:
            return "add the column without a default, then SET DEFAULT, then fill the old rows in batches"
        return "add the column bare, then each constraint in steps of its own (NOT VALID, then VALIDATE CONSTRAINT)"
    if "CHECK" in words or "REFERENCES" in words:
        constraint = (
            tokens[words.index("CONSTRAINT") + 1].text if "CONSTRAINT" in words else _default_name(tokens, words, name)
        )
        return _steps(
            f"{' '.join(statement.text.split())} NOT VALID", f"ALTER TABLE {name} VALIDATE CONSTRAINT {constraint}"
        )
    return f"do it at a quiet time: {table} cannot be used meanwhile; or build a new table beside it and swap the names"


def _default_name(tokens: list[Token], words: list[str], table: str) -> str:
    """Return the name that PostgreSQL gives to a constraint without one."""
    if "FOREIGN" in words:
        columns = _columns(tokens, words.index("FOREIGN")).strip("()").replace(", ", "_").replace('"', "")
        return f"{_last(table)}_{columns}_fkey"
    return "(its name)"


def _steps(*steps: str) -> str:
    count = {2: "in two files", 3: "in three files"}[len(steps)]
    return f"{count}, one after the other:\n" + "\n".join(
        f"{n}. {step};" if step.isascii() and step[:1].isupper() and not step.endswith(")") else f"{n}. {step}"
        for n, step in enumerate(steps, 1)
    )


def _adds_column(words: list[str]) -> bool:
    if "ADD" not in words:
        return False
    following = words[words.index("ADD") + 1]
    return following not in ("CONSTRAINT", "CHECK", "UNIQUE", "PRIMARY", "FOREIGN", "EXCLUDE")


def _has(words: list[str], *some: str) -> bool:
    return any(tuple(words[at : at + len(some)]) == some for at in range(len(words)))


def _name(tokens: list[Token], at: int) -> str:
    """A name with its schema, from here on."""
    if at >= len(tokens):
        return "…"
    name = tokens[at].text
    while at + 2 < len(tokens) and tokens[at + 1].text == ".":
        name += f".{tokens[at + 2].text}"
        at += 2
    return name


def _last(name: str) -> str:
    return name.rpartition(".")[2].strip('"')


def _join(name: str, end: str) -> str:
    return f'{name[:-1]}_{end}"' if name.endswith('"') else f"{name}_{end}"


def _columns(tokens: list[Token], at: int) -> str:
    """The list in parentheses that begins here, or soon after."""
    texts = [t.text for t in tokens]
    if "(" not in texts[at:]:
        return ""
    first = texts.index("(", at)
    last = texts.index(")", first) if ")" in texts[first:] else len(texts) - 1
    return "".join(f"{text} " if text == "," else text for text in texts[first : last + 1])
