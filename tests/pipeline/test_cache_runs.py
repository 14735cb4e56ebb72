"""Equal calls at the same time, stale results, kept failures and tags: one run, and never what is not true any more."""

import asyncio
import dataclasses
import gc
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, strategies as st

from toolpost import (
    Breaker,
    Cache,
    Concurrency,
    ConfigurationError,
    Exclusive,
    OperationError,
    RateLimit,
    Tool,
    ToolContext,
    ToolError,
    ToolTimeoutError,
    create_tool_call,
)
from toolpost.pipeline.flights import Flights, Waits
from toolpost.pipeline.refreshes import MAX_THREADS, Refreshes
from toolpost.pipeline.tags import Tags
from toolpost.testing import FakeClock, executor_for


@pytest.fixture
def clock():
    return FakeClock()


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


def gated(name="Demo.Slow", *, answer=lambda n: {"n": n}, **options):
    """An async tool whose runs wait until they are let go."""
    options.setdefault("cache", Cache(ttl_s=60))
    go = asyncio.Event()

    @Tool(name=name, register=False, **options)
    async def body(n: int = 0):
        body.runs += 1
        await go.wait()
        return answer(n)

    body.runs, body.go = 0, go
    return body


def raising(error):
    raise error


class TestOneRunForAll:
    async def test_equal_calls_at_the_same_time_run_the_body_once(self, clock):
        tool = gated()
        with executor_for(tool, clock=clock) as executor:
            calls = [
                asyncio.create_task(executor.execute_tool_call(create_tool_call("Demo.Slow", {"n": 1})))
                for _ in range(200)
            ]
            await settled()
            tool.go.set()
            results = await asyncio.gather(*calls)
            flights = len(executor._services.the("flights", Flights))

        assert (tool.runs, flights) == (1, 0)
        assert all(result.data == {"n": 1} for result in results)
        assert sorted({result.source for result in results}) == ["cache", "run"]

    async def test_nobody_shares_the_value_they_are_given(self, clock):
        tool = gated(answer=lambda n: {"items": [n]})
        with executor_for(tool, clock=clock) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Slow", n=1)) for _ in range(3)]
            await settled()
            tool.go.set()
            values = await asyncio.gather(*calls)
            for value in values:
                value["items"].append("spoilt")

            assert await executor.call("Demo.Slow", n=1) == {"items": [1]}
        assert values == [{"items": [1, "spoilt"]}] * 3

    @pytest.mark.parametrize("cache", [Cache(ttl_s=lambda value, arguments: 0), Cache(ttl_s=60, max_bytes=5)])
    async def test_a_result_that_is_not_kept_still_serves_those_who_asked_meanwhile(self, clock, cache):
        tool = gated(cache=cache)
        with executor_for(tool, clock=clock) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Slow", n=1)) for _ in range(5)]
            await settled()
            tool.go.set()
            values = await asyncio.gather(*calls)
            assert (tool.runs, values) == (1, [{"n": 1}] * 5)

            await executor.call("Demo.Slow", n=1)
        assert tool.runs == 2

    async def test_other_arguments_and_other_users_fly_apart(self, clock):
        tool = gated(cache=Cache(ttl_s=60, per="user"))
        with executor_for(tool, clock=clock) as executor:
            calls = [
                asyncio.create_task(executor.execute_tool_call(create_tool_call("Demo.Slow", {"n": n}, user_id=user)))
                for n in (1, 2)
                for user in ("ann", "bob")
            ]
            await settled()
            tool.go.set()
            await asyncio.gather(*calls)

        assert tool.runs == 4

    async def test_who_waited_for_what_cannot_be_shared_runs_at_once_and_not_one_after_the_other(self, clock):
        @dataclasses.dataclass
        class Single:
            n: int

            def __deepcopy__(self, memo):
                raise TypeError("there is one only")

        started, first, others = [], asyncio.Event(), asyncio.Event()

        @Tool(name="Demo.Single", register=False, cache=Cache(ttl_s=60))
        async def single():
            started.append(1)
            n = len(started)
            await (first if n == 1 else others).wait()
            return Single(n)

        with executor_for(single, clock=clock) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Single")) for _ in range(4)]
            await settled()
            assert len(started) == 1
            first.set()
            await settled()
            assert len(started) == 4
            others.set()
            assert [value.n for value in await asyncio.gather(*calls)] == [1, 2, 3, 4]

    @pytest.mark.parametrize("between", [0, 1])
    async def test_tools_that_call_each_other_do_not_wait_for_each_other(self, clock, between):
        runs, go = [], asyncio.Event()

        def calling(name, other):
            @Tool(name=name, register=False, cache=Cache(ttl_s=60))
            async def body():
                runs.append(name)
                if runs.count(name) > 1:
                    return f"{name} again"
                await go.wait()
                return await executor.call(other)

            return body

        names = ["Demo.A", "Demo.B", "Demo.C"][: 2 + between]
        tools = [calling(name, other) for name, other in zip(names, [*names[1:], names[0]], strict=True)]
        with executor_for(*tools, clock=clock) as executor:
            calls = [asyncio.create_task(executor.call(name)) for name in names]
            await settled()
            go.set()
            done, waiting = await asyncio.wait(calls, timeout=5)
            for task in waiting:
                task.cancel()

            assert (len(done), len(runs)) == (len(names), len(names) + 1)
            assert len(executor._services.the("waits", Waits)) == 0

    async def test_a_refusal_that_only_the_first_caller_met_within_is_not_theirs(self, clock):
        asked = []

        @Tool(name="Demo.Limited", register=False, rate_limit=RateLimit(calls=1, by=lambda caller, sent: sent["who"]))
        async def limited(who: str) -> str:
            return "fine"

        go = asyncio.Event()

        @Tool(name="Demo.Outer", register=False, cache=Cache(ttl_s=60, per="global"))
        async def outer(ctx: ToolContext):
            asked.append(ctx.user_id)
            await go.wait()
            return await executor.call("Demo.Limited", who=ctx.user_id)

        def ask(user):
            return asyncio.create_task(executor.execute_tool_call(create_tool_call("Demo.Outer", {}, user_id=user)))

        with executor_for(limited, outer, clock=clock) as executor:
            await executor.call("Demo.Limited", who="ann")
            calls = [ask("ann"), ask("bob")]
            await settled()
            go.set()
            first, second = await asyncio.gather(*calls)

        assert (first.success, second.success) == (False, True)
        assert asked == ["ann", "bob"]

    async def test_the_tools_own_failure_is_shared_as_an_error_of_ones_own(self, clock):
        tool = gated(answer=lambda n: raising(ToolError("no such order", code="NOT_FOUND", details={"n": n})))
        with executor_for(tool, clock=clock) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Slow", n=1)) for _ in range(4)]
            await settled()
            tool.go.set()
            errors = await asyncio.gather(*calls, return_exceptions=True)
            assert tool.runs == 1
            with pytest.raises(ToolError):
                await executor.call("Demo.Slow", n=1)

        assert tool.runs == 2
        assert {(type(e), e.code, e.message, e.details["n"]) for e in errors} == {
            (ToolError, "NOT_FOUND", "no such order", 1)
        }
        assert len({id(e) for e in errors}) == 4

    async def test_an_exception_of_the_body_is_shared_as_what_the_leader_sees(self, clock):
        tool = gated(answer=lambda n: raising(ValueError("bad")))
        with executor_for(tool, clock=clock) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Slow", n=1)) for _ in range(3)]
            await settled()
            tool.go.set()
            errors = await asyncio.gather(*calls, return_exceptions=True)

        assert tool.runs == 1
        assert {(type(e), e.message, type(e.__cause__), e.outcome) for e in errors} == {
            (OperationError, "Error executing Demo.Slow: ValueError: bad", ValueError, "ran")
        }

    async def test_a_leader_that_is_cancelled_takes_nobody_with_it(self, clock):
        tool = gated()
        with executor_for(tool, clock=clock) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Slow", n=1)) for _ in range(4)]
            await settled()
            calls[0].cancel()
            await settled()
            tool.go.set()
            values = await asyncio.gather(*calls, return_exceptions=True)

        assert isinstance(values[0], asyncio.CancelledError)
        assert values[1:] == [{"n": 1}] * 3
        assert tool.runs == 2

    async def test_a_leaders_own_deadline_is_not_that_of_those_who_joined(self, clock):
        tool = gated()
        with executor_for(tool, clock=clock) as executor:
            hasty = create_tool_call("Demo.Slow", {"n": 1}, deadline_s=1.0)
            first = asyncio.create_task(executor.execute_tool_call(hasty))
            await settled()
            others = [asyncio.create_task(executor.call("Demo.Slow", n=1)) for _ in range(3)]
            await settled()
            clock.advance(1)
            await settled()
            tool.go.set()
            late, *values = await asyncio.gather(first, *others)

        assert late.status_code == 504
        assert values == [{"n": 1}] * 3
        assert tool.runs == 2

    async def test_who_joined_keeps_a_deadline_of_their_own(self, clock):
        tool = gated()
        with executor_for(tool, clock=clock) as executor:
            first = asyncio.create_task(executor.call("Demo.Slow", n=1))
            await settled()
            hasty = create_tool_call("Demo.Slow", {"n": 1}, deadline_s=1.0)
            second = asyncio.create_task(executor.execute_tool_call(hasty))
            await settled()
            clock.advance(1)
            late = await second
            tool.go.set()
            assert await first == {"n": 1}

        assert (late.status_code, late.failure.outcome) == (504, "not_run")

    async def test_a_leader_whose_coroutine_is_thrown_away_holds_nobody_up(self, clock):
        tool = gated()
        with executor_for(tool, clock=clock) as executor:
            coro = executor.call("Demo.Slow", n=1)
            coro.send(None)
            coro.close()
            del coro
            gc.collect()
            tool.go.set()

            assert await executor.call("Demo.Slow", n=1) == {"n": 1}

    def test_threads_and_loops_together_run_the_body_once(self):
        began, end, runs = threading.Event(), threading.Event(), []

        @Tool(name="Demo.Thread", register=False, cache=Cache(ttl_s=60))
        def body(n: int):
            runs.append(n)
            began.set()
            assert end.wait(30)
            return [n]

        with executor_for(body, timeout=40) as executor:

            async def many():
                return await asyncio.gather(*[executor.call("Demo.Thread", n=1) for _ in range(20)])

            with ThreadPoolExecutor(24) as pool:
                waiting = [pool.submit(executor.call_sync, "Demo.Thread", n=1) for _ in range(20)]
                loops = [pool.submit(asyncio.run, many()) for _ in range(2)]
                assert began.wait(30)
                end.set()
                values = [w.result(30) for w in waiting] + [v for loop in loops for v in loop.result(30)]

        assert runs == [1]
        assert values == [[1]] * 60

    def test_who_blocks_and_joined_keeps_a_deadline_of_their_own(self):
        began, end = threading.Event(), threading.Event()

        @Tool(name="Demo.Thread", register=False, cache=Cache(ttl_s=60))
        def body():
            began.set()
            assert end.wait(30)
            return 1

        with executor_for(body) as executor, ThreadPoolExecutor(1) as pool:
            first = pool.submit(executor.call_sync, "Demo.Thread")
            assert began.wait(30)
            late = executor.execute_sync(create_tool_call("Demo.Thread", {}, deadline_s=0.05))
            end.set()

            assert first.result(30) == 1
        assert (late.status_code, late.failure.outcome) == (504, "not_run")

    def test_who_blocks_is_not_given_the_leaders_own_deadline(self):
        began, end, runs = threading.Event(), threading.Event(), []

        @Tool(name="Demo.Thread", register=False, cache=Cache(ttl_s=60))
        def body():
            runs.append(1)
            began.set()
            assert end.wait(30)
            return 1

        with executor_for(body) as executor, ThreadPoolExecutor(2) as pool:
            hasty = create_tool_call("Demo.Thread", {}, deadline_s=0.2)
            first = pool.submit(executor.execute_sync, hasty)
            assert began.wait(30)
            second = pool.submit(executor.call_sync, "Demo.Thread")
            late = first.result(30)
            while len(runs) < 2:
                threading.Event().wait(0.001)
            end.set()

            assert second.result(30) == 1
        assert late.status_code == 504

    async def test_a_body_that_calls_its_own_tool_does_not_wait_for_itself(self, clock):
        @Tool(name="Demo.Again", register=False, cache=Cache(ttl_s=60))
        async def again():
            again.depth += 1
            return again.depth if again.depth == 3 else await executor.call("Demo.Again")

        again.depth = 0
        with executor_for(again, clock=clock) as executor:
            assert await executor.call("Demo.Again") == 3

    async def test_who_asks_after_the_cache_was_cleared_is_not_given_what_began_before(self, clock):
        tool = gated()
        with executor_for(tool, clock=clock) as executor:
            first = asyncio.create_task(executor.call("Demo.Slow", n=1))
            await settled()
            executor.clear_cache()
            second = asyncio.create_task(executor.call("Demo.Slow", n=1))
            await settled()
            assert tool.runs == 2
            tool.go.set()
            await asyncio.gather(first, second)


