"""Deadlines: what is late is cancelled, killed or given up, and the failure says what became of the body."""

import asyncio
import threading

import pytest

from toolpost import BaseTool, OperationError, ToolTimeoutError, create_tool_call
from toolpost.testing import FakeClock, executor_for


class Slow(BaseTool):
    def __init__(self) -> None:
        super().__init__()
        self.started = threading.Event()
        self.release = threading.Event()
        self.cleaned = False

    async def waits(self) -> str:
        self.started.set()
        await asyncio.get_running_loop().create_future()
        return "never"

    async def cleans_up(self) -> str:
        try:
            await asyncio.get_running_loop().create_future()
        finally:
            await asyncio.sleep(0)
            self.cleaned = True
        return "never"

    async def ignores_cancellation(self) -> str:
        while True:
            try:
                await asyncio.get_running_loop().create_future()
            except asyncio.CancelledError:
                continue

    async def answers_all_the_same(self) -> str:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            return "too late"
        return "never"

    def blocks(self) -> str:
        self.started.set()
        self.release.wait(30)
        return "late"

    async def quick(self) -> str:
        await asyncio.sleep(0)
        return "in time"


@pytest.fixture
def tool():
    made = Slow()
    yield made
    made.release.set()


async def when_waiting(clock: FakeClock, alarms: int = 1) -> None:
    while clock.waiting < alarms:
        await asyncio.sleep(0)


async def test_an_async_body_is_cancelled_at_its_deadline(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=5.0) as executor:
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("waits"))
        await when_waiting(clock)

        clock.advance(4.9)
        await asyncio.sleep(0)
        assert not call.done()
        clock.advance(0.2)

        with pytest.raises(ToolTimeoutError) as caught:
            await call
    assert caught.value.outcome == "stopped"
    assert isinstance(caught.value, TimeoutError)
    assert caught.value.status == 504


async def test_a_timed_out_task_is_not_left_cancelled(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=1.0) as executor:
        tool._executor = executor

        async def caller():
            with pytest.raises(ToolTimeoutError):
                await tool.run_async("waits")
            await asyncio.sleep(0)
            return asyncio.current_task().cancelling()

        task = asyncio.ensure_future(caller())
        await when_waiting(clock)
        clock.advance(1.0)

        assert await task == 0


async def test_a_cancelled_body_may_clean_up(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=1.0) as executor:
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("cleans_up"))
        await when_waiting(clock)

        clock.advance(1.0)
        with pytest.raises(ToolTimeoutError):
            await call

    assert tool.cleaned


async def test_a_body_that_swallows_its_cancellation_is_stopped_after_the_grace(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=1.0, cancel_grace_s=2.0) as executor:
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("ignores_cancellation"))
        await when_waiting(clock)
        clock.advance(1.0)
        await when_waiting(clock)
        assert not call.done()

        clock.advance(2.0)
        with pytest.raises(ToolTimeoutError) as caught:
            await call

    assert caught.value.outcome == "stopped"


async def test_an_answer_after_the_deadline_is_a_timeout(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=1.0) as executor:
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("answers_all_the_same"))
        await when_waiting(clock)
        clock.advance(1.0)

        with pytest.raises(ToolTimeoutError) as caught:
            await call

    assert caught.value.outcome == "ran"


async def test_cancelling_the_caller_cancels_the_body_and_is_no_timeout(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=5.0) as executor:
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("waits"))
        await when_waiting(clock)

        call.cancel()

        with pytest.raises(asyncio.CancelledError):
            await call
        metrics = executor.get_metrics()
    assert metrics["errors"] == {"cancelled": 1}


async def test_a_callers_own_timeout_around_a_call_works(tool):
    with executor_for(timeout=30.0) as executor:
        tool._executor = executor
        with pytest.raises(TimeoutError) as caught:
            async with asyncio.timeout(0.02):
                await tool.run_async("waits")

    assert not isinstance(caught.value, ToolTimeoutError)


async def test_what_ends_in_time_leaves_no_alarm(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=5.0) as executor:
        tool._executor = executor

        assert await tool.run_async("quick") == "in time"

    assert clock.waiting == 0


async def test_a_thread_that_outlives_its_deadline_is_given_up_and_counted(tool):
    with executor_for(timeout=0.05, max_workers=1) as executor:
        tool._executor = executor

        with pytest.raises(ToolTimeoutError) as caught:
            await tool.run_async("blocks")

        assert caught.value.outcome == "unknown"
        assert executor.get_metrics()["tool_threads_abandoned"] == 1
        assert (await executor.health_check())["status"] == "degraded"
        tool.release.set()


def test_a_blocking_caller_gets_its_timeout_while_the_body_runs_on(tool):
    with executor_for(timeout=0.05) as executor:
        tool._executor = executor

        with pytest.raises(ToolTimeoutError) as caught:
            tool.run("blocks")

        assert caught.value.outcome == "unknown"
        assert tool.started.is_set()
        assert not tool.release.is_set()


async def test_abandoned_threads_are_replaced_so_that_the_pool_never_starves(tool):
    with executor_for(timeout=0.05, max_workers=2) as executor:
        tool._executor = executor
        pool_size = executor._thread_pool._max_workers
        for _ in range(pool_size + 1):
            with pytest.raises(ToolTimeoutError):
                await tool.run_async("blocks")
        tool.release.set()

        assert await tool.run_async("blocks") == "late"


