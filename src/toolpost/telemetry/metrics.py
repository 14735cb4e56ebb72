"""Counts calls and their durations, per tool and in sum, in constant memory; others publish the numbers."""

from __future__ import annotations

import math
import struct
import sys
import threading
from array import array
from collections import Counter
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, Final, TypeVar

if TYPE_CHECKING:
    from toolpost.calls.definition import ToolDefinition

T = TypeVar("T")

MAX_TOOLS: Final = 10_000
"""How many tools and operations are told apart; those beyond share one entry."""

MAX_ERROR_CODES: Final = 32
"""How many error codes of one tool are told apart; those beyond share one entry."""

OTHER: Final = "(other)"
"""The name of what is beyond a bound."""

QUANTILE_ERROR: Final = 1 / 33
"""How far a quantile may be from the exact one, relative to it: about 3.03 %."""

BATCH: Final = 256
"""How many calls may be pending before they are folded."""
_TOP_WORD: Final = slice(3 if sys.byteorder == "little" else 0, None, 4)


def _buckets(durations_s: list[float]) -> list[int]:
    """The histogram bucket of each duration (not negative): the upper 16 bits of its IEEE 754 double.

    They are the exponent and four bits of the mantissa, so each doubling is cut into 16 equal steps and a
    bucket is at most 1/16 wider than its lower edge, over the whole range of a float. Nothing here runs per
    duration in Python.
    """
    return memoryview(array("d", durations_s)).cast("B").cast("H")[_TOP_WORD].tolist()


def _middle(bucket: int) -> float:
    """The duration that is at most QUANTILE_ERROR from any in the bucket: the harmonic mean of its edges."""
    low, high = struct.unpack(">2d", struct.pack(">2Q", bucket << 48, (bucket + 1) << 48))
    return float(2.0 * low / (1.0 + low / high))


class Programs:
    """What programs used: sums, but the most memory that one of them had. Counts by name are bounded as errors are."""

    __slots__ = ("cpu_s", "denied_syscalls", "peak_memory_bytes", "runs", "signals", "written_bytes")

    def __init__(self) -> None:
        self.runs = 0
        self.cpu_s = 0.0
        self.peak_memory_bytes = 0
        self.written_bytes = 0
        self.denied_syscalls: dict[str, int] = {}
        self.signals: dict[str, int] = {}

    def count(self, used: Mapping[str, Any]) -> None:
        """Count one program."""
        self.runs += 1
        self.cpu_s += used.get("cpu_s") or 0.0
        self.written_bytes += used.get("written_bytes") or 0
        self.peak_memory_bytes = max(self.peak_memory_bytes, used.get("peak_memory_bytes") or 0)
        for name, n in (used.get("denied_syscalls") or {}).items():
            _add_bounded(self.denied_syscalls, name, n)
        if used.get("exit_signal"):
            _add_bounded(self.signals, used["exit_signal"], 1)

    def add(self, other: Programs) -> None:
        """Count other's programs here too."""
        self.runs += other.runs
        self.cpu_s += other.cpu_s
        self.written_bytes += other.written_bytes
        self.peak_memory_bytes = max(self.peak_memory_bytes, other.peak_memory_bytes)
        for mine, theirs in ((self.denied_syscalls, other.denied_syscalls), (self.signals, other.signals)):
            for name, n in theirs.items():
                _add_bounded(mine, name, n)

    def to_dict(self) -> dict[str, Any]:
        """As JSON."""
        return {
            "runs": self.runs,
            "cpu_s": self.cpu_s,
            "peak_memory_bytes": self.peak_memory_bytes,
            "written_bytes": self.written_bytes,
            "denied_syscalls": dict(self.denied_syscalls),
            "signals": dict(self.signals),
        }


def _add_bounded(counts: dict[str, int], name: str, n: int) -> None:
    if name not in counts and len(counts) >= MAX_ERROR_CODES:
        name = OTHER
    counts[name] = counts.get(name, 0) + n


