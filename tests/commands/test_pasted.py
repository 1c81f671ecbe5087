"""Test that printed commands can be pasted into a shell: each names the right thing and runs nothing else."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote

import psycopg
import pytest
from psycopg import sql

from conftest import PROJECT, Database, Run
from pgvigil import project
from pgvigil.commands.common.called import as_called
from pgvigil.database import Target, parse_url
from pgvigil.migration import files, statements
from pgvigil.text import quoted, visible

pytestmark = pytest.mark.client_side

NAMES = [
    "$(touch pasted)",
    "a'b c",
    'a"b',
    "a\nb\t",
    "a\x1b[31m\u202eb",
    "-x",
    "a;b&c|d`e`",
    "a\\b\\'",
    "##[group]x",
    "ü 🐘",
]


def words_of(command: str, cwd: Path) -> list[str]:
    """Return the words as the shell reads them."""
    read = subprocess.run(["/bin/bash", "-c", f"printf '%s\\0' {command}"], cwd=cwd, capture_output=True, check=True)
    return [os.fsdecode(word) for word in read.stdout.split(b"\0")[:-1]]


def pasted(command: str, cwd: Path, environment: dict[str, str]) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, **environment, "PGVIGIL_PYTHON": sys.executable}
    return subprocess.run(
        ["/bin/bash", "-c", command], cwd=cwd, env=environment, capture_output=True, text=True, check=False
    )


@pytest.mark.parametrize("name", NAMES)
def test_a_printed_command_is_visible_and_means_the_same_database(name: str, tmp_path: Path) -> None:
    url = (
        f"postgresql://{quote(name)}:s3cret@127.0.0.1:5/{quote(name)}?sslpassword=s3cret&application_name={quote(name)}"
    )
    target = parse_url(url, "--database-url")
    command = project.command("validate", schema=name, option=target.option)

    assert visible(command) == command.replace("##[", r"#\u0023[")
    assert "\n" not in command
    assert "s3cret" not in command
    words = words_of(visible(command), tmp_path)
    again = parse_url(words[words.index("--database-url") + 1], "--database-url")
    assert again == Target({k: v for k, v in target.parameters.items() if "password" not in k}, "--database-url")
    assert name in words or f"--schema={name}" in words
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("path", [b"a b", b"\xff\xfe", b"$(touch pasted)", b"a\n\x1b'b"])
def test_a_printed_path_means_the_same_file(path: bytes, tmp_path: Path) -> None:
    assert words_of(quoted(os.fsdecode(path)), tmp_path) == [os.fsdecode(path)]


def test_a_hint_names_the_database_of_a_command_once() -> None:
    whole = f"{project.command('restore', 'a.dump', option=' --database-url x')}; then pgvigil status"
    assert as_called(whole, " --database-url x").count(" --database-url x") == 2


def test_the_schema_is_named_where_it_is_not_public(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGVIGIL_PROGRAM", raising=False)
    assert project.command("revert", "--to", "base", schema="public") == "pgvigil revert --to base"
    assert project.command("revert", "--to", "base", schema="a b") == "pgvigil revert --to base --schema 'a b'"


@pytest.fixture(params=NAMES[:5])
def oddly_named(request: pytest.FixtureRequest, existing: Database) -> Iterator[Database]:
    """A copy of `existing` with an odd name."""
    server, name = existing.server, sql.Identifier(request.param)
    with psycopg.connect(server.dsn(), autocommit=True) as admin:
        admin.execute(sql.SQL("ALTER DATABASE {} RENAME TO {}").format(sql.Identifier(existing.name), name))
        try:
            yield Database(server, request.param)
        finally:
            admin.execute(sql.SQL("DROP DATABASE {} WITH (FORCE)").format(name))


@pytest.mark.slow(first=1)
def test_every_command_printed_for_an_oddly_named_database_can_be_pasted(
    run: Run, oddly_named: Database, tmp_path: Path
) -> None:
    """The hints of a database that is not migrated, then the way there and back."""
    host, port = oddly_named.server.dsn().partition("host=")[2].partition("&")[0], oddly_named.server.port
    url = f"postgresql://postgres@/{quote(oddly_named.name, safe='')}?host={host}&port={port}"
    here = tmp_path / "here"
    here.mkdir()
    environment = {"PGVIGIL_BACKUP_DIR": str(tmp_path / "backups"), "XDG_CACHE_HOME": str(tmp_path / "cache")}

    def call(*words: str) -> subprocess.CompletedProcess[str]:
        return run("scripts/pgvigil", *words, "--database-url", url, env=environment, cwd=here)

    option = parse_url(url, "--database-url").option
    status = f"{PROJECT}/scripts/pgvigil status{option}"
    for words in (["health"], ["maintain", "status"], ["sessions", "list"]):
        assert status in call(*words).stderr
    told = pasted(status, here, environment)
    assert told.returncode == 0, told.stderr

    migrated = call("migrate")
    assert migrated.returncode == 0, migrated.stderr
    found = re.search("undo    (.*)", migrated.stdout)
    assert found
    undone = pasted(found[1], here, environment)
    assert undone.returncode == 0, undone.stderr
    assert "reverted from" in undone.stdout
    assert list(here.iterdir()) == []


def test_what_backup_list_prints_is_what_verify_and_restore_take(run: Run, migrated: Database, tmp_path: Path) -> None:
    environment = {"PGVIGIL_BACKUP_DIR": str(tmp_path / "my 'backups'")}
    url = ["--database-url", migrated.url]
    assert run("pgvigil", "backup", "create", "--verify-backup", "read", *url, env=environment).returncode == 0
    name = words_of(run("pgvigil", "backup", "list", env=environment).stdout.splitlines()[-1], tmp_path)[-1]
    for words in (
        ["backup", "verify", name],
        ["restore", name],
        ["restore", name, "--backup-dir", environment["PGVIGIL_BACKUP_DIR"]],
    ):
        done = run("pgvigil", *words, *url, env=environment, cwd=tmp_path)
        assert done.returncode == 0, done.stderr


@pytest.mark.parametrize(
    ("hint", "words"),
    [
        ("Write it after --: pgvigil guard -- make", "pgvigil guard --database-url X -- make"),
        ("Run pgvigil validate --self-test.", "pgvigil validate --database-url X --self-test."),
        ("pgvigil maintain preview --database-url Y", "pgvigil maintain preview --database-url Y"),
        ("pgvigil check --write-spec", "pgvigil check --write-spec"),
    ],
)
def test_a_command_in_a_hint_names_the_database_of_the_call_once(
    hint: str, words: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(project, "program", lambda: "pgvigil")
    assert words in as_called(hint, " --database-url X")
    assert as_called(hint, " --database-url X").count("--database-url") <= 1


# --- hints of migrations that fail -----------------------------------------------------------------------------------

OURS = sorted([*project.MIGRATIONS.glob("*.sql"), *project.MIGRATIONS.glob("revert/*.sql")])


@pytest.mark.parametrize("path", OURS, ids=lambda path: str(path.relative_to(project.MIGRATIONS)))
def test_nobody_is_told_to_fix_a_file_of_ours(path: Path) -> None:
    assert files.is_shipped(path)
    for sqlstate in ("42P07", "42601", "23505", "58P01", "XX000", "P0001", "42501", "53100", ""):
        assert "the file" not in statements._what_next(path, sqlstate, psycopg.Error("no"))


def test_a_file_that_was_edited_is_to_be_fixed(tmp_path: Path) -> None:
    edited = tmp_path / "001_x.sql"
    edited.write_text("SELECT 1")
    assert statements._what_next(edited, "42601", psycopg.Error("no")) == "Fix the file, then run this again."


@pytest.mark.parametrize(
    ("sqlstate", "words"),
    [
        ("58P01", 'could not access file "$libdir/plpgsql": No such file or directory'),
        ("XX000", 'could not load library "/usr/lib/plpgsql.so": undefined symbol: x'),
    ],
)
def test_a_library_that_cannot_be_loaded_is_cured_by_a_restart(sqlstate: str, words: str) -> None:
    assert "restart the server" in statements._what_next(OURS[0], sqlstate, psycopg.Error(words))
