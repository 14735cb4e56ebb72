"""The shared cache: one entry for all processes, never another scope's, void everywhere, and nothing lost when down."""

import asyncio
import datetime
import logging
import subprocess
import sys
import textwrap
from concurrent.futures import ThreadPoolExecutor

import orjson
import pytest
from hypothesis import given, strategies as st

from toolpost import Cache, Tool, ToolError, create_tool_call
from toolpost.calls.call import Caller
from toolpost.calls.errors import StoreUnavailableError
from toolpost.pipeline.cache_keys import SCOPES, arguments_of, digest_of, shared_key
from toolpost.pipeline.invocation import Invocation
from toolpost.pipeline.shared_cache import SharedCache, encoded
from toolpost.stores.memory_state import MemoryState
from toolpost.stores.pending import Pending
from toolpost.testing import FakeClock, executor_for


@pytest.fixture
def clock():
    return FakeClock()


class Store(MemoryState):
    """A mock: the state of one process, posing as one that several share. It may be out of reach."""

    local = False

    def __init__(self, clock):
        super().__init__(clock=clock)
        self.down, self.asked = False, []
        for name in ("get", "marks", "put", "void", "clear"):
            setattr(self, name, self.counted(name, getattr(self, name)))

    def counted(self, name, operation):
        def ask(*arguments):
            pending = Pending()
            pending._done = True
            self.asked.append(name)
            if self.down:
                pending.error = StoreUnavailableError("the store is out of reach")
            else:
                pending.value = operation(*arguments)
            return pending

        return ask


@pytest.fixture
def store(clock):
    return Store(clock)


def using(executor, store, *, front_s=1.0):
    """Have an executor share its cache through a store."""
    executor.config.cache_front_ttl = front_s
    executor._stores.shared_cache = store
    executor._reconfigured("cache_size")
    return executor


def counting(name="Demo.Count", *, answer=lambda n: {"n": n}, identity="demo", **cache):
    """A tool that counts its runs, the same in every executor that has one."""

    @Tool(name=name, register=False, cache=Cache(**{"ttl_s": 60, "per": "global", **cache}))
    async def body(n: int = 0):
        body.runs += 1
        return answer(n)

    definition = body.tool_definition
    object.__setattr__(definition, "identity", identity)
    body.runs = 0
    return body


def raising(error):
    raise error


