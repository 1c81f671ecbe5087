"""Test files that people name: a pipe without a writer, a device without an end, a directory and a huge file are refused
at once, wherever pgvigil or libpq would read them.
"""

from __future__ import annotations

import ast
import io
import os
import signal
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from conftest import PROJECT
from pgvigil import dot_env, input_files
from pgvigil.archives.store import Store
from pgvigil.database import sources
from pgvigil.diagnostics.plans import rolled_back
from pgvigil.errors import PgvigilError, UsageError
from pgvigil.lint import scratch
from pgvigil.lint import sources as lint_sources
from pgvigil.projects import config, layouts
from pgvigil.validate import load_declaration, load_spec
from pgvigil.web import access

pytestmark = pytest.mark.client_side

READERS: dict[str, Callable[[Path], Any]] = {
    "pgvigil.toml": lambda path: config.find(path.parent),
    "db/pgvigil.toml": lambda path: config.find(path.parent.parent),
    "spec.yaml": load_declaration,
    "spec.json": load_spec,
    "tokens": access.tokens,
    "more tokens": lambda path: access.new_token(path, "ada", "viewer"),
    "statement.sql": lambda path: rolled_back.given(None, path, sys.stdin),
    "linted.sql": lambda path: lint_sources.read(path, ()),
    "dump.sql": lambda path: scratch.load(path, None),  # type: ignore[arg-type]
    "001_a.sql": lambda path: layouts._read(path),
    ".env": dot_env.read,
    "table=logs/a.json": lambda path: Store(path.parents[1]).text("table=logs/a.json"),
}
# What libpq opens.
OF_LIBPQ = ["passfile", "sslcert", "sslkey", "sslrootcert", "sslcrl"]


@pytest.fixture(autouse=True)
def _soon() -> Iterator[None]:
    """End what waits for a writer, so that such a test fails."""

    def end(*_: object) -> None:
        raise AssertionError("it waits")

    before = signal.signal(signal.SIGALRM, end)
    signal.alarm(20)
    yield
    signal.alarm(0)
    signal.signal(signal.SIGALRM, before)


@pytest.fixture(params=READERS)
def reader(request: pytest.FixtureRequest, tmp_path: Path) -> tuple[Callable[[Path], Any], Path]:
    path = tmp_path / request.param
    path.parent.mkdir(exist_ok=True, mode=0o700)
    tmp_path.chmod(0o700)
    return READERS[request.param], path


def _refusal(reader: tuple[Callable[[Path], Any], Path]) -> str:
    read, path = reader
    with pytest.raises(PgvigilError) as refused:
        read(path)
    assert str(path) in refused.value.message or path.name in refused.value.message
    return refused.value.message


def test_a_pipe_without_a_writer_is_refused(reader: tuple[Callable[[Path], Any], Path]) -> None:
    os.mkfifo(reader[1], 0o600)
    assert "pipe" in (said := _refusal(reader)) or "is not a" in said


def test_a_device_without_an_end_is_refused(reader: tuple[Callable[[Path], Any], Path]) -> None:
    reader[1].symlink_to("/dev/zero")
    assert "device" in (said := _refusal(reader)) or "is not a" in said


def test_a_directory_is_refused(reader: tuple[Callable[[Path], Any], Path]) -> None:
    reader[1].mkdir()
    assert "directory" in (said := _refusal(reader)) or "is not a" in said


def test_a_file_without_bounds_is_refused_before_it_is_read(reader: tuple[Callable[[Path], Any], Path]) -> None:
    reader[1].touch(mode=0o600)
    os.truncate(reader[1], 1 << 40)
    assert "bytes" in _refusal(reader)


def test_a_file_that_grows_while_it_is_read_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "a").write_text("12345")
    monkeypatch.setattr(os, "fstat", lambda _: os.stat_result((0o100600, *[0] * 9)))
    with pytest.raises(OSError, match="more than 4 bytes"):
        input_files.read_bytes(tmp_path / "a", 4)


def test_a_pipe_of_the_shell_is_read() -> None:
    end, other = os.pipe()
    os.write(other, b"SELECT 1")
    os.close(other)
    assert rolled_back.given(None, Path(f"/dev/fd/{end}"), sys.stdin) == "SELECT 1"
    os.close(end)


