"""The counters: what they count, how exact they are, and that threads and floods do not harm them."""

import math
import threading

import pytest
from hypothesis import given, strategies as st

from toolpost.telemetry.metrics import (
    MAX_ERROR_CODES,
    MAX_TOOLS,
    OTHER,
    QUANTILE_ERROR,
    ExecutorMetrics,
    ToolExecutorStats,
    ToolStats,
)

durations = st.lists(st.floats(min_value=0.0, max_value=1e9), min_size=1, max_size=400)


def exact_quantile(values: list[float], q: float) -> float:
    """The nearest-rank quantile."""
    return sorted(values)[max(1, math.ceil(q * len(values))) - 1]


@given(durations, st.floats(min_value=0.0, max_value=1.0))
def test_a_quantile_is_within_the_stated_error_of_the_exact_one(values: list[float], q: float) -> None:
    stats = ToolStats()
    for value in values:
        stats.record(value)

    estimate = stats.quantile(q)

    exact = exact_quantile(values, q)
    assert estimate is not None
    assert abs(estimate - exact) <= QUANTILE_ERROR * exact * (1 + 1e-9) + 1e-300


def test_the_stated_error_is_under_four_percent() -> None:
    assert QUANTILE_ERROR <= 0.04


@given(durations)
def test_sums_and_extremes_are_exact(values: list[float]) -> None:
    stats = ToolStats()
    for value in values:
        stats.record(value)

    totals = stats.snapshot()

    assert (totals.requests, totals.min_s, totals.max_s) == (len(values), min(values), max(values))
    assert totals.total_s == pytest.approx(sum(values))


def test_a_tool_never_called_has_zeros_and_no_quantile() -> None:
    stats = ToolStats("Math.Add")

    told = stats.to_dict()

    assert stats.quantile(0.5) is None
    assert told.pop("errors") == {}
    assert set(told.values()) == {0}


def test_requests_count_refusals_and_cache_hits_and_failures_count_refusals() -> None:
    stats = ToolStats("Math", "add")
    stats.record(0.5)
    stats.record(0.1, cached=True)
    stats.record(0.2, "tool_failed")
    stats.record(0.0, "screened", rejected=True)

    told = stats.to_dict()

    assert (stats.requests, stats.failures, stats.rejected, stats.cache_hits) == (4, 2, 1, 1)
    assert (told["successes"], told["error_rate"], told["cache_hit_rate"]) == (2, 0.5, 0.25)
    assert told["avg_processing_time"] == pytest.approx(0.2)
    assert (told["min"], told["max"]) == (0.0, 0.5)
    assert told["errors"] == {"tool_failed": 1, "screened": 1}


def test_a_refusal_without_a_code_counts_as_rejected() -> None:
    stats = ToolStats()

    stats.record(0.0, rejected=True)

    assert stats.to_dict()["errors"] == {"rejected": 1}


@pytest.mark.parametrize("wrong", [-1.0, math.nan, math.inf, -0.0])
def test_what_is_no_duration_counts_as_zero_and_spoils_nothing(wrong: float) -> None:
    stats = ToolStats()
    stats.record(2.0)
    stats.record(wrong)
    stats.record(2.0)

    told = stats.to_dict()

    assert (told["requests"], told["min"], told["max"], told["p50"]) == (
        3,
        0.0,
        2.0,
        pytest.approx(2.0, rel=0.04),
    )
    assert told["avg_processing_time"] == pytest.approx(4 / 3)


@pytest.mark.parametrize("q", [-0.1, 1.1, math.nan])
def test_a_quantile_outside_zero_to_one_is_refused(q: float) -> None:
    with pytest.raises(ValueError, match="between 0 and 1"):
        ToolStats().quantile(q)


def test_error_codes_beyond_the_bound_share_one_entry() -> None:
    stats = ToolStats()
    for n in range(MAX_ERROR_CODES + 10):
        stats.record(0.1, f"code_{n}")

    errors = stats.to_dict()["errors"]

    assert len(errors) == MAX_ERROR_CODES + 1
    assert errors[OTHER] == 10


