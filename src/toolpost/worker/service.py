"""Service: what all doors of one process share, from its start to its drained end."""

from __future__ import annotations

import asyncio
import logging
import os
import socket
from collections.abc import Callable, Coroutine
from typing import TYPE_CHECKING, Any

from toolpost.calls.call import new_id
from toolpost.telemetry.figures import at_once
from toolpost.worker.callbacks import KIND
from toolpost.worker.calls import Calls
from toolpost.worker.deliveries import Deliveries
from toolpost.worker.failpoints import arm_from_environment
from toolpost.worker.loop import Loop
from toolpost.worker.source import LocalSource
from toolpost.worker.sweeping import Sweeper

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost.worker")

PAUSE_S = 1.0
"""How long what broke rests before it is begun anew."""


class Service:
    """An executor with all that doors need beside it: calls, the worker of accepted ones, callbacks, the sweeper.

    async with Service(executor) as service: ...; leaving it drains. It belongs to the event loop that starts it.
    """

    executor: ToolExecutor
    calls: Calls

    def __init__(self, executor: ToolExecutor, *, works: bool = True) -> None:
        """works: whether this process takes accepted calls, sends callbacks and sweeps; else it only answers."""
        self.executor = executor
        self.works = works
        self.calls = Calls(executor)
        self.loop: Loop | None = None
        self.deliveries: Deliveries | None = None
        self._tasks: list[asyncio.Task[None]] = []
        self._unwatch: list[Callable[[], None]] = []
        self._delivering: asyncio.Task[None] | None = None

    @property
    def draining(self) -> bool:
        """Whether no more calls are taken: those that come are refused with OverloadedError."""
        return self.calls.draining

    @draining.setter
    def draining(self, value: bool) -> None:
        self.calls.draining = value

    async def __aenter__(self) -> Service:
        await self.start()
        return self

    async def __aexit__(self, *exc: object) -> None:
        await self.stop()

    async def start(self) -> None:
        """Begin to take accepted calls, send callbacks and sweep."""
        arm_from_environment()
        self._watch()
        if not self.works or self._tasks:
            return
        owner = f"{socket.gethostname()}:{os.getpid()}:{new_id()}"
        source = LocalSource(self.executor, owner)
        loop = self.loop = Loop(self.calls, source, owner)
        sweeper = Sweeper(self.executor)
        deliveries = self.deliveries = Deliveries(self.executor)
        self.calls.accepted = source.wake
        self.calls.stop_here = loop.stop
        loop.told = deliveries.wake
        self.calls.ended_here = sweeper.wake
        self._begin(loop.take, "takes accepted calls")
        self._begin(loop.renew, "renews leases")
        self._begin(sweeper.run, "sweeps")
        self._delivering = self._begin(deliveries.run, "sends callbacks")

    async def drain(self, timeout_s: float | None = None) -> bool:
        """Take no more, let what runs end for timeout_s (drain_timeout), give back what does not; whether all ended."""
        self.draining = True
        limit_s = self.executor.config.drain_timeout if timeout_s is None else timeout_s
        clock = self.executor.clock
        until = clock.monotonic() + limit_s

        async def accepted() -> bool:
            return self.loop is None or await self.loop.drain(limit_s)

        ended = await asyncio.gather(self.calls.drained(limit_s), accepted())
        await self.calls.let_go()
        if self.deliveries is not None and self._delivering is not None and not self._delivering.done():
            left_s = max(1.0, until - clock.monotonic())
            await self.deliveries.drain(min(left_s, limit_s + 1.0))
        return all(ended)

    async def stop(self) -> None:
        """Drain, then end everything that start() began. The executor stays its maker's to close."""
        await self.drain()
        tasks, self._tasks = self._tasks, []
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        if self.loop is not None:
            await self.loop.close()
        await self.calls.close()
        while self._unwatch:
            self._unwatch.pop()()

    def _watch(self) -> None:
        """Have metrics tell what is under way."""
        if self._unwatch:
            return
        executor, places, watch = self.executor, self.calls.places, self.executor.figures.watch
        self._unwatch = [
            watch("toolpost_calls_in_flight", lambda: places.taken),
            watch("toolpost_calls_waiting", lambda: places.waiting),
            watch("toolpost_accepted_calls", lambda: at_once(executor.records.count_tasks()), shared=True),
            watch(
                "toolpost_deliveries_outstanding",
                lambda: at_once(executor.records.count_outbox([KIND])),
                shared=True,
            ),
        ]

    def _begin(self, work: Callable[[], Coroutine[Any, Any, None]], does: str) -> asyncio.Task[None]:
        """Have something done for as long as the service runs; what breaks is logged and begun anew."""

        async def doing() -> None:
            while True:
                try:
                    await work()
                    return
                except Exception:
                    logger.exception("what %s broke; it begins anew", does)
                    await asyncio.sleep(PAUSE_S)

        task = asyncio.create_task(doing(), name=f"toolpost {does}")
        self._tasks.append(task)
        return task


__all__ = ["Service"]
