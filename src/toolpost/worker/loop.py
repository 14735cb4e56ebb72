"""Loop: takes accepted calls from a source, runs them under their leases, and writes how they ended, once each."""

from __future__ import annotations

import asyncio
import contextlib
import logging
from collections import OrderedDict
from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING

from toolpost.calls.errors import EngineError, StoreUnavailableError, ToolExecutionError
from toolpost.calls.result import ToolResult, failed_result
from toolpost.stores import TERMINAL, Finish, Outgoing, Task, TaskRow, Work
from toolpost.worker.callbacks import callback_message
from toolpost.worker.failpoints import fp
from toolpost.worker.feed import CallEvent, event_id
from toolpost.worker.gate import Gate
from toolpost.worker.held import Held
from toolpost.worker.keeping import call_of, caller_of, had, refused_call_of, report_of, tool_of
from toolpost.worker.patience import finish_patiently, keep_files
from toolpost.worker.recording import without_files
from toolpost.worker.reports import KeptArtifact, report_json
from toolpost.worker.running import Running
from toolpost.worker.source import Delivery, Source
from toolpost.worker.sweeping import call_back
from toolpost.worker.telling import report_of_end
from toolpost.worker.verdicts import Verdict, afterwards, beforehand, overdue, put_off

if TYPE_CHECKING:
    from toolpost.worker.calls import Calls

logger = logging.getLogger("toolpost.worker")

RENEWALS = 3
"""How often a lease is renewed while it lasts."""
REMEMBERED = 4_096
"""How many finished fences are remembered, so that what this process claimed from itself is not run twice."""
TELL_S = 1.0
"""How long a call that ended waits for what it told to be written."""
PATIENT = 120
"""How often a call is given back whose tool's version is not loaded here; after that it is refused."""
LAST_S = 5.0
"""How much longer than their grace bodies that are ended at a shutdown have, until the process goes without them."""


