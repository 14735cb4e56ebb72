"""Holders that die, freeze or are slow: what the next call gets, whose result counts, and who is left alone."""

import pytest

from tests.faults.fleet import charge, until
from tests.faults.shop import tool_of
from tests.faults.worker import made
from toolpost import Idempotency, Reconciled, Tool, ToolContext
from toolpost.testing import executor_for

LEASE_S = 0.6
ONCE = {"key_fields": ("order",), "lease_s": LEASE_S}

# The tools that one killed holder ran: name -> what its author said about an unknown end.
SAFE = {
    "Pay.Rerun": {"idempotency": {**ONCE, "rerun_unknown": True}},
    "Pay.Put": {"idempotency": ONCE, "hints": {"idempotent": True}},
    "Pay.Look": {"idempotency": ONCE, "hints": {"read_only": True}},
}
FOUND = {"order": "o", "token": "found upstream", "process": "upstream"}


def key_of(effects, tool):
    """The key under which the observer saw the body run."""
    return effects.seen("begin", tool=tool)[0]["key"]


def held(worker, effects, *tools):
    """Have a worker run these tools until each body waits at the shut gate; the number of the answer."""
    effects.shut(worker.name)
    number = worker.ask([charge("o", tool=tool) for tool in tools])
    until(lambda: len(effects.seen("begin", process=worker.name)) == len(tools), what="the bodies")
    return number


def reconciling(effects, name, answer):
    """A tool with a reconcile hook that answers so, and leaves a line for the observer."""

    async def reconcile(key, arguments, ctx):
        effects.note("reconcile", tool=name, key=key, order=arguments["order"])
        return answer

    @Tool(name=name, register=False, timeout_seconds=40, idempotency=Idempotency(**ONCE, reconcile=reconcile))
    async def body(order: str, ctx: ToolContext) -> dict:
        effects.note("begin", tool=name, order=order, process="here", token="again", key=ctx.idempotency_key)
        return {"order": order, "token": "again", "process": "here"}

    return body


def test_after_a_kill_the_next_call_is_refused_while_nobody_knows(lasting, effects, start):
    worker = start("a", lasting, {"idempotency": ONCE}).ready()
    held(worker, effects, "Pay.Charge")
    worker.kill()

    waits = tool_of(effects, "here", idempotency=ONCE)
    with executor_for(waits, **lasting) as executor:
        results = [executor.execute_sync(made(charge("o"))) for _ in range(2)]
        (claim,) = executor.claims().unsettled()

    assert [result.failure.code for result in results] == ["outcome_unknown"] * 2
    assert [result.failure.outcome for result in results] == ["not_run"] * 2
    assert (claim.key, claim.state, claim.tool) == (key_of(effects, "Pay.Charge"), "unknown", "Pay.Charge")
    assert len(effects.seen("begin")) == 1


def test_after_a_kill_a_call_that_does_not_wait_is_told_first_in_progress_and_then_unknown(lasting, effects, start):
    worker = start("a", lasting, {"idempotency": ONCE}).ready()
    held(worker, effects, "Pay.Charge")
    codes = []

    impatient = tool_of(effects, "here", idempotency={**ONCE, "in_flight": "refuse"})
    with executor_for(impatient, **lasting) as executor:

        def refusal():
            code = executor.execute_sync(made(charge("o"))).failure.code
            if code not in codes:
                codes.append(code)
            return code

        assert refusal() == "in_progress"
        worker.kill()
        until(lambda: refusal() == "outcome_unknown")

    assert codes == ["in_progress", "outcome_unknown"]
    assert len(effects.seen("begin")) == 1


