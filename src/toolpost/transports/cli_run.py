"""`toolpost run`: a file of tool calls in any mix of formats, in flat memory, continued where it was cut."""

from __future__ import annotations

import os
import sys
from collections.abc import Iterator
from contextlib import aclosing, closing, contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import click

from toolpost.transports.cli_options import FORMATS, Command, ExitCode, Setup, pass_setup
from toolpost.transports.cli_show import Meter, is_terminal, milliseconds, say, to_json, write_json, write_table

if TYPE_CHECKING:
    import asyncio
    from types import FrameType

    from toolpost.calls.call import ToolCall
    from toolpost.calls.errors import ToolExecutionError
    from toolpost.calls.result import ToolResult
    from toolpost.engine.executor import ToolExecutor
    from toolpost.transports.cli_input import Input, Line
    from toolpost.transports.cli_results import Results
    from toolpost.transports.wire import Format

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
    """Where a call stands in the input."""

    line: int
    index: int
    digest: str
    format: Format | None


class Run:
    """One run: takes calls from the input as there is room, writes each result as it comes.

    reason says why it ended early, None when the input was run to its end. signal is what interrupted it.
    """

    def __init__(self, executor: ToolExecutor, source: Input, results: Results, options: Options, meter: Meter) -> None:
        import asyncio

        from toolpost.calls.clock import SYSTEM_CLOCK

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
        self.lines = self.skipped = self.calls = self.failures = 0
        self.elapsed_s = 0.0

    async def go(self) -> None:
        """Run to the end of the input, or until something ends it early."""
        import asyncio

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
        import signal
        import threading

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
            skipped = True
            for place, call in self._calls_of(line):
                if self._results.has(place.line, place.digest, place.index):
                    continue
                if self._halted():
                    return
                skipped = False
                if isinstance(call, Exception):
                    self._refuse(place, call)
                else:
                    self._under_way[number] = place
                    yield call
                    number += 1
            self.lines = line.number
            self.skipped += skipped
            self._meter.show(self.lines, self.skipped, self.calls, self.failures)
            if self._halted():
                return

    def _calls_of(self, line: Line) -> Iterator[tuple[Place, ToolCall | ToolExecutionError]]:
        """Every call of a line, or why it cannot be read, with its place."""
        from dataclasses import replace

        from toolpost.calls.errors import InputValidationError
        from toolpost.transports.cli_input import MAX_LINE_BYTES
        from toolpost.transports.wire import decode_calls, detect_format, parse_json

        options, index = self._options, 0
        items: list[Any] = []
        format: Format | None = None
        try:
            if line.text is None:
                raise InputValidationError(f"the line is longer than {MAX_LINE_BYTES:,} bytes")
            value = parse_json(line.text) if line.text else []
            items = value if isinstance(value, list) else [value]
        except InputValidationError as exc:
            yield Place(line=line.number, index=0, digest=line.digest, format=None), exc
        for item in items:
            calls: list[Any]
            try:
                calls = decode_calls(item, options.format, user_id=options.user, known=self._names)
                format = options.format or (detect_format(item) if calls else None)
            except InputValidationError as exc:
                calls, format = [exc], None
            for call in calls:
                if options.scopes and format is not None:
                    call = replace(call, scopes=options.scopes)
                yield Place(line=line.number, index=index, digest=line.digest, format=format), call
                index += 1

    def _refuse(self, place: Place, error: ToolExecutionError) -> None:
        from toolpost.calls.call import new_id
        from toolpost.calls.result import failed_result

        self._settle(place, failed_result(new_id(), "", error))
        if self._options.fail_fast and self.reason is None:
            self.reason = FAILED

    def _settle(self, place: Place, result: ToolResult) -> None:
        failure = result.failure
        if failure is not None and failure.code == "timeout" and failure.outcome == "not_run" and self._halted():
            return  # the run's own deadline kept it from being taken up
        self.calls += 1
        self.failures += not result.success
        self._results.add(self._record(place, result))
        self._meter.show(self.lines, self.skipped, self.calls, self.failures)
        if self._options.fail_fast and not result.success and self.reason is None:
            self.reason = FAILED

    def _record(self, place: Place, result: ToolResult) -> dict[str, Any]:
        from toolpost.transports.wire import encode_result

        record: dict[str, Any] = {"line": place.line, "index": place.index, "digest": place.digest}
        record.update(format=place.format, status=result.status, source=result.source, attempts=result.attempts)
        if result.failure is not None:
            record["code"] = result.failure.code
        if not self._options.as_called:
            return {**record, **result.to_dict()}
        record.update(call_id=result.call_id, tool_name=result.tool_name)
        record["execution_time_ms"] = round(result.execution_time_ms, 3)
        return {**record, "result": encode_result(result, place.format or "toolpost")}


