"""Turns: how many may run at a time; the rest wait, first come first served, from any thread and event loop."""

from __future__ import annotations

import asyncio
import threading
from collections import deque
from collections.abc import Callable

from toolpost.calls.clock import Clock


class Turns:
    """A number of places. Whoever takes one gives it back, from whichever thread."""

    def __init__(self, places: int, clock: Clock) -> None:
        self._places, self._clock = places, clock
        self._lock = threading.Lock()
        self._taken = 0
        self._waiting: deque[_Waiter] = deque()

    @property
    def taken(self) -> int:
        """How many run."""
        return self._taken

    @property
    def waiting(self) -> int:
        """How many wait."""
        return len(self._waiting)

    def take_blocking(self, timeout_s: float | None) -> bool:
        """Wait for a place, at most timeout_s seconds; whether one was got."""
        done = threading.Lock()
        done.acquire()
        waiter = self._queue(done.release)
        if waiter is None:
            return True
        try:
            got = self._clock.acquire(done, timeout_s)
        except BaseException:
            self._leave(waiter)
            raise
        if got:
            return True
        return self._late(waiter)

    async def take(self, timeout_s: float | None) -> bool:
        """take_blocking for tasks. A task that is cancelled here has no place."""
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        waiter = self._queue(lambda: loop.call_soon_threadsafe(_resolve, future))
        if waiter is None:
            return True
        try:
            async with asyncio.timeout(timeout_s):
                await future
        except TimeoutError:
            return self._late(waiter)
        except BaseException:
            self._leave(waiter)
            raise
        return True

    def give_back(self) -> None:
        """Let the next one run."""
        with self._lock:
            while self._waiting:
                waiter = self._waiting.popleft()
                try:
                    waiter.wake()
                except RuntimeError:  # its loop is closed: nobody waits any more
                    continue
                waiter.granted = True
                return
            self._taken -= 1

    def _queue(self, wake: Callable[[], object]) -> _Waiter | None:
        """None where a place is free, which is then taken."""
        with self._lock:
            if self._taken < self._places:
                self._taken += 1
                return None
            waiter = _Waiter(wake)
            self._waiting.append(waiter)
            return waiter

    def _late(self, waiter: _Waiter) -> bool:
        """Whether the place was granted in the moment in which the time was over."""
        with self._lock:
            if not waiter.granted and waiter in self._waiting:  # not where its loop was closed when its turn came
                self._waiting.remove(waiter)
            return waiter.granted

    def _leave(self, waiter: _Waiter) -> None:
        if self._late(waiter):
            self.give_back()


class _Waiter:
    __slots__ = ("granted", "wake")

    def __init__(self, wake: Callable[[], object]) -> None:
        self.wake = wake
        self.granted = False


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)
