"""RateLimit: whose bucket a call takes from, what a refusal says, and what happens when no bucket can be reached."""

import asyncio
import sys
import threading
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given, strategies as st

from toolpost import PermissionDeniedError, RateLimit, RateLimitError, Tool, create_tool_call
from toolpost.calls.errors import StoreUnavailableError
from toolpost.stores.memory import TokenBuckets
from toolpost.stores.memory_state import MemoryState
from toolpost.stores.pending import Pending
from toolpost.testing import FakeClock, executor_for


def tool(name="Demo.Echo", **options):
    ran = []

    @Tool(name=name, register=False, **options)
    def echo(order: str = ""):
        ran.append(order)
        return order

    echo.ran = ran
    return echo


async def call(executor, name="Demo.Echo", user=None, tenant=None, **arguments):
    result = await executor.execute_tool_call(create_tool_call(name, arguments, user_id=user, tenant=tenant))
    return result.status_code


class TestWhose:
    @pytest.mark.parametrize(
        ("by", "expected"),
        [
            ("user", [200, 429, 200, 200, 200]),
            ("tenant", [200, 429, 429, 200, 200]),
            ("tool", [200, 429, 429, 429, 200]),
            ("global", [200, 429, 429, 429, 429]),
        ],
    )
    async def test_calls_share_a_bucket_with_their_like(self, by, expected):
        rate = RateLimit(calls=1, per_s=3600, by=by)
        with executor_for(tool(rate_limit=rate), tool("Demo.Other", rate_limit=rate), clock=FakeClock()) as executor:
            statuses = [
                await call(executor, user="ann", tenant="t"),
                await call(executor, user="ann", tenant="t"),
                await call(executor, user="bob", tenant="t"),
                await call(executor, user="ann", tenant="u"),
                await call(executor, "Demo.Other", user="ann", tenant="t"),
            ]

        assert statuses == expected

    async def test_a_key_of_ones_own_and_none_for_no_limit(self):
        rate = RateLimit(calls=1, per_s=3600, by=lambda caller, arguments: arguments["order"] or None)
        with executor_for(tool(rate_limit=rate), clock=FakeClock()) as executor:
            statuses = [await call(executor, order=order) for order in ("a", "b", "a", "", "", "")]

        assert statuses == [200, 200, 429, 200, 200, 200]

    @pytest.mark.parametrize("key", [lambda caller, arguments: 1 / 0, lambda caller, arguments: ["list"]])
    async def test_a_key_that_breaks_refuses(self, key):
        made = tool(rate_limit=RateLimit(calls=9, by=key))
        with executor_for(made, clock=FakeClock()) as executor:
            with pytest.raises(PermissionDeniedError, match="the rate limit's key failed"):
                await executor.call("Demo.Echo")

        assert made.ran == []

    async def test_a_burst_smaller_than_the_calls_spreads_them(self):
        clock = FakeClock()
        with executor_for(tool(rate_limit=RateLimit(calls=60, burst=2)), clock=clock) as executor:
            first = [await call(executor) for _ in range(3)]
            clock.advance(1)
            later = [await call(executor) for _ in range(2)]

        assert first == [200, 200, 429]
        assert later == [200, 429]

    async def test_several_rates_hold_together_and_a_refusal_takes_from_none(self):
        clock = FakeClock()
        rates = (RateLimit(calls=1, per_s=1), RateLimit(calls=3, per_s=3600))
        with executor_for(tool(rate_limit=rates), clock=clock) as executor:
            statuses = []
            for _ in range(5):
                statuses.append([await call(executor), await call(executor)])
                clock.advance(1)

        assert statuses[:3] == [[200, 429]] * 3
        assert statuses[3:] == [[429, 429]] * 2

    async def test_two_equal_rates_are_two_buckets(self):
        rates = (RateLimit(calls=2), RateLimit(calls=2))
        with executor_for(tool(rate_limit=rates), clock=FakeClock()) as executor:
            assert [await call(executor) for _ in range(3)] == [200, 200, 429]

    async def test_none_frees_a_tool_from_the_general_rate(self):
        with executor_for(tool(rate_limit=None), clock=FakeClock(), max_calls_per_minute=1) as executor:
            assert [await call(executor) for _ in range(3)] == [200] * 3

    async def test_the_refusal_names_the_limit_and_when_to_come_again(self):
        with executor_for(tool(rate_limit=RateLimit(calls=2, per_s=10, by="tenant")), clock=FakeClock()) as executor:
            for _ in range(2):
                await call(executor, tenant="acme")
            result = await executor.execute_tool_call(create_tool_call("Demo.Echo", {}, tenant="acme"))

        assert result.error == (
            "Rate limit exceeded. Too many tool calls per 10 s: 2 for tenant 'acme'; retry in 5.0 s"
        )
        assert (result.failure.retry_after_s, result.failure.outcome) == (pytest.approx(5.0), "not_run")

    @given(
        st.lists(st.tuples(st.sampled_from("abc"), st.floats(0, 5)), max_size=60),
        st.integers(1, 5),
        st.integers(1, 5),
        st.floats(0.5, 20),
    )
    def test_no_user_is_ever_granted_more_than_burst_and_rate_times_time(self, steps, calls, burst, per_s):
        clock = FakeClock()
        granted, now = dict.fromkeys("abc", 0), 0.0
        rate = RateLimit(calls=calls, per_s=per_s, burst=burst)

        async def go():
            nonlocal now
            with executor_for(tool(rate_limit=rate), clock=clock) as executor:
                for user, wait_s in steps:
                    clock.advance(wait_s)
                    now += wait_s
                    granted[user] += await call(executor, user=user) == 200
                    assert granted[user] <= burst + now * calls / per_s + 1e-6

        asyncio.run(go())