class Loop:
    """Runs accepted calls, at most worker_concurrency at a time. owner is this process's name in leases."""

    def __init__(self, calls: Calls, source: Source, owner: str) -> None:
        self._calls, self._source, self.owner = calls, source, owner
        self._executor = calls.executor
        self.gate = Gate(calls.executor)
        self._held: dict[str, Held] = {}
        self._tasks: set[asyncio.Task[None]] = set()
        self._ending = 0
        self._taking = False
        self._room, self._hurry = asyncio.Event(), asyncio.Event()
        self._done: OrderedDict[tuple[str, int], None] = OrderedDict()
        self.draining = False
        self.told: Callable[[], object] = lambda: None
        """Called when a callback was put into the outbox."""
        self.gate.opened = self._hurry.set

    @property
    def held(self) -> int:
        """How many calls are held."""
        return len(self._held)

    # -- taking -------------------------------------------------------------------------------------------------------

    async def take(self) -> None:
        """Take calls and begin them, until drain()."""
        while not self.draining:
            room = self._free()
            if room <= 0:
                self._room.clear()
                await self._room.wait()
                continue
            await self.gate.passed()
            await self._owners_first()
            self._taking = True
            try:
                deliveries = await self._source.take(room)
                self.gate.answered = True
                for delivery in deliveries:
                    await self._take_up(delivery)
            except StoreUnavailableError as error:
                self.gate.shut(error)
                continue
            finally:
                self._taking = False
                self._room.set()
            if not deliveries:
                return

    def _free(self) -> int:
        """How many calls more may be begun. Where only the end is to be written the next one can begin meanwhile."""
        most = self._executor.config.worker_concurrency
        return min(most - (len(self._held) - self._ending), 2 * most - len(self._held))

    async def _owners_first(self) -> None:
        """After an outage in which leases ran out, let those who held calls say so before anybody takes these over."""
        gate, config, clock = self.gate, self._executor.config, self._executor.clock
        while not self.draining and (wait_s := gate.owners_have_s(config.task_lease)) > 0:
            self._room.clear()
            alarm = clock.alarm(wait_s, self._room.set)
            try:
                await self._room.wait()
            finally:
                alarm.cancel()

    async def _take_up(self, delivery: Delivery) -> None:
        work = delivery.work
        if work is None:
            answer = await self._claimed(delivery)
            if answer is None:
                return
            work = answer
        task_id = work.task.task_id
        mine = self._held.get(task_id)
        if mine is not None:  # its lease ran out while this process was busy: the body runs on under the new fence
            mine.work = replace(mine.work, fence=work.fence)
            mine.again = work
            return
        if (task_id, work.fence) not in self._done:
            self._hold(work, delivery.token)

    def _hold(self, work: Work, token: object) -> None:
        task_id = work.task.task_id
        held = self._held[task_id] = Held(work, token)
        task = asyncio.create_task(self._work(held), name=f"toolpost call {task_id}")
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)

    async def _claimed(self, delivery: Delivery) -> Work | None:
        """What is to be run of a call that a queue brought; None where it is over, or another's."""
        task = delivery.task
        assert task is not None
        lease_s = self._executor.config.task_lease
        answer: Work | TaskRow = await self.gate.through(
            lambda: self._executor.records.claim_task(task, self.owner, lease_s)
        )
        if isinstance(answer, Work):
            return answer
        if answer.state in TERMINAL:
            self._source.ack(delivery.token)
        else:
            self._source.release(delivery.token, lease_s)
        return None

    # -- one call -----------------------------------------------------------------------------------------------------

    async def _work(self, held: Held) -> None:
        task_id = held.work.task.task_id
        try:
            if self.draining and not held.began:
                await self._give_back(held, 0.0)
                return
            verdict, artifacts = await self._verdict(held)
            held.ending = True
            self._ending += 1
            self._room.set()
            if held.lost:
                fp("lost")
                logger.warning("call %s is another process's by now; what it gave here was dropped", task_id)
            elif verdict is not None:
                await self._end(held, verdict, artifacts)
        except asyncio.CancelledError:
            raise
        except Exception as error:
            logger.exception("call %s could not be worked on", task_id)
            await self._broken(held, error)
        finally:
            if self._held.get(task_id) is held:
                del self._held[task_id]
            self._ending -= held.ending
            self._calls.feed.close(task_id, None, for_s=0.0)
            self._room.set()
        if held.again is not None and 0 < held.finished < held.again.fence:
            self._hold(held.again, held.token)  # it was given back, and taken again before that was known here

    async def _verdict(self, held: Held) -> tuple[Verdict | None, tuple[KeptArtifact, ...]]:
        """Run a call if it may; what is to become of it, None where nothing is: it is given back already."""
        work, executor = held.work, self._executor
        tool = tool_of(executor, work.task.tool, work.task.version)
        if tool is None and work.fence <= PATIENT and not overdue(work):  # in a rolling upgrade others have it
            await self._give_back(held, LAST_S)
            return None, ()
        repeatable = tool is not None and executor.admission.repeatable(tool, work.task.idempotency_key)
        verdict = beforehand(work, work.task.tool, repeatable=repeatable)
        try:
            call = None if verdict is not None else await call_of(work, executor)
        except StoreUnavailableError as error:
            logger.warning("call %s waits for its arguments: %s", work.task.task_id, error.message)
            await self._give_back(held, LAST_S)
            return None, ()
        except ToolExecutionError as error:
            executor.admission.refused(refused_call_of(work.task), error)
            return afterwards(
                work, failed_result(work.task.task_id, work.task.tool, error), repeatable=False, jitter=0
            ), ()
        if held.lost:
            return None, ()
        if held.given_up:
            await self._give_back(held, 0.0)
            return None, ()
        if verdict is None and held.work.cancel:
            verdict = beforehand(held.work, work.task.tool, repeatable=repeatable)
        if verdict is not None or call is None:
            if verdict is not None and verdict.refusal is not None:
                executor.admission.refused(refused_call_of(work.task), verdict.refusal)
            return verdict, ()
        fp("run.before")
        result = await self._run(
            held, Running(call, asyncio.current_task(), executor.clock.now(), self._explains(work))
        )
        fp("run.after")
        if held.lost:
            return None, ()
        cancelled = result.failure is not None and result.failure.code == "cancelled"
        if held.given_up and cancelled and (repeatable or _not_run(result)):
            await self._give_back(held, 0.0)
            return None, ()
        artifacts = await keep_files(result, executor)
        jitter = executor.clock.jitter(1.0)
        return afterwards(held.work, without_files(result), repeatable=repeatable, jitter=jitter), artifacts

    async def _run(self, held: Held, running: Running) -> ToolResult:
        """The result of the body, which can be ended from now on and until it is there."""
        work = held.work
        task_id = work.task.task_id
        ring = self._calls.feed.open(
            task_id, caller_of(work.task), fence=work.fence, keep=self._calls.journal.keeper(task_id)
        )
        ring.add(
            CallEvent(
                id=event_id(work.fence, 0), kind="state", data={"state": "running"}, at=self._executor.clock.now()
            )
        )
        running.started_at = running.created_at
        held.running, held.began = running, True
        try:
            return await running.run(self._executor)
        finally:
            held.running = None

    def _explains(self, work: Work) -> bool:
        return bool(work.task.extra.get("explain", False))

    # -- its end ------------------------------------------------------------------------------------------------------

    async def _end(self, held: Held, verdict: Verdict, artifacts: tuple[KeptArtifact, ...]) -> None:
        """Write how a call ended, or when it goes on, as soon as the store can be reached."""
        task = held.work.task
        if self._calls.feed.settle(task.task_id):  # who follows elsewhere reads that before the end
            await self._calls.journal.flush(TELL_S)
        outbox: tuple[Outgoing, ...] = ()
        if verdict.state in TERMINAL:
            if task.reply_to is not None:
                report = report_of_end(held.work, verdict, artifacts, self._executor)
                outbox = (callback_message(self._executor, report, report_json(report)),)
            finish = await finish_patiently(task.task_id, verdict, artifacts, outbox, self._executor)
        else:
            finish = put_off(task.task_id, verdict)
        if await self._finish(held, finish):
            self._source.ack(held.token)
            if outbox:
                self.told()
            if verdict.state in TERMINAL:
                self._executor.figures.task(verdict.state, verdict.result.execution_time_ms / 1000.0)
                await self._tell(task.task_id)
            else:
                await self._put_off(task)

    async def _broken(self, held: Held, raised: Exception) -> None:
        """End a call for which this program itself failed; where that fails too its lease runs out."""
        task = held.work.task
        error = EngineError(f"the worker failed: {type(raised).__name__}", tool=task.tool)
        error.outcome = "unknown" if held.began else "not_run"
        try:
            await self._end(held, Verdict("failed", failed_result(task.task_id, task.tool, error)), ())
        except Exception:
            logger.exception("call %s is left to whoever takes it over", task.task_id)

    async def _give_back(self, held: Held, due_in_s: float) -> None:
        """Have a call run later, by whoever takes it; that was no attempt."""
        finish = Finish(
            task_id=held.work.task.task_id, fence=0, state="queued", due_in_s=due_in_s, outcome="given back"
        )
        if await self._finish(held, finish):
            self._source.ack(held.token)
            await self._put_off(held.work.task)

    async def _put_off(self, task: Task) -> None:
        """What was to go on later is over if it was cancelled meanwhile: then who waits for it is told."""
        if task.reply_to is not None:
            with contextlib.suppress(StoreUnavailableError):
                await call_back(self._executor, task.task_id)

    async def _finish(self, held: Held, finish: Finish) -> bool:
        """Write a finish under the fence that is held; whether it counts. A repeated one does."""
        task_id = held.work.task.task_id
        while True:
            fence = held.work.fence
            written = await self._written(replace(finish, fence=fence))
            if written:
                held.finished = fence
                self._done[task_id, fence] = None
                while len(self._done) > REMEMBERED:
                    self._done.popitem(last=False)
                return True
            row = await self.gate.through(lambda: self._executor.records.task(task_id))
            if row is None or row.state != "running" or row.owner != self.owner or row.fence <= fence:
                fp("lost")
                logger.warning("call %s was taken over; what it gave here was dropped", task_id)
                return False
            held.work = replace(held.work, fence=row.fence)

    async def _written(self, finish: Finish) -> bool:
        """Write a finish, however long the store is away; one that was written, and not heard of, may be repeated."""
        while True:
            await self.gate.passed()
            try:
                fp("finish.before")
                written = await had(self._executor.records.finish_task(finish))
                fp("finish.after")
                return written
            except StoreUnavailableError as error:
                self.gate.shut(error)

    async def _tell(self, task_id: str) -> None:
        """Tell those who follow a call here how it ended."""
        ring = self._calls.feed.ring(task_id)
        if ring is None or not ring.followers:
            return
        try:
            row = await had(self._executor.records.task(task_id))
            if row is not None:
                report = await report_of(row, self._executor)
                self._calls.feed.close(task_id, report_json(report), for_s=0.0)
        except StoreUnavailableError:  # the poller of those who follow tells them
            return

    # -- what others say about it -------------------------------------------------------------------------------------

    async def renew(self) -> None:
        """Lengthen the leases of all that is held, and heed what is said then: cancelled, or another's by now."""
        while True:
            lease_s = self._executor.config.task_lease
            await self._pause(lease_s / RENEWALS)
            held = [(one.work.task.task_id, one.work.fence) for one in self._held.values()]
            if not held:
                continue
            fp("renew")
            try:
                answers = await had(self._executor.records.renew_tasks(self.owner, held, lease_s))
            except StoreUnavailableError as error:
                self.gate.shut(error)
                continue
            for (task_id, fence), answer in zip(held, answers, strict=True):
                self._heed(task_id, fence, answer)

    async def _pause(self, longest_s: float) -> None:
        """Wait that long, or until the store is back: leases may be about to end."""
        alarm = self._executor.clock.alarm(longest_s, self._hurry.set)
        try:
            await self._hurry.wait()
        finally:
            alarm.cancel()
            self._hurry.clear()

    def _heed(self, task_id: str, fence: int, answer: str) -> None:
        held = self._held.get(task_id)
        if held is None or held.work.fence != fence or held.ending:
            return
        if answer == "lost":
            held.lost = True
            if held.running is not None:
                held.running.cancel(self._executor, "another process took the call over")
        elif answer == "cancel":
            self.stop(task_id)

    def stop(self, task_id: str) -> None:
        """End a call that was cancelled, if it is held here; its body is not begun any more."""
        held = self._held.get(task_id)
        if held is None or held.ending:
            return
        fp("cancel.seen")
        held.work = replace(held.work, cancel=True)
        if held.running is not None:
            held.running.cancel(self._executor, "the call was cancelled")

    # -- shutdown -----------------------------------------------------------------------------------------------------

    async def drain(self, timeout_s: float) -> bool:
        """Take no more, let what runs end, give back what does not, or end what is not safe to; whether all ended."""
        self.draining = True
        fp("drain.begin")
        await self._source.drain()
        self._room.set()
        if await self._emptied(timeout_s):
            return True
        for held in list(self._held.values()):
            held.given_up = True
            if held.running is not None:
                held.running.cancel(self._executor, "the process that ran the call was shut down")
        await self._emptied(self._executor.config.cancel_grace_s + LAST_S)
        if self._held:
            logger.warning("%d accepted calls are left to whoever takes them over", len(self._held))
        return False

    async def _emptied(self, timeout_s: float) -> bool:
        try:
            async with asyncio.timeout(timeout_s):
                while self._held or self._taking:  # what is being claimed is to be given back
                    self._room.clear()
                    await self._room.wait()
        except TimeoutError:
            return False
        return True

    async def close(self) -> None:
        """End what is left."""
        self.gate.close()
        tasks = list(self._tasks)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)


def _not_run(result: ToolResult) -> bool:
    return result.failure is not None and result.failure.outcome == "not_run"


__all__ = ["Loop"]
