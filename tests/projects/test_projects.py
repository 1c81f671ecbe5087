"""Test other teams' migrations: a file runs as a whole or not at all, each step once, and the tool's own ledger is
right.
"""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import PROJECT, Database, Run, wait_until
from helpers.projects import Project
from pgvigil import cli
from pgvigil.errors import UsageError
from pgvigil.projects import config, layouts

pytestmark = pytest.mark.oldest_and_newest

LAYOUTS = ("plain", "dbmate", "golang-migrate")
STEPS = "INSERT INTO marks VALUES (1); CREATE INDEX CONCURRENTLY i ON t (a); INSERT INTO marks VALUES (2);"


@pytest.fixture
def project(tmp_path: Path, database: Database, call: Run) -> Project:
    made = Project(tmp_path / "project", database, call)
    made.configure()
    return made


@pytest.fixture(params=LAYOUTS)
def any_layout(request: pytest.FixtureRequest, tmp_path: Path, database: Database, call: Run) -> Project:
    made = Project(tmp_path / "project", database, call, request.param)
    made.configure()
    return made


def tool_s_ledger(project: Project) -> list[tuple[object, ...]]:
    if project.layout == "plain":
        return project.database.execute("SELECT version FROM pgvigil_project.migrations WHERE finished ORDER BY 1")
    return project.database.execute("SELECT version::text FROM schema_migrations ORDER BY 1")


def tables(database: Database) -> list[str]:
    rows = database.execute(
        "SELECT relname FROM pg_class WHERE relkind = 'r' AND relnamespace = 'public'::regnamespace ORDER BY 1"
    )
    return [name for (name,) in rows if name != "schema_migrations"]


# ── In and out ────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_files_go_in_and_out_again_and_the_tool_s_own_table_says_so(any_layout: Project) -> None:
    any_layout.write("1", "CREATE TABLE a (n int);", "DROP TABLE a;")
    any_layout.write("2", "CREATE TABLE b (n int);", "DROP TABLE b;")
    any_layout.migrated()
    assert tables(any_layout.database) == ["a", "b"]
    assert any_layout.states() == ["in", "in"]
    assert tool_s_ledger(any_layout)[-1] == ("2",)
    assert "up to date at revision 2" in any_layout.migrate().stdout
    back = any_layout.run("revert", "--to", "1", "--backup", "none")
    assert back.returncode == 0, back.stderr
    assert tables(any_layout.database) == ["a"]
    assert tool_s_ledger(any_layout) == [("1",)]
    assert any_layout.run("revert", "--to", "base", "--backup", "none").returncode == 0
    assert (tables(any_layout.database), tool_s_ledger(any_layout)) == ([], [])


def test_a_file_that_fails_leaves_nothing_of_itself_and_all_of_those_before_it(any_layout: Project) -> None:
    any_layout.write("1", "CREATE TABLE a (n int);")
    any_layout.write("2", "CREATE TABLE b (n int);\nCREATE TABLE c (n nosuchtype);")
    done = any_layout.migrate()
    assert done.returncode == 7
    line = 3 if any_layout.layout == "dbmate" else 2
    assert f':{line}: type "nosuchtype" does not exist' in done.stderr
    assert tables(any_layout.database) == ["a"]
    assert tool_s_ledger(any_layout) == [("1",)]


def test_a_file_whose_deferred_constraint_fails_at_the_commit_is_rolled_back(project: Project) -> None:
    project.write(
        "1",
        "CREATE TABLE a (n int PRIMARY KEY, m int REFERENCES a DEFERRABLE INITIALLY DEFERRED); INSERT INTO a VALUES (1, 2);",
    )
    done = project.migrate()
    assert done.returncode == 7
    assert "1_x.sql: at the commit" in done.stderr
    assert tables(project.database) == []


def test_a_deferred_trigger_that_raises_at_the_commit_is_an_error_of_the_file(project: Project) -> None:
    project.database.execute(
        "CREATE TABLE a (n int); CREATE FUNCTION f() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN RAISE EXCEPTION ''not so''; END'"
    )
    project.database.execute(
        "CREATE CONSTRAINT TRIGGER t AFTER INSERT ON a DEFERRABLE INITIALLY DEFERRED FOR EACH ROW EXECUTE FUNCTION f()"
    )
    project.write("1", "INSERT INTO a VALUES (1);")
    project.write("2", "INSERT INTO a VALUES (1);", transaction=False)
    done = project.migrate()
    assert done.returncode == 7
    assert "1_x.sql: at the commit: not so" in done.stderr


