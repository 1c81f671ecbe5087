"""Test pgvigil profile and explain: their report is true, and nothing that they run leaves a trace."""

from __future__ import annotations

import io
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from conftest import Database, Run, _new_database
from pgvigil.commands import explain as explain_command
from pgvigil.commands import profile as profile_command
from pgvigil.database import Target, parse_url
from pgvigil.diagnostics.plans import explain as explaining
from pgvigil.diagnostics.plans import profile as profiling
from pgvigil.diagnostics.plans.explain import Explanation
from pgvigil.diagnostics.plans.plan_advice import Finding
from pgvigil.diagnostics.plans.rolled_back import given
from pgvigil.embedded import Server

pytestmark = pytest.mark.oldest_and_newest

# 16 MB; n comes 10 times each, and k and l are always equal.
TABLES = """
CREATE TABLE big (id integer PRIMARY KEY, n integer, k integer, l integer, word varchar(20), filler text);
INSERT INTO big SELECT i, i % 10000, i % 100, i % 100, 'word ' || i % 7, repeat('x', 90) FROM generate_series(1, 100000) i;
CREATE INDEX big_word ON big (word);
CREATE TABLE small (id integer PRIMARY KEY, n integer);
INSERT INTO small SELECT i, i FROM generate_series(1, 100) i;
CREATE TABLE parts (id integer, n integer, filler text) PARTITION BY RANGE (id);
CREATE TABLE parts_1 PARTITION OF parts FOR VALUES FROM (0) TO (40000);
CREATE TABLE parts_2 PARTITION OF parts FOR VALUES FROM (40000) TO (80000);
CREATE INDEX parts_id ON parts (id);
INSERT INTO parts SELECT i, i % 5000, repeat('x', 90) FROM generate_series(0, 79999) i;
CREATE TABLE unseen (id integer PRIMARY KEY) WITH (autovacuum_enabled = off);
INSERT INTO unseen SELECT generate_series(1, 5000);
CREATE TABLE seen (id integer PRIMARY KEY);
INSERT INTO seen SELECT generate_series(1, 5000);
CREATE TABLE kept (n integer CHECK (n > 0));
CREATE TABLE kinds AS SELECT * FROM big;
CREATE INDEX kinds_k_of_word_0 ON kinds (k, n) WHERE word = 'word 0';
CREATE INDEX kinds_l_hash ON kinds USING hash (l);
CREATE INDEX kinds_filler ON kinds (filler);
ANALYZE kinds;
CREATE TABLE brand_new (id integer, n integer);
CREATE TABLE never_analyzed (id integer, n integer) WITH (autovacuum_enabled = off);
INSERT INTO never_analyzed SELECT i, 1 FROM generate_series(1, 20000) i;
CREATE FUNCTION takes_time() RETURNS trigger LANGUAGE plpgsql AS 'BEGIN PERFORM pg_sleep(0.002); RETURN NEW; END';
CREATE TABLE "Fired" (n integer) PARTITION BY LIST (n);
CREATE TABLE fired_1 PARTITION OF "Fired" DEFAULT;
INSERT INTO "Fired" SELECT generate_series(1, 20);
CREATE TRIGGER before_row BEFORE UPDATE ON "Fired" FOR EACH ROW EXECUTE FUNCTION takes_time();
CREATE TRIGGER before_all BEFORE UPDATE ON "Fired" FOR EACH STATEMENT EXECUTE FUNCTION takes_time();
CREATE TRIGGER after_row AFTER UPDATE ON "Fired" FOR EACH ROW EXECUTE FUNCTION takes_time();
CREATE VIEW seen_fired AS SELECT n FROM "Fired";
CREATE TRIGGER instead INSTEAD OF DELETE ON seen_fired FOR EACH ROW EXECUTE FUNCTION takes_time();
CREATE PROCEDURE commits() LANGUAGE plpgsql AS 'BEGIN INSERT INTO kept VALUES (1); COMMIT; END';
"""


