"""A report is told in five forms: none loses a finding, none is broken by what an object is called."""

from __future__ import annotations

import io
import json
import re
import stat
from pathlib import Path
from typing import Any
from xml.etree import ElementTree as ET

import pytest

from pgvigil import project
from pgvigil.text import one_line, visible, wants_colour
from pgvigil.validate import FORMATS, Finding, Report, Unchecked, load_declaration, load_spec, render, with_source_line

pytestmark = pytest.mark.client_side

NASTY = [
    "plain",
    'it\'s "quoted" `so`',
    "two\nlines",
    "carriage\r\nreturn",
    "a <b> & </failure> ]]>",
    "%0A::error file=x::injected",
    "\n::warning::injected",
    "   ::set-output name=x::injected",
    "Ωμέγα ✓ 🐘",
    "bell \x07, escape \x1b[31m red, unit \x1f, delete \x7f, C1 \x9b",
    "no character \ufffe \uffff",
    "right \u202e to left, separator \u2028 \u0085",
    "a,b:c=d%e",
    "tab\there",
]


def report_of(*names: str) -> Report:
    findings = [
        Finding("different", f"column t.{name}", f"expected {name}", f"found {name}", fix=f"ALTER {name};", line=7)
        for name in names
    ]
    notes = [Finding("unexpected", f"index t.{name}", "", name, "note", line=3) for name in names]
    gaps = [Unchecked(f"function {name}", f"because {name}") for name in names]
    seen, compared = {"column": 9, "index": 4}, {"column": 8, "index": 4, "function": 2}
    return Report("spec.yaml", "db", "public", "18.1", tuple(findings), tuple(notes), seen, compared, tuple(gaps))


CLEAN = report_of()
WHOLE = Report(
    "spec.yaml",
    "db",
    "public",
    "18.1 (Debian 18.1-1)",
    (
        Finding("missing", "index t.idx", "btree (a)", "nothing", fix="CREATE INDEX idx ON t (a);", line=12),
        Finding("missing", "table u", "table", "nothing", also=("index u.b", "trigger u.c")),
        Finding("different", "function f()", "BEGIN\n  a;\n  b;\nEND", "BEGIN\n  a;\n  c;\nEND", line=20),
    ),
    (Finding("unexpected", "index t.extra", "", "btree (b)", "note"),),
    {"index": 3, "table": 2, "function": 1},
    {"index": 2, "table": 2, "function": 1},
    (Unchecked("rows of pgvigil.secrets", "permission denied"),),
)


def counted(told: str, form: str) -> dict[str, int]:
    """Findings, notes and gaps that a reader of the form would count, and the verdict's own number of findings."""
    if form == "json":
        document = json.loads(told)
        return {key: len(document[key]) for key in ("findings", "notes", "unchecked")}
    if form == "sarif":
        results = json.loads(told)["runs"][0]["results"]
        gaps = sum(result["ruleId"] == "not compared" for result in results)
        errors = sum(result["level"] == "error" for result in results)
        return {"findings": errors - gaps, "notes": len(results) - errors, "unchecked": gaps}
    if form == "junit":
        (suite,) = ET.fromstring(told)  # noqa: S314 - our own
        notes = (suite.findtext("system-out") or "").count("note: ")
        for name, tag in (("failures", "failure"), ("errors", "error"), ("tests", ".")):
            cases = suite.findall("testcase")
            assert int(suite.attrib[name]) == sum(case.find(tag) is not None for case in cases)
        return {"findings": int(suite.attrib["failures"]), "notes": notes, "unchecked": int(suite.attrib["errors"])}
    lines = told.split("\n")
    if form == "github":
        commands = [line for line in lines if line.strip().startswith("::")]
        gaps = sum("not compared" in line for line in commands)
        errors = sum(line.startswith("::error ") for line in commands)
        return {"findings": errors - gaps, "notes": len(commands) - errors, "unchecked": gaps}
    headings = dict(re.findall(r"^([A-Z ]+) \((\d+)\)", told, re.MULTILINE))
    notes, gaps = int(headings.pop("NOTES", 0)), int(headings.pop("NOT COMPARED", 0))
    return {"findings": sum(map(int, headings.values())), "notes": notes, "unchecked": gaps}


