"""The TAP parser: nothing that a script says may be lost, or taken for a success."""

from __future__ import annotations

import pytest

import tap
from conftest import Database

pytestmark = pytest.mark.client_side


def test_reads_results_with_their_diagnostics() -> None:
    found = tap.parse(["1..2", "ok 1 - sessions exists", "not ok 2 - has a trigger", "# Failed test 2", "# have: NULL"])

    assert [(a.ok, a.number, a.description) for a in found.assertions] == [
        (True, 1, "sessions exists"),
        (False, 2, "has a trigger"),
    ]
    assert found.assertions[1].diagnostics == ["# Failed test 2", "# have: NULL"]
    assert found.problems == []


def test_a_hash_in_a_description_is_text() -> None:
    found = tap.parse(["1..2", r"ok 1 - counts \# of rows", "ok 2 - issue #12 stays fixed"])

    assert [a.description for a in found.assertions] == ["counts # of rows", "issue #12 stays fixed"]
    assert found.problems == []


@pytest.mark.parametrize(
    ("line", "ok", "directive", "reason"),
    [
        ("not ok 1 - later # TODO not yet", False, "TODO", "not yet"),
        ("ok 1 - later # todo done already", True, "TODO", "done already"),
        ("ok 1 # SKIP only from 15 on", True, "SKIP", "only from 15 on"),
        ("ok 1 - plain", True, "", ""),
    ],
)
def test_reads_directives(line: str, ok: bool, directive: str, reason: str) -> None:
    found = tap.parse(["1..1", line])

    assert [(a.ok, a.directive, a.reason) for a in found.assertions] == [(ok, directive, reason)]


def test_a_whole_script_can_be_skipped() -> None:
    found = tap.parse(["1..0 # SKIP no such extension"])

    assert found.skip_all == "no such extension"
    assert found.problems == []


@pytest.mark.parametrize(
    ("lines", "problem"),
    [
        (["ok 1"], "no plan: the script ended before plan() or finish()"),
        ([], "no plan: the script ended before plan() or finish()"),
        (["1..2", "ok 1"], "planned 2 assertions but ran 1"),
        (["1..1", "ok 1", "ok 2"], "planned 1 assertions but ran 2"),
        (["1..2", "ok 2", "ok 1"], "out of sequence: ok 2"),
        (["1..1", "ok 1", "Bail out! no database"], "Bail out! no database"),
    ],
)
def test_a_script_that_did_not_run_as_planned_is_a_problem(lines: list[str], problem: str) -> None:
    assert problem in tap.parse(lines).problems


def test_keeps_what_was_reported_before_an_sql_error(database: Database) -> None:
    script = "BEGIN;\nSELECT '1..2';\nSELECT 'ok 1 - before';\nSELECT nonsense;\nSELECT 'ok 2 - after';"
    with database.connect() as connection:
        found = tap.run(connection, script)

        assert [a.description for a in found.assertions] == ["before"]
        assert found.problems[0].startswith('line 4: ERROR:  column "nonsense" does not exist')
        assert found.problems[-1] == "planned 2 assertions but ran 1"
        assert connection.execute("SELECT 1").fetchone() == (1,)
