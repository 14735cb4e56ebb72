"""Keeps the last calls, to answer what happened lately: in all, to one tool, to one user, over time."""

from __future__ import annotations

import csv
import io
import json
import math
import threading
from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass
from typing import Any, Final, NamedTuple, TypeAlias

import orjson

from toolpost.calls import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError

MAX_TOOLS: Final = 10_000
"""How many tools have totals of their own; those beyond share one entry, "(other)"."""

OTHER: Final = "(other)"

_TRIM_ROWS: Final = 256
_MAX_TREND_BUCKETS: Final = 10_000
_MAX_NAME: Final = 200
_MAX_METADATA_BYTES: Final = 4096
_FORMULA_STARTS: Final = ("=", "+", "-", "@", "\t", "\r")

Row: TypeAlias = tuple[float, str, bool, float, str | None, str | None]
"""One call: wall time (s) at its end, tool, success, duration (ms), user_id, error_type."""


class AnnotatedRow(NamedTuple):
    """A Row with what its recorder wanted to add, as JSON."""

    at: float
    tool: str
    success: bool
    elapsed_ms: float
    user_id: str | None
    error_type: str | None
    metadata: Any


@dataclass(frozen=True, slots=True, kw_only=True)
class SystemMetrics:
    """What happened in a stretch of time; all zeros when no call did.

    Times are milliseconds, error_rate is in percent.
    top_tools holds up to ten {"tool_name", "count"}, the most called first; recent_errors up to ten failed
    calls, the last one last. window_minutes is how much of the time asked for the history covers: less than
    asked for when more calls came than it holds, and executions_per_minute is over these minutes.
    """

    total_executions: int = 0
    successful_executions: int = 0
    failed_executions: int = 0
    average_execution_time: float = 0.0
    min_execution_time: float = 0.0
    max_execution_time: float = 0.0
    error_rate: float = 0.0
    executions_per_minute: float = 0.0
    top_tools: tuple[dict[str, Any], ...] = ()
    recent_errors: tuple[dict[str, Any], ...] = ()
    window_minutes: float = 0.0


class _Sums:
    """How many calls, how many of them went well, and how long they took (ms); on top of after, if given."""

    __slots__ = ("count", "highest", "lowest", "succeeded", "time")

    def __init__(self, rows: Iterable[Row | AnnotatedRow] = (), after: _Sums | None = None) -> None:
        self.count: int = 0 if after is None else after.count
        self.succeeded: int = 0 if after is None else after.succeeded
        self.time: float = 0.0 if after is None else after.time
        self.lowest: float = math.inf if after is None else after.lowest
        self.highest: float = 0.0 if after is None else after.highest
        self.add_all(list(rows))

    def add_all(self, rows: list[Row | AnnotatedRow]) -> None:
        if not rows:
            return
        times = [row[3] for row in rows]
        self.count += len(rows)
        self.time += sum(times)
        self.succeeded += sum([1 for row in rows if row[2]])
        self.lowest = min(self.lowest, min(times))
        self.highest = max(self.highest, max(times))

    @property
    def success_rate(self) -> float:
        return 100.0 * self.succeeded / self.count if self.count else 0.0

    @property
    def average(self) -> float:
        return self.time / self.count if self.count else 0.0

    def counts(self) -> dict[str, Any]:
        return {
            "total_executions": self.count,
            "successful_executions": self.succeeded,
            "failed_executions": self.count - self.succeeded,
        }

    def times(self) -> dict[str, Any]:
        return {
            "average_execution_time": self.average,
            "min_execution_time": self.lowest if self.count else 0.0,
            "max_execution_time": self.highest,
        }

    def to_dict(self) -> dict[str, Any]:
        return {**self.counts(), "success_rate": self.success_rate, **self.times()}