@pytest.mark.parametrize("form", FORMATS)
@pytest.mark.parametrize("report", [CLEAN, WHOLE, report_of(*NASTY)], ids=["clean", "whole", "nasty"])
def test_every_form_tells_as_many_findings_notes_and_gaps(form: Any, report: Report) -> None:
    assert counted(render(report, form), form) == {
        "findings": len(report.findings),
        "notes": len(report.notes),
        "unchecked": len(report.unchecked),
    }


@pytest.mark.parametrize("form", FORMATS)
def test_every_form_holds_the_verdict(form: Any) -> None:
    if form == "json":
        assert json.loads(render(WHOLE, form))["exit_code"] == 1
    else:
        assert WHOLE.verdict in render(WHOLE, form)


@pytest.mark.parametrize("name", NASTY)
def test_json_gives_every_name_back(name: str) -> None:
    document = json.loads(render(report_of(name), "json"))
    assert document["findings"][0]["object"] == f"column t.{name}"
    assert document["unchecked"] == [{"objects": f"function {name}", "reason": f"because {name}"}]


# --- text ------------------------------------------------------------------------------------------------------------


def test_text_reads_from_the_defect_to_the_verdict() -> None:
    assert render(WHOLE, "text").split("\n") == [
        "Database db, schema public, PostgreSQL 18.1, against spec.yaml",
        "",
        "MISSING (2)",
        "  index t.idx",
        "      expected  btree (a)",
        "      found     nothing",
        "      fix       CREATE INDEX idx ON t (a);",
        "      declared  spec.yaml:12",
        "  table u",
        "      expected  table",
        "      found     nothing",
        "      and so    index u.b, trigger u.c",
        "",
        "DIFFERENT (1)",
        "  function f()",
        "      | --- expected",
        "      | +++ found",
        "      | @@ -1,4 +1,4 @@",
        "      |  BEGIN",
        "      |    a;",
        "      | -  b;",
        "      | +  c;",
        "      |  END",
        "      declared  spec.yaml:20",
        "",
        "NOT COMPARED (1)",
        "  rows of pgvigil.secrets",
        "      why       permission denied",
        "",
        "NOTES (1), not failures",
        "  index t.extra: unexpected",
        "      found     btree (b)",
        "",
        "Coverage: 6 objects seen / 5 compared / 1 not compared / 1 notes",
        "INVALID: 3 findings (2 missing, 1 different)",
    ]


@pytest.mark.parametrize("name", NASTY)
def test_text_has_no_line_or_character_that_another_program_would_obey(name: str) -> None:
    told = render(report_of(name), "text")
    assert not [line for line in told.splitlines() if line.strip().startswith("::")]
    assert not re.search("[\x00-\x08\x0b-\x1f\x7f-\x9f\u202e\u2028]", told)


def test_text_is_coloured_only_when_asked_and_says_the_same() -> None:
    plain, painted = render(WHOLE, "text"), render(WHOLE, "text", colour=True)
    assert "\x1b[" not in plain
    assert painted != plain
    assert re.sub(r"\x1b\[[\d;]*m", "", painted) == plain


class Terminal(io.StringIO):
    def isatty(self) -> bool:
        return True


def test_colour_is_for_terminals_that_want_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setenv("TERM", "xterm")
    assert wants_colour(Terminal())
    assert not wants_colour(io.StringIO())
    monkeypatch.setenv("TERM", "dumb")
    assert not wants_colour(Terminal())
    monkeypatch.setenv("TERM", "xterm")
    monkeypatch.setenv("NO_COLOR", "1")
    assert not wants_colour(Terminal())


# --- JUnit -----------------------------------------------------------------------------------------------------------

