"""What runners of one executor share: worker threads, worker processes, and a loop for callers that block."""

from __future__ import annotations

import asyncio
import contextlib
import os
import threading
import weakref
from collections.abc import Awaitable, Callable, Collection, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.context import ContextGuards
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import NotSupportedError, OverloadedError, SecretUnavailableError, ToolTimeoutError
from toolpost.calls.events import Event
from toolpost.runners.clients import CLOSING, Clients
from toolpost.runners.threads import Abandoned, Threads, lending

if TYPE_CHECKING:
    from toolpost.runners.processes import Processes

Emit = Callable[[Event], None]


class Loop:
    """An event loop in a daemon thread of its own, where async bodies run for callers that block.

    It starts when needed and ends with close, or when nobody refers to this object any more. A body that blocks it
    beyond its caller's deadline is given up together with the thread: calls made later get a new loop, and the old
    one ends as soon as it can. A forked child starts without one.
    """

    def __init__(self, *, max_abandoned: int = 100) -> None:
        self._max_abandoned = max_abandoned
        self._closed = False
        self.abandoned_total = 0
        """Loops given up since the start."""
        self._empty()
        _loops.add(self)

    def _empty(self) -> None:
        self._lock = threading.Lock()  # guards all below, and which server a call goes to
        self._server: _Server | None = None
        self._servers: list[_Server] = []
        weakref.finalize(self, _stop_all, self._servers).atexit = False

    @property
    def abandoned_now(self) -> int:
        """Loops given up whose threads are still there."""
        with self._lock:
            return self._count_abandoned()

    def run(
        self,
        start: Callable[[float | None], Awaitable[Any]],
        limit_s: float | None = None,
        *,
        grace_s: float = 0.0,
        clock: Clock = SYSTEM_CLOCK,
    ) -> Any:
        """Await start(seconds left) there and wait for it. An interrupt of the waiting thread cancels it.

        What is awaited keeps limit_s (seconds; None: no limit) by itself, and may take grace_s more to clean up. Past
        that the loop must be blocked: it is given up, and ToolTimeoutError raised with outcome "unknown", or "not_run"
        when the loop never came to start. A worker thread that waits here lends its place in its pool. Raises
        OverloadedError when closed, or when too many loops are blocked.
        """
        call = _Call(start, limit_s, clock)
        with lending():
            with self._lock:
                server = self._running()
                future = asyncio.run_coroutine_threadsafe(call.go(), server.loop)
                server.waiting += 1
            try:
                future.add_done_callback(call.end)
                if not call.wait(grace_s):
                    begun = not call.claim.acquire(blocking=False)
                    self._give_up(server)
                    why = f"thread {server.name} is blocked by a body"
                    raise call.late(begun) from (Abandoned(why) if begun else NeverBegan(why))
                return future.result()
            except BaseException:
                call.claim.acquire(blocking=False)  # what has not begun never will
                future.cancel()
                raise
            finally:
                with self._lock:
                    server.waiting -= 1
                    if server.abandoned and server.waiting == 0:
                        server.stop()

    def _running(self) -> _Server:
        """The server that takes calls now, started if there is none."""
        if self._closed:
            raise OverloadedError("the executor is closed; make another")
        if self._server is not None and self._server.is_alive():
            return self._server
        abandoned = self._count_abandoned()
        if abandoned >= self._max_abandoned:
            raise OverloadedError(
                f"{abandoned} event loops are blocked by async bodies that outlived their deadlines, which is the "
                "most allowed; declare tools that block with def rather than async def"
            )
        server = _Server()
        try:
            server.start()
        except RuntimeError as error:  # the system has no thread left, or the interpreter is exiting
            server.loop.close()
            raise OverloadedError(f"no thread for an event loop can be started ({error}); try again later") from error
        self._server = server
        self._servers.append(server)
        return server

    def _give_up(self, server: _Server) -> None:
        with self._lock:
            if server.abandoned:
                return
            server.abandoned = True
            self.abandoned_total += 1
            if self._server is server:
                self._server = None

    def _count_abandoned(self) -> int:
        self._servers[:] = [server for server in self._servers if server.is_alive()]
        return sum(1 for server in self._servers if server.abandoned)

    def close(self) -> None:
        """Take no more calls and stop; what still runs there is cancelled, and nothing waits for it."""
        with self._lock:
            self._closed = True
            self._server = None
            _stop_all(self._servers)


ANSWER_S = 0.25
"""Real seconds that a loop has to tell how a call ended, after all that the call itself may take."""
WIND_DOWN_S = 5.0
"""How long tasks that are cancelled, or close something, hold up the end of their loop."""


