"""Test the first commands of a new user: the version, help, completion, psql, typing errors, hints, colours, numbers in
words.
"""

from __future__ import annotations

import os
import re
import subprocess
import time
from decimal import Decimal
from pathlib import Path

import pytest

from conftest import PROJECT, REVISIONS, Database, Run
from pgvigil import __version__, argv, commands, connect_advice, text
from pgvigil.backup import pg_tools
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.version import lines
from pgvigil.commands.health import text as health_text
from pgvigil.diagnostics.health import Check, Health
from pgvigil.errors import BackupError
from pgvigil.text import quoted

pytestmark = pytest.mark.client_side


# --- version, help -----------------------------------------------------------------------------------------------------


def test_version_names_server_and_schema_revision(shared: Database) -> None:
    first, second, third = lines(["--version", "--database-url", shared.url])
    assert (first, second) == (f"pgvigil {__version__}", f"schema revision {REVISIONS[-1]}")
    assert re.search(
        rf'^database "{shared.name}" on .*: PostgreSQL {shared.server.major}\S*, schema revision {REVISIONS[-1]}$',
        third,
    )


def test_version_says_where_pgvigil_is_not(database: Database) -> None:
    assert lines([f"--database-url={database.url}"])[-1].endswith("without pgvigil's schema")


@pytest.mark.parametrize(
    "words",
    [
        ["--database-url"],
        ["--database-url", ""],
        ["--database-url", "mysql://x"],
        ["--database-url", "postgresql://u:s3cret@127.0.0.1:1/x"],
        ["--database-url", "service=missing"],
    ],
)
def test_version_never_fails(run: Run, words: list[str]) -> None:
    done = run("pgvigil", "--version", *words)
    assert (done.returncode, done.stderr) == (0, "")
    first, _, third = done.stdout.splitlines()
    assert first == f"pgvigil {__version__}"
    assert third.startswith("database: ")
    assert "s3cret" not in done.stdout


def test_version_waits_for_no_server_that_is_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pgvigil.commands.common.version.ask", lambda _: time.sleep(60) or "")
    monkeypatch.setattr("pgvigil.commands.common.version.WITHIN", 0.05)
    assert "no answer" in lines(["--database-url", "postgresql://u@127.0.0.1:1/x"])[-1]


def test_help_lists_every_page_and_prints_one(call: Run) -> None:
    listed = call("pgvigil", "help").stdout
    for page in (PROJECT / "docs").glob("*.md"):
        assert re.search(rf"^  {page.stem} +\S", listed, re.MULTILINE)
    assert call("pgvigil", "help", "dba").stdout == (PROJECT / "docs/dba.md").read_text()
    assert call("pgvigil", "help", "docs/dba.md").stdout.startswith("# For the DBA")


def test_help_shows_each_command_once_and_under_what_it_is_for(call: Run) -> None:
    shown = call("pgvigil", "--help").stdout.partition("\ncommands:\n")[2].partition("\nexit codes:\n")[0]
    headings = re.findall(r"^  (\S.*):$", shown, re.MULTILINE)
    listed = re.findall(r"^    ([a-z-]+)(?: |$)", shown, re.MULTILINE)
    assert headings == list(Group)
    assert sorted(listed) == commands.names()
    assert shown.index("\n    restore ") < shown.index(f"\n  {Group.JOBS}:\n") < shown.index("\n    maintain ")


def test_help_of_a_command_without_a_page_is_its_usage(call: Run) -> None:
    done = call("pgvigil", "help", "revert")
    assert (done.returncode, "usage: pgvigil revert" in done.stdout) == (0, True)


@pytest.mark.parametrize("topic", ["maintenence", "../README", "", "/etc/passwd"])
def test_help_for_an_unknown_topic_says_what_there_is(call: Run, topic: str) -> None:
    done = call("pgvigil", "help", topic)
    assert done.returncode == 2
    hint = "Did you mean maintenance or maintain?" if topic[:1] == "m" else "List the pages: pgvigil help"
    assert f"hint: {hint}" in done.stderr


# --- completion ----------------------------------------------------------------------------------------------------------

