"""Prometheus: an executor's figures in the formats that it reads, for a door's /metrics or a port of their own."""

from __future__ import annotations

import contextlib
import logging
import weakref
from collections.abc import Iterable, Iterator, Mapping
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import accumulate
from typing import TYPE_CHECKING, Any, Final, NamedTuple, Protocol

from toolpost.calls.errors import ConfigurationError
from toolpost.telemetry.figures import EDGES_S, Figures, Snapshot, told

if TYPE_CHECKING:
    from prometheus_client.metrics_core import Metric

logger = logging.getLogger("toolpost")
HOST: Final = "127.0.0.1"


class Family(NamedTuple):
    """What is told under one name. A counter's name ends in _total where it is told."""

    kind: str
    labels: tuple[str, ...]
    about: str


FAMILIES: Final[Mapping[str, Family]] = {
    "tool_executions": Family(
        "counter", ("tool_name", "operation", "status"), "Calls by how they ended: success, failed, rejected."
    ),
    "tool_execution_failures": Family("counter", ("tool_name", "operation"), "Calls that ran and failed."),
    "tool_errors": Family("counter", ("tool_name", "error_type"), "Failed and rejected calls by their error's code."),
    "tool_cache_hits": Family("counter", ("tool_name",), "Calls that a cache answered."),
    "tool_replays": Family("counter", ("tool_name",), "Calls that were given the result of an earlier one."),
    "tool_duration_seconds": Family("histogram", ("tool_name", "operation"), "How long calls took."),
    "tool_execution_duration_seconds": Family("histogram", ("tool_name",), "How long calls of a tool took."),
    "tool_executor_active_threads": Family("gauge", (), "Threads that run tools."),
    "tool_executor_abandoned_threads": Family("gauge", (), "Threads whose body outlived its deadline and runs on."),
    "tool_executor_tasks": Family("counter", ("state",), "Accepted calls that ended, by state."),
    "tool_executor_duration_seconds": Family("histogram", (), "How long accepted calls ran."),
    "toolpost_calls_in_flight": Family("gauge", (), "Calls of doors that run."),
    "toolpost_calls_waiting": Family("gauge", (), "Calls of doors that wait for a place."),
    "toolpost_accepted_calls": Family("gauge", ("state",), "Accepted calls that are not over, by state."),
    "toolpost_deliveries": Family(
        "counter", ("state",), "Callbacks: delivered, retried, failed (given up), disabled (their receivers are gone)."
    ),
    "toolpost_deliveries_outstanding": Family("gauge", (), "Callbacks that have not been delivered yet."),
    "toolpost_http_requests": Family("counter", ("method", "route", "status"), "HTTP requests by their answers."),
    "toolpost_processes": Family("gauge", (), "Processes whose figures these are the sum of."),
    "toolpost_info": Family("gauge", ("version",), "The version of toolpost; its value is 1."),
}
"""All that is told: nothing in it names a caller, a tenant or a call."""


class Counting(Protocol):
    """An executor, as far as it is of interest here."""

    @property
    def figures(self) -> Figures: ...


def exposition(executor: Counting, accept: str = "") -> tuple[bytes, str]:
    """The figures as text and its content type: OpenMetrics where the Accept header asks for it, else Prometheus' own.

    Where several processes answer for one gateway it is the sum over them. It reads files and may wait for a store for
    a second: call it in a thread. Raises ConfigurationError without the package prometheus-client.
    """
    try:
        from prometheus_client.exposition import choose_encoder
    except ModuleNotFoundError as missing:
        raise ConfigurationError("metrics need the package prometheus-client; install toolpost[serve]") from missing
    encode, content_type = choose_encoder(accept)
    return encode(_Found(executor.figures)), content_type


class Port:
    """A port of this machine on which an executor that no gateway serves tells its figures, until close()."""

    def __init__(self, executor: Counting, port: int) -> None:
        """Raises ConfigurationError without the package prometheus-client, OSError for a port that is taken."""
        try:
            from prometheus_client import start_http_server
        except ModuleNotFoundError as missing:
            raise ConfigurationError(
                "metrics_backend 'prometheus' needs the package prometheus-client; install toolpost[serve]"
            ) from missing
        self.port = port
        self._server, self._thread = start_http_server(port, HOST, registry=_Watched(executor))

    def close(self) -> None:
        """Answer no more."""
        self._server.shutdown()
        self._server.server_close()
        self._thread.join()


class _Found:
    """The figures as prometheus_client collects them."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Each family with its samples."""
        yield from families(summed(self._figures))


class _Watched(_Found):
    """The figures of an executor for as long as it is there."""

    def __init__(self, executor: Counting) -> None:
        self._executor = weakref.ref(executor)

    def collect(self) -> Iterator[Metric]:
        """Each family with its samples."""
        executor = self._executor()
        if executor is not None:
            yield from families(summed(executor.figures))

    def restricted_registry(self, names: Iterable[str]) -> Any:
        """These families alone, as ?name[]= asks for them."""
        wanted = set(names)

        class Restricted:
            def collect(_, found: _Watched = self) -> Iterator[Metric]:
                return (one for one in found.collect() if any(sample.name in wanted for sample in one.samples))

        return Restricted()


def summed(figures: Figures) -> Snapshot:
    """What all processes have counted, and what is the same for all of them."""
    processes = 1
    if figures.files is None:
        found = figures.snapshot()
    else:
        try:
            found, processes = figures.files.total()
        except OSError as error:
            logger.warning("the metrics of other processes cannot be read, so they are left out: %s", error)
            found = figures.snapshot()
    told(found, figures.shared)
    found.gauges["toolpost_processes", ()] = processes
    found.gauges["toolpost_info", (_version(),)] = 1
    return found


def families(found: Snapshot) -> Iterator[Metric]:
    """A snapshot as prometheus_client's families, those without a sample left out."""
    from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily

    samples: dict[str, list[tuple[tuple[str, ...], Any]]] = {}
    for kind in (found.counters, found.histograms, found.gauges):
        for (name, labels), value in kind.items():
            samples.setdefault(name, []).append((labels, value))
    for name, family in FAMILIES.items():
        if name not in samples:
            continue
        if family.kind == "histogram":
            histogram = HistogramMetricFamily(name, family.about, labels=family.labels)
            for labels, value in samples[name]:
                edges = zip((*map(repr, EDGES_S), "+Inf"), accumulate(value.counts), strict=True)
                histogram.add_metric(labels, list(edges), value.total_s)
            yield histogram
        else:
            made = {"counter": CounterMetricFamily, "gauge": GaugeMetricFamily}[family.kind]
            metric = made(name, family.about, labels=family.labels)
            for labels, value in samples[name]:
                metric.add_metric(labels, value)
            yield metric


@cache
def _version() -> str:
    with contextlib.suppress(PackageNotFoundError):
        return version("toolpost")
    return "unknown"
