"""What Prometheus is told of an executor: names, labels, formats, and that what is told is what was counted."""

import json
import socket
import threading
import time
import urllib.request
from pathlib import Path

import pytest
from hypothesis import given, strategies as st
from prometheus_client.openmetrics.parser import text_string_to_metric_families as openmetrics
from prometheus_client.parser import text_string_to_metric_families as plain

from toolpost import BaseTool, Cache, ConfigurationError, Tool, ToolExecutor
from toolpost.calls.errors import StoreUnavailableError
from toolpost.telemetry.figures import EDGES_S, Figures, Histogram, Snapshot
from toolpost.telemetry.metrics import ExecutorMetrics, Totals
from toolpost.telemetry.prometheus import FAMILIES, exposition, families, summed
from toolpost.testing import executor_for

METRICS = "toolpost.metrics"


class Math(BaseTool):
    def add(self, a: int) -> int:
        return a


@Tool(name="Demo.Fail", register=False)
def fail(how: str = "") -> int:
    raise ValueError(how)


@Tool(name="Demo.Kept", register=False, cache=Cache(ttl_s=60.0))
def kept(a: int = 0) -> int:
    return a


def called() -> ToolExecutor:
    executor = ToolExecutor()
    executor.add([Math(), fail, kept])
    for number in range(3):
        executor.call_sync("Math.add", a=number)
    for arguments in ({}, {"how": 3}, {"how": "x"}):
        with pytest.raises(Exception):  # noqa: B017, PT011 - each fails in a way of its own
            executor.call_sync("Demo.Fail", **arguments)
    for _ in range(2):
        executor.call_sync("Demo.Kept", a=1)
    return executor


def samples(text: str, parse=plain) -> dict:
    return {
        (sample.name, *sorted(sample.labels.items())): sample.value
        for family in parse(text)
        for sample in family.samples
    }


def value(found: dict, name: str, **labels: str) -> float:
    return found[(name, *sorted(labels.items()))]


class TestExposition:
    def test_it_has_the_names_and_labels_that_rules_and_dashboards_use(self):
        with called() as executor:
            body, content_type = exposition(executor)
        found = samples(body.decode())

        assert content_type.startswith("text/plain; version=0.0.4")
        for status, n in (("success", 3), ("failed", 0), ("rejected", 0)):
            assert value(found, "tool_executions_total", tool_name="Math", operation="add", status=status) == n
        for status, n in (("success", 0), ("failed", 2), ("rejected", 1)):
            assert value(found, "tool_executions_total", tool_name="Demo.Fail", operation="", status=status) == n
        assert value(found, "tool_execution_failures_total", tool_name="Demo.Fail", operation="") == 2
        assert value(found, "tool_errors_total", tool_name="Demo.Fail", error_type="tool_failed") == 2
        assert value(found, "tool_errors_total", tool_name="Demo.Fail", error_type="invalid_input") == 1
        assert value(found, "tool_cache_hits_total", tool_name="Demo.Kept") == 1
        assert value(found, "tool_duration_seconds_count", tool_name="Math", operation="add") == 3
        assert value(found, "tool_execution_duration_seconds_bucket", tool_name="Math", le="+Inf") == 3
        assert value(found, "tool_executor_active_threads") >= 0
        assert value(found, "toolpost_processes") == 1
        assert [v for (name, *_), v in found.items() if name == "toolpost_info"] == [1]

    @pytest.mark.parametrize(
        ("accept", "parse", "kind"),
        [
            ("application/openmetrics-text; version=1.0.0", openmetrics, "application/openmetrics-text; version=1.0.0"),
            ("application/openmetrics-text", openmetrics, "application/openmetrics-text; version=1.0.0"),
            ("text/plain;version=0.0.4", plain, "text/plain; version=0.0.4"),
            ("*/*", plain, "text/plain; version=0.0.4"),
            ("", plain, "text/plain; version=0.0.4"),
        ],
    )
    def test_it_is_in_the_format_that_was_asked_for(self, accept, parse, kind):
        with called() as executor:
            body, content_type = exposition(executor, accept)

        assert content_type.startswith(kind)
        assert body.endswith(b"# EOF\n") is (parse is openmetrics)
        assert value(samples(body.decode(), parse), "tool_executions_total", tool_name="Math", operation="add", status="success") == 3  # fmt: skip  # noqa: E501

    def test_every_name_is_on_the_page_of_metrics_with_its_labels(self):
        page = (Path(__file__).parents[2] / "docs" / "metrics.md").read_text(encoding="utf-8")

        for name, family in FAMILIES.items():
            told = f"{name}_total" if family.kind == "counter" else name
            labels = ", ".join(f"`{label}`" for label in family.labels)
            assert f"| `{told}` | {labels}{' ' if labels else ''}|" in page, told

    def test_nothing_says_who_called(self):
        labels = {label for family in FAMILIES.values() for label in family.labels}

        assert labels == {"tool_name", "operation", "status", "error_type", "state", "method", "route", "version"}

    def test_what_is_asked_of_no_executor_that_counted_is_no_error(self):
        with ToolExecutor() as executor:
            assert b"tool_executions" not in exposition(executor)[0]

    def test_a_gauge_that_breaks_is_left_out(self, caplog):
        def away() -> float:
            raise StoreUnavailableError("records are out of reach")

        def broken() -> float:
            raise RuntimeError("why")

        figures = Figures(ExecutorMetrics())
        figures.watch("toolpost_accepted_calls", away, shared=True)
        figures.watch("toolpost_calls_waiting", broken)
        end = figures.watch("toolpost_calls_in_flight", lambda: 3)
        found = summed(figures).gauges
        end()

        assert {name for name, _ in found} == {"toolpost_calls_in_flight", "toolpost_processes", "toolpost_info"}
        assert "records are out of reach" in caplog.text
        assert ("toolpost_calls_in_flight", ()) not in summed(figures).gauges