@pytest.fixture(scope="module")
def world(pg: Server) -> Iterator[Database]:
    """A database with tables large enough for each finding; every statement there is rolled back."""
    with _new_database(pg) as new:
        with new.connect() as connection:
            connection.execute("SET synchronous_commit = on")  # or VACUUM would not know yet that all of it is visible
            connection.execute(TABLES)
            connection.execute("VACUUM (ANALYZE) big, small, parts, seen")
            connection.execute("ANALYZE unseen")
        yield new


def settings(database: Database, **values: str | int) -> Target:
    """Return the target with settings for one process, unless more are asked for."""
    values = {"max_parallel_workers_per_gather": 0, "jit": "off", "work_mem": "32MB"} | values
    options = " ".join(f"-c {name}={value}" for name, value in values.items())
    target = parse_url(database.url, "test")
    return Target({**target.parameters, "options": options}, "test")


@pytest.fixture
def look(world: Database) -> Callable[..., Explanation]:
    def look(statement: str, *parameters: str, **values: str | int) -> Explanation:
        return explaining.explain(settings(world, **values), statement, parameters)

    return look


def only(explanation: Explanation, kind: str) -> Finding:
    [found] = [finding for finding in explanation.findings if finding.finding == kind]
    return found


# --- findings --------------------------------------------------------------------------------------------------------

NESTED = {"enable_hashjoin": "off", "enable_mergejoin": "off", "enable_memoize": "off", "enable_material": "off"}
INCREMENTAL = {"enable_seqscan": "off", "enable_sort": "off", "work_mem": "256kB"}
HASHED = {"enable_nestloop": "off", "enable_mergejoin": "off", "enable_sort": "off"}
PARALLEL = {"max_parallel_workers_per_gather": 2, "parallel_setup_cost": 0, "parallel_tuple_cost": 0}


@dataclass(frozen=True)
class Case:
    """A statement in whose plan something is found, and one like it in whose plan it is not."""

    finding: str
    wrong: str
    right: str
    settings: dict[str, str | int] | None = None
    settings_when_right: dict[str, str | int] | None = None

    def __str__(self) -> str:
        return f"{self.finding}: {self.wrong}"


JOIN = "SELECT count(*) FROM big a JOIN big b ON a.id = b.n"
CASES = [
    Case("sequential_scan", "SELECT * FROM big WHERE n = 7", "SELECT * FROM big WHERE id = 7"),
    Case("sequential_scan", "SELECT * FROM big WHERE n = 7", "SELECT * FROM big WHERE n >= 0", PARALLEL),
    Case("sequential_scan", "SELECT * FROM parts WHERE n = 7", "SELECT * FROM parts WHERE id = 7"),
    Case("sequential_scan", "UPDATE big SET k = 0 WHERE n = 7", "UPDATE big SET k = 0 WHERE id = 7"),
    Case("sequential_scan", "SELECT * FROM big WHERE n = 7", "SELECT * FROM small WHERE n > (SELECT max(n) FROM big) - 9999"),
    Case("sort_on_disk", "SELECT * FROM big ORDER BY filler, n", "SELECT * FROM big ORDER BY filler, n LIMIT 5", {"work_mem": "1MB"}),
    Case("sort_on_disk", "SELECT * FROM big ORDER BY word, n", "SELECT * FROM big ORDER BY word", INCREMENTAL),
    Case("hash_on_disk", JOIN, JOIN, {"work_mem": "256kB", **HASHED}, HASHED),
    Case("hash_on_disk", "SELECT n FROM big GROUP BY n", "SELECT k FROM big GROUP BY k", {"work_mem": "64kB", **HASHED}),
    Case("temp_files", "WITH c AS MATERIALIZED (SELECT * FROM big) SELECT count(*) FROM c",
         "WITH c AS MATERIALIZED (SELECT * FROM big ORDER BY filler, n) SELECT count(*) FROM c WHERE n < 0",
         {"work_mem": "1MB"}, {"work_mem": "64MB"}),
    Case("estimate_off", "SELECT * FROM big WHERE k = 7 AND l = 7", "SELECT * FROM big WHERE k = 7"),
    Case("estimate_off", "SELECT regexp_split_to_table(repeat('a ', 20000), ' ')", "SELECT * FROM big LIMIT 1"),
    Case("estimate_off", "SELECT word FROM big WHERE k = 7 AND l = 7 GROUP BY word", "SELECT word FROM big GROUP BY word LIMIT 1", {"enable_hashagg": "off"}),
    Case("rows_removed", "SELECT * FROM big WHERE id > 0 AND n = 7", "SELECT * FROM big WHERE id > 0 AND n < 9000", {"enable_seqscan": "off"}),
    Case("rows_removed", "SELECT count(*) FROM small a JOIN seen b ON a.id + b.id = 5", "SELECT count(*) FROM small a JOIN seen b ON b.id = a.id", NESTED),
    Case("many_loops", "SELECT count(*) FROM big a JOIN big b ON b.id = a.n", "SELECT count(*) FROM small a JOIN big b ON b.id = a.id", NESTED),
    Case("many_loops", "SELECT (SELECT b.n FROM big b WHERE b.id = a.id) FROM big a", "SELECT (SELECT b.n FROM big b WHERE b.id = a.id) FROM small a"),
    Case("heap_fetches", "SELECT id FROM unseen WHERE id > 0", "SELECT id FROM seen WHERE id > 0", {"enable_seqscan": "off", "enable_bitmapscan": "off"}),
    Case("index_used", "SELECT * FROM big WHERE id = 7", "SELECT * FROM big"),
]  # fmt: skip


