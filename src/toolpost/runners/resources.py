"""What runners of one executor share: worker threads, worker processes, and a loop for callers that block."""

from __future__ import annotations

import asyncio
import concurrent.futures
import os
import threading
from collections.abc import Callable, Coroutine
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from toolpost.calls.clock import SYSTEM_CLOCK, Clock
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import NotSupportedError
from toolpost.calls.events import Event
from toolpost.runners.threads import Threads

if TYPE_CHECKING:
    from toolpost.runners.processes import Processes

Emit = Callable[[Event], None]


class Loop:
    """An event loop in a daemon thread of its own, where async bodies run for callers that block."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._pid = os.getpid()

    def run(self, coro: Coroutine[Any, Any, Any]) -> Any:
        """Run a coroutine there and wait for it. An interrupt of the waiting thread cancels it."""
        future = asyncio.run_coroutine_threadsafe(coro, self._running())
        try:
            return future.result()
        except concurrent.futures.CancelledError:
            raise
        except BaseException:
            if not future.done():
                future.cancel()
            raise

    def _running(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None or self._loop.is_closed() or self._pid != os.getpid():
                self._pid = os.getpid()
                self._loop = asyncio.new_event_loop()
                ready = threading.Event()
                loop = self._loop

                def serve() -> None:
                    asyncio.set_event_loop(loop)
                    loop.call_soon(ready.set)
                    try:
                        loop.run_forever()
                    finally:
                        loop.run_until_complete(loop.shutdown_asyncgens())
                        loop.close()

                threading.Thread(target=serve, name="toolpost-loop", daemon=True).start()
                ready.wait()
            return self._loop

    def close(self) -> None:
        """Stop the loop; what still runs there is cancelled."""
        with self._lock:
            loop, self._loop = self._loop, None
        if loop is None or loop.is_closed() or self._pid != os.getpid():
            return

        async def wind_down() -> None:
            tasks = [t for t in asyncio.all_tasks() if t is not asyncio.current_task()]
            for task in tasks:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)
            loop.stop()

        asyncio.run_coroutine_threadsafe(wind_down(), loop)


@dataclass(slots=True)
class Resources:
    """Made once an executor. processes start on first use."""

    threads: Threads
    loop: Loop
    max_workers: int
    sync_in: str = "thread"
    clock: Clock = SYSTEM_CLOCK
    emit: Emit | None = None
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
        self.loop.close()


def not_runnable(tool: ToolDefinition) -> NotSupportedError:
    """The refusal for a kind of body that this version has no runner for."""
    kind = type(tool.body).__name__.removesuffix("Body").lower()
    return NotSupportedError(
        f"{tool.name}: this version of toolpost cannot run {kind} tools yet; wrap the call in a function"
    )
