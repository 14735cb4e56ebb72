"""MetricsPort: how an executor tells its figures by itself: on a port for Prometheus, or as lines of its log."""

from __future__ import annotations

import logging
import threading
import weakref
from typing import TYPE_CHECKING

import orjson

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor
    from toolpost.telemetry.prometheus import Port

logger = logging.getLogger("toolpost")
reports = logging.getLogger("toolpost.metrics")


class MetricsPort:
    """What metrics_backend says: a port that is open, or lines that are written. A port that is taken is logged."""

    def __init__(self) -> None:
        self._port: Port | None = None
        self._lines: _Lines | None = None

    def follow(self, executor: ToolExecutor) -> None:
        """Open, close or move it as the executor's settings say now."""
        self._follow_lines(executor)
        config = executor.config
        wanted = config.prometheus_port if config.metrics_backend == "prometheus" else None
        if self._port is not None and self._port.port != wanted:
            self._close_port()
        if wanted is None or self._port is not None:
            return
        from toolpost.telemetry.prometheus import HOST, Port

        try:
            self._port = Port(executor, wanted)
        except OSError as error:
            logger.warning("metrics are not told on %s:%d: %s", HOST, wanted, error)

    def _follow_lines(self, executor: ToolExecutor) -> None:
        config, lines = executor.config, self._lines
        wanted = config.metrics_interval if config.metrics_backend == "log" else None
        if lines is not None and lines.interval_s != wanted:
            self._lines = None
            lines.close()
        if wanted is not None and self._lines is None:
            self._lines = _Lines(executor, wanted)

    def close(self) -> None:
        """Close it; of lines the last one is written."""
        lines, self._lines = self._lines, None
        if lines is not None:
            lines.close()
        self._close_port()

    def _close_port(self) -> None:
        port, self._port = self._port, None
        if port is not None:
            port.close()


class _Lines:
    """A line of get_metrics() as JSON every interval_s seconds, from a thread, and one at the end."""

    def __init__(self, executor: ToolExecutor, interval_s: int) -> None:
        self.interval_s = interval_s
        self._executor = weakref.ref(executor, lambda _: self._ended.set())
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._work, name="toolpost-metrics", daemon=True)
        self._thread.start()

    def _work(self) -> None:
        while not self._ended.wait(self.interval_s):
            self._tell()

    def _tell(self) -> None:
        executor = self._executor()
        if executor is None:
            return
        try:
            told = orjson.dumps(executor.get_metrics(), default=str, option=orjson.OPT_NON_STR_KEYS)
            reports.info("metrics %s", told.decode())
        except Exception:
            logger.exception("metrics could not be told")

    def close(self) -> None:
        """Write the last line."""
        self._ended.set()
        if self._thread is not threading.current_thread():
            self._thread.join(5.0)
        self._tell()
