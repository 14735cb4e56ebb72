"""Gate: while the store is away one prober asks for it, and everybody else waits with what they have."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Callable
from typing import TYPE_CHECKING, TypeVar

from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import Answer
from toolpost.worker.keeping import had

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

T = TypeVar("T")
logger = logging.getLogger("toolpost.worker")

FIRST_PAUSE_S, LONGEST_PAUSE_S = 0.2, 5.0
OWNERS_S = 12.0
"""How long after an outage all others have noticed that it is over: twice the longest pause, and a little."""


class Gate:
    """Open as long as records answer."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        self._open = asyncio.Event()
        self._open.set()
        self._prober: asyncio.Task[None] | None = None
        self.answered = False
        """Whether the store ever answered here."""
        self._knows = True
        """Whether the last outage began while this process ran."""
        self._shut_at = self._opened_at = self._away_s = 0.0
        self.opened: Callable[[], object] = lambda: None
        """Called when the store is back."""

    @property
    def is_open(self) -> bool:
        return self._open.is_set()

    async def passed(self) -> None:
        """Wait until the store answers."""
        await self._open.wait()

    def owners_have_s(self, lease_s: float) -> float:
        """How much longer others have to renew what they held when the store went away, before it may be taken over.

        After a short outage that is nothing: no lease ended in it, as all are renewed each third of it. Who started in
        an outage does not know how long it was.
        """
        if self._knows and self._away_s < lease_s / 3:
            return 0.0
        until = self._opened_at + min(OWNERS_S, max(lease_s, self._away_s))
        return max(0.0, until - self._executor.clock.monotonic())

    def shut(self, error: StoreUnavailableError) -> None:
        """The store did not answer."""
        if self._prober is None:
            logger.warning("accepted calls wait for their store: %s", error.message)
            self._open.clear()
            self._shut_at = self._executor.clock.monotonic()
            self._prober = asyncio.create_task(self._probe(), name="toolpost prober")

    async def through(self, operation: Callable[[], Answer[T]]) -> T:
        """The answer of an operation that can be repeated, however long the store is away."""
        while True:
            await self.passed()
            try:
                return await had(operation())
            except StoreUnavailableError as error:
                self.shut(error)

    def close(self) -> None:
        """End the prober."""
        if self._prober is not None:
            self._prober.cancel()

    async def _probe(self) -> None:
        pause_s = FIRST_PAUSE_S
        clock = self._executor.clock
        try:
            while True:
                await clock.sleep(pause_s * 0.75 + clock.jitter(pause_s * 0.5))
                try:
                    await had(self._executor.records.ping())
                    break
                except StoreUnavailableError:
                    pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
                except Exception as error:  # a newer schema, say: whoever waits must not wait for nobody
                    logger.warning("the store of accepted calls answers wrongly: %s: %s", type(error).__name__, error)
                    pause_s = min(LONGEST_PAUSE_S, pause_s * 2)
        finally:
            self._prober = None
        self._opened_at = clock.monotonic()
        self._away_s = self._opened_at - self._shut_at
        self._knows, self.answered = self.answered, True
        self._open.set()
        self.opened()
        logger.warning("the store of accepted calls is back")


__all__ = ["Gate"]
