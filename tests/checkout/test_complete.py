"""Check that each command, check, job, event type, format and exit code has its docs, its spec row and its test."""

from __future__ import annotations

import argparse
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml

from conftest import Database
from pgvigil import commands, errors, parser, project
from pgvigil.errors import EXIT_CODES
from pgvigil.migration import doc_blocks, files, spec_blocks
from pgvigil.parser import EPILOG
from pgvigil.validate import FORMATS, load_spec

DOCS = project.ROOT / "docs"
TESTS = project.ROOT / "tests"
PAGES = [project.ROOT / "README.md", project.ROOT / "CONTRIBUTING.md", *sorted(DOCS.glob("*.md"))]
DOCUMENTED = "\n".join(page.read_text() for page in PAGES if page.name != "reference.md")
TESTED = "\n".join(
    file.read_text() for file in sorted(TESTS.rglob("*")) if file.suffix in (".py", ".sql") and file != Path(__file__)
)


def listed(page: str, heading: str) -> dict[str, list[str]]:
    """The cells of the first table after `heading`, by the words of their first cell, which may name several."""
    text = (DOCS / page).read_text().partition(f"\n{heading}\n")[2]
    table = re.search(r"(?:^\|.*\n)+", text, re.M)
    assert table, f"{page} has no table under {heading}"
    rows = [[cell.strip() for cell in line.strip("|\n").split("|")] for line in table[0].splitlines(keepends=True)[2:]]
    return {name.strip("` "): row for row in rows for name in row[0].split(",")}


@pytest.mark.client_side
@pytest.mark.parametrize("verb", commands.names())
def test_each_command_is_documented_and_tested(verb: str) -> None:
    assert re.search(rf"pgvigil {verb}\b|{verb}-enhanced-db", DOCUMENTED), f"no page of docs/ shows `pgvigil {verb}`"
    assert re.search(rf"[\"']{verb}[\"']|pgvigil {verb}\b", TESTED), f"no test calls `pgvigil {verb}`"


def options(of: argparse.ArgumentParser, *call: str) -> Iterator[tuple[str, list[str]]]:
    """Yield each option of each command with its spellings."""
    for action in of._actions:
        if isinstance(action, argparse._SubParsersAction):
            for name, command in action.choices.items():
                yield from options(command, *call, name)
        elif action.option_strings and action.dest != "help":
            yield " ".join(call), list(action.option_strings)


@pytest.mark.client_side
def test_each_option_is_documented_and_tested() -> None:
    found = [(call, spellings) for call, spellings in options(parser.build(), "pgvigil")]
    missing = [
        f"{call} {spellings[-1]}: no {text} has it"
        for text, words in (("page of docs/", DOCUMENTED), ("test", TESTED))
        for call, spellings in found
        if not any(re.search(rf"(?<![\w-]){option}(?![\w-])", words) for option in spellings)
    ]
    assert len(found) > 100
    assert missing == []


@pytest.mark.client_side
@pytest.mark.parametrize("name", FORMATS)
def test_each_format_of_a_report_is_documented_and_tested(name: str) -> None:
    assert re.search(rf"^\| {name} \|", (DOCS / "ci.md").read_text(), re.M), f"docs/ci.md says nothing of {name}"
    assert f'"{name}"' in TESTED


@pytest.mark.client_side
def test_each_exit_code_is_in_the_help_and_on_its_page() -> None:
    codes = {error.exit_code for error in vars(errors).values() if isinstance(error, type)} | {0, 1, 70, 130}
    assert set(EXIT_CODES) == codes
    for code in sorted(codes):
        assert re.search(rf"^ *{code} +[a-z]", EPILOG, re.M), f"--help does not list exit code {code}"


@pytest.mark.client_side
def test_the_changelog_names_each_command_format_check_and_job() -> None:
    scripts = [file.script for file in files.load(project.MIGRATIONS)]
    names = {
        *commands.names(),
        *FORMATS,
        *(str(row["check_name"]) for row in doc_blocks.seeds(scripts, "alert_thresholds")),
        *(str(row["job"]) for row in doc_blocks.seeds(scripts, "jobs")),
    }
    said = set(re.findall(r"[\w-]+", (project.ROOT / "CHANGELOG.md").read_text()))
    assert names - said == set()


