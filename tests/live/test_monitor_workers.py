"""Test the sum over all workers of an application: reports, forks, lost answers, the command lines of pgvigil and of
Flask.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import textwrap
import threading
from collections.abc import Iterator
from contextlib import suppress
from itertools import count
from pathlib import Path
from typing import Any

import psycopg
import pytest
from sqlalchemy import create_engine, select
from sqlalchemy.orm import sessionmaker

from conftest import PROJECT, Database, Templates, _new_database, wait_until
from pgvigil import cli, database
from pgvigil.live import Recorder, SessionPerformanceMonitor, initialize_performance_monitoring
from pgvigil.live import monitor as monitor_module
from pgvigil.live.monitor_report import Reporter
from pgvigil.live.recorder import counts_of_process

numbers = count(1)


@pytest.fixture(scope="module")
def reports(templates: Templates) -> Iterator[Database]:
    """A database for all tests of this file; each has an application of its own in it."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        yield new


@pytest.fixture
def application() -> str:
    return f"app{next(numbers)}"


@pytest.fixture
def alone(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The monitor of this process is the test's own."""
    made = SessionPerformanceMonitor()
    monkeypatch.setattr(monitor_module, "of_this_process", made)
    yield
    made.close()


class Worker:
    """A reporter without its thread: the test decides when it reports."""

    def __init__(self, reports: Database, application: str, interval: float = 10.0) -> None:
        self.counters: dict[str, int] = {}
        self.told: list[float | None] = []
        target = database.parse_url(reports.url, "test")
        self.reporter = Reporter(target, application, interval, self.state, self.gauges, self.told.append)

    def state(self) -> Any:
        return dict(self.counters), {"session": [self.counters.get("commits", 0)] + [0] * 15}

    def gauges(self) -> dict[str, float | None]:
        return {"active_sessions": 1, "busiest_process": 1, "overflow/default": None}

    def commit(self, number: int = 1) -> None:
        self.counters["commits"] = self.counters.get("commits", 0) + number

    def report(self, *, ended: bool = False) -> None:
        self.reporter.report(ended=ended)


def picture(reports: Database, application: str) -> tuple[int, int]:
    """Return the number of workers, and the commits of all."""
    rows = reports.execute(
        "SELECT workers, coalesce((counters ->> 'commits')::bigint, 0) FROM pgvigil.session_monitor WHERE application = %s",
        (application,),
    )
    return rows[0] if rows else (0, 0)


def rows_of(reports: Database, application: str) -> int:
    return int(
        reports.execute("SELECT count(*) FROM pgvigil.session_monitors WHERE application = %s", (application,))[0][0]
    )


def unseen_for(reports: Database, application: str, interval: str) -> None:
    reports.execute(
        "UPDATE pgvigil.session_monitors SET seen_at = seen_at - %s::interval WHERE application = %s",
        (interval, application),
    )


# --- reports ---------------------------------------------------------------------------------------------------------


def test_workers_are_added_up_and_an_ended_one_leaves_its_counts_only(reports: Database, application: str) -> None:
    first, second = Worker(reports, application), Worker(reports, application)
    for worker in (first, second):
        worker.commit(5)
        worker.report()
    assert picture(reports, application) == (2, 10)
    first.commit()
    first.report(ended=True)
    assert (picture(reports, application), rows_of(reports, application)) == ((1, 11), 1)


def test_a_report_that_is_lost_is_made_good_by_the_next(
    reports: Database, application: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    worker = Worker(reports, application)
    worker.commit(3)
    with monkeypatch.context() as away:
        away.setattr(database, "open_connection", lambda *_: (_ for _ in ()).throw(psycopg.OperationalError("away")))
        with pytest.raises(psycopg.OperationalError):
            worker.report()
    worker.commit(4)
    worker.report()
    assert picture(reports, application) == (1, 7)


def test_a_worker_that_was_folded_goes_on_without_counting_twice(reports: Database, application: str) -> None:
    frozen, other = Worker(reports, application), Worker(reports, application)
    frozen.commit(5)
    frozen.report()
    unseen_for(reports, application, "2 hours")
    other.commit()
    other.report()
    assert picture(reports, application) == (1, 6)
    before = frozen.reporter.id
    frozen.commit(2)
    frozen.report()
    assert (picture(reports, application), frozen.reporter.id != before) == ((2, 8), True)
    unseen_for(reports, application, "2 hours")
    other.report()
    frozen.report()
    assert picture(reports, application) == (2, 8)


@pytest.mark.parametrize("reached", [True, False])
def test_what_was_sent_without_an_answer_is_not_counted_twice(
    reports: Database, application: str, reached: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The commit was lost on the way, or its answer was; then the worker is frozen for so long that its row is folded."""
    worker, other = Worker(reports, application), Worker(reports, application)
    worker.commit(5)
    worker.report()
    worker.commit(3)
    with monkeypatch.context() as cut:
        plain = psycopg.Connection.execute

        def execute(self: Any, query: Any, *more: Any, **options: Any) -> Any:
            if query == b"COMMIT" and "report_monitor" in asked[-1]:
                if reached:
                    plain(self, query)
                raise psycopg.OperationalError("cut")
            asked.append(str(query))
            return plain(self, query, *more, **options)

        asked = [""]
        cut.setattr(psycopg.Connection, "execute", execute)
        with pytest.raises(psycopg.OperationalError):
            worker.report()
    unseen_for(reports, application, "2 hours")
    other.report()
    worker.commit(2)
    worker.report()
    # Three that may or may not be in the totals: where they are not, they are lost rather than counted twice.
    assert picture(reports, application) == (2, 10 if reached else 7)


def test_the_sum_never_falls_while_workers_end_and_are_folded(reports: Database, application: str) -> None:
    """Read on one connection all the time, while workers report, end, or die."""
    over, fell, asked = threading.Event(), [], count()

    def watch() -> None:
        with reports.connect() as connection:
            last = 0
            while not over.is_set():
                row = connection.execute(
                    "SELECT (counters ->> 'commits')::bigint FROM pgvigil.session_monitor WHERE application = %s",
                    (application,),
                ).fetchone()
                next(asked)
                if row and row[0] is not None:
                    fell.extend([(last, row[0])] if row[0] < last else [])
                    last = row[0]

    watcher = threading.Thread(target=watch)
    watcher.start()
    for round_ in range(12):
        worker = Worker(reports, application)
        worker.commit(round_ + 1)
        worker.report()
        worker.commit()
        worker.report(ended=bool(round_ % 3))
        if round_ % 4 == 0:
            unseen_for(reports, application, "2 hours")
    over.set()
    watcher.join()
    assert (fell, picture(reports, application)[1]) == ([], sum(range(1, 13)) + 12)
    assert next(asked) > 10


def test_reports_are_hot_updates(reports: Database, application: str) -> None:
    worker = Worker(reports, application)
    with reports.connect() as connection:
        connection.execute("VACUUM pgvigil.session_monitors")
    for _ in range(5):
        worker.commit()
        worker.report()
    with reports.connect() as connection:
        same_page = connection.execute(
            "SELECT count(*) FROM pgvigil.session_monitors WHERE application = %s AND ctid::text LIKE '(0,%%'",
            (application,),
        ).fetchone()
    assert same_page == (1,)


# --- an application ----------------------------------------------------------------------------------------------------


@pytest.mark.usefixtures("alone")
def test_an_application_reports_by_one_call(reports: Database, application: str) -> None:
    engine = create_engine(reports.url.replace("postgresql://", "postgresql+psycopg://"))
    factory = sessionmaker(engine)
    monitor = initialize_performance_monitoring(None, factory, engine, application=application, interval=0.05)
    with factory() as session:
        session.execute(select(1))
        session.commit()
    wait_until(lambda: picture(reports, application) == (1, 1))
    with factory() as session:
        session.execute(select(1))
        session.commit()
    monitor.close()
    assert (picture(reports, application), rows_of(reports, application)) == ((0, 2), 0)
    engine.dispose()


@pytest.mark.usefixtures("alone")
def test_an_engine_of_another_database_reports_where_it_is_told(reports: Database, application: str) -> None:
    engine = create_engine("sqlite://")
    assert initialize_performance_monitoring(None, sessionmaker(engine), engine).reporter is None
    monitor = initialize_performance_monitoring(
        None, None, engine, application=application, database_url=reports.url, interval=0.05
    )
    wait_until(lambda: picture(reports, application) == (1, 0))
    monitor.close()


@pytest.mark.usefixtures("alone")
def test_a_database_that_is_not_there_is_logged_once_and_harms_nothing(
    application: str, caplog: pytest.LogCaptureFixture
) -> None:
    engine = create_engine("sqlite://")
    factory = sessionmaker(engine)
    monitor = initialize_performance_monitoring(
        None,
        factory,
        engine,
        application=application,
        database_url="postgresql://u:secret@127.0.0.1:1/db",
        interval=0.01,
    )
    wait_until(lambda: caplog.messages)
    for _ in range(3):
        factory().close()
    assert monitor.get_current_metrics()["session_metrics"]["closures"] == 3
    monitor.close()
    assert len(caplog.messages) == 1
    assert "secret" not in caplog.text


def test_a_database_that_is_not_migrated_is_named_with_what_to_do(
    database: Database, caplog: pytest.LogCaptureFixture
) -> None:
    worker = Worker(database, "shop", 0.01)
    worker.reporter.start()
    wait_until(lambda: caplog.messages)
    worker.reporter.abandon()
    assert "pgvigil migrate" in caplog.messages[0]


def test_the_interval_of_logging_comes_from_the_database(reports: Database, application: str) -> None:
    worker = Worker(reports, application)
    worker.report()
    assert cli.main(["session-monitoring", "enable-periodic-logging", "--application", application, "--interval", "60",
                     "--database-url", reports.url]) == 0  # fmt: skip
    worker.report()
    assert cli.main(["session-monitoring", "enable-periodic-logging", "--application", application, "--interval", "0",
                     "--database-url", reports.url]) == 0  # fmt: skip
    worker.report()
    assert worker.told == [None, 60.0, None]


def test_a_worker_that_is_told_logs_its_summary(caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level("INFO")
    monitor = SessionPerformanceMonitor()
    monitor._set_database_interval(60)
    monitor.tick()
    assert caplog.messages == []
    monitor._logged_at -= 61
    monitor.tick()
    monitor.tick()
    assert len(caplog.messages) == 1
    monitor._set_database_interval(None)
    monitor._logged_at -= 61
    monitor.tick()
    assert len(caplog.messages) == 1


def test_the_history_of_an_application_goes_to_system_metrics(
    reports: Database, application: str, tmp_path: Path
) -> None:
    with Recorder(reports.url, spill_directory=tmp_path / "spill") as recorder:
        monitor = SessionPerformanceMonitor()
        monitor.application, monitor._recorder = application, recorder
        monitor.record_session_creation(0.1)
        monitor.record_history()
        monitor.record_session_creation(0.1)
        monitor.record_session_creation(0.1)
        monitor.record_history()
        monitor.close()
        assert recorder.flush() == "written"
    found = reports.execute(
        """SELECT metric_value::integer, metric_type FROM system_metrics
           WHERE metric_name = 'session_monitor.creations' AND labels ->> 'application' = %s ORDER BY id""",
        (application,),
    )
    assert found == [(1, "counter"), (2, "counter")]


@pytest.mark.usefixtures("alone")
def test_a_worker_reports_what_its_recorders_wrote_also_those_that_are_closed(
    reports: Database, application: str, tmp_path: Path
) -> None:
    (before, _), engine = (
        counts_of_process(),
        create_engine(reports.url.replace("postgresql://", "postgresql+psycopg://")),
    )
    monitor = initialize_performance_monitoring(
        None, sessionmaker(engine), engine, application=application, interval=3600
    )
    with Recorder(reports.url, spill_directory=tmp_path / "closed", metrics_interval=0) as closed:
        closed.record_metric("m", 1)
    with Recorder(reports.url, spill_directory=tmp_path / "open", metrics_interval=0) as recorder:
        recorder.record_metric("m", 1)
        recorder.record_metric("m", 1)
        assert recorder.flush() == "written"
        monitor.close()
    closed.record_metric("too late", 1)
    [(written,)] = reports.execute(
        "SELECT (counters ->> 'recorder/written')::integer FROM pgvigil.session_monitor WHERE application = %s",
        (application,),
    )
    assert written - before["written"] == 3
    engine.dispose()


PARENT = """
    import os, sys
    from pathlib import Path
    from pgvigil.live import Recorder
    from pgvigil.live.recorder import counts_of_process
    with Recorder(sys.argv[1], spill_directory=Path(sys.argv[2]), metrics_interval=0) as recorder:
        recorder.record_metric("m", 1)
    if child := os.fork():
        os.waitpid(child, 0)
    print(counts_of_process()[0]["written"], flush=True)
    if not child:
        os._exit(0)
"""


def test_a_forked_worker_does_not_report_what_its_parent_wrote(reports: Database, tmp_path: Path) -> None:
    command = [sys.executable, "-P", "-c", textwrap.dedent(PARENT), reports.url, str(tmp_path / "spill")]
    done = subprocess.run(command, env={"PYTHONPATH": "src"}, cwd=PROJECT, check=True, capture_output=True, text=True)
    assert done.stdout.split() == ["0", "1"], done.stderr


# --- forks -----------------------------------------------------------------------------------------------------------

PRELOADED = """
    import multiprocessing, os, sys
    from sqlalchemy import create_engine, select
    from sqlalchemy.orm import sessionmaker
    from pgvigil.live import initialize_performance_monitoring
    engine = create_engine("sqlite://")
    factory = sessionmaker(engine)
    monitor = initialize_performance_monitoring(
        None, factory, engine, database_url=sys.argv[1], application=sys.argv[2], interval=30
    )
    together = multiprocessing.Barrier(3)
    def work(n):
        for _ in range(n):
            with factory() as session:
                session.execute(select(1))
                session.commit()
    work(1)
    children = []
    for n in (10, 20, 30):
        if (pid := os.fork()) == 0:
            work(n)
            monitor.reporter.report()
            together.wait()
            sys.exit()
        children.append(pid)
    for pid in children:
        os.waitpid(pid, 0)
"""


def test_forked_workers_report_what_they_counted_themselves(reports: Database, application: str) -> None:
    environment = {**os.environ, "PYTHONPATH": str(PROJECT / "src")}
    done = subprocess.run(
        [sys.executable, "-c", textwrap.dedent(PRELOADED), reports.url, application],
        env=environment, capture_output=True, text=True, timeout=60, check=False,
    )  # fmt: skip
    assert (done.returncode, done.stderr) == (0, "")
    assert (picture(reports, application), rows_of(reports, application)) == ((0, 61), 0)
    assert reports.execute(
        "SELECT workers FROM pgvigil.session_monitor_totals WHERE application = %s", (application,)
    ) == [(4,)]


WSGI = """
    import sys
    from sqlalchemy import create_engine, select
    from sqlalchemy.orm import sessionmaker
    from pgvigil.live import initialize_performance_monitoring
    engine = create_engine("sqlite://")
    factory = sessionmaker(engine)
    initialize_performance_monitoring(None, factory, engine, database_url={url!r}, application={name!r}, interval=0.1)
    def app(environ, start_response):
        with factory() as session:
            session.execute(select(1))
            session.commit()
        start_response("200 OK", [("Content-Type", "text/plain")])
        return [b"ok"]
"""


def test_four_preloaded_workers_of_gunicorn_count_each_request_once(
    reports: Database, application: str, tmp_path: Path
) -> None:
    pytest.importorskip("gunicorn")
    import http.client
    import signal
    import socket

    (tmp_path / "shop.py").write_text(textwrap.dedent(WSGI.format(url=reports.url, name=application)))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "gunicorn", "-w", "4", "-b", f"127.0.0.1:{port}", "--worker-tmp-dir", str(tmp_path),
               "--preload", "shop:app"]  # fmt: skip
    environment = {**os.environ, "PYTHONPATH": f"{PROJECT / 'src'}:{tmp_path}"}
    server = subprocess.Popen(command, env=environment, cwd=tmp_path, stderr=subprocess.PIPE)

    def ask(number: int) -> None:
        for _ in range(number):
            connection = http.client.HTTPConnection("127.0.0.1", port, timeout=30)
            connection.request("GET", "/")
            assert connection.getresponse().status == 200
            connection.close()

    def answers() -> bool:
        with suppress(OSError):
            socket.create_connection(("127.0.0.1", port)).close()
            return True
        return False

    def workers() -> list[int]:
        return [pid for (pid,) in reports.execute(
            "SELECT pid FROM pgvigil.session_monitors WHERE application = %s AND counters ? 'commits'", (application,)
        )]  # fmt: skip

    try:
        wait_until(answers)
        clients = [threading.Thread(target=ask, args=(50,)) for _ in range(4)]
        for client in clients:
            client.start()
        for client in clients:
            client.join()
        wait_until(lambda: picture(reports, application)[1] == 200)
        killed = workers()[0]
        os.kill(killed, signal.SIGKILL)  # its row stays, with all that it had reported
        ask(100)
        wait_until(lambda: picture(reports, application)[1] == 300)
        # one worker may have answered all the first requests, so who is alive is read now
        alive = next(pid for pid in workers() if pid != killed)
        os.kill(alive, signal.SIGSTOP)
        assert picture(reports, application)[1] == 300
        os.kill(alive, signal.SIGCONT)
        ask(100)
        wait_until(lambda: picture(reports, application)[1] == 400)
    finally:
        server.terminate()
        _, told = server.communicate(timeout=30)
    assert picture(reports, application)[1] == 400, told.decode()


# --- the command line ------------------------------------------------------------------------------------------------


def run(capsys: pytest.CaptureFixture[str], reports: Database, *words: str) -> tuple[int, str, str]:
    capsys.readouterr()
    code = cli.main(["session-monitoring", *words, "--database-url", reports.url])
    out, err = capsys.readouterr()
    return code, out, err


@pytest.mark.parametrize("action", ["status", "summary", "metrics", "alerts"])
def test_without_a_worker_nothing_is_shown_but_that(
    reports: Database, application: str, action: str, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, reports, action, "--application", application)
    assert (code, out) == (3, "")
    assert f'no worker of application "{application}" has ever reported' in err


def test_a_worker_that_is_silent_for_three_intervals_is_no_worker(
    reports: Database, application: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Worker(reports, application).report()
    assert run(capsys, reports, "status", "--application", application)[0] == 0
    unseen_for(reports, application, "31 seconds")
    code, out, err = run(capsys, reports, "status", "--application", application)
    assert (code, out) == (3, "")
    assert "within three of its intervals: the last at" in err


def test_the_metrics_of_all_workers_are_one_document(
    reports: Database, application: str, capsys: pytest.CaptureFixture[str]
) -> None:
    for commits in (3, 4):
        worker = Worker(reports, application)
        worker.commit(commits)
        worker.report()
    code, out, _ = run(capsys, reports, "metrics", "--format", "json", "--application", application)
    [found] = json.loads(out)["applications"]
    assert (code, found["workers"], found["status"], found["session_metrics"]["commits"]) == (0, 2, "healthy", 7)
    code, out, _ = run(capsys, reports, "metrics", "--application", application)
    assert "  session_metrics.commits 7\n" in out
    for action, words in (("status", "2 workers"), ("summary", "7 committed")):
        assert words in run(capsys, reports, action, "--application", application)[1]


def test_alerts_are_exit_code_1(reports: Database, application: str, capsys: pytest.CaptureFixture[str]) -> None:
    worker = Worker(reports, application)
    worker.counters = {"creations": 100, "errors": 4}
    worker.report()
    assert run(capsys, reports, "alerts", "--application", application)[:2] == (0, "no alerts\n")
    worker.counters["errors"] = 20
    worker.report()
    code, out, _ = run(capsys, reports, "alerts", "--application", application, "--format", "json")
    [alert] = json.loads(out)["alerts"]
    assert (code, alert["type"], alert["severity"], alert["value"]) == (1, "high_error_rate", "critical", 0.2)


@pytest.mark.parametrize("threshold", ["0", "-1", "abc", "nan", "inf"])
def test_a_threshold_that_is_no_time_is_refused(reports: Database, threshold: str) -> None:
    assert cli.main(["session-monitoring", "alerts", f"--threshold={threshold}", "--database-url", reports.url]) == 2


@pytest.mark.parametrize("interval", ["-5", "0.5", "100000", "abc"])
def test_an_interval_that_cannot_be_is_refused(reports: Database, interval: str) -> None:
    words = ["session-monitoring", "enable-periodic-logging", "--application", "x", f"--interval={interval}"]
    assert cli.main([*words, "--database-url", reports.url]) == 2


def test_a_database_without_a_monitor_is_told_from_one_without_workers(
    database: Database, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = run(capsys, database, "status")
    assert (code, out, "pgvigil migrate" in err) == (4, "", True)


def test_the_name_of_an_application_steers_no_terminal(
    reports: Database, application: str, capsys: pytest.CaptureFixture[str]
) -> None:
    Worker(reports, f"{application}\x1b[2J\n::error::").report()
    _, out, _ = run(capsys, reports, "status")
    assert ("\x1b" in out, "\n::error" in out, f"{application}\\x1b[2J" in out) == (False, False, True)


def test_a_login_that_may_only_report_sees_its_own_workers(
    reports: Database, application: str, capsys: pytest.CaptureFixture[str]
) -> None:
    reports.execute(
        "DO $$ BEGIN CREATE ROLE m_writer LOGIN IN ROLE pgvigil_writer; EXCEPTION WHEN duplicate_object THEN NULL; END $$"
    )
    Worker(reports, application).report()
    url = reports.url.replace("postgres@", "m_writer@")
    assert url != reports.url
    capsys.readouterr()
    assert cli.main(["session-monitoring", "status", "--application", application, "--database-url", url]) == 3


# --- Flask -----------------------------------------------------------------------------------------------------------


@pytest.fixture
def flask_app(reports: Database, application: str, alone: None) -> Iterator[Any]:  # noqa: ARG001 - its monitor
    flask = pytest.importorskip("flask")
    app = flask.Flask(application)
    engine = create_engine("sqlite://")
    factory = sessionmaker(engine)

    @app.get("/")
    def index() -> str:
        with factory() as session:
            session.execute(select(1))
            session.commit()
        return "ok"

    @app.get("/broken")
    def broken() -> str:
        raise RuntimeError("broken")

    monitor = initialize_performance_monitoring(app, factory, engine, database_url=reports.url, interval=3600)
    yield app
    monitor.close()
    engine.dispose()


def invoke(app: Any, *words: str) -> Any:
    return app.test_cli_runner().invoke(args=["session-monitoring", *words])


def test_requests_of_flask_are_monitored(flask_app: Any) -> None:
    client = flask_app.test_client()
    assert client.get("/").status_code == 200
    assert client.get("/broken").status_code == 500
    assert client.get("/nowhere").status_code == 404
    monitor = flask_app.extensions["pgvigil_monitor"]
    found = monitor.get_current_metrics()
    assert (found["performance_metrics"]["requests"], found["session_metrics"]["commits"]) == (3, 1)
    assert monitor._counts.requests == {}


def test_flask_is_as_it_was_after_the_undo(flask_app: Any) -> None:
    flask_app.extensions["pgvigil_monitor"].close()
    assert (flask_app.before_request_funcs[None], flask_app.teardown_request_funcs[None]) == ([], [])
    assert "session-monitoring" not in flask_app.cli.commands
    assert "pgvigil_monitor" not in flask_app.extensions


def test_flask_commands_show_all_workers_and_not_their_own_process(
    flask_app: Any, reports: Database, application: str
) -> None:
    worker = Worker(reports, application)
    worker.commit(7)
    worker.report()
    flask_app.test_client().get("/")  # as if the application did something while it is loaded
    shown = invoke(flask_app, "metrics", "--format", "json")
    found = json.loads(shown.output)
    assert (shown.exit_code, found["workers"], found["session_metrics"]["commits"]) == (0, 1, 7)
    assert "1 worker" in invoke(flask_app, "status").output
    assert "7 committed" in invoke(flask_app, "summary").output
    flask_app.extensions["pgvigil_monitor"].close()
    assert (rows_of(reports, application), picture(reports, application)) == (1, (1, 7))


def test_flask_commands_without_a_worker_are_exit_code_3_and_no_zeros(flask_app: Any) -> None:
    for action in ("status", "summary", "metrics", "alerts"):
        shown = invoke(flask_app, action)
        assert (shown.exit_code, shown.stdout, "has ever reported" in shown.stderr) == (3, "", True)


def test_flask_commands_can_look_at_their_own_process(flask_app: Any) -> None:
    shown = invoke(flask_app, "metrics", "--this-process", "--format", "json")
    assert (shown.exit_code, json.loads(shown.output)["session_metrics"]["creations"]) == (0, 0)


def test_flask_alerts_are_exit_code_1(flask_app: Any, reports: Database, application: str) -> None:
    worker = Worker(reports, application)
    worker.counters = {"creations": 10, "errors": 5}
    worker.report()
    shown = invoke(flask_app, "alerts", "--threshold", "0.5")
    assert (shown.exit_code, "high_error_rate" in shown.output) == (1, True)
    for refused in ("0", "abc"):
        assert invoke(flask_app, "alerts", "--threshold", refused).exit_code == 2


def test_flask_sets_the_logging_of_all_workers(flask_app: Any, reports: Database, application: str) -> None:
    assert invoke(flask_app, "enable-periodic-logging").exit_code == 3
    worker = Worker(reports, application)
    worker.report()
    assert invoke(flask_app, "enable-periodic-logging", "--interval", "120").exit_code == 0
    worker.report()
    assert worker.told == [None, 120.0]


def test_flask_sqlalchemy_is_monitored(alone: None, tmp_path: Path) -> None:  # noqa: ARG001
    flask = pytest.importorskip("flask")
    flask_sqlalchemy = pytest.importorskip("flask_sqlalchemy")
    app = flask.Flask("shop")
    app.config["SQLALCHEMY_DATABASE_URI"] = f"sqlite:///{tmp_path}/shop.db"
    db = flask_sqlalchemy.SQLAlchemy(app)

    @app.get("/")
    def index() -> str:
        db.session.execute(db.text("SELECT 1"))
        return "ok"

    with app.app_context():
        monitor = initialize_performance_monitoring(app, db, db.engine)
    for _ in range(3):
        assert app.test_client().get("/").status_code == 200
    found = monitor.get_current_metrics()
    monitor.close()
    with app.app_context():
        db.engine.dispose()
    assert [found["session_metrics"][name] for name in ("creations", "closures", "discarded", "active_sessions")] == [
        3,
        3,
        3,
        0,
    ]
