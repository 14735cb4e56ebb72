"""Sweeper: gives up calls that lose their holders, tells who waits for those, and forgets what is old."""

from __future__ import annotations

import asyncio
import logging
from typing import TYPE_CHECKING

from toolpost.calls.errors import StoreUnavailableError, ToolExecutionError
from toolpost.stores import TERMINAL
from toolpost.stores.standing import FAREWELL
from toolpost.worker.callbacks import callback_message
from toolpost.worker.failpoints import fp
from toolpost.worker.keeping import had, report_of
from toolpost.worker.reports import report_json

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

logger = logging.getLogger("toolpost.worker")

EVERY_S = 5.0
FORGETS_EVERY_S = 60.0
BATCH = 1_000
LEASE_S = 60.0


class Sweeper:
    """Sweeps for one executor, beside any number of others."""

    def __init__(self, executor: ToolExecutor) -> None:
        self._executor = executor
        self._bell = asyncio.Event()

    def wake(self) -> None:
        """Tell who waits for a call that was cancelled, now."""
        self._bell.set()

    async def run(self) -> None:
        """Sweep until cancelled."""
        clock = self._executor.clock
        forgets_at = clock.monotonic() + clock.jitter(FORGETS_EVERY_S)
        while True:
            try:
                await self.sweep()
                if clock.monotonic() >= forgets_at:
                    await self.forget()
                    forgets_at = clock.monotonic() + FORGETS_EVERY_S
            except StoreUnavailableError:
                pass  # those who claim say so
            except Exception:
                logger.exception("a sweep failed")
            self._bell.clear()
            try:
                async with asyncio.timeout(EVERY_S * 0.75 + clock.jitter(EVERY_S * 0.5)):
                    await self._bell.wait()
            except TimeoutError:
                continue

    async def sweep(self) -> None:
        """Give up what was lost too often, drop what expired, and have callbacks made of what the store ended."""
        fp("sweep.before")
        swept = await had(self._executor.records.sweep(BATCH))
        if swept.get("dead"):
            logger.warning("%d accepted calls are dead: they lost their holders too often", swept["dead"])
        await self._say_farewell()

    async def forget(self) -> None:
        """Forget calls that ended longer ago than calls_kept."""
        kept_s = self._executor.config.calls_kept
        dropped = BATCH
        while dropped >= BATCH:
            dropped = await had(self._executor.records.drop_tasks(kept_s, BATCH))

    async def _say_farewell(self) -> None:
        records = self._executor.records
        while True:
            taken = await had(records.take_outbox(100, LEASE_S, [FAREWELL]))
            for number, message, _ in taken:
                if not message.dest.startswith(("https://", "http://")):
                    continue
                try:
                    await call_back(self._executor, message.key)
                except StoreUnavailableError:
                    raise
                except Exception:  # it comes again when its lease is over, and holds up no others until then
                    logger.exception("it cannot be said how call %s ended; it is tried again", message.key)
                    continue
                await had(records.sent([number]))
            if len(taken) < 100:
                return


async def call_back(executor: ToolExecutor, call_id: str) -> None:
    """Put the callback of a call that ended into the outbox, if it wants one; said again it is the same message."""
    row = await had(executor.records.task(call_id))
    if row is None or row.reply_to is None or row.state not in TERMINAL:
        return
    try:
        report = await report_of(row, executor)
        message = callback_message(executor, report, report_json(report))
    except StoreUnavailableError:
        raise
    except ToolExecutionError as error:
        logger.warning("nobody is told how call %s ended: %s", call_id, error.message)
        return
    await had(executor.records.put_outbox([message]))


__all__ = ["Sweeper", "call_back"]