def test_calls_recorded_by_many_threads_while_others_read_are_all_counted() -> None:
    stats = ToolStats()

    def work() -> None:
        for n in range(5_000):
            stats.record(0.001, cached=n % 2 == 0)
            stats.record(0.001, "tool_failed")

    def read() -> None:
        for _ in range(200):
            stats.to_dict()

    threads = [threading.Thread(target=target) for target in (work, read, work, work, read, work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert (stats.requests, stats.failures, stats.cache_hits) == (40_000, 20_000, 10_000)
    assert stats.snapshot().total_s == pytest.approx(40.0)


def test_memory_does_not_grow_with_the_number_of_calls() -> None:
    stats = ToolStats()
    for n in range(100_000):
        stats.record(0.001 + n % 100 / 1000)

    pending = len(stats.runs) + len(stats.hits) + len(stats._failed)

    assert pending < 1_000
    assert len(stats.snapshot()._histogram) < 200


def test_metrics_have_the_documented_keys() -> None:
    told = ExecutorMetrics().to_dict()

    assert told == {
        "requests": 0,
        "failures": 0,
        "cache_hits": 0,
        "replays": 0,
        "avg_processing_time": 0.0,
        "successes": 0,
        "rejected": 0,
        "error_rate": 0.0,
        "cache_hit_rate": 0.0,
        "min": 0.0,
        "max": 0.0,
        "p50": 0.0,
        "p95": 0.0,
        "p99": 0.0,
        "errors": {},
        "tools": {},
    }


def test_an_executors_numbers_are_the_sums_of_its_tools() -> None:
    metrics = ExecutorMetrics()
    metrics.tool("Math", "add").record(1.0)
    metrics.tool("Math", "add").record(3.0, cached=True)
    metrics.tool("Web.Fetch").record(2.0, "timeout")
    metrics.tool("Never.Called")

    told = metrics.to_dict()

    assert (metrics.requests, metrics.failures, metrics.cache_hits) == (3, 1, 1)
    assert metrics.avg_processing_time == told["avg_processing_time"] == 2.0
    assert (told["min"], told["max"], told["errors"]) == (1.0, 3.0, {"timeout": 1})
    assert told["p50"] == pytest.approx(2.0, rel=QUANTILE_ERROR)
    assert {name: tool["requests"] for name, tool in told["tools"].items()} == {"Math.add": 2, "Web.Fetch": 1}


def test_a_tools_stats_are_made_once_and_know_tool_and_operation() -> None:
    metrics = ExecutorMetrics()

    stats = metrics.tool("Math", "add")

    assert metrics.tool("Math", "add") is stats
    assert (stats.tool, stats.operation, stats.name) == ("Math", "add", "Math.add")


def test_tools_beyond_the_bound_share_one_entry() -> None:
    metrics = ExecutorMetrics()
    for n in range(MAX_TOOLS):
        metrics.tool(f"t{n}")

    metrics.tool("one more").record(0.1)
    metrics.tool("and another").record(0.1)

    assert metrics.to_dict()["tools"][OTHER]["requests"] == 2
    assert metrics.tool("t0") is not metrics.tool("one more")


def test_the_class_can_be_used_by_itself_by_its_documented_names() -> None:
    metrics = ToolExecutorStats()
    metrics.record_request(0.2)
    metrics.record_request(0.4)
    metrics.record_failure()
    metrics.record_cache_hit()

    told = metrics.to_dict()

    assert {key: told[key] for key in ("requests", "failures", "cache_hits")} == {
        "requests": 2,
        "failures": 1,
        "cache_hits": 1,
    }
    assert told["avg_processing_time"] == pytest.approx(0.3)
    assert (metrics.requests, metrics.failures, metrics.cache_hits) == (2, 1, 1)


def test_a_reset_begins_at_zero_and_keeps_the_stats_in_use() -> None:
    metrics = ExecutorMetrics()
    stats = metrics.tool("Math.Add")
    stats.record(1.0, "tool_failed")
    metrics.record_request(1.0)
    metrics.record_failure()
    metrics.record_cache_hit()

    metrics.reset()
    stats.record(0.5)

    told = metrics.to_dict()
    assert (told["requests"], told["failures"], told["cache_hits"], told["errors"]) == (1, 0, 0, {})
    assert told["max"] == 0.5