class MetricsCollector:
    """The last max_history calls, and totals for each tool that outlive them. Safe from any thread.

    Windows and users are answered from the history. The totals of a tool count every call since the start or
    the last clear_metrics().
    """

    def __init__(self, max_history: int = 10000, clock: Clock = SYSTEM_CLOCK) -> None:
        if max_history < 1:
            raise ConfigurationError(f"MetricsCollector: max_history must be at least 1, got {max_history!r}")
        self.max_history = max_history
        self._now = clock.now
        self._lock = threading.Lock()
        self.rows: list[Row | AnnotatedRow] = []
        """The history, oldest first; the engine appends here itself, and calls tend from time to time."""
        self.trim_at = max_history + _TRIM_ROWS
        self._dropped: dict[str, _Sums] = {}
        self._complete_since = -math.inf

    def note(self, row: Row | AnnotatedRow) -> None:
        """Keep one call, as the engine does it. The row is kept as it is, so its strings must be bounded.

        One append, which is atomic. Each 256th call of a full history adds the oldest rows to their tools'
        totals.
        """
        rows = self.rows
        rows.append(row)
        if len(rows) >= self.trim_at:
            self.tend()

    def tend(self) -> None:
        """Trim the history if it is time, unless another thread is at it: a call never waits here."""
        if len(self.rows) >= self.trim_at and self._lock.acquire(blocking=False):
            try:
                self._trim()
            finally:
                self._lock.release()

    def record_tool_execution(
        self,
        tool_name: str,
        success: bool,
        execution_time_ms: float,
        user_id: str | None = None,
        error_type: str | None = None,
        metadata: Mapping[str, Any] | None = None,
    ) -> None:
        """Keep one call that ended now. Names are cut at 200 characters; metadata is JSON, up to 4 kB."""
        row: Row = (
            self._now(),
            tool_name[:_MAX_NAME],
            bool(success),
            max(0.0, float(execution_time_ms)),
            None if user_id is None else user_id[:_MAX_NAME],
            None if error_type is None else error_type[:_MAX_NAME],
        )
        self.note(AnnotatedRow(*row, _as_json(metadata)) if metadata else row)

    def get_system_metrics(self, time_window_minutes: float = 60) -> SystemMetrics:
        """What happened in the last minutes, to all tools together."""
        now = self._now()
        history, complete_since = self._history()
        rows = _since(history, now - 60.0 * time_window_minutes)
        covered = min(max(0.0, time_window_minutes), max(1.0, now - complete_since) / 60.0)
        if not rows:
            return SystemMetrics(window_minutes=covered)
        sums = _Sums(rows)
        return SystemMetrics(
            **sums.counts(),
            **sums.times(),
            error_rate=100.0 - sums.success_rate,
            executions_per_minute=sums.count / covered if covered else 0.0,
            top_tools=tuple(_most_used(rows)[:10]),
            recent_errors=tuple(_error(row) for row in [r for r in rows if not r[2]][-10:]),
            window_minutes=covered,
        )

    def get_tool_metrics(self, tool_name: str) -> dict[str, Any]:
        """The totals of a tool since the start, and of its calls of the last day as far as the history goes.

        Keys: tool_name, total_executions, successful_executions, failed_executions, success_rate (percent),
        average_execution_time, min_execution_time, max_execution_time (ms), and recent_24h with executions,
        success_rate and average_execution_time. A tool never called has zeros.
        """
        with self._lock:
            self._trim()
            rows = [row for row in self.rows[:] if row[1] == tool_name]
            totals = _Sums(rows, after=self._dropped.get(tool_name))
        return self._tool_report(tool_name, totals, rows)

    def get_user_metrics(self, user_id: str, time_window_minutes: float = 60) -> dict[str, Any]:
        """What a user did in the last minutes.

        Keys: user_id, time_window_minutes, tools_used (a list of {"tool_name", "count"}, the most used first)
        and those of get_tool_metrics but recent_24h.
        """
        history, _ = self._history()
        cutoff = self._now() - 60.0 * time_window_minutes
        rows = [row for row in _since(history, cutoff) if row[4] == user_id]
        return {
            "user_id": user_id,
            "time_window_minutes": time_window_minutes,
            **_Sums(rows).to_dict(),
            "tools_used": _most_used(rows),
        }

    def get_performance_trends(self, hours: float = 24, bucket_minutes: float = 60) -> dict[str, Any]:
        """The last hours, cut into stretches of bucket_minutes, the oldest first.

        {"buckets": [...], "summary": {...}}: a bucket has timestamp (its begin, wall time in seconds) and the
        counts, success_rate and times of get_tool_metrics; the summary has the same for all, with hours and
        bucket_minutes. Raises ConfigurationError when that is no number of buckets between 1 and 10,000.
        """
        count = math.ceil(60.0 * hours / bucket_minutes) if hours > 0 and bucket_minutes > 0 else 0
        if not 1 <= count <= _MAX_TREND_BUCKETS:
            raise ConfigurationError(
                f"trends over {hours!r} hours cannot be cut into buckets of {bucket_minutes!r} minutes; "
                f"choose both above 0, so that there are at most {_MAX_TREND_BUCKETS} buckets"
            )
        width_s = 60.0 * bucket_minutes
        start = self._now() - 3600.0 * hours
        history, _ = self._history()
        rows = _since(history, start)
        buckets = [_Sums() for _ in range(count)]
        for row in rows:
            buckets[min(count - 1, int((row[0] - start) / width_s))].add_all([row])
        return {
            "buckets": [{"timestamp": start + i * width_s, **sums.to_dict()} for i, sums in enumerate(buckets)],
            "summary": {"hours": hours, "bucket_minutes": bucket_minutes, **_Sums(rows).to_dict()},
        }

    def export_metrics(self, format: str = "json") -> str:
        """Everything known, as text.

        json: an object with export_timestamp, system_metrics, tool_metrics {name: ...}, performance_trends
        and executions (the history). csv: the history, one call a line under a header; text that a
        spreadsheet would take for a formula is prefixed with an apostrophe. Raises ConfigurationError for
        another format.
        """
        match format.lower():
            case "json":
                return self._to_json()
            case "csv":
                return _to_csv(self._history()[0])
        raise ConfigurationError(f"metrics cannot be exported as {format!r}; choose 'json' or 'csv'")

    def clear_metrics(self, older_than_hours: float | None = None) -> int:
        """Forget calls, and return how many left the history.

        With older_than_hours only calls older than that leave it, and the totals of the tools keep counting
        them; without it the totals begin at zero again, too.
        """
        with self._lock:
            self._trim()
            before = len(self.rows)
            if older_than_hours is None:
                del self.rows[:before]
                self._dropped.clear()
                self._complete_since = -math.inf
                return before
            cutoff = self._now() - 3600.0 * older_than_hours
            kept = [row for row in self.rows[:before] if row[0] >= cutoff]
            self._drop([row for row in self.rows[:before] if row[0] < cutoff])
            self.rows[:before] = kept
            self._complete_since = max(self._complete_since, cutoff)
            return before - len(kept)

    def _history(self) -> tuple[list[Row | AnnotatedRow], float]:
        """The rows kept, oldest first, and since when none of them is missing."""
        with self._lock:
            self._trim()
            return self.rows[:], self._complete_since

    def _trim(self) -> None:
        """Move rows beyond max_history into the totals; the lock is held. Others may append meanwhile."""
        excess = len(self.rows) - self.max_history
        if excess > 0:
            oldest = self.rows[:excess]
            self._drop(oldest)
            del self.rows[:excess]
            self._complete_since = max(self._complete_since, oldest[-1][0])

    def _drop(self, rows: list[Row | AnnotatedRow]) -> None:
        dropped = self._dropped
        by_tool: dict[str, list[Row | AnnotatedRow]] = {name: [] for name in dict.fromkeys([row[1] for row in rows])}
        if len(by_tool) == 1:
            by_tool = dict.fromkeys(by_tool, rows)
        else:
            for row in rows:
                by_tool[row[1]].append(row)
        for tool, of_tool in by_tool.items():
            name = tool if tool in dropped or len(dropped) < MAX_TOOLS else OTHER
            dropped.setdefault(name, _Sums()).add_all(of_tool)

    def _tool_report(self, name: str, totals: _Sums, rows: list[Row | AnnotatedRow]) -> dict[str, Any]:
        recent = _Sums(_since(rows, self._now() - 24 * 3600.0))
        return {
            "tool_name": name,
            **totals.to_dict(),
            "recent_24h": {
                "executions": recent.count,
                "success_rate": recent.success_rate,
                "average_execution_time": recent.average,
            },
        }

    def _to_json(self) -> str:
        with self._lock:
            self._trim()
            history = self.rows[:]
            rows_of: dict[str, list[Row | AnnotatedRow]] = {name: [] for name in self._dropped}
            for row in history:
                rows_of.setdefault(row[1], []).append(row)
            totals = {name: _Sums(rows, after=self._dropped.get(name)) for name, rows in rows_of.items()}
        export = {
            "export_timestamp": self._now(),
            "system_metrics": asdict(self.get_system_metrics()),
            "tool_metrics": {name: self._tool_report(name, totals[name], rows_of[name]) for name in rows_of},
            "performance_trends": self.get_performance_trends(),
            "executions": [_execution(row) for row in history],
        }
        return _json_text(export)


