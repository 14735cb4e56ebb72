"""MetricsPort: the port on which an executor tells Prometheus its figures, as the settings say."""

from __future__ import annotations

import logging
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor
    from toolpost.telemetry.prometheus import Port

logger = logging.getLogger("toolpost")


class MetricsPort:
    """Open while metrics_backend is "prometheus". A port that is taken is logged, and calls go on."""

    def __init__(self) -> None:
        self._port: Port | None = None

    def follow(self, executor: ToolExecutor) -> None:
        """Open, close or move it as the executor's settings say now."""
        config = executor.config
        wanted = config.prometheus_port if config.metrics_backend == "prometheus" else None
        if self._port is not None and self._port.port != wanted:
            self.close()
        if wanted is None or self._port is not None:
            return
        from toolpost.telemetry.prometheus import HOST, Port

        try:
            self._port = Port(executor, wanted)
        except OSError as error:
            logger.warning("metrics are not told on %s:%d: %s", HOST, wanted, error)

    def close(self) -> None:
        """Close it."""
        port, self._port = self._port, None
        if port is not None:
            port.close()