class TestCounting:
    def test_requests_are_counted_by_template_and_class_and_by_no_method_of_the_callers_own(self):
        figures = Figures(ExecutorMetrics())
        for method, route, status in (
            ("GET", "/v1/calls/{id}", 200),
            ("GET", "/v1/calls/{id}", 206),
            ("GET", "/v1/calls/{id}", 404),
            ("BREW", "", 405),
            ("XYZZY", "", 405),
        ):
            figures.request(method, route, status)

        found = {labels: n for (name, labels), n in figures.snapshot().counters.items() if "http" in name}
        assert found == {
            ("GET", "/v1/calls/{id}", "2xx"): 2,
            ("GET", "/v1/calls/{id}", "4xx"): 1,
            ("other", "other", "4xx"): 2,
        }

    def test_accepted_calls_are_counted_by_how_they_ended(self):
        figures = Figures(ExecutorMetrics())
        for state, elapsed_s in (("succeeded", 0.2), ("succeeded", 40.0), ("dead", 0.0)):
            figures.task(state, elapsed_s)
        found = samples("".join(_text(figures)))

        assert value(found, "tool_executor_tasks_total", state="succeeded") == 2
        assert value(found, "tool_executor_tasks_total", state="dead") == 1
        assert value(found, "tool_executor_duration_seconds_bucket", le="30.0") == 2
        assert value(found, "tool_executor_duration_seconds_count") == 3
        assert value(found, "tool_executor_duration_seconds_sum") == pytest.approx(40.2)


def _text(figures: Figures) -> str:
    class Of:
        pass

    Of.figures = figures
    return exposition(Of)[0].decode()


durations = st.lists(st.floats(0, 1000) | st.sampled_from([e * f for e in EDGES_S for f in (0.999999, 1.000001)]))


class TestHistograms:
    @given(durations)
    def test_no_call_is_ever_in_the_wrong_bucket(self, durations):
        totals = Totals()
        totals.add_durations([d for d in durations if d not in EDGES_S])

        counts = Histogram.of(totals).counts

        for index, edge in enumerate(EDGES_S):
            assert sum(counts[: index + 1]) == sum(d <= edge for d in durations if d not in EDGES_S)
        assert sum(counts) == totals.requests

    @given(durations, durations)
    def test_those_of_two_processes_add_up_and_outlive_json(self, mine, theirs):
        both, each = Snapshot(), []
        for values in (mine, theirs):
            totals = Totals()
            totals.add_durations(values)
            one = Snapshot()
            one.observe("tool_duration_seconds", ("a", ""), Histogram.of(totals))
            one.count("tool_cache_hits", ("a",), len(values))
            one.gauges["toolpost_calls_in_flight", ()] = len(values)
            each.append(one)
            both.add(Snapshot.from_json(one.to_json()), gauges=values is mine)

        assert both.counters == {("tool_cache_hits", ("a",)): len(mine) + len(theirs)}
        assert sum(both.histograms["tool_duration_seconds", ("a", "")].counts) == len(mine) + len(theirs)
        assert both.gauges == {("toolpost_calls_in_flight", ()): len(mine)}

    def test_buckets_of_another_version_are_left_out(self):
        value = {"counters": [], "gauges": [], "histograms": [["tool_duration_seconds", ["a", ""], [1, 2], 3.0]]}

        assert list(families(Snapshot.from_json(value))) == []


