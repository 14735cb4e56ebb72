"""Keeps deadlines: arms a timer only once a call suspends, cancels what is late, and stops what ignores that."""

from __future__ import annotations

import asyncio
from collections.abc import Coroutine, Generator
from typing import TYPE_CHECKING, Any, cast

from toolpost.calls.clock import Alarm
from toolpost.calls.errors import ToolTimeoutError

if TYPE_CHECKING:
    from collections.abc import Awaitable

    from toolpost.pipeline.invocation import Invocation
    from toolpost.pipeline.services import Services


async def within(work: Awaitable[Any], limit_s: float, services: Services, inv: Invocation) -> Any:
    """Await work for at most limit_s seconds."""
    coro = cast("Coroutine[Any, Any, Any]", work)
    try:
        parked = coro.send(None)
    except StopIteration as done:
        return done.value
    return await Late(coro, parked, limit_s, services, inv)


class Late:
    """Awaits a coroutine that has suspended at parked; ToolTimeoutError when limit_s seconds pass (None: never).

    The coroutine stays in the task that runs it. At the deadline it is cancelled; it then has the executor's
    cancel_grace_s to clean up, after which it is closed even if it swallows the cancellation. Cancelling the task from
    outside works as ever.
    """

    __slots__ = ("_coro", "_inv", "_limit_s", "_parked", "_services")

    def __init__(
        self, coro: Coroutine[Any, Any, Any], parked: Any, limit_s: float | None, services: Services, inv: Invocation
    ) -> None:
        self._coro, self._parked, self._limit_s = coro, parked, limit_s
        self._services, self._inv = services, inv

    def __await__(self) -> Generator[Any, Any, Any]:
        coro, clock = self._coro, self._services.clock
        task = cast("asyncio.Task[Any]", asyncio.current_task())
        before = task.cancelling()
        expired = closing = False

        def expire() -> None:
            nonlocal expired
            expired = True
            task.cancel()

        def force() -> None:
            nonlocal closing
            closing = True
            task.cancel()

        alarm: Alarm | None = None if self._limit_s is None else clock.alarm(max(0.0, self._limit_s), expire)
        late = closed = False
        waiting = self._parked
        try:
            while True:
                try:
                    sent = yield waiting
                except GeneratorExit:
                    closed = True
                    coro.close()
                    raise
                except BaseException as thrown:
                    if closing:
                        closed = True
                        task.uncancel()
                        _close(coro)
                        if task.cancelling() > before:  # from outside, too: that goes first
                            raise
                        raise self._error() from None
                    if expired and not late and isinstance(thrown, asyncio.CancelledError):
                        late = True
                        task.uncancel()
                        alarm = clock.alarm(self._services.cancel_grace_s, force)
                    waiting = coro.throw(thrown)
                else:
                    waiting = coro.send(sent)
        except StopIteration as done:
            if not late:
                return done.value
            if task.cancelling() > before:
                raise asyncio.CancelledError from None
            self._inv.on_timeout = "ran"
            raise self._error() from None
        except asyncio.CancelledError:
            if late and task.cancelling() <= before:
                raise self._error() from None
            raise
        except GeneratorExit as raised:
            if closed:
                raise
            raise RuntimeError("the body raised GeneratorExit") from raised
        except Exception as raised:
            if not late or closed:
                raise
            self._inv.on_timeout = "ran"
            raise self._error() from raised
        finally:
            if alarm is not None:
                alarm.cancel()

    def _error(self) -> ToolTimeoutError:
        return timed_out(self._limit_s or 0.0, self._inv)


def timed_out(limit_s: float, inv: Invocation) -> ToolTimeoutError:
    """The error for a passed deadline; outcome says what became of the body."""
    outcome = inv.on_timeout if inv.ran else "not_run"
    said = {
        "stopped": "the body was stopped",
        "unknown": "the body runs on in its thread, outcome unknown",
        "not_run": "the body never started",
        "ran": "the body ended too late",
    }[outcome]
    error = ToolTimeoutError(f"timed out after {max(0.0, limit_s):g} s; {said}")
    error.outcome = outcome
    return error


def _close(coro: Coroutine[Any, Any, Any]) -> None:
    """Close a coroutine, however often it refuses."""
    for _ in range(100):
        try:
            coro.close()
            return
        except RuntimeError:
            continue  # it awaited on in spite of GeneratorExit
        except BaseException:
            return
