"""A report of a worker to the session monitor, as the pages of the web show it."""

from __future__ import annotations

import json
from typing import Any
from uuid import uuid4

from conftest import Database

WAIT = [1, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 0, 1, 90_000_000_000]
WELL: dict[str, int] = {"creations": 100, "closures": 98, "commits": 90, "rollbacks": 5, "errors": 2, "leaked": 1,
                        "detached": 3, "recoveries": 2, "recoveries_failed": 1, "timeouts/main": 4, "checkouts/main": 2}  # fmt: skip
GAUGES = {"active_sessions": 2, "busiest_process": 2, "pool_size/main": 5, "checked_out/main": 2, "checked_in/main": 3, "overflow/main": 0,
          "capacity/main": 10, "utilization/main": 0.2, "pending/main": 1}  # fmt: skip


def report(database: Database, application: str = "shop", ended: bool = False, **changes: Any) -> None:
    """Report one worker, with its counts."""
    worker = uuid4()
    counters = {
        **WELL,
        **{name: value for name, value in changes.items() if name in WELL or name.startswith("recorder/")},
    }
    gauges = {
        **GAUGES,
        **{name: value for name, value in changes.items() if name not in WELL and not name.startswith("recorder/")},
    }
    database.execute("SELECT pgvigil.register_monitor(%s, %s, 'host', 1, '1 hour')", (worker, application))
    database.execute(
        "SELECT pgvigil.report_monitor(%s, 1, %s, %s, %s, %s)",
        (
            worker,
            json.dumps(counters),
            json.dumps(dict.fromkeys(("wait/main", "use/main", "create/main", "session"), WAIT)),
            json.dumps(gauges),
            ended,
        ),
    )
