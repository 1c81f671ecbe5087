"""`pgvigil lint`: what statements lock, rewrite and read, measured; what grows with the table is found, and nothing else."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import psycopg
import pytest

from conftest import Database, Run, servers
from helpers.lint_statements import BASE, STATEMENTS, Case
from pgvigil import registry
from pgvigil.database import parse_url
from pgvigil.lint import formats, rules, scratch, sources
from pgvigil.lint.measure import Bench, Measured
from pgvigil.lint.run import lint

pytestmark = pytest.mark.client_side


@pytest.fixture(scope="module")
def address() -> Iterator[str]:
    """A scratch server of lint's own, for all tests of this module."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PGVIGIL_PG_BIN", str(servers()[max(servers())]))
        with scratch.server() as server:
            yield scratch.address(server)


@pytest.fixture
def bench(address: str) -> Any:
    """Measure a file with `bench(script, zone="UTC")` on the base schema, which is made again for each call."""

    def measure(tmp_path: Path, script: str, zone: str = "UTC") -> list[Measured]:
        with psycopg.connect(address, autocommit=True, prepare_threshold=None) as conn:
            conn.execute("DROP SCHEMA IF EXISTS public, other CASCADE")
            conn.execute("CREATE SCHEMA public")
            bench = Bench(conn, zone)
            base, path = tmp_path / "001.sql", tmp_path / "002.sql"
            base.write_text(BASE)
            path.write_text(script)
            assert bench.build(sources.read(base, rules.RULES)) == []
            return list(bench.run(sources.read(path, rules.RULES)))

    return measure


def found(measured: list[Measured]) -> list[tuple[int, str, str]]:
    """The findings and notes: number of the statement, rule, table."""
    return [(one.number, finding.rule, finding.table) for one in measured for finding in rules.findings(one)]


@pytest.mark.parametrize("case", STATEMENTS, ids=lambda case: case.name)
def test_what_grows_with_the_table_is_found_and_nothing_else(case: Case, bench: Any, tmp_path: Path) -> None:
    measured = bench(tmp_path, case.sql)
    assert [one.error for one in measured if one.error] == []
    severe = [(rule, table) for _, rule, table in found(measured) if rule not in rules.NOTES]
    assert severe == ([(case.rule, case.table)] if case.rule else [])
    if case.rule:
        [finding] = [one for m in measured for one in rules.findings(m) if one.severity == "finding"]
        for words in case.instead:
            assert words in finding.instead


def test_locks_of_each_statement_are_measured(bench: Any, tmp_path: Path) -> None:
    add, index, select = bench(
        tmp_path,
        "-- pgvigil: no-transaction\nALTER TABLE orders ADD COLUMN a int;\nCREATE INDEX ON customers (mail);\nSELECT count(*) FROM orders;",
    )
    assert add.locks == {"orders": "AccessExclusiveLock"}
    assert index.locks == {"customers": "ShareLock"}
    assert select.locks == {"orders": "AccessShareLock"}
    assert (index.reads, select.reads) == (["customers"], ["orders"])


def test_a_read_under_a_lock_of_an_earlier_statement_is_found(bench: Any, tmp_path: Path) -> None:
    constraint = "ALTER TABLE orders ADD CONSTRAINT positive CHECK (total > 0) NOT VALID;"
    script = f"{constraint}\nALTER TABLE orders VALIDATE CONSTRAINT positive;"
    assert found(bench(tmp_path, script)) == [(1, "full-read", "orders")]
    assert found(bench(tmp_path, f"-- pgvigil: no-transaction\n{script}")) == []
    assert (
        found(bench(tmp_path, f"BEGIN;\n{constraint}\nCOMMIT;\nALTER TABLE orders VALIDATE CONSTRAINT positive;")) == []
    )


