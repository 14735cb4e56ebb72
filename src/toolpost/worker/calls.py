"""Calls: what doors do with calls. They run one, accept one, wait for it, look it up, list, cancel and follow."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from toolpost.calls.call import Caller, ToolCall
from toolpost.calls.errors import CallCancelledError, OverloadedError, StoreUnavailableError, ToolExecutionError
from toolpost.calls.result import ToolResult, failed_result
from toolpost.stores import TaskRow
from toolpost.worker.accepting import Acceptance
from toolpost.worker.callbacks import check_callback
from toolpost.worker.feed import CallEvent, Feed, event_id
from toolpost.worker.following import Following
from toolpost.worker.journal import Journal
from toolpost.worker.keeping import had, kept_artifacts, name_of, refused_call_of, report_of, tool_of
from toolpost.worker.places import Places
from toolpost.worker.recording import Ended, Recorder
from toolpost.worker.reports import Accept, CallReport, KeptArtifact, report_json
from toolpost.worker.running import Running
from toolpost.worker.seeing import OPERATE, Wanted, may_see

if TYPE_CHECKING:
    from toolpost.engine.executor import ToolExecutor

MAX_PAGE = 1_000
LOOK_S = 0.01
LAST_S = 2.0
"""How often a drain looks whether calls have ended, and how much longer than their grace those have that it ends."""
MEAN = 0.05
"""How much one call counts in the moving mean of how long calls take."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Page:
    """Some calls, newest first; after continues the list, None at its end."""

    calls: tuple[CallReport, ...]
    after: str | None


