"""Test scripts/bootstrap.sh, which finds or makes .venv. Interpreter, pip, apt-get and id are fakes that record their
calls.
"""

from __future__ import annotations

import os
import pty
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from conftest import Run

pytestmark = pytest.mark.client_side

FAKE_PYTHON = """\
#!/bin/sh
[ "$1" = -I ] && echo "$PWD ${PYTHONPATH-none}" >>"$FAKE/places"
case "$*" in
*version_info\\ *|*"version_info <"*) [ ! -e "$FAKE/old" ] ;;
*"import ensurepip"*) [ ! -e "$FAKE/no-ensurepip" ] ;;
*"print("*) echo python3.99-venv ;;
-V) echo Python 3.6.1 ;;
"-I -m venv --without-pip "*) mkdir -p "$5/bin" && cp "$0" "$5/bin/python" ;;
"-I -m ensurepip") touch "${0%/*}/pip" ;;
"-I -m pip --version") [ -e "${0%/*}/pip" ] ;;
"-I -m pip install "*) echo "$*" >>"$FAKE/installs" && [ ! -e "$FAKE/no-network" ] || { echo no route to host; exit 1; }
    printf 'Collecting a\nCollecting b\n  Using cached b\nInstalling collected packages: a, b\n' ;;
"-I -m pip uninstall "*) rm "${0%/*}/pip" ;;
*) echo "ran $*" ;;
esac
"""


@pytest.fixture
def fake(tmp_path: Path) -> Path:
    directory = tmp_path / "fake"
    directory.mkdir()
    programs = dict.fromkeys(("python3", "python3.13", "python3.12", "python3.11"), FAKE_PYTHON)
    programs["id"] = '#!/bin/sh\n[ -e "$FAKE/root" ] && echo 0 || echo 1000\n'
    programs["apt-get"] = '#!/bin/sh\necho "$@" >>"$FAKE/apt"; rm -f "$FAKE/no-ensurepip"\n'
    for name, text in programs.items():
        (directory / name).write_text(text)
        (directory / name).chmod(0o755)
    return directory


@pytest.fixture
def environment(fake: Path) -> dict[str, str]:
    return {"PATH": f"{fake}:/usr/bin:/bin", "FAKE": str(fake), "PGVIGIL_PYTHON": ""}


Bootstrap = Callable[[str], subprocess.CompletedProcess[str]]


@pytest.fixture
def bootstrap(run: Run, project_copy: Path, environment: dict[str, str]) -> Bootstrap:
    return lambda level: run(project_copy / "scripts" / "bootstrap.sh", level, "program", env=environment)


def installs(fake: Path) -> list[str]:
    """The lock files that pip was called for."""
    return [Path(line.split(" -r ")[1]).name for line in (fake / "installs").read_text().splitlines()]


def test_installs_once_and_keeps_stdout_for_the_program(bootstrap: Bootstrap, fake: Path, project_copy: Path) -> None:
    first, second = bootstrap("run"), bootstrap("run")

    assert (first.returncode, first.stdout) == (0, "ran -P program\n")
    assert first.stderr == (f"pgvigil: installing the packages of requirements/run.txt into {project_copy}/.venv\n")
    assert (second.returncode, second.stdout, second.stderr) == (0, "ran -P program\n", "")
    assert installs(fake) == ["run.txt"]


def test_a_terminal_shows_how_far_the_installation_is(project_copy: Path, environment: dict[str, str]) -> None:
    packages = sum("==" in line for line in (project_copy / "requirements" / "run.txt").read_text().splitlines())
    seen, terminal = pty.openpty()
    call = [project_copy / "scripts" / "bootstrap.sh", "run", "program"]
    done = subprocess.run(call, env=environment, stdout=subprocess.PIPE, stderr=terminal, text=True, check=False)
    os.close(terminal)
    shown = os.read(seen, 65536).decode()
    os.close(seen)
    assert (done.returncode, done.stdout) == (0, "ran -P program\n"), shown
    assert f"pgvigil: package 2 of {packages}" in shown
    assert "pgvigil: writing the packages" in shown
    assert shown.endswith("\r\x1b[K")  # the line is gone when the program begins


def test_the_test_level_serves_for_running_too(bootstrap: Bootstrap, fake: Path) -> None:
    for level in ("run", "test", "run", "test"):
        assert bootstrap(level).returncode == 0

    assert installs(fake) == ["run.txt", "test.txt"]


def test_a_changed_lock_is_installed(bootstrap: Bootstrap, fake: Path, project_copy: Path) -> None:
    bootstrap("run")
    with (project_copy / "requirements" / "run.txt").open("a") as lock:
        lock.write("# changed\n")
    bootstrap("run")

    assert installs(fake) == ["run.txt", "run.txt"]