@pytest.mark.parametrize("case", CASES, ids=str)
def test_a_plan_that_has_it_is_told_and_one_that_has_not_is_not(look: Callable[..., Explanation], case: Case) -> None:
    wrong, right = case.settings or {}, case.settings if case.settings_when_right is None else case.settings_when_right
    assert case.finding in {finding.finding for finding in look(case.wrong, **wrong).findings}
    assert case.finding not in {finding.finding for finding in look(case.right, **(right or {})).findings}


@pytest.mark.parametrize("processes", [{}, PARALLEL], ids=["one process", "three processes"])
def test_a_missing_index_is_named_and_the_index_that_is_advised_serves(
    world: Database, look: Callable[..., Explanation], processes: dict[str, str | int]
) -> None:
    statement = "SELECT * FROM big WHERE n = $1::integer AND k >= 0"
    found = only(look(statement, "7", **processes), "sequential_scan")
    assert found.sentence == "sequential scan of public.big reads 14 MB for 10 of 100,000 rows: no index on n or k"
    assert found.fix == "CREATE INDEX CONCURRENTLY ON public.big (n, k);"
    world.execute(found.fix.replace(" ON ", " advised ON "))
    try:
        assert [finding.finding for finding in look(statement, "7", **processes).findings] == ["index_used"]
    finally:
        world.execute("DROP INDEX advised")


def test_partitions_count_as_one_table(look: Callable[..., Explanation]) -> None:
    found = only(look("SELECT * FROM parts WHERE n = 7"), "sequential_scan")
    assert found.sentence == "sequential scan of public.parts reads 10 MB for 16 of 80,000 rows: no index on n"
    assert found.fix == "CREATE INDEX ON public.parts (n);"
    used = only(look("SELECT * FROM parts WHERE id IN (1, 50000)"), "index_used")
    assert "on public.parts uses parts_id, for 2 rows" in used.sentence


