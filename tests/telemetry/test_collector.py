"""The history of calls: windows, users, trends, exports and their bounds."""

import csv
import io
import json
import math
import threading

import pytest

from toolpost.calls import Clock
from toolpost.calls.errors import ConfigurationError
from toolpost.telemetry import collector as collector_module
from toolpost.telemetry.collector import MetricsCollector, SystemMetrics, get_metrics_collector

START = 1_700_000_000.0


class ManualClock(Clock):
    """A clock that stands still until it is moved."""

    def __init__(self) -> None:
        self.at = START
        self.now = lambda: self.at

    def advance(self, seconds: float) -> None:
        self.at += seconds


@pytest.fixture
def clock() -> ManualClock:
    return ManualClock()


@pytest.fixture
def collector(clock: ManualClock) -> MetricsCollector:
    return MetricsCollector(clock=clock)


def test_system_metrics_tell_counts_times_in_ms_and_rates(collector: MetricsCollector) -> None:
    collector.record_tool_execution("Math.Add", True, 10.0, user_id="u1")
    collector.record_tool_execution("Math.Add", True, 20.0)
    collector.record_tool_execution("Web.Fetch", True, 30.0)
    collector.record_tool_execution("Web.Fetch", False, 40.0, user_id="u1", error_type="TimeoutError")

    metrics = collector.get_system_metrics(time_window_minutes=60)

    assert metrics == SystemMetrics(
        total_executions=4,
        successful_executions=3,
        failed_executions=1,
        average_execution_time=25.0,
        min_execution_time=10.0,
        max_execution_time=40.0,
        error_rate=25.0,
        executions_per_minute=4 / 60,
        top_tools=({"tool_name": "Math.Add", "count": 2}, {"tool_name": "Web.Fetch", "count": 2}),
        recent_errors=(
            {
                "tool_name": "Web.Fetch",
                "error_type": "TimeoutError",
                "timestamp": START,
                "execution_time_ms": 40.0,
                "user_id": "u1",
            },
        ),
        window_minutes=60,
    )


def test_a_window_leaves_out_what_is_older(collector: MetricsCollector, clock: ManualClock) -> None:
    collector.record_tool_execution("old", True, 1.0)
    clock.advance(3601)
    collector.record_tool_execution("new", True, 1.0)

    metrics = collector.get_system_metrics(time_window_minutes=60)

    assert [tool["tool_name"] for tool in metrics.top_tools] == ["new"]


def test_top_tools_are_the_ten_most_called_and_errors_the_ten_last(collector: MetricsCollector) -> None:
    for n in range(12):
        for _ in range(n + 1):
            collector.record_tool_execution(f"t{n}", False, 1.0, error_type=f"E{n}")

    metrics = collector.get_system_metrics()

    assert [tool["tool_name"] for tool in metrics.top_tools] == [f"t{n}" for n in range(11, 1, -1)]
    assert [error["error_type"] for error in metrics.recent_errors] == ["E11"] * 10


@pytest.mark.parametrize("minutes", [60, 0, -5, 0.001])
def test_an_empty_window_gives_zeros(collector: MetricsCollector, minutes: float) -> None:
    metrics = collector.get_system_metrics(time_window_minutes=minutes)

    assert metrics == SystemMetrics(window_minutes=max(0, minutes))


def test_a_window_of_no_length_has_no_rate(collector: MetricsCollector) -> None:
    collector.record_tool_execution("Math.Add", True, 1.0)

    assert collector.get_system_metrics(time_window_minutes=0).executions_per_minute == 0.0


def test_the_rate_is_over_the_minutes_that_a_full_history_covers(clock: ManualClock) -> None:
    collector = MetricsCollector(max_history=100, clock=clock)
    for _ in range(1000):
        clock.advance(0.6)
        collector.record_tool_execution("Math.Add", True, 1.0)

    metrics = collector.get_system_metrics(time_window_minutes=60)

    assert metrics.total_executions == 100
    assert metrics.window_minutes == pytest.approx(1.0)
    assert metrics.executions_per_minute == pytest.approx(100.0)