class TestSharing:
    async def test_what_one_executor_ran_another_is_given(self, clock, store):
        one, two = counting(), counting()
        with executor_for(one, clock=clock) as here, executor_for(two, clock=clock) as there:
            using(here, store)
            using(there, store)
            first = await here.execute_tool_call(create_tool_call("Demo.Count", {"n": 1}))
            second = await there.execute_tool_call(create_tool_call("Demo.Count", {"n": 1}))

        assert (first.data, first.source) == (second.data, "run")
        assert (second.source, two.runs) == ("cache", 0)

    async def test_a_hit_asks_once_and_memory_answers_for_a_while(self, clock, store):
        one, two = counting(), counting()
        with executor_for(one, clock=clock) as here, executor_for(two, clock=clock) as there:
            using(here, store)
            using(there, store)
            await here.call("Demo.Count", n=1)
            assert store.asked == ["get", "put"]
            store.asked.clear()
            for _ in range(5):
                await there.call("Demo.Count", n=1)
            assert store.asked == ["get"]
            clock.advance(1.0)
            await there.call("Demo.Count", n=1)

        assert store.asked == ["get", "get"]
        assert two.runs == 0

    async def test_without_a_front_every_call_asks(self, clock, store):
        one = counting()
        with executor_for(one, clock=clock) as here:
            using(here, store, front_s=0)
            for _ in range(3):
                await here.call("Demo.Count", n=1)

        assert store.asked == ["get", "put", "get", "get"]
        assert one.runs == 1

    async def test_many_equal_calls_ask_once(self, clock, store):
        one, two = counting(), counting()
        with executor_for(one, clock=clock) as here, executor_for(two, clock=clock) as there:
            using(here, store)
            using(there, store, front_s=0)
            await here.call("Demo.Count", n=1)
            store.asked.clear()
            waiting = [asyncio.create_task(there.call("Demo.Count", n=1)) for _ in range(50)]
            values = await asyncio.gather(*waiting)

        assert values == [{"n": 1}] * 50
        assert two.runs == 0

    async def test_a_shared_entry_ends_with_its_time(self, clock, store):
        one = counting(ttl_s=5)
        with executor_for(one, clock=clock) as here:
            using(here, store)
            await here.call("Demo.Count", n=1)
            clock.advance(4.5)
            await here.call("Demo.Count", n=1)
            assert one.runs == 1
            clock.advance(0.5)
            await here.call("Demo.Count", n=1)

        assert one.runs == 2

    async def test_a_tool_that_means_something_only_here_stays_here(self, clock, store):
        one = counting(identity=None)
        with executor_for(one, clock=clock) as here:
            using(here, store)
            for _ in range(2):
                await here.call("Demo.Count", n=1)
            clock.advance(30)
            await here.call("Demo.Count", n=1)

        assert store.asked == []
        assert one.runs == 1

    @pytest.mark.parametrize("value", [(1, 2), {1: "a"}, {"a"}, float("nan"), 2**70, "\ud800", b"raw"])
    async def test_what_json_would_bring_back_as_another_stays_here(self, clock, store, value):
        one = counting(answer=lambda n: value)
        with executor_for(one, clock=clock) as here:
            using(here, store)
            values = [await here.call("Demo.Count", n=1) for _ in range(2)]

        assert "put" not in store.asked
        assert one.runs == 1
        assert [type(v) for v in values] == [type(value)] * 2

    async def test_a_larger_result_than_allowed_is_not_shared(self, clock, store):
        one = counting(answer=lambda n: "x" * 100, max_bytes=50)
        with executor_for(one, clock=clock) as here:
            using(here, store)
            await here.call("Demo.Count", n=1)

        assert store.asked == ["get"]

    async def test_other_versions_and_other_code_do_not_share(self, clock, store):
        one = counting(answer=lambda n: 1)
        two = counting(answer=lambda n: 2)
        object.__setattr__(two.tool_definition, "version", "2.0.0")
        with executor_for(one, clock=clock) as here, executor_for(two, clock=clock) as there:
            using(here, store)
            using(there, store)

            assert [await here.call("Demo.Count"), await there.call("Demo.Count")] == [1, 2]

    async def test_what_toolpost_did_not_write_is_a_miss(self, clock, store, caplog):
        one = counting()
        with executor_for(one, clock=clock) as here:
            using(here, store)
            key = shared_key(one.tool_definition, "global")(Invocation.of({"n": 1}), b'{"n":1}')
            store.put(key, b"v{not json", 60.0)
            assert await here.call("Demo.Count", n=1) == {"n": 1}

        assert one.runs == 1
        assert "what toolpost did not write" in caplog.text


class TestStaleAndFailures:
    async def test_a_stale_shared_result_is_given_at_once_and_renewed(self, clock, store):
        numbers = iter(range(1, 9))
        one = counting(answer=lambda n: next(numbers), ttl_s=10, stale_s=30)
        with executor_for(one, clock=clock) as here:
            using(here, store, front_s=0)
            assert await here.call("Demo.Count") == 1
            clock.advance(11)
            assert await here.call("Demo.Count") == 1
            for _ in range(20):
                await asyncio.sleep(0)

            assert await here.call("Demo.Count") == 2
            assert one.runs == 2

    @pytest.mark.parametrize(
        "error", [ToolError("no order", code="NOT_FOUND", details={"a": 1}), ValueError("no order")]
    )
    async def test_a_kept_failure_is_given_to_other_processes_too(self, clock, store, error):
        one, two = [counting(answer=lambda n: raising(error), negative_s=5) for _ in "ab"]
        with executor_for(one, clock=clock) as here, executor_for(two, clock=clock) as there:
            using(here, store)
            using(there, store)
            call = create_tool_call("Demo.Count", {})
            first, second = await here.execute_tool_call(call), await there.execute_tool_call(call)

        assert two.runs == 0
        assert (second.failure.code, second.error) == (first.failure.code, first.error)
        assert second.failure.details == {**first.failure.details, "cached": True}

    async def test_a_failure_of_an_authors_own_class_is_not_shared(self, clock, store):
        class NoOrder(ToolError):
            pass

        one = counting(answer=lambda n: raising(NoOrder("no")), negative_s=5)
        with executor_for(one, clock=clock) as here:
            using(here, store)
            for _ in range(2):
                with pytest.raises(NoOrder):
                    await here.call("Demo.Count")

        assert one.runs == 1
        assert "put" not in store.asked


