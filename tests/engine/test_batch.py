"""Batches: in order, bounded, each item with its own outcome, all within one deadline, in flat memory."""

import asyncio
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


class Work(BaseTool):
    def __init__(self) -> None:
        super().__init__()
        self.now = self.most = self.runs = 0
        self.hold = asyncio.Event()

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
        assert {r.failure.code for r in results[1:]} == {"cancelled"}

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