# The shape that Jenkins' xUnit plugin asks for (junit-10.xsd), as far as it is used here: element → attributes, children.
JUNIT = {
    "testsuites": ({"name", "tests", "failures", "errors", "time", "disabled"}, {"testsuite"}),
    "testsuite": (
        {"name", "tests", "failures", "errors", "skipped", "time", "timestamp", "hostname", "id", "package", "file"},
        {"properties", "testcase", "system-out", "system-err"},
    ),
    "properties": (set(), {"property"}),
    "property": ({"name", "value"}, set()),
    "testcase": (
        {"name", "classname", "assertions", "time", "status", "file", "line"},
        {"skipped", "error", "failure", "system-out", "system-err"},
    ),
    "failure": ({"type", "message"}, set()),
    "error": ({"type", "message"}, set()),
    "system-out": (set(), set()),
}


@pytest.mark.parametrize("report", [CLEAN, WHOLE, report_of(*NASTY)], ids=["clean", "whole", "nasty"])
def test_junit_has_the_shape_that_ci_systems_read(report: Report) -> None:
    root = ET.fromstring(render(report, "junit").encode())  # noqa: S314 - our own
    assert root.tag == "testsuites"
    for element in root.iter():
        attributes, children = JUNIT[element.tag]
        assert set(element.attrib) <= attributes
        assert {child.tag for child in element} <= children
    (suite,) = root
    assert all(case.attrib["name"] and case.attrib["classname"] for case in suite.findall("testcase"))


def test_junit_has_a_case_for_each_sound_kind_and_each_object_at_fault() -> None:
    (suite,) = ET.fromstring(render(WHOLE, "junit"))  # noqa: S314 - our own
    cases = {case.attrib["name"]: [part.tag for part in case] for case in suite.findall("testcase")}
    assert cases == {
        "index t.idx missing": ["failure"],
        "table u missing": ["failure"],
        "function f() different": ["failure"],
        "rows of pgvigil.secrets not compared": ["error"],
    }
    (clean,) = ET.fromstring(render(CLEAN, "junit"))  # noqa: S314 - our own
    assert [case.attrib["name"] for case in clean.findall("testcase")] == ["column", "index", "function"]


@pytest.mark.parametrize("name", NASTY)
def test_junit_names_every_object_with_what_a_reader_would_obey_spelt_out(name: str) -> None:
    (suite,) = ET.fromstring(render(report_of(name), "junit").encode())  # noqa: S314 - our own
    names = [case.attrib["name"] for case in suite.findall("testcase")]
    spelt = re.sub("[\ufffe\uffff]", lambda match: match[0].encode("unicode_escape").decode(), one_line(name))
    assert f"column t.{spelt} different" in names


# --- SARIF -----------------------------------------------------------------------------------------------------------


def test_sarif_points_at_the_line_of_the_spec_and_at_the_object() -> None:
    log = json.loads(render(WHOLE, "sarif", spec=project.SPEC))
    assert log["version"] == "2.1.0"
    (run,) = log["runs"]
    rules = [rule["id"] for rule in run["tool"]["driver"]["rules"]]
    assert rules == ["missing", "different", "invalid", "disabled", "unexpected", "not compared"]
    first = run["results"][0]
    (location,) = first["locations"]
    assert location["physicalLocation"]["artifactLocation"]["uri"].endswith("scripts/schema-spec.yaml")
    assert location["physicalLocation"]["region"] == {"startLine": 12}
    assert location["logicalLocations"] == [{"name": "idx", "fullyQualifiedName": "t.idx", "kind": "index"}]
    assert all(rules[result["ruleIndex"]] == result["ruleId"] for result in run["results"])
    assert "region" not in run["results"][1]["locations"][0]["physicalLocation"]
    assert run["invocations"] == [{"executionSuccessful": False, "exitCode": 1}]


def test_sarif_knows_a_finding_again_when_its_line_and_what_was_found_change() -> None:
    def fingerprint(finding: Finding) -> object:
        report = Report("s", "d", "public", "18", (finding,), (), {}, {})
        return json.loads(render(report, "sarif"))["runs"][0]["results"][0]["partialFingerprints"]

    same = fingerprint(Finding("different", "column t.a", "x", "z", line=2))
    assert fingerprint(Finding("different", "column t.a", "x", "y", line=1)) == same
    assert fingerprint(Finding("different", "column t.b", "x", "y", line=1)) != same