def test_a_file_without_a_transaction_goes_on_where_it_failed(any_layout: Project) -> None:
    any_layout.database.execute(
        "CREATE TABLE t (a text); INSERT INTO t VALUES ('x'), ('x'); CREATE TABLE marks (n int)"
    )
    any_layout.write("1", STEPS.replace("INDEX", "UNIQUE INDEX"), transaction=False)
    assert any_layout.migrate().returncode == 7
    assert any_layout.states() == ["begun: 1 of 3 statements are in"]
    any_layout.database.execute("DELETE FROM t")
    any_layout.migrated()
    assert any_layout.database.execute("SELECT n FROM marks ORDER BY 1") == [(1,), (2,)]
    assert any_layout.states() == ["in"]
    assert tool_s_ledger(any_layout) == [("1",)]


def test_what_a_file_sets_holds_for_its_later_statements_also_when_it_goes_on(project: Project) -> None:
    project.database.execute("CREATE SCHEMA s; CREATE TABLE s.t (a int); INSERT INTO s.t VALUES (1), (1)")
    project.write(
        "1",
        "SET search_path = s; CREATE UNIQUE INDEX CONCURRENTLY i ON t (a); CREATE TABLE made (n int);",
        transaction=False,
    )
    assert project.migrate().returncode == 7
    project.database.execute("TRUNCATE s.t")
    project.migrated()
    assert project.database.execute("SELECT to_regclass('s.made') IS NOT NULL, to_regclass('public.made') IS NULL") == [
        (True, True)
    ]


def test_a_role_that_a_file_sets_for_its_statements_writes_no_ledger(any_layout: Project) -> None:
    role = f"of_file_{any_layout.database.name}"
    any_layout.database.execute(f"CREATE ROLE {role}; GRANT CREATE, USAGE ON SCHEMA public TO {role}")
    any_layout.write("1", f"SET ROLE {role}; CREATE TABLE a (n int);")
    any_layout.write(
        "2", f"SET ROLE {role}; CREATE TABLE b (n int); CREATE INDEX CONCURRENTLY i ON b (n);", transaction=False
    )
    try:
        any_layout.migrated()
        owners = any_layout.database.execute("SELECT tableowner FROM pg_tables WHERE tablename IN ('a', 'b')")
        assert owners == [(role,), (role,)]
    finally:
        any_layout.database.execute(f"DROP OWNED BY {role}; DROP ROLE {role}")


def test_a_file_that_was_edited_above_the_place_where_it_stopped_is_refused(project: Project) -> None:
    project.database.execute("CREATE TABLE t (a text); INSERT INTO t VALUES ('x'), ('x'); CREATE TABLE marks (n int)")
    failing = STEPS.replace("INDEX", "UNIQUE INDEX")
    project.write("1", failing, transaction=False)
    assert project.migrate().returncode == 7
    project.write("1", failing.replace("(1)", "(9)"), transaction=False)
    done = project.migrate()
    assert done.returncode == 4
    assert "was edited above the place where it stopped" in done.stderr
    project.write("1", failing.replace("UNIQUE ", ""), transaction=False)  # below it, it may be
    project.migrated()


def test_a_statement_that_the_server_runs_in_no_transaction_is_a_step_of_its_own(project: Project) -> None:
    project.database.execute(
        "CREATE TABLE t (a int); CREATE PROCEDURE p() LANGUAGE plpgsql AS 'BEGIN INSERT INTO t VALUES (1); COMMIT; END'"
    )
    project.write("1", "VACUUM t; CALL p();", transaction=False)
    project.migrated()
    assert project.database.execute("SELECT count(*) FROM t") == [(1,)]


def test_a_way_back_in_steps_goes_on_where_it_failed(any_layout: Project) -> None:
    any_layout.write(
        "1",
        "CREATE TABLE marks (n int); CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1);",
        "DROP TABLE t; DROP TABLE marks;",
    )
    back = "INSERT INTO marks VALUES (1); CREATE UNIQUE INDEX CONCURRENTLY i ON t (a); INSERT INTO marks VALUES (2);"
    any_layout.write("2", "CREATE INDEX CONCURRENTLY j ON t (a);", back, transaction=False)
    any_layout.migrated()
    assert any_layout.run("revert", "--to", "1", "--backup", "none").returncode == 7
    assert any_layout.states() == ["in", "half out: 1 of 3 statements of its way back have run"]
    any_layout.write("3", "CREATE TABLE more (n int);")
    assert any_layout.migrate().returncode == 4
    any_layout.database.execute("TRUNCATE t")
    done = any_layout.run("revert", "--to", "1", "--backup", "none")
    assert done.returncode == 0, done.stderr
    assert any_layout.database.execute("SELECT n FROM marks ORDER BY 1") == [(1,), (2,)]
    assert any_layout.states() == ["in", "pending", "pending"]


