"""steps: what never suspends costs no coroutine, and what does goes on as if it had been awaited."""

import asyncio
import contextvars

import pytest

from toolpost import Cache, Concurrency, Idempotency, RateLimit, Retry, Timeout, Tool, create_tool_call, policy
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.steps import stepped
from toolpost.testing import executor_for


def invocation():
    return Invocation.of({})


def at_once(value):
    async def body(inv):
        return value

    return stepped(body)


async def test_a_value_that_is_there_at_once_comes_in_the_invocation():
    inv = invocation()

    assert at_once(3)(inv) is inv
    assert inv.value == 3


async def test_a_handler_that_answers_so_already_is_left_as_it_is():
    handler = at_once(3)

    assert stepped(handler) is handler


async def test_a_body_that_suspends_goes_on_when_it_is_awaited():
    async def body(inv):
        for _ in range(3):
            await asyncio.sleep(0)
        return 3

    work = stepped(body)(invocation())

    assert await work == 3


async def test_what_a_body_raises_comes_out_before_and_after_it_has_suspended():
    async def body(inv):
        if inv.arguments:
            await asyncio.sleep(0)
        raise KeyError("no")

    handler = stepped(body)

    with pytest.raises(KeyError):
        handler(invocation())
    with pytest.raises(KeyError):
        await handler(Invocation.of({"suspend": True}))


async def test_a_body_that_has_suspended_is_cancelled_with_its_caller_and_may_clean_up():
    begun, ended = asyncio.Event(), []

    async def body(inv):
        try:
            begun.set()
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            ended.append("cleaned up")

    async def call():
        return await stepped(body)(invocation())

    task = asyncio.create_task(call())
    await begun.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task

    assert ended == ["cleaned up"]


def test_closing_what_has_suspended_closes_the_body():
    closed = []

    async def body(inv):
        try:
            await asyncio.sleep(0)
        except GeneratorExit:
            closed.append(True)
            raise

    work = stepped(body)(invocation())
    work.send(None)
    work.close()

    assert closed == [True]


async def test_a_body_sees_one_context_before_and_after_it_suspends():
    variable = contextvars.ContextVar("variable")

    async def body(inv):
        variable.set("set")
        await asyncio.sleep(0)
        return variable.get()

    assert await stepped(body)(invocation()) == "set"


@pytest.mark.parametrize("suspends", [False, True])
async def test_all_policies_together_give_what_the_body_gives_and_run_it_once(suspends):
    runs = []

    @Tool(name="Demo.All", register=False)
    @policy(
        RateLimit(calls=10),
        Concurrency(calls=2, wait_s=None),
        Idempotency(),
        Cache(ttl_s=60),
        Retry(attempts=2),
        Timeout(total_s=20, attempt_s=10),
    )
    async def body(n: int):
        runs.append(n)
        if suspends:
            await asyncio.sleep(0)
        return n

    with executor_for(body) as executor:
        calls = [create_tool_call("Demo.All", {"n": 1}) for _ in range(3)]
        results = await asyncio.gather(*map(executor.execute_tool_call, calls))
        again = await executor.execute_tool_call(create_tool_call("Demo.All", {"n": 1}))

    assert [result.data["result"] for result in (*results, again)] == [1] * 4
    assert (runs, again.source) == ([1], "replay")


class TestRoundTrips:
    """Over Redis, limit, once and cache make one round trip each at most; what the order allows travels together."""

    def executor(self, tool, redis_url):
        return executor_for(tool, state_url=redis_url, cache_backend="redis", cache_front_ttl=0.0)

    def tool(self):
        @Tool(
            name="Demo.Three",
            register=False,
            rate_limit=RateLimit(calls=1000),
            idempotency=Idempotency(),
            cache=Cache(ttl_s=60, per="user"),
        )
        async def three(n: int):
            return n

        return three

    async def trips(self, executor, **fields):
        state = executor._stores.state
        await state.ping()
        before = state.batches
        result = await executor.execute_tool_call(create_tool_call("Demo.Three", {"n": 1}, user_id="u", **fields))
        await state.ping()  # so that what nobody waits for is done, and counted, too
        return result.source, state.batches - before - 1

    async def test_a_first_run_a_cached_one_and_a_replay(self, redis_url):
        with self.executor(self.tool(), redis_url) as executor:
            first = await self.trips(executor, idempotency_key="first")
            hits = [await self.trips(executor, idempotency_key=f"hit {n}") for n in range(5)]
            replays = [await self.trips(executor, idempotency_key="first") for _ in range(5)]

        assert first[0] == "run"
        assert {source for source, _ in hits} == {"cache"}
        assert {source for source, _ in replays} == {"replay"}
        # What is asked at once travels at once, unless the machine is so busy that the store's thread comes in between.
        assert min(trips for _, trips in hits) == 3
        assert min(trips for _, trips in replays) == 2

    async def test_a_miss_asks_for_its_claim_and_its_value_at_once_and_tells_both_at_once(self, redis_url):
        with self.executor(self.tool(), redis_url) as executor:
            misses = []
            for n in range(5):
                executor.clear_cache()
                misses.append(await self.trips(executor, idempotency_key=f"miss {n}"))

        assert {source for source, _ in misses} == {"run"}
        assert min(trips for _, trips in misses) == 3

    async def test_what_was_asked_ahead_is_not_given_after_the_cache_was_cleared(self, redis_url):
        with self.executor(self.tool(), redis_url) as executor:
            await self.trips(executor, idempotency_key="a")
            executor.clear_cache()
            source, _ = await self.trips(executor, idempotency_key="b")

        assert source == "run"