class Calls:
    """What the doors of one process do with calls. Async methods belong to one event loop.

    Callers see and cancel their own calls: those of their tenant and user (anonymous ones those of nobody); holders of
    the scope OPERATE all of their tenant. What a caller may not see is not there, for all that it is told.
    """

    executor: ToolExecutor

    def __init__(self, executor: ToolExecutor) -> None:
        self.executor = executor
        self.draining = False
        config = executor.config
        self.places = Places(config.max_in_flight, config.max_waiting)
        self.feed, self.journal = Feed(executor), Journal(executor)
        self.recorder = Recorder(executor)
        self.accepted: Callable[[], None] = _nothing
        """Called when a call was accepted here: whoever runs accepted calls may look."""
        self.stop_here: Callable[[str], None] = lambda call_id: None
        """Called when an accepted call that runs was cancelled: it may run here."""
        self.ended_here: Callable[[], None] = _nothing
        """Called when an accepted call was cancelled before it ran."""
        self._following = Following(executor, self.feed, self.journal)
        self._acceptance = Acceptance(executor)
        self._running: dict[str, Running] = {}
        self._reconfigured("")
        self._unwatch = config.on_change(self._reconfigured)

    def _reconfigured(self, setting: str) -> None:
        config = self.executor.config
        self.places.limit, self.places.max_waiting = config.max_in_flight, config.max_waiting
        self._records_all = config.record_calls == "all"

    # -- running ------------------------------------------------------------------------------------------------------

    async def run(self, call: ToolCall, *, explain: bool = False, watched: bool = False) -> ToolResult:
        """Run a call in this process, when there is a place (max_in_flight); its id must be new_id() of the door's.

        Never raises for a tool's failure; refuses with OverloadedError's result when max_waiting wait already, or the
        service drains. watched: its events can be followed while it runs and for a minute after. It can be cancelled,
        and is recorded as the settings say, in the background. Its artifacts are kept in blobs when it returns.
        """
        executor, places = self.executor, self.places
        call = executor.opened(call)
        now = executor.clock.now()
        running = Running(call, None, now, explain)
        self._running[call.id] = running
        artifacts: tuple[KeptArtifact, ...] = ()
        try:
            if places.taken < places.limit and not places.waiting and not self.draining:
                places.taken += 1
            else:
                running.task = asyncio.current_task()
                refusal = await self._placed(running)
                if refusal is not None:
                    self.feed.forget(call.id)  # whoever followed it while it waited
                    return refusal
            running.started_at = now
            if watched:
                self._watch(running)
            try:
                result = await running.run(executor)
                places.mean_s += MEAN * (result.execution_time_ms / 1000.0 - places.mean_s)
                if result.artifacts:
                    result, artifacts = await self._keep(result)
            finally:
                places.leave()
        except BaseException as raised:
            self._broken_off(running, raised)
            raise
        finally:
            if self._running.get(call.id) is running:
                del self._running[call.id]
        if self._records_all or self.feed.busy:
            self._ended(running, result, artifacts)
        return result

    async def _placed(self, running: Running) -> ToolResult | None:
        """Wait for a place; the refusal of a call that gets none."""
        call = running.call
        if self.draining:
            return self._refused(call, self.places.refusal("this process is shutting down", call.name))
        started = self.executor.clock.monotonic()
        try:
            await self.places.wait(call.name, call.deadline_s, (call.tenant, call.user_id))
        except OverloadedError as error:
            return self._refused(call, error)
        except asyncio.CancelledError:
            if not running.ours():
                raise
            return running.cancelled(self.executor)
        if call.deadline_s is not None:
            left_s = max(0.001, call.deadline_s - (self.executor.clock.monotonic() - started))
            running.call = replace(call, deadline_s=left_s)
        return None

    def _refused(self, call: ToolCall, error: OverloadedError) -> ToolResult:
        return self.executor.admission.refused(call, error)

    def _watch(self, running: Running) -> None:
        ring = self.feed.open(running.call.id, running.call.caller)
        ring.add(CallEvent(id=event_id(1, 0), kind="state", data={"state": "running"}, at=running.created_at))

    async def _keep(self, result: ToolResult) -> tuple[ToolResult, tuple[KeptArtifact, ...]]:
        """Keep the files of a result; where that fails it says so, and has them all the same."""
        try:
            return result, await kept_artifacts(result, self.executor)
        except StoreUnavailableError as error:
            warning = f"the artifacts of this call could not be kept: {error.message}"
            return replace(result, warnings=[*result.warnings, warning]), ()

    def _ended(self, running: Running, result: ToolResult, artifacts: tuple[KeptArtifact, ...] = ()) -> None:
        running.task = None  # which would be kept, with all that it holds, until the call is written
        ended = Ended(running, result, artifacts, self.executor.clock.now())
        if self.feed.ring(running.call.id) is not None:
            self.feed.close(running.call.id, report_json(self.recorder.report(ended)))
        if self._records_all:
            self.recorder.note(ended)

    def _broken_off(self, running: Running, raised: BaseException) -> None:
        """Record a call whose caller went away: nobody is told how it ended, and nobody knows how far it had come."""
        if running.started_at is None or not isinstance(raised, asyncio.CancelledError):
            self.feed.forget(running.call.id)
            return
        error = CallCancelledError("whoever made the call went away before it ended", tool=running.call.name)
        error.outcome = "unknown"
        elapsed_s = max(0.0, self.executor.clock.now() - running.started_at)
        self._ended(running, failed_result(running.call.id, running.call.name, error, elapsed_s=elapsed_s))

    # -- accepting ----------------------------------------------------------------------------------------------------

    async def accept(self, call: ToolCall, how: Accept | None = None) -> CallReport:
        """Write a call down and have it run by whoever takes it; it is durable when this returns.

        What can be refused at once is refused at once: raises ToolNotFoundError, InputValidationError, SecurityError,
        UnauthorizedError, PermissionDeniedError, OverloadedError (max_accepted, or draining), StoreUnavailableError.
        The same idempotency key of the same caller for the same tool gives the call that was accepted first, and
        IdempotencyMismatchError where the arguments differ; such a report has that call's id.
        """
        call, started = self.executor.opened(call), self.executor.clock.stopwatch()
        try:
            if self.draining:
                raise self.places.refusal("this process is shutting down", call.name)
            if how is not None and how.callback is not None:
                await check_callback(self.executor, how.callback, call.caller)
            written = await self._acceptance.accept(call, how or Accept())
        except ToolExecutionError as error:
            self.executor.admission.refused(call, error, self.executor.clock.stopwatch() - started)
            raise
        self.accepted()
        if isinstance(written, TaskRow):
            return await report_of(written, self.executor)
        row = await had(self.executor.records.task(written.task_id))
        if row is None:
            raise StoreUnavailableError(f"call {written.task_id} was written, and is not there")
        return await report_of(row, self.executor)

    # -- looking ------------------------------------------------------------------------------------------------------

    async def wait(self, call_id: str, caller: Caller, wait_s: float) -> CallReport | None:
        """The report of a call once it ended, or as it stands after wait_s seconds; None where there is none."""
        report = await self.show(call_id, caller)
        if report is None or report.ended or wait_s <= 0:
            return report
        events: Any = self.follow(call_id, caller)
        try:
            async with asyncio.timeout(wait_s):
                async for event in events:
                    if event.kind == "result":
                        break
        except TimeoutError:
            pass
        finally:
            await events.aclose()
        return await self.show(call_id, caller)

    async def show(self, call_id: str, caller: Caller) -> CallReport | None:
        """The report of a call that this caller may see: running here, accepted, or recorded; else None."""
        report = await self.look_up(call_id)
        return report if report is not None and may_see(caller, report.caller) else None

    async def look_up(self, call_id: str) -> CallReport | None:
        """The report of a call, for those who act in nobody's name."""
        here = self._here(call_id)
        if here is not None:
            return here
        row = await had(self.executor.records.task(call_id)) if _legible(call_id) else None
        return None if row is None else await report_of(row, self.executor)

    def _here(self, call_id: str) -> CallReport | None:
        """The report of a call that no store has yet."""
        running = self._running.get(call_id)
        if running is not None:
            return self._report(running)
        ended = self.recorder.waiting(call_id)
        return None if ended is None else self.recorder.report(ended)

    def _report(self, running: Running) -> CallReport:
        call = running.call
        tool = tool_of(self.executor, call.name, call.version)
        return CallReport(
            call_id=call.id,
            tool=name_of(call) if tool is None else tool.name,
            state="queued" if running.started_at is None else "running",
            caller=call.caller,
            version=call.version if tool is None else tool.version,
            arguments=self.executor.admission.shown(tool, call.arguments),
            created_at=running.created_at,
            started_at=running.started_at,
            attempt=1,
            idempotency_key=call.idempotency_key,
            trace=call.trace,
        )

    async def list(
        self,
        caller: Caller,
        *,
        states: Sequence[str] = (),
        tool: str | None = None,
        user_id: str | None = None,
        session_id: str | None = None,
        since: float | None = None,
        until: float | None = None,
        after: str | None = None,
        limit: int = 100,
    ) -> Page:
        """The calls that this caller may see, newest first, those that run here among them.

        Of what is kept, arguments and values that lie in blobs are left out: show has them. user_id narrows what a
        holder of OPERATE sees; since and until bound created_at (since <= created_at < until), in wall time.
        """
        limit = max(1, min(limit, MAX_PAGE))
        operates = OPERATE in caller.scopes
        if not operates and user_id not in (None, caller.user_id):
            return Page(calls=(), after=None)
        rows = await had(
            self.executor.records.tasks(
                state=tuple(states) or None,
                tool=tool,
                tenant=caller.tenant if operates else caller.tenant or "",
                user_id=user_id if operates else caller.user_id or "",
                session_id=session_id,
                since=since,
                until=until,
                after=after,
                limit=limit,
            )
        )
        found = {row.task_id: await report_of(row, self.executor, whole=False) for row in rows}

        wanted = Wanted(tuple(states), tool, user_id, session_id, since, until, after)
        here = [*(self._report(one) for one in self._running.values()), *map(self.recorder.report, self.recorder.all())]
        for report in here:
            if report.call_id not in found and wanted.has(report) and may_see(caller, report.caller):
                found[report.call_id] = report
        newest = sorted(found.values(), key=lambda report: report.call_id, reverse=True)[:limit]
        more = len(newest) == limit
        return Page(calls=tuple(newest), after=newest[-1].call_id if more else None)

    # -- ending and following -----------------------------------------------------------------------------------------

    async def cancel(self, call_id: str, caller: Caller) -> CallReport | None:
        """Have a call end; the report as it stands then (it may still run for a moment). None where there is none."""
        report = await self.show(call_id, caller)
        if report is None or report.ended:
            return report
        running = self._running.get(call_id)
        if running is not None:
            running.cancel(self.executor, "the call was cancelled")
            return report
        came_to = await had(self.executor.records.cancel_task(call_id))
        if came_to == "told":
            self.stop_here(call_id)
        else:
            self.ended_here()
        if came_to == "cancelled":
            await self._never_ran(call_id)
        return await self.show(call_id, caller)

    async def _never_ran(self, call_id: str) -> None:
        """Count and audit a call that was cancelled before it ran."""
        row = await had(self.executor.records.task(call_id))
        if row is not None:
            error = CallCancelledError("the call was cancelled before it ran", tool=row.tool)
            error.outcome = "not_run" if row.attempt <= 1 else "unknown"
            self.executor.admission.refused(refused_call_of(row), error)

    async def follow(self, call_id: str, caller: Caller, after: str | None = None) -> AsyncIterator[CallEvent]:
        """The events of a call that this caller may see, wherever it runs, to its result; none where there is none."""
        running = self._running.get(call_id)
        ring = self.feed.ring(call_id)
        if running is not None:
            if not may_see(caller, running.call.caller):
                return
            if ring is None:
                self._watch(running)
        elif ring is None or not ring.ended:
            row = await had(self.executor.records.task(call_id)) if _legible(call_id) else None
            if row is None:
                report = self._here(call_id)
                if report is not None and may_see(caller, report.caller):
                    yield _result(report, event_id(1, 999_999))
                return
            report = await report_of(row, self.executor, whole=False)
            if may_see(caller, report.caller):
                async for event in self._following.follow(row, after):
                    yield event
            return
        elif not may_see(caller, ring.caller):
            return
        async for event in self.feed.follow(call_id, after):
            yield event

    async def drained(self, timeout_s: float) -> bool:
        """Wait until no door's call runs, and end those that still do after timeout_s; whether none did."""
        if await self._quiet(timeout_s):
            return True
        for running in list(self._running.values()):
            running.cancel(self.executor, "the process that ran the call was shut down")
        await self._quiet(self.executor.config.cancel_grace_s + LAST_S)
        return False

    async def _quiet(self, timeout_s: float) -> bool:
        until = self.executor.clock.monotonic() + timeout_s
        while self._running and self.executor.clock.monotonic() < until:
            await self.executor.clock.sleep(LOOK_S)
        return not self._running

    async def let_go(self) -> None:
        """End what follows calls from here: it can go on elsewhere, behind the last id that it had."""
        await self._following.close()
        self.feed.forget_all()

    async def close(self) -> None:
        """Write what waits to be written, and let followers go."""
        self._unwatch()
        await self.let_go()
        await self.journal.flush()
        await self.recorder.flush()


def _result(report: CallReport, id: str) -> CallEvent:
    return CallEvent(id=id, kind="result", data=report_json(report), at=report.finished_at or report.created_at)


def _legible(call_id: str) -> bool:
    """Whether it can be a call's id at all: some stores refuse other texts."""
    return isinstance(call_id, str) and 0 < len(call_id) <= 200 and call_id.isascii() and call_id.isprintable()


def _nothing() -> None:
    return None


__all__ = ["OPERATE", "Calls", "Page", "may_see"]
