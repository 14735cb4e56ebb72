"""Batches: in order, bounded, each item with its own outcome, all within one deadline, in flat memory."""

import asyncio
import contextlib
import contextvars
import threading
import tracemalloc

import pytest

from toolpost import (
    BaseTool,
    InputValidationError,
    OperationError,
    ToolNotFoundError,
    ToolTimeoutError,
    create_tool_call,
)
from toolpost.testing import FakeClock, executor_for

speaker = contextvars.ContextVar("speaker", default="nobody")


class Work(BaseTool):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.runs = 0
        self.hold = asyncio.Event()
        self.in_thread, self.let_go = threading.Event(), threading.Event()

    async def step(self, n: int) -> int:
        self.runs += 1
        self.now += 1
        self.most = max(self.most, self.now)
        for _ in range(n % 5):
            await asyncio.sleep(0)
        self.now -= 1
        return n

    async def add(self, a: int, b: int) -> int:
        return a + b

    async def fails(self, n: int) -> int:
        raise ValueError(f"no {n}")

    async def waits(self) -> str:
        await self.hold.wait()
        return "released"

    async def fails_once_released(self) -> str:
        await self.hold.wait()
        raise ValueError("no")

    async def fails_once_a_thread_runs(self) -> str:
        while not self.in_thread.is_set():
            await asyncio.sleep(0)
        raise ValueError("no")

    def hangs(self) -> str:
        self.in_thread.set()
        self.let_go.wait()
        return "at last"

    async def speaks(self, name: str) -> str:
        before = speaker.get()
        speaker.set(name)
        return before

    async def speaks_slowly(self, name: str) -> list[str]:
        before = speaker.get()
        speaker.set(name)
        await asyncio.sleep(0)
        return [before, speaker.get()]

    def blocking(self, n: int) -> int:
        return sum([n])


@pytest.fixture
def clock():
    return FakeClock()


@pytest.fixture
def tool(clock):
    with executor_for(clock=clock, io_concurrency=4) as executor:
        made = Work()
        made._executor = executor
        executor.add(made)
        yield made


def steps(count):
    return [{"op": "step", "kwargs": {"n": n}} for n in range(count)]


async def test_values_come_in_the_order_of_the_operations(tool):
    assert await tool.run_batch(steps(50)) == list(range(50))


async def test_no_more_run_at_once_than_allowed(tool):
    await tool.run_batch(steps(50))
    assert tool.most == 4

    await tool._executor.execute_batch(tool, steps(50), concurrency=9)
    assert tool.most == 9


async def test_sync_and_async_operations_mix(tool):
    operations = [{"op": "blocking", "kwargs": {"n": 1}}, {"op": "step", "kwargs": {"n": 2}}]

    assert await tool.run_batch(operations) == [1, 2]


async def test_the_first_error_is_raised_and_the_rest_is_not_begun(tool):
    operations = [{"op": "fails", "kwargs": {"n": 0}}, *steps(100)]

    with pytest.raises(OperationError, match="no 0"):
        await tool.run_batch(operations)

    assert tool.runs < 100


async def test_best_effort_puts_each_error_in_its_place(tool):
    operations = [
        {"op": "step", "kwargs": {"n": 1}},
        {"op": "fails", "kwargs": {"n": 2}},
        {"op": "nothing", "kwargs": {}},
        {"op": "step", "kwargs": {"n": "x"}},
        {"op": "step", "kwargs": {"n": 5}},
    ]

    results = await tool.run_batch(operations, fail_fast=False)

    assert (results[0], results[4]) == (1, 5)
    assert [type(r) for r in results[1:4]] == [OperationError, ToolNotFoundError, InputValidationError]


@pytest.mark.parametrize("bad", [{"kwargs": {}}, {"op": "step", "args": {}}, "step", None])
async def test_an_operation_of_the_wrong_shape_is_an_input_error(tool, bad):
    with pytest.raises(InputValidationError):
        await tool.run_batch([bad])


async def test_one_deadline_holds_for_all(tool, clock):
    operations = [{"op": "waits", "kwargs": {}} for _ in range(6)]
    batch = asyncio.ensure_future(tool.run_batch(operations, fail_fast=False, deadline_s=3))
    while clock.waiting < 4:
        await asyncio.sleep(0)

    clock.advance(3)
    results = await batch

    assert [type(r) for r in results] == [ToolTimeoutError] * 6
    assert [r.outcome for r in results] == ["stopped"] * 4 + ["not_run"] * 2


async def test_cancelling_a_batch_cancels_what_runs(tool):
    batch = asyncio.ensure_future(tool.run_batch([{"op": "waits", "kwargs": {}}] * 3))
    await asyncio.sleep(0.01)

    batch.cancel()

    with pytest.raises(asyncio.CancelledError):
        await batch
    assert asyncio.all_tasks() == {asyncio.current_task()}