def test_a_spec_comes_from_a_pipe_of_the_shell(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    end, other = os.pipe()
    os.write(other, b"spec: 1\nschemas: [app]\ntables:\n  app.a:\n    columns:\n      b: {type: integer}\n")
    os.close(other)
    assert any("a" in str(ref) for ref in load_declaration(Path(f"/dev/fd/{end}")).objects)
    os.close(end)


def test_tokens_do_not_come_from_a_pipe_which_could_not_be_read_again() -> None:
    end, other = os.pipe()
    with pytest.raises(UsageError, match="pipe"):
        access.tokens(Path(f"/dev/fd/{end}"))
    os.close(end)
    os.close(other)


def test_a_statement_on_stdin_has_an_end() -> None:
    class Endless(io.StringIO):
        def read(self, size: int | None = -1) -> str:
            assert size is not None
            assert size > 0, "all of it"
            return "x" * size

    with pytest.raises(UsageError, match="stdin cannot be read: it has more than"):
        rolled_back.given(None, None, Endless())


def test_a_token_is_added_on_a_line_of_its_own(tmp_path: Path) -> None:
    path = tmp_path / "tokens"
    access.new_token(path, "ada", "viewer")
    path.write_text(path.read_text().rstrip("\n"))
    access.new_token(path, "bob", "viewer")
    assert [line.split()[0] for line in path.read_text().splitlines()] == ["ada", "bob"]


def test_a_token_file_in_no_directory_is_a_usage_error(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="cannot be written: No such file"):
        access.new_token(tmp_path / "x" / "tokens", "ada", "viewer")


# --- what libpq opens -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("keyword", OF_LIBPQ)
def test_a_pipe_in_an_address_is_refused_before_libpq_opens_it(tmp_path: Path, keyword: str) -> None:
    os.mkfifo(tmp_path / "x")
    with pytest.raises(UsageError, match="is not a file but a pipe"):
        sources.resolve(f"postgresql://127.0.0.1/d?{keyword}={tmp_path}/x", [])


@pytest.mark.parametrize("place", ["/dev/zero", "pipe"])
def test_a_service_file_without_an_end_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, place: str) -> None:
    os.mkfifo(tmp_path / "pipe")
    monkeypatch.setenv("PGSERVICEFILE", str(tmp_path / place))
    with pytest.raises(UsageError, match="PGSERVICEFILE"):
        sources.resolve("postgresql:///?service=x", [])


def test_a_pipe_in_the_place_of_pgpass_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PGPASSFILE", raising=False)
    monkeypatch.setenv("HOME", str(tmp_path))
    os.mkfifo(tmp_path / ".pgpass")
    with pytest.raises(UsageError, match=r"\.pgpass"):
        sources.resolve("postgresql://127.0.0.1/d", [])


def test_no_password_file_is_a_password_file(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PGPASSFILE", os.devnull)
    assert sources.resolve("postgresql://127.0.0.1/d", [])


# --- and no other place -----------------------------------------------------------------------------------------------

# These read files of pgvigil's own, or open with checks of their own, or write.
ELSEWHERE = {
    "default_expiry", "dot_env", "posix_acl", "project", "shipped", "other_state", "cli", "__main__", "input_files",
    "archives/erase", "archives/parquet", "archives/store", "archives/summary",  # what they have just made, or checked
    "backup/create", "backup/manifest", "commands/common/output", "commands/help", "commands/metrics_files", "commands/new",
    "commands/spec", "diagnostics/remake", "embedded/jobs", "embedded/persistent", "embedded/process", "embedded/temporary",
    "guard/confine", "guard/processes", "guard/proxy", "live/dispatcher", "live/spill", "live/writer",
    "migration/apply", "migration/doc_blocks", "migration/files", "migration/init_script", "migration/offline_check",
    "migration/schema_reference", "projects/start", "validate/diff/reference", "validate/export/pgtap", "validate/spec/cache",
    "web/access", "web/dashboard",
}  # fmt: skip


def test_no_other_module_opens_a_file() -> None:
    found = set()
    for path in (PROJECT / "src" / "pgvigil").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Call) and isinstance(node.func, ast.Attribute | ast.Name):
                name = node.func.attr if isinstance(node.func, ast.Attribute) else node.func.id
                of = ast.unparse(node.func).rpartition(".")[0]
                if name in ("read_text", "read_bytes", "open") and of != "input_files":
                    found.add(path.relative_to(PROJECT / "src" / "pgvigil").with_suffix("").as_posix())
    assert found - ELSEWHERE - {"projects/baseline", "migration/runner"} == set()  # `chain.open` opens no file
