"""What holds where the documents contradict themselves: deadlines, outcomes, results and names."""

from __future__ import annotations

import asyncio
import os
import threading
import uuid
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, date, datetime
from decimal import Decimal
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
from pydantic import BaseModel

import toolpost
import toolpost.errors
from toolpost import (
    BaseTool,
    FunctionToolExecutor,
    FunctionToolSpec,
    OutputValidationError,
    StringParameter,
    Timeout,
    Tool,
    ToolContext,
    ToolExecutionError,
    ToolExecutor,
    ToolResult,
    ToolTimeoutError,
    create_tool_call,
    run_in_executor,
)
from toolpost.testing import FakeClock, executor_for

PATIENCE_S = 10.0
"""How long a test waits for what comes at once when all is well."""


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


# one deadline


class SlowTool(BaseTool):
    """Bodies that end only when they are let go."""

    def __init__(self) -> None:
        super().__init__()
        self.release = threading.Event()
        self.started = threading.Semaphore(0)
        self.cleaned_up = False
        self.left_s: float | None = None

    def in_thread(self) -> str:
        self.started.release()
        self.release.wait(PATIENCE_S)
        return "late"

    async def in_task(self) -> None:
        self.started.release()
        try:
            await asyncio.Event().wait()
        finally:
            self.cleaned_up = True

    async def stubborn(self) -> None:
        self.started.release()
        while True:
            try:
                await asyncio.Event().wait()
            except asyncio.CancelledError:
                continue

    async def watching(self, ctx: ToolContext) -> None:
        self.left_s = ctx.remaining_s()

    def quick(self, n: int) -> int:
        return sum(range(n))


class ProcessTool(BaseTool):
    """A body in a process of its own that never ends by itself."""

    @run_in_executor(process=True)
    def spin(self, pid_file: str) -> None:
        partial = Path(pid_file + ".partial")
        partial.write_text(str(os.getpid()))
        partial.rename(pid_file)
        threading.Event().wait(PATIENCE_S)


@pytest.fixture
def slow() -> Iterator[SlowTool]:
    tool = SlowTool()
    yield tool
    tool.release.set()


async def until(condition: Callable[[], bool]) -> None:
    """Let the loop turn until the condition holds."""
    while not condition():
        await asyncio.sleep(0)


async def begun(slow: SlowTool, *calls: Any) -> list[asyncio.Task[Any]]:
    """Tasks of calls, once as many bodies run as there are calls."""
    tasks = [asyncio.ensure_future(call) for call in calls]
    for _ in tasks:
        assert await asyncio.to_thread(slow.started.acquire, timeout=PATIENCE_S)
    return tasks


def test_a_timeout_is_a_tool_error_and_the_builtin_one() -> None:
    assert toolpost.errors.TimeoutError is ToolTimeoutError
    assert toolpost.TimeoutError is ToolTimeoutError
    assert issubclass(ToolTimeoutError, TimeoutError)
    assert issubclass(ToolTimeoutError, ToolExecutionError)
    assert (ToolTimeoutError.code, ToolTimeoutError.status) == ("timeout", 504)


async def test_an_async_body_is_cancelled_at_the_deadline(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock, timeout=30):
        (task,) = await begun(slow, slow.run_async("in_task"))
        clock.advance(29.9)
        await asyncio.sleep(0)
        assert not task.done()

        clock.advance(0.2)
        with pytest.raises(ToolTimeoutError, match="timed out after 30 s") as late:
            await task

    assert late.value.outcome == "stopped"
    assert slow.cleaned_up


async def test_an_async_body_that_swallows_its_cancellation_is_stopped_after_a_grace(
    slow: SlowTool, clock: FakeClock
) -> None:
    with executor_for(slow, clock=clock, timeout=5, cancel_grace_s=1):
        (task,) = await begun(slow, slow.run_async("stubborn"))
        clock.advance(5)
        await until(lambda: clock.waiting > 0)  # the body has refused, and its grace has begun
        assert not task.done()

        clock.advance(1)
        with pytest.raises(ToolTimeoutError):
            await task