def test_a_tools_totals_outlive_the_history(clock: ManualClock) -> None:
    collector = MetricsCollector(max_history=10, clock=clock)
    for n in range(1000):
        collector.record_tool_execution("Math.Add", n % 4 != 0, float(n + 1), error_type="E")
    collector.record_tool_execution("Web.Fetch", True, 5.0)

    told = collector.get_tool_metrics("Math.Add")

    assert told == {
        "tool_name": "Math.Add",
        "total_executions": 1000,
        "successful_executions": 750,
        "failed_executions": 250,
        "success_rate": 75.0,
        "average_execution_time": 500.5,
        "min_execution_time": 1.0,
        "max_execution_time": 1000.0,
        "recent_24h": {
            "executions": 9,
            "success_rate": pytest.approx(100 * 7 / 9),
            "average_execution_time": 996.0,
        },
    }


def test_recent_24h_leaves_out_what_is_older_than_a_day(collector: MetricsCollector, clock: ManualClock) -> None:
    collector.record_tool_execution("Math.Add", False, 100.0)
    clock.advance(24 * 3600 + 1)
    collector.record_tool_execution("Math.Add", True, 10.0)

    told = collector.get_tool_metrics("Math.Add")

    assert told["total_executions"] == 2
    assert told["recent_24h"] == {"executions": 1, "success_rate": 100.0, "average_execution_time": 10.0}


def test_an_unknown_tool_has_zeros(collector: MetricsCollector) -> None:
    told = collector.get_tool_metrics("No.Such")

    assert (told["total_executions"], told["success_rate"], told["min_execution_time"]) == (0, 0.0, 0.0)
    assert told["recent_24h"]["executions"] == 0


def test_the_history_is_bounded_however_many_calls_come(clock: ManualClock) -> None:
    collector = MetricsCollector(max_history=1000, clock=clock)
    most = 0
    for n in range(20_000):
        collector.note((START, f"t{n % 7}", True, 1.0, None, None))
        most = max(most, len(collector.rows))

    assert most <= 1256
    assert collector.get_system_metrics().total_executions == 1000
    assert sum(collector.get_tool_metrics(f"t{n}")["total_executions"] for n in range(7)) == 20_000


