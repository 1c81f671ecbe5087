"""A database whose objects of pgvigil another state of pgvigil made, or somebody changed, is never taken for a defect of pgvigil."""

from __future__ import annotations

import psycopg
import pytest
from psycopg.conninfo import make_conninfo

from conftest import Database
from pgvigil import cli, other_state

PREVIEW = "CREATE FUNCTION pgvigil.preview_jobs() RETURNS TABLE (job text, {}) LANGUAGE {}"
CASES = {
    "a function is missing": (
        "DROP FUNCTION pgvigil.preview_jobs()",
        ("maintain preview", "maintain run retention --dry-run", "maintain accept all"),
        "an object of pgvigil is missing in this database, or is another one: function pgvigil.preview_jobs() does not exist",
    ),
    "a function returns other columns": (
        f"DROP FUNCTION pgvigil.preview_jobs(); {PREVIEW.format('extra int', 'sql')} AS 'SELECT NULL, 1 WHERE false'",
        ("maintain preview",),
        "this database was migrated by another state of pgvigil: the answer to 'SELECT * FROM pgvigil.preview_jobs()' differs in",
    ),
    "a function raises an error": (
        f"DROP FUNCTION pgvigil.preview_jobs(); {PREVIEW.format('action text', 'plpgsql')} AS 'BEGIN RAISE ''not now''; END'",
        ("maintain preview",),
        "a function of this database failed: not now (PL/pgSQL function pgvigil.preview_jobs())",
    ),
    "a view has another column": (
        """ALTER VIEW pgvigil.job_status RENAME TO former;
           CREATE VIEW pgvigil.job_status AS SELECT *, 1 AS extra FROM pgvigil.former""",
        ("maintain status", "maintain preview", "maintain run-due", "maintain run analyze"),
        "differs in the columns extra",
    ),
    "a table lacks a column": (
        "ALTER TABLE pgvigil.jobs RENAME COLUMN needs_consent TO wants_consent",
        ("maintain preview", "maintain accept all"),
        "column j.needs_consent does not exist",
    ),
    "the ledger lacks a column": (
        "ALTER TABLE pgvigil.migrations RENAME COLUMN sha256_tokens TO checksum",
        ("status", "migrate", "setup", "health", "validate"),
        'column "sha256_tokens" of relation "migrations" does not exist',
    ),
    "a table is missing": (
        "DROP TABLE pgvigil.backup_proofs CASCADE",
        ("maintain preview", "maintain accept all"),
        'relation "pgvigil.backup_proofs" does not exist',
    ),
}


@pytest.mark.client_side
@pytest.mark.parametrize("case", CASES)
def test_command_names_what_is_another_state_of_pgvigil(
    fresh: Database, capsys: pytest.CaptureFixture[str], case: str
) -> None:
    statements, commands, words = CASES[case]
    fresh.execute(statements)
    # To a superuser it would be another function, which is not called at all.
    url = make_conninfo(fresh.url, options="-c role=pgvigil_owner") if "function" in case else fresh.url
    for command in commands:
        code = cli.main([*command.split(), "--database-url", url])
        said = capsys.readouterr().err
        assert (code, words in said) == (4, True), (command, code, said)
        assert said.count("error:") == 1


@pytest.mark.client_side
def test_a_query_that_is_cancelled_for_a_change_made_meanwhile_is_not_its_defect(
    fresh: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    fresh.execute("DROP FUNCTION pgvigil.preview_jobs()")
    fresh.execute(
        f"{PREVIEW.format('action text', 'plpgsql')} AS $$BEGIN RAISE 'conflict' USING ERRCODE = '40001'; END$$"
    )
    url = make_conninfo(fresh.url, options="-c role=pgvigil_owner")
    assert cli.main(["maintain", "preview", "--database-url", url]) == 3
    assert "for a change made meanwhile: conflict" in capsys.readouterr().err


@pytest.mark.client_side
def test_what_a_command_cannot_work_with_is_not_its_defect_if_the_ledger_is_of_other_files(
    fresh: Database, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: object) -> int:
        raise TypeError("a value of another type")

    monkeypatch.setattr("pgvigil.commands.sizes.run", fail)
    assert cli.main(["sizes", "--database-url", fresh.url]) == cli.DEFECT
    fresh.execute("UPDATE pgvigil.alembic_version SET version_num = '999'")
    capsys.readouterr()
    assert cli.main(["sizes", "--database-url", fresh.url]) == 4
    said = capsys.readouterr().err
    assert said.startswith("error: the ledger does not fit the migrations here: it is at 999")
    assert "Traceback" not in said


@pytest.mark.client_side
def test_name_that_no_migration_mentions_stays_a_defect(database: Database) -> None:
    with database.connect() as conn:
        for query in (
            "SELECT * FROM mistyped_table",
            "SELECT mistyped_column",
            "SELECT pg_catalog.sessions()",
            "SELECT 1/0",
        ):
            with pytest.raises(psycopg.Error) as raised:
                conn.execute(query)
            assert other_state.explain(raised.value) is None
