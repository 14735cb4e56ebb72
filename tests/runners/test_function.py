"""The function runner: in the task, inline, in a thread or in a process, chosen once."""

import asyncio
import os
import threading
import time

import pytest

from toolpost import BaseTool, ConfigurationError, OperationError, Tool, ToolContext, ToolTimeoutError, run_in_executor
from toolpost.testing import Recorder, executor_for


class Where(BaseTool):
    def __init__(self, offset: int = 0) -> None:
        super().__init__()
        self.offset = offset

    async def in_the_task(self) -> str:
        return asyncio.current_task().get_name()

    def in_a_thread(self) -> str:
        return threading.current_thread().name

    @run_in_executor(process=True)
    def in_a_process(self) -> int:
        return os.getpid() + self.offset

    @run_in_executor(process=True)
    def sleeps(self, seconds: float) -> str:
        time.sleep(seconds)
        return "awake"

    @run_in_executor(process=True)
    def dies(self) -> None:
        os._exit(7)

    @run_in_executor(process=True)
    def interrupts(self) -> None:
        raise KeyboardInterrupt

    @run_in_executor(process=True)
    def reports(self, count: int, ctx: ToolContext) -> str:
        for n in range(count):
            ctx.progress(n + 1, count)
        ctx.log("halfway", level="warning")
        return f"{ctx.call_id}:{ctx.user_id}"


@pytest.fixture
def tool():
    with executor_for(timeout=20) as executor:
        made = Where()
        made._executor = executor
        yield made


async def test_an_async_body_runs_in_the_callers_task(tool):
    asyncio.current_task().set_name("the caller")

    assert await tool.run_async("in_the_task") == "the caller"


async def test_a_sync_body_runs_in_a_worker_thread(tool):
    assert await tool.run_async("in_a_thread") != threading.current_thread().name


def test_a_body_without_a_deadline_runs_where_a_blocking_caller_stands(tool):
    tool._executor.config.timeout = None

    assert tool.run("in_a_thread") == threading.current_thread().name


def test_a_body_declared_inline_runs_where_the_caller_stands():
    @Tool(name="Inline", runs_in="inline", register=False)
    def where():
        return threading.current_thread().name

    with executor_for(where) as executor:
        assert executor.call_sync("Inline") == threading.current_thread().name


class TestProcess:
    def test_the_body_runs_in_another_process_with_its_instances_state(self, tool):
        tool.offset = 0

        assert tool.run("in_a_process") != os.getpid()

    async def test_a_late_body_is_killed(self, tool):
        tool._executor.config.timeout = 1.0
        started = time.monotonic()

        with pytest.raises(ToolTimeoutError) as caught:
            await tool.run_async("sleeps", seconds=30)

        assert caught.value.outcome == "stopped"
        assert time.monotonic() - started < 15
        assert tool._executor.get_metrics()["tool_threads_abandoned"] == 0

    def test_a_body_that_takes_its_process_down_is_an_error_and_the_executor_lives_on(self, tool):
        with pytest.raises(OperationError, match="7"):
            tool.run("dies")
        with pytest.raises(OperationError):
            tool.run("interrupts")

        assert tool.run("sleeps", seconds=0) == "awake"

    def test_progress_and_logs_cross_over(self, tool):
        told = Recorder()
        tool._executor.observe(told)

        answer = tool.run("reports", count=2, user_id="ann")

        assert answer == f"{told.events[0].call_id}:ann"
        assert [type(e).__name__ for e in told.events] == [
            "CallStarted",
            "Progressed",
            "Progressed",
            "Logged",
            "CallFinished",
        ]

    def test_the_setting_sends_every_sync_body_to_a_process(self):
        with executor_for(thread_pool_type="process") as executor:
            made = Where()
            made._executor = executor
            assert made.run("in_a_thread") == "MainThread"

    def test_a_body_that_no_other_process_can_find_is_refused_with_the_way_out(self):
        @Tool(name="Closure", runs_in="process", register=False)
        def closure():
            return 1

        with executor_for(closure) as executor, pytest.raises(ConfigurationError, match="closure"):
            executor.call_sync("Closure")


class TestContext:
    async def test_it_knows_the_call_and_how_much_time_is_left(self):
        seen = []

        @Tool(name="Seen", register=False)
        async def body(n: int, ctx: ToolContext):
            seen.append((ctx.tool, ctx.call_id, ctx.user_id, ctx.task_id, ctx.attempt, ctx.remaining_s()))
            return n

        from toolpost import create_tool_call

        with executor_for(body, timeout=30) as executor:
            call = create_tool_call("Seen", {"n": 1}, "c1", "ann", task_id="t1", deadline_s=5)
            await executor.execute_tool_call(call)

        (tool, call_id, user, task, attempt, left) = seen[0]
        assert (tool, call_id, user, task, attempt) == ("Seen", "c1", "ann", "t1", 1)
        assert 0 < left <= 5

    async def test_a_thread_can_see_that_it_was_given_up(self):
        noticed, goes_on = threading.Event(), threading.Event()

        @Tool(name="Notices", register=False)
        def body(ctx: ToolContext):
            goes_on.wait(10)
            try:
                ctx.raise_if_cancelled()
            finally:
                if ctx.cancelled:
                    noticed.set()

        with executor_for(body, timeout=0.05) as executor:
            with pytest.raises(ToolTimeoutError):
                await executor.call("Notices")
            goes_on.set()
            assert noticed.wait(5)

    async def test_progress_without_an_observer_costs_nothing_and_breaks_nothing(self):
        @Tool(name="Silent", register=False)
        async def body(ctx: ToolContext):
            ctx.progress(1, 2, "half")
            ctx.log("hello")
            return "done"

        with executor_for(body) as executor:
            assert await executor.call("Silent") == "done"
