"""Test files that others may have written (a project's file, a spec, an archive's row): each is refused with a message,
and none is obeyed.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import psycopg
import pytest

from conftest import PROJECT, Database
from helpers.archived import archive, keep, old_logs, retention, target
from helpers.projects import Project
from pgvigil.archives import catalogue, restore, store
from pgvigil.archives.store import Store
from pgvigil.errors import ArchiveError, UsageError
from pgvigil.progress import Reporter
from pgvigil.projects import config
from pgvigil.text import Guarded
from pgvigil.validate import load_declaration
from pgvigil.visible_sql import print_sql
from security.conftest import COUNTED, Installation

pytestmark = pytest.mark.client_side


# --- a project's file -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "said",
    ["a = " + "[" * 100_000, "a." * 50_000 + "b = 1", "[" + "a." * 20_000 + "a]", "guard = 3", 'lint = "x"'],
    ids=["deep list", "deep key", "deep table", "guard", "lint"],
)
def test_a_file_that_cannot_be_a_project_s_is_a_usage_error(tmp_path: Path, said: str) -> None:
    (tmp_path / "pgvigil.toml").write_text(said)
    with pytest.raises(UsageError, match=r"pgvigil\.toml"):
        config.find(tmp_path)


@pytest.mark.parametrize("said", ["[tool]\npgvigil = 3\n", '[[tool.pgvigil]]\nname = "x"\n', "tool = 3\n"])
def test_another_table_in_pyproject_is_no_project(tmp_path: Path, said: str) -> None:
    (tmp_path / "pyproject.toml").write_text(said)
    with pytest.raises(UsageError, match=r"pyproject\.toml"):
        config.find(tmp_path)


def test_a_project_s_file_that_every_user_can_write_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "pgvigil.toml"
    file.write_text('layout = "plain"\n')
    file.chmod(0o666)
    with pytest.raises(UsageError, match="can be written to by every user"):
        config.find(tmp_path)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root gives files to others")
def test_a_stranger_s_file_in_a_directory_above_is_not_read(tmp_path: Path) -> None:
    file = tmp_path / "pgvigil.toml"
    file.write_text('layout = "plain"\n')
    (tmp_path / "mine").mkdir()
    assert config.find(tmp_path / "mine").file == file
    os.chown(file, 65534, 65534)
    assert config.find(tmp_path).file == file  # a user who works in the directory has chosen it
    with pytest.raises(UsageError, match="belongs to another user"):
        config.find(tmp_path / "mine")


@pytest.mark.parametrize("name", [b"002_\xff\xfe.sql", "٠٠٢_x.sql".encode(), b"002_x\n::error::y.sql"])
def test_a_file_that_the_ledger_could_not_hold_is_refused_before_anything_runs(
    tmp_path: Path, database: Database, call: Callable[..., subprocess.CompletedProcess[str]], name: bytes
) -> None:
    project = Project(tmp_path / "project", database, call)
    project.configure(drift="off")
    project.write("001", "CREATE TABLE t (id int);")
    Path(os.fsdecode(os.fsencode(project.directory) + b"/migrations/" + name)).write_text("SELECT 1;")
    done = project.migrate()
    assert done.returncode == 2, done.stderr
    assert "\n::error" not in done.stderr
    assert database.execute("SELECT to_regclass('t')") == [(None,)]


@pytest.mark.parametrize(
    "planted",
    [
        "CREATE FUNCTION {app}.of_insert() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM {app}.spring(); RETURN NEW; END';"
        "CREATE TRIGGER x BEFORE INSERT ON {app}.schema_migrations FOR EACH ROW EXECUTE FUNCTION {app}.of_insert()",
        "CREATE DOMAIN {app}.word AS varchar CHECK ({app}.spring()); ALTER TABLE {app}.schema_migrations ALTER version TYPE {app}.word",
        "ALTER TABLE {app}.schema_migrations RENAME TO x; CREATE VIEW {app}.schema_migrations AS SELECT version FROM {app}.x WHERE {app}.spring()",
    ],
    ids=["trigger", "domain", "view"],
)
def test_a_superuser_s_migrate_runs_nothing_that_hangs_on_another_role_s_ledger(
    tmp_path: Path, installed: Callable[..., Installation], planted: str
) -> None:
    installation = installed()
    installation.as_owner(COUNTED + "; CREATE TABLE {app}.schema_migrations (version varchar PRIMARY KEY)")
    project = Project(tmp_path / "project", installation.database, installation.call, layout="dbmate")
    project.configure(drift="off")
    project.write("001", "SELECT 1;")
    assert project.migrate().returncode == 0
    project.write("002", "SELECT 1;")
    installation.execute(planted, user="x_owner")  # not by SET ROLE, from which the code could RESET
    done = project.migrate()
    assert (done.returncode, installation.turned) == (4, False), done.stderr
    assert "belongs to x_owner and is more than the plain table of dbmate" in done.stderr


# --- a spec -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("name", "said"),
    [("x.yaml", "tables: " + "[" * 50_000), ("x.yaml", "- " * 50_000), ("x.json", "[" * 50_000)],
    ids=["flow", "block", "json"],
)
def test_a_spec_that_is_nested_too_deeply_is_a_usage_error(tmp_path: Path, name: str, said: str) -> None:
    """The test needs a process of its own, which libyaml would end with a segmentation fault."""
    (tmp_path / name).write_text(said)
    code = "import sys; from pathlib import Path; from pgvigil.validate import load_declaration; load_declaration(Path(sys.argv[1]))"
    done = subprocess.run([sys.executable, "-c", code, tmp_path / name],
        env={**os.environ, "PYTHONPATH": str(PROJECT / "src")}, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode != -signal.SIGSEGV
    assert "nested too deeply" in done.stderr


def test_brackets_in_the_strings_of_a_spec_are_no_depth(tmp_path: Path) -> None:
    (tmp_path / "x.yaml").write_text(f"spec: 1\nspec_: '{'[' * 500}'\n")
    with pytest.raises(UsageError, match="unknown key 'spec_'"):
        load_declaration(tmp_path / "x.yaml")


# --- what is printed for programs -------------------------------------------------------------------------------------


def test_a_script_commands_no_ci_system_and_keeps_its_casts(capsys: pytest.CaptureFixture[str]) -> None:
    print_sql("SELECT x\n  ::text::jsonb, '\n  ::error file=a::b\n::set-output name=a::b'", Guarded(sys.stdout))  # type: ignore[arg-type]
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  ::text::jsonb, E'\\n  ::error file=a::b\\n::set-output name=a::b'"]


# --- archives ---------------------------------------------------------------------------------------------------------


def test_a_row_of_the_catalogue_removes_nothing_but_archives(fresh: Database, tmp_path: Path) -> None:
    """The owner of the tables writes pgvigil.archives; whoever runs the job may be root."""
    keep(fresh)
    home = tmp_path / "home"
    (home / "keys").mkdir(parents=True)
    (home / "keys" / "id_rsa.pub").write_text("mine")
    fresh.execute(
        """INSERT INTO pgvigil.archives (source, from_time, to_time, location, path, origin)
           SELECT 'performance_logs', now(), now(), %s, 'keys/id_rsa.json', system_identifier || '/' || current_database() FROM pg_control_system()""",
        (str(home),),
    )
    archive(fresh, tmp_path / "a")
    assert (home / "keys" / "id_rsa.pub").read_text() == "mine"
    assert fresh.execute("SELECT count(*) FROM pgvigil.archives") == [(1,)]


@pytest.mark.parametrize(
    "location", ["sftp://evil/x", "http://169.254.169.254/x", "simplecache::s3://b/x", "github://a:b@/"]
)
def test_the_database_does_not_choose_what_this_machine_connects_to(location: str) -> None:
    with pytest.raises(ArchiveError, match="not an object store"):
        store.stored(location)


def test_the_database_does_not_choose_what_directories_are_made(tmp_path: Path) -> None:
    with pytest.raises(ArchiveError, match="there is no directory"):
        store.stored(str(tmp_path / "x" / "y"))
    assert not (tmp_path / "x").exists()


def test_a_place_that_the_caller_has_chosen_is_opened(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    opened: list[str] = []
    monkeypatch.setattr(store, "open_store", lambda place: opened.append(place) or Store(tmp_path))
    monkeypatch.setenv("PGVIGIL_ARCHIVE", "sftp://ours/x/")
    store.stored("sftp://ours/x")
    store.stored("sftp://theirs/x", "sftp://theirs/x")
    assert opened == ["sftp://ours/x", "sftp://theirs/x"]


def test_a_restore_runs_no_check_of_the_owner_s_types(fresh: Database, tmp_path: Path) -> None:
    old_logs(fresh)
    keep(fresh)
    fresh.execute(
        """CREATE SEQUENCE public.turned;
           CREATE FUNCTION public.spring(text) RETURNS boolean LANGUAGE plpgsql AS 'BEGIN RETURN nextval(''public.turned'') > 0; END';
           CREATE DOMAIN public.mined AS text CHECK (public.spring(VALUE));
           ALTER TABLE performance_logs ADD COLUMN x public.mined"""
    )
    fresh.execute("UPDATE performance_logs SET x = 'a'; SELECT setval('public.turned', 1, false)")
    archive(fresh, tmp_path / "a")
    retention(fresh)
    with psycopg.connect(fresh.url) as conn:
        assert [one.state for one in catalogue.read(conn)] == ["file"]
    assert restore.restore(target(fresh), "performance_logs", None, None, Reporter(), table="back") == 500
    assert fresh.execute("SELECT is_called FROM public.turned") == [(False,)]
    assert fresh.execute("SELECT DISTINCT x FROM back") == [("a",)]
