"""Run everything that the pages show, or at least read it as its reader would: commands, SQL, Python, settings."""

from __future__ import annotations

import configparser
import io
import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import yaml
from alembic import autogenerate
from alembic import command as alembic_command
from alembic.config import Config
from alembic.migration import MigrationContext
from sqlalchemy import MetaData, create_engine

from conftest import PROGRAMS, PROJECT, Database, Run
from helpers.migrators import DJANGO_SETTINGS, require_tools, url_for
from pgvigil import commands, parser
from pgvigil.autogenerate import include_object

pytestmark = pytest.mark.client_side

PAGES = sorted(
    path for path in [PROJECT / "README.md", *(PROJECT / "docs").glob("*.md")] if path.name != "reference.md"
)

# The test that runs the Python of a page.
RUN_BY = {
    "api.md": "web/test_web_monitoring.py",
    "executions.md": "live/test_executions.py",
    "instrument.md": "live/test_instrument.py",
    "monitor.md": "live/test_monitor_docs.py",
    "recorder.md": "live/test_recorder.py",
    "sessions.md": "diagnostics/test_sessions.py",
    "transactions.md": "live/test_transactions.py",
    "with-other-migrations.md": "checkout/test_docs.py",
}
# SQL that a transaction of one database cannot hold, by its first words, and what runs it instead.
ELSEWHERE = {
    "CREATE ROLE pgvigil_web": "tests/web/conftest.py; its last line needs PostgreSQL 16",
    "BEGIN;\nALTER DATABASE": "tests/backup/test_restore.py: databases are renamed",
    "CREATE PUBLICATION": "tests/live/test_replication.py: two servers",
    "CREATE TABLE sessions": "the tutorial, below",
    "INSERT INTO sessions (session_key, agent_from) VALUES ('order-1046'": "the tutorial, below",
}
NO_PROGRAM_FOR = ("ts", "mermaid")  # no interpreter of these is at hand


class Block(NamedTuple):
    page: str
    number: int
    language: str
    code: str

    def __str__(self) -> str:
        return f"{self.page}-{self.number}-{self.language}"


