"""Test that text of others reaches a terminal or the log of a CI job as text: it controls neither, and fakes no line of
ours.
"""

from __future__ import annotations

import io
import json
import re
import sys
from pathlib import Path

import psycopg
import pytest
import yaml

from conftest import Database, Run
from pgvigil import cli, display
from pgvigil.errors import UsageError
from pgvigil.text import Guarded, block, guarded, indented, one_line, page, print_script, trusted, visible
from pgvigil.validate import dump_spec
from pgvigil.visible_sql import print_sql, visible_sql

pytestmark = pytest.mark.client_side

UNSEEN = [
    *map(chr, (*range(0x09), *range(0x0B, 0x20), *range(0x7F, 0xA0))),
    *"\xad\u061c\u180e\u200b\u200c\u200d\u200e\u200f\u2028\u2029\u202a\u202b\u202c\u202d\u202e\u2060\u2066\u2067\u2068\u2069\ufeff",
    "\U000e0041", "\ud800", "\udfff",
]  # fmt: skip
HOSTILE = "oops\x1b]0;title\x07\r\u202e\u200b\n::error file=a::forged\n  ::warning::forged\n##[error]forged\n##vso[task.x]y\ud800"
SEEN = re.compile(r"[^\x20-\x7e\n\t]|^\s*::|##\[|##vso\[", re.MULTILINE)


@pytest.mark.parametrize("letter", UNSEEN, ids=ascii)
def test_what_cannot_be_seen_is_spelt_out(letter: str) -> None:
    assert visible(f"a{letter}b") == f"a{letter.encode('unicode_escape', 'surrogatepass').decode()}b"


def test_letters_of_all_kinds_and_lines_stay() -> None:
    text = "Ωμέγα ✓ 🐘 é\tx\ny ## z [a]"
    assert visible(text) == text
    assert one_line("a\nb\tc") == r"a\nb\tc"


def test_a_line_of_others_does_not_look_like_one_of_ours() -> None:
    assert block("failed: x\nerror: y\n") == "failed: x\n| error: y"
    assert page(["a\nb", "c"]) == "a\n| b\nc"


@pytest.mark.parametrize(
    "pieces",
    [
        [HOSTILE],
        HOSTILE.splitlines(keepends=True),
        ["  ", "::", "error::x\n"],
        ["a\n", "::error::x"],
        ["a", "\n", " ", "::x"],
    ],
)
def test_whatever_is_written_in_whatever_pieces_commands_nobody(pieces: list[str]) -> None:
    stream = io.StringIO()
    out = Guarded(stream)
    for piece in pieces:
        out.write(piece)
    assert not SEEN.search(stream.getvalue())


def test_printing_is_guarded_while_a_command_runs(capsys: pytest.CaptureFixture[str]) -> None:
    before = sys.stdout
    with guarded():
        print(HOSTILE)
        print(HOSTILE, file=sys.stderr)
        assert trusted(sys.stdout) is before
    assert sys.stdout is before
    said = capsys.readouterr()
    assert not SEEN.search(said.out)
    assert not SEEN.search(said.err)