def _json_text(value: Any) -> str:
    """value as JSON. A name with half a surrogate pair, which is no UTF-8, is what orjson refuses."""
    try:
        return orjson.dumps(value, default=str).decode()
    except TypeError:
        return json.dumps(value, default=str)


def _since(rows: list[Row | AnnotatedRow], cutoff: float) -> list[Row | AnnotatedRow]:
    return [row for row in rows if row[0] >= cutoff]


def _most_used(rows: list[Row | AnnotatedRow]) -> list[dict[str, Any]]:
    counts = Counter(row[1] for row in rows)
    return [{"tool_name": name, "count": n} for name, n in counts.most_common()]


def _error(row: Row | AnnotatedRow) -> dict[str, Any]:
    at, tool, _, elapsed_ms, user_id, error_type = row[:6]
    return {
        "tool_name": tool,
        "error_type": error_type,
        "timestamp": at,
        "execution_time_ms": elapsed_ms,
        "user_id": user_id,
    }


def _execution(row: Row | AnnotatedRow) -> dict[str, Any]:
    """A row as JSON; its keys are the columns of the CSV export."""
    at, tool, success, elapsed_ms, user_id, error_type = row[:6]
    return {
        "timestamp": at,
        "tool_name": tool,
        "success": success,
        "execution_time_ms": elapsed_ms,
        "user_id": user_id,
        "error_type": error_type,
        "metadata": row.metadata if isinstance(row, AnnotatedRow) else None,
    }