def test_a_drop_of_what_was_never_there_fails_again(project: Project) -> None:
    project.write("1", "DROP INDEX CONCURRENTLY nothing;", transaction=False)
    assert project.migrate().returncode == 7
    assert project.migrate().returncode == 7


KILLED = """
import os, signal, sys
import pgvigil.projects.ledger as ledger
put, left = ledger.Ledger.put, [int(sys.argv.pop(1))]
def counted(self, *arguments, **options):
    left[0] -= 1
    if left[0] < 0: os.kill(os.getpid(), signal.SIGKILL)
    put(self, *arguments, **options)
    if left[0] == 0 and sys.argv[0] == "after": os.kill(os.getpid(), signal.SIGKILL)
ledger.Ledger.put = counted
from pgvigil.cli import main
sys.exit(main())
"""


@pytest.mark.parametrize("written", range(5))
def test_a_run_that_is_killed_at_any_step_has_each_step_once_in_the_end(project: Project, written: int) -> None:
    project.database.execute("CREATE TABLE t (a int); CREATE TABLE marks (n int)")
    project.write("1", STEPS, transaction=False)
    words = ["migrate", "--project", str(project.directory), "--backup", "none", "--database-url", project.database.url]
    killed = subprocess.run(
        [sys.executable, "-P", "-c", KILLED, str(written), *words],
        env=os.environ | {"PYTHONPATH": str(PROJECT / "src")}, check=False, capture_output=True, text=True, timeout=60,
    )  # fmt: skip
    assert killed.returncode == -signal.SIGKILL, killed.stderr
    locks = "SELECT FROM pg_locks WHERE locktype = 'advisory' AND database = (SELECT oid FROM pg_database WHERE datname = current_database())"
    wait_until(lambda: not project.database.execute(locks))
    project.migrated()
    assert project.database.execute("SELECT n FROM marks ORDER BY 1") == [(1,), (2,)]
    assert project.database.execute("SELECT indisvalid FROM pg_index WHERE indexrelid = 'i'::regclass") == [(True,)]
    assert project.states() == ["in"]


@pytest.mark.parametrize(
    ("statement", "undone"),
    [
        ("DROP INDEX CONCURRENTLY i", "SELECT to_regclass('i') IS NULL"),
        (
            "ALTER TABLE p DETACH PARTITION t CONCURRENTLY",
            "SELECT NOT EXISTS (SELECT FROM pg_inherits WHERE inhrelid = 't'::regclass)",
        ),
    ],
)
def test_a_step_that_was_done_when_the_run_was_killed_is_found_done(
    project: Project, statement: str, undone: str
) -> None:
    project.database.execute(
        "CREATE TABLE p (a int) PARTITION BY LIST (a); CREATE TABLE t PARTITION OF p FOR VALUES IN (1)"
    )
    project.database.execute("CREATE INDEX i ON t (a)")
    project.write("1", f"{statement}; CREATE TABLE made (n nosuchtype);", transaction=False)
    assert project.migrate().returncode == 7
    project.database.execute("UPDATE pgvigil_project.migrations SET steps = 0, begun = true")
    project.write("1", f"{statement};", transaction=False)
    project.migrated()
    assert project.database.execute(undone) == [(True,)]


# ── The spec ──────────────────────────────────────────────────────────────────────────────────────────────────────────


def test_a_result_that_the_spec_does_not_declare_is_rolled_back_before_the_commit(any_layout: Project) -> None:
    any_layout.configure(spec="schema-spec.yaml")
    any_layout.database.execute("CREATE TABLE t (a int NOT NULL)")
    any_layout.dump_spec()
    any_layout.database.execute("DROP TABLE t")
    path = any_layout.write("1", "CREATE TABLE t (a int);", "DROP TABLE t;")
    done = any_layout.migrate()
    assert done.returncode == 7
    assert "the result would not meet schema-spec.yaml" in done.stderr
    assert "SET NOT NULL" in done.stderr
    assert tables(any_layout.database) == []
    assert any_layout.database.execute(
        "SELECT to_regclass('pgvigil_project.migrations'), to_regclass('schema_migrations')"
    ) == [(None, None)]
    path.write_text(path.read_text().replace("int", "int NOT NULL"))
    assert "meets" not in any_layout.migrated()
    assert any_layout.run("validate").returncode == 0
    any_layout.database.execute("ALTER TABLE t ADD COLUMN b int")
    assert any_layout.run("validate").returncode == 1


