"""Runs blocking bodies in worker processes; a late or cancelled one is killed with all that it started.

A worker runs the tool author's own code with the author's own rights: it is not a sandbox.
"""

from __future__ import annotations

import asyncio
import itertools
import logging
import math
import os
import pickle
import selectors
import signal
import socket
import subprocess
import sys
import threading
import types
import weakref
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Literal

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.context import SERVICES, ToolContext
from toolpost.calls.errors import (
    CallCancelledError,
    ConfigurationError,
    NotSupportedError,
    OperationError,
    OutputValidationError,
    OverloadedError,
    ToolExecutionError,
    ToolTimeoutError,
)
from toolpost.calls.events import Event, Logged, Progressed
from toolpost.runners import process_worker as worker
from toolpost.runners.threads import at_least_one, raise_from_body, wake

logger = logging.getLogger("toolpost")

STOP_S = 5.0
"""How long a killed process is waited for: the kernel needs a millisecond or two, unless a device hangs."""
GRACE_S = 2.0
"""How long a worker that was told to end may take before it is killed."""

_WAY_OUT = 'or run the tool with runs_in="thread"'


class WorkerTraceback(Exception):
    """The cause of an exception that came from a worker process: its traceback there, as text."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """What a worker process is to run, by name: it imports the module and finds the function in it.

    depth counts the decorators to take off. owner is the pickled instance or class of a method, as it was
    when the target was made; without a qualname it is the pickled callable itself. main is the parent's main
    module where that is needed: (module name or None, path). takes_mapping: the arguments go in as one dict.
    """

    module: str
    qualname: str
    depth: int = 0
    owner: bytes | None = field(default=None, repr=False)
    main: tuple[str | None, str] | None = None
    takes_mapping: bool = False
    key: int = field(default_factory=itertools.count(1).__next__, repr=False, compare=False)

    @classmethod
    def of(cls, func: Callable[..., Any], *, takes_mapping: bool = False) -> Target:
        """The target of a function, a method of a picklable instance, or a picklable callable.

        Raises ConfigurationError for what a worker could not find by name: lambdas, functions made inside
        others, decorated functions that hide what they wrap, and anything of an interactive session.
        """
        if isinstance(func, types.MethodType):
            owner: Any = func.__self__
            function: Any = getattr(func.__func__, worker.RAW, func.__func__)
        elif isinstance(func, (types.FunctionType, types.BuiltinFunctionType)) and func.__module__:
            owner, function = None, getattr(func, worker.RAW, func)
        else:
            owner, function = func, None
        module, qualname, depth = (_type(func), "", 0) if function is None else _found(function)
        pickled = None if owner is None else _pickled(owner, func)
        needs_main = module == "__main__" or (pickled is not None and b"__main__" in pickled)
        return cls(
            module=module,
            qualname=qualname,
            depth=depth,
            owner=pickled,
            main=_main_for(func) if needs_main else None,
            takes_mapping=takes_mapping,
        )

    @property
    def name(self) -> str:
        """module.qualname, for messages."""
        return f"{self.module}.{self.qualname}" if self.qualname else self.module


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
        self._queue: OrderedDict[_Job, None] = OrderedDict()
        self._children: set[_Child] = set()
        self._idle: dict[_Child, None] = {}
        self._dying: set[_Child] = set()
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
        job = _Job(target, kwargs, on_event, on_start, partial(wake, loop, future))
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
        job = _Job(target, kwargs, on_event, on_start, done.release)
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

    def _submit(self, job: _Job) -> None:
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

    def _assign(self, child: _Child, job: _Job) -> bool:
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

    def _give_up(self, job: _Job, gone: Callable[[], None] | None = None) -> str:
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

    def _kill(self, child: _Child) -> None:
        self._leave(child)
        child.kill()

    def _end(self, child: _Child) -> None:
        """Tell a child to end by itself, by closing the channel on this side."""
        self._leave(child)
        try:
            child.channel.shutdown(socket.SHUT_WR)
        except OSError:
            return  # it is gone

    def _leave(self, child: _Child) -> None:
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

    def _attend(self, selector: selectors.BaseSelector, child: _Child, ready: int) -> None:
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

    def _tell(self, child: _Child, payload: bytes) -> None:
        with self._lock:  # who gave the child its call may not have noted so yet
            job = child.job
        if job is not None and job.state == "running" and job.on_event is not None:
            on_event = job.on_event
            job.tell(lambda: on_event(pickle.loads(payload)))

    def _answer(self, child: _Child, kind: bytes, payload: bytes) -> None:
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

    def _next(self, child: _Child) -> None:
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
                child = _Child.start()
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


class _Job:
    """One call, from its queueing to its outcome; the pool's lock guards it until it is done."""

    __slots__ = ("answer", "child", "error", "on_event", "on_start", "payload", "state", "target", "wake")

    def __init__(
        self,
        target: Target,
        kwargs: Mapping[str, Any],
        on_event: Callable[[Event], None] | None,
        on_start: Callable[[], None] | None,
        wake: Callable[[], None],
    ) -> None:
        self.target = target
        self.on_event = on_event
        self.on_start = on_start
        self.wake = wake
        self.payload = self._pack(kwargs)
        self.state: Literal["queued", "running", "done", "cancelled", "stopping", "stopped"] = "queued"
        self.child: _Child | None = None
        self.answer: tuple[bytes, bytes] | None = None
        self.error: BaseException | None = None

    def _pack(self, kwargs: Mapping[str, Any]) -> bytes:
        plain: dict[str, Any] = {}
        contexts: dict[str, tuple[dict[str, Any], bool]] = {}
        for name, value in kwargs.items():
            if isinstance(value, ToolContext):
                if self.on_event is None and _is_heard(value):
                    self.on_event = partial(_retell, value)
                contexts[name] = ({f: getattr(value, f) for f in _CROSSING}, self.on_event is not None)
            else:
                plain[name] = value
        try:
            return pickle.dumps((self.target.key, plain, contexts), protocol=5)
        except Exception as error:
            what = next((f"argument {n!r} of type {_type(v)}" for n, v in plain.items() if not _pickles(v)), None)
            raise NotSupportedError(
                f"{what or 'what the context has in auth or extras'} cannot be sent to the worker process "
                f"of {self.target.name} ({error}); pass plain values, {_WAY_OUT}"
            ) from error

    def tell(self, listener: Callable[[], None] | None) -> None:
        """Call a listener; one that breaks is logged and the call goes on."""
        if listener is not None:
            try:
                listener()
            except Exception:
                logger.exception("a listener failed while %s ran", self.target.name)

    def fail(self, error: BaseException) -> None:
        self.state = "done"
        self.error = error

    def buried(self, code: int) -> None:
        """The worker that had this call is gone."""
        self.child = None
        if self.state == "stopping":
            self.state = "stopped"
        elif self.state == "running":
            self.fail(self.error or OperationError(f"{self.target.name}: its worker process {_end_of(code)}"))

    def late(self, timeout_s: float | None, sure: bool, max_workers: int) -> ToolTimeoutError:
        limit = "the deadline" if timeout_s is None else f"{timeout_s:g} s"
        if self.state == "cancelled":
            error = ToolTimeoutError(
                f"no worker process was free for {self.target.name} within {limit}, so it never ran; "
                f"allow more than {max_workers} (max_workers) or more time"
            )
            error.outcome = "not_run"
        elif sure:
            error = ToolTimeoutError(f"{self.target.name} did not end within {limit} and was killed")
            error.outcome = "stopped"
        else:
            error = ToolTimeoutError(
                f"{self.target.name} did not end within {limit} and was killed, but the system still holds "
                "its process; look for a hanging device or network file system"
            )
            error.outcome = "unknown"
        return error

    def outcome(self) -> Any:
        error, self.error = self.error, None
        try:
            if error is not None:
                raise error
            assert self.answer is not None
            kind, payload = self.answer
            if kind == worker.RESULT:
                return self._value(payload)
            raise_from_body(self._raised(*pickle.loads(payload)))
        finally:
            del error

    def _value(self, payload: bytes) -> Any:
        try:
            return pickle.loads(payload)
        except Exception as error:
            raise OutputValidationError(
                f"{self.target.name}: its result cannot be read from its worker process ({error}); "
                f"return plain values, {_WAY_OUT}"
            ) from error

    def _raised(self, stage: str, kind: str, message: str, text: str, itself: bytes | None) -> BaseException:
        """The exception for a failure told by a worker."""
        name = self.target.name
        error = _unpickled(itself)
        if stage == "result":
            error = OutputValidationError(
                f"{name}: a result of type {kind} cannot be sent from its worker process ({message}); "
                f"return plain values, {_WAY_OUT}"
            )
        elif stage == "arguments":
            error = NotSupportedError(
                f"{name}: its arguments cannot be read in its worker process ({kind}: {message}); "
                f"pass plain values, {_WAY_OUT}"
            )
        elif stage == "load" and not isinstance(error, ToolExecutionError):
            error = ConfigurationError(
                f"{name} cannot be loaded in a worker process ({kind}: {message}); "
                f"make its module importable by name, {_WAY_OUT}"
            )
        elif error is None:
            error = OperationError(f"{kind}: {message}" if message else kind)
        error.__cause__ = WorkerTraceback(text)
        return error