async def test_waiting_for_a_thread_counts_and_says_that_the_body_never_ran(tool):
    with executor_for(timeout=30, max_workers=1) as executor:
        tool._executor = executor
        executor.add(tool)
        holders = [asyncio.ensure_future(tool.run_async("blocks")) for _ in range(executor._thread_pool._max_workers)]
        while executor._thread_pool.active < len(holders):
            await asyncio.sleep(0.001)

        result = await executor.execute_tool_call(create_tool_call("Slow.blocks", {}, deadline_s=0.05))

        assert result.failure.outcome == "not_run"
        tool.release.set()
        assert await asyncio.gather(*holders) == ["late"] * len(holders)


async def test_the_callers_deadline_is_kept_when_it_is_the_shorter(tool):
    clock = FakeClock()
    with executor_for(tool, clock=clock, timeout=60.0) as executor:
        call = asyncio.ensure_future(executor.execute_tool_call(create_tool_call("Slow.waits", {}, deadline_s=2.0)))
        await when_waiting(clock)
        clock.advance(2.0)

        result = await call

    assert result.status_code == 504
    assert "2 s" in result.error


def test_an_async_body_run_by_a_blocking_caller_is_cancelled_too(tool):
    with executor_for(timeout=0.05) as executor:
        tool._executor = executor

        with pytest.raises(ToolTimeoutError) as caught:
            tool.run("waits")

    assert caught.value.outcome == "stopped"


class Stubborn(BaseTool):
    async def breaks_while_cleaning_up(self) -> None:
        try:
            await asyncio.get_running_loop().create_future()
        except asyncio.CancelledError:
            raise ConnectionError("lost while closing") from None

    async def raises_generator_exit(self, late: bool) -> None:
        if late:
            await asyncio.sleep(0)
        raise GeneratorExit


async def test_an_error_while_cleaning_up_after_the_deadline_is_a_timeout_with_that_cause():
    clock = FakeClock()
    with executor_for(clock=clock, timeout=1.0) as executor:
        tool = Stubborn()
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("breaks_while_cleaning_up"))
        await when_waiting(clock)
        clock.advance(1.0)

        with pytest.raises(ToolTimeoutError) as caught:
            await call

    assert isinstance(caught.value.__cause__, ConnectionError)


@pytest.mark.parametrize("late", [False, True])
@pytest.mark.parametrize("timeout", [5.0, None])
async def test_a_body_that_raises_generator_exit_fails_like_any_other(late, timeout):
    with executor_for(timeout=timeout) as executor:
        tool = Stubborn()
        tool._executor = executor

        with pytest.raises(OperationError, match="GeneratorExit"):
            await tool.run_async("raises_generator_exit", late=late)


async def test_without_a_deadline_a_suspended_body_goes_on_to_its_end_or_its_cancellation():
    class Patient(BaseTool):
        async def waits(self, n: int) -> int:
            for _ in range(n):
                await asyncio.sleep(0)
            return n

    clock = FakeClock()
    with executor_for(clock=clock, timeout=None) as executor:
        tool = Patient()
        tool._executor = executor
        assert await tool.run_async("waits", n=3) == 3
        assert clock.waiting == 0

        call = asyncio.ensure_future(tool.run_async("waits", n=10**9))
        await asyncio.sleep(0.01)
        call.cancel()
        with pytest.raises(asyncio.CancelledError):
            await call


async def test_a_bodys_own_timeout_in_the_same_turn_does_not_disarm_the_deadline():
    class Both(BaseTool):
        async def goes_on(self) -> str:
            try:
                async with asyncio.timeout(0.02):
                    await asyncio.sleep(0)
                    blocking = asyncio.get_running_loop().time() + 0.05
                    while asyncio.get_running_loop().time() < blocking:
                        pass
                    await asyncio.sleep(1)
            except TimeoutError:
                pass
            await asyncio.get_running_loop().create_future()
            return "went on"

    with executor_for(timeout=0.03, cancel_grace_s=0.05) as executor:
        tool = Both()
        tool._executor = executor

        with pytest.raises(ToolTimeoutError):
            await tool.run_async("goes_on")


async def test_an_inner_calls_deadline_in_the_same_turn_is_not_taken_for_the_outers():
    class Nested(BaseTool):
        async def inner(self) -> str:
            await asyncio.get_running_loop().create_future()
            return "never"

        async def outer(self) -> str:
            try:
                await self.run_async("inner")
            except ToolTimeoutError:
                await asyncio.get_running_loop().create_future()
            return "went on"

    clock = FakeClock()
    with executor_for(clock=clock, timeout=1.0, cancel_grace_s=1.0) as executor:
        tool = Nested()
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("outer"))
        await when_waiting(clock, 2)
        clock.advance(1.0)
        await when_waiting(clock, 1)
        clock.advance(1.0)

        with pytest.raises(ToolTimeoutError) as caught:
            await call

    assert caught.value.tool == "Nested.outer"


async def test_a_cancellation_from_outside_during_the_grace_is_not_lost(tool):
    clock = FakeClock()
    with executor_for(clock=clock, timeout=1.0, cancel_grace_s=2.0) as executor:
        tool._executor = executor
        call = asyncio.ensure_future(tool.run_async("ignores_cancellation"))
        await when_waiting(clock)
        clock.advance(1.0)
        await when_waiting(clock)

        call.cancel()
        await asyncio.sleep(0)
        clock.advance(2.0)

        with pytest.raises(asyncio.CancelledError):
            await call
    assert call.cancelled()
