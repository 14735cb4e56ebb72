"""Figures: what one process has counted, as plain values that can be kept, added up over processes, and published."""

from __future__ import annotations

import logging
import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Final

from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import Pending
from toolpost.telemetry.metrics import ExecutorMetrics, Totals

if TYPE_CHECKING:
    from toolpost.telemetry.metric_files import MetricFiles

logger = logging.getLogger("toolpost")

EDGES_S: Final = (
    1 / 4096, 1 / 1024, 2.5 / 1024, 5 / 1024, 10 / 1024, 25 / 1024, 50 / 1024, 100 / 1024, 0.25, 0.5, 1.0, 2.5, 5.0,
    10.0, 30.0, 60.0, 120.0, 320.0,
)  # fmt: skip
"""The upper edges of a histogram's buckets in seconds, infinity besides. Each is an edge of the fine histogram that
Totals keep, whose steps are sixteenths of a doubling, so that no call is ever in the wrong bucket; 0.1 is none."""

_EDGES: Final = tuple(struct.unpack(">Q", struct.pack(">d", edge))[0] >> 48 for edge in EDGES_S)
METHODS: Final = frozenset({"GET", "HEAD", "POST", "PUT", "PATCH", "DELETE", "OPTIONS"})
OTHER: Final = "other"
PATIENCE_S: Final = 1.0
"""How long a store may take to say what waits in it."""

Labels = tuple[str, ...]
Key = tuple[str, Labels]
"""A family's name, and the values of its labels in their order."""


@dataclass(slots=True)
class Histogram:
    """How many durations were in each bucket of EDGES_S and above them, not summed up, and their sum in seconds."""

    counts: list[int] = field(default_factory=lambda: [0] * (len(EDGES_S) + 1))
    total_s: float = 0.0

    @classmethod
    def of(cls, totals: Totals) -> Histogram:
        """The durations of some calls."""
        counts = [0] * (len(EDGES_S) + 1)
        for bucket, n in totals.histogram().items():
            counts[sum(bucket >= edge for edge in _EDGES)] += n
        return cls(counts, totals.total_s)

    def add(self, other: Histogram) -> None:
        """Count other's here too."""
        self.counts = [mine + theirs for mine, theirs in zip(self.counts, other.counts, strict=True)]
        self.total_s += other.total_s


@dataclass(slots=True)
class Snapshot:
    """Counters and histograms, which only grow, and gauges, by family and labels."""

    counters: dict[Key, float] = field(default_factory=dict)
    histograms: dict[Key, Histogram] = field(default_factory=dict)
    gauges: dict[Key, float] = field(default_factory=dict)

    def count(self, family: str, labels: Labels, n: float) -> None:
        """Add to a counter."""
        self.counters[family, labels] = self.counters.get((family, labels), 0) + n

    def observe(self, family: str, labels: Labels, durations: Histogram) -> None:
        """Add to a histogram."""
        known = self.histograms.get((family, labels))
        if known is None:
            known = self.histograms[family, labels] = Histogram()
        known.add(durations)

    def add(self, other: Snapshot, *, gauges: bool = True) -> None:
        """Add what another process counted; gauges are of those alone that still live."""
        for (family, labels), n in other.counters.items():
            self.count(family, labels, n)
        for (family, labels), durations in other.histograms.items():
            self.observe(family, labels, durations)
        if gauges:
            for key, value in other.gauges.items():
                self.gauges[key] = self.gauges.get(key, 0) + value

    def to_json(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "counters": [[family, labels, n] for (family, labels), n in self.counters.items()],
            "histograms": [[family, labels, h.counts, h.total_s] for (family, labels), h in self.histograms.items()],
            "gauges": [[family, labels, value] for (family, labels), value in self.gauges.items()],
        }

    @classmethod
    def from_json(cls, value: Mapping[str, Any]) -> Snapshot:
        """What to_json gave; histograms with other buckets, of another version, are left out."""
        return cls(
            {(family, tuple(labels)): n for family, labels, n in value["counters"]},
            {
                (family, tuple(labels)): Histogram(counts, total_s)
                for family, labels, counts, total_s in value["histograms"]
                if len(counts) == len(EDGES_S) + 1
            },
            {(family, tuple(labels)): n for family, labels, n in value["gauges"]},
        )