def test_tools_beyond_the_bound_share_their_totals(clock: ManualClock, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(collector_module, "MAX_TOOLS", 3)
    collector = MetricsCollector(max_history=1, clock=clock)
    for n in range(10):
        collector.note((START, f"t{n}", True, 1.0, None, None))

    assert collector.get_tool_metrics("t2")["total_executions"] == 1
    assert collector.get_tool_metrics("(other)")["total_executions"] == 6


def test_a_history_of_nothing_is_refused() -> None:
    with pytest.raises(ConfigurationError, match="max_history must be at least 1, got 0"):
        MetricsCollector(max_history=0)


def test_user_metrics_tell_what_a_user_used(collector: MetricsCollector, clock: ManualClock) -> None:
    collector.record_tool_execution("Old.Tool", True, 1.0, user_id="user123")
    clock.advance(7200)
    for tool, success in (("Web.Fetch", True), ("Math.Add", True), ("Math.Add", False)):
        collector.record_tool_execution(tool, success, 6.0, user_id="user123")
    collector.record_tool_execution("Math.Add", True, 99.0, user_id="someone else")

    told = collector.get_user_metrics("user123", time_window_minutes=60)

    assert told["tools_used"] == [
        {"tool_name": "Math.Add", "count": 2},
        {"tool_name": "Web.Fetch", "count": 1},
    ]
    assert (told["total_executions"], told["failed_executions"]) == (3, 1)
    assert told["success_rate"] == pytest.approx(200 / 3)
    assert told["average_execution_time"] == 6.0


def test_a_user_who_did_nothing_used_no_tools(collector: MetricsCollector) -> None:
    told = collector.get_user_metrics("nobody")

    assert (len(told["tools_used"]), told["success_rate"]) == (0, 0.0)


def test_trends_cut_the_time_into_buckets_the_oldest_first(collector: MetricsCollector, clock: ManualClock) -> None:
    collector.record_tool_execution("too old", True, 1.0)
    clock.advance(4 * 3600)
    collector.record_tool_execution("Math.Add", True, 10.0)
    clock.advance(2 * 3600)
    collector.record_tool_execution("Math.Add", False, 30.0)

    trends = collector.get_performance_trends(hours=3, bucket_minutes=60)

    assert [bucket["total_executions"] for bucket in trends["buckets"]] == [0, 1, 1]
    assert [bucket["timestamp"] for bucket in trends["buckets"]] == [
        START + 3 * 3600,
        START + 4 * 3600,
        START + 5 * 3600,
    ]
    assert [bucket["success_rate"] for bucket in trends["buckets"]] == [0.0, 100.0, 0.0]
    assert trends["summary"]["total_executions"] == 2
    assert trends["summary"]["max_execution_time"] == 30.0


def test_buckets_that_do_not_fit_the_hours_evenly_lose_no_call(collector: MetricsCollector, clock: ManualClock) -> None:
    for _ in range(100):
        clock.advance(36)
        collector.record_tool_execution("Math.Add", True, 1.0)

    trends = collector.get_performance_trends(hours=1, bucket_minutes=7)

    assert len(trends["buckets"]) == math.ceil(60 / 7)
    assert sum(bucket["total_executions"] for bucket in trends["buckets"]) == 100


@pytest.mark.parametrize(("hours", "minutes"), [(24, 0), (24, -1), (0, 60), (1e9, 1)])
def test_trends_that_cannot_be_cut_are_refused(collector: MetricsCollector, hours: float, minutes: float) -> None:
    with pytest.raises(ConfigurationError, match="cannot be cut into buckets"):
        collector.get_performance_trends(hours=hours, bucket_minutes=minutes)


def test_the_json_export_holds_everything(clock: ManualClock) -> None:
    collector = MetricsCollector(max_history=1, clock=clock)
    collector.record_tool_execution("Gone.Already", True, 5.0)
    collector.record_tool_execution("Math.Add", False, 7.0, "u1", "TimeoutError", {"region": "eu", "n": {2}})

    export = json.loads(collector.export_metrics("json"))

    assert export["export_timestamp"] == START
    assert export["system_metrics"]["failed_executions"] == 1
    assert {name: tool["total_executions"] for name, tool in export["tool_metrics"].items()} == {
        "Gone.Already": 1,
        "Math.Add": 1,
    }
    assert len(export["performance_trends"]["buckets"]) == 24
    assert export["executions"] == [
        {
            "timestamp": START,
            "tool_name": "Math.Add",
            "success": False,
            "execution_time_ms": 7.0,
            "user_id": "u1",
            "error_type": "TimeoutError",
            "metadata": {"region": "eu", "n": "{2}"},
        }
    ]


def test_a_name_that_is_not_unicode_does_not_spoil_the_export(collector: MetricsCollector) -> None:
    collector.record_tool_execution("half \ud800 pair", True, 1.0)

    assert list(json.loads(collector.export_metrics())["tool_metrics"]) == ["half \ud800 pair"]


def test_the_csv_export_has_a_line_for_each_call(collector: MetricsCollector) -> None:
    collector.record_tool_execution("Math.Add", True, 1.5, "u1", metadata={"a": 1})
    collector.record_tool_execution('Odd, "name"\nindeed', False, 2.5, None, "TimeoutError")

    rows = list(csv.DictReader(io.StringIO(collector.export_metrics("csv"))))

    assert rows[0] == {
        "timestamp": str(START),
        "tool_name": "Math.Add",
        "success": "True",
        "execution_time_ms": "1.5",
        "user_id": "u1",
        "error_type": "",
        "metadata": '{"a":1}',
    }
    assert (rows[1]["tool_name"], rows[1]["user_id"]) == ('Odd, "name"\nindeed', "")


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_csv_cell_is_never_a_formula(collector: MetricsCollector, start: str) -> None:
    formula = f"{start}cmd|' /C calc'!A0"
    collector.record_tool_execution(formula, False, 1.0, user_id=formula, error_type=formula)

    text = collector.export_metrics("csv")

    row = list(csv.reader(io.StringIO(text, newline="")))[1]
    assert row[1] == row[4] == row[5] == "'" + formula


def test_another_export_format_is_refused_and_the_two_are_named(collector: MetricsCollector) -> None:
    with pytest.raises(ConfigurationError, match="'xml'; choose 'json' or 'csv'"):
        collector.export_metrics("xml")


def test_clearing_forgets_everything_and_tells_how_much(clock: ManualClock) -> None:
    collector = MetricsCollector(max_history=5, clock=clock)
    for _ in range(8):
        collector.record_tool_execution("Math.Add", True, 1.0)

    removed = collector.clear_metrics()

    assert removed == 5
    assert collector.get_tool_metrics("Math.Add")["total_executions"] == 0
    assert collector.get_system_metrics() == SystemMetrics(window_minutes=60)


def test_clearing_what_is_old_keeps_the_rest_and_the_totals(collector: MetricsCollector, clock: ManualClock) -> None:
    collector.record_tool_execution("Math.Add", True, 1.0)
    clock.advance(3 * 3600)
    collector.record_tool_execution("Math.Add", True, 3.0)

    removed = collector.clear_metrics(older_than_hours=2)

    assert removed == 1
    assert collector.get_system_metrics(time_window_minutes=600).total_executions == 1
    assert collector.get_system_metrics(time_window_minutes=600).window_minutes == 120
    assert collector.get_tool_metrics("Math.Add")["total_executions"] == 2


def test_long_names_are_cut_and_durations_that_are_none_count_as_zero(collector: MetricsCollector) -> None:
    collector.record_tool_execution("x" * 10_000, True, math.nan, user_id="u" * 10_000)
    collector.record_tool_execution("y", True, -3.0)

    (long, short) = collector.rows

    assert (len(long[1]), len(long[4] or ""), long[3], short[3]) == (200, 200, 0.0, 0.0)


def test_metadata_that_cannot_be_kept_says_why(collector: MetricsCollector) -> None:
    loop: dict[str, object] = {}
    loop["self"] = loop
    collector.record_tool_execution("a", True, 1.0, metadata=loop)
    collector.record_tool_execution("b", True, 1.0, metadata={"blob": "x" * 5000})

    executions = json.loads(collector.export_metrics())["executions"]

    assert executions[0]["metadata"] == {"omitted": "not JSON"}
    assert executions[1]["metadata"]["omitted"].endswith("more than 4096")


def test_calls_noted_by_many_threads_while_others_read_are_all_counted(clock: ManualClock) -> None:
    collector = MetricsCollector(max_history=500, clock=clock)

    def work() -> None:
        for _ in range(5_000):
            collector.note((START, "Math.Add", True, 1.0, None, None))

    def read() -> None:
        for _ in range(50):
            collector.get_system_metrics()
            collector.get_tool_metrics("Math.Add")

    threads = [threading.Thread(target=target) for target in (work, read, work, work, read, work)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()

    assert collector.get_tool_metrics("Math.Add")["total_executions"] == 20_000
    assert collector.get_system_metrics().total_executions == 500


def test_the_process_has_one_collector() -> None:
    assert get_metrics_collector() is get_metrics_collector()
    assert isinstance(get_metrics_collector(), MetricsCollector)
