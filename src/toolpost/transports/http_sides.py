"""Side: an awaitable that one task steps beside others, so that it waits for several things without further tasks."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from contextlib import suppress
from typing import Any, Generic, TypeVar

T = TypeVar("T")


class Side(Generic[T]):
    """An awaitable that is stepped by hand, as its task would; wake is called when a step can be made.

    It runs in the task that steps it, so that timeouts inside it work as ever: a CancelledError which reaches that task
    is handed on by throw().
    """

    __slots__ = ("_steps", "_waits_for", "_wake", "ended", "value")
    value: T

    def __init__(self, awaitable: Awaitable[T], wake: Callable[[], None]) -> None:
        self._steps: Any = awaitable.__await__()
        self._wake = wake
        self._waits_for: Any = None
        self.ended = False

    def step(self) -> bool:
        """Go on as far as that is possible now; whether it has ended, with value. Raises what it raises."""
        while not self.ended:
            if self._waits_for is not None:
                if not self._waits_for.done():
                    return False
                self._waits_for = None
            try:
                waits_for = self._steps.send(None)
            except StopIteration as end:
                self._end(end.value)
            except BaseException:
                self.ended = True
                raise
            else:
                self._wait(waits_for)
        return True

    def throw(self, error: BaseException) -> None:
        """Raise an error where it waits. What it does not handle is raised here; else step() goes on."""
        if self.ended:
            raise error
        if self._waits_for is not None:
            self._waits_for.remove_done_callback(self._ready)
            self._waits_for = None
        try:
            waits_for = self._steps.throw(error)
        except StopIteration as end:
            self._end(end.value)
        except BaseException:
            self.ended = True
            raise
        else:
            self._wait(waits_for)

    def drop(self) -> None:
        """Let go of it; it must have nothing to await when it is closed."""
        if self._waits_for is not None:
            self._waits_for.remove_done_callback(self._ready)
            self._waits_for = None
        close = getattr(self._steps, "close", None)
        if not self.ended and close is not None:
            close()
        self.ended = True

    async def cancelled(self) -> None:
        """Cancel it, and wait until it has cleaned up."""
        if self.ended:
            return
        with suppress(asyncio.CancelledError, StopAsyncIteration):
            self.throw(asyncio.CancelledError())
        while not self.ended:
            with suppress(asyncio.CancelledError, StopAsyncIteration):
                if self.step():
                    return
            if not self.ended:
                await self._waits_for  # where the task's own cancellation is not ours to hide

    def _end(self, value: T) -> None:
        self.value, self.ended = value, True

    def _wait(self, waits_for: Any) -> None:
        if waits_for is None:  # a bare yield, as of sleep(0): the others' turn first
            waits_for = asyncio.get_running_loop().create_future()
            waits_for.get_loop().call_soon(waits_for.set_result, None)
        else:
            waits_for._asyncio_future_blocking = False  # says that it was taken up, as a task says it
        self._waits_for = waits_for
        waits_for.add_done_callback(self._ready)

    def _ready(self, _: Any) -> None:
        self._wake()