def test_each_check_of_health_is_documented_declared_and_tested(fresh: Database) -> None:
    documented = listed("health.md", "## Checks")
    declared = {row["check_name"] for row in load_spec(project.SPEC).tables["pgvigil.alert_thresholds"].rows}
    there = fresh.execute("SELECT check_name, warning, critical FROM pgvigil.alert_thresholds")
    assert set(documented) == declared == {name for name, *_ in there}
    for name, *levels in there:
        shown = [f"{level.normalize():,f}" if level is not None else "never" for level in levels]
        assert documented[name][2:] == shown, f"docs/health.md has other thresholds of {name}"
        assert re.search(rf"\b{name}\b", TESTED), f"no test speaks of {name}"


def test_each_check_is_made_by_a_function_that_integrity_report_knows(fresh: Database) -> None:
    made = set()
    for (function,) in fresh.execute(
        "SELECT oid::regproc::text FROM pg_proc WHERE pronamespace = 'pgvigil'::regnamespace AND proname LIKE 'check\\_%'"
    ):
        made |= {name for (name,) in fresh.execute(f"SELECT check_name FROM {function}(false)")}
    seeded = {name for (name,) in fresh.execute("SELECT check_name FROM pgvigil.alert_thresholds")}
    [(body,)] = fresh.execute("SELECT prosrc FROM pg_proc WHERE proname = 'integrity_report'")
    assert made == seeded
    assert {name for name in seeded if not re.search(rf"[{{,]{name}[,}}]", re.sub(r"'\s+'", "", body))} == set()


def test_each_job_is_documented_declared_and_tested(fresh: Database) -> None:
    documented = listed("maintenance.md", "## Jobs")
    declared = {row["job"] for row in load_spec(project.SPEC).tables["pgvigil.jobs"].rows}
    assert set(documented) == declared == {job for (job,) in fresh.execute("SELECT job FROM pgvigil.jobs")}
    for job in documented:
        assert re.search(rf"\b{job}\b", TESTED), f"no test speaks of {job}"


def test_each_event_type_is_documented_and_tested(fresh: Database) -> None:
    [(check,)] = fresh.execute(
        "SELECT DISTINCT pg_get_constraintdef(oid) FROM pg_constraint WHERE conname = 'event_type_check'"
    )
    types = set(re.search(r"\{(.*?)\}", check)[1].split(","))  # type: ignore[index]
    assert set(listed("schema.md", "## Events: session_lifecycle")) == types
    written = "\n".join(file.script for file in files.load(project.MIGRATIONS) if file.revision != "003")
    for event in types:
        assert re.search(rf"'{event}'", written), f"no trigger writes {event}"
        assert re.search(rf"['\" ]{event}['\" ]", TESTED), f"no test speaks of {event}"


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("page", "here", "there"),
    [
        ("health.md", "| waiting_rows |", "| waiting_lines |"),
        ("maintenance.md", "| reindex | Monday", "| reindex | Tuesday"),
        ("exit-codes.md", "| 130 | interrupted |\n", ""),
        ("schema.md", "| expired | status", "| ended | status"),
        ("ci.md", "| sarif | code", "| serif | code"),
        ("index.md", "| `pgvigil sizes` |", "| `pgvigil size` |"),
    ],
)
def test_a_generated_table_that_was_edited_is_found_and_written_as_it_was(
    tmp_path: Path, page: str, here: str, there: str
) -> None:
    text = (DOCS / page).read_text()
    assert here in text
    (tmp_path / page).write_text(text.replace(here, there))
    assert doc_blocks.pages(tmp_path, files.load(project.MIGRATIONS)) == {tmp_path / page: text}


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("here", "there"),
    [
        ("{check_name: waiting_rows}", "{check_name: waiting_lines}"),
        (", {job: reap}", ""),
        ('"table pgvigil.archives", ', ""),
        ("{created,expired,", "{created,"),
        ("update_of: [status, is_dormant,", "update_of: [status,"),
    ],
)
def test_a_part_of_the_spec_that_the_migrations_make_is_found_edited_and_written_again(here: str, there: str) -> None:
    spec = project.SPEC.read_text()
    assert here in spec
    assert spec_blocks.written(spec.replace(here, there), files.load(project.MIGRATIONS)) == spec


