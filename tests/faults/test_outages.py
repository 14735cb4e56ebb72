"""Servers that die or freeze under a load: no call hangs, none runs twice, and what was done is told later."""

import random
import threading
import time
from collections import Counter, defaultdict
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.fleet import charge, until
from tests.faults.shop import tool_of
from tests.faults.worker import made
from toolpost import Cache, Tool
from toolpost.testing import executor_for

DEADLINE_S = 4.0
GRACE_S = 4.0
"""What a call may take beyond its deadline on a machine that is busy with other things: hangs are far longer."""
LEASE_S = 1.0
ONCE = {"idempotency": {"key_fields": ("order",), "lease_s": LEASE_S}}
ALLOWED = {None, "store_unavailable", "outcome_unknown", "in_progress", "timeout"}
KEYS, CALLS = 1250, 5000


@pytest.fixture(params=["redis", "postgres"])
def server(request):
    """A server of the test's own that claims live in."""
    return request.getfixturevalue(f"own_{request.param}")


@pytest.fixture
def lasting(server):
    """The settings of executors whose claims live there."""
    return {"state_url" if server.name == "redis" else "records_url": server.url}


@pytest.fixture
def chance():
    """Chance with a seed, which pytest shows when a test fails."""
    seed = random.SystemRandom().randrange(2**32)
    print(f"seed {seed}")
    return random.Random(seed)


def orders_of(calls, **fields):
    """Calls with the suite's deadline."""
    return [charge(order, deadline_s=DEADLINE_S, **fields) for order in calls]


def in_time(results):
    """Whether none took much longer than its deadline."""
    return max(result["elapsed_s"] for result in results) < DEADLINE_S + GRACE_S


def check_load(results, effects):
    """No key ran twice, no outcome that the policy does not allow, and one receipt for each key that was answered."""
    begun = Counter(line["order"] for line in effects.seen("begin"))
    ended = {line["order"]: line["token"] for line in effects.seen("end")}
    receipts = defaultdict(set)
    for result in results:
        if result["code"] is None:
            receipts[result["order"]].add(result["data"]["token"])
    assert {result["code"] for result in results} <= ALLOWED
    assert not [order for order, times in begun.items() if times > 1]
    assert {order: {ended[order]} for order in receipts} == receipts
    assert in_time(results)
    return receipts


def settled(worker, receipts):
    """Every key that was answered gives its receipt again; what a keeper has yet to tell is asked for until it did."""
    left = set(receipts)

    def all_replayed():
        for result in worker.make(orders_of(sorted(left)), at_once=64):
            if result["code"] is None:
                assert (result["source"], {result["data"]["token"]}) == ("replay", receipts[result["order"]])
                left.discard(result["order"])
            else:
                assert result["code"] in ALLOWED
        return not left

    until(all_replayed, what="the replay of every answered key")


