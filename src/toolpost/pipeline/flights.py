"""Flights: one run that others wait for, whether they await on some loop or block in a thread."""

from __future__ import annotations

import asyncio
import os
import threading
import weakref
from collections.abc import Hashable, Sequence
from typing import Any

from toolpost.calls.clock import Clock
from toolpost.pipeline.invocation import Invocation


class Flight:
    """One run in progress. outcome is what its leader left for those who wait; None: they must see for themselves.

    joined: somebody waits, or did. One who boards as the flight lands may not be counted, and then finds None.
    """

    # One lock for all, and nothing set until it is needed: most runs are never waited for.
    _lock = threading.Lock()
    outcome: Any = None
    joined = False
    _over = False
    _waiters: list[tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | threading.Lock] | None = None

    def end(self, outcome: Any = None) -> None:
        """Let everybody go on who waits."""
        with self._lock:
            if self._over:
                return
            self.outcome = outcome
            self._over = True
            waiters, self._waiters = self._waiters, None
        if waiters is None:
            return
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
            self._wait_with((loop, future))
        await future

    def wait(self, clock: Clock, timeout_s: float | None) -> bool:
        """Wait in a thread; False when timeout_s (None: no limit) passed first."""
        bell = threading.Lock()
        bell.acquire()
        with self._lock:
            if self._over:
                return True
            self._wait_with(bell)
        return clock.acquire(bell, timeout_s) or self._over

    def _wait_with(self, waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | threading.Lock) -> None:
        if self._waiters is None:
            self._waiters = []
        self._waiters.append(waiter)


def _release(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


class Flights:
    """The runs in progress by key, in this process. Safe from any thread and loop; a forked child starts with none."""

    __slots__ = ("__weakref__", "_flights", "_lock")

    def __init__(self) -> None:
        self._flights: dict[Hashable, Flight] = {}
        self._lock = threading.Lock()
        _all.add(self)

    def _empty(self) -> None:
        self._flights.clear()
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._flights)

    def at(self, key: Hashable) -> Flight | None:
        """The flight of a key that is in the air, boarding nothing."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.joined = True
        return flight

    def board(self, key: Hashable) -> tuple[Flight, bool]:
        """The flight of a key, and whether the caller leads it: then it must land it, whatever happens."""
        flight = self._flights.get(key)
        if flight is not None:
            flight.joined = True
            return flight, False
        with self._lock:
            flight = self._flights.get(key)
            if flight is not None:
                flight.joined = True
                return flight, False
            flight = self._flights[key] = Flight()
            return flight, True

    def land(self, key: Hashable, flight: Flight, outcome: Any = None) -> None:
        """End a flight; the next one with the key leads anew."""
        with self._lock:
            if self._flights.get(key) is flight:
                del self._flights[key]
        flight.end(outcome)


class Leads:
    """Whose call leads the run for a key, in this process. Safe from any thread and loop.

    Most runs are never waited for: a Flight is made, and kept with the leader, only when somebody joins. Each step is
    one operation on a dict, which is atomic, so that leading takes no lock. A forked child starts with none.
    """

    __slots__ = ("__weakref__", "leaders")

    def __init__(self) -> None:
        self.leaders: dict[Hashable, Invocation] = {}
        _all.add(self)

    def _empty(self) -> None:
        self.leaders.clear()

    def __len__(self) -> int:
        return len(self.leaders)

    def begin(self, key: Hashable, inv: Invocation) -> Invocation:
        """Who leads: this call if nobody else does. Then it must end(), whatever happens."""
        return self.leaders.setdefault(key, inv)

    def end(self, key: Hashable, inv: Invocation, outcome: Any = None) -> None:
        """Let those go on who joined; the next call with the key leads anew."""
        self.leaders.pop(key, None)
        if inv.joined is not None:
            flight = inv.joined.get(self)
            if flight is not None:
                flight.end(outcome)

    def join(self, key: Hashable, leader: Invocation | None) -> Flight | None:
        """What to wait for, where this call leads still. None: it has just ended, or there is none."""
        if leader is None:
            return None
        joined: dict[Any, Flight] = leader.__dict__.setdefault("joined", {})
        flight = joined.setdefault(self, Flight())
        # Who ends looks for a flight after it has left: so it finds this one, or is seen here to have left.
        return flight if self.leaders.get(key) is leader else None


class Waits:
    """Who waits for whose run, so that no calls wait for each other in a circle. Safe from any thread."""

    __slots__ = ("_lock", "_on")

    def __init__(self) -> None:
        self._on: dict[Invocation, list[Invocation]] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self._on)

    def begin(self, calls: Sequence[Invocation], leader: Invocation) -> bool:
        """Note that calls wait for leader; False, and nothing noted, where leader waits for one of them, or is one."""
        if not calls:
            return True
        with self._lock:
            look, seen = [leader], {leader}
            while look:
                call = look.pop()
                if call in calls:
                    return False
                for next in self._on.get(call, ()):
                    if next not in seen:
                        seen.add(next)
                        look.append(next)
            for call in calls:
                self._on.setdefault(call, []).append(leader)
        return True

    def end(self, calls: Sequence[Invocation], leader: Invocation) -> None:
        """They wait no more; once for each begin() that was true."""
        if not calls:
            return
        with self._lock:
            for call in calls:
                on = self._on[call]
                on.remove(leader)
                if not on:
                    del self._on[call]


def left_s(inv: Invocation, now: float) -> float | None:
    """Seconds until the call's deadline, by the stopwatch's now; None without one."""
    return None if inv.limit_s is None else max(0.0, inv.limit_s - (now - inv.started))


_all: weakref.WeakSet[Flights | Leads] = weakref.WeakSet()


def _empty_all() -> None:
    for each in list(_all):
        each._empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_all)
