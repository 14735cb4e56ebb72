"""Runs blocking bodies in worker threads that can be given up; tools and deadlines are others' concern."""

from __future__ import annotations

import asyncio
import contextlib
import contextvars
import itertools
import os
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator
from functools import partial
from typing import Any, Generic, Literal, NoReturn, TypeVar

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import ConfigurationError, OverloadedError, ToolTimeoutError

T = TypeVar("T")


class Abandoned(Exception):
    """The cause of a timeout whose body still runs; names the thread that was given up."""


class Threads:
    """A pool of daemon worker threads, usable from any thread and any event loop.

    Threads start when needed and end after idle_s seconds without work. A body that is given up keeps its
    thread but not its place: another thread may start at once. A body that itself waits for a pool, or in
    lending(), lends its place meanwhile, so tools may call tools however small the pool is. A forked child
    starts empty.
    """

    def __init__(
        self, max_workers: int, *, name: str = "toolpost", max_abandoned: int = 1000, idle_s: float = 10.0
    ) -> None:
        self._max_workers = at_least_one(max_workers)
        self._max_abandoned = max_abandoned
        self._idle_s = idle_s
        self._name = name
        self._closed = False
        self.abandoned_total = 0
        """Bodies given up since the start."""
        self._empty()
        _pools.add(self)

    def _empty(self) -> None:
        self._lock = threading.Lock()  # guards all below, and the state of every job
        self._numbers = itertools.count(1)
        self._threads: set[_Worker] = set()
        self._idle: dict[_Worker, None] = {}
        self._lending: set[_Worker] = set()
        self._abandoned: set[_Worker] = set()
        self._work_queue = _Queue()

    @property
    def abandoned_now(self) -> int:
        """Bodies given up that still run."""
        return len(self._abandoned)

    @property
    def active(self) -> int:
        """Workers that run a body now; abandoned ones are not counted."""
        return len(self._threads) - len(self._idle)

    @property
    def idle(self) -> int:
        """Workers that wait for a body."""
        return len(self._idle)

    async def run(self, fn: Callable[[], T], on_start: Callable[[], None] | None = None) -> T:
        """Run fn in a worker, in a copy of the caller's context; return or raise what it does.

        on_start is called in the worker just before fn, and again when a running fn is given up: it must be no
        more than a note. When the awaiting task is cancelled, a queued fn
        never runs and a running one is abandoned. Raises OverloadedError when the pool is closed or too many
        bodies are abandoned.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        job = _Job(fn, on_start, partial(wake, loop, future))
        lender = _lend()
        try:
            self._submit(job)
            await future
        except BaseException:
            self._give_up(job)
            raise
        finally:
            if lender is not None:
                _take_back(lender)
        return job.outcome()

    def run_blocking(
        self,
        fn: Callable[[], T],
        timeout_s: float | None,
        clock: Clock,
        on_start: Callable[[], None] | None = None,
    ) -> T:
        """As run, while the calling thread blocks, for at most timeout_s seconds, queueing included.

        Raises ToolTimeoutError with outcome "unknown" when fn was running, "not_run" when it was still
        queued. Any exception in the waiting thread (KeyboardInterrupt) gives the job up and goes on.
        """
        done = threading.Lock()
        done.acquire()
        job = _Job(fn, on_start, done.release)
        lender = _lend()
        try:
            self._submit(job)
            in_time = clock.acquire(done, timeout_s)
        except BaseException:
            self._give_up(job)
            raise
        finally:
            if lender is not None:
                _take_back(lender)
        if not in_time:
            self._give_up(job)
            job.raise_if_late(timeout_s, self._max_workers)
        return job.outcome()

    def resize(self, max_workers: int) -> None:
        """Allow this many workers: more start at once where calls wait, fewer remain as they become idle."""
        recruits: list[_Worker] = []
        with self._lock:
            self._max_workers = at_least_one(max_workers)
            while (recruit := self._recruit(beyond=len(recruits))) is not None:
                recruits.append(recruit)
            while self._idle and len(self._threads) > self._places():
                self._dismiss(self._idle.popitem()[0])
        for recruit in recruits:
            self._start(recruit)

    def close(self, wait_s: float = 0.0) -> None:
        """Take no new jobs; queued ones still run, then the workers end.

        Waits at most wait_s seconds for that, and never for abandoned bodies. Threads left do not keep the
        interpreter from exiting.
        """
        with self._lock:
            self._closed = True
            left = list(self._threads)
            while self._idle:
                self._dismiss(self._idle.popitem()[0])
        until = SYSTEM_CLOCK.monotonic() + wait_s
        for worker in left:
            if worker is not threading.current_thread() and worker.ident is not None:
                worker.join(max(0.0, until - SYSTEM_CLOCK.monotonic()))

    def _submit(self, job: _Job[Any]) -> None:
        with self._lock:
            if self._closed:
                raise OverloadedError("the thread pool is closed; make a new executor to run more calls")
            if len(self._abandoned) >= self._max_abandoned:
                raise OverloadedError(
                    f"{len(self._abandoned)} bodies that outlived their deadlines still hold threads, which "
                    'is the most allowed; give tools that can hang runs_in="process": a deadline kills those'
                )
            if self._idle:
                worker, _ = self._idle.popitem()  # the one that ran last: the others may time out
                worker.job = job
                worker.awake.release()
                return
            self._work_queue[job] = None
            recruit = self._recruit()
        if recruit is not None:
            self._start(recruit)

    def _places(self) -> int:
        return self._max_workers + len(self._lending)

    def _recruit(self, beyond: int = 0) -> _Worker | None:
        """A worker, to start after the lock is released, if more than `beyond` jobs wait and room is left."""
        if len(self._work_queue) <= beyond or len(self._threads) >= self._places():
            return None
        worker = _Worker(self, f"{self._name}-{next(self._numbers)}")
        self._threads.add(worker)
        return worker

    def _start(self, worker: _Worker) -> None:
        try:
            worker.start()
        except RuntimeError as error:  # the system has no thread left, or the interpreter is exiting
            with self._lock:
                self._threads.discard(worker)
                stranded = [] if self._threads else list(self._work_queue)
                for job in stranded:
                    job.fail(OverloadedError(f"no worker thread can be started ({error}); try again later"))
                    del self._work_queue[job]
            for job in stranded:
                job.wake()

    def _dismiss(self, worker: _Worker) -> None:
        self._threads.discard(worker)
        worker.awake.release()

    def _work(self, worker: _Worker) -> None:
        """What a worker thread does, from its start to its end."""
        with self._lock:
            job = self._next(worker)
        while True:
            if job is None:
                job = self._wait(worker)
                if job is None:
                    return
            job.call()
            with self._lock:
                kept = worker in self._threads
                following = self._next(worker, job) if kept else None
            if not kept:  # given up meanwhile, or this is the child of a body that forked
                self._part(worker, job)
                return
            job.wake()
            job = following

    def _next(self, worker: _Worker, ended: _Job[Any] | None = None) -> _Job[Any] | None:
        """The job that waits longest, begun; without one the worker is idle, or dismissed if not needed."""
        if ended is not None:
            ended.state = "done"
        if len(self._threads) > self._places():
            self._dismiss(worker)
        elif self._work_queue:
            job, _ = self._work_queue.popitem(last=False)
            return job.begin(worker)
        elif self._closed:
            self._dismiss(worker)
        else:
            self._idle[worker] = None
        return None

    def _wait(self, worker: _Worker) -> _Job[Any] | None:
        """Wait idle for a job; None when dismissed, or idle for too long."""
        while True:
            woken = worker.awake.acquire(timeout=self._idle_s)
            with self._lock:
                if worker in self._idle:
                    del self._idle[worker]
                    self._threads.discard(worker)
                    return None
                if not woken:
                    worker.awake.acquire(blocking=False)  # a job or a dismissal came after the time-out
                job, worker.job = worker.job, None
                if worker not in self._threads:
                    return None
                if job is not None and job.state == "queued":
                    return job.begin(worker)
                following = self._next(worker)  # the job was cancelled before it began
            if following is not None:
                return following

    def _part(self, worker: _Worker, job: _Job[Any]) -> None:
        job.forget()
        with self._lock:
            self._abandoned.discard(worker)
            recruit = self._recruit()  # for jobs that wait because no thread could be started before
        if recruit is not None:
            self._start(recruit)

    def _give_up(self, job: _Job[Any]) -> None:
        with self._lock:
            if job.state == "queued":
                job.state = "cancelled"
                self._work_queue.pop(job, None)
            if job.state != "running":
                return
            job.state = "abandoned"
            worker = job.worker
            assert worker is not None
            self._threads.discard(worker)
            self._lending.discard(worker)
            self._abandoned.add(worker)
            self.abandoned_total += 1
            recruit = self._recruit()
        job.started()  # its worker has taken it, and may not have come to say so
        if recruit is not None:
            self._start(recruit)

    def _lent(self, worker: _Worker) -> None:
        with self._lock:
            worker.waits += 1
            if worker in self._threads:
                self._lending.add(worker)
            recruit = self._recruit()  # for a job that waited for a place already
        if recruit is not None:
            self._start(recruit)

    def _taken_back(self, worker: _Worker) -> None:
        with self._lock:
            worker.waits -= 1
            if worker.waits == 0:
                self._lending.discard(worker)


@contextlib.contextmanager
def lending() -> Iterator[None]:
    """While a worker of any pool waits in this block for what may need a worker, another may run in its place."""
    lender = _lend()
    try:
        yield
    finally:
        if lender is not None:
            _take_back(lender)


def _lend() -> _Worker | None:
    """When the caller is a worker, let another of its pool work in its place until _take_back."""
    worker: _Worker | None = getattr(_here, "worker", None)
    if worker is not None:
        worker.pool._lent(worker)
    return worker


def _take_back(worker: _Worker) -> None:
    worker.pool._taken_back(worker)


def from_body(error: BaseException) -> bool:
    """Whether a body raised this SystemExit, KeyboardInterrupt, CancelledError or the like.

    False means that it was meant for the waiting thread or task itself.
    """
    return _FROM_BODY in vars(error)


def raise_from_body(error: BaseException) -> NoReturn:
    """Raise in the waiter what a body raised, so that from_body can tell it from the waiter's own interrupt.

    StopIteration cannot leave a coroutine: it comes as the cause of a RuntimeError.
    """
    if isinstance(error, StopIteration):
        raise RuntimeError("the body raised StopIteration") from error
    if not isinstance(error, Exception):
        vars(error)[_FROM_BODY] = True
    raise error


def wake(loop: asyncio.AbstractEventLoop, future: asyncio.Future[None]) -> None:
    """Resolve a future from another thread; without effect when its loop is closed, as nobody waits then."""
    try:
        loop.call_soon_threadsafe(_resolve, future)
    except RuntimeError:
        return


def _resolve(future: asyncio.Future[None]) -> None:
    if not future.done():
        future.set_result(None)


def at_least_one(max_workers: int) -> int:
    """max_workers as it is; ConfigurationError where no call could ever run."""
    if max_workers < 1:
        raise ConfigurationError(f"max_workers must be at least 1, got {max_workers!r}")
    return max_workers


class _Job(Generic[T]):
    """One fn, from its queueing to its outcome; the pool's lock guards state and worker."""

    __slots__ = ("_context", "_error", "_fn", "_on_start", "_value", "state", "wake", "worker")

    def __init__(self, fn: Callable[[], T], on_start: Callable[[], None] | None, wake: Callable[[], None]) -> None:
        self._fn: Callable[[], T] | None = fn
        self._on_start = on_start
        self._context = contextvars.copy_context()
        self._value: T | None = None
        self._error: BaseException | None = None
        self.state: Literal["queued", "running", "done", "cancelled", "abandoned"] = "queued"
        self.worker: _Worker | None = None
        self.wake = wake

    def begin(self, worker: _Worker) -> _Job[T]:
        self.state = "running"
        self.worker = worker
        return self

    def started(self) -> None:
        """Say that fn runs, or is about to. Whoever gives a running job up says so as well: twice does no harm."""
        if self._on_start is not None:
            self._on_start()

    def call(self) -> None:
        assert self._fn is not None
        try:
            if self._on_start is not None:
                self._context.run(self._on_start)
            self._value = self._context.run(self._fn)
        except BaseException as error:  # SystemExit and its like are the body's too: the worker lives on
            self._error = error
        self._fn = None

    def fail(self, error: BaseException) -> None:
        self.state = "done"
        self._error = error

    def forget(self) -> None:
        self._value = self._error = None

    def outcome(self) -> T:
        error, self._error = self._error, None
        if error is None:
            return self._value  # type: ignore[return-value]
        try:
            raise_from_body(error)
        finally:
            del error  # its traceback holds this frame

    def raise_if_late(self, timeout_s: float | None, max_workers: int) -> None:
        """Raise ToolTimeoutError unless the job ended in the moment before it was given up."""
        limit = "the deadline" if timeout_s is None else f"{timeout_s:g} s"
        if self.state == "cancelled":
            late = ToolTimeoutError(
                f"no worker thread was free within {limit}, so the body never ran; "
                f"allow more than {max_workers} (max_workers) or more time"
            )
            late.outcome = "not_run"
            raise late
        if self.state == "abandoned":
            late = ToolTimeoutError(
                f"the body did not end within {limit}; threads cannot be stopped, so its outcome is unknown; "
                'with runs_in="process" a deadline kills the body'
            )
            late.outcome = "unknown"
            raise late from Abandoned(f"thread {self.worker.name if self.worker else ''} still runs the body")


class _Queue(OrderedDict[_Job[Any], None]):
    """Jobs in order of arrival, any of which can be taken out; qsize is what is read from outside."""

    def qsize(self) -> int:
        """How many jobs wait for a worker."""
        return len(self)


class _Worker(threading.Thread):
    """A thread of one pool: awake is released when job was set, or when the worker is dismissed."""

    def __init__(self, pool: Threads, name: str) -> None:
        super().__init__(name=name, daemon=True)
        self.pool = pool
        self.awake = threading.Lock()
        self.awake.acquire()
        self.job: _Job[Any] | None = None
        self.waits = 0

    def run(self) -> None:
        _here.worker = self
        self.pool._work(self)


_FROM_BODY = "__toolpost_from_body__"
_here = threading.local()
_pools: weakref.WeakSet[Threads] = weakref.WeakSet()


def _empty_pools() -> None:
    for pool in _pools:
        pool._empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_pools)
