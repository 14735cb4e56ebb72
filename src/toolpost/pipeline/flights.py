"""Flights: one run that others wait for, whether they await on some loop or block in a thread."""

from __future__ import annotations

import asyncio
import threading
from collections.abc import Hashable
from typing import Any

from toolpost.calls.clock import Clock
from toolpost.pipeline.invocation import Invocation


class Flight:
    """One run in progress. outcome is what its leader left for those who wait; None: they must see for themselves."""

    __slots__ = ("_lock", "_over", "_waiters", "outcome")

    def __init__(self) -> None:
        self.outcome: Any = None
        self._over = False
        self._lock = threading.Lock()
        self._waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | threading.Lock] = []

    def end(self, outcome: Any = None) -> None:
        """Let everybody go on who waits."""
        with self._lock:
            if self._over:
                return
            self.outcome = outcome
            self._over = True
            waiters, self._waiters = self._waiters, []
        for waiter in waiters:
            if isinstance(waiter, tuple):
                loop, future = waiter
                try:
                    loop.call_soon_threadsafe(_release, future)
                except RuntimeError:  # its loop is closed: nobody waits there any more
                    continue
            else:
                waiter.release()

    async def over(self) -> None:
        """Wait in a task until the run has ended."""
        if self._over:
            return
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        with self._lock:
            if self._over:
                return
            self._waiters.append((loop, future))
        await future

    def wait(self, clock: Clock, timeout_s: float | None) -> bool:
        """Wait in a thread; False when timeout_s (None: no limit) passed first."""
        bell = threading.Lock()
        bell.acquire()
        with self._lock:
            if self._over:
                return True
            self._waiters.append(bell)
        return clock.acquire(bell, timeout_s) or self._over


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Flights:
    """The runs in progress by key, in this process. Safe from any thread and loop."""

    __slots__ = ("_flights", "_lock")

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._flights)

    def board(self, key: Hashable) -> tuple[Flight, bool]:
        """The flight of a key, and whether the caller leads it: then it must land it, whatever happens."""
        flight = self._flights.get(key)
        if flight is not None:
            return flight, False
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                return flight, False
            flight = self._flights[key] = Flight()
            return flight, True

    def land(self, key: Hashable, flight: Flight, outcome: Any = None) -> None:
        """End a flight; the next one with the key leads anew."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.end(outcome)


def left_s(inv: Invocation, now: float) -> float | None:
    """Seconds until the call's deadline, by the stopwatch's now; None without one."""
    return None if inv.limit_s is None else max(0.0, inv.limit_s - (now - inv.started))