COMPLETED = [
    ("pgvigil", "ba", "backup baseline"),
    ("pgvigil", "backup", "cr", "create"),
    ("pgvigil", "backup", "create", "--verify-backup", "re", "read restore"),
    ("pgvigil", "validate", "--form", "--format"),
    ("pgvigil", "validate", "--format", "s", "sarif"),
    ("pgvigil", "server", "st", "start stop status"),
    ("pgvigil", "maintain", "install", "--pg", "--pg-cron"),
    ("pgvigil", "validate", "--spec", "/etc/shell", "/etc/shells"),
]


@pytest.mark.parametrize("words", COMPLETED, ids=" ".join)
def test_bash_completes_a_call(call: Run, words: tuple[str, ...], tmp_path: Path) -> None:
    (tmp_path / "completion").write_text(call("pgvigil", "completion", "bash").stdout)
    *typed, expected = words
    ask = f'source "$1"; shift; COMP_WORDS=("$@"); COMP_CWORD={len(typed) - 1}; _pgvigil; echo "${{COMPREPLY[@]}}"'
    done = subprocess.run(
        ["/bin/bash", "-c", ask, "-", tmp_path / "completion", *typed], capture_output=True, text=True, check=True
    )
    assert (set(done.stdout.split()), done.stderr) == (set(expected.split()), "")


def test_completion_of_zsh_loads_that_of_bash(call: Run) -> None:
    zsh = call("pgvigil", "completion", "zsh").stdout
    assert "bashcompinit" in zsh
    assert zsh.endswith("complete -o filenames -F _pgvigil pgvigil\n")


# --- psql ------------------------------------------------------------------------------------------------------------------


def test_psql_is_on_the_database_of_the_call(run: Run, shared: Database) -> None:
    done = run("pgvigil", "psql", "--database-url", shared.tcp_url, "--", "-XAtc", "SELECT current_database()")
    assert (done.returncode, done.stdout) == (0, f"{shared.name}\n"), done.stderr


def test_psql_reads_standard_input_and_gives_its_exit_code(run: Run, shared: Database) -> None:
    call = ["psql", "--", "-X", "-v", "ON_ERROR_STOP=1"]
    done = run("pgvigil", *call, env={"DATABASE_URL": shared.url}, input="SELECT 1/0;\n")
    assert (done.returncode, "division by zero" in done.stderr) == (3, True)


def test_psql_has_no_password_in_its_arguments(run: Run, shared: Database, tmp_path: Path) -> None:
    fake = tmp_path / "psql"
    fake.write_text(
        '#!/bin/sh\ncase $1 in --version) echo "psql (PostgreSQL) 15.1";; *) echo "$@"; echo "$PGPASSWORD";; esac\n'
    )
    fake.chmod(0o755)
    done = run("pgvigil", "psql", "--database-url", shared.tcp_url, env={"PGVIGIL_PG_BIN": str(tmp_path)})
    arguments, password = done.stdout.splitlines()
    assert password == shared.server.password
    assert password not in arguments


def test_psql_that_is_not_there_is_an_error_with_a_way_to_get_it(run: Run, tmp_path: Path) -> None:
    done = run("pgvigil", "psql", "--database-url", "postgresql://u@h/d", env={"PGVIGIL_PG_BIN": str(tmp_path)})
    assert (done.returncode, "postgresql-client" in done.stderr) == (4, True)


# --- calls that are mistyped -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("words", "usage", "near"),
    [
        ([], "usage: pgvigil [-h]", "no command is given; all commands: pgvigil --help"),
        (["helth"], "usage: pgvigil [-h]", "invalid choice: 'helth'; did you mean health?"),
        (["health", "--jsn"], "usage: pgvigil health", "did you mean --json?"),
        (["backup", "lst"], "usage: pgvigil backup", "did you mean list?"),
        (["backup", "list", "--backup-dri", "x"], "usage: pgvigil backup list", "did you mean --backup-dir?"),
        (["migrate", "now"], "usage: pgvigil migrate", "unrecognized arguments: now"),
        (["sessions", "lst"], "usage: pgvigil sessions", "did you mean list?"),
        (["maintain", "run"], "usage: pgvigil maintain run", "required: JOB"),
        (["spec", "dump", "--format", "yml"], "usage: pgvigil spec dump", "did you mean yaml?"),
    ],
)
def test_a_mistyped_call_shows_the_usage_of_its_command(call: Run, words: list[str], usage: str, near: str) -> None:
    done = call("pgvigil", *words)
    assert done.returncode == 2
    assert done.stderr.startswith(usage)
    assert near in done.stderr.splitlines()[-1]


