"""The output that the pages show is of the form that the commands print: each line of it, numbers and names apart."""

from __future__ import annotations

import contextlib
import io
import os
import re
from collections.abc import Iterator
from pathlib import Path

import psycopg
import pytest

from conftest import PROJECT, Database, Templates, _new_database
from helpers.archived import old_logs
from helpers.monitor_report import report
from pgvigil import cli

pytestmark = pytest.mark.client_side

# Page, and the command as the page has it.
SHOWN = [
    ("dba.md", "pgvigil migrate"),
    ("README.md", "pgvigil health"),
    ("health.md", "pgvigil health"),
    ("monitor.md", "pgvigil session-monitoring status"),
    ("archives.md", "pgvigil maintain run archive"),
    ("archives.md", "pgvigil maintain run retention"),
    ("sessions.md", "pgvigil sessions list"),
    ("backup.md", "pgvigil backup list"),
    ("backup.md", "pgvigil backup record"),
    ("ci.md", ""),  # a block with the findings alone
    ("lint.md", ""),
    ("maintenance.md", "pgvigil maintain preview"),
    ("maintenance.md", "pgvigil maintain accept orphans"),
    ("maintenance.md", "pgvigil maintain status"),
    ("metrics.md", "pgvigil metrics-files"),
    ("profiling.md", "pgvigil profile"),
    ("profiling.md", "pgvigil explain"),
]
# Shown by a page and printed in circumstances that their own tests make.
ELSEWHERE = {
    "api.md": "tests/web/test_web_serve.py",
    "performance.md": "benchmarks/: measured on one machine",
    "telemetry-server.md": "tests/archives/test_telemetry_server.py: two databases",
    "tutorial.md": "tests/checkout/test_docs.py runs it word by word",
    "your-own-migrations.md": "tests/projects/test_project_docs.py",
}


def blocks(page: str) -> list[str]:
    path = PROJECT / page if page == "README.md" else PROJECT / "docs" / page
    found = re.findall(r"^```(\w*)[^\n]*\n(.*?)^```$", path.read_text(), re.MULTILINE | re.DOTALL)
    return [code for language, code in found if language in ("", "console")]


def shown(page: str, command: str) -> list[str]:
    """Return the output that a page shows below a command, or its first block without a command."""
    if not command:
        return next(block.splitlines() for block in blocks(page) if "$ " not in block)
    for block in blocks(page):
        for below in block.split(f"$ {command}")[1:]:
            if lines := below.partition("\n$ ")[0].splitlines()[1:]:
                return [line for line in lines if line not in ("", "…")]
    raise AssertionError(f"docs/{page} shows no output of {command!r}")


def form(line: str) -> str:
    """A line without what differs from day to day: words with a digit are 0, runs of blanks one blank."""
    line = re.sub(r"█+", "█", re.sub(r"\b[kMG]B\b", "MB", line))
    return " ".join(re.sub(r"[^\s(]*\d[^\s:;)]*", "0", line).split())


class Terminal(io.StringIO):
    """A stream on which bars are drawn."""

    def isatty(self) -> bool:
        return True


