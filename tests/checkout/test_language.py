"""Check that pages, messages and comments are in plain English, without words whose meaning a reader has to guess."""

from __future__ import annotations

import ast
import functools
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from pgvigil import project
from pgvigil.migration.sql_lexer import statements

pytestmark = pytest.mark.client_side

PAGES = {
    str(page.relative_to(project.ROOT)): page
    for page in sorted([*project.ROOT.glob("*.md"), *(project.ROOT / "docs").glob("*.md")])
    if page.name != "reference.md"  # generated from the comments of the database
}

# What to avoid, and what to write instead.
AVOIDED = {
    r"\bmend(?:s|ed|ing)?\b": "fix",
    r"\b(?:tell|tells|telling|told)\b": "report, show, print, distinguish",
    r"\bheld against\b": "compared with",
    r"\b(?:stand|stands|stood)\b": "is, is in, is kept",
    r"\b(?:lie|lies|lay|lain)\b": "is in",
    r"\blet(?:s|ting)? (?:\w+ ){0,2}go\b(?! on\b)": "delete, release",
    r"\bput(?:s|ting)? (?:\w+ ){0,2}back\b": "restore",
    r"\banew\b": "again",
    r"\bseldom\b": "rarely",
    r"(?<!\b[Tt]here )\b(?:is|are|was|were) no\b(?! (?:longer|more than|less than|later than)\b)": "is not a",
    # "What fails is undone" makes the reader wait for the verb. A question may begin so, and a heading.
    r"(?:^|[.:;] )(?:What|Whatever|Who|Whoever)\b(?![^.;:]*\?)": "a noun as the subject",
    r"[:;] (?:what|whatever|whoever)\b(?![^.;:]*\?)": "a noun as the subject",
    r"(?:^|[.:;] )(?!This|That|It|Here|There|Which)[A-Z][a-z]+(?: [a-z]+)? (?:is|are) (?:what|whatever|who|whoever)\b": (
        "the subject first"
    ),
    r"(?<!\bor)(?<!\bdo)(?<!\bis|\bif)(?<!\bare|\bcan|\bdid|\bhad|\bhas|\bmay|\bwas)(?<!\bdoes|\bhave|\bmust|\bwere|\bwill) not[.;]": (
        "a verb with not"
    ),
}
TURNS = [(re.compile(turn, re.MULTILINE), instead) for turn, instead in AVOIDED.items()]


def prose(text: str) -> Iterator[tuple[int, str]]:
    """Yield each paragraph, list item, heading and table cell with the number of its first line; leave out code."""
    text = re.sub(r"^ *```.*?^ *```$", lambda block: "\n" * block[0].count("\n"), text, flags=re.MULTILINE | re.DOTALL)
    text = re.sub(r"(?<=\n\n)(?: {4}.*\n)+", lambda block: "\n" * block[0].count("\n"), text)
    text = re.sub(r"`[^`]+`", lambda code: "code" + "\n" * code[0].count("\n"), text)
    paragraph: list[str] = []
    first = 0
    for number, line in enumerate([*text.splitlines(), ""], 1):
        begins = re.match(r"\||#|\s*(?:[*-]|\d+\.) ", line)
        if paragraph and (begins or not line.strip()):
            yield first, " ".join(paragraph)
            paragraph = []
        if line.startswith("|"):
            yield from ((number, cell.strip()) for cell in line.strip("|").split("|"))
        elif line.startswith("#"):
            yield number, f"# {line.strip('# ')}"
        elif line.strip():
            first = first if paragraph else number
            paragraph.append(re.sub(r"^\s*(?:[*-]|\d+\.) ", "", line).strip())


def unclear(text: str) -> list[str]:
    """Return each turn to avoid, with its line, its surroundings and the replacement."""
    return [
        f"line {number}: …{words[max(0, found.start() - 30) : found.end() + 30]}…: write {instead}"
        for number, words in prose(text)
        for turn, instead in TURNS
        for found in turn.finditer(words)
    ]


@pytest.mark.parametrize("page", PAGES)
def test_a_page_is_in_plain_english(page: str) -> None:
    assert unclear(PAGES[page].read_text()) == []