def writer(name="Demo.Write"):
    @Tool(name=name, register=False, invalidates=("n:{n}",))
    async def write(n: int):
        return n

    return write


class TestTags:
    async def test_a_write_anywhere_makes_void_everywhere(self, clock, store):
        one, two = counting(tags=("n:{n}",)), counting(tags=("n:{n}",))
        with executor_for(one, writer(), clock=clock) as here, executor_for(two, writer(), clock=clock) as there:
            using(here, store)
            using(there, store, front_s=0)
            await here.call("Demo.Count", n=1)
            await here.call("Demo.Count", n=2)
            await there.call("Demo.Write", n=1)
            await there.call("Demo.Count", n=1)
            await there.call("Demo.Count", n=2)

        assert (one.runs, two.runs) == (2, 1)

    async def test_ones_own_write_is_seen_at_once_through_the_front(self, clock, store):
        one = counting(tags=("n:{n}",))
        with executor_for(one, writer(), clock=clock) as here:
            using(here, store, front_s=30)
            for _ in range(2):
                await here.call("Demo.Count", n=1)
                await here.call("Demo.Write", n=1)
            await here.call("Demo.Count", n=1)

        assert one.runs == 3

    async def test_a_value_read_before_a_write_elsewhere_is_not_put_after_it(self, clock, store):
        go = asyncio.Event()

        @Tool(name="Demo.Count", register=False, cache=Cache(ttl_s=60, per="global", tags=("n:{n}",)))
        async def reads(n: int):
            reads.runs += 1
            await go.wait()
            return n

        reads.runs = 0
        object.__setattr__(reads.tool_definition, "identity", "demo")
        with executor_for(reads, clock=clock) as here, executor_for(writer(), clock=clock) as there:
            using(here, store, front_s=0)
            using(there, store)
            early = asyncio.create_task(here.call("Demo.Count", n=1))
            await asyncio.sleep(0)
            await there.call("Demo.Write", n=1)
            go.set()
            await early
            await here.call("Demo.Count", n=1)

        assert reads.runs == 2

    async def test_what_could_not_be_made_void_is_void_before_the_next_look(self, clock, store):
        one = counting(tags=("n:{n}",))
        with executor_for(one, writer(), clock=clock) as here:
            using(here, store, front_s=0)
            await here.call("Demo.Count", n=1)
            store.down = True
            await here.call("Demo.Write", n=1)
            store.down = False
            await here.call("Demo.Count", n=1)

        assert one.runs == 2

    async def test_who_looks_while_a_writer_tells_the_store_keeps_nothing_old(self, clock, store):
        reader, other = counting(tags=("n:{n}",)), counting(tags=("n:{n}",))
        with executor_for(reader, writer(), clock=clock) as one, executor_for(other, clock=clock) as two:
            using(one, store, front_s=30)
            await using(two, store).call("Demo.Count", n=1)  # so that the store has it
            void, looked = store.void, []

            def looking(*arguments):
                with ThreadPoolExecutor(1) as pool:
                    looked.append(pool.submit(one.call_sync, "Demo.Count", n=1).result())
                return void(*arguments)

            store.void = looking
            await one.call("Demo.Write", n=1)
            assert (looked, reader.runs) == ([{"n": 1}], 0)

            await one.call("Demo.Count", n=1)
        assert reader.runs == 1

    async def test_a_body_that_changes_its_arguments_does_not_change_whose_result_it_is(self, clock, store):
        @Tool(name="Demo.Greedy", register=False, cache=Cache(ttl_s=60, per="global", stale_s=60, negative_s=5))
        async def greedy(items: list):
            found = list(items[0])
            items[0].append("x")
            if len(found) > 1:
                raise ToolError("too many", details={"found": len(found)})
            return found

        object.__setattr__(greedy.tool_definition, "identity", "demo")
        for items in ([[]], [["x"]], [["x", "x"]], [["x", "x", "x"]]):
            for _ in range(2):  # run, and renewed
                with executor_for(greedy, clock=clock) as executor:
                    sent = create_tool_call("Demo.Greedy", {"items": [list(items[0])]})
                    result = await using(executor, store).execute_tool_call(sent)
                    for _ in range(20):
                        await asyncio.sleep(0)
                    if len(items[0]) > 1:
                        assert result.failure.details["found"] == len(items[0])
                    else:
                        assert result.data["result"] == items[0]
                clock.advance(61 if len(items[0]) < 2 else 1)


