"""Test the comparison with our own DDL, loaded on the same server, for everything that the spec does not declare."""

from __future__ import annotations

import json
import os
import re
import signal
from pathlib import Path
from typing import Any

import psycopg
import pytest

from conftest import Mortal, Run, wait_until
from helpers.reference_digests import digests
from pgvigil import project, scratch_databases
from pgvigil.database import connect, parse_url
from pgvigil.embedded import Server
from pgvigil.validate import Reference, fix_sql, keep_reference, load_declaration, validate
from pgvigil.validate.catalog.object_ref import ObjectRef, table
from pgvigil.validate.diff.reference import WHAT, shipped_digests
from pgvigil.validate.spec import cache

SPEC = load_declaration(project.SPEC)
SCRATCH = "SELECT datname FROM pg_database WHERE datname LIKE 'pgvigil_reference_%'"


def named(findings: Any) -> list[tuple[str, str]]:
    return sorted((finding.kind, finding.object) for finding in findings)


def named_in(report: str) -> list[tuple[str, str]]:
    return sorted((finding["kind"], finding["object"]) for finding in json.loads(report)["findings"])


def test_new_install_is_as_the_reference(fresh: Any, reference: Any) -> None:
    with fresh.connect() as conn:
        report = validate(conn, SPEC, "public", reference=reference)
    assert (report.findings, report.notes, report.unchecked) == ((), (), ())


@pytest.mark.parametrize("state", ["migrated", "adopted"])
def test_migrated_install_has_nothing_that_the_reference_has_not(state: str, request: Any, reference: Any) -> None:
    with request.getfixturevalue(state).connect() as conn:
        assert named(validate(conn, SPEC, "public", reference=reference).findings) == []


def test_reference_has_nothing_that_the_spec_leaves_out(reference: Any) -> None:
    """Tables, columns, constraints, indexes, triggers, views and functions are declared by hand."""
    declared = ("table", "column", "constraint", "index", "trigger", "view", "function", "procedure", "type")
    cut = {root for root in reference.roots.values() if reference.details.get(table(root), {}).get("cut")}
    made = {ref for ref in reference.objects if ref.kind in declared and reference.roots[ref] not in cut}
    assert sorted(made - SPEC.objects.keys()) == []


# Several at once, or with much hanging on them: only that they are found and repaired.
DISASTERS = [
    "DROP TABLE performance_logs CASCADE",
    "DROP TABLE sessions CASCADE",
    "ALTER FUNCTION pgvigil.actor() RENAME TO acteur",
    "ALTER TABLE sessions DROP COLUMN is_dormant CASCADE",
    "DROP FUNCTION pgvigil.log_session_change() CASCADE",
    "DROP VIEW session_monitoring_view; ALTER TABLE sessions DISABLE TRIGGER ALL; DROP INDEX idx_sessions_is_dormant;"
    " ALTER TABLE system_metrics ALTER labels DROP NOT NULL, ALTER labels DROP DEFAULT; GRANT ALL ON sessions TO pgvigil_reader;"
    " UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sessions_archived_at'::regclass",
]


def apply(conn: Any, script: str) -> None:
    """Run it in the test's transaction, including statements that destroy data."""
    script = re.sub("^(BEGIN|COMMIT);$", "", script.replace(" CONCURRENTLY", ""), flags=re.MULTILINE)
    conn.execute(re.sub("^-- (DROP|ALTER)", r"\1", script, flags=re.MULTILINE))


@pytest.mark.parametrize("disaster", DISASTERS)
def test_one_script_repairs_many_defects(fresh: Any, reference: Any, disaster: str) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute(disaster)
        report = validate(conn, SPEC, "public", reference=reference)
        assert report.findings
        apply(conn, fix_sql(report))
        assert named(validate(conn, SPEC, "public", reference=reference).findings) == []


