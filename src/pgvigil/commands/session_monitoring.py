"""`pgvigil session-monitoring`: what do the SQLAlchemy sessions of an application do, over all its workers?"""

from __future__ import annotations

import argparse
import math

from pgvigil import database
from pgvigil.commands.common import options
from pgvigil.commands.common.groups import Group
from pgvigil.commands.common.target import required_target
from pgvigil.shipped import require_shipped

GROUP = Group.LOOK
SUMMARY = "SQLAlchemy sessions of all workers of an application; exit 3 when no worker reports"


def add_arguments(command: argparse.ArgumentParser) -> None:
    actions = options.actions(command)
    for name, text in (
        ("status", "workers, health, open sessions and pool"),
        ("summary", "the metrics in words"),
        ("metrics", "all metrics"),
        ("alerts", "what is wrong; exit 1 when something is"),
    ):
        action = options.add_action(actions, name, text)
        options.add_database(action)
        action.add_argument("--application", metavar="NAME", help="only this application (default: all that report)")
        if name != "summary":
            action.add_argument(
                "--format", choices=("text", "json"), default="text", help="form of the report (default %(default)s)"
            )
        if name == "alerts":
            action.add_argument(
                "--threshold", type=_threshold, default=1.0, metavar="SECONDS",
                help="an operation that takes longer is slow (default %(default)s)",
            )  # fmt: skip
    logging = options.add_action(actions, "enable-periodic-logging", "have each worker log its summary at an interval")
    options.add_database(logging)
    logging.add_argument("--application", metavar="NAME", required=True, help="the application")
    logging.add_argument(
        "--interval", type=options.seconds, default=300, metavar="SECONDS",
        help="time between two summaries, 1 to 86400; 0 ends it (default %(default)s)",
    )  # fmt: skip


def _threshold(text: str) -> float:
    value = float(text)
    if not 0 < value < math.inf:
        raise argparse.ArgumentTypeError(f"{text} is not a number of seconds greater than 0")
    return value


def run(arguments: argparse.Namespace) -> int:
    from pgvigil.live import monitor_workers as workers
    from pgvigil.migration import preflight

    with database.connect(required_target(arguments), "session-monitoring") as connection:
        require_shipped(connection)
        if arguments.action == "enable-periodic-logging":
            preflight.require_primary(connection)
            print(workers.set_logging(connection, arguments.application, arguments.interval))
            return 0
        found = workers.read(connection, arguments.application)
    as_json = getattr(arguments, "format", "text") == "json"
    if arguments.action == "alerts":
        alerts = workers.alerts_of(found, arguments.threshold)
        print(workers.as_json({"alerts": workers.alerts_document(alerts)}) if as_json else workers.alerts_text(alerts))
        return 1 if alerts else 0
    if as_json:
        print(workers.as_json({"applications": [one.document() for one in found]}))
        return 0
    texts = {"status": workers.status_text, "summary": workers.summary_text, "metrics": workers.metrics_text}
    print(texts[arguments.action](found))
    return 0
