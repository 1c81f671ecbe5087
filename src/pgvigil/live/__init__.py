"""The part that an application imports while it runs: it records into the monitoring tables without being slowed by them."""

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

__all__ = [
    "ExecutionPage",
    "ExecutionTracker",
    "Recorder",
    "Sampler",
    "SamplerStats",
    "SessionPerformanceMonitor",
    "Stats",
    "get_performance_monitor",
    "initialize_performance_monitoring",
    "instrument",
    "transactions",
]