def test_after_a_kill_the_body_runs_again_where_that_is_safe(lasting, effects, start):
    worker = start("a", lasting, *({"name": name, **said} for name, said in SAFE.items())).ready()
    held(worker, effects, *SAFE)

    with executor_for(*(tool_of(effects, "here", name=name, **said) for name, said in SAFE.items()), **lasting) as now:
        before = {name: now.claims().show(key_of(effects, name)) for name in SAFE}
        worker.kill()
        results = {name: now.execute_sync(made(charge("o", tool=name))) for name in SAFE}
        again = {name: now.execute_sync(made(charge("o", tool=name))) for name in SAFE}
        after = {name: now.claims().show(key_of(effects, name)) for name in SAFE}

    for name in SAFE:
        assert [line["process"] for line in effects.seen("begin", tool=name)] == ["a", "here"]
        assert (results[name].source, again[name].source) == ("run", "replay")
        assert results[name].data == again[name].data
        assert (before[name].state, after[name].state) == ("in_flight", "done")
        assert after[name].fence > before[name].fence


@pytest.mark.parametrize("answer", ["a result", Reconciled.NOT_RUN, Reconciled.UNKNOWN])
def test_after_a_kill_the_reconcile_hook_decides(lasting, effects, start, answer):
    worker = start("a", lasting, {"idempotency": ONCE}).ready()
    held(worker, effects, "Pay.Charge")
    worker.kill()

    hook = reconciling(effects, "Pay.Charge", FOUND if answer == "a result" else answer)
    with executor_for(hook, **lasting) as executor:
        first = executor.execute_sync(made(charge("o")))
        second = executor.execute_sync(made(charge("o")))

    asked = effects.seen("reconcile", key=key_of(effects, "Pay.Charge"), order="o")
    ran = [line["process"] for line in effects.seen("begin")]
    if answer is Reconciled.UNKNOWN:
        assert (first.failure.code, second.failure.code) == ("outcome_unknown",) * 2
        assert (len(asked), ran) == (2, ["a"])
    elif answer is Reconciled.NOT_RUN:
        assert (first.source, second.source, first.data["token"], second.data) == ("run", "replay", "again", first.data)
        assert (len(asked), ran) == (1, ["a", "here"])
    else:
        assert (first.source, second.source, first.data, second.data) == ("replay", "replay", FOUND, FOUND)
        assert (len(asked), ran) == (1, ["a"])


@pytest.mark.parametrize(("manner", "how"), [("async", "tasks"), ("blocking", "threads"), ("blocking", "tasks")])
def test_a_frozen_holder_that_was_taken_over_cannot_finish(lasting, effects, start, manner, how):
    safe = {"idempotency": {**ONCE, "rerun_unknown": True}}
    zombie = start("zombie", lasting, {**safe, "manner": manner}).ready()
    effects.shut("zombie")
    number = zombie.ask([charge("o")], how=how)
    until(lambda: effects.seen("begin", process="zombie"), what="the body")
    zombie.stop()

    with executor_for(tool_of(effects, "here", **safe), **lasting) as executor:
        taken = executor.execute_sync(made(charge("o")))
        effects.open("zombie")
        zombie.go_on()
        (late,) = zombie.answer(number)
        kept = executor.execute_sync(made(charge("o")))

    assert (taken.source, taken.data["process"]) == ("run", "here")
    assert (late["code"], late["data"]) == ("claim_lost", None)
    assert (kept.source, kept.data) == ("replay", taken.data)
    assert [line["process"] for line in effects.seen("begin")] == ["zombie", "here"]
    assert zombie.make([charge("o")])[0]["data"] == taken.data


def test_a_holder_that_comes_back_while_its_taker_runs_is_stopped_and_the_taker_goes_on(lasting, effects, start):
    safe = {"idempotency": {**ONCE, "rerun_unknown": True}}
    zombie, taker = (start(name, lasting, safe).ready() for name in ("zombie", "taker"))
    late = held(zombie, effects, "Pay.Charge")
    zombie.stop()
    taken = held(taker, effects, "Pay.Charge")

    zombie.go_on()  # its own gate stays shut: what ends its body is the loss of its claim
    (lost,) = zombie.answer(late)
    effects.open("taker")
    (won,) = taker.answer(taken)

    assert (lost["code"], lost["outcome"]) == ("claim_lost", "stopped")
    assert (won["code"], won["source"]) == (None, "run")
    assert not effects.seen("end", process="zombie")
    assert zombie.make([charge("o")])[0]["data"] == won["data"]