def test_errors_and_hints_are_indented(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[str]:
        raise UsageError(HOSTILE, "hint\nerror: forged")

    monkeypatch.setattr("pgvigil.migration.offline_check.check", fails)
    assert cli.main(["validate", "--offline"]) == 2
    said = capsys.readouterr().err
    assert not SEEN.search(said)
    assert [line for line in said.splitlines() if line.startswith(("error: ", "hint: "))] == [
        r"error: oops\x1b]0;title\x07\r\u202e\u200b",
        "hint: hint",
    ]


SCRIPTS = [
    """SELECT 1 AS "a\u200bb", 'x\u200by', 'it''s \\ \u200b'""",
    "SELECT E'a\\\\\u200bb\\\u200bc\\n\\'\u200b'",
    "SELECT $q$a'b\\c\u200b\n::error file=x::y\n$q$",
    "SELECT U&'d\\0061\u200b', U&'d!0061\u200b\\' UESCAPE '!', N'n\u200b'",
    """SELECT 1 AS Ab\u200bC, 2 AS "##[group]x", '##vso[a'""",
    "SELECT 'a'\r\n 'b\u200b' -- c\u200b\r\n, 2 /* \u200b /* x */ */",
    "SELECT 'a\n::set-output name=x::y', 1::text",
    "SELECT t.a\u200b FROM (SELECT 1 AS a\u200b) t",
    """SELECT 1 AS "a\x1b[31m\u202e""\\b", '\U000e0041\x7f\r\n'""",
    "DO $$ BEGIN PERFORM set_config('a.b', '\u200bit''s', false); END $$; SELECT current_setting('a.b')",
]


@pytest.mark.parametrize("scs", ["on", "off"])
def test_a_printed_script_is_visible_and_means_the_same(database: Database, scs: str) -> None:
    def answer(conn: psycopg.Connection, script: str) -> object:
        cursor = conn.execute(script.encode())
        while cursor.nextset():
            pass
        return [column.name for column in cursor.description or ()], cursor.fetchall()

    with database.connect() as given, database.connect(options=f"-c standard_conforming_strings={scs}") as pasted:
        for script in SCRIPTS:
            shown = visible_sql(script)
            assert not SEEN.search(shown), shown
            if scs == "on" or "U&'" not in script:
                assert answer(pasted, shown) == answer(given, script), shown


def test_a_printed_spec_says_what_it_says_in_a_file(database: Database) -> None:
    with database.connect() as conn:
        conn.execute(
            """CREATE SCHEMA x; CREATE TABLE x."a\u200b ##[b" ("c\u202e" text DEFAULT E'\u200b\\x1b\n::error::')"""
        )
        stream = io.StringIO()
        print_script(dump_spec(conn, ["x"]), Guarded(stream))  # type: ignore[arg-type]
        assert not SEEN.search(stream.getvalue())
        assert yaml.safe_load(stream.getvalue()) == json.loads(dump_spec(conn, ["x"], json=True))


def test_a_name_in_a_hint_is_one_that_sql_reads_and_stays_on_its_line() -> None:
    assert indented('DROP TABLE "a\u200b\\", "b\nc"; "d"') == r'DROP TABLE U&"a\200b\\", U&"b\000ac"; "d"'


def test_what_is_printed_for_programs_is_still_json() -> None:
    stream = io.StringIO()
    Guarded(stream).write(json.dumps({"##[group]": "a\x7f\u200b ##vso[x"}))  # type: ignore[arg-type]
    assert json.loads(stream.getvalue()) == {"##[group]": "a\x7f\u200b ##vso[x"}


def test_casts_in_a_script_stay_as_they_are(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    script = "SELECT x\n    ::text\n    ::jsonb::text '\x1b';\n"
    with guarded():
        print_sql(script, sys.stdout, end="")
    assert capsys.readouterr().out == script.replace("'\x1b'", r"E'\x1b'")
    with (tmp_path / "file").open("w+") as file:
        print_sql(script, file, end="")
        file.seek(0)
        assert file.read() == script


def test_a_defect_shows_no_secret(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    def fails() -> list[str]:
        raise RuntimeError("postgresql://u:s3cret@h/d")

    monkeypatch.setattr("pgvigil.migration.offline_check.check", fails)
    assert cli.main(["validate", "--offline"]) == 70
    assert "s3cret" not in capsys.readouterr().err


def test_progress_is_guarded(capsys: pytest.CaptureFixture[str]) -> None:
    with guarded(), display.reporter() as log:
        log(HOSTILE)
    said = capsys.readouterr().err
    assert not SEEN.search(said)
    assert re.search(r"^\| ", said, re.MULTILINE)


def test_words_of_the_database_are_printed_as_words_by_each_command(
    run: Run, migrated: Database, tmp_path: Path
) -> None:
    """The texts are a trigger's exception in a job, when it fails and when it is reported again, names of objects, and errors."""
    text = HOSTILE.replace("\ud800", "").replace("\x00", "")
    migrated.execute(
        "CREATE FUNCTION veto() RETURNS trigger LANGUAGE plpgsql AS $$ BEGIN RAISE EXCEPTION '%', tg_argv[0]; END $$"
    )
    literal = "'" + text.replace("'", "''") + "'"
    migrated.execute(f"CREATE TRIGGER veto BEFORE UPDATE ON sessions FOR EACH ROW EXECUTE FUNCTION veto({literal})")
    name = '"' + text[:40].replace('"', '""') + '"'
    migrated.execute(f"CREATE TABLE pgvigil.{name} (id integer)")
    migrated.execute(f"CREATE TABLE {name} (id integer)")
    failed = 0
    for words in (
        ["maintain", "run", "expiry"], ["maintain", "run-due"], ["maintain", "status"], ["maintain", "status", "--json"], ["sizes"], ["sizes", "--json"],
        ["health"], ["explain", "UPDATE sessions SET metadata = '{}'"], ["explain", f"SELECT * FROM {name}"], ["validate"],
        ["validate", "--format", "json"], ["validate", "--format", "sarif"], ["validate", "--format", "junit"], ["migrate", "--backup", "none"],
        ["spec", "docs", "--spec", str(tmp_path / f"{text[:9]}.yaml")], ["maintain", "run", text],
    ):  # fmt: skip
        done = run(
            "pgvigil", *words, "--database-url", migrated.url, env={"PGVIGIL_BACKUP_DIR": str(tmp_path / "backups")}
        )
        assert done.returncode != 70, done.stderr
        failed += done.returncode != 0
        assert not SEEN.search(re.sub("[\u2026\u2013\u2014]", "", done.stdout + done.stderr)), words
    github = run("pgvigil", "validate", "--format", "github", "--database-url", migrated.url).stdout
    assert not re.search(r"[^\x20-\x7e\n]", github)
    assert all(line.startswith(("::error file=", "::notice file=", "INVALID")) for line in github.splitlines())
    assert failed > 5