class TestOutOfReach:
    async def test_a_tool_runs_without_it_and_that_is_told_once(self, clock, store, caplog):
        caplog.set_level(logging.INFO, logger="toolpost")
        one = counting()
        store.down = True
        with executor_for(one, clock=clock) as here:
            using(here, store, front_s=0)
            values = [await here.call("Demo.Count", n=n) for n in range(3)]
            store.down = False
            values += [await here.call("Demo.Count", n=1) for _ in range(2)]

        assert values == [{"n": 0}, {"n": 1}, {"n": 2}, {"n": 1}, {"n": 1}]
        assert one.runs == 4
        assert caplog.text.count("the shared cache is out of reach") == 1
        assert caplog.text.count("the shared cache is back") == 1

    async def test_a_policy_may_refuse_instead(self, clock, store):
        one = counting(when_down="refuse")
        store.down = True
        with executor_for(one, clock=clock) as here:
            using(here, store)
            result = await here.execute_tool_call(create_tool_call("Demo.Count", {}))

        assert (result.status_code, result.failure.outcome, one.runs) == (503, "not_run", 0)

    async def test_clearing_it_later_when_it_could_not_be_now(self, clock, store):
        one = counting()
        with executor_for(one, clock=clock) as here:
            using(here, store, front_s=0)
            await here.call("Demo.Count", n=1)
            shared = here._services.the("shared_cache", lambda: None)
            store.down = True
            assert shared.clear() is None
            store.down = False
            await here.call("Demo.Count", n=1)

        assert one.runs == 2

    async def test_of_very_many_tags_owed_everything_goes(self, clock, store):
        shared = SharedCache(store, clock)
        store.put("cache:T:1", b"v1", 60.0)
        store.down = True
        for n in range(101):
            shared.void(tuple(f"t{n}:{m}" for m in range(100)))
        store.down = False
        await shared.get("cache:T:1", (), Invocation.of({}))

        assert (await shared.get("cache:T:1", (), Invocation.of({})))[0] is None


PARTS = st.none() | st.text(max_size=4) | st.sampled_from(["", "1:a", "-", "a", "0:", "1:", ":", "ab"])


class TestKeys:
    @given(st.lists(PARTS, max_size=4), st.lists(PARTS, max_size=4))
    def test_two_lists_of_parts_have_one_digest_only_when_they_are_equal(self, one, two):
        assert (digest_of(*one) == digest_of(*two)) == (one == two)

    @given(st.sampled_from(list(SCOPES)), *[st.tuples(PARTS, PARTS, PARTS)] * 2)
    def test_a_value_never_crosses_scopes(self, per, one, two):
        """Over the real store's contract: what one caller had kept, another is given only in the same scope."""
        shown = {"user": lambda c: c[:2], "task": lambda c: c, "tenant": lambda c: c[:1], "global": lambda c: ()}[per]

        async def go():
            clock = FakeClock()
            store, answers = Store(clock), iter("ab")
            tool = counting(answer=lambda n: next(answers), per=per)
            with executor_for(tool, clock=clock) as here:
                using(here, store, front_s=0)
                values = []
                for tenant, user, task in (one, two):
                    inv = Invocation.of({"n": 1})
                    inv.caller, inv.task_id = Caller(tenant=tenant, user_id=user), task
                    values.append(await here.run_definition(tool.tool_definition, inv))
                return values

        values = asyncio.run(go())
        assert values == (["a", "a"] if shown(one) == shown(two) else ["a", "b"])

    def test_a_date_and_what_looks_like_one_have_keys_of_their_own(self):
        tool = counting().tool_definition
        key = shared_key(tool, "global")
        keys = set()
        for value in (datetime.date(2026, 1, 2), "2026-01-02", {"\x00python\x00": ["date", "2026-01-02"]}):
            inv = Invocation.of({"n": value})
            keys.add(key(inv, arguments_of(inv)))

        assert len(keys) == 3

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers(-(2**63), 2**64 - 1) | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
            max_leaves=8,
        )
    )
    def test_what_is_shared_comes_back_as_it_was(self, value):
        data = encoded(value, 1_000_000)
        if data is not None:
            back = orjson.loads(data[1:])
            assert repr(back) == repr(value)


