"""Places, Concurrency and Exclusive: never more than allowed, first come first served, nothing lost, nothing leaked."""

import asyncio
import os
import subprocess
import sys
import textwrap
import threading
import weakref
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from toolpost import (
    Breaker,
    Concurrency,
    ConcurrencyLimitError,
    ConfigurationError,
    Exclusive,
    PermissionDeniedError,
    RateLimit,
    StoreUnavailableError,
    Tool,
    ToolTimeoutError,
    create_tool_call,
)
from toolpost.calls.clock import SYSTEM_CLOCK
from toolpost.pipeline import breaker, holding, limit
from toolpost.pipeline.leases import Leases
from toolpost.pipeline.places import Pace, Places
from toolpost.stores.memory_state import MemoryState
from toolpost.stores.pending import Pending
from toolpost.testing import FakeClock, executor_for


class PlacesModel(RuleBasedStateMachine):
    """Against a list of who is in and a list of who waits, in order."""

    def __init__(self):
        super().__init__()
        self.places = Places()
        self.inside, self.line, self.left = [], [], []

    @rule()
    def enter(self):
        place = self.places.enter("k", 2)
        if len(self.inside) < 2 and not self.line:
            assert place.had
            self.inside.append(place)
        else:
            assert not place.had
            self.line.append(place)

    @precondition(lambda self: self.inside)
    @rule(data=st.data())
    def leave(self, data):
        place = data.draw(st.sampled_from(self.inside))
        place.leave()
        self.inside.remove(place)
        self.left.append(place)
        if self.line:
            self.inside.append(self.line.pop(0))

    @precondition(lambda self: self.line)
    @rule(data=st.data())
    def give_up(self, data):
        place = data.draw(st.sampled_from(self.line))
        place.leave()
        self.line.remove(place)
        self.left.append(place)

    @precondition(lambda self: self.left)
    @rule(data=st.data())
    def leave_again(self, data):
        data.draw(st.sampled_from(self.left)).leave()

    @invariant()
    def it_is_as_in_the_model(self):
        assert [place.had for place in self.inside] == [True] * len(self.inside)
        assert [place.had for place in self.line] == [False] * len(self.line)
        assert (self.places.taken("k"), self.places.ahead("k")) == (len(self.inside), len(self.line))
        assert len(self.places) == (1 if self.inside else 0)


TestPlacesModel = PlacesModel.TestCase


