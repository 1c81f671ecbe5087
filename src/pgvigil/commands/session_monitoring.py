"""`pgvigil session-monitoring`: what the sessions of an application do, over all its workers."""

from __future__ import annotations

import argparse

from pgvigil import database
from pgvigil.commands import call
from pgvigil.shipped import require_shipped


def session_monitoring(arguments: argparse.Namespace) -> int:
    from pgvigil.live import monitor_workers as workers

    with database.connect(call.required(arguments), "session-monitoring") as connection:
        require_shipped(connection)  # what is read is a view, and it calls functions with the rights of whoever reads
        if arguments.action == "enable-periodic-logging":
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