class Printed:
    """The output of the commands of SHOWN, run one after the other on one database."""

    def __init__(self, database: Database, place: Path) -> None:
        self.database = database
        self.place = place
        self.said: dict[tuple[str, str], str] = {}

    def call(self, *words: str, target: bool = True) -> str:
        out, err = Terminal(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            cli.main([*words, *(["--database-url", self.database.url] if target else [])])
        said = re.sub(r" --database-url '[^']*'", "", err.getvalue() + out.getvalue())
        said = re.sub(r"(PostgreSQL [\d.]+) \(.*\)$", r"\1", said, flags=re.MULTILINE)  # whose package the server is of
        for name, called in (
            (self.database.name, "app"),
            (f"{self.place}", "…"),
            ("as postgres (--database-url)", "as app_owner (DATABASE_URL)"),
        ):
            said = said.replace(name, called)
        return said

    def run(self) -> None:
        said, execute = self.said, self.database.execute
        said["dba.md", "pgvigil migrate"] = self.call("migrate")
        said["maintenance.md", "pgvigil maintain preview"] = self.call("maintain", "preview")
        said["maintenance.md", "pgvigil maintain accept orphans"] = self.call("maintain", "accept", "orphans")
        self.call("maintain", "accept", "expiry")
        self.call("maintain", "run", "expiry")
        self.call("maintain", "run", "backup")
        execute(
            """INSERT INTO pgvigil.job_runs (job, started_at, finished_at, rows, notes, error)
               VALUES ('reindex', now() - interval '1 hour', now(), 29, '{rebuilt 29 indexes}',
                       '1 of 30 were passed over: public.context_history_pkey has waited 3600 s for pid 1 (report, psql, idle in transaction), and')"""
        )
        said["maintenance.md", "pgvigil maintain status"] = self.call("maintain", "status")
        self.call("backup", "create", "--verify-backup", "read")
        said["backup.md", "pgvigil backup list"] = self.call("backup", "list", target=False)
        recorded = self.call("backup", "record", "--external", "pgBackRest 20261121-010002F")
        said["backup.md", "pgvigil backup record"] = recorded
        said["metrics.md", "pgvigil metrics-files"] = self.call("metrics-files", str(self.place / "m"), target=False)
        statement = "SELECT * FROM context_history WHERE session_id = $1"
        session = str(execute("SELECT session_id FROM context_history LIMIT 1")[0][0])
        said["profiling.md", "pgvigil profile"] = self.call("profile", "-n", "50", "-p", session, statement)
        execute(
            """CREATE TABLE orders (id bigint, customer_id bigint, t text);
               INSERT INTO orders SELECT n, n % 5000, repeat('x', 500) FROM generate_series(1, 40000) n;
               ANALYZE orders"""
        )
        explained = self.call("explain", "SELECT * FROM orders WHERE customer_id = 17")
        said["profiling.md", "pgvigil explain"] = explained
        execute(
            """DROP INDEX idx_sessions_archived_at; ALTER TABLE system_metrics ALTER labels DROP DEFAULT;
               ALTER TABLE sessions DISABLE TRIGGER log_session_lifecycle"""
        )
        said["ci.md", ""] = self.call("validate")
        said["README.md", "pgvigil health"] = said["health.md", "pgvigil health"] = re.sub(
            r", \d+ warning", "", self.call("health")
        )
        folder = self.place / "db/migrations"
        folder.mkdir(parents=True)
        (folder / "001_orders.sql").write_text("CREATE TABLE orders (id bigint PRIMARY KEY, state text);")
        (folder / "007_status.sql").write_text("\n\nALTER TABLE orders ALTER COLUMN state SET NOT NULL;\n")
        said["lint.md", ""] = self.call("lint", str(folder), target=False)
        for _ in range(4):
            report(self.database, errors=0)
        monitored = self.call("session-monitoring", "status").replace("login postgres", "login shop_app")
        said["monitor.md", "pgvigil session-monitoring status"] = monitored
        self.archives()
        self.sessions()

    def archives(self) -> None:
        """The rows of a day that is long over go into files, then out of the table."""
        said = self.said
        old_logs(self.database)
        self.database.execute(
            "UPDATE pgvigil.retention_policies SET keep_archive = true WHERE policy = 'standard'; SELECT pgvigil.accept_job('all')"
        )
        self.call("backup", "create")
        files = self.call("maintain", "run", "archive", "--archive-to", str(self.place / "archives"))
        said["archives.md", "pgvigil maintain run archive"] = files
        said["archives.md", "pgvigil maintain run retention"] = self.call("maintain", "run", "retention")

    def sessions(self) -> None:
        """A session that an application has registered; tests/diagnostics/test_sessions.py ends one and follows one."""
        with psycopg.connect(self.database.tcp_url, application_name="web", autocommit=True) as shop:
            shop.execute(
                "SELECT instrumentation.register_session(instrumentation.register_instance('host'), peer => '10.0.0.7:49354')"
            )
            shop.execute("SELECT instrumentation.record_statement('SELECT … FOR UPDATE', 'executing')")
            listed = self.call("sessions", "list").replace("postgres (web)", "shop (web)")
            self.said["sessions.md", "pgvigil sessions list"] = listed


@pytest.fixture(scope="module")
def printed(templates: Templates, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Printed]:
    place = tmp_path_factory.mktemp("shown")
    with _new_database(templates.server, templates.get("existing")) as database, pytest.MonkeyPatch.context() as patch:
        for name in [
            name for name in os.environ if name.startswith("PG") and name.isupper() and name != "PG_MATRIX_DIR"
        ]:
            patch.delenv(name)
        patch.setenv("PGVIGIL_BACKUP_DIR", str(place / "backups"))
        patch.setenv("NO_COLOR", "1")
        made = Printed(database, place)
        made.run()
        yield made


@pytest.mark.parametrize(("page", "command"), SHOWN)
def test_each_line_of_output_that_a_page_shows_is_one_that_is_printed(
    printed: Printed, page: str, command: str
) -> None:
    said = printed.said[page, command]
    lines = [form(line) for line in said.splitlines()]
    for line in shown(page, command):
        pattern = re.escape(form(re.sub("(/home|/etc)[a-z/.]*/pgvigil", "…", line))).replace("…", ".*")
        assert any(re.fullmatch(pattern, one) for one in lines), f"shown: {form(line)}\nprinted:\n{said}"


def test_each_page_that_shows_output_is_compared() -> None:
    compared = {page for page, _ in SHOWN} | ELSEWHERE.keys()
    for path in sorted((PROJECT / "docs").glob("*.md")):
        for block in blocks(path.name) if path.name != "reference.md" else []:
            lines = block.splitlines()
            if lines[0].startswith("$ ") and any(not re.match(r"\$ |[#>]| {4}|\*/5", line) for line in lines if line):
                assert path.name in compared, f"docs/{path.name} shows output that no test compares:\n{block}"
