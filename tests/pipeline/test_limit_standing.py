"""limits_of: how a tool's rate limits stand for a caller, over both kinds of buckets, spending nothing."""

import pytest

from tests.pipeline.test_limit import Remote, call, tool
from toolpost import RateLimit, create_tool_call
from toolpost.calls.errors import StoreUnavailableError
from toolpost.pipeline.limit_standing import LimitStanding
from toolpost.stores.pending import Pending
from toolpost.testing import FakeClock, executor_for

TWO = [RateLimit(calls=10, per_s=10.0), RateLimit(calls=5, per_s=100.0, by="tool", burst=3)]


async def standings(executor, name="Demo.Echo", user="ann", version=None):
    return await executor.limits_of(create_tool_call(name, {}, user_id=user, version=version))


@pytest.mark.parametrize("shared", [False, True])
async def test_each_limit_says_what_is_left_and_when_it_is_whole_again(shared):
    clock = FakeClock()
    state = Remote(clock=clock) if shared else None
    with executor_for(tool(rate_limit=TWO), clock=clock, state=state) as executor:
        before = await standings(executor)
        for user in ("ann", "ann", "bob", "ann"):
            await call(executor, user=user)
        after, again, others = [await standings(executor, user=user) for user in ("ann", "ann", "bob")]
        clock.advance(0.5)
        later = await standings(executor)

    assert before == [
        LimitStanding(name="user", quota=10, window_s=10.0, remaining=10, reset_s=0.0),
        LimitStanding(name="tool", quota=5, window_s=100.0, remaining=3, reset_s=0.0),
    ]
    assert [(limit.remaining, limit.reset_s) for limit in after] == [(8, pytest.approx(2.0)), (0, pytest.approx(60.0))]
    assert again == after
    assert [limit.remaining for limit in others] == [9, 0]
    assert [(limit.remaining, limit.reset_s) for limit in later] == [(8, pytest.approx(1.5)), (0, pytest.approx(59.5))]


async def test_over_redis_it_is_one_round_trip_and_the_bucket_that_calls_take_from(redis_url):
    with executor_for(tool(rate_limit=TWO), state_url=redis_url) as executor:
        await call(executor, user="ann")
        before = executor.state.batches
        found = await standings(executor)

        assert executor.state.batches == before + 1

    assert [limit.remaining for limit in found] == [9, 2]


async def test_the_executors_own_limit_and_several_of_one_kind_have_names_of_their_own():
    limits = [RateLimit(calls=10), RateLimit(calls=100, per_s=3600.0), RateLimit(calls=7, by="global")]
    with executor_for(tool(rate_limit=limits), max_calls_per_minute=30, clock=FakeClock()) as executor:
        found = await standings(executor)

    assert [(limit.name, limit.quota) for limit in found] == [
        ("user", 10), ("user-2", 100), ("global", 7), ("default", 30)
    ]  # fmt: skip


@pytest.mark.parametrize("shared", [False, True])
@pytest.mark.parametrize(
    ("rates", "general", "name"),
    [
        ([RateLimit(calls=1)], None, "user"),
        ([RateLimit(calls=9), RateLimit(calls=1, by="tool")], None, "tool"),
        ([RateLimit(calls=9), RateLimit(calls=1, per_s=3600.0)], None, "user-2"),
        ([RateLimit(calls=1, by=lambda caller, arguments: "k")], None, "key"),
        ([], 1, "default"),
    ],
)
async def test_a_refusal_has_the_name_of_the_limit(shared, rates, general, name):
    clock = FakeClock()
    more = {"state": Remote(clock=clock)} if shared else {}
    settings = {} if general is None else {"max_calls_per_minute": general}
    with executor_for(tool(rate_limit=rates), clock=clock, **more, **settings) as executor:
        results = [await executor.execute_tool_call(create_tool_call("Demo.Echo", {})) for _ in range(2)]

    assert results[0].success
    assert results[1].failure.code == "rate_limited"
    assert results[1].failure.details == {"limit": name}


async def test_a_changed_setting_is_seen():
    with executor_for(tool(), max_calls_per_minute=30, clock=FakeClock()) as executor:
        before = await standings(executor)
        executor.config.max_calls_per_minute = 60
        after = await standings(executor)

    assert [limit.quota for limit in before + after] == [30, 60]


@pytest.mark.parametrize("rate", [None, [], [RateLimit(calls=1, by=lambda caller, arguments: "k")]])
async def test_where_there_is_nothing_to_tell_the_store_is_not_asked(rate):
    class Unasked(Remote):
        def left(self, buckets):
            raise AssertionError("it was asked")

    with executor_for(tool(rate_limit=rate), state=Unasked(clock=FakeClock())) as executor:
        assert await standings(executor) == []
        assert await standings(executor, "Demo.None") == []


async def test_a_store_that_is_out_of_reach_leaves_them_out():
    class Away(Remote):
        def left(self, buckets):
            pending = Pending()
            pending.error = StoreUnavailableError("the store is out of reach")
            pending._done = True
            return pending

    with executor_for(tool(rate_limit=TWO), state=Away(clock=FakeClock())) as executor:
        assert await standings(executor) == []
