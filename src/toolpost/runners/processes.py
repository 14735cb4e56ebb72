"""Runs blocking bodies in worker processes; a late or cancelled one is killed with all that it started.

A worker runs the tool author's own code with the author's own rights: it is not a sandbox.
"""

from __future__ import annotations

import asyncio
import math
import os
import pickle
import selectors
import socket
import subprocess
import sys
import threading
import weakref
from collections import OrderedDict
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.errors import (
    CallCancelledError,
    ConfigurationError,
    NotSupportedError,
    OperationError,
    OverloadedError,
)
from toolpost.calls.events import Event
from toolpost.runners import process_worker as worker
from toolpost.runners.children import Child, Job
from toolpost.runners.targets import Target
from toolpost.runners.threads import at_least_one, wake

STOP_S = 5.0
"""How long a killed process is waited for: the kernel needs a millisecond or two, unless a device hangs."""
GRACE_S = 2.0
"""How long a worker that was told to end may take before it is killed."""


class Processes:
    """A pool of worker processes, usable from any thread and any event loop; it needs POSIX waitid.

    Each worker runs one call at a time and leads a session and process group of its own, which is killed
    when the call is late or cancelled; another is started when needed. Only what a body puts into a session
    of its own escapes that. Workers stay warm: modules, and the instances of methods, are loaded once a
    worker, which ends after idle_s seconds without a call, or when this process dies. What a body prints goes
    to standard error. One thread, the keeper, starts, reads and buries all workers.
    """

    def __init__(self, max_workers: int, *, name: str = "toolpost", idle_s: float = 60.0) -> None:
        if not hasattr(os, "waitid"):
            raise NotSupportedError("worker processes need a POSIX system; run tools in threads here")
        self._max_workers = at_least_one(max_workers)
        self._name = name
        self._idle_s = idle_s
        self._closed = False
        self._empty()
        _pools.add(self)

    def _empty(self) -> None:
        self._lock = threading.Lock()  # guards all below, and the state of every job and child
        self._queue: OrderedDict[Job, None] = OrderedDict()
        self._children: set[Child] = set()
        self._idle: dict[Child, None] = {}
        self._dying: set[Child] = set()
        self._keeper: threading.Thread | None = None
        self._bell: tuple[socket.socket, socket.socket] | None = None
        self._patience_s = 0.001

    @property
    def active(self) -> int:
        """Workers that run a call now."""
        return len(self._children) - len(self._idle)

    @property
    def idle(self) -> int:
        """Warm workers that wait for a call."""
        return len(self._idle)

    @property
    def queued(self) -> int:
        """Calls that wait for a worker."""
        return len(self._queue)

    async def run(
        self,
        target: Target,
        kwargs: Mapping[str, Any],
        *,
        on_event: Callable[[Event], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> Any:
        """Run target in a worker; return or raise what it does.

        kwargs are pickled; a ToolContext among them arrives without its services, and what the body tells
        through it goes to on_event, or without one through the context handed in. on_start is called when a
        worker is given the call. Both are called from other threads and must neither block nor use this pool.
        When the awaiting task is cancelled, a queued call never runs and a running one is killed;
        cancellation goes on once it is gone. Raises OverloadedError when closed, NotSupportedError for
        arguments that cannot be pickled, OutputValidationError for such a result, OperationError when the
        worker dies.
        """
        loop = asyncio.get_running_loop()
        future: asyncio.Future[None] = loop.create_future()
        job = Job(target, kwargs, on_event, on_start, partial(wake, loop, future))
        try:
            self._submit(job)
            await future
        except asyncio.CancelledError:
            gone: asyncio.Future[None] = loop.create_future()
            if self._give_up(job, partial(wake, loop, gone)) == "stopping":
                await asyncio.wait({gone}, timeout=STOP_S)
            raise
        except BaseException:
            self._give_up(job)
            raise
        return job.outcome()

    def run_blocking(
        self,
        target: Target,
        kwargs: Mapping[str, Any],
        timeout_s: float | None,
        clock: Clock,
        *,
        on_event: Callable[[Event], None] | None = None,
        on_start: Callable[[], None] | None = None,
    ) -> Any:
        """As run, while the calling thread blocks, for at most timeout_s seconds, queueing included.

        Raises ToolTimeoutError with outcome "stopped" when the call was killed and is gone, "not_run" when it
        was still queued. Any exception in the waiting thread (KeyboardInterrupt) kills the call and goes on.
        """
        done, gone = threading.Lock(), threading.Lock()
        done.acquire()
        gone.acquire()
        job = Job(target, kwargs, on_event, on_start, done.release)
        try:
            self._submit(job)
            in_time = clock.acquire(done, timeout_s)
        except BaseException:
            self._give_up(job)
            raise
        if not in_time:
            state = self._give_up(job, gone.release)
            if state != "done":
                sure = state == "cancelled" or gone.acquire(timeout=STOP_S)
                raise job.late(timeout_s, sure, self._max_workers)
        return job.outcome()

    def resize(self, max_workers: int) -> None:
        """Allow this many workers: more start as calls wait, fewer remain as they become idle."""
        with self._lock:
            self._max_workers = at_least_one(max_workers)
            self._ring()

    def recycle(self) -> None:
        """Load modules afresh for every later call: idle workers end now, busy ones after their call."""
        with self._lock:
            for child in self._children:
                child.outdated = True
            self._ring()

    def close(self, wait_s: float = 0.0) -> None:
        """End all workers, idle ones now, busy ones by killing them after wait_s; refuse queued calls.

        Blocks until they are gone, some tens of milliseconds as a rule.
        """
        with self._lock:
            self._closed = True
            refused, keeper = list(self._queue), self._keeper
            self._queue.clear()
            for job in refused:
                job.fail(_closed_error())
            self._ring()
        for job in refused:
            job.wake()
        if keeper is None or keeper is threading.current_thread():
            return
        keeper.join(wait_s)
        with self._lock:
            for child in list(self._children):
                if child.job is not None:
                    child.job.error = CallCancelledError("the executor was closed while the call ran")
                    self._kill(child)
        keeper.join(STOP_S)

    def _submit(self, job: Job) -> None:
        if hasattr(sys.modules.get("__main__"), worker.LOADING):
            raise ConfigurationError(
                "the main module calls tools while a worker process imports it; "
                'put what it does under `if __name__ == "__main__":`'
            )
        with self._lock:
            if self._closed:
                raise _closed_error()
            while self._idle:
                child, _ = self._idle.popitem()  # the one that ran last: the others may time out
                if not child.outdated and self._assign(child, job):
                    return
                self._end(child)
            self._queue[job] = None
            if self._keeper is None:
                self._hire()
            self._ring()

    def _hire(self) -> None:
        self._bell = socket.socketpair()
        for end in self._bell:
            end.setblocking(False)
        self._keeper = threading.Thread(
            target=self._keep, args=(self._bell[0],), name=f"{self._name}-processes", daemon=True
        )
        self._keeper.start()

    def _ring(self) -> None:
        """Have the keeper look at what changed. The lock is held."""
        if self._bell is not None:
            try:
                self._bell[1].send(b"!")
            except BlockingIOError:
                return  # it has been rung often enough

    def _assign(self, child: Child, job: Job) -> bool:
        """Give a job to a child that is free; False when the child turns out to be dead."""
        frames = child.frames_for(job)
        try:
            sent = child.channel.send(frames)
        except BlockingIOError:
            sent = 0
        except OSError:
            return False
        job.state, job.payload = "running", b""
        job.child, child.job = child, job
        if sent < len(frames):
            child.unsent = memoryview(frames)[sent:]
            self._ring()
        job.tell(job.on_start)
        return True

    def _give_up(self, job: Job, gone: Callable[[], None] | None = None) -> str:
        """Take back a queued job, or kill a running one and call `gone` once it is; the job's state then."""
        with self._lock:
            if job.state == "queued":
                job.state = "cancelled"
                self._queue.pop(job, None)
            elif job.state == "running" and job.child is not None:
                job.state = "stopping"
                job.wake = gone or _nothing
                self._kill(job.child)
            return job.state

    def _kill(self, child: Child) -> None:
        self._leave(child)
        child.kill()

    def _end(self, child: Child) -> None:
        """Tell a child to end by itself, by closing the channel on this side."""
        self._leave(child)
        try:
            child.channel.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is gone

    def _leave(self, child: Child) -> None:
        self._children.discard(child)
        self._idle.pop(child, None)
        if child not in self._dying:
            self._dying.add(child)
            child.kill_at = SYSTEM_CLOCK.monotonic() + GRACE_S
            self._patience_s = 0.001
            self._ring()

    def _keep(self, bell: socket.socket) -> None:
        """What the keeper's thread does, from its start to its end."""
        try:
            with selectors.DefaultSelector() as selector:
                selector.register(bell, selectors.EVENT_READ)
                pause_s: float | None = 0.0
                while pause_s is not None:
                    for key, ready in selector.select(None if pause_s == math.inf else pause_s):
                        if key.data is None:
                            _drain(bell)
                        else:
                            self._attend(selector, key.data, ready)
                    self._staff(selector)
                    self._bury(selector)
                    pause_s = self._rest()
        except BaseException as error:
            self._collapse(error)
            raise

    def _attend(self, selector: selectors.BaseSelector, child: Child, ready: int) -> None:
        if ready & selectors.EVENT_WRITE:
            with self._lock:
                if child.send_rest():
                    selector.modify(child.channel, selectors.EVENT_READ, child)
        if ready & selectors.EVENT_READ:
            try:
                for kind, payload in child.receive():
                    if kind == worker.EVENT:
                        self._tell(child, payload)
                    else:
                        self._answer(child, kind, payload)
            except (EOFError, OSError, MemoryError):  # it closed its side, or its result is too large
                selector.unregister(child.channel)
                child.watched = False
                with self._lock:
                    self._leave(child)

    def _tell(self, child: Child, payload: bytes) -> None:
        with self._lock:  # who gave the child its call may not have noted so yet
            job = child.job
        if job is not None and job.state == "running" and job.on_event is not None:
            on_event = job.on_event
            job.tell(lambda: on_event(pickle.loads(payload)))

    def _answer(self, child: Child, kind: bytes, payload: bytes) -> None:
        with self._lock:
            job = child.job
            if job is None or job.state != "running":
                return
            child.job = job.child = None
            job.state = "done"
            job.answer, job.error = (kind, payload), None
            if kind == worker.UNLOADED:
                child.known.discard(job.target.key)  # tried anew next time
            if child in self._children:
                self._next(child)
        job.wake()

    def _next(self, child: Child) -> None:
        """The job that waits longest goes to this child; without one it is idle, or ended if not needed."""
        if self._closed or child.outdated or len(self._children) > self._max_workers:
            self._end(child)
            return
        if self._queue:
            job, _ = self._queue.popitem(last=False)
            if not self._assign(child, job):
                self._queue[job] = None
                self._queue.move_to_end(job, last=False)
                self._leave(child)
            return
        child.idle_since = SYSTEM_CLOCK.monotonic()
        self._idle[child] = None

    def _staff(self, selector: selectors.BaseSelector) -> None:
        """Start workers for waiting calls, end those not needed any more, see to what is not sent yet."""
        now = SYSTEM_CLOCK.monotonic()
        with self._lock:
            for child in list(self._idle):
                surplus = len(self._children) > self._max_workers
                if self._closed or surplus or child.outdated or now - child.idle_since >= self._idle_s:
                    self._end(child)
            for child in self._children:
                if child.unsent is not None:
                    selector.modify(child.channel, selectors.EVENT_READ | selectors.EVENT_WRITE, child)
            missing = min(len(self._queue), self._max_workers - len(self._children))
        for _ in range(missing):
            try:
                child = Child.start()
                selector.register(child.channel, selectors.EVENT_READ, child)
            except (OSError, subprocess.SubprocessError) as error:
                self._strand(error)
                return
            with self._lock:
                self._children.add(child)
                self._next(child)

    def _strand(self, error: Exception) -> None:
        """No process can be started: calls wait for the workers there are, or are refused without any."""
        with self._lock:
            refused = [] if self._children else list(self._queue)
            for job in refused:
                del self._queue[job]
                job.fail(OverloadedError(f"no worker process can be started ({error}); try again later"))
        for job in refused:
            job.wake()

    def _bury(self, selector: selectors.BaseSelector) -> None:
        """Reap what has ended, with all that is left of its process group, and tell who waits for that."""
        for child in list(self._dying):
            with self._lock:
                if not child.has_exited():
                    if SYSTEM_CLOCK.monotonic() >= child.kill_at:
                        child.silence()
                    continue
                child.kill()
                code = child.reap()
                self._dying.discard(child)
                job, child.job = child.job, None
                if job is not None:
                    job.buried(code)
            if child.watched:
                selector.unregister(child.channel)
            child.close()
            if job is not None:
                job.wake()

    def _rest(self) -> float | None:
        """Seconds until something must be looked at without being told; None when nothing is left to keep."""
        with self._lock:
            if self._dying:
                self._patience_s = min(self._patience_s * 1.5, 0.05)
                return self._patience_s
            if self._idle:
                soonest = min(child.idle_since for child in self._idle) + self._idle_s
                return max(0.0, soonest - SYSTEM_CLOCK.monotonic())
            if self._children or self._queue:
                return math.inf
            self._keeper = None
            for end in self._bell or ():
                end.close()
            self._bell = None
            return None

    def _collapse(self, error: BaseException) -> None:
        """The keeper cannot go on: kill every worker and fail every call; the next one starts anew."""
        with self._lock:
            children = [*self._children, *self._dying]
            jobs = [*self._queue, *(child.job for child in children if child.job is not None)]
            for child in children:
                child.kill()
            for job in jobs:
                job.fail(OperationError(f"{job.target.name}: the worker processes were lost ({error!r})"))
        for child in children:
            child.reap()
        self._forget()
        for job in jobs:
            job.wake()

    def _forget(self) -> None:
        """Let go of all workers: in a forked child they are the parent's."""
        for child in (*self._children, *self._dying):
            child.process.returncode = child.process.returncode or 0  # not waited for here
            child.close()
        for end in self._bell or ():
            end.close()
        self._empty()


def _drain(bell: socket.socket) -> None:
    try:
        bell.recv(4096)
    except BlockingIOError:
        return


def _closed_error() -> OverloadedError:
    return OverloadedError("the process pool is closed; make a new executor to run more calls")


def _nothing() -> None:
    return


_pools: weakref.WeakSet[Processes] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in _pools:
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)

__all__ = ["Processes", "Target"]
