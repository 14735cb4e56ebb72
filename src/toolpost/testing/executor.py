"""executor_for: an executor of its own for a test, and a record of what it told."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, TypeVar

from toolpost.calls.events import Event
from toolpost.engine.executor import ToolExecutor
from toolpost.engine.registry import ToolRegistry
from toolpost.telemetry.collector import MetricsCollector
from toolpost.testing.clock import FakeClock

E = TypeVar("E")


class Recorder:
    """An observer that keeps every event, in order."""

    def __init__(self) -> None:
        self.events: list[Event] = []

    def __call__(self, event: Event) -> None:
        self.events.append(event)

    def of(self, kind: type[E]) -> list[E]:
        """The events of one kind."""
        return [event for event in self.events if isinstance(event, kind)]


@contextmanager
def executor_for(*tools: Any, clock: FakeClock | None = None, **settings: Any) -> Iterator[ToolExecutor]:
    """An executor with these tools, its own registry and its own metrics; closed at the end.

    settings are those of ExecutorConfig and of ToolExecutor. It reads the environment as every executor does.
    """
    if clock is not None:
        settings["clock"] = clock
    executor = ToolExecutor(registry=ToolRegistry(), collector=MetricsCollector(), **settings)
    try:
        for tool in tools:
            executor.add(tool)
        yield executor
    finally:
        executor.close()