def numbered(**cache):
    """A tool that gives 1, 2, 3 ... and fails while told so."""

    @Tool(name="Demo.Numbers", register=False, cache=Cache(**{"ttl_s": 10, **cache}))
    async def body(key: str = ""):
        body.runs += 1
        if body.gate is not None:
            await body.gate.wait()
        if body.error is not None:
            raise body.error
        return body.runs

    body.runs, body.error, body.gate = 0, None, None
    return body


class TestStale:
    async def test_a_stale_result_is_given_at_once_and_renewed_in_the_background(self, clock):
        tool = numbered(stale_s=30)
        with executor_for(tool, clock=clock) as executor:
            assert await executor.call("Demo.Numbers") == 1
            clock.advance(11)
            tool.gate = asyncio.Event()

            assert [await executor.call("Demo.Numbers") for _ in range(5)] == [1] * 5
            await settled()
            assert tool.runs == 2
            tool.gate.set()
            await settled()
            assert await executor.call("Demo.Numbers") == 2
            assert tool.runs == 2

    async def test_what_is_too_old_is_not_given(self, clock):
        tool = numbered(stale_s=30)
        with executor_for(tool, clock=clock) as executor:
            await executor.call("Demo.Numbers")
            clock.advance(41)

            assert await executor.call("Demo.Numbers") == 2

    async def test_who_comes_when_it_is_gone_waits_for_the_refresh_that_runs(self, clock):
        tool = numbered(stale_s=30)
        with executor_for(tool, clock=clock) as executor:
            await executor.call("Demo.Numbers")
            clock.advance(11)
            tool.gate = asyncio.Event()
            await executor.call("Demo.Numbers")
            clock.advance(30)
            calls = [asyncio.create_task(executor.call("Demo.Numbers")) for _ in range(3)]
            await settled()
            tool.gate.set()

            assert await asyncio.gather(*calls) == [2, 2, 2]
            assert tool.runs == 2

    async def test_a_refresh_that_fails_leaves_the_stale_result_and_is_told_once(self, clock, caplog):
        tool = numbered(stale_s=30, negative_s=30)
        with executor_for(tool, clock=clock) as executor:
            await executor.call("Demo.Numbers")
            tool.error = ValueError("upstream down")
            clock.advance(11)
            values = []
            for _ in range(4):
                values.append(await executor.call("Demo.Numbers"))
                await settled()
            tool.error = None
            await executor.call("Demo.Numbers")
            await settled()
            last = await executor.call("Demo.Numbers")

        assert (values, last) == ([1] * 4, 6)
        assert caplog.text.count("a stale result of Demo.Numbers could not be renewed") == 1

    async def test_a_refresh_does_not_see_what_the_caller_does_to_its_arguments(self, clock):
        seen, gate = [], asyncio.Event()

        parameters = {"items": {"type": "array"}}

        @Tool(name="Demo.Lists", register=False, parameters=parameters, cache=Cache(ttl_s=10, stale_s=30))
        async def body(items: list):
            if seen:
                await gate.wait()
            seen.append(list(items))
            return len(seen)

        with executor_for(body, clock=clock) as executor:
            items = ["a"]
            await executor.call("Demo.Lists", items=items)
            clock.advance(11)
            await executor.call("Demo.Lists", items=items)
            items.append("b")
            gate.set()
            await settled()

        assert seen == [["a"], ["a"]]

    def test_a_blocking_caller_is_not_held_up_by_the_refresh(self, clock):
        renewed, go = threading.Event(), threading.Event()
        runs = []

        @Tool(name="Demo.Blocks", register=False, cache=Cache(ttl_s=10, stale_s=30))
        def body():
            runs.append(1)
            if len(runs) == 2:
                assert go.wait(30)
                renewed.set()
            return len(runs)

        with executor_for(body, clock=clock) as executor:
            assert executor.call_sync("Demo.Blocks") == 1
            clock.advance(11)
            assert executor.call_sync("Demo.Blocks") == 1
            go.set()
            assert renewed.wait(30)
            refreshes = executor._services.the("refreshes", Refreshes)
            while len(refreshes):
                threading.Event().wait(0.001)

            assert executor.call_sync("Demo.Blocks") == 2

    async def test_a_refresh_has_the_tools_deadline(self, clock):
        tool = numbered(stale_s=30)
        with executor_for(tool, clock=clock, timeout=5) as executor:
            await executor.call("Demo.Numbers")
            clock.advance(11)
            tool.gate = asyncio.Event()
            await executor.call("Demo.Numbers")
            await settled()
            refreshes = executor._services.the("refreshes", Refreshes)
            assert len(refreshes) == 1
            clock.advance(5)
            await settled()

            assert len(refreshes) == 0

    async def test_closing_the_executor_cancels_refreshes(self, clock):
        tool = numbered(stale_s=30)
        with executor_for(tool, clock=clock) as executor:
            await executor.call("Demo.Numbers")
            clock.advance(11)
            tool.gate = asyncio.Event()
            await executor.call("Demo.Numbers")
            await settled()
            (task,) = executor._services.the("refreshes", Refreshes)._tasks.values()
        await settled()

        assert task.cancelled()

    async def test_a_refresh_left_on_a_loop_that_closed_holds_up_nobody(self, clock):
        tool = numbered(stale_s=30)

        async def ask():
            value = await executor.call("Demo.Numbers")
            await settled()
            return value

        def left_behind():
            loop = asyncio.new_event_loop()
            assert loop.run_until_complete(ask()) == 1
            loop.close()

        with executor_for(tool, clock=clock) as executor:
            await executor.call("Demo.Numbers")
            clock.advance(11)
            tool.gate = asyncio.Event()
            await asyncio.to_thread(left_behind)
            gc.collect()
            tool.gate = None
            clock.advance(31)

            assert await asyncio.wait_for(executor.call("Demo.Numbers"), 10) == 3

    async def test_a_refresh_has_a_place_and_the_resource_as_every_call_has(self, clock):
        inside, most, go = [], [], asyncio.Event()

        async def stays(key):
            inside.append(key)
            most.append(len(inside))
            if len(most) > 1:
                await go.wait()
            inside.pop()
            return len(most)

        reading = {"cache": Cache(ttl_s=10, stale_s=30), "concurrency": Concurrency(calls=1)}

        @Tool(name="Demo.Reads", register=False, exclusive=Exclusive(by="key"), **reading)
        async def reads(key: str):
            return await stays(key)

        @Tool(name="Demo.Writes", register=False, exclusive=Exclusive(by="key"))
        async def writes(key: str):
            return await stays(key)

        with executor_for(reads, writes, clock=clock) as executor:
            await executor.call("Demo.Reads", key="a")
            clock.advance(11)
            assert await executor.call("Demo.Reads", key="a") == 1
            writing = asyncio.create_task(executor.call("Demo.Writes", key="a"))
            await settled()
            crowded = await executor.execute_tool_call(create_tool_call("Demo.Reads", {"key": "b"}))
            assert (most, executor.get_lock("a").locked(), crowded.status_code) == ([1, 1], True, 429)
            go.set()
            for _ in range(20):
                clock.advance(0.5)
                await settled()
            await writing

        assert most == [1, 1, 1]

    def test_refreshes_for_blocking_callers_take_a_bounded_number_of_threads(self, clock):
        go = threading.Event()

        @Tool(name="Demo.Blocks", register=False, cache=Cache(ttl_s=10, stale_s=30), timeout_seconds=None)
        def blocks(n: int):
            if blocks.waits:
                go.wait(30)
            return n

        blocks.waits = False
        with executor_for(blocks, clock=clock, timeout=None, max_workers=200) as executor:
            refreshes = executor._services.the("refreshes", Refreshes)
            for n in range(MAX_THREADS * 2):
                executor.call_sync("Demo.Blocks", n=n)
            clock.advance(11)
            blocks.waits = True
            for n in range(MAX_THREADS * 2):
                assert executor.call_sync("Demo.Blocks", n=n) == n
            assert len(refreshes) == MAX_THREADS

            go.set()
            while len(refreshes) or refreshes._threads:
                threading.Event().wait(0.001)
            executor.call_sync("Demo.Blocks", n=MAX_THREADS * 2 - 1)
            while len(refreshes):
                threading.Event().wait(0.001)