def fetched(port: int, path: str = "/metrics", accept: str = "") -> tuple[str, str]:
    request = urllib.request.Request(f"http://127.0.0.1:{port}{path}", headers={"Accept": accept})
    with urllib.request.urlopen(request, timeout=10) as answer:
        return answer.read().decode(), answer.headers["content-type"]


@pytest.fixture
def port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


class TestAPortOfItsOwn:
    def test_an_executor_tells_its_metrics_there_until_it_is_closed(self, port):
        with executor_for(kept, metrics_backend="prometheus", prometheus_port=port) as executor:
            executor.call_sync("Demo.Kept")
            text, content_type = fetched(port)
            other, other_type = fetched(port, accept="application/openmetrics-text; version=1.0.0")
            part, _ = fetched(port, "/metrics?name[]=tool_cache_hits_total")

        assert 'tool_executions_total{operation="",status="success",tool_name="Demo.Kept"} 1.0' in text
        assert content_type.startswith("text/plain")
        assert other.endswith("# EOF\n")
        assert other_type.startswith("application/openmetrics-text")
        assert "tool_cache_hits_total" in part
        assert "tool_executions_total" not in part
        with pytest.raises(OSError, match="refused"):
            fetched(port)

    def test_it_follows_the_settings(self, port):
        with executor_for(kept) as executor:
            executor.config.prometheus_port = port
            with pytest.raises(OSError, match="refused"):
                fetched(port)
            executor.config.metrics_backend = "prometheus"
            assert "toolpost_info" in fetched(port)[0]
            executor.config.metrics_backend = "none"
            with pytest.raises(OSError, match="refused"):
                fetched(port)

    def test_a_port_that_is_taken_is_logged_and_calls_go_on(self, port, caplog):
        with socket.socket() as one:
            one.bind(("127.0.0.1", port))
            one.listen()
            with executor_for(kept, metrics_backend="prometheus", prometheus_port=port) as executor:
                assert executor.call_sync("Demo.Kept", a=2) == 2

        assert f"metrics are not told on 127.0.0.1:{port}" in caplog.text

    def test_without_the_package_it_says_what_to_install(self, monkeypatch):
        monkeypatch.setattr("toolpost.engine.settings.find_spec", lambda name: None)

        with pytest.raises(ConfigurationError, match=r"prometheus-client; install toolpost\[serve\]"):
            ToolExecutor(metrics_backend="prometheus")


class TestLinesOfALog:
    def test_they_come_at_the_interval_and_at_the_end(self, caplog):
        with caplog.at_level("INFO", "toolpost.metrics"):
            with executor_for(kept, metrics_backend="log", metrics_interval=1) as executor:
                executor.call_sync("Demo.Kept")
                until = time.monotonic() + 10
                while not caplog.records and time.monotonic() < until:
                    time.sleep(0.02)
                first = told(caplog)
                executor.call_sync("Demo.Kept", a=2)
            lines = told(caplog)

        assert [line["requests"] for line in first] == [1]
        assert lines[-1]["requests"] == 2
        assert "toolpost-metrics" not in {one.name for one in threading.enumerate()}

    def test_they_follow_the_settings(self, caplog):
        with caplog.at_level("INFO", "toolpost.metrics"), executor_for(kept, metrics_interval=3600) as executor:
            executor.config.metrics_backend = "log"
            executor.config.metrics_interval = 1800
            assert len(told(caplog)) == 1  # the last one of the interval before
            executor.config.metrics_backend = "none"
            assert len(told(caplog)) == 2
        assert len(told(caplog)) == 2

    def test_metrics_that_cannot_be_told_stop_nothing(self, caplog, monkeypatch):
        with executor_for(kept, metrics_backend="log", metrics_interval=3600) as executor:
            monkeypatch.setattr(executor, "get_metrics", lambda: 1 / 0)
            assert executor.call_sync("Demo.Kept", a=2) == 2

        assert "metrics could not be told" in caplog.text


def told(caplog):
    return [json.loads(one.getMessage().removeprefix("metrics ")) for one in caplog.records if one.name == METRICS]
