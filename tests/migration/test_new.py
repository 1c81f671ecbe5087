"""`pgvigil new`: the files of a migration are there, linked, and something complains until the rest follows."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from pgvigil import project
from pgvigil.cli import main
from pgvigil.migration import files, offline_check

pytestmark = pytest.mark.client_side


@pytest.fixture
def checkout(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the project's scripts that a test may write to."""
    scripts = tmp_path / "scripts"
    shutil.copytree(project.SCRIPTS, scripts)
    shutil.copytree(project.ROOT / "docs", tmp_path / "docs")  # some pages have tables of what the migrations say
    for name in ("MIGRATIONS", "SPEC", "SPEC_SCHEMA", "INIT_SQL"):
        monkeypatch.setattr(project, name, scripts / getattr(project, name).relative_to(project.SCRIPTS))
    monkeypatch.setattr(project, "SCRIPTS", scripts)
    monkeypatch.setattr(project, "ROOT", tmp_path)
    monkeypatch.setattr(project, "REFERENCE", tmp_path / "docs" / "reference.md")
    return scripts


@pytest.mark.usefixtures("checkout")
def test_a_new_migration_has_its_three_files_and_follows_the_last() -> None:
    last = files.load(project.MIGRATIONS)[-1]
    assert main(["new", "session_tags"]) == 0
    new = files.load(project.MIGRATIONS)[-1]
    assert new.name == f"{int(last.revision) + 1:03}_session_tags"
    assert new.revert_path.is_file()
    config = Config()
    config.set_main_option("script_location", str(project.MIGRATIONS))
    revision = ScriptDirectory.from_config(config).get_revision("head")
    assert (revision.revision, revision.down_revision) == (new.revision, last.revision)


@pytest.mark.usefixtures("checkout")
def test_offline_complains_until_the_init_script_has_the_new_migration() -> None:
    assert offline_check.check() == []
    main(["new", "session_tags"])
    assert any(project.INIT_SQL.name in fault and "session_tags" in fault for fault in offline_check.check())


@pytest.mark.usefixtures("checkout")
def test_the_printed_commands_make_offline_agree_again() -> None:
    main(["new", "session_tags"])
    assert main(["init-sql", "--write"]) == 0
    assert main(["spec", "docs", "--write"]) == 0
    assert offline_check.check() == []


@pytest.mark.parametrize("name", ["Tags", "a b", "../escape", "1st", "", "x" * 61])
def test_a_name_that_cannot_be_a_file_s_is_refused_and_nothing_is_written(checkout: Path, name: str) -> None:
    before = sorted(checkout.rglob("*"))
    assert main(["new", "--", name]) == 2
    assert sorted(checkout.rglob("*")) == before


@pytest.mark.usefixtures("checkout")
def test_a_name_that_is_taken_is_refused() -> None:
    assert main(["new", files.load(project.MIGRATIONS)[-1].name[4:]]) == 2


@pytest.mark.usefixtures("checkout")
def test_an_installed_package_is_not_written_to(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(project, "IS_CHECKOUT", False)
    assert main(["new", "session_tags"]) == 2
    assert "checkout" in capsys.readouterr().err
