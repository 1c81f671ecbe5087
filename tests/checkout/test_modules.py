"""The modules: no test imports another, and none of src is long without saying why."""

from __future__ import annotations

import ast
from pathlib import Path

import pytest

from pgvigil import project

pytestmark = pytest.mark.client_side

SOURCES = sorted((project.ROOT / "src").rglob("*.py"))
TESTS = sorted((project.ROOT / "tests").rglob("test_*.py"))


def imported(file: Path) -> set[str]:
    """The last parts of the names of modules that a file imports."""
    tree = ast.walk(ast.parse(file.read_text()))
    return {
        name.rpartition(".")[2]
        for node in tree
        if isinstance(node, ast.Import | ast.ImportFrom)
        for name in ([node.module or ""] if isinstance(node, ast.ImportFrom) else [one.name for one in node.names])
    }


def test_no_module_of_tests_imports_another() -> None:
    names = {file.stem for file in TESTS}
    assert {file.name: found for file in TESTS if (found := imported(file) & names)} == {}


def test_no_test_replaces_a_private_name() -> None:
    """A module offers a parameter or a public name for what tests replace."""
    found = []
    for file in (*TESTS, *(project.ROOT / "tests").rglob("conftest.py")):
        for node in ast.walk(ast.parse(file.read_text())):
            if isinstance(node, ast.Call) and getattr(node.func, "attr", "") == "setattr":
                names = [one.value for one in node.args[:2] if isinstance(one, ast.Constant)]
                found += [f"{file.name}: {name}" for name in names if str(name).rpartition(".")[2].startswith("_")]
    assert [name for name in found if not name.endswith("__")] == []


def test_a_module_of_more_than_400_lines_says_why_in_its_first_lines() -> None:
    long = [file for file in SOURCES if file.read_text().count("\n") > 400]
    unexplained = [
        file for file in long if "More than 400 lines" not in (ast.get_docstring(ast.parse(file.read_text())) or "")
    ]
    assert [str(file.relative_to(project.ROOT)) for file in unexplained] == []


def test_each_module_of_tests_is_in_the_folder_of_the_part_that_it_tests() -> None:
    assert [file.name for file in TESTS if file.parent == project.ROOT / "tests"] == []


# Two modules, and why six of their lines are the same.
ALIKE = {
    ("live/executions.py", "web/executions.py"): "the same columns as an argument and as an answer",
    ("live/instrument.py", "live/instrument.py"): "a method for callers that wait, and one for async ones",
}


def test_no_six_lines_stand_twice_without_a_reason() -> None:
    home = project.ROOT / "src/pgvigil"
    first: dict[tuple[str, ...], tuple[str, int]] = {}
    found: dict[tuple[str, str], str] = {}
    for file in SOURCES:
        imports = {
            number
            for node in ast.walk(ast.parse(file.read_text()))
            if isinstance(node, ast.Import | ast.ImportFrom)
            for number in range(node.lineno, (node.end_lineno or 0) + 1)
        }
        lines = [(number, line.strip()) for number, line in enumerate(file.read_text().splitlines(), 1)]
        lines = [(n, line) for n, line in lines if len(line) > 1 and not line.startswith("#") and n not in imports]
        for at in range(len(lines) - 5):
            run = tuple(line for _, line in lines[at : at + 6])
            name = str(file.relative_to(home))
            where, number = first.setdefault(run, (name, lines[at][0]))
            if (where, number) != (name, lines[at][0]):
                found.setdefault((where, name), f"lines {number} and {lines[at][0]}")
    assert {pair: at for pair, at in found.items() if pair not in ALIKE} == {}
    assert ALIKE.keys() - found.keys() == set()
