"""Recorder: writes down in the background which calls a door's own process ran, and how they ended."""

from __future__ import annotations

import asyncio
import logging
from collections import OrderedDict
from dataclasses import replace
from itertools import islice
from typing import TYPE_CHECKING, Any

from toolpost.calls.call import ToolCall
from toolpost.calls.definition import ToolDefinition
from toolpost.calls.errors import StoreUnavailableError, ToolExecutionError
from toolpost.calls.result import ToolResult
from toolpost.stores import Finish, Task
from toolpost.worker.keeping import finish_of, had, name_of, recorded_task, tool_of
from toolpost.worker.reports import CallReport, KeptArtifact, state_of
from toolpost.worker.running import Running

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost.worker")

MAX_WAITING = 5_000
"""How many ended calls may wait to be written; those that end meanwhile are not recorded, which costs them nothing."""
MAX_BYTES = 64 << 20
"""How many bytes they may hold, about; for more the oldest make way."""
SMALL, SAMPLE = 64, 20
BATCH = 64
"""How many calls are written at a time: with more of them the store's thread takes the processor for so long at a
stretch that calls feel it (1,000 made the slowest of a hundred ten times as slow)."""
LAST_BATCH = 1_000
"""How many in flush(), where time is short and no call is held up: a slow store takes as long for each batch."""
BREATH = 16
"""After how many rows others have their turn."""
SHARE = 0.1
"""How much of the time goes into records at most, the store's included, while more calls wait than a batch takes."""
ROW_S = 20e-6
"""What a row takes of the processor in the store's thread at most (SQLite: 14 to 18 us); what is beyond it is waiting
for a turn, a disk or a network, which costs calls nothing."""
MAX_TOOLS = 1_000
PAUSE_S = 0.1
"""How long calls are gathered while fewer wait than a batch takes."""
LONGEST_PAUSE_S, LAST_PAUSE_S = 5.0, 0.05
"""Between two tries while the store is away; and between any two batches in flush()."""


class Ended:
    """A call that ended here, until it is written."""

    __slots__ = ("artifacts", "finished_at", "result", "running", "weight")

    def __init__(
        self, running: Running, result: ToolResult, artifacts: tuple[KeptArtifact, ...], finished_at: float
    ) -> None:
        self.running, self.artifacts, self.finished_at = running, artifacts, finished_at
        self.result = without_files(result)
        self.weight = 0
        """About how many bytes it holds, once it waits."""