class Remote(MemoryState):
    """A mock: the state of one process, posing as one that several share; it counts what it is asked."""

    local = False

    def __init__(self, url="memory://", **options):
        super().__init__(url, **options)
        self.asked = []

    def take(self, buckets, /):
        self.asked.append(buckets)
        return super().take(buckets)


class Gone(Remote):
    """A mock of a store that cannot be reached."""

    def take(self, buckets, /):
        pending = Pending()
        pending.error = StoreUnavailableError("the store is out of reach")
        pending._done = True
        return pending


def using(executor, state):
    """Have an executor use a state."""
    executor._stores.state = state
    executor._reconfigured("retry_backoff")


class TestShared:
    async def test_all_rates_of_a_call_are_asked_for_at_once(self):
        clock = FakeClock()
        state = Remote(clock=clock)
        rates = (RateLimit(calls=1, per_s=3600), RateLimit(calls=5, by="tool"))
        with executor_for(tool(rate_limit=rates), clock=clock, max_calls_per_minute=9) as executor:
            using(executor, state)
            statuses = [await call(executor, user=user) for user in ("ann", "ann", "bob")]

        assert statuses == [200, 429, 200]
        assert [len(buckets) for buckets in state.asked] == [3, 3, 3]

    async def test_two_executors_share_the_buckets(self):
        clock = FakeClock()
        state = Remote(clock=clock)
        rate = RateLimit(calls=3)
        with (
            executor_for(tool(rate_limit=rate), clock=clock) as one,
            executor_for(tool(rate_limit=rate), clock=clock) as two,
        ):
            using(one, state)
            using(two, state)
            statuses = [await call(executor) for executor in (one, two, one, two)]

        assert statuses == [200, 200, 200, 429]

    async def test_a_store_out_of_reach_refuses_or_allows_as_the_policy_says(self, caplog):
        strict = tool("Demo.Strict", rate_limit=RateLimit(calls=9))
        lenient = tool("Demo.Lenient", rate_limit=RateLimit(calls=9, when_down="allow"))
        with executor_for(strict, lenient, clock=FakeClock()) as executor:
            using(executor, Gone(clock=FakeClock()))
            results = [await executor.execute_tool_call(create_tool_call("Demo.Strict", {})) for _ in range(3)]
            allowed = await call(executor, "Demo.Lenient")

        assert [(r.status_code, r.failure.outcome) for r in results] == [(503, "not_run")] * 3
        assert strict.ran == []
        assert allowed == 200
        assert caplog.text.count("limits cannot be kept") == 1

    @given(st.lists(st.tuples(*[st.none() | st.text(max_size=3)] * 2), min_size=2, max_size=2, unique=True))
    def test_two_users_never_share_a_shared_bucket(self, callers):
        clock = FakeClock()
        state = Remote(clock=clock)

        async def go():
            with executor_for(tool(rate_limit=RateLimit(calls=9)), clock=clock) as executor:
                using(executor, state)
                for tenant, user in callers:
                    await call(executor, user=user, tenant=tenant)

        asyncio.run(go())
        assert len({buckets[0][0] for buckets in state.asked}) == 2

    async def test_over_redis_the_bucket_is_one_for_all_and_takes_one_round_trip_a_call(self, redis_url):
        rate = RateLimit(calls=10, per_s=3600)
        with (
            executor_for(tool(rate_limit=rate), state_url=redis_url) as one,
            executor_for(tool(rate_limit=rate), state_url=redis_url) as two,
        ):
            await one._services.state.ping()
            before = one._services.state.batches
            statuses = [await call(one) for _ in range(6)]
            trips = one._services.state.batches - before
            statuses += await asyncio.gather(*[call(two) for _ in range(10)])

        assert (statuses.count(200), statuses.count(429)) == (10, 6)
        assert trips == 6

    def test_over_redis_blocking_callers_take_from_the_same_bucket(self, redis_url):
        with executor_for(tool(rate_limit=RateLimit(calls=10, per_s=3600)), state_url=redis_url) as executor:

            def one(_):
                try:
                    executor.call_sync("Demo.Echo")
                except RateLimitError:
                    return 429
                return 200

            with ThreadPoolExecutor(8) as pool:
                statuses = list(pool.map(one, range(30)))

        assert statuses.count(200) == 10


def test_many_users_take_bounded_memory():
    buckets = TokenBuckets(FakeClock().monotonic, max_keys=1000)
    for n in range(10_000):
        buckets.take((("tool", "T", "0"), (None, f"user{n}")), rate=1, burst=5)

    assert len(buckets._buckets) == 1000
    assert sys.getsizeof(buckets._buckets) < 200_000


def test_threads_of_many_users_never_exceed_any_users_bucket():
    granted, lock = {}, threading.Lock()
    with executor_for(tool(rate_limit=RateLimit(calls=5, per_s=3600)), clock=FakeClock()) as executor:

        def one(n):
            user = f"user{n % 20}"
            result = executor.execute_sync(create_tool_call("Demo.Echo", {}, user_id=user))
            with lock:
                granted[user] = granted.get(user, 0) + result.success

        with ThreadPoolExecutor(8) as pool:
            list(pool.map(one, range(400)))

    assert granted == {f"user{n}": 5 for n in range(20)}