class _Child:
    """A worker process, seen from the parent."""

    def __init__(self, process: subprocess.Popen[bytes], channel: socket.socket, lifeline: int) -> None:
        self.process = process
        self.channel = channel
        self.job: _Job | None = None
        self.known: set[int] = set()
        self.unsent: memoryview | None = None
        self.watched = True
        self.outdated = False
        self.idle_since = self.kill_at = 0.0
        self._lifeline = lifeline
        self._told: tuple[list[str], list[str]] | None = None
        self._inbox = bytearray()
        self._reaped = False

    @classmethod
    def start(cls) -> _Child:
        """A new interpreter, never a fork of this process, whose threads may hold any lock."""
        ours, theirs = socket.socketpair()
        lifeline_theirs, lifeline = os.pipe()
        try:
            ours.setblocking(False)
            fds = (theirs.fileno(), lifeline_theirs)
            process = subprocess.Popen(
                [
                    sys.executable,
                    *subprocess._args_from_interpreter_flags(),  # type: ignore[attr-defined]
                    *("-P", "-c", _BOOT, worker.__file__, *map(str, fds)),
                ],
                stdin=subprocess.DEVNULL,
                stdout=_stderr(),
                pass_fds=fds,
                start_new_session=True,
            )
        except BaseException:
            ours.close()
            os.close(lifeline)
            raise
        finally:
            theirs.close()
            os.close(lifeline_theirs)
        return cls(process, ours, lifeline)

    def frames_for(self, job: _Job) -> bytes:
        """The call, and before it what the child does not know yet."""
        frames: list[bytes] = []
        paths = (sys.path, sys.argv)
        if paths != self._told:
            self._told = (list(sys.path), list(sys.argv))
            frames += _frame(worker.PATHS, pickle.dumps(self._told))
        target = job.target
        if target.key not in self.known:
            self.known.add(target.key)
            load = (target.module, target.qualname, target.depth, target.owner, target.main)
            frames += _frame(worker.TARGET, pickle.dumps((target.key, target.takes_mapping, *load)))
        frames += _frame(worker.CALL, job.payload)
        return b"".join(frames)

    def send_rest(self) -> bool:
        """Send what did not fit before; whether nothing is left."""
        if self.unsent is not None:
            try:
                self.unsent = self.unsent[self.channel.send(self.unsent) :] or None
            except BlockingIOError:
                return False
            except OSError:
                self.unsent = None  # the child is gone, as reading will show
        return self.unsent is None

    def receive(self) -> Iterator[tuple[bytes, bytes]]:
        """The frames that have come whole. Raises EOFError or OSError when the child has closed its side."""
        chunk = self.channel.recv(1 << 18)
        if not chunk:
            raise EOFError
        inbox, head = self._inbox, worker.HEAD
        inbox += chunk
        while len(inbox) >= head.size:
            kind, size = head.unpack_from(inbox)
            end = head.size + size
            if len(inbox) < end:
                return
            with memoryview(inbox) as view:
                payload = bytes(view[head.size : end])
            del inbox[:end]
            yield kind, payload

    def kill(self) -> None:
        """Kill the whole process group. Until it is reaped its number cannot be another's."""
        if not self._reaped:
            try:
                os.killpg(self.process.pid, signal.SIGKILL)
            except (ProcessLookupError, PermissionError):
                return

    def silence(self) -> None:
        """Kill a child that lives on although it cannot be talked to."""
        self.kill()
        if self.job is not None and self.job.error is None:
            self.job.error = OperationError(
                f"{self.job.target.name}: its worker process lost its channel and was killed; "
                "a body must not close file descriptors that it did not open"
            )

    def has_exited(self) -> bool:
        try:
            return os.waitid(os.P_PID, self.process.pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None
        except ChildProcessError:
            return True  # someone else reaped it

    def reap(self) -> int:
        self._reaped = True
        return self.process.wait()

    def close(self) -> None:
        self.channel.close()
        os.close(self._lifeline)


def _frame(kind: bytes, payload: bytes) -> tuple[bytes, bytes]:
    return worker.HEAD.pack(kind, len(payload)), payload


def _drain(bell: socket.socket) -> None:
    try:
        bell.recv(4096)
    except BlockingIOError:
        return


def _stderr() -> int:
    """Where a worker's standard output goes: the parent's own may be a protocol or a table."""
    try:
        os.fstat(2)
    except OSError:
        return subprocess.DEVNULL
    return 2


def _closed_error() -> OverloadedError:
    return OverloadedError("the process pool is closed; make a new executor to run more calls")


def _nothing() -> None:
    return


def _end_of(code: int) -> str:
    if code >= 0:
        return f"exited with code {code} before the body returned"
    try:
        name = signal.Signals(-code).name
    except ValueError:
        name = f"signal {-code}"
    return f"was ended by {name}" + (", as happens when memory runs out" if code == -signal.SIGKILL else "")


def _unpickled(itself: bytes | None) -> BaseException | None:
    if itself is None:
        return None
    try:
        error = pickle.loads(itself)
    except Exception:
        return None
    return error if isinstance(error, BaseException) else None


def _is_heard(context: ToolContext) -> bool:
    return context._emit is not None or context._logs is not None


def _retell(context: ToolContext, event: Event) -> None:
    """Tell through the caller's context what a body told through the worker's."""
    if isinstance(event, Logged):
        context.log(event.message, event.level, **event.fields)
    elif isinstance(event, Progressed):
        context.progress(event.value, event.total, event.message)


def _type(value: object) -> str:
    return f"{type(value).__module__}.{type(value).__qualname__}".removeprefix("builtins.")


def _pickles(value: object) -> bool:
    try:
        pickle.dumps(value, protocol=5)
    except Exception:
        return False
    return True


def _full_name(func: Any) -> str:
    name = getattr(func, "__qualname__", None)
    return f"{func.__module__}.{name}" if name else repr(func)


def _pickled(owner: object, func: Any) -> bytes:
    try:
        return pickle.dumps(owner, protocol=5)
    except Exception as error:
        raise ConfigurationError(
            f"{_full_name(func)} cannot run in a worker process: {_type(owner)} cannot be pickled ({error}); "
            f"leave what cannot out in __getstate__, {_WAY_OUT}"
        ) from error


def _found(function: Any) -> tuple[str, str, int]:
    """Where a worker finds a function: module, qualname and how many decorators to take off.

    What a function wraps stands in for it where itself cannot be found, as for wrappers made at registration.
    """
    for candidate in worker.layers(function):
        module, qualname = getattr(candidate, "__module__", None), getattr(candidate, "__qualname__", "")
        if not module or "<" in qualname:
            continue
        try:
            there = worker.named(module, qualname)
        except (ImportError, AttributeError):
            continue
        for depth, layer in enumerate(worker.layers(there)):
            if layer is candidate:
                return module, qualname, depth
    raise ConfigurationError(
        f"{_full_name(function)} cannot run in a worker process, which must find it by name; "
        f"define it at the top level of a module, have its decorators use functools.wraps, {_WAY_OUT}"
    )


def _main_for(func: Any) -> tuple[str | None, str]:
    """The main module as a worker can import it; refused where it has no file."""
    main = sys.modules["__main__"]
    sys.modules.setdefault("__mp_main__", main)  # what workers call it in what they send back
    spec = getattr(main, "__spec__", None)
    path = getattr(main, "__file__", None)
    if spec is not None and spec.name.rpartition(".")[2] != "__main__":
        return spec.name, ""
    if spec is None and path is not None and os.path.isfile(path):
        return None, os.path.abspath(path)
    raise ConfigurationError(
        f"{_full_name(func)} cannot run in a worker process, which cannot import an interactive session or "
        f"__main__.py; define it in a module, {_WAY_OUT}"
    )


_CROSSING = tuple(
    name for name in ToolContext.__dataclass_fields__ if not name.startswith("_") and name not in (*SERVICES, "emitter")
)
_BOOT = (
    "import sys; from importlib.machinery import SourceFileLoader; scope = {'__name__': 'process_worker'}; "
    "exec(SourceFileLoader('process_worker', sys.argv[1]).get_code('process_worker'), scope); "
    "scope['main'](int(sys.argv[2]), int(sys.argv[3]))"
)
_pools: weakref.WeakSet[Processes] = weakref.WeakSet()


def _forget_all() -> None:
    for pool in _pools:
        pool._forget()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_forget_all)