class Recorder:
    """Calls that wait to be written. It never holds a call up; what it loses it counts, and says so once.

    dropped: how many calls were not recorded.
    """

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        # An OrderedDict, as looking for the first of a dict goes past all that were taken out before it.
        self._waiting: OrderedDict[str, Ended] = OrderedDict()
        self._writing: dict[str, Ended] = {}
        self._weight = 0
        self._task: asyncio.Task[None] | None = None
        self._tools: tuple[int, dict[tuple[str, str | None], ToolDefinition | None]] = (-1, {})
        self.dropped = 0
        self._flushes = False

    def note(self, ended: Ended) -> None:
        """Have a call recorded soon."""
        waiting = self._waiting
        if len(waiting) >= MAX_WAITING:
            self._lose(1, "more calls end than can be written down")
            return
        ended.weight = about(ended.result.data) + about(ended.running.call.arguments)
        waiting[ended.running.call.id] = ended
        self._weight += ended.weight
        while self._weight > MAX_BYTES and len(waiting) > 1:
            self._weight -= waiting.popitem(last=False)[1].weight
            self._lose(1, "more calls end than can be written down")
        if self._task is None:
            self._task = asyncio.create_task(self._write(), name="toolpost recorder")

    def waiting(self, call_id: str) -> Ended | None:
        """A call that ended and is not written yet."""
        return self._waiting.get(call_id) or self._writing.get(call_id)

    def all(self) -> list[Ended]:
        """All that wait."""
        return [*self._writing.values(), *self._waiting.values()]

    async def flush(self, timeout_s: float = 5.0) -> None:
        """Write what waits, for so long at most."""
        self._flushes = True
        try:
            async with asyncio.timeout(timeout_s):
                while self._task is not None:
                    await asyncio.shield(self._task)
        except TimeoutError:
            self._lose(len(self._waiting) + len(self._writing), "the store is away")
        finally:
            self._flushes = False

    def report(self, ended: Ended) -> CallReport:
        """A call that waits, as it will be shown once it is written."""
        running, result = ended.running, ended.result
        call = running.call
        tool = self._tool(call)
        return CallReport(
            call_id=call.id,
            tool=name_of(call) if tool is None else tool.name,
            state=state_of(result),
            caller=call.caller,
            version=call.version if tool is None else tool.version,
            arguments=self._executor.admission.shown(tool, call.arguments),
            result=result,
            artifacts=ended.artifacts,
            created_at=running.created_at,
            started_at=running.created_at,
            finished_at=ended.finished_at,
            attempt=1,
            idempotency_key=call.idempotency_key,
            trace=call.trace,
        )

    async def _write(self) -> None:
        pause_s, stopwatch = PAUSE_S, self._executor.clock.stopwatch
        try:
            while self._waiting or self._writing:
                await asyncio.sleep(min(pause_s, LAST_PAUSE_S if self._flushes else LONGEST_PAUSE_S))
                began, most = stopwatch(), LAST_BATCH if self._flushes else BATCH
                while len(self._writing) < most and self._waiting:
                    call_id, ended = self._waiting.popitem(last=False)
                    self._writing[call_id] = ended
                    self._weight -= ended.weight
                try:
                    busy_s = await self._put(list(self._writing.values()))
                except StoreUnavailableError as error:
                    pause_s = min(LONGEST_PAUSE_S, max(pause_s, PAUSE_S) * 2)
                    logger.warning("calls are not recorded while the store is away: %s", error.message)
                    continue
                except Exception:
                    busy_s = 0.0
                    self._lose(len(self._writing), "they could not be written")
                    logger.exception("calls could not be recorded")
                self._writing.clear()
                took_s = stopwatch() - began
                pause_s = PAUSE_S if len(self._waiting) < BATCH else max(0.0, busy_s / SHARE - took_s)
        finally:
            self._task = None

    async def _put(self, batch: list[Ended]) -> float:
        """Write calls; for how many seconds that kept the loop or the store busy."""
        rows: list[tuple[Task, Finish]] = []
        busy_s, stopwatch = 0.0, self._executor.clock.stopwatch
        for at in range(0, len(batch), BREATH):
            began = stopwatch()
            for ended in batch[at : at + BREATH]:
                try:
                    rows.append(await self._row(ended))
                except StoreUnavailableError:
                    raise
                except Exception:
                    self._lose(1, "it could not be written")
                    logger.exception("a call could not be recorded")
            busy_s += stopwatch() - began
            await asyncio.sleep(0)
        began = stopwatch()
        try:
            await had(self._executor.records.record_tasks(rows))
        except StoreUnavailableError:
            raise
        except ToolExecutionError:
            await self._put_singly(rows)
        return busy_s + min(stopwatch() - began, ROW_S * len(rows))

    async def _put_singly(self, rows: list[tuple[Task, Finish]]) -> None:
        """Write calls one by one, after one that cannot be kept kept all of them from being written."""
        for row in rows:
            try:
                await had(self._executor.records.record_tasks([row]))
            except StoreUnavailableError:
                raise
            except ToolExecutionError as error:
                self._lose(1, error.message)

    async def _row(self, ended: Ended) -> tuple[Task, Finish]:
        call, executor = ended.running.call, self._executor
        tool = self._tool(call)
        shown = executor.admission.shown(tool, call.arguments)
        task = recorded_task(call, shown, call.version if tool is None else tool.version)
        finish = await finish_of(
            ended.result,
            call.id,
            executor,
            artifacts=ended.artifacts,
            lasted=(ended.running.created_at, ended.finished_at),
        )
        return task, finish

    def _tool(self, call: ToolCall) -> ToolDefinition | None:
        revision = self._executor.registry.revision
        if self._tools[0] != revision:
            self._tools = (revision, {})
        known, key = self._tools[1], (call.name, call.version)
        if key not in known:
            known[key] = tool_of(self._executor, *key)
            if len(known) > MAX_TOOLS:
                known.clear()
                return tool_of(self._executor, *key)
        return known[key]

    def _lose(self, number: int, why: str) -> None:
        if number and not self.dropped:
            logger.warning("calls are not recorded: %s; from now on they are only counted", why)
        self.dropped += number


def about(value: Any, depth: int = 4) -> int:
    """About how many bytes a JSON value takes; of what has many members the first are looked at."""
    if isinstance(value, str):
        return len(value)
    if depth == 0 or not isinstance(value, (dict, list)) or not value:
        return SMALL
    members = value.values() if isinstance(value, dict) else value
    many, total = len(value), 0
    for one in members if many <= SAMPLE else islice(members, SAMPLE):
        total += SMALL if one.__class__ in _SMALL else about(one, depth - 1)
    return (total if many <= SAMPLE else total * many // SAMPLE) + SMALL


_SMALL = frozenset({int, float, bool, type(None)})


def without_files(result: ToolResult) -> ToolResult:
    """A result without the bytes of its artifacts."""
    if not result.artifacts:
        return result
    return replace(result, artifacts={})


__all__ = ["Ended", "Recorder", "without_files"]
