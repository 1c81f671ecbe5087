"""The reference of the project's own schema: its spec, and what the COMMENT statements of the migrations say. No server is asked.

The page is kept in the repository, so it must be the same wherever it is written. A database would give the same comments,
but which one it is and what else is in it would have to be the same as well.
"""

from __future__ import annotations

from collections.abc import Iterable

from pgvigil import project
from pgvigil.migration.files import Migration
from pgvigil.migration.sql_lexer import Statement, Token, statements
from pgvigil.placeholders import APPLICATION_SCHEMA
from pgvigil.validate import load_declaration
from pgvigil.validate.catalog.object_ref import ObjectRef
from pgvigil.validate.export import markdown
from pgvigil.validate.spec.document import spelt

_ON_TABLES = ("TRIGGER", "CONSTRAINT", "POLICY", "RULE")


def page(migrations: Iterable[Migration]) -> str:
    ledger = (project.MIGRATIONS / "ledger.sql").read_text()
    scripts = [ledger, *(migration.script for migration in migrations)]
    return markdown.page(load_declaration(project.SPEC), comments(scripts))


def comments(scripts: Iterable[str]) -> dict[ObjectRef, str]:
    """Return the comments by object. Where an object gets several, the last one counts."""
    found: dict[ObjectRef, str] = {}
    for script in scripts:
        for statement in statements(script):
            if statement.starts_with("COMMENT", "ON"):
                ref, comment = _read(statement)
                found[ref] = comment
    return found


def _read(statement: Statement) -> tuple[ObjectRef, str]:
    words = statement.tokens[2:]
    ends = max(at for at, token in enumerate(words) if token.text.upper() == "IS")
    kind, name, value = words[0].text.lower(), words[1:ends], words[ends + 1 :]
    if kind.upper() in _ON_TABLES:
        on = next(at for at, token in enumerate(name) if token.text.upper() == "ON")
        return ObjectRef.on(kind, _joined(name[on + 1 :]), _joined(name[:on])), _text(value)
    if kind == "index":  # whose table the statement does not name
        return ObjectRef("index", _joined(name[-1:])), _text(value)
    return ObjectRef.parse(f"{kind} {_joined(name)}"), _text(value)


def _joined(tokens: Iterable[Token]) -> str:
    """Join the tokens of `f ( uuid , int )` in the form of a path: `f(uuid, integer)`."""
    text = ""
    for token in tokens:
        text += (
            ", "
            if token.text == ","
            else f" {token.text}"
            if text[-1:].isalnum() and token.text[0].isalnum()
            else token.text
        )
    return spelt(text.replace(f"{APPLICATION_SCHEMA}.", ""))  # the application's schema goes without saying


def _text(tokens: Iterable[Token]) -> str:
    """The string, which may go on over several lines; nothing for NULL."""
    return "".join(token.text[1:-1].replace("''", "'") for token in tokens if token.text.startswith("'"))