@pytest.mark.parametrize(
    ("sql", "expected"),
    [
        ("UPDATE orders SET state = 'x'", [(0, "bulk-change", "orders")]),
        ("DELETE FROM orders WHERE total > 3", [(0, "bulk-change", "orders")]),
        ("WITH gone AS (DELETE FROM orders RETURNING *) SELECT count(*) FROM gone", [(0, "bulk-change", "orders")]),
        ("UPDATE orders SET state = c.mail FROM customers c WHERE orders.id = 1 AND c.name = 'x'", []),
        ("INSERT INTO customers SELECT id FROM orders", []),
        ("WITH a AS (SELECT * FROM orders) SELECT * FROM a", []),
        ("CREATE TABLE copied AS SELECT * FROM orders", []),
        ("DO $$ BEGIN EXECUTE 'CREATE INDEX ON orders (total)'; END $$", [(0, "full-read", "orders")]),
        ("CREATE MATERIALIZED VIEW v AS SELECT * FROM orders", []),
    ],
)
def test_changes_of_rows_and_mere_reads_are_distinguished(
    bench: Any, tmp_path: Path, sql: str, expected: list[Any]
) -> None:
    assert found(bench(tmp_path, sql)) == expected


def test_a_lock_is_told_of_the_statement_that_brings_it(bench: Any, tmp_path: Path) -> None:
    add, comment, index = bench(
        tmp_path,
        "ALTER TABLE orders ADD COLUMN a int; COMMENT ON TABLE customers IS 'x'; CREATE INDEX ON customers (mail);",
    )
    assert (add.locks, comment.locks) == ({"orders": "AccessExclusiveLock"}, {"customers": "ShareUpdateExclusiveLock"})
    assert index.locks == {"customers": "ShareLock"}
    assert index.held == {"orders": ("AccessExclusiveLock", 1), "customers": ("ShareLock", 1)}


def test_tables_of_the_same_file_are_left_out(bench: Any, tmp_path: Path) -> None:
    script = "CREATE TABLE mine (id int, name text);\nCREATE INDEX ON mine (name);\nALTER TABLE mine ALTER COLUMN name SET NOT NULL;"
    assert found(bench(tmp_path, script)) == []


def test_names_that_need_quotes_and_other_schemas_are_told_as_sql_spells_them(bench: Any, tmp_path: Path) -> None:
    [measured] = bench(tmp_path, 'ALTER TABLE other."Odd ""name" ALTER COLUMN "The value" SET NOT NULL')
    [finding] = rules.findings(measured)
    assert finding.table == 'other."Odd ""name"'
    assert (
        'ALTER TABLE other."Odd ""name" ADD CONSTRAINT "The value_not_null" CHECK ("The value" IS NOT NULL) NOT VALID'
        in finding.instead
    )


def test_a_statement_that_cannot_be_run_is_never_taken_for_a_safe_one(call: Run, tmp_path: Path) -> None:
    path = tmp_path / "001.sql"
    path.write_text("ALTER TABLE nowhere ADD COLUMN a int;\nCREATE TABLE here (id int);")
    done = call("pgvigil", "lint", "--format", "json", str(path))
    told = json.loads(done.stdout)
    assert (done.returncode, told["ok"]) == (3, False)
    assert [one["message"] for one in told["unmeasured"]] == [
        'could not be run here: relation "nowhere" does not exist'
    ]
    assert told["statements"][1]["error"] is None


def test_a_partitioned_table_is_told_by_the_partitions_that_are_read(bench: Any, tmp_path: Path) -> None:
    assert found(bench(tmp_path, "ALTER TABLE events ALTER COLUMN kind SET NOT NULL")) == [
        (0, "full-read", "events_1"), (0, "full-read", "events_2")
    ]  # fmt: skip


@pytest.mark.parametrize(("zone", "expected"), [("UTC", "time-zone"), ("Europe/Berlin", "rewrite")])
def test_a_cast_to_timestamptz_goes_by_the_time_zone(bench: Any, tmp_path: Path, zone: str, expected: str) -> None:
    assert found(bench(tmp_path, "ALTER TABLE orders ALTER COLUMN made TYPE timestamptz", zone)) == [
        (0, expected, "orders")
    ]


@pytest.mark.parametrize(
    ("sql", "rule"),
    [
        ("ALTER TABLE orders RENAME COLUMN total TO sum", "rename"),
        ("ALTER TABLE orders RENAME TO bills", "rename"),
        ("ALTER TABLE orders DROP COLUMN total", "drop-column"),
        ("ALTER TABLE orders ALTER COLUMN total DROP NOT NULL, DROP total", "drop-column"),
        ("DROP TABLE customers CASCADE", "drop-table"),
        ("TRUNCATE orders", "truncate"),
        ("-- pgvigil: no-transaction\nCREATE INDEX CONCURRENTLY IF NOT EXISTS i ON orders (total)", "if-not-exists"),
        ("SET lock_timeout = 0", "session-reset"),
        ("SELECT pg_advisory_unlock_all()", "session-reset"),
        ("CREATE INDEX CONCURRENTLY i ON orders (total)", "no-transaction"),
    ],
)
def test_what_no_measurement_shows_is_read_from_the_words(bench: Any, tmp_path: Path, sql: str, rule: str) -> None:
    assert [one for _, one, _ in found(bench(tmp_path, sql))] == [rule]