class TestContextVariables:
    """Each item runs in a context of its own, a copy of the caller's."""

    @pytest.fixture(autouse=True)
    def caller(self):
        token = speaker.set("caller")
        yield
        speaker.reset(token)

    async def test_what_an_operation_sets_the_next_does_not_see(self, tool):
        operations = [{"op": "speaks", "kwargs": {"name": f"n{n}"}} for n in range(5)]

        assert await tool._executor.execute_batch(tool, operations, concurrency=1) == ["caller"] * 5

    async def test_a_suspended_operation_keeps_what_it_set(self, tool):
        operations = [{"op": "speaks_slowly", "kwargs": {"name": f"n{n}"}} for n in range(5)]

        values = await tool._executor.execute_batch(tool, operations, concurrency=2)

        assert values == [["caller", f"n{n}"] for n in range(5)]

    async def test_what_a_tool_call_sets_the_next_does_not_see(self, tool):
        calls = [create_tool_call("Work.speaks_slowly", {"name": f"n{n}"}) for n in range(5)]

        results = await tool._executor.execute_tool_calls(calls, concurrency=1)

        assert [r.data for r in results] == [["caller", f"n{n}"] for n in range(5)]


class TestOptions:
    @pytest.mark.parametrize("concurrency", [0, -5, True, 2.5, "3"])
    async def test_a_concurrency_that_is_no_positive_whole_number_is_named(self, tool, concurrency):
        named = f"concurrency must be a whole number of at least 1, got {concurrency!r}"

        with pytest.raises(InputValidationError, match=named):
            await tool.run_batch(steps(2), concurrency=concurrency)
        with pytest.raises(InputValidationError, match=named):
            await tool._executor.execute_tool_calls([], concurrency=concurrency)
        with pytest.raises(InputValidationError, match=named):
            tool._executor.stream_tool_calls([], concurrency=concurrency)

    @pytest.mark.parametrize("deadline_s", [float("nan"), float("inf"), True, "3"])
    async def test_a_deadline_that_is_no_finite_number_is_named(self, tool, deadline_s):
        named = f"deadline_s must be a finite number of seconds, got {deadline_s!r}"

        with pytest.raises(InputValidationError, match=named):
            await tool.run_batch(steps(2), deadline_s=deadline_s)
        with pytest.raises(InputValidationError, match=named):
            await tool._executor.execute_tool_calls([], deadline_s=deadline_s)

    async def test_one_call_instead_of_a_list_is_an_input_error(self, tool):
        with pytest.raises(InputValidationError, match="another iterable of ToolCalls, got ToolCall"):
            await tool._executor.execute_tool_calls(create_tool_call("Work.add", {"a": 1, "b": 2}))