async def test_a_thread_that_outlives_its_deadline_is_abandoned_counted_and_replaced(
    slow: SlowTool, clock: FakeClock
) -> None:
    with executor_for(slow, clock=clock, timeout=5, max_workers=1) as executor:
        (task,) = await begun(slow, slow.run_async("in_thread"))
        clock.advance(5)
        with pytest.raises(ToolTimeoutError, match="outcome unknown") as late:
            await task

        assert late.value.outcome == "unknown"
        assert executor.get_metrics()["tool_threads_abandoned"] == 1
        assert executor.health()["threads_abandoned"] == 1
        assert await slow.run_async("quick", n=4) == 6  # in a pool of one thread, which is still held


async def test_the_result_of_an_abandoned_call_says_outcome_unknown(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock, timeout=5) as executor:
        (task,) = await begun(slow, executor.execute_tool_call(create_tool_call("SlowTool.in_thread", {})))
        clock.advance(5)
        result = await task

    assert (result.success, result.status_code) == (False, 504)
    assert result.metadata["outcome"] == "unknown"
    assert result.failure.outcome == "unknown"


async def test_a_pool_never_starves_however_many_bodies_hang(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock, timeout=5, max_workers=2) as executor:
        for _ in range(3):
            tasks = await begun(slow, slow.run_async("in_thread"), slow.run_async("in_thread"))
            clock.advance(5)
            for task in tasks:
                with pytest.raises(ToolTimeoutError):
                    await task

        assert executor.get_metrics()["tool_threads_abandoned"] == 6
        assert await slow.run_async("quick", n=4) == 6


async def test_the_deadline_covers_queueing(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock, timeout=5, max_workers=1) as executor:
        (holder,) = await begun(slow, slow.run_async("in_thread"))
        in_queue = create_tool_call("SlowTool.in_thread", {}, deadline_s=2)
        waiting = asyncio.ensure_future(executor.execute_tool_call(in_queue))
        await until(lambda: executor._thread_pool._work_queue.qsize() == 1)
        clock.advance(2)
        result = await waiting
        slow.release.set()

        assert result.failure is not None
        assert (result.failure.code, result.failure.outcome) == ("timeout", "not_run")
        assert await holder == "late"
        assert executor.get_metrics()["tool_threads_abandoned"] == 0


async def test_a_process_body_is_killed_at_the_deadline(clock: FakeClock, tmp_path: Path) -> None:
    tool, pid_file = ProcessTool(), tmp_path / "pid"
    with executor_for(tool, clock=clock, timeout=5):
        task = asyncio.ensure_future(tool.run_async("spin", pid_file=str(pid_file)))
        while not pid_file.exists():
            assert not task.done()
            await asyncio.sleep(0.01)
        clock.advance(5)
        with pytest.raises(ToolTimeoutError) as late:
            await task

        assert late.value.outcome == "stopped"
        with pytest.raises(ProcessLookupError):
            os.kill(int(pid_file.read_text()), 0)


class Where(BaseTool):
    """Tells which process it runs in."""

    def pid(self) -> int:
        return os.getpid()


def pid_of_spec(args: dict[str, Any], ctx: ToolContext) -> dict[str, Any]:
    """The function of a spec, which takes its arguments as one dict."""
    ctx.log("asked")
    return {"pid": os.getpid(), **args}


async def test_a_pool_of_processes_runs_every_sync_body_elsewhere() -> None:
    tool = Where()
    spec = FunctionToolSpec(
        id="w", tool_name="where", description="", parameters=[StringParameter(name="word", required=True)]
    )
    with executor_for(tool, thread_pool_type="process", max_workers=1) as executor:
        elsewhere = await tool.run_async("pid")
        again = await asyncio.to_thread(tool.run, "pid")
        result = await FunctionToolExecutor(spec, pid_of_spec, executor=executor).execute(
            {"word": "hello"}, ToolContext(user_id="ann")
        )

    assert elsewhere != os.getpid()
    assert again == elsewhere
    assert result.content == {"pid": elsewhere, "word": "hello"}
    assert result.logs == ["INFO asked"]


