"""Refreshes: runs in the background that make stale results new; each has an owner, and nobody waits for it."""

from __future__ import annotations

import asyncio
import contextlib
import logging
import threading
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Hashable
from functools import partial
from typing import Any

from toolpost.pipeline.flights import Flight, Flights

logger = logging.getLogger("toolpost")
MAX_WARNED = 1000
MAX_THREADS = 16
"""So many refreshes for blocking callers run at the same time; they hold a thread each."""


class Refreshes:
    """The refreshes of one executor. Safe from any thread and loop."""

    def __init__(self) -> None:
        self.flights = Flights()
        """Those that run now, by key."""
        self._tasks: dict[Hashable, asyncio.Task[None]] = {}
        self._threads = 0
        self._lock = threading.Lock()
        self._warned: OrderedDict[Hashable, None] = OrderedDict()
        self._closed = False

    def __len__(self) -> int:
        return len(self.flights)

    def board(self, key: Hashable) -> tuple[Flight, bool]:
        """The refresh of a key, and whether the caller is to start it."""
        self._bury(key)
        return self.flights.board(key)

    def at(self, key: Hashable) -> Flight | None:
        """The refresh of a key that runs now."""
        self._bury(key)
        return self.flights.at(key)

    def start(self, key: Hashable, run: Callable[[], Coroutine[Any, Any, None]], blocking: bool) -> bool:
        """Run it in a task of the running loop, or (blocking: it never suspends) in a thread. False: it never will."""
        if self._closed:
            return False
        if not blocking:
            task = asyncio.get_running_loop().create_task(run(), name="toolpost-refresh")
            self._tasks[key] = task
            task.add_done_callback(partial(self._ended, key))
            return True
        with self._lock:
            if self._threads >= MAX_THREADS:
                return False  # the next call that finds it stale tries again
            self._threads += 1
        try:
            threading.Thread(target=self._drive, args=(run,), name="toolpost-refresh", daemon=True).start()
        except RuntimeError:  # the system has no thread left, or the interpreter is exiting
            with self._lock:
                self._threads -= 1
            return False
        return True

    def _ended(self, key: Hashable, task: asyncio.Task[None]) -> None:
        if self._tasks.get(key) is task:
            del self._tasks[key]

    def _bury(self, key: Hashable) -> None:
        """Land what was begun on a loop that is closed, where it never ends."""
        task = self._tasks.get(key)
        if task is not None and task.get_loop().is_closed() and self._tasks.pop(key, None) is task:
            flight = self.flights.at(key)
            if flight is not None:
                self.flights.land(key, flight)

    def failed(self, key: Hashable, tool: str, error: BaseException) -> None:
        """Say that a refresh failed; once for each key until one succeeds."""
        first = key not in self._warned
        self._warned[key] = None
        while len(self._warned) > MAX_WARNED:
            self._warned.popitem(last=False)
        if first:
            logger.warning("a stale result of %s could not be renewed and is given on: %s", tool, error)

    def succeeded(self, key: Hashable) -> None:
        """The next failure of the key is told again."""
        if self._warned:
            self._warned.pop(key, None)

    def close(self) -> None:
        """Start no more, and cancel those that run in tasks."""
        self._closed = True
        for task in list(self._tasks.values()):
            with contextlib.suppress(RuntimeError):  # its loop is closed
                task.get_loop().call_soon_threadsafe(task.cancel)

    def _drive(self, run: Callable[[], Coroutine[Any, Any, None]]) -> None:
        coro = run()
        try:
            coro.send(None)
        except StopIteration:
            return
        finally:
            with self._lock:
                self._threads -= 1
        logger.error("a refresh met something that has to wait for an event loop")
        coro.close()