@pytest.mark.parametrize(
    "sql", ["ALTER TABLE orders ALTER COLUMN total DROP DEFAULT", "ALTER TABLE orders DROP CONSTRAINT orders_pkey CASCADE",
            "ALTER TABLE orders RENAME CONSTRAINT orders_pkey TO pk", "SET lock_timeout = '2s'", "ALTER TABLE orders ALTER total DROP NOT NULL"],
)  # fmt: skip
def test_what_breaks_nobody_is_no_note(bench: Any, tmp_path: Path, sql: str) -> None:
    assert found(bench(tmp_path, sql)) == []


# ── Files ─────────────────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    place = tmp_path / "migrations"
    place.mkdir()
    (place / "1_base.sql").write_text("CREATE TABLE orders (id int PRIMARY KEY, state text);")
    (place / "2_index.up.sql").write_text("CREATE INDEX i ON orders (state);")
    (place / "2_index.down.sql").write_text("DROP INDEX i;")
    (place / "10_not_null.sql").write_text(
        "-- migrate:up\nALTER TABLE orders ALTER COLUMN state SET NOT NULL;\n-- migrate:down\nDROP TABLE orders;\n\\q"
    )
    return place


def test_earlier_files_are_the_base_in_the_order_of_their_numbers(call: Run, directory: Path) -> None:
    done = call("pgvigil", "lint", "--format", "json", str(directory / "10_not_null.sql"))
    told = json.loads(done.stdout)
    assert done.returncode == 1
    assert told["base_errors"] == []
    assert [(one["rule"], one["line"], one["table"]) for one in told["findings"]] == [("full-read", 2, "orders")]


def test_a_directory_is_checked_in_full_or_since_a_file(call: Run, directory: Path) -> None:
    whole = json.loads(call("pgvigil", "lint", "--format", "json", str(directory)).stdout)
    assert [Path(file).name for file in whole["files"]] == ["1_base.sql", "2_index.up.sql", "10_not_null.sql"]
    assert [one["rule"] for one in whole["findings"]] == ["full-read", "full-read"]
    since = call("pgvigil", "lint", "--format", "json", "--since", str(directory / "2_index.up.sql"), str(directory))
    assert [Path(file).name for file in json.loads(since.stdout)["files"]] == ["10_not_null.sql"]


def test_a_project_is_checked_by_its_own_file(call: Run, directory: Path) -> None:
    (directory / "20_zone.sql").write_text("CREATE TABLE z (at timestamp);")
    (directory / "21_zone.sql").write_text("ALTER TABLE z ALTER COLUMN at TYPE timestamptz;")
    (directory.parent / "pgvigil.toml").write_text('[lint]\ntimezone = "Europe/Berlin"\n')
    done = call("pgvigil", "lint", "--format", "json", "--project", str(directory.parent))
    assert [one["rule"] for one in json.loads(done.stdout)["findings"]] == ["full-read", "full-read", "rewrite"]
    (directory.parent / "pgvigil.toml").write_text("[lint]\nzone = 1\n")
    assert call("pgvigil", "lint", "--project", str(directory.parent)).returncode == 2


def test_the_files_of_a_project_begin_with_its_search_path(call: Run, directory: Path) -> None:
    (directory.parent / "pgvigil.toml").write_text('schema = "app"\nsearch_path = ["app", "a\\"b%s"]\n')
    (directory / "20_path.sql").write_text('SET search_path = pg_catalog;\nCREATE TABLE "a""b%s".t (id int);')
    (directory / "21_path.sql").write_text("CREATE INDEX ON t (id); CREATE INDEX ON app.orders (state);")
    done = call("pgvigil", "lint", "--format", "json", "--project", str(directory.parent))
    told = json.loads(done.stdout)
    assert told["unmeasured"] == []
    assert {one["table"] for one in told["findings"]} == {"orders", "t"}  # both are on it