def test_a_blocking_call_is_late_in_the_same_way(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock, timeout=5) as executor:
        over = threading.Event()

        def pass_the_time() -> None:
            slow.started.acquire(timeout=PATIENCE_S)
            while not over.wait(0.001):
                clock.advance(1)

        mover = threading.Thread(target=pass_the_time)
        mover.start()
        with pytest.raises(ToolTimeoutError) as late:
            slow.run("in_thread")
        over.set()
        mover.join()

        assert late.value.outcome == "unknown"
        assert executor.get_metrics()["tool_threads_abandoned"] == 1


async def test_a_tools_own_timeout_outranks_the_executors(slow: SlowTool, clock: FakeClock) -> None:
    async def wait() -> None:
        slow.started.release()
        await asyncio.Event().wait()

    with executor_for(clock=clock, timeout=30) as executor:
        executor.add(Tool(name="Wait", timeout_seconds=3, register=False)(wait))
        (task,) = await begun(slow, executor.call("Wait"))
        clock.advance(3)
        with pytest.raises(ToolTimeoutError, match="timed out after 3 s"):
            await task


async def test_the_callers_deadline_holds_where_it_is_nearer(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock, timeout=30) as executor:
        call = create_tool_call("SlowTool.in_task", {}, deadline_s=2)
        (task,) = await begun(slow, executor.execute_tool_call(call))
        clock.advance(2)

        assert (await task).failure.code == "timeout"


async def test_a_body_sees_how_much_of_the_deadline_is_left(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock, timeout=30):
        await slow.run_async("watching")

    assert slow.left_s == pytest.approx(30)


async def test_one_attempt_may_have_a_limit_of_its_own(clock: FakeClock) -> None:
    started = asyncio.Event()

    async def wait() -> None:
        started.set()
        await asyncio.Event().wait()

    definition = Tool(name="Wait", register=False).define(wait)
    limited = toolpost.ToolDefinition(
        **{name: getattr(definition, name) for name in ("name", "parameters", "check", "body")},
        policies=toolpost.Policies(timeout=Timeout(total_s=30, attempt_s=2)),
    )
    with executor_for(clock=clock) as executor:
        executor.registry.register_tool(limited)
        task = asyncio.ensure_future(executor.call("Wait"))
        await started.wait()
        clock.advance(2)
        with pytest.raises(ToolTimeoutError, match="timed out after 2 s"):
            await task


async def test_cancelling_the_caller_is_no_timeout(slow: SlowTool, clock: FakeClock) -> None:
    with executor_for(slow, clock=clock):
        (task,) = await begun(slow, slow.run_async("in_task"))
        task.cancel()
        with pytest.raises(asyncio.CancelledError):
            await task

    assert slow.cleaned_up


# results


class Colour(Enum):
    """A value with a JSON form."""

    RED = "red"


@dataclass
class Point:
    """A value with a JSON form."""

    x: int
    when: date


class Order(BaseModel):
    """A value with a JSON form."""

    number: uuid.UUID
    total: Decimal


ENCODED: list[tuple[Any, Any]] = [
    (
        {"result": 1, "data": 2, "error": None, "success": False},
        {"result": 1, "data": 2, "error": None, "success": False},
    ),
    ({"status_code": 7}, {"status_code": 7}),
    (5, {"result": 5}),
    ([1, "a"], {"result": [1, "a"]}),
    (None, {"result": None}),
    ({"result": {"result": 1}}, {"result": {"result": 1}}),
    ({"a": (1, 2), "b": {3}}, {"a": [1, 2], "b": [3]}),
    (
        {"day": date(2024, 2, 29), "at": datetime(2024, 2, 29, 12, tzinfo=UTC)},
        {"day": "2024-02-29", "at": "2024-02-29T12:00:00Z"},
    ),
    ({"colour": Colour.RED, "path": Path("a/b")}, {"colour": "red", "path": "a/b"}),
    (Point(x=1, when=date(2024, 1, 2)), {"x": 1, "when": "2024-01-02"}),
    (
        Order(number=uuid.UUID(int=1), total=Decimal("1.50")),
        {"number": "00000000-0000-0000-0000-000000000001", "total": "1.50"},
    ),
    ({1: "one"}, {"1": "one"}),
]