class TestNegative:
    async def test_nobody_shares_what_a_failure_says(self, clock):
        tool = gated(
            cache=Cache(ttl_s=60, negative_s=5), answer=lambda n: raising(ToolError("no", details={"seen": [n]}))
        )
        tool.go.set()
        with executor_for(tool, clock=clock) as executor:
            for _ in range(3):
                failure = (await executor.execute_tool_call(create_tool_call("Demo.Slow", {"n": 1}))).failure
                assert failure.details["seen"] == [1]
                failure.details["seen"].append("spoilt")

    @pytest.mark.parametrize(
        "error", [ToolError("no such order", code="NOT_FOUND", details={"id": 7}), ValueError("no such order")]
    )
    async def test_the_tools_own_answer_is_given_again(self, clock, error):
        tool = numbered(negative_s=5)
        tool.error = error
        with executor_for(tool, clock=clock) as executor:
            first, second = [await executor.execute_tool_call(create_tool_call("Demo.Numbers", {})) for _ in "ab"]
            assert tool.runs == 1
            clock.advance(5)
            await executor.execute_tool_call(create_tool_call("Demo.Numbers", {}))
            assert tool.runs == 2

        assert (first.source, second.source) == ("run", "cache")
        assert second.failure.details == {**first.failure.details, "cached": True}
        for field in ("code", "message", "status", "error_type", "retryable", "outcome"):
            assert getattr(second.failure, field) == getattr(first.failure, field)

    @pytest.mark.parametrize(
        "error",
        [
            ToolError("busy", retryable=True),
            ConnectionResetError("gone"),
            TimeoutError("slow"),
            ToolTimeoutError("slow"),
            asyncio.CancelledError(),
        ],
    )
    async def test_what_passes_is_never_kept(self, clock, error):
        tool = numbered(negative_s=5)
        tool.error = error
        with executor_for(tool, clock=clock) as executor:
            for _ in "ab":
                await executor.execute_tool_call(create_tool_call("Demo.Numbers", {}))

        assert tool.runs == 2

    async def test_failures_are_not_kept_unless_asked_for(self, clock):
        tool = numbered()
        tool.error = ToolError("no")
        with executor_for(tool, clock=clock) as executor:
            for _ in "ab":
                await executor.execute_tool_call(create_tool_call("Demo.Numbers", {}))

        assert tool.runs == 2

    async def test_a_kept_failure_is_of_one_scope(self, clock):
        tool = numbered(negative_s=5, per="user")
        tool.error = ToolError("not for you")
        with executor_for(tool, clock=clock) as executor:
            for user in ("ann", "bob"):
                await executor.execute_tool_call(create_tool_call("Demo.Numbers", {}, user_id=user))

        assert tool.runs == 2

    async def test_raising_it_does_not_change_what_is_kept(self, clock):
        tool = numbered(negative_s=5)
        tool.error = ToolError("no", details={"a": 1})
        with executor_for(tool, clock=clock) as executor:
            for _ in range(3):
                with pytest.raises(ToolError) as caught:
                    await executor.call("Demo.Numbers")
                caught.value.details["a"] = 2
                depth = len(caught.traceback)
            with pytest.raises(ToolError) as last:
                await executor.call("Demo.Numbers")

        assert last.value.details == {"a": 1, "cached": True}
        assert len(last.traceback) == depth