def test_files_before_the_last_are_not_compared_with_the_spec(project: Project) -> None:
    project.configure(spec="schema-spec.yaml")
    project.database.execute("CREATE TABLE b (n int)")
    project.dump_spec()
    project.database.execute("DROP TABLE b")
    project.write("1", "CREATE TABLE a (n int);")
    project.write("2", "ALTER TABLE a RENAME TO b;")
    assert project.migrate("--to", "1").returncode == 0
    project.migrated()


def test_a_spec_that_is_not_there_is_an_error_and_not_a_pass(project: Project) -> None:
    project.configure(spec="nowhere.yaml")
    project.write("1", "CREATE TABLE a (n int);")
    done = project.migrate()
    assert done.returncode == 2
    assert "check --project" in done.stderr
    assert tables(project.database) == []


# ── What is not begun ─────────────────────────────────────────────────────────────────────────────────────────────────


def test_an_edit_of_a_file_that_is_in_is_refused_and_one_of_a_comment_is_not(any_layout: Project) -> None:
    path = any_layout.write("1", "CREATE TABLE a (n int);", "DROP TABLE a;")
    any_layout.migrated()
    text = path.read_text()
    path.write_text(text.replace("CREATE", "-- a comment\nCREATE"))
    assert "has other comments" in any_layout.migrated()
    path.write_text(text.replace("int", "bigint"))
    done = any_layout.migrate()
    assert done.returncode == 4
    assert "--accept-checksum 1" in done.stderr
    assert any_layout.run("status").returncode == 4
    assert any_layout.migrate("--accept-checksum", "1").returncode == 0
    any_layout.migrated()


def test_a_file_below_one_that_is_in_is_refused_unless_the_project_allows_it(any_layout: Project) -> None:
    project = any_layout
    project.write("2", "CREATE TABLE b (n int);", "DROP TABLE b;")
    project.migrated()
    project.write("1", "CREATE TABLE a (n int);", "DROP TABLE a;")
    done = project.migrate()
    assert done.returncode == 4
    assert "out_of_order = true" in done.stderr
    project.configure(out_of_order=True)
    project.migrated()
    assert project.states() == ["in", "in"]
    assert tool_s_ledger(project)[-1] == ("2",)


@pytest.mark.client_side
@pytest.mark.parametrize("layout", ["plain", "dbmate"])
def test_a_statement_that_no_transaction_can_have_is_refused_by_line_with_what_to_write(
    tmp_path: Path, database: Database, call: Run, layout: str
) -> None:
    project = Project(tmp_path / "project", database, call, layout)
    project.configure()
    project.write("1", "CREATE TABLE t (a int);\nCREATE INDEX CONCURRENTLY i ON t (a);", "DROP TABLE t;")
    done = project.migrate()
    assert done.returncode == 2
    assert {"plain": "1_x.sql:2: CREATE INDEX CONC", "dbmate": "1_x.sql:3: CREATE INDEX CONC"}[layout] in done.stderr
    assert {"plain": "-- pgvigil: no-transaction", "dbmate": "transaction:false"}[layout] in done.stderr


@pytest.mark.client_side
def test_versions_of_golang_migrate_are_numbers_and_those_of_dbmate_texts(
    tmp_path: Path, database: Database, call: Run
) -> None:
    for layout, order in (("golang-migrate", ["9", "10"]), ("dbmate", ["10", "9"]), ("plain", ["9", "10"])):
        made = Project(tmp_path / layout, database, call, layout)
        made.configure()
        for version in ("9", "10"):
            made.write(version, "SELECT 1;")
        assert [one.version for one in layouts.load(config.find(made.directory))] == order


def test_a_dirty_golang_migrate_is_told_and_left_alone(tmp_path: Path, database: Database, call: Run) -> None:
    project = Project(tmp_path / "project", database, call, "golang-migrate")
    project.configure()
    project.write("1", "CREATE TABLE a (n int);")
    database.execute("CREATE TABLE schema_migrations (version bigint PRIMARY KEY, dirty boolean NOT NULL)")
    database.execute("INSERT INTO schema_migrations VALUES (1, true)")
    done = project.migrate()
    assert done.returncode == 4
    assert "migrate force" in done.stderr
    assert tables(database) == []


@pytest.mark.parametrize(
    ("layout", "columns"), [("golang-migrate", "version text"), ("dbmate", "version bigint, dirty boolean")]
)
def test_a_table_of_another_tool_is_not_taken_for_the_ledger(
    tmp_path: Path, database: Database, call: Run, layout: str, columns: str
) -> None:
    project = Project(tmp_path / "project", database, call, layout)
    project.configure()
    project.write("1", "CREATE TABLE a (n int);")
    database.execute(f"CREATE TABLE schema_migrations ({columns})")
    done = project.migrate()
    assert done.returncode == 4
    assert f"is not the table of {layout}" in done.stderr