def test_a_comment_allows_a_finding_for_a_reason(call: Run, directory: Path) -> None:
    path = directory / "11_more.sql"
    path.write_text(
        "-- pgvigil: allow full-read, forty rows\nCREATE INDEX j ON orders (state);\n"
        "UPDATE orders SET state = 'x'; -- pgvigil: allow bulk-change full-read, forty rows\n"
        "SELECT '-- pgvigil: allow nothing at all';\n-- pgvigil: allow rewrite, not needed\nSELECT 1;\n"
    )
    done = call("pgvigil", "lint", "--format", "json", str(path))
    told = json.loads(done.stdout)
    assert (done.returncode, told["findings"]) == (0, [])
    assert [(one["rule"], one["allowed"]) for one in told["allowed"]] == [
        ("full-read", "forty rows"),
        ("bulk-change", "forty rows"),
    ]
    assert [(one["rule"], one["line"]) for one in told["notes"]] == [("unused-allow", 5)]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        (
            "SELECT 1;\n-- pgvigil: allow full-read\nSELECT 2;",
            "001.sql:2: this comment allows a finding without naming a rule and a reason",
        ),
        ("-- pgvigil: allow full-read,   \nSELECT 2;", "001.sql:1: this comment allows"),
        ("-- pgvigil: allow everything, because\nSELECT 2;", "001.sql:1: there is no rule everything"),
        ("SELECT 1;\n\nSELECT 'open", "001.sql:3: the quote ' that opens here is never closed"),
        ("SELECT 1;\n\\connect other", "001.sql:2: a psql command"),
    ],
)
def test_a_file_that_is_wrong_is_told_with_its_line(call: Run, tmp_path: Path, text: str, told: str) -> None:
    (tmp_path / "001.sql").write_text(text)
    done = call("pgvigil", "lint", str(tmp_path))
    assert done.returncode == 2
    assert told in done.stderr


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (["nowhere.sql"], "there is no file nowhere.sql"),
        (["--schema", "a.sql", "--database-url", "postgresql:///x", "{}"], "both --schema and --database-url"),
        (["--timezone", "Mars/Olympus", "{}"], "PostgreSQL knows no time zone 'Mars/Olympus'"),
        (["--since", "other.sql", "{}"], "other.sql is not among the files"),
        (["--locks", "--format", "json", "{}"], "--locks belongs to the text report"),
    ],
)
def test_a_call_that_cannot_be_meant_ends_with_2(call: Run, directory: Path, options: list[str], told: str) -> None:
    done = call("pgvigil", "lint", *(option.format(directory) for option in options))
    assert done.returncode == 2
    assert told in done.stderr


# ── The base schema ───────────────────────────────────────────────────────────────────────────────────────────────────


def test_the_schema_of_a_database_is_copied_and_its_time_zone_counts(
    call: Run, database: Database, tmp_path: Path
) -> None:
    database.execute("CREATE TABLE there (made timestamp)")
    database.execute(f"ALTER DATABASE {database.name} SET timezone = 'Europe/Berlin'")
    database.execute("INSERT INTO there VALUES (now())")
    path = tmp_path / "1.sql"
    path.write_text("ALTER TABLE there ALTER COLUMN made TYPE timestamptz;")
    done = call("pgvigil", "lint", "--format", "json", "--database-url", database.tcp_url, str(path))
    told = json.loads(done.stdout)
    assert (told["time_zone"], told["time_zone_assumed"]) == ("Europe/Berlin", False)
    assert [one["rule"] for one in told["findings"]] == ["rewrite"]
    assert database.execute("SELECT count(*), pg_typeof(min(made))::text FROM there") == [
        (1, "timestamp without time zone")
    ]
    assert database.server.password not in done.stdout + done.stderr


def test_the_schema_is_copied_whatever_encoding_clients_of_the_database_have(
    call: Run, database: Database, tmp_path: Path
) -> None:
    database.execute('CREATE TABLE "\u043a" (id int)')
    database.execute(f"ALTER DATABASE {database.name} SET client_encoding = latin1")
    path = tmp_path / "1.sql"
    path.write_text('ALTER TABLE "\u043a" ADD made date;')
    done = call("pgvigil", "lint", "--database-url", database.tcp_url, str(path))
    assert done.returncode == 0, done.stdout + done.stderr