class Totals:
    """What became of a number of calls: a plain value without a lock, which can be added to another.

    requests counts every call taken up, cache hits, replays and refusals included; failures every call that gave no
    value, refused ones (rejected) included. Durations are in seconds; min_s and max_s are 0.0 when there was
    no call. errors maps an error code to how often it came.
    """

    __slots__ = (
        "_histogram",
        "_highest_s",
        "_lowest_s",
        "cache_hits",
        "errors",
        "failures",
        "programs",
        "rejected",
        "replays",
        "requests",
        "total_s",
    )

    def __init__(self) -> None:
        self.requests = 0
        self.failures = 0
        self.rejected = 0
        self.cache_hits = 0
        self.replays = 0
        self.total_s = 0.0
        self.errors: dict[str, int] = {}
        self.programs: Programs | None = None
        """What programs used that bodies ran, None where no body has told of any."""
        self._lowest_s = math.inf
        self._highest_s = 0.0
        self._histogram: Counter[int] = Counter()

    @property
    def min_s(self) -> float:
        return self._lowest_s if self.requests else 0.0

    @property
    def max_s(self) -> float:
        return self._highest_s

    @property
    def average_s(self) -> float:
        """0.0 when there was no call."""
        return self.total_s / self.requests if self.requests else 0.0

    def add(self, other: Totals) -> None:
        """Count other's calls here too."""
        self.requests += other.requests
        self.failures += other.failures
        self.rejected += other.rejected
        self.cache_hits += other.cache_hits
        self.replays += other.replays
        self.total_s += other.total_s
        self._lowest_s = min(self._lowest_s, other._lowest_s)
        self._highest_s = max(self._highest_s, other._highest_s)
        self._histogram.update(other._histogram)
        for code, n in other.errors.items():
            self.add_error(code, n)
        if other.programs is not None:
            self.programs = self.programs or Programs()
            self.programs.add(other.programs)

    def add_durations(self, durations_s: list[float]) -> None:
        """Take up one call for each duration. What is no duration (negative, not finite) counts as 0.0."""
        if not durations_s:
            return
        lowest, total = min(durations_s), sum(durations_s)
        if not (lowest > 0.0 and total < math.inf):
            durations_s = [d if 0.0 < d < math.inf else 0.0 for d in durations_s]
            lowest, total = min(durations_s), sum(durations_s)
        self.requests += len(durations_s)
        self.total_s += total
        self._lowest_s = min(self._lowest_s, lowest)
        self._highest_s = max(self._highest_s, *durations_s)
        self._histogram.update(_buckets(durations_s))

    def add_error(self, code: str, n: int = 1) -> None:
        """Count an error code, under "(other)" once MAX_ERROR_CODES are known."""
        if code not in self.errors and len(self.errors) >= MAX_ERROR_CODES:
            code = OTHER
        self.errors[code] = self.errors.get(code, 0) + n

    def histogram(self) -> Mapping[int, int]:
        """How many durations there were of each bucket: the upper 16 bits of their IEEE 754 doubles."""
        return self._histogram

    def quantile(self, q: float) -> float | None:
        """The duration in seconds that a share q (0 to 1) of the calls did not exceed; None without a call.

        It is the nearest-rank quantile, at most QUANTILE_ERROR off; the shortest and the longest are exact.
        """
        if not 0.0 <= q <= 1.0:
            raise ValueError(f"a quantile is asked for between 0 and 1, got {q!r}")
        if not self.requests:
            return None
        rank = max(1, math.ceil(q * self.requests))
        if rank == 1:
            return self._lowest_s
        if rank >= self.requests:
            return self._highest_s
        seen = 0
        for bucket in sorted(self._histogram):
            seen += self._histogram[bucket]
            if seen >= rank:
                return min(max(_middle(bucket), self._lowest_s), self._highest_s)
        return self._highest_s

    def to_dict(self) -> dict[str, Any]:
        """As JSON. Durations are seconds, rates shares between 0 and 1; without a call every number is 0."""
        requests = self.requests
        successes = max(0, requests - self.failures)
        programs = {} if self.programs is None else {"programs": self.programs.to_dict()}
        return {
            "requests": requests,
            "failures": self.failures,
            "cache_hits": self.cache_hits,
            "replays": self.replays,
            "avg_processing_time": self.average_s,
            "successes": successes,
            "rejected": self.rejected,
            "error_rate": min(1.0, self.failures / requests) if requests else 0.0,
            "cache_hit_rate": min(1.0, self.cache_hits / requests) if requests else 0.0,
            "min": self.min_s,
            "max": self.max_s,
            "p50": self.quantile(0.5) or 0.0,
            "p95": self.quantile(0.95) or 0.0,
            "p99": self.quantile(0.99) or 0.0,
            "errors": dict(self.errors),
            **programs,
        }