def shop(**cache):
    """A tool that reads an order, and one that changes it."""
    orders = {"1": 0, "2": 0}

    @Tool(name="Shop.Read", register=False, cache=Cache(**{"ttl_s": 60, "tags": ("order:{order}", "orders"), **cache}))
    async def read(order: str):
        read.runs += 1
        value = orders[order]
        if read.gate is not None:
            await read.gate.wait()
        return value

    @Tool(name="Shop.Write", register=False, invalidates=("order:{order}",))
    async def write(order: str, fail: bool = False):
        orders[order] += 1
        if fail:
            raise ValueError("after the effect")
        return orders[order]

    @Tool(name="Shop.Close", register=False, invalidates=("orders",))
    def close():
        orders.update({"1": -1, "2": -1})

    read.runs, read.gate = 0, None
    return read, write, close


class TestTags:
    async def test_a_write_makes_void_what_it_names_and_nothing_else(self, clock):
        read, write, close = shop()
        with executor_for(read, write, close, clock=clock) as executor:
            assert [await executor.call("Shop.Read", order=o) for o in "12"] == [0, 0]
            await executor.call("Shop.Write", order="1")

            assert [await executor.call("Shop.Read", order=o) for o in "12"] == [1, 0]
            assert read.runs == 3
            await executor.call("Shop.Close")
            assert [await executor.call("Shop.Read", order=o) for o in "12"] == [-1, -1]

    async def test_a_write_that_failed_after_its_body_began_makes_void_too(self, clock):
        read, write, close = shop()
        with executor_for(read, write, close, clock=clock) as executor:
            await executor.call("Shop.Read", order="1")
            with pytest.raises(OperationError):
                await executor.call("Shop.Write", order="1", fail=True)

            assert await executor.call("Shop.Read", order="1") == 1

    async def test_a_write_that_was_refused_makes_nothing_void(self, clock):
        read, write, close = shop()
        with executor_for(read, write, close, clock=clock) as executor:
            await executor.call("Shop.Read", order="1")
            await executor.execute_tool_call(create_tool_call("Shop.Write", {"order": "1", "fail": "x"}))
            await executor.call("Shop.Read", order="1")

        assert read.runs == 1

    async def test_a_write_whose_body_never_ran_makes_nothing_void(self, clock):
        read, _, _ = shop()

        @Tool(name="Shop.Broken", register=False, invalidates=("orders",), breaker=Breaker(failures=1))
        async def broken():
            raise ConnectionError("down")

        with executor_for(read, broken, clock=clock) as executor:
            assert (await executor.execute_tool_call(create_tool_call("Shop.Broken", {}))).status_code == 500
            await executor.call("Shop.Read", order="1")
            assert (await executor.execute_tool_call(create_tool_call("Shop.Broken", {}))).status_code == 503
            await executor.call("Shop.Read", order="1")

        assert read.runs == 1

    async def test_what_was_read_before_a_write_is_not_kept_after_it(self, clock):
        read, write, close = shop()
        with executor_for(read, write, close, clock=clock) as executor:
            read.gate = asyncio.Event()
            early = asyncio.create_task(executor.call("Shop.Read", order="1"))
            await settled()
            await executor.call("Shop.Write", order="1")
            late = asyncio.create_task(executor.call("Shop.Read", order="1"))
            await settled()
            read.gate.set()

            assert (await early, await late) == (0, 1)
            assert await executor.call("Shop.Read", order="1") == 1

    async def test_a_stale_entry_that_is_void_is_not_given(self, clock):
        read, write, close = shop(ttl_s=10, stale_s=60)
        with executor_for(read, write, close, clock=clock) as executor:
            await executor.call("Shop.Read", order="1")
            clock.advance(11)
            await executor.call("Shop.Write", order="1")

            assert await executor.call("Shop.Read", order="1") == 1

    async def test_writes_count_while_the_cache_is_off(self, clock):
        read, write, close = shop()
        with executor_for(read, write, close, clock=clock) as executor:
            await executor.call("Shop.Read", order="1")
            executor.config.enable_cache = False
            await executor.call("Shop.Write", order="1")
            executor.config.enable_cache = True

            assert await executor.call("Shop.Read", order="1") == 1

    def test_a_body_given_up_in_its_thread_makes_void_when_it_really_ends(self):
        end, value = threading.Event(), [0]

        @Tool(name="Late.Read", register=False, cache=Cache(ttl_s=600, tags=("v",)))
        async def read():
            return value[0]

        @Tool(name="Late.Write", register=False, invalidates=("v",), timeout_seconds=0.05)
        def write():
            assert end.wait(30)
            value[0] = 1

        with executor_for(read, write) as executor:
            with pytest.raises(ToolTimeoutError):
                executor.call_sync("Late.Write")
            assert executor.call_sync("Late.Read") == 0
            end.set()
            tags = executor._services.the("tags", Tags)
            while tags.now < 2:
                threading.Event().wait(0.001)

            assert executor.call_sync("Late.Read") == 1

    @pytest.mark.parametrize(
        ("template", "why"),
        [
            ("order:{oder}", "no parameter 'oder'; there are order"),
            ("order:{order!r}", "braces"),
            ("order:{", "template"),
        ],
    )
    async def test_a_template_that_cannot_be_filled_is_a_mistake_of_the_author(self, template, why):
        @Tool(name="Bad.Read", register=False, cache=Cache(ttl_s=60, tags=(template,)))
        async def read(order: str):
            return order

        with executor_for(read) as executor, pytest.raises(ConfigurationError, match=why):
            await executor.call("Bad.Read", order="1")

    async def test_a_number_and_its_text_are_one_tag(self, clock):
        runs = []

        @Tool(name="Num.Read", register=False, cache=Cache(ttl_s=60, tags=("order:{order}",)))
        async def read(order: int):
            runs.append(order)

        @Tool(name="Num.Write", register=False, invalidates=("order:{id}",))
        async def write(id: str):
            return id

        with executor_for(read, write, clock=clock) as executor:
            await executor.call("Num.Read", order=5)
            await executor.call("Num.Write", id="5")
            await executor.call("Num.Read", order=5)

        assert runs == [5, 5]

    @given(st.lists(st.tuples(st.sampled_from(["read", "void"]), st.integers(0, 5)), max_size=80), st.integers(1, 8))
    def test_what_was_made_void_since_never_holds_however_few_marks_are_kept(self, steps, max_tags):
        tags, read, void_since = Tags(max_tags), {}, set()
        for what, number in steps:
            if what == "void":
                tags.void((f"t{number}",))
                void_since.add(number)
            else:
                read[number] = tags.now
                void_since.discard(number)
                assert tags.hold((f"t{number}",), tags.now)
            for other, since in read.items():
                if other in void_since:
                    assert not tags.hold(("t9", f"t{other}"), since)
                elif max_tags > 6:
                    assert tags.hold((f"t{other}",), since)
            assert len(tags._voided) <= max_tags


class TestExplained:
    async def test_what_the_cache_decided_is_said(self, clock):
        tool = numbered(stale_s=30)
        with executor_for(tool, clock=clock) as executor:
            said = []
            for wait_s in (0, 0, 11):
                clock.advance(wait_s)
                result = await executor.execute_tool_call(create_tool_call("Demo.Numbers", {}), explain=True)
                said.append(next(s["decision"] for s in result.explanation if s["stage"] == "cache"))
            await settled()

        assert said == ["miss", "hit", "stale"]
