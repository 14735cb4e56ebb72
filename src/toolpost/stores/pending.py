"""Pending: an answer on its way from a store, for tasks of any loop and for threads; and the thread that fetches it."""

from __future__ import annotations

import asyncio
import logging
import os
import queue
import threading
import weakref
from collections.abc import Callable, Generator, Sequence
from typing import Any, Generic, TypeAlias, TypeVar

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import StoreUnavailableError

T = TypeVar("T")
logger = logging.getLogger("toolpost.stores")

FIRST_PAUSE_S = 0.2
LONGEST_PAUSE_S = 5.0
"""After a failure the next try comes no sooner than this, doubling from the first to the longest."""

LAST_WAIT_S = 1.0
"""How long close() waits for a batch that it has broken off."""


class Pending(Generic[T]):
    """An answer that a store's thread will give. Await it once, on any loop; or wait() for it in a thread.

    op is what was asked, for the store's own use; sent, whether the store may have heard of it. Who gives up waiting
    loses only the answer: what was asked is done.
    """

    __slots__ = ("_done", "_waiter", "error", "op", "sent", "value")

    def __init__(self, op: Any = None) -> None:
        self.op = op
        self.value: Any = None
        self.error: BaseException | None = None
        self.sent = False
        self._done = False
        # Whoever waits says so before looking once more whether it is done, and whoever answers says that it is done
        # before looking who waits: so at least one of them sees the other, without a lock.
        self._waiter: tuple[asyncio.AbstractEventLoop, asyncio.Future[None]] | threading.Lock | None = None

    @property
    def done(self) -> bool:
        """Whether value or error is there."""
        return self._done

    def __await__(self) -> Generator[Any, Any, T]:
        if not self._done:
            loop = asyncio.get_running_loop()
            future: asyncio.Future[None] = loop.create_future()
            self._waiter = (loop, future)
            if not self._done:
                yield from future
        return self.result()

    def wait(self, clock: Clock = SYSTEM_CLOCK, timeout_s: float | None = None) -> T:
        """Block this thread until the answer is there. Raises StoreUnavailableError after timeout_s."""
        if not self._done:
            bell = threading.Lock()
            bell.acquire()
            self._waiter = bell
            if not self._done and not clock.acquire(bell, timeout_s) and not self._done:
                raise StoreUnavailableError(f"the store gave no answer within {timeout_s or 0.0:g} s")
        return self.result()

    def result(self) -> T:
        """The answer that is there. Raises what went wrong."""
        if self.error is not None:
            raise self.error
        return self.value  # type: ignore[no-any-return]


Answer: TypeAlias = T | Pending[T]
"""What an operation of a store gives: its value where it is at hand, else a Pending."""


def answer_all(pendings: Sequence[Pending[Any]]) -> None:
    """Wake whoever waits for these, with one wake-up for each loop. value or error has been set."""
    by_loop: dict[asyncio.AbstractEventLoop, list[asyncio.Future[None]]] = {}
    for pending in pendings:
        pending._done = True
        waiter = pending._waiter
        if waiter is None:
            continue
        if waiter.__class__ is tuple:
            futures = by_loop.get(waiter[0])
            if futures is None:
                futures = by_loop[waiter[0]] = []
            futures.append(waiter[1])
        elif waiter.locked():  # type: ignore[union-attr]
            waiter.release()  # type: ignore[union-attr]
    for loop, futures in by_loop.items():
        try:
            loop.call_soon_threadsafe(_set_all, futures)
        except RuntimeError:  # the loop is closed: nobody waits any more
            continue


def _set_all(futures: list[asyncio.Future[None]]) -> None:
    for future in futures:
        if not future.done():
            future.set_result(None)