class ToolStats:
    """The numbers of one tool or operation. Safe from any thread.

    record only appends to a short list, which is atomic; each 128 calls, and whenever somebody reads, the
    list is folded into the totals under a lock. A lock on every call costs more than all the rest of record.
    """

    __slots__ = ("_failed", "_lock", "_totals", "hits", "operation", "replays", "runs", "tool")

    def __init__(self, tool: str = "", operation: str | None = None) -> None:
        self.tool = tool
        self.operation = operation
        self._lock = threading.Lock()
        self.runs: list[float] = []
        """Durations of calls that ran well and are not folded yet; the engine appends here itself, then calls tend."""
        self.hits: list[float] = []
        """The same of calls that a cache answered."""
        self.replays: list[float] = []
        """The same of calls that were given the result of an earlier one with their idempotency key."""
        self._failed: list[tuple[float, str | None, bool, bool]] = []
        self._totals = Totals()

    @property
    def name(self) -> str:
        """The tool, and the operation after a dot when there is one."""
        return self.tool if self.operation is None else f"{self.tool}.{self.operation}"

    def record(
        self, elapsed_s: float, error_code: str | None = None, rejected: bool = False, cached: bool = False
    ) -> None:
        """Count one call: failed if it has an error_code or was rejected; cached if a cache answered it."""
        if error_code is None and not rejected:
            pending = self.hits if cached else self.runs
            pending.append(elapsed_s)
            full = len(pending) >= BATCH
        else:
            self._failed.append((elapsed_s, error_code, rejected, cached))
            full = len(self._failed) >= BATCH
        if full:
            self.tend()

    def use(self, used: Mapping[str, Any]) -> None:
        """Count what one program used: fields of ToolUsage that only a body can know."""
        with self._lock:
            totals = self._totals
            if totals.programs is None:
                totals.programs = Programs()
            totals.programs.count(used)

    def tend(self) -> None:
        """Fold what is pending, unless another thread is at it: then the next call will see to it."""
        if self._lock.acquire(blocking=False):
            try:
                self._fold()
            finally:
                self._lock.release()

    def snapshot(self) -> Totals:
        """A copy of the totals up to now."""
        copy = Totals()
        with self._lock:
            self._fold()
            copy.add(self._totals)
        return copy

    def reset(self) -> None:
        """Begin at zero again."""
        with self._lock:
            self._fold()
            self._totals = Totals()

    @property
    def requests(self) -> int:
        return self._folded().requests

    @property
    def failures(self) -> int:
        return self._folded().failures

    @property
    def rejected(self) -> int:
        return self._folded().rejected

    @property
    def cache_hits(self) -> int:
        return self._folded().cache_hits

    def quantile(self, q: float) -> float | None:
        """The duration in seconds that a share q of the calls did not exceed, at most QUANTILE_ERROR off."""
        return self.snapshot().quantile(q)

    def to_dict(self) -> dict[str, Any]:
        """As JSON; see Totals.to_dict."""
        return self.snapshot().to_dict()

    def _folded(self) -> Totals:
        with self._lock:
            self._fold()
            return self._totals

    def _fold(self) -> None:
        """Move what is pending into the totals; the lock is held."""
        hits, replays, failed = _drain(self.hits), _drain(self.replays), _drain(self._failed)
        durations = _drain(self.runs)
        totals = self._totals
        totals.cache_hits += len(hits)
        totals.replays += len(replays)
        durations += hits + replays
        for elapsed_s, code, rejected, cached in failed:
            durations.append(elapsed_s)
            totals.rejected += rejected
            totals.cache_hits += cached
            totals.add_error(code or "rejected")
        totals.failures += len(failed)
        totals.add_durations(durations)