def test_what_a_holder_says_that_was_taken_over_changes_nothing_while_its_taker_runs(lasting, effects, start):
    safe = {"idempotency": {**ONCE, "rerun_unknown": True}}
    zombie = start("zombie", lasting, {**safe, "manner": "blocking"}).ready()  # a thread cannot be stopped: it finishes
    taker = start("taker", lasting, safe).ready()
    late = held(zombie, effects, "Pay.Charge")
    zombie.stop()
    taken = held(taker, effects, "Pay.Charge")

    with executor_for(tool_of(effects, "here", **safe), **lasting) as executor:
        before = executor.claims().show(key_of(effects, "Pay.Charge"))
        effects.open("zombie")
        zombie.go_on()
        (lost,) = zombie.answer(late)
        after = executor.claims().show(key_of(effects, "Pay.Charge"))
    effects.open("taker")
    (won,) = taker.answer(taken)

    assert (lost["code"], lost["data"]) == ("claim_lost", None)
    assert (before.state, after.state, after.fence) == ("in_flight", "in_flight", before.fence)
    assert (won["code"], won["data"]["process"]) == (None, "taker")
    assert zombie.make([charge("o")])[0]["data"] == won["data"]


@pytest.mark.parametrize("manner", ["async", "blocking", "stubborn"])
def test_a_holder_that_runs_for_several_leases_is_not_taken_over(lasting, effects, start, manner):
    safe = {"idempotency": {**ONCE, "rerun_unknown": True}}
    slow = start("slow", lasting, {**safe, "manner": manner}).ready()
    number = held(slow, effects, "Pay.Charge")
    renewals, left_s = 0, 0.0

    impatient = tool_of(effects, "here", idempotency={**safe["idempotency"], "in_flight": "refuse"})
    with executor_for(impatient, **lasting) as executor:

        def renewed_often():
            nonlocal renewals, left_s
            claim = executor.claims().show(key_of(effects, "Pay.Charge"))
            renewals += claim.left_s > left_s
            left_s = claim.left_s
            assert executor.execute_sync(made(charge("o"))).failure.code == "in_progress"
            return renewals > 9  # each a third of a lease after the one before

        until(renewed_often)
    effects.open("slow")
    (result,) = slow.answer(number)

    assert (result["code"], result["source"], result["data"]["process"]) == (None, "run", "slow")
    assert len(effects.seen("begin")) == 1


def test_a_short_lease_is_kept_beside_a_long_one(lasting, effects, start):
    quick = {"name": "Pay.Quick", "idempotency": {"lease_s": 0.4, "rerun_unknown": True}}
    calm = {"name": "Pay.Calm", "idempotency": {"lease_s": 30.0}}
    worker = start("a", lasting, quick, calm).ready()
    effects.shut("a")
    numbers = [worker.ask([charge("o", tool="Pay.Calm")])]
    until(lambda: effects.seen("begin", tool="Pay.Calm"))

    with executor_for(tool_of(effects, "here", **quick), **lasting) as executor:
        for n in range(6):  # each comes at another moment of the keeper's rounds
            numbers.append(worker.ask([charge(f"o-{n}", tool="Pay.Quick")]))
            until(lambda n=n: effects.seen("begin", order=f"o-{n}"))
            key = effects.seen("begin", order=f"o-{n}")[0]["key"]
            fresh = executor.claims().show(key)

            def renewed(key=key, fresh=fresh):
                claim = executor.claims().show(key)
                assert claim.state == "in_flight"
                return claim.left_s > fresh.left_s

            until(renewed, what="a renewal")
        assert not effects.seen("begin", process="here")
    effects.open("a")

    assert [result["code"] for number in numbers for result in worker.answer(number)] == [None] * 7


@pytest.mark.parametrize("how", ["tasks", "threads"])
def test_a_call_that_ends_while_its_lease_is_renewed_is_not_taken_for_lost(lasting, effects, start, how):
    worker = start("a", lasting, {"idempotency": {"lease_s": 0.02}}).ready()  # so it is renewed all the time

    results = worker.make([charge(f"o-{n}") for n in range(1500)], at_once=50, how=how)

    assert {result["code"] for result in results} == {None}