class Batcher:
    """One thread that owns a store's connection and does what has been asked meanwhile in one go (group commit).

    flush(pendings) does a batch: it sets value or error of each. What it raises fails them all, but those that it has
    answered before by answer_all(). A StoreUnavailableError closes the gate besides: until a pause is over every
    operation fails at once, then one batch tries again, so that an outage costs one connection attempt a pause, however
    many callers there are. interrupt() is called when a batch takes longer than timeout_s, from another thread: it must
    break the connection so that flush returns.
    The thread starts on first use, and anew in a forked child.
    """

    def __init__(
        self,
        name: str,
        flush: Callable[[list[Pending[Any]]], None],
        *,
        interrupt: Callable[[], None] | None = None,
        forked: Callable[[], None] | None = None,
        max_batch: int = 500,
        timeout_s: float = 5.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> None:
        self.name = name
        self._flush, self._interrupt, self._forked = flush, interrupt, forked
        self._max_batch, self._timeout_s, self._clock = max_batch, timeout_s, clock
        self.batches = 0
        """Batches done since the start: for one connection, the number of round trips at most."""
        self._closed = False
        self._pause_s = 0.0
        self._shut_until = 0.0
        self._why = ""
        self._start_empty()
        _batchers.add(self)

    def _start_empty(self) -> None:
        self._lock = threading.Lock()
        self._queue: queue.SimpleQueue[Pending[Any] | None] = queue.SimpleQueue()
        self._thread: threading.Thread | None = None
        self._watcher: threading.Thread | None = None
        self._busy_since: float | None = None
        self._idle = threading.Event()
        self._ended = False

    @property
    def available(self) -> bool:
        """Whether the last batch reached the store (or none was tried yet)."""
        return self._pause_s == 0.0

    def submit(self, op: Any) -> Pending[Any]:
        """Have op done with the next batch. Never raises: an operation that cannot be done gives a failed Pending."""
        pending: Pending[Any] = Pending(op)
        if self._closed:
            pending.error = StoreUnavailableError(f"{self.name} is closed")
            pending._done = True
            return pending
        if self._pause_s and self._clock.monotonic() < self._shut_until:
            pending.error = StoreUnavailableError(self._why)
            pending._done = True
            return pending
        if self._thread is None:
            self._start()
        self._queue.put(pending)
        if self._ended:  # closed between the look above and the put
            self._refuse_rest()
        return pending

    def _start(self) -> None:
        with self._lock:
            if self._thread is None and not self._closed:
                thread = threading.Thread(target=self._run, args=(self._queue,), name=f"toolpost-{self.name}")
                thread.daemon = True
                thread.start()
                self._thread = thread
                if self._interrupt is not None:
                    watch = threading.Thread(target=self._watch, args=(thread,), name=f"toolpost-{self.name}-watch")
                    watch.daemon = True
                    watch.start()
                    self._watcher = watch

    def _run(self, waiting: queue.SimpleQueue[Pending[Any] | None]) -> None:
        self._serve(waiting)
        self._ended = True
        self._refuse_rest()

    def _serve(self, waiting: queue.SimpleQueue[Pending[Any] | None]) -> None:
        while True:
            first = waiting.get()
            if first is None:
                return
            batch = [first]
            last = False
            while len(batch) < self._max_batch:
                try:
                    more = waiting.get_nowait()
                except queue.Empty:
                    break
                if more is None:
                    last = True
                    break
                batch.append(more)
            self._do(batch)
            if last:
                return

    def _do(self, batch: list[Pending[Any]]) -> None:
        if self._pause_s and self._clock.monotonic() < self._shut_until:  # it failed while these were waiting
            error: BaseException = StoreUnavailableError(self._why)
            for pending in batch:
                pending.error = error
            answer_all(batch)
            return
        self._busy_since = self._clock.monotonic()
        try:
            self.batches += 1
            for pending in batch:
                pending.sent = True
            self._flush(batch)
            self._pause_s = 0.0
        except Exception as raised:
            if isinstance(raised, StoreUnavailableError):
                self._pause_s = min(LONGEST_PAUSE_S, self._pause_s * 2 or FIRST_PAUSE_S)
                self._why = raised.message
                self._shut_until = self._clock.monotonic() + self._pause_s
                logger.warning("%s; the next try is in %.1f s", raised.message, self._pause_s)
                error = raised
            else:
                logger.exception("%s failed", self.name)
                error = StoreUnavailableError(f"{self.name} failed: {type(raised).__name__}")
                error.__cause__ = raised
            batch = [pending for pending in batch if not pending.done]
            for pending in batch:
                if pending.error is None:
                    pending.error = error
        finally:
            self._busy_since = None
            answer_all(batch)

    def _watch(self, thread: threading.Thread) -> None:
        """Break the connection under a batch that takes too long: a server may accept and then say nothing."""
        while thread.is_alive() and not self._idle.wait(min(0.25, self._timeout_s / 4)):
            since = self._busy_since
            if since is not None and self._clock.monotonic() - since > self._timeout_s:
                self._break()

    def _break(self) -> None:
        try:
            if self._interrupt is not None:
                self._interrupt()
        except Exception:
            logger.exception("%s could not be interrupted", self.name)

    def close(self, timeout_s: float = 5.0) -> None:
        """Do what has been asked, then end the thread. What is asked afterwards fails.

        What is not done within timeout_s is broken off, and fails.
        """
        with self._lock:
            again, self._closed = self._closed, True
            thread, self._thread = self._thread, None
        if thread is not None:
            self._queue.put(None)
            thread.join(timeout_s)
            if thread.is_alive():
                self._break()
                thread.join(LAST_WAIT_S)
            if not thread.is_alive():
                self._idle.set()
                if self._watcher is not None:
                    self._watcher.join(LAST_WAIT_S)
        elif not again:
            self._ended = True
            self._refuse_rest()

    def _refuse_rest(self) -> None:
        """Fail what was asked while the end came: nobody will do it."""
        while True:
            try:
                pending = self._queue.get_nowait()
            except queue.Empty:
                return
            if pending is not None:
                pending.error = StoreUnavailableError(f"{self.name} is closed")
                answer_all([pending])

    def _start_anew(self) -> None:
        """In a forked child, before it has a second thread: the parent's thread, queue and connection are not ours."""
        self._start_empty()
        if self._forked is not None:
            self._forked()


_batchers: weakref.WeakSet[Batcher] = weakref.WeakSet()


def _start_all_anew() -> None:
    for batcher in list(_batchers):
        batcher._start_anew()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_start_all_anew)