def _drain(pending: list[T]) -> list[T]:
    """Take what is in a list to which other threads append meanwhile: both steps are atomic."""
    taken = pending[:]
    del pending[: len(taken)]
    return taken


class ExecutorMetrics:
    """The numbers of one executor: a ToolStats for each tool, and their sums. Safe from any thread."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._tools: dict[str, ToolStats] = {}
        self._other = ToolStats(OTHER)
        self._own = ToolStats()
        self._own_failures = 0
        self._own_cache_hits = 0

    def tool(self, tool: str, operation: str | None = None) -> ToolStats:
        """The stats of a tool or operation, made once; those beyond MAX_TOOLS share "(other)"."""
        name = tool if operation is None else f"{tool}.{operation}"
        with self._lock:
            stats = self._tools.get(name)
            if stats is None:
                if len(self._tools) >= MAX_TOOLS:
                    return self._other
                stats = self._tools[name] = ToolStats(tool, operation)
            return stats

    def of(self, definition: ToolDefinition) -> ToolStats:
        """The stats of a tool, or of the operation that it is of a class."""
        operation = definition.operation
        if operation is not None and definition.name.endswith(f".{operation}"):
            return self.tool(definition.name[: -len(operation) - 1], operation)
        return self.tool(definition.name)

    def tools(self) -> list[ToolStats]:
        """The stats of every tool known, "(other)" last."""
        with self._lock:
            return [*self._tools.values(), self._other]

    def record_request(self, processing_time: float) -> None:
        """Count a call of no particular tool; processing_time is in seconds."""
        self._own.record(processing_time)

    def record_failure(self) -> None:
        """Count a failure of a call that record_request counts."""
        with self._lock:
            self._own_failures += 1

    def record_cache_hit(self) -> None:
        """Count a cache hit of a call that record_request counts."""
        with self._lock:
            self._own_cache_hits += 1

    @property
    def requests(self) -> int:
        """Calls taken up, refused ones and cache hits included."""
        return self._own.requests + sum(stats.requests for stats in self.tools())

    @property
    def failures(self) -> int:
        """Calls that gave no value, refused ones included."""
        return self._own_failures + sum(stats.failures for stats in self.tools())

    @property
    def cache_hits(self) -> int:
        return self._own_cache_hits + sum(stats.cache_hits for stats in self.tools())

    @property
    def avg_processing_time(self) -> float:
        """Seconds; 0.0 when there was no call."""
        return self._sum([stats.snapshot() for stats in self.tools()]).average_s

    def to_dict(self) -> dict[str, Any]:
        """As JSON: the sums (see Totals.to_dict), and under tools the same for each tool that was called."""
        each = [(stats.name, stats.snapshot()) for stats in self.tools()]
        out = self._sum([totals for _, totals in each]).to_dict()
        out["tools"] = {name: totals.to_dict() for name, totals in each if totals.requests}
        return out

    def reset(self) -> None:
        """Begin at zero again; every ToolStats handed out stays in use."""
        for stats in self.tools():
            stats.reset()
        self._own.reset()
        with self._lock:
            self._own_failures = self._own_cache_hits = 0

    def _sum(self, each: list[Totals]) -> Totals:
        total = self._own.snapshot()
        with self._lock:
            total.failures += self._own_failures
            total.cache_hits += self._own_cache_hits
        for totals in each:
            total.add(totals)
        return total


ToolExecutorStats = ExecutorMetrics