def test_a_version_that_no_file_has_stops_the_run(any_layout: Project) -> None:
    any_layout.write("1", "CREATE TABLE a (n int);")
    path = any_layout.write("2", "CREATE TABLE b (n int);")
    any_layout.migrated()
    path.unlink()
    if any_layout.layout == "golang-migrate":
        path.with_name("2_x.down.sql").unlink()
    done = any_layout.migrate()
    assert done.returncode == 4
    assert "no file here has: 2" in done.stderr


def test_what_something_else_has_changed_stops_the_run_or_is_told(any_layout: Project) -> None:
    any_layout.write("1", "CREATE TABLE a (n int);", "DROP TABLE a;")
    any_layout.migrated()
    any_layout.database.execute("ALTER TABLE a ADD COLUMN by_hand int; GRANT SELECT ON a TO PUBLIC")
    any_layout.write("2", "CREATE TABLE b (n int);", "DROP TABLE b;")
    done = any_layout.migrate()
    assert done.returncode == 4
    assert "by_hand" in done.stderr
    assert "grant" not in done.stderr.lower()
    any_layout.configure(drift="tell")
    assert "by_hand" in any_layout.migrated()


def test_what_is_not_of_the_project_can_be_left_alone(project: Project) -> None:
    project.write("1", "CREATE TABLE a (n int);")
    project.migrated()
    project.database.execute("CREATE TABLE other_things (n int)")
    project.write("2", "CREATE TABLE b (n int);")
    done = project.migrate()
    assert done.returncode == 4
    assert 'ignore = ["table other_things"]' in done.stderr
    project.configure(ignore=["table other_*"])
    project.migrated()


def test_what_pgvigil_s_own_migrations_have_brought_is_not_drift(tmp_path: Path, fresh: Database, call: Run) -> None:
    project = Project(tmp_path / "project", fresh, call)
    project.configure()
    project.write("1", "CREATE TABLE a (n int);")
    project.migrated()
    fresh.execute("CREATE TABLE by_hand (n int)")
    project.write("2", "CREATE TABLE b (n int);")
    done = project.migrate()
    assert done.returncode == 4
    assert "table by_hand" in done.stderr
    assert "INVALID: 1 finding" in done.stderr, done.stderr


def test_a_baseline_is_recorded_only_where_the_schema_is_what_the_files_make(any_layout: Project) -> None:
    any_layout.database.execute("CREATE TABLE a (n int)")
    any_layout.write("1", "CREATE TABLE a (n int);", "DROP TABLE a;")
    any_layout.write("2", "CREATE TABLE b (n int);", "DROP TABLE b;")
    wrong = any_layout.run("baseline", "--at", "2")
    assert wrong.returncode == 4
    assert "table b" in wrong.stderr
    assert any_layout.states() == ["pending", "pending"]
    right = any_layout.run("baseline", "--at", "1")
    assert right.returncode == 0, right.stderr
    assert any_layout.states() == ["baselined", "pending"]
    any_layout.migrated()
    assert tool_s_ledger(any_layout)[-1] == ("2",)


def test_a_baseline_that_is_forced_says_who_did_it(project: Project) -> None:
    project.write("1", "CREATE TABLE a (n int);")
    assert project.run("baseline", "--at", "1", "--force").returncode == 0
    assert project.database.execute(
        "SELECT baselined, note, applied_by = session_user FROM pgvigil_project.migrations"
    ) == [(True, "baseline by --force, not equal", True)]


def test_a_file_without_a_way_back_is_not_reverted(any_layout: Project) -> None:
    any_layout.write("1", "CREATE TABLE a (n int);")
    any_layout.migrated()
    done = any_layout.run("revert", "--to", "base", "--backup", "none")
    assert done.returncode == 4
    assert "has no way back" in done.stderr
    assert tables(any_layout.database) == ["a"]


def test_a_second_run_waits_for_the_first_and_names_it(project: Project) -> None:
    project.write("1", "CREATE TABLE a (n int);")
    with project.database.connect(application_name="the first") as first:
        first.execute(f"SELECT pg_advisory_lock({int.from_bytes(b'pgvigil', 'big')})")
        done = project.migrate("--lock-wait", "0")
    assert done.returncode == 6
    assert "the first" in done.stderr


def test_a_file_that_sets_its_own_lock_timeout_lets_nobody_wait_longer(project: Project) -> None:
    project.database.execute("CREATE TABLE t (a int)")
    project.write(
        "1", "SET lock_timeout = 0; SELECT set_config('lock_timeout', '0', false); ALTER TABLE t ADD COLUMN b int;"
    )
    with project.database.connect(autocommit=False) as reader:
        reader.execute("SELECT FROM t")
        done = project.migrate("--lock-budget", "0.3")
    assert done.returncode == 6
    assert "a table lock was not granted" in done.stderr


