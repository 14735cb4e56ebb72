"""Journal: events of accepted calls in records, so that other processes can follow, and who reconnects finds them."""

from __future__ import annotations

import asyncio
import logging
from collections import deque
from typing import TYPE_CHECKING, Any

import orjson

from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores import Document
from toolpost.worker.failpoints import fp
from toolpost.worker.feed import KEPT_EVENTS, CallEvent, Keep, event_id
from toolpost.worker.keeping import dumps, had

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost.worker")

KIND = "call_event"
MAX_WAITING = 5_000
"""How many events may wait to be written; the newest do."""
PAUSE_S = 0.1
"""How long events are gathered."""
LONGEST_S = 86_400.0
"""How long events are kept at most."""
PAGE = 200


class Journal:
    """Writes events in the background: it never holds a call up, and loses events rather than calls."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        self._waiting: deque[tuple[str, CallEvent]] = deque(maxlen=MAX_WAITING)
        self._batch: list[tuple[str, CallEvent]] = []
        """What is being written."""
        self._task: asyncio.Task[None] | None = None
        self._told = self._over = 0
        self._hurry, self._progress = asyncio.Event(), asyncio.Event()
        self._complained = False

    def keeper(self, call_id: str) -> Keep:
        """What keeps the events of one call."""

        def keep(event: CallEvent) -> None:
            self._told += 1
            if len(self._waiting) == MAX_WAITING:
                self._over += 1
            self._waiting.append((call_id, event))
            if self._task is None:
                self._task = asyncio.create_task(self._write(), name="toolpost events")

        return keep

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Have what was told so far written now; wait for that, or until it cannot be, or for timeout_s."""
        told = self._told
        try:
            async with asyncio.timeout(timeout_s):
                while self._over < told and self._task is not None:
                    self._hurry.set()
                    self._progress.clear()
                    await self._progress.wait()
        except TimeoutError:
            return

    async def read(self, call_id: str, after: str = "") -> list[CallEvent]:
        """The kept events of a call, above an id; those that this process has yet to write among them."""
        told = [event for its, event in (*self._batch, *self._waiting) if its == call_id and event.id > after]
        found = {event.id: event for event in [*await self._written(call_id, after), *told]}
        return [found[its_id] for its_id in sorted(found)]

    async def _written(self, call_id: str, after: str) -> list[CallEvent]:
        found: list[CallEvent] = []
        prefix = f"{call_id}/"
        place = prefix + after
        while True:
            page = await had(self._executor.records.documents(KIND, after=place, limit=PAGE))
            for document in page:
                if not document.key.startswith(prefix):
                    return found
                found.append(_event(document))
                place = document.key
            if len(page) < PAGE:
                return found

    async def _write(self) -> None:
        try:
            while self._waiting:
                await self._pause()
                batch = [self._waiting.popleft() for _ in range(min(len(self._waiting), PAGE))]
                fp("events.before")
                await self._put(batch)
                self._over += len(batch)
                self._progress.set()
        except StoreUnavailableError as error:
            if not self._complained:
                self._complained = True
                logger.warning("events of accepted calls are not kept while the store is away: %s", error.message)
        except Exception:
            logger.exception("events of accepted calls could not be kept")
        finally:
            if self._waiting or self._over < self._told:
                self._waiting.clear()
                self._over = self._told
            self._task = None
            self._progress.set()

    async def _pause(self) -> None:
        """Gather events for a moment, unless somebody waits for them, or they are many."""
        if len(self._waiting) < PAGE:
            try:
                async with asyncio.timeout(PAUSE_S):
                    await self._hurry.wait()
            except TimeoutError:
                return
        self._hurry.clear()

    async def _put(self, batch: list[tuple[str, CallEvent]]) -> None:
        records = self._executor.records
        expires_at = self._executor.clock.now() + min(LONGEST_S, max(60.0, self._executor.config.calls_kept))
        answers: list[Any] = []
        for call_id, event in batch:  # asked for at once, so that the store writes them in one go
            document = Document(KIND, f"{call_id}/{event.id}", 0, _body(event), expires_at=expires_at)
            answers.append(records.put_document(document))
            fence, n = map(int, event.id.split("-"))
            if n > KEPT_EVENTS:
                answers.append(records.drop_document(KIND, f"{call_id}/{event_id(fence, n - KEPT_EVENTS)}"))
        for answer in answers:
            await had(answer)


def _body(event: CallEvent) -> bytes:
    return dumps({"kind": event.kind, "data": event.data, "at": event.at})


def _event(document: Document) -> CallEvent:
    said = orjson.loads(document.body)
    return CallEvent(id=document.key.rpartition("/")[2], kind=said["kind"], data=said["data"], at=said["at"])


__all__ = ["KIND", "Journal"]
