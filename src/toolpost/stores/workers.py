"""Workers: a few threads that do a store's blocking operations side by side and answer each with a Pending."""

from __future__ import annotations

import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable
from typing import Any, TypeVar

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import StoreUnavailableError, ToolExecutionError
from toolpost.stores.pending import FIRST_PAUSE_S, LONGEST_PAUSE_S, Pending, answer_all

T = TypeVar("T")
logger = logging.getLogger("toolpost.stores")


class Workers:
    """At most size daemon threads for operations that need not wait for each other. They start when needed.

    What an operation raises reaches whoever waits: ToolExecutionErrors as they are, anything else behind a
    StoreUnavailableError. With gate, a StoreUnavailableError makes further operations fail at once until a pause is
    over, as Batcher does, so that an outage is not paid for by every caller. A forked child starts without threads.
    """

    def __init__(self, name: str, size: int = 4, *, gate: bool = False, clock: Clock = SYSTEM_CLOCK) -> None:
        self.name = name
        self._size, self._gate, self._clock = size, gate, clock
        self._closed = False
        self._pause_s = 0.0
        self._shut_until = 0.0
        self._why = ""
        self._start_empty()
        _workers.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()  # guards all below, and the pause
        self._queue: queue.SimpleQueue[Pending[Any] | None] = queue.SimpleQueue()
        self._threads: list[threading.Thread] = []
        self._unfinished = 0

    def ask(self, work: Callable[[], T]) -> Pending[T]:
        """Have work done in a thread. Never raises: what cannot be done gives a failed Pending."""
        pending: Pending[T] = Pending(work)
        with self._lock:
            error = self._refusal()
            if error is None:
                self._unfinished += 1
                self._queue.put(pending)
                if self._unfinished > len(self._threads) < self._size:
                    self._start_one()
        if error is not None:
            pending.error = error
            answer_all([pending])
        return pending

    def _refusal(self) -> StoreUnavailableError | None:
        if self._closed:
            return StoreUnavailableError(f"{self.name} is closed")
        if self._pause_s and self._clock.monotonic() < self._shut_until:
            return StoreUnavailableError(self._why)
        return None

    def _start_one(self) -> None:
        name = f"toolpost-{self.name}-{len(self._threads) + 1}"
        thread = threading.Thread(target=self._run, args=(self._queue,), name=name, daemon=True)
        thread.start()
        self._threads.append(thread)

    def _run(self, waiting: queue.SimpleQueue[Pending[Any] | None]) -> None:
        while (pending := waiting.get()) is not None:
            self._do(pending)
            with self._lock:
                self._unfinished -= 1
            answer_all([pending])
            del pending

    def _do(self, pending: Pending[Any]) -> None:
        with self._lock:
            shut = bool(self._pause_s) and self._clock.monotonic() < self._shut_until
        if shut:  # it failed while this one was waiting
            pending.error = StoreUnavailableError(self._why)
            return
        try:
            pending.value = pending.op()
        except ToolExecutionError as raised:
            pending.error = raised
            if self._gate and isinstance(raised, StoreUnavailableError):
                self._shut(raised.message)
            return
        except Exception as raised:
            logger.exception("%s failed", self.name)
            pending.error = StoreUnavailableError(f"{self.name} failed: {type(raised).__name__}")
            pending.error.__cause__ = raised
            return
        if self._pause_s:
            with self._lock:
                self._pause_s = 0.0

    def _shut(self, why: str) -> None:
        with self._lock:
            now = self._clock.monotonic()
            if now < self._shut_until:
                return  # several were under way: they count once
            self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
            self._shut_until = now + self._pause_s
            self._why = why
        logger.warning("%s; the next try is in %.1f s", why, self._pause_s)

    def close(self, timeout_s: float = 5.0) -> None:
        """Do what has been asked, then end the threads. What is asked afterwards fails."""
        with self._lock:
            self._closed = True
            threads, self._threads = self._threads, []
        for _ in threads:
            self._queue.put(None)
        until = self._clock.stopwatch() + timeout_s
        for thread in threads:
            thread.join(max(0.0, until - self._clock.stopwatch()))


_workers: weakref.WeakSet[Workers] = weakref.WeakSet()


def _start_all_empty() -> None:
    for workers in list(_workers):
        workers._start_empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_empty)
