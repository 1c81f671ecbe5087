"""The result of a job's run, in words."""

from __future__ import annotations

import re
from collections.abc import Iterable

from pgvigil.text import counted

# What `rows` of its runs counts, and what was done with it.
_DONE = {
    "expiry": ("expired {}", "session"),
    "dormancy": ("marked {} dormant", "session"),
    "archive": ("archived {}", "session"),
    "orphans": ("deleted {}", "session"),
    "retention": ("deleted {}", "session"),
    "executions": ("deleted {}", "query execution"),
    "partitions": ("made partitions and moved rows: {}", "step"),
    "counters": ("added up {}", "change"),
    "rollup": ("counted {}", "log row"),
    "totals": ("counted {}", "query execution or event"),
    "aggregation": ("wrote {}", "aggregate"),
    "reap": ("closed or deleted {} of dead applications", "row"),
    "health": ("found {}", "finding"),
    "archive_files": ("archived {}", "row"),
    "holds": ("pushed {}", "hold"),
    "backup": ("backed up {}", "row"),
    "analyze": ("analyzed {}", "table"),
    "vacuum": ("vacuumed {}", "table"),
    "reindex": ("rebuilt {}", "index"),
}
_DROPPED = re.compile(r"dropped .* \(about (\d+) rows, [^()]*\)", re.DOTALL)
_MORE = "..."  # what report_job puts at the end of notes that it cut


def done(job: str, rows: int, notes: Iterable[str] = ()) -> str:
    """Return the result of a run in words: from `rows` of its row in pgvigil.job_runs, and for job retention from its notes on dropped partitions."""
    phrase, thing = _DONE.get(job, ("changed {}", "row"))
    notes = list(notes)
    dropped = [int(found[1]) for note in notes if (found := _DROPPED.fullmatch(note))] if job == "retention" else []
    if not dropped:
        return phrase.format(counted(rows, thing))
    if _MORE in notes:
        return f"deleted sessions and dropped more than {counted(len(dropped), 'partition')}, about {counted(rows, 'row')} in all"
    sessions = rows - sum(max(estimate, 1) for estimate in dropped)
    partitions = f"dropped {counted(len(dropped), 'partition')} (about {counted(sum(dropped), 'row')})"
    return f"deleted {counted(sessions, thing)}, {partitions}" if sessions > 0 else partitions