# --- GitHub ----------------------------------------------------------------------------------------------------------


def test_github_annotates_the_line_of_the_spec(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GITHUB_WORKSPACE", str(project.ROOT))
    assert render(WHOLE, "github", spec=project.SPEC).split("\n") == [
        "::error file=scripts/schema-spec.yaml,line=12,title=index t.idx%3A missing::"
        "expected: btree (a)%0Afound: nothing%0Afix: CREATE INDEX idx ON t (a);",
        "::error file=scripts/schema-spec.yaml,title=table u%3A missing::"
        "expected: table%0Afound: nothing%0Aand so: index u.b, trigger u.c",
        "::error file=scripts/schema-spec.yaml,line=20,title=function f()%3A different::"
        "expected: BEGIN%0A  a;%0A  b;%0AEND%0Afound: BEGIN%0A  a;%0A  c;%0AEND",
        "::notice file=scripts/schema-spec.yaml,title=index t.extra%3A unexpected::found: btree (b)",
        "::error file=scripts/schema-spec.yaml,title=rows of pgvigil.secrets%3A not compared::permission denied",
        "INVALID: 3 findings (2 missing, 1 different)",
    ]


@pytest.mark.parametrize("name", NASTY)
def test_github_reads_every_name_back_with_what_it_would_obey_spelt_out(name: str) -> None:
    def unescaped(text: str) -> str:
        for code, character in (("%3A", ":"), ("%2C", ","), ("%0D", "\r"), ("%0A", "\n"), ("%25", "%")):
            text = text.replace(code, character)
        return text

    first = render(report_of(name), "github").split("\n")[0]
    match = re.fullmatch(r"::error (?P<properties>[^:]*)::(?P<message>.*)", first, re.DOTALL)
    assert match
    properties = dict(part.split("=", 1) for part in match["properties"].split(","))
    shown = visible(name)
    assert unescaped(properties["title"]) == f"column t.{one_line(name)}: different"
    assert unescaped(match["message"]) == f"expected: expected {shown}\nfound: found {shown}\nfix: ALTER {shown};"


# --- exit codes and places -------------------------------------------------------------------------------------------


def test_what_was_not_compared_is_no_pass() -> None:
    gap = Report("s", "d", "public", "18", (), (), {}, {}, (Unchecked("rows", "no right"),))
    assert not gap.ok
    assert gap.exit_code == 3
    assert gap.verdict.startswith("NOT PROVED")


@pytest.mark.parametrize(
    ("path", "entry"),
    [
        ("table sessions", lambda spec: spec.tables["sessions"]),
        ("comment on table pgvigil.displaced_tables", lambda spec: spec.tables["pgvigil.displaced_tables"]),
        ("column sessions.id", lambda spec: spec.tables["sessions"].columns["id"]),
        ("comment on column system_metrics.labels", lambda spec: spec.tables["system_metrics"].columns["labels"]),
        ("constraint sessions.sessions_pkey", lambda spec: spec.tables["sessions"].constraints["sessions_pkey"]),
        (
            "index sessions.idx_sessions_archived_at",
            lambda spec: spec.tables["sessions"].indexes["idx_sessions_archived_at"],
        ),
        (
            'trigger sessions."00_archive_deleted_session"',
            lambda spec: spec.tables["sessions"].triggers['"00_archive_deleted_session"'],
        ),
        ("view session_monitoring_view", lambda spec: spec.views["session_monitoring_view"]),
        ("function pgvigil.actor()", lambda spec: spec.functions["pgvigil.actor()"]),
        ("partition performance_logs_p20260101", lambda spec: spec.tables["performance_logs"]),
        ("row security of system_metrics", lambda spec: spec.tables["system_metrics"]),
        ("rule analytics_aggregations.r", lambda spec: spec.tables["analytics_aggregations"]),
        ("column sessions.nobody.declared", lambda spec: spec.tables["sessions"]),
    ],
)
def test_finding_knows_the_line_it_comes_from(path: str, entry: Any) -> None:
    spec = load_spec(project.SPEC)
    (finding,) = with_source_line(load_declaration(project.SPEC), [Finding("missing", path)])
    assert finding.line == entry(spec).line


def test_finding_about_something_that_stands_nowhere_has_no_line() -> None:
    (finding,) = with_source_line(load_declaration(project.SPEC), [Finding("unexpected", "table pgvigil.extra")])
    assert finding.line is None


# --- the command line ------------------------------------------------------------------------------------------------


def test_output_goes_to_the_file_and_the_verdict_to_stderr(fresh: Any, call: Any, tmp_path: Path) -> None:
    fresh.execute("DROP INDEX idx_sessions_archived_at")
    path = tmp_path / "verdict.xml"
    done = call("pgvigil", "validate", "--database-url", fresh.url, "--format", "junit", "--output", path)
    assert (done.returncode, done.stdout) == (1, "")
    assert done.stderr == f"INVALID: 1 finding (1 missing); written to {path}\n"
    assert ET.parse(path).getroot().attrib["failures"] == "1"  # noqa: S314 - our own


@pytest.mark.parametrize("form", FORMATS)
def test_all_forms_end_with_the_same_exit_code(fresh: Any, call: Any, form: str) -> None:
    assert call("pgvigil", "validate", "--database-url", fresh.url, "--format", form).returncode == 0
    fresh.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle")
    done = call("pgvigil", "validate", "--database-url", fresh.url, "--format", form)
    assert done.returncode == 1
    assert counted(done.stdout.rstrip("\n"), form) == {"findings": 1, "notes": 0, "unchecked": 0}


def test_unwritable_output_is_refused_before_any_server_is_asked(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "no such folder" / "report.json"
    done = call("pgvigil", "validate", "--database-url", "postgresql://nobody@127.0.0.1:1/x", "--output", path)
    assert done.returncode == 2
    assert f"{path} cannot be written: No such file or directory" in done.stderr
    done = call("pgvigil", "validate", "--database-url", "postgresql://nobody@127.0.0.1:1/x", "--output", tmp_path)
    assert done.returncode == 2
    assert f"{tmp_path} cannot be written: Is a directory" in done.stderr


@pytest.mark.parametrize("options", [("--fix-sql", "--format", "sarif"), ("--offline", "--format", "junit")])
def test_report_that_there_cannot_be_is_refused(call: Any, options: tuple[str, ...]) -> None:
    done = call("pgvigil", "validate", "--database-url", "postgresql://nobody@127.0.0.1:1/x", *options)
    assert done.returncode == 2
    assert done.stdout == ""


def test_output_that_fails_leaves_the_file_before_it(call: Any, tmp_path: Path) -> None:
    path = tmp_path / "report.txt"
    path.write_text("the last one")
    path.chmod(0o640)
    done = call("pgvigil", "validate", "--database-url", "postgresql://nobody@127.0.0.1:1/x", "--output", path)
    assert done.returncode == 3
    assert path.read_text() == "the last one"
    assert list(tmp_path.iterdir()) == [path]


def test_output_keeps_the_mode_of_the_file_it_replaces(fresh: Any, call: Any, tmp_path: Path) -> None:
    path, link = tmp_path / "report.txt", tmp_path / "link"
    path.write_text("the last one")
    path.chmod(0o640)
    link.symlink_to(path)
    assert call("pgvigil", "validate", "--database-url", fresh.url, "--output", link).returncode == 0
    assert path.read_text().rstrip().endswith("VALID: no findings")
    assert stat.S_IMODE(path.stat().st_mode) == 0o640
    assert link.is_symlink()


def test_output_to_a_device_is_written_in_place(fresh: Any, call: Any) -> None:
    assert call("pgvigil", "validate", "--database-url", fresh.url, "--output", "/dev/null").returncode == 0
    assert Path("/dev/null").is_char_device()