@pytest.mark.parametrize(
    ("condition", "reason"),
    [
        (
            "lower(word) = 'word'",
            "no bare column is equal to, below or above a value in (lower((big.word)::text) = 'word'::text)",
        ),
        ("n = 7 OR k = 700", "each alternative needs its own index in ((big.n = 7) OR (big.k = 700))"),
        ("n + 0 = 7 AND word >= 'word 0'", "the planner did not use big_word btree (word)"),
        ("n::text = '7'", "no bare column is equal to, below or above a value in ((big.n)::text = '7'::text)"),
        ("k IS NULL AND n = 1", "no index on n or k"),
        ("n = k AND l = 7 AND filler <> 'n = 3 AND n = 4'", "no index on l"),
    ],
)
def test_what_no_index_could_serve_is_told_as_that(
    look: Callable[..., Explanation], condition: str, reason: str
) -> None:
    assert only(look(f"SELECT * FROM big WHERE {condition}"), "sequential_scan").sentence.endswith(f": {reason}")


@pytest.mark.parametrize(
    ("statement", "finding", "values"),
    [
        ("SELECT * FROM big ORDER BY filler, n", "sort_on_disk", {}),
        ("SELECT n FROM big ORDER BY n DESC", "sort_on_disk", {}),
        ("SELECT * FROM big ORDER BY filler, n", "sort_on_disk", PARALLEL),
        ("SELECT * FROM big ORDER BY word, n", "sort_on_disk", INCREMENTAL),
        (JOIN, "hash_on_disk", HASHED),
        ("WITH c AS MATERIALIZED (SELECT * FROM big) SELECT count(*) FROM c", "temp_files", {}),
    ],
)
def test_the_work_mem_that_would_do_does(
    look: Callable[..., Explanation], statement: str, finding: str, values: dict[str, str | int]
) -> None:
    fix = only(look(statement, **{"work_mem": "256kB", **values}), finding).fix
    assert fix
    enough = fix.removeprefix("SET work_mem = '").removesuffix(" MB';")
    assert int(enough) <= 64
    again = look(statement, **{**values, "work_mem": f"{enough}MB"})
    assert finding not in {found.finding for found in again.findings}


def test_a_partial_index_that_cannot_serve_is_not_blamed(look: Callable[..., Explanation]) -> None:
    found = only(look("SELECT * FROM kinds WHERE k = 7"), "sequential_scan")
    assert ": no index on k; kinds_k_of_word_0 cannot serve this condition: btree (k, n) WHERE " in found.sentence
    assert found.fix == "CREATE INDEX CONCURRENTLY ON public.kinds (k);"


def test_a_partial_index_that_could_serve_is_the_one_that_was_not_taken(look: Callable[..., Explanation]) -> None:
    costly = {"random_page_cost": 1000000, "seq_page_cost": 0}
    found = only(look("SELECT * FROM kinds WHERE k = 7 AND word = 'word 0'", **costly), "sequential_scan")
    assert ": the planner did not use kinds_k_of_word_0 btree (k, n) WHERE " in found.sentence


def test_an_index_whose_kind_cannot_serve_is_not_blamed(look: Callable[..., Explanation]) -> None:
    found = only(look("SELECT * FROM kinds WHERE l > 98"), "sequential_scan")
    assert ": no index on l; kinds_l_hash cannot serve this condition: hash (l)" in found.sentence


def test_an_index_of_another_collation_is_said_to_serve_nothing(look: Callable[..., Explanation]) -> None:
    found = only(look("""SELECT * FROM kinds WHERE filler > 'y' COLLATE "POSIX" """), "sequential_scan")
    assert "kinds_filler btree (filler) cannot serve " in found.sentence
    assert "CREATE INDEX" not in (found.fix or "")


@pytest.mark.parametrize(
    "statement",
    [
        "SELECT * FROM brand_new",
        "SELECT * FROM brand_new a JOIN brand_new b ON b.id = a.id",
        "SELECT * FROM brand_new a JOIN big b ON b.word = a.id::text AND b.id > a.n",
        "SELECT n, count(*) FROM brand_new GROUP BY n",
        "SELECT * FROM generate_series(1, (SELECT 3)) i JOIN small ON id = i",
        "SELECT * FROM big WHERE (SELECT count(*) FROM small) > 1000",
    ],
)
def test_what_no_statistics_could_have_told_is_no_finding(look: Callable[..., Explanation], statement: str) -> None:
    assert look(statement).sound