def test_index_is_repaired_without_a_lock_against_writers(fresh: Any, reference: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("UPDATE pg_index SET indisvalid = false WHERE indexrelid = 'idx_sessions_archived_at'::regclass")
        (finding,) = validate(conn, SPEC, "public", reference=reference).findings
        for statement in finding.fix.split(";\n"):
            conn.execute(statement)
        assert finding.fix == "REINDEX INDEX CONCURRENTLY idx_sessions_archived_at;"
        assert validate(conn, SPEC, "public", reference=reference).ok


def test_what_would_destroy_data_is_commented_out(fresh: Any, reference: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("CREATE TABLE pgvigil.extra (id integer)")
        conn.execute("ALTER TABLE system_metrics ADD extra text")
        report = validate(conn, SPEC, "public", reference=reference)
    assert {finding.fix for finding in report.findings} == {
        "-- DROP TABLE pgvigil.extra;",
        "-- ALTER TABLE system_metrics DROP COLUMN extra;",
    }


def test_rights_that_default_privileges_gave_are_told_not_failed(fresh: Any, reference: Any) -> None:
    with fresh.connect(autocommit=False) as conn:
        conn.execute("ALTER DEFAULT PRIVILEGES FOR ROLE pgvigil_owner GRANT TRIGGER ON TABLES TO PUBLIC")
        conn.execute("GRANT TRIGGER ON system_metrics TO PUBLIC")
        report = validate(conn, SPEC, "public", reference=reference)
        assert named(report.findings) == []
        assert named(report.notes) == [("unexpected", "grant on table system_metrics to PUBLIC")]
        conn.rollback()


def test_more_rights_for_a_role_of_ours_on_a_table_of_the_application_are_told(fresh: Any, reference: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("GRANT DELETE ON handoff_requests TO pgvigil_writer")
        report = validate(conn, SPEC, "public", reference=reference)
    assert named(report.findings) == []
    assert named(report.notes) == [("unexpected", "grant on table handoff_requests to pgvigil_writer")]


def test_sequence_behind_a_column_of_the_application_is_its_business(fresh: Any, reference: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("ALTER TABLE sessions ADD COLUMN number serial")
        report = validate(conn, SPEC, "public", reference=reference)
    assert named(report.findings) == []
    assert named(report.notes) == [("unexpected", "column sessions.number")]


def test_strict_makes_findings_of_what_an_application_has_added(fresh: Any, reference: Any) -> None:
    with fresh.connect() as conn:
        conn.execute("CREATE INDEX app_extra ON sessions (agent_from)")
        assert validate(conn, SPEC, "public", reference=reference).ok
        (finding,) = validate(conn, SPEC, "public", reference=reference, strict=True).findings
    assert (finding.object, finding.fix) == ("index sessions.app_extra", "DROP INDEX app_extra;")


# --- where the reference comes from ----------------------------------------------------------------------------------


@pytest.fixture
def no_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    if "fresh" in request.fixturenames:  # its setup may be the one that fills the cache
        request.getfixturevalue("templates").get("fresh")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache" / "pgvigil"


def made_of(database: Any, ddl: Path, options: str = "") -> Reference:
    target = parse_url(database.url + options, "tests")
    with connect(target, "tests") as conn:
        reference = Reference(target, lambda: conn, lambda: SPEC, ddl, lambda _: "public")
        reference.thread.join()
    return reference


def begin(database: Any, role: str = "") -> Reference:
    options = f"&options=-c%20role%3D{role}" if role else ""
    return made_of(database, project.INIT_SQL, options)


def test_scratch_database_is_gone_and_its_reading_kept(fresh: Any, no_cache: Path) -> None:
    made, unchecked = begin(fresh).outcome()
    assert made is not None
    assert unchecked == ()
    assert fresh.execute(SCRATCH) == []
    (kept,) = no_cache.iterdir()
    assert kept.stat().st_mode & 0o077 == 0
    again, _ = begin(fresh).outcome()
    assert again is not None
    assert again.objects == made.objects


@pytest.mark.usefixtures("no_cache")
def test_scratch_database_that_a_killed_run_left_is_dropped_and_told(
    fresh: Any, capsys: pytest.CaptureFixture[str]
) -> None:
    with connect(parse_url(fresh.url, "tests"), "tests") as conn:
        left = scratch_databases.make(conn, "pgvigil_reference_5f5e1000_aaaaaaaa")
        pid = conn.info.backend_pid
    wait_until(lambda: not fresh.execute("SELECT FROM pg_stat_activity WHERE pid = %s", (pid,)))
    assert begin(fresh).outcome()[0] is not None
    assert fresh.execute(SCRATCH) == []
    assert f'dropped database "{left.name}"' in capsys.readouterr().err


@pytest.mark.client_side
def test_cache_that_others_can_write_to_is_neither_read_nor_filled(no_cache: Path) -> None:
    cache.write("spec-a.json", "kept")
    assert cache.read("spec-a.json") == "kept"
    (no_cache / "spec-a.json").chmod(0o666)
    assert cache.read("spec-a.json") is None
    (no_cache / "spec-a.json").chmod(0o600)
    no_cache.chmod(0o777)
    assert cache.read("spec-a.json") is None
    cache.write("spec-b.json", "kept")
    assert not (no_cache / "spec-b.json").exists()


@pytest.mark.client_side
def test_link_or_fifo_in_the_cache_is_not_read(no_cache: Path) -> None:
    cache.write("spec-a.json", "kept")
    (no_cache / "spec-b.json").symlink_to(no_cache / "spec-a.json")
    os.mkfifo(no_cache / "spec-c.json")
    assert (cache.read("spec-b.json"), cache.read("spec-c.json")) == (None, None)


@pytest.mark.client_side
def test_files_of_others_in_the_cache_directory_are_not_removed(no_cache: Path) -> None:
    no_cache.mkdir(parents=True, mode=0o700)
    for number in range(cache.KEPT + 10):
        (no_cache / f"letter {number}.txt").touch()
    (no_cache / "a directory").mkdir()
    for number in range(cache.KEPT + 10):
        cache.write(f"spec-{number}.json", "kept")
    names = [path.name for path in no_cache.iterdir()]
    assert sum(name.startswith("letter") for name in names) == cache.KEPT + 10
    assert sum(name.startswith("spec-") for name in names) == cache.KEPT


@pytest.mark.usefixtures("no_cache")
def test_reader_is_given_the_snapshot_that_setup_kept(fresh: Any) -> None:
    made, unchecked = begin(fresh, "pgvigil_reader").outcome()
    assert unchecked == ()
    assert made is not None
    with fresh.connect() as conn:
        conn.execute("SET ROLE pgvigil_reader")
        assert validate(conn, SPEC, "public", reference=made).ok
        conn.execute("RESET ROLE")
        conn.execute("ALTER FUNCTION pgvigil.actor() COST 3")
        conn.execute("SET ROLE pgvigil_reader")
        assert named(validate(conn, SPEC, "public", reference=made).findings) == [
            ("different", "function pgvigil.actor()")
        ]


@pytest.mark.usefixtures("no_cache")
def test_without_any_reference_the_verdict_is_no_pass(fresh: Any) -> None:
    fresh.execute("DELETE FROM pgvigil.reference_snapshots")
    with fresh.connect() as conn:
        report = validate(conn, SPEC, "public", reference=begin(fresh, "pgvigil_reader"))
        assert (report.findings, report.exit_code, report.ok) == ((), 3, False)
        (unchecked,) = report.unchecked
        assert unchecked.objects == WHAT
        assert unchecked.reason.startswith(
            "the role may not create databases, and pgvigil.reference_snapshots holds no copy"
        )
        conn.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle")
        assert validate(conn, SPEC, "public", reference=begin(fresh, "pgvigil_reader")).exit_code == 1


@pytest.mark.client_side
@pytest.mark.usefixtures("no_cache")
def test_reader_without_any_reference_is_told_what_to_type(fresh: Any, call: Run) -> None:
    fresh.execute("DELETE FROM pgvigil.reference_snapshots")
    done = call("pgvigil", "validate", "--database-url", f"{fresh.url}&options=-c%20role%3Dpgvigil_reader")
    assert done.returncode == 3
    assert "as a role that may create databases (ALTER ROLE … CREATEDB)" in done.stdout


def test_shipped_digests_are_those_of_this_ddl(pg: Server) -> None:
    """Else: PG_MATRIX_DIR=… python -m tests.helpers.reference_digests."""
    assert digests(pg) == shipped_digests(pg.major)


def test_damaged_cache_costs_time_and_nothing_else(fresh: Any, no_cache: Path) -> None:
    assert begin(fresh).outcome()[0] is not None
    for path in no_cache.iterdir():
        path.write_text("[{}")
    assert begin(fresh).outcome()[0] is not None


@pytest.mark.client_side
@pytest.mark.usefixtures("no_cache")
@pytest.mark.parametrize("kept", ["", "no json", "[1, 2, 3, 4]", "[{}, {}, {}, {}]", "{}"])
def test_damaged_copy_in_the_database_is_no_verdict(fresh: Any, call: Run, kept: str) -> None:
    fresh.execute("UPDATE pgvigil.reference_snapshots SET snapshot = %s", (kept,))
    done = call("pgvigil", "validate", "--database-url", f"{fresh.url}&options=-c%20role%3Dpgvigil_reader")
    assert (done.returncode, done.stderr) == (3, "")
    assert "NOT PROVED" in done.stdout


@pytest.mark.client_side
def test_right_that_a_reader_lacks_to_read_the_ledger_is_a_finding(fresh: Any, call: Run) -> None:
    assert call("pgvigil", "validate", "--database-url", fresh.url).returncode == 0  # and the reference is in the cache
    fresh.execute("REVOKE USAGE ON SCHEMA pgvigil FROM pgvigil_reader")
    url = f"{fresh.url}&options=-c%20role%3Dpgvigil_reader"
    done = call("pgvigil", "validate", "--format", "json", "--database-url", url)
    assert done.returncode == 1, done.stderr
    assert named_in(done.stdout) == [("missing", "grant on schema pgvigil to pgvigil_reader")]


@pytest.mark.usefixtures("no_cache")
def test_init_script_that_cannot_be_read_is_told_of(fresh: Any, tmp_path: Path) -> None:
    made, (unchecked,) = made_of(fresh, tmp_path / "gone.sql").outcome()
    assert made is None
    assert "No such file" in unchecked.reason


@pytest.mark.usefixtures("no_cache")
def test_snapshot_of_other_ddl_is_not_used(fresh: Any, tmp_path: Path) -> None:
    other = tmp_path / "other.sql"
    other.write_text(project.INIT_SQL.read_text() + "\nALTER FUNCTION pgvigil.actor() COST 3;\n")
    assert begin(fresh).outcome()[0] is not None
    made, _ = made_of(fresh, other).outcome()
    assert made is not None
    assert made.objects[ObjectRef("function", "pgvigil.actor()")]["cost"] == "3"
    with fresh.connect() as conn:
        keep_reference(conn, made, other)
        assert conn.execute("SELECT count(*) FROM pgvigil.reference_snapshots").fetchone() == (1,)


@pytest.mark.client_side
def test_standby_is_held_against_the_copy_kept_in_the_database(
    mortal: Mortal, call: Run, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    with psycopg.connect(mortal.server.dsn("template1"), autocommit=True) as conn:
        conn.execute("CREATE DATABASE broken TEMPLATE postgres")
    with psycopg.connect(mortal.server.dsn("broken"), autocommit=True) as conn:
        conn.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle; DROP INDEX idx_sessions_is_dormant")
    mortal.end(signal.SIGINT)
    (mortal.server.data / "standby.signal").touch()
    mortal.start()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    clean = call("pgvigil", "validate", "--database-url", mortal.url)
    assert (clean.returncode, clean.stdout.splitlines()[-1]) == (0, "VALID: no findings")
    found = call("pgvigil", "validate", "--format", "json", "--database-url", mortal.server.dsn("broken"))
    assert named_in(found.stdout) == [
        ("disabled", "trigger sessions.log_session_lifecycle"),
        ("missing", "index sessions.idx_sessions_is_dormant"),
    ]