@pytest.mark.parametrize(
    "words",
    [
        ("health", "postgresql://u:s3cret@h/d"),
        ("backup", "verify", "postgresql://u:s3cret@h/d"),
        ("backup", "verify", " 'postgresql://u:s3cret@h/d'"),
        ("backup", "verify", "password=s3cret host=h"),
        ("help", "postgresql://u:s3cret@h/d"),
        ("init", "https://h/d?password=s3cret&x=1"),
        ("lint", "mysql://u:s3cret@h/d"),
        ("check", "--project", "postgresql://u:s3cret@h/d"),
        ("demo", "--listen=postgresql://u:s3cret@h/d"),
        ("history", "performance", "--format=postgresql://u:s3cret@h/d"),
        ("guard", "--", "--databse-url=postgresql://u:s3cret@h/d"),
        ("psql", "--", "postgresql://u:s3cret@h/d"),
    ],
    ids=" ".join,
)
def test_an_address_where_none_belongs_is_refused_without_its_secret(
    call: Run, words: tuple[str, ...], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A message of argparse is one place of several: some words would name a file, or become arguments of a child
    process.
    """
    monkeypatch.chdir(tmp_path)
    done = call("pgvigil", *words)
    assert (done.returncode, "s3cret" in done.stdout + done.stderr, list(tmp_path.iterdir())) == (2, False, [])


def test_an_address_is_taken_where_one_belongs() -> None:
    address = "postgresql://u:s3cret@h/d"
    for words in (
        ["migrate", "--database-url", address],
        ["migrate", f"--telemetry-url={address}"],
        ["guard", "--", address],
    ):
        assert argv.stray_address(words) is None
    assert argv.stray_address(["explain", "SELECT dblink('postgresql://u:s3cret@h/d')"]) is None


# --- hints -----------------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ("sslmode=require", "sslmode=prefer"),
        ("sslmode=no-verify", "sslmode is one of disable, allow, prefer, require, verify-ca and verify-full"),
        ("sslmode=verify-full&sslrootcert=/missing.crt", "sslmode"),
        ("options=-c%20no_such_setting%3D1", "PGOPTIONS"),
        ("options=-c%20work_mem%3Dmuch", "PGOPTIONS"),
        ("sslmod=require", "Did you mean sslmode?"),
    ],
)
def test_a_connection_that_fails_has_a_hint(call: Run, shared: Database, options: str, expected: str) -> None:
    done = call("pgvigil", "status", "--database-url", f"{shared.tcp_url}?{options}")
    assert done.returncode in (2, 3)
    assert expected in done.stderr.partition("hint: ")[2]


def test_the_command_that_creates_a_missing_database_names_it(call: Run, shared: Database) -> None:
    url = shared.tcp_url.replace(shared.name, "missing")
    hint = call("pgvigil", "status", "--database-url", url).stderr.partition("hint: ")[2]
    assert re.search(r"pgvigil setup --database-url '[^']*dbname=missing[^']*'$", hint.rstrip()), hint


def test_an_unknown_service_has_a_hint(call: Run) -> None:
    done = call("pgvigil", "status", "--database-url", "service=missing")
    assert "PGSERVICEFILE" in done.stderr.partition("hint: ")[2]


AT = 'connection to server at "h", port 1 failed: '


@pytest.mark.parametrize(
    ("words", "expected"),
    [
        ('root certificate file "/x/root.crt" does not exist', "sslrootcert=FILE"),
        ("SSL error: certificate verify failed", "name the file of its CA"),
        ('server certificate for "a" does not match host name "b"', "a name that the server's certificate has"),
        ('private key file "k" has group or world access', "chmod 600"),
        ("connection requires a valid client certificate", "sslcert=FILE"),
        ('no pg_hba.conf entry for host "h", user "u", database "d", no encryption', "sslmode=require"),
        ('no pg_hba.conf entry for host "h", user "u", database "d", SSL encryption', "pg_hba.conf"),
        ("received invalid response to SSL negotiation: H", "Something other than PostgreSQL"),
        (f"{AT}FATAL: no logins today CONTEXT: PL/pgSQL function f() line 1 at RAISE", "login event trigger"),
        (f'{AT}FATAL: could not access file "$libdir/plugins/x": No such file or directory', "local_preload_libraries"),
        (f"{AT}FATAL: terminating connection due to transaction timeout", "A time limit"),
        (f"{AT}FATAL: Datenbank »x« existiert nicht", "The server refused the connection"),
        (f"{AT}Connection refused", "Check that the server is running"),
        ('could not translate host name "h" to address', "spelling"),
        ("connection timeout expired", "firewalls"),
        ("the database system is starting up", "Try again"),
        ("Connection refused", "Check that the server is running"),
    ],
)
def test_words_of_libpq_lead_to_the_hint_for_them(words: str, expected: str) -> None:
    assert expected in connect_advice.advice(words)


@pytest.mark.parametrize(
    "words",
    [["backup", "list"], ["backup", "prune"], ["backup", "verify"], ["backup", "create"], ["migrate"]],
    ids=" ".join,
)
@pytest.mark.parametrize("below", ["", "/deeper"])
def test_a_file_as_backup_directory_is_called_one(
    call: Run, fresh: Database, tmp_path: Path, words: list[str], below: str
) -> None:
    file = tmp_path / "file"
    file.touch()
    if words == ["migrate"]:
        assert (
            call("pgvigil", "revert", "--to", REVISIONS[-2], "--backup", "none", "--database-url", fresh.url).returncode
            == 0
        )
    database = [] if words[-1] in ("list", "prune") else ["--database-url", fresh.url]
    done = call("pgvigil", *words, "--backup-dir", f"{file}{below}", *database)
    if below and words[-1] in ("list", "prune", "verify"):  # a directory that is not there has no backups
        return
    assert (done.returncode, f"{file} is a file" in done.stderr) == (5, True), done.stderr


def test_client_programs_that_are_too_old_are_named_with_those_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    old = tmp_path / "pg_dump"
    old.write_text("#!/bin/sh\necho 'pg_dump (PostgreSQL) 15.9'\n")
    old.chmod(0o755)
    monkeypatch.setenv("PGVIGIL_PG_BIN", str(tmp_path))
    with pytest.raises(BackupError) as caught:
        pg_tools.find_tool("pg_dump", 18)
    assert "postgresql-client-18" in caught.value.hint
    assert f"pip install {quoted(f'{PROJECT}[embedded]')}" in caught.value.hint


@pytest.mark.parametrize(
    "statement",
    ["EXPLAIN SELECT 1", "-- why\nexplain (analyze, buffers) SELECT 1", "/* /* a */ */ Explain ANALYZE SELECT 1"],
)
def test_explain_of_an_explain_says_to_leave_it_out(call: Run, statement: str) -> None:
    done = call("pgvigil", "explain", statement, "--database-url", "postgresql://u@127.0.0.1:1/x")
    assert (done.returncode, "without EXPLAIN" in done.stderr) == (2, True)


@pytest.mark.parametrize("way", [[], ["--self-test"], ["--format", "json"]])
def test_validate_of_a_database_without_pgvigil_says_so(call: Run, database: Database, way: list[str]) -> None:
    done = call("pgvigil", "validate", *way, "--database-url", database.url)
    assert done.returncode == 1
    assert "pgvigil is not in this database" in done.stderr
    assert "pgvigil setup --database-url" in done.stderr
    assert "missing" in done.stdout.lower()
    assert "session_lifecycle" not in done.stdout


def test_validate_of_an_existing_install_names_migrate(call: Run, existing: Database) -> None:
    done = call("pgvigil", "validate", "--database-url", existing.url)
    assert (done.returncode, "INVALID: 1 finding (1 missing)" in done.stdout) == (1, True)
    assert "pgvigil migrate --database-url" in done.stderr


# --- words and looks -------------------------------------------------------------------------------------------------------


def test_a_duration_in_milliseconds_may_have_a_fraction(shared: Database) -> None:
    with shared.connect(autocommit=False) as connection:
        for duration in ("12.5", "13", "13.6::real", "14.4::numeric"):
            connection.execute(f"SELECT pgvigil.record_performance('first contact', {duration})".encode())
        rows = connection.execute(
            "SELECT duration_ms FROM performance_logs WHERE operation = 'first contact' ORDER BY 1"
        ).fetchall()
        connection.rollback()
    assert rows == [(12,), (13,), (14,), (14,)]


class _Terminal:
    """A stream that acts as a terminal where the tests need it."""

    def isatty(self) -> bool:
        return True


@pytest.mark.parametrize(
    ("variables", "of_terminal", "of_pipe"),
    [
        ({}, True, False),
        ({"NO_COLOR": "1"}, False, False),
        ({"NO_COLOR": ""}, True, False),
        ({"FORCE_COLOR": "1"}, True, True),
        ({"FORCE_COLOR": "0"}, False, False),
        ({"FORCE_COLOR": "1", "NO_COLOR": "1"}, False, False),
        ({"TERM": "dumb"}, False, False),
        ({"TERM": "dumb", "FORCE_COLOR": "1"}, True, True),
    ],
)
def test_colour_is_for_terminals_unless_the_environment_says_otherwise(
    monkeypatch: pytest.MonkeyPatch, variables: dict[str, str], of_terminal: bool, of_pipe: bool
) -> None:
    for name in ("NO_COLOR", "FORCE_COLOR"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("TERM", "xterm")
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with open(os.devnull, "w") as pipe:  # noqa: PTH123 - a stream without a terminal
        assert (text.wants_colour(_Terminal()), text.wants_colour(pipe)) == (of_terminal, of_pipe)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    "words", [["health"], ["maintain", "status"], ["sizes"], ["backup", "list"], ["explain", "SELECT 1"]], ids=" ".join
)
def test_a_report_has_colours_only_where_they_are_wanted(
    call: Run, shared: Database, words: list[str], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    if words == ["backup", "list"]:
        (tmp_path / "backups of this test").mkdir()
        (tmp_path / "backups of this test" / "x.dump").touch()
    option = [] if words == ["backup", "list"] else ["--database-url", shared.url]
    plain = call("pgvigil", *words, *option).stdout
    monkeypatch.setenv("FORCE_COLOR", "1")
    coloured = call("pgvigil", *words, *option).stdout
    assert "\x1b" not in plain
    if words == ["explain", "SELECT 1"]:  # nothing to point out in it
        return
    assert "\x1b[" in coloured
    assert len(re.sub(r"\x1b\[[\d;]*m", "", coloured).splitlines()) == len(plain.splitlines())


def test_colours_of_others_do_not_get_through(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("FORCE_COLOR", "1")
    with text.guarded():
        text.print_report("ok  \x1b[31mred\n::error::x", {"^ok": "green"})
    assert capsys.readouterr().out == "\x1b[1;32mok\x1b[0m  \\x1b[31mred\n| ::error::x\n"


def _check(name: str, value: str | None, level: str = "ok") -> Check:
    number = None if value is None else Decimal(value)
    return Check(name, number, Decimal("0.8"), Decimal("0.95"), level, "its meaning", None, None)


@pytest.mark.parametrize(
    ("check", "shown"),
    [
        (_check("foreign_keys_enabled", "0"), "all enforced"),
        (_check("foreign_keys_enabled", "2", "critical"), "2 not enforced"),
        (_check("database_integrity", "0"), "intact"),
        (_check("connection_pool_exhaustion", "0.0123456"), "1.23 %"),
        (_check("avg_query_time_ms", "12.3456789"), "12.3 ms"),
        (_check("avg_query_time_ms", "1234.5"), "1,234 ms"),
        (_check("database_size_mb", "15.26"), "15.3 MB"),
        (_check("orphaned_messages", "1234567"), "1,234,567"),
        (_check("count_mismatches", "0"), "0"),
    ],
)
def test_a_value_of_health_is_rounded_and_has_its_unit(check: Check, shown: str) -> None:
    report = health_text(Health("app", False, (check,), (), None, None))
    assert re.search(rf"{check.check_name} +{re.escape(shown)}(?: \(|$)", report, re.MULTILINE), report


def test_columns_of_health_are_aligned() -> None:
    names = ("foreign_keys_enabled", "publications_by_partition", "connection_pool_exhaustion", "transaction_id_age")
    checks = tuple(_check(name, "0") for name in names)
    lines_ = [
        line
        for line in health_text(Health("app", False, checks, (), None, None)).splitlines()
        if line.startswith("ok ")
    ]
    assert len(lines_) == len(names)
    assert len({len(line) for line in lines_}) == 1


@pytest.mark.parametrize(
    ("number", "thing", "words"),
    [
        (0, "file", "0 files"),
        (1, "file", "1 file"),
        (2, "index", "2 indexes"),
        (1, "index", "1 index"),
        (1178, "row", "1,178 rows"),
    ],
)
def test_a_number_of_things_is_singular_or_plural(number: int, thing: str, words: str) -> None:
    assert text.counted(number, thing) == words