class _Call:
    """One coroutine for a loop and the thread that waits for it; who acquires claim first decides whether it runs."""

    __slots__ = ("_arrived", "_clock", "_ended", "_limit_s", "_start", "claim")

    def __init__(self, start: Callable[[float | None], Awaitable[Any]], limit_s: float | None, clock: Clock) -> None:
        self._start, self._limit_s, self._clock = start, limit_s, clock
        self._arrived = clock.stopwatch()
        self.claim = threading.Lock()
        self._ended = threading.Lock()
        self._ended.acquire()

    async def go(self) -> Any:
        if not self.claim.acquire(blocking=False):
            raise asyncio.CancelledError
        left_s = None
        if self._limit_s is not None:
            left_s = self._limit_s - (self._clock.stopwatch() - self._arrived)
            if left_s < 0:
                raise self.late(begun=False) from NeverBegan("the loop was free too late")
        return await self._start(left_s)

    def end(self, future: object) -> None:
        self._ended.release()

    def wait(self, grace_s: float) -> bool:
        """Whether it ended within its limit, or a little later."""
        if self._clock.acquire(self._ended, self._limit_s):
            return True
        if self.claim.locked() and self._clock.acquire(self._ended, grace_s):
            return True
        return self._ended.acquire(timeout=ANSWER_S)

    def late(self, begun: bool) -> ToolTimeoutError:
        limit = f"{self._limit_s or 0.0:g} s"
        if begun:
            error = ToolTimeoutError(
                f"the body did not end within {limit} and blocks its event loop; threads cannot be stopped, so its "
                "outcome is unknown; declare it with def rather than async def"
            )
            error.outcome = "unknown"
        else:
            error = ToolTimeoutError(
                f"the loop for blocking callers was not free within {limit}, so the body never ran; another async "
                "body blocks it: declare that with def rather than async def"
            )
            error.outcome = "not_run"
        return error


class NeverBegan(Exception):
    """Why a call came to no pipeline: the loop in which it was to run was not free in time."""


class _Server(threading.Thread):
    """The thread of one event loop. Refers to no Loop, so that a Loop nobody uses can end it."""

    def __init__(self) -> None:
        super().__init__(name="toolpost-loop", daemon=True)
        self.loop = asyncio.new_event_loop()
        self.waiting = 0
        self.abandoned = False
        self._stopping = False
        self._ended = False
        self._pid = os.getpid()

    def run(self) -> None:
        asyncio.set_event_loop(self.loop)
        while not self._ended:
            try:
                self.loop.run_forever()
            except (SystemExit, KeyboardInterrupt):  # a task of some body's own raised it: the others go on
                continue
        self.loop.run_until_complete(self.loop.shutdown_asyncgens())
        self.loop.close()

    def stop(self) -> None:
        """Cancel what runs there and end the thread, once the loop is free to. May be called anywhere, even in gc."""
        if self._stopping or self._pid != os.getpid():
            return
        self._stopping = True
        with contextlib.suppress(RuntimeError):  # it is closed already
            self.loop.call_soon_threadsafe(self._begin_end)

    def _begin_end(self) -> None:
        self._last = self.loop.create_task(self._wind_down())

    async def _wind_down(self) -> None:
        try:
            tasks = [task for task in asyncio.all_tasks() if task is not asyncio.current_task()]
            for task in tasks:
                if task not in CLOSING:
                    task.cancel()
            if tasks:
                await asyncio.wait(tasks, timeout=WIND_DOWN_S)
        finally:
            self._ended = True
            self.loop.stop()


def _stop_all(servers: list[_Server]) -> None:
    for server in list(servers):
        server.stop()


_loops: weakref.WeakSet[Loop] = weakref.WeakSet()


def _empty_loops() -> None:
    for loop in list(_loops):
        loop._empty()


if hasattr(os, "register_at_fork"):
    os.register_at_fork(after_in_child=_empty_loops)


@dataclass(slots=True)
class Resources:
    """Made once an executor. processes start on first use."""

    threads: Threads
    loop: Loop
    max_workers: int
    sync_in: str = "thread"
    clock: Clock = SYSTEM_CLOCK
    emit: Emit | None = None
    guards: ContextGuards | None = None
    clients: Clients = field(default_factory=Clients)
    _processes: Processes | None = None

    @property
    def processes(self) -> Processes:
        """The worker processes, made when first needed."""
        if self._processes is None:
            from toolpost.runners.processes import Processes

            self._processes = Processes(self.max_workers)
        return self._processes

    def resize(self, max_workers: int) -> None:
        """Allow this many workers, threads and processes each."""
        self.max_workers = max_workers
        self.threads.resize(max_workers)
        if self._processes is not None:
            self._processes.resize(max_workers)

    def recycle(self) -> None:
        """Have worker processes load modules afresh: tools may have been reloaded."""
        if self._processes is not None:
            self._processes.recycle()

    def close(self) -> None:
        """End what was started. Bodies that were abandoned run on; nothing waits for them."""
        self.threads.close()
        if self._processes is not None:
            self._processes.close()
            self._processes = None
        self.clients.close()
        self.loop.close()


async def revealed(resources: Resources, references: Collection[str]) -> Mapping[str, str]:
    """The secrets of these references. Raises SecretUnavailableError."""
    if resources.guards is None:
        raise SecretUnavailableError(
            f"{min(references)}: nothing here resolves references; run the tool by an executor"
        )
    return await resources.guards.reveal(references)


def forget(resources: Resources, references: Collection[str]) -> None:
    """Have the secrets of these references asked for anew: they were refused."""
    if resources.guards is not None:
        resources.guards.forget(references)


def not_runnable(tool: ToolDefinition) -> NotSupportedError:
    """The refusal for a kind of body that this version has no runner for."""
    kind = type(tool.body).__name__.removesuffix("Body").lower()
    return NotSupportedError(
        f"{tool.name}: this version of toolpost cannot run {kind} tools yet; wrap the call in a function"
    )