def remarks(sql: str) -> Iterator[tuple[int, str]]:
    """Yield each comment of a SQL file, and each text of a COMMENT statement, with its line."""
    block: list[str] = []
    for number, line in enumerate([*sql.splitlines(), ""], 1):
        if own := re.match(r"\s*--\s?(.*)", line):
            block.append(own[1])
            continue
        if block:
            yield number - len(block), " ".join(block)
            block = []
        if behind := re.search(r";\s+--\s(.*)", line):
            yield number, behind[1]
    for statement in statements(sql):
        if statement.starts_with("COMMENT", "ON"):
            words = [token.text for token in statement.tokens]
            yield statement.line, "".join(word[1:-1] for word in words[words.index("IS") + 1 :])


@pytest.mark.parametrize("path", sorted(project.MIGRATIONS.rglob("*.sql")), ids=lambda path: path.name)
def test_a_comment_of_a_migration_is_in_plain_english(path: Path) -> None:
    found = [
        f"{path.name}:{number}: …{words[max(0, turn.start() - 30) : turn.end() + 30]}…: write {instead}"
        for number, words in remarks(path.read_text())
        for pattern, instead in TURNS
        for turn in pattern.finditer(words)
    ]
    assert found == []


@pytest.mark.parametrize(
    "sql",
    ["-- It is told\n-- anew.\nSELECT 1;", "SELECT 1;  -- What is told", "COMMENT ON TABLE t IS 'It '\n'stands';"],
)
def test_a_turn_to_avoid_is_found_in_sql(sql: str) -> None:
    assert [words for _, words in remarks(sql) if any(pattern.search(words) for pattern, _ in TURNS)] != []


@functools.cache
def nodes(file: Path) -> list[ast.AST]:
    """Return all parts of a Python file; it is parsed once for all tests."""
    return list(ast.walk(ast.parse(file.read_text())))


PART = re.compile(
    r'^[ \t]*(?:async def|def|class) (\w+)|(?:\A(?:#[^\n]*\n)*|:(?:  #[^\n]*)?\n)[ \t]*r?"""(.*?)"""',
    re.MULTILINE | re.DOTALL,
)


def docstrings(file: Path) -> Iterator[tuple[int, str, str]]:
    """Yield each docstring of a Python file with its line and its definition, "" for the module. To parse takes longer."""
    text, name, at, line = file.read_text(), "", 0, 1
    for part in PART.finditer(text):
        line, at = line + text.count("\n", at, part.start()), part.start()
        name = part[1] or name
        if part[2]:
            yield line, name, " ".join(part[2].split())


def messages() -> Iterator[tuple[str, str]]:
    """Yield each text of errors, findings, the log, the help and other output, with its place."""
    for file in sorted(project.ROOT.glob("src/**/*.py")):
        docs = {
            id(part.body[0].value)
            for part in nodes(file)
            if isinstance(part, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef) and part.body
            if isinstance(part.body[0], ast.Expr)
        }
        for part in nodes(file):
            if (
                isinstance(part, ast.Constant)
                and isinstance(part.value, str)
                and " " in part.value
                and id(part) not in docs
            ):
                yield f"{file.relative_to(project.ROOT)}:{part.lineno}", part.value.replace('drift = "tell"', "")


def test_a_message_is_in_plain_english() -> None:
    turns = [
        f"{place}: {text!r}: write {instead}"
        for place, text in messages()
        for turn, instead in TURNS
        if turn.search(text)
    ]
    assert turns == []


COMMENT = {
    ".py": re.compile(r"^[ \t]*#[ !:]?(.*)|[ \t]{2}#[ ](.*)$", re.MULTILINE),
    ".sh": re.compile(r"^[ \t]*#[ ]?(.*)|[ \t]#[ ](.*)$", re.MULTILINE),
    ".yaml": re.compile(r"^[ \t]*#[ ]?(.*)|[ \t]#[ ](.*)$", re.MULTILINE),
    ".sql": re.compile(r"^[ \t]*--[- ]?(.*)|[ \t]--[ ](.*)$", re.MULTILINE),
    ".js": re.compile(r"^[ \t]*(?://|/?\*\*?)[ ]?(.*)|[ \t]//[ ](.*)$", re.MULTILINE),
}
COMMENT |= {".css": COMMENT[".js"], ".yml": COMMENT[".yaml"], ".toml": COMMENT[".yaml"], "": COMMENT[".sh"]}