def test_a_role_that_may_not_make_the_ledger_is_told_the_grant_before_anything(project: Project) -> None:
    project.write("1", "CREATE TABLE a (n int);")
    project.database.execute("DROP ROLE IF EXISTS app_migrator")
    project.database.execute("CREATE ROLE app_migrator LOGIN; GRANT CREATE ON SCHEMA public TO app_migrator")
    try:
        url = project.database.url.replace("postgres@", "app_migrator@").replace("user=postgres", "user=app_migrator")
        done = project.call(
            "pgvigil", "migrate", "--project", project.directory, "--backup", "none", "--database-url", url
        )
    finally:
        project.database.execute("DROP OWNED BY app_migrator; DROP ROLE app_migrator")
    assert done.returncode == 4
    assert f"GRANT CREATE ON DATABASE {project.database.name} TO app_migrator;" in done.stderr


def test_a_rehearsal_that_would_change_the_whole_server_does_not_run(project: Project) -> None:
    project.write("1", "CREATE TABLE a (n int);\nDO $$ BEGIN CREATE ROLE rehearsed; END $$;")
    done = project.run("migrate", "--rehearse")
    assert done.returncode == 4
    assert "1_x.sql:2" in done.stderr
    assert project.database.execute("SELECT FROM pg_roles WHERE rolname = 'rehearsed'") == []


def test_a_rehearsal_that_fails_has_changed_nothing_and_says_so(project: Project) -> None:
    project.database.execute("CREATE TABLE t (a int); INSERT INTO t VALUES (1), (1)")
    project.write("1", "CREATE TABLE a (n int);")
    project.write("2", "CREATE UNIQUE INDEX CONCURRENTLY i ON t (a);", transaction=False)
    done = project.run("migrate", "--rehearse")
    assert done.returncode == 7
    assert "the database itself was not changed" in done.stderr
    assert tables(project.database) == ["t"]
    assert project.database.execute("SELECT to_regnamespace('pgvigil_project')") == [(None,)]


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("sql", "words"),
    [
        ("SELECT 1;\nBEGIN;\nSELECT 2;\nCOMMIT;\nSELECT 3;", "BEGIN in a file whose transactions"),
        ("SELECT 1;\n\\connect other", "a psql command"),
        ("SELECT 1;\nCOPY t FROM STDIN;", "needs psql"),
        ("SELECT 1;\nDISCARD ALL;", "would end the run lock"),
        ("SELECT 1;\nSELECT 'open", "never closed"),
    ],
)
def test_a_file_that_cannot_run_is_refused_by_line_before_a_server_is_asked(
    project: Project, sql: str, words: str
) -> None:
    project.write("1", sql)
    done = project.call("pgvigil", "check", "--project", project.directory)
    assert done.returncode == 2
    assert words in done.stderr
    assert "1_x.sql:2:" in done.stderr


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("-- migrate:up\nSELECT 1;\n-- migrate:up\nSELECT 2;\n", ":3: a file of dbmate has one"),
        ("SELECT 1;\n-- migrate:up\n", "SQL before -- migrate:up"),
        ("SELECT 1;\n", ":1: a file of dbmate has one"),
    ],
)
def test_a_file_that_dbmate_reads_otherwise_is_refused(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "migrations").mkdir()
    (tmp_path / "pgvigil.toml").write_text('layout = "dbmate"\n')
    (tmp_path / "migrations" / "1_x.sql").write_text(text)
    with pytest.raises(UsageError, match=words):
        layouts.load(config.find(tmp_path))


def test_a_file_of_golang_migrate_may_have_a_transaction_around_it(
    tmp_path: Path, database: Database, call: Run
) -> None:
    project = Project(tmp_path / "project", database, call, "golang-migrate")
    project.configure()
    project.write("1", "BEGIN;\n\nCREATE TABLE a (n nosuchtype);\n\nCOMMIT;\n", "BEGIN; DROP TABLE a; END;")
    assert ":3: type" in project.migrate().stderr
    project.write("1", "BEGIN;\n\nCREATE TABLE a (n int);\n\nCOMMIT;\n", "BEGIN; DROP TABLE a; END;")
    project.migrated()
    assert project.run("revert", "--to", "base", "--backup", "none").returncode == 0
    assert tables(database) == []


# ── The project's file ────────────────────────────────────────────────────────────────────────────────────────────────


