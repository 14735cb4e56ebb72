"""Following: the events of accepted calls wherever they run; one poller a call, however many follow it here."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING

from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import TERMINAL, TaskRow
from toolpost.worker.feed import RESULT_N, CallEvent, Feed, Ring, event_id
from toolpost.worker.journal import Journal
from toolpost.worker.keeping import caller_of, had, report_of
from toolpost.worker.reports import report_json

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost.worker")

SHORTEST_S, LONGEST_S = 0.05, 0.5
"""How often a poller looks: the longer nothing happens, the less."""


class Following:
    """Follows accepted calls for the callers of one process."""

    def __init__(self, executor: ToolExecutor, feed: Feed, journal: Journal) -> None:
        self._executor, self._feed, self._journal = executor, feed, journal
        self._pollers: dict[str, asyncio.Task[None]] = {}
        self._closed = False

    async def follow(self, row: TaskRow, after: str | None) -> AsyncIterator[CallEvent]:
        """The events of a call from after on, to its result. row is how it stands now."""
        seen = after or ""
        call_id = row.task_id
        if row.state in TERMINAL:
            async for event in self._ended(row, seen):
                yield event
            return
        if self._closed:  # who came to the door just then goes on elsewhere, as the others do
            event = _state_event(row)
            if event.id > seen:
                yield event
            return
        ring = self._feed.ring(call_id)
        if ring is None or ring.ended:
            ring = self._feed.open(call_id, caller_of(row), fence=row.fence)
        ring.followers += 1
        try:
            if call_id not in self._pollers:
                poller = asyncio.create_task(self._poll(call_id, ring), name=f"toolpost follows {call_id}")
                self._pollers[call_id] = poller
            kept = [_state_event(row), *await self._journal.read(call_id, seen)]
            for event in sorted(kept, key=lambda event: event.id):
                if event.id > seen:
                    seen = event.id
                    yield event
            async for event in self._feed.follow_ring(call_id, ring, seen):
                yield event
        finally:
            ring.followers -= 1

    async def close(self) -> None:
        """End all pollers, and begin no more."""
        self._closed = True
        pollers = list(self._pollers.values())
        for poller in pollers:
            poller.cancel()
        await asyncio.gather(*pollers, return_exceptions=True)

    async def _ended(self, row: TaskRow, seen: str) -> AsyncIterator[CallEvent]:
        for event in await self._journal.read(row.task_id, seen):
            seen = event.id
            yield event
        result_id = event_id(row.fence, RESULT_N)
        if result_id > seen:
            report = await report_of(row, self._executor)
            yield CallEvent(id=result_id, kind="result", data=report_json(report), at=row.updated_at)

    async def _poll(self, call_id: str, ring: Ring) -> None:
        """Have a ring told what happens to a call elsewhere, as long as somebody follows it."""
        pause_s = SHORTEST_S
        try:
            while True:
                await asyncio.sleep(pause_s)
                if ring.ended or not ring.followers:
                    return
                if ring.keep is not None:  # it runs here, and tells by itself
                    pause_s = LONGEST_S
                    continue
                before = ring.last_id
                try:
                    gone = await self._look(call_id, ring)
                except StoreUnavailableError:
                    pause_s = LONGEST_S
                    continue
                if gone:
                    return
                pause_s = SHORTEST_S if ring.last_id != before else min(LONGEST_S, pause_s * 1.5)
        except Exception:
            logger.exception("a call can no longer be followed: %s", call_id)
            if self._feed.ring(call_id) is ring:  # who waits for more would wait for ever
                self._feed.forget(call_id)
        finally:
            self._pollers.pop(call_id, None)
            if self._feed.ring(call_id) is ring and ring.keep is None and not ring.ended:  # what ended stays a while
                self._feed.close(call_id, None, for_s=0.0)

    async def _look(self, call_id: str, ring: Ring) -> bool:
        row = await had(self._executor.records.task(call_id))
        if row is None:
            self._feed.forget(call_id)
            return True
        for event in await self._journal.read(call_id, ring.last_id):
            ring.add(event)
        if ring.keep is not None or ring.ended:
            return ring.ended
        if row.state in TERMINAL:
            report = await report_of(row, self._executor)
            ring.fence = max(ring.fence, row.fence)
            self._feed.close(call_id, report_json(report), for_s=0.0)
            return True
        ring.add(_state_event(row))
        return False


def _state_event(row: TaskRow) -> CallEvent:
    """How a call stands. A holder's running comes before all that it tells, what follows it after that."""
    n = 0 if row.state == "running" or row.fence == 0 else RESULT_N - 1
    return CallEvent(id=event_id(row.fence, n), kind="state", data={"state": row.state}, at=row.updated_at)


__all__ = ["Following"]
