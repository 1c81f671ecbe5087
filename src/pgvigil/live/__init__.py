"""The part that an application imports while it runs: it records into the monitoring tables without being slowed by them.

The list of the names that are public is `pgvigil.__all__`.
"""

from pgvigil.live import transactions as transactions
from pgvigil.live.counters import Stats as Stats
from pgvigil.live.executions import ExecutionPage as ExecutionPage
from pgvigil.live.executions import ExecutionTracker as ExecutionTracker
from pgvigil.live.instrument import instrument as instrument
from pgvigil.live.monitor import SessionPerformanceMonitor as SessionPerformanceMonitor
from pgvigil.live.monitor import get_performance_monitor as get_performance_monitor
from pgvigil.live.monitor import initialize_performance_monitoring as initialize_performance_monitoring
from pgvigil.live.recorder import Recorder as Recorder
from pgvigil.live.sampler import Sampler as Sampler
from pgvigil.live.sampler import SamplerStats as SamplerStats
