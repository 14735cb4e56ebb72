"""One key, one run: two hundred calls at once from tasks, from threads and from four processes, over every store."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.faults.fleet import charge, until
from tests.faults.shop import tool_of
from tests.faults.worker import made
from toolpost.testing import executor_for

ONCE = {"idempotency": {"key_fields": ("order",)}}


@pytest.fixture(params=["memory", "redis", "sqlite", "postgres"])
def stores(request, tmp_path):
    """The settings of an executor whose claims live in each kind of store."""
    if request.param == "memory":
        return {}
    if request.param == "redis":
        return {"state_url": request.getfixturevalue("redis_url")}
    if request.param == "sqlite":
        return {"records_url": f"sqlite:///{tmp_path}/records.db"}
    return {"records_url": request.getfixturevalue("postgres_url")}


def ran_once(results, effects, calls):
    """Whether all of so many results are of one run, which the observer saw."""
    (begun,) = effects.seen("begin")
    assert len(results) == calls
    assert {result["token"] for result in results} == {begun["token"]}


@pytest.mark.parametrize("manner", ["async", "blocking"])
async def test_two_hundred_tasks_run_the_body_once(stores, effects, manner):
    tool = tool_of(effects, "here", manner=manner, **ONCE)
    with executor_for(tool, **stores) as executor:
        made_calls = [executor.execute_tool_call(made(charge("o"))) for _ in range(200)]
        results = await asyncio.gather(*made_calls)

    ran_once([result.data for result in results], effects, 200)
    assert [result.source for result in results].count("run") == 1


@pytest.mark.parametrize("manner", ["async", "blocking"])
def test_two_hundred_calls_of_threads_run_the_body_once(stores, effects, manner):
    tool = tool_of(effects, "here", manner=manner, **ONCE)
    with executor_for(tool, **stores) as executor, ThreadPoolExecutor(50) as threads:
        results = list(threads.map(lambda _: executor.execute_sync(made(charge("o"))), range(200)))

    ran_once([result.data for result in results], effects, 200)
    assert [result.source for result in results].count("run") == 1


def test_two_hundred_calls_of_four_processes_run_the_body_once(lasting, effects, start):
    workers = [start(f"w{n}", lasting, {**ONCE, "manner": ("async", "blocking")[n % 2]}) for n in range(4)]
    for worker in workers:
        worker.ready()
        effects.shut(worker.name)

    asked = [
        worker.ask([charge("o")] * 50, how=how, at_once=50)
        for worker, how in zip(workers, ["tasks", "threads", "threads", "tasks"], strict=True)
    ]
    until(lambda: effects.seen("begin"), what="the body")
    for worker in workers:
        effects.open(worker.name)
    results = [result for worker, number in zip(workers, asked, strict=True) for result in worker.answer(number)]

    ran_once([result["data"] for result in results], effects, 200)
    assert [result["source"] for result in results].count("run") == 1


def test_two_hundred_keys_of_four_processes_run_their_bodies_once_each(lasting, effects, start):
    workers = [start(f"w{n}", lasting, ONCE).ready() for n in range(4)]
    orders = [f"o-{n}" for n in range(200)]

    asked = [worker.ask([charge(order) for order in orders], at_once=200) for worker in workers]
    results = [worker.answer(number) for worker, number in zip(workers, asked, strict=True)]

    assert sorted(line["order"] for line in effects.seen("begin")) == sorted(orders)
    tokens = [[result["data"]["token"] for result in each] for each in results]
    assert tokens[0] == tokens[1] == tokens[2] == tokens[3]
