"""Limits that processes share through Redis: never more places or tokens than there are, whoever dies meanwhile."""

import time

import pytest

from tests.faults.fleet import charge, until
from tests.faults.shop import tool_of
from tests.faults.worker import made
from toolpost.testing import executor_for

LEASE_S = 0.6


@pytest.fixture
def redis(redis_url):
    """The settings of executors that share a Redis."""
    return {"state_url": redis_url}


def most_at_once(effects, *, order=None):
    """How many bodies the observer saw at once at most: a body leaves its lines while it has its place."""
    inside = most = 0
    for line in effects.every():
        if line["what"] in ("begin", "end") and order in (None, line["order"]):
            inside += 1 if line["what"] == "begin" else -1
            most = max(most, inside)
    return most


@pytest.mark.parametrize("manner", ["async", "blocking"])
def test_four_processes_are_never_more_than_the_places(redis, effects, start, manner):
    tool = {"manner": manner, "lasts_s": 0.01, "concurrency": {"calls": 3, "wait_s": None, "lease_s": 5.0}}
    workers = [start(f"w{n}", redis, tool).ready() for n in range(4)]

    hows = ["tasks", "threads", "tasks", "threads"]
    asked = [w.ask([charge(f"o-{n}") for n in range(25)], how=how) for w, how in zip(workers, hows, strict=True)]
    results = [result for worker, number in zip(workers, asked, strict=True) for result in worker.answer(number)]

    assert [result["code"] for result in results] == [None] * 100
    assert most_at_once(effects) == 3


def test_four_processes_are_never_two_at_one_resource(redis, effects, start):
    workers = [start(f"w{n}", redis, {"lasts_s": 0.005, "exclusive": {"by": "order"}}).ready() for n in range(4)]
    orders = [f"o-{n}" for n in range(3)]

    asked = [worker.ask([charge(order) for order in orders * 8]) for worker in workers]
    results = [result for worker, number in zip(workers, asked, strict=True) for result in worker.answer(number)]

    assert [result["code"] for result in results] == [None] * 96
    assert [most_at_once(effects, order=order) for order in orders] == [1, 1, 1]
    assert most_at_once(effects) > 1  # different resources do not wait for each other


POLICIES = {
    "concurrency": {"calls": 1, "wait_s": 0.0, "lease_s": LEASE_S},
    "exclusive": {"by": "order", "wait_s": 0.0, "lease_s": LEASE_S},
}


@pytest.mark.parametrize("policy", POLICIES)
def test_the_place_of_a_killed_holder_is_free_after_its_lease_and_not_before(redis, effects, start, policy):
    said = {policy: POLICIES[policy]}
    worker = start("a", redis, said).ready()
    effects.shut("a")
    worker.ask([charge("o")])
    until(lambda: effects.seen("begin", process="a"), what="the body")

    with executor_for(tool_of(effects, "here", **said), **redis) as executor:
        worker.kill()
        killed_at = time.monotonic()
        codes = []

        def had():
            result = executor.execute_sync(made(charge("o")))
            codes.append(result.failure and result.failure.code)
            return result.success

        until(had)

    assert codes[0] == "concurrency_limited"
    assert set(codes[:-1]) == {"concurrency_limited"}
    (ours,) = effects.seen("begin", process="here")
    assert ours["at"] - killed_at > LEASE_S / 3  # it was renewed at a third of its lease at the latest


@pytest.mark.parametrize("policy", POLICIES)
@pytest.mark.parametrize("manner", ["async", "stubborn"])
def test_a_holder_that_stays_for_several_leases_keeps_its_place(redis, effects, start, policy, manner):
    said = {policy: POLICIES[policy]}
    worker = start("a", redis, {**said, "manner": manner}).ready()
    effects.shut("a")
    number = worker.ask([charge("o")])
    (held,) = until(lambda: effects.seen("begin", process="a"), what="the body")

    with executor_for(tool_of(effects, "here", **said), **redis) as executor:

        def three_leases_later():
            assert executor.execute_sync(made(charge("o"))).failure.code == "concurrency_limited"
            return time.monotonic() > held["at"] + 3 * LEASE_S

        until(three_leases_later)
        effects.open("a")
        assert worker.answer(number)[0]["code"] is None
        until(lambda: executor.execute_sync(made(charge("o"))).success)

    assert most_at_once(effects) == 1


def test_four_processes_are_granted_no_more_than_burst_and_rate_allow(redis, effects, start):
    calls, per_s, burst = 100, 10.0, 25
    tool = {"rate_limit": {"calls": calls, "per_s": per_s, "burst": burst, "by": "tool"}}
    workers = [start(f"w{n}", redis, tool).ready() for n in range(4)]
    codes = []

    began = time.monotonic()
    while time.monotonic() < began + 1.5:
        hows = ["tasks", "threads", "tasks", "threads"]
        asked = [worker.ask([charge("o")] * 40, how=how) for worker, how in zip(workers, hows, strict=True)]
        for worker, number in zip(workers, asked, strict=True):
            codes += [result["code"] for result in worker.answer(number)]
    elapsed_s = time.monotonic() - began

    granted = effects.seen("begin")
    assert set(codes) == {None, "rate_limited"}
    assert codes.count(None) == len(granted)
    assert burst <= len(granted) <= burst + calls / per_s * elapsed_s
    assert len({line["process"] for line in granted}) > 1  # who is quickest gets most: nobody is promised a share