def test_a_group_of_what_was_never_analyzed_is_cured_by_analyzing_that(look: Callable[..., Explanation]) -> None:
    found = only(look("SELECT n FROM never_analyzed GROUP BY n", enable_sort="off"), "estimate_off")
    assert (found.node, found.fix) == (
        "Aggregate",
        "The planner has no statistics on the tables it reads: ANALYZE public.never_analyzed;",
    )


def test_a_small_error_is_blamed_for_the_large_one_above_it(look: Callable[..., Explanation]) -> None:
    inner = "SELECT id FROM small WHERE id < 60 AND id % 1 = 0 OFFSET 0"
    found = only(look(f"SELECT count(*) FROM ({inner}) a JOIN parts b ON b.n = a.id", **HASHED), "estimate_off")
    assert found.node == "Seq Scan on public.small"
    assert found.sentence.startswith("Seq Scan on public.small: 1 row expected, 59 actual; and of Hash Join above it ")


@pytest.mark.parametrize(
    ("statement", "within"),
    [
        ('UPDATE "Fired" SET n = n', {"before_row", "before_all"}),
        ("DELETE FROM seen_fired", {"instead"}),
    ],
)
def test_the_time_of_a_trigger_within_a_node_counts_once(
    look: Callable[..., Explanation], statement: str, within: set[str]
) -> None:
    explained = look(statement)
    assert {trigger for _, trigger in explained.within} == within
    lines = [line.split() for line in explain_command.text(explained, bars=False).splitlines() if line[4:5] == "%"]
    own = {" ".join(line[3:]): float(line[1].replace(",", "")) for line in lines}
    assert sum(own.values()) <= explained.execution_ms + 0.5
    assert max(took for label, took in own.items() if label.startswith("ModifyTable")) < 30


@pytest.mark.parametrize("view", ["session_monitoring_view", "performance_monitoring_view", "instrumentation.session_stats",
                                  "instrumentation.session_activity", "pgvigil.job_status", "pgvigil.partitions"])  # fmt: skip
def test_our_own_views_are_sound_on_a_new_install(fresh: Database, view: str) -> None:
    assert explaining.explain(settings(fresh), f"SELECT * FROM {view}", ()).sound


def test_a_subplan_is_charged_to_whom_it_serves(look: Callable[..., Explanation]) -> None:
    """EXPLAIN puts a CTE under the top node; the scan of the CTE includes its time and pages."""
    explained = look("WITH c AS MATERIALIZED (SELECT * FROM big ORDER BY n) SELECT count(*) FROM c", work_mem="64MB")
    lines = {
        line.split("  ")[-1].strip(): line.split() for line in explain_command.text(explained, bars=False).splitlines()
    }
    own = [float(line[1].replace(",", "")) for line in lines.values() if line and line[0].endswith("%")]
    assert sum(own) <= explained.execution_ms + 0.5
    assert not any("pages" in label for label in lines if label.startswith("CTE Scan"))


# --- nothing stays ---------------------------------------------------------------------------------------------------

REFUSED = [
    "COMMIT", "; /* a /* -- b */ */ Commit AND CHAIN", "--x\nROLLBACK", "PREPARE TRANSACTION 'x'", "END",
    "INSERT INTO kept VALUES (1); COMMIT", "INSERT INTO kept VALUES (1); SELECT 1", "CALL commits()",
    "DO $$ BEGIN INSERT INTO kept VALUES (1); COMMIT; END $$", "VACUUM kept", "CREATE DATABASE kept",
    "ALTER SYSTEM SET work_mem = '5MB'", "COPY kept FROM STDIN", "COPY (SELECT 1) TO PROGRAM 'cat'",
    "EXPLAIN ANALYZE INSERT INTO kept VALUES (1); COMMIT",
]  # fmt: skip