def test_a_server_killed_in_the_middle_of_a_load_loses_nothing_and_runs_nothing_twice(
    server, lasting, effects, start, chance
):
    workers = [start(f"w{n}", lasting, ONCE).ready() for n in range(2)]
    calls = [f"o-{n}" for n in range(KEYS)] * (CALLS // KEYS)
    chance.shuffle(calls)
    before, during, after = calls[:2000], calls[2000:3000], calls[3000:]
    results = []

    def load(orders, fault):
        """Make these calls by both workers while the fault happens."""
        asked = [worker.ask(orders_of(orders[n::2]), at_once=32) for n, worker in enumerate(workers)]
        fault()
        for worker, number in zip(workers, asked, strict=True):
            results.extend(worker.answer(number))

    def kill_under_load():
        until(lambda: len(effects.seen("begin")) > 500, what="the load")
        server.kill()

    load(before, kill_under_load)
    load(during, server.restart)
    for worker in workers:
        until(lambda worker=worker: worker.make(orders_of(["probe"]))[0]["code"] is None, what="the recovery")
    load(after, lambda: None)

    assert len(results) == CALLS
    codes = Counter(result["code"] for result in results)
    print(codes)
    receipts = check_load(results, effects)
    assert codes["store_unavailable"] > 100  # it was hit
    assert codes[None] > 1000  # and came back
    settled(workers[0], receipts)

    # No process died, so nothing is left for an operator: what was granted in vain is given back, and every key runs.
    left = {f"o-{n}" for n in range(KEYS)}

    def all_answered():
        again = workers[1].make(orders_of(sorted(left)), at_once=64)
        results.extend(again)
        left.difference_update(result["order"] for result in again if result["code"] is None)
        return not left

    until(all_answered, what="an answer for every key")
    check_load(results, effects)


def test_bodies_that_end_while_the_server_is_dead_are_told_later(server, lasting, effects, start):
    worker, other = (start(name, lasting, ONCE).ready() for name in ("a", "other"))
    orders = [f"o-{n}" for n in range(50)] + [f"broken-{n}" for n in range(5)]
    worker.make(orders_of(["first"]))
    effects.shut("a")
    number = worker.ask(orders_of(orders))
    until(lambda: len(effects.seen("begin", process="a")) == 56, what="the bodies")

    server.kill()
    effects.open("a")
    results = worker.answer(number)
    until(lambda: worker.log.count("the next try is in") > 3, what="several tries in vain")
    server.restart()

    assert in_time(results)
    assert {result["code"] for result in results[:50]} == {None}
    assert all("not stored yet" in result["warnings"][0] for result in results[:50])
    assert {result["code"] for result in results[50:]} == {"BROKEN"}
    settled(other, {result["order"]: {result["data"]["token"]} for result in results[:50]})
    assert len(effects.seen("begin")) == 56

    def run_again():  # a failure that was told lets the next call run
        again = other.make(orders_of(orders[50:]))
        return {result["code"] for result in again} == {"BROKEN"}

    until(run_again)


def test_a_frozen_server_holds_no_call_beyond_its_deadline(server, lasting, effects, start):
    worker, other = (start(name, lasting, ONCE).ready() for name in ("a", "other"))
    worker.make(orders_of(["first"]))
    effects.shut("a")
    held = worker.ask(orders_of([f"held-{n}" for n in range(20)]))
    until(lambda: len(effects.seen("begin")) == 21, what="the bodies")

    server.freeze()
    fresh = [worker.ask(orders_of([f"o-{n}" for n in range(40)]), how=how, at_once=40) for how in ("tasks", "threads")]
    effects.open("a")
    patient = worker.ask([charge("patient", deadline_s=60)])
    results = [result for number in (held, *fresh) for result in worker.answer(number)]
    (refused,) = worker.answer(patient)
    server.thaw()

    assert refused["code"] == "store_unavailable"  # long before its deadline: nobody waits for a frozen server forever
    assert {result["code"] for result in results} <= {None, "store_unavailable", "timeout"}
    assert in_time(results)
    assert not effects.seen("begin", order="o-1")
    receipts = {line["order"]: {line["token"]} for line in effects.seen("end")}
    assert len(receipts) == 21
    settled(other, receipts)
    everything = [f"o-{n}" for n in range(40)]
    codes = Counter(result["code"] for result in other.make(orders_of(everything), at_once=40))
    assert set(codes) <= ALLOWED
    assert max(Counter(line["order"] for line in effects.seen("begin")).values()) == 1


def test_a_claim_that_was_asked_for_in_vain_is_given_back(server, lasting, effects, start):
    worker, other = (start(name, lasting, ONCE).ready() for name in ("a", "other"))
    worker.make(orders_of(["first"]))
    orders = [f"o-{n}" for n in range(20)]

    server.freeze()
    number = worker.ask([charge(order, deadline_s=0.3) for order in orders])
    results = worker.answer(number)
    server.thaw()  # what was asked is done now, and nobody waits for it any more

    assert {result["code"] for result in results} == {"timeout"}
    assert {result["outcome"] for result in results} == {"not_run"}
    assert {result["code"] for result in other.make(orders_of(orders))} == {None}
    assert len(effects.seen("begin")) == 21


@pytest.mark.parametrize("how", ["tasks", "threads"])
def test_a_result_that_a_frozen_server_was_told_past_the_deadline_is_not_lost(server, lasting, effects, start, how):
    worker, other = (start(name, lasting, ONCE).ready() for name in ("a", "other"))
    worker.make(orders_of(["first"]))
    effects.shut("a")
    number = worker.ask([charge("o", deadline_s=1.0)], how=how)
    until(lambda: effects.seen("begin", order="o"), what="the body")

    server.freeze()
    effects.open("a")
    (late,) = worker.answer(number)
    server.kill()
    server.restart()

    assert late["code"] in (None, "timeout")
    (ended,) = effects.seen("end", order="o")
    settled(other, {"o": {ended["token"]}})


@pytest.mark.parametrize("stop", ["halt", "kill"])
def test_a_server_that_restarts_between_calls_is_not_noticed(server, lasting, effects, stop):
    tool = tool_of(effects, "here", **ONCE)
    with executor_for(tool, **lasting) as executor:
        first = executor.execute_sync(made(charge("o")))
        for n in range(3):
            until(lambda: "toolpost-keeper" not in {thread.name for thread in threading.enumerate()}, what="the rest")
            getattr(server, stop)()
            server.restart()
            assert executor.execute_sync(made(charge("o"))).data == first.data
            assert executor.execute_sync(made(charge(f"next-{n}"))).success


# What the other policies do while their store is down.

POLICIES = {
    "Limit.Refuse": {"rate_limit": {"calls": 3, "per_s": 600, "by": "tool"}},
    "Limit.Allow": {"rate_limit": {"calls": 3, "per_s": 600, "by": "tool", "when_down": "allow"}},
    "Place.Refuse": {"concurrency": {"calls": 1, "lease_s": 1.0}},
    "Place.Allow": {"concurrency": {"calls": 1, "lease_s": 1.0, "when_down": "allow"}},
    "Alone.Refuse": {"exclusive": {"by": "order", "lease_s": 1.0}},
    "Alone.Allow": {"exclusive": {"by": "order", "lease_s": 1.0, "when_down": "allow"}},
    "Circuit.Skip": {"breaker": {"failures": 2, "shared": True}},
    "Circuit.Refuse": {"breaker": {"failures": 2, "shared": True, "when_down": "refuse"}},
    "Once.Run": {"idempotency": {"when_down": "run"}},
    "Once.Refuse": {"idempotency": {}},
}


looked = []
"""What the cached tools ran for: a shared cache is for module-level functions only, which mean the same everywhere."""


@Tool(name="Cache.Skip", register=False, cache=Cache(ttl_s=60, per="global"))
def look(order: str) -> str:
    looked.append(("Cache.Skip", order))
    return order


@Tool(name="Cache.Refuse", register=False, cache=Cache(ttl_s=60, per="global", when_down="refuse"))
def look_or_refuse(order: str) -> str:
    looked.append(("Cache.Refuse", order))
    return order


NAMES = [*POLICIES, "Cache.Skip", "Cache.Refuse"]


def policies_executor(effects, redis):
    """An executor of all these tools, with a shared cache that keeps next to nothing for itself."""
    looked.clear()
    tools = [look, look_or_refuse, *(tool_of(effects, "here", name=name, **said) for name, said in POLICIES.items())]
    cache = {"cache_backend": "redis", "cache_front_ttl": 0}
    return executor_for(*tools, state_url=redis.url, **cache)


def codes_of(executor, order="o"):
    """How one call of each tool ends; none beyond its deadline."""
    codes = {}
    for name in NAMES:
        began = time.monotonic()
        failure = executor.execute_sync(made(charge(order, tool=name, deadline_s=DEADLINE_S))).failure
        assert time.monotonic() - began < DEADLINE_S + GRACE_S
        codes[name] = failure and failure.code
    return codes


@pytest.mark.parametrize("fault", ["kill", "freeze"])
def test_each_policy_does_what_it_says_while_redis_is_down_and_acts_again_afterwards(own_redis, effects, fault):
    as_written = {name: "store_unavailable" if name.endswith("Refuse") else None for name in NAMES}
    with policies_executor(effects, own_redis) as executor:
        assert set(codes_of(executor).values()) == {None}
        getattr(own_redis, fault)()
        try:
            while_down = [codes_of(executor, f"down-{n}") for n in range(3)]
        finally:
            own_redis.restart() if fault == "kill" else own_redis.thaw()
        begun = {line["tool"] for line in effects.seen("begin", order="down-2")}
        begun |= {name for name, order in looked if order == "down-2"}

        def recovered():
            codes = codes_of(executor, f"up-{time.monotonic_ns()}")
            return all(code in (None, "rate_limited") for code in codes.values())

        until(recovered, what="the recovery")
        after = [codes_of(executor, "last") for _ in range(4)]

        assert while_down == [as_written] * 3
        assert begun == {name for name, code in as_written.items() if code is None}
        assert after[-1]["Limit.Refuse"] == after[-1]["Limit.Allow"] == "rate_limited"
        assert looked.count(("Cache.Skip", "last")) == looked.count(("Cache.Refuse", "last")) == 1
        assert len(effects.seen("begin", tool="Once.Run", order="last")) == 1


def test_a_thousand_calls_through_every_policy_outlive_a_kill_of_redis(own_redis, effects, chance):
    names = [name for name in NAMES if not name.startswith(("Limit", "Place"))]
    allowed = {None, "store_unavailable", "outcome_unknown", "in_progress", "timeout"}
    calls = [charge(f"o-{chance.randrange(40)}", tool=chance.choice(names), deadline_s=DEADLINE_S) for _ in range(1000)]

    def one(executor, call):
        began = time.monotonic()
        result = executor.execute_sync(made(call))
        return call["tool"], result.failure and result.failure.code, time.monotonic() - began

    with policies_executor(effects, own_redis) as executor, ThreadPoolExecutor(16) as threads:
        ends = [threads.submit(one, executor, call) for call in calls]
        until(lambda: sum(end.done() for end in ends) > 200, what="the load")
        own_redis.kill()
        own_redis.restart()
        ended = [end.result() for end in ends]

    assert max(elapsed_s for _, _, elapsed_s in ended) < DEADLINE_S + GRACE_S
    for name in names:
        codes = {code for tool, code, _ in ended if tool == name}
        # A place that could not be given back is free after its lease, so that even Alone.Allow may wait for one.
        assert codes <= (allowed if name.endswith("Refuse") or name.startswith(("Once", "Alone")) else {None}), name
    assert set(Counter(line["order"] for line in effects.seen("begin", tool="Once.Refuse")).values()) == {1}
