"""Links between the pages, and from messages to the pages, lead to a page and a heading that are there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from pgvigil import project

pytestmark = pytest.mark.client_side

PAGES = sorted([*project.ROOT.glob("*.md"), *(project.ROOT / "docs").glob("*.md")])
# Where a page is named in messages and comments of the code.
NAMING = sorted(
    file
    for folder in ("src", "scripts")
    for file in (project.ROOT / folder).rglob("*")
    if file.suffix in (".py", ".sql", ".yaml", ".sh")
)


def anchors(page: Path) -> set[str]:
    """The headings, as GitHub spells them in a link."""
    text = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ (.*)$", text, re.MULTILINE)
    return {re.sub(r"[^\w -]", "", heading.lower()).replace(" ", "-") for heading in headings}


def broken(links: list[str], page: Path) -> list[str]:
    found = []
    for link in links:
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        if not target.exists() or (anchor and anchor not in anchors(target)):
            found.append(link)
    return found


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_the_links_of_a_page_lead_somewhere(page: Path) -> None:
    links = [link for link in re.findall(r"\]\(([^)\s]+)\)", page.read_text()) if "://" not in link]
    assert broken(links, page) == []


def test_a_page_that_the_code_names_is_there() -> None:
    for file in NAMING:
        named = re.findall(r"\bdocs/[\w-]+\.md(?:#[\w-]+)?", file.read_text())
        assert broken(named, project.ROOT / "README.md") == [], file


def test_a_link_to_a_missing_page_or_heading_is_found(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("# First\n\n## An archive is code: `x`\n\n```sh\n# no heading\n```\n")
    links = ["page.md", "#first", "page.md#an-archive-is-code-x", "other.md", "#second", "#no-heading"]
    assert broken(links, page) == ["other.md", "#second", "#no-heading"]
