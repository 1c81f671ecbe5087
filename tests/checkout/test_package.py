"""The wheel, installed in an environment of its own outside the checkout: it holds all that the commands need."""

from __future__ import annotations

import importlib.metadata
import os
import re
import subprocess
import sys
import tempfile
import venv
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from packaging.requirements import Requirement

from conftest import PROJECT, REVISIONS, Run
from pgvigil import __version__
from pgvigil.embedded import PersistentServer

pytestmark = pytest.mark.client_side

OLDER = "0.0.9"


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A directory outside pytest's own, which the account of the embedded server cannot enter."""
    with tempfile.TemporaryDirectory(prefix="pgvigil-package-", dir="/tmp") as name:
        Path(name).chmod(0o755)
        yield Path(name)


@pytest.fixture(scope="module")
def wheel(place: Path) -> Path:
    # As in a fresh environment: `pip wheel` would download the builder, whose version is not locked.
    build = [sys.executable, "-P", "-m", "hatchling", "build", "-t", "wheel", "-d", place]
    done = subprocess.run(build, cwd=PROJECT, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [path] = place.glob("*.whl")
    return path


def older(wheel: Path, place: Path) -> Path:
    """A wheel of an earlier version, with a command and a migration that are no longer there."""
    path = place / wheel.name.replace(__version__, OLDER)
    with zipfile.ZipFile(wheel) as now, zipfile.ZipFile(path, "w") as then:
        held = {name.replace(__version__, OLDER): now.read(name) for name in now.namelist()}
        held["pgvigil/commands/abandoned.py"] = b'SUMMARY = "gone"\n'
        held["pgvigil/scripts/migrations/999_abandoned.sql"] = b"SELECT 1;\n"
        metadata, record = (f"pgvigil-{OLDER}.dist-info/{name}" for name in ("METADATA", "RECORD"))
        held[metadata] = held[metadata].replace(f"Version: {__version__}".encode(), f"Version: {OLDER}".encode())
        held[record] = "".join(f"{name},,\n" for name in held).encode()
        for name, content in held.items():
            then.writestr(name, content)
    return path


def link_requirements(wheel: Path, extra: str, into: Path) -> None:
    """Link what `pgvigil[extra]` asks for, and what that asks for, from the packages of the tests: these have more than an installation."""
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"pgvigil-{__version__}.dist-info/METADATA").decode()
    waiting = [(Requirement(line), {extra}) for line in re.findall(r"^Requires-Dist: (.*)$", metadata, re.MULTILINE)]
    seen = set()
    while waiting:
        requirement, extras = waiting.pop()
        if requirement.marker and not any(requirement.marker.evaluate({"extra": one}) for one in extras):
            continue
        if (key := (requirement.name, *requirement.extras)) in seen:
            continue
        seen.add(key)
        distribution = importlib.metadata.distribution(requirement.name)
        waiting += [(Requirement(line), {"", *requirement.extras}) for line in distribution.requires or ()]
        for top in {file.parts[0] for file in distribution.files or ()} - {"..", "__pycache__"}:
            if not (into / top).exists():
                (into / top).symlink_to(Path(str(distribution.locate_file(top))))


@pytest.fixture(scope="module")
def environment(wheel: Path, place: Path) -> Path:
    """An environment into which the older wheel went first, and then this one by an upgrade. It has the dependencies and nothing else."""
    path = place / "environment"
    venv.create(path, with_pip=True)
    [packages] = (path / "lib").glob("python*/site-packages")
    link_requirements(wheel, "embedded", packages)
    clean = {name: value for name, value in os.environ.items() if not name.startswith(("PIP_", "PYTHON"))}
    for one, option in ((older(wheel, place), ()), (wheel, ("--upgrade",))):
        # With the extra and without an index: a requirement that the tests' packages do not meet is an error.
        install = [path / "bin/python", "-m", "pip", "install", "--no-index", "--quiet", "--no-warn-script-location",
                   *option, f"{one}[embedded]"]  # fmt: skip
        done = subprocess.run(install, env=clean, capture_output=True, text=True, check=False)
        assert done.returncode == 0, done.stderr
    return path


Installed = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture(scope="module")
def installed(environment: Path, place: Path) -> Iterator[Installed]:
    """Call the installed command by its name, from a directory outside the checkout, with an embedded server of its
    own.
    """
    user, outside = place / "user", place / "outside"
    for directory in (user, outside):
        directory.mkdir()

    def call(
        *words: str, path: str = f"{environment}/bin:/usr/bin:/bin", **options: str
    ) -> subprocess.CompletedProcess[str]:
        variables = {"PATH": path, "LANG": "C.UTF-8", "HOME": str(user), "PGVIGIL_HOME": str(place / "home"), **options}
        program = environment / "bin" / "pgvigil"
        done = subprocess.run(
            [program, *words], cwd=outside, env=variables, capture_output=True, text=True, check=False, timeout=120,
            stdin=subprocess.DEVNULL,
        )  # fmt: skip
        for said in (done.stdout, done.stderr):
            assert str(PROJECT) not in said, "an installed pgvigil has no checkout"
            assert not re.search(r"\bscripts/(?!migrations)|\bdocs/[a-z]", said), (
                "and neither its scripts nor its pages by path"
            )
        return done

    try:
        yield call
    finally:
        PersistentServer(place / "home").stop()


@pytest.fixture(scope="module")
def built(installed: Installed) -> subprocess.CompletedProcess[str]:
    """The result of `pgvigil setup` on the embedded server."""
    done = installed("setup")
    assert done.returncode == 0, done.stderr
    return done