def blocks(path: Path) -> Iterator[Block]:
    found = re.finditer(r"^```(\w*)[^\n]*\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    for number, (language, code) in enumerate(one.groups() for one in found):
        yield Block(path.name, number, language, code)


BLOCKS = [block for page in PAGES for block in blocks(page)]


def of(*languages: str) -> list[Block]:
    return [block for block in BLOCKS if block.language in languages]


def test_each_block_is_in_a_language_that_a_test_reads() -> None:
    read = {"console", "sql", "python", "py", "sh", "yaml", "ini", "toml", "", *NO_PROGRAM_FOR}
    assert {block.language for block in BLOCKS} - read == set()


# --- commands ------------------------------------------------------------------------------------------------------------


def calls(line: str) -> Iterator[list[str]]:
    """The calls of pgvigil in a line of a shell, without redirections, comments and the rest of a pipeline."""
    lexer = shlex.shlex(line, posix=True, punctuation_chars="|;&<>")
    lexer.whitespace_split, lexer.commenters = True, "#"
    words: list[str] = []
    for word in [*lexer, ";"]:
        if set(word) <= set("|;&<>"):
            if call := call_in(words):
                yield call
            words = []
        else:
            words.append(word)


def call_in(words: list[str]) -> list[str]:
    for place, word in enumerate(words):
        name = word.rpartition("/")[2]
        if name == "pgvigil":
            return words[place + 1 :]
        if word.startswith("scripts/") and (program := PROGRAMS.get(word)):
            return [*program, *words[place + 1 :]]
    return []


def shown_commands(page: Path) -> set[str]:
    text = page.read_text()
    lines = {
        line[2:]
        for block in blocks(page)
        if block.language == "console"
        for line in block.code.splitlines()
        if line.startswith("$ ")
    }
    lines |= {line.partition("=")[2] for line in text.splitlines() if line.startswith("ExecStart=")}
    prose = re.sub(r"^```.*?^```$", "", text, flags=re.MULTILINE | re.DOTALL)
    inline = {" ".join(code.split()) for code in re.findall(r"`((?:scripts/)?pgvigil [^`]+)`", prose)}
    return {line for line in lines | inline if ("…" not in line and "pgvigil" in line) or "scripts/" in line}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_command_of_a_page_is_one_that_can_be_typed(page: Path, capsys: pytest.CaptureFixture[str]) -> None:
    wrong = {}
    for line in shown_commands(page):
        for call in calls(line):
            if call[:1] in ([], ["…"]) or call[0] in ("--help", "--version") or "--help" in call:
                continue
            # `pgvigil backup` in a sentence names a command; alone it would want an action.
            if call[0] in commands.names() and len(call) == 1:
                continue
            try:
                parser.build(call).parse_args(call)
            except SystemExit:
                wrong[line] = capsys.readouterr().err.splitlines()[-1:]
    assert wrong == {}


# --- SQL, Python, settings ---------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", [block for block in of("sql") if block.page != "queries.md"], ids=str)
def test_sql_of_a_page_runs(migrated: Database, block: Block) -> None:
    """Run it in a transaction that is rolled back. SQL of queries.md has parameters, and a test of its own,
    test_queries.py.
    """
    code = re.sub(r"^(?:--[^\n]*\n|\s)+", "", block.code)
    of_other_tables = block.code.startswith("-- pgvigil: allow")  # a migration of somebody's, with a mark for lint
    if of_other_tables or any(code.startswith(first) for first in ELSEWHERE):
        return
    if re.search(r"^CALL ", code, re.MULTILINE):  # a job commits after each of its batches
        for statement in re.split(r"(?<=;)(?:[ \t]*--[^\n]*)?\n", code):
            migrated.execute(statement or "SELECT")
        return
    with migrated.connect(autocommit=False) as connection:
        connection.execute("CREATE ROLE app")
        connection.execute(block.code.replace("'…'", "(SELECT id FROM sessions LIMIT 1)").encode())
        connection.rollback()


@pytest.mark.parametrize("first", ELSEWHERE)
def test_sql_that_is_run_elsewhere_is_still_on_a_page(first: str) -> None:
    assert any(first in block.code for block in of("sql"))


def test_python_of_a_page_is_run_by_a_test() -> None:
    for block in of("python"):
        assert block.page in RUN_BY, f"docs/{block.page} has Python that no test runs"
        test = PROJECT / "tests" / RUN_BY[block.page]
        assert block.page in test.read_text(), f"{test.name} does not read docs/{block.page}"


@pytest.mark.parametrize("block", of("py", "sh", "yaml", "ini", "toml"), ids=str)
def test_a_file_to_copy_can_be_read(block: Block) -> None:
    if block.language == "py":
        compile(block.code, block.page, "exec")
    elif block.language == "yaml":
        assert [*yaml.safe_load_all(block.code)]
    elif block.language == "toml":
        assert tomllib.loads(block.code)
    elif block.language == "ini":
        settings = configparser.ConfigParser(interpolation=None)
        settings.read_string(block.code)
        assert settings.sections()
    else:
        assert subprocess.run(["/bin/bash", "-n"], input=block.code, text=True, check=False).returncode == 0


# --- the first screen --------------------------------------------------------------------------------------------------------

FIRST_SCREEN = (PROJECT / "README.md").read_text().splitlines()[:60]


def test_the_query_of_the_first_screen_has_the_columns_that_are_shown(migrated: Database) -> None:
    at, query = next((at, line) for at, line in enumerate(FIRST_SCREEN) if line.startswith("app=> "))
    with migrated.connect() as connection:
        columns = connection.execute(query.removeprefix("app=> ").encode()).description or []
    assert [column.name for column in columns] == [name.strip() for name in FIRST_SCREEN[at + 1].split("|")]


@pytest.mark.parametrize("page", ["README.md", "docs/health.md"])
def test_health_finds_what_a_page_shows(fresh: Database, call: Run, page: str) -> None:
    fresh.execute("ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle")
    sample = (PROJECT / page).read_text().partition("$ pgvigil health\n")[2].partition("\n```")[0]
    said = call("pgvigil", "health", "--database-url", fresh.url).stdout
    for line in sample.removesuffix("…").splitlines():
        assert line.startswith("database ") or line in said.splitlines(), line


@pytest.mark.parametrize(
    "answer",
    [
        "four PostgreSQL tables",  # what, and for whom
        "Needs Linux and Python",
        "pip install 'pgvigil[embedded]'",
        "$ pgvigil setup",
        "scripts/setup-enhanced-db.sh",
        "scripts/test.sh",
        "pgvigil migrate --dry-run",
        "pgvigil revert --to base",  # the way back
        "**What it costs**",
        "**What it is not**",
        "**Maturity**",
    ],
)
def test_the_first_screen_answers_what_a_person_asks_first(answer: str) -> None:
    assert answer in "\n".join(FIRST_SCREEN)


# --- the tutorial ------------------------------------------------------------------------------------------------------------

TUTORIAL = PROJECT / "docs/tutorial.md"


def test_the_tutorial_runs_word_by_word(run: Run, tmp_path: Path, home: Path) -> None:
    for name, code in re.findall(r'```sql title="(.*?)"\n(.*?)```', TUTORIAL.read_text(), re.DOTALL):
        (tmp_path / name).write_text(code)
    steps: list[tuple[str, list[str]]] = []
    for block in blocks(TUTORIAL):
        for line in block.code.splitlines() if block.language == "console" else []:
            if line.startswith("$ "):
                steps.append((line[2:], []))
            else:
                steps[-1][1].append(line.rstrip())
    assert steps.pop(0)[0] == "pip install 'pgvigil[embedded]'"  # test_package.py does
    mark = "--- next ---"
    script = "\n".join(f"echo '{mark}'\n{command} || exit" for command, _ in steps)
    program = f'exec 2>&1\npgvigil() {{ "{sys.executable}" -P -m pgvigil "$@"; }}\n'
    done = run("/bin/bash", "-c", program + script, cwd=tmp_path, env={"PGVIGIL_BACKUP_DIR": str(tmp_path / "backups")})
    assert done.returncode == 0, done.stdout[-2000:] + done.stderr[-2000:]
    for (command, shown), said in zip(steps, done.stdout.split(f"{mark}\n")[1:], strict=True):
        found = "\n".join(line.rstrip() for line in said.rstrip().splitlines())
        pattern = re.escape("\n".join(shown)).replace("…", ".*")
        assert re.fullmatch(f"{pattern}\\s*", f"{found}\n", re.DOTALL), f"{command}\nshown:\n{shown}\nsaid:\n{found}"
    assert home.is_dir()


# --- with Alembic ------------------------------------------------------------------------------------------------------------


def _differences(database: Database, models: MetaData, **options: object) -> list[object]:
    engine = create_engine(database.url.replace("postgresql://", "postgresql+psycopg://"))
    with engine.connect() as connection:
        context = MigrationContext.configure(connection, opts={"compare_type": True, **options})
        found = autogenerate.compare_metadata(context, models)
    engine.dispose()
    return found


@pytest.fixture
def models(existing: Database) -> MetaData:
    """An application's: the tables as they were before pgvigil came."""
    engine = create_engine(existing.url.replace("postgresql://", "postgresql+psycopg://"))
    found = MetaData()
    found.reflect(engine)
    engine.dispose()
    return found


@pytest.mark.filterwarnings("ignore:.*expression-based index.*")
def test_autogenerate_leaves_pgvigil_alone(models: MetaData, migrated: Database) -> None:
    assert _differences(migrated, models, include_object=include_object) == []


@pytest.mark.filterwarnings("ignore:.*expression-based index.*")
def test_autogenerate_leaves_hourly_partitions_alone(models: MetaData, migrated: Database) -> None:
    migrated.execute("UPDATE pgvigil.partition_policies SET step = 'hour'")
    [(made,)] = migrated.execute(
        "SELECT pgvigil.ensure_partitions('performance_logs', now() + interval '3 years', now() + interval '3 years 1 hour')"
    )
    assert made
    assert _differences(migrated, models, include_object=include_object) == []


@pytest.mark.filterwarnings("ignore:.*expression-based index.*")
def test_autogenerate_of_all_schemas_leaves_pgvigil_alone(models: MetaData, migrated: Database) -> None:
    def elsewhere(name: str | None, kind: str, _: object) -> bool:
        return kind != "schema" or name in (None, "pgvigil", "instrumentation")

    found = _differences(migrated, models, include_object=include_object, include_schemas=True, include_name=elsewhere)
    assert found == []


@pytest.mark.filterwarnings("ignore:.*expression-based index.*")
def test_autogenerate_would_drop_pgvigil_without_it(models: MetaData, migrated: Database) -> None:
    told = str(_differences(migrated, models))
    assert all(name in told for name in ("session_lifecycle", "last_activity_at", "idx_sessions_archived_at"))


@pytest.mark.filterwarnings("ignore:.*expression-based index.*")
def test_autogenerate_still_sees_what_is_the_application_s(models: MetaData, migrated: Database) -> None:
    migrated.execute("CREATE TABLE orders (id integer PRIMARY KEY)")
    migrated.execute("ALTER TABLE sessions ADD COLUMN colour text")
    migrated.execute("CREATE INDEX idx_orders ON sessions (agent_to)")
    told = str(_differences(migrated, models, include_object=include_object))
    assert all(name in told for name in ("'orders'", "'colour'", "idx_orders"))


def test_env_py_of_the_page_generates_an_empty_migration(migrated: Database, tmp_path: Path) -> None:
    """Run the env.py of with-other-migrations.md with models of the application's tables, as an application does."""
    [code] = [block.code for block in of("python") if block.page == "with-other-migrations.md"]
    url = migrated.url.replace("postgresql://", "postgresql+psycopg://")
    alembic_command.init(Config(str(tmp_path / "alembic.ini"), stdout=io.StringIO()), str(tmp_path / "migrations"))
    (tmp_path / "migrations/env.py").write_text(code)
    settings = f"[alembic]\nscript_location = {tmp_path}/migrations\nsqlalchemy.url = {url.replace('%', '%%')}\n"
    (tmp_path / "alembic.ini").write_text(settings)
    (tmp_path / "app").mkdir()
    (tmp_path / "app/models.py").write_text(
        "from sqlalchemy import MetaData, create_engine\n"
        "class Base:\n    metadata = MetaData()\n"
        f"Base.metadata.reflect(create_engine({url!r}))\n"
        "for name in [name for name in Base.metadata.tables if name.startswith(('s', 'p')) and name != 'sessions']:\n"
        "    Base.metadata.remove(Base.metadata.tables[name])\n"
    )
    alembic = [sys.executable, "-P", "-m", "alembic", "revision", "--autogenerate", "-m", "nothing"]
    environment = {"PYTHONPATH": f"{tmp_path}:{PROJECT / 'src'}", "PATH": "/usr/bin:/bin"}
    done = subprocess.run(alembic, cwd=tmp_path, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    [made] = (tmp_path / "migrations/versions").glob("*.py")
    assert made.read_text().count("    pass") == 2, made.read_text()


# --- with Django and Prisma --------------------------------------------------------------------------------------------------

_MODELS = """
from django.db import models


class Session(models.Model):
    id = models.UUIDField(primary_key=True)
    session_key = models.CharField(max_length=255, unique=True)

    class Meta:
        db_table = "sessions"


"""
_READ = """
import django
django.setup()
from shop.models import SessionLifecycle
event = SessionLifecycle.objects.select_related("session").latest("id")
print(event.session.session_key, event.event_type)
"""


def test_the_django_model_of_the_page_reads_events_and_makemigrations_finds_nothing_to_do(
    migrated: Database, tmp_path: Path
) -> None:
    python = require_tools() / "python"
    [model] = [block.code for block in of("py") if block.page == "with-other-migrations.md"]
    (tmp_path / "shop/migrations").mkdir(parents=True)
    (tmp_path / "settings.py").write_text(DJANGO_SETTINGS)
    (tmp_path / "shop/__init__.py").touch()
    (tmp_path / "shop/migrations/__init__.py").touch()
    (tmp_path / "shop/models.py").write_text(_MODELS + model)
    environment = {
        "PYTHONPATH": str(tmp_path), "DJANGO_SETTINGS_MODULE": "settings", "PATH": "/usr/bin:/bin",
        "DATABASE_URL": url_for(migrated.tcp_url),
    }  # fmt: skip

    def django(*words: str) -> str:
        done = subprocess.run(
            [python, *words], cwd=tmp_path, env=environment, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    django("-m", "django", "makemigrations", "shop")
    made = django("-m", "django", "sqlmigrate", "shop", "0001")
    assert re.findall(r'CREATE TABLE "(\w+)"', made) == ["sessions"]
    assert "No changes detected" in django("-m", "django", "makemigrations", "--check")
    migrated.execute("INSERT INTO sessions (session_key, agent_from) VALUES ('read by Django', 'a')")
    assert django("-c", _READ) == "read by Django created\n"


def test_the_list_for_prisma_names_each_table_of_pgvigil_in_the_application_s_schema(migrated: Database) -> None:
    """Prisma is not run here: its engine comes from no package registry. Its types (@prisma/config 6.13) have these keys."""
    [code] = [block.code for block in of("ts") if block.page == "with-other-migrations.md"]
    assert re.search(r"experimental: \{ externalTables: true \},\s+tables: \{\s+external: \[", code)
    ours = migrated.execute(
        """SELECT format('public.%s', c.relname) FROM pg_class c
           WHERE c.relnamespace = 'public'::regnamespace AND c.relkind IN ('r', 'p') AND NOT c.relispartition
             AND c.relname NOT IN ('sessions', 'context_history', 'codebase_snapshots', 'handoff_requests', 'app_users')"""
    )
    assert sorted(re.findall(r'"(public\.\w+)"', code)) == sorted(name for (name,) in ours)
