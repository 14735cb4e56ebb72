"""Time, as the engine sees it: one object that tests can replace."""

from __future__ import annotations

import asyncio
import random
import threading
import time
from collections.abc import Callable
from typing import Protocol


class Alarm(Protocol):
    """What alarm returns: cancel() makes it silent, however late."""

    def cancel(self) -> None: ...


class Clock:
    """The machine's clocks. Deadlines are monotonic; wall time is only for people and records.

    Every duration is in seconds. Nobody in the engine calls time or random by itself.
    """

    __slots__ = ()

    now: Callable[[], float] = staticmethod(time.time)
    monotonic: Callable[[], float] = staticmethod(time.monotonic)
    stopwatch: Callable[[], float] = staticmethod(time.perf_counter)

    async def sleep(self, delay_s: float) -> None:
        """Wait in the running task."""
        await asyncio.sleep(delay_s)

    def alarm(self, delay_s: float, callback: Callable[[], object]) -> Alarm:
        """Call back on the running loop after delay_s."""
        return asyncio.get_running_loop().call_later(delay_s, callback)

    def pause(self, delay_s: float) -> None:
        """Block this thread."""
        time.sleep(max(0.0, delay_s))

    def acquire(self, lock: threading.Lock, timeout_s: float | None) -> bool:
        """Block this thread until the lock is had (True) or timeout_s has passed (False)."""
        return lock.acquire(timeout=-1 if timeout_s is None else max(0.0, timeout_s))

    def jitter(self, upper: float) -> float:
        """A number between 0 and upper, evenly spread."""
        return random.uniform(0.0, upper)


SYSTEM_CLOCK = Clock()