class TestRedis:
    async def test_two_executors_share_over_redis_with_one_round_trip_a_look(self, redis_url):
        one, two = counting(tags=("n:{n}",)), counting(tags=("n:{n}",))
        settings = {"cache_backend": "redis", "cache_redis_url": redis_url, "cache_front_ttl": 0}
        with executor_for(one, writer(), **settings) as here, executor_for(two, writer(), **settings) as there:
            await here.call("Demo.Count", n=1)
            await here._services.shared_cache.ping()
            assert await there.call("Demo.Count", n=1) == {"n": 1}
            before = there._services.shared_cache.batches
            for _ in range(10):
                await there.call("Demo.Count", n=1)
            trips = there._services.shared_cache.batches - before
            assert (one.runs, two.runs) == (1, 0)

            await here.call("Demo.Write", n=1)
            await there.call("Demo.Count", n=1)
            assert two.runs == 1
            await there._services.shared_cache.ping()
            shared = there._services.the("shared_cache", lambda: None)
            assert await asyncio.to_thread(shared.clear, "Demo.Count") == 1
            await there.call("Demo.Count", n=1)
            assert two.runs == 2

        assert 10 <= trips <= 20  # the marks go with the look-up, at times in a batch of their own

    def test_another_process_is_given_what_this_one_kept(self, redis_url, tmp_path):
        module = tmp_path / "shared_tool.py"
        module.write_text(
            textwrap.dedent("""
            import os
            from toolpost import Cache, Tool

            @Tool(name="Demo.Pid", register=False, cache=Cache(ttl_s=60, per="global"))
            def pid():
                return os.getpid()
            """)
        )
        program = textwrap.dedent(f"""
            import sys; sys.path.insert(0, {str(tmp_path)!r})
            from shared_tool import pid
            from toolpost.testing import executor_for

            with executor_for(pid, cache_backend="redis", cache_redis_url={redis_url!r}) as executor:
                print(executor.call_sync("Demo.Pid"))
        """)
        said = [subprocess.run([sys.executable, "-c", program], capture_output=True, text=True) for _ in range(3)]

        assert [run.stderr for run in said] == [""] * 3
        assert len({run.stdout for run in said}) == 1

    async def test_redis_stopped_in_the_middle_costs_no_call(self, own_redis):
        one = counting()
        with executor_for(one, cache_backend="redis", cache_redis_url=own_redis.url, cache_front_ttl=0) as here:
            assert await here.call("Demo.Count", n=1) == {"n": 1}
            own_redis.kill()
            without = [await here.call("Demo.Count", n=n) for n in range(20)]
            own_redis.restart()
            for _ in range(600):
                before = one.runs
                await here.call("Demo.Count", n=7)
                if one.runs == before:
                    break
                await asyncio.sleep(0.02)
            else:
                pytest.fail("the cache did not come back")

        assert without == [{"n": n} for n in range(20)]

    async def test_a_frozen_redis_holds_up_a_call_for_a_second_at_most(self, own_redis, caplog):
        one = counting()
        with executor_for(one, cache_backend="redis", cache_redis_url=own_redis.url, cache_front_ttl=0) as here:
            await here.call("Demo.Count", n=1)
            own_redis.freeze()
            try:
                value = await asyncio.wait_for(here.call("Demo.Count", n=2), 20)
                batches = here._services.shared_cache.batches
                await here.call("Demo.Count", n=3)
                assert here._services.shared_cache.batches == batches
            finally:
                own_redis.thaw()

        assert value == {"n": 2}
        assert "out of reach, tools run without it: the store gave no answer within 1 s" in caplog.text
