"""Reading SQL: statements, line numbers, and the hash that ignores comments."""

from __future__ import annotations

from pathlib import Path

import pytest

from pgvigil import project
from pgvigil.migration import files as plan
from pgvigil.migration import sql_lexer

pytestmark = pytest.mark.client_side


def texts(script: str) -> list[str]:
    return [statement.text for statement in sql_lexer.statements(script)]


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT ';'",
        "SELECT 'it''s; fine'",
        r"SELECT E'\';'",
        "SELECT $$ ; $$",
        "SELECT $body$ $$ ; $$ $body$",
        'SELECT ";"',
        "SELECT 1 /* ; /* nested ; */ ; */ + 1",
        "SELECT 1 -- ; no\n+ 1",
        "SELECT a$b$c, 1 AS x$1",
        "CREATE FUNCTION f() RETURNS int LANGUAGE sql BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END",
    ],
)
def test_a_semicolon_inside_a_statement_does_not_end_it(statement: str) -> None:
    assert texts(f"{statement};\nSELECT 2;") == [statement, "SELECT 2"]


def test_statements_know_their_lines() -> None:
    assert [s.line for s in sql_lexer.statements("-- one\nSELECT 1;\n\n/* x\n*/ SELECT\n2;")] == [2, 5]


@pytest.mark.parametrize(
    ("script", "line", "words"),
    [
        ("SELECT 1;\nSELECT $$ never;", 2, r"dollar quote \$\$ that opens here is never closed"),
        ("SELECT 1;\n\nSELECT 'never;", 3, "quote ' that opens here is never closed"),
        ('SELECT "never', 1, 'quote " that opens here is never closed'),
        ("/* never", 1, "comment that opens here is never closed"),
        ("SELECT 1;\n\\d sessions", 2, "psql command"),
    ],
)
def test_what_never_ends_is_named_with_its_line(script: str, line: int, words: str) -> None:
    with pytest.raises(sql_lexer.SqlError, match=words) as caught:
        sql_lexer.statements(script)
    assert caught.value.line == line


@pytest.mark.parametrize("same", ["SELECT  1 ;", "-- hello\nSELECT 1;", "SELECT\r\n1;\r\n", "SELECT /* one */ 1;"])
def test_comments_and_white_space_do_not_change_the_digest(same: str) -> None:
    assert sql_lexer.digest(same) == sql_lexer.digest("SELECT 1;")


@pytest.mark.parametrize("other", ["SELECT 2;", "SELECT '1';", "SELECT 1", "SELECT -- 1\n;"])
def test_everything_else_does(other: str) -> None:
    assert sql_lexer.digest(other) != sql_lexer.digest("SELECT 1;")


def test_concurrently_is_taken_out_of_index_commands_only() -> None:
    script = "CREATE UNIQUE INDEX CONCURRENTLY i ON t (c);\nSELECT 'CONCURRENTLY'; -- CONCURRENTLY\n"
    assert (
        sql_lexer.without_concurrently(script)
        == "CREATE UNIQUE INDEX i ON t (c);\nSELECT 'CONCURRENTLY'; -- CONCURRENTLY\n"
    )


def test_no_transaction_is_part_of_what_a_file_says() -> None:
    inside = plan.Migration(Path("001_x.sql"), b"SELECT 1;")
    outside = plan.Migration(Path("001_x.sql"), b"-- pgvigil: no-transaction\nSELECT 1;")
    assert inside.sha256_tokens != outside.sha256_tokens


def test_transaction_control_in_a_transactional_file_is_refused() -> None:
    with pytest.raises(plan.UsageError, match=r"001_x\.sql:2: COMMIT in a file that runs in a transaction"):
        _ = plan.Migration(Path("001_x.sql"), b"SELECT 1;\nCOMMIT;").statements


def test_transactional_files_go_in_together_and_others_alone() -> None:
    flags = [True, True, False, False, True]
    files = [
        plan.Migration(Path(f"00{n}_x.sql"), b"SELECT 1;" if flag else b"-- pgvigil: no-transaction\n")
        for n, flag in enumerate(flags)
    ]
    assert [[m.revision for m in group] for group in plan.groups(files)] == [["000", "001"], ["002"], ["003"], ["004"]]


def test_every_statement_of_the_migrations_is_found() -> None:
    for migration in plan.load(project.MIGRATIONS):
        assert "".join("".join(t.text for t in s.tokens) for s in migration.statements).count("CREATE") == sum(
            t.text.count("CREATE") for t in sql_lexer.tokens(migration.script)
        )