def test_the_time_zone_is_read_whatever_the_limits_of_the_application(database: Database) -> None:
    database.execute(
        f"ALTER DATABASE {database.name} SET timezone = 'Europe/Berlin';"
        f"ALTER DATABASE {database.name} SET statement_timeout = '1ms'"
    )
    assert scratch.settings_of(parse_url(database.url, "a test"))[0] == "Europe/Berlin"


def test_another_version_than_the_databases_is_told(call: Run, database: Database, tmp_path: Path) -> None:
    path = tmp_path / "1.sql"
    path.write_text("SELECT 1;")
    done = call("pgvigil", "lint", "--format", "json", "--database-url", database.tcp_url, str(path))
    told = json.loads(done.stdout)
    same = told["server_version"].split(".")[0] == str(database.server.major)  # where it is installed
    assert (told["other_version"] is None) == same
    assert same or f"PostgreSQL {database.server.major}" in told["other_version"]


def test_a_dump_is_the_base_in_either_form(call: Run, database: Database, tmp_path: Path) -> None:
    database.execute("CREATE TABLE there (id int)")
    path = tmp_path / "1.sql"
    path.write_text("CREATE INDEX ON there (id);")
    pg_dump = next(
        bindir / "pg_dump" for _, bindir in sorted(servers().items(), reverse=True) if (bindir / "pg_dump").exists()
    )
    for form, name in (("plain", "d.sql"), ("custom", "d.dump")):
        subprocess.run(
            [pg_dump, "--schema-only", f"--format={form}", f"--file={tmp_path / name}", f"--dbname={database.url}"],
            check=True,
        )
        done = call("pgvigil", "lint", "--format", "json", "--schema", str(tmp_path / name), str(path))
        told = json.loads(done.stdout)
        assert told["base_errors"] == []
        assert [one["table"] for one in told["findings"]] == ["there"]


def test_what_is_checked_has_no_rights_of_a_superuser(address: str) -> None:
    with psycopg.connect(address, autocommit=True) as conn:
        assert conn.execute("SELECT rolsuper FROM pg_roles WHERE rolname = current_user").fetchone() == (False,)
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            conn.execute("COPY (SELECT 1) TO PROGRAM 'cat'")


# ── Reports ───────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_every_format_tells_the_findings_with_their_places(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(directory.parent)
    report = lint([Path("migrations")])
    reports = {name: formats.render(report, name) for name in registry.modules("lint.formats")}
    assert "migrations/10_not_null.sql:2: reads all of orders under ACCESS EXCLUSIVE" in reports["text"]
    assert "::error file=migrations/10_not_null.sql,line=2,title=full-read::" in reports["github"]
    suite = ET.fromstring(reports["junit"])  # noqa: S314 - our own
    assert (suite.get("tests"), suite.get("failures"), suite.get("errors")) == ("3", "2", "0")
    [run] = json.loads(reports["sarif"])["runs"]
    places = [one["locations"][0]["physicalLocation"] for one in run["results"]]
    assert [(p["artifactLocation"]["uri"], p["region"]["startLine"]) for p in places] == [
        ("migrations/2_index.up.sql", 1),
        ("migrations/10_not_null.sql", 2),
    ]
    assert json.loads(reports["json"])["exit_code"] == 1


def test_a_report_is_written_to_a_file(call: Run, directory: Path, tmp_path: Path) -> None:
    done = call("pgvigil", "lint", "--output", str(tmp_path / "report"), str(directory / "10_not_null.sql"))
    assert (done.returncode, done.stdout) == (1, "")
    assert "1 finding: 1 statement in 1 file; written to" in done.stderr
    assert "reads all of orders" in (tmp_path / "report").read_text()


def test_what_a_file_says_gives_no_command_to_a_ci_system(tmp_path: Path) -> None:
    (tmp_path / "1.sql").write_text("CREATE TABLE t (id int);")
    (tmp_path / "2.sql").write_text('ALTER TABLE t ADD CONSTRAINT "x\n::error::y\x1b[31m" CHECK (id > 0);')
    report = lint([tmp_path])
    for form in ("text", "github"):
        told = formats.render(report, form)
        assert "full-read" in told
        assert "\n::error::y" not in told
        assert "\x1b" not in told