Gauge = Callable[[], "float | Mapping[str, float]"]
"""Tells a number as it is now, or one for each value of the family's label. It is called from any thread."""


class Figures:
    """What one executor and the doors in front of it count in one process.

    request, task and delivery belong to one thread, that of the doors' event loop; the rest is safe from any. files,
    where it is set, has the figures of the other processes of a gateway; shared are gauges that are the same for all
    processes, and that whoever is asked finds out.
    """

    def __init__(self, metrics: ExecutorMetrics) -> None:
        self._metrics = metrics
        self._requests: dict[tuple[str, str, int], int] = {}
        self._tasks: dict[str, Totals] = {}
        self._deliveries: dict[str, int] = {}
        self._gauges: dict[str, Gauge] = {}
        self.shared: dict[str, Gauge] = {}
        self.files: MetricFiles | None = None

    def request(self, method: str, route: str, status: int) -> None:
        """Count an HTTP request by the template of its route ("" where there is none) and its answer's status."""
        key = (method if method in METHODS else OTHER, route, status // 100)
        self._requests[key] = self._requests.get(key, 0) + 1

    def task(self, state: str, elapsed_s: float) -> None:
        """Count an accepted call that ended here, in this state, after so long."""
        totals = self._tasks.get(state)
        if totals is None:
            totals = self._tasks[state] = Totals()
        totals.add_durations([elapsed_s])

    def delivery(self, state: str) -> None:
        """Count what became of an attempt to deliver a callback."""
        self._deliveries[state] = self._deliveries.get(state, 0) + 1

    def watch(self, family: str, gauge: Gauge, *, shared: bool = False) -> Callable[[], None]:
        """Have a gauge told; what comes back ends that."""
        gauges = self.shared if shared else self._gauges
        gauges[family] = gauge

        def end() -> None:
            if gauges.get(family) is gauge:
                del gauges[family]

        return end

    def snapshot(self) -> Snapshot:
        """What this process has counted up to now, without what is shared."""
        found = Snapshot()
        for stats in self._metrics.tools():
            totals = stats.snapshot()
            if totals.requests:
                _tell(found, stats.tool, stats.operation or "", totals)
        for (method, route, hundreds), n in self._requests.copy().items():
            found.count("toolpost_http_requests", (method, route or OTHER, f"{hundreds}xx"), n)
        for state, totals in self._tasks.copy().items():
            found.count("tool_executor_tasks", (state,), totals.requests)
            found.observe("tool_executor_duration_seconds", (), Histogram.of(totals))
        for state, n in self._deliveries.copy().items():
            found.count("toolpost_deliveries", (state,), n)
        told(found, self._gauges)
        return found


def at_once(answer: Any) -> Any:
    """What a store says, waited for in this thread, and not for long. Raises StoreUnavailableError."""
    return answer.wait(timeout_s=PATIENCE_S) if isinstance(answer, Pending) else answer


def told(found: Snapshot, gauges: Mapping[str, Gauge]) -> None:
    """Read gauges into a snapshot; one that breaks is left out."""
    for family, gauge in list(gauges.items()):
        try:
            value = gauge()
        except StoreUnavailableError as error:
            logger.warning("the gauge %s is left out: %s", family, error.message)
            continue
        except Exception:
            logger.exception("the gauge %s cannot be read", family)
            continue
        if isinstance(value, Mapping):
            found.gauges |= {(family, (label,)): float(n) for label, n in value.items()}
        else:
            found.gauges[family, ()] = float(value)


def _tell(found: Snapshot, tool: str, operation: str, totals: Totals) -> None:
    """The figures of one tool, under all names that its users' rules have for them."""
    failed = totals.failures - totals.rejected
    statuses = {"success": totals.requests - totals.failures, "failed": failed, "rejected": totals.rejected}
    for status, n in statuses.items():
        found.count("tool_executions", (tool, operation, status), n)
    found.count("tool_execution_failures", (tool, operation), failed)
    found.count("tool_cache_hits", (tool,), totals.cache_hits)
    found.count("tool_replays", (tool,), totals.replays)
    for code, n in totals.errors.items():
        found.count("tool_errors", (tool, code), n)
    durations = Histogram.of(totals)
    found.observe("tool_duration_seconds", (tool, operation), durations)
    found.observe("tool_execution_duration_seconds", (tool,), durations)
