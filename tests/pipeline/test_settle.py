"""settle: whatever a body does, the caller gets its value or one typed error, and the executor lives on."""

import asyncio
import logging
import os
import signal
import threading

import pytest

from toolpost import (
    BaseTool,
    CallCancelledError,
    OperationError,
    OutputValidationError,
    SecurityError,
    ToolError,
    create_tool_call,
)
from toolpost.testing import Recorder, executor_for


class Odd(BaseTool):
    def exits(self):
        raise SystemExit(3)

    def interrupts(self):
        raise KeyboardInterrupt

    def cancels(self):
        raise asyncio.CancelledError

    def divides(self, by: int):
        return 1 // by

    def stops(self):
        raise StopIteration

    def generates(self):
        yield 1

    def forgets_to_await(self):
        return asyncio.sleep(0)

    def nothing(self):
        return None

    async def exits_async(self):
        raise SystemExit(3)

    async def interrupts_async(self):
        raise KeyboardInterrupt

    async def cancels_async(self):
        raise asyncio.CancelledError

    async def generates_async(self):
        async def numbers():
            yield 1

        return numbers()

    async def waits_for_a_cancelled_friend(self):
        friend = asyncio.ensure_future(asyncio.sleep(10))
        friend.cancel()
        await friend

    def refuses(self):
        raise SecurityError("not this file")

    def fails_as_told(self):
        raise ToolError("no such order", retryable=True, code="NOT_FOUND")


FAILURES = [
    ("exits", OperationError),
    ("interrupts", OperationError),
    ("cancels", OperationError),
    ("stops", OperationError),
    ("generates", OutputValidationError),
    ("forgets_to_await", OutputValidationError),
    ("exits_async", OperationError),
    ("interrupts_async", OperationError),
    ("cancels_async", CallCancelledError),
    ("generates_async", OutputValidationError),
    ("waits_for_a_cancelled_friend", CallCancelledError),
]


@pytest.fixture
def tool():
    with executor_for() as executor:
        made = Odd()
        made._executor = executor
        yield made


@pytest.mark.parametrize(("op", "kind"), FAILURES)
async def test_an_awaiting_caller_gets_a_typed_error_and_the_executor_lives_on(tool, op, kind):
    with pytest.raises(kind):
        await tool.run_async(op)

    assert await tool.run_async("nothing") is None


@pytest.mark.parametrize(("op", "kind"), FAILURES)
def test_a_blocking_caller_gets_the_same(tool, op, kind):
    with pytest.raises(kind):
        tool.run(op)

    assert tool.run("nothing") is None


@pytest.mark.parametrize(("op", "kind"), FAILURES)
async def test_a_tool_call_reports_the_same(tool, op, kind):
    tool._executor.add(tool)

    result = await tool._executor.execute_tool_call(create_tool_call(f"Odd.{op}", {}))

    assert not result.success
    assert result.failure.code == kind.code
    assert result.status == "failed"


def test_the_original_exception_is_the_cause(tool):
    with pytest.raises(OperationError, match="Error executing divides: ZeroDivisionError") as caught:
        tool.run("divides", by=0)

    assert isinstance(caught.value.__cause__, ZeroDivisionError)
    assert caught.value.outcome == "ran"


def test_an_author_chooses_code_and_whether_to_try_again(tool):
    with pytest.raises(ToolError) as caught:
        tool.run("fails_as_told")

    assert (caught.value.code, caught.value.retryable, caught.value.message) == ("NOT_FOUND", True, "no such order")


def test_a_refusal_by_the_body_itself_says_that_it_ran(tool):
    with pytest.raises(SecurityError) as caught:
        tool.run("refuses")

    assert caught.value.outcome == "ran"


def test_a_persons_interrupt_while_waiting_is_not_the_tools_failure():
    class Waits(BaseTool):
        def forever(self):
            threading.main_thread()  # a call, so that it runs in a worker
            ready.set()
            release.wait(10)

    ready, release = threading.Event(), threading.Event()

    def interrupt():
        ready.wait(5)
        os.kill(os.getpid(), signal.SIGINT)

    with executor_for() as executor:
        tool = Waits()
        tool._executor = executor
        threading.Thread(target=interrupt).start()

        with pytest.raises(KeyboardInterrupt):
            tool.run("forever")
        release.set()


