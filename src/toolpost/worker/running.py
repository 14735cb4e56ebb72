"""Running: a call as it runs in this process, which can be ended by its id without hurting whoever awaits it."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any, cast

from toolpost.calls.call import ToolCall
from toolpost.calls.errors import CallCancelledError, ToolExecutionError
from toolpost.calls.events import CallFinished, Event
from toolpost.calls.result import ToolResult, failed_result
from toolpost.calls.resumed import resumed

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor


class Running:
    """One call in one task. created_at and started_at are wall time; started_at is None while it waits for a place.

    why: the sentence with which it was ended by cancel(); None as long as nobody did. task: what awaits it, found once
    it suspends where it is not given, since most calls never do.
    """

    __slots__ = ("_over", "_stop", "call", "created_at", "error", "explain", "started_at", "task", "why")

    def __init__(self, call: ToolCall, task: asyncio.Task[object] | None, created_at: float, explain: bool) -> None:
        self.call, self.task, self.created_at, self.explain = call, task, created_at, explain
        self.started_at: float | None = None
        self.why: str | None = None
        self.error: ToolExecutionError | None = None
        self._stop: Callable[[], None] | None = None
        self._over = False

    async def run(self, executor: ToolExecutor) -> ToolResult:
        """Run it. A cancellation that is not ours goes through."""
        try:
            work = executor.execute_tool_call(self.call, explain=self.explain)
            result = await (self._stepped(work) if self.task is None else work)
        except asyncio.CancelledError:
            if not self.ours():
                raise
            result = self.cancelled(executor)
        else:
            if self.why is not None:  # it ended in the same moment; what it gave counts
                self.ours()
        self._over, self.task = True, None  # nothing is left to end: what follows is keeping what it gave
        return result

    async def _stepped(self, work: Coroutine[Any, Any, ToolResult]) -> ToolResult:
        try:
            parked = work.send(None)
        except StopIteration as done:
            return cast("ToolResult", done.value)
        self.task = asyncio.current_task()
        if self.why is not None and self.task is not None:
            self.task.cancel()
        return cast("ToolResult", await resumed(work, parked))

    def ours(self) -> bool:
        """Whether the cancellation that arrived is ours alone, which is then over; for whoever caught it."""
        if self.why is None:
            return False
        if self._stop is not None:
            self._stop()
            self._stop = None
        return self.task is not None and self.task.uncancel() == 0

    def cancel(self, executor: ToolExecutor, why: str) -> None:
        """End it: its result says that it was cancelled, and how far it had come."""
        if self.why is not None or self._over:
            return
        self.why = why
        self._stop = executor.observe(self._observe)
        if self.task is not None:
            self.task.cancel()

    def _observe(self, event: Event) -> None:
        """How far the body had come is told to observers only: a cancellation goes through as it is."""
        if isinstance(event, CallFinished) and event.call_id == self.call.id:
            self.error = event.error

    def cancelled(self, executor: ToolExecutor) -> ToolResult:
        """The result of a call that cancel() ended."""
        call, why = self.call, self.why or "the call was cancelled"
        error = CallCancelledError(why, tool=call.name)
        error.outcome = "not_run" if self.started_at is None else "stopped"
        if self.error is not None:
            error.outcome = self.error.outcome
        elapsed_s = 0.0 if self.started_at is None else max(0.0, executor.clock.now() - self.started_at)
        return failed_result(call.id, call.name, error, elapsed_s=elapsed_s)


__all__ = ["Running"]
