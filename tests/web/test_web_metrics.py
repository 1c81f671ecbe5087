"""Test /metrics: Prometheus accepts its names, counters do not fall, and rules and panels find the metrics that they
query.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from urllib.parse import urlencode
from urllib.request import urlopen

import pytest
from prometheus_client.parser import text_string_to_metric_families

from conftest import Database, Run, Templates, _new_database, wait_until
from helpers.monitor_report import report
from pgvigil.web import metrics
from pgvigil.web.store import Store
from web.conftest import Serve

pytestmark = pytest.mark.client_side
FILES = Path(__file__).parents[2] / "src/pgvigil/observability"
DASHBOARD = json.loads((FILES / "grafana/pgvigil.json").read_text())
ALWAYS = {"sum", "count", "bucket"}


@pytest.fixture(autouse=True)
def scrapes_may_take_long(monkeypatch: pytest.MonkeyPatch) -> None:
    """Give each part more time than a loaded machine takes: a slow one must not count as one that cannot be read."""
    monkeypatch.setattr(metrics, "BUDGET", 30.0)
    monkeypatch.setattr(metrics, "TOTAL", 300.0)


@pytest.fixture(scope="module")
def watched(templates: Templates) -> Iterator[Database]:
    """A database with rows for every metric."""
    with _new_database(templates.server, templates.get("fresh")) as new:
        new.execute("INSERT INTO sessions (session_key, agent_from) SELECT 'k' || g, 'a' FROM generate_series(1, 3) g")
        new.execute(
            "INSERT INTO performance_logs (operation, duration_ms, success) SELECT 'op', g * 7, g % 4 > 0 FROM generate_series(1, 100) g"
        )
        executions(new, 1, 100)
        for worker in range(2):
            report(new, "shop", errors=2 + worker)
        # Ids are settled a second after they are made.
        new.execute("SELECT pg_sleep(1.1)")
        new.execute("CALL pgvigil.run_job('rollup')")
        new.execute("CALL pgvigil.run_job('totals')")
        yield new


def executions(database: Database, first: int, last: int, engine: str = "mysql") -> None:
    database.execute(
        """INSERT INTO query_executions (execution_id, query, database_type, status, execution_time)
           SELECT %s || g, '', %s, (ARRAY['success', 'success', 'failed'])[1 + g %% 3], g / 100.0 FROM generate_series(%s::int, %s::int) g""",
        (engine, engine, first, last),
    )


def read(serve: Serve, database: Database) -> dict[str, float]:
    """Return each sample by its name and labels."""
    text = serve(database.url, "viewer").get("/metrics").text
    return {
        f"{sample.name}{{{','.join(f'{k}={v}' for k, v in sorted(sample.labels.items()))}}}": sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }


def test_totals_are_those_of_the_tables(serve: Serve, watched: Database) -> None:
    found = read(serve, watched)
    assert found["pgvigil_up{}"] == 1
    assert found["pgvigil_executions_total{database_type=mysql,status=success}"] == 67
    assert found["pgvigil_execution_duration_seconds_count{database_type=mysql}"] == 100
    assert found["pgvigil_execution_duration_seconds_sum{database_type=mysql}"] == pytest.approx(50.5)
    assert found["pgvigil_operation_calls_total{operation=op,outcome=failure}"] == 25
    assert found["pgvigil_session_events_total{event_type=created}"] == 3
    assert found["pgvigil_session_monitor_creations_total{application=shop}"] == 200
    assert found["pgvigil_session_monitor_recoveries_total{application=shop,outcome=failure}"] == 2
    assert found["pgvigil_db_client_connections{application=shop,pool=main,state=used}"] == 4
    assert found["pgvigil_db_client_connection_timeouts_total{application=shop,pool=main}"] == 8
    assert found["pgvigil_db_client_connection_wait_seconds_sum{application=shop,pool=main}"] == 180
    assert {
        found[f"pgvigil_collector_success{{collector={name}}}"] for name in ("checks", "jobs", "sizes", "sessions")
    } == {1}


@pytest.mark.parametrize(("bound", "below"), [("0.05", 5), ("0.1", 10), ("0.25", 25), ("1.0", 100), ("+Inf", 100)])
def test_a_bound_belongs_to_its_own_bucket(serve: Serve, watched: Database, bound: str, below: int) -> None:
    assert read(serve, watched)[f"pgvigil_execution_duration_seconds_bucket{{database_type=mysql,le={bound}}}"] == below


@pytest.mark.parametrize("bound", [0.005, 0.025, 0.1, 0.25, 0.5, 1.0])
def test_the_buckets_of_operations_are_within_one_percent(serve: Serve, watched: Database, bound: float) -> None:
    found = read(serve, watched)[f"pgvigil_operation_duration_seconds_bucket{{le={bound},operation=op}}"]
    [(least, most)] = watched.execute(
        "SELECT count(*) FILTER (WHERE duration_ms <= %s), count(*) FILTER (WHERE duration_ms <= %s) FROM performance_logs",
        (bound * 990, bound * 1020 + 1),
    )
    assert least <= found <= most


def test_what_recorders_of_an_application_did_is_added_up_over_its_workers(serve: Serve, fresh: Database) -> None:
    for worker in range(2):
        report(fresh, "shop", **{"recorder/written": 5, "recorder/dropped": worker})
    found = read(serve, fresh)
    counted = {
        name: found[f"pgvigil_recorder_{name}_total{{application=shop}}"] for name in ("written", "dropped", "spilled")
    }
    assert counted == {"written": 10, "dropped": 1, "spilled": 0}


def test_retention_does_not_lower_a_counter_and_what_comes_late_is_counted_once(serve: Serve, fresh: Database) -> None:
    executions(fresh, 1, 30)
    fresh.execute("CALL pgvigil.run_job('totals')")
    fresh.execute("DELETE FROM query_executions WHERE id <= 10")
    executions(fresh, 31, 36)
    for _ in range(2):
        fresh.execute("CALL pgvigil.run_job('totals')")
    found = read(serve, fresh)
    assert sum(value for name, value in found.items() if name.startswith("pgvigil_executions_total")) == 36
    assert found["pgvigil_execution_duration_seconds_count{database_type=mysql}"] == 36


def test_attempts_to_kill_are_counted_once_and_retention_does_not_lower_them(serve: Serve, fresh: Database) -> None:
    assert read(serve, fresh)["pgvigil_kill_attempts_total{ok=true}"] == 0
    with fresh.connect() as connection:
        connection.execute("SET pgvigil.instrumentation = 'write'")
        for done, number in ((True, 3), (False, 2)):
            connection.execute(
                """INSERT INTO instrumentation.kill_attempts (attempt_id, session_id, mode, ok, reason, actor)
                   SELECT pgvigil.uuid_v7_floor(now() - (g + %s) * interval '1 hour'), gen_random_uuid(), 'cancel', %s, '', 'a' FROM generate_series(1, %s) g""",
                (10 * number, done, number),
            )
        connection.execute("CALL pgvigil.run_job('totals')")
        connection.execute("DELETE FROM instrumentation.kill_attempts")
        connection.execute("CALL pgvigil.run_job('totals')")
    found = read(serve, fresh)
    assert [found[f"pgvigil_kill_attempts_total{{ok={done}}}"] for done in ("true", "false")] == [3, 2]


def test_an_anomaly_is_shown_with_its_engine_until_it_ends(serve: Serve, fresh: Database) -> None:
    executions(fresh, 1, 3, "mysql")
    executions(fresh, 1, 3, "mongodb")
    fresh.execute("CALL pgvigil.run_job('totals')")
    fresh.execute(
        """INSERT INTO pgvigil.anomalies (database_type, status, since, hour, value, expected, spread, ended)
           SELECT 'mysql', s.status, now(), now(), 9, 1, 1, s.ended FROM (VALUES ('success', NULL), ('failed', NULL), ('error', now())) s (status, ended)"""
    )
    found = read(serve, fresh)
    assert found["pgvigil_anomalies{database_type=mysql}"] == 2
    assert found["pgvigil_anomalies{database_type=mongodb}"] == 0


def test_a_row_whose_transaction_is_open_meanwhile_is_not_passed_by(fresh: Database) -> None:
    insert = "INSERT INTO query_executions (execution_id, query, database_type, status) VALUES (%s, '', 'x', 'success')"
    with fresh.connect(autocommit=False) as slow:
        slow.execute(insert, ("slow",))
        fresh.execute(insert, ("quick",))
        [(_, _, note)] = fresh.execute("SELECT * FROM pgvigil.job_totals(1000)")
        assert "query_executions" in note
        slow.commit()
    fresh.execute("SELECT * FROM pgvigil.job_totals(1000)")
    assert fresh.execute("SELECT executions FROM pgvigil.execution_totals") == [(2,)]


def test_of_many_names_the_first_fifty_are_shown_and_the_rest_is_other(serve: Serve, fresh: Database) -> None:
    for n in range(3):
        fresh.execute(
            """INSERT INTO query_executions (execution_id, query, database_type, status, execution_time)
               SELECT %s || g, '', 'engine ' || lpad((g + 40 * %s)::text, 3, '0'), 'success', 1 FROM generate_series(1, 40) g""",
            (f"{n} ", n),
        )
        fresh.execute("CALL pgvigil.run_job('totals')")
    found = read(serve, fresh)
    names = [name for name in found if name.startswith("pgvigil_executions_total")]
    assert len(names) == 51
    assert found["pgvigil_executions_total{database_type=other,status=success}"] == 70
    assert found["pgvigil_execution_duration_seconds_count{database_type=other}"] == 70


def test_where_one_part_cannot_be_read_the_others_are_shown(serve: Serve, fresh: Database) -> None:
    fresh.execute("DROP TABLE pgvigil.event_totals")
    found = read(serve, fresh)
    assert (found["pgvigil_up{}"], found["pgvigil_collector_success{collector=events}"]) == (1, 0)
    assert found["pgvigil_collector_success{collector=executions}"] == 1


def test_a_database_that_is_away_is_up_0_and_a_scrape_that_works(serve: Serve, tmp_path: Path) -> None:
    answer = serve(f"postgresql:///x?host={tmp_path}", "viewer").get("/metrics")
    assert answer.status_code == 200
    assert "pgvigil_up 0.0" in answer.text


def test_scrapes_within_five_seconds_ask_once(serve: Serve, watched: Database) -> None:
    client = serve(watched.url, "viewer")
    client.get("/metrics")
    store: Store = client.app.state.store  # type: ignore[attr-defined]
    store.call = None  # type: ignore[method-assign, assignment]
    assert "pgvigil_up 1.0" in client.get("/metrics").text


def test_openmetrics_is_spoken_to_whoever_asks_for_it(shared: Serve, watched: Database) -> None:
    answer = shared(watched.url, "viewer").get(
        "/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}
    )
    assert answer.headers["content-type"].startswith("application/openmetrics-text")
    assert answer.text.endswith("# EOF\n")


def test_no_label_holds_a_user_a_session_or_a_query(shared: Serve, executions: Database) -> None:
    text = shared(executions.url, "viewer").get("/metrics").text
    assert not [
        label
        for label in ("user", "session", "query", "queryid", "session_id")
        if f"{{{label}=" in text or f',{label}="' in text
    ]
    assert "ada" not in text


# --- rules and dashboard ---------------------------------------------------------------------------------------------------


def expressions() -> list[str]:
    return [target["expr"] for panel in DASHBOARD["panels"] for target in panel.get("targets", ())]


def names_in(expression: str) -> set[str]:
    return set(re.findall(r"\bpgvigil_[a-z_]+", expression))


def test_dashboard_and_rules_name_nothing_but_metrics_that_there_are(serve: Serve, watched: Database) -> None:
    there = {name.partition("{")[0] for name in read(serve, watched)}
    used = set().union(*map(names_in, expressions())) | names_in((FILES / "prometheus/rules.yml").read_text())
    assert used - there == set()


def test_the_dashboard_can_be_imported_anywhere() -> None:
    assert DASHBOARD["id"] is None
    assert "uid" not in DASHBOARD
    assert {panel["datasource"]["uid"] for panel in DASHBOARD["panels"] if "datasource" in panel} == {"${datasource}"}
    assert [variable["name"] for variable in DASHBOARD["templating"]["list"]] == ["datasource", "application"]


def test_metrics_files_are_written_and_none_of_yours_is_replaced(call: Run, tmp_path: Path) -> None:
    assert call("pgvigil", "metrics-files", tmp_path / "new").returncode == 0
    for name in ("prometheus/rules.yml", "prometheus/rules_test.yml", "grafana/pgvigil.json"):
        assert (tmp_path / "new" / name).read_bytes() == (FILES / name).read_bytes()
    assert call("pgvigil", "metrics-files", tmp_path / "new").returncode == 0
    (tmp_path / "new/prometheus/rules.yml").write_text("mine")
    refused = call("pgvigil", "metrics-files", tmp_path / "new")
    assert refused.returncode == 2
    assert "rules.yml is there, and differs" in refused.stderr
    assert call("pgvigil", "metrics-files", tmp_path / "new", "--overwrite").returncode == 0


def program(name: str) -> str:
    """Return the path of promtool or prometheus. Without it the test is skipped; in CI it fails."""
    found = shutil.which(name, path=f"{os.environ.get('PROMETHEUS_BIN', '')}:{os.environ['PATH']}")
    if not found:
        refuse = pytest.fail if os.environ.get("REQUIRE_PROMETHEUS") else pytest.skip
        refuse(f"no {name} here: apt-get download prometheus, dpkg-deb -x, and PROMETHEUS_BIN=…/usr/bin")
    return found


def run(*words: str | Path, **options: Any) -> subprocess.CompletedProcess[str]:
    return subprocess.run([*map(str, words)], capture_output=True, text=True, check=False, timeout=60, **options)


def test_promtool_takes_names_rules_and_the_tests_of_rules(shared: Serve, watched: Database) -> None:
    promtool = program("promtool")
    checked = run(promtool, "check", "metrics", input=shared(watched.url, "viewer").get("/metrics").text)
    assert (checked.returncode, checked.stdout + checked.stderr) == (0, "")
    assert run(promtool, "check", "rules", FILES / "prometheus/rules.yml").returncode == 0
    tested = run(promtool, "test", "rules", "rules_test.yml", cwd=FILES / "prometheus")
    assert tested.returncode == 0, tested.stdout + tested.stderr


def an_hour_of(text: str, now: int) -> str:
    """Return the scrapes of an hour: counters rise by their value each minute, gauges stay."""
    lines, rising = [], False
    for line in text.splitlines():
        if line.startswith("# TYPE"):
            rising = line.endswith((" counter", " histogram"))
        if line.startswith("#") or not line.strip():
            lines += [line] if line != "# EOF" else []
            continue
        series, value = line.rsplit(" ", 1)
        lines += [f"{series} {float(value) * (1 + n if rising else 1)} {now - 3600 + 60 * n}" for n in range(61)]
    return "\n".join([*lines, "# EOF", ""])


@pytest.fixture(scope="module")
def prometheus(watched: Database, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, int]]:
    """A real one, with an hour of our metrics; its address, and when the hour ends."""
    from starlette.testclient import TestClient

    from pgvigil import web

    promtool, server = program("promtool"), program("prometheus")
    directory = tmp_path_factory.mktemp("prometheus")
    app = web.application(watched.url, authorize=lambda _: web.Principal("a test", "viewer"))
    with TestClient(app) as client:
        text = client.get("/metrics", headers={"accept": "application/openmetrics-text; version=1.0.0"}).text
    app.state.store.close()
    now = int(time.time())
    (directory / "metrics").write_text(an_hour_of(text, now))
    made = run(promtool, "tsdb", "create-blocks-from", "openmetrics", directory / "metrics", directory / "data")
    assert made.returncode == 0, made.stderr
    (directory / "prometheus.yml").write_text("")
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    log = (directory / "log").open("wb")
    process = subprocess.Popen(
        [server, f"--config.file={directory}/prometheus.yml", f"--storage.tsdb.path={directory}/data", f"--web.listen-address=127.0.0.1:{port}"],
        stdout=log, stderr=log,
    )  # fmt: skip
    try:

        def answers() -> bool:
            assert process.poll() is None, (directory / "log").read_text()
            try:
                return bool(ask(f"http://127.0.0.1:{port}", "vector(1)", now))
            except OSError:
                return False

        wait_until(answers)
        yield f"http://127.0.0.1:{port}", now
    finally:
        process.terminate()
        process.wait(20)
        log.close()


def ask(where: str, expression: str, at: int) -> list[Any]:
    with urlopen(f"{where}/api/v1/query?{urlencode({'query': expression, 'time': at})}", timeout=10) as answer:  # noqa: S310 - ours
        return list(json.load(answer)["data"]["result"])


def test_every_query_of_the_dashboard_finds_something(prometheus: tuple[str, int]) -> None:
    where, now = prometheus
    filled = [one.replace("$application", "shop").replace("$__rate_interval", "5m") for one in expressions()]
    assert len(filled) > 30
    assert [one for one in filled if not ask(where, one, now)] == []


def test_a_name_that_is_misspelt_would_find_nothing(prometheus: tuple[str, int]) -> None:
    where, now = prometheus
    assert ask(where, "sum(pgvigil_sesions)", now) == []


def test_the_page_names_every_metric(serve: Serve, watched: Database) -> None:
    page = (Path(__file__).parents[2] / "docs/metrics.md").read_text()
    named: set[str] = set()
    for cell in re.findall(r"^\| (`pgvigil_.*?) \|", page, re.MULTILINE):
        before = ""
        for name in re.findall(r"`([a-z_{},]+)`", cell):
            # `a_b_c`, `_d` is short for a_b_c and a_b_d.
            whole = name if name.startswith("pgvigil_") else before.rpartition("_")[0] + name
            before = whole if name.startswith("pgvigil_") else before
            start, _, rest = whole.partition("{")
            ends, _, end = rest.partition("}")
            named |= {start + one + end for one in ends.split(",")} if rest else {whole}
    there = {re.sub("_(bucket|sum|count)$", "", name.partition("{")[0]) for name in read(serve, watched)}
    assert named == there