def test_a_failed_installation_says_why_and_is_redone_from_scratch(
    bootstrap: Bootstrap, fake: Path, project_copy: Path
) -> None:
    (fake / "no-network").touch()
    failed = bootstrap("run")
    assert (failed.returncode, failed.stdout) == (2, "")
    assert "pgvigil: no route to host\n" in failed.stderr
    half = project_copy / ".venv" / "half a package"
    half.touch()

    (fake / "no-network").unlink()
    assert bootstrap("run").stdout == "ran -P program\n"
    assert not half.exists()


def test_an_environment_that_a_person_made_is_never_thrown_away(bootstrap: Bootstrap, project_copy: Path) -> None:
    own = project_copy / ".venv"
    (own / "bin").mkdir(parents=True)
    (own / "bin" / "python").write_text(FAKE_PYTHON)
    (own / "bin" / "python").chmod(0o755)
    (own / "bin" / "pip").touch()

    assert bootstrap("run").returncode == 0
    (own / "pgvigil-run").unlink()
    (own / "mine").touch()
    assert bootstrap("run").returncode == 0

    assert (own / "mine").exists()
    assert (own / "bin" / "pip").exists()


def test_two_at_once_install_once(fake: Path, project_copy: Path, environment: dict[str, str]) -> None:
    script = project_copy / "scripts" / "bootstrap.sh"
    both = [subprocess.Popen([script, "run"], env=environment, stdout=subprocess.DEVNULL) for _ in range(2)]

    assert [process.wait(60) for process in both] == [0, 0]
    assert installs(fake) == ["run.txt"]


def test_an_old_python_is_not_used(bootstrap: Bootstrap, fake: Path) -> None:
    (fake / "old").touch()

    refused = bootstrap("run")

    assert refused.returncode == 2
    assert refused.stderr.splitlines()[1:] == [
        "pgvigil: Python 3.11 or newer is needed, and there is none on the PATH (Python 3.6.1).",
        "pgvigil: Install one (Debian 12 and newer: apt-get install python3), or name one in PGVIGIL_PYTHON.",
    ]


def test_without_ensurepip_a_person_is_told_which_package_to_install(bootstrap: Bootstrap, fake: Path) -> None:
    (fake / "no-ensurepip").touch()

    refused = bootstrap("run")

    assert refused.returncode == 2
    assert refused.stderr.splitlines()[1:] == [
        f"pgvigil: {fake}/python3 cannot make virtual environments here: its module ensurepip is missing.",
        "pgvigil: Install it (Debian, Ubuntu: sudo apt-get install python3.99-venv), then try again.",
    ]


def test_without_ensurepip_root_gets_the_package_installed(bootstrap: Bootstrap, fake: Path) -> None:
    (fake / "no-ensurepip").touch()
    (fake / "root").touch()

    assert bootstrap("run").stdout == "ran -P program\n"
    assert (fake / "apt").read_text().endswith("install --no-install-recommends python3.99-venv\n")


def test_pip_is_gone_when_it_has_installed(bootstrap: Bootstrap, project_copy: Path) -> None:
    bootstrap("run")
    assert not (project_copy / ".venv" / "bin" / "pip").exists()


def test_only_wheels_with_the_locked_hashes_are_installed(bootstrap: Bootstrap, fake: Path) -> None:
    bootstrap("run")
    assert "--require-hashes --only-binary :all:" in (fake / "installs").read_text()


def test_a_venv_without_pip_that_a_person_made_gets_one_and_is_kept(bootstrap: Bootstrap, project_copy: Path) -> None:
    own = project_copy / ".venv"
    (own / "bin").mkdir(parents=True)
    (own / "bin" / "python").write_text(FAKE_PYTHON)
    (own / "bin" / "python").chmod(0o755)
    (own / "mine").touch()

    assert bootstrap("run").returncode == 0
    assert (own / "mine").exists()


def test_nothing_of_the_callers_directory_or_variables_is_run(
    run: Run, fake: Path, project_copy: Path, environment: dict[str, str], tmp_path: Path
) -> None:
    """No fake runs with -I outside /, and the caller's PYTHONPATH reaches none of them."""
    theirs = {"PYTHONPATH": f":{tmp_path}", "PYTHONSTARTUP": str(tmp_path / "x.py"), "CDPATH": f"{tmp_path}:."}
    done = run(project_copy / "scripts" / "bootstrap.sh", "run", "program", cwd=tmp_path, env=environment | theirs)

    assert done.returncode == 0, done.stderr
    assert {line.split()[-1] for line in (fake / "places").read_text().splitlines()} == {"none"}