@pytest.mark.parametrize("verb", ["profile", "explain"])
@pytest.mark.parametrize("statement", REFUSED)
def test_what_cannot_be_rolled_back_is_refused_and_writes_nothing(
    call: Run, world: Database, verb: str, statement: str
) -> None:
    done = call("pgvigil", verb, "--database-url", world.url, statement)
    assert (done.returncode, done.stdout) == (2, ""), done.stderr
    assert world.execute("SELECT (SELECT count(*) FROM kept) + (SELECT count(*) FROM pg_prepared_xacts)") == [(0,)]


@pytest.mark.parametrize(
    "statement",
    [
        "INSERT INTO kept SELECT generate_series(1, 3)",
        "CREATE TABLE more AS SELECT generate_series(1, 3)",
        "WITH gone AS (DELETE FROM small WHERE id < 4 RETURNING id) INSERT INTO kept SELECT id FROM gone",
    ],
)
def test_what_is_written_is_counted_and_taken_back(call: Run, world: Database, statement: str) -> None:
    told = json.loads(call("pgvigil", "profile", "--json", "-n", "4", "--database-url", world.url, statement).stdout)
    assert (told["iterations"], told["row_count"], len(told["times_ms"])) == (4, 3, 4)
    assert 0 < told["min_ms"] <= told["avg_ms"] <= told["max_ms"]
    assert told["p95_ms"] in told["times_ms"]
    assert call("pgvigil", "explain", "--database-url", world.url, statement).returncode == 0
    found = "SELECT (SELECT count(*) FROM kept), (SELECT count(*) FROM small), to_regclass('more')"
    assert world.execute(found) == [(0, 100, None)]


def test_a_database_is_as_before_when_every_run_fails(call: Run, world: Database) -> None:
    done = call("pgvigil", "profile", "--database-url", world.url, "INSERT INTO kept VALUES (1), (0)")
    assert done.returncode == 2
    assert 'violates check constraint "kept_n_check"' in done.stderr
    assert world.execute("SELECT count(*) FROM kept") == [(0,)]


# --- the commands ----------------------------------------------------------------------------------------------------


@pytest.mark.client_side
def test_the_report_of_explain_has_findings_then_the_plan(call: Run, world: Database) -> None:
    done = call("pgvigil", "explain", "--database-url", world.url, "SELECT * FROM big WHERE id = $1", "-p", "7")
    first, _, finding, _, head, *plan = done.stdout.splitlines()
    assert first.endswith(" ms; 1 row; rolled back")
    assert finding == "note      Index Scan on public.big uses big_pkey, for 1 row"
    assert head.split() == ["time", "own", "ms", "rows"]
    assert "Index Scan on public.big using big_pkey" in plan[0]
    assert done.returncode == 0


@pytest.mark.client_side
def test_explain_ends_with_1_when_something_is_wrong_and_tells_it_to_machines(call: Run, world: Database) -> None:
    statement = "SELECT * FROM big WHERE k = 7 AND l = 7"
    done = call("pgvigil", "explain", "--json", "--database-url", world.url, statement)
    told = json.loads(done.stdout)
    assert (done.returncode, told["row_count"], set(told)) == (
        1, 1000, {"execution_ms", "planning_ms", "row_count", "findings", "plan"},
    )  # fmt: skip
    assert set(told["findings"][0]) == {"finding", "level", "node", "sentence", "fix"}
    assert told["plan"]["Plan"]["Node Type"]


@pytest.mark.client_side
def test_bars_show_where_the_time_goes(look: Callable[..., Explanation]) -> None:
    lines = explain_command.text(look("SELECT count(*) FROM big"), bars=True).splitlines()
    assert any("█" in line for line in lines)
    assert len({line.index("█") for line in lines if "█" in line}) == 1


