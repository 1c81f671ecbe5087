"""Test `migrate --dry-run`: the plan names the files, the changes of the application's tables, and the obstacles."""

from __future__ import annotations

import json
import re

import pytest

from conftest import Database, Run
from pgvigil import project
from pgvigil.cli import main
from pgvigil.migration import files, plan_report

pytestmark = pytest.mark.client_side


def shown(call: Run, database: Database, *options: str) -> str:
    done = call("pgvigil", "migrate", "--dry-run", "--database-url", database.url, *options)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_the_plan_names_what_each_table_of_the_application_gets(call: Run, existing: Database) -> None:
    said = shown(call, existing)
    assert "sessions (about " in said
    assert "last_activity_at" in said
    assert "000_session_application is recorded without being run" in said
    assert "CREATE " not in said
    assert len(said.splitlines()) <= 25


def test_what_a_table_has_already_is_not_said_to_come(call: Run, existing: Database) -> None:
    existing.execute("ALTER TABLE sessions ADD COLUMN last_activity_at timestamptz")
    [line] = [line for line in shown(call, existing).splitlines() if "sessions (about" in line]
    assert "last_activity_at" not in line


def test_what_the_application_names_otherwise_is_not_said_to_come(call: Run, existing: Database) -> None:
    """Nor the lists of values, which stay open on an existing install."""
    existing.execute("ALTER TABLE sessions RENAME CONSTRAINT sessions_pkey TO its_own")
    existing.execute("ALTER INDEX idx_handoff_requests_status RENAME TO of_its_own")
    said = shown(call, existing)
    assert "constraint" not in said.partition("your tables")[2].partition("values")[0]
    assert re.search(r"handoff_requests \(.*\) gets 2 triggers\n", said)


def test_a_value_outside_its_list_is_named_with_its_rows(call: Run, existing: Database) -> None:
    existing.execute("UPDATE sessions SET status = E'paused\\x1b[31m' WHERE id IN (SELECT id FROM sessions LIMIT 2)")
    said = shown(call, existing)
    assert "in 2 rows: its list stays open" in said
    assert "\x1b" not in said


def test_a_table_of_an_earlier_attempt_is_named_with_its_place(call: Run, existing: Database) -> None:
    existing.execute("CREATE TABLE performance_logs (note text)")
    assert "table performance_logs is kept whole as pgvigil.legacy_performance_logs" in shown(call, existing)


def test_who_is_in_the_way_is_named(call: Run, existing: Database) -> None:
    with existing.connect(application_name="pg_dump", autocommit=False) as dumping:
        dumping.execute("SELECT count(*) FROM sessions")
        said = shown(call, existing)
    assert "in the way   a running pg_dump" in said


def test_a_migrated_database_is_up_to_date(call: Run, migrated: Database) -> None:
    assert "up to date at revision" in shown(call, migrated)


def test_a_plan_to_an_earlier_revision_names_what_is_reverted(call: Run, migrated: Database) -> None:
    assert "reverts      " + files.load(project.MIGRATIONS)[-1].name in shown(call, migrated, "--to", "013")


def test_the_lists_read_from_the_file_are_those_of_the_database(migrated: Database) -> None:
    there = migrated.execute("SELECT table_name, column_name, allowed FROM pgvigil.value_lists() ORDER BY place")
    read = plan_report.value_lists(files.load(project.MIGRATIONS))
    assert [(table, column, list(values)) for table, column, values in read] == there


def test_json_holds_the_plan_and_says_what_is_baselined(existing: Database, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["migrate", "--dry-run", "--json", "--database-url", existing.url]) == 0
    told = json.loads(capsys.readouterr().out)
    assert [step["name"] for step in told["plan"] if step["baselined"]] == ["000_session_application"]
    assert told["details"]["tables"][0]["name"] == "sessions"


@pytest.mark.parametrize("options", [("--sql",), ("--sql", "--dry-run", "--json")])
def test_sql_without_a_dry_run_or_as_json_is_a_usage_error(existing: Database, options: tuple[str, ...]) -> None:
    assert main(["migrate", *options, "--database-url", existing.url]) == 2