def comments(text: str, suffix: str) -> Iterator[tuple[int, str]]:
    """Yield the comments of a file, those of following lines as one, with their line."""
    run: list[str] = []
    at = line = last = first = 0
    for found in COMMENT[suffix].finditer(text):
        line, at = line + text.count("\n", at, found.start()), found.start()
        if run and line != last + 1:
            yield first, " ".join(run)
            run = []
        first = first if run else line + 1
        run.append((found[1] if found[1] is not None else found[2]).strip())
        last = line
    yield first, " ".join(run)


def explanations(file: Path) -> Iterator[tuple[int, str]]:
    """Yield each docstring and each comment of a file, with its line."""
    text = file.read_text()
    for line, _, words in docstrings(file) if file.suffix == ".py" else ():
        yield line, re.sub(r"`[^`]+`", "code", words)
    yield from comments(text, file.suffix)


# A comment may be the title of what comes below it ("What a diagram holds"). All else holds for comments as well.
IN_CODE = [(turn, instead) for turn, instead in TURNS if instead != "a noun as the subject"]
FOLDERS = ("src", "tests", "scripts", "benchmarks", "examples", ".ci", "requirements")
WRITTEN = [
    file
    for folder in FOLDERS
    for file in sorted((project.ROOT / folder).rglob("*"))
    if file.suffix in COMMENT and file.is_file() and not {"node_modules", "__pycache__"} & set(file.parts)
    if file not in (Path(__file__), project.ROOT / "scripts/init-enhanced-db.sql")
]


def test_an_explanation_in_the_code_is_in_plain_english() -> None:
    found = [
        f"{file.relative_to(project.ROOT)}:{line}: …{words[max(0, turn.start() - 30) : turn.end() + 30]}…: write {instead}"
        for file in WRITTEN
        for line, words in explanations(file)
        for pattern, instead in IN_CODE
        for turn in pattern.finditer(words)
    ]
    assert found == []


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".py", "x = 1  # it is told"),
        (".py", "# It is\n# told."),
        (".sh", "#!/bin/bash\n\n# It is told."),
        (".yaml", "a: 1\n# It is told."),
        (".sql", "SELECT 1;\n--- it is told"),
        (".js", "/** It is told. */"),
        (".css", "/* It is\n * told. */"),
        ("", "run  # It is told."),
    ],
)
def test_a_turn_to_avoid_is_found_in_a_comment(suffix: str, text: str) -> None:
    assert [words for _, words in comments(text, suffix) if any(turn.search(words) for turn, _ in IN_CODE)] != []


# Second words for a thing that has a name: in names of Python and of SQL.
SECOND_WORDS = {
    "mend|mends|mended|heal|heals|healed|healing": "fix, repair_indexes",
    "tell|tells|told": "log, report",
    "upkeep": "maintenance, skip_activity",
    "settle|settles|settled": "resolve, backfill, complete",
    "stranger|strangers": "unexpected",
    "carcass|carcasses": "leftover_index",
    "patience|patient": "policy, limit",
    "journal|speak": "reporter, log",
    "phrase": "attribute",
    "shelf": "backup_dir",
    "prove": "verify",
    "put_back|seen_to|found_before": "restore, completed_items, displaced_objects",
}


def names_of(file: Path) -> set[str]:
    """The names that a file of Python or SQL gives or uses."""
    if file.suffix == ".sql":
        return set(re.findall(r"[a-z_]+", re.sub(r"--.*|'[^']*'", "", file.read_text())))
    return {
        name
        for node in nodes(file)
        for name in (getattr(node, key, None) for key in ("id", "name", "arg", "attr"))
        if isinstance(name, str)
    } | {file.stem}


def test_a_thing_has_one_name_in_the_code() -> None:
    files = [*project.ROOT.glob("src/**/*.py"), *project.MIGRATIONS.rglob("*.sql")]
    seconds = [(re.compile(rf"(?:^|_)(?:{words})(?:_|$)"), instead) for words, instead in SECOND_WORDS.items()]
    found = [
        f"{file.name}: {name}: write {instead}"
        for file in files
        for name in names_of(file)
        for pattern, instead in seconds
        if pattern.search(name.lower()) and name not in ("HTTPStatus", "phrase")
    ]
    assert found == []