def test_a_first_run_imports_nothing_from_the_directory_it_stands_in(
    run: Run, project_copy: Path, tmp_path: Path
) -> None:
    """Run the real interpreter as far as it gets without the network."""
    evil = tmp_path / "evil"
    evil.mkdir()
    for module in ("ensurepip", "venv", "pip", "site", "sitecustomize", "usercustomize", "runpy", "psycopg", "pgvigil"):
        (evil / f"{module}.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')")
    environment = {"PGVIGIL_PYTHON": "", "PYTHONPATH": "", "PIP_INDEX_URL": "http://127.0.0.1:1/", "PIP_RETRIES": "0"}

    done = run(project_copy / "scripts" / "pgvigil", "--version", cwd=evil, env=environment)

    assert done.returncode == 2
    assert "this failed: " in done.stderr
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("argument", [
    "--database-url=postgresql://u:s3cret@h/db", "postgresql://u:s3cret@h/db?sslmode=require", "host=h password=s3cret",
    "postgresql://h/db?user=u&PASSWORD=s3cret", "postgresql://h/db?pass%77ord=s3cret", "host=h sslpassword = 's3cret'",
    "postgresql://u:s3cret:x/@y@h/db", "postgresql://h/db?oauth_client_secret=s3cret", "scram_client_key=s3cret",
])  # fmt: skip
def test_a_secret_is_in_no_process_list_while_packages_are_installed(
    run: Run, fake: Path, project_copy: Path, environment: dict[str, str], argument: str
) -> None:
    seen = fake / "seen"
    python = FAKE_PYTHON.replace(
        'echo "$*" >>"$FAKE/installs"', f"cat /proc/[0-9]*/cmdline 2>/dev/null >{seen}; env >>{seen}"
    )
    (fake / "python3").write_text(python)
    (project_copy / "src" / "pgvigil" / "__main__.py").write_text("")

    done = run(project_copy / "scripts" / "bootstrap.sh", "run", "first", argument, "last", env=environment)

    assert done.returncode == 0, done.stderr
    assert b"bootstrap.sh" in seen.read_bytes()
    assert b"s3cret" not in seen.read_bytes()
    assert "s3cret" not in done.stdout + done.stderr


@pytest.mark.parametrize("argument", ["--database-url=postgresql://u:s3cret@h/db", "it's a 'password=\n s3cret'"])
def test_the_program_gets_its_arguments_as_they_were_given(
    run: Run, project_copy: Path, argument: str, tmp_path: Path
) -> None:
    (project_copy / "src/pgvigil/__main__.py").write_text(
        "import sys; from pgvigil import argv; print(sys.argv[1:], argv.restore(sys.argv[1:]), sep='|')"
    )
    done = run(project_copy / "scripts/pgvigil", "a b", argument, "", cwd=tmp_path)
    shown, _, given = done.stdout.strip().partition("|")
    assert given == repr(["a b", argument, ""])
    assert "s3cret" not in shown


def test_a_venv_of_another_user_is_not_run(bootstrap: Bootstrap, fake: Path, project_copy: Path) -> None:
    bootstrap("run")
    (fake / "stat").write_text('#!/bin/sh\ncase "$*" in *.venv*) echo 4242 ;; *) exec /usr/bin/stat "$@" ;; esac\n')
    (fake / "stat").chmod(0o755)

    refused = bootstrap("run")

    assert refused.returncode == 2
    assert f"{project_copy}/.venv belongs to another user (uid 4242): nothing in it is run." in refused.stderr


def test_a_venv_that_every_user_can_write_to_is_not_run(bootstrap: Bootstrap, project_copy: Path) -> None:
    bootstrap("run")
    (project_copy / ".venv").chmod(0o777)

    refused = bootstrap("run")

    assert refused.returncode == 2
    assert "every user can write to" in refused.stderr


@pytest.mark.parametrize("script", ["run-migration.sh", "setup-enhanced-db.sh", "validate-schema.py"])
def test_scripts_run_their_own_checkout_from_anywhere_even_through_a_link(
    script: str, run: Run, project_copy: Path, tmp_path: Path
) -> None:
    link = tmp_path / "a link"
    link.symlink_to(project_copy / "scripts" / script)
    (tmp_path / "pgvigil.py").write_text("raise SystemExit('modules were looked for in the current directory')")
    own = project_copy / "src" / "pgvigil" / "__main__.py"
    own.write_text("import sys; print(__file__, *sys.argv[1:], sep='|')")

    done = run(link, "--option", "two words", cwd=tmp_path)

    verb = {"run-migration.sh": "migrate", "setup-enhanced-db.sh": "setup", "validate-schema.py": "validate"}[script]
    assert (done.returncode, done.stdout, done.stderr) == (0, f"{own}|{verb}|--option|two words\n", "")
