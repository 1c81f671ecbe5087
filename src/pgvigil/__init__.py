"""pgvigil: brings a live session database, new or existing, to a schema that watches it.

What an application uses of it is here: `pgvigil.Recorder`, `pgvigil.instrument` and the rest of pgvigil.live. It is imported when
it is first asked for, so the command line, which needs none of it, starts without.
"""

from typing import TYPE_CHECKING

__version__ = "0.1.0"

if TYPE_CHECKING:
    from pgvigil.live import transactions
    from pgvigil.live.counters import Stats
    from pgvigil.live.executions import ExecutionPage, ExecutionTracker
    from pgvigil.live.instrument import instrument
    from pgvigil.live.monitor import (
        SessionPerformanceMonitor,
        get_performance_monitor,
        initialize_performance_monitoring,
    )
    from pgvigil.live.recorder import Recorder
    from pgvigil.live.sampler import Sampler, SamplerStats
else:

    def __getattr__(name: str) -> object:
        if name in __all__:
            from importlib import import_module

            return getattr(import_module("pgvigil.live"), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


__all__ = [
    "ExecutionPage",
    "ExecutionTracker",
    "Recorder",
    "Sampler",
    "SamplerStats",
    "SessionPerformanceMonitor",
    "Stats",
    "__version__",
    "get_performance_monitor",
    "initialize_performance_monitoring",
    "instrument",
    "transactions",
]