# A docstring begins with an imperative or an article: none of these is one, nor is a word that ends with one s ("Runs").
NO_VERB = re.compile(
    r"About|After|All|Also|And|Another|Any|Anything|As|At|Because|Before|Between|Both|But|By|Each|Either|Every|Everything|"
    r"For|From|He|His|How|If|In|Instead|Into|It|Its|Joined|Keyed|Like|Made|No|Nobody|None|Not|Nothing|Of|On|One|Or|Other|"
    r"Our|Said|Several|Since|So|Some|Somebody|Something|Such|That|Their|Then|There|They|Three|To|Told|Two|Under|Until|"
    r"We|What|Whatever|When|Where|Whether|Which|While|Who|Whoever|Whose|Why|With|Within|Without|You|[A-Za-z]*[^s]s"
)


def begins_well(docstring: str, *, module: bool = False) -> bool:
    """Return True for "Return the rows." and "The rows that …", False for "Returns the rows.", "Of a row." and "SQL that …"."""
    first = docstring.split()[0].rstrip(",.:;")
    if module and re.match(r"`?pgvigil\b(?!')", first):
        return True
    return re.fullmatch(r"[A-Z][a-z]*", first) is not None and not NO_VERB.fullmatch(first)


# Below the name of a test, which is a sentence, the docstring is another sentence: it gives the reason. Its subject may be anything.
SUBJECT = re.compile(r"Another|Any|Each|Every|In|No|On|PostgreSQL|SQLAlchemy|EXPLAIN|[A-Z][a-z]+s")
NO_SUBJECT = re.compile(r"As|Its|Said|Theirs|Ours|Whose|Does|Has|Is|Was")


def is_sentence(docstring: str) -> bool:
    """Return True for "Rows of the default partition stay.", False for "As an application would."."""
    first = docstring.split()[0].rstrip(",.:;")
    return begins_well(docstring) or (SUBJECT.fullmatch(first) is not None and not NO_SUBJECT.fullmatch(first))


def test_a_docstring_begins_with_a_verb_or_a_noun() -> None:
    found = [
        f"{file.relative_to(project.ROOT)}:{line}: {words}"
        for file in WRITTEN
        if file.suffix == ".py" and file.parent.name != "versions"  # there it is the title of a migration
        for line, name, words in docstrings(file)
        if not begins_well(words, module=not name)
        if not ((name or file.stem).startswith("test_") and is_sentence(words))
    ]
    assert found == []


@pytest.mark.parametrize(
    "docstring",
    [
        "Runs one command.",
        "Of an open connection.",
        "As `parse`.",
        "Whose rights count.",
        "14 has none.",
        "`x`: a name.",
    ],
)
def test_a_docstring_without_a_verb_is_found(docstring: str) -> None:
    assert not begins_well(docstring)


@pytest.mark.parametrize("docstring", ["Pass it on.", "A row that is new.", "An index.", "Connect.", "The rows."])
def test_a_docstring_with_a_verb_or_an_article_is_not_found(docstring: str) -> None:
    assert begins_well(docstring)


@pytest.mark.parametrize(
    "sentence",
    [
        "`--repair` mends it.",
        "The outcome is told.",
        "The plan is held against the page.",
        "The schedule stands in the database.",
        "The row lies in the default partition.",
        "| prune | lets older backups go |",
        "`undo()` puts the engine back.",
        "Write it anew.",
        "How seldom it runs does not matter.",
        "The name is no text.",
        "What failed is undone.",
        "| Whoever connects waits. |",
        "* It is refused: whoever asks needs a right.",
        "Lost is what was in memory.",
        "Not covered is what functions do.",
        "The network is included, deferred checks not.",
    ],
)
def test_a_turn_to_avoid_is_found(sentence: str) -> None:
    assert len(unclear(f"# Page\n\n{sentence}\n")) == 1


@pytest.mark.parametrize(
    "text",
    [
        "## What it promises",
        "What happens then? It is rolled back.",
        "There is no such table, and it is no longer needed.",
        "A standby understands this; the index is not.",
        "Run it, whatever the version is.",
        "This is what `migrate` does.",
        "The option `tell` has no effect.",
        "```\nIt is told anew.\n```",
        "Run:\n\n    echo told\n\nagain.",
    ],
)
def test_code_questions_and_plain_sentences_are_not_found(text: str) -> None:
    assert unclear(f"# Page\n\n{text}\n") == []
