"""The layout of scripts/migrations/: a line fits a window, an attribute has a line, a comment says more than a name."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgvigil import project
from pgvigil.migration import files
from pgvigil.migration.sql_lexer import Statement, statements

pytestmark = pytest.mark.client_side

FILES = sorted(project.MIGRATIONS.rglob("*.sql"))
_ATTRIBUTE = (
    r"LANGUAGE \w+|STABLE|IMMUTABLE|VOLATILE|STRICT|PARALLEL \w+|SECURITY \w+|LEAKPROOF|SET \w+ = .+|AS \$\w*\$"
)
_SEVERAL = re.compile(rf"^\s*(?:.*\)\s)?LANGUAGE \w+ +(?:{_ATTRIBUTE})")
# Words that a comment may use and still say nothing beyond the name.
_EMPTY = re.compile(
    r"\b(an?|the|of|or|and|is|are|was|were|its?|in|on|at|by|to|for|from|when|what|which|who|whether|how|this|that|these|those"
    r"|time|has|have|had|one|each|row|per|with|as|name|does|do|did|column|table|if|where)\b"
)


def stem(word: str) -> str:
    return re.sub(r"(?<=\w{3})(ing|ed|es|s|e|d)$", "", word)


def content(text: str) -> set[str]:
    return {stem(word) for word in re.findall(r"[a-z]+", _EMPTY.sub(" ", text.lower()))}


def is_vacuous(statement: Statement) -> bool:
    """Return true if the text of a COMMENT has no word that the name of its object has not."""
    names = [token.text for token in statement.tokens]
    at = names.index("IS")
    name, text = " ".join(names[2:at]), "".join(word[1:-1] for word in names[at + 1 :])
    of_others = [word for word in re.findall(r"\w+_\w+", text) if word not in name]
    return not of_others and content(text) <= content(name.replace("_", " "))


def lines() -> list[tuple[str, str]]:
    return [
        (f"{path.relative_to(project.MIGRATIONS)}:{number}", line)
        for path in FILES
        for number, line in enumerate(path.read_text().splitlines(), 1)
    ]


def test_no_line_is_longer_than_120_columns() -> None:
    assert [place for place, line in lines() if len(line) > 120] == []


def test_no_line_ends_in_blanks_or_holds_a_tab() -> None:
    assert [place for place, line in lines() if line != line.rstrip() or "\t" in line] == []


def test_no_literal_holds_a_backslash() -> None:
    """A function is read in the session that calls it: with standard_conforming_strings = off, a backslash means something else."""
    assert [place for place, line in lines() if "\\" in line.partition("--")[0]] == []


def test_each_attribute_of_a_function_has_a_line_of_its_own() -> None:
    assert [place for place, line in lines() if _SEVERAL.match(line)] == []


@pytest.mark.parametrize("path", FILES, ids=lambda path: Path(path).name)
def test_each_comment_says_more_than_the_name(path: Path) -> None:
    made = [statement for statement in statements(path.read_text()) if statement.starts_with("COMMENT", "ON")]
    assert [statement.text for statement in made if is_vacuous(statement)] == []


@pytest.mark.parametrize(
    ("sql", "vacuous"),
    [
        ("COMMENT ON COLUMN t.deleted_at IS 'When it was deleted'", True),
        ("COMMENT ON COLUMN t.deleted_at IS 'When it was deleted, UTC'", False),
        ("COMMENT ON COLUMN rollups.timed IS 'Those with an execution_time'", False),
    ],
)
def test_a_comment_that_repeats_the_name_is_found(sql: str, vacuous: bool) -> None:
    assert is_vacuous(statements(sql)[0]) is vacuous


def test_no_function_or_type_is_made_or_changed_while_the_tables_of_the_application_are_locked() -> None:
    """The verdict reads them before: pgvigil.validate.catalog.snapshot.read_early."""
    locked = [
        statement
        for migration in files.load(project.MIGRATIONS)
        if migration.revision >= "011" and migration.transactional and migration.revision < "014"
        for statement in migration.statements
    ]
    first = next(place for place, statement in enumerate(locked) if statement.starts_with("LOCK"))
    changed = re.compile(
        r"\b(CREATE|ALTER|DROP)\s+(OR\s+REPLACE\s+)?(FUNCTION|PROCEDURE|ROUTINE|AGGREGATE|TYPE|DOMAIN)\b", re.IGNORECASE
    )
    assert [statement.text for statement in locked[first:] if changed.search(statement.text)] == []