@pytest.mark.client_side
def test_a_histogram_shows_how_the_times_lie() -> None:
    times = (1.0, 1.0, 1.05, 1.1, 9.0)
    profile = profiling.Profile(5, 40, 1.0, 9.0, 2.63, 9.0, times)
    assert profile_command.text(profile, bars=False) == (
        "5 runs, each rolled back; 40 rows\nmin 1.000 ms   avg 2.630 ms   p95 9.000 ms   max 9.000 ms"
    )
    drawn = profile_command.text(profile, bars=True).splitlines()
    assert drawn[3] == f"       1.000 to        2.000 ms  {'█' * 40} 4"
    assert drawn[4] == "       2.000 to        3.000 ms"
    assert drawn[-1] == f"       8.000 to        9.000 ms  {'█' * 10} 1"


@pytest.mark.client_side
def test_parameters_are_given_in_their_order(call: Run, world: Database) -> None:
    words = ["profile", "--json", "-n", "1", "--database-url", world.url]
    query = "SELECT FROM small WHERE id BETWEEN $1 AND $2 AND coalesce($3, 'none') = 'none'"
    done = call("pgvigil", *words, query, "-p", "11", "--param=20", "-p", r"\N")
    assert json.loads(done.stdout)["row_count"] == 10


@pytest.mark.client_side
def test_a_statement_comes_from_a_file_or_from_stdin(
    call: Run, world: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    words = ["profile", "--json", "-n", "1", "--database-url", world.url]
    (tmp_path / "query.sql").write_text("-- ten\nSELECT FROM small WHERE id <= 10;\n")
    assert json.loads(call("pgvigil", *words, "-f", tmp_path / "query.sql").stdout)["row_count"] == 10
    monkeypatch.setattr(sys, "stdin", io.StringIO("SELECT FROM small WHERE id <= 20"))
    assert json.loads(call("pgvigil", *words).stdout)["row_count"] == 20


@pytest.mark.client_side
@pytest.mark.parametrize(
    "words", [["SELECT 1", "-f", "x.sql"], [";"], ["-f", "no such file"], ["SELECT 1", "-n", "0"], []]
)
def test_a_call_without_a_statement_is_2(
    call: Run, words: list[str], monkeypatch: pytest.MonkeyPatch, world: Database
) -> None:
    monkeypatch.setattr(sys, "stdin", io.StringIO(""))
    assert call("pgvigil", "profile", "--database-url", world.url, *words).returncode == 2


@pytest.mark.client_side
@pytest.mark.parametrize("verb", ["profile", "explain"])
def test_a_fault_in_a_statement_is_told_with_its_place(call: Run, world: Database, verb: str) -> None:
    done = call("pgvigil", verb, "--database-url", world.url, "SELECT id\nFROM small WHERE no = 1")
    assert done.returncode == 2
    assert 'error: the statement failed: column "no" does not exist (line 2, column 18)\n' in done.stderr


@pytest.mark.client_side
def test_a_lock_that_does_not_come_free_is_6_and_a_missing_right_4(call: Run, world: Database) -> None:
    words = ["profile", "--database-url", world.url]
    with world.connect(autocommit=False) as other:
        other.execute("SELECT FROM small WHERE id = 1 FOR UPDATE")
        assert call("pgvigil", *words, "SELECT FROM small WHERE id = 1 FOR UPDATE NOWAIT").returncode == 6
        other.rollback()
    denied = "DO $$ BEGIN SET LOCAL ROLE pg_monitor; PERFORM FROM small; END $$"
    done = call("pgvigil", *words, denied)
    assert (done.returncode, "permission denied" in done.stderr) == (4, True)


@pytest.mark.client_side
def test_a_lost_connection_is_3(call: Run, world: Database) -> None:
    done = call("pgvigil", "profile", "--database-url", world.url, "SELECT pg_terminate_backend(pg_backend_pid())")
    assert done.returncode == 3


@pytest.mark.client_side
def test_a_terminal_is_not_waited_for() -> None:
    terminal = io.StringIO()
    terminal.isatty = lambda: True  # type: ignore[method-assign]
    with pytest.raises(Exception, match="no statement was given"):
        given(None, None, terminal)