class TestEvents:
    def test_a_call_is_told_from_start_to_finish(self, tool):
        told = Recorder()
        stop = tool._executor.observe(told)

        tool.run("nothing")
        stop()
        tool.run("nothing")

        assert [type(e).__name__ for e in told.events] == ["CallStarted", "CallFinished"]
        assert told.events[0].call_id == told.events[1].call_id
        assert told.events[1].status == "ok"

    def test_a_refusal_is_told_as_rejected(self, tool):
        told = Recorder()
        tool._executor.observe(told)

        with pytest.raises(Exception, match="unknown argument"):
            tool.run("divides", by=1, x=2)

        assert (told.events[-1].status, told.events[-1].error.code) == ("rejected", "invalid_input")

    def test_an_observer_that_breaks_is_logged_and_the_call_goes_on(self, tool, caplog):
        def breaks(event):
            raise RuntimeError("broken observer")

        tool._executor.observe(breaks)

        with caplog.at_level(logging.ERROR, logger="toolpost"):
            assert tool.run("nothing") is None

        assert "an observer failed on CallStarted" in caplog.text


class TestCounting:
    def test_every_call_is_counted_with_its_outcome(self, tool):
        tool.run("nothing")
        for op in ("exits", "generates"):
            with pytest.raises(Exception, match=r".+"):
                tool.run(op)
        with pytest.raises(Exception, match="unknown argument"):
            tool.run("nothing", x=1)

        metrics = tool._executor.get_metrics()

        assert (metrics["requests"], metrics["failures"], metrics["rejected"]) == (4, 3, 1)
        assert metrics["errors"] == {"tool_failed": 1, "invalid_output": 1, "invalid_input": 1}
        assert metrics["avg_processing_time"] > 0

    def test_history_is_bounded_however_many_tools_share_it(self):
        from toolpost import MetricsCollector, Tool, ToolExecutor, ToolRegistry

        collector = MetricsCollector(max_history=100)
        with ToolExecutor(registry=ToolRegistry(), collector=collector) as executor:
            executor.add([Tool(name=f"Tool{n}", register=False, runs_in="inline")(lambda: 1) for n in range(20)])
            for _ in range(60):
                for n in range(20):
                    executor.call_sync(f"Tool{n}")

            assert len(collector.rows) <= 100 + 256
            assert collector.get_tool_metrics("Tool7")["total_executions"] == 60

    def test_the_log_names_tool_and_time(self, tool, caplog):
        with caplog.at_level(logging.INFO, logger="toolpost"):
            tool.run("nothing")

        assert "Odd.nothing executed in" in caplog.text


BUSY = ToolError("busy", code="BUSY")


class Shop(BaseTool):
    def pay(self, amount: int):
        return amount

    def order(self, wrong: bool):
        return self.run("pay", amonut=1) if wrong else self.run("pay", amount=1)

    def one(self):
        raise BUSY

    def two(self):
        raise BUSY

    def connects(self):
        raise ConnectionError("postgres://app:hunter2@db/x password=hunter3 api_key: 'sk-abcdefghijklmnopqrstuv'")


@pytest.fixture
def shop():
    with executor_for() as executor:
        made = Shop()
        made._executor = executor
        yield made


def test_a_refusal_of_an_inner_call_is_the_outers_failure(shop):
    with pytest.raises(OperationError, match=r"Shop\.pay did not give a result") as caught:
        shop.run("order", wrong=True)

    assert (caught.value.tool, caught.value.outcome, caught.value.errors()) == ("Shop.order", "ran", [])
    assert caught.value.__cause__.code == "invalid_input"


def test_one_error_object_raised_by_two_calls_belongs_to_each(shop):
    raised = []
    for op in ("one", "two", "one"):
        with pytest.raises(ToolError) as caught:
            shop.run(op)
        raised.append(caught.value)

    assert [e.tool for e in raised] == ["Shop.one", "Shop.two", "Shop.one"]
    assert {e.code for e in raised} == {"BUSY"}
    assert (BUSY.tool, BUSY.__traceback__) == (None, None)


def test_what_an_exception_says_reaches_the_caller_without_its_secrets(shop):
    with pytest.raises(OperationError, match="ConnectionError: postgres") as caught:
        shop.run("connects")

    assert "hunter" not in caught.value.message
    assert "sk-abc" not in caught.value.message
