"""Sources: where accepted calls come from. What is claimed, fenced and finished is the same for all of them."""

from __future__ import annotations

import asyncio
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from toolpost.stores import Task, Work
from toolpost.worker.failpoints import fp
from toolpost.worker.keeping import had

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

SHORTEST_S, LONGEST_S = 0.02, 0.5
"""How often a source looks for work that nobody told it of: the longer there was none, the less."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Delivery:
    """A call that came in. work: it is claimed already; else task is what is to be claimed under its id.

    token is the source's own, to be handed back to ack or release.
    """

    work: Work | None = None
    task: Task | None = None
    token: Any = None


class Source(Protocol):
    """Brings calls in. A queue's source hands over tasks that are to be claimed, the store's own claims by itself."""

    async def take(self, room: int, /) -> list[Delivery]:
        """Up to room calls, as soon as there is one; none when there will be no more. Raises StoreUnavailableError."""

    def ack(self, token: Any, /) -> None:
        """The store owns the call's outcome, or its future."""

    def release(self, token: Any, after_s: float, /) -> None:
        """The call is held by another, or could not be claimed: bring it again after after_s."""

    def wake(self) -> None:
        """There may be something now."""

    async def drain(self) -> None:
        """Bring no more."""


class LocalSource:
    """Accepted calls in Records: woken by those who accept in this process, else by looking now and then."""

    def __init__(self, executor: ToolExecutor, owner: str) -> None:
        self._executor, self.owner = executor, owner
        self._bell = asyncio.Event()
        self._pause_s = SHORTEST_S
        self._drained = False
        self._tools: tuple[int, list[str]] = (-1, [])

    async def take(self, room: int, /) -> list[Delivery]:
        while not self._drained:
            self._bell.clear()
            works = await self._claim(room)
            if works:
                self._pause_s = SHORTEST_S
                return [Delivery(work=work) for work in works]
            try:
                async with asyncio.timeout(self._pause_s):
                    await self._bell.wait()
                self._pause_s = SHORTEST_S
            except TimeoutError:
                self._pause_s = min(LONGEST_S, self._pause_s * 2)
        return []

    async def _claim(self, room: int) -> list[Work]:
        tools = self._known()
        fp("claim.before")
        lease_s = self._executor.config.task_lease
        works: list[Work] = await had(self._executor.records.claim_tasks(self.owner, room, lease_s, tools))
        fp("claim.after")
        return works

    def _known(self) -> list[str]:
        """The tools that are loaded here: calls of others are for other processes, until they are late."""
        revision = self._executor.registry.revision
        if self._tools[0] != revision:
            self._tools = (revision, self._executor.registry.list_tools())
        return self._tools[1]

    def ack(self, token: Any, /) -> None:
        """Nothing: the row says it."""

    def release(self, token: Any, after_s: float, /) -> None:
        """Nothing: the row is there to be claimed."""

    def wake(self) -> None:
        self._bell.set()

    async def drain(self) -> None:
        self._drained = True
        self._bell.set()


__all__ = ["Delivery", "LocalSource", "Source"]
