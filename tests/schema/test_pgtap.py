"""Run tests/pgtap/*.sql, each on a new install, and those named *_existing.sql on a migrated database."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

import tap
from conftest import PROJECT, Database, pgtap_script

SCRIPTS = sorted((PROJECT / "tests/pgtap").glob("*.sql"))


@pytest.fixture
def installed(request: pytest.FixtureRequest) -> Database:
    if pgtap_script() is None:
        refuse = pytest.fail if os.environ.get("REQUIRE_PGTAP") else pytest.skip
        refuse("pgTAP is not here: apt-get install postgresql-15-pgtap, or name its pgtap--X.Y.Z.sql in PGTAP_SQL")
    path: Path = request.node.callspec.params["path"]
    database: Database = request.getfixturevalue("migrated" if path.stem.endswith("_existing") else "fresh")
    return database


@pytest.mark.usefixtures("pg")
@pytest.mark.parametrize("path", SCRIPTS, ids=lambda path: path.stem)
def test_pgtap(path: Path, installed: Database, subtests: pytest.Subtests) -> None:
    with installed.connect() as connection:
        connection.execute("SET search_path = public, tap")
        found = tap.run(connection, path.read_text())
    if found.skip_all:
        pytest.skip(found.skip_all)
    for assertion in found.assertions:
        with subtests.test(msg=f"{assertion.number} {assertion.description}"):
            report(assertion)
    assert found.problems == []


def report(assertion: tap.Assertion) -> None:
    if assertion.directive == "SKIP":
        pytest.skip(assertion.reason)
    if assertion.directive == "TODO":
        if not assertion.ok:
            pytest.xfail(assertion.reason)
        pytest.fail(f"marked TODO, but it passes: {assertion.reason}", pytrace=False)
    if not assertion.ok:
        pytest.fail("\n".join([assertion.description, *assertion.diagnostics]), pytrace=False)


def test_there_are_pgtap_scripts() -> None:
    assert SCRIPTS