class TestPlaces:
    async def test_whoever_waits_is_let_in_in_the_order_of_arrival(self):
        places, order = Places(), []
        first = places.enter("k", 1)

        async def wait(number):
            place = places.enter("k", 1)
            assert await place.wait(SYSTEM_CLOCK, None)
            order.append(number)
            place.leave()

        tasks = [asyncio.create_task(wait(number)) for number in range(5)]
        await asyncio.sleep(0)
        first.leave()
        await asyncio.gather(*tasks)

        assert order == [0, 1, 2, 3, 4]
        assert len(places) == 0

    async def test_a_waiter_that_is_cancelled_as_its_turn_comes_passes_the_place_on(self):
        places = Places()
        first, second, third = (places.enter("k", 1) for _ in range(3))
        waiting = asyncio.create_task(second.wait(SYSTEM_CLOCK, None))
        await asyncio.sleep(0)

        first.leave()  # the place is second's now, but its task has not seen it
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        second.leave()

        assert third.had
        third.leave()
        assert len(places) == 0

    async def test_time_is_up_without_a_place(self):
        clock, places = FakeClock(), Places()
        places.enter("k", 1)
        place = places.enter("k", 1)
        waiting = asyncio.create_task(place.wait(clock, 2))
        await asyncio.sleep(0)
        clock.advance(2)

        assert not await waiting
        place.leave()
        assert places.ahead("k") == 0

    def test_a_waiter_whose_loop_is_closed_holds_nobody_up(self):
        places = Places()
        first = places.enter("k", 1)

        async def begin():
            place = places.enter("k", 1)
            waiting = asyncio.get_running_loop().create_task(place.wait(SYSTEM_CLOCK, None))
            await asyncio.sleep(0)
            return place, waiting

        loop = asyncio.new_event_loop()
        dead, waiting = loop.run_until_complete(begin())
        loop.run_until_complete(asyncio.sleep(0))
        last = places.enter("k", 1)
        waiting.cancel()
        loop.run_until_complete(asyncio.gather(waiting, return_exceptions=True))
        loop.close()
        first.leave()

        assert last.had
        assert not dead.had

    def test_threads_and_loops_together_never_are_more_than_the_limit(self):
        places, inside, most, done = Places(), 0, 0, 0
        lock = threading.Lock()

        def work_in(seed):
            nonlocal inside, most, done
            with lock:
                inside += 1
                most = max(most, inside)
            with lock:
                inside -= 1
                done += 1

        def in_thread(seed):
            for n in range(150):
                place = places.enter("k", 3)
                timeout_s = 0.0001 if (n + seed) % 7 == 0 else None
                if place.had or place.wait_blocking(SYSTEM_CLOCK, timeout_s):
                    work_in(seed)
                place.leave()

        async def one(n, seed):
            place = places.enter("k", 3)
            try:
                if place.had or await place.wait(SYSTEM_CLOCK, 0.0001 if (n + seed) % 5 == 0 else None):
                    work_in(seed)
                    await asyncio.sleep(0)
            finally:
                place.leave()

        async def many(seed):
            tasks = [asyncio.create_task(one(n, seed)) for n in range(150)]
            await asyncio.sleep(0)
            for task in tasks[::11]:
                task.cancel()
            await asyncio.gather(*tasks, return_exceptions=True)

        threads = [threading.Thread(target=in_thread, args=(seed,)) for seed in range(4)]
        threads += [threading.Thread(target=lambda seed=seed: asyncio.run(many(seed))) for seed in range(3)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(30)

        assert not any(thread.is_alive() for thread in threads)
        assert (inside, len(places)) == (0, 0)
        assert most <= 3
        assert done > 500

    def test_the_guess_follows_how_long_places_are_held(self):
        pace = Pace()
        for _ in range(50):
            pace.held(4.0)

        assert pace.guess_s(0, 2) == pytest.approx(4.0)
        assert pace.guess_s(5, 2) == pytest.approx(12.0)


def slow(name="Demo.Slow", **policies):
    """A tool that says when it began and ends when it is told."""
    began, end = asyncio.Event(), asyncio.Event()

    @Tool(name=name, register=False, **policies)
    async def body(order: str = "", fail: bool = False):
        began.set()
        body.inside += 1
        body.most = max(body.most, body.inside)
        try:
            await end.wait()
        finally:
            body.inside -= 1
        if fail:
            raise ValueError("no")
        return "done"

    body.began, body.end, body.inside, body.most = began, end, 0, 0
    return body


async def settled():
    for _ in range(20):
        await asyncio.sleep(0)


class TestConcurrency:
    async def test_one_too_many_is_refused_at_once(self):
        tool = slow(concurrency=Concurrency(calls=1))
        with executor_for(tool, clock=FakeClock()) as executor:
            first = asyncio.create_task(executor.call("Demo.Slow"))
            await tool.began.wait()
            result = await executor.execute_tool_call(create_tool_call("Demo.Slow", {}))
            tool.end.set()
            await first
            later = await executor.call("Demo.Slow")

        assert (result.status_code, result.failure.outcome) == (429, "not_run")
        assert result.failure.retry_after_s > 0
        assert "Concurrency limit reached: 1 call at the same time for tool 'Demo.Slow'" in result.error
        assert later == "done"

    @pytest.mark.parametrize("ending", ["value", "error", "cancelled"])
    async def test_the_place_is_free_however_the_call_ended(self, ending):
        tool = slow(concurrency=Concurrency(calls=1))
        with executor_for(tool, clock=FakeClock()) as executor:
            first = asyncio.create_task(executor.call("Demo.Slow", fail=ending == "error"))
            await tool.began.wait()
            if ending == "cancelled":
                first.cancel()
            tool.end.set()
            await asyncio.gather(first, return_exceptions=True)

            assert await executor.call("Demo.Slow") == "done"

    async def test_whoever_may_wait_gets_a_place_later(self):
        tool = slow(concurrency=Concurrency(calls=2, wait_s=None))
        with executor_for(tool, clock=FakeClock()) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Slow")) for _ in range(6)]
            await tool.began.wait()
            await settled()
            inside = tool.inside
            tool.end.set()
            values = await asyncio.gather(*calls)

        assert (inside, tool.most, values) == (2, 2, ["done"] * 6)

    async def test_waiting_ends_with_wait_s(self):
        clock = FakeClock()
        tool = slow(concurrency=Concurrency(calls=1, wait_s=5))
        with executor_for(tool, clock=clock) as executor:
            first = asyncio.create_task(executor.call("Demo.Slow"))
            await tool.began.wait()
            second = asyncio.create_task(executor.call("Demo.Slow"))
            await settled()
            clock.advance(5)
            with pytest.raises(ConcurrencyLimitError):
                await second
            tool.end.set()
            await first

    async def test_waiting_ends_with_the_deadline(self):
        clock = FakeClock()
        tool = slow(concurrency=Concurrency(calls=1, wait_s=None))
        with executor_for(tool, clock=clock) as executor:
            first = asyncio.create_task(executor.call("Demo.Slow"))
            await tool.began.wait()
            call = create_tool_call("Demo.Slow", {}, deadline_s=3.0)
            second = asyncio.create_task(executor.execute_tool_call(call))
            await settled()
            clock.advance(3)
            result = await second
            tool.end.set()
            await first

        assert (result.status_code, result.failure.outcome) == (504, "not_run")

    def test_a_blocking_call_waits_in_its_thread(self):
        began, end, order = threading.Event(), threading.Event(), []

        @Tool(name="Demo.Block", register=False, concurrency=Concurrency(calls=1, wait_s=None))
        def block(n: int):
            began.set()
            order.append(n)
            assert end.wait(20)
            return n

        with executor_for(block, timeout=30) as executor:
            threads = [
                threading.Thread(target=executor.call_sync, args=("Demo.Block",), kwargs={"n": n}) for n in (1, 2)
            ]
            threads[0].start()
            assert began.wait(20)
            threads[1].start()
            places = executor._services.the("places", Places)
            while not places.ahead(("tool", "Demo.Block:0", "Demo.Block")):
                threading.Event().wait(0.001)
            assert order == [1]
            end.set()
            for thread in threads:
                thread.join(20)

        assert order == [1, 2]

    def test_a_call_that_waits_in_a_worker_lends_its_place_there(self):
        """One worker, whose body waits for a place that only another body gives back."""

        @Tool(name="Demo.Inner", register=False, concurrency=Concurrency(calls=1, wait_s=None))
        def inner():
            return "in"

        with executor_for(inner, max_workers=1, timeout=20) as executor:
            places = executor._services.the("places", Places)
            key = ("tool", "Demo.Inner:0", "Demo.Inner")
            held = places.enter(key, 1)

            @Tool(name="Demo.Outer", register=False)
            def outer():
                return executor.call_sync("Demo.Inner")

            @Tool(name="Demo.Free", register=False)
            def free():
                held.leave()

            executor.add([outer, free])
            values = []
            thread = threading.Thread(target=lambda: values.append(executor.call_sync("Demo.Outer")))
            thread.start()
            while not places.ahead(key):
                threading.Event().wait(0.001)
            executor.call_sync("Demo.Free")
            thread.join(20)

        assert values == ["in"]

    async def test_tools_of_one_upstream_are_counted_together(self):
        cap = Concurrency(calls=1, by="upstream", upstream="billing")
        one, two, other = slow("Demo.One", concurrency=cap), slow("Demo.Two", concurrency=cap), slow("Demo.Other")
        for tool in (one, two, other):
            tool.end.set()
        one.end.clear()
        with executor_for(one, two, other, clock=FakeClock()) as executor:
            first = asyncio.create_task(executor.call("Demo.One"))
            await one.began.wait()
            with pytest.raises(ConcurrencyLimitError, match="upstream 'billing'"):
                await executor.call("Demo.Two")
            await executor.call("Demo.Other")
            one.end.set()
            await first

    async def test_one_users_calls_do_not_take_anothers_place(self):
        tool = slow(concurrency=Concurrency(calls=1, by="user"))
        with executor_for(tool, clock=FakeClock()) as executor:

            def call(user):
                return executor.execute_tool_call(create_tool_call("Demo.Slow", {}, user_id=user))

            ann = asyncio.create_task(call("ann"))
            await tool.began.wait()
            again = await call("ann")
            bob = asyncio.create_task(call("bob"))
            await settled()
            tool.end.set()

            assert again.status_code == 429
            assert (await bob).success
            assert (await ann).success

    async def test_a_key_of_ones_own_and_none_for_no_limit(self):
        cap = Concurrency(calls=1, by=lambda caller, arguments: arguments["order"] or None)
        tool = slow(concurrency=cap)
        with executor_for(tool, clock=FakeClock()) as executor:
            held = [asyncio.create_task(executor.call("Demo.Slow", order=order)) for order in ("a", "b", "", "")]
            await settled()
            with pytest.raises(ConcurrencyLimitError):
                await executor.call("Demo.Slow", order="a")
            assert tool.inside == 4
            tool.end.set()
            await asyncio.gather(*held)

    @pytest.mark.parametrize("key", [lambda caller, arguments: 1 / 0, lambda caller, arguments: 5])
    async def test_a_key_that_breaks_refuses(self, key):
        tool = slow(concurrency=Concurrency(calls=1, by=key))
        with executor_for(tool, clock=FakeClock()) as executor:
            with pytest.raises(PermissionDeniedError, match="the concurrency limit's key failed"):
                await executor.call("Demo.Slow")

        assert not tool.began.is_set()

    async def test_several_limits_hold_together_and_a_refusal_gives_all_back(self):
        caps = (Concurrency(calls=2, by="tool"), Concurrency(calls=1, by="user"))
        tool = slow(concurrency=caps)
        with executor_for(tool, clock=FakeClock()) as executor:

            def call(user):
                return executor.execute_tool_call(create_tool_call("Demo.Slow", {}, user_id=user))

            ann = asyncio.create_task(call("ann"))
            await tool.began.wait()
            refused = [await call("ann") for _ in range(3)]
            bob = asyncio.create_task(call("bob"))
            await settled()

            assert [r.status_code for r in refused] == [429] * 3
            assert tool.inside == 2
            assert (await call("eve")).status_code == 429
            tool.end.set()
            await asyncio.gather(ann, bob)
            assert len(executor._services.the("places", Places)) == 0

    @pytest.mark.parametrize("awaits", [False, True])
    def test_a_body_given_up_in_its_thread_keeps_its_place_until_it_ends(self, awaits):
        began, end = threading.Event(), threading.Event()

        @Tool(name="Demo.Stuck", register=False, concurrency=Concurrency(calls=1))
        def stuck():
            began.set()
            assert end.wait(20)

        with executor_for(stuck, timeout=0.05) as executor:

            def call():
                return asyncio.run(executor.call("Demo.Stuck")) if awaits else executor.call_sync("Demo.Stuck")

            with pytest.raises(ToolTimeoutError) as late:
                call()
            with pytest.raises(ConcurrencyLimitError):
                call()
            end.set()
            places = executor._services.the("places", Places)
            while len(places):
                threading.Event().wait(0.001)

            call()

        assert late.value.outcome == "unknown"


class TestSeveral:
    @pytest.mark.parametrize("by", ["upstream", "global"])
    async def test_tools_that_share_two_places_and_name_them_in_another_order_never_wait_for_each_other(self, by):
        if by == "upstream":
            one, two = (Concurrency(calls=1, by="upstream", upstream=name, wait_s=None) for name in ("a", "b"))
            keys = [("upstream", "a", 1), ("upstream", "b", 1)]
        else:
            one, two = (Concurrency(calls=calls, by="global", wait_s=None) for calls in (1, 2))
            keys = [("global", "1", 1), ("global", "2", 2), ("global", "2", 2)]
        first, second = slow("Demo.First", concurrency=(one, two)), slow("Demo.Second", concurrency=(two, one))
        with executor_for(first, second, clock=FakeClock()) as executor:
            places = executor._services.the("places", Places)
            taken = [places.enter((scope, name), limit) for scope, name, limit in keys]
            calls = [asyncio.create_task(executor.call(name)) for name in ("Demo.First", "Demo.Second")]
            await settled()
            for place in taken if by == "upstream" else taken[:2]:  # of two, one stays away
                place.leave()
            for tool in (first, second):
                tool.end.set()
            done, waiting = await asyncio.wait(calls, timeout=5)
            for task in waiting:
                task.cancel()

        assert len(done) == 2


class TestExclusive:
    async def test_one_call_at_a_time_for_each_resource(self):
        tool = slow(exclusive=Exclusive(by="order"))
        with executor_for(tool, clock=FakeClock()) as executor:
            calls = [asyncio.create_task(executor.call("Demo.Slow", order=order)) for order in ("1", "1", "1", "2")]
            await tool.began.wait()
            await settled()
            inside = tool.inside
            tool.end.set()
            await asyncio.gather(*calls)

        assert (inside, tool.most) == (2, 2)

    async def test_the_executors_lock_keeps_calls_out_without_blocking_the_loop(self):
        clock = FakeClock()
        tool = slow(exclusive=Exclusive(by="order"))
        tool.end.set()
        with executor_for(tool, clock=clock) as executor:
            with executor.get_lock("1"):
                call = asyncio.create_task(executor.call("Demo.Slow", order="1"))
                await settled()
                for _ in range(10):
                    clock.advance(0.5)
                    await settled()
                assert not tool.began.is_set()
                await executor.call("Demo.Slow", order="2")
                tool.began.clear()
            clock.advance(0.5)
            await call
            lock = executor.get_lock("1")

            assert tool.began.is_set()
            assert lock.acquire(blocking=False)

    async def test_the_lock_is_held_while_the_body_runs(self):
        tool = slow(exclusive=Exclusive(by="order"))
        with executor_for(tool, clock=FakeClock()) as executor:
            lock = executor.get_lock("1")
            call = asyncio.create_task(executor.call("Demo.Slow", order="1"))
            await tool.began.wait()
            taken = lock.acquire(blocking=False)
            tool.end.set()
            await call

            assert not taken
            assert lock.acquire(blocking=False)

    def test_a_blocking_call_waits_for_the_lock_in_its_thread(self):
        @Tool(name="Demo.Write", register=False, exclusive=Exclusive(by="order"))
        def write(order: str):
            return order

        with executor_for(write, timeout=20) as executor:
            lock = executor.get_lock("1")
            lock.acquire()
            values = []
            thread = threading.Thread(target=lambda: values.append(executor.call_sync("Demo.Write", order="1")))
            thread.start()
            thread.join(0.05)
            assert values == []
            lock.release()
            thread.join(20)

        assert values == ["1"]

    def test_a_body_given_up_in_its_thread_keeps_the_lock_until_it_ends(self):
        end = threading.Event()

        @Tool(name="Demo.Stuck", register=False, exclusive=Exclusive(by="order"))
        def stuck(order: str):
            assert end.wait(20)

        with executor_for(stuck, timeout=0.05) as executor:
            lock = executor.get_lock("1")
            with pytest.raises(ToolTimeoutError):
                executor.call_sync("Demo.Stuck", order="1")

            assert not lock.acquire(blocking=False)
            end.set()
            assert lock.acquire(timeout=20)

    async def test_waiting_for_no_longer_than_wait_s(self):
        clock = FakeClock()
        tool = slow(exclusive=Exclusive(by="order", wait_s=0))
        with executor_for(tool, clock=clock) as executor:
            call = asyncio.create_task(executor.call("Demo.Slow", order="1"))
            await tool.began.wait()
            with pytest.raises(ConcurrencyLimitError, match="another call holds the resource"):
                await executor.call("Demo.Slow", order="1")
            tool.end.set()
            await call
            with executor.get_lock("1"), pytest.raises(ConcurrencyLimitError):
                await executor.call("Demo.Slow", order="1")

    async def test_a_resource_by_callable_sees_caller_and_arguments(self):
        by = Exclusive(by=lambda caller, arguments: f"{caller.user_id}/{arguments['order']}", wait_s=0)
        tool = slow(exclusive=by)
        tool.end.set()
        with executor_for(tool, clock=FakeClock()) as executor, executor.get_lock("ann/1"):
            ann = await executor.execute_tool_call(create_tool_call("Demo.Slow", {"order": "1"}, user_id="ann"))
            bob = await executor.execute_tool_call(create_tool_call("Demo.Slow", {"order": "1"}, user_id="bob"))

        assert (ann.status_code, bob.status_code) == (429, 200)

    def test_a_parameter_that_is_not_there_is_a_mistake_of_the_author(self):
        with pytest.raises(ConfigurationError, match=r"'odrer', which is no parameter; did you mean 'order'\?"):
            slow(exclusive=Exclusive(by="odrer"))

    async def test_locks_of_resources_that_nobody_holds_are_forgotten(self):
        tool = slow(exclusive=Exclusive(by="order"))
        tool.end.set()
        with executor_for(tool, clock=FakeClock()) as executor:
            for n in range(50):
                await executor.call("Demo.Slow", order=str(n))

            assert len(executor._locks) == 0
            assert isinstance(executor._locks, weakref.WeakValueDictionary)


class Remote(MemoryState):
    """A mock: the state of one process, posing as one that several share, so that places are leased there."""

    local = False


class Gone(Remote):
    """A mock of a store that cannot be reached."""

    def __init__(self, url="memory://", **options):
        super().__init__(url, **options)
        self.enter = self.leave = self.take = self.fail

    def fail(self, *_):
        pending = Pending()
        pending.error = StoreUnavailableError("the store is out of reach")
        pending._done = True
        return pending


def sharing(executor, state):
    """Have an executor use a state."""
    executor._stores.state = state
    executor.config.retry_backoff = executor.config.retry_backoff
    executor._reconfigured("retry_backoff")


class TestSharedPlaces:
    async def test_two_executors_count_together_and_a_waiter_finds_the_place_that_is_free(self):
        clock = FakeClock()
        state = Remote(clock=clock)
        cap = Concurrency(calls=1, wait_s=None)
        here, there = slow(concurrency=cap), slow(concurrency=cap)
        with executor_for(here, clock=clock) as one, executor_for(there, clock=clock) as two:
            sharing(one, state)
            sharing(two, state)
            first = asyncio.create_task(one.call("Demo.Slow"))
            await here.began.wait()
            second = asyncio.create_task(two.call("Demo.Slow"))
            await settled()
            assert not there.began.is_set()
            there.end.set()
            here.end.set()
            await first
            clock.advance(0.5)
            assert await second == "done"

    async def test_a_store_out_of_reach_refuses_or_allows_as_the_policy_says(self):
        clock = FakeClock()
        strict = slow("Demo.Strict", concurrency=Concurrency(calls=1))
        lenient = slow("Demo.Lenient", concurrency=Concurrency(calls=1, when_down="allow"))
        for tool in (strict, lenient):
            tool.end.set()
        with executor_for(strict, lenient, clock=clock) as executor:
            sharing(executor, Gone(clock=clock))
            refused = await executor.execute_tool_call(create_tool_call("Demo.Strict", {}))
            allowed = await executor.execute_tool_call(create_tool_call("Demo.Lenient", {}))

        assert (refused.status_code, refused.failure.outcome) == (503, "not_run")
        assert not strict.began.is_set()
        assert allowed.success

    @pytest.mark.parametrize("blocking", [True, False])
    async def test_a_store_that_says_nothing_is_down_for_what_may_go_on_without_it(self, blocking, monkeypatch):
        for stage in (breaker, holding, limit):
            monkeypatch.setattr(stage, "ASIDE_S", 0.01)
        lenient = slow(
            "Demo.Lenient",
            timeout_seconds=10,
            concurrency=Concurrency(calls=1, when_down="allow"),
            rate_limit=RateLimit(calls=5, when_down="allow"),
            breaker=Breaker(shared=True),
        )
        lenient.end.set()
        state = Remote()
        state.enter = state.take = state.admit = lambda *arguments: Pending()
        with executor_for(lenient) as executor:
            sharing(executor, state)
            call = create_tool_call("Demo.Lenient", {})
            if blocking:
                result = await asyncio.to_thread(executor.execute_sync, call)
            else:
                result = await executor.execute_tool_call(call)

        assert result.success, result.error

    def test_what_is_held_is_renewed_and_what_is_not_runs_out(self):
        clock = FakeClock()
        state, leases = Remote(clock=clock), None
        leases = Leases(clock, "me")
        lease = leases.lease(state, "k", 1, 30.0)
        assert lease.ask() == 0.0
        leases.hold(lease)
        for _ in range(10):
            clock.advance(10)
            while lease.due <= clock.monotonic():
                threading.Event().wait(0.001)
        assert state.enter("k", "other", 1, 30.0) > 0

        leases.close()
        clock.advance(31)
        assert state.enter("k", "other", 1, 30.0) == 0.0

    def test_a_lease_let_go_is_free_at_once_and_the_thread_ends(self):
        clock = FakeClock()
        state, leases = Remote(clock=clock), Leases(clock, "me")
        lease = leases.lease(state, "k", 1, 30.0)
        lease.ask()
        leases.hold(lease)
        thread = leases._thread
        leases.let_go(lease)

        assert state.enter("k", "other", 1, 30.0) == 0.0
        clock.advance(11)
        thread.join(20)
        assert not thread.is_alive()
        assert len(leases) == 0

    @pytest.mark.skipif(not hasattr(os, "fork"), reason="the system has no fork")
    def test_a_forked_child_renews_its_own_leases_and_none_of_its_parents(self):
        script = """
            import os, threading
            from toolpost.calls.clock import SYSTEM_CLOCK
            from toolpost.pipeline.leases import Leases
            from toolpost.stores.memory_state import MemoryState

            state, leases = MemoryState(), Leases(SYSTEM_CLOCK, "me")

            def held(key):
                lease = leases.lease(state, key, 1, 0.9)
                lease.ask()
                leases.hold(lease)
                return lease

            held("parents")
            child = os.fork()
            if not child:
                held("childs")
                threading.Event().wait(1.5)
                print(state.enter("parents", "x", 1, 1.0) == 0.0, state.enter("childs", "x", 1, 1.0) > 0, flush=True)
                os._exit(0)
            os.waitpid(child, 0)
        """
        done = subprocess.run(
            [sys.executable, "-W", "ignore", "-c", textwrap.dedent(script)],
            capture_output=True,
            text=True,
            timeout=30,
            check=True,
        )
        assert done.stdout.split() == ["True", "True"], done.stderr

    def test_a_store_that_breaks_once_ends_no_renewing(self, caplog):
        clock = FakeClock()
        state, leases = Remote(clock=clock), Leases(clock, "me")
        lease = leases.lease(state, "k", 1, 30.0)
        lease.ask()
        leases.hold(lease)
        enter, broken = state.enter, Pending()
        broken.error, broken._done = RuntimeError("what no store should say"), True
        state.enter = lambda *arguments: broken
        for _ in range(2):
            clock.advance(10)
            while lease.due <= clock.monotonic():
                assert leases._thread is not None
                threading.Event().wait(0.001)
            state.enter = enter
        clock.advance(15)

        assert state.enter("k", "other", 1, 30.0) > 0
        assert "could not be renewed" in caplog.text
        leases.close()

    def test_a_lease_that_another_has_is_told_once(self, caplog):
        clock = FakeClock()
        state, leases = Remote(clock=clock), Leases(clock, "me")
        lease = leases.lease(state, "k", 1, 30.0)
        lease.ask()
        state.leave("k", lease.holder)
        state.enter("k", "other", 1, 1000.0)
        leases.hold(lease)
        for _ in range(3):
            clock.advance(10)
            while lease.due <= clock.monotonic():
                threading.Event().wait(0.001)
        leases.close()

        assert caplog.text.count("the lease of k ran out while its holder still ran") == 1


class TestOverRedis:
    def test_executors_threads_and_tasks_together_never_are_more_than_the_limit(self, redis_url):
        inside, most, lock = 0, 0, threading.Lock()

        def made():
            @Tool(name="Demo.Shared", register=False, concurrency=Concurrency(calls=3, wait_s=None))
            async def shared(n: int):
                nonlocal inside, most
                with lock:
                    inside += 1
                    most = max(most, inside)
                await asyncio.sleep(0.002)
                with lock:
                    inside -= 1
                return n

            return shared

        async def many(executor):
            return await asyncio.gather(*[executor.call("Demo.Shared", n=n) for n in range(12)])

        with (
            executor_for(made(), state_url=redis_url, timeout=40) as one,
            executor_for(made(), state_url=redis_url, timeout=40) as two,
            ThreadPoolExecutor(6) as pool,
        ):
            loops = [pool.submit(asyncio.run, many(executor)) for executor in (one, two)]
            threads = [pool.submit(one.call_sync, "Demo.Shared", n=n) for n in range(8)]
            values = [value for loop in loops for value in loop.result(40)] + [t.result(40) for t in threads]

        assert len(values) == 32
        assert 1 <= most <= 3

    def test_the_place_of_a_process_that_was_killed_is_free_when_its_lease_is_over(self, redis_url):
        program = textwrap.dedent(f"""
            import time
            from toolpost import Exclusive, Tool
            from toolpost.testing import executor_for

            @Tool(name="Demo.Held", register=False, exclusive=Exclusive(by="order", lease_s=0.6))
            def held(order: str):
                print("in", flush=True)
                time.sleep(60)

            with executor_for(held, state_url={redis_url!r}) as executor:
                executor.call_sync("Demo.Held", order="1")
        """)

        @Tool(name="Demo.Held", register=False, exclusive=Exclusive(by="order", lease_s=0.6, wait_s=0))
        def hasty(order: str):
            return "hasty"

        @Tool(name="Demo.Patient", register=False, exclusive=Exclusive(by="order", lease_s=0.6))
        def patient(order: str):
            return "patient"

        with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, text=True) as child:
            try:
                assert child.stdout.readline() == "in\n"
                with executor_for(hasty, patient, state_url=redis_url, timeout=40) as executor:
                    threading.Event().wait(1.0)  # longer than the lease: it is renewed, so nobody may in
                    with pytest.raises(ConcurrencyLimitError):
                        executor.call_sync("Demo.Held", order="1")
                    child.kill()

                    assert executor.call_sync("Demo.Patient", order="1") == "patient"
            finally:
                child.kill()