def test_it_holds_every_file_that_is_not_code(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        held = set(archive.namelist())
    needed = [f"pgvigil/{path.relative_to(PROJECT)}" for folder in ("scripts/migrations", "docs") for path in (PROJECT / folder).rglob("*")
              if path.is_file() and "__pycache__" not in path.parts]  # fmt: skip
    needed += [
        f"pgvigil/scripts/{name}" for name in ("schema-spec.yaml", "schema-spec.schema.json", "init-enhanced-db.sql")
    ]
    needed += [
        str(path.relative_to(PROJECT / "src"))
        for path in (PROJECT / "src/pgvigil").rglob("*")
        if path.is_file() and path.suffix != ".pyc"
    ]
    assert set(needed) - held == set()


def test_an_upgrade_leaves_nothing_of_the_older_version(environment: Path) -> None:
    [package] = (environment / "lib").glob("python*/site-packages/pgvigil")
    assert list(package.rglob("*abandoned*")) == []


def test_setup_names_the_commands_to_go_on_with(built: subprocess.CompletedProcess[str]) -> None:
    told = built.stdout
    for command in ("pgvigil maintain status", "pgvigil psql", "pgvigil health", "pgvigil help"):
        assert f"  {command}" in told
    assert 'export DATABASE_URL="$(pgvigil server url)"' in told


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (("migrate",), "up to date at revision"),
        (("validate", "--self-test"), "VALID: no findings"),
        (("validate", "--offline"), "ok: spec"),
        (("status",), "in"),
        (("health",), "is healthy"),
        (("server", "start"), "postgresql://"),
        (("server", "status"), "running"),
        (("sessions", "list"), "no session is registered"),
        (("metrics-files", "metrics"), "metrics/grafana/pgvigil.json"),
        (("maintain", "run-due"), "job"),
        (("sizes",), "MB in total"),
        (("backup", "create", "--verify-backup", "read"), ".dump"),
        (("spec", "tests"), "no_plan"),
        (("init-sql",), "CREATE TABLE"),
        (("explain", "SELECT 1"), "rolled back"),
        (("help", "maintenance"), "# Maintenance"),
        (("psql", "--", "-XAtc", "SELECT max(revision) FROM pgvigil.migrations"), REVISIONS[-1]),
    ],
)  # fmt: skip
@pytest.mark.usefixtures("built")
def test_a_command_works_outside_the_checkout(installed: Installed, call: tuple[str, ...], expected: str) -> None:
    done = installed(*call)
    assert (done.returncode, expected in done.stdout) == (0, True), done.stdout + done.stderr


@pytest.mark.usefixtures("built")
def test_version_has_the_server_and_both_revisions(installed: Installed) -> None:
    done = installed("--version")
    first, second, third = done.stdout.splitlines()
    assert (done.returncode, first, second) == (0, f"pgvigil {__version__}", f"schema revision {REVISIONS[-1]}")
    assert re.fullmatch(rf'database "pgvigil" on .*: PostgreSQL \d+\.\d+, schema revision {REVISIONS[-1]}', third)


@pytest.mark.parametrize(
    "call", [("init-sql", "--write"), ("spec", "docs", "--write"), ("spec", "schema", "--write"), ("new", "x")]
)
def test_files_of_the_package_are_not_written(installed: Installed, call: tuple[str, ...]) -> None:
    done = installed(*call)
    assert (done.returncode, "Run this in a checkout." in done.stderr) == (2, True), done.stderr


def test_a_command_is_named_by_its_path_where_its_name_leads_elsewhere(installed: Installed, environment: Path) -> None:
    """The printed command can be pasted, and systemd and cron, which have another PATH, find it."""
    program = environment / "bin" / "pgvigil"
    url = "postgresql://u@127.0.0.1:1/x"
    assert f"\n  {program} help" in installed("help", path="/usr/bin:/bin").stdout.replace("\n\n", "\n  ")
    unit = installed("maintain", "install", "--systemd", "--database-url", url).stdout
    assert f"\nExecStart={program} maintain watch" in unit
    assert f" {program} maintain run-due" in installed("maintain", "install", "--cron", "--database-url", url).stdout


def test_an_environment_file_beside_the_packages_names_no_database(installed: Installed, environment: Path) -> None:
    [library] = (environment / "lib").glob("python*")
    (library / ".env").write_text("DATABASE_URL=postgresql://nobody@127.0.0.1:1/nowhere\n")
    try:
        assert "nowhere" not in installed("--version").stdout
    finally:
        (library / ".env").unlink()


def test_the_web_application_needs_no_more_than_its_extra(wheel: Path, environment: Path, tmp_path: Path) -> None:
    link_requirements(wheel, "web", tmp_path)
    code = (
        "import pgvigil.web; pgvigil.web.application; from pgvigil.live import orm, recovery; print(pgvigil.__file__)"
    )
    call = [environment / "bin/python", "-c", code]
    done = subprocess.run(
        call, env={"PYTHONPATH": str(tmp_path)}, cwd=tmp_path, capture_output=True, text=True, check=False
    )
    assert (done.returncode, done.stdout.startswith(str(environment))) == (0, True), done.stderr


def test_in_a_checkout_hints_name_its_script(run: Run) -> None:
    done = run("scripts/pgvigil", "server", "status")
    assert (done.returncode, done.stderr.splitlines()[-1]) == (
        4,
        f"hint: Make one with {PROJECT}/scripts/pgvigil setup",
    )