@pytest.mark.client_side
@pytest.mark.parametrize(
    ("text", "words"),
    [
        ('layout = "plain"\nlayuot = "x"\n', ":2: there is no key layuot"),
        ('\nlayout = "flyway"\n', ':2: layout is "plain" or "dbmate" or "golang-migrate", not'),
        ('[backup]\nkind = "full"\nverfy = "read"\n', ":3: there is no key verfy in"),
        ("out_of_order = 1\n", ":1: out_of_order is true or false"),
        ("search_path = []\n", ":1: search_path is a list"),
        ("layout = \n", "pgvigil.toml: "),
    ],
)
def test_a_mistake_in_the_project_s_file_is_told_by_line(tmp_path: Path, text: str, words: str) -> None:
    (tmp_path / "pgvigil.toml").write_text(text)
    with pytest.raises(UsageError) as told:
        config.find(tmp_path)
    assert words in told.value.message
    assert str(tmp_path) in told.value.message


@pytest.mark.client_side
def test_a_project_may_stand_in_pyproject_toml_and_is_found_from_below(tmp_path: Path) -> None:
    (tmp_path / "pyproject.toml").write_text(
        '[project]\nname = "x"\n\n[tool.pgvigil]\nlayout = "dbmate"\nmigrations = "db"\n'
    )
    below = tmp_path / "a" / "b"
    below.mkdir(parents=True)
    found = config.find(below)
    assert (found.layout, found.migrations) == ("dbmate", tmp_path / "db")
    (tmp_path / "pyproject.toml").write_text('[project]\nname = "x"\n\n[tool.pgvigil]\nlayuot = "dbmate"\n')
    with pytest.raises(UsageError, match=r"pyproject\.toml:5: there is no key layuot"):
        config.find(below)


@pytest.mark.client_side
def test_a_project_may_be_named_by_its_file(tmp_path: Path) -> None:
    (tmp_path / "pgvigil.toml").write_text('schema = "app"\n')
    assert config.find(tmp_path / "pgvigil.toml").schema == "app"


@pytest.mark.client_side
def test_the_env_file_of_a_project_names_its_database_and_not_that_of_pgvigil(
    tmp_path: Path, project: Project, monkeypatch: pytest.MonkeyPatch
) -> None:
    project.write("1", "CREATE TABLE a (n int);")
    elsewhere = tmp_path / "pgvigil"
    elsewhere.mkdir()
    (elsewhere / ".env").write_text("DATABASE_URL=postgresql:///of_pgvigil_itself?host=/nowhere\n")
    (project.directory / ".env").write_text(f"DATABASE_URL={project.database.url}\n")
    for path in (elsewhere / ".env", project.directory / ".env"):
        path.chmod(0o600)
    monkeypatch.setattr("pgvigil.project.ROOT", elsewhere)
    monkeypatch.chdir(tmp_path)
    done = project.call("pgvigil", "migrate", "--project", project.directory, "--backup", "none")
    assert done.returncode == 0, done.stderr
    assert tables(project.database) == ["a"]


@pytest.mark.client_side
def test_no_project_is_found_where_none_is(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="is not a project of pgvigil"):
        config.find(tmp_path)


# ── Beginning one, and checking it without a database ─────────────────────────────────────────────────────────────────


@pytest.mark.client_side
@pytest.mark.parametrize("layout", LAYOUTS)
def test_a_project_that_is_begun_builds_and_reverts_cleanly(tmp_path: Path, call: Run, layout: str) -> None:
    begun = call("pgvigil", "init", tmp_path / "db", "--layout", layout)
    assert begun.returncode == 0, begun.stderr
    new = call("pgvigil", "new", "--project", tmp_path / "db", "add_orders")
    assert new.returncode == 0, new.stderr
    files = sorted(path.name.partition("_")[2] for path in (tmp_path / "db" / "migrations").glob("*.sql"))
    assert (
        files
        == {
            "plain": ["add_orders.sql", "first.sql"],
            "dbmate": ["add_orders.sql", "first.sql"],
            "golang-migrate": ["add_orders.down.sql", "add_orders.up.sql", "first.down.sql", "first.up.sql"],
        }[layout]
    )
    checked = call("pgvigil", "check", "--project", tmp_path / "db")
    assert checked.returncode == 0, checked.stdout + checked.stderr
    assert "2 files build and revert cleanly" in checked.stdout
    again = call("pgvigil", "init", tmp_path / "db")
    assert again.returncode == 2


@pytest.mark.client_side
def test_a_project_is_begun_with_its_files_in_another_directory(tmp_path: Path, call: Run) -> None:
    begun = call("pgvigil", "init", tmp_path, "--migrations", "sql")
    assert begun.returncode == 0, begun.stderr
    assert [path.name for path in (tmp_path / "sql").glob("*.sql")] == ["001_first.sql"]