@pytest.mark.client_side
def test_all_that_a_file_outside_a_transaction_and_those_after_it_make_comes_later(tmp_path: Path) -> None:
    made = []
    for name, script in {
        "000_a": "CREATE TABLE before (a integer);",
        "001_b": f'{files.NO_TRANSACTION}\nCREATE UNIQUE INDEX CONCURRENTLY i ON "{{app}}".t (a);',
        "002_c": """CREATE TABLE pgvigil.t (a integer); CREATE INDEX j ON pgvigil.t (a); CREATE VIEW pgvigil.v AS SELECT 1;
                    CREATE PROCEDURE pgvigil.p() LANGUAGE sql BEGIN ATOMIC END;
                    INSERT INTO pgvigil.jobs (job, every) VALUES ('one', '1 day');""",
    }.items():
        (tmp_path / f"{name}.sql").write_text(script)
        made.append(files.Migration(tmp_path / f"{name}.sql", script.encode()))
    later = yaml.safe_load(spec_blocks.written("# generated: later\n# end\n", made))
    assert later == [
        {"revision": "001", "objects": ["*index t.i", "row pgvigil.migrations (revision = 001)"]},
        {
            "revision": "002",
            "objects": [
                "table pgvigil.t",
                "view pgvigil.v",
                "procedure pgvigil.p*",
                "row pgvigil.jobs (job = one)",
                "row pgvigil.migrations (revision = 002)",
                "row pgvigil.alembic_version (version_num = 002)",
            ],
        },
    ]


@pytest.mark.client_side
def test_a_row_that_a_migration_inserts_is_read_with_its_constants() -> None:
    script = """
        INSERT INTO pgvigil.jobs (job, every, at, purpose) VALUES ('a', '1 day', '3 hours', 'it''s (one, two); done'), ('b', '1 month', '0', f('x', 1));
        INSERT INTO pgvigil.jobs (job, every, purpose, needs_consent) SELECT 'c', '10 minutes', 'p', m.baselined FROM pgvigil.migrations m;
        INSERT INTO pgvigil.others (job) VALUES ('d');"""
    assert list(doc_blocks.seeds([script], "jobs")) == [
        {"job": "a", "every": "1 day", "at": "3 hours", "purpose": "it's (one, two); done"},
        {"job": "b", "every": "1 month", "at": "0", "purpose": None},
        {"job": "c", "every": "10 minutes", "purpose": "p", "needs_consent": None},
    ]


def _anchors(page: Path) -> set[str]:
    """The anchors of a page's headings, as GitHub makes them."""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.M | re.S)
    titles = re.findall(r"^#+ (.*)$", text, re.M)
    return {re.sub(r"[^\w\- ]", "", title.lower()).strip().replace(" ", "-") for title in titles}


def _lead_nowhere(links: list[str], page: Path) -> list[str]:
    """The links of this page to a page that is not there, or to a heading that it does not have."""
    found = []
    for link in links:
        place, _, anchor = link.partition("#")
        target = page.parent / place if place else page
        if not target.exists() or (anchor and anchor not in _anchors(target)):
            found.append(link)
    return found


@pytest.mark.client_side
@pytest.mark.parametrize("page", [*PAGES, project.ROOT / "SECURITY.md"], ids=lambda page: page.name)
def test_each_link_of_a_page_leads_somewhere(page: Path) -> None:
    links = re.findall(r"\]\((?!https?:)([^)\s]+)\)", page.read_text())
    assert _lead_nowhere(links, page) == []


@pytest.mark.client_side
def test_each_page_that_the_code_names_is_there() -> None:
    for file in [*project.ROOT.glob("src/**/*.py"), *project.ROOT.glob("scripts/**/*.sql")]:
        pages = re.findall(r"\bdocs/[\w-]+\.md(?:#[\w-]+)?", file.read_text())
        assert _lead_nowhere(pages, project.ROOT / "README.md") == [], file


@pytest.mark.client_side
def test_a_link_that_leads_nowhere_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# First\n\n## An archive is code: `x`\n\n```sh\n# no heading\n```\n")
    links = ["page.md", "#first", "page.md#an-archive-is-code-x", "other.md", "#second", "#no-heading"]
    assert _lead_nowhere(links, page) == ["other.md", "#second", "#no-heading"]