def giving(value: Any) -> Any:
    """A tool named Give that returns the value."""

    def give() -> Any:
        return value

    return Tool(name="Give", register=False)(give)


@pytest.mark.parametrize(("value", "data"), ENCODED)
async def test_a_result_keeps_its_own_keys_and_becomes_json(value: Any, data: Any) -> None:
    with executor_for(giving(value)) as executor:
        result = await executor.execute_tool_call(create_tool_call("Give", {}))

    assert result.success
    assert result.data == data


def containing_itself() -> list[Any]:
    value: list[Any] = []
    value.append(value)
    return value


@pytest.mark.parametrize(
    "value",
    [
        object(),
        b"\x00\xff",
        float("nan"),
        {"a": [1.0, float("inf")]},
        {(1, 2): "tuple"},
        "half \ud800 a pair",
        containing_itself(),
        (n for n in range(3)),
        open,
    ],
    ids=["object", "bytes", "nan", "infinity", "key", "surrogate", "recursive", "generator", "function"],
)
async def test_a_result_that_is_not_json_is_refused_and_never_reported_as_success(value: Any) -> None:
    reported: list[Any] = []
    with executor_for(giving(value), observers=[reported.append]) as executor:
        result = await executor.execute_tool_call(create_tool_call("Give", {}))
        metrics = executor.get_metrics()

    assert not result.success
    assert result.failure is not None
    assert (result.failure.code, result.failure.status) == ("invalid_output", 502)
    assert result.failure.error_type == "OutputValidationError"
    assert [getattr(event, "status", None) for event in reported] == [None, "failed"]
    assert (metrics["requests"], metrics["failures"]) == (1, 1)


async def test_a_result_must_fit_the_declared_schema() -> None:
    answers: list[Any] = [{"degrees": 21.5}, {"degrees": "warm"}]
    promise = {"type": "object", "properties": {"degrees": {"type": "number"}}}

    @Tool(name="Weather", returns=promise, register=False)
    async def weather() -> Any:
        return answers.pop(0)

    with executor_for(weather) as executor:
        assert await executor.call("Weather") == {"degrees": 21.5}
        with pytest.raises(OutputValidationError, match="degrees"):
            await executor.call("Weather")


async def test_what_a_caller_does_to_a_result_reaches_nobody_else() -> None:
    kept = {"numbers": [1]}
    with executor_for(giving(kept)) as executor:
        result = await executor.execute_tool_call(create_tool_call("Give", {}))
        result.data["numbers"].append(2)

    assert kept == {"numbers": [1]}


# names


@pytest.mark.parametrize("name", ["MyApp.Calculator", "a", "a-b_c.d.e", "0", "x" * 128])
async def test_a_name_may_have_dots(name: str) -> None:
    def body() -> str:
        return "called"

    with executor_for(Tool(name=name, register=False)(body)) as executor:
        result = await executor.execute_tool_call(create_tool_call(name, {}))

    assert isinstance(result, ToolResult)
    assert (result.tool_name, result.data) == (name, {"result": "called"})


@pytest.mark.parametrize("name", ["", ".a", "-a", "a b", "a/b", "naïve", "x" * 129, "a@1"])
def test_a_name_that_no_provider_could_call_is_refused(name: str) -> None:
    with pytest.raises(toolpost.ConfigurationError):
        Tool(name=name, register=False)(lambda: None)


def test_the_operations_of_a_class_are_named_after_it() -> None:
    tool = SlowTool()
    with ToolExecutor(registry=toolpost.ToolRegistry()) as executor:
        executor.add(tool)

        assert "SlowTool.quick" in executor.get_available_tools()
        assert executor.call_sync("SlowTool.quick", n=3) == 3
