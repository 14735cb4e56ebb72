"""One run of a file of calls: takes them up as there is room, writes each result as it comes, stops politely."""

from __future__ import annotations

import asyncio
import signal
import threading
from collections.abc import Iterator
from contextlib import aclosing, contextmanager
from dataclasses import dataclass, replace
from types import FrameType
from typing import Any

from toolpost.calls.call import ToolCall, new_id
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.calls.errors import InputValidationError, ToolExecutionError
from toolpost.calls.result import ToolResult, failed_result
from toolpost.engine.executor import ToolExecutor
from toolpost.transports.cli_input import MAX_LINE_BYTES, Input, Line
from toolpost.transports.cli_results import Results
from toolpost.transports.cli_show import Meter, failure_sentence, say
from toolpost.transports.wire import Format, decode_calls, detect_format, encode_result, parse_json

INTERRUPTED, TOO_LATE, FAILED = "interrupted", "deadline", "failure"
"""Why a run ended before its input did."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Options:
    """What a run was asked for. format None: each line's is detected; as_called: results in the call's format."""

    format: Format | None
    as_called: bool
    concurrency: int | None
    fail_fast: bool
    deadline_s: float | None
    user: str | None
    scopes: frozenset[str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Place:
    """Where a call stands in the input: in a line, as one of so many; and its format, None when it has none."""

    line: Line
    index: int
    of: int
    format: Format | None


class Run:
    """One run: takes calls from the input as there is room, writes each result as it comes.

    reason says why it ended early, None when the input was run to its end. signal is what interrupted it,
    failed_at the line of the failure that stopped it and the failure in a sentence.
    """

    def __init__(self, executor: ToolExecutor, source: Input, results: Results, options: Options, meter: Meter) -> None:
        self._executor, self._source, self._results = executor, source, results
        self._options, self._meter = options, meter
        self._names = frozenset(executor.get_available_tools())
        self._stop = asyncio.Event()
        self._task: asyncio.Task[Any] | None = None
        self._now = SYSTEM_CLOCK.monotonic
        self._began = self._now()
        self._under_way: dict[int, Place] = {}
        self._signals = 0
        self.reason: str | None = None
        self.signal = 0
        self.failed_at = (0, "")
        self.lines = self.skipped = self.calls = self.failures = 0
        self.elapsed_s = 0.0

    async def go(self) -> None:
        """Run to the end of the input, or until something ends it early."""
        self._task = asyncio.current_task()
        options = self._options
        try:
            while await self._source.ready(self._stop, self._left_s()) and not self._halted():
                self._under_way.clear()
                stream = self._executor.stream_tool_calls(
                    self._taken_up(),
                    fail_fast=options.fail_fast,
                    concurrency=options.concurrency,
                    deadline_s=self._left_s(),
                )
                async with aclosing(stream):  # type: ignore[type-var]
                    async for number, result in stream:
                        self._settle(self._under_way.pop(number), result)
            self._halted()
        except asyncio.CancelledError:
            if not self._signals:
                raise
        finally:
            self.elapsed_s = self._now() - self._began
            self._meter.show(self.lines, self.skipped, self.calls, self.failures, at_once=True)

    @contextmanager
    def interruptible(self) -> Iterator[None]:
        """Let the first Ctrl-C (or SIGTERM) end the run politely, a second at once."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return
        wanted = [s for s in (signal.SIGINT, signal.SIGTERM) if signal.getsignal(s) is not signal.SIG_IGN]
        before = {s: signal.signal(s, self._interrupt) for s in wanted}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    def _interrupt(self, number: int, frame: FrameType | None) -> None:
        self._signals += 1
        self.signal = number
        if self._task is None or self._signals > 2:
            raise KeyboardInterrupt
        loop = self._task.get_loop()
        if self._signals == 1:
            self.reason = INTERRUPTED
            loop.call_soon_threadsafe(self._drain)
        else:
            loop.call_soon_threadsafe(self._task.cancel)

    def _drain(self) -> None:
        self._stop.set()
        if self._under_way:
            say(f"waiting for {len(self._under_way)} calls under way; interrupt again to give them up")

    def _halted(self) -> bool:
        """Whether no further call may be taken up."""
        left = self._left_s()
        if self.reason is None and left is not None and left <= 0 and not self._source.exhausted:
            self.reason = TOO_LATE
        return self.reason is not None

    def _left_s(self) -> float | None:
        deadline = self._options.deadline_s
        return None if deadline is None else max(0.0, deadline - (self._now() - self._began))

    def _taken_up(self) -> Iterator[ToolCall]:
        number = 0
        for line in self._source:
            self._results.read(line.number, line.digest)
            calls = [] if self._results.has_all(line.number, line.digest) else list(self._calls_of(line))
            skipped = True
            for index, (format, call) in enumerate(calls):
                if self._results.has(line.number, line.digest, index):
                    continue
                if self._halted():
                    return
                skipped = False
                place = Place(line=line, index=index, of=len(calls), format=format)
                if isinstance(call, ToolExecutionError):
                    refused = failed_result(new_id(), "", call)
                    self._executor.audit_refusal("", call, call_id=refused.call_id)
                    self._settle(place, refused)
                else:
                    self._under_way[number] = place
                    yield call
                    number += 1
            self.lines = line.number
            self.skipped += skipped
            self._meter.show(self.lines, self.skipped, self.calls, self.failures)
            if self._halted():
                return

    def _calls_of(self, line: Line) -> Iterator[tuple[Format | None, ToolCall | ToolExecutionError]]:
        """Every call of a line with its format, or why it cannot be read."""
        options = self._options
        try:
            if line.text is None:
                raise InputValidationError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            value = parse_json(line.text) if line.text else []
        except InputValidationError as exc:
            yield None, exc
            return
        for item in value if isinstance(value, list) else [value]:
            try:
                found = decode_calls(item, options.format, user_id=options.user, known=self._names)
                format = options.format or (detect_format(item) if found else None)
            except InputValidationError as exc:
                yield None, exc
                continue
            for call in found:
                yield format, replace(call, scopes=options.scopes) if options.scopes else call

    def _settle(self, place: Place, result: ToolResult) -> None:
        failure = result.failure
        not_taken_up = failure is not None and failure.code == "timeout" and failure.outcome == "not_run"
        if not_taken_up and self._halted() and self.reason == TOO_LATE:
            return  # a later run goes on with it
        self.calls += 1
        self.failures += not result.success
        self._results.add(self._record(place, result))
        self._meter.show(self.lines, self.skipped, self.calls, self.failures)
        if self._options.fail_fast and not result.success and self.reason is None:
            self.reason, self.failed_at = FAILED, (place.line.number, failure_sentence(result))

    def _record(self, place: Place, result: ToolResult) -> dict[str, Any]:
        record: dict[str, Any] = {"line": place.line.number, "index": place.index, "digest": place.line.digest}
        if place.of > 1:
            record["of"] = place.of
        record.update(format=place.format, status=result.status, source=result.source, attempts=result.attempts)
        if result.failure is not None:
            record["code"] = result.failure.code
        if not self._options.as_called:
            return {**record, **result.to_dict()}
        record.update(call_id=result.call_id, tool_name=result.tool_name)
        record["execution_time_ms"] = round(result.execution_time_ms, 3)
        return {**record, "result": encode_result(result, place.format or "toolpost")}