@pytest.mark.client_side
def test_a_check_finds_a_way_back_that_leads_elsewhere_and_a_spec_that_is_old(project: Project) -> None:
    project.configure(spec="schema-spec.yaml")
    check: Callable[..., subprocess.CompletedProcess[str]] = lambda *words: project.call(  # noqa: E731
        "pgvigil", "check", "--project", project.directory, *words
    )
    project.write("1", "CREATE TABLE a (n int);", "DROP TABLE a;")
    written = check("--write-spec")
    assert written.returncode == 0, written.stderr
    spec = project.directory / "schema-spec.yaml"
    spec.write_text(spec.read_text() + "ignore: [{objects: 'table other*', reason: theirs}]\n")
    project.write("2", "CREATE TABLE b (n int); CREATE TABLE c (n int);", "DROP TABLE b;")
    found = check()
    assert found.returncode == 1
    assert "is not what the files make" in found.stdout
    assert "2_x.sql: after it the schema is not what it was before" in found.stdout
    project.write("2", "CREATE TABLE b (n int); CREATE TABLE c (n int);", "DROP TABLE b, c;")
    assert check("--write-spec").returncode == 0
    assert "theirs" in spec.read_text()
    assert check().returncode == 0


@pytest.mark.client_side
def test_a_check_says_what_the_linter_finds_and_does_not_fail_for_it(project: Project) -> None:
    project.write("1", "CREATE TABLE a (n int);", "DROP TABLE a;")
    project.write("2", "ALTER TABLE a ALTER n SET NOT NULL;", "ALTER TABLE a ALTER n DROP NOT NULL;")
    done = project.call("pgvigil", "check", "--project", project.directory)
    assert done.returncode == 0, done.stderr
    assert "lint: 1 finding" in done.stdout
    assert "pgvigil lint" in done.stdout


@pytest.mark.client_side
def test_a_file_that_does_not_build_fails_the_check_by_line(project: Project) -> None:
    project.write("1", "CREATE TABLE a (n int);\nCREATE TABLE a (n int);", "DROP TABLE a;")
    done = project.call("pgvigil", "check", "--project", project.directory)
    assert done.returncode == 7
    assert '1_x.sql:2: relation "a" already exists' in done.stderr


# ── The tools themselves ──────────────────────────────────────────────────────────────────────────────────────────────


def dbmate() -> str:
    """The program of npm's @dbmate/linux-x64, or the one that $DBMATE names."""
    matrix = Path(os.environ.get("PG_MATRIX_DIR", "/nowhere")) / "dbmate" / "bin" / "dbmate"
    found = os.environ.get("DBMATE") or (str(matrix) if matrix.exists() else shutil.which("dbmate"))
    if not found:
        pytest.skip("there is no dbmate here (npm install @dbmate/linux-x64; DBMATE=path)")
    return found


@pytest.mark.client_side
def test_dbmate_agrees_afterwards_and_pgvigil_with_it(tmp_path: Path, database: Database, call: Run) -> None:
    program = dbmate()
    project = Project(tmp_path / "project", database, call, "dbmate")
    project.configure()

    def tool(verb: str) -> str:
        return subprocess.run(
            [program, "--url", database.tcp_url + "?sslmode=disable", "--no-dump-schema", "-d", "migrations", verb],
            cwd=project.directory, check=True, capture_output=True, text=True,
        ).stdout  # fmt: skip

    project.write("20260101000001", "CREATE TABLE t (a int);", "DROP TABLE t;")
    tool("up")
    project.write(
        "20260101000002",
        "CREATE INDEX CONCURRENTLY i ON t (a); CREATE TABLE u (b int);",
        "DROP INDEX i; DROP TABLE u;",
        transaction=False,
    )
    project.write("20260101000003", "CREATE TABLE v (c int);", "DROP TABLE v;")
    assert project.states() == ["in, by dbmate", "pending", "pending"]
    project.migrated()
    status = tool("status")
    assert "Applied: 3" in status
    assert "Pending: 0" in status
    tool("rollback")
    assert project.states() == ["in", "in", "pending"]
    assert project.run("revert", "--to", "base", "--backup", "none").returncode == 0
    assert "Applied: 0" in tool("status")
    project.migrated()
    assert project.states() == ["in", "in", "in"]


def test_the_help_of_each_verb_of_projects_says_what_it_is_about(capsys: pytest.CaptureFixture[str]) -> None:
    for verb in ("init", "new", "check", "baseline", "migrate", "revert", "status", "validate"):
        assert cli.main([verb, "--help"]) == 0
        said = capsys.readouterr().out
        assert "project" in said
