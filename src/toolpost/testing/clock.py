"""FakeClock: time that stands still until a test moves it."""

from __future__ import annotations

import asyncio
import heapq
import itertools
import threading
import time
from collections.abc import Callable

from toolpost.calls.clock import Alarm, Clock


class _FakeAlarm:
    __slots__ = ("callback", "loop", "silent")

    def __init__(self, callback: Callable[[], object], loop: asyncio.AbstractEventLoop) -> None:
        self.callback, self.loop, self.silent = callback, loop, False

    def cancel(self) -> None:
        self.silent = True


class FakeClock(Clock):
    """A Clock that moves only by advance(seconds). Alarms and sleeps whose time has come go off then.

    stopwatch and monotonic share one time, which starts at 0.0; now starts at start (wall time, seconds).
    """

    def __init__(self, start: float = 1_750_000_000.0) -> None:
        self._start = start
        self._elapsed = 0.0
        self._alarms: list[tuple[float, int, _FakeAlarm]] = []
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._pauses = 0
        self.now = lambda: self._start + self._elapsed
        self.monotonic = lambda: self._elapsed
        self.stopwatch = lambda: self._elapsed

    __slots__ = ("__dict__",)

    def advance(self, seconds: float) -> None:
        """Move time on. Due alarms are called soon on the loops they were set on."""
        if seconds < 0:
            raise ValueError(f"time does not go back: {seconds!r}")
        with self._lock:
            self._elapsed += seconds
            due = []
            while self._alarms and self._alarms[0][0] <= self._elapsed:
                due.append(heapq.heappop(self._alarms)[2])
        for alarm in due:
            if not alarm.silent and not alarm.loop.is_closed():
                alarm.loop.call_soon_threadsafe(self._ring, alarm)

    @staticmethod
    def _ring(alarm: _FakeAlarm) -> None:
        if not alarm.silent:
            alarm.callback()

    async def sleep(self, delay_s: float) -> None:
        """Wait until time has been advanced by delay_s."""
        done = asyncio.Event()
        alarm = self.alarm(delay_s, done.set)
        try:
            await done.wait()
        finally:
            alarm.cancel()

    def alarm(self, delay_s: float, callback: Callable[[], object]) -> Alarm:
        alarm = _FakeAlarm(callback, asyncio.get_running_loop())
        with self._lock:
            heapq.heappush(self._alarms, (self._elapsed + delay_s, next(self._numbers), alarm))
        return alarm

    def acquire(self, lock: threading.Lock, timeout_s: float | None) -> bool:
        """Wait for the lock until time has been advanced by timeout_s (looked at each millisecond of real time)."""
        if timeout_s is None:
            return lock.acquire()
        until = self._elapsed + timeout_s
        while not lock.acquire(timeout=0.001):
            if self._elapsed >= until:
                return False
            time.sleep(0)
        return True

    def pause(self, delay_s: float) -> None:
        """Block this thread until time has been advanced by delay_s (looked at each millisecond of real time)."""
        until = self._elapsed + delay_s
        with self._lock:
            self._pauses += 1
        try:
            while self._elapsed < until:
                time.sleep(0.001)
        finally:
            with self._lock:
                self._pauses -= 1

    def jitter(self, upper: float) -> float:
        """No jitter: half of upper, always."""
        return upper / 2

    @property
    def waiting(self) -> int:
        """How many alarms, sleeps and pauses have not gone off."""
        return self._pauses + sum(1 for _, _, alarm in self._alarms if not alarm.silent)