def _to_csv(rows: list[Row | AnnotatedRow]) -> str:
    out = io.StringIO()
    header = ["timestamp", "tool_name", "success", "execution_time_ms", "user_id", "error_type", "metadata"]
    writer = csv.writer(out)
    writer.writerow(header)
    for row in rows:
        execution = _execution(row)
        if execution["metadata"] is not None:
            execution["metadata"] = orjson.dumps(execution["metadata"]).decode()
        writer.writerow([_cell(value) for value in execution.values()])
    return out.getvalue()


def _cell(value: Any) -> Any:
    """A value as a spreadsheet may read it: never as a formula. Source: OWASP, CSV injection."""
    if value is None:
        return ""
    if isinstance(value, str) and value.startswith(_FORMULA_STARTS):
        return "'" + value
    return value


def _as_json(metadata: Mapping[str, Any]) -> Any:
    """metadata as JSON values that can be exported later, or a word on why it was not kept."""
    try:
        text = orjson.dumps(dict(metadata), default=str, option=orjson.OPT_NON_STR_KEYS)
    except (TypeError, ValueError):
        return {"omitted": "not JSON"}
    if len(text) > _MAX_METADATA_BYTES:
        return {"omitted": f"{len(text)} bytes of JSON, more than {_MAX_METADATA_BYTES}"}
    return orjson.loads(text)


_collector: MetricsCollector | None = None
_collector_lock = threading.Lock()


def get_metrics_collector() -> MetricsCollector:
    """The collector of this process, made on first need."""
    global _collector
    with _collector_lock:
        if _collector is None:
            _collector = MetricsCollector()
        return _collector