class TestToolCalls:
    async def test_each_call_has_its_result_in_order(self, tool):
        calls = [create_tool_call("Work.step", {"n": n}, call_id=f"c{n}") for n in range(20)]
        calls.insert(3, create_tool_call("Work.stop", {}, call_id="unknown"))
        calls.insert(7, create_tool_call("Work.fails", {"n": 7}, call_id="bad"))

        results = await tool._executor.execute_tool_calls(calls)

        assert [r.call_id for r in results] == [c.id for c in calls]
        assert [r.status_code for r in results if not r.success] == [404, 500]
        assert "did you mean 'Work.step'?" in results[3].error

    async def test_fail_fast_reports_the_rest_as_cancelled(self, tool):
        calls = [create_tool_call("Work.fails", {"n": 1})] + [create_tool_call("Work.waits", {}) for _ in range(9)]

        results = await tool._executor.execute_tool_calls(calls, fail_fast=True)

        assert [r.status_code for r in results[:1]] == [500]
        assert [r.failure.code for r in results[1:]] == ["cancelled"] * 9

    async def test_fail_fast_takes_up_nothing_after_a_failure(self, tool):
        calls = [create_tool_call("Work.fails", {"n": 1})]
        calls += [create_tool_call("Work.step", {"n": n}, call_id=f"c{n}") for n in range(9)]

        results = await tool._executor.execute_tool_calls(iter(calls), fail_fast=True)

        assert [r.call_id for r in results] == [c.id for c in calls]
        assert [(r.failure.code, r.failure.outcome) for r in results[1:]] == [("cancelled", "not_run")] * 9
        assert tool.runs == 0

    async def test_what_ended_along_with_a_failure_keeps_its_value(self, tool):
        calls = [create_tool_call("Work.fails_once_released", {})] + [create_tool_call("Work.waits", {})] * 2
        batch = asyncio.ensure_future(tool._executor.execute_tool_calls(calls, fail_fast=True))
        while len(tool.hold._waiters) < 3:
            await asyncio.sleep(0)

        tool.hold.set()

        assert [r.data for r in await batch] == [None, "released", "released"]

    async def test_a_cancelled_call_says_how_far_it_had_come(self, clock):
        with executor_for(clock=clock, io_concurrency=4, max_workers=1) as executor:
            tool = Work()
            executor.add(tool)
            names = ["hangs", "hangs", "waits", "fails_once_a_thread_runs", "add"]
            calls = [create_tool_call(f"Work.{name}", {}) for name in names]

            results = await executor.execute_tool_calls(calls, fail_fast=True)
            tool.let_go.set()

        assert [r.failure.outcome for r in results] == ["unknown", "not_run", "stopped", "ran", "not_run"]
        assert [r.failure.code for r in results] == ["cancelled"] * 3 + ["tool_failed", "cancelled"]
        assert "runs on in its thread" in results[0].error
        assert "never started" in results[1].error

    async def test_what_is_no_tool_call_has_an_error_in_its_place(self, tool):
        good = create_tool_call("Work.add", {"a": 1, "b": 2})

        results = await tool._executor.execute_tool_calls([good, {"name": "Work.add"}, None, good])

        assert [r.data for r in results] == [3, None, None, 3]
        assert [r.failure.code for r in results[1:3]] == ["invalid_input"] * 2
        assert "a batch takes ToolCalls, got dict" in results[1].error

    async def test_a_shared_deadline_shortens_each_calls_own(self, tool, clock):
        calls = [create_tool_call("Work.waits", {}) for _ in range(6)]
        batch = asyncio.ensure_future(tool._executor.execute_tool_calls(calls, deadline_s=2))
        while clock.waiting < 4:
            await asyncio.sleep(0)
        clock.advance(2)

        results = await batch

        assert {r.status_code for r in results} == {504}

    async def test_a_stream_takes_no_more_than_it_can_run(self, tool):
        taken = 0

        def endless():
            nonlocal taken
            while True:
                taken += 1
                yield create_tool_call("Work.add", {"a": 1, "b": taken})

        seen = 0
        stream = tool._executor.stream_tool_calls(endless())
        async for _, result in stream:
            assert result.success
            seen += 1
            if seen == 100:
                break
        await stream.aclose()

        assert taken < 200

    async def test_an_iterable_that_breaks_ends_the_stream_with_its_error(self, tool):
        def breaks():
            yield create_tool_call("Work.add", {"a": 1, "b": 2})
            raise OSError("the file is gone")

        with pytest.raises(OSError, match="the file is gone"):
            await tool._executor.execute_tool_calls(breaks())

    async def test_a_slow_source_does_not_hold_results_back(self, tool):
        more = asyncio.Event()

        async def slow():
            yield create_tool_call("Work.add", {"a": 1, "b": 2})
            await more.wait()
            yield create_tool_call("Work.add", {"a": 3, "b": 4})

        seen = []
        async for index, result in tool._executor.stream_tool_calls(slow()):
            seen.append((index, result.data))
            more.set()

        assert seen == [(0, 3), (1, 7)]

    async def test_an_async_source_is_asked_for_no_more_after_a_failure(self, tool):
        async def endless():
            yield create_tool_call("Work.fails", {"n": 1})
            await asyncio.Event().wait()

        results = await tool._executor.execute_tool_calls(endless(), fail_fast=True)

        assert [r.status_code for r in results] == [500]

    async def test_an_async_source_that_breaks_ends_the_stream_with_its_error(self, tool):
        async def breaks():
            yield create_tool_call("Work.add", {"a": 1, "b": 2})
            raise OSError("the line is cut")

        with pytest.raises(OSError, match="the line is cut"):
            await tool._executor.execute_tool_calls(breaks())

    async def test_closing_a_stream_cancels_what_runs(self, tool):
        calls = [create_tool_call("Work.add", {"a": 1, "b": 2})] + [create_tool_call("Work.waits", {})] * 3

        async with contextlib.aclosing(tool._executor.stream_tool_calls(calls)) as stream:
            await anext(stream)

        assert asyncio.all_tasks() == {asyncio.current_task()}


async def test_ten_thousand_calls_stay_in_flat_memory(tool):
    async def peak(count):
        tracemalloc.start()
        stream = tool._executor.stream_tool_calls(create_tool_call("Work.add", {"a": n, "b": 1}) for n in range(count))
        seen = 0
        async for _ in stream:
            seen += 1
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert seen == count
        return most

    await peak(1_000)
    small, large = await peak(1_000), await peak(10_000)

    assert large < small + 2_500_000  # the collector's bounded history; ten thousand results would be 20 MB