@click.command(cls=Command)
@click.argument("calls", metavar="CALLS.jsonl")
@click.option(
    "-o", "--output", metavar="RESULTS.jsonl", help="Write results here; a run that was cut goes on from them."
)
@click.option("--restart", is_flag=True, help="Begin anew: forget the results that are there.")
@click.option("--format", type=click.Choice(FORMATS), help="The format of all calls; otherwise detected.")
@click.option(
    "--results-format",
    type=click.Choice(("toolpost", "same")),
    default="toolpost",
    help="Results as toolpost writes them, or as the provider wants them that made the call.",
)
@click.option("--concurrency", type=click.IntRange(min=1), help="Calls under way at a time [io_concurrency].")
@click.option("--fail-fast", is_flag=True, help="Stop at the first call that is not ok.")
@click.option("--deadline", type=click.FloatRange(min=0, min_open=True), help="Seconds the whole run may take.")
@click.option("--user", help="The user for whom all calls are made, whatever they say themselves.")
@click.option("--scope", "scopes", multiple=True, help="A permission the caller has; repeatable.")
@click.option("--exit-zero", is_flag=True, help="Exit with 0 even when some calls are not ok.")
@pass_setup
def run(
    setup: Setup,
    calls: str,
    output: str | None,
    restart: bool,
    results_format: str,
    deadline: float | None,
    scopes: tuple[str, ...],
    exit_zero: bool,
    **options: Any,
) -> int:
    """Run a file of tool calls, or - for standard input.

    Each line holds a call, a list of calls or a provider's whole message, in any of the formats. Each result
    is one line that names the line of its call; results come in the order in which calls end.
    """
    import asyncio

    from toolpost.transports.cli_input import open_input
    from toolpost.transports.cli_results import open_results

    kind = f"{options['format'] or ''}"
    wanted = Options(**options, as_called=results_format == "same", deadline_s=deadline, scopes=frozenset(scopes))
    to_file = output not in (None, "-")
    if restart and not to_file:
        raise click.UsageError("--restart is about the file of results; name it with -o")
    if output is not None and calls != "-" and os.path.exists(output) and os.path.samefile(output, calls):
        raise click.UsageError(f"-o {output} is the file of calls itself; name another")
    with (
        closing(open_input(calls, kind)) as source,
        setup.executor() as executor,
        closing(open_results(output, setup.out, restart=restart)) as results,
    ):
        earlier = results.summary.total.calls
        if earlier:
            say(f"{output} holds {earlier:,} results; calls that have one are not run again")
        shown = to_file or not is_terminal(setup.out)
        with Meter(sys.stderr, source.count, shown=shown) as meter:
            one = Run(executor, source, results, wanted, meter)
            with one.interruptible():
                asyncio.run(one.go())
        changed = results.changed
        dropped = results.finish(one.lines if source.exhausted else None)
        summary = results.summary
    if changed or dropped:
        say(f"{changed:,} lines of {calls} have changed since and were run again; {dropped:,} old results dropped")
    about = {"lines": one.lines, "earlier": earlier, "changed_lines": changed, "dropped": dropped}
    about.update(run=one.calls, elapsed_s=round(one.elapsed_s, 3), ended=one.reason or "end", output=output)
    stream = setup.out if to_file else sys.stderr
    if setup.json:
        say(to_json({**about, **summary.to_dict()}).decode(), stream)
    else:
        _write_summary(summary, stream)
        rate = one.calls / max(one.elapsed_s, 1e-3)
        say(f"{one.calls:,} calls run in {one.elapsed_s:.3g} s ({rate:,.0f}/s)", stream)
    good = exit_zero or summary.total.ok == summary.total.calls
    return _ended(one, calls, output if to_file else None, good)


def _write_summary(summary: Any, stream: Any) -> None:
    numbers = ("calls", "ok", "rejected", "failed", "cache hits", "p50", "p95")
    tallies = [*sorted(summary.tools.items()), *([("all", summary.total)] if len(summary.tools) > 1 else [])]
    rows = [
        (name, t.calls, t.ok, t.rejected, t.failed, t.cache_hits)
        + (milliseconds(t.quantile_ms(0.5)), milliseconds(t.quantile_ms(0.95)))
        for name, t in tallies
    ]
    if rows:
        write_table(("tool", *numbers), rows, stream, numbers=numbers)
    if summary.codes:
        say("", stream)
        write_table(("error", "calls"), summary.codes.most_common(), stream, numbers=("calls",))
    say("", stream)


def _ended(run: Run, calls: str, output: str | None, good: bool) -> int:
    """Say how to go on when the run ended early; the exit code."""
    if run.reason is not None:
        why = {INTERRUPTED: "interrupted", TOO_LATE: "the deadline passed", FAILED: "stopped at a failure"}
        how = (
            f"the same command goes on from {output}"
            if output is not None
            else "with -o FILE a later run could go on from there"
        )
        say(f"{why[run.reason]} after line {run.lines:,} of {calls}; {how}")
    if run.reason == INTERRUPTED:
        return 128 + run.signal
    if run.reason == TOO_LATE:
        return ExitCode.SOME_FAILED
    return ExitCode.OK if good else ExitCode.SOME_FAILED


__all__ = ["run"]
